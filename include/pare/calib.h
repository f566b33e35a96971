/* calib.h - what calibration data says about a layer's inputs, and what is done with it.
 *
 * A site (model.h) is the layers that read one and the same input: q, k and v; gate and up. Its
 * statistics are gathered once and serve all of them. A method (prune.h, quant.h) sees one layer
 * and the statistics of its site, never the model.
 *
 * Everything here is deterministic: batches are taken in one order, sums are f32 within a batch's
 * product (Gram) or f64, merged in that order. Adding to statistics allocates nothing; factor and
 * sweep take their scratch from the backend, once a call, and give it back.
 */
#ifndef PARE_CALIB_H
#define PARE_CALIB_H

#include "pare/comm.h"
#include "pare/model.h"
#include "pare/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- statistics of a site -------------------------------------------------------------------- */

/* What a method needs to know; a set. */
typedef enum pare_stat {
    PARE_STAT_COLUMNS = 1,   /* absmax, sum |x|, sum x² of each input */
    PARE_STAT_GRAM = 2,      /* Σ x·xᵀ */
    PARE_STAT_HISTOGRAM = 4, /* of |x|, over all inputs together */
    PARE_STAT_GRADIENT = 8,  /* of the loss by the weights: whole-model, see engine/gradients */
} pare_stat;

#define PARE_HISTOGRAM_BINS 2048

typedef struct pare_site_stats {
    unsigned kinds; /* set of pare_stat (never GRADIENT) */
    int64_t cols;   /* K */
    int64_t rows;   /* rows (tokens, patches) counted so far, those of padding left out */
    /* the backend's memory; data NULL for kinds not wanted */
    pare_tensor absmax;       /* [K] F32 */
    pare_tensor sum, squares; /* [K] F64: Σ |x|, Σ x² */
    pare_tensor gram;         /* [K, K] F32, Σ x·xᵀ: lower triangle; all of it after finish */
    pare_tensor bins;         /* [PARE_HISTOGRAM_BINS] I64 */
    float width;              /* of a bin: a power of two; 0: nothing seen but zeros */
    bool finished;
    int64_t uncounted; /* zeros that bin 0 has yet to get, or (negative) has too many */
    unsigned allotted; /* kinds that `memory`, one piece for all arrays, was made for */
    void *memory;
    void *host; /* scratch of the host's */
} pare_site_stats;

/* Bytes of the backend's memory for these kinds, scratch of finish included (HISTOGRAM brings
 * COLUMNS with it); makes them, all zero; adds rows of x [R, K] act, of which those of padding are
 * all zero and `kept` are not padding. The histogram's range grows by doubling: two bins become
 * one, so that its memory is fixed and no batch is seen twice (Migacz 2017 fixes it beforehand).
 * finish mirrors the Gram matrix; after it nothing is added. */
int64_t pare_site_stats_bytes(unsigned kinds, int64_t cols);
pare_status pare_site_stats_create(pare_backend *be, unsigned kinds, int64_t cols,
                                   pare_site_stats **stats);
pare_status pare_site_stats_add(pare_backend *be, pare_site_stats *stats, pare_tensor x,
                                int64_t kept);
pare_status pare_site_stats_finish(pare_backend *be, pare_site_stats *stats);
/* What each rank has counted, before it is finished, becomes what all have, on all of them: sums in
 * the order of comm (made for this backend's memory). */
pare_status pare_site_stats_join(pare_backend *be, pare_site_stats *stats, pare_comm *comm);
/* Bytes of the host's that this takes meanwhile. */
int64_t pare_site_stats_join_bytes(unsigned kinds, int64_t cols, int ranks);
void pare_site_stats_free(pare_backend *be, pare_site_stats **stats);

/* Finished statistics become those of the inputs divided by scales (host, [K], finite, not 0): what
 * a site has after its scales were folded away. A histogram is lost. */
pare_status pare_site_stats_divide(pare_backend *be, pare_site_stats *stats, const float *scales);

/* The range r of int8 activations x ≈ clamp(rint(x·127.5/r)): from the histogram (ABSMAX,
 * PERCENTILE, MSE: least squared error over 100 shares of the largest; KL: Migacz 2017, TensorRT's
 * calibration, 128 levels). 0 if only zeros were seen; PARE_ERR_NUMERIC if NaN or Inf was. All but
 * ABSMAX need the histogram. percentile: in percent (0: 99.99). Host side, f64. */
