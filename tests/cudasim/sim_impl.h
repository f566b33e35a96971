/* sim_impl.h - what the simulator's files share: device memory, streams, faults. */
#ifndef PARE_CUDASIM_SIM_IMPL_H
#define PARE_CUDASIM_SIM_IMPL_H

#include "sim_control.h"

#include <cstddef>
#include <mutex>

/* One call of the CUDA runtime at a time: held by every function of it. */
extern std::recursive_mutex sim_lock;
extern cudasim_mode sim_mode;

/* sim_memory.cpp: memory of the devices lies in one range of addresses that nobody may touch but
 * between open and close. Sizes are exact: AddressSanitizer sees the first byte behind. */
void *sim_memory_take(int device, size_t bytes);
bool sim_memory_give(void *memory); /* false: not ours */
size_t sim_memory_used(int device);
bool sim_memory_owns(const void *memory);
void sim_memory_open(void);
void sim_memory_close(void);
/* Whether it is closed at all: in late mode. Opening and closing costs by the pages there are, and
 * early mode would do so for every kernel. */
void sim_memory_guard(bool on);

/* sim_runtime.cpp: the error that a call returns because of what happened before or is injected. */
cudaError_t sim_call(void);
cudaError_t sim_fault_launch(void); /* cudaSuccess: this kernel may run */
void sim_fail_sticky(cudaError_t error);
void sim_set_last(cudaError_t error);
void sim_count_launch(void);

/* Puts work on a stream: it runs now, or at the next wait. */
void sim_enqueue(cudaStream_t stream, std::function<void()> work);
/* Work that gives false stays first and is tried again, at the latest when somebody waits: it waits
 * for another thread or process itself. */
void sim_enqueue_try(cudaStream_t stream, std::function<bool()> work);

/* A pseudo-random number of the mode's seed. */
uint64_t sim_random(void);

#endif
