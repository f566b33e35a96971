/* dnnl_conv.c - convolutions and their gradients by oneDNN.
 *
 * Images stay channels last, as they lie: oneDNN's kernels for that layout are as fast as those for
 * its blocked ones, and reordering images costs more than it could win. Weights are small and are
 * laid out anew at each call, in scratch, as oneDNN likes them; the scale is multiplied into them
 * on the way. z is put where y will be and summed into by the convolution.
 */
#include "cpu_dnnl.h"
#include "dnnl_plan.h"

#include "base/check.h"
#include "base/half.h"

#include <string.h>

#define COPY_PART ((size_t)1 << 17) /* bytes that a thread copies at once */

/* [B, H, W, C] in memory is named B, C, H, W. */
static product_view image_view(const pare_tensor *t)
{
    product_view v = pare__product_view(t->dtype, 4, t->shape);
    static const int order[4] = {0, 3, 1, 2};
    product_view image = v;
    for (int i = 0; i < 4; i++) {
        image.dims[i] = v.dims[order[i]];
        image.strides[i] = v.strides[order[i]];
    }
    return image;
}

/* [O, I/groups, kh, kw], with groups as [groups, O/groups, I/groups, kh, kw]. */
static product_view weights_view(const pare_tensor *w, int64_t groups)
{
    if (groups == 1)
        return pare__product_view(w->dtype, 4, w->shape);
    const int64_t dims[5] = {groups, w->shape[0] / groups, w->shape[1], w->shape[2], w->shape[3]};
    return pare__product_view(w->dtype, 5, dims);
}

/* own: the weights' dtype in the primitive. */
static product_recipe recipe_of(product_kind kind, const pare_tensor *x, const pare_tensor *w,
                                const pare_tensor *y, const pare_window *window, int groups,
                                pare_dtype own)
{
    product_recipe r = {
        .kind = kind,
        .given = {image_view(x), weights_view(w, groups > 0 ? groups : 1), image_view(y)},
        .stride = {window->stride[0], window->stride[1]},
        .dilation = {window->dilation[0], window->dilation[1]},
        .before = {window->pad_top, window->pad_left},
        .after = {window->pad_bottom, window->pad_right},
    };
    r.own = r.given[PRODUCT_WEIGHTS];
    memset(r.own.strides, 0, sizeof r.own.strides);
    r.own.free = true;
    r.own.dtype = own;
    return r;
}

/* The dtype that a convolution of images of this dtype works in. */
static pare_dtype work_dtype(pare_dtype images)
{
    return images == PARE_BF16 && pare__dnnl_has_bf16() ? PARE_BF16 : PARE_F32;
}

/* The weights as oneDNN is given them: F32 stays, for a BF16 convolution rounds them while it lays
 * them out; BF16 is widened for an F32 one. */
static product_operand weights_operand(const pare_tensor *w, pare_dtype images, bool scaled,
                                       size_t *used)
{
    pare_dtype work = work_dtype(images);
    if (!scaled)
        return pare__operand(w, work == PARE_BF16 ? w->dtype : PARE_F32, images == PARE_BF16, used);
    product_operand o = {.given = *w, .work = *w};
    o.work.dtype = PARE_F32;
    o.work.data = NULL;
    o.at = pare__room(used, (size_t)pare_tensor_count(w) * sizeof(float));
    return o;
}

/* work[o, …] = given[o, …]·scale[o], rounded if the images are BF16. */
static void scale_weights(const product_operand *w, const float *scale, bool rounded)
{
    int64_t O = w->given.shape[0], count = pare_tensor_count(&w->given) / O;
    const float *f = w->given.data;
    const uint16_t *h = w->given.data;
    bool half = w->given.dtype == PARE_BF16;
    float *to = w->work.data;
    for (int64_t o = 0; o < O; o++)
        for (int64_t i = o * count; i < (o + 1) * count; i++) {
            float v = (half ? pare__bf16_to_f32(h[i]) : f[i]) * scale[o];
            to[i] = rounded ? pare__bf16_to_f32(pare__f32_to_bf16(v)) : v;
        }
}

/* z, to where the product is added to it. */
static pare_status put_z(pare_backend *be, const pare_tensor *z, const pare_tensor *y)
{
    if (z->data == y->data)
        return PARE_OK;
    if (z->dtype != y->dtype)
        return be->ops->cast(be, &(pare_cast_args){.x = *z, .y = *y});
    size_t size = (size_t)pare_tensor_count(z) * (size_t)pare_dtype_bits(z->dtype) / 8;
    size_t parts = size / COPY_PART + 1;
#pragma omp parallel for num_threads(be->threads) schedule(static) if (parts > 1)
    for (size_t i = 0; i < parts; i++) {
        size_t at = i * COPY_PART, n = i + 1 < parts ? COPY_PART : size - at;
        memcpy((uint8_t *)y->data + at, (const uint8_t *)z->data + at, n);
    }
    return PARE_OK;
}

