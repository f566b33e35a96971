/* masks_select.c - which weights a schedule takes, and which it gives back.
 *
 * With one threshold over all layers keys are counted twice, by their upper and by their lower half
 * (the radix selection of ops_compress.h), and made a third time to be cut: they are never in
 * memory together. Ties go by the order of layers, then of places.
 */
#include "masks_impl.h"

#include "pare/ops.h"

#include "base/alloc.h"
#include "base/rng.h"

#include <float.h>
#include <math.h>

typedef struct choice {
    pare_masks *masks;
    bool fresh;    /* layers that had a mask of their own are left alone */
    float spread;  /* of all layers */
    int64_t *goes; /* [layers] if each has its own threshold */
} choice;

static bool takes(const choice *x, const pare__mask_layer *l)
{
    return !x->fresh || !l->given;
}

/* Keys of a layer into room.a; how many of its units have gone already. */
static pare_status make_keys(const choice *x, const pare__mask_layer *l, int64_t *gone)
{
    pare_masks *masks = x->masks;
    float spread = x->spread;
    int64_t stay;
    if (masks->options.method == &pare__prune_movement && !masks->options.global)
        PARE_TRY(pare__movement_spread(masks, l, &spread));
    PARE_TRY(pare__mask_keys(masks, l, spread));
    *gone = 0;
    if (masks->options.revive)
        return PARE_OK;
    PARE_TRY(pare__mask_read(masks, l, masks->room.b, &stay));
    *gone = l->units - stay;
    return pare__mask_above(masks, l, masks->room.b);
}

/* ---- a threshold for all layers -------------------------------------------------------------- */

/* Adds the keys of all layers to bins on the host. */
static pare_status count(const choice *x, int32_t prefix, const int64_t **bins, int64_t *gone)
{
    pare_masks *masks = x->masks;
    int64_t n = prefix < 0 ? PARE_SELECT_HIGH_BINS : PARE_SELECT_LOW_BINS;
    *gone = 0;
    PARE_TRY(pare_backend_clear(masks->be, masks->room.bins, n * 8));
    for (int64_t i = 0; i < masks->count; i++) {
        const pare__mask_layer *l = &masks->layers[i];
        int64_t own;
        if (!takes(x, l))
            continue;
        PARE_TRY(make_keys(x, l, &own));
        *gone += own;
        PARE_TRY(pare_select_hist(
            masks->be,
            &(pare_select_hist_args){.x = pare_vector(masks->room.a, PARE_U32, l->units),
                                     .prefix = prefix,
                                     .bins = pare_vector(masks->room.bins, PARE_I64, n)}));
    }
    PARE_TRY(pare_backend_download(masks->be, masks->host_bins, masks->room.bins, n * 8));
    *bins = masks->host_bins;
    return PARE_OK;
}

/* The bin of the k-th key, k ≥ 1; k becomes its rank within it. */
static int32_t find_bin(const int64_t *bins, int64_t n, int64_t *k)
{
    int32_t i = 0;
    while (i < n - 1 && *k > bins[i])
        *k -= bins[i++];
    return i;
}

/* The threshold under which `goes` units of all lie, and how many of those that equal it go too. */
static pare_status find_threshold(const choice *x, int64_t goes, uint32_t *threshold, int64_t *ties)
{
    const int64_t *bins;
    int64_t gone;
    PARE_TRY(count(x, -1, &bins, &gone));
    *threshold = 0;
    *ties = goes > gone ? goes : gone;
    if (*ties == 0)
        return PARE_OK;
    int32_t high = find_bin(bins, PARE_SELECT_HIGH_BINS, ties);
    PARE_TRY(count(x, high, &bins, &gone));
    int32_t low = find_bin(bins, PARE_SELECT_LOW_BINS, ties);
    *threshold = (uint32_t)high << 16 | (uint32_t)low;
    return PARE_OK;
}

