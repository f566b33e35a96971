/* model_fixture.h - small graphs made by hand, and their gradients beside finite differences. */
#ifndef MODEL_FIXTURE_H
#define MODEL_FIXTURE_H

#include "test.h"

#include "model/build.h"

/* A graph while it is built and after. Its models take images of one pixel (then only the size of
 * the batch matters) or tokens; data comes in through leaves. */
typedef struct graph {
    pare__build b;
    pare_model *m;
    pare_backend *be;
    pare__json *config;
    pare_batch batch;
    float *images;
    int32_t *ids;
    uint8_t *keys;
    double *weights; /* of the loss: Σ weight · output */
    pare_step_seed seed;
    bool drops;   /* forward gets the seed */
    uint64_t rng; /* of everything random below; set before the graph begins, or 0 */
    int threads;  /* of the backend; likewise */
} graph;

/* Numbers that look random: uniform in [−1, 1], bell-shaped, below a bound. */
double graph_uniform(graph *g);
double graph_normal(graph *g);
int64_t graph_below(graph *g, int64_t bound);

/* Begins a graph for batches of B with images [height, width, channels] or (height 0) rows of T
 * tokens below `vocabulary`; rotary tables of heads of `rotary` elements (0: none). */
void graph_images(graph *g, int64_t B, int64_t height, int64_t width, int64_t channels);
void graph_tokens(graph *g, int64_t B, int64_t T, int64_t vocabulary, int64_t rotary);
void graph_free(graph *g);

/* The model's input. */
int graph_input(const graph *g);

/* A parameter [B, …] that is a value of the graph: so gradients of inputs can be seen. Values are
 * bell-shaped. */
int graph_leaf(graph *g, int rank, const int64_t *shape);

/* Ends the graph and prepares it on one thread; all parameters get random values. Output weights
 * are random. */
void graph_end(graph *g, int output);
void graph_end_as(graph *g, int output, pare_output kind, const pare_model_shape *shape);
/* Random values once more. */
void graph_fill(graph *g);

/* Forward (training as prepared), the loss's gradient to the output's, backward; gradients are
 * cleared before. The loss. */
double graph_forward(graph *g);
double graph_step(graph *g);

/* Gradients of all parameters beside central differences of the loss: of every element, or of
 * `most` random ones of a parameter. */
void graph_check(graph *g, int most);

/* Everything a step gives, as one block: output, gradients. Freed by the caller. */
void *graph_bytes(graph *g, size_t *size);

/* Whole models: a stem and two residual blocks of convolutions with batch norms, 5 classes, values
 * of a size as in a trained network; one block of a decoder, with a tied head (TOKENS) or a mean.
 */
void graph_small_images(graph *g, bool training, pare_dtype compute);
void graph_small_tokens(graph *g, bool training, pare_dtype compute, pare_output output);

/* An element of F32 or BF16; all of them as floats, freed by the caller. */
float graph_at(pare_tensor t, int64_t i);
float *graph_copy(pare_tensor t);

#endif
