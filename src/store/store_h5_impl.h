/* store_h5_impl.h - what the reader and the writer of native checkpoints share
 * (docs/formats/store.md). */
#ifndef PARE_STORE_H5_IMPL_H
#define PARE_STORE_H5_IMPL_H

#include "store_h5_seal.h"
#include "store_impl.h"

#include <hdf5.h>
#include <string.h>

#define PARE__H5_FORMAT "pare checkpoint" /* the root attribute "format" */
#define PARE__H5_SUM_LINE 35              /* of a line of /checksums, its name apart */

/* Every use of HDF5 lies between enter and leave: one thread at a time, nothing printed, the
 * library's settings as they were before. */
typedef struct pare__h5_scope {
    H5E_auto2_t print;
    void *user;
} pare__h5_scope;

void pare__h5_enter(pare__h5_scope *scope);
void pare__h5_leave(const pare__h5_scope *scope);

/* How a file is opened and made: no lock on it, no object left open. The caller closes it. */
hid_t pare__h5_access(void);

/* The HDF5 type that holds a dtype's elements (bytes for those that HDF5 cannot express). The
 * caller closes it. */
hid_t pare__h5_type(pare_dtype dtype);

/* How many dimensions a tensor's dataset has, and which: its shape, or [bytes] for elements below a
 * byte. */
pare_status pare__h5_dims(pare_dtype dtype, int rank, const int64_t *shape, int *dims_rank,
                          hsize_t dims[PARE_MAX_RANK]);

/* A name as a link may be called, and back. '%', '/' (kept between folders), control characters and
 * a name that is
 * "." alone become %XX. Not every text is an escaped name: PARE_ERR_DAMAGED. Caller frees. */
pare_status pare__h5_escape(const char *name, bool folders, char **escaped);
pare_status pare__h5_unescape(const char *escaped, char **name);
/* "files/" and the escaped name: where a side file lies. */
pare_status pare__h5_side_name(const char *name, char **full);

/* Where the datasets beside tensors and side files lie; offset -1 for one that is absent. */
typedef struct pare__h5_map {
    pare__range config, metadata, provenance, checksums;
    int64_t data_begin; /* of the first dataset's bytes; the file's size if there are none */
    bool dense; /* the datasets fill [data_begin, size): no HDF5 metadata lie behind data_begin */
} pare__h5_map;

/* Reads the HDF5 metadata of store->files[0] into arrays, slots and sides, both sorted, and *map.
 * The texts are not read. Only for a file whose metadata are proved, or our own. */
pare_status pare__h5_scan(pare_store *store, pare__h5_map *map);

/* What a writer's file has beside its tensors, and the room that HDF5's metadata get. */
typedef struct pare__h5_plan {
    const char *metadata; /* of the source, or NULL */
    int64_t sides;        /* side files, all of the source */
    int64_t checksums;    /* bytes of that text */
    int64_t metadata_block;
} pare__h5_plan;

/* Bytes of a text without its NUL; 0 for NULL. */
static inline int64_t pare__h5_text_size(const char *text)
{
    return text ? (int64_t)strlen(text) : 0;
}

/* Fills the file at part_path, open as fd: everything but bytes. Metadata that need more than their
 * block lie between data. */
pare_status pare__h5_make(const pare_writer *writer, const pare__h5_plan *plan, int fd);

/* The writer's half of the container's table (store_impl.h has the contracts). */
pare_status pare__h5_accepts(const pare_entry *entry, const char *format_option);
pare_status pare__h5_layout(pare_writer *writer);
pare_status pare__h5_create(pare_writer *writer, bool resume);
pare_status pare__h5_finish(pare_writer *writer);
void pare__h5_close_writer(pare_writer *writer);

#endif
