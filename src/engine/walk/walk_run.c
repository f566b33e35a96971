/* walk_run.c - a block over all samples: from one file of hidden states to the next, with the
 * statistics of sites gathered on the way. */
#include "walk.h"

#include <string.h>

/* ---- hidden states --------------------------------------------------------------------------- */

/* Bytes of a hidden state: of a batch's, or in all. */
static int64_t bytes_of(const pare_tensor *t)
{
    return pare_tensor_count(t) * pare_dtype_bits(t->dtype) / 8;
}

/* A state's place: batches lie one behind another, each as large as the first. */
static pare_status read_hidden(pare__walker *w, int64_t index, int64_t size, pare_tensor *hidden)
{
    *hidden = pare_model_hidden(w->block);
    int64_t at = index * bytes_of(hidden);
    hidden->shape[0] = hidden->shape[0] / w->shape.batch * size;
    if (w->holds && w->held_for == w->at) {
        hidden->data = w->held[w->at % 2] + at;
        return PARE_OK;
    }
    hidden->data = w->hidden_in;
    return pare__walk_load(w, w->hidden[w->at % 2], w->hidden_in, bytes_of(hidden), at);
}

static pare_status write_hidden(pare__walker *w, int64_t index, int64_t size)
{
    pare_tensor hidden = pare_model_output(w->block);
    int64_t bytes = bytes_of(&hidden), at = index * (bytes / size * w->shape.batch);
    if (w->holds)
        PARE_TRY(pare_backend_copy(w->be, w->held[(w->at + 1) % 2] + at, hidden.data, bytes));
    const pare__piece all = {.values = hidden.data, .bytes = bytes, .at = at};
    return pare__walk_save(w, w->hidden[(w->at + 1) % 2], &all, 1, -1);
}

/* ---- statistics ------------------------------------------------------------------------------ */

typedef struct running {
    pare__walker *w;
    int64_t first, count;
    const bool *wanted;
    bool next;
    int64_t until;
    const pare_batch *batch;
} running;

/* Images of one call of patches. */
static int64_t images_at_once(const pare_site *site, const pare_tensor *x)
{
    int64_t h = pare_window_out(&site->window, 0, x->shape[1]),
            w = pare_window_out(&site->window, 1, x->shape[2]);
    int64_t bytes = h * w * site->cols * pare_dtype_bits(x->dtype) / 8;
    int64_t images = PARE__WALK_PATCHES / (bytes > 0 ? bytes : 1);
    return images < 1 ? 1 : images < x->shape[0] ? images : x->shape[0];
}

int64_t pare__walk_rows_bytes(const pare__walker *w)
{
    int64_t most = 0, first, count = pare__walk_sites_of(w, w->at, &first);
    for (int64_t s = first; s < first + count; s++) {
        const pare_site *site = &w->sites[s].site;
        pare_tensor x = pare_model_node(w->block, site->node[0]).input[0];
        int64_t bytes = w->padded ? bytes_of(&x) : 0;
        if (site->conv && w->sites[s].needs)
            bytes = images_at_once(site, &x) * pare_window_out(&site->window, 0, x.shape[1]) *
                    pare_window_out(&site->window, 1, x.shape[2]) * site->cols *
                    pare_dtype_bits(x.dtype) / 8;
        most = bytes > most ? bytes : most;
    }
    return most;
}

static pare_status add_images(pare__walker *w, const pare_site *site, pare_tensor x,
                              pare_site_stats *stats)
{
    int64_t step = images_at_once(site, &x), image = bytes_of(&x) / x.shape[0];
    int64_t places = pare_window_out(&site->window, 0, x.shape[1]) *
                     pare_window_out(&site->window, 1, x.shape[2]);
    for (int64_t i = 0, n, images = x.shape[0]; i < images; i += n) {
        n = images - i < step ? images - i : step;
        pare_tensor part = x, rows = pare_matrix(w->arena, x.dtype, n * places, site->cols);
        part.data = (char *)x.data + i * image;
        part.shape[0] = n;
        PARE_TRY(pare_patches(w->be,
                              &(pare_patches_args){.x = part, .y = rows, .window = site->window}));
        PARE_TRY(pare_site_stats_add(w->be, stats, rows, n * places));
    }
    return PARE_OK;
}

