/* device.c - CUDA devices, where this build can use them. */
#include "backend_impl.h"

#include "base/check.h"

static pare_status require_cuda(void)
{
#ifndef PARE_HAS_CUDA
    PARE_REQUIRE(&pare__cuda_backends, PARE_ERR_DEVICE,
                 "this pare was built without CUDA: use --device cpu, or build with the preset "
                 "cuda");
#endif
    return PARE_OK;
}

pare_status pare_cuda_count(int *count)
{
    *count = 0;
    PARE_TRY(require_cuda());
    PARE_TRY(pare__cuda_backends.count(count));
    return PARE_OK;
}

pare_status pare_cuda_facts_of(int device, pare_cuda_facts *facts)
{
    PARE_TRY(require_cuda());
    PARE_TRY(pare__cuda_backends.facts(device, facts));
    return PARE_OK;
}

pare_status pare_cuda_create(int device, pare_backend **backend)
{
    PARE_REQUIRE(backend, PARE_ERR_ARGUMENT, "a CUDA backend: NULL argument");
    PARE_TRY(require_cuda());
    PARE_TRY(pare__cuda_backends.create(device, backend));
    return PARE_OK;
}
