/* survey.c - the questions that a recipe leaves open, what answering them takes, and the way from
 * them to an ordinary recipe. */
#include "survey.h"

#include "engine/recipe/recipe_impl.h"

#include "base/clock.h"

#include <math.h>
#include <string.h>

/* Sparsities tried around the one asked for: each 0.1 apart, inside [0, 0.95]. */
enum { TRIED = 5 };
#define APART 0.1
/* A forward beside its operations: as eval has it. */
#define FORWARD 1.7

/* What a survey asks of the walk: statistics, and nothing is done to a layer. */
static const pare_prune_method ask_pruning = {
    .name = "survey", .summary = "nothing is pruned", .needs = PARE_STAT_COLUMNS};
static const pare_quant_method ask_outputs = {
    .name = "survey", .summary = "nothing is rounded", .needs = PARE_STAT_GRAM};
static const pare_quant_method ask_model = {
    .name = "survey", .summary = "nothing is rounded", .needs = PARE_STAT_COLUMNS};

static bool asks_sparsity(const pare_prune_step *p)
{
    return p->pattern.kind == PARE_PATTERN_UNSTRUCTURED && pare__prune_walks(p) &&
           p->budget != PARE_BUDGET_UNIFORM;
}

bool pare__surveys(const pare_recipe *recipe)
{
    for (size_t i = 0; i < recipe->prune_count; i++)
        if (asks_sparsity(&recipe->prunes[i]))
            return true;
    for (size_t i = 0; i < recipe->quant_count; i++)
        if (recipe->quants[i].mixed.count)
            return true;
    return false;
}

bool pare__survey_by_model(const pare__question *q)
{
    return q->quant ? q->quant->mixed.kld : q->prune->budget == PARE_BUDGET_LOSS;
}

bool pare__survey_open(const pare__question *q)
{
    for (size_t l = 0; l < q->count; l++)
        if (!q->layers[l].measured)
            return true;
    return false;
}

pare_scheme pare__survey_scheme(const pare__question *q, int option, const pare_entry *entry)
{
    pare_scheme scheme = q->quant->mixed.schemes[option];
    if (scheme.granularity == PARE_PER_GROUP && entry->cols % scheme.block_cols != 0) {
        scheme.granularity = PARE_PER_CHANNEL; /* as the plan falls back */
        scheme.block_rows = scheme.block_cols = 0;
    }
    return scheme;
}

void pare__survey_layer_of(const pare__question *q, int option, const pare_entry *e, pare__carve *c,
                           pare_layer *layer)
{
    const pare_scheme scheme = pare__survey_scheme(q, option, e);
    const pare_blocks b = pare_scheme_blocks(&scheme, e->rows, e->cols);
    int64_t scales = b.down * b.across;
    *layer = (pare_layer){.name = e->name,
                          .inner = 1,
                          .keep_zeros = true,
                          .scheme = scheme,
                          .scale_dtype = scheme.type == PARE_QUANT_NF4 ? PARE_F32 : e->dtype,
                          .block_rows = b.block_rows,
                          .block_cols = b.block_cols};
    layer->w = pare_matrix(pare__carve_next(c, e->rows * e->cols * 4), PARE_F32, e->rows, e->cols);
    layer->codes = pare_matrix(pare__carve_next(c, e->rows * e->cols), PARE_I8, e->rows, e->cols);
    layer->scale = pare_matrix(pare__carve_next(c, scales * 4), PARE_F32, b.down, b.across);
    layer->lo = pare_matrix(pare__carve_next(c, scales * 4), PARE_F32, b.down, b.across);
    void *zero = pare__carve_next(c, scales);
    layer->zero = pare_matrix(scheme.asymmetric ? zero : NULL, PARE_I8, b.down, b.across);
}

/* ---- the open recipe ------------------------------------------------------------------------- */

/* Beside the output, with its ending: nothing is written there but the walk's folder, which must
 * not be that of the run after it. */
static pare_status name_output(pare__survey *s)
{
    static const char *const endings[] = {".h5", ".safetensors"};
    const char *ending = "";
    char *name = NULL;
    pare__text text = {0};
    if (!s->recipe->output)
        return PARE_OK;
    PARE_TRY(pare__beside(s->recipe, ".survey", &name));
    size_t length = strlen(name) - strlen(".survey");
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(endings[i]);
        if (length > n && strncmp(name + length - n, endings[i], n) == 0)
            ending = endings[i];
    }
    pare__text_add(&text, "%s%s", name, ending);
    free(name);
    return pare__text_take(&text, &s->open.output);
}

