/* data_find.c - from what a user wrote ("[FORMAT:]PATH[#PART]") to the files and their format. The
 * content decides; names only where there is nothing else to see (raw tokens, folders). */
#include "data_impl.h"

#include "base/gzip.h"
#include "base/text.h"

#include <string.h>
#include <unistd.h>

/* ---- names ----------------------------------------------------------------------------------- */

static const char *const format_words[] = {"", "tokens", "cifar", "idx", "npy", "h5"};

pare_status pare__data_name_parse(const char *text, pare__data_name *name)
{
    *name = (pare__data_name){.format = PARE__DATA_ANY};
    for (int i = PARE__DATA_TOKENS; i <= PARE__DATA_H5; i++) {
        size_t length = strlen(format_words[i]);
        if (strncmp(text, format_words[i], length) == 0 && text[length] == ':') {
            name->format = (pare__data_format)i;
            text += length + 1;
            break;
        }
    }
    const char *hash = pare__exists(text) ? NULL : strrchr(text, '#'); /* a name may have one */
    PARE_TRY(pare__strdup(text, &name->path));
    if (!hash)
        return PARE_OK;
    name->path[hash - text] = '\0';
    pare_status status = pare__strdup(hash + 1, &name->part);
    if (status != PARE_OK)
        pare__data_name_free(name);
    return status;
}

void pare__data_name_free(pare__data_name *name)
{
    free(name->path);
    free(name->part);
    *name = (pare__data_name){.format = PARE__DATA_ANY};
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), size = strlen(end);
    return length >= size && strcmp(text + length - size, end) == 0;
}

/* ---- files ----------------------------------------------------------------------------------- */

pare_status pare__data_recognise(const char *path, pare__data_format *format)
{
    unsigned char head[8] = {0};
    int fd;
    int64_t size;
    PARE_TRY(pare__file_open(path, &fd, &size));
    pare_status status = pare__file_read(fd, path, head, size < 8 ? size : 8, 0);
    close(fd);
    PARE_TRY(status);
    bool idx = head[0] == 0 && head[1] == 0 && head[2] >= 0x08 && head[2] <= 0x0e && head[3] >= 1 &&
               head[3] <= 4;
    *format = memcmp(head, "\x93NUMPY", 6) == 0           ? PARE__DATA_NPY
              : memcmp(head, "\x89HDF\r\n\x1a\n", 8) == 0 ? PARE__DATA_H5
              : pare__is_gzip(head, 8) || idx             ? PARE__DATA_IDX
                                                          : PARE__DATA_ANY;
    return PARE_OK;
}

/* What to read a file as that no prefix and no first bytes tell. */
static pare_status guess(const pare_data_options *o, const char *path, pare__data_format *format)
{
    int fd;
    int64_t size;
    bool raw = ends_with(path, ".u16") || ends_with(path, ".u32");
    if (raw && o->tokens) {
        *format = PARE__DATA_TOKENS;
        return PARE_OK;
    }
    PARE_TRY(pare__data_recognise(path, format));
    if (*format != PARE__DATA_ANY)
        return PARE_OK;
    PARE_TRY(pare__file_open(path, &fd, &size));
    close(fd);
    PARE_REQUIRE(size > 0, PARE_ERR_DAMAGED, "%s is empty", path);
    bool cifar = ends_with(path, ".bin") || size % 3073 == 0 || size % 3074 == 0;
    PARE_REQUIRE(!o->tokens, PARE_ERR_UNSUPPORTED,
                 "%s is no file of tokens that pare knows: .npy, HDF5, or raw numbers in a file "
                 "whose name ends in .u16 or .u32",
                 path);
    PARE_REQUIRE(cifar && !raw, PARE_ERR_UNSUPPORTED,
                 "%s is no file of images that pare knows: IDX (also gzipped), CIFAR, .npy or HDF5",
                 path);
    *format = PARE__DATA_CIFAR;
    return PARE_OK;
}

static pare_status open_tokens(const char *path, pare__source *source)
{
    pare__data_format format;
    if (ends_with(path, ".u16"))
        return pare__source_open_raw(path, PARE_U16, source);
    if (ends_with(path, ".u32"))
        return pare__source_open_raw(path, PARE_U32, source);
    PARE_TRY(pare__data_recognise(path, &format));
    PARE_REQUIRE(format == PARE__DATA_NPY || format == PARE__DATA_H5, PARE_ERR_UNSUPPORTED,
                 "%s: how wide are its tokens? Raw tokens end in .u16 or .u32", path);
    return pare__source_open_array(path, NULL, source);
}

/* The labels of an IDX file of images that lie beside it, if they do: "images" is "labels" in their
 * name, idx3 (or 4) idx1, packed or not. */
static pare_status idx_labels(const char *path, char **labels)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *images = strstr(base, "images"), *idx = images ? strstr(images, "idx") : NULL;
    if (!idx || (idx[3] != '3' && idx[3] != '4'))
        return PARE_OK;
    bool packed = ends_with(path, ".gz");
    for (int other = 0; other < 2; other++) {
        pare__text text = {0};
        const char *rest = idx + 4;
        int kept = (int)strlen(rest) - (packed ? 3 : 0);
        pare__text_add(&text, "%.*slabels%.*sidx1%.*s%s", (int)(images - path), path,
                       (int)(idx - images - 6), images + 6, kept, rest,
                       packed == (other == 0) ? ".gz" : "");
        PARE_TRY(pare__text_take(&text, labels));
        if (pare__exists(*labels))
            return PARE_OK;
        free(*labels);
        *labels = NULL;
    }
    return PARE_OK;
}

/* The labels of a dataset of an HDF5 file: "<dataset>_labels", or "labels" (which a stream of
 * tokens has nothing to do with). */
