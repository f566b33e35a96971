/* survey_kld.c - how much a layer's change moves the whole model: one layer at a time is rounded to
 * nearest by each scheme, or pruned by Wanda's score to each sparsity, and the KL divergence of the
 * model's output from what it was is the mean over the calibration samples. Two copies of the model
 * are held; every option is a run over the samples of both, so this is for small models or few
 * samples. */
#include "survey.h"

#include <math.h>
#include <string.h>

#define BROKEN 1e6 /* nats: where the output is no number */

typedef struct kld {
    const pare__question *q;
    pare__bench bench;
    pare_run_options options; /* of the survey's, without progress: its runs are many and short */
    pare_model_choice choice;
    pare_progress progress;
    int64_t evaluations, evaluated;
    pare__subject model, was;
    pare_dataset *dataset;
    pare_model_shape shape;
    pare_eval_options eval;
    pare__need need;
    char *memory;                       /* of one layer */
    int64_t memory_bytes, beside_bytes; /* of it; of what rounding takes of its own */
} kld;

/* What is made of a layer, in that memory. */
typedef struct room {
    pare_layer layer; /* w, and what a scheme makes of it */
    pare_tensor norm, keys, mask;
} room;

static pare_status open_models(kld *k, const pare__survey *s)
{
    const pare_recipe *r = s->recipe;
    const pare_calibration *c = &r->steps[0].calibration;
    k->choice = (pare_model_choice){.checkpoint = r->model, .arch = r->arch};
    k->options = *s->job->options;
    k->progress = k->options.progress;
    k->options.progress = (pare_progress){0};
    PARE_TRY(pare__bench_open(&k->options, &k->bench));
    PARE_TRY(pare__subject_open(&k->choice, &k->model));
    PARE_TRY(pare__subject_open(&k->choice, &k->was));
    const pare_data_options data = pare__walk_samples(c, r->seed, k->model.model);
    PARE_TRY(pare_dataset_open(&data, &k->dataset));
    k->shape =
        (pare_model_shape){.batch = pare__default_batch(c->batch, k->model.model, k->dataset),
                           .length = pare_dataset_length(k->dataset),
                           .compute = c->compute == PARE_BF16 ? PARE_BF16 : PARE_F32};
    k->eval = (pare_eval_options){.model = k->model.model,
                                  .against = k->was.model,
                                  .be = k->bench.be,
                                  .dataset = k->dataset,
                                  .batch = k->shape.batch,
                                  .metrics = PARE_METRIC_KLD};
    return pare_eval_check(&k->eval);
}

static pare_status predict(kld *k)
{
    PARE_TRY(pare_model_predict(k->model.model, &k->shape, &k->need.model));
    PARE_TRY(pare_model_predict(k->was.model, &k->shape, &k->need.against));
    k->need.beside = pare_eval_bytes(&k->eval, &k->shape);
    k->need.beside.backend += k->memory_bytes + k->beside_bytes;
    k->need.model.masks = k->need.against.masks = 0;
    double batches = ceil((double)pare_dataset_count(k->dataset) / (double)k->shape.batch);
    k->need.flops =
        (double)k->evaluations * batches * (k->need.model.flops + k->need.against.flops);
    return pare__need_check(&k->bench, &k->need, "measuring by the layers' output needs less");
}

static pare_status prepare(kld *k)
{
    PARE_TRY(pare_model_prepare(k->model.model, k->bench.be, &k->shape));
    PARE_TRY(pare_model_load(k->model.model, k->model.store, false));
    PARE_TRY(pare_model_prepare(k->was.model, k->bench.be, &k->shape));
    PARE_TRY(pare_model_load(k->was.model, k->was.store, false));
    return pare_backend_alloc(k->bench.be, k->memory_bytes, &k->memory);
}

static int64_t lay_out_pruning(const pare_entry *e, char *base, room *r)
{
    pare__carve c = {.base = base};
    int64_t n = e->rows * e->cols, line = (e->cols + 7) / 8;
    r->layer.w = pare_matrix(pare__carve_next(&c, n * 4), PARE_F32, e->rows, e->cols);
    r->keys = pare_matrix(pare__carve_next(&c, n * 4), PARE_U32, e->rows, e->cols);
    r->norm = pare_vector(pare__carve_next(&c, e->cols * 4), PARE_F32, e->cols);
    r->mask = pare_matrix(pare__carve_next(&c, e->rows * line), PARE_U8, e->rows, line);
    return c.size;
}

/* The places of an option's arrays; base NULL only counts. */
static int64_t lay_out(const pare__question *q, const pare_entry *e, int option, char *base,
                       room *r)
{
    if (q->prune)
        return lay_out_pruning(e, base, r);
    pare__carve c = {.base = base};
    pare__survey_layer_of(q, option, e, &c, &r->layer);
    return c.size;
}

