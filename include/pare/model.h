/* model.h - what a checkpoint's tensors are for; models that run forward and backward.
 *
 * A model is an array of nodes in execution order over parameters. Its life: create (the graph
 * alone, from config.json or --arch), load or init (values), prepare (memory for a batch shape),
 * then forward and backward on batches. It keeps the backend it was prepared with, which must
 * outlive it; one thread at a time may use it.
 *
 * Every pare_tensor's data, a parameter's mask too, is in that backend's memory (backend.h): on the
 * CPU the host's; else the host reads it by pare_model_read_rows, pare_model_read_mask and
 * pare_backend_download.
 */
#ifndef PARE_MODEL_H
#define PARE_MODEL_H

#include "pare/batch.h"
#include "pare/ops.h"
#include "pare/store.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pare_role {
    PARE_ROLE_LINEAR, /* a matrix product's weight [out, in] */
    PARE_ROLE_CONV,   /* a convolution's weight [out, in, kh, kw] */
    PARE_ROLE_EMBEDDING,
    PARE_ROLE_HEAD, /* the output layer */
    PARE_ROLE_NORM,
    PARE_ROLE_BIAS,  /* and every other vector or scalar */
    PARE_ROLE_OTHER, /* buffers, integer tables … */
} pare_role;

const char *pare_role_name(pare_role role);

/* The role of an entry and, in *reason, why (static text or the pattern that matched). The
 * architecture's table decides (by model_type of config.json, NULL: none); without one: rank ≥ 2
 * and no match of *emb*, *norm*, *lm_head*, *classifier*, *.fc.* is a LINEAR (rank 2) or CONV. */
pare_role pare_entry_role(const char *config, const pare_entry *entry, const char **reason);

/* The architecture that config.json names ("llama" …) if its table is known, else NULL. Static
 * text. */
const char *pare_known_architecture(const char *config);

/* ---- models ---------------------------------------------------------------------------------- */

typedef struct pare_model pare_model;

/* What the last node gives. */
typedef enum pare_output {
    PARE_OUTPUT_CLASSES, /* logits [B, classes] */
    PARE_OUTPUT_TOKENS, /* hidden states [B·T, D]; logits are hidden · headᵀ, see pare_model_head */
    PARE_OUTPUT_VECTOR, /* an embedding [B, D] */
    PARE_OUTPUT_HIDDEN, /* what the next block takes, [B, …] act: see pare_model_block; classes
                           are the whole model's */
} pare_output;

typedef struct pare_model_facts {
    const char *family; /* "llama", "resnet" …, static */
    pare_output output;
    int64_t classes;                 /* of CLASSES and TOKENS (the vocabulary); D of VECTOR */
    bool tokens;                     /* takes token ids, else images */
    int64_t vocabulary;              /* ids lie in [0, vocabulary) */
    int64_t max_length;              /* longest row of tokens, 0: no limit */
    int64_t pad_id, bos_id;          /* −1: none */
    int64_t height, width, channels; /* of images */
    float scale;                     /* a pixel byte is multiplied by this first (1/255, or 1), */
    float mean[4], std[4];           /* then (x − mean)/std by channel */
} pare_model_facts;

/* A named tensor of the model. Values live in one arena, gradients in another. */
typedef struct pare_param {
    const char *name; /* the checkpoint's own */
    pare_role role;
    bool transposed;     /* the checkpoint holds it [in, out]; value is [out, in] */
    bool buffer;         /* running statistics: no gradient, no optimiser */
    bool frozen;         /* set before prepare: no gradient */
    pare_tensor value;   /* F32, or BF16 if asked for and not training */
    pare_tensor grad;    /* F32, data NULL if there is none */
    uint8_t *mask;       /* [count]: 0 where a weight was pruned and stays 0; NULL: dense */
    pare_activation act; /* inputs of its product are rounded as this says (of a w…a8… scheme) */
    float act_scale;     /* of PARE_ACT_STATIC */
} pare_param;

/* A step of the graph, as hooks, reports and FLOP counts see it. */
typedef struct pare_node_view {
    const char *kind; /* "linear", "conv" … */
    const char *name; /* "model.layers.0.mlp.up_proj" */
    int input_count, param_count;
    pare_tensor input[4]; /* data valid while the node runs (a hook), shapes after prepare */
    pare_tensor output;
    int param[6]; /* indices for pare_model_param */
    double flops; /* of one forward at the prepared shape: 2 a multiply-add, products only */
    /* of an attention, whose inputs are queries, keys and values: */
    int heads, kv_heads;
    int64_t window; /* keys that a query sees, itself and those before it; 0: all */
    float scale;    /* of its scores; 0: 1/sqrt of a head's features */
    bool causal;
} pare_node_view;

