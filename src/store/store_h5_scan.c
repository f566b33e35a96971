/* store_h5_scan.c - reads the HDF5 metadata of a native checkpoint into the store's tables: what is
 * there, of which type, where its bytes lie. Nothing of it is believed unchecked.
 */
#include "store_h5_impl.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define MAX_FOLDERS 32 /* below /files */
#define MAX_TEXT 64    /* of an attribute */

typedef struct placed {
    int64_t offset, size;
    const char *name;
} placed;

typedef struct scan {
    pare_store *store;
    pare__h5_map *map;
    const char *path;
    int64_t size;
    placed *sets; /* every dataset that has bytes */
    size_t set_count, set_capacity;
    pare_status status;           /* of the iteration that is under way: HDF5 carries an int only */
    char names[MAX_FOLDERS][256]; /* the folders that lead to the side file being looked at */
    int depth;
} scan;

/* A dataset as the file has it. */
typedef struct extent {
    int rank;
    hsize_t dims[PARE_MAX_RANK];
    int64_t offset, bytes;
} extent;

/* ---- objects --------------------------------------------------------------------------------- */

/* The object of a hard link (a soft or external one could lead out of the file); -1 if there is
 * none of that kind. */
static hid_t open_kind(hid_t parent, const char *link, H5I_type_t kind)
{
    H5L_info_t info;
    if (H5Lexists(parent, link, H5P_DEFAULT) <= 0 ||
        H5Lget_info(parent, link, &info, H5P_DEFAULT) < 0 || info.type != H5L_TYPE_HARD)
        return -1;
    hid_t object = H5Oopen(parent, link, H5P_DEFAULT);
    if (object >= 0 && H5Iget_type(object) != kind) {
        H5Oclose(object);
        return -1;
    }
    return object;
}

/* The bytes of an attribute that is a scalar, or a vector of at most `most`, of exactly this type.
 */
static bool attribute(hid_t object, const char *name, hid_t type, hssize_t most, void *value,
                      hssize_t *count)
{
    if (H5Aexists(object, name) <= 0)
        return false;
    hid_t attr = H5Aopen(object, name, H5P_DEFAULT);
    hid_t has = attr >= 0 ? H5Aget_type(attr) : -1, space = attr >= 0 ? H5Aget_space(attr) : -1;
    *count = space >= 0 ? H5Sget_simple_extent_npoints(space) : -1;
    bool good = has >= 0 && H5Tequal(has, type) > 0 && *count >= 0 && *count <= most &&
                (*count == 0 || H5Aread(attr, type, value) >= 0);
    if (space >= 0)
        H5Sclose(space);
    if (has >= 0)
        H5Tclose(has);
    if (attr >= 0)
        H5Aclose(attr);
    return good;
}

static bool attribute_int(hid_t object, const char *name, int64_t *value)
{
    hssize_t count = 0;
    return attribute(object, name, H5T_STD_I64LE, 1, value, &count) && count == 1;
}

/* A fixed-length string; its length is part of its type. */
static bool attribute_text(hid_t object, const char *name, char text[MAX_TEXT])
{
    if (H5Aexists(object, name) <= 0)
        return false;
    hid_t attr = H5Aopen(object, name, H5P_DEFAULT), type = attr >= 0 ? H5Aget_type(attr) : -1;
    bool good = type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
                H5Tget_size(type) < MAX_TEXT;
    if (attr >= 0)
        H5Aclose(attr);
    memset(text, 0, MAX_TEXT);
    hssize_t count = 0;
    good = good && attribute(object, name, type, 1, text, &count) && count == 1;
    if (type >= 0)
        H5Tclose(type);
    return good;
}

/* ---- datasets -------------------------------------------------------------------------------- */

