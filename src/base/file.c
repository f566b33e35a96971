/* file.c - whole reads and writes at offsets, durable renames, walks. Every failure names the file.
 */
#include "base/file.h"
#include "base/alloc.h"
#include "base/check.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK ((int64_t)1 << 30) /* Linux moves at most 2 GiB - 4 KiB in one call */
#define OPEN_FOLDERS 32          /* descriptors that removing a tree may hold */

/* A failed system call of the function `where` as a status and a sentence. */
static pare_status system_error(const char *where, const char *what, const char *path)
{
    pare_status status = pare__errno_status(errno);
    return pare__error(status, where, "cannot %s '%s': %s%s", what, path, strerror(errno),
                       status == PARE_ERR_FULL ? "; free some space or write elsewhere" : "");
}

pare_status pare__file_open(const char *path, int *fd, int64_t *size)
{
    /* O_NONBLOCK: a FIFO without a writer must be refused, not waited for */
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return system_error(__func__, "open", path);
    struct stat info;
    pare_status status = PARE_OK;
    if (fstat(*fd, &info) != 0)
        status = system_error(__func__, "look at", path);
    else if (!S_ISREG(info.st_mode))
        status = pare__error(PARE_ERR_ARGUMENT, __func__, "'%s' is %s, a file is needed", path,
                             S_ISDIR(info.st_mode) ? "a folder" : "a pipe or a device");
    if (status == PARE_OK) {
        *size = info.st_size;
        return PARE_OK;
    }
    close(*fd);
    *fd = -1;
    return status;
}

pare_status pare__file_read(int fd, const char *path, void *bytes, int64_t size, int64_t offset)
{
    int64_t end;
    PARE_REQUIRE(pare__add(offset, size, &end), PARE_ERR_DAMAGED,
                 "'%s': %" PRId64 " bytes at offset %" PRId64 " are no part of a file", path, size,
                 offset);
    char *to = bytes;
    while (offset < end) {
        int64_t rest = end - offset;
        ssize_t got = pread(fd, to, (size_t)(rest < CHUNK ? rest : CHUNK), offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return system_error(__func__, "read", path);
        PARE_REQUIRE(got > 0, PARE_ERR_DAMAGED,
                     "'%s' ends at byte %" PRId64 ", %" PRId64 " bytes too early: get it again",
                     path, offset, rest);
        to += got;
        offset += got;
    }
    return PARE_OK;
}

pare_status pare__file_write(int fd, const char *path, const void *bytes, int64_t size,
                             int64_t offset)
{
    int64_t end;
    PARE_REQUIRE(pare__add(offset, size, &end), PARE_ERR_ARGUMENT,
                 "'%s': %" PRId64 " bytes at offset %" PRId64 " are no part of a file", path, size,
                 offset);
    const char *from = bytes;
    while (offset < end) {
        int64_t rest = end - offset;
        ssize_t put = pwrite(fd, from, (size_t)(rest < CHUNK ? rest : CHUNK), offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return system_error(__func__, "write", path);
        PARE_REQUIRE(put > 0, PARE_ERR_IO,
                     "'%s' takes no more bytes at offset %" PRId64 ", %" PRId64 " are left", path,
                     offset, rest);
        from += put;
        offset += put;
    }
    return PARE_OK;
}

pare_status pare__file_reserve(int fd, const char *path, int64_t size)
{
    int error;
    do
        error = size > 0 && fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size) != 0 ? errno : 0;
    while (error == EINTR);
    if (error != ENOSPC && error != EDQUOT && error != EFBIG)
        return PARE_OK; /* not every file system can */
    char text[32];
    PARE_FAIL(PARE_ERR_FULL,
              "%s needs %s, and there is no room for it: free some space, or write elsewhere", path,
              pare__size_text((double)size, text, sizeof text));
}

pare_status pare__file_load(const char *path, int64_t limit, char **bytes, int64_t *size)
{
    pare_status status = PARE_OK;
    char *text = NULL;
    int fd = -1;
    int64_t length = 0;
    *bytes = NULL;
    PARE_TRY(pare__file_open(path, &fd, &length));
    if (length > limit)
        PARE_TRY_DONE(pare__error(PARE_ERR_DAMAGED, __func__,
                                  "'%s' has %" PRId64 " bytes where at most %" PRId64
                                  " make sense: is it another file?",
                                  path, length, limit));
    PARE_TRY_DONE(pare__calloc((size_t)length + 1, 1, &text));
    PARE_TRY_DONE(pare__file_read(fd, path, text, length, 0));
    *bytes = text;
    *size = length;
    text = NULL;
done:
    free(text);
    close(fd);
    return status;
}

/* The folder that holds path, which may end in slashes; "." for a bare name. Caller frees. */
static pare_status parent_of(const char *path, char **parent)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    while (end > 0 && path[end - 1] != '/')
        end--;
    while (end > 1 && path[end - 1] == '/')
        end--;
    PARE_TRY(pare__strdup(end > 0 ? path : ".", parent));
    if (end > 0)
        (*parent)[end] = '\0';
    return PARE_OK;
}

