/* test_faults.c - the n-th read, write, sync, rename or allocation of a run fails, for every n: a
 * clean status, no output under the final name, nothing lost: the same command then ends with the
 * bytes of a run that met no fault. */
#include "test.h"

#include "run_fixture.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CALL_READ, CALL_WRITE, CALL_SYNC, CALL_TRUNCATE, CALL_MALLOC, CALLS };
static volatile int armed = -1; /* which call fails next */
static volatile long left;      /* calls of it before that */

/* Whether this call is the one that fails. */
static int hit(int call)
{
    if (armed != call || left-- > 0)
        return 0;
    armed = -1;
    return 1;
}

/* What the library calls comes here first: the program's own definitions win over the C library's.
 */
ssize_t pread(int fd, void *bytes, size_t size, off_t offset)
{
    if (hit(CALL_READ)) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_pread64, fd, bytes, size, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    if (hit(CALL_WRITE)) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, bytes, size, offset);
}

int fdatasync(int fd)
{
    if (hit(CALL_SYNC)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

int ftruncate(int fd, off_t size)
{
    if (hit(CALL_TRUNCATE)) {
        errno = ENOSPC;
        return -1;
    }
    return (int)syscall(SYS_ftruncate, fd, size);
}

int fallocate(int fd, int mode, off_t offset, off_t size)
{
    if (hit(CALL_TRUNCATE)) {
        errno = ENOSPC;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, size);
}

#if !SANITIZED
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);

static int refused(void)
{
    if (!hit(CALL_MALLOC))
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return refused() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return refused() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    return refused() ? NULL : __libc_realloc(memory, size);
}
#endif

static const char steps[] = "  - prune: {sparsity: 0.5}\n  - quantize: {scheme: w4g64}\n";

static void load(const char *path, char **bytes, int64_t *size)
{
    assert_ok(pare__file_load(path, 1 << 26, bytes, size));
}

/* Fails call number 0, 1, 2 … of a kind until a run has no more of them. */
static void fail_every(fixture *f, int call, const char *out)
{
    char *want = NULL, *got = NULL;
    int64_t want_size, got_size;
    free(f->out);
    assert_ok(pare__join(f->folder, out, &f->out));
    use(f, steps);
    f->options.threads = 1;
    assert_ok(run(f));
    load(f->out, &want, &want_size);
    for (long n = 0;; n++) {
        assert_int_equal(unlink(f->out), 0);
        left = n;
        armed = call;
        pare_status status = run(f);
        bool struck = armed < 0;
        armed = -1;
        if (status != PARE_OK) {
            assert_true(pare_last_error()[0] != '\0');
            if (status != PARE_ERR_IO && status != PARE_ERR_FULL && status != PARE_ERR_MEMORY)
                fail_msg("fault %ld: %s: %s (%s)", n, pare_status_name(status), pare_last_error(),
                         pare_last_trail());
            if (!pare__exists(f->out)) /* a fault after the rename leaves a whole output */
                assert_ok(run(f));
        }
        load(f->out, &got, &got_size);
        assert_int_equal(got_size, want_size);
        assert_memory_equal(got, want, (size_t)want_size);
        free(got);
        if (!struck) {
            assert_true(n > 0);
            break;
        }
    }
    free(want);
}

static void every_read_may_fail(void **state)
{
    fixture *f = *state;
    write_source(f->source, PARE_BF16, false);
    fail_every(f, CALL_READ, "x.safetensors");
    fail_every(f, CALL_READ, "x.h5");
}

static void every_write_may_fail(void **state)
{
    fixture *f = *state;
    write_source(f->source, PARE_BF16, false);
    fail_every(f, CALL_WRITE, "x.safetensors");
    fail_every(f, CALL_WRITE, "x.h5");
}

static void every_sync_may_fail(void **state)
{
    fixture *f = *state;
    write_source(f->source, PARE_BF16, false);
    f->options.sync = true;
    fail_every(f, CALL_SYNC, "x.safetensors");
    fail_every(f, CALL_SYNC, "x.h5");
}

static void every_truncation_may_fail(void **state)
{
    fixture *f = *state;
    write_source(f->source, PARE_BF16, false);
    fail_every(f, CALL_TRUNCATE, "x.safetensors");
    fail_every(f, CALL_TRUNCATE, "x.h5");
}

static void every_allocation_may_fail(void **state)
{
    fixture *f = *state;
    if (SANITIZED)
        skip();
    write_source(f->source, PARE_BF16, false);
    fail_every(f, CALL_MALLOC, "x.safetensors");
}

int main(void)
{
#define ONE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ONE(every_read_may_fail),       ONE(every_write_may_fail),      ONE(every_sync_may_fail),
        ONE(every_truncation_may_fail), ONE(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
