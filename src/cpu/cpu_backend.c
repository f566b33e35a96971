/* cpu_backend.c - creates the CPU backend: which instruction set, how many processors, what they
 * are called. */
#include "backend_impl.h"

#include "base/alloc.h"
#include "base/check.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

/* ---- instruction sets ------------------------------------------------------------------------ */

#if defined(__aarch64__)
#define BASE_NAME "neon"
#else
#define BASE_NAME "base"
#endif

extern const pare__ops pare__cpu_ops_base, pare__cpu_ops_avx2, pare__cpu_ops_avx512;

typedef struct isa_row {
    const char *name;
    const pare__ops *ops;
    bool (*here)(void);
} isa_row;

static bool always(void)
{
    return true;
}

/* The compiler's run-time support asks the processor and the system (XGETBV) alike. A processor
 * with AVX2, FMA and BMI2 has the rest of x86-64-v3 too. */
#ifdef PARE_HAS_AVX2
static bool have_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
#endif

#ifdef PARE_HAS_AVX512
static bool have_avx512(void)
{
    return have_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

static const isa_row isas[] = {
#ifdef PARE_HAS_AVX512
    {"avx512", &pare__cpu_ops_avx512, have_avx512},
#endif
#ifdef PARE_HAS_AVX2
    {"avx2", &pare__cpu_ops_avx2, have_avx2},
#endif
    {BASE_NAME, &pare__cpu_ops_base, always},
};

#define ISAS ((int)(sizeof isas / sizeof isas[0]))

const char *const *pare_cpu_isas(void)
{
    static const char *const names[] = {
#ifdef PARE_HAS_AVX512
        "avx512",
#endif
#ifdef PARE_HAS_AVX2
        "avx2",
#endif
        BASE_NAME, NULL};
    return names;
}

/* The row of that name (NULL: the best) if this CPU has it, else NULL. */
static const isa_row *find_isa(const char *name)
{
    for (int i = 0; i < ISAS; i++)
        if ((!name || strcmp(name, isas[i].name) == 0) && isas[i].here())
            return &isas[i];
    return NULL;
}

bool pare_cpu_has_isa(const char *isa)
{
    return isa && find_isa(isa) != NULL;
}

pare_status pare_cpu_create(const pare_cpu_options *options, pare_backend **backend)
{
    const pare_cpu_options o = options ? *options : (pare_cpu_options){0};
    PARE_REQUIRE(backend, PARE_ERR_ARGUMENT, "pare_cpu_create needs a place for the backend");
    *backend = NULL;
    PARE_REQUIRE(o.threads >= 0, PARE_ERR_ARGUMENT, "%d threads; there must be 0 or more",
                 o.threads);
    const isa_row *isa = find_isa(o.isa);
    PARE_REQUIRE(isa, PARE_ERR_ARGUMENT,
                 "this CPU or build has no instruction set \"%s\"; leave it out for the best one",
                 o.isa);
    pare_backend *be = NULL;
    PARE_TRY(pare__calloc(1, sizeof *be, &be));
    be->ops = isa->ops;
    be->threads = o.threads > 1 ? o.threads : 1;
    snprintf(be->name, sizeof be->name, "cpu %s", isa->name);
    *backend = be;
    return PARE_OK;
}

/* ---- processors ------------------------------------------------------------------------------ */

/* Logical processors in the affinity mask, whatever their number; 0 if the system does not say. */
static int affinity_count(void)
{
    for (size_t most = 1024; most <= 1u << 20; most *= 2) {
        cpu_set_t *set = CPU_ALLOC(most);
        if (!set)
            return 0;
        size_t size = CPU_ALLOC_SIZE(most);
        int failed = sched_getaffinity(0, size, set);
        int count = failed ? 0 : CPU_COUNT_S(size, set);
        CPU_FREE(set);
        if (!failed)
            return count;
    }
    return 0;
}

static bool read_line(const char *path, char *line, size_t size)
{
    FILE *file = fopen(path, "re");
    bool good = file && fgets(line, (int)size, file);
    if (file)
        fclose(file);
    return good;
}

/* Processors that quota in each period is worth, rounded up; 0: no limit. */
static int quota_count(long long quota, long long period)
{
    if (quota <= 0 || period <= 0 || quota / period >= 1 << 20)
        return 0;
    return (int)((quota + period - 1) / period);
}

static int smaller_limit(int a, int b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* The limit that one control group's folder states, version 2 or 1; 0: none. */
static int group_limit(const char *folder)
{
    char path[4200], line[64];
    long long quota = 0, period = 0;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (read_line(path, line, sizeof line))
        return sscanf(line, "%lld %lld", &quota, &period) == 2 ? quota_count(quota, period) : 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_line(path, line, sizeof line) || sscanf(line, "%lld", &quota) != 1)
        return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (!read_line(path, line, sizeof line) || sscanf(line, "%lld", &period) != 1)
        return 0;
    return quota_count(quota, period);
}

/* The least limit of a group and all its parents: every one of them holds. */
static int path_limit(const char *mount, const char *group)
{
    char folder[4096];
    int limit = 0;
    size_t root = strlen(mount);
    int n = snprintf(folder, sizeof folder, "%s%s", mount, group);
    if (n < 0 || (size_t)n >= sizeof folder)
        return 0;
    for (;;) {
        limit = smaller_limit(limit, group_limit(folder));
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < root)
            return limit;
        *slash = '\0';
    }
}

/* Lines of /proc/self/cgroup are "id:controllers:path"; version 2 has no controllers. */
static int cgroup_limit(void)
{
    char line[4096];
    int limit = 0;
    FILE *file = fopen("/proc/self/cgroup", "re");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        if (*++controllers == '\0')
            limit = smaller_limit(limit, path_limit("/sys/fs/cgroup", path));
        else if (strncmp(controllers, "cpu", 3) == 0 && strncmp(controllers, "cpuset", 6) != 0)
            limit = smaller_limit(limit, path_limit("/sys/fs/cgroup/cpu", path));
    }
    if (file)
        fclose(file);
    return limit;
}

int pare_cpu_count(void)
{
    int count = affinity_count();
    if (count < 1)
        count = (int)sysconf(_SC_NPROCESSORS_ONLN);
    int limit = cgroup_limit();
    if (limit > 0 && limit < count)
        count = limit;
    return count < 1 ? 1 : count;
}

/* ---- name ------------------------------------------------------------------------------------ */

/* Written once, under pthread_once, and only read afterwards. */
static char model[96] = "unknown";

static void read_model(void)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "re");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        colon[strcspn(colon, "\n")] = '\0';
        if (*colon)
            snprintf(model, sizeof model, "%s", colon);
        break;
    }
    if (file)
        fclose(file);
}

const char *pare_cpu_model(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_model);
    return model;
}
