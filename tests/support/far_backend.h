/* far_backend.h - a backend whose memory the host cannot touch, without a device: what its ops give
 * is the CPU's to the byte.
 *
 * Its memory is open while an op or a copy runs and at no other time; a read or write of the host
 * in between is a SIGSEGV. An op that is given memory of the host's where it takes the backend's
 * ends the program with the op's name. What was released is never given out again. */
#ifndef FAR_BACKEND_H
#define FAR_BACKEND_H

#include "pare/backend.h"

/* Ops run on `threads` threads. Freed by pare_backend_free; fails the test if that finds memory
 * that was not released. */
pare_backend *far_backend_make(int threads);

/* Waits of the host for it so far: uploads, downloads, syncs, and ops with results on the host. */
int64_t far_backend_waits(const pare_backend *be);

/* The nth allocation from now on, of its own memory or the host's, finds none left; whether it has
 * come to that. */
void far_backend_refuse(pare_backend *be, int64_t nth);
bool far_backend_refused(const pare_backend *be);

#endif
