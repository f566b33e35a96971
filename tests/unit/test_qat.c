/* test_qat.c - quantisation-aware training: values that are integers times steps, gradients as the
 * papers have them, masks that stay, scales of inputs. */
#include "far_backend.h"
#include "store_case.h"
#include "train_fixture.h"

#include "quant/qat_impl.h"

#include <math.h>

/* ---- fixtures -------------------------------------------------------------------------------- */

static pare_scheme scheme_of(const char *text)
{
    pare_scheme s;
    assert_ok(pare_scheme_parse(text, &s));
    return s;
}

/* A model with its quantiser, before or after the part is made. */
typedef struct qat_case {
    train_fixture f;
    pare_model *model;
    pare_qat *qat;
    pare_train_part *part;
    pare_train_moment moment;
} qat_case;

static qat_case open_case(const char *scheme, const char *arch, pare_backend *be,
                          const pare_qat_options *more)
{
    qat_case c = {.f = fixture_make(&(train_fixture_options){.arch = arch, .be = be})};
    pare_qat_options options = more ? *more : (pare_qat_options){0};
    options.scheme = scheme_of(scheme);
    assert_ok(
        pare_model_create(&(pare_model_options){.arch = arch ? arch : "mlp:64-16-4"}, &c.model));
    assert_ok(pare_qat_create(&options, c.model, &c.qat));
    assert_ok(pare_model_prepare(c.model, c.f.be, &c.f.shape));
    assert_ok(pare_model_init(c.model, 4));
    c.moment = (pare_train_moment){.model = c.model, .be = c.f.be, .steps = 10};
    return c;
}

static void close_case(qat_case *c)
{
    pare_qat_free(&c->qat);
    pare_model_free(&c->model);
    fixture_free(&c->f);
}

static void *host_copy(pare_backend *be, const void *from, int64_t bytes)
{
    void *copy = malloc((size_t)bytes + 1);
    assert_ok(pare_backend_download(be, copy, from, bytes));
    return copy;
}

static float *floats_of(const qat_case *c, pare_tensor t)
{
    return host_copy(c->f.be, t.data, pare_tensor_count(&t) * 4);
}

static double random_unit(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int32_t)(*state >> 32) / 2147483648.0;
}

static void fill(const qat_case *c, pare_tensor t, uint64_t seed, double size)
{
    int64_t n = pare_tensor_count(&t);
    float *values = malloc((size_t)n * 4);
    for (int64_t i = 0; i < n; i++)
        values[i] = (float)(size * random_unit(&seed));
    assert_ok(pare_backend_upload(c->f.be, t.data, values, n * 4));
    free(values);
}

/* Every third weight of the layer goes. */
static uint8_t *put_mask(const qat_case *c, const pare__qat_layer *l)
{
    pare_param *p = pare_model_param(c->model, l->param);
    int64_t n = l->rows * l->cols;
    uint8_t *mask = malloc((size_t)n);
    for (int64_t i = 0; i < n; i++)
        mask[i] = i % 3 != 1;
    assert_ok(pare_model_mask(c->model, l->param));
    assert_ok(pare_backend_upload(c->f.be, p->mask, mask, n));
    return mask;
}

static int64_t block_of(const pare__qat_layer *l, int64_t i)
{
    return i / l->cols / l->blocks.block_rows * l->blocks.across +
           i % l->cols / l->blocks.block_cols;
}

static const char *const schemes[] = {"w8", "w4", "w3", "w2", "w8t", "w4g16", "w5b8x8", "w4b3x5"};
#define SCHEMES ((int)(sizeof schemes / sizeof *schemes))

/* ---- values ---------------------------------------------------------------------------------- */

