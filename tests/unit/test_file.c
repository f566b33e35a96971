/* test_file.c - reads, writes, renames and walks where the file system does its worst.
 *
 * The system calls that fail only on a bad day (short and interrupted transfers, a kernel without
 * the newer rename, a second rename that fails) are answered here, in front of the C library. */
#include "test.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct {
    size_t most;        /* bytes that one transfer moves; 0: no limit */
    int interrupted;    /* transfers to interrupt first */
    bool old_kernel;    /* renameat2 knows no flags */
    int rename_to_fail; /* how many calls come before it; -1: none fails */
    int fsync_error;
} faults = {.rename_to_fail = -1};

static bool interrupt(size_t *size)
{
    if (faults.most > 0 && *size > faults.most)
        *size = faults.most;
    errno = EINTR;
    return faults.interrupted > 0 && faults.interrupted-- > 0;
}

ssize_t pread(int fd, void *bytes, size_t size, off_t offset)
{
    return interrupt(&size) ? -1 : syscall(SYS_pread64, fd, bytes, size, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    return interrupt(&size) ? -1 : syscall(SYS_pwrite64, fd, bytes, size, offset);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    if (faults.old_kernel && flags != 0) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
}

int rename(const char *from, const char *to)
{
    if (faults.rename_to_fail >= 0 && faults.rename_to_fail-- == 0) {
        errno = EIO;
        return -1;
    }
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int fsync(int fd)
{
    if (faults.fsync_error != 0) {
        errno = faults.fsync_error;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

/* ---- a fresh folder a test, made the current one so that names stay short ---- */

static char *folder;

static int enter(void **state)
{
    (void)state;
    folder = test_folder_make();
    return chdir(folder);
}

static int leave(void **state)
{
    (void)state;
    memset(&faults, 0, sizeof faults);
    faults.rename_to_fail = -1;
    if (chdir("/") != 0)
        return -1;
    test_folder_remove(folder);
    return 0;
}

static void put(const char *path, const char *text)
{
    assert_ok(pare__file_save(path, text, (int64_t)strlen(text)));
}

static void holds(const char *path, const char *text)
{
    char *bytes;
    int64_t size;
    assert_ok(pare__file_load(path, 1000, &bytes, &size));
    assert_string_equal(bytes, text);
    assert_int_equal(size, strlen(text));
    free(bytes);
}

static void make(const char *path)
{
    assert_ok(pare__make_directory(path));
}

static pare_status count_file(void *user, const char *name, int64_t size)
{
    (void)name;
    (void)size;
    ++*(int *)user;
    return PARE_OK;
}

static int entries_left(void) /* hidden ones too, which the walk passes over */
{
    FILE *pipe = popen("ls -A | wc -l", "r");
    int count = -1;
    assert_non_null(pipe);
    assert_int_equal(fscanf(pipe, "%d", &count), 1);
    pclose(pipe);
    return count;
}

/* ---- reading and writing ---- */

static void a_file_is_written_and_read_over_short_and_interrupted_transfers(void **state)
{
    (void)state;
    char in[1000], out[1000] = {0};
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (char)(i * 7);
    for (size_t most = 1; most < 1200; most = most * 2 + 1) {
        faults.most = most;
        faults.interrupted = 3;
        int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0666);
        assert_true(fd >= 0);
        assert_ok(pare__file_write(fd, "f", in, 1000, 5));
        faults.interrupted = 3;
        assert_ok(pare__file_read(fd, "f", out, 1000, 5));
        assert_memory_equal(in, out, 1000);
        close(fd);
    }
}

static void a_read_past_the_end_is_damage_and_says_where(void **state)
{
    (void)state;
    char bytes[16];
    int fd;
    int64_t size;
    put("short", "0123456789");
    assert_ok(pare__file_open("short", &fd, &size));
    assert_int_equal(size, 10);
    assert_ok(pare__file_read(fd, "short", bytes, 10, 0));
    assert_ok(pare__file_read(fd, "short", bytes, 0, 50));
    assert_status(pare__file_read(fd, "short", bytes, 11, 0), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "'short' ends at byte 10"));
    assert_status(pare__file_read(fd, "short", bytes, -1, 0), PARE_ERR_DAMAGED);
    assert_status(pare__file_read(fd, "short", bytes, 1, -1), PARE_ERR_DAMAGED);
    assert_status(pare__file_read(fd, "short", bytes, 16, INT64_MAX), PARE_ERR_DAMAGED);
    close(fd);
    assert_status(pare__file_read(fd, "short", bytes, 1, 0), PARE_ERR_IO);
}

static void what_is_no_regular_file_is_refused_without_waiting(void **state)
{
    (void)state;
    int fd = 7;
    int64_t size;
    char *bytes;
    make("dir");
    assert_int_equal(mkfifo("pipe", 0666), 0);
    assert_status(pare__file_open("dir", &fd, &size), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "'dir' is a folder"));
    assert_int_equal(fd, -1);
    assert_status(pare__file_open("pipe", &fd, &size), PARE_ERR_ARGUMENT);
    assert_status(pare__file_open("/dev/zero", &fd, &size), PARE_ERR_ARGUMENT);
    assert_status(pare__file_open("absent", &fd, &size), PARE_ERR_NOT_FOUND);
    assert_status(pare__file_open("", &fd, &size), PARE_ERR_NOT_FOUND);
    put("file", "x");
    assert_status(pare__file_open("file/below", &fd, &size), PARE_ERR_IO);
    assert_int_equal(symlink("loop", "loop"), 0);
    assert_status(pare__file_open("loop", &fd, &size), PARE_ERR_IO);
    assert_status(pare__file_load("dir", 100, &bytes, &size), PARE_ERR_ARGUMENT);
    assert_null(bytes);
}

static void a_full_disk_says_what_to_do(void **state)
{
    (void)state;
    int fd = open("/dev/full", O_WRONLY);
    if (fd < 0)
        skip();
    assert_status(pare__file_write(fd, "out.h5", "abc", 3, 0), PARE_ERR_FULL);
    assert_non_null(strstr(pare_last_error(), "out.h5"));
    assert_non_null(strstr(pare_last_error(), "free some space"));
    assert_status(pare__file_write(fd, "out.h5", "abc", -3, 0), PARE_ERR_ARGUMENT);
    assert_status(pare__file_write(fd, "out.h5", "abc", 3, INT64_MAX - 1), PARE_ERR_ARGUMENT);
    close(fd);
    assert_status(pare__file_write(fd, "out.h5", "abc", 3, 0), PARE_ERR_IO);
}

static void load_is_bounded_and_terminated(void **state)
{
    (void)state;
    char *bytes;
    int64_t size;
    put("ten", "0123456789");
    holds("ten", "0123456789");
    assert_ok(pare__file_load("ten", 10, &bytes, &size));
    free(bytes);
    assert_status(pare__file_load("ten", 9, &bytes, &size), PARE_ERR_DAMAGED);
    assert_null(bytes);
    put("ten", "");
    holds("ten", "");
}

static void save_replaces_whole_or_not_at_all(void **state)
{
    (void)state;
    put("f", "old");
    put("f", "new and longer");
    holds("f", "new and longer");
    assert_int_equal(entries_left(), 1);
    faults.rename_to_fail = 0;
    assert_status(pare__file_save("f", "x", 1), PARE_ERR_IO);
    faults.fsync_error = ENOSPC;
    assert_status(pare__file_save("f", "x", 1), PARE_ERR_FULL);
    faults.fsync_error = 0;
    holds("f", "new and longer");
    assert_int_equal(entries_left(), 1);
    assert_status(pare__file_save("no/such/folder", "x", 1), PARE_ERR_NOT_FOUND);
    make("dir");
    assert_status(pare__file_save("dir", "x", 1), PARE_ERR_IO);
    assert_int_equal(entries_left(), 2);
}

static void a_file_system_that_cannot_sync_folders_is_fine(void **state)
{
    (void)state;
    faults.fsync_error = EINVAL;
    assert_ok(pare__sync_parent("x"));
    faults.fsync_error = EIO;
    assert_status(pare__sync_parent("x"), PARE_ERR_IO);
    faults.fsync_error = 0;
    assert_ok(pare__sync_parent("/"));
    assert_ok(pare__sync_parent("/x"));
    make("a/b");
    assert_ok(pare__sync_parent("a/b//"));
    assert_status(pare__sync_parent("a/c/d"), PARE_ERR_NOT_FOUND);
}

/* ---- folders ---- */

static void folders_are_made_with_their_parents(void **state)
{
    (void)state;
    make("a/b//c/");
    make("a/b/c");
    make(".");
    make("/");
    assert_true(pare__is_directory("a/b/c"));
    put("a/file", "x");
    assert_status(pare__make_directory("a/file"), PARE_ERR_EXISTS);
    assert_status(pare__make_directory("a/file/below"), PARE_ERR_EXISTS);
    assert_status(pare__make_directory(""), PARE_ERR_ARGUMENT);
    assert_int_equal(symlink("nowhere", "dangling"), 0);
    assert_status(pare__make_directory("dangling"), PARE_ERR_EXISTS);
    assert_int_equal(symlink("a/b", "link"), 0);
    make("link/d");
    assert_true(pare__is_directory("a/b/d"));
    assert_true(pare__exists("dangling"));
    assert_false(pare__is_directory("dangling"));
    assert_false(pare__exists("absent"));
}

static void removing_a_tree_does_not_follow_links(void **state)
{
    (void)state;
    make("keep");
    put("keep/precious", "x");
    make("tree/a/b");
    put("tree/a/b/f", "x");
    put("tree/.hidden", "x");
    assert_int_equal(symlink("../keep", "tree/link"), 0);
    assert_int_equal(symlink("../../tree", "tree/a/loop"), 0);
    assert_ok(pare__remove_tree("tree"));
    assert_false(pare__exists("tree"));
    holds("keep/precious", "x");
    assert_ok(pare__remove_tree("tree"));
    assert_ok(pare__remove_tree("keep/precious"));
    assert_false(pare__exists("keep/precious"));
}

static void join_puts_one_slash(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}, {"a", "", "a/"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *path;
        assert_ok(pare__join(rows[i][0], rows[i][1], &path));
        assert_string_equal(path, rows[i][2]);
        free(path);
    }
}

