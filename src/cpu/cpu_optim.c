/* cpu_optim.c - steps of SGD and AdamW, moving averages: one pass over the parameters, bound by
 * memory. */
#include "cpu_nn.h"

#define GRAIN 16384 /* parameters */

/* ---- sgd ------------------------------------------------------------------------------------- */

/* m and mask may be NULL; each call has them as constants. */
CPU_INLINE void sgd_loop(const pare_sgd_args *a, int64_t n, float *restrict w,
                         const float *restrict g, float *restrict m, const uint8_t *restrict mask)
{
    float rate = a->rate, momentum = a->momentum, decay = a->decay, scale = a->grad_scale;
    float of_g = a->nesterov ? 1 : 0, of_m = a->nesterov ? momentum : 1;
    for (int64_t i = 0; i < n; i++) {
        float d = scale * g[i] + decay * w[i], moved = d;
        if (m) {
            moved = momentum * m[i] + d;
            m[i] = mask && !mask[i] ? 0 : moved;
            moved = of_g * d + of_m * moved;
        }
        float to = w[i] - rate * moved;
        w[i] = mask && !mask[i] ? 0 : to;
    }
}

static void sgd_part(const void *user, int64_t first, int64_t last)
{
    const pare_sgd_args *a = user;
    int64_t n = last - first;
    float *w = (float *)a->w.data + first;
    const float *g = (const float *)a->g.data + first;
    const uint8_t *mask = a->mask.data ? (const uint8_t *)a->mask.data + first : NULL;
    float *m = a->m.data ? (float *)a->m.data + first : NULL;
    if (m && mask)
        sgd_loop(a, n, w, g, m, mask);
    else if (m)
        sgd_loop(a, n, w, g, m, NULL);
    else if (mask)
        sgd_loop(a, n, w, g, NULL, mask);
    else
        sgd_loop(a, n, w, g, NULL, NULL);
}

pare_status PARE_CPU(pare_cpu_sgd)(pare_backend *be, const pare_sgd_args *args)
{
    cpu_split(be, args->w.shape[0], GRAIN, sgd_part, args);
    return PARE_OK;
}

/* ---- adamw ----------------------------------------------------------------------------------- */

typedef struct adamw_step {
    const pare_adamw_args *args;
    float keep;  /* 1 − rate·decay */
    float rate;  /* rate/(1 − β1^step) */
    float scale; /* 1/sqrt(1 − β2^step) */
} adamw_step;

CPU_INLINE void adamw_loop(const adamw_step *s, int64_t n, float *restrict w,
                           const float *restrict g, float *restrict m, float *restrict v,
                           const uint8_t *restrict mask)
{
    float beta1 = s->args->beta1, beta2 = s->args->beta2, rest1 = 1 - beta1, rest2 = 1 - beta2;
    float grad_scale = s->args->grad_scale, eps = s->args->eps;
    float keep = s->keep, rate = s->rate, scale = s->scale;
    for (int64_t i = 0; i < n; i++) {
        float d = grad_scale * g[i];
        float m1 = beta1 * m[i] + rest1 * d, v1 = beta2 * v[i] + rest2 * (d * d);
        float w1 = keep * w[i] - rate * m1 / (sqrtf(v1) * scale + eps);
        m[i] = mask && !mask[i] ? 0 : m1;
        v[i] = mask && !mask[i] ? 0 : v1;
        w[i] = mask && !mask[i] ? 0 : w1;
    }
}

static void adamw_part(const void *user, int64_t first, int64_t last)
{
    const adamw_step *s = user;
    const pare_adamw_args *a = s->args;
    int64_t n = last - first;
    float *w = (float *)a->w.data + first, *m = (float *)a->m.data + first;
    float *v = (float *)a->v.data + first;
    const float *g = (const float *)a->g.data + first;
    if (a->mask.data)
        adamw_loop(s, n, w, g, m, v, (const uint8_t *)a->mask.data + first);
    else
        adamw_loop(s, n, w, g, m, v, NULL);
}

pare_status PARE_CPU(pare_cpu_adamw)(pare_backend *be, const pare_adamw_args *args)
{
    double rate = (double)args->rate, step = (double)args->step;
    adamw_step s = {.args = args,
                    .keep = (float)(1 - rate * (double)args->decay),
                    .rate = (float)(rate / (1 - pow((double)args->beta1, step))),
                    .scale = (float)(1 / sqrt(1 - pow((double)args->beta2, step)))};
    cpu_split(be, args->w.shape[0], GRAIN, adamw_part, &s);
    return PARE_OK;
}

/* ---- moving average -------------------------------------------------------------------------- */

static void ema_part(const void *user, int64_t first, int64_t last)
{
    const pare_ema_args *a = user;
    float decay = a->decay, rest = 1 - a->decay;
    float *restrict e = a->e.data;
    const float *restrict w = a->w.data;
    for (int64_t i = first; i < last; i++)
        e[i] = decay * e[i] + rest * w[i];
}

pare_status PARE_CPU(pare_cpu_ema)(pare_backend *be, const pare_ema_args *args)
{
    cpu_split(be, args->e.shape[0], GRAIN, ema_part, args);
    return PARE_OK;
}
