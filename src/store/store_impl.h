/* store_impl.h - the inside of a checkpoint: arrays in files (containers) and what they mean
 * together (codecs).
 *
 *   container  (store_safetensors.c, store_hf_dir.c, store_h5*.c)  named arrays at file offsets,
 * config, side files codec      (codec_*.c)  which arrays an entry has, and rows ↔ bytes; the same
 * in every container
 *
 * store.c opens and reads, writer.c creates and fills; both know tables only.
 */
#ifndef PARE_STORE_IMPL_H
#define PARE_STORE_IMPL_H

#include "pare/store.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

#include <pthread.h>

/* ---- arrays ---------------------------------------------------------------------------------- */

typedef struct pare__array {
    char *name; /* as the container names it; for .h5 "tensors/<entry>[/<part>]" */
    pare_dtype dtype;
    int rank;
    int64_t shape[PARE_MAX_RANK];
    int file;       /* index into files */
    int64_t offset; /* in that file */
    int64_t bytes;
} pare__array;

typedef struct pare__file {
    char *path;
    int fd;
    int64_t size;
} pare__file;

/* A side file of an opened checkpoint lies in a file of its own (HF directory: opened on demand) or
 * inside the container (.h5). */
typedef struct pare__side {
    pare_side_file file; /* name is owned */
    int in_file;         /* index into files, or -1: a file of its own at `path` */
    int64_t offset;
    char *path;
    bool has_sum; /* .h5: of the file's bytes, by pieces of PARE__SIDE_PIECE */
    uint64_t sum[2];
} pare__side;

#define PARE__SIDE_PIECE 524288

/* ---- entries --------------------------------------------------------------------------------- */

typedef struct pare__codec pare__codec;

typedef struct pare__slot {
    pare_entry entry; /* name is owned */
    const pare__codec *codec;
    int64_t array[PARE_MAX_PARTS]; /* by the codec's part number: index into arrays, or -1 */
    bool has_sums;
    pare_sums sums; /* reading: the stored ones; writing: gathered so far */
} pare__slot;

struct pare_store {
    char *path;
    const struct pare__format *format;
    pare__file *files;
    size_t file_count, file_capacity;
    pare__array *arrays;
    size_t array_count, array_capacity;
    pare__slot *slots; /* sorted by entry name */
    size_t slot_count, slot_capacity;
    pare__side *sides; /* sorted by name */
    size_t side_count, side_capacity;
    char *config, *metadata, *provenance;
    char *quantization_config; /* its text where it lies outside config.json (a .safetensors'
                                  metadata), or NULL */
    pthread_mutex_t lock;
};

struct pare_writer {
    char *path, *part_path; /* "<path>.part" */
    const struct pare__format *format;
    char *format_option; /* as given, "" for none */
    bool overwrite;
    int64_t max_shard_size;
    const pare_store *source;  /* borrowed, may be NULL */
    char *config;              /* config.json to write (quantization_config in it), or NULL */
    char *quantization_config; /* its text alone, for a .safetensors' metadata, or NULL */
    char *provenance;          /* current text; its length never changes */
    pare__file *files;         /* under part_path; fds open for writing after create */
    size_t file_count, file_capacity;
    pare__array *arrays;
    size_t array_count, array_capacity;
    pare__slot *slots;
    size_t slot_count;
    void *format_state;   /* the container's own, freed by its close_writer */
    pthread_mutex_t lock; /* guards sums */
    _Atomic int64_t written;
};

/* ---- containers ------------------------------------------------------------------------------ */

