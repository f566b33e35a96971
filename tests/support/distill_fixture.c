/* distill_fixture.c - a small student, a small teacher, and the losses between them. */
#include "distill_fixture.h"

#include "base/half.h"

#include <math.h>

/* ---- values ---------------------------------------------------------------------------------- */

static double uniform(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 40) * 0x1p-23 - 1;
}

/* Norms around 1, matrices of the size that keeps a sum's, all else small. */
static void fill(pare_backend *be, const pare_param *p, uint64_t *state)
{
    int64_t count = pare_tensor_count(&p->value), rows, cols;
    pare_shape_matrix(p->value.rank, p->value.shape, &rows, &cols);
    float *values = malloc((size_t)count * 4);
    bool matrix = p->value.rank >= 2;
    double size = p->role == PARE_ROLE_EMBEDDING ? 1 : matrix ? sqrt(3.0 / (double)cols) : 0.1;
    bool positive = p->role == PARE_ROLE_NORM || strstr(p->name, "running_var");
    for (int64_t i = 0; i < count; i++)
        values[i] = (float)(positive ? 1 + 0.3 * uniform(state) : size * uniform(state));
    if (p->value.dtype == PARE_BF16) {
        uint16_t *half = malloc((size_t)count * 2);
        for (int64_t i = 0; i < count; i++)
            half[i] = pare__f32_to_bf16(values[i]);
        assert_ok(pare_backend_upload(be, p->value.data, half, count * 2));
        free(half);
    } else {
        assert_ok(pare_backend_upload(be, p->value.data, values, count * 4));
    }
    free(values);
}

void duel_fill(pare_backend *be, pare_model *model, uint64_t seed)
{
    for (int64_t i = 0; i < pare_model_param_count(model); i++)
        fill(be, pare_model_param(model, i), &seed);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void prepare(duel *d, bool tokens, bool halves)
{
    pare_backend *be = d->teacher_be ? d->teacher_be : d->f.be;
    pare_model_shape shape = d->f.shape;
    shape.frozen_norms = !tokens;
    d->f.shape = shape;
    assert_ok(pare_model_prepare(d->f.model, d->f.be, &shape));
    duel_fill(d->f.be, d->f.model, 7);
    shape.training = false;
    shape.halves = halves;
    shape.compute = halves ? PARE_BF16 : shape.compute;
    if (d->teacher) {
        assert_ok(pare_model_prepare(d->teacher, be, &shape));
        duel_fill(be, d->teacher, 8);
        assert_ok(pare_backend_sync(be)); /* who reads it may have another */
    }
}

static void make_scratch(duel *d)
{
    for (size_t i = 0; i < d->term_count; i++) {
        const pare_loss_term *t = &d->terms[i];
        int64_t scratch = t->loss->scratch(t->state, d->f.model, &d->f.shape);
        int64_t results = t->loss->results(t->state, d->f.model, &d->f.shape);
        assert_true(results <= scratch);
        d->scratch_size = scratch > d->scratch_size ? scratch : d->scratch_size;
        d->results_size = results > d->results_size ? results : d->results_size;
    }
    assert_ok(pare_backend_alloc(d->f.be, d->scratch_size, &d->scratch));
    if (!pare_backend_is_host(d->f.be))
        assert_ok(pare_backend_host_alloc(d->f.be, d->results_size, &d->results));
}

duel duel_make(const duel_options *options)
{
    duel d = {.steps = 10, .teacher_be = options->teacher_be};
    train_fixture_options data = options->data;
    pare_distill_options distill = options->distill;
    data.arch = options->student_arch;
    data.config = options->student_config;
    if (!data.be)
        assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 1}, &data.be));
    d.f = fixture_make(&data);
    assert_ok(pare_model_create(
        &(pare_model_options){.arch = options->teacher_arch, .config = options->teacher_config},
        &d.teacher));
    pare_model_take_pixels(d.teacher, pare_model_facts_of(d.f.model));
    if (options->losses)
        assert_ok(pare_distill_losses_parse(options->losses, &distill));
    assert_ok(pare_distill_create(&distill, d.f.model, d.teacher, options->cache, &d.distill));
    prepare(&d, data.length > 0, options->halves);
    assert_ok(pare_distill_terms(d.distill, d.f.be, 5, &d.terms, &d.term_count));
    make_scratch(&d);
    duel_batch(&d, 0, d.f.shape.batch);
    return d;
}

void duel_batch(duel *d, int64_t first, int64_t size)
{
    pare_batch_free(&d->batch);
    d->batch = fixture_batch(&d->f, first, size);
    d->first = first;
}

void duel_free(duel *d)
{
    pare_backend_release(d->f.be, d->scratch, d->scratch_size);
    pare_backend_host_release(d->f.be, d->results, d->results_size);
    pare_batch_free(&d->batch);
    pare_distill_free(&d->distill);
    pare_model_free(&d->teacher);
    pare_backend_free(&d->teacher_be);
    fixture_free(&d->f);
}

/* ---- a step ---------------------------------------------------------------------------------- */

