/* plan.c - decides, before any value is read, what happens to every tensor: which steps choose it,
 * what fits it, in which form it is written, how it is cut into chunks. */
#include "job.h"

#include <math.h>
#include <string.h>

/* ---- choice ---------------------------------------------------------------------------------- */

static bool any_match(char *const *globs, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (pare__glob(globs[i], name))
            return true;
    return false;
}

/* Whether a step takes a tensor (recipe.h, pare_choice). What has no numbers to compress is never
 * taken. */
static bool chooses(const pare_choice *choice, const pare_entry *entry, pare_role role)
{
    if (!pare_dtype_is_weight(entry->dtype) || entry->rank < 2 || entry->rows == 0 ||
        entry->cols == 0)
        return false;
    if (any_match(choice->exclude, choice->excludes, entry->name))
        return false;
    if (choice->includes)
        return any_match(choice->include, choice->includes, entry->name);
    return role == PARE_ROLE_LINEAR || role == PARE_ROLE_CONV;
}

/* An include that matches no tensor at all is a slip of the pen. */
static pare_status check_includes(const pare__job *job, const pare_choice *choice, const char *step)
{
    for (size_t i = 0; i < choice->includes; i++) {
        bool found = false;
        for (int64_t t = 0; t < job->count && !found; t++)
            found = pare__glob(choice->include[i], pare_store_entry(job->store, t)->name);
        PARE_REQUIRE(found, PARE_ERR_ARGUMENT,
                     "include \"%s\" of the %s step matches no tensor of %s (see pare inspect)",
                     choice->include[i], step, job->recipe->model);
    }
    return PARE_OK;
}

static pare_status choose(pare__job *job, pare__task *task)
{
    const pare_entry *entry = pare_store_entry(job->store, task->source);
    for (size_t i = 0; i < job->recipe->prune_count; i++)
        if (chooses(&job->recipe->prunes[i].choice, entry, task->role)) {
            PARE_REQUIRE(!task->prune, PARE_ERR_ARGUMENT,
                         "%s is chosen by two prune steps: make their includes and excludes apart",
                         entry->name);
            task->prune = &job->recipe->prunes[i];
        }
    for (size_t i = 0; i < job->recipe->quant_count; i++)
        if (chooses(&job->recipe->quants[i].choice, entry, task->role)) {
            PARE_REQUIRE(
                !task->quant, PARE_ERR_ARGUMENT,
                "%s is chosen by two quantize steps: make their includes and excludes apart",
                entry->name);
            task->quant = &job->recipe->quants[i];
        }
    return PARE_OK;
}

/* A step that takes nothing would be silence where the user expects work. */
static pare_status check_choice(const pare__job *job, const pare_choice *choice, const char *step)
{
    PARE_TRY(check_includes(job, choice, step));
    for (int64_t t = 0; t < job->count; t++)
        if (chooses(choice, pare_store_entry(job->store, t), job->tasks[t].role))
            return PARE_OK;
    PARE_FAIL(
        PARE_ERR_ARGUMENT,
        "the %s step chooses no tensor of %s: see the roles in pare inspect, or give --include",
        step, job->recipe->model);
}

/* A step whose every tensor the output refuses contradicts the output. */
static pare_status check_outcome(const pare__job *job, const pare_quant_step *step)
{
    const pare__task *refused = NULL;
    for (int64_t t = 0; t < job->count; t++) {
        const pare__task *task = &job->tasks[t];
        if (task->quant == step)
            return PARE_OK;
        if (chooses(&step->choice, pare_store_entry(job->store, t), task->role) && task->fallback)
            refused = task;
    }
    PARE_REQUIRE(!refused, PARE_ERR_ARGUMENT, "nothing could be quantised; %s: %s",
                 refused->out.name, refused->fallback);
    return PARE_OK;
}

/* ---- what fits ------------------------------------------------------------------------------- */

pare_status pare__task_fall_back(const pare__job *job, pare__task *task, const char *sentence)
{
    PARE_REQUIRE(!job->options->strict, PARE_ERR_ARGUMENT, "%s: %s (--strict)", task->out.name,
                 sentence);
    pare__text text = {0};
    if (task->fallback)
        pare__text_add(&text, "%s; ", task->fallback);
    pare__text_add(&text, "%s", sentence);
    free(task->fallback);
    task->fallback = NULL;
    return pare__text_take(&text, &task->fallback);
}

