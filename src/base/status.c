/* status.c - the names and exit codes of the statuses, and each thread's sentence and trail. */
#include "base/check.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#define SENTENCE 1024 /* bytes with the NUL: a path and what is wrong with it fit */
#define LINES 16384   /* of a list of problems: some fifty lines */
#define TRAIL 512
#define ELLIPSIS "\xe2\x80\xa6" /* U+2026 */

static _Thread_local char last_sentence[LINES];
static _Thread_local char last_trail[TRAIL];

static const struct {
    const char *name;
    int exit_code;
} statuses[] = {
    [PARE_OK] = {"PARE_OK", 0},
    [PARE_ERR_ARGUMENT] = {"PARE_ERR_ARGUMENT", 2},
    [PARE_ERR_NOT_FOUND] = {"PARE_ERR_NOT_FOUND", 3},
    [PARE_ERR_DAMAGED] = {"PARE_ERR_DAMAGED", 3},
    [PARE_ERR_UNSUPPORTED] = {"PARE_ERR_UNSUPPORTED", 3},
    [PARE_ERR_EXISTS] = {"PARE_ERR_EXISTS", 2},
    [PARE_ERR_IO] = {"PARE_ERR_IO", 1},
    [PARE_ERR_FULL] = {"PARE_ERR_FULL", 1},
    [PARE_ERR_MEMORY] = {"PARE_ERR_MEMORY", 4},
    [PARE_ERR_DEVICE] = {"PARE_ERR_DEVICE", 1},
    [PARE_ERR_NUMERIC] = {"PARE_ERR_NUMERIC", 1},
    [PARE_ERR_RANK] = {"PARE_ERR_RANK", 1},
    [PARE_ERR_INTERRUPTED] = {"PARE_ERR_INTERRUPTED", 5},
    [PARE_ERR_INTERNAL] = {"PARE_ERR_INTERNAL", 1},
};

static int known(pare_status status)
{
    return (unsigned)status < sizeof statuses / sizeof *statuses;
}

const char *pare_status_name(pare_status status)
{
    return known(status) ? statuses[status].name : "PARE_ERR_?";
}

int pare_status_exit_code(pare_status status)
{
    return known(status) ? statuses[status].exit_code : 1;
}

const char *pare_last_error(void)
{
    return last_sentence;
}

const char *pare_last_trail(void)
{
    return last_trail;
}

/* Ends a text that did not fit in its size bytes with an ellipsis, between two characters. */
static void ellipsize(char *text, size_t size)
{
    size_t end = size - sizeof ELLIPSIS;
    while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80)
        end--;
    memcpy(text + end, ELLIPSIS, sizeof ELLIPSIS);
}

/* Names from hostile files end up in sentences: what a terminal would act on becomes '?'. */
static void disarm(char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

pare_status pare__error(pare_status status, const char *where, const char *fmt, ...)
{
    char sentence[SENTENCE]; /* the arguments may hold pare_last_error() itself */
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(sentence, sizeof sentence, fmt, args);
    va_end(args);
    if (length < 0)
        snprintf(sentence, sizeof sentence, "%s", fmt);
    else if ((size_t)length >= sizeof sentence)
        ellipsize(sentence, sizeof sentence);
    disarm(sentence);
    memcpy(last_sentence, sentence, sizeof sentence);
    last_trail[0] = '\0';
    pare__trail(where);
    return status;
}

pare_status pare__error_lines(pare_status status, const char *where, const char *lines)
{
    pare__error(status, where, "problems");
    int length = snprintf(last_sentence, sizeof last_sentence, "%s", lines);
    if (length >= 0 && (size_t)length >= sizeof last_sentence)
        ellipsize(last_sentence, sizeof last_sentence);
    for (char *line = last_sentence; *line != '\0'; line += *line == '\n') {
        char *end = strchrnul(line, '\n'), kept = *end;
        *end = '\0';
        disarm(line);
        *end = kept;
        line = end;
    }
    return status;
}

void pare__trail(const char *where)
{
    size_t used = strlen(last_trail);
    if (used + 1 == sizeof last_trail) /* full since an earlier call */
        return;
    int length =
        snprintf(last_trail + used, sizeof last_trail - used, "%s%s", used > 0 ? " < " : "", where);
    if (length >= 0 && (size_t)length >= sizeof last_trail - used)
        ellipsize(last_trail, sizeof last_trail);
}

pare_status pare__error_again(pare_status status, const char *sentence, const char *trail)
{
    char copy[TRAIL]; /* trail may be this thread's own, which pare__error clears */
    int length = snprintf(copy, sizeof copy, "%s", trail);
    if (length >= 0 && (size_t)length >= sizeof copy)
        ellipsize(copy, sizeof copy);
    pare__error(status, "", "%s", sentence);
    memcpy(last_trail, copy, sizeof copy);
    return status;
}

pare_status pare__errno_status(int error)
{
    switch (error) {
    case ENOSPC:
    case EDQUOT:
        return PARE_ERR_FULL;
    case ENOENT:
        return PARE_ERR_NOT_FOUND;
    case ENOMEM:
        return PARE_ERR_MEMORY;
    default:
        return PARE_ERR_IO;
    }
}
