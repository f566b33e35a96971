/* output.c - results to stdout, sentences to stderr. */
#include "cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int complain(int code, const char *fmt, ...)
{
    va_list list;
    fflush(stdout);
    fputs("pare: ", stderr);
    va_start(list, fmt);
    vfprintf(stderr, fmt, list);
    va_end(list);
    fputc('\n', stderr);
    return code;
}

int complain_status(const struct args *args, pare_status status)
{
    const char *line = pare_last_error(); /* several lines for a recipe */
    int code = pare_status_exit_code(status);
    if (!*line)
        return complain(code, "%s", pare_status_name(status));
    while (*line) {
        size_t length = strcspn(line, "\n");
        complain(code, "%.*s", (int)length, line);
        line += length + (line[length] == '\n');
    }
    if (args->value[OPT_VERBOSE].given)
        complain(code, "%s in %s", pare_status_name(status), pare_last_trail());
    return code;
}

int show_report(const struct args *args, const pare_report *report)
{
    char *text = NULL;
    pare_status status = args->value[OPT_JSON].given ? pare_report_json(report, &text)
                                                     : pare_report_text(report, &text);
    if (status != PARE_OK)
        return complain_status(args, status);
    fputs(text, stdout);
    free(text);
    return close_stdout();
}

int close_stdout(void)
{
    errno = 0;
    bool failed = ferror(stdout) != 0;
    if (fflush(stdout) == 0 && !failed)
        return 0;
    int error = errno;
    clearerr(stdout);
    return complain(1, "the result could not be written to stdout%s%s", error ? ": " : "",
                    error ? strerror(error) : "");
}