static void open_prune(pare__survey *s, size_t index)
{
    pare_prune_step *p = &s->open.prunes[s->open.prune_count];
    *p = s->recipe->prunes[index];
    p->budget = PARE_BUDGET_UNIFORM;
    p->method = &ask_pruning;
    s->questions[s->count++] = (pare__question){
        .prune = &s->recipe->prunes[index], .index = index, .open = s->open.prune_count++};
}

static void open_quant(pare__survey *s, size_t index)
{
    pare_quant_step *p = &s->open.quants[s->open.quant_count];
    *p = s->recipe->quants[index];
    p->method = p->mixed.kld ? &ask_model : &ask_outputs;
    p->mixed = (pare_mixed){0};
    s->questions[s->count++] = (pare__question){
        .quant = &s->recipe->quants[index], .index = index, .open = s->open.quant_count++};
}

/* The steps that leave something open, as the walk takes them. */
static pare_status open_recipe(pare__survey *s)
{
    const pare_recipe *r = s->recipe;
    PARE_REQUIRE(r->step_count == 1 && r->steps[0].calibration.path, PARE_ERR_ARGUMENT,
                 "mixed bits and budgets by one threshold, outliers or loss are measured on "
                 "calibration data: give --data");
    s->open = *r;
    s->open.output = NULL;
    s->open.prunes = NULL;
    s->open.quants = NULL;
    s->open.prune_count = s->open.quant_count = 0;
    PARE_TRY(pare__calloc(r->prune_count + 1, sizeof *r->prunes, &s->open.prunes));
    PARE_TRY(pare__calloc(r->quant_count + 1, sizeof *r->quants, &s->open.quants));
    PARE_TRY(pare__calloc(r->prune_count + r->quant_count, sizeof *s->questions, &s->questions));
    for (size_t i = 0; i < r->prune_count; i++)
        if (asks_sparsity(&r->prunes[i]))
            open_prune(s, i);
    for (size_t i = 0; i < r->quant_count; i++)
        if (r->quants[i].mixed.count)
            open_quant(s, i);
    s->step = r->steps[0];
    s->step.prunes = s->open.prune_count;
    s->step.quants = s->open.quant_count;
    s->step.calibration.dense = s->step.calibration.per_block = true;
    s->open.steps = &s->step;
    return name_output(s);
}

/* ---- questions ------------------------------------------------------------------------------- */

static pare_status set_options(pare__question *q)
{
    if (!q->prune || q->prune->budget != PARE_BUDGET_LOSS) {
        q->options = q->prune ? 1 : (int)q->quant->mixed.count;
        return PARE_OK;
    }
    PARE_TRY(pare__calloc(TRIED, sizeof *q->steps, &q->steps));
    for (int i = 0; i < TRIED; i++) {
        double s = q->prune->sparsity + APART * (i - TRIED / 2);
        s = rint(fmin(fmax(s, 0), fmax(0.95, q->prune->sparsity)) * 1e9) / 1e9;
        if (i == TRIED / 2)
            s = q->prune->sparsity;
        if (q->options == 0 || s > q->steps[q->options - 1])
            q->steps[q->options++] = s;
    }
    return PARE_OK;
}

/* The stored bits of an option; refused if the output cannot hold it. */
static pare_status find_cost(const pare__survey *s, const pare__question *q, int option,
                             const pare_entry *e, int64_t *cost)
{
    char text[40];
    const char *path = s->open.output ? s->open.output : "out";
    pare_entry out = *e;
    out.scheme = pare__survey_scheme(q, option, e);
    pare_scheme_text(&out.scheme, text, sizeof text);
    PARE_REQUIRE(!s->job->options->strict ||
                     out.scheme.granularity == q->quant->mixed.schemes[option].granularity,
                 PARE_ERR_ARGUMENT, "%s: groups of %lld do not divide rows of %lld (--strict)",
                 e->name, (long long)q->quant->mixed.schemes[option].block_cols,
                 (long long)e->cols);
    PARE_REQUIRE(!out.scheme.double_quant, PARE_ERR_ARGUMENT,
                 "schemes: %s: scales of scales belong to no single layer's choice; leave it out",
                 text);
    if (pare_writer_accepts(path, s->recipe->format, &out) != PARE_OK)
        PARE_FAIL(PARE_ERR_ARGUMENT, "schemes: the output cannot hold %s; %s", text,
                  pare_last_error());
    *cost = 8 * pare__bytes_out(&out);
    return PARE_OK;
}

