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

const pare_learned *pare__learned_at(const pare_train_setup *setup, size_t index)
{
    for (size_t i = 0; i < setup->term_count; i++) {
        if (index < setup->terms[i].learned_count)
            return &setup->terms[i].learned[index];
        index -= setup->terms[i].learned_count;
    }
    for (size_t i = 0; i < setup->part_count; i++) {
        if (index < setup->parts[i]->learned_count)
            return &setup->parts[i]->learned[index];
        index -= setup->parts[i]->learned_count;
    }
    return NULL;
}

bool pare__is_taken(const pare_train_setup *setup, int64_t param)
{
    for (size_t i = 0; i < setup->part_count; i++)
        if (setup->parts[i]->takes && setup->parts[i]->takes[param])
            return true;
    return false;
}

bool pare__moves_masks(const pare_train_setup *setup)
{
    for (size_t i = 0; i < setup->part_count; i++)
        if (setup->parts[i]->moves_masks)
            return true;
    return false;
}

/* Whether the optimiser moves the parameter itself. */
static bool moves(const pare_train_setup *setup, int64_t param)
{
    return pare__is_trained(pare_model_param(setup->model, param)) && !pare__is_taken(setup, param);
}

/* Bytes of both arenas, and how much is trained. The state's begins with the sum of squares, the
 * average's ends with room for SWAPPED elements. */
static size_t measure(const pare_train_setup *setup, int64_t *state, int64_t *average)
{
    const pare_train_options *options = setup->options;
    const pare_learned *learned;
    size_t trained = 0;
    *state = ALIGN;
    *average = 0;
    for (int64_t i = 0; i < pare_model_param_count(setup->model); i++) {
        if (!moves(setup, i))
            continue;
        int64_t count = pare_tensor_count(&pare_model_param(setup->model, i)->value);
        *state += aligned(count * 4) * moments(options);
        *average += options->ema > 0 ? aligned(count * 4) : 0;
        trained++;
    }
    for (size_t i = 0; (learned = pare__learned_at(setup, i)) != NULL; i++, trained++)
        *state += aligned(pare_tensor_count(&learned->value) * 4) * moments(options);
    *average += options->ema > 0 ? SWAPPED * 4 : 0;
    return trained;
}

