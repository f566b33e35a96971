/* devices.c - what this machine offers and what pare takes of it. */
#include "job.h"
#include "report_impl.h"

#include "pare/backend.h"

#include <stdio.h>
#include <string.h>

pare_status pare_devices(const pare_run_options *options, pare_report **report)
{
    pare_status status = PARE_OK;
    pare_backend *be = NULL;
    pare_report *r = NULL;
    PARE_REQUIRE(options && report, PARE_ERR_ARGUMENT, "devices: NULL argument");
    PARE_TRY_DONE(pare_cpu_create(&(pare_cpu_options){.threads = 1, .isa = options->isa}, &be));
    PARE_TRY_DONE(pare__report_new("devices", &r));
    const char *chosen = strchr(pare_backend_name(be), ' ');
    chosen = chosen ? chosen + 1 : pare_backend_name(be);
    pare__json *cpu = pare__json_set_object(r->root, "cpu");
    pare__json_set_string(cpu, "model", pare_cpu_model());
    pare__json_set_int(cpu, "cores", pare_cpu_count());
    pare__json *isas = pare__json_set_array(cpu, "isas");
    for (const char *const *isa = pare_cpu_isas(); *isa; isa++) {
        pare__json *o = pare__json_set_object(isas, NULL);
        pare__json_set_string(o, "name", *isa);
        pare__json_set_bool(o, "available", pare_cpu_has_isa(*isa));
        pare__json_set_bool(o, "chosen", strcmp(*isa, chosen) == 0);
    }
    pare__json *libraries = pare__json_set_array(r->root, "libraries");
    pare__json *hdf5 = pare__json_set_object(libraries, NULL);
    pare__json_set_string(hdf5, "name", "HDF5");
    pare__json_set_string(hdf5, "version", pare_store_library());
    char version[32] = "?", choice[64] = "?";
    (void)sscanf(pare_cpu_dnnl(), "oneDNN %31s %63[^\n]", version, choice);
    pare__json *dnnl = pare__json_set_object(libraries, NULL);
    pare__json_set_string(dnnl, "name", "oneDNN");
    pare__json_set_string(dnnl, "version", version);
    pare__json_set_string(dnnl, "choice", choice);
    pare__json_set_array(r->root, "gpus");
    pare__json_set_string(r->root, "note", "this build has no CUDA: everything runs on the CPU");
    *report = r;
    r = NULL;
done:
    pare_report_free(&r);
    pare_backend_free(&be);
    return status;
}
