/* arch.h - an architecture: the roles of its tensors, what a checkpoint may hold beside them, its
 * graph. One file each, and one line in arch.c for each name it goes by.
 */
#ifndef PARE_MODEL_ARCH_H
#define PARE_MODEL_ARCH_H

#include "build.h"

/* The first pattern that matches decides; what none matches is decided by its rank. */
typedef struct pare__role_rule {
    const char *pattern; /* over the tensor's whole name */
    pare_role role;
    const char *reason; /* NULL: the pattern itself */
} pare__role_rule;

/* What of an architecture can be made smaller, and how its config says so (couple.h). */

/* Units of the class that one of these nodes gives (LAYER: of the blocks whose names begin so) are
 * of this kind. The first rule that matches decides; a class that none matches stays whole. */
typedef struct pare__unit_rule {
    const char *nodes; /* glob */
    pare_unit_kind kind;
    const char *locked; /* why they stay all the same, or NULL */
} pare__unit_rule;

typedef enum pare__size {
    PARE__SIZE_CHANNELS, /* of the classes of CHANNEL, all alike */
    PARE__SIZE_WIDTH,
    PARE__SIZE_HEADS, /* of queries */
    PARE__SIZE_KV_HEADS,
    PARE__SIZE_HEAD_DIM,
    PARE__SIZE_OUTPUT,       /* of a model that gives a VECTOR; nothing of others */
    PARE__SIZE_RMS_EPS,      /* eps·D/D' */
    PARE__SIZE_LAYERS,       /* how many */
    PARE__SIZE_LAYERS_BELOW, /* how many of the first so many, if the key is there */
    PARE__SIZE_LAYER_LIST,   /* a list with a word for each, if the key is there */
    PARE__SIZE_WORDS,        /* --arch: numbers of the leading word, outputs of its products */
    PARE__SIZE_WORDS_AFTER,  /* the same, the first number being the inputs */
} pare__size;

/* A key of config.json, or of --arch's text, that is written when units of one of these kinds (bits
 * 1 << kind) go. */
typedef struct pare__size_key {
    const char *key;
    pare__size size;
    unsigned kinds;
} pare__size_key;

#define PARE__ON(kind) (1u << PARE_UNIT_##kind)

typedef struct pare__shrink_rules {
    const pare__unit_rule *units;   /* nodes NULL after the last */
    const pare__size_key *sizes;    /* key NULL after the last */
    const char *heads_divide_width; /* model_type whose own reader insists on that, or NULL */
    const char *no_heads;           /* why no head goes by itself, or NULL */
} pare__shrink_rules;

typedef struct pare__arch {
    const char *family;            /* "llama" */
    const pare__role_rule *rules;  /* pattern NULL after the last */
    const char *const *ignored;    /* globs of tensors a checkpoint may have and the model does not
                                      use; NULL after the last */
    void (*build)(pare__build *b); /* b->config (model_type) or b->arch_name and b->arch say what */
    const pare__shrink_rules *shrink; /* NULL: nothing of it can be made smaller */
} pare__arch;

extern const pare__arch pare__arch_llama, pare__arch_bert, pare__arch_distilbert, pare__arch_gpt2,
    pare__arch_vit, pare__arch_resnet, pare__arch_resnet_tiny, pare__arch_mlp, pare__arch_cnn,
    pare__arch_vit_plain;

/* Room that pare_model_config needs beside the text of --arch. */
#define PARE__CONFIG_ROOM 512

/* ---- config.json: arch_config.c ---------------------------------------------------------------
 */

/* Limits that no model comes near, and below which no product of two overflows. */
#define PARE__MOST_LAYERS 1000
#define PARE__MOST_WIDTH (1 << 24)
#define PARE__MOST_ROWS ((int64_t)1 << 31)

/* Whether config.json has the key at all (null counts as having it). */
bool pare__config_has(const pare__build *b, const char *key);

/* Stops the build unless the class in "architectures" ends in one of these words ("ForCausalLM",
 * "Model" …; NULL after the last) or there is none; gives that word, or "". */
const char *pare__config_task(pare__build *b, const char *const *words);

/* Classes of a head: what was asked for, the rows of `weight` in the checkpoint, the labels of
 * config.json, or 2. */
int64_t pare__config_classes(pare__build *b, const char *weight);

/* Heads that divide the width, from these keys; the width of one. */
int64_t pare__config_heads(pare__build *b, const char *width_key, const char *heads_key,
                           int64_t *width, int *heads);

/* What a norm adds to a variance: 0 to 1000. */
float pare__config_eps(pare__build *b, const char *key, double otherwise);

/* A probability in [0, 1). */
float pare__config_dropout(pare__build *b, const char *key, double otherwise);

/* pad_token_id and bos_token_id into the facts; an id outside the vocabulary counts as none. */
void pare__config_ids(pare__build *b, int64_t vocabulary);

/* A number that pixels are scaled by (positive) or moved by, up to 1e9; false if it is none. */
bool pare__json_pixel(const pare__json *node, bool positive, float *value);

/* A side file of the checkpoint as JSON (*root to be freed), NULL if there is none. */
void pare__config_side(pare__build *b, const char *name, pare__json **root);

/* ---- --arch NAME:item,key=value,…: arch_spec.c ------------------------------------------------
 */

/* Stops the build unless every key is one of these (NULL after the last) and given once, and there
 * are at most `items` leading words without '='. */
void pare__spec_keys(pare__build *b, const char *const *keys, int items);

/* The leading word ("784-256-10"), "" if there is none. */
void pare__spec_item(const pare__build *b, char *text, size_t size);

int64_t pare__spec_int(pare__build *b, const char *key, int64_t otherwise, int64_t least,
                       int64_t most);
double pare__spec_real(pare__build *b, const char *key, double otherwise, double least,
                       double most);
void pare__spec_word(const pare__build *b, const char *key, const char *otherwise, char *text,
                     size_t size);

/* Square images of these many channels: the keys in= and size=, or what is usual. */
typedef struct pare__picture {
    int64_t size, channels;
} pare__picture;
pare__picture pare__spec_picture(pare__build *b, int64_t size, int64_t channels);

/* Rows of a weight in the checkpoint, where some may have been pruned; else as usual. */
int64_t pare__stored_width(pare__build *b, const char *weight, int64_t usual);

/* classes=, unless the caller asked for another number. */
int64_t pare__spec_classes(pare__build *b, int64_t otherwise);

/* How pixels come in: their bytes × scale, then (x − mean)/std. NULL: 0 and 1. Pictures of other
 * than three channels get their means. */
void pare__preprocess(pare__build *b, float scale, const float mean[3], const float std[3]);

extern const float pare__imagenet_mean[3], pare__imagenet_std[3];

/* A square window. */
static inline pare_window pare__square(int kernel, int stride, int pad)
{
    return (pare_window){{kernel, kernel}, {stride, stride}, {1, 1}, pad, pad, pad, pad};
}

#endif
