/* test_model_load.c - checkpoints into models and back, what does not fit, fresh values. */
#include "store_case.h"
#include "test.h"

#include "base/half.h"
#include "pare/model.h"

#include <math.h>

typedef struct fixture {
    char *folder;
    char path[4096];
    pare_backend *be;
    pare_model *model;
    pare_store *store;
    h5_sample samples[64];
    int64_t count;
} fixture;

#define MLP "mlp:16-12-10"
#define GPT2                                                                                       \
    "{\"model_type\": \"gpt2\", \"n_embd\": 12, \"n_head\": 3, \"n_layer\": 1, \"n_positions\": "  \
    "7, \"vocab_size\": 9}"

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->folder = test_folder_make();
    snprintf(f->path, sizeof f->path, "%s/a.h5", f->folder);
    assert_ok(pare_cpu_create(NULL, &f->be));
    *state = f;
    return 0;
}

static void forget_samples(fixture *f)
{
    h5_sample *copy = calloc((size_t)f->count + 1, sizeof *copy);
    memcpy(copy, f->samples, (size_t)f->count * sizeof *copy);
    h5_samples_free(copy, f->count);
    f->count = 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    forget_samples(f);
    pare_store_close(&f->store);
    pare_model_free(&f->model);
    pare_backend_free(&f->be);
    test_folder_remove(f->folder);
    free(f);
    return 0;
}

/* A model, prepared for one row or image. */
static void make(fixture *f, const char *arch, const char *config)
{
    assert_ok(pare_model_create(&(pare_model_options){.arch = arch, .config = config}, &f->model));
    int64_t length = pare_model_facts_of(f->model)->tokens ? 4 : 0;
    assert_ok(pare_model_prepare(
        f->model, f->be, &(pare_model_shape){.batch = 1, .length = length, .compute = PARE_F32}));
}

/* Numbers that F16 and BF16 hold exactly, none of them 0. */
static void fill(h5_sample *s)
{
    int64_t n = s->entry.rows * s->entry.cols;
    for (int64_t i = 0; i < n; i++) {
        float x = (float)(i % 100 + 1) / 64.0f * (i % 3 ? 1.0f : -1.0f);
        if (s->entry.dtype == PARE_F32)
            ((float *)s->rows.values)[i] = x;
        else
            ((uint16_t *)s->rows.values)[i] =
                s->entry.dtype == PARE_F16 ? pare__f32_to_f16(x) : pare__f32_to_bf16(x);
    }
}

/* A sample for every parameter: matrices with this scheme (NULL: dense) and dtype, vectors dense.
 */
static void sample_all(fixture *f, const char *scheme, pare_dtype dtype)
{
    for (int64_t i = 0; i < pare_model_param_count(f->model); i++) {
        int rank;
        int64_t shape[PARE_MAX_RANK];
        pare_model_stored_shape(f->model, i, &rank, shape);
        h5_sample *s = &f->samples[f->count++];
        *s = store_case(pare_model_param(f->model, i)->name, rank > 1 ? scheme : NULL, dtype, rank,
                        shape);
        if (s->entry.form == PARE_FORM_DENSE)
            fill(s);
    }
}

static h5_sample *sample(fixture *f, const char *name)
{
    for (int64_t i = 0; i < f->count; i++)
        if (strcmp(f->samples[i].entry.name, name) == 0)
            return &f->samples[i];
    fail_msg("no sample %s", name);
    return NULL;
}

/* The number in an f32 sample. */
static void put(fixture *f, const char *name, int64_t at, float x)
{
    ((float *)sample(f, name)->rows.values)[at] = x;
}

static void write_and_open(fixture *f)
{
    pare_store_close(&f->store);
    store_case_write(f->path, NULL, f->be, f->samples, f->count);
    assert_ok(pare_store_open(f->path, &f->store));
}

static int64_t index_of(fixture *f, const char *name)
{
    for (int64_t i = 0; i < pare_model_param_count(f->model); i++)
        if (strcmp(pare_model_param(f->model, i)->name, name) == 0)
            return i;
    fail_msg("no parameter %s", name);
    return -1;
}

