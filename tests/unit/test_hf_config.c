/* test_hf_config.c - quantization_config: what is written for which entries, and what it says about
 * a module. */
#include "test.h"

#include "store/store_impl.h"

/* ---- reading --------------------------------------------------------------------------------- */

/* What a quantization_config's text says about a module, as a scheme's spelling. */
static pare_status scheme_in(const char *quantization, const char *module, char text[32])
{
    pare__json *root;
    pare_scheme scheme;
    char whole[8192];
    snprintf(whole, sizeof whole, "{\"quantization_config\":%s}", quantization);
    assert_ok(pare__json_parse(whole, strlen(whole), "test", &root));
    pare_status status = pare__hf_config_scheme(root, module, &scheme);
    if (status == PARE_OK)
        pare_scheme_text(&scheme, text, 32);
    pare__json_free(&root);
    return status;
}

static void says(const char *quantization, const char *module, const char *want)
{
    char text[32] = "";
    assert_ok(scheme_in(quantization, module, text));
    if (strcmp(text, want) != 0)
        fail_msg("%s: %s instead of %s", module, text, want);
}

static void refuses(const char *quantization, pare_status want)
{
    char text[32];
    assert_status(scheme_in(quantization, "m", text), want);
}

#define CT "{\"quant_method\":\"compressed-tensors\","
#define GROUP(targets, arguments)                                                                  \
    "{\"targets\":[" targets "],\"weights\":{" arguments "},\"input_activations\":null}"

static void no_config_means_no_scheme(void **state)
{
    (void)state;
    pare_scheme scheme;
    assert_ok(pare__hf_config_scheme(NULL, "m", &scheme));
    assert_int_equal(scheme.type, PARE_QUANT_NONE);
    says("null", "m", "none");
    says(CT "\"config_groups\":{}}", "m", "none");
}

static void names_go_before_patterns_and_patterns_before_classes(void **state)
{
    (void)state;
    static const char config[] =
        CT "\"ignore\":[\"lm_head\",\"re:.*gate$\"],\"config_groups\":{"
           "\"a\":" GROUP("\"Linear\"",
                          "\"num_bits\":8,\"strategy\":\"channel\"") ","
                                                                     "\"b\":" GROUP(
                                                                         "\"re:model\\\\."
                                                                         "layers\\\\.\\\\d+\\\\.(k|"
                                                                         "v)_proj\"",
                                                                         "\"num_bits\":3,\"group_"
                                                                         "size\":32") ","
                                                                                      "\"c\""
                                                                                      ":" GROUP(
                                                                                          "\"model."
                                                                                          "layers."
                                                                                          "1.k_"
                                                                                          "proj\"",
                                                                                          "\"num_"
                                                                                          "bits\":"
                                                                                          "2,"
                                                                                          "\"group_"
                                                                                          "size\":-"
                                                                                          "1") "}}";
    says(config, "model.layers.0.q_proj", "w8");
    says(config, "model.layers.0.k_proj", "w3g32");
    says(config, "model.layers.17.v_proj", "w3g32");
    says(config, "model.layers.x.v_proj", "w8");
    says(config, "model.layers.1.k_proj", "w2");
    says(config, "lm_head", "none");
    says(config, "model.layers.0.mlp.gate", "none");
    says(config, "model.layers.0.mlp.gate_proj", "w8");
}

static void targets_that_cannot_be_read_are_refused(void **state)
{
    (void)state;
    refuses(CT "\"config_groups\":{\"g\":" GROUP("\"re:(?!x).*\"", "") "}}", PARE_ERR_UNSUPPORTED);
    refuses(CT "\"config_groups\":{\"g\":" GROUP("1", "") "}}", PARE_ERR_DAMAGED);
}

#define ONE(arguments) CT "\"config_groups\":{\"g\":" GROUP("\"m\"", arguments) "}}"

