/* survey_recipe.c - the decided recipe: every answer a step of its own that names its layers. */
#include "survey.h"

#include "engine/recipe/recipe_impl.h"

#include <string.h>

static pare_status add_glob(char ***globs, size_t *count, const char *text)
{
    char **grown = realloc(*globs, (*count + 1) * sizeof *grown);
    PARE_REQUIRE(grown, PARE_ERR_MEMORY, "out of memory");
    *globs = grown;
    PARE_TRY(pare__strdup(text, &grown[*count]));
    ++*count;
    return PARE_OK;
}

/* A glob that matches this name alone. */
static pare_status add_name(const pare__survey *s, int64_t task, pare_choice *choice)
{
    pare__text text = {0};
    char *glob = NULL;
    for (const char *c = s->job->tasks[task].out.name; *c; c++)
        pare__text_add(&text, "%s%c", strchr("*?[\\", *c) ? "\\" : "", *c);
    PARE_TRY(pare__text_take(&text, &glob));
    pare_status status = add_glob(&choice->include, &choice->includes, glob);
    free(glob);
    PARE_TRY(status);
    return PARE_OK;
}

static pare_status copy_choice(const pare_choice *from, pare_choice *to)
{
    for (size_t i = 0; i < from->includes; i++)
        PARE_TRY(add_glob(&to->include, &to->includes, from->include[i]));
    for (size_t i = 0; i < from->excludes; i++)
        PARE_TRY(add_glob(&to->exclude, &to->excludes, from->exclude[i]));
    return PARE_OK;
}

static const pare__question *question_of(const pare__survey *s, bool prune, size_t index)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->questions[i].index == index && (s->questions[i].prune != NULL) == prune)
            return &s->questions[i];
    return NULL;
}

/* Appends a copy of a step without its choice. */
static pare_status add_prune(pare_recipe *r, size_t *capacity, const pare_prune_step *asked,
                             pare_prune_step **step)
{
    PARE_TRY(pare__grow(&r->prunes, capacity, r->prune_count + 1, sizeof *r->prunes));
    *step = &r->prunes[r->prune_count++];
    **step = *asked;
    (*step)->choice = (pare_choice){0};
    return PARE_OK;
}

static pare_status add_quant(pare_recipe *r, size_t *capacity, const pare_quant_step *asked,
                             pare_quant_step **step)
{
    PARE_TRY(pare__grow(&r->quants, capacity, r->quant_count + 1, sizeof *r->quants));
    *step = &r->quants[r->quant_count++];
    **step = *asked;
    (*step)->choice = (pare_choice){0};
    return PARE_OK;
}

/* Layers with the same sparsity are one step, in the order of the first of them. */
static pare_status decide_prune(const pare__survey *s, size_t index, pare_recipe *r,
                                size_t *capacity)
{
    const pare_prune_step *asked = &s->recipe->prunes[index];
    const pare__question *q = question_of(s, true, index);
    pare_prune_step *step;
    if (!q) {
        PARE_TRY(add_prune(r, capacity, asked, &step));
        return copy_choice(&asked->choice, &step->choice);
    }
    size_t first = r->prune_count;
    for (size_t l = 0; l < q->count; l++) {
        step = NULL;
        for (size_t i = first; i < r->prune_count && !step; i++)
            if (!(r->prunes[i].sparsity < q->layers[l].sparsity) &&
                !(r->prunes[i].sparsity > q->layers[l].sparsity))
                step = &r->prunes[i];
        if (!step) {
            PARE_TRY(add_prune(r, capacity, asked, &step));
            step->sparsity = q->layers[l].sparsity;
            step->budget = PARE_BUDGET_UNIFORM;
        }
        PARE_TRY(add_name(s, q->layers[l].task, &step->choice));
    }
    return PARE_OK;
}

static bool is_chosen(const pare__question *q, int option)
{
    for (size_t l = 0; l < q->count; l++)
        if (q->layers[l].choice == option)
            return true;
    return false;
}

/* What the output refuses is named too: the run says so, as it does of any other step. */
static pare_status decide_quant(const pare__survey *s, size_t index, pare_recipe *r,
                                size_t *capacity)
{
    const pare_quant_step *asked = &s->recipe->quants[index];
    const pare__question *q = question_of(s, false, index);
    pare_quant_step *step = NULL;
    if (!q) {
        PARE_TRY(add_quant(r, capacity, asked, &step));
        return copy_choice(&asked->choice, &step->choice);
    }
    for (int i = 0; i < q->options; i++) {
        if (!is_chosen(q, i))
            continue;
        PARE_TRY(add_quant(r, capacity, asked, &step));
        step->mixed = (pare_mixed){0};
        step->scheme = asked->mixed.schemes[i];
        for (size_t l = 0; l < q->count; l++)
            if (q->layers[l].choice == i)
                PARE_TRY(add_name(s, q->layers[l].task, &step->choice));
    }
    for (size_t i = 0; step && i < q->refused_count; i++)
        PARE_TRY(add_name(s, q->refused[i], &step->choice));
    return PARE_OK;
}

pare_status pare__survey_write_recipe(const pare__survey *s, pare_recipe *decided)
{
    size_t prunes = 0, quants = 0;
    *decided = *s->recipe;
    decided->prunes = NULL;
    decided->quants = NULL;
    decided->steps = NULL;
    decided->prune_count = decided->quant_count = decided->step_count = 0;
    PARE_TRY(pare__calloc(1, sizeof *decided->steps, &decided->steps));
    decided->step_count = 1;
    for (size_t i = 0; i < s->recipe->prune_count; i++)
        PARE_TRY(decide_prune(s, i, decided, &prunes));
    for (size_t i = 0; i < s->recipe->quant_count; i++)
        PARE_TRY(decide_quant(s, i, decided, &quants));
    decided->steps[0] = s->recipe->steps[0];
    decided->steps[0].prune = decided->steps[0].quant = 0;
    decided->steps[0].prunes = decided->prune_count;
    decided->steps[0].quants = decided->quant_count;
    return PARE_OK;
}

void pare__survey_free_recipe(pare_recipe *decided)
{
    for (size_t i = 0; i < decided->prune_count; i++)
        pare__choice_free(&decided->prunes[i].choice);
    for (size_t i = 0; i < decided->quant_count; i++)
        pare__choice_free(&decided->quants[i].choice);
    free(decided->prunes);
    free(decided->quants);
    free(decided->steps);
    *decided = (pare_recipe){0};
}
