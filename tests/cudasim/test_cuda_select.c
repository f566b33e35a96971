/* test_cuda_select.c - what the op cases do not reach in the kernels of selection: running sums of
 * more tiles than one round takes, histograms on a device with little shared memory, masks that do
 * not fit their values. */
#include "test.h"

#include "../../cuda/cuda_scan.h"

#include "pare/ops.h"

static pare_backend *be;

static int setup(void **state)
{
    (void)state;
    assert_ok(pare_cuda_create(0, &be));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pare_backend_free(&be);
    return 0;
}

static void *allocate(int64_t bytes)
{
    void *memory = calloc((size_t)bytes, 1);
    assert_non_null(memory);
    return memory;
}

static void sums_run_over_any_number_of_counts(void **state)
{
    (void)state;
    static const int64_t sizes[] = {0, 1, 7, 8, 9, 255, 257, 8191, 8192, 8193, 20000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s], bytes = (n + 1) * (int64_t)sizeof(int64_t), sum = 0, *counts = NULL;
        int64_t *here = allocate(bytes);
        for (int64_t i = 0; i <= n; i++)
            here[i] = i % 7 == 0 ? INT64_C(1) << 33 : i % 5;
        assert_ok(pare_backend_alloc(be, bytes, &counts));
        assert_ok(pare_backend_upload(be, counts, here, bytes));
        assert_ok(pare__cuda_scan(be, counts, n));
        assert_ok(pare_backend_download(be, here, counts, bytes));
        for (int64_t i = 0; i <= n; i++) {
            assert_int_equal(here[i], sum);
            sum += i % 7 == 0 ? INT64_C(1) << 33 : i % 5;
        }
        pare_backend_release(be, counts, bytes);
        free(here);
    }
}

#define KEYS 3001

/* The histogram of the multiples of 0x3001, each three times. */
static void check_hist(int32_t prefix, int64_t bins)
{
    static uint32_t keys[KEYS];
    int64_t *want = allocate(bins * 8), *got = allocate(bins * 8);
    void *x = NULL, *there = NULL;
    for (int64_t b = 0; b < bins; b++)
        want[b] = b;
    memcpy(got, want, (size_t)bins * 8);
    for (uint32_t i = 0; i < KEYS; i++) {
        keys[i] = i / 3 * 0x3001u;
        if (prefix < 0)
            want[keys[i] >> 16]++;
        else if (keys[i] >> 16 == (uint32_t)prefix)
            want[keys[i] & 0xffffu]++;
    }
    assert_ok(pare_backend_alloc(be, sizeof keys, &x));
    assert_ok(pare_backend_alloc(be, bins * 8, &there));
    assert_ok(pare_backend_upload(be, x, keys, sizeof keys));
    assert_ok(pare_backend_upload(be, there, got, bins * 8));
    assert_ok(
        pare_select_hist(be, &(pare_select_hist_args){.x = pare_vector(x, PARE_U32, KEYS),
                                                      .prefix = prefix,
                                                      .bins = pare_vector(there, PARE_I64, bins)}));
    assert_ok(pare_backend_download(be, got, there, bins * 8));
    assert_memory_equal(got, want, (size_t)bins * 8);
    pare_backend_release(be, x, sizeof keys);
    pare_backend_release(be, there, bins * 8);
    free(want);
    free(got);
}

static void histograms_need_no_large_shared_memory(void **state)
{
    (void)state;
    int most = pare__cuda_of(be)->shared_optin;
    for (int kib = 96; kib >= 48; kib -= 48) { /* the high bins' table alone, then neither */
        pare__cuda_of(be)->shared_optin = kib * 1024;
        check_hist(-1, PARE_SELECT_HIGH_BINS);
        check_hist(0, PARE_SELECT_LOW_BINS);
        check_hist(7, PARE_SELECT_LOW_BINS);
    }
    pare__cuda_of(be)->shared_optin = most;
}

/* Six values, a mask of 2 rows of 9 columns, their matrix. */
typedef struct sparse {
    uint16_t values[6], x[18];
    uint8_t mask[4];
} sparse;

/* Compacts or scatters on the device, and brings all back. */
static pare_status go_there(sparse *here, bool compact)
{
    sparse *there = NULL;
    assert_ok(pare_backend_alloc(be, sizeof *here, &there));
    assert_ok(pare_backend_upload(be, there, here, sizeof *here));
    pare_tensor values = pare_vector(there->values, PARE_F16, 6);
    pare_tensor x = pare_matrix(there->x, PARE_F16, 2, 9);
    pare_tensor mask = pare_matrix(there->mask, PARE_U8, 2, 2);
    pare_status status =
        compact
            ? pare_mask_compact(be,
                                &(pare_mask_compact_args){.x = x,
                                                          .mask = mask,
                                                          .values = values,
                                                          .row_counts = pare_vector(NULL, 0, 0)})
            : pare_mask_scatter(be,
                                &(pare_mask_scatter_args){.values = values, .mask = mask, .x = x});
    assert_ok(pare_backend_download(be, here, there, sizeof *here));
    pare_backend_release(be, there, sizeof *here);
    return status;
}

static void masks_that_do_not_fit_their_values_write_nothing(void **state)
{
    (void)state;
    static const uint8_t masks[][4] = {{0x0f, 0x00, 0x03, 0x00},  /* as many ones as values */
                                       {0x0f, 0x00, 0x01, 0x00},  /* too few */
                                       {0xff, 0x01, 0x01, 0x00},  /* too many */
                                       {0x0f, 0x00, 0x01, 0x02}}; /* behind the end */
    for (int compact = 0; compact < 2; compact++)
        for (int i = 0; i < 4; i++) {
            sparse before = {.values = {1, 2, 3, 4, 5, 6}, .x = {7, 8}}, after;
            memcpy(before.mask, masks[i], sizeof before.mask);
            after = before;
            if (i == 0) {
                assert_ok(go_there(&after, compact));
                assert_memory_not_equal(&before, &after, sizeof after);
                continue;
            }
            assert_status(go_there(&after, compact),
                          compact ? PARE_ERR_ARGUMENT : PARE_ERR_DAMAGED);
            if (i == 3)
                assert_non_null(strstr(pare_last_error(), "row 1"));
            assert_memory_equal(&before, &after, sizeof after);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_run_over_any_number_of_counts),
        cmocka_unit_test(histograms_need_no_large_shared_memory),
        cmocka_unit_test(masks_that_do_not_fit_their_values_write_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
