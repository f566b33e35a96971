/* file.h - whole reads and writes at offsets, durable renames. Errors name the file. */
#ifndef PARE_BASE_FILE_H
#define PARE_BASE_FILE_H

#include "pare/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Opens for reading; *size its size. PARE_ERR_NOT_FOUND, PARE_ERR_IO; a folder, pipe or device is
 * PARE_ERR_ARGUMENT. */
pare_status pare__file_open(const char *path, int *fd, int64_t *size);

/* Exactly size bytes at offset, repeated over short reads and EINTR; an end of file before is
 * PARE_ERR_DAMAGED. */
pare_status pare__file_read(int fd, const char *path, void *bytes, int64_t size, int64_t offset);
/* Likewise; ENOSPC and EDQUOT are PARE_ERR_FULL with what to do. */
pare_status pare__file_write(int fd, const char *path, const void *bytes, int64_t size,
                             int64_t offset);

/* Reserves room on the disk for the first size bytes of a file, so that a disk too small is known
 * before the work (PARE_ERR_FULL with how much it takes) and pages are written faster. A
 * file system that cannot reserve is fine. */
pare_status pare__file_reserve(int fd, const char *path, int64_t size);

/* A whole small file (at most limit bytes, else PARE_ERR_DAMAGED) with a NUL after it; caller
 * frees. */
pare_status pare__file_load(const char *path, int64_t limit, char **bytes, int64_t *size);
/* Creates or replaces a file through a temporary name and rename. */
pare_status pare__file_save(const char *path, const void *bytes, int64_t size);

bool pare__exists(const char *path); /* a link counts, wherever it leads */
bool pare__is_directory(const char *path);
bool pare__same_file(const char *a, const char *b); /* both there, and one and the same */
pare_status pare__make_directory(const char *path); /* and its parents; existing is fine */
/* A file, a link, or a folder with all in it; absent is fine. */
pare_status pare__remove_tree(const char *path);
pare_status pare__sync_parent(const char *path); /* fsync of the folder that holds path */
/* rename; if replace is off and `to` exists: PARE_ERR_EXISTS. Replaces folders too; where that
 * fails, `to` is still what it was. */
pare_status pare__rename(const char *from, const char *to, bool replace);
/* Makes and locks a file; PARE_ERR_EXISTS if another process holds it. The lock ends with the
 * process; pare__lock_drop (-1 is fine) ends it before and removes the file. */
pare_status pare__lock_take(const char *path, int *lock);
void pare__lock_drop(const char *path, int lock);

/* "dir/name" as a new string. */
pare_status pare__join(const char *dir, const char *name, char **path);

/* Calls visit(user, relative path, size) for every regular file below dir, in byte order of the
 * path. Links to files count as files, links to folders are not entered; folders and files that
 * begin with '.' are left out. A failure stops it. */
pare_status pare__walk(const char *dir,
                       pare_status (*visit)(void *user, const char *name, int64_t size),
                       void *user);

#endif
