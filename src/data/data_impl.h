/* data_impl.h - the inside of a dataset.
 *
 * Whatever the file, its data is a source: a block of numbers with a shape, in files, in memory or
 * behind HDF5. A source is read by tokens, images or labels; which sample takes which item is
 * arithmetic (order.c); batches are put together from items (batch.c).
 */
#ifndef PARE_DATA_IMPL_H
#define PARE_DATA_IMPL_H

#include "pare/array.h"
#include "pare/data.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/file.h"

#include <inttypes.h>

/* ---- sources --------------------------------------------------------------------------------- */

/* What is unpacked (gzip, chunks of an .h5) is held in memory up to this; more has to be unpacked
 * on the disk. */
#define PARE__UNPACK_LIMIT (INT64_C(1) << 30)

enum { PARE__SOURCE_FILES = 5 }; /* of CIFAR-10's training images */

/* A file's share of a source. */
typedef struct pare__source_file {
    char *path;
    int fd;
    int64_t offset; /* where its share begins in it */
    int64_t first;  /* the share's first byte in the source */
} pare__source_file;

typedef struct pare__source {
    char *path;         /* for sentences */
    pare_tensor tensor; /* dtype and shape, data NULL */
    int64_t bytes;
    bool cifar; /* rows are records: labels, then pixels */
    pare__source_file file[PARE__SOURCE_FILES];
    int files;         /* 0: one of these holds it: */
    uint8_t *memory;   /* all bytes, or */
    pare_array *array; /* an array */
} pare__source;

/* Which way a file is to be read. */
typedef enum pare__data_format {
    PARE__DATA_ANY,
    PARE__DATA_TOKENS,
    PARE__DATA_CIFAR,
    PARE__DATA_IDX,
    PARE__DATA_NPY,
    PARE__DATA_H5,
} pare__data_format;

/* Open a file; an empty one is PARE_ERR_DAMAGED, and source is empty after a failure. Raw numbers
 * have the shape [n]. */
pare_status pare__source_open_raw(const char *path, pare_dtype dtype, pare__source *source);
pare_status pare__source_open_idx(const char *path, pare__source *source);
pare_status pare__source_open_array(const char *path, const char *dataset, pare__source *source);
/* CIFAR's records from one or several files: U8 [n, 3073] or [n, 3074]. */
pare_status pare__source_open_cifar(char *const *paths, int count, pare__source *source);
void pare__source_close(pare__source *source); /* an empty one is fine */

/* Bytes [at, at + size), whole elements. Any thread. */
pare_status pare__source_read(const pare__source *source, int64_t at, int64_t size, void *to);

/* "[FORMAT:]PATH[#PART]" taken apart. path and part (NULL: none) are owned. */
typedef struct pare__data_name {
    pare__data_format format;
    char *path, *part;
} pare__data_name;
pare_status pare__data_name_parse(const char *text, pare__data_name *name);
void pare__data_name_free(pare__data_name *name);

/* Finds and opens what options->path names. *labels: the labels that lie beside it, as a name to
 * open, or NULL; caller frees. */
pare_status pare__data_find(const pare_data_options *options, pare__source *source, char **labels);

/* What a file's first bytes say: IDX, NPY, H5 or ANY (gzipped: IDX). */
pare_status pare__data_recognise(const char *path, pare__data_format *format);

/* An element outside [0, limit) of `count` elements that begin at `first` of the source is
 * PARE_ERR_DAMAGED with its position and what it was meant to be ("token", "label"); numbers that
 * are no integers are PARE_ERR_ARGUMENT. Then: elements as int32. */
pare_status pare__check_ids(const pare__source *source, const void *values, int64_t first,
                            int64_t count, int64_t limit, const char *what);
void pare__widen_ids(pare_dtype dtype, const void *values, int64_t count, int32_t *ids);

/* ---- datasets -------------------------------------------------------------------------------- */

/* How an image lies in its record, in elements. */
typedef struct pare__image_layout {
    int64_t height, width, channels;
    int64_t record, skip;      /* elements of a record, and those before its first pixel */
    int64_t row, col, channel; /* strides */
    float table[4][256];       /* U8: a byte as the model takes it */
} pare__image_layout;

/* Which tokens a sample reads, and how many positions the model sees. */
typedef struct pare__token_layout {
    int64_t step;   /* tokens between the starts of two items */
    int64_t stored; /* tokens an item reads; the bos comes before them */
    int64_t length; /* T */
    int64_t seen;   /* of every window but the first: predictions that the one before made */
    bool next;      /* labels are next tokens */
} pare__token_layout;

struct pare_dataset {
    pare_data_options o; /* path and labels are NULL */
    char *path;
    pare__source source;
    int64_t total;   /* items of the data */
    int64_t count;   /* samples in an epoch */
    int32_t *labels; /* [total], or NULL */
    int64_t classes;
    uint64_t digest[2];
    pare__image_layout images;
    pare__token_layout tokens;
};

/* Checks options against the source and fills total and the layout. */
pare_status pare__tokens_open(pare_dataset *d, bool labelled);
pare_status pare__images_open(pare_dataset *d);

/* Token ids lie below this: the vocabulary, or what an int32 holds. */
int64_t pare__vocabulary(const pare_dataset *d);

/* Labels of the file `name` names (CIFAR: NULL, in the records) for all items. */
pare_status pare__labels_open(pare_dataset *d, const char *name);

/* Row of an item: T ids, labels (NULL: none); keys are 0 at padding, *padded says whether there is
 * any. scratch: pare__tokens_scratch bytes. */
int64_t pare__tokens_scratch(const pare_dataset *d);
pare_status pare__tokens_row(const pare_dataset *d, int64_t item, void *scratch, int32_t *ids,
                             int32_t *labels, uint8_t *keys, bool *padded);

/* How an item is changed on its way into a batch. */
typedef struct pare__view {
    int64_t down, right; /* the crop's origin in the image, −crop to crop */
    bool flip;
} pare__view;

/* An item's image as [H, W, C] f32. scratch: record bytes. */
int64_t pare__images_scratch(const pare_dataset *d);
pare_status pare__images_pixels(const pare_dataset *d, int64_t item, const pare__view *view,
                                void *scratch, float *pixels);

/* ---- what is random -------------------------------------------------------------------------- */

/* Streams of the seed. */
enum { PARE__STREAM_PICK = 0x64617461, PARE__STREAM_ORDER, PARE__STREAM_VIEW, PARE__STREAM_MIX };

pare__view pare__view_of(const pare_dataset *d, int64_t g);
/* Mixup: the share of sample g, and the sample of the same epoch that the rest comes from. */
float pare__mix_of(const pare_dataset *d, int64_t g, int64_t *partner);

#endif
