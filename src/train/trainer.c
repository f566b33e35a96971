/* trainer.c - the one training loop.
 *
 * A step is `accumulate` batches: each goes forward, through the losses, and backward, and
 * gradients add up as they are, of a sum over samples; the optimiser then divides them once by the
 * samples counted (and by what clipping asks), so that a batch in pieces is the same as a batch in
 * one. The stream of samples and every draw follow from the number of the step alone.
 *
 * After a failure the trainer stands where the last whole step left it: what a forward moved beside
 * the parameters (running statistics) is put back.
 */
#include "train_impl.h"

#include "pare/ops.h"

#include <math.h>

/* Losses are averaged over about so many steps for state.smooth_loss. */
#define SMOOTH 50

/* ---- one step -------------------------------------------------------------------------------- */

pare_status pare__keep_buffers(pare_trainer *t, bool back)
{
    float *kept = t->buffers;
    for (int64_t i = 0; i < pare_model_param_count(t->model); i++) {
        pare_param *param = pare_model_param(t->model, i);
        int64_t n = param->buffer ? pare_tensor_count(&param->value) : 0;
        if (n == 0)
            continue;
        float *value = param->value.data;
        PARE_TRY(pare_backend_copy(t->be, back ? value : kept, back ? kept : value, n * 4));
        kept += n;
    }
    return PARE_OK;
}

/* A training that failed with a number that is none: says in which step, and where it came from. */
static pare_status bad_number(pare_trainer *t, const pare_batch *batch, const char *what)
{
    char text[256];
    long long step = (long long)t->state.step + 1;
    PARE_TRY(pare__keep_buffers(t, true)); /* so that the search meets what the step met */
    bool found = pare_model_first_bad(t->model, batch, text, sizeof text);
    PARE_FAIL(PARE_ERR_NUMERIC,
              "step %lld: %s; %s%s; a lower learning rate, a longer warm-up or "
              "clipping may help",
              step, what, found ? "the first bad tensor is " : "every tensor by itself is finite",
              found ? text : "");
}

static pare_status losses_of(pare_trainer *t, const pare_batch *batch)
{
    for (int i = 0; i < t->term_count; i++) {
        pare_loss_args args = {.model = t->model,
                               .batch = batch,
                               .be = t->be,
                               .grad_scale = t->terms[i].weight,
                               .smoothing = t->options.smoothing,
                               .first = i == 0,
                               .training = true,
                               .scratch = t->scratch,
                               .results = t->results,
                               .scratch_size = t->scratch_size};
        PARE_TRY(t->terms[i].loss->run(&args));
        t->step_loss += t->terms[i].weight * args.loss;
        if (i == 0)
            t->step_count += args.count;
        if (!isfinite(args.loss))
            PARE_TRY(bad_number(t, batch,
                                isnan(args.loss) ? "the loss is NaN" : "the loss is infinite"));
    }
    return PARE_OK;
}

static pare_status learn(pare_trainer *t, const pare_batch *batch, int64_t part)
{
    pare_step_seed seed = {.seed = t->options.seed,
                           .step = (uint64_t)(t->state.step * t->options.accumulate + part)};
    if (part == 0) {
        PARE_TRY(pare_model_clear_grads(t->model));
        t->step_loss = 0;
        t->step_count = 0;
    }
    PARE_TRY(pare_model_forward(t->model, batch, true, &seed));
    PARE_TRY(losses_of(t, batch));
    PARE_TRY(pare_model_backward(t->model));
    return PARE_OK;
}

static void count_step(pare_trainer *t, double rate)
{
    pare_train_state *s = &t->state;
    t->losses[s->step++] = (float)s->loss;
    double steps = (double)(s->step < SMOOTH ? s->step : SMOOTH);
    s->smooth_loss += (s->loss - s->smooth_loss) / steps;
    s->rate = rate;
    double seconds = pare__now() - t->started, done = (double)(s->step - t->first_step);
    s->samples_per_second =
        seconds > 0 ? done * (double)(t->options.batch * t->options.accumulate) / seconds : 0;
    s->seconds_left = seconds / done * (double)(s->steps - s->step);
}

