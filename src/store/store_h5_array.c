/* store_h5_array.c - one dataset of any HDF5 file as an array. What lies in the file as one piece
 * is read there like any other file; chunks are gathered by HDF5, one thread at a time. */
#include "array_impl.h"
#include "store_h5_impl.h"

#include <inttypes.h>

#define CHUNK_LIMIT (INT64_C(1) << 30) /* HDF5 unpacks a whole chunk at once */

struct pare__h5_array {
    hid_t file, set;
};

/* ---- finding --------------------------------------------------------------------------------- */

/* The dataset at the end of a path of hard links (others could lead out of the file); -1 if there
 * is none. */
static hid_t open_set(hid_t file, const char *name)
{
    hid_t at = H5Oopen(file, "/", H5P_DEFAULT);
    char *copy = strdup(name), *rest = NULL;
    for (char *part = copy ? strtok_r(copy, "/", &rest) : NULL; part && at >= 0;
         part = strtok_r(NULL, "/", &rest)) {
        H5L_info_t info;
        bool there = H5Iget_type(at) == H5I_GROUP && H5Lexists(at, part, H5P_DEFAULT) > 0 &&
                     H5Lget_info(at, part, &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_HARD;
        hid_t next = there ? H5Oopen(at, part, H5P_DEFAULT) : -1;
        H5Oclose(at);
        at = next;
    }
    free(copy);
    if (at >= 0 && H5Iget_type(at) != H5I_DATASET) {
        H5Oclose(at);
        at = -1;
    }
    return at;
}

/* The names of the root's datasets, for sentences and for a file that has one. */
typedef struct listing {
    pare__text names;
    int count;
    char *first;
} listing;

static herr_t list_set(hid_t root, const char *name, const H5L_info_t *info, void *user)
{
    listing *list = user;
    hid_t set = info->type == H5L_TYPE_HARD ? open_set(root, name) : -1;
    if (set < 0)
        return 0;
    H5Oclose(set);
    if (list->count == 0)
        list->first = strdup(name);
    if (list->count < 16)
        pare__text_add(&list->names, "%s%s", list->count ? ", " : "", name);
    else if (list->count == 16)
        pare__text_add(&list->names, " …");
    list->count++;
    return 0;
}

/* The dataset of that name or, of "", the only one. */
static pare_status find_set(const char *path, hid_t file, const char *name, hid_t *set)
{
    *set = *name ? open_set(file, name) : -1;
    if (*set >= 0)
        return PARE_OK;
    listing list = {0};
    hsize_t at = 0;
    (void)H5Literate(file, H5_INDEX_NAME, H5_ITER_INC, &at, list_set, &list);
    char *names = NULL;
    pare_status status = pare__text_take(&list.names, &names);
    if (status == PARE_OK && *name)
        status = pare__error(PARE_ERR_NOT_FOUND, __func__,
                             "%s has no dataset \"%s\"; in its root are: %s", path, name,
                             list.count ? names : "none");
    else if (status == PARE_OK && list.count != 1)
        status = pare__error(PARE_ERR_ARGUMENT, __func__,
                             "%s has %d datasets in its root (%s): name one as %s#NAME", path,
                             list.count, list.count ? names : "none", path);
    else if (status == PARE_OK) {
        *set = list.first ? open_set(file, list.first) : -1;
        if (*set < 0)
            status =
                pare__error(PARE_ERR_DAMAGED, __func__, "%s: HDF5 cannot open \"%s\"", path, names);
    }
    free(names);
    free(list.first);
    return status;
}

/* ---- what it is ------------------------------------------------------------------------------ */

static pare_status read_type(pare_array *array, hid_t type)
{
    static const pare_dtype known[] = {PARE_U8,  PARE_I8,  PARE_U16, PARE_I16,  PARE_U32, PARE_I32,
                                       PARE_U64, PARE_I64, PARE_F16, PARE_BF16, PARE_F32, PARE_F64};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        hid_t want = pare__h5_type(known[i]);
        bool same = want >= 0 && H5Tequal(type, want) > 0;
        H5Tclose(want);
        if (same) {
            array->tensor.dtype = known[i];
            return PARE_OK;
        }
    }
    PARE_FAIL(PARE_ERR_UNSUPPORTED,
              "%s: the dataset's elements are no little-endian integers or floats of 8 to 64 bits",
              array->path);
}

