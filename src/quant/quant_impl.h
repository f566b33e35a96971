/* quant_impl.h - the quantisers, one a file, and what those that see data share. */
#ifndef PARE_QUANT_IMPL_H
#define PARE_QUANT_IMPL_H

#include "pare/quant.h"

extern const pare_quant_method pare__quant_rtn;
extern const pare_quant_method pare__quant_imatrix;
extern const pare_quant_method pare__quant_gptq;
extern const pare_quant_method pare__quant_awq;
extern const pare_quant_method pare__quant_smoothquant;

/* ---- rounding (quant_rtn.c) ------------------------------------------------------------------ */

/* Scales (and zero points) of args->w by args->search; NF4's that are quantised too are not yet. */
pare_status pare__quant_find_scales(pare_backend *be, const pare_quant_args *args);

/* A layer as rounding sees it. */
pare_quant_args pare__quant_args(const pare_layer *layer, pare_scale_search search);

/* Codes of layer->w with the scales that the layer has, and w what they decode to. */
pare_status pare__quant_apply(pare_backend *be, pare_layer *layer);

/* ---- solving (quant_solve.c) ----------------------------------------------------------------- */

/* A layer while it is solved: the weight as it was, and the errors that are known. */
typedef struct pare__trial {
    pare_layer *layer;
    pare_layer_report *report;
    pare_scale_search search;
    pare_tensor before; /* [R, C] F32 */
    void *memory;
    bool measured; /* there is a Gram matrix, so errors are known */
    double energy; /* Σ ‖w·x‖² */
    double plain;  /* error of rounding to nearest, if that is what it is to be compared with */
} pare__trial;

/* Keeps the weight. With `compare`, rounding to nearest is tried first: report->error_before. */
pare_status pare__trial_begin(pare_backend *be, pare_layer *layer, pare_scale_search search,
                              bool compare, pare_layer_report *report, pare__trial *trial);
/* Measures what was done: report->error_after. If that is worse than rounding to nearest, or not
 * finite, the layer is rounded to nearest after all, and the report says so. */
pare_status pare__trial_end(pare_backend *be, pare__trial *trial);
/* Rounds the weight as it was to nearest. why: for the report, unless it has a reason already. */
pare_status pare__trial_give_up(pare_backend *be, pare__trial *trial, const char *why);
pare_status pare__trial_restore(pare_backend *be, const pare__trial *trial);
/* The report's fallback, unless it has a reason already: "what: why". */
void pare__trial_blame(const pare__trial *trial, const char *what, const char *why);
void pare__trial_free(pare_backend *be, pare__trial *trial);

/* Bytes of a trial; `work`: what the method takes between begin and end. */
int64_t pare__trial_bytes(const pare_layer *layer, int64_t work);

/* Why statistics of columns are of no use ("there are no samples" …), or NULL. *squares: Σ x² of
 * each input on the host, [K] (the caller frees), or NULL. */
pare_status pare__stats_problem(pare_backend *be, const pare_site_stats *stats, double **squares,
                                const char **problem);

/* ---- ranges by data (quant_shrink.c) --------------------------------------------------------- */

/* Each block's range becomes the share of it, of ratios[0 … count), with the least error E; ties go
 * to the first. by_gram: E = Σ_r Δ_r G_bb Δ_rᵀ over the block's rows, G_bb being the Gram matrix of
 * its columns; else E = Σ Δ² Σx². Fills scale, zero, codes and w. */
pare_status pare__quant_shrink(pare_backend *be, pare_layer *layer, const float *ratios, int count,
                               bool by_gram);
int64_t pare__quant_shrink_bytes(const pare_layer *layer, bool by_gram);

/* ---- scales of a site's inputs (quant_fold.c) ------------------------------------------------ */

/* The place that a column's scale is folded into, and how many there are: columns with one place
 * share a scale (those of a convolution's channel, of heads with grouped queries). */
int64_t pare__fold_place(const pare_quant_site *site, int64_t column);
int64_t pare__fold_places(const pare_quant_site *site);

/* Whether there is something to scale: else all scales are 1 and site->note says why. *sizes: of
 * each place the mean (or, of `largest`, the largest) of what the columns' array holds: F64 of
 * stats->sum, or stats->absmax. Host, the caller frees. */
pare_status pare__fold_begin(pare_backend *be, pare_quant_site *site, bool largest, double **sizes,
                             bool *any);

/* scales[k] = those of its place. */
void pare__fold_spread(pare_quant_site *site, const double *places);

#endif
