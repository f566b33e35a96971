/* h5_sample.c - a small checkpoint with every dtype, form, codec and awkward shape, its values
 * known. */
#include "h5_sample.h"

#include "test.h"

#include "pare/ops.h"

#include "base/file.h"

#define MAX_SAMPLES 96

/* splitmix64: the same bytes in every run. */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static void *random_bytes(uint64_t *state, int64_t size)
{
    uint8_t *bytes = malloc((size_t)size + 1);
    assert_non_null(bytes);
    for (int64_t i = 0; i < size; ++i)
        bytes[i] = (uint8_t)next(state);
    return bytes;
}

static h5_sample *add(h5_sample *samples, int64_t *count, const char *name, pare_dtype dtype,
                      int rank, const int64_t *shape)
{
    assert_true(*count < MAX_SAMPLES);
    h5_sample *sample = &samples[(*count)++];
    sample->entry = (pare_entry){.name = strdup(name), .dtype = dtype, .rank = rank};
    memcpy(sample->entry.shape, shape, (size_t)rank * sizeof *shape);
    pare_shape_matrix(rank, shape, &sample->entry.rows, &sample->entry.cols);
    sample->rows.count = sample->entry.rows;
    return sample;
}

static void add_dense(h5_sample *samples, int64_t *count, uint64_t *state, const char *name,
                      pare_dtype dtype, int rank, const int64_t *shape)
{
    h5_sample *sample = add(samples, count, name, dtype, rank, shape);
    int64_t bytes = 0;
    assert_ok(pare_shape_size(dtype, rank, shape, NULL, &bytes));
    sample->rows.values = random_bytes(state, bytes);
}

static int8_t random_code(uint64_t *state, const pare_scheme *scheme)
{
    int bits = (int)(next(state) & ((1u << scheme->bits) - 1));
    if (scheme->type == PARE_QUANT_E4M3 && (bits & 0x7f) == 0x7f)
        bits ^= 1; /* no NaN: its payload is nobody's promise */
    return (int8_t)(scheme->type == PARE_QUANT_INT ? bits - (1 << (scheme->bits - 1)) : bits);
}

/* The level of a code of scales: docs/formats/store.md. */
static float nested_level(int code)
{
    float level[256];
    int n = 0;
    double power = 1e-6;
    for (int i = 0, count = 1; i < 7; i++, count *= 2) {
        for (int k = 0; k < count; k++)
            level[n++] = (float)((0.1 + 0.9 * (2 * k + 1) / (2 * count)) * power);
        power = i == 0 ? 1e-5 : i == 1 ? 1e-4 : i == 2 ? 1e-3 : i == 3 ? 1e-2 : i == 4 ? 0.1 : 1;
    }
    return code == 255 ? 1 : code > 127 ? level[code - 128] : code < 127 ? -level[126 - code] : 0;
}

void h5_sample_nest(h5_sample *sample, uint64_t seed)
{
    pare_entry *entry = &sample->entry;
    pare_blocks blocks = pare_scheme_blocks(&entry->scheme, entry->rows, entry->cols);
    int64_t n = blocks.down * blocks.across, count = (n + 255) / 256;
    entry->scale_offset = 0.1f;
    sample->rows.scale_codes = random_bytes(&seed, n);
    sample->rows.nested = malloc((size_t)(count + 1) * sizeof(float));
    assert_non_null(sample->rows.nested);
    for (int64_t i = 0; i < count; ++i)
        sample->rows.nested[i] = (float)(1 + next(&seed) % 1000) / 999.0f;
    for (int64_t i = 0; i < n; ++i) {
        float scale = nested_level(sample->rows.scale_codes[i]) * sample->rows.nested[i / 256];
        sample->rows.scale[i] = scale + entry->scale_offset;
    }
}

