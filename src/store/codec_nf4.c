/* codec_nf4.c - NF4 as bitsandbytes keeps it (Dettmers 2023).
 *
 * In safetensors an entry's arrays are, by suffix (a row holds whole blocks here, so flat and by
 * row agree):
 *
 *   ""                                U8 [elements/2, 1]; high nibble first
 *   .absmax                           F32 [blocks], the scales
 *   .quant_map                        F32 [16], the levels
 *   .quant_state.bitsandbytes__nf4    U8, JSON text: block size, dtype, shape
 *
 * With double_quant absmax is U8, the state has the offset, and there are
 *
 *   .nested_absmax                    F32 [ceil(blocks/256)]
 *   .nested_quant_map                 F32 [256], the levels of scales
 *
 * An .h5 has codes U8 [rows, ceil(cols/2)] and scale F32 [rows, blocks] for any block; with
 * double_quant absmax U8 [rows, blocks] and nested instead of scale, and the offset as attribute.
 */
#include "store_impl.h"

#include "pare/ops.h"

#include <string.h>

enum { LEVELS = 16, STATE_SIZE = 512 };

/* What a part is; without double_quant there is no NESTED and the later ones move up. */
enum kind { CODES, SCALE, NESTED, MAP, STATE, NESTED_MAP };

static enum kind kind_of(const pare_entry *entry, int part)
{
    return (enum kind)(entry->scheme.double_quant || part < NESTED ? part : part + 1);
}

static int part_of(const pare_entry *entry, enum kind kind)
{
    return entry->scheme.double_quant || kind < NESTED ? (int)kind : (int)kind - 1;
}

int pare__nf4_state_part(const pare_entry *entry)
{
    return part_of(entry, STATE);
}

static int64_t row_bytes(const pare_entry *entry)
{
    return pare__ceil_div(entry->cols, 2);
}

/* Digits enough to read back the same, and always as many: a plan knows the length before the
 * offset is known. */
static size_t offset_text(float offset, char *text, size_t size)
{
    int used = snprintf(text, size, "%.16e", (double)offset);
    for (int i = 0; i < used; i++)
        if (text[i] == ',') /* the locale's point */
            text[i] = '.';
    return (size_t)used;
}

static void state_text(const pare_entry *entry, char text[STATE_SIZE])
{
    const char *dtype = entry->dtype == PARE_F32   ? "float32"
                        : entry->dtype == PARE_F16 ? "float16"
                                                   : "bfloat16";
    size_t used = (size_t)snprintf(text, STATE_SIZE,
                                   "{\"quant_type\": \"nf4\", \"blocksize\": %lld, "
                                   "\"dtype\": \"%s\", \"shape\": [",
                                   (long long)entry->scheme.block_cols, dtype);
    for (int d = 0; d < entry->rank; d++)
        used += (size_t)snprintf(text + used, STATE_SIZE - used, "%s%lld", d ? ", " : "",
                                 (long long)entry->shape[d]);
    used += (size_t)snprintf(text + used, STATE_SIZE - used, "]");
    if (entry->scheme.double_quant) {
        used += (size_t)snprintf(text + used, STATE_SIZE - used,
                                 ", \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", "
                                 "\"nested_offset\": ",
                                 PARE_NESTED_BLOCK);
        used += offset_text(entry->scale_offset, text + used, STATE_SIZE - used);
    }
    snprintf(text + used, STATE_SIZE - used, "}");
}

/* What bitsandbytes can express: blocks of its sizes that never cross a row. */
static pare_status check_blocks(const pare_entry *entry)
{
    int64_t block = entry->scheme.block_cols;
    PARE_REQUIRE(
        entry->scheme.granularity == PARE_PER_GROUP && block >= 32 && block <= 4096 &&
            (block & (block - 1)) == 0 && entry->cols % block == 0,
        PARE_ERR_ARGUMENT,
        "%s: bitsandbytes' NF4 has blocks of 64 and rows of %lld elements do not divide into "
        "them; write an .h5 or leave this tensor out",
        entry->name, (long long)entry->cols);
    return PARE_OK;
}

static pare__part_spec vector_spec(const char *suffix, pare_dtype dtype, int64_t n)
{
    return (pare__part_spec){.safetensors = suffix, .dtype = dtype, .rank = 1, .shape = {n}};
}

