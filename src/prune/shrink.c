/* shrink.c - structured pruning: which units go, and what is left of a tensor without them.
 *
 * A unit (model.h) is scored by the sum of all that is its own: a neuron by its row in the weight
 * that makes it and its column in the weight that reads it, a head by its rows of q, k and v and
 * its columns of o. The least of each class go, so that all layers keep their proportions, which a
 * config with one number for all of them demands anyway.
 *
 * Li 2017 (filters by their norm), Molchanov 2019 (Taylor), Sun 2023 (Wanda's score, here summed),
 * Ma 2023 (groups that are coupled in a language model), Men 2024 (whole layers).
 */
#include "pare/prune.h"

#include "base/alloc.h"
#include "base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- scores ---------------------------------------------------------------------------------- */

#define BLOCK 256 /* columns summed at a time */
#define LANES 16  /* sums of a row side by side, so that the compiler can use vectors */

/* The units of the rows, and of the columns: `inner` columns are one place of theirs, `places` come
 * again and again (a table [1, T, D]). */
typedef struct walk {
    int rank;
    int64_t shape[PARE_MAX_RANK], cols, inner, places, layer;
    const int32_t *row, *col;
} walk;

/* Squares of n values (times their gradients) are added to col; their sum. */
static double add_squares(const float *w, const float *grad, int64_t n, double *col)
{
    double lane[LANES] = {0}, sum = 0;
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t m = n - i < LANES ? n - i : LANES;
        for (int64_t k = 0; k < m; k++) {
            double x = (double)w[i + k] * (grad ? (double)grad[i + k] : 1);
            col[i + k] += x * x;
            lane[k] += x * x;
        }
    }
    for (int k = 0; k < LANES; k++)
        sum += lane[k];
    return sum;
}

static void score_block(const walk *w, const pare_shrink_rows *r, int64_t first, int64_t n,
                        double *score)
{
    double col[BLOCK] = {0};
    bool rows_count = !r->inputs || r->input_axis == 0, cols_count = !r->inputs || !rows_count;
    for (int64_t i = 0; i < r->count; i++) {
        int64_t at = i * w->cols + first;
        double sum = add_squares(r->w + at, r->grad ? r->grad + at : NULL, n, col);
        double times = r->inputs && rows_count ? r->inputs[r->first + i] : 1;
        if (rows_count && w->row && w->row[r->first + i] >= 0)
            score[w->row[r->first + i]] += sum * times;
        if (w->layer >= 0 && !r->inputs)
            score[w->layer] += sum;
    }
    for (int64_t i = 0; i < n && w->col && cols_count; i++) {
        int64_t place = (first + i) / w->inner % w->places;
        if (w->col[place] >= 0)
            score[w->col[place]] += col[i] * (r->inputs ? r->inputs[place] : 1);
    }
}

void pare_shrink_score(const pare_couple *couple, const pare_shrink_rows *rows, double *score)
{
    walk w = {.layer = pare_couple_layer(couple, rows->param), .inner = 1};
    int64_t count;
    pare_couple_shape(couple, rows->param, NULL, &w.rank, w.shape);
    pare_shape_matrix(w.rank, w.shape, &count, &w.cols);
    w.row = pare_couple_axis(couple, rows->param, 0);
    for (int d = 1; d < w.rank; d++) {
        if (w.col) {
            w.inner *= w.shape[d];
            continue;
        }
        w.col = pare_couple_axis(couple, rows->param, d);
        w.places = w.shape[d];
    }
    if (!w.row && !w.col && w.layer < 0)
        return;
    for (int64_t c = 0; c < w.cols; c += BLOCK)
        score_block(&w, rows, c, w.cols - c < BLOCK ? w.cols - c : BLOCK, score);
}

/* ---- which stay ------------------------------------------------------------------------------ */

typedef struct candidate {
    double score;
    int64_t unit;
} candidate;

static int by_score(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? -1 : 1;
    return (x->unit > y->unit) - (x->unit < y->unit);
}

static const char *kind_name(pare_unit_kind kind)
{
    static const char *const names[] = {"channel", "head", "feature of the width", "layer"};
    return names[kind];
}

