/* dnnl_compat.c - recipes as oneDNN's objects, for oneDNN 2 and 3. */
#include "dnnl_compat.h"

#include "pare/backend.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* oneDNN takes arrays of its largest rank. */
typedef struct moves {
    dnnl_dims_t stride, dilation, before, after;
} moves;

/* ---- what differs ---------------------------------------------------------------------------- */

#if DNNL_VERSION_MAJOR >= 3

static dnnl_status_t strided(product_layout **layout, int rank, const dnnl_dims_t dims,
                             dnnl_data_type_t dtype, const dnnl_dims_t strides)
{
    return dnnl_memory_desc_create_with_strides(layout, rank, dims, dtype, strides);
}

static dnnl_status_t unbound(product_layout **layout, int rank, const dnnl_dims_t dims,
                             dnnl_data_type_t dtype)
{
    return dnnl_memory_desc_create_with_tag(layout, rank, dims, dtype, dnnl_format_tag_any);
}

void pare__layout_free(product_layout *layout)
{
    if (layout)
        dnnl_memory_desc_destroy(layout);
}

static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}

static dnnl_status_t append_relu(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_eltwise(ops, dnnl_eltwise_relu, 0.0f, 0.0f);
}

static dnnl_status_t gemm(dnnl_engine_t engine, product_layout *const l[PRODUCT_ROLES],
                          dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *description)
{
    return dnnl_matmul_primitive_desc_create(description, engine, l[PRODUCT_SRC],
                                             l[PRODUCT_WEIGHTS], l[PRODUCT_BIAS], l[PRODUCT_DST],
                                             attr);
}

static dnnl_status_t conv(const moves *by, dnnl_engine_t engine,
                          product_layout *const l[PRODUCT_ROLES], dnnl_primitive_attr_t attr,
                          dnnl_primitive_desc_t *description)
{
    return dnnl_convolution_forward_primitive_desc_create(
        description, engine, dnnl_forward_training, dnnl_convolution_direct, l[PRODUCT_SRC],
        l[PRODUCT_WEIGHTS], l[PRODUCT_BIAS], l[PRODUCT_DST], by->stride, by->dilation, by->before,
        by->after, attr);
}

/* The forward product of a gradient. */
static dnnl_status_t forward(const product_recipe *r, const moves *by, dnnl_engine_t engine,
                             product_layout *const l[PRODUCT_ROLES], dnnl_primitive_attr_t attr,
                             dnnl_primitive_desc_t *description)
{
    if (product_is_linear(r->kind))
        return dnnl_inner_product_forward_primitive_desc_create(
            description, engine, dnnl_forward_training, l[PRODUCT_SRC], l[PRODUCT_WEIGHTS], NULL,
            l[PRODUCT_DST], attr);
    return conv(by, engine, l, attr, description);
}

static dnnl_status_t gradient(const product_recipe *r, const moves *by, dnnl_engine_t engine,
                              product_layout *const l[PRODUCT_ROLES], dnnl_primitive_attr_t attr,
                              dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *description)
{
    if (r->kind == PRODUCT_GEMM_GRAD_X)
        return dnnl_inner_product_backward_data_primitive_desc_create(
            description, engine, l[PRODUCT_SRC], l[PRODUCT_WEIGHTS], l[PRODUCT_DST], hint, attr);
    if (r->kind == PRODUCT_GEMM_GRAD_W)
        return dnnl_inner_product_backward_weights_primitive_desc_create(
            description, engine, l[PRODUCT_SRC], l[PRODUCT_WEIGHTS], NULL, l[PRODUCT_DST], hint,
            attr);
    if (r->kind == PRODUCT_CONV_GRAD_X)
        return dnnl_convolution_backward_data_primitive_desc_create(
            description, engine, dnnl_convolution_direct, l[PRODUCT_SRC], l[PRODUCT_WEIGHTS],
            l[PRODUCT_DST], by->stride, by->dilation, by->before, by->after, hint, attr);
    return dnnl_convolution_backward_weights_primitive_desc_create(
        description, engine, dnnl_convolution_direct, l[PRODUCT_SRC], l[PRODUCT_WEIGHTS], NULL,
        l[PRODUCT_DST], by->stride, by->dilation, by->before, by->after, hint, attr);
}

#else

static dnnl_status_t strided(product_layout **layout, int rank, const dnnl_dims_t dims,
                             dnnl_data_type_t dtype, const dnnl_dims_t strides)
{
    *layout = calloc(1, sizeof **layout);
    return *layout ? dnnl_memory_desc_init_by_strides(*layout, rank, dims, dtype, strides)
                   : dnnl_out_of_memory;
}

