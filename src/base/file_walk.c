/* file_walk.c - visits the files below a folder in one order, whatever the disk's.
 *
 * Folders wait in a list instead of on the stack, so a deep tree costs memory only. Links to files
 * are followed wherever they lead (model caches keep a checkpoint's files as links to blobs); links
 * to folders are not entered, so there is no loop. */
#include "base/file.h"
#include "base/alloc.h"
#include "base/check.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

struct entry {
    char *name; /* relative to the walked folder; "" is itself */
    int64_t size;
};

struct list {
    struct entry *items;
    size_t count, capacity;
};

struct walk {
    const char *dir;
    struct list files, folders;
};

static void list_free(struct list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->items[i].name);
    free(list->items);
}

/* Takes name over. */
static pare_status list_add(struct list *list, char *name, int64_t size)
{
    pare_status status =
        pare__grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items);
    if (status != PARE_OK)
        free(name);
    else
        list->items[list->count++] = (struct entry){name, size};
    return status;
}

static pare_status walk_error(const char *where, const char *path)
{
    return pare__error(pare__errno_status(errno), where, "cannot list '%s': %s", path,
                       strerror(errno));
}

/* Puts what is at name, if it is a folder or a file to visit, in its list. Takes name over. */
static pare_status look_at(struct walk *walk, char *name)
{
    char *path = NULL;
    struct stat info;
    pare_status status = pare__join(walk->dir, name, &path);
    if (status != PARE_OK) {
        free(name);
        return status;
    }
    struct list *list = NULL;
    if (lstat(path, &info) != 0)
        status = errno == ENOENT ? PARE_OK
                                 : walk_error(__func__, path); /* removed meanwhile: not there */
    else if (S_ISDIR(info.st_mode))
        list = &walk->folders;
    else if (S_ISREG(info.st_mode) ||
             (S_ISLNK(info.st_mode) && stat(path, &info) == 0 && S_ISREG(info.st_mode)))
        list = &walk->files;
    free(path);
    if (list != NULL)
        return list_add(list, name, info.st_size);
    free(name);
    return status;
}

static pare_status list_folder(struct walk *walk, const char *folder)
{
    pare_status status = PARE_OK;
    char *path = NULL;
    DIR *stream = NULL;
    PARE_TRY(pare__join(walk->dir, folder, &path));
    stream = opendir(path);
    if (stream == NULL)
        PARE_TRY_DONE(walk_error(__func__, path));
    while (true) {
        errno = 0;
        const struct dirent *found = readdir(stream);
        if (found == NULL && errno != 0)
            PARE_TRY_DONE(walk_error(__func__, path));
        if (found == NULL)
            break;
        if (found->d_name[0] == '.')
            continue;
        char *name = NULL;
        PARE_TRY_DONE(pare__join(folder, found->d_name, &name));
        PARE_TRY_DONE(look_at(walk, name));
    }
done:
    if (stream != NULL)
        closedir(stream);
    free(path);
    return status;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

pare_status pare__walk(const char *dir,
                       pare_status (*visit)(void *user, const char *name, int64_t size), void *user)
{
    pare_status status = PARE_OK;
    struct walk walk = {.dir = dir};
    PARE_TRY_DONE(list_folder(&walk, ""));
    while (walk.folders.count > 0) {
        char *folder = walk.folders.items[--walk.folders.count].name;
        status = list_folder(&walk, folder);
        free(folder);
        PARE_TRY_DONE(status);
    }
    if (walk.files.count > 0)
        qsort(walk.files.items, walk.files.count, sizeof *walk.files.items, by_name);
    for (size_t i = 0; i < walk.files.count; i++)
        PARE_TRY_DONE(visit(user, walk.files.items[i].name, walk.files.items[i].size));
done:
    list_free(&walk.folders);
    list_free(&walk.files);
    return status;
}
