/* qat.c - quantisation-aware training: what is quantised, and how.
 *
 * A weight that is chosen keeps its values in a latent copy that learns; the model multiplies by
 * what fake_quant makes of it. The scheme is the recipe's, changed where it does not fit as
 * rounding to nearest changes it. Steps are rounded to the dtype they are written in before a code
 * is made, so the integers of the last forward are those of the checkpoint. */
#include "qat_impl.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/text.h"

#include <string.h>

/* ---- what fits ------------------------------------------------------------------------------- */

static pare_status check_options(const pare_qat_options *options)
{
    const pare_scheme *s = &options->scheme;
    char text[32];
    PARE_REQUIRE(s->type == PARE_QUANT_INT && s->bits >= 2 && s->bits <= 8 && !s->asymmetric,
                 PARE_ERR_ARGUMENT,
                 "%s: training looks through symmetric integers of 2 to 8 bits: take w8, w4g128, "
                 "w8a8 and the like",
                 pare_scheme_text(s, text, sizeof text));
    return PARE_OK;
}

static pare_status note(pare_qat *qat, int64_t param, const char *sentence)
{
    free(qat->notes[param]);
    qat->notes[param] = NULL;
    return pare__strdup(sentence, &qat->notes[param]);
}

/* The parameters of the first and the last product, or −1. */
static void find_ends(pare_model *model, int64_t *first, int64_t *last)
{
    *first = *last = -1;
    for (int64_t i = 0; i < pare_model_node_count(model); i++) {
        pare_node_view view = pare_model_node(model, i);
        bool product = strcmp(view.kind, "linear") == 0 || strcmp(view.kind, "conv") == 0;
        if (!product || view.param_count == 0 || view.param[0] < 0)
            continue;
        *first = *first < 0 ? view.param[0] : *first;
        *last = view.param[0];
    }
    const pare_param *head = pare_model_head(model, NULL);
    for (int64_t i = 0; head && i < pare_model_param_count(model); i++)
        if (pare_model_param(model, i) == head)
            *last = i;
}

static bool wanted(const pare_qat_options *options, const pare_param *p, int64_t index)
{
    if (p->buffer || p->value.rank < 2 || pare_tensor_count(&p->value) == 0)
        return false;
    if (options->chosen)
        return options->chosen[index] != 0;
    return p->role == PARE_ROLE_LINEAR || p->role == PARE_ROLE_CONV;
}

/* The dtype that steps of a tensor are written in: the source's. */
static pare_dtype dtype_of(const pare_store *store, const char *name)
{
    int64_t entry = store ? pare_store_find(store, name) : -1;
    pare_dtype dtype = entry >= 0 ? pare_store_entry(store, entry)->dtype : PARE_F32;
    return dtype == PARE_F16 || dtype == PARE_BF16 ? dtype : PARE_F32;
}

/* ---- layers ---------------------------------------------------------------------------------- */

static pare_status fit_scheme(pare_qat *qat, pare__qat_layer *l, bool end)
{
    char sentence[160];
    l->scheme = qat->options.scheme;
    if (end && qat->options.first_last)
        l->scheme.bits = 8;
    if (l->scheme.granularity != PARE_PER_GROUP || l->cols % l->scheme.block_cols == 0)
        return PARE_OK;
    snprintf(sentence, sizeof sentence,
             "groups of %lld do not divide rows of %lld: one scale per output channel instead",
             (long long)l->scheme.block_cols, (long long)l->cols);
    l->scheme.granularity = PARE_PER_CHANNEL;
    l->scheme.block_rows = l->scheme.block_cols = 0;
    return note(qat, l->param, sentence);
}

static pare_status name_layer(pare__qat_layer *l, const char *name)
{
    pare__text text = {0};
    pare__text_add(&text, "qat/%s", name);
    PARE_TRY(pare__text_take(&text, &l->name));
    pare__text_add(&text, "qat/%s.step", name);
    return pare__text_take(&text, &l->factor_name);
}

static pare_status add_layer(pare_qat *qat, int64_t index, bool end)
{
    pare_param *p = pare_model_param(qat->model, index);
    if (p->transposed)
        return note(qat, index, "stored input by output: not quantised");
    pare__qat_layer *l = &qat->layers[qat->count];
    *l = (pare__qat_layer){.param = index, .step_dtype = dtype_of(qat->options.store, p->name)};
    qat->layer_of[index] = (int64_t)qat->count++;
    qat->takes[index] = 1;
    pare_shape_matrix(p->value.rank, p->value.shape, &l->rows, &l->cols);
    PARE_TRY(fit_scheme(qat, l, end));
    l->blocks = pare_scheme_blocks(&l->scheme, l->rows, l->cols);
    l->lo = -(1 << (l->scheme.bits - 1));
    l->hi = -l->lo - 1;
    l->follows = qat->options.fixed || p->frozen;
    return name_layer(l, p->name);
}

static pare_status add_layers(pare_qat *qat)
{
    int64_t first, last;
    find_ends(qat->model, &first, &last);
    for (int64_t i = 0; i < qat->param_count; i++)
        if (wanted(&qat->options, pare_model_param(qat->model, i), i))
            PARE_TRY(add_layer(qat, i, i == first || i == last));
    PARE_REQUIRE(qat->count > 0, PARE_ERR_ARGUMENT,
                 "nothing is chosen that quantisation-aware training could round: it takes weights "
                 "of linear layers and convolutions");
    return PARE_OK;
}