typedef enum pare_range_search {
    PARE_RANGE_ABSMAX,
    PARE_RANGE_PERCENTILE,
    PARE_RANGE_MSE,
    PARE_RANGE_KL
} pare_range_search;
pare_status pare_site_stats_range(pare_backend *be, const pare_site_stats *stats,
                                  pare_range_search search, double percentile, float *range);

/* ---- a cache of statistics ------------------------------------------------------------------- */

/* A folder with one .h5 a site: the statistics of all sites of one model, data and way of running
 * it. `key`: any text that says which; a site kept under another key is not found, and replaced by
 * add. Datasets "absmax", "sum", "squares", "bins", "gram" (its lower triangle, row by row). find
 * fills stats made for the kinds wanted (finished then), or gives false if the site is not there,
 * or not with these kinds. add is durable when it returns: written beside, then renamed. The folder
 * is made by the first add. PARE_ERR_DAMAGED names the file that is not sound: the caller may add
 * it anew. */
typedef struct pare_site_cache pare_site_cache;
pare_status pare_site_cache_open(const char *path, const char *key, pare_site_cache **cache);
pare_status pare_site_cache_find(pare_site_cache *cache, pare_backend *be, const char *site,
                                 pare_site_stats *stats, bool *found);
pare_status pare_site_cache_add(pare_site_cache *cache, pare_backend *be, const char *site,
                                const pare_site_stats *stats);
void pare_site_cache_close(pare_site_cache **cache);

/* ---- a layer --------------------------------------------------------------------------------- */

/* One weight at its site, as the methods see it. All tensors are the backend's memory. */
typedef struct pare_layer {
    const char *name;
    pare_tensor w; /* [R, C] F32: the weight; a method leaves the result (decoded) here */
    int64_t inner; /* of a convolution kh·kw: column c·inner + s; else 1 */
    const pare_site_stats *stats; /* of its inputs, finished */
    bool keep_zeros;              /* what is +0 or −0 now stays 0 exactly */
    /* quantised results; data NULL where not quantised */
    pare_scheme scheme; /* type NONE: not quantised */
    pare_dtype scale_dtype;
    int64_t block_rows, block_cols; /* pare_scheme_blocks of it */
    pare_tensor scale, lo;          /* [down, across] F32 (lo: scratch) */
    pare_tensor zero;               /* the same, I8, or absent */
    pare_tensor codes;              /* [R, C] I8 */
} pare_layer;

/* What is said of it afterwards. */
typedef struct pare_layer_report {
    double error_before; /* Σ ‖(w − ŵ)x‖² / Σ ‖w·x‖² of the plain method: rounding to nearest,
                            magnitude of the same share (NaN: not known) */
    double error_after; /* of what was done */
    double damping;     /* share of the mean diagonal that was added; 0: none was */
    double loss;        /* of a sweep: what pare_sweep gives */
    int64_t dead;       /* inputs that were always 0 */
    float act_scale;    /* of a8s */
    char fallback[160]; /* why something simpler was done, or "" */
} pare_layer_report;

/* Σ_r (Δ_r G Δ_rᵀ) of Δ = a − b, [R, C] both (b absent: 0); scratch [2][R, C] F32. NaN where
 * anything in it is not finite. */
pare_status pare_layer_error(pare_backend *be, pare_tensor a, pare_tensor b,
                             const pare_site_stats *stats, pare_tensor scratch[2], double *error);

/* ---- the sweep ------------------------------------------------------------------------------- */

/* One panel of columns, in the order of the sweep, when it is its turn: w holds what the columns
 * before have left. */
typedef struct pare_panel {
    pare_backend *be;
    int64_t first, count;        /* columns [first, first + count) of the sweep */
    pare_tensor w;               /* [R, count] F32; frozen weights count as 0 */
    pare_tensor u;               /* [C, C] */
    pare_tensor frozen;          /* bits [R, ceil(count/8)], or absent */
    pare_tensor keys;            /* [R, count] U32: scratch for choose */
    pare_tensor mask;            /* bits, all 1: choose puts zeros */
    int n, m;                    /* …or leaves the choice to the sweep itself */
    pare_tensor scale, lo, zero; /* [down, across] of the panel: round fills scale and zero */
} pare_panel;

/* Which weights go (from prune) and how the rest is rounded (from quant). NULL functions: none. */
typedef struct pare_choose {
    pare_status (*panel)(void *user, pare_panel *panel);
    void *user;
    int m; /* panels begin at multiples of it; 0: no matter */
} pare_choose;
typedef struct pare_round {
    pare_status (*panel)(void *user, pare_panel *panel); /* finds scales of whole blocks of w */
    void *user;
} pare_round;

