/* cmd_read.c - the commands that only look: inspect, compare, devices, report. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --plan of a command that writes nothing: how much it reads of some checkpoints. */
static int plan_reading(const struct args *args, int count, bool values)
{
    int64_t bytes = 0, tensors = 0;
    for (int i = 0; i < count; i++) {
        pare_store *store = NULL;
        pare_status status = pare_store_open(args->operand[i], &store);
        if (status != PARE_OK)
            return complain_status(args, status);
        tensors += pare_store_count(store);
        for (int64_t t = 0; values && t < pare_store_count(store); t++)
            bytes += pare_store_entry(store, t)->stored_bytes;
        pare_store_close(&store);
    }
    if (args->value[OPT_JSON].given)
        printf("{\n  \"kind\": \"plan\",\n  \"command\": \"%s\",\n  \"tensors\": %lld,\n  "
               "\"predicted\": {\n"
               "    \"read_bytes\": %lld,\n    \"write_bytes\": 0\n  }\n}\n",
               args->command->name, (long long)tensors, (long long)bytes);
    else
        printf("%s reads %s%lld bytes of values in %lld tensors; it writes nothing\n",
               args->command->name, values ? "metadata and " : "metadata only, ", (long long)bytes,
               (long long)tensors);
    return close_stdout();
}

/* Ends a session and shows its report (if the work was done); frees the report. */
static int finish(const struct args *args, struct session *session, pare_status status,
                  pare_report *report)
{
    session_end(session);
    int code = status == PARE_OK ? show_report(args, report) : complain_status(args, status);
    pare_report_free(&report);
    return code;
}

int cmd_inspect(const struct args *args)
{
    struct session session;
    pare_report *report = NULL;
    bool stats = args->value[OPT_STATS].given;
    if (args->value[OPT_PLAN].given)
        return plan_reading(args, 1, stats);
    int code = session_begin(args, &session);
    if (code)
        return code;
    pare_status status = pare_inspect(args->operand[0], stats, &session.options, &report);
    return finish(args, &session, status, report);
}

int cmd_compare(const struct args *args)
{
    struct session session;
    pare_report *report = NULL;
    const struct option_value *tolerance = &args->value[OPT_TOLERANCE];
    bool differs = false;
    if (args->value[OPT_PLAN].given)
        return plan_reading(args, 2, true);
    int code = session_begin(args, &session);
    if (code)
        return code;
    pare_status status = pare_compare(args->operand[0], args->operand[1],
                                      tolerance->given ? tolerance->real : (double)INFINITY,
                                      &session.options, &report, &differs);
    if (!args->value[OPT_PER_TENSOR].given)
        pare_report_brief(report);
    code = finish(args, &session, status, report);
    return code ? code : differs ? 1 : 0;
}

int cmd_devices(const struct args *args)
{
    struct session session;
    pare_report *report = NULL;
    if (args->value[OPT_PLAN].given)
        return plan_reading(args, 0, false);
    int code = session_begin(args, &session);
    if (code)
        return code;
    pare_status status = pare_devices(&session.options, &report);
    return finish(args, &session, status, report);
}

/* ---- report ---------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *ending)
{
    size_t n = strlen(text), m = strlen(ending);
    return n >= m && strcmp(text + n - m, ending) == 0;
}

/* Writes a text beside the file and renames: a failure leaves nothing under the final name. */
static int write_file(const char *path, const char *text)
{
    size_t size = strlen(path) + 8;
    char *part = malloc(size);
    if (!part)
        return complain(4, "out of memory");
    snprintf(part, size, "%s.part", path);
    FILE *file = fopen(part, "wb");
    bool good = file && fputs(text, file) != EOF && fflush(file) == 0 && fsync(fileno(file)) == 0;
    good = file && fclose(file) == 0 && good && rename(part, path) == 0;
    if (!good) {
        complain(1, "%s could not be written; is there space, and may you write there?", path);
        remove(part);
    }
    free(part);
    return good ? 0 : 1;
}

int cmd_report(const struct args *args)
{
    const char *to = args->value[OPT_OUTPUT].text;
    pare_report *report = NULL;
    char *text = NULL;
    if (to && !ends_with(to, ".html") && !ends_with(to, ".json") && !ends_with(to, ".txt"))
        return complain(2, "report: \"%s\" ends in none of .html, .json and .txt", to);
    if (to && access(to, F_OK) == 0 && !args->value[OPT_OVERWRITE].given)
        return complain(2, "%s exists; give another name, or --overwrite", to);
    pare_status status = pare_report_load(args->operand[0], &report);
    if (status != PARE_OK)
        return complain_status(args, status);
    int code = 0;
    if (args->value[OPT_PLAN].given) {
        printf("report reads a report file; it writes %s\n", to ? to : "nothing");
        code = close_stdout();
    } else if (!to)
        code = show_report(args, report);
    else {
        status = ends_with(to, ".html")   ? pare_report_html(report, &text)
                 : ends_with(to, ".json") ? pare_report_json(report, &text)
                                          : pare_report_text(report, &text);
        code = status == PARE_OK ? write_file(to, text) : complain_status(args, status);
    }
    free(text);
    pare_report_free(&report);
    return code;
}
