/* schedule_set.c - sparse throughout; small weights go, and others come at random.
 *
 * As schedule_rigl.c, but for the places that come: the seed draws them.
 * Source: Mocanu, Mocanu, Stone, Nguyen, Gibescu, Liotta, "Scalable training of artificial neural
 * networks with adaptive sparse connectivity inspired by network science", 2018.
 * Differs from the paper: the share follows the same cosine (there it is constant), magnitudes of
 * both signs are compared together, a layer's density may be any.
 */
#include "masks_impl.h"

static pare_status change(pare_masks *masks, const pare_train_moment *at, int64_t done)
{
    double share = pare__mask_exchange_share(masks, at->steps, done);
    return pare__mask_exchange(masks, share, true, done);
}

const pare__mask_schedule pare__masks_set = {
    .name = "set",
    .summary = "sparse throughout: small weights go, places drawn by the seed come (Mocanu 2018)",
    .sparse = true,
    .due = pare__mask_exchanges_due,
    .sparsity = pare__mask_final_sparsity,
    .change = change,
};
