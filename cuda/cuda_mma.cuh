/* cuda_mma.cuh - tensor cores, and copies that run beside the arithmetic: one instruction a
 * function (PTX ISA, "Matrix multiply-accumulate operation using mma instruction", "ldmatrix",
 * "cp.async", "ex2"), from sm_80 on.
 *
 * A fragment is what a lane holds of a matrix. With g = lane / 4 and t = lane % 4:
 *
 *   a of 16 × 16 bf16: register r holds row g + 8·(r mod 2), columns 2t + 8·(r / 2) and the next
 *   b of 16 × 8  bf16: register r holds rows 2t + 8·r and the next, column g
 *   a of 16 × 32 s8:   register r holds row g + 8·(r mod 2), columns 4t + 16·(r / 2) and three more
 *   b of 32 × 8  s8:   register r holds rows 4t + 16·r and three more, column g
 *   c of 16 × 8:       register r holds row g + 8·(r / 2), column 2t + r mod 2
 *
 * the lower index in the lower bits. So two neighbouring c of a product, rounded to bf16, are one a
 * of the next: (c0 c1, c2 c3 of the left, c0 c1, c2 c3 of the right).
 *
 * The simulator's twins are written from the same tables. They sum in double: how the hardware
 * orders and rounds a sum of 16 products is not documented.
 */
#ifndef PARE_CUDA_MMA_CUH
#define PARE_CUDA_MMA_CUH

#include "cuda_common.cuh"

#ifndef PARE_CUDASIM

/* c += a·b, f32 sums. All 32 lanes call. */
static __device__ __forceinline__ void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0,
                                                uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* c += a·b of signed bytes, sums modulo 2^32. All 32 lanes call. */
static __device__ __forceinline__ void mma_s8(int c[4], const uint32_t a[4], uint32_t b0,
                                              uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Four matrices of 8 rows of 16 bytes in shared memory: lane l brings the address (a multiple of
 * 16) of row l mod 8 of matrix l / 8. Register m gets bytes 4t … 4t + 3 of row g of matrix m: of
 * 16-bit elements 2t and 2t + 1. All 32 lanes call. */
static __device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* The same of the transposed 8 × 8 matrices of 16-bit elements: register m gets the elements of
 * rows 2t and 2t + 1, column g. */
static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* Starts to copy `bytes` (0 to 16) from global to shared memory, the rest of the 16 becomes 0; both
 * addresses are multiples of 16, with 0 bytes `from` is not read. It is there for the thread that
 * asked after the wait, for others after a barrier behind it. */
static __device__ __forceinline__ void copy_async(void *to, const void *from, int bytes)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(at), "l"(from), "r"(bytes)
                 : "memory");
}

/* The same of 8 bytes, 0 or 8 of them copied; both addresses are multiples of 8. */
static __device__ __forceinline__ void copy_async_8(void *to, const void *from, int bytes)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;"
                 :
                 : "r"(at), "l"(from), "r"(bytes)
                 : "memory");
}

/* The copies of this thread since the last commit are a group. */
static __device__ __forceinline__ void copy_async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most LEFT of this thread's groups are under way. */
template <int LEFT> static __device__ __forceinline__ void copy_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* 2^x to 2^-22 of itself; numbers below 2^-126 are 0 on both sides, NaN stays. */
static __device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#else /* the simulator */

/* What a lane brings to an operation of its warp. */
struct mma_lane {
    void *c;
    const uint32_t *a;
    uint32_t b[2];
};

static inline float mma_half(uint32_t word, int half)
{
    return __uint_as_float((half ? word >> 16 : word & 0xffffu) << 16);
}

static inline void mma_bf16_complete(unsigned mask, void *const *data)
{
    double a[16][16], b[16][8];
    if (mask != PARE_ALL_LANES)
        sim_wrong(__FILE__, __LINE__, "mma needs all lanes, not %#x", mask);
    for (int lane = 0; lane < 32; lane++) {
        const mma_lane *own = static_cast<const mma_lane *>(data[lane]);
        int g = lane / 4, t = lane % 4;
        for (int r = 0; r < 4; r++)
            for (int h = 0; h < 2; h++)
                a[g + 8 * (r % 2)][2 * t + 8 * (r / 2) + h] = (double)mma_half(own->a[r], h);
        for (int r = 0; r < 2; r++)
            for (int h = 0; h < 2; h++)
                b[2 * t + 8 * r + h][g] = (double)mma_half(own->b[r], h);
    }
    for (int lane = 0; lane < 32; lane++) {
        float *c = static_cast<float *>(static_cast<const mma_lane *>(data[lane])->c);
        for (int r = 0; r < 4; r++) {
            double sum = (double)c[r];
            for (int k = 0; k < 16; k++)
                sum += a[lane / 4 + 8 * (r / 2)][k] * b[k][2 * (lane % 4) + r % 2];
            c[r] = (float)sum;
        }
    }
}