static void arguments_become_schemes(void **state)
{
    (void)state;
    says(ONE("\"num_bits\":4,\"strategy\":\"group\",\"group_size\":128"), "m", "w4g128");
    says(ONE("\"num_bits\":4,\"strategy\":\"group\",\"group_size\":128,\"symmetric\":false"), "m",
         "w4g128z");
    says(ONE("\"num_bits\":5,\"type\":\"int\",\"strategy\":\"tensor\""), "m", "w5t");
    says(ONE("\"num_bits\":8,\"strategy\":\"block\",\"block_structure\":[128,64]"), "m",
         "w8b128x64");
    says(ONE("\"num_bits\":8,\"strategy\":\"block\",\"block_structure\":\"16x32\""), "m",
         "w8b16x32");
    says(ONE("\"type\":\"float\",\"strategy\":\"channel\""), "m", "fp8");
    says(ONE("\"type\":\"float\",\"strategy\":\"tensor\""), "m", "fp8t");
    says(CT "\"config_groups\":{\"g\":{\"targets\":[\"m\"],\"weights\":{\"strategy\":\"channel\"},"
            "\"input_activations\":{\"num_bits\":8,\"dynamic\":true,\"strategy\":\"token\"}}}}",
         "m", "w8a8");
    says(CT "\"config_groups\":{\"g\":{\"targets\":[\"m\"],\"weights\":null}}}", "m", "none");
    says(
        "{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true,\"bnb_4bit_quant_type\":\"nf4\"}",
        "m", "nf4");
}

static void what_this_version_cannot_read_is_refused(void **state)
{
    (void)state;
    refuses("{\"quant_method\":\"gptq\",\"bits\":4}", PARE_ERR_UNSUPPORTED);
    assert_non_null(strstr(pare_last_error(), "gptq"));
    refuses("{\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":true}", PARE_ERR_UNSUPPORTED);
    refuses(ONE("\"num_bits\":4,\"type\":\"float\""), PARE_ERR_UNSUPPORTED);
    refuses(ONE("\"num_bits\":9"), PARE_ERR_UNSUPPORTED);
    refuses(ONE("\"num_bits\":1"), PARE_ERR_UNSUPPORTED);
    refuses(ONE("\"strategy\":\"tensor_group\",\"group_size\":16"), PARE_ERR_UNSUPPORTED);
    refuses(ONE("\"strategy\":\"group\",\"group_size\":0"), PARE_ERR_DAMAGED);
    refuses(ONE("\"strategy\":\"block\""), PARE_ERR_DAMAGED);
    refuses(ONE("\"strategy\":\"block\",\"block_structure\":[0,4]"), PARE_ERR_DAMAGED);
    refuses(CT "\"format\":\"mxfp8-quantized\",\"config_groups\":{\"g\":" GROUP("\"m\"", "") "}}",
            PARE_ERR_UNSUPPORTED);
    refuses(CT "\"config_groups\":{\"g\":{\"targets\":[\"m\"],\"weights\":{},"
               "\"input_activations\":{\"num_bits\":4}}}}",
            PARE_ERR_UNSUPPORTED);
}

/* ---- writing --------------------------------------------------------------------------------- */

static pare__slot slot(const char *name, const char *scheme, int rank)
{
    pare__slot s = {
        .entry = {.name = name, .dtype = PARE_BF16, .rank = rank, .shape = {64, 64, 3, 3}}};
    if (scheme && strcmp(scheme, "sparse") == 0) {
        s.entry.form = PARE_FORM_SPARSE;
        s.entry.nonzeros = 1024;
    } else if (scheme) {
        s.entry.form = PARE_FORM_QUANT;
        assert_ok(pare_scheme_parse(scheme, &s.entry.scheme));
    }
    assert_ok(pare__entry_complete(&s.entry));
    assert_ok(pare__codec_for(&s.entry, "", &s.codec));
    return s;
}

static void writes(const pare__slot *slots, size_t count, const char *want)
{
    char *config, *quantization;
    assert_ok(pare__hf_config_write(NULL, slots, count, &config, &quantization));
    assert_null(config);
    assert_string_equal(quantization, want);
    free(quantization);
}

