/* test_site_cache.c - statistics that are kept between runs. */
#include "calib_fixture.h"
#include "far_backend.h"

#include "base/file.h"

#include <fcntl.h>
#include <unistd.h>

static pare_backend *be;

static int open_cpu(void **unused)
{
    (void)unused;
    assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 2}, &be));
    return 0;
}

static int close_cpu(void **unused)
{
    (void)unused;
    pare_backend_free(&be);
    return 0;
}

enum { ALL = PARE_STAT_COLUMNS | PARE_STAT_GRAM | PARE_STAT_HISTOGRAM, K = 300, N = 150 };

static pare_site_stats *some_stats(pare_backend *where, float factor)
{
    float *x = calloc(N * K, sizeof *x);
    for (int i = 0; i < N * K; i++)
        x[i] = factor * (float)((i * 7919) % 1001 - 500) / 100;
    pare_site_stats *stats = calib_stats(where, ALL, x, N, K);
    free(x);
    return stats;
}

static void assert_same(pare_backend *a_be, const pare_site_stats *a, pare_backend *b_be,
                        const pare_site_stats *b)
{
    const pare_tensor *left[] = {&a->absmax, &a->sum, &a->squares, &a->gram, &a->bins};
    const pare_tensor *right[] = {&b->absmax, &b->sum, &b->squares, &b->gram, &b->bins};
    assert_int_equal(a->rows, b->rows);
    assert_true(a->width == b->width && a->finished && b->finished);
    for (int t = 0; t < 5; t++) {
        void *l = calib_download(a_be, left[t]), *r = calib_download(b_be, right[t]);
        assert_memory_equal(
            l, r, (size_t)(pare_tensor_count(left[t]) * pare_dtype_bits(left[t]->dtype) / 8));
        free(l), free(r);
    }
}

typedef struct home {
    char *folder, *path;
    pare_site_cache *cache;
} home;

static home open_home(const char *key)
{
    home h = {.folder = test_folder_make()};
    assert_ok(pare__join(h.folder, "cache", &h.path));
    assert_ok(pare_site_cache_open(h.path, key, &h.cache));
    return h;
}

static void close_home(home *h)
{
    pare_site_cache_close(&h->cache);
    free(h->path);
    test_folder_remove(h->folder);
}

static bool find(home *h, pare_backend *where, const char *site, pare_site_stats *stats)
{
    bool found = true;
    assert_ok(pare_site_cache_find(h->cache, where, site, stats, &found));
    return found;
}

static void what_was_added_is_found_byte_for_byte(void **unused)
{
    (void)unused;
    home h = open_home("model 1, data 2\nsecond line");
    pare_site_stats *stats = some_stats(be, 1), *back;
    assert_ok(pare_site_stats_create(be, ALL, K, &back));
    assert_false(find(&h, be, "model.layers.0/q", back));
    assert_ok(pare_site_cache_add(h.cache, be, "model.layers.0/q", stats));
    assert_false(find(&h, be, "model.layers.1/q", back));
    pare_site_cache_close(&h.cache);
    assert_ok(pare_site_cache_open(h.path, "model 1, data 2\nsecond line", &h.cache));
    assert_true(find(&h, be, "model.layers.0/q", back));
    assert_same(be, stats, be, back);
    pare_site_stats_free(be, &back);
    pare_site_stats_free(be, &stats);
    close_home(&h);
}

static void a_site_may_be_added_again(void **unused)
{
    (void)unused;
    home h = open_home("key");
    pare_site_stats *first = some_stats(be, 1), *second = some_stats(be, 3), *back;
    assert_ok(pare_site_stats_create(be, ALL, K, &back));
    assert_ok(pare_site_cache_add(h.cache, be, "site", first));
    assert_ok(pare_site_cache_add(h.cache, be, "site", second));
    assert_true(find(&h, be, "site", back));
    assert_same(be, second, be, back);
    pare_site_stats_free(be, &back);
    pare_site_stats_free(be, &second);
    pare_site_stats_free(be, &first);
    close_home(&h);
}

static void another_key_finds_nothing(void **unused)
{
    (void)unused;
    home h = open_home("key");
    pare_site_stats *stats = some_stats(be, 1), *back;
    assert_ok(pare_site_stats_create(be, ALL, K, &back));
    assert_ok(pare_site_cache_add(h.cache, be, "site", stats));
    const char *const others[] = {"", "ke", "key2", "key\nkinds 7"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        pare_site_cache_close(&h.cache);
        assert_ok(pare_site_cache_open(h.path, others[i], &h.cache));
        assert_false(find(&h, be, "site", back));
    }
    pare_site_stats_free(be, &back);
    pare_site_stats_free(be, &stats);
    close_home(&h);
}

static void fewer_kinds_are_found_and_more_are_not(void **unused)
{
    (void)unused;
    home h = open_home("key");
    float x[2 * K] = {1, 2, 3};
    pare_site_stats *columns = calib_stats(be, PARE_STAT_COLUMNS, x, 2, K);
    pare_site_stats *all = some_stats(be, 1), *want_all, *want_columns;
    assert_ok(pare_site_stats_create(be, ALL, K, &want_all));
    assert_ok(pare_site_stats_create(be, PARE_STAT_COLUMNS, K, &want_columns));
    assert_ok(pare_site_cache_add(h.cache, be, "site", columns));
    assert_false(find(&h, be, "site", want_all));
    assert_ok(pare_site_cache_add(h.cache, be, "site", all));
    assert_true(find(&h, be, "site", want_columns));
    assert_int_equal(want_columns->rows, N);
    pare_site_stats_free(be, &want_columns);
    pare_site_stats_free(be, &want_all);
    pare_site_stats_free(be, &all);
    pare_site_stats_free(be, &columns);
    close_home(&h);
}

