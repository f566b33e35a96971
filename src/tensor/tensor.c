/* tensor.c - shapes: their sizes, with every product checked, and views. */
#include "pare/tensor.h"

#include "base/alloc.h"
#include "base/check.h"

pare_tensor pare_vector(void *data, pare_dtype dtype, int64_t n)
{
    return (pare_tensor){.data = data, .dtype = dtype, .rank = 1, .shape = {n}};
}

pare_tensor pare_matrix(void *data, pare_dtype dtype, int64_t rows, int64_t cols)
{
    return (pare_tensor){.data = data, .dtype = dtype, .rank = 2, .shape = {rows, cols}};
}

pare_tensor pare_rows_of(pare_tensor t, int64_t first, int64_t count)
{
    int64_t cols = t.shape[t.rank - 1];
    char *data = (char *)t.data + first * cols * (pare_dtype_bits(t.dtype) / 8);
    return pare_matrix(data, t.dtype, count, cols);
}

pare_status pare_shape_size(pare_dtype dtype, int rank, const int64_t *shape, int64_t *count,
                            int64_t *bytes)
{
    PARE_REQUIRE(rank >= 0 && rank <= PARE_MAX_RANK, PARE_ERR_DAMAGED,
                 "a tensor has %d dimensions; pare takes 0 to %d", rank, PARE_MAX_RANK);
    bool empty = false;
    for (int i = 0; i < rank; i++) {
        PARE_REQUIRE(shape[i] >= 0, PARE_ERR_DAMAGED, "dimension %d of a shape is %lld", i,
                     (long long)shape[i]);
        empty = empty || shape[i] == 0;
    }
    int64_t n = empty ? 0 : 1, size, tail = 0;
    char text[192];
    for (int i = 0; i < rank && !empty; i++)
        PARE_REQUIRE(pare__mul(n, shape[i], &n), PARE_ERR_DAMAGED,
                     "the shape %s has more elements than 63 bits count",
                     pare_shape_text(rank, shape, text, sizeof text));
    int bits = pare_dtype_bits(dtype);
    tail = (n % 8 * bits + 7) / 8;
    PARE_REQUIRE(pare__mul(n / 8, bits, &size) && pare__add(size, tail, &size), PARE_ERR_DAMAGED,
                 "the shape %s of %s has more bytes than 63 bits count",
                 pare_shape_text(rank, shape, text, sizeof text), pare_dtype_name(dtype));
    if (count)
        *count = n;
    if (bytes)
        *bytes = size;
    return PARE_OK;
}

int64_t pare_tensor_count(const pare_tensor *tensor)
{
    int64_t n = 1;
    for (int i = 0; i < tensor->rank; i++)
        n *= tensor->shape[i];
    return n;
}

void pare_shape_matrix(int rank, const int64_t *shape, int64_t *rows, int64_t *cols)
{
    *rows = rank > 0 ? shape[0] : 1;
    *cols = 1;
    for (int i = 1; i < rank; i++)
        *cols *= shape[i];
}

char *pare_shape_text(int rank, const int64_t *shape, char *text, size_t size)
{
    size_t at = 0;
    if (size == 0)
        return text;
    text[0] = '\0';
    for (int i = 0; i <= rank && at < size; i++) {
        const char *before = i == 0 ? "[" : i < rank ? ", " : "";
        int n = i < rank ? snprintf(text + at, size - at, "%s%lld", before, (long long)shape[i])
                         : snprintf(text + at, size - at, "%s]", rank == 0 ? "[" : "");
        at += (size_t)n;
    }
    return text;
}
