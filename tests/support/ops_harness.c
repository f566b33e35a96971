#include "ops_device.h"
#include "ops_oracle.h"

#include "base/half.h"

#include <math.h>

const int64_t ops_sizes[] = {0,   1,   2,   3,    7,    8,    9,    15,    16,  17,  31,
                             32,  33,  63,  64,   65,   127,  128,  129,   255, 257, 511,
                             512, 513, 997, 1023, 1024, 1025, 4099, 70001, -1};

const ops_shape ops_shapes[] = {{0, 5},   {5, 0},   {1, 1},   {1, 7},    {3, 8},    {2, 9},
                                {3, 16},  {2, 17},  {5, 31},  {3, 32},   {4, 33},   {5, 63},
                                {4, 64},  {3, 65},  {64, 3},  {7, 128},  {2, 130},  {17, 17},
                                {3, 512}, {2, 513}, {1, 997}, {2, 1040}, {33, 256}, {-1, -1}};

/* ---- the ops by number ----------------------------------------------------------------------- */

typedef struct op_calls {
    pare_status (*op)(pare_backend *be, const void *args);
    void (*oracle)(const void *args);
    size_t args_size;
} op_calls;

#define OP_THUNKS(name)                                                                            \
    static pare_status call_##name(pare_backend *be, const void *args)                             \
    {                                                                                              \
        return pare_##name(be, args);                                                              \
    }                                                                                              \
    static void ask_##name(const void *args)                                                       \
    {                                                                                              \
        oracle_##name(args);                                                                       \
    }
PARE_OPS(OP_THUNKS)

static const op_calls calls[PARE_OP_COUNT] = {
#define OP_ROW(name) [PARE_OP_##name] = {call_##name, ask_##name, sizeof(pare_##name##_args)},
    PARE_OPS(OP_ROW)
#undef OP_ROW
};

pare_status ops_call(ops_run *run, pare_op op, pare_backend *be, const void *args)
{
    if (pare_backend_is_host(be))
        return calls[op].op(be, args);
    return ops_device_call(run, op, calls[op].op, be, args, calls[op].args_size);
}

/* ---- run ------------------------------------------------------------------------------------- */

ops_run *ops_run_make(void)
{
    ops_run *run = calloc(1, sizeof *run);
    assert_non_null(run);
    int count = 0;
    for (const char *const *isa = pare_cpu_isas(); *isa; isa++) {
        if (!pare_cpu_has_isa(*isa))
            continue;
        for (int threads = 1; threads <= 3; threads += 2)
            assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = threads, .isa = *isa},
                                      &run->backends[count++]));
    }
    run->state = 1;
    return run;
}

ops_run *ops_run_make_device(pare_backend *device, bool (*mode)(int index))
{
    ops_run *run = calloc(1, sizeof *run);
    assert_non_null(run);
    run->backends[0] = device;
    run->mode = mode;
    run->state = 1;
    return run;
}

void ops_run_free(ops_run *run)
{
    ops_next(run);
    for (pare_backend **be = run->backends; *be; be++)
        pare_backend_free(be);
    free(run);
}

pare_backend *ops_backend(ops_run *run, int index)
{
    return run->backends[index];
}

void ops_start(ops_run *run, const char *name)
{
    run->cases = 0;
    run->state = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *name; name++)
        run->state = (run->state ^ (uint8_t)*name) * 0x100000001b3u;
}

