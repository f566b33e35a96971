/* survey_fixture.h - whole runs that decide something by measuring: a small model, its samples,
 * what the report says, and a hand that stops them. */
#ifndef SURVEY_FIXTURE_H
#define SURVEY_FIXTURE_H

#include "test.h"

#include "pare/run.h"

extern const char survey_llama[];  /* a config.json of one block */
extern const char survey_resnet[]; /* an --arch */

#define SURVEY_LAYER "model.layers.0."
enum { SURVEY_LAYERS = 16, SURVEY_OPTIONS = 8 };

typedef struct survey_bench {
    char *folder, *source, *out;
    const char *data;
    pare_run_options options;
    pare_report *report;
    volatile int stop;
    int surveyed, stop_at;     /* runs of the whole model seen; where to stop, 0: nowhere */
    int blocks, stop_at_block; /* likewise, blocks of walks */
    bool stop_walking;         /* as soon as one walks */
} survey_bench;

/* One of the two models, with samples; the other argument is NULL. */
survey_bench survey_make(const char *arch, const char *config);
void survey_done(survey_bench *b);
/* The checkpoint anew, with every 16th value of a parameter (or NULL) multiplied by factor. */
void survey_write_model(const char *arch, const char *config, const char *path, const char *odd,
                        float factor);
/* Plans or runs one compress step, as a recipe says it, and keeps the report. */
pare_status survey_go(survey_bench *b, const char *step, bool plan);
pare_status survey_run(survey_bench *b, const char *step);
/* "<output><ending>", in static memory. */
const char *survey_beside(const survey_bench *b, const char *ending);
/* Removes the output and all beside it; asserts that there is nothing beside it. */
void survey_clear(const survey_bench *b);
void survey_nothing_is_left(const survey_bench *b);
/* A pare_progress that counts, and stops the run where the bench says so; user: the bench. */
void survey_watch(void *user, const char *phase, double share, double total);

/* What the report of the last run says was measured and chosen. */
typedef struct survey_layer {
    char name[100], scheme[40];
    int64_t weights, choice;
    double sparsity, bits, harm[SURVEY_OPTIONS];
} survey_layer;

typedef struct survey_found {
    survey_layer layers[SURVEY_LAYERS];
    size_t count, options;
    int64_t measured, evaluations;
} survey_found;
survey_found survey_look(const survey_bench *b);
const survey_layer *survey_find(const survey_found *s, const char *name);

double survey_weights(const survey_found *s);
double survey_mean_sparsity(const survey_found *s);
/* Zeros of a layer in a file. */
int64_t survey_zeros(const char *path, const survey_layer *l);

#endif
