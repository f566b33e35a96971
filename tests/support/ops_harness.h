/* ops_harness.h - runs one op case on every instruction set and thread count against its oracle.
 *
 * A case is an argument struct whose inputs are filled in, and a list of its outputs. The harness
 * gives the oracle and each backend outputs of their own, between sentinels, and compares all
 * bytes, or numbers within a tolerance.
 */
#ifndef OPS_HARNESS_H
#define OPS_HARNESS_H

#include "test.h"

#include "pare/ops.h"

#include <stdbool.h>

#define OPS_MAX_OUTPUTS 8

/* An output of a case: where its pointer is in the argument struct, its bytes, the alignment of its
 * elements. */
typedef struct ops_output {
    size_t pointer; /* offsetof(pare_pack_args, words.data) */
    size_t bytes, align;
    bool keeps; /* the op reads it too: starts from what the case's pointer shows */
    /* Above 0: compared as floats of `dtype` and not as bytes: |a − b| ≤ tolerance·(|b| + the RMS
     * of the oracle's output), a BF16 output having 2^-8 on top; NaN only equals NaN, Inf itself.
     */
    double tolerance;
    double scale;  /* in place of the RMS if that is less: the size of what an element is made of,
                      where little may be left of it */
    double device; /* above 0: the tolerance on a device, where tensor cores round more often */
    pare_dtype dtype;
    /* The backends (not the oracle) get it in the place of an input of as many bytes. */
    bool in_place;
    size_t input; /* offsetof(pare_act_args, x.data) */
    bool lower;   /* a square matrix: what lies above its diagonal may be anything */
} ops_output;

/* What the floats of an input are like. */
typedef enum ops_kind {
    OPS_NORMAL, /* bell-shaped around 0 */
    OPS_GRID,   /* multiples of 1/8: ties everywhere */
    OPS_ZEROS,  /* half of them +0 or -0, many equal magnitudes */
    OPS_TINY,   /* denormals and neighbours */
    OPS_WIDE,   /* any finite bits */
    OPS_EQUAL,  /* one value */
    OPS_BAD,    /* NaN and Inf here and there */
    OPS_KINDS
} ops_kind;

typedef struct ops_run ops_run;

ops_run *ops_run_make(void);
/* The same for a backend whose memory is not the host's (ops_device.c): outputs and what arguments
 * point to are copied there and back. Every case runs once in each mode: mode(i) makes ready for
 * the i-th and is false when there is none left. Frees the backend with the run. */
ops_run *ops_run_make_device(pare_backend *device, bool (*mode)(int index));
void ops_run_free(ops_run *run);

/* The cases of an op begin, or some by themselves: the name alone decides their random numbers and
 * where their outputs lie, whatever ran before. */
void ops_start(ops_run *run, const char *name);

/* A pseudo-random number. ops_seed goes on from another place and gives back where they were: put
 * around rows, the numbers of those behind stay what they are without them. */
uint64_t ops_random(ops_run *run);
uint64_t ops_seed(ops_run *run, uint64_t place);
int64_t ops_below(ops_run *run, int64_t bound); /* 0 ≤ x < bound */

/* Memory until the next ops_next(), `shift` elements of `align` bytes behind a 64-byte boundary. */
void *ops_memory(ops_run *run, size_t bytes, size_t align, size_t shift);
void ops_next(ops_run *run);

/* Root of the mean square of the finite ones among n numbers. */
double ops_rms(const void *data, pare_dtype dtype, int64_t n);

/* n elements of F32, F16 or BF16 of a kind; n random bytes; n keys below 2^31, many of them equal.
 */
void *ops_floats(ops_run *run, ops_kind kind, pare_dtype dtype, int64_t n, size_t shift);
uint8_t *ops_bytes(ops_run *run, int64_t n, size_t shift);
uint32_t *ops_keys(ops_run *run, int64_t n, size_t shift);

/* A random mask [rows, ceil(cols/8)], ones with probability of/256, padding clear. */
uint8_t *ops_mask(ops_run *run, int64_t rows, int64_t cols, int of, size_t shift);

/* Compares the op on every backend with its oracle, and with one thread and three with itself.
 * args is a pare_<op>_args; outs ends with a zero row. */
void ops_expect(ops_run *run, pare_op op, const void *args, size_t args_size,
                const ops_output *outs);

/* For checks of their own: the backends one by one, NULL after the last. */
pare_backend *ops_backend(ops_run *run, int index);
/* Calls an op; all that args point to must be from ops_memory() and its like, or be results in host
 * memory as the op's comment says. */
pare_status ops_call(ops_run *run, pare_op op, pare_backend *be, const void *args);

/* Sizes and shapes around every edge; ends with -1. */
extern const int64_t ops_sizes[];
typedef struct ops_shape {
    int64_t rows, cols;
} ops_shape;
extern const ops_shape ops_shapes[];

/* Rows beside those of an op. */
void ops_cases_quantize_boundaries(ops_run *run);

/* The rows of each op: void ops_cases_<op>(ops_run *run). An op without them does not link. */
#define OPS_DECLARE_CASES(name) void ops_cases_##name(ops_run *run);
PARE_OPS(OPS_DECLARE_CASES)
#undef OPS_DECLARE_CASES

#endif
