/* masks_tests.c - masks that change while a model trains: how many go and which, in every step,
 * beside formulas and brute force. */
#include "masks_fixture.h"

#include <math.h>

enum { STEPS = 40 };

static pare_backend *(*make_backend)(void);

static masks_run *begin(const char *arch, const pare_mask_options *options,
                        void (*prepare)(masks_run *run))
{
    return masks_begin(make_backend(), arch, options, STEPS, prepare);
}

/* The part that holds whatever a schedule does: a weight that is gone is exactly +0, as is its
 * momentum once the optimiser has moved again; masks are 0 and 1. */
static void expect_exact(const masks_run *run)
{
    static const float zero = 0;
    for (int64_t p = 0; p < run->params; p++)
        for (int64_t i = 0; masks_param(run, p)->mask && i < run->count[p]; i++) {
            assert_true(run->mask[p][i] <= 1);
            if (!run->mask[p][i])
                assert_memory_equal(&run->value[p][i], &zero, sizeof zero);
            if (!run->mask_before[p][i])
                assert_memory_equal(&run->moment[p][i], &zero, sizeof zero);
        }
}

static void expect_nested(const masks_run *run)
{
    for (int64_t p = 0; p < run->params; p++)
        for (int64_t i = 0; masks_param(run, p)->mask && i < run->count[p]; i++)
            assert_true(run->mask[p][i] <= run->mask_before[p][i]);
}

static bool changed(const masks_run *run, int64_t p)
{
    return memcmp(run->mask[p], run->mask_before[p], (size_t)run->count[p]) != 0;
}

/* Scores of a layer before the change: |w|, below all where it was gone. */
static double *scores(const masks_run *run, int64_t p)
{
    double *score = masks_room(run->count[p], sizeof *score);
    for (int64_t i = 0; i < run->count[p]; i++)
        score[i] = run->mask_before[p][i] ? fabs((double)run->before[p][i]) : -1;
    return score;
}

static void expect_mask(const masks_run *run, int64_t p, const double *score, int64_t goes)
{
    uint8_t *want = masks_room(run->count[p], 1);
    masks_lowest(score, run->count[p], goes, want);
    assert_memory_equal(run->mask[p], want, (size_t)run->count[p]);
    free(want);
}

/* ---- gradual --------------------------------------------------------------------------------- */

/* Zhu & Gupta's formula from step 4 to 28, every 5 steps and at the end. */
static double cubic(int64_t step)
{
    if (step < 4)
        return 0;
    double at = step >= 28 ? 24 : (double)((step - 4) / 5 * 5);
    return 0.8 + (0.1 - 0.8) * pow(1 - at / 24, 3);
}

static const pare_mask_options gradual = {.schedule = PARE_MASKS_GRADUAL,
                                          .initial = 0.1,
                                          .final = 0.8,
                                          .begin = 0.1,
                                          .end = 0.7,
                                          .each = 5};

static void gradual_takes_the_smallest_weights_of_each_layer(void **state)
{
    (void)state;
    masks_run *run = begin(NULL, &gradual, NULL);
    while (run->step < STEPS) {
        double s = cubic(run->step);
        assert_true(fabs(pare_masks_sparsity(&gradual, run->step, STEPS) - s) < 1e-12);
        assert_ok(masks_step(run));
        expect_exact(run);
        expect_nested(run);
        for (int64_t p = 0; p < run->params; p++) {
            if (!masks_has(run, p))
                continue;
            int64_t goes = (int64_t)rint(s * (double)run->count[p]);
            assert_int_equal(masks_zeros(run, p), goes);
            double *score = scores(run, p);
            expect_mask(run, p, score, goes);
            free(score);
        }
    }
    masks_end(run);
}

