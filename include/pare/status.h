/* status.h - what every function that can fail returns, and the sentence that goes with it.
 *
 * A status says what the caller can do about it; the sentence (what, where, what to do) is in
 * pare_last_error(), which belongs to the calling thread and lives until that thread's next
 * failure.
 */
#ifndef PARE_STATUS_H
#define PARE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pare_status {
    PARE_OK = 0,
    PARE_ERR_ARGUMENT,    /* the call, option or recipe does not fit: change it */
    PARE_ERR_NOT_FOUND,   /* an input is not there */
    PARE_ERR_DAMAGED,     /* an input is truncated, contradictory, or holds NaN or Inf */
    PARE_ERR_UNSUPPORTED, /* an input is valid, but this version or backend cannot take it */
    PARE_ERR_EXISTS,      /* the output exists already */
    PARE_ERR_IO,          /* a read, write or sync failed */
    PARE_ERR_FULL,        /* no space left where the output goes */
    PARE_ERR_MEMORY,      /* the memory budget, or the machine's memory, cannot hold the work */
    PARE_ERR_DEVICE,      /* the device failed or is missing */
    PARE_ERR_NUMERIC,     /* a loss became NaN or Inf, a matrix singular */
    PARE_ERR_RANK,        /* another rank failed, died or does something else */
    PARE_ERR_INTERRUPTED, /* stopped on request; the same call continues */
    PARE_ERR_INTERNAL,    /* our own bug: report it */
} pare_status;

/* "PARE_ERR_DAMAGED" and so on; "PARE_ERR_?" for a value that is none. Never NULL. */
const char *pare_status_name(pare_status status);

/* The process exit code for a status (0..5, docs/cli.md). */
int pare_status_exit_code(pare_status status);

/* The calling thread's last failure as one sentence; "" before the first. Never NULL. */
const char *pare_last_error(void);

/* The functions the last failure went through, innermost first: "a < b < c". Never NULL. */
const char *pare_last_trail(void);

#ifdef __cplusplus
}
#endif
#endif
