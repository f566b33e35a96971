/* dataset_images.c - images: how they lie in their file, and one of them as the model takes it. */
#include "data_impl.h"

#include "base/half.h"

#include <math.h>

enum { MAX_CHANNELS = 4 }; /* that there are means and deviations for */

/* ---- layouts --------------------------------------------------------------------------------- */

/* Whether the model takes images of this size; what it leaves open may be anything that it can
 * normalise. */
static bool suits(const pare_data_options *o, const pare__image_layout *m)
{
    return (o->height == 0 || o->height == m->height) && (o->width == 0 || o->width == m->width) &&
           (o->channels == 0 || o->channels == m->channels) && m->channels <= MAX_CHANNELS;
}

static pare__image_layout channels_last(int64_t height, int64_t width, int64_t channels)
{
    return (pare__image_layout){.height = height,
                                .width = width,
                                .channels = channels,
                                .record = height * width * channels,
                                .row = width * channels,
                                .col = channels,
                                .channel = 1};
}

static pare__image_layout channels_first(int64_t channels, int64_t height, int64_t width)
{
    return (pare__image_layout){.height = height,
                                .width = width,
                                .channels = channels,
                                .record = height * width * channels,
                                .row = width,
                                .col = 1,
                                .channel = height * width};
}

/* The layout that suits the model; where none does, the likelier one, for the sentence. */
static pare__image_layout choose(const pare_dataset *d)
{
    const int64_t *shape = d->source.tensor.shape;
    if (d->source.cifar) { /* labels, then three planes */
        pare__image_layout m = channels_first(3, 32, 32);
        m.record = shape[1];
        m.skip = shape[1] - 3072;
        return m;
    }
    if (d->source.tensor.rank == 3)
        return channels_last(shape[1], shape[2], 1);
    pare__image_layout last = channels_last(shape[1], shape[2], shape[3]);
    pare__image_layout first = channels_first(shape[1], shape[2], shape[3]);
    return suits(&d->o, &last) || (!suits(&d->o, &first) && shape[3] <= MAX_CHANNELS) ? last
                                                                                      : first;
}

/* Each byte as the model takes it: one look-up a value, and the same rounding everywhere. */
static void fill_table(pare_dataset *d)
{
    const pare_data_options *o = &d->o;
    float scale = o->scale != 0 ? o->scale : 1;
    for (int c = 0; c < 4; c++) {
        float deviation = o->std[c] != 0 ? o->std[c] : 1;
        for (int byte = 0; byte < 256; byte++)
            d->images.table[c][byte] = ((float)byte * scale - o->mean[c]) / deviation;
    }
}

static bool is_image_source(const pare__source *s)
{
    int rank = s->tensor.rank;
    return (s->cifar || rank == 3 || rank == 4) &&
           (s->tensor.dtype == PARE_U8 || s->tensor.dtype == PARE_F32);
}

static pare_status check_options(const pare_dataset *d)
{
    const pare_data_options *o = &d->o;
    PARE_REQUIRE(o->seq_len == 0 && o->stride == 0, PARE_ERR_ARGUMENT,
                 "%s: a length and a stride are for tokens, the model takes images", d->path);
    PARE_REQUIRE(o->mixup >= 0 && o->mixup <= 1e6F, PARE_ERR_ARGUMENT,
                 "mixup: %g is no parameter of a Beta distribution; 0.2 is usual",
                 (double)o->mixup);
    bool finite = isfinite(o->scale);
    for (int c = 0; c < 4; c++)
        finite = finite && isfinite(o->mean[c]) && isfinite(o->std[c]);
    PARE_REQUIRE(finite, PARE_ERR_ARGUMENT, "scale, mean and std of images must be finite");
    return PARE_OK;
}

pare_status pare__images_open(pare_dataset *d)
{
    const pare_data_options *o = &d->o;
    const pare_tensor *t = &d->source.tensor;
    char shape[128];
    PARE_TRY(check_options(d));
    PARE_REQUIRE(
        is_image_source(&d->source), PARE_ERR_ARGUMENT,
        "%s holds %s %s: the model takes images, bytes (U8) or normalised F32, [n, height, "
        "width], with channels last or after n",
        d->path, pare_dtype_name(t->dtype),
        pare_shape_text(t->rank, t->shape, shape, sizeof shape));
    pare__image_layout m = d->images = choose(d);
    if (!suits(o, &m)) {
        char wants[96] = "at most 4 channels";
        if (m.channels <= MAX_CHANNELS)
            snprintf(wants, sizeof wants, "%" PRId64 " x %" PRId64 " x %" PRId64,
                     o->height ? o->height : m.height, o->width ? o->width : m.width,
                     o->channels ? o->channels : m.channels);
        PARE_FAIL(PARE_ERR_ARGUMENT,
                  "%s holds images of %" PRId64 " x %" PRId64 " x %" PRId64
                  " (height, width, channels), the model takes %s",
                  d->path, m.height, m.width, m.channels, wants);
    }
    PARE_REQUIRE(o->crop >= 0 && o->crop <= m.height && o->crop <= m.width, PARE_ERR_ARGUMENT,
                 "crop: %d pixels of padding do not fit images of %" PRId64 " x %" PRId64, o->crop,
                 m.height, m.width);
    d->total = t->shape[0];
    if (t->dtype == PARE_U8)
        fill_table(d);
    return PARE_OK;
}

