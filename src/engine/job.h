/* job.h - a run from inside: what happens to each tensor, cut into chunks, and what the passes find
 * out.
 *
 * The way of the data: plan.c decides for every tensor; select.c and ranges.c read the source to
 * find thresholds, per-tensor scales and counts; run.c creates the output and sends every chunk
 * through chunk.c (read, prune, quantise, encode, write) on the scheduler, with resume.c keeping
 * the journal. Several processes share a walk and the writing of what it made (run_ranks.c).
 */
#ifndef PARE_ENGINE_JOB_H
#define PARE_ENGINE_JOB_H

#include "pare/comm.h"
#include "pare/model.h"
#include "pare/run.h"
#include "pare/sched.h"
#include "pare/store.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

#include <pthread.h>

/* Where the work is done. */
typedef struct pare__device {
    bool cuda;
    int index;                  /* cuda:index */
    const char *isa;            /* of the CPU, NULL: the best */
    int64_t memory;             /* bytes of a device that may be used; 0 for the CPU */
    char name[112];             /* "cpu", "cuda:0 NVIDIA H200" */
    _Atomic int64_t held, peak; /* bytes of it that lanes hold now, and held at most */
} pare__device;

/* What something needs or has: the host's, and the device's. */
typedef struct pare__bytes {
    int64_t host, device;
} pare__bytes;

/* How a tensor's rows get from the source to the output. */
typedef enum pare__way {
    PARE__WAY_VALUES, /* read decoded, pruned and quantised as asked, written in out.form */
    PARE__WAY_KEEP,   /* quantised or sparse rows go over in their own form */
} pare__way;

typedef struct pare__walked pare__walked;
typedef struct pare__walker pare__walker;

typedef struct pare__task {
    int64_t source; /* index in the store */
    pare_entry out; /* name borrowed from the store */
    pare__way way;
    pare_role role;
    const char *reason;
    const pare_prune_step *prune; /* NULL: not pruned */
    const pare_quant_step *quant; /* NULL: not quantised */
    pare__walked *walked;  /* what the walk over the blocks does instead of both; NULL: nothing */
    char *fallback, *note; /* sentences for the report, or NULL */
    bool maybe_sparse;     /* sparse if that turns out smaller, else dense: decided by counting */
    uint64_t stream;       /* for random scores: a hash of the name */
    int64_t group;         /* selection group, -1: none */
    int64_t inner;         /* N:M of a convolution: kh·kw, else 1 */
    int64_t grad;          /* its entry among the gradients (gradients.c), once they are there */
    int64_t chunk_rows, chunks, first_chunk;
    int64_t chunk_bytes; /* of source values in a full chunk */
    float scale;         /* of a per-tensor scheme, once known */
    int8_t zero;
    float lo, hi;     /* its range so far */
    int64_t nonzeros; /* of the output's values, once counted or written */
    int64_t left;     /* chunks not yet written */
    int rank;         /* of several processes the one that makes and writes it */
} pare__task;

/* Elements (or blocks) that share one threshold. */
typedef struct pare__group {
    const pare_prune_step *step;
    int64_t units, prune; /* how many there are, how many go */
    uint32_t threshold;
    int64_t ties;      /* how many of those at the threshold go, in order of place */
    int64_t equal;     /* how many lie at the threshold */
    int64_t ties_seen; /* while a pass runs: those in chunks before */
} pare__group;

typedef struct pare__chunk {
    int32_t task;
    bool done;        /* written, by this run or one before */
    int64_t first;    /* row */
    int64_t ties;     /* at the group's threshold, -1: not counted */
    int64_t nonzeros; /* of the output's values, -1: not counted */
    int64_t before;   /* nonzeros of the tensor's chunks before, once counted */
    double scales;    /* sum of the scales, for double_quant */
} pare__chunk;

/* What the journal says of a chunk whose bytes are in the file. */
typedef struct pare__chunk_record {
    int64_t chunk, ties, nonzeros;
    int64_t ordinal; /* in the journal, while it is read */
    uint64_t digest[2];
    pare_sums sums;
} pare__chunk_record;

typedef struct pare__lane pare__lane;

typedef struct pare__gradients pare__gradients;