static pare_status check_set(const scan *s, const char *name, hid_t set, hid_t type, hid_t want,
                             hid_t space, hid_t list, extent *found)
{
    PARE_REQUIRE(type >= 0 && want >= 0 && H5Tequal(type, want) > 0, PARE_ERR_DAMAGED,
                 "%s: /%s has another element type than its entry says", s->path, name);
    int rank = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    PARE_REQUIRE(rank >= 0 && rank <= PARE_MAX_RANK && H5Sis_simple(space) > 0 &&
                     H5Sget_simple_extent_type(space) != H5S_NULL,
                 PARE_ERR_DAMAGED, "%s: /%s has no shape of at most %d dimensions", s->path, name,
                 PARE_MAX_RANK);
    found->rank = rank;
    H5Sget_simple_extent_dims(space, found->dims, NULL);
    PARE_REQUIRE(list >= 0 && H5Pget_layout(list) == H5D_CONTIGUOUS && H5Pget_nfilters(list) == 0 &&
                     H5Pget_external_count(list) == 0,
                 PARE_ERR_DAMAGED, "%s: /%s is not one piece of plain bytes in this file", s->path,
                 name);
    int64_t bytes = (int64_t)H5Tget_size(want);
    bool fits = bytes > 0;
    for (int i = 0; i < rank; ++i)
        fits = fits && found->dims[i] <= INT64_MAX &&
               pare__mul(bytes, (int64_t)found->dims[i], &bytes);
    PARE_REQUIRE(fits && H5Dget_storage_size(set) == (hsize_t)bytes, PARE_ERR_DAMAGED,
                 "%s: /%s has not the bytes that its shape needs", s->path, name);
    haddr_t offset = bytes ? H5Dget_offset(set) : 0; /* without bytes there is no place */
    PARE_REQUIRE(bytes == 0 || (offset >= PARE__H5_BLOCK && offset <= INT64_MAX &&
                                bytes <= s->size && (int64_t)offset <= s->size - bytes),
                 PARE_ERR_DAMAGED,
                 "%s: /%s would lie at byte %" PRIu64 ", outside the file of %" PRId64, s->path,
                 name, (uint64_t)offset, s->size);
    found->offset = (int64_t)offset;
    found->bytes = bytes;
    return PARE_OK;
}

/* What the dataset of that link is; name, kept until the end, is for sentences. */
static pare_status read_set(scan *s, hid_t parent, const char *link, const char *name,
                            pare_dtype dtype, extent *found)
{
    hid_t set = open_kind(parent, link, H5I_DATASET);
    PARE_REQUIRE(set >= 0, PARE_ERR_DAMAGED, "%s: the dataset /%s is missing", s->path, name);
    hid_t type = H5Dget_type(set), want = pare__h5_type(dtype), space = H5Dget_space(set);
    hid_t list = H5Dget_create_plist(set);
    pare_status status = check_set(s, name, set, type, want, space, list, found);
    H5Pclose(list);
    H5Sclose(space);
    H5Tclose(want);
    H5Tclose(type);
    H5Dclose(set);
    PARE_TRY(status);
    if (found->bytes == 0)
        return PARE_OK;
    PARE_TRY(pare__grow(&s->sets, &s->set_capacity, s->set_count + 1, sizeof *s->sets));
    s->sets[s->set_count++] = (placed){found->offset, found->bytes, name};
    return PARE_OK;
}

/* A dataset of plain bytes beside the tensors. */
static pare_status read_bytes(scan *s, hid_t parent, const char *link, const char *name,
                              pare__range *range)
{
    extent found = {0};
    PARE_TRY(read_set(s, parent, link, name, PARE_U8, &found));
    PARE_REQUIRE(found.rank == 1, PARE_ERR_DAMAGED, "%s: /%s is not a row of bytes", s->path, name);
    *range = (pare__range){found.offset, found.bytes};
    return PARE_OK;
}

/* ---- entries --------------------------------------------------------------------------------- */

/* Appends the array of a part and finds it in the file. */
static pare_status add_part(scan *s, pare__slot *slot, int part, const pare__part_spec *spec,
                            hid_t parent, const char *link, const char *array_name)
{
    pare__array *array;
    PARE_TRY(pare__store_add_array(s->store, array_name, &array));
    slot->array[part] = (int64_t)s->store->array_count - 1;
    extent found = {0};
    PARE_TRY(read_set(s, parent, link, array->name, spec->dtype, &found));
    int rank;
    hsize_t dims[PARE_MAX_RANK];
    PARE_TRY(pare__h5_dims(spec->dtype, spec->rank, spec->shape, &rank, dims));
    bool same = rank == found.rank;
    for (int i = 0; same && i < rank; ++i)
        same = dims[i] == found.dims[i];
    PARE_REQUIRE(same, PARE_ERR_DAMAGED, "%s: /%s has another shape than its entry needs", s->path,
                 array->name);
    array->dtype = spec->dtype;
    array->rank = spec->rank;
    memcpy(array->shape, spec->shape, sizeof array->shape);
    array->offset = found.offset;
    array->bytes = found.bytes;
    return PARE_OK;
}

