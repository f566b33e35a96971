/* cmd_learn.c - train and eval: jobs made from options. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* "0.9,0.999" into at most `most` numbers; how many, or -1. */
static int numbers(const char *text, double *list, int most)
{
    int count = 0;
    for (;;) {
        char *end;
        if (count == most || !*text || strchr(", \t", *text))
            return -1;
        list[count++] = strtod(text, &end);
        if (end == text || (*end && *end != ','))
            return -1;
        if (!*end)
            return count;
        text = end + 1;
    }
}

int word_of(const char *option, const char *text, const char *const *words)
{
    char list[128] = "";
    for (int i = 0; words[i]; i++) {
        if (strcmp(words[i], text) == 0)
            return i;
        size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", words[i]);
    }
    const char *near = nearest_word(text, words);
    complain(2, "--%s: \"%s\" is none of %s%s%s%s", option, text, list,
             near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    return -1;
}

/* ---- model and data -------------------------------------------------------------------------- */

/* Channels' means or deviations; false after saying what is wrong. */
static bool channels(const struct option_value *v, const char *name, bool *has, float out[4])
{
    double list[4];
    *has = v->given;
    if (!v->given)
        return true;
    int count = numbers(v->text, list, 4);
    if (count < 1) {
        complain(2, "--%s: \"%s\" is not one to four numbers with commas between", name, v->text);
        return false;
    }
    for (int c = 0; c < 4; c++)
        out[c] = (float)list[c < count ? c : count - 1];
    return true;
}

/* A path that is there is a checkpoint; anything else stands for an architecture (`scratch`). */
static bool model_of(const struct args *args, const char *operand, bool scratch,
                     pare_model_choice *model)
{
    const struct option_value *v = args->value;
    double scale = 0;
    model->arch = v[OPT_ARCH].text;
    if (scratch && access(operand, F_OK) != 0 && !strchr(operand, '/'))
        model->arch = operand;
    else
        model->checkpoint = operand;
    model->has_scale = v[OPT_SCALE].given;
    if (v[OPT_SCALE].given && numbers(v[OPT_SCALE].text, &scale, 1) != 1) {
        complain(2, "--scale: \"%s\" is not a number", v[OPT_SCALE].text);
        return false;
    }
    model->scale = (float)scale;
    return channels(&v[OPT_MEAN], "mean", &model->has_mean, model->mean) &&
           channels(&v[OPT_STD], "std", &model->has_std, model->std);
}

static pare_data_options data_of(const struct args *args, enum option_id path,
                                 enum option_id labels)
{
    const struct option_value *v = args->value;
    return (pare_data_options){.path = v[path].text,
                               .labels = v[labels].text,
                               .seq_len = v[OPT_SEQ_LEN].whole,
                               .stride = v[OPT_STRIDE].whole,
                               .pad_id = v[OPT_PAD_ID].given ? v[OPT_PAD_ID].whole : -2,
                               .bos_id = v[OPT_BOS_ID].given ? v[OPT_BOS_ID].whole : -1,
                               .skip = v[OPT_SKIP].whole,
                               .samples = v[OPT_SAMPLES].whole,
                               .draw = v[OPT_SHUFFLE].given,
                               .seed = v[OPT_SEED].seed};
}

bool precision_of(const struct args *args, pare_dtype *compute)
{
    static const char *const words[] = {"f32", "bf16", NULL};
    const struct option_value *v = &args->value[OPT_PRECISION];
    int word = v->given ? word_of("precision", v->text, words) : 0;
    *compute = word == 1 ? PARE_BF16 : PARE_F32;
    return word >= 0;
}

/* ---- eval ------------------------------------------------------------------------------------ */

static bool metrics_of(const char *text, unsigned *metrics)
{
    static const char *const words[] = {"loss", "ppl", "top1", "top5", "kld", "cosine", NULL};
    char word[32];
    while (text && *text) {
        size_t length = strcspn(text, ",");
        snprintf(word, sizeof word, "%.*s", (int)length, text);
        int index = word_of("metric", word, words);
        if (index < 0)
            return false;
        *metrics |= 1u << index;
        text += length + (text[length] == ',');
    }
    return true;
}

static int finish(const struct args *args, struct session *session, pare_status status,
                  pare_report *report)
{
    session_end(session);
    int code = status == PARE_OK ? show_report(args, report) : complain_status(args, status);
    pare_report_free(&report);
    return code;
}

int cmd_eval(const struct args *args)
{
    const struct option_value *v = args->value;
    struct session session;
    pare_report *report = NULL;
    pare_eval_job job = {.batch = v[OPT_BATCH].whole, .outputs = v[OPT_OUTPUTS].text};
    if (!v[OPT_DATA].given)
        return complain(2, "eval needs --data: what to measure on");
    if (!model_of(args, args->operand[0], false, &job.model) || !precision_of(args, &job.compute) ||
        !metrics_of(v[OPT_METRIC].text, &job.metrics))
        return 2;
    if (job.outputs && access(job.outputs, F_OK) == 0 && !v[OPT_OVERWRITE].given)
        return complain(2, "%s exists; give another name, or --overwrite", job.outputs);
    job.against = job.model;
    job.against.checkpoint = v[OPT_AGAINST].text;
    job.data = data_of(args, OPT_DATA, OPT_LABELS);
    int code = session_begin(args, &session);
    if (code)
        return code;
    pare_status status = pare_eval(&job, v[OPT_PLAN].given, &session.options, &report);
    return finish(args, &session, status, report);
}

/* ---- train and distill ----------------------------------------------------------------------- */

/* Options that say what a key of a recipe's step says. */
static const struct {
    enum option_id id;
    const char *key;
} keys[] = {
    {OPT_DATA, "data"},
    {OPT_LABELS, "labels"},
    {OPT_EVAL_DATA, "eval"},
    {OPT_EVAL_LABELS, "eval_labels"},
    {OPT_SEQ_LEN, "seq_len"},
    {OPT_PAD_ID, "pad_id"},
    {OPT_BOS_ID, "bos_id"},
    {OPT_SAMPLES, "samples"},
    {OPT_SKIP, "skip"},
    {OPT_CROP, "crop"},
    {OPT_FLIP, "flip"},
    {OPT_MIXUP, "mixup"},
    {OPT_STEPS, "steps"},
    {OPT_EPOCHS, "epochs"},
    {OPT_BATCH, "batch"},
    {OPT_ACCUMULATE, "accumulate"},
    {OPT_OPTIMIZER, "optimizer"},
    {OPT_LR, "lr"},
    {OPT_SCHEDULE, "schedule"},
    {OPT_WARMUP, "warmup"},
    {OPT_FINAL_LR, "final_lr"},
    {OPT_MILESTONES, "milestones"},
    {OPT_GAMMA, "gamma"},
    {OPT_MOMENTUM, "momentum"},
    {OPT_NESTEROV, "nesterov"},
    {OPT_BETAS, "betas"},
    {OPT_WEIGHT_DECAY, "weight_decay"},
    {OPT_CLIP, "clip"},
    {OPT_LABEL_SMOOTHING, "label_smoothing"},
    {OPT_EMA, "ema"},
    {OPT_PRECISION, "precision"},
    {OPT_SAVE_EVERY, "save_every"},
    {OPT_TEACHER, "teacher"},
    {OPT_TEACHER_ARCH, "teacher_arch"},
    {OPT_TEACHER_PRECISION, "teacher_precision"},
    {OPT_INIT, "init"},
    {OPT_LOSS, "loss"},
    {OPT_TEMPERATURE, "temperature"},
    {OPT_DIVERGENCE, "divergence"},
    {OPT_LAYERS, "layers"},
    {OPT_HIDDEN, "hidden"},
    {OPT_ATTENTION, "attention"},
    {OPT_RELATION_HEADS, "relation_heads"},
    {OPT_RELATION_LAYER, "relation_layer"},
    {OPT_CACHE, "cache"},
    {OPT_CACHE_K, "cache_k"},
    {OPT_MASKS, "masks"},
    {OPT_SPARSITY, "sparsity"},
    {OPT_METHOD, "method"},
    {OPT_PATTERN, "pattern"},
    {OPT_SCOPE, "scope"},
    {OPT_ERK, "erk"},
    {OPT_BEGIN, "begin"},
    {OPT_END, "end"},
    {OPT_EACH, "each"},
    {OPT_ROUNDS, "rounds"},
    {OPT_REWIND, "rewind"},
    {OPT_FRACTION, "fraction"},
    {OPT_REVIVE, "revive"},
    {OPT_QAT, "qat"},
    {OPT_QAT_FIXED, "qat_fixed"},
    {OPT_QAT_FIRST_LAST, "qat_first_last"},
    {OPT_LORA, "lora"},
    {OPT_LORA_ALPHA, "lora_alpha"},
    {OPT_ADAPTER, "adapter"},
};

/* The library's sentence about a key ("weight_decay: …") in the words of an option. */
static int refuse_option(const char *option)
{
    const char *sentence = pare_last_error(), *colon = strchr(sentence, ':');
    return complain(2, "--%s%s", option, colon ? colon : "");
}

static int set_globs(pare_train_step *step, const char *key, char *const *globs, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (pare_train_step_set(step, key, globs[i], NULL) != PARE_OK)
            return refuse_option(key);
    return 0;
}

static int set_all(const struct args *args, pare_train_step *step)
{
    const struct option_value *v = args->value;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const struct option_row *row = &option_rows[keys[i].id];
        if (!v[keys[i].id].given)
            continue;
        const char *text = row->kind == KIND_FLAG ? "true" : v[keys[i].id].text;
        if (pare_train_step_set(step, keys[i].key, text, NULL) != PARE_OK)
            return refuse_option(row->name);
    }
    if (v[OPT_NO_MASKS].given && pare_train_step_set(step, "keep_masks", "false", NULL) != PARE_OK)
        return refuse_option("no-masks");
    int code = set_globs(step, "freeze", args->freeze, args->freezes);
    if (!code)
        code = set_globs(step, "include", args->choice.include, args->choice.includes);
    if (!code)
        code = set_globs(step, "exclude", args->choice.exclude, args->choice.excludes);
    return code;
}

