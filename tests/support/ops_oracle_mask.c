#include "ops_oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int oracle_bit(const uint8_t *row, int64_t c)
{
    return row[c / 8] / (1 << c % 8) % 2;
}

void oracle_set(uint8_t *row, int64_t c, int bit)
{
    if (oracle_bit(row, c) != bit)
        row[c / 8] = (uint8_t)(bit ? row[c / 8] + (1 << c % 8) : row[c / 8] - (1 << c % 8));
}

static uint32_t key_at(const pare_tensor *x, int64_t i)
{
    uint32_t u;
    memcpy(&u, (const char *)x->data + 4 * i, 4);
    return u % 0x80000000u;
}

static uint8_t *mask_row(const pare_tensor *mask, int64_t r)
{
    return (uint8_t *)mask->data + r * mask->shape[1];
}

static void clear(const pare_tensor *t, size_t element)
{
    size_t bytes = (size_t)pare_tensor_count(t) * element;
    if (bytes > 0)
        memset(t->data, 0, bytes);
}

/* ---- keys ------------------------------------------------------------------------------------ */

static void store_key(const pare_tensor *keys, int64_t i, double x)
{
    oracle_store(keys->data, PARE_F32, i, fabs(x));
}

void oracle_keys(const pare_keys_args *args)
{
    pare_tensor wide = args->keys;
    wide.dtype = PARE_F32;
    oracle_cast(&(pare_cast_args){.x = args->x, .y = wide});
    uint32_t *keys = args->keys.data;
    for (int64_t i = 0; i < args->x.shape[0]; i++)
        keys[i] %= 0x80000000u;
}

void oracle_keys_random(const pare_keys_random_args *args)
{
    uint32_t *keys = args->keys.data;
    for (int64_t i = 0; i < args->keys.shape[0]; i++) {
        uint64_t counter = (uint64_t)args->first + (uint64_t)i + 1;
        uint64_t z = (args->seed ^ args->stream * UINT64_C(11400714819323198485)) +
                     counter * UINT64_C(15074714826142052245);
        z = (z ^ z / (UINT64_C(1) << 30)) * UINT64_C(13787848793156543929);
        z = (z ^ z / (UINT64_C(1) << 27)) * UINT64_C(10723151780598845931);
        z = z ^ z / (UINT64_C(1) << 31);
        keys[i] = (uint32_t)(z / (UINT64_C(1) << 34));
    }
}

void oracle_keys_block(const pare_keys_block_args *args)
{
    int64_t R = args->x.shape[0], C = args->x.shape[1];
    for (int64_t d = 0; d < args->keys.shape[0]; d++)
        for (int64_t a = 0; a < args->keys.shape[1]; a++) {
            float lane[16] = {0};
            int64_t i = 0;
            for (int64_t r = d * args->block_rows; r < R && r < (d + 1) * args->block_rows; r++)
                for (int64_t c = a * args->block_cols; c < C && c < (a + 1) * args->block_cols;
                     c++, i++) {
                    double x = fabs(oracle_value(args->x.data, PARE_F32, r * C + c));
                    lane[i % 16] = (float)((double)lane[i % 16] + x);
                }
            for (int step = 8; step > 0; step /= 2)
                for (int l = 0; l < step; l++)
                    lane[l] = (float)((double)lane[l] + (double)lane[l + step]);
            store_key(&args->keys, d * args->keys.shape[1] + a, (double)lane[0]);
        }
}

/* ---- selection ------------------------------------------------------------------------------- */

void oracle_select_hist(const pare_select_hist_args *args)
{
    int64_t *bins = args->bins.data;
    for (int64_t i = 0; i < args->x.shape[0]; i++) {
        uint32_t key = key_at(&args->x, i);
        if (args->prefix < 0)
            bins[key / 65536]++;
        else if (key / 65536 == (uint32_t)args->prefix)
            bins[key % 65536]++;
    }
}

void oracle_select_count(const pare_select_count_args *args)
{
    *args->below = *args->equal = 0;
    for (int64_t i = 0; i < args->x.shape[0]; i++) {
        *args->below += key_at(&args->x, i) < args->threshold;
        *args->equal += key_at(&args->x, i) == args->threshold;
    }
}

