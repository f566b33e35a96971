/* codec_dense.c - values as they are: one array of the entry's own shape. Start here to write your
 * own codec. */
#include "store_impl.h"

static pare_status parts(const pare_entry *entry, bool h5, pare__part_spec spec[PARE_MAX_PARTS],
                         int *count)
{
    int64_t count_bits = entry->rows * entry->cols * pare_dtype_bits(entry->dtype);
    PARE_REQUIRE(
        h5 || count_bits % 8 == 0, PARE_ERR_ARGUMENT,
        "%s: %lld elements of %s do not end on a whole byte, as .safetensors asks; write an .h5",
        entry->name, (long long)(entry->rows * entry->cols), pare_dtype_name(entry->dtype));
    spec[0] = (pare__part_spec){.safetensors = "", .dtype = entry->dtype, .rank = entry->rank};
    for (int d = 0; d < entry->rank; d++)
        spec[0].shape[d] = entry->shape[d];
    *count = 1;
    return PARE_OK;
}

/* Rows of 4- and 6-bit elements may end inside a byte: a range has every byte that it touches. */
static void range(const pare_entry *entry, bool h5, int part, int64_t first, int64_t count,
                  int64_t values_before, int64_t values_end, pare__range *out)
{
    (void)h5, (void)part, (void)values_before, (void)values_end;
    int64_t row_bits = entry->cols * pare_dtype_bits(entry->dtype);
    out->offset = first * row_bits / 8;
    out->size = pare__ceil_div((first + count) * row_bits, 8) - out->offset;
}

static int64_t scratch(const pare_entry *entry, bool h5, int64_t count)
{
    (void)entry, (void)h5, (void)count;
    return 0;
}

static void *place(const pare_entry *entry, bool h5, int part, const pare_rows *rows)
{
    (void)entry, (void)h5, (void)part;
    return rows->values;
}

static pare_status whole_bytes(const pare_entry *entry, int64_t first)
{
    PARE_REQUIRE(first * entry->cols * pare_dtype_bits(entry->dtype) % 8 == 0, PARE_ERR_ARGUMENT,
                 "%s: rows of %s from row %lld on begin inside a byte: begin at a multiple of 4",
                 entry->name, pare_dtype_name(entry->dtype), (long long)first);
    return PARE_OK;
}

static pare_status encode(pare_backend *be, const pare_entry *entry, bool h5, const pare_rows *rows,
                          void *space, const void *bytes[PARE_MAX_PARTS])
{
    (void)be, (void)h5, (void)space;
    bytes[0] = rows->values;
    return whole_bytes(entry, rows->first);
}

static pare_status decode(pare_backend *be, const pare_entry *entry, bool h5,
                          const void *const bytes[PARE_MAX_PARTS], const pare_rows *rows,
                          void *space)
{
    (void)be, (void)h5, (void)bytes, (void)space;
    return whole_bytes(entry, rows->first);
}

const pare__codec pare__codec_dense = {.name = "dense",
                                       .parts = parts,
                                       .align_rows = 1,
                                       .range = range,
                                       .scratch = scratch,
                                       .place = place,
                                       .encode = encode,
                                       .decode = decode};
