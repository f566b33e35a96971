/* cpu_digest.c - XXH3-128 of a byte range. xxHash is inlined so that each instruction set gets its
 * own vectors. */
#include "cpu_impl.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

pare_status PARE_CPU(pare_cpu_digest)(pare_backend *be, const pare_digest_args *args)
{
    (void)be;
    XXH128_hash_t hash = XXH3_128bits_withSeed(args->bytes, (size_t)args->size, args->seed);
    args->result[0] += hash.low64;
    args->result[1] += hash.high64;
    return PARE_OK;
}
