/* bench_ops.c - the speed of every op on one chunk of weights, beside memcpy and reading in the
 * same run.
 *
 *   pare_bench_ops [--nn|--calib [--times N]] [--csv] [--op NAME] [--isa NAME] [--threads N]
 *                  [--rows N] [--cols N] [--repeats N] [--device cuda[:N]]
 *
 * --nn: the ops that models are run and trained with instead, beside copying and products, with N
 * times as many samples a row; --calib: those that compress with calibration data. --device: on a
 * CUDA device instead, where the chunk is 16384 × 4096 and --times 16 where nothing else is said.
 */
#include "bench.h"

#include "pare/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct chunk {
    bench_table table;
    /* the other tables' */
    void (*rows_of)(const bench_table *table, pare_backend *be, int threads, int64_t times);
    int64_t times;
    int device; /* −1: the CPU */
    pare_backend *be;
    int64_t rows, cols, n;
    float *w, *y, *lo, *hi, *scale, *zeros;
    uint16_t *half, *brain, *half_out;
    uint32_t *keys;
    int64_t *bins, *counts;
    uint8_t *mask, *blocks, *words;
    int8_t *codes, *unpacked, *zero;
    double errors[PARE_QUANT_CANDIDATES];
    uint64_t digest[2];
    uint32_t middle;          /* a key of w's */
    bool seen[PARE_OP_COUNT]; /* ops that have a row */
} chunk;

static void row(chunk *k, pare_op op, const char *detail, const void *args, int64_t in, int64_t out)
{
    bench_call c = {k->be, op, args};
    k->seen[op] = true;
    /* also where --op leaves the row out: later rows use what this one makes */
    if (bench_runs(&c))
        bench_row(&k->table, pare_op_name(op), detail, (double)in, (double)out, bench_run_call, &c);
}