/* ---- renames ---- */

static void rename_refuses_to_replace_unless_asked(void **state)
{
    (void)state;
    for (int old = 0; old < 2; old++) {
        faults.old_kernel = old;
        put("from", "new");
        put("to", "old");
        assert_status(pare__rename("from", "to", false), PARE_ERR_EXISTS);
        holds("to", "old");
        make("dir");
        assert_status(pare__rename("from", "dir", false), PARE_ERR_EXISTS);
        assert_ok(pare__rename("from", "fresh", false));
        holds("fresh", "new");
        assert_status(pare__rename("absent", "other", false), PARE_ERR_NOT_FOUND);
        assert_status(pare__rename("absent", "other", true), PARE_ERR_NOT_FOUND);
        assert_status(pare__rename("fresh", "no/folder", false), PARE_ERR_NOT_FOUND);
        assert_status(pare__rename("fresh", "to/below", true), PARE_ERR_IO);
        assert_ok(pare__rename("fresh", "to", true));
        holds("to", "new");
    }
}

static void rename_replaces_a_folder_a_file_and_a_link(void **state)
{
    (void)state;
    for (int old = 0; old < 2; old++) {
        faults.old_kernel = old;
        make("to/sub");
        put("to/sub/f", "old");
        make("from");
        put("from/g", "new");
        assert_ok(pare__rename("from", "to", true)); /* folder over folder */
        holds("to/g", "new");
        assert_false(pare__exists("to/sub"));
        put("file", "plain");
        assert_ok(pare__rename("file", "to", true)); /* file over folder */
        holds("to", "plain");
        make("from");
        put("from/g", "again");
        assert_ok(pare__rename("from", "to", true));
        holds("to/g", "again"); /* folder over file */
        make("keep");
        put("keep/f", "kept");
        assert_int_equal(symlink("keep", "link"), 0);
        assert_ok(pare__rename("to", "link", true)); /* folder over a link: the link goes */
        holds("link/g", "again");
        holds("keep/f", "kept");
        assert_int_equal(entries_left(), 2);
        assert_ok(pare__remove_tree("link"));
        assert_ok(pare__remove_tree("keep"));
    }
}

