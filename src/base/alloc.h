/* alloc.h - memory that can fail. All sizes are checked for overflow. */
#ifndef PARE_BASE_ALLOC_H
#define PARE_BASE_ALLOC_H

#include "pare/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* count × size zeroed bytes into *memory (NULL if that is 0). PARE_ERR_MEMORY says how much was
 * asked. Free with free(). */
pare_status pare__calloc(size_t count, size_t size, void *memory /* T ** */);

/* Makes *memory (capacity *capacity elements of size bytes) hold at least want elements, growing by
 * half; new bytes are not cleared. */
pare_status pare__grow(void *memory /* T ** */, size_t *capacity, size_t want, size_t size);

/* A copy of text (NULL gives NULL). */
pare_status pare__strdup(const char *text, char **copy);

/* size bytes in whole pages, 64-byte aligned, huge pages asked for where it is worth it; zero on
 * first touch. NULL for 0. Free with pare__pages_free, which takes NULL. */
pare_status pare__pages(size_t size, void *memory /* T ** */);
void pare__pages_free(void *memory, size_t size);

/* a·b and a+b in 63 bits; false, and nothing written, on overflow or a negative operand. */
int pare__mul(int64_t a, int64_t b, int64_t *product);
int pare__add(int64_t a, int64_t b, int64_t *sum);

/* The least common multiple of two positive numbers whose product fits 63 bits. */
int64_t pare__lcm(int64_t a, int64_t b);

#ifdef __cplusplus
}
#endif

#endif