static int check_train(const struct args *args)
{
    const struct option_value *v = args->value;
    const char *name = args->command->name;
    if (!v[OPT_OUTPUT].given)
        return complain(2,
                        "%s needs -o OUT: where the model goes; its ending decides the "
                        "container",
                        name);
    if (!v[OPT_DATA].given)
        return complain(2, "%s needs --data: what to learn from", name);
    if (v[OPT_STEPS].given && v[OPT_EPOCHS].given)
        return complain(2, "--steps and --epochs both say how long to train; give one");
    if (!v[OPT_STEPS].given && !(v[OPT_EPOCHS].real > 0))
        return complain(2, "%s needs --epochs or --steps: how long to train", name);
    if (v[OPT_GAMMA].given && !(v[OPT_GAMMA].real > 0))
        return complain(2, "--gamma: a rate of 0 learns nothing; give a number above 0");
    if (v[OPT_EMA].given && v[OPT_EMA].real >= 1)
        return complain(2, "--ema: %s would never move; give a number below 1", v[OPT_EMA].text);
    if (v[OPT_MOMENTUM].given && v[OPT_MOMENTUM].real >= 1)
        return complain(2, "--momentum: %s would never settle; give a number below 1",
                        v[OPT_MOMENTUM].text);
    return 0;
}

