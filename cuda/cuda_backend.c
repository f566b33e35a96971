/* cuda_backend.c - devices, and a backend on one of them: its stream, memory, small results. */
#include "cuda_impl.h"

#include "cuda_table.h"

#include "base/alloc.h"
#include "base/text.h"

#include <string.h>

/* ---- failures -------------------------------------------------------------------------------- */

/* Errors after which the context is gone for this process. */
static bool is_sticky(cudaError_t error)
{
    switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorECCUncorrectable:
    case cudaErrorDevicesUnavailable:
    case cudaErrorContained:
        return true;
    default:
        return false;
    }
}

pare_status pare__cuda_error(cudaError_t error, const char *where, const char *call)
{
    int length = (int)strcspn(call, "(");
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* not sticky: the next call is not to see it */
        return pare__error(PARE_ERR_MEMORY, where,
                           "%.*s: the device has not enough free memory; close what else uses it, "
                           "or choose a smaller batch",
                           length, call);
    }
    (void)cudaGetLastError();
    return pare__error(PARE_ERR_DEVICE, where, "CUDA: %.*s failed: %s (%s)%s", length, call,
                       cudaGetErrorString(error), cudaGetErrorName(error),
                       is_sticky(error) ? "; the device cannot be used by this process any more: "
                                          "run again, with --device cpu if it fails again"
                                        : "");
}

pare_status pare__cuda_launched(const char *where, const char *kernel, int64_t blocks, int threads,
                                int64_t shared_bytes)
{
    cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess)
        return PARE_OK;
    return pare__error(error == cudaErrorMemoryAllocation ? PARE_ERR_MEMORY : PARE_ERR_DEVICE,
                       where,
                       "CUDA: kernel %s (%lld blocks of %d threads, %lld bytes shared) failed: %s "
                       "(%s)%s",
                       kernel, (long long)blocks, threads, (long long)shared_bytes,
                       cudaGetErrorString(error), cudaGetErrorName(error),
                       is_sticky(error) ? "; the device cannot be used by this process any more: "
                                          "run again, with --device cpu if it fails again"
                                        : "");
}

/* ---- devices --------------------------------------------------------------------------------- */

