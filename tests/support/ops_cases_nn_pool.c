/* Rows of the pools and of the shortcut. */
#include "ops_harness.h"

#include <math.h>

static const pare_dtype acts[] = {PARE_F32, PARE_BF16};

static size_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

static pare_tensor shaped(void *data, pare_dtype dtype, int64_t B, int64_t H, int64_t W, int64_t C)
{
    return (pare_tensor){.data = data, .dtype = dtype, .rank = 4, .shape = {B, H, W, C}};
}

static pare_tensor image_of(ops_run *run, ops_kind kind, pare_dtype dtype, const int64_t *shape,
                            size_t shift)
{
    pare_tensor t = shaped(NULL, dtype, shape[0], shape[1], shape[2], shape[3]);
    t.data = ops_floats(run, kind, dtype, pare_tensor_count(&t), shift);
    return t;
}

/* An output compared as numbers, or as bytes where the tolerance is 0. Of a BF16 a tie may fall the
 * other way: a whole step. */
static ops_output output_of(size_t pointer, const pare_tensor *t, double tolerance)
{
    size_t size = t->dtype == PARE_I32 ? 4 : element(t->dtype);
    return (ops_output){.pointer = pointer,
                        .bytes = (size_t)pare_tensor_count(t) * size,
                        .align = size,
                        .tolerance = tolerance > 0 && t->dtype == PARE_BF16 ? 0x1p-8 : tolerance,
                        .dtype = t->dtype};
}

/* ---- windows --------------------------------------------------------------------------------- */

typedef struct pool_case {
    int64_t shape[4];
    pare_window window;
} pool_case;

#define SQUARE(k, s, d, p)                                                                         \
    {                                                                                              \
        {k, k}, {s, s}, {d, d}, p, p, p, p                                                         \
    }

static const pool_case pools[] = {
    {{2, 8, 8, 16}, SQUARE(2, 2, 1, 0)},
    {{0, 4, 4, 8}, SQUARE(2, 2, 1, 0)},
    {{2, 4, 4, 0}, SQUARE(2, 2, 1, 0)},
    {{1, 1, 1, 1}, SQUARE(1, 1, 1, 0)},
    {{3, 9, 7, 17}, SQUARE(3, 2, 1, 1)},
    {{2, 7, 9, 65}, SQUARE(3, 1, 1, 1)},
    {{1, 12, 5, 130}, SQUARE(3, 3, 1, 0)},
    {{2, 5, 5, 3}, SQUARE(2, 3, 1, 1)},
    {{2, 6, 7, 64}, {{6, 7}, {1, 1}, {1, 1}, 0, 0, 0, 0}},  /* global */
    {{3, 1, 1, 31}, SQUARE(3, 2, 1, 1)},                    /* mostly padding */
    {{1, 4, 3, 15}, {{5, 3}, {3, 1}, {1, 1}, 2, 0, 1, 2}},  /* uneven */
    {{1, 11, 4, 80}, {{1, 4}, {2, 4}, {1, 1}, 0, 0, 0, 0}}, /* lines */
    {{2, 3, 3, 5}, SQUARE(1, 1, 1, 2)},                     /* windows of padding alone */
    {{40, 2, 2, 33}, SQUARE(2, 2, 1, 0)},
    {{1, 64, 64, 24}, SQUARE(3, 2, 1, 1)},
    {{2, 9, 8, 17}, SQUARE(3, 1, 2, 2)}, /* dilated, from here on */
    {{1, 7, 12, 16}, {{2, 3}, {2, 1}, {3, 2}, 1, 3, 2, 0}},
    {{1, 2, 2, 4}, SQUARE(2, 1, 5, 3)}, /* jumps over the image */
};
#define POOLS (int)(sizeof pools / sizeof pools[0])
#define UNDILATED (POOLS - 3)

static void output_shape(const pool_case *k, int64_t *y)
{
    y[0] = k->shape[0];
    y[1] = pare_window_out(&k->window, 0, k->shape[1]);
    y[2] = pare_window_out(&k->window, 1, k->shape[2]);
    y[3] = k->shape[3];
}

void ops_cases_pool_max(ops_run *run)
{
    for (int p = 0; p < POOLS; p++)
        for (int d = 0; d < 2; d++)
            for (int kind = 0; kind < OPS_KINDS; kind++) {
                int64_t y[4];
                output_shape(&pools[p], y);
                pare_pool_max_args args = {
                    .x = image_of(run, (ops_kind)kind, acts[d], pools[p].shape, (size_t)kind % 3),
                    .y = shaped(NULL, acts[d], y[0], y[1], y[2], y[3]),
                    .at = shaped(NULL, PARE_I32, y[0], y[1], y[2], y[3]),
                    .window = pools[p].window};
                ops_output outs[3] = {output_of(offsetof(pare_pool_max_args, y.data), &args.y,
                                                kind == OPS_BAD ? 1e-30 : 0)};
                if (kind != OPS_GRID)
                    outs[1] = output_of(offsetof(pare_pool_max_args, at.data), &args.at, 0);
                ops_expect(run, PARE_OP_pool_max, &args, sizeof args, outs);
                ops_next(run);
            }
}

