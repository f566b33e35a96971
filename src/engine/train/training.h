/* training.h - a run that trains: what its files share.
 *
 * train_open.c opens models, data and output and decides what was left open; train_join.c makes
 * what takes part: the losses of a distillation, schedules of masks, quantisers, low-rank factors;
 * run_train.c predicts and does the work; train_state.c keeps the state beside the output, and the
 * one before it; train_report.c says what was done; train_text.c is the
 * recipe as text. student.c makes a student of a teacher.
 */
#ifndef PARE_ENGINE_TRAINING_H
#define PARE_ENGINE_TRAINING_H

#include "engine/learn.h"
#include "engine/report/report_impl.h"
#include "train_text.h"

#include "pare/run.h"

typedef struct pare__training {
    const pare_train_job *job;
    const pare_run_options *options;
    pare_run_options own_options; /* with this rank's share of threads and devices */
    char device[24];
    pare_train_options train; /* with steps and batch decided */
    pare__bench bench;
    pare_comm *world, *comm;  /* processes; and what gradients go through, NULL: alone */
    pare_model_choice choice; /* what learns: the job's model, or the student made of the teacher */
    pare__subject subject, teacher; /* teacher.model NULL: none */
    pare_backend *teacher_be; /* a second one of the device; NULL: the teacher has the bench's */
    pare_data_options data, eval;
    pare_dataset *dataset, *eval_dataset;
    pare_model_shape shape, teacher_shape;
    /* what takes part (train_join.c) */
    uint8_t *chosen; /* [parameters] */
    pare_distill_options losses;
    pare_mask_options mask_options;
    pare_qat_options qat_options;
    pare_lora_options lora_options;
    pare_distill *distill;
    pare_teacher_cache *cache;
    pare_masks *masks;
    pare_qat *qat;
    pare_lora *lora;
    const pare_loss_term *terms;
    size_t term_count;
    pare_train_part *parts[3];
    size_t part_count;
    pare_trainer *trainer;
    pare__need need;
    char *recipe, *state_path, *before_path, *student_path, *lock_path, *fingerprint, *sources,
        *teacher_sources;
    int lock;      /* descriptor of the file that says that somebody works on this output */
    bool replaces; /* an output of that name may be replaced */
    bool made_student;
    char digest[33]; /* of the data */
    double saved_at;
    int64_t began_at; /* step */
    bool resumed;
    unsigned metrics;
    pare_cache_facts cached;
    pare_eval_result result;
} pare__training;

/* Whether this process writes the output and speaks: the first of several ranks. */
static inline bool pare__is_first(const pare__training *t)
{
    return !t->world || pare_comm_facts_of(t->world)->rank == 0;
}

/* ---- train_open.c ---------------------------------------------------------------------------- */

/* Everything that can be wrong is found here, before any of the models' memory is there. With
 * `plan` a student is not made. */
pare_status pare__training_open(pare__training *t, bool plan);
void pare__training_close(pare__training *t);
pare_eval_options pare__training_eval(const pare__training *t);

/* ---- train_join.c ---------------------------------------------------------------------------- */

/* Makes what takes part, from the models' graphs alone. */
pare_status pare__join_create(pare__training *t);
void pare__join_free(pare__training *t);
/* Terms and parts: without memory for checks and predictions (be NULL), or as they work, once the
 * models are prepared and loaded. */
pare_status pare__join_in(pare__training *t, pare_backend *be);
/* What they take of the backend's memory. */
int64_t pare__join_bytes(const pare__training *t);
pare_train_setup pare__training_setup(const pare__training *t);
/* The teacher's outputs on disk: makes what is not there yet, and opens it. */
pare_status pare__join_cache(pare__training *t);

/* ---- run_train.c ----------------------------------------------------------------------------- */

/* A trainer at step 0, with the values that the model begins with. */
pare_status pare__training_begin(pare__training *t);

/* ---- train_state.c --------------------------------------------------------------------------- */

/* "OUT.train.h5", and "OUT.train.before.h5": the state before it, for the day that it is damaged.
 */
pare_status pare__state_save(pare__training *t);
/* Goes on where a run that was cut stopped. With --overwrite the state of another run, or damaged
 * ones, are dropped. */
pare_status pare__state_resume(pare__training *t);
pare_status pare__state_remove(pare__training *t);

/* ---- train_report.c -------------------------------------------------------------------------- */

pare_status pare__training_fill(pare__training *t, pare_report *r, bool planned, double seconds);

/* ---- train_scaling.c ------------------------------------------------------------------------- */

/* What 2, 8 and 64 GPUs would take: predicted. */
void pare__training_scaling(const pare__training *t, pare__json *root);

/* ---- student.c ------------------------------------------------------------------------------- */

/* The graph of a student made of a teacher, for plans. */
pare_status pare__student_model(const pare__subject *teacher, const char *shape,
                                pare_student_init init, pare_model **model);
/* Writes it, values and all that the teacher's checkpoint holds beside them, to an .h5. The same
 * bytes every time. */
pare_status pare__student_make(const pare__subject *teacher, const char *shape,
                               pare_student_init init, uint64_t seed,
                               const pare_run_options *options, const char *path);

#endif