static pare_status count_devices(int *count)
{
    cudaError_t error = cudaGetDeviceCount(count);
    if (error == cudaErrorInsufficientDriver) {
        int driver = 0, runtime = 0;
        (void)cudaDriverGetVersion(&driver);
        (void)cudaRuntimeGetVersion(&runtime);
        if (driver == 0)
            PARE_FAIL(PARE_ERR_DEVICE,
                      "this machine has no NVIDIA driver: use --device cpu, or install one");
        PARE_FAIL(PARE_ERR_DEVICE,
                  "the NVIDIA driver supports CUDA up to %d.%d, this pare needs %d.%d: update the "
                  "driver, or use --device cpu",
                  driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    if (error == cudaErrorNoDevice || (error == cudaSuccess && *count == 0))
        PARE_FAIL(PARE_ERR_DEVICE, "this machine has no CUDA device: use --device cpu");
    return error == cudaSuccess ? PARE_OK : pare__cuda_error(error, __func__, "cudaGetDeviceCount");
}

static pare_status check_device(int device)
{
    int count;
    PARE_TRY(count_devices(&count));
    PARE_REQUIRE(device >= 0 && device < count, PARE_ERR_DEVICE,
                 "there is no device cuda:%d: this machine has %d, from cuda:0 on", device, count);
    return PARE_OK;
}

static pare_status facts_of(int device, pare_cuda_facts *facts)
{
    struct cudaDeviceProp properties;
    size_t available = 0, total = 0;
    PARE_TRY(check_device(device));
    *facts = (pare_cuda_facts){0};
    PARE_CUDA(cudaGetDeviceProperties(&properties, device));
    snprintf(facts->name, sizeof facts->name, "%.95s", properties.name);
    facts->major = properties.major;
    facts->minor = properties.minor;
    facts->multiprocessors = properties.multiProcessorCount;
    PARE_CUDA(cudaSetDevice(device));
    PARE_CUDA(cudaMemGetInfo(&available, &total));
    facts->memory = (int64_t)total;
    facts->free = (int64_t)available;
    PARE_CUDA(cudaDriverGetVersion(&facts->driver));
    PARE_CUDA(cudaRuntimeGetVersion(&facts->runtime));
    return PARE_OK;
}

pare_status pare__cuda_use(const pare_backend *be)
{
    PARE_CUDA(cudaSetDevice(pare__cuda_of(be)->device));
    return PARE_OK;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static pare_status device_alloc(pare_backend *be, size_t bytes, void **memory)
{
    pare__cuda *c = pare__cuda_of(be);
    PARE_TRY(pare__cuda_use(be));
    cudaError_t error = cudaMallocAsync(memory, bytes, c->stream);
    if (error == cudaErrorMemoryAllocation) {
        size_t available = 0, total = 0;
        char asked[32], left[32];
        (void)cudaGetLastError();
        (void)cudaMemGetInfo(&available, &total);
        PARE_FAIL(PARE_ERR_MEMORY,
                  "device cuda:%d cannot give %s (%s are free): close what else uses it, or choose "
                  "a smaller batch",
                  c->device, pare__size_text((double)bytes, asked, sizeof asked),
                  pare__size_text((double)available, left, sizeof left));
    }
    return error == cudaSuccess ? PARE_OK : pare__cuda_error(error, __func__, "cudaMallocAsync");
}

/* A release that fails (on a lost device) has nobody to tell: the process's end frees all, and the
 * sentence of what failed before stays. */
static void device_release(pare_backend *be, void *memory)
{
    if (cudaSetDevice(pare__cuda_of(be)->device) == cudaSuccess)
        (void)cudaFreeAsync(memory, pare__cuda_of(be)->stream);
}

static pare_status locked_alloc(pare_backend *be, size_t bytes, void **memory)
{
    PARE_TRY(pare__cuda_use(be));
    PARE_CUDA(cudaHostAlloc(memory, bytes, cudaHostAllocDefault));
    memset(*memory, 0, bytes);
    return PARE_OK;
}

static void locked_release(pare_backend *be, void *memory)
{
    (void)cudaSetDevice(pare__cuda_of(be)->device); /* host memory outlives a lost device */
    (void)cudaFreeHost(memory);
}

static pare_status wait(pare_backend *be)
{
    PARE_TRY(pare__cuda_use(be));
    PARE_CUDA(cudaStreamSynchronize(pare__cuda_of(be)->stream));
    return PARE_OK;
}

static pare_status upload(pare_backend *be, void *to, const void *from, size_t bytes)
{
    PARE_TRY(pare__cuda_use(be));
    PARE_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, pare__cuda_of(be)->stream));
    PARE_TRY(wait(be));
    return PARE_OK;
}

static pare_status download(pare_backend *be, void *to, const void *from, size_t bytes)
{
    PARE_TRY(pare__cuda_use(be));
    PARE_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, pare__cuda_of(be)->stream));
    PARE_TRY(wait(be));
    return PARE_OK;
}

static pare_status copy(pare_backend *be, void *to, const void *from, size_t bytes)
{
    PARE_TRY(pare__cuda_use(be));
    PARE_CUDA(
        cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, pare__cuda_of(be)->stream));
    return PARE_OK;
}

/* The one's stream waits for what is on the other's, the host does not. */
static pare_status after(pare_backend *be, pare_backend *other)
{
    const pare__cuda *c = pare__cuda_of(be), *o = pare__cuda_of(other);
    PARE_REQUIRE(c->device == o->device, PARE_ERR_ARGUMENT, "%s cannot wait for %s", be->name,
                 other->name);
    PARE_TRY(pare__cuda_use(be));
    PARE_CUDA(cudaEventRecord(o->asked, o->stream));
    PARE_CUDA(cudaStreamWaitEvent(c->stream, o->asked, 0));
    return PARE_OK;
}

static pare_status send_to(pare_backend *be, const void *from, pare_backend *other, void *to,
                           size_t bytes)
{
    PARE_TRY(copy(be, to, from, bytes));
    PARE_TRY(after(other, be));
    return PARE_OK;
}

static pare_status clear(pare_backend *be, void *memory, size_t bytes)
{
    PARE_TRY(pare__cuda_use(be));
    PARE_CUDA(cudaMemsetAsync(memory, 0, bytes, pare__cuda_of(be)->stream));
    return PARE_OK;
}

static const pare__memory device_memory = {
    .alloc = device_alloc,
    .release = device_release,
    .host_alloc = locked_alloc,
    .host_release = locked_release,
    .upload = upload,
    .download = download,
    .copy = copy,
    .send = send_to,
    .after = after,
    .clear = clear,
    .sync = wait,
};