static void one_threshold_cuts_all_layers(void **state)
{
    (void)state;
    pare_mask_options o = gradual;
    o.global = true;
    masks_run *run = begin(NULL, &o, NULL);
    while (run->step < STEPS) {
        double s = cubic(run->step), most = -1, least = INFINITY;
        int64_t zeros = 0, all = 0;
        bool alike = true;
        assert_ok(masks_step(run));
        expect_exact(run);
        expect_nested(run);
        for (int64_t p = 0; p < run->params; p++) {
            if (!masks_has(run, p))
                continue;
            zeros += masks_zeros(run, p);
            all += run->count[p];
            for (int64_t i = 0; i < run->count[p]; i++) {
                double w = fabs((double)run->before[p][i]);
                alike = alike && !changed(run, p);
                most = !run->mask[p][i] && w > most ? w : most;
                least = run->mask[p][i] && w < least ? w : least;
            }
        }
        assert_int_equal(zeros, (int64_t)rint(s * (double)all));
        assert_true(alike || most <= least);
    }
    masks_end(run);
}

static void what_went_comes_back_as_it_was(void **state)
{
    (void)state;
    pare_mask_options o = gradual;
    o.revive = true;
    o.method = pare_masks_method("taylor"); /* gradients differ in every step */
    masks_run *run = begin(NULL, &o, NULL);
    float *dense[MASKS_PARAMS] = {NULL};
    int64_t back = 0;
    for (int64_t p = 0; p < run->params; p++)
        dense[p] = masks_room(run->count[p], sizeof(float));
    while (run->step < STEPS) {
        double s = cubic(run->step);
        bool change =
            run->step >= 4 && run->step <= 28 && ((run->step - 4) % 5 == 0 || run->step == 28);
        assert_ok(masks_step(run));
        expect_exact(run);
        for (int64_t p = 0; p < run->params; p++) {
            if (!masks_has(run, p))
                continue;
            int64_t n = run->count[p], goes = (int64_t)rint(s * (double)n);
            double *score = masks_room(n, sizeof *score);
            for (int64_t i = 0; i < n; i++) {
                float w = run->mask_before[p][i] ? run->before[p][i] : dense[p][i];
                score[i] = fabs((double)(w * run->grad[p][i]));
                back += run->mask[p][i] > run->mask_before[p][i];
                if (run->mask[p][i])
                    assert_true(run->value[p][i] == w);
                dense[p][i] = w;
            }
            if (change)
                expect_mask(run, p, score, goes);
            assert_int_equal(masks_zeros(run, p), goes);
            free(score);
        }
    }
    assert_true(back > 0);
    for (int64_t p = 0; p < run->params; p++)
        free(dense[p]);
    masks_end(run);
}

/* Zeros that stay are above what went, though both are 0. */
static void zero_some(masks_run *run)
{
    for (int64_t p = 0; p < run->params; p++) {
        for (int64_t i = 0; i < run->count[p]; i++)
            run->value[p][i] = i % 3 == 0 ? 0 : run->value[p][i];
        masks_write(run, p, run->value[p]);
    }
}

static void zeros_that_stay_are_no_masked_weights(void **state)
{
    (void)state;
    pare_mask_options o = gradual;
    o.begin = 0;
    o.each = 1;
    masks_run *run = begin(NULL, &o, zero_some);
    while (run->step < 10) {
        double s = pare_masks_sparsity(&o, run->step, STEPS);
        assert_ok(masks_step(run));
        expect_nested(run);
        for (int64_t p = 0; p < run->params; p++)
            if (masks_has(run, p))
                assert_int_equal(masks_zeros(run, p), (int64_t)rint(s * (double)run->count[p]));
        if (run->step == 4) /* and once more among trained ones */
            zero_some(run);
    }
    masks_end(run);
}

/* ---- patterns -------------------------------------------------------------------------------- */

