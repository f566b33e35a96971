/* cpu_linalg.c - cholesky: A = L·Lᵀ in place.
 *
 * Right-looking, by panels of columns (Golub & Van Loan, Matrix Computations,
 * §4.2): the panel's square on the diagonal is factored by rows of its
 * transpose; the rows below are solved sixteen and more at a time, laid out as
 * columns t; what is left loses t·tᵀ, tile by tile in registers, with both
 * operands read from t. Nearly all work is in the last step: n³/6
 * multiply-adds, bound by arithmetic. Each element's sum has the same order on
 * any number of threads.
 */
#include "cpu_nn.h"
#include "cpu_row.h"

#include <float.h>

#define PANEL 64 /* columns: t of a few thousand rows stays in the second-level cache */
#define ROWS 6   /* of a tile: its sums fill the registers of every set */
#define COLS                                                                                       \
    (2 * CPU_PART_V) /* of a tile, and rows that are solved at once                                \
                      */
#define SOLVE_GRAIN (16 * COLS)

typedef struct panel {
    float *a; /* [n, n] */
    int64_t n;
    int64_t first, last;   /* its columns */
    float u[PANEL][PANEL]; /* the transpose of its factored square */
    float *t;              /* [PANEL, ld]: row i of a, below the panel, is column i − last; 0
                              behind */
    int64_t ld;
} panel;

/* Factors the square; the order of the first minor that fails, or 0. */
static int64_t factor_square(panel *p)
{
    int64_t width = p->last - p->first;
    for (int64_t i = 0; i < width; i++)
        for (int64_t k = 0; k <= i; k++)
            p->u[k][i] = p->a[(p->first + i) * p->n + p->first + k];
    for (int64_t k = 0; k < width; k++) {
        float *row = p->u[k], top = row[k];
        if (!(top > 0 && top <= FLT_MAX)) /* NaN too */
            return p->first + k + 1;
        float root = sqrtf(top);
        for (int64_t i = k; i < width; i++)
            row[i] /= root;
        row[k] = root;
        for (int64_t r = k + 1; r < width; r++) {
            float *other = p->u[r], by = row[r];
            for (int64_t i = r; i < width; i++)
                other[i] -= by * row[i];
        }
    }
    for (int64_t i = 0; i < width; i++)
        for (int64_t k = 0; k <= i; k++)
            p->a[(p->first + i) * p->n + p->first + k] = p->u[k][i];
    return 0;
}

/* Solves COLS rows, which are columns of t: x_j = (a_j − Σ_k<j x_k·u_kj)/u_jj.
 */
CPU_LOOP void solve_columns(const panel *p, float *t)
{
    int64_t width = p->last - p->first;
    for (int64_t j = 0; j < width; j++) {
        cpu_part_f a, b, x, y;
        memcpy(&a, t + j * p->ld, sizeof a);
        memcpy(&b, t + j * p->ld + CPU_PART_V, sizeof b);
        for (int64_t k = 0; k < j; k++) {
            memcpy(&x, t + k * p->ld, sizeof x);
            memcpy(&y, t + k * p->ld + CPU_PART_V, sizeof y);
            a -= x * p->u[k][j];
            b -= y * p->u[k][j];
        }
        a /= p->u[j][j];
        b /= p->u[j][j];
        memcpy(t + j * p->ld, &a, sizeof a);
        memcpy(t + j * p->ld + CPU_PART_V, &b, sizeof b);
    }
}

/* Rows [first, last) below the panel: to t, solved there, and back. */
static void solve_part(const void *user, int64_t first, int64_t last)
{
    const panel *p = user;
    int64_t width = p->last - p->first, below = p->n - p->last;
    for (int64_t i = first; i < last; i += COLS) {
        int64_t count = cpu_min(COLS, below - i);
        for (int64_t k = 0; k < width; k++)
            for (int64_t r = 0; r < COLS; r++)
                p->t[k * p->ld + i + r] =
                    r < count ? p->a[(p->last + i + r) * p->n + p->first + k] : 0.0f;
        solve_columns(p, p->t + i);
        for (int64_t r = 0; r < count; r++)
            for (int64_t k = 0; k < width; k++)
                p->a[(p->last + i + r) * p->n + p->first + k] = p->t[k * p->ld + i + r];
    }
}

/* A tile of what is left, rows i … and columns j … behind the panel, loses its
 * products. */
CPU_LOOP void update_tile(const panel *p, int64_t i, int64_t j)
{
    int64_t width = p->last - p->first, below = p->n - p->last;
    int64_t rows = cpu_min(ROWS, below - i);
    cpu_part_f sum[ROWS][2];
    for (int r = 0; r < ROWS; r++)
        for (int h = 0; h < 2; h++)
            sum[r][h] = (cpu_part_f){0};
    const float *t = p->t;
    for (int64_t k = 0; k < width; k++, t += p->ld) {
        cpu_part_f left, right; /* one by one: gcc takes an array of them through memory */
        memcpy(&left, t + j, sizeof left);
        memcpy(&right, t + j + CPU_PART_V, sizeof right);
        for (int r = 0; r < ROWS; r++) {
            sum[r][0] += left * t[i + r];
            sum[r][1] += right * t[i + r];
        }
    }
    float *a = p->a + (p->last + i) * p->n + p->last;
    for (int64_t r = 0; r < rows; r++, a += p->n)
        for (int64_t h = 0; h < 2; h++) {
            int64_t at = j + h * CPU_PART_V, left = cpu_min(CPU_PART_V, below - at);
            if (left > 0)
                cpu_part_store(a, PARE_F32, at, left,
                               cpu_part_load(a, PARE_F32, at, left) - sum[r][h]);
        }
}

/* Tile rows, a short one from the top beside a long one from the bottom, so
 * that any part of them is as much work. Above the diagonal a tile writes what
 * nobody reads. */
static void update_part(const void *user, int64_t first, int64_t last)
{
    const panel *p = user;
    int64_t tiles = cpu_ceil_div(p->n - p->last, ROWS);
    for (int64_t k = first; k < last; k++) {
        int64_t i = (k % 2 == 0 ? k / 2 : tiles - 1 - k / 2) * ROWS;
        for (int64_t j = 0; j < cpu_min(i + ROWS, p->n - p->last); j += COLS)
            update_tile(p, i, j);
    }
}

pare_status PARE_CPU(pare_cpu_cholesky)(pare_backend *be, const pare_cholesky_args *args)
{
    int64_t n = args->a.shape[0];
    if (n == 0)
        return PARE_OK;
    panel p = {.a = args->a.data, .n = n, .ld = cpu_ceil_div(n, COLS) * COLS + COLS};
    void *t = NULL;
    PARE_TRY(pare__scratch(be, (size_t)(PANEL * p.ld) * sizeof(float), &t));
    p.t = t;
    for (p.first = 0; p.first < n; p.first = p.last) {
        p.last = cpu_min(p.first + PANEL, n);
        int64_t failed = factor_square(&p);
        PARE_REQUIRE(failed == 0, PARE_ERR_NUMERIC,
                     "cholesky: the matrix [%lld, %lld] is not positive definite: "
                     "its leading "
                     "minor of order %lld fails; add more to its diagonal",
                     (long long)n, (long long)n, (long long)failed);
        cpu_split(be, n - p.last, SOLVE_GRAIN, solve_part, &p);
        cpu_split(be, cpu_ceil_div(n - p.last, ROWS), 8, update_part, &p);
    }
    for (int64_t i = 0; i < n; i++)
        memset(p.a + i * n + i + 1, 0, (size_t)(n - i - 1) * sizeof(float));
    return PARE_OK;
}
