/* checkpoint_fixture.h - a fresh model as a checkpoint, for tests of whole runs. */
#ifndef CHECKPOINT_FIXTURE_H
#define CHECKPOINT_FIXTURE_H

#include "test.h"

/* Of an --arch or of config.json's text (the other one is NULL); values as they come from the seed.
 * odd: every 16th value of the parameter of that name is multiplied by factor; or NULL. */
typedef struct checkpoint_fixture {
    const char *arch, *config;
    uint64_t seed;
    const char *odd;
    float factor;
} checkpoint_fixture;
void fixture_checkpoint(const checkpoint_fixture *options, const char *path);

#endif
