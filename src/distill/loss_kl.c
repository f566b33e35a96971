/* loss_kl.c - the student's outputs learn from the teacher's: the divergence of two softmaxes at a
 * temperature τ.
 *
 *   loss = τ²·Σ_i D(softmax(t_i/τ), softmax(x_i/τ)),  D: KL(p ‖ q) (Hinton, Vinyals & Dean 2015,
 *   eq. 2), KL(q ‖ p) (Gu 2023), or that of Jensen and Shannon
 *
 * over the rows that count; τ² keeps the size of gradients when τ changes. Of models of tokens both
 * heads' logits are made some rows at a time, the student's become their own gradient in place.
 * From a cache of the teacher's k largest outputs the rest of them counts as one class
 * (ops_distill.h, kl_top). Cost: the products of both heads and two passes over the logits.
 */
#include "distill_impl.h"

#include "pare/ops.h"

/* How the scratch is used; results first. */
typedef struct plan {
    int32_t *index;   /* [rows, k] from a cache, and their log-probabilities */
    float *value;     /* [rows, k] */
    int64_t cached;   /* bytes of these */
    float *loss;      /* [rows] */
    int64_t results;  /* bytes of all so far */
    float *logits;    /* [chunk, V] of the teacher, of TOKENS */
    pare_tensor head; /* the teacher's in BF16, data NULL: as it is */
    int64_t bytes;
} plan;

static void lay_out_results(const pare__compared *c, int64_t rows, char *memory, plan *p)
{
    pare__carve carve = {.base = memory};
    int64_t k = c->cache ? pare_cache_facts_of(c->cache)->k : 0;
    p->index = pare__carve_next(&carve, rows * k * 4);
    p->value = pare__carve_next(&carve, rows * k * 4);
    p->cached = carve.size;
    p->loss = pare__carve_next(&carve, rows * 4);
    p->results = p->bytes = carve.size;
}

/* halves: room for a head in BF16. */
static void lay_out(const pare__compared *c, const pare_model *model, int64_t rows, bool halves,
                    char *memory, plan *p)
{
    const pare_model_facts *facts = pare_model_facts_of(model);
    *p = (plan){0};
    lay_out_results(c, rows, memory, p);
    if (c->cache || facts->output != PARE_OUTPUT_TOKENS)
        return;
    pare__carve carve = {.base = memory, .size = p->results};
    pare_tensor head = pare_model_head(c->teacher, NULL)->value;
    p->logits = pare__carve_next(&carve, pare_logits_at_once(facts, rows) * facts->classes * 4);
    if (halves && head.dtype != PARE_BF16)
        p->head = pare_matrix(pare__carve_next(&carve, head.shape[0] * head.shape[1] * 2),
                              PARE_BF16, head.shape[0], head.shape[1]);
    p->bytes = carve.size;
}

static void plan_for(void *state, pare_model *model, const pare_model_shape *shape, plan *p)
{
    pare_batch largest = {.size = shape->batch, .length = shape->length};
    int64_t rows = pare_logits_rows(pare_model_facts_of(model), &largest);
    lay_out(state, model, rows, shape->compute == PARE_BF16, NULL, p);
}

static int64_t scratch(void *state, pare_model *model, const pare_model_shape *shape)
{
    plan p;
    plan_for(state, model, shape, &p);
    return p.bytes + pare_logits_bytes(model, shape);
}

static int64_t results(void *state, pare_model *model, const pare_model_shape *shape)
{
    plan p;
    plan_for(state, model, shape, &p);
    return p.results;
}

/* ---- a chunk of rows ------------------------------------------------------------------------- */

typedef struct running {
    pare_loss_args *args;
    const pare__compared *c;
    plan plan;
    double temperature;
} running;

static pare_status measure_cached(const running *r, int64_t first, pare_tensor logits,
                                  pare_tensor gradient)
{
    double t = r->temperature;
    int64_t count = logits.shape[0], k = pare_cache_facts_of(r->c->cache)->k;
    PARE_TRY(pare_kl_top(
        r->args->be,
        &(pare_kl_top_args){.x = logits,
                            .index = pare_matrix(r->plan.index + first * k, PARE_I32, count, k),
                            .value = pare_matrix(r->plan.value + first * k, PARE_F32, count, k),
                            .labels = pare__row_labels(r->args, first, count),
                            .loss = pare_vector(r->plan.loss + first, PARE_F32, count),
                            .dx = gradient,
                            .grad_scale = (float)(r->args->grad_scale * t * t),
                            .temperature = (float)t}));
    return PARE_OK;
}

