/* alloc.c - memory that can fail, whole pages, and sizes that cannot overflow unseen.
 *
 * `memory` is a T ** of any T: the pointer goes in and out by memcpy, which no aliasing rule
 * forbids. */
#include "base/alloc.h"
#include "base/check.h"

#include "pare/memory.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What is given back from here on was worth a look: then there was most. */
#define SAMPLE_FROM ((size_t)1 << 20)
#define HUGE_FROM ((size_t)4 << 20) /* below this a huge page wastes more than it saves */

static void put(void *memory, void *pointer)
{
    memcpy(memory, &pointer, sizeof pointer);
}

static void *get(const void *memory)
{
    void *pointer;
    memcpy(&pointer, memory, sizeof pointer);
    return pointer;
}

pare_status pare__calloc(size_t count, size_t size, void *memory)
{
    put(memory, NULL);
    if (count == 0 || size == 0)
        return PARE_OK;
    void *made = count <= PTRDIFF_MAX / size ? calloc(count, size) : NULL;
    PARE_REQUIRE(made != NULL, PARE_ERR_MEMORY, "no memory for %zu times %zu bytes", count, size);
    put(memory, made);
    return PARE_OK;
}

pare_status pare__grow(void *memory, size_t *capacity, size_t want, size_t size)
{
    if (want <= *capacity)
        return PARE_OK;
    size_t more = *capacity + *capacity / 2; /* no overflow: *capacity elements exist */
    size_t target = more > want ? more : want < 8 ? 8 : want;
    PARE_REQUIRE(size > 0 && target <= PTRDIFF_MAX / size, PARE_ERR_MEMORY,
                 "no memory for %zu times %zu bytes", target, size);
    void *grown = realloc(get(memory), target * size);
    PARE_REQUIRE(grown != NULL, PARE_ERR_MEMORY, "no memory for %zu times %zu bytes", target, size);
    put(memory, grown);
    *capacity = target;
    return PARE_OK;
}

pare_status pare__strdup(const char *text, char **copy)
{
    *copy = NULL;
    if (text == NULL)
        return PARE_OK;
    *copy = strdup(text);
    PARE_REQUIRE(*copy != NULL, PARE_ERR_MEMORY, "no memory for a string of %zu bytes",
                 strlen(text));
    return PARE_OK;
}

/* size rounded up to whole pages; 0 if that does not fit. */
static size_t whole_pages(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return size <= PTRDIFF_MAX - page ? (size + page - 1) / page * page : 0;
}

pare_status pare__pages(size_t size, void *memory)
{
    put(memory, NULL);
    if (size == 0)
        return PARE_OK;
    size_t whole = whole_pages(size);
    void *made = MAP_FAILED;
    if (whole > 0)
        made = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    PARE_REQUIRE(made != MAP_FAILED, PARE_ERR_MEMORY, "no memory for %zu bytes", size);
#ifdef MADV_HUGEPAGE
    if (whole >= HUGE_FROM)
        madvise(made, whole, MADV_HUGEPAGE); /* a wish: a kernel without it refuses harmlessly */
#endif
    put(memory, made);
    return PARE_OK;
}

void pare__pages_free(void *memory, size_t size)
{
    if (memory == NULL)
        return;
    if (size >= SAMPLE_FROM)
        (void)pare_memory_now();
    munmap(memory, whole_pages(size));
}

int pare__mul(int64_t a, int64_t b, int64_t *product)
{
    int64_t result;
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &result))
        return 0;
    *product = result;
    return 1;
}

int pare__add(int64_t a, int64_t b, int64_t *sum)
{
    int64_t result;
    if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &result))
        return 0;
    *sum = result;
    return 1;
}

int64_t pare__lcm(int64_t a, int64_t b)
{
    int64_t x = a, y = b;
    while (y) {
        int64_t rest = x % y;
        x = y;
        y = rest;
    }
    return a / x * b;
}
