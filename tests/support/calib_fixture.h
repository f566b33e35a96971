/* calib_fixture.h - one layer with inputs like those of a network: correlated, some large. */
#ifndef PARE_CALIB_FIXTURE_H
#define PARE_CALIB_FIXTURE_H

#include "test.h"

#include "pare/quant.h"

typedef struct calib_options {
    pare_backend *be;
    int64_t rows, cols, samples; /* of the weight [rows, cols]; of the inputs (0: none) */
    const char *scheme;          /* "w4g32"; NULL: not quantised */
    unsigned kinds;              /* of statistics; 0: all */
    int keep_n, keep_m;          /* zeros in the weight: n of every m are kept; keep_zeros then */
    void (*change)(float *x, int64_t samples, int64_t cols); /* the inputs, before they are seen */
    pare_dtype scale_dtype;                                  /* 0: F32 */
} calib_options;

typedef struct calib_case {
    pare_backend *be;
    int64_t R, C, N;
    float *x;      /* [N, C] host */
    float *weight; /* [R, C] host: as it was */
    pare_site_stats *stats;
    pare_layer layer;
    pare_layer_report report;
    void *memory; /* of the layer, in the backend's */
    int64_t bytes;
} calib_case;

calib_case calib_case_make(const calib_options *options);
void calib_case_free(calib_case *c);

/* The layer's weight becomes what it was; its results are forgotten. */
void calib_case_reset(calib_case *c);

/* count elements of the backend's memory; freed by the caller. */
void *calib_download(pare_backend *be, const pare_tensor *tensor);

/* Σ ‖(w − weight)·x‖² / Σ ‖weight·x‖² in f64, by the inputs themselves. */
double calib_error(const calib_case *c, const float *w);

/* Statistics of x [N, C], added in pieces. */
pare_site_stats *calib_stats(pare_backend *be, unsigned kinds, const float *x, int64_t samples,
                             int64_t cols);

/* Fails unless w is finite, is what its codes decode to, and has a zero where the weight had one
 * (with keep_zeros). */
void calib_check(const calib_case *c);

#endif
