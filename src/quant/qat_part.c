/* qat_part.c - quantisation-aware training as a part of a training.
 *
 * Before a step's first forward each weight's value becomes s·clamp(rint(w/s), lo, hi) of its
 * latent w. After backward the value's gradient becomes that of w (straight through where w/s lies
 * in the range of codes, Bengio 2013) and of s (LSQ, Esser 2020, eq. 3), times g = 1/√(N·hi) of the
 * N weights that share s.
 *
 * What learns of a step is a factor v, s = s₀·v, whose gradient is taken as g·(∂L/∂s)/s₀. So SGD
 * moves s exactly as LSQ does; and AdamW, whose moves are as large as the rate whatever the
 * gradient, moves every s by the same share of itself. s₀ is 2·mean|w|/√hi, or the step of rounding
 * to nearest if that is smaller: at 8 bits the former is several times too coarse. v counts as
 * LEAST at least, so that s never falls to 0, from where nothing comes back.
 *
 * Where steps are fixed they are those of rounding to nearest, made anew each step. Then nothing is
 * cut off (but half a step of the largest weight), and gradients pass as they are. */
#include "qat_impl.h"

#include "base/alloc.h"
#include "base/carve.h"
#include "base/check.h"

#include <math.h>

/* ---- memory ---------------------------------------------------------------------------------- */

static void lay_out(pare__qat_layer *l, const pare_param *p, pare__carve *c)
{
    int64_t n = l->blocks.down * l->blocks.across, bytes = n * (int64_t)sizeof(float);
    pare_tensor *const learns[] = {&l->start,       &l->per_start, &l->factor,
                                   &l->factor_grad, &l->least,     &l->minus_least};
    l->latent = p->value;
    l->latent.dtype = PARE_F32;
    l->latent.data = pare__carve_next(c, l->rows * l->cols * (int64_t)sizeof(float));
    l->step = pare_matrix(pare__carve_next(c, bytes), PARE_F32, l->blocks.down, l->blocks.across);
    l->lo_range = l->step;
    l->lo_range.data = l->follows ? pare__carve_next(c, bytes) : NULL;
    for (size_t i = 0; i < sizeof learns / sizeof *learns; i++)
        *learns[i] = pare_vector(l->follows ? NULL : pare__carve_next(c, bytes), PARE_F32, n);
}

static int64_t lay_out_all(const pare_qat *qat, pare__qat_layer *layers, char *base)
{
    pare__carve c = {.base = base};
    for (size_t i = 0; i < qat->count; i++)
        lay_out(&layers[i], pare_model_param(qat->model, layers[i].param), &c);
    return c.size;
}

int64_t pare_qat_bytes(const pare_qat *qat)
{
    pare__carve c = {0};
    for (size_t i = 0; i < qat->count; i++) {
        pare__qat_layer l = qat->layers[i];
        lay_out(&l, pare_model_param(qat->model, l.param), &c);
    }
    return c.size;
}

void pare__qat_release(pare_qat *qat)
{
    if (qat->memory)
        pare_backend_release(qat->be, qat->memory, qat->bytes);
    qat->memory = NULL;
    for (size_t i = 0; i < qat->count; i++)
        qat->layers[i].step.data = NULL;
}

/* ---- where steps begin ----------------------------------------------------------------------- */

/* The first step of the block at (down, across). */
static float first_step(const pare__qat_layer *l, const float *w, const uint8_t *mask, int64_t down,
                        int64_t across)
{
    int64_t r0 = down * l->blocks.block_rows, c0 = across * l->blocks.block_cols;
    int64_t r1 = l->rows - r0 < l->blocks.block_rows ? l->rows : r0 + l->blocks.block_rows;
    int64_t c1 = l->cols - c0 < l->blocks.block_cols ? l->cols : c0 + l->blocks.block_cols;
    double sum = 0;
    float top = 0;
    int64_t kept = 0;
    for (int64_t r = r0; r < r1; r++)
        for (int64_t i = r * l->cols + c0; i < r * l->cols + c1; i++) {
            if (mask && !mask[i])
                continue;
            float size = fabsf(w[i]);
            sum += (double)size;
            top = size > top ? size : top;
            kept++;
        }
    double learned = kept ? 2 * sum / ((double)kept * sqrt((double)l->hi)) : 0;
    double nearest = (double)(top / ((float)(l->hi - l->lo) / 2));
    float step = (float)(learned < nearest ? learned : nearest);
    return step > 0 && isfinite(step) ? step : 1.0f;
}

static pare_status put(pare_qat *qat, const pare_tensor *to, const float *values)
{
    return pare_backend_upload(qat->be, to->data, values,
                               pare_tensor_count(to) * (int64_t)sizeof *values);
}

