/* obs_sweep.c - one sweep over the columns of a weight: optimal brain surgery, behind GPTQ
 * (Frantar 2022), SparseGPT (Frantar 2023) and both at once.
 *
 * Columns are taken in chunks, a chunk in panels of at most PARE_OBS_PANEL columns. Within a panel
 * the op obs_block moves what a column's rounding left to the columns after it; behind the panel
 * obs_update does, before the next panel begins. A chunk is what scales are found for at once:
 * as many whole groups as fit a panel, or one group of several panels. Where the sweep has an order
 * of its own, all scales are found before it begins.
 *
 * Scales of chunks lie one chunk after another, [down, groups of the chunk] each, and are brought
 * into the order of the layer's at the end. Codes are made at the end too, from the result: what
 * was decoded from a code gives that code again.
 *
 * Cost: R·C² operations in obs_update, R·C·128 in obs_block. */
#include "pare/calib.h"

#include "base/alloc.h"
#include "base/carve.h"
#include "base/check.h"

/* How columns are cut. */
typedef struct cut {
    int64_t R, C;
    int64_t group;        /* columns that share a scale; C without a scheme */
    int64_t down, across; /* scales */
    int64_t chunk;        /* columns of a chunk, at most C */
    int64_t panel;        /* columns of a panel at most */
    bool fixed;           /* scales are found before the sweep */
} cut;

typedef struct sweep {
    pare_backend *be;
    pare_layer *layer;
    const pare_factor *factor;
    const pare_choose *choose;
    const pare_round *round;
    cut cut;
    /* scratch, in the backend's memory */
    void *memory;
    int64_t bytes;
    float *w;     /* [R, C] in the order of the sweep: the layer's own, or a copy */
    float *panel; /* [R, panel] */
    float *chunk; /* [R, chunk]: of several panels, but not all columns */
    float *err;   /* [R, panel] */
    uint8_t *mask, *frozen, *chunk_frozen; /* frozen: of all panels, chunk_frozen: of all chunks */
    int8_t *codes;                         /* [R, panel], not kept */
    double *loss;                          /* [R] */
    float *scale;                          /* of all chunks; or of a panel, if fixed */
    int8_t *zero;
    int32_t *index; /* where the layer's scales lie in `scale`; or each column's group, if fixed */
} sweep;

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t mask_bytes(int64_t cols)
{
    return (cols + 7) / 8;
}

/* ---- cutting --------------------------------------------------------------------------------- */

static pare_status cut_columns(const pare_layer *layer, bool permuted, int m, cut *c)
{
    bool coded = layer->scheme.type != PARE_QUANT_NONE;
    c->R = layer->w.shape[0];
    c->C = layer->w.shape[1];
    c->group = coded ? least(layer->block_cols, c->C) : c->C;
    c->down = coded ? (c->R + layer->block_rows - 1) / layer->block_rows : 0;
    c->across = coded ? (c->C + c->group - 1) / c->group : 0;
    c->fixed = permuted;
    PARE_REQUIRE(m <= PARE_OBS_PANEL, PARE_ERR_ARGUMENT,
                 "%s: a sweep sees %d columns at once and cannot choose among %d: take an n:m of "
                 "fewer, or a method that is no sweep",
                 layer->name, PARE_OBS_PANEL, m);
    int64_t unit = m > 1 ? m : 1; /* of whole groups (or parts of one) that n:m asks for */
    if (!c->fixed && c->group < c->C && c->group <= PARE_OBS_PANEL)
        unit = pare__lcm(unit, c->group);
    PARE_REQUIRE(unit <= PARE_OBS_PANEL &&
                     (c->fixed || c->group == c->C || c->group <= PARE_OBS_PANEL ||
                      c->group % (m > 1 ? m : 1) == 0),
                 PARE_ERR_ARGUMENT,
                 "%s: groups of %lld columns and n:%d do not go together in one sweep: one must be "
                 "a multiple of the other, and %d columns hold both",
                 layer->name, (long long)c->group, m, PARE_OBS_PANEL);
    c->panel = least(PARE_OBS_PANEL / unit * unit, c->C);
    c->chunk = c->fixed || c->group >= c->C ? c->C
               : c->group > PARE_OBS_PANEL  ? c->group
                                            : c->panel;
    return PARE_OK;
}

/* Whether a chunk needs a copy of its own to find its scales in. */
static bool is_wide(const cut *c)
{
    return c->chunk > c->panel && c->chunk < c->C;
}

