/* ops_check.c - the questions of ops_check.h. */
#include "ops_check.h"

#include "base/check.h"

#define SHAPE_TEXT 192

static const char *shape_of(const pare_tensor *t, char *text)
{
    return pare_shape_text(t->rank, t->shape, text, SHAPE_TEXT);
}

/* "F32, F16 or BF16" */
static const char *set_text(unsigned dtypes, char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (int i = 0; i < PARE_DTYPES && at < size; i++) {
        if (!(dtypes >> i & 1u))
            continue;
        const char *before = at == 0 ? "" : dtypes >> i == 1u ? " or " : ", ";
        at +=
            (size_t)snprintf(text + at, size - at, "%s%s", before, pare_dtype_name((pare_dtype)i));
    }
    return text;
}

pare_status pare__arg_sound(const pare__arg *arg, int rank, unsigned dtypes)
{
    const pare_tensor *t = arg->tensor;
    char text[SHAPE_TEXT];
    PARE_REQUIRE((unsigned)t->dtype < PARE_DTYPES && dtypes >> t->dtype & 1u, PARE_ERR_ARGUMENT,
                 "%s: %s is %s; it must be %s", arg->op, arg->name, pare_dtype_name(t->dtype),
                 set_text(dtypes, text, sizeof text));
    int64_t count = 0;
    PARE_REQUIRE(pare_shape_size(t->dtype, t->rank, t->shape, &count, NULL) == PARE_OK,
                 PARE_ERR_ARGUMENT, "%s: %s has an impossible shape of rank %d", arg->op, arg->name,
                 t->rank);
    PARE_REQUIRE(rank < 0 || t->rank == rank, PARE_ERR_ARGUMENT,
                 "%s: %s is %s; it must have %d dimensions", arg->op, arg->name, shape_of(t, text),
                 rank);
    PARE_REQUIRE(t->data || count == 0, PARE_ERR_ARGUMENT, "%s: %s is %s but its data is NULL",
                 arg->op, arg->name, shape_of(t, text));
    size_t element = (size_t)pare_dtype_bits(t->dtype) / 8;
    PARE_REQUIRE((uintptr_t)t->data % element == 0, PARE_ERR_ARGUMENT,
                 "%s: the data of %s is not aligned to its %zu-byte elements", arg->op, arg->name,
                 element);
    return PARE_OK;
}

pare_status pare__arg_vector(const pare__arg *arg, pare_dtype dtype, int64_t n)
{
    char text[SHAPE_TEXT];
    PARE_TRY(pare__arg_sound(arg, 1, PARE__SET(dtype)));
    PARE_REQUIRE(arg->tensor->shape[0] == n, PARE_ERR_ARGUMENT, "%s: %s is %s; it must be [%lld]",
                 arg->op, arg->name, shape_of(arg->tensor, text), (long long)n);
    return PARE_OK;
}

pare_status pare__arg_matrix(const pare__arg *arg, pare_dtype dtype, int64_t rows, int64_t cols)
{
    char text[SHAPE_TEXT];
    PARE_TRY(pare__arg_sound(arg, 2, PARE__SET(dtype)));
    PARE_REQUIRE(arg->tensor->shape[0] == rows && arg->tensor->shape[1] == cols, PARE_ERR_ARGUMENT,
                 "%s: %s is %s; it must be [%lld, %lld]", arg->op, arg->name,
                 shape_of(arg->tensor, text), (long long)rows, (long long)cols);
    return PARE_OK;
}

pare_status pare__arg_shape(const pare__arg *arg, pare_dtype dtype, int rank, const int64_t *shape)
{
    const pare_tensor *t = arg->tensor;
    PARE_TRY(pare__arg_sound(arg, rank, PARE__SET(dtype)));
    bool same = true;
    for (int i = 0; i < rank; i++)
        same = same && t->shape[i] == shape[i];
    char is[SHAPE_TEXT], must[SHAPE_TEXT];
    PARE_REQUIRE(same, PARE_ERR_ARGUMENT, "%s: %s is %s; it must be %s", arg->op, arg->name,
                 shape_of(t, is), pare_shape_text(rank, shape, must, sizeof must));
    return PARE_OK;
}

pare_status pare__window_sound(const char *op, const pare_window *w)
{
    for (int i = 0; i < 2; i++)
        PARE_REQUIRE(w->kernel[i] >= 1 && w->stride[i] >= 1 && w->dilation[i] >= 1,
                     PARE_ERR_ARGUMENT,
                     "%s: window has kernel %d, stride %d, dilation %d along axis %d; each must be "
                     "1 or more",
                     op, w->kernel[i], w->stride[i], w->dilation[i], i);
    PARE_REQUIRE(w->pad_top >= 0 && w->pad_left >= 0 && w->pad_bottom >= 0 && w->pad_right >= 0,
                 PARE_ERR_ARGUMENT,
                 "%s: window pads %d, %d, %d, %d (top, left, bottom, right); none may be negative",
                 op, w->pad_top, w->pad_left, w->pad_bottom, w->pad_right);
    return PARE_OK;
}

static uintptr_t bytes_of(const pare_tensor *t)
{
    return (uintptr_t)pare_tensor_count(t) * (uintptr_t)pare_dtype_bits(t->dtype) / 8;
}

pare_status pare__arg_apart(const pare__arg *out, const pare__arg *in)
{
    uintptr_t a = (uintptr_t)out->tensor->data, b = (uintptr_t)in->tensor->data;
    uintptr_t a_bytes = bytes_of(out->tensor), b_bytes = bytes_of(in->tensor);
    bool apart = a_bytes == 0 || b_bytes == 0 || (a < b ? b - a >= a_bytes : a - b >= b_bytes);
    char out_text[SHAPE_TEXT], in_text[SHAPE_TEXT];
    PARE_REQUIRE(apart, PARE_ERR_ARGUMENT,
                 "%s: %s %s and %s %s overlap in memory; they must be apart", out->op, out->name,
                 shape_of(out->tensor, out_text), in->name, shape_of(in->tensor, in_text));
    return PARE_OK;
}

pare_status pare__arg_apart_or_same(const pare__arg *out, const pare__arg *in)
{
    if (out->tensor->data != in->tensor->data)
        PARE_TRY(pare__arg_apart(out, in));
    return PARE_OK;
}