static pare_status read_shape(pare_array *array, hid_t space)
{
    hsize_t dims[H5S_MAX_RANK] = {0};
    int rank = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    PARE_REQUIRE(rank >= 0 && H5Sis_simple(space) > 0 &&
                     H5Sget_simple_extent_type(space) != H5S_NULL,
                 PARE_ERR_DAMAGED, "%s: the dataset has no shape", array->path);
    PARE_REQUIRE(rank <= PARE_MAX_RANK, PARE_ERR_UNSUPPORTED,
                 "%s: the dataset has more than %d dimensions", array->path, PARE_MAX_RANK);
    H5Sget_simple_extent_dims(space, dims, NULL);
    array->tensor.rank = rank;
    for (int i = 0; i < rank; i++) /* above 2^63 it is negative here, and refused */
        array->tensor.shape[i] = (int64_t)dims[i];
    return pare_shape_size(array->tensor.dtype, rank, array->tensor.shape, NULL, NULL);
}

/* Whether the elements are one piece of the file, and where. */
static pare_status read_place(pare_array *array, int64_t size, hid_t set, hid_t list, bool *plain)
{
    int64_t bytes;
    PARE_TRY(pare_shape_size(array->tensor.dtype, array->tensor.rank, array->tensor.shape, NULL,
                             &bytes));
    H5D_layout_t layout = list >= 0 ? H5Pget_layout(list) : H5D_LAYOUT_ERROR;
    PARE_REQUIRE(bytes == 0 || H5Dget_storage_size(set) > 0, PARE_ERR_DAMAGED,
                 "%s: the dataset was never written", array->path);
    PARE_REQUIRE(layout != H5D_VIRTUAL && H5Pget_external_count(list) == 0, PARE_ERR_UNSUPPORTED,
                 "%s: the dataset's elements lie in other files", array->path);
    *plain = bytes == 0 || layout == H5D_CONTIGUOUS;
    if (bytes == 0)
        return PARE_OK;
    if (*plain) {
        haddr_t offset = H5Dget_offset(set);
        PARE_REQUIRE(offset <= INT64_MAX && bytes <= size && (int64_t)offset <= size - bytes,
                     PARE_ERR_DAMAGED,
                     "%s: the dataset would lie at byte %" PRIu64 ", outside the file of %" PRId64,
                     array->path, (uint64_t)offset, size);
        array->offset = (int64_t)offset;
        return PARE_OK;
    }
    hsize_t chunk[PARE_MAX_RANK] = {1}, stored = 0;
    int64_t wanted = 1;
    int rank = layout == H5D_CHUNKED ? H5Pget_chunk(list, PARE_MAX_RANK, chunk) : 0;
    int64_t whole = pare_dtype_bits(array->tensor.dtype) / 8;
    bool fits = rank >= 0 && rank <= PARE_MAX_RANK;
    for (int i = 0; fits && i < rank; i++)
        fits = chunk[i] > 0 && chunk[i] <= INT64_MAX &&
               pare__mul(whole, (int64_t)chunk[i], &whole) &&
               pare__mul(wanted, (array->tensor.shape[i] - 1) / (int64_t)chunk[i] + 1, &wanted);
    PARE_REQUIRE(fits && whole <= CHUNK_LIMIT, PARE_ERR_UNSUPPORTED,
                 "%s: the dataset is stored in chunks of more than 1 GiB; repack it (h5repack)",
                 array->path);
    /* what was never written would be made up, however large a shape the file claims */
    hid_t space = H5Dget_space(set); /* H5S_ALL is not taken by every release */
    bool known = rank == 0 || H5Dget_num_chunks(set, space, &stored) >= 0;
    H5Sclose(space);
    PARE_REQUIRE(known && (rank == 0 || stored >= (hsize_t)wanted), PARE_ERR_DAMAGED,
                 "%s: the dataset has %" PRIu64 " of its %" PRId64 " chunks; the rest was never "
                 "written",
                 array->path, (uint64_t)stored, wanted);
    return PARE_OK;
}

static pare_status look_at(pare_array *array, int64_t size, hid_t set, bool *plain)
{
    hid_t type = H5Dget_type(set), space = H5Dget_space(set), list = H5Dget_create_plist(set);
    pare_status status = read_type(array, type);
    if (status == PARE_OK)
        status = read_shape(array, space);
    if (status == PARE_OK)
        status = read_place(array, size, set, list, plain);
    H5Pclose(list);
    H5Sclose(space);
    H5Tclose(type);
    return status;
}

/* ---- the file -------------------------------------------------------------------------------- */

static hid_t open_file(const char *path)
{
    hid_t access = pare__h5_access();
    hid_t file = access >= 0 ? H5Fopen(path, H5F_ACC_RDONLY, access) : -1;
    if (access >= 0)
        H5Pclose(access);
    return file;
}

