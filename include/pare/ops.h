/* ops.h - the one list of operations.
 *
 * An op is a name and an argument struct whose comments are its specification. A call names its
 * arguments:
 *
 *     pare_pack(be, &(pare_pack_args){ .codes = q, .words = w, .bits = 4 });
 *
 * Rules for all: pointers are to the backend's memory, aligned to their elements; zero-size tensors
 * are legal; outputs must not overlap inputs unless the comment says "in place"; results are the
 * same bytes on every backend, thread count and instruction set for the ops of ops_core.h and
 * ops_compress.h (ops_nn.h has its own rule). A wrong shape, dtype or overlap is PARE_ERR_ARGUMENT
 * with the op, the argument and both shapes; an op that a backend lacks is PARE_ERR_UNSUPPORTED.
 *
 * The order of every float sum that decides a byte: element i of a sequence goes to lane i mod 16,
 * each lane adds in ascending i starting from +0, then lanes are added as a binary tree: (l, l+8),
 * (l, l+4), (l, l+2), (l, l+1). Below this is "the lane sum".
 */
#ifndef PARE_OPS_H
#define PARE_OPS_H

#include "pare/backend.h"
#include "pare/ops_calib.h"
#include "pare/ops_compress.h"
#include "pare/ops_core.h"
#include "pare/ops_distill.h"
#include "pare/ops_nn.h"

#define PARE_OPS(OP)                                                                               \
    PARE_OPS_CORE(OP)                                                                              \
    PARE_OPS_COMPRESS(OP)                                                                          \
    PARE_OPS_NN(OP)                                                                                \
    PARE_OPS_CALIB(OP)                                                                             \
    PARE_OPS_DISTILL(OP)

typedef enum pare_op {
#define PARE_OP_ENUM(name) PARE_OP_##name,
    PARE_OPS(PARE_OP_ENUM)
#undef PARE_OP_ENUM
        PARE_OP_COUNT
} pare_op;

#ifdef __cplusplus
extern "C" {
#endif

/* "cast", "pack" …; "?" for a value that is none. */
const char *pare_op_name(pare_op op);

/* pare_status pare_<name>(pare_backend *be, const pare_<name>_args *args); */
#define PARE_OP_DECLARE(name)                                                                      \
    pare_status pare_##name(pare_backend *be, const pare_##name##_args *args);
PARE_OPS(PARE_OP_DECLARE)
#undef PARE_OP_DECLARE

#ifdef __cplusplus
}
#endif
#endif
