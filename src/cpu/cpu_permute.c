/* cpu_permute.c - rows and columns in another order; diagonals.
 *
 * A row of y takes elements of one row of x, which lies in the first-level cache. Of a symmetric
 * matrix with one triangle the other half of such a row lies scattered over a column; where rows
 * and columns have one order y is symmetric too, so its rows are only half filled and the rest is
 * transposed, tile by tile. Bound by memory.
 */
#include "cpu_impl.h"

#define TILE 32

static int64_t order_at(const pare_tensor *order, int64_t i)
{
    return order->data ? ((const int32_t *)order->data)[i] : i;
}

/* ---- any matrix ------------------------------------------------------------------------------ */

static void permute_floats(const pare_permute_args *a, int64_t i, int64_t row)
{
    int64_t cols = a->y.shape[1], stride = a->x.shape[1];
    const float *x = (const float *)a->x.data + row * stride;
    const int32_t *order = a->cols.data;
    float *y = (float *)a->y.data + i * cols;
    if (order)
        for (int64_t j = 0; j < cols; j++)
            y[j] = x[order[j]];
    else
        memcpy(y, x, (size_t)cols * sizeof *y);
}

static void permute_bytes(const pare_permute_args *a, int64_t i, int64_t row)
{
    int64_t cols = a->y.shape[1], stride = a->x.shape[1];
    const uint8_t *x = (const uint8_t *)a->x.data + row * stride;
    const int32_t *order = a->cols.data;
    uint8_t *y = (uint8_t *)a->y.data + i * cols;
    if (order)
        for (int64_t j = 0; j < cols; j++)
            y[j] = x[order[j]];
    else
        memcpy(y, x, (size_t)cols);
}

static void permute_part(const void *user, int64_t first, int64_t last)
{
    const pare_permute_args *a = user;
    for (int64_t i = first; i < last; i++)
        if (a->x.dtype == PARE_F32)
            permute_floats(a, i, order_at(&a->rows, i));
        else
            permute_bytes(a, i, order_at(&a->rows, i));
}

/* ---- a symmetric one ------------------------------------------------------------------------- */

/* The element of the lower triangle that stands for [i, j]. */
static int64_t lower_at(int64_t n, int64_t i, int64_t j)
{
    return i >= j ? i * n + j : j * n + i;
}

static void lower_floats(const pare_permute_args *a, int64_t i)
{
    int64_t cols = a->y.shape[1], n = a->x.shape[0], row = order_at(&a->rows, i);
    float *y = (float *)a->y.data + i * cols;
    for (int64_t j = 0; j < cols; j++)
        y[j] = ((const float *)a->x.data)[lower_at(n, row, order_at(&a->cols, j))];
}

static void lower_bytes(const pare_permute_args *a, int64_t i)
{
    int64_t cols = a->y.shape[1], n = a->x.shape[0], row = order_at(&a->rows, i);
    uint8_t *y = (uint8_t *)a->y.data + i * cols;
    for (int64_t j = 0; j < cols; j++)
        y[j] = ((const uint8_t *)a->x.data)[lower_at(n, row, order_at(&a->cols, j))];
}

static void lower_part(const void *user, int64_t first, int64_t last)
{
    const pare_permute_args *a = user;
    for (int64_t i = first; i < last; i++)
        if (a->x.dtype == PARE_F32)
            lower_floats(a, i);
        else
            lower_bytes(a, i);
}

static void tile_order(const pare_tensor *order, int64_t first, int64_t count, int32_t *to)
{
    for (int64_t k = 0; k < count; k++)
        to[k] = (int32_t)order_at(order, first + k);
}

/* Of two places of y that mirror each other, the one whose row of x is the longer has its value
 * from permute_part: the other takes it over. */
static void mirror_tile(const pare_permute_args *a, int64_t i0, int64_t j0)
{
    int64_t n = a->y.shape[0], rows = cpu_min(TILE, n - i0), cols = cpu_min(TILE, n - j0);
    float *left = (float *)a->y.data + i0 * n + j0, *right = (float *)a->y.data + j0 * n + i0;
    float turned[TILE][TILE];
    int32_t of_row[TILE], of_col[TILE];
    tile_order(&a->rows, i0, rows, of_row);
    tile_order(&a->rows, j0, cols, of_col);
    for (int64_t j = 0; j < cols; j++)
        for (int64_t i = 0; i < rows; i++)
            turned[i][j] = right[j * n + i];
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            turned[i][j] = of_row[i] >= of_col[j] ? left[i * n + j] : turned[i][j];
            left[i * n + j] = turned[i][j];
        }
    for (int64_t j = 0; j < cols; j++)
        for (int64_t i = 0; i < rows; i++)
            right[j * n + i] = turned[i][j];
}

/* Rows of tiles, a short one beside a long one, so that any part is as much work. */
static void mirror_part(const void *user, int64_t first, int64_t last)
{
    const pare_permute_args *a = user;
    int64_t tiles = cpu_ceil_div(a->y.shape[0], TILE);
    for (int64_t k = first; k < last; k++) {
        int64_t i = k % 2 == 0 ? k / 2 : tiles - 1 - k / 2;
        for (int64_t j = 0; j <= i; j++)
            mirror_tile(a, i * TILE, j * TILE);
    }
}

pare_status PARE_CPU(pare_cpu_permute)(pare_backend *be, const pare_permute_args *args)
{
    int64_t rows = args->y.shape[0];
    bool alike = args->rows.data == args->cols.data && args->y.shape[1] == rows;
    if (args->y.shape[1] == 0)
        return PARE_OK;
    if (!args->lower) {
        cpu_split(be, rows, 1, permute_part, args);
    } else if (alike && args->x.dtype == PARE_F32) {
        cpu_split(be, rows, 1, permute_part, args);
        cpu_split(be, cpu_ceil_div(rows, TILE), 1, mirror_part, args);
    } else {
        cpu_split(be, rows, 1, lower_part, args);
    }
    return PARE_OK;
}

/* ---- diagonal -------------------------------------------------------------------------------- */

pare_status PARE_CPU(pare_cpu_diagonal)(pare_backend *be, const pare_diagonal_args *args)
{
    (void)be;
    int64_t n = args->a.shape[0];
    float *a = args->a.data, *d = args->d.data;
    for (int64_t i = 0; i < n; i++)
        if (args->set)
            a[i * (n + 1)] = d[i];
        else
            d[i] = a[i * (n + 1)];
    return PARE_OK;
}
