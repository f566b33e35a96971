/* Rows of softmax, embedding, rotary and their gradients. */
#include "ops_harness.h"

#include "base/half.h"

#include <math.h>

static size_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

static const pare_dtype acts[] = {PARE_F32, PARE_BF16};

/* A BF16 just above a power of two is 2^-7 from its neighbour, and half way both are right. */
static double tolerance_of(pare_dtype dtype, double tolerance)
{
    return dtype == PARE_BF16 ? 0x1p-8 : tolerance;
}

/* Tensor member `of` of the case `args` as an output. */
#define OUTPUT(op, args, of, tolerance_)                                                           \
    {                                                                                              \
        .pointer = offsetof(pare_##op##_args, of.data),                                            \
        .bytes = (size_t)pare_tensor_count(&(args).of) * element((args).of.dtype),                 \
        .align = element((args).of.dtype),                                                         \
        .tolerance = tolerance_of((args).of.dtype, (tolerance_)), .dtype = (args).of.dtype,        \
    }

/* ---- softmax --------------------------------------------------------------------------------- */

static void softmax_case(ops_run *run, const ops_shape *s, pare_dtype dtype, ops_kind kind,
                         size_t shift)
{
    pare_softmax_args args = {
        .x = pare_matrix(ops_floats(run, kind, dtype, s->rows * s->cols, shift), dtype, s->rows,
                         s->cols),
        .y = pare_matrix(NULL, dtype, s->rows, s->cols)};
    ops_output outs[] = {OUTPUT(softmax, args, y, 5e-6), {0}};
    ops_expect(run, PARE_OP_softmax, &args, sizeof args, outs);
    outs[0].in_place = true;
    outs[0].input = offsetof(pare_softmax_args, x.data);
    ops_expect(run, PARE_OP_softmax, &args, sizeof args, outs);
    ops_next(run);
}

/* What registers just hold, and more than that. */
static const ops_shape wide[] = {{33, 24},  {2, 2048},  {2, 2056},  {3, 4104}, {2, 8192},
                                 {2, 8200}, {1, 16384}, {1, 16392}, {-1, -1}};

/* Rows that begin with −Inf, and one of nothing else. */
static void softmax_of_minus_inf(ops_run *run, pare_dtype dtype)
{
    for (int64_t N = 40; N <= 16400; N += 16360) {
        pare_softmax_args args = {
            .x = pare_matrix(ops_floats(run, OPS_NORMAL, dtype, 2 * N, 0), dtype, 2, N),
            .y = pare_matrix(NULL, dtype, 2, N)};
        for (int64_t i = 0; i < 2 * N; i++)
            if (i >= N || i < N - 2) {
                if (dtype == PARE_F32)
                    ((float *)args.x.data)[i] = -INFINITY;
                else
                    ((uint16_t *)args.x.data)[i] = 0xff80;
            }
        ops_expect(run, PARE_OP_softmax, &args, sizeof args,
                   (ops_output[]){OUTPUT(softmax, args, y, 5e-6), {0}});
        ops_next(run);
    }
}

void ops_cases_softmax(ops_run *run)
{
    for (int d = 0; d < 2; d++)
        for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
            for (int kind = 0; kind < OPS_KINDS; kind++)
                softmax_case(run, s, acts[d], (ops_kind)kind, (size_t)ops_below(run, 3));
    for (int d = 0; d < 2; d++) {
        softmax_case(run, &(ops_shape){3, 70001}, acts[d], OPS_GRID, 0);
        for (const ops_shape *s = wide; s->rows >= 0; s++) {
            softmax_case(run, s, acts[d], OPS_NORMAL, 0);
            softmax_case(run, s, acts[d], OPS_BAD, 0);
        }
        softmax_of_minus_inf(run, acts[d]);
    }
}

static void softmax_grad_case(ops_run *run, const ops_shape *s, pare_dtype dtype, ops_kind kind,
                              size_t shift)
{
    int64_t n = s->rows * s->cols;
    pare_softmax_grad_args args = {
        .dy = pare_matrix(ops_floats(run, kind, dtype, n, shift), dtype, s->rows, s->cols),
        .y = pare_matrix(ops_floats(run, kind, dtype, n, shift * 2), dtype, s->rows, s->cols),
        .dx = pare_matrix(NULL, dtype, s->rows, s->cols)};
    ops_output outs[] = {OUTPUT(softmax_grad, args, dx, 1e-5), {0}};
    ops_expect(run, PARE_OP_softmax_grad, &args, sizeof args, outs);
    outs[0].in_place = true;
    outs[0].input = offsetof(pare_softmax_grad_args, dy.data);
    ops_expect(run, PARE_OP_softmax_grad, &args, sizeof args, outs);
    ops_next(run);
}

void ops_cases_softmax_grad(ops_run *run)
{
    const ops_kind kinds[] = {OPS_NORMAL, OPS_GRID, OPS_ZEROS, OPS_BAD};
    for (int d = 0; d < 2; d++) {
        for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
            for (int k = 0; k < 4; k++)
                softmax_grad_case(run, s, acts[d], kinds[k], (size_t)(k % 2));
        for (const ops_shape *s = wide; s->rows >= 0; s++)
            softmax_grad_case(run, s, acts[d], OPS_NORMAL, 0);
    }
}

/* ---- embedding ------------------------------------------------------------------------------- */

static pare_tensor make_ids(ops_run *run, int64_t n, int64_t V)
{
    int32_t *ids = ops_memory(run, (size_t)n * 4, 4, (size_t)(n % 2));
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)(i % 5 == 4 ? ids[i - 1] : ops_below(run, V)); /* some come again */
    return pare_vector(ids, PARE_I32, n);
}

