/* quant.h - how weights become codes: quantisers, one file each in src/quant. */
#ifndef PARE_QUANT_H
#define PARE_QUANT_H

#include "pare/backend.h"
#include "pare/qtensor.h"
#include "pare/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a scale is found from its block. */
typedef enum pare_scale_search { PARE_SCALE_ABSMAX, PARE_SCALE_MSE } pare_scale_search;

/* Reads "absmax", "mse"; "percentile:P" and "kl" answer "not in this version". */
pare_status pare_scale_search_parse(const char *text, pare_scale_search *search);
const char *pare_scale_search_name(pare_scale_search search);

/* What a quantiser sees: rows of one tensor that begin at a block, and where the result goes. */
typedef struct pare_quant_args {
    pare_scheme scheme;
    pare_scale_search search;
    pare_dtype scale_dtype; /* F32, F16 or BF16: the source's; F32 for NF4 */
    pare_tensor w;          /* [R, C], F32, finite or not */
    int64_t block_rows, block_cols;
    bool scale_known;   /* scale (and zero) are inputs: a scale that spans more than these rows */
    pare_tensor scale;  /* [ceil(R/block_rows), ceil(C/block_cols)], F32 */
    pare_tensor lo;     /* scratch, the same, F32 */
    pare_tensor zero;   /* the same, I8; data NULL unless asymmetric */
    pare_tensor codes;  /* [R, C], I8 */
    float scale_offset; /* of double_quant: what goes to quant_nested, and its results */
    pare_tensor scale_codes, nested;
} pare_quant_args;

typedef struct pare_quant_method {
    const char *name;    /* "rtn" */
    const char *summary; /* one line for help and docs */
    pare_status (*quantize)(pare_backend *be, const pare_quant_args *args);
} pare_quant_method;

/* All methods, NULL after the last; the one of a name, or NULL. */
const pare_quant_method *const *pare_quant_methods(void);
const pare_quant_method *pare_quant_find(const char *name);

#ifdef __cplusplus
}
#endif
#endif
