/* cmd_compress.c - prune, quantize, convert: recipes of one step, made from options. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* A recipe with model, seed, output and format, for the commands below to add to. NULL with the
 * exit code in *code. */
static pare_recipe *begin(const struct args *args, int *code)
{
    const struct option_value *v = args->value;
    pare_recipe *recipe = NULL;
    const char *format = NULL;
    pare_status status = PARE_OK;
    if (!v[OPT_OUTPUT].given) {
        *code =
            complain(2, "%s needs -o OUT: where the result goes; its ending decides the container",
                     args->command->name);
        return NULL;
    }
    if (v[OPT_TO].given)
        status = pare_export_format_parse(v[OPT_TO].text, &format);
    if (status == PARE_OK)
        status = pare_recipe_new(&recipe);
    if (status != PARE_OK) {
        *code = complain_status(args, status);
        return NULL;
    }
    recipe->seed = v[OPT_SEED].seed;
    recipe->max_shard_size = v[OPT_MAX_SHARD_SIZE].whole;
    recipe->model = strdup(args->operand[0]);
    recipe->output = copy_output(args);
    recipe->format = format ? strdup(format) : NULL;
    if (!recipe->model || !recipe->output || (format && !recipe->format)) {
        *code = complain(4, "out of memory");
        pare_recipe_free(&recipe);
    }
    return recipe;
}

/* Gives the recipe up after a failure. */
static int refuse(const struct args *args, pare_recipe *recipe, pare_status status)
{
    int code = complain_status(args, status);
    pare_recipe_free(&recipe);
    return code;
}

static int out_of_memory(pare_recipe *recipe)
{
    pare_recipe_free(&recipe);
    return complain(4, "out of memory");
}

/* ---- calibration ----------------------------------------------------------------------------- */

static bool copy(const struct option_value *v, char **text)
{
    *text = v->given ? strdup(v->text) : NULL;
    return !v->given || *text;
}

/* The recipe's one step, with what the options say of data. 0 or an exit code. */
static int add_step(const struct args *args, pare_recipe *recipe)
{
    static const char *const ways[] = {"compressed", "dense", NULL};
    const struct option_value *v = args->value;
    pare_step *step = recipe->steps = calloc(1, sizeof *step);
    if (!step)
        return complain(4, "out of memory");
    recipe->step_count = 1;
    step->prunes = recipe->prune_count;
    step->quants = recipe->quant_count;
    pare_calibration *c = &step->calibration;
    if (!copy(&v[OPT_DATA], &c->path) || !copy(&v[OPT_LABELS], &c->labels) ||
        !copy(&v[OPT_CACHE], &c->cache) || !copy(&v[OPT_ARCH], &recipe->arch))
        return complain(4, "out of memory");
    c->samples = v[OPT_SAMPLES].whole;
    c->seq_len = v[OPT_SEQ_LEN].whole;
    c->skip = v[OPT_SKIP].whole;
    c->shuffle = v[OPT_SHUFFLE].given;
    c->pad_id = v[OPT_PAD_ID].given ? v[OPT_PAD_ID].whole : -2;
    c->batch = v[OPT_BATCH].whole;
    int way = v[OPT_PROPAGATE].given ? word_of("propagate", v[OPT_PROPAGATE].text, ways) : 0;
    c->dense = way == 1;
    c->per_block = v[OPT_NO_TRUE_SEQUENTIAL].given;
    c->errors = v[OPT_ERRORS].given;
    return way < 0 || !precision_of(args, &c->compute) ? 2 : 0;
}

/* The step is whole: does it, unless its method lacks data. */
static int do_step(const struct args *args, pare_recipe *recipe, const char *method)
{
    int code = add_step(args, recipe);
    if (code == 0 && !args->value[OPT_DATA].given &&
        pare_step_needs_data(recipe, &recipe->steps[0]))
        code = complain(2,
                        "%s needs calibration data here: give --data, some samples of what the "
                        "model is for",
                        method);
    if (code) {
        pare_recipe_free(&recipe);
        return code;
    }
    return do_recipe(args, recipe, args->value[OPT_PLAN].given);
}

/* ---- prune ----------------------------------------------------------------------------------- */

int cmd_prune(const struct args *args)
{
    const struct option_value *v = args->value;
    int code = 0;
    pare_recipe *recipe = begin(args, &code);
    if (!recipe)
        return code;
    pare_prune_step *step = recipe->prunes = calloc(1, sizeof *step);
    if (!step)
        return out_of_memory(recipe);
    recipe->prune_count = 1;
    pare_status status = pare_prune_method_parse(
        v[OPT_METHOD].given ? v[OPT_METHOD].text : "magnitude", &step->method);
    if (status == PARE_OK && v[OPT_PATTERN].given)
        status = pare_pattern_parse(v[OPT_PATTERN].text, &step->pattern);
    if (status == PARE_OK)
        status = pare_spread_parse(v[OPT_SCOPE].text, v[OPT_BUDGET].text, step);
    if (status != PARE_OK)
        return refuse(args, recipe, status);
    bool nm = step->pattern.kind == PARE_PATTERN_NM;
    if (nm == v[OPT_SPARSITY].given) {
        pare_recipe_free(&recipe);
        return nm ? complain(2, "--sparsity: pattern %s has its own, 1 - N/M; leave --sparsity out",
                             v[OPT_PATTERN].text)
                  : complain(2,
                             "prune needs --sparsity, the share of the weights to remove, 0 to 1");
    }
    step->sparsity = v[OPT_SPARSITY].real;
    step->multiple = v[OPT_MULTIPLE].whole;
    step->damping = v[OPT_DAMPING].real;
    if (!choice_append(&step->choice, &args->choice))
        return out_of_memory(recipe);
    return do_step(args, recipe, step->method->name);
}

