/* Scores of single weights and of blocks, by hand; and what a sweep is told. */
#include "test.h"

#include "pare/prune.h"

#include "base/rng.h"

#include <math.h>

enum { R = 6, C = 24, N = R * C };

static pare_backend *be;
static float w[N], norm[C], grad[N];
static uint32_t keys[N];

static int setup(void **state)
{
    (void)state;
    pare__rng rng = pare__rng_make(7, 0, 0);
    for (int i = 0; i < N; i++) {
        w[i] = (float)pare__rng_normal(&rng);
        grad[i] = (float)pare__rng_normal(&rng) * 0.01f;
    }
    for (int c = 0; c < C; c++)
        norm[c] = pare__rng_float(&rng) * 10.0f;
    w[3] = 0.0f;
    norm[5] = 0.0f;
    return pare_cpu_create(NULL, &be) == PARE_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    pare_backend_free(&be);
    return 0;
}

static float key(int i)
{
    float x;
    memcpy(&x, &keys[i], sizeof x);
    return x;
}

/* What the chunk pipeline gives a score; blocks of 2 × 5 or single weights. */
static pare_score_args args_of(float *g, bool blocks)
{
    pare_score_args args = {.w = pare_matrix(w, PARE_F32, R, C),
                            .norm = pare_vector(norm, PARE_F32, C),
                            .grad = pare_matrix(g, PARE_F32, R, C),
                            .block_rows = blocks ? 2 : 1,
                            .block_cols = blocks ? 5 : 1,
                            .keys = pare_matrix(keys, PARE_U32, R, C)};
    if (blocks)
        args.keys = pare_matrix(keys, PARE_U32, R / 2, (C + 4) / 5);
    return args;
}

static pare_status score(const char *name, bool blocks)
{
    float g[N];
    memcpy(g, grad, sizeof g);
    pare_score_args args = args_of(g, blocks);
    return pare_prune_find(name)->score(be, &args);
}

static void wanda_weighs_by_the_norm_of_the_input(void **state)
{
    (void)state;
    const pare_prune_method *wanda = pare_prune_find("wanda");
    assert_non_null(wanda);
    assert_true(wanda->by_row && wanda->needs == PARE_STAT_COLUMNS && !wanda->weight_is_score);
    assert_ok(score("wanda", false));
    for (int i = 0; i < N; i++)
        assert_true(key(i) == fabsf(w[i] * norm[i % C]));
}

static void wanda_has_no_blocks(void **state)
{
    (void)state;
    assert_status(score("wanda", true), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "within a row"));
}

static void taylor_weighs_by_the_gradient(void **state)
{
    (void)state;
    const pare_prune_method *taylor = pare_prune_find("taylor");
    assert_true(taylor->needs == PARE_STAT_GRADIENT && !taylor->by_sample && !taylor->by_row);
    assert_ok(score("taylor", false));
    for (int i = 0; i < N; i++)
        assert_true(key(i) == fabsf(w[i] * grad[i]));
}

static void fisher_squares_both(void **state)
{
    (void)state;
    const pare_prune_method *fisher = pare_prune_find("fisher");
    assert_true(fisher->needs == PARE_STAT_GRADIENT && fisher->by_sample);
    assert_ok(score("fisher", false));
    for (int i = 0; i < N; i++)
        assert_true(key(i) == (w[i] * grad[i]) * (w[i] * grad[i]));
}

static void scores_from_gradients_are_summed_over_blocks(void **state)
{
    (void)state;
    for (int square = 0; square < 2; square++) {
        assert_ok(score(square ? "fisher" : "taylor", true));
        for (int down = 0; down < R / 2; down++)
            for (int across = 0; across < (C + 4) / 5; across++) {
                double sum = 0;
                for (int r = 2 * down; r < 2 * down + 2; r++)
                    for (int c = 5 * across; c < C && c < 5 * across + 5; c++) {
                        double x = fabs((double)w[r * C + c] * (double)grad[r * C + c]);
                        sum += square ? x * x : x;
                    }
                assert_true(fabs((double)key(down * ((C + 4) / 5) + across) - sum) <= 1e-5 * sum);
            }
    }
}

/* ---- what SparseGPT tells the sweep ---------------------------------------------------------- */

static float u[2 * C * 2 * C];

/* The second of two panels, of a factor whose diagonal rises. */
static pare_panel panel_of(uint8_t *mask)
{
    for (int c = 0; c < 2 * C; c++)
        u[c * 2 * C + c] = 0.1f + 0.01f * (float)c;
    memset(mask, 0xff, R * C / 8);
    return (pare_panel){.be = be,
                        .first = C,
                        .count = C,
                        .w = pare_matrix(w, PARE_F32, R, C),
                        .u = pare_matrix(u, PARE_F32, 2 * C, 2 * C),
                        .keys = pare_matrix(keys, PARE_U32, R, C),
                        .mask = pare_matrix(mask, PARE_U8, R, C / 8)};
}

static void sparsegpt_leaves_n_of_m_to_the_sweep(void **state)
{
    (void)state;
    const pare_prune_method *sparsegpt = pare_prune_find("sparsegpt");
    assert_true(!sparsegpt->score && sparsegpt->choose && sparsegpt->needs == PARE_STAT_GRAM);
    uint8_t mask[R * C / 8];
    pare_panel panel = panel_of(mask);
    pare_choose_plan plan = {.pattern = {.kind = PARE_PATTERN_NM, .n = 2, .m = 4}};
    assert_ok(sparsegpt->choose(&plan, &panel));
    assert_int_equal(panel.n, 2);
    assert_int_equal(panel.m, 4);
    assert_int_equal(mask[0], 0xff);
    plan.pattern = (pare_pattern){.kind = PARE_PATTERN_BLOCK, .block_rows = 4, .block_cols = 4};
    assert_status(sparsegpt->choose(&plan, &panel), PARE_ERR_ARGUMENT);
}

static void sparsegpt_prunes_its_share_of_a_panel(void **state)
{
    (void)state;
    static const double sparsity[] = {0, 0.001, 0.37, 0.5, 1};
    for (size_t s = 0; s < sizeof sparsity / sizeof *sparsity; s++) {
        uint8_t mask[R * C / 8];
        pare_panel panel = panel_of(mask);
        pare_choose_plan plan = {.sparsity = sparsity[s]};
        assert_ok(pare_prune_find("sparsegpt")->choose(&plan, &panel));
        int gone = 0;
        double most_gone = -1, least_kept = INFINITY;
        for (int i = 0; i < N; i++) {
            float x = w[i] / u[(C + i % C) * 2 * C + C + i % C];
            if (mask[i / 8] >> i % 8 & 1)
                least_kept = fmin(least_kept, (double)(x * x));
            else
                most_gone = fmax(most_gone, (double)(x * x));
            gone += !(mask[i / 8] >> i % 8 & 1);
        }
        assert_int_equal(gone, (int)rint(sparsity[s] * N));
        assert_true(most_gone <= least_kept);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wanda_weighs_by_the_norm_of_the_input),
        cmocka_unit_test(wanda_has_no_blocks),
        cmocka_unit_test(taylor_weighs_by_the_gradient),
        cmocka_unit_test(fisher_squares_both),
        cmocka_unit_test(scores_from_gradients_are_summed_over_blocks),
        cmocka_unit_test(sparsegpt_leaves_n_of_m_to_the_sweep),
        cmocka_unit_test(sparsegpt_prunes_its_share_of_a_panel),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
