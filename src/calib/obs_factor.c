/* obs_factor.c - the inverse factor of a Gram matrix that a sweep works with.
 *
 * Wanted is U, upper triangular with UᵀU = A⁻¹, A = G + damping (in the order of the sweep). With J
 * the reversal of rows or columns (JᵀJ = 1) and the Cholesky factor L·Lᵀ = JAJ:
 *     A = (JLJ)(JLJ)ᵀ, JLJ is upper triangular, so U = (JLJ)⁻¹ = J·L⁻¹·J.
 * One factorisation and one triangular inverse, K³/3 + K³/3 operations, where the papers' code
 * takes a factor, the inverse by it, and the factor of that.
 */
#include "pare/calib.h"

#include "base/alloc.h"
#include "base/carve.h"
#include "base/check.h"

#include <math.h>

#define DAMPING 0.01

/* A factor with the one piece of the backend's memory that all its arrays lie in. */
typedef struct holder {
    pare_factor factor;
    void *memory;
    int64_t bytes;
} holder;

/* What it is made from; gone afterwards. */
typedef struct workshop {
    pare_tensor work;     /* [K, K]: JAJ, L, its inverse */
    pare_tensor diagonal; /* [K] F32 */
    pare_tensor turned;   /* [K] I32: the sweep's order backwards */
    pare_tensor backward; /* [K] I32: K − 1 … 0 */
    void *memory;
    int64_t bytes;
    float *seen;    /* [K] host: the diagonal of G, in the weight's order */
    float *damped;  /* [K] host: of JAJ */
    int32_t *index; /* [K] host */
    double mean;    /* of what is not dead */
} workshop;

static void lay_out(pare_factor *f, int64_t K, pare__carve *carve)
{
    f->u = pare_matrix(pare__carve_next(carve, K * K * 4), PARE_F32, K, K);
    f->order = pare_vector(pare__carve_next(carve, K * 4), PARE_I32, K);
    f->place = pare_vector(pare__carve_next(carve, K * 4), PARE_I32, K);
    f->live = pare_vector(pare__carve_next(carve, K * 4), PARE_F32, K);
}

static void lay_out_workshop(workshop *shop, int64_t K, pare__carve *carve)
{
    shop->work = pare_matrix(pare__carve_next(carve, K * K * 4), PARE_F32, K, K);
    shop->diagonal = pare_vector(pare__carve_next(carve, K * 4), PARE_F32, K);
    shop->turned = pare_vector(pare__carve_next(carve, K * 4), PARE_I32, K);
    shop->backward = pare_vector(pare__carve_next(carve, K * 4), PARE_I32, K);
}

int64_t pare_factor_bytes(int64_t cols)
{
    pare__carve carve = {0};
    pare_factor factor;
    workshop shop;
    lay_out(&factor, cols, &carve);
    lay_out_workshop(&shop, cols, &carve);
    return carve.size;
}

void pare_factor_free(pare_backend *be, pare_factor **factor)
{
    holder *h = factor ? (holder *)*factor : NULL;
    if (!h)
        return;
    *factor = NULL;
    pare_backend_release(be, h->memory, h->bytes);
    free(h->factor.columns);
    free(h);
}

static pare_status create_holder(pare_backend *be, int64_t K, pare_factor **factor)
{
    holder *h = NULL;
    PARE_TRY(pare__calloc(1, sizeof *h, &h));
    *factor = &h->factor;
    pare__carve carve = {0};
    lay_out(&h->factor, K, &carve);
    h->bytes = carve.size;
    PARE_TRY(pare_backend_alloc(be, h->bytes, &h->memory));
    carve = (pare__carve){.base = h->memory};
    lay_out(&h->factor, K, &carve);
    return PARE_OK;
}

static void close_workshop(pare_backend *be, workshop *shop)
{
    pare_backend_release(be, shop->memory, shop->bytes);
    free(shop->seen);
    free(shop->damped);
    free(shop->index);
}

static pare_status open_workshop(pare_backend *be, int64_t K, workshop *shop)
{
    pare__carve carve = {0};
    lay_out_workshop(shop, K, &carve);
    shop->bytes = carve.size;
    PARE_TRY(pare__calloc((size_t)K, sizeof(float), &shop->seen));
    PARE_TRY(pare__calloc((size_t)K, sizeof(float), &shop->damped));
    PARE_TRY(pare__calloc((size_t)K, sizeof(int32_t), &shop->index));
    PARE_TRY(pare_backend_alloc(be, shop->bytes, &shop->memory));
    carve = (pare__carve){.base = shop->memory};
    lay_out_workshop(shop, K, &carve);
    return PARE_OK;
}

