/* carve.h - several arrays in one piece of memory. The same code counts the bytes (base NULL) and
 * hands out the places. */
#ifndef PARE_BASE_CARVE_H
#define PARE_BASE_CARVE_H

#include <stddef.h>
#include <stdint.h>

typedef struct pare__carve {
    char *base;   /* NULL: only counts */
    int64_t size; /* so far */
} pare__carve;

/* The next place, aligned to 256 as the base is; NULL while only counting, and for 0 bytes. */
static inline void *pare__carve_next(pare__carve *carve, int64_t bytes)
{
    void *place = carve->base && bytes > 0 ? carve->base + carve->size : NULL;
    carve->size += (bytes + 255) / 256 * 256;
    return place;
}

#endif
