/* store_h5_make.c - has HDF5 write the metadata of a native checkpoint: a file whose datasets have
 * places, but no bytes yet. HDF5 is then done with it.
 *
 * HDF5 does not survive a write that fails (a process that met a full disk crashes when it exits).
 * So it gets a file that is large enough, and whose room for metadata is reserved on the disk,
 * before its first write.
 */
#include "store_h5_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define META_ROOM 4096 /* for what HDF5 writes beside its block */

typedef struct maker {
    const pare_writer *writer;
    const pare__h5_plan *plan;
    int64_t root; /* bytes of metadata that are there already */
    hid_t file, set_list, access;
} maker;

static pare_status write_error(const pare_writer *writer, const char *what)
{
    PARE_FAIL(PARE_ERR_IO, "%s: HDF5 cannot write the metadata of %s", writer->part_path, what);
}

/* An attribute of that type: a scalar if count is -1, else a vector. */
static bool put(hid_t object, const char *name, hid_t type, int64_t count, const void *value)
{
    hsize_t dim = (hsize_t)count;
    hid_t space = count < 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &dim, NULL);
    hid_t attr = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool good = attr >= 0 && H5Awrite(attr, type, value) >= 0;
    H5Aclose(attr);
    H5Sclose(space);
    return good;
}

static bool put_int(hid_t object, const char *name, int64_t value)
{
    return put(object, name, H5T_STD_I64LE, -1, &value);
}

static bool put_text(hid_t object, const char *name, const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    bool good = H5Tset_size(type, strlen(text)) >= 0 && H5Tset_strpad(type, H5T_STR_NULLPAD) >= 0 &&
                put(object, name, type, -1, text);
    H5Tclose(type);
    return good;
}

/* A group without times; bytes is what the names of its links need. */
static hid_t make_group(hid_t parent, const char *name, size_t bytes)
{
    hid_t list = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(list, false);
    H5Pset_local_heap_size_hint(list, bytes);
    hid_t group = H5Gcreate2(parent, name, H5P_DEFAULT, list, H5P_DEFAULT);
    H5Pclose(list);
    return group;
}

static hid_t make_set(const maker *m, hid_t parent, const char *name, pare_dtype dtype, int rank,
                      const hsize_t *dims)
{
    hid_t space = rank ? H5Screate_simple(rank, dims, NULL) : H5Screate(H5S_SCALAR);
    hid_t type = pare__h5_type(dtype);
    hid_t set = H5Dcreate2(parent, name, type, space, H5P_DEFAULT, m->set_list, H5P_DEFAULT);
    H5Tclose(type);
    H5Sclose(space);
    return set;
}

static pare_status make_bytes(const maker *m, hid_t parent, const char *name, int64_t size)
{
    hsize_t dim = (hsize_t)size;
    hid_t set = make_set(m, parent, name, PARE_U8, 1, &dim);
    if (set < 0 || H5Dclose(set) < 0)
        PARE_TRY(write_error(m->writer, name));
    return PARE_OK;
}

/* ---- entries --------------------------------------------------------------------------------- */

static pare_status make_part(const maker *m, hid_t parent, const char *link,
                             const pare__part_spec *spec, hid_t *set)
{
    int rank;
    hsize_t dims[PARE_MAX_RANK];
    PARE_TRY(pare__h5_dims(spec->dtype, spec->rank, spec->shape, &rank, dims));
    *set = make_set(m, parent, link, spec->dtype, rank, dims);
    if (*set < 0)
        PARE_TRY(write_error(m->writer, link));
    return PARE_OK;
}

static pare_status make_dense(const maker *m, hid_t tensors, const char *link,
                              const pare_entry *entry, const pare__part_spec *spec)
{
    hid_t set = -1;
    PARE_TRY(make_part(m, tensors, link, spec, &set));
    bool good = put_text(set, "dtype", pare_dtype_name(entry->dtype)) &&
                put_int(set, "piece_rows", entry->piece_rows);
    if (pare_dtype_bits(entry->dtype) < 8)
        good = good && put(set, "shape", H5T_STD_I64LE, entry->rank, entry->shape);
    if ((H5Dclose(set) < 0) | !good)
        PARE_TRY(write_error(m->writer, entry->name));
    return PARE_OK;
}

static bool put_coding(hid_t group, const pare_entry *entry, const char *codec)
{
    bool good = put_text(group, "codec", codec) &&
                put_text(group, "dtype", pare_dtype_name(entry->dtype)) &&
                put(group, "shape", H5T_STD_I64LE, entry->rank, entry->shape) &&
                put_int(group, "piece_rows", entry->piece_rows);
    if (entry->form == PARE_FORM_SPARSE)
        return good && put_text(group, "form", "sparse") &&
               put_int(group, "nonzeros", entry->nonzeros);
    char scheme[32];
    pare_blocks blocks = pare_scheme_blocks(&entry->scheme, entry->rows, entry->cols);
    return good && put_text(group, "form", "quant") &&
           put_text(group, "scheme", pare_scheme_text(&entry->scheme, scheme, sizeof scheme)) &&
           put_int(group, "block_rows", blocks.block_rows) &&
           put_int(group, "block_cols", blocks.block_cols) &&
           (!entry->scheme.double_quant ||
            put(group, "scale_offset", H5T_IEEE_F32LE, -1, &entry->scale_offset));
}