/* Codes times steps are the model's values, each with its bits, and zeros where the mask is. */
static void check_values(const qat_case *c, const pare__qat_layer *l, const uint8_t *mask)
{
    int64_t n = l->rows * l->cols, steps;
    pare_scheme scheme;
    assert_true(pare_qat_layer(c->qat, l->param, &scheme, &steps));
    int8_t *codes = malloc((size_t)n);
    float *step = malloc((size_t)steps * 4);
    assert_ok(pare_qat_codes(c->qat, l->param, codes, step));
    float *value = floats_of(c, pare_model_param(c->model, l->param)->value);
    for (int64_t i = 0; i < n; i++) {
        float want = (float)codes[i] * step[block_of(l, i)];
        if (memcmp(&want, &value[i], 4) != 0 || (mask && !mask[i] && codes[i] != 0))
            fail_msg("%s: weight %lld is %.9g, its code %d", l->name, (long long)i,
                     (double)value[i], codes[i]);
        assert_in_range(codes[i] - l->lo, 0, l->hi - l->lo);
    }
    free(value);
    free(step);
    free(codes);
}

static void values_are_codes_times_steps(void **state)
{
    static const pare_dtype dtypes[] = {PARE_F32, PARE_F16, PARE_BF16};
    (void)state;
    for (int k = 0; k < SCHEMES * 6; k++) {
        qat_case c = open_case(schemes[k / 6], NULL, k % 6 == 5 ? far_backend_make(1) : NULL,
                               &(pare_qat_options){.fixed = k % 2});
        uint8_t *mask = NULL;
        for (size_t i = 0; i < c.qat->count; i++) {
            c.qat->layers[i].step_dtype = dtypes[k % 3];
            if (i == 0)
                mask = put_mask(&c, &c.qat->layers[i]);
        }
        assert_ok(pare_qat_part(c.qat, c.f.be, &c.part));
        assert_ok(c.part->before(c.part->state, &c.moment));
        for (size_t i = 0; i < c.qat->count; i++)
            check_values(&c, &c.qat->layers[i], i == 0 ? mask : NULL);
        free(mask);
        close_case(&c);
    }
}

/* What export by rounding to nearest makes of the weights behind. */
static void fixed_steps_are_those_of_rounding_to_nearest(void **state)
{
    (void)state;
    for (int k = 0; k < SCHEMES * 2; k++) {
        qat_case c = open_case(schemes[k / 2], NULL, NULL, &(pare_qat_options){.fixed = true});
        pare__qat_layer *l = &c.qat->layers[0];
        l->step_dtype = k % 2 ? PARE_BF16 : PARE_F32;
        int64_t n = l->rows * l->cols, steps = l->blocks.down * l->blocks.across;
        assert_ok(pare_qat_part(c.qat, c.f.be, &c.part));
        fill(&c, l->latent, 9, 0.3);
        assert_ok(c.part->before(c.part->state, &c.moment));
        int8_t *codes = malloc((size_t)n), *want = malloc((size_t)n);
        float *step = malloc((size_t)steps * 4), *scale = malloc((size_t)steps * 8);
        pare_quant_args args = {
            .scheme = l->scheme,
            .scale_dtype = l->step_dtype,
            .w = pare_matrix(l->latent.data, PARE_F32, l->rows, l->cols),
            .block_rows = l->blocks.block_rows,
            .block_cols = l->blocks.block_cols,
            .scale = pare_matrix(scale, PARE_F32, l->blocks.down, l->blocks.across),
            .lo = pare_matrix(scale + steps, PARE_F32, l->blocks.down, l->blocks.across),
            .codes = pare_matrix(want, PARE_I8, l->rows, l->cols)};
        assert_ok(pare_quant_find("rtn")->quantize(c.f.be, &args));
        assert_ok(pare_qat_codes(c.qat, l->param, codes, step));
        assert_memory_equal(codes, want, (size_t)n);
        assert_memory_equal(step, scale, (size_t)steps * 4);
        free(scale);
        free(step);
        free(want);
        free(codes);
        close_case(&c);
    }
}

