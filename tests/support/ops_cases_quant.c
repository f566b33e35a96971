/* Rows of ranges, scales, codes, searches and packing. */
#include "ops_harness.h"
#include "ops_oracle.h"

#include "base/half.h"

#include <math.h>

static const pare_dtype weights[] = {PARE_F32, PARE_F16, PARE_BF16};

static const ops_shape blocks[] = {{1, 1},   {1, 5},      {2, 3},   {1, 16},  {1, 32},
                                   {1, 64},  {16, 16},    {1, 128}, {3, 100}, {1, 1000},
                                   {100, 1}, {100, 2000}, {-1, -1}};

static pare_scheme int_scheme(int bits, bool asymmetric)
{
    return (pare_scheme){.type = PARE_QUANT_INT, .bits = bits, .asymmetric = asymmetric};
}

static const pare_scheme e4m3 = {.type = PARE_QUANT_E4M3, .bits = 8};
static const pare_scheme nf4 = {.type = PARE_QUANT_NF4, .bits = 4};

/* The 16 schemes: 2..8 bits without and with zero points, E4M3, NF4. */
#define SCHEMES 16
static pare_scheme scheme_of(int i)
{
    return i == 14 ? e4m3 : i == 15 ? nf4 : int_scheme(2 + i % 7, i >= 7);
}

/* ---- range and scale ------------------------------------------------------------------------- */

static ops_output output(size_t pointer, int64_t count, size_t size)
{
    return (ops_output){pointer, (size_t)count * size, size, false};
}

static void range_case(ops_run *run, ops_kind kind, ops_shape s, ops_shape b, size_t shift)
{
    int64_t down = (s.rows + b.rows - 1) / b.rows, across = (s.cols + b.cols - 1) / b.cols;
    float *w = ops_floats(run, kind, PARE_F32, s.rows * s.cols, shift);
    pare_quant_range_args args = {.w = pare_matrix(w, PARE_F32, s.rows, s.cols),
                                  .block_rows = b.rows,
                                  .block_cols = b.cols,
                                  .lo = pare_matrix(NULL, PARE_F32, down, across),
                                  .hi = pare_matrix(NULL, PARE_F32, down, across)};
    ops_expect(run, PARE_OP_quant_range, &args, sizeof args,
               (ops_output[]){output(offsetof(pare_quant_range_args, lo.data), down * across, 4),
                              output(offsetof(pare_quant_range_args, hi.data), down * across, 4),
                              {0}});
    ops_next(run);
}

void ops_cases_quant_range(ops_run *run)
{
    int turn = 0;
    for (int kind = 0; kind < OPS_BAD; kind++)
        for (const ops_shape *s = ops_shapes; s->rows >= 0; s++, turn++)
            for (const ops_shape *b = blocks; b->rows > 0; b++)
                range_case(run, (ops_kind)kind, *s, *b, (size_t)(turn % 2));
    for (size_t shift = 0; shift < 2; shift++) { /* blocks enough for warps; few and large ones */
        range_case(run, OPS_NORMAL, (ops_shape){520, 300}, (ops_shape){1, 300}, shift);
        range_case(run, OPS_NORMAL, (ops_shape){37, 1000}, (ops_shape){36, 900}, shift);
        range_case(run, OPS_NORMAL, (ops_shape){40, 1000}, (ops_shape){40, 1000}, shift);
    }
    /* NaN or Inf of either sign anywhere in a block shows in its hi, and in no other. */
    static const uint32_t bad[] = {0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc00001u, 0x7f800001u};
    for (size_t i = 0; i < 5; i++)
        for (int at = 0; at < 96; at += 5)
            for (int k = 0; ops_backend(run, k); k++) {
                float *w = ops_floats(run, OPS_NORMAL, PARE_F32, 96, (size_t)(at % 2));
                float *lo = ops_memory(run, 3 * 4, 4, 0), *hi = ops_memory(run, 3 * 4, 4, 0);
                memcpy(w + at, &bad[i], 4);
                pare_quant_range_args args = {.w = pare_matrix(w, PARE_F32, 1, 96),
                                              .block_rows = 1,
                                              .block_cols = 32,
                                              .lo = pare_matrix(lo, PARE_F32, 1, 3),
                                              .hi = pare_matrix(hi, PARE_F32, 1, 3)};
                assert_ok(ops_call(run, PARE_OP_quant_range, ops_backend(run, k), &args));
                for (int block = 0; block < 3; block++)
                    assert_int_equal((pare__f32_bits(hi[block]) & 0x7f800000u) == 0x7f800000u,
                                     at / 32 == block);
                ops_next(run);
            }
}

