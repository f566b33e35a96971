/* cpu_sweep.h - one tile of rows goes through a panel's column sweep (obs_block has the equations).
 *
 * Rows do not know of each other, so SWEEP_ROWS of them lie side by side and every step is done to
 * all at once. A column's error moves the columns of its own stripe right away; those behind the
 * stripe take all its errors in one go, with what they add up in registers. Each weight still takes
 * the errors in the order of the columns, product and difference rounded one by one, so the stripes
 * change no byte, and nor does the instruction set.
 *
 * Whoever includes this says first what a number is: sweep_real, sweep_bits (the signed integer as
 * wide), and SWEEP_RINT, 1.5·2^23 or 2^52, that rounds by being added. The op has floats; a test
 * has doubles, which no rounding tells from the papers.
 */
#ifndef PARE_CPU_SWEEP_H
#define PARE_CPU_SWEEP_H

#include "cpu_lanes.h"
#include "cpu_quant.h"

#include "pare/qtensor.h"

#define SWEEP_ROWS 32   /* of a tile: as many as a word has bits */
#define SWEEP_STRIPE 16 /* columns, or one group of n:m if longer */
#define SWEEP_LANES (CPU_VECTOR / (int)sizeof(sweep_real)) /* numbers in a register */
#define SWEEP_AHEAD 4 /* columns that take a stripe's errors at once */

typedef sweep_real sweep_vector __attribute__((vector_size(CPU_VECTOR)));

/* What all tiles share. */
typedef struct sweep_panel {
    int64_t cols;
    const sweep_real *u; /* [cols, cols] upper triangular */
    int n, m;            /* m 0: no choice */
    pare_scheme scheme;
    int64_t block_cols; /* of the tile's scale and zero */
} sweep_panel;

/* Rows side by side; element r of a row of these arrays is the tile's row r. */
typedef struct sweep_tile {
    sweep_real w[PARE_OBS_PANEL][SWEEP_ROWS], err[PARE_OBS_PANEL][SWEEP_ROWS];
    sweep_real scale[PARE_OBS_PANEL][SWEEP_ROWS], zero[PARE_OBS_PANEL][SWEEP_ROWS]; /* by block */
    uint32_t live[PARE_OBS_PANEL], keep[PARE_OBS_PANEL]; /* not frozen, not masked: bit r */
    int8_t codes[PARE_OBS_PANEL][SWEEP_ROWS];
    double loss[SWEEP_ROWS]; /* added to */
} sweep_tile;

CPU_INLINE sweep_bits sweep_bits_of(sweep_real x)
{
    sweep_bits u;
    memcpy(&u, &x, sizeof u);
    return u;
}

CPU_INLINE sweep_real sweep_where(uint32_t rows, int r, sweep_real x, sweep_real other)
{
    return (rows >> r & 1u) != 0 ? x : other;
}

/* ---- choice ---------------------------------------------------------------------------------- */

/* Of the m columns from c on the m − n of lowest ((w/u)², index) go, in every row. */
static void sweep_choose(const sweep_panel *p, sweep_tile *t, int64_t c)
{
    const sweep_bits half = (sweep_bits)1 << (8 * sizeof(sweep_bits) - 2);
    const sweep_bits order = half - 1 + half; /* all bits but the sign */
    sweep_bits key[PARE_OBS_PANEL][SWEEP_ROWS];
    for (int64_t i = 0; i < p->m; i++) {
        sweep_real d = p->u[(c + i) * p->cols + c + i];
        for (int r = 0; r < SWEEP_ROWS; r++) {
            sweep_real x = sweep_where(t->live[c + i], r, t->w[c + i][r], 0) / d;
            key[i][r] = sweep_bits_of(x * x) & order;
        }
    }
    for (int64_t i = 0; i < p->m; i++) {
        sweep_bits wins[SWEEP_ROWS] = {0};
        uint32_t kept = 0;
        for (int64_t j = 0; j < i; j++) /* of two equals the later one wins */
            for (int r = 0; r < SWEEP_ROWS; r++)
                wins[r] += key[i][r] >= key[j][r];
        for (int64_t j = i + 1; j < p->m; j++)
            for (int r = 0; r < SWEEP_ROWS; r++)
                wins[r] += key[i][r] > key[j][r];
        for (int r = 0; r < SWEEP_ROWS; r++)
            kept |= (uint32_t)(wins[r] >= p->m - p->n) << r;
        t->keep[c + i] &= kept;
    }
}

/* ---- rounding -------------------------------------------------------------------------------- */

/* q and code of x, as quantize and dequantize have them. */
static void sweep_round_int(const sweep_panel *p, const sweep_real *restrict x,
                            const sweep_real *restrict scale, const sweep_real *restrict zero,
                            sweep_real *restrict q, int8_t *restrict code)
{
    const sweep_real half = (sweep_real)(1 << (p->scheme.bits - 1)), lo = -half, hi = half - 1;
    for (int r = 0; r < SWEEP_ROWS; r++) {
        sweep_real v = x[r] / scale[r] + zero[r];
        v = v < lo ? lo : v;
        v = (v > hi ? hi : v) + SWEEP_RINT;
        code[r] = (int8_t)sweep_bits_of(v); /* its low byte is the rounded integer */
        q[r] = (v - SWEEP_RINT - zero[r]) * scale[r];
    }
}