static int64_t panels_of(const cut *c) /* in a chunk */
{
    return (c->chunk + c->panel - 1) / c->panel;
}

static void lay_out(sweep *s, bool permuted, pare__carve *carve)
{
    const cut *c = &s->cut;
    bool coded = s->layer->scheme.type != PARE_QUANT_NONE;
    int64_t cells = c->R * c->panel, chunks = (c->C + c->chunk - 1) / c->chunk;
    int64_t kept = s->layer->keep_zeros ? c->R * chunks : 0;
    int64_t scales = coded ? c->down * (c->fixed ? c->panel : c->across) : 0;
    s->w = pare__carve_next(carve, permuted ? c->R * c->C * 4 : 0);
    s->panel = pare__carve_next(carve, cells * 4);
    s->chunk = pare__carve_next(carve, is_wide(c) ? c->R * c->chunk * 4 : 0);
    s->err = pare__carve_next(carve, cells * 4);
    s->mask = pare__carve_next(carve, c->R * mask_bytes(c->panel));
    s->frozen = pare__carve_next(carve, kept * panels_of(c) * mask_bytes(c->panel));
    s->chunk_frozen = pare__carve_next(carve, is_wide(c) ? kept * mask_bytes(c->chunk) : 0);
    s->codes = pare__carve_next(carve, coded ? cells : 0);
    s->loss = pare__carve_next(carve, c->R * 8);
    s->scale = pare__carve_next(carve, scales * 4);
    s->zero = pare__carve_next(carve, s->layer->scheme.asymmetric ? scales : 0);
    s->index = pare__carve_next(carve, coded ? (c->fixed ? c->C : scales) * 4 : 0);
}

pare_status pare_sweep_check(const pare_layer *layer, bool permuted, int m)
{
    cut c;
    return cut_columns(layer, permuted, m, &c);
}

int64_t pare_sweep_bytes(const pare_layer *layer, bool permuted, int m)
{
    sweep s = {.layer = (pare_layer *)layer};
    pare__carve carve = {0};
    if (pare_tensor_count(&layer->w) > 0 && cut_columns(layer, permuted, m, &s.cut) == PARE_OK)
        lay_out(&s, permuted, &carve);
    return carve.size;
}

/* ---- places ---------------------------------------------------------------------------------- */

/* Columns [first, first + count) of the sweep: a chunk, or a panel of it. */
typedef struct place {
    int64_t first, count;
    int64_t chunk, panel; /* which */
} place;

static place chunk_at(const cut *c, int64_t chunk)
{
    int64_t first = chunk * c->chunk;
    return (place){first, least(c->chunk, c->C - first), chunk, 0};
}

static place panel_at(const cut *c, const place *chunk, int64_t panel)
{
    int64_t first = chunk->first + panel * c->panel, end = chunk->first + chunk->count;
    return (place){first, least(c->panel, end - first), chunk->chunk, panel};
}

static pare_tensor whole(const sweep *s)
{
    return pare_matrix(s->w, PARE_F32, s->cut.R, s->cut.C);
}

static pare_tensor frozen_of(const sweep *s, const place *p)
{
    int64_t line = mask_bytes(s->cut.panel);
    if (!s->frozen)
        return (pare_tensor){0};
    return pare_matrix(s->frozen + (p->chunk * panels_of(&s->cut) + p->panel) * s->cut.R * line,
                       PARE_U8, s->cut.R, mask_bytes(p->count));
}

static pare_tensor chunk_frozen_of(const sweep *s, const place *p)
{
    if (!s->chunk_frozen)
        return (pare_tensor){0};
    return pare_matrix(s->chunk_frozen + p->chunk * s->cut.R * mask_bytes(s->cut.chunk), PARE_U8,
                       s->cut.R, mask_bytes(p->count));
}

static pare_status take(const sweep *s, const place *p, pare_tensor to)
{
    return pare_copy_cols(
        s->be,
        &(pare_copy_cols_args){.x = whole(s), .y = to, .x_first = p->first, .cols = p->count});
}

/* ---- before ---------------------------------------------------------------------------------- */