#define TAIL                                                                                       \
    "\"kv_cache_scheme\":null,\"quant_method\":\"compressed-tensors\","                            \
    "\"quantization_status\":\"compressed\","

static void one_scheme_targets_linear_and_ignores_the_rest(void **state)
{
    (void)state;
    const pare__slot slots[] = {slot("lm_head.weight", NULL, 2), slot("model.a.bias", NULL, 1),
                                slot("model.a.weight", "w4g32z", 2),
                                slot("model.b.weight", "w4g32z", 2),
                                slot("model.norm.weight", NULL, 1)};
    writes(
        slots, 5,
        "{\"config_groups\":{\"group_0\":{\"format\":\"pack-quantized\",\"input_activations\":null,"
        "\"output_activations\":null,\"targets\":[\"Linear\"],\"weights\":{\"dynamic\":false,"
        "\"group_size\":32,\"num_bits\":4,\"strategy\":\"group\",\"symmetric\":false,"
        "\"type\":\"int\"}}},\"format\":\"pack-quantized\",\"global_compression_ratio\":null,"
        "\"ignore\":[\"lm_head\"]," TAIL "\"version\":\"0.20.0\"}");
}

/* An lm_head without a tensor of its own is tied to the embedding: engines make a Linear for it all
 * the same. */
static void several_schemes_name_their_modules(void **state)
{
    (void)state;
    const pare__slot slots[] = {slot("a.weight", "w8a8", 2), slot("b.weight", "fp8", 2),
                                slot("c.weight", "w8a8", 2)};
    writes(slots, 3,
           "{\"config_groups\":{\"group_0\":{\"format\":\"int-quantized\",\"input_activations\":{"
           "\"dynamic\":true,\"group_size\":null,\"num_bits\":8,\"strategy\":\"token\","
           "\"symmetric\":true,\"type\":\"int\"},\"output_activations\":null,"
           "\"targets\":[\"a\",\"c\"],\"weights\":{\"dynamic\":false,\"group_size\":null,"
           "\"num_bits\":8,\"strategy\":\"channel\",\"symmetric\":true,\"type\":\"int\"}},"
           "\"group_1\":{\"format\":\"float-quantized\",\"input_activations\":null,"
           "\"output_activations\":null,\"targets\":[\"b\"],\"weights\":{\"dynamic\":false,"
           "\"group_size\":null,\"num_bits\":8,\"strategy\":\"channel\",\"symmetric\":true,"
           "\"type\":\"float\"}}},\"format\":\"mixed-precision\","
           "\"global_compression_ratio\":null,\"ignore\":[\"lm_head\"]," TAIL
           "\"version\":\"0.20.0\"}");
}

static void quantised_embeddings_are_named_beside_linear(void **state)
{
    (void)state;
    const pare__slot slots[] = {slot("a.weight", "w8", 2), slot("embed_tokens.weight", "w8", 2)};
    char *config, *quantization;
    assert_ok(pare__hf_config_write(NULL, slots, 2, &config, &quantization));
    assert_non_null(strstr(quantization, "\"targets\":[\"Linear\",\"embed_tokens\"]"));
    free(quantization);
}

static void nf4_is_bitsandbytes_alone(void **state)
{
    (void)state;
    const pare__slot slots[] = {slot("a.weight", "nf4", 2), slot("b.weight", NULL, 2),
                                slot("c.weight", "w4", 2)};
    writes(slots, 2,
           "{\"bnb_4bit_compute_dtype\":\"bfloat16\",\"bnb_4bit_quant_storage\":\"uint8\","
           "\"bnb_4bit_quant_type\":\"nf4\",\"bnb_4bit_use_double_quant\":false,"
           "\"llm_int8_skip_modules\":[\"b\",\"lm_head\"],\"load_in_4bit\":true,\"load_in_8bit\":"
           "false,"
           "\"quant_method\":\"bitsandbytes\"}");
    char *config, *quantization;
    const pare__slot nested[] = {slot("a.weight", "nf4d", 2), slot("b.weight", "nf4", 2)};
    assert_ok(pare__hf_config_write(NULL, nested, 2, &config, &quantization));
    assert_non_null(strstr(quantization, "\"bnb_4bit_use_double_quant\":true"));
    free(quantization);
    assert_status(pare__hf_config_write(NULL, slots, 3, &config, &quantization), PARE_ERR_ARGUMENT);
    assert_null(quantization);
}