static void find_room(kld *k, const pare__survey *s)
{
    const pare_quant_method *nearest = pare_quant_find("rtn");
    room r = {0};
    for (size_t l = 0; l < k->q->count; l++)
        for (int i = 0; i < k->q->options; i++) {
            const pare_entry *e = &s->job->tasks[k->q->layers[l].task].out;
            int64_t bytes = lay_out(k->q, e, i, NULL, &r);
            k->memory_bytes = bytes > k->memory_bytes ? bytes : k->memory_bytes;
            bytes = k->q->quant ? pare_quant_bytes(nearest, &r.layer, false, 0) : 0;
            k->beside_bytes = bytes > k->beside_bytes ? bytes : k->beside_bytes;
        }
}

static int64_t param_of(pare_model *model, const char *name)
{
    for (int64_t i = 0; i < pare_model_param_count(model); i++)
        if (strcmp(pare_model_param(model, i)->name, name) == 0)
            return i;
    return -1;
}

/* A parameter's value as a matrix in F32. */
static pare_status widen(kld *k, int64_t param, pare_tensor to)
{
    pare_tensor value = pare_model_param(k->was.model, param)->value;
    int64_t n = pare_tensor_count(&value);
    return pare_cast(k->bench.be, &(pare_cast_args){.x = pare_vector(value.data, value.dtype, n),
                                                    .y = pare_vector(to.data, PARE_F32, n)});
}

static pare_status prune(kld *k, const pare__survey_layer *l, double sparsity, room *r)
{
    pare_backend *be = k->bench.be;
    int64_t cols = r->layer.w.shape[1];
    PARE_TRY(pare_backend_upload(be, r->norm.data, l->norm, cols * 4));
    PARE_TRY(pare_keys_scaled(
        be, &(pare_keys_scaled_args){.w = r->layer.w, .cols = r->norm, .keys = r->keys}));
    PARE_TRY(pare_mask_rows(
        be, &(pare_mask_rows_args){
                .x = r->keys, .prune = (int64_t)rint(sparsity * (double)cols), .mask = r->mask}));
    return pare_mask_apply(be, &(pare_mask_apply_args){.x = r->layer.w, .mask = r->mask});
}

/* What breaks the model altogether is worse than anything that can be measured; of the model as it
 * is, which comes first, that is the end. */
static pare_status evaluate(kld *k, double *harm)
{
    pare_eval_result result = {0};
    pare_status status = pare_evaluate(k->bench.sched, &k->eval, &result);
    bool broken = status == PARE_ERR_NUMERIC && k->evaluated > 0;
    if (!broken)
        PARE_TRY(status);
    *harm = broken ? BROKEN : fmax(result.kld, 0);
    k->evaluated++;
    if (k->progress.update)
        k->progress.update(k->progress.user, "survey", (double)k->evaluated,
                           (double)k->evaluations);
    return PARE_OK;
}

static pare_status try_layer(kld *k, const pare_entry *e, pare__survey_layer *l)
{
    int64_t param = param_of(k->model.model, e->name);
    room r = {0};
    for (int i = 0; param >= 0 && i < k->q->options; i++) {
        lay_out(k->q, e, i, k->memory, &r);
        PARE_TRY(widen(k, param, r.layer.w));
        if (k->q->quant)
            PARE_TRY(pare_quant_round(k->bench.be, &r.layer, k->q->quant->search));
        else
            PARE_TRY(prune(k, l, k->q->steps[i], &r));
        PARE_TRY(pare_model_set_value(k->model.model, param, r.layer.w));
        PARE_TRY(evaluate(k, &l->harm[i]));
    }
    l->measured = true;
    if (param < 0)
        return PARE_OK; /* the model does not read it: nothing harms */
    PARE_TRY(widen(k, param, r.layer.w));
    return pare_model_set_value(k->model.model, param, r.layer.w);
}

static void close_all(kld *k)
{
    if (k->bench.be)
        pare_backend_release(k->bench.be, k->memory, k->memory_bytes);
    pare_dataset_close(&k->dataset);
    pare__subject_close(&k->was);
    pare__subject_close(&k->model);
    pare__bench_close(&k->bench);
}

static pare_status open_all(kld *k, const pare__survey *survey)
{
    k->evaluations = 1; /* of the model as it is */
    for (size_t l = 0; l < k->q->count; l++)
        k->evaluations += k->q->layers[l].measured ? 0 : k->q->options;
    PARE_TRY(open_models(k, survey));
    find_room(k, survey);
    return predict(k);
}

pare_status pare__survey_kld_predict(const pare__survey *survey, const pare__question *question,
                                     pare__need *need)
{
    kld k = {.q = question};
    pare_status status = open_all(&k, survey);
    *need = k.need;
    close_all(&k);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}

pare_status pare__survey_kld(pare__survey *survey, pare__question *question)
{
    pare_status status = PARE_OK;
    kld k = {.q = question};
    double as_it_is;
    PARE_TRY_DONE(open_all(&k, survey));
    PARE_TRY_DONE(prepare(&k));
    PARE_TRY_DONE(evaluate(&k, &as_it_is));
    for (size_t l = 0; l < question->count; l++) {
        pare__survey_layer *layer = &question->layers[l];
        if (layer->measured)
            continue;
        PARE_TRY_DONE(try_layer(&k, &survey->job->tasks[layer->task].out, layer));
        PARE_TRY_DONE(pare__survey_keep(survey));
    }
done:
    close_all(&k);
    return status;
}
