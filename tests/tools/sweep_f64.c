/* sweep_f64.c - the column sweep in double precision: the CPU's own (src/cpu/cpu_sweep.h), in a
 * driver as plain as can be, for tests/e2e/test_sweep.py to hold beside the papers in numpy.
 *
 *   pare_sweep_f64 W.npy GRAM.npy OUT.npy SCHEME PATTERN [keep]
 *
 * W is F32 [R, C], GRAM F64 [C, C]. SCHEME is as in --scheme, or none; PATTERN a share, N:M, or
 * none; keep: zeros stay. OUT is F32 [2·R, C]: the weights, then their codes. Damping is a
 * hundredth of the mean diagonal; scales are not rounded.
 */
#define PARE_ISA test
#define sweep_real double
#define sweep_bits int64_t
#define SWEEP_RINT 0x1.8p52
#include "cpu/cpu_sweep.h"

#include "pare/array.h"

#include <math.h>
#include <stdio.h>

#define PANEL PARE_OBS_PANEL
#define DAMPING 0.01

typedef struct problem {
    int64_t R, C;
    double *w;            /* [R, C] */
    double *u;            /* [C, C] the Gram matrix, then the factor */
    float *codes;         /* [R, C] */
    bool *live;           /* [R, C] */
    bool *chosen;         /* [R, C]: by `share` */
    double *scale, *zero; /* [R, groups] */
    pare_scheme scheme;
    int64_t group;
    double share;
    int n, m;
} problem;

static void *take(int64_t count, size_t size)
{
    void *memory = calloc((size_t)count + 1, size);
    if (!memory)
        exit(1);
    return memory;
}

static void check(pare_status status)
{
    if (status == PARE_OK)
        return;
    fprintf(stderr, "%s\n", pare_last_error());
    exit(1);
}

/* ---- the factor ------------------------------------------------------------------------------ */

/* l [n, n], symmetric, becomes its lower Cholesky factor, and that its inverse. */
static void invert_factor(double *l, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = l[i * n + j];
            for (int64_t k = 0; k < j; k++)
                sum -= l[i * n + k] * l[j * n + k];
            l[i * n + j] = i == j ? sqrt(sum) : sum / l[j * n + j];
        }
    double *row = take(n, sizeof *row);
    for (int64_t i = 0; i < n; i++) {
        memset(row, 0, (size_t)n * sizeof *row);
        for (int64_t k = 0; k < i; k++)
            for (int64_t j = 0; j <= k; j++)
                row[j] -= l[i * n + k] * l[k * n + j];
        for (int64_t j = 0; j < i; j++)
            l[i * n + j] = row[j] / l[i * n + i];
        l[i * n + i] = 1.0 / l[i * n + i];
    }
    free(row);
}