/* Rows as read_rows gives them beside what the store decodes, at once and one by one. */
static void check_rows(fixture *f, int64_t param)
{
    int64_t at = pare_store_find(f->store, pare_model_param(f->model, param)->name);
    const pare_entry *entry = pare_store_entry(f->store, at);
    int64_t n = entry->rows * entry->cols;
    float *want = calloc((size_t)n + 1, 4), *got = calloc((size_t)n + 1, 4);
    void *raw = calloc((size_t)n + 1, 4), *scratch = NULL;
    assert_int_equal(
        posix_memalign(&scratch, 64, (size_t)pare_store_scratch(f->store, at, entry->rows) + 64),
        0);
    assert_ok(pare_store_read_values(f->store, f->be, at, 0, entry->rows, raw, scratch));
    assert_ok(pare_cast(f->be, &(pare_cast_args){.x = pare_vector(raw, entry->dtype, n),
                                                 .y = pare_vector(want, PARE_F32, n)}));
    assert_ok(pare_model_read_rows(f->model, param, 0, entry->rows, got));
    assert_memory_equal(got, want, (size_t)n * 4);
    for (int64_t r = 0; r < entry->rows; r++) {
        assert_ok(pare_model_read_rows(f->model, param, r, 1, got));
        assert_memory_equal(got, want + r * entry->cols, (size_t)entry->cols * 4);
    }
    free(want);
    free(got);
    free(raw);
    free(scratch);
}

static void every_form_and_type_is_decoded(void **state)
{
    fixture *f = *state;
    static const char *const schemes[] = {NULL,  "w8",  "w4g4",   "w3g4z",
                                          "fp8", "nf4", "w4b4x4", "sparse"};
    static const pare_dtype dtypes[] = {PARE_F32, PARE_F16, PARE_BF16};
    make(f, MLP, NULL);
    for (size_t s = 0; s < sizeof schemes / sizeof *schemes; s++)
        for (size_t d = 0; d < 3; d++) {
            sample_all(f, schemes[s], dtypes[d]);
            for (int64_t i = 0; i < f->count; i++) /* random bytes may be no number */
                if (f->samples[i].entry.form == PARE_FORM_SPARSE)
                    for (int64_t e = 0; e < f->samples[i].entry.nonzeros; e++) {
                        if (dtypes[d] == PARE_F32)
                            ((float *)f->samples[i].rows.values)[e] = (float)e - 7.5f;
                        else
                            ((uint16_t *)f->samples[i].rows.values)[e] =
                                (uint16_t)(0x3c00 + e % 64);
                    }
            write_and_open(f);
            assert_ok(pare_model_load(f->model, f->store, true));
            for (int64_t i = 0; i < pare_model_param_count(f->model); i++)
                check_rows(f, i);
            forget_samples(f);
        }
}

static void weights_stored_the_other_way_round_are_turned(void **state)
{
    fixture *f = *state;
    make(f, NULL, GPT2);
    sample_all(f, NULL, PARE_F32);
    write_and_open(f);
    assert_ok(pare_model_load(f->model, f->store, false));
    int64_t at = index_of(f, "transformer.h.0.attn.c_attn.weight");
    const pare_param *p = pare_model_param(f->model, at);
    const float *stored = sample(f, p->name)->rows.values, *value = p->value.data;
    assert_true(p->transposed);
    assert_int_equal(p->value.shape[0], 36);
    assert_int_equal(p->value.shape[1], 12);
    for (int64_t out = 0; out < 36; out++)
        for (int64_t in = 0; in < 12; in++)
            assert_true(value[out * 12 + in] == stored[in * 36 + out]);
    for (int64_t i = 0; i < pare_model_param_count(f->model); i++)
        check_rows(f, i);
}