static pare_status add_layer(const pare__survey *s, pare__question *q, int64_t task, bool site)
{
    const pare_entry *e = &s->job->tasks[task].out;
    PARE_TRY(pare__grow(&q->layers, &q->capacity, q->count + 1, sizeof *q->layers));
    pare__survey_layer *l = &q->layers[q->count++];
    *l = (pare__survey_layer){.task = task, .site = site, .weights = e->rows * e->cols};
    PARE_TRY(pare__calloc((size_t)q->options, sizeof *l->harm, &l->harm));
    if (!q->quant)
        return PARE_OK;
    PARE_TRY(pare__calloc((size_t)q->options, sizeof *l->cost, &l->cost));
    for (int i = 0; i < q->options; i++)
        PARE_TRY(find_cost(s, q, i, e, &l->cost[i]));
    return PARE_OK;
}

/* Whether a question's step, or what stands for it where there is no site, takes a task. */
static bool takes(const pare__survey *s, const pare__question *q, const pare__task *task,
                  bool *site)
{
    const pare__walker *w = s->job->walker;
    const pare__walked *k = task->walked;
    *site = k && ((q->prune && k->prune == &s->open.prunes[q->open]) ||
                  (q->quant && k->quant == &s->open.quants[q->open]));
    return *site || (q->prune && task->prune == &w->plain_prunes[q->open]) ||
           (q->quant && task->quant == &w->plain_quants[q->open]);
}

/* What is left over of the open steps' choice: the output refused it, and why is said of it. */
static bool is_refused(const pare__question *q, const pare__task *task)
{
    return q->quant && task->fallback && !pare__task_quant(task) && !pare__task_prune(task);
}

static pare_status list_layers(pare__survey *s, pare__question *q)
{
    PARE_TRY(set_options(q));
    for (int64_t t = 0; t < s->job->count; t++) {
        const pare__task *task = &s->job->tasks[t];
        bool site;
        if (takes(s, q, task, &site)) {
            PARE_TRY(add_layer(s, q, t, site));
        } else if (is_refused(q, task)) {
            PARE_TRY(pare__grow(&q->refused, &q->refused_capacity, q->refused_count + 1,
                                sizeof *q->refused));
            q->refused[q->refused_count++] = t;
        }
    }
    return PARE_OK;
}

/* ---- what it takes --------------------------------------------------------------------------- */

