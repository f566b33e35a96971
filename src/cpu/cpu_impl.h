/* cpu_impl.h - what the CPU's op files share.
 *
 * Every cpu_*.c but cpu_backend.c is compiled once for each instruction set with -DPARE_ISA=<isa>;
 * PARE_CPU() puts that name behind a symbol. The code is plain C that the compiler vectorises, so
 * each set runs the same operations in the same order: integers, single IEEE operations, and lane
 * sums (ops.h), never an intrinsic.
 */
#ifndef PARE_CPU_IMPL_H
#define PARE_CPU_IMPL_H

#include "backend_impl.h"

#include "base/check.h"
#include "base/half.h"

#include <stdbool.h>

#define PARE_CPU_PASTE(symbol, isa) symbol##_##isa
#define PARE_CPU_EXPAND(symbol, isa) PARE_CPU_PASTE(symbol, isa)
#define PARE_CPU(symbol) PARE_CPU_EXPAND(symbol, PARE_ISA)

/* pare_status pare_cpu_<name>_<isa>(pare_backend *be, const pare_<name>_args *args); */
#define PARE_CPU_DECLARE(name)                                                                     \
    pare_status PARE_CPU(pare_cpu_##name)(pare_backend * be, const pare_##name##_args *args);
PARE_OPS(PARE_CPU_DECLARE)
#undef PARE_CPU_DECLARE

/* For small kernels that are wanted with constants propagated into them. */
#define CPU_INLINE static inline __attribute__((always_inline))

#define CPU_LANES 16 /* of a lane sum */

/* 1.5·2^23: adding it to |x| ≤ 2^22 rounds x half to even into the low bits; subtracting it gives
 * rint(x). */
#define CPU_RINT 0x1.8p23f

static inline int64_t cpu_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t cpu_ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

/* Runs run(user, first, last) over 0..count-1 in parts that begin at multiples of grain, one part
 * for each of the backend's threads. A part must not depend on the others: then results do not
 * depend on the number of threads. */
static inline void cpu_split(const pare_backend *be, int64_t count, int64_t grain,
                             void (*run)(const void *user, int64_t first, int64_t last),
                             const void *user)
{
    int64_t units = cpu_ceil_div(count, grain);
    int parts = (int)cpu_min(be->threads, units);
    if (parts <= 1) {
        run(user, 0, count);
        return;
    }
#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int p = 0; p < parts; p++)
        run(user, cpu_min(count, units * p / parts * grain),
            cpu_min(count, units * (p + 1) / parts * grain));
}

/* A block of a row-major matrix as one sequence, row by row. */
typedef struct cpu_block {
    const float *w;     /* its first element */
    int64_t rows, cols; /* of the block */
    int64_t stride;     /* of the matrix */
} cpu_block;

/* The block (down, across) of the matrix w [R, C], smaller at the edges. */
static inline cpu_block cpu_block_at(const pare_tensor *w, int64_t block_rows, int64_t block_cols,
                                     int64_t down, int64_t across)
{
    int64_t R = w->shape[0], C = w->shape[1], r = down * block_rows, c = across * block_cols;
    return (cpu_block){.w = (const float *)w->data + r * C + c,
                       .rows = cpu_min(block_rows, R - r),
                       .cols = cpu_min(block_cols, C - c),
                       .stride = C};
}

/* Elements [at, at + n) of the sequence: in place if they are contiguous, else copied to buffer. */
static inline const float *cpu_block_tile(const cpu_block *b, int64_t at, int64_t n, float *buffer)
{
    if (b->cols == b->stride || b->rows == 1)
        return b->w + at;
    int64_t row = at / b->cols, col = at % b->cols;
    for (int64_t done = 0; done < n; row++, col = 0) {
        int64_t run = cpu_min(b->cols - col, n - done);
        memcpy(buffer + done, b->w + row * b->stride + col, (size_t)run * sizeof *buffer);
        done += run;
    }
    return buffer;
}

/* n elements of x, from first on, as f32: in place if they are F32, else converted to buffer.
 * cpu_elementwise.c */
const float *PARE_CPU(pare__cpu_widen)(const pare_tensor *x, int64_t first, int64_t n,
                                       float *buffer);

/* y[i] = x[i] rounded to dtype (F32: copied). */
void PARE_CPU(pare__cpu_narrow)(const float *x, pare_dtype dtype, void *y, int64_t n);

/* x[i] = x[i] rounded to dtype and widened again. */
void PARE_CPU(pare__cpu_round)(float *x, pare_dtype dtype, int64_t n);

#endif