/* ---- the order of columns -------------------------------------------------------------------- */

typedef struct ranked {
    float size;
    int32_t column;
} ranked;

static int by_size(const void *left, const void *right)
{
    const ranked *a = left, *b = right;
    if (a->size != b->size)
        return a->size < b->size ? 1 : -1;
    return a->column < b->column ? -1 : a->column > b->column;
}

static pare_status order_by_size(const float *seen, int64_t K, int32_t *columns)
{
    ranked *list = NULL;
    PARE_TRY(pare__calloc((size_t)K, sizeof *list, &list));
    for (int64_t c = 0; c < K; c++)
        list[c] = (ranked){seen[c], (int32_t)c};
    qsort(list, (size_t)K, sizeof *list, by_size);
    for (int64_t c = 0; c < K; c++)
        columns[c] = list[c].column;
    free(list);
    return PARE_OK;
}

/* seen: the diagonal, for act_order. */
static pare_status find_order(pare_backend *be, const pare_sweep_options *options,
                              const float *seen, pare_factor *f)
{
    int64_t K = f->u.shape[0], inner = options->inner;
    f->act_order = options->act_order && seen;
    f->inner = inner;
    if (!f->act_order && inner <= 1) {
        f->order.data = f->place.data = NULL;
        return PARE_OK;
    }
    PARE_REQUIRE(inner <= 1 || K % inner == 0, PARE_ERR_ARGUMENT,
                 "%lld columns of a convolution are not %lld for each channel", (long long)K,
                 (long long)inner);
    PARE_TRY(pare__calloc((size_t)K, 2 * sizeof *f->columns, &f->columns));
    if (f->act_order)
        PARE_TRY(order_by_size(seen, K, f->columns));
    else
        for (int64_t i = 0; i < K; i++)
            f->columns[i] = (int32_t)(i % (K / inner) * inner + i / (K / inner));
    int32_t *place = f->columns + K;
    for (int64_t i = 0; i < K; i++)
        place[f->columns[i]] = (int32_t)i;
    PARE_TRY(pare_backend_upload(be, f->order.data, f->columns, K * 4));
    return pare_backend_upload(be, f->place.data, place, K * 4);
}

/* ---- the diagonal ---------------------------------------------------------------------------- */

/* Reads it, counts dead inputs and finds the mean of the others. */
static pare_status look_at_diagonal(pare_backend *be, const pare_site_stats *stats, workshop *shop,
                                    pare_factor *f)
{
    int64_t K = stats->cols;
    PARE_TRY(pare_diagonal(be, &(pare_diagonal_args){.a = stats->gram, .d = shop->diagonal}));
    PARE_TRY(pare_backend_download(be, shop->seen, shop->diagonal.data, K * 4));
    double sum = 0;
    for (int64_t c = 0; c < K; c++) {
        PARE_REQUIRE(isfinite(shop->seen[c]), PARE_ERR_NUMERIC,
                     "the inputs hold NaN or Inf, or their squares do not fit f32 (input %lld)",
                     (long long)c);
        f->dead += shop->seen[c] <= 0;
        sum += fmax(shop->seen[c], 0);
    }
    PARE_REQUIRE(f->dead<K, PARE_ERR_NUMERIC, stats->rows> 0 ? "all inputs are zero"
                                                             : "there are no samples");
    shop->mean = sum / (double)(K - f->dead);
    return PARE_OK;
}

static pare_status mark_dead(pare_backend *be, workshop *shop, pare_factor *f)
{
    int64_t K = f->u.shape[0];
    if (f->dead == 0) {
        f->live.data = NULL;
        return PARE_OK;
    }
    for (int64_t c = 0; c < K; c++)
        shop->damped[c] = shop->seen[c] > 0;
    return pare_backend_upload(be, f->live.data, shop->damped, K * 4);
}

static pare_status upload_turns(pare_backend *be, workshop *shop, const pare_factor *f)
{
    int64_t K = f->u.shape[0];
    for (int64_t i = 0; i < K; i++)
        shop->index[i] = (int32_t)(K - 1 - i);
    PARE_TRY(pare_backend_upload(be, shop->backward.data, shop->index, K * 4));
    for (int64_t i = 0; f->columns && i < K; i++)
        shop->index[i] = f->columns[K - 1 - i];
    return pare_backend_upload(be, shop->turned.data, shop->index, K * 4);
}

/* ---- the factor ------------------------------------------------------------------------------ */

