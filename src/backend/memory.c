/* memory.c - a backend's memory: the host's, or what its table says. */
#include "backend_impl.h"

#include "base/alloc.h"
#include "base/check.h"

#include <string.h>

bool pare_backend_is_host(const pare_backend *be)
{
    return !be->memory;
}

pare_backend *pare_backend_host(pare_backend *be)
{
    return be->memory ? be->host : be;
}

pare_status pare_backend_alloc(pare_backend *be, int64_t bytes, void *memory)
{
    void *new = NULL;
    PARE_REQUIRE(be && memory && bytes >= 0, PARE_ERR_ARGUMENT,
                 "memory of a backend: NULL, or a negative size");
    if (be->memory && bytes > 0) {
        PARE_TRY(be->memory->alloc(be, (size_t)bytes, &new));
        pare_status status = be->memory->clear(be, new, (size_t)bytes);
        if (status != PARE_OK) {
            be->memory->release(be, new);
            return status;
        }
    } else if (bytes > 0) {
        PARE_TRY(pare__pages((size_t)bytes, &new));
    }
    memcpy(memory, &new, sizeof new);
    return PARE_OK;
}

void pare_backend_release(pare_backend *be, void *memory, int64_t bytes)
{
    if (!memory)
        return;
    if (be->memory)
        be->memory->release(be, memory);
    else
        pare__pages_free(memory, (size_t)bytes);
}

pare_status pare_backend_host_alloc(pare_backend *be, int64_t bytes, void *memory)
{
    void *new = NULL;
    PARE_REQUIRE(be && memory && bytes >= 0, PARE_ERR_ARGUMENT,
                 "host memory of a backend: NULL, or a negative size");
    if (be->memory && bytes > 0)
        PARE_TRY(be->memory->host_alloc(be, (size_t)bytes, &new));
    else if (bytes > 0)
        PARE_TRY(pare__pages((size_t)bytes, &new));
    memcpy(memory, &new, sizeof new);
    return PARE_OK;
}

void pare_backend_host_release(pare_backend *be, void *memory, int64_t bytes)
{
    if (!memory)
        return;
    if (be->memory)
        be->memory->host_release(be, memory);
    else
        pare__pages_free(memory, (size_t)bytes);
}

static void copy_on_host(void *to, const void *from, int64_t bytes)
{
    if (to != from && bytes > 0)
        memmove(to, from, (size_t)bytes);
}

pare_status pare_backend_upload(pare_backend *be, void *to, const void *from, int64_t bytes)
{
    if (be->memory && bytes > 0)
        PARE_TRY(be->memory->upload(be, to, from, (size_t)bytes));
    else
        copy_on_host(to, from, bytes);
    return PARE_OK;
}

pare_status pare_backend_download(pare_backend *be, void *to, const void *from, int64_t bytes)
{
    if (be->memory && bytes > 0)
        PARE_TRY(be->memory->download(be, to, from, (size_t)bytes));
    else
        copy_on_host(to, from, bytes);
    return PARE_OK;
}

pare_status pare_backend_copy(pare_backend *be, void *to, const void *from, int64_t bytes)
{
    if (be->memory && bytes > 0 && to != from)
        PARE_TRY(be->memory->copy(be, to, from, (size_t)bytes));
    else
        copy_on_host(to, from, bytes);
    return PARE_OK;
}

pare_status pare_backend_send(pare_backend *be, const void *from, pare_backend *other, void *to,
                              int64_t bytes)
{
    PARE_REQUIRE(be->memory == other->memory, PARE_ERR_ARGUMENT,
                 "%s sends nothing to %s: their memory is not of one kind", be->name, other->name);
    if (be->memory && bytes > 0)
        PARE_TRY(be->memory->send(be, from, other, to, (size_t)bytes));
    else
        copy_on_host(to, from, bytes);
    return PARE_OK;
}

pare_status pare_backend_after(pare_backend *be, pare_backend *other)
{
    PARE_REQUIRE(be && other && be->memory == other->memory, PARE_ERR_ARGUMENT,
                 "two backends that wait for each other must be of one kind");
    if (be->memory && be->memory->after && be != other)
        PARE_TRY(be->memory->after(be, other));
    return PARE_OK;
}

pare_status pare_backend_clear(pare_backend *be, void *memory, int64_t bytes)
{
    if (be->memory && bytes > 0)
        PARE_TRY(be->memory->clear(be, memory, (size_t)bytes));
    else if (bytes > 0)
        memset(memory, 0, (size_t)bytes);
    return PARE_OK;
}

pare_status pare_backend_sync(pare_backend *be)
{
    if (be->memory)
        PARE_TRY(be->memory->sync(be));
    return PARE_OK;
}
