/* test_dnnl_cache.c - products are prepared once for a shape: later calls prepare nothing, allocate
 * nothing of ours, give the same bytes, and failures leave nothing behind. */
#include "test.h"

#include "cpu/cpu_dnnl.h"

#include <errno.h>
#include <omp.h>

/* ---- allocations ----------------------------------------------------------------------------- */

static int64_t allocations;  /* since it was last cleared */
static int64_t fail_at = -1; /* the allocation that fails; below 0: none */

#if !SANITIZED
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);

static int refused(void)
{
    int64_t number = __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    if (number != fail_at)
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

/* ---- calls ----------------------------------------------------------------------------------- */

enum { MOST = 1 << 16 };
static float a[MOST], b[MOST], c[MOST], again[MOST];

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < MOST; i++) {
        a[i] = (float)(i % 4096 * 7919 % 1013) / 1013.0f - 0.5f;
        b[i] = (float)(i % 4099 * 10473 % 997) / 997.0f - 0.5f;
    }
    return 0;
}

static pare_gemm_args gemm_of(int64_t M, int64_t N, int64_t K, float *to)
{
    return (pare_gemm_args){.a = pare_matrix(a, PARE_F32, M, K),
                            .b = pare_matrix(b, PARE_F32, N, K),
                            .c = pare_matrix(to, PARE_F32, M, N),
                            .trans_b = true};
}

static pare_tensor image(void *data, int64_t B, int64_t H, int64_t W, int64_t C)
{
    return (pare_tensor){.data = data, .dtype = PARE_F32, .rank = 4, .shape = {B, H, W, C}};
}

static pare_conv_args conv_of(float *to)
{
    return (pare_conv_args){.x = image(a, 4, 9, 9, 16),
                            .w = image(b, 16, 16, 3, 3),
                            .y = image(to, 4, 9, 9, 16),
                            .shift = pare_vector(b, PARE_F32, 16),
                            .relu = true,
                            .window = {{3, 3}, {1, 1}, {1, 1}, 1, 1, 1, 1}};
}

static pare_conv_grad_w_args grad_of(float *to)
{
    return (pare_conv_grad_w_args){.x = image(a, 4, 9, 9, 16),
                                   .dy = image(b, 4, 9, 9, 16),
                                   .dw = image(to, 16, 16, 3, 3),
                                   .window = {{3, 3}, {1, 1}, {1, 1}, 1, 1, 1, 1}};
}

static pare_backend *backend_of(int threads)
{
    pare_backend *be = NULL;
    assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = threads}, &be));
    return be;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void a_shape_is_prepared_once(void **state)
{
    (void)state;
    pare_backend *be = backend_of(2);
    assert_int_equal(pare__product_plans(be), 0);
    pare_gemm_args one = gemm_of(33, 17, 29, c), other = gemm_of(32, 17, 29, c);
    assert_ok(pare_gemm(be, &one));
    assert_ok(pare_gemm(be, &one));
    assert_int_equal(pare__product_plans(be), 1);
    one.c.data = again; /* where the numbers lie does not matter */
    assert_ok(pare_gemm(be, &one));
    assert_int_equal(pare__product_plans(be), 1);
    assert_ok(pare_gemm(be, &other));
    one.accumulate = true;
    assert_ok(pare_gemm(be, &one));
    one.bias = pare_vector(b, PARE_F32, 17);
    assert_ok(pare_gemm(be, &one));
    one.trans_b = false;
    one.b = pare_matrix(b, PARE_F32, 29, 17);
    assert_ok(pare_gemm(be, &one));
    assert_int_equal(pare__product_plans(be), 5);
    pare_conv_args conv = conv_of(c);
    assert_ok(pare_conv(be, &conv));
    conv.window.pad_bottom = 0;
    conv.y.shape[1] = 8;
    assert_ok(pare_conv(be, &conv));
    assert_ok(pare_conv(be, &conv));
    assert_int_equal(pare__product_plans(be), 7);
    pare_backend_free(&be);
}

static void many_shapes_are_kept_apart(void **state)
{
    (void)state;
    pare_backend *be = backend_of(1);
    for (int round = 0; round < 2; round++) {
        for (int64_t M = 1; M <= 700; M++) {
            pare_gemm_args args = gemm_of(M, 3, 2, c);
            assert_ok(pare_gemm(be, &args));
            for (int64_t i = 0; i < 3 * M; i++) {
                float want = a[i / 3 * 2] * b[i % 3 * 2] + a[i / 3 * 2 + 1] * b[i % 3 * 2 + 1];
                assert_true(c[i] - want < 1e-6f && want - c[i] < 1e-6f);
            }
        }
        assert_int_equal(pare__product_plans(be), 700);
    }
    pare_backend_free(&be);
}

