/* couple_config.c - what is left when units go: shapes, and the config that names the new sizes.
 *
 * An architecture's keys (arch.h, pare__size_key) are written into config.json, or into the text of
 * --arch that a native checkpoint keeps; all else of the config stays as it is.
 */
#include "couple.h"

#include <math.h>
#include <string.h>

int64_t pare__couple_kept(const pare_unit_class *u, const uint8_t *keep)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < u->count; i++)
        kept += keep[u->first + i] != 0;
    return kept;
}

/* ---- limits ---------------------------------------------------------------------------------- */

static const pare__node *first_attention(const pare_model *m)
{
    for (size_t i = 0; i < m->node_count; i++)
        if (m->nodes[i].kind == &pare__node_attention)
            return &m->nodes[i];
    return NULL;
}

static int64_t features(const pare_unit_class *u)
{
    return u->count * u->size;
}

/* The width of the hidden state if its class can be cut, else 0. */
static int64_t width_of(const pare_couple *c)
{
    for (size_t i = 0; i < c->class_count; i++)
        if (c->classes[i].kind == PARE_UNIT_WIDTH && c->classes[i].count)
            return features(&c->classes[i]);
    return 0;
}

/* Whether the model's own config insists that the number of heads divides the width. */
static pare_status insists(const pare_model *m, bool *yes)
{
    pare__json *root = NULL;
    const char *type = m->shrink ? m->shrink->heads_divide_width : NULL;
    *yes = false;
    if (!type || !m->config || m->arch)
        return PARE_OK;
    PARE_TRY(pare__json_parse(m->config, strlen(m->config), "config.json", &root));
    const char *own = pare__json_string(pare__json_get(root, "model_type"));
    *yes = own && strcmp(own, type) == 0;
    pare__json_free(&root);
    return PARE_OK;
}

pare_status pare__couple_limits(const pare_model *m, pare_couple *c)
{
    const pare__node *attention = first_attention(m);
    int64_t width = width_of(c), group = 1;
    bool divide;
    PARE_TRY(insists(m, &divide));
    for (size_t i = 0; i < c->class_count; i++) {
        c->classes[i].multiple = 1;
        if (c->classes[i].kind == PARE_UNIT_WIDTH && c->classes[i].count)
            group = pare__lcm(group, c->classes[i].size);
    }
    for (size_t i = 0; i < c->class_count; i++) {
        pare_unit_class *u = &c->classes[i];
        if (u->kind == PARE_UNIT_WIDTH) {
            int64_t heads = divide && attention ? attention->a.heads : 1;
            u->multiple = pare__lcm(group, heads) / u->size;
        } else if (u->kind == PARE_UNIT_HEAD && divide && attention) {
            u->divides = width / (attention->a.heads / attention->a.kv_heads);
        }
    }
    return PARE_OK;
}

/* ---- shapes ---------------------------------------------------------------------------------- */

void pare_couple_shape(const pare_couple *c, int64_t param, const uint8_t *keep, int *rank,
                       int64_t *shape)
{
    const pare__coupled_param *p = &c->params[param];
    *rank = p->rank;
    for (int d = 0; d < p->rank; d++) {
        const int32_t *units = pare_couple_axis(c, param, d);
        shape[d] = units ? 0 : p->shape[d];
        for (int64_t i = 0; units && i < p->shape[d]; i++)
            shape[d] += !keep || units[i] < 0 || keep[units[i]];
    }
}

/* D'/D of the features that a vector parameter lies over. */
static double share_left(const pare_couple *c, int64_t param, const uint8_t *keep)
{
    int64_t shape[PARE_MAX_RANK];
    int rank;
    pare_couple_shape(c, param, keep, &rank, shape);
    return (double)shape[0] / (double)c->params[param].shape[0];
}

double pare_couple_gain(const pare_couple *c, int64_t param, const uint8_t *keep)
{
    return c->params[param].rms ? sqrt(1 / share_left(c, param, keep)) : 1;
}

/* ---- sizes ----------------------------------------------------------------------------------- */

typedef struct shrunk {
    const pare_couple *c;
    const pare_model *m;
    const uint8_t *keep;
    pare__json *root; /* of the new config */
    char *spec;       /* the text of --arch, or NULL */
} shrunk;

/* The features left in the classes of a kind: one number for all; −1: there are none. */
static pare_status size_of(const shrunk *s, pare_unit_kind kind, int64_t *size)
{
    *size = -1;
    for (size_t i = 0; i < s->c->class_count; i++) {
        const pare_unit_class *u = &s->c->classes[i];
        if (u->kind != kind || u->locked || u->count == 0)
            continue;
        int64_t left = pare__couple_kept(u, s->keep) * u->size;
        PARE_REQUIRE(*size < 0 || *size == left, PARE_ERR_UNSUPPORTED,
                     "%s would keep %lld where others keep %lld, but the model's config has one "
                     "number for all: prune them alike",
                     u->name, (long long)left, (long long)*size);
        *size = left;
    }
    return PARE_OK;
}

