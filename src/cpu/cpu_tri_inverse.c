/* cpu_tri_inverse.c - the inverse of a lower triangular matrix, in place.
 *
 * By halves: of [A 0; B D] it is [A⁻¹ 0; −D⁻¹·B·A⁻¹ D⁻¹] (Golub & Van Loan, Matrix Computations,
 * §3.1). The two products by triangles are halved likewise, until what is left is products of large
 * rectangles, oneDNN's, and squares of LEAF rows. A leaf's product cannot be in place: its operand
 * goes, transposed, to where it mirrors itself above the diagonal, which is free until the end.
 * Bound by arithmetic, n³/6 multiply-adds. The cuts depend on n alone.
 */
#include "cpu_nn.h"

#include "cpu_dnnl.h"

#include <float.h>

#define LEAF 128

typedef struct triangle {
    float *a; /* [n, n] */
    int64_t n;
} triangle;

static float *at(const triangle *t, int64_t i, int64_t j)
{
    return t->a + i * t->n + j;
}

/* Half of a length, in whole leaves. */
static int64_t half_of(int64_t length)
{
    return (cpu_ceil_div(length, LEAF) + 1) / 2 * LEAF;
}

/* ---- leaves ---------------------------------------------------------------------------------- */

/* Row by row: x_ij = −(Σ_k l_ik·x_kj)/l_ii over j ≤ k < i. */
static void invert_leaf(const triangle *t, int64_t first, int64_t count)
{
    float sum[LEAF];
    for (int64_t i = 0; i < count; i++) {
        float *row = at(t, first + i, first), by = 1.0f / row[i];
        memset(sum, 0, sizeof sum);
        for (int64_t k = 0; k < i; k++) {
            const float *x = at(t, first + k, first), l = row[k];
            for (int64_t j = 0; j <= k; j++)
                sum[j] += l * x[j];
        }
        for (int64_t j = 0; j < i; j++)
            row[j] = -sum[j] * by;
        row[i] = by;
        memset(row + i + 1, 0, (size_t)(count - i - 1) * sizeof *row);
    }
}

/* The mirror image of rows × cols elements from [i, j] on becomes their transpose. */
static void mirror(const triangle *t, int64_t i, int64_t j, int64_t rows, int64_t cols)
{
    for (int64_t c = 0; c < cols; c++)
        for (int64_t r = 0; r < rows; r++)
            *at(t, j + c, i + r) = *at(t, i + r, j + c);
}

/* B = D·B with the leaf D at [i, i] and B at [i, j]. */
static pare_status leaf_from_left(pare_backend *be, const triangle *t, int64_t i, int64_t j,
                                  int64_t rows, int64_t cols)
{
    mirror(t, i, j, rows, cols);
    return pare__dnnl_gemm_sub(be, &(pare__gemm_sub){.dtype = PARE_F32,
                                                     .M = rows,
                                                     .N = cols,
                                                     .K = rows,
                                                     .a = {at(t, i, i), t->n, 1},
                                                     .b = {at(t, j, i), 1, t->n},
                                                     .c = {at(t, i, j), t->n, 1}});
}

/* B = B·A with B at [i, j] and the leaf A at [j, j]. */
static pare_status leaf_from_right(pare_backend *be, const triangle *t, int64_t i, int64_t j,
                                   int64_t rows, int64_t cols)
{
    mirror(t, i, j, rows, cols);
    return pare__dnnl_gemm_sub(be, &(pare__gemm_sub){.dtype = PARE_F32,
                                                     .M = rows,
                                                     .N = cols,
                                                     .K = cols,
                                                     .a = {at(t, j, i), 1, t->n},
                                                     .b = {at(t, j, j), t->n, 1},
                                                     .c = {at(t, i, j), t->n, 1}});
}

/* ---- halves ---------------------------------------------------------------------------------- */

/* c += a·b, matrices inside t, each from the place that is given on. */
static pare_status add_product(pare_backend *be, const triangle *t, float *c, float *a, float *b,
                               int64_t M, int64_t N, int64_t K)
{
    return pare__dnnl_gemm_sub(be, &(pare__gemm_sub){.dtype = PARE_F32,
                                                     .M = M,
                                                     .N = N,
                                                     .K = K,
                                                     .a = {a, t->n, 1},
                                                     .b = {b, t->n, 1},
                                                     .c = {c, t->n, 1},
                                                     .add = true});
}

/* B = D·B: the lower half first, while the upper one is still what it was. */
static pare_status from_left(pare_backend *be, const triangle *t, int64_t i, int64_t j,
                             int64_t rows, int64_t cols)
{
    if (rows <= LEAF)
        return leaf_from_left(be, t, i, j, rows, cols);
    int64_t h = half_of(rows);
    PARE_TRY(from_left(be, t, i + h, j, rows - h, cols));
    PARE_TRY(add_product(be, t, at(t, i + h, j), at(t, i + h, i), at(t, i, j), rows - h, cols, h));
    return from_left(be, t, i, j, h, cols);
}

/* B = B·A: the left half first. */
static pare_status from_right(pare_backend *be, const triangle *t, int64_t i, int64_t j,
                              int64_t rows, int64_t cols)
{
    if (cols <= LEAF)
        return leaf_from_right(be, t, i, j, rows, cols);
    int64_t h = half_of(cols);
    PARE_TRY(from_right(be, t, i, j, rows, h));
    PARE_TRY(add_product(be, t, at(t, i, j), at(t, i, j + h), at(t, j + h, j), rows, h, cols - h));
    return from_right(be, t, i, j + h, rows, cols - h);
}

static pare_status invert(pare_backend *be, const triangle *t, int64_t first, int64_t count)
{
    if (count <= LEAF) {
        invert_leaf(t, first, count);
        return PARE_OK;
    }
    int64_t h = half_of(count), low = first + h, rows = count - h;
    PARE_TRY(invert(be, t, first, h));
    PARE_TRY(invert(be, t, low, rows));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < h; j++)
            *at(t, low + i, first + j) *= -1.0f;
    PARE_TRY(from_left(be, t, low, first, rows, h));
    return from_right(be, t, low, first, rows, h);
}

pare_status PARE_CPU(pare_cpu_tri_inverse)(pare_backend *be, const pare_tri_inverse_args *args)
{
    const triangle t = {.a = args->l.data, .n = args->l.shape[0]};
    for (int64_t i = 0; i < t.n; i++) {
        float d = *at(&t, i, i);
        PARE_REQUIRE(d != 0 && d >= -FLT_MAX && d <= FLT_MAX, PARE_ERR_NUMERIC,
                     "tri_inverse: the matrix [%lld, %lld] has no inverse: element %lld of its "
                     "diagonal is %g",
                     (long long)t.n, (long long)t.n, (long long)i, (double)d);
    }
    PARE_TRY(invert(be, &t, 0, t.n));
    for (int64_t i = 0; i < t.n; i++)
        memset(at(&t, i, i) + 1, 0, (size_t)(t.n - i - 1) * sizeof *t.a);
    return PARE_OK;
}