static pare_status fit_pattern(const pare__job *job, pare__task *task)
{
    const pare_pattern *pattern = &task->prune->pattern;
    char sentence[160];
    task->inner = 1;
    if (pattern->kind != PARE_PATTERN_NM)
        return PARE_OK;
    for (int d = 2; d < task->out.rank; d++)
        task->inner *= task->out.shape[d];
    int64_t inputs = task->out.cols / task->inner;
    if (inputs % pattern->m == 0)
        return PARE_OK;
    snprintf(sentence, sizeof sentence, "%lld inputs are no multiple of %d: not pruned",
             (long long)inputs, pattern->m);
    task->prune = NULL;
    return pare__task_fall_back(job, task, sentence);
}

static pare_status fit_scheme(const pare__job *job, pare__task *task)
{
    pare_scheme scheme = task->quant->scheme;
    char sentence[200];
    PARE_REQUIRE(scheme.activation != PARE_ACT_STATIC || pare__walks(job->recipe),
                 PARE_ERR_ARGUMENT,
                 "static activation scales (a8s) need calibration data: give --data, or use a8d");
    PARE_REQUIRE(scheme.type != PARE_QUANT_NF4 || task->quant->search == PARE_SCALE_ABSMAX,
                 PARE_ERR_ARGUMENT,
                 "nf4 takes its scale from the largest weight: leave scale at absmax");
    if (scheme.granularity == PARE_PER_GROUP && task->out.cols % scheme.block_cols != 0) {
        snprintf(sentence, sizeof sentence,
                 "groups of %lld do not divide rows of %lld: one scale per output channel instead",
                 (long long)scheme.block_cols, (long long)task->out.cols);
        scheme.granularity = PARE_PER_CHANNEL;
        scheme.block_rows = scheme.block_cols = 0;
        scheme.double_quant = false;
        PARE_TRY(pare__task_fall_back(job, task, sentence));
    }
    task->out.form = PARE_FORM_QUANT;
    task->out.nonzeros = 0; /* of a sparse source */
    task->out.scheme = scheme;
    task->out.scale_offset = 0; /* found with the ranges */
    return PARE_OK;
}

/* ---- form ------------------------------------------------------------------------------------ */

