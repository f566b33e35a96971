/* node.h - the inside of a model: values, nodes, parameters; and what a node kind must say.
 *
 * The way of the data: an architecture's file adds nodes with the functions of build.h; shapes.c
 * infers shapes, arena_plan.c and place.c give every value, gradient and saved buffer a place in
 * one arena by its life; inputs.c brings a batch to the backend; forward.c and backward.c walk the
 * array. Every tensor's data is in the backend's memory: only ops touch it, and the host through
 * copies. A node kind is one file
 * node_<kind>.c with one const struct; a new kind is that file, a line here and one in build.h.
 */
#ifndef PARE_MODEL_NODE_H
#define PARE_MODEL_NODE_H

#include "pare/model.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/json.h"
#include "base/text.h"

#define PARE__INPUTS 4
#define PARE__NODE_PARAMS 6
#define PARE__SAVED 3

typedef struct pare__node pare__node;

/* A piece of the activation arena, and when it is in use: node i runs forward at time i + 1, the
 * loss at N + 1, node i backward at 2N + 1 − i (N nodes). */
typedef struct pare__buffer {
    int64_t bytes, offset;
    int birth, death; /* both included */
} pare__buffer;

/* What flows along an edge. Shapes are of the batch prepared, then of the batch that runs; axis 0
 * is B, sequences are [B, T, D], images [B, H, W, C], vectors [B, D]. */
typedef struct pare__value {
    pare_tensor tensor;      /* data set when planned */
    pare_tensor grad;        /* data NULL: none wanted */
    int producer;            /* node, −1: the input of the model */
    int consumers;           /* how many nodes read it */
    int last;                /* the last of them */
    bool reached;            /* the output hangs on it, */
    bool has_grad;           /* and something below it learns */
    bool tapped;             /* losses look at it (taps.c) */
    int death;               /* the last time that anyone reads it, or writes over it */
    int buffer, grad_buffer; /* −1: none */
} pare__value;

/* Numbers of a node; which are used is the kind's business. */
typedef struct pare__attrs {
    pare_window window;
    int groups;
    float eps, momentum, p, scale; /* p: dropout's; scale: attention's, 0 for 1/sqrt(D) */
    pare_fn fn;
    bool relu, causal, count_pad;
    bool one_row, channels_first, sequence; /* of a position; of a reshape */
    int heads, kv_heads;
    int64_t head_dim, sliding;
    int64_t first, cols; /* of a slice; first: the token of a row */
    int64_t width;       /* features out; channels out of a shortcut */
    int64_t offset;      /* positions start here (RoBERTa) */
    int stride;
} pare__attrs;

/* What the plan must know of a node. The kind's own to begin with; its shape() may change them by
 * what the node is (never by the size of the batch). */
typedef struct pare__traits {
    unsigned needs_inputs; /* bit i: backward reads input i; */
    bool needs_output;     /* backward reads the output */
    bool in_place;         /* forward may write over input 0 where nobody else wants it */
    bool view;             /* the output is input 0's memory: forward does nothing */
    unsigned adds_grad;    /* bit i: backward can add to the gradient of input i (node->add_grad) */
    unsigned grad_over;    /* bit i: backward may write the gradient of input i over the output's */
    bool passes_grad;      /* backward is dx = dy for every input: gradients share memory */
    bool writes_dy;        /* backward writes over the output's gradient */
    unsigned always;       /* bit i: backward writes the gradient of input i, wanted or not */
} pare__traits;

typedef struct pare__node_kind {
    const char *name;
    pare__traits traits;
    /* The output's rank, shape and dtype (given the model's compute dtype) from the inputs'. Fills
     * node->saved_bytes and temp_bytes too, and narrows node->traits; node->want_grad is set.
     * PARE_ERR_ARGUMENT or PARE_ERR_DAMAGED with the node's name if they don't fit. */
    pare_status (*shape)(const pare_model *model, pare__node *node, pare_tensor *output);
    pare_status (*forward)(pare_model *model, pare__node *node);
    pare_status (*backward)(pare_model *model, pare__node *node);     /* NULL: has no gradient */
    double (*flops)(const pare_model *model, const pare__node *node); /* NULL: 0 */
} pare__node_kind;

