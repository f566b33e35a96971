/* order.c - which item a sample is, and what chance does to it: arithmetic on (seed, epoch,
 * sample), so that any batch can be made at any time by any thread.
 *
 *   pool    the items behind `skip`
 *   taken   `samples` of them: the first ones, or (draw) those that a permutation of the pool
 *           brings to the front
 *   order   (shuffle) a permutation of the taken ones for every epoch
 */
#include "data_impl.h"

#include "base/rng.h"

static uint64_t key_of(const pare_dataset *d, uint64_t stream, int64_t index)
{
    pare__rng rng = pare__rng_make(d->o.seed, stream, (uint64_t)index);
    return pare__rng_bits(&rng);
}

static int64_t permuted(uint64_t key, int64_t n, int64_t i)
{
    return (int64_t)pare__permute(key, (uint64_t)n, (uint64_t)i);
}

int64_t pare_dataset_item(const pare_dataset *d, int64_t g)
{
    int64_t epoch = g / d->count, place = g % d->count, pool = d->total - d->o.skip;
    if (d->o.shuffle)
        place = permuted(key_of(d, PARE__STREAM_ORDER, epoch), d->count, place);
    if (d->o.draw && d->count < pool)
        place = permuted(key_of(d, PARE__STREAM_PICK, 0), pool, place);
    return d->o.skip + place;
}

pare__view pare__view_of(const pare_dataset *d, int64_t g)
{
    pare__view view = {0};
    pare__rng rng = pare__rng_make(d->o.seed, PARE__STREAM_VIEW, (uint64_t)g);
    int64_t crop = d->o.crop;
    if (crop > 0) {
        view.down = (int64_t)pare__rng_below(&rng, (uint64_t)(2 * crop + 1)) - crop;
        view.right = (int64_t)pare__rng_below(&rng, (uint64_t)(2 * crop + 1)) - crop;
    }
    view.flip = d->o.flip && pare__rng_bits(&rng) >> 63;
    return view;
}

float pare__mix_of(const pare_dataset *d, int64_t g, int64_t *partner)
{
    pare__rng rng = pare__rng_make(d->o.seed, PARE__STREAM_MIX, (uint64_t)g);
    int64_t epoch = g / d->count, place = g % d->count;
    if (d->count > 1) /* any but itself */
        place = (place + 1 + (int64_t)pare__rng_below(&rng, (uint64_t)d->count - 1)) % d->count;
    *partner = epoch * d->count + place;
    return (float)pare__rng_beta(&rng, (double)d->o.mixup, (double)d->o.mixup);
}
