/* devices.c - what this machine offers and what pare takes of it: --device, and pare devices. */
#include "job.h"
#include "engine/report/report_impl.h"

#include "pare/backend.h"

#include <stdio.h>
#include <string.h>

/* Lanes that share a device, unless --threads says how many: while one waits for its copies others
 * read, compute and write. More than the upper number do not make it busier. */
enum { LEAST_LANES = 3, MOST_LANES = 16 };

/* "cuda:12"; -1 for what is none. */
static int number_of(const char *device)
{
    int64_t number;
    bool digits = strlen(device) > 5 && strspn(device + 5, "0123456789") == strlen(device + 5);
    return digits && pare__parse_int(device + 5, &number) && number < INT32_MAX ? (int)number : -1;
}

pare_status pare__device_of(const char *device, bool *cuda, int *index)
{
    bool numbered = device && strncmp(device, "cuda:", 5) == 0;
    int count = 0;
    *cuda = false;
    *index = 0;
    if (device && strcmp(device, "cpu") == 0)
        return PARE_OK;
    if (!device || strcmp(device, "auto") == 0) {
        *cuda = pare_cuda_count(&count) == PARE_OK;
        return PARE_OK;
    }
    PARE_REQUIRE(strcmp(device, "cuda") == 0 || (numbered && number_of(device) >= 0),
                 PARE_ERR_ARGUMENT, "device \"%s\" is none of auto, cpu, cuda, cuda:N", device);
    PARE_TRY(pare_cuda_count(&count));
    *index = numbered ? number_of(device) : 0;
    PARE_REQUIRE(*index < count, PARE_ERR_DEVICE,
                 "there is no device cuda:%d: this machine has %d, from cuda:0 on", *index, count);
    *cuda = true;
    return PARE_OK;
}

pare_status pare__device_choose(const pare_run_options *options, pare__device *device)
{
    pare_cuda_facts facts;
    device->isa = options->isa;
    snprintf(device->name, sizeof device->name, "cpu");
    PARE_TRY(pare__device_of(options->device, &device->cuda, &device->index));
    if (!device->cuda)
        return PARE_OK;
    PARE_TRY(pare_cuda_facts_of(device->index, &facts));
    snprintf(device->name, sizeof device->name, "cuda:%d %s", device->index, facts.name);
    device->memory = options->device_memory ? options->device_memory : facts.free;
    return PARE_OK;
}

void pare__device_spread(const pare_comm *ranks, const char **device, char text[24])
{
    bool any = !*device || strcmp(*device, "auto") == 0 || strcmp(*device, "cuda") == 0;
    int count = 0;
    if (!ranks || !any || pare_cuda_count(&count) != PARE_OK || count == 0)
        return;
    snprintf(text, 24, "cuda:%d", pare_comm_facts_of(ranks)->local_rank % count);
    *device = text;
}

int pare__lane_count(const pare__device *device, int asked)
{
    int count = asked ? asked : pare_cpu_count();
    if (!device->cuda)
        return count;
    if (!asked)
        count = count < LEAST_LANES ? LEAST_LANES : count > MOST_LANES ? MOST_LANES : count;
    int64_t room = device->memory / (4 * PARE__LANE_ON_DEVICE);
    return count <= room ? count : room > 1 ? (int)room : 1;
}

static void add_version(pare__json *object, const char *key, int version)
{
    char text[24];
    snprintf(text, sizeof text, "%d.%d", version / 1000, version % 1000 / 10);
    pare__json_set_string(object, key, text);
}

/* CUDA devices, or why there are none. */
static pare_status add_gpus(pare__json *root)
{
    pare__json *list = pare__json_set_array(root, "gpus");
    pare_cuda_facts facts = {0};
    char text[128];
    int count = 0;
    if (pare_cuda_count(&count) != PARE_OK) {
        pare__json_set_string(root, "note", pare_last_error());
        return PARE_OK;
    }
    for (int i = 0; i < count; i++) {
        PARE_TRY(pare_cuda_facts_of(i, &facts));
        pare__json *gpu = pare__json_set_object(list, NULL);
        snprintf(text, sizeof text, "cuda:%d %s", i, facts.name);
        pare__json_set_string(gpu, "name", text);
        snprintf(text, sizeof text, "%d.%d", facts.major, facts.minor);
        pare__json_set_string(gpu, "capability", text);
        pare__json_set_int(gpu, "multiprocessors", facts.multiprocessors);
        pare__json_set_int(gpu, "memory_bytes", facts.memory);
        pare__json_set_int(gpu, "free_bytes", facts.free);
    }
    pare__json *cuda = pare__json_set_object(root, "cuda");
    add_version(cuda, "driver", facts.driver);
    add_version(cuda, "runtime", facts.runtime);
    return PARE_OK;
}

pare_status pare_devices(const pare_run_options *options, pare_report **report)
{
    pare_status status = PARE_OK;
    pare_backend *be = NULL;
    pare_report *r = NULL;
    bool cuda;
    int index;
    PARE_REQUIRE(options && report, PARE_ERR_ARGUMENT, "devices: NULL argument");
    PARE_TRY(pare__device_of(options->device, &cuda, &index)); /* one that is asked for is there */
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
    PARE_TRY_DONE(add_gpus(r->root));
    *report = r;
    r = NULL;
done:
    pare_report_free(&r);
    pare_backend_free(&be);
    return status;
}
