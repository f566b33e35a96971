/* batch.c - a batch's memory, and putting samples into it. After the making nothing is allocated.
 */
#include "data_impl.h"

#include <string.h>

/* A batch of ours: what its maker sees, and the same memory to write to. */
typedef struct own_batch {
    pare_batch view; /* first: a pare_batch of ours is an own_batch */
    const pare_dataset *dataset;
    int64_t capacity; /* samples */
    int32_t *ids, *labels, *labels2;
    uint8_t *keys;
    float *images, *mix, *partner; /* partner: mixup's other image */
    void *scratch;
    int64_t bytes;
} own_batch;

#define TOO_LARGE (INT64_C(1) << 62) /* what sizes that do not fit add up to: no machine has it */

/* Room for so many bytes of each of size samples, behind what is taken already; base NULL only
 * counts. */
static void *carve(char *base, int64_t *used, int64_t size, int64_t each, bool wanted)
{
    int64_t bytes;
    if (!wanted)
        return NULL;
    void *at = base ? base + *used : NULL;
    if (!pare__mul(size, each, &bytes) || bytes > TOO_LARGE - *used)
        *used = TOO_LARGE;
    else
        *used = (*used + bytes + 63) / 64 * 64;
    return at;
}

static int64_t pixels_of(const pare_dataset *d)
{
    return d->images.height * d->images.width * d->images.channels;
}

/* Points the batch into its memory; returns the bytes. */
static int64_t lay_out(const pare_dataset *d, int64_t size, char *base, own_batch *b)
{
    int64_t used = 0, length = d->tokens.length;
    bool tokens = d->o.tokens, images = !tokens, mixup = d->o.mixup > 0;
    b->ids = carve(base, &used, size, length * 4, tokens);
    b->keys = carve(base, &used, size, length, tokens);
    b->images = carve(base, &used, size, pixels_of(d) * 4, images);
    b->labels = carve(base, &used, size, d->tokens.next ? length * 4 : 4, pare_dataset_labelled(d));
    b->labels2 = carve(base, &used, size, 4, mixup);
    b->mix = carve(base, &used, size, 4, mixup);
    b->partner = carve(base, &used, 1, pixels_of(d) * 4, mixup);
    b->scratch =
        carve(base, &used, 1, tokens ? pare__tokens_scratch(d) : pare__images_scratch(d), true);
    return used;
}

int64_t pare_batch_bytes(const pare_dataset *dataset, int64_t size)
{
    own_batch b = {.capacity = 0};
    return lay_out(dataset, size, NULL, &b) + (int64_t)sizeof b;
}

pare_status pare_batch_create(const pare_dataset *dataset, int64_t size, pare_batch **batch)
{
    pare_status status = PARE_OK;
    own_batch *b = NULL;
    char *memory = NULL;
    PARE_REQUIRE(dataset && batch && size > 0, PARE_ERR_ARGUMENT,
                 "a batch of %" PRId64 " samples cannot be made", size);
    PARE_TRY_DONE(pare__calloc(1, sizeof *b, &b));
    b->dataset = dataset;
    b->capacity = size;
    b->bytes = lay_out(dataset, size, NULL, b);
    PARE_TRY_DONE(pare__pages((size_t)b->bytes, &memory));
    lay_out(dataset, size, memory, b);
    b->view = (pare_batch){.length = dataset->tokens.length,
                           .ids = b->ids,
                           .images = b->images,
                           .labels = b->labels,
                           .labels2 = b->labels2,
                           .mix = b->mix};
    *batch = &b->view;
    b = NULL;
done:
    free(b);
    return status;
}

void pare_batch_free(pare_batch **batch)
{
    own_batch *b = batch ? (own_batch *)*batch : NULL;
    if (!b)
        return;
    *batch = NULL;
    /* the memory begins with what comes first in every batch */
    pare__pages_free(b->ids ? (void *)b->ids : (void *)b->images, (size_t)b->bytes);
    free(b);
}

static pare_status fill_tokens(own_batch *b, int64_t first, int64_t size)
{
    const pare_dataset *d = b->dataset;
    int64_t length = d->tokens.length;
    bool padded = false;
    for (int64_t i = 0; i < size; i++) {
        int64_t item = pare_dataset_item(d, first + i);
        PARE_TRY(pare__tokens_row(d, item, b->scratch, b->ids + i * length,
                                  d->tokens.next ? b->labels + i * length : NULL,
                                  b->keys + i * length, &padded));
        if (d->labels)
            b->labels[i] = d->labels[item];
    }
    b->view.keys = padded ? b->keys : NULL;
    return PARE_OK;
}

/* Sample g's image, as it is without mixing; *label its label. */
static pare_status fill_image(own_batch *b, int64_t g, float *pixels, int32_t *label)
{
    const pare_dataset *d = b->dataset;
    int64_t item = pare_dataset_item(d, g);
    pare__view view = pare__view_of(d, g);
    if (d->labels)
        *label = d->labels[item];
    return pare__images_pixels(d, item, &view, b->scratch, pixels);
}

static pare_status mix_in(own_batch *b, int64_t g, int64_t i, float *pixels)
{
    int64_t partner, count = pixels_of(b->dataset);
    float share = pare__mix_of(b->dataset, g, &partner);
    PARE_TRY(fill_image(b, partner, b->partner, &b->labels2[i]));
    for (int64_t p = 0; p < count; p++)
        pixels[p] = share * pixels[p] + (1 - share) * b->partner[p];
    b->mix[i] = share;
    return PARE_OK;
}

static pare_status fill_images(own_batch *b, int64_t first, int64_t size)
{
    for (int64_t i = 0; i < size; i++) {
        float *pixels = b->images + i * pixels_of(b->dataset);
        PARE_TRY(fill_image(b, first + i, pixels, b->labels ? &b->labels[i] : NULL));
        if (b->mix)
            PARE_TRY(mix_in(b, first + i, i, pixels));
    }
    return PARE_OK;
}

pare_status pare_dataset_fill(const pare_dataset *dataset, int64_t first, int64_t size,
                              pare_batch *batch)
{
    own_batch *b = (own_batch *)batch;
    int64_t end;
    PARE_REQUIRE(dataset && b && b->dataset == dataset, PARE_ERR_ARGUMENT,
                 "the batch was made for another dataset");
    PARE_REQUIRE(size > 0 && size <= b->capacity && pare__add(first, size, &end), PARE_ERR_ARGUMENT,
                 "samples %" PRId64 " to %" PRId64 " do not fit a batch of %" PRId64, first,
                 first + size, b->capacity);
    b->view.size = size;
    return dataset->o.tokens ? fill_tokens(b, first, size) : fill_images(b, first, size);
}