static int compare_keys(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

void oracle_select_kth(const pare_select_kth_args *args)
{
    int64_t n = args->x.shape[0];
    uint32_t *keys = calloc((size_t)n, sizeof *keys);
    for (int64_t i = 0; i < n; i++)
        keys[i] = key_at(&args->x, i);
    qsort(keys, (size_t)n, sizeof *keys, compare_keys);
    *args->threshold = keys[args->k - 1];
    *args->below = *args->equal = 0;
    for (int64_t i = 0; i < n; i++) {
        *args->below += keys[i] < keys[args->k - 1];
        *args->equal += keys[i] == keys[args->k - 1];
    }
    free(keys);
}

void oracle_mask_select(const pare_mask_select_args *args)
{
    int64_t R = args->x.shape[0], C = args->x.shape[1], ties = 0;
    clear(&args->mask, 1);
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c++) {
            uint32_t key = key_at(&args->x, r * C + c);
            int keep = key > args->threshold || (key == args->threshold && ties++ >= args->ties);
            oracle_set(mask_row(&args->mask, r), c, keep);
        }
}

/* ---- masks ----------------------------------------------------------------------------------- */

typedef struct ranked {
    uint32_t key;
    int index;
} ranked;

static int compare_ranked(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

void oracle_mask_nm(const pare_mask_nm_args *args)
{
    int64_t R = args->x.shape[0], C = args->x.shape[1];
    ranked group[256];
    clear(&args->mask, 1);
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c += args->m) {
            for (int i = 0; i < args->m; i++)
                group[i] = (ranked){key_at(&args->x, r * C + c + i), i};
            qsort(group, (size_t)args->m, sizeof group[0], compare_ranked);
            for (int i = args->m - args->n; i < args->m; i++)
                oracle_set(mask_row(&args->mask, r), c + group[i].index, 1);
        }
}

void oracle_mask_expand(const pare_mask_expand_args *args)
{
    clear(&args->mask, 1);
    for (int64_t r = 0; r < args->rows; r++)
        for (int64_t c = 0; c < args->cols; c++)
            oracle_set(
                mask_row(&args->mask, r), c,
                oracle_bit(mask_row(&args->blocks, r / args->block_rows), c / args->block_cols));
}

void oracle_mask_nonzero(const pare_mask_nonzero_args *args)
{
    int64_t R = args->x.shape[0], C = args->x.shape[1], count = 0;
    clear(&args->mask, 1);
    for (int64_t i = 0; i < R * C; i++)
        if (oracle_value(args->x.data, args->x.dtype, i) != 0.0) {
            oracle_set(mask_row(&args->mask, i / C), i % C, 1);
            count++;
        }
    if (args->count)
        *args->count = count;
}

static size_t element(const pare_tensor *t)
{
    return t->dtype == PARE_F32 ? 4 : 2;
}

void oracle_mask_apply(const pare_mask_apply_args *args)
{
    int64_t R = args->x.shape[0], C = args->x.shape[1];
    size_t size = element(&args->x);
    for (int64_t i = 0; i < R * C; i++)
        if (!oracle_bit(mask_row(&args->mask, i / C), i % C))
            memset((char *)args->x.data + (size_t)i * size, 0, size);
}

void oracle_mask_compact(const pare_mask_compact_args *args)
{
    int64_t R = args->x.shape[0], C = args->x.shape[1], *counts = args->row_counts.data;
    size_t size = element(&args->x), at = 0;
    for (int64_t r = 0; r < R; r++) {
        int64_t ones = 0;
        for (int64_t c = 0; c < C; c++) {
            if (!oracle_bit(mask_row(&args->mask, r), c))
                continue;
            memcpy((char *)args->values.data + at,
                   (char *)args->x.data + (size_t)(r * C + c) * size, size);
            at += size;
            ones++;
        }
        if (counts)
            counts[r] = ones;
    }
}

void oracle_mask_scatter(const pare_mask_scatter_args *args)
{
    int64_t R = args->x.shape[0], C = args->x.shape[1];
    size_t size = element(&args->x), at = 0;
    clear(&args->x, size);
    for (int64_t i = 0; i < R * C; i++)
        if (oracle_bit(mask_row(&args->mask, i / C), i % C)) {
            memcpy((char *)args->x.data + (size_t)i * size, (char *)args->values.data + at, size);
            at += size;
        }
}
