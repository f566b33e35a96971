/* rotary_table.c - the frequencies of rotary position embeddings and their tables.
 *
 * Pair i of D' rotated elements turns by position · f(i), f(i) = theta^(−2i/D'); a scaling rule
 * changes f so that a model reads texts longer than it was trained on (L tokens):
 *
 *   linear    f/s                                    (Chen 2023, position interpolation)
 *   dynamic   theta · (s·T/L − (s − 1))^(D'/(D' − 2)) for T > L      (NTK-aware, T the row's
 * length) yarn      f/s where a pair turns less than β_slow times in L, f where more than β_fast
 * times, a ramp between (Peng 2023); cos and sin scaled by 0.1·ln s + 1 longrope  f/e(i), e given
 * in config.json for short and for long rows (Ding 2024); cos and sin scaled by sqrt(1 + ln s / ln
 * L) llama3    f/s for wavelengths over L/low, f below L/high, a ramp between (Dubey 2024)
 *
 * Defaults of absent keys are those of Hugging Face transformers. Everything is computed in double
 * and rounded once.
 */
#include "rotary.h"

#include "build.h"

#include <math.h>
#include <string.h>

enum rule { DEFAULT, LINEAR, DYNAMIC, YARN, LONGROPE, LLAMA3, RULES };

static const char *const rule_names[RULES + 1] = {"default",  "linear", "dynamic", "yarn",
                                                  "longrope", "llama3", NULL};

struct pare__rotary {
    enum rule rule;
    int64_t half;              /* D'/2 pairs */
    int64_t trained, original; /* max_position_embeddings, and that before stretching */
    double theta, factor;      /* factor: s */
    double scale;              /* of cos and sin */
    double first, last; /* yarn: the pairs where the ramp begins and ends; llama3: low, high */
    double *frequency, *short_factor, *long_factor; /* [half] each, one block */
    float *tables; /* cos, then sin: [rows, half] each, in the backend's memory */
    float *host;   /* where the host makes them: the same on the CPU */
    int64_t rows;
    int64_t filled; /* what `regime` gave when the tables were made; −1: they are not */
};

#define TAU 6.283185307179586476925286766559

/* ---- config.json ----------------------------------------------------------------------------- */

/* What is read from: config.json and its object of rotary parameters (NULL: none). */
typedef struct source {
    pare__build *b;
    const pare__json *object;
    const char *name; /* of the object, for sentences */
} source;

/* A number of the object, or of config.json beside it if `outer`; a failure names it. */
static double number(const source *s, const char *key, bool outer, double otherwise, double least)
{
    const pare__json *node = pare__json_get(s->object, key);
    if (pare__json_is_null(node) && outer)
        node = pare__json_get(s->b->config, key);
    if (pare__json_is_null(node)) {
        if (isnan(otherwise))
            pare__build_fail(s->b, PARE_ERR_DAMAGED, "config.json: %s.%s is missing", s->name, key);
        return otherwise;
    }
    double value = 0;
    if (!pare__json_real(node, &value) || !(value >= least) || !(value <= 1e18)) {
        pare__build_fail(s->b, PARE_ERR_DAMAGED, "config.json: %s.%s must be a number, at least %g",
                         s->name, key, least);
        return isnan(otherwise) ? least : otherwise;
    }
    return value;
}

/* The factors of longrope: as many numbers as there are pairs. */
static void factors(const source *s, const char *key, int64_t half, double *values)
{
    const pare__json *list = pare__json_get(s->object, key);
    if (!pare__json_is_array(list) || pare__json_size(list) != (size_t)half) {
        pare__build_fail(
            s->b, PARE_ERR_DAMAGED,
            "config.json: %s.%s must be a list of %lld numbers, one for each pair of a "
            "head",
            s->name, key, (long long)half);
        return;
    }
    for (int64_t i = 0; i < half; i++)
        if (!pare__json_real(pare__json_at(list, (size_t)i), &values[i]) ||
            !(values[i] > 0 && values[i] < 1e18)) {
            pare__build_fail(s->b, PARE_ERR_DAMAGED,
                             "config.json: %s.%s[%lld] must be a number above 0", s->name, key,
                             (long long)i);
            return;
        }
}

