/* cuda_plan.h - what the tables of cuBLASLt's and cuDNN's plans share. */
#ifndef PARE_CUDA_PLAN_H
#define PARE_CUDA_PLAN_H

#include <stddef.h>
#include <stdint.h>

#define PARE_CUDA_ALIGN 256 /* of every part of an op's scratch */

/* Where the search for a key of these bytes begins (FNV-1a). */
static inline size_t pare__cuda_hash(const void *key, size_t bytes)
{
    const unsigned char *at = (const unsigned char *)key;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ at[i]) * 0x100000001b3u;
    return (size_t)(hash ^ hash >> 32);
}

/* Room for `bytes` more in scratch: where it starts. */
static inline size_t pare__cuda_part(size_t *used, size_t bytes)
{
    size_t at = *used;
    *used += (bytes + PARE_CUDA_ALIGN - 1) / PARE_CUDA_ALIGN * PARE_CUDA_ALIGN;
    return at;
}

#endif