struct pare__node {
    const pare__node_kind *kind;
    char *name;
    int input[PARE__INPUTS], inputs;      /* values */
    int output;                           /* value */
    int param[PARE__NODE_PARAMS], params; /* −1: absent */
    pare__attrs a;
    pare__traits traits;
    int64_t saved_bytes[PARE__SAVED]; /* kept from forward to backward in training; 0: none */
    void *saved[PARE__SAVED];
    int64_t temp_bytes[2]; /* for the length of a forward [0] and of a backward [1] */
    void *temp[2];
    /* Planned: */
    bool active;                    /* backward runs */
    unsigned want_grad;             /* bit i: the gradient of input i is wanted, in grad[i]; */
    unsigned add_grad;              /* bit i: it must be added to what is there */
    unsigned after_grad;            /* bit i: grad[i] is a temporary that backward.c then adds */
    pare_tensor grad[PARE__INPUTS]; /* data may be that of the output's gradient: see traits */
    int saved_buffer[PARE__SAVED], temp_buffer[2], grad_buffer[PARE__INPUTS]; /* −1: none */
    int fused; /* the convolution that this batch norm does too (inference), −1 */
    bool skip; /* its work is done by another, unless a hook is set */
};

/* What a parameter is beside what all may see. */
typedef struct pare__param_extra {
    int rank; /* as the checkpoint stores it */
    int64_t shape[PARE_MAX_RANK];
    int64_t value_offset, grad_offset, mask_offset; /* in the arenas */
    int whole; /* the active node whose backward is the last to add to its gradient, −1: none */
} pare__param_extra;

struct pare_model {
    pare_model_facts facts;
    char *config;
    char *arch; /* the text of --arch, or NULL: config.json decided */
    pare_backend *be;
    pare_param *params;
    size_t param_count, param_capacity;
    pare__param_extra *extra; /* [extra_capacity], beside params */
    size_t extra_capacity;
    pare__node *nodes;
    size_t node_count, node_capacity;
    pare__value *values;
    size_t value_count, value_capacity;
    int input; /* value: ids [B, T] I32 or images [B, H, W, C] F32 */
    int output;
    int head, head_bias; /* params of TOKENS, −1 */
    /* Of a block that takes a hidden state: its shape for one row of one token. Rank 0: the model
     * takes batches. */
    pare_tensor hidden;
    pare_model_shape shape; /* prepared */
    bool prepared;
    int64_t batch_size, batch_length; /* that values' shapes are of now */
    pare_batch batch;    /* of the last forward, its pointers to the backend's memory */
    pare_tensor keys;    /* its padding mask [B, T] U8, data NULL: none */
    bool training;       /* this forward */
    bool may_backward;   /* a training forward has run */
    pare_step_seed seed; /* of this forward; dropout only if drops */
    bool drops;
    char *values_arena, *grads_arena, *masks_arena, *activations;
    int64_t values_bytes, grads_bytes, masks_bytes, activation_bytes;
    char *inputs, *inputs_host; /* a batch, where the backend's memory is not the host's */
    int64_t inputs_bytes;
    pare__buffer *buffers; /* of the activation arena */
    size_t buffer_count, buffer_capacity;
    /* F32 twins of an output that is BF16 (not of TOKENS), with their buffers; data NULL: none */
    pare_tensor output_f32, output_grad_f32;
    int output_buffer, output_grad_buffer;
    int *taps; /* the values tapped, in the order they were */
    size_t tap_count, tap_capacity;
    void *output_tap_grad; /* what losses add to the gradient of an output that is tapped */
    int output_tap_buffer;
    pare_model_grad_ready grad_ready;
    void *grad_ready_user;
    bool poison; /* a test: what is dead becomes NaN */
    pare_model_hook hook;
    void *hook_user;
    const char *const *ignored;              /* globs of tensors the architecture does not use */
    const struct pare__shrink_rules *shrink; /* arch.h; NULL: nothing can be made smaller */
    struct pare__rotary *rotary;             /* rotary.h; NULL: none */
};

