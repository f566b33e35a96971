/* stage.c - how the host sees an array of the backend: on the CPU as it is, else piece by piece
 * through memory of its own. */
#include "node.h"

pare_status pare__stage_open(pare_backend *be, pare__stage *stage)
{
    *stage = (pare__stage){.be = be};
    if (!pare_backend_is_host(be))
        PARE_TRY(pare_backend_host_alloc(be, PARE__STAGE, &stage->memory));
    return PARE_OK;
}

void pare__stage_close(pare__stage *stage)
{
    pare_backend_host_release(stage->be, stage->memory, PARE__STAGE);
    stage->memory = NULL;
}

void *pare__stage_at(const pare__stage *stage, void *piece)
{
    return stage->memory ? stage->memory : piece;
}
