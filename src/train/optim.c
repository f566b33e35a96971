/* optim.c - the optimiser's state and the moving average, one arena each, and a step over all
 * parameters. */
#include "train_impl.h"

#include "pare/ops.h"

#include <math.h>

/* Every part of an arena begins at a multiple of this: a cache line, and a vector. */
#define ALIGN 64

static int64_t aligned(int64_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Moments a parameter has: 2, 1 or (SGD without momentum) 0. */
static int moments(const pare_train_options *options)
{
    return options->optimiser == PARE_ADAMW ? 2 : options->momentum > 0;
}

static int64_t mask_bytes(const pare_param *param)
{
    int64_t rows, cols;
    pare_shape_matrix(param->value.rank, param->value.shape, &rows, &cols);
    return param->mask ? rows * ((cols + 7) / 8) : 0;
}

/* Bytes of both arenas, and the number of trained parameters. */
static size_t measure(const pare_train_options *options, pare_model *model, int64_t *state,
                      int64_t *average)
{
    size_t trained = 0;
    *state = *average = 0;
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        const pare_param *param = pare_model_param(model, i);
        if (!pare__is_trained(param))
            continue;
        int64_t bytes = aligned(pare_tensor_count(&param->value) * 4);
        *state += bytes * moments(options) + aligned(mask_bytes(param));
        *average += options->ema > 0 ? bytes : 0;
        trained++;
    }
    return trained;
}

int64_t pare__optim_bytes(const pare_train_options *options, pare_model *model)
{
    int64_t state, average;
    size_t trained = measure(options, model, &state, &average);
    return state + average + (int64_t)(trained * sizeof(pare__trained));
}

/* Weights of products and tables decay; norms, biases and other vectors do not. */
static bool decays(const pare_param *param)
{
    bool weight = param->role == PARE_ROLE_LINEAR || param->role == PARE_ROLE_CONV ||
                  param->role == PARE_ROLE_EMBEDDING || param->role == PARE_ROLE_HEAD;
    return weight && param->value.rank >= 2;
}

/* The mask as bits, which is how mask_apply takes it. */
static void pack_mask(const pare_param *param, uint8_t *kept)
{
    int64_t rows, cols;
    pare_shape_matrix(param->value.rank, param->value.shape, &rows, &cols);
    for (int64_t r = 0; r < rows; r++, kept += (cols + 7) / 8)
        for (int64_t c = 0; c < cols; c++)
            kept[c / 8] |= (uint8_t)((param->mask[r * cols + c] != 0) << (c % 8));
}

static pare_status place(const pare_train_options *options, pare_param *param, char **state,
                         char **average, pare__trained *t)
{
    t->count = pare_tensor_count(&param->value);
    t->decays = decays(param);
    PARE_REQUIRE(t->count == 0 || (param->grad.data && param->value.dtype == PARE_F32),
                 PARE_ERR_ARGUMENT,
                 "%s has no gradient: the model must be prepared for training first", param->name);
    int64_t bytes = aligned(t->count * 4);
    if (moments(options) > 0) {
        t->m = (float *)*state;
        *state += bytes;
    }
    if (moments(options) > 1) {
        t->v = (float *)*state;
        *state += bytes;
    }
    if (param->mask) {
        t->kept = (uint8_t *)*state;
        *state += aligned(mask_bytes(param));
        pack_mask(param, t->kept);
    }
    if (options->ema > 0 && t->count > 0) {
        t->average = (float *)*average;
        *average += bytes;
        memcpy(t->average, param->value.data, (size_t)t->count * 4);
    }
    return PARE_OK;
}

pare_status pare__optim_create(const pare_train_options *options, pare_model *model,
                               pare__optim *optim)
{
    size_t trained = measure(options, model, &optim->state_bytes, &optim->average_bytes);
    PARE_REQUIRE(trained > 0, PARE_ERR_ARGUMENT,
                 "every parameter is frozen: there is nothing to train");
    PARE_TRY(pare__calloc(trained, sizeof *optim->trained, &optim->trained));
    PARE_TRY(pare__pages((size_t)optim->state_bytes, &optim->state));
    PARE_TRY(pare__pages((size_t)optim->average_bytes, &optim->average));
    char *state = optim->state, *average = optim->average;
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        pare_param *param = pare_model_param(model, i);
        if (!pare__is_trained(param))
            continue;
        pare__trained *t = &optim->trained[optim->count++];
        t->param = i;
        PARE_TRY(place(options, param, &state, &average, t));
    }
    return PARE_OK;
}

