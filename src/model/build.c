/* build.c - what an architecture's file asks before it adds nodes: names, the checkpoint's shapes,
 * the keys of config.json; and parameters. */
#include "build.h"

#include <stdarg.h>
#include <string.h>

#define TEXTS (sizeof((pare__build *)NULL)->text / sizeof *((pare__build *)NULL)->text)

const char *pare__name(pare__build *b, const char *fmt, ...)
{
    char *text = b->text[b->text_at++ % TEXTS];
    va_list list;
    va_start(list, fmt);
    int length = vsnprintf(text, sizeof b->text[0], fmt, list);
    va_end(list);
    if (length < 0 || (size_t)length >= sizeof b->text[0])
        pare__build_fail(b, PARE_ERR_DAMAGED, "a tensor's name is longer than %zu bytes: %s …",
                         sizeof b->text[0] - 1, text);
    return text;
}

int pare__build_fail(pare__build *b, pare_status status, const char *fmt, ...)
{
    if (b->status != PARE_OK)
        return -1;
    char text[512];
    va_list list;
    va_start(list, fmt);
    vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    b->status = pare__error(status, __func__, "%s", text);
    return -1;
}

/* ---- the checkpoint -------------------------------------------------------------------------- */

/* prefix and name together, checked for length; false after a failure. */
static bool whole_name(pare__build *b, const char *name, char *text, size_t size)
{
    int length = snprintf(text, size, "%s%s", b->prefix, name);
    if (length >= 0 && (size_t)length < size)
        return true;
    pare__build_fail(b, PARE_ERR_DAMAGED, "a tensor's name is longer than %zu bytes: %s …",
                     size - 1, text);
    return false;
}

static const pare_entry *stored(const pare__build *b, const char *name)
{
    char text[256];
    int length = snprintf(text, sizeof text, "%s%s", b->prefix, name);
    if (!b->store || length < 0 || (size_t)length >= sizeof text)
        return NULL;
    int64_t index = pare_store_find(b->store, text);
    return index >= 0 ? pare_store_entry(b->store, index) : NULL;
}

bool pare__has(const pare__build *b, const char *name, bool otherwise)
{
    return b->store ? stored(b, name) != NULL : otherwise;
}

int64_t pare__axis(const pare__build *b, const char *name, int axis, int64_t otherwise)
{
    const pare_entry *entry = stored(b, name);
    return entry && axis >= 0 && axis < entry->rank ? entry->shape[axis] : otherwise;
}

/* ---- config.json ----------------------------------------------------------------------------- */

int64_t pare__config_int(pare__build *b, const char *key, int64_t otherwise, int64_t least,
                         int64_t most)
{
    const pare__json *node = pare__json_get(b->config, key);
    int64_t value = otherwise;
    if (pare__json_is_null(node)) {
        if (otherwise != PARE__REQUIRED)
            return otherwise;
        pare__build_fail(b, PARE_ERR_DAMAGED, "config.json: \"%s\" is missing", key);
        return least;
    }
    if (!pare__json_int(node, &value) || value < least || value > most) {
        pare__build_fail(b, PARE_ERR_DAMAGED,
                         "config.json: \"%s\" must be a whole number from %lld to %lld", key,
                         (long long)least, (long long)most);
        return least;
    }
    return value;
}

double pare__config_real(pare__build *b, const char *key, double otherwise)
{
    const pare__json *node = pare__json_get(b->config, key);
    double value = otherwise;
    if (!pare__json_is_null(node) && !pare__json_real(node, &value))
        pare__build_fail(b, PARE_ERR_DAMAGED, "config.json: \"%s\" must be a number", key);
    return value;
}

bool pare__config_bool(pare__build *b, const char *key, bool otherwise)
{
    const pare__json *node = pare__json_get(b->config, key);
    bool value = otherwise;
    if (!pare__json_is_null(node) && !pare__json_bool(node, &value))
        pare__build_fail(b, PARE_ERR_DAMAGED, "config.json: \"%s\" must be true or false", key);
    return value;
}

const char *pare__config_word(pare__build *b, const char *key, const char *otherwise)
{
    const pare__json *node = pare__json_get(b->config, key);
    if (pare__json_is_null(node))
        return otherwise;
    const char *word = pare__json_string(node);
    if (!word)
        pare__build_fail(b, PARE_ERR_DAMAGED, "config.json: \"%s\" must be a string", key);
    return word ? word : otherwise;
}