/* The rule's place in rule_names; a failure names what is known. */
static enum rule rule_of(const source *s)
{
    const pare__json *node = pare__json_get(s->object, "rope_type");
    if (pare__json_is_null(node))
        node = pare__json_get(s->object, "type");
    if (pare__json_is_null(node))
        return DEFAULT;
    const char *name = pare__json_string(node);
    for (int r = 0; name && r < RULES; r++)
        if (strcmp(name, rule_names[r]) == 0)
            return (enum rule)r;
    pare__build_fail(s->b, PARE_ERR_UNSUPPORTED,
                     "config.json: rotary embeddings of type \"%s\" are not known (known are "
                     "default, linear, dynamic, yarn, longrope and llama3)",
                     name ? name : "?");
    return DEFAULT;
}

/* How many cos and sin are stretched by with yarn (Peng 2023, equation 22). */
static double yarn_scale(double factor, double weight)
{
    return factor <= 1 ? 1 : 0.1 * weight * log(factor) + 1;
}

static void read_yarn(const source *s, struct pare__rotary *r)
{
    double weight = number(s, "mscale", false, 0, 0);
    double all = number(s, "mscale_all_dim", false, 0, 0);
    double natural = weight > 0 && all > 0
                         ? yarn_scale(r->factor, weight) / yarn_scale(r->factor, all)
                         : yarn_scale(r->factor, 1);
    r->scale = number(s, "attention_factor", false, natural, 0);
    double fast = number(s, "beta_fast", false, 32, 0), slow = number(s, "beta_slow", false, 1, 0);
    fast = fast > 0 ? fast : 32;
    slow = slow > 0 ? slow : 1;
    bool truncate = true;
    pare__json_bool(pare__json_get(s->object, "truncate"), &truncate);
    /* The pair that turns n times in L tokens: L·f(i) = n·2π. */
    double dim = 2 * (double)r->half, span = (double)r->original / TAU;
    double first = dim * log(span / fast) / (2 * log(r->theta));
    double last = dim * log(span / slow) / (2 * log(r->theta));
    r->first = fmax(truncate ? floor(first) : first, 0);
    r->last = fmin(truncate ? ceil(last) : last, dim - 1);
    if (r->first == r->last)
        r->last += 0.001; /* the ramp is a step */
}

static void read_longrope(const source *s, struct pare__rotary *r)
{
    factors(s, "short_factor", r->half, r->short_factor);
    factors(s, "long_factor", r->half, r->long_factor);
    double stretch = number(s, "factor", false, (double)r->trained / (double)r->original, 0);
    double natural = stretch <= 1 ? 1 : sqrt(1 + log(stretch) / log(fmax((double)r->original, 2)));
    r->scale = number(s, "attention_factor", false, natural, 0);
}

static void read_llama3(const source *s, struct pare__rotary *r)
{
    r->first = number(s, "low_freq_factor", false, NAN, 1e-9);
    r->last = number(s, "high_freq_factor", false, NAN, 1e-9);
    if (r->first == r->last)
        pare__build_fail(s->b, PARE_ERR_DAMAGED,
                         "config.json: %s.low_freq_factor and high_freq_factor must differ",
                         s->name);
}

static void read_rule(const source *s, struct pare__rotary *r)
{
    bool scaled = r->rule != DEFAULT && r->rule != LONGROPE;
    r->factor = scaled ? number(s, "factor", false, NAN, 1e-9) : 1;
    r->original = r->trained;
    if (r->rule == YARN || r->rule == LONGROPE || r->rule == LLAMA3) {
        /* Where config.json has the length outside the object, that one counts. */
        const char *key = "original_max_position_embeddings";
        source outside = {s->b, s->b->config, "the model"};
        double inside = number(s, key, false, (double)r->trained, 1);
        r->original = (int64_t)number(&outside, key, false, inside, 1);
    }
    if (r->rule == YARN)
        read_yarn(s, r);
    else if (r->rule == LONGROPE)
        read_longrope(s, r);
    else if (r->rule == LLAMA3)
        read_llama3(s, r);
    else if (r->rule == DYNAMIC && r->half < 2)
        pare__build_fail(s->b, PARE_ERR_DAMAGED,
                         "config.json: dynamic rotary embeddings need heads of more than 2 "
                         "elements");
}

