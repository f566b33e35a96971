/* test_cuda_run.c - whole runs on a simulated device: the real kernels, streams and memory pools.
 */
#include "run_device.h"
#include "sim_control.h"

#include <stdlib.h>

static cudasim_counts before;

static bool set_up(int64_t memory)
{
    cudasim_heal();
    cudasim_fail_alloc(0);
    cudasim_lose(0);
    before = cudasim_count();
    return memory == (int64_t)8 << 30; /* what a device has is decided when the program starts */
}

static int64_t allocations(void)
{
    return cudasim_count().allocations - before.allocations;
}

static int64_t calls(void)
{
    return cudasim_count().calls - before.calls;
}

static int64_t peak(void)
{
    return 0;
}

int main(void)
{
    const run_device device = {.set_up = set_up,
                               .fail_alloc = cudasim_fail_alloc,
                               .lose = cudasim_lose,
                               .allocations = allocations,
                               .calls = calls,
                               .peak = peak,
                               .memory = (int64_t)8 << 30,
                               .name = "simulated device"};
    const char *late = getenv("CUDASIM_LATE"); /* unless said otherwise work waits till it must */
    cudasim_set_mode((cudasim_mode){.seed = 1, .poison = 0xff, .late = !late || atoi(late) != 0});
    return run_device_tests(&device);
}
