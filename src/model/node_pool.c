/* node_pool.c - the largest or the mean of each window of an image; a mean over all of it (a window
 * of no size) gives [B, C]. */
#include "node.h"

static bool global(const pare__node *n)
{
    return n->a.window.kernel[0] == 0;
}

static pare_window window_of(const pare__node *n, const pare_tensor *x)
{
    if (!global(n))
        return n->a.window;
    return (pare_window){
        .kernel = {(int)x->shape[1], (int)x->shape[2]}, .stride = {1, 1}, .dilation = {1, 1}};
}

/* The output as the op sees it. */
static pare_tensor image(const pare__node *n, pare_tensor y)
{
    if (!global(n))
        return y;
    return (pare_tensor){
        .data = y.data, .dtype = y.dtype, .rank = 4, .shape = {y.shape[0], 1, 1, y.shape[1]}};
}

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor x = pare__in(m, n, 0);
    PARE_REQUIRE(x.rank == 4 && x.shape[1] < INT32_MAX && x.shape[2] < INT32_MAX, PARE_ERR_DAMAGED,
                 "%s: a pool needs images", n->name);
    pare_window window = window_of(n, &x);
    *y = x;
    y->shape[1] = pare_window_out(&window, 0, x.shape[1]);
    y->shape[2] = pare_window_out(&window, 1, x.shape[2]);
    PARE_REQUIRE(y->shape[1] > 0 && y->shape[2] > 0, PARE_ERR_DAMAGED,
                 "%s: an image of %lld × %lld is too small for this pool", n->name,
                 (long long)x.shape[1], (long long)x.shape[2]);
    if (global(n))
        *y = pare_matrix(NULL, x.dtype, x.shape[0], x.shape[3]);
    return PARE_OK;
}

/* ---- the largest ----------------------------------------------------------------------------- */

static pare_status max_shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    PARE_TRY(shape(m, n, y));
    int64_t bytes;
    PARE_TRY(pare_shape_size(PARE_I32, y->rank, y->shape, NULL, &bytes));
    n->saved_bytes[0] = m->shape.training ? bytes : 0;
    return PARE_OK;
}

/* Where the largest was. */
static pare_tensor places(const pare_model *m, const pare__node *n)
{
    pare_tensor at = pare__out(m, n);
    at.data = n->saved[0];
    at.dtype = PARE_I32;
    return at.data ? at : (pare_tensor){0};
}

static pare_status max_forward(pare_model *m, pare__node *n)
{
    PARE_TRY(pare_pool_max(m->be, &(pare_pool_max_args){.x = pare__in(m, n, 0),
                                                        .y = pare__out(m, n),
                                                        .at = places(m, n),
                                                        .window = n->a.window}));
    return PARE_OK;
}

static pare_status max_backward(pare_model *m, pare__node *n)
{
    PARE_TRY(pare_pool_max_grad(m->be, &(pare_pool_max_grad_args){.dy = pare__dy(m, n),
                                                                  .at = places(m, n),
                                                                  .dx = n->grad[0],
                                                                  .window = n->a.window}));
    return PARE_OK;
}

const pare__node_kind pare__node_pool_max = {
    .name = "pool_max", .shape = max_shape, .forward = max_forward, .backward = max_backward};

/* ---- the mean -------------------------------------------------------------------------------- */

static pare_status avg_forward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__in(m, n, 0);
    PARE_TRY(pare_pool_avg(m->be, &(pare_pool_avg_args){.x = x,
                                                        .y = image(n, pare__out(m, n)),
                                                        .window = window_of(n, &x),
                                                        .count_pad = n->a.count_pad}));
    return PARE_OK;
}

static pare_status avg_backward(pare_model *m, pare__node *n)
{
    PARE_TRY(
        pare_pool_avg_grad(m->be, &(pare_pool_avg_grad_args){.dy = image(n, pare__dy(m, n)),
                                                             .dx = n->grad[0],
                                                             .window = window_of(n, &n->grad[0]),
                                                             .count_pad = n->a.count_pad}));
    return PARE_OK;
}

const pare__node_kind pare__node_pool_avg = {
    .name = "pool_avg", .shape = shape, .forward = avg_forward, .backward = avg_backward};
