/* train_text.c - a training as text. */
#include "train_text.h"

#include "pare/version.h"

#include "base/check.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>

static const char *schedule_name(pare_schedule schedule)
{
    static const char *const names[] = {"cosine", "linear", "step", "constant"};
    return (unsigned)schedule < sizeof names / sizeof *names ? names[schedule] : "?";
}

static void add_curve(pare__text *out, const pare_curve *c)
{
    pare__text_add(out, "  steps: %lld\n  lr: %.17g\n  schedule: %s\n  warmup: %lld\n",
                   (long long)c->steps, c->rate, schedule_name(c->kind), (long long)c->warmup);
    if (c->kind == PARE_SCHEDULE_COSINE || c->kind == PARE_SCHEDULE_LINEAR)
        pare__text_add(out, "  final_lr: %.17g\n", c->final_rate);
    if (c->kind != PARE_SCHEDULE_STEP)
        return;
    pare__text_add(out, "  gamma: %.17g\n  milestones: [", c->gamma > 0 ? c->gamma : 0.1);
    for (int i = 0; i < c->milestone_count; i++)
        pare__text_add(out, "%s%.17g", i ? ", " : "", c->milestones[i]);
    pare__text_add(out, "%s]\n", c->milestone_count ? "" : "0.5, 0.75");
}

static void add_optimiser(pare__text *out, const pare_train_options *o)
{
    if (o->optimiser == PARE_SGD)
        pare__text_add(out, "  optimizer: sgd\n  momentum: %.17g\n  nesterov: %s\n", o->momentum,
                       o->nesterov ? "true" : "false");
    else
        pare__text_add(out, "  optimizer: adamw\n  beta1: %.17g\n  beta2: %.17g\n  eps: %.17g\n",
                       o->beta1 > 0 ? o->beta1 : 0.9, o->beta2 > 0 ? o->beta2 : 0.999,
                       o->eps > 0 ? o->eps : 1e-8);
    pare__text_add(out,
                   "  weight_decay: %.17g\n  clip: %.17g\n  label_smoothing: %.17g\n  ema: %.17g\n",
                   o->decay, o->clip, o->smoothing, o->ema);
    for (size_t i = 0; i < o->freezes; i++)
        pare__text_add(out, "  freeze: \"%s\"\n", o->freeze[i]);
}

static void add_data(pare__text *out, const pare_data_options *d)
{
    if (d->tokens)
        pare__text_add(out, "  seq_len: %lld\n  stride: %lld\n  pad_id: %lld\n  bos_id: %lld\n",
                       (long long)d->seq_len, (long long)d->stride, (long long)d->pad_id,
                       (long long)d->bos_id);
    else
        pare__text_add(out, "  crop: %d\n  flip: %s\n  mixup: %.9g\n", d->crop,
                       d->flip ? "true" : "false", (double)d->mixup);
    pare__text_add(out, "  skip: %lld\n  samples: %lld\n  shuffle: %s\n", (long long)d->skip,
                   (long long)d->samples, d->shuffle ? "true" : "false");
}

static void add_ramp(pare__text *out, const char *name, const pare_ramp *ramp)
{
    pare__text_add(out, "    %s: %.17g", name, ramp->from);
    if (ramp->end > 0)
        pare__text_add(out, " > %.17g from %.17g to %.17g", ramp->to, ramp->begin, ramp->end);
    pare__text_add(out, "\n");
}

static void add_teacher(pare__text *out, const pare_train_job *job,
                        const pare_distill_options *losses)
{
    static const char *const divergences[] = {"forward", "reverse", "js"};
    if (!job->teacher.checkpoint)
        return;
    pare__text_add(out, "  teacher_precision: %s\n  loss:\n",
                   job->teacher_compute == PARE_BF16 ? "bf16" : "f32");
    for (int k = 0; k < PARE_DISTILL_KINDS; k++)
        if (losses->weight[k].from > 0 || losses->weight[k].to > 0)
            add_ramp(out, pare_distill_kind_name((pare_distill_kind)k), &losses->weight[k]);
    add_ramp(out, "temperature", &losses->temperature);
    pare__text_add(out,
                   "  divergence: %s\n  hidden: %s\n  layers: %s\n  attention: %s\n"
                   "  relation_heads: %lld\n  relation_layer: %lld\n",
                   divergences[losses->divergence], losses->cosine ? "cosine" : "mse",
                   pare_layer_map_name(losses->map),
                   losses->probabilities ? "probabilities" : "scores",
                   (long long)losses->relation_heads, (long long)losses->relation_layer);
    if (job->cache)
        pare__text_add(out, "  cache_k: %lld\n", (long long)job->cache_k);
    if (job->student)
        pare__text_add(out, "  student: \"%s\"\n  init: %s\n", job->student,
                       pare_student_init_name(job->init));
}