/* The shape of a dense entry is its dataset's, but for elements below a byte. */
static pare_status read_dense(scan *s, hid_t set, pare_entry *entry)
{
    hssize_t count = 0;
    if (pare_dtype_bits(entry->dtype) < 8) {
        PARE_REQUIRE(attribute(set, "shape", H5T_STD_I64LE, PARE_MAX_RANK, entry->shape, &count),
                     PARE_ERR_DAMAGED, "%s: tensor %s has no shape", s->path, entry->name);
        entry->rank = (int)count;
        return PARE_OK;
    }
    hid_t space = H5Dget_space(set);
    int rank = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    hsize_t dims[PARE_MAX_RANK];
    if (rank >= 0 && rank <= PARE_MAX_RANK)
        H5Sget_simple_extent_dims(space, dims, NULL);
    if (space >= 0)
        H5Sclose(space);
    PARE_REQUIRE(rank >= 0 && rank <= PARE_MAX_RANK, PARE_ERR_DAMAGED,
                 "%s: tensor %s has not between 0 and %d dimensions", s->path, entry->name,
                 PARE_MAX_RANK);
    entry->rank = rank;
    for (int i = 0; i < rank; ++i) /* above 2^63 it is negative here and refused with the rest */
        entry->shape[i] = (int64_t)dims[i];
    return PARE_OK;
}

/* Which codecs may hold which entries. */
static bool codec_fits(const pare_entry *entry, const char *codec)
{
    const pare_scheme *scheme = &entry->scheme;
    if (entry->form == PARE_FORM_SPARSE)
        return strcmp(codec, "sparse") == 0;
    if (scheme->type == PARE_QUANT_INT)
        return strcmp(codec, "pack") == 0 || (strcmp(codec, "int") == 0 && scheme->bits == 8);
    return strcmp(codec, scheme->type == PARE_QUANT_E4M3 ? "float" : "nf4") == 0;
}

/* The attributes of a quantised or sparse entry. */
static pare_status read_coded(scan *s, hid_t group, pare_entry *entry, const pare__codec **codec)
{
    char form[MAX_TEXT], text[MAX_TEXT], canonical[MAX_TEXT];
    hssize_t rank = 0;
    PARE_REQUIRE(attribute_text(group, "form", form) && attribute_text(group, "codec", text) &&
                     attribute(group, "shape", H5T_STD_I64LE, PARE_MAX_RANK, entry->shape, &rank),
                 PARE_ERR_DAMAGED, "%s: tensor %s does not say its form, codec and shape", s->path,
                 entry->name);
    entry->rank = (int)rank;
    PARE_REQUIRE(pare_dtype_is_weight(entry->dtype), PARE_ERR_DAMAGED,
                 "%s: tensor %s, a %s one, cannot have the dtype %s", s->path, entry->name, form,
                 pare_dtype_name(entry->dtype));
    *codec = pare__codec_by_name(text);
    if (strcmp(form, "sparse") == 0) {
        entry->form = PARE_FORM_SPARSE;
        PARE_REQUIRE(attribute_int(group, "nonzeros", &entry->nonzeros) && entry->nonzeros >= 0,
                     PARE_ERR_DAMAGED, "%s: sparse tensor %s does not say its nonzeros", s->path,
                     entry->name);
    } else {
        char scheme[MAX_TEXT];
        entry->form = PARE_FORM_QUANT;
        PARE_REQUIRE(strcmp(form, "quant") == 0 && attribute_text(group, "scheme", scheme) &&
                         pare_scheme_parse(scheme, &entry->scheme) == PARE_OK &&
                         entry->scheme.type != PARE_QUANT_NONE &&
                         strcmp(pare_scheme_text(&entry->scheme, canonical, MAX_TEXT), scheme) == 0,
                     PARE_ERR_DAMAGED, "%s: tensor %s has no form and scheme that pare knows",
                     s->path, entry->name);
    }
    PARE_REQUIRE(*codec && codec_fits(entry, text), PARE_ERR_DAMAGED,
                 "%s: tensor %s cannot be held by the codec \"%s\"", s->path, entry->name, text);
    return PARE_OK;
}

