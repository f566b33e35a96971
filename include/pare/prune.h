/* prune.h - which weights go: scores (one file each in src/prune) and the patterns they are cut in.
 */
#ifndef PARE_PRUNE_H
#define PARE_PRUNE_H

#include "pare/calib.h"
#include "pare/train.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pare_pattern_kind {
    PARE_PATTERN_UNSTRUCTURED,
    PARE_PATTERN_NM,    /* n of every m consecutive columns stay */
    PARE_PATTERN_BLOCK, /* block_rows × block_cols go together */
    /* These shrink the model (shrink, below): */
    PARE_PATTERN_CHANNEL, /* neurons of a feed-forward layer, channels of a convolution */
    PARE_PATTERN_HEAD,    /* attention heads; with grouped queries a key head and its query heads */
    PARE_PATTERN_LAYER,   /* whole residual blocks */
    PARE_PATTERN_WIDTH,   /* features of the hidden state */
} pare_pattern_kind;

typedef struct pare_pattern {
    pare_pattern_kind kind;
    int n, m;                       /* PARE_PATTERN_NM: 0 < n < m ≤ 256 */
    int64_t block_rows, block_cols; /* PARE_PATTERN_BLOCK: 1..4096 each */
} pare_pattern;

/* Whether a pattern makes the model smaller instead of putting zeros into it. */
bool pare_pattern_shrinks(const pare_pattern *pattern);

/* Reads "unstructured", "2:4", "block:16x16", "channel", "head", "layer", "width".
 * PARE_ERR_ARGUMENT with what was expected. */
pare_status pare_pattern_parse(const char *text, pare_pattern *pattern);
/* Writes that spelling into text (size bytes, 32 are enough) and returns text. */
char *pare_pattern_text(const pare_pattern *pattern, char *text, size_t size);

/* What a score sees: some rows of one tensor. */
typedef struct pare_score_args {
    uint64_t seed, stream; /* of the run, and of the tensor (the same wherever it is stored) */
    int64_t first;         /* index of w's first element (or of its first block) in the tensor */
    pare_tensor w;         /* [R, C], F32 */
    pare_tensor norm; /* [C] F32, ‖x_c‖₂ of its inputs; data NULL unless STAT_COLUMNS is needed */
    pare_tensor grad; /* [R, C] F32: √Σ g² of the loss's gradients by batches, or by samples; data
                         NULL unless STAT_GRADIENT is needed. A score may write into it */
    int64_t block_rows, block_cols; /* 1 × 1 for single elements */
    pare_tensor keys; /* [ceil(R/block_rows), ceil(C/block_cols)], U32: see ops_compress.h */
} pare_score_args;

typedef struct pare_prune_method {
    const char *name;     /* "magnitude" */
    const char *summary;  /* one line for help and docs */
    bool weight_is_score; /* element keys are the bits of |w|: selection may read the weights
                             themselves */
    unsigned needs;       /* set of pare_stat; 0: no data */
    bool by_row;          /* unstructured: every row loses the same share (Wanda), but of
                             convolutions, whose filters differ too much: there the layer does */
    bool by_sample;       /* STAT_GRADIENT: gradients of single samples (Fisher), else of batches */
    /* Fills args->keys. NULL: the sweep decides. */
    pare_status (*score)(pare_backend *be, const pare_score_args *args);
    /* SparseGPT: what a sweep asks (calib.h), with a pare_choose_plan as user; NULL: no sweep. */
    pare_status (*choose)(void *user, pare_panel *panel);
} pare_prune_method;

/* What a sweep is to remove. */
typedef struct pare_choose_plan {
    pare_pattern pattern; /* UNSTRUCTURED or NM */
    double sparsity;      /* of each panel */
} pare_choose_plan;

/* ---- budgets ----------------------------------------------------------------------------------
 */

/* How the sparsity asked for is spread over layers. */
typedef enum pare_budget {
    PARE_BUDGET_UNIFORM, /* the same in every layer */
    PARE_BUDGET_GLOBAL,  /* one threshold over the scores of all layers */
    PARE_BUDGET_OWL,     /* by the share of outliers in |w|·‖x‖ (Yin 2023) */
    PARE_BUDGET_LOSS, /* by each layer's output error at several sparsities, exactly (pare_assign)
                       */
} pare_budget;
pare_status pare_budget_parse(const char *text, pare_budget *budget);
const char *pare_budget_name(pare_budget budget);