/* lo ≤ 0 ≤ hi of a kind, small enough for a scale in F16. */
static void fill_ranges(ops_run *run, ops_kind kind, float *lo, float *hi, int64_t n)
{
    const float *x = ops_floats(run, kind, PARE_F32, n, 0);
    const float *y = ops_floats(run, kind, PARE_F32, n, 0);
    for (int64_t i = 0; i < n; i++) {
        lo[i] = x[i] < 0.0f ? x[i] : 0.0f;
        hi[i] = y[i] > 0.0f ? y[i] : 0.0f;
    }
}

/* Of ranges that are not finite, or have no finite scale, the first is named. */
static void damaged_ranges(ops_run *run, pare_backend *be, float bad)
{
    enum { N = 600 };
    for (int at = 0; at < N; at += 149) {
        float *lo = ops_memory(run, N * 4, 4, 0), *hi = ops_memory(run, N * 4, 4, 0);
        char block[32];
        for (int i = 0; i < N; i++)
            lo[i] = hi[i] = 0;
        (bad < 0 ? lo : hi)[at] = hi[N - 1] = bad;
        pare_quant_scale_args args = {.scheme = int_scheme(4, false),
                                      .scale_dtype = PARE_F16,
                                      .lo = pare_vector(lo, PARE_F32, N),
                                      .hi = pare_vector(hi, PARE_F32, N),
                                      .scale = pare_vector(hi, PARE_F32, N)};
        snprintf(block, sizeof block, "block %d ", at);
        assert_status(ops_call(run, PARE_OP_quant_scale, be, &args), PARE_ERR_DAMAGED);
        assert_non_null(strstr(pare_last_error(), block));
        ops_next(run);
    }
}