typedef struct pare_sweep_options {
    double damping; /* share of the mean diagonal that is added to it first; 0: 0.01 */
    bool act_order; /* columns by descending diagonal, ties by index; scales are then those of the
                       weight as it was, in its own order, so that the result has no g_idx
                       (compressed-tensors calls this actorder "weight"). Not with n:m */
    int64_t inner; /* above 1: n:m of a convolution along its input channels. Column c·inner + s is
                      swept as s·(K/inner) + c, with scales as under act_order */
} pare_sweep_options;

/* The inverse factor of a site's Gram matrix, once for all its layers: dead inputs (diagonal 0) get
 * 1 there; damping (a share of the mean of the others) is added and multiplied by 10 up to 1 until
 * the Cholesky factor exists and is finite; u is the upper triangular factor of the inverse, uᵀu =
 * (G + damping)⁻¹, in the order of `order`. PARE_ERR_NUMERIC if none exists, or no input was ever
 * other than 0: the caller takes pare_factor_plain and says so. bytes: 2·K² F32 and some K while it
 * is made, then half of that. plain: u is the identity, so that a sweep prunes by magnitude and
 * rounds to nearest. */
typedef struct pare_factor {
    pare_tensor u;     /* [K, K] F32 upper */
    pare_tensor order; /* [K] I32: sweep column → weight column; absent: the same */
    pare_tensor place; /* its inverse */
    pare_tensor live;  /* [K] F32: 0 for dead inputs, in the weight's order; absent: none is dead */
    int32_t *columns;  /* order on the host, or NULL */
    double damping;    /* that it took; 0: plain */
    int64_t dead;
    int64_t inner; /* as in the options */
    bool act_order;
} pare_factor;
int64_t pare_factor_bytes(int64_t cols);
pare_status pare_factor_create(pare_backend *be, const pare_site_stats *stats,
                               const pare_sweep_options *options, pare_factor **factor);
pare_status pare_factor_plain(pare_backend *be, int64_t cols, const pare_sweep_options *options,
                              pare_factor **factor);
void pare_factor_free(pare_backend *be, pare_factor **factor);

/* One sweep over a layer: pruning, rounding, or both at once (GPTQ: Frantar 2022; SparseGPT:
 * Frantar 2023). Fills layer->w, and codes, scale and zero if the layer has a scheme (then round is
 * there). Weights of dead inputs become 0 before it begins. Panels are whole groups of the scheme,
 * or parts of one whose scales were found at its first column from all of its columns. *loss: the
 * sum of its squared errors e²: what Σ Δ(G + damping)Δᵀ has become. PARE_ERR_ARGUMENT where groups
 * and n:m do not go together (check says so before), for double_quant, and for n:m with act_order.
 * bytes: of scratch it takes from the backend and gives back; shapes and scheme alone are read;
 * permuted: the factor has an order, m: of choose. */
pare_status pare_sweep_check(const pare_layer *layer, bool permuted, int m);
int64_t pare_sweep_bytes(const pare_layer *layer, bool permuted, int m);
pare_status pare_sweep(pare_backend *be, pare_layer *layer, const pare_factor *factor,
                       const pare_choose *choose, const pare_round *round, double *loss);

/* ---- an exact choice under a budget ---------------------------------------------------------- */

/* Picks one option for each item so that the sum of harm is least and the sum of cost at most
 * `budget`: the multiple-choice knapsack, solved exactly by dynamic programming over costs, counted
 * from each item's cheapest option and divided by their greatest common divisor. Items (as if they
 * were 16 at least) times what the budget then is may be PARE_ASSIGN_CELLS (bytes of memory) at
 * most; PARE_ERR_ARGUMENT says if they are more, with the unit that would do. Ties go to the
 * cheaper, then the earlier option. harm [items][options], NaN or Inf: not allowed; cost likewise.
 * At most 256 options. PARE_ERR_ARGUMENT if nothing fits (what the least cost is). */
#define PARE_ASSIGN_CELLS ((int64_t)1 << 26)
typedef struct pare_assignment {
    int64_t items;
    int options;
    const double *harm;  /* [items][options] */
    const int64_t *cost; /* [items][options], ≥ 0 */
    int64_t budget;
} pare_assignment;
pare_status pare_assign(const pare_assignment *problem, int *choice /* [items] */);

#ifdef __cplusplus
}
#endif
#endif
