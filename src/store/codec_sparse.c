/* codec_sparse.c - compressed-tensors' sparse-bitmask: one bit an element, the kept values row by
 * row.
 *
 *   <module>.compressed   the entry's dtype [kept]
 *   <module>.bitmask      U8 [rows, ceil(cols/8)], bit k of byte j for column 8j + k
 *   <module>.row_offsets  I64 [rows], where a row begins in compressed
 *   <module>.shape        I64 [rank] (not in an .h5)
 */
#include "store_impl.h"

#include <string.h>

enum { PART_SHAPE = PARE__PART_OFFSETS + 1 };

static int64_t mask_row(const pare_entry *entry)
{
    return pare__ceil_div(entry->cols, 8);
}

static pare_status parts(const pare_entry *entry, bool h5, pare__part_spec spec[PARE_MAX_PARTS],
                         int *count)
{
    PARE_TRY(pare__matrix_fits(entry, h5));
    size_t length = strlen(entry->name);
    PARE_REQUIRE(pare_dtype_is_weight(entry->dtype), PARE_ERR_ARGUMENT,
                 "%s: bitmask and values are for F32, F16 and BF16, not %s", entry->name,
                 pare_dtype_name(entry->dtype));
    PARE_REQUIRE(h5 || (length > 7 && strcmp(entry->name + length - 7, ".weight") == 0),
                 PARE_ERR_ARGUMENT, "%s: sparse-bitmask holds tensors named *.weight only",
                 entry->name);
    PARE_REQUIRE(entry->nonzeros >= 0 && entry->nonzeros <= entry->rows * entry->cols,
                 PARE_ERR_DAMAGED, "%s: %lld values are kept of %lld", entry->name,
                 (long long)entry->nonzeros, (long long)(entry->rows * entry->cols));
    spec[PARE__PART_VALUES] = (pare__part_spec){.safetensors = "-.compressed",
                                                .h5 = "values",
                                                .dtype = entry->dtype,
                                                .rank = 1,
                                                .shape = {entry->nonzeros}};
    spec[PARE__PART_MASK] = (pare__part_spec){.safetensors = "-.bitmask",
                                              .h5 = "mask",
                                              .dtype = PARE_U8,
                                              .rank = 2,
                                              .shape = {entry->rows, mask_row(entry)}};
    spec[PARE__PART_OFFSETS] = (pare__part_spec){.safetensors = "-.row_offsets",
                                                 .h5 = "row_offsets",
                                                 .dtype = PARE_I64,
                                                 .rank = 1,
                                                 .shape = {entry->rows}};
    *count = 3;
    if (!h5) {
        spec[PART_SHAPE] = (pare__part_spec){
            .safetensors = "-.shape", .dtype = PARE_I64, .rank = 1, .shape = {entry->rank}};
        *count = 4;
    }
    return PARE_OK;
}

static void range(const pare_entry *entry, bool h5, int part, int64_t first, int64_t count,
                  int64_t values_before, int64_t values_end, pare__range *out)
{
    (void)h5;
    int64_t element = pare_dtype_bits(entry->dtype) / 8, row = mask_row(entry);
    switch (part) {
    case PARE__PART_VALUES:
        *out = (pare__range){values_before * element, (values_end - values_before) * element};
        break;
    case PARE__PART_MASK:
        *out = (pare__range){first * row, count * row};
        break;
    case PARE__PART_OFFSETS:
        *out = (pare__range){first * 8, count * 8};
        break;
    default:
        *out = (pare__range){0, first == 0 && count > 0 ? (int64_t)entry->rank * 8 : 0};
    }
}

static int64_t scratch(const pare_entry *entry, bool h5, int64_t count)
{
    (void)entry, (void)h5;
    return pare__padded(count * 8) + pare__padded(PARE_MAX_RANK * 8);
}

static void *place(const pare_entry *entry, bool h5, int part, const pare_rows *rows)
{
    (void)entry, (void)h5;
    return part == PARE__PART_VALUES ? rows->values : part == PARE__PART_MASK ? rows->mask : NULL;
}

int64_t pare__mask_ones(const uint8_t *mask, int64_t bytes)
{
    int64_t ones = 0, i = 0;
    for (; i + 8 <= bytes; i += 8) {
        uint64_t word;
        memcpy(&word, mask + i, 8);
        ones += __builtin_popcountll(word);
    }
    for (; i < bytes; i++)
        ones += __builtin_popcount(mask[i]);
    return ones;
}

static pare_status encode(pare_backend *be, const pare_entry *entry, bool h5, const pare_rows *rows,
                          void *space, const void *bytes[PARE_MAX_PARTS])
{
    (void)be;
    int64_t *offsets = pare__take(&space, rows->count * 8), *shape = space;
    int64_t before = rows->values_before;
    for (int64_t r = 0; r < rows->count; r++) {
        offsets[r] = before;
        before += pare__mask_ones(rows->mask + r * mask_row(entry), mask_row(entry));
    }
    memcpy(shape, entry->shape, sizeof entry->shape);
    bytes[PARE__PART_VALUES] = rows->values;
    bytes[PARE__PART_MASK] = rows->mask;
    bytes[PARE__PART_OFFSETS] = offsets;
    if (!h5)
        bytes[PART_SHAPE] = shape;
    return PARE_OK;
}

static pare_status decode(pare_backend *be, const pare_entry *entry, bool h5,
                          const void *const bytes[PARE_MAX_PARTS], const pare_rows *rows,
                          void *space)
{
    (void)be, (void)h5, (void)space;
    const int64_t *offsets = bytes[PARE__PART_OFFSETS];
    int64_t before = rows->values_before, row = mask_row(entry);
    int padding = entry->cols % 8 ? 0xff << entry->cols % 8 & 0xff : 0;
    for (int64_t r = 0; r < rows->count; r++) {
        const uint8_t *mask = rows->mask + r * row;
        PARE_REQUIRE(offsets[r] == before, PARE_ERR_DAMAGED,
                     "%s: row %lld begins at value %lld by its row_offsets, at %lld by its bitmask",
                     entry->name, (long long)(rows->first + r), (long long)offsets[r],
                     (long long)before);
        PARE_REQUIRE(row == 0 || !(mask[row - 1] & padding), PARE_ERR_DAMAGED,
                     "%s: the bitmask of row %lld has bits set behind the last column", entry->name,
                     (long long)(rows->first + r));
        before += pare__mask_ones(mask, row);
    }
    return PARE_OK;
}

const pare__codec pare__codec_sparse = {.name = "sparse",
                                        .parts = parts,
                                        .align_rows = 1,
                                        .range = range,
                                        .scratch = scratch,
                                        .place = place,
                                        .encode = encode,
                                        .decode = decode};