/* Key heads (and with grouped queries as many times query heads) that are left. */
static pare_status heads_of(const shrunk *s, bool queries, int64_t *size)
{
    int64_t left = -1;
    for (size_t i = 0; i < s->m->node_count; i++) {
        const pare__node *n = &s->m->nodes[i];
        if (n->kind != &pare__node_attention)
            continue;
        int own = s->c->value_class[n->output];
        const pare_unit_class *u = own < 0 ? NULL : &s->c->classes[own];
        int64_t heads = u && u->count ? pare__couple_kept(u, s->keep) : n->a.kv_heads;
        PARE_REQUIRE(left < 0 || left == heads, PARE_ERR_UNSUPPORTED,
                     "%s would keep %lld heads where others keep %lld, but the model's config has "
                     "one number for all: prune them alike",
                     n->name, (long long)heads, (long long)left);
        left = heads;
        *size = queries ? heads * (n->a.heads / n->a.kv_heads) : heads;
    }
    return PARE_OK;
}

/* Layers left of the first `below`. */
static int64_t layers_of(const shrunk *s, int64_t below)
{
    int64_t left = 0;
    for (size_t i = 0; i < s->c->class_count; i++) {
        const pare_unit_class *u = &s->c->classes[i];
        for (int64_t n = 0; u->kind == PARE_UNIT_LAYER && n < u->count && n < below; n++)
            left += s->keep[u->first + n] != 0;
    }
    return left;
}

/* ---- the text of --arch ---------------------------------------------------------------------- */

/* key=value in place of what the text has for the key, or behind all. */
static pare_status set_word(shrunk *s, const char *key, int64_t value)
{
    pare__text text = {0};
    char *old = s->spec, *at = strchr(old, ':');
    size_t name = at ? (size_t)(at - old) : strlen(old), length = strlen(key);
    bool done = false, begun = false;
    pare__text_bytes(&text, old, name);
    for (at = at ? at + 1 : old + name; *at;) {
        size_t part = strcspn(at, ",");
        pare__text_add(&text, "%c", begun ? ',' : ':');
        begun = true;
        if (part > length && strncmp(at, key, length) == 0 && at[length] == '=') {
            pare__text_add(&text, "%s=%lld", key, (long long)value);
            done = true;
        } else
            pare__text_bytes(&text, at, part);
        at += part + (at[part] == ',');
    }
    if (!done)
        pare__text_add(&text, "%c%s=%lld", begun ? ',' : ':', key, (long long)value);
    free(old);
    s->spec = NULL;
    PARE_TRY(pare__text_take(&text, &s->spec));
    return PARE_OK;
}

/* What a product gives out now. */
static int64_t outputs_of(const shrunk *s, const pare__node *n)
{
    int64_t shape[PARE_MAX_RANK];
    int rank;
    pare_couple_shape(s->c, n->param[0], s->keep, &rank, shape);
    return shape[0];
}

/* The numbers of the leading word, between '-': after the first `skip` each is what the next
 * product gives out. */
