/* survey_keep.c - what was measured, as the report says it and as "<output>.survey.json" keeps it:
 * layers that are measured already need not be again when a run was cut. */
#include "survey.h"

#include "engine/recipe/recipe_impl.h"

#include <math.h>
#include <string.h>

#define MOST_BYTES ((int64_t)1 << 30)

static void add_layer(pare__json *list, const pare__survey *s, const pare__question *q,
                      const pare__survey_layer *l)
{
    char text[40];
    pare__json *o = pare__json_set_object(list, NULL);
    pare__json_set_string(o, "name", s->job->tasks[l->task].out.name);
    pare__json_set_int(o, "weights", l->weights);
    if (q->quant) {
        const pare_scheme scheme = pare__survey_scheme(q, l->choice, &s->job->tasks[l->task].out);
        pare__json_set_string(o, "scheme", pare_scheme_text(&scheme, text, sizeof text));
        pare__json_set_int(o, "choice", l->choice);
        pare__json_set_real(o, "bits_per_weight", (double)l->cost[l->choice] / (double)l->weights);
    } else {
        pare__json_set_real(o, "sparsity", l->sparsity);
    }
    pare__json *harm = pare__json_set_array(o, "harm");
    for (int i = 0; l->measured && i < q->options; i++)
        pare__json_set_real(harm, NULL, l->harm[i]);
}

pare__json *pare__survey_describe(const pare__survey *s)
{
    pare__json *list = pare__json_new_array();
    char text[40];
    for (size_t i = 0; i < s->count; i++) {
        const pare__question *q = &s->questions[i];
        pare__json *o = pare__json_set_object(list, NULL);
        pare__json_set_string(o, "of", q->quant ? "quantize" : "prune");
        pare__json_set_string(o, "by",
                              q->prune              ? pare_budget_name(q->prune->budget)
                              : q->quant->mixed.kld ? "kld"
                                                    : "output");
        pare__json *options = pare__json_set_array(o, "options");
        for (int k = 0; k < q->options; k++)
            if (q->quant)
                pare__json_set_string(
                    options, NULL,
                    pare_scheme_text(&q->quant->mixed.schemes[k], text, sizeof text));
            else if (q->steps)
                pare__json_set_real(options, NULL, q->steps[k]);
        pare__json *layers = pare__json_set_array(o, "layers");
        for (size_t l = 0; l < q->count; l++)
            add_layer(layers, s, q, &q->layers[l]);
    }
    return list;
}

/* ---- the file -------------------------------------------------------------------------------- */

static pare_status path_of(const pare_recipe *recipe, char **path)
{
    return pare__beside(recipe, ".survey.json", path);
}

/* All that a survey depends on. */
static pare_status make_key(const pare__survey *s, char **key)
{
    pare_status status = PARE_OK;
    char *recipe = NULL, *state = NULL;
    pare__text text = {0};
    PARE_TRY_DONE(pare_recipe_text(s->recipe, &recipe));
    PARE_TRY_DONE(pare__walk_cache_key(s->job->walker, &state));
    pare__text_add(&text, "%s%s", recipe, state);
    PARE_TRY_DONE(pare__text_take(&text, key));
done:
    pare__text_free(&text);
    free(recipe);
    free(state);
    return status;
}

pare_status pare__survey_keep(const pare__survey *s)
{
    pare_status status = PARE_OK;
    char *path = NULL, *key = NULL, *text = NULL;
    pare__json *root = pare__json_new_object(), *found = pare__survey_describe(s);
    PARE_TRY_DONE(make_key(s, &key));
    PARE_TRY_DONE(path_of(s->recipe, &path));
    pare__json_set_string(root, "key", key);
    pare__json_set(root, "survey", found);
    found = NULL;
    PARE_TRY_DONE(pare__json_dump(root, 1, false, &text));
    PARE_TRY_DONE(pare__file_save(path, text, (int64_t)strlen(text)));
done:
    pare__json_free(&found);
    pare__json_free(&root);
    free(path);
    free(key);
    free(text);
    return status;
}

/* A layer's harm, if all of it is there. */
static void take_layer(const pare__survey *s, const pare__question *q, const pare__json *kept,
                       pare__survey_layer *l)
{
    const pare__json *harm = pare__json_get(kept, "harm");
    const char *name = pare__json_string(pare__json_get(kept, "name"));
    if (!name || strcmp(name, s->job->tasks[l->task].out.name) != 0 ||
        pare__json_size(harm) != (size_t)q->options)
        return;
    for (int i = 0; i < q->options; i++)
        if (!pare__json_real(pare__json_at(harm, (size_t)i), &l->harm[i]) || !isfinite(l->harm[i]))
            return;
    l->measured = true;
}

/* A file that cannot be read, is damaged, or is of other work is as none. */
pare_status pare__survey_look_back(pare__survey *s)
{
    pare_status status = PARE_OK;
    char *path = NULL, *key = NULL, *text = NULL;
    int64_t size;
    pare__json *root = NULL;
    PARE_TRY_DONE(path_of(s->recipe, &path));
    if (!pare__exists(path) || pare__file_load(path, MOST_BYTES, &text, &size) != PARE_OK ||
        pare__json_parse(text, (size_t)size, path, &root) != PARE_OK)
        goto done;
    PARE_TRY_DONE(make_key(s, &key));
    const char *theirs = pare__json_string(pare__json_get(root, "key"));
    const pare__json *kept = pare__json_get(root, "survey");
    if (!theirs || strcmp(theirs, key) != 0 || pare__json_size(kept) != s->count)
        goto done;
    for (size_t i = 0; i < s->count; i++) {
        pare__question *q = &s->questions[i];
        const pare__json *layers = pare__json_get(pare__json_at(kept, i), "layers");
        for (size_t l = 0; l < q->count && pare__json_size(layers) == q->count; l++)
            take_layer(s, q, pare__json_at(layers, l), &q->layers[l]);
        /* One threshold is of all layers or of none. */
        for (size_t l = 0; pare__survey_by_threshold(q) && pare__survey_open(q) && l < q->count;
             l++)
            q->layers[l].measured = false;
    }
done:
    pare__json_free(&root);
    free(path);
    free(key);
    free(text);
    return status;
}

pare_status pare__survey_clean(const pare_recipe *recipe)
{
    char *path = NULL;
    PARE_TRY(path_of(recipe, &path));
    pare_status status = pare__exists(path) ? pare__remove_tree(path) : PARE_OK;
    free(path);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}
