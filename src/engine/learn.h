/* learn.h - what eval and train share: a model opened and sized, its data, what it will need.
 *
 * The way of the data: learn.c opens checkpoint or architecture, completes the data's options by
 * the model, creates backend and scheduler; learn_predict.c says what will be needed and refuses
 * what does not fit; run_eval.c and run_train.c do the work; model_write.c writes a trained model.
 */
#ifndef PARE_ENGINE_LEARN_H
#define PARE_ENGINE_LEARN_H

#include "job.h"

#include "pare/quant.h"

#include "base/json.h"
#include "base/text.h"

/* One model and where it came from. */
typedef struct pare__subject {
    const pare_model_choice *choice;
    pare_store *store; /* NULL: from scratch */
    pare_model *model;
} pare__subject;

pare_status pare__subject_open(const pare_model_choice *choice, pare__subject *subject);
void pare__subject_close(pare__subject *subject);
/* What it is called in reports and sentences. */
const char *pare__subject_name(const pare__subject *subject);

/* Where and how the work is done. */
typedef struct pare__bench {
    const pare_run_options *options;
    pare__device device;
    pare_backend *be;
    pare_sched *sched;
    int threads;
    int64_t context; /* what opening a device took of the host's memory, which is not counted */
    int64_t unused;  /* bytes that were free on the device then */
} pare__bench;

pare_status pare__bench_open(const pare_run_options *options, pare__bench *bench);
void pare__bench_close(pare__bench *bench);

/* The data's options with what the model decides filled in; and a batch for a model and data: what
 * is asked, else by the model. */
pare_data_options pare__complete_data(const pare_data_options *asked, const pare_model *model);
int64_t pare__default_batch(int64_t asked, const pare_model *model, const pare_dataset *dataset);

/* ---- learn_predict.c ------------------------------------------------------------------------- */

typedef struct pare__need {
    pare_model_memory model, against;
    bool apart;            /* the second model has a backend of its own on the device */
    pare_footprint beside; /* optimiser, batches, losses; of a device: the host's part alone */
    int64_t base; /* the process as it is now, data open, and what libraries take once they work */
    int64_t peak, budget;
    int64_t device_peak; /* of the device's memory; 0 on the CPU */
    double flops;        /* of the whole work */
    double seconds;      /* a guess from a measured product; negative: none */
} pare__need;

/* Adds up peaks and budget; PARE_ERR_MEMORY with what would fit (`smaller`: a hint, "a batch of 32
 * needs 1.2 GiB", may be NULL). */
pare_status pare__need_check(const pare__bench *bench, pare__need *need, const char *smaller);

/* FLOP/s of a product of square matrices here; negative on failure. */
double pare__product_rate(pare_backend *be, pare_dtype compute);

/* ---- reports --------------------------------------------------------------------------------- */

void pare__report_subject(pare__json *parent, const char *key, const pare__subject *subject);
void pare__report_data(pare__json *parent, const char *key, const pare_data_options *options,
                       const pare_dataset *dataset);
void pare__report_need(pare__json *root, const pare__bench *bench, const pare__need *need,
                       pare_dtype compute);
/* What was taken: members of `actual`. */
void pare__report_taken(pare__json *actual, const pare__bench *bench);
/* The metrics asked for as members. */
void pare__report_metrics(pare__json *object, unsigned metrics, const pare_eval_result *result);

/* ---- run_eval.c ------------------------------------------------------------------------------ */

/* The metrics of a model and its data where none are named. */
unsigned pare__default_metrics(const pare_model *model, const pare_dataset *dataset);

/* ---- model_write.c --------------------------------------------------------------------------- */

/* Digests of the source's tensors as docs/formats/store.md has them, as the text of a JSON object;
 * "{}" from scratch. Reads the whole source; caller frees. */
pare_status pare__source_digests(const pare__subject *subject, pare_backend *be, char **text);

/* Rounds the model's values to what the output will hold, so that what is measured is what is
 * written. PARE_ERR_NUMERIC names a tensor whose values do not fit the source's dtype. */
pare_status pare__model_round(const pare__subject *subject, pare_backend *be);

typedef struct pare__model_write {
    const pare__subject *subject;
    pare_backend *be;
    const char *output;
    const char *recipe;  /* normalised text for the provenance */
    const char *data;    /* digest of what it learned from, hex */
    const char *sources; /* pare__source_digests */
    int64_t max_shard_size;
    const pare_qat *qat; /* parameters that it quantises are written as its integers; NULL */
    bool overwrite;
} pare__model_write;

/* Writes the model's values in the source's dtypes (F32 from scratch), with all that the source
 * holds beside them. */
pare_status pare__model_write_out(const pare__model_write *write);
/* Whether that container can hold it: before there are values. */
pare_status pare__model_write_check(const pare__model_write *write);

#endif