typedef struct pare_model_options {
    /* A plain state dict's architecture, "resnet20-cifar", "mlp:784-256-10" (docs/cli.md, ARCH);
     * NULL: config decides. */
    const char *arch;
    const char *config; /* text of config.json; NULL: the store's, if it has one */
    const pare_store
        *store;      /* the checkpoint the model is for (names and shapes help to tell
                        variants apart: prefixes, heads, tied weights); NULL: from scratch */
    int64_t classes; /* from scratch: override; 0: the architecture's */
} pare_model_options;

/* Builds the graph; allocates no values. An unknown architecture is an error with those that
 * are known: PARE_ERR_UNSUPPORTED if config.json names it, PARE_ERR_ARGUMENT if --arch does, as for
 * a spec that does not parse. */
pare_status pare_model_create(const pare_model_options *options, pare_model **model);
void pare_model_free(pare_model **model);

const pare_model_facts *pare_model_facts_of(const pare_model *model);
/* Whether both take the same images, of the same size, their pixels scaled alike. */
bool pare_model_same_pixels(const pare_model_facts *a, const pare_model_facts *b);
/* The model takes pixels scaled as that one does. */
void pare_model_take_pixels(pare_model *model, const pare_model_facts *from);
/* The same to change: preprocessing (scale, mean, std), pad_id. */
pare_model_facts *pare_model_facts_edit(pare_model *model);

/* Names and one line each of what --arch takes and what config.json may name, for help and errors;
 * NULL after the last. Static. */
typedef struct pare_arch_line {
    const char *name, *summary;
} pare_arch_line;
const pare_arch_line *pare_arch_list(void);

/* config.json text that makes pare_model_create build this model again (for a plain state dict:
 * {"pare_arch": …, preprocessing}); owned by the model. */
const char *pare_model_config(const pare_model *model);

int64_t pare_model_param_count(const pare_model *model);
pare_param *pare_model_param(pare_model *model, int64_t index);
int64_t pare_model_node_count(const pare_model *model);
pare_node_view pare_model_node(const pare_model *model, int64_t index);

/* ---- memory ---------------------------------------------------------------------------------- */

typedef struct pare_model_shape {
    int64_t batch;     /* B, at most */
    int64_t length;    /* T, at most; 0 for images */
    bool training;     /* keep what backward needs; gradients */
    bool frozen_norms; /* training: batch norms use their running statistics, which stay and are
                          constants to backward; their scales and shifts have gradients as ever */
    pare_dtype
        compute; /* F32, or BF16: activations and products; parameters stay F32 in training */
    bool halves; /* inference in BF16: what every product and look-up would round (weights of
                    linear layers and of the head, tables of embeddings) is held in BF16, in half
                    the memory and with the same results. The first prepare decides; the model is
                    then for inference alone: it takes no masks and is not trained */
} pare_model_shape;

typedef struct pare_model_memory {
    int64_t params, grads, activations; /* bytes */
    int64_t masks;                      /* if every weight that may have one has one */
    int64_t scratch;                    /* the CPU's, estimated from above; */
    int64_t device_scratch;             /* a device's, beside what its libraries take */
    int64_t inputs; /* of a batch, where the backend's memory is not the host's; and as many of the
                       host's, page-locked. On the CPU it is none */
    double flops;   /* of one forward, the head's product included */
} pare_model_memory;

/* What prepare and a step will take, before anything is allocated. Fails on shapes that do not fit
 * the model (a length over max_length …): PARE_ERR_ARGUMENT. */
pare_status pare_model_predict(pare_model *model, const pare_model_shape *shape,
                               pare_model_memory *memory);

/* What every node would give for a batch shape, before anything is prepared: outputs [nodes], data
 * NULL. Fails as pare_model_predict does. */
pare_status pare_model_outputs(const pare_model *model, const pare_model_shape *shape,
                               pare_tensor *outputs);

/* Allocates values (if not there), gradients, activations, for this shape. After it forward and
 * backward of up to this shape allocate nothing, but for what the backend makes at the first call
 * of a shape of an op. May be called again with another shape: values stay. PARE_ERR_ARGUMENT for a
 * backend that cannot see the memory of the one before. */
pare_status pare_model_prepare(pare_model *model, pare_backend *be, const pare_model_shape *shape);