void pare__optim_free(pare__optim *optim)
{
    pare__pages_free(optim->average, (size_t)optim->average_bytes);
    pare__pages_free(optim->state, (size_t)optim->state_bytes);
    free(optim->trained);
    *optim = (pare__optim){0};
}

pare_status pare__optim_norm(const pare__optim *optim, pare_model *model, pare_backend *be,
                             double *norm)
{
    double sum = 0;
    for (size_t i = 0; i < optim->count; i++) {
        const pare__trained *t = &optim->trained[i];
        const pare_param *param = pare_model_param(model, t->param);
        int64_t rows, cols;
        pare_shape_matrix(param->value.rank, param->value.shape, &rows, &cols);
        if (t->kept) {
            pare_tensor grad = pare_matrix(param->grad.data, PARE_F32, rows, cols);
            pare_tensor mask = pare_matrix(t->kept, PARE_U8, rows, (cols + 7) / 8);
            PARE_TRY(pare_mask_apply(be, &(pare_mask_apply_args){.x = grad, .mask = mask}));
        }
        pare_stats_result stats;
        PARE_TRY(pare_stats(
            be, &(pare_stats_args){.x = pare_vector(param->grad.data, PARE_F32, t->count),
                                   .result = &stats}));
        sum += stats.nans + stats.infs > 0 ? NAN : stats.sum_squares;
    }
    *norm = sqrt(sum);
    return PARE_OK;
}

static pare_status move(const pare_train_options *o, pare_backend *be, const pare__trained *t,
                        const pare_param *param, double rate, double grad_scale, int64_t step)
{
    pare_tensor w = pare_vector(param->value.data, PARE_F32, t->count);
    pare_tensor g = pare_vector(param->grad.data, PARE_F32, t->count);
    pare_tensor m = pare_vector(t->m, PARE_F32, t->count);
    pare_tensor mask = pare_vector(param->mask, PARE_U8, t->count);
    float decay = t->decays ? (float)o->decay : 0;
    if (o->optimiser == PARE_SGD)
        return pare_sgd(be, &(pare_sgd_args){.w = w,
                                             .g = g,
                                             .m = m,
                                             .mask = mask,
                                             .rate = (float)rate,
                                             .momentum = (float)o->momentum,
                                             .decay = decay,
                                             .grad_scale = (float)grad_scale,
                                             .nesterov = o->nesterov});
    return pare_adamw(be, &(pare_adamw_args){.w = w,
                                             .g = g,
                                             .m = m,
                                             .v = pare_vector(t->v, PARE_F32, t->count),
                                             .mask = mask,
                                             .rate = (float)rate,
                                             .beta1 = (float)o->beta1,
                                             .beta2 = (float)o->beta2,
                                             .eps = (float)o->eps,
                                             .decay = decay,
                                             .grad_scale = (float)grad_scale,
                                             .step = step});
}

/* Early on the average must forget the values that it began with faster than its own share would
 * let it. */
double pare__average_share(const pare_train_options *options, int64_t step)
{
    double early = (1 + (double)step) / (10 + (double)step);
    return early < options->ema ? early : options->ema;
}

pare_status pare__optim_step(const pare__optim *optim, const pare_train_options *options,
                             pare_model *model, pare_backend *be, double rate, double grad_scale,
                             int64_t step)
{
    float share = (float)pare__average_share(options, step);
    for (size_t i = 0; i < optim->count; i++) {
        const pare__trained *t = &optim->trained[i];
        const pare_param *param = pare_model_param(model, t->param);
        if (t->count == 0)
            continue;
        PARE_TRY(move(options, be, t, param, rate, grad_scale, step));
        if (t->average)
            PARE_TRY(pare_ema(
                be, &(pare_ema_args){.e = pare_vector(t->average, PARE_F32, t->count),
                                     .w = pare_vector(param->value.data, PARE_F32, t->count),
                                     .decay = share}));
    }
    return PARE_OK;
}