void ops_cases_pool_max_grad(ops_run *run)
{
    for (int p = 0; p < POOLS; p++)
        for (int d = 0; d < 2; d++) {
            int64_t y[4];
            const int64_t *x = pools[p].shape;
            const pare_window *w = &pools[p].window;
            output_shape(&pools[p], y);
            pare_pool_max_grad_args args = {
                .dy = image_of(run, OPS_NORMAL, acts[d], y, (size_t)(p % 2)),
                .at = shaped(NULL, PARE_I32, y[0], y[1], y[2], y[3]),
                .dx = shaped(NULL, acts[d], x[0], x[1], x[2], x[3]),
                .window = *w};
            int64_t n = pare_tensor_count(&args.at);
            int32_t *at = ops_memory(run, (size_t)n * 4, 4, (size_t)(p % 2 * 3));
            for (int64_t i = 0; i < n; i++) /* places in the padding too: they go nowhere */
                at[i] = (int32_t)ops_below(run, w->kernel[0] * w->kernel[1]);
            args.at.data = at;
            ops_expect(
                run, PARE_OP_pool_max_grad, &args, sizeof args,
                (ops_output[]){
                    output_of(offsetof(pare_pool_max_grad_args, dx.data), &args.dx, 1e-6), {0}});
            ops_next(run);
        }
}

void ops_cases_pool_avg(ops_run *run)
{
    for (int p = 0; p < UNDILATED; p++)
        for (int d = 0; d < 2; d++)
            for (int how = 0; how < 4; how++) {
                int64_t y[4];
                output_shape(&pools[p], y);
                ops_kind kind = how > 1 ? OPS_BAD : OPS_NORMAL;
                pare_pool_avg_args args = {
                    .x = image_of(run, kind, acts[d], pools[p].shape, (size_t)how),
                    .y = shaped(NULL, acts[d], y[0], y[1], y[2], y[3]),
                    .window = pools[p].window,
                    .count_pad = how & 1};
                ops_expect(
                    run, PARE_OP_pool_avg, &args, sizeof args,
                    (ops_output[]){output_of(offsetof(pare_pool_avg_args, y.data), &args.y, 1e-6),
                                   {0}});
                ops_next(run);
            }
}

void ops_cases_pool_avg_grad(ops_run *run)
{
    for (int p = 0; p < UNDILATED; p++)
        for (int d = 0; d < 2; d++)
            for (int how = 0; how < 2; how++) {
                int64_t y[4];
                const int64_t *x = pools[p].shape;
                output_shape(&pools[p], y);
                pare_pool_avg_grad_args args = {
                    .dy = image_of(run, OPS_NORMAL, acts[d], y, (size_t)how),
                    .dx = shaped(NULL, acts[d], x[0], x[1], x[2], x[3]),
                    .window = pools[p].window,
                    .count_pad = how};
                ops_expect(run, PARE_OP_pool_avg_grad, &args, sizeof args,
                           (ops_output[]){output_of(offsetof(pare_pool_avg_grad_args, dx.data),
                                                    &args.dx, 1e-6),
                                          {0}});
                ops_next(run);
            }
}

/* ---- sequences ------------------------------------------------------------------------------- */

static const int64_t sequences[][3] = {{0, 4, 8},   {2, 0, 5},    {3, 4, 0},    {1, 1, 1},
                                       {2, 7, 15},  {3, 5, 16},   {5, 3, 17},   {2, 33, 64},
                                       {1, 9, 130}, {2, 3, 1023}, {3, 4, 1024}, {2, 130, 1025}};
#define SEQUENCES (int)(sizeof sequences / sizeof sequences[0])

static pare_tensor cube(void *data, pare_dtype dtype, const int64_t *s)
{
    return (pare_tensor){.data = data, .dtype = dtype, .rank = 3, .shape = {s[0], s[1], s[2]}};
}

/* None; some; some and a sequence without any. */
static pare_tensor keys_of(ops_run *run, const int64_t *s, int how)
{
    uint8_t *keys = ops_memory(run, (size_t)(s[0] * s[1]), 1, 1);
    for (int64_t i = 0; i < s[0] * s[1]; i++)
        keys[i] = (uint8_t)ops_below(run, 3);
    if (how == 2 && s[0] > 0 && s[1] > 0)
        memset(keys, 0, (size_t)s[1]);
    return pare_matrix(how == 0 ? NULL : keys, PARE_U8, s[0], s[1]);
}