static void sweep_round_e4m3(const sweep_real *restrict x, const sweep_real *restrict scale,
                             sweep_real *restrict q, int8_t *restrict code)
{
    for (int r = 0; r < SWEEP_ROWS; r++) {
        code[r] = (int8_t)pare__f32_to_e4m3((float)(x[r] / scale[r]));
        q[r] = (sweep_real)pare__e4m3_to_f32((uint8_t)code[r]) * scale[r];
    }
}

#define SWEEP_NF4_ZERO 7 /* the code of 0 */

static void sweep_round_nf4(const sweep_real *restrict x, const sweep_real *restrict scale,
                            sweep_real *restrict q, int8_t *restrict code)
{
    float v[SWEEP_ROWS];
    int32_t below[SWEEP_ROWS] = {0};
    for (int r = 0; r < SWEEP_ROWS; r++)
        v[r] = (float)(x[r] / scale[r]);
    for (int j = 0; j < 15; j++)
        for (int r = 0; r < SWEEP_ROWS; r++)
            below[r] += (cpu_nf4[j] + cpu_nf4[j + 1]) * 0.5f < v[r];
    for (int r = 0; r < SWEEP_ROWS; r++) {
        code[r] = (int8_t)below[r];
        q[r] = (sweep_real)cpu_nf4[below[r]] * scale[r];
    }
}

/* The tile's column c: x becomes q. */
static void sweep_round(const sweep_panel *p, sweep_tile *t, int64_t c, const sweep_real *x,
                        sweep_real *q)
{
    const sweep_real *scale = t->scale[c / p->block_cols], *zero = t->zero[c / p->block_cols];
    int8_t *code = t->codes[c];
    if (p->scheme.type == PARE_QUANT_INT)
        sweep_round_int(p, x, scale, zero, q, code);
    else if (p->scheme.type == PARE_QUANT_E4M3)
        sweep_round_e4m3(x, scale, q, code);
    else
        sweep_round_nf4(x, scale, q, code);
    int8_t nothing = p->scheme.type == PARE_QUANT_NF4 ? SWEEP_NF4_ZERO : 0;
    uint32_t keep = t->keep[c] & t->live[c];
    if (keep == UINT32_MAX)
        return;
    for (int r = 0; r < SWEEP_ROWS; r++)
        code[r] = keep >> r & 1u ? code[r] : (int8_t)(nothing + (int8_t)zero[r]);
}

/* ---- sweep ----------------------------------------------------------------------------------- */

static void sweep_column(const sweep_panel *p, sweep_tile *t, int64_t c)
{
    const sweep_real d = p->u[c * p->cols + c];
    const uint32_t live = t->live[c], keep = t->keep[c] & live;
    sweep_real x[SWEEP_ROWS], q[SWEEP_ROWS], *w = t->w[c], *err = t->err[c];
    for (int r = 0; r < SWEEP_ROWS; r++)
        q[r] = x[r] = sweep_where(live, r, w[r], 0);
    if (p->scheme.type != PARE_QUANT_NONE)
        sweep_round(p, t, c, x, q);
    for (int r = 0; r < SWEEP_ROWS; r++) {
        w[r] = sweep_where(keep, r, q[r], 0);
        err[r] = (x[r] - w[r]) / d;
        t->loss[r] += (double)err[r] * (double)err[r];
    }
}

/* Columns j … j + count − 1 take the errors of the columns [first, last). */
CPU_INLINE void sweep_move(const sweep_panel *p, sweep_tile *t, int64_t first, int64_t last,
                           int64_t j, int count)
{
    for (int r = 0; r < SWEEP_ROWS; r += 2 * SWEEP_LANES) {
        sweep_vector w[SWEEP_AHEAD][2], left, right;
        for (int k = 0; k < count; k++)
            for (int h = 0; h < 2; h++)
                memcpy(&w[k][h], &t->w[j + k][r + h * SWEEP_LANES], sizeof w[k][h]);
        for (int64_t c = first; c < last; c++) {
            const sweep_real *u = p->u + c * p->cols + j;
            memcpy(&left, &t->err[c][r], sizeof left);
            memcpy(&right, &t->err[c][r + SWEEP_LANES], sizeof right);
            for (int k = 0; k < count; k++) {
                w[k][0] -= left * u[k];
                w[k][1] -= right * u[k];
            }
        }
        for (int k = 0; k < count; k++)
            for (int h = 0; h < 2; h++)
                memcpy(&t->w[j + k][r + h * SWEEP_LANES], &w[k][h], sizeof w[k][h]);
    }
}

static void sweep_move_behind(const sweep_panel *p, sweep_tile *t, int64_t first, int64_t last)
{
    int64_t j = last;
    for (; j + SWEEP_AHEAD <= p->cols; j += SWEEP_AHEAD)
        sweep_move(p, t, first, last, j, SWEEP_AHEAD);
    for (; j < p->cols; j++)
        sweep_move(p, t, first, last, j, 1);
}

static void sweep_tile_run(const sweep_panel *p, sweep_tile *t)
{
    int64_t stripe = p->m > 1 ? cpu_ceil_div(SWEEP_STRIPE, p->m) * p->m : SWEEP_STRIPE;
    for (int64_t first = 0, last; first < p->cols; first = last) {
        last = cpu_min(p->cols, first + stripe);
        for (int64_t c = first; c < last; c++) {
            if (p->m > 0 && c % p->m == 0 && c + p->m <= p->cols)
                sweep_choose(p, t, c);
            sweep_column(p, t, c);
            for (int64_t j = c + 1; j < last; j++)
                sweep_move(p, t, c, c + 1, j, 1);
        }
        sweep_move_behind(p, t, first, last);
    }
}

#endif
