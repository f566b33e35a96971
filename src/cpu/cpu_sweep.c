/* cpu_sweep.c - the column sweep within a panel, and the scores that a choice for a whole panel is
 * made by.
 *
 * Tiles of rows are transposed, swept (cpu_sweep.h) and transposed back. Bound by arithmetic, N²/2
 * products and differences a row of N columns; transposing costs about as much.
 */
#define sweep_real float
#define sweep_bits int32_t
#define SWEEP_RINT CPU_RINT
#include "cpu_sweep.h"

#include "cpu_bits.h"

/* ---- obs_block ------------------------------------------------------------------------------- */

typedef struct block_job {
    const pare_obs_block_args *args;
    sweep_panel panel;
} block_job;

/* The bits of rows [first, first + rows) of a mask as words of one column. Without a mask all are
 * set. */
static void read_bits(const pare_tensor *mask, int64_t first, int64_t rows, int64_t cols,
                      uint32_t *word)
{
    if (!mask->data) {
        memset(word, 0xff, (size_t)cols * sizeof *word);
        return;
    }
    int64_t bytes = cpu_min(mask->shape[1], PARE_OBS_PANEL / 8);
    const uint8_t *from = (const uint8_t *)mask->data + first * bytes;
    uint8_t flag[PARE_OBS_PANEL];
    memset(word, 0, (size_t)cols * sizeof *word);
    for (int64_t r = 0; r < rows; r++, from += bytes) {
        cpu_flags_from_bits(from, flag, bytes);
        for (int64_t c = 0; c < cols; c++)
            word[c] |= (uint32_t)flag[c] << r;
    }
}

static void write_bits(const pare_tensor *mask, int64_t first, int64_t rows, int64_t cols,
                       const uint32_t *word)
{
    int64_t bytes = cpu_min(mask->shape[1], PARE_OBS_PANEL / 8);
    uint8_t *to = (uint8_t *)mask->data + first * bytes, flag[PARE_OBS_PANEL] = {0};
    for (int64_t r = 0; r < rows; r++, to += bytes) {
        for (int64_t c = 0; c < cols; c++)
            flag[c] = (uint8_t)(word[c] >> r & 1u);
        cpu_bits_from_flags(flag, to, bytes);
    }
}

/* Scales and zero points of the tile's rows, a column of blocks at a time. */
static void read_scales(const pare_obs_block_args *a, int64_t first, int64_t rows, sweep_tile *t)
{
    int64_t across = a->scale.shape[1];
    const float *scale = a->scale.data;
    const int8_t *zero = a->zero.data;
    for (int64_t b = 0; b < across; b++)
        for (int64_t r = 0; r < SWEEP_ROWS; r++) {
            int64_t at = (first + r) / a->block_rows * across + b;
            t->scale[b][r] = r < rows ? scale[at] : 1.0f;
            t->zero[b][r] = r < rows && zero ? (float)zero[at] : 0.0f;
        }
}

static void read_tile(const pare_obs_block_args *a, int64_t first, int64_t rows, sweep_tile *t)
{
    int64_t N = a->w.shape[1];
    for (int64_t r = 0; r < SWEEP_ROWS; r++) {
        const float *w = (const float *)a->w.data + (first + r) * N;
        if (r < rows)
            for (int64_t c = 0; c < N; c++)
                t->w[c][r] = w[c];
        else
            for (int64_t c = 0; c < N; c++)
                t->w[c][r] = 0.0f;
        t->loss[r] = r < rows ? ((const double *)a->loss.data)[first + r] : 0.0;
    }
    read_bits(&a->frozen, first, rows, N, t->live);
    read_bits(&a->mask, first, rows, N, t->keep);
    if (a->scheme.type != PARE_QUANT_NONE)
        read_scales(a, first, rows, t);
}

