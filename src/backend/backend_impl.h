/* backend_impl.h - what a backend fills in (src/cpu and cuda see this). */
#ifndef PARE_BACKEND_IMPL_H
#define PARE_BACKEND_IMPL_H

#include "pare/backend.h"
#include "pare/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One slot an op: pare__ops.pack and so on. An empty slot answers PARE_ERR_UNSUPPORTED. */
typedef struct pare__ops {
#define PARE_OP_SLOT(name) pare_status (*name)(pare_backend *, const pare_##name##_args *);
    PARE_OPS(PARE_OP_SLOT)
#undef PARE_OP_SLOT
} pare__ops;

/* Memory that is not the host's: see pare/backend.h. Sizes are above 0; alloc leaves what was
 * there.
 */
typedef struct pare__memory {
    pare_status (*alloc)(pare_backend *be, size_t bytes, void **memory);
    void (*release)(pare_backend *be, void *memory);
    pare_status (*host_alloc)(pare_backend *be, size_t bytes, void **memory);
    void (*host_release)(pare_backend *be, void *memory);
    pare_status (*upload)(pare_backend *be, void *to, const void *from, size_t bytes);
    pare_status (*download)(pare_backend *be, void *to, const void *from, size_t bytes);
    pare_status (*copy)(pare_backend *be, void *to, const void *from, size_t bytes);
    pare_status (*send)(pare_backend *be, const void *from, pare_backend *other, void *to,
                        size_t bytes);
    /* NULL: it has done what it was asked when it returns */
    pare_status (*after)(pare_backend *be, pare_backend *other);
    pare_status (*clear)(pare_backend *be, void *memory, size_t bytes);
    pare_status (*sync)(pare_backend *be);
} pare__memory;

struct pare_backend {
    const pare__ops *ops;
    const pare__memory *memory; /* NULL: the host's */
    char name[112];
    int threads; /* inside one op */
    void *state; /* the backend's own */
    void (*free_state)(void *state);
    pare_backend *host; /* of a device: a CPU backend beside it */
    void *scratch;      /* workspace, see pare__scratch() */
    size_t scratch_size;
};

/* At least size bytes of the backend's memory, 64-byte aligned, with anything in it, valid until
 * the next call; grows, never shrinks. */
pare_status pare__scratch(pare_backend *be, size_t size, void **scratch);

/* Shape, dtype and overlap rules of each op: pare_status pare__check_<name>(const pare_<name>_args
 * *). */
#define PARE_OP_CHECK(name) pare_status pare__check_##name(const pare_##name##_args *args);
PARE_OPS(PARE_OP_CHECK)
#undef PARE_OP_CHECK

/* What a build with CUDA brings (cuda/cuda_backend.c); absent in one without. */
typedef struct pare__cuda_entry {
    pare_status (*count)(int *count);
    pare_status (*facts)(int device, pare_cuda_facts *facts);
    pare_status (*create)(int device, pare_backend **backend);
} pare__cuda_entry;
#ifdef PARE_HAS_CUDA
extern const pare__cuda_entry pare__cuda_backends;
#else /* a program may bring one beside the library: simulated devices, in tests */
extern const pare__cuda_entry pare__cuda_backends __attribute__((weak));
#endif

#ifdef __cplusplus
}
#endif
#endif
