/* cuda_quant.cu - codes from values and values from codes, element by element.
 *
 *   quantize     q = clamp(rint(w/s + z)), or e4m3(w/s), or the nearest level of NF4 to w/s
 *   dequantize   w = (q - z)·s, e4m3(q)·s, nf4[q]·s
 *
 * A thread has one place in a row, N columns wide, and four rows, whose loads are all under way
 * before the first is used; N is 16 bytes of the wider side where everything is aligned to that,
 * else one element. Quotients are true ones.
 *
 * Bound by memory: quantize moves 5 bytes an element, dequantize 3 (F16, BF16) or 5 (F32), and
 * about 20, 10 instructions. Predicted: 90 % of the copy rate for integers, 85 % for E4M3 and NF4;
 * no GPU has measured it yet.
 */
#include "cuda_quant.cuh"

#include "cuda_nf4.cuh"

struct sheet_job {
    quant_sheet sheet;
    int64_t block_rows, block_cols, across; /* blocks, and how many side by side */
    const float *scale;
    const int8_t *zero; /* or NULL */
};

static sheet_job sheet_job_of(const pare_tensor *w, const pare_tensor *scale,
                              const pare_tensor *zero, const pare_scheme *scheme,
                              int64_t block_rows, int64_t block_cols, int N)
{
    sheet_job j = {quant_sheet_of(w->shape[0], w->shape[1], N),
                   block_rows,
                   block_cols,
                   scale->shape[1],
                   (const float *)scale->data,
                   scheme->asymmetric ? (const int8_t *)zero->data : NULL};
    return j;
}

/* Whether packs of N elements lie within a row and within a block. */
static bool packs_fit(int64_t C, int64_t block_cols, int N)
{
    return C % N == 0 && (block_cols % N == 0 || block_cols >= C);
}

/* The scales and zero points of a thread's rows. */
static __device__ __forceinline__ void load_scales(const sheet_job &j, const quant_spot &spot,
                                                   float s[QUANT_TURNS], float z[QUANT_TURNS])
{
    int64_t block = quant_div(spot.col, j.block_cols);
#pragma unroll
    for (int t = 0; t < QUANT_TURNS; t++) {
        int64_t row = spot.row + t * spot.below;
        bool there = row < j.sheet.R && spot.col < j.sheet.C;
        int64_t at = (j.block_rows == 1 ? row : quant_div(row, j.block_rows)) * j.across + block;
        s[t] = there ? j.scale[at] : 1.0f;
        z[t] = there && j.zero ? (float)j.zero[at] : 0.0f;
    }
}

/* ---- quantize -------------------------------------------------------------------------------- */

template <int TYPE, int N>
static __global__ void __launch_bounds__(QUANT_THREADS, 4)
    k_quantize(sheet_job j, const float *w, int8_t *codes, float least, float most)
{
    PARE_SHARED_ARRAY(float, middle, 16);
    if (TYPE == PARE_QUANT_NF4) {
        if (threadIdx.x < 15)
            middle[threadIdx.x] = nf4_middle(threadIdx.x);
        __syncthreads();
    }
    quant_spot spot = quant_spot_of<N>(j.sheet);
    pack_of<float, N> x[QUANT_TURNS];
    float s[QUANT_TURNS], z[QUANT_TURNS];
    if (spot.col >= j.sheet.C)
        return;
#pragma unroll
    for (int t = 0; t < QUANT_TURNS; t++) {
        int64_t row = spot.row + t * spot.below;
        if (row < j.sheet.R)
            x[t] = load_pack<float, N>(w + row * j.sheet.C + spot.col);
    }
    load_scales(j, spot, s, z);
#pragma unroll
    for (int t = 0; t < QUANT_TURNS; t++) {
        int64_t row = spot.row + t * spot.below;
        pack_of<int8_t, N> q;
        if (row >= j.sheet.R)
            return;
#pragma unroll
        for (int i = 0; i < N; i++) {
            float v = x[t].at[i] / s[t];
            q.at[i] = (int8_t)(TYPE == PARE_QUANT_INT    ? quant_int_bits(v + z[t], least, most)
                               : TYPE == PARE_QUANT_E4M3 ? quant_e4m3_bits(v)
                                                         : nf4_code(v, middle));
        }
        store_pack<int8_t, N>(codes + row * j.sheet.C + spot.col, q);
    }
}

