/* sched_impl.h - the inside of a scheduler: workers, the timeline. */
#ifndef PARE_SCHED_IMPL_H
#define PARE_SCHED_IMPL_H

#include "pare/sched.h"

#include <pthread.h>

typedef struct pare__trace pare__trace; /* an open timeline file */

/* device: what the timeline is headed with, or NULL. */
pare_status pare__trace_open(const char *path, const char *device, pare__trace **trace);
/* One finished stage, in seconds since the trace was opened. Any thread. NULL trace: nothing. */
void pare__trace_stage(pare__trace *trace, const char *job, const char *stage, int worker,
                       int64_t item, double begin, double end);
double pare__trace_now(const pare__trace *trace);
pare_status pare__trace_close(pare__trace **trace);

struct pare_sched {
    pare_sched_options options;
    int threads;
    pare__trace *trace;
};

#endif
