/* steps.c - a run as a chain of stages, from checkpoint to checkpoint. One stage is done as it is;
 * several go by steps_run.c. */
#include "steps.h"

#include "engine/recipe/recipe_impl.h"
#include "engine/report/report_impl.h"

#include <string.h>

/* ---- stages ---------------------------------------------------------------------------------- */

static pare_status add_stage(pare__chain *chain, size_t *capacity, pare__stage_kind kind,
                             const pare_step *step, bool data)
{
    PARE_TRY(pare__grow(&chain->stages, capacity, chain->count + 1, sizeof *chain->stages));
    pare__stage *stage = &chain->stages[chain->count++];
    *stage = (pare__stage){.kind = kind, .step = *step, .data = data};
    if (!data)
        stage->step.calibration = (pare_calibration){0};
    return PARE_OK;
}

/* A part of a step: a neighbour without data takes it in, as one pass over the tensors. */
static pare_status add_part(pare__chain *chain, size_t *capacity, const pare_step *part)
{
    pare__stage *before = chain->count ? &chain->stages[chain->count - 1] : NULL;
    bool data = pare_step_needs_data(chain->recipe, part);
    if (!part->prunes && !part->quants)
        return PARE_OK;
    if (data || !before || before->kind != PARE__STAGE_PASS || before->data)
        return add_stage(chain, capacity, PARE__STAGE_PASS, part, data);
    if (!before->step.prunes)
        before->step.prune = part->prune;
    if (!before->step.quants)
        before->step.quant = part->quant;
    before->step.prunes += part->prunes;
    before->step.quants += part->quants;
    return PARE_OK;
}

static bool prunes_walk(const pare_recipe *recipe, const pare_step *step)
{
    for (size_t i = step->prune; i < step->prune + step->prunes; i++)
        if (pare__prune_walks(&recipe->prunes[i]))
            return true;
    return false;
}

static bool quants_walk(const pare_recipe *recipe, const pare_step *step)
{
    for (size_t i = step->quant; i < step->quant + step->quants; i++)
        if (pare__quant_walks(&recipe->quants[i]))
            return true;
    return false;
}

/* What a step prunes and quantises is one stage, unless its pruning makes the model smaller, or is
 * decided over the whole model while its quantising goes block by block. */
static pare_status add_compress(pare__chain *chain, size_t *capacity, const pare_step *step)
{
    const pare_recipe *recipe = chain->recipe;
    pare_step prune = *step, quantize = *step;
    size_t end = step->prune + step->prunes;
    for (; prune.prune < end && pare_pattern_shrinks(&recipe->prunes[prune.prune].pattern);
         prune.prune++) {
        pare_step one = *step;
        one.prune = prune.prune;
        one.prunes = 1;
        one.quants = 0;
        PARE_TRY(add_stage(chain, capacity, PARE__STAGE_SHRINK, &one,
                           pare_step_needs_data(recipe, &one)));
    }
    prune.prunes = end - prune.prune;
    quantize.prune = end;
    quantize.prunes = 0;
    if (prune.prunes && quants_walk(recipe, step) && !prunes_walk(recipe, &prune)) {
        prune.quants = 0;
        PARE_TRY(add_part(chain, capacity, &prune));
        return add_part(chain, capacity, &quantize);
    }
    return add_part(chain, capacity, &prune);
}

/* Where the output is made: its ending is that of the output, which it will be renamed to. */
static const char *ending_of(const char *output)
{
    static const char *const endings[] = {".h5", ".safetensors", ".gguf"};
    size_t n = strlen(output);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (n > strlen(endings[i]) && strcmp(output + n - strlen(endings[i]), endings[i]) == 0)
            return endings[i];
    return "";
}

static bool any_checkpoint(const pare__chain *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        if (chain->stages[i].kind != PARE__STAGE_EVAL)
            return true;
    return false;
}

/* A lone .safetensors file does not say what model it is, which a measurement of it would ask: then
 * what is measured is the .h5 that it is made from. */
static bool ends_unnamed(const pare__chain *chain)
{
    bool named = chain->recipe->arch != NULL;
    for (size_t i = 0; i < chain->count; i++)
        named = named && chain->stages[i].kind != PARE__STAGE_SHRINK;
    return !named && chain->stages[chain->count - 1].kind == PARE__STAGE_EVAL &&
           strcmp(ending_of(chain->output), ".safetensors") == 0;
}