/* Keeps file and set open in array->h5 if only HDF5 can read them. */
static pare_status open_in(pare_array *array, int64_t size, const char *dataset, hid_t file)
{
    hid_t set;
    bool plain = true;
    PARE_TRY(find_set(array->path, file, dataset, &set));
    pare_status status = look_at(array, size, set, &plain);
    if (status == PARE_OK && !plain)
        status = pare__calloc(1, sizeof *array->h5, &array->h5);
    if (array->h5)
        *array->h5 = (struct pare__h5_array){file, set};
    else
        H5Dclose(set);
    return status;
}

pare_status pare__h5_array_open(pare_array *array, int64_t size, const char *dataset)
{
    pare__h5_scope scope;
    pare__h5_enter(&scope);
    hid_t file = open_file(array->path);
    pare_status status =
        file >= 0
            ? open_in(array, size, dataset, file)
            : pare__error(PARE_ERR_DAMAGED, __func__,
                          "%s: HDF5 cannot open it; it is damaged, or not readable", array->path);
    if (file >= 0 && !array->h5)
        H5Fclose(file);
    pare__h5_leave(&scope);
    PARE_TRY(status);
    return PARE_OK;
}

void pare__h5_array_close(pare__h5_array **h5)
{
    if (!*h5)
        return;
    pare__h5_scope scope;
    pare__h5_enter(&scope);
    H5Dclose((*h5)->set);
    H5Fclose((*h5)->file);
    pare__h5_leave(&scope);
    free(*h5);
    *h5 = NULL;
}

bool pare__h5_array_has(const char *path, const char *dataset)
{
    pare__h5_scope scope;
    pare__h5_enter(&scope);
    hid_t file = open_file(path), set = file >= 0 ? open_set(file, dataset) : -1;
    if (set >= 0)
        H5Dclose(set);
    if (file >= 0)
        H5Fclose(file);
    pare__h5_leave(&scope);
    return set >= 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Reads the largest block of whole slices that begins at element `first`: n along one axis, all of
 * the axes behind it. *read is how many elements that are. */
static bool read_block(const pare_array *array, hid_t space, int64_t first, int64_t count,
                       void *values, int64_t *read)
{
    int rank = array->tensor.rank;
    hsize_t start[PARE_MAX_RANK] = {0}, extent[PARE_MAX_RANK];
    int64_t inner = 1, rest = first;
    int axis = rank - 1;
    for (int i = rank - 1; i >= 0; i--) {
        start[i] = (hsize_t)(rest % array->tensor.shape[i]);
        rest /= array->tensor.shape[i];
    }
    /* outwards, while whole slices begin here and one of them is still wanted */
    while (axis > 0 && start[axis] == 0 && array->tensor.shape[axis] <= count / inner)
        inner *= array->tensor.shape[axis--];
    int64_t left = array->tensor.shape[axis] - (int64_t)start[axis];
    int64_t slices = count / inner < left ? count / inner : left;
    for (int i = 0; i < rank; i++)
        extent[i] = i < axis ? 1 : i == axis ? (hsize_t)slices : (hsize_t)array->tensor.shape[i];
    *read = slices * inner;
    hsize_t flat = (hsize_t)*read;
    hid_t memory = H5Screate_simple(1, &flat, NULL), type = pare__h5_type(array->tensor.dtype);
    bool good = H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, extent, NULL) >= 0 &&
                H5Dread(array->h5->set, type, memory, space, H5P_DEFAULT, values) >= 0;
    H5Tclose(type);
    H5Sclose(memory);
    return good;
}

pare_status pare__h5_array_read(const pare_array *array, int64_t first, int64_t count, void *values)
{
    pare__h5_scope scope;
    pare__h5_enter(&scope);
    hid_t space = H5Dget_space(array->h5->set);
    bool good = space >= 0;
    char *to = values;
    if (good && array->tensor.rank == 0) {
        hid_t type = pare__h5_type(array->tensor.dtype);
        good = H5Dread(array->h5->set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, to) >= 0;
        H5Tclose(type);
        count = 0;
    }
    for (int64_t read = 0; good && count > 0; first += read, count -= read) {
        good = read_block(array, space, first, count, to, &read);
        to += read * (pare_dtype_bits(array->tensor.dtype) / 8);
    }
    H5Sclose(space);
    pare__h5_leave(&scope);
    PARE_REQUIRE(good, PARE_ERR_DAMAGED,
                 "%s: HDF5 cannot read or unpack elements from %" PRId64
                 " on; the file is damaged, or packed with a filter that is not installed",
                 array->path, first);
    return PARE_OK;
}
