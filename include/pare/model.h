/* model.h - what a checkpoint's tensors are for. */
#ifndef PARE_MODEL_H
#define PARE_MODEL_H

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

#ifdef __cplusplus
}
#endif
#endif