/* "6x384,ffn=1536": digits, an x, digits. */
static bool is_shape(const char *text)
{
    size_t layers = strspn(text, "0123456789");
    return layers > 0 && text[layers] == 'x' && text[layers + 1] >= '0' &&
           text[layers + 1] <= '9' && access(text, F_OK) != 0;
}

static int learn(const struct args *args, const pare_train_job *said)
{
    const struct option_value *v = args->value;
    struct session session;
    pare_report *report = NULL;
    pare_train_job job = *said;
    bool distill = args->command->run == cmd_distill;
    const char *operand = distill ? v[OPT_STUDENT].text : args->operand[0];
    if (distill && is_shape(operand))
        job.student = operand;
    else if (!model_of(args, operand, true, &job.model))
        return 2;
    job.data.draw = v[OPT_SHUFFLE].given;
    job.max_shard_size = v[OPT_MAX_SHARD_SIZE].whole;
    char *output = copy_output(args);
    if (!output)
        return complain(4, "out of memory");
    job.output = output;
    int code = session_begin(args, &session);
    if (code == 0) {
        pare_status status = pare_train(&job, v[OPT_PLAN].given, &session.options, &report);
        code = finish(args, &session, status, report);
    }
    free(output);
    return code;
}

int cmd_train(const struct args *args)
{
    pare_train_step *step = NULL;
    const pare_train_job *job;
    int code = check_train(args);
    if (code)
        return code;
    if (pare_train_step_create(args->value[OPT_SEED].seed, &step) != PARE_OK)
        return complain(4, "out of memory");
    code = set_all(args, step);
    if (code == 0 && pare_train_step_job(step, &job) != PARE_OK)
        code = complain(2, "%s: %s", args->command->name, pare_last_error());
    if (code == 0)
        code = learn(args, job);
    pare_train_step_free(&step);
    return code;
}

int cmd_distill(const struct args *args)
{
    const struct option_value *v = args->value;
    if (!v[OPT_TEACHER].given)
        return complain(2, "distill needs --teacher: the checkpoint to learn from");
    if (!v[OPT_STUDENT].given)
        return complain(2, "distill needs --student: a checkpoint, or a shape such as 6x384");
    return cmd_train(args);
}
