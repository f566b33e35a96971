/* trace_export.c - the timeline as Chrome/Perfetto JSON, written as it happens: memory does not
 * grow with it. */
#include "sched_impl.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"

#include <errno.h>
#include <string.h>

struct pare__trace {
    FILE *file;
    char *path;
    double begin;
    bool any, failed;
    pthread_mutex_t lock;
};

pare_status pare__trace_open(const char *path, const char *device, pare__trace **out)
{
    pare_status status = PARE_OK;
    pare__trace *trace = NULL;
    PARE_TRY_DONE(pare__calloc(1, sizeof *trace, &trace));
    pthread_mutex_init(&trace->lock, NULL);
    PARE_TRY_DONE(pare__strdup(path, &trace->path));
    trace->file = fopen(path, "w");
    if (!trace->file)
        PARE_TRY_DONE(pare__error(PARE_ERR_ARGUMENT, __func__, "cannot write the timeline %s: %s",
                                  path, strerror(errno)));
    trace->begin = pare__now();
    fputs("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", trace->file);
    if (device) {
        fprintf(trace->file,
                "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,\"args\":{\"name\":\"");
        for (const char *c = device; *c; c++) /* a device may be called anything */
            fputc(*c == '"' || *c == '\\' || (unsigned char)*c < ' ' ? ' ' : *c, trace->file);
        fputs("\"}}", trace->file);
        trace->any = true;
    }
    *out = trace;
    trace = NULL;
done:
    if (trace) {
        free(trace->path);
        pthread_mutex_destroy(&trace->lock);
        free(trace);
    }
    return status;
}

double pare__trace_now(const pare__trace *trace)
{
    return trace ? pare__now() - trace->begin : 0;
}

void pare__trace_stage(pare__trace *trace, const char *job, const char *stage, int worker,
                       int64_t item, double begin, double end)
{
    if (!trace)
        return;
    pthread_mutex_lock(&trace->lock);
    int wrote = fprintf(trace->file,
                        "%s{\"name\":\"%s\",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":1,\"tid\":%d,"
                        "\"ts\":%.3f,\"dur\":%.3f,\"args\":{\"item\":%lld}}",
                        trace->any ? ",\n" : "", stage, job, worker, begin * 1e6,
                        (end - begin) * 1e6, (long long)item);
    trace->any = true;
    if (wrote < 0)
        trace->failed = true;
    pthread_mutex_unlock(&trace->lock);
}

pare_status pare__trace_close(pare__trace **trace)
{
    pare__trace *t = *trace;
    *trace = NULL;
    if (!t)
        return PARE_OK;
    pare_status status = PARE_OK;
    fputs("\n]}\n", t->file);
    bool failed = t->failed || ferror(t->file);
    if (fclose(t->file) != 0 || failed)
        status = pare__error(PARE_ERR_IO, __func__, "cannot write the timeline %s", t->path);
    pthread_mutex_destroy(&t->lock);
    free(t->path);
    free(t);
    return status;
}