static pare_status make_coded(const maker *m, hid_t tensors, const char *link,
                              const pare__slot *slot, const pare__part_spec *spec, int count)
{
    hid_t group = make_group(tensors, link, 64);
    pare_status status = PARE_OK;
    if (group < 0 || !put_coding(group, &slot->entry, slot->codec->name))
        status = write_error(m->writer, slot->entry.name);
    for (int p = 0; status == PARE_OK && p < count; ++p) {
        hid_t set = -1;
        status = make_part(m, group, spec[p].h5, &spec[p], &set);
        if (status == PARE_OK && H5Dclose(set) < 0)
            status = write_error(m->writer, slot->entry.name);
    }
    if (group >= 0 && H5Gclose(group) < 0 && status == PARE_OK)
        status = write_error(m->writer, slot->entry.name);
    PARE_TRY(status);
    return PARE_OK;
}

static pare_status make_tensor(const maker *m, hid_t tensors, const pare__slot *slot)
{
    pare__part_spec spec[PARE_MAX_PARTS];
    int count = 0;
    PARE_TRY(pare__h5_accepts(&slot->entry, m->writer->format_option));
    PARE_TRY(pare__codec_parts(slot->codec, &slot->entry, true, spec, NULL, &count));
    char *link = NULL;
    PARE_TRY(pare__h5_escape(slot->entry.name, false, &link));
    pare_status status = slot->entry.form == PARE_FORM_DENSE
                             ? make_dense(m, tensors, link, &slot->entry, spec)
                             : make_coded(m, tensors, link, slot, spec, count);
    free(link);
    PARE_TRY(status);
    return PARE_OK;
}

static pare_status make_tensors(const maker *m)
{
    size_t names = 16;
    for (size_t i = 0; i < m->writer->slot_count; ++i)
        names += strlen(m->writer->slots[i].entry.name) + 8;
    hid_t tensors = make_group(m->file, "tensors", names);
    if (tensors < 0)
        PARE_TRY(write_error(m->writer, "tensors"));
    pare_status status = PARE_OK;
    for (size_t i = 0; status == PARE_OK && i < m->writer->slot_count; ++i)
        status = make_tensor(m, tensors, &m->writer->slots[i]);
    H5Gclose(tensors);
    PARE_TRY(status);
    return PARE_OK;
}

/* ---- side files ------------------------------------------------------------------------------ */

/* A link of its own for every part of the name: parts that a reader would refuse are refused here.
 */
static pare_status make_side(const maker *m, hid_t parent, const char *name, int64_t size)
{
    const char *slash = strchr(name, '/');
    size_t length = slash ? (size_t)(slash - name) : strlen(name);
    PARE_REQUIRE(length > 0 && length < 256 && strncmp(name, "..", length) != 0, PARE_ERR_ARGUMENT,
                 "an .h5 checkpoint cannot hold a side file called \"%s\"", name);
    char part[256], *link = NULL;
    memcpy(part, name, length);
    part[length] = '\0';
    PARE_TRY(pare__h5_escape(part, false, &link));
    pare_status status = PARE_OK;
    if (!slash) {
        status = make_bytes(m, parent, link, size);
    } else {
        hid_t folder = H5Lexists(parent, link, H5P_DEFAULT) > 0
                           ? H5Gopen2(parent, link, H5P_DEFAULT)
                           : make_group(parent, link, 64);
        status = folder < 0 ? write_error(m->writer, name) : make_side(m, folder, slash + 1, size);
        if (folder >= 0)
            H5Gclose(folder);
    }
    free(link);
    PARE_TRY(status);
    return PARE_OK;
}

static pare_status make_sides(const maker *m)
{
    hid_t files = make_group(m->file, "files", 64);
    if (files < 0)
        PARE_TRY(write_error(m->writer, "files"));
    pare_status status = PARE_OK;
    for (int64_t i = 0; status == PARE_OK && i < m->plan->sides; ++i) {
        const pare_side_file *side = pare_store_side(m->writer->source, i);
        status = make_side(m, files, side->name, side->size);
    }
    H5Gclose(files);
    PARE_TRY(status);
    return PARE_OK;
}

/* ---- the file -------------------------------------------------------------------------------- */

/* The texts come last: their datasets then lie behind the tensors. */
static pare_status make_all(const maker *m)
{
    const pare_writer *w = m->writer;
    PARE_TRY(make_tensors(m));
    PARE_TRY(make_sides(m));
    if (w->config)
        PARE_TRY(make_bytes(m, m->file, "config", pare__h5_text_size(w->config)));
    if (m->plan->metadata)
        PARE_TRY(make_bytes(m, m->file, "metadata", pare__h5_text_size(m->plan->metadata)));
    if (w->provenance)
        PARE_TRY(make_bytes(m, m->file, "provenance", pare__h5_text_size(w->provenance)));
    PARE_TRY(make_bytes(m, m->file, "checksums", m->plan->checksums));
    return PARE_OK;
}

