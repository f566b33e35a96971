/* steps_report.c - the reports of a run's stages as one: each as it is, and what they come to. */
#include "steps.h"

#include "engine/report/report_impl.h"

#include <string.h>

/* The sum of a member over stages, or the greatest; false if one of them that has `object` lacks
 * it. */
typedef struct total {
    int64_t sum, most;
    bool known;
} total;

static total total_of(pare_report **stages, size_t count, const char *object, const char *key)
{
    total t = {.known = true};
    for (size_t i = 0; i < count; i++) {
        const pare__json *o = pare__json_get(stages[i]->root, object);
        int64_t value = 0;
        if (!o)
            continue;
        if (!pare__json_int(pare__json_get(o, key), &value))
            t.known = false;
        t.sum += value;
        t.most = value > t.most ? value : t.most;
    }
    return t;
}

static double seconds_of(pare_report **stages, size_t count, const char *object)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        const pare__json *o = pare__json_get(stages[i]->root, object);
        double value = 0;
        if (o && !pare__json_real(pare__json_get(o, "seconds"), &value))
            return -1;
        sum += value;
    }
    return sum;
}

static void copy_member(pare__json *to, const pare__json *from, const char *key)
{
    const pare__json *member = pare__json_get(from, key);
    if (member)
        pare__json_set(to, key, pare__json_copy(member));
}

/* The largest two neighbours of what lies between: a stage's source goes when it has its own. */
static int64_t between(const pare__chain *chain, pare_report **stages)
{
    int64_t before = 0, most = 0;
    for (size_t i = 0; i < chain->count; i++) {
        if (chain->stages[i].kind == PARE__STAGE_EVAL)
            continue;
        int64_t bytes = chain->stages[i].last
                            ? 0
                            : pare__report_int(pare__json_get(stages[i]->root, "output"), "bytes");
        most = before + bytes > most ? before + bytes : most;
        before = bytes;
    }
    return most;
}

static void add_predicted(const pare__chain *chain, pare_report **stages, const pare__json *last,
                          pare__json *root)
{
    static const char *const sums[] = {"passes", "read_bytes", "write_bytes"};
    static const char *const same[] = {"budget", "threads", "isa", "device", "device_budget"};
    pare__json *o = pare__json_set_object(root, "predicted");
    for (size_t i = 0; i < 3; i++)
        pare__json_set_int(o, sums[i], total_of(stages, chain->count, "predicted", sums[i]).sum);
    pare__json_set_int(o, "between_bytes", between(chain, stages));
    pare__json_set_int(o, "peak_memory",
                       total_of(stages, chain->count, "predicted", "peak_memory").most);
    double seconds = seconds_of(stages, chain->count, "predicted");
    if (seconds >= 0)
        pare__json_set_real(o, "seconds", seconds);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        copy_member(o, pare__json_get(last, "predicted"), same[i]);
    total device = total_of(stages, chain->count, "predicted", "device_memory");
    if (device.most)
        pare__json_set_int(o, "device_memory", device.most);
}

static void add_actual(const pare__chain *chain, pare_report **stages, pare__json *root)
{
    pare__json *o = pare__json_set_object(root, "actual");
    bool resumed = false, one;
    for (size_t i = 0; i < chain->count; i++) {
        const pare__json *actual = pare__json_get(stages[i]->root, "actual");
        resumed |= pare__json_bool(pare__json_get(actual, "resumed"), &one) && one;
    }
    pare__json_set_int(o, "read_bytes", total_of(stages, chain->count, "actual", "read_bytes").sum);
    pare__json_set_int(o, "write_bytes",
                       total_of(stages, chain->count, "actual", "write_bytes").sum);
    pare__json_set_int(o, "peak_memory",
                       total_of(stages, chain->count, "actual", "peak_memory").most);
    total device = total_of(stages, chain->count, "actual", "device_memory");
    if (device.most)
        pare__json_set_int(o, "device_memory", device.most);
    pare__json_set_real(o, "seconds", seconds_of(stages, chain->count, "actual"));
    pare__json_set_bool(o, "resumed", resumed);
    pare__json_set_int(o, "chunks_done_before",
                       total_of(stages, chain->count, "actual", "chunks_done_before").sum);
}

/* From the first checkpoint to the last. */
static void add_result(const pare__json *first, const pare__json *last, pare__json *root)
{
    const pare__json *from = pare__json_get(first, "result"), *to = pare__json_get(last, "result");
    int64_t in = pare__report_int(from, "bytes_in"), out = pare__report_int(to, "bytes_out");
    pare__json *o = pare__json_set_object(root, "result");
    copy_member(o, to, "parameters");
    copy_member(o, to, "zeros");
    copy_member(o, to, "sparsity");
    copy_member(o, to, "pruned");
    copy_member(o, to, "bits_per_weight");
    pare__json_set_int(o, "bytes_in", in);
    pare__json_set_int(o, "bytes_out", out);
    pare__json_set_real(o, "ratio", out ? (double)in / (double)out : 0);
}

static void add_output(const pare__chain *chain, const pare__json *last, pare__json *root)
{
    const pare__json *from = pare__json_get(last, "output");
    pare__json *o = pare__json_set_object(root, "output");
    pare__json_set_string(o, "path", chain->recipe->output);
    copy_member(o, from, "format");
    copy_member(o, from, "files");
    copy_member(o, from, "bytes");
}

static pare_status fill(const pare__chain *chain, pare_report **stages, pare__json *root)
{
    const pare__json *first = NULL, *last = NULL;
    char *text = NULL;
    for (size_t i = 0; i < chain->count; i++)
        if (chain->stages[i].kind != PARE__STAGE_EVAL) {
            first = first ? first : stages[i]->root;
            last = stages[i]->root;
        }
    copy_member(root, first, "model");
    add_output(chain, last, root);
    PARE_TRY(pare_recipe_text(chain->recipe, &text));
    pare__json_set_string(root, "recipe", text);
    free(text);
    add_predicted(chain, stages, last, root);
    if (pare__json_get(last, "actual")) {
        add_actual(chain, stages, root);
        add_result(first, last, root);
    }
    pare__json *steps = pare__json_set_array(root, "steps");
    for (size_t i = 0; i < chain->count; i++) {
        pare__json *step = pare__json_set(steps, NULL, pare__json_copy(stages[i]->root));
        pare__json_remove(step, "version");
        if (chain->stages[i].kind != PARE__STAGE_EVAL && chain->stages[i].kind != PARE__STAGE_TRAIN)
            continue;
        pare__json_remove(step, "steps"); /* a training's are a number */
        pare_recipe alone = chain->stages[i].recipe;
        alone.steps = (pare_step *)(uintptr_t)&chain->stages[i].step;
        PARE_TRY(pare__recipe_steps(&alone, pare__json_set_array(step, "steps")));
    }
    return PARE_OK;
}

pare_status pare__chain_report(const pare__chain *chain, const char *kind, pare_report **stages,
                               pare_report **report)
{
    pare_status status = PARE_OK;
    pare_report *r = NULL;
    PARE_TRY_DONE(pare__report_new(kind, &r));
    PARE_TRY_DONE(fill(chain, stages, r->root));
    *report = r;
    r = NULL;
done:
    pare_report_free(&r);
    return status;
}
