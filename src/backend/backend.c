/* backend.c - what every backend shares: its name, its scratch, its end. */
#include "backend_impl.h"

#include "base/alloc.h"
#include "base/check.h"

const char *pare_backend_name(const pare_backend *backend)
{
    return backend ? backend->name : "?";
}

void pare_backend_free(pare_backend **backend)
{
    if (!backend || !*backend)
        return;
    pare_backend *be = *backend;
    pare_backend_release(be, be->scratch, (int64_t)be->scratch_size);
    pare_backend_free(&be->host);
    if (be->free_state)
        be->free_state(be->state);
    free(be);
    *backend = NULL;
}

pare_status pare__scratch(pare_backend *be, size_t size, void **scratch)
{
    if (size > be->scratch_size) {
        void *memory = NULL;
        if (be->memory)
            PARE_TRY(be->memory->alloc(be, size, &memory));
        else
            PARE_TRY(pare__pages(size, &memory));
        pare_backend_release(be, be->scratch, (int64_t)be->scratch_size);
        be->scratch = memory;
        be->scratch_size = size;
    }
    *scratch = be->scratch;
    return PARE_OK;
}
