/* quant.h - how weights become codes: quantisers, one file each in src/quant. */
#ifndef PARE_QUANT_H
#define PARE_QUANT_H

#include "pare/calib.h"

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
    float *scales;  /* out, host [K]: the inputs are divided by it, the weights' columns are
                       multiplied; 1 everywhere: left alone */
    char note[160]; /* out: why it was left alone, the α chosen …, or "" */
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
 * like this one (shapes and scheme alone are read; permuted, m: as in pare_sweep_bytes). */
int64_t pare_quant_bytes(const pare_quant_method *method, const pare_layer *layer, bool permuted,
                         int m);

/* All methods, NULL after the last; the one of a name, or NULL. */
const pare_quant_method *const *pare_quant_methods(void);
const pare_quant_method *pare_quant_find(const char *name);

#ifdef __cplusplus
}
#endif
#endif
