/* walk_site.c - the layers of a site become what they will be: pruned, rounded, or both, each by
 * its method; written, kept in the journal, and put into the block, which goes on with exactly what
 * was written.
 *
 * A sweep that chooses (SparseGPT) and one that rounds (GPTQ) are one sweep. Else a mask comes
 * first, and what is zero stays so. A method that cannot do it (no factor, numbers that are not
 * finite) is replaced by the plain one, and the report says so. */
#include "walk_site.h"

#include "base/clock.h"
#include "base/half.h"

#include <math.h>
#include <string.h>

/* Weights with so many zeros were pruned before. */
#define PRUNED_SHARE 100

/* One sweep chooses and rounds. */
static bool is_joint(const pare__walked *k)
{
    return k->prune && k->prune->method->choose && k->quant && k->quant->method->needs_factor;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static int64_t mask_bytes(int64_t cols)
{
    return (cols + 7) / 8;
}

static float round_to(pare_dtype dtype, float x)
{
    if (dtype == PARE_F16)
        return pare__f16_to_f32(pare__f32_to_f16(x));
    if (dtype == PARE_BF16)
        return pare__bf16_to_f32(pare__f32_to_bf16(x));
    return x;
}

static pare_dtype scale_dtype(const pare_entry *e)
{
    return e->scheme.type == PARE_QUANT_NF4 ? PARE_F32 : e->dtype;
}

/* Codes and what belongs to them. */
static void carve_codes(const pare_entry *e, pare__carve *c, pare_layer *layer)
{
    const pare_blocks b = pare_scheme_blocks(&e->scheme, e->rows, e->cols);
    int64_t scales = b.down * b.across;
    void *zero = NULL;
    layer->scheme = e->scheme;
    layer->scale_dtype = scale_dtype(e);
    layer->block_rows = b.block_rows;
    layer->block_cols = b.block_cols;
    layer->codes = pare_matrix(pare__carve_next(c, e->rows * e->cols), PARE_I8, e->rows, e->cols);
    layer->scale = pare_matrix(pare__carve_next(c, scales * 4), PARE_F32, b.down, b.across);
    layer->lo = pare_matrix(pare__carve_next(c, scales * 4), PARE_F32, b.down, b.across);
    if (e->scheme.asymmetric)
        zero = pare__carve_next(c, scales);
    layer->zero = pare_matrix(zero, PARE_I8, b.down, b.across);
}

void pare__walk_layer(const pare__task *task, pare__carve *c, pare_layer *layer)
{
    const pare_entry *e = &task->out;
    *layer = (pare_layer){.name = e->name, .inner = task->walked->inner};
    layer->w = pare_matrix(pare__carve_next(c, e->rows * e->cols * 4), PARE_F32, e->rows, e->cols);
    if (e->form == PARE_FORM_QUANT)
        carve_codes(e, c, layer);
}

static void lay_out(const pare__task *task, pare__carve *c, pare__room *r)
{
    const pare_entry *e = &task->out;
    int64_t R = e->rows, C = e->cols, n = R * C;
    const pare_prune_step *prune = task->walked->prune;
    *r = (pare__room){0};
    pare__walk_layer(task, c, &r->layer);
    r->narrow = e->dtype == PARE_F32 ? NULL : pare__carve_next(c, n * 2);
    if (!prune)
        return;
    r->was = pare_matrix(pare__carve_next(c, n * 4), PARE_F32, R, C);
    for (int i = 0; i < 2; i++)
        r->scratch[i] = pare_matrix(pare__carve_next(c, n * 4), PARE_F32, R, C);
    r->mask = pare_matrix(pare__carve_next(c, R * mask_bytes(C)), PARE_U8, R, mask_bytes(C));
    if (prune->pattern.kind == PARE_PATTERN_BLOCK)
        r->block_mask = pare__carve_next(c, R * mask_bytes(C));
}

int64_t pare__walk_layer_bytes(const pare__walker *w, const pare__walk_site *site)
{
    int64_t most = pare__walk_scale_bytes(w, site);
    for (int l = 0; l < site->site.count; l++) {
        const pare__task *task = site->task[l] >= 0 ? &w->job->tasks[site->task[l]] : NULL;
        pare__carve c = {0};
        pare__room r;
        if (!task || !task->walked)
            continue;
        lay_out(task, &c, &r);
        most = c.size > most ? c.size : most;
    }
    return most;
}

/* What a layer's methods take of the backend's memory beside the arena: a factor while it is made,
 * or what is left of it and either the source's rows, a sweep, or a quantiser's own. */
static int64_t method_bytes(const pare__walker *w, const pare__walk_site *site,
                            const pare__task *task)
{
    const pare_site_stats stats = {.kinds = site->needs};
    const pare__walked *k = task->walked;
    bool choose = k->prune && k->prune->method->choose;
    bool sweep = choose || (k->quant && k->quant->method->needs_factor);
    bool nm = choose && k->prune->pattern.kind == PARE_PATTERN_NM;
    bool permuted = (k->quant && k->quant->tuning.act_order) || (nm && k->inner > 1);
    int64_t making = sweep ? pare_factor_bytes(task->out.cols) : 0, own = 0;
    pare__carve c = {0};
    pare__room r;
    lay_out(task, &c, &r);
    r.layer.stats = &stats;
    int m = nm ? k->prune->pattern.m : 0;
    if (choose)
        own = pare_sweep_bytes(&r.layer, permuted, m);
    int64_t rounding = k->quant && k->quant->method->solve
                           ? pare_quant_bytes(k->quant->method, &r.layer, permuted, m)
                           : 0;
    int64_t reading = w->job->device.cuda ? 0 : pare__walk_source_bytes(w, task->source);
    own = (own > rounding ? own : rounding);
    own = (own > reading ? own : reading) + making / 2;
    return making > own ? making : own;
}

int64_t pare__walk_method_bytes(const pare__walker *w, const pare__walk_site *site)
{
    int64_t most = 0;
    for (int l = 0; l < site->site.count; l++) {
        const pare__task *task = site->task[l] >= 0 ? &w->job->tasks[site->task[l]] : NULL;
        if (!task || !task->walked || (!task->walked->prune && !task->walked->quant))
            continue;
        int64_t bytes = method_bytes(w, site, task);
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* ---- the weight ------------------------------------------------------------------------------ */

static pare_status copy(const pare__solving *s, pare_tensor from, pare_tensor to)
{
    return pare_backend_copy(s->w->be, to.data, from.data, pare_tensor_count(&from) * 4);
}

/* Reads it; NaN and Inf are refused as data-free work does. */
static pare_status load(pare__solving *s, bool *zeros)
{
    const pare_entry *e = &s->task->out;
    pare_stats_result seen;
    PARE_TRY(pare__walk_weight(s->w, s->t, s->room.layer.w));
    PARE_TRY(pare_stats(s->w->be, &(pare_stats_args){.x = s->room.layer.w, .result = &seen}));
    if (seen.first_bad >= 0)
        PARE_FAIL(PARE_ERR_DAMAGED,
                  "%s holds %s at row %lld, column %lld: repair the checkpoint, or leave the "
                  "tensor alone with --exclude '%s'",
                  e->name, seen.nans ? "NaN" : "Inf", (long long)(seen.first_bad / e->cols),
                  (long long)(seen.first_bad % e->cols), e->name);
    const pare_entry *source = pare_store_entry(s->w->job->store, s->t);
    *zeros = source->form != PARE_FORM_QUANT && seen.zeros > 0 &&
             seen.zeros >= (seen.count + PRUNED_SHARE - 1) / PRUNED_SHARE;
    return PARE_OK;
}

/* Says why something simpler is done here; the first reason stays. */
static void fall_back(pare__solving *s, const char *instead, const char *why)
{
    char *text = s->k->report.fallback;
    if (!*text)
        snprintf(text, sizeof s->k->report.fallback, "%s: %.100s", instead, why);
}

/* ---- sweeps ---------------------------------------------------------------------------------- */

/* The site's factor, made once for all layers that want the same; a plain one if there is none. */
static pare_status need_factor(pare__solving *s, const pare_sweep_options *options)
{
    if (s->factor && memcmp(&s->options, options, sizeof *options) == 0)
        return PARE_OK;
    pare_factor_free(s->w->be, &s->factor);
    s->options = *options;
    s->plain = false;
    pare_status status = pare_factor_create(s->w->be, s->stats, options, &s->factor);
    if (status != PARE_ERR_NUMERIC)
        return status;
    s->plain = true;
    snprintf(s->why, sizeof s->why, "%s", pare_last_error());
    PARE_TRY(pare_factor_plain(s->w->be, s->stats->cols, options, &s->factor));
    return PARE_OK;
}

/* What a sweep is asked to remove, and how its factor must be. */
static void plan_sweep(const pare__solving *s, const pare_quant_step *quant, pare_choose_plan *plan,
                       pare_choose *choose, pare_sweep_options *options)
{
    const pare_prune_step *prune = s->k->prune;
    memset(options, 0, sizeof *options);
    if (quant) {
        options->damping = quant->tuning.damping;
        options->act_order = quant->tuning.act_order;
    } else if (prune) {
        options->damping = prune->damping;
    }
    if (!prune || !prune->method->choose)
        return;
    bool nm = prune->pattern.kind == PARE_PATTERN_NM;
    *plan = (pare_choose_plan){.pattern = prune->pattern, .sparsity = s->k->sparsity};
    *choose =
        (pare_choose){.panel = prune->method->choose, .user = plan, .m = nm ? prune->pattern.m : 0};
    options->inner = nm && s->k->inner > 1 ? s->k->inner : 0;
}

static pare_status prune_by_sweep(pare__solving *s)
{
    pare_choose_plan plan = {0};
    pare_choose choose = {0};
    pare_sweep_options options;
    pare_layer bare = s->room.layer;
    bare.scheme = (pare_scheme){0};
    bare.codes.data = bare.scale.data = bare.zero.data = NULL;
    plan_sweep(s, NULL, &plan, &choose, &options);
    PARE_TRY(need_factor(s, &options));
    if (s->plain)
        fall_back(s, "pruned by magnitude", s->why);
    s->k->report.damping = s->factor->damping;
    s->k->report.dead = s->factor->dead;
    PARE_TRY(pare_sweep(s->w->be, &bare, s->factor, &choose, NULL, &s->k->report.loss));
    return PARE_OK;
}

/* ---- pruning --------------------------------------------------------------------------------- */

/* error = Σ‖(was − w)x‖² / Σ‖was·x‖². */
static pare_status relative_error(pare__solving *s, double *error)
{
    double of;
    PARE_TRY(
        pare_layer_error(s->w->be, s->room.was, s->room.layer.w, s->stats, s->room.scratch, &of));
    if (isnan(s->energy))
        PARE_TRY(pare_layer_error(s->w->be, s->room.was, (pare_tensor){0}, s->stats,
                                  s->room.scratch, &s->energy));
    *error = s->energy > 0 ? of / s->energy : of > 0 ? (double)NAN : 0;
    return PARE_OK;
}

static bool is_measured(const pare__solving *s)
{
    return s->k->prune && s->stats && s->stats->kinds & PARE_STAT_GRAM;
}

/* Of a pruned layer, `was` keeps the weight: the error of magnitude, and rounding to nearest. */
static pare_status measure_plain(pare__solving *s, double *error)
{
    bool zeros = s->room.layer.keep_zeros;
    PARE_TRY(pare__prune_by(s, pare_prune_find("magnitude")));
    s->room.layer.keep_zeros = true;
    if (s->k->quant)
        PARE_TRY(pare_quant_round(s->w->be, &s->room.layer, s->k->quant->search));
    PARE_TRY(relative_error(s, error));
    s->room.layer.keep_zeros = zeros;
    return copy(s, s->room.was, s->room.layer.w);
}

/* Without a quantiser that does it in its own sweep. */
static pare_status prune(pare__solving *s)
{
    const pare_prune_method *method = s->k->prune->method;
    pare_status status = method->choose ? prune_by_sweep(s) : pare__prune_by(s, method);
    if (status == PARE_ERR_NUMERIC && !method->choose) {
        fall_back(s, "pruned by magnitude", pare_last_error());
        status = pare__prune_by(s, pare_prune_find("magnitude"));
    }
    PARE_TRY(status);
    s->room.layer.keep_zeros = true;
    return PARE_OK;
}

/* ---- rounding -------------------------------------------------------------------------------- */

/* The weight again as it was before its quantiser, by plain means. */
static pare_status start_over(pare__solving *s)
{
    bool zeros;
    PARE_TRY(load(s, &zeros));
    if (s->k->prune)
        PARE_TRY(pare__prune_by(s, pare_prune_find("magnitude")));
    s->room.layer.keep_zeros = zeros || s->k->prune;
    if (s->k->quant)
        PARE_TRY(pare_quant_round(s->w->be, &s->room.layer, s->k->quant->search));
    return PARE_OK;
}

static pare_status quantize(pare__solving *s)
{
    const pare_quant_step *step = s->k->quant;
    pare_choose_plan plan = {0};
    pare_choose choose = {0};
    pare_sweep_options options;
    if (!step->method->solve)
        return pare_quant_round(s->w->be, &s->room.layer, step->search);
    plan_sweep(s, step, &plan, &choose, &options);
    bool joint = is_joint(s->k);
    if (!joint)
        options.inner = 0;
    if (step->method->needs_factor) {
        PARE_TRY(need_factor(s, &options));
        s->k->report.damping = s->factor->damping;
        s->k->report.dead = s->factor->dead;
        if (s->plain)
            fall_back(s, joint ? "pruned by magnitude, rounded to nearest" : "rounded to nearest",
                      s->why);
    }
    pare_status status = step->method->solve(s->w->be, &s->room.layer, step->search, &step->tuning,
                                             step->method->needs_factor ? s->factor : NULL,
                                             joint ? &choose : NULL, &s->k->report);
    if (status != PARE_ERR_NUMERIC)
        return status;
    fall_back(s, "rounded to nearest", pare_last_error());
    return start_over(s);
}

static pare_status find_act_scale(pare__solving *s)
{
    const pare_scheme *scheme = &s->task->out.scheme;
    float range, levels = scheme->type == PARE_QUANT_E4M3 ? 448.0f : 127.5f;
    if (!s->k->quant || scheme->activation != PARE_ACT_STATIC)
        return PARE_OK;
    pare_status status = pare_site_stats_range(s->w->be, s->stats, s->k->quant->range,
                                               s->k->quant->percentile, &range);
    if (status == PARE_ERR_NUMERIC) {
        fall_back(s, "its inputs are not scaled", pare_last_error());
        range = 0;
    } else {
        PARE_TRY(status);
    }
    float scale = round_to(s->task->out.dtype, range / levels);
    s->k->report.act_scale = scale > 0 && isfinite(scale) ? scale : 1;
    return PARE_OK;
}

/* ---- the end of a layer ---------------------------------------------------------------------- */

/* w as a reader will get it. */
static pare_status round_values(pare__solving *s, pare_stats_result *seen)
{
    int64_t n = s->task->out.rows * s->task->out.cols;
    pare_tensor wide = pare_vector(s->room.layer.w.data, PARE_F32, n),
                own = pare_vector(s->room.narrow, s->task->out.dtype, n);
    if (s->room.narrow) {
        PARE_TRY(pare_cast(s->w->be, &(pare_cast_args){.x = wide, .y = own}));
        PARE_TRY(pare_cast(s->w->be, &(pare_cast_args){.x = own, .y = wide}));
    }
    PARE_TRY(pare_stats(s->w->be, &(pare_stats_args){.x = wide, .result = seen}));
    return PARE_OK;
}

/* Puts w into the block, which rounds the layer's inputs from now on if the result does, whatever
 * the source did. */
static pare_status put(pare__solving *s)
{
    const pare_scheme *scheme = &s->task->out.scheme;
    bool rounds =
        s->k->quant && s->task->out.form == PARE_FORM_QUANT && scheme->type == PARE_QUANT_INT;
    int64_t param = pare__walk_param(s->w, s->t);
    PARE_TRY(pare_model_set_value(s->w->block, param, s->room.layer.w));
    pare_model_param(s->w->block, param)->act = rounds ? scheme->activation : PARE_ACT_NONE;
    pare_model_param(s->w->block, param)->act_scale = rounds ? s->k->report.act_scale : 0;
    return PARE_OK;
}

/* Nothing that is not a number is ever written. */
static pare_status make_sure(pare__solving *s, pare_stats_result *seen)
{
    PARE_TRY(round_values(s, seen));
    if (seen->nans + seen->infs == 0)
        return PARE_OK;
    fall_back(s, s->k->quant ? "rounded to nearest" : "pruned by magnitude",
              "the result was not finite");
    s->k->report.error_after = s->k->report.error_before;
    PARE_TRY(start_over(s));
    PARE_TRY(round_values(s, seen));
    PARE_REQUIRE(seen->nans + seen->infs == 0, PARE_ERR_NUMERIC,
                 "%s: its values do not fit %s: leave it alone with --exclude '%s'",
                 s->task->out.name, pare_dtype_name(s->task->out.dtype), s->task->out.name);
    return PARE_OK;
}

static pare_status solve(pare__solving *s)
{
    pare_stats_result seen;
    bool zeros;
    PARE_TRY(load(s, &zeros));
    s->room.layer.stats = s->stats;
    s->room.layer.keep_zeros = zeros;
    double plain = s->energy = (double)NAN;
    if (s->k->prune)
        PARE_TRY(copy(s, s->room.layer.w, s->room.was));
    if (is_measured(s))
        PARE_TRY(measure_plain(s, &plain));
    if (s->k->prune && !is_joint(s->k))
        PARE_TRY(prune(s));
    if (s->k->quant)
        PARE_TRY(quantize(s));
    if (is_measured(s)) { /* against the weight as it was; a quantiser measures its own part */
        s->k->report.error_before = plain;
        PARE_TRY(relative_error(s, &s->k->report.error_after));
    }
    PARE_TRY(find_act_scale(s));
    PARE_TRY(make_sure(s, &seen));
    s->k->nonzeros = seen.count - seen.zeros;
    return put(s);
}

/* ---- a site ---------------------------------------------------------------------------------- */

/* Turns to a layer; false if nothing is done to it. */
static bool turn_to(pare__solving *s, int64_t l)
{
    s->t = s->site->task[l];
    s->task = s->t >= 0 ? &s->w->job->tasks[s->t] : NULL;
    s->k = s->task ? s->task->walked : NULL;
    if (!s->k || (!s->k->prune && !s->k->quant))
        return false;
    pare__carve carve = {.base = s->w->arena};
    lay_out(s->task, &carve, &s->room);
    return true;
}

/* One layer: solved and kept, or taken from what was kept. */
static pare_status do_layer(void *user, int worker, int64_t l)
{
    pare__solving *s = user;
    const pare__job *job = s->w->job;
    double begin = pare__now();
    (void)worker;
    if (!turn_to(s, l) || !pare__owns(job, s->task) || (job->ranks && s->k->done))
        return PARE_OK;
    PARE_TRY(pare__walk_alive(s->w));
    if (s->k->done) {
        PARE_TRY(pare__walk_read(s->w, s->t, &s->room.layer, s->room.narrow));
        return put(s);
    }
    PARE_TRY(solve(s));
    /* The plain method has no scales: what is known of it is from before they were found. */
    if (s->site->scales && !s->k->prune && s->k->quant == s->site->scaling &&
        isfinite(s->site->before[l]))
        s->k->report.error_before = s->site->before[l];
    s->k->seconds = pare__now() - begin;
    s->k->done = !job->ranks; /* else once all know */
    return pare__walk_write(s->w, s->t, &s->room.layer, s->room.narrow);
}

pare_status pare__walk_solve(pare__walker *w, int64_t index)
{
    pare__solving s = {.w = w, .site = &w->sites[index], .stats = w->stats[index]};
    char name[256];
    snprintf(name, sizeof name, "block %lld of %lld, solve %s", (long long)w->at + 1,
             (long long)w->blocks, s.site->site.name);
    pare_status status = pare_sched_run(
        w->job->sched, &(pare_job){.name = name,
                                   .items = s.site->site.count,
                                   .stages = {{.name = "solve", .run = do_layer, .home = true}},
                                   .user = &s});
    pare_factor_free(w->be, &s.factor);
    PARE_TRY(status);
    return PARE_OK;
}

pare_status pare__walk_share(pare__walker *w, int64_t index)
{
    pare__solving s = {.w = w, .site = &w->sites[index]};
    for (int l = 0; w->job->ranks && l < s.site->site.count; l++) {
        if (!turn_to(&s, l))
            continue;
        if (pare__owns(w->job, s.task)) {
            PARE_TRY(pare__walk_saved(w));
            PARE_TRY(pare__walk_read(w, s.t, &s.room.layer, s.room.narrow));
        }
        PARE_TRY(pare__walk_receive(w, s.t, &s.room.layer, s.room.narrow));
        PARE_TRY(pare__walk_tell_layer(w, s.t));
        PARE_TRY(put(&s));
    }
    return PARE_OK;
}