static pare_status freeze(sweep *s)
{
    const cut *c = &s->cut;
    for (int64_t first = 0, k = 0; s->frozen && first < c->C; first += c->chunk, k++) {
        place chunk = chunk_at(c, k);
        for (int64_t i = 0; i * c->panel < chunk.count; i++) {
            place p = panel_at(c, &chunk, i);
            pare_tensor panel = pare_matrix(s->panel, PARE_F32, c->R, p.count);
            PARE_TRY(take(s, &p, panel));
            PARE_TRY(pare_mask_nonzero(
                s->be, &(pare_mask_nonzero_args){.x = panel, .mask = frozen_of(s, &p)}));
        }
        if (!s->chunk)
            continue;
        pare_tensor wide = pare_matrix(s->chunk, PARE_F32, c->R, chunk.count);
        PARE_TRY(take(s, &chunk, wide));
        PARE_TRY(pare_mask_nonzero(
            s->be, &(pare_mask_nonzero_args){.x = wide, .mask = chunk_frozen_of(s, &chunk)}));
    }
    return PARE_OK;
}

static pare_status upload_index(sweep *s)
{
    const cut *c = &s->cut;
    int64_t per = c->chunk / c->group > 0 ? c->chunk / c->group : 1; /* groups of a chunk */
    int64_t count = c->fixed ? c->C : c->down * c->across;
    int32_t *index = NULL;
    PARE_REQUIRE(count <= INT32_MAX, PARE_ERR_ARGUMENT, "%s: %lld scales are too many",
                 s->layer->name, (long long)count);
    PARE_TRY(pare__calloc((size_t)count, sizeof *index, &index));
    if (c->fixed)
        for (int64_t j = 0; j < c->C; j++)
            index[j] = (int32_t)(s->factor->columns[j] / c->group);
    for (int64_t g = 0; !c->fixed && g < c->across; g++) {
        int64_t begin = g / per * per, groups = least(per, c->across - begin);
        for (int64_t r = 0; r < c->down; r++)
            index[r * c->across + g] = (int32_t)(c->down * begin + r * groups + g - begin);
    }
    pare_status status =
        pare_backend_upload(s->be, s->index, index, count * (int64_t)sizeof *index);
    free(index);
    PARE_TRY(status);
    return PARE_OK;
}

/* Whether the layer's own arrays take the scales as they are found. */
static bool is_direct(const cut *c)
{
    return c->fixed || c->chunk >= c->C;
}

static pare_status begin(sweep *s)
{
    const cut *c = &s->cut;
    pare_layer *layer = s->layer;
    if (s->factor->live.data)
        PARE_TRY(pare_scale(
            s->be, &(pare_scale_args){.x = layer->w, .y = layer->w, .cols = s->factor->live}));
    if (s->round && c->fixed) {
        pare_panel all = {.be = s->be,
                          .count = c->C,
                          .w = layer->w,
                          .u = s->factor->u,
                          .scale = layer->scale,
                          .lo = layer->lo,
                          .zero = layer->zero};
        PARE_TRY(s->round->panel(s->round->user, &all));
    }
    if (s->round && (c->across > 1 || !is_direct(c)))
        PARE_TRY(upload_index(s));
    if (s->factor->order.data)
        PARE_TRY(pare_permute(
            s->be, &(pare_permute_args){.x = layer->w, .y = whole(s), .cols = s->factor->order}));
    else
        s->w = layer->w.data;
    PARE_TRY(freeze(s));
    return pare_backend_clear(s->be, s->loss, c->R * 8);
}

/* ---- a panel --------------------------------------------------------------------------------- */

/* The scales of a chunk, which all of its panels use. */
static void chunk_scales(const sweep *s, const place *chunk, pare_panel *panel)
{
    const cut *c = &s->cut;
    if (is_direct(c)) {
        panel->scale = s->layer->scale;
        panel->lo = s->layer->lo;
        panel->zero = s->layer->zero;
        return;
    }
    int64_t before = chunk->first / c->group, groups = (chunk->count + c->group - 1) / c->group;
    panel->scale = pare_matrix(s->scale + before * c->down, PARE_F32, c->down, groups);
    panel->lo = pare_matrix(s->layer->lo.data, PARE_F32, c->down, groups);
    if (s->zero)
        panel->zero = pare_matrix(s->zero + before * c->down, PARE_I8, c->down, groups);
}

