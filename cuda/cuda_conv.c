/* cuda_conv.c - convolutions and their gradients by cuDNN.
 *
 * Images stay channels last, as they lie. Weights are turned from [O, I, kh, kw] to cuDNN's [O, kh,
 * kw, I] in scratch at each call, rounded to the images' dtype and scaled on the way; they are
 * small. z in the place of y is added by cuDNN itself (beta = 1); what is left of shift, z and relu
 * is one pass over y.
 *
 * cuDNN pads both sides alike. Where a window does not, or its padding alone would fill it, the
 * images are laid into larger ones with zeros around them, and a gradient is cut out of such ones.
 * Images that are not aligned to 16 bytes are moved likewise.
 *
 * The gradient of the weights is F32, but cuDNN rounds it to the images' dtype. So for BF16 images
 * it is a product of cuBLASLt with f32 sums and an F32 result: dyᵀ times the columns that the
 * window sees, which a kernel writes for a few hundred images at a time (they are the images
 * themselves where the window is 1 × 1). In groups, where such products are small, the images are
 * widened and cuDNN computes in F32.
 *
 * Bound by the tensor cores (BF16) or the f32 units; BF16's gradient of the weights of a 3 × 3
 * window by memory: it writes and reads 9 times the images.
 */
#include "cuda_conv.h"

#include "cuda_gemm.h"
#include "cuda_plan.h"

#define ALIGNED 16 /* what cuDNN wants of addresses */
#define COLUMNS_BYTES                                                                              \
    ((int64_t)1 << 27)     /* of the columns at one time, unless one image needs more */
#define COLUMNS_IMAGES 512 /* the most at one time */

static int64_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

static size_t bytes_of(const pare_tensor *t)
{
    return (size_t)(pare_tensor_count(t) * element(t->dtype));
}

static bool is_aligned(const void *pointer)
{
    return (uintptr_t)pointer % ALIGNED == 0;
}

/* Images on their way to cuDNN: where they lie, or at an offset in scratch with zeros around them.
 */
typedef struct conv_images {
    pare_tensor given, work;
    int64_t top, left; /* zeros before them */
    bool moved;
    size_t at;
} conv_images;

static conv_images images_of(const pare_tensor *t, pare_dtype dtype)
{
    conv_images m = {.given = *t, .work = *t};
    m.moved = t->dtype != dtype || !is_aligned(t->data);
    m.work.dtype = dtype;
    return m;
}

/* Images of a window, which becomes one with the same padding on both sides. */
static conv_images padded_images(const pare_tensor *t, pare_dtype dtype, pare_window *w)
{
    conv_images m = images_of(t, dtype);
    bool even = w->pad_top == w->pad_bottom && w->pad_left == w->pad_right;
    bool within = w->pad_top <= (int64_t)w->dilation[0] * (w->kernel[0] - 1) &&
                  w->pad_left <= (int64_t)w->dilation[1] * (w->kernel[1] - 1);
    if (even && within)
        return m;
    m.moved = true;
    m.top = w->pad_top;
    m.left = w->pad_left;
    m.work.shape[1] += (int64_t)w->pad_top + w->pad_bottom;
    m.work.shape[2] += (int64_t)w->pad_left + w->pad_right;
    w->pad_top = w->pad_left = w->pad_bottom = w->pad_right = 0;
    return m;
}

/* Room in scratch, if they are moved; then their address there. */
static void plan_images(conv_images *m, size_t *used)
{
    if (m->moved)
        m->at = pare__cuda_part(used, bytes_of(&m->work));
}

static void place_images(conv_images *m, void *scratch)
{
    if (m->moved)
        m->work.data = (uint8_t *)scratch + m->at;
}

static pare_status bring(pare_backend *be, const conv_images *m)
{
    return m->moved ? pare__conv_shift(be, &m->given, &m->work, m->top, m->left) : PARE_OK;
}

