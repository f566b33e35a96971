/* How a sparsity is spread over layers. */
#include "test.h"

#include "pare/prune.h"

#include "base/rng.h"

#include <math.h>

static double mean(const double *x, const int64_t *count, int64_t layers)
{
    double sum = 0, total = 0;
    for (int64_t l = 0; l < layers; l++) {
        sum += x[l] * (double)count[l];
        total += (double)count[l];
    }
    return sum / total;
}

static void budgets_have_names(void **state)
{
    (void)state;
    static const char *const words[] = {"uniform", "global", "owl", "loss"};
    for (int i = 0; i < 4; i++) {
        pare_budget budget;
        assert_ok(pare_budget_parse(words[i], &budget));
        assert_string_equal(pare_budget_name(budget), words[i]);
    }
    pare_budget budget;
    assert_status(pare_budget_parse("unifrom", &budget), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "did you mean \"uniform\"?"));
    assert_status(pare_budget_parse(NULL, &budget), PARE_ERR_ARGUMENT);
}

static void outliers_are_scores_above_a_multiple_of_the_mean(void **state)
{
    (void)state;
    pare_backend *be;
    float x[40];
    uint32_t keys[40];
    double share;
    for (int i = 0; i < 40; i++)
        x[i] = i % 10 == 0 ? 8.0f : 1.0f; /* mean 1.7 */
    memcpy(keys, x, sizeof keys);
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(pare_outlier_share(be, pare_matrix(keys, PARE_U32, 4, 10), 4, &share));
    assert_true(share == 0.1);
    assert_ok(pare_outlier_share(be, pare_matrix(keys, PARE_U32, 4, 10), 5, &share));
    assert_true(share == 0);
    assert_ok(pare_outlier_share(be, pare_matrix(keys, PARE_U32, 4, 10), 0.5, &share));
    assert_true(share == 1);
    assert_ok(pare_outlier_share(be, pare_matrix(keys, PARE_U32, 0, 10), 5, &share));
    assert_true(share == 0);
    pare_backend_free(&be);
}

static void layers_with_outliers_keep_more(void **state)
{
    (void)state;
    pare__rng rng = pare__rng_make(3, 0, 0);
    for (int turn = 0; turn < 50; turn++) {
        enum { L = 9 };
        double share[L], result[L], sparsity = 0.3 + 0.6 * pare__rng_double(&rng);
        int64_t count[L];
        for (int l = 0; l < L; l++) {
            share[l] = pare__rng_double(&rng) * (l == 0 ? 1 : 0.05);
            count[l] = 1 + (int64_t)pare__rng_below(&rng, 1000000);
        }
        assert_ok(pare_budget_owl(share, count, L, sparsity, 0.08, result));
        assert_true(fabs(mean(result, count, L) - sparsity) < 1e-12);
        for (int l = 0; l < L; l++) {
            assert_true(fabs(result[l] - sparsity) <= 0.08 + 1e-12);
            for (int k = 0; k < L; k++)
                assert_true(share[l] <= share[k] || result[l] <= result[k]);
        }
    }
}

static void without_a_difference_all_layers_get_the_same(void **state)
{
    (void)state;
    double share[] = {0.2, 0.2, 0.2}, result[3];
    int64_t count[] = {5, 50, 500};
    assert_ok(pare_budget_owl(share, count, 3, 0.6, 0.1, result));
    for (int l = 0; l < 3; l++)
        assert_true(fabs(result[l] - 0.6) < 1e-12);
    share[1] = 0.9;
    assert_ok(pare_budget_owl(share, count, 3, 0.6, 0, result));
    for (int l = 0; l < 3; l++)
        assert_true(fabs(result[l] - 0.6) < 1e-12);
    assert_ok(pare_budget_owl(share, count, 3, 1, 0.1, result)); /* no room above */
    for (int l = 0; l < 3; l++)
        assert_true(fabs(result[l] - 1) < 1e-12);
    share[0] = (double)NAN;
    assert_status(pare_budget_owl(share, count, 3, 0.6, 0.1, result), PARE_ERR_NUMERIC);
}

/* ---- by one threshold ------------------------------------------------------------------------ */