/* Earliest format; bytes in one piece, placed at once and never touched; metadata in one block. */
static bool set_lists(maker *m)
{
    m->access = pare__h5_access();
    m->set_list = H5Pcreate(H5P_DATASET_CREATE);
    return H5Pset_libver_bounds(m->access, H5F_LIBVER_EARLIEST, H5F_LIBVER_V18) >= 0 &&
           H5Pset_meta_block_size(m->access, (hsize_t)(m->plan->metadata_block - m->root)) >= 0 &&
           H5Pset_small_data_block_size(m->access, 0) >= 0 &&
           H5Pset_layout(m->set_list, H5D_CONTIGUOUS) >= 0 &&
           H5Pset_alloc_time(m->set_list, H5D_ALLOC_TIME_EARLY) >= 0 &&
           H5Pset_fill_time(m->set_list, H5D_FILL_TIME_NEVER) >= 0 &&
           H5Pset_obj_track_times(m->set_list, false) >= 0;
}

/* A file with a root and nothing else, in memory. Caller frees. */
static pare_status make_root(const pare_writer *writer, char **image, int64_t *size)
{
    hid_t create = H5Pcreate(H5P_FILE_CREATE), access = pare__h5_access();
    hid_t file = -1;
    if (H5Pset_userblock(create, PARE__H5_BLOCK) >= 0 &&
        H5Pset_obj_track_times(create, false) >= 0 &&
        H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_V18) >= 0 &&
        H5Pset_fapl_core(access, META_ROOM, false) >= 0)
        file = H5Fcreate(writer->part_path, H5F_ACC_TRUNC, create, access);
    bool good = file >= 0 && put_text(file, "format", PARE__H5_FORMAT) &&
                put_int(file, "version", PARE__H5_VERSION) && H5Fflush(file, H5F_SCOPE_LOCAL) >= 0;
    *size = good ? H5Fget_file_image(file, NULL, 0) : -1;
    pare_status status =
        *size > 0 ? pare__calloc((size_t)*size, 1, image) : write_error(writer, "the root");
    if (status == PARE_OK && H5Fget_file_image(file, *image, (size_t)*size) != *size)
        status = write_error(writer, "the root");
    if (file >= 0)
        H5Fclose(file);
    H5Pclose(access);
    H5Pclose(create);
    PARE_TRY(status);
    return PARE_OK;
}

/* Puts the root, of *root bytes, into the file and makes room for the rest. */
static pare_status reserve(const pare_writer *writer, const pare__h5_plan *plan, int fd,
                           int64_t *root)
{
    char *image = NULL;
    int64_t size = 0;
    pare_status status = make_root(writer, &image, &size);
    if (status == PARE_OK && ftruncate(fd, 0) != 0)
        status = pare__error(pare__errno_status(errno), __func__, "%s: cannot be emptied: %s",
                             writer->part_path, strerror(errno));
    /* Whether an image has the user block in front depends on the library's version. */
    int64_t at = status == PARE_OK && image[0] != '\0' ? PARE__H5_BLOCK : 0;
    if (status == PARE_OK)
        status = pare__file_write(fd, writer->part_path, image, size, at);
    free(image);
    PARE_TRY(status);
    *root = at + size - PARE__H5_BLOCK;
    int error = posix_fallocate(fd, 0, PARE__H5_BLOCK + plan->metadata_block + META_ROOM);
    PARE_REQUIRE(error == 0 || error == EOPNOTSUPP || error == EINVAL, pare__errno_status(error),
                 "%s: no room for %lld bytes of metadata: %s; free some space and run it again",
                 writer->part_path, (long long)plan->metadata_block, strerror(error));
    int64_t whole = writer->files[0].size + 2 * plan->metadata_block;
    PARE_REQUIRE(ftruncate(fd, whole) == 0, pare__errno_status(errno),
                 "%s: a file of %lld bytes is not possible here: %s", writer->part_path,
                 (long long)whole, strerror(errno));
    return PARE_OK;
}

static pare_status make_file(const pare_writer *writer, const pare__h5_plan *plan, int64_t root)
{
    maker m = {.writer = writer, .plan = plan, .root = root, .file = -1};
    if (set_lists(&m))
        m.file = H5Fopen(writer->part_path, H5F_ACC_RDWR, m.access);
    pare_status status = m.file < 0 ? write_error(writer, "the file") : make_all(&m);
    if (m.file >= 0 && H5Fclose(m.file) < 0 && status == PARE_OK)
        status = write_error(writer, "the file");
    H5Pclose(m.set_list);
    H5Pclose(m.access);
    PARE_TRY(status);
    return PARE_OK;
}

pare_status pare__h5_make(const pare_writer *writer, const pare__h5_plan *plan, int fd)
{
    pare__h5_scope scope;
    pare__h5_enter(&scope);
    int64_t root = 0;
    pare_status status = reserve(writer, plan, fd, &root);
    if (status == PARE_OK)
        status = make_file(writer, plan, root);
    pare__h5_leave(&scope);
    PARE_TRY(status);
    return PARE_OK;
}
