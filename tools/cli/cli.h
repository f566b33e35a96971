/* cli.h - the program's own words: one table of commands and options, from which parsing, help,
 * manual and completion are made; and what the commands share. Public headers of the library only.
 */
#ifndef PARE_CLI_H
#define PARE_CLI_H

#include "pare/pare.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* ---- the table (options.c, commands.c)
 * ------------------------------------------------------------------ */

enum option_id {
    OPT_OUTPUT,
    OPT_METHOD,
    OPT_SPARSITY,
    OPT_PATTERN,
    OPT_SCOPE,
    OPT_BUDGET,
    OPT_MULTIPLE,
    OPT_SCHEME,
    OPT_SCHEMES,
    OPT_BITS,
    OPT_BYTES,
    OPT_SENSITIVITY,
    OPT_SCALE,
    OPT_DAMPING,
    OPT_ACT_ORDER,
    OPT_ALPHA,
    OPT_GRID,
    OPT_NO_CLIP,
    OPT_TO,
    OPT_MAX_SHARD_SIZE,
    OPT_STATS,
    OPT_PER_TENSOR,
    OPT_TOLERANCE,
    OPT_ARCH,
    OPT_MEAN,
    OPT_STD,
    OPT_DATA,
    OPT_EVAL_DATA,
    OPT_LABELS,
    OPT_EVAL_LABELS,
    OPT_SEQ_LEN,
    OPT_STRIDE,
    OPT_PAD_ID,
    OPT_BOS_ID,
    OPT_SAMPLES,
    OPT_SKIP,
    OPT_SHUFFLE,
    OPT_METRIC,
    OPT_AGAINST,
    OPT_OUTPUTS,
    OPT_BATCH,
    OPT_PRECISION,
    OPT_PROPAGATE,
    OPT_NO_TRUE_SEQUENTIAL,
    OPT_ERRORS,
    OPT_CACHE,
    OPT_STEPS,
    OPT_EPOCHS,
    OPT_ACCUMULATE,
    OPT_OPTIMIZER,
    OPT_LR,
    OPT_SCHEDULE,
    OPT_WARMUP,
    OPT_FINAL_LR,
    OPT_MILESTONES,
    OPT_GAMMA,
    OPT_MOMENTUM,
    OPT_NESTEROV,
    OPT_BETAS,
    OPT_WEIGHT_DECAY,
    OPT_CLIP,
    OPT_LABEL_SMOOTHING,
    OPT_EMA,
    OPT_CROP,
    OPT_FLIP,
    OPT_MIXUP,
    OPT_FREEZE,
    OPT_NO_MASKS,
    OPT_SAVE_EVERY,
    OPT_TEACHER,
    OPT_TEACHER_ARCH,
    OPT_TEACHER_PRECISION,
    OPT_STUDENT,
    OPT_INIT,
    OPT_LOSS,
    OPT_TEMPERATURE,
    OPT_DIVERGENCE,
    OPT_LAYERS,
    OPT_HIDDEN,
    OPT_ATTENTION,
    OPT_RELATION_HEADS,
    OPT_RELATION_LAYER,
    OPT_CACHE_K,
    OPT_MASKS,
    OPT_ERK,
    OPT_BEGIN,
    OPT_END,
    OPT_EACH,
    OPT_ROUNDS,
    OPT_REWIND,
    OPT_FRACTION,
    OPT_REVIVE,
    OPT_QAT,
    OPT_QAT_FIXED,
    OPT_QAT_FIRST_LAST,
    OPT_LORA,
    OPT_LORA_ALPHA,
    OPT_ADAPTER,
    OPT_INCLUDE,
    OPT_EXCLUDE,
    OPT_PLAN,
    OPT_DEVICE,
    OPT_THREADS,
    OPT_MEMORY,
    OPT_DEVICE_MEMORY,
    OPT_SEED,
    OPT_JSON,
    OPT_QUIET,
    OPT_VERBOSE,
    OPT_TRACE,
    OPT_SYNC,
    OPT_STRICT,
    OPT_OVERWRITE,
    OPT_HELP,
    OPT_VERSION,
    OPT_MARKDOWN,
    OPT_MAN,
    OPT_COMPLETION,
    OPTIONS
};

/* What an option's value must be. */
enum option_kind {
    KIND_FLAG,
    KIND_TEXT,
    KIND_GLOB,     /* a text that may be given many times */
    KIND_THREADS,  /* 1..4096 */
    KIND_SEED,     /* 0..2^64-1 */
    KIND_SIZE,     /* bytes above 0 */
    KIND_FRACTION, /* 0..1 */
    KIND_BOUND,    /* a number from 0 up */
    KIND_SHARE,    /* a number above 0, at most 1 */
    KIND_COUNT,    /* a whole number from 1 up */
    KIND_INDEX,    /* a whole number from 0 up */
};