void ops_cases_quant_scale(ops_run *run)
{
    static const float bad[] = {INFINITY, -INFINITY, NAN, 3e38f};
    for (int k = 0; ops_backend(run, k); k++)
        for (int i = 0; i < 4; i++)
            damaged_ranges(run, ops_backend(run, k), bad[i]);
    for (int i = 0; i < SCHEMES; i++)
        for (int kind = 0; kind < OPS_WIDE; kind++)
            for (const int64_t *n = ops_sizes; *n >= 0 && *n < 2000; n++) {
                pare_scheme scheme = scheme_of(i);
                scheme.double_quant = scheme.type == PARE_QUANT_NF4 && kind % 2 == 0;
                float *lo = ops_memory(run, (size_t)*n * 4, 4, 1);
                float *hi = ops_memory(run, (size_t)*n * 4, 4, 2);
                fill_ranges(run, (ops_kind)kind, lo, hi, *n);
                pare_quant_scale_args args = {.scheme = scheme,
                                              .scale_dtype = weights[(i + kind + *n) % 3],
                                              .lo = pare_vector(lo, PARE_F32, *n),
                                              .hi = pare_vector(hi, PARE_F32, *n),
                                              .scale = pare_vector(NULL, PARE_F32, *n),
                                              .zero = pare_vector(NULL, PARE_I8, *n)};
                ops_output scale = output(offsetof(pare_quant_scale_args, scale.data), *n, 4);
                ops_output zero = output(offsetof(pare_quant_scale_args, zero.data), *n, 1);
                ops_expect(run, PARE_OP_quant_scale, &args, sizeof args,
                           (ops_output[]){scale, scheme.asymmetric ? zero : (ops_output){0}, {0}});
                ops_next(run);
            }
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* Scales as pare makes them, or hostile ones: powers of two, denormal, huge, any. */
static float *make_scales(ops_run *run, int turn, int64_t n)
{
    float *s = ops_memory(run, (size_t)n * 4, 4, 1);
    for (int64_t i = 0; i < n; i++) {
        float u = (float)(1 + ops_below(run, 1000)) * 0.001f;
        s[i] = turn % 5 == 0   ? u * 0.02f
               : turn % 5 == 1 ? 0.125f
               : turn % 5 == 2 ? u * 0x1p-130f
               : turn % 5 == 3 ? u * 0x1p+110f
                               : pare__bf16_to_f32(pare__f32_to_bf16(u * 0.3f));
    }
    return s;
}

static int8_t *make_zeros(ops_run *run, const pare_scheme *scheme, int64_t n)
{
    int8_t *z = ops_memory(run, (size_t)n, 1, 1);
    int half = 1 << (scheme->bits - 1);
    for (int64_t i = 0; i < n; i++)
        z[i] = (int8_t)(ops_below(run, 2 * half) - half);
    return scheme->asymmetric ? z : NULL;
}

void ops_cases_quantize(ops_run *run)
{
    int turn = 0;
    for (int i = 0; i < SCHEMES; i++)
        for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
            for (const ops_shape *b = blocks; b->rows > 0; b++, turn++) {
                pare_scheme scheme = scheme_of(i);
                int64_t down = (s->rows + b->rows - 1) / b->rows, n = s->rows * s->cols;
                int64_t across = (s->cols + b->cols - 1) / b->cols;
                float *w = ops_floats(run, (ops_kind)(turn % OPS_BAD), PARE_F32, n,
                                      (size_t)(turn / 12 % 2));
                pare_quantize_args args = {
                    .scheme = scheme,
                    .w = pare_matrix(w, PARE_F32, s->rows, s->cols),
                    .block_rows = b->rows,
                    .block_cols = b->cols,
                    .scale =
                        pare_matrix(make_scales(run, turn, down * across), PARE_F32, down, across),
                    .zero =
                        pare_matrix(make_zeros(run, &scheme, down * across), PARE_I8, down, across),
                    .codes = pare_matrix(NULL, PARE_I8, s->rows, s->cols)};
                ops_expect(
                    run, PARE_OP_quantize, &args, sizeof args,
                    (ops_output[]){output(offsetof(pare_quantize_args, codes.data), n, 1), {0}});
                ops_next(run);
            }
}

/* Weights on, and one float beside, every boundary between two codes: where w·(1/s) may round
 * unlike w/s. */
void ops_cases_quantize_boundaries(ops_run *run)
{
    enum { N = 3 * 300 };
    for (int i = 0; i < 14; i++)
        for (int turn = 0; turn < 40; turn++) {
            pare_scheme scheme = scheme_of(i);
            float *scale = make_scales(run, turn, 1), *w = ops_memory(run, N * 4, 4, 1);
            for (int j = 0; j < N / 3; j++) {
                float tie = ((float)(j - 150) + 0.5f) * *scale;
                uint32_t bits = pare__f32_bits(tie);
                w[3 * j] = tie;
                w[3 * j + 1] = pare__bits_f32(bits - 1);
                w[3 * j + 2] = pare__bits_f32(bits + 1);
            }
            pare_quantize_args args = {.scheme = scheme,
                                       .w = pare_matrix(w, PARE_F32, 1, N),
                                       .block_rows = 1,
                                       .block_cols = N,
                                       .scale = pare_matrix(scale, PARE_F32, 1, 1),
                                       .zero =
                                           pare_matrix(make_zeros(run, &scheme, 1), PARE_I8, 1, 1),
                                       .codes = pare_matrix(NULL, PARE_I8, 1, N)};
            ops_expect(run, PARE_OP_quantize, &args, sizeof args,
                       (ops_output[]){output(offsetof(pare_quantize_args, codes.data), N, 1), {0}});
            ops_next(run);
        }
}

/* Codes a scheme can have (E4M3 without its two NaNs). */
static int8_t *make_codes(ops_run *run, const pare_scheme *scheme, int64_t n, size_t shift)
{
    int8_t *codes = (int8_t *)ops_bytes(run, n, shift);
    int half = 1 << (scheme->bits - 1);
    for (int64_t i = 0; i < n; i++)
        if (scheme->type == PARE_QUANT_INT)
            codes[i] = (int8_t)((uint8_t)codes[i] % (2 * half) - half);
        else if (scheme->type == PARE_QUANT_NF4)
            codes[i] = (int8_t)(codes[i] & 15);
        else if ((codes[i] & 0x7f) == 0x7f)
            codes[i] = 0;
    return codes;
}

void ops_cases_dequantize(ops_run *run)
{
    int turn = 0;
    for (int i = 0; i < SCHEMES; i++)
        for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
            for (const ops_shape *b = blocks; b->rows > 0; b++, turn++) {
                pare_scheme scheme = scheme_of(i);
                pare_dtype dtype = weights[turn % 3];
                size_t size = dtype == PARE_F32 ? 4 : 2;
                int64_t down = (s->rows + b->rows - 1) / b->rows, n = s->rows * s->cols;
                int64_t across = (s->cols + b->cols - 1) / b->cols;
                pare_dequantize_args args = {
                    .scheme = scheme,
                    .codes = pare_matrix(make_codes(run, &scheme, n, (size_t)(turn / 12 % 2)),
                                         PARE_I8, s->rows, s->cols),
                    .block_rows = b->rows,
                    .block_cols = b->cols,
                    .scale =
                        pare_matrix(make_scales(run, turn, down * across), PARE_F32, down, across),
                    .zero =
                        pare_matrix(make_zeros(run, &scheme, down * across), PARE_I8, down, across),
                    .w = pare_matrix(NULL, dtype, s->rows, s->cols)};
                ops_expect(
                    run, PARE_OP_dequantize, &args, sizeof args,
                    (ops_output[]){output(offsetof(pare_dequantize_args, w.data), n, size), {0}});
                ops_next(run);
            }
}

/* ---- search ---------------------------------------------------------------------------------- */

/* Scales and zero points as the first two ops make them. */
static void searched_scales(ops_run *run, const pare_scheme *scheme, pare_dtype dtype,
                            const pare_tensor *w, ops_shape block, pare_tensor *scale,
                            pare_tensor *zero)
{
    int64_t down = (w->shape[0] + block.rows - 1) / block.rows;
    int64_t across = (w->shape[1] + block.cols - 1) / block.cols, n = down * across;
    float *lo = ops_memory(run, (size_t)n * 4, 4, 0), *hi = ops_memory(run, (size_t)n * 4, 4, 0);
    float *s = ops_memory(run, (size_t)n * 4, 4, 1);
    int8_t *z = scheme->asymmetric ? ops_memory(run, (size_t)n, 1, 1) : NULL;
    oracle_quant_range(&(pare_quant_range_args){.w = *w,
                                                .block_rows = block.rows,
                                                .block_cols = block.cols,
                                                .lo = pare_matrix(lo, PARE_F32, down, across),
                                                .hi = pare_matrix(hi, PARE_F32, down, across)});
    oracle_quant_scale(&(pare_quant_scale_args){.scheme = *scheme,
                                                .scale_dtype = dtype,
                                                .lo = pare_vector(lo, PARE_F32, n),
                                                .hi = pare_vector(hi, PARE_F32, n),
                                                .scale = pare_vector(s, PARE_F32, n),
                                                .zero = pare_vector(z, PARE_I8, n)});
    *scale = pare_matrix(s, PARE_F32, down, across);
    *zero = pare_matrix(z, PARE_I8, down, across);
}

void ops_cases_quant_error(ops_run *run)
{
    static const int64_t sizes[] = {0, 1, 15, 16, 17, 511, 512, 513, 1031};
    for (int i = 0; i < 15; i++)
        for (int kind = 0; kind < OPS_WIDE; kind++)
            for (int k = 0; k < 9; k++) {
                pare_scheme scheme = scheme_of(i);
                pare_dtype dtype = weights[(i + kind + k) % 3];
                double before[PARE_QUANT_CANDIDATES] = {1.0, 2.5};
                float *w = ops_floats(run, (ops_kind)kind, PARE_F32, sizes[k], 1);
                pare_tensor scale, zero, matrix = pare_matrix(w, PARE_F32, 1, sizes[k]);
                searched_scales(run, &scheme, dtype, &matrix, (ops_shape){1, 2000}, &scale, &zero);
                bool empty = sizes[k] == 0;
                pare_quant_error_args args = {
                    .scheme = scheme,
                    .scale_dtype = dtype,
                    .w = matrix,
                    .scale = empty ? 1.0f : *(float *)scale.data,
                    .zero = scheme.asymmetric && !empty ? *(int8_t *)zero.data : 0,
                    .errors = before};
                ops_expect(
                    run, PARE_OP_quant_error, &args, sizeof args,
                    (ops_output[]){
                        {offsetof(pare_quant_error_args, errors), sizeof before, 8, true}, {0}});
                ops_next(run);
            }
}

void ops_cases_quant_search(ops_run *run)
{
    static const ops_shape shapes[] = {{0, 5},  {5, 0},   {1, 1},   {3, 17},   {2, 64},
                                       {4, 33}, {17, 17}, {2, 300}, {1, 1600}, {6, 129}};
    static const ops_shape sizes[] = {{1, 1},  {1, 32},   {1, 128}, {16, 16},
                                      {3, 50}, {1, 2000}, {9, 2000}};
    int turn = 0;
    for (int i = 0; i < 15; i++)
        for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++)
            for (size_t b = 0; b < sizeof sizes / sizeof sizes[0]; b++, turn++) {
                pare_scheme scheme = scheme_of(i);
                pare_dtype dtype = weights[turn % 3];
                int64_t n = shapes[k].rows * shapes[k].cols;
                if (sizes[b].rows * sizes[b].cols == 1 && n > 64)
                    continue; /* nothing new, and a device's block for each */
                float *w = ops_floats(run, (ops_kind)(turn % OPS_WIDE), PARE_F32, n, 1);
                pare_quant_search_args args = {
                    .scheme = scheme,
                    .scale_dtype = dtype,
                    .w = pare_matrix(w, PARE_F32, shapes[k].rows, shapes[k].cols),
                    .block_rows = sizes[b].rows,
                    .block_cols = sizes[b].cols};
                searched_scales(run, &scheme, dtype, &args.w, sizes[b], &args.scale, &args.zero);
                size_t bytes = (size_t)pare_tensor_count(&args.scale) * 4;
                ops_expect(
                    run, PARE_OP_quant_search, &args, sizeof args,
                    (ops_output[]){{offsetof(pare_quant_search_args, scale.data), bytes, 4, true},
                                   {0}});
                ops_next(run);
            }
}

