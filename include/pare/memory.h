/* memory.h - what memory this process has. */
#ifndef PARE_MEMORY_H
#define PARE_MEMORY_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Peak of anonymous and shared-memory resident bytes of this process, as sampled since start: where
 * stages end, and before large pieces are given back. */
int64_t pare_memory_peak(void);
/* The same now; it joins the peak. */
int64_t pare_memory_now(void);
/* Forgets the peak: it counts from now on. */
void pare_memory_restart(void);

#ifdef __cplusplus
}
#endif
#endif
