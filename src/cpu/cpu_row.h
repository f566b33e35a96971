/* cpu_row.h - a row sixteen elements at a time, the last of them cut short. */
#ifndef PARE_CPU_ROW_H
#define PARE_CPU_ROW_H

#include "cpu_nn.h"

/* Element i of F32 or BF16 data. */
CPU_INLINE void *cpu_row_at(const void *x, pare_dtype dtype, int64_t i)
{
    return (uint8_t *)(uintptr_t)x + i * (dtype == PARE_F32 ? 4 : 2);
}

/* Elements [i, n) of x, sixteen at most; behind n stands `rest`. */
CPU_INLINE cpu_v cpu_row_load(const void *x, pare_dtype dtype, int64_t i, int64_t n, float rest)
{
    return n - i >= CPU_V ? cpu_vload(x, dtype, i) : cpu_vload_n(x, dtype, i, n - i, rest);
}

CPU_INLINE void cpu_row_store(void *y, pare_dtype dtype, int64_t i, int64_t n, cpu_v v)
{
    if (n - i >= CPU_V)
        cpu_vstore(y, dtype, i, v);
    else
        cpu_vstore_n(y, dtype, i, n - i, v);
}

/* Sixteen sums or largest that a loop carries. As one wide vector gcc would move them through
 * memory, eight bytes at a time, in every round where registers are narrower; the same happens to a
 * wide vector that two branches make, so a loop's body stands twice: for sixteen, and for what is
 * left. */
typedef struct cpu_acc {
    cpu_part_f part[CPU_PARTS];
} cpu_acc;

CPU_INLINE cpu_acc cpu_acc_of(float x)
{
    cpu_acc a;
    for (int p = 0; p < CPU_PARTS; p++)
        a.part[p] = cpu_cut(cpu_splat(x), p);
    return a;
}

CPU_INLINE void cpu_acc_add(cpu_acc *a, cpu_v v)
{
    for (int p = 0; p < CPU_PARTS; p++)
        a->part[p] += cpu_cut(v, p);
}

/* A NaN in v is passed over. */
CPU_INLINE void cpu_acc_max(cpu_acc *a, cpu_v v)
{
    for (int p = 0; p < CPU_PARTS; p++) {
        cpu_part_f x = cpu_cut(v, p);
        cpu_part_i more = x > a->part[p];
        a->part[p] = (cpu_part_f)(((cpu_part_i)x & more) | ((cpu_part_i)a->part[p] & ~more));
    }
}

CPU_INLINE cpu_v cpu_acc_get(const cpu_acc *a)
{
    cpu_parts r;
    for (int p = 0; p < CPU_PARTS; p++)
        r.f_part[p] = a->part[p];
    return r.v;
}

/* A loop that gets all registers: inlined beside others, gcc loads its constants in every round. It
 * calls its inline body with each dtype. */
#define CPU_LOOP static __attribute__((noinline, unused))

CPU_INLINE float cpu_row_top_of(const void *x, pare_dtype dtype, int64_t n)
{
    cpu_acc top[4];
    for (int k = 0; k < 4; k++)
        top[k] = cpu_acc_of(-INFINITY);
    int64_t i = 0;
    for (; i + 4 * CPU_V <= n; i += 4 * CPU_V)
        for (int k = 0; k < 4; k++)
            cpu_acc_max(&top[k], cpu_vload(x, dtype, i + k * CPU_V));
    for (; i + CPU_V <= n; i += CPU_V)
        cpu_acc_max(&top[0], cpu_vload(x, dtype, i));
    if (i < n)
        cpu_acc_max(&top[1], cpu_vload_n(x, dtype, i, n - i, -INFINITY));
    for (int k = 1; k < 4; k++)
        cpu_acc_max(&top[0], cpu_acc_get(&top[k]));
    return cpu_vtop(cpu_acc_get(&top[0]));
}

/* The largest of n elements; NaN never is. −Inf if there is none. */
CPU_LOOP float cpu_row_top(const void *x, pare_dtype dtype, int64_t n)
{
    return dtype == PARE_F32 ? cpu_row_top_of(x, PARE_F32, n) : cpu_row_top_of(x, PARE_BF16, n);
}

/* Rows of N elements that make one part of work worth a thread. */
static inline int64_t cpu_row_grain(int64_t N)
{
    return N >= 16384 ? 1 : 16384 / (N > 0 ? N : 1);
}

#endif
