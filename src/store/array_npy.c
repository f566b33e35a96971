/* array_npy.c - numpy's .npy files (NEP 1): a header that is a Python dict, then the elements. */
#include "array_impl.h"
#include "store_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum { HEADER_LIMIT = 1 << 16, PREAMBLE = 12 };

/* ---- reading --------------------------------------------------------------------------------- */

/* The header's text, being read. It is terminated. */
typedef struct parser {
    const char *path, *at;
} parser;

static char look(parser *p)
{
    while (*p->at == ' ' || *p->at == '\n' || *p->at == '\t')
        p->at++;
    return *p->at;
}

static bool accept(parser *p, char c)
{
    if (look(p) != c)
        return false;
    p->at++;
    return true;
}

static bool accept_word(parser *p, const char *word)
{
    size_t length = strlen(word);
    look(p);
    if (strncmp(p->at, word, length) != 0)
        return false;
    p->at += length;
    return true;
}

static pare_status damaged(const parser *p)
{
    PARE_FAIL(PARE_ERR_DAMAGED, "%s: its .npy header cannot be read at \"%.20s\"", p->path, p->at);
}

/* A quoted string without escapes, at most size - 1 characters. */
static pare_status parse_string(parser *p, char *text, size_t size)
{
    char quote = look(p);
    const char *end = quote == '\'' || quote == '"' ? strchr(p->at + 1, quote) : NULL;
    if (!end || (size_t)(end - p->at) > size)
        return damaged(p);
    size_t length = (size_t)(end - p->at) - 1;
    memcpy(text, p->at + 1, length);
    text[length] = '\0';
    p->at = end + 1;
    return PARE_OK;
}

static pare_status parse_descr(parser *p, pare_dtype *dtype)
{
    static const struct {
        char name[4];
        pare_dtype dtype;
    } known[] = {{"f8", PARE_F64}, {"f4", PARE_F32}, {"f2", PARE_F16}, {"c8", PARE_C64},
                 {"i8", PARE_I64}, {"i4", PARE_I32}, {"i2", PARE_I16}, {"i1", PARE_I8},
                 {"u8", PARE_U64}, {"u4", PARE_U32}, {"u2", PARE_U16}, {"u1", PARE_U8},
                 {"b1", PARE_BOOL}};
    char text[32];
    PARE_REQUIRE(look(p) != '[', PARE_ERR_UNSUPPORTED,
                 "%s: it holds records of several fields; an array of numbers is needed", p->path);
    PARE_TRY(parse_string(p, text, sizeof text));
    const char *name = text + (*text && strchr("<>|=", *text) != NULL);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) != 0)
            continue;
        PARE_REQUIRE(*text != '>' || name[1] == '1', PARE_ERR_UNSUPPORTED,
                     "%s: its numbers are big-endian (%s); save them with astype('<%s')", p->path,
                     text, name);
        *dtype = known[i].dtype;
        return PARE_OK;
    }
    PARE_FAIL(PARE_ERR_UNSUPPORTED,
              "%s: elements of type \"%s\" are not read; integers and floats of 8 to 64 bits are",
              p->path, text);
}

static pare_status parse_shape(parser *p, int *rank, int64_t *shape)
{
    if (!accept(p, '('))
        return damaged(p);
    for (*rank = 0; !accept(p, ')'); (*rank)++) {
        PARE_REQUIRE(*rank < PARE_MAX_RANK, PARE_ERR_UNSUPPORTED,
                     "%s: it has more than %d dimensions", p->path, PARE_MAX_RANK);
        int64_t size = 0;
        if (look(p) < '0' || *p->at > '9')
            return damaged(p);
        for (; *p->at >= '0' && *p->at <= '9'; p->at++)
            if (!pare__mul(size, 10, &size) || !pare__add(size, *p->at - '0', &size))
                return damaged(p);
        shape[*rank] = size;
        if (!accept(p, ',') && look(p) != ')')
            return damaged(p);
    }
    return PARE_OK;
}

