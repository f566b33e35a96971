/* Rows of the factorisation and of the products of quantised weights. */
#include "ops_harness.h"

#include "base/half.h"

#include <math.h>

static const pare_dtype acts[] = {PARE_F32, PARE_BF16};

static size_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

static void *floats(ops_run *run, pare_dtype dtype, int64_t n)
{
    return ops_floats(run, OPS_NORMAL, dtype, n, (size_t)ops_below(run, 2) * 3);
}

/* ---- cholesky
 * --------------------------------------------------------------------------------
 */

/* X·Xᵀ/n + I/2 in the lower triangle, NaN above it: nobody is to read that. */
static pare_tensor definite(ops_run *run, int64_t n)
{
    const float *x = floats(run, PARE_F32, n * n);
    float *a = ops_memory(run, (size_t)(n * n) * 4, 4, (size_t)n % 2);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = i == j ? 0.5 : 0;
            for (int64_t k = 0; k < n && j <= i; k++)
                sum += (double)x[i * n + k] * (double)x[j * n + k] * 300 / (double)n;
            a[i * n + j] = j > i ? NAN : (float)sum;
        }
    return pare_matrix(a, PARE_F32, n, n);
}

static void cholesky_case(ops_run *run, int64_t n)
{
    pare_cholesky_args args = {.a = definite(run, n)};
    ops_output a = {.pointer = offsetof(pare_cholesky_args, a.data),
                    .bytes = (size_t)(n * n) * 4,
                    .align = 4,
                    .keeps = true,
                    .tolerance = 2e-5,
                    .dtype = PARE_F32};
    ops_expect(run, PARE_OP_cholesky, &args, sizeof args, (ops_output[]){a, {0}});
    ops_next(run);
}

/* The element [row, col], row ≥ col, makes the minor of order row + 1 fail. */
static void cholesky_fails(ops_run *run, int64_t n, int64_t row, int64_t col, float value)
{
    for (int b = 0; ops_backend(run, b); b++) {
        pare_cholesky_args args = {.a = definite(run, n)};
        char order[64];
        snprintf(order, sizeof order, "order %lld ", (long long)row + 1);
        ((float *)args.a.data)[row * n + col] = value;
        assert_status(ops_call(run, PARE_OP_cholesky, ops_backend(run, b), &args),
                      PARE_ERR_NUMERIC);
        if (!strstr(pare_last_error(), order))
            fail_msg("\"%s\" does not name %s", pare_last_error(), order);
        ops_next(run);
    }
}

void ops_cases_cholesky(ops_run *run)
{
    static const int64_t sizes[] = {0,  1,  2,  3,  5,  7,   8,   15,  16,  17, 31,
                                    33, 63, 64, 65, 96, 127, 128, 129, 150, 200};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        cholesky_case(run, sizes[i]);
    cholesky_fails(run, 1, 0, 0, 0.0f);
    cholesky_fails(run, 5, 2, 2, -1.0f);
    cholesky_fails(run, 5, 4, 0, NAN);
    cholesky_fails(run, 100, 80, 3, 40.0f);
    cholesky_fails(run, 100, 99, 99, INFINITY);
    cholesky_fails(run, 130, 64, 64, NAN);
    cholesky_fails(run, 130, 129, 128, 100.0f);
}

/* ---- products of quantised weights
 * ----------------------------------------------------------- */

typedef struct product {
    int64_t M, N, K;
} product;

/* Around a tile's rows (16, 64, 128), columns (32, 128) and terms (16 bytes of
 * either kind, 64, 128). */
static const product products[] = {
    {0, 5, 3},     {5, 0, 3},      {3, 5, 0},     {1, 1, 1},      {1, 33, 64},   {2, 31, 65},
    {7, 40, 129},  {8, 32, 1024},  {9, 64, 100},  {16, 96, 520},  {17, 33, 40},  {31, 127, 63},
    {64, 128, 96}, {65, 129, 130}, {130, 20, 17}, {128, 130, 64}, {1, 17, 2080}, {20, 5, 1000},
};
#define PRODUCTS (sizeof products / sizeof *products)

/* Of a BF16 a tie may fall the other way: a whole step. */
static ops_output output_of(size_t pointer, const pare_tensor *c)
{
    size_t size = element(c->dtype);
    return (ops_output){.pointer = pointer,
                        .bytes = (size_t)pare_tensor_count(c) * size,
                        .align = size,
                        .tolerance = 1e-5 + (c->dtype == PARE_BF16 ? 0x1p-8 : 0),
                        .dtype = c->dtype};
}

/* Row m of x [M, K] becomes one value. */
static void fill_row(const pare_tensor *x, int64_t m, float value)
{
    int64_t K = x->shape[1];
    for (int64_t k = m * K; m < x->shape[0] && k < (m + 1) * K; k++)
        if (x->dtype == PARE_F32)
            ((float *)x->data)[k] = value;
        else
            ((uint16_t *)x->data)[k] = pare__f32_to_bf16(value);
}

