/* What the simulator must find in a wrong kernel, and must not find in a right one. */
#include "test.h"

#include "sim_control.h"
#include "sim_probe.h"

#include <math.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT 256

static float out[COUNT];

/* Runs a probe over out, which starts as 0, 1, 2 … */
static void run(sim_probe probe, uint64_t seed)
{
    void *device = NULL;
    cudasim_set_mode((cudasim_mode){.seed = seed, .poison = 0xff});
    for (int i = 0; i < COUNT; i++)
        out[i] = (float)i;
    assert_int_equal(cudaMalloc(&device, sizeof out), cudaSuccess);
    assert_int_equal(cudaMemcpy(device, out, sizeof out, cudaMemcpyHostToDevice), cudaSuccess);
    sim_probe_run(probe, device);
    assert_int_equal(cudaMemcpy(out, device, sizeof out, cudaMemcpyDeviceToHost), cudaSuccess);
    assert_int_equal(cudaFree(device), cudaSuccess);
}

/* Whether a program that runs the probe is stopped by a signal, or by a sanitizer's exit. */
static bool is_stopped(sim_probe probe)
{
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(0);
        signal(SIGABRT, SIG_DFL);
        signal(SIGSEGV, SIG_DFL);
        run(probe, 1);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) || WEXITSTATUS(status) != 0;
}

static void a_right_kernel_gives_its_sum_in_every_order(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        run(PROBE_BLOCK_SUM, seed);
        assert_true(out[0] == 255 * 128);
    }
}

static bool any_nan(void)
{
    for (int i = 0; i < COUNT; i++)
        if (isnan(out[i]))
            return true;
    return false;
}

static void a_missing_barrier_shows_as_nan(void **state)
{
    (void)state;
    run(PROBE_MISSING_BARRIER, 1);
    assert_true(any_nan());
    run(PROBE_MISSING_SYNCWARP, 1);
    assert_true(any_nan());
}

static void shared_memory_begins_as_nan(void **state)
{
    (void)state;
    run(PROBE_UNWRITTEN_SHARED, 1);
    for (int i = 0; i < COUNT; i++)
        assert_true(isnan(out[i]));
}

static void an_address_behind_an_array_stops_the_program(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    assert_true(is_stopped(PROBE_BEHIND_SHARED));
    assert_true(is_stopped(PROBE_BEHIND_GLOBAL));
#else
    skip(); /* only AddressSanitizer sees it */
#endif
}

static void a_barrier_that_some_never_reach_stops_the_program(void **state)
{
    (void)state;
    assert_true(is_stopped(PROBE_LEFT_BARRIER));
    assert_true(is_stopped(PROBE_TWO_BARRIERS));
    assert_false(is_stopped(PROBE_BLOCK_SUM));
}

static void a_lane_outside_the_mask_or_missing_stops_the_program(void **state)
{
    (void)state;
    assert_true(is_stopped(PROBE_SHUFFLE_OUTSIDE));
    assert_true(is_stopped(PROBE_LANE_MISSING));
}

static void an_asynchronous_copy_lands_at_the_wait(void **state)
{
    (void)state;
    run(PROBE_ASYNC_TOO_EARLY, 1);
    assert_true(any_nan());
    run(PROBE_ASYNC, 1);
    for (int i = 0; i < COUNT; i++)
        assert_true(out[i] == (float)i);
}

static void lanes_of_one_value_find_each_other(void **state)
{
    (void)state;
    run(PROBE_MATCH, 1);
    for (int i = 0; i < COUNT; i++)
        assert_true(out[i] == (i % 32 % 3 == 2 ? 10 : 11));
}

static void the_host_cannot_touch_device_memory(void **state)
{
    (void)state;
    int status = 0;
    float *device = NULL;
    cudasim_set_mode((cudasim_mode){.seed = 1, .poison = 0xff, .late = true}); /* guards it */
    assert_int_equal(cudaMalloc((void **)&device, 64), cudaSuccess);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(0);
        signal(SIGSEGV, SIG_DFL);
        *(volatile float *)device = 1;
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
    assert_int_equal(cudaFree(device), cudaSuccess);
    cudasim_set_mode((cudasim_mode){.seed = 1, .poison = 0xff});
}

static void late_work_happens_at_the_wait(void **state)
{
    (void)state;
    cudaStream_t stream;
    char *device = NULL, text[4] = "abc", back[4] = "";
    cudasim_set_mode((cudasim_mode){.seed = 1, .poison = 0xff, .late = true});
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaMallocAsync((void **)&device, 4, stream), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(device, text, 4, cudaMemcpyHostToDevice, stream), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(back, device, 4, cudaMemcpyDeviceToHost, stream), cudaSuccess);
    text[0] = 'X'; /* too early: the copy has not begun */
    assert_string_equal(back, "");
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    assert_string_equal(back, "Xbc");
    assert_int_equal(cudaFreeAsync(device, stream), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    cudasim_set_mode((cudasim_mode){.seed = 1, .poison = 0xff});
}

static void faults_come_when_they_are_asked_for(void **state)
{
    (void)state;
    void *device = NULL;
    cudasim_fail_alloc(1);
    assert_int_equal(cudaMalloc(&device, 64), cudaErrorMemoryAllocation);
    assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
    assert_int_equal(cudaMalloc(&device, 1024), cudaSuccess);
    cudasim_fail_launch(1);
    sim_probe_run(PROBE_BLOCK_SUM, device);
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    assert_int_equal(cudaMalloc(&device, 64), cudaErrorIllegalAddress);
    cudasim_heal();
    assert_int_equal(cudaFree(device), cudaSuccess);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_right_kernel_gives_its_sum_in_every_order),
        cmocka_unit_test(a_missing_barrier_shows_as_nan),
        cmocka_unit_test(shared_memory_begins_as_nan),
        cmocka_unit_test(an_address_behind_an_array_stops_the_program),
        cmocka_unit_test(a_barrier_that_some_never_reach_stops_the_program),
        cmocka_unit_test(a_lane_outside_the_mask_or_missing_stops_the_program),
        cmocka_unit_test(an_asynchronous_copy_lands_at_the_wait),
        cmocka_unit_test(lanes_of_one_value_find_each_other),
        cmocka_unit_test(the_host_cannot_touch_device_memory),
        cmocka_unit_test(late_work_happens_at_the_wait),
        cmocka_unit_test(faults_come_when_they_are_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
