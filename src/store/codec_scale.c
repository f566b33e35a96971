/* codec_scale.c - scales and unpacked zero points, as all quantising codecs keep them: one row of
 * values for each row of blocks; and the one scale of static activations. */
#include "store_impl.h"

#include "pare/ops.h"

#include <math.h>
#include <string.h>

static pare_blocks blocks_of(const pare_entry *entry)
{
    return pare_scheme_blocks(&entry->scheme, entry->rows, entry->cols);
}

void pare__scale_spec(const pare_entry *entry, pare_dtype dtype, pare__part_spec *spec)
{
    pare_blocks blocks = blocks_of(entry);
    spec->dtype = dtype;
    spec->rank = entry->scheme.granularity == PARE_PER_TENSOR ? 1 : 2;
    spec->shape[0] = blocks.down;
    spec->shape[1] = blocks.across;
}

void pare__scale_range(const pare_entry *entry, int64_t element_bytes, int64_t first, int64_t count,
                       pare__range *range)
{
    pare_blocks blocks = blocks_of(entry);
    int64_t begin = pare__ceil_div(first, blocks.block_rows);
    int64_t end = pare__ceil_div(first + count, blocks.block_rows);
    range->offset = begin * blocks.across * element_bytes;
    range->size = (end - begin) * blocks.across * element_bytes;
}

int64_t pare__scale_count(const pare_entry *entry, int64_t first, int64_t count)
{
    pare_blocks blocks = blocks_of(entry);
    if (count == 0)
        return 0;
    return (pare__ceil_div(first + count, blocks.block_rows) - first / blocks.block_rows) *
           blocks.across;
}

/* Elements of a scale part, read from row `aligned`, that lie before the blocks that row `first`
 * touches. */
static int64_t elements_before(const pare_entry *entry, int64_t aligned, int64_t first)
{
    pare_blocks blocks = blocks_of(entry);
    return (first / blocks.block_rows - aligned / blocks.block_rows) * blocks.across;
}

pare_status pare__scale_encode(pare_backend *be, const pare_entry *entry, pare_dtype dtype,
                               const pare_rows *rows, void *bytes)
{
    int64_t n = pare__scale_count(entry, rows->first, rows->count);
    return pare_cast(be, &(pare_cast_args){.x = pare_vector(rows->scale, PARE_F32, n),
                                           .y = pare_vector(bytes, dtype, n)});
}

pare_status pare__scale_decode(pare_backend *be, const pare_entry *entry, pare_dtype dtype,
                               int64_t aligned, const void *bytes, const pare_rows *rows)
{
    int64_t n = pare__scale_count(entry, rows->first, rows->count);
    int64_t skip = elements_before(entry, aligned, rows->first) * (pare_dtype_bits(dtype) / 8);
    pare_tensor x = {
        .data = (char *)(uintptr_t)bytes + skip, .dtype = dtype, .rank = 1, .shape = {n}};
    return pare_cast(be, &(pare_cast_args){.x = x, .y = pare_vector(rows->scale, PARE_F32, n)});
}

pare_status pare__zero_decode(const pare_entry *entry, int64_t aligned, const void *bytes,
                              const pare_rows *rows)
{
    int64_t n = pare__scale_count(entry, rows->first, rows->count);
    const int8_t *zero = (const int8_t *)bytes + elements_before(entry, aligned, rows->first);
    int limit = 1 << (entry->scheme.bits - 1);
    for (int64_t i = 0; i < n; i++) {
        PARE_REQUIRE(zero[i] >= -limit && zero[i] < limit, PARE_ERR_DAMAGED,
                     "%s: a zero point near row %lld is %d, outside the range of %d bits",
                     entry->name, (long long)rows->first, zero[i], entry->scheme.bits);
        rows->zero[i] = zero[i];
    }
    return PARE_OK;
}

/* ---- static activations ---------------------------------------------------------------------- */

int pare__input_part(const pare_entry *entry)
{
    if (entry->form != PARE_FORM_QUANT || entry->scheme.activation != PARE_ACT_STATIC)
        return -1;
    return PARE__PART_ZERO + entry->scheme.asymmetric;
}

void pare__input_spec(const pare_entry *entry, pare__part_spec *spec)
{
    *spec = (pare__part_spec){.safetensors = "-.input_scale",
                              .h5 = "input_scale",
                              .dtype = PARE_F32,
                              .rank = 1,
                              .shape = {entry->rows > 0 && entry->cols > 0}};
}

void pare__input_range(const pare_entry *entry, int64_t first, int64_t count, pare__range *range)
{
    *range = (pare__range){0, first == 0 && count > 0 && entry->cols > 0 ? 4 : 0};
}

pare_status pare__input_encode(const pare_entry *entry, const pare_rows *rows, float *bytes)
{
    *bytes = rows->act_scale;
    PARE_REQUIRE(rows->first > 0 || rows->count * entry->cols == 0 ||
                     (rows->act_scale > 0 && isfinite(rows->act_scale)),
                 PARE_ERR_ARGUMENT,
                 "%s: static activations need a scale that is positive and finite, not %g",
                 entry->name, (double)rows->act_scale);
    return PARE_OK;
}

/* ---- sizes ----------------------------------------------------------------------------------- */

pare_status pare__matrix_fits(const pare_entry *entry, bool h5)
{
    const int64_t limit = (int64_t)1 << 48;
    PARE_REQUIRE(entry->rows <= limit && entry->cols <= limit, PARE_ERR_DAMAGED,
                 "%s: a compressed tensor of %lld rows and %lld columns is beyond any machine",
                 entry->name, (long long)entry->rows, (long long)entry->cols);
    /* Its shape is an array that belongs to row 0, and there would be none. */
    PARE_REQUIRE(h5 || entry->rows > 0, PARE_ERR_ARGUMENT,
                 "%s has no elements: a tensor without rows is kept dense", entry->name);
    return PARE_OK;
}