static void add_quant(h5_sample *samples, int64_t *count, uint64_t *state, const char *name,
                      const char *scheme, pare_dtype dtype, int rank, const int64_t *shape)
{
    h5_sample *sample = add(samples, count, name, dtype, rank, shape);
    pare_entry *entry = &sample->entry;
    entry->form = PARE_FORM_QUANT;
    assert_ok(pare_scheme_parse(scheme, &entry->scheme));
    int64_t n = entry->rows * entry->cols;
    pare_blocks blocks = pare_scheme_blocks(&entry->scheme, entry->rows, entry->cols);
    int64_t scales = blocks.down * blocks.across;
    sample->rows.codes = malloc((size_t)n + 1);
    sample->rows.scale = malloc((size_t)(scales + 1) * sizeof(float));
    assert_non_null(sample->rows.codes);
    assert_non_null(sample->rows.scale);
    for (int64_t i = 0; i < n; ++i)
        sample->rows.codes[i] = random_code(state, &entry->scheme);
    for (int64_t i = 0; i < scales; ++i) /* exact in every dtype */
        sample->rows.scale[i] = (float)(8 + next(state) % 8) / 64.0f;
    if (entry->scheme.double_quant)
        h5_sample_nest(sample, *state);
    if (entry->scheme.activation == PARE_ACT_STATIC)
        sample->rows.act_scale = 0.0371f;
    if (!entry->scheme.asymmetric)
        return;
    sample->rows.zero = malloc((size_t)scales + 1);
    assert_non_null(sample->rows.zero);
    for (int64_t i = 0; i < scales; ++i)
        sample->rows.zero[i] = random_code(state, &entry->scheme);
}

static void add_sparse(h5_sample *samples, int64_t *count, uint64_t *state, const char *name,
                       pare_dtype dtype, int rank, const int64_t *shape)
{
    h5_sample *sample = add(samples, count, name, dtype, rank, shape);
    pare_entry *entry = &sample->entry;
    entry->form = PARE_FORM_SPARSE;
    int64_t row = (entry->cols + 7) / 8, bytes = 0;
    sample->rows.mask = calloc((size_t)(entry->rows * row) + 1, 1);
    assert_non_null(sample->rows.mask);
    for (int64_t r = 0; r < entry->rows; ++r)
        for (int64_t c = 0; c < entry->cols; ++c)
            if (next(state) % 3 == 0) {
                sample->rows.mask[r * row + c / 8] |= (uint8_t)(1 << c % 8);
                ++entry->nonzeros;
            }
    assert_ok(pare_shape_size(dtype, 1, &entry->nonzeros, NULL, &bytes));
    sample->rows.values = random_bytes(state, bytes);
}

static void add_all_dense(h5_sample *samples, int64_t *count, uint64_t *state)
{
    char name[64];
    for (int d = 0; d < PARE_DTYPES; ++d) {
        snprintf(name, sizeof name, "dense.%s.weight", pare_dtype_name((pare_dtype)d));
        add_dense(samples, count, state, name, (pare_dtype)d, 2, (int64_t[]){5, 8});
    }
    add_dense(samples, count, state, "scalar.f32", PARE_F32, 0, (int64_t[]){0});
    add_dense(samples, count, state, "scalar.f4", PARE_F4, 0, (int64_t[]){0});
    add_dense(samples, count, state, "odd.f4", PARE_F4, 1, (int64_t[]){7});
    add_dense(samples, count, state, "odd.f6", PARE_F6_E3M2, 1, (int64_t[]){5});
    add_dense(samples, count, state, "empty.bf16", PARE_BF16, 2, (int64_t[]){0, 7});
    add_dense(samples, count, state, "empty.columns", PARE_I64, 3, (int64_t[]){3, 0, 2});
    add_dense(samples, count, state, "empty.f4", PARE_F4, 1, (int64_t[]){0});
    add_dense(samples, count, state, "eight", PARE_U16, 8, (int64_t[]){1, 2, 1, 3, 1, 2, 1, 2});
    add_dense(samples, count, state, "name/with/slashes and 100% \xc3\xa9", PARE_I8, 1,
              (int64_t[]){3});
    add_dense(samples, count, state, ".", PARE_U8, 1, (int64_t[]){2});
    add_dense(samples, count, state, "line\nbreak", PARE_U8, 1, (int64_t[]){4});
    add_dense(samples, count, state, "pieces.weight", PARE_F32, 2, (int64_t[]){150, 1500});
}

