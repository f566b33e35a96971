/* dataset_tokens.c - token ids: windows over a stream, or rows, with next tokens as labels.
 *
 * Every item is a run of stored tokens, with the bos before it: a sequence x of some length L. The
 * model sees the first T of it; position t predicts x[t + 1] where there is one.
 *
 *   windows          T + 1 of x (each of the T positions predicts), starts a stride apart
 *   rows with labels the row: T = L
 *   rows without     the row: T = L (the last position predicts nothing) or L − 1
 */
#include "data_impl.h"

#include <string.h>

#define LONGEST (INT64_C(1) << 24) /* of T: beyond it is a typing error, not a model */

/* The tokens in a row as they lie in the file, and T, for rows. */
static pare_status lay_out_rows(pare_dataset *d, bool labelled)
{
    const pare_data_options *o = &d->o;
    pare__token_layout *t = &d->tokens;
    const pare_tensor *shape = &d->source.tensor;
    int64_t bos = o->bos_id >= 0, count = pare_tensor_count(shape);
    PARE_REQUIRE(o->stride == 0, PARE_ERR_ARGUMENT,
                 "%s: a stride is for windows over a stream of tokens, these are rows", d->path);
    t->next = !labelled;
    if (shape->rank == 2) {
        int64_t whole = shape->shape[1] + bos;
        t->stored = shape->shape[1];
        t->length = o->seq_len > 0 ? o->seq_len : whole;
        PARE_REQUIRE(t->length == whole || (t->next && t->length == whole - 1 && t->length > 0),
                     PARE_ERR_ARGUMENT,
                     "%s has rows of %" PRId64 " tokens, which do not give %" PRId64
                     " positions%s: leave --seq-len out",
                     d->path, t->stored, t->length, bos ? " with the bos before them" : "");
    } else {
        t->length = o->seq_len;
        t->stored = t->length - bos;
        PARE_REQUIRE(t->stored > 0 && count % t->stored == 0, PARE_ERR_ARGUMENT,
                     "%s has %" PRId64 " tokens, which are no whole rows of %" PRId64, d->path,
                     count, t->stored);
    }
    t->step = t->stored;
    d->total = count / t->stored;
    return PARE_OK;
}

static pare_status lay_out_windows(pare_dataset *d)
{
    const pare_data_options *o = &d->o;
    pare__token_layout *t = &d->tokens;
    int64_t count = pare_tensor_count(&d->source.tensor), bos = o->bos_id >= 0;
    t->next = true;
    t->length = o->seq_len;
    t->stored = t->length + 1 - bos;
    t->step = o->stride > 0 ? o->stride : t->length;
    t->seen = t->length > t->step ? t->length - t->step : 0;
    PARE_REQUIRE(count >= t->stored, PARE_ERR_ARGUMENT,
                 "%s has %" PRId64 " tokens; a window of %" PRId64 " predictions needs %" PRId64
                 ": give a smaller --seq-len",
                 d->path, count, t->length, t->stored);
    d->total = (count - t->stored) / t->step + 1;
    return PARE_OK;
}

pare_status pare__tokens_open(pare_dataset *d, bool labelled)
{
    const pare_data_options *o = &d->o;
    int rank = d->source.tensor.rank;
    char shape[128];
    PARE_REQUIRE(rank == 1 || rank == 2, PARE_ERR_ARGUMENT,
                 "%s has the shape %s: the model takes tokens, a stream [n] or rows [n, T]",
                 d->path, pare_shape_text(rank, d->source.tensor.shape, shape, sizeof shape));
    PARE_REQUIRE(o->crop == 0 && !o->flip && o->mixup == 0, PARE_ERR_ARGUMENT,
                 "%s: crop, flip and mixup are for images, the model takes tokens", d->path);
    PARE_REQUIRE(o->seq_len >= 0 && o->seq_len <= LONGEST && o->stride >= 0, PARE_ERR_ARGUMENT,
                 "%s: a row of %" PRId64 " tokens, %" PRId64 " apart, makes no sense", d->path,
                 o->seq_len, o->stride);
    PARE_REQUIRE(rank == 2 || o->seq_len > 0, PARE_ERR_ARGUMENT,
                 "%s is a stream of tokens: say with --seq-len how long a row is", d->path);
    int64_t ids = pare__vocabulary(d);
    PARE_REQUIRE(o->pad_id < ids && o->bos_id < ids, PARE_ERR_ARGUMENT,
                 "pad id %" PRId64 " and bos id %" PRId64 " must lie below the %" PRId64
                 " tokens of the vocabulary",
                 o->pad_id, o->bos_id, ids);
    return rank == 2 || labelled ? lay_out_rows(d, labelled) : lay_out_windows(d);
}

int64_t pare__vocabulary(const pare_dataset *d)
{
    return d->o.vocabulary > 0 && d->o.vocabulary < INT32_MAX ? d->o.vocabulary : INT32_MAX;
}

/* The tokens as they are stored, rounded up for what comes behind them: the sequence. */
static int64_t stored_bytes(const pare_dataset *d)
{
    return (d->tokens.stored * (pare_dtype_bits(d->source.tensor.dtype) / 8) + 7) / 8 * 8;
}

int64_t pare__tokens_scratch(const pare_dataset *d)
{
    return stored_bytes(d) + (d->tokens.stored + 1) * 4;
}

pare_status pare__tokens_row(const pare_dataset *d, int64_t item, void *scratch, int32_t *ids,
                             int32_t *labels, uint8_t *keys, bool *padded)
{
    const pare__token_layout *t = &d->tokens;
    int64_t bos = d->o.bos_id >= 0, length = t->stored + bos;
    int64_t width = pare_dtype_bits(d->source.tensor.dtype) / 8;
    int32_t *x = (int32_t *)((char *)scratch + stored_bytes(d));
    int32_t pad = d->o.pad_id >= 0 ? (int32_t)d->o.pad_id : -1;
    PARE_TRY(pare__source_read(&d->source, item * t->step * width, t->stored * width, scratch));
    x[0] = (int32_t)d->o.bos_id;
    pare__widen_ids(d->source.tensor.dtype, scratch, t->stored, x + bos);
    memcpy(ids, x, (size_t)t->length * 4);
    int used = 1;
    for (int64_t i = 0; i < t->length; i++) {
        keys[i] = x[i] != pad;
        used &= keys[i];
    }
    *padded = *padded || !used;
    if (!labels)
        return PARE_OK;
    int64_t predicted = length - 1 < t->length ? length - 1 : t->length;
    for (int64_t i = 0; i < predicted; i++)
        labels[i] = x[i] == pad || x[i + 1] == pad ? -1 : x[i + 1];
    for (int64_t i = predicted; i < t->length; i++)
        labels[i] = -1;
    if (item > 0)
        for (int64_t i = 0; i < t->seen; i++)
            labels[i] = -1;
    return PARE_OK;
}
