/* ops_core.h - element-wise conversion, statistics, digests (ops.h has the rules). */
#ifndef PARE_OPS_CORE_H
#define PARE_OPS_CORE_H

#include "pare/tensor.h"

#define PARE_OPS_CORE(OP)                                                                          \
    OP(cast)                                                                                       \
    OP(stats)                                                                                      \
    OP(diff)                                                                                       \
    OP(digest)

/* y = x in y's dtype, round half to even; overflow gives Inf. A NaN keeps its sign and the upper
 * bits of its payload that fit, and is made quiet; where the dtype is the same, bits are copied. */
typedef struct pare_cast_args {
    pare_tensor x; /* any shape, F32, F16 or BF16 */
    pare_tensor y; /* same element count, F32, F16 or BF16; in place if the dtype is the same */
} pare_cast_args;

typedef struct pare_stats_result {
    int64_t count, zeros, nans, infs; /* zeros: +0 and -0 */
    int64_t first_bad;                /* index of the first NaN or Inf, -1 if none */
    double min, max, absmax;          /* of the finite elements, never -0; 0 if there are none */
    double sum, sum_squares;          /* lane sums in f64; what is not finite adds +0 in its lane */
} pare_stats_result;

/* Statistics of x; *result is overwritten (host memory; ready on return). */
typedef struct pare_stats_args {
    pare_tensor x; /* any shape, F32, F16 or BF16 */
    pare_stats_result *result;
} pare_stats_args;

typedef struct pare_diff_result {
    int64_t count,
        differing;  /* differing: a and b are not the same value (NaN equals NaN, +0 equals -0) */
    double max_abs; /* max |a - b|; NaN counts as Inf unless both are NaN */
    double sum_aa, sum_bb, sum_ab, sum_dd; /* lane sums in f64 of a², b², a·b, (a - b)²; a pair
                                              not both finite adds +0 in its lane */
} pare_diff_result;

/* Difference of a and b; *result is overwritten (host memory; ready on return). */
typedef struct pare_diff_args {
    pare_tensor a, b; /* same element count, F32 each */
    pare_diff_result *result;
} pare_diff_args;

/* XXH3-128 of a byte range with a seed, added to result: result[0] += low 64 bits, result[1] +=
 * high, modulo 2^64 (so that ranges hashed in any order give one digest). Host memory; ready on
 * return. */
typedef struct pare_digest_args {
    const void *bytes;
    int64_t size;
    uint64_t seed;
    uint64_t *result; /* [2], added to */
} pare_digest_args;

#endif
