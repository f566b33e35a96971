/* backend.h - where operations run. */
#ifndef PARE_BACKEND_H
#define PARE_BACKEND_H

#include "pare/status.h"

#include <stdbool.h>

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

/* "cpu avx512" … valid as long as the backend. */
const char *pare_backend_name(const pare_backend *backend);

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