/* How many of `count` stay: near the target, a multiple of step, a divisor of divides (0: any). */
static int64_t allowed(int64_t count, int64_t step, int64_t divides, double target)
{
    int64_t best = count;
    for (int64_t k = step; k <= count; k += step)
        if ((divides == 0 || divides % k == 0) &&
            fabs((double)k - target) <= fabs((double)best - target))
            best = k;
    return best;
}

/* The width is counted in features, so that classes of features and of heads stay in step. */
static int64_t stay_of(const pare_unit_class *u, const pare_shrink_options *o)
{
    int64_t multiple = o->multiple > 0 ? o->multiple : 1;
    int64_t size = u->kind == PARE_UNIT_WIDTH ? u->size : 1, count = u->count * size;
    double target = (double)count - rint(o->sparsity * (double)count);
    return allowed(count, pare__lcm(multiple, u->multiple * size), u->divides, target) / size;
}

static bool takes_part(const pare_couple *couple, const pare_shrink_options *o, int64_t index)
{
    const pare_unit_class *u = pare_couple_class(couple, index);
    return u->kind == o->kind && !u->locked && u->count > 0 && (!o->chosen || o->chosen[index]);
}

/* The `go` lowest of the candidates go. */
static pare_status remove_lowest(candidate *list, int64_t count, int64_t go, uint8_t *keep)
{
    for (int64_t i = 0; i < count; i++)
        PARE_REQUIRE(isfinite(list[i].score), PARE_ERR_NUMERIC,
                     "the score of a unit is no number: the model's weights (or what the data made "
                     "of them) hold NaN or Inf");
    if (count > 0)
        qsort(list, (size_t)count, sizeof *list, by_score);
    for (int64_t i = 0; i < go && i < count; i++)
        keep[list[i].unit] = 0;
    return PARE_OK;
}

static int64_t list_units(const pare_couple *couple, const pare_unit_class *u, const double *score,
                          candidate *list)
{
    int64_t count = 0;
    for (int64_t i = 0; i < u->count; i++)
        if (!pare_couple_stays(couple, u->first + i))
            list[count++] = (candidate){score[u->first + i], u->first + i};
    return count;
}

static pare_status choose_units(const pare_couple *couple, const pare_shrink_options *o,
                                const double *score, candidate *list, uint8_t *keep)
{
    for (int64_t c = 0; c < pare_couple_class_count(couple); c++) {
        const pare_unit_class *u = pare_couple_class(couple, c);
        if (!takes_part(couple, o, c))
            continue;
        int64_t count = list_units(couple, u, score, list);
        PARE_TRY(remove_lowest(list, count, u->count - stay_of(u, o), keep));
    }
    return PARE_OK;
}

/* All blocks of the model are one class: stages of a network lose what they need least. */
static pare_status choose_layers(const pare_couple *couple, const pare_shrink_options *o,
                                 const double *score, candidate *list, uint8_t *keep)
{
    pare_unit_class all = {.kind = PARE_UNIT_LAYER, .size = 1, .multiple = 1};
    int64_t count = 0;
    for (int64_t c = 0; c < pare_couple_class_count(couple); c++)
        if (takes_part(couple, o, c)) {
            const pare_unit_class *u = pare_couple_class(couple, c);
            all.count += u->count;
            count += list_units(couple, u, score, list + count);
        }
    PARE_TRY(remove_lowest(list, count, all.count - stay_of(&all, o), keep));
    return PARE_OK;
}

/* Why nothing of a kind can go. */
static pare_status refuse(const pare_couple *couple, const pare_shrink_options *o)
{
    const char *what = kind_name(o->kind), *why = pare_couple_refusal(couple, o->kind);
    for (int64_t c = 0; c < pare_couple_class_count(couple); c++) {
        const pare_unit_class *u = pare_couple_class(couple, c);
        if (u->kind == o->kind && u->locked && (!o->chosen || o->chosen[c]) && !why)
            PARE_FAIL(PARE_ERR_UNSUPPORTED, "no %s of this model can be pruned away: %s: %s", what,
                      u->name, u->locked);
    }
    PARE_FAIL(PARE_ERR_UNSUPPORTED, "no %s of this model can be pruned away: %s", what,
              why ? why : "it has none");
}