/* All that follows from the steps at the start; host [n] each. */
static pare_status put_steps(pare_qat *qat, pare__qat_layer *l, float *start, float *room)
{
    int64_t n = pare_tensor_count(&l->start);
    PARE_TRY(put(qat, &l->start, start));
    for (int64_t i = 0; i < n; i++)
        room[i] = 1 / start[i];
    PARE_TRY(put(qat, &l->per_start, room));
    for (int64_t i = 0; i < n; i++)
        room[i] = start[i] * PARE__QAT_LEAST;
    PARE_TRY(put(qat, &l->least, room));
    for (int64_t i = 0; i < n; i++)
        room[i] = -room[i];
    PARE_TRY(put(qat, &l->minus_least, room));
    for (int64_t i = 0; i < n; i++)
        room[i] = 1;
    return put(qat, &l->factor, room);
}

static pare_status begin_layer(pare_qat *qat, pare__qat_layer *l)
{
    pare_status status = PARE_OK;
    const pare_param *p = pare_model_param(qat->model, l->param);
    int64_t count = l->rows * l->cols, n = l->blocks.down * l->blocks.across;
    float *w = NULL, *start = NULL;
    uint8_t *mask = NULL;
    PARE_TRY(pare_backend_copy(qat->be, l->latent.data, p->value.data, count * 4));
    if (l->follows)
        return PARE_OK;
    PARE_TRY_DONE(pare__calloc((size_t)count, sizeof *w, &w));
    PARE_TRY_DONE(pare__calloc(2 * (size_t)n, sizeof *start, &start));
    PARE_TRY_DONE(pare_backend_download(qat->be, w, l->latent.data, count * 4));
    if (p->mask) {
        PARE_TRY_DONE(pare__calloc((size_t)count, 1, &mask));
        PARE_TRY_DONE(pare_backend_download(qat->be, mask, p->mask, count));
    }
    for (int64_t i = 0; i < n; i++)
        start[i] = first_step(l, w, mask, i / l->blocks.across, i % l->blocks.across);
    PARE_TRY_DONE(put_steps(qat, l, start, start + n));
done:
    free(mask);
    free(start);
    free(w);
    return status;
}

/* ---- a step ---------------------------------------------------------------------------------- */

static pare_tensor matrix_of(const pare__qat_layer *l, pare_dtype dtype, void *data)
{
    return pare_matrix(data, dtype, l->rows, l->cols);
}

/* The steps of rounding the latent weight to nearest. */
static pare_status follow(pare_qat *qat, pare__qat_layer *l)
{
    int64_t n = pare_tensor_count(&l->step);
    pare_tensor step = pare_vector(l->step.data, PARE_F32, n);
    PARE_TRY(pare_quant_range(qat->be,
                              &(pare_quant_range_args){.w = matrix_of(l, PARE_F32, l->latent.data),
                                                       .block_rows = l->blocks.block_rows,
                                                       .block_cols = l->blocks.block_cols,
                                                       .lo = l->lo_range,
                                                       .hi = l->step}));
    return pare_quant_scale(
        qat->be, &(pare_quant_scale_args){.scheme = l->scheme,
                                          .scale_dtype = l->step_dtype,
                                          .lo = pare_vector(l->lo_range.data, PARE_F32, n),
                                          .hi = step,
                                          .scale = step});
}

/* start·factor, the least at least, rounded to the dtype that it is written in; factor_grad is
 * free until backward. */
static pare_status make_step(pare_qat *qat, pare__qat_layer *l)
{
    int64_t n = pare_tensor_count(&l->step);
    pare_backend *be = qat->be;
    pare_tensor step = pare_vector(l->step.data, PARE_F32, n);
    PARE_TRY(pare_scale(be, &(pare_scale_args){.x = pare_matrix(l->start.data, PARE_F32, n, 1),
                                               .y = pare_matrix(l->step.data, PARE_F32, n, 1),
                                               .rows = l->factor}));
    PARE_TRY(
        pare_add(be, &(pare_add_args){.a = step, .b = l->minus_least, .y = step, .relu = true}));
    PARE_TRY(pare_add(be, &(pare_add_args){.a = step, .b = l->least, .y = step}));
    if (l->step_dtype == PARE_F32)
        return PARE_OK;
    pare_tensor narrow = pare_vector(l->factor_grad.data, l->step_dtype, n);
    PARE_TRY(pare_cast(be, &(pare_cast_args){.x = step, .y = narrow}));
    return pare_cast(be, &(pare_cast_args){.x = narrow, .y = step});
}