static void add_masks(pare__text *out, const pare_mask_options *m)
{
    char pattern[32];
    pare__text_add(out,
                   "  masks: %s\n  method: %s\n  pattern: \"%s\"\n  scope: %s\n  erk: %s\n"
                   "  sparsity: %.17g > %.17g\n  begin: %.17g\n  end: %.17g\n  each: %lld\n"
                   "  rounds: %lld\n  rewind: %lld\n  fraction: %.17g\n  revive: %s\n",
                   pare_mask_schedule_name(m->schedule), m->method ? m->method->name : "magnitude",
                   pare_pattern_text(&m->pattern, pattern, sizeof pattern),
                   m->global ? "global" : "layer", m->erk ? "true" : "false", m->initial, m->final,
                   m->begin, m->end, (long long)m->each, (long long)m->rounds, (long long)m->rewind,
                   m->fraction, m->revive ? "true" : "false");
}

/* Retraining: which of it, and of which parameters. */
static void add_retraining(pare__text *out, const pare_train_job *job)
{
    char scheme[32];
    if (job->masks)
        add_masks(out, job->masks);
    if (job->qat)
        pare__text_add(out, "  qat: %s\n  fixed: %s\n  first_last: %s\n",
                       pare_scheme_text(&job->qat->scheme, scheme, sizeof scheme),
                       job->qat->fixed ? "true" : "false", job->qat->first_last ? "true" : "false");
    if (job->lora)
        pare__text_add(out, "  lora: %lld\n  alpha: %.17g\n  keep_mask: %s\n",
                       (long long)job->lora->rank, job->lora->alpha,
                       job->lora->keep_mask ? "true" : "false");
    for (size_t i = 0; i < job->choice.includes; i++)
        pare__text_add(out, "  include: \"%s\"\n", job->choice.include[i]);
    for (size_t i = 0; i < job->choice.excludes; i++)
        pare__text_add(out, "  exclude: \"%s\"\n", job->choice.exclude[i]);
}

pare_status pare__train_recipe(const pare_train_job *job, const pare_train_options *train,
                               const pare_distill_options *losses, const pare_data_options *data,
                               char **text)
{
    pare__text out = {0};
    pare__text_add(&out, "seed: %llu\ntrain:\n", (unsigned long long)train->seed);
    if (job->model.arch)
        pare__text_add(&out, "  arch: \"%s\"\n", job->model.arch);
    pare__text_add(&out, "  from: %s\n  batch: %lld\n  accumulate: %lld\n",
                   job->model.checkpoint ? "checkpoint" : "scratch", (long long)train->batch,
                   (long long)train->accumulate);
    add_curve(&out, &train->curve);
    add_optimiser(&out, train);
    pare__text_add(&out, "  precision: %s\n  keep_masks: %s\n",
                   train->compute == PARE_BF16 ? "bf16" : "f32",
                   job->keep_masks ? "true" : "false");
    add_data(&out, data);
    add_teacher(&out, job, losses);
    add_retraining(&out, job);
    PARE_TRY(pare__text_take(&out, text));
    return PARE_OK;
}

static pare_status add_digest(pare__text *out, pare_backend *be, const char *key, const char *text)
{
    uint64_t digest[2] = {0};
    char hex[33];
    PARE_TRY(pare_digest(be, &(pare_digest_args){.bytes = text,
                                                 .size = text ? (int64_t)strlen(text) : 0,
                                                 .result = digest}));
    pare__hex128(digest, hex);
    pare__text_add(out, "%s: %s\n", key, hex);
    return PARE_OK;
}

pare_status pare__train_fingerprint(const pare__identity *identity, char **text)
{
    pare__text out = {0};
    pare_status status = PARE_OK;
    pare__text_add(&out, "pare: %s\n%sdata: %s\n", pare_version(), identity->recipe,
                   identity->data);
    pare_backend *host = pare_backend_host(identity->be);
    PARE_TRY_DONE(add_digest(&out, host, "model", identity->sources));
    PARE_TRY_DONE(add_digest(&out, host, "config", identity->config));
    const char *name = pare_backend_name(identity->be);
    name += strncmp(name, "cuda:", 5) == 0 ? strcspn(name, " ") + 1 : 0; /* ranks have one each */
    if (identity->threads > 0)
        pare__text_add(&out, "threads: %d\n", identity->threads);
    pare__text_add(&out, "backend: %s, %s\n", name, pare_cpu_dnnl());
    PARE_TRY_DONE(pare__text_take(&out, text));
done:
    pare__text_free(&out);
    return status;
}
