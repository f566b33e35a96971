/* ops.c - the public wrapper of every op: arguments there, arguments sound, slot filled, call. */
#include "backend_impl.h"

#include "base/check.h"

const char *pare_op_name(pare_op op)
{
    static const char *const names[PARE_OP_COUNT] = {
#define OP_NAME(name) [PARE_OP_##name] = #name,
        PARE_OPS(OP_NAME)
#undef OP_NAME
    };
    unsigned index = (unsigned)op;
    return index < PARE_OP_COUNT ? names[index] : "?";
}

#define OP_WRAPPER(op)                                                                             \
    pare_status pare_##op(pare_backend *be, const pare_##op##_args *args)                          \
    {                                                                                              \
        PARE_REQUIRE(be &&args, PARE_ERR_ARGUMENT, "%s needs a backend and arguments", #op);       \
        PARE_TRY(pare__check_##op(args));                                                          \
        PARE_REQUIRE(be->ops->op, PARE_ERR_UNSUPPORTED, "the backend %s lacks %s; use the cpu",    \
                     be->name, #op);                                                               \
        PARE_TRY(be->ops->op(be, args));                                                           \
        return PARE_OK;                                                                            \
    }
PARE_OPS(OP_WRAPPER)
