/* test_grid.c - a sweep's file: axes, points and their order, errors, dense models; rows, what no
 * other point is better than, the CSV. */
#include "test.h"

#include "engine/grid/grid_impl.h"
#include "engine/report/html.h"

#include <unistd.h>

#define FRONT "model: m\ndata: { calibration: c, eval: e }\n"

static pare_grid *parse(const char *text)
{
    pare_grid *grid = NULL;
    assert_ok(pare_grid_parse(text, strlen(text), "s.yaml", NULL, &grid));
    return grid;
}

static void refuse(const char *text, const char *sentence)
{
    pare_grid *grid = NULL;
    assert_status(pare_grid_parse(text, strlen(text), "s.yaml", NULL, &grid), PARE_ERR_ARGUMENT);
    assert_null(grid);
    if (!strstr(pare_last_error(), sentence))
        fail_msg("said \"%s\", wanted \"%s\"", pare_last_error(), sentence);
}

static void lists_of_scalars_are_axes_the_last_fastest(void **state)
{
    (void)state;
    pare_grid *g = parse(FRONT "steps:\n"
                               "  - prune: { method: [magnitude, wanda], sparsity: [0.5, 0.7] }\n"
                               "  - eval: { metric: [ppl, loss] }\n");
    char text[100];
    assert_int_equal(g->axis_count, 2);
    assert_string_equal(g->axes[0].name, "prune.method");
    assert_string_equal(g->axes[1].name, "prune.sparsity");
    assert_false(g->axes[0].numbers);
    assert_true(g->axes[1].numbers);
    assert_int_equal(g->dense_count, 1);
    assert_int_equal(g->point_count, 5);
    static const char *const names[] = {
        "dense model m", "prune.method magnitude, prune.sparsity 0.5",
        "prune.method magnitude, prune.sparsity 0.7", "prune.method wanda, prune.sparsity 0.5",
        "prune.method wanda, prune.sparsity 0.7"};
    for (size_t i = 0; i < 5; i++)
        assert_string_equal(pare__point_text(g, i, text, sizeof text), names[i]);
    assert_string_equal(g->points[3].recipe->prunes[0].method->name, "wanda");
    assert_true(g->points[4].recipe->prunes[0].sparsity == 0.7);
    assert_int_equal(g->points[0].recipe->step_count, 1);
    assert_int_equal(g->points[0].recipe->steps[0].kind, PARE_STEP_EVAL);
    assert_int_equal(g->points[2].dense, 0);
    pare_grid_free(&g);
    assert_null(g);
}

static void what_takes_a_list_anyway_is_no_axis(void **state)
{
    (void)state;
    pare_grid *g = parse(
        FRONT "steps:\n"
              "  - compress:\n"
              "      prune: [ { sparsity: [0.3, 0.5], include: [a, b] }, { sparsity: 0.1, include: "
              "[c] } ]\n"
              "      quantize: { schemes: [w4, w8], bits: 5, exclude: [d] }\n"
              "  - train: { steps: [10, 20], betas: [0.9, 0.99], freeze: [x], data: t }\n");
    assert_int_equal(g->axis_count, 2);
    assert_string_equal(g->axes[0].name, "prune.sparsity");
    assert_string_equal(g->axes[1].name, "train.steps");
    assert_int_equal(g->dense_count, 0);
    assert_int_equal(g->point_count, 4);
    assert_int_equal(g->points[0].recipe->prune_count, 2);
    pare_grid_free(&g);
}

static void axes_have_their_step_in_the_name(void **state)
{
    (void)state;
    pare_grid *g = parse("model: [m, n]\nseed: [0, 1]\ndata: { calibration: c, eval: e }\n"
                         "steps:\n"
                         "  - prune: { method: [magnitude, random], sparsity: 0.5 }\n"
                         "  - quantize: { method: [rtn, gptq], scheme: [w4, w8] }\n"
                         "  - eval: {}\n");
    static const char *const names[] = {"model", "seed", "prune.method", "quantize.method",
                                        "quantize.scheme"};
    assert_int_equal(g->axis_count, 5);
    for (size_t a = 0; a < 5; a++)
        assert_string_equal(g->axes[a].name, names[a]);
    assert_int_equal(g->dense_count, 2); /* a model each, whatever the seed */
    assert_int_equal(g->point_count, 2 + 32);
    assert_string_equal(g->points[1].recipe->model, "n");
    assert_int_equal(g->points[2].dense, 0);
    assert_int_equal(g->points[33].dense, 1);
    assert_int_equal(g->points[33].recipe->seed, 1);
    pare_grid_free(&g);
}

