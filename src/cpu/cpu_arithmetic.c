/* cpu_arithmetic.c - fill, add, dropout: one pass, bound by memory (dropout by its hash). */
#include "cpu_nn.h"

#define GRAIN 16384

/* ---- fill ------------------------------------------------------------------------------------ */

static void fill_part(const void *user, int64_t first, int64_t last)
{
    const pare_fill_args *a = user;
    cpu_v v = cpu_splat(a->value);
    int64_t i = first;
    if (a->y.dtype == PARE_F32)
        for (; i + CPU_V <= last; i += CPU_V)
            cpu_vstore(a->y.data, PARE_F32, i, v);
    else
        for (; i + CPU_V <= last; i += CPU_V)
            cpu_vstore(a->y.data, PARE_BF16, i, v);
    if (i < last)
        cpu_vstore_n(a->y.data, a->y.dtype, i, last - i, v);
}

pare_status PARE_CPU(pare_cpu_fill)(pare_backend *be, const pare_fill_args *args)
{
    cpu_split(be, pare_tensor_count(&args->y), GRAIN, fill_part, args);
    return PARE_OK;
}

/* ---- add ------------------------------------------------------------------------------------- */

CPU_INLINE void add_16(const pare_add_args *x, pare_dtype a, pare_dtype b, pare_dtype y, cpu_v low,
                       int64_t i, int64_t n)
{
    cpu_v sum = cpu_vload_n(x->a.data, a, i, n, 0) + cpu_vload_n(x->b.data, b, i, n, 0);
    cpu_vstore_n(x->y.data, y, i, n, cpu_pick(cpu_gt(low, sum), low, sum));
}

#define ADD(a_, b_, y_)                                                                            \
    for (; i + CPU_V <= last; i += CPU_V)                                                          \
    add_16(x, PARE_##a_, PARE_##b_, PARE_##y_, low, i, CPU_V)

static void add_part(const void *user, int64_t first, int64_t last)
{
    const pare_add_args *x = user;
    cpu_v low = cpu_splat(x->relu ? 0.0f : -INFINITY);
    int64_t i = first;
    switch ((x->a.dtype == PARE_BF16) + 2 * (x->b.dtype == PARE_BF16) +
            4 * (x->y.dtype == PARE_BF16)) {
    case 0:
        ADD(F32, F32, F32);
        break;
    case 1:
        ADD(BF16, F32, F32);
        break;
    case 2:
        ADD(F32, BF16, F32);
        break;
    case 3:
        ADD(BF16, BF16, F32);
        break;
    case 4:
        ADD(F32, F32, BF16);
        break;
    case 5:
        ADD(BF16, F32, BF16);
        break;
    case 6:
        ADD(F32, BF16, BF16);
        break;
    default:
        ADD(BF16, BF16, BF16);
        break;
    }
    if (i < last)
        add_16(x, x->a.dtype, x->b.dtype, x->y.dtype, low, i, last - i);
}

pare_status PARE_CPU(pare_cpu_add)(pare_backend *be, const pare_add_args *args)
{
    cpu_split(be, pare_tensor_count(&args->y), GRAIN, add_part, args);
    return PARE_OK;
}

/* ---- dropout --------------------------------------------------------------------------------- */

#define WORDS (CPU_PART / 8) /* 64-bit numbers in a register */
#define STEP 0xD1342543DE82EF95u

typedef uint64_t words __attribute__((vector_size(CPU_PART)));

typedef struct dropout {
    const pare_dropout_args *a;
    uint64_t start;
    int32_t least; /* kept where the hash's upper 24 bits are no less */
    float factor;
} dropout;

/* The hash but for the finaliser's last step, z ^= z >> 31, which does not reach the upper 24 bits.
 */
CPU_INLINE words hash(words z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    return (z ^ z >> 27) * 0x94D049BB133111EBu;
}

/* The upper 24 bits of the hashes of 16 elements, z the counters of elements 0, 2, 4 … of the first
 * part: a word's lower half is for an even element, its upper half for the odd one behind. */
CPU_INLINE cpu_vi hash_16(words z)
{
    cpu_parts r;
    for (int p = 0; p < CPU_PARTS; p++, z += 2 * WORDS * STEP) {
        words even = hash(z) >> 40, odd = hash(z + STEP) >> 8 & 0xffffffff00000000u;
        r.i_part[p] = (cpu_part_i)(even | odd);
    }
    return r.i;
}

CPU_INLINE void dropout_16(const dropout *d, pare_dtype dtype, words z, int64_t i, int64_t n)
{
    cpu_v x = cpu_vload_n(d->a->x.data, dtype, i, n, 0);
    cpu_vi dropped = (hash_16(z) - d->least) >> 31; /* both are below 2^25 */
    cpu_v y = (cpu_v)((cpu_vi)(x * d->factor) & ~dropped);
    cpu_vstore_n(d->a->y.data, dtype, i, n, y);
}

static void dropout_part(const void *user, int64_t first, int64_t last)
{
    const dropout d = *(const dropout *)user;
    int64_t i = first;
    words z;
    for (int k = 0; k < WORDS; k++)
        z[k] = d.start + ((uint64_t)first + 2 * (uint64_t)k + 1) * STEP;
    if (d.a->x.dtype == PARE_F32)
        for (; i + CPU_V <= last; i += CPU_V, z += CPU_V * STEP)
            dropout_16(&d, PARE_F32, z, i, CPU_V);
    else
        for (; i + CPU_V <= last; i += CPU_V, z += CPU_V * STEP)
            dropout_16(&d, PARE_BF16, z, i, CPU_V);
    if (i < last)
        dropout_16(&d, d.a->x.dtype, z, i, last - i);
}

pare_status PARE_CPU(pare_cpu_dropout)(pare_backend *be, const pare_dropout_args *args)
{
    dropout d = {.a = args,
                 .start = args->seed ^ (args->stream * 0x9E3779B97F4A7C15u),
                 .least = (int32_t)rint((double)args->p * 0x1p24),
                 .factor = (float)(1.0 / (1.0 - (double)args->p))};
    cpu_split(be, pare_tensor_count(&args->x), GRAIN, dropout_part, &d);
    return PARE_OK;
}
