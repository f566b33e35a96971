/* walk_save.c - what goes to the walk's files: hidden states, and what layers have become.
 *
 * On the CPU it is written where it lies, in turn with computing: that takes the cores that compute
 * would take. A device copies it to one of two places of its own and goes on; a thread beside takes
 * it from there, a piece at a time, to the files, and then writes the layer's record. In that
 * order: a record never comes before what it speaks of, nor a block's before its hidden states.
 * Only one layer is on its way at a time: a kill loses that one, and what has begun of the next. */
#include "walk.h"

#define PLACES 2

/* Something on its way. */
typedef struct place {
    pare_backend *be; /* whose stream brings it to the host while the walk's goes on */
    char *memory;     /* its own, on the device */
    pare__piece pieces[PARE__WALK_PIECES];
    int count, file;
    int64_t task; /* whose record comes after it, −1 */
} place;

struct pare__saving {
    pare__walker *w;
    pare_aside *aside;
    place places[PLACES];
    char *staging; /* PARE__WALK_STAGING bytes of the host's, page-locked */
};

/* ---- beside the walk ------------------------------------------------------------------------- */

static pare_status write_piece(const struct pare__saving *s, const place *p,
                               const pare__piece *piece)
{
    for (int64_t i = 0, n; i < piece->bytes; i += n) {
        n = piece->bytes - i < PARE__WALK_STAGING ? piece->bytes - i : PARE__WALK_STAGING;
        PARE_TRY(pare_backend_download(p->be, s->staging, (const char *)piece->values + i, n));
        PARE_TRY(pare__file_write(p->file, s->w->folder, s->staging, n, piece->at + i));
    }
    return PARE_OK;
}

static pare_status save(void *user, int at)
{
    const struct pare__saving *s = user;
    const place *p = &s->places[at];
    for (int i = 0; i < p->count; i++)
        PARE_TRY(write_piece(s, p, &p->pieces[i]));
    if (p->task >= 0)
        PARE_TRY(pare__journal_layer(s->w->job, p->task));
    return PARE_OK;
}

/* ---- opening --------------------------------------------------------------------------------- */

static pare_status open_place(const pare__walker *w, place *p)
{
    PARE_TRY(pare_cuda_create(w->job->device.index, &p->be));
    PARE_TRY(pare_backend_alloc(p->be, w->saving_bytes, &p->memory));
    PARE_TRY(pare_backend_sync(p->be)); /* from now on the walk's backend writes there */
    return PARE_OK;
}

pare_status pare__walk_open_saving(pare__walker *w)
{
    if (pare_backend_is_host(w->be))
        return PARE_OK;
    PARE_TRY(pare__calloc(1, sizeof *w->saving, &w->saving));
    struct pare__saving *s = w->saving;
    s->w = w;
    for (int i = 0; i < PLACES; i++)
        PARE_TRY(open_place(w, &s->places[i]));
    PARE_TRY(pare_backend_host_alloc(s->places[0].be, PARE__WALK_STAGING, &s->staging));
    PARE_TRY(pare_aside_create(
        w->job->sched,
        &(pare_aside_options){
            .name = "save", .stage = "write", .places = PLACES, .run = save, .user = s},
        &s->aside));
    return PARE_OK;
}

void pare__walk_close_saving(pare__walker *w)
{
    struct pare__saving *s = w->saving;
    if (!s)
        return;
    pare_aside_free(&s->aside);
    if (s->places[0].be)
        pare_backend_host_release(s->places[0].be, s->staging, PARE__WALK_STAGING);
    for (int i = PLACES - 1; i >= 0; i--) {
        if (s->places[i].be)
            pare_backend_release(s->places[i].be, s->places[i].memory, w->saving_bytes);
        pare_backend_free(&s->places[i].be);
    }
    free(s);
    w->saving = NULL;
}

int64_t pare__walk_saving_bytes(int64_t bytes)
{
    return PLACES * (bytes + PARE__PLACE_BYTES);
}

/* ---- handing over ---------------------------------------------------------------------------- */

static pare_status save_now(const pare__walker *w, int file, const pare__piece *pieces, int count,
                            int64_t task)
{
    for (int i = 0; i < count; i++)
        PARE_TRY(
            pare__file_write(file, w->folder, pieces[i].values, pieces[i].bytes, pieces[i].at));
    if (task >= 0)
        PARE_TRY(pare__journal_layer(w->job, task));
    return PARE_OK;
}

pare_status pare__walk_save(pare__walker *w, int file, const pare__piece *pieces, int count,
                            int64_t task)
{
    struct pare__saving *s = w->saving;
    int64_t used = 0;
    int at;
    PARE_ASSERT(count <= PARE__WALK_PIECES);
    if (!s)
        return save_now(w, file, pieces, count, task);
    if (task >= 0) /* the layer before is kept first */
        PARE_TRY(pare_aside_wait(s->aside));
    PARE_TRY(pare_aside_place(s->aside, &at));
    place *p = &s->places[at];
    for (int i = 0; i < count; i++) {
        p->pieces[i] = pieces[i];
        p->pieces[i].values = p->memory + used;
        PARE_ASSERT(pieces[i].bytes <= w->saving_bytes - used);
        PARE_TRY(
            pare_backend_send(w->be, pieces[i].values, p->be, p->memory + used, pieces[i].bytes));
        used += (pieces[i].bytes + 63) / 64 * 64;
    }
    p->count = count;
    p->file = file;
    p->task = task;
    pare_aside_hand(s->aside);
    return PARE_OK;
}

pare_status pare__walk_saved(pare__walker *w)
{
    if (w->saving && w->saving->aside)
        PARE_TRY(pare_aside_wait(w->saving->aside));
    return PARE_OK;
}
