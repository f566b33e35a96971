/* dnnl_gemm_sub.c - products of matrices that lie inside larger ones, and what is made of them: the
 * lower triangle of x·xᵀ.
 *
 * oneDNN takes any distance between rows. Such a product runs in its oldest kernel, which packs
 * operands into memory of its own and is as fast as the others where it has much to do.
 */
#include "cpu_dnnl.h"
#include "dnnl_plan.h"

#include "base/check.h"

#include <stdbool.h>

#define LEAF 128          /* columns of a square on the diagonal: LEAF/K of the work is theirs */
#define WIDENED_ROWS 2048 /* of x at a time where BF16 is multiplied in F32 */

/* A batch has one dimension more. */
static product_view sub_view(const pare__gemm_sub *g, int which, int64_t rows, int64_t cols)
{
    const pare__sub_matrix *at[] = {&g->a, &g->b, &g->c};
    pare_dtype dtype = which == 2 ? PARE_F32 : g->dtype;
    if (g->count > 1)
        return (product_view){.rank = 3,
                              .dtype = dtype,
                              .dims = {g->count, rows, cols},
                              .strides = {g->next[which], at[which]->row, at[which]->col}};
    return (product_view){.rank = 2,
                          .dtype = dtype,
                          .dims = {rows, cols},
                          .strides = {at[which]->row, at[which]->col}};
}

static product_recipe recipe_of(const pare__gemm_sub *g)
{
    product_recipe r = {.kind = PRODUCT_GEMM, .sum = g->add};
    r.given[PRODUCT_SRC] = sub_view(g, 0, g->M, g->K);
    r.given[PRODUCT_WEIGHTS] = sub_view(g, 1, g->K, g->N);
    r.given[PRODUCT_DST] = sub_view(g, 2, g->M, g->N);
    r.own = r.given[PRODUCT_WEIGHTS];
    return r;
}

/* Its plan, made if need be, and the scratch that running it takes. */
static pare_status plan_of(pare_backend *be, const pare__gemm_sub *g, product_plan **plan,
                           size_t *scratch)
{
    product_recipe recipe = recipe_of(g);
    return pare__product_plan(be, &recipe, plan, scratch);
}

static pare_status run_plan(pare_backend *be, product_plan *plan, const pare__gemm_sub *g,
                            void *scratch)
{
    void *const data[PRODUCT_ROLES] = {g->a.data, g->b.data, g->c.data, NULL};
    return pare__product_run(be, plan, data, scratch);
}

/* a with the other sign and its rows close together. */
static void negate(const pare_backend *be, const pare__gemm_sub *g, float *to)
{
    const float *a = g->a.data;
#pragma omp parallel for num_threads(be->threads) schedule(static)
    for (int64_t i = 0; i < g->M; i++)
        for (int64_t k = 0; k < g->K; k++)
            to[i * g->K + k] = -a[i * g->a.row + k * g->a.col];
}

pare_status pare__dnnl_gemm_sub(pare_backend *be, const pare__gemm_sub *args)
{
    if (args->M == 0 || args->N == 0 || args->K == 0)
        return PARE_OK;
    pare__gemm_sub g = *args;
    product_plan *plan = NULL;
    size_t used = 0, more = 0;
    void *scratch = NULL;
    if (g.negative) {
        pare__room(&used, (size_t)(g.M * g.K) * sizeof(float));
        g.a = (pare__sub_matrix){.row = g.K, .col = 1};
    }
    PARE_TRY(plan_of(be, &g, &plan, &more));
    PARE_TRY(pare__scratch(be, used + more, &scratch));
    if (g.negative) {
        negate(be, args, scratch);
        g.a.data = scratch;
    }
    return run_plan(be, plan, &g, (uint8_t *)scratch + used);
}

/* ---- gram ------------------------------------------------------------------------------------ */

typedef struct gram {
    pare_backend *be;
    pare_tensor x, g;
    void *scratch; /* NULL: products are only prepared, */
    size_t most;   /* and this is what one of them needs */
} gram;