typedef struct pare__format {
    const char *name; /* pare_store_format() */

    /* Whether path holds this container, by content: cheap, never fails. */
    bool (*probe)(const char *path);

    /* Fills files, arrays, sides, config, metadata, provenance of a zeroed store (path is set). A
     * container whose entries are written down (.h5) fills slots too; for others store.c then calls
     * pare__recognise(). */
    pare_status (*open)(pare_store *store);

    /* Whether path, by its ending, is for this container. */
    bool (*claims)(const char *path);

    /* Fills files (paths) and every array's file and offset, without touching the disk: files'
     * sizes are final. For .h5 offsets are known only after create; it fills sizes by estimate here
     * (within 1 %). */
    pare_status (*layout)(pare_writer *writer);

    /* Makes part_path, writes all metadata, leaves files open for writing at their full size
     * (sparse). With resume set, checks that what is there is what it would have written. */
    pare_status (*create)(pare_writer *writer, bool resume);

    /* After all rows: writes what was not known before (checksums, provenance, config, side files).
     */
    pare_status (*finish)(pare_writer *writer);

    void (*close_writer)(pare_writer *writer); /* frees format_state; may be NULL */

    /* What this container asks of an entry beyond its codec: PARE_ERR_ARGUMENT with the reason.
     * NULL: nothing. */
    pare_status (*accepts)(const pare_entry *entry, const char *format_option);
} pare__format;

extern const pare__format pare__format_hf_dir, pare__format_safetensors, pare__format_h5;

/* ---- codecs ---------------------------------------------------------------------------------- */

typedef struct pare__part_spec {
    const char *safetensors; /* suffix to the entry's name ("_packed"); one that starts with '-'
                                first takes a final
                                ".weight" away ("a.weight" + "-.bitmask" = "a.bitmask"); "" is the
                                name itself */
    const char *h5;          /* name inside the entry's group; NULL: the entry's own dataset */
    pare_dtype dtype;
    int rank;
    int64_t shape[PARE_MAX_RANK];
} pare__part_spec;

/* Where the bytes of rows [first, first+count) of one part lie in it. */
typedef struct pare__range {
    int64_t offset, size;
} pare__range;

struct pare__codec {
    const char *name; /* "dense", "pack", "int", "float", "nf4", "sparse" */

    /* The parts of an entry, in part-number order; in an .h5 zero points lie unpacked, I8. */
    pare_status (*parts)(const pare_entry *entry, bool h5, pare__part_spec spec[PARE_MAX_PARTS],
                         int *count);

    /* For decode, part 0 is read from the first row wanted; the other parts (small) from the
     * multiple of this many rows at or below it: 1, or what puts packed zero points on a whole
     * word. Blocks of more than one row, and nested ones, count too: pare__align_rows. */
    int64_t align_rows;

    /* The bytes of part `part` that belong to the rows. values_before and values_end: of
     * PARE_FORM_SPARSE, the values of rows before first, and before first + count. A row of scales
     * belongs to the first row of its block; a part that is not laid out by rows (per-tensor scale,
     * packed shape) belongs to row 0 whole. */
    void (*range)(const pare_entry *entry, bool h5, int part, int64_t first, int64_t count,
                  int64_t values_before, int64_t values_end, pare__range *range);

    /* Scratch bytes for count rows, for encode and for decode alike (not the parts' bytes that
     * decode is given). */
    int64_t (*scratch)(const pare_entry *entry, bool h5, int64_t count);

    /* Where part `part` can be read to at once because it lies there as in rows; NULL: through
     * scratch. Such a part is given to decode at that place. */
    void *(*place)(const pare_entry *entry, bool h5, int part, const pare_rows *rows);

    /* Rows to bytes: bytes[part] points into scratch or rows and has range's size. */
    pare_status (*encode)(pare_backend *be, const pare_entry *entry, bool h5, const pare_rows *rows,
                          void *scratch, const void *bytes[PARE_MAX_PARTS]);

    /* Bytes to rows; bytes[part] holds what range says from the aligned row on (align_rows). scale
     * and zero get the rows of blocks that the range touches. Hostile: codes outside the scheme,
     * masks that do not match their values are PARE_ERR_DAMAGED. rows' members are the caller's
     * memory. */
    pare_status (*decode)(pare_backend *be, const pare_entry *entry, bool h5,
                          const void *const bytes[PARE_MAX_PARTS], const pare_rows *rows,
                          void *scratch);
};