/* Rows of padding are left out, where the rows are tokens. */
static pare_status add_rows(running *r, pare_tensor x, pare_site_stats *stats)
{
    pare__walker *w = r->w;
    int64_t rows = pare_tensor_count(&x) / stats->cols, kept = rows;
    x = pare_matrix(x.data, x.dtype, rows, stats->cols);
    const uint8_t *keys = r->batch->keys;
    if (keys && rows == r->batch->size * r->batch->length) {
        for (int64_t i = 0; i < rows; i++)
            kept -= keys[i] == 0;
        pare_tensor left = pare_matrix(w->arena, x.dtype, rows, stats->cols);
        const void *keep = pare_model_batch(w->block)->keys;
        if (kept < rows) {
            PARE_TRY(pare_keep_rows(
                w->be, &(pare_keep_rows_args){
                           .x = x,
                           .y = left,
                           .keep = pare_vector((void *)(uintptr_t)keep, PARE_U8, rows)}));
            x = left;
        }
    }
    PARE_TRY(pare_site_stats_add(w->be, stats, x, kept));
    return PARE_OK;
}

/* The inputs of the sites that node begins. */
static pare_status observe(void *user, int64_t node, const pare_node_view *view, bool backward)
{
    running *r = user;
    (void)backward;
    for (int64_t s = r->first; s < r->first + r->count; s++) {
        const pare_site *site = &r->w->sites[s].site;
        if (!r->w->stats[s] || r->w->stats[s]->finished || site->node[0] != node)
            continue;
        pare_tensor x = view->input[0];
        PARE_ASSERT(x.data);
        if (site->conv)
            PARE_TRY(add_images(r->w, site, x, r->w->stats[s]));
        else
            PARE_TRY(add_rows(r, x, r->w->stats[s]));
    }
    return PARE_OK;
}

void pare__walk_drop_stats(pare__walker *w)
{
    for (int64_t s = 0; w->stats && s < w->site_count; s++)
        pare_site_stats_free(w->be, &w->stats[s]);
}

/* ---- the run --------------------------------------------------------------------------------- */

static pare_status run_batch(void *user, int64_t index, const pare_batch *batch)
{
    running *r = user;
    pare_tensor hidden = {0};
    PARE_TRY(pare__walk_alive(r->w));
    r->batch = batch;
    if (r->w->at > 0)
        PARE_TRY(read_hidden(r->w, index, batch->size, &hidden));
    PARE_TRY(pare_model_forward_hidden(r->w->block, batch, hidden, r->until));
    if (r->until >= 0) { /* the last site's input is there, its product need not be */
        const pare_node_view view = pare_model_node(r->w->block, r->until);
        PARE_TRY(observe(r, r->until, &view, false));
    }
    if (r->next)
        PARE_TRY(write_hidden(r->w, index, batch->size));
    return PARE_OK;
}

/* Makes statistics to be filled; the nodes that must run for them. *count: sites. */
static pare_status begin(running *r, int *count)
{
    int64_t last = -1;
    *count = 0;
    for (int64_t s = r->first; s < r->first + r->count; s++) {
        const pare__walk_site *site = &r->w->sites[s];
        if ((r->wanted && !r->wanted[s - r->first]) || !site->needs)
            continue;
        PARE_TRY(pare_site_stats_create(r->w->be, site->needs, site->site.cols, &r->w->stats[s]));
        last = site->site.node[0] > last ? site->site.node[0] : last;
        ++*count;
    }
    r->until = r->next ? -1 : last;
    return PARE_OK;
}

/* "block 3 of 16, mlp.down_proj" */
static void phase_name(const running *r, char *name, size_t size)
{
    const pare__walker *w = r->w;
    const char *site = r->count == 1 ? w->sites[r->first].site.name : NULL;
    snprintf(name, size, "block %lld of %lld%s%s", (long long)w->at + 1, (long long)w->blocks,
             site ? ", " : "", site ? site : "");
}

pare_status pare__walk_run(pare__walker *w, int64_t first, int64_t count, const bool *wanted,
                           bool next)
{
    running r = {.w = w, .first = first, .count = count, .wanted = wanted, .next = next};
    char name[256];
    int sites;
    PARE_TRY(begin(&r, &sites));
    if (!sites && !next)
        return PARE_OK;
    phase_name(&r, name, sizeof name);
    pare_model_set_hook(w->block, sites > (next ? 0 : 1) ? observe : NULL, &r);
    pare_status status = pare_feed_run(
        w->job->sched, name,
        &(pare_feed_options){
            .dataset = w->dataset, .batch = w->shape.batch, .first = w->first, .last = w->last},
        run_batch, &r);
    pare_model_set_hook(w->block, NULL, NULL);
    PARE_TRY(status);
    if (next)
        w->held_for = w->at + 1;
    for (int64_t s = first; s < first + count; s++) {
        if (!w->stats[s] || w->stats[s]->finished)
            continue;
        PARE_TRY(pare__walk_join(w, s));
        PARE_TRY(pare_site_stats_finish(w->be, w->stats[s]));
    }
    return PARE_OK;
}