static void add_all_quant(h5_sample *samples, int64_t *count, uint64_t *state)
{
    static const char *const schemes[] = {
        "w2",  "w3",   "w4",       "w5",        "w6",   "w7",    "w8",  "w4t",  "w4g32", "w3g32z",
        "w5z", "w4tz", "w4b16x16", "w4b16x16z", "w8a8", "w8za8", "fp8", "fp8t", "nf4"};
    static const pare_dtype dtypes[] = {PARE_F32, PARE_F16, PARE_BF16};
    char name[64];
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; ++i) {
        snprintf(name, sizeof name, "quant.%s.weight", schemes[i]);
        add_quant(samples, count, state, name, schemes[i], dtypes[i % 3], 2, (int64_t[]){37, 70});
    }
    add_quant(samples, count, state, "quant.odd_nf4", "nf4", PARE_BF16, 2, (int64_t[]){3, 65});
    add_quant(samples, count, state, "quant.odd_nf4d", "nf4d", PARE_BF16, 2, (int64_t[]){301, 67});
    add_quant(samples, count, state, "quant.nf4d", "nf4d", PARE_F16, 2, (int64_t[]){37, 640});
    add_quant(samples, count, state, "quant.empty_nf4d", "nf4d", PARE_F16, 2, (int64_t[]){5, 0});
    add_quant(samples, count, state, "quant.conv", "w4", PARE_F16, 4, (int64_t[]){6, 3, 2, 2});
    add_quant(samples, count, state, "quant.conv_fp8", "fp8", PARE_F16, 4, (int64_t[]){6, 3, 2, 2});
    add_quant(samples, count, state, "quant.empty", "w4g32z", PARE_F16, 2, (int64_t[]){0, 64});
    add_quant(samples, count, state, "static.bytes.weight", "w8a8s", PARE_BF16, 2,
              (int64_t[]){37, 70});
    add_quant(samples, count, state, "static.packed", "w4g32za8s", PARE_F16, 2,
              (int64_t[]){37, 70});
    add_quant(samples, count, state, "static.fp8", "fp8a8s", PARE_F32, 2, (int64_t[]){37, 70});
    add_quant(samples, count, state, "static.conv", "w8a8s", PARE_F16, 4, (int64_t[]){6, 3, 2, 2});
    add_quant(samples, count, state, "static.empty", "w8a8s", PARE_F16, 2, (int64_t[]){0, 64});
    add_quant(samples, count, state, "quant.pieces", "w4g32z", PARE_F16, 2, (int64_t[]){150, 3008});
}

h5_sample *h5_samples_make(int64_t *count)
{
    h5_sample *samples = calloc(MAX_SAMPLES, sizeof *samples);
    assert_non_null(samples);
    uint64_t state = 1;
    *count = 0;
    add_all_dense(samples, count, &state);
    add_all_quant(samples, count, &state);
    add_sparse(samples, count, &state, "sparse.f32", PARE_F32, 2, (int64_t[]){9, 21});
    add_sparse(samples, count, &state, "sparse.bf16", PARE_BF16, 3, (int64_t[]){4, 3, 5});
    add_sparse(samples, count, &state, "sparse.empty", PARE_F16, 2, (int64_t[]){0, 5});
    add_sparse(samples, count, &state, "sparse.pieces", PARE_F16, 2, (int64_t[]){150, 3000});
    for (int64_t i = 1; i < *count; ++i) /* few: insertion sort */
        for (int64_t k = i; k > 0 && strcmp(samples[k].entry.name, samples[k - 1].entry.name) < 0;
             --k) {
            h5_sample swap = samples[k];
            samples[k] = samples[k - 1];
            samples[k - 1] = swap;
        }
    return samples;
}

void h5_samples_free(h5_sample *samples, int64_t count)
{
    for (int64_t i = 0; i < count; ++i) {
        h5_sample *s = &samples[i];
        free((void *)(uintptr_t)s->entry.name);
        free(s->rows.values);
        free(s->rows.mask);
        free(s->rows.codes);
        free(s->rows.scale);
        free(s->rows.zero);
        free(s->rows.scale_codes);
        free(s->rows.nested);
    }
    free(samples);
}

static int64_t ones(const uint8_t *mask, int64_t bytes)
{
    int64_t n = 0;
    for (int64_t i = 0; i < bytes; ++i)
        for (int b = 0; b < 8; ++b)
            n += mask[i] >> b & 1;
    return n;
}