/* Scores with so many layers and of so many bins: whole numbers, a bin each. */
enum { LAYERS = 6, BINS = 3000, SCORES = 4000 };

typedef struct scores {
    int score[LAYERS][SCORES];
    int64_t count[LAYERS], below[LAYERS * BINS];
} scores;

static void draw_scores(scores *s, pare__rng *rng)
{
    memset(s, 0, sizeof *s);
    for (int l = 0; l < LAYERS; l++) {
        s->count[l] = 1 + (int64_t)pare__rng_below(rng, SCORES);
        double size = 3 + 400 * pare__rng_double(rng);
        for (int64_t i = 0; i < s->count[l]; i++) {
            double x = size * -log(1 - pare__rng_double(rng));
            s->score[l][i] = x < BINS - 1 ? (int)x : BINS - 1;
            s->below[l * BINS + s->score[l][i]]++;
        }
        for (int b = 1; b < BINS; b++)
            s->below[l * BINS + b] += s->below[l * BINS + b - 1];
    }
}

/* How many scores of a layer, or (l < 0) of all, are below. */
static int64_t count_below(const scores *s, int l, int threshold)
{
    int64_t below = 0;
    for (int k = l < 0 ? 0 : l; k < (l < 0 ? LAYERS : l + 1); k++)
        for (int64_t i = 0; i < s->count[k]; i++)
            below += s->score[k][i] < threshold;
    return below;
}

static void one_threshold_is_that_of_all_scores_sorted(void **state)
{
    (void)state;
    pare__rng rng = pare__rng_make(21, 0, 0);
    scores *s = malloc(sizeof *s);
    for (int turn = 0; turn < 30; turn++) {
        double result[LAYERS], sparsity = pare__rng_double(&rng), total = 0;
        int threshold = 0;
        draw_scores(s, &rng);
        for (int l = 0; l < LAYERS; l++)
            total += (double)s->count[l];
        while ((double)count_below(s, -1, threshold + 1) < sparsity * total)
            threshold++;
        assert_ok(pare_budget_global(s->below, BINS, LAYERS, sparsity, 1, result));
        assert_true(fabs(mean(result, s->count, LAYERS) - sparsity) < 1e-10);
        double part = (sparsity * total - (double)count_below(s, -1, threshold)) /
                      (double)(count_below(s, -1, threshold + 1) - count_below(s, -1, threshold));
        for (int l = 0; l < LAYERS; l++) {
            double lower = (double)count_below(s, l, threshold),
                   upper = (double)count_below(s, l, threshold + 1);
            double want = (lower + part * (upper - lower)) / (double)s->count[l];
            assert_true(fabs(result[l] - want) < 1e-9);
        }
    }
    free(s);
}

static void no_layer_loses_more_than_it_may(void **state)
{
    (void)state;
    /* one layer's scores are all below the others' */
    static const int64_t below[] = {100, 100, 100, 100, 0, 100, 200, 300, 0, 0, 0, 0};
    static const int64_t count[] = {100, 300, 0};
    double result[3];
    assert_ok(pare_budget_global(below, 4, 3, 0.5, 1, result));
    assert_true(result[0] == 1 && fabs(result[1] - 1.0 / 3) < 1e-10 && result[2] == 0);
    assert_ok(pare_budget_global(below, 4, 3, 0.5, 0.8, result));
    assert_true(result[0] == 0.8 && fabs(result[1] - 0.4) < 1e-10);
    assert_ok(pare_budget_global(below, 4, 3, 0.5, 0.5, result));
    assert_true(fabs(mean(result, count, 2) - 0.5) < 1e-12);
    assert_ok(pare_budget_global(below, 4, 3, 1, 1, result));
    assert_true(result[0] == 1 && result[1] == 1);
    assert_ok(pare_budget_global(below, 4, 3, 0, 1, result));
    assert_true(result[0] < 1e-12 && result[1] < 1e-12);
    assert_status(pare_budget_global(below, 4, 3, 0.5, 0.4, result), PARE_ERR_ARGUMENT);
    assert_status(pare_budget_global(below + 8, 4, 1, 0.5, 1, result), PARE_ERR_ARGUMENT);
    assert_status(pare_budget_global(below, 4, 0, 0.5, 1, result), PARE_ERR_ARGUMENT);
    assert_status(pare_budget_global(below, 0, 3, 0.5, 1, result), PARE_ERR_ARGUMENT);
}

