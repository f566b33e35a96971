/* cuda_impl.h - the inside of a CUDA backend, for C and for .cu files.
 *
 * A backend is a device and one stream; everything it does is in that stream's order. Its memory
 * comes from the device's pool, stream-ordered, so that a release never waits. Launchers are
 * `pare_status pare_cuda_<op>(pare_backend *be, const pare_<op>_args *args)`, extern "C"; arguments
 * have been checked (src/backend/ops_check_*.c). A launcher allocates nothing but scratch, and does
 * not wait unless the op's comment promises host memory that is ready on return: then it lets a
 * kernel write to pare__cuda_result() and takes it with pare__cuda_fetch().
 */
#ifndef PARE_CUDA_IMPL_H
#define PARE_CUDA_IMPL_H

#include "backend_impl.h"

#include "cuda_check.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PARE_CUDA_RESULT 65536 /* bytes of device memory for small results */

typedef struct pare__cuda {
    int device;
    int multiprocessors;
    int shared_optin; /* bytes of shared memory that a block may have when asked for */
    cudaStream_t stream;
    cudaEvent_t asked; /* behind all that another backend waits for */
    void *result;      /* [PARE_CUDA_RESULT] on the device */
    void *result_host; /* the same, page-locked */
    void *blas;        /* cuda_gemm.c's: handle and plans, made at the first product; */
    void *dnn;         /* cuda_conv.c's; */
    void *solver;      /* cuda_linalg.c's; */
    void (*free_blas)(void *), (*free_dnn)(void *), (*free_solver)(void *); /* NULL: never made */
} pare__cuda;

static inline pare__cuda *pare__cuda_of(const pare_backend *be)
{
    return (pare__cuda *)be->state;
}

/* Device memory for a small result of an op (bytes ≤ PARE_CUDA_RESULT), cleared to `byte` in every
 * byte; and what is there after all that was asked so far (waits). */
pare_status pare__cuda_result(pare_backend *be, int64_t bytes, int byte, void *result /* T ** */);
pare_status pare__cuda_fetch(pare_backend *be, void *to, const void *from, int64_t bytes);

/* Makes sure that the calling thread's current device is the backend's. Every launcher that calls a
 * library directly does so first; PARE_LAUNCH does it by itself. */
pare_status pare__cuda_use(const pare_backend *be);

#define PARE_CUDA_DECLARE(name)                                                                    \
    pare_status pare_cuda_##name(pare_backend *be, const pare_##name##_args *args);
PARE_OPS(PARE_CUDA_DECLARE)
#undef PARE_CUDA_DECLARE

#ifdef __cplusplus
}
#endif
#endif
