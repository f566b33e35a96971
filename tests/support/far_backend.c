/* far_backend.c - a backend whose memory the host cannot touch, without a device. */
#include "far_backend.h"

#include "test.h"

#include "backend_impl.h"

#include "base/check.h"

#include <sys/mman.h>

#define ROOM ((size_t)1 << 36) /* of addresses; pages are taken when they are touched */
#define PAGE ((size_t)4096)

typedef struct far_memory {
    pare_backend *cpu; /* runs the ops */
    char *base;
    size_t used; /* behind it nothing was given out */
    int64_t held, host_held, waits;
    int64_t left; /* allocations until one is refused; 0: none is */
    bool refused;
} far_memory;

static far_memory *far_of(const pare_backend *be)
{
    return be->state;
}

static void allow(const far_memory *f, int what)
{
    if (f->used > 0)
        assert_int_equal(mprotect(f->base, f->used, what), 0);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static pare_status give(far_memory *f)
{
    if (f->left == 0 || --f->left > 0)
        return PARE_OK;
    f->refused = true;
    return pare__error(PARE_ERR_MEMORY, __func__, "there is none left");
}

static pare_status far_alloc(pare_backend *be, size_t bytes, void **memory)
{
    far_memory *f = far_of(be);
    PARE_TRY(give(f));
    size_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
    assert_true(whole <= ROOM - f->used);
    *memory = f->base + f->used;
    f->used += whole;
    f->held++;
    return PARE_OK;
}

static void far_release(pare_backend *be, void *memory)
{
    assert_true((char *)memory >= far_of(be)->base);
    far_of(be)->held--;
}

static pare_status far_host_alloc(pare_backend *be, size_t bytes, void **memory)
{
    PARE_TRY(give(far_of(be)));
    far_of(be)->host_held++;
    *memory = calloc(1, bytes);
    assert_non_null(*memory);
    return PARE_OK;
}

static void far_host_release(pare_backend *be, void *memory)
{
    far_of(be)->host_held--;
    free(memory);
}

static bool is_far(const far_memory *f, const void *p)
{
    return (const char *)p >= f->base && (const char *)p < f->base + f->used;
}

static pare_status move(pare_backend *be, void *to, const void *from, size_t bytes, bool far_to,
                        bool far_from)
{
    const far_memory *f = far_of(be);
    assert_true(is_far(f, to) == far_to && is_far(f, from) == far_from);
    allow(f, PROT_READ | PROT_WRITE);
    memmove(to, from, bytes);
    allow(f, PROT_NONE);
    return PARE_OK;
}

static pare_status far_upload(pare_backend *be, void *to, const void *from, size_t bytes)
{
    far_of(be)->waits++;
    return move(be, to, from, bytes, true, false);
}

static pare_status far_download(pare_backend *be, void *to, const void *from, size_t bytes)
{
    far_of(be)->waits++;
    return move(be, to, from, bytes, false, true);
}

static pare_status far_copy(pare_backend *be, void *to, const void *from, size_t bytes)
{
    return move(be, to, from, bytes, true, true);
}

/* The calling thread has both, or it could not ask either. */
static pare_status far_send(pare_backend *be, const void *from, pare_backend *other, void *to,
                            size_t bytes)
{
    const far_memory *f = far_of(be), *g = far_of(other);
    assert_true(is_far(f, from) && is_far(g, to));
    allow(f, PROT_READ);
    allow(g, PROT_READ | PROT_WRITE);
    memmove(to, from, bytes);
    allow(g, PROT_NONE);
    allow(f, PROT_NONE);
    return PARE_OK;
}

static pare_status far_clear(pare_backend *be, void *memory, size_t bytes)
{
    const far_memory *f = far_of(be);
    assert_true(is_far(f, memory));
    allow(f, PROT_READ | PROT_WRITE);
    memset(memory, 0, bytes);
    allow(f, PROT_NONE);
    return PARE_OK;
}

static pare_status far_sync(pare_backend *be)
{
    far_of(be)->waits++;
    return PARE_OK;
}

static const pare__memory memory_table = {.alloc = far_alloc,
                                          .release = far_release,
                                          .host_alloc = far_host_alloc,
                                          .host_release = far_host_release,
                                          .upload = far_upload,
                                          .download = far_download,
                                          .copy = far_copy,
                                          .send = far_send,
                                          .clear = far_clear,
                                          .sync = far_sync};

/* ---- ops ------------------------------------------------------------------------------------- */

/* Ops whose arguments hold a place of the host's for their result. */
static bool has_result(pare_op op)
{
    return op == PARE_OP_stats || op == PARE_OP_diff || op == PARE_OP_digest ||
           op == PARE_OP_select_count || op == PARE_OP_select_kth || op == PARE_OP_mask_nonzero ||
           op == PARE_OP_quant_error;
}

/* Whether there is memory at an address that is not the backend's. */
static bool is_near(const far_memory *f, const void *p)
{
    void *page = (char *)(uintptr_t)p - (uintptr_t)p % PAGE;
    bool address = (uintptr_t)p >> 40 != 0; /* and no number: a sanitizer has memory down there */
    return address && !is_far(f, p) && msync(page, PAGE, MS_ASYNC) == 0;
}

/* Whether the bytes at hand can be a tensor. */
static bool is_tensor(const pare_tensor *t)
{
    bool sound = (unsigned)t->dtype < PARE_DTYPES && t->rank > 0 && t->rank <= PARE_MAX_RANK;
    for (int d = 0; sound && d < t->rank; d++)
        sound = t->shape[d] >= 0 && t->shape[d] < (int64_t)1 << 40;
    return sound;
}

/* Tensors lie anywhere in the arguments of an op, on words. */
static void check_arguments(const pare_backend *be, pare_op op, const void *args, size_t size)
{
    for (size_t i = 0; i + sizeof(pare_tensor) <= size; i += sizeof(void *)) {
        pare_tensor t;
        memcpy(&t, (const char *)args + i, sizeof t);
        if (is_tensor(&t) && is_near(far_of(be), t.data)) {
            fprintf(stderr, "%s was given memory of the host's (byte %zu of its arguments)\n",
                    pare_op_name(op), i);
            abort();
        }
    }
}

static void begin(pare_backend *be, pare_op op, const void *args, size_t size)
{
    if (has_result(op))
        far_of(be)->waits++;
    else
        check_arguments(be, op, args, size);
    allow(far_of(be), PROT_READ | PROT_WRITE);
}

#define FAR_OP(name)                                                                               \
    static pare_status far_##name(pare_backend *be, const pare_##name##_args *args)                \
    {                                                                                              \
        begin(be, PARE_OP_##name, args, sizeof *args);                                             \
        pare_status status = far_of(be)->cpu->ops->name(far_of(be)->cpu, args);                    \
        allow(far_of(be), PROT_NONE);                                                              \
        return status;                                                                             \
    }
PARE_OPS(FAR_OP)
#undef FAR_OP

static const pare__ops op_table = {
#define FAR_SLOT(name) .name = far_##name,
    PARE_OPS(FAR_SLOT)
#undef FAR_SLOT
};

/* ---- life ------------------------------------------------------------------------------------ */

static void free_state(void *state)
{
    far_memory *f = state;
    assert_int_equal(f->held, 0);
    assert_int_equal(f->host_held, 0);
    pare_backend_free(&f->cpu);
    munmap(f->base, ROOM);
    free(f);
}

pare_backend *far_backend_make(int threads)
{
    pare_backend *be = calloc(1, sizeof *be);
    far_memory *f = calloc(1, sizeof *f);
    assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = threads}, &f->cpu));
    assert_ok(pare_cpu_create(NULL, &be->host));
    f->base = mmap(NULL, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(f->base != MAP_FAILED);
    be->ops = &op_table;
    be->memory = &memory_table;
    be->threads = 1;
    be->state = f;
    be->free_state = free_state;
    snprintf(be->name, sizeof be->name, "far %s", pare_backend_name(f->cpu));
    return be;
}

int64_t far_backend_waits(const pare_backend *be)
{
    return far_of(be)->waits;
}

void far_backend_refuse(pare_backend *be, int64_t nth)
{
    far_of(be)->left = nth;
    far_of(be)->refused = false;
}

bool far_backend_refused(const pare_backend *be)
{
    return far_of(be)->refused;
}