/* OWL: the share of scores above `factor` times the mean score of the layer. keys [R, C] U32 hold
 * them (of Wanda). Host result. */
pare_status pare_outlier_share(pare_backend *be, pare_tensor keys, double factor, double *share);

/* Sparsities s_l = clamp(1 − (scaled share), …) with |s_l − sparsity| ≤ spread and the weighted
 * mean exactly the one asked for; count[l]: weights of the layer. Yin 2023, eq. 3: outlier-rich
 * layers keep more. */
pare_status pare_budget_owl(const double *share, const int64_t *count, int64_t layers,
                            double sparsity, double spread, double *result);
/* GLOBAL: the share of each layer below one threshold over the scores of all. They were counted in
 * `bins` intervals, the same for all layers: below[l·bins + b] of layer l are in the first b + 1 of
 * them, so that the last says how many weights it has. Within the interval where the threshold
 * falls, scores count as evenly spread, so that the weighted mean is exactly the one asked for. No
 * layer loses more than `most` (at least `sparsity`); what it would have lost, others do. */
pare_status pare_budget_global(const int64_t *below, int64_t bins, int64_t layers, double sparsity,
                               double most, double *result);
/* LOSS: errors [layers][steps] at sparsities steps[]; *result[l] one of them, least sum of errors
 * with a weighted mean of at least `sparsity`. */
pare_status pare_budget_loss(const double *errors, const double *steps, int step_count,
                             const int64_t *count, int64_t layers, double sparsity, double *result);

/* All methods, NULL after the last; the one of a name, or NULL. */
const pare_prune_method *const *pare_prune_methods(void);
const pare_prune_method *pare_prune_find(const char *name);

/* ---- schedules: masks that change while a model trains --------------------------------------- */

typedef enum pare_mask_schedule {
    PARE_MASKS_GRADUAL, /* s_t = s_f + (s_i − s_f)(1 − t/n)³ from `begin` to `end`, every `each`
                           steps (Zhu & Gupta 2017); what went may come back until it ends if
                           `revive` (the dense weights are kept) */
    PARE_MASKS_ITERATIVE, /* `rounds` equal shares of what is left, spread evenly over [begin, end]
                           */
    PARE_MASKS_REWIND,    /* lottery ticket (Frankle 2020): `rounds` times train to the end of a
                             round, prune its share of what is left, set what stays back to the
                             values of step `rewind` */
    PARE_MASKS_RIGL, /* from a sparse start: every `each` steps the share fraction·(1 + cos πt/T)/2
                        of the smallest weights goes, as many places with the largest gradient
                        come, at 0 (Evci 2020) */
    PARE_MASKS_SET,  /* likewise, places drawn at random (Mocanu 2018) */
    PARE_MASKS_DENSE, /* sparse until `end`, then masks fall and all weights learn (SPDF) */
} pare_mask_schedule;
pare_status pare_mask_schedule_parse(const char *text, pare_mask_schedule *schedule);
const char *pare_mask_schedule_name(pare_mask_schedule schedule);

typedef struct pare_mask_options {
    pare_mask_schedule schedule;
    const pare_prune_method *method; /* magnitude, random, taylor (|w·g| of the step that prunes),
                                        or "movement" (score_movement.c: Σ −w·g, Sanh 2020) */
    pare_pattern pattern;            /* UNSTRUCTURED, NM, BLOCK */
    bool global;                     /* one threshold over all chosen layers, else one a layer; of
                                        RIGL and SET: how the start is drawn */
    bool erk;              /* densities by Erdős–Rényi-kernel (Evci 2020) instead of the same */
    double initial, final; /* sparsities */
    double begin, end;     /* shares of all steps; end 0: 0.75 (REWIND: the whole) */
    int64_t each;          /* steps between changes; 0: 1/100 of the steps, at least 1 */
    int64_t rounds;        /* 0: 5 */
    int64_t rewind;        /* step; 0: the start */
    double fraction;       /* 0: 0.3 */
    bool revive;
    uint64_t seed;
    const uint8_t *chosen; /* [parameters]; NULL: every LINEAR and CONV. Frozen ones, and those
                              whose inputs are no multiple of N:M's M, are left out */
} pare_mask_options;