/* 2·mean|w|/√hi of the weights that no mask keeps 0, or the largest over (2^b − 1)/2. */
static void steps_begin_where_lsq_has_them(void **state)
{
    (void)state;
    bool near = false, learned = false;
    for (int k = 0; k < SCHEMES; k++) {
        qat_case c = open_case(schemes[k], NULL, NULL, NULL);
        pare__qat_layer *l = &c.qat->layers[0];
        uint8_t *mask = put_mask(&c, l);
        pare_param *p = pare_model_param(c.model, l->param);
        fill(&c, p->value, 3, 0.7);
        for (int64_t i = 0; i < l->rows * l->cols; i++) /* few large ones */
            ((float *)p->value.data)[i] *= powf(((float *)p->value.data)[i], 4);
        assert_ok(pare_qat_part(c.qat, c.f.be, &c.part));
        assert_ok(c.part->before(c.part->state, &c.moment));
        int64_t steps = pare_tensor_count(&l->step);
        float *w = floats_of(&c, l->latent), *step = floats_of(&c, l->step);
        for (int64_t b = 0; b < steps; b++) {
            double sum = 0, top = 0, kept = 0;
            for (int64_t i = 0; i < l->rows * l->cols; i++) {
                if (block_of(l, i) != b || !mask[i])
                    continue;
                sum += fabs((double)w[i]);
                top = fmax(top, fabs((double)w[i]));
                kept++;
            }
            double lsq = 2 * sum / kept / sqrt((double)l->hi);
            double nearest = top / (pow(2, l->scheme.bits) - 1) * 2;
            double want = fmin(lsq, nearest);
            *(lsq < nearest ? &learned : &near) = true;
            if (fabs((double)step[b] - want) > 1e-6 * want)
                fail_msg("%s: step %lld is %g, not %g", schemes[k], (long long)b, (double)step[b],
                         want);
        }
        free(step);
        free(w);
        free(mask);
        close_case(&c);
    }
    assert_true(near && learned);
}

/* ---- gradients ------------------------------------------------------------------------------- */

static void check_gradients(const char *scheme, bool far, bool masked)
{
    qat_case c = open_case(scheme, NULL, far ? far_backend_make(1) : NULL, NULL);
    pare__qat_layer *l = &c.qat->layers[0];
    int64_t n = l->rows * l->cols, steps = l->blocks.down * l->blocks.across;
    uint8_t *mask = masked ? put_mask(&c, l) : NULL;
    pare_param *p = pare_model_param(c.model, l->param);
    assert_ok(pare_qat_part(c.qat, c.f.be, &c.part));
    fill(&c, l->factor, 5, 0.4); /* some below the least */
    fill(&c, l->latent, 6, 0.5);
    assert_ok(c.part->before(c.part->state, &c.moment));
    fill(&c, p->grad, 7, 1);
    float *w = floats_of(&c, l->latent), *dy = floats_of(&c, p->grad);
    float *start = floats_of(&c, l->start), *factor = floats_of(&c, l->factor);
    float *step = floats_of(&c, l->step);
    assert_ok(c.part->back(c.part->state, &c.moment));
    float *dx = floats_of(&c, c.part->learned[0].grad), *d = floats_of(&c, c.part->learned[1].grad);
    double *want = calloc((size_t)steps, sizeof *want), rms = 0;
    for (int64_t i = 0; i < n; i++) {
        double s = (double)step[block_of(l, i)], t = (double)(float)((double)w[i] / s);
        bool inside = t >= l->lo && t <= l->hi, kept = !mask || mask[i];
        assert_true((double)dx[i] == (kept && inside ? (double)dy[i] : 0));
        if (kept)
            want[block_of(l, i)] += (double)dy[i] * (inside      ? rint(t) - t
                                                     : t < l->lo ? l->lo
                                                                 : l->hi);
    }
    double rows = (double)(l->blocks.block_rows < l->rows ? l->blocks.block_rows : l->rows);
    double share = rows * (double)(l->blocks.block_cols < l->cols ? l->blocks.block_cols : l->cols);
    for (int64_t b = 0; b < steps; b++) {
        double v = fmax((double)factor[b], (double)PARE__QAT_LEAST);
        assert_true(fabs((double)step[b] - (double)start[b] * v) < 1e-6 * (double)start[b]);
        want[b] /= sqrt(share * l->hi) * (double)start[b];
        rms += want[b] * want[b] / (double)steps;
    }
    for (int64_t b = 0; b < steps; b++)
        if (fabs((double)d[b] - want[b]) > 1e-5 * (fabs(want[b]) + sqrt(rms)))
            fail_msg("%s: the gradient of step %lld is %g, not %g", scheme, (long long)b,
                     (double)d[b], want[b]);
    free(want);
    free(d);
    free(dx);
    free(step);
    free(factor);
    free(start);
    free(dy);
    free(w);
    free(mask);
    close_case(&c);
}