static void a_folder_is_never_lost_whichever_rename_fails(void **state)
{
    (void)state;
    faults.old_kernel = true;
    make("to");
    put("to/f", "old");
    make("from");
    put("from/f", "new");
    put(".pare-1-0.tmp", "someone else's");
    for (int n = 0; n < 3; n++) { /* the direct one, `to` aside, `from` into its place */
        faults.rename_to_fail = n;
        assert_status(pare__rename("from", "to", true), PARE_ERR_IO);
        assert_int_equal(faults.rename_to_fail, -1); /* it did happen */
        holds("to/f", "old");
        holds("from/f", "new");
        assert_int_equal(entries_left(), 3);
    }
    make("to/inside/x");
    assert_true(pare__rename("to/inside", "to", true) !=
                PARE_OK); /* it would replace its own parent */
    holds("to/f", "old");
    assert_true(pare__exists("to/inside/x"));
    faults.old_kernel = false;
    assert_true(pare__rename("to/inside", "to", true) != PARE_OK);
    assert_true(pare__rename("to", "to/inside/x", true) != PARE_OK);
    holds("to/f", "old");
    assert_true(pare__exists("to/inside/x"));
}

/* ---- walking ---- */

struct seen {
    char names[500];
    int64_t bytes;
    int stop_after;
};

static pare_status note(void *user, const char *name, int64_t size)
{
    struct seen *seen = user;
    strcat(strcat(seen->names, name), " ");
    seen->bytes += size;
    return --seen->stop_after == 0 ? PARE_ERR_INTERRUPTED : PARE_OK;
}