static dnnl_status_t unbound(product_layout **layout, int rank, const dnnl_dims_t dims,
                             dnnl_data_type_t dtype)
{
    *layout = calloc(1, sizeof **layout);
    return *layout ? dnnl_memory_desc_init_by_tag(*layout, rank, dims, dtype, dnnl_format_tag_any)
                   : dnnl_out_of_memory;
}

void pare__layout_free(product_layout *layout)
{
    free(layout);
}

static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f);
}

static dnnl_status_t append_relu(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_relu, 0.0f, 0.0f);
}

static dnnl_status_t gemm(dnnl_engine_t engine, product_layout *const l[PRODUCT_ROLES],
                          dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *description)
{
    dnnl_matmul_desc_t desc;
    dnnl_status_t status = dnnl_matmul_desc_init(&desc, l[PRODUCT_SRC], l[PRODUCT_WEIGHTS],
                                                 l[PRODUCT_BIAS], l[PRODUCT_DST]);
    return status ? status : dnnl_primitive_desc_create(description, &desc, attr, engine, NULL);
}

static dnnl_status_t conv(const moves *by, dnnl_engine_t engine,
                          product_layout *const l[PRODUCT_ROLES], dnnl_primitive_attr_t attr,
                          dnnl_primitive_desc_t *description)
{
    dnnl_convolution_desc_t desc;
    dnnl_status_t status = dnnl_dilated_convolution_forward_desc_init(
        &desc, dnnl_forward_training, dnnl_convolution_direct, l[PRODUCT_SRC], l[PRODUCT_WEIGHTS],
        l[PRODUCT_BIAS], l[PRODUCT_DST], by->stride, by->dilation, by->before, by->after);
    return status ? status : dnnl_primitive_desc_create(description, &desc, attr, engine, NULL);
}

/* The forward product of a gradient. */
static dnnl_status_t forward(const product_recipe *r, const moves *by, dnnl_engine_t engine,
                             product_layout *const l[PRODUCT_ROLES], dnnl_primitive_attr_t attr,
                             dnnl_primitive_desc_t *description)
{
    if (!product_is_linear(r->kind))
        return conv(by, engine, l, attr, description);
    dnnl_inner_product_desc_t desc;
    dnnl_status_t status = dnnl_inner_product_forward_desc_init(
        &desc, dnnl_forward_training, l[PRODUCT_SRC], l[PRODUCT_WEIGHTS], NULL, l[PRODUCT_DST]);
    return status ? status : dnnl_primitive_desc_create(description, &desc, attr, engine, NULL);
}

static dnnl_status_t gradient(const product_recipe *r, const moves *by, dnnl_engine_t engine,
                              product_layout *const l[PRODUCT_ROLES], dnnl_primitive_attr_t attr,
                              dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *description)
{
    dnnl_inner_product_desc_t linear;
    dnnl_convolution_desc_t desc;
    dnnl_status_t status;
    if (r->kind == PRODUCT_GEMM_GRAD_X)
        status = dnnl_inner_product_backward_data_desc_init(&linear, l[PRODUCT_SRC],
                                                            l[PRODUCT_WEIGHTS], l[PRODUCT_DST]);
    else if (r->kind == PRODUCT_GEMM_GRAD_W)
        status = dnnl_inner_product_backward_weights_desc_init(
            &linear, l[PRODUCT_SRC], l[PRODUCT_WEIGHTS], NULL, l[PRODUCT_DST]);
    else if (r->kind == PRODUCT_CONV_GRAD_X)
        status = dnnl_dilated_convolution_backward_data_desc_init(
            &desc, dnnl_convolution_direct, l[PRODUCT_SRC], l[PRODUCT_WEIGHTS], l[PRODUCT_DST],
            by->stride, by->dilation, by->before, by->after);
    else
        status = dnnl_dilated_convolution_backward_weights_desc_init(
            &desc, dnnl_convolution_direct, l[PRODUCT_SRC], l[PRODUCT_WEIGHTS], NULL,
            l[PRODUCT_DST], by->stride, by->dilation, by->before, by->after);
    const void *op = product_is_linear(r->kind) ? (const void *)&linear : &desc;
    return status ? status : dnnl_primitive_desc_create(description, op, attr, engine, hint);
}

#endif

/* ---- what does not --------------------------------------------------------------------------- */

