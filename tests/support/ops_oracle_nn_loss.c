/* Losses, optimisers and quant_rows in double precision. */
#include "oracle_nn.h"

/* ---- losses ---------------------------------------------------------------------------------- */

static double row_top(const pare_tensor *x, int64_t i)
{
    double top = -(double)INFINITY;
    for (int64_t v = 0; v < x->shape[1]; v++)
        top = fmax(top, oracle_get(x, i * x->shape[1] + v));
    return top;
}

/* log Σ e^(x − top) of a row. */
static double row_log_sum(const pare_tensor *x, int64_t i, double top)
{
    double sum = 0;
    for (int64_t v = 0; v < x->shape[1]; v++)
        sum += exp(oracle_get(x, i * x->shape[1] + v) - top);
    return log(sum);
}

static double target_of(const pare_cross_entropy_args *a, int64_t i, int64_t v)
{
    double s = (double)a->smoothing, all = s / (double)a->x.shape[1];
    double first = (((const int32_t *)a->labels.data)[i] == v ? 1 - s : 0) + all;
    const int32_t *labels2 = a->labels2.data;
    if (!labels2 || labels2[i] < 0)
        return first;
    double second = (labels2[i] == v ? 1 - s : 0) + all, mix = oracle_get(&a->mix, i);
    return mix * first + (1 - mix) * second;
}

static int32_t rank_of(const pare_cross_entropy_args *a, int64_t i, int64_t label)
{
    int64_t V = a->x.shape[1];
    int32_t rank = 0;
    double own = oracle_get(&a->x, i * V + label);
    for (int64_t v = 0; v < V; v++) {
        double x = oracle_get(&a->x, i * V + v);
        rank += x > own || (x == own && v < label);
    }
    return rank;
}

void oracle_cross_entropy(const pare_cross_entropy_args *a)
{
    int64_t V = a->x.shape[1];
    for (int64_t i = 0; i < a->x.shape[0]; i++) {
        int64_t label = ((const int32_t *)a->labels.data)[i];
        double top = row_top(&a->x, i), log_sum = row_log_sum(&a->x, i, top), loss = 0;
        for (int64_t v = 0; v < V; v++) {
            double log_p = oracle_get(&a->x, i * V + v) - top - log_sum;
            double target = label < 0 ? 0 : target_of(a, i, v);
            if (target != 0)
                loss -= target * log_p;
            if (a->dx.data)
                oracle_put(&a->dx, i * V + v,
                           label < 0 ? 0 : (double)a->grad_scale * (exp(log_p) - target));
        }
        oracle_put(&a->loss, i, loss);
        if (a->rank.data)
            ((int32_t *)a->rank.data)[i] = label < 0 ? (int32_t)V : rank_of(a, i, label);
    }
}

void oracle_mse(const pare_mse_args *a)
{
    int64_t N = a->x.shape[1];
    for (int64_t i = 0; i < a->x.shape[0]; i++) {
        double loss = 0, weight = a->weight.data ? oracle_get(&a->weight, i) : 1;
        for (int64_t j = 0; j < N; j++) {
            double d = oracle_get(&a->x, i * N + j) - oracle_get(&a->t, i * N + j);
            loss += d * d;
            if (a->dx.data)
                oracle_put(&a->dx, i * N + j,
                           weight == 0 ? 0 : (double)a->grad_scale * weight * 2 * d);
        }
        oracle_put(&a->loss, i, weight == 0 ? 0 : weight * loss);
    }
}

/* ---- optimisers ------------------------------------------------------------------------------ */

static int is_kept(const pare_tensor *mask, int64_t i)
{
    return !mask->data || ((const uint8_t *)mask->data)[i] != 0;
}

void oracle_sgd(const pare_sgd_args *a)
{
    double momentum = (double)a->momentum;
    for (int64_t i = 0; i < a->w.shape[0]; i++) {
        double w = oracle_get(&a->w, i), m = a->m.data ? oracle_get(&a->m, i) : 0;
        double g = (double)a->grad_scale * oracle_get(&a->g, i) + (double)a->decay * w;
        m = momentum * m + g;
        w -= (double)a->rate * (a->nesterov ? g + momentum * m : m);
        oracle_put(&a->w, i, is_kept(&a->mask, i) ? w : 0);
        if (a->m.data)
            oracle_put(&a->m, i, is_kept(&a->mask, i) ? m : 0);
    }
}

void oracle_adamw(const pare_adamw_args *a)
{
    double beta1 = (double)a->beta1, beta2 = (double)a->beta2, rate = (double)a->rate;
    for (int64_t i = 0; i < a->w.shape[0]; i++) {
        double g = (double)a->grad_scale * oracle_get(&a->g, i), w = oracle_get(&a->w, i);
        double m = beta1 * oracle_get(&a->m, i) + (1 - beta1) * g;
        double v = beta2 * oracle_get(&a->v, i) + (1 - beta2) * g * g;
        double first = m / (1 - pow(beta1, (double)a->step));
        double second = v / (1 - pow(beta2, (double)a->step));
        w -= rate * (double)a->decay * w + rate * first / (sqrt(second) + (double)a->eps);
        int kept = is_kept(&a->mask, i);
        oracle_put(&a->w, i, kept ? w : 0);
        oracle_put(&a->m, i, kept ? m : 0);
        oracle_put(&a->v, i, kept ? v : 0);
    }
}

void oracle_ema(const pare_ema_args *a)
{
    double decay = (double)a->decay;
    for (int64_t i = 0; i < a->e.shape[0]; i++)
        oracle_put(&a->e, i, decay * oracle_get(&a->e, i) + (1 - decay) * oracle_get(&a->w, i));
}

void oracle_sum_squares(const pare_sum_squares_args *a)
{
    long double sum = a->accumulate ? *(const double *)a->sum.data : 0;
    for (int64_t i = 0; i < a->x.shape[0]; i++)
        if (is_kept(&a->mask, i)) {
            double x = oracle_get(&a->x, i);
            sum += (long double)(x * x);
        }
    *(double *)a->sum.data = (double)sum;
}

/* ---- activations of quantised products ------------------------------------------------------- */

void oracle_quant_rows(const pare_quant_rows_args *a)
{
    int64_t N = a->x.shape[1];
    for (int64_t i = 0; i < a->x.shape[0]; i++) {
        double most = 0;
        for (int64_t j = 0; j < N; j++)
            most = fmax(most, fabs(oracle_get(&a->x, i * N + j)));
        double s = oracle_round_dtype(most / 127.5, PARE_F32); /* each step is one of f32 */
        for (int64_t j = 0; j < N; j++) {
            double x = oracle_get(&a->x, i * N + j), y = x;
            if (s != 0 && !isnan(x / s)) {
                double code = oracle_rint(oracle_round_dtype(x / s, PARE_F32)) + 0.0;
                y = oracle_round_dtype(fmax(-128, fmin(127, code)) * s, PARE_F32);
            } else if (s != 0) {
                y = (double)NAN;
            }
            oracle_put(&a->y, i * N + j, y);
        }
    }
}
