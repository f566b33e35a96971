/* qtensor.h - how a quantised tensor's values are held: a scheme, and codes with scales.
 *
 * A matrix W [R, C] is cut into blocks of block_rows × block_cols (the last ones may be smaller);
 * each block has one scale s and, if asymmetric, one zero point z. With code q of an element:
 *
 *   PARE_QUANT_INT   w ≈ (q - z)·s    q in [-2^(bits-1), 2^(bits-1) - 1]
 *   PARE_QUANT_E4M3  w ≈ e4m3(q)·s    q is the byte of an OCP E4M3 number
 *   PARE_QUANT_NF4   w ≈ nf4[q]·s     q in 0..15, levels of QLoRA (Dettmers 2023, appendix E)
 *
 * computed in f32 and rounded once to the tensor's dtype.
 */
#ifndef PARE_QTENSOR_H
#define PARE_QTENSOR_H

#include "pare/dtype.h"
#include "pare/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pare_quant_type {
    PARE_QUANT_NONE,
    PARE_QUANT_INT,
    PARE_QUANT_E4M3,
    PARE_QUANT_NF4,
} pare_quant_type;

typedef enum pare_granularity {
    PARE_PER_CHANNEL, /* one scale per row */
    PARE_PER_TENSOR,
    PARE_PER_GROUP, /* group columns of a row share a scale */
    PARE_PER_BLOCK, /* block_rows × block_cols share a scale */
} pare_granularity;

typedef enum pare_activation { PARE_ACT_NONE, PARE_ACT_DYNAMIC, PARE_ACT_STATIC } pare_activation;

typedef struct pare_scheme {
    pare_quant_type type;
    int bits; /* 2..8 for INT, 8 for E4M3, 4 for NF4 */
    bool asymmetric;
    pare_granularity granularity;
    int64_t block_rows, block_cols; /* of PARE_PER_GROUP (1 × G) and PARE_PER_BLOCK, else 0 */
    pare_activation activation;     /* int8 (or E4M3) activations beside the weights */
    bool double_quant;              /* NF4: the scales are quantised too */
} pare_scheme;

/* Reads a scheme as docs/cli.md writes it: w4g128z, w8a8, w4b16x16, fp8t, nf4d … PARE_ERR_ARGUMENT
 * with what was expected; a scheme marked "later" there answers "not in this version". */
pare_status pare_scheme_parse(const char *text, pare_scheme *scheme);

/* Writes the canonical spelling into text (size bytes, 32 are enough) and returns text; "none". */
char *pare_scheme_text(const pare_scheme *scheme, char *text, size_t size);

/* The block of a scheme on a matrix [rows, cols]: rows and cols of one block (channel: 1 × cols,
 * tensor: rows × cols) and how many there are in each direction. An empty matrix has no blocks. */
typedef struct pare_blocks {
    int64_t block_rows, block_cols; /* at least 1 */
    int64_t down, across;           /* the scales are a matrix [down, across] */
} pare_blocks;
pare_blocks pare_scheme_blocks(const pare_scheme *scheme, int64_t rows, int64_t cols);

#ifdef __cplusplus
}
#endif
#endif
