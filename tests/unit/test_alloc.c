/* test_alloc.c - memory, whole pages and sizes that cannot overflow unseen; the clock besides. */
#include "test.h"

#include "base/alloc.h"
#include "base/clock.h"

static void calloc_gives_zeros_and_nothing_for_nothing(void **state)
{
    (void)state;
    int32_t *numbers = NULL;
    assert_ok(pare__calloc(1000, sizeof *numbers, &numbers));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(numbers[i], 0);
    free(numbers);
    numbers = (int32_t *)state;
    assert_ok(pare__calloc(0, sizeof *numbers, &numbers));
    assert_null(numbers);
}

static void a_product_that_overflows_is_no_memory(void **state)
{
    (void)state;
    char *bytes = (char *)state;
    assert_status(pare__calloc(SIZE_MAX / 2, 4, &bytes), PARE_ERR_MEMORY);
    assert_null(bytes);
}

static void grow_keeps_the_elements_and_grows_by_half(void **state)
{
    (void)state;
    int64_t *items = NULL;
    size_t capacity = 0, moves = 0;
    for (size_t i = 0; i < 10000; i++) {
        size_t before = capacity;
        assert_ok(pare__grow(&items, &capacity, i + 1, sizeof *items));
        assert_true(capacity > i);
        moves += capacity != before;
        items[i] = (int64_t)i;
    }
    for (size_t i = 0; i < 10000; i++)
        assert_int_equal(items[i], i);
    assert_true(moves < 25);
    free(items);
}

static void grow_that_fails_leaves_what_there_is(void **state)
{
    (void)state;
    int64_t *items = NULL;
    size_t capacity = 0;
    assert_ok(pare__grow(&items, &capacity, 3, sizeof *items));
    size_t before = capacity;
    const int64_t *there = items;
    assert_status(pare__grow(&items, &capacity, SIZE_MAX / 8 + 2, sizeof *items), PARE_ERR_MEMORY);
    assert_status(pare__grow(&items, &capacity, SIZE_MAX, sizeof *items), PARE_ERR_MEMORY);
    assert_ptr_equal(items, there);
    assert_int_equal(capacity, before);
    free(items);
}

static void strdup_copies_text_and_passes_null_on(void **state)
{
    (void)state;
    char *copy;
    assert_ok(pare__strdup("weight", &copy));
    assert_string_equal(copy, "weight");
    free(copy);
    assert_ok(pare__strdup(NULL, &copy));
    assert_null(copy);
}

static void pages_are_aligned_zero_and_whole(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 4095, 4096, 4097, 100003, ((size_t)4 << 20) + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *bytes = NULL;
        assert_ok(pare__pages(sizes[i], &bytes));
        assert_int_equal((uintptr_t)bytes % 64, 0);
        for (size_t j = 0; j < sizes[i]; j += 97)
            assert_int_equal(bytes[j], 0);
        memset(bytes, 0xff, (sizes[i] + 4095) / 4096 * 4096);
        pare__pages_free(bytes, sizes[i]);
    }
    void *nothing = state;
    assert_ok(pare__pages(0, &nothing));
    assert_null(nothing);
    pare__pages_free(NULL, 4096);
    pare__pages_free(NULL, 0);
}

static void pages_that_cannot_be_are_no_memory(void **state)
{
    (void)state;
    void *bytes = state;
    assert_status(pare__pages(SIZE_MAX, &bytes), PARE_ERR_MEMORY);
    assert_null(bytes);
    assert_status(pare__pages((size_t)1 << 62, &bytes), PARE_ERR_MEMORY);
}

static void products_and_sums_notice_overflow_and_negatives(void **state)
{
    (void)state;
    int64_t x = 0;
    assert_true(pare__mul(3037000499, 3037000499, &x));
    assert_int_equal(x, 9223372030926249001);
    assert_false(pare__mul(3037000500, 3037000500, &x));
    assert_true(pare__mul(INT64_MAX, 1, &x));
    assert_true(pare__mul(INT64_MAX, 0, &x));
    assert_int_equal(x, 0);
    assert_false(pare__mul(-1, 0, &x));
    assert_false(pare__mul(-2, -3, &x));
    assert_false(pare__mul(INT64_MIN, 1, &x));
    assert_true(pare__add(INT64_MAX - 1, 1, &x));
    assert_int_equal(x, INT64_MAX);
    assert_false(pare__add(INT64_MAX, 1, &x));
    assert_false(pare__add(5, -1, &x));
    assert_false(pare__add(-1, 5, &x));
}

static void the_clock_never_goes_back(void **state)
{
    (void)state;
    double last = pare__now();
    for (int i = 0; i < 10000; i++) {
        double now = pare__now();
        assert_true(now >= last);
        last = now;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calloc_gives_zeros_and_nothing_for_nothing),
        cmocka_unit_test(a_product_that_overflows_is_no_memory),
        cmocka_unit_test(grow_keeps_the_elements_and_grows_by_half),
        cmocka_unit_test(grow_that_fails_leaves_what_there_is),
        cmocka_unit_test(strdup_copies_text_and_passes_null_on),
        cmocka_unit_test(pages_are_aligned_zero_and_whole),
        cmocka_unit_test(pages_that_cannot_be_are_no_memory),
        cmocka_unit_test(products_and_sums_notice_overflow_and_negatives),
        cmocka_unit_test(the_clock_never_goes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
