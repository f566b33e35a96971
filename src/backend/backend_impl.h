/* backend_impl.h - what a backend fills in (src/cpu and cuda see this). */
#ifndef PARE_BACKEND_IMPL_H
#define PARE_BACKEND_IMPL_H

#include "pare/backend.h"
#include "pare/ops.h"

/* One slot an op: pare__ops.pack and so on. An empty slot answers PARE_ERR_UNSUPPORTED. */
typedef struct pare__ops {
#define PARE_OP_SLOT(name) pare_status (*name)(pare_backend *, const pare_##name##_args *);
    PARE_OPS(PARE_OP_SLOT)
#undef PARE_OP_SLOT
} pare__ops;

struct pare_backend {
    const pare__ops *ops;
    char name[32];
    int threads; /* inside one op */
    void *state; /* the backend's own */
    void (*free_state)(void *state);
    void *scratch; /* workspace, see pare__scratch() */
    size_t scratch_size;
};

/* At least size bytes of scratch, 64-byte aligned, valid until the next call; grows, never shrinks.
 */
pare_status pare__scratch(pare_backend *be, size_t size, void **scratch);

/* Shape, dtype and overlap rules of each op: pare_status pare__check_<name>(const pare_<name>_args
 * *). */
#define PARE_OP_CHECK(name) pare_status pare__check_##name(const pare_##name##_args *args);
PARE_OPS(PARE_OP_CHECK)
#undef PARE_OP_CHECK

#endif