static double run_terms(duel *d, bool training)
{
    double sum = 0;
    assert_ok(pare_model_forward(d->f.model, d->batch, true, NULL));
    if (d->teacher)
        assert_ok(pare_model_forward(d->teacher, d->batch, false, NULL));
    for (size_t i = 0; i < d->term_count; i++) {
        const pare_loss_term *t = &d->terms[i];
        double weight = pare_ramp_at(&t->weight, d->step, d->steps);
        pare_loss_args args = {.state = t->state,
                               .model = d->f.model,
                               .teacher = d->teacher,
                               .dataset = d->f.dataset,
                               .sample = d->first,
                               .batch = d->batch,
                               .be = d->f.be,
                               .grad_scale = weight,
                               .step = d->step,
                               .steps = d->steps,
                               .first = i == 0,
                               .training = training,
                               .scratch = d->scratch,
                               .results = d->results,
                               .scratch_size = d->scratch_size};
        assert_ok(t->loss->run(&args));
        if (i > 0)
            assert_int_equal(args.count, d->count);
        d->count = args.count;
        d->losses[i] = args.loss;
        sum += weight * args.loss;
    }
    return sum;
}

double duel_loss(duel *d)
{
    return run_terms(d, false);
}

double duel_step(duel *d)
{
    assert_ok(pare_model_clear_grads(d->f.model));
    for (size_t i = 0; i < d->term_count; i++)
        for (size_t k = 0; k < d->terms[i].learned_count; k++) {
            pare_tensor grad = d->terms[i].learned[k].grad;
            assert_ok(pare_backend_clear(d->f.be, grad.data, pare_tensor_count(&grad) * 4));
        }
    double loss = run_terms(d, true);
    assert_ok(pare_model_backward(d->f.model));
    return loss;
}

float *duel_gradients(duel *d, int64_t *count)
{
    pare_tensor arena = pare_model_grad_arena(d->f.model);
    int64_t model = pare_tensor_count(&arena), at = model;
    *count = model + pare_distill_bytes(d->distill) / 4;
    float *all = calloc((size_t)*count, 4);
    assert_ok(pare_backend_download(d->f.be, all, arena.data, model * 4));
    for (size_t i = 0; i < d->term_count; i++)
        for (size_t k = 0; k < d->terms[i].learned_count; k++) {
            pare_tensor grad = d->terms[i].learned[k].grad;
            int64_t n = pare_tensor_count(&grad);
            assert_ok(pare_backend_download(d->f.be, all + at, grad.data, n * 4));
            at += n;
        }
    return all;
}

/* ---- differences ----------------------------------------------------------------------------- */

static double length_of(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

static double moved(duel *d, float *x, const float *kept, const float *grad, int64_t n, double h)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)((double)kept[i] + h * (double)grad[i]);
    double loss = duel_loss(d);
    memcpy(x, kept, (size_t)n * 4);
    return loss;
}

/* Along the gradient the loss rises by its length. Returns that, squared. */
static double check_one(duel *d, const char *name, pare_tensor value, pare_tensor slope)
{
    int64_t n = pare_tensor_count(&value);
    float *kept = malloc((size_t)n * 4), *grad = malloc((size_t)n * 4);
    memcpy(kept, value.data, (size_t)n * 4);
    memcpy(grad, slope.data, (size_t)n * 4);
    double length = length_of(grad, n), want = length * length;
    double h = 1e-3 * (length_of(kept, n) + 0.1) / (length + 1e-30);
    double wide =
        (moved(d, value.data, kept, grad, n, h) - moved(d, value.data, kept, grad, n, -h)) /
        (2 * h);
    double narrow =
        (moved(d, value.data, kept, grad, n, h / 2) - moved(d, value.data, kept, grad, n, -h / 2)) /
        h;
    double got = (4 * narrow - wide) / 3, noise = 3e-7 * (1 + fabs(duel_loss(d))) / h;
    double unclear = 2 * fabs(narrow - wide) + noise;
    if (!isfinite(length) || (length > 1e-3 && !(fabs(got - want) <= 1e-2 * want + unclear)))
        fail_msg("%s: along its gradient of length %g the loss rises by %g (%g, %g)", name, length,
                 got / length, wide / length, narrow / length);
    free(grad);
    free(kept);
    return want;
}

void duel_check(duel *d)
{
    double all = 0;
    duel_step(d);
    for (int64_t i = 0; i < pare_model_param_count(d->f.model); i++) {
        pare_param *p = pare_model_param(d->f.model, i);
        if (p->grad.data)
            all += check_one(d, p->name, p->value, p->grad);
    }
    for (size_t i = 0; i < d->term_count; i++)
        for (size_t k = 0; k < d->terms[i].learned_count; k++) {
            pare_learned *w = &d->terms[i].learned[k];
            double squared = check_one(d, w->name, w->value, w->grad);
            if (!(squared > 1e-8)) /* along a gradient of 0 there is nothing to see */
                fail_msg("%s has a gradient of length %g: it learns nothing", w->name,
                         sqrt(squared));
            all += squared;
        }
    assert_true(all > 1e-4);
}

void duel_check_one(duel *d, const char *name)
{
    pare_param *p = fixture_param(d->f.model, name);
    duel_step(d);
    assert_true(check_one(d, name, p->value, p->grad) > 1e-4);
}
