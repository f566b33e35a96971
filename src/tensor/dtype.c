/* dtype.c - names and widths of the element types. */
#include "pare/dtype.h"

#include <string.h>

typedef struct dtype_row {
    const char *name;
    int bits;
} dtype_row;

static const dtype_row rows[PARE_DTYPES] = {
    [PARE_F64] = {"F64", 64},
    [PARE_F32] = {"F32", 32},
    [PARE_F16] = {"F16", 16},
    [PARE_BF16] = {"BF16", 16},
    [PARE_F8_E4M3] = {"F8_E4M3", 8},
    [PARE_F8_E5M2] = {"F8_E5M2", 8},
    [PARE_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [PARE_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [PARE_F8_E8M0] = {"F8_E8M0", 8},
    [PARE_F6_E2M3] = {"F6_E2M3", 6},
    [PARE_F6_E3M2] = {"F6_E3M2", 6},
    [PARE_F4] = {"F4", 4},
    [PARE_C64] = {"C64", 64},
    [PARE_I64] = {"I64", 64},
    [PARE_I32] = {"I32", 32},
    [PARE_I16] = {"I16", 16},
    [PARE_I8] = {"I8", 8},
    [PARE_U64] = {"U64", 64},
    [PARE_U32] = {"U32", 32},
    [PARE_U16] = {"U16", 16},
    [PARE_U8] = {"U8", 8},
    [PARE_BOOL] = {"BOOL", 8},
};

static const dtype_row *row_of(pare_dtype dtype)
{
    static const dtype_row none = {"?", 8};
    unsigned index = (unsigned)dtype;
    return index < PARE_DTYPES ? &rows[index] : &none;
}

const char *pare_dtype_name(pare_dtype dtype)
{
    return row_of(dtype)->name;
}

bool pare_dtype_parse(const char *name, pare_dtype *dtype)
{
    for (int i = 0; name && i < PARE_DTYPES; i++) {
        if (strcmp(name, rows[i].name) == 0) {
            *dtype = (pare_dtype)i;
            return true;
        }
    }
    return false;
}

int pare_dtype_bits(pare_dtype dtype)
{
    return row_of(dtype)->bits;
}

bool pare_dtype_is_weight(pare_dtype dtype)
{
    return dtype == PARE_F32 || dtype == PARE_F16 || dtype == PARE_BF16;
}
