/* walk.h - compression with calibration data: the model goes block by block, and each layer is
 * solved by what the samples say about its inputs.
 *
 * The way of the data: walk_plan.c opens model and samples and says which tensors are made here;
 * walk_predict.c what it takes; walk.c goes over the blocks; walk_run.c runs a block over all
 * samples, from one file of hidden states to the next, and gathers statistics; walk_scale.c folds
 * scales of inputs into what comes before; walk_site.c prunes (walk_mask.c) and rounds a site's
 * layers; walk_write.c keeps results, walk_journal.c says which there are; walk_save.c brings both
 * and hidden states to the files (walk_files.c); walk_ranks.c shares all of it between processes.
 * Afterwards the chunks of a walked tensor take their rows from those results (pare__walk_rows), so
 * that one pipeline writes every output, sparse ones included, whose size is known only then.
 *
 * "<output>.walk" holds way (threads, instruction set, device: what the bytes depend on) and, in
 * deal.0/rank.R or deal.1/rank.R, the files of process R: hidden.0, hidden.1 and results
 * (everything a solved layer has become). Files are not memory.
 */
#ifndef PARE_ENGINE_WALK_H
#define PARE_ENGINE_WALK_H

#include "engine/learn.h"

#include "pare/calib.h"

#include "base/carve.h"

/* A tensor that the walk makes. */
struct pare__walked {
    const pare_prune_step *prune; /* what is done to it; both NULL: a neighbour's scales may be */
    const pare_quant_step *quant; /* folded into it, no more */
    int64_t site;                 /* at which it is a layer, −1 */
    int64_t block;
    double sparsity; /* of prune */
    int64_t inner;   /* of a convolution: kh·kw */
    int64_t at;      /* of its results in the file of the process that makes them: values; or codes,
                        scales, zeros one by one */
    bool done;
    pare_layer_report report;
    int64_t nonzeros; /* −1: not counted */
    double seconds;
};

typedef struct pare__walk_site {
    pare_site site;
    int64_t block, index;            /* index: of the site in its block */
    int64_t task[PARE_SITE_LAYERS];  /* of each weight; −1: nothing is done to it */
    unsigned needs;                  /* set of pare_stat */
    const pare_quant_step *scaling;  /* finds scales of the inputs, or NULL */
    bool foldable;                   /* they have where to go: */
    int64_t fold[2];                 /* tasks of weight and bias, −1: none */
    float *scales;                   /* [K] once they are found, else NULL */
    bool scaled;                     /* and they are used */
    double before[PARE_SITE_LAYERS]; /* errors of rounding before, NaN: not known */
    char note[160];
} pare__walk_site;

/* What is on its way from a device to the files. */
typedef struct pare__saving pare__saving;

struct pare__walker {
    pare__job *job;
    const pare_calibration *calibration;
    pare_model *model;
    pare_dataset *dataset;
    int64_t samples;
    int64_t first, last, most; /* of these, this process's [first, last); the most that one has */
    bool padded;               /* samples may hold padding */
    pare_model_shape shape;
    int threads; /* of one op */
    int64_t blocks;
    pare__walk_site *sites;
    int64_t site_count;
    pare_prune_step *plain_prunes; /* the recipe's without data, for what is no site */
    pare_quant_step *plain_quants;
    int64_t result_bytes, hidden_bytes; /* of the files; hidden: of one at most */
    int64_t own_bytes;                  /* of the results that this process makes */
    int64_t read_bytes;                 /* of the source */
    double flops;
    int64_t arena_bytes, hidden_in_bytes, staging_bytes, vector_bytes; /* of what is below */
    int64_t saving_bytes; /* of the most that is saved at once: hidden states, a layer's result */
    pare__bytes peak;     /* of all that the walk takes, libraries included */
    int64_t left_bytes;   /* of the host's, that libraries keep when it is over */

    /* while it works */
    pare_backend *be;
    pare_comm *comm;          /* of several processes: for the backend's memory */
    pare_comm_traffic before; /* what had gone between them when this began */
    pare_comm_traffic moved;  /* by comm, where that is one of its own */
    int64_t device_free;      /* bytes, before it began */
    pare_model *block;
    int64_t at;            /* its index */
    int64_t done;          /* blocks done */
    int dealt, deal;       /* what the journal says: for how many processes, 0: none; in deal.N */
    char *folder;          /* "<output>.walk/deal.N/rank.R" */
    int hidden[2], result; /* files; −1 */
    bool ready;            /* all blocks are done: results are whole */
    char *hidden_in;       /* a batch's hidden state, the backend's */
    bool holds;            /* all hidden states fit a device beside the work: then they are */
    char *held[2];         /* kept there too, those that go into block held_for */
    int64_t held_for;
    char *staging;           /* PARE__WALK_STAGING bytes of the host's */
    pare__saving *saving;    /* of a device; NULL: what is to be saved is written at once */
    char *arena;             /* rows for statistics while a block runs, or what a layer needs */
    float *vector;           /* of the backend's: as long as any row or column */
    pare_site_stats **stats; /* [site_count] or NULL */
    pare_site_cache *cache;