static pare_status bring_back(pare_backend *be, const conv_images *m)
{
    return m->moved ? pare__conv_shift(be, &m->work, &m->given, -m->top, -m->left) : PARE_OK;
}

/* The key of a convolution of prepared images; w is [O, I/groups, kh, kw]. */
static pare_status key_of(conv_kind kind, const pare_tensor *x, const pare_tensor *w,
                          const pare_tensor *y, const pare_window *window, int groups,
                          conv_key *key)
{
    for (int i = 0; i < 4; i++)
        PARE_REQUIRE(x->shape[i] <= INT32_MAX && y->shape[i] <= INT32_MAX, PARE_ERR_UNSUPPORTED,
                     "a convolution of %lld × %lld × %lld × %lld is more than cuDNN takes: choose "
                     "a smaller batch, or smaller images",
                     (long long)x->shape[0], (long long)x->shape[1], (long long)x->shape[2],
                     (long long)x->shape[3]);
    *key = (conv_key){.kind = kind,
                      .dtype = x->dtype,
                      .B = (int32_t)x->shape[0],
                      .H = (int32_t)x->shape[1],
                      .W = (int32_t)x->shape[2],
                      .I = (int32_t)x->shape[3],
                      .rows = (int32_t)y->shape[1],
                      .cols = (int32_t)y->shape[2],
                      .O = (int32_t)w->shape[0],
                      .kernel = {window->kernel[0], window->kernel[1]},
                      .stride = {window->stride[0], window->stride[1]},
                      .dilation = {window->dilation[0], window->dilation[1]},
                      .pad = {window->pad_top, window->pad_left},
                      .groups = groups > 0 ? groups : 1};
    return PARE_OK;
}

/* Whether the weights are cuDNN's as they lie. */
static bool lies_right(const pare_tensor *w, const pare_tensor *scale, pare_dtype dtype)
{
    return w->shape[2] == 1 && w->shape[3] == 1 && w->dtype == dtype && !(scale && scale->data) &&
           is_aligned(w->data);
}

pare_status pare_cuda_conv(pare_backend *be, const pare_conv_args *args)
{
    if (pare_tensor_count(&args->y) == 0)
        return PARE_OK;
    pare_dtype dtype = args->x.dtype;
    pare_window window = args->window;
    conv_images x = padded_images(&args->x, dtype, &window), y = images_of(&args->y, dtype);
    bool turn = !lies_right(&args->w, &args->scale, dtype);
    bool add = args->z.data == args->y.data && !y.moved;
    const void *z = add ? NULL : args->z.data;
    size_t used = 0, workspace = 0;
    conv_key key;
    conv_plan *plan = NULL;
    void *scratch = NULL;
    PARE_TRY(key_of(CONV_FORWARD, &x.work, &args->w, &y.work, &window, args->groups, &key));
    PARE_TRY(pare__conv_plan(be, &key, &plan, &workspace));
    plan_images(&x, &used);
    plan_images(&y, &used);
    size_t w_at =
        turn ? pare__cuda_part(&used, (size_t)(pare_tensor_count(&args->w) * element(dtype))) : 0;
    size_t room_at = pare__cuda_part(&used, workspace);
    PARE_TRY(pare__scratch(be, used, &scratch));
    place_images(&x, scratch);
    place_images(&y, scratch);
    void *w = turn ? (uint8_t *)scratch + w_at : args->w.data;
    PARE_TRY(bring(be, &x));
    if (turn)
        PARE_TRY(pare__conv_weights(be, &args->w, args->scale.data, dtype, w));
    PARE_TRY(
        pare__conv_run(be, plan, x.work.data, w, y.work.data, add, (uint8_t *)scratch + room_at));
    if (y.moved || z || args->shift.data || args->relu)
        PARE_TRY(pare__conv_finish(be, y.work.data, &args->y, args->shift.data, z, args->relu));
    return PARE_OK;
}