/* The object that holds the parameters: rope_scaling was the older name. */
static source find_source(pare__build *b)
{
    source s = {b, pare__json_get(b->config, "rope_scaling"), "rope_scaling"};
    if (pare__json_is_null(s.object) ||
        (pare__json_is_object(s.object) && pare__json_size(s.object) == 0))
        s = (source){b, pare__json_get(b->config, "rope_parameters"), "rope_parameters"};
    if (pare__json_is_null(s.object)) {
        s.object = NULL;
        return s;
    }
    if (!pare__json_is_object(s.object))
        pare__build_fail(b, PARE_ERR_DAMAGED, "config.json: %s must be an object", s.name);
    else if (pare__json_get(s.object, "full_attention") ||
             pare__json_get(s.object, "sliding_attention"))
        pare__build_fail(b, PARE_ERR_UNSUPPORTED,
                         "config.json: %s by layer type is not supported in this version", s.name);
    return s;
}

void pare__rotary_config(pare__build *b, int64_t head_dim)
{
    if (b->status != PARE_OK)
        return;
    source s = find_source(b);
    double part = number(&s, "partial_rotary_factor", true, 1, 0);
    int64_t dim = part <= 1 ? (int64_t)((double)head_dim * part) : 0;
    if (dim < 2 || dim % 2 != 0)
        pare__build_fail(b, PARE_ERR_DAMAGED,
                         "config.json: rotary embeddings turn pairs, but %lld of the %lld elements "
                         "of a head would turn",
                         (long long)dim, (long long)head_dim);
    double theta = number(&s, "rope_theta", true, 10000, 1);
    if (!(theta > 1))
        pare__build_fail(b, PARE_ERR_DAMAGED, "config.json: rope_theta must be above 1");
    enum rule rule = rule_of(&s);
    int64_t trained = pare__config_int(b, "max_position_embeddings", 2048, 1, (int64_t)1 << 40);
    if (b->status != PARE_OK)
        return;
    struct pare__rotary *r;
    double *numbers;
    b->status = pare__calloc(1, sizeof *r, &r);
    if (b->status != PARE_OK)
        return;
    pare__rotary_free(&b->model->rotary, b->model->be);
    b->model->rotary = r;
    b->status = pare__calloc((size_t)dim / 2 * 3, sizeof(double), &numbers);
    if (b->status != PARE_OK)
        return;
    *r = (struct pare__rotary){.rule = rule,
                               .half = dim / 2,
                               .trained = trained,
                               .theta = theta,
                               .scale = 1,
                               .frequency = numbers,
                               .filled = -1};
    r->short_factor = numbers + r->half;
    r->long_factor = numbers + 2 * r->half;
    read_rule(&s, r);
}

/* ---- frequencies and tables ------------------------------------------------------------------ */

/* What the frequencies for rows of T tokens depend on. */
static int64_t regime(const struct pare__rotary *r, int64_t T)
{
    if (r->rule == DYNAMIC)
        return T > r->trained ? T : 0;
    return r->rule == LONGROPE && T > r->original;
}