typedef struct pare__job {
    const pare_recipe *recipe;
    const pare_run_options *options;
    pare_comm *ranks; /* that do it together, NULL: this process alone */
    pare_store *store;
    pare__task *tasks; /* [count], in name order */
    int64_t count;
    pare__group *groups;
    int64_t group_count;
    pare__chunk *chunks;
    int64_t chunk_count;
    pare_entry *entries; /* [count]: what the writer gets, from tasks */
    char *config;        /* of recipe->arch: what it says as config.json, or NULL */
    char *recipe_text, *provenance;
    uint64_t *digests; /* [count][2] of the source's values; guarded by lock */
    pare_sums *sums;   /* [count]: the writer's checksums that the journal gave back */
    double *errors;    /* [count][PARE_QUANT_CANDIDATES] of per-tensor searches, or NULL */
    pare_sched *sched;
    pare__device device;
    int threads;
    int64_t memory;     /* the user's budget for the process */
    int64_t context;    /* what opening the device took of the host's, beside it */
    pare__bytes budget; /* what chunks in flight may hold */
    pare__bytes peak;   /* predicted */
    pare__lane *lanes;  /* [threads] */
    pare_writer *writer;
    pare_journal *journal;
    char boot[36];        /* of the machine, or machines: what is on a disk may depend on it */
    uint64_t key[2];      /* of the journal: the same for the same work */
    pare__walker *walker; /* of a step with data, or NULL (walk.h) */
    pare__gradients *gradients;       /* what makes them; NULL: no method wants them */
    pare_store *grads;                /* and they themselves, once they are there */
    bool resumed, laid_out, finished; /* what the journal says; finished: the output is in place */
    bool same_boot, layout_unsure;    /* while it is read: records of another boot are unsure */
    pare__chunk_record *unsure;
    size_t unsure_count, unsure_capacity;
    pare__chunk_record *records; /* [chunk_count] of a rank that has no journal: what it wrote */
    _Atomic int64_t record_count;
    _Atomic int64_t journaled; /* chunk records */
    int64_t chunks_done_before;
    bool selected, ranged, counted; /* passes whose results the journal gave back */
    pthread_mutex_t lock;
    _Atomic int64_t read_bytes, write_bytes; /* by this run */
    pare__json *phases;                      /* [ { name, seconds } ] */
    const pare__json *survey, *surveying;    /* what decided the recipe, or NULL: survey.h */
} pare__job;

/* ---- devices.c ------------------------------------------------------------------------------- */

/* What --device means here: *cuda, and which (*index; 0 without). NULL and "auto" take cuda:0 where
 * there is one, else the CPU. PARE_ERR_ARGUMENT for a word that is none, PARE_ERR_DEVICE says why a
 * device that was asked for is not there. */
pare_status pare__device_of(const char *device, bool *cuda, int *index);

/* The same with what a run needs of it: its name, how much of its memory may be used. */
pare_status pare__device_choose(const pare_run_options *options, pare__device *device);

/* Of several processes on a machine each takes a device of its own, where *device leaves it open:
 * then it becomes a name in `text`. */
void pare__device_spread(const pare_comm *ranks, const char **device, char text[24]);

/* Lanes to work with: those asked for; else one for each processor, on a device at least enough
 * that reading, copying, computing and writing overlap. */
int pare__lane_count(const pare__device *device, int asked);

/* ---- plan.c ---------------------------------------------------------------------------------- */

/* Opens the model and decides everything that needs no values. */
pare_status pare__job_open(const pare_recipe *recipe, const pare_run_options *options,
                           pare_comm *ranks, pare__job **job);
void pare__job_free(pare__job **job);

/* Sets (or, if strict, fails with) the reason why a step does something else here. */
pare_status pare__task_fall_back(const pare__job *job, pare__task *task, const char *sentence);

/* Fills entries from tasks and writer options from job. */
void pare__job_writer_options(pare__job *job, pare_writer_options *options);

/* ---- predict.c ------------------------------------------------------------------------------- */

typedef struct pare__prediction {
    int64_t passes, read_bytes, write_bytes, files, out_bytes, peak_memory;
    double seconds; /* negative: unknown */
    char isa[16];
} pare__prediction;

/* Checks the budget (PARE_ERR_MEMORY) and sets threads and the budget for items in flight. */
pare_status pare__job_budget(pare__job *job);
pare_status pare__job_predict(pare__job *job, pare__prediction *prediction);

/* ---- lane.c ---------------------------------------------------------------------------------- */

/* Arenas up to this size are kept between chunks; the ones of giant rows are given back. */
#define PARE__KEPT_ARENA ((int64_t)32 << 20)

/* On a device, for each lane beside its arena: small results, the operations' scratch, what an
 * allocation is rounded up by. */
#define PARE__LANE_ON_DEVICE ((int64_t)4 << 20)

typedef struct pare__arena {
    char *base;
    int64_t size;
} pare__arena;

/* One worker's memory and backend. Files are read into and written from the host's memory; what is
 * worked on lies in the backend's, which on the CPU is the same. Pointers are valid for the chunk
 * at hand; those that its task does not need are NULL. */