static pare_status measure(void *user, int64_t first, pare_tensor logits, pare_tensor gradient)
{
    const running *r = user;
    double t = r->temperature;
    int64_t count = logits.shape[0];
    pare_tensor teacher;
    if (r->c->cache)
        return measure_cached(r, first, logits, gradient);
    PARE_TRY(pare_logits_of(r->args->teacher, r->args->be, first, count,
                            r->plan.head.data ? &r->plan.head : NULL, r->plan.logits, &teacher));
    PARE_TRY(pare_kl(r->args->be,
                     &(pare_kl_args){.teacher = teacher,
                                     .x = logits,
                                     .labels = pare__row_labels(r->args, first, count),
                                     .kl = pare_vector(r->plan.loss + first, PARE_F32, count),
                                     .dx = gradient,
                                     .grad_scale = (float)(r->args->grad_scale * t * t),
                                     .temperature = (float)t,
                                     .divergence = r->c->options->divergence}));
    return PARE_OK;
}

/* ---- all rows -------------------------------------------------------------------------------- */

/* The cached outputs of the batch to where ops see them. */
static pare_status read_cache(const running *r, const plan *near)
{
    const pare_loss_args *args = r->args;
    PARE_REQUIRE(args->dataset, PARE_ERR_ARGUMENT,
                 "a teacher's cache is read by sample: it is for the data it was made of");
    PARE_TRY(pare_cache_read(r->c->cache, args->dataset, args->sample, args->batch->size,
                             near->index, near->value));
    PARE_TRY(pare_backend_upload(args->be, r->plan.index, near->index, near->cached));
    return PARE_OK;
}

static pare_status run(pare_loss_args *args)
{
    running r = {.args = args, .c = args->state};
    const pare_model_facts *facts = pare_model_facts_of(args->model);
    int64_t rows = pare_logits_rows(facts, args->batch);
    PARE_REQUIRE(r.c->cache || args->teacher, PARE_ERR_ARGUMENT,
                 "kl needs a teacher that went forward with the batch, or a cache of its outputs");
    const pare_ramp *ramp = &r.c->options->temperature;
    r.temperature = ramp->from > 0 ? pare_ramp_at(ramp, args->step, args->steps) : 1;
    bool halves = pare_model_output(args->model).dtype == PARE_BF16 && !r.c->cache &&
                  pare_model_output(args->teacher).dtype == PARE_BF16;
    bool padded = facts->output == PARE_OUTPUT_TOKENS && args->batch->keys;
    PARE_REQUIRE(args->batch->labels || !padded, PARE_ERR_ARGUMENT,
                 "which of the tokens are compared is said by labels, which the data has not");
    lay_out(r.c, args->model, rows, halves, args->scratch, &r.plan);
    PARE_REQUIRE(r.plan.bytes <= args->scratch_size, PARE_ERR_ARGUMENT,
                 "the divergence of %lld rows needs a larger scratch", (long long)rows);
    plan near = r.plan;
    if (args->results)
        lay_out_results(r.c, rows, args->results, &near);
    args->loss = 0;
    args->count = pare__units(args);
    args->top1 = args->top5 = 0;
    if (r.c->cache)
        PARE_TRY(read_cache(&r, &near));
    if (r.plan.head.data)
        PARE_TRY(
            pare_cast(args->be, &(pare_cast_args){.x = pare_model_head(args->teacher, NULL)->value,
                                                  .y = r.plan.head}));
    PARE_TRY(pare_logits_run(&(pare_logits_walk){.args = args,
                                                 .scratch = (char *)args->scratch + r.plan.bytes,
                                                 .scratch_size = args->scratch_size - r.plan.bytes,
                                                 .measure = measure,
                                                 .user = &r}));
    PARE_TRY(pare_backend_download(args->be, near.loss, r.plan.loss, rows * 4));
    for (int64_t i = 0; i < rows; i++)
        if (pare__row_counts(args, i))
            args->loss += r.temperature * r.temperature * (double)near.loss[i];
    return PARE_OK;
}

const pare_loss pare__loss_kl = {.name = "kl",
                                 .summary = "divergence of the outputs at a temperature",
                                 .scratch = scratch,
                                 .results = results,
                                 .run = run};
