/* cuda_nested.cu - scales quantised in their turn (NF4's double quantisation).
 *
 *   N = max |scale - offset| of 256 scales, code = how many midpoints of levels are below (scale -
 *   offset)/N, scale = level[code]·N + offset, or 1
 *
 * A block of 256 threads takes 256 scales; the levels come as an argument, and the midpoints are
 * searched in shared memory, eight steps. There is one scale for 64 weights: the cost is that of
 * the launches and of waiting for the index of the first bad one, whatever the kernel does. Moves 9
 * bytes a scale, dequant_nested 5.
 */
#include "cuda_quant.cuh"

enum { LEVELS = PARE_NESTED_LEVELS, BLOCK = PARE_NESTED_BLOCK, ZERO = 127 };

static_assert(LEVELS == BLOCK, "a thread has a scale and a level");

struct nested_levels {
    float level[LEVELS];
};

/* Ascending: the decades' magnitudes rise from the level of 0 to both sides, 1 is the last. */
static nested_levels make_levels(void)
{
    static const double power[] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1};
    nested_levels l;
    l.level[ZERO] = 0.0f;
    l.level[LEVELS - 1] = 1.0f;
    for (int i = 0; i < 7; i++)
        for (int k = 0; k < 1 << i; k++) {
            float x = (float)((0.1 + 0.9 * (2 * k + 1) / (2 << i)) * power[i]);
            l.level[ZERO + (1 << i) + k] = x;
            l.level[ZERO - (1 << i) - k] = -x;
        }
    return l;
}

/* The largest of non-negative floats, NaN above all, over the block. */
static __device__ __forceinline__ float largest(float x, unsigned *room)
{
    unsigned top = __reduce_max_sync(PARE_ALL_LANES, __float_as_uint(x));
    if (threadIdx.x % PARE_WARP == 0)
        room[threadIdx.x / PARE_WARP] = top;
    __syncthreads();
    for (int i = 0; i < BLOCK / PARE_WARP; i++)
        top = max(top, room[i]);
    return __uint_as_float(top);
}

static __global__ void __launch_bounds__(BLOCK)
    k_quant_nested(nested_levels levels, float offset, float *scale, uint8_t *codes, float *nested,
                   int64_t n, unsigned long long *bad)
{
    PARE_SHARED_ARRAY(float, level, LEVELS);
    PARE_SHARED_ARRAY(float, middle, LEVELS);
    PARE_SHARED_ARRAY(unsigned, room, BLOCK / PARE_WARP);
    int t = threadIdx.x;
    int64_t i = grid_thread();
    float d = i < n ? scale[i] - offset : 0.0f;
    level[t] = levels.level[t];
    if (t + 1 < LEVELS)
        middle[t] = (levels.level[t] + levels.level[t + 1]) * 0.5f;
    float N = largest(fabsf(d), room);
    if (i >= n)
        return;
    float x = N > 0.0f ? d / N : 0.0f;
    int below = 0;
    for (int step = LEVELS / 2; step > 0; step /= 2)
        below += middle[below + step - 1] < x ? step : 0;
    float s = level[below] * N + offset;
    codes[i] = (uint8_t)below;
    scale[i] = s == 0.0f ? 1.0f : s;
    if (t == 0)
        nested[blockIdx.x] = N;
    if (!quant_finite(s))
        atomicMin(bad, (unsigned long long)i);
}

extern "C" pare_status pare_cuda_quant_nested(pare_backend *be, const pare_quant_nested_args *args)
{
    float *scale = (float *)args->scale.data;
    int64_t n = args->scale.shape[0];
    unsigned long long *bad, first;
    if (n == 0)
        return PARE_OK;
    PARE_TRY(pare__cuda_result(be, sizeof *bad, 0xff, &bad));
    PARE_LAUNCH(be, k_quant_nested, pare__blocks(n, BLOCK), BLOCK, 0, make_levels(), args->offset,
                scale, (uint8_t *)args->codes.data, (float *)args->nested.data, n, bad);
    PARE_TRY(pare__cuda_fetch(be, &first, bad, sizeof first));
    if (first == ~0ull)
        return PARE_OK;
    float becomes;
    PARE_TRY(pare__cuda_fetch(be, &becomes, scale + first, sizeof becomes));
    PARE_FAIL(PARE_ERR_DAMAGED,
              "scale %lld is too large to be quantised: with the offset %g it becomes %g",
              (long long)first, (double)args->offset, (double)becomes);
}

static __global__ void __launch_bounds__(BLOCK)
    k_dequant_nested(nested_levels levels, float offset, const uint8_t *codes, const float *nested,
                     float *scale, int64_t n)
{
    PARE_SHARED_ARRAY(float, level, LEVELS);
    int64_t i = grid_thread();
    level[threadIdx.x] = levels.level[threadIdx.x];
    __syncthreads();
    if (i < n)
        scale[i] = level[codes[i]] * nested[blockIdx.x] + offset;
}

extern "C" pare_status pare_cuda_dequant_nested(pare_backend *be,
                                                const pare_dequant_nested_args *args)
{
    int64_t n = args->codes.shape[0];
    PARE_LAUNCH(be, k_dequant_nested, pare__blocks(n, BLOCK), BLOCK, 0, make_levels(), args->offset,
                (const uint8_t *)args->codes.data, (const float *)args->nested.data,
                (float *)args->scale.data, n);
    return PARE_OK;
}
