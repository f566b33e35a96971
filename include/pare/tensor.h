/* tensor.h - a small contiguous row-major view. It never owns its memory. */
#ifndef PARE_TENSOR_H
#define PARE_TENSOR_H

#include "pare/dtype.h"
#include "pare/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PARE_MAX_RANK 8

typedef struct pare_tensor {
    void *data; /* shape[0] × … × shape[rank-1] elements, or NULL if that is 0 */
    pare_dtype dtype;
    int rank; /* 0 is a scalar */
    int64_t shape[PARE_MAX_RANK];
} pare_tensor;

/* A view of n elements, and of a matrix [rows, cols]. */
pare_tensor pare_vector(void *data, pare_dtype dtype, int64_t n);
pare_tensor pare_matrix(void *data, pare_dtype dtype, int64_t rows, int64_t cols);
/* Rows [first, first + count) of t seen as [all but the last axis, last axis]. */
pare_tensor pare_rows_of(pare_tensor t, int64_t first, int64_t count);

/* Elements of a shape into *count, and bytes (rounded up) into *bytes; either may be NULL.
 * PARE_ERR_DAMAGED if a dimension is negative, the rank is over PARE_MAX_RANK, or a product does
 * not fit in 63 bits. */
pare_status pare_shape_size(pare_dtype dtype, int rank, const int64_t *shape, int64_t *count,
                            int64_t *bytes);

/* Elements of a tensor whose shape is known to be sound. */
int64_t pare_tensor_count(const pare_tensor *tensor);

/* A shape as a matrix: rank 0 is 1 × 1, rank r is shape[0] × the product of the rest (rank 1: N ×
 * 1). A convolution [O, I, kh, kw] is O × (I·kh·kw). */
void pare_shape_matrix(int rank, const int64_t *shape, int64_t *rows, int64_t *cols);

/* Writes "[64, 128]" into text (size bytes, always terminated) and returns text. */
char *pare_shape_text(int rank, const int64_t *shape, char *text, size_t size);

#ifdef __cplusplus
}
#endif
#endif
