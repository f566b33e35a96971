/* check.h - the five error macros, and nothing else makes an error.
 *
 *   PARE_REQUIRE(cond, STATUS, fmt, ...)  return a failure unless cond holds
 *   PARE_FAIL(STATUS, fmt, ...)           return a failure
 *   PARE_TRY(call)                        return what call returned unless it is PARE_OK
 *   PARE_TRY_DONE(call)                   the same, through `status` and the label `done:`
 *   PARE_ASSERT(cond)                     our own bug; never for input
 *
 * A function with something to free declares `pare_status status = PARE_OK;`, uses only
 * PARE_TRY_DONE (with pare__error() for its own failures) and frees in reverse order behind
 * `done:`.
 */
#ifndef PARE_BASE_CHECK_H
#define PARE_BASE_CHECK_H

#include "pare/status.h"

#include <stdio.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Records the sentence for this thread and returns status. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4), cold))
#endif
pare_status
pare__error(pare_status status, const char *where, const char *fmt, ...);

/* The same for several sentences, one a line: nothing is formatted, newlines stay. */
pare_status pare__error_lines(pare_status status, const char *where, const char *lines);

/* Adds a function to the trail of the recorded failure. */
void pare__trail(const char *where);

/* Replaces the recorded sentence: a worker's failure carried to the thread that waits for it. */
pare_status pare__error_again(pare_status status, const char *sentence, const char *trail);

/* errno as a status: ENOSPC and EDQUOT are FULL, ENOENT is NOT_FOUND, ENOMEM is MEMORY, else IO. */
pare_status pare__errno_status(int error);

/* The status is returned from a variable of our own, not from pare__error, so that the compiler
 * knows it is no PARE_OK and sees which results are set. */
#define PARE_FAIL(status_, ...)                                                                    \
    do {                                                                                           \
        pare_status fail_ = (status_);                                                             \
        pare__error(fail_, __func__, __VA_ARGS__);                                                 \
        return fail_;                                                                              \
    } while (0)

#define PARE_REQUIRE(cond_, status_, ...)                                                          \
    do {                                                                                           \
        if (!(cond_))                                                                              \
            PARE_FAIL((status_), __VA_ARGS__);                                                     \
    } while (0)

#define PARE_TRY(call_)                                                                            \
    do {                                                                                           \
        pare_status try_ = (call_);                                                                \
        if (try_ != PARE_OK) {                                                                     \
            pare__trail(__func__);                                                                 \
            return try_;                                                                           \
        }                                                                                          \
    } while (0)

#define PARE_TRY_DONE(call_)                                                                       \
    do {                                                                                           \
        status = (call_);                                                                          \
        if (status != PARE_OK) {                                                                   \
            pare__trail(__func__);                                                                 \
            goto done;                                                                             \
        }                                                                                          \
    } while (0)

#define PARE_ASSERT(cond_)                                                                         \
    do {                                                                                           \
        if (!(cond_)) {                                                                            \
            fprintf(stderr, "pare: bug: %s:%d: %s\n", __FILE__, __LINE__, #cond_);                 \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#ifdef __cplusplus
}
#endif

#endif