/* magnitude, random, taylor or movement by its name; NULL: schedules know no such method. The other
 * one is PARE_ERR_ARGUMENT then, with the nearest name. */
const pare_prune_method *pare_masks_method(const char *name);
pare_status pare_masks_method_parse(const char *text, const pare_prune_method **method);

typedef struct pare_masks pare_masks;
/* Before prepare; checks that pattern and layers fit. */
pare_status pare_masks_create(const pare_mask_options *options, pare_model *model,
                              pare_masks **masks);
void pare_masks_free(pare_masks **masks);
int64_t pare_masks_bytes(const pare_masks *masks); /* of the backend, masks themselves apart */
/* be NULL: the part as checks and predictions need it, without memory; at any time after create.
 * After prepare and load (a mask that is there is where it begins): what joins the training. It
 * asks for a curve that restarts after each round of REWIND: pare_masks_restart tells it to one
 * that has its steps and warm-up, or why they do not go with the rounds. */
pare_status pare_masks_part(pare_masks *masks, pare_backend *be, pare_train_part **part);
pare_status pare_masks_restart(const pare_masks *masks, pare_curve *curve);
/* The sparsity meant at a step. */
double pare_masks_sparsity(const pare_mask_options *options, int64_t step, int64_t steps);

/* ---- shrink ----------------------------------------------------------------------------------
 */

/* Structured pruning: units (model.h) are scored by all that is theirs, the least of each class go,
 * and what is left of each tensor is cut out. */
typedef struct pare_shrink_options {
    pare_unit_kind kind;
    double sparsity;       /* share of units that go, of each class; of all blocks together */
    int64_t multiple;      /* the number that stays is one of it (WIDTH: of features); 0: 1 */
    const uint8_t *chosen; /* [classes]: which lose units; NULL: all of the kind */
} pare_shrink_options;

/* Rows [first, first + count) of a parameter as the checkpoint stores it. */
typedef struct pare_shrink_rows {
    int64_t param, first, count;
    const float *w;    /* [count, C] */
    const float *grad; /* alike, or NULL */
    /* ‖x‖² of each input, [places of the axis that its product sums over], or NULL */
    const double *inputs;
    int input_axis;
} pare_shrink_rows;

/* Adds to the units of these rows what they have in them: Σ w², Σ (w·grad)² (Taylor; Molchanov
 * 2019), or, with inputs, Σ w²·‖x‖² to the units of the input axis alone (Wanda's, Sun 2023, summed
 * over those who read the unit). LAYER units get all of it. In f64, in an order
 * that the number of rows alone decides. */
void pare_shrink_score(const pare_couple *couple, const pare_shrink_rows *rows,
                       double *score /* [units] */);

/* Marks what stays: keep [units]. Ties go by the lower place. At least one unit of a class stays,
 * and its number is what the class's limits and `multiple` allow nearest to the share asked for
 * (the greater of two). PARE_ERR_UNSUPPORTED if nothing of the kind can go, with the reason;
 * PARE_ERR_ARGUMENT if nothing would; PARE_ERR_NUMERIC for a score that is no number. */
pare_status pare_shrink_choose(const pare_couple *couple, const pare_shrink_options *options,
                               const double *score, uint8_t *keep);

/* Which rows and columns of a parameter, as the matrix that the checkpoint stores, stay. */
typedef struct pare_shrink_cut {
    int64_t rows, cols, kept_rows, kept_cols;
    uint8_t *row; /* [rows] */
    int64_t *col; /* [kept_cols], ascending */
} pare_shrink_cut;
pare_status pare_shrink_cut_create(const pare_couple *couple, int64_t param, const uint8_t *keep,
                                   pare_shrink_cut **cut);
void pare_shrink_cut_free(pare_shrink_cut **cut);

/* Row `row` (that stays) of `bytes` a value: those of its columns that stay. */
void pare_shrink_cut_row(const pare_shrink_cut *cut, const void *row, size_t bytes, void *kept);

#ifdef __cplusplus
}
#endif
#endif
