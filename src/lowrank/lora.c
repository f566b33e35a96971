/* lora.c - low-rank factors on frozen weights (Hu 2021): which weights get them. All other
 * parameters are frozen. */
#include "lora_impl.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/text.h"

#include <math.h>
#include <string.h>

static bool wanted(const pare_lora_options *options, const pare_param *p, int64_t index)
{
    if (p->buffer || p->frozen || p->value.rank < 2 || pare_tensor_count(&p->value) == 0)
        return false;
    if (options->chosen)
        return options->chosen[index] != 0;
    return p->role == PARE_ROLE_LINEAR || p->role == PARE_ROLE_CONV;
}

/* A convolution of all its inputs has their channels in its weight. */
static bool in_groups(const pare_model *model, int64_t param)
{
    int64_t site_count = pare_model_site_count(model);
    for (int64_t i = 0; i < site_count; i++) {
        pare_site site;
        if (pare_model_site(model, i, &site) != PARE_OK)
            continue;
        for (int l = 0; l < site.count; l++)
            if (site.param[l] == param)
                return site.groups > 1;
    }
    return false;
}

static pare_status name_layer(pare__lora_layer *l, const char *name)
{
    pare__text text = {0};
    pare__text_add(&text, "lora/%s.a", name);
    PARE_TRY(pare__text_take(&text, &l->a_name));
    pare__text_add(&text, "lora/%s.b", name);
    return pare__text_take(&text, &l->b_name);
}

static pare_status add_layer(pare_lora *lora, int64_t index)
{
    const pare_param *p = pare_model_param(lora->model, index);
    pare__lora_layer *l = &lora->layers[lora->count];
    *l = (pare__lora_layer){.param = index, .grouped = in_groups(lora->model, index)};
    lora->layer_of[index] = (int64_t)lora->count++;
    lora->takes[index] = 1;
    pare_shape_matrix(p->value.rank, p->value.shape, &l->out, &l->in);
    return name_layer(l, p->name);
}

static pare_status identify(pare_lora *lora)
{
    pare__text text = {0};
    pare__text_add(&text, "lora: rank %lld, alpha %.17g%s\n", (long long)lora->options.rank,
                   lora->options.alpha, lora->options.keep_mask ? ", masked" : "");
    return pare__text_take(&text, &lora->identity);
}

static pare_status fill(pare_lora *lora)
{
    size_t params = (size_t)lora->param_count;
    PARE_TRY(pare__calloc(params, sizeof *lora->layers, &lora->layers));
    PARE_TRY(pare__calloc(params, sizeof *lora->layer_of, &lora->layer_of));
    PARE_TRY(pare__calloc(params, 1, &lora->takes));
    PARE_TRY(pare__calloc(2 * params, sizeof *lora->learned, &lora->learned));
    for (int64_t i = 0; i < lora->param_count; i++) {
        lora->layer_of[i] = -1;
        if (wanted(&lora->options, pare_model_param(lora->model, i), i))
            PARE_TRY(add_layer(lora, i));
    }
    PARE_REQUIRE(lora->count > 0, PARE_ERR_ARGUMENT,
                 "nothing is chosen that could get low-rank factors: they go on weights of linear "
                 "layers and convolutions");
    if (lora->options.adapter)
        PARE_TRY(pare__lora_check_saves(lora));
    return identify(lora);
}

pare_status pare_lora_create(const pare_lora_options *options, pare_model *model, pare_lora **lora)
{
    PARE_REQUIRE(options && model && lora, PARE_ERR_ARGUMENT,
                 "pare_lora_create needs options, a model and a place for the result");
    PARE_REQUIRE(options->rank >= 1 && options->rank <= 65536, PARE_ERR_ARGUMENT,
                 "a rank of %lld: low-rank factors have one from 1 to 65536",
                 (long long)options->rank);
    PARE_REQUIRE(options->alpha >= 0 && isfinite(options->alpha), PARE_ERR_ARGUMENT,
                 "alpha is %g: it is a number above 0, or 0 for twice the rank", options->alpha);
    pare_lora *l = NULL;
    PARE_TRY(pare__calloc(1, sizeof *l, &l));
    l->options = *options;
    if (l->options.alpha == 0)
        l->options.alpha = 2 * (double)options->rank;
    l->model = model;
    l->param_count = pare_model_param_count(model);
    pare_status status = fill(l);
    l->options.chosen = NULL;
    if (status != PARE_OK) {
        pare_lora_free(&l);
        return status;
    }
    for (int64_t i = 0; i < l->param_count; i++)
        if (l->layer_of[i] < 0)
            pare_model_param(model, i)->frozen = true;
    *lora = l;
    return PARE_OK;
}

void pare_lora_free(pare_lora **lora)
{
    pare_lora *l = lora ? *lora : NULL;
    if (!l)
        return;
    pare__lora_release(l);
    for (size_t i = 0; i < l->count; i++) {
        free(l->layers[i].a_name);
        free(l->layers[i].b_name);
    }
    free(l->layers);
    free(l->layer_of);
    free(l->takes);
    free(l->learned);
    free(l->identity);
    free(l);
    *lora = NULL;
}

static const pare__lora_layer *layer_of(const pare_lora *lora, int64_t param)
{
    bool there = lora && param >= 0 && param < lora->param_count && lora->layer_of[param] >= 0;
    return there ? &lora->layers[lora->layer_of[param]] : NULL;
}

bool pare_lora_layer(const pare_lora *lora, int64_t param, int64_t *rank, int64_t *in, int64_t *out)
{
    const pare__lora_layer *l = layer_of(lora, param);
    if (!l)
        return false;
    *rank = lora->options.rank;
    *in = l->in;
    *out = l->out;
    return true;
}

bool pare_lora_masked(const pare_lora *lora)
{
    for (size_t i = 0; i < lora->count; i++)
        if (lora->options.keep_mask && pare_model_param(lora->model, lora->layers[i].param)->mask)
            return true;
    return false;
}

pare_status pare_lora_factors(const pare_lora *lora, int64_t param, float *a, float *b)
{
    const pare__lora_layer *l = layer_of(lora, param);
    PARE_REQUIRE(l && l->a.data, PARE_ERR_ARGUMENT,
                 "factors are there of a parameter that has some, once the part is made");
    PARE_TRY(pare_backend_download(lora->be, a, l->a.data, pare_tensor_count(&l->a) * 4));
    PARE_TRY(pare_backend_download(lora->be, b, l->b.data, pare_tensor_count(&l->b) * 4));
    return PARE_OK;
}
