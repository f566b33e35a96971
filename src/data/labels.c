/* labels.c - class labels: from IDX, .npy, HDF5, raw bytes, or CIFAR's own records. */
#include "data_impl.h"

#include <string.h>

enum { PIECE = 1 << 20 }; /* bytes read at once */

/* A file of labels without a header is bytes, one a label. */
static pare_status open_labels(const char *text, int64_t items, pare__source *source)
{
    pare__data_name name;
    pare__data_format format = PARE__DATA_ANY;
    PARE_TRY(pare__data_name_parse(text, &name));
    size_t length = strlen(name.path);
    pare_status status = PARE_OK;
    if (length < 3 || strcmp(name.path + length - 3, ".u8") != 0) /* bytes may look like anything */
        status = pare__data_recognise(name.path, &format);
    if (status == PARE_OK && format == PARE__DATA_IDX)
        status = pare__source_open_idx(name.path, source);
    else if (status == PARE_OK && format != PARE__DATA_ANY)
        status = pare__source_open_array(name.path, name.part, source);
    else if (status == PARE_OK)
        status = pare__source_open_raw(name.path, PARE_U8, source);
    pare__data_name_free(&name);
    PARE_TRY(status);
    int64_t count = pare_tensor_count(&source->tensor);
    if (source->tensor.rank == 0 || source->tensor.shape[0] == count) {
        if (count == items)
            return PARE_OK;
        status = pare__error(PARE_ERR_ARGUMENT, __func__,
                             "%s has %" PRId64 " labels, the data %" PRId64
                             " samples: they do not belong together",
                             text, count, items);
    } else {
        char shape[128];
        status = pare__error(
            PARE_ERR_ARGUMENT, __func__, "%s is no row of labels: its shape is %s", text,
            pare_shape_text(source->tensor.rank, source->tensor.shape, shape, sizeof shape));
    }
    pare__source_close(source);
    return status;
}

/* Reads all of a source of labels into d->labels, in pieces. */
static pare_status read_labels(pare_dataset *d, const pare__source *source)
{
    pare_status status = PARE_OK;
    void *piece = NULL;
    int64_t width = pare_dtype_bits(source->tensor.dtype) / 8, most = PIECE / width;
    int64_t limit = d->o.classes > 0 ? d->o.classes : INT32_MAX;
    PARE_TRY(pare__calloc(PIECE, 1, &piece));
    for (int64_t at = 0; at < d->total; at += most) {
        int64_t count = d->total - at < most ? d->total - at : most;
        PARE_TRY_DONE(pare__source_read(source, at * width, count * width, piece));
        PARE_TRY_DONE(pare__check_ids(source, piece, at, count, limit, "label"));
        pare__widen_ids(source->tensor.dtype, piece, count, d->labels + at);
    }
done:
    free(piece);
    return status;
}

/* The last byte before a record's pixels: CIFAR-10's only one, CIFAR-100's fine label. */
static pare_status read_cifar_labels(pare_dataset *d)
{
    pare_status status = PARE_OK;
    uint8_t *piece = NULL;
    int64_t record = d->images.record, most = PIECE / record;
    int64_t own = d->images.skip == 1 ? 10 : 100;
    int64_t limit = d->o.classes > 0 && d->o.classes < own ? d->o.classes : own;
    PARE_TRY(pare__calloc(PIECE, 1, &piece));
    for (int64_t at = 0; at < d->total; at += most) {
        int64_t count = d->total - at < most ? d->total - at : most;
        PARE_TRY_DONE(pare__source_read(&d->source, at * record, count * record, piece));
        for (int64_t i = 0; i < count; i++) {
            int label = piece[i * record + d->images.skip - 1];
            if (label >= limit)
                PARE_TRY_DONE(pare__error(PARE_ERR_DAMAGED, __func__,
                                          "%s: record %" PRId64 " has label %d, %" PRId64
                                          " classes are there: damaged, or another format",
                                          d->path, at + i, label, limit));
            d->labels[at + i] = label;
        }
    }
done:
    free(piece);
    return status;
}

pare_status pare__labels_open(pare_dataset *d, const char *name)
{
    PARE_TRY(pare__calloc((size_t)d->total, sizeof *d->labels, &d->labels));
    if (name) {
        pare__source source;
        PARE_TRY(open_labels(name, d->total, &source));
        pare_status status = read_labels(d, &source);
        pare__source_close(&source);
        PARE_TRY(status);
    } else {
        PARE_TRY(read_cifar_labels(d));
    }
    for (int64_t i = 0; i < d->total; i++)
        d->classes = d->classes > d->labels[i] ? d->classes : d->labels[i] + (int64_t)1;
    return PARE_OK;
}
