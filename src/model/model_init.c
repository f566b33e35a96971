/* model_init.c - fresh values from a seed.
 *
 * Convolutions: normal with deviation sqrt(2/fan-out) (He 2015). Products of image models: uniform
 * in ±1/sqrt(inputs), as PyTorch's. Transformers: normal with deviation 0.02 everywhere (Radford
 * 2018). Norms 1 and 0, biases 0. Every tensor has random numbers of its own, by its name, so a
 * tensor's values do not depend on what else the model holds.
 */
#include "node.h"

#include "base/rng.h"

#include <string.h>

/* A tensor's own numbers: its name (FNV-1a) is the stream. */
static pare__rng numbers_of(uint64_t seed, const char *name)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    return pare__rng_make(seed, hash, 0);
}

static void fill_normal(float *x, int64_t n, double deviation, pare__rng rng)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(deviation * pare__rng_normal(&rng));
}

static void fill_uniform(float *x, int64_t n, double bound, pare__rng rng)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)((2 * pare__rng_double(&rng) - 1) * bound);
}

static bool ends(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* What a vector starts as: scales and running variances at 1, all else at 0. */
static float start_of(const pare_param *param)
{
    return (param->role == PARE_ROLE_NORM && ends(param->name, "weight")) ||
                   ends(param->name, "running_var")
               ? 1.0f
               : 0.0f;
}

static void fill(const pare_model *model, pare_param *param, uint64_t seed)
{
    const int64_t *shape = param->value.shape;
    float *x = param->value.data;
    int64_t n = pare_tensor_count(&param->value);
    pare__rng rng = numbers_of(seed, param->name);
    bool transformer = model->facts.tokens || strcmp(model->facts.family, "vit") == 0;
    bool product = param->role == PARE_ROLE_LINEAR || param->role == PARE_ROLE_HEAD;
    if (param->value.rank < 2) {
        for (int64_t i = 0; i < n; i++)
            x[i] = start_of(param);
    } else if (transformer || !(product || param->role == PARE_ROLE_CONV)) {
        fill_normal(x, n, 0.02, rng);
    } else if (product) {
        fill_uniform(x, n, 1 / sqrt((double)shape[1]), rng);
    } else {
        fill_normal(x, n, sqrt(2 / ((double)shape[0] * (double)(shape[2] * shape[3]))), rng);
    }
}

pare_status pare_model_init(pare_model *model, uint64_t seed)
{
    PARE_REQUIRE(model && model->prepared, PARE_ERR_ARGUMENT,
                 "a model must be prepared before it gets values");
    for (size_t i = 0; i < model->param_count; i++) {
        pare_param *param = &model->params[i];
        PARE_REQUIRE(param->value.dtype == PARE_F32, PARE_ERR_ARGUMENT, "%s: fresh values are f32",
                     param->name);
        fill(model, param, seed);
        param->mask = NULL;
        param->act = PARE_ACT_NONE;
    }
    return PARE_OK;
}
