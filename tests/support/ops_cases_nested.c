/* Rows of scales that are quantised in their turn. */
#include "ops_harness.h"

#include "base/half.h"

#include <math.h>

static const int64_t sizes[] = {0, 1, 2, 63, 255, 256, 257, 511, 512, 513, 1031, -1};

/* Scales of a tensor (positive, their mean the offset), with outliers, all equal, some 0; or of any
 * sign with an offset of its own. */
static float *make_scales(ops_run *run, int turn, int64_t n, float *offset)
{
    ops_kind kind = turn % 6 == 5 ? OPS_TINY : turn % 6 == 4 ? OPS_GRID : OPS_NORMAL;
    float *s = ops_floats(run, kind, PARE_F32, n, 1);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        if (turn % 6 != 4)
            s[i] = fabsf(s[i]);
        if (turn % 6 == 1 && i % 100 == 7)
            s[i] *= 1000.0f;
        if (turn % 6 == 2)
            s[i] = 0.25f;
        if (turn % 6 == 3 && i % 3 == 0)
            s[i] = 0.0f;
        sum += (double)s[i];
    }
    *offset = turn % 6 == 4 ? 0.375f : n ? (float)(sum / (double)n) : 0.0f;
    return s;
}

static void quant_case(ops_run *run, const float *scale, int64_t n, float offset)
{
    pare_quant_nested_args args = {.offset = offset,
                                   .scale = pare_vector((void *)(uintptr_t)scale, PARE_F32, n),
                                   .codes = pare_vector(NULL, PARE_U8, n),
                                   .nested = pare_vector(NULL, PARE_F32, (n + 255) / 256)};
    size_t count = (size_t)n, blocks = (count + 255) / 256;
    ops_expect(run, PARE_OP_quant_nested, &args, sizeof args,
               (ops_output[]){{offsetof(pare_quant_nested_args, scale.data), count * 4, 4, true},
                              {offsetof(pare_quant_nested_args, codes.data), count, 1, false},
                              {offsetof(pare_quant_nested_args, nested.data), blocks * 4, 4, false},
                              {0}});
    ops_next(run);
}

/* What codes decode to, as the first backend has it (which its own rows prove). */
static void levels_of(ops_run *run, float level[256])
{
    uint8_t *codes = ops_memory(run, 256, 1, 0);
    float *scale = ops_memory(run, 256 * 4, 4, 0), *one = ops_memory(run, 4, 4, 0);
    *one = 1;
    for (int i = 0; i < 256; i++)
        codes[i] = (uint8_t)i;
    pare_dequant_nested_args args = {.codes = pare_vector(codes, PARE_U8, 256),
                                     .nested = pare_vector(one, PARE_F32, 1),
                                     .scale = pare_vector(scale, PARE_F32, 256)};
    assert_ok(ops_call(run, PARE_OP_dequant_nested, ops_backend(run, 0), &args));
    memcpy(level, scale, 256 * 4);
    ops_next(run);
}

/* Every midpoint between two levels, and the floats on both sides of it. */
static void boundary_cases(ops_run *run)
{
    float level[256];
    levels_of(run, level);
    for (int side = -1; side <= 1; side++) {
        float *s = ops_memory(run, 256 * 4, 4, 1);
        for (int j = 0; j < 255; j++) {
            float middle = (level[j] + level[j + 1]) * 0.5f;
            s[j] = pare__bits_f32(pare__f32_bits(middle) + (uint32_t)side);
        }
        s[255] = 1; /* the largest: all others are what they are divided by it */
        quant_case(run, s, 256, 0);
    }
}

void ops_cases_quant_nested(ops_run *run)
{
    for (int turn = 0; turn < 12; turn++)
        for (const int64_t *n = sizes; *n >= 0; n++) {
            float offset;
            float *scale = make_scales(run, turn, *n, &offset);
            quant_case(run, scale, *n, offset);
        }
    boundary_cases(run);
    for (int k = 0; ops_backend(run, k); k++) {
        for (int at = 0; at < 300; at += 299) {
            float *scale = ops_memory(run, 300 * 4, 4, 1), *nested = ops_memory(run, 2 * 4, 4, 0);
            uint8_t *codes = ops_memory(run, 300, 1, 0);
            scale[at] = k % 2 ? INFINITY : NAN;
            pare_quant_nested_args args = {.scale = pare_vector(scale, PARE_F32, 300),
                                           .codes = pare_vector(codes, PARE_U8, 300),
                                           .nested = pare_vector(nested, PARE_F32, 2)};
            assert_status(ops_call(run, PARE_OP_quant_nested, ops_backend(run, k), &args),
                          PARE_ERR_DAMAGED);
            ops_next(run);
        }
    }
}

void ops_cases_dequant_nested(ops_run *run)
{
    static const float offsets[] = {0, 0.0123f, -3, 1e30f, 0x1p-140f};
    for (int turn = 0; turn < 5; turn++)
        for (const int64_t *n = sizes; *n >= 0; n++) {
            int64_t blocks = (*n + 255) / 256;
            ops_kind kind = turn % 2 ? OPS_TINY : OPS_NORMAL;
            pare_dequant_nested_args args = {
                .offset = offsets[turn],
                .codes = pare_vector(ops_bytes(run, *n, 1), PARE_U8, *n),
                .nested = pare_vector(ops_floats(run, kind, PARE_F32, blocks, 1), PARE_F32, blocks),
                .scale = pare_vector(NULL, PARE_F32, *n)};
            ops_expect(run, PARE_OP_dequant_nested, &args, sizeof args,
                       (ops_output[]){{offsetof(pare_dequant_nested_args, scale.data),
                                       (size_t)*n * 4, 4, false},
                                      {0}});
            ops_next(run);
        }
}