/* A student that is made of its teacher takes nothing from the steps before it. */
static pare_status check_student(const pare__chain *chain, pare_train_step *step)
{
    const pare_train_job *job;
    PARE_TRY(pare_train_step_job(step, &job));
    PARE_REQUIRE(!job->student || !any_checkpoint(chain), PARE_ERR_ARGUMENT,
                 "distill: a student given by its shape (%s) is made of the teacher, and what the "
                 "steps before it made would be lost: put it first, or leave out the shape",
                 job->student);
    return PARE_OK;
}

static pare_status make_stages(pare__chain *chain)
{
    const pare_recipe *recipe = chain->recipe;
    const pare_step all = {.prunes = recipe->prune_count, .quants = recipe->quant_count};
    size_t capacity = 0;
    for (size_t i = 0; i < recipe->step_count; i++)
        if (recipe->steps[i].kind == PARE_STEP_EVAL) {
            PARE_TRY(add_stage(chain, &capacity, PARE__STAGE_EVAL, &recipe->steps[i], false));
        } else if (recipe->steps[i].kind == PARE_STEP_TRAIN) {
            PARE_TRY(check_student(chain, recipe->steps[i].train));
            PARE_TRY(add_stage(chain, &capacity, PARE__STAGE_TRAIN, &recipe->steps[i], false));
        } else {
            PARE_TRY(add_compress(chain, &capacity, &recipe->steps[i]));
        }
    if (!recipe->step_count)
        PARE_TRY(add_compress(chain, &capacity, &all));
    const pare_step nothing = {.kind = PARE_STEP_COMPRESS};
    if (!any_checkpoint(chain) || ends_unnamed(chain)) /* a conversion */
        PARE_TRY(add_stage(chain, &capacity, PARE__STAGE_PASS, &nothing, false));
    return PARE_OK;
}

/* ---- from checkpoint to checkpoint ----------------------------------------------------------- */

static pare_status name_output(pare__chain *chain, size_t i)
{
    pare__stage *stage = &chain->stages[i];
    pare__text name = {0};
    if (chain->count == 1) {
        if (chain->recipe->output)
            PARE_TRY(pare__strdup(chain->recipe->output, &stage->recipe.output));
        return PARE_OK;
    }
    if (stage->last)
        pare__text_add(&name, "%s/out%s", chain->folder, ending_of(chain->output));
    else
        pare__text_add(&name, "%s/%zu.h5", chain->folder, i + 1);
    return pare__text_take(&name, &stage->recipe.output);
}

/* The recipe of a stage: what it prunes and quantises as one step. */
static pare_status make_recipe(pare__chain *chain, size_t i, const char *model, const char *arch)
{
    const pare_recipe *recipe = chain->recipe;
    pare__stage *stage = &chain->stages[i];
    stage->recipe = (pare_recipe){.model = (char *)(uintptr_t)model,
                                  .arch = (char *)(uintptr_t)arch,
                                  .seed = recipe->seed,
                                  .prunes = recipe->prunes + stage->step.prune,
                                  .prune_count = stage->step.prunes,
                                  .quants = recipe->quants + stage->step.quant,
                                  .quant_count = stage->step.quants};
    if (stage->kind != PARE__STAGE_EVAL) {
        stage->step.prune = stage->step.quant = 0;
        PARE_TRY(name_output(chain, i));
    }
    if (stage->last) {
        stage->recipe.format = recipe->format;
        stage->recipe.max_shard_size = recipe->max_shard_size;
    }
    stage->recipe.steps = &stage->step;
    stage->recipe.step_count = stage->kind == PARE__STAGE_EVAL ||
                               stage->kind == PARE__STAGE_TRAIN || stage->step.prunes ||
                               stage->step.quants; /* a conversion has none */
    return PARE_OK;
}

static pare_status link_stages(pare__chain *chain)
{
    const char *model = chain->recipe->model, *arch = chain->recipe->arch;
    size_t last = 0;
    for (size_t i = 0; i < chain->count; i++)
        if (chain->stages[i].kind != PARE__STAGE_EVAL)
            last = i;
    chain->stages[last].last = true;
    for (size_t i = 0; i < chain->count; i++) {
        PARE_TRY(make_recipe(chain, i, model, arch));
        if (chain->stages[i].kind == PARE__STAGE_EVAL)
            continue;
        model = chain->stages[i].recipe.output;
        if (chain->stages[i].kind == PARE__STAGE_SHRINK)
            arch = NULL; /* what a smaller model is stands in its own config */
    }
    return PARE_OK;
}

