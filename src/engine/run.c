/* run.c - a whole run: passes over the source, the layout, every chunk, the end. */
#include "engine/survey/survey.h"

#include "base/clock.h"

#include <string.h>

/* ---- the main pass --------------------------------------------------------------------------- */

/* Written before, or to be written by another process. */
static bool passes_by(const pare__job *job, int64_t chunk)
{
    return job->chunks[chunk].done || !pare__owns(job, &job->tasks[job->chunks[chunk].task]);
}

static pare_status read_stage(void *user, int worker, int64_t chunk)
{
    pare__job *job = user;
    pare__lane *lane = &job->lanes[worker];
    if (passes_by(job, chunk))
        return PARE_OK;
    PARE_TRY(pare__chunk_read(job, lane, chunk));
    PARE_TRY(pare__chunk_digest(lane));
    PARE_TRY(pare__walk_rows(job, lane));
    return PARE_OK;
}

static pare_status upload_stage(void *user, int worker, int64_t chunk)
{
    pare__job *job = user;
    if (!passes_by(job, chunk))
        PARE_TRY(pare__chunk_upload(&job->lanes[worker]));
    return PARE_OK;
}

static pare_status score_stage(void *user, int worker, int64_t chunk)
{
    pare__job *job = user;
    pare__lane *lane = &job->lanes[worker];
    if (passes_by(job, chunk))
        return PARE_OK;
    PARE_TRY(pare__chunk_score(job, lane));
    PARE_TRY(pare__chunk_ties(job, lane, chunk));
    return PARE_OK;
}

static pare_status order_stage(void *user, int worker, int64_t chunk)
{
    pare__job *job = user;
    pare__chunk_order(job, &job->lanes[worker], chunk);
    return PARE_OK;
}

static pare_status compress_stage(void *user, int worker, int64_t chunk)
{
    pare__job *job = user;
    pare__lane *lane = &job->lanes[worker];
    if (passes_by(job, chunk))
        return PARE_OK;
    PARE_TRY(pare__chunk_prune(job, lane));
    PARE_TRY(pare__chunk_quantize(lane));
    PARE_TRY(pare__chunk_gather(job, lane, chunk));
    return PARE_OK;
}

static pare_status download_stage(void *user, int worker, int64_t chunk)
{
    pare__job *job = user;
    if (!passes_by(job, chunk))
        PARE_TRY(pare__chunk_download(&job->lanes[worker]));
    return PARE_OK;
}

/* The chunk's digest and checksums join their tensor's; with --sync a finished tensor goes to the
 * disk. */
static pare_status account(pare__job *job, pare__lane *lane, int64_t chunk)
{
    int64_t t = job->chunks[chunk].task;
    pthread_mutex_lock(&job->lock);
    job->chunks[chunk].done = true;
    job->digests[2 * t] += lane->digest[0];
    job->digests[2 * t + 1] += lane->digest[1];
    bool finished = --job->tasks[t].left == 0;
    pthread_mutex_unlock(&job->lock);
    pare_writer_add_sums(job->writer, t, &lane->parts.sums);
    for (int i = 0; i < lane->parts.count; i++)
        job->write_bytes += lane->parts.part[i].size;
    if (finished && job->options->sync && pare__leads(job))
        PARE_TRY(pare__journal_sync(job));
    return PARE_OK;
}

static pare_status write_stage(void *user, int worker, int64_t chunk)
{
    pare__job *job = user;
    pare__lane *lane = &job->lanes[worker];
    if (passes_by(job, chunk))
        return PARE_OK;
    PARE_TRY(pare__chunk_encode(job, lane, chunk));
    PARE_TRY(pare_writer_write(job->writer, &lane->parts));
    PARE_TRY(pare__journal_chunk(job, lane, chunk));
    PARE_TRY(account(job, lane, chunk));
    pare__lane_end(lane);
    return PARE_OK;
}

static int64_t bytes_of(void *user, int64_t chunk)
{
    const pare__job *job = user;
    return passes_by(job, chunk) ? 0 : pare__chunk_bytes(job, chunk).host;
}

static int64_t device_bytes_of(void *user, int64_t chunk)
{
    const pare__job *job = user;
    return passes_by(job, chunk) ? 0 : pare__chunk_bytes(job, chunk).device;
}

static double weight_of(void *user, int64_t chunk)
{
    const pare__job *job = user;
    return (double)job->tasks[job->chunks[chunk].task].chunk_bytes;
}

