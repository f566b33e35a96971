/* cuda_kl.cu - divergences of a student's distribution from its teacher's by row, and their
 * gradients: Kullback-Leibler either way (Hinton 2015, Gu 2023), Jensen-Shannon.
 *
 *   p = softmax(teacher/temperature), q = softmax(x/temperature), m = (p + q)/2
 *   forward  Σ p·(log p − log q)                               dx ∝ q − p
 *   reverse  Σ q·(log q − log p)                               dx ∝ q·(log q − log p − kl)
 *   JS       Σ p·(log p − log m)/2 + q·(log q − log m)/2       dx ∝ q·(log(q/m) − Σ q·log(q/m))/2
 *
 * One reading of both rows finds their largest, Σ e^a and Σ e^b against the largest so far, and Σ
 * e^a·(a − b) against the class in which a is largest: where a is all but sure of it, the sum is
 * what little the others have. a is the teacher's row, b the student's for the forward divergence,
 * the other way round for the others. When a largest grows the sums so far are moved.
 * Jensen-Shannon wants both sums first, and adds up with a second reading, in terms of d = (p −
 * q)/(p + q), none of which is negative. A last reading writes dx, that of a class with more than
 * half of q as what the others leave; it finds the rows in the second-level cache. Sums are f32, a
 * row's own numbers f64. Bound by memory: an element of teacher and x read, and one of dx written,
 * 6 bytes of bf16 together; with four powers for each with a gradient, two without. Predicted, not
 * measured yet: 0.85 of the copy rate without a gradient, 0.7 with; Jensen-Shannon 0.5, by its
 * arithmetic.
 */
#include "cuda_loss.cuh"
#include "cuda_nn.cuh"

template <typename T, typename X> struct kl_rows {
    const T *teacher;
    const X *x;
    const int32_t *labels;
    float *kl;
    uint8_t *same;
    X *dx;
    int64_t R, V;
    float inverse; /* 1/temperature */
    float scale;
    bool wide;
};

/* ---- the first reading ----------------------------------------------------------------------- */

/* What a thread has read of both rows; e^ is of logits divided by the temperature. */
struct kl_reading {
    float a_top, b_top;   /* the largest, at least −FLT_MAX */
    float a, b;           /* Σ e^(a − a_top), Σ e^(b − b_top) */
    float b_there;        /* b of the class in which a is largest */
    float cross;          /* Σ e^(a − a_top)·(a − a_top − b + b_there) */
    float a_best, b_best; /* the largest itself, and its first place */
    int64_t a_place, b_place;
};

static __device__ __forceinline__ bool finite(float x)
{
    return fabsf(x) <= FLT_MAX;
}

/* What others are taken against; where b is no number there, the divergence is infinite or NaN
 * whatever stands for it. */
static __device__ __forceinline__ float against(float b_there)
{
    return finite(b_there) ? b_there : 0.0f;
}

/* Takes larger tops: the sums shrink; cross is 0 where nothing is left of them, for 0·Inf is NaN.
 */
static __device__ __forceinline__ void move_tops(kl_reading *r, float a_top, float b_top,
                                                 float b_there, float c)
{
    float f = exp2_fast((r->a_top - a_top) * c);
    float moved = (against(b_there) - against(r->b_there)) - (a_top - r->a_top);
    r->cross = f > 0.0f && r->a != 0.0f ? f * (r->cross + r->a * moved) : 0.0f;
    r->a *= f;
    r->b *= exp2_fast((r->b_top - b_top) * c);
    r->a_top = a_top;
    r->b_top = b_top;
    r->b_there = b_there;
}

template <int N>
static __device__ __forceinline__ void find_best(float *best, int64_t *place, const float (&x)[N],
                                                 float top, int64_t v)
{
    if (!(top > *best))
        return;
    *best = top;
#pragma unroll
    for (int e = N - 1; e >= 0; e--)
        if (x[e] == top)
            *place = v + e;
}