struct pare__lane {
    pare__device *place;
    pare_backend *device; /* a CUDA backend with a stream of its own; on the CPU: host */
    pare_backend *host;
    pare__arena near, far; /* of the host; of the device, where that is another */
    pare_backend *be;      /* where this chunk is worked on: device, or host where that suffices */
    const pare__task *task;
    int64_t first, rows; /* of the chunk */
    pare_blocks blocks;  /* of the task's scheme over these rows */

    /* The host's. */
    void *source;                         /* [rows, cols] as read (values itself on the CPU) */
    float *grad_source;                   /* likewise of grad */
    pare_rows out;                        /* what is written; on a device its memory is source's */
    uint32_t *scores;                     /* N:M of a convolution: what it goes by, */
    uint32_t *permuted;                   /* the same by input channel, */
    uint8_t *permuted_mask, *turned_mask; /* its mask, and turned back */
    void *read_scratch, *write_scratch;
    pare_parts parts;

    /* The backend's. */
    void *values;   /* [rows, cols] in the source's dtype */
    float *w;       /* the same in f32 (values itself for F32) */
    float *grad;    /* [rows, cols] for methods that want gradients */
    float *range;   /* [2] least and greatest of w */
    uint32_t *keys; /* scores of elements or blocks, where they are not |w| */
    uint8_t *mask, *block_mask;
    float *lo;          /* with made.scale: the ranges that scales are made from */
    pare_rows made;     /* what out gets, of the same arrangement */
    int64_t made_bytes; /* from its first array to the end of its last */

    uint64_t digest[2];
    int64_t ties, ties_before;    /* at the group's threshold: here, and in chunks before */
    int64_t *bins, *bins_on_host; /* [bins_count] selection histogram of this worker */
    int64_t bins_count;
    int64_t bins_group; /* whose, -1: none */
};

pare_status pare__lane_open(pare__device *device, pare__lane *lane);
void pare__lane_close(pare__lane *lane);

/* Makes the arenas hold at least so much (of a device that is the host, all is the host's); and
 * gives large ones back. */
pare_status pare__lane_hold(pare__lane *lane, pare__bytes need);
void pare__lane_end(pare__lane *lane);

/* The histogram: `bins` counters of zero in the backend's memory, and a place for them on the host.
 */
pare_status pare__lane_bins(pare__lane *lane, int64_t bins);
void pare__lane_bins_free(pare__lane *lane);

pare_status pare__lanes_create(pare__job *job);
void pare__lanes_free(pare__job *job);

/* Bytes a lane needs for a chunk. */
pare__bytes pare__chunk_bytes(const pare__job *job, int64_t chunk);

/* Carves the lane's arenas for a chunk. */
pare_status pare__lane_begin(pare__job *job, pare__lane *lane, int64_t chunk);

/* ---- chunk.c --------------------------------------------------------------------------------- */

/* The steps of a chunk, in this order; on the CPU upload and download have nothing to do. */
pare_status pare__chunk_read(pare__job *job, pare__lane *lane, int64_t chunk);
pare_status pare__chunk_digest(pare__lane *lane); /* of the source's values */
pare_status pare__chunk_upload(pare__lane *lane);
pare_status pare__chunk_score(pare__job *job, pare__lane *lane);               /* w, keys */
pare_status pare__chunk_ties(pare__job *job, pare__lane *lane, int64_t chunk); /* counts them */
void pare__chunk_order(pare__job *job, pare__lane *lane, int64_t chunk); /* in order: ties_before */
pare_status pare__chunk_prune(pare__job *job, pare__lane *lane);         /* mask, values, w */
pare_status pare__chunk_quantize(pare__lane *lane);
pare_status pare__chunk_gather(pare__job *job, pare__lane *lane,
                               int64_t chunk); /* a sparse output's mask and values; nonzeros */
pare_status pare__chunk_download(pare__lane *lane);
pare_status pare__chunk_encode(pare__job *job, pare__lane *lane, int64_t chunk);

/* The least and the greatest of w, on the host; PARE_ERR_DAMAGED names what is not finite. */
pare_status pare__chunk_range(pare__lane *lane, float range[2]);

/* The sentence for a NaN or Inf in w (PARE_ERR_DAMAGED), or the failure as it was if there is none.
 */
pare_status pare__chunk_blame(pare__lane *lane, pare_status status);

/* Whether a task's threshold (or any task's) has ties of which only some go, so that its chunks
 * need their order. */
