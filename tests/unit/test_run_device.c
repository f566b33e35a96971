/* test_run_device.c - whole runs on a device, played by memory that the host cannot touch
 * (far_backend.h). */
#include "far_device.h"

int main(void)
{
    const run_device *device = far_device();
    return device ? run_device_tests(device) : 77; /* with CUDA tests/cudasim has the same tests */
}