/* Those of a panel's columns, one for each, where the sweep has an order of its own. */
static pare_status column_scales(const sweep *s, const place *p, pare_panel *panel)
{
    const cut *c = &s->cut;
    if (!c->fixed || c->across <= 1)
        return PARE_OK;
    pare_tensor groups = pare_vector(s->index + p->first, PARE_I32, p->count);
    panel->scale = pare_matrix(s->scale, PARE_F32, c->down, p->count);
    PARE_TRY(pare_permute(
        s->be, &(pare_permute_args){.x = s->layer->scale, .y = panel->scale, .cols = groups}));
    if (!s->zero)
        return PARE_OK;
    panel->zero = pare_matrix(s->zero, PARE_I8, c->down, p->count);
    return pare_permute(
        s->be, &(pare_permute_args){.x = s->layer->zero, .y = panel->zero, .cols = groups});
}

/* Finds the scales of a chunk, in w: its columns, all up to date. */
static pare_status round_chunk(sweep *s, const place *chunk, pare_tensor w, pare_tensor frozen,
                               pare_panel panel)
{
    panel.first = chunk->first;
    panel.count = chunk->count;
    panel.w = w;
    if (frozen.data)
        PARE_TRY(pare_mask_apply(s->be, &(pare_mask_apply_args){.x = w, .mask = frozen}));
    return s->round->panel(s->round->user, &panel);
}

static pare_status choose_panel(sweep *s, pare_panel *panel)
{
    const cut *c = &s->cut;
    panel->keys = pare_matrix(s->err, PARE_U32, c->R, panel->count); /* err comes later */
    panel->mask = pare_matrix(s->mask, PARE_U8, c->R, mask_bytes(panel->count));
    PARE_TRY(pare_mask_select(s->be, &(pare_mask_select_args){.x = panel->w, .mask = panel->mask}));
    PARE_TRY(s->choose->panel(s->choose->user, panel));
    return PARE_OK;
}

static pare_status sweep_panel(sweep *s, const place *p, pare_panel *panel)
{
    const cut *c = &s->cut;
    const pare_scheme *scheme = &s->layer->scheme;
    PARE_TRY(column_scales(s, p, panel));
    if (s->choose)
        PARE_TRY(choose_panel(s, panel));
    bool alone = c->fixed && c->across > 1; /* each column has a scale */
    pare_tensor err = pare_matrix(s->err, PARE_F32, c->R, p->count);
    PARE_TRY(pare_obs_block(s->be, &(pare_obs_block_args){
                                       .w = panel->w,
                                       .u = s->factor->u,
                                       .first = p->first,
                                       .frozen = panel->frozen,
                                       .mask = panel->mask,
                                       .n = panel->n,
                                       .m = panel->m,
                                       .scheme = *scheme,
                                       .block_rows = s->layer->block_rows,
                                       .block_cols = alone ? 1 : s->layer->block_cols,
                                       .scale = panel->scale,
                                       .zero = panel->zero,
                                       .codes = pare_matrix(s->codes, PARE_I8, c->R, p->count),
                                       .err = err,
                                       .loss = pare_vector(s->loss, PARE_F64, c->R),
                                   }));
    PARE_TRY(pare_copy_cols(
        s->be, &(pare_copy_cols_args){
                   .x = panel->w, .y = whole(s), .y_first = p->first, .cols = p->count}));
    if (p->first + p->count == c->C)
        return PARE_OK;
    return pare_obs_update(
        s->be, &(pare_obs_update_args){
                   .w = whole(s), .err = err, .u = s->factor->u, .first = p->first, .last = c->C});
}

static pare_status sweep_chunk(sweep *s, const place *chunk)
{
    const cut *c = &s->cut;
    pare_panel shared = {.be = s->be, .u = s->factor->u};
    if (s->round)
        chunk_scales(s, chunk, &shared);
    if (s->chunk && s->round) {
        pare_tensor wide = pare_matrix(s->chunk, PARE_F32, c->R, chunk->count);
        PARE_TRY(take(s, chunk, wide));
        PARE_TRY(round_chunk(s, chunk, wide, chunk_frozen_of(s, chunk), shared));
    } else if (s->round && !c->fixed && chunk->count == c->C) {
        PARE_TRY(round_chunk(s, chunk, whole(s), (pare_tensor){0}, shared));
    }
    for (int64_t i = 0; i * c->panel < chunk->count; i++) {
        place p = panel_at(c, chunk, i);
        pare_panel panel = shared;
        panel.first = p.first;
        panel.count = p.count;
        panel.w = pare_matrix(s->panel, PARE_F32, c->R, p.count);
        panel.frozen = frozen_of(s, &p);
        PARE_TRY(take(s, &p, panel.w));
        if (s->round && !c->fixed && !s->chunk && chunk->count < c->C)
            PARE_TRY(round_chunk(s, &p, panel.w, panel.frozen, shared));
        PARE_TRY(sweep_panel(s, &p, &panel));
    }
    return PARE_OK;
}