bool pare__task_ordered(const pare__job *job, const pare__task *task);
bool pare__job_ordered(const pare__job *job);

/* ---- passes ---------------------------------------------------------------------------------- */

/* pass.c: runs stages as a timed phase. */
pare_status pare__job_phase(pare__job *job, const pare_job *stages);

/* A pass over the source for the tasks it wants: each of their chunks is read, scored, pruned, then
 * given to work. */
typedef struct pare__pass {
    const char *name;
    bool (*wants)(const pare__task *task);
    pare_status (*work)(pare__job *job, pare__lane *lane, int64_t chunk);
    bool work_in_order; /* work sees the chunks in ascending order, one at a time */
} pare__pass;
bool pare__pass_has_work(const pare__job *job, const pare__pass *pass);
pare_status pare__pass_run(pare__job *job, const pare__pass *pass);

/* select.c: thresholds of all groups. */
pare_status pare__job_select(pare__job *job);
/* ranges.c: scales of per-tensor schemes, offsets of scales that are quantised too. */
bool pare__job_has_ranges(const pare__job *job);
pare_status pare__job_ranges(pare__job *job);
/* count.c: nonzeros of what may be sparse, and whether it will be. */
bool pare__job_has_count(const pare__job *job);
pare_status pare__job_count(pare__job *job);
void pare__job_counted(pare__job *job); /* decides from the chunks' counts */

/* ---- resume.c -------------------------------------------------------------------------------- */

/* The output's path with an ending of its own: "<output>.journal". Caller frees. */
pare_status pare__beside(const pare_recipe *recipe, const char *ending, char **path);

pare_status pare__has_journal(const pare_recipe *recipe, bool *has);

pare_status pare__job_boot(pare__job *job);   /* before it, of all processes */
pare_status pare__job_resume(pare__job *job); /* opens the journal, takes over what it holds */
void pare__job_forget(pare__job *job);        /* a walk's results: what came of them is void */
pare_status pare__journal_select(pare__job *job);
pare_status pare__journal_ranges(pare__job *job);
pare_status pare__journal_count(pare__job *job);
pare_status pare__journal_fresh(pare__job *job); /* the part is made anew: chunks before are void */
pare_status pare__journal_layout(pare__job *job);
pare_status pare__journal_finished(pare__job *job); /* all but the rename is done */
pare_status pare__journal_chunk(pare__job *job, const pare__lane *lane, int64_t chunk);
pare_status pare__journal_take(pare__job *job, const pare__chunk_record *r); /* another rank's */
pare_status pare__journal_sync(pare__job *job); /* data, then a note of it, then the journal */

/* Path and state of the source's files, into a text. */
pare_status pare__source_state(const pare__job *job, pare__text *text);

/* What a walk has found out or done, once it lies in its files: the scales of a site; what a task
 * has become; a block, so that the next one's hidden states are there. */
pare_status pare__journal_scales(pare__job *job, int64_t site);
pare_status pare__journal_layer(pare__job *job, int64_t task);
pare_status pare__journal_block(pare__job *job);

/* ---- walk*.c --------------------------------------------------------------------------------- */

/* Of a recipe of one step with data: opens model and samples, takes the tensors that belong to the
 * model's products off the chunk pipeline (task->walked), puts plain methods in the place of those
 * that need data elsewhere. Between the choice of tensors and their groups and chunks. */
bool pare__walks(const pare_recipe *recipe);
pare_status pare__walker_open(pare__job *job);
void pare__walker_free(pare__walker **walker);
/* Sizes of all that it allocates, and the peak beside what the process has. */
pare_status pare__walk_predict(pare__walker *walker);
/* Goes over all blocks that are not done. Nothing to do without a walker. */
pare_status pare__walk_blocks(pare__job *job);
/* The rows of a lane's chunk as the walk has made them, in the place of the source's. */
pare_status pare__walk_rows(pare__job *job, pare__lane *lane);
/* What is done to a tensor, here or there. */
const pare_prune_step *pare__task_prune(const pare__task *task);
const pare_quant_step *pare__task_quant(const pare__task *task);
/* What a report says of a tensor that nothing is done to but that scales of inputs are folded into
 * (or, before it ran, may be); NULL of others. */
const char *pare__walk_note(const pare__job *job, const pare__task *task, bool ran);
/* Members "walk" and "layers" of a report. */
void pare__walk_report(const pare__job *job, bool ran, pare__json *root);
/* Removes "<output>.walk". */
pare_status pare__walk_clean(const pare__job *job);

/* ---- gradients.c ----------------------------------------------------------------------------- */

/* Whether a task is pruned by gradients. */
bool pare__wants_gradient(const pare__task *task);