static pare_status compress(pare__job *job)
{
    pare_job stages = {.name = "compress",
                       .items = job->chunk_count,
                       .user = job,
                       .bytes = bytes_of,
                       .device_bytes = device_bytes_of,
                       .weight = weight_of};
    int n = 0;
    stages.stages[n++] = (pare_stage){.name = "read", .run = read_stage};
    if (job->device.cuda)
        stages.stages[n++] = (pare_stage){.name = "upload", .run = upload_stage};
    stages.stages[n++] = (pare_stage){.name = "score", .run = score_stage};
    if (pare__job_ordered(job))
        stages.stages[n++] = (pare_stage){.name = "order", .run = order_stage, .in_order = true};
    stages.stages[n++] = (pare_stage){.name = "compress", .run = compress_stage};
    if (job->device.cuda)
        stages.stages[n++] = (pare_stage){.name = "download", .run = download_stage};
    stages.stages[n++] = (pare_stage){.name = "write", .run = write_stage};
    for (int64_t g = 0; g < job->group_count; g++)
        job->groups[g].ties_seen = 0;
    PARE_TRY(pare__job_phase(job, &stages));
    return PARE_OK;
}

/* ---- before and after ------------------------------------------------------------------------ */

/* Tensors first, side files after them. */
static pare_status verify_item(void *user, int worker, int64_t item)
{
    pare__job *job = user;
    pare_backend *be = job->lanes[worker].host;
    if (item < job->count)
        PARE_TRY(pare_store_verify(job->store, be, item));
    else
        PARE_TRY(pare_store_side_verify(job->store, be, item - job->count));
    return PARE_OK;
}

/* An .h5 brings checksums: a damaged source is refused before anything is made of it. */
static pare_status verify_source(pare__job *job)
{
    if (strcmp(pare_store_format(job->store), "h5") != 0 || job->laid_out)
        return PARE_OK;
    PARE_TRY(
        pare__job_phase(job, &(pare_job){.name = "verify",
                                         .items = job->count + pare_store_side_count(job->store),
                                         .stages = {{.name = "verify", .run = verify_item}},
                                         .user = job}));
    return PARE_OK;
}

static pare_status look_ahead(pare__job *job)
{
    bool leads = pare__leads(job);
    if (leads && job->group_count && !job->selected) {
        PARE_TRY(pare__job_select(job));
        PARE_TRY(pare__journal_select(job));
    }
    if (leads && pare__job_has_ranges(job) && !job->ranged) {
        PARE_TRY(pare__job_ranges(job));
        PARE_TRY(pare__journal_ranges(job));
    }
    if (pare__job_has_count(job) && !job->counted) {
        PARE_TRY(pare__job_count(job));
        if (leads)
            PARE_TRY(pare__journal_count(job));
    }
    return pare__ranks_tell(job);
}

static pare_status create(pare__job *job)
{
    pare_writer_options options;
    pare__job_writer_options(job, &options);
    if (!pare__leads(job)) { /* fills what the first one has laid out */
        PARE_TRY(pare__ranks_wait(job));
        return pare_writer_create(&options, true, &job->writer);
    }
    if (!job->laid_out)
        PARE_TRY(pare__journal_fresh(job));
    PARE_TRY(pare_writer_create(&options, job->laid_out, &job->writer));
    if (!job->laid_out)
        PARE_TRY(pare__journal_layout(job));
    for (int64_t t = 0; t < job->count; t++)
        pare_writer_add_sums(job->writer, t, &job->sums[t]);
    return pare__ranks_wait(job);
}

static pare_status finish(pare__job *job)
{
    free(job->provenance);
    job->provenance = NULL;
    PARE_TRY(pare__provenance(job, &job->provenance));
    PARE_TRY(pare_writer_provenance(job->writer, job->provenance));
    PARE_TRY(pare__journal_finished(job));
    PARE_TRY(pare_journal_sync(job->journal));
    PARE_TRY(pare_writer_finish(job->writer));
    return PARE_OK;
}

pare_status pare__check_folder(const char *output)
{
    char *folder = NULL;
    PARE_TRY(pare__strdup(output, &folder));
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/')
        length--;
    while (length > 0 && folder[length - 1] != '/')
        length--;
    folder[length] = '\0';
    bool there = length == 0 || pare__is_directory(folder);
    pare_status status = PARE_OK;
    if (!there)
        status = pare__error(PARE_ERR_ARGUMENT, __func__,
                             "the folder %s for the output is not there: make it first", folder);
    free(folder);
    return status;
}

