/* node_reshape.c - images [B, H, W, C] as vectors [B, n] or as sequences [B, H·W, C].
 *
 * The same memory with another shape, but where the order must be PyTorch's (channels first): then
 * it is transposed, unless there is one channel or one pixel. */
#include "node.h"

static bool turns(const pare__node *n, const pare_tensor *x)
{
    return n->a.channels_first && x->shape[3] > 1 && x->shape[1] * x->shape[2] > 1;
}

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor x = pare__in(m, n, 0);
    PARE_REQUIRE(x.rank == 4, PARE_ERR_DAMAGED, "%s: only images can be flattened", n->name);
    int64_t pixels = x.shape[1] * x.shape[2];
    if (n->a.sequence)
        *y = (pare_tensor){.dtype = x.dtype, .rank = 3, .shape = {x.shape[0], pixels, x.shape[3]}};
    else
        *y = pare_matrix(NULL, x.dtype, x.shape[0], pixels * x.shape[3]);
    n->traits.view = n->traits.passes_grad = !turns(n, &x);
    return PARE_OK;
}

/* The image as [B, H·W, C] and what it is turned into, [B, C, H·W]. */
static pare_tensor image(pare_tensor x, const pare_tensor *like, bool turned)
{
    int64_t pixels = like->shape[1] * like->shape[2], C = like->shape[3];
    return (pare_tensor){.data = x.data,
                         .dtype = x.dtype,
                         .rank = 3,
                         .shape = {like->shape[0], turned ? C : pixels, turned ? pixels : C}};
}

static pare_status forward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__in(m, n, 0);
    PARE_TRY(pare_transpose(m->be, &(pare_transpose_args){.x = image(x, &x, false),
                                                          .y = image(pare__out(m, n), &x, true)}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__in(m, n, 0), dy = pare__dy(m, n), dx = n->grad[0];
    bool add = n->add_grad & 1;
    if (!turns(n, &x)) {
        PARE_TRY(pare__copy(m, dy, dx, add));
        return PARE_OK;
    }
    PARE_TRY(pare_transpose(m->be, &(pare_transpose_args){.x = image(dy, &x, true),
                                                          .y = image(dx, &x, false),
                                                          .accumulate = add}));
    return PARE_OK;
}

const pare__node_kind pare__node_reshape = {.name = "reshape",
                                            .traits = {.adds_grad = 1},
                                            .shape = shape,
                                            .forward = forward,
                                            .backward = backward};
