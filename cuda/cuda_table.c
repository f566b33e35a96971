/* cuda_table.c - the op table: every op of the one list has its slot filled. */
#include "cuda_impl.h"

#include "cuda_table.h"

const pare__ops pare__cuda_ops = {
#define OP_SLOT(name) .name = pare_cuda_##name,
    PARE_OPS(OP_SLOT)
#undef OP_SLOT
};
