/* distill_fixture.h - a small student, a small teacher, and the losses between them. */
#ifndef PARE_DISTILL_FIXTURE_H
#define PARE_DISTILL_FIXTURE_H

#include "train_fixture.h"

#include "pare/distill.h"

typedef struct duel_options {
    const char *student_arch, *teacher_arch, *student_config, *teacher_config;
    train_fixture_options
        data; /* batch, length, rows, compute, be (NULL: one thread); models come from above */
    pare_distill_options distill;
    const char *losses;       /* "kl:1,hidden:0.5" into distill, or NULL */
    pare_backend *teacher_be; /* of the teacher alone, duel_free frees it; NULL: the student's */
    bool halves;              /* the teacher computes in BF16, and holds its values so */
    const pare_teacher_cache *cache; /* instead of the teacher, of the same data; NULL: none */
} duel_options;

/* Both models with values that look trained, the terms, and a batch on which both go forward. */
typedef struct duel {
    train_fixture f;     /* with the student */
    pare_model *teacher; /* NULL with a cache */
    pare_backend *teacher_be;
    pare_distill *distill;
    const pare_loss_term *terms;
    size_t term_count;
    pare_batch *batch;
    int64_t first; /* of the stream */
    void *scratch, *results;
    int64_t scratch_size, results_size;
    int64_t count;    /* units of the last step */
    double losses[8]; /* of each term, without its weight */
    int64_t step, steps;
} duel;

/* Values that look trained. */
void duel_fill(pare_backend *be, pare_model *model, uint64_t seed);

duel duel_make(const duel_options *options);
/* With another batch. */
void duel_batch(duel *d, int64_t first, int64_t size);
void duel_free(duel *d);

/* Forward of both and the losses: Σ weight·loss. */
double duel_loss(duel *d);
/* The same with gradients, which are cleared before. */
double duel_step(duel *d);

/* All gradients, the model's and what is learned beside it, on the host; freed by the caller. */
float *duel_gradients(duel *d, int64_t *count);

/* Beside differences of the loss along each gradient. */
void duel_check(duel *d);
/* Of one parameter of the student. */
void duel_check_one(duel *d, const char *name);

/* Architectures: a decoder with grouped heads, an encoder of classes and one of a vector. */
#define DUEL_LLAMA(width, layers, heads, kv_heads, vocabulary)                                     \
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], "                      \
    "\"vocab_size\": " vocabulary ", \"hidden_size\": " width                                      \
    ", \"intermediate_size\": 20, \"num_hidden_layers\": " layers                                  \
    ", \"num_attention_heads\": " heads ", \"num_key_value_heads\": " kv_heads                     \
    ", \"head_dim\": 4, \"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 64, "                 \
    "\"hidden_act\": \"silu\", \"tie_word_embeddings\": true}"
#define DUEL_BERT(class_, width, layers, heads)                                                    \
    "{\"model_type\": \"bert\", \"architectures\": [\"" class_ "\"], \"hidden_size\": " width      \
    ", \"num_hidden_layers\": " layers ", \"num_attention_heads\": " heads                         \
    ", \"intermediate_size\": 20, \"vocab_size\": 32, \"max_position_embeddings\": 16, "           \
    "\"num_labels\": 4, \"pad_token_id\": 0}"

#endif
