/* walk_plan.c - which tensors a walk makes, and by what: the model's sites beside the recipe's
 * choice. */
#include "walk.h"

#include "pare/version.h"

#include <math.h>
#include <string.h>

#define DEFAULT_SAMPLES 128

/* ---- whether there is one -------------------------------------------------------------------- */

/* Of all that data says, what is gathered at sites. */
static unsigned at_sites(unsigned needs)
{
    return needs & (PARE_STAT_COLUMNS | PARE_STAT_GRAM | PARE_STAT_HISTOGRAM);
}

static unsigned needs_of(const pare_prune_step *prune, const pare_quant_step *quant,
                         pare_activation activation)
{
    unsigned needs = prune ? prune->method->needs : 0;
    if (quant)
        needs |= quant->method->needs;
    if (activation == PARE_ACT_STATIC)
        needs |= PARE_STAT_COLUMNS | PARE_STAT_HISTOGRAM;
    return needs;
}

bool pare__walks(const pare_recipe *recipe)
{
    if (recipe->step_count != 1 || recipe->steps[0].kind != PARE_STEP_COMPRESS ||
        !recipe->steps[0].calibration.path)
        return false;
    for (size_t i = 0; i < recipe->prune_count; i++)
        if (at_sites(needs_of(&recipe->prunes[i], NULL, PARE_ACT_NONE)))
            return true;
    for (size_t i = 0; i < recipe->quant_count; i++)
        if (at_sites(needs_of(NULL, &recipe->quants[i], recipe->quants[i].scheme.activation)))
            return true;
    return false;
}

/* ---- samples --------------------------------------------------------------------------------- */

pare_data_options pare__walk_samples(const pare_calibration *c, uint64_t seed,
                                     const pare_model *model)
{
    pare_data_options asked = {.path = c->path,
                               .labels = c->labels,
                               .seq_len = c->seq_len,
                               .pad_id = c->pad_id,
                               .bos_id = -1,
                               .skip = c->skip,
                               .samples = c->samples ? c->samples : DEFAULT_SAMPLES,
                               .at_most = !c->samples,
                               .draw = c->shuffle,
                               .seed = seed};
    return pare__complete_data(&asked, model);
}

static pare_status open_samples(pare__walker *w)
{
    const pare_calibration *c = w->calibration;
    const pare_data_options data = pare__walk_samples(c, w->job->recipe->seed, w->model);
    PARE_TRY(pare_dataset_open(&data, &w->dataset));
    w->padded = data.tokens && data.pad_id >= 0;
    w->samples = pare_dataset_count(w->dataset);
    w->samples = w->samples < data.samples ? w->samples : data.samples;
    w->shape = (pare_model_shape){.batch = pare__default_batch(c->batch, w->model, w->dataset),
                                  .length = pare_dataset_length(w->dataset),
                                  .compute = c->compute == PARE_BF16 ? PARE_BF16 : PARE_F32};
    PARE_TRY(pare__walk_share_samples(w));
    if (w->shape.batch > w->most)
        w->shape.batch = w->most;
    return PARE_OK;
}

pare_status pare__walk_way(const pare__walker *w, char **text)
{
    const char *isa = w->job->options->isa, *device = w->job->device.name;
    uint64_t digest[2];
    char hex[33];
    pare__text way = {0};
    for (const char *const *i = pare_cpu_isas(); !isa && *i; i++)
        isa = pare_cpu_has_isa(*i) ? *i : NULL;
    pare_dataset_digest(w->dataset, digest);
    pare__hex128(digest, hex);
    if (w->job->device.cuda) /* of several that are alike any will do */
        device = strchr(device, ' ') + 1;
    pare__text_add(&way, "%d thread%s, %s, %s, data %s", w->threads, w->threads == 1 ? "" : "s",
                   isa ? isa : "?", device, hex);
    return pare__text_take(&way, text);
}

pare_status pare__walk_cache_key(const pare__walker *w, char **text)
{
    pare_status status = PARE_OK;
    char *way = NULL;
    pare__text key = {0};
    PARE_TRY_DONE(pare__walk_way(w, &way));
    PARE_TRY_DONE(pare__source_state(w->job, &key));
    pare__text_add(&key, "%s\n%s\n%lld samples of %lld from %lld, %lld at once, %s\n",
                   pare_version(), way, (long long)w->samples, (long long)w->shape.length,
                   (long long)w->calibration->skip, (long long)w->shape.batch,
                   pare_dtype_name(w->shape.compute));
    PARE_TRY_DONE(pare__text_take(&key, text));
done:
    pare__text_free(&key);
    free(way);
    return status;
}