static void every_group_keeps_as_many_as_the_others(void **state)
{
    (void)state;
    static const char *const archs[] = {"mlp:24-16-12-8", "resnet8-tiny"};
    for (int a = 0; a < 2; a++) {
        pare_mask_options o = {.schedule = PARE_MASKS_GRADUAL,
                               .pattern = {.kind = PARE_PATTERN_NM, .n = 2, .m = 4},
                               .each = 2};
        uint8_t chosen[64] = {0};
        pare_model *model;
        assert_ok(pare_model_create(&(pare_model_options){.arch = archs[a]}, &model));
        for (int64_t p = 0; p < pare_model_param_count(model); p++) {
            const pare_param *param = pare_model_param(model, p);
            chosen[p] = param->value.rank > 1 && param->value.shape[1] % 4 == 0 &&
                        (param->role == PARE_ROLE_LINEAR || param->role == PARE_ROLE_CONV);
        }
        pare_model_free(&model);
        o.chosen = chosen;
        masks_run *run = begin(archs[a], &o, NULL);
        while (run->step < STEPS) {
            double s = pare_masks_sparsity(&o, run->step, STEPS);
            int stays = (int)rint(4 * (1 - s));
            assert_ok(masks_step(run));
            expect_exact(run);
            expect_nested(run);
            for (int64_t p = 0; p < run->params; p++) {
                const pare_tensor *t = &masks_param(run, p)->value;
                int64_t inner = 1;
                for (int d = 2; chosen[p] && d < t->rank; d++)
                    inner *= t->shape[d];
                for (int64_t i = 0; chosen[p] && i < run->count[p]; i++) {
                    int64_t c = i / inner % t->shape[1], kept = 0;
                    if (c % 4 != 0)
                        continue;
                    for (int64_t k = 0; k < 4; k++)
                        kept += run->mask[p][i + k * inner];
                    assert_int_equal(kept, stays);
                }
            }
        }
        assert_true(fabs(pare_masks_sparsity(&o, STEPS - 1, STEPS) - 0.5) < 1e-12);
        masks_end(run);
    }
}

