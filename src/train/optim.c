/* optim.c - the optimiser's state and the moving average, one arena each in the backend's memory,
 * and a step over all parameters. */
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

/* Elements that change places at once when the average is swapped with the values. */
#define SWAPPED ((int64_t)256 << 10)

/* Bytes of both arenas, and the number of trained parameters. The state's begins with the sum of
 * squares, the average's ends with room for SWAPPED elements. */
static size_t measure(const pare_train_options *options, pare_model *model, int64_t *state,
                      int64_t *average)
{
    size_t trained = 0;
    *state = ALIGN;
    *average = 0;
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        const pare_param *param = pare_model_param(model, i);
        if (!pare__is_trained(param))
            continue;
        int64_t bytes = aligned(pare_tensor_count(&param->value) * 4);
        *state += bytes * moments(options);
        *average += options->ema > 0 ? bytes : 0;
        trained++;
    }
    *average += options->ema > 0 ? SWAPPED * 4 : 0;
    return trained;
}

pare_footprint pare__optim_bytes(const pare_train_options *options, pare_model *model)
{
    int64_t state, average;
    size_t trained = measure(options, model, &state, &average);
    return (pare_footprint){.backend = state + average,
                            .host = (int64_t)(trained * sizeof(pare__trained))};
}

/* Weights of products and tables decay; norms, biases and other vectors do not. */
static bool decays(const pare_param *param)
{
    bool weight = param->role == PARE_ROLE_LINEAR || param->role == PARE_ROLE_CONV ||
                  param->role == PARE_ROLE_EMBEDDING || param->role == PARE_ROLE_HEAD;
    return weight && param->value.rank >= 2;
}

static pare_status place(const pare_train_options *options, pare_backend *be, pare_param *param,
                         char **state, char **average, pare__trained *t)
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
    if (options->ema > 0 && t->count > 0) {
        t->average = (float *)*average;
        *average += bytes;
        PARE_TRY(pare_backend_copy(be, t->average, param->value.data, t->count * 4));
    }
    return PARE_OK;
}

pare_status pare__optim_create(const pare_train_options *options, pare_model *model,
                               pare_backend *be, pare__optim *optim)
{
    optim->be = be;
    size_t trained = measure(options, model, &optim->state_bytes, &optim->average_bytes);
    PARE_REQUIRE(trained > 0, PARE_ERR_ARGUMENT,
                 "every parameter is frozen: there is nothing to train");
    PARE_TRY(pare__calloc(trained, sizeof *optim->trained, &optim->trained));
    PARE_TRY(pare_backend_alloc(be, optim->state_bytes, &optim->state));
    PARE_TRY(pare_backend_alloc(be, optim->average_bytes, &optim->average));
    optim->sum = (double *)(void *)optim->state;
    char *state = optim->state + ALIGN, *average = optim->average;
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        pare_param *param = pare_model_param(model, i);
        if (!pare__is_trained(param))
            continue;
        pare__trained *t = &optim->trained[optim->count++];
        t->param = i;
        PARE_TRY(place(options, be, param, &state, &average, t));
    }
    return PARE_OK;
}

void pare__optim_free(pare__optim *optim)
{
    pare_backend_release(optim->be, optim->average, optim->average_bytes);
    pare_backend_release(optim->be, optim->state, optim->state_bytes);
    free(optim->trained);
    *optim = (pare__optim){0};
}

pare_status pare__optim_norm(const pare__optim *optim, pare_model *model, pare_backend *be,
                             double *norm)
{
    pare_sum_squares_args args = {.sum = pare_vector(optim->sum, PARE_F64, 1)};
    double sum = 0;
    for (size_t i = 0; i < optim->count; i++) {
        const pare__trained *t = &optim->trained[i];
        const pare_param *param = pare_model_param(model, t->param);
        args.x = pare_vector(param->grad.data, PARE_F32, t->count);
        args.mask = pare_vector(param->mask, PARE_U8, t->count);
        PARE_TRY(pare_sum_squares(be, &args));
        args.accumulate = true;
    }
    PARE_TRY(pare_backend_download(be, &sum, optim->sum, sizeof sum));
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

pare_status pare__optim_swap(const pare__optim *optim, pare_model *model)
{
    float *room = (float *)(void *)(optim->average + optim->average_bytes) - SWAPPED;
    for (size_t i = 0; i < optim->count; i++) {
        const pare__trained *t = &optim->trained[i];
        float *value = pare_model_param(model, t->param)->value.data;
        for (int64_t k = 0, n; k < t->count; k += n) {
            n = t->count - k < SWAPPED ? t->count - k : SWAPPED;
            PARE_TRY(pare_backend_copy(optim->be, room, value + k, n * 4));
            PARE_TRY(pare_backend_copy(optim->be, value + k, t->average + k, n * 4));
            PARE_TRY(pare_backend_copy(optim->be, t->average + k, room, n * 4));
        }
    }
    return PARE_OK;
}