    /* A survey: called for each site with its statistics, in the place of all that would change
     * the model, and at the end with site −1; nothing is journalled. Of a dense walk. */
    pare_status (*visit)(pare__walker *w, int64_t site, void *user);
    void *visit_user;
    bool visited;                      /* there will be one; it takes */
    int64_t visit_bytes, visit_beside; /* of the arena, and of the backend's memory beside it */
};

#define PARE__WALK_STAGING ((int64_t)4 << 20)
/* Patches of a convolution are made and counted some images at a time. */
#define PARE__WALK_PATCHES ((int64_t)8 << 20)

/* ---- walk_plan.c ----------------------------------------------------------------------------- */

/* Sites of a block, in order: [*first, *first + count). */
int64_t pare__walk_sites_of(const pare__walker *w, int64_t block, int64_t *first);

/* The data's options of a calibration, completed by the model. */
pare_data_options pare__walk_samples(const pare_calibration *c, uint64_t seed,
                                     const pare_model *model);

/* A text of all that results depend on beside recipe and source, but for the number of processes,
 * by which only the order of sums differs. Caller frees. */
pare_status pare__walk_way(const pare__walker *w, char **text);
/* Which statistics those of a dense walk are. Caller frees. */
pare_status pare__walk_cache_key(const pare__walker *w, char **text);

/* ---- walk.c ---------------------------------------------------------------------------------- */

/* A block with what its results will need of its plan. */
pare_status pare__walk_block(const pare__walker *w, int64_t index, pare_model **block);

/* ---- walk_predict.c -------------------------------------------------------------------------- */

/* Bytes of the hidden state that goes into a block, of one sample. */
int64_t pare__walk_hidden_sample(const pare__walker *w, const pare_model *block);

/* ---- walk_files.c ---------------------------------------------------------------------------- */

/* Those that are there, where they are whole: of another number of processes they are dealt out
 * anew first. Else the walk begins anew. */
pare_status pare__walk_open_files(pare__walker *w);
void pare__walk_close_files(pare__walker *w);

/* ---- walk_run.c ------------------------------------------------------------------------------ */

/* Bytes of the arena that the statistics of the open block's sites take. */
int64_t pare__walk_rows_bytes(const pare__walker *w);

/* Runs the open block over all samples: statistics of `count` sites from `first` on that are
 * `wanted` (NULL: all) are gathered and finished; `next`: the hidden states that come out are
 * kept. */
pare_status pare__walk_run(pare__walker *w, int64_t first, int64_t count, const bool *wanted,
                           bool next);
void pare__walk_drop_stats(pare__walker *w);

/* ---- walk_scale.c ---------------------------------------------------------------------------- */

/* A task's source values in F32 [R, C], the backend's, with all known scales of its block folded
 * in. */
pare_status pare__walk_weight(pare__walker *w, int64_t task, pare_tensor values);

/* The parameter of the open block that a task is. */
int64_t pare__walk_param(const pare__walker *w, int64_t task);

/* Finds the scales of a site's inputs by its statistics, keeps them, and puts what they change into
 * the block. */
pare_status pare__walk_scale(pare__walker *w, int64_t site);
/* Puts what the scales that are known already have changed into the block: after loading. */
pare_status pare__walk_fold_known(pare__walker *w);
/* Keeps what scales may have been folded into and is no layer itself. */
pare_status pare__walk_keep_folded(pare__walker *w);
/* Bytes of the arena that this takes. */
int64_t pare__walk_scale_bytes(const pare__walker *w, const pare__walk_site *site);
/* Bytes of the source that are read for it. */
int64_t pare__walk_scale_reads(const pare__walker *w, const pare__walk_site *site);
/* Bytes of the host's that reading a task's source values takes. */
int64_t pare__walk_source_bytes(const pare__walker *w, int64_t task);

/* ---- walk_journal.c -------------------------------------------------------------------------- */

/* Takes a record of a walk from the journal; *taken: it was one. */
pare_status pare__walk_take(pare__job *job, uint32_t type, const void *payload, uint32_t size,
                            bool *taken);
