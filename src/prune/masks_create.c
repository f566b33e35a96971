/* masks_create.c - the life of a schedule of masks: what is asked for is checked, layers are found,
 * memory is taken. */
#include "masks_impl.h"

#include "base/alloc.h"
#include "base/carve.h"
#include "base/text.h"

#include "pare/ops.h"

#include <math.h>
#include <string.h>

/* ---- options --------------------------------------------------------------------------------- */

static bool is_share(double x)
{
    return x >= 0 && x < 1;
}

static pare_status check_numbers(const pare_mask_options *o)
{
    PARE_REQUIRE(is_share(o->initial) && is_share(o->final) && o->initial <= o->final &&
                     o->final > 0,
                 PARE_ERR_ARGUMENT,
                 "sparsities of masks go from %g to %g: they lie in [0, 1), the first is not above "
                 "the last, and the last is not 0",
                 o->initial, o->final);
    PARE_REQUIRE(is_share(o->begin) && o->end >= 0 && o->end <= 1 &&
                     (o->end > o->begin || (o->end == 0 && o->begin < 0.75)),
                 PARE_ERR_ARGUMENT,
                 "masks move from %g to %g of all steps: shares from 0 to 1, the first below the "
                 "second (0.75 if it is left out)",
                 o->begin, o->end);
    PARE_REQUIRE(
        o->each >= 0 && o->rounds >= 0 && o->rounds <= 1000 && o->rewind >= 0, PARE_ERR_ARGUMENT,
        "masks change each %lld steps in %lld rounds, back to step %lld: none is negative, "
        "and there are at most 1000 rounds",
        (long long)o->each, (long long)o->rounds, (long long)o->rewind);
    PARE_REQUIRE(o->fraction > 0 && o->fraction <= 1, PARE_ERR_ARGUMENT,
                 "the share %g of weights that are exchanged must be above 0 and at most 1",
                 o->fraction);
    return PARE_OK;
}

static pare_status check_pattern(const pare_mask_options *o)
{
    const pare_pattern *p = &o->pattern;
    const char *name = pare_mask_schedule_name(o->schedule);
    char text[32];
    PARE_REQUIRE(!pare_pattern_shrinks(p), PARE_ERR_ARGUMENT,
                 "the pattern %s makes a model smaller: masks take unstructured, N:M, block:RxC",
                 pare_pattern_text(p, text, sizeof text));
    if (p->kind != PARE_PATTERN_NM)
        return PARE_OK;
    PARE_REQUIRE(p->n > 0 && p->n < p->m && p->m <= 256, PARE_ERR_ARGUMENT,
                 "pattern %d:%d: 0 < N < M ≤ 256", p->n, p->m);
    PARE_REQUIRE(fabs(o->final - (1 - (double)p->n / p->m)) < 1e-9, PARE_ERR_ARGUMENT,
                 "masks of %d:%d end at a sparsity of %g, not %g: leave it out", p->n, p->m,
                 1 - (double)p->n / p->m, o->final);
    PARE_REQUIRE(!o->global && !o->erk, PARE_ERR_ARGUMENT,
                 "%d:%d is the same in all layers: neither one threshold over all of them nor "
                 "densities by Erdős–Rényi-kernel go with it",
                 p->n, p->m);
    PARE_REQUIRE(o->schedule != PARE_MASKS_RIGL && o->schedule != PARE_MASKS_SET, PARE_ERR_ARGUMENT,
                 "masks that exchange weights (%s) are unstructured or of blocks, not %d:%d", name,
                 p->n, p->m);
    return PARE_OK;
}

static pare_status check_options(const pare_mask_options *o)
{
    const char *name = pare_mask_schedule_name(o->schedule);
    PARE_REQUIRE(pare_masks_method(o->method->name) == o->method, PARE_ERR_ARGUMENT,
                 "masks that move take magnitude, random, taylor or movement, not %s",
                 o->method->name);
    PARE_REQUIRE(!pare__mask_schedule_of(o->schedule)->sparse ||
                     o->method == &pare__prune_magnitude || o->method == &pare__prune_random,
                 PARE_ERR_ARGUMENT,
                 "masks that are there from the start (%s) are chosen by magnitude or random: %s "
                 "needs gradients",
                 name, o->method->name);
    PARE_REQUIRE(!o->revive || o->schedule == PARE_MASKS_GRADUAL, PARE_ERR_ARGUMENT,
                 "revive goes with the schedule gradual, not %s", name);
    PARE_REQUIRE(!o->erk || !o->global, PARE_ERR_ARGUMENT,
                 "densities are those of one threshold over all layers or by Erdős–Rényi-kernel, "
                 "not both");
    PARE_TRY(check_numbers(o));
    return check_pattern(o);
}