static pare_status tell_step(pare_trainer *t, double rate)
{
    PARE_TRY(pare__keep_buffers(t, false));
    count_step(t, rate);
    if (t->callbacks && t->callbacks->step)
        PARE_TRY(t->callbacks->step(t->callbacks->user, t, &t->state));
    return PARE_OK;
}

static pare_status finish_step(pare_trainer *t, const pare_batch *batch)
{
    const pare_train_options *o = &t->options;
    double norm, rate = pare_curve_at(&o->curve, t->state.step);
    if (t->step_count == 0) /* padding alone: a step in which nothing is learned */
        return tell_step(t, rate);
    PARE_TRY(pare__optim_norm(&t->optim, t->model, t->be, &norm));
    norm /= (double)t->step_count;
    if (!isfinite(norm))
        PARE_TRY(bad_number(t, batch, "a gradient is NaN or infinite"));
    double scale = 1 / (double)t->step_count;
    if (o->clip > 0 && norm > o->clip)
        scale *= o->clip / norm;
    PARE_TRY(pare__optim_step(&t->optim, o, t->model, t->be, rate, scale, t->state.step + 1));
    t->state.loss = t->step_loss / (double)t->step_count;
    t->state.grad_norm = norm;
    return tell_step(t, rate);
}

static pare_status work(void *user, int64_t index, const pare_batch *batch)
{
    pare_trainer *t = user;
    int64_t part = index % t->options.accumulate;
    PARE_TRY(learn(t, batch, part));
    if (part == t->options.accumulate - 1)
        PARE_TRY(finish_step(t, batch));
    return PARE_OK;
}

pare_status pare_trainer_run(pare_trainer *t, pare_sched *sched,
                             const pare_train_callbacks *callbacks)
{
    PARE_REQUIRE(!t->swapped, PARE_ERR_ARGUMENT,
                 "the model holds the moving average: swap it back before training goes on");
    int64_t samples = t->options.batch * t->options.accumulate;
    pare_feed_options feed = {.dataset = t->dataset,
                              .batch = t->options.batch,
                              .first = t->state.step * samples,
                              .last = t->state.steps * samples,
                              .ahead = PARE__AHEAD};
    if (feed.first == feed.last)
        return PARE_OK;
    t->callbacks = callbacks;
    t->started = pare__now();
    t->first_step = t->state.step;
    pare_status status = pare_feed_run(sched, "train", &feed, work, t);
    t->callbacks = NULL;
    if (status != PARE_OK) {
        pare__trail(__func__);
        if (status != PARE_ERR_DEVICE) /* that would fail again, over the sentence of the first */
            (void)pare__keep_buffers(t, true);
    }
    return status;
}

/* ---- life ------------------------------------------------------------------------------------ */

static int64_t buffer_count(pare_model *model)
{
    int64_t count = 0;
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        const pare_param *param = pare_model_param(model, i);
        count += param->buffer ? pare_tensor_count(&param->value) : 0;
    }
    return count;
}

/* The most that a loss asks for. */
static void size_scratch(pare_trainer *t, const pare_backend *be, const pare_model_shape *shape)
{
    for (int i = 0; i < t->term_count; i++) {
        int64_t scratch = t->terms[i].loss->scratch(t->model, shape);
        int64_t results = t->terms[i].loss->results(t->model, shape);
        t->scratch_size = scratch > t->scratch_size ? scratch : t->scratch_size;
        if (results > t->results_size && !pare_backend_is_host(be))
            t->results_size = results;
    }
}

/* The list of losses; distillation will add to it. */
static void set_terms(pare_trainer *t)
{
    t->terms[t->term_count++] = (pare__term){.loss = &pare_loss_cross_entropy, .weight = 1};
}

