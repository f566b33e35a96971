/* store.h - checkpoints: open, list, read rows; create, fill rows, finish.
 *
 * A checkpoint is a list of entries (logical tensors), sorted by name in byte order whatever the
 * container: a Hugging Face directory (sharded or not), a .safetensors file, pare's own .h5. An
 * entry is seen as a matrix [rows, cols] (pare_shape_matrix) and is dense, quantised (codes and
 * scales), or sparse (bitmask and values). Rows are read decoded, or in the entry's own form; a
 * whole tensor is never needed in memory.
 *
 * Writing is create, then fill: pare_writer_create lays out every byte range and writes all
 * metadata; rows are then filled in any order, from any thread, and again after a kill;
 * pare_writer_finish checks, syncs and renames.
 *
 * All memory here is the host's, and so is every backend: pare_backend_host() of a device's.
 */
#ifndef PARE_STORE_H
#define PARE_STORE_H

#include "pare/backend.h"
#include "pare/qtensor.h"
#include "pare/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pare_form {
    PARE_FORM_DENSE,
    PARE_FORM_QUANT,  /* codes, scales, zero points: entry.scheme */
    PARE_FORM_SPARSE, /* bitmask and values: entry.nonzeros */
} pare_form;

typedef struct pare_entry {
    const char *name; /* "model.layers.0.mlp.up_proj.weight" */
    pare_dtype dtype; /* of the values a reader gets; a quantised entry's scales have it too (f32
                         for NF4) */
    int rank;
    int64_t shape[PARE_MAX_RANK];
    int64_t rows, cols; /* pare_shape_matrix of shape */
    int64_t piece_rows; /* rows a digest is taken over: pare_piece_rows(), or what the file says */
    pare_form form;
    pare_scheme scheme;   /* PARE_FORM_QUANT */
    float scale_offset;   /* of a scheme with double_quant (ops_compress.h, quant_nested) */
    float act_scale;      /* of a scheme with static activations, as read: their one scale; a writer
                             takes it from the rows */
    int64_t nonzeros;     /* PARE_FORM_SPARSE: values stored */
    int64_t stored_bytes; /* of all its arrays in the file */
} pare_entry;

/* The rows of one piece: the largest power of two whose rows fit 512 KiB, between 1 and 65536. It
 * depends on the shape and dtype alone, so digests do too. */
int64_t pare_piece_rows(pare_dtype dtype, int64_t cols);

/* Rows that can be written by themselves: the least multiple of piece_rows and the scheme's block
 * rows, of 32 where zero points or nibbles of several rows share a word, and with double_quant of
 * what makes whole nested blocks. At least 1. */
int64_t pare_entry_align(const pare_entry *entry);

/* Rows [first, first + count) of an entry in its own form. Which members are used follows the form;
 * the caller owns all memory. scale has the rows of the scale matrix that begin in the range (all
 * of them for PARE_PER_TENSOR). */
typedef struct pare_rows {
    int64_t first, count;
    void *values;          /* DENSE: [count, cols]; SPARSE: [ones of mask]; entry.dtype */
    uint8_t *mask;         /* SPARSE: [count, ceil(cols/8)] */
    int64_t values_before; /* SPARSE: values of the rows before first */
    int8_t *codes;         /* QUANT: [count, cols] */
    float *scale;          /* QUANT: [ceil(count/block_rows), across] */
    int8_t *zero;          /* QUANT, asymmetric: the same shape */
    uint8_t *scale_codes; /* QUANT, double_quant: the same shape; written instead of scale, which is
                             what they decode to; NULL: not wanted by a reader */
    float *nested;        /* beside them, one for every PARE_NESTED_BLOCK scales of the tensor that
                             the rows touch */
    float act_scale;      /* QUANT, static activations, of rows from 0: written with them (as
                             input_scale) */
} pare_rows;

/* A file beside the tensors, carried along unchanged (tokenizer, generation settings …). */
typedef struct pare_side_file {
    const char *name; /* relative, '/' between folders, never ".." */
    int64_t size;
} pare_side_file;

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct pare_store pare_store;

/* Opens a checkpoint, recognised by content. PARE_ERR_NOT_FOUND, PARE_ERR_DAMAGED (which tensor,
 * which offset), PARE_ERR_UNSUPPORTED. Reads metadata only. Safe to read from several threads. */
pare_status pare_store_open(const char *path, pare_store **store);
void pare_store_close(pare_store **store);

const char *pare_store_format(const pare_store *store); /* "hf", "safetensors" or "h5" */
const char *pare_store_path(const pare_store *store);
int64_t pare_store_count(const pare_store *store);
const pare_entry *pare_store_entry(const pare_store *store, int64_t index);
int64_t pare_store_find(const pare_store *store, const char *name); /* -1 if there is none */

/* The text of config.json, or NULL; of the provenance (docs/formats/store.md), or NULL. */
const char *pare_store_config(const pare_store *store);
const char *pare_store_provenance(const pare_store *store);
/* safetensors' own "__metadata__" as JSON object text, or NULL. */
const char *pare_store_metadata(const pare_store *store);

