/* cpu_layout.c - a vector to every row, columns copied, matrices transposed: bound by memory. */
#include "cpu_columns.h"

/* ---- add_rows -------------------------------------------------------------------------------- */

typedef struct add_rows {
    const pare_add_rows_args *a;
    const float *v; /* over a period */
    int64_t C, period;
} add_rows;

CPU_INLINE void add_rows_16(const add_rows *s, pare_dtype dtype, int times, int64_t i, int64_t j,
                            int64_t n)
{
    (void)times;
    cpu_v x = cpu_vload_n(s->a->x.data, dtype, i, n, 0);
    cpu_vstore_n(s->a->y.data, dtype, i, n, x + cpu_vload_n(s->v, PARE_F32, j, n, 0));
}

static void add_rows_part(const void *user, int64_t first_row, int64_t last_row)
{
    const add_rows *s = user;
    int64_t first = first_row * s->C, last = last_row * s->C;
    if (s->a->x.dtype == PARE_F32)
        CPU_EACH_PERIOD(1, first, last, s->period, add_rows_16, s, PARE_F32);
    else
        CPU_EACH_PERIOD(1, first, last, s->period, add_rows_16, s, PARE_BF16);
}

pare_status PARE_CPU(pare_cpu_add_rows)(pare_backend *be, const pare_add_rows_args *args)
{
    int64_t C = cpu_cols(&args->x);
    if (C == 0)
        return PARE_OK;
    add_rows s = {.a = args, .C = C, .period = cpu_period(C)};
    void *memory = NULL;
    PARE_TRY(pare__scratch(be, (size_t)s.period * sizeof(float), &memory));
    float *v = memory;
    for (int64_t j = 0; j < C; j++)
        v[j] = cpu_get(args->v.data, args->v.dtype, j);
    cpu_repeat(v, C, s.period);
    s.v = v;
    int64_t rows = s.period / C; /* a part begins with a period */
    cpu_split(be, cpu_rows(&args->x), cpu_ceil_div(16384, s.period) * rows, add_rows_part, &s);
    return PARE_OK;
}

/* ---- copy_cols ------------------------------------------------------------------------------- */

CPU_INLINE void copy_16(const pare_copy_cols_args *a, pare_dtype x, pare_dtype y, int64_t from,
                        int64_t to, int64_t n)
{
    cpu_v v = cpu_vload_n(a->x.data, x, from, n, 0);
    if (a->accumulate)
        v += cpu_vload_n(a->y.data, y, to, n, 0);
    cpu_vstore_n(a->y.data, y, to, n, v);
}

CPU_INLINE void copy_row(const pare_copy_cols_args *a, pare_dtype x, pare_dtype y, int64_t from,
                         int64_t to)
{
    int64_t j = 0;
    for (; j + CPU_V <= a->cols; j += CPU_V)
        copy_16(a, x, y, from + j, to + j, CPU_V);
    if (j < a->cols)
        copy_16(a, x, y, from + j, to + j, a->cols - j);
}

#define COPY_ROWS(x_, y_)                                                                          \
    for (int64_t r = first; r < last; r++)                                                         \
    copy_row(a, PARE_##x_, PARE_##y_, r *x_step + a->x_first, r * y_step + a->y_first)

static void copy_cols_part(const void *user, int64_t first, int64_t last)
{
    const pare_copy_cols_args *a = user;
    int64_t y_step = cpu_cols(&a->y), x_step = cpu_rows(&a->x) == 1 ? 0 : cpu_cols(&a->x);
    bool from_wide = a->x.dtype == PARE_F32, to_wide = a->y.dtype == PARE_F32;
    if (from_wide && to_wide)
        COPY_ROWS(F32, F32);
    else if (from_wide)
        COPY_ROWS(F32, BF16);
    else if (to_wide)
        COPY_ROWS(BF16, F32);
    else
        COPY_ROWS(BF16, BF16);
}

pare_status PARE_CPU(pare_cpu_copy_cols)(pare_backend *be, const pare_copy_cols_args *args)
{
    if (args->cols > 0)
        cpu_split(be, cpu_rows(&args->y), cpu_ceil_div(16384, args->cols), copy_cols_part, args);
    return PARE_OK;
}

/* ---- transpose ------------------------------------------------------------------------------- */

/* Columns of x that one task turns, row by row: sixteen rows of y at once are as many as the first
 * cache holds where they are a power of two apart. */
#define STRIPE CPU_V

/* The block of x, `rows` × `cols` ≤ 16 × 16 from element `from` on, turned, to y from `to` on. */
CPU_INLINE void turn(const pare_transpose_args *a, pare_dtype dtype, int64_t from, int64_t to,
                     int64_t rows, int64_t cols)
{
    int64_t M = a->x.shape[1], N = a->x.shape[2];
    float in[CPU_V][CPU_V], out[CPU_V][CPU_V];
    for (int64_t i = 0; i < rows; i++)
        cpu_vstore(in[i], PARE_F32, 0, cpu_vload_n(a->x.data, dtype, from + i * N, cols, 0));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < CPU_V; j++)
            out[j][i] = in[i][j];
    for (int64_t j = 0; j < cols; j++) {
        cpu_v v = cpu_vload_n(out[j], PARE_F32, 0, rows, 0);
        if (a->accumulate)
            v += cpu_vload_n(a->y.data, dtype, to + j * M, rows, 0);
        cpu_vstore_n(a->y.data, dtype, to + j * M, rows, v);
    }
}

CPU_INLINE void turn_stripe(const pare_transpose_args *a, pare_dtype dtype, int64_t stripe)
{
    int64_t M = a->x.shape[1], N = a->x.shape[2], stripes = cpu_ceil_div(N, STRIPE);
    int64_t j = stripe % stripes * STRIPE, cols = cpu_min(STRIPE, N - j), i = 0;
    int64_t from = stripe / stripes * M * N + j, to = stripe / stripes * M * N + j * M;
    if (cols == STRIPE)
        for (; i + CPU_V <= M; i += CPU_V)
            turn(a, dtype, from + i * N, to + i, CPU_V, STRIPE);
    for (; i < M; i += CPU_V)
        turn(a, dtype, from + i * N, to + i, cpu_min(CPU_V, M - i), cols);
}

static void transpose_part(const void *user, int64_t first, int64_t last)
{
    const pare_transpose_args *a = user;
    for (int64_t s = first; s < last; s++)
        if (a->x.dtype == PARE_F32)
            turn_stripe(a, PARE_F32, s);
        else
            turn_stripe(a, PARE_BF16, s);
}

pare_status PARE_CPU(pare_cpu_transpose)(pare_backend *be, const pare_transpose_args *args)
{
    int64_t B = args->x.shape[0], M = args->x.shape[1], N = args->x.shape[2];
    if (M > 0)
        cpu_split(be, B * cpu_ceil_div(N, STRIPE), cpu_ceil_div(16384, M * STRIPE), transpose_part,
                  args);
    return PARE_OK;
}
