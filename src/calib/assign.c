/* assign.c - one option for each item under a budget, exactly: the multiple-choice knapsack by
 * dynamic programming.
 *
 * With costs counted from each item's cheapest option and divided by their greatest common divisor,
 * least[w] is the least harm of the items so far at a cost of w at most; an item's row of the table
 * says which option gives it. Time items·options·width, memory items·width bytes.
 */
#include "pare/calib.h"

#include "base/alloc.h"
#include "base/check.h"

#include <math.h>

#define MOST_OPTIONS 256 /* the table has bytes */

/* The problem in units. */
typedef struct units {
    const pare_assignment *problem;
    int64_t *cost;  /* [items][options], from the cheapest on */
    int *order;     /* [items][options], by cost, then by number */
    int64_t budget; /* what is left behind the cheapest options */
    int64_t width;  /* budget + 1 */
} units;

static pare_status check(const pare_assignment *p)
{
    PARE_REQUIRE(p->items >= 0 && p->options >= 1 && p->options <= MOST_OPTIONS, PARE_ERR_ARGUMENT,
                 "assignment: %lld items with %d options each; options are 1 to %d",
                 (long long)p->items, p->options, MOST_OPTIONS);
    PARE_REQUIRE(p->items == 0 || (p->harm && p->cost), PARE_ERR_ARGUMENT,
                 "assignment: harm or cost is NULL");
    for (int64_t i = 0; i < p->items * p->options; i++)
        PARE_REQUIRE(isfinite(p->harm[i]) && p->cost[i] >= 0, PARE_ERR_ARGUMENT,
                     "assignment: option %lld of item %lld has harm %g and cost %lld; a number and "
                     "0 or more are wanted",
                     (long long)(i % p->options), (long long)(i / p->options), p->harm[i],
                     (long long)p->cost[i]);
    return PARE_OK;
}

static int64_t gcd(int64_t a, int64_t b)
{
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static void sort_options(const int64_t *cost, int options, int *order)
{
    for (int k = 0; k < options; k++) {
        int at = k;
        for (; at > 0 && cost[order[at - 1]] > cost[k]; at--)
            order[at] = order[at - 1];
        order[at] = k;
    }
}

/* Costs from the cheapest on, in units; the budget likewise, and no larger than can be spent. */
static pare_status measure(units *u)
{
    const pare_assignment *p = u->problem;
    int64_t least = 0, spread = 0, unit = 0;
    for (int64_t i = 0; i < p->items; i++) {
        const int64_t *cost = p->cost + i * p->options;
        int *order = u->order + i * p->options;
        sort_options(cost, p->options, order);
        int64_t low = cost[order[0]], high = cost[order[p->options - 1]];
        PARE_REQUIRE(pare__add(least, low, &least) && pare__add(spread, high - low, &spread),
                     PARE_ERR_ARGUMENT, "assignment: the sum of costs is too large to count");
        for (int k = 0; k < p->options; k++) {
            u->cost[i * p->options + k] = cost[k] - low;
            unit = gcd(unit, cost[k] - low);
        }
    }
    PARE_REQUIRE(least <= p->budget, PARE_ERR_ARGUMENT,
                 "nothing fits a budget of %lld: the least there is costs %lld",
                 (long long)p->budget, (long long)least);
    unit = unit > 0 ? unit : 1;
    u->budget = (p->budget - least < spread ? p->budget - least : spread) / unit;
    int64_t most = PARE_ASSIGN_CELLS / (p->items > 16 ? p->items : 16);
    PARE_REQUIRE(
        u->budget<most, PARE_ERR_ARGUMENT,
                  "assignment: %lld items under a budget of %lld steps of %lld are too many; give "
                  "costs in steps of %lld",
                  (long long)p->items, (long long)u->budget, (long long)unit, most> 1
            ? (long long)(u->budget / (most - 1) + 1) * (long long)unit
            : 0LL);
    for (int64_t i = 0; i < p->items * p->options; i++)
        u->cost[i] /= unit;
    u->width = u->budget + 1;
    return PARE_OK;
}

/* The row of an item: least, and which option. From the dearest width down, in place: an option
 * that costs nothing beside the cheapest reads its own width, before it is written. */
static void add_item(const units *u, int64_t item, double *least, uint8_t *table)
{
    const int options = u->problem->options, *order = u->order + item * options;
    const int64_t *cost = u->cost + item * options;
    const double *harm = u->problem->harm + item * options;
    uint8_t *row = table + item * u->width;
    for (int64_t w = u->budget; w >= 0; w--) {
        double best = INFINITY;
        for (int k = 0; k < options && cost[order[k]] <= w; k++) {
            double sum = least[w - cost[order[k]]] + harm[order[k]];
            if (sum < best || k == 0) {
                best = sum;
                row[w] = (uint8_t)order[k];
            }
        }
        least[w] = best;
    }
}

/* Of budgets with the same harm the smallest, then back along the rows. */
static void follow(const units *u, const double *least, const uint8_t *table, int *choice)
{
    int64_t w = u->budget;
    while (w > 0 && least[w - 1] <= least[u->budget])
        w--;
    for (int64_t i = u->problem->items - 1; i >= 0; i--) {
        choice[i] = table[i * u->width + w];
        w -= u->cost[i * u->problem->options + choice[i]];
    }
}

pare_status pare_assign(const pare_assignment *problem, int *choice)
{
    pare_status status = PARE_OK;
    units u = {.problem = problem};
    double *least = NULL;
    uint8_t *table = NULL;
    PARE_REQUIRE(problem && choice, PARE_ERR_ARGUMENT, "assignment: NULL argument");
    PARE_TRY(check(problem));
    size_t cells = (size_t)problem->items * (size_t)problem->options;
    PARE_TRY_DONE(pare__calloc(cells, sizeof *u.cost, &u.cost));
    PARE_TRY_DONE(pare__calloc(cells, sizeof *u.order, &u.order));
    PARE_TRY_DONE(measure(&u));
    PARE_TRY_DONE(pare__calloc((size_t)u.width, sizeof *least, &least));
    PARE_TRY_DONE(pare__calloc((size_t)problem->items * (size_t)u.width, 1, &table));
    for (int64_t i = 0; i < problem->items; i++)
        add_item(&u, i, least, table);
    follow(&u, least, table, choice);
done:
    free(table);
    free(least);
    free(u.order);
    free(u.cost);
    return status;
}
