/* session.c - what every working command shares: options from the command line, progress on stderr,
 * signals. */
#include "cli.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define TTY_SECONDS 0.1
#define PIPE_SECONDS 10.0
#define LINE 400

/* The one thing a signal handler can reach. */
static volatile int stopped;

static void on_signal(int signal)
{
    (void)signal; /* SA_RESETHAND: the next one kills */
    stopped = 1;
}

struct progress {
    pthread_mutex_t lock; /* remarks and progress come from several threads */
    bool tty, verbose;
    bool shown; /* a line stands on the terminal, without its newline */
    char phase[112];
    double phase_begin, first_done; /* of this phase */
    double last;                    /* when something was shown */
    char note[160];                 /* what stands in the place of bytes a second, or "" */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void erase(struct progress *p)
{
    if (p->shown)
        fputs("\r\033[K", stderr);
    p->shown = false;
}

/* ---- numbers for people ---------------------------------------------------------------------- */

static const char *size_text(double bytes, char *text, size_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    for (; bytes >= 1000 && unit + 1 < sizeof units / sizeof *units; unit++)
        bytes /= 1024;
    snprintf(text, size, "%.*f %s", bytes < 10 && unit ? 1 : 0, bytes, units[unit]);
    return text;
}

static const char *time_text(double seconds, char *text, size_t size)
{
    long whole = seconds < 1e8 ? (long)(seconds + 0.5) : 0;
    if (whole >= 3600)
        snprintf(text, size, "%ld h %02ld min", whole / 3600, whole / 60 % 60);
    else if (whole >= 60)
        snprintf(text, size, "%ld min %02ld s", whole / 60, whole % 60);
    else
        snprintf(text, size, "%ld s", whole);
    return text;
}

/* Work on a checkpoint is counted in its bytes; what is counted in batches or layers has fewer. */
#define LEAST_BYTES 65536

/* "prune 37 %, 412 MiB/s, memory 212 MiB, 12 s left" */
static void progress_text(const struct progress *p, double done, double total, char *line,
                          size_t size)
{
    char rate[32], memory[32], left[32];
    double elapsed = now() - p->phase_begin, moved = done - p->first_done;
    double speed = elapsed > 0.05 && moved > 0 ? moved / elapsed : 0;
    int percent = total > 0 ? (int)(100 * done / total) : 100;
    if (p->note[0]) {
        snprintf(line, size, "%s %d %%, %s, memory %s", p->phase, percent, p->note,
                 size_text((double)pare_memory_peak(), memory, sizeof memory));
        return;
    }
    size_t at = (size_t)snprintf(line, size, "%s %d %%", p->phase, percent);
    if (speed > 0 && total >= LEAST_BYTES && at < size)
        at += (size_t)snprintf(line + at, size - at, ", %s/s", size_text(speed, rate, sizeof rate));
    if (at < size)
        at += (size_t)snprintf(line + at, size - at, ", memory %s",
                               size_text((double)pare_memory_peak(), memory, sizeof memory));
    if (speed > 0 && done < total && at < size)
        snprintf(line + at, size - at, ", %s left",
                 time_text((total - done) / speed, left, sizeof left));
}

static void on_progress(void *user, const char *phase, double done, double total)
{
    struct progress *p = user;
    char line[LINE];
    pthread_mutex_lock(&p->lock);
    double time = now();
    if (strncmp(p->phase, phase, sizeof p->phase - 1) != 0) {
        snprintf(p->phase, sizeof p->phase, "%s", phase);
        p->note[0] = '\0';
        p->phase_begin = time;
        p->first_done = done;
    }
    if (time - p->last >= (p->tty ? TTY_SECONDS : PIPE_SECONDS)) {
        p->last = time;
        progress_text(p, done, total, line, sizeof line);
        if (p->tty) {
            struct winsize window;
            int width = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1
                            ? window.ws_col - 1
                            : 79;
            fprintf(stderr, "\r%.*s\033[K", width, line);
            p->shown = true;
        } else
            fprintf(stderr, "pare: %s\n", line);
        fflush(stderr);
    }
    pthread_mutex_unlock(&p->lock);
}

static void on_note(void *user, const char *text)
{
    struct progress *p = user;
    pthread_mutex_lock(&p->lock);
    snprintf(p->note, sizeof p->note, "%s", text);
    pthread_mutex_unlock(&p->lock);
}

static void on_remark(void *user, pare_level level, const char *line)
{
    struct progress *p = user;
    if (level != PARE_LOG_WARN && !p->verbose)
        return;
    pthread_mutex_lock(&p->lock);
    erase(p);
    fprintf(stderr, "pare: %s%s\n", level == PARE_LOG_WARN ? "warning: " : "", line);
    pthread_mutex_unlock(&p->lock);
}

/* ---- the session ----------------------------------------------------------------------------- */

static void listen_to_signals(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = (int)SA_RESETHAND | SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int session_begin(const struct args *args, struct session *session)
{
    const struct option_value *v = args->value;
    const char *isa = getenv("PARE_ISA");
    *session = (struct session){.progress = calloc(1, sizeof *session->progress)};
    if (!session->progress)
        return complain(4, "out of memory");
    struct progress *p = session->progress;
    pthread_mutex_init(&p->lock, NULL);
    p->tty = isatty(STDERR_FILENO) == 1;
    p->verbose = v[OPT_VERBOSE].given;
    p->last = p->tty ? 0 : now(); /* in a pipe the first line comes after ten seconds */
    session->options = (pare_run_options){
        .threads = (int)v[OPT_THREADS].whole,
        .isa = isa && *isa ? isa : NULL,
        .device = v[OPT_DEVICE].text,
        .memory = v[OPT_MEMORY].whole,
        .device_memory = v[OPT_DEVICE_MEMORY].whole,
        .trace = v[OPT_TRACE].text,
        .sync = v[OPT_SYNC].given,
        .strict = v[OPT_STRICT].given,
        .overwrite = v[OPT_OVERWRITE].given,
        .cancel = &stopped,
        .look = args->choice,
    };
    if (!v[OPT_QUIET].given) {
        session->options.progress = (pare_progress){on_progress, p, on_note};
        session->options.log = (pare_log){on_remark, p};
    }
    listen_to_signals();
    return 0;
}

void session_end(struct session *session)
{
    if (!session->progress)
        return;
    erase(session->progress);
    fflush(stderr);
    pthread_mutex_destroy(&session->progress->lock);
    free(session->progress);
    session->progress = NULL;
}