static void rows_past_the_end_are_refused(void **state)
{
    fixture *f = *state;
    float rows[256];
    make(f, MLP, NULL);
    assert_ok(pare_model_init(f->model, 1));
    int64_t at = index_of(f, "head.weight");
    assert_ok(pare_model_read_rows(f->model, at, 10, 0, rows));
    assert_status(pare_model_read_rows(f->model, at, 0, 11, rows), PARE_ERR_ARGUMENT);
    assert_status(pare_model_read_rows(f->model, at, 11, 0, rows), PARE_ERR_ARGUMENT);
    assert_status(pare_model_read_rows(f->model, at, -1, 1, rows), PARE_ERR_ARGUMENT);
    assert_status(pare_model_read_rows(f->model, at, 1, INT64_MAX, rows), PARE_ERR_ARGUMENT);
    assert_status(pare_model_read_rows(f->model, 99, 0, 1, rows), PARE_ERR_ARGUMENT);
}

static void says(const char *part)
{
    if (!strstr(pare_last_error(), part))
        fail_msg("\"%s\" lacks \"%s\"", pare_last_error(), part);
}

static void all_that_does_not_fit_is_one_error(void **state)
{
    fixture *f = *state;
    make(f, MLP, NULL);
    sample_all(f, NULL, PARE_F32);
    h5_sample *renamed = sample(f, "layers.0.bias"), *shorter = sample(f, "head.bias");
    free((char *)(uintptr_t)renamed->entry.name);
    renamed->entry.name = strdup("stray");
    shorter->entry.shape[0] = shorter->entry.rows = shorter->rows.count = 9;
    write_and_open(f);
    assert_status(pare_model_load(f->model, f->store, true), PARE_ERR_DAMAGED);
    says("1 tensor missing: layers.0.bias");
    says("1 tensor too much: stray");
    says("head.bias is [9], not [10]");
    says(f->path);
}

static void a_long_list_is_cut_and_the_rest_counted(void **state)
{
    fixture *f = *state;
    make(f, "mlp:4-4-4-4-4-4-4-4-4-4-4-4-4-4-4", NULL);
    f->samples[f->count++] = store_case("stray", NULL, PARE_F32, 1, (int64_t[]){3});
    write_and_open(f);
    assert_status(pare_model_load(f->model, f->store, true), PARE_ERR_DAMAGED);
    says("28 tensors missing: layers.0.weight, layers.0.bias");
    says("and 8 more");
    says("too much: stray");
}

static void integers_are_no_weights(void **state)
{
    fixture *f = *state;
    make(f, MLP, NULL);
    sample_all(f, NULL, PARE_F32);
    h5_sample *s = sample(f, "head.bias");
    free(s->rows.values);
    free((char *)(uintptr_t)s->entry.name);
    *s = store_case("head.bias", NULL, PARE_I32, 1, (int64_t[]){10});
    write_and_open(f);
    assert_status(pare_model_load(f->model, f->store, true), PARE_ERR_DAMAGED);
    says("head.bias holds I32");
}

static void nan_and_inf_are_named_with_their_place(void **state)
{
    fixture *f = *state;
    make(f, MLP, NULL);
    sample_all(f, NULL, PARE_F32);
    put(f, "layers.0.weight", 3 * 16 + 5, NAN);
    write_and_open(f);
    assert_status(pare_model_load(f->model, f->store, true), PARE_ERR_DAMAGED);
    says("layers.0.weight holds NaN in row 3, column 5");
    put(f, "layers.0.weight", 3 * 16 + 5, -INFINITY);
    write_and_open(f);
    assert_status(pare_model_load(f->model, f->store, true), PARE_ERR_DAMAGED);
    says("layers.0.weight holds Inf in row 3, column 5");
}

static void one_percent_of_zeros_makes_a_mask(void **state)
{
    fixture *f = *state;
    make(f, "mlp:20-20-20-10", NULL);
    sample_all(f, NULL, PARE_F32);
    for (int64_t i = 0; i < 4; i++)
        put(f, "layers.0.weight", 37 + 90 * i, i % 2 ? 0.0f : -0.0f);
    for (int64_t i = 0; i < 3; i++) /* of 400 */
        put(f, "layers.1.weight", i, 0);
    for (int64_t i = 0; i < 200; i++) /* the head is no place for masks */
        put(f, "head.weight", i, 0);
    write_and_open(f);
    assert_ok(pare_model_load(f->model, f->store, true));
    const uint8_t *mask = pare_model_param(f->model, index_of(f, "layers.0.weight"))->mask;
    assert_non_null(mask);
    for (int64_t i = 0; i < 400; i++)
        assert_int_equal(mask[i], i < 37 || i > 307 || (i - 37) % 90 != 0);
    assert_null(pare_model_param(f->model, index_of(f, "layers.1.weight"))->mask);
    assert_null(pare_model_param(f->model, index_of(f, "head.weight"))->mask);
    assert_null(pare_model_param(f->model, index_of(f, "layers.0.bias"))->mask);
    assert_ok(pare_model_load(f->model, f->store, false));
    assert_null(pare_model_param(f->model, index_of(f, "layers.0.weight"))->mask);
}

