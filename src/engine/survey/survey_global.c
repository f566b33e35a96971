/* survey_global.c - one threshold over the scores of all layers (budget: global), though no more
 * than a block of them is in memory at a time.
 *
 * Scores are those of Wanda as the dense model gives them, |w|·‖x‖, divided by the root of the sum
 * of their squares in the layer: squared, the share of the layer's output that a weight makes (of
 * inputs that are not correlated). Undivided, a threshold would compare outputs of all sizes, and a
 * layer whose output is small, or divided by a norm after it, would lose nearly all. They are
 * counted in intervals of their logarithm, layer by layer; from the counts come the shares that lie
 * below one threshold. SparseGPT's own scores would need each layer's factor; of inputs that are
 * not correlated they are the squares of these. */
#include "survey.h"

/* What the counts of all layers may take: where they would be more, several bins become one. */
#define COUNT_BYTES ((int64_t)64 << 20)
/* No layer loses more, unless all do: of one that is gone nothing is left to make up for it. */
#define MOST 0.99

bool pare__survey_by_threshold(const pare__question *q)
{
    return q->prune && q->prune->budget == PARE_BUDGET_GLOBAL;
}

/* A bin of the counts is 2^shift of the selection's, of which 128 are an octave. */
static int shift_of(const pare__question *q)
{
    int shift = 0;
    while (shift < 10 && (int64_t)q->count * (PARE_SELECT_HIGH_BINS >> shift) * 8 > COUNT_BYTES)
        shift++;
    return shift;
}

static int64_t bins_of(const pare__question *q)
{
    return PARE_SELECT_HIGH_BINS >> shift_of(q);
}

static bool is_counted(const pare__question *q)
{
    return pare__survey_by_threshold(q) && pare__survey_open(q);
}

int64_t pare__survey_counts(const pare__survey *s)
{
    int64_t bytes = 0;
    for (size_t i = 0; i < s->count; i++) {
        const pare__question *q = &s->questions[i];
        if (is_counted(q))
            bytes += ((int64_t)q->count * bins_of(q) + PARE_SELECT_HIGH_BINS) * 8;
    }
    return bytes;
}

pare_status pare__survey_begin_counts(pare__survey *s)
{
    for (size_t i = 0; i < s->count; i++) {
        pare__question *q = &s->questions[i];
        if (is_counted(q))
            PARE_TRY(pare__calloc(q->count * (size_t)bins_of(q), sizeof *q->scores, &q->scores));
    }
    return PARE_OK;
}

pare_status pare__survey_count(pare_backend *be, pare__question *q, const pare__survey_layer *layer,
                               pare_tensor keys, pare_tensor bins)
{
    pare_status status = PARE_OK;
    int shift = shift_of(q);
    int64_t *of = q->scores + (layer - q->layers) * bins_of(q), *all = NULL;
    const int64_t bytes = PARE_SELECT_HIGH_BINS * (int64_t)sizeof *all;
    PARE_TRY(pare__calloc(PARE_SELECT_HIGH_BINS, sizeof *all, &all));
    PARE_TRY_DONE(pare_backend_upload(be, bins.data, all, bytes));
    PARE_TRY_DONE(pare_select_hist(
        be, &(pare_select_hist_args){.x = pare_vector(keys.data, PARE_U32, layer->weights),
                                     .prefix = -1,
                                     .bins = bins}));
    PARE_TRY_DONE(pare_backend_download(be, all, bins.data, bytes));
    for (int64_t b = 0; b < PARE_SELECT_HIGH_BINS; b++)
        of[b >> shift] += all[b];
done:
    free(all);
    return status;
}

static pare_status settle(pare__question *q)
{
    int64_t bins = bins_of(q);
    double *share = NULL;
    for (int64_t *row = q->scores; row < q->scores + (int64_t)q->count * bins; row += bins)
        for (int64_t b = 1; b < bins; b++)
            row[b] += row[b - 1];
    PARE_TRY(pare__calloc(q->count, sizeof *share, &share));
    double sparsity = q->prune->sparsity, most = sparsity > MOST ? sparsity : MOST;
    pare_status status =
        pare_budget_global(q->scores, bins, (int64_t)q->count, sparsity, most, share);
    for (size_t l = 0; l < q->count && status == PARE_OK; l++)
        q->layers[l].harm[0] = share[l];
    free(share);
    free(q->scores);
    q->scores = NULL;
    PARE_TRY(status);
    return PARE_OK;
}

pare_status pare__survey_settle(pare__survey *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->questions[i].scores)
            PARE_TRY(settle(&s->questions[i]));
    return PARE_OK;
}
