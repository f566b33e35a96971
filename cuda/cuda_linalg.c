/* cuda_linalg.c - cholesky and tri_inverse by cuSOLVER.
 *
 * The lower triangle of a row-major matrix is the upper one of a column-major matrix, and L is the
 * transpose of cuSOLVER's U. cuSOLVER says which minor is not positive; what it says of NaN is not
 * documented, so a kernel looks at the diagonal of the result, too; before a triangle is inverted,
 * at that of the triangle. The inverse of a transpose is the transpose of the inverse. Both are
 * bound by arithmetic, n³/6 multiply-adds in full f32.
 */
#include "cuda_linalg.h"

#include "cuda_plan.h"

#include <cusolverDn.h>
#include <string.h>

#define ALIGNED 16      /* cuSOLVER gets no less */
#define MOST_ROWS 46340 /* n² stays below 2^31 */
#define NO_MINOR 0x7f   /* every byte of an order that no matrix has */

static pare_status solver_error(cusolverStatus_t error, const char *where, const char *call)
{
    int length = (int)strcspn(call, "(");
    if (error == CUSOLVER_STATUS_ALLOC_FAILED)
        return pare__error(PARE_ERR_MEMORY, where,
                           "cuSOLVER: %.*s lacks memory: close what else uses the device", length,
                           call);
    return pare__error(PARE_ERR_DEVICE, where, "cuSOLVER: %.*s failed with status %d", length, call,
                       (int)error);
}