pare_status pare_cuda_conv_grad_x(pare_backend *be, const pare_conv_grad_x_args *args)
{
    if (pare_tensor_count(&args->dx) == 0)
        return PARE_OK;
    pare_dtype dtype = args->dx.dtype;
    pare_window window = args->window;
    conv_images dx = padded_images(&args->dx, dtype, &window), dy = images_of(&args->dy, dtype);
    bool turn = !lies_right(&args->w, NULL, dtype);
    size_t used = 0, workspace = 0;
    conv_key key;
    conv_plan *plan = NULL;
    void *scratch = NULL;
    PARE_TRY(key_of(CONV_GRAD_X, &dx.work, &args->w, &dy.work, &window, args->groups, &key));
    PARE_TRY(pare__conv_plan(be, &key, &plan, &workspace));
    plan_images(&dx, &used);
    plan_images(&dy, &used);
    size_t w_at =
        turn ? pare__cuda_part(&used, (size_t)(pare_tensor_count(&args->w) * element(dtype))) : 0;
    size_t room_at = pare__cuda_part(&used, workspace);
    PARE_TRY(pare__scratch(be, used, &scratch));
    place_images(&dx, scratch);
    place_images(&dy, scratch);
    void *w = turn ? (uint8_t *)scratch + w_at : args->w.data;
    PARE_TRY(bring(be, &dy));
    if (turn)
        PARE_TRY(pare__conv_weights(be, &args->w, NULL, dtype, w));
    PARE_TRY(pare__conv_run(be, plan, dx.work.data, w, dy.work.data, false,
                            (uint8_t *)scratch + room_at));
    return bring_back(be, &dx);
}

/* ---- the gradient of the weights ------------------------------------------------------------- */

/* By cuDNN in F32. */
static pare_status grad_w_f32(pare_backend *be, const pare_conv_grad_w_args *args)
{
    pare_window window = args->window;
    conv_images x = padded_images(&args->x, PARE_F32, &window);
    conv_images dy = images_of(&args->dy, PARE_F32);
    int64_t row = pare_tensor_count(&args->dw) / args->dw.shape[0];
    size_t used = 0, workspace = 0;
    conv_key key;
    conv_plan *plan = NULL;
    void *scratch = NULL;
    PARE_TRY(key_of(CONV_GRAD_W, &x.work, &args->dw, &dy.work, &window, args->groups, &key));
    PARE_TRY(pare__conv_plan(be, &key, &plan, &workspace));
    plan_images(&x, &used);
    plan_images(&dy, &used);
    size_t dw_at = pare__cuda_part(&used, bytes_of(&args->dw));
    size_t room_at = pare__cuda_part(&used, workspace);
    PARE_TRY(pare__scratch(be, used, &scratch));
    place_images(&x, scratch);
    place_images(&dy, scratch);
    void *dw = (uint8_t *)scratch + dw_at;
    PARE_TRY(bring(be, &x));
    PARE_TRY(bring(be, &dy));
    PARE_TRY(pare__conv_run(be, plan, x.work.data, dw, dy.work.data, false,
                            (uint8_t *)scratch + room_at));
    return pare__conv_weights_back(be, dw, row, &args->dw, args->accumulate);
}

/* Images [first, first + count) of t. */
static pare_tensor some_images(const pare_tensor *t, int64_t first, int64_t count)
{
    pare_tensor part = *t;
    int64_t each = pare_tensor_count(t) / t->shape[0];
    part.data = (uint8_t *)t->data + first * each * element(t->dtype);
    part.shape[0] = count;
    return part;
}

/* The gradient from columns, some images at a time: dw [O, pitch] = Σ dyᵀ [O, places]·columns
 * [places, pitch]. */
typedef struct column_call {
    const pare_conv_grad_w_args *args;
    int64_t B, places, O; /* images, places of the output in one, channels of the output */
    int64_t pitch, step;  /* elements of a row of columns; images at a time */
    bool plain;           /* the images are the columns */
} column_call;