static int64_t greater(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Layers to be measured by what a walk finds out; and the operations of that beside its runs. */
static void count_layers(pare__survey *s)
{
    for (size_t i = 0; i < s->count; i++) {
        const pare__question *q = &s->questions[i];
        bool by_model = pare__survey_by_model(q);
        for (size_t l = 0; l < q->count; l++) {
            const pare_entry *e = &s->job->tasks[q->layers[l].task].out;
            if (q->layers[l].measured)
                continue;
            s->cost.layers++;
            s->cost.walks = s->cost.walks || q->prune || !by_model;
            if (by_model)
                s->cost.evaluations += q->options;
            else if (q->quant)
                s->cost.flops +=
                    2.0 * (q->options + 1) * (double)e->rows * (double)e->cols * (double)e->cols;
        }
        s->cost.evaluations += by_model && pare__survey_open(q); /* of the model as it is */
    }
}

static pare_status check_memory(const pare__survey *s, int64_t bytes, const char *what)
{
    char needs[32], has[32];
    int64_t memory = s->job->options->memory;
    PARE_REQUIRE(!memory || bytes <= memory, PARE_ERR_MEMORY,
                 "a memory budget of %s cannot hold %s: it needs %s",
                 pare__size_text((double)memory, has, sizeof has), what,
                 pare__size_text((double)bytes, needs, sizeof needs));
    return PARE_OK;
}

/* The walk's own prediction, now that it is known what is done at its sites. What is counted meets
 * the budget with the rest where the backend's memory is the host's. */
static pare_status predict_walk(pare__survey *s)
{
    pare__walker *w = s->job->walker;
    int64_t counts = pare__survey_counts(s);
    w->visited = true;
    pare__survey_room(s, &w->visit_bytes, &w->visit_beside);
    w->visit_beside += s->job->device.cuda ? 0 : counts;
    PARE_TRY(pare__job_budget(s->job));
    s->cost.peak = s->job->peak;
    if (s->job->device.cuda) {
        s->cost.peak.host += counts;
        PARE_TRY(check_memory(s, s->cost.peak.host - s->job->context, "the counts of scores"));
    }
    s->cost.flops += w->flops;
    return PARE_OK;
}

static pare_status predict_model(pare__survey *s)
{
    for (size_t i = 0; i < s->count; i++) {
        const pare__question *q = &s->questions[i];
        pare__need need;
        if (!pare__survey_by_model(q) || !pare__survey_open(q))
            continue;
        PARE_TRY(pare__survey_kld_predict(s, q, &need));
        s->cost.peak.host = greater(s->cost.peak.host, need.peak + s->job->context);
        s->cost.peak.device = greater(s->cost.peak.device, need.device_peak);
        s->cost.flops += need.flops;
    }
    return PARE_OK;
}

static pare_status predict_choice(pare__survey *s)
{
    for (size_t i = 0; i < s->count; i++) {
        int64_t bytes;
        PARE_TRY(pare__survey_check_budget(&s->questions[i], &bytes));
        bytes += pare_memory_now() - s->job->context;
        PARE_TRY(check_memory(s, bytes, "the choice of schemes"));
        s->cost.peak.host = greater(s->cost.peak.host, bytes + s->job->context);
    }
    return PARE_OK;
}

static pare_status predict(pare__survey *s)
{
    const pare_run_options *options = s->job->options;
    pare__bench bench = {0};
    count_layers(s);
    if (s->cost.walks)
        PARE_TRY(predict_walk(s));
    PARE_TRY(predict_model(s));
    PARE_TRY(predict_choice(s));
    if (!s->cost.layers)
        return PARE_OK;
    PARE_TRY(pare__bench_open(options, &bench));
    double rate = pare__product_rate(bench.be, s->job->walker->shape.compute);
    pare__bench_close(&bench);
    s->cost.seconds = rate > 0 ? FORWARD * s->cost.flops / rate : -1;
    return PARE_OK;
}

static pare__json *describe_cost(const pare__survey *s)
{
    const pare__survey_cost *c = &s->cost;
    pare__json *o = pare__json_new_object();
    pare__json_set_int(o, "layers", c->layers);
    pare__json_set_bool(o, "walk", c->walks);
    pare__json_set_int(o, "evaluations", c->evaluations);
    pare__json_set_int(o, "samples", s->job->walker->samples);
    pare__json_set_real(o, "flops", c->flops);
    if (c->seconds >= 0)
        pare__json_set_real(o, "seconds", c->seconds);
    pare__json_set_int(o, "peak_memory", c->peak.host);
    if (s->job->device.cuda)
        pare__json_set_int(o, "device_memory", c->peak.device);
    return o;
}

void pare__survey_add(const pare__surveyed *surveyed, pare__job *job, pare__prediction *p)
{
    const pare__survey_cost *c = &surveyed->cost;
    job->survey = surveyed->found;
    job->surveying = surveyed->before;
    if (surveyed->found) {
        pare__json *phase = pare__json_set_object(job->phases, NULL);
        pare__json_set_string(phase, "name", "survey");
        pare__json_set_real(phase, "seconds", surveyed->seconds);
    }
    job->peak.device = greater(job->peak.device, c->peak.device);
    p->peak_memory = greater(p->peak_memory, c->peak.host);
    p->seconds = p->seconds >= 0 && c->seconds >= 0 ? p->seconds + c->seconds : -1;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void close_survey(pare__survey *s)
{
    for (size_t i = 0; i < s->count; i++) {
        for (size_t l = 0; l < s->questions[i].count; l++) {
            free(s->questions[i].layers[l].harm);
            free(s->questions[i].layers[l].cost);
            free(s->questions[i].layers[l].norm);
        }
        free(s->questions[i].layers);
        free(s->questions[i].steps);
        free(s->questions[i].scores);
        free(s->questions[i].refused);
    }
    free(s->questions);
    pare__job_free(&s->job);
    free(s->open.output);
    free(s->open.prunes);
    free(s->open.quants);
}

static pare_status open_survey(pare__survey *s, const pare_run_options *options)
{
    PARE_TRY(open_recipe(s));
    PARE_TRY(pare__job_open(&s->open, options, NULL, &s->job));
    for (size_t i = 0; i < s->count; i++)
        PARE_TRY(list_layers(s, &s->questions[i]));
    return PARE_OK;
}

/* What the run after the survey would refuse is refused before it. */
static pare_status try_run(const pare_recipe *presumed, const pare_run_options *options)
{
    pare__job *job = NULL;
    PARE_TRY(pare__job_open(presumed, options, NULL, &job));
    pare__job_free(&job);
    return PARE_OK;
}

/* The files of the walk are of no use to anyone later. */
static pare_status measure_outputs(pare__survey *s)
{
    char sentence[900], trail[400];
    PARE_TRY(pare__job_start(s->job));
    pare_status status = pare__survey_outputs(s);
    snprintf(sentence, sizeof sentence, "%s", pare_last_error());
    snprintf(trail, sizeof trail, "%s", pare_last_trail());
    pare_status cleaned = pare__walk_clean(s->job);
    if (status != PARE_OK)
        return pare__error_again(status, sentence, trail);
    PARE_TRY(cleaned);
    return PARE_OK;
}

static pare_status measure(pare__survey *s)
{
    if (s->cost.walks) {
        PARE_TRY(measure_outputs(s));
        PARE_TRY(pare__survey_keep(s));
    }
    for (size_t i = 0; i < s->count; i++)
        if (pare__survey_by_model(&s->questions[i]) && pare__survey_open(&s->questions[i]))
            PARE_TRY(pare__survey_kld(s, &s->questions[i]));
    return PARE_OK;
}

/* What may pass (a stop, a full disk) leaves what was measured; what the same command would meet
 * again leaves nothing. */
static pare_status give_up(const pare__survey *s, pare_status status)
{
    char sentence[900], trail[400], *path = NULL;
    snprintf(sentence, sizeof sentence, "%s", pare_last_error());
    snprintf(trail, sizeof trail, "%s", pare_last_trail());
    bool keep = status == PARE_ERR_FULL || status == PARE_ERR_IO ||
                status == PARE_ERR_INTERRUPTED || status == PARE_ERR_MEMORY ||
                status == PARE_ERR_DEVICE;
    if (!keep)
        (void)(pare__survey_clean(s->recipe) == PARE_OK);
    bool kept =
        keep && pare__beside(s->recipe, ".survey.json", &path) == PARE_OK && pare__exists(path);
    free(path);
    if (!kept)
        return pare__error_again(status, sentence, trail);
    return pare__error(status, __func__,
                       "%s; what is measured is kept in %s.survey.json, the same command continues",
                       sentence, s->recipe->output);
}

/* The presumed recipe, and what measuring takes. */
static pare_status look_ahead(pare__survey *s, const pare_run_options *options,
                              pare__surveyed *surveyed)
{
    PARE_TRY(open_survey(s, options));
    if (s->recipe->output)
        PARE_TRY(pare__survey_look_back(s));
    PARE_TRY(predict(s));
    PARE_TRY(pare__survey_choose(s, true));
    PARE_TRY(pare__survey_write_recipe(s, &surveyed->recipe));
    surveyed->cost = s->cost;
    surveyed->before = describe_cost(s);
    return PARE_OK;
}

pare_status pare__survey_plan(const pare_recipe *recipe, const pare_run_options *options,
                              pare__surveyed *surveyed)
{
    pare_status status = PARE_OK;
    pare__survey s = {.recipe = recipe};
    *surveyed = (pare__surveyed){0};
    PARE_TRY_DONE(look_ahead(&s, options, surveyed));
done:
    close_survey(&s);
    return status;
}

pare_status pare__survey_run(const pare_recipe *recipe, const pare_run_options *options,
                             pare__surveyed *surveyed)
{
    pare_status status = PARE_OK;
    pare__survey s = {.recipe = recipe};
    double begin = pare__now();
    *surveyed = (pare__surveyed){0};
    PARE_TRY_DONE(look_ahead(&s, options, surveyed));
    PARE_TRY_DONE(try_run(&surveyed->recipe, options));
    pare__survey_free_recipe(&surveyed->recipe);
    status = measure(&s);
    if (status != PARE_OK)
        PARE_TRY_DONE(give_up(&s, status));
    PARE_TRY_DONE(pare__survey_choose(&s, false));
    PARE_TRY_DONE(pare__survey_keep(&s));
    PARE_TRY_DONE(pare__survey_write_recipe(&s, &surveyed->recipe));
    surveyed->found = pare__survey_describe(&s);
    surveyed->seconds = pare__now() - begin;
done:
    close_survey(&s);
    return status;
}

void pare__surveyed_free(pare__surveyed *surveyed)
{
    pare__survey_free_recipe(&surveyed->recipe);
    pare__json_free(&surveyed->found);
    pare__json_free(&surveyed->before);
}