/* The offset of scales that are quantised too. */
static pare_status read_offset(const scan *s, hid_t group, pare_entry *entry)
{
    hssize_t count = 0;
    float *offset = &entry->scale_offset;
    if (entry->form != PARE_FORM_QUANT || !entry->scheme.double_quant)
        return PARE_OK;
    PARE_REQUIRE(attribute(group, "scale_offset", H5T_IEEE_F32LE, 1, offset, &count) &&
                     count == 1 && isfinite(*offset),
                 PARE_ERR_DAMAGED, "%s: tensor %s does not say the offset of its scales", s->path,
                 entry->name);
    return PARE_OK;
}

/* The block of the scales is written for other readers; it must be the scheme's. */
static pare_status check_blocks(const scan *s, hid_t group, const pare_entry *entry)
{
    if (entry->form != PARE_FORM_QUANT)
        return PARE_OK;
    pare_blocks blocks = pare_scheme_blocks(&entry->scheme, entry->rows, entry->cols);
    int64_t rows = 0, cols = 0;
    PARE_REQUIRE(attribute_int(group, "block_rows", &rows) && rows == blocks.block_rows &&
                     attribute_int(group, "block_cols", &cols) && cols == blocks.block_cols,
                 PARE_ERR_DAMAGED, "%s: the blocks of tensor %s are not those of its scheme",
                 s->path, entry->name);
    return PARE_OK;
}

/* What both kinds of entries say of themselves; slot->codec is found. */
static pare_status read_entry(scan *s, hid_t object, bool dense, pare__slot *slot)
{
    pare_entry *entry = &slot->entry;
    char text[MAX_TEXT];
    PARE_REQUIRE(attribute_text(object, "dtype", text) && pare_dtype_parse(text, &entry->dtype) &&
                     attribute_int(object, "piece_rows", &entry->piece_rows),
                 PARE_ERR_DAMAGED, "%s: tensor %s does not say its dtype and piece_rows", s->path,
                 entry->name);
    int64_t piece = entry->piece_rows;
    PARE_REQUIRE(piece >= 1 && piece <= 65536 && (piece & (piece - 1)) == 0, PARE_ERR_DAMAGED,
                 "%s: the pieces of tensor %s have %" PRId64
                 " rows, which is no power of two up to 65536",
                 s->path, entry->name, piece);
    if (dense) {
        slot->codec = &pare__codec_dense;
        PARE_TRY(read_dense(s, object, entry));
    } else {
        PARE_TRY(read_coded(s, object, entry, &slot->codec));
    }
    int64_t count = 0;
    PARE_REQUIRE(pare__entry_complete(entry) == PARE_OK &&
                     pare__mul(entry->rows, entry->cols, &count) && entry->nonzeros <= count,
                 PARE_ERR_DAMAGED,
                 "%s: tensor %s has a shape of negative or impossible size, or of fewer elements "
                 "than its values",
                 s->path, entry->name);
    PARE_REQUIRE(count > 0 || entry->rows <= INT32_MAX, PARE_ERR_DAMAGED,
                 "%s: tensor %s has %" PRId64 " rows of nothing", s->path, entry->name,
                 entry->rows);
    PARE_TRY(read_offset(s, object, entry));
    return check_blocks(s, object, entry);
}

static pare_status read_parts(scan *s, hid_t tensors, hid_t object, const char *link, bool dense,
                              pare__slot *slot)
{
    pare__part_spec spec[PARE_MAX_PARTS];
    int count = 0;
    PARE_TRY(pare__codec_parts(slot->codec, &slot->entry, true, spec, NULL, &count));
    H5G_info_t info;
    PARE_REQUIRE(dense || (H5Gget_info(object, &info) >= 0 && info.nlinks == (hsize_t)count),
                 PARE_ERR_DAMAGED, "%s: tensor %s does not consist of %d parts", s->path,
                 slot->entry.name, count);
    for (int i = 0; i < count; ++i) {
        pare__text text = {0};
        char *name = NULL;
        pare__text_add(&text, "tensors/%s%s%s", link, dense ? "" : "/", dense ? "" : spec[i].h5);
        PARE_TRY(pare__text_take(&text, &name));
        pare_status status = dense ? add_part(s, slot, i, &spec[i], tensors, link, name)
                                   : add_part(s, slot, i, &spec[i], object, spec[i].h5, name);
        free(name);
        PARE_TRY(status);
    }
    return PARE_OK;
}

