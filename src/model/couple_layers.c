/* couple_layers.c - residual blocks that a model can do without: found by the numbers in their
 * names, proved by the graph.
 *
 * A block is the nodes whose names begin alike up to a number ("model.layers.3."), and those
 * without names of their own behind them, up to where one value alone is alive. It can be left out
 * if one value alone goes into it, of the same shape and the same class as what comes out: then a
 * sum in it carries its input on. */
#include "couple.h"

#include <string.h>

/* Where the first number between dots begins; 0 with *number and *end (behind it) if there is none.
 */
static bool stem_of(const char *name, size_t *stem, int64_t *number, size_t *end)
{
    char digits[16];
    for (size_t at = 0; name[at];) {
        size_t length = strcspn(name + at, ".");
        size_t span = strspn(name + at, "0123456789");
        if (span == length && length > 0 && length < sizeof digits && name[at + length] == '.') {
            memcpy(digits, name + at, length);
            digits[length] = '\0';
            *stem = at;
            *end = at + length;
            return pare__parse_int(digits, number);
        }
        at += length + (name[at + length] == '.');
    }
    return false;
}

static bool same_stem(const char *name, size_t stem, const char *text)
{
    return strlen(text) == stem && strncmp(name, text, stem) == 0;
}

/* The class of blocks whose stem a name has, −1. */
static int class_of(const pare_couple *c, const char *name, int64_t *number, size_t *end)
{
    size_t stem;
    if (!stem_of(name, &stem, number, end))
        return -1;
    for (size_t i = 0; i < c->class_count; i++)
        if (c->classes[i].kind == PARE_UNIT_LAYER && same_stem(name, stem, c->classes[i].name))
            return (int)i;
    return -1;
}

static const pare__unit_rule *rule_of(const pare_model *m, const char *stem)
{
    for (const pare__unit_rule *r = m->shrink ? m->shrink->units : NULL; r && r->nodes; r++)
        if (r->kind == PARE_UNIT_LAYER && pare__glob(r->nodes, stem))
            return r;
    return NULL;
}

/* ---- blocks by name -------------------------------------------------------------------------- */

static pare_status begin(pare_couple *c, int own, int64_t number, int node)
{
    PARE_TRY(pare__grow(&c->layers, &c->layer_capacity, c->layer_count + 1, sizeof *c->layers));
    c->layers[c->layer_count++] =
        (pare__coupled_layer){.number = number, .first = node, .last = node, .before = -1};
    pare_unit_class *u = &c->classes[own];
    if (u->count == 0)
        u->first = c->layer_first + (int64_t)c->layer_count - 1;
    /* numbers must count up from 0, and a stem's blocks follow each other */
    if (number != u->count || u->first + u->count != c->layer_first + (int64_t)c->layer_count - 1)
        u->locked = "its layers are not numbered in their order";
    u->count++;
    return PARE_OK;
}

static pare_status add_stem(const pare_model *m, pare_couple *c, const char *name, int *own)
{
    pare_unit_class made = {.kind = PARE_UNIT_LAYER, .size = 1, .multiple = 1};
    size_t stem, end;
    int64_t number;
    *own = -1;
    if (!stem_of(name, &stem, &number, &end) || stem >= sizeof made.name)
        return PARE_OK;
    memcpy(made.name, name, stem);
    const pare__unit_rule *rule = rule_of(m, made.name);
    if (!rule)
        return PARE_OK;
    made.locked = rule->locked;
    PARE_TRY(pare__couple_add(c, &made, own));
    return PARE_OK;
}

static pare_status find_blocks(const pare_model *m, pare_couple *c)
{
    int current = -1;
    int64_t current_number = -1;
    for (size_t i = 0; i < m->node_count; i++) {
        int64_t number = -1;
        size_t end;
        const char *name = m->nodes[i].name;
        int own = class_of(c, name, &number, &end);
        if (own < 0)
            PARE_TRY(add_stem(m, c, name, &own));
        if (own < 0)
            continue;
        class_of(c, name, &number, &end);
        if (own == current && number == current_number) {
            c->layers[c->layer_count - 1].last = (int)i;
            continue;
        }
        PARE_TRY(begin(c, own, number, (int)i));
        current = own;
        current_number = number;
    }
    return PARE_OK;
}

/* ---- blocks by the graph --------------------------------------------------------------------- */

/* The one value that is alive just before a node (made before, read by it or later); −1: several,
 * or none. */
static int alive_before(const pare_model *m, int node)
{
    int found = -1;
    for (int v = 0; v < (int)m->value_count; v++) {
        const pare__value *value = &m->values[v];
        if (value->producer >= node || (value->last < node && v != m->output))
            continue;
        if (found >= 0)
            return -1;
        found = v;
    }
    return found;
}

static bool carries_on(const pare_model *m, const pare_couple *c, int in, int out)
{
    const pare_tensor *x = &m->values[in].tensor, *y = &m->values[out].tensor;
    return x->rank == y->rank &&
           memcmp(x->shape, y->shape, sizeof *x->shape * (size_t)x->rank) == 0 &&
           c->value_class[in] >= 0 && c->value_class[in] == c->value_class[out];
}