/* Whether there is nothing left to walk for. */
bool pare__walk_whole(const pare__job *job);
/* Nothing is done yet, whatever the journal says so far: neither of the walk nor after it. */
pare_status pare__walk_forget(pare__walker *w);
/* The files are those that w->dealt and w->deal say. */
pare_status pare__walk_dealt(pare__walker *w);
/* With --sync what the walk has written so far is on the disk. */
pare_status pare__walk_flush(const pare__job *job);
/* Refuses to go on with a walk that was begun in another way, and says which. */
pare_status pare__walk_check_way(const pare__job *job, const char *journal);

/* ---- walk_site.c ----------------------------------------------------------------------------- */

/* Solves the layers of a site that are not done, each durable before the next; those that are done
 * are put into the block. Of several processes each solves its own, and then they share. */
pare_status pare__walk_solve(pare__walker *w, int64_t site);
/* What the layers of a site have become, from the process that solved it to all: into their blocks,
 * and into the journal. */
pare_status pare__walk_share(pare__walker *w, int64_t site);
/* Bytes of the arena that a site's layers need; and what methods take beside it. */
int64_t pare__walk_layer_bytes(const pare__walker *w, const pare__walk_site *site);
int64_t pare__walk_method_bytes(const pare__walker *w, const pare__walk_site *site);

/* A layer of a task as methods see it, without statistics, its memory carved. */
void pare__walk_layer(const pare__task *task, pare__carve *carve, pare_layer *layer);

/* ---- walk_save.c ----------------------------------------------------------------------------- */

/* Part of what is saved: the backend's memory, and its place in the file. */
typedef struct pare__piece {
    const void *values;
    int64_t bytes, at;
} pare__piece;

#define PARE__WALK_PIECES 3
/* What a backend of a device takes there by itself. */
#define PARE__PLACE_BYTES ((int64_t)128 << 10)

pare_status pare__walk_open_saving(pare__walker *w);
/* What was handed over is saved before it closes, if it can be. */
void pare__walk_close_saving(pare__walker *w);
/* Bytes of a device that saving pieces of so many bytes takes. */
int64_t pare__walk_saving_bytes(int64_t bytes);

/* Saves up to PARE__WALK_PIECES pieces, and then, of a task ≥ 0, its record. On return the pieces
 * may be changed by what the backend is asked next; those of a device may not be in the file yet.
 * Fails with what failed first, now or before. */
pare_status pare__walk_save(pare__walker *w, int file, const pare__piece *pieces, int count,
                            int64_t task);
/* Waits until all of it is in the files. */
pare_status pare__walk_saved(pare__walker *w);

/* ---- walk_write.c ---------------------------------------------------------------------------- */

/* Bytes of a task's results: with what fills them up, and as they are written. */
int64_t pare__walk_result_bytes(const pare__task *task);
int64_t pare__walk_result_end(const pare__task *task);

/* Saves a layer's result and its record: codes, scales and zeros, or w rounded to the entry's dtype
 * (narrow: room for that, unless it is F32). */
pare_status pare__walk_write(pare__walker *w, int64_t task, const pare_layer *layer, void *narrow);
/* Reads it back: codes and so on as they were, w decoded. */
pare_status pare__walk_read(pare__walker *w, int64_t task, const pare_layer *layer, void *narrow);
/* The same where another process has it, which has read it (both call this). */
pare_status pare__walk_receive(pare__walker *w, int64_t task, const pare_layer *layer,
                               void *narrow);

/* A part of a file into the backend's memory. */
pare_status pare__walk_load(pare__walker *w, int file, void *values, int64_t bytes, int64_t at);

/* ---- walk_ranks.c ---------------------------------------------------------------------------- */

/* Which of so many processes makes what, and where in its file that lies. */
pare_status pare__walk_deal(pare__walker *w, int ranks);
/* Which samples a process of so many runs: [*first, *last). */
void pare__walk_range(const pare__walker *w, int ranks, int rank, int64_t *first, int64_t *last);
/* Those of this one. */
pare_status pare__walk_share_samples(pare__walker *w);

/* All that follows does nothing if this process is alone. */

/* *all becomes whether it is so of all. */
pare_status pare__walk_all(const pare__walker *w, bool *all);
/* What the first one's journal says of the walk, to all. */
pare_status pare__walk_tell(pare__walker *w);
/* Fails once another has. */
pare_status pare__walk_alive(const pare__walker *w);
/* The statistics of a site become those of all samples. */
pare_status pare__walk_join(pare__walker *w, int64_t site);
int64_t pare__walk_join_bytes(const pare__walker *w); /* of the host's, that this takes */
/* The scales that the first one has found, to all. */
pare_status pare__walk_tell_scales(pare__walker *w, int64_t site);
/* A task's result is made: what the one that made it says of it, to all and into the journal. */
pare_status pare__walk_tell_layer(pare__walker *w, int64_t task);

#endif
