/* codec_pack.c - compressed-tensors' pack-quantized: codes of 2 to 8 bits in 32-bit words.
 *
 *   <name>_packed      I32 [rows, words]      u = q + 2^(bits-1), a dense bit stream along the row
 *   <name>_scale       the entry's dtype      [blocks down, blocks across]; [1] per tensor
 *   <name>_zero_point  if asymmetric          per channel and group: I32 [words down, groups], the
 * same stream down the rows; per tensor, per block and in an .h5: I8, the scale's shape
 *   <module>.input_scale  F32 [1]             of static activations
 *   <name>_shape       I64 [rank]             the entry's shape (not in an .h5)
 *
 * The older layout, floor(32/bits) codes a word, is read only (pack_aligned). Both are the same for
 * 2, 4 and 8 bits.
 */
#include "store_impl.h"

#include "pare/ops.h"

#include <string.h>

static bool zero_is_packed(const pare_entry *entry, bool h5)
{
    return !h5 && (entry->scheme.granularity == PARE_PER_CHANNEL ||
                   entry->scheme.granularity == PARE_PER_GROUP);
}

static int64_t groups_of(const pare_entry *entry)
{
    return pare_scheme_blocks(&entry->scheme, entry->rows, entry->cols).across;
}

/* Words that hold n codes down a column, and the word and bit that code i begins at. */
static int64_t words_for(pare_packing packing, int bits, int64_t n)
{
    return packing == PARE_PACK_STREAM ? pare__ceil_div(n * bits, 32)
                                       : pare__ceil_div(n, 32 / bits);
}

static int64_t bit_of(pare_packing packing, int bits, int64_t i)
{
    int a_word = 32 / bits;
    return packing == PARE_PACK_STREAM ? i * bits : i / a_word * 32 + i % a_word * bits;
}

static pare_status parts_as(pare_packing packing, const pare_entry *entry, bool h5,
                            pare__part_spec *spec, int *count)
{
    const pare_scheme *scheme = &entry->scheme;
    PARE_TRY(pare__matrix_fits(entry, h5));
    PARE_REQUIRE(scheme->type == PARE_QUANT_INT && scheme->bits >= 2 && scheme->bits <= 8,
                 PARE_ERR_ARGUMENT, "%s: packed codes are integers of 2 to 8 bits", entry->name);
    spec[PARE__PART_CODES] = (pare__part_spec){
        .safetensors = "_packed",
        .h5 = "codes",
        .dtype = PARE_I32,
        .rank = 2,
        .shape = {entry->rows, pare_packed_bytes(packing, scheme->bits, entry->cols) / 4}};
    spec[PARE__PART_SCALE] = (pare__part_spec){.safetensors = "_scale", .h5 = "scale"};
    pare__scale_spec(entry, entry->dtype, &spec[PARE__PART_SCALE]);
    int n = 2;
    if (scheme->asymmetric) {
        spec[n] = (pare__part_spec){.safetensors = "_zero_point", .h5 = "zero"};
        pare__scale_spec(entry, PARE_I8, &spec[n]);
        if (zero_is_packed(entry, h5)) {
            spec[n].dtype = PARE_I32;
            spec[n].shape[0] = words_for(packing, scheme->bits, entry->rows);
        }
        n++;
    }
    if (pare__input_part(entry) >= 0)
        pare__input_spec(entry, &spec[n++]);
    if (!h5)
        spec[n++] = (pare__part_spec){
            .safetensors = "_shape", .dtype = PARE_I64, .rank = 1, .shape = {entry->rank}};
    *count = n;
    return PARE_OK;
}

static void range_as(pare_packing packing, const pare_entry *entry, bool h5, int part,
                     int64_t first, int64_t count, pare__range *out)
{
    int bits = entry->scheme.bits;
    if (part == PARE__PART_CODES) {
        int64_t row = pare_packed_bytes(packing, bits, entry->cols);
        *out = (pare__range){first * row, count * row};
    } else if (part == PARE__PART_SCALE) {
        pare__scale_range(entry, pare_dtype_bits(entry->dtype) / 8, first, count, out);
    } else if (part == pare__input_part(entry)) {
        pare__input_range(entry, first, count, out);
    } else if (part == PARE__PART_ZERO && entry->scheme.asymmetric) {
        if (!zero_is_packed(entry, h5)) {
            pare__scale_range(entry, 1, first, count, out);
            return;
        }
        int64_t row = groups_of(entry) * 4;
        out->offset = bit_of(packing, bits, first) / 32 * row;
        out->size = count ? words_for(packing, bits, first + count) * row - out->offset : 0;
    } else {
        *out = (pare__range){0, first == 0 && count > 0 ? (int64_t)entry->rank * 8 : 0};
    }
}