static void sparsity_is_written_only_where_there_is_some(void **state)
{
    (void)state;
    const pare__slot slots[] = {slot("a.weight", "sparse", 2), slot("b.weight", NULL, 2)};
    writes(slots, 2,
           "{\"config_groups\":{},\"format\":\"dense\",\"global_compression_ratio\":null,"
           "\"ignore\":[]," TAIL
           "\"sparsity_config\":{\"format\":\"sparse-bitmask\",\"global_sparsity\":0.75,"
           "\"ignore\":[\"b\",\"lm_head\"],\"sparsity_structure\":\"unstructured\",\"targets\":["
           "\"a\"]},"
           "\"version\":\"0.20.0\"}");
}

static void config_changes(const char *config, const pare__slot *slots, size_t count,
                           const char *want)
{
    char *out, *quantization;
    assert_ok(pare__hf_config_write(config, slots, count, &out, &quantization));
    assert_string_equal(out, want);
    free(out), free(quantization);
}

static void a_config_changes_only_where_it_must(void **state)
{
    (void)state;
    static const char plain[] = "{ \"b\":1.50,\n\"a\" : [ ] }";
    const pare__slot dense[] = {slot("a.weight", NULL, 2)};
    config_changes(plain, dense, 1, plain);
    config_changes("{\"b\":1,\"quantization_config\":{\"bits\":4},\"a\":0.5}", dense, 1,
                   "{\n  \"a\": 0.5,\n  \"b\": 1\n}\n");
    static const char nested[] = "{\"x\":{\"quantization_config\":1}}";
    config_changes(nested, NULL, 0, nested);
    const pare__slot quantised[] = {slot("a.weight", "w4", 2)};
    char *out, *quantization;
    assert_ok(pare__hf_config_write("{\"z\":1,\"quantization_config\":{\"old\":1}}", quantised, 1,
                                    &out, &quantization));
    assert_null(strstr(out, "old"));
    assert_non_null(strstr(out, "  \"quantization_config\": {\n    \"config_groups\": {"));
    free(out), free(quantization);
    assert_status(pare__hf_config_write("[\"quantization_config\"]", NULL, 0, &out, &quantization),
                  PARE_ERR_DAMAGED);
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    static const char *const schemes[] = {"w2",  "w3g32z", "w4t",   "w5b16x32", "w8a8",   "w8a8s",
                                          "fp8", "fp8t",   "fp8a8", "w4g128a8", "w6b8x8z"};
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        const pare__slot slots[] = {slot("a.weight", schemes[i], 2), slot("b.weight", NULL, 2),
                                    slot("c.weight", i % 2 ? "w7" : schemes[i], 2)};
        char *config, *quantization;
        assert_ok(pare__hf_config_write(NULL, slots, 3, &config, &quantization));
        says(quantization, "a", schemes[i]);
        says(quantization, "b", "none");
        says(quantization, "c", i % 2 ? "w7" : schemes[i]);
        free(quantization);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_config_means_no_scheme),
        cmocka_unit_test(names_go_before_patterns_and_patterns_before_classes),
        cmocka_unit_test(targets_that_cannot_be_read_are_refused),
        cmocka_unit_test(arguments_become_schemes),
        cmocka_unit_test(what_this_version_cannot_read_is_refused),
        cmocka_unit_test(one_scheme_targets_linear_and_ignores_the_rest),
        cmocka_unit_test(several_schemes_name_their_modules),
        cmocka_unit_test(quantised_embeddings_are_named_beside_linear),
        cmocka_unit_test(nf4_is_bitsandbytes_alone),
        cmocka_unit_test(sparsity_is_written_only_where_there_is_some),
        cmocka_unit_test(a_config_changes_only_where_it_must),
        cmocka_unit_test(what_is_written_reads_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