static pare_status h5_labels(const char *path, const char *dataset, int rank, char **labels)
{
    pare__text text = {0};
    char *name = NULL;
    pare__text_add(&text, "%s_labels", dataset);
    PARE_TRY(pare__text_take(&text, &name));
    if (pare_array_has(path, name))
        pare__text_add(&text, "%s#%s", path, name);
    else if (rank > 1 && pare_array_has(path, "labels"))
        pare__text_add(&text, "%s#labels", path);
    free(name);
    if (text.length > 0)
        PARE_TRY(pare__text_take(&text, labels));
    return PARE_OK;
}

static pare_status open_file(const pare_data_options *o, const pare__data_name *name,
                             pare__source *source, char **labels)
{
    const char *path = name->path;
    pare__data_format format = name->format;
    if (format == PARE__DATA_ANY)
        PARE_TRY(guess(o, path, &format));
    PARE_REQUIRE(!name->part || format == PARE__DATA_H5, PARE_ERR_ARGUMENT,
                 "%s is one file of data: it has no part \"%s\"", path, name->part);
    switch (format) {
    case PARE__DATA_TOKENS:
        return open_tokens(path, source);
    case PARE__DATA_CIFAR:
        return pare__source_open_cifar((char *const[]){name->path}, 1, source);
    case PARE__DATA_IDX:
        PARE_TRY(idx_labels(path, labels));
        return pare__source_open_idx(path, source);
    case PARE__DATA_H5:
        PARE_TRY(pare__source_open_array(path, name->part, source));
        if (!name->part)
            return PARE_OK;
        return h5_labels(path, name->part, source->tensor.rank, labels);
    default:
        return pare__source_open_array(path, NULL, source);
    }
}

/* ---- folders --------------------------------------------------------------------------------- */

/* dir/name if there is such a file, else NULL. */
static pare_status look_for(const char *dir, const char *name, char **path)
{
    PARE_TRY(pare__join(dir, name, path));
    if (pare__exists(*path))
        return PARE_OK;
    free(*path);
    *path = NULL;
    return PARE_OK;
}

static pare_status open_idx_folder(const char *dir, bool train, pare__source *source, char **labels,
                                   bool *found)
{
    static const char *const forms[] = {"%s-images-idx3-ubyte", "%s-images.idx3-ubyte",
                                        "%s-images-idx3-ubyte.gz", "%s-images.idx3-ubyte.gz"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char name[64], *path = NULL;
        const char *after = forms[i] + 2;
        snprintf(name, sizeof name, "%s%s", train ? "train" : "t10k", after);
        PARE_TRY(look_for(dir, name, &path));
        if (!path)
            continue;
        *found = true;
        pare_status status = idx_labels(path, labels);
        if (status == PARE_OK)
            status = pare__source_open_idx(path, source);
        free(path);
        return status;
    }
    return PARE_OK;
}

/* CIFAR-10's five files of training images or its one of tests; CIFAR-100's one each. */
static pare_status open_cifar_folder(const char *dir, bool train, pare__source *source, bool *found)
{
    pare_status status = PARE_OK;
    char *paths[5] = {NULL};
    int count = 0;
    for (int i = 1; train && i <= 5; i++) {
        char name[32];
        snprintf(name, sizeof name, "data_batch_%d.bin", i);
        PARE_TRY_DONE(look_for(dir, name, &paths[count]));
        if (!paths[count])
            break;
        count++;
    }
    if (!train)
        PARE_TRY_DONE(look_for(dir, "test_batch.bin", &paths[0]));
    if (!paths[0])
        PARE_TRY_DONE(look_for(dir, train ? "train.bin" : "test.bin", &paths[0]));
    if (count == 0 && paths[0])
        count = 1;
    *found = count > 0;
    if (count > 0)
        PARE_TRY_DONE(pare__source_open_cifar(paths, count, source));
done:
    for (int i = 0; i < 5; i++)
        free(paths[i]);
    return status;
}

static pare_status open_folder(const pare_data_options *o, const pare__data_name *name,
                               pare__source *source, char **labels)
{
    const char *dir = name->path, *part = name->part ? name->part : "";
    bool train = strcmp(part, "train") == 0, found = false;
    PARE_REQUIRE(!o->tokens, PARE_ERR_ARGUMENT, "%s is a folder: name a file of tokens", dir);
    PARE_REQUIRE(train || strcmp(part, "test") == 0, PARE_ERR_ARGUMENT,
                 "%s is a folder: say which of its images, as %s#train or %s#test", dir, dir, dir);
    if (name->format == PARE__DATA_ANY || name->format == PARE__DATA_IDX)
        PARE_TRY(open_idx_folder(dir, train, source, labels, &found));
    if (!found && (name->format == PARE__DATA_ANY || name->format == PARE__DATA_CIFAR))
        PARE_TRY(open_cifar_folder(dir, train, source, &found));
    PARE_REQUIRE(found, PARE_ERR_NOT_FOUND,
                 "%s has no images called %s: neither %s-images-idx3-ubyte (or .gz) nor %s", dir,
                 part, train ? "train" : "t10k", train ? "data_batch_1.bin" : "test_batch.bin");
    return PARE_OK;
}

pare_status pare__data_find(const pare_data_options *o, pare__source *source, char **labels)
{
    pare__data_name name;
    *labels = NULL;
    PARE_TRY(pare__data_name_parse(o->path, &name));
    pare_status status = pare__is_directory(name.path) ? open_folder(o, &name, source, labels)
                                                       : open_file(o, &name, source, labels);
    pare__data_name_free(&name);
    if (status != PARE_OK) {
        free(*labels);
        *labels = NULL;
    }
    PARE_TRY(status);
    return PARE_OK;
}