/* If any is: opens model and data (once tasks are decided); what computing gradients takes is added
 * to the peak, or refused (once the budget is known). */
pare_status pare__gradients_open(pare__job *job);
pare_status pare__gradients_predict(pare__job *job);
double pare__gradients_seconds(const pare__job *job); /* then; negative: unknown */
void pare__gradients_free(pare__job *job);

/* What they depend on beside recipe and source, into a text. */
void pare__gradients_way(const pare__job *job, pare__text *text);

/* Computes them into "<output>.grads.h5", or takes those of a run that was cut; job->grads. */
pare_status pare__gradients_make(pare__job *job);
/* Removes that file. */
pare_status pare__gradients_clean(pare__job *job);

/* ---- provenance.c ---------------------------------------------------------------------------- */

/* The text for job->digests as they are now: the same length whatever they hold. */
pare_status pare__provenance(const pare__job *job, char **text);

/* ---- run.c ----------------------------------------------------------------------------------- */

/* The folder that an output goes to must be there: pare makes outputs, not the way to them. */
pare_status pare__check_folder(const char *output);

/* The scheduler and lanes of an open job. */
pare_status pare__job_start(pare__job *job);

/* One stage (steps.c) from recipe->model to recipe->output: what pare_plan and pare_run do with a
 * recipe whose steps need no checkpoint between them. By ranks together, if pare__shares; else
 * ranks is NULL. All but the first give no report. */
pare_status pare__stage_plan(const pare_recipe *recipe, const pare_run_options *options,
                             pare_comm *ranks, pare_report **report);
pare_status pare__stage_run(const pare_recipe *recipe, const pare_run_options *options,
                            pare_comm *ranks, pare_report **report);

/* ---- run_ranks.c ----------------------------------------------------------------------------- */

/* All processes of the job; NULL if there are no others. */
pare_status pare__ranks_open(pare_comm **ranks);
/* Waits for all; or ends their work, if this one has failed. Gives status, or how they failed. */
pare_status pare__ranks_close(pare_comm **ranks, pare_status status);

static inline int pare__rank(const pare_comm *ranks)
{
    return ranks ? pare_comm_facts_of(ranks)->rank : 0;
}

static inline int pare__rank_count(const pare_comm *ranks)
{
    return ranks ? pare_comm_facts_of(ranks)->size : 1;
}

static inline bool pare__leads(const pare__job *job)
{
    return pare__rank(job->ranks) == 0;
}

static inline bool pare__owns(const pare__job *job, const pare__task *task)
{
    return task->rank == pare__rank(job->ranks);
}

/* Whether several processes can share the stage: it walks, and nothing has to be decided first. */
bool pare__shares(const pare_recipe *recipe);

/* All that follows does nothing if this process is alone. */
pare_status pare__ranks_wait(const pare__job *job);
/* Whether all have the same to do. */
pare_status pare__ranks_agree(const pare__job *job);
/* The first one's journal, to all: whether there is anything to do. */
pare_status pare__ranks_begin(pare__job *job);
/* The count pass's results of all. */
pare_status pare__ranks_counts(pare__job *job);
/* What passes have found out and what is written already, to all. */
pare_status pare__ranks_tell(pare__job *job);
/* What each has written, to the first one, which goes on alone. */
pare_status pare__ranks_written(pare__job *job);

/* ---- run_shrink.c ---------------------------------------------------------------------------- */

/* The stage that makes the model smaller: recipe has one prune step of such a pattern and nothing
 * else (and one step with its calibration, or none). Not resumed: a part is made anew. */
pare_status pare__plan_shrink(const pare_recipe *recipe, const pare_run_options *options,
                              pare_report **report);
pare_status pare__run_shrink(const pare_recipe *recipe, const pare_run_options *options,
                             pare_report **report);

/* ---- run_report.c ---------------------------------------------------------------------------- */

/* Bytes an entry takes in the output: what the writer's layout says, from a copy completed by its
 * rules. */
int64_t pare__bytes_out(const pare_entry *entry);

pare_status pare__report_plan(pare__job *job, const pare__prediction *prediction, const char *kind,
                              pare_report **report);
pare_status pare__report_run(pare__job *job, const pare__prediction *prediction, double seconds,
                             bool verified, pare_report **report);

/* ---- compare.c ------------------------------------------------------------------------------- */

/* Opens the finished output and compares every value with the source (-0 is 0). */
pare_status pare__verify_conversion(pare__job *job);

/* Bytes that this needs for one piece of a tensor. */
pare__bytes pare__verify_bytes(const pare__job *job, const pare__task *task);

#endif
