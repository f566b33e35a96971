/* codec_nf4.c - NF4 as bitsandbytes keeps it (Dettmers 2023).
 *
 *   <name>                                   U8 [elements/2, 1]; high nibble first; flat over the
 * whole tensor <name>.absmax                            F32 [blocks]; a row holds whole blocks
 * here, so flat and by row agree <name>.quant_map                         F32 [16], the levels
 *   <name>.quant_state.bitsandbytes__nf4     U8, JSON text: block size, dtype, shape
 *
 * An .h5 has codes U8 [rows, ceil(cols/2)] and scale F32 [rows, blocks] for any block.
 */
#include "store_impl.h"

#include "pare/ops.h"

#include <string.h>

enum { PART_MAP = 2, PART_STATE, LEVELS = 16, STATE_SIZE = 512 };

static int64_t row_bytes(const pare_entry *entry)
{
    return pare__ceil_div(entry->cols, 2);
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
    snprintf(text + used, STATE_SIZE - used, "]}");
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

static pare_status parts(const pare_entry *entry, bool h5, pare__part_spec spec[PARE_MAX_PARTS],
                         int *count)
{
    PARE_TRY(pare__matrix_fits(entry, h5));
    PARE_REQUIRE(!entry->scheme.double_quant, PARE_ERR_ARGUMENT,
                 "%s: nf4d (quantised scales) is not in this version; use nf4", entry->name);
    spec[PARE__PART_CODES] = (pare__part_spec){.safetensors = "",
                                               .h5 = "codes",
                                               .dtype = PARE_U8,
                                               .rank = 2,
                                               .shape = {entry->rows, row_bytes(entry)}};
    spec[PARE__PART_SCALE] = (pare__part_spec){.safetensors = ".absmax", .h5 = "scale"};
    pare__scale_spec(entry, PARE_F32, &spec[PARE__PART_SCALE]);
    *count = 2;
    if (h5)
        return PARE_OK;
    PARE_TRY(check_blocks(entry));
    char text[STATE_SIZE];
    state_text(entry, text);
    spec[PARE__PART_CODES].shape[0] *= spec[PARE__PART_CODES].shape[1];
    spec[PARE__PART_CODES].shape[1] = 1;
    spec[PARE__PART_SCALE].rank = 1;
    spec[PARE__PART_SCALE].shape[0] *= spec[PARE__PART_SCALE].shape[1];
    spec[PART_MAP] = (pare__part_spec){
        .safetensors = ".quant_map", .dtype = PARE_F32, .rank = 1, .shape = {LEVELS}};
    spec[PART_STATE] = (pare__part_spec){.safetensors = ".quant_state.bitsandbytes__nf4",
                                         .dtype = PARE_U8,
                                         .rank = 1,
                                         .shape = {(int64_t)strlen(text)}};
    *count = 4;
    return PARE_OK;
}

static void range(const pare_entry *entry, bool h5, int part, int64_t first, int64_t count,
                  int64_t values_before, int64_t values_end, pare__range *out)
{
    (void)h5, (void)values_before, (void)values_end;
    char text[STATE_SIZE];
    bool begins = first == 0 && count > 0;
    switch (part) {
    case PARE__PART_CODES:
        *out = (pare__range){first * row_bytes(entry), count * row_bytes(entry)};
        break;
    case PARE__PART_SCALE:
        pare__scale_range(entry, 4, first, count, out);
        break;
    case PART_MAP:
        *out = (pare__range){0, begins ? LEVELS * 4 : 0};
        break;
    default:
        state_text(entry, text);
        *out = (pare__range){0, begins ? (int64_t)strlen(text) : 0};
    }
}

static int64_t scratch(const pare_entry *entry, bool h5, int64_t count)
{
    (void)h5;
    return pare__padded(count * row_bytes(entry)) +
           pare__padded(pare__scale_count(entry, 0, count) * 4) + pare__padded(LEVELS * 4) +
           pare__padded(STATE_SIZE);
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

/* Rows of an even number of columns are one run of nibbles; others are packed one by one, each to
 * whole bytes. */
static void runs(const pare_entry *entry, int64_t count, int64_t *n, int64_t *each)
{
    bool even = entry->cols % 2 == 0;
    *n = even ? 1 : count;
    *each = even ? count : 1;
}

static pare_status encode(pare_backend *be, const pare_entry *entry, bool h5, const pare_rows *rows,
                          void *space, const void *bytes[PARE_MAX_PARTS])
{
    char *packed = pare__take(&space, rows->count * row_bytes(entry));
    void *scale = pare__take(&space, pare__scale_count(entry, rows->first, rows->count) * 4);
    float *map = pare__take(&space, LEVELS * 4);
    char *state = space;
    bytes[PARE__PART_CODES] = packed;
    bytes[PARE__PART_SCALE] = scale;
    if (!h5) {
        bytes[PART_MAP] = map;
        bytes[PART_STATE] = state;
        PARE_TRY(levels(be, map));
        state_text(entry, state);
    }
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
    return pare__scale_encode(be, entry, PARE_F32, rows, scale);
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

static pare_status decode(pare_backend *be, const pare_entry *entry, bool h5,
                          const void *const bytes[PARE_MAX_PARTS], const pare_rows *rows,
                          void *space)
{
    (void)space;
    int64_t aligned = pare__rows_aligned(&pare__codec_nf4, entry, rows->first);
    char *packed = (char *)(uintptr_t)bytes[PARE__PART_CODES];
    if (!h5 && aligned == 0 && rows->count > 0)
        PARE_TRY(check_map(be, entry, bytes[PART_MAP]));
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
    return pare__scale_decode(be, entry, PARE_F32, aligned, bytes[PARE__PART_SCALE], rows);
}

const pare__codec pare__codec_nf4 = {.name = "nf4",
                                     .parts = parts,
                                     .align_rows = 1,
                                     .range = range,
                                     .scratch = scratch,
                                     .place = place,
                                     .encode = encode,
                                     .decode = decode};