static const ops_shape tables[] = {{1, 1},  {7, 3},   {5, 16},  {13, 17},  {100, 32},
                                   {9, 33}, {31, 64}, {3, 257}, {2000, 48}};
#define TABLES ((int)(sizeof tables / sizeof tables[0]))

/* The gradient's ids are sound: the CPU, which has them at hand, refuses others, a device leaves
 * them out. */
static void a_wrong_id_is_refused(ops_run *run)
{
    int32_t *ids = ops_memory(run, 3 * sizeof *ids, sizeof *ids, 0);
    float *w = ops_floats(run, OPS_ZEROS, PARE_F32, 4 * 2, 0);
    float *y = ops_floats(run, OPS_ZEROS, PARE_F32, 3 * 2, 0);
    pare_embedding_args args = {.ids = pare_vector(ids, PARE_I32, 3),
                                .w = pare_matrix(w, PARE_F32, 4, 2),
                                .y = pare_matrix(y, PARE_F32, 3, 2)};
    pare_embedding_grad_args grad = {.ids = args.ids, .dy = args.y, .dw = args.w};
    for (int b = 0; ops_backend(run, b); b++)
        for (int negative = 0; negative < 2; negative++) {
            ids[0] = 0;
            ids[1] = negative ? -1 : 4;
            ids[2] = negative ? 9 : 1;
            assert_status(ops_call(run, PARE_OP_embedding, ops_backend(run, b), &args),
                          PARE_ERR_ARGUMENT);
            assert_non_null(strstr(pare_last_error(), negative ? "ids[1] is -1" : "ids[1] is 4"));
            pare_status status = ops_call(run, PARE_OP_embedding_grad, ops_backend(run, b), &grad);
            if (!pare_backend_is_host(ops_backend(run, b))) {
                assert_ok(status);
                continue;
            }
            assert_status(status, PARE_ERR_ARGUMENT);
            assert_non_null(strstr(pare_last_error(), "ids[1]"));
        }
    ops_next(run);
}

void ops_cases_embedding(ops_run *run)
{
    const int64_t counts[] = {0, 1, 5, 64, 333};
    for (int t = 0; t < TABLES; t++)
        for (int c = 0; c < 5; c++)
            for (int d = 0; d < 4; d++) {
                pare_dtype from = acts[d % 2], to = acts[d / 2];
                int64_t V = tables[t].rows, N = tables[t].cols;
                pare_embedding_args args = {
                    .ids = make_ids(run, counts[c], V),
                    .w = pare_matrix(ops_floats(run, OPS_NORMAL, from, V * N, (size_t)(t % 2)),
                                     from, V, N),
                    .y = pare_matrix(NULL, to, counts[c], N)};
                ops_expect(run, PARE_OP_embedding, &args, sizeof args,
                           (ops_output[]){OUTPUT(embedding, args, y, 0), {0}});
                ops_next(run);
            }
    a_wrong_id_is_refused(run);
}

