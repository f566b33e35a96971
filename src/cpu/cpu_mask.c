/* cpu_mask.c - masks from keys: by threshold, N:M, from blocks, from what is not zero. */
#include "cpu_lanes.h"
#include "cpu_select.h"

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

int64_t PARE_CPU(pare__cpu_select_row)(const uint32_t *row, int64_t cols, uint32_t threshold,
                                       int64_t ties, uint8_t *mask)
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
        ties = PARE_CPU(pare__cpu_select_row)(x + r * cols, cols, a->threshold, ties,
                                              mask + r * bytes);
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

/* An element is kept if it beats at least m - n others of its group; of two equals the later one
 * wins. Groups are ranked in batches of a multiple of 8, so that their bits are whole bytes. */

#define FOURS 256

/* Four columns to four bits. */
static void rank_fours(const uint32_t *restrict x, int64_t groups, int n, uint8_t *restrict nibble)
{
    const int32_t least = 4 - n;
    for (int64_t g = 0; g < groups; g++) {
        int32_t a = (int32_t)(x[4 * g] & CPU_KEY_MASK), b = (int32_t)(x[4 * g + 1] & CPU_KEY_MASK);
        int32_t c = (int32_t)(x[4 * g + 2] & CPU_KEY_MASK);
        int32_t d = (int32_t)(x[4 * g + 3] & CPU_KEY_MASK);
        int32_t ab = a > b, ac = a > c, ad = a > d, bc = b > c, bd = b > d, cd = c > d;
        int32_t keep_a = ab + ac + ad >= least, keep_b = 1 - ab + bc + bd >= least;
        int32_t keep_c = 2 - ac - bc + cd >= least, keep_d = 3 - ad - bd - cd >= least;
        nibble[g] = (uint8_t)(keep_a | keep_b << 1 | keep_c << 2 | keep_d << 3);
    }
}

static void nm_row_of_4(const uint32_t *x, int64_t cols, int n, uint8_t *mask)
{
    uint8_t nibble[FOURS + 1];
    for (int64_t at = 0; at < cols; at += FOURS * 4) {
        int64_t groups = cpu_min(FOURS, (cols - at) / 4);
        rank_fours(x + at, groups, n, nibble);
        nibble[groups] = 0;
        for (int64_t j = 0; j < cpu_ceil_div(groups, 2); j++)
            mask[at / 8 + j] = (uint8_t)(nibble[2 * j] | nibble[2 * j + 1] << 4);
    }
}

#define MAX_M 256
#define RINGS 32

/* Groups of m columns to as many flags. Each key is compared with the m - 1 behind it in a ring:
 * the second time round every key is one less, so that it loses to an equal one that comes later.
 * All rings are laid out before the first is read: a vector that was just stored in parts loads
 * slowly. Vectors may reach behind a group; what they find there comes to nothing, and what they
 * write there is overwritten. */
CPU_INLINE void rank_rings(const uint32_t *restrict x, size_t groups, int n, int m,
                           uint8_t *restrict flag)
{
    const size_t M = (size_t)m;
    int32_t rings[RINGS * 2 * MAX_M + CPU_I32_STEP];
    for (size_t g = 0; g < groups; g++)
        for (size_t i = 0; i < M; i++) {
            int32_t key = (int32_t)(x[g * M + i] & CPU_KEY_MASK);
            rings[2 * g * M + i] = key;
            rings[2 * g * M + M + i] = key - 1;
        }
    memset(rings + 2 * groups * M, 0, CPU_I32_STEP * sizeof *rings);
    for (size_t g = 0; g < groups; g++)
        for (size_t i = 0; i < M; i += CPU_I32_STEP) {
            const int32_t *ring = rings + 2 * g * M + i;
            cpu_i32s key, other, wins = (cpu_i32s){0} + (n - m);
            memcpy(&key, ring, sizeof key);
            for (size_t r = 1; r < M; r++) {
                memcpy(&other, ring + r, sizeof other);
                wins -= key > other;
            }
            cpu_i8s kept = __builtin_convertvector(wins >= 0, cpu_i8s) & 1;
            memcpy(flag + g * M + i, &kept, sizeof kept);
        }
}

static void nm_row(const uint32_t *x, int64_t cols, int n, int m, uint8_t *mask)
{
    uint8_t flag[RINGS * MAX_M + CPU_VECTOR];
    for (int64_t at = 0; at < cols; at += RINGS * m) {
        size_t groups = (size_t)cpu_min(RINGS, (cols - at) / m), columns = groups * (size_t)m;
        if (m == 8) /* the usual widths as constants */
            rank_rings(x + at, groups, n, 8, flag);
        else if (m == 16)
            rank_rings(x + at, groups, n, 16, flag);
        else
            rank_rings(x + at, groups, n, m, flag);
        memset(flag + columns, 0, 8);
        cpu_bits_from_flags(flag, mask + at / 8, cpu_ceil_div((int64_t)columns, 8));
    }
}

static void nm_part(const void *user, int64_t first, int64_t last)
{
    const pare_mask_nm_args *a = user;
    int64_t cols = a->x.shape[1], bytes = a->mask.shape[1];
    for (int64_t r = first; r < last; r++) {
        const uint32_t *x = (const uint32_t *)a->x.data + r * cols;
        uint8_t *mask = (uint8_t *)a->mask.data + r * bytes;
        if (a->m == 4)
            nm_row_of_4(x, cols, a->n, mask);
        else
            nm_row(x, cols, a->n, a->m, mask);
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
