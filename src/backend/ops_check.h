/* ops_check.h - the few questions that ops_check_*.c ask of an argument; each answers
 * PARE_ERR_ARGUMENT with the op, the argument, what it is and what was expected. */
#ifndef PARE_OPS_CHECK_H
#define PARE_OPS_CHECK_H

#include "backend_impl.h"

#include <stdbool.h>

#define PARE__SET(dtype) (1u << (dtype))
#define PARE__WEIGHTS (PARE__SET(PARE_F32) | PARE__SET(PARE_F16) | PARE__SET(PARE_BF16))
#define PARE__ACTS (PARE__SET(PARE_F32) | PARE__SET(PARE_BF16))
#define PARE__KEYS (PARE__SET(PARE_U32) | PARE__SET(PARE_F32))

typedef struct pare__arg {
    const char *op, *name;
    const pare_tensor *tensor;
} pare__arg;

/* The argument `field` of the function pare__check_<op>(args). */
#define PARE__ARG(op, field) (&(pare__arg){#op, #field, &args->field})

/* A sound tensor: rank (-1: any), dtype one of the set, countable, data there and aligned to its
 * element. */
pare_status pare__arg_sound(const pare__arg *arg, int rank, unsigned dtypes);

/* Sound, and exactly this vector or matrix. */
pare_status pare__arg_vector(const pare__arg *arg, pare_dtype dtype, int64_t n);
pare_status pare__arg_matrix(const pare__arg *arg, pare_dtype dtype, int64_t rows, int64_t cols);

/* Sound, and of exactly this shape. */
pare_status pare__arg_shape(const pare__arg *arg, pare_dtype dtype, int rank, const int64_t *shape);

/* Kernel, stride and dilation at least 1, no pad negative. */
pare_status pare__window_sound(const char *op, const pare_window *window);

/* No byte in common; a tensor without elements has none. */
pare_status pare__arg_apart(const pare__arg *out, const pare__arg *in);

/* Apart, or starting at the same byte (an op that may run in place). */
pare_status pare__arg_apart_or_same(const pare__arg *out, const pare__arg *in);

/* Sound, and the bits of a matrix: [rows, ceil(cols/8)]. */
pare_status pare__arg_mask(const pare__arg *mask, int64_t rows, int64_t cols);

/* A scheme that quantises, with bits that it can have. */
pare_status pare__scheme_sound(const char *op, const pare_scheme *scheme, bool with_nf4);

/* The scales of the blocks of the matrix x; zero points beside them, or none where the scheme is
 * symmetric. */
pare_status pare__scales_sound(const pare_scheme *scheme, const pare__arg *scale,
                               const pare__arg *zero, const pare_tensor *x, int64_t block_rows,
                               int64_t block_cols);

/* ceil(a / b) for a ≥ 0, b ≥ 1, without overflow. */
static inline int64_t pare__ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

#endif