pare_status pare_train_check(const pare_train_options *options, const pare_model *model,
                             const pare_dataset *dataset)
{
    pare_train_options complete;
    PARE_TRY(pare__train_complete(options, &complete));
    PARE_TRY(pare__input_fits(model, dataset));
    PARE_TRY(pare__labels_fit(model, dataset, "training"));
    return PARE_OK;
}

static pare_status create(pare_trainer *t)
{
    pare_model_shape shape = {.batch = t->options.batch,
                              .length = pare_dataset_length(t->dataset),
                              .training = true,
                              .compute = t->options.compute};
    PARE_TRY(pare__optim_create(&t->options, t->model, t->be, &t->optim));
    size_scratch(t, t->be, &shape);
    PARE_TRY(pare_backend_alloc(t->be, t->scratch_size, &t->scratch));
    PARE_TRY(pare_backend_host_alloc(t->be, t->results_size, &t->results));
    t->buffer_count = buffer_count(t->model);
    PARE_TRY(pare_backend_alloc(t->be, t->buffer_count * 4, &t->buffers));
    PARE_TRY(pare__keep_buffers(t, false));
    PARE_TRY(pare__calloc((size_t)t->options.curve.steps, sizeof *t->losses, &t->losses));
    PARE_TRY(pare__train_identity(&t->options, t->dataset, t->be, &t->identity));
    t->state.steps = t->options.curve.steps;
    return PARE_OK;
}

pare_status pare_trainer_create(const pare_train_options *options, pare_model *model,
                                pare_backend *be, const pare_dataset *dataset,
                                pare_trainer **trainer)
{
    pare_trainer *t;
    PARE_TRY(pare_train_check(options, model, dataset));
    PARE_TRY(pare__calloc(1, sizeof *t, &t));
    t->model = model;
    t->be = be;
    t->dataset = dataset;
    set_terms(t);
    pare_status status = pare__train_complete(options, &t->options);
    if (status == PARE_OK)
        status = create(t);
    if (status != PARE_OK) {
        pare__trail(__func__);
        pare_trainer_free(&t);
        return status;
    }
    *trainer = t;
    return PARE_OK;
}

void pare_trainer_free(pare_trainer **trainer)
{
    pare_trainer *t = trainer ? *trainer : NULL;
    if (!t)
        return;
    free(t->identity), free(t->losses);
    pare_backend_release(t->be, t->buffers, t->buffer_count * 4);
    pare_backend_host_release(t->be, t->results, t->results_size);
    pare_backend_release(t->be, t->scratch, t->scratch_size);
    pare__optim_free(&t->optim);
    free(t);
    *trainer = NULL;
}

pare_footprint pare_train_bytes(const pare_train_options *options, pare_model *model,
                                const pare_backend *be, const pare_dataset *dataset,
                                const pare_model_shape *shape)
{
    pare_trainer t = {.model = model};
    pare_footprint bytes = pare__optim_bytes(options, model);
    set_terms(&t);
    size_scratch(&t, be, shape);
    bytes.backend += t.scratch_size + buffer_count(model) * 4;
    bytes.host += t.results_size + options->curve.steps * 4 +
                  PARE__AHEAD * pare_batch_bytes(dataset, shape->batch);
    return bytes;
}

const pare_train_state *pare_trainer_state(const pare_trainer *trainer)
{
    return &trainer->state;
}

void pare_trainer_losses(const pare_trainer *trainer, const float **losses, int64_t *count)
{
    *losses = trainer->losses;
    *count = trainer->state.step;
}

pare_status pare_trainer_swap_average(pare_trainer *t)
{
    PARE_REQUIRE(t->options.ema > 0, PARE_ERR_ARGUMENT,
                 "this training keeps no moving average; ask for one with ema");
    PARE_TRY(pare__optim_swap(&t->optim, t->model));
    t->swapped = !t->swapped;
    return PARE_OK;
}
