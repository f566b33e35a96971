/* comm_ring.c - sums, broadcasts and gathers along a ring of ranks: each sends to the next and
 * receives from the one before, in transfers of at most 1 MiB, two in flight each way.
 *
 * A sum cuts the buffer into as many parts as there are ranks. Part p starts at rank p as it is
 * there; each next rank adds its own to what it receives; after N−1 hops rank p−1 has the whole
 * sum, which then goes around as it is. So every number is ((x_p + x_p+1) + x_p+2) + … in the
 * order of the ring whatever the timing, all ranks have the same bytes, and each rank sends
 * 2·(N−1)/N of the buffer: the least that is possible (Patarasuk & Yuan 2009).
 */
#include "comm_impl.h"

#include "base/check.h"

#include <string.h>

/* Slots of the wire: two transfers each way. */
enum { OUT = 0, IN = 2 };

static int64_t transfers(int64_t bytes)
{
    return (bytes + PARE__WIRE_BYTES - 1) / PARE__WIRE_BYTES;
}

/* Bytes of transfer t of so many. */
static int64_t size_of(int64_t bytes, int64_t t)
{
    int64_t left = bytes - t * PARE__WIRE_BYTES;
    return left < PARE__WIRE_BYTES ? left : PARE__WIRE_BYTES;
}

static void add(void *to, const void *from, int64_t bytes, pare_dtype dtype)
{
    if (dtype == PARE_F32) {
        float *restrict sum = to;
        const float *restrict x = from;
        for (int64_t i = 0; i < bytes / 4; i++)
            sum[i] = x[i] + sum[i];
    } else {
        double *restrict sum = to;
        const double *restrict x = from;
        for (int64_t i = 0; i < bytes / 8; i++)
            sum[i] = x[i] + sum[i];
    }
}

static unsigned char *memory_of(const pare__wire *w, int slot)
{
    return w->memory + slot * PARE__WIRE_BYTES;
}

static pare_status give(const pare__wire *w, int slot, const void *bytes, int64_t count)
{
    PARE_TRY(w->finish(w->state, slot));
    memcpy(memory_of(w, slot), bytes, (size_t)count);
    PARE_TRY(w->send(w->state, slot, (w->rank + 1) % w->size, count));
    return PARE_OK;
}

static pare_status expect(const pare__wire *w, int slot, int64_t count)
{
    PARE_TRY(w->receive(w->state, slot, (w->rank + w->size - 1) % w->size, count));
    return PARE_OK;
}

/* One hop: `out` goes to the next rank while what comes from the one before is put to `in`, or
 * added to it. */
typedef struct hop {
    const unsigned char *out;
    unsigned char *in;
    int64_t out_bytes, in_bytes;
    bool adds;
    pare_dtype dtype;
} hop;

static pare_status take(const pare__wire *w, const hop *h, int64_t t)
{
    int slot = IN + (int)(t % 2);
    PARE_TRY(w->finish(w->state, slot));
    if (h->adds)
        add(h->in + t * PARE__WIRE_BYTES, memory_of(w, slot), size_of(h->in_bytes, t), h->dtype);
    else
        memcpy(h->in + t * PARE__WIRE_BYTES, memory_of(w, slot), (size_t)size_of(h->in_bytes, t));
    return PARE_OK;
}

static pare_status run_hop(const pare__wire *w, const hop *h)
{
    int64_t outs = transfers(h->out_bytes), ins = transfers(h->in_bytes);
    for (int64_t t = 0; t < ins && t < 2; t++)
        PARE_TRY(expect(w, IN + (int)t, size_of(h->in_bytes, t)));
    for (int64_t t = 0; t < outs || t < ins; t++) {
        if (t < outs)
            PARE_TRY(give(w, OUT + (int)(t % 2), h->out + t * PARE__WIRE_BYTES,
                          size_of(h->out_bytes, t)));
        if (t < ins)
            PARE_TRY(take(w, h, t));
        if (t + 2 < ins)
            PARE_TRY(expect(w, IN + (int)(t % 2), size_of(h->in_bytes, t + 2)));
    }
    PARE_TRY(w->finish(w->state, OUT));
    PARE_TRY(w->finish(w->state, OUT + 1));
    return PARE_OK;
}

/* Where part p of count numbers begins. */
static int64_t part_at(int64_t count, int p, int size)
{
    int64_t each = count / size, more = count % size;
    return p * each + (p < more ? p : more);
}

pare_status pare__ring_sum(const pare__wire *w, void *buffer, int64_t count, pare_dtype dtype)
{
    int64_t width = dtype == PARE_F32 ? 4 : 8;
    unsigned char *bytes = buffer;
    for (int step = 0; step < 2 * (w->size - 1); step++) {
        bool adds = step < w->size - 1;
        int ahead = adds ? 0 : 1, back = step % (w->size - 1);
        int out = (w->rank + ahead - back + w->size) % w->size;
        int in = (out - 1 + w->size) % w->size;
        int64_t out_at = part_at(count, out, w->size), in_at = part_at(count, in, w->size);
        hop h = {.out = bytes + out_at * width,
                 .in = bytes + in_at * width,
                 .out_bytes = (part_at(count, out + 1, w->size) - out_at) * width,
                 .in_bytes = (part_at(count, in + 1, w->size) - in_at) * width,
                 .adds = adds,
                 .dtype = dtype};
        PARE_TRY(run_hop(w, &h));
    }
    return PARE_OK;
}

/* From the root around the ring: each transfer is handed on as soon as it is there. */
pare_status pare__ring_broadcast(const pare__wire *w, void *buffer, int64_t bytes, int root)
{
    bool takes = w->rank != root, gives = (w->rank + 1) % w->size != root;
    int64_t count = transfers(bytes);
    hop h = {.in = buffer, .in_bytes = bytes};
    for (int64_t t = 0; takes && t < count && t < 2; t++)
        PARE_TRY(expect(w, IN + (int)t, size_of(bytes, t)));
    for (int64_t t = 0; t < count; t++) {
        if (takes)
            PARE_TRY(take(w, &h, t));
        if (takes && t + 2 < count)
            PARE_TRY(expect(w, IN + (int)(t % 2), size_of(bytes, t + 2)));
        if (gives)
            PARE_TRY(give(w, OUT + (int)(t % 2), h.in + t * PARE__WIRE_BYTES, size_of(bytes, t)));
    }
    PARE_TRY(w->finish(w->state, OUT));
    PARE_TRY(w->finish(w->state, OUT + 1));
    return PARE_OK;
}

pare_status pare__ring_gather(const pare__wire *w, const void *mine, int64_t bytes, void *all)
{
    unsigned char *at = all;
    memmove(at + w->rank * bytes, mine, (size_t)bytes);
    for (int step = 0; step < w->size - 1; step++) {
        int out = (w->rank - step + w->size) % w->size, in = (out - 1 + w->size) % w->size;
        hop h = {
            .out = at + out * bytes, .in = at + in * bytes, .out_bytes = bytes, .in_bytes = bytes};
        PARE_TRY(run_hop(w, &h));
    }
    return PARE_OK;
}
