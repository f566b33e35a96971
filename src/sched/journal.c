/* journal.c - an append-only file of checked records.
 *
 * Layout, little-endian: 8 bytes magic, 16 bytes key; then records: u32 type, u32 size, u64 check,
 * payload. check is FNV-1a (64 bit) over type, size and payload, so that a torn tail is seen.
 * Nothing is ever rewritten but the tail after the last good record, which is cut off when the
 * journal is opened again.
 */
#include "pare/sched.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[8] = {'p', 'a', 'r', 'e', 'j', 'n', 'l', '1'};

typedef struct header {
    uint32_t type, size;
    uint64_t check;
} header;

struct pare_journal {
    int fd;
    char *path;
    int64_t end;
    pthread_mutex_t lock;
};

static uint64_t fnv(uint64_t hash, const void *bytes, size_t size)
{
    const unsigned char *b = bytes;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ b[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static uint64_t check_of(uint32_t type, uint32_t size, const void *payload)
{
    uint64_t hash = fnv(UINT64_C(0xcbf29ce484222325), &type, sizeof type);
    hash = fnv(hash, &size, sizeof size);
    return fnv(hash, payload, size);
}

/* Hands every good record to visit and finds where they end. */
static pare_status replay(pare_journal *journal, int64_t length, pare_journal_visit visit,
                          void *user)
{
    pare_status status = PARE_OK;
    char *payload = NULL;
    size_t capacity = 0;
    header h;
    journal->end = 24;
    while (journal->end + (int64_t)sizeof h <= length) {
        PARE_TRY_DONE(pare__file_read(journal->fd, journal->path, &h, sizeof h, journal->end));
        if ((int64_t)h.size > length - journal->end - (int64_t)sizeof h)
            break;
        PARE_TRY_DONE(pare__grow(&payload, &capacity, (size_t)h.size + 1, 1));
        PARE_TRY_DONE(pare__file_read(journal->fd, journal->path, payload, h.size,
                                      journal->end + (int64_t)sizeof h));
        if (check_of(h.type, h.size, payload) != h.check)
            break;
        PARE_TRY_DONE(visit(user, h.type, payload, h.size));
        journal->end += (int64_t)sizeof h + h.size;
    }
done:
    free(payload);
    return status;
}

/* Makes the file empty but for its head. */
static pare_status start(pare_journal *journal, const uint64_t key[2])
{
    char head[24];
    memcpy(head, magic, 8);
    memcpy(head + 8, key, 16);
    if (ftruncate(journal->fd, 0) != 0)
        PARE_FAIL(pare__errno_status(errno), "cannot empty %s: %s", journal->path, strerror(errno));
    PARE_TRY(pare__file_write(journal->fd, journal->path, head, sizeof head, 0));
    journal->end = sizeof head;
    return PARE_OK;
}

/* Reads what lies there: another key's journal is refused or discarded, a torn head counts as none.
 */
static pare_status resume(pare_journal *journal, const uint64_t key[2], bool discard,
                          pare_journal_visit visit, void *user, bool *resumed)
{
    char head[24];
    off_t length = lseek(journal->fd, 0, SEEK_END);
    if (length < (off_t)sizeof head)
        return start(journal, key);
    PARE_TRY(pare__file_read(journal->fd, journal->path, head, sizeof head, 0));
    bool same = memcmp(head, magic, 8) == 0 && memcmp(head + 8, key, 16) == 0;
    if (!same && discard)
        return start(journal, key);
    PARE_REQUIRE(same, PARE_ERR_EXISTS,
                 "%s belongs to an unfinished run of another command, source or version: finish "
                 "that one, or start anew "
                 "with --overwrite",
                 journal->path);
    PARE_TRY(replay(journal, length, visit, user));
    *resumed = true;
    if (ftruncate(journal->fd, journal->end) != 0)
        PARE_FAIL(pare__errno_status(errno), "cannot cut %s: %s", journal->path, strerror(errno));
    return PARE_OK;
}

/* Opens the file and locks it; one that its owner removed in between is nobody's, so again. */
static pare_status open_locked(pare_journal *journal)
{
    struct stat st = {0};
    while (st.st_nlink == 0) {
        if (journal->fd >= 0)
            close(journal->fd);
        journal->fd = open(journal->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (journal->fd < 0)
            PARE_FAIL(pare__errno_status(errno), "cannot write %s: %s", journal->path,
                      strerror(errno));
        PARE_REQUIRE(flock(journal->fd, LOCK_EX | LOCK_NB) == 0, PARE_ERR_EXISTS,
                     "%s is in use: another pare is writing this output", journal->path);
        PARE_REQUIRE(fstat(journal->fd, &st) == 0, pare__errno_status(errno),
                     "cannot look at %s: %s", journal->path, strerror(errno));
    }
    return PARE_OK;
}

pare_status pare_journal_open(const char *path, const uint64_t key[2], bool discard,
                              pare_journal_visit visit, void *user, bool *resumed,
                              pare_journal **out)
{
    pare_status status = PARE_OK;
    pare_journal *journal = NULL;
    PARE_REQUIRE(path && key && visit && resumed && out, PARE_ERR_ARGUMENT,
                 "journal: NULL argument");
    *resumed = false;
    PARE_TRY_DONE(pare__calloc(1, sizeof *journal, &journal));
    pthread_mutex_init(&journal->lock, NULL);
    journal->fd = -1;
    PARE_TRY_DONE(pare__strdup(path, &journal->path));
    PARE_TRY_DONE(open_locked(journal));
    PARE_TRY_DONE(resume(journal, key, discard, visit, user, resumed));
    *out = journal;
    journal = NULL;
done:
    pare_journal_close(&journal, false);
    return status;
}

pare_status pare_journal_add(pare_journal *journal, uint32_t type, const void *payload,
                             uint32_t size)
{
    header h = {.type = type, .size = size, .check = check_of(type, size, payload)};
    char small[512], *record = small;
    pare_status status = PARE_OK;
    if (sizeof h + size > sizeof small)
        PARE_TRY(pare__calloc(1, sizeof h + size, &record));
    memcpy(record, &h, sizeof h);
    if (size)
        memcpy(record + sizeof h, payload, size);
    pthread_mutex_lock(&journal->lock);
    status = pare__file_write(journal->fd, journal->path, record, (int64_t)(sizeof h + size),
                              journal->end);
    if (status == PARE_OK)
        journal->end += (int64_t)(sizeof h + size);
    pthread_mutex_unlock(&journal->lock);
    if (record != small)
        free(record);
    return status;
}

pare_status pare_journal_sync(pare_journal *journal)
{
    if (fdatasync(journal->fd) != 0)
        PARE_FAIL(pare__errno_status(errno), "cannot sync %s: %s", journal->path, strerror(errno));
    return PARE_OK;
}

void pare_journal_close(pare_journal **journal, bool remove_file)
{
    if (!journal || !*journal)
        return;
    pare_journal *j = *journal;
    *journal = NULL;
    if (remove_file && j->path) /* under the lock: the name may be another's right after it */
        unlink(j->path);
    if (j->fd >= 0)
        close(j->fd);
    pthread_mutex_destroy(&j->lock);
    free(j->path);
    free(j);
}
