/* comm_launch.c - whether this process was started as one of several, by what launchers leave in
 * the environment.
 *
 * Slurm sets SLURM_NTASKS for all that runs inside an allocation, a shell as well; SLURM_STEP_…
 * stands in the processes of a step that srun began, and in the shell of `salloc` and `srun --pty`
 * where it says 1 task. A step of several tasks is such a job even if it cannot start MPI: then the
 * processes would each work alone on the same output, so MPI has to say how many there are.
 */
#include "comm_impl.h"

#include "base/text.h"

#include <limits.h>
#include <stdlib.h>

/* A number of processes that the environment names; 0: none. */
static int processes(const char *name)
{
    const char *text = getenv(name);
    int64_t number;
    if (!text || !pare__parse_int(text, &number) || number < 1 || number > INT_MAX)
        return 0;
    return (int)number;
}

pare__launch pare__comm_launch(void)
{
    static const struct {
        const char *variable, *by;
    } launchers[] = {
        {"OMPI_COMM_WORLD_SIZE", "mpirun"}, /* Open MPI */
        {"PMI_SIZE", "mpiexec"},            /* MPICH, Intel MPI, Slurm's PMI */
        {"SLURM_STEP_NUM_TASKS", "srun"},
    };
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        int size = processes(launchers[i].variable);
        if (size > 0)
            return (pare__launch){.size = size, .by = launchers[i].by};
    }
    if (getenv("PMIX_RANK"))
        return (pare__launch){.size = 0, .by = "a launcher (PMIx)"};
    return (pare__launch){.size = 1, .by = "nobody"};
}
