/* ids.c - integers of any type as int32, after proof that each lies in its range. Files of tokens
 * are large: the proof runs at the speed of memory, and looks for the place only when it failed. */
#include "data_impl.h"

#define GREATEST(T)                                                                                \
    static uint64_t greatest_##T(const void *values, int64_t count)                                \
    {                                                                                              \
        const T *v = values;                                                                       \
        T most = 0;                                                                                \
        for (int64_t i = 0; i < count; i++)                                                        \
            most = most > v[i] ? most : v[i];                                                      \
        return most;                                                                               \
    }
GREATEST(uint8_t)
GREATEST(uint16_t)
GREATEST(uint32_t)
GREATEST(uint64_t)

#define WIDEN(T)                                                                                   \
    static void widen_##T(const void *values, int64_t count, int32_t *ids)                         \
    {                                                                                              \
        const T *v = values;                                                                       \
        for (int64_t i = 0; i < count; i++)                                                        \
            ids[i] = (int32_t)v[i];                                                                \
    }
WIDEN(uint8_t)
WIDEN(uint16_t)
WIDEN(uint32_t)
WIDEN(uint64_t)

static bool is_signed(pare_dtype dtype)
{
    return dtype == PARE_I8 || dtype == PARE_I16 || dtype == PARE_I32 || dtype == PARE_I64;
}

static bool is_integer(pare_dtype dtype)
{
    return is_signed(dtype) || dtype == PARE_U8 || dtype == PARE_U16 || dtype == PARE_U32 ||
           dtype == PARE_U64;
}

/* A negative number is a large one when its bits are read without their sign. */
static uint64_t greatest(int bits, const void *values, int64_t count)
{
    return bits == 8    ? greatest_uint8_t(values, count)
           : bits == 16 ? greatest_uint16_t(values, count)
           : bits == 32 ? greatest_uint32_t(values, count)
                        : greatest_uint64_t(values, count);
}

/* The sentence for the first value at or above limit. */
static pare_status out_of_range(const pare__source *source, const char *values, int64_t first,
                                uint64_t limit, int64_t wanted, const char *what)
{
    int bits = pare_dtype_bits(source->tensor.dtype);
    int64_t i = 0;
    while (greatest(bits, values + i * (bits / 8), 1) < limit)
        i++;
    uint64_t value = greatest(bits, values + i * (bits / 8), 1);
    char text[24], row[64] = "";
    if (is_signed(source->tensor.dtype)) /* the sign, back in 64 bits */
        snprintf(text, sizeof text, "%" PRId64, (int64_t)(value << (64 - bits)) >> (64 - bits));
    else
        snprintf(text, sizeof text, "%" PRIu64, value);
    if (source->tensor.rank == 2 && source->tensor.shape[1] > 1)
        snprintf(row, sizeof row, " (row %" PRId64 ", column %" PRId64 ")",
                 (first + i) / source->tensor.shape[1], (first + i) % source->tensor.shape[1]);
    PARE_FAIL(PARE_ERR_DAMAGED, "%s: %s %s at position %" PRId64 "%s is not between 0 and %" PRId64,
              source->path, what, text, first + i, row, wanted - 1);
}

pare_status pare__check_ids(const pare__source *source, const void *values, int64_t first,
                            int64_t count, int64_t limit, const char *what)
{
    pare_dtype dtype = source->tensor.dtype;
    int bits = pare_dtype_bits(dtype);
    PARE_REQUIRE(is_integer(dtype), PARE_ERR_ARGUMENT,
                 "%s: its numbers are of type %s; a %s is an integer", source->path,
                 pare_dtype_name(dtype), what);
    uint64_t below = (uint64_t)limit;
    if (is_signed(dtype) && bits < 64 && below > UINT64_C(1) << (bits - 1))
        below = UINT64_C(1) << (bits - 1);
    if (count > 0 && greatest(bits, values, count) >= below)
        return out_of_range(source, values, first, below, limit, what);
    return PARE_OK;
}

void pare__widen_ids(pare_dtype dtype, const void *values, int64_t count, int32_t *ids)
{
    switch (pare_dtype_bits(dtype)) {
    case 8:
        widen_uint8_t(values, count, ids);
        break;
    case 16:
        widen_uint16_t(values, count, ids);
        break;
    case 32:
        widen_uint32_t(values, count, ids);
        break;
    default:
        widen_uint64_t(values, count, ids);
    }
}
