/* memory_sample.c - the peak of anonymous and shared-memory pages, which is what a budget is about:
 * pages of mapped files and the page cache come and go by themselves. */
#include "pare/memory.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The one counter of the process, as the kernel's own peak is. */
static _Atomic int64_t peak;

static int64_t field(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    long long kib = 0;
    if (at)
        sscanf(at + strlen(name), "%lld", &kib);
    return (int64_t)kib * 1024;
}

int64_t pare_memory_now(void)
{
    char text[4096];
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    if (got <= 0)
        return 0;
    text[got] = '\0';
    int64_t now = field(text, "RssAnon:") + field(text, "RssShmem:");
    int64_t seen = atomic_load(&peak);
    while (now > seen && !atomic_compare_exchange_weak(&peak, &seen, now)) {
    }
    return now;
}

int64_t pare_memory_peak(void)
{
    (void)pare_memory_now();
    return atomic_load(&peak);
}

void pare_memory_restart(void)
{
    atomic_store(&peak, 0);
    (void)pare_memory_now();
}
