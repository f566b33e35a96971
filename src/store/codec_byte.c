/* codec_byte.c - one byte a code: compressed-tensors' int-quantized (I8) and float-quantized
 * (F8_E4M3).
 *
 *   <name>             I8 or F8_E4M3, the entry's shape
 *   <name>_scale       the entry's dtype, [blocks down, blocks across]; [1] per tensor
 *   <name>_zero_point  I8, the scale's shape; if asymmetric
 *   <module>.input_scale  F32 [1]; of static activations
 */
#include "store_impl.h"

#include <string.h>

static pare_dtype code_dtype(const pare_entry *entry)
{
    return entry->scheme.type == PARE_QUANT_E4M3 ? PARE_F8_E4M3 : PARE_I8;
}

static pare_status parts(const pare_entry *entry, bool h5, pare__part_spec spec[PARE_MAX_PARTS],
                         int *count)
{
    PARE_TRY(pare__matrix_fits(entry, h5));
    PARE_REQUIRE(entry->scheme.type == PARE_QUANT_INT ||
                     (entry->scheme.type == PARE_QUANT_E4M3 && !entry->scheme.asymmetric),
                 PARE_ERR_ARGUMENT, "%s: codes of one byte are integers or symmetric E4M3",
                 entry->name);
    spec[PARE__PART_CODES] = (pare__part_spec){
        .safetensors = "", .h5 = "codes", .dtype = code_dtype(entry), .rank = entry->rank};
    for (int d = 0; d < entry->rank; d++)
        spec[PARE__PART_CODES].shape[d] = entry->shape[d];
    spec[PARE__PART_SCALE] = (pare__part_spec){.safetensors = "_scale", .h5 = "scale"};
    pare__scale_spec(entry, entry->dtype, &spec[PARE__PART_SCALE]);
    *count = 2;
    if (entry->scheme.asymmetric) {
        spec[PARE__PART_ZERO] = (pare__part_spec){.safetensors = "_zero_point", .h5 = "zero"};
        pare__scale_spec(entry, PARE_I8, &spec[PARE__PART_ZERO]);
        *count = 3;
    }
    if (pare__input_part(entry) >= 0)
        pare__input_spec(entry, &spec[(*count)++]);
    return PARE_OK;
}

static void range(const pare_entry *entry, bool h5, int part, int64_t first, int64_t count,
                  int64_t values_before, int64_t values_end, pare__range *out)
{
    (void)h5, (void)values_before, (void)values_end;
    if (part == PARE__PART_CODES)
        *out = (pare__range){first * entry->cols, count * entry->cols};
    else if (part == pare__input_part(entry))
        pare__input_range(entry, first, count, out);
    else
        pare__scale_range(entry, part == PARE__PART_SCALE ? pare_dtype_bits(entry->dtype) / 8 : 1,
                          first, count, out);
}

static int64_t scratch(const pare_entry *entry, bool h5, int64_t count)
{
    (void)h5;
    return pare__padded(pare__scale_count(entry, 0, count) * 4) + pare__padded(4);
}

static void *place(const pare_entry *entry, bool h5, int part, const pare_rows *rows)
{
    (void)entry, (void)h5;
    return part == PARE__PART_CODES ? rows->codes : NULL;
}

static pare_status encode(pare_backend *be, const pare_entry *entry, bool h5, const pare_rows *rows,
                          void *space, const void *bytes[PARE_MAX_PARTS])
{
    (void)h5;
    void *scale = pare__take(&space, pare__scale_count(entry, rows->first, rows->count) * 4);
    int input = pare__input_part(entry);
    bytes[PARE__PART_CODES] = rows->codes;
    bytes[PARE__PART_SCALE] = scale;
    bytes[PARE__PART_ZERO] = rows->zero;
    if (input >= 0) {
        bytes[input] = space;
        PARE_TRY(pare__input_encode(entry, rows, space));
    }
    return pare__scale_encode(be, entry, entry->dtype, rows, scale);
}

static pare_status decode(pare_backend *be, const pare_entry *entry, bool h5,
                          const void *const bytes[PARE_MAX_PARTS], const pare_rows *rows,
                          void *space)
{
    (void)h5, (void)space;
    int64_t aligned = pare__rows_aligned(&pare__codec_int, entry, rows->first);
    if (entry->scheme.bits < 8) {
        int limit = 1 << (entry->scheme.bits - 1);
        int64_t n = rows->count * entry->cols;
        for (int64_t i = 0; i < n; i++)
            PARE_REQUIRE(
                rows->codes[i] >= -limit && rows->codes[i] < limit, PARE_ERR_DAMAGED,
                "%s: the code in row %lld, column %lld is %d, outside the range of %d bits",
                entry->name, (long long)(rows->first + i / entry->cols),
                (long long)(i % entry->cols), rows->codes[i], entry->scheme.bits);
    }
    if (entry->scheme.asymmetric)
        PARE_TRY(pare__zero_decode(entry, aligned, bytes[PARE__PART_ZERO], rows));
    return pare__scale_decode(be, entry, entry->dtype, aligned, bytes[PARE__PART_SCALE], rows);
}

#define BYTE_CODEC(name_)                                                                          \
    {                                                                                              \
        .name = (name_), .parts = parts, .align_rows = 1, .range = range, .scratch = scratch,      \
        .place = place, .encode = encode, .decode = decode                                         \
    }

const pare__codec pare__codec_int = BYTE_CODEC("int");
const pare__codec pare__codec_float = BYTE_CODEC("float");
