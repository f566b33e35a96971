/* train_join.c - what takes part in a training beside the model: losses, schedules of masks,
 * quantisers that training looks through, low-rank factors; and the teacher's outputs on disk. */
#include "training.h"

#include <string.h>

#define CACHED_CLASSES 64

/* ---- which parameters ------------------------------------------------------------------------ */

static bool matches(char *const *globs, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (pare__glob(globs[i], name))
            return true;
    return false;
}

static pare_status check_globs(const pare_model *model, char *const *globs, size_t count)
{
    for (size_t g = 0; g < count; g++) {
        bool any = false;
        for (int64_t i = 0; !any && i < pare_model_param_count(model); i++)
            any = pare__glob(globs[g], pare_model_param((pare_model *)(uintptr_t)model, i)->name);
        PARE_REQUIRE(any, PARE_ERR_ARGUMENT, "no parameter is called '%s'", globs[g]);
    }
    return PARE_OK;
}

static pare_status choose(pare__training *t)
{
    const pare_choice *c = &t->job->choice;
    pare_model *model = t->subject.model;
    int64_t count = pare_model_param_count(model);
    PARE_TRY(check_globs(model, c->include, c->includes));
    PARE_TRY(check_globs(model, c->exclude, c->excludes));
    PARE_TRY(pare__calloc((size_t)count, 1, &t->chosen));
    for (int64_t i = 0; i < count; i++) {
        const pare_param *p = pare_model_param(model, i);
        bool role = p->role == PARE_ROLE_LINEAR || p->role == PARE_ROLE_CONV;
        bool wanted = c->includes > 0 ? matches(c->include, c->includes, p->name) : role;
        t->chosen[i] = wanted && p->value.rank >= 2 && !p->buffer &&
                       !matches(c->exclude, c->excludes, p->name);
    }
    return PARE_OK;
}

/* ---- creating -------------------------------------------------------------------------------- */

/* Without a word outputs are learned from; of embeddings their direction. */
static void decide_losses(pare__training *t)
{
    bool any = false;
    t->losses = t->job->distill;
    for (int k = 0; k < PARE_DISTILL_KINDS; k++)
        any |= t->losses.weight[k].from > 0 || t->losses.weight[k].to > 0;
    bool vector = pare_model_facts_of(t->subject.model)->output == PARE_OUTPUT_VECTOR;
    if (!any)
        t->losses.weight[vector ? PARE_DISTILL_COSINE : PARE_DISTILL_KL].from = 1;
}

/* A cache holds outputs, of samples that are always the same. */
static pare_status check_cache(const pare__training *t)
{
    const pare_ramp *temperature = &t->losses.temperature;
    if (!t->job->cache)
        return PARE_OK;
    for (int k = 0; k < PARE_DISTILL_KINDS; k++)
        PARE_REQUIRE(k == PARE_DISTILL_KL || k == PARE_DISTILL_CE ||
                         !(t->losses.weight[k].from > 0 || t->losses.weight[k].to > 0),
                     PARE_ERR_ARGUMENT,
                     "a cache holds the teacher's outputs alone: the loss %s needs the teacher; "
                     "leave out one of them",
                     pare_distill_kind_name((pare_distill_kind)k));
    PARE_REQUIRE(!pare_dataset_augments(t->dataset), PARE_ERR_ARGUMENT,
                 "a cache holds the outputs of samples as they are: leave out crop, flip and "
                 "mixup, or the cache");
    PARE_REQUIRE(!(temperature->end > 0), PARE_ERR_ARGUMENT,
                 "a cache holds a teacher's outputs at one temperature: give one that stays");
    return PARE_OK;
}

static bool labels_alone(const pare_distill_options *losses)
{
    bool others = false;
    for (int k = 0; k < PARE_DISTILL_KINDS; k++)
        others |= k != PARE_DISTILL_CE && (losses->weight[k].from > 0 || losses->weight[k].to > 0);
    return !others;
}

static pare_status create_losses(pare__training *t)
{
    PARE_REQUIRE(t->teacher.model || !t->job->cache, PARE_ERR_ARGUMENT,
                 "a cache of a teacher's outputs needs the teacher: give --teacher");
    if (!t->teacher.model)
        return PARE_OK;
    decide_losses(t);
    PARE_TRY(check_cache(t));
    if (!t->job->cache && labels_alone(&t->losses))
        pare_model_free(&t->teacher.model); /* the student may have been cut out of it, no more */
    return pare_distill_create(&t->losses, t->subject.model, t->teacher.model, NULL, &t->distill);
}

static pare_status create_masks(pare__training *t)
{
    if (!t->job->masks)
        return PARE_OK;
    t->mask_options = *t->job->masks;
    t->mask_options.chosen = t->chosen;
    t->mask_options.seed = t->train.seed;
    PARE_TRY(pare_masks_create(&t->mask_options, t->subject.model, &t->masks));
    return pare_masks_restart(t->masks, &t->train.curve);
}

