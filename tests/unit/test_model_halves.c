/* test_model_halves.c - models for inference whose weights are held in BF16: half the memory, the
 * same results to the byte, and no other use. */
#include "arch_sample.h"
#include "checkpoint_fixture.h"
#include "far_backend.h"

#include "pare/train.h"

#include "base/half.h"
#include "model/node.h"

static pare_backend *backend(bool far)
{
    pare_backend *be = NULL;
    if (far)
        return far_backend_make(1);
    assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 1}, &be));
    return be;
}

/* The checkpoint in a model of its kind that computes in BF16. */
static arch_run load(const arch_sample *s, const char *path, bool far, bool halves)
{
    arch_run r = {.be = backend(far)};
    pare_store *store = NULL;
    assert_ok(
        pare_model_create(&(pare_model_options){.arch = s->arch, .config = s->config}, &r.model));
    arch_run_batch(&r, PARE_BF16);
    r.shape.training = false;
    r.shape.halves = halves;
    assert_ok(pare_store_open(path, &store));
    assert_ok(pare_model_prepare(r.model, r.be, &r.shape));
    assert_ok(pare_model_load(r.model, store, false));
    pare_store_close(&store);
    return r;
}

/* The output; of tokens their logits. Freed by the caller. */
static void *forward(const arch_run *r, size_t *bytes)
{
    assert_ok(pare_model_forward(r->model, &r->batch, false, NULL));
    const pare_model_facts *facts = pare_model_facts_of(r->model);
    int64_t rows = pare_logits_rows(facts, &r->batch), size = rows * facts->classes * 4;
    bool tokens = facts->output == PARE_OUTPUT_TOKENS;
    pare_tensor logits = pare_model_output(r->model);
    float *room = NULL;
    if (tokens) {
        assert_ok(pare_backend_alloc(r->be, size, &room));
        assert_ok(pare_logits_of(r->model, r->be, 0, rows, NULL, room, &logits));
    }
    void *copy = arch_copy(r->be, logits, bytes);
    pare_backend_release(r->be, room, size);
    return copy;
}

static int set_up(void **state)
{
    *state = test_folder_make();
    return 0;
}

static int tear_down(void **state)
{
    test_folder_remove(*state);
    return 0;
}

static const char *checkpoint(void **state, const arch_sample *s)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/model.h5", (char *)*state);
    (void)remove(path);
    fixture_checkpoint(&(checkpoint_fixture){.arch = s->arch, .config = s->config, .seed = 5},
                       path);
    return path;
}

static void every_architecture_gives_the_same_bytes(void **state)
{
    for (const arch_sample *s = arch_samples; s->name; s++) {
        const char *path = checkpoint(state, s);
        for (int far = 0; far < 2; far++) {
            arch_run whole = load(s, path, far, false), half = load(s, path, far, true);
            size_t bytes, again;
            void *x = forward(&whole, &bytes), *y = forward(&half, &again);
            assert_int_equal(bytes, again);
            if (memcmp(x, y, bytes) != 0)
                fail_msg("%s: held in BF16 it gives something else", s->name);
            free(x);
            free(y);
            arch_run_free(&half);
            arch_run_free(&whole);
        }
    }
}

/* What is held, what was foreseen, and values that are the F32 ones rounded. */
static void weights_take_half_the_memory(void **state)
{
    for (const arch_sample *s = arch_samples; s->name; s++) {
        const char *path = checkpoint(state, s);
        arch_run whole = load(s, path, false, false), half = load(s, path, false, true);
        pare_model_memory foreseen;
        pare_model *fresh = NULL;
        int64_t saved = 0, products = 0;
        assert_ok(
            pare_model_create(&(pare_model_options){.arch = s->arch, .config = s->config}, &fresh));
        assert_ok(pare_model_predict(fresh, &half.shape, &foreseen));
        assert_int_equal(foreseen.params, half.model->values_bytes);
        for (int64_t i = 0; i < pare_model_param_count(half.model); i++) {
            const pare_param *p = pare_model_param(half.model, i);
            int64_t n = pare_tensor_count(&p->value);
            bool product = p->role == PARE_ROLE_LINEAR || p->role == PARE_ROLE_HEAD;
            if (product && p->value.rank == 2)
                assert_true(p->value.dtype == PARE_BF16);
            products += product && p->value.rank == 2;
            assert_true(p->value.dtype == PARE_F32 || p->value.rank >= 2);
            saved += p->value.dtype == PARE_BF16 ? n * 2 : 0;
            size_t bytes;
            const pare_param *from = pare_model_param(whole.model, i);
            float *x = arch_copy(whole.be, from->value, &bytes);
            for (int64_t k = 0; k < n && p->value.dtype == PARE_BF16; k++)
                assert_int_equal(((const uint16_t *)p->value.data)[k], pare__f32_to_bf16(x[k]));
            free(x);
        }
        assert_true(products > 0 && saved > 0);
        int64_t least = whole.model->values_bytes - saved - 64 * pare_model_param_count(fresh);
        assert_in_range(half.model->values_bytes, least,
                        whole.model->values_bytes - saved + 64 * pare_model_param_count(fresh));
        pare_model_free(&fresh);
        arch_run_free(&half);
        arch_run_free(&whole);
    }
}

static void they_are_for_inference_in_bf16_alone(void **state)
{
    const arch_sample *s = &arch_samples[0];
    arch_run r = load(s, checkpoint(state, s), false, true);
    pare_model_shape shape = r.shape;
    size_t bytes, again;
    void *before = forward(&r, &bytes);
    shape.training = true;
    assert_status(pare_model_prepare(r.model, r.be, &shape), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "is held in BF16"));
    shape.training = false;
    shape.compute = PARE_F32;
    assert_status(pare_model_prepare(r.model, r.be, &shape), PARE_ERR_ARGUMENT);
    assert_status(pare_model_init(r.model, 1), PARE_ERR_ARGUMENT);
    for (int64_t i = 0; i < pare_model_param_count(r.model); i++)
        if (pare_model_param(r.model, i)->value.dtype == PARE_BF16)
            assert_status(pare_model_mask(r.model, i), PARE_ERR_ARGUMENT);
    shape.compute = PARE_BF16;
    shape.halves = false; /* the first prepare has decided */
    shape.batch += 1;
    assert_ok(pare_model_prepare(r.model, r.be, &shape));
    void *after = forward(&r, &again);
    assert_int_equal(bytes, again);
    assert_memory_equal(before, after, bytes);
    free(before);
    free(after);
    arch_run_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_architecture_gives_the_same_bytes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(weights_take_half_the_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(they_are_for_inference_in_bf16_alone, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