/* What padding holds must not matter. */
static void spoil_padding(pare_tensor *x, const pare_tensor *keys)
{
    int64_t N = x->shape[2];
    size_t row = (size_t)N * element(x->dtype);
    const uint8_t *key = keys->data;
    for (int64_t r = 0; key && r < x->shape[0] * x->shape[1]; r++)
        if (!key[r])
            memset((uint8_t *)x->data + (size_t)r * row, 0xff, row); /* NaN */
}

void ops_cases_pool_seq(ops_run *run)
{
    for (int s = 0; s < SEQUENCES; s++)
        for (int how = 0; how < 6; how++) {
            const int64_t *shape = sequences[s];
            pare_dtype dtype = acts[how % 2];
            pare_pool_seq_args args = {
                .x = cube(ops_floats(run, OPS_NORMAL, dtype, shape[0] * shape[1] * shape[2],
                                     (size_t)(how / 2 % 2)),
                          dtype, shape),
                .keys = keys_of(run, shape, how / 2),
                .y = pare_matrix(NULL, dtype, shape[0], shape[2])};
            spoil_padding(&args.x, &args.keys);
            ops_expect(run, PARE_OP_pool_seq, &args, sizeof args,
                       (ops_output[]){
                           output_of(offsetof(pare_pool_seq_args, y.data), &args.y, 2e-6), {0}});
            ops_next(run);
        }
}

void ops_cases_pool_seq_grad(ops_run *run)
{
    for (int s = 0; s < SEQUENCES; s++)
        for (int how = 0; how < 6; how++) {
            const int64_t *shape = sequences[s];
            pare_dtype dtype = acts[how % 2];
            pare_pool_seq_grad_args args = {
                .dy = pare_matrix(
                    ops_floats(run, OPS_NORMAL, dtype, shape[0] * shape[2], (size_t)(how / 2 % 2)),
                    dtype, shape[0], shape[2]),
                .keys = keys_of(run, shape, how / 2),
                .dx = cube(NULL, dtype, shape)};
            ops_expect(
                run, PARE_OP_pool_seq_grad, &args, sizeof args,
                (ops_output[]){
                    output_of(offsetof(pare_pool_seq_grad_args, dx.data), &args.dx, 1e-6), {0}});
            ops_next(run);
        }
}

/* ---- shortcut -------------------------------------------------------------------------------- */

typedef struct shortcut_case {
    int64_t x[4];
    int stride;
    int64_t before, O;
} shortcut_case;

static const shortcut_case shortcuts[] = {{{2, 8, 8, 16}, 2, 8, 32}, {{2, 7, 5, 3}, 2, 1, 8},
                                          {{1, 4, 6, 5}, 3, 0, 5},   {{3, 5, 5, 17}, 1, 2, 19},
                                          {{0, 4, 4, 2}, 2, 1, 4},   {{2, 3, 3, 0}, 2, 1, 2},
                                          {{1, 1, 1, 1}, 5, 3, 7},   {{2, 33, 31, 24}, 2, 4, 48}};
#define SHORTCUTS (int)(sizeof shortcuts / sizeof shortcuts[0])

static pare_tensor shortcut_output(const shortcut_case *k, void *data, pare_dtype dtype)
{
    return shaped(data, dtype, k->x[0], (k->x[1] + k->stride - 1) / k->stride,
                  (k->x[2] + k->stride - 1) / k->stride, k->O);
}

void ops_cases_shortcut(ops_run *run)
{
    for (int s = 0; s < SHORTCUTS; s++)
        for (int d = 0; d < 2; d++) {
            const shortcut_case *k = &shortcuts[s];
            pare_shortcut_args args = {.x = image_of(run, OPS_NORMAL, acts[d], k->x, s % 7 > 0),
                                       .y = shortcut_output(k, NULL, acts[d]),
                                       .stride = k->stride,
                                       .before = k->before};
            ops_expect(
                run, PARE_OP_shortcut, &args, sizeof args,
                (ops_output[]){output_of(offsetof(pare_shortcut_args, y.data), &args.y, 0), {0}});
            ops_next(run);
        }
}

void ops_cases_shortcut_grad(ops_run *run)
{
    for (int s = 0; s < SHORTCUTS; s++)
        for (int d = 0; d < 2; d++) {
            const shortcut_case *k = &shortcuts[s];
            pare_tensor dy = shortcut_output(k, NULL, acts[d]);
            dy.data = ops_floats(run, OPS_NORMAL, acts[d], pare_tensor_count(&dy), s % 7 > 0);
            pare_shortcut_grad_args args = {
                .dy = dy,
                .dx = shaped(NULL, acts[d], k->x[0], k->x[1], k->x[2], k->x[3]),
                .stride = k->stride,
                .before = k->before};
            ops_expect(
                run, PARE_OP_shortcut_grad, &args, sizeof args,
                (ops_output[]){output_of(offsetof(pare_shortcut_grad_args, dx.data), &args.dx, 0),
                               {0}});
            ops_next(run);
        }
}