/* The view of rows [first, first + count) of a sample. */
static pare_rows slice(const h5_sample *sample, int64_t first, int64_t count)
{
    const pare_entry *entry = &sample->entry;
    pare_rows rows = sample->rows;
    rows.first = first;
    rows.count = count;
    int64_t row_bits = entry->cols * pare_dtype_bits(entry->dtype);
    if (entry->form == PARE_FORM_DENSE)
        rows.values = (char *)rows.values + first * row_bits / 8;
    if (entry->form == PARE_FORM_SPARSE) {
        int64_t row = (entry->cols + 7) / 8;
        rows.values_before = ones(rows.mask, first * row);
        rows.mask += first * row;
        rows.values = (char *)rows.values + rows.values_before * pare_dtype_bits(entry->dtype) / 8;
    }
    if (entry->form == PARE_FORM_QUANT) {
        pare_blocks blocks = pare_scheme_blocks(&entry->scheme, entry->rows, entry->cols);
        int64_t scales = (first + blocks.block_rows - 1) / blocks.block_rows * blocks.across;
        rows.codes += first * entry->cols;
        rows.scale += scales;
        rows.zero = rows.zero ? rows.zero + scales : NULL;
        rows.scale_codes = rows.scale_codes ? rows.scale_codes + scales : NULL;
        rows.nested = rows.nested ? rows.nested + scales / PARE_NESTED_BLOCK : NULL;
    }
    return rows;
}

void h5_sample_fill(pare_writer *writer, pare_backend *be, const h5_sample *sample, int64_t index,
                    int64_t first)
{
    const pare_entry *entry = &sample->entry;
    int64_t step = pare_piece_rows(entry->dtype, entry->cols);
    int64_t least = entry->scheme.double_quant ? PARE_NESTED_BLOCK : 32; /* powers of two, all */
    step = step < least ? least : step;
    for (; first < entry->rows; first += step) {
        int64_t count = entry->rows - first < step ? entry->rows - first : step;
        pare_rows rows = slice(sample, first, count);
        void *scratch = NULL;
        assert_int_equal(
            posix_memalign(&scratch, 64, (size_t)pare_writer_scratch(writer, index, count) + 64),
            0);
        pare_parts parts;
        assert_ok(pare_writer_encode(writer, be, index, &rows, scratch, &parts));
        assert_ok(pare_writer_write(writer, &parts));
        pare_writer_add_sums(writer, index, &parts.sums);
        free(scratch);
    }
}

pare_writer_options h5_samples_options(const char *path, const h5_sample *samples, int64_t count,
                                       const pare_store *source, const char *provenance,
                                       pare_entry **entries)
{
    *entries = calloc((size_t)count + 1, sizeof **entries);
    assert_non_null(*entries);
    for (int64_t i = 0; i < count; ++i)
        (*entries)[i] = samples[i].entry;
    return (pare_writer_options){.path = path,
                                 .entries = *entries,
                                 .count = count,
                                 .source = source,
                                 .provenance = provenance,
                                 .overwrite = true};
}

void h5_samples_write(const char *path, pare_backend *be, const h5_sample *samples, int64_t count,
                      const pare_store *source, const char *provenance)
{
    pare_entry *entries;
    pare_writer_options options =
        h5_samples_options(path, samples, count, source, provenance, &entries);
    pare_writer *writer = NULL;
    assert_ok(pare_writer_create(&options, false, &writer));
    free(entries);
    for (int64_t i = 0; i < count; ++i)
        h5_sample_fill(writer, be, &samples[i], i, 0);
    assert_ok(pare_writer_finish(writer));
    pare_writer_free(&writer, false);
}

static void save(const char *folder, const char *name, const void *bytes, size_t size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(pare__file_save(path, bytes, (int64_t)size));
}

void h5_source_make(const char *folder)
{
    char path[4096], header[128] = {0};
    snprintf(path, sizeof path, "%s/extra/deep", folder);
    assert_ok(pare__make_directory(path));
    static const char config[] = "{\n  \"model_type\": \"none\",\n  \"name\": \"\xc3\xa9\"\n}\n";
    save(folder, "config.json", config, sizeof config - 1);
    uint64_t state = 7;
    void *bytes = random_bytes(&state, 1300000);
    save(folder, "tokenizer.json", bytes, 1300000);
    save(folder, "extra/deep/vocab 100%.txt", bytes, 999);
    save(folder, "extra/empty.txt", bytes, 0);
    free(bytes);
    static const char json[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"U8\",\"shape\":[4],"
        "\"data_offsets\":[0,4]}}";
    uint64_t length = sizeof json - 1;
    memcpy(header, &length, 8);
    memcpy(header + 8, json, length);
    save(folder, "model.safetensors", header, 8 + (size_t)length + 4);
}
