/* score_movement.c - the weights that training moves towards zero go.
 *
 * Score of a weight Σ −w·∂L/∂w over the steps so far, of a block the sum over it: positive where it
 * moves away from 0. The lowest go, large weights too.
 * Source: Sanh, Wolf, Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", 2020, eq. 4 and
 * section 4; blocks: Lagunas, Charlaix, Sanh, Rush, "Block Pruning for Faster Transformers", 2021.
 * Differs from the paper: scores are sums, not learned by an optimiser with a rate of its own; what
 * went has no weight, so its score stays unless `revive` keeps the dense weights.
 * Keys are unsigned: they are those of σ(score/r), r the root mean square of the scores that are
 * compared, whose order is the scores' own but for the last bits of a float.
 * Cost: memory for a score a weight; reading weights and gradients once more in every step.
 */
#include "masks_impl.h"

#include "pare/ops.h"

#include <math.h>

const pare_prune_method pare__prune_movement = {
    .name = "movement",
    .summary = "what training moves towards 0 first, Σ −w·g (Sanh 2020); while a model trains",
};

pare_status pare__movement_add(pare_masks *masks)
{
    for (int64_t i = 0; i < masks->count; i++) {
        const pare__mask_layer *l = &masks->layers[i];
        const int64_t n = l->rows * l->cols;
        pare_tensor w = pare__mask_value(masks, l), c = pare__mask_matrix(l, masks->room.c);
        if (l->dense) {
            PARE_TRY(pare_add(
                masks->be, &(pare_add_args){.a = w, .b = pare__mask_matrix(l, l->dense), .y = c}));
            w = c;
        }
        PARE_TRY(pare_glu(masks->be, &(pare_glu_args){.a = w,
                                                      .b = pare__mask_grad(masks, l),
                                                      .y = c,
                                                      .fn = PARE_FN_IDENTITY}));
        PARE_TRY(pare_sgd(masks->be, &(pare_sgd_args){.w = pare_vector(l->score, PARE_F32, n),
                                                      .g = pare_vector(c.data, PARE_F32, n),
                                                      .rate = 1,
                                                      .grad_scale = 1}));
    }
    return PARE_OK;
}

pare_status pare__movement_spread(pare_masks *masks, const pare__mask_layer *l, float *spread)
{
    double sum = 0, count = 0;
    for (int64_t i = 0; i < masks->count; i++) {
        const pare__mask_layer *one = &masks->layers[i];
        const int64_t n = one->rows * one->cols;
        if (l && one != l)
            continue;
        PARE_TRY(pare_sum_squares(
            masks->be, &(pare_sum_squares_args){.x = pare_vector(one->score, PARE_F32, n),
                                                .sum = pare_vector(masks->room.sum, PARE_F64, 1),
                                                .accumulate = count > 0}));
        count += (double)n;
    }
    PARE_TRY(pare_backend_download(masks->be, &sum, masks->room.sum, sizeof sum));
    PARE_REQUIRE(isfinite(sum), PARE_ERR_NUMERIC,
                 "the scores of movement hold NaN or Inf: a gradient did");
    *spread = (float)sqrt(sum / (count > 0 ? count : 1));
    return PARE_OK;
}

/* Means of blocks, those at the edges too over a whole one's places. */
static pare_status block_means(pare_masks *masks, const pare__mask_layer *l, pare_tensor y)
{
    const pare_pattern *p = &masks->options.pattern;
    const int down = (int)p->block_rows, across = (int)p->block_cols;
    pare_pool_avg_args args = {
        .x = {l->score, PARE_F32, 4, {1, l->rows, l->cols, 1}},
        .y = {y.data, PARE_F32, 4, {1, l->unit_rows, l->unit_cols, 1}},
        .window = {.kernel = {down, across}, .stride = {down, across}, .dilation = {1, 1}},
        .count_pad = true};
    args.window.pad_bottom = (int)(l->unit_rows * down - l->rows);
    args.window.pad_right = (int)(l->unit_cols * across - l->cols);
    return pare_pool_avg(masks->be, &args);
}

pare_status pare__movement_keys(pare_masks *masks, const pare__mask_layer *l, float spread)
{
    pare_tensor a = pare__mask_units(l, masks->room.a);
    if (masks->options.pattern.kind == PARE_PATTERN_BLOCK)
        PARE_TRY(block_means(masks, l, a));
    else
        PARE_TRY(pare_backend_copy(masks->be, a.data, l->score, l->units * 4));
    PARE_TRY(pare__mask_times_units(masks, l, a.data, spread > 1e-30f ? 1 / spread : 1));
    return pare_act(masks->be, &(pare_act_args){.x = a, .y = a, .fn = PARE_FN_SIGMOID});
}