static column_call columns_of(const pare_conv_grad_w_args *args)
{
    const pare_window *w = &args->window;
    const int64_t *out = args->dy.shape;
    column_call c = {.args = args, .B = out[0], .places = out[1] * out[2], .O = out[3]};
    int64_t row = pare_tensor_count(&args->dw) / c.O;
    c.plain = w->kernel[0] == 1 && w->kernel[1] == 1 && w->stride[0] == 1 && w->stride[1] == 1 &&
              w->pad_top == 0 && w->pad_left == 0 && w->pad_bottom == 0 && w->pad_right == 0;
    c.pitch = c.plain ? row : (row + 7) / 8 * 8; /* rows that 16-byte copies like */
    int64_t fit = COLUMNS_BYTES / (c.places * c.pitch * 2);
    c.step = c.plain ? c.B : fit < 1 ? 1 : fit > COLUMNS_IMAGES ? COLUMNS_IMAGES : fit;
    c.step = c.step < c.B ? c.step : c.B;
    return c;
}

/* The product of the images from b on. */
static pare_gemm_args product_of(const column_call *c, int64_t b, void *columns, float *dw)
{
    int64_t count = c->step < c->B - b ? c->step : c->B - b;
    pare_tensor dy = some_images(&c->args->dy, b, count);
    return (pare_gemm_args){.a = pare_matrix(dy.data, PARE_BF16, count * c->places, c->O),
                            .b = pare_matrix(columns, PARE_BF16, count * c->places, c->pitch),
                            .c = pare_matrix(dw, PARE_F32, c->O, c->pitch),
                            .trans_a = true,
                            .accumulate = b > 0};
}

/* By cuBLASLt from BF16 columns. */
static pare_status grad_w_columns(pare_backend *be, const pare_conv_grad_w_args *args)
{
    column_call c = columns_of(args);
    size_t used = 0, room = 0, most = 0;
    void *scratch = NULL, *x = c.plain ? args->x.data : NULL;
    for (int64_t b = 0; b < c.B; b += c.step) {
        pare_gemm_args product = product_of(&c, b, x, NULL);
        PARE_TRY(pare__cuda_product_room(be, &product, &room));
        most = room > most ? room : most;
    }
    size_t columns = c.plain ? 0 : (size_t)(c.step * c.places * c.pitch) * 2;
    size_t columns_at = pare__cuda_part(&used, columns);
    size_t dw_at = pare__cuda_part(&used, (size_t)(c.O * c.pitch) * 4);
    size_t room_at = pare__cuda_part(&used, most);
    PARE_TRY(pare__scratch(be, used, &scratch));
    float *dw = (float *)((uint8_t *)scratch + dw_at);
    for (int64_t b = 0; b < c.B; b += c.step) {
        pare_gemm_args product =
            product_of(&c, b, c.plain ? x : (uint8_t *)scratch + columns_at, dw);
        if (!c.plain)
            PARE_TRY(pare__conv_columns(
                be, &(conv_columns){.x = some_images(&args->x, b, product.b.shape[0] / c.places),
                                    .window = args->window,
                                    .rows = args->dy.shape[1],
                                    .cols = args->dy.shape[2],
                                    .pitch = c.pitch,
                                    .to = product.b.data}));
        PARE_TRY(pare__cuda_product(be, &product, (uint8_t *)scratch + room_at));
    }
    return pare__conv_weights_back(be, dw, c.pitch, &args->dw, args->accumulate);
}

pare_status pare_cuda_conv_grad_w(pare_backend *be, const pare_conv_grad_w_args *args)
{
    if (pare_tensor_count(&args->dw) == 0)
        return PARE_OK;
    if (pare_tensor_count(&args->dy) == 0)
        return args->accumulate
                   ? PARE_OK
                   : pare_backend_clear(be, args->dw.data, (int64_t)bytes_of(&args->dw));
    if (args->x.dtype == PARE_BF16 && args->groups <= 1)
        return grad_w_columns(be, args);
    return grad_w_f32(be, args);
}
