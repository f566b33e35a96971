/* ops_check_calib_stats.c - rules of the statistics of a layer's inputs, and of what prepares
 * inputs for them. */
#include "ops_check.h"

#include "base/check.h"

#include <math.h>

#define MOST_BINS (1 << 24) /* whose numbers are floats */

/* As many elements as x and of its dtype; may start where x does. */
static pare_status check_like(const pare__arg *y, const pare__arg *x)
{
    const pare_tensor *a = y->tensor, *b = x->tensor;
    PARE_TRY(pare__arg_sound(y, -1, PARE__SET(b->dtype)));
    char as[192], bs[192];
    PARE_REQUIRE(pare_tensor_count(a) == pare_tensor_count(b), PARE_ERR_ARGUMENT,
                 "%s: %s is %s and %s is %s; they must be as many", y->op, y->name,
                 pare_shape_text(a->rank, a->shape, as, sizeof as), x->name,
                 pare_shape_text(b->rank, b->shape, bs, sizeof bs));
    return pare__arg_apart_or_same(y, x);
}

static pare_status check_step(const char *op, const char *name, float step)
{
    PARE_REQUIRE(step > 0 && isfinite(step), PARE_ERR_ARGUMENT,
                 "%s: %s is %g; it must be above 0 and finite", op, name, (double)step);
    return PARE_OK;
}

pare_status pare__check_gram(const pare_gram_args *args)
{
    const pare__arg *x = PARE__ARG(gram, x), *g = PARE__ARG(gram, g);
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(pare__arg_matrix(g, PARE_F32, args->x.shape[1], args->x.shape[1]));
    PARE_TRY(pare__arg_apart(g, x));
    return PARE_OK;
}

pare_status pare__check_column_stats(const pare_column_stats_args *args)
{
    const pare__arg *x = PARE__ARG(column_stats, x);
    const pare__arg *outs[] = {PARE__ARG(column_stats, absmax), PARE__ARG(column_stats, sum),
                               PARE__ARG(column_stats, squares)};
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    for (int i = 0; i < 3; i++) {
        PARE_TRY(pare__arg_vector(outs[i], i == 0 ? PARE_F32 : PARE_F64, args->x.shape[1]));
        PARE_TRY(pare__arg_apart(outs[i], x));
        for (int k = 0; k < i; k++)
            PARE_TRY(pare__arg_apart(outs[i], outs[k]));
    }
    return PARE_OK;
}

pare_status pare__check_histogram(const pare_histogram_args *args)
{
    const pare__arg *x = PARE__ARG(histogram, x), *bins = PARE__ARG(histogram, bins);
    PARE_TRY(pare__arg_sound(x, -1, PARE__ACTS));
    PARE_TRY(pare__arg_sound(bins, 1, PARE__SET(PARE_I64)));
    PARE_REQUIRE(args->bins.shape[0] >= 1 && args->bins.shape[0] <= MOST_BINS, PARE_ERR_ARGUMENT,
                 "histogram: %lld bins; there must be from 1 to %d", (long long)args->bins.shape[0],
                 MOST_BINS);
    PARE_TRY(check_step("histogram", "width", args->width));
    PARE_TRY(pare__arg_apart(bins, x));
    return PARE_OK;
}

/* The product of count sizes, none negative; −1 if it does not fit. */
static int64_t product_of(int count, const int64_t *sizes)
{
    int64_t product = 1;
    for (int i = 0; i < count; i++)
        if (__builtin_mul_overflow(product, sizes[i], &product))
            return -1;
    return product;
}

pare_status pare__check_patches(const pare_patches_args *args)
{
    const pare__arg *x = PARE__ARG(patches, x), *y = PARE__ARG(patches, y);
    const pare_window *w = &args->window;
    const int64_t *n = args->x.shape;
    PARE_TRY(pare__window_sound("patches", w));
    PARE_TRY(pare__arg_sound(x, 4, PARE__ACTS));
    int64_t down = pare_window_out(w, 0, n[1]), across = pare_window_out(w, 1, n[2]);
    char text[192];
    PARE_REQUIRE(down >= 1 && across >= 1, PARE_ERR_ARGUMENT,
                 "patches: the window of %d × %d (dilation %d, %d) does not fit x %s with its pads",
                 w->kernel[0], w->kernel[1], w->dilation[0], w->dilation[1],
                 pare_shape_text(4, n, text, sizeof text));
    int64_t rows = product_of(3, (int64_t[]){n[0], down, across});
    int64_t cols = product_of(3, (int64_t[]){n[3], w->kernel[0], w->kernel[1]});
    PARE_REQUIRE(rows >= 0 && cols >= 0, PARE_ERR_ARGUMENT,
                 "patches: too many windows of %d × %d in x %s", w->kernel[0], w->kernel[1],
                 pare_shape_text(4, n, text, sizeof text));
    PARE_TRY(pare__arg_matrix(y, args->x.dtype, rows, cols));
    PARE_TRY(pare__arg_apart(y, x));
    return PARE_OK;
}

pare_status pare__check_keep_rows(const pare_keep_rows_args *args)
{
    const pare__arg *x = PARE__ARG(keep_rows, x), *y = PARE__ARG(keep_rows, y);
    const pare__arg *keep = PARE__ARG(keep_rows, keep);
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(pare__arg_matrix(y, args->x.dtype, args->x.shape[0], args->x.shape[1]));
    PARE_TRY(pare__arg_apart_or_same(y, x));
    PARE_TRY(pare__arg_vector(keep, PARE_U8, args->x.shape[0]));
    PARE_TRY(pare__arg_apart(y, keep));
    return PARE_OK;
}

pare_status pare__check_quant_fixed(const pare_quant_fixed_args *args)
{
    const pare__arg *x = PARE__ARG(quant_fixed, x);
    PARE_TRY(pare__arg_sound(x, -1, PARE__ACTS));
    PARE_TRY(check_like(PARE__ARG(quant_fixed, y), x));
    PARE_TRY(check_step("quant_fixed", "scale", args->scale));
    return PARE_OK;
}