static void write_tile(const pare_obs_block_args *a, int64_t first, int64_t rows,
                       const sweep_tile *t)
{
    int64_t N = a->w.shape[1];
    for (int64_t r = 0; r < rows; r++) {
        float *w = (float *)a->w.data + (first + r) * N, *err = a->err.data;
        err += (first + r) * N;
        for (int64_t c = 0; c < N; c++) {
            w[c] = t->w[c][r];
            err[c] = t->err[c][r];
        }
        ((double *)a->loss.data)[first + r] = t->loss[r];
    }
    if (a->m > 0)
        write_bits(&a->mask, first, rows, N, t->keep);
    if (a->scheme.type == PARE_QUANT_NONE)
        return;
    for (int64_t r = 0; r < rows; r++) {
        int8_t *codes = (int8_t *)a->codes.data + (first + r) * N;
        for (int64_t c = 0; c < N; c++)
            codes[c] = t->codes[c][r];
    }
}

static void block_part(const void *user, int64_t first, int64_t last)
{
    const block_job *job = user;
    sweep_tile tile;
    for (int64_t r = first; r < last; r += SWEEP_ROWS) {
        int64_t rows = cpu_min(SWEEP_ROWS, last - r);
        read_tile(job->args, r, rows, &tile);
        sweep_tile_run(&job->panel, &tile);
        write_tile(job->args, r, rows, &tile);
    }
}

pare_status PARE_CPU(pare_cpu_obs_block)(pare_backend *be, const pare_obs_block_args *args)
{
    int64_t R = args->w.shape[0], N = args->w.shape[1], C = args->u.shape[0];
    if (R * N == 0)
        return PARE_OK;
    float *u = NULL;
    const float *from = (const float *)args->u.data + args->first * C + args->first;
    PARE_TRY(pare__scratch(be, (size_t)(N * N) * sizeof *u, (void **)&u));
    for (int64_t c = 0; c < N; c++)
        memcpy(u + c * N + c, from + c * C + c, (size_t)(N - c) * sizeof *u);
    block_job job = {.args = args,
                     .panel = {.cols = N,
                               .u = u,
                               .n = args->n,
                               .m = args->m,
                               .scheme = args->scheme,
                               .block_cols = args->block_cols}};
    cpu_split(be, R, SWEEP_ROWS, block_part, &job);
    return PARE_OK;
}

/* ---- keys_obs -------------------------------------------------------------------------------- */

#define KEYS_TILE 512 /* columns; a multiple of 8 */

/* Columns [at, at + n) of row r. */
static void keys_tile(const pare_keys_obs_args *a, int64_t r, int64_t at, int64_t n, const float *d)
{
    int64_t N = a->w.shape[1];
    const float *w = (const float *)a->w.data + r * N + at;
    uint32_t *keys = (uint32_t *)a->keys.data + r * N + at;
    uint8_t flag[KEYS_TILE];
    for (int64_t c = 0; c < n; c++) {
        float x = w[c] / d[c];
        keys[c] = pare__f32_bits(x * x) & CPU_KEY_MASK;
    }
    if (!a->frozen.data)
        return;
    const uint8_t *bits = (const uint8_t *)a->frozen.data + r * a->frozen.shape[1] + at / 8;
    cpu_flags_from_bits(bits, flag, cpu_ceil_div(n, 8));
    for (int64_t c = 0; c < n; c++)
        keys[c] = flag[c] ? keys[c] : 0;
}

static void keys_part(const void *user, int64_t first, int64_t last)
{
    const pare_keys_obs_args *a = user;
    int64_t N = a->w.shape[1], C = a->u.shape[0];
    const float *u = (const float *)a->u.data + a->first * C + a->first;
    float d[KEYS_TILE];
    for (int64_t at = 0; at < N; at += KEYS_TILE) {
        int64_t n = cpu_min(KEYS_TILE, N - at);
        for (int64_t c = 0; c < n; c++)
            d[c] = u[(at + c) * (C + 1)];
        for (int64_t r = first; r < last; r++)
            keys_tile(a, r, at, n, d);
    }
}

pare_status PARE_CPU(pare_cpu_keys_obs)(pare_backend *be, const pare_keys_obs_args *args)
{
    cpu_split(be, args->w.shape[0], 16, keys_part, args);
    return PARE_OK;
}