static pare_status parts(const pare_entry *entry, bool h5, pare__part_spec spec[PARE_MAX_PARTS],
                         int *count)
{
    PARE_TRY(pare__matrix_fits(entry, h5));
    bool nested = entry->scheme.double_quant;
    PARE_REQUIRE(!nested || entry->scheme.granularity == PARE_PER_GROUP, PARE_ERR_ARGUMENT,
                 "%s: only scales of groups are quantised too", entry->name);
    spec[CODES] = (pare__part_spec){.safetensors = "",
                                    .h5 = "codes",
                                    .dtype = PARE_U8,
                                    .rank = 2,
                                    .shape = {entry->rows, row_bytes(entry)}};
    spec[SCALE] = (pare__part_spec){.safetensors = ".absmax", .h5 = nested ? "absmax" : "scale"};
    pare__scale_spec(entry, nested ? PARE_U8 : PARE_F32, &spec[SCALE]);
    int64_t scales = spec[SCALE].shape[0] * spec[SCALE].shape[1];
    if (nested) {
        spec[NESTED] =
            vector_spec(".nested_absmax", PARE_F32, pare__ceil_div(scales, PARE_NESTED_BLOCK));
        spec[NESTED].h5 = "nested";
    }
    *count = nested ? 3 : 2;
    if (h5)
        return PARE_OK;
    PARE_TRY(check_blocks(entry));
    char text[STATE_SIZE];
    state_text(entry, text);
    spec[CODES].shape[0] *= spec[CODES].shape[1];
    spec[CODES].shape[1] = 1;
    spec[SCALE].rank = 1;
    spec[SCALE].shape[0] = scales;
    spec[part_of(entry, MAP)] = vector_spec(".quant_map", PARE_F32, LEVELS);
    spec[part_of(entry, STATE)] =
        vector_spec(".quant_state.bitsandbytes__nf4", PARE_U8, (int64_t)strlen(text));
    if (nested)
        spec[NESTED_MAP] = vector_spec(".nested_quant_map", PARE_F32, PARE_NESTED_LEVELS);
    *count = nested ? 6 : 4;
    return PARE_OK;
}

static void range(const pare_entry *entry, bool h5, int part, int64_t first, int64_t count,
                  int64_t values_before, int64_t values_end, pare__range *out)
{
    (void)h5, (void)values_before, (void)values_end;
    char text[STATE_SIZE];
    bool begins = first == 0 && count > 0;
    switch (kind_of(entry, part)) {
    case CODES:
        *out = (pare__range){first * row_bytes(entry), count * row_bytes(entry)};
        break;
    case SCALE:
        pare__scale_range(entry, entry->scheme.double_quant ? 1 : 4, first, count, out);
        break;
    case NESTED: /* a block belongs to the row that it begins in */
        pare__scale_range(entry, 1, first, count, out);
        out->size = pare__ceil_div(out->offset + out->size, PARE_NESTED_BLOCK) * 4;
        out->offset = pare__ceil_div(out->offset, PARE_NESTED_BLOCK) * 4;
        out->size -= out->offset;
        break;
    case MAP:
        *out = (pare__range){0, begins ? LEVELS * 4 : 0};
        break;
    case NESTED_MAP:
        *out = (pare__range){0, begins ? PARE_NESTED_LEVELS * 4 : 0};
        break;
    case STATE:
        state_text(entry, text);
        *out = (pare__range){0, begins ? (int64_t)strlen(text) : 0};
    }
}

static int64_t scratch(const pare_entry *entry, bool h5, int64_t count)
{
    (void)h5;
    return pare__padded(count * row_bytes(entry)) +
           pare__padded(pare__scale_count(entry, 0, count) * 4) + pare__padded(LEVELS * 4) +
           pare__padded(STATE_SIZE) + pare__padded(PARE_NESTED_LEVELS * 4);
}

static void *place(const pare_entry *entry, bool h5, int part, const pare_rows *rows)
{
    (void)entry, (void)h5, (void)part, (void)rows;
    return NULL;
}

