/* cmd_sweep.c - the command that goes through a grid of recipes. */
#include "cli.h"

#include <stdlib.h>

static int work(const struct args *args, const pare_grid *grid, const char *folder)
{
    struct session session;
    pare_report *report = NULL;
    int code = session_begin(args, &session);
    if (code)
        return code;
    pare_status status = folder ? pare_grid_run(grid, folder, &session.options, &report)
                                : pare_grid_plan(grid, &session.options, &report);
    session_end(&session);
    code = status == PARE_OK ? show_report(args, report) : complain_status(args, status);
    pare_report_free(&report);
    return code;
}

int cmd_sweep(const struct args *args)
{
    const struct option_value *v = args->value;
    bool plan = v[OPT_PLAN].given;
    pare_grid *grid = NULL;
    char *folder = NULL;
    if (!plan && !v[OPT_OUTPUT].given)
        return complain(2, "sweep: there is no folder for the results: give -o DIR");
    pare_status status =
        pare_grid_read(args->operand[0], v[OPT_SEED].given ? &v[OPT_SEED].seed : NULL, &grid);
    if (status != PARE_OK)
        return complain_status(args, status);
    if (!plan && !(folder = copy_output(args))) {
        pare_grid_free(&grid);
        return complain(4, "out of memory");
    }
    int code = work(args, grid, folder);
    free(folder);
    pare_grid_free(&grid);
    return code;
}
