/* backend.h - where operations run. */
#ifndef PARE_BACKEND_H
#define PARE_BACKEND_H

#include "pare/status.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An instance of the CPU or of one device: its op table, threads and scratch. One thread at a time
 * may call ops on one backend; several backends may be used at once. */
typedef struct pare_backend pare_backend;

typedef struct pare_cpu_options {
    int threads;     /* threads inside one op; 0 or 1: the calling thread alone */
    const char *isa; /* "base", "avx2", "avx512", "neon"; NULL: the best this CPU has. Results do
                        not depend on it. PARE_ERR_ARGUMENT for one this CPU or build lacks. */
} pare_cpu_options;

/* options may be NULL. */
pare_status pare_cpu_create(const pare_cpu_options *options, pare_backend **backend);
void pare_backend_free(pare_backend **backend);

/* "cpu avx512", "cuda:0 NVIDIA H200" … valid as long as the backend. */
const char *pare_backend_name(const pare_backend *backend);

/* ---- memory ----------------------------------------------------------------------------------
 *
 * Ops take pointers to the backend's own memory. That of the CPU is the host's; that of a device
 * cannot be touched by the host. A backend works in one order (a device's stream): what is asked
 * first is done first, ops and copies alike; ops return before their work is done, unless their
 * comment says that a result is ready on return. */

/* Whether the backend's memory is the host's. */
bool pare_backend_is_host(const pare_backend *backend);

/* A CPU backend for what has to be done on the host's side (files, digests): the backend itself if
 * its memory is the host's, else one with a single thread that belongs to it. */
pare_backend *pare_backend_host(pare_backend *backend);

/* bytes of the backend's memory, zero, aligned to 256 (64 on the CPU); NULL for 0. PARE_ERR_MEMORY
 * says how much was asked and how much is free. Release takes NULL. */
pare_status pare_backend_alloc(pare_backend *backend, int64_t bytes, void *memory /* T ** */);
void pare_backend_release(pare_backend *backend, void *memory, int64_t bytes);

/* Host memory that copies fast (page-locked for a device), zero; NULL for 0. */
pare_status pare_backend_host_alloc(pare_backend *backend, int64_t bytes, void *memory /* T ** */);
void pare_backend_host_release(pare_backend *backend, void *memory, int64_t bytes);

/* Host to backend, backend to host (after all that was asked before), within the backend. The
 * host's side is free, or there, on return; copy returns at once. Nothing where both are the same
 * memory.
 */
pare_status pare_backend_upload(pare_backend *backend, void *to, const void *from, int64_t bytes);
pare_status pare_backend_download(pare_backend *backend, void *to, const void *from, int64_t bytes);
pare_status pare_backend_copy(pare_backend *backend, void *to, const void *from, int64_t bytes);

/* A copy to the memory of another backend of the same device (or both of the CPU), in the order of
 * this one; what `other` is asked from now on comes after it, and what it was asked before must be
 * done. Returns at once: so one goes on while the other downloads what it made. */
pare_status pare_backend_send(pare_backend *backend, const void *from, pare_backend *other,
                              void *to, int64_t bytes);

/* What this one is asked from now on begins when all that `other` was asked until now is done: two
 * of the same device (or both of the CPU, where nothing is left to wait for), one of which works on
 * what the other has made. Returns at once. Nobody may ask either of anything meanwhile. */
pare_status pare_backend_after(pare_backend *backend, pare_backend *other);

/* Every byte becomes 0. */
pare_status pare_backend_clear(pare_backend *backend, void *memory, int64_t bytes);

/* Waits until all that was asked is done; a failure of it is returned here at the latest. */
pare_status pare_backend_sync(pare_backend *backend);

/* ---- CUDA devices ---------------------------------------------------------------------------- */

typedef struct pare_cuda_facts {
    char name[96];    /* "NVIDIA H200" */
    int major, minor; /* compute capability */
    int multiprocessors;
    int64_t memory, free; /* bytes */
    int driver, runtime;  /* 13000 is 13.0 */
} pare_cuda_facts;

/* How many there are, at least 1. PARE_ERR_DEVICE says in one sentence why there are none: built
 * without CUDA, no device, a driver that is too old. */
pare_status pare_cuda_count(int *count);
pare_status pare_cuda_facts_of(int device, pare_cuda_facts *facts);

/* A backend on a device: a stream of its own. Several may share a device. */
pare_status pare_cuda_create(int device, pare_backend **backend);

/* The instruction sets compiled in, best first, NULL after the last; and whether this CPU has one.
 */
const char *const *pare_cpu_isas(void);
bool pare_cpu_has_isa(const char *isa);

/* Logical processors this process may run on (affinity and cgroup quota respected), at least 1. */
int pare_cpu_count(void);

/* The CPU's own name, "AMD EPYC 9575F" …; "unknown" where the system does not say. Static text. */
const char *pare_cpu_model(void);

/* What multiplies: oneDNN's version and the instruction set it works with here, "oneDNN 2.6.3
 * avx512 with bf16". Static text. */
const char *pare_cpu_dnnl(void);

#ifdef __cplusplus
}
#endif
#endif