/* The value behind input i of a node, its tensor, and the output's. */
static inline pare_tensor pare__in(const pare_model *m, const pare__node *n, int i)
{
    return m->values[n->input[i]].tensor;
}
static inline pare_tensor pare__out(const pare_model *m, const pare__node *n)
{
    return m->values[n->output].tensor;
}
static inline pare_tensor pare__dy(const pare_model *m, const pare__node *n)
{
    return m->values[n->output].grad;
}
/* Whether the output is act (of a logits head, of a next block), else F32. */
static inline bool pare__gives_act(const pare_model *m)
{
    return m->facts.output == PARE_OUTPUT_TOKENS || m->facts.output == PARE_OUTPUT_HIDDEN;
}
/* Parameter i of a node, or NULL. */
static inline pare_param *pare__param(const pare_model *m, const pare__node *n, int i)
{
    return i < n->params && n->param[i] >= 0 ? &m->params[n->param[i]] : NULL;
}
/* Whether it gets a gradient; NULL does not. */
static inline bool pare__learns(const pare_param *param)
{
    return param && !param->frozen && !param->buffer;
}
/* The value and the gradient of parameter i as a vector, data NULL where there is none. */
pare_tensor pare__param_vector(const pare_model *m, const pare__node *n, int i);
pare_tensor pare__grad_vector(const pare_model *m, const pare__node *n, int i);

/* A tensor seen as [all but the last axis, last axis]; as [rows, the rest]; as a vector. */
pare_tensor pare__rows(pare_tensor t);
pare_tensor pare__as_rows(pare_tensor t, int64_t rows);
pare_tensor pare__flat(pare_tensor t);

/* A stream of random numbers of its own for every node and step. */
uint64_t pare__node_stream(const pare_model *m, const pare__node *n);

/* How the inputs of a product are rounded: those of a convolution with one scale for all only.
 * Then what it takes: its input, or that rounded into temp. */
pare_activation pare__rounding(const pare_model *m, const pare__node *n);
pare_status pare__product_input(const pare_model *m, const pare__node *n, void *temp,
                                pare_tensor *x);
/* Of its shape(): the temps, and what backward reads. Then, once the gradient of its input is made,
 * no part of it is what a fixed scale cuts off. */
pare_status pare__product_traits(const pare_model *m, pare__node *n);
pare_status pare__product_cut(const pare_model *m, const pare__node *n);

/* y = x, or y += x: the same element count, each F32 or BF16. Nothing if they are the same memory
 * and it is not added. */
pare_status pare__copy(const pare_model *m, pare_tensor x, pare_tensor y, bool add);

/* ---- the host's side of the backend's memory: stage.c, inputs.c -------------------------------
 */

/* Through which the host sees pieces of an array of the backend: it makes or reads what
 * pare__stage_at gives for a piece, and uploads or downloads it. On the CPU that is the piece
 * itself, and the copies are none. */
#define PARE__STAGE ((int64_t)4 << 20) /* bytes of a piece at most */
typedef struct pare__stage {
    pare_backend *be;
    char *memory; /* NULL: the backend's memory is the host's */
} pare__stage;

pare_status pare__stage_open(pare_backend *be, pare__stage *stage);
void pare__stage_close(pare__stage *stage);
void *pare__stage_at(const pare__stage *stage, void *piece);

/* Bytes that a batch of a shape takes at most on a device, and as many on the host; the memory; and
 * m->batch for a batch that fits. */
