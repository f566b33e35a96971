#include "ops_gradient.h"

#include <math.h>

void ops_expect_gradient(ops_scalar scalar, const void *user, const float *x, int64_t n,
                         const float *gradient, double tolerance)
{
    const double step = 1e-5;
    double *at = calloc((size_t)n + 1, sizeof *at), *want = calloc((size_t)n + 1, sizeof *want);
    double squares = 0;
    assert_true(at && want);
    for (int64_t i = 0; i < n; i++)
        at[i] = (double)x[i];
    for (int64_t i = 0; i < n; i++) {
        at[i] = (double)x[i] + step;
        double above = scalar(user, at);
        at[i] = (double)x[i] - step;
        want[i] = (above - scalar(user, at)) / (2 * step);
        at[i] = (double)x[i];
        squares += want[i] * want[i];
    }
    double rms = sqrt(squares / (double)(n > 0 ? n : 1));
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)gradient[i] - want[i]) <= tolerance * (fabs(want[i]) + rms)))
            fail_msg("the gradient of element %lld of %lld is %.9g; differences give %.9g (RMS "
                     "%.3g)",
                     (long long)i, (long long)n, (double)gradient[i], want[i], rms);
    free(at);
    free(want);
}
