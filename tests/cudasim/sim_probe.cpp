/* sim_probe.cpp - see sim_probe.h. */
#include "sim.h"

#include "sim_probe.h"

namespace
{
const int THREADS = 256;

void k_block_sum(float *out)
{
    PARE_SHARED_ARRAY(float, partial, 8);
    float x = (float)threadIdx.x;
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    if (threadIdx.x % 32 == 0)
        partial[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 1; i < 8; i++)
            x += partial[i];
    if (threadIdx.x == 0)
        out[0] = x;
}

void k_missing_barrier(float *out)
{
    PARE_SHARED_ARRAY(float, all, THREADS);
    all[threadIdx.x] = (float)threadIdx.x;
    out[threadIdx.x] = all[THREADS - 1 - threadIdx.x];
}

void k_missing_syncwarp(float *out)
{
    PARE_SHARED_ARRAY(float, all, THREADS);
    all[threadIdx.x] = (float)threadIdx.x;
    out[threadIdx.x] = all[threadIdx.x ^ 1];
}

void k_unwritten_shared(float *out)
{
    PARE_SHARED_ARRAY(float, all, THREADS);
    out[threadIdx.x] = all[threadIdx.x];
}

void k_behind_shared(float *out)
{
    PARE_SHARED_ARRAY(float, all, THREADS);
    all[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = all[threadIdx.x + 1];
}

void k_behind_global(float *out)
{
    out[threadIdx.x + 1] = 1;
}

void k_left_barrier(float *out)
{
    if (threadIdx.x >= THREADS / 2)
        return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

void k_two_barriers(float *out)
{
    if (threadIdx.x < THREADS / 2)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

void k_shuffle_outside(float *out)
{
    float x = 1;
    if (threadIdx.x % 32 < 16)
        x = __shfl_sync(0x0000ffffu, x, 20);
    out[threadIdx.x] = x;
}

void k_lane_missing(float *out)
{
    float x = 1;
    if (threadIdx.x % 32 < 16)
        x = __shfl_sync(0xffffffffu, x, 0);
    __syncthreads();
    out[threadIdx.x] = x;
}

void k_async(float *out, bool wait)
{
    PARE_SHARED_ARRAY(float, all, THREADS * 4);
    for (int i = 0; i < 4; i++)
        all[threadIdx.x * 4 + (unsigned)i] = 0;
    sim_async_copy(&all[threadIdx.x * 4], &out[threadIdx.x / 4 * 4], 16, 16);
    sim_async_commit();
    if (wait)
        sim_async_wait(0);
    float x = all[threadIdx.x * 4 + threadIdx.x % 4];
    __syncthreads(); /* all have read out before it is written */
    out[threadIdx.x] = x;
    sim_async_wait(0);
}

void k_match(float *out)
{
    out[threadIdx.x] = (float)__popc(__match_any_sync(0xffffffffu, threadIdx.x % 32 % 3));
}

void (*const kernels[PROBES])(float *) = {
    k_block_sum,
    k_missing_barrier,
    k_missing_syncwarp,
    k_unwritten_shared,
    k_behind_shared,
    k_behind_global,
    k_left_barrier,
    k_two_barriers,
    k_shuffle_outside,
    k_lane_missing,
    nullptr,
    nullptr,
    k_match,
};
} // namespace

void sim_probe_run(sim_probe probe, float *out)
{
    if (probe == PROBE_ASYNC || probe == PROBE_ASYNC_TOO_EARLY)
        PARE_LAUNCH_KERNEL(k_async, dim3(1), THREADS, 0, nullptr, out, probe == PROBE_ASYNC);
    else
        PARE_LAUNCH_KERNEL(kernels[probe], dim3(1), THREADS, 0, nullptr, out);
    cudaDeviceSynchronize();
}
