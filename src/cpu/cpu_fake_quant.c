/* cpu_fake_quant.c - rounding that training looks through, and its gradients.
 *
 *   y = s·clamp(rint(x/s), lo, hi)
 *   dx = dy inside the range, else 0;   ds = Σ dy·(rint(x/s) − x/s inside, lo below, hi above)
 *
 * A row is done in tiles for which the step of every element is laid out first, 0 standing for one
 * that does not round; all branches are masks of bits, so one loop serves every width of block.
 * Quotients are true ones: what training saw is what is written. Sums over a block are f64 lane
 * sums of pieces of rows, piece by piece, so they do not depend on the threads. Bound by memory,
 * with one thread by the quotient.
 */
#include "cpu_lanes.h"

#define TILE 512
#define ROOM (TILE + CPU_LANES) /* laying out writes whole vectors */
#define PIECE 64                /* rows of a block that one thread sums */

/* The step, or 0 where it is none. */
CPU_INLINE float sound_step(float s)
{
    return s > 0 && s < __builtin_inff() ? s : 0.0f;
}

/* out[i] = the step of column at + i for the columns [at, at + n) of a row. */
static void spread_steps(const float *restrict step, int64_t block_cols, int64_t at, int64_t n,
                         float *restrict out)
{
    const float *from = step + at / block_cols;
    int64_t run = block_cols - at % block_cols;
    for (int64_t i = 0; i < n; from++, run = block_cols) {
        float s = sound_step(*from);
        int64_t end = cpu_min(n, i + cpu_min(run, n));
        for (int64_t j = i; j < end; j += CPU_LANES)
            for (int l = 0; l < CPU_LANES; l++)
                out[j + l] = s;
        i = end;
    }
}

/* All bits set, or none. */
CPU_INLINE uint32_t bits_if(bool holds)
{
    return 0u - (uint32_t)holds;
}

/* Where an element counts: it has a step, and is not masked. */
CPU_INLINE uint32_t counts(float s, const uint8_t *mask, int64_t i)
{
    return mask ? bits_if(s > 0) & bits_if(mask[i] != 0) : bits_if(s > 0);
}

CPU_INLINE float pick(uint32_t where, float x)
{
    return pare__bits_f32(pare__f32_bits(x) & where);
}

/* ---- forward --------------------------------------------------------------------------------- */

CPU_INLINE void round_elements(const float *restrict x, const float *restrict step,
                               const uint8_t *restrict mask, float lo, float hi, float *restrict y,
                               int8_t *restrict codes, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float s = step[i], t = x[i] / s;
        uint32_t keep = counts(s, mask, i);
        t = t < lo ? lo : t;
        t = t > hi ? hi : t;
        float shifted = t + CPU_RINT; /* its low byte is the integer; a NaN stays, with code 0 */
        y[i] = pick(keep, s * (shifted - CPU_RINT));
        codes[i] = (int8_t)(pare__f32_bits(shifted) & keep & bits_if(t == t));
    }
}

static void round_tile(const float *x, const float *step, const uint8_t *mask, float lo, float hi,
                       float *y, int8_t *codes, int64_t n)
{
    if (mask)
        round_elements(x, step, mask, lo, hi, y, codes, n);
    else
        round_elements(x, step, NULL, lo, hi, y, codes, n);
}

static void forward_part(const void *user, int64_t first, int64_t last)
{
    const pare_fake_quant_args *a = user;
    int64_t C = a->x.shape[1], across = a->step.shape[1];
    int64_t size = pare_dtype_bits(a->x.dtype) / 8;
    const uint8_t *mask = a->mask.data;
    for (int64_t r = first; r < last; r++)
        for (int64_t at = 0; at < C; at += TILE) {
            float room[TILE], step[ROOM], y[TILE];
            int8_t codes[TILE];
            int64_t n = cpu_min(TILE, C - at), i = r * C + at;
            const float *row = (const float *)a->step.data + r / a->block_rows * across;
            spread_steps(row, a->block_cols, at, n, step);
            round_tile(PARE_CPU(pare__cpu_widen)(&a->x, i, n, room), step, mask ? mask + i : NULL,
                       (float)a->lo, (float)a->hi, y, codes, n);
            PARE_CPU(pare__cpu_narrow)(y, a->y.dtype, (uint8_t *)a->y.data + i * size, n);
            if (a->codes.data)
                memcpy((int8_t *)a->codes.data + i, codes, (size_t)n);
        }
}

static int64_t grain_of(int64_t C)
{
    return C >= 16384 ? 1 : 16384 / (C > 0 ? C : 1);
}

pare_status PARE_CPU(pare_cpu_fake_quant)(pare_backend *be, const pare_fake_quant_args *args)
{
    int64_t C = args->x.shape[1];
    cpu_split(be, args->x.shape[0], grain_of(C), forward_part, args);
    return PARE_OK;
}

/* ---- gradients ------------------------------------------------------------------------------- */