struct option_row {
    const char *name;  /* without the dashes */
    char letter;       /* 0: none */
    const char *value; /* what stands for it in help, NULL for a flag */
    enum option_kind kind;
    const char *commands; /* names between blanks; NULL: every command; "": the program itself */
    const char *words;    /* values that completion offers, between blanks; "@" files; NULL */
    const char *help;     /* what it does, its unit, its default */
};

extern const struct option_row option_rows[OPTIONS];

/* Options of the manual that are still to come; and those that some commands (name) are to take in
 * a version to come (text), name NULL after the last. */
extern const char *const later_options[];

struct args;

struct command_row {
    const char *name;
    const char *operands; /* "A B" */
    int count;            /* how many there must be */
    const char *usage;    /* the options that are usually given */
    const char *summary;
    const char *text;                    /* paragraphs, separated by empty lines */
    const char *examples;                /* a line each */
    int (*run)(const struct args *args); /* the exit code; NULL: not in this version */
};

extern const struct command_row command_rows[]; /* name NULL ends it */

/* CKPT, OUT, SCHEME …: the words that usage lines are made of. */
struct word_row {
    const char *name, *text;
};

extern const struct word_row later_rows[];
extern const struct word_row word_rows[]; /* name NULL ends it */
extern const struct word_row exit_rows[]; /* "0" … and what it means */

/* A section of the manual: "## " title, then paragraphs; lines that begin with four blanks are kept
 * as they are. */
extern const struct word_row manual_rows[];

/* Whether a name is in a list between blanks. */
bool named_in(const char *name, const char *list);

/* Whether an option belongs to a command; command NULL: to the program itself. */
bool option_applies(enum option_id id, const struct command_row *command);

/* ---- arguments (args.c) ---------------------------------------------------------------------- */

struct option_value {
    bool given;
    const char *text; /* as typed; the last one counts */
    int64_t whole;    /* THREADS, SIZE, COUNT, INDEX */
    uint64_t seed;
    double real; /* FRACTION, BOUND */
};

struct args {
    const struct command_row *command; /* NULL if none was named */
    const char *operand[2];
    struct option_value value[OPTIONS];
    pare_choice choice; /* --include, --exclude: pointers into argv */
    char **freeze;      /* [freezes], --freeze: likewise */
    size_t freezes;
};

/* Reads a command line. 0, or an exit code with the sentence in error. Free with args_free either
 * way. */
int args_parse(int argc, char **argv, struct args *args, char *error, size_t error_size);
void args_free(struct args *args);

/* The word of a NULL-terminated list that was probably meant: at most one change in three
 * characters, a swap of neighbours being one; or NULL. */
const char *nearest_word(const char *word, const char *const *words);

/* ---- output (output.c) ----------------------------------------------------------------------- */

/* "pare: " and a sentence on stderr; returns code. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
int complain(int code, const char *fmt, ...);

/* The library's last failure on stderr (with its trail under --verbose); returns its exit code. */
int complain_status(const struct args *args, pare_status status);

/* A report on stdout, as text or JSON; 0 or an exit code. */
int show_report(const struct args *args, const pare_report *report);

/* Flushes stdout; 1 with a sentence if anything could not be written. */
int close_stdout(void);

/* ---- running (session.c) --------------------------------------------------------------------- */

/* What a command that calls the library holds: options, progress, signals. */
struct session {
    pare_run_options options;
    struct progress *progress;
};

/* Fills options from the command line, listens to signals. 0 or an exit code. */
int session_begin(const struct args *args, struct session *session);
void session_end(struct session *session);

/* ---- the commands (cmd_*.c) ------------------------------------------------------------------ */

int cmd_inspect(const struct args *args);
int cmd_plan(const struct args *args);
int cmd_run(const struct args *args);
int cmd_sweep(const struct args *args);
int cmd_prune(const struct args *args);
int cmd_quantize(const struct args *args);
int cmd_convert(const struct args *args);
int cmd_compare(const struct args *args);
int cmd_report(const struct args *args);
int cmd_devices(const struct args *args);
int cmd_train(const struct args *args);
int cmd_distill(const struct args *args);
int cmd_eval(const struct args *args);

/* Plans or does a recipe (cmd_run.c), showing the report; takes the recipe over. */
int do_recipe(const struct args *args, pare_recipe *recipe, bool plan);

/* A copy of -o's text without slashes at its end: "out/" is the folder "out". NULL if there is no
 * memory. */
char *copy_output(const struct args *args);

/* The place of a word in a NULL-terminated list, or -1 after saying what an option expected. */
int word_of(const char *option, const char *text, const char *const *words);

/* --precision; false after saying what is wrong. */
bool precision_of(const struct args *args, pare_dtype *compute);

/* --include and --exclude added to a choice; false if there is no memory. */
bool choice_append(pare_choice *choice, const pare_choice *more);

/* ---- the manual (help.c, manual.c, completion.c) --------------------------------------------- */

/* Text for a terminal, of one command or (NULL) of all, to a stream. */
void print_help(FILE *to, const struct command_row *command);
void print_markdown(FILE *to);
void print_man(FILE *to);
/* False if there is no such shell. */
bool print_completion(FILE *to, const char *shell);

#endif
