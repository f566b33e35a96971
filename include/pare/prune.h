/* prune.h - which weights go: scores (one file each in src/prune) and the patterns they are cut in.
 */
#ifndef PARE_PRUNE_H
#define PARE_PRUNE_H

#include "pare/backend.h"
#include "pare/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pare_pattern_kind {
    PARE_PATTERN_UNSTRUCTURED,
    PARE_PATTERN_NM,    /* n of every m consecutive columns stay */
    PARE_PATTERN_BLOCK, /* block_rows × block_cols go together */
} pare_pattern_kind;

typedef struct pare_pattern {
    pare_pattern_kind kind;
    int n, m;                       /* PARE_PATTERN_NM: 0 < n < m ≤ 256 */
    int64_t block_rows, block_cols; /* PARE_PATTERN_BLOCK: 1..4096 each */
} pare_pattern;

/* Reads "unstructured", "2:4", "block:16x16"; patterns of cli.md that are still to come (channel,
 * head, layer, width) answer "not in this version". PARE_ERR_ARGUMENT with what was expected. */
pare_status pare_pattern_parse(const char *text, pare_pattern *pattern);
/* Writes that spelling into text (size bytes, 32 are enough) and returns text. */
char *pare_pattern_text(const pare_pattern *pattern, char *text, size_t size);

/* What a score sees: some rows of one tensor. */
typedef struct pare_score_args {
    uint64_t seed, stream; /* of the run, and of the tensor (the same wherever it is stored) */
    int64_t first;         /* index of w's first element (or of its first block) in the tensor */
    pare_tensor w;         /* [R, C], F32 */
    int64_t block_rows, block_cols; /* 1 × 1 for single elements */
    pare_tensor keys; /* [ceil(R/block_rows), ceil(C/block_cols)], U32: see ops_compress.h */
} pare_score_args;

typedef struct pare_prune_method {
    const char *name;     /* "magnitude" */
    const char *summary;  /* one line for help and docs */
    bool weight_is_score; /* element keys are the bits of |w|: selection may read the weights
                             themselves */
    pare_status (*score)(pare_backend *be, const pare_score_args *args);
} pare_prune_method;

/* All methods, NULL after the last; the one of a name, or NULL. */
const pare_prune_method *const *pare_prune_methods(void);
const pare_prune_method *pare_prune_find(const char *name);

#ifdef __cplusplus
}
#endif
#endif