/* ---- quantize -------------------------------------------------------------------------------- */

/* --schemes between commas. */
static pare_status mixed_of(const char *text, pare_mixed *mixed)
{
    char word[64];
    size_t most = 1;
    for (const char *c = text; *c; c++)
        most += *c == ',';
    mixed->schemes = calloc(most, sizeof *mixed->schemes);
    if (!mixed->schemes)
        return PARE_ERR_MEMORY;
    while (mixed->count < most) {
        size_t length = strcspn(text, ",");
        snprintf(word, sizeof word, "%.*s", (int)length, text);
        pare_status status = pare_scheme_parse(word, &mixed->schemes[mixed->count]);
        if (status != PARE_OK)
            return status;
        mixed->count++;
        text += length + (text[length] == ',');
    }
    return PARE_OK;
}

/* --scheme, or --schemes with their budget. 0 or an exit code after saying what is wrong. */
static int check_schemes(const struct option_value *v)
{
    if (!v[OPT_SCHEME].given && !v[OPT_SCHEMES].given)
        return complain(
            2,
            "quantize needs --scheme, such as w4g128, w8 or fp8; pare quantize --help lists them");
    if (v[OPT_SCHEME].given && v[OPT_SCHEMES].given)
        return complain(2, "--scheme and --schemes both say how to store weights; give one");
    if (v[OPT_SCHEMES].given && v[OPT_BITS].given == v[OPT_BYTES].given)
        return complain(2, "--schemes needs a budget, either --bits (such as 4.25) or --bytes");
    if (!v[OPT_SCHEMES].given &&
        (v[OPT_BITS].given || v[OPT_BYTES].given || v[OPT_SENSITIVITY].given))
        return complain(2, "--bits, --bytes and --sensitivity go with --schemes, a list of schemes "
                           "to choose from");
    if (v[OPT_BITS].given && !(v[OPT_BITS].real > 0))
        return complain(2, "--bits: 0 bits hold nothing; give a number above 0");
    if (v[OPT_GRID].given && v[OPT_GRID].whole > 1000)
        return complain(2, "--grid: %s scales are more than 1000", v[OPT_GRID].text);
    return 0;
}

static pare_status scheme_of(const struct option_value *v, pare_quant_step *step)
{
    pare_status status = v[OPT_SCHEMES].given
                             ? mixed_of(v[OPT_SCHEMES].text, &step->mixed)
                             : pare_scheme_parse(v[OPT_SCHEME].text, &step->scheme);
    if (step->mixed.count)
        step->scheme = step->mixed.schemes[0];
    step->mixed.bits = v[OPT_BITS].real;
    step->mixed.bytes = v[OPT_BYTES].whole;
    if (status == PARE_OK && v[OPT_SCALE].given)
        status = pare_scale_parse(v[OPT_SCALE].text, step);
    return status;
}

int cmd_quantize(const struct args *args)
{
    static const char *const harms[] = {"output", "kld", NULL};
    const struct option_value *v = args->value;
    int code = check_schemes(v);
    int harm = v[OPT_SENSITIVITY].given ? word_of("sensitivity", v[OPT_SENSITIVITY].text, harms)
                                        : v[OPT_SCHEMES].given; /* kld */
    if (code || harm < 0)
        return 2;
    pare_recipe *recipe = begin(args, &code);
    if (!recipe)
        return code;
    pare_quant_step *step = recipe->quants = calloc(1, sizeof *step);
    if (!step)
        return out_of_memory(recipe);
    recipe->quant_count = 1;
    pare_status status =
        pare_quant_method_parse(v[OPT_METHOD].given ? v[OPT_METHOD].text : "rtn", &step->method);
    if (status == PARE_OK)
        status = scheme_of(v, step);
    if (status != PARE_OK)
        return refuse(args, recipe, status);
    step->mixed.kld = harm == 1;
    step->tuning = (pare_quant_tuning){.damping = v[OPT_DAMPING].real,
                                       .act_order = v[OPT_ACT_ORDER].given,
                                       .alpha = v[OPT_ALPHA].real,
                                       .grid = (int)v[OPT_GRID].whole,
                                       .no_clip = v[OPT_NO_CLIP].given};
    if (!choice_append(&step->choice, &args->choice))
        return out_of_memory(recipe);
    return do_step(args, recipe, v[OPT_SCHEMES].given ? "--schemes" : step->method->name);
}

/* ---- convert --------------------------------------------------------------------------------- */

int cmd_convert(const struct args *args)
{
    int code = 0;
    pare_recipe *recipe = begin(args, &code);
    return recipe ? do_recipe(args, recipe, args->value[OPT_PLAN].given) : code;
}