static void values_that_do_not_go_together_are_points_that_are_not_possible(void **state)
{
    (void)state;
    pare_grid *g = parse(FRONT "steps:\n"
                               "  - prune: { method: [magnitude, sparsegpt], pattern: "
                               "[unstructured, \"block:4x4\"], sparsity: 0.5 }\n");
    assert_int_equal(g->point_count, 4);
    for (size_t i = 0; i < 4; i++)
        assert_true((g->points[i].recipe == NULL) == (i == 3));
    assert_non_null(strstr(g->points[3].problem, "goes column by column"));
    pare_grid_free(&g);
    refuse(FRONT "steps:\n  - prune: { method: sparsegpt, pattern: \"block:4x4\", sparsity: [0.5, "
                 "0.6] }\n",
           "s.yaml:4:42: pattern block:4x4: sparsegpt");
}

static void errors_of_values_come_at_once_each_once_with_their_place(void **state)
{
    (void)state;
    refuse(FRONT "steps:\n"
                 "  - prune: { method: [magnitude, wandaa], sparsity: [0.5, 1.5] }\n"
                 "  - quantize: { scheme: [w4, w99] }\n"
                 "  - evil: {}\n",
           "s.yaml:4:34: prune method \"wandaa\"");
    assert_non_null(strstr(pare_last_error(), "\ns.yaml:4:59: sparsity"));
    assert_non_null(strstr(pare_last_error(), "\ns.yaml:5:30: "));
    assert_non_null(strstr(pare_last_error(), "\ns.yaml:6:5: step: unknown key \"evil\""));
    const char *first = strstr(pare_last_error(), "wandaa");
    assert_null(strstr(first + 6, "\"wandaa\""));
    refuse(FRONT "steps:\n  - prune: { sparsity: [] }\n",
           "s.yaml:4:24: sparsity: the list is empty");
    refuse(FRONT "steps:\n  - prune: { sparsity: [0.5, 0.5] }\n",
           "s.yaml:4:30: sparsity: \"0.5\" is there twice");
    refuse(FRONT "steps:\n  - prune: { sparsity: [0.5, { a: b }] }\n", "found a map in a list");
    refuse(FRONT "steps:\n  - prune: { sparsity: [0.5] }\n  - export: { to: out }\n",
           "s.yaml:5:15: to: a sweep keeps its points in its own folder");
    refuse(FRONT "sweep: { keeep: true }\nsteps: []\n", "did you mean \"keep\"?");
    refuse("", "expected a map");
}

static void a_grid_that_is_too_large_is_refused(void **state)
{
    (void)state;
    pare__text text = {0};
    char *all = NULL;
    pare__text_add(&text, FRONT "steps:\n");
    for (int i = 0; i < 5; i++) {
        pare__text_add(&text, "  - eval: { samples: [1");
        for (int k = 2; k <= 10; k++)
            pare__text_add(&text, ", %d", k);
        pare__text_add(&text, "] }\n");
    }
    assert_ok(pare__text_take(&text, &all));
    refuse(all, "more than 10000 points");
    free(all);
}

static void the_sweep_has_settings_of_its_own_and_a_seed_may_be_given(void **state)
{
    (void)state;
    const uint64_t seed = 7;
    pare_grid *g = NULL;
    const char *text = FRONT "sweep: { keep: true, batch: 3, repeats: 5 }\nsteps: []\n";
    assert_ok(pare_grid_parse(text, strlen(text), "s.yaml", &seed, &g));
    assert_true(g->keep);
    assert_int_equal(g->batch, 3);
    assert_int_equal(g->repeats, 5);
    assert_int_equal(g->point_count, 1);
    assert_int_equal(g->points[0].recipe->seed, 7);
    pare_grid_free(&g);
    text = FRONT "seed: [1, 2]\nsteps: []\n";
    assert_status(pare_grid_parse(text, strlen(text), "s.yaml", &seed, &g), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "leave --seed out"));
}

