/* cpu_lanes.h - the sixteen f64 lanes of a lane sum as native vectors, through GNU C's portable
 * vector types. */
#ifndef PARE_CPU_LANES_H
#define PARE_CPU_LANES_H

#include "cpu_impl.h"

/* Bytes of a vector register. */
#if defined(__AVX512F__)
#define CPU_VECTOR 64
#elif defined(__AVX__)
#define CPU_VECTOR 32
#else
#define CPU_VECTOR 16
#endif

typedef double cpu_f64s __attribute__((vector_size(CPU_VECTOR)));
typedef float cpu_f32s __attribute__((vector_size(CPU_VECTOR / 2))); /* as many floats */
typedef int32_t cpu_i32s __attribute__((vector_size(CPU_VECTOR)));
typedef int8_t cpu_i8s __attribute__((vector_size(CPU_VECTOR / 4))); /* as many as cpu_i32s has */

#define CPU_STEP (CPU_VECTOR / 8)        /* doubles in a vector */
#define CPU_STEPS (CPU_LANES / CPU_STEP) /* vectors in the lanes */
#define CPU_I32_STEP (CPU_VECTOR / 4)

typedef struct cpu_lanes {
    cpu_f64s part[CPU_STEPS];
} cpu_lanes;

/* Elements [step·CPU_STEP, +CPU_STEP) of x as doubles. */
CPU_INLINE cpu_f64s cpu_load_f64s(const float *x, int step)
{
    cpu_f32s v;
    memcpy(&v, x + step * CPU_STEP, sizeof v);
    return __builtin_convertvector(v, cpu_f64s);
}

/* x with zeros behind its n < CPU_LANES elements: zeros add +0 to the lanes that have none. */
static inline const float *cpu_pad_lanes(const float *x, int64_t n, float buffer[CPU_LANES])
{
    memset(buffer, 0, CPU_LANES * sizeof *buffer);
    memcpy(buffer, x, (size_t)n * sizeof *buffer);
    return buffer;
}

/* The lanes as one number. */
static inline double cpu_tree(const cpu_lanes *lanes)
{
    double sum[CPU_LANES];
    memcpy(sum, lanes, sizeof sum);
    for (int half = CPU_LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            sum[l] += sum[l + half];
    return sum[0];
}

#endif