static pare_status create_others(pare__training *t)
{
    const pare_train_job *job = t->job;
    PARE_REQUIRE((job->masks != NULL) + (job->qat != NULL) + (job->lora != NULL) <= 1,
                 PARE_ERR_ARGUMENT,
                 "masks that move, quantisation-aware training and LoRA are one training each: do "
                 "one after the other");
    if (job->qat) {
        t->qat_options = *job->qat;
        t->qat_options.chosen = t->chosen;
        t->qat_options.store = t->subject.store;
        PARE_TRY(pare_qat_create(&t->qat_options, t->subject.model, &t->qat));
    }
    if (job->lora) {
        t->lora_options = *job->lora;
        t->lora_options.chosen = t->chosen;
        t->lora_options.seed = t->train.seed;
        t->lora_options.adapter = job->adapter != NULL;
        PARE_TRY(pare_lora_create(&t->lora_options, t->subject.model, &t->lora));
    }
    return PARE_OK;
}

pare_status pare__join_create(pare__training *t)
{
    PARE_TRY(choose(t));
    PARE_TRY(create_losses(t));
    PARE_TRY(create_masks(t));
    PARE_TRY(create_others(t));
    return PARE_OK;
}

void pare__join_free(pare__training *t)
{
    pare_lora_free(&t->lora);
    pare_qat_free(&t->qat);
    pare_masks_free(&t->masks);
    pare_distill_free(&t->distill);
    pare_cache_close(&t->cache);
    free(t->chosen);
}

/* ---- joining --------------------------------------------------------------------------------- */

static void add_part(pare__training *t, pare_train_part *part)
{
    t->parts[t->part_count++] = part;
}

pare_status pare__join_in(pare__training *t, pare_backend *be)
{
    pare_train_part *part;
    t->part_count = 0;
    if (t->distill)
        PARE_TRY(pare_distill_terms(t->distill, be, t->train.seed, &t->terms, &t->term_count));
    if (t->masks) {
        PARE_TRY(pare_masks_part(t->masks, be, &part));
        add_part(t, part);
    }
    if (t->qat) {
        if (be)
            PARE_TRY(pare_qat_calibrate(t->qat, be, t->dataset, t->shape.batch));
        PARE_TRY(pare_qat_part(t->qat, be, &part));
        add_part(t, part);
    }
    if (t->lora) {
        PARE_TRY(pare_lora_part(t->lora, be, &part));
        add_part(t, part);
    }
    return PARE_OK;
}

int64_t pare__join_bytes(const pare__training *t)
{
    return (t->distill ? pare_distill_bytes(t->distill) : 0) +
           (t->masks ? pare_masks_bytes(t->masks) : 0) + (t->qat ? pare_qat_bytes(t->qat) : 0) +
           (t->lora ? pare_lora_bytes(t->lora) : 0);
}

pare_train_setup pare__training_setup(const pare__training *t)
{
    return (pare_train_setup){.options = &t->train,
                              .model = t->subject.model,
                              .be = t->bench.be,
                              .dataset = t->dataset,
                              .terms = t->terms,
                              .term_count = t->term_count,
                              .parts = t->parts,
                              .part_count = t->part_count,
                              .teacher = t->cache ? NULL : t->teacher.model,
                              .teacher_be = t->teacher_be,
                              .comm = t->comm};
}

/* ---- the teacher's outputs on disk ----------------------------------------------------------- */

static pare_status make_cache(pare__training *t, int64_t k, double temperature)
{
    PARE_TRY(pare_model_prepare(t->teacher.model, t->bench.be, &t->teacher_shape));
    PARE_TRY(pare_model_load(t->teacher.model, t->teacher.store, false));
    return pare_cache_make(t->bench.sched,
                           &(pare_cache_options){.path = t->job->cache,
                                                 .teacher = t->teacher.model,
                                                 .be = t->bench.be,
                                                 .dataset = t->dataset,
                                                 .batch = t->teacher_shape.batch,
                                                 .k = k,
                                                 .temperature = temperature,
                                                 .teacher_digest = t->teacher_sources,
                                                 .overwrite = t->options->overwrite,
                                                 .progress = t->options->progress},
                           &t->cached);
}

/* Only outputs are kept, so that the teacher's memory is given back before the student's is taken:
 * the graph is opened again without values. */
pare_status pare__join_cache(pare__training *t)
{
    int64_t classes = pare_model_facts_of(t->teacher.model)->classes;
    int64_t k = t->job->cache_k > 0 ? t->job->cache_k : CACHED_CLASSES;
    double temperature = t->losses.temperature.from > 0 ? t->losses.temperature.from : 1;
    k = k < classes ? k : classes;
    if (pare__is_first(t))
        PARE_TRY(make_cache(t, k, temperature));
    if (t->world)
        PARE_TRY(pare_comm_barrier(t->world));
    PARE_TRY(
        pare_cache_open(t->job->cache, t->teacher_sources, t->dataset, k, temperature, &t->cache));
    t->cached = *pare_cache_facts_of(t->cache);
    pare_distill_free(&t->distill);
    pare_model_free(&t->teacher.model);
    return pare_distill_create(&t->losses, t->subject.model, NULL, t->cache, &t->distill);
}