static void embedding_grad_case(ops_run *run, ops_shape table, int64_t count, pare_dtype dtype,
                                size_t shift)
{
    int64_t V = table.rows, N = table.cols;
    pare_embedding_grad_args args = {
        .ids = make_ids(run, count, V),
        .dy = pare_matrix(ops_floats(run, OPS_NORMAL, dtype, count * N, shift), dtype, count, N),
        .dw = pare_matrix(ops_floats(run, OPS_NORMAL, PARE_F32, V * N, 0), PARE_F32, V, N)};
    ops_output outs[] = {OUTPUT(embedding_grad, args, dw, 0), {0}};
    outs[0].keeps = true;
    ops_expect(run, PARE_OP_embedding_grad, &args, sizeof args, outs);
    ops_next(run);
}

/* The order of the sum is given, so these are the oracle's bytes. */
void ops_cases_embedding_grad(ops_run *run)
{
    const int64_t counts[] = {0, 1, 5, 64, 333};
    for (int t = 0; t < TABLES; t++)
        for (int c = 0; c < 5; c++)
            for (int d = 0; d < 2; d++)
                embedding_grad_case(run, tables[t], counts[c], acts[d], (size_t)(t % 2));
    for (int d = 0; d < 2; d++) { /* a large table; the same ids again and again */
        embedding_grad_case(run, (ops_shape){70000, 4}, 5000, acts[d], 0);
        embedding_grad_case(run, (ops_shape){256, 12}, 2049, acts[d], 0);
        embedding_grad_case(run, (ops_shape){2, 132}, 2500, acts[d], 0);
    }
}

/* ---- rotary ---------------------------------------------------------------------------------- */

/* A head of D elements of which 2·half turn; the tables have `more` rows behind T. */
typedef struct rotary_case {
    int64_t B, T, heads, D, half, more;
} rotary_case;

static void rotary_row(ops_run *run, const rotary_case *c, pare_dtype dtype, bool inverse,
                       ops_kind kind, size_t shift)
{
    int64_t R = c->B * c->T, N = c->heads * c->D, rows = c->T + c->more;
    float *angle = ops_floats(run, OPS_GRID, PARE_F32, rows * c->half, 0);
    float *cosine = ops_floats(run, OPS_GRID, PARE_F32, rows * c->half, shift);
    for (int64_t i = 0; i < rows * c->half; i++) {
        cosine[i] = cosf(angle[i]);
        angle[i] = sinf(angle[i]);
    }
    pare_rotary_args args = {
        .x = pare_matrix(ops_floats(run, kind, dtype, R * N, shift), dtype, R, N),
        .y = pare_matrix(NULL, dtype, R, N),
        .cos = pare_matrix(cosine, PARE_F32, rows, c->half),
        .sin = pare_matrix(angle, PARE_F32, rows, c->half),
        .T = c->T,
        .heads = (int)c->heads,
        .inverse = inverse};
    ops_output outs[] = {OUTPUT(rotary, args, y, 1e-6), {0}};
    ops_expect(run, PARE_OP_rotary, &args, sizeof args, outs);
    outs[0].in_place = true;
    outs[0].input = offsetof(pare_rotary_args, x.data);
    ops_expect(run, PARE_OP_rotary, &args, sizeof args, outs);
    ops_next(run);
}

void ops_cases_rotary(ops_run *run)
{
    const rotary_case rows[] = {
        {1, 1, 1, 2, 1, 0},    {2, 3, 2, 8, 4, 0},    {2, 5, 3, 20, 10, 7},    {1, 7, 2, 32, 16, 0},
        {3, 4, 1, 33, 16, 1},  {2, 9, 4, 64, 32, 0},  {2, 2, 2, 80, 16, 0},    {1, 3, 2, 80, 10, 0},
        {1, 2, 1, 128, 64, 3}, {1, 130, 2, 64, 8, 0}, {2, 33, 1, 256, 128, 0}, {0, 4, 2, 8, 4, 0},
        {2, 3, 2, 5, 0, 0},    {4, 1, 1, 1, 0, 2},    {2, 3, 9, 16, 8, 0},     {1, 5, 4, 12, 4, 0},
        {2, 9, 8, 64, 32, 0}};
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
        for (int d = 0; d < 2; d++)
            for (int inverse = 0; inverse < 2; inverse++) {
                rotary_row(run, &rows[r], acts[d], inverse, OPS_NORMAL, r % 2);
                rotary_row(run, &rows[r], acts[d], inverse, OPS_BAD, r % 2);
            }
}
