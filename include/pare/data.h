/* data.h - datasets: opened, counted, and turned into batches.
 *
 * Everything random (order, crops, flips, mixing, dropped tails) follows from the seed and the
 * number of the sample in the stream alone: sample g of a stream is item order(g mod N) of epoch g
 * / N. So any batch can be made at any time, on any thread, again after a kill.
 */
#ifndef PARE_DATA_H
#define PARE_DATA_H

#include "pare/batch.h"
#include "pare/sched.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pare_data_options {
    const char *path; /* "[FORMAT:]PATH[#SPLIT]", FORMAT tokens, cifar, idx, npy, h5. #SPLIT: of .h5
                         a dataset's name (labels in "<name>_labels" or --labels); of a folder
                         "train" or "test" (IDX: train-… / t10k-…; CIFAR: data_batch_… /
                         test_batch.bin). The content decides the format, FORMAT forces it */
    const char *labels; /* a file of class labels: IDX, .npy, raw .u8, PATH#NAME of an .h5; NULL: in
                           the data (CIFAR), beside it (…-images-idx3-… → …-labels-idx1-…; .h5:
                           NAME_labels, then labels but for a 1-D stream), or none */
    bool tokens;        /* what the model takes: token ids, or images */
    int64_t seq_len; /* tokens: T. Without labels: windows of T predictions, consecutive (window w
                        predicts tokens w·T+1 … w·T+T; a tail that fills none is left out). With
                        labels: rows of T. A 2-D array: 0 for its own rows (without labels each
                        predicts within itself, the last position nothing), or one less. Else 0 is
                        an error that asks for it */
    int64_t stride;  /* windows: distance between starts; 0: T. A token already predicted by the
                        window before (left out or not) gets label −1, so each counts once */
    int64_t pad_id, bos_id; /* −1: none. pad_id fills keys and makes labels −1. bos_id: put before
                               each row or window (T counts it; then w·T is predicted too) */
    int64_t vocabulary;     /* ids must lie below */
    int64_t classes;        /* labels must lie below; 0: anything that is no negative number */
    int64_t height, width, channels; /* of images; 0: the data's own */
    float scale, mean[4], std[4];    /* as in pare_model_facts; std 0 counts as 1, scale 0 as 1.
                                        Images of F32 are taken as normalised already */
    int64_t skip, samples;           /* leave out the first, then take so many; 0: all */
    bool at_most;                    /* fewer than `samples` will do */
    bool shuffle;                    /* the order is drawn from the seed, anew for every epoch */
    bool draw; /* which `samples` are taken (of those behind `skip`) is drawn from the seed; else
                  the first. Of all there is nothing to draw */
    uint64_t seed;
    /* augmentation, of images */
    int crop;    /* pixels of padding on each side before a random crop of the size; 0: none. Raw
                    zeros, normalised like the rest (F32: 0) */
    bool flip;   /* left-right, half of the time */
    float mixup; /* Beta(mixup, mixup) share (Zhang 2018); 0: none. The partner is drawn from the
                    other samples of the epoch, so that no batch's content depends on its size */
} pare_data_options;

typedef struct pare_dataset pare_dataset;

/* Opens, checks sizes, reads labels (and looks at all tokens: an id outside the vocabulary is
 * PARE_ERR_DAMAGED with its position). Images and tokens stay in the file, unless they have to be
 * unpacked: gzip, and chunks of an .h5, up to 1 GiB (more of a gzip is PARE_ERR_UNSUPPORTED, more
 * of an .h5 is read by HDF5, slowly). PARE_ERR_NOT_FOUND, PARE_ERR_DAMAGED, PARE_ERR_UNSUPPORTED;
 * an empty dataset is PARE_ERR_DAMAGED; options that do not fit the data PARE_ERR_ARGUMENT. */
pare_status pare_dataset_open(const pare_data_options *options, pare_dataset **dataset);
void pare_dataset_close(pare_dataset **dataset);

int64_t pare_dataset_count(const pare_dataset *dataset);   /* samples in an epoch, at least 1 */
int64_t pare_dataset_length(const pare_dataset *dataset);  /* T of its rows; 0 for images */
int64_t pare_dataset_classes(const pare_dataset *dataset); /* greatest label + 1; 0: no labels */
bool pare_dataset_labelled(const pare_dataset *dataset);   /* classes, or next tokens */
bool pare_dataset_augments(const pare_dataset *dataset);   /* an item differs by epoch */
const char *pare_dataset_path(const pare_dataset *dataset);
/* Identifies the data for resume: XXH3-128 of its bytes and options (images of more than 1 GiB: of
 * as much, in pieces spread over them). */
void pare_dataset_digest(const pare_dataset *dataset, uint64_t digest[2]);
int64_t pare_dataset_bytes(const pare_dataset *dataset); /* held in memory */

/* A batch's own memory: size samples of this dataset. */
pare_status pare_batch_create(const pare_dataset *dataset, int64_t size, pare_batch **batch);
void pare_batch_free(pare_batch **batch);
int64_t pare_batch_bytes(const pare_dataset *dataset, int64_t size);

/* Samples [first, first + size) of the stream into batch (made for at least that size). Any thread,
 * one at a time for a batch. An image with a NaN or Inf is PARE_ERR_DAMAGED with its place. */
pare_status pare_dataset_fill(const pare_dataset *dataset, int64_t first, int64_t size,
                              pare_batch *batch);

/* The item of the dataset that sample g of the stream is, for --outputs and reports. */
int64_t pare_dataset_item(const pare_dataset *dataset, int64_t g);

/* Batches made ahead by the scheduler's threads while the calling thread works on one. */
typedef struct pare_feed_options {
    const pare_dataset *dataset;
    int64_t batch;       /* samples a batch, at most */
    int64_t each;        /* samples from the beginning of one to that of the next; 0: batch */
    int64_t first, last; /* of the stream; the last batch may be smaller */
    int ahead;           /* batches there are at a time, as far as the budget goes; 0: 2 */
    /* Called on the calling thread, with `user` of the run, as soon as a batch is there and before
     * work on the one before it, for what can begin early; the batch then stays as it is until work
     * on it is done. So one batch more is there at a time. In the end, well or not, comes a batch
     * NULL: from then on none of them is there any more. NULL: nobody asks. */
    pare_status (*coming)(void *user, int64_t index, const pare_batch *batch);
} pare_feed_options;

/* Runs work(user, index, batch) for each batch in order on the calling thread; the scheduler makes
 * the next ones meanwhile. The first failure (of either side) ends it. */
pare_status pare_feed_run(pare_sched *sched, const char *name, const pare_feed_options *options,
                          pare_status (*work)(void *user, int64_t index, const pare_batch *batch),
                          void *user);

#ifdef __cplusplus
}
#endif
#endif
