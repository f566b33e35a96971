/* survey.h - what is decided by measuring before a step begins: which layer gets how many bits,
 * which loses how many weights.
 *
 * A survey turns a recipe that leaves something open (mixed schemes, a budget by one threshold, by
 * outliers or by loss) into an ordinary one, in which every layer's scheme or sparsity is a step of
 * its own that names its tensors: what comes after knows of no survey, and the provenance says what
 * was chosen.
 *
 * The way of the data: survey.c lists the questions and says what answering them takes;
 * survey_output.c measures layers by their output, in a dense walk over the blocks, and
 * survey_global.c counts their scores in it; survey_kld.c measures by the output of the whole
 * model, one layer changed at a time (sensitivity: kld; budget: loss); survey_choose.c chooses
 * under the budgets; survey_recipe.c writes the decided recipe; survey_keep.c keeps what was
 * measured beside the output, for a run that is cut.
 */
#ifndef PARE_ENGINE_SURVEY_H
#define PARE_ENGINE_SURVEY_H

#include "engine/walk/walk.h"

/* A layer that a question is about. */
typedef struct pare__survey_layer {
    int64_t task;
    bool site;     /* a product of a block reads it: its inputs are known */
    bool measured; /* harm is */
    int64_t weights;
    double *harm;  /* [options] */
    int64_t *cost; /* [options] stored bits; NULL for prunings */
    float *norm;   /* [K] ‖x_j‖ of its inputs, for prunings; NULL: not known */
    int choice;
    double sparsity;
} pare__survey_layer;

/* One step that leaves something open. */
typedef struct pare__question {
    const pare_prune_step *prune; /* of the recipe; or */
    const pare_quant_step *quant;
    size_t index, open; /* among the prunes or quants of the recipe, and of the open one */
    int options;     /* schemes; sparsities tried; 1: the share of outliers, or below a threshold */
    double *steps;   /* [options] sparsities tried, or NULL */
    int64_t *scores; /* [count][bins] of layers, while scores of a global budget are counted */
    pare__survey_layer *layers;
    size_t count, capacity;
    int64_t *refused; /* tasks chosen too that the output cannot hold quantised */
    size_t refused_count, refused_capacity;
} pare__question;

/* What measuring takes, beforehand; of what a run before has not left behind. */
typedef struct pare__survey_cost {
    int64_t layers, evaluations; /* to be measured; runs of the whole model over all samples */
    bool walks;
    double flops, seconds; /* seconds negative: unknown */
    pare__bytes peak;
} pare__survey_cost;

typedef struct pare__survey {
    const pare_recipe *recipe; /* as asked */
    pare_recipe open;          /* as the walk sees it: the open steps alone, which do nothing */
    pare_step step;
    pare__job *job; /* of the open recipe */
    pare__question *questions;
    size_t count;
    pare__survey_cost cost;
} pare__survey;

/* What comes of it. */
typedef struct pare__surveyed {
    pare_recipe recipe; /* an ordinary one, that borrows from what was asked */
    pare__json *found;  /* report_impl.h, "survey"; NULL of a plan */
    pare__json *before; /* report_impl.h, "surveying" */
    pare__survey_cost cost;
    double seconds; /* that it took */
} pare__surveyed;

/* Whether a recipe leaves something to be measured. */
bool pare__surveys(const pare_recipe *recipe);

/* Measures and decides; refuses before it begins what the run after it would refuse. What was
 * measured is kept in "<output>.survey.json" for a run that is cut, until pare__survey_clean. */
pare_status pare__survey_run(const pare_recipe *recipe, const pare_run_options *options,
                             pare__surveyed *surveyed);
/* Measures nothing: a recipe that spends the whole budget, and what measuring would take. */
pare_status pare__survey_plan(const pare_recipe *recipe, const pare_run_options *options,
                              pare__surveyed *surveyed);
/* Adds what the survey takes to what the run after it does, and to its report. */
void pare__survey_add(const pare__surveyed *surveyed, pare__job *job, pare__prediction *prediction);
void pare__surveyed_free(pare__surveyed *surveyed);

/* ---- questions: survey.c --------------------------------------------------------------------- */

/* Whether harm is the whole model's. */
bool pare__survey_by_model(const pare__question *q);
/* Whether a question has layers that are still to be measured. */
bool pare__survey_open(const pare__question *q);

/* The scheme that option i of a question becomes for a layer. */
pare_scheme pare__survey_scheme(const pare__question *q, int option, const pare_entry *entry);

/* The layer of that scheme, its memory carved: w, codes, scale, lo, zero. */
void pare__survey_layer_of(const pare__question *q, int option, const pare_entry *entry,
                           pare__carve *carve, pare_layer *layer);

/* ---- survey_output.c, survey_kld.c ----------------------------------------------------------- */

/* Bytes of the arena and beside it that measuring by outputs takes. */
void pare__survey_room(const pare__survey *survey, int64_t *arena, int64_t *beside);
/* Fills norm and (unless the whole model's is asked) harm of every layer that is not measured. */
pare_status pare__survey_outputs(pare__survey *survey);

/* Fills harm of the layers of a question that are not measured, each kept when it is; and what that
 * takes, PARE_ERR_MEMORY if there is not as much. */
pare_status pare__survey_kld(pare__survey *survey, pare__question *question);
pare_status pare__survey_kld_predict(const pare__survey *survey, const pare__question *question,
                                     pare__need *need);

/* ---- survey_global.c: budget: global ----------------------------------------------------------
 */

bool pare__survey_by_threshold(const pare__question *q);
/* Bytes of the host's that counting takes, until pare__survey_settle. */
int64_t pare__survey_counts(const pare__survey *survey);
pare_status pare__survey_begin_counts(pare__survey *survey);
/* Counts the scores of a layer: keys [R, C] U32. bins: [PARE_SELECT_HIGH_BINS] I64 of the backend's
 * memory, scratch. */
pare_status pare__survey_count(pare_backend *be, pare__question *q, const pare__survey_layer *layer,
                               pare_tensor keys, pare_tensor bins);
/* Once all layers are counted: harm becomes what each of them loses. */
pare_status pare__survey_settle(pare__survey *survey);

/* ---- survey_choose.c ------------------------------------------------------------------------- */

/* Refuses a budget that nothing fits. *bytes: of memory that choosing takes. */
pare_status pare__survey_check_budget(const pare__question *q, int64_t *bytes);
/* Choices and sparsities from what was measured; or (presumed) such as spend the budget. */
pare_status pare__survey_choose(pare__survey *survey, bool presumed);

/* ---- survey_recipe.c ------------------------------------------------------------------------- */

pare_status pare__survey_write_recipe(const pare__survey *survey, pare_recipe *decided);
void pare__survey_free_recipe(pare_recipe *decided);

/* ---- survey_keep.c --------------------------------------------------------------------------- */

/* report_impl.h, "survey"; caller frees. */
pare__json *pare__survey_describe(const pare__survey *survey);
/* Keeps what is measured so far; takes what a run before this one has measured of the very same. */
pare_status pare__survey_keep(const pare__survey *survey);
pare_status pare__survey_look_back(pare__survey *survey);
pare_status pare__survey_clean(const pare_recipe *recipe);

#endif
