/* walk_mask.c - zeros by score: which weights of a layer are least, and go. */
#include "walk_site.h"

#include <math.h>
#include <string.h>

static int64_t mask_bytes(int64_t cols)
{
    return (cols + 7) / 8;
}

/* ‖x‖₂ of each input, in the walker's vector, times a power of two: the largest is about 1, so that
 * scores fit. PARE_ERR_NUMERIC if they say nothing of the weights: what goes would be a matter of
 * places. */
static pare_status norms(pare__solving *s)
{
    int64_t K = s->stats->cols;
    double *squares = NULL, most = 0;
    bool finite = true;
    int exponent;
    PARE_TRY(pare__calloc((size_t)K, sizeof *squares, &squares));
    pare_status status = pare_backend_download(s->w->be, squares, s->stats->squares.data, K * 8);
    for (int64_t c = 0; c < K; c++) {
        finite = finite && isfinite(squares[c]);
        most = fmax(most, squares[c]);
    }
    (void)frexp(sqrt(most), &exponent);
    float *norm = (float *)squares; /* in place: each is read before its half is written */
    for (int64_t c = 0; c < K; c++) {
        float root = (float)ldexp(sqrt(squares[c]), -exponent);
        memcpy(norm + c, &root, sizeof root);
    }
    if (status == PARE_OK)
        status = pare_backend_upload(s->w->be, s->w->vector, norm, K * 4);
    free(squares);
    PARE_TRY(status);
    PARE_REQUIRE(finite, PARE_ERR_NUMERIC, "the inputs hold NaN or Inf");
    PARE_REQUIRE(most > 0, PARE_ERR_NUMERIC, "%s",
                 s->stats->rows > 0 ? "all inputs are zero" : "there are no samples");
    return PARE_OK;
}

/* Keys of elements or blocks into scratch[0], or the weights themselves. */
static pare_status score(pare__solving *s, const pare_prune_method *method, pare_tensor *keys)
{
    const pare_pattern *p = &s->k->prune->pattern;
    pare_tensor w = s->room.layer.w;
    bool block = p->kind == PARE_PATTERN_BLOCK, columns = method->needs & PARE_STAT_COLUMNS;
    if (method->weight_is_score && !block) {
        *keys = w;
        return PARE_OK;
    }
    pare_score_args args = {.seed = s->w->job->recipe->seed,
                            .stream = s->task->stream,
                            .w = w,
                            .block_rows = block ? p->block_rows : 1,
                            .block_cols = block ? p->block_cols : 1};
    if (columns) {
        PARE_TRY(norms(s));
        args.norm = pare_vector(s->w->vector, PARE_F32, w.shape[1]);
    }
    args.keys = pare_matrix(s->room.scratch[0].data, PARE_U32,
                            (w.shape[0] + args.block_rows - 1) / args.block_rows,
                            (w.shape[1] + args.block_cols - 1) / args.block_cols);
    *keys = args.keys;
    PARE_TRY(method->score(s->w->be, &args));
    return PARE_OK;
}

/* Columns c·inner + s as s·channels + c, or back. */
static pare_status turn(pare__solving *s, pare_tensor x, pare_tensor y, bool back)
{
    int64_t K = x.shape[1], inner = s->k->inner, channels = K / inner;
    int32_t *from = NULL;
    PARE_TRY(pare__calloc((size_t)K, sizeof *from, &from));
    for (int64_t j = 0; j < K; j++)
        from[j] = (int32_t)(back ? j % inner * channels + j / inner
                                 : j % channels * inner + j / channels);
    pare_status status = pare_backend_upload(s->w->be, s->w->vector, from, K * 4);
    free(from);
    PARE_TRY(status);
    x.dtype = y.dtype = PARE_F32; /* keys are moved as they are */
    PARE_TRY(pare_permute(
        s->w->be,
        &(pare_permute_args){.x = x, .y = y, .cols = pare_vector(s->w->vector, PARE_I32, K)}));
    return PARE_OK;
}

static pare_status apply(pare__solving *s, pare_tensor x)
{
    return pare_mask_apply(s->w->be, &(pare_mask_apply_args){.x = x, .mask = s->room.mask});
}

/* N:M, of a convolution along its input channels. keys: the weights, or scratch[0]. */
static pare_status prune_nm(pare__solving *s, pare_tensor keys)
{
    const pare_pattern *p = &s->k->prune->pattern;
    pare_mask_nm_args args = {.x = keys, .n = p->n, .m = p->m, .mask = s->room.mask};
    pare_tensor w = s->room.layer.w;
    if (s->k->inner <= 1) {
        PARE_TRY(pare_mask_nm(s->w->be, &args));
        return apply(s, w);
    }
    args.x = s->room.scratch[1];
    args.x.dtype = keys.dtype;
    PARE_TRY(turn(s, keys, args.x, false));
    PARE_TRY(pare_mask_nm(s->w->be, &args));
    PARE_TRY(turn(s, w, s->room.scratch[1], false));
    PARE_TRY(apply(s, s->room.scratch[1]));
    return turn(s, s->room.scratch[1], w, true);
}

/* The lowest of all elements, or blocks. */
static pare_status prune_lowest(pare__solving *s, pare_tensor keys)
{
    const pare_pattern *p = &s->k->prune->pattern;
    uint32_t threshold = 0;
    int64_t below = 0, equal, units = pare_tensor_count(&keys);
    int64_t k = (int64_t)rint(s->k->sparsity * (double)units);
    if (k > 0)
        PARE_TRY(pare_select_kth(
            s->w->be, &(pare_select_kth_args){.x = pare_vector(keys.data, keys.dtype, units),
                                              .k = k,
                                              .threshold = &threshold,
                                              .below = &below,
                                              .equal = &equal}));
    pare_mask_select_args select = {
        .x = keys, .threshold = threshold, .ties = k - below, .mask = s->room.mask};
    if (p->kind == PARE_PATTERN_BLOCK)
        select.mask =
            pare_matrix(s->room.block_mask, PARE_U8, keys.shape[0], mask_bytes(keys.shape[1]));
    PARE_TRY(pare_mask_select(s->w->be, &select));
    if (p->kind == PARE_PATTERN_BLOCK)
        PARE_TRY(pare_mask_expand(s->w->be, &(pare_mask_expand_args){.blocks = select.mask,
                                                                     .block_rows = p->block_rows,
                                                                     .block_cols = p->block_cols,
                                                                     .rows = s->task->out.rows,
                                                                     .cols = s->task->out.cols,
                                                                     .mask = s->room.mask}));
    return apply(s, s->room.layer.w);
}

/* Puts zeros into the weight by a score; PARE_ERR_NUMERIC, and none, if its inputs give none. */
pare_status pare__prune_by(pare__solving *s, const pare_prune_method *method)
{
    pare_tensor keys;
    PARE_TRY(score(s, method, &keys));
    if (s->k->prune->pattern.kind == PARE_PATTERN_NM)
        return prune_nm(s, keys);
    if (!method->by_row || s->site->site.conv)
        return prune_lowest(s, keys);
    PARE_TRY(pare_mask_rows(
        s->w->be,
        &(pare_mask_rows_args){.x = keys,
                               .prune = (int64_t)rint(s->k->sparsity * (double)keys.shape[1]),
                               .mask = s->room.mask}));
    return apply(s, s->room.layer.w);
}
