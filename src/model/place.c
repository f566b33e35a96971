/* place.c - offsets of buffers in one arena, so that two in use at the same time never overlap.
 *
 * The largest first, each into the smallest gap between those already placed that are in use at the
 * same time (best fit; Pisarchyk & Lee 2020, greedy by size). Quadratic in the number of buffers,
 * which is a few thousand. */
#include "node.h"

#define ALIGN 64

typedef struct slot {
    int64_t bytes;
    size_t buffer;
    int birth;
} slot;

static int larger_first(const void *left, const void *right)
{
    const slot *a = left, *b = right;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? 1 : -1;
    if (a->birth != b->birth)
        return a->birth < b->birth ? -1 : 1;
    return a->buffer < b->buffer ? -1 : a->buffer > b->buffer;
}

/* The place of b among `placed` buffers, which are in the order of their offsets. */
static int64_t best_gap(const pare__buffer *buffers, const size_t *placed, size_t count,
                        const pare__buffer *b)
{
    int64_t end = 0, best = -1, best_size = INT64_MAX;
    for (size_t i = 0; i < count; i++) {
        const pare__buffer *p = &buffers[placed[i]];
        if (p->death < b->birth || b->death < p->birth)
            continue;
        int64_t gap = p->offset - end;
        if (gap >= b->bytes && gap < best_size) {
            best = end;
            best_size = gap;
        }
        if (p->offset + p->bytes > end)
            end = p->offset + p->bytes;
    }
    return best >= 0 ? best : end;
}

static void insert(const pare__buffer *buffers, size_t *placed, size_t count, size_t buffer)
{
    size_t at = count;
    for (; at > 0 && buffers[placed[at - 1]].offset > buffers[buffer].offset; at--)
        placed[at] = placed[at - 1];
    placed[at] = buffer;
}

pare_status pare__place(pare__buffer *buffers, size_t count, int64_t *bytes)
{
    pare_status status = PARE_OK;
    slot *order = NULL;
    size_t *placed = NULL;
    int64_t total = 0;
    *bytes = 0;
    PARE_TRY_DONE(pare__calloc(count, sizeof *order, &order));
    PARE_TRY_DONE(pare__calloc(count, sizeof *placed, &placed));
    for (size_t i = 0; i < count; i++) {
        buffers[i].bytes = (buffers[i].bytes + ALIGN - 1) / ALIGN * ALIGN;
        if (!pare__add(total, buffers[i].bytes, &total)) {
            status = pare__error(PARE_ERR_MEMORY, __func__,
                                 "activations take more bytes than 63 bits count: take a smaller "
                                 "batch");
            goto done;
        }
        order[i] = (slot){.bytes = buffers[i].bytes, .buffer = i, .birth = buffers[i].birth};
    }
    if (count > 0)
        qsort(order, count, sizeof *order, larger_first);
    for (size_t i = 0; i < count; i++) {
        pare__buffer *b = &buffers[order[i].buffer];
        b->offset = best_gap(buffers, placed, i, b);
        insert(buffers, placed, i, order[i].buffer);
        if (b->offset + b->bytes > *bytes)
            *bytes = b->offset + b->bytes;
    }
done:
    free(placed);
    free(order);
    return status;
}
