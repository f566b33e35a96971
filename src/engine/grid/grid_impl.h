/* grid_impl.h - a grid of recipes: what its files share.
 *
 * grid_read.c finds the axes of a file and reads each point with the recipe's reader; grid.c does
 * the points, one after the other, and continues a sweep that was cut; grid_measure.c measures what
 * a point made; grid_report.c makes one report of all, and the CSV.
 *
 * The folder holds "key" (whose work this is), "points/007/point.json" (a point that is done;
 * before that the run's own files), and at the end results.csv, results.json and report.html.
 */
#ifndef PARE_ENGINE_GRID_IMPL_H
#define PARE_ENGINE_GRID_IMPL_H

#include "pare/grid.h"

#include "engine/recipe/recipe_impl.h"
#include "engine/report/report_impl.h"

typedef struct pare__axis {
    char *name;        /* "prune.sparsity" */
    const char *key;   /* borrowed from the tree, */
    const char *scope; /* as what the key stands in: "prune", "data"; "" of the recipe itself */
    pare__yaml **slot; /* where a value of it stands in the tree, */
    pare__yaml *list;  /* and all of them */
    bool numbers;      /* each value is one */
} pare__axis;

#define PARE__NO_POINT SIZE_MAX

typedef struct pare__point {
    pare_recipe *recipe; /* NULL: not possible; its output is not set */
    char *problem;       /* and why, else NULL */
    size_t *value;       /* [axes] of each the place in its list; NULL: a dense model */
    size_t dense;        /* the point that is its dense model, or PARE__NO_POINT */
} pare__point;

struct pare_grid {
    char *name; /* the file's */
    char *text;
    pare__yaml *root; /* with a list in each slot */
    pare__axis *axes;
    size_t axis_count, axis_capacity;
    pare__point *points; /* the dense ones first */
    size_t point_count, point_capacity, dense_count;
    bool keep;              /* checkpoints of points stay */
    int64_t batch, repeats; /* of the latency; batch 0: by the model; repeats 0: not measured */
};

/* The last eval step of a recipe, or NULL. */
const pare_eval_step *pare__last_eval(const pare_recipe *recipe);

/* "method wanda, sparsity 0.5", of the dense model "dense model NAME"; cut where it does not fit.
 */
char *pare__point_text(const pare_grid *sweep, size_t point, char *text, size_t size);

/* Adds to a row (report_impl.h, sweep) what a point's checkpoint is: sparsity, FLOPs, bytes, how
 * long a forward takes. A model that pare cannot run has the first alone. */
pare_status pare__grid_measure(const pare_grid *sweep, const pare_recipe *recipe,
                               const char *checkpoint, const pare_run_options *options,
                               pare__json *row);

/* A row with what a point is, to be filled. */
pare__json *pare__grid_row(const pare_grid *sweep, size_t point, const char *state,
                           const char *note);
/* Adds what the report of a point's run says. measures: its steps are all of kind eval. */
void pare__grid_row_run(pare__json *row, const pare_report *run, bool measures);

/* The report of all rows ([points], any NULL: still to do), which are copied. */
pare_status pare__grid_report(const pare_grid *sweep, const char *folder, bool planned,
                              pare__json *const *rows, const pare_run_options *options,
                              pare_report **report);
/* The same as a table; caller frees. Values that depend on the machine stand in the last columns.
 */
pare_status pare__grid_csv(const pare_report *report, char **text);

#endif
