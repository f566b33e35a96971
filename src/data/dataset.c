/* dataset.c - opens data: finds it, lays it out, looks at all of it once, and answers for it. */
#include "data_impl.h"

#include "pare/ops.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define PIECE (INT64_C(1) << 20) /* bytes read and hashed at once; the digest depends on it */

/* Images are hashed whole up to this; of more, so many bytes in pieces evenly spread. Tokens are
 * looked at one by one anyway, and hashed whole. */
#define DIGEST_LIMIT (INT64_C(1) << 30)

/* ---- one look at everything ------------------------------------------------------------------ */

/* What the samples depend on, beside the bytes. */
static pare_status hash_options(pare_dataset *d, pare_backend *be)
{
    const pare_data_options *o = &d->o;
    char text[1024];
    int used = snprintf(
        text, sizeof text,
        "%d %d %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64
        " %" PRId64 " %" PRId64 " %" PRId64 " %d %d %" PRIu64 " %d %d %a %a",
        o->tokens, d->source.tensor.dtype, d->source.bytes, d->tokens.length, o->stride, o->pad_id,
        o->bos_id, d->images.height, d->images.width, d->images.channels, o->skip, o->samples,
        o->shuffle, o->draw, o->seed, o->crop, o->flip, (double)o->mixup, (double)o->scale);
    for (int c = 0; c < 4; c++)
        used += snprintf(text + used, sizeof text - (size_t)used, " %a %a", (double)o->mean[c],
                         (double)o->std[c]);
    return pare_digest(
        be,
        &(pare_digest_args){.bytes = text, .size = used, .seed = UINT64_MAX, .result = d->digest});
}

static pare_status look_at_piece(pare_dataset *d, pare_backend *be, int64_t at, int64_t size,
                                 void *piece)
{
    int64_t width = pare_dtype_bits(d->source.tensor.dtype) / 8;
    PARE_TRY(pare__source_read(&d->source, at, size, piece));
    if (d->o.tokens)
        PARE_TRY(pare__check_ids(&d->source, piece, at / width, size / width, pare__vocabulary(d),
                                 "token"));
    return pare_digest(
        be, &(pare_digest_args){
                .bytes = piece, .size = size, .seed = (uint64_t)at, .result = d->digest});
}

static pare_status look_at_all(pare_dataset *d)
{
    pare_status status = PARE_OK;
    pare_backend *be = NULL;
    void *piece = NULL;
    int64_t pieces = (d->source.bytes - 1) / PIECE + 1, looks = pieces;
    if (!d->o.tokens && looks > DIGEST_LIMIT / PIECE)
        looks = DIGEST_LIMIT / PIECE;
    PARE_TRY_DONE(pare_cpu_create(NULL, &be));
    PARE_TRY_DONE(pare__pages((size_t)PIECE, &piece));
    for (int64_t i = 0; i < looks; i++) {
        int64_t at =
            (looks == pieces ? i : (int64_t)((double)i / (double)looks * (double)pieces)) * PIECE;
        int64_t left = d->source.bytes - at;
        PARE_TRY_DONE(look_at_piece(d, be, at, left < PIECE ? left : PIECE, piece));
    }
    if (d->labels)
        PARE_TRY_DONE(pare_digest(be, &(pare_digest_args){.bytes = d->labels,
                                                          .size = d->total * 4,
                                                          .seed = UINT64_MAX - 1,
                                                          .result = d->digest}));
    PARE_TRY_DONE(hash_options(d, be));
done:
    pare__pages_free(piece, (size_t)PIECE);
    pare_backend_free(&be);
    return status;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Which of the items are samples. */
static pare_status choose_samples(pare_dataset *d)
{
    const pare_data_options *o = &d->o;
    const char *what =
        o->tokens ? d->tokens.next && d->source.tensor.rank == 1 ? "windows" : "rows" : "images";
    PARE_REQUIRE(o->skip >= 0 && o->samples >= 0, PARE_ERR_ARGUMENT,
                 "%" PRId64 " samples behind %" PRId64 " others make no sense", o->samples,
                 o->skip);
    int64_t least = o->at_most ? 1 : o->samples;
    PARE_REQUIRE(o->skip < d->total && least <= d->total - o->skip, PARE_ERR_ARGUMENT,
                 "%s has %" PRId64 " %s, too few to skip %" PRId64 " and take %" PRId64
                 ": give fewer samples",
                 d->path, d->total, what, o->skip, o->samples > 0 ? o->samples : 1);
    d->count = d->total - o->skip;
    if (o->samples > 0 && o->samples < d->count)
        d->count = o->samples;
    return PARE_OK;
}

static pare_status open_all(pare_dataset *d, const pare_data_options *options)
{
    pare_status status = PARE_OK;
    char *beside = NULL;
    PARE_TRY_DONE(pare__strdup(options->path, &d->path));
    PARE_TRY_DONE(pare__data_find(options, &d->source, &beside));
    const char *labels = options->labels ? options->labels : beside;
    PARE_TRY_DONE(d->o.tokens ? pare__tokens_open(d, labels != NULL) : pare__images_open(d));
    if (labels || d->source.cifar)
        PARE_TRY_DONE(pare__labels_open(d, labels));
    if (d->o.mixup > 0 && !d->labels)
        PARE_TRY_DONE(pare__error(PARE_ERR_ARGUMENT, __func__,
                                  "mixup needs labels to mix, and %s has none: give --labels",
                                  d->path));
    PARE_TRY_DONE(choose_samples(d));
    PARE_TRY_DONE(look_at_all(d));
done:
    free(beside);
    return status;
}

pare_status pare_dataset_open(const pare_data_options *options, pare_dataset **dataset)
{
    PARE_REQUIRE(options && options->path && *options->path && dataset, PARE_ERR_ARGUMENT,
                 "a dataset needs a path");
    pare_dataset *d = NULL;
    PARE_TRY(pare__calloc(1, sizeof *d, &d));
    d->o = *options;
    d->o.path = d->o.labels = NULL;
    pare_status status = open_all(d, options);
    if (status != PARE_OK)
        pare_dataset_close(&d);
    PARE_TRY(status);
    *dataset = d;
    return PARE_OK;
}

void pare_dataset_close(pare_dataset **dataset)
{
    pare_dataset *d = dataset ? *dataset : NULL;
    if (!d)
        return;
    *dataset = NULL;
    pare__source_close(&d->source);
    free(d->labels);
    free(d->path);
    free(d);
}

/* ---- answers --------------------------------------------------------------------------------- */

int64_t pare_dataset_count(const pare_dataset *d)
{
    return d->count;
}

int64_t pare_dataset_length(const pare_dataset *d)
{
    return d->tokens.length;
}

int64_t pare_dataset_classes(const pare_dataset *d)
{
    return d->classes;
}

bool pare_dataset_labelled(const pare_dataset *d)
{
    return d->labels || d->tokens.next;
}

const char *pare_dataset_path(const pare_dataset *d)
{
    return d->path;
}

bool pare_dataset_augments(const pare_dataset *d)
{
    return d->o.crop > 0 || d->o.flip || d->o.mixup > 0;
}

void pare_dataset_digest(const pare_dataset *d, uint64_t digest[2])
{
    digest[0] = d->digest[0];
    digest[1] = d->digest[1];
}

int64_t pare_dataset_bytes(const pare_dataset *d)
{
    return (int64_t)sizeof *d + (d->source.memory ? d->source.bytes : 0) +
           (d->labels ? d->total * (int64_t)sizeof *d->labels : 0);
}