/* ---- packing --------------------------------------------------------------------------------- */

/* Every packing and width it has, over every shape. */
static void each_packing(ops_run *run,
                         void (*one)(ops_run *, pare_packing, int, ops_shape, size_t shift))
{
    for (int p = PARE_PACK_STREAM; p <= PARE_PACK_NIBBLES; p++)
        for (int bits = 1; bits <= 8; bits++)
            for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
                for (size_t shift = 0; shift < 2; shift++)
                    if (p != PARE_PACK_NIBBLES || bits == 4) {
                        one(run, (pare_packing)p, bits, *s, shift);
                        ops_next(run);
                    }
    for (size_t shift = 0; shift < 2; shift++) {
        one(run, PARE_PACK_NIBBLES, 4, (ops_shape){3, 70001}, shift);
        one(run, PARE_PACK_STREAM, 4, (ops_shape){5, 4096}, shift);
        ops_next(run);
    }
}

static ops_shape packed_shape(pare_packing packing, int bits, ops_shape s)
{
    if (packing == PARE_PACK_NIBBLES)
        return (ops_shape){1, pare_packed_bytes(packing, bits, s.rows * s.cols)};
    return (ops_shape){s.rows, pare_packed_bytes(packing, bits, s.cols)};
}

static void pack_case(ops_run *run, pare_packing packing, int bits, ops_shape s, size_t shift)
{
    ops_shape p = packed_shape(packing, bits, s);
    pare_scheme scheme = int_scheme(bits, false);
    if (packing == PARE_PACK_NIBBLES)
        scheme = nf4;
    pare_pack_args args = {.packing = packing,
                           .bits = bits,
                           .codes = pare_matrix(make_codes(run, &scheme, s.rows * s.cols, shift),
                                                PARE_I8, s.rows, s.cols),
                           .words = pare_matrix(NULL, PARE_U8, p.rows, p.cols)};
    ops_expect(
        run, PARE_OP_pack, &args, sizeof args,
        (ops_output[]){output(offsetof(pare_pack_args, words.data), p.rows * p.cols, 1), {0}});
}

void ops_cases_pack(ops_run *run)
{
    each_packing(run, pack_case);
}

static void unpack_case(ops_run *run, pare_packing packing, int bits, ops_shape s, size_t shift)
{
    ops_shape p = packed_shape(packing, bits, s);
    pare_unpack_args args = {
        .packing = packing,
        .bits = bits,
        .words = pare_matrix(ops_bytes(run, p.rows * p.cols, shift), PARE_U8, p.rows, p.cols),
        .codes = pare_matrix(NULL, PARE_I8, s.rows, s.cols)};
    ops_expect(
        run, PARE_OP_unpack, &args, sizeof args,
        (ops_output[]){output(offsetof(pare_unpack_args, codes.data), s.rows * s.cols, 1), {0}});
}

void ops_cases_unpack(ops_run *run)
{
    each_packing(run, unpack_case);
}
