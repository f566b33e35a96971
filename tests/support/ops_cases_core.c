/* Rows of the ops in ops_core.h. */
#include "ops_harness.h"

#include "base/half.h"

static const pare_dtype weights[] = {PARE_F32, PARE_F16, PARE_BF16};

static size_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

/* Every 16-bit pattern is an input too. */
static void cast_every_half(ops_run *run, pare_dtype from, pare_dtype to)
{
    uint16_t *x = ops_memory(run, 65536 * 2, 2, 0);
    for (int i = 0; i < 65536; i++)
        x[i] = (uint16_t)i;
    pare_cast_args args = {.x = pare_vector(x, from, 65536), .y = pare_vector(NULL, to, 65536)};
    ops_expect(run, PARE_OP_cast, &args, sizeof args,
               (ops_output[]){
                   {offsetof(pare_cast_args, y.data), 65536 * element(to), element(to), 0}, {0}});
    ops_next(run);
}

/* F32 numbers on, just below and just above every boundary between two halves. */
static void cast_every_boundary(ops_run *run, pare_dtype to)
{
    int64_t n = 3 * 65536;
    uint32_t *x = ops_memory(run, (size_t)n * 4, 4, 0);
    for (int64_t i = 0; i < 65536; i++) {
        uint32_t low = to == PARE_F16 ? pare__f32_bits(pare__f16_to_f32((uint16_t)i))
                                      : pare__f32_bits(pare__bf16_to_f32((uint16_t)i));
        uint32_t middle = low + (to == PARE_F16 ? 0x1000u : 0x8000u);
        x[3 * i] = middle;
        x[3 * i + 1] = middle - 1;
        x[3 * i + 2] = middle + 1;
    }
    pare_cast_args args = {.x = pare_vector(x, PARE_F32, n), .y = pare_vector(NULL, to, n)};
    ops_expect(run, PARE_OP_cast, &args, sizeof args,
               (ops_output[]){{offsetof(pare_cast_args, y.data), (size_t)n * 2, 2, 0}, {0}});
    ops_next(run);
}

void ops_cases_cast(ops_run *run)
{
    for (int f = 0; f < 3; f++)
        for (int t = 0; t < 3; t++)
            for (const int64_t *n = ops_sizes; *n >= 0; n++) {
                ops_kind kind = (ops_kind)ops_below(run, OPS_KINDS);
                void *x = ops_floats(run, kind, weights[f], *n, (size_t)(*n + 1) % 3);
                pare_cast_args args = {.x = pare_vector(x, weights[f], *n),
                                       .y = pare_matrix(NULL, weights[t], *n, 1)};
                size_t size = element(weights[t]);
                ops_expect(
                    run, PARE_OP_cast, &args, sizeof args,
                    (ops_output[]){
                        {offsetof(pare_cast_args, y.data), (size_t)*n * size, size, false}, {0}});
                ops_next(run);
            }
    for (int t = 0; t < 3; t++) {
        cast_every_half(run, PARE_F16, weights[t]);
        cast_every_half(run, PARE_BF16, weights[t]);
    }
    cast_every_boundary(run, PARE_F16);
    cast_every_boundary(run, PARE_BF16);
    float *same = ops_memory(run, 3 * sizeof *same, 4, 0); /* in place */
    same[0] = 1.0f;
    same[1] = -0.0f;
    same[2] = 3.0f;
    pare_tensor x = pare_vector(same, PARE_F32, 3);
    assert_ok(ops_call(run, PARE_OP_cast, ops_backend(run, 0), &(pare_cast_args){.x = x, .y = x}));
    assert_true(same[0] == 1.0f && same[2] == 3.0f);
    ops_next(run);
}

#define MANY 300001 /* more than a device's grid takes at once */

static void stats_case(ops_run *run, ops_kind kind, pare_dtype dtype, int64_t n, size_t shift)
{
    pare_stats_args args = {.x = pare_vector(ops_floats(run, kind, dtype, n, shift), dtype, n)};
    ops_expect(run, PARE_OP_stats, &args, sizeof args,
               (ops_output[]){
                   {offsetof(pare_stats_args, result), sizeof(pare_stats_result), 8, false}, {0}});
    ops_next(run);
}

void ops_cases_stats(ops_run *run)
{
    for (int d = 0; d < 3; d++)
        for (int kind = 0; kind < OPS_KINDS; kind++)
            for (const int64_t *n = ops_sizes; *n >= 0; n++)
                if (kind != OPS_WIDE || *n <= 1100)
                    stats_case(run, (ops_kind)kind, weights[d], *n, (size_t)*n % 3);
    stats_case(run, OPS_BAD, PARE_F32, MANY, 0);
    stats_case(run, OPS_NORMAL, PARE_BF16, MANY, 0);
}

static void diff_case(ops_run *run, ops_kind kind, int64_t n, size_t shift)
{
    float *a = ops_floats(run, kind, PARE_F32, n, shift);
    float *b = ops_floats(run, kind, PARE_F32, n, 2 * shift);
    for (int64_t i = 0; i < n; i += 2) /* half of the pairs agree */
        b[i] = a[i] == 0.0f ? -a[i] : a[i];
    pare_diff_args args = {.a = pare_vector(a, PARE_F32, n), .b = pare_vector(b, PARE_F32, n)};
    ops_expect(run, PARE_OP_diff, &args, sizeof args,
               (ops_output[]){
                   {offsetof(pare_diff_args, result), sizeof(pare_diff_result), 8, false}, {0}});
    ops_next(run);
}

void ops_cases_diff(ops_run *run)
{
    for (int kind = 0; kind < OPS_KINDS; kind++)
        for (const int64_t *n = ops_sizes; *n >= 0; n++)
            diff_case(run, (ops_kind)kind, *n, (size_t)*n % 2);
    diff_case(run, OPS_BAD, MANY, 0);
}

void ops_cases_digest(ops_run *run)
{
    for (const int64_t *n = ops_sizes; *n >= 0; n++)
        for (size_t shift = 0; shift < 3; shift++) {
            uint64_t before[2] = {ops_random(run), ops_random(run)};
            pare_digest_args args = {.bytes = ops_bytes(run, *n, shift),
                                     .size = *n,
                                     .seed = shift == 2 ? 0 : ops_random(run),
                                     .result = before};
            ops_expect(
                run, PARE_OP_digest, &args, sizeof args,
                (ops_output[]){{offsetof(pare_digest_args, result), sizeof before, 8, true}, {0}});
            ops_next(run);
        }
}
