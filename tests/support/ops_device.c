/* ops_device.c - copies what an op's arguments point to onto a device, and back.
 *
 * An argument struct is looked at word by word: a word that lies in memory the harness gave out is
 * a pointer, and gets the address of the copy. */
#include "ops_device.h"

#include <pthread.h>

/* Results that an op gives in host memory. */
static bool is_host_result(pare_op op, size_t offset)
{
#define HOST(name, field)                                                                          \
    {                                                                                              \
        PARE_OP_##name, offsetof(pare_##name##_args, field)                                        \
    }
    static const struct {
        pare_op op;
        size_t offset;
    } list[] = {
        HOST(stats, result),       HOST(diff, result),          HOST(digest, result),
        HOST(select_count, below), HOST(select_count, equal),   HOST(mask_nonzero, count),
        HOST(quant_error, errors), HOST(select_kth, threshold), HOST(select_kth, below),
        HOST(select_kth, equal),
    };
#undef HOST
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (list[i].op == op && list[i].offset == offset)
            return true;
    return false;
}

/* Host memory and its twin. */
typedef struct twin {
    uint8_t *host, *device;
    size_t size;
} twin;

typedef struct twins {
    pare_backend *be;
    twin list[OPS_MAX_OUTPUTS + OPS_MAX_BLOCKS];
    int count;
} twins;

static uint8_t *add_twin(twins *all, uint8_t *host, size_t size)
{
    twin *new = &all->list[all->count++];
    *new = (twin){.host = host, .size = size};
    assert_ok(pare_backend_alloc(all->be, (int64_t)(size ? size : 1), &new->device));
    assert_ok(pare_backend_upload(all->be, new->device, host, (int64_t)size));
    return new->device;
}

static bool lies_in(const uint8_t *at, const uint8_t *start, size_t size)
{
    return at >= start && (at < start + size || at == start);
}

/* The address on the device of what lies at `at`, copied there if it is not yet; NULL: no memory of
 * ours. */
static uint8_t *device_address(twins *all, const ops_run *run, uint8_t *at)
{
    for (int i = 0; i < all->count; i++)
        if (lies_in(at, all->list[i].host, all->list[i].size))
            return all->list[i].device + (at - all->list[i].host);
    for (int i = 0; i < run->block_count; i++)
        if (lies_in(at, run->blocks[i], run->sizes[i]))
            return add_twin(all, run->blocks[i], run->sizes[i]) + (at - (uint8_t *)run->blocks[i]);
    for (int i = 0; i < run->block_count; i++) /* an empty tensor at the end of a block */
        if (at == (uint8_t *)run->blocks[i] + run->sizes[i])
            return add_twin(all, run->blocks[i], run->sizes[i]) + run->sizes[i];
    return NULL;
}

/* A variable of a test function cannot be reached from a device. */
static bool on_stack(const uint8_t *at)
{
    pthread_attr_t attributes;
    void *low;
    size_t size;
    if (at < (uint8_t *)&attributes) /* most words are numbers; asking for the stack is slow */
        return false;
    if (((uintptr_t)at & 0xff) <= 1) /* a bool, and padding with what was there before */
        return false;
    assert_int_equal(pthread_getattr_np(pthread_self(), &attributes), 0);
    pthread_attr_getstack(&attributes, &low, &size);
    pthread_attr_destroy(&attributes);
    return at >= (uint8_t *)low && at < (uint8_t *)low + size;
}

static void move_pointers(twins *all, const ops_run *run, pare_op op, void *args, size_t args_size)
{
    for (size_t offset = 0; offset + sizeof(void *) <= args_size; offset += sizeof(void *)) {
        uint8_t *at;
        memcpy(&at, (uint8_t *)args + offset, sizeof at);
        if (!at || is_host_result(op, offset))
            continue;
        uint8_t *there = device_address(all, run, at);
        if (there)
            memcpy((uint8_t *)args + offset, &there, sizeof there);
        else if (on_stack(at))
            fail_msg("%s: the argument at byte %zu points to the stack: take ops_memory()",
                     pare_op_name(op), offset);
    }
}

/* Everything comes back; inputs that the op must not write are compared by nobody, as on the CPU.
 */
static void bring_back(twins *all)
{
    for (int i = 0; i < all->count; i++) {
        twin *t = &all->list[i];
        assert_ok(pare_backend_download(all->be, t->host, t->device, (int64_t)t->size));
    }
}

static void release(twins *all)
{
    for (int i = 0; i < all->count; i++)
        pare_backend_release(all->be, all->list[i].device,
                             (int64_t)(all->list[i].size ? all->list[i].size : 1));
}

static pare_status run_there(twins *all, ops_function *call, const void *args)
{
    pare_status status = call(all->be, args);
    if (status == PARE_OK)
        status = pare_backend_sync(all->be);
    char sentence[1024];
    snprintf(sentence, sizeof sentence, "%s", pare_last_error());
    bring_back(all);
    release(all);
    assert_ok(pare_backend_sync(all->be));
    return status;
}

pare_status ops_device_run(ops_run *run, pare_op op, ops_function *call, pare_backend *be,
                           size_t args_size, const ops_output *outs, ops_instance *in)
{
    twins all = {.be = be};
    for (int i = 0; outs[i].align != 0; i++)
        if (!is_host_result(op, outs[i].pointer))
            add_twin(&all, in->memory[i], in->total[i]);
    void *args = malloc(args_size);
    assert_non_null(args);
    memcpy(args, in->args, args_size);
    move_pointers(&all, run, op, args, args_size);
    pare_status status = run_there(&all, call, args);
    free(args);
    return status;
}

pare_status ops_device_call(ops_run *run, pare_op op, ops_function *call, pare_backend *be,
                            const void *args, size_t args_size)
{
    twins all = {.be = be};
    void *moved = malloc(args_size);
    assert_non_null(moved);
    memcpy(moved, args, args_size);
    move_pointers(&all, run, op, moved, args_size);
    pare_status status = run_there(&all, call, moved);
    free(moved);
    return status;
}
