/* sched.h - runs items through stages on several threads, within a memory budget, in one order.
 *
 * First form: a job is a row of items 0..n-1, each going through the stages (read, compute, write
 * …) in order on one worker; workers take items in ascending order, so stages of different items
 * overlap. A stage marked in_order runs for item i only after it ran for item i-1 (results, prefix
 * sums). An item is admitted when the bytes it states, the host's and the device's, fit both
 * budgets beside those in flight; one item alone is always admitted if it fits by itself.
 *
 * A stage marked home (and what follows it) runs on the thread that called pare_sched_run, item
 * after item: the other workers carry items up to it, a few ahead, and hand them over.
 *
 * Second form: one thread beside the caller, which does what it is handed in order.
 */
#ifndef PARE_SCHED_H
#define PARE_SCHED_H

#include "pare/log.h"
#include "pare/memory.h"
#include "pare/status.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pare_sched pare_sched;

typedef struct pare_sched_options {
    int threads;                /* workers; 0: pare_cpu_count */
    int64_t budget;             /* host bytes that items in flight may hold together; 0: no limit */
    int64_t device_budget;      /* likewise of a device */
    const char *device;         /* where the stages work, for the timeline; NULL: not said */
    const char *trace;          /* file for a Chrome/Perfetto timeline, or NULL */
    const volatile int *cancel; /* becomes nonzero when the user wants to stop, or NULL */
    pare_progress progress;
} pare_sched_options;

pare_status pare_sched_create(const pare_sched_options *options, pare_sched **sched);
/* Closes the trace. */
void pare_sched_free(pare_sched **sched);

int pare_sched_threads(const pare_sched *sched);
int64_t pare_sched_budget(const pare_sched *sched); /* bytes; 0: no limit */

#define PARE_MAX_STAGES 8

typedef struct pare_stage {
    const char *name; /* shown in the trace */
    pare_status (*run)(void *user, int worker, int64_t item);
    bool in_order;
    bool home; /* on the calling thread, in order; later stages of the item too */
} pare_stage;

typedef struct pare_job {
    const char *name; /* phase shown in progress and trace */
    int64_t items;
    pare_stage stages[PARE_MAX_STAGES]; /* the first with run NULL ends the list */
    void *user;
    int64_t (*bytes)(void *user, int64_t item);        /* host bytes the item needs; NULL: 0 */
    int64_t (*device_bytes)(void *user, int64_t item); /* of the device; NULL: 0 */
    double (*weight)(void *user, int64_t item);        /* for progress; NULL: 1 */
    int ahead; /* with a home stage: items in flight at most, that on the calling thread among them;
                  0: 2 */
} pare_job;

/* Runs the job. The first failure in item order is returned (with its sentence) after all items in
 * flight have stopped; later items are not begun. PARE_ERR_INTERRUPTED if cancelled (before an item
 * is begun, or comes home).
 * PARE_ERR_MEMORY if one item alone exceeds a budget (how much it needs). */
pare_status pare_sched_run(pare_sched *sched, const pare_job *job);

/* ---- beside the caller ----------------------------------------------------------------------- */

/* One thread that does what it is handed, piece after piece in that order, while the caller goes
 * on: what is made is saved while the next is made. A piece lies in one of a few places, which the
 * caller fills and hands over; so memory is bounded, and nothing is shared while it is worked on.
 * After the first failure no piece is worked on any more. */
typedef struct pare_aside pare_aside;

typedef struct pare_aside_options {
    const char *name, *stage;                  /* as the timeline shows it */
    int places;                                /* how many pieces there are at a time, at least 1 */
    pare_status (*run)(void *user, int place); /* on the thread; on the caller's if there is none */
    void *user;
} pare_aside_options;

pare_status pare_aside_create(pare_sched *sched, const pare_aside_options *options,
                              pare_aside **aside);
/* The place for the next piece, 0 and up in turn: waits until it is free. Once something has failed
 * it fails, with the sentence of that. */
pare_status pare_aside_place(pare_aside *aside, int *place);
/* Hands over what lies in the place that was given last. */
void pare_aside_hand(pare_aside *aside);
/* Waits until all that was handed over is done, or something has failed. */
pare_status pare_aside_wait(pare_aside *aside);
/* Waits likewise, and ends the thread. NULL is fine. */
void pare_aside_free(pare_aside **aside);

/* ---- journal --------------------------------------------------------------------------------- */

/* An append-only file of records beside an output: what a killed run had finished. A torn or
 * damaged record, and all after it, counts as never written. */
typedef struct pare_journal pare_journal;

/* What reading gives back: type, payload (valid during the call). */
typedef pare_status (*pare_journal_visit)(void *user, uint32_t type, const void *payload,
                                          uint32_t size);

/* Opens path for appending. If a journal of this key lies there its records go to visit in order
 * and *resumed is true; if there is none a new one is made. A journal of another key:
 * PARE_ERR_EXISTS, or a new one if `discard` is set. */
pare_status pare_journal_open(const char *path, const uint64_t key[2], bool discard,
                              pare_journal_visit visit, void *user, bool *resumed,
                              pare_journal **journal);

/* Appends one record (payload ≤ 1 GiB) with one write. Any thread. */
pare_status pare_journal_add(pare_journal *journal, uint32_t type, const void *payload,
                             uint32_t size);

/* Flushes to the disk (--sync). */
pare_status pare_journal_sync(pare_journal *journal);

/* Closes, and with `remove` deletes the file. NULL is fine. */
void pare_journal_close(pare_journal **journal, bool remove);

#ifdef __cplusplus
}
#endif
#endif