/* ---- after ----------------------------------------------------------------------------------- */

static pare_status gather(sweep *s, void *from, pare_tensor to)
{
    int64_t count = pare_tensor_count(&to);
    return pare_permute(s->be,
                        &(pare_permute_args){.x = pare_matrix(from, to.dtype, 1, count),
                                             .y = pare_matrix(to.data, to.dtype, 1, count),
                                             .cols = pare_vector(s->index, PARE_I32, count)});
}

static pare_status end(sweep *s, double *loss)
{
    pare_layer *layer = s->layer;
    if (s->factor->order.data)
        PARE_TRY(pare_permute(
            s->be, &(pare_permute_args){.x = whole(s), .y = layer->w, .cols = s->factor->place}));
    if (s->round && !is_direct(&s->cut)) {
        PARE_TRY(gather(s, s->scale, layer->scale));
        if (s->zero)
            PARE_TRY(gather(s, s->zero, layer->zero));
    }
    if (s->round)
        PARE_TRY(pare_quantize(s->be, &(pare_quantize_args){.scheme = layer->scheme,
                                                            .w = layer->w,
                                                            .block_rows = layer->block_rows,
                                                            .block_cols = layer->block_cols,
                                                            .scale = layer->scale,
                                                            .zero = layer->zero,
                                                            .codes = layer->codes}));
    double *rows = NULL;
    PARE_TRY(pare__calloc((size_t)s->cut.R, sizeof *rows, &rows));
    pare_status status = pare_backend_download(s->be, rows, s->loss, s->cut.R * 8);
    *loss = 0;
    for (int64_t r = 0; r < s->cut.R; r++)
        *loss += rows[r];
    free(rows);
    PARE_TRY(status);
    return PARE_OK;
}

static pare_status run(sweep *s, double *loss)
{
    PARE_TRY(begin(s));
    for (int64_t k = 0; k * s->cut.chunk < s->cut.C; k++) {
        place chunk = chunk_at(&s->cut, k);
        PARE_TRY(sweep_chunk(s, &chunk));
    }
    return end(s, loss);
}

static pare_status check(const pare_layer *layer, const pare_factor *factor,
                         const pare_choose *choose, const pare_round *round)
{
    PARE_REQUIRE(layer->w.rank == 2 && layer->w.shape[1] == factor->u.shape[0], PARE_ERR_ARGUMENT,
                 "%s: a weight of %lld columns cannot be swept by a factor of %lld", layer->name,
                 (long long)layer->w.shape[1], (long long)factor->u.shape[0]);
    PARE_REQUIRE((layer->scheme.type != PARE_QUANT_NONE) == (round != NULL), PARE_ERR_ARGUMENT,
                 "%s: a sweep rounds if, and only if, its layer has a scheme", layer->name);
    PARE_REQUIRE(!layer->scheme.double_quant, PARE_ERR_ARGUMENT,
                 "%s: scales that are quantised too are known only after a sweep: use nf4",
                 layer->name);
    PARE_REQUIRE(!(factor->act_order && choose && choose->m > 0), PARE_ERR_ARGUMENT,
                 "%s: act_order takes columns in another order than n:m counts them", layer->name);
    return PARE_OK;
}

pare_status pare_sweep(pare_backend *be, pare_layer *layer, const pare_factor *factor,
                       const pare_choose *choose, const pare_round *round, double *loss)
{
    bool permuted = factor->order.data != NULL;
    sweep s = {.be = be,
               .layer = layer,
               .factor = factor,
               .choose = choose && choose->panel ? choose : NULL,
               .round = round && round->panel ? round : NULL};
    *loss = 0;
    PARE_TRY(check(layer, factor, s.choose, s.round));
    if (pare_tensor_count(&layer->w) == 0)
        return PARE_OK;
    PARE_TRY(cut_columns(layer, permuted, s.choose ? s.choose->m : 0, &s.cut));
    pare__carve carve = {0};
    lay_out(&s, permuted, &carve);
    PARE_TRY(pare_backend_alloc(be, carve.size, &s.memory));
    s.bytes = carve.size;
    carve = (pare__carve){.base = s.memory};
    lay_out(&s, permuted, &carve);
    pare_status status = run(&s, loss);
    pare_backend_release(be, s.memory, s.bytes);
    PARE_TRY(status);
    return PARE_OK;
}
