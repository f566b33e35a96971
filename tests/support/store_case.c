/* store_case.c - tensors of known content, written and read back. */
#include "store_case.h"

#include "test.h"

#include "base/half.h"

#define SCRATCH_GUARD 0x5a

/* A linear congruential generator is random enough, and the same everywhere. */
static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void *filled(uint32_t *state, int64_t size)
{
    uint8_t *bytes = malloc((size_t)size + 1);
    assert_non_null(bytes);
    for (int64_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)next(state);
    return bytes;
}

static void fill_codes(h5_sample *s, uint32_t *state)
{
    const pare_scheme *scheme = &s->entry.scheme;
    pare_blocks blocks = pare_scheme_blocks(scheme, s->entry.rows, s->entry.cols);
    int64_t n = s->entry.rows * s->entry.cols, scales = blocks.down * blocks.across;
    int low = scheme->type == PARE_QUANT_INT ? -(1 << (scheme->bits - 1)) : 0;
    s->rows.codes = malloc((size_t)n + 1);
    s->rows.scale = malloc((size_t)(scales + 1) * sizeof(float));
    s->rows.zero = scheme->asymmetric ? malloc((size_t)scales + 1) : NULL;
    for (int64_t i = 0; i < n; i++) {
        s->rows.codes[i] = (int8_t)((int)(next(state) & ((1u << scheme->bits) - 1)) + low);
        if (scheme->type == PARE_QUANT_E4M3 && (s->rows.codes[i] & 0x7f) == 0x7f)
            s->rows.codes[i] = 0; /* no NaN: they do not compare */
    }
    for (int64_t i = 0; i < scales; i++) {
        s->rows.scale[i] = (float)(1 + next(state) % 127) / 64.0f; /* exact in every dtype */
        if (scheme->asymmetric)
            s->rows.zero[i] = (int8_t)((int)(next(state) & ((1u << scheme->bits) - 1)) + low);
    }
    if (scheme->double_quant)
        h5_sample_nest(s, *state);
    if (scheme->activation == PARE_ACT_STATIC)
        s->rows.act_scale = (float)(1 + next(state) % 127) / 999.0f;
}

static void fill_sparse(h5_sample *s, uint32_t *state)
{
    int64_t row = (s->entry.cols + 7) / 8;
    s->rows.mask = calloc((size_t)(s->entry.rows * row) + 1, 1);
    for (int64_t r = 0; r < s->entry.rows; r++)
        for (int64_t c = 0; c < s->entry.cols; c++)
            if (next(state) % 3 == 0) {
                s->rows.mask[r * row + c / 8] |= (uint8_t)(1 << c % 8);
                s->entry.nonzeros++;
            }
    s->rows.values = filled(state, s->entry.nonzeros * pare_dtype_bits(s->entry.dtype) / 8);
}

h5_sample store_case(const char *name, const char *scheme, pare_dtype dtype, int rank,
                     const int64_t *shape)
{
    h5_sample s = {.entry = {.name = strdup(name), .dtype = dtype, .rank = rank}};
    uint32_t state = 1;
    for (const char *c = name; *c; c++)
        state = state * 31 + (uint8_t)*c;
    memcpy(s.entry.shape, shape, (size_t)rank * sizeof *shape);
    pare_shape_matrix(rank, shape, &s.entry.rows, &s.entry.cols);
    s.rows.count = s.entry.rows;
    if (!scheme) {
        int64_t bytes = 0;
        assert_ok(pare_shape_size(dtype, rank, shape, NULL, &bytes));
        s.rows.values = filled(&state, bytes);
    } else if (strcmp(scheme, "sparse") == 0) {
        s.entry.form = PARE_FORM_SPARSE;
        fill_sparse(&s, &state);
    } else {
        s.entry.form = PARE_FORM_QUANT;
        assert_ok(pare_scheme_parse(scheme, &s.entry.scheme));
        fill_codes(&s, &state);
    }
    return s;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const h5_sample *)a)->entry.name, ((const h5_sample *)b)->entry.name);
}

void store_case_write(const char *path, const char *format, pare_backend *be, h5_sample *samples,
                      int64_t count)
{
    pare_entry *entries;
    pare_writer *writer;
    qsort(samples, (size_t)count, sizeof *samples, by_name);
    pare_writer_options options = h5_samples_options(path, samples, count, NULL, NULL, &entries);
    options.format = format;
    assert_ok(pare_writer_create(&options, false, &writer));
    free(entries);
    for (int64_t i = count; i-- > 0;)
        h5_sample_fill(writer, be, &samples[i], i, 0);
    assert_ok(pare_writer_finish(writer));
    pare_writer_free(&writer, false);
}

/* ---- formulas -------------------------------------------------------------------------------- */

