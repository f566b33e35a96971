/* loss_attention.c - how positions look at one another: attention of a student's layers learns from
 * a teacher's.
 *
 *   loss = 1/P·Σ_pairs Σ_samples n_b/(heads·T_b)·Σ_heads Σ_i row i's loss
 *
 * with a row's loss the mean square of differences of scores before the softmax (Jiao 2020, eq. 7),
 * or KL(softmax(R_i) ‖ softmax(S_i)) (Wang 2020, eq. 5); n_b the units in a sample: 1, or its
 * tokens that count; T_b its positions that are no padding. P pairs of layers; heads are as many in
 * both. What differs from the papers: causal models compare what a position sees. Cost: that of
 * attention twice forward and twice back; no T × T matrix is in memory (ops_distill.h, relation).
 */
#include "distill_impl.h"

#include "pare/ops.h"

/* ---- what relations share -------------------------------------------------------------------- */

/* How the scratch is used: all of it is results. */
typedef struct plan {
    float *weights, *loss; /* [B]; [scores][B] */
    int64_t bytes;
} plan;

static plan lay_out(const pare__compared *c, int each, int64_t B, char *memory)
{
    pare__carve carve = {.base = memory};
    plan p = {0};
    p.weights = pare__carve_next(&carve, B * 4);
    p.loss = pare__carve_next(&carve, (int64_t)c->count * each * B * 4);
    p.bytes = carve.size;
    return p;
}

int64_t pare__scores_results(const pare__compared *c, int each, const pare_model_shape *shape)
{
    return lay_out(c, each, shape->batch, NULL).bytes;
}

static pare_tensor all_rows(pare_tensor t)
{
    int64_t cols = t.shape[t.rank - 1];
    return t.data ? pare_rows_of(t, 0, pare_tensor_count(&t) / cols) : (pare_tensor){0};
}

/* The padding of the sequence that is compared: one that a model has put rows before has none. */
static pare_tensor keys_of(const pare_loss_args *args, int64_t T)
{
    const pare_batch *batch = pare_model_batch(args->model);
    if (!batch->keys || !pare_model_facts_of(args->model)->tokens || batch->length != T)
        return (pare_tensor){0};
    return pare_matrix((void *)(uintptr_t)batch->keys, PARE_U8, batch->size, T);
}

static pare_status compare(const pare_loss_args *args, const pare__pair *pair,
                           const pare__scores *s, pare_relation_kind kind, const plan *p,
                           float *loss, double scale)
{
    int64_t B = args->batch->size;
    pare_tensor a = all_rows(pare_model_tap_value(args->model, pair->tap[s->query]));
    pare_tensor b = all_rows(pare_model_tap_value(args->model, pair->tap[s->key]));
    pare_tensor da = {0}, db = {0};
    if (args->training) {
        da = all_rows(pare_model_tap_grad(args->model, pair->tap[s->query]));
        db = all_rows(pare_model_tap_grad(args->model, pair->tap[s->key]));
    }
    int64_t T = a.shape[0] / B;
    PARE_TRY(pare_relation(
        args->be,
        &(pare_relation_args){
            .ta = all_rows(pare_model_tap_value(args->teacher, pair->teacher_tap[s->query])),
            .tb = all_rows(pare_model_tap_value(args->teacher, pair->teacher_tap[s->key])),
            .a = a,
            .b = b,
            .da = da,
            .db = db,
            .keys = keys_of(args, T),
            .weight = pare_vector(p->weights, PARE_F32, B),
            .loss = pare_vector(loss, PARE_F32, B),
            .T = T,
            .heads = s->heads,
            .kv_heads = s->kv_heads,
            .t_kv_heads = s->teacher_kv_heads,
            .scale = s->scale,
            .scale_t = s->teacher_scale,
            .causal = pair->causal,
            .kind = kind,
            .grad_scale = (float)scale}));
    return PARE_OK;
}

pare_status pare__scores_run(pare_loss_args *args, const pare__scoring *scoring)
{
    const pare__compared *c = args->state;
    int64_t B = args->batch->size, count = (int64_t)c->count * scoring->each;
    plan p = lay_out(c, scoring->each, B, args->scratch);
    plan near = lay_out(c, scoring->each, B, args->results ? args->results : args->scratch);
    double share = 1.0 / (double)count;
    PARE_REQUIRE(p.bytes <= args->scratch_size, PARE_ERR_ARGUMENT,
                 "the scores of %lld samples need a larger scratch", (long long)B);
    PARE_TRY(pare__loss_begin(args));
    pare__sample_weights(args, near.weights);
    PARE_TRY(pare_backend_upload(args->be, p.weights, near.weights, B * 4));
    for (int64_t i = 0; i < count; i++) {
        const pare__pair *pair = &c->pairs[i / scoring->each];
        pare__scores s = scoring->of(pair, (int)(i % scoring->each));
        PARE_TRY(
            compare(args, pair, &s, scoring->kind, &p, p.loss + i * B, args->grad_scale * share));
    }
    PARE_TRY(pare_backend_download(args->be, near.loss, p.loss, count * B * 4));
    for (int64_t i = 0; i < count * B; i++)
        args->loss += (double)near.loss[i] * share;
    return PARE_OK;
}

/* ---- attention ------------------------------------------------------------------------------- */

static pare__scores queries_of_keys(const pare__pair *pair, int index)
{
    (void)index;
    return (pare__scores){.query = 0,
                          .key = 1,
                          .heads = pair->heads,
                          .kv_heads = pair->kv_heads,
                          .teacher_kv_heads = pair->teacher_kv_heads,
                          .scale = pair->scale,
                          .teacher_scale = pair->teacher_scale};
}

static int64_t results(void *state, pare_model *model, const pare_model_shape *shape)
{
    (void)model;
    return pare__scores_results(state, 1, shape);
}

static pare_status run(pare_loss_args *args)
{
    const pare__compared *c = args->state;
    pare_relation_kind kind = c->options->probabilities ? PARE_RELATION_KL : PARE_RELATION_SCORE;
    return pare__scores_run(args, &(pare__scoring){.each = 1, .kind = kind, .of = queries_of_keys});
}

const pare_loss pare__loss_attention = {.name = "attention",
                                        .summary = "attention of layers",
                                        .teacher = true,
                                        .scratch = results,
                                        .results = results,
                                        .run = run};
