/* run_shrink.c - structured pruning as a run: a checkpoint goes in, an ordinary smaller one comes
 * out. */
#include "shrink.h"

#include "engine/report/report_impl.h"

#include "base/clock.h"

#include <string.h>

#define VERIFY_BYTES ((int64_t)3 << 20)    /* digests and checksums of the source */
#define LAY_OUT_BYTES ((int64_t)256 << 10) /* of the output: its metadata */
#define TOKENS 128                         /* of the row that FLOPs are counted of, at most */

/* ---- opening --------------------------------------------------------------------------------- */

static pare_status check_output(const pare__shrink *s, bool plan)
{
    const char *output = s->recipe->output;
    if (plan && !output)
        return PARE_OK;
    PARE_REQUIRE(output && *output, PARE_ERR_ARGUMENT,
                 "no output: give -o OUT, or an export step with to:");
    PARE_REQUIRE(!pare__glob("*.gguf", output), PARE_ERR_ARGUMENT,
                 "%s: GGUF is not in this version; write .safetensors, .h5 or a directory", output);
    PARE_TRY(pare__check_folder(output));
    bool there = pare__exists(output);
    PARE_REQUIRE(s->options.overwrite || !there, PARE_ERR_EXISTS,
                 "%s exists: choose another output, or give --overwrite", output);
    PARE_REQUIRE(!there || !pare__same_file(s->recipe->model, output), PARE_ERR_ARGUMENT,
                 "%s is the model itself: choose another output", output);
    return PARE_OK;
}

static pare_status take_step(pare__shrink *s)
{
    static const pare_unit_kind kinds[] = {[PARE_PATTERN_CHANNEL] = PARE_UNIT_CHANNEL,
                                           [PARE_PATTERN_HEAD] = PARE_UNIT_HEAD,
                                           [PARE_PATTERN_LAYER] = PARE_UNIT_LAYER,
                                           [PARE_PATTERN_WIDTH] = PARE_UNIT_WIDTH};
    const pare_recipe *r = s->recipe;
    PARE_REQUIRE(r->prune_count == 1 && r->quant_count == 0 &&
                     pare_pattern_shrinks(&r->prunes[0].pattern),
                 PARE_ERR_ARGUMENT,
                 "a step that makes the model smaller has one such pattern and nothing else");
    s->step = &r->prunes[0];
    s->kind = kinds[s->step->pattern.kind];
    return PARE_OK;
}

/* Every parameter has its entry, of its shape: else the model is another. */
static pare_status match_entries(pare__shrink *s)
{
    const pare_store *store = s->subject.store;
    PARE_TRY(pare__calloc((size_t)pare_store_count(store), sizeof *s->param, &s->param));
    for (int64_t i = 0; i < pare_store_count(store); i++)
        s->param[i] = -1;
    for (int64_t p = 0; p < pare_model_param_count(s->subject.model); p++) {
        const char *name = pare_model_param(s->subject.model, p)->name;
        int64_t at = pare_store_find(store, name), shape[PARE_MAX_RANK];
        const pare_entry *e = at < 0 ? NULL : pare_store_entry(store, at);
        char a[192], b[192];
        int rank;
        pare_model_stored_shape(s->subject.model, p, &rank, shape);
        PARE_REQUIRE(e, PARE_ERR_DAMAGED, "%s: the model needs %s, which is missing",
                     pare_store_path(store), name);
        PARE_REQUIRE(e->rank == rank && pare_dtype_is_weight(e->dtype) &&
                         memcmp(e->shape, shape, (size_t)rank * sizeof *shape) == 0,
                     PARE_ERR_DAMAGED, "%s: %s is %s %s where the model has weights of %s",
                     pare_store_path(store), name, pare_dtype_name(e->dtype),
                     pare_shape_text(e->rank, e->shape, a, sizeof a),
                     pare_shape_text(rank, shape, b, sizeof b));
        s->param[at] = p;
    }
    return PARE_OK;
}

static bool any_matches(const pare_couple *couple, int64_t index, char *const *globs, size_t count)
{
    for (size_t g = 0; g < count; g++)
        if (pare_couple_matches(couple, index, globs[g]))
            return true;
    return false;
}