static pare_status prune_all(const choice *x, double sparsity)
{
    pare_masks *masks = x->masks;
    uint32_t threshold;
    int64_t units = 0, ties, gone, below, equal;
    for (int64_t i = 0; i < masks->count; i++)
        units += takes(x, &masks->layers[i]) ? masks->layers[i].units : 0;
    int64_t goes = (int64_t)rint(sparsity * (double)units);
    PARE_TRY(find_threshold(x, goes, &threshold, &ties));
    for (int64_t i = 0; i < masks->count; i++) {
        const pare__mask_layer *l = &masks->layers[i];
        if (!takes(x, l))
            continue;
        PARE_TRY(make_keys(x, l, &gone));
        PARE_TRY(pare_select_count(
            masks->be,
            &(pare_select_count_args){.x = pare_vector(masks->room.a, PARE_U32, l->units),
                                      .threshold = threshold,
                                      .below = &below,
                                      .equal = &equal}));
        int64_t own = ties < equal ? ties : equal;
        ties -= own;
        PARE_TRY(pare__mask_lowest(masks, l, below + own));
        PARE_TRY(pare__mask_put(masks, l, false, !masks->options.revive));
    }
    return PARE_OK;
}

/* ---- layer by layer -------------------------------------------------------------------------- */

/* The n of every m inputs with the highest key in room.a stay, of a convolution along its channels.
 */
static pare_status prune_nm(pare_masks *masks, const pare__mask_layer *l, double sparsity)
{
    pare__mask_room *room = &masks->room;
    pare_tensor a = pare__mask_matrix(l, room->a), b = pare__mask_matrix(l, room->b);
    pare_tensor c = pare__mask_matrix(l, room->c), keys = a;
    pare_tensor bits = pare_matrix(room->bits, PARE_U8, l->rows, (l->cols + 7) / 8);
    if (l->order)
        PARE_TRY(pare_permute(
            masks->be, &(pare_permute_args){
                           .x = a, .y = c, .cols = pare_vector(l->order, PARE_I32, l->cols)}));
    keys.data = l->order ? room->c : room->a;
    keys.dtype = PARE_U32;
    PARE_TRY(pare_mask_nm(masks->be,
                          &(pare_mask_nm_args){.x = keys,
                                               .n = pare__mask_stays(&masks->options, sparsity),
                                               .m = masks->options.pattern.m,
                                               .mask = bits}));
    if (l->order) { /* the bits go back to their columns */
        PARE_TRY(pare_fill(masks->be, &(pare_fill_args){.y = b, .value = 1}));
        PARE_TRY(pare_mask_apply(masks->be, &(pare_mask_apply_args){.x = b, .mask = bits}));
        PARE_TRY(pare_permute(
            masks->be,
            &(pare_permute_args){
                .x = b, .y = c, .cols = pare_vector(l->order + l->cols, PARE_I32, l->cols)}));
        PARE_TRY(pare_mask_nonzero(masks->be, &(pare_mask_nonzero_args){.x = c, .mask = bits}));
    }
    return pare__mask_put(masks, l, true, !masks->options.revive);
}

static pare_status prune_each(const choice *x, double sparsity)
{
    pare_masks *masks = x->masks;
    for (int64_t i = 0; i < masks->count; i++) {
        const pare__mask_layer *l = &masks->layers[i];
        int64_t gone;
        if (!takes(x, l))
            continue;
        PARE_TRY(make_keys(x, l, &gone));
        if (masks->options.pattern.kind == PARE_PATTERN_NM) {
            PARE_TRY(prune_nm(masks, l, sparsity));
            continue;
        }
        PARE_TRY(pare__mask_lowest(masks, l, x->goes[i] > gone ? x->goes[i] : gone));
        PARE_TRY(pare__mask_put(masks, l, false, !masks->options.revive));
    }
    return PARE_OK;
}

/* ---- what schedules ask ---------------------------------------------------------------------- */