typedef struct block_size {
    int64_t count, M, N;
} block_size;

/* `count` blocks of g += xᵀ·x over the rows of x: the first begins at (row, col), each next one
 * `step` further down the diagonal. */
static pare_status gram_blocks(gram *t, const block_size *size, int64_t row, int64_t col,
                               int64_t step)
{
    int64_t K = t->g.shape[0], bytes = t->x.dtype == PARE_F32 ? 4 : 2;
    if (size->count == 0 || size->M <= 0)
        return PARE_OK;
    pare__gemm_sub blocks = {.dtype = t->x.dtype,
                             .M = size->M,
                             .N = size->N,
                             .K = t->x.shape[0],
                             .a = {NULL, 1, K},
                             .b = {NULL, K, 1},
                             .c = {(float *)t->g.data + row * K + col, K, 1},
                             .add = true,
                             .count = size->count,
                             .next = {step, step, step * K + step}};
    product_plan *plan = NULL;
    size_t more = 0;
    PARE_TRY(plan_of(t->be, &blocks, &plan, &more));
    t->most = more > t->most ? more : t->most;
    if (!t->scratch)
        return PARE_OK;
    blocks.a.data = (uint8_t *)t->x.data + row * bytes;
    blocks.b.data = (uint8_t *)t->x.data + col * bytes;
    return run_plan(t->be, plan, &blocks, t->scratch);
}

/* Squares of LEAF on the diagonal; then, for LEAF and every double of it, those squares that lie
 * left of the diagonal between two neighbours: large blocks, which are fast, and little above the
 * diagonal. What is left at the end is a block of its own. */
static pare_status gram_all(gram *t)
{
    int64_t K = t->g.shape[0], whole = K / LEAF, rest = K % LEAF;
    PARE_TRY(gram_blocks(t, &(block_size){whole, LEAF, LEAF}, 0, 0, LEAF));
    PARE_TRY(gram_blocks(t, &(block_size){1, rest, rest}, K - rest, K - rest, LEAF));
    for (int64_t size = LEAF; size < K; size *= 2) {
        int64_t pairs = K / (2 * size), col = pairs * 2 * size, row = col + size;
        PARE_TRY(gram_blocks(t, &(block_size){pairs, size, size}, size, 0, 2 * size));
        PARE_TRY(gram_blocks(t, &(block_size){1, K - row, size}, row, col, 2 * size));
    }
    return PARE_OK;
}

/* Rows [first, first + count) of x. */
static pare_tensor rows_of(const pare_tensor *x, int64_t first, int64_t count)
{
    pare_tensor rows = *x;
    rows.data = (uint8_t *)x->data + first * x->shape[1] * (x->dtype == PARE_F32 ? 4 : 2);
    rows.shape[0] = count;
    return rows;
}

pare_status pare__dnnl_gram(pare_backend *be, const pare_gram_args *args)
{
    int64_t R = args->x.shape[0], K = args->x.shape[1];
    bool widen = args->x.dtype == PARE_BF16 && !pare__dnnl_has_bf16();
    int64_t step = widen && R > WIDENED_ROWS ? WIDENED_ROWS : R;
    if (K == 0)
        return PARE_OK;
    for (int64_t first = 0; first < R; first += step) {
        pare_tensor rows = rows_of(&args->x, first, R - first < step ? R - first : step);
        size_t used = 0;
        uint8_t *scratch = NULL;
        product_operand x = pare__operand(&rows, widen ? PARE_F32 : rows.dtype, false, &used);
        gram t = {.be = be, .x = x.work, .g = args->g};
        PARE_TRY(gram_all(&t));
        PARE_TRY(pare__scratch(be, used + t.most + 1, (void **)&scratch));
        pare__operand_place(&x, scratch);
        PARE_TRY(pare__operand_read(be, &x, scratch));
        t.x = x.work;
        t.scratch = scratch + used;
        PARE_TRY(gram_all(&t));
    }
    return PARE_OK;
}