/* ---- reports --------------------------------------------------------------------------------- */

static pare__json *done_row(const pare_grid *g, size_t point, double ppl, double sparsity,
                            int64_t bytes)
{
    pare__json *row = pare__grid_row(g, point, "done", NULL);
    pare__json_set_real(pare__json_set_object(row, "metrics"), "ppl", ppl);
    pare__json_set_real(row, "sparsity", sparsity);
    pare__json_set_int(row, "bytes", bytes);
    return row;
}

static const char hostile[] = "\"<script>alert(1)</script> & 'x' `touch here`, \\n\"";

/* Dense, a good point, one that is worse in all, one that failed. */
static pare_report *report_of(pare_grid **grid)
{
    char text[400];
    pare_report *report = NULL;
    const pare_run_options options = {.threads = 2};
    snprintf(text, sizeof text,
             FRONT "steps:\n  - prune: { sparsity: [0.5, 0.6, 0.7], exclude: [q] }\n"
                   "  - eval: { labels: [%s] }\n",
             hostile);
    pare_grid *g = *grid = parse(text);
    assert_int_equal(g->point_count, 4);
    pare__json *rows[] = {done_row(g, 0, 4, 0, 1000), done_row(g, 1, 5, 0.6, 500),
                          done_row(g, 2, 8, 0.5, 600),
                          pare__grid_row(g, 3, "failed", "line 1,\n\"two\" </pre><b>")};
    assert_ok(pare__grid_report(g, "d", false, rows, &options, &report));
    for (size_t i = 0; i < 4; i++)
        pare__json_free(&rows[i]);
    return report;
}

static void rows_say_what_was_kept_and_which_are_on_the_front(void **state)
{
    (void)state;
    pare_grid *g;
    pare_report *report = report_of(&g);
    const pare__json *points = pare__json_get(report->root, "points");
    static const size_t fronts[] = {2, 2, 0, 0};
    assert_string_equal(pare__report_string(report->root, "metric", ""), "ppl");
    assert_true(pare__report_real(pare__json_at(points, 1), "kept") == 0.8);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pare__json_size(pare__json_get(pare__json_at(points, i), "front")),
                         fronts[i]);
    pare_report_free(&report);
    pare_grid_free(&g);
}

/* Who is no better and costs more, or as much and is worse, is not on the front; half a percent of
 * a cost counts as none. */
static void who_is_beaten_at_its_cost_is_not_on_the_front(void **state)
{
    (void)state;
    static const struct {
        double ppl;
        int64_t bytes;
        bool front;
    } points[] = {{4, 1000, true}, {5, 500, true},     {5.5, 500, false}, {5, 600, false},
                  {5, 502, true},  {5.01, 498, false}, {8, 400, true}};
    enum { POINTS = sizeof points / sizeof *points };
    pare_grid *g = parse(FRONT "steps:\n  - prune: { sparsity: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6] }\n"
                               "  - eval: {}\n");
    pare_report *report = NULL;
    pare__json *rows[POINTS];
    const pare_run_options options = {.threads = 2};
    assert_int_equal(g->point_count, POINTS);
    for (size_t i = 0; i < POINTS; i++)
        rows[i] = done_row(g, i, points[i].ppl, 0.5, points[i].bytes);
    assert_ok(pare__grid_report(g, "d", false, rows, &options, &report));
    for (size_t i = 0; i < POINTS; i++) {
        const pare__json *list = pare__json_get(report->root, "points");
        if (pare__on_front(pare__json_at(list, i), "bytes") != points[i].front)
            fail_msg("%g at %lld bytes is%s on the front", points[i].ppl,
                     (long long)points[i].bytes, points[i].front ? " not" : "");
        pare__json_free(&rows[i]);
    }
    pare_report_free(&report);
    pare_grid_free(&g);
}