static int64_t scratch(const pare_entry *entry, bool h5, int64_t count)
{
    int64_t scales = pare__scale_count(entry, 0, count);
    int64_t bytes =
        pare__padded(count * pare_packed_bytes(PARE_PACK_STREAM, entry->scheme.bits, entry->cols)) +
        pare__padded(scales * 4) + pare__padded(PARE_MAX_RANK * 8) + pare__padded(4);
    if (entry->scheme.asymmetric && zero_is_packed(entry, h5))
        bytes += pare__padded(words_for(PARE_PACK_STREAM, entry->scheme.bits, count) *
                              groups_of(entry) * 4);
    return bytes;
}

/* Zero points [count, groups] to words [.., groups]: each column is a bit stream down the rows. */
static void pack_zeros(const int8_t *zero, int64_t count, int64_t groups, int bits, uint32_t *words)
{
    memset(words, 0, (size_t)(words_for(PARE_PACK_STREAM, bits, count) * groups * 4));
    for (int64_t r = 0; r < count; r++) {
        int64_t bit = bit_of(PARE_PACK_STREAM, bits, r);
        uint32_t *word = words + bit / 32 * groups;
        int shift = (int)(bit % 32);
        for (int64_t g = 0; g < groups; g++) {
            uint64_t u = (uint64_t)(zero[r * groups + g] + (1 << (bits - 1))) << shift;
            word[g] |= (uint32_t)u;
            if (shift + bits > 32)
                word[groups + g] |= (uint32_t)(u >> 32);
        }
    }
}

/* The inverse for `count` rows from row `skip` of the words on. */
static void unpack_zeros(pare_packing packing, const uint32_t *words, int64_t skip, int64_t count,
                         int64_t groups, int bits, int8_t *zero)
{
    const uint32_t mask = (1u << bits) - 1;
    for (int64_t r = 0; r < count; r++) {
        int64_t bit = bit_of(packing, bits, skip + r);
        const uint32_t *word = words + bit / 32 * groups;
        int shift = (int)(bit % 32);
        for (int64_t g = 0; g < groups; g++) {
            uint64_t two = word[g];
            if (shift + bits > 32)
                two |= (uint64_t)word[groups + g] << 32;
            zero[r * groups + g] =
                (int8_t)((int)((uint32_t)(two >> shift) & mask) - (1 << (bits - 1)));
        }
    }
}

static pare_status encode(pare_backend *be, const pare_entry *entry, bool h5, const pare_rows *rows,
                          void *space, const void *bytes[PARE_MAX_PARTS])
{
    int bits = entry->scheme.bits;
    int64_t row = pare_packed_bytes(PARE_PACK_STREAM, bits, entry->cols);
    int64_t scales = pare__scale_count(entry, rows->first, rows->count);
    void *words = pare__take(&space, rows->count * row), *scale = pare__take(&space, scales * 4);
    int64_t *shape = pare__take(&space, PARE_MAX_RANK * 8);
    float *input = pare__take(&space, 4);
    int part = 2;
    bytes[PARE__PART_CODES] = words;
    bytes[PARE__PART_SCALE] = scale;
    if (entry->scheme.asymmetric) {
        bytes[part] = rows->zero;
        if (zero_is_packed(entry, h5)) {
            pack_zeros(rows->zero, rows->count, groups_of(entry), bits, space);
            bytes[part] = space;
        }
        part++;
    }
    if (pare__input_part(entry) >= 0) {
        PARE_TRY(pare__input_encode(entry, rows, input));
        bytes[part++] = input;
    }
    memcpy(shape, entry->shape, sizeof entry->shape);
    if (!h5)
        bytes[part] = shape;
    PARE_TRY(pare__scale_encode(be, entry, entry->dtype, rows, scale));
    return pare_pack(
        be, &(pare_pack_args){.packing = PARE_PACK_STREAM,
                              .bits = bits,
                              .codes = pare_matrix(rows->codes, PARE_I8, rows->count, entry->cols),
                              .words = pare_matrix(words, PARE_U8, rows->count, row)});
}

