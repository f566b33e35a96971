/* trainer.c - the one training loop.
 *
 * A step is `accumulate` batches: each goes forward (through the teacher too, if there is one),
 * through the losses, and backward, and gradients add up as they are, of a sum over samples; the
 * optimiser then divides them once by the samples counted (and by what clipping asks), so that a
 * batch in pieces is the same as a batch in one; ranks.c adds those of several ranks. Around that
 * stand the parts, in their order. The stream of samples and every draw follow from the number of
 * the step alone.
 *
 * After a failure the trainer stands where the last whole step left it: what a forward moved beside
 * the parameters (running statistics) is put back.
 */
#include "train_impl.h"

#include "pare/ops.h"

#include <math.h>

/* Losses are averaged over about so many steps for state.smooth_loss. */
#define SMOOTH 50

/* A loss that rounding alone makes. */
#define NOTHING 1e-8

/* ---- one step -------------------------------------------------------------------------------- */

pare_status pare__copy_buffers(pare_trainer *t, float *kept, bool back)
{
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

pare_status pare__keep_buffers(pare_trainer *t, bool back)
{
    return pare__copy_buffers(t, t->buffers, back);
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

/* Says which loss it was. */
static pare_status check_loss(pare_trainer *t, const pare_batch *batch, const pare_loss *loss,
                              double value)
{
    char text[96];
    if (isfinite(value))
        return PARE_OK;
    snprintf(text, sizeof text, "the loss%s%s is %s", t->setup.term_count > 1 ? " of " : "",
             t->setup.term_count > 1 ? loss->name : "", isnan(value) ? "NaN" : "infinite");
    return bad_number(t, batch, text);
}

static pare_status losses_of(pare_trainer *t, const pare_batch *batch)
{
    for (size_t i = 0; i < t->setup.term_count; i++) {
        const pare_loss_term *term = &t->setup.terms[i];
        double weight = pare_ramp_at(&term->weight, t->state.step, t->state.steps);
        pare_loss_args args = {.state = term->state,
                               .model = t->model,
                               .teacher = t->setup.teacher,
                               .dataset = t->dataset,
                               .sample = t->sample,
                               .batch = batch,
                               .be = t->be,
                               .grad_scale = weight,
                               .smoothing = t->options.smoothing,
                               .step = t->state.step,
                               .steps = t->state.steps,
                               .first = i == 0,
                               .training = true,
                               .scratch = t->scratch,
                               .results = t->results,
                               .scratch_size = t->scratch_size};
        PARE_TRY(term->loss->run(&args));
        PARE_TRY(check_loss(t, batch, term->loss, args.loss));
        t->step_loss += weight * args.loss;
        t->step_terms[i] += args.loss;
        if (i == 0)
            t->step_count += args.count;
    }
    return PARE_OK;
}

/* ---- the parts ------------------------------------------------------------------------------- */

static pare_train_moment moment_of(const pare_trainer *t)
{
    return (pare_train_moment){.model = t->model,
                               .be = t->be,
                               .step = t->state.step,
                               .steps = t->state.steps,
                               .rate = pare_curve_at(&t->options.curve, t->state.step)};
}

static pare_status parts_before(pare_trainer *t)
{
    pare_train_moment m = moment_of(t);
    for (size_t i = 0; i < t->setup.part_count; i++)
        if (t->setup.parts[i]->before)
            PARE_TRY(t->setup.parts[i]->before(t->setup.parts[i]->state, &m));
    return PARE_OK;
}

static pare_status parts_back(pare_trainer *t)
{
    pare_train_moment m = moment_of(t);
    for (size_t i = t->setup.part_count; i-- > 0;)
        if (t->setup.parts[i]->back)
            PARE_TRY(t->setup.parts[i]->back(t->setup.parts[i]->state, &m));
    return PARE_OK;
}

static pare_status parts_after(pare_trainer *t)
{
    pare_train_moment m = moment_of(t);
    for (size_t i = 0; i < t->setup.part_count; i++)
        if (t->setup.parts[i]->after)
            PARE_TRY(t->setup.parts[i]->after(t->setup.parts[i]->state, &m));
    return PARE_OK;
}

pare_status pare__parts_loaded(pare_trainer *t)
{
    pare_train_moment m = moment_of(t);
    for (size_t i = 0; i < t->setup.part_count; i++)
        if (t->setup.parts[i]->loaded)
            PARE_TRY(t->setup.parts[i]->loaded(t->setup.parts[i]->state, &m));
    return PARE_OK;
}

/* ---- one step, continued --------------------------------------------------------------------- */

/* Where the curve begins again, so does the optimiser. */
static bool restarts(const pare_trainer *t)
{
    int64_t step = t->state.step;
    return step > 0 && pare_curve_begin(&t->options.curve, step) == step;
}

static int64_t optimiser_step(const pare_trainer *t)
{
    return t->state.step - pare_curve_begin(&t->options.curve, t->state.step) + 1;
}

static pare_status begin_step(pare_trainer *t)
{
    if (restarts(t))
        PARE_TRY(pare__optim_reset(&t->optim));
    PARE_TRY(parts_before(t));
    PARE_TRY(pare_model_clear_grads(t->model));
    PARE_TRY(pare__optim_clear(&t->optim));
    t->step_loss = 0;
    memset(t->step_terms, 0, sizeof t->step_terms);
    t->step_count = 0;
    return PARE_OK;
}

/* Gradients of several ranks are summed while the last backward goes on. */
static pare_status backward(pare_trainer *t, int64_t part)
{
    if (!t->ranks || part < t->options.accumulate - 1)
        return pare_model_backward(t->model);
    pare_status status = pare__team_begin(t);
    if (status == PARE_OK)
        status = pare_model_backward(t->model);
    pare_model_on_grad(t->model, NULL, NULL);
    return status;
}

static pare_status learn(pare_trainer *t, const pare_batch *batch, int64_t part)
{
    uint64_t step = (uint64_t)(t->state.step * t->options.accumulate + part);
    pare_step_seed seed = {.seed = t->options.seed, .step = pare__team_stream(t, step)};
    if (part == 0)
        PARE_TRY(begin_step(t));
    PARE_TRY(pare_model_forward(t->model, batch, true, &seed));
    PARE_TRY(pare__teacher_ready(t, batch));
    PARE_TRY(losses_of(t, batch));
    PARE_TRY(pare__teacher_next(t));
    PARE_TRY(backward(t, part));
    return PARE_OK;
}

static void count_step(pare_trainer *t, double rate)
{
    pare_train_state *s = &t->state;
    t->losses[s->step++] = (float)s->loss;
    double steps = (double)(s->step < SMOOTH ? s->step : SMOOTH);
    s->smooth_loss += (s->loss - s->smooth_loss) / steps;
    for (size_t i = 0; t->step_count > 0 && i < t->setup.term_count; i++)
        s->terms[i] += (t->step_terms[i] / (double)t->step_count - s->terms[i]) / steps;
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

/* A student that is its teacher has nothing to learn; parts change it yet. */
static pare_status check_zero(const pare_trainer *t)
{
    bool zero = t->setup.teacher && t->setup.part_count == 0 && t->state.step == 0;
    for (size_t i = 0; zero && i < t->setup.term_count; i++)
        zero = t->step_terms[i] <= NOTHING * (double)t->step_count;
    PARE_REQUIRE(!zero, PARE_ERR_NUMERIC,
                 "every loss of the first step is 0 (below %g): the student gives what its teacher "
                 "gives; prune or quantise it first, or take another teacher",
                 NOTHING);
    return PARE_OK;
}

static pare_status finish_step(pare_trainer *t, const pare_batch *batch)
{
    const pare_train_options *o = &t->options;
    double norm, rate = pare_curve_at(&o->curve, t->state.step);
    if (t->ranks)
        PARE_TRY(pare__team_end(t));
    if (t->step_count == 0) /* padding alone: a step in which nothing is learned */
        return tell_step(t, rate);
    PARE_TRY(check_zero(t));
    PARE_TRY(parts_back(t));
    PARE_TRY(pare__optim_norm(&t->optim, &norm));
    norm /= (double)t->step_count;
    if (!isfinite(norm))
        PARE_TRY(bad_number(t, batch, "a gradient is NaN or infinite"));
    double scale = 1 / (double)t->step_count;
    if (o->clip > 0 && norm > o->clip)
        scale *= o->clip / norm;
    PARE_TRY(pare__optim_step(&t->optim, o, rate, scale, optimiser_step(t)));
    PARE_TRY(parts_after(t));
    t->state.loss = t->step_loss / (double)t->step_count;
    t->state.grad_norm = norm;
    return tell_step(t, rate);
}

static pare_status work(void *user, int64_t index, const pare_batch *batch)
{
    pare_trainer *t = user;
    int64_t part = index % t->options.accumulate;
    t->sample =
        (t->first_step * t->options.accumulate + index) * t->options.batch + pare__team_offset(t);
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
    int64_t samples = t->options.batch * t->options.accumulate, offset = pare__team_offset(t);
    pare_feed_options feed = {.dataset = t->dataset,
                              .batch = pare__team_batch(t),
                              .each = t->options.batch,
                              .first = t->state.step * samples + offset,
                              .last = t->state.steps * samples + offset,
                              .ahead = PARE__AHEAD};
    PARE_TRY(pare__team_agree(t));
    if (feed.first == feed.last)
        return parts_before(t);
    t->callbacks = callbacks;
    t->started = pare__now();
    t->first_step = t->state.step;
    pare_status status = pare__teacher_run(t, sched, &feed, work);
    t->callbacks = NULL;
    if (status == PARE_OK)
        status = parts_before(t); /* the model becomes what was learned */
    if (status != PARE_OK) {
        pare__trail(__func__);
        if (status != PARE_ERR_DEVICE) /* that would fail again, over the sentence of the first */
            (void)pare__keep_buffers(t, true);
        if (t->ranks)
            status = pare_comm_abort(t->setup.comm, status);
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
    for (size_t i = 0; i < t->setup.term_count; i++) {
        const pare_loss_term *term = &t->setup.terms[i];
        int64_t scratch = term->loss->scratch(term->state, t->model, shape);
        int64_t results = term->loss->results(term->state, t->model, shape);
        t->scratch_size = scratch > t->scratch_size ? scratch : t->scratch_size;
        if (results > t->results_size && !pare_backend_is_host(be))
            t->results_size = results;
    }
}

static const pare_loss_term plain = {.loss = &pare_loss_cross_entropy, .weight = {.from = 1}};

/* The setup with what it leaves out. */
static pare_train_setup whole_setup(const pare_train_setup *setup)
{
    pare_train_setup whole = *setup;
    if (whole.term_count == 0) {
        whole.terms = &plain;
        whole.term_count = 1;
    }
    return whole;
}

static pare_status check_terms(const pare_train_setup *setup)
{
    bool labels = false, teacher = false;
    PARE_REQUIRE(setup->term_count <= PARE_TRAIN_TERMS, PARE_ERR_ARGUMENT,
                 "%zu losses are more than the %d that go together", setup->term_count,
                 PARE_TRAIN_TERMS);
    for (size_t i = 0; i < setup->term_count; i++) {
        labels |= setup->terms[i].loss->labels;
        teacher |= setup->terms[i].loss->teacher;
    }
    PARE_REQUIRE(!teacher || setup->teacher, PARE_ERR_ARGUMENT,
                 "a loss that looks at a teacher needs one");
    if (labels)
        PARE_TRY(pare__labels_fit(setup->model, setup->dataset, "training"));
    if (setup->teacher)
        PARE_TRY(pare__input_fits(setup->teacher, setup->dataset));
    return PARE_OK;
}

pare_status pare_train_check(const pare_train_setup *setup)
{
    pare_train_options complete;
    pare_train_setup whole = whole_setup(setup);
    PARE_TRY(pare__train_complete(setup->options, &complete));
    PARE_TRY(pare__input_fits(setup->model, setup->dataset));
    PARE_TRY(check_terms(&whole));
    PARE_TRY(pare__team_check(setup, &complete));
    for (size_t i = 0; i < setup->part_count; i++)
        PARE_REQUIRE((!setup->parts[i]->takes && !setup->parts[i]->moves_masks) ||
                         !(complete.ema > 0),
                     PARE_ERR_ARGUMENT,
                     "a moving average of weights that %s changes is not in this version: leave "
                     "out --ema",
                     setup->parts[i]->name);
    return PARE_OK;
}

static pare_status create(pare_trainer *t)
{
    pare_model_shape shape = {.batch = t->options.batch / pare__team_of(&t->setup),
                              .length = pare_dataset_length(t->dataset),
                              .training = true,
                              .compute = t->options.compute};
    PARE_TRY(pare__optim_create(&t->setup, &t->optim));
    size_scratch(t, t->be, &shape);
    PARE_TRY(pare_backend_alloc(t->be, t->scratch_size, &t->scratch));
    PARE_TRY(pare_backend_host_alloc(t->be, t->results_size, &t->results));
    t->buffer_count = buffer_count(t->model);
    PARE_TRY(pare_backend_alloc(t->be, t->buffer_count * 4, &t->buffers));
    PARE_TRY(pare__keep_buffers(t, false));
    PARE_TRY(pare__team_create(t));
    PARE_TRY(pare__calloc((size_t)t->options.curve.steps, sizeof *t->losses, &t->losses));
    PARE_TRY(pare__train_identity(&t->setup, &t->identity));
    t->state.steps = t->options.curve.steps;
    return PARE_OK;
}

pare_status pare_trainer_create(const pare_train_setup *setup, pare_trainer **trainer)
{
    pare_trainer *t;
    PARE_TRY(pare_train_check(setup));
    PARE_TRY(pare__calloc(1, sizeof *t, &t));
    t->setup = whole_setup(setup);
    t->model = setup->model;
    t->be = setup->be;
    t->dataset = setup->dataset;
    pare_status status = pare__train_complete(setup->options, &t->options);
    t->setup.options = &t->options;
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
    pare__team_free(t);
    pare_backend_release(t->be, t->buffers, t->buffer_count * 4);
    pare_backend_host_release(t->be, t->results, t->results_size);
    pare_backend_release(t->be, t->scratch, t->scratch_size);
    pare__optim_free(&t->optim);
    free(t);
    *trainer = NULL;
}

pare_footprint pare_train_bytes(const pare_train_setup *setup, const pare_model_shape *shape)
{
    pare_trainer t = {.model = setup->model, .setup = whole_setup(setup)};
    pare_footprint bytes = pare__optim_bytes(setup);
    size_scratch(&t, setup->be, shape);
    int64_t buffers = buffer_count(setup->model);
    bytes.backend += t.scratch_size + buffers * 4 * (pare__team_of(setup) > 1 ? 2 : 1);
    bytes.host += pare__team_bytes(setup, buffers) + t.results_size +
                  setup->options->curve.steps * 4 +
                  (PARE__AHEAD + pare__teacher_beside(setup)) *
                      pare_batch_bytes(setup->dataset, shape->batch);
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
    PARE_TRY(pare__optim_swap(&t->optim));
    t->swapped = !t->swapped;
    return PARE_OK;
}