static const float nf4[16] = {-1.0f,
                              -0.6961928009986877f,
                              -0.5250730514526367f,
                              -0.39491748809814453f,
                              -0.28444138169288635f,
                              -0.18477343022823334f,
                              -0.09105003625154495f,
                              0.0f,
                              0.07958029955625534f,
                              0.16093020141124725f,
                              0.24611230194568634f,
                              0.33791524171829224f,
                              0.44070982933044434f,
                              0.5626170039176941f,
                              0.7229568362236023f,
                              1.0f};

static void store_value(void *to, int64_t i, pare_dtype dtype, float value)
{
    if (dtype == PARE_F32)
        ((float *)to)[i] = value;
    else
        ((uint16_t *)to)[i] =
            dtype == PARE_F16 ? pare__f32_to_f16(value) : pare__f32_to_bf16(value);
}

static float decoded(const h5_sample *s, int64_t r, int64_t c)
{
    const pare_scheme *scheme = &s->entry.scheme;
    pare_blocks b = pare_scheme_blocks(scheme, s->entry.rows, s->entry.cols);
    int64_t block = r / b.block_rows * b.across + c / b.block_cols;
    int8_t q = s->rows.codes[r * s->entry.cols + c];
    float scale = s->rows.scale[block];
    if (scheme->type == PARE_QUANT_E4M3)
        return pare__e4m3_to_f32((uint8_t)q) * scale;
    if (scheme->type == PARE_QUANT_NF4)
        return nf4[q] * scale;
    return (float)(q - (scheme->asymmetric ? s->rows.zero[block] : 0)) * scale;
}

/* All values of a sample, decoded. */
static char *expected_values(const h5_sample *s)
{
    const pare_entry *e = &s->entry;
    int64_t element = pare_dtype_bits(e->dtype) / 8, kept = 0;
    char *values = calloc((size_t)(e->rows * e->cols * element) + 1, 1);
    for (int64_t r = 0; r < e->rows; r++)
        for (int64_t c = 0; c < e->cols; c++) {
            int64_t i = r * e->cols + c;
            if (e->form == PARE_FORM_QUANT)
                store_value(values, i, e->dtype, decoded(s, r, c));
            else if (s->rows.mask[r * ((e->cols + 7) / 8) + c / 8] >> c % 8 & 1)
                memcpy(values + i * element, (char *)s->rows.values + kept++ * element,
                       (size_t)element);
        }
    return values;
}

/* ---- reading back ---------------------------------------------------------------------------- */

typedef struct space {
    char *bytes;
    int64_t size;
} space;

/* Scratch of the size that is asked for, with a guard behind it. */
static space scratch_for(const pare_store *store, int64_t index, int64_t count)
{
    space s = {.size = pare_store_scratch(store, index, count)};
    assert_true(s.size >= 0);
    assert_int_equal(posix_memalign((void **)&s.bytes, 64, (size_t)s.size + 64), 0);
    memset(s.bytes + s.size, SCRATCH_GUARD, 64);
    return s;
}

static void scratch_done(space s)
{
    for (int i = 0; i < 64; i++)
        assert_int_equal(s.bytes[s.size + i], SCRATCH_GUARD);
    free(s.bytes);
}

static void check_values(pare_store *store, pare_backend *be, int64_t index, const char *all,
                         int64_t first, int64_t count)
{
    const pare_entry *e = pare_store_entry(store, index);
    int64_t row_bits = e->cols * pare_dtype_bits(e->dtype);
    int64_t size = (count * row_bits + 7) / 8;
    char *values = malloc((size_t)size + 1), text[32];
    values[size] = SCRATCH_GUARD;
    space s = scratch_for(store, index, count);
    assert_ok(pare_store_read_values(store, be, index, first, count, values, s.bytes));
    if (memcmp(values, all + first * row_bits / 8, (size_t)size) != 0)
        fail_msg("%s of %s (scheme %s), %s: rows %lld to %lld decode wrongly", e->name,
                 pare_store_path(store), pare_scheme_text(&e->scheme, text, sizeof text),
                 pare_dtype_name(e->dtype), (long long)first, (long long)(first + count));
    assert_int_equal(values[size], SCRATCH_GUARD);
    scratch_done(s);
    free(values);
}