pare_status pare_shrink_choose(const pare_couple *couple, const pare_shrink_options *o,
                               const double *score, uint8_t *keep)
{
    pare_status status = PARE_OK;
    candidate *list = NULL;
    int64_t units = pare_couple_unit_count(couple), stay = 0;
    bool any = false;
    PARE_REQUIRE(o->sparsity >= 0 && o->sparsity < 1 && o->multiple >= 0 && o->multiple <= 1 << 20,
                 PARE_ERR_ARGUMENT,
                 "a share of units lies in [0, 1), and what stays is a multiple of at most %d",
                 1 << 20);
    for (int64_t c = 0; c < pare_couple_class_count(couple); c++)
        any = any || takes_part(couple, o, c);
    if (!any)
        return refuse(couple, o);
    memset(keep, 1, (size_t)units);
    PARE_TRY(pare__calloc((size_t)units, sizeof *list, &list));
    if (o->kind == PARE_UNIT_LAYER)
        PARE_TRY_DONE(choose_layers(couple, o, score, list, keep));
    else
        PARE_TRY_DONE(choose_units(couple, o, score, list, keep));
    for (int64_t i = 0; i < units; i++)
        stay += keep[i];
    if (stay == units && o->sparsity > 0)
        PARE_TRY_DONE(pare__error(PARE_ERR_ARGUMENT, __func__,
                                  "a sparsity of %g takes no %s away: what stays must be a number "
                                  "that `multiple` and the model's config allow",
                                  o->sparsity, kind_name(o->kind)));
done:
    free(list);
    return status;
}

/* ---- cutting --------------------------------------------------------------------------------- */

static bool stays(const pare_couple *couple, int64_t param, int axis, int64_t place,
                  const uint8_t *keep)
{
    const int32_t *units = pare_couple_axis(couple, param, axis);
    return !units || units[place] < 0 || keep[units[place]];
}

/* Whether a column stays: its places along the axes behind the first all do. */
static bool col_stays(const pare_couple *couple, int64_t param, const walk *w, int64_t col,
                      const uint8_t *keep)
{
    for (int d = w->rank - 1; d >= 1; d--) {
        if (!stays(couple, param, d, col % w->shape[d], keep))
            return false;
        col /= w->shape[d];
    }
    return true;
}

pare_status pare_shrink_cut_create(const pare_couple *couple, int64_t param, const uint8_t *keep,
                                   pare_shrink_cut **cut)
{
    pare_status status = PARE_OK;
    pare_shrink_cut *c = NULL;
    walk w = {0};
    *cut = NULL;
    pare_couple_shape(couple, param, NULL, &w.rank, w.shape);
    PARE_TRY_DONE(pare__calloc(1, sizeof *c, &c));
    pare_shape_matrix(w.rank, w.shape, &c->rows, &c->cols);
    PARE_TRY_DONE(pare__calloc((size_t)c->rows, 1, &c->row));
    PARE_TRY_DONE(pare__calloc((size_t)c->cols, sizeof *c->col, &c->col));
    for (int64_t r = 0; r < c->rows; r++)
        c->kept_rows += c->row[r] = stays(couple, param, 0, r, keep);
    for (int64_t i = 0; i < c->cols; i++)
        if (col_stays(couple, param, &w, i, keep))
            c->col[c->kept_cols++] = i;
    *cut = c;
    c = NULL;
done:
    pare_shrink_cut_free(&c);
    return status;
}

void pare_shrink_cut_free(pare_shrink_cut **cut)
{
    if (!cut || !*cut)
        return;
    free((*cut)->row);
    free((*cut)->col);
    free(*cut);
    *cut = NULL;
}

void pare_shrink_cut_row(const pare_shrink_cut *cut, const void *row, size_t bytes, void *kept)
{
    const char *from = row;
    char *to = kept;
    for (int64_t i = 0, n; i < cut->kept_cols; i += n) { /* runs of neighbours */
        n = 1;
        while (i + n < cut->kept_cols && cut->col[i + n] == cut->col[i] + n)
            n++;
        memcpy(to + (size_t)i * bytes, from + (size_t)cut->col[i] * bytes, (size_t)n * bytes);
    }
}
