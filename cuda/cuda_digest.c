/* cuda_digest.c - XXH3-128 of a byte range on a device.
 *
 * The hash is one chain over the whole range, so the host computes it: the range is downloaded into
 * page-locked memory and given to the CPU's op. That memory is allocated here (the one op that
 * does so: digests are taken of whole tensors, once each, never in a loop over steps). Bound by the
 * bus: 1 byte a byte, about 50 GB/s on PCIe 5, then as long again for the hash.
 */
#include "cuda_impl.h"

static pare_status digest_copy(pare_backend *be, const pare_digest_args *args, void *copy)
{
    pare_digest_args here = *args;
    here.bytes = copy;
    PARE_TRY(pare_backend_download(be, copy, args->bytes, args->size));
    PARE_TRY(pare_digest(pare_backend_host(be), &here));
    return PARE_OK;
}

pare_status pare_cuda_digest(pare_backend *be, const pare_digest_args *args)
{
    pare_status status = PARE_OK;
    void *copy = NULL;
    PARE_TRY_DONE(pare_backend_host_alloc(be, args->size, &copy));
    PARE_TRY_DONE(digest_copy(be, args, copy));
done:
    pare_backend_host_release(be, copy, args->size);
    return status;
}