/* The levels as the dequantise op has them: codes 0..15 under a scale of 1. */
static pare_status levels(pare_backend *be, float level[LEVELS])
{
    int8_t codes[LEVELS];
    float one = 1;
    for (int i = 0; i < LEVELS; i++)
        codes[i] = (int8_t)i;
    return pare_dequantize(
        be, &(pare_dequantize_args){
                .scheme = {.type = PARE_QUANT_NF4, .bits = 4, .granularity = PARE_PER_CHANNEL},
                .codes = pare_matrix(codes, PARE_I8, 1, LEVELS),
                .block_rows = 1,
                .block_cols = LEVELS,
                .scale = pare_matrix(&one, PARE_F32, 1, 1),
                .w = pare_matrix(level, PARE_F32, 1, LEVELS)});
}

/* The levels of scales, in the same way. */
static pare_status nested_levels(pare_backend *be, float level[PARE_NESTED_LEVELS])
{
    uint8_t codes[PARE_NESTED_LEVELS];
    float one = 1;
    for (int i = 0; i < PARE_NESTED_LEVELS; i++)
        codes[i] = (uint8_t)i;
    return pare_dequant_nested(
        be, &(pare_dequant_nested_args){.codes = pare_vector(codes, PARE_U8, PARE_NESTED_LEVELS),
                                        .nested = pare_vector(&one, PARE_F32, 1),
                                        .scale = pare_vector(level, PARE_F32, PARE_NESTED_LEVELS)});
}

/* Rows of an even number of columns are one run of nibbles; others are packed one by one, each to
 * whole bytes. */
static void runs(const pare_entry *entry, int64_t count, int64_t *n, int64_t *each)
{
    bool even = entry->cols % 2 == 0;
    *n = even ? 1 : count;
    *each = even ? count : 1;
}

/* The arrays that say how to read the others. */
static pare_status describe(pare_backend *be, const pare_entry *entry, void *space,
                            const void *bytes[PARE_MAX_PARTS])
{
    float *map = pare__take(&space, LEVELS * 4);
    float *nested_map = pare__take(&space, PARE_NESTED_LEVELS * 4);
    bytes[part_of(entry, MAP)] = map;
    bytes[part_of(entry, STATE)] = space;
    PARE_TRY(levels(be, map));
    state_text(entry, space);
    if (!entry->scheme.double_quant)
        return PARE_OK;
    bytes[NESTED_MAP] = nested_map;
    return nested_levels(be, nested_map);
}

static pare_status encode(pare_backend *be, const pare_entry *entry, bool h5, const pare_rows *rows,
                          void *space, const void *bytes[PARE_MAX_PARTS])
{
    char *packed = pare__take(&space, rows->count * row_bytes(entry));
    void *scale = pare__take(&space, pare__scale_count(entry, rows->first, rows->count) * 4);
    bytes[CODES] = packed;
    bytes[SCALE] = scale;
    if (!h5)
        PARE_TRY(describe(be, entry, space, bytes));
    int64_t n, each;
    runs(entry, rows->count, &n, &each);
    for (int64_t i = 0; i < n; i++) {
        int64_t r = i * each;
        PARE_TRY(pare_pack(
            be, &(pare_pack_args){
                    .packing = PARE_PACK_NIBBLES,
                    .bits = 4,
                    .codes = pare_matrix(rows->codes + r * entry->cols, PARE_I8, each, entry->cols),
                    .words = pare_matrix(packed + r * row_bytes(entry), PARE_U8, 1,
                                         each * row_bytes(entry))}));
    }
    if (!entry->scheme.double_quant)
        return pare__scale_encode(be, entry, PARE_F32, rows, scale);
    bytes[SCALE] = rows->scale_codes;
    bytes[NESTED] = rows->nested;
    return PARE_OK;
}

/* The levels are the file's own; ours are the only ones there are. */
static pare_status check_map(pare_backend *be, const pare_entry *entry, const float *map)
{
    float ours[LEVELS];
    PARE_TRY(levels(be, ours));
    for (int i = 0; i < LEVELS; i++)
        PARE_REQUIRE(map[i] - ours[i] < 1e-6f && ours[i] - map[i] < 1e-6f, PARE_ERR_UNSUPPORTED,
                     "%s: level %d of its quant_map is %.9g where NF4 has %.9g", entry->name, i,
                     (double)map[i], (double)ours[i]);
    return PARE_OK;
}