pare_footprint pare__optim_bytes(const pare_train_setup *setup)
{
    int64_t state, average;
    size_t trained = measure(setup, &state, &average);
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

static float *take(char **arena, bool wanted, int64_t bytes)
{
    float *part = (float *)(void *)*arena;
    *arena += wanted ? bytes : 0;
    return wanted ? part : NULL;
}

static pare_status place(const pare_train_options *options, pare__trained *t, char **state)
{
    t->count = pare_tensor_count(&t->value);
    PARE_REQUIRE(t->count == 0 || (t->grad.data && t->value.dtype == PARE_F32), PARE_ERR_ARGUMENT,
                 "%s has no gradient: the model must be prepared for training first", t->name);
    t->m = take(state, moments(options) > 0, aligned(t->count * 4));
    t->v = take(state, moments(options) > 1, aligned(t->count * 4));
    return PARE_OK;
}

static pare_status place_param(const pare_train_setup *setup, pare__optim *optim, int64_t index,
                               char **state, char **average)
{
    const pare_param *param = pare_model_param(setup->model, index);
    pare__trained *t = &optim->trained[optim->count++];
    *t = (pare__trained){.param = index,
                         .name = param->name,
                         .value = param->value,
                         .grad = param->grad,
                         .decays = decays(param),
                         .rate = 1};
    PARE_TRY(place(setup->options, t, state));
    t->average = take(average, setup->options->ema > 0 && t->count > 0, aligned(t->count * 4));
    if (t->average)
        PARE_TRY(pare_backend_copy(setup->be, t->average, t->value.data, t->count * 4));
    return PARE_OK;
}

pare_status pare__optim_create(const pare_train_setup *setup, pare__optim *optim)
{
    pare_backend *be = optim->be = setup->be;
    const pare_learned *learned;
    optim->model = setup->model;
    size_t trained = measure(setup, &optim->state_bytes, &optim->average_bytes);
    PARE_REQUIRE(trained > 0, PARE_ERR_ARGUMENT,
                 "every parameter is frozen: there is nothing to train");
    PARE_TRY(pare__calloc(trained, sizeof *optim->trained, &optim->trained));
    PARE_TRY(pare_backend_alloc(be, optim->state_bytes, &optim->state));
    PARE_TRY(pare_backend_alloc(be, optim->average_bytes, &optim->average));
    optim->sum = (double *)(void *)optim->state;
    char *state = optim->state + ALIGN, *average = optim->average;
    for (int64_t i = 0; i < pare_model_param_count(setup->model); i++)
        if (moves(setup, i))
            PARE_TRY(place_param(setup, optim, i, &state, &average));
    for (size_t i = 0; (learned = pare__learned_at(setup, i)) != NULL; i++) {
        pare__trained *t = &optim->trained[optim->count++];
        *t = (pare__trained){.param = -1,
                             .learned = learned,
                             .name = learned->name,
                             .value = learned->value,
                             .grad = learned->grad,
                             .decays = learned->decays,
                             .rate = learned->rate > 0 ? learned->rate : 1};
        PARE_TRY(place(setup->options, t, &state));
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

uint8_t *pare__trained_mask(const pare__optim *optim, const pare__trained *t)
{
    return t->param < 0 ? t->learned->mask : pare_model_param(optim->model, t->param)->mask;
}

pare_status pare__optim_reset(const pare__optim *optim)
{
    return pare_backend_clear(optim->be, optim->state, optim->state_bytes);
}

pare_status pare__optim_clear(const pare__optim *optim)
{
    for (size_t i = 0; i < optim->count; i++)
        if (optim->trained[i].param < 0)
            PARE_TRY(pare_backend_clear(optim->be, optim->trained[i].grad.data,
                                        optim->trained[i].count * 4));
    return PARE_OK;
}

pare_status pare__optim_norm(const pare__optim *optim, double *norm)
{
    pare_sum_squares_args args = {.sum = pare_vector(optim->sum, PARE_F64, 1)};
    double sum = 0;
    for (size_t i = 0; i < optim->count; i++) {
        const pare__trained *t = &optim->trained[i];
        args.x = pare_vector(t->grad.data, PARE_F32, t->count);
        args.mask = pare_vector(pare__trained_mask(optim, t), PARE_U8, t->count);
        PARE_TRY(pare_sum_squares(optim->be, &args));
        args.accumulate = true;
    }
    PARE_TRY(pare_backend_download(optim->be, &sum, optim->sum, sizeof sum));
    *norm = sqrt(sum);
    return PARE_OK;
}

static pare_status move(const pare__optim *optim, const pare_train_options *o,
                        const pare__trained *t, double rate, double grad_scale, int64_t step)
{
    pare_backend *be = optim->be;
    pare_tensor w = pare_vector(t->value.data, PARE_F32, t->count);
    pare_tensor g = pare_vector(t->grad.data, PARE_F32, t->count);
    pare_tensor m = pare_vector(t->m, PARE_F32, t->count);
    pare_tensor mask = pare_vector(pare__trained_mask(optim, t), PARE_U8, t->count);
    float decay = t->decays ? (float)o->decay : 0;
    rate *= t->rate;
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
                             double rate, double grad_scale, int64_t step)
{
    float share = (float)pare__average_share(options, step);
    for (size_t i = 0; i < optim->count; i++) {
        const pare__trained *t = &optim->trained[i];
        if (t->count == 0)
            continue;
        PARE_TRY(move(optim, options, t, rate, grad_scale, step));
        if (t->average)
            PARE_TRY(pare_ema(optim->be,
                              &(pare_ema_args){.e = pare_vector(t->average, PARE_F32, t->count),
                                               .w = pare_vector(t->value.data, PARE_F32, t->count),
                                               .decay = share}));
    }
    return PARE_OK;
}

pare_status pare__optim_swap(const pare__optim *optim)
{
    float *room = (float *)(void *)(optim->average + optim->average_bytes) - SWAPPED;
    for (size_t i = 0; i < optim->count; i++) {
        const pare__trained *t = &optim->trained[i];
        if (!t->average)
            continue;
        float *value = t->value.data;
        for (int64_t k = 0, n; k < t->count; k += n) {
            n = t->count - k < SWAPPED ? t->count - k : SWAPPED;
            PARE_TRY(pare_backend_copy(optim->be, room, value + k, n * 4));
            PARE_TRY(pare_backend_copy(optim->be, value + k, t->average + k, n * 4));
            PARE_TRY(pare_backend_copy(optim->be, t->average + k, room, n * 4));
        }
    }
    return PARE_OK;
}