#define SOLVER(call_)                                                                              \
    do {                                                                                           \
        cusolverStatus_t solver_ = (call_);                                                        \
        if (solver_ != CUSOLVER_STATUS_SUCCESS)                                                    \
            return solver_error(solver_, __func__, #call_);                                        \
    } while (0)

static void free_handle(void *handle)
{
    if (handle)
        (void)cusolverDnDestroy(handle);
}

static pare_status handle_of(pare_backend *be, cusolverDnHandle_t *handle)
{
    pare__cuda *c = pare__cuda_of(be);
    PARE_TRY(pare__cuda_use(be));
    if (!c->solver) {
        SOLVER(cusolverDnCreate(handle));
        c->solver = *handle;
        c->free_solver = free_handle;
    }
    *handle = c->solver;
    SOLVER(cusolverDnSetStream(*handle, c->stream));
    SOLVER(cusolverDnSetDeterministicMode(*handle, CUSOLVER_DETERMINISTIC_RESULTS));
    return PARE_OK;
}

/* orders: of the first failing minor, cuSOLVER's (0: none) and the diagonal's, on the device. */
static pare_status factor(pare_backend *be, float *a, int n, bool move, int *orders)
{
    cusolverDnHandle_t handle = NULL;
    size_t used = 0, bytes = (size_t)n * (size_t)n * sizeof *a;
    int count = 0;
    void *scratch = NULL;
    PARE_TRY(handle_of(be, &handle));
    size_t a_at = pare__cuda_part(&used, move ? bytes : 0);
    SOLVER(cusolverDnSpotrf_bufferSize(handle, CUBLAS_FILL_MODE_UPPER, n, a, n, &count));
    size_t room_at = pare__cuda_part(&used, (size_t)count * sizeof(float));
    PARE_TRY(pare__scratch(be, used, &scratch));
    float *work = move ? (float *)((uint8_t *)scratch + a_at) : a;
    float *room = (float *)((uint8_t *)scratch + room_at);
    if (move)
        PARE_TRY(pare_backend_copy(be, work, a, (int64_t)bytes));
    SOLVER(cusolverDnSpotrf(handle, CUBLAS_FILL_MODE_UPPER, n, work, n, room, count, &orders[0]));
    if (move)
        PARE_TRY(pare_backend_copy(be, a, work, (int64_t)bytes));
    return pare__cuda_triangle(be, a, n, &orders[1]);
}

pare_status pare_cuda_cholesky(pare_backend *be, const pare_cholesky_args *args)
{
    int64_t n = args->a.shape[0];
    int *orders = NULL, found[2];
    if (n == 0)
        return PARE_OK;
    PARE_REQUIRE(n <= MOST_ROWS, PARE_ERR_UNSUPPORTED,
                 "cholesky: a matrix of %lld rows is more than cuSOLVER takes (%d): use the cpu",
                 (long long)n, MOST_ROWS);
    PARE_TRY(pare__cuda_result(be, sizeof found, NO_MINOR, &orders));
    PARE_TRY(factor(be, args->a.data, (int)n, (uintptr_t)args->a.data % ALIGNED != 0, orders));
    PARE_TRY(pare__cuda_fetch(be, found, orders, sizeof found));
    PARE_ASSERT(found[0] >= 0);
    int order = found[0] > 0 && found[0] < found[1] ? found[0] : found[1];
    PARE_REQUIRE(order > n, PARE_ERR_NUMERIC,
                 "cholesky: the matrix [%lld, %lld] is not positive definite: its leading minor of "
                 "order %d fails; add more to its diagonal",
                 (long long)n, (long long)n, order);
    return PARE_OK;
}

/* ---- tri_inverse ----------------------------------------------------------------------------- */

/* info: cuSOLVER's answer, on the device. */
static pare_status invert(pare_backend *be, float *a, int64_t n, bool move, int *info)
{
    cusolverDnHandle_t handle = NULL;
    size_t used = 0, bytes = (size_t)(n * n) * sizeof *a, room = 0, host_room = 0;
    void *scratch = NULL, *host = NULL;
    pare_status status = PARE_OK;
    PARE_TRY(handle_of(be, &handle));
    size_t a_at = pare__cuda_part(&used, move ? bytes : 0);
    SOLVER(cusolverDnXtrtri_bufferSize(handle, CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, n,
                                       CUDA_R_32F, a, n, &room, &host_room));
    size_t room_at = pare__cuda_part(&used, room);
    PARE_TRY(pare__scratch(be, used, &scratch));
    float *work = move ? (float *)((uint8_t *)scratch + a_at) : a;
    if (move)
        PARE_TRY(pare_backend_copy(be, work, a, (int64_t)bytes));
    PARE_TRY(pare_backend_host_alloc(be, (int64_t)host_room, &host)); /* commonly none */
    cusolverStatus_t error = cusolverDnXtrtri(
        handle, CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, n, CUDA_R_32F, work, n,
        room > 0 ? (uint8_t *)scratch + room_at : NULL, room, host, host_room, info);
    if (error != CUSOLVER_STATUS_SUCCESS)
        status = solver_error(error, __func__, "cusolverDnXtrtri");
    if (host_room > 0 && status == PARE_OK) /* it may be in use until then */
        status = pare_backend_sync(be);
    pare_backend_host_release(be, host, (int64_t)host_room);
    PARE_TRY(status);
    if (move)
        PARE_TRY(pare_backend_copy(be, a, work, (int64_t)bytes));
    return pare__cuda_triangle(be, a, n, NULL);
}

pare_status pare_cuda_tri_inverse(pare_backend *be, const pare_tri_inverse_args *args)
{
    int64_t n = args->l.shape[0];
    float *l = args->l.data;
    int *orders = NULL, found[2];
    if (n == 0)
        return PARE_OK;
    PARE_TRY(pare__cuda_result(be, sizeof found, NO_MINOR, &orders));
    PARE_TRY(pare__cuda_regular(be, l, n, &orders[1]));
    PARE_TRY(invert(be, l, n, (uintptr_t)l % ALIGNED != 0, orders));
    PARE_TRY(pare__cuda_fetch(be, found, orders, sizeof found));
    PARE_ASSERT(found[0] >= 0);
    int64_t order = found[0] > 0 && found[0] < found[1] ? found[0] : found[1];
    PARE_REQUIRE(
        order > n, PARE_ERR_NUMERIC,
        "tri_inverse: the matrix [%lld, %lld] has no inverse: element %lld of its diagonal "
        "is 0, NaN or Inf",
        (long long)n, (long long)n, (long long)(order - 1));
    return PARE_OK;
}