pare_status pare__cuda_result(pare_backend *be, int64_t bytes, int byte, void *result)
{
    pare__cuda *c = pare__cuda_of(be);
    PARE_ASSERT(bytes <= PARE_CUDA_RESULT);
    PARE_TRY(pare__cuda_use(be));
    PARE_CUDA(cudaMemsetAsync(c->result, byte, (size_t)bytes, c->stream));
    memcpy(result, &c->result, sizeof c->result);
    return PARE_OK;
}

pare_status pare__cuda_fetch(pare_backend *be, void *to, const void *from, int64_t bytes)
{
    pare__cuda *c = pare__cuda_of(be);
    PARE_ASSERT(bytes <= PARE_CUDA_RESULT);
    PARE_TRY(download(be, c->result_host, from, (size_t)bytes));
    memcpy(to, c->result_host, (size_t)bytes);
    return PARE_OK;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* What nobody uses of the pool goes back to the device: as long as the pool has it, neither a
 * library's own allocations nor cudaMemGetInfo, which the next run plans with, see it as free. */
static void trim_pool(int device)
{
    cudaMemPool_t pool;
    if (cudaDeviceGetDefaultMemPool(&pool, device) == cudaSuccess)
        (void)cudaMemPoolTrimTo(pool, 0);
}

static void free_state(void *state)
{
    pare__cuda *c = state;
    if (!c)
        return;
    (void)cudaSetDevice(c->device); /* may be lost: what the host has of it is freed all the same */
    if (c->free_blas)
        c->free_blas(c->blas);
    if (c->free_dnn)
        c->free_dnn(c->dnn);
    if (c->free_solver)
        c->free_solver(c->solver);
    if (c->result)
        (void)cudaFreeAsync(c->result, c->stream);
    if (c->stream) {
        (void)cudaStreamSynchronize(c->stream);
        (void)cudaStreamDestroy(c->stream);
        if (c->asked)
            (void)cudaEventDestroy(c->asked);
        trim_pool(c->device);
    }
    if (c->result_host)
        (void)cudaFreeHost(c->result_host);
    free(c);
}

/* Memory that is given back stays with the process until a backend ends, so that a chunk's buffers
 * cost nothing the second time. */
static pare_status keep_pool(int device)
{
    cudaMemPool_t pool;
    uint64_t most = UINT64_MAX;
    PARE_CUDA(cudaDeviceGetDefaultMemPool(&pool, device));
    PARE_CUDA(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &most));
    return PARE_OK;
}

static pare_status open_state(pare_backend *be)
{
    pare__cuda *c = pare__cuda_of(be);
    PARE_CUDA(cudaSetDevice(c->device));
    PARE_TRY(keep_pool(c->device));
    PARE_CUDA(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking));
    PARE_CUDA(cudaEventCreateWithFlags(&c->asked, cudaEventDisableTiming));
    PARE_CUDA(cudaMallocAsync(&c->result, PARE_CUDA_RESULT, c->stream));
    PARE_CUDA(cudaHostAlloc(&c->result_host, PARE_CUDA_RESULT, cudaHostAllocDefault));
    PARE_CUDA(
        cudaDeviceGetAttribute(&c->multiprocessors, cudaDevAttrMultiProcessorCount, c->device));
    PARE_CUDA(cudaDeviceGetAttribute(&c->shared_optin, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                     c->device));
    return PARE_OK;
}

static pare_status create(int device, pare_backend **backend)
{
    pare_status status = PARE_OK;
    pare_backend *be = NULL;
    pare__cuda *c = NULL;
    pare_cuda_facts facts;
    PARE_TRY_DONE(facts_of(device, &facts));
    PARE_TRY_DONE(pare__calloc(1, sizeof *be, &be));
    PARE_TRY_DONE(pare__calloc(1, sizeof *c, &c));
    c->device = device;
    be->state = c;
    be->free_state = free_state;
    be->ops = &pare__cuda_ops;
    be->memory = &device_memory;
    be->threads = 1;
    snprintf(be->name, sizeof be->name, "cuda:%d %s", device, facts.name);
    PARE_TRY_DONE(pare_cpu_create(NULL, &be->host));
    PARE_TRY_DONE(open_state(be));
    *backend = be;
    be = NULL;
done:
    pare_backend_free(&be);
    return status;
}

const pare__cuda_entry pare__cuda_backends = {
    .count = count_devices, .facts = facts_of, .create = create};