/* One rung of the ladder: u from G with that damping. */
static pare_status factorise(pare_backend *be, const pare_site_stats *stats, workshop *shop,
                             double damping, pare_factor *f)
{
    int64_t K = stats->cols;
    PARE_TRY(pare_permute(be, &(pare_permute_args){.x = stats->gram,
                                                   .y = shop->work,
                                                   .rows = shop->turned,
                                                   .cols = shop->turned,
                                                   .lower = true}));
    for (int64_t i = 0; i < K; i++) { /* index: turned, on the host */
        float seen = shop->seen[shop->index[i]];
        shop->damped[i] = (float)((seen > 0 ? seen : 1.0) + damping * shop->mean);
    }
    PARE_TRY(pare_backend_upload(be, shop->diagonal.data, shop->damped, K * 4));
    PARE_TRY(pare_diagonal(
        be, &(pare_diagonal_args){.a = shop->work, .d = shop->diagonal, .set = true}));
    PARE_TRY(pare_cholesky(be, &(pare_cholesky_args){.a = shop->work}));
    PARE_TRY(pare_tri_inverse(be, &(pare_tri_inverse_args){.l = shop->work}));
    PARE_TRY(pare_permute(
        be, &(pare_permute_args){
                .x = shop->work, .y = f->u, .rows = shop->backward, .cols = shop->backward}));
    pare_stats_result result;
    PARE_TRY(pare_stats(be, &(pare_stats_args){.x = f->u, .result = &result}));
    PARE_REQUIRE(result.first_bad < 0, PARE_ERR_NUMERIC, "the inverse factor holds NaN or Inf");
    return PARE_OK;
}

static pare_status climb(pare_backend *be, const pare_site_stats *stats, workshop *shop,
                         double damping, pare_factor *f)
{
    for (;;) {
        pare_status status = factorise(be, stats, shop, damping, f);
        f->damping = damping;
        if (status != PARE_ERR_NUMERIC) {
            PARE_TRY(status);
            return PARE_OK;
        }
        PARE_REQUIRE(damping < 1, PARE_ERR_NUMERIC,
                     "the Gram matrix has no Cholesky factor, even with damping %g", damping);
        damping = fmin(damping * 10, 1);
    }
}

static pare_status make(pare_backend *be, const pare_site_stats *stats,
                        const pare_sweep_options *options, workshop *shop, pare_factor **factor)
{
    PARE_TRY(open_workshop(be, stats->cols, shop));
    PARE_TRY(create_holder(be, stats->cols, factor));
    pare_factor *f = *factor;
    PARE_TRY(look_at_diagonal(be, stats, shop, f));
    PARE_TRY(mark_dead(be, shop, f));
    PARE_TRY(find_order(be, options, shop->seen, f));
    PARE_TRY(upload_turns(be, shop, f));
    return climb(be, stats, shop, options->damping > 0 ? options->damping : DAMPING, f);
}

pare_status pare_factor_create(pare_backend *be, const pare_site_stats *stats,
                               const pare_sweep_options *options, pare_factor **factor)
{
    PARE_REQUIRE(stats->finished && stats->kinds & PARE_STAT_GRAM, PARE_ERR_ARGUMENT,
                 "a factor is made from a finished Gram matrix");
    PARE_REQUIRE(!options->act_order || options->inner <= 1, PARE_ERR_ARGUMENT,
                 "act_order and n:m along the channels of a convolution are two orders");
    workshop shop = {0};
    *factor = NULL;
    pare_status status = make(be, stats, options, &shop, factor);
    close_workshop(be, &shop);
    if (status != PARE_OK)
        pare_factor_free(be, factor);
    PARE_TRY(status);
    return PARE_OK;
}

static pare_status make_plain(pare_backend *be, int64_t K, const pare_sweep_options *options,
                              float *ones, pare_factor *f)
{
    for (int64_t c = 0; c < K; c++)
        ones[c] = 1;
    PARE_TRY(pare_backend_clear(be, f->u.data, K * K * 4));
    PARE_TRY(pare_backend_upload(be, f->live.data, ones, K * 4));
    PARE_TRY(pare_diagonal(be, &(pare_diagonal_args){.a = f->u, .d = f->live, .set = true}));
    f->live.data = NULL;
    return find_order(be, options, NULL, f);
}

pare_status pare_factor_plain(pare_backend *be, int64_t cols, const pare_sweep_options *options,
                              pare_factor **factor)
{
    float *ones = NULL;
    *factor = NULL;
    PARE_TRY(pare__calloc((size_t)cols, sizeof *ones, &ones));
    pare_status status = create_holder(be, cols, factor);
    if (status == PARE_OK)
        status = make_plain(be, cols, options, ones, *factor);
    free(ones);
    if (status != PARE_OK)
        pare_factor_free(be, factor);
    PARE_TRY(status);
    return PARE_OK;
}