static void a_walk_visits_files_in_byte_order_of_the_path(void **state)
{
    (void)state;
    make("w/a/deep");
    make("w/empty");
    make("w/.git");
    put("w/a/deep/z", "12345");
    put("w/a/x", "1");
    put("w/a-b", "22"); /* '-' comes before '/' */
    put("w/a0", "333"); /* and '0' behind it */
    put("w/B", "");
    put("w/.hidden", "no");
    put("w/.git/config", "no");
    assert_int_equal(mkfifo("w/pipe", 0666), 0);
    struct seen seen = {{0}, 0, 0};
    assert_ok(pare__walk("w", note, &seen));
    assert_string_equal(seen.names, "B a-b a/deep/z a/x a0 ");
    assert_int_equal(seen.bytes, 11);
    seen = (struct seen){{0}, 0, 2};
    assert_int_equal(pare__walk("w/", note, &seen), PARE_ERR_INTERRUPTED);
    assert_string_equal(seen.names, "B a-b ");
    assert_status(pare__walk("absent", note, &seen), PARE_ERR_NOT_FOUND);
    assert_status(pare__walk("w/B", note, &seen), PARE_ERR_IO);
}

static void a_walk_follows_links_to_files_only_and_ends(void **state)
{
    (void)state;
    make("outside");
    put("outside/blob", "x");
    make("out");
    make("out/sub");
    put("out/sub/f", "four");
    assert_int_equal(symlink("sub/f", "out/inner"), 0);
    assert_int_equal(symlink("../outside/blob", "out/cached"), 0); /* as model caches do */
    assert_int_equal(symlink("../outside", "out/leakdir"), 0);
    assert_int_equal(symlink(".", "out/self"), 0);
    assert_int_equal(symlink("..", "out/sub/up"), 0);
    assert_int_equal(symlink("loop", "out/loop"), 0);
    assert_int_equal(symlink("nowhere", "out/dangling"), 0);
    assert_int_equal(symlink("out", "entry"), 0);
    struct seen seen = {{0}, 0, 0};
    assert_ok(pare__walk("entry", note, &seen)); /* the folder itself may be given by a link */
    assert_string_equal(seen.names, "cached inner sub/f ");
    assert_int_equal(seen.bytes, 9);
}

static void a_deep_tree_costs_no_stack_and_no_descriptors(void **state)
{
    (void)state;
    char path[1600] = "d";
    for (size_t i = 0; i < 700; i++)
        strcpy(path + 1 + 2 * i, "/d");
    make(path);
    strcat(path, "/f");
    put(path, "x");
    int count = 0;
    assert_ok(pare__walk(".", count_file, &count));
    assert_int_equal(count, 1);
    assert_ok(pare__remove_tree("d"));
    assert_int_equal(entries_left(), 0);
}

static void a_lock_is_held_by_one_and_leaves_nothing(void **state)
{
    (void)state;
    int first = -1, second = -1;
    assert_ok(pare__lock_take("lock", &first));
    assert_status(pare__lock_take("lock", &second), PARE_ERR_EXISTS);
    assert_int_equal(second, -1);
    assert_true(pare__same_file("lock", "./lock"));
    assert_false(pare__same_file("lock", "."));
    pare__lock_drop("lock", first);
    assert_false(pare__exists("lock"));
    assert_false(pare__same_file("lock", "lock"));
    assert_ok(pare__lock_take("lock", &second));
    pare__lock_drop("lock", second);
    pare__lock_drop("lock", -1);
    assert_status(pare__lock_take("no/such/folder/lock", &second), PARE_ERR_NOT_FOUND);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, enter, leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(a_file_is_written_and_read_over_short_and_interrupted_transfers),
        IN_FOLDER(a_read_past_the_end_is_damage_and_says_where),
        IN_FOLDER(what_is_no_regular_file_is_refused_without_waiting),
        IN_FOLDER(a_full_disk_says_what_to_do),
        IN_FOLDER(load_is_bounded_and_terminated),
        IN_FOLDER(save_replaces_whole_or_not_at_all),
        IN_FOLDER(a_file_system_that_cannot_sync_folders_is_fine),
        IN_FOLDER(folders_are_made_with_their_parents),
        IN_FOLDER(removing_a_tree_does_not_follow_links),
        IN_FOLDER(join_puts_one_slash),
        IN_FOLDER(rename_refuses_to_replace_unless_asked),
        IN_FOLDER(rename_replaces_a_folder_a_file_and_a_link),
        IN_FOLDER(a_folder_is_never_lost_whichever_rename_fails),
        IN_FOLDER(a_walk_visits_files_in_byte_order_of_the_path),
        IN_FOLDER(a_walk_follows_links_to_files_only_and_ends),
        IN_FOLDER(a_lock_is_held_by_one_and_leaves_nothing),
        IN_FOLDER(a_deep_tree_costs_no_stack_and_no_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