static void a_schemes_activations_are_taken_or_refused(void **state)
{
    fixture *f = *state;
    make(f, MLP, NULL);
    sample_all(f, "w8a8", PARE_F32);
    write_and_open(f);
    assert_ok(pare_model_load(f->model, f->store, false));
    assert_int_equal(pare_model_param(f->model, 0)->act, PARE_ACT_DYNAMIC);
    forget_samples(f);
    sample_all(f, "fp8a8", PARE_F32);
    write_and_open(f);
    assert_status(pare_model_load(f->model, f->store, false), PARE_ERR_UNSUPPORTED);
    says("fp8 inputs");
    forget_samples(f);
    sample_all(f, "w8a8s", PARE_F32);
    write_and_open(f);
    assert_ok(pare_model_load(f->model, f->store, false));
    assert_int_equal(pare_model_param(f->model, 0)->act, PARE_ACT_STATIC);
    float scale = sample(f, pare_model_param(f->model, 0)->name)->rows.act_scale;
    assert_true(scale > 0 && pare_model_param(f->model, 0)->act_scale == scale);
    forget_samples(f);
    sample_all(f, "w8", PARE_F32);
    write_and_open(f);
    assert_ok(pare_model_load(f->model, f->store, false));
    assert_int_equal(pare_model_param(f->model, 0)->act, PARE_ACT_NONE);
    assert_true(pare_model_param(f->model, 0)->act_scale == 0);
}

static void nothing_is_loaded_before_prepare(void **state)
{
    fixture *f = *state;
    assert_ok(pare_model_create(&(pare_model_options){.arch = MLP}, &f->model));
    sample_all(f, NULL, PARE_F32);
    write_and_open(f);
    assert_status(pare_model_load(f->model, f->store, true), PARE_ERR_ARGUMENT);
    assert_status(pare_model_init(f->model, 1), PARE_ERR_ARGUMENT);
}

/* A state dict's own names are taken where the shapes leave no doubt. */
static void names_of_a_given_state_dict_are_taken(void **state)
{
    fixture *f = *state;
    static const struct {
        const char *name;
        int64_t shape[2];
    } given[] = {{"net.2.weight", {5, 5}},
                 {"net.10.weight", {5, 5}},
                 {"net.0.weight", {5, 16}},
                 {"net.12.weight", {3, 5}}};
    for (size_t i = 0; i < 4; i++) {
        char bias[32];
        snprintf(bias, sizeof bias, "%.*s.bias", (int)(strlen(given[i].name) - 7), given[i].name);
        f->samples[f->count++] = store_case(given[i].name, NULL, PARE_F32, 2, given[i].shape);
        fill(&f->samples[f->count - 1]);
        f->samples[f->count++] = store_case(bias, NULL, PARE_F32, 1, given[i].shape);
        fill(&f->samples[f->count - 1]);
    }
    write_and_open(f);
    assert_ok(pare_model_create(&(pare_model_options){.arch = "mlp:16-5-5-5-3", .store = f->store},
                                &f->model));
    static const char *const order[] = {"net.0.weight", "net.2.weight", "net.10.weight",
                                        "net.12.weight"};
    for (int64_t i = 0; i < 4; i++)
        assert_string_equal(pare_model_param(f->model, 2 * i)->name, order[i]);
    pare_model_free(&f->model);
    assert_ok(pare_model_create(&(pare_model_options){.arch = "mlp:16-5-5-3", .store = f->store},
                                &f->model)); /* one matrix too much: its own names */
    assert_string_equal(pare_model_param(f->model, 2)->name, "layers.1.weight");
}

