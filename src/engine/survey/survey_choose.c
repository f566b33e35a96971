/* survey_choose.c - what each layer gets: the least sum of harm that a question's budget allows. */
#include "survey.h"

#include <math.h>
#include <string.h>

/* How far a layer's sparsity may lie from the one asked for (Yin 2023: λ = 0.08). */
#define SPREAD 0.08
/* Bytes that the exact choice of schemes may take; above them it counts in larger units. */
#define CHOICE_BYTES ((int64_t)64 << 20)
#define STEP_BYTES 8 /* of a step of the budget, beside a byte for each layer */

/* The layers' numbers side by side, as the solvers take them. */
typedef struct table {
    double *harm, *result;
    int64_t *cost, *weights;
    int *choice;
} table;

static pare_status make_table(const pare__question *q, table *t)
{
    size_t cells = q->count * (size_t)q->options;
    PARE_TRY(pare__calloc(cells, sizeof *t->harm, &t->harm));
    PARE_TRY(pare__calloc(cells, sizeof *t->cost, &t->cost));
    PARE_TRY(pare__calloc(q->count, sizeof *t->result, &t->result));
    PARE_TRY(pare__calloc(q->count, sizeof *t->weights, &t->weights));
    PARE_TRY(pare__calloc(q->count, sizeof *t->choice, &t->choice));
    for (size_t l = 0; l < q->count; l++) {
        size_t row = l * (size_t)q->options;
        t->weights[l] = q->layers[l].weights;
        memcpy(t->harm + row, q->layers[l].harm, (size_t)q->options * sizeof *t->harm);
        if (q->layers[l].cost)
            memcpy(t->cost + row, q->layers[l].cost, (size_t)q->options * sizeof *t->cost);
    }
    return PARE_OK;
}

static void free_table(table *t)
{
    free(t->harm);
    free(t->cost);
    free(t->result);
    free(t->weights);
    free(t->choice);
}

/* ---- schemes --------------------------------------------------------------------------------- */

/* A budget of stored bits, and what the choices under it come to. */
typedef struct spending {
    int64_t weights, budget;
    int64_t least, most; /* all layers at their cheapest, at their dearest */
    int64_t unit;        /* in which what is above the least is counted */
    int64_t steps;       /* of it that there are to spend */
} spending;

static int64_t gcd(int64_t a, int64_t b)
{
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static int64_t cheapest(const pare__question *q, const pare__survey_layer *l)
{
    int64_t least = l->cost[0];
    for (int i = 1; i < q->options; i++)
        least = l->cost[i] < least ? l->cost[i] : least;
    return least;
}

/* Units are the greatest that lose nothing; where that makes too many of them, greater ones, in
 * which no choice costs less than it does. */
static spending look_at(const pare__question *q)
{
    const pare_mixed *mixed = &q->quant->mixed;
    spending s = {.unit = 0};
    for (size_t l = 0; l < q->count; l++) {
        int64_t least = cheapest(q, &q->layers[l]), most = least;
        for (int i = 0; i < q->options; i++) {
            most = q->layers[l].cost[i] > most ? q->layers[l].cost[i] : most;
            s.unit = gcd(s.unit, q->layers[l].cost[i] - least);
        }
        s.weights += q->layers[l].weights;
        s.least += least;
        s.most += most;
    }
    /* A hair above, for what a decimal cannot say: 3.3 of 10 weights are 33 bits. */
    s.budget = mixed->bytes ? mixed->bytes * 8
                            : (int64_t)floor(mixed->bits * (double)s.weights * (1 + 0x1p-50));
    int64_t spare = (s.budget < s.most ? s.budget : s.most) - s.least;
    int64_t steps = CHOICE_BYTES / ((int64_t)q->count + STEP_BYTES + 1);
    s.unit = s.unit > 0 ? s.unit : 1;
    if (spare / s.unit >= steps)
        s.unit = spare / steps + 1;
    s.steps = spare > 0 ? spare / s.unit : 0;
    return s;
}

pare_status pare__survey_check_budget(const pare__question *q, int64_t *bytes)
{
    char has[32], needs[32];
    *bytes = 0;
    if (!q->quant || !q->count)
        return PARE_OK;
    const spending s = look_at(q);
    *bytes = (s.steps + 1) * ((int64_t)q->count + STEP_BYTES);
    if (q->quant->mixed.bytes)
        PARE_REQUIRE(s.least <= s.budget, PARE_ERR_ARGUMENT,
                     "%s do not hold the chosen layers in any of the schemes: the least is %lld "
                     "bytes (%s), all at their cheapest",
                     pare__size_text((double)q->quant->mixed.bytes, has, sizeof has),
                     (long long)((s.least + 7) / 8),
                     pare__size_text((double)s.least / 8, needs, sizeof needs));
    PARE_REQUIRE(s.least <= s.budget, PARE_ERR_ARGUMENT,
                 "%g bits a weight do not hold the chosen layers in any of the schemes: the least "
                 "is %.4f, scales included, all at their cheapest",
                 q->quant->mixed.bits, (double)s.least / (double)s.weights + 5e-5);
    return PARE_OK;
}

static pare_status choose_schemes(pare__question *q, bool presumed, table *t)
{
    const spending s = look_at(q);
    for (size_t l = 0; l < q->count; l++) {
        int64_t least = cheapest(q, &q->layers[l]), *cost = t->cost + l * (size_t)q->options;
        for (int i = 0; i < q->options; i++) {
            if (presumed)
                t->harm[l * (size_t)q->options + (size_t)i] = -(double)cost[i];
            cost[i] = (cost[i] - least + s.unit - 1) / s.unit;
        }
    }
    PARE_TRY(pare_assign(&(pare_assignment){.items = (int64_t)q->count,
                                            .options = q->options,
                                            .harm = t->harm,
                                            .cost = t->cost,
                                            .budget = s.steps},
                         t->choice));
    for (size_t l = 0; l < q->count; l++)
        q->layers[l].choice = t->choice[l];
    return PARE_OK;
}

/* ---- sparsities ------------------------------------------------------------------------------ */

static pare_status choose_sparsities(pare__question *q, bool presumed, table *t)
{
    const pare_prune_step *p = q->prune;
    for (size_t l = 0; l < q->count; l++)
        t->result[l] = presumed ? p->sparsity : t->harm[l * (size_t)q->options];
    if (!presumed && p->budget == PARE_BUDGET_OWL)
        PARE_TRY(pare_budget_owl(t->harm, t->weights, (int64_t)q->count, p->sparsity, SPREAD,
                                 t->result));
    else if (!presumed && p->budget == PARE_BUDGET_LOSS)
        PARE_TRY(pare_budget_loss(t->harm, q->steps, q->options, t->weights, (int64_t)q->count,
                                  p->sparsity, t->result));
    for (size_t l = 0; l < q->count; l++)
        q->layers[l].sparsity = t->result[l];
    return PARE_OK;
}

pare_status pare__survey_choose(pare__survey *s, bool presumed)
{
    for (size_t i = 0; i < s->count; i++) {
        pare__question *q = &s->questions[i];
        table t = {0};
        if (!q->count)
            continue;
        pare_status status = make_table(q, &t);
        if (status == PARE_OK)
            status =
                q->prune ? choose_sparsities(q, presumed, &t) : choose_schemes(q, presumed, &t);
        free_table(&t);
        PARE_TRY(status);
    }
    return PARE_OK;
}
