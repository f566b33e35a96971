/* dtype.h - the element types of a checkpoint: exactly those of safetensors. */
#ifndef PARE_DTYPE_H
#define PARE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pare_dtype {
    PARE_F64,
    PARE_F32,
    PARE_F16,
    PARE_BF16,
    PARE_F8_E4M3,
    PARE_F8_E5M2,
    PARE_F8_E4M3FNUZ,
    PARE_F8_E5M2FNUZ,
    PARE_F8_E8M0,
    PARE_F6_E2M3,
    PARE_F6_E3M2,
    PARE_F4,
    PARE_C64,
    PARE_I64,
    PARE_I32,
    PARE_I16,
    PARE_I8,
    PARE_U64,
    PARE_U32,
    PARE_U16,
    PARE_U8,
    PARE_BOOL,
    PARE_DTYPES /* how many there are */
} pare_dtype;

/* safetensors' name, "F32", "F8_E4M3" …; "?" for a value that is none. */
const char *pare_dtype_name(pare_dtype dtype);

/* The dtype of that safetensors name; false if there is none. */
bool pare_dtype_parse(const char *name, pare_dtype *dtype);

/* Bits of one element: 4, 6, 8, 16, 32 or 64. */
int pare_dtype_bits(pare_dtype dtype);

/* Whether pare computes on it: F32, F16, BF16 (what prune and quantize take). */
bool pare_dtype_is_weight(pare_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
