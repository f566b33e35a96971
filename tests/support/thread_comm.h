/* thread_comm.h - ranks that are threads of one process. */
#ifndef PARE_THREAD_COMM_H
#define PARE_THREAD_COMM_H

#include "test.h"

#include "pare/comm.h"

enum { THREAD_COMM_MOST = 8 };

/* comms [size]: one for each thread, freed by pare_comm_free. Sums are done when they are begun. */
void thread_comm_make(int size, pare_comm **comms);

/* Runs work(user, comm) as so many ranks, each in a thread; the statuses of all. */
typedef pare_status (*thread_comm_work)(void *user, pare_comm *comm);
void thread_comm_run(int size, thread_comm_work work, void *user, pare_status *statuses);

#endif
