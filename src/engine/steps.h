/* steps.h - a run of several stages: each goes from one checkpoint to the next, or measures one.
 *
 * steps.c cuts a recipe into stages and plans them; steps_run.c does them, one after the other, and
 * continues a run that was cut; steps_report.c makes one report of theirs.
 *
 * "<output>.steps" holds what lies between: "key" (whose work this is), "N.h5" (what stage N made,
 * until a later one has made more), "N.json" (its report, once it is done), and in the end the
 * output itself, which one rename puts under its name.
 */
#ifndef PARE_ENGINE_STEPS_H
#define PARE_ENGINE_STEPS_H

#include "job.h"

typedef enum pare__stage_kind {
    PARE__STAGE_PASS,   /* over the tensors, a walk over the blocks included */
    PARE__STAGE_SHRINK, /* makes a smaller model */
    PARE__STAGE_TRAIN,
    PARE__STAGE_EVAL, /* writes no checkpoint */
} pare__stage_kind;

typedef struct pare__stage {
    pare__stage_kind kind;
    pare_step step;     /* the only one of recipe: spans and calibration, or what to measure */
    pare_recipe recipe; /* from recipe.model to recipe.output; borrows all else from the run's */
    bool data;          /* the step needs its calibration */
    bool last;          /* makes the run's output */
} pare__stage;

typedef struct pare__chain {
    const pare_recipe *recipe;
    const pare_run_options *options;
    pare_comm *ranks;    /* that work on it together, NULL: this process alone */
    pare__stage *stages; /* [count] */
    size_t count;
    char *output; /* of the run, or "out" where a plan has none yet */
    char *folder; /* "<output>.steps" */
} pare__chain;

/* ---- steps.c --------------------------------------------------------------------------------- */

pare_status pare__chain_open(const pare_recipe *recipe, const pare_run_options *options,
                             pare__chain *chain);
void pare__chain_close(pare__chain *chain);

/* Plans stage i on the run's own model: later ones work on the same shapes, or on smaller ones. */
pare_status pare__chain_plan(const pare__chain *chain, size_t i, pare_report **report);

/* Does a stage. Of several processes the first alone does what cannot be shared. */
pare_status pare__stage_do(const pare__stage *stage, const pare_run_options *options,
                           pare_comm *ranks, bool plan, pare_report **report);

/* ---- steps_run.c ----------------------------------------------------------------------------- */

/* The options of a part of a run: its progress under its name, a timeline of its own, and what lies
 * in the run's folder may be replaced. */
typedef struct pare__part_options {
    pare_run_options options;
    const pare_progress *progress; /* of the whole */
    char name[48], *trace;
} pare__part_options;

/* number: of the part in the trace's ending; name: such as "step 2/3". Close with free(p->trace);
 * p stays where it is. */
pare_status pare__part_open(const pare_run_options *whole, const char *number, const char *name,
                            pare__part_options *p);

pare_status pare__chain_run(const pare__chain *chain, pare_report **report);
/* The same of a process that is not the first: the stages that it is told to do. */
pare_status pare__chain_follow(const pare__chain *chain);
/* All that the work depends on, as a text: version, recipe, and the state of every file it reads.
 */
pare_status pare__chain_key(const pare__chain *chain, char **key);

/* ---- steps_report.c -------------------------------------------------------------------------- */

/* One report (report_impl.h) of the stages' reports, which go into it. */
pare_status pare__chain_report(const pare__chain *chain, const char *kind, pare_report **stages,
                               pare_report **report);

#endif
