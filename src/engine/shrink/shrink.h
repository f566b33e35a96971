/* shrink.h - a run that makes a smaller model: what its files share.
 *
 * run_shrink.c opens the model, finds its units, predicts, and does the work; shrink_score.c scores
 * the units, from the weights alone or with data; shrink_write.c cuts every tensor and writes it;
 * shrink_report.c says what was done.
 */
#ifndef PARE_ENGINE_SHRINK_H
#define PARE_ENGINE_SHRINK_H

#include "engine/learn.h"

/* One tensor of the output. */
typedef struct pare__shrunk_tensor {
    char *name;         /* in the output */
    int64_t source;     /* entry of the store */
    int64_t param;      /* of the model, −1: carried along as it is */
    double gain;        /* its values are multiplied by this */
    const char *reason; /* of its role, static */
    pare_role role;
} pare__shrunk_tensor;

typedef struct pare__shrink {
    const pare_recipe *recipe;
    const pare_prune_step *step;
    pare_run_options options;
    pare_model_choice choice;
    pare__bench bench;
    pare__subject subject;
    pare_unit_kind kind;
    pare_couple *couple;
    uint8_t *chosen; /* [classes] */
    double *score;   /* [units] */
    uint8_t *keep;   /* [units] */
    int64_t *param;  /* [entries of the store]: −1 */
    /* of methods with data; dataset NULL without */
    pare_data_options data;
    pare_dataset *dataset;
    pare_model_shape shape;
    char data_digest[33];
    pare__need need;
    char *recipe_text, *sources, *config;
    pare__shrunk_tensor *tensors; /* [count], by name */
    pare_entry *entries;          /* beside them: of the output */
    int64_t count, dropped;       /* dropped: tables that the smaller model cannot use */
    int64_t files, out_bytes;
    int64_t read_bytes, write_bytes;
    double flops, flops_after; /* of one forward of one sample; negative: unknown */
    int64_t length;            /* tokens of it */
    pare__json *phases;
} pare__shrink;

/* ---- run_shrink.c ---------------------------------------------------------------------------- */

/* What a shrink without a run of its own (student.c) needs: the units of the model that is open,
 * and the classes that the step chooses; the source's digests; and the end of it all. */
pare_status pare__shrink_units(pare__shrink *s);
pare_status pare__shrink_verify(pare__shrink *s);
void pare__shrink_close(pare__shrink *s);

/* ---- shrink_score.c -------------------------------------------------------------------------- */

/* What the step's method needs of data, once the units are known: opens it and adds what the model
 * takes to s->need. PARE_ERR_UNSUPPORTED for a method that scores no units. */
pare_status pare__shrink_open_data(pare__shrink *s);
/* Bytes of the host's that scores are made in, rows at a time. */
int64_t pare__shrink_score_bytes(const pare__shrink *s);
/* Fills s->score. */
pare_status pare__shrink_score(pare__shrink *s);

/* ---- shrink_write.c -------------------------------------------------------------------------- */

/* Lists what the output will hold, by s->keep, and its config; may be called again with another. */
pare_status pare__shrink_list(pare__shrink *s);
void pare__shrink_unlist(pare__shrink *s);
/* Bytes that writing takes at once. */
int64_t pare__shrink_bytes(const pare__shrink *s);
void pare__shrink_writer_options(const pare__shrink *s, pare_writer_options *options);
pare_status pare__shrink_write(pare__shrink *s);

/* PARE_ERR_INTERRUPTED once the user wants to stop. */
pare_status pare__shrink_stopped(const pare__shrink *s);

/* ---- shrink_report.c ------------------------------------------------------------------------- */

pare_status pare__shrink_report(pare__shrink *s, bool planned, double seconds,
                                pare_report **report);

#endif
