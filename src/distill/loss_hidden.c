/* loss_hidden.c - hidden states of a student's layers learn from those of a teacher's.
 *
 *   loss = 1/P·Σ_pairs Σ_rows weight·|x·Wᵀ − t|²/D,  or weight·(1 − cos(x·Wᵀ, t))
 *
 * over P pairs of layers and D features of the teacher; W [D, D'] is learned where the widths
 * differ, one of each pair (Romero 2015; Jiao 2020, eq. 8, where all layers share one and their
 * losses are added, not meant: so a weight means the same for every depth). weight: units.c. dx =
 * G·W, dW = Gᵀ·x with G the gradient by x·Wᵀ. Cost: three products a pair with a projection, else
 * two passes over the states.
 */
#include "distill_impl.h"

#include "pare/ops.h"

/* How the scratch is used: results first. */
typedef struct plan {
    float *weights; /* [the most rows of a pair] */
    float *loss;    /* [rows] of each pair, one after the other */
    int64_t results;
    char *room; /* x·Wᵀ and its gradient, or a gradient that is added then */
    int64_t bytes;
} plan;

static int64_t widest(const pare__pair *pair)
{
    return pair->projection ? pair->teacher_width[0] : pair->width[0];
}

static void lay_out(const pare__compared *c, const pare_model *model, int64_t batch, int64_t length,
                    char *memory, plan *p)
{
    pare__carve carve = {.base = memory};
    int64_t most = 0, room = 0, all = 0;
    for (size_t i = 0; i < c->count; i++) {
        int64_t rows = pare__pair_rows(&c->pairs[i], model, batch, length);
        int64_t bytes = rows * widest(&c->pairs[i]) * (int64_t)sizeof(float);
        most = rows > most ? rows : most;
        room = bytes > room ? bytes : room;
        all += rows;
    }
    p->weights = pare__carve_next(&carve, most * 4);
    p->loss = pare__carve_next(&carve, all * 4);
    p->results = carve.size;
    p->room = pare__carve_next(&carve, room);
    p->bytes = carve.size;
}

int64_t pare__states_scratch(void *state, pare_model *model, const pare_model_shape *shape)
{
    plan p;
    lay_out(state, model, shape->batch, shape->length, NULL, &p);
    return p.bytes;
}

int64_t pare__states_results(void *state, pare_model *model, const pare_model_shape *shape)
{
    plan p;
    lay_out(state, model, shape->batch, shape->length, NULL, &p);
    return p.results;
}

/* ---- a pair ---------------------------------------------------------------------------------- */

static pare_tensor all_rows(pare_tensor t)
{
    int64_t cols = t.shape[t.rank - 1];
    return pare_rows_of(t, 0, pare_tensor_count(&t) / cols);
}

/* The loss of rows, and its gradient × scale. */
static pare_status compare(const pare_loss_args *args, bool cosine, pare_tensor x, pare_tensor t,
                           const plan *p, float *loss, pare_tensor dx, double scale)
{
    pare_tensor weight = pare_vector(p->weights, PARE_F32, x.shape[0]);
    pare_tensor losses = pare_vector(loss, PARE_F32, x.shape[0]);
    if (cosine)
        PARE_TRY(pare_cosine(args->be, &(pare_cosine_args){.x = x,
                                                           .t = t,
                                                           .weight = weight,
                                                           .loss = losses,
                                                           .dx = dx,
                                                           .grad_scale = (float)scale}));
    else
        PARE_TRY(pare_mse(args->be, &(pare_mse_args){.x = x,
                                                     .t = t,
                                                     .weight = weight,
                                                     .loss = losses,
                                                     .dx = dx,
                                                     .grad_scale = (float)scale}));
    return PARE_OK;
}

static pare_status projected(const pare_loss_args *args, const pare__pair *pair, bool cosine,
                             const plan *p, float *loss, double scale)
{
    const pare_learned *w = pair->projection;
    pare_tensor x = all_rows(pare_model_tap_value(args->model, pair->tap[0]));
    pare_tensor t = all_rows(pare_model_tap_value(args->teacher, pair->teacher_tap[0]));
    pare_tensor grad = pare_model_tap_grad(args->model, pair->tap[0]);
    pare_tensor y = pare_matrix(p->room, x.dtype, x.shape[0], t.shape[1]);
    PARE_TRY(
        pare_gemm(args->be, &(pare_gemm_args){.a = x, .b = w->value, .c = y, .trans_b = true}));
    PARE_TRY(compare(args, cosine, y, t, p, loss, args->training ? y : (pare_tensor){0}, scale));
    if (!args->training)
        return PARE_OK;
    PARE_TRY(pare_gemm(
        args->be,
        &(pare_gemm_args){.a = y, .b = x, .c = w->grad, .trans_a = true, .accumulate = true}));
    if (grad.data)
        PARE_TRY(pare_gemm(
            args->be,
            &(pare_gemm_args){.a = y, .b = w->value, .c = all_rows(grad), .accumulate = true}));
    return PARE_OK;
}