/* Reads values from a checkpoint; quantised and sparse entries are decoded. All that is missing,
 * too much, or of another shape is named in one error (PARE_ERR_DAMAGED). Tensors with at least 1 %
 * exact zeros in a LINEAR or CONV weight get a mask if `masks`. Needs prepare. */
pare_status pare_model_load(pare_model *model, pare_store *store, bool masks);

/* Fresh values from a seed: He (fan-out, normal) for convolutions, U(±1/sqrt(in)) for linears of
 * image models, N(0, 0.02) for transformers, 1 and 0 for norms, 0 for biases. */
pare_status pare_model_init(pare_model *model, uint64_t seed);

/* Rows of a parameter as the checkpoint stores them (transposed back), F32 [count, cols of the
 * checkpoint's shape]; for writing. To host memory. */
pare_status pare_model_read_rows(const pare_model *model, int64_t param, int64_t first,
                                 int64_t count, float *values);
/* The same of another tensor of the value's shape in the backend's memory, such as its gradient;
 * NULL: the value. */
pare_status pare_model_read_rows_of(const pare_model *model, int64_t param, const pare_tensor *of,
                                    int64_t first, int64_t count, float *values);
/* Elements [first, first + count) of its mask, in the order of the value, to host memory: all 1 if
 * it has none. */
pare_status pare_model_read_mask(const pare_model *model, int64_t param, int64_t first,
                                 int64_t count, uint8_t *mask);
/* The shape in the checkpoint. */
void pare_model_stored_shape(const pare_model *model, int64_t param, int *rank, int64_t *shape);

/* ---- running --------------------------------------------------------------------------------- */

typedef struct pare_step_seed {
    uint64_t seed; /* dropout: of the run, */
    uint64_t step; /* and of this step */
} pare_step_seed;

/* Runs the graph on a batch in the host's memory. training as prepared: batch norm uses the batch
 * (but for frozen_norms), dropout drops (seed NULL: no dropout). batch may be smaller than
 * prepared. Token ids outside the vocabulary and images that do not fit: PARE_ERR_ARGUMENT with the
 * place. */
pare_status pare_model_forward(pare_model *model, const pare_batch *batch, bool training,
                               const pare_step_seed *seed);

/* The batch of the last forward, its pointers to the backend's memory: on the CPU the batch as it
 * was given, else copies of its parts (with labels: [B, T] of TOKENS, else [B]), valid until the
 * next forward or prepare. For losses and metrics. */
const pare_batch *pare_model_batch(const pare_model *model);

/* After forward: the last node's output at the batch's size, F32 for CLASSES and VECTOR, act for
 * TOKENS; and the gradient of it that backward starts from, to be filled by a loss. */
pare_tensor pare_model_output(const pare_model *model);
pare_tensor pare_model_output_grad(const pare_model *model);

/* TOKENS: the head's weight [V, D] (perhaps tied to the embedding) and bias ([V] or NULL). The loss
 * adds its gradients to them itself, before backward. */
pare_param *pare_model_head(pare_model *model, pare_param **bias);

/* Adds gradients of all parameters that are not frozen to their grads. */
pare_status pare_model_backward(pare_model *model);

/* Clears all gradients (one arena). */
pare_status pare_model_clear_grads(pare_model *model);
/* All gradients, and all values, as one vector each (with what lies between, which is 0). */
pare_tensor pare_model_grad_arena(const pare_model *model);

/* The one way to observe: called after (forward) or before (backward) each node. view.input and
 * view.output are valid during the call; in backward view.output is the gradient. An input that is
 * gone has data NULL: one that the node wrote its output over, in backward one that nobody needs
 * any more. A failure ends the run. While a hook is set nothing is fused. hook NULL takes it off.
 */
typedef pare_status (*pare_model_hook)(void *user, int64_t node, const pare_node_view *view,
                                       bool backward);
void pare_model_set_hook(pare_model *model, pare_model_hook hook, void *user);

/* The first NaN or Inf: the parameter, (after a forward with the batch, unless NULL) node output or
 * gradient that holds one, as a sentence part in text ("the output of layer2.0.conv1"); false if
 * all are finite. Slow; a forward in training moves running statistics, but for frozen_norms. */
bool pare_model_first_bad(pare_model *model, const pare_batch *batch, char *text, size_t size);

/* ---- taps ------------------------------------------------------------------------------------ */

/* A value that losses look at: what a node gives (input −1) or reads (its input i). Set before
 * prepare; its memory is then nobody else's until backward begins, in inference until the next
 * forward. The same value again is the same tap. Shapes: those of the nodes, [B, T, N], [B·T, N],
 * [B, H, W, C]. */
