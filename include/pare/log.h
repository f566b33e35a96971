/* log.h - where the library's remarks go. The library itself never prints. */
#ifndef PARE_LOG_H
#define PARE_LOG_H

typedef enum pare_level { PARE_LOG_WARN, PARE_LOG_INFO, PARE_LOG_DEBUG } pare_level;

/* A sink for one-line remarks. write NULL: remarks are dropped. It may be called from any thread,
 * one call at a time. */
typedef struct pare_log {
    void (*write)(void *user, pare_level level, const char *line);
    void *user;
} pare_log;

/* Progress of long work: done and total in bytes of input; called about ten times a second from one
 * thread at a time, and once with done == total. update NULL: none wanted. */
typedef struct pare_progress {
    void (*update)(void *user, const char *phase, double done, double total);
    void *user;
    /* What to show beside the share done instead of bytes a second ("loss 0.412, rate 0.05"), until
     * the next note or phase; NULL: none wanted. */
    void (*note)(void *user, const char *text);
} pare_progress;

#endif