uint64_t ops_random(ops_run *run)
{
    uint64_t z = run->state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

uint64_t ops_seed(ops_run *run, uint64_t place)
{
    uint64_t was = run->state;
    run->state = place;
    return was;
}

int64_t ops_below(ops_run *run, int64_t bound)
{
    return (int64_t)(ops_random(run) % (uint64_t)bound);
}

/* ---- inputs ---------------------------------------------------------------------------------- */

void *ops_memory(ops_run *run, size_t bytes, size_t align, size_t shift)
{
    size_t size = bytes + align * shift; /* exactly: a sanitizer sees the first byte behind */
    void *block = NULL;
    assert_int_equal(posix_memalign(&block, 64, size > 0 ? size : 1), 0);
    assert_true(run->block_count < OPS_MAX_BLOCKS);
    run->sizes[run->block_count] = size;
    run->blocks[run->block_count++] = block;
    memset(block, 0x3c, size);
    return (uint8_t *)block + align * shift;
}

void ops_next(ops_run *run)
{
    while (run->block_count > 0)
        free(run->blocks[--run->block_count]);
}

static float one_float(ops_run *run, ops_kind kind)
{
    uint64_t r = ops_random(run);
    uint32_t bits = (uint32_t)r, sign = bits & 0x80000000u;
    float unit = (float)(bits >> 8) * 0x1p-24f, sum = 0;
    switch (kind) {
    case OPS_GRID:
        return (float)((int)(bits % 257) - 128) / 8.0f;
    case OPS_ZEROS:
        return r >> 63 ? pare__bits_f32(sign)
                       : pare__bits_f32(sign | 0x3f800000u | (bits & 3u) << 21);
    case OPS_TINY:
        return pare__bits_f32(sign | (bits & 0x00ffffffu) >> (r >> 40) % 24);
    case OPS_WIDE:
        return pare__bits_f32((bits & 0x7f800000u) == 0x7f800000u ? bits & ~0x40000000u : bits);
    case OPS_EQUAL:
        return 0.7f;
    case OPS_BAD:
        return bits % 61 == 0
                   ? pare__bits_f32(sign | 0x7f800000u | (uint32_t)(r >> 41) * (r >> 40 & 1u))
                   : unit;
    default:
        for (int i = 0; i < 4; i++)
            sum += (float)(int16_t)(r >> 16 * i) * 0x1p-16f;
        return sum * 0.1f;
    }
}

void *ops_floats(ops_run *run, ops_kind kind, pare_dtype dtype, int64_t n, size_t shift)
{
    size_t size = dtype == PARE_F32 ? 4 : 2;
    uint8_t *data = ops_memory(run, (size_t)n * size, size, shift);
    for (int64_t i = 0; i < n; i++) {
        float x = one_float(run, kind);
        uint16_t h = dtype == PARE_F16 ? pare__f32_to_f16(x) : pare__f32_to_bf16(x);
        bool keep = dtype == PARE_F32;
        if (!keep && kind == OPS_WIDE) /* any bits of the half itself, but finite */
            h = (uint16_t)(ops_random(run) & (dtype == PARE_F16 ? 0xbfffu : 0xbf7fu));
        memcpy(data + (size_t)i * size, keep ? (void *)&x : (void *)&h, size);
    }
    return data;
}

uint8_t *ops_bytes(ops_run *run, int64_t n, size_t shift)
{
    uint8_t *data = ops_memory(run, (size_t)n, 1, shift);
    for (int64_t i = 0; i < n; i++)
        data[i] = (uint8_t)ops_random(run);
    return data;
}

uint32_t *ops_keys(ops_run *run, int64_t n, size_t shift)
{
    uint32_t *keys = ops_memory(run, (size_t)n * 4, 4, shift);
    for (int64_t i = 0; i < n; i++) {
        uint32_t r = (uint32_t)ops_random(run);
        keys[i] = (r & 3u) == 0 ? r >> 1 : (r >> 8 & 7u) * 0x10001u;
    }
    return keys;
}

uint8_t *ops_mask(ops_run *run, int64_t rows, int64_t cols, int of, size_t shift)
{
    int64_t bytes = (cols + 7) / 8;
    uint8_t *mask = ops_memory(run, (size_t)(rows * bytes), 1, shift);
    memset(mask, 0, (size_t)(rows * bytes));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            if (ops_below(run, 256) < of)
                mask[r * bytes + c / 8] |= (uint8_t)(1u << c % 8);
    return mask;
}

/* ---- comparison ------------------------------------------------------------------------------ */

static uint8_t pattern(size_t i)
{
    return (uint8_t)(0xa5u ^ i * 29u);
}

static ops_instance make_instance(const void *args, size_t args_size, const ops_output *outs,
                                  size_t shift)
{
    ops_instance in = {.args = malloc(args_size)};
    assert_non_null(in.args);
    memcpy(in.args, args, args_size);
    for (int i = 0; outs[i].align != 0; i++) {
        assert_true(i < OPS_MAX_OUTPUTS);
        in.total[i] = OPS_GUARD + outs[i].align * shift + outs[i].bytes + OPS_GUARD;
        in.memory[i] = aligned_alloc(64, (in.total[i] + 63) / 64 * 64);
        assert_non_null(in.memory[i]);
        for (size_t j = 0; j < in.total[i]; j++)
            in.memory[i][j] = pattern(j);
        in.data[i] = in.memory[i] + OPS_GUARD + outs[i].align * shift;
        const void *start;
        memcpy(&start, (const uint8_t *)args + outs[i].pointer, sizeof start);
        if (outs[i].keeps && outs[i].bytes > 0)
            memcpy(in.data[i], start, outs[i].bytes);
        memcpy((uint8_t *)in.args + outs[i].pointer, &in.data[i], sizeof in.data[i]);
    }
    return in;
}

/* The inputs that outputs take the place of move to where these are. */
static void join_in_place(ops_instance *in, const ops_output *outs)
{
    for (int i = 0; outs[i].align != 0; i++) {
        if (!outs[i].in_place)
            continue;
        uint8_t *at = (uint8_t *)in->args + outs[i].input;
        const void *start;
        memcpy(&start, at, sizeof start);
        if (outs[i].bytes > 0)
            memcpy(in->data[i], start, outs[i].bytes);
        memcpy(at, &in->data[i], sizeof in->data[i]);
    }
}

static void free_instance(ops_instance *in, const ops_output *outs)
{
    for (int i = 0; outs[i].align != 0; i++)
        free(in->memory[i]);
    free(in->args);
}

static void check_guards(const ops_instance *in, const ops_output *outs, const char *what)
{
    for (int i = 0; outs[i].align != 0; i++)
        for (size_t j = 0; j < in->total[i]; j++) {
            const uint8_t *at = in->memory[i] + j;
            bool inside = at >= in->data[i] && at < in->data[i] + outs[i].bytes;
            if (!inside && *at != pattern(j))
                fail_msg("%s: output %d was written outside, %td bytes from its start", what, i,
                         at - in->data[i]);
        }
}

static void compare_bytes(const ops_instance *got, const ops_instance *want, const ops_output *outs,
                          int i, const char *what)
{
    for (size_t j = 0; j < outs[i].bytes; j++)
        if (got->data[i][j] != want->data[i][j])
            fail_msg("%s: output %d differs from the oracle at byte %zu of %zu: %#x, not %#x", what,
                     i, j, outs[i].bytes, got->data[i][j], want->data[i][j]);
}

/* Element i of an output that is compared as numbers. */
static double number(const void *data, pare_dtype dtype, int64_t i)
{
    return dtype == PARE_F64 ? ((const double *)data)[i] : oracle_value(data, dtype, i);
}

double ops_rms(const void *data, pare_dtype dtype, int64_t n)
{
    double sum = 0;
    int64_t count = 0;
    for (int64_t j = 0; j < n; j++) {
        double x = number(data, dtype, j);
        if (isfinite(x)) {
            sum += x * x;
            count++;
        }
    }
    return count > 0 ? sqrt(sum / (double)count) : 0;
}

/* How far a is from b in units of what is allowed: 0 for equal numbers and for two NaNs, Inf for
 * one NaN or Inf. */
static double deviation(double a, double b, double tolerance, double scale)
{
    if (a == b || (isnan(a) && isnan(b)))
        return 0;
    if (!isfinite(a) || !isfinite(b))
        return (double)INFINITY;
    return fabs(a - b) / (tolerance * (fabs(b) + scale));
}

static void compare_numbers(const ops_instance *got, const ops_instance *want,
                            const ops_output *outs, int i, const char *what)
{
    const ops_output *out = &outs[i];
    int64_t n = (int64_t)(out->bytes / out->align), at = 0, wrong = 0;
    double tolerance = out->tolerance + (out->dtype == PARE_BF16 ? 0x1p-8 : 0);
    double scale = fmax(out->scale, ops_rms(want->data[i], out->dtype, n)), most = 0;
    assert_true(out->align * 8 ==
                (size_t)pare_dtype_bits(out->dtype)); /* an output's dtype is its own */
    for (int64_t j = 0; j < n; j++) {
        double d = deviation(number(got->data[i], out->dtype, j),
                             number(want->data[i], out->dtype, j), tolerance, scale);
        wrong += d > 1;
        at = d > most ? j : at;
        most = d > most ? d : most;
    }
    if (wrong > 0)
        fail_msg("%s: output %d: %lld of %lld elements are off; the worst, %lld, is %.9g, not "
                 "%.9g: %.3g times the allowed deviation (beside a scale of %.3g)",
                 what, i, (long long)wrong, (long long)n, (long long)at,
                 number(got->data[i], out->dtype, at), number(want->data[i], out->dtype, at), most,
                 scale);
}

/* Zeros above the diagonal of a square matrix. */
static void forget_upper(uint8_t *data, size_t bytes, size_t element)
{
    size_t n = (size_t)sqrt((double)(bytes / element));
    for (size_t i = 0; i + 1 < n; i++)
        memset(data + (i * n + i + 1) * element, 0, (n - i - 1) * element);
}

static void compare(const ops_instance *got, const ops_instance *want, const ops_output *outs,
                    const char *what)
{
    for (int i = 0; outs[i].align != 0; i++) {
        if (outs[i].lower) {
            forget_upper(got->data[i], outs[i].bytes, outs[i].align);
            forget_upper(want->data[i], outs[i].bytes, outs[i].align);
        }
        if (outs[i].tolerance > 0)
            compare_numbers(got, want, outs, i, what);
        else
            compare_bytes(got, want, outs, i, what);
    }
}

/* oneDNN cuts its work by the number of threads. */
static bool depends_on_threads(pare_op op)
{
    return op == PARE_OP_gemm || op == PARE_OP_conv || op == PARE_OP_conv_grad_x ||
           op == PARE_OP_conv_grad_w || op == PARE_OP_gram;
}

/* The same instruction set gives the same bytes with one thread and with three. */
static void compare_threads(const ops_instance *one, const ops_instance *three,
                            const ops_output *outs, const char *what)
{
    for (int i = 0; outs[i].align != 0; i++)
        for (size_t j = 0; j < outs[i].bytes; j++)
            if (one->data[i][j] != three->data[i][j])
                fail_msg("%s: output %d depends on the number of threads: at byte %zu of %zu "
                         "1 thread gives %#x, 3 give %#x",
                         what, i, j, outs[i].bytes, one->data[i][j], three->data[i][j]);
}

static const char *describe(const pare_backend *be, pare_op op, char *text, size_t size)
{
    snprintf(text, size, "%s on %s", pare_op_name(op), pare_backend_name(be));
    return text;
}

static void call_backend(pare_backend *be, pare_op op, ops_instance *got, const ops_output *outs,
                         const char *what)
{
    pare_status status = calls[op].op(be, got->args);
    if (status != PARE_OK)
        fail_msg("%s: %s: %s", what, pare_status_name(status), pare_last_error());
    check_guards(got, outs, what);
}

/* The device's outputs in every mode. */
static void expect_device(ops_run *run, pare_op op, const void *args, size_t args_size,
                          const ops_output *outs, const ops_instance *want)
{
    char what[192];
    pare_backend *be = run->backends[0];
    ops_output there[OPS_MAX_OUTPUTS + 1] = {{0}};
    for (int i = 0; outs[i].align != 0; i++) {
        there[i] = outs[i];
        if (outs[i].device > 0)
            there[i].tolerance = outs[i].device;
    }
    run->cases++;
    for (int i = 0; run->mode(i); i++) {
        snprintf(what, sizeof what, "%s on %s, mode %d", pare_op_name(op), pare_backend_name(be),
                 i);
        ops_instance got = make_instance(args, args_size, outs, ((size_t)i + run->cases) % 4);
        join_in_place(&got, outs);
        pare_status status = ops_device_run(run, op, calls[op].op, be, args_size, outs, &got);
        if (status != PARE_OK)
            fail_msg("%s: %s: %s", what, pare_status_name(status), pare_last_error());
        check_guards(&got, outs, what);
        compare(&got, want, there, what);
        free_instance(&got, outs);
    }
}

void ops_expect(ops_run *run, pare_op op, const void *args, size_t args_size,
                const ops_output *outs)
{
    char what[192];
    ops_instance want = make_instance(args, args_size, outs, 0);
    calls[op].oracle(want.args);
    check_guards(&want, outs, "oracle");
    if (run->mode)
        expect_device(run, op, args, args_size, outs, &want);
    for (int b = 0; !run->mode && run->backends[b]; b += 2) { /* with one thread, with three */
        ops_instance got[2];
        describe(run->backends[b], op, what, sizeof what);
        for (int t = 0; t < 2; t++) {
            got[t] = make_instance(args, args_size, outs, (size_t)((b + t) % 4));
            join_in_place(&got[t], outs);
            call_backend(run->backends[b + t], op, &got[t], outs, what);
            compare(&got[t], &want, outs, what);
        }
        if (!depends_on_threads(op))
            compare_threads(&got[0], &got[1], outs, what);
        free_instance(&got[0], outs);
        free_instance(&got[1], outs);
    }
    free_instance(&want, outs);
}
