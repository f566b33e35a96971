/* sim_control.h - the simulator as tests and stand-ins for NVIDIA's libraries see it. */
#ifndef PARE_CUDASIM_SIM_CONTROL_H
#define PARE_CUDASIM_SIM_CONTROL_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How things are run from now on (at the start: seed 1, poison 0xff, early). */
typedef struct cudasim_mode {
    uint64_t seed;        /* order of lanes and blocks */
    unsigned char poison; /* every byte of fresh memory: 0xff is NaN in every float type */
    bool late;            /* what is put on a stream runs at the wait for it, else at once */
} cudasim_mode;
void cudasim_set_mode(cudasim_mode mode);

/* Faults. 0: none. They count from the call on. Also read from the environment at the start:
 * CUDASIM_FAIL_ALLOC, CUDASIM_FAIL_LAUNCH, CUDASIM_LOSE, CUDASIM_DEVICES (2), CUDASIM_MEMORY (bytes
 * of each, 8 GiB), CUDASIM_DRIVER ("none", "old", else a good one), CUDASIM_SEED, CUDASIM_LATE. */
void cudasim_fail_alloc(int64_t nth);  /* the n-th allocation on the device: no memory, once */
void cudasim_fail_launch(int64_t nth); /* the n-th kernel touches an illegal address: sticky */
void cudasim_lose(int64_t nth);        /* from the n-th call on the device is gone: sticky */
void cudasim_heal(void);               /* takes back what a fault left (a new process, so to say) */

/* Since the start: allocations, launches, calls; bytes allocated now. */
typedef struct cudasim_counts {
    int64_t allocations, launches, calls, bytes;
} cudasim_counts;
cudasim_counts cudasim_count(void);

#ifdef __cplusplus
}

#include <functional>

/* For stand-ins of libraries: work of the host on device memory, in the order of a stream. */
void cudasim_work(cudaStream_t stream, std::function<void()> work);
#endif
#endif