static pare_status identify(pare_qat *qat)
{
    char scheme[32];
    pare__text text = {0};
    pare__text_add(&text, "qat: %s, %s steps%s\n",
                   pare_scheme_text(&qat->options.scheme, scheme, sizeof scheme),
                   qat->options.fixed ? "fixed" : "learned",
                   qat->options.first_last ? ", first and last at 8 bits" : "");
    return pare__text_take(&text, &qat->identity);
}

static pare_status fill(pare_qat *qat)
{
    size_t params = (size_t)qat->param_count;
    PARE_TRY(pare__calloc(params, sizeof *qat->layers, &qat->layers));
    PARE_TRY(pare__calloc(params, sizeof *qat->layer_of, &qat->layer_of));
    PARE_TRY(pare__calloc(params, sizeof *qat->notes, &qat->notes));
    PARE_TRY(pare__calloc(params, 1, &qat->takes));
    PARE_TRY(pare__calloc(2 * params, sizeof *qat->learned, &qat->learned));
    for (size_t i = 0; i < params; i++)
        qat->layer_of[i] = -1;
    PARE_TRY(add_layers(qat));
    PARE_TRY(identify(qat));
    return PARE_OK;
}

pare_status pare_qat_create(const pare_qat_options *options, pare_model *model, pare_qat **qat)
{
    PARE_REQUIRE(options && model && qat, PARE_ERR_ARGUMENT,
                 "pare_qat_create needs options, a model and a place for the result");
    PARE_TRY(check_options(options));
    pare_qat *q = NULL;
    PARE_TRY(pare__calloc(1, sizeof *q, &q));
    q->options = *options;
    q->model = model;
    q->param_count = pare_model_param_count(model);
    pare_status status = fill(q);
    q->options.chosen = NULL;
    q->options.store = NULL;
    if (status != PARE_OK) {
        pare_qat_free(&q);
        return status;
    }
    pare__qat_round_inputs(q, true);
    *qat = q;
    return PARE_OK;
}

void pare_qat_free(pare_qat **qat)
{
    pare_qat *q = qat ? *qat : NULL;
    if (!q)
        return;
    pare__qat_release(q);
    for (size_t i = 0; i < q->count; i++) {
        free(q->layers[i].name);
        free(q->layers[i].factor_name);
    }
    for (int64_t i = 0; q->notes && i < q->param_count; i++)
        free(q->notes[i]);
    free(q->layers);
    free(q->layer_of);
    free(q->notes);
    free(q->takes);
    free(q->learned);
    free(q->identity);
    free(q);
    *qat = NULL;
}

/* ---- what others ask ------------------------------------------------------------------------- */

pare__qat_layer *pare__qat_layer_of(const pare_qat *qat, int64_t param)
{
    bool there = qat && param >= 0 && param < qat->param_count && qat->layer_of[param] >= 0;
    return there ? &qat->layers[qat->layer_of[param]] : NULL;
}

void pare__qat_round_inputs(pare_qat *qat, bool on)
{
    for (size_t i = 0; i < qat->count; i++)
        pare_model_param(qat->model, qat->layers[i].param)->act =
            on ? qat->layers[i].scheme.activation : PARE_ACT_NONE;
}

bool pare_qat_layer(const pare_qat *qat, int64_t param, pare_scheme *scheme, int64_t *steps)
{
    const pare__qat_layer *l = pare__qat_layer_of(qat, param);
    if (!l)
        return false;
    *scheme = l->scheme;
    *steps = l->blocks.down * l->blocks.across;
    return true;
}

const char *pare_qat_note(const pare_qat *qat, int64_t param)
{
    return qat && param >= 0 && param < qat->param_count ? qat->notes[param] : NULL;
}

/* The value is step·code, so rounding it once more gives its code, and itself. */
pare_status pare_qat_codes(const pare_qat *qat, int64_t param, int8_t *codes, float *steps)
{
    const pare__qat_layer *l = pare__qat_layer_of(qat, param);
    PARE_REQUIRE(l && l->step.data, PARE_ERR_ARGUMENT,
                 "codes are there of a parameter that is quantised, once the part is made");
    int64_t count = l->rows * l->cols;
    pare_tensor value = pare_model_param(qat->model, param)->value;
    value = pare_matrix(value.data, PARE_F32, l->rows, l->cols);
    int8_t *room = NULL;
    PARE_TRY(pare_backend_alloc(qat->be, count, &room));
    pare_status status = PARE_OK;
    PARE_TRY_DONE(pare_fake_quant(
        qat->be, &(pare_fake_quant_args){.x = value,
                                         .step = l->step,
                                         .y = value,
                                         .codes = pare_matrix(room, PARE_I8, l->rows, l->cols),
                                         .block_rows = l->blocks.block_rows,
                                         .block_cols = l->blocks.block_cols,
                                         .lo = l->lo,
                                         .hi = l->hi}));
    PARE_TRY_DONE(pare_backend_download(qat->be, codes, room, count));
    PARE_TRY_DONE(pare_backend_download(qat->be, steps, l->step.data,
                                        pare_tensor_count(&l->step) * (int64_t)sizeof *steps));
done:
    pare_backend_release(qat->be, room, count);
    return status;
}
