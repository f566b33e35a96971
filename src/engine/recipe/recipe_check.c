/* recipe_check.c - what of a recipe goes together: a method and its data, its pattern, its options.
 */
#include "recipe_impl.h"

#include "base/check.h"

#include <stdarg.h>
#include <string.h>

/* ---- what needs data ------------------------------------------------------------------------- */

bool pare__prune_walks(const pare_prune_step *step)
{
    return step->method && (step->method->needs & ~(unsigned)PARE_STAT_GRADIENT) != 0;
}

bool pare__quant_static(const pare_quant_step *step)
{
    for (size_t i = 0; i < step->mixed.count; i++)
        if (step->mixed.schemes[i].activation == PARE_ACT_STATIC)
            return true;
    return step->scheme.activation == PARE_ACT_STATIC;
}

bool pare__quant_walks(const pare_quant_step *step)
{
    return (step->method && step->method->needs) || pare__quant_static(step) || step->mixed.count;
}

bool pare_step_needs_data(const pare_recipe *recipe, const pare_step *step)
{
    for (size_t i = step->prune; i < step->prune + step->prunes; i++)
        if (recipe->prunes[i].method && recipe->prunes[i].method->needs)
            return true;
    for (size_t i = step->quant; i < step->quant + step->quants; i++)
        if (pare__quant_walks(&recipe->quants[i]))
            return true;
    return false;
}

/* ---- complaints ------------------------------------------------------------------------------ */

/* What of a step is looked at. */
struct seat {
    const pare__judge *judge;
    pare__half half;
    size_t item;
};

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
static void
say(const struct seat *seat, pare__key key, const char *fmt, ...)
{
    char sentence[400];
    va_list list;
    va_start(list, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, list);
    va_end(list);
    seat->judge->say(seat->judge->user, seat->half, seat->item, key, sentence);
}

static void check_shrinking(const pare_prune_step *p, const char *pattern, const struct seat *seat)
{
    bool shrinks = pare_pattern_shrinks(&p->pattern);
    if (p->multiple && (!shrinks || p->pattern.kind == PARE_PATTERN_LAYER))
        say(seat, PARE__KEY_MULTIPLE,
            "multiple: belongs to the patterns channel, head and width, not to %s", pattern);
    if (shrinks && !p->method->score)
        say(seat, PARE__KEY_PATTERN,
            "pattern %s: %s has no scores to sum over whole units: use a method that has, such as "
            "magnitude or wanda",
            pattern, p->method->name);
}

static void check_prune(const pare_prune_step *p, const struct seat *seat)
{
    char pattern[40];
    pare_pattern_text(&p->pattern, pattern, sizeof pattern);
    check_shrinking(p, pattern, seat);
    if (p->pattern.kind == PARE_PATTERN_BLOCK && !p->method->score)
        say(seat, PARE__KEY_PATTERN,
            "pattern %s: %s goes column by column: use unstructured or N:M", pattern,
            p->method->name);
    if (p->damping != 0 && !p->method->choose)
        say(seat, PARE__KEY_DAMPING, "damping: belongs to sparsegpt and gptq, not to %s",
            p->method->name);
    bool walks = pare__prune_walks(p);
    if (p->budget == PARE_BUDGET_UNIFORM || (p->budget == PARE_BUDGET_GLOBAL && !walks))
        return;
    if (!walks)
        say(seat, PARE__KEY_BUDGET,
            "budget: %s goes by layers' inputs, which %s does not see: use wanda or sparsegpt, or "
            "a budget of uniform or global",
            pare_budget_name(p->budget), p->method->name);
    if (p->pattern.kind != PARE_PATTERN_UNSTRUCTURED)
        say(seat, PARE__KEY_BUDGET,
            "budget: beside pattern %s all layers have the same sparsity: leave it out", pattern);
}

static void check_tuning(const pare_quant_step *q, const struct seat *seat)
{
    const char *name = q->method->name;
    const struct {
        bool given, fits;
        pare__key key;
        const char *words;
    } rows[] = {
        {q->tuning.damping != 0, q->method->needs_factor, PARE__KEY_DAMPING,
         "damping: belongs to gptq and sparsegpt"},
        {q->tuning.act_order, q->method->needs_factor, PARE__KEY_ACT_ORDER,
         "act_order: belongs to gptq"},
        {q->tuning.alpha != 0, strcmp(name, "smoothquant") == 0, PARE__KEY_ALPHA,
         "alpha: belongs to smoothquant"},
        {q->tuning.grid != 0, strcmp(name, "awq") == 0, PARE__KEY_GRID, "grid: belongs to awq"},
        {q->tuning.no_clip, strcmp(name, "awq") == 0, PARE__KEY_CLIP, "clip: belongs to awq"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].given && !rows[i].fits)
            say(seat, rows[i].key, "%s, not to %s", rows[i].words, name);
}

static void check_quant(const pare_quant_step *q, const struct seat *seat)
{
    char scale[48], scheme[40];
    check_tuning(q, seat);
    if ((q->range == PARE_RANGE_PERCENTILE || q->range == PARE_RANGE_KL) && !pare__quant_static(q))
        say(seat, PARE__KEY_SCALE,
            "scale: %s is of static activations (a8s), which %s has not: use absmax or mse",
            pare__scale_text(q, scale, sizeof scale),
            pare_scheme_text(&q->scheme, scheme, sizeof scheme));
    if (q->mixed.count && (q->mixed.bits > 0) == (q->mixed.bytes > 0))
        say(seat, PARE__KEY_SCHEMES,
            "schemes: expected a budget beside them, either bits (such as 4.25 a weight) or bytes");
}