static pare_status set_numbers(shrunk *s, int skip)
{
    pare__text text = {0};
    size_t node = 0, count = s->m->node_count, colon = strcspn(s->spec, ":");
    const char *at = s->spec + colon + (s->spec[colon] == ':');
    pare__text_bytes(&text, s->spec, (size_t)(at - s->spec));
    while (*at && *at != ',') {
        size_t word = strcspn(at, "-,"), digits = strspn(at, "0123456789");
        if (digits < word || word == 0 || skip-- > 0) {
            pare__text_bytes(&text, at, word);
        } else {
            while (node < count && s->m->nodes[node].kind != &pare__node_linear &&
                   s->m->nodes[node].kind != &pare__node_conv)
                node++;
            if (node < count)
                pare__text_add(&text, "%lld", (long long)outputs_of(s, &s->m->nodes[node++]));
        }
        at += word;
        if (*at == '-')
            pare__text_bytes(&text, at++, 1);
    }
    pare__text_add(&text, "%s", at);
    free(s->spec);
    s->spec = NULL;
    PARE_TRY(pare__text_take(&text, &s->spec));
    return PARE_OK;
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* eps·D/D' of the norms over the hidden state. */
static double eps_of(const shrunk *s, const char *key)
{
    double eps = 0;
    for (size_t i = 0; i < s->m->node_count; i++) {
        const pare__node *n = &s->m->nodes[i];
        if (n->kind != &pare__node_rms_norm || n->a.head_dim > 0)
            continue;
        if (!pare__json_real(pare__json_get(s->root, key), &eps))
            eps = (double)n->a.eps;
        return eps / share_left(s->c, n->param[0], s->keep);
    }
    return eps;
}

/* A list with a word for each layer loses those of the layers that go. */
static void set_list(const shrunk *s, const char *key)
{
    const pare__json *list = pare__json_get(s->root, key);
    if (!pare__json_is_array(list))
        return;
    pare__json *left = pare__json_new_array();
    for (size_t i = 0; i < s->c->class_count; i++) {
        const pare_unit_class *u = &s->c->classes[i];
        for (int64_t n = 0; u->kind == PARE_UNIT_LAYER && n < u->count; n++)
            if (s->keep[u->first + n] && pare__json_at(list, (size_t)n))
                pare__json_set(left, NULL, pare__json_copy(pare__json_at(list, (size_t)n)));
    }
    pare__json_set(s->root, key, left);
}

static pare_status value_of(const shrunk *s, const pare__size_key *key, int64_t *value)
{
    const pare__node *attention = first_attention(s->m);
    int64_t below = 0;
    *value = -1;
    switch (key->size) {
    case PARE__SIZE_CHANNELS:
        return size_of(s, PARE_UNIT_CHANNEL, value);
    case PARE__SIZE_WIDTH:
        return size_of(s, PARE_UNIT_WIDTH, value);
    case PARE__SIZE_HEADS:
    case PARE__SIZE_KV_HEADS:
        return heads_of(s, key->size == PARE__SIZE_HEADS, value);
    case PARE__SIZE_HEAD_DIM:
        *value = attention ? attention->a.head_dim : -1;
        return PARE_OK;
    case PARE__SIZE_OUTPUT:
        *value = s->m->facts.output == PARE_OUTPUT_VECTOR ? s->m->facts.classes : -1;
        return PARE_OK;
    case PARE__SIZE_LAYERS:
        *value = layers_of(s, INT64_MAX);
        return PARE_OK;
    default:
        if (key->size == PARE__SIZE_LAYERS_BELOW &&
            pare__json_int(pare__json_get(s->root, key->key), &below))
            *value = layers_of(s, below);
        return PARE_OK;
    }
}

static pare_status set_key(shrunk *s, const pare__size_key *key)
{
    int64_t value;
    if (key->size == PARE__SIZE_WORDS || key->size == PARE__SIZE_WORDS_AFTER) {
        PARE_TRY(set_numbers(s, key->size == PARE__SIZE_WORDS_AFTER));
        return PARE_OK;
    }
    if (key->size == PARE__SIZE_RMS_EPS) {
        pare__json_set_real(s->root, key->key, eps_of(s, key->key));
        return PARE_OK;
    }
    if (key->size == PARE__SIZE_LAYER_LIST) {
        set_list(s, key->key);
        return PARE_OK;
    }
    PARE_TRY(value_of(s, key, &value));
    if (value < 0)
        return PARE_OK;
    if (s->spec)
        PARE_TRY(set_word(s, key->key, value));
    else
        pare__json_set_int(s->root, key->key, value);
    return PARE_OK;
}

/* The kinds of which a unit goes, as bits. */
static unsigned kinds_cut(const shrunk *s)
{
    unsigned kinds = 0;
    for (size_t i = 0; i < s->c->class_count; i++) {
        const pare_unit_class *u = &s->c->classes[i];
        if (pare__couple_kept(u, s->keep) < u->count)
            kinds |= 1u << u->kind;
    }
    return kinds;
}

static pare_status spell(shrunk *s)
{
    const char *spec = pare__json_string(pare__json_get(s->root, "pare_arch"));
    if (spec)
        PARE_TRY(pare__strdup(spec, &s->spec));
    unsigned kinds = kinds_cut(s);
    const pare__size_key *key = s->m->shrink ? s->m->shrink->sizes : NULL;
    for (; key && key->key; key++)
        if (key->kinds & kinds)
            PARE_TRY(set_key(s, key));
    if (s->spec)
        pare__json_set_string(s->root, "pare_arch", s->spec);
    return PARE_OK;
}

pare_status pare_couple_config(const pare_couple *couple, const pare_model *model,
                               const uint8_t *keep, char **config)
{
    pare_status status = PARE_OK;
    shrunk s = {.c = couple, .m = model, .keep = keep};
    const char *text = pare_model_config(model);
    *config = NULL;
    PARE_TRY_DONE(pare__json_parse(text, strlen(text), "config.json", &s.root));
    PARE_TRY_DONE(spell(&s));
    PARE_TRY_DONE(pare__json_dump(s.root, 2, false, config));
done:
    pare__json_free(&s.root);
    free(s.spec);
    return status;
}