static void gradients_are_those_of_the_papers(void **state)
{
    (void)state;
    for (int k = 0; k < SCHEMES; k++)
        for (int how = 0; how < 4; how++)
            check_gradients(schemes[k], how & 1, how & 2);
}

static void with_fixed_steps_gradients_pass_as_they_are(void **state)
{
    (void)state;
    qat_case c = open_case("w4", NULL, NULL, &(pare_qat_options){.fixed = true});
    pare_param *p = pare_model_param(c.model, c.qat->layers[0].param);
    assert_ok(pare_qat_part(c.qat, c.f.be, &c.part));
    assert_int_equal(c.part->learned_count, 1); /* a weight, no step; the last one is a head */
    assert_ok(c.part->before(c.part->state, &c.moment));
    fill(&c, p->grad, 7, 1);
    float *before = floats_of(&c, p->grad);
    assert_ok(c.part->back(c.part->state, &c.moment));
    assert_memory_equal(c.part->learned[0].grad.data, before,
                        (size_t)pare_tensor_count(&p->grad) * 4);
    free(before);
    close_case(&c);
}

/* ---- what is chosen -------------------------------------------------------------------------- */

#define GPT2                                                                                       \
    "{\"model_type\": \"gpt2\", \"architectures\": [\"GPT2LMHeadModel\"], \"vocab_size\": 32, "    \
    "\"n_positions\": 32, \"n_embd\": 16, \"n_layer\": 1, \"n_head\": 2}"

static void what_does_not_fit_is_done_more_simply(void **state)
{
    (void)state;
    uint8_t chosen[64];
    memset(chosen, 1, sizeof chosen);
    qat_case c = open_case("w4g24", "mlp:64-24-16-4", NULL,
                           &(pare_qat_options){.first_last = true, .chosen = chosen});
    assert_int_equal(c.qat->count, 3);
    const pare__qat_layer *l = c.qat->layers;
    assert_int_equal(l[0].scheme.granularity, PARE_PER_CHANNEL); /* rows of 64 */
    assert_non_null(strstr(pare_qat_note(c.qat, l[0].param), "groups of 24 do not divide"));
    assert_int_equal(l[1].scheme.granularity, PARE_PER_GROUP);
    assert_null(pare_qat_note(c.qat, l[1].param));
    assert_int_equal(l[0].scheme.bits, 8);
    assert_int_equal(l[1].scheme.bits, 4);
    assert_int_equal(l[2].scheme.bits, 8);
    close_case(&c);

    pare_model *gpt2 = NULL;
    pare_qat *qat = NULL;
    assert_ok(pare_model_create(&(pare_model_options){.config = GPT2}, &gpt2));
    pare_qat_options options = {.scheme = scheme_of("w8"), .chosen = chosen};
    assert_ok(pare_qat_create(&options, gpt2, &qat));
    bool told = false;
    for (int64_t i = 0; i < pare_model_param_count(gpt2); i++)
        told |= pare_qat_note(qat, i) && strstr(pare_qat_note(qat, i), "input by output");
    assert_true(told);
    pare_qat_free(&qat);
    memset(chosen, 0, sizeof chosen);
    assert_status(pare_qat_create(&options, gpt2, &qat), PARE_ERR_ARGUMENT);
    options.scheme = scheme_of("w4z");
    assert_status(pare_qat_create(&options, gpt2, &qat), PARE_ERR_ARGUMENT);
    options.scheme = scheme_of("nf4");
    assert_status(pare_qat_create(&options, gpt2, &qat), PARE_ERR_ARGUMENT);
    pare_model_free(&gpt2);
}