template <int N>
static __device__ __forceinline__ void
read_pairs(kl_reading *r, const float (&a)[N], const float (&b)[N], int64_t v, float c, bool places)
{
    float a_top = loss_top(a), b_top = loss_top(b);
    if (places) {
        find_best(&r->a_best, &r->a_place, a, a_top, v);
        find_best(&r->b_best, &r->b_place, b, b_top, v);
    }
    if (a_top > r->a_top || b_top > r->b_top) {
        float b_there = r->b_there;
#pragma unroll
        for (int e = N - 1; e >= 0; e--)
            if (a_top > r->a_top && a[e] == a_top)
                b_there = b[e];
        move_tops(r, fmaxf(a_top, r->a_top), fmaxf(b_top, r->b_top), b_there, c);
    }
    const float b_there = against(r->b_there);
#pragma unroll
    for (int e = 0; e < N; e++) {
        float below_a = a[e] - r->a_top, power = exp2_fast(below_a * c);
        r->a += power;
        r->b += exp2_fast((b[e] - r->b_top) * c);
        if (power != 0.0f) /* else p·log p is 0 */
            r->cross += power * (below_a - (b[e] - b_there));
    }
}

/* The least of the group's numbers; room for 32. */
template <int GROUP> static __device__ __forceinline__ int64_t least(int64_t x, int64_t *room)
{
    for (int step = 16; step > 0; step /= 2) {
        int64_t other = __shfl_xor_sync(PARE_ALL_LANES, x, step);
        x = other < x ? other : x;
    }
    if (GROUP == PARE_WARP)
        return x;
    __syncthreads();
    if (threadIdx.x % PARE_WARP == 0)
        room[threadIdx.x / PARE_WARP] = x;
    __syncthreads();
    for (int w = 0; w < GROUP / PARE_WARP; w++)
        x = room[w] < x ? room[w] : x;
    return x;
}

/* The first place of the row's largest logit; 0 if all are −Inf or NaN. */
template <int GROUP>
static __device__ __forceinline__ int64_t best_place(float best, int64_t place, float *room,
                                                     int64_t *places)
{
    float top = loss_max<GROUP>(best, room);
    int64_t first = least<GROUP>(best == top && top > -INFINITY ? place : INT64_MAX, places);
    return first == INT64_MAX ? 0 : first;
}

/* Brings the threads' readings together; Jensen-Shannon has no use for cross. */
template <pare_divergence KIND, int GROUP>
static __device__ __forceinline__ void join(kl_reading *r, float c, float *room)
{
    float a_top = loss_max<GROUP>(r->a_top, room), b_top = loss_max<GROUP>(r->b_top, room);
    /* of equals, any that is the same for all */
    float b_there = loss_max<GROUP>(r->a_top == a_top ? r->b_there : -INFINITY, room);
    move_tops(r, a_top, b_top, b_there, c);
    if (KIND != PARE_DIVERGENCE_JS)
        r->cross = loss_sum<GROUP>(r->cross, room);
    r->a = loss_sum<GROUP>(r->a, room);
    r->b = loss_sum<GROUP>(r->b, room);
}

template <pare_divergence KIND, typename T, typename X, int N, int GROUP>
static __device__ __forceinline__ kl_reading read_rows(const kl_rows<T, X> &a, int64_t i, float c,
                                                       float *room)
{
    kl_reading r = {-FLT_MAX, -FLT_MAX, 0.0f, 0.0f, 0.0f, 0.0f, -INFINITY, -INFINITY, 0, 0};
    for (int64_t v = (int64_t)(threadIdx.x % GROUP) * N; v < a.V; v += 2 * GROUP * N) {
        float t[2][N], x[2][N];
#pragma unroll
        for (int turn = 0; turn < 2; turn++) {
            loss_load(t[turn], a.teacher + i * a.V, v + turn * GROUP * N, a.V, a.wide);
            loss_load(x[turn], a.x + i * a.V, v + turn * GROUP * N, a.V, a.wide);
        }
#pragma unroll
        for (int turn = 0; turn < 2; turn++)
            if (KIND != PARE_DIVERGENCE_FORWARD)
                read_pairs(&r, x[turn], t[turn], v + turn * GROUP * N, c, a.same != NULL);
            else
                read_pairs(&r, t[turn], x[turn], v + turn * GROUP * N, c, a.same != NULL);
    }
    join<KIND, GROUP>(&r, c, room);
    return r;
}

/* ---- probabilities --------------------------------------------------------------------------- */

