/* cpu_mask.c - masks from keys: by threshold, N:M, from blocks, from what is not zero. */
#include "cpu_bits.h"

#define TILE 64 /* columns: one 64-bit word of a mask */

/* Keys [at, at + TILE) of a row as integers; behind its end 0. */
static const uint32_t *key_tile(const uint32_t *row, int64_t at, int64_t cols, uint32_t *buffer)
{
    if (at + TILE <= cols)
        return row + at;
    memset(buffer, 0, TILE * sizeof *buffer);
    memcpy(buffer, row + at, (size_t)(cols - at) * sizeof *buffer);
    return buffer;
}

static uint64_t word_from_flags(const uint8_t *flag)
{
    uint8_t bits[TILE / 8];
    uint64_t word;
    cpu_bits_from_flags(flag, bits, TILE / 8);
    memcpy(&word, bits, sizeof word);
    return word;
}

/* The columns [at, cols) of a word that begins at column at. */
static uint64_t word_in_row(int64_t at, int64_t cols)
{
    return cols - at >= TILE ? UINT64_MAX : (UINT64_C(1) << (cols - at)) - 1;
}

static void store_word(uint8_t *mask, int64_t at, int64_t cols, uint64_t word)
{
    memcpy(mask + at / 8, &word, (size_t)cpu_ceil_div(cpu_min(TILE, cols - at), 8));
}

/* ---- select ---------------------------------------------------------------------------------- */

/* The first *ties ones of a word, and *ties less as many. */
static uint64_t take_ties(uint64_t equal, int64_t *ties)
{
    int64_t count = __builtin_popcountll(equal);
    if (count <= *ties) {
        *ties -= count;
        return equal;
    }
    uint64_t taken = 0;
    for (; *ties > 0; --*ties) {
        taken |= equal & (~equal + 1);
        equal &= equal - 1;
    }
    return taken;
}

/* A row; threshold below 2^31. Returns the ties still to be pruned. */
static int64_t select_row(const uint32_t *row, int64_t cols, uint32_t threshold, int64_t ties,
                          uint8_t *mask)
{
    for (int64_t at = 0; at < cols; at += TILE) {
        uint32_t buffer[TILE];
        uint8_t flag[TILE];
        const uint32_t *x = key_tile(row, at, cols, buffer);
        for (int i = 0; i < TILE; i++)
            flag[i] = (int32_t)(x[i] & CPU_KEY_MASK) >= (int32_t)threshold;
        uint64_t inside = word_in_row(at, cols), keep = word_from_flags(flag) & inside;
        if (ties > 0 && keep) {
            for (int i = 0; i < TILE; i++)
                flag[i] = (x[i] & CPU_KEY_MASK) == threshold;
            keep &= ~take_ties(word_from_flags(flag) & inside, &ties);
        }
        store_word(mask, at, cols, keep);
    }
    return ties;
}

static void select_part(const void *user, int64_t first, int64_t last)
{
    const pare_mask_select_args *a = user;
    int64_t cols = a->x.shape[1], bytes = a->mask.shape[1], ties = a->ties;
    const uint32_t *x = a->x.data;
    uint8_t *mask = a->mask.data;
    for (int64_t i = 0; i < first * cols && ties > 0; i++) /* ties that earlier parts take */
        ties -= (x[i] & CPU_KEY_MASK) == a->threshold;
    for (int64_t r = first; r < last; r++)
        ties = select_row(x + r * cols, cols, a->threshold, ties, mask + r * bytes);
}

pare_status PARE_CPU(pare_cpu_mask_select)(pare_backend *be, const pare_mask_select_args *args)
{
    if (args->mask.shape[1] == 0)
        return PARE_OK;
    if (args->threshold > CPU_KEY_MASK) /* above every key */
        memset(args->mask.data, 0, (size_t)pare_tensor_count(&args->mask));
    else
        cpu_split(be, args->x.shape[0], 1, select_part, args);
    return PARE_OK;
}

/* ---- N:M ------------------------------------------------------------------------------------- */

#define GROUPS 16 /* groups of m that are ranked side by side */
#define MAX_M 256

/* GROUPS groups of m keys each to GROUPS · m flags. An element is kept if it beats at least m - n
 * of its group, where of two equals the later one wins. */
CPU_INLINE void rank_groups(const uint32_t *restrict x, int n, int m, uint8_t *restrict flag)
{
    int32_t key[MAX_M][GROUPS], wins[MAX_M][GROUPS];
    for (int i = 0; i < m; i++)
        for (int g = 0; g < GROUPS; g++) {
            key[i][g] = (int32_t)(x[g * m + i] & CPU_KEY_MASK);
            wins[i][g] = 0;
        }
    for (int i = 0; i < m; i++)
        for (int j = i + 1; j < m; j++)
            for (int g = 0; g < GROUPS; g++) {
                int32_t earlier = key[i][g] > key[j][g];
                wins[i][g] += earlier;
                wins[j][g] += 1 - earlier;
            }
    for (int i = 0; i < m; i++)
        for (int g = 0; g < GROUPS; g++)
            flag[g * m + i] = wins[i][g] >= m - n;
}

