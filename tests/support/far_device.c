/* far_device.c - see the header. */
#include "far_device.h"

#include "test.h"

#include "far_backend.h"

#include "backend_impl.h"

#include "base/check.h"

#include <pthread.h>

#define BLOCKS 4096

/* The one machine that a test plays. */
static struct {
    pthread_mutex_t lock;
    int devices;
    int64_t memory, held, peak, allocations, calls;
    int64_t fail_alloc, lose; /* 0: never */
    struct {
        void *at;
        int64_t bytes;
    } blocks[BLOCKS];
    const pare__memory *memory_table; /* of far backends */
    const pare__ops *ops;
} machine = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Whether one more op or copy finds the device there. */
static pare_status call_device(void)
{
    pthread_mutex_lock(&machine.lock);
    bool lost = ++machine.calls >= machine.lose && machine.lose > 0;
    pthread_mutex_unlock(&machine.lock);
    PARE_REQUIRE(!lost, PARE_ERR_DEVICE, "the device is lost; --device cpu does without it");
    return PARE_OK;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static pare_status take(int64_t bytes)
{
    pthread_mutex_lock(&machine.lock);
    int64_t left = machine.memory - machine.held;
    bool refused = ++machine.allocations == machine.fail_alloc || bytes > left;
    if (!refused)
        machine.held += bytes;
    if (machine.held > machine.peak)
        machine.peak = machine.held;
    pthread_mutex_unlock(&machine.lock);
    PARE_REQUIRE(!refused, PARE_ERR_MEMORY, "the device cannot give %lld bytes (%lld are free)",
                 (long long)bytes, (long long)left);
    return PARE_OK;
}

static pare_status device_alloc(pare_backend *be, size_t bytes, void **memory)
{
    int i = 0;
    PARE_TRY(call_device());
    PARE_TRY(take((int64_t)bytes));
    PARE_TRY(machine.memory_table->alloc(be, bytes, memory));
    pthread_mutex_lock(&machine.lock);
    while (i < BLOCKS && machine.blocks[i].at)
        i++;
    PARE_ASSERT(i < BLOCKS);
    machine.blocks[i].at = *memory;
    machine.blocks[i].bytes = (int64_t)bytes;
    pthread_mutex_unlock(&machine.lock);
    return PARE_OK;
}

static void device_release(pare_backend *be, void *memory)
{
    int i = 0;
    pthread_mutex_lock(&machine.lock);
    while (i < BLOCKS && machine.blocks[i].at != memory)
        i++;
    PARE_ASSERT(i < BLOCKS);
    machine.held -= machine.blocks[i].bytes;
    machine.blocks[i].at = NULL;
    pthread_mutex_unlock(&machine.lock);
    machine.memory_table->release(be, memory);
}

static pare_status host_alloc(pare_backend *be, size_t bytes, void **memory)
{
    PARE_TRY(call_device());
    return machine.memory_table->host_alloc(be, bytes, memory);
}

static void host_release(pare_backend *be, void *memory)
{
    machine.memory_table->host_release(be, memory);
}

static pare_status upload(pare_backend *be, void *to, const void *from, size_t bytes)
{
    PARE_TRY(call_device());
    return machine.memory_table->upload(be, to, from, bytes);
}

static pare_status download(pare_backend *be, void *to, const void *from, size_t bytes)
{
    PARE_TRY(call_device());
    return machine.memory_table->download(be, to, from, bytes);
}

static pare_status copy(pare_backend *be, void *to, const void *from, size_t bytes)
{
    PARE_TRY(call_device());
    return machine.memory_table->copy(be, to, from, bytes);
}

static pare_status send_to(pare_backend *be, const void *from, pare_backend *other, void *to,
                           size_t bytes)
{
    PARE_TRY(call_device());
    return machine.memory_table->send(be, from, other, to, bytes);
}

static pare_status clear(pare_backend *be, void *memory, size_t bytes)
{
    PARE_TRY(call_device());
    return machine.memory_table->clear(be, memory, bytes);
}

static pare_status sync(pare_backend *be)
{
    PARE_TRY(call_device());
    return machine.memory_table->sync(be);
}

static const pare__memory memory_table = {.alloc = device_alloc,
                                          .release = device_release,
                                          .host_alloc = host_alloc,
                                          .host_release = host_release,
                                          .upload = upload,
                                          .download = download,
                                          .copy = copy,
                                          .send = send_to,
                                          .clear = clear,
                                          .sync = sync};

/* ---- ops ------------------------------------------------------------------------------------- */

#define DEVICE_OP(name)                                                                            \
    static pare_status device_##name(pare_backend *be, const pare_##name##_args *args)             \
    {                                                                                              \
        PARE_TRY(call_device());                                                                   \
        return machine.ops->name(be, args);                                                        \
    }
PARE_OPS(DEVICE_OP)
#undef DEVICE_OP

static const pare__ops op_table = {
#define DEVICE_SLOT(name) .name = device_##name,
    PARE_OPS(DEVICE_SLOT)
#undef DEVICE_SLOT
};

/* ---- devices --------------------------------------------------------------------------------- */

static pare_status count_devices(int *count)
{
    *count = machine.devices;
    PARE_REQUIRE(machine.devices > 0, PARE_ERR_DEVICE,
                 "this machine has no CUDA device: use --device cpu");
    return PARE_OK;
}

static pare_status facts_of(int device, pare_cuda_facts *facts)
{
    PARE_REQUIRE(device >= 0 && device < machine.devices, PARE_ERR_DEVICE, "no device %d", device);
    *facts = (pare_cuda_facts){.name = "Far \"1\"",
                               .major = 9,
                               .multiprocessors = 2,
                               .memory = machine.memory,
                               .free = machine.memory - machine.held,
                               .driver = 13010,
                               .runtime = 13000};
    return PARE_OK;
}

static pare_status create(int device, pare_backend **backend)
{
    PARE_REQUIRE(device >= 0 && device < machine.devices, PARE_ERR_DEVICE, "no device %d", device);
    PARE_TRY(call_device());
    pare_backend *be = far_backend_make(1);
    machine.memory_table = be->memory;
    machine.ops = be->ops;
    be->memory = &memory_table;
    be->ops = &op_table;
    *backend = be;
    return PARE_OK;
}

const pare__cuda_entry pare__cuda_backends = {
    .count = count_devices, .facts = facts_of, .create = create};

static bool set_up(int64_t memory)
{
    machine.devices = memory > 0 ? 2 : 0;
    machine.memory = memory;
    machine.peak = machine.held;
    machine.allocations = machine.calls = machine.fail_alloc = machine.lose = 0;
    return true;
}

static void fail_alloc(int64_t nth)
{
    machine.fail_alloc = nth ? machine.allocations + nth : 0;
}

static void lose(int64_t nth)
{
    machine.lose = nth ? machine.calls + nth : 0;
}

static int64_t peak(void)
{
    return machine.peak;
}

static int64_t allocations(void)
{
    return machine.allocations;
}

static int64_t calls(void)
{
    return machine.calls;
}

static const run_device device = {.set_up = set_up,
                                  .fail_alloc = fail_alloc,
                                  .lose = lose,
                                  .allocations = allocations,
                                  .calls = calls,
                                  .peak = peak,
                                  .thorough = true,
                                  .memory = (int64_t)1 << 30,
                                  .name = "Far \"1\""};

const run_device *far_device(void)
{
    return pare__cuda_backends.create == create ? &device : NULL;
}