#define ROW(name, detail, in, out, ...)                                                            \
    row(k, PARE_OP_##name, detail, &(pare_##name##_args){__VA_ARGS__}, in, out)

/* ---- data ------------------------------------------------------------------------------------ */

static void make_chunk(chunk *k)
{
    int64_t n = k->n = k->rows * k->cols;
    k->w = bench_memory(4 * n);
    k->y = bench_memory(4 * n);
    k->lo = bench_memory(4 * n);
    k->hi = bench_memory(4 * n);
    k->scale = bench_memory(4 * n);
    k->zeros = bench_memory(4 * n);
    k->half = bench_memory(2 * n);
    k->brain = bench_memory(2 * n);
    k->half_out = bench_memory(2 * n);
    k->keys = bench_memory(4 * n);
    k->bins = bench_memory(8 * PARE_SELECT_LOW_BINS);
    k->counts = bench_memory(8 * k->rows);
    k->mask = bench_memory(n);
    k->blocks = bench_memory(n);
    k->words = bench_memory(n);
    k->codes = bench_memory(n);
    k->unpacked = bench_memory(n);
    k->zero = bench_memory(n);
    uint64_t z = 1;
    for (int64_t i = 0; i < n; i++) { /* roughly normal, as weights are */
        float sum = 0;
        for (int j = 0; j < 4; j++) {
            z = z * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(int32_t)(z >> 32) * 0x1p-31f;
        }
        k->w[i] = sum * 0.02f;
        k->y[i] = sum * 0.02001f;
        k->mask[i] = (uint8_t)(z >> 40);
        k->blocks[i] = (uint8_t)(z >> 48);
        k->zeros[i] = k->blocks[i] & 1 ? 0.0f : k->w[i];
    }
    memcpy(&k->middle, &k->w[n / 2], 4);
    k->middle &= 0x7fffffffu;
}

/* All pointers of a chunk. */
static void each_array(chunk *k, void (*visit)(chunk *k, void **array, int64_t bytes))
{
    int64_t n = k->n;
    struct {
        void *array; /* T ** */
        int64_t bytes;
    } all[] = {{&k->w, 4 * n},
               {&k->y, 4 * n},
               {&k->lo, 4 * n},
               {&k->hi, 4 * n},
               {&k->scale, 4 * n},
               {&k->zeros, 4 * n},
               {&k->half, 2 * n},
               {&k->brain, 2 * n},
               {&k->half_out, 2 * n},
               {&k->keys, 4 * n},
               {&k->bins, 8 * PARE_SELECT_LOW_BINS},
               {&k->counts, 8 * k->rows},
               {&k->mask, n},
               {&k->blocks, n},
               {&k->words, n},
               {&k->codes, n},
               {&k->unpacked, n},
               {&k->zero, n}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        void *at;
        memcpy(&at, all[i].array, sizeof at);
        visit(k, &at, all[i].bytes);
        memcpy(all[i].array, &at, sizeof at);
    }
}

static void give_array(chunk *k, void **array, int64_t bytes)
{
    *array = bench_give(k->be, *array, bytes);
}

static void free_array(chunk *k, void **array, int64_t bytes)
{
    (void)bytes;
    bench_free(k->be, *array);
}

static void free_chunk(chunk *k)
{
    each_array(k, free_array);
    pare_backend_free(&k->be);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void core_rows(chunk *k)
{
    int64_t n = k->n;
    pare_tensor w = pare_vector(k->w, PARE_F32, n), y = pare_vector(k->y, PARE_F32, n);
    pare_tensor half = pare_vector(k->half, PARE_F16, n);
    pare_tensor brain = pare_vector(k->brain, PARE_BF16, n);
    pare_tensor wide = pare_vector(k->lo, PARE_F32, n);
    pare_stats_result stats;
    pare_diff_result diff;
    ROW(cast, "f32 to bf16", 4 * n, 2 * n, .x = w, .y = brain);
    ROW(cast, "f32 to f16", 4 * n, 2 * n, .x = w, .y = half);
    ROW(cast, "bf16 to f32", 2 * n, 4 * n, .x = brain, .y = wide);
    ROW(cast, "f16 to f32", 2 * n, 4 * n, .x = half, .y = wide);
    ROW(stats, "f32", 4 * n, 0, .x = w, .result = &stats);
    ROW(stats, "bf16", 2 * n, 0, .x = brain, .result = &stats);
    ROW(diff, "", 8 * n, 0, .a = w, .b = y, .result = &diff);
    ROW(digest, "", 4 * n, 0, .bytes = k->w, .size = 4 * n, .seed = 7, .result = k->digest);
}

static void select_rows(chunk *k)
{
    int64_t n = k->n, R = k->rows, C = k->cols, below, equal;
    pare_tensor w = pare_vector(k->w, PARE_F32, n), m = pare_matrix(k->w, PARE_F32, R, C);
    pare_tensor keys = pare_vector(k->keys, PARE_U32, n);
    pare_tensor high = pare_vector(k->bins, PARE_I64, PARE_SELECT_HIGH_BINS);
    pare_tensor low = pare_vector(k->bins, PARE_I64, PARE_SELECT_LOW_BINS);
    pare_tensor brain = pare_vector(k->brain, PARE_BF16, n);
    pare_tensor mask = pare_matrix(k->mask, PARE_U8, R, (C + 7) / 8);
    ROW(keys, "bf16", 2 * n, 4 * n, .x = brain, .keys = keys);
    ROW(keys, "f32", 4 * n, 4 * n, .x = w, .keys = keys);
    ROW(keys_random, "", 0, 4 * n, .seed = 1, .stream = 2, .keys = keys);
    ROW(keys_block, "16x16", 4 * n, n / 64, .x = m, .block_rows = 16, .block_cols = 16,
        .keys = pare_matrix(k->keys, PARE_U32, (R + 15) / 16, (C + 15) / 16));
    ROW(keys_block, "1x4", 4 * n, n, .x = m, .block_rows = 1, .block_cols = 4,
        .keys = pare_matrix(k->keys, PARE_U32, R, (C + 3) / 4));
    ROW(select_hist, "upper bits", 4 * n, 0, .x = w, .prefix = -1, .bins = high);
    ROW(select_hist, "lower bits", 4 * n, 0, .x = w, .prefix = (int32_t)(k->middle >> 16),
        .bins = low);
    pare_tensor half = pare_vector(k->zeros, PARE_F32, n);
    ROW(select_hist, "upper bits, half zeros", 4 * n, 0, .x = half, .prefix = -1, .bins = high);
    ROW(select_hist, "lower bits, half zeros", 4 * n, 0, .x = half, .prefix = 0, .bins = low);
    ROW(select_count, "", 4 * n, 0, .x = w, .threshold = k->middle, .below = &below,
        .equal = &equal);
    uint32_t found;
    ROW(select_kth, "", 4 * n, 0, .x = w, .k = (n + 1) / 2, .threshold = &found, .below = &below,
        .equal = &equal);
    ROW(mask_select, "", 4 * n, n / 8, .x = m, .threshold = k->middle, .ties = 1, .mask = mask);
    ROW(mask_select, "half are ties", 4 * n, n / 8, .x = pare_matrix(k->zeros, PARE_F32, R, C),
        .threshold = 0, .ties = n / 4, .mask = mask);
}

static void mask_rows(chunk *k)
{
    int64_t n = k->n, R = k->rows, C = k->cols, bytes = (C + 7) / 8, ones;
    pare_tensor m = pare_matrix(k->w, PARE_F32, R, C), x = pare_matrix(k->y, PARE_F32, R, C);
    pare_tensor h = pare_matrix(k->half_out, PARE_BF16, R, C);
    pare_tensor mask = pare_matrix(k->mask, PARE_U8, R, bytes);
    pare_tensor out = pare_matrix(k->lo, PARE_F32, R, C);
    ROW(mask_nm, "2:4", 4 * n, n / 8, .x = m, .n = 2, .m = 4, .mask = mask);
    ROW(mask_nm, "4:8", 4 * n, n / 8, .x = m, .n = 4, .m = 8, .mask = mask);
    ROW(mask_nm, "8:16", 4 * n, n / 8, .x = m, .n = 8, .m = 16, .mask = mask);
    ROW(mask_nm, "1:2", 4 * n, n / 8, .x = m, .n = 1, .m = 2, .mask = mask);
    ROW(mask_expand, "16x16", n / 2048, n / 8, .block_rows = 16, .block_cols = 16, .rows = R,
        .cols = C, .mask = mask,
        .blocks = pare_matrix(k->blocks, PARE_U8, (R + 15) / 16, ((C + 15) / 16 + 7) / 8));
    ROW(mask_nonzero, "f32", 4 * n, n / 8, .x = m, .mask = mask, .count = &ones);
    ROW(mask_nonzero, "bf16", 2 * n, n / 8, .x = h, .mask = mask);
    bench_check(pare_mask_nm(k->be, &(pare_mask_nm_args){.x = m, .n = 2, .m = 4, .mask = mask}));
    ROW(mask_apply, "f32", 4 * n + n / 8, 4 * n, .x = x, .mask = mask);
    ROW(mask_apply, "bf16", 2 * n + n / 8, 2 * n, .x = h, .mask = mask);
    pare_tensor kept = pare_vector(k->hi, PARE_F32, n / 2);
    pare_tensor few = pare_vector(k->half, PARE_BF16, n / 2);
    ROW(mask_compact, "f32, 2:4", 4 * n + n / 8, 2 * n, .x = m, .mask = mask, .values = kept,
        .row_counts = pare_vector(k->counts, PARE_I64, R));
    ROW(mask_compact, "bf16, 2:4", 2 * n + n / 8, n, .x = h, .mask = mask, .values = few);
    ROW(mask_scatter, "f32, 2:4", 2 * n + n / 8, 4 * n, .x = out, .mask = mask, .values = kept);
}

typedef struct search {
    const pare_quant_search_args *args;
    pare_backend *be;
    float *saved;
    int64_t bytes;
} search;

/* The search is in place, so every call starts from the same scales again. */
static void run_search(void *user)
{
    const search *s = user;
    bench_copy(s->be, s->args->scale.data, s->saved, s->bytes);
    bench_check(pare_quant_search(s->be, s->args));
}

static void search_row(chunk *k, const char *name, const pare_quant_search_args *args)
{
    int64_t bytes = pare_tensor_count(&args->scale) * 4;
    search s = {args, k->be, k->lo, bytes};
    k->seen[PARE_OP_quant_search] = true;
    bench_copy(k->be, k->lo, args->scale.data, bytes);
    bench_row(&k->table, "quant_search", name, (double)(4 * k->n), (double)bytes, run_search, &s);
    bench_copy(k->be, args->scale.data, k->lo, bytes);
}

/* From BF16 to packed codes. */
static void one_pass_row(chunk *k, const char *name, pare_scheme scheme, int64_t group)
{
    int64_t n = k->n, R = k->rows, C = k->cols, across = (C + group - 1) / group;
    int64_t bytes = pare_packed_bytes(PARE_PACK_STREAM, scheme.bits, C);
    ROW(quant_pack, name, 2 * n, R * bytes, .scheme = scheme, .scale_dtype = PARE_BF16,
        .w = pare_matrix(k->brain, PARE_BF16, R, C), .block_cols = group,
        .scale = pare_matrix(k->scale, PARE_F32, R, across),
        .zero = pare_matrix(scheme.asymmetric ? k->zero : NULL, PARE_I8, R, across),
        .words = pare_matrix(k->words, PARE_U8, R, bytes));
}

/* One scheme on one block: every op that it needs. */
static void quant_rows(chunk *k, const char *name, pare_scheme scheme, int64_t group, bool searched)
{
    int64_t n = k->n, R = k->rows, C = k->cols, across = (C + group - 1) / group, s = R * across;
    pare_tensor w = pare_matrix(k->w, PARE_F32, R, C), codes = pare_matrix(k->codes, PARE_I8, R, C);
    pare_tensor lo = pare_matrix(k->lo, PARE_F32, R, across);
    pare_tensor hi = pare_matrix(k->hi, PARE_F32, R, across);
    pare_tensor scale = pare_matrix(k->scale, PARE_F32, R, across);
    pare_tensor zero = pare_matrix(scheme.asymmetric ? k->zero : NULL, PARE_I8, R, across);
    pare_tensor back = pare_matrix(k->half_out, PARE_BF16, R, C);
    pare_tensor back_f32 = pare_matrix(k->y, PARE_F32, R, C);
    ROW(quant_range, name, 4 * n, 8 * s, .w = w, .block_rows = 1, .block_cols = group, .lo = lo,
        .hi = hi);
    ROW(quant_scale, name, 8 * s, 4 * s, .scheme = scheme, .scale_dtype = PARE_BF16,
        .lo = pare_vector(k->lo, PARE_F32, s), .hi = pare_vector(k->hi, PARE_F32, s),
        .scale = pare_vector(k->scale, PARE_F32, s), .zero = pare_vector(zero.data, PARE_I8, s));
    ROW(quantize, name, 4 * n, n, .scheme = scheme, .w = w, .block_rows = 1, .block_cols = group,
        .scale = scale, .zero = zero, .codes = codes);
    ROW(dequantize, name, n, 2 * n, .scheme = scheme, .codes = codes, .block_rows = 1,
        .block_cols = group, .scale = scale, .zero = zero, .w = back);
    ROW(dequantize, "to f32", n, 4 * n, .scheme = scheme, .codes = codes, .block_rows = 1,
        .block_cols = group, .scale = scale, .zero = zero, .w = back_f32);
    if (scheme.type == PARE_QUANT_INT)
        one_pass_row(k, name, scheme, group);
    if (!searched)
        return;
    search_row(k, name,
               &(pare_quant_search_args){.scheme = scheme,
                                         .scale_dtype = PARE_BF16,
                                         .w = w,
                                         .block_rows = 1,
                                         .block_cols = group,
                                         .scale = scale,
                                         .zero = zero});
    ROW(quant_error, name, 4 * n, 0, .scheme = scheme, .scale_dtype = PARE_BF16, .w = w,
        .scale = 0.01f, .errors = k->errors);
}

/* The scales of nf4 quantised too: of the rows before these. */
static void nested_rows(chunk *k)
{
    int64_t s = k->rows * ((k->cols + 63) / 64), blocks = (s + 255) / 256;
    pare_tensor scale = pare_vector(k->scale, PARE_F32, s),
                codes = pare_vector(k->words, PARE_U8, s);
    pare_tensor nested = pare_vector(k->hi, PARE_F32, blocks);
    ROW(quant_nested, "scales of nf4", 4 * s, 5 * s, .offset = 0.05f, .scale = scale,
        .codes = codes, .nested = nested);
    ROW(dequant_nested, "scales of nf4", s, 4 * s, .offset = 0.05f, .codes = codes,
        .nested = nested, .scale = scale);
}

static void pack_rows(chunk *k)
{
    int64_t n = k->n, R = k->rows, C = k->cols;
    pare_tensor codes = pare_matrix(k->codes, PARE_I8, R, C);
    pare_tensor back = pare_matrix(k->unpacked, PARE_I8, R, C);
    for (int bits = 2; bits <= 8; bits++) {
        char name[32];
        int64_t bytes = pare_packed_bytes(PARE_PACK_STREAM, bits, C);
        pare_tensor words = pare_matrix(k->words, PARE_U8, R, bytes);
        snprintf(name, sizeof name, "%d bits", bits);
        ROW(pack, name, n, R * bytes, .bits = bits, .codes = codes, .words = words);
        ROW(unpack, name, R * bytes, n, .bits = bits, .words = words, .codes = back);
    }
    pare_tensor words = pare_matrix(k->words, PARE_U8, 1, (n + 1) / 2);
    ROW(pack, "nibbles", n, n / 2, .packing = PARE_PACK_NIBBLES, .bits = 4, .codes = codes,
        .words = words);
    ROW(unpack, "nibbles", n / 2, n, .packing = PARE_PACK_NIBBLES, .bits = 4, .words = words,
        .codes = back);
    words = pare_matrix(k->words, PARE_U8, R, pare_packed_bytes(PARE_PACK_ALIGNED, 3, C));
    ROW(pack, "3 bits, aligned", n, 2 * n / 5, .packing = PARE_PACK_ALIGNED, .bits = 3,
        .codes = codes, .words = words);
    ROW(unpack, "3 bits, aligned", 2 * n / 5, n, .packing = PARE_PACK_ALIGNED, .bits = 3,
        .words = words, .codes = back);
}

/* ---- chains ---------------------------------------------------------------------------------- */

typedef struct chain {
    chunk *k;
    pare_scheme scheme;
    int64_t group;
} chain;

/* What quantising a chunk to packed codes takes. */
static void run_chain(void *user)
{
    const chain *c = user;
    chunk *k = c->k;
    int64_t R = k->rows, C = k->cols, across = (C + c->group - 1) / c->group, s = R * across;
    pare_tensor w = pare_matrix(k->w, PARE_F32, R, C), codes = pare_matrix(k->codes, PARE_I8, R, C);
    bench_check(pare_quant_range(
        k->be, &(pare_quant_range_args){.w = w,
                                        .block_rows = 1,
                                        .block_cols = c->group,
                                        .lo = pare_matrix(k->lo, PARE_F32, R, across),
                                        .hi = pare_matrix(k->hi, PARE_F32, R, across)}));
    bench_check(pare_quant_scale(
        k->be, &(pare_quant_scale_args){.scheme = c->scheme,
                                        .scale_dtype = PARE_BF16,
                                        .lo = pare_vector(k->lo, PARE_F32, s),
                                        .hi = pare_vector(k->hi, PARE_F32, s),
                                        .scale = pare_vector(k->scale, PARE_F32, s)}));
    bench_check(pare_quantize(
        k->be, &(pare_quantize_args){.scheme = c->scheme,
                                     .w = w,
                                     .block_rows = 1,
                                     .block_cols = c->group,
                                     .scale = pare_matrix(k->scale, PARE_F32, R, across),
                                     .codes = codes}));
    int64_t bytes = pare_packed_bytes(PARE_PACK_STREAM, c->scheme.bits, C);
    bench_check(
        pare_pack(k->be, &(pare_pack_args){.bits = c->scheme.bits,
                                           .codes = codes,
                                           .words = pare_matrix(k->words, PARE_U8, R, bytes)}));
}

static void chain_row(chunk *k, const char *name, int bits, int64_t group)
{
    chain c = {k, {.type = PARE_QUANT_INT, .bits = bits}, group};
    bench_row(&k->table, "chain", name, (double)(4 * k->n), (double)(k->n * bits / 8), run_chain,
              &c);
}

/* ---- main ------------------------------------------------------------------------------------ */

static bool option(int argc, char **argv, int *i, const char *name, const char **value)
{
    if (strcmp(argv[*i], name) != 0 || *i + 1 >= argc)
        return false;
    *value = argv[++*i];
    return true;
}

static void read_options(int argc, char **argv, chunk *k, pare_cpu_options *cpu)
{
    const char *v = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--csv") == 0)
            k->table.csv = true;
        else if (strcmp(argv[i], "--nn") == 0)
            k->rows_of = bench_nn;
        else if (strcmp(argv[i], "--calib") == 0)
            k->rows_of = bench_calib;
        else if (strcmp(argv[i], "--distill") == 0)
            k->rows_of = bench_distill;
        else if (option(argc, argv, &i, "--op", &v))
            k->table.only = v;
        else if (option(argc, argv, &i, "--isa", &v))
            cpu->isa = v;
        else if (option(argc, argv, &i, "--threads", &v))
            cpu->threads = atoi(v);
        else if (option(argc, argv, &i, "--rows", &v))
            k->rows = atoll(v);
        else if (option(argc, argv, &i, "--cols", &v))
            k->cols = atoll(v);
        else if (option(argc, argv, &i, "--repeats", &v))
            k->table.repeats = atoi(v);
        else if (option(argc, argv, &i, "--times", &v))
            k->times = atoll(v);
        else if (option(argc, argv, &i, "--device", &v) && strncmp(v, "cuda", 4) == 0)
            k->device = v[4] == ':' ? atoi(v + 5) : 0;
        else {
            fprintf(
                stderr,
                "usage: pare_bench_ops [--nn|--calib|--distill [--times N]] [--csv] [--op NAME] "
                "[--isa NAME] [--threads N] [--rows N] [--cols N] [--repeats N] "
                "[--device cuda[:N]]\n");
            exit(2);
        }
    }
    bool device = k->device >= 0;
    k->rows = k->rows ? k->rows : device ? 16384 : 32;
    k->times = k->times ? k->times : device ? 16 : 1;
    if (k->rows < 1 || k->cols < 16 || k->cols % 16 != 0 || k->times < 1) {
        fprintf(stderr,
                "pare_bench_ops: rows and times must be at least 1, cols a multiple of 16\n");
        exit(2);
    }
}

static void print_device(const chunk *k)
{
    pare_cuda_facts f;
    if (k->device < 0)
        return;
    bench_check(pare_cuda_facts_of(k->device, &f));
    printf("# %s, capability %d.%d, driver for CUDA %d.%d, runtime %d.%d\n", f.name, f.major,
           f.minor, f.driver / 1000, f.driver % 1000 / 10, f.runtime / 1000, f.runtime % 1000 / 10);
}

int main(int argc, char **argv)
{
    static chunk chunk_of_weights;
    chunk *k = &chunk_of_weights;
    pare_cpu_options cpu = {0};
    *k = (chunk){.table = {.repeats = 9, .seconds = 0.02}, .cols = 4096, .device = -1};
    read_options(argc, argv, k, &cpu);
    bench_check(k->device >= 0 ? pare_cuda_create(k->device, &k->be)
                               : pare_cpu_create(&cpu, &k->be));
    k->table.be = k->be;
    print_device(k);
    if (k->rows_of) {
        k->rows_of(&k->table, k->be, cpu.threads, k->times);
        pare_backend_free(&k->be);
        return 0;
    }
    make_chunk(k);
    each_array(k, give_array);
    if (!k->table.csv)
        printf("%s, %s, chunk [%lld, %lld] f32\n", pare_cpu_model(), pare_backend_name(k->be),
               (long long)k->rows, (long long)k->cols);
    bench_head(&k->table);
    bench_limits(&k->table, 4 * k->n, INT64_C(256) << 20);
    core_rows(k);
    select_rows(k);
    mask_rows(k);
    quant_rows(k, "int4 g128", (pare_scheme){.type = PARE_QUANT_INT, .bits = 4}, 128, true);
    quant_rows(k, "int8 channel", (pare_scheme){.type = PARE_QUANT_INT, .bits = 8}, k->cols, true);
    quant_rows(k, "int4 g32 zero points",
               (pare_scheme){.type = PARE_QUANT_INT, .bits = 4, .asymmetric = true}, 32, true);
    quant_rows(k, "int4 g100", (pare_scheme){.type = PARE_QUANT_INT, .bits = 4}, 100, false);
    quant_rows(k, "int4 g7", (pare_scheme){.type = PARE_QUANT_INT, .bits = 4}, 7, false);
    quant_rows(k, "e4m3 channel", (pare_scheme){.type = PARE_QUANT_E4M3, .bits = 8}, k->cols, true);
    quant_rows(k, "nf4", (pare_scheme){.type = PARE_QUANT_NF4, .bits = 4}, 64, false);
    nested_rows(k);
    pack_rows(k);
    chain_row(k, "range, scale, quantize, pack w4g128", 4, 128);
    chain_row(k, "w4g32", 4, 32);
    chain_row(k, "w8", 8, k->cols);
    chain_row(k, "w3g128", 3, 128);
    bench_check_rows(k->seen, (pare_op)0, PARE_OP_gemm);
    free_chunk(k);
    return 0;
}