/* Classes that the step's globs choose: one of whose tensors is included, and none excluded. */
static pare_status choose_classes(pare__shrink *s)
{
    const pare_choice *choice = &s->step->choice;
    int64_t count = pare_couple_class_count(s->couple), some = 0;
    PARE_TRY(pare__calloc((size_t)count, 1, &s->chosen));
    for (int64_t c = 0; c < count; c++) {
        bool in =
            choice->includes == 0 || any_matches(s->couple, c, choice->include, choice->includes);
        s->chosen[c] = in && !any_matches(s->couple, c, choice->exclude, choice->excludes);
        some += s->chosen[c] && pare_couple_class(s->couple, c)->kind == s->kind;
    }
    PARE_REQUIRE(some > 0 || choice->includes + choice->excludes == 0, PARE_ERR_ARGUMENT,
                 "include and exclude leave nothing that this pattern could prune");
    return PARE_OK;
}

pare_status pare__shrink_units(pare__shrink *s)
{
    PARE_TRY(match_entries(s));
    PARE_TRY(pare_couple_create(s->subject.model, &s->couple));
    size_t units = (size_t)pare_couple_unit_count(s->couple);
    PARE_TRY(pare__calloc(units, sizeof *s->score, &s->score));
    PARE_TRY(pare__calloc(units, 1, &s->keep));
    PARE_TRY(choose_classes(s));
    return PARE_OK;
}

/* Work from the weights alone is the host's. */
static pare_status open_bench(pare__shrink *s)
{
    if (s->recipe->step_count == 0 || !s->recipe->steps[0].calibration.path)
        s->options.device = "cpu";
    PARE_TRY(pare__bench_open(&s->options, &s->bench));
    return PARE_OK;
}

static pare_status choose(pare__shrink *s)
{
    const pare_shrink_options options = {.kind = s->kind,
                                         .sparsity = s->step->sparsity,
                                         .multiple = s->step->multiple,
                                         .chosen = s->chosen};
    PARE_TRY(pare_shrink_choose(s->couple, &options, s->score, s->keep));
    PARE_TRY(pare__shrink_list(s));
    return PARE_OK;
}

/* FLOPs of one forward of one sample; negative if the model does not say. */
static double flops_of(const pare__shrink *s, pare_model *model)
{
    pare_model_memory memory;
    pare_model_shape shape = {.batch = 1, .length = s->length, .compute = PARE_F32};
    return pare_model_predict(model, &shape, &memory) == PARE_OK ? memory.flops : -1;
}

static pare_status open_all(pare__shrink *s, bool plan)
{
    PARE_TRY(take_step(s));
    PARE_TRY(check_output(s, plan));
    PARE_TRY(open_bench(s));
    PARE_TRY(pare__subject_open(&s->choice, &s->subject));
    PARE_TRY(pare__shrink_units(s));
    PARE_TRY(pare__shrink_open_data(s));
    PARE_TRY(pare_recipe_text(s->recipe, &s->recipe_text));
    PARE_TRY(choose(s)); /* how many go is known now; which ones is not */
    const pare_model_facts *facts = pare_model_facts_of(s->subject.model);
    if (facts->tokens)
        s->length =
            facts->max_length > 0 && facts->max_length < TOKENS ? facts->max_length : TOKENS;
    s->flops = flops_of(s, s->subject.model);
    s->flops_after = -1;
    return PARE_OK;
}