static pare_status read_tensor(scan *s, hid_t tensors, const char *link)
{
    char *name = NULL;
    PARE_TRY(pare__h5_unescape(link, &name));
    pare__slot *slot;
    pare_status status = pare__store_add_slot(s->store, name, &slot);
    free(name);
    PARE_TRY(status);
    for (int i = 0; i < PARE_MAX_PARTS; ++i)
        slot->array[i] = -1;
    hid_t object = open_kind(tensors, link, H5I_DATASET);
    bool dense = object >= 0;
    if (!dense)
        object = open_kind(tensors, link, H5I_GROUP);
    PARE_REQUIRE(object >= 0, PARE_ERR_DAMAGED,
                 "%s: tensor %s is neither a dataset nor a group of this file", s->path, link);
    status = read_entry(s, object, dense, slot);
    if (status == PARE_OK)
        status = read_parts(s, tensors, object, link, dense, slot);
    H5Oclose(object);
    PARE_TRY(status);
    return PARE_OK;
}

static herr_t visit_tensor(hid_t tensors, const char *link, const H5L_info_t *info, void *user)
{
    (void)info;
    scan *s = user;
    s->status = read_tensor(s, tensors, link);
    return s->status != PARE_OK;
}

/* ---- side files ------------------------------------------------------------------------------ */

static pare_status read_side(scan *s, hid_t folder, const char *link)
{
    pare__text text = {0};
    for (int i = 0; i < s->depth; ++i)
        pare__text_add(&text, "%s/", s->names[i]);
    char *part = NULL, *name = NULL;
    pare_status status = pare__h5_unescape(link, &part);
    if (status == PARE_OK)
        pare__text_add(&text, "%s", part);
    free(part);
    if (status != PARE_OK)
        pare__text_free(&text);
    PARE_TRY(status);
    PARE_TRY(pare__text_take(&text, &name));
    pare__side *side;
    status = pare__store_add_side(s->store, name, &side);
    free(name);
    PARE_TRY(status);
    pare__range range = {0};
    PARE_TRY(read_bytes(s, folder, link, side->file.name, &range));
    side->file.size = range.size;
    side->in_file = 0;
    side->offset = range.offset;
    return PARE_OK;
}

static herr_t visit_file(hid_t folder, const char *link, const H5L_info_t *info, void *user);

/* A file, or a folder with all in it. A name that leads elsewhere when it is written out is
 * refused. */
static pare_status read_file(scan *s, hid_t folder, const char *link)
{
    PARE_REQUIRE(strcmp(link, "..") != 0 && strcmp(link, "%2E") != 0 && !strstr(link, "%2F") &&
                     link[0] != '\0',
                 PARE_ERR_DAMAGED, "%s: \"%s\" is no name for a side file", s->path, link);
    hid_t below = open_kind(folder, link, H5I_GROUP);
    if (below < 0)
        return read_side(s, folder, link);
    char *name = NULL;
    pare_status status = pare__h5_unescape(link, &name);
    if (status == PARE_OK && (s->depth == MAX_FOLDERS || strlen(name) >= sizeof s->names[0]))
        status = pare__error(PARE_ERR_DAMAGED, __func__,
                             "%s: the folders of side file \"%s\" are too many or too long",
                             s->path, name);
    if (status == PARE_OK) {
        strcpy(s->names[s->depth++], name);
        s->status = PARE_OK;
        hsize_t at = 0;
        if (H5Literate(below, H5_INDEX_NAME, H5_ITER_INC, &at, visit_file, s) < 0)
            s->status = pare__error(PARE_ERR_DAMAGED, __func__,
                                    "%s: HDF5 cannot list the side files in %s", s->path, name);
        status = s->status;
        --s->depth;
    }
    free(name);
    H5Gclose(below);
    PARE_TRY(status);
    return PARE_OK;
}

static herr_t visit_file(hid_t folder, const char *link, const H5L_info_t *info, void *user)
{
    (void)info;
    scan *s = user;
    s->status = read_file(s, folder, link);
    return s->status != PARE_OK;
}

/* ---- the file -------------------------------------------------------------------------------- */