pare_status pare__chain_open(const pare_recipe *recipe, const pare_run_options *options,
                             pare__chain *chain)
{
    pare__text folder = {0};
    *chain = (pare__chain){.recipe = recipe, .options = options};
    PARE_TRY(pare_recipe_check(recipe));
    PARE_TRY(pare__strdup(recipe->output ? recipe->output : "out", &chain->output));
    size_t length = strlen(chain->output);
    while (length > 1 && chain->output[length - 1] == '/')
        chain->output[--length] = '\0';
    pare__text_add(&folder, "%s.steps", chain->output);
    PARE_TRY(pare__text_take(&folder, &chain->folder));
    PARE_TRY(make_stages(chain));
    PARE_TRY(link_stages(chain));
    return PARE_OK;
}

void pare__chain_close(pare__chain *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        free(chain->stages[i].recipe.output);
    free(chain->stages);
    free(chain->output);
    free(chain->folder);
    *chain = (pare__chain){0};
}

/* ---- a stage --------------------------------------------------------------------------------- */

static pare_status measure(const pare__stage *stage, const pare_run_options *options, bool plan,
                           pare_report **report)
{
    const pare_recipe *recipe = &stage->recipe;
    const pare_eval_step *e = &stage->step.eval;
    pare_eval_job job = {.model = {.checkpoint = recipe->model, .arch = recipe->arch},
                         .against = {.checkpoint = e->against, .arch = recipe->arch},
                         .data = {.path = e->data,
                                  .labels = e->labels,
                                  .seq_len = e->seq_len,
                                  .pad_id = -2,
                                  .bos_id = -1,
                                  .skip = e->skip,
                                  .samples = e->samples,
                                  .seed = recipe->seed},
                         .metrics = e->metrics,
                         .batch = e->batch,
                         .compute = PARE_F32};
    return pare_eval(&job, plan, options, report);
}

static pare_status train(const pare__stage *stage, const pare_run_options *options, bool plan,
                         pare_report **report)
{
    const pare_recipe *recipe = &stage->recipe;
    const pare_train_job *said;
    PARE_TRY(pare_train_step_job(stage->step.train, &said));
    pare_train_job job = *said;
    if (!job.student)
        job.model = (pare_model_choice){.checkpoint = recipe->model, .arch = recipe->arch};
    job.output = recipe->output;
    job.max_shard_size = recipe->max_shard_size;
    job.train.seed = job.data.seed = recipe->seed; /* --seed may stand above the recipe's */
    return pare_train(&job, plan, options, report);
}

pare_status pare__stage_do(const pare__stage *stage, const pare_run_options *options,
                           pare_comm *ranks, bool plan, pare_report **report)
{
    *report = NULL;
    if (stage->kind != PARE__STAGE_TRAIN &&
        (stage->kind != PARE__STAGE_PASS || !pare__shares(&stage->recipe))) {
        if (pare__rank(ranks) > 0 && !plan)
            return PARE_OK;
        ranks = NULL;
    }
    if (stage->kind == PARE__STAGE_TRAIN)
        return train(stage, options, plan, report);
    if (stage->kind == PARE__STAGE_EVAL)
        return measure(stage, options, plan, report);
    if (stage->kind == PARE__STAGE_SHRINK)
        return plan ? pare__plan_shrink(&stage->recipe, options, report)
                    : pare__run_shrink(&stage->recipe, options, report);
    return plan ? pare__stage_plan(&stage->recipe, options, ranks, report)
                : pare__stage_run(&stage->recipe, options, ranks, report);
}

/* All in the run's folder is its own, but an adapter lies where it was asked for. */
static pare_status check_adapter(const pare__chain *chain, const pare__stage *stage)
{
    const pare_train_job *job;
    if (stage->kind != PARE__STAGE_TRAIN || chain->options->overwrite)
        return PARE_OK;
    PARE_TRY(pare_train_step_job(stage->step.train, &job));
    PARE_REQUIRE(!job->adapter || !pare__exists(job->adapter), PARE_ERR_EXISTS,
                 "%s exists: choose another name, or give --overwrite", job->adapter);
    return PARE_OK;
}

