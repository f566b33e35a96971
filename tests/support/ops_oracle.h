/* ops_oracle.h - every op once more: scalar, slow, in double precision and integers, sharing no
 * code with src/. */
#ifndef OPS_ORACLE_H
#define OPS_ORACLE_H

#include "pare/ops.h"

#define ORACLE_DECLARE(name) void oracle_##name(const pare_##name##_args *args);
PARE_OPS(ORACLE_DECLARE)
#undef ORACLE_DECLARE

/* The value of element i of F32, F16, BF16 data. */
double oracle_value(const void *data, pare_dtype dtype, int64_t i);

/* x, rounded half to even to dtype, as element i of data; x may be infinite, not NaN. */
void oracle_store(void *data, pare_dtype dtype, int64_t i, double x);

/* x rounded half to even to a format with `digits` binary digits, least normal exponent 2^least;
 * larger than `most` (by half a step) is infinite. */
double oracle_round(double x, int digits, int least, double most);
double oracle_round_dtype(double x, pare_dtype dtype);

/* Half to even to an integer. */
double oracle_rint(double x);

/* The value of a byte as OCP E4M3 (not of the NaNs), and the byte nearest to x, saturating. */
double oracle_e4m3(int byte);
int oracle_to_e4m3(double x);

/* A lane sum of count terms in f64. */
double oracle_lane_sum(const double *term, int64_t count);

/* Bit c of a row of a mask, and setting it. */
int oracle_bit(const uint8_t *row, int64_t c);
void oracle_set(uint8_t *row, int64_t c, int bit);

#endif