/* p = of_p·e^((t − t_top)·inverse), q likewise of x; log p − log q = ((t − t_top) − (x −
 * x_top))·inverse − rest. there: log(q/2m) of the class in which q is largest. */
struct kl_shares {
    float t_top, x_top, of_p, of_q, c, inverse, rest, there;
};

static __device__ __forceinline__ float share_p(const kl_shares &k, float t)
{
    return exp2_fast((t - k.t_top) * k.c) * k.of_p;
}
static __device__ __forceinline__ float share_q(const kl_shares &k, float x)
{
    return exp2_fast((x - k.x_top) * k.c) * k.of_q;
}
static __device__ __forceinline__ float log_ratio(const kl_shares &k, float t, float x)
{
    return ((t - k.t_top) - (x - k.x_top)) * k.inverse - k.rest;
}

/* log(1 + x) of 0 ≤ x ≤ 1, to 2 ulp. */
static __device__ __forceinline__ float log1p_unit(float x)
{
    float p = x * -0.00324401772f + 0.0198514294f;
    p = p * x - 0.0569594726f;
    p = p * x + 0.106036484f;
    p = p * x - 0.153055891f;
    p = p * x + 0.196759373f;
    p = p * x - 0.249541327f;
    p = p * x + 0.333299637f;
    p = p * x - 0.499999017f;
    return p * x * x + x;
}

/* log(q/2m) = −log(1 + p/q): next to nothing where p is, with all its digits. more = log p − log q;
 * ratio is that of the smaller to the larger of p and q. */
static __device__ __forceinline__ float log_share(float more, float ratio)
{
    const float f = -log1p_unit(ratio);
    return more > 0.0f ? f - more : f;
}
static __device__ __forceinline__ float log_share(float more)
{
    return log_share(more, exp2_fast(fabsf(more) * -LOSS_LOG2E));
}

/* ---- Jensen-Shannon -------------------------------------------------------------------------- */

struct js_sums {
    float js; /* Σ (p + q)·((1 + d)·log(1 + d) + (1 − d)·log(1 − d)) */
    float f;  /* Σ q·(log(q/2m) − there) */
};

static __device__ __forceinline__ void add_js(js_sums *sum, const kl_shares &k, float t, float x)
{
    const float p = share_p(k, t), q = share_q(k, x), s = p + q;
    if (s < FLT_MIN) /* next to nothing, and the ratio may be NaN */
        return;
    float more = log_ratio(k, t, x);
    more = fabsf(more) > FLT_MAX ? copysignf(FLT_MAX, more) : more;
    const float less = fabsf(more);
    const float ratio = exp2_fast(less * -LOSS_LOG2E), d = (1.0f - ratio) / (1.0f + ratio);
    const float d2 = d * d, larger = 0.693147181f - log1p_unit(ratio); /* log(1 + d) */
    float g = larger * 2.0f - (1.0f - d) * less; /* log(1 − d) is less than that by |more| */
    if (d2 < 0.14f) { /* the same even function of d as its series, whose terms do not cancel */
        g = d2 * (1.0f / 120) + 1.0f / 91;
        g = g * d2 + 1.0f / 66;
        g = g * d2 + 1.0f / 45;
        g = g * d2 + 1.0f / 28;
        g = g * d2 + 1.0f / 15;
        g = g * d2 + 1.0f / 6;
        g = (g * d2 + 1.0f) * d2;
    }
    sum->js += s * g;
    sum->f += q * (log_share(more, ratio) - k.there);
}

template <typename T, typename X, int N, int GROUP>
static __device__ __forceinline__ js_sums read_js(const kl_rows<T, X> &a, int64_t i,
                                                  const kl_shares &k, float *room)
{
    js_sums sum = {0.0f, 0.0f};
    for (int64_t v = (int64_t)(threadIdx.x % GROUP) * N; v < a.V; v += GROUP * N) {
        float t[N], x[N];
        loss_load(t, a.teacher + i * a.V, v, a.V, a.wide);
        loss_load(x, a.x + i * a.V, v, a.V, a.wide);
#pragma unroll
        for (int e = 0; e < N; e++)
            add_js(&sum, k, t[e], x[e]);
    }
    return {loss_sum<GROUP>(sum.js, room), loss_sum<GROUP>(sum.f, room)};
}

