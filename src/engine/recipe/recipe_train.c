/* recipe_train.c - train and distill steps: a map of the keys of train_words.c. */
#include "recipe_impl.h"

#include "base/alloc.h"
#include "base/check.h"

#include <string.h>

#define MOST_KEYS 128

/* The key of a name if the step may have it; else a problem is noted. */
static const pare_train_key *find_key(pare__reader *r, const pare__yaml *node, bool distill)
{
    const char *names[MOST_KEYS + 1], *step = distill ? "distill" : "train";
    size_t count = 0;
    const pare_train_key *key, *other = NULL;
    for (size_t i = 0; (key = pare_train_key_at(i)) != NULL && count < MOST_KEYS; i++) {
        bool fits = distill || !key->teacher;
        if (node->text && strcmp(key->name, node->text) == 0) {
            if (fits)
                return key;
            other = key;
        }
        if (fits)
            names[count++] = key->name;
    }
    names[count] = NULL;
    const char *near = node->text ? pare__nearest(node->text, names) : NULL;
    if (other)
        pare__problem_add(&r->problems, node, "%s: %s belongs to distill steps", step, other->name);
    else
        pare__problem_add(&r->problems, node, "%s: unknown key %s%s%s%s", step,
                          pare__show(node).text, near ? ", did you mean \"" : "", near ? near : "",
                          near ? "\"?" : "");
    return NULL;
}

static void set(pare__reader *r, pare_train_step *step, const pare__yaml *at, const char *key,
                const char *text)
{
    pare_status status = pare_train_step_set(step, key, text, NULL);
    if (status == PARE_ERR_ARGUMENT)
        pare__problem_last(&r->problems, at);
    else if (status != PARE_OK)
        r->problems.failed = true;
}

/* A scalar's text; NULL with a problem noted. */
static const char *scalar(pare__reader *r, const pare__yaml *node, const char *key)
{
    if (node->kind == PARE__YAML_SCALAR && node->text[0])
        return node->text;
    pare__problem_add(&r->problems, node, "%s: found %s, expected a value", key,
                      node->kind == PARE__YAML_SCALAR ? "nothing" : pare__show(node).text);
    return NULL;
}

/* A list of numbers or a map of losses as one text: "0.9,0.999", "kl:1,hidden:0.5". */
static void set_joined(pare__reader *r, pare_train_step *step, const pare__yaml *node,
                       const char *key)
{
    pare__text text = {0};
    char *joined = NULL;
    for (size_t i = 0; i < node->count; i++) {
        const char *item = scalar(r, node->items[i], key);
        if (!item) {
            pare__text_free(&text);
            return;
        }
        pare__text_add(&text, "%s", i ? "," : "");
        if (node->kind == PARE__YAML_MAP)
            pare__text_add(&text, "%s:", node->keys[i]->text);
        for (; *item; item++) /* "1 > 0.2" is "1>0.2" */
            if (*item != ' ')
                pare__text_bytes(&text, item, 1);
    }
    if (pare__text_take(&text, &joined) == PARE_OK)
        set(r, step, node, key, joined);
    else
        r->problems.failed = true;
    free(joined);
}

static void read_value(pare__reader *r, pare_train_step *step, const pare_train_key *key,
                       const pare__yaml *node)
{
    bool joins = strcmp(key->name, "betas") == 0 || strcmp(key->name, "milestones") == 0;
    bool losses = strcmp(key->name, "loss") == 0;
    if ((node->kind == PARE__YAML_LIST && joins) || (node->kind == PARE__YAML_MAP && losses)) {
        set_joined(r, step, node, key->name);
        return;
    }
    if (node->kind == PARE__YAML_LIST && key->list) {
        for (size_t i = 0; i < node->count; i++) {
            const char *text = scalar(r, node->items[i], key->name);
            if (text)
                set(r, step, node->items[i], key->name, text);
        }
        return;
    }
    const char *text = scalar(r, node, key->name);
    if (text)
        set(r, step, node, key->name, text);
}

static bool given(const pare__yaml *node, const char *key)
{
    for (size_t i = 0; i < node->count; i++)
        if (node->keys[i]->kind == PARE__YAML_SCALAR && strcmp(node->keys[i]->text, key) == 0)
            return true;
    return false;
}

/* What the recipe says for all steps. */
static void take_defaults(pare__reader *r, pare_train_step *step, const pare__yaml *node)
{
    const char *data = r->train ? r->train : r->calibration;
    const char *labels = r->train ? r->train_labels : r->labels;
    if (!given(node, "data") && data) {
        set(r, step, node, "data", data);
        if (labels && !given(node, "labels"))
            set(r, step, node, "labels", labels);
    } else if (!given(node, "data")) {
        pare__problem_add(&r->problems, node,
                          "data is missing: give data: PATH, or data: { train: PATH } for all "
                          "steps");
    }
}

void pare__read_train_step(pare__reader *r, const pare__yaml *node, bool distill)
{
    const char *name = distill ? "distill" : "train";
    pare_step step = {
        .kind = PARE_STEP_TRAIN, .prune = r->recipe->prune_count, .quant = r->recipe->quant_count};
    const pare_train_job *job;
    if (node->kind != PARE__YAML_MAP) {
        pare__problem_add(&r->problems, node, "%s: found %s, expected a map with steps or epochs",
                          name, pare__show(node).text);
        return;
    }
    if (pare_train_step_create(r->recipe->seed, &step.train) != PARE_OK) {
        r->problems.failed = true;
        return;
    }
    size_t problems = r->problems.count;
    for (size_t i = 0; i < node->count; i++) {
        const pare_train_key *key = find_key(r, node->keys[i], distill);
        if (key)
            read_value(r, step.train, key, node->items[i]);
    }
    take_defaults(r, step.train, node);
    if (distill && !given(node, "teacher"))
        pare__problem_add(&r->problems, node,
                          "distill: teacher is missing: give the checkpoint "
                          "to learn from");
    r->problems.together = r->problems.count == problems;
    if (r->problems.together && pare_train_step_job(step.train, &job) != PARE_OK)
        pare__problem_last(&r->problems, node);
    r->problems.together = false;
    pare__add_step(r, &step);
}
