/* distill.h - a student learns from a teacher: losses (one file each in src/distill), which layers
 * belong together, and teachers whose outputs lie on disk.
 */
#ifndef PARE_DISTILL_H
#define PARE_DISTILL_H

#include "pare/train.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- what is compared ------------------------------------------------------------------------ */

typedef enum pare_distill_kind {
    PARE_DISTILL_KL,     /* outputs: divergence at a temperature, × temperature² (Hinton 2015) */
    PARE_DISTILL_CE,     /* cross-entropy of labels or next tokens, no teacher */
    PARE_DISTILL_HIDDEN, /* hidden states of layers, through learned projections where the widths
                            differ (Romero 2015, Jiao 2020): TinyBERT's */
    PARE_DISTILL_ATTENTION, /* attention scores of layers (TinyBERT) or probabilities (MiniLM) */
    PARE_DISTILL_RELATION,  /* Q-Q, K-K, V-V relations of one layer (MiniLMv2, Wang 2021) */
    PARE_DISTILL_FEATURE,   /* hints of convolutional networks: feature maps of stages, through a
                               learned 1 × 1 convolution where channels differ (FitNets) */
    PARE_DISTILL_COSINE,    /* embeddings: 1 − cosine of VECTOR outputs */
    PARE_DISTILL_KINDS
} pare_distill_kind;
const char *pare_distill_kind_name(pare_distill_kind kind); /* "kl" … */

typedef enum pare_layer_map {
    PARE_MAP_UNIFORM,    /* student layer i of S learns from teacher layer (i + 1)·L/S − 1 */
    PARE_MAP_LAST,       /* the last S of the teacher's */
    PARE_MAP_SKIP,       /* every second (each L/S-th from the first): i·L/S */
    PARE_MAP_CONTIGUOUS, /* the first S */
    PARE_MAP_TOP,        /* the last layer alone from the last alone */
} pare_layer_map;
pare_status pare_layer_map_parse(const char *text, pare_layer_map *map);
const char *pare_layer_map_name(pare_layer_map map);

typedef struct pare_distill_options {
    pare_ramp weight[PARE_DISTILL_KINDS]; /* from 0 (and to 0): not used */
    pare_ramp temperature;                /* from 0: 1 */
    pare_divergence divergence;
    bool cosine;            /* hidden states by cosine, else mean squared error over features */
    pare_layer_map map;     /* of hidden states and attention */
    bool probabilities;     /* attention: KL of probabilities, else scores */
    int64_t relation_heads; /* 0: the teacher's heads if they divide the student's width, else the
                               greatest common divisor */
    int64_t relation_layer; /* of the teacher, from 1; 0: the last (a deep teacher does better with
                               one a few below) */
} pare_distill_options;

/* Reads "kl:1,hidden:0.5" (weights; "kl:1>0.2" goes from one to the other over the training) into
 * options->weight. PARE_ERR_ARGUMENT with the nearest valid word. */
pare_status pare_distill_losses_parse(const char *text, pare_distill_options *options);

/* ---- layers ---------------------------------------------------------------------------------- */

/* A layer of a model that can be compared: a transformer's, or a residual block. */
typedef struct pare_layer_view {
    int64_t last;      /* the node whose output is its hidden state */
    int64_t attention; /* its attention node, −1: none (taps: inputs 0 1 2 are q, k, v) */
    int64_t width;     /* features (channels) of the hidden state */
    int heads, kv_heads;
    int64_t height, side; /* of feature maps; 0 for sequences */
} pare_layer_view;
/* *layers [*count], ascending; caller frees. From the graph alone. */
pare_status pare_distill_layers(const pare_model *model, pare_layer_view **layers, int64_t *count);
/* The teacher layer (from 0) that student layer i of S learns from; −1: none. */
int64_t pare_layer_map_at(pare_layer_map map, int64_t i, int64_t student, int64_t teacher);

/* ---- the losses of a distillation ------------------------------------------------------------ */

typedef struct pare_distill pare_distill;
typedef struct pare_teacher_cache pare_teacher_cache;

/* Checks that teacher and student go together for what is asked (the same vocabulary or classes for
 * outputs, layers, heads, feature maps of one size): PARE_ERR_ARGUMENT says what differs. Sets taps
 * on both: before they are prepared. teacher NULL with a cache: outputs alone. */
pare_status pare_distill_create(const pare_distill_options *options, pare_model *student,
                                pare_model *teacher, const pare_teacher_cache *cache,
                                pare_distill **distill);
void pare_distill_free(pare_distill **distill);
/* Bytes of what is learned beside the student (with gradients). Before or after prepare. */
int64_t pare_distill_bytes(const pare_distill *distill);
/* be NULL: the terms as checks and predictions need them (pare_train_check, pare_train_bytes), with
 * shapes but no memory; at any time. After both are prepared on this backend: makes projections
 * (from the seed: identity where widths agree and none is made; else N(0, 1/width)) and gives the
 * terms, which live as long as distill.
 */
pare_status pare_distill_terms(pare_distill *distill, pare_backend *be, uint64_t seed,
                               const pare_loss_term **terms, size_t *count);

/* ---- teachers on disk ------------------------------------------------------------------------ */

/* The top-k of a teacher's outputs for every sample of a dataset, in an .h5: "index" [units, k]
 * (U16 where the vocabulary allows, else I32), "value" [units, k] F16 (log-probabilities at the
 * temperature, ops_distill.h: top_k), "mass" [units] F16 what they hold of all; units: samples, or
 * samples × T of tokens. Its key: digests of the teacher's tensors, of the data, T, k, temperature.
 * A killed making is continued. */
typedef struct pare_cache_options {
    const char *path;
    pare_model *teacher; /* prepared for inference with this batch */
    pare_backend *be;
    const pare_dataset *dataset; /* without augmentation: each item always the same */
    int64_t batch, k;
    double temperature;
    const char *teacher_digest;
    bool overwrite; /* a making that was cut may have been of something else: then begin anew */
    pare_progress progress;
} pare_cache_options;

typedef struct pare_cache_facts {
    int64_t units, k, bytes;
    double bytes_per_unit;
    double mass;    /* mean share of probability kept */
    double kl_kept; /* mean KL(teacher ‖ itself cut to the top k and its rest spread evenly): what
                       the cut loses at most, measured on the first units */
} pare_cache_facts;

int64_t pare_cache_bytes(const pare_cache_options *options, int64_t classes); /* on disk */
/* What is there already is left as it is: fails as pare_cache_open does if it is not what is asked
 * for. */
pare_status pare_cache_make(pare_sched *sched, const pare_cache_options *options,
                            pare_cache_facts *facts);
/* PARE_ERR_EXISTS if it belongs to another teacher, data, k or temperature (which differs);
 * PARE_ERR_DAMAGED. */
pare_status pare_cache_open(const char *path, const char *teacher_digest,
                            const pare_dataset *dataset, int64_t k, double temperature,
                            pare_teacher_cache **cache);
void pare_cache_close(pare_teacher_cache **cache);
const pare_cache_facts *pare_cache_facts_of(const pare_teacher_cache *cache);
/* Units of samples [sample, sample + size) of the dataset's stream: index [units, k], value [units,
 * k], host memory. Any thread. */
pare_status pare_cache_read(const pare_teacher_cache *cache, const pare_dataset *dataset,
                            int64_t sample, int64_t size, int32_t *index, float *value);

#ifdef __cplusplus
}
#endif
#endif