/* Steps are rounded to the dtype that the checkpoint has the tensor in. */
static void steps_have_the_dtype_of_the_source(void **state)
{
    static const pare_dtype dtypes[] = {PARE_BF16, PARE_F16, PARE_F32};
    (void)state;
    for (int d = 0; d < 3; d++) {
        char *folder = test_folder_make(), path[4096];
        pare_backend *be = NULL;
        pare_store *store = NULL;
        snprintf(path, sizeof path, "%s/source.safetensors", folder);
        h5_sample *sample = malloc(sizeof *sample);
        *sample = store_case("layers.0.weight", NULL, dtypes[d], 2, (int64_t[]){16, 64});
        assert_ok(pare_cpu_create(NULL, &be));
        store_case_write(path, NULL, be, sample, 1);
        assert_ok(pare_store_open(path, &store));
        qat_case c = open_case("w4", NULL, NULL, &(pare_qat_options){.store = store});
        assert_int_equal(c.qat->layers[0].step_dtype, dtypes[d]);
        assert_ok(pare_qat_part(c.qat, c.f.be, &c.part));
        assert_ok(c.part->before(c.part->state, &c.moment));
        float *step = floats_of(&c, c.qat->layers[0].step), once;
        uint16_t narrow;
        for (int i = 0; i < 16 && d < 2; i++) {
            assert_ok(pare_cast(be, &(pare_cast_args){.x = pare_vector(&step[i], PARE_F32, 1),
                                                      .y = pare_vector(&narrow, dtypes[d], 1)}));
            assert_ok(pare_cast(be, &(pare_cast_args){.x = pare_vector(&narrow, dtypes[d], 1),
                                                      .y = pare_vector(&once, PARE_F32, 1)}));
            assert_true(once == step[i]);
        }
        free(step);
        close_case(&c);
        pare_store_close(&store);
        h5_samples_free(sample, 1);
        pare_backend_free(&be);
        test_folder_remove(folder);
    }
}

/* The part as predictions see it has the same shapes, and no memory. */
static void a_prediction_needs_no_memory(void **state)
{
    (void)state;
    uint8_t chosen[] = {1, 1, 1, 1};
    qat_case c = open_case("w4", NULL, NULL, &(pare_qat_options){.chosen = chosen});
    assert_ok(pare_qat_part(c.qat, NULL, &c.part));
    assert_int_equal(c.part->learned_count, 4);
    int64_t counts[4];
    for (int i = 0; i < 4; i++) {
        assert_null(c.part->learned[i].value.data);
        counts[i] = pare_tensor_count(&c.part->learned[i].value);
    }
    assert_string_equal(c.part->learned[0].name, "qat/layers.0.weight");
    assert_string_equal(c.part->learned[1].name, "qat/layers.0.weight.step");
    assert_int_equal(counts[0], 64 * 16);
    assert_int_equal(counts[1], 16);
    int64_t bytes = pare_qat_bytes(c.qat);
    assert_true(bytes >= (64 * 16 + 16 * 4 + 7 * 20) * 4 && bytes < 64 * 1024);
    assert_ok(pare_qat_part(c.qat, c.f.be, &c.part));
    for (int i = 0; i < 4; i++)
        assert_int_equal(pare_tensor_count(&c.part->learned[i].value), counts[i]);
    assert_int_equal(pare_qat_bytes(c.qat), bytes);
    close_case(&c);
}

/* A frozen layer is rounded as it is: nothing of it learns. */
static void what_is_frozen_is_rounded_too(void **state)
{
    (void)state;
    train_fixture f = fixture_make(&(train_fixture_options){0});
    pare_model *model = NULL;
    pare_qat *qat = NULL;
    pare_train_part *part;
    assert_ok(pare_model_create(&(pare_model_options){.arch = "mlp:64-16-4"}, &model));
    pare_model_param(model, 0)->frozen = true;
    assert_ok(pare_qat_create(
        &(pare_qat_options){.scheme = scheme_of("w4"), .chosen = (uint8_t[]){1, 1, 1, 1}}, model,
        &qat));
    assert_ok(pare_model_prepare(model, f.be, &f.shape));
    assert_ok(pare_model_init(model, 4));
    assert_ok(pare_qat_part(qat, f.be, &part));
    assert_int_equal(part->learned_count, 2);
    qat_case c = {.f = f, .model = model, .qat = qat, .part = part};
    assert_ok(part->before(part->state, &c.moment));
    assert_ok(part->back(part->state, &c.moment));
    check_values(&c, &qat->layers[0], NULL);
    close_case(&c);
}

