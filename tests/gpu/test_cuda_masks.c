/* test_cuda_masks.c - schedules of masks on a CUDA device, this machine's or the simulated one. */
#include "masks_fixture.h"

static pare_backend *make(void)
{
    pare_backend *be = NULL;
    assert_ok(pare_cuda_create(0, &be));
    return be;
}

int main(void)
{
    return masks_tests(make);
}
