/* grid.h - one recipe over a grid of its values, measured. */
#ifndef PARE_GRID_H
#define PARE_GRID_H

#include "pare/run.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A recipe in which scalars are lists of values, of which each spans an axis of the grid. What
 * takes a list in a recipe (include, exclude, freeze, schemes, metric, betas, milestones, the
 * halves of compress) spans none. Points are in the order of the file, the last axis fastest,
 * behind the dense models that the recipe's last eval step measures. */
typedef struct pare_grid pare_grid;

/* Reads a sweep file; errors as of pare_recipe_read. What is no error of a value, but of values
 * that do not go together, makes the points with them impossible, unless there are no others. seed:
 * takes the place of the file's, NULL: it stays. */
pare_status pare_grid_read(const char *path, const uint64_t *seed, pare_grid **sweep);
pare_status pare_grid_parse(const char *text, size_t length, const char *what, const uint64_t *seed,
                            pare_grid **sweep);
void pare_grid_free(pare_grid **sweep);

/* All points, what they will need and take; nothing is written. */
pare_status pare_grid_plan(const pare_grid *sweep, const pare_run_options *options,
                           pare_report **report);

/* Does the points one after the other, measures each, and writes results.csv, results.json and
 * report.html into the folder, where "points" holds what lies between. Continues a sweep that was
 * cut: a point that is measured is done. Points that cannot be done are rows that say why; `strict`
 * refuses them before the first one begins. PARE_ERR_EXISTS if the folder is another sweep's, or
 * somebody else works on it. */
pare_status pare_grid_run(const pare_grid *sweep, const char *folder,
                          const pare_run_options *options, pare_report **report);

#ifdef __cplusplus
}
#endif
#endif