/* ---- gradient -------------------------------------------------------------------------------- */

/* q − p for the first kind, whose shares have the scale in them, else scale·q·(f − mean) with f =
 * log q − log p, or log(q/2m) with half the scale. f and mean of these are over f of the class in
 * which q is largest: nothing is left of the many digits that they have in common. */
template <pare_divergence KIND>
static __device__ __forceinline__ float slope(const kl_shares &k, float scale, float mean, float t,
                                              float x)
{
    const float q = share_q(k, x);
    if (KIND == PARE_DIVERGENCE_FORWARD)
        return q - share_p(k, t);
    const float more = log_ratio(k, t, x);
    float f = -more;
    if (KIND == PARE_DIVERGENCE_JS)
        f = log_share(more) - k.there;
    return q == 0.0f ? q : q * (f - mean) * scale; /* there q·log q is 0 */
}

/* The slopes of a row come to 0 together. That of a class with more than half of q is a difference
 * of larger numbers, those of the others are small by themselves: it is what they leave. */
template <pare_divergence KIND, typename T, typename X, int N, int GROUP>
static __device__ __forceinline__ void write_gradient(const kl_rows<T, X> &a, int64_t i,
                                                      kl_shares k, float mean, float *room)
{
    const bool sure = k.of_q > 0.5f && finite(k.of_q);
    float rest = 0.0f; /* the others' */
    int64_t place = -1;
    const double scale = (double)a.scale * (double)a.inverse;
    const float times = (float)(KIND == PARE_DIVERGENCE_JS ? scale / 2 : scale);
    if (KIND == PARE_DIVERGENCE_FORWARD) {
        k.of_p *= times;
        k.of_q *= times;
    }
    for (int64_t v = (int64_t)(threadIdx.x % GROUP) * N; v < a.V; v += GROUP * N) {
        float t[N], x[N];
        loss_load(t, a.teacher + i * a.V, v, a.V, a.wide);
        loss_load(x, a.x + i * a.V, v, a.V, a.wide);
#pragma unroll
        for (int e = 0; e < N; e++) {
            const bool top = x[e] == k.x_top;
            x[e] = slope<KIND>(k, times, mean, t[e], x[e]);
            rest += top ? 0.0f : x[e];
            place = top ? v + e : place;
        }
        loss_store(a.dx + i * a.V, x, v, a.V, a.wide);
    }
    if (!sure) /* the whole group */
        return;
    rest = loss_sum<GROUP>(rest, room);
    if (place >= 0 && finite(rest) && finite(to_f32(a.dx[i * a.V + place])))
        a.dx[i * a.V + place] = from_f32<X>(-rest);
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* The group's first thread's x. */
template <int GROUP> static __device__ __forceinline__ float from_first(float x, float *room)
{
    if (GROUP == PARE_WARP)
        return __shfl_sync(PARE_ALL_LANES, x, 0);
    __syncthreads();
    if (threadIdx.x == 0)
        room[0] = x;
    __syncthreads();
    return room[0];
}

/* A row that counts. */
template <pare_divergence KIND, typename T, typename X, int N, int GROUP>
static __device__ __forceinline__ void kl_row(const kl_rows<T, X> &a, int64_t i, float *room,
                                              int64_t *places)
{
    const float c = a.inverse * LOSS_LOG2E; /* e^(t/temperature) is 2^(c·t) */
    const bool first = threadIdx.x % GROUP == 0;
    const kl_reading r = read_rows<KIND, T, X, N, GROUP>(a, i, c, room);
    if (a.same) {
        bool same = best_place<GROUP>(r.a_best, r.a_place, room, places) ==
                    best_place<GROUP>(r.b_best, r.b_place, room, places);
        if (first)
            a.same[i] = same;
    }
    float kl = 0.0f, mean = 0.0f, rest = 0.0f;
    if (first) {
        const double inverse = (double)a.inverse, less = log((double)r.a) - log((double)r.b);
        const double over = inverse * (double)r.cross / (double)r.a;
        kl = (float)(over + ((double)r.b_top - (double)against(r.b_there)) * inverse - less);
        mean = isnan(kl) ? kl : (float)over;
        rest = (float)-less;
    }
    kl_shares k = {r.b_top, r.a_top, 1.0f / r.b, 1.0f / r.a, c, a.inverse, 0.0f, 0.0f};
    if (KIND == PARE_DIVERGENCE_FORWARD)
        k = {r.a_top, r.b_top, 1.0f / r.a, 1.0f / r.b, c, a.inverse, 0.0f, 0.0f};
    if (KIND == PARE_DIVERGENCE_REVERSE) {
        k.t_top = against(r.b_there);
        mean = from_first<GROUP>(mean, room);
    }
    if (KIND == PARE_DIVERGENCE_JS) {
        k.rest = from_first<GROUP>(rest, room);
        k.there = log_share(log_ratio(k, r.b_there, r.a_top));
        k.there = finite(k.there) ? k.there : 0.0f;
        js_sums sum = read_js<T, X, N, GROUP>(a, i, k, room);
        kl = sum.js / 4;
        mean = sum.f;
    }
    if (first)
        a.kl[i] = a.V == 0 || kl < 0.0f ? 0.0f : kl; /* below 0 by rounding only */
    if (a.dx) /* in place: each thread reads what it then writes */
        write_gradient<KIND, T, X, N, GROUP>(a, i, k, mean, room);
}

template <pare_divergence KIND, typename T, typename X, int GROUP>
__global__ void __launch_bounds__(loss_threads(GROUP)) k_kl(const __grid_constant__ kl_rows<T, X> a)
{
    constexpr int N = 16 / (sizeof(X) > sizeof(T) ? sizeof(X) : sizeof(T));
    PARE_SHARED_ARRAY(float, room, 32);
    PARE_SHARED_ARRAY(int64_t, places, 32);
    const int64_t i = loss_row<GROUP>();
    if (i >= a.R) /* a whole warp; blocks of one row have one */
        return;
    if (!a.labels || a.labels[i] != -1) {
        kl_row<KIND, T, X, N, GROUP>(a, i, room, places);
        return;
    }
    if (threadIdx.x % GROUP == 0) {
        a.kl[i] = 0.0f;
        if (a.same)
            a.same[i] = 0;
    }
    if (a.dx)
        loss_no_gradient<GROUP, N>(a.dx, i, a.V, a.wide);
}

template <pare_divergence KIND, typename T, typename X>
static pare_status launch(pare_backend *be, const kl_rows<T, X> &a)
{
    LOSS_GROUP(a.V, GROUP, {
        PARE_LAUNCH(be, (k_kl<KIND, T, X, GROUP>), pare__blocks(a.R, loss_threads(GROUP) / GROUP),
                    loss_threads(GROUP), 0, a);
    });
    return PARE_OK;
}

template <typename T, typename X>
static pare_status divergences(pare_backend *be, const pare_kl_args *args)
{
    constexpr int N = 16 / (sizeof(X) > sizeof(T) ? sizeof(X) : sizeof(T));
    kl_rows<T, X> a = {(const T *)args->teacher.data,
                       (const X *)args->x.data,
                       (const int32_t *)args->labels.data,
                       (float *)args->kl.data,
                       (uint8_t *)args->same.data,
                       (X *)args->dx.data,
                       args->x.shape[0],
                       args->x.shape[1],
                       loss_inverse(args->temperature),
                       args->grad_scale,
                       false};
    a.wide = loss_wide(a.teacher, a.V, N, sizeof(T)) && loss_wide(a.x, a.V, N, sizeof(X)) &&
             loss_wide(a.dx, a.V, N, sizeof(X));
    if (args->divergence == PARE_DIVERGENCE_FORWARD)
        return launch<PARE_DIVERGENCE_FORWARD>(be, a);
    if (args->divergence == PARE_DIVERGENCE_REVERSE)
        return launch<PARE_DIVERGENCE_REVERSE>(be, a);
    return launch<PARE_DIVERGENCE_JS>(be, a);
}

extern "C" pare_status pare_cuda_kl(pare_backend *be, const pare_kl_args *args)
{
    PARE_ACT_TYPE(args->teacher.dtype, T, {
        PARE_ACT_TYPE(args->x.dtype, X, { PARE_TRY((divergences<T, X>(be, args))); });
    });
    return PARE_OK;
}
