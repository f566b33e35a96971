/* test_arch.c - which tensors are left alone, and why. */
#include "test.h"

#include "pare/model.h"

static pare_role role(const char *config, const char *name, int rank, pare_dtype dtype)
{
    const char *reason = NULL;
    pare_entry e = {.name = name, .dtype = dtype, .rank = rank, .shape = {8, 8, 3, 3}};
    pare_role r = pare_entry_role(config, &e, &reason);
    assert_non_null(reason);
    return r;
}

static void a_plain_state_dict_goes_by_rank_and_the_fields_names(void **unused)
{
    (void)unused;
    assert_int_equal(role(NULL, "layer1.0.conv1.weight", 4, PARE_F32), PARE_ROLE_CONV);
    assert_int_equal(role(NULL, "linear.weight", 2, PARE_F32), PARE_ROLE_LINEAR);
    assert_int_equal(role(NULL, "linear.bias", 1, PARE_F32), PARE_ROLE_BIAS);
    assert_int_equal(role(NULL, "bn1.weight", 1, PARE_F32), PARE_ROLE_BIAS);
    assert_int_equal(role(NULL, "patch_embed.proj.weight", 4, PARE_F32), PARE_ROLE_EMBEDDING);
    assert_int_equal(role(NULL, "model.fc.weight", 2, PARE_F32), PARE_ROLE_HEAD);
    assert_int_equal(role(NULL, "classifier.weight", 2, PARE_F32), PARE_ROLE_HEAD);
    assert_int_equal(role(NULL, "table", 2, PARE_I64), PARE_ROLE_OTHER);
}

static void known_architectures_go_by_their_tables(void **unused)
{
    (void)unused;
    const char *llama = "{\"model_type\": \"qwen2\"}", *bert = "{\"model_type\": \"bert\"}";
    assert_string_equal(pare_known_architecture(llama), "qwen2");
    assert_null(pare_known_architecture("{\"model_type\": \"mamba\"}"));
    assert_null(pare_known_architecture("not json"));
    assert_null(pare_known_architecture(NULL));
    assert_int_equal(role(llama, "model.layers.0.mlp.up_proj.weight", 2, PARE_BF16),
                     PARE_ROLE_LINEAR);
    assert_int_equal(role(llama, "model.embed_tokens.weight", 2, PARE_BF16), PARE_ROLE_EMBEDDING);
    assert_int_equal(role(llama, "lm_head.weight", 2, PARE_BF16), PARE_ROLE_HEAD);
    assert_int_equal(role(llama, "model.layers.3.self_attn.q_norm.weight", 1, PARE_F16),
                     PARE_ROLE_NORM);
    assert_int_equal(role(bert, "bert.embeddings.LayerNorm.weight", 1, PARE_F32), PARE_ROLE_NORM);
    assert_int_equal(role(bert, "embeddings.word_embeddings.weight", 2, PARE_F32),
                     PARE_ROLE_EMBEDDING);
    assert_int_equal(role(bert, "encoder.layer.0.output.dense.weight", 2, PARE_F32),
                     PARE_ROLE_LINEAR);
    assert_int_equal(role(bert, "classifier.weight", 2, PARE_F32), PARE_ROLE_HEAD);
    assert_int_equal(role("{\"model_type\": \"gpt2\"}", "h.0.attn.c_attn.weight", 2, PARE_F32),
                     PARE_ROLE_OTHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_state_dict_goes_by_rank_and_the_fields_names),
        cmocka_unit_test(known_architectures_go_by_their_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