static bool is_format(const pare__job *job, const char *name)
{
    return job->recipe->format && strcmp(job->recipe->format, name) == 0;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Where the output goes, or what stands for it in a plan without one: a directory. */
static const char *output_path(const pare__job *job)
{
    return job->recipe->output ? job->recipe->output : "out";
}

/* What the writer is told: "dense" is our own word for no encoded entries at all. */
static const char *writer_format(const pare__job *job)
{
    return is_format(job, "dense") ? NULL : job->recipe->format;
}

static bool accepted(const pare__job *job, const pare_entry *entry)
{
    return pare_writer_accepts(output_path(job), writer_format(job), entry) == PARE_OK;
}

static void make_dense(pare_entry *out)
{
    out->form = PARE_FORM_DENSE;
    out->scheme = (pare_scheme){0};
    out->scale_offset = 0;
    out->nonzeros = 0;
}

/* A pruned tensor is kept as bitmask and values where the container has them. */
static void prefer_sparse(const pare__job *job, pare__task *task)
{
    bool wanted = is_format(job, "sparse-bitmask") ||
                  (ends_with(output_path(job), ".h5") && !is_format(job, "dense"));
    double keep = 1;
    make_dense(&task->out);
    if (!wanted)
        return;
    if (task->prune)
        keep = task->prune->pattern.kind == PARE_PATTERN_NM
                   ? (double)task->prune->pattern.n / task->prune->pattern.m
                   : 1 - task->prune->sparsity;
    task->maybe_sparse = true;
    task->out.form = PARE_FORM_SPARSE;
    task->out.nonzeros = (int64_t)rint(keep * (double)task->out.rows * (double)task->out.cols);
}

/* Why the writer just refused a tensor, without its name, so that equal reasons can be told
 * together. */
static const char *refusal(const pare__task *task)
{
    const char *why = pare_last_error();
    size_t length = strlen(task->out.name);
    bool named = strncmp(why, task->out.name, length) == 0 && strncmp(why + length, ": ", 2) == 0;
    return named ? why + length + 2 : why;
}

/* Asked for by format alone: what bitmask and values cannot hold stays dense. */
static pare_status sparse_if_held(const pare__job *job, pare__task *task)
{
    char sentence[512];
    if (task->out.rows == 0 || task->out.cols == 0)
        return PARE_OK;
    prefer_sparse(job, task);
    if (accepted(job, &task->out))
        return PARE_OK;
    snprintf(sentence, sizeof sentence, "%s: kept dense", refusal(task));
    make_dense(&task->out);
    task->maybe_sparse = false;
    return pare__task_fall_back(job, task, sentence);
}

/* A tensor that no step touches goes over as it is, or decoded where the output cannot hold its
 * form. */
static pare_status keep_form(const pare__job *job, pare__task *task, const pare_entry *source)
{
    char scheme[32], note[80];
    if (source->form == PARE_FORM_DENSE) {
        if (is_format(job, "sparse-bitmask") && pare_dtype_is_weight(source->dtype) &&
            (task->role == PARE_ROLE_LINEAR || task->role == PARE_ROLE_CONV))
            return sparse_if_held(job, task);
        return PARE_OK;
    }
    if (!is_format(job, "dense") && accepted(job, &task->out)) {
        task->way = PARE__WAY_KEEP;
        return PARE_OK;
    }
    snprintf(note, sizeof note, "decoded from %s",
             source->form == PARE_FORM_SPARSE
                 ? "bitmask and values"
                 : pare_scheme_text(&source->scheme, scheme, sizeof scheme));
    make_dense(&task->out);
    return pare__strdup(note, &task->note);
}

/* A quantised form that the output cannot hold: the tensor stays as if not chosen. */
static pare_status refuse_form(const pare__job *job, pare__task *task)
{
    char sentence[512];
    snprintf(sentence, sizeof sentence, "%s: not quantised", refusal(task));
    task->quant = NULL;
    make_dense(&task->out);
    return pare__task_fall_back(job, task, sentence);
}

/* Blocks that an output cannot hold become one scale per output channel; what it cannot hold even
 * then is refused. */
static pare_status fit_output(const pare__job *job, pare__task *task)
{
    char sentence[512];
    if (accepted(job, &task->out))
        return PARE_OK;
    pare_entry wanted = task->out;
    if (task->out.scheme.granularity == PARE_PER_BLOCK) {
        snprintf(sentence, sizeof sentence, "%s: one scale per output channel instead",
                 refusal(task));
        task->out.scheme.granularity = PARE_PER_CHANNEL;
        task->out.scheme.block_rows = task->out.scheme.block_cols = 0;
        if (accepted(job, &task->out))
            return pare__task_fall_back(job, task, sentence);
        task->out = wanted;
    }
    return refuse_form(job, task);
}

static pare_status decide(pare__job *job, pare__task *task)
{
    const pare_entry *source = pare_store_entry(job->store, task->source);
    task->out = *source;
    task->group = -1;
    task->inner = 1;
    task->role = pare_entry_role(job->config ? job->config : pare_store_config(job->store), source,
                                 &task->reason);
    task->stream = UINT64_C(0xcbf29ce484222325);
    for (const char *c = source->name; *c; c++)
        task->stream = (task->stream ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
    PARE_TRY(choose(job, task));
    if (task->prune)
        PARE_TRY(fit_pattern(job, task));
    if (task->quant) {
        PARE_TRY(fit_scheme(job, task));
        PARE_TRY(fit_output(job, task));
    }
    if (!task->quant && task->prune)
        prefer_sparse(job, task);
    else if (!task->quant)
        PARE_TRY(keep_form(job, task, source));
    if (task->maybe_sparse && !accepted(job, &task->out))
        PARE_FAIL(PARE_ERR_ARGUMENT, "%s", pare_last_error());
    task->out.piece_rows = pare_piece_rows(task->out.dtype, task->out.cols);
    return PARE_OK;
}

/* ---- groups and chunks ----------------------------------------------------------------------- */

static int64_t units_of(const pare__task *task)
{
    const pare_pattern *p = &task->prune->pattern;
    if (p->kind != PARE_PATTERN_BLOCK)
        return task->out.rows * task->out.cols;
    return ((task->out.rows + p->block_rows - 1) / p->block_rows) *
           ((task->out.cols + p->block_cols - 1) / p->block_cols);
}

static pare_status make_groups(pare__job *job)
{
    PARE_TRY(pare__calloc((size_t)job->count + job->recipe->prune_count, sizeof *job->groups,
                          &job->groups));
    for (int64_t t = 0; t < job->count; t++) {
        pare__task *task = &job->tasks[t];
        if (!task->prune || task->prune->pattern.kind == PARE_PATTERN_NM)
            continue;
        int64_t g = job->group_count;
        if (task->prune->scope == PARE_SCOPE_GLOBAL)
            for (g = 0; g < job->group_count && job->groups[g].step != task->prune; g++) {
            }
        if (g == job->group_count)
            job->groups[job->group_count++].step = task->prune;
        task->group = g;
        job->groups[g].units += units_of(task);
    }
    for (int64_t g = 0; g < job->group_count; g++)
        job->groups[g].prune =
            (int64_t)rint(job->groups[g].step->sparsity * (double)job->groups[g].units);
    return PARE_OK;
}

/* Rows of a chunk depend on the tensor and the recipe alone: never on memory, threads or device. */
static int64_t chunk_rows(const pare__task *task)
{
    const pare_entry *e = &task->out;
    int64_t rows = pare_entry_align(e);
    if (e->cols * pare_dtype_bits(e->dtype) % 8 != 0)
        return e->rows; /* rows that end inside a byte */
    if (task->prune && task->prune->pattern.kind == PARE_PATTERN_BLOCK)
        rows = pare__lcm(rows, task->prune->pattern.block_rows);
    /* Two pieces at a time cost fewer calls; sums that chunks define (docs/numerics.md) stay. */
    bool sums = e->form == PARE_FORM_QUANT &&
                (e->scheme.double_quant || e->scheme.granularity == PARE_PER_TENSOR);
    if (!sums && rows == e->piece_rows)
        rows *= 2;
    return rows < e->rows ? rows : e->rows;
}

static pare_status make_chunks(pare__job *job)
{
    for (int64_t t = 0; t < job->count; t++) {
        pare__task *task = &job->tasks[t];
        const pare_entry *e = &task->out;
        task->first_chunk = job->chunk_count;
        if (e->rows == 0 || e->cols == 0)
            continue;
        task->chunk_rows = chunk_rows(task);
        task->chunk_bytes = (task->chunk_rows * e->cols * pare_dtype_bits(e->dtype) + 7) / 8;
        task->chunks = task->left = (e->rows + task->chunk_rows - 1) / task->chunk_rows;
        job->chunk_count += task->chunks;
    }
    PARE_TRY(pare__calloc((size_t)job->chunk_count, sizeof *job->chunks, &job->chunks));
    for (int64_t t = 0; t < job->count; t++)
        for (int64_t c = 0; c < job->tasks[t].chunks; c++)
            job->chunks[job->tasks[t].first_chunk + c] =
                (pare__chunk){.task = (int32_t)t,
                              .first = c * job->tasks[t].chunk_rows,
                              .ties = -1,
                              .nonzeros = -1};
    return PARE_OK;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Opening a device costs the process memory that no budget is about. */
static pare_status choose_device(pare__job *job)
{
    int64_t before = pare_memory_now();
    pare_run_options options = *job->options;
    char name[24];
    pare__device_spread(job->ranks, &options.device, name);
    PARE_TRY(pare__device_choose(&options, &job->device));
    if (job->device.cuda)
        job->context = pare_memory_now() - before;
    return PARE_OK;
}

/* With --arch a plain state dict says from now on what it is: roles go by it, and an output that
 * can remembers it. */
static pare_status name_architecture(pare__job *job)
{
    pare_model *model = NULL;
    if (!job->recipe->arch)
        return PARE_OK;
    PARE_TRY(pare_model_create(
        &(pare_model_options){.arch = job->recipe->arch, .store = job->store}, &model));
    pare_status status = pare__strdup(pare_model_config(model), &job->config);
    pare_model_free(&model);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}

static pare_status fill(pare__job *job)
{
    const pare_recipe *recipe = job->recipe;
    PARE_TRY(choose_device(job));
    PARE_REQUIRE(recipe->quant_count == 0 || !is_format(job, "dense"), PARE_ERR_ARGUMENT,
                 "format dense cannot hold what the quantize step makes: write it first, then "
                 "pare convert --to dense decodes it");
    PARE_REQUIRE(recipe->model, PARE_ERR_ARGUMENT, "the recipe names no model");
    PARE_TRY(pare_store_open(recipe->model, &job->store));
    PARE_TRY(name_architecture(job));
    job->count = pare_store_count(job->store);
    PARE_REQUIRE(job->count < INT32_MAX, PARE_ERR_UNSUPPORTED, "%s has too many tensors",
                 recipe->model);
    PARE_TRY(pare__calloc((size_t)job->count, sizeof *job->tasks, &job->tasks));
    PARE_TRY(pare__calloc((size_t)job->count, sizeof *job->entries, &job->entries));
    PARE_TRY(pare__calloc((size_t)job->count * 2, sizeof *job->digests, &job->digests));
    for (int64_t t = 0; t < job->count; t++) {
        job->tasks[t].source = t;
        PARE_TRY(decide(job, &job->tasks[t]));
    }
    PARE_TRY(pare__calloc((size_t)job->count, sizeof *job->sums, &job->sums));
    for (size_t i = 0; i < recipe->prune_count; i++)
        PARE_TRY(check_choice(job, &recipe->prunes[i].choice, "prune"));
    for (size_t i = 0; i < recipe->quant_count; i++)
        PARE_TRY(check_choice(job, &recipe->quants[i].choice, "quantize"));
    for (size_t i = 0; i < recipe->quant_count; i++)
        PARE_TRY(check_outcome(job, &recipe->quants[i]));
    PARE_TRY(pare__walker_open(job));
    PARE_TRY(pare__gradients_open(job));
    PARE_TRY(make_groups(job));
    PARE_TRY(make_chunks(job));
    PARE_TRY(pare_recipe_text(recipe, &job->recipe_text));
    PARE_TRY(pare__provenance(job, &job->provenance));
    job->phases = pare__json_new_array();
    PARE_REQUIRE(job->phases, PARE_ERR_MEMORY, "out of memory");
    return PARE_OK;
}

pare_status pare__job_open(const pare_recipe *recipe, const pare_run_options *options,
                           pare_comm *ranks, pare__job **out)
{
    pare_status status = PARE_OK;
    pare__job *job = NULL;
    PARE_TRY_DONE(pare__calloc(1, sizeof *job, &job));
    pthread_mutex_init(&job->lock, NULL);
    job->recipe = recipe;
    job->options = options;
    job->ranks = ranks;
    PARE_TRY_DONE(fill(job));
    PARE_TRY_DONE(pare__job_budget(job));
    PARE_TRY_DONE(pare__gradients_predict(job));
    *out = job;
    job = NULL;
done:
    pare__job_free(&job);
    return status;
}

void pare__job_free(pare__job **job)
{
    pare__job *j = *job;
    if (!j)
        return;
    *job = NULL;
    pare__lanes_free(j);
    free(j->config);
    pare__walker_free(&j->walker);
    pare__gradients_free(j);
    pare_writer_free(&j->writer, false);
    pare_journal_close(&j->journal, false);
    pare_sched_free(&j->sched);
    pare__json_free(&j->phases);
    free(j->provenance);
    free(j->recipe_text);
    free(j->chunks);
    free(j->groups);
    free(j->digests);
    free(j->errors);
    free(j->sums);
    free(j->unsure);
    free(j->records);
    free(j->entries);
    for (int64_t t = 0; j->tasks && t < j->count; t++) {
        free(j->tasks[t].fallback);
        free(j->tasks[t].note);
        free(j->tasks[t].walked);
    }
    free(j->tasks);
    pare_store_close(&j->store);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

void pare__job_writer_options(pare__job *job, pare_writer_options *options)
{
    for (int64_t t = 0; t < job->count; t++)
        job->entries[t] = job->tasks[t].out;
    *options = (pare_writer_options){.path = output_path(job),
                                     .format = writer_format(job),
                                     .entries = job->entries,
                                     .count = job->count,
                                     .source = job->store,
                                     .config = job->config,
                                     .provenance = job->provenance,
                                     .max_shard_size = job->recipe->max_shard_size,
                                     .overwrite = job->options->overwrite};
}