static void blocks_go_whole(void **state)
{
    (void)state;
    pare_mask_options o = gradual;
    o.pattern = (pare_pattern){.kind = PARE_PATTERN_BLOCK, .block_rows = 3, .block_cols = 5};
    masks_run *run = begin(NULL, &o, NULL);
    while (run->step < STEPS) {
        double s = cubic(run->step);
        assert_ok(masks_step(run));
        expect_exact(run);
        expect_nested(run);
        for (int64_t p = 0; p < run->params; p++) {
            if (!masks_has(run, p))
                continue;
            const pare_tensor *t = &masks_param(run, p)->value;
            int64_t R = t->shape[0], C = t->shape[1], rows = (R + 2) / 3, cols = (C + 4) / 5;
            double *score = masks_room(rows * cols, sizeof *score);
            uint8_t *want = masks_room(rows * cols, 1);
            for (int64_t i = 0; i < R * C; i++)
                score[i / C / 3 * cols + i % C / 5] +=
                    run->mask_before[p][i] ? fabs((double)run->before[p][i]) : 0;
            masks_lowest(score, rows * cols, (int64_t)rint(s * (double)(rows * cols)), want);
            for (int64_t i = 0; i < R * C; i++)
                assert_int_equal(run->mask[p][i], want[i / C / 3 * cols + i % C / 5]);
            free(score);
            free(want);
        }
    }
    masks_end(run);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static void rounds_take_equal_shares_of_what_is_left(void **state)
{
    (void)state;
    /* rounds at steps 4, 12, 20, 28: 0.2 left of all, 0.2^(1/4) of what is left a round */
    pare_mask_options o = {
        .schedule = PARE_MASKS_ITERATIVE, .final = 0.8, .begin = 0.1, .end = 0.7, .rounds = 4};
    masks_run *run = begin(NULL, &o, NULL);
    while (run->step < STEPS) {
        int64_t round = run->step < 4 ? 0 : run->step >= 28 ? 4 : (run->step - 4) / 8 + 1;
        double s = 1 - pow(0.2, (double)round / 4);
        assert_true(fabs(pare_masks_sparsity(&o, run->step, STEPS) - s) < 1e-12);
        assert_ok(masks_step(run));
        expect_exact(run);
        expect_nested(run);
        for (int64_t p = 0; p < run->params; p++)
            if (masks_has(run, p))
                assert_int_equal(masks_zeros(run, p), (int64_t)rint(s * (double)run->count[p]));
    }
    masks_end(run);
}

static void tickets_go_back_to_the_values_of_a_step(void **state)
{
    (void)state;
    /* three rounds and the last training of 10 steps each; back to what step 2 began with */
    pare_mask_options o = {.schedule = PARE_MASKS_REWIND, .final = 0.7, .rounds = 3, .rewind = 2};
    masks_run *run = begin(NULL, &o, NULL);
    float *early[MASKS_PARAMS] = {NULL};
    pare_curve curve = {.steps = STEPS};
    assert_ok(pare_masks_restart(run->masks, &curve));
    curve.warmup = 11;
    assert_int_equal(pare_masks_restart(run->masks, &curve), PARE_ERR_ARGUMENT);
    curve.warmup = 0;
    assert_ok(pare_masks_restart(run->masks, &curve));
    assert_int_equal(curve.period, 10);
    assert_int_equal(curve.restarts, 3);
    while (run->step < STEPS) {
        for (int64_t p = 0; run->step == 2 && p < run->params; p++) {
            early[p] = masks_room(run->count[p], 4);
            memcpy(early[p], run->value[p], (size_t)run->count[p] * 4);
        }
        assert_ok(masks_step(run));
        expect_exact(run);
        expect_nested(run);
        bool back = run->step % 10 == 0 && run->step < STEPS;
        for (int64_t p = 0; back && p < run->params; p++)
            for (int64_t i = 0; i < run->count[p]; i++) {
                bool gone = masks_param(run, p)->mask && !run->mask[p][i];
                assert_true(run->value[p][i] == (gone ? 0 : early[p][i]));
            }
        double s = 1 - pow(0.3, (double)(run->step / 10 < 3 ? run->step / 10 : 3) / 3);
        for (int64_t p = 0; p < run->params; p++)
            if (masks_has(run, p))
                assert_int_equal(masks_zeros(run, p), (int64_t)rint(s * (double)run->count[p]));
    }
    for (int64_t p = 0; p < run->params; p++)
        free(early[p]);
    masks_end(run);
}

/* ---- exchanges ------------------------------------------------------------------------------- */

static const pare_mask_options exchanging = {
    .schedule = PARE_MASKS_RIGL, .final = 0.75, .end = 0.8, .each = 4, .fraction = 0.4};

/* RigL in three lines: those of least magnitude go; the places with the largest gradients of all
 * that are then free come. */
static void expect_exchange(const masks_run *run, int64_t p, double share)
{
    int64_t n = run->count[p], stay = 0, came = 0;
    for (int64_t i = 0; i < n; i++)
        stay += run->mask_before[p][i];
    int64_t goes = (int64_t)rint(share * (double)stay);
    double *score = scores(run, p);
    uint8_t *left = masks_room(n, 1);
    masks_lowest(score, n, n - stay + goes, left);
    for (int64_t i = 0; i < n; i++)
        score[i] = left[i] ? INFINITY : fabs((double)run->grad[p][i]);
    expect_mask(run, p, score, n - stay);
    for (int64_t i = 0; i < n; i++) {
        came += run->mask[p][i] && !run->mask_before[p][i];
        if (run->mask[p][i] && !run->mask_before[p][i])
            assert_true(run->value[p][i] == 0 && run->moment[p][i] == 0);
        else if (run->mask[p][i])
            assert_true(run->value[p][i] == run->before[p][i]);
    }
    assert_true(came > 0 || goes == 0);
    free(left);
    free(score);
}

static void rigl_grows_where_gradients_are_largest(void **state)
{
    (void)state;
    masks_run *run = begin(NULL, &exchanging, NULL);
    int64_t changes = 0;
    expect_exact(run); /* sparse from the start */
    while (run->step < STEPS) {
        int64_t step = run->step;
        bool change = step > 0 && step < 32 && step % 4 == 0;
        assert_ok(masks_step(run));
        expect_exact(run);
        changes += change;
        for (int64_t p = 0; p < run->params; p++) {
            if (!masks_has(run, p))
                continue;
            assert_int_equal(masks_zeros(run, p), (int64_t)rint(0.75 * (double)run->count[p]));
            if (change)
                expect_exchange(run, p, 0.4 / 2 * (1 + cos(acos(-1) * (double)step / 32)));
            else
                assert_false(changed(run, p));
        }
    }
    assert_int_equal(changes, 7);
    masks_end(run);
}

static void set_draws_places_by_the_seed(void **state)
{
    (void)state;
    pare_mask_options o = exchanging;
    o.schedule = PARE_MASKS_SET;
    o.method = pare_masks_method("random");
    masks_run *runs[3];
    for (int k = 0; k < 3; k++) {
        o.seed = k == 2 ? 8 : 7;
        runs[k] = begin(NULL, &o, NULL);
        while (runs[k]->step < STEPS) {
            assert_ok(masks_step(runs[k]));
            expect_exact(runs[k]);
            for (int64_t p = 0; p < runs[k]->params; p++)
                if (masks_has(runs[k], p))
                    assert_int_equal(masks_zeros(runs[k], p),
                                     (int64_t)rint(0.75 * (double)runs[k]->count[p]));
            if (runs[k]->step == 5) { /* a change: half of what came has a small gradient */
                int64_t came = 0, large = 0;
                for (int64_t i = 0; i < runs[k]->count[0]; i++)
                    if (runs[k]->mask[0][i] > runs[k]->mask_before[0][i]) {
                        came++;
                        large += fabsf(runs[k]->grad[0][i]) > 0.67f;
                    }
                assert_true(came > 20 && large > came / 5 && large < came * 4 / 5);
            }
        }
    }
    size_t bytes = (size_t)runs[0]->count[0];
    assert_memory_equal(runs[0]->mask[0], runs[1]->mask[0], bytes);
    assert_memory_equal(runs[0]->value[0], runs[1]->value[0], bytes * 4);
    assert_true(memcmp(runs[0]->mask[0], runs[2]->mask[0], bytes) != 0);
    for (int k = 0; k < 3; k++)
        masks_end(runs[k]);
}

static void masks_fall_at_the_end(void **state)
{
    (void)state;
    pare_mask_options o = {.schedule = PARE_MASKS_DENSE, .final = 0.75, .end = 0.5};
    masks_run *run = begin(NULL, &o, NULL);
    while (run->step < STEPS) {
        bool sparse = run->step < STEPS / 2;
        assert_true(fabs(pare_masks_sparsity(&o, run->step, STEPS) - (sparse ? 0.75 : 0)) < 1e-12);
        assert_ok(masks_step(run));
        expect_exact(run);
        for (int64_t p = 0; p < run->params; p++)
            if (masks_has(run, p))
                assert_int_equal(masks_zeros(run, p),
                                 sparse ? (int64_t)rint(0.75 * (double)run->count[p]) : 0);
    }
    int64_t zeros = 0;
    for (int64_t i = 0; i < run->count[0]; i++)
        zeros += run->value[0][i] == 0;
    assert_true(zeros < run->count[0] / 10); /* all weights have learned */
    masks_end(run);
}

/* ---- movement -------------------------------------------------------------------------------- */

static void expect_movement(const pare_mask_options *options, int64_t rows, int64_t cols)
{
    masks_run *run = begin(NULL, options, NULL);
    double *sum[MASKS_PARAMS] = {NULL};
    for (int64_t p = 0; p < run->params; p++)
        sum[p] = masks_room(run->count[p], sizeof(double));
    while (run->step < STEPS) {
        float *w[MASKS_PARAMS];
        for (int64_t p = 0; p < run->params; p++) {
            w[p] = masks_room(run->count[p], 4);
            memcpy(w[p], run->value[p], (size_t)run->count[p] * 4);
        }
        double s = cubic(run->step);
        assert_ok(masks_step(run));
        expect_nested(run);
        for (int64_t p = 0; p < run->params; p++) {
            for (int64_t i = 0; i < run->count[p]; i++)
                sum[p][i] -= (double)w[p][i] * (double)run->grad[p][i];
            free(w[p]);
            if (!masks_has(run, p))
                continue;
            int64_t C = masks_param(run, p)->value.shape[1], across = (C + cols - 1) / cols;
            int64_t units = (run->count[p] / C + rows - 1) / rows * across;
            double *score = masks_room(units, sizeof *score), least = INFINITY, most = -1e9;
            bool *gone = masks_room(units, sizeof *gone), *was = masks_room(units, 1);
            int64_t count = 0;
            for (int64_t i = 0; i < run->count[p]; i++) {
                int64_t u = i / C / rows * across + i % C / cols;
                score[u] += sum[p][i];
                gone[u] = !run->mask[p][i];
                was[u] = !run->mask_before[p][i];
            }
            for (int64_t u = 0; u < units; u++) {
                count += gone[u];
                least = !gone[u] && score[u] < least ? score[u] : least;
                most = gone[u] && !was[u] && score[u] > most ? score[u] : most;
            }
            assert_int_equal(count, (int64_t)rint(s * (double)units));
            assert_true(most <= least + 1e-5); /* those that just went are the lowest */
            free(score), free(gone), free(was);
        }
    }
    for (int64_t p = 0; p < run->params; p++)
        free(sum[p]);
    masks_end(run);
}

static void movement_takes_what_training_moves_towards_zero(void **state)
{
    (void)state;
    pare_mask_options o = gradual;
    o.method = pare_masks_method("movement");
    expect_movement(&o, 1, 1);
    o.pattern = (pare_pattern){.kind = PARE_PATTERN_BLOCK, .block_rows = 3, .block_cols = 5};
    expect_movement(&o, 3, 5);
}

/* ---- the end --------------------------------------------------------------------------------- */

/* A change that is due behind the last step is made: what is written is as sparse as asked. */
static void the_last_step_changes_masks_too(void **state)
{
    (void)state;
    static const pare_mask_options last[] = {
        {.schedule = PARE_MASKS_GRADUAL, .final = 0.8, .end = 1, .each = 20},
        {.schedule = PARE_MASKS_ITERATIVE, .final = 0.8, .end = 1, .rounds = 3},
    };
    for (size_t i = 0; i < sizeof last / sizeof *last; i++) {
        masks_run *run = begin(NULL, &last[i], NULL);
        while (run->step < STEPS)
            assert_ok(masks_step(run));
        expect_exact(run);
        for (int64_t p = 0; p < run->params; p++)
            if (masks_has(run, p)) {
                assert_true(changed(run, p));
                assert_int_equal(masks_zeros(run, p), (int64_t)rint(0.8 * (double)run->count[p]));
            }
        masks_end(run);
    }
}

int masks_tests(pare_backend *(*make)(void))
{
    make_backend = make;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradual_takes_the_smallest_weights_of_each_layer),
        cmocka_unit_test(one_threshold_cuts_all_layers),
        cmocka_unit_test(what_went_comes_back_as_it_was),
        cmocka_unit_test(zeros_that_stay_are_no_masked_weights),
        cmocka_unit_test(every_group_keeps_as_many_as_the_others),
        cmocka_unit_test(blocks_go_whole),
        cmocka_unit_test(rounds_take_equal_shares_of_what_is_left),
        cmocka_unit_test(tickets_go_back_to_the_values_of_a_step),
        cmocka_unit_test(rigl_grows_where_gradients_are_largest),
        cmocka_unit_test(set_draws_places_by_the_seed),
        cmocka_unit_test(masks_fall_at_the_end),
        cmocka_unit_test(movement_takes_what_training_moves_towards_zero),
        cmocka_unit_test(the_last_step_changes_masks_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