/* ---- sites ----------------------------------------------------------------------------------- */

static pare_status list_sites(pare__walker *w)
{
    size_t capacity = 0;
    w->blocks = pare_model_block_count(w->model);
    for (int64_t b = 0; b < w->blocks; b++) {
        pare_model *block = NULL;
        PARE_TRY(pare_model_block(w->model, b, true, &block));
        pare_status status = PARE_OK;
        for (int64_t i = 0; i < pare_model_site_count(block) && status == PARE_OK; i++) {
            status = pare__grow(&w->sites, &capacity, (size_t)w->site_count + 1, sizeof *w->sites);
            if (status != PARE_OK)
                break;
            pare__walk_site *s = &w->sites[w->site_count++];
            memset(s, 0, sizeof *s);
            s->block = b;
            s->index = i;
            s->fold[0] = s->fold[1] = -1;
            status = pare_model_site(block, i, &s->site);
            for (int l = 0; l < PARE_SITE_LAYERS; l++)
                s->task[l] = status == PARE_OK && l < s->site.count
                                 ? pare_store_find(w->job->store,
                                                   pare_model_param(block, s->site.param[l])->name)
                                 : -1;
        }
        pare_model_free(&block);
        PARE_TRY(status);
    }
    return PARE_OK;
}

int64_t pare__walk_sites_of(const pare__walker *w, int64_t block, int64_t *first)
{
    int64_t count = 0;
    *first = w->site_count;
    for (int64_t s = 0; s < w->site_count; s++)
        if (w->sites[s].block == block) {
            *first = s < *first ? s : *first;
            count++;
        }
    return count;
}

/* How often a tensor is a layer of a site: of one that is shared no site has all the inputs. */
static int times_read(const pare__walker *w, int64_t task)
{
    int times = 0;
    for (int64_t s = 0; s < w->site_count; s++)
        for (int l = 0; l < w->sites[s].site.count; l++)
            times += w->sites[s].task[l] == task;
    return times;
}

static bool transposed(const pare__walker *w, const char *name)
{
    for (int64_t i = 0; i < pare_model_param_count(w->model); i++) {
        const pare_param *p = pare_model_param(w->model, i);
        if (strcmp(p->name, name) == 0)
            return p->transposed;
    }
    return false;
}

/* Why a layer of a site cannot be made there, or NULL. */
static const char *obstacle(const pare__walker *w, const pare__walk_site *s, const pare__task *task)
{
    if (s->site.groups > 1)
        return "a grouped convolution";
    if (times_read(w, task - w->job->tasks) > 1)
        return "shared by several products";
    if (transposed(w, task->out.name))
        return "stored input by output";
    if (task->quant && task->out.scheme.double_quant)
        return "scales of scales";
    return NULL;
}

static pare_status add_walked(pare__task *task, int64_t site, int64_t block)
{
    if (!task->walked)
        PARE_TRY(pare__calloc(1, sizeof *task->walked, &task->walked));
    task->walked->site = site;
    task->walked->block = block;
    task->walked->nonzeros = -1;
    task->walked->report.error_before = task->walked->report.error_after = (double)NAN;
    return PARE_OK;
}

static double kept_share(const pare_pattern *pattern)
{
    return (double)pattern->n / pattern->m;
}

/* A threshold over all tensors is not known while one is solved. */
static pare_status check_prune(const pare__task *task)
{
    const pare_prune_step *p = task->prune;
    bool threshold = p->pattern.kind != PARE_PATTERN_NM;
    PARE_REQUIRE(!(p->method->needs & PARE_STAT_GRADIENT), PARE_ERR_ARGUMENT,
                 "%s: %s goes by gradients of the whole model: make it a step of its own, before "
                 "the one with data",
                 task->out.name, p->method->name);
    PARE_REQUIRE(!threshold || p->method->needs || p->scope == PARE_SCOPE_LAYER, PARE_ERR_ARGUMENT,
                 "%s: one threshold over all tensors cannot be found while they are solved one by "
                 "one: give scope: layer, or prune in a step of its own before the one with data",
                 task->out.name);
    PARE_REQUIRE(!p->method->choose || p->pattern.kind != PARE_PATTERN_BLOCK, PARE_ERR_ARGUMENT,
                 "%s prunes single weights or n:m: for blocks take wanda or magnitude",
                 p->method->name);
    return PARE_OK;
}