static void the_same_call_gives_the_same_bytes(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 3; threads++) {
        pare_backend *be = backend_of(threads), *twin = backend_of(threads);
        pare_gemm_args gemm = gemm_of(100, 90, 300, c), gemm2 = gemm_of(100, 90, 300, again);
        pare_conv_grad_w_args grad = grad_of(c), grad2 = grad_of(again);
        for (int round = 0; round < 3; round++) {
            assert_ok(pare_gemm(be, &gemm));
            assert_ok(pare_gemm(round < 2 ? be : twin, &gemm2));
            assert_memory_equal(c, again, 100 * 90 * sizeof *c);
            assert_ok(pare_conv_grad_w(be, &grad));
            assert_ok(pare_conv_grad_w(round < 2 ? be : twin, &grad2));
            assert_memory_equal(c, again, 16 * 16 * 9 * sizeof *c);
        }
        pare_backend_free(&be);
        pare_backend_free(&twin);
    }
}

static void the_callers_number_of_threads_is_put_back(void **state)
{
    (void)state;
    pare_backend *be = backend_of(3);
    pare_gemm_args args = gemm_of(20, 20, 20, c);
    omp_set_num_threads(2);
    assert_ok(pare_gemm(be, &args));
    assert_int_equal(omp_get_max_threads(), 2);
    pare_backend_free(&be);
}

/* What is left are the argument lists that oneDNN itself makes for each execution: some eight small
 * blocks a primitive, whatever the shape. */
static void later_calls_allocate_next_to_nothing(void **state)
{
    (void)state;
    if (SANITIZED)
        skip();
    pare_backend *be = backend_of(2);
    pare_gemm_args gemm = gemm_of(64, 48, 80, c);
    pare_conv_args conv = conv_of(c);
    pare_conv_grad_w_args grad = grad_of(c);
    for (int round = 0; round < 3; round++) {
        int64_t counts[3];
        allocations = 0;
        assert_ok(pare_gemm(be, &gemm));
        counts[0] = allocations;
        assert_ok(pare_conv(be, &conv));
        counts[1] = allocations - counts[0];
        assert_ok(pare_conv_grad_w(be, &grad));
        counts[2] = allocations - counts[0] - counts[1];
        if (round > 0 && (counts[0] > 10 || counts[1] > 20 || counts[2] > 20))
            fail_msg("round %d allocated %lld times in gemm, %lld in conv, %lld in conv_grad_w",
                     round, (long long)counts[0], (long long)counts[1], (long long)counts[2]);
    }
    pare_backend_free(&be);
}

static void memory_that_fails_is_told_and_the_next_call_works(void **state)
{
    (void)state;
    if (SANITIZED)
        skip();
    pare_gemm_args gemm = gemm_of(41, 31, 21, again);
    pare_backend *good = backend_of(1);
    assert_ok(pare_gemm(good, &gemm));
    gemm.c.data = c;
    for (int64_t n = 0; n < 6; n++) { /* our own allocations come first */
        pare_backend *be = backend_of(1);
        allocations = 0;
        fail_at = n;
        pare_status status = pare_gemm(be, &gemm);
        fail_at = -1;
        assert_true(status == PARE_OK || status == PARE_ERR_MEMORY);
        assert_true(n > 0 || status == PARE_ERR_MEMORY);
        assert_ok(pare_gemm(be, &gemm));
        assert_memory_equal(c, again, 41 * 31 * sizeof *c);
        pare_backend_free(&be);
    }
    pare_backend_free(&good);
}

static void the_library_says_what_it_is(void **state)
{
    (void)state;
    assert_true(strncmp(pare_cpu_dnnl(), "oneDNN ", 7) == 0);
    assert_ptr_equal(pare_cpu_dnnl(), pare_cpu_dnnl());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shape_is_prepared_once),
        cmocka_unit_test(many_shapes_are_kept_apart),
        cmocka_unit_test(the_same_call_gives_the_same_bytes),
        cmocka_unit_test(the_callers_number_of_threads_is_put_back),
        cmocka_unit_test(later_calls_allocate_next_to_nothing),
        cmocka_unit_test(memory_that_fails_is_told_and_the_next_call_works),
        cmocka_unit_test(the_library_says_what_it_is),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
