/* ops_gradient.h - an op's gradient beside central differences of its oracle in double. */
#ifndef OPS_GRADIENT_H
#define OPS_GRADIENT_H

#include "test.h"

/* A number that depends on the n of x, through an oracle on F64 tensors. */
typedef double (*ops_scalar)(const void *user, double *x);

/* gradient[i] is the derivative of scalar by x[i], within tolerance·(|it| + the RMS of all). */
void ops_expect_gradient(ops_scalar scalar, const void *user, const float *x, int64_t n,
                         const float *gradient, double tolerance);

#endif