pare_status pare_model_tap(pare_model *model, int64_t node, int input, int64_t *tap);
int64_t pare_model_tap_count(const pare_model *model);
/* After forward: the value at the batch's size, act. */
pare_tensor pare_model_tap_value(const pare_model *model, int64_t tap);
/* In training: what backward adds to the gradient of the value, of its shape and dtype; forward
 * makes it 0, losses add to it. data NULL if nothing below it learns: then no loss need care. */
pare_tensor pare_model_tap_grad(const pare_model *model, int64_t tap);

/* Called by backward as soon as nobody will add to the gradient of a parameter any more, once for
 * each that has one. Taken off by NULL. */
typedef pare_status (*pare_model_grad_ready)(void *user, int64_t param);
void pare_model_on_grad(pare_model *model, pare_model_grad_ready ready, void *user);

/* Gives a LINEAR, CONV or HEAD weight a mask, all 1, if it has none. Needs prepare. */
pare_status pare_model_mask(pare_model *model, int64_t param);

/* ---- block by block -------------------------------------------------------------------------- */

/* A model is cut where a single value is alive (between the attention and the MLP of a
 * transformer's layer, between layers, between the residual blocks of a network), into blocks that
 * hold at least one LINEAR or CONV each: what comes before the first such weight belongs to the
 * first block, what has none behind a weight to that weight's block. */
int64_t pare_model_block_count(const pare_model *model);

/* Block `index` as a model of its own: its nodes and parameters (the names stay), nothing else; the
 * first takes batches as ever, the others take the hidden state that the block before gave, see
 * pare_model_forward_hidden. The last one's output is the model's; that of the others is "hidden":
 * pare_model_output of any shape [B, …], act. The model it was cut from is not needed afterwards. A
 * HEAD that is no node belongs to the last block (TOKENS) unless `no_head`. */
pare_status pare_model_block(const pare_model *model, int64_t index, bool no_head,
                             pare_model **block);

/* The shape and dtype of the hidden state that goes into a prepared block, for a batch of the
 * prepared size (rank 0: it takes batches). */
pare_tensor pare_model_hidden(const pare_model *block);

/* As pare_model_forward without training, from a hidden state in the backend's memory (data NULL: a
 * first block, which takes the batch alone); batch is still needed for sizes and padding (its ids
 * may be NULL). Runs the nodes before `until` only (negative: all): then pare_model_node(block,
 * until).input is what that node would read. Inputs of the nodes that have run stay readable by
 * hooks alone. */
pare_status pare_model_forward_hidden(pare_model *block, const pare_batch *batch,
                                      pare_tensor hidden, int64_t until);

/* Reads a part of a checkpoint into a block: as pare_model_load, but what the block does not have
 * is passed over. */
pare_status pare_model_load_block(pare_model *block, pare_store *store, bool masks);

/* ---- sites ----------------------------------------------------------------------------------- */

/* The products that read one value: what they multiply has one set of statistics. */
#define PARE_SITE_LAYERS 8
typedef struct pare_site {
    char name[160]; /* of its first layer's node, for reports and caches */
    int count;
    int64_t node[PARE_SITE_LAYERS];  /* ascending; all read the same value */
    int64_t param[PARE_SITE_LAYERS]; /* their weights: LINEAR, CONV (or HEAD if it is a node) */
    bool conv;                       /* convolutions of one and the same window; */
    pare_window window;
    int groups;          /* > 1: no statistics of columns are taken */
    int64_t cols, inner; /* K: columns of the weights as matrices; kh·kw, or 1 */
    /* Where a positive scale of the inputs can be folded into: channel c of the input is row
     * fold_first + (c / fold_repeat / fold_dim)·fold_dim + c % fold_dim (with fold_repeat 1:
     * fold_first + c) of fold_weight (a NORM's vector, or the rows of a LINEAR or CONV before it,
     * through nothing but max(x, 0), a gate's product, attention's values or a pool), and of
     * fold_bias (−1: none). fold_weight −1: nowhere. Channels that share a row (those of the heads
     * of one group of queries, fold_dim apart) must share a scale. Channel c is column c of a
     * linear's weight, columns c·inner … of a convolution's. Of groups nothing is folded. */
    int64_t fold_weight, fold_bias, fold_first, fold_dim;
    int fold_repeat; /* channels that share a row; 1: each has its own */
} pare_site;

int64_t pare_model_site_count(const pare_model *model);
pare_status pare_model_site(const pare_model *model, int64_t index, pare_site *site);

