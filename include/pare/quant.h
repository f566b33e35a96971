/* quant.h - how weights become codes: quantisers, one file each in src/quant. */
#ifndef PARE_QUANT_H
#define PARE_QUANT_H

#include "pare/calib.h"
#include "pare/comm.h"
#include "pare/train.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a scale is found from its block. */
typedef enum pare_scale_search { PARE_SCALE_ABSMAX, PARE_SCALE_MSE } pare_scale_search;

/* Reads "absmax", "mse". */
pare_status pare_scale_search_parse(const char *text, pare_scale_search *search);
const char *pare_scale_search_name(pare_scale_search search);

/* What a quantiser sees: rows of one tensor that begin at a block, and where the result goes. */
typedef struct pare_quant_args {
    pare_scheme scheme;
    pare_scale_search search;
    pare_dtype scale_dtype; /* F32, F16 or BF16: the source's; F32 for NF4 */
    pare_tensor w;          /* [R, C], F32, finite or not */
    int64_t block_rows, block_cols;
    bool scale_known;   /* scale (and zero) are inputs: a scale that spans more than these rows */
    pare_tensor scale;  /* [ceil(R/block_rows), ceil(C/block_cols)], F32 */
    pare_tensor lo;     /* scratch, the same, F32 */
    pare_tensor zero;   /* the same, I8; data NULL unless asymmetric */
    pare_tensor codes;  /* [R, C], I8 */
    float scale_offset; /* of double_quant: what goes to quant_nested, and its results */
    pare_tensor scale_codes, nested;
} pare_quant_args;

/* ---- with data ------------------------------------------------------------------------------- */

/* What a recipe may say of a method; zero is the default, given in brackets. */
typedef struct pare_quant_tuning {
    double damping; /* gptq, sparsegpt: share of the mean diagonal (0.01) */
    bool act_order; /* gptq */
    double alpha;   /* smoothquant: migration strength (0.5) */
    int grid;       /* awq: how many α are tried, from 0 in equal steps to below 1 (20) */
    bool no_clip;   /* awq: without the search for clipped scales */
} pare_quant_tuning;

/* The layers of one site together: what AWQ and SmoothQuant scale. */
typedef struct pare_quant_site {
    const pare_site_stats *stats; /* finished */
    int64_t cols;
    int layers;
    pare_layer *layer[PARE_SITE_LAYERS]; /* w is theirs to read here */
    int64_t fold_dim; /* as in pare_site: with fold_repeat > 1 heads that share a scale */
    int fold_repeat;
    bool foldable;
    pare_scale_search search;
    pare_quant_tuning tuning;
    pare_comm *ranks; /* that all have this site, and share what is tried; NULL: this one alone */
    float *scales;    /* out, host [K]: the inputs are divided by it, the weights' columns are
                         multiplied; 1 everywhere: left alone */
    char note[160];   /* out: why it was left alone, the α chosen …, or "" */
    double before[PARE_SITE_LAYERS]; /* out: of each layer the relative error of rounding it to
                                        nearest as it is, without scales; NaN: not known */
} pare_quant_site;

typedef struct pare_quant_method {
    const char *name;    /* "rtn" */
    const char *summary; /* one line for help and docs */
    unsigned needs;      /* set of pare_stat beside what static activations need; 0: no data */
    /* Rows by themselves, without data. NULL: the method needs it. */
    pare_status (*quantize)(pare_backend *be, const pare_quant_args *args);
    /* Finds the scales of a site's inputs; NULL: it has none. */
    pare_status (*scale_site)(pare_backend *be, pare_quant_site *site);
    /* One layer with its statistics, after scaling: fills codes, scale, zero, and w with what they
     * decode to; report->error_*, damping, dead and loss too. choose: a pruning to be done in the
     * same sweep, or NULL. factor: of the site, if needs_factor (NULL or plain: there is none; then
     * it rounds to nearest, and report->fallback, unless the caller said why, does). What w holds
     * must be finite, and the scheme not double_quant. */
    pare_status (*solve)(pare_backend *be, pare_layer *layer, pare_scale_search search,
                         const pare_quant_tuning *tuning, const pare_factor *factor,
                         const pare_choose *choose, pare_layer_report *report);
    bool needs_factor;
    /* What pare_quant_bytes gives; NULL: what rounding to nearest takes. */
    int64_t (*bytes)(const pare_layer *layer, bool permuted, int m);
} pare_quant_method;

/* What `solve` of every method does where it cannot do better (too few samples, a factor that does
 * not exist): rounding to nearest, kept zeros included. Fills codes, scale, zero and w. */
pare_status pare_quant_round(pare_backend *be, pare_layer *layer, pare_scale_search search);

/* Bytes of the backend's memory that scale_site and solve take at most and give back, for layers
 * like this one (shapes, scheme and the kinds of its statistics alone are read; permuted, m: as in
 * pare_sweep_bytes). */
int64_t pare_quant_bytes(const pare_quant_method *method, const pare_layer *layer, bool permuted,
                         int m);

/* ---- quantisers that training looks through ---------------------------------------------------
 */

/* Quantisation-aware training: the model multiplies by rounded weights (and rounded activations),
 * the weights behind them learn through the straight-through estimator, and so do the steps (LSQ,
 * Esser 2020) unless `fixed`. What is exported are the integers that the last forward used. */
typedef struct pare_qat_options {
    pare_scheme scheme;    /* symmetric integers: tensor, channel, group or block; a8d or a8s too */
    bool fixed;            /* steps follow the largest weight instead of learning */
    bool first_last;       /* the first and the last product stay at 8 bits at least */
    const uint8_t *chosen; /* [parameters]; NULL: every LINEAR and CONV. One that is frozen is
                              rounded as it is. During create alone, */
    const pare_store *store; /* as this one: the checkpoint whose dtypes steps are written in, and
                                rounded to; NULL: F32 */
} pare_qat_options;

typedef struct pare_qat pare_qat;
/* Before prepare, and after parameters were frozen; a scheme that does not fit a layer falls back
 * as RTN does: note says how, NULL if it does not. */
pare_status pare_qat_create(const pare_qat_options *options, pare_model *model, pare_qat **qat);
void pare_qat_free(pare_qat **qat);
int64_t pare_qat_bytes(const pare_qat *qat);
const char *pare_qat_note(const pare_qat *qat, int64_t param);
/* After prepare and load, before the part, with a8s: finds the scales of inputs that the checkpoint
 * does not know, from the first 256 samples run without rounding in batches of so many (those of
 * padding count too). They stay as they are in training. Else it does nothing. */
pare_status pare_qat_calibrate(pare_qat *qat, pare_backend *be, const pare_dataset *dataset,
                               int64_t batch);
/* be NULL: the part as checks and predictions need it, with shapes but no memory; at any time after
 * create. After prepare and load; steps begin as 2·mean|w|/√(2^(b−1) − 1) (LSQ), or as those of RTN
 * where these are smaller. */
pare_status pare_qat_part(pare_qat *qat, pare_backend *be, pare_train_part **part);
/* Of a parameter as the model multiplies by it now: scheme, codes [count] of its value's order, and
 * steps, to host memory; false: it is not quantised. */
bool pare_qat_layer(const pare_qat *qat, int64_t param, pare_scheme *scheme, int64_t *steps);
pare_status pare_qat_codes(const pare_qat *qat, int64_t param, int8_t *codes, float *steps);

/* All methods, NULL after the last; the one of a name, or NULL. */
const pare_quant_method *const *pare_quant_methods(void);
const pare_quant_method *pare_quant_find(const char *name);

#ifdef __cplusplus
}
#endif
#endif