int64_t pare_store_side_count(const pare_store *store);
const pare_side_file *pare_store_side(const pare_store *store, int64_t index);
pare_status pare_store_side_read(const pare_store *store, int64_t index, int64_t offset,
                                 int64_t size, void *bytes);

/* Bytes of scratch that read and read_values of `count` rows need (64-byte aligned; 0 is possible).
 */
int64_t pare_store_scratch(const pare_store *store, int64_t index, int64_t count);

/* Rows in the entry's own form; of a scheme with blocks of several rows, first begins a block.
 * Checksums are not looked at: see pare_store_verify. */
pare_status pare_store_read(pare_store *store, pare_backend *be, int64_t index, pare_rows *rows,
                            void *scratch);

/* Rows decoded: values [count, cols] in entry.dtype, whatever the form. */
pare_status pare_store_read_values(pare_store *store, pare_backend *be, int64_t index,
                                   int64_t first, int64_t count, void *values, void *scratch);

/* Whether the entry's stored checksums hold (.h5; true at once for others): reads it whole. */
pare_status pare_store_verify(pare_store *store, pare_backend *be, int64_t index);

/* Likewise for a side file. */
pare_status pare_store_side_verify(const pare_store *store, pare_backend *be, int64_t index);

/* Tells the system that rows will be read soon (read-ahead). Never fails. */
void pare_store_prefetch(pare_store *store, int64_t index, int64_t first, int64_t count);

/* The HDF5 library in use, "1.10.8". Static text. */
const char *pare_store_library(void);

/* ---- writing --------------------------------------------------------------------------------- */

typedef struct pare_writer pare_writer;

typedef struct pare_writer_options {
    const char *path;   /* final name; the ending decides the container: .h5, .safetensors, else a
                           directory */
    const char *format; /* NULL or "" for the natural one: compressed-tensors names for quantised
                           entries, nf4 as bitsandbytes; "int-quantized" for 8-bit INT codes as
                           bytes; "sparse-bitmask" */
    const pare_entry *entries; /* [count], sorted by name; copied */
    int64_t count;
    const pare_store *source; /* config, metadata and side files come from here; NULL: none */
    const char *config;       /* text of config.json instead of the source's, or NULL */
    const char *provenance; /* text kept with the checkpoint, or NULL; see pare_writer_provenance */
    int64_t max_shard_size; /* bytes; 0: 5 GiB */
    bool overwrite;         /* an output of that name may be replaced (at finish, not before) */
} pare_writer_options;

/* Which forms a container can hold: PARE_ERR_ARGUMENT with the reason where `entry` cannot be
 * written in that format to that path (a convolution in a Hugging Face directory, say). For
 * planning. */
pare_status pare_writer_accepts(const char *path, const char *format, const pare_entry *entry);

/* Lays out the output under "<path>.part" (a file or a directory). If resume is set, the part that
 * lies there must be of exactly this layout (PARE_ERR_DAMAGED if it is not) and what it holds is
 * kept. PARE_ERR_EXISTS if path exists and overwrite is off. */
pare_status pare_writer_create(const pare_writer_options *options, bool resume,
                               pare_writer **writer);

/* Files and bytes the layout has, known before anything is written: dry run of create. */
pare_status pare_writer_predict(const pare_writer_options *options, int64_t *files, int64_t *bytes);

/* Checksums of an entry's arrays so far (.h5), for the caller's journal: partial sums that add up.
 */
#define PARE_ENTRY_SUMS 8 /* two for each part that an entry can have in an .h5 */
typedef struct pare_sums {
    uint64_t sum[PARE_ENTRY_SUMS];
} pare_sums;

/* Bytes of scratch that write of `count` rows needs. */
int64_t pare_writer_scratch(const pare_writer *writer, int64_t index, int64_t count);

/* Encodes rows into scratch: the bytes for each array, packed, and their partial checksums.
 * rows->first must be a multiple of pare_entry_align(), and so must its end but for the last. */
#define PARE_MAX_PARTS 6
typedef struct pare_parts {
    int count;
    struct {
        int file;
        int64_t offset, size;
        const void *bytes;
    } part[PARE_MAX_PARTS];
    pare_sums sums;
} pare_parts;
pare_status pare_writer_encode(pare_writer *writer, pare_backend *be, int64_t index,
                               const pare_rows *rows, void *scratch, pare_parts *parts);

/* Writes encoded parts to their places. Any thread. PARE_ERR_FULL, PARE_ERR_IO. */
pare_status pare_writer_write(pare_writer *writer, const pare_parts *parts);

/* Adds partial sums (from encode, or from a journal) to the entry's checksums. Any thread. */
void pare_writer_add_sums(pare_writer *writer, int64_t index, const pare_sums *sums);

/* Replaces the provenance text by one of the same length. */
pare_status pare_writer_provenance(pare_writer *writer, const char *text);

/* Flushes what was written so far to the disk (--sync). */
pare_status pare_writer_sync(pare_writer *writer);

/* Writes checksums, provenance, side files; syncs data and folder; renames to the final name. */
pare_status pare_writer_finish(pare_writer *writer);

/* Frees; the part stays on disk unless `discard`. NULL is fine. */
void pare_writer_free(pare_writer **writer, bool discard);

#ifdef __cplusplus
}
#endif
#endif