static int64_t greater(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* One after the other: the source is looked through, units are scored, tensors cut. With data the
 * model lies there from the scores on. */
static int64_t working_bytes(const pare__shrink *s)
{
    int64_t work = greater(pare__shrink_score_bytes(s), pare__shrink_bytes(s));
    return s->dataset ? work : greater(work + LAY_OUT_BYTES, VERIFY_BYTES);
}

static pare_status predict(pare__shrink *s)
{
    pare_writer_options options;
    s->need.beside.host += working_bytes(s);
    s->need.seconds = -1;
    PARE_TRY(pare__need_check(
        &s->bench, &s->need, s->dataset ? "a smaller batch of calibration data needs less" : NULL));
    pare__shrink_writer_options(s, &options);
    if (options.path)
        PARE_TRY(pare_writer_predict(&options, &s->files, &s->out_bytes));
    return PARE_OK;
}

/* ---- the work -------------------------------------------------------------------------------- */

/* One timed part of it. */
static pare_status phase(pare__shrink *s, const char *name, pare_status (*run)(pare__shrink *s))
{
    double begin = pare__now();
    PARE_TRY(run(s));
    pare__json *o = pare__json_set_object(s->phases, NULL);
    pare__json_set_string(o, "name", name);
    pare__json_set_real(o, "seconds", pare__now() - begin);
    return PARE_OK;
}

/* An .h5 brings checksums: a damaged source is refused before anything is made of it. */
pare_status pare__shrink_verify(pare__shrink *s)
{
    pare_backend *host = pare_backend_host(s->bench.be);
    bool h5 = strcmp(pare_store_format(s->subject.store), "h5") == 0;
    if (h5)
        for (int64_t i = 0; i < pare_store_count(s->subject.store); i++)
            PARE_TRY(pare_store_verify(s->subject.store, host, i));
    PARE_TRY(pare__source_digests(&s->subject, host, &s->sources));
    for (int64_t i = 0; i < pare_store_count(s->subject.store); i++)
        s->read_bytes += (1 + h5) * pare_store_entry(s->subject.store, i)->stored_bytes;
    return PARE_OK;
}

/* The smaller model must be one that this engine runs: it is looked at as any checkpoint is. */
static pare_status look_back(pare__shrink *s)
{
    pare__subject small;
    const pare_model_choice choice = {.checkpoint = s->recipe->output,
                                      .arch = s->config ? NULL : s->recipe->arch};
    PARE_TRY(pare__subject_open(&choice, &small));
    s->flops_after = flops_of(s, small.model);
    pare__subject_close(&small);
    return PARE_OK;
}

static pare_status work(pare__shrink *s)
{
    PARE_TRY(phase(s, "verify", pare__shrink_verify));
    PARE_TRY(phase(s, "score", pare__shrink_score));
    PARE_TRY(choose(s));
    PARE_TRY(phase(s, "cut", pare__shrink_write));
    if (!pare__glob("*.safetensors", s->recipe->output)) /* a bare file has no config */
        PARE_TRY(look_back(s));
    return PARE_OK;
}

void pare__shrink_close(pare__shrink *s)
{
    pare__shrink_unlist(s);
    pare_dataset_close(&s->dataset);
    pare_couple_free(&s->couple);
    pare__subject_close(&s->subject);
    pare__bench_close(&s->bench);
    pare__json_free(&s->phases);
    free(s->recipe_text);
    free(s->sources);
    free(s->chosen);
    free(s->score);
    free(s->keep);
    free(s->param);
}

static pare_status run(const pare_recipe *recipe, const pare_run_options *options, bool plan,
                       pare_report **report)
{
    pare_status status = PARE_OK;
    double begin = pare__now();
    PARE_REQUIRE(recipe && options && report, PARE_ERR_ARGUMENT, "shrink: NULL argument");
    *report = NULL;
    pare__shrink s = {.recipe = recipe,
                      .options = *options,
                      .choice = {.checkpoint = recipe->model, .arch = recipe->arch},
                      .phases = pare__json_new_array()};
    PARE_TRY_DONE(open_all(&s, plan));
    PARE_TRY_DONE(predict(&s));
    if (!plan)
        PARE_TRY_DONE(work(&s));
    PARE_TRY_DONE(pare__shrink_report(&s, plan, pare__now() - begin, report));
done:
    pare__shrink_close(&s);
    return status;
}

pare_status pare__run_shrink(const pare_recipe *recipe, const pare_run_options *options,
                             pare_report **report)
{
    return run(recipe, options, false, report);
}

pare_status pare__plan_shrink(const pare_recipe *recipe, const pare_run_options *options,
                              pare_report **report)
{
    return run(recipe, options, true, report);
}