/* ---- layers ---------------------------------------------------------------------------------- */

/* Whether a parameter's mask moves; PARE_ERR_ARGUMENT if it was chosen and cannot have one. What is
 * frozen, and what the pattern does not fit, stays as it is. */
static pare_status takes(const pare_mask_options *o, const pare_param *p, int64_t index, bool *is)
{
    bool weight = p->role == PARE_ROLE_LINEAR || p->role == PARE_ROLE_CONV;
    bool chosen = o->chosen ? o->chosen[index] != 0 : weight;
    int64_t inputs = p->value.rank > 1 ? p->value.shape[1] : 1;
    PARE_REQUIRE(!chosen || weight || p->role == PARE_ROLE_HEAD, PARE_ERR_ARGUMENT,
                 "%s is a %s: masks are of linear layers and convolutions", p->name,
                 pare_role_name(p->role));
    bool fits = o->pattern.kind != PARE_PATTERN_NM || inputs % o->pattern.m == 0;
    *is = chosen && fits && !p->frozen && pare_tensor_count(&p->value) > 0;
    return PARE_OK;
}

static pare__mask_layer layer_of(const pare_mask_options *o, const pare_param *p, int64_t index)
{
    const pare_tensor *t = &p->value;
    pare__mask_layer l = {.param = index,
                          .rows = t->shape[0],
                          .cols = pare_tensor_count(t) / t->shape[0],
                          .channels = t->rank > 1 ? t->shape[1] : 1,
                          .stream = UINT64_C(0xcbf29ce484222325)};
    double sum = 0, product = 1;
    l.unit_rows = l.rows;
    l.unit_cols = l.cols;
    if (o->pattern.kind == PARE_PATTERN_BLOCK) {
        l.unit_rows = (l.rows + o->pattern.block_rows - 1) / o->pattern.block_rows;
        l.unit_cols = (l.cols + o->pattern.block_cols - 1) / o->pattern.block_cols;
    }
    l.units = l.unit_rows * l.unit_cols;
    for (int d = 0; d < t->rank; d++) {
        sum += (double)t->shape[d];
        product *= (double)t->shape[d];
    }
    l.raw = sum / product;
    for (const char *c = p->name; *c; c++)
        l.stream = (l.stream ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
    return l;
}

static pare_status find_layers(pare_masks *masks, const pare_mask_options *o)
{
    int64_t params = pare_model_param_count(masks->model);
    PARE_TRY(pare__calloc((size_t)params, sizeof *masks->layers, &masks->layers));
    for (int64_t i = 0; i < params; i++) {
        const pare_param *p = pare_model_param(masks->model, i);
        pare__mask_layer *l = &masks->layers[masks->count];
        bool is;
        PARE_TRY(takes(o, p, i, &is));
        if (!is)
            continue;
        *l = layer_of(o, p, i);
        masks->count++;
    }
    PARE_REQUIRE(
        masks->count > 0, PARE_ERR_ARGUMENT,
        "no layer has a mask that could move: none was chosen, they are frozen, or N:M does "
        "not divide their inputs");
    return PARE_OK;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Whether a parameter has a value of an early step to go back to. */
static bool rewinds(const pare_masks *masks, const pare_param *p)
{
    return masks->options.schedule == PARE_MASKS_REWIND && !p->buffer && !p->frozen &&
           pare_tensor_count(&p->value) > 0;
}

static void carve_room(pare_masks *masks, pare__carve *carve)
{
    int64_t most = 0, rows = 0, bits = 0;
    for (int64_t i = 0; i < masks->count; i++) {
        const pare__mask_layer *l = &masks->layers[i];
        int64_t n = l->rows * l->cols, own = l->rows * ((l->cols + 7) / 8);
        most = n > most ? n : most;
        rows = l->rows > rows ? l->rows : rows;
        bits = own > bits ? own : bits;
    }
    masks->room = (pare__mask_room){.a = pare__carve_next(carve, most * 4),
                                    .b = pare__carve_next(carve, most * 4),
                                    .c = pare__carve_next(carve, most * 4),
                                    .line = pare__carve_next(carve, rows * 4),
                                    .one = pare__carve_next(carve, 4),
                                    .sum = pare__carve_next(carve, 8),
                                    .bits = pare__carve_next(carve, bits),
                                    .unit_bits = pare__carve_next(carve, bits)};
    if (masks->options.global)
        masks->room.bins = pare__carve_next(carve, PARE_SELECT_LOW_BINS * 8);
}

/* All memory of the backend: counted, or handed out. */
static void carve_all(pare_masks *masks, pare__carve *carve)
{
    carve_room(masks, carve);
    for (int64_t i = 0; i < masks->count; i++) {
        pare__mask_layer *l = &masks->layers[i];
        int64_t n = l->rows * l->cols;
        if (masks->options.method == &pare__prune_movement)
            l->score = pare__carve_next(carve, n * 4);
        if (masks->options.revive)
            l->dense = pare__carve_next(carve, n * 4);
        if (masks->options.pattern.kind == PARE_PATTERN_NM && l->channels < l->cols)
            l->order = pare__carve_next(carve, 2 * l->cols * 4);
    }
    for (int64_t i = 0; i < pare_model_param_count(masks->model); i++) {
        const pare_param *p = pare_model_param(masks->model, i);
        if (rewinds(masks, p))
            masks->rewind[i] = pare__carve_next(carve, pare_tensor_count(&p->value) * 4);
    }
}

int64_t pare_masks_bytes(const pare_masks *masks)
{
    return masks->bytes;
}

/* The columns of a convolution with channels last, and the way back. */
static pare_status write_order(const pare_masks *masks, const pare__mask_layer *l)
{
    int64_t inner = l->cols / l->channels;
    int32_t *order;
    if (!l->order)
        return PARE_OK;
    PARE_TRY(pare__calloc((size_t)l->cols, 2 * sizeof *order, &order));
    for (int64_t j = 0; j < l->cols; j++) {
        order[j] = (int32_t)(j % l->channels * inner + j / l->channels);
        order[l->cols + j] = (int32_t)(j % inner * l->channels + j / inner);
    }
    pare_status status = pare_backend_upload(masks->be, l->order, order, 2 * l->cols * 4);
    free(order);
    return status;
}

/* ---- what is kept ---------------------------------------------------------------------------- */

static pare_kept *next_kept(pare_masks *masks, const char *name, pare_tensor tensor, bool host)
{
    pare_kept *kept = &masks->kept[masks->part.kept_count++];
    *kept = (pare_kept){.name = name, .tensor = tensor, .host = host};
    return kept;
}

/* "masks/<group>/<name>" at the end of the names; returns where it begins. */
static size_t add_name(pare__text *names, const char *group, const char *name)
{
    size_t at = names->length;
    pare__text_add(names, "masks/%s/%s", group, name);
    pare__text_bytes(names, "", 1);
    return at;
}

/* Names in one string; places in it are known only when it is whole. */
static pare_status name_kept(pare_masks *masks)
{
    pare__text names = {0};
    int64_t params = pare_model_param_count(masks->model);
    for (int64_t i = 0; i < params; i++) {
        const char *name = pare_model_param(masks->model, i)->name;
        (void)add_name(&names, "score", name);
        (void)add_name(&names, "dense", name);
        (void)add_name(&names, "rewind", name);
    }
    return pare__text_take(&names, &masks->names);
}

/* What the next change depends on, beside masks and weights. */
static pare_status list_kept(pare_masks *masks)
{
    int64_t params = pare_model_param_count(masks->model), at = 0;
    PARE_TRY(pare__calloc((size_t)(3 * params + 1), sizeof *masks->kept, &masks->kept));
    PARE_TRY(name_kept(masks));
    masks->part.kept_count = 0;
    next_kept(masks, "masks/done", pare_vector(&masks->done, PARE_I64, 1), true);
    const char *name = masks->names;
    for (int64_t i = 0; i < params; i++) {
        pare_tensor t = pare_model_param(masks->model, i)->value;
        const pare__mask_layer *l = at < masks->count ? &masks->layers[at] : NULL;
        bool own = l && l->param == i;
        float *memory[] = {own ? l->score : NULL, own ? l->dense : NULL, masks->rewind[i]};
        for (int k = 0; k < 3; k++, name += strlen(name) + 1)
            if (memory[k]) {
                t.data = memory[k];
                next_kept(masks, name, t, false);
            }
        at += own;
    }
    masks->part.kept = masks->kept;
    return PARE_OK;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* What must be the same to go on. */
static pare_status identify(pare_masks *masks)
{
    const pare_mask_options *o = &masks->options;
    pare__text text = {0};
    char pattern[32];
    uint64_t layers = UINT64_C(0xcbf29ce484222325);
    for (int64_t i = 0; i < masks->count; i++)
        layers = (layers ^ masks->layers[i].stream) * UINT64_C(0x100000001b3);
    pare__text_add(&text,
                   "masks: %s by %s, %s, %s%s\n"
                   "sparsity of masks: %.17g to %.17g\n"
                   "steps of masks: from %.17g to %.17g of all, each %lld, %lld rounds, back to "
                   "%lld, %.17g exchanged\n"
                   "seed of masks: %llu\n"
                   "layers with masks: %lld, %016llx\n",
                   pare_mask_schedule_name(o->schedule), o->method->name,
                   pare_pattern_text(&o->pattern, pattern, sizeof pattern),
                   o->global ? "one threshold"
                   : o->erk  ? "erk"
                             : "each layer alike",
                   o->revive ? ", revive" : "", o->initial, o->final, o->begin, o->end,
                   (long long)o->each, (long long)o->rounds, (long long)o->rewind, o->fraction,
                   (unsigned long long)o->seed, (long long)masks->count,
                   (unsigned long long)layers);
    return pare__text_take(&text, &masks->identity);
}

static pare_status create(pare_masks *masks, const pare_mask_options *o)
{
    pare__carve carve = {0};
    PARE_TRY(find_layers(masks, o));
    PARE_TRY(pare__calloc((size_t)pare_model_param_count(masks->model), sizeof *masks->rewind,
                          &masks->rewind));
    carve_all(masks, &carve);
    masks->bytes = carve.size;
    PARE_TRY(identify(masks));
    masks->part = (pare_train_part){.name = "masks",
                                    .identity = masks->identity,
                                    .state = masks,
                                    .moves_masks = true,
                                    .before = pare__masks_before,
                                    .back = pare__masks_back,
                                    .after = pare__masks_after};
    return PARE_OK;
}

pare_status pare_masks_create(const pare_mask_options *options, pare_model *model,
                              pare_masks **masks)
{
    pare_masks *m;
    PARE_REQUIRE(options && model && masks, PARE_ERR_ARGUMENT, "pare_masks_create: NULL argument");
    PARE_REQUIRE((unsigned)options->schedule <= PARE_MASKS_DENSE, PARE_ERR_ARGUMENT,
                 "pare_masks_create: schedule %d is none", (int)options->schedule);
    pare_mask_options whole = pare__mask_whole(options);
    PARE_TRY(check_options(&whole));
    PARE_TRY(pare__calloc(1, sizeof *m, &m));
    m->options = whole;
    m->options.chosen = NULL;
    m->schedule = pare__mask_schedule_of(whole.schedule);
    m->model = model;
    pare_status status = create(m, &whole);
    if (status != PARE_OK) {
        pare__trail(__func__);
        pare_masks_free(&m);
        return status;
    }
    *masks = m;
    return PARE_OK;
}

/* Gives back what the part holds. */
static void release(pare_masks *masks)
{
    if (masks->be)
        pare_backend_release(masks->be, masks->memory, masks->bytes);
    free(masks->host_bins), free(masks->kept), free(masks->names);
    masks->be = NULL;
    masks->memory = NULL;
    masks->host_bins = NULL;
    masks->names = NULL;
    masks->part.kept = masks->kept = NULL;
    masks->part.kept_count = 0;
    masks->done = 0;
}

void pare_masks_free(pare_masks **masks)
{
    pare_masks *m = masks ? *masks : NULL;
    if (!m)
        return;
    release(m);
    free(m->identity), free(m->rewind), free(m->layers), free(m);
    *masks = NULL;
}

/* Masks for all layers, and the start of a schedule that begins sparse. */
static pare_status begin(pare_masks *masks)
{
    const float one = 1;
    PARE_TRY(pare_backend_upload(masks->be, masks->room.one, &one, sizeof one));
    for (int64_t i = 0; i < masks->count; i++) {
        pare__mask_layer *l = &masks->layers[i];
        const pare_param *p = pare_model_param(masks->model, l->param);
        PARE_REQUIRE(p->value.data && p->grad.data, PARE_ERR_ARGUMENT,
                     "%s has no gradient: a model whose masks move is prepared for training",
                     p->name);
        l->given = p->mask != NULL;
        PARE_TRY(pare_model_mask(masks->model, l->param));
        PARE_TRY(write_order(masks, l));
    }
    if (masks->schedule->sparse)
        PARE_TRY(pare__mask_prune(masks, masks->options.final, true));
    return PARE_OK;
}

pare_status pare_masks_part(pare_masks *masks, pare_backend *be, pare_train_part **part)
{
    PARE_REQUIRE(masks && part, PARE_ERR_ARGUMENT, "pare_masks_part: NULL argument");
    *part = &masks->part;
    if (!be)
        return PARE_OK;
    release(masks); /* of a training that begins again */
    PARE_TRY(pare_backend_alloc(be, masks->bytes, &masks->memory));
    masks->be = be;
    pare__carve carve = {.base = masks->memory};
    carve_all(masks, &carve);
    if (masks->options.global)
        PARE_TRY(pare__calloc(PARE_SELECT_LOW_BINS, sizeof *masks->host_bins, &masks->host_bins));
    PARE_TRY(list_kept(masks));
    PARE_TRY(begin(masks));
    return PARE_OK;
}
