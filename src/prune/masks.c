/* masks.c - masks that change while a model trains: the table of schedules, the steps at which they
 * change, and the part that joins the training. A new schedule is its file and a line here.
 *
 * Changes happen when the optimiser has moved: then the step was sound, gradients are still there,
 * and the optimiser's next step clears the moments of what went. All that the next change depends
 * on lies in the masks, in what is kept beside them, and in the number of changes made.
 */
#include "masks_impl.h"

#include "base/text.h"

#include <math.h>
#include <string.h>

static const pare__mask_schedule *const schedules[] = {
    [PARE_MASKS_GRADUAL] = &pare__masks_gradual, [PARE_MASKS_ITERATIVE] = &pare__masks_iterative,
    [PARE_MASKS_REWIND] = &pare__masks_rewind,   [PARE_MASKS_RIGL] = &pare__masks_rigl,
    [PARE_MASKS_SET] = &pare__masks_set,         [PARE_MASKS_DENSE] = &pare__masks_dense,
};
enum { SCHEDULES = sizeof schedules / sizeof schedules[0] };

pare_status pare_mask_schedule_parse(const char *text, pare_mask_schedule *schedule)
{
    const char *words[SCHEDULES + 1] = {NULL};
    PARE_REQUIRE(text && schedule, PARE_ERR_ARGUMENT, "schedule of masks: NULL argument");
    for (int i = 0; i < SCHEDULES; i++) {
        words[i] = schedules[i]->name;
        if (strcmp(text, words[i]) == 0) {
            *schedule = (pare_mask_schedule)i;
            return PARE_OK;
        }
    }
    const char *near = pare__nearest(text, words);
    PARE_FAIL(PARE_ERR_ARGUMENT,
              "schedule of masks \"%s\" is none of gradual, iterative, rewind, rigl, set, "
              "dense%s%s%s",
              text, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

const char *pare_mask_schedule_name(pare_mask_schedule schedule)
{
    return schedules[schedule]->name;
}

const pare__mask_schedule *pare__mask_schedule_of(pare_mask_schedule schedule)
{
    return schedules[schedule];
}

static const pare_prune_method *const methods[] = {&pare__prune_magnitude, &pare__prune_random,
                                                   &pare__prune_taylor, &pare__prune_movement};
enum { METHODS = sizeof methods / sizeof methods[0] };

const pare_prune_method *pare_masks_method(const char *name)
{
    for (size_t i = 0; i < METHODS; i++)
        if (strcmp(methods[i]->name, name) == 0)
            return methods[i];
    return NULL;
}

pare_status pare_masks_method_parse(const char *text, const pare_prune_method **method)
{
    const char *words[METHODS + 1] = {NULL};
    PARE_REQUIRE(text && method, PARE_ERR_ARGUMENT, "method of masks: NULL argument");
    for (size_t i = 0; i < METHODS; i++)
        words[i] = methods[i]->name;
    const char *near = pare__nearest(text, words);
    *method = pare_masks_method(text);
    PARE_REQUIRE(*method, PARE_ERR_ARGUMENT,
                 "masks that move are chosen by magnitude, random, taylor or movement, not "
                 "\"%s\"%s%s%s",
                 text, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    return PARE_OK;
}

/* ---- steps ----------------------------------------------------------------------------------- */

pare__mask_times pare__mask_times_of(const pare_mask_options *o, int64_t steps)
{
    double end = o->end > 0 ? o->end : o->schedule == PARE_MASKS_REWIND ? 1 : 0.75;
    pare__mask_times t = {.begin = (int64_t)rint(o->begin * (double)steps),
                          .end = (int64_t)rint(end * (double)steps),
                          .each = o->each > 0 ? o->each : steps / 100,
                          .rounds = o->rounds > 0 ? o->rounds : 5};
    t.period = t.end / (t.rounds + 1);
    if (o->schedule != PARE_MASKS_DENSE && t.end > steps - 1)
        t.end = steps - 1; /* there is no step behind the last one */
    t.begin = t.begin < t.end ? t.begin : t.end;
    t.each = t.each > 0 ? t.each : 1;
    return t;
}

/* With what is left out. */
pare_mask_options pare__mask_whole(const pare_mask_options *options)
{
    pare_mask_options o = *options;
    o.method = o.method ? o.method : &pare__prune_magnitude;
    o.fraction = o.fraction > 0 ? o.fraction : 0.3;
    if (o.pattern.kind == PARE_PATTERN_NM && o.final == 0)
        o.final = 1 - (double)o.pattern.n / o.pattern.m;
    return o;
}

double pare_masks_sparsity(const pare_mask_options *options, int64_t step, int64_t steps)
{
    const pare__mask_schedule *s = schedules[options->schedule];
    pare_mask_options whole = pare__mask_whole(options);
    pare__mask_times t = pare__mask_times_of(&whole, steps);
    double sparsity = s->sparsity(&whole, &t, s->due(&whole, &t, step));
    if (whole.pattern.kind == PARE_PATTERN_NM && sparsity > 0)
        return 1 - (double)pare__mask_stays(&whole, sparsity) / whole.pattern.m;
    return sparsity;
}

pare_status pare_masks_restart(const pare_masks *masks, pare_curve *curve)
{
    pare__mask_times t = pare__mask_times_of(&masks->options, curve->steps);
    curve->period = curve->restarts = 0;
    if (masks->options.schedule != PARE_MASKS_REWIND)
        return PARE_OK;
    PARE_TRY(pare__mask_rewind_check(masks, curve->steps));
    PARE_REQUIRE(curve->warmup <= t.period, PARE_ERR_ARGUMENT,
                 "%lld steps of warm-up do not fit in a round of %lld steps",
                 (long long)curve->warmup, (long long)t.period);
    curve->period = t.period;
    curve->restarts = t.rounds;
    return PARE_OK;
}

/* ---- in every step --------------------------------------------------------------------------- */

pare_status pare__masks_before(void *state, const pare_train_moment *at)
{
    pare_masks *masks = state;
    if (masks->schedule->before && at->step < at->steps)
        PARE_TRY(masks->schedule->before(masks, at));
    return PARE_OK;
}

pare_status pare__masks_back(void *state, const pare_train_moment *at)
{
    pare_masks *masks = state;
    (void)at;
    if (masks->options.method == &pare__prune_movement)
        PARE_TRY(pare__movement_add(masks));
    return PARE_OK;
}

/* A step in which nothing was learned makes no change: the next one makes up for it. */
pare_status pare__masks_after(void *state, const pare_train_moment *at)
{
    pare_masks *masks = state;
    pare__mask_times t = pare__mask_times_of(&masks->options, at->steps);
    int64_t due = masks->schedule->due(&masks->options, &t, at->step);
    if (due > masks->done)
        PARE_TRY(masks->schedule->change(masks, at, due));
    masks->done = due > masks->done ? due : masks->done;
    return PARE_OK;
}
