/* masks_fixture.h - schedules of masks driven by hand: a small model, gradients that follow from
 * the step alone, SGD with momentum. */
#ifndef MASKS_FIXTURE_H
#define MASKS_FIXTURE_H

#include "test.h"

#include "pare/prune.h"

#define MASKS_PARAMS 80

typedef struct masks_run {
    pare_backend *be;
    pare_model *model;
    pare_mask_options options;
    pare_masks *masks;
    pare_train_part *part;
    int64_t step, steps;
    int64_t params, count[MASKS_PARAMS]; /* elements of each parameter */
    float *momentum[MASKS_PARAMS];       /* of the backend */
    /* As the host sees them after a step; masks are NULL where there is none. */
    float *value[MASKS_PARAMS], *grad[MASKS_PARAMS], *moment[MASKS_PARAMS];
    uint8_t *mask[MASKS_PARAMS];
    float *before[MASKS_PARAMS]; /* values and masks after the optimiser, before the change */
    uint8_t *mask_before[MASKS_PARAMS];
} masks_run;

/* arch NULL: "mlp:24-16-12-8". be NULL: a CPU of two threads; the run frees it. prepare(model,
 * user) comes when values are there, before the part: it may give masks. */
masks_run *masks_begin(pare_backend *be, const char *arch, const pare_mask_options *options,
                       int64_t steps, void (*prepare)(masks_run *run));
void masks_end(masks_run *run);

/* One step: before, gradients, back, SGD, after; then what the host sees is read. */
pare_status masks_step(masks_run *run);
void masks_read(masks_run *run);

/* Everything that the next step depends on goes to another run that began with the same options. */
void masks_resume(const masks_run *from, masks_run *to);

int64_t masks_zeros(const masks_run *run, int64_t param);
/* Whether param is a LINEAR or CONV weight. */
bool masks_has(const masks_run *run, int64_t param);
pare_param *masks_param(const masks_run *run, int64_t param);

/* Writes the value of a parameter. */
void masks_write(masks_run *run, int64_t param, const float *values);

/* n zeros of `size` bytes; caller frees. */
void *masks_room(int64_t n, size_t size);

/* 1 where one of the `goes` lowest by (score, place) is not, as long double sorts them. */
void masks_lowest(const double *score, int64_t n, int64_t goes, uint8_t *mask);

/* All tests of schedules on backends that `make` makes; a program's exit code. */
int masks_tests(pare_backend *(*make)(void));

#endif