static pare_status read_group(scan *s, hid_t file, const char *name, H5L_iterate_t visit)
{
    hid_t group = open_kind(file, name, H5I_GROUP);
    PARE_REQUIRE(group >= 0, PARE_ERR_DAMAGED, "%s: the group /%s is missing", s->path, name);
    hsize_t at = 0;
    s->status = PARE_OK;
    herr_t listed = H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, &at, visit, s);
    H5Gclose(group);
    PARE_REQUIRE(listed >= 0, PARE_ERR_DAMAGED, "%s: HDF5 cannot list /%s", s->path, name);
    PARE_TRY(s->status);
    return PARE_OK;
}

static pare_status read_optional(scan *s, hid_t file, const char *name, pare__range *range)
{
    *range = (pare__range){-1, 0};
    if (H5Lexists(file, name, H5P_DEFAULT) == 0)
        return PARE_OK;
    PARE_TRY(read_bytes(s, file, name, name, range));
    return PARE_OK;
}

static pare_status read_all(scan *s, hid_t file)
{
    char format[MAX_TEXT];
    int64_t version = 0;
    PARE_REQUIRE(attribute_text(file, "format", format) && strcmp(format, PARE__H5_FORMAT) == 0 &&
                     attribute_int(file, "version", &version) && version == PARE__H5_VERSION,
                 PARE_ERR_DAMAGED,
                 "%s: its root does not say format \"" PARE__H5_FORMAT "\", version %d", s->path,
                 PARE__H5_VERSION);
    pare__h5_map *map = s->map;
    PARE_TRY(read_optional(s, file, "config", &map->config));
    PARE_TRY(read_optional(s, file, "metadata", &map->metadata));
    PARE_TRY(read_optional(s, file, "provenance", &map->provenance));
    PARE_TRY(read_bytes(s, file, "checksums", "checksums", &map->checksums));
    PARE_TRY(read_group(s, file, "tensors", visit_tensor));
    PARE_TRY(read_group(s, file, "files", visit_file));
    return PARE_OK;
}

static int by_offset(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Datasets must not overlap; without a gap between them nothing else lies there. */
static pare_status check_places(scan *s)
{
    if (s->set_count)
        qsort(s->sets, s->set_count, sizeof *s->sets, by_offset);
    s->map->data_begin = s->set_count ? s->sets[0].offset : s->size;
    s->map->dense = true;
    int64_t end = s->map->data_begin;
    for (size_t i = 0; i < s->set_count; ++i) {
        const placed *set = &s->sets[i];
        PARE_REQUIRE(set->offset >= end, PARE_ERR_DAMAGED,
                     "%s: /%s and /%s overlap at byte %" PRId64, s->path, s->sets[i - 1].name,
                     set->name, set->offset);
        s->map->dense = s->map->dense && set->offset == end;
        end = set->offset + set->size;
    }
    s->map->dense = s->map->dense && end == s->size;
    return PARE_OK;
}

static int by_slot_name(const void *a, const void *b)
{
    const pare__slot *x = a, *y = b;
    return strcmp(x->entry.name, y->entry.name);
}

static int by_side_name(const void *a, const void *b)
{
    const pare__side *x = a, *y = b;
    return strcmp(x->file.name, y->file.name);
}

static pare_status scan_file(scan *s)
{
    hid_t access = pare__h5_access();
    hid_t file = access >= 0 ? H5Fopen(s->path, H5F_ACC_RDONLY, access) : -1;
    pare_status status = PARE_OK;
    if (file < 0)
        status = pare__error(PARE_ERR_DAMAGED, __func__,
                             "%s: HDF5 cannot open it; it is damaged, or not readable", s->path);
    else
        status = read_all(s, file);
    if (file >= 0)
        H5Fclose(file);
    if (access >= 0)
        H5Pclose(access);
    PARE_TRY(status);
    PARE_TRY(check_places(s));
    return PARE_OK;
}

pare_status pare__h5_scan(pare_store *store, pare__h5_map *map)
{
    scan s = {.store = store, .map = map, .path = store->files[0].path};
    s.size = store->files[0].size;
    pare__h5_scope scope;
    pare__h5_enter(&scope);
    pare_status status = scan_file(&s);
    pare__h5_leave(&scope);
    free(s.sets);
    PARE_TRY(status);
    /* Links come in the order of their escaped names. */
    if (store->slot_count)
        qsort(store->slots, store->slot_count, sizeof *store->slots, by_slot_name);
    if (store->side_count)
        qsort(store->sides, store->side_count, sizeof *store->sides, by_side_name);
    return PARE_OK;
}