/* The Gram matrix in p->u becomes U, upper triangular, UᵀU = (G + damping)⁻¹. */
static void factor(problem *p)
{
    int64_t n = p->C;
    double mean = 0, *l = take(n * n, sizeof *l);
    for (int64_t i = 0; i < n; i++)
        mean += p->u[i * (n + 1)] / (double)n;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            l[i * n + j] = p->u[(n - 1 - i) * n + n - 1 - j] + (i == j ? DAMPING * mean : 0.0);
    invert_factor(l, n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            p->u[i * n + j] = i <= j ? l[(n - 1 - i) * n + n - 1 - j] : 0.0;
    free(l);
}

/* ---- a panel --------------------------------------------------------------------------------- */

/* Scale and zero point of the group that begins at column c of row r. */
static void find_scale(problem *p, int64_t r, int64_t c)
{
    double lo = 0, hi = 0, levels = ldexp(1.0, p->scheme.bits) - 1.0, least = -(levels + 1.0) / 2;
    int64_t at = r * cpu_ceil_div(p->C, p->group) + c / p->group;
    for (int64_t j = c; j < cpu_min(p->C, c + p->group); j++) {
        double w = p->live[r * p->C + j] ? p->w[r * p->C + j] : 0.0;
        lo = fmin(lo, w);
        hi = fmax(hi, w);
    }
    double s = p->scheme.asymmetric ? (hi - lo) / levels : fmax(-lo, hi) / (levels / 2);
    p->scale[at] = s == 0 ? 1.0 : s;
    if (p->scheme.asymmetric)
        p->zero[at] = fmin(fmax(rint(least - lo / p->scale[at]), least), -least - 1.0);
}

typedef struct scored {
    double score;
    int64_t at;
} scored;

static int by_score(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

/* The share of the panel's weights that has the least (w/u)². */
static void choose(problem *p, int64_t first, int64_t N)
{
    scored *all = take(p->R * N, sizeof *all);
    int64_t k = (int64_t)rint(p->share * (double)(p->R * N));
    for (int64_t i = 0; i < p->R * N; i++) {
        int64_t c = first + i % N, at = i / N * p->C + c;
        double x = p->live[at] ? p->w[at] / p->u[c * (p->C + 1)] : 0.0;
        all[i] = (scored){x * x, i};
    }
    qsort(all, (size_t)(p->R * N), sizeof *all, by_score);
    for (int64_t i = 0; i < p->R * N; i++)
        p->chosen[all[i].at / N * p->C + first + all[i].at % N] = i >= k;
    free(all);
}

static void read_tile(const problem *p, int64_t first, int64_t N, int64_t row, sweep_tile *t)
{
    int64_t groups = cpu_ceil_div(p->C, p->group);
    memset(t, 0, sizeof *t);
    for (int64_t c = 0; c < N; c++)
        for (int64_t r = 0; r < SWEEP_ROWS; r++) {
            int64_t at = (row + r) * p->C + first + c;
            bool there = row + r < p->R;
            t->scale[c][r] = 1.0; /* a group has a scale in each of its columns */
            if (!there)
                continue;
            int64_t group = (row + r) * groups + (first + c) / p->group;
            t->w[c][r] = p->w[at];
            t->live[c] |= (uint32_t)p->live[at] << r;
            t->keep[c] |= (uint32_t)p->chosen[at] << r;
            t->scale[c][r] = p->scale[group];
            t->zero[c][r] = p->zero[group];
        }
}

static void sweep_panel_at(problem *p, int64_t first, int64_t N)
{
    double *u = take(N * N, sizeof *u);
    sweep_tile *t = take(1, sizeof *t);
    for (int64_t i = 0; i < N; i++)
        memcpy(u + i * N, p->u + (first + i) * p->C + first, (size_t)N * sizeof *u);
    const sweep_panel panel = {
        .cols = N, .u = u, .n = p->n, .m = p->m, .scheme = p->scheme, .block_cols = 1};
    for (int64_t row = 0; row < p->R; row += SWEEP_ROWS) {
        read_tile(p, first, N, row, t);
        sweep_tile_run(&panel, t);
        for (int64_t r = 0; r < cpu_min(SWEEP_ROWS, p->R - row); r++) {
            double *w = p->w + (row + r) * p->C + first;
            for (int64_t c = 0; c < N; c++) {
                w[c] = t->w[c][r];
                p->codes[(row + r) * p->C + first + c] = (float)t->codes[c][r];
                for (int64_t j = N; first + j < p->C; j++)
                    w[j] -= t->err[c][r] * p->u[(first + c) * p->C + first + j];
            }
        }
    }
    free(u);
    free(t);
}

static void sweep(problem *p)
{
    for (int64_t first = 0; first < p->C; first += PANEL) {
        int64_t N = cpu_min(PANEL, p->C - first);
        for (int64_t i = 0; i < p->R * N; i++) {
            int64_t at = i / N * p->C + first + i % N;
            p->w[at] = p->live[at] ? p->w[at] : 0.0;
        }
        for (int64_t c = first; c < first + N && p->scheme.type != PARE_QUANT_NONE; c++)
            for (int64_t r = 0; c % p->group == 0 && r < p->R; r++)
                find_scale(p, r, c);
        if (p->share > 0)
            choose(p, first, N);
        sweep_panel_at(p, first, N);
    }
}

/* ---- files ----------------------------------------------------------------------------------- */

static void *read_array(const char *path, pare_dtype dtype, int64_t *rows, int64_t *cols)
{
    pare_array *array = NULL;
    check(pare_array_open(path, NULL, &array));
    const pare_tensor *t = pare_array_tensor(array);
    if (t->dtype != dtype || t->rank != 2)
        exit(2);
    *rows = t->shape[0];
    *cols = t->shape[1];
    void *values = take(*rows * *cols, (size_t)pare_dtype_bits(dtype) / 8);
    check(pare_array_read(array, 0, *rows * *cols, values));
    pare_array_close(&array);
    return values;
}

static void read_problem(problem *p, char **argv)
{
    float *w = read_array(argv[1], PARE_F32, &p->R, &p->C);
    p->u = read_array(argv[2], PARE_F64, &p->C, &p->C);
    int64_t count = p->R * p->C;
    p->w = take(count, sizeof *p->w);
    p->codes = take(count, sizeof *p->codes);
    p->live = take(count, sizeof *p->live);
    p->chosen = take(count, sizeof *p->chosen);
    for (int64_t i = 0; i < count; i++) {
        p->w[i] = (double)w[i];
        p->live[i] = !argv[6] || w[i] != 0.0f;
        p->chosen[i] = true;
    }
    free(w);
    if (strcmp(argv[4], "none") != 0)
        check(pare_scheme_parse(argv[4], &p->scheme));
    p->group = p->scheme.block_cols > 0 ? p->scheme.block_cols : p->C;
    p->scale = take(count, sizeof *p->scale);
    p->zero = take(count, sizeof *p->zero);
    if (sscanf(argv[5], "%d:%d", &p->n, &p->m) != 2) {
        p->n = p->m = 0;
        p->share = strtod(argv[5], NULL);
    }
}

static void write_result(const problem *p, const char *path)
{
    pare_npy_writer *file = NULL;
    float *w = take(p->R * p->C, sizeof *w);
    for (int64_t i = 0; i < p->R * p->C; i++)
        w[i] = (float)p->w[i];
    check(pare_npy_create(path, 2 * p->R, p->C, true, &file));
    check(pare_npy_add(file, w, p->R));
    check(pare_npy_add(file, p->codes, p->R));
    check(pare_npy_finish(file));
    pare_npy_free(&file);
    free(w);
}

int main(int argc, char **argv)
{
    problem p = {0};
    if (argc < 6) {
        fprintf(stderr, "usage: pare_sweep_f64 W.npy GRAM.npy OUT.npy SCHEME PATTERN [keep]\n");
        return 2;
    }
    read_problem(&p, argv);
    factor(&p);
    sweep(&p);
    write_result(&p, argv[3]);
    free(p.w);
    free(p.u);
    free(p.codes);
    free(p.live);
    free(p.chosen);
    free(p.scale);
    free(p.zero);
    return 0;
}