static pare_status plain(const pare_loss_args *args, const pare__pair *pair, bool cosine,
                         const plan *p, float *loss, double scale)
{
    pare_tensor x = all_rows(pare_model_tap_value(args->model, pair->tap[0]));
    pare_tensor t = all_rows(pare_model_tap_value(args->teacher, pair->teacher_tap[0]));
    pare_tensor grad = pare_model_tap_grad(args->model, pair->tap[0]), dx = {0};
    if (args->training && grad.data)
        dx = pare_matrix(p->room, x.dtype, x.shape[0], x.shape[1]);
    PARE_TRY(compare(args, cosine, x, t, p, loss, dx, scale));
    if (dx.data) {
        grad = pare_vector(grad.data, grad.dtype, pare_tensor_count(&grad));
        pare_tensor added = pare_vector(dx.data, dx.dtype, pare_tensor_count(&dx));
        PARE_TRY(pare_add(args->be, &(pare_add_args){.a = grad, .b = added, .y = grad}));
    }
    return PARE_OK;
}

/* ---- all of them ----------------------------------------------------------------------------- */

/* Of mean squares the share of one of the features, of both that of one of the pairs. */
static double share(const pare__compared *c, const pare__pair *pair, bool cosine)
{
    return 1.0 / (double)c->count / (cosine ? 1.0 : (double)pair->teacher_width[0]);
}

static pare_status weigh(pare_loss_args *args, const plan *p, const plan *near, int64_t rows)
{
    pare__row_weights(args, rows, near->weights);
    PARE_TRY(pare_backend_upload(args->be, p->weights, near->weights, rows * 4));
    return PARE_OK;
}

static void tally(pare_loss_args *args, bool cosine, const float *loss)
{
    const pare__compared *c = args->state;
    for (size_t i = 0; i < c->count; i++) {
        const pare__pair *pair = &c->pairs[i];
        int64_t rows = pare__pair_rows(pair, args->model, args->batch->size, args->batch->length);
        double sum = 0;
        for (int64_t r = 0; r < rows; r++)
            sum += (double)loss[r];
        args->loss += sum * share(c, pair, cosine);
        loss += rows;
    }
}

pare_status pare__states_run(pare_loss_args *args, bool cosine)
{
    const pare__compared *c = args->state;
    int64_t B = args->batch->size, T = args->batch->length, weighed = 0, done = 0;
    plan p, near;
    lay_out(c, args->model, B, T, args->scratch, &p);
    lay_out(c, args->model, B, T, args->results ? args->results : args->scratch, &near);
    PARE_REQUIRE(p.bytes <= args->scratch_size, PARE_ERR_ARGUMENT,
                 "the states of %lld samples need a larger scratch", (long long)B);
    PARE_TRY(pare__loss_begin(args));
    for (size_t i = 0; i < c->count; i++) {
        const pare__pair *pair = &c->pairs[i];
        int64_t rows = pare__pair_rows(pair, args->model, B, T);
        if (rows != weighed)
            PARE_TRY(weigh(args, &p, &near, rows));
        weighed = rows;
        double scale = args->grad_scale * share(c, pair, cosine);
        if (pair->projection)
            PARE_TRY(projected(args, pair, cosine, &p, p.loss + done, scale));
        else
            PARE_TRY(plain(args, pair, cosine, &p, p.loss + done, scale));
        done += rows;
    }
    PARE_TRY(pare_backend_download(args->be, near.loss, p.loss, done * 4));
    tally(args, cosine, near.loss);
    return PARE_OK;
}

static pare_status run(pare_loss_args *args)
{
    const pare__compared *c = args->state;
    return pare__states_run(args, c->options->cosine);
}

const pare_loss pare__loss_hidden = {.name = "hidden",
                                     .summary = "hidden states of layers",
                                     .teacher = true,
                                     .scratch = pare__states_scratch,
                                     .results = pare__states_results,
                                     .run = run};
