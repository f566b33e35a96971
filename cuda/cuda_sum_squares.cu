/* cuda_sum_squares.cu - the sum of squares of a vector, with or without a mask: gradient norms.
 *
 *     sum = Σ_i x[i]² over the i with mask[i] ≠ 0 (+ sum if accumulate), in f64
 *
 * Two launches, the order of the sum fixed by n alone. A block takes a chunk of CHUNK elements: a
 * thread adds packs of four (16 bytes, 4 of the mask), EACH_PACKS of them loaded before the first
 * is used; then the block's threads are added. One block adds up the chunks; if there is only one
 * chunk the first launch does that too. Squares of f32 are exact in f64.
 *
 * Bound by memory: 4 bytes an element, 5 with a mask. Predicted, not measured: 90 % of the rate at
 * which memory can be read.
 */
#include "cuda_nn.cuh"

#include "cuda_each.cuh"

#define CHUNK 16384
#define MERGE_THREADS 1024

static __device__ __forceinline__ double square(float x, bool kept)
{
    double v = kept ? (double)x : 0.0;
    return v * v;
}

/* Of the chunk, elements before `packed` as packs, the others one by one. sum: one a block. */
template <bool MASKS>
static __global__ void __launch_bounds__(EACH_THREADS)
    k_sum_squares(const float *x, const uint8_t *mask, int64_t n, int64_t packed, double *sum,
                  bool accumulate)
{
    PARE_SHARED_ARRAY(double, room, PARE_WARP);
    const int64_t first = (int64_t)blockIdx.x * CHUNK;
    const int64_t last = first + CHUNK < n ? first + CHUNK : n;
    const int64_t end = last < packed ? last : packed; /* of the packs in the chunk */
    double own[EACH_PACKS];
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        own[u] = 0;
    for (int64_t start = first + threadIdx.x * 4; start < end;
         start += EACH_PACKS * EACH_THREADS * 4) {
        pack_of<float, 4> p[EACH_PACKS];
        pack_of<uint8_t, 4> keep[EACH_PACKS];
#pragma unroll
        for (int u = 0; u < EACH_PACKS; u++) {
            const int64_t i = start + u * EACH_THREADS * 4;
            if (i < end) {
                p[u] = load_pack<float, 4>(x + i);
                if (MASKS)
                    keep[u] = load_pack<uint8_t, 4>(mask + i);
            }
        }
#pragma unroll
        for (int u = 0; u < EACH_PACKS; u++)
            if (start + u * EACH_THREADS * 4 < end)
#pragma unroll
                for (int k = 0; k < 4; k++)
                    own[u] += square(p[u].at[k], !MASKS || keep[u].at[k]);
    }
    for (int64_t i = (end > first ? end : first) + threadIdx.x; i < last; i += EACH_THREADS)
        own[0] += square(x[i], !MASKS || mask[i]);
    const double total = block_sum((own[0] + own[1]) + (own[2] + own[3]), room);
    if (threadIdx.x == 0)
        sum[blockIdx.x] = accumulate ? sum[blockIdx.x] + total : total;
}

static __global__ void __launch_bounds__(MERGE_THREADS)
    k_sum_squares_merge(const double *part, int64_t parts, double *sum, bool accumulate)
{
    PARE_SHARED_ARRAY(double, room, PARE_WARP);
    double own = 0;
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < parts; i += MERGE_THREADS)
        own += part[i];
    own = block_sum(own, room);
    if (threadIdx.x == 0)
        *sum = accumulate ? *sum + own : own;
}

extern "C" pare_status pare_cuda_sum_squares(pare_backend *be, const pare_sum_squares_args *args)
{
    const float *x = (const float *)args->x.data;
    const uint8_t *mask = (const uint8_t *)args->mask.data;
    double *sum = (double *)args->sum.data;
    void *memory = sum; /* of the chunks' sums */
    int64_t n = args->x.shape[0], parts = n > 0 ? pare__blocks(n, CHUNK) : 1;
    int64_t packed = pare__aligned(x, 16) && pare__aligned(mask, 4) ? n / 4 * 4 : 0;
    bool accumulate = args->accumulate && parts == 1; /* in the first launch */
    if (parts > 1)
        PARE_TRY(pare__scratch(be, (size_t)parts * sizeof(double), &memory));
    double *part = (double *)memory;
    if (mask)
        PARE_LAUNCH(be, (k_sum_squares<true>), parts, EACH_THREADS, 0, x, mask, n, packed, part,
                    accumulate);
    else
        PARE_LAUNCH(be, (k_sum_squares<false>), parts, EACH_THREADS, 0, x, mask, n, packed, part,
                    accumulate);
    if (parts > 1)
        PARE_LAUNCH(be, k_sum_squares_merge, 1, MERGE_THREADS, 0, (const double *)part, parts, sum,
                    args->accumulate);
    return PARE_OK;
}