/* With revival weights are whole while they are compared. */
static pare_status make_whole(pare_masks *masks)
{
    for (int64_t i = 0; i < masks->count; i++)
        PARE_TRY(pare__mask_finite(masks, &masks->layers[i]));
    for (int64_t i = 0; masks->options.revive && i < masks->count; i++) {
        const pare__mask_layer *l = &masks->layers[i];
        pare_tensor value = pare__mask_value(masks, l);
        PARE_TRY(pare_add(
            masks->be,
            &(pare_add_args){.a = value, .b = pare__mask_matrix(l, l->dense), .y = value}));
    }
    return PARE_OK;
}

pare_status pare__mask_prune(pare_masks *masks, double sparsity, bool fresh)
{
    pare_status status = PARE_OK;
    choice x = {.masks = masks, .fresh = fresh, .spread = 1};
    PARE_TRY(make_whole(masks));
    if (masks->options.method == &pare__prune_movement && masks->options.global)
        PARE_TRY(pare__movement_spread(masks, NULL, &x.spread));
    if (masks->options.global)
        return prune_all(&x, sparsity);
    PARE_TRY(pare__calloc((size_t)masks->count, sizeof *x.goes, &x.goes));
    PARE_TRY_DONE(pare__mask_shares(masks, sparsity, x.goes));
    PARE_TRY_DONE(prune_each(&x, sparsity));
done:
    free(x.goes);
    return status;
}

/* Keys by which places come, into room.a. */
static pare_status growth_keys(pare_masks *masks, const pare__mask_layer *l, bool random,
                               int64_t round)
{
    if (!random)
        return pare__mask_magnitudes(masks, l, pare__mask_grad(masks, l));
    return pare_keys_random(
        masks->be,
        &(pare_keys_random_args){.seed = masks->options.seed ^ pare__mix64((uint64_t)round),
                                 .stream = l->stream,
                                 .keys = pare_vector(masks->room.a, PARE_U32, l->units)});
}

/* One layer: what goes first is out of the way of what comes, but may come again (its weight is
 * then what it was). What stays has a key above all others. */
static pare_status exchange(pare_masks *masks, const pare__mask_layer *l, double fraction,
                            bool random, int64_t round)
{
    pare_tensor a = pare__mask_units(l, masks->room.a), b = pare__mask_units(l, masks->room.b);
    pare_tensor bits =
        pare_matrix(masks->room.unit_bits, PARE_U8, l->unit_rows, (l->unit_cols + 7) / 8);
    int64_t stay, goes;
    PARE_TRY(pare__mask_finite(masks, l));
    PARE_TRY(pare__mask_read(masks, l, b.data, &stay));
    goes = (int64_t)rint(fraction * (double)stay);
    if (goes == 0 || stay == l->units)
        return PARE_OK;
    PARE_TRY(pare__mask_magnitudes(masks, l, pare__mask_value(masks, l)));
    PARE_TRY(pare__mask_above(masks, l, b.data));
    PARE_TRY(pare__mask_lowest(masks, l, l->units - stay + goes));
    PARE_TRY(pare_fill(masks->be, &(pare_fill_args){.y = b, .value = 1}));
    PARE_TRY(pare_mask_apply(masks->be, &(pare_mask_apply_args){.x = b, .mask = bits}));
    PARE_TRY(pare__mask_times_units(masks, l, b.data, FLT_MAX));
    PARE_TRY(growth_keys(masks, l, random, round));
    PARE_TRY(pare_add(masks->be, &(pare_add_args){.a = a, .b = b, .y = a}));
    PARE_TRY(pare__mask_lowest(masks, l, l->units - stay));
    return pare__mask_put(masks, l, false, false);
}

pare_status pare__mask_exchange(pare_masks *masks, double fraction, bool random, int64_t round)
{
    for (int64_t i = 0; i < masks->count; i++)
        PARE_TRY(exchange(masks, &masks->layers[i], fraction, random, round));
    return PARE_OK;
}