static bool has_product(const pare_model *m, const pare__coupled_layer *l)
{
    for (int i = l->first; i <= l->last; i++)
        if (m->nodes[i].kind == &pare__node_linear || m->nodes[i].kind == &pare__node_conv)
            return true;
    return false;
}

/* Finds the block's end before node `limit`, and why it must stay. */
static void prove(const pare_model *m, const pare_couple *c, pare__coupled_layer *l, int limit)
{
    int in = alive_before(m, l->first), out = -1, last = l->last;
    for (; last < limit && out < 0; last++)
        out = alive_before(m, last + 1);
    if (out >= 0)
        l->last = last - 1;
    if (in < 0 || out < 0 || m->values[in].producer < 0)
        l->stays = "more than one value goes in or out";
    else if (!carries_on(m, c, in, out))
        l->stays = "what comes out has another shape or meaning than what goes in";
    else if (!has_product(m, l))
        l->stays = "it multiplies nothing";
    if (in >= 0)
        l->before = m->values[in].producer;
}

/* Attention that is scaled by the number of its layer (GPT-2 can) means something else elsewhere.
 */
static bool scales_differ(const pare_model *m)
{
    const pare__node *first = NULL;
    for (size_t i = 0; i < m->node_count; i++) {
        const pare__node *n = &m->nodes[i];
        if (n->kind != &pare__node_attention)
            continue;
        if (first && first->a.scale != n->a.scale)
            return true;
        first = n;
    }
    return false;
}

static void prove_all(const pare_model *m, pare_couple *c)
{
    bool differ = scales_differ(m);
    for (size_t i = 0; i < c->layer_count; i++) {
        bool final = i + 1 == c->layer_count;
        prove(m, c, &c->layers[i], final ? (int)m->node_count : c->layers[i + 1].first);
    }
    for (size_t i = 0; i < c->class_count; i++) {
        pare_unit_class *u = &c->classes[i];
        bool any = false;
        if (u->kind != PARE_UNIT_LAYER || u->locked)
            continue;
        for (int64_t n = 0; n < u->count; n++)
            any = any || !c->layers[u->first - c->layer_first + n].stays;
        if (!any)
            u->locked = "none of its blocks carries its input on";
        else if (differ)
            u->locked = "its attention is scaled by the number of its layer";
    }
}

/* Nodes and parameters know their block. */
static void mark(const pare_model *m, pare_couple *c)
{
    memset(c->node_layer, -1, m->node_count * sizeof *c->node_layer);
    for (size_t i = 0; i < c->class_count; i++) {
        const pare_unit_class *u = &c->classes[i];
        for (int64_t n = 0; u->kind == PARE_UNIT_LAYER && !u->locked && n < u->count; n++) {
            const pare__coupled_layer *l = &c->layers[u->first - c->layer_first + n];
            for (int node = l->first; node <= l->last; node++)
                c->node_layer[node] = (int32_t)(u->first + n);
        }
    }
    for (int64_t p = 0; p < c->param_count; p++) {
        int64_t number;
        size_t end;
        int own = class_of(c, c->params[p].name, &number, &end);
        if (own >= 0 && !c->classes[own].locked && number < c->classes[own].count)
            c->params[p].layer = (int32_t)(c->classes[own].first + number);
    }
}

pare_status pare__couple_layers(const pare_model *model, pare_couple *couple)
{
    PARE_TRY(find_blocks(model, couple));
    prove_all(model, couple);
    mark(model, couple);
    couple->units += (int64_t)couple->layer_count;
    for (size_t i = 0; i < couple->class_count; i++)
        if (couple->classes[i].kind == PARE_UNIT_LAYER && couple->classes[i].locked)
            couple->classes[i].count = 0;
    return PARE_OK;
}

/* ---- what all may ask ------------------------------------------------------------------------ */

const char *pare_couple_stays(const pare_couple *couple, int64_t unit)
{
    int64_t at = unit - couple->layer_first;
    return at >= 0 && (size_t)at < couple->layer_count ? couple->layers[at].stays : NULL;
}

bool pare_couple_span(const pare_couple *couple, int64_t unit, int64_t *first, int64_t *last,
                      int64_t *before)
{
    int64_t at = unit - couple->layer_first;
    if (at < 0 || (size_t)at >= couple->layer_count)
        return false;
    *first = couple->layers[at].first;
    *last = couple->layers[at].last;
    *before = couple->layers[at].before;
    return true;
}

pare_status pare_couple_rename(const pare_couple *couple, const char *name, const uint8_t *keep,
                               char **renamed)
{
    int64_t number, fresh = 0;
    size_t end;
    pare__text text = {0};
    int own = class_of(couple, name, &number, &end);
    *renamed = NULL;
    if (own < 0 || number >= couple->classes[own].count) {
        PARE_TRY(pare__strdup(name, renamed));
        return PARE_OK;
    }
    const pare_unit_class *u = &couple->classes[own];
    if (!keep[u->first + number])
        return PARE_OK;
    for (int64_t i = 0; i < number; i++)
        fresh += keep[u->first + i] != 0;
    pare__text_add(&text, "%s%lld%s", u->name, (long long)fresh, name + end);
    PARE_TRY(pare__text_take(&text, renamed));
    return PARE_OK;
}
