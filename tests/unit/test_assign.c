/* The exact choice under a budget, against trying everything. */
#include "test.h"

#include "pare/calib.h"

#include "base/rng.h"

#include <math.h>
#include <stdbool.h>

enum { ITEMS = 5, OPTIONS = 4 };

/* The least harm within the budget, and the least cost that has it; false if nothing fits. */
static bool brute(const pare_assignment *p, double *harm, int64_t *cost)
{
    int64_t ways = 1;
    bool found = false;
    for (int64_t i = 0; i < p->items; i++)
        ways *= p->options;
    for (int64_t way = 0; way < ways; way++) {
        double h = 0;
        int64_t c = 0, rest = way;
        for (int64_t i = 0; i < p->items; i++, rest /= p->options) {
            h += p->harm[i * p->options + rest % p->options];
            c += p->cost[i * p->options + rest % p->options];
        }
        if (c <= p->budget && (!found || h < *harm || (h == *harm && c < *cost))) {
            *harm = h;
            *cost = c;
            found = true;
        }
    }
    return found;
}

static void check_against_brute(const pare_assignment *p)
{
    double best = 0, harm = 0;
    int64_t cheapest = 0, cost = 0;
    int choice[ITEMS];
    if (!brute(p, &best, &cheapest)) {
        assert_status(pare_assign(p, choice), PARE_ERR_ARGUMENT);
        return;
    }
    assert_ok(pare_assign(p, choice));
    for (int64_t i = 0; i < p->items; i++) {
        assert_in_range(choice[i], 0, p->options - 1);
        harm += p->harm[i * p->options + choice[i]];
        cost += p->cost[i * p->options + choice[i]];
    }
    assert_true(harm == best); /* sums of small whole numbers are exact */
    assert_int_equal(cost, cheapest);
}

static void it_finds_what_trying_everything_finds(void **state)
{
    (void)state;
    pare__rng rng = pare__rng_make(5, 0, 0);
    for (int turn = 0; turn < 300; turn++) {
        double harm[ITEMS * OPTIONS];
        int64_t cost[ITEMS * OPTIONS], unit = 1 + (int64_t)pare__rng_below(&rng, 1000);
        for (int i = 0; i < ITEMS * OPTIONS; i++) {
            harm[i] = (double)pare__rng_below(&rng, turn % 2 ? 4 : 1000) - 2;
            cost[i] = unit * (int64_t)pare__rng_below(&rng, turn % 3 ? 20 : 3);
        }
        check_against_brute(
            &(pare_assignment){.items = 1 + (int64_t)pare__rng_below(&rng, ITEMS),
                               .options = 1 + (int)pare__rng_below(&rng, OPTIONS),
                               .harm = harm,
                               .cost = cost,
                               .budget = unit * (int64_t)pare__rng_below(&rng, 70)});
    }
}

static void of_equal_options_the_cheaper_then_the_earlier_is_taken(void **state)
{
    (void)state;
    double harm[] = {1, 1, 1, 2, 5, 5, 5, 5};
    int64_t cost[] = {7, 3, 3, 1, 2, 1, 1, 1};
    int choice[2];
    pare_assignment p = {.items = 2, .options = 4, .harm = harm, .cost = cost, .budget = 100};
    assert_ok(pare_assign(&p, choice));
    assert_int_equal(choice[0], 1);
    assert_int_equal(choice[1], 1);
}

static void a_budget_that_nothing_fits_says_what_the_least_is(void **state)
{
    (void)state;
    double harm[] = {1, 2, 3, 4};
    int64_t cost[] = {10, 20, 35, 30};
    int choice[2];
    pare_assignment p = {.items = 2, .options = 2, .harm = harm, .cost = cost, .budget = 39};
    assert_status(pare_assign(&p, choice), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "40"));
    p.budget = 40;
    assert_ok(pare_assign(&p, choice));
    assert_int_equal(choice[0], 0);
    assert_int_equal(choice[1], 1);
}

static void numbers_that_are_none_are_refused(void **state)
{
    (void)state;
    double harm[] = {1, (double)NAN};
    int64_t cost[] = {1, 2};
    int choice[1];
    pare_assignment p = {.items = 1, .options = 2, .harm = harm, .cost = cost, .budget = 9};
    assert_status(pare_assign(&p, choice), PARE_ERR_ARGUMENT);
    harm[1] = (double)INFINITY;
    assert_status(pare_assign(&p, choice), PARE_ERR_ARGUMENT);
    harm[1] = 1;
    cost[0] = -1;
    assert_status(pare_assign(&p, choice), PARE_ERR_ARGUMENT);
    cost[0] = INT64_MAX;
    cost[1] = 1;
    assert_ok(pare_assign(&p, choice));
    p.options = 0;
    assert_status(pare_assign(&p, choice), PARE_ERR_ARGUMENT);
}

static void too_many_steps_name_a_unit_that_does(void **state)
{
    (void)state;
    double harm[] = {1, 0, 1, 0};
    int64_t cost[] = {0, INT64_C(1000000007), 0, INT64_C(1000000009)};
    int choice[2];
    pare_assignment p = {
        .items = 2, .options = 2, .harm = harm, .cost = cost, .budget = INT64_C(1100000000)};
    assert_status(pare_assign(&p, choice), PARE_ERR_ARGUMENT);
    const char *of = strstr(pare_last_error(), "in steps of ");
    assert_non_null(of);
    int64_t unit = strtoll(of + strlen("in steps of "), NULL, 10);
    assert_true(unit > 1);
    for (int i = 0; i < 4; i++)
        cost[i] = (cost[i] + unit - 1) / unit;
    p.budget /= unit;
    assert_ok(pare_assign(&p, choice));
    assert_true(choice[0] + choice[1] == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_finds_what_trying_everything_finds),
        cmocka_unit_test(of_equal_options_the_cheaper_then_the_earlier_is_taken),
        cmocka_unit_test(a_budget_that_nothing_fits_says_what_the_least_is),
        cmocka_unit_test(numbers_that_are_none_are_refused),
        cmocka_unit_test(too_many_steps_name_a_unit_that_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
