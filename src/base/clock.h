/* clock.h - seconds since some fixed moment, never going back. */
#ifndef PARE_BASE_CLOCK_H
#define PARE_BASE_CLOCK_H

double pare__now(void);

#endif