pare_status pare__chain_plan(const pare__chain *chain, size_t i, pare_report **report)
{
    pare__stage stage = chain->stages[i];
    pare_run_options options = *chain->options;
    pare__text name = {0};
    char *place = NULL;
    PARE_TRY(check_adapter(chain, &stage));
    stage.recipe.steps = &stage.step;
    stage.recipe.model = chain->recipe->model;
    stage.recipe.arch = chain->recipe->arch;
    for (size_t before = 0; before < i; before++)
        if (chain->stages[before].kind == PARE__STAGE_SHRINK)
            options.strict = false; /* what does not fit now may fit then, and is judged then */
    if (stage.last && chain->count > 1) {
        stage.recipe.output = chain->recipe->output;
    } else if (stage.kind != PARE__STAGE_EVAL && chain->count > 1) {
        pare__text_add(&name, "%s.steps.h5", chain->output); /* not made: its ending is looked at */
        PARE_TRY(pare__text_take(&name, &place));
        stage.recipe.output = place;
        options.overwrite = true;
    }
    options.trace = NULL;
    pare_status status = pare__stage_do(&stage, &options, chain->ranks, true, report);
    free(place);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}

/* ---- the commands ---------------------------------------------------------------------------- */

static pare_status plan_all(const pare__chain *chain, pare_report **report)
{
    pare_status status = PARE_OK;
    pare_report **reports = NULL;
    PARE_TRY(pare__calloc(chain->count, sizeof *reports, &reports));
    for (size_t i = 0; i < chain->count; i++)
        PARE_TRY_DONE(pare__chain_plan(chain, i, &reports[i]));
    PARE_TRY_DONE(pare__chain_report(chain, "plan", reports, report));
done:
    for (size_t i = 0; i < chain->count; i++)
        pare_report_free(&reports[i]);
    free(reports);
    return status;
}

/* The first of several processes speaks for all. */
static pare_run_options options_of(const pare_run_options *options, const pare_comm *ranks)
{
    pare_run_options own = *options;
    if (pare__rank(ranks) > 0) {
        own.log = (pare_log){0};
        own.progress = (pare_progress){0};
        own.trace = NULL;
    }
    return own;
}

pare_status pare_plan(const pare_recipe *recipe, const pare_run_options *options,
                      pare_report **report)
{
    pare_status status = PARE_OK;
    pare__chain chain = {0};
    pare_comm *ranks = NULL;
    PARE_REQUIRE(recipe && options && report, PARE_ERR_ARGUMENT, "plan: NULL argument");
    *report = NULL;
    PARE_TRY(pare__ranks_open(&ranks));
    const pare_run_options own = options_of(options, ranks);
    PARE_TRY_DONE(pare__chain_open(recipe, &own, &chain));
    chain.ranks = ranks;
    if (chain.count == 1)
        PARE_TRY_DONE(pare__stage_do(&chain.stages[0], &own, ranks, true, report));
    else
        PARE_TRY_DONE(plan_all(&chain, report));
    if (pare__rank(ranks) > 0)
        pare_report_free(report);
done:
    pare__chain_close(&chain);
    return pare__ranks_close(&ranks, status);
}

pare_status pare_run(const pare_recipe *recipe, const pare_run_options *options,
                     pare_report **report)
{
    pare_status status = PARE_OK;
    pare__chain chain = {0};
    pare_comm *ranks = NULL;
    PARE_REQUIRE(recipe && options && report, PARE_ERR_ARGUMENT, "run: NULL argument");
    *report = NULL;
    PARE_TRY(pare__ranks_open(&ranks));
    const pare_run_options own = options_of(options, ranks);
    PARE_TRY_DONE(pare__chain_open(recipe, &own, &chain));
    chain.ranks = ranks;
    if (chain.count == 1)
        PARE_TRY_DONE(pare__stage_do(&chain.stages[0], &own, ranks, false, report));
    else if (pare__rank(ranks) > 0)
        PARE_TRY_DONE(pare__chain_follow(&chain));
    else
        PARE_TRY_DONE(pare__chain_run(&chain, report));
    if (pare__rank(ranks) > 0)
        pare_report_free(report);
done:
    pare__chain_close(&chain);
    return pare__ranks_close(&ranks, status);
}
