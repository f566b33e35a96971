/* run_fixture.h - a small checkpoint, a recipe, a run: what tests of whole runs share. */
#ifndef PARE_RUN_FIXTURE_H
#define PARE_RUN_FIXTURE_H

#include "pare/run.h"
#include "pare/store.h"

enum { TENSORS = 3 };
extern const int64_t shapes[TENSORS][2];
extern const char *const names[TENSORS]; /* a.weight, b.weight, c.weight */

typedef struct fixture {
    char *folder, *source, *out;
    pare_run_options options;
    pare_recipe *recipe;
} fixture;

/* A checkpoint of those tensors with skewed random values; with nan, b.weight has one at row 1,
 * column 6. */
void write_source(const char *path, pare_dtype dtype, bool nan);

/* CMocka's set-up and tear-down: *state is a fixture whose out is a .safetensors. */
int set_up(void **state);
int tear_down(void **state);

/* The recipe with these steps (YAML list items), from source to out. */
void use(fixture *f, const char *steps);
pare_status run(fixture *f);

#endif