static void rank_any(const uint32_t *x, int n, int m, uint8_t *flag)
{
    switch (m) {
    case 4:
        rank_groups(x, n, 4, flag);
        break;
    case 8:
        rank_groups(x, n, 8, flag);
        break;
    default:
        rank_groups(x, n, m, flag);
    }
}

static void nm_part(const void *user, int64_t first, int64_t last)
{
    const pare_mask_nm_args *a = user;
    int64_t cols = a->x.shape[1], bytes = a->mask.shape[1], step = (int64_t)GROUPS * a->m;
    uint32_t buffer[GROUPS * MAX_M];
    uint8_t flag[GROUPS * MAX_M];
    for (int64_t r = first; r < last; r++) {
        const uint32_t *row = (const uint32_t *)a->x.data + r * cols;
        uint8_t *mask = (uint8_t *)a->mask.data + r * bytes;
        int64_t at = 0;
        for (; at + step <= cols; at += step) { /* step columns are 2·m whole bytes */
            rank_any(row + at, a->n, a->m, flag);
            cpu_bits_from_flags(flag, mask + at / 8, step / 8);
        }
        if (at == cols)
            continue;
        size_t left = (size_t)(cols - at);
        memset(buffer, 0, (size_t)step * sizeof *buffer);
        memcpy(buffer, row + at, left * sizeof *buffer);
        rank_any(buffer, a->n, a->m, flag);
        memset(flag + left, 0, (size_t)step - left);
        cpu_bits_from_flags(flag, mask + at / 8, bytes - at / 8);
    }
}

pare_status PARE_CPU(pare_cpu_mask_nm)(pare_backend *be, const pare_mask_nm_args *args)
{
    cpu_split(be, args->x.shape[0], 1, nm_part, args);
    return PARE_OK;
}

/* ---- expand ---------------------------------------------------------------------------------- */

/* Ones in the bits [from, to) of a row. */
static void set_bits(uint8_t *row, int64_t from, int64_t to)
{
    for (; from < to && from % 8 != 0; from++)
        row[from / 8] |= (uint8_t)(1u << from % 8);
    memset(row + from / 8, 0xff, (size_t)((to - from) / 8));
    for (from += (to - from) / 8 * 8; from < to; from++)
        row[from / 8] |= (uint8_t)(1u << from % 8);
}

static void expand_part(const void *user, int64_t first, int64_t last)
{
    const pare_mask_expand_args *a = user;
    int64_t bytes = a->mask.shape[1], across = cpu_ceil_div(a->cols, a->block_cols);
    for (int64_t d = first; d < last; d++) {
        const uint8_t *blocks = (const uint8_t *)a->blocks.data + d * a->blocks.shape[1];
        int64_t begin = d * a->block_rows, rows = cpu_min(a->block_rows, a->rows - begin);
        uint8_t *mask = (uint8_t *)a->mask.data + begin * bytes;
        memset(mask, 0, (size_t)bytes);
        for (int64_t c = 0; c < across; c++)
            if (blocks[c / 8] >> c % 8 & 1)
                set_bits(mask, c * a->block_cols,
                         cpu_min(a->block_cols, a->cols - c * a->block_cols) + c * a->block_cols);
        for (int64_t r = 1; r < rows; r++)
            memcpy(mask + r * bytes, mask, (size_t)bytes);
    }
}

pare_status PARE_CPU(pare_cpu_mask_expand)(pare_backend *be, const pare_mask_expand_args *args)
{
    if (args->cols > 0)
        cpu_split(be, args->blocks.shape[0], 1, expand_part, args);
    return PARE_OK;
}

/* ---- what is not zero ------------------------------------------------------------------------ */

static void nonzero_row(const pare_tensor *x, int64_t r, uint8_t *mask)
{
    int64_t cols = x->shape[1];
    for (int64_t at = 0; at < cols; at += TILE) {
        int64_t n = cpu_min(TILE, cols - at);
        uint8_t flag[TILE] = {0};
        if (x->dtype == PARE_F32) {
            const uint32_t *u = (const uint32_t *)x->data + r * cols + at;
            for (int64_t i = 0; i < n; i++)
                flag[i] = (u[i] & CPU_KEY_MASK) != 0;
        } else {
            const uint16_t *u = (const uint16_t *)x->data + r * cols + at;
            for (int64_t i = 0; i < n; i++)
                flag[i] = (u[i] & 0x7fffu) != 0;
        }
        store_word(mask, at, cols, word_from_flags(flag));
    }
}

static void nonzero_part(const void *user, int64_t first, int64_t last)
{
    const pare_mask_nonzero_args *a = user;
    for (int64_t r = first; r < last; r++)
        nonzero_row(&a->x, r, (uint8_t *)a->mask.data + r * a->mask.shape[1]);
}

pare_status PARE_CPU(pare_cpu_mask_nonzero)(pare_backend *be, const pare_mask_nonzero_args *args)
{
    int64_t rows = args->x.shape[0], cols = args->x.shape[1], bytes = args->mask.shape[1];
    cpu_split(be, rows, 1, nonzero_part, args);
    if (args->count) {
        int64_t ones = 0;
        for (int64_t r = 0; r < rows; r++)
            ones += cpu_count_ones((const uint8_t *)args->mask.data + r * bytes, cols);
        *args->count = ones;
    }
    return PARE_OK;
}
