/* oracle_nn.h - elements of F32, BF16 and F64 tensors for oracles. F64 is what gradients are
 * checked with: the oracle itself is differentiated. */
#ifndef ORACLE_NN_H
#define ORACLE_NN_H

#include "ops_oracle.h"

#include <math.h>
#include <string.h>

static inline double oracle_get(const pare_tensor *t, int64_t i)
{
    if (t->dtype == PARE_F64)
        return ((const double *)t->data)[i];
    return oracle_value(t->data, t->dtype, i);
}

static inline void oracle_put(const pare_tensor *t, int64_t i, double x)
{
    if (t->dtype == PARE_F64)
        ((double *)t->data)[i] = x;
    else if (!isnan(x))
        oracle_store(t->data, t->dtype, i, x);
    else if (t->dtype == PARE_F32)
        ((uint32_t *)t->data)[i] = 0x7fc00000u;
    else
        ((uint16_t *)t->data)[i] = 0x7fc0u;
}

#endif
