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

/* What a tensor's values are: the same one, drawn around 0, or drawn evenly from ±size. */
typedef struct law {
    enum { SAME, NORMAL, UNIFORM } kind;
    double size; /* the value, the deviation, the bound */
    pare__rng rng;
} law;

/* The next n values. */
static void draw(law *l, float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = l->kind == SAME     ? (float)l->size
               : l->kind == NORMAL ? (float)(l->size * pare__rng_normal(&l->rng))
                                   : (float)((2 * pare__rng_double(&l->rng) - 1) * l->size);
}

static bool ends(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* What a vector starts as: scales and running variances at 1, all else at 0. */
static double start_of(const pare_param *param)
{
    return (param->role == PARE_ROLE_NORM && ends(param->name, "weight")) ||
           ends(param->name, "running_var");
}

static law law_of(const pare_model *model, const pare_param *param, uint64_t seed)
{
    const int64_t *shape = param->value.shape;
    law l = {.rng = numbers_of(seed, param->name)};
    bool transformer = model->facts.tokens || strcmp(model->facts.family, "vit") == 0;
    bool product = param->role == PARE_ROLE_LINEAR || param->role == PARE_ROLE_HEAD;
    if (param->value.rank < 2) {
        l.kind = SAME;
        l.size = start_of(param);
    } else if (transformer || !(product || param->role == PARE_ROLE_CONV)) {
        l.kind = NORMAL;
        l.size = 0.02;
    } else if (product) {
        l.kind = UNIFORM;
        l.size = 1 / sqrt((double)shape[1]);
    } else {
        l.kind = NORMAL;
        l.size = sqrt(2 / ((double)shape[0] * (double)(shape[2] * shape[3])));
    }
    return l;
}

static pare_status fill(const pare_model *model, pare_param *param, uint64_t seed,
                        const pare__stage *stage)
{
    law l = law_of(model, param, seed);
    int64_t count = pare_tensor_count(&param->value), step = PARE__STAGE / (int64_t)sizeof(float);
    for (int64_t i = 0, n; i < count; i += n) {
        n = count - i < step ? count - i : step;
        float *piece = (float *)param->value.data + i, *x = pare__stage_at(stage, piece);
        draw(&l, x, n);
        PARE_TRY(pare_backend_upload(model->be, piece, x, n * (int64_t)sizeof *x));
    }
    return PARE_OK;
}

pare_status pare_model_init(pare_model *model, uint64_t seed)
{
    pare_status status = PARE_OK;
    pare__stage stage;
    PARE_REQUIRE(model && model->prepared, PARE_ERR_ARGUMENT,
                 "a model must be prepared before it gets values");
    for (size_t i = 0; i < model->param_count; i++)
        PARE_REQUIRE(model->params[i].value.dtype == PARE_F32, PARE_ERR_ARGUMENT,
                     "%s: fresh values are f32", model->params[i].name);
    PARE_TRY(pare__stage_open(model->be, &stage));
    for (size_t i = 0; i < model->param_count; i++) {
        pare_param *param = &model->params[i];
        PARE_TRY_DONE(fill(model, param, seed, &stage));
        param->mask = NULL;
        param->act = PARE_ACT_NONE;
    }
done:
    pare__stage_close(&stage);
    return status;
}