/* The n-th hidden name of this process beside path. Hidden, so that pare__walk passes over what a
 * killed process left; short, so that it fits where path's own name does. Caller frees. */
static pare_status name_beside(const char *path, int n, char **beside)
{
    char name[48];
    char *parent = NULL;
    snprintf(name, sizeof name, ".pare-%ld-%d.tmp", (long)getpid(), n);
    PARE_TRY(parent_of(path, &parent));
    pare_status status = pare__join(parent, name, beside);
    free(parent);
    return status;
}

/* Creates an empty file of a name of its own beside path. */
static pare_status create_beside(const char *path, int *fd, char **name)
{
    for (int n = 0;; n++) { /* ends: each n that is taken is a file on the disk */
        PARE_TRY(name_beside(path, n, name));
        *fd = open(*name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (*fd >= 0)
            return PARE_OK;
        int error = errno;
        free(*name);
        *name = NULL;
        if (error != EEXIST || n == INT_MAX) {
            errno = error;
            return system_error(__func__, "create a file beside", path);
        }
    }
}

pare_status pare__file_save(const char *path, const void *bytes, int64_t size)
{
    pare_status status = PARE_OK;
    char *name = NULL;
    int fd = -1;
    PARE_TRY(create_beside(path, &fd, &name));
    PARE_TRY_DONE(pare__file_write(fd, path, bytes, size, 0));
    if (fsync(fd) != 0) /* before the rename: else a power cut can leave an empty file */
        PARE_TRY_DONE(system_error(__func__, "write", path));
    int closed = close(fd);
    fd = -1;
    if (closed != 0)
        PARE_TRY_DONE(system_error(__func__, "write", path));
    if (rename(name, path) != 0)
        PARE_TRY_DONE(system_error(__func__, "replace", path));
    free(name);
    name = NULL;
    PARE_TRY_DONE(pare__sync_parent(path));
done:
    if (fd >= 0)
        close(fd);
    if (name != NULL)
        unlink(name);
    free(name);
    return status;
}

bool pare__exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

bool pare__is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

pare_status pare__make_directory(const char *path)
{
    pare_status status = PARE_OK;
    char *part = NULL;
    PARE_REQUIRE(*path != '\0', PARE_ERR_ARGUMENT, "a folder needs a name");
    PARE_TRY(pare__strdup(path, &part));
    for (char *end = part; *end != '\0';) {
        end += strspn(end, "/");
        end += strcspn(end, "/");
        char kept = *end;
        *end = '\0';
        int error = mkdir(part, 0777) == 0 ? 0 : errno;
        if (error != 0 && !pare__is_directory(part)) {
            if (error == EEXIST)
                PARE_TRY_DONE(pare__error(PARE_ERR_EXISTS, __func__,
                                          "cannot create the folder '%s': '%s' is no folder", path,
                                          part));
            errno = error;
            PARE_TRY_DONE(system_error(__func__, "create the folder", part));
        }
        *end = kept;
    }
done:
    free(part);
    return status;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *at)
{
    (void)info;
    (void)kind;
    (void)at;
    if (remove(path) == 0 || errno == ENOENT)
        return 0;
    return (int)system_error(__func__, "remove", path);
}

pare_status pare__remove_tree(const char *path)
{
    if (!pare__exists(path))
        return PARE_OK;
    int result = nftw(path, remove_one, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
    return result < 0 ? system_error(__func__, "remove", path) : (pare_status)result;
}

pare_status pare__sync_parent(const char *path)
{
    pare_status status = PARE_OK;
    char *parent = NULL;
    PARE_TRY(parent_of(path, &parent));
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        PARE_TRY_DONE(system_error(__func__, "open the folder", parent));
    if (fsync(fd) != 0 && errno != EINVAL) /* EINVAL: this file system has nothing to sync */
        PARE_TRY_DONE(system_error(__func__, "sync the folder", parent));
done:
    if (fd >= 0)
        close(fd);
    free(parent);
    return status;
}

static pare_status rename_error(const char *where, const char *from, const char *to)
{
    return pare__error(pare__errno_status(errno), where, "cannot rename '%s' to '%s': %s", from, to,
                       strerror(errno));
}

/* Whether this kernel and file system lack a flag of renameat2. */
static bool flag_unknown(int error)
{
    return error == EINVAL || error == ENOSYS || error == ENOTSUP;
}

/* `to` goes aside, `from` takes its place, the old one is removed; it comes back if `from` cannot
 * follow. */
static pare_status replace_aside(const char *from, const char *to)
{
    pare_status status = PARE_OK;
    char *aside = NULL;
    for (int n = 0; aside == NULL || pare__exists(aside); n++) {
        free(aside);
        aside = NULL;
        PARE_TRY(name_beside(to, n, &aside));
    }
    if (rename(to, aside) != 0)
        PARE_TRY_DONE(rename_error(__func__, to, aside));
    if (rename(from, to) != 0) {
        status = rename_error(__func__, from, to);
        if (rename(aside, to) != 0)
            status = pare__error(PARE_ERR_IO, __func__,
                                 "cannot rename '%s' to '%s'; what was there is now '%s'", from, to,
                                 aside);
        goto done;
    }
    PARE_TRY_DONE(pare__remove_tree(aside));
done:
    free(aside);
    return status;
}

static pare_status rename_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return PARE_OK;
    int error = errno;
    if (flag_unknown(error) && !pare__exists(to)) {
        if (rename(from, to) == 0)
            return PARE_OK;
        error = errno;
    }
    PARE_REQUIRE(!pare__exists(to), PARE_ERR_EXISTS,
                 "'%s' exists already: choose another name or overwrite it", to);
    errno = error;
    return rename_error(__func__, from, to);
}

pare_status pare__rename(const char *from, const char *to, bool replace)
{
    if (!replace)
        return rename_new(from, to);
    if (rename(from, to) == 0)
        return PARE_OK;
    /* only a file over a file and a folder over an empty one are replaced by rename itself */
    int error = errno;
    bool taken = error == EEXIST || error == ENOTEMPTY || error == EISDIR || error == ENOTDIR;
    if (!taken || !pare__exists(to)) {
        errno = error;
        return rename_error(__func__, from, to);
    }
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) == 0)
        return pare__remove_tree(from);
    if (!flag_unknown(errno))
        return rename_error(__func__, from, to);
    return replace_aside(from, to);
}

pare_status pare__join(const char *dir, const char *name, char **path)
{
    size_t length = strlen(dir), size = strlen(name) + 1;
    size_t slash = length > 0 && dir[length - 1] != '/';
    PARE_TRY(pare__calloc(length + slash + size, 1, path));
    memcpy(*path, dir, length);
    if (slash)
        (*path)[length] = '/';
    memcpy(*path + length + slash, name, size);
    return PARE_OK;
}

bool pare__same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

pare_status pare__lock_take(const char *path, int *lock)
{
    for (;;) {
        struct stat info;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        PARE_REQUIRE(fd >= 0, pare__errno_status(errno), "cannot write '%s': %s", path,
                     strerror(errno));
        if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
            close(fd);
            PARE_FAIL(PARE_ERR_EXISTS,
                      "another process works on the same output (it holds %s): wait, or choose "
                      "another output",
                      path);
        }
        *lock = fd;
        if (fstat(fd, &info) == 0 && info.st_nlink > 0)
            return PARE_OK;
        close(fd); /* its holder removed it between our open and our lock */
    }
}

void pare__lock_drop(const char *path, int lock)
{
    if (lock < 0)
        return;
    unlink(path);
    close(lock);
}