/* {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } in any order. */
static pare_status parse_header(parser *p, pare_tensor *tensor)
{
    bool descr = false, order = false, shape = false, fortran = false;
    if (!accept(p, '{'))
        return damaged(p);
    while (!accept(p, '}')) {
        char key[32];
        PARE_TRY(parse_string(p, key, sizeof key));
        if (!accept(p, ':'))
            return damaged(p);
        if (!descr && strcmp(key, "descr") == 0) {
            PARE_TRY(parse_descr(p, &tensor->dtype));
            descr = true;
        } else if (!order && strcmp(key, "fortran_order") == 0) {
            fortran = accept_word(p, "True");
            order = fortran || accept_word(p, "False");
        } else if (!shape && strcmp(key, "shape") == 0) {
            PARE_TRY(parse_shape(p, &tensor->rank, tensor->shape));
            shape = true;
        } else {
            return damaged(p);
        }
        if (!accept(p, ',') && look(p) != '}')
            return damaged(p);
    }
    if (!descr || !order || !shape || look(p) != '\0')
        return damaged(p);
    PARE_REQUIRE(!fortran || tensor->rank <= 1, PARE_ERR_UNSUPPORTED,
                 "%s: it is stored in Fortran order; save it with numpy.ascontiguousarray",
                 p->path);
    return PARE_OK;
}

/* The place and length of the header's text; the elements begin behind it. */
static pare_status find_header(const pare_array *array, int64_t size, int64_t *at, int64_t *length)
{
    unsigned char head[PREAMBLE] = {0};
    PARE_REQUIRE(size >= PREAMBLE, PARE_ERR_DAMAGED, "%s ends within its .npy header", array->path);
    PARE_TRY(pare__file_read(array->fd, array->path, head, PREAMBLE, 0));
    PARE_REQUIRE(head[6] >= 1 && head[6] <= 3, PARE_ERR_UNSUPPORTED,
                 "%s is of .npy format %d; 1 to 3 are read", array->path, head[6]);
    *at = head[6] == 1 ? 10 : 12;
    *length = head[8] | head[9] << 8;
    if (head[6] > 1)
        *length |= (int64_t)head[10] << 16 | (int64_t)head[11] << 24;
    PARE_REQUIRE(*length <= HEADER_LIMIT && *length <= size - *at, PARE_ERR_DAMAGED,
                 "%s: its .npy header claims %" PRId64 " bytes, the file has %" PRId64, array->path,
                 *length, size);
    return PARE_OK;
}

pare_status pare__npy_open(pare_array *array, int64_t size)
{
    pare_status status = PARE_OK;
    char *text = NULL;
    int64_t at, length, bytes;
    PARE_TRY(find_header(array, size, &at, &length));
    PARE_TRY(pare__calloc((size_t)length + 1, 1, &text));
    PARE_TRY_DONE(pare__file_read(array->fd, array->path, text, length, at));
    parser p = {.path = array->path, .at = text};
    PARE_TRY_DONE(parse_header(&p, &array->tensor));
    array->offset = at + length;
    PARE_TRY_DONE(pare_shape_size(array->tensor.dtype, array->tensor.rank, array->tensor.shape,
                                  NULL, &bytes));
    if (bytes != size - array->offset) {
        char shape[128];
        PARE_TRY_DONE(pare__error(
            PARE_ERR_DAMAGED, __func__,
            "%s: its shape %s needs %" PRId64 " bytes behind the header, the file has %" PRId64,
            array->path,
            pare_shape_text(array->tensor.rank, array->tensor.shape, shape, sizeof shape), bytes,
            size - array->offset));
    }
done:
    free(text);
    return status;
}

/* ---- writing --------------------------------------------------------------------------------- */

struct pare_npy_writer {
    char *path, *part; /* the final name, and what is written until then */
    bool overwrite;
    int fd;
    int64_t rows, cols, done; /* done: rows */
    int64_t offset;
};