static pare_status before(void *state, const pare_train_moment *m)
{
    pare_qat *qat = state;
    (void)m;
    for (size_t i = 0; i < qat->count; i++) {
        pare__qat_layer *l = &qat->layers[i];
        const pare_param *p = pare_model_param(qat->model, l->param);
        if (l->learned)
            l->learned->mask = p->mask;
        PARE_TRY(l->follows ? follow(qat, l) : make_step(qat, l));
        PARE_TRY(pare_fake_quant(
            qat->be, &(pare_fake_quant_args){.x = matrix_of(l, PARE_F32, l->latent.data),
                                             .step = l->step,
                                             .mask = matrix_of(l, PARE_U8, p->mask),
                                             .y = matrix_of(l, PARE_F32, p->value.data),
                                             .block_rows = l->blocks.block_rows,
                                             .block_cols = l->blocks.block_cols,
                                             .lo = l->lo,
                                             .hi = l->hi}));
    }
    return PARE_OK;
}

/* Weights that share a step, but at the edges. */
static double block_size(const pare__qat_layer *l)
{
    const pare_blocks *b = &l->blocks;
    double rows = (double)(b->block_rows < l->rows ? b->block_rows : l->rows);
    return rows * (double)(b->block_cols < l->cols ? b->block_cols : l->cols);
}

static pare_status back(void *state, const pare_train_moment *m)
{
    pare_qat *qat = state;
    (void)m;
    for (size_t i = 0; i < qat->count; i++) {
        pare__qat_layer *l = &qat->layers[i];
        const pare_param *p = pare_model_param(qat->model, l->param);
        int64_t n = pare_tensor_count(&l->step);
        pare_tensor grad = matrix_of(l, PARE_F32, p->grad.data), dstep = l->step;
        if (l->follows)
            continue;
        dstep.data = l->factor_grad.data;
        PARE_TRY(pare_fake_quant_grad(
            qat->be, &(pare_fake_quant_grad_args){
                         .x = matrix_of(l, PARE_F32, l->latent.data),
                         .step = l->step,
                         .mask = matrix_of(l, PARE_U8, p->mask),
                         .dy = grad,
                         .dx = grad,
                         .dstep = dstep,
                         .block_rows = l->blocks.block_rows,
                         .block_cols = l->blocks.block_cols,
                         .lo = l->lo,
                         .hi = l->hi,
                         .step_scale = (float)(1 / sqrt(block_size(l) * (double)l->hi))}));
        pare_tensor d = pare_matrix(dstep.data, PARE_F32, n, 1);
        PARE_TRY(pare_scale(qat->be, &(pare_scale_args){.x = d, .y = d, .rows = l->per_start}));
    }
    return PARE_OK;
}

/* ---- the part -------------------------------------------------------------------------------- */

/* The gradient of the value is turned into the latent's where it lies. */
static void list_learned(pare_qat *qat)
{
    size_t n = 0;
    for (size_t i = 0; i < qat->count; i++) {
        pare__qat_layer *l = &qat->layers[i];
        const pare_param *p = pare_model_param(qat->model, l->param);
        if (p->frozen)
            continue;
        l->learned = &qat->learned[n++];
        *l->learned = (pare_learned){
            .name = l->name, .value = l->latent, .grad = p->grad, .mask = p->mask, .decays = true};
        if (!l->follows)
            qat->learned[n++] =
                (pare_learned){.name = l->factor_name, .value = l->factor, .grad = l->factor_grad};
    }
    qat->part = (pare_train_part){.name = "qat",
                                  .identity = qat->identity,
                                  .state = qat,
                                  .learned = qat->learned,
                                  .learned_count = n,
                                  .takes = qat->takes,
                                  .before = before,
                                  .back = back};
}

static pare_status begin(pare_qat *qat, pare_backend *be)
{
    pare__qat_round_inputs(qat, true);
    qat->be = be;
    qat->bytes = pare_qat_bytes(qat);
    PARE_TRY(pare_backend_alloc(be, qat->bytes, &qat->memory));
    lay_out_all(qat, qat->layers, qat->memory);
    for (size_t i = 0; i < qat->count; i++) {
        pare__qat_layer *l = &qat->layers[i];
        const pare_param *p = pare_model_param(qat->model, l->param);
        PARE_REQUIRE(p->value.data && (p->frozen || p->grad.data), PARE_ERR_ARGUMENT,
                     "%s: quantisation-aware training needs a model that was prepared for training",
                     p->name);
        PARE_REQUIRE(p->act != PARE_ACT_STATIC || p->act_scale > 0, PARE_ERR_ARGUMENT,
                     "%s: its inputs are to be rounded with one scale (a8s) that is not known: "
                     "calibrate first",
                     p->name);
        PARE_TRY(begin_layer(qat, l));
    }
    return PARE_OK;
}

pare_status pare_qat_part(pare_qat *qat, pare_backend *be, pare_train_part **part)
{
    pare__qat_release(qat);
    if (be)
        PARE_TRY(begin(qat, be));
    else
        lay_out_all(qat, qat->layers, NULL);
    list_learned(qat);
    *part = &qat->part;
    return PARE_OK;
}
