/* run.h - the commands as functions. Each gives a report, also where the work failed half way (then
 * NULL). */
#ifndef PARE_RUN_H
#define PARE_RUN_H

#include "pare/log.h"
#include "pare/recipe.h"
#include "pare/report.h"
#include "pare/train.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pare_run_options {
    int threads;        /* 0: pare_cpu_count() */
    const char *isa;    /* NULL: the best; see pare_cpu_options */
    const char *device; /* "cpu", "cuda" (the first), "cuda:N"; NULL or "auto": cuda:0 if there is
                           one. Results of data-free work do not depend on it. */
    int64_t memory;     /* host budget in bytes; 0: 256 MiB + twice the largest tensor */
    int64_t device_memory; /* budget of the device's; 0: what is free there */
    const char *trace;     /* timeline file, or NULL */
    bool sync;             /* fdatasync after every tensor */
    bool strict;           /* a scheme or pattern that does not fit a layer is an error */
    bool overwrite;        /* replace an output that exists, drop a part of another run */
    pare_log log;
    pare_progress progress;
    /* becomes nonzero to stop: PARE_ERR_INTERRUPTED, the same call continues */
    const volatile int *cancel;
    /* inspect and compare: look only at tensors of these names, whatever their role; empty: at all
     */
    pare_choice look;
} pare_run_options;

/* What a run will read, write, need and take; nothing is written. Fails as pare_run would before
 * its first byte. */
pare_status pare_plan(const pare_recipe *recipe, const pare_run_options *options,
                      pare_report **report);

/* Does it: recipe->model → recipe->output, in as many stages as its steps need (recipe.h).
 * Continues a run that was cut. All processes of a job (comm.h) share what looks at data and
 * trains; the first does the rest, and it alone is given a report (the others NULL). The report is
 * also saved as "<output>.report.json". A recipe without prune and quantize steps is a conversion:
 * every value is then read back and compared. */
pare_status pare_run(const pare_recipe *recipe, const pare_run_options *options,
                     pare_report **report);

/* Tensors, types, sizes, roles, sparsity, quantisation, provenance. stats: reads all values (zeros,
 * range, NaN). */
pare_status pare_inspect(const char *path, bool stats, const pare_run_options *options,
                         pare_report **report);

/* max, RMS, SQNR, cosine, of all and of every tensor. *differs: a tensor is missing on one side,
 * has another shape, or its max |a - b| is above tolerance. */
pare_status pare_compare(const char *a, const char *b, double tolerance,
                         const pare_run_options *options, pare_report **report, bool *differs);

/* ---- models that run ------------------------------------------------------------------------- */

typedef struct pare_eval_job {
    pare_model_choice model;
    pare_model_choice against; /* checkpoint NULL: none */
    /* What the model decides (sizes, vocabulary, preprocessing, seq_len 0 of a decoder) is filled
     * in; pad_id -2: the model's own, for rows of tokens. */
    pare_data_options data;
    unsigned metrics; /* set of pare_metric; 0: by the model: ppl and loss, top1 and top5, cosine */
    int64_t batch;    /* 0: by the model */
    pare_dtype compute;  /* F32 or BF16 */
    const char *outputs; /* .npy of all outputs, or NULL */
} pare_eval_job;

/* Measures. With `plan` only says what it will need. */
pare_status pare_eval(const pare_eval_job *job, bool plan, const pare_run_options *options,
                      pare_report **report);

/* Trains and writes the checkpoint. While it runs "<output>.train.h5" holds its state; the same
 * call continues one that was cut, and ends with the same bytes. */
pare_status pare_train(const pare_train_job *job, bool plan, const pare_run_options *options,
                       pare_report **report);

/* CPU, instruction sets (and the choice), libraries, GPUs. */
pare_status pare_devices(const pare_run_options *options, pare_report **report);

#ifdef __cplusplus
}
#endif
#endif