/* ---- by errors ------------------------------------------------------------------------------- */

static void the_least_sum_of_errors_is_found(void **state)
{
    (void)state;
    static const double steps[] = {0.3, 0.5, 0.7};
    pare__rng rng = pare__rng_make(9, 0, 0);
    for (int turn = 0; turn < 60; turn++) {
        enum { L = 5 };
        double errors[L * 3], result[L], best = INFINITY, sum = 0;
        int64_t count[L];
        for (int l = 0; l < L; l++) {
            count[l] = 64 * (int64_t)(1 + pare__rng_below(&rng, 6)) + (turn % 2 ? l : 0);
            for (int k = 0; k < 3; k++)
                errors[l * 3 + k] = (double)((uint64_t)(k * k) * pare__rng_below(&rng, 100));
        }
        assert_ok(pare_budget_loss(errors, steps, 3, count, L, 0.5, result));
        assert_true(mean(result, count, L) >= 0.5 - 1e-9);
        for (int way = 0; way < 243; way++) {
            double chosen[L], error = 0;
            for (int l = 0, rest = way; l < L; l++, rest /= 3) {
                chosen[l] = steps[rest % 3];
                error += errors[l * 3 + rest % 3];
            }
            if (mean(chosen, count, L) >= 0.5 - 1e-9)
                best = fmin(best, error);
        }
        for (int l = 0; l < L; l++)
            for (int k = 0; k < 3; k++)
                sum += result[l] == steps[k] ? errors[l * 3 + k] : 0;
        assert_true(sum == best);
    }
}

/* So many and so odd that the units are rounded: the mean still holds, the same for all is still
 * there to choose. */
static void many_odd_layers_keep_the_mean(void **state)
{
    (void)state;
    enum { L = 100 };
    static const double steps[] = {0.4, 0.5, 0.6123};
    static double errors[L * 3], result[L];
    static int64_t count[L];
    double sum = 0;
    pare__rng rng = pare__rng_make(11, 0, 0);
    for (int l = 0; l < L; l++) {
        count[l] = INT64_C(1000000000) + (int64_t)pare__rng_below(&rng, 1000000000);
        for (int k = 0; k < 3; k++)
            errors[l * 3 + k] = k + (double)(k * l) * 0.01;
    }
    assert_ok(pare_budget_loss(errors, steps, 3, count, L, 0.5, result));
    assert_true(mean(result, count, L) >= 0.5 - 1e-9);
    for (int l = 0; l < L; l++)
        for (int k = 0; k < 3; k++)
            sum += result[l] == steps[k] ? errors[l * 3 + k] : 0;
    double uniform = 0;
    for (int l = 0; l < L; l++)
        uniform += errors[l * 3 + 1];
    assert_true(sum < uniform);
}

static void a_sparsity_beyond_all_steps_is_refused(void **state)
{
    (void)state;
    double errors[] = {1, 2}, steps[] = {0.2, 0.4}, result[1];
    int64_t count[] = {10};
    assert_ok(pare_budget_loss(errors, steps, 2, count, 1, 0.4, result));
    assert_true(result[0] == 0.4);
    assert_status(pare_budget_loss(errors, steps, 2, count, 1, 0.5, result), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "0.5"));
    count[0] = 0;
    assert_status(pare_budget_loss(errors, steps, 2, count, 1, 0.4, result), PARE_ERR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(budgets_have_names),
        cmocka_unit_test(outliers_are_scores_above_a_multiple_of_the_mean),
        cmocka_unit_test(layers_with_outliers_keep_more),
        cmocka_unit_test(without_a_difference_all_layers_get_the_same),
        cmocka_unit_test(one_threshold_is_that_of_all_scores_sorted),
        cmocka_unit_test(no_layer_loses_more_than_it_may),
        cmocka_unit_test(the_least_sum_of_errors_is_found),
        cmocka_unit_test(many_odd_layers_keep_the_mean),
        cmocka_unit_test(a_sparsity_beyond_all_steps_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
