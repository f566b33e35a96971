/* train_fixture.h - small data and models for the tests of src/train. */
#ifndef PARE_TRAIN_FIXTURE_H
#define PARE_TRAIN_FIXTURE_H

#include "test.h"

#include "pare/train.h"

#define FIXTURE_CLASSES 4
#define FIXTURE_SIDE 8 /* of the images, which have one channel */

/* A folder, a backend and a scheduler of two threads, a model prepared for training or inference,
 * and its data. */
typedef struct train_fixture {
    char *folder;
    pare_backend *be;
    pare_sched *sched;
    pare_model *model;
    pare_model_shape shape;
    pare_dataset *dataset;
} train_fixture;

/* Images (N of them: a pattern of their class and noise) with labels where wanted, as IDX; tokens
 * (a walk that a model can learn), as raw u16. Paths inside the folder, in static memory. */
const char *fixture_images(const char *folder, int64_t count, bool labels);
const char *fixture_tokens(const char *folder, int64_t count, int vocabulary);

/* Rows of `length` tokens, 0 behind their ends, with a class each (*labels), as raw u16 and u8. */
const char *fixture_rows(const char *folder, int64_t count, int64_t length, int vocabulary,
                         const char **labels);

typedef struct train_fixture_options {
    const char *arch, *config; /* one of them; both NULL: "mlp:64-16-4" */
    int64_t batch, length;     /* length 0: images */
    int64_t samples;           /* of the data; 0: 96 images, 40 windows */
    int vocabulary;            /* of the tokens; 0: 32 */
    bool inference, unlabelled, shuffle;
    bool rows;          /* of tokens that have a class each, instead of windows */
    float mixup;        /* of images */
    pare_dtype compute; /* PARE_BF16, else F32 */
    const pare_train_options *freeze;
    pare_backend *be; /* the fixture frees it; NULL: the CPU with two threads */
} train_fixture_options;

train_fixture fixture_make(const train_fixture_options *options);
void fixture_free(train_fixture *fixture);

/* A further model on the same folder, backend and data. */
pare_model *fixture_model(const train_fixture *fixture, const train_fixture_options *options,
                          uint64_t seed);

/* All values of the model one after the other, as a checkpoint stores them; caller frees. */
float *fixture_values(pare_model *model, int64_t *count);

/* The parameter of a name; fails the test if there is none. */
pare_param *fixture_param(pare_model *model, const char *name);

/* Samples [first, first + size) as a batch; freed by pare_batch_free. */
pare_batch *fixture_batch(const train_fixture *fixture, int64_t first, int64_t size);

#endif