dnnl_status_t pare__layout_make(const product_view *view, product_layout **layout)
{
    dnnl_data_type_t dtype = view->dtype == PARE_BF16 ? dnnl_bf16 : dnnl_f32;
    int rank = (int)view->rank;
    dnnl_dims_t dims = {0}, strides = {0};
    memcpy(dims, view->dims, sizeof view->dims);
    memcpy(strides, view->strides, sizeof view->strides);
    *layout = NULL;
    return view->free ? unbound(layout, rank, dims, dtype)
                      : strided(layout, rank, dims, dtype, strides);
}

dnnl_status_t pare__dnnl_attributes(bool sum, bool relu, dnnl_primitive_attr_t *attr)
{
    dnnl_post_ops_t ops = NULL;
    *attr = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(attr);
    if (!status)
        status = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    if (!status)
        status = dnnl_post_ops_create(&ops);
    if (!status && sum)
        status = append_sum(ops);
    if (!status && relu)
        status = append_relu(ops);
    if (!status)
        status = dnnl_primitive_attr_set_post_ops(*attr, ops);
    if (ops)
        dnnl_post_ops_destroy(ops);
    return status;
}

/* A gradient wants its forward product as a hint, with weights of src's dtype. */
static dnnl_status_t describe_gradient(const product_recipe *r, const moves *by,
                                       dnnl_engine_t engine,
                                       product_layout *const layout[PRODUCT_ROLES],
                                       dnnl_primitive_attr_t attr,
                                       dnnl_primitive_desc_t *description)
{
    product_view view = r->own;
    view.dtype = r->given[PRODUCT_SRC].dtype;
    product_layout *weights = NULL;
    dnnl_primitive_desc_t hint = NULL;
    dnnl_status_t status = pare__layout_make(&view, &weights);
    if (!status) {
        product_layout *all[PRODUCT_ROLES] = {layout[PRODUCT_SRC], weights, layout[PRODUCT_DST],
                                              NULL};
        status = forward(r, by, engine, all, attr, &hint);
    }
    if (!status)
        status = gradient(r, by, engine, layout, attr, hint, description);
    if (hint)
        dnnl_primitive_desc_destroy(hint);
    pare__layout_free(weights);
    return status;
}

dnnl_status_t pare__dnnl_describe(const product_recipe *recipe, dnnl_engine_t engine,
                                  product_layout *const layout[PRODUCT_ROLES],
                                  dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *description)
{
    const moves by = {
        .stride = {recipe->stride[0], recipe->stride[1]},
        .dilation = {recipe->dilation[0] - 1, recipe->dilation[1] - 1}, /* 0: no gaps */
        .before = {recipe->before[0], recipe->before[1]},
        .after = {recipe->after[0], recipe->after[1]},
    };
    *description = NULL;
    if (recipe->kind == PRODUCT_GEMM)
        return gemm(engine, layout, attr, description);
    if (recipe->kind == PRODUCT_CONV)
        return conv(&by, engine, layout, attr, description);
    return describe_gradient(recipe, &by, engine, layout, attr, description);
}

/* ---- the library ----------------------------------------------------------------------------- */

/* An instruction set's value holds the bits of those that it contains. */
static bool has(dnnl_cpu_isa_t isa)
{
    return ((unsigned)dnnl_get_effective_cpu_isa() & (unsigned)isa) == (unsigned)isa;
}

bool pare__dnnl_has_bf16(void)
{
    return has(dnnl_cpu_isa_avx512_core);
}

bool pare__dnnl_wants_alignment(void)
{
    return !has(dnnl_cpu_isa_avx);
}

/* Written once, under pthread_once, and only read afterwards. */
static char library[64];

static void name_library(void)
{
    static const struct {
        dnnl_cpu_isa_t isa;
        const char *name;
    } sets[] = {
        {dnnl_cpu_isa_avx512_core_amx, "avx512 with amx"},
        {dnnl_cpu_isa_avx512_core_bf16, "avx512 with bf16"},
        {dnnl_cpu_isa_avx512_core_vnni, "avx512 with vnni"},
        {dnnl_cpu_isa_avx512_core, "avx512"},
        {dnnl_cpu_isa_avx2, "avx2"},
        {dnnl_cpu_isa_avx, "avx"},
        {dnnl_cpu_isa_sse41, "sse4.1"},
    };
    const dnnl_version_t *version = dnnl_version();
    const char *name = "base";
    for (size_t i = sizeof sets / sizeof sets[0]; i-- > 0;)
        name = has(sets[i].isa) ? sets[i].name : name;
    snprintf(library, sizeof library, "oneDNN %d.%d.%d %s", version->major, version->minor,
             version->patch, name);
}

const char *pare_cpu_dnnl(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, name_library);
    return library;
}