/* ---- inputs ---------------------------------------------------------------------------------- */

static void scales_of_inputs_come_from_data(void **state)
{
    (void)state;
    for (int far = 0; far < 2; far++) {
        qat_case c = open_case("w8a8s", "cnn:8-p-12,in=1,size=8,classes=4",
                               far ? far_backend_make(1) : NULL, NULL);
        assert_status(pare_qat_part(c.qat, c.f.be, &c.part), PARE_ERR_ARGUMENT);
        assert_non_null(strstr(pare_last_error(), "calibrate"));
        assert_ok(pare_qat_calibrate(c.qat, c.f.be, c.f.dataset, 16));
        float scales[8];
        for (size_t i = 0; i < c.qat->count; i++) {
            pare_param *p = pare_model_param(c.model, c.qat->layers[i].param);
            assert_int_equal(p->act, PARE_ACT_STATIC);
            assert_true(p->act_scale > 1e-4f && p->act_scale < 1);
            scales[i] = p->act_scale;
        }
        /* images are bytes from 40 to 219: (x/255 − 0.4)/0.3 reaches 1.53 */
        assert_true(fabsf(scales[0] * 127.5f - 1.53f) < 0.1f);
        assert_ok(pare_qat_calibrate(c.qat, c.f.be, c.f.dataset, 16)); /* known: they stay */
        assert_float_equal(pare_model_param(c.model, c.qat->layers[0].param)->act_scale, scales[0],
                           0);
        assert_ok(pare_qat_part(c.qat, c.f.be, &c.part));
        assert_ok(c.part->before(c.part->state, &c.moment));
        pare_batch *batch = fixture_batch(&c.f, 0, 16);
        pare_step_seed seed = {.seed = 1};
        assert_ok(pare_model_forward(c.model, batch, true, &seed));
        pare_batch_free(&batch);
        close_case(&c);
    }
}

/* Wherever there is no memory left, the call says so, and all is given back. */
static void nothing_is_lost_where_there_is_no_memory(void **state)
{
    (void)state;
    pare_status status = PARE_ERR_MEMORY;
    for (int64_t nth = 1; status != PARE_OK; nth++) {
        qat_case c =
            open_case("w8a8s", "cnn:8-p-12,in=1,size=8,classes=4", far_backend_make(1), NULL);
        far_backend_refuse(c.f.be, nth);
        status = pare_qat_calibrate(c.qat, c.f.be, c.f.dataset, 16);
        if (status == PARE_OK)
            status = pare_qat_part(c.qat, c.f.be, &c.part);
        if (status == PARE_OK)
            status = c.part->before(c.part->state, &c.moment);
        assert_true(status == PARE_OK || status == PARE_ERR_MEMORY);
        assert_true((status != PARE_OK) == far_backend_refused(c.f.be));
        close_case(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_codes_times_steps),
        cmocka_unit_test(fixed_steps_are_those_of_rounding_to_nearest),
        cmocka_unit_test(steps_begin_where_lsq_has_them),
        cmocka_unit_test(gradients_are_those_of_the_papers),
        cmocka_unit_test(with_fixed_steps_gradients_pass_as_they_are),
        cmocka_unit_test(what_does_not_fit_is_done_more_simply),
        cmocka_unit_test(steps_have_the_dtype_of_the_source),
        cmocka_unit_test(a_prediction_needs_no_memory),
        cmocka_unit_test(what_is_frozen_is_rounded_too),
        cmocka_unit_test(scales_of_inputs_come_from_data),
        cmocka_unit_test(nothing_is_lost_where_there_is_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