static double clamp01(double x)
{
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

/* What pair i's frequency f becomes. */
static double scaled(const struct pare__rotary *r, int64_t i, double f, int64_t at)
{
    if (r->rule == LINEAR)
        return f / r->factor;
    if (r->rule == YARN) {
        double ramp = clamp01(((double)i - r->first) / (r->last - r->first));
        return f / r->factor * ramp + f * (1 - ramp);
    }
    if (r->rule == LONGROPE)
        return f / (at ? r->long_factor : r->short_factor)[i];
    if (r->rule == LLAMA3) {
        double turns = (double)r->original * f / TAU; /* in L tokens */
        if (turns > r->last)
            return f;
        if (turns < r->first)
            return f / r->factor;
        double ramp = (turns - r->first) / (r->last - r->first);
        return (1 - ramp) * f / r->factor + ramp * f;
    }
    return f;
}

static int64_t table_bytes(const struct pare__rotary *r)
{
    return 2 * r->rows * r->half * (int64_t)sizeof(float);
}

static pare_status fill(struct pare__rotary *r, pare_backend *be, int64_t at)
{
    float *cosines = r->host, *sines = r->host + r->rows * r->half;
    r->filled = -1;
    double dim = 2 * (double)r->half, theta = r->theta;
    if (r->rule == DYNAMIC && at > 0)
        theta *=
            pow(r->factor * (double)at / (double)r->trained - (r->factor - 1), dim / (dim - 2));
    for (int64_t i = 0; i < r->half; i++)
        r->frequency[i] = scaled(r, i, pow(theta, -2 * (double)i / dim), at);
    for (int64_t t = 0; t < r->rows; t++)
        for (int64_t i = 0; i < r->half; i++) {
            double angle = (double)t * r->frequency[i];
            cosines[t * r->half + i] = (float)(cos(angle) * r->scale);
            sines[t * r->half + i] = (float)(sin(angle) * r->scale);
        }
    PARE_TRY(pare_backend_upload(be, r->tables, r->host, table_bytes(r)));
    r->filled = at;
    return PARE_OK;
}

int64_t pare__rotary_bytes(const pare_model *model, int64_t length)
{
    int64_t bytes;
    if (!model->rotary)
        return 0;
    return pare__mul(length, 2 * model->rotary->half * (int64_t)sizeof(float), &bytes) ? bytes
                                                                                       : INT64_MAX;
}

static void free_tables(struct pare__rotary *r, pare_backend *be)
{
    if (r->host != r->tables)
        pare_backend_host_release(be, r->host, table_bytes(r));
    pare_backend_release(be, r->tables, table_bytes(r));
    r->tables = r->host = NULL;
    r->rows = 0;
    r->filled = -1;
}

static pare_status make_tables(struct pare__rotary *r, pare_backend *be, int64_t rows)
{
    pare_status status = PARE_OK;
    free_tables(r, be);
    r->rows = rows;
    PARE_TRY_DONE(pare_backend_alloc(be, table_bytes(r), &r->tables));
    if (pare_backend_is_host(be))
        r->host = r->tables;
    else
        PARE_TRY_DONE(pare_backend_host_alloc(be, table_bytes(r), &r->host));
done:
    if (status != PARE_OK)
        free_tables(r, be);
    return status;
}

pare_status pare__rotary_prepare(pare_model *model, int64_t length)
{
    struct pare__rotary *r = model->rotary;
    if (!r || (r->rows >= length && r->filled == regime(r, length)))
        return PARE_OK;
    if (r->rows < length)
        PARE_TRY(make_tables(r, model->be, length));
    PARE_TRY(fill(r, model->be, regime(r, length)));
    return PARE_OK;
}

pare_status pare__rotary_tables(pare_model *model, int64_t T, pare_tensor *cosines,
                                pare_tensor *sines)
{
    struct pare__rotary *r = model->rotary;
    if (regime(r, T) != r->filled)
        PARE_TRY(fill(r, model->be, regime(r, T)));
    *cosines = pare_matrix(r->tables, PARE_F32, r->rows, r->half);
    *sines = pare_matrix(r->tables + r->rows * r->half, PARE_F32, r->rows, r->half);
    return PARE_OK;
}

int64_t pare__rotary_reach(const pare_model *model, int64_t longest)
{
    const struct pare__rotary *r = model->rotary;
    if (!r || r->factor <= 1)
        return longest;
    double reach = (double)r->original * r->factor;
    return reach > (double)longest && reach < 1e15 ? (int64_t)reach : longest;
}

pare_status pare__rotary_copy(const struct pare__rotary *rotary, struct pare__rotary **copy)
{
    double *numbers;
    struct pare__rotary *r;
    PARE_TRY(pare__calloc((size_t)rotary->half, 3 * sizeof *numbers, &numbers));
    pare_status status = pare__calloc(1, sizeof *r, &r);
    if (status != PARE_OK) {
        free(numbers);
        return status;
    }
    memcpy(numbers, rotary->frequency, (size_t)rotary->half * 3 * sizeof *numbers);
    *r = *rotary;
    r->frequency = numbers;
    r->short_factor = numbers + r->half;
    r->long_factor = numbers + 2 * r->half;
    r->tables = r->host = NULL;
    r->rows = 0;
    r->filled = -1;
    *copy = r;
    return PARE_OK;
}

void pare__rotary_free(struct pare__rotary **rotary, pare_backend *be)
{
    struct pare__rotary *r = *rotary;
    if (!r)
        return;
    free_tables(r, be);
    free(r->frequency);
    free(r);
    *rotary = NULL;
}