/* Of what is timed 5 % are noise. */
static void latencies_that_are_all_but_equal_are_equal(void **state)
{
    (void)state;
    static const struct {
        double ppl, seconds;
        bool front;
    } points[] = {{4, 1, true}, {5, 0.96, false}, {6, 0.9, true}};
    pare_grid *g = parse(FRONT "steps:\n  - prune: { sparsity: [0.1, 0.2] }\n  - eval: {}\n");
    pare_report *report = NULL;
    pare__json *rows[3];
    const pare_run_options options = {.threads = 2};
    for (size_t i = 0; i < 3; i++) {
        rows[i] = done_row(g, i, points[i].ppl, 0.5, 1000);
        pare__json_set_real(pare__json_set_object(rows[i], "latency"), "seconds",
                            points[i].seconds);
    }
    assert_ok(pare__grid_report(g, "d", false, rows, &options, &report));
    for (size_t i = 0; i < 3; i++) {
        const pare__json *list = pare__json_get(report->root, "points");
        assert_int_equal(pare__on_front(pare__json_at(list, i), "latency"), points[i].front);
        pare__json_free(&rows[i]);
    }
    pare_report_free(&report);
    pare_grid_free(&g);
}

static void the_csv_quotes_what_needs_it(void **state)
{
    (void)state;
    pare_grid *g;
    char *csv = NULL;
    pare_report *report = report_of(&g);
    assert_ok(pare__grid_csv(report, &csv));
    const char *head = "point,kind,state,prune.sparsity,eval.labels,ppl,kept,sparsity,parameters,"
                       "bits_per_weight,bytes,flops,flops_left,note,latency_seconds,latency_batch,"
                       "peak_memory,seconds\n0,dense,done,,,4,1,0,,,1000,,,,,,,\n";
    if (strncmp(csv, head, strlen(head)) != 0)
        fail_msg("got %s", csv);
    assert_non_null(
        strstr(csv, "\n1,grid,done,0.5,\"<script>alert(1)</script> & 'x' `touch here`"));
    assert_non_null(strstr(csv, "\"line 1,\n\"\"two\"\" </pre><b>\""));
    free(csv);
    pare_report_free(&report);
    pare_grid_free(&g);
}

static void a_page_escapes_all_that_comes_from_files(void **state)
{
    (void)state;
    pare_grid *g;
    char *html = NULL, *text = NULL;
    pare_report *report = report_of(&g);
    assert_ok(pare_report_html(report, &html));
    assert_non_null(strstr(html, "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#39;x&#39;"));
    assert_null(strstr(html, "<script"));
    assert_null(strstr(html, "</pre><b>"));
    assert_non_null(strstr(html, "&lt;/pre&gt;&lt;b&gt;"));
    assert_non_null(strstr(html, "<section id=\"p003\">"));
    assert_non_null(strstr(html, "<tr class=\"dense\"><td class=\"l\"><a href=\"#p000\">000</a>"));
    assert_null(strstr(html, "http-equiv=\"refresh\""));
    assert_ok(pare_report_text(report, &text));
    assert_non_null(strstr(text, "4: 3 done, 0 not possible, 1 failed"));
    free(text);
    free(html);
    pare_report_free(&report);
    pare_grid_free(&g);
    assert_int_equal(access("here", F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_of_scalars_are_axes_the_last_fastest),
        cmocka_unit_test(what_takes_a_list_anyway_is_no_axis),
        cmocka_unit_test(axes_have_their_step_in_the_name),
        cmocka_unit_test(values_that_do_not_go_together_are_points_that_are_not_possible),
        cmocka_unit_test(errors_of_values_come_at_once_each_once_with_their_place),
        cmocka_unit_test(a_grid_that_is_too_large_is_refused),
        cmocka_unit_test(the_sweep_has_settings_of_its_own_and_a_seed_may_be_given),
        cmocka_unit_test(rows_say_what_was_kept_and_which_are_on_the_front),
        cmocka_unit_test(who_is_beaten_at_its_cost_is_not_on_the_front),
        cmocka_unit_test(latencies_that_are_all_but_equal_are_equal),
        cmocka_unit_test(the_csv_quotes_what_needs_it),
        cmocka_unit_test(a_page_escapes_all_that_comes_from_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
