/* cpu_quant_pack.c - round to nearest in one pass: the ops it stands for, one after another over
 * pieces that stay in the second-level cache. A piece is some rows, or a part of a long one that
 * ends where both a group and a packed word end. Bound by quantize (cpu_quant.c).
 */
#include "cpu_impl.h"

#define PIECE 16384 /* weights of a piece, or one group more */

typedef struct pack_pieces {
    const pare_quant_pack_args *args;
    int64_t rows, cols;    /* of a piece */
    int64_t across, count; /* side by side, all */
    int64_t room;          /* bytes of scratch for a piece */
    uint8_t *scratch;      /* that much for each part */
    int64_t *bad;          /* the first block without a finite scale so far */
} pack_pieces;

static int64_t least_common(int64_t group, int64_t unit)
{
    int64_t a = group, b = unit;
    while (b > 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return group / a * unit;
}

/* The elements [at, at + rows·cols) of t (whole rows, or a part of one) as a matrix. */
static pare_tensor cut(const pare_tensor *t, int64_t at, int64_t rows, int64_t cols)
{
    int64_t size = pare_dtype_bits(t->dtype) / 8;
    return pare_matrix(t->data ? (uint8_t *)t->data + at * size : NULL, t->dtype, rows, cols);
}

/* Keeps the lowest index; the parts run at once. */
static void blame(int64_t *bad, const float *scale, int64_t first, int64_t n)
{
    int64_t i = 0;
    while (i < n && (pare__f32_bits(scale[i]) & 0x7fffffffu) < 0x7f800000u)
        i++;
#pragma omp critical(pare_quant_pack)
    if (*bad < 0 || first + i < *bad)
        *bad = first + i;
}

static pare_status do_piece(const pack_pieces *p, int64_t index, uint8_t *room)
{
    const pare_quant_pack_args *a = p->args;
    pare_backend alone = {.threads = 1};
    int64_t R = a->w.shape[0], C = a->w.shape[1], G = a->block_cols, across = a->scale.shape[1];
    int64_t row = index / p->across * p->rows, col = index % p->across * p->cols;
    int64_t rows = cpu_min(p->rows, R - row), cols = cpu_min(p->cols, C - col), n = rows * cols;
    int64_t blocks = rows * cpu_ceil_div(cols, G), block = row * across + col / G;
    pare_tensor scale = cut(&a->scale, block, rows, blocks / rows);
    pare_tensor zero = cut(&a->zero, a->zero.data ? block : 0, rows, blocks / rows);
    pare_tensor lo = pare_matrix(room, PARE_F32, rows, blocks / rows);
    float *values = (float *)lo.data + blocks;
    const float *from = PARE_CPU(pare__cpu_widen)(&a->w, row * C + col, n, values);
    pare_tensor w = pare_matrix((void *)(uintptr_t)from, PARE_F32, rows, cols);
    pare_tensor codes = pare_matrix(values + (from == values ? n : 0), PARE_I8, rows, cols);
    if (a->codes.data)
        codes = cut(&a->codes, row * C + col, rows, cols);
    PARE_TRY(PARE_CPU(pare_cpu_quant_range)(
        &alone,
        &(pare_quant_range_args){.w = w, .block_rows = 1, .block_cols = G, .lo = lo, .hi = scale}));
    pare_status status = PARE_CPU(pare_cpu_quant_scale)(
        &alone, &(pare_quant_scale_args){.scheme = a->scheme,
                                         .scale_dtype = a->scale_dtype,
                                         .lo = pare_vector(lo.data, PARE_F32, blocks),
                                         .hi = pare_vector(scale.data, PARE_F32, blocks),
                                         .scale = pare_vector(scale.data, PARE_F32, blocks),
                                         .zero = pare_vector(zero.data, PARE_I8, blocks)});
    if (status != PARE_OK) {
        blame(p->bad, scale.data, block, blocks);
        return PARE_OK;
    }
    PARE_TRY(PARE_CPU(pare_cpu_quantize)(&alone, &(pare_quantize_args){.scheme = a->scheme,
                                                                       .w = w,
                                                                       .block_rows = 1,
                                                                       .block_cols = G,
                                                                       .scale = scale,
                                                                       .zero = zero,
                                                                       .codes = codes}));
    if (!a->words.data)
        return PARE_OK;
    int64_t bytes = pare_packed_bytes(PARE_PACK_STREAM, a->scheme.bits, cols);
    int64_t at = row * a->words.shape[1] + col / 32 * a->scheme.bits * 4;
    PARE_TRY(PARE_CPU(pare_cpu_pack)(&alone,
                                     &(pare_pack_args){.packing = PARE_PACK_STREAM,
                                                       .bits = a->scheme.bits,
                                                       .codes = codes,
                                                       .words = cut(&a->words, at, rows, bytes)}));
    return PARE_OK;
}

/* None of the ops of a piece can fail but quant_scale, which leaves its blame. */
static void do_part(const pack_pieces *p, int part, int parts)
{
    uint8_t *room = p->scratch + part * p->room;
    for (int64_t i = p->count * part / parts; i < p->count * (part + 1) / parts; i++)
        (void)do_piece(p, i, room);
}

static void cut_pieces(pack_pieces *p)
{
    const pare_quant_pack_args *a = p->args;
    int64_t R = a->w.shape[0], C = a->w.shape[1], step = C;
    if (a->block_cols < C)
        step = cpu_min(C, least_common(a->block_cols, 32));
    p->rows = C <= PIECE ? cpu_min(R, PIECE / C) : 1;
    p->cols = cpu_min(C, PIECE < step ? step : PIECE / step * step);
    if (C <= PIECE)
        p->cols = C;
    p->across = cpu_ceil_div(C, p->cols);
    p->count = p->across * cpu_ceil_div(R, p->rows);
    int64_t n = p->rows * p->cols, blocks = p->rows * cpu_ceil_div(p->cols, a->block_cols);
    p->room = blocks * 4 + (a->w.dtype == PARE_F32 ? 0 : n * 4) + (a->codes.data ? 0 : n);
    p->room = cpu_ceil_div(p->room, 64) * 64;
}

pare_status PARE_CPU(pare_cpu_quant_pack)(pare_backend *be, const pare_quant_pack_args *args)
{
    int64_t bad = -1;
    pack_pieces pieces = {.args = args, .bad = &bad};
    void *scratch;
    if (pare_tensor_count(&args->w) == 0)
        return PARE_OK;
    cut_pieces(&pieces);
    int parts = (int)cpu_min(be->threads, pieces.count);
    PARE_TRY(pare__scratch(be, (size_t)(parts * pieces.room), &scratch));
    pieces.scratch = scratch;
    if (parts == 1) {
        do_part(&pieces, 0, 1);
    } else {
#pragma omp parallel for num_threads(parts) schedule(static, 1)
        for (int p = 0; p < parts; p++)
            do_part(&pieces, p, parts);
    }
    PARE_REQUIRE(bad < 0, PARE_ERR_DAMAGED,
                 "block %lld has no finite scale in %s: a value is NaN, Inf or too large",
                 (long long)bad, pare_dtype_name(args->scale_dtype));
    return PARE_OK;
}
