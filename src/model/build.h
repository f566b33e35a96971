/* build.h - what an architecture's file builds a model with.
 *
 * Every function adds one node and gives the value that it makes, or −1 once anything failed (then
 * the rest does nothing: look at pare__build_status once at the end). `name` is the checkpoint's
 * name of the module; parameters are name.weight, name.bias … A parameter named twice is tied: one
 * tensor, gradients added.
 */
#ifndef PARE_MODEL_BUILD_H
#define PARE_MODEL_BUILD_H

#include "node.h"

typedef struct pare__build {
    pare_model *model;
    const pare__json *config; /* of config.json, or NULL */
    const char *arch; /* what follows the ':' of --arch ("784-256-10", "patch=4,dim=128"), "" */
    const char *arch_name;   /* what stands before it, or NULL */
    const pare_store *store; /* or NULL */
    int64_t classes;         /* asked for, or 0 */
    pare_status status;      /* the first failure; its sentence is pare_last_error() */
    char prefix[64];         /* put before every name ("bert.", "" …) */
    int depth;
    char text[8][160]; /* of pare__name */
    unsigned text_at;
} pare__build;

/* A name, formatted; valid for the next seven calls. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
const char *
pare__name(pare__build *b, const char *fmt, ...);

/* Stops the build with a sentence (once); returns −1. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
int pare__build_fail(pare__build *b, pare_status status, const char *fmt, ...);

/* Whether the checkpoint (if there is one) has a tensor of this name (prefix put before). From
 * scratch: otherwise. */
bool pare__has(const pare__build *b, const char *name, bool otherwise);
/* Size of an axis of that tensor, or otherwise. */
int64_t pare__axis(const pare__build *b, const char *name, int axis, int64_t otherwise);

/* config keys: a default, or (required) a failure that names the key. An integer, within
 * [least, most]; a real; a switch; a word. */
int64_t pare__config_int(pare__build *b, const char *key, int64_t otherwise, int64_t least,
                         int64_t most);
#define PARE__REQUIRED INT64_MIN
double pare__config_real(pare__build *b, const char *key, double otherwise);
bool pare__config_bool(pare__build *b, const char *key, bool otherwise);
const char *pare__config_word(pare__build *b, const char *key, const char *otherwise);
/* "gelu", "gelu_new", "silu", "relu", "quick_gelu" … of such a key. */
pare_fn pare__config_fn(pare__build *b, const char *key, const char *otherwise);

/* Inputs: token ids [B, T]; images [B, H, W, C]. */
int pare__tokens(pare__build *b, int64_t vocabulary, int64_t max_length);
int pare__images(pare__build *b, int64_t height, int64_t width, int64_t channels);

/* Parameters that are made by hand (cls tokens, position tables); the index, or −1. */
int pare__param_add(pare__build *b, const char *name, pare_role role, int rank,
                    const int64_t *shape);

/* The same with all that a parameter can be. transposed: shape is [out, in], the checkpoint holds
 * [in, out]. */
typedef struct pare__param_options {
    pare_role role;
    bool transposed, buffer;
} pare__param_options;
int pare__param_make(pare__build *b, const char *name, const pare__param_options *options, int rank,
                     const int64_t *shape);

/* A node of any kind: inputs and parameters (indices, −1: absent), numbers. Gives its output. */
typedef struct pare__node_options {
    const pare__node_kind *kind;
    int input[PARE__INPUTS], inputs;
    int param[PARE__NODE_PARAMS], params;
    pare__attrs a;
    const char *name; /* NULL: the kind's name with a number */
} pare__node_options;
int pare__node_make(pare__build *b, const pare__node_options *options);

/* [.., in] → [.., out]. transposed: the checkpoint holds [in, out]. role: LINEAR or HEAD. */
typedef struct pare__linear_options {
    bool bias, transposed, head;
    /* rows of a fused tensor: the names of weight and bias if they are not name.weight, name.bias
     */
    const char *weight, *bias_name;
} pare__linear_options;
int pare__linear(pare__build *b, int x, int64_t out, const pare__linear_options *options,
                 const char *name);

/* TOKENS: the weight [vocabulary, D] (bias optional) that turns the output into logits; `tied`:
 * the embedding's parameter name, or NULL. It is no node. */
void pare__head(pare__build *b, int x, int64_t vocabulary, bool bias, const char *tied,
                const char *name);

int pare__conv(pare__build *b, int x, int64_t out, const pare_window *window, int groups, bool bias,
               const char *name);
/* z: added after the norm, −1 for none. */
int pare__batch_norm(pare__build *b, int x, float eps, int z, bool relu, const char *name);
int pare__layer_norm(pare__build *b, int x, float eps, bool bias, const char *name);
/* head_dim > 0: over each head by itself (q/k norm). */
int pare__rms_norm(pare__build *b, int x, float eps, int64_t head_dim, const char *name);

/* ids → [B, T, width]. */
int pare__embedding(pare__build *b, int ids, int64_t rows, int64_t width, const char *weight);
/* x [B, T, D] + row offset + t of a table [rows, D] for every t; one_row: the same row for all t
 * (token type 0). */
int pare__position(pare__build *b, int x, int64_t rows, int64_t offset, bool one_row,
                   const char *weight);
/* Adds a row [1, D] before the sequence: [B, T, D] → [B, 1 + T, D]. */
int pare__prefix_row(pare__build *b, int x, const char *weight);

/* Rotary tables from config.json's rope_theta, rope_scaling (or rope_parameters),
 * partial_rotary_factor: default, linear, dynamic, yarn, longrope, llama3. */
void pare__rotary_config(pare__build *b, int64_t head_dim);
int pare__rotary(pare__build *b, int x, int heads, int64_t head_dim);

typedef struct pare__attention_options {
    int heads, kv_heads;
    int64_t head_dim, sliding;
    bool causal;
    float scale, dropout;
} pare__attention_options;
int pare__attention(pare__build *b, int q, int k, int v, const pare__attention_options *options,
                    const char *name);

int pare__softmax(pare__build *b, int x);
int pare__act(pare__build *b, int x, pare_fn fn);
int pare__glu(pare__build *b, int gate, int up, pare_fn fn);
int pare__residual(pare__build *b, int x, int z, bool relu);
int pare__concat(pare__build *b, int x, int z);                      /* along the last axis */
int pare__slice(pare__build *b, int x, int64_t first, int64_t cols); /* of the last axis */
int pare__row(pare__build *b, int x, int64_t t);                     /* [B, T, D] → [B, D] */
int pare__flatten(pare__build *b, int x, bool channels_first); /* [B, H, W, C] → [B, n], in C, H, W
                                                                  order as PyTorch flattens */
int pare__sequence(pare__build *b, int x);                     /* [B, H, W, C] → [B, H·W, C] */
int pare__dropout(pare__build *b, int x, float p);             /* p 0: x itself */
int pare__pool_max(pare__build *b, int x, const pare_window *window);
int pare__pool_avg(pare__build *b, int x, const pare_window *window, bool count_pad);
int pare__pool_global(pare__build *b, int x); /* [B, H, W, C] → [B, C] */
int pare__pool_mean(pare__build *b, int x);   /* [B, T, D] → [B, D], padding left out */
int pare__shortcut(pare__build *b, int x, int stride, int64_t channels); /* option A */

/* Ends the graph. */
void pare__output(pare__build *b, int x, pare_output output, int64_t classes);

#endif
