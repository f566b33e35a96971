/* h5_sample.h - a small checkpoint with every dtype, form, codec and awkward shape, its values
 * known. */
#ifndef PARE_TEST_H5_SAMPLE_H
#define PARE_TEST_H5_SAMPLE_H

#include "pare/store.h"

/* An entry and all its rows. */
typedef struct h5_sample {
    pare_entry entry; /* name is owned */
    pare_rows rows;   /* first 0, count entry.rows; members are owned */
} h5_sample;

/* Sorted by name; freed by h5_samples_free. */
h5_sample *h5_samples_make(int64_t *count);
/* Gives a sample with double_quant codes of scales, nested scales and an offset, and the scales
 * that they mean by a formula of its own. */
void h5_sample_nest(h5_sample *sample, uint64_t seed);

void h5_samples_free(h5_sample *samples, int64_t count);

/* Writes the rows of entry `index` from row `first` on to the end, as pare's engine would: piece by
 * piece. */
void h5_sample_fill(pare_writer *writer, pare_backend *be, const h5_sample *sample, int64_t index,
                    int64_t first);

/* A finished checkpoint at path; source and provenance as in pare_writer_options. */
void h5_samples_write(const char *path, pare_backend *be, const h5_sample *samples, int64_t count,
                      const pare_store *source, const char *provenance);

/* Options of that writer; *entries, [count], is freed by the caller. */
pare_writer_options h5_samples_options(const char *path, const h5_sample *samples, int64_t count,
                                       const pare_store *source, const char *provenance,
                                       pare_entry **entries);

/* A Hugging Face folder with config.json, tokenizer files (one in a folder, one empty) and one
 * tensor: a source. */
void h5_source_make(const char *folder);

#endif