/* bitsandbytes computes its levels of scales in f32, so some are a last digit off. */
static pare_status check_nested_map(pare_backend *be, const pare_entry *entry, const float *map)
{
    float ours[PARE_NESTED_LEVELS];
    PARE_TRY(nested_levels(be, ours));
    for (int i = 0; i < PARE_NESTED_LEVELS; i++) {
        float near = (ours[i] < 0 ? -ours[i] : ours[i]) * 1e-6f;
        PARE_REQUIRE(map[i] - ours[i] <= near && ours[i] - map[i] <= near, PARE_ERR_UNSUPPORTED,
                     "%s: level %d of its nested_quant_map is %.9g where the dynamic map has %.9g",
                     entry->name, i, (double)map[i], (double)ours[i]);
    }
    return PARE_OK;
}

/* Scales from their codes, both parts read from row `aligned`, which begins a nested block. */
static pare_status decode_scales(pare_backend *be, const pare_entry *entry, int64_t aligned,
                                 const void *const bytes[PARE_MAX_PARTS], const pare_rows *rows)
{
    int64_t skip = pare__scale_count(entry, aligned, rows->first - aligned);
    int64_t n = pare__scale_count(entry, rows->first, rows->count), done = 0;
    uint8_t *codes = (uint8_t *)(uintptr_t)bytes[SCALE] + skip;
    float *nested = (float *)(uintptr_t)bytes[NESTED] + skip / PARE_NESTED_BLOCK;
    if (rows->scale_codes)
        memcpy(rows->scale_codes, codes, (size_t)n);
    if (rows->nested && n > 0)
        memcpy(rows->nested, nested,
               (size_t)pare__ceil_div(skip % PARE_NESTED_BLOCK + n, PARE_NESTED_BLOCK) * 4);
    int64_t head = PARE_NESTED_BLOCK - skip % PARE_NESTED_BLOCK; /* to the end of its block */
    for (int64_t end = head < n ? head : n; done < n; done = end, end = n) {
        int64_t count = end - done;
        PARE_TRY(pare_dequant_nested(
            be, &(pare_dequant_nested_args){
                    .offset = entry->scale_offset,
                    .codes = pare_vector(codes + done, PARE_U8, count),
                    .nested = pare_vector(nested + (done > 0), PARE_F32,
                                          pare__ceil_div(count, PARE_NESTED_BLOCK)),
                    .scale = pare_vector(rows->scale + done, PARE_F32, count)}));
    }
    return PARE_OK;
}

static pare_status decode(pare_backend *be, const pare_entry *entry, bool h5,
                          const void *const bytes[PARE_MAX_PARTS], const pare_rows *rows,
                          void *space)
{
    (void)space;
    int64_t aligned = pare__rows_aligned(&pare__codec_nf4, entry, rows->first);
    bool nested = entry->scheme.double_quant;
    char *packed = (char *)(uintptr_t)bytes[CODES];
    if (!h5 && aligned == 0 && rows->first + rows->count > 0) {
        PARE_TRY(check_map(be, entry, bytes[part_of(entry, MAP)]));
        if (nested)
            PARE_TRY(check_nested_map(be, entry, bytes[NESTED_MAP]));
    }
    int64_t n, each;
    runs(entry, rows->count, &n, &each);
    for (int64_t i = 0; i < n; i++) {
        int64_t r = i * each;
        PARE_TRY(pare_unpack(
            be, &(pare_unpack_args){.packing = PARE_PACK_NIBBLES,
                                    .bits = 4,
                                    .words = pare_matrix(packed + r * row_bytes(entry), PARE_U8, 1,
                                                         each * row_bytes(entry)),
                                    .codes = pare_matrix(rows->codes + r * entry->cols, PARE_I8,
                                                         each, entry->cols)}));
    }
    return nested ? decode_scales(be, entry, aligned, bytes, rows)
                  : pare__scale_decode(be, entry, PARE_F32, aligned, bytes[SCALE], rows);
}

const pare__codec pare__codec_nf4 = {.name = "nf4",
                                     .parts = parts,
                                     .align_rows = 1,
                                     .range = range,
                                     .scratch = scratch,
                                     .place = place,
                                     .encode = encode,
                                     .decode = decode};