/* what: bit 0 BF16, bit 1 a bias, bit 2 odd rows. */
static void w8a8_case(ops_run *run, const product *p, int what)
{
    pare_dtype act = acts[what & 1];
    size_t shift = (size_t)ops_below(run, 2) * 3;
    pare_qgemm_w8a8_args args = {
        .x = pare_matrix(floats(run, act, p->M * p->K), act, p->M, p->K),
        .w = pare_matrix(ops_bytes(run, p->N * p->K, shift), PARE_I8, p->N, p->K),
        .scale = pare_vector(floats(run, PARE_F32, p->N), PARE_F32, p->N),
        .c = pare_matrix(NULL, act, p->M, p->N)};
    if (what & 2)
        args.bias = pare_vector(floats(run, PARE_F32, p->N), PARE_F32, p->N);
    if (what & 4) { /* all codes −128 or 127; none; too small for a scale; not finite */
        fill_row(&args.x, 0, -3.0f);
        fill_row(&args.x, 2, 0.0f);
        fill_row(&args.x, 3, 1e-44f);
        if (p->M > 4 && p->K > 0)
            fill_row(
                &(pare_tensor){.data = (uint8_t *)args.x.data + 4 * p->K * (int64_t)element(act),
                               .dtype = act,
                               .rank = 2,
                               .shape = {1, 1}},
                0, p->M % 2 ? NAN : -INFINITY);
        memset(args.w.data, 0x80, (size_t)(p->N > 0 ? p->K : 0));
    }
    ops_output c = output_of(offsetof(pare_qgemm_w8a8_args, c.data), &args.c);
    ops_expect(run, PARE_OP_qgemm_w8a8, &args, sizeof args, (ops_output[]){c, {0}});
    ops_next(run);
}

void ops_cases_qgemm_w8a8(ops_run *run)
{
    for (size_t i = 0; i < PRODUCTS; i++)
        for (int act = 0; act < 2; act++) {
            w8a8_case(run, &products[i], act | (int)ops_below(run, 2) << 1);
            w8a8_case(run, &products[i], act | (int)ops_below(run, 2) << 1 | 4);
        }
    for (int what = 0; what < 8; what++)
        w8a8_case(run, &(product){5 + what / 4 * 20, 40, 192}, what);
}

/* what: bit 0 BF16, bit 1 a bias, bit 2 zero points, bit 3 nothing is aligned.
 */
static void w4a16_case(ops_run *run, const product *p, int64_t group, int what)
{
    pare_dtype act = acts[what & 1];
    int64_t bytes = pare_packed_bytes(PARE_PACK_STREAM, 4, p->K),
            groups = (p->K + group - 1) / group;
    size_t shift = what & 8 ? 3 : 0;
    pare_qgemm_w4a16_args args = {
        .x = pare_matrix(ops_floats(run, OPS_NORMAL, act, p->M * p->K, shift), act, p->M, p->K),
        .words = pare_matrix(ops_bytes(run, p->N * bytes, shift), PARE_U8, p->N, bytes),
        .scale = pare_matrix(floats(run, PARE_F32, p->N * groups), PARE_F32, p->N, groups),
        .c = pare_matrix(NULL, act, p->M, p->N),
        .group = group};
    if (what & 2)
        args.bias = pare_vector(floats(run, PARE_F32, p->N), PARE_F32, p->N);
    if (what & 4) {
        int8_t *zero = ops_memory(run, (size_t)(p->N * groups), 1, shift);
        for (int64_t i = 0; i < p->N * groups; i++)
            zero[i] = (int8_t)(ops_below(run, 16) - 8);
        args.zero = pare_matrix(zero, PARE_I8, p->N, groups);
    }
    ops_output c = output_of(offsetof(pare_qgemm_w4a16_args, c.data), &args.c);
    ops_expect(run, PARE_OP_qgemm_w4a16, &args, sizeof args, (ops_output[]){c, {0}});
    ops_next(run);
}

void ops_cases_qgemm_w4a16(ops_run *run)
{
    static const int64_t groups[] = {8, 16, 32, 40, 64, 128, 4096};
    for (size_t i = 0; i < PRODUCTS; i++)
        for (int act = 0; act < 2; act++)
            w4a16_case(run, &products[i], groups[ops_below(run, 7)],
                       act | (int)ops_below(run, 8) << 1);
    for (int what = 0; what < 16; what++)
        w4a16_case(run, &(product){5 + what / 8 * 20, 40, 192}, groups[what % 7], what);
    for (int g = 0; g < 7; g++) {
        w4a16_case(run, &(product){3, 33, 256}, groups[g], 1 | (g & 1) << 2);
        w4a16_case(run, &(product){18, 33, 256}, groups[g], 1 | (g & 1) << 2);
    }
}