static pare_status write_header(pare_npy_writer *w)
{
    char text[192];
    int length =
        snprintf(text + 10, sizeof text - 10,
                 "{'descr': '<f4', 'fortran_order': False, 'shape': (%" PRId64 ", %" PRId64 "), }",
                 w->rows, w->cols);
    int whole = (10 + length + 1 + 63) / 64 * 64; /* elements begin at a multiple of 64 */
    memset(text + 10 + length, ' ', (size_t)(whole - 10 - length));
    text[whole - 1] = '\n';
    memcpy(text, "\x93NUMPY\1\0", 8);
    text[8] = (char)((whole - 10) & 0xff);
    text[9] = (char)((whole - 10) >> 8);
    w->offset = whole;
    return pare__file_write(w->fd, w->part, text, whole, 0);
}

static pare_status open_part(pare_npy_writer *w)
{
    pare__text name = {0};
    int64_t bytes;
    pare__text_add(&name, "%s.part", w->path);
    PARE_TRY(pare__text_take(&name, &w->part));
    w->fd = open(w->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    PARE_REQUIRE(w->fd >= 0, pare__errno_status(errno), "cannot write '%s': %s", w->part,
                 strerror(errno));
    PARE_TRY(write_header(w));
    PARE_REQUIRE(pare__mul(w->rows, w->cols, &bytes) && pare__mul(bytes, 4, &bytes) &&
                     pare__add(bytes, w->offset, &bytes),
                 PARE_ERR_ARGUMENT, "%s: %" PRId64 " rows of %" PRId64 " are no array", w->path,
                 w->rows, w->cols);
    return pare__file_reserve(w->fd, w->part, bytes);
}

pare_status pare_npy_create(const char *path, int64_t rows, int64_t cols, bool overwrite,
                            pare_npy_writer **out)
{
    PARE_REQUIRE(path && *path && out && rows >= 0 && cols >= 0, PARE_ERR_ARGUMENT,
                 "a .npy file needs a name and a shape");
    PARE_REQUIRE(overwrite || !pare__exists(path), PARE_ERR_EXISTS,
                 "'%s' exists already: choose another name or overwrite it", path);
    pare_npy_writer *w = NULL;
    PARE_TRY(pare__calloc(1, sizeof *w, &w));
    *w = (pare_npy_writer){.overwrite = overwrite, .fd = -1, .rows = rows, .cols = cols};
    pare_status status = pare__strdup(path, &w->path);
    if (status == PARE_OK)
        status = open_part(w);
    if (status != PARE_OK)
        pare_npy_free(&w);
    PARE_TRY(status);
    *out = w;
    return PARE_OK;
}

pare_status pare_npy_add(pare_npy_writer *w, const float *values, int64_t rows)
{
    PARE_REQUIRE(rows >= 0 && rows <= w->rows - w->done, PARE_ERR_ARGUMENT,
                 "%s: %" PRId64 " more rows than its %" PRId64, w->path, w->done + rows - w->rows,
                 w->rows);
    PARE_TRY(pare__file_write(w->fd, w->part, values, rows * w->cols * 4,
                              w->offset + w->done * w->cols * 4));
    w->done += rows;
    return PARE_OK;
}

pare_status pare_npy_finish(pare_npy_writer *w)
{
    PARE_REQUIRE(w->done == w->rows, PARE_ERR_ARGUMENT,
                 "%s: %" PRId64 " of its %" PRId64 " rows are missing", w->path, w->rows - w->done,
                 w->rows);
    int error = fdatasync(w->fd) == 0 ? 0 : errno;
    if (close(w->fd) != 0 && !error)
        error = errno;
    w->fd = -1;
    PARE_REQUIRE(!error, pare__errno_status(error), "cannot write '%s': %s", w->part,
                 strerror(error));
    PARE_TRY(pare__rename(w->part, w->path, w->overwrite));
    free(w->part);
    w->part = NULL;
    return pare__sync_parent(w->path);
}

void pare_npy_free(pare_npy_writer **writer)
{
    pare_npy_writer *w = writer ? *writer : NULL;
    if (!w)
        return;
    *writer = NULL;
    if (w->fd >= 0) {
        close(w->fd);
        unlink(w->part);
    }
    free(w->part);
    free(w->path);
    free(w);
}