static pare_status decode_as(const pare__codec *codec, pare_packing packing, pare_backend *be,
                             const pare_entry *entry, bool h5, const void *const *bytes,
                             const pare_rows *rows)
{
    int bits = entry->scheme.bits;
    int64_t aligned = pare__rows_aligned(codec, entry, rows->first);
    void *words = (void *)(uintptr_t)bytes[PARE__PART_CODES];
    int64_t row = pare_packed_bytes(packing, bits, entry->cols);
    PARE_TRY(pare_unpack(
        be,
        &(pare_unpack_args){.packing = packing,
                            .bits = bits,
                            .words = pare_matrix(words, PARE_U8, rows->count, row),
                            .codes = pare_matrix(rows->codes, PARE_I8, rows->count, entry->cols)}));
    PARE_TRY(pare__scale_decode(be, entry, entry->dtype, aligned, bytes[PARE__PART_SCALE], rows));
    if (!entry->scheme.asymmetric)
        return PARE_OK;
    if (!zero_is_packed(entry, h5))
        return pare__zero_decode(entry, aligned, bytes[PARE__PART_ZERO], rows);
    unpack_zeros(packing, bytes[PARE__PART_ZERO], rows->first - aligned, rows->count,
                 groups_of(entry), bits, rows->zero);
    return PARE_OK;
}

/* ---- the two layouts ------------------------------------------------------------------------- */

static pare_status parts(const pare_entry *entry, bool h5, pare__part_spec spec[PARE_MAX_PARTS],
                         int *count)
{
    return parts_as(PARE_PACK_STREAM, entry, h5, spec, count);
}

static void range(const pare_entry *entry, bool h5, int part, int64_t first, int64_t count,
                  int64_t values_before, int64_t values_end, pare__range *out)
{
    (void)values_before, (void)values_end;
    range_as(PARE_PACK_STREAM, entry, h5, part, first, count, out);
}

static pare_status decode(pare_backend *be, const pare_entry *entry, bool h5,
                          const void *const bytes[PARE_MAX_PARTS], const pare_rows *rows,
                          void *space)
{
    (void)space;
    return decode_as(&pare__codec_pack, PARE_PACK_STREAM, be, entry, h5, bytes, rows);
}

static pare_status aligned_parts(const pare_entry *entry, bool h5,
                                 pare__part_spec spec[PARE_MAX_PARTS], int *count)
{
    return parts_as(PARE_PACK_ALIGNED, entry, h5, spec, count);
}

static void aligned_range(const pare_entry *entry, bool h5, int part, int64_t first, int64_t count,
                          int64_t values_before, int64_t values_end, pare__range *out)
{
    (void)values_before, (void)values_end;
    range_as(PARE_PACK_ALIGNED, entry, h5, part, first, count, out);
}

static pare_status aligned_decode(pare_backend *be, const pare_entry *entry, bool h5,
                                  const void *const bytes[PARE_MAX_PARTS], const pare_rows *rows,
                                  void *space)
{
    (void)space;
    return decode_as(&pare__codec_pack_aligned, PARE_PACK_ALIGNED, be, entry, h5, bytes, rows);
}

static void *place(const pare_entry *entry, bool h5, int part, const pare_rows *rows)
{
    (void)entry, (void)h5, (void)part, (void)rows;
    return NULL;
}

const pare__codec pare__codec_pack = {.name = "pack",
                                      .parts = parts,
                                      .align_rows = 32,
                                      .range = range,
                                      .scratch = scratch,
                                      .place = place,
                                      .encode = encode,
                                      .decode = decode};

/* 480: a multiple of every 32/bits, so that its rows begin a word. */
const pare__codec pare__codec_pack_aligned = {.name = "pack",
                                              .parts = aligned_parts,
                                              .align_rows = 480,
                                              .range = aligned_range,
                                              .scratch = scratch,
                                              .place = place,
                                              .encode = encode,
                                              .decode = aligned_decode};
