/* store_h5_type.c - how dtypes and names are spelt in HDF5, and the one door to the library. */
#include "store_h5_impl.h"

#include <string.h>

/* HDF5 keeps global tables, and not every build of it locks them. This lock is the one mutable
 * global of pare: it guards the library's globals, which no object of ours can own. */
static pthread_mutex_t library = PTHREAD_MUTEX_INITIALIZER;

void pare__h5_enter(pare__h5_scope *scope)
{
    pthread_mutex_lock(&library);
    scope->print = NULL;
    scope->user = NULL;
    H5Eget_auto2(H5E_DEFAULT, &scope->print, &scope->user);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void pare__h5_leave(const pare__h5_scope *scope)
{
    H5Eclear2(H5E_DEFAULT);
    H5Eset_auto2(H5E_DEFAULT, scope->print, scope->user);
    pthread_mutex_unlock(&library);
}

hid_t pare__h5_access(void)
{
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    /* Locks fail on some network file systems, and a checkpoint is never written while it is read.
     */
    if (list >= 0 && (H5Pset_file_locking(list, false, true) < 0 ||
                      H5Pset_fclose_degree(list, H5F_CLOSE_STRONG) < 0)) {
        H5Pclose(list);
        return -1;
    }
    return list;
}

/* A floating type of sign, exponent and mantissa from the top bit down, without unused bits. */
static hid_t float_type(size_t exponent, size_t mantissa, size_t bias)
{
    size_t bits = 1 + exponent + mantissa;
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type >= 0 && (H5Tset_fields(type, bits - 1, mantissa, exponent, 0, mantissa) < 0 ||
                      H5Tset_precision(type, bits) < 0 || H5Tset_ebias(type, bias) < 0 ||
                      H5Tset_size(type, bits / 8) < 0)) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

/* What h5py and HDF5's own tools show as a complex number. */
static hid_t complex_type(void)
{
    hid_t type = H5Tcreate(H5T_COMPOUND, 8);
    if (type >= 0 && (H5Tinsert(type, "r", 0, H5T_IEEE_F32LE) < 0 ||
                      H5Tinsert(type, "i", 4, H5T_IEEE_F32LE) < 0)) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

hid_t pare__h5_type(pare_dtype dtype)
{
    switch (dtype) {
    case PARE_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case PARE_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case PARE_F16:
        return float_type(5, 10, 15);
    case PARE_BF16:
        return float_type(8, 7, 127);
    case PARE_F8_E5M2:
        return float_type(5, 2, 15);
    case PARE_C64:
        return complex_type();
    case PARE_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case PARE_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case PARE_I16:
        return H5Tcopy(H5T_STD_I16LE);
    case PARE_I8:
        return H5Tcopy(H5T_STD_I8LE);
    case PARE_U64:
        return H5Tcopy(H5T_STD_U64LE);
    case PARE_U32:
        return H5Tcopy(H5T_STD_U32LE);
    case PARE_U16:
        return H5Tcopy(H5T_STD_U16LE);
    default: /* HDF5 reads an all-ones exponent as Inf or NaN, which these do not mean */
        return H5Tcopy(H5T_STD_U8LE);
    }
}

pare_status pare__h5_dims(pare_dtype dtype, int rank, const int64_t *shape, int *dims_rank,
                          hsize_t dims[PARE_MAX_RANK])
{
    int64_t bytes = 0;
    PARE_TRY(pare_shape_size(dtype, rank, shape, NULL, &bytes));
    *dims_rank = rank;
    if (pare_dtype_bits(dtype) < 8) {
        *dims_rank = 1;
        dims[0] = (hsize_t)bytes;
        return PARE_OK;
    }
    for (int i = 0; i < rank; ++i)
        dims[i] = (hsize_t)shape[i];
    return PARE_OK;
}

pare_status pare__h5_escape(const char *name, bool folders, char **escaped)
{
    pare__text text = {0};
    bool dot = strcmp(name, ".") == 0; /* HDF5 reads it as "this group" */
    for (const char *p = name; *p; ++p) {
        unsigned char c = (unsigned char)*p;
        if (c < 0x20 || c == 0x7f || c == '%' || (c == '/' && !folders) || dot)
            pare__text_add(&text, "%%%02X", c);
        else
            pare__text_bytes(&text, p, 1);
    }
    PARE_TRY(pare__text_take(&text, escaped));
    return PARE_OK;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

pare_status pare__h5_unescape(const char *escaped, char **name)
{
    pare__text text = {0};
    for (const char *p = escaped; *p; ++p) {
        char c = *p;
        int high = c == '%' ? hex_digit(p[1]) : -1, low = high >= 0 ? hex_digit(p[2]) : -1;
        if (low >= 0) {
            c = (char)(high << 4 | low);
            p += 2;
        }
        pare__text_bytes(&text, &c, 1);
    }
    PARE_TRY(pare__text_take(&text, name));
    char *again = NULL; /* one spelling a name, so that two links never mean the same tensor */
    pare_status status = pare__h5_escape(*name, false, &again);
    bool same = status == PARE_OK && strcmp(again, escaped) == 0;
    free(again);
    if (!same) {
        free(*name);
        *name = NULL;
    }
    PARE_TRY(status);
    PARE_REQUIRE(same, PARE_ERR_DAMAGED, "\"%s\" is not the escaped form of a name", escaped);
    return PARE_OK;
}

pare_status pare__h5_side_name(const char *name, char **full)
{
    char *escaped = NULL;
    PARE_TRY(pare__h5_escape(name, true, &escaped));
    pare__text text = {0};
    pare__text_add(&text, "files/%s", escaped);
    free(escaped);
    PARE_TRY(pare__text_take(&text, full));
    return PARE_OK;
}