CPU_INLINE void grad_elements(const float *restrict x, const float *restrict step,
                              const uint8_t *restrict mask, float lo, float hi,
                              const float *restrict dy, float *restrict dx, float *restrict term,
                              int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float s = step[i], t = x[i] / s, g = dy[i];
        uint32_t keep = counts(s, mask, i);
        uint32_t below = bits_if(t < lo), above = bits_if(t > hi);
        uint32_t inside = ~(below | above) & bits_if(t == t);
        float off = t + CPU_RINT - CPU_RINT - t;
        uint32_t slope = (pare__f32_bits(off) & inside) | (pare__f32_bits(lo) & below) |
                         (pare__f32_bits(hi) & above);
        dx[i] = pick(keep & inside, g);
        term[i] = pick(keep & (inside | below | above), g * pare__bits_f32(slope));
    }
}

static void grad_tile(const float *x, const float *step, const uint8_t *mask, float lo, float hi,
                      const float *dy, float *dx, float *term, int64_t n)
{
    if (mask)
        grad_elements(x, step, mask, lo, hi, dy, dx, term, n);
    else
        grad_elements(x, step, NULL, lo, hi, dy, dx, term, n);
}

static double sum_of(const float *term, int64_t n)
{
    cpu_lanes sum = {0};
    float rest[CPU_LANES];
    int64_t i = 0;
    for (; i + CPU_LANES <= n; i += CPU_LANES)
        for (int k = 0; k < CPU_STEPS; k++)
            sum.part[k] += cpu_load_f64s(term + i, k);
    const float *tail = cpu_pad_lanes(term + i, n - i, rest);
    for (int k = 0; k < CPU_STEPS; k++)
        sum.part[k] += cpu_load_f64s(tail, k);
    return cpu_tree(&sum);
}

typedef struct grad_job {
    const pare_fake_quant_grad_args *args;
    int64_t pieces; /* of a block, one below the other */
    double *part;   /* [down·pieces, across], or NULL */
} grad_job;

/* Columns [at, at + n) of row r; their terms join those of their blocks in `sums`. */
static void grad_columns(const pare_fake_quant_grad_args *a, int64_t r, int64_t at, int64_t n,
                         double *sums)
{
    float x_room[TILE], dy_room[TILE], step[ROOM], dx[TILE], term[TILE];
    int64_t C = a->x.shape[1], i = r * C + at, G = a->block_cols;
    int64_t size = pare_dtype_bits(a->x.dtype) / 8;
    const uint8_t *mask = a->mask.data;
    spread_steps((const float *)a->step.data + r / a->block_rows * a->step.shape[1], G, at, n,
                 step);
    grad_tile(PARE_CPU(pare__cpu_widen)(&a->x, i, n, x_room), step, mask ? mask + i : NULL,
              (float)a->lo, (float)a->hi, PARE_CPU(pare__cpu_widen)(&a->dy, i, n, dy_room), dx,
              term, n);
    PARE_CPU(pare__cpu_narrow)(dx, a->dx.dtype, (uint8_t *)a->dx.data + i * size, n);
    for (int64_t c = 0; sums && c < n;) {
        int64_t block = (at + c) / G, run = cpu_min(n - c, G - (at + c) % G);
        sums[block] += sum_of(term + c, run);
        c += run;
    }
}

/* Pieces [first, last): rows of one block row each. */
static void grad_part(const void *user, int64_t first, int64_t last)
{
    const grad_job *job = user;
    const pare_fake_quant_grad_args *a = job->args;
    int64_t R = a->x.shape[0], C = a->x.shape[1], across = a->step.shape[1];
    for (int64_t p = first; p < last; p++) {
        int64_t down = p / job->pieces, row = down * a->block_rows + p % job->pieces * PIECE;
        int64_t end = cpu_min(R, cpu_min((down + 1) * a->block_rows, row + PIECE));
        double *sums = job->part ? job->part + p * across : NULL;
        if (sums)
            memset(sums, 0, (size_t)across * sizeof *sums);
        for (int64_t r = row; r < end; r++)
            for (int64_t at = 0; at < C; at += TILE)
                grad_columns(a, r, at, cpu_min(TILE, C - at), sums);
    }
}

/* The pieces of blocks [first, last), row by row of blocks, become steps' gradients. */
static void merge_part(const void *user, int64_t first, int64_t last)
{
    const grad_job *job = user;
    int64_t across = job->args->step.shape[1];
    float *dstep = job->args->dstep.data;
    for (int64_t b = first; b < last; b++) {
        const double *part = job->part + b / across * job->pieces * across + b % across;
        double sum = 0;
        for (int64_t p = 0; p < job->pieces; p++)
            sum += part[p * across];
        sum *= (double)job->args->step_scale;
        dstep[b] = (float)(job->args->accumulate ? (double)dstep[b] + sum : sum);
    }
}

pare_status PARE_CPU(pare_cpu_fake_quant_grad)(pare_backend *be,
                                               const pare_fake_quant_grad_args *args)
{
    int64_t R = args->x.shape[0], C = args->x.shape[1];
    int64_t down = args->step.shape[0], across = args->step.shape[1];
    int64_t rows = cpu_min(args->block_rows, R > 0 ? R : 1);
    grad_job job = {.args = args, .pieces = cpu_ceil_div(rows, PIECE)};
    if (args->dstep.data) {
        void *part = NULL;
        PARE_TRY(pare__scratch(be, (size_t)(down * job.pieces * across) * sizeof(double), &part));
        job.part = part;
    }
    cpu_split(be, down * job.pieces, grain_of(C * cpu_min(rows, PIECE)), grad_part, &job);
    if (job.part)
        cpu_split(be, down * across, 1024, merge_part, &job);
    return PARE_OK;
}