pare_status pare__dnnl_conv(pare_backend *be, const pare_conv_args *args)
{
    if (pare_tensor_count(&args->y) == 0)
        return PARE_OK;
    pare_dtype work = work_dtype(args->x.dtype);
    size_t used = 0, more = 0;
    product_operand x = pare__operand(&args->x, work, false, &used);
    product_operand y = pare__operand(&args->y, work, false, &used);
    product_operand w = weights_operand(&args->w, args->x.dtype, args->scale.data, &used);
    product_recipe recipe =
        recipe_of(PRODUCT_CONV, &x.work, &w.work, &y.work, &args->window, args->groups, work);
    recipe.sum = args->z.data != NULL;
    recipe.relu = args->relu;
    if (args->shift.data)
        recipe.given[PRODUCT_BIAS] = pare__product_view(PARE_F32, 1, args->shift.shape);
    size_t shift_bytes = args->shift.data ? (size_t)args->shift.shape[0] * sizeof(float) : 0;
    size_t shift_at = pare__room(&used, shift_bytes);
    product_plan *plan = NULL;
    void *scratch = NULL;
    PARE_TRY(pare__product_plan(be, &recipe, &plan, &more));
    PARE_TRY(pare__scratch(be, used + more, &scratch));
    pare__operand_place(&x, scratch);
    pare__operand_place(&y, scratch);
    pare__operand_place(&w, scratch);
    PARE_TRY(pare__operand_read(be, &x, scratch));
    if (args->scale.data)
        scale_weights(&w, args->scale.data, args->x.dtype == PARE_BF16);
    else
        PARE_TRY(pare__operand_read(be, &w, scratch));
    if (args->z.data)
        PARE_TRY(put_z(be, &args->z, &y.work));
    void *shift = (uint8_t *)scratch + shift_at; /* before AVX2 oneDNN wants it aligned */
    if (shift_bytes > 0)
        memcpy(shift, args->shift.data, shift_bytes);
    void *const data[PRODUCT_ROLES] = {x.work.data, w.work.data, y.work.data, shift};
    PARE_TRY(pare__product_run(be, plan, data, (uint8_t *)scratch + used));
    return pare__operand_write(be, &y);
}

pare_status pare__dnnl_conv_grad_x(pare_backend *be, const pare_conv_grad_x_args *args)
{
    if (pare_tensor_count(&args->dx) == 0)
        return PARE_OK;
    pare_dtype work = work_dtype(args->dx.dtype);
    size_t used = 0, more = 0;
    product_operand dx = pare__operand(&args->dx, work, false, &used);
    product_operand dy = pare__operand(&args->dy, work, false, &used);
    product_operand w = weights_operand(&args->w, args->dx.dtype, false, &used);
    product_recipe recipe = recipe_of(PRODUCT_CONV_GRAD_X, &dx.work, &w.work, &dy.work,
                                      &args->window, args->groups, work);
    product_plan *plan = NULL;
    void *scratch = NULL;
    PARE_TRY(pare__product_plan(be, &recipe, &plan, &more));
    PARE_TRY(pare__scratch(be, used + more, &scratch));
    pare__operand_place(&dx, scratch);
    pare__operand_place(&dy, scratch);
    pare__operand_place(&w, scratch);
    PARE_TRY(pare__operand_read(be, &dy, scratch));
    PARE_TRY(pare__operand_read(be, &w, scratch));
    void *const data[PRODUCT_ROLES] = {dx.work.data, w.work.data, dy.work.data, NULL};
    PARE_TRY(pare__product_run(be, plan, data, (uint8_t *)scratch + used));
    return pare__operand_write(be, &dx);
}

pare_status pare__dnnl_conv_grad_w(pare_backend *be, const pare_conv_grad_w_args *args)
{
    if (pare_tensor_count(&args->dy) == 0) {
        if (!args->accumulate && pare_tensor_count(&args->dw) > 0)
            memset(args->dw.data, 0, (size_t)pare_tensor_count(&args->dw) * sizeof(float));
        return PARE_OK;
    }
    pare_dtype work = work_dtype(args->x.dtype);
    size_t used = 0, more = 0;
    product_operand x = pare__operand(&args->x, work, false, &used);
    product_operand dy = pare__operand(&args->dy, work, false, &used);
    product_recipe recipe = recipe_of(PRODUCT_CONV_GRAD_W, &x.work, &args->dw, &dy.work,
                                      &args->window, args->groups, PARE_F32);
    recipe.sum = args->accumulate;
    product_plan *plan = NULL;
    void *scratch = NULL;
    PARE_TRY(pare__product_plan(be, &recipe, &plan, &more));
    PARE_TRY(pare__scratch(be, used + more, &scratch));
    pare__operand_place(&x, scratch);
    pare__operand_place(&dy, scratch);
    PARE_TRY(pare__operand_read(be, &x, scratch));
    PARE_TRY(pare__operand_read(be, &dy, scratch));
    void *const data[PRODUCT_ROLES] = {x.work.data, args->dw.data, dy.work.data, NULL};
    return pare__product_run(be, plan, data, (uint8_t *)scratch + used);
}