/* ---- fresh values ---------------------------------------------------------------------------- */

/* Mean and deviation of a parameter. */
static void moments(fixture *f, const char *name, double *mean, double *deviation)
{
    const pare_param *p = pare_model_param(f->model, index_of(f, name));
    int64_t n = pare_tensor_count(&p->value);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        double x = (double)((const float *)p->value.data)[i];
        sum += x;
        squares += x * x;
    }
    *mean = sum / (double)n;
    *deviation = sqrt(squares / (double)n - *mean * *mean);
}

static void spread(fixture *f, const char *name, double mean, double deviation)
{
    double m, d;
    moments(f, name, &m, &d);
    if (fabs(m - mean) > 0.05 * deviation + 1e-7 || fabs(d - deviation) > 0.05 * deviation + 1e-7)
        fail_msg("%s: mean %g, deviation %g, not %g, %g", name, m, d, mean, deviation);
}

static void fresh_values_have_the_spread_of_their_kind(void **state)
{
    fixture *f = *state;
    make(f, "cnn:32-64", NULL);
    assert_ok(pare_model_init(f->model, 5));
    spread(f, "conv2.weight", 0, sqrt(2.0 / (64 * 9)));
    spread(f, "bn1.weight", 1, 0);
    spread(f, "bn1.bias", 0, 0);
    spread(f, "bn1.running_mean", 0, 0);
    spread(f, "bn1.running_var", 1, 0);
    spread(f, "fc.bias", 0, 0);
    pare_model_free(&f->model);
    make(f, "mlp:784-256-10", NULL);
    assert_ok(pare_model_init(f->model, 5));
    spread(f, "layers.0.weight", 0, 1 / sqrt(784) / sqrt(3));
    pare_model_free(&f->model);
    make(f, "vit", NULL);
    assert_ok(pare_model_init(f->model, 5));
    spread(f, "patch_embed.proj.weight", 0, 0.02);
    spread(f, "pos_embed", 0, 0.02);
    spread(f, "transformer.layers.3.linear1.weight", 0, 0.02);
    spread(f, "transformer.layers.3.norm1.weight", 1, 0);
    spread(f, "transformer.layers.3.self_attn.in_proj_bias", 0, 0);
}

static void a_seed_gives_the_same_values_again_and_another_gives_others(void **state)
{
    fixture *f = *state;
    float first[12 * 16];
    make(f, MLP, NULL);
    float *value = pare_model_param(f->model, index_of(f, "layers.0.weight"))->value.data;
    const float *head = pare_model_param(f->model, index_of(f, "head.weight"))->value.data;
    assert_ok(pare_model_init(f->model, 5));
    memcpy(first, value, sizeof first);
    assert_memory_not_equal(value, head, 100); /* a tensor has numbers of its own */
    assert_ok(pare_model_init(f->model, 6));
    assert_memory_not_equal(value, first, sizeof first);
    assert_ok(pare_model_init(f->model, 5));
    assert_memory_equal(value, first, sizeof first);
}

int main(void)
{
#define FIXTURE_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(every_form_and_type_is_decoded),
        FIXTURE_TEST(weights_stored_the_other_way_round_are_turned),
        FIXTURE_TEST(rows_past_the_end_are_refused),
        FIXTURE_TEST(all_that_does_not_fit_is_one_error),
        FIXTURE_TEST(a_long_list_is_cut_and_the_rest_counted),
        FIXTURE_TEST(integers_are_no_weights),
        FIXTURE_TEST(nan_and_inf_are_named_with_their_place),
        FIXTURE_TEST(one_percent_of_zeros_makes_a_mask),
        FIXTURE_TEST(a_schemes_activations_are_taken_or_refused),
        FIXTURE_TEST(nothing_is_loaded_before_prepare),
        FIXTURE_TEST(names_of_a_given_state_dict_are_taken),
        FIXTURE_TEST(fresh_values_have_the_spread_of_their_kind),
        FIXTURE_TEST(a_seed_gives_the_same_values_again_and_another_gives_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