/* Replaces a parameter's value by values [R, C] F32 (as the product sees it: not transposed) in the
 * backend's memory, and the reverse is pare_model_param(...)->value itself. A mask, if it has one,
 * becomes that of the exact zeros. Copies; BF16 values are rounded. */
pare_status pare_model_set_value(pare_model *model, int64_t param, pare_tensor values);

/* ---- coupled units --------------------------------------------------------------------------- */

/* What structured pruning takes away as one. All that reads or writes a unit shares it: it is found
 * from the graph (src/model/couple.c), and the architecture says which of them a smaller config can
 * name. */
typedef enum pare_unit_kind {
    PARE_UNIT_CHANNEL, /* a neuron of a feed-forward layer, a channel of convolutions */
    PARE_UNIT_HEAD,    /* an attention head; with grouped queries a key head and its query heads */
    PARE_UNIT_WIDTH,   /* a feature of the hidden state (or head_dim of them, with a head each) */
    PARE_UNIT_LAYER,   /* a residual block */
} pare_unit_kind;

/* Units that are alike: the same share of them goes. */
typedef struct pare_unit_class {
    pare_unit_kind kind;
    char name[160];       /* of its first node; LAYER: what stands before the number */
    int64_t first, count; /* its units: [first, first + count) of all; locked: none */
    int64_t size;         /* features of one in the narrowest value: head_dim of a head, else 1 */
    int64_t multiple;     /* so many stay that their number is a multiple of this, */
    int64_t divides;      /* and divides this (0: any) */
    const char *locked;   /* why none of them can go, static; NULL: they can */
} pare_unit_class;

typedef struct pare_couple pare_couple;

/* From the graph alone, no values. It does not need the model afterwards. */
pare_status pare_couple_create(const pare_model *model, pare_couple **couple);
void pare_couple_free(pare_couple **couple);
int64_t pare_couple_class_count(const pare_couple *couple);
const pare_unit_class *pare_couple_class(const pare_couple *couple, int64_t index);
/* Whether one of the parameters that its units reach has a name that matches the glob. */
bool pare_couple_matches(const pare_couple *couple, int64_t index, const char *glob);
int64_t pare_couple_unit_count(const pare_couple *couple);

/* Why the model has no units of a kind at all, as far as its architecture says; NULL. */
const char *pare_couple_refusal(const pare_couple *couple, pare_unit_kind kind);

/* The unit (−1: none) of every place along an axis of a parameter as the checkpoint stores it; NULL
 * where no place has one. */
const int32_t *pare_couple_axis(const pare_couple *couple, int64_t param, int axis);
/* The LAYER unit that a parameter, a node lies in; −1: none. */
int64_t pare_couple_layer(const pare_couple *couple, int64_t param);
int64_t pare_couple_node_layer(const pare_couple *couple, int64_t node);
/* Why a LAYER unit must stay although others of its class can go, static; NULL: it can go. */
const char *pare_couple_stays(const pare_couple *couple, int64_t unit);
/* The first and the last node of a LAYER unit, and the value that goes into it: the output of node
 * *before (−1: of none). False for other units. */
bool pare_couple_span(const pare_couple *couple, int64_t unit, int64_t *first, int64_t *last,
                      int64_t *before);

/* What is left of a parameter when only units with keep[unit] != 0 stay (NULL: all): its shape in
 * the checkpoint (LAYER units count by pare_couple_layer, not here). */
void pare_couple_shape(const pare_couple *couple, int64_t param, const uint8_t *keep, int *rank,
                       int64_t *shape);
/* What its values are multiplied by: sqrt(D/D') of an RMS norm over D features of which D' stay,
 * whose eps becomes eps·D/D', so that features that were zero make no difference; else 1. */
double pare_couple_gain(const pare_couple *couple, int64_t param, const uint8_t *keep);
/* The name of a tensor of the checkpoint (a parameter or not) once the layers that stay are
 * numbered anew; *renamed NULL: it goes with its layer. Caller frees. */
pare_status pare_couple_rename(const pare_couple *couple, const char *name, const uint8_t *keep,
                               char **renamed);
/* config.json of the smaller model, as the architecture spells its sizes. PARE_ERR_UNSUPPORTED if
 * they cannot be spelled (layers that differ where one number holds for all). Caller frees. */
pare_status pare_couple_config(const pare_couple *couple, const pare_model *model,
                               const uint8_t *keep, char **config);

#ifdef __cplusplus
}
#endif
#endif