/* Part numbers. */
enum { PARE__PART_CODES, PARE__PART_SCALE, PARE__PART_ZERO };    /* QUANT; more behind them */
enum { PARE__PART_VALUES, PARE__PART_MASK, PARE__PART_OFFSETS }; /* SPARSE */

extern const pare__codec pare__codec_dense, pare__codec_pack, pare__codec_int, pare__codec_float,
    pare__codec_nf4, pare__codec_sparse;
extern const pare__codec
    pare__codec_pack_aligned; /* read only: compressed-tensors before its dense bit stream */

/* The codec that holds an entry: by form, scheme and the writer's format option. PARE_ERR_ARGUMENT
 * with the reason where none does. */
pare_status pare__codec_for(const pare_entry *entry, const char *format_option,
                            const pare__codec **codec);
const pare__codec *pare__codec_by_name(const char *name); /* NULL if unknown */

/* Scratch is cut into pieces of whole cache lines. */
static inline int64_t pare__padded(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static inline void *pare__take(void **scratch, int64_t bytes)
{
    char *piece = *scratch;
    *scratch = piece + pare__padded(bytes);
    return piece;
}

static inline int64_t pare__ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

/* Rows that make whole nested blocks (ops_compress.h, quant_nested); 1 without double_quant. */
int64_t pare__nested_rows(const pare_entry *entry);

/* What parts other than the first are aligned to when they are read, and the row that they are read
 * from for rows from `first` on. */
int64_t pare__align_rows(const pare__codec *codec, const pare_entry *entry);
int64_t pare__rows_aligned(const pare__codec *codec, const pare_entry *entry, int64_t first);

/* Pieces that the quantising codecs share (codec_scale.c). Scales are stored in the entry's dtype.
 */
void pare__scale_spec(const pare_entry *entry, pare_dtype dtype,
                      pare__part_spec *spec); /* dtype and shape */
void pare__scale_range(const pare_entry *entry, int64_t element_bytes, int64_t first, int64_t count,
                       pare__range *range);
pare_status pare__scale_encode(pare_backend *be, const pare_entry *entry, pare_dtype dtype,
                               const pare_rows *rows, void *bytes);
pare_status pare__scale_decode(pare_backend *be, const pare_entry *entry, pare_dtype dtype,
                               int64_t aligned, const void *bytes, const pare_rows *rows);
pare_status pare__zero_decode(const pare_entry *entry, int64_t aligned, const void *bytes,
                              const pare_rows *rows); /* from I8 */
/* Rows and columns that row arithmetic can take; outside an .h5 at least one row. */
pare_status pare__matrix_fits(const pare_entry *entry, bool h5);
int64_t pare__scale_count(const pare_entry *entry, int64_t first,
                          int64_t count); /* elements, blocks touched */

/* The part, behind scales and zero points, that is the one scale of static activations: F32 [1],
 * which belongs to row 0 (of an empty tensor [0]). −1: the entry has none. A reader's entry has its
 * value. */
int pare__input_part(const pare_entry *entry);
void pare__input_spec(const pare_entry *entry, pare__part_spec *spec);
void pare__input_range(const pare_entry *entry, int64_t first, int64_t count, pare__range *range);
pare_status pare__input_encode(const pare_entry *entry, const pare_rows *rows, float *bytes);

/* The part of NF4 that holds its quant_state. */
int pare__nf4_state_part(const pare_entry *entry);

/* Ones of a mask. */
int64_t pare__mask_ones(const uint8_t *mask, int64_t bytes);

/* Groups a store's arrays into slots by their names, dtypes and config's quantization_config. */
pare_status pare__recognise(pare_store *store);

/* ---- helpers (store_tables.c) ---------------------------------------------------------------- */

/* Whether a container keeps entries as docs/formats/store.md says (the codecs' h5). */
bool pare__is_native(const pare__format *format);

/* The container's name of an entry's part; caller frees. */
pare_status pare__part_name(const char *entry, const pare__part_spec *spec, bool h5, char **name);

/* The codec's parts with their shapes and bytes checked. */
pare_status pare__codec_parts(const pare__codec *codec, const pare_entry *entry, bool h5,
                              pare__part_spec spec[PARE_MAX_PARTS], int64_t bytes[PARE_MAX_PARTS],
                              int *count);

/* Each appends a zeroed row and returns it (a slot's arrays are -1); strings given are copied. */
pare_status pare__store_add_file(pare_store *store, const char *path, int *index); /* opens it */
pare_status pare__store_add_array(pare_store *store, const char *name, pare__array **array);
pare_status pare__store_add_slot(pare_store *store, const char *name, pare__slot **slot);
pare_status pare__store_add_side(pare_store *store, const char *name, pare__side **side);
pare_status pare__writer_add_file(pare_writer *writer, const char *path,
                                  int *index); /* does not open */

/* Binary search by name among arrays sorted by pare__store_sort_arrays; -1 if there is none. */
void pare__store_sort_arrays(pare_store *store);
int64_t pare__store_find_array(const pare_store *store, const char *name);
/* Refuses two sorted arrays of one name (in which files). */
pare_status pare__check_duplicates(const pare_store *store);

/* entry.rows, cols, piece_rows (if 0) from shape and dtype: checked against overflow. stored_bytes
 * becomes what dense values take; who knows the arrays (store.c, writer.c) puts their sum there. */
pare_status pare__entry_complete(pare_entry *entry);

/* Refuses arrays of one file that overlap or lie outside it (which two, which offset). */
pare_status pare__check_offsets(const pare_store *store, int file, int64_t begin, int64_t end,
                                bool must_cover);

/* ---- Hugging Face pieces (hf_config.c) ------------------------------------------------------- */

/* config.json with (or, if no entry is quantised, without) quantization_config for these entries;
 * NULL text in gives NULL out (the quantization_config alone still comes). Unchanged bytes if
 * nothing was to change. */
pare_status pare__hf_config_write(const char *config, const pare__slot *slots, size_t count,
                                  char **config_out, char **quantization_config_out);

/* The scheme that quantization_config gives to a module ("model.layers.0.mlp.up_proj"); type NONE
 * if it leaves it alone or there is none. */
pare_status pare__hf_config_scheme(const pare__json *config, const char *module,
                                   pare_scheme *scheme);

/* Whether a Python pattern matches at the start of a name (re_match.c). PARE_ERR_UNSUPPORTED for
 * one that is beyond what is known there. */
pare_status pare__re_match(const char *pattern, const char *name, bool *match);

/* ---- safetensors pieces (safetensors_{read,write}.c) ----------------------------------------- */

/* Whether a file begins like safetensors: a plausible header length and '{'. */
bool pare__st_probe(const char *path);

/* Opens a file and adds its arrays; its "__metadata__" goes to store->metadata, provenance and
 * quantization_config unless those are set already. */
pare_status pare__st_load(pare_store *store, const char *path, int *file);

/* The files 0..count-1 of a writer that are safetensors: their headers, the 8 bytes of length
 * included. */
typedef struct pare__st_state {
    struct pare__st_header {
        char *bytes;
        int64_t size;
    } * headers;
    size_t count;
} pare__st_state;

/* Gives the arrays of file `file` their places and makes its header, with config's text and
 * provenance in it if `single`; sets the file's size. The state's headers must have room. */
pare_status pare__st_layout(pare_writer *writer, pare__st_state *state, int file, bool single);

/* Makes (or, with resume, checks) these files at full size with their headers. */
pare_status pare__st_create(pare_writer *writer, const pare__st_state *state, bool resume);
void pare__st_free(pare__st_state *state);

/* A new file of the writer at full size, left open in files[file].fd. */
pare_status pare__writer_make_file(pare_writer *writer, int file);

#endif