/* The names that transformers gives them. */
static const struct {
    const char *name;
    pare_fn fn;
} functions[] = {
    {"relu", PARE_FN_RELU},
    {"gelu", PARE_FN_GELU},
    {"gelu_python", PARE_FN_GELU},
    {"gelu_new", PARE_FN_GELU_TANH},
    {"gelu_fast", PARE_FN_GELU_TANH},
    {"gelu_pytorch_tanh", PARE_FN_GELU_TANH},
    {"gelu_accurate", PARE_FN_GELU_TANH},
    {"quick_gelu", PARE_FN_GELU_QUICK},
    {"silu", PARE_FN_SILU},
    {"swish", PARE_FN_SILU},
    {"tanh", PARE_FN_TANH},
    {"sigmoid", PARE_FN_SIGMOID},
    {"linear", PARE_FN_IDENTITY},
};

pare_fn pare__config_fn(pare__build *b, const char *key, const char *otherwise)
{
    const char *word = pare__config_word(b, key, otherwise);
    for (size_t i = 0; word && i < sizeof functions / sizeof *functions; i++)
        if (strcmp(functions[i].name, word) == 0)
            return functions[i].fn;
    if (word)
        pare__build_fail(b, PARE_ERR_UNSUPPORTED,
                         "config.json: \"%s\" is \"%s\", an activation this version lacks; it has "
                         "relu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, silu, tanh, sigmoid",
                         key, word);
    else
        pare__build_fail(b, PARE_ERR_DAMAGED, "config.json: \"%s\" is missing", key);
    return PARE_FN_IDENTITY;
}

/* ---- parameters ------------------------------------------------------------------------------ */

/* A parameter that is there already is tied: it must have the same elements, in the same order. */
static int tie(pare__build *b, int index, const pare_param *want)
{
    const pare_param *there = &b->model->params[index];
    char a[192], c[192];
    if (pare_tensor_count(&there->value) != pare_tensor_count(&want->value) ||
        there->value.shape[there->value.rank - 1] != want->value.shape[want->value.rank - 1] ||
        there->transposed != want->transposed || there->buffer != want->buffer)
        return pare__build_fail(
            b, PARE_ERR_DAMAGED, "%s is used as %s and as %s; one tensor cannot be both",
            there->name, pare_shape_text(there->value.rank, there->value.shape, a, sizeof a),
            pare_shape_text(want->value.rank, want->value.shape, c, sizeof c));
    return index;
}

static pare_status add(pare__build *b, const char *name, const pare_param *want)
{
    pare_model *m = b->model;
    PARE_TRY(pare__grow(&m->params, &m->param_capacity, m->param_count + 1, sizeof *m->params));
    PARE_TRY(pare__grow(&m->extra, &m->extra_capacity, m->param_count + 1, sizeof *m->extra));
    char *copy;
    PARE_TRY(pare__strdup(name, &copy));
    pare_param *p = &m->params[m->param_count];
    pare__param_extra *e = &m->extra[m->param_count];
    *p = *want;
    p->name = copy;
    *e = (pare__param_extra){.rank = p->value.rank};
    memcpy(e->shape, p->value.shape, sizeof e->shape);
    if (p->transposed) {
        e->shape[0] = p->value.shape[1];
        e->shape[1] = p->value.shape[0];
    }
    m->param_count++;
    return PARE_OK;
}

int pare__param_make(pare__build *b, const char *name, const pare__param_options *options, int rank,
                     const int64_t *shape)
{
    char text[256];
    if (b->status != PARE_OK || !whole_name(b, name, text, sizeof text))
        return -1;
    pare_param want = {.role = options->role,
                       .transposed = options->transposed,
                       .buffer = options->buffer,
                       .value = {.dtype = PARE_F32, .rank = rank}};
    for (int i = 0; i < rank && i < PARE_MAX_RANK; i++)
        want.value.shape[i] = shape[i];
    char sizes[192];
    if (rank < 1 || pare_shape_size(PARE_F32, rank, shape, NULL, NULL) != PARE_OK)
        return pare__build_fail(b, PARE_ERR_DAMAGED, "%s would have the shape %s", text,
                                pare_shape_text(rank, shape, sizes, sizeof sizes));
    int index = pare__param_find(b->model, text);
    if (index >= 0)
        return tie(b, index, &want);
    const pare_entry *entry = stored(b, name);
    if (entry && entry->form == PARE_FORM_QUANT) {
        want.act = entry->scheme.activation;
        want.act_scale = entry->act_scale;
    }
    b->status = add(b, text, &want);
    return b->status == PARE_OK ? (int)b->model->param_count - 1 : -1;
}

int pare__param_add(pare__build *b, const char *name, pare_role role, int rank,
                    const int64_t *shape)
{
    return pare__param_make(b, name, &(pare__param_options){.role = role}, rank, shape);
}