static inline void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    mma_lane own = {c, a, {b0, b1}};
    sim_warp(__FILE__, __LINE__, PARE_ALL_LANES, &own, mma_bf16_complete);
}

static inline void mma_s8_complete(unsigned mask, void *const *data)
{
    int a[16][32], b[32][8];
    if (mask != PARE_ALL_LANES)
        sim_wrong(__FILE__, __LINE__, "mma needs all lanes, not %#x", mask);
    for (int lane = 0; lane < 32; lane++) {
        const mma_lane *own = static_cast<const mma_lane *>(data[lane]);
        int g = lane / 4, t = lane % 4;
        for (int byte = 0; byte < 4; byte++) {
            for (int r = 0; r < 4; r++)
                a[g + 8 * (r % 2)][4 * t + 16 * (r / 2) + byte] = (int8_t)(own->a[r] >> 8 * byte);
            for (int r = 0; r < 2; r++)
                b[4 * t + 16 * r + byte][g] = (int8_t)(own->b[r] >> 8 * byte);
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        int *c = static_cast<int *>(static_cast<const mma_lane *>(data[lane])->c);
        for (int r = 0; r < 4; r++) {
            unsigned sum = (unsigned)c[r];
            for (int k = 0; k < 32; k++)
                sum += (unsigned)(a[lane / 4 + 8 * (r / 2)][k] * b[k][2 * (lane % 4) + r % 2]);
            c[r] = (int)sum;
        }
    }
}

static inline void mma_s8(int c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    mma_lane own = {c, a, {b0, b1}};
    sim_warp(__FILE__, __LINE__, PARE_ALL_LANES, &own, mma_s8_complete);
}

struct ldmatrix_lane {
    uint32_t *r;
    const void *row;
};

template <bool TRANS> static inline void ldmatrix_complete(unsigned mask, void *const *data)
{
    uint16_t at[4][8][8]; /* matrix, row, column */
    if (mask != PARE_ALL_LANES)
        sim_wrong(__FILE__, __LINE__, "ldmatrix needs all lanes, not %#x", mask);
    for (int lane = 0; lane < 32; lane++) {
        const void *row = static_cast<const ldmatrix_lane *>(data[lane])->row;
        if ((uintptr_t)row % 16 != 0)
            sim_wrong(__FILE__, __LINE__, "ldmatrix: lane %d's row is not aligned to 16", lane);
        memcpy(at[lane / 8][lane % 8], row, 16);
    }
    for (int lane = 0; lane < 32; lane++) {
        uint32_t *r = static_cast<const ldmatrix_lane *>(data[lane])->r;
        int g = lane / 4, t = lane % 4;
        for (int m = 0; m < 4; m++)
            r[m] = TRANS ? at[m][2 * t][g] | (uint32_t)at[m][2 * t + 1][g] << 16
                         : at[m][g][2 * t] | (uint32_t)at[m][g][2 * t + 1] << 16;
    }
}

static inline void ldmatrix_x4(uint32_t r[4], const void *row)
{
    ldmatrix_lane own = {r, row};
    sim_warp(__FILE__, __LINE__, PARE_ALL_LANES, &own, ldmatrix_complete<false>);
}

static inline void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    ldmatrix_lane own = {r, row};
    sim_warp(__FILE__, __LINE__, PARE_ALL_LANES, &own, ldmatrix_complete<true>);
}

static inline void copy_async(void *to, const void *from, int bytes)
{
    if ((uintptr_t)to % 16 != 0 || (bytes > 0 && (uintptr_t)from % 16 != 0))
        sim_wrong(__FILE__, __LINE__, "cp.async: an address is not aligned to 16");
    sim_async_copy(to, from, 16, bytes);
}

static inline void copy_async_8(void *to, const void *from, int bytes)
{
    if ((uintptr_t)to % 8 != 0 || (bytes > 0 && (uintptr_t)from % 8 != 0))
        sim_wrong(__FILE__, __LINE__, "cp.async: an address is not aligned to 8");
    sim_async_copy(to, from, 8, bytes);
}

static inline void copy_async_commit(void)
{
    sim_async_commit();
}

template <int LEFT> static inline void copy_async_wait(void)
{
    sim_async_wait(LEFT);
}

static inline float exp2_fast(float x)
{
    float y = exp2f(fabsf(x) < 0x1p-126f ? 0.0f : x);
    return y < 0x1p-126f ? 0.0f : y;
}

#endif

/* Two f32 to the two bf16 of a register, the first in the lower half, half to even. */
static __device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    uint32_t word;
    memcpy(&word, &both, sizeof word);
    return word;
}

#endif