/* What its sweep would refuse is refused before anything runs. */
static pare_status check_sweep(const pare__task *task)
{
    const pare__walked *k = task->walked;
    pare__carve none = {0};
    pare_layer layer;
    if (!k->prune || !k->prune->method->choose || k->prune->pattern.kind != PARE_PATTERN_NM)
        return PARE_OK;
    pare__walk_layer(task, &none, &layer);
    if (!k->quant || !k->quant->method->needs_factor)
        layer.scheme = (pare_scheme){0};
    return pare_sweep_check(&layer, k->inner > 1, k->prune->pattern.m);
}

/* Takes a layer that is to be compressed from the chunks to its site. */
static pare_status take_layer(pare__walker *w, int64_t site, int64_t t)
{
    pare__task *task = &w->job->tasks[t];
    if (task->prune)
        PARE_TRY(check_prune(task));
    PARE_TRY(add_walked(task, site, w->sites[site].block));
    pare__walked *k = task->walked;
    k->prune = task->prune;
    k->quant = task->quant;
    k->inner = w->sites[site].site.inner;
    if (k->prune)
        k->sparsity = k->prune->pattern.kind == PARE_PATTERN_NM ? 1 - kept_share(&k->prune->pattern)
                                                                : k->prune->sparsity;
    PARE_TRY(check_sweep(task));
    w->sites[site].needs |=
        at_sites(needs_of(k->prune, k->quant, k->quant ? task->out.scheme.activation : 0));
    if (w->calibration->errors)
        w->sites[site].needs |= PARE_STAT_GRAM;
    task->prune = NULL; /* chunks only carry its results */
    task->quant = NULL;
    return PARE_OK;
}

static pare_status take_layers(pare__walker *w)
{
    char sentence[200];
    for (int64_t s = 0; s < w->site_count; s++) {
        pare__walk_site *site = &w->sites[s];
        for (int l = 0; l < site->site.count; l++) {
            int64_t t = site->task[l];
            pare__task *task = t >= 0 ? &w->job->tasks[t] : NULL;
            const char *why;
            if (!task || (!task->prune && !task->quant))
                continue;
            if ((why = obstacle(w, site, task)) == NULL) {
                PARE_TRY(take_layer(w, s, t));
                continue;
            }
            if (!needs_of(task->prune, task->quant, task->out.scheme.activation) || task->fallback)
                continue;
            snprintf(sentence, sizeof sentence, "%s: done without data", why);
            PARE_TRY(pare__task_fall_back(w->job, task, sentence));
        }
    }
    return PARE_OK;
}

/* ---- what is no site ------------------------------------------------------------------------- */

static pare_status make_plain(pare__walker *w)
{
    const pare_recipe *r = w->job->recipe;
    PARE_TRY(pare__calloc(r->prune_count, sizeof *w->plain_prunes, &w->plain_prunes));
    PARE_TRY(pare__calloc(r->quant_count, sizeof *w->plain_quants, &w->plain_quants));
    for (size_t i = 0; i < r->prune_count; i++) {
        w->plain_prunes[i] = r->prunes[i];
        w->plain_prunes[i].method = pare_prune_find("magnitude");
        w->plain_prunes[i].scope = PARE_SCOPE_LAYER;
    }
    for (size_t i = 0; i < r->quant_count; i++) {
        w->plain_quants[i] = r->quants[i];
        w->plain_quants[i].method = pare_quant_find("rtn");
    }
    return PARE_OK;
}

/* Methods without data for a tensor that is at no site. */
static pare_status make_do(pare__walker *w, pare__task *task)
{
    const pare_recipe *r = w->job->recipe;
    char sentence[200];
    const char *activation = "";
    unsigned needs = needs_of(task->prune, task->quant,
                              task->quant ? task->out.scheme.activation : PARE_ACT_NONE);
    if (!needs)
        return PARE_OK;
    if (task->prune && task->prune->method->needs)
        task->prune = &w->plain_prunes[task->prune - r->prunes];
    if (task->quant && task->quant->method->needs)
        task->quant = &w->plain_quants[task->quant - r->quants];
    if (task->quant && task->out.scheme.activation == PARE_ACT_STATIC) {
        task->out.scheme.activation = PARE_ACT_DYNAMIC;
        activation = ", its inputs token by token";
    }
    snprintf(sentence, sizeof sentence, "no product of the model's blocks alone reads it: %s%s%s%s",
             task->prune ? "pruned by magnitude" : "", task->prune && task->quant ? ", " : "",
             task->quant ? "rounded to nearest" : "", activation);
    if (task->fallback) /* why is said */
        return PARE_OK;
    return pare__task_fall_back(w->job, task, sentence);
}

/* ---- scales ---------------------------------------------------------------------------------- */