/* Both in one sweep. */
static void check_sweep(const pare_prune_step *p, const pare_quant_step *q, const struct seat *seat)
{
    if (p->pattern.kind == PARE_PATTERN_NM && p->method->choose && q->tuning.act_order)
        say(seat, PARE__KEY_ACT_ORDER,
            "act_order: takes columns out of their order, which N:M in the same sweep needs: leave "
            "one of them out");
    if (p->damping != 0 && q->tuning.damping != 0 && p->damping != q->tuning.damping)
        say(seat, PARE__KEY_DAMPING,
            "damping: is another than beside prune, though one sweep does both: give it once");
}

#define REMEDY "give data: PATH, or data: { calibration: PATH } for all steps"

static void check_data(const pare_recipe *recipe, const pare_step *step, const pare__judge *judge)
{
    for (size_t i = 0; i < step->prunes; i++) {
        const struct seat seat = {judge, PARE__HALF_PRUNE, i};
        const pare_prune_method *method = recipe->prunes[step->prune + i].method;
        if (method && method->needs)
            say(&seat, PARE__KEY_METHOD, "%s needs calibration data: " REMEDY, method->name);
    }
    for (size_t i = 0; i < step->quants; i++) {
        const struct seat seat = {judge, PARE__HALF_QUANTIZE, i};
        const pare_quant_step *q = &recipe->quants[step->quant + i];
        if (q->method && q->method->needs)
            say(&seat, PARE__KEY_METHOD, "%s needs calibration data: " REMEDY, q->method->name);
        else if (pare__quant_static(q))
            say(&seat, PARE__KEY_SCHEME, "static activations (a8s) need calibration data: " REMEDY);
        else if (q->mixed.count)
            say(&seat, PARE__KEY_SCHEMES, "the choice of schemes needs calibration data: " REMEDY);
    }
}

void pare__check_step(const pare_recipe *recipe, const pare_step *step, const pare__judge *judge)
{
    if (step->kind != PARE_STEP_COMPRESS)
        return;
    for (size_t i = 0; i < step->prunes; i++) {
        const pare_prune_step *p = &recipe->prunes[step->prune + i];
        if (p->method)
            check_prune(p, &(struct seat){judge, PARE__HALF_PRUNE, i});
    }
    for (size_t i = 0; i < step->quants; i++) {
        const struct seat seat = {judge, PARE__HALF_QUANTIZE, i};
        const pare_quant_step *q = &recipe->quants[step->quant + i];
        if (!q->method)
            continue;
        check_quant(q, &seat);
        for (size_t j = step->prune; j < step->prune + step->prunes; j++)
            if (recipe->prunes[j].method)
                check_sweep(&recipe->prunes[j], q, &seat);
    }
    if (!step->calibration.path)
        check_data(recipe, step, judge);
}

/* ---- recipes made by hand -------------------------------------------------------------------- */

static void keep_first(void *user, pare__half half, size_t item, pare__key key,
                       const char *sentence)
{
    pare_status *status = user;
    (void)item;
    (void)key;
    if (*status == PARE_OK)
        *status = pare__error(PARE_ERR_ARGUMENT, __func__, "%s: %s",
                              half == PARE__HALF_PRUNE ? "prune" : "quantize", sentence);
}

static pare_status check_spans(const pare_recipe *recipe)
{
    size_t prunes = 0, quants = 0;
    for (size_t i = 0; i < recipe->step_count; i++) {
        const pare_step *step = &recipe->steps[i];
        if (step->kind != PARE_STEP_COMPRESS)
            continue;
        PARE_REQUIRE(step->prune == prunes && step->quant == quants, PARE_ERR_ARGUMENT,
                     "step %zu of the recipe does not begin where the one before ended", i + 1);
        PARE_REQUIRE(!step->prunes || !quants, PARE_ERR_ARGUMENT,
                     "prune comes after quantize, expected before it");
        prunes += step->prunes;
        quants += step->quants;
    }
    PARE_REQUIRE(!recipe->step_count ||
                     (prunes == recipe->prune_count && quants == recipe->quant_count),
                 PARE_ERR_ARGUMENT,
                 "the steps of the recipe are not all that it prunes and "
                 "quantises");
    return PARE_OK;
}

pare_status pare_recipe_check(const pare_recipe *recipe)
{
    PARE_REQUIRE(recipe, PARE_ERR_ARGUMENT, "recipe: NULL argument");
    pare_status status = PARE_OK;
    pare__judge judge = {keep_first, &status};
    for (size_t i = 0; i < recipe->prune_count; i++)
        PARE_REQUIRE(recipe->prunes[i].method, PARE_ERR_ARGUMENT, "a prune step has no method");
    for (size_t i = 0; i < recipe->quant_count; i++)
        PARE_REQUIRE(recipe->quants[i].method, PARE_ERR_ARGUMENT, "a quantize step has no method");
    PARE_TRY(check_spans(recipe));
    for (size_t i = 0; i < recipe->step_count; i++)
        pare__check_step(recipe, &recipe->steps[i], &judge);
    const pare_step all = {.prunes = recipe->prune_count, .quants = recipe->quant_count};
    if (!recipe->step_count)
        pare__check_step(recipe, &all, &judge);
    return status;
}
