/* Activations, sums and moves in double precision. */
#include "oracle_nn.h"

/* ---- activations ----------------------------------------------------------------------------- */

static double sigma(double x)
{
    return 1 / (1 + exp(-x));
}

/* The inner function of GELU's tanh form, and its slope. */
static double inner(double x)
{
    return 0.79788456080286535588 * (x + 0.044715 * x * x * x);
}

static double inner_slope(double x)
{
    return 0.79788456080286535588 * (1 + 3 * 0.044715 * x * x);
}

static double value(pare_fn fn, double x)
{
    switch (fn) {
    case PARE_FN_RELU:
        return x < 0 ? 0 : x;
    case PARE_FN_GELU:
        return x * 0.5 * erfc(-x * 0.70710678118654752440);
    case PARE_FN_GELU_TANH: /* 1 + tanh(u) without cancellation */
        return x * sigma(2 * inner(x));
    case PARE_FN_GELU_QUICK:
        return x * sigma(1.702 * x);
    case PARE_FN_SILU:
        return x * sigma(x);
    case PARE_FN_TANH:
        return tanh(x);
    case PARE_FN_SIGMOID:
        return sigma(x);
    default:
        return x;
    }
}

static double gated_slope(double x, double k)
{
    double s = sigma(k * x);
    return s + k * x * s * sigma(-k * x);
}

static double slope(pare_fn fn, double x)
{
    double s = sigma(2 * inner(x));
    switch (fn) {
    case PARE_FN_GELU:
        return 0.5 * erfc(-x * 0.70710678118654752440) +
               x * exp(-0.5 * x * x) * 0.39894228040143267794;
    case PARE_FN_GELU_TANH:
        return s + 2 * x * s * sigma(-2 * inner(x)) * inner_slope(x);
    case PARE_FN_GELU_QUICK:
        return gated_slope(x, 1.702);
    case PARE_FN_SILU:
        return gated_slope(x, 1);
    case PARE_FN_TANH:
        return 1 / (cosh(x) * cosh(x));
    case PARE_FN_SIGMOID:
        return sigma(x) * sigma(-x);
    default:
        return 1;
    }
}

/* dy·f'(x), 0 where a ReLU is flat whatever dy is. */
static double through(pare_fn fn, double dy, double x)
{
    if (fn == PARE_FN_RELU)
        return x > 0 ? dy : 0;
    return dy * slope(fn, x);
}

void oracle_act(const pare_act_args *a)
{
    for (int64_t i = 0; i < pare_tensor_count(&a->x); i++)
        oracle_put(&a->y, i, value(a->fn, oracle_get(&a->x, i)));
}

void oracle_act_grad(const pare_act_grad_args *a)
{
    for (int64_t i = 0; i < pare_tensor_count(&a->x); i++)
        oracle_put(&a->dx, i, through(a->fn, oracle_get(&a->dy, i), oracle_get(&a->x, i)));
}

void oracle_glu(const pare_glu_args *a)
{
    for (int64_t i = 0; i < pare_tensor_count(&a->a); i++)
        oracle_put(&a->y, i, value(a->fn, oracle_get(&a->a, i)) * oracle_get(&a->b, i));
}

void oracle_glu_grad(const pare_glu_grad_args *a)
{
    for (int64_t i = 0; i < pare_tensor_count(&a->a); i++) {
        double x = oracle_get(&a->a, i), b = oracle_get(&a->b, i), dy = oracle_get(&a->dy, i);
        oracle_put(&a->da, i, through(a->fn, dy * b, x));
        oracle_put(&a->db, i, dy * value(a->fn, x));
    }
}

/* ---- sums and moves -------------------------------------------------------------------------- */

void oracle_fill(const pare_fill_args *a)
{
    for (int64_t i = 0; i < pare_tensor_count(&a->y); i++)
        oracle_put(&a->y, i, (double)a->value);
}

void oracle_add(const pare_add_args *a)
{
    for (int64_t i = 0; i < pare_tensor_count(&a->y); i++) {
        double sum = oracle_get(&a->a, i) + oracle_get(&a->b, i);
        oracle_put(&a->y, i, a->relu && sum < 0 ? 0 : sum);
    }
}

void oracle_add_rows(const pare_add_rows_args *a)
{
    for (int64_t i = 0; i < pare_tensor_count(&a->x); i++)
        oracle_put(&a->y, i, oracle_get(&a->x, i) + oracle_get(&a->v, i % a->x.shape[1]));
}

void oracle_copy_cols(const pare_copy_cols_args *a)
{
    for (int64_t i = 0; i < a->y.shape[0]; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            int64_t row = a->x.shape[0] == 1 ? 0 : i;
            double x = oracle_get(&a->x, row * a->x.shape[1] + a->x_first + j);
            int64_t at = i * a->y.shape[1] + a->y_first + j;
            oracle_put(&a->y, at, a->accumulate ? x + oracle_get(&a->y, at) : x);
        }
}

void oracle_transpose(const pare_transpose_args *a)
{
    int64_t B = a->x.shape[0], M = a->x.shape[1], N = a->x.shape[2];
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = 0; i < M; i++)
            for (int64_t j = 0; j < N; j++) {
                double x = oracle_get(&a->x, (b * M + i) * N + j);
                int64_t at = (b * N + j) * M + i;
                oracle_put(&a->y, at, a->accumulate ? x + oracle_get(&a->y, at) : x);
            }
}

void oracle_dropout(const pare_dropout_args *a)
{
    uint64_t start = a->seed ^ a->stream * 0x9E3779B97F4A7C15u;
    uint64_t least = (uint64_t)oracle_rint((double)a->p * 16777216.0);
    for (int64_t i = 0; i < pare_tensor_count(&a->x); i++) {
        uint64_t z = start + ((uint64_t)i + 1) * 0xD1342543DE82EF95u;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        z ^= z >> 31;
        oracle_put(&a->y, i, z >> 40 < least ? 0 : oracle_get(&a->x, i) / (1 - (double)a->p));
    }
}