/* A tensor that scales can be folded into: what the walk writes as it likes. */
static bool can_change(const pare__walker *w, int64_t t)
{
    const pare__task *task = t >= 0 ? &w->job->tasks[t] : NULL;
    if (!task || transposed(w, task->out.name) || !pare_dtype_is_weight(task->out.dtype))
        return false;
    return task->walked ||
           (task->way == PARE__WAY_VALUES && !task->prune && !task->quant && times_read(w, t) <= 1);
}

static int64_t task_of(const pare__walker *w, const pare_model *block, int64_t param)
{
    return param < 0
               ? -1
               : pare_store_find(w->job->store,
                                 pare_model_param((pare_model *)(uintptr_t)block, param)->name);
}

/* Whether a site's scales have where to go; then all that they change is the walk's. */
static pare_status prepare_fold(pare__walker *w, int64_t index, const pare_model *block)
{
    pare__walk_site *s = &w->sites[index];
    int64_t weight = task_of(w, block, s->site.fold_weight),
            bias = task_of(w, block, s->site.fold_bias);
    s->foldable = s->site.fold_weight >= 0 && s->site.groups <= 1 && can_change(w, weight) &&
                  (s->site.fold_bias < 0 || can_change(w, bias));
    s->fold[0] = weight;
    s->fold[1] = bias;
    for (int l = 0; l < s->site.count; l++)
        s->foldable = s->foldable && can_change(w, s->task[l]);
    if (!s->foldable)
        return PARE_OK;
    int64_t changed[PARE_SITE_LAYERS + 2] = {weight, bias};
    memcpy(changed + 2, s->task, sizeof s->task);
    for (int i = 0; i < 2 + s->site.count; i++)
        if (changed[i] >= 0 && !w->job->tasks[changed[i]].walked)
            PARE_TRY(add_walked(&w->job->tasks[changed[i]], -1, s->block));
    return PARE_OK;
}

static pare_status prepare_scales(pare__walker *w)
{
    for (int64_t s = 0; s < w->site_count; s++) {
        pare__walk_site *site = &w->sites[s];
        for (int l = 0; l < site->site.count && !site->scaling; l++) {
            const pare__walked *k = site->task[l] >= 0 ? w->job->tasks[site->task[l]].walked : NULL;
            if (k && k->quant && k->quant->method->scale_site)
                site->scaling = k->quant;
        }
        if (!site->scaling)
            continue;
        pare_model *block = NULL;
        PARE_TRY(pare_model_block(w->model, site->block, true, &block));
        pare_status status = prepare_fold(w, s, block);
        pare_model_free(&block);
        PARE_TRY(status);
    }
    return PARE_OK;
}

/* ---- opening --------------------------------------------------------------------------------- */

static pare_status fill(pare__walker *w)
{
    const pare_recipe *r = w->job->recipe;
    PARE_TRY(pare_model_create(&(pare_model_options){.arch = r->arch,
                                                     .config = pare_store_config(w->job->store),
                                                     .store = w->job->store},
                               &w->model));
    PARE_TRY(list_sites(w));
    PARE_TRY(make_plain(w));
    PARE_TRY(take_layers(w));
    for (int64_t t = 0; t < w->job->count; t++)
        if (!w->job->tasks[t].walked)
            PARE_TRY(make_do(w, &w->job->tasks[t]));
    PARE_TRY(prepare_scales(w));
    PARE_TRY(pare__walk_deal(w, pare__rank_count(w->job->ranks)));
    PARE_TRY(open_samples(w));
    return PARE_OK;
}

pare_status pare__walker_open(pare__job *job)
{
    if (!pare__walks(job->recipe))
        return PARE_OK;
    PARE_TRY(pare__calloc(1, sizeof *job->walker, &job->walker));
    pare__walker *w = job->walker;
    w->job = job;
    w->calibration = &job->recipe->steps[0].calibration;
    if (job->ranks)
        w->before = pare_comm_traffic_of(job->ranks);
    w->threads = job->options->threads ? job->options->threads : pare_cpu_count();
    w->hidden[0] = w->hidden[1] = w->result = -1;
    PARE_TRY(fill(w));
    return PARE_OK;
}

void pare__walker_free(pare__walker **walker)
{
    pare__walker *w = *walker;
    if (!w)
        return;
    *walker = NULL;
    pare__walk_close_files(w);
    for (int64_t s = 0; s < w->site_count; s++)
        free(w->sites[s].scales);
    free(w->sites);
    free(w->plain_prunes);
    free(w->plain_quants);
    pare_dataset_close(&w->dataset);
    pare_model_free(&w->model);
    free(w);
}
