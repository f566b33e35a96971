/* walk_fixture.h - compression with data for tests: small models on disk, samples beside them, and
 * runs with both. */
#ifndef PARE_WALK_FIXTURE_H
#define PARE_WALK_FIXTURE_H

#include "train_fixture.h"

#include "pare/run.h"

#include "base/json.h"

extern const char walk_llama[], walk_vit[], walk_resnet[]; /* config.json; names for --arch */

typedef struct walk_bench {
    char *folder, *source, *out;
    const char *data;
    pare_run_options options;
    pare_report *report;
} walk_bench;

/* A checkpoint of a fresh model; nan: a tensor that holds one at row 5, column 7. */
void walk_model(const char *arch, const char *config, const char *path, const char *nan);

/* A folder with a model (of arch or config) and 24 samples for it; without all of it again. */
walk_bench walk_make(const char *arch, const char *config);
void walk_done(walk_bench *b);

/* One step of a recipe with the samples, and more options of its data; b->report is its report. */
pare_status walk_run(walk_bench *b, const char *step, const char *more);
/* Removes what a run has made or left. */
void walk_clear(const walk_bench *b);

/* Values of a tensor as a reader gets them; freed by the caller. */
float *walk_values(const char *path, const char *name, int64_t *rows, int64_t *cols);

/* The last report, to be freed; a member of one of its "layers" or "tensors". */
pare__json *walk_report(const walk_bench *b);
const pare__json *walk_member(const pare__json *root, const char *list, const char *name,
                              const char *key);

#endif
