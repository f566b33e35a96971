/* cuda_permute.cu - rows and columns in another order; diagonals.
 *
 *   permute   y[i, j] = x[rows[i], cols[j]]
 *   diagonal  d[i] = a[i, i], or back
 *
 * A block has a tile of TILE × TILE of y. The lanes of a warp take neighbouring columns, whose
 * sources lie in one row of x. Of a symmetric x with one triangle the source of some lies in the
 * mirror image, where a row of x has the neighbouring rows of y: these are read with the lanes
 * along the rows, and meet the others in shared memory.
 *
 * Bound by memory: 8 bytes an element (F32). Orders without neighbours, as those of act-order, read
 * a sector of 32 bytes for 4: a row of x has 16 KiB and stays in the first-level cache, a column
 * does not. Predicted for [4096, 4096] F32: 35 µs reversed, 150 µs in any order; no GPU has
 * measured it yet.
 */
#include "cuda_common.cuh"

#define TILE 32
#define TILE_ROWS 8 /* of threads */

struct permute_job {
    int64_t R, C;                         /* of x */
    int64_t rows, cols;                   /* of y */
    const int32_t *row_order, *col_order; /* or NULL */
    int64_t across;                       /* tiles side by side */
};

static __device__ __forceinline__ int64_t source(const int32_t *order, int64_t i, int64_t bound)
{
    int64_t at = order ? order[i] : i;
    return at >= 0 && at < bound ? at : 0;
}

template <typename T>
static __global__ void __launch_bounds__(TILE *TILE_ROWS) k_permute(permute_job j, const T *x, T *y)
{
    int64_t down = blockIdx.x / j.across, tile = blockIdx.x - down * j.across;
    int64_t col = tile * TILE + threadIdx.x % TILE;
    if (col >= j.cols)
        return;
    int64_t from = source(j.col_order, col, j.C);
    for (int t = threadIdx.x / TILE; t < TILE; t += TILE_ROWS) {
        int64_t row = down * TILE + t;
        if (row < j.rows)
            y[row * j.cols + col] = x[source(j.row_order, row, j.R) * j.C + from];
    }
}

/* x is symmetric, [R, R], with its lower triangle. */
template <typename T>
static __global__ void __launch_bounds__(TILE *TILE_ROWS)
    k_permute_lower(permute_job j, const T *x, T *y)
{
    PARE_SHARED_ARRAY(T, mirrored, TILE * (TILE + 1));
    int64_t down = blockIdx.x / j.across, tile = blockIdx.x - down * j.across;
    int64_t first_row = down * TILE, first_col = tile * TILE;
    int lane = threadIdx.x % TILE, at = threadIdx.x / TILE;
    for (int t = at; t < TILE; t += TILE_ROWS) { /* lanes along the rows of y */
        int64_t row = first_row + lane, col = first_col + t;
        if (row < j.rows && col < j.cols) {
            int64_t a = source(j.row_order, row, j.R), b = source(j.col_order, col, j.C);
            if (a < b)
                mirrored[lane * (TILE + 1) + t] = x[b * j.C + a];
        }
    }
    __syncthreads();
    for (int t = at; t < TILE; t += TILE_ROWS) {
        int64_t row = first_row + t, col = first_col + lane;
        if (row < j.rows && col < j.cols) {
            int64_t a = source(j.row_order, row, j.R), b = source(j.col_order, col, j.C);
            y[row * j.cols + col] = a < b ? mirrored[t * (TILE + 1) + lane] : x[a * j.C + b];
        }
    }
}

template <typename T> static pare_status permute_as(pare_backend *be, const pare_permute_args *a)
{
    permute_job j = {a->x.shape[0],
                     a->x.shape[1],
                     a->y.shape[0],
                     a->y.shape[1],
                     (const int32_t *)a->rows.data,
                     (const int32_t *)a->cols.data,
                     pare__blocks(a->y.shape[1], TILE)};
    int64_t blocks = j.across * pare__blocks(j.rows, TILE);
    const T *x = (const T *)a->x.data;
    T *y = (T *)a->y.data;
    if (a->lower)
        PARE_LAUNCH(be, (k_permute_lower<T>), blocks, TILE * TILE_ROWS, 0, j, x, y);
    else
        PARE_LAUNCH(be, (k_permute<T>), blocks, TILE * TILE_ROWS, 0, j, x, y);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_permute(pare_backend *be, const pare_permute_args *args)
{
    if (args->x.dtype == PARE_F32)
        PARE_TRY(permute_as<uint32_t>(be, args));
    else
        PARE_TRY(permute_as<uint8_t>(be, args));
    return PARE_OK;
}

/* ---- diagonal -------------------------------------------------------------------------------- */

#define DIAGONAL_THREADS 256

static __global__ void __launch_bounds__(DIAGONAL_THREADS)
    k_diagonal(float *a, float *d, int64_t n, bool set)
{
    int64_t i = grid_thread();
    if (i >= n)
        return;
    if (set)
        a[i * (n + 1)] = d[i];
    else
        d[i] = a[i * (n + 1)];
}

extern "C" pare_status pare_cuda_diagonal(pare_backend *be, const pare_diagonal_args *args)
{
    int64_t n = args->a.shape[0];
    PARE_LAUNCH(be, k_diagonal, pare__blocks(n, DIAGONAL_THREADS), DIAGONAL_THREADS, 0,
                (float *)args->a.data, (float *)args->d.data, n, args->set);
    return PARE_OK;
}