static void statistics_of_another_width_are_damage(void **unused)
{
    (void)unused;
    home h = open_home("key");
    pare_site_stats *stats = some_stats(be, 1), *other;
    bool found;
    assert_ok(pare_site_stats_create(be, ALL, K + 1, &other));
    assert_ok(pare_site_cache_add(h.cache, be, "site", stats));
    assert_status(pare_site_cache_find(h.cache, be, "site", other, &found), PARE_ERR_DAMAGED);
    pare_site_stats_free(be, &other);
    pare_site_stats_free(be, &stats);
    close_home(&h);
}

/* One byte after the other of the file, some thousands apart, is turned around; then it is cut. */
static void a_damaged_file_is_named_and_may_be_replaced(void **unused)
{
    (void)unused;
    home h = open_home("key");
    pare_site_stats *stats = some_stats(be, 1), *back;
    char *path = NULL, *bytes = NULL;
    int64_t size = 0;
    bool found = true;
    assert_ok(pare_site_cache_add(h.cache, be, "site", stats));
    assert_ok(pare__join(h.path, "site.h5", &path));
    assert_ok(pare__file_load(path, INT64_C(1) << 30, &bytes, &size));
    for (int64_t at = 0; at <= size; at += 7001) {
        int64_t keep = at + 7001 > size ? size / 2 : size; /* the last time: cut */
        if (keep == size)
            bytes[at] = (char)~bytes[at];
        assert_ok(pare__file_save(path, bytes, keep));
        assert_ok(pare_site_stats_create(be, ALL, K, &back));
        assert_status(pare_site_cache_find(h.cache, be, "site", back, &found), PARE_ERR_DAMAGED);
        assert_non_null(strstr(pare_last_error(), "site.h5"));
        assert_false(found);
        pare_site_stats_free(be, &back);
        if (keep == size)
            bytes[at] = (char)~bytes[at];
    }
    assert_ok(pare_site_stats_create(be, ALL, K, &back));
    assert_ok(pare_site_cache_add(h.cache, be, "site", stats));
    assert_true(find(&h, be, "site", back));
    assert_same(be, stats, be, back);
    pare_site_stats_free(be, &back);
    pare_site_stats_free(be, &stats);
    free(bytes);
    free(path);
    close_home(&h);
}

static void what_a_killed_writer_left_is_in_nobodys_way(void **unused)
{
    (void)unused;
    home h = open_home("key");
    pare_site_stats *stats = some_stats(be, 1), *back;
    char *path = NULL;
    assert_ok(pare_site_stats_create(be, ALL, K, &back));
    assert_ok(pare__make_directory(h.path));
    assert_ok(pare__join(h.path, "site.h5.part", &path));
    assert_ok(pare__file_save(path, "half", 4));
    assert_false(find(&h, be, "site", back));
    assert_ok(pare_site_cache_add(h.cache, be, "site", stats));
    assert_true(find(&h, be, "site", back));
    assert_false(pare__exists(path));
    free(path);
    pare_site_stats_free(be, &back);
    pare_site_stats_free(be, &stats);
    close_home(&h);
}

static void far_memory_reads_what_the_cpu_wrote(void **unused)
{
    (void)unused;
    home h = open_home("key");
    pare_backend *far = far_backend_make(2);
    pare_site_stats *stats = some_stats(far, 1), *back, *there;
    assert_ok(pare_site_stats_create(be, ALL, K, &back));
    assert_ok(pare_site_stats_create(far, ALL, K, &there));
    assert_ok(pare_site_cache_add(h.cache, far, "site", stats));
    assert_true(find(&h, be, "site", back));
    assert_true(find(&h, far, "site", there));
    assert_same(far, stats, be, back);
    assert_same(far, stats, far, there);
    pare_site_stats_free(far, &there);
    pare_site_stats_free(be, &back);
    pare_site_stats_free(far, &stats);
    pare_backend_free(&far);
    close_home(&h);
}

static void a_file_is_no_cache(void **unused)
{
    (void)unused;
    home h = open_home("key");
    char *path = NULL;
    pare_site_cache *cache = NULL;
    assert_ok(pare__join(h.folder, "file", &path));
    assert_ok(pare__file_save(path, "x", 1));
    assert_status(pare_site_cache_open(path, "key", &cache), PARE_ERR_EXISTS);
    assert_status(pare_site_cache_open("", "key", &cache), PARE_ERR_ARGUMENT);
    free(path);
    close_home(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_added_is_found_byte_for_byte),
        cmocka_unit_test(a_site_may_be_added_again),
        cmocka_unit_test(another_key_finds_nothing),
        cmocka_unit_test(fewer_kinds_are_found_and_more_are_not),
        cmocka_unit_test(statistics_of_another_width_are_damage),
        cmocka_unit_test(a_damaged_file_is_named_and_may_be_replaced),
        cmocka_unit_test(what_a_killed_writer_left_is_in_nobodys_way),
        cmocka_unit_test(far_memory_reads_what_the_cpu_wrote),
        cmocka_unit_test(a_file_is_no_cache),
    };
    return cmocka_run_group_tests(tests, open_cpu, close_cpu);
}