/* ---- pixels ---------------------------------------------------------------------------------- */

int64_t pare__images_scratch(const pare_dataset *d)
{
    return d->images.record * (pare_dtype_bits(d->source.tensor.dtype) / 8);
}

/* The whole record, also what a crop would hide. */
static pare_status check_finite(const pare_dataset *d, int64_t item, const float *values)
{
    const pare__image_layout *m = &d->images;
    uint32_t most = 0;
    for (int64_t i = 0; i < m->record; i++) {
        uint32_t bits = pare__f32_bits(values[i]) & 0x7fffffffu;
        most = most > bits ? most : bits;
    }
    if (most < 0x7f800000u)
        return PARE_OK;
    int64_t i = 0;
    while (isfinite(values[i]))
        i++;
    int64_t y = m->col == 1 ? i / m->row % m->height : i / m->row;
    int64_t x = i % m->row / m->col;
    PARE_FAIL(PARE_ERR_DAMAGED,
              "%s: image %" PRId64 " has a %s at row %" PRId64 ", column %" PRId64, d->path, item,
              isnan(values[i]) ? "NaN" : "Inf", y, x);
}

/* n pixels of a row, one after another in the image; `turn` apart in the output, which may run
 * backwards. */
static void copy_u8(const pare__image_layout *m, const uint8_t *from, int64_t n, float *to,
                    int64_t turn)
{
    for (int64_t c = 0; c < m->channels; c++) {
        const float *restrict table = m->table[c];
        const uint8_t *source = from + c * m->channel;
        float *restrict out = to + c;
        for (int64_t x = 0, col = m->col; x < n; x++, source += col, out += turn)
            *out = table[*source];
    }
}

static void copy_f32(const pare__image_layout *m, const float *from, int64_t n, float *to,
                     int64_t turn)
{
    for (int64_t c = 0; c < m->channels; c++) {
        const float *source = from + c * m->channel;
        float *restrict out = to + c;
        for (int64_t x = 0, col = m->col; x < n; x++, source += col, out += turn)
            *out = *source;
    }
}

/* n pixels of padding: a raw zero, as it comes out normalised; for images that are normalised
 * already, 0. */
static void pad(const pare_dataset *d, int64_t n, float *to)
{
    const pare__image_layout *m = &d->images;
    for (int64_t x = 0; x < n; x++)
        for (int64_t c = 0; c < m->channels; c++)
            to[x * m->channels + c] = d->source.tensor.dtype == PARE_U8 ? m->table[c][0] : 0;
}

/* Row y of the crop: padding left and right of the pixels that the image has there. */
static void copy_row(const pare_dataset *d, const pare__view *view, int64_t y, const void *record,
                     float *to)
{
    const pare__image_layout *m = &d->images;
    int64_t from = y + view->down, width = m->width, channels = m->channels;
    if (from < 0 || from >= m->height) {
        pad(d, width, to);
        return;
    }
    int64_t right = view->right, first = right < 0 ? -right : 0; /* pixels [first, end) are there */
    int64_t end = right > 0 ? width - right : width;
    int64_t left = view->flip ? width - end : first; /* where they begin in the output */
    pad(d, left, to);
    pad(d, width - left - (end - first), to + (left + end - first) * channels);
    int64_t turn = view->flip ? -channels : channels;
    float *begin = to + (view->flip ? width - 1 - first : first) * channels;
    int64_t at = m->skip + from * m->row + (first + right) * m->col;
    if (d->source.tensor.dtype == PARE_U8)
        copy_u8(m, (const uint8_t *)record + at, end - first, begin, turn);
    else
        copy_f32(m, (const float *)record + at, end - first, begin, turn);
}

pare_status pare__images_pixels(const pare_dataset *d, int64_t item, const pare__view *view,
                                void *scratch, float *pixels)
{
    const pare__image_layout *m = &d->images;
    int64_t bytes = pare__images_scratch(d);
    PARE_TRY(pare__source_read(&d->source, item * bytes, bytes, scratch));
    if (d->source.tensor.dtype == PARE_F32)
        PARE_TRY(check_finite(d, item, scratch));
    for (int64_t y = 0; y < m->height; y++)
        copy_row(d, view, y, scratch, pixels + y * m->width * m->channels);
    return PARE_OK;
}