static pare_status check_output(const pare_recipe *recipe, const pare_run_options *options)
{
    PARE_REQUIRE(recipe->output && *recipe->output, PARE_ERR_ARGUMENT,
                 "no output: give -o OUT, or an export step with to:");
    PARE_REQUIRE(!pare__glob("*.gguf", recipe->output), PARE_ERR_ARGUMENT,
                 "%s: GGUF is not in this version; write .safetensors, .h5 or a directory",
                 recipe->output);
    PARE_TRY(pare__check_folder(recipe->output));
    if (options->overwrite || !pare__exists(recipe->output))
        return PARE_OK;
    bool journal = false; /* if there is one, the output may be ours, cut between its last steps */
    PARE_TRY(pare__has_journal(recipe, &journal));
    PARE_REQUIRE(journal, PARE_ERR_EXISTS, "%s exists: choose another output, or give --overwrite",
                 recipe->output);
    return PARE_OK;
}

pare_status pare__job_start(pare__job *job)
{
    PARE_TRY(pare_sched_create(&(pare_sched_options){.threads = job->threads,
                                                     .budget = job->budget.host,
                                                     .device_budget = job->budget.device,
                                                     .device = job->device.name,
                                                     .trace = job->options->trace,
                                                     .cancel = job->options->cancel,
                                                     .progress = job->options->progress},
                               &job->sched));
    PARE_TRY(pare__lanes_create(job));
    return PARE_OK;
}

/* After a failure that the same command would meet again nothing is left; after one that may pass
 * (a full disk, a stop, a lost device, another process's failure) the part and its journal stay,
 * and the sentence says so. What is to be removed is the first process's. */
static pare_status give_up(pare__job *job, pare_status status)
{
    char sentence[900], trail[400];
    snprintf(sentence, sizeof sentence, "%s", pare_last_error());
    snprintf(trail, sizeof trail, "%s", pare_last_trail());
    bool keep = status == PARE_ERR_FULL || status == PARE_ERR_IO ||
                status == PARE_ERR_INTERRUPTED || status == PARE_ERR_MEMORY ||
                status == PARE_ERR_DEVICE || status == PARE_ERR_EXISTS || status == PARE_ERR_RANK;
    bool mine = job->journal != NULL;
    bool begun = mine || (job->walker && job->walker->folder); /* of others than the first */
    const char *kept = job->writer ? "part" : job->walker ? "walk" : "journal";
    pare_writer_free(&job->writer, mine && !keep);
    if (mine && !keep) /* the journal last: without it nobody knows whose the rest is */
        (void)(pare__gradients_clean(job) == PARE_OK && pare__walk_clean(job) == PARE_OK);
    pare_journal_close(&job->journal, !keep);
    if (!begun || !keep || status == PARE_ERR_EXISTS)
        return pare__error_again(status, sentence, trail);
    return pare__error(status, __func__,
                       "%s; what is done is kept in %s.%s, the same command continues", sentence,
                       job->recipe->output, kept);
}

/* What one process does first, whoever works with it. */
static pare_status take_up(pare__job *job)
{
    PARE_TRY(pare__job_resume(job));
    if (job->finished)
        return PARE_OK; /* cut after the rename: only the report is left to do */
    PARE_REQUIRE(job->options->overwrite || !pare__exists(job->recipe->output), PARE_ERR_EXISTS,
                 "%s exists: choose another output, or give --overwrite", job->recipe->output);
    PARE_TRY(verify_source(job));
    PARE_TRY(pare__gradients_make(job));
    return PARE_OK;
}

static pare_status work(pare__job *job)
{
    PARE_TRY(pare__job_start(job));
    PARE_TRY(pare__job_boot(job));
    PARE_TRY(pare__ranks_agree(job));
    if (pare__leads(job))
        PARE_TRY(take_up(job));
    PARE_TRY(pare__ranks_begin(job));
    if (job->finished)
        return PARE_OK;
    PARE_TRY(pare__walk_blocks(job));
    PARE_TRY(look_ahead(job));
    PARE_TRY(create(job));
    PARE_TRY(compress(job));
    PARE_TRY(pare__ranks_written(job));
    if (pare__leads(job))
        PARE_TRY(finish(job));
    return PARE_OK;
}