template <int TYPE> static pare_status quantize_as(pare_backend *be, const pare_quantize_args *a)
{
    const float *w = (const float *)a->w.data;
    int8_t *codes = (int8_t *)a->codes.data;
    float half = (float)(1 << (a->scheme.bits - 1));
    bool wide = packs_fit(a->w.shape[1], a->block_cols, 4) && pare__aligned(w, 16) &&
                pare__aligned(codes, 4);
    sheet_job j = sheet_job_of(&a->w, &a->scale, &a->zero, &a->scheme, a->block_rows, a->block_cols,
                               wide ? 4 : 1);
    int64_t blocks = quant_sheet_blocks(&j.sheet);
    if (wide)
        PARE_LAUNCH(be, (k_quantize<TYPE, 4>), blocks, QUANT_THREADS, 0, j, w, codes, -half,
                    half - 1.0f);
    else
        PARE_LAUNCH(be, (k_quantize<TYPE, 1>), blocks, QUANT_THREADS, 0, j, w, codes, -half,
                    half - 1.0f);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_quantize(pare_backend *be, const pare_quantize_args *args)
{
    if (args->scheme.type == PARE_QUANT_INT)
        PARE_TRY(quantize_as<PARE_QUANT_INT>(be, args));
    else if (args->scheme.type == PARE_QUANT_E4M3)
        PARE_TRY(quantize_as<PARE_QUANT_E4M3>(be, args));
    else
        PARE_TRY(quantize_as<PARE_QUANT_NF4>(be, args));
    return PARE_OK;
}

/* ---- dequantize ------------------------------------------------------------------------------ */

template <typename T, int TYPE, int N>
static __global__ void __launch_bounds__(QUANT_THREADS)
    k_dequantize(sheet_job j, const int8_t *codes, T *w)
{
    PARE_SHARED_ARRAY(float, level, 16);
    if (TYPE == PARE_QUANT_NF4) {
        if (threadIdx.x < 16)
            level[threadIdx.x] = nf4_level[threadIdx.x];
        __syncthreads();
    }
    quant_spot spot = quant_spot_of<N>(j.sheet);
    pack_of<int8_t, N> q[QUANT_TURNS];
    float s[QUANT_TURNS], z[QUANT_TURNS];
    if (spot.col >= j.sheet.C)
        return;
#pragma unroll
    for (int t = 0; t < QUANT_TURNS; t++) {
        int64_t row = spot.row + t * spot.below;
        if (row < j.sheet.R)
            q[t] = load_pack<int8_t, N>(codes + row * j.sheet.C + spot.col);
    }
    load_scales(j, spot, s, z);
#pragma unroll
    for (int t = 0; t < QUANT_TURNS; t++) {
        int64_t row = spot.row + t * spot.below;
        pack_of<T, N> y;
        if (row >= j.sheet.R)
            return;
#pragma unroll
        for (int i = 0; i < N; i++) {
            float v = TYPE == PARE_QUANT_INT    ? (float)q[t].at[i] - z[t]
                      : TYPE == PARE_QUANT_E4M3 ? quant_e4m3_value((uint8_t)q[t].at[i])
                                                : level[q[t].at[i] & 15];
            y.at[i] = from_f32<T>(v * s[t]);
        }
        store_pack<T, N>(w + row * j.sheet.C + spot.col, y);
    }
}

template <typename T, int TYPE>
static pare_status dequantize_as(pare_backend *be, const pare_dequantize_args *a)
{
    const int N = 16 / sizeof(T);
    const int8_t *codes = (const int8_t *)a->codes.data;
    T *w = (T *)a->w.data;
    bool wide = packs_fit(a->w.shape[1], a->block_cols, N) && pare__aligned(w, 16) &&
                pare__aligned(codes, N);
    sheet_job j = sheet_job_of(&a->w, &a->scale, &a->zero, &a->scheme, a->block_rows, a->block_cols,
                               wide ? N : 1);
    int64_t blocks = quant_sheet_blocks(&j.sheet);
    if (wide)
        PARE_LAUNCH(be, (k_dequantize<T, TYPE, N>), blocks, QUANT_THREADS, 0, j, codes, w);
    else
        PARE_LAUNCH(be, (k_dequantize<T, TYPE, 1>), blocks, QUANT_THREADS, 0, j, codes, w);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_dequantize(pare_backend *be, const pare_dequantize_args *args)
{
    PARE_WEIGHT_TYPE(args->w.dtype, T, {
        if (args->scheme.type == PARE_QUANT_INT)
            PARE_TRY((dequantize_as<T, PARE_QUANT_INT>(be, args)));
        else if (args->scheme.type == PARE_QUANT_E4M3)
            PARE_TRY((dequantize_as<T, PARE_QUANT_E4M3>(be, args)));
        else
            PARE_TRY((dequantize_as<T, PARE_QUANT_NF4>(be, args)));
    });
    return PARE_OK;
}
