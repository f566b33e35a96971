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

/* ---- train ----------------------------------------------------------------------------------- */

static bool curve_of(const struct args *args, pare_curve *curve)
{
    static const char *const words[] = {"cosine", "linear", "step", "constant", NULL};
    const struct option_value *v = args->value;
    int word = v[OPT_SCHEDULE].given ? word_of("schedule", v[OPT_SCHEDULE].text, words) : 0;
    if (word < 0)
        return false;
    *curve = (pare_curve){.kind = (pare_schedule)word,
                          .rate = v[OPT_LR].real,
                          .final_rate = v[OPT_FINAL_LR].real,
                          .steps = v[OPT_STEPS].whole,
                          .warmup = v[OPT_WARMUP].whole,
                          .gamma = v[OPT_GAMMA].real};
    if (!v[OPT_MILESTONES].given)
        return true;
    curve->milestone_count = numbers(v[OPT_MILESTONES].text, curve->milestones, 8);
    for (int i = 0; i < curve->milestone_count; i++)
        if (curve->milestones[i] <= (i ? curve->milestones[i - 1] : 0) || curve->milestones[i] >= 1)
            curve->milestone_count = -1;
    if (curve->milestone_count < 0)
        complain(2, "--milestones: \"%s\" is not one to eight rising numbers between 0 and 1",
                 v[OPT_MILESTONES].text);
    return curve->milestone_count >= 0;
}

static bool betas_of(const struct option_value *v, pare_train_options *o)
{
    double list[2];
    if (!v->given)
        return true;
    if (numbers(v->text, list, 2) != 2 || !(list[0] > 0 && list[0] < 1) ||
        !(list[1] > 0 && list[1] < 1)) {
        complain(2, "--betas: \"%s\" is not two numbers above 0 and below 1", v->text);
        return false;
    }
    o->beta1 = list[0];
    o->beta2 = list[1];
    return true;
}

static double given_or(const struct option_value *v, double otherwise)
{
    return v->given ? v->real : otherwise;
}

/* What depends on the model's kind is filled in by the library: negative stands for "not given". */
static bool train_of(const struct args *args, pare_train_options *o)
{
    static const char *const words[] = {"sgd", "adamw", NULL};
    const struct option_value *v = args->value;
    int word = v[OPT_OPTIMIZER].given ? word_of("optimizer", v[OPT_OPTIMIZER].text, words) : 2;
    *o = (pare_train_options){.optimiser = word == 0   ? PARE_SGD
                                           : word == 1 ? PARE_ADAMW
                                                       : PARE_OPTIMISER_DEFAULT,
                              .batch = v[OPT_BATCH].whole,
                              .accumulate = v[OPT_ACCUMULATE].whole,
                              .momentum = given_or(&v[OPT_MOMENTUM], 0.9),
                              .nesterov = v[OPT_NESTEROV].given,
                              .decay = given_or(&v[OPT_WEIGHT_DECAY], -1),
                              .clip = given_or(&v[OPT_CLIP], -1),
                              .smoothing = v[OPT_LABEL_SMOOTHING].real,
                              .ema = v[OPT_EMA].real,
                              .freeze = args->freeze,
                              .freezes = args->freezes,
                              .seed = v[OPT_SEED].seed,
                              .save_every = v[OPT_SAVE_EVERY].whole};
    if (word < 0 || !curve_of(args, &o->curve) || !betas_of(&v[OPT_BETAS], o) ||
        !precision_of(args, &o->compute))
        return false;
    if (!v[OPT_LR].given)
        o->curve.rate = -1;
    return true;
}

static int check_train(const struct option_value *v)
{
    if (!v[OPT_OUTPUT].given)
        return complain(2, "train needs -o OUT: where the model goes; its ending decides the "
                           "container");
    if (!v[OPT_DATA].given)
        return complain(2, "train needs --data: what to learn from");
    if (v[OPT_STEPS].given && v[OPT_EPOCHS].given)
        return complain(2, "--steps and --epochs both say how long to train; give one");
    if (!v[OPT_STEPS].given && !(v[OPT_EPOCHS].real > 0))
        return complain(2, "train needs --epochs or --steps: how long to train");
    if (v[OPT_GAMMA].given && !(v[OPT_GAMMA].real > 0))
        return complain(2, "--gamma: a rate of 0 learns nothing; give a number above 0");
    if (v[OPT_EMA].given && v[OPT_EMA].real >= 1)
        return complain(2, "--ema: %s would never move; give a number below 1", v[OPT_EMA].text);
    if (v[OPT_MOMENTUM].given && v[OPT_MOMENTUM].real >= 1)
        return complain(2, "--momentum: %s would never settle; give a number below 1",
                        v[OPT_MOMENTUM].text);
    return 0;
}

int cmd_train(const struct args *args)
{
    const struct option_value *v = args->value;
    struct session session;
    pare_report *report = NULL;
    pare_train_job job = {.epochs = v[OPT_EPOCHS].real,
                          .keep_masks = !v[OPT_NO_MASKS].given,
                          .max_shard_size = v[OPT_MAX_SHARD_SIZE].whole};
    int code = check_train(v);
    if (code)
        return code;
    if (!model_of(args, args->operand[0], true, &job.model) || !train_of(args, &job.train))
        return 2;
    job.data = data_of(args, OPT_DATA, OPT_LABELS);
    job.data.shuffle = true;
    job.data.crop = (int)(v[OPT_CROP].whole < 4096 ? v[OPT_CROP].whole : 4096);
    job.data.flip = v[OPT_FLIP].given;
    job.data.mixup = (float)v[OPT_MIXUP].real;
    job.eval = data_of(args, OPT_EVAL_DATA, OPT_EVAL_LABELS);
    job.eval.skip = job.eval.samples = 0;
    char *output = copy_output(args);
    if (!output)
        return complain(4, "out of memory");
    job.output = output;
    code = session_begin(args, &session);
    if (code == 0) {
        pare_status status = pare_train(&job, v[OPT_PLAN].given, &session.options, &report);
        code = finish(args, &session, status, report);
    }
    free(output);
    return code;
}