static void check_codes(pare_store *store, pare_backend *be, int64_t index, const h5_sample *want,
                        int64_t first, int64_t count)
{
    const pare_entry *e = &want->entry;
    pare_blocks b = pare_scheme_blocks(&e->scheme, e->rows, e->cols);
    if (e->scheme.granularity == PARE_PER_BLOCK)
        first -= first % b.block_rows;
    int64_t n = count * e->cols, begin = first / b.block_rows;
    int64_t down = count ? (first + count + b.block_rows - 1) / b.block_rows - begin : 0;
    int64_t scales = down * b.across;
    pare_rows rows = {.first = first,
                      .count = count,
                      .codes = malloc((size_t)n + 1),
                      .scale = malloc((size_t)(scales + 1) * sizeof(float)),
                      .zero = malloc((size_t)scales + 1),
                      .scale_codes = malloc((size_t)scales + 1),
                      .nested = malloc((size_t)(scales + 1) * sizeof(float))};
    space s = scratch_for(store, index, count);
    assert_ok(pare_store_read(store, be, index, &rows, s.bytes));
    assert_memory_equal(rows.codes, want->rows.codes + first * e->cols, (size_t)n);
    assert_memory_equal(rows.scale, want->rows.scale + begin * b.across,
                        (size_t)scales * sizeof(float));
    if (n > 0)
        assert_memory_equal(&rows.act_scale, &want->rows.act_scale, sizeof rows.act_scale);
    if (e->scheme.asymmetric)
        assert_memory_equal(rows.zero, want->rows.zero + begin * b.across, (size_t)scales);
    if (e->scheme.double_quant) {
        int64_t at = begin * b.across, blocks = scales ? (at + scales + 255) / 256 - at / 256 : 0;
        assert_memory_equal(rows.scale_codes, want->rows.scale_codes + at, (size_t)scales);
        assert_memory_equal(rows.nested, want->rows.nested + at / 256,
                            (size_t)blocks * sizeof(float));
    }
    scratch_done(s);
    free(rows.codes), free(rows.scale), free(rows.zero), free(rows.scale_codes), free(rows.nested);
}

static void check_sparse(pare_store *store, pare_backend *be, int64_t index, const h5_sample *want,
                         int64_t first, int64_t count)
{
    const pare_entry *e = &want->entry;
    int64_t row = (e->cols + 7) / 8, element = pare_dtype_bits(e->dtype) / 8, before = 0, ones = 0;
    for (int64_t i = 0; i < (first + count) * row * 8; i++)
        *(i < first * row * 8 ? &before : &ones) += want->rows.mask[i / 8] >> i % 8 & 1;
    pare_rows rows = {.first = first,
                      .count = count,
                      .values = malloc((size_t)(count * e->cols * element) + 1),
                      .mask = malloc((size_t)(count * row) + 1)};
    space s = scratch_for(store, index, count);
    assert_ok(pare_store_read(store, be, index, &rows, s.bytes));
    assert_int_equal(rows.values_before, before);
    assert_memory_equal(rows.mask, want->rows.mask + first * row, (size_t)(count * row));
    assert_memory_equal(rows.values, (char *)want->rows.values + before * element,
                        (size_t)(ones * element));
    scratch_done(s);
    free(rows.values), free(rows.mask);
}

static void check_entry(const pare_entry *got, const pare_entry *want)
{
    assert_int_equal(got->dtype, want->dtype);
    assert_int_equal(got->rank, want->rank);
    assert_memory_equal(got->shape, want->shape, (size_t)want->rank * sizeof *want->shape);
    assert_int_equal(got->rows, want->rows);
    assert_int_equal(got->cols, want->cols);
    assert_int_equal(got->form, want->form);
    assert_int_equal(got->nonzeros, want->nonzeros);
    if (want->form == PARE_FORM_QUANT) {
        char a[32], b[32];
        assert_string_equal(pare_scheme_text(&got->scheme, a, sizeof a),
                            pare_scheme_text(&want->scheme, b, sizeof b));
    }
}

void store_case_check(pare_store *store, pare_backend *be, const h5_sample *want)
{
    int64_t index = pare_store_find(store, want->entry.name), rows = want->entry.rows;
    if (index < 0)
        fail_msg("%s is not there", want->entry.name);
    check_entry(pare_store_entry(store, index), &want->entry);
    bool dense = want->entry.form == PARE_FORM_DENSE;
    bool narrow = pare_dtype_bits(want->entry.dtype) < 8; /* rows may begin inside a byte */
    char *all = dense ? want->rows.values : expected_values(want);
    const int64_t ranges[][2] = {{0, rows}, {0, 1},   {1, 2},        {3, 30},
                                 {31, 2},   {33, 64}, {rows - 1, 1}, {rows / 2, rows},
                                 {rows, 0}, {0, 0},   {17, 1}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        int64_t first = ranges[i][0], count = ranges[i][1];
        if (first < 0 || first > rows || (narrow && first % 4))
            continue;
        if (count > rows - first)
            count = rows - first;
        check_values(store, be, index, all, first, count);
        if (want->entry.form == PARE_FORM_QUANT)
            check_codes(store, be, index, want, first, count);
        if (want->entry.form == PARE_FORM_SPARSE)
            check_sparse(store, be, index, want, first, count);
    }
    pare_store_prefetch(store, index, 0, rows);
    assert_ok(pare_store_verify(store, be, index));
    if (!dense)
        free(all);
}

void store_case_check_all(const char *path, pare_backend *be, const h5_sample *samples,
                          int64_t count)
{
    pare_store *store;
    assert_ok(pare_store_open(path, &store));
    assert_int_equal(pare_store_count(store), count);
    for (int64_t i = 0; i < count; i++)
        store_case_check(store, be, &samples[i]);
    pare_store_close(&store);
    assert_null(store);
}