int64_t pare__inputs_bytes(const pare_model *m, const pare_model_shape *shape);
pare_status pare__inputs_prepare(pare_model *m);
void pare__inputs_free(pare_model *m);
pare_status pare__inputs_take(pare_model *m, const pare_batch *batch);

/* ---- parameters: params.c -------------------------------------------------------------------- */

/* The index of a parameter by its whole name, or −1. */
int pare__param_find(const pare_model *m, const char *name);

/* The dtype of its value: as it is there, or as m->shape asks for it. */
pare_dtype pare__param_held(const pare_model *m, int param);

/* Sizes of the three arenas, and where every parameter lies in them; then memory and pointers. */
pare_status pare__params_plan(const pare_model *m, bool training, pare__param_extra *extra,
                              int64_t *values, int64_t *grads, int64_t *masks);
pare_status pare__params_prepare(pare_model *m, bool training);

/* ---- taps: taps.c ---------------------------------------------------------------------------- */

/* At the end of a training forward: the gradients that losses add to are 0. */
pare_status pare__taps_clear(const pare_model *m);
/* When backward begins: what was added to the output's goes to where backward starts from. */
pare_status pare__taps_begin(const pare_model *m);

/* ---- the plan: shapes.c, arena_plan.c, place.c ------------------------------------------------
 */

/* Who wants a gradient, and what one node does for two. */
void pare__mark(pare_model *m);

/* The shape of the hidden state that a block takes with a batch. */
pare_tensor pare__hidden(const pare_model *m, int64_t batch, int64_t length);

/* Shapes of all values for a batch, after pare__mark; nothing is allocated. */
pare_status pare__shapes(pare_model *m, int64_t batch, int64_t length);

/* Marks, shapes, buffers and their offsets for m->shape; no memory of the arena, no pointers. */
pare_status pare__plan(pare_model *m);
/* A plan of m for a shape in arrays of its own, so that m stays as it is whatever happens: model.c
 */
pare_status pare__draft(const pare_model *m, const pare_model_shape *shape, pare_model *draft);
void pare__draft_free(pare_model *draft);
/* Whether a convolution and the batch norm behind it are one op in inference. */
bool pare__fuses(const pare_model *m, int batch_norm);
/* Offsets of buffers by their lives; *bytes of all. */
pare_status pare__place(pare__buffer *buffers, size_t count, int64_t *bytes);
/* Pointers of everything planned, once m->activations is there. */
void pare__plan_bind(pare_model *m);

/* The times of pare__buffer. */
static inline int pare__time_forward(int node)
{
    return node + 1;
}
static inline int pare__time_loss(const pare_model *m)
{
    return (int)m->node_count + 1;
}
static inline int pare__time_backward(const pare_model *m, int node)
{
    return 2 * (int)m->node_count + 1 - node;
}
static inline int pare__time_end(const pare_model *m)
{
    return 2 * (int)m->node_count + 2;
}

/* For tests: fills what is dead after each time with NaN from now on, the whole arena at once. */
void pare__model_poison(pare_model *m, bool on);
pare_status pare__poison_after(pare_model *m, int time);

extern const pare__node_kind pare__node_linear, pare__node_conv, pare__node_batch_norm,
    pare__node_layer_norm, pare__node_rms_norm, pare__node_embedding, pare__node_position,
    pare__node_rotary, pare__node_attention, pare__node_softmax, pare__node_act, pare__node_glu,
    pare__node_add, pare__node_concat, pare__node_slice, pare__node_row, pare__node_reshape,
    pare__node_prefix, pare__node_dropout, pare__node_pool_max, pare__node_pool_avg,
    pare__node_pool_seq, pare__node_shortcut;

/* A batch norm and the convolution before it as one (inference): node_batch_norm.c */
pare_status pare__conv_batch_norm(pare_model *m, pare__node *node);

#endif