pare_status pare__stage_plan(const pare_recipe *recipe, const pare_run_options *options,
                             pare_comm *ranks, pare_report **report)
{
    pare_status status = PARE_OK;
    pare__job *job = NULL;
    pare__prediction prediction;
    pare__surveyed surveyed = {0};
    PARE_REQUIRE(recipe && options && report, PARE_ERR_ARGUMENT, "plan: NULL argument");
    if (recipe->output)
        PARE_TRY(check_output(recipe, options));
    bool surveys = pare__surveys(recipe);
    if (surveys)
        PARE_TRY_DONE(pare__survey_plan(recipe, options, &surveyed));
    PARE_TRY_DONE(pare__job_open(surveys ? &surveyed.recipe : recipe, options, ranks, &job));
    PARE_TRY_DONE(pare__job_predict(job, &prediction));
    if (surveys)
        pare__survey_add(&surveyed, job, &prediction);
    PARE_TRY_DONE(pare__report_plan(job, &prediction, "plan", report));
done:
    pare__job_free(&job);
    pare__surveyed_free(&surveyed);
    return status;
}

/* Reads a conversion back. Where that cannot be done now the output is whole already, under its
 * name, and its journal stays, so that the same command only reads it. */
static pare_status verify(pare__job *job)
{
    pare_status status = pare__verify_conversion(job);
    char sentence[900];
    if (status != PARE_ERR_DEVICE && status != PARE_ERR_MEMORY && status != PARE_ERR_INTERRUPTED)
        return status;
    snprintf(sentence, sizeof sentence, "%s", pare_last_error());
    return pare__error(status, __func__,
                       "%s; %s is written but was not read back: the same command does that",
                       sentence, job->recipe->output);
}

/* A process that is not the first: its part of the work, and no word of its own. */
static pare_status follow(const pare_recipe *recipe, const pare_run_options *options,
                          pare_comm *ranks)
{
    pare_status status = PARE_OK;
    pare__job *job = NULL;
    PARE_TRY_DONE(pare__job_open(recipe, options, ranks, &job));
    status = work(job);
    if (status != PARE_OK)
        PARE_TRY_DONE(give_up(job, status));
done:
    pare__job_free(&job);
    return status;
}

/* surveyed: what decided the recipe, or NULL. */
static pare_status run_decided(const pare_recipe *recipe, const pare_run_options *options,
                               pare_comm *ranks, const pare__surveyed *surveyed,
                               pare_report **report)
{
    pare_status status = PARE_OK;
    pare__job *job = NULL;
    pare__prediction prediction;
    double begin = pare__now() - (surveyed ? surveyed->seconds : 0);
    PARE_TRY(check_output(recipe, options));
    PARE_TRY_DONE(pare__job_open(recipe, options, ranks, &job));
    PARE_TRY_DONE(pare__job_predict(job, &prediction));
    if (surveyed)
        pare__survey_add(surveyed, job, &prediction);
    status = work(job);
    if (status != PARE_OK)
        PARE_TRY_DONE(give_up(job, status));
    bool verified = false;
    if (recipe->prune_count + recipe->quant_count == 0) {
        PARE_TRY_DONE(verify(job));
        verified = true;
    }
    PARE_TRY_DONE(pare__report_run(job, &prediction, pare__now() - begin, verified, report));
    PARE_TRY_DONE(pare__gradients_clean(job));
    PARE_TRY_DONE(pare__walk_clean(job));
    pare_journal_close(&job->journal, true); /* last: a kill before leaves the same command to do */
done:
    pare__job_free(&job);
    return status;
}

pare_status pare__stage_run(const pare_recipe *recipe, const pare_run_options *options,
                            pare_comm *ranks, pare_report **report)
{
    pare_status status = PARE_OK;
    pare__surveyed surveyed = {0};
    PARE_REQUIRE(recipe && options && report, PARE_ERR_ARGUMENT, "run: NULL argument");
    *report = NULL;
    if (pare__rank(ranks) > 0)
        return follow(recipe, options, ranks);
    if (!pare__surveys(recipe))
        return run_decided(recipe, options, ranks, NULL, report);
    PARE_TRY(check_output(recipe, options));
    PARE_TRY_DONE(pare__survey_run(recipe, options, &surveyed));
    PARE_TRY_DONE(run_decided(&surveyed.recipe, options, NULL, &surveyed, report));
    PARE_TRY_DONE(pare__survey_clean(recipe));
done:
    pare__surveyed_free(&surveyed);
    return status;
}
