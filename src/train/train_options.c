/* train_options.c - what is asked of a training: defaults, what cannot be, what stays frozen; and
 * whether data fit a model. */
#include "train_impl.h"

#include <math.h>

static pare_status check_share(const char *name, double value)
{
    PARE_REQUIRE(value >= 0 && value < 1, PARE_ERR_ARGUMENT, "%s is %g; it lies in [0, 1)", name,
                 value);
    return PARE_OK;
}

static pare_status check_size(const char *name, double value)
{
    PARE_REQUIRE(value >= 0 && isfinite(value), PARE_ERR_ARGUMENT, "%s is %g; it is 0 or more",
                 name, value);
    return PARE_OK;
}

static pare_status check_curve(const pare_curve *curve)
{
    PARE_REQUIRE(curve->rate > 0 && isfinite(curve->rate), PARE_ERR_ARGUMENT,
                 "the learning rate is %g; it is above 0", curve->rate);
    PARE_REQUIRE(curve->steps >= 1, PARE_ERR_ARGUMENT,
                 "the training has %lld steps; it takes at least 1", (long long)curve->steps);
    PARE_REQUIRE(curve->warmup >= 0 && curve->warmup <= curve->steps, PARE_ERR_ARGUMENT,
                 "the warm-up is %lld of %lld steps; it is between 0 and all",
                 (long long)curve->warmup, (long long)curve->steps);
    PARE_REQUIRE(curve->final_rate >= 0 && curve->final_rate <= 1, PARE_ERR_ARGUMENT,
                 "the final learning rate is %g of the first; it lies in [0, 1]",
                 curve->final_rate);
    PARE_REQUIRE((unsigned)curve->kind <= PARE_SCHEDULE_CONSTANT, PARE_ERR_ARGUMENT,
                 "there is no learning-rate schedule %d", (int)curve->kind);
    int most = (int)(sizeof curve->milestones / sizeof *curve->milestones);
    PARE_REQUIRE(curve->milestone_count >= 0 && curve->milestone_count <= most, PARE_ERR_ARGUMENT,
                 "%d milestones; at most %d can be given", curve->milestone_count, most);
    double before = 0;
    for (int i = 0; i < curve->milestone_count; i++) {
        PARE_REQUIRE(curve->milestones[i] > before && curve->milestones[i] < 1, PARE_ERR_ARGUMENT,
                     "milestone %d is %g; they ascend between 0 and 1, as shares of all steps",
                     i + 1, curve->milestones[i]);
        before = curve->milestones[i];
    }
    return check_size("gamma", curve->gamma);
}

pare_status pare__train_complete(const pare_train_options *options, pare_train_options *complete)
{
    pare_train_options o = *options;
    PARE_REQUIRE(o.optimiser == PARE_SGD || o.optimiser == PARE_ADAMW, PARE_ERR_ARGUMENT,
                 "there is no optimiser %d", (int)o.optimiser);
    PARE_TRY(check_curve(&o.curve));
    o.accumulate = o.accumulate ? o.accumulate : 1;
    PARE_REQUIRE(o.batch >= 1, PARE_ERR_ARGUMENT, "the batch is %lld samples; it takes at least 1",
                 (long long)o.batch);
    PARE_REQUIRE(o.accumulate >= 1, PARE_ERR_ARGUMENT, "%lld forwards a step; it takes at least 1",
                 (long long)o.accumulate);
    int64_t samples;
    PARE_REQUIRE(pare__mul(o.batch, o.accumulate, &samples) &&
                     pare__mul(samples, o.curve.steps, &samples),
                 PARE_ERR_ARGUMENT, "%lld steps of %lld × %lld samples are more than 63 bits count",
                 (long long)o.curve.steps, (long long)o.accumulate, (long long)o.batch);
    o.beta1 = o.beta1 > 0 || o.beta1 < 0 ? o.beta1 : 0.9;
    o.beta2 = o.beta2 > 0 || o.beta2 < 0 ? o.beta2 : 0.999;
    o.eps = o.eps > 0 || o.eps < 0 ? o.eps : 1e-8;
    PARE_TRY(check_share("momentum", o.momentum));
    PARE_TRY(check_share("beta1", o.beta1));
    PARE_TRY(check_share("beta2", o.beta2));
    PARE_TRY(check_share("the label smoothing", o.smoothing));
    PARE_TRY(check_share("the moving average's share", o.ema));
    PARE_TRY(check_size("eps", o.eps));
    PARE_TRY(check_size("the weight decay", o.decay));
    PARE_TRY(check_size("the gradient norm to clip at", o.clip));
    PARE_REQUIRE(!o.nesterov || o.momentum > 0 || o.optimiser != PARE_SGD, PARE_ERR_ARGUMENT,
                 "Nesterov's momentum needs a momentum above 0");
    *complete = o;
    return PARE_OK;
}

pare_status pare_train_freeze(pare_model *model, const pare_train_options *options)
{
    int64_t count = pare_model_param_count(model), left = 0;
    for (size_t g = 0; g < options->freezes; g++) {
        int64_t matches = 0;
        for (int64_t i = 0; i < count; i++) {
            pare_param *param = pare_model_param(model, i);
            if (!pare__glob(options->freeze[g], param->name))
                continue;
            param->frozen = true;
            matches++;
        }
        PARE_REQUIRE(matches > 0, PARE_ERR_ARGUMENT,
                     "no parameter is called '%s', which shall be frozen", options->freeze[g]);
    }
    for (int64_t i = 0; i < count; i++)
        left += pare__is_trained(pare_model_param(model, i));
    PARE_REQUIRE(left > 0, PARE_ERR_ARGUMENT,
                 "every parameter is frozen: there is nothing to train");
    return PARE_OK;
}

pare_status pare__input_fits(const pare_model *model, const pare_dataset *dataset)
{
    bool tokens = pare_dataset_length(dataset) > 0;
    PARE_REQUIRE(pare_model_facts_of(model)->tokens == tokens, PARE_ERR_ARGUMENT,
                 "%s holds %s, the model takes %s", pare_dataset_path(dataset),
                 tokens ? "tokens" : "images", tokens ? "images" : "tokens");
    return PARE_OK;
}

pare_status pare__labels_fit(const pare_model *model, const pare_dataset *dataset, const char *what)
{
    const pare_model_facts *facts = pare_model_facts_of(model);
    int64_t classes = pare_dataset_classes(dataset);
    const char *path = pare_dataset_path(dataset);
    PARE_REQUIRE(facts->output != PARE_OUTPUT_VECTOR, PARE_ERR_ARGUMENT,
                 "%s needs classes or next tokens; this model gives embeddings", what);
    PARE_REQUIRE(pare_dataset_labelled(dataset), PARE_ERR_ARGUMENT,
                 "%s needs labels, which %s has not; give them with --labels", what, path);
    if (facts->output == PARE_OUTPUT_TOKENS)
        PARE_REQUIRE(classes == 0, PARE_ERR_ARGUMENT,
                     "%s of a model of next tokens needs plain tokens; %s has a class for each row",
                     what, path);
    else
        PARE_REQUIRE(classes > 0, PARE_ERR_ARGUMENT,
                     "%s of a classifier needs a class for each sample, which %s has not; give "
                     "them with --labels",
                     what, path);
    PARE_REQUIRE(classes <= facts->classes, PARE_ERR_ARGUMENT,
                 "%s has a label %lld; the model knows %lld classes", path, (long long)classes - 1,
                 (long long)facts->classes);
    return PARE_OK;
}
