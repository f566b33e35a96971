/* couple.c - which rows, columns and channels can only go together, found from the graph.
 *
 * Every feature of every value, and every place along an axis of a parameter, is a point. A node
 * says which points are one and the same feature: a sum joins feature i of both its inputs with
 * feature i of its output, a product joins the rows of its weight with its output and the columns
 * with its input and so parts the two, attention joins all of a head. What hangs together is a
 * unit; units of values that hang together are a class. A table below has the rule of each kind of
 * node; one that has none locks what it touches.
 *
 * Classes that reach the model's input or output are locked, and those whose size the architecture
 * cannot spell (arch.h, pare__shrink_rules).
 */
#include "couple.h"

#include <string.h>

/* The features of a value, or the places of an axis of a parameter. */
typedef struct block {
    int64_t first, count; /* points */
    int parent;           /* of the class */
    bool used;
    const char *locked; /* at the root */
} block;

typedef struct knot {
    const pare_model *m;
    block *blocks; /* values, then PARE_MAX_RANK axes of every parameter */
    int block_count;
    int32_t *parent; /* [points] */
    int64_t points;
    int *class_of; /* [block_count]: of a root */
    int32_t *unit; /* [points]: of a root */
} knot;

static const char not_alike[] = "its features are not alike";
static const char no_rule[] = "the model's config has no size of its own for it";

/* ---- points and blocks ----------------------------------------------------------------------- */

static int32_t point_root(const knot *k, int64_t point)
{
    int32_t at = (int32_t)point;
    while (k->parent[at] != at)
        at = k->parent[at] = k->parent[k->parent[at]];
    return at;
}

static int block_root(const knot *k, int at)
{
    while (k->blocks[at].parent != at)
        at = k->blocks[at].parent = k->blocks[k->blocks[at].parent].parent;
    return at;
}

static void lock(knot *k, int index, const char *reason)
{
    block *root = &k->blocks[block_root(k, index)];
    k->blocks[index].used = true;
    if (!root->locked)
        root->locked = reason;
}

/* Points become one unit; the lower one is the root, so that units come in the order of places. */
static void join_points(knot *k, int64_t a, int64_t b)
{
    int32_t x = point_root(k, a), y = point_root(k, b);
    if (x < y)
        k->parent[y] = x;
    else
        k->parent[x] = y;
}

static void join_blocks(knot *k, int a, int b)
{
    int x = block_root(k, a), y = block_root(k, b);
    k->blocks[a].used = k->blocks[b].used = true;
    if (x == y)
        return;
    int low = x < y ? x : y, high = x < y ? y : x;
    k->blocks[high].parent = low;
    if (!k->blocks[low].locked)
        k->blocks[low].locked = k->blocks[high].locked;
}

static void join(knot *k, int a, int64_t a_first, int b, int64_t b_first, int64_t count)
{
    join_blocks(k, a, b);
    if (a_first + count > k->blocks[a].count || b_first + count > k->blocks[b].count) {
        lock(k, a, not_alike);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        join_points(k, k->blocks[a].first + a_first + i, k->blocks[b].first + b_first + i);
}

/* Feature by feature. */
static void join_same(knot *k, int a, int b)
{
    join(k, a, 0, b, 0, k->blocks[a].count);
    if (k->blocks[a].count != k->blocks[b].count)
        lock(k, a, not_alike);
}

/* The block of an axis of parameter i of a node, −1 without the parameter; axis −1: the last. */
static int axis_of(const knot *k, const pare__node *n, int i, int axis)
{
    if (i >= n->params || n->param[i] < 0)
        return -1;
    int rank = k->m->params[n->param[i]].value.rank;
    return (int)k->m->value_count + n->param[i] * PARE_MAX_RANK + (axis < 0 ? rank - 1 : axis);
}

static void join_axis(knot *k, int value, const pare__node *n, int i, int axis)
{
    int at = axis_of(k, n, i, axis);
    if (at >= 0)
        join_same(k, value, at);
}

/* ---- rules ----------------------------------------------------------------------------------- */

static void product(knot *k, const pare__node *n)
{
    join_axis(k, n->output, n, 0, 0);
    join_axis(k, n->output, n, 1, 0);
    if (n->a.groups > 1) {
        lock(k, n->output, "a convolution of groups makes it");
        lock(k, n->input[0], "a convolution of groups reads it");
        return;
    }
    join_axis(k, n->input[0], n, 0, 1);
}

/* One feature in, the same one out, with a number of each parameter for it. */
static void each(knot *k, const pare__node *n)
{
    for (int i = 0; i < n->inputs; i++)
        join_same(k, n->input[i], n->output);
    for (int i = 0; i < n->params; i++)
        join_axis(k, n->output, n, i, -1);
}

/* A norm of heads has numbers for the features of one head, which no head takes along. */
static void rms_norm(knot *k, const pare__node *n)
{
    if (n->a.head_dim > 0)
        join_same(k, n->input[0], n->output);
    else
        each(k, n);
}

static void embedding(knot *k, const pare__node *n)
{
    join_axis(k, n->output, n, 0, 1);
}

static void attention(knot *k, const pare__node *n)
{
    int q = n->input[0], key = n->input[1], v = n->input[2], y = n->output;
    int64_t D = n->a.head_dim, repeat = n->a.heads / n->a.kv_heads;
    join_same(k, q, y);
    join_same(k, key, v);
    join_blocks(k, q, key);
    for (int64_t h = 0; h < n->a.kv_heads; h++) {
        int64_t first = k->blocks[key].first + h * D;
        for (int64_t d = 1; d < D; d++)
            join_points(k, first, first + d);
        for (int64_t d = 0; d < repeat * D; d++)
            join_points(k, first, k->blocks[q].first + h * repeat * D + d);
    }
}

static void softmax(knot *k, const pare__node *n)
{
    each(k, n);
    lock(k, n->output, "a softmax is taken over it");
}

static void concat(knot *k, const pare__node *n)
{
    int64_t at = 0;
    for (int i = 0; i < n->inputs; i++) {
        join(k, n->input[i], 0, n->output, at, k->blocks[n->input[i]].count);
        at += k->blocks[n->input[i]].count;
    }
}

static void slice(knot *k, const pare__node *n)
{
    join(k, n->input[0], n->a.first, n->output, 0, n->a.cols);
}

/* A channel of an image becomes as many features as it has pixels. */
static void reshape(knot *k, const pare__node *n)
{
    int64_t C = k->blocks[n->input[0]].count, count = k->blocks[n->output].count;
    join_blocks(k, n->input[0], n->output);
    for (int64_t i = 0; i < count && C > 0; i++)
        join_points(k,
                    k->blocks[n->input[0]].first + (n->a.channels_first ? i / (count / C) : i % C),
                    k->blocks[n->output].first + i);
}

static void shortcut(knot *k, const pare__node *n)
{
    static const char reason[] = "a shortcut without parameters fills it up with zeros (option A)";
    lock(k, n->input[0], reason);
    lock(k, n->output, reason);
}

static const struct {
    const pare__node_kind *kind;
    void (*join)(knot *k, const pare__node *n);
} rules[] = {
    {&pare__node_linear, product},    {&pare__node_conv, product},
    {&pare__node_batch_norm, each},   {&pare__node_layer_norm, each},
    {&pare__node_rms_norm, rms_norm}, {&pare__node_embedding, embedding},
    {&pare__node_position, each},     {&pare__node_prefix, each},
    {&pare__node_rotary, each},       {&pare__node_attention, attention},
    {&pare__node_softmax, softmax},   {&pare__node_act, each},
    {&pare__node_glu, each},          {&pare__node_add, each},
    {&pare__node_dropout, each},      {&pare__node_row, each},
    {&pare__node_pool_max, each},     {&pare__node_pool_avg, each},
    {&pare__node_pool_seq, each},     {&pare__node_concat, concat},
    {&pare__node_slice, slice},       {&pare__node_reshape, reshape},
    {&pare__node_shortcut, shortcut},
};

static void tie_node(knot *k, const pare__node *n)
{
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].kind == n->kind) {
            rules[i].join(k, n);
            return;
        }
    lock(k, n->output, "a node of an unknown kind makes it");
    for (int i = 0; i < n->inputs; i++)
        lock(k, n->input[i], "a node of an unknown kind reads it");
}

/* ---- the knot -------------------------------------------------------------------------------- */

static void lay_out(knot *k)
{
    const pare_model *m = k->m;
    int values = (int)m->value_count;
    for (int i = 0; i < k->block_count; i++) {
        int64_t count = 0;
        if (i < values) {
            const pare_tensor *t = &m->values[i].tensor;
            bool ids = i == m->input && m->facts.tokens;
            count = t->rank > 0 && !ids ? t->shape[t->rank - 1] : 0;
        } else {
            const pare_tensor *t = &m->params[(i - values) / PARE_MAX_RANK].value;
            int axis = (i - values) % PARE_MAX_RANK;
            count = axis < t->rank ? t->shape[axis] : 0;
        }
        k->blocks[i] = (block){.first = k->points, .count = count, .parent = i};
        k->points = pare__add(k->points, count, &count) ? count : INT64_MAX;
    }
}

static pare_status tie_all(knot *k)
{
    const pare_model *m = k->m;
    size_t axes = m->param_count * PARE_MAX_RANK;
    PARE_REQUIRE(m->value_count + axes < INT32_MAX / 2, PARE_ERR_UNSUPPORTED,
                 "the model has too many tensors to look for what belongs together");
    k->block_count = (int)(m->value_count + axes);
    PARE_TRY(pare__calloc((size_t)k->block_count, sizeof *k->blocks, &k->blocks));
    lay_out(k);
    PARE_REQUIRE(k->points < INT32_MAX, PARE_ERR_UNSUPPORTED,
                 "the model has too many features to look for what belongs together");
    PARE_TRY(pare__calloc((size_t)k->points, sizeof *k->parent, &k->parent));
    for (int64_t i = 0; i < k->points; i++)
        k->parent[i] = (int32_t)i;
    if (!m->facts.tokens)
        lock(k, m->input, "it is the model's input");
    for (size_t i = 0; i < m->node_count; i++)
        tie_node(k, &m->nodes[i]);
    if (m->head >= 0)
        join_same(k, m->output, (int)m->value_count + m->head * PARE_MAX_RANK + 1);
    else
        lock(k, m->output, "it is the model's output");
    return PARE_OK;
}

/* ---- classes --------------------------------------------------------------------------------- */

/* The architecture's word for a class that this node is in. */
static const pare__unit_rule *rule_of(const pare_model *m, const char *node)
{
    for (const pare__unit_rule *r = m->shrink ? m->shrink->units : NULL; r && r->nodes; r++)
        if (r->kind != PARE_UNIT_LAYER && pare__glob(r->nodes, node))
            return r;
    return NULL;
}

/* A class for every root that a node's output hangs on, its kind by the first node that the
 * architecture knows. */
static pare_status find_classes(knot *k, pare_couple *c)
{
    const pare_model *m = k->m;
    bool *named = NULL;
    pare_status status = PARE_OK;
    PARE_TRY(pare__calloc((size_t)k->block_count, sizeof *k->class_of, &k->class_of));
    PARE_TRY_DONE(pare__calloc((size_t)k->block_count, sizeof *named, &named));
    memset(k->class_of, -1, (size_t)k->block_count * sizeof *k->class_of);
    for (size_t i = 0; i < m->node_count; i++) {
        const pare__node *n = &m->nodes[i];
        int root = block_root(k, n->output);
        if (k->class_of[root] < 0) {
            pare_unit_class made = {.locked = k->blocks[root].locked, .size = 1};
            snprintf(made.name, sizeof made.name, "%s", n->name);
            PARE_TRY_DONE(pare__couple_add(c, &made, &k->class_of[root]));
        }
        const pare__unit_rule *rule = named[root] ? NULL : rule_of(m, n->name);
        if (!rule)
            continue;
        pare_unit_class *own = &c->classes[k->class_of[root]];
        named[root] = true;
        own->kind = rule->kind;
        own->locked = own->locked ? own->locked : rule->locked;
    }
    for (int i = 0; i < k->block_count; i++)
        if (k->class_of[i] >= 0 && !named[i] && !c->classes[k->class_of[i]].locked)
            c->classes[k->class_of[i]].locked = no_rule;
done:
    free(named);
    return status;
}

/* The class of a block, −1 for one that no node reaches or that is locked. */
static int class_of(const knot *k, const pare_couple *c, int index)
{
    int found = k->blocks[index].used ? k->class_of[block_root(k, index)] : -1;
    return found < 0 || c->classes[found].locked ? -1 : found;
}

/* Units of each class, numbered in the order of their first points, and whether they are alike.
 * points [k->points]: of the unit that begins there. */
static void count_units(knot *k, pare_couple *c, int32_t *points)
{
    for (int b = 0; b < k->block_count; b++) {
        int own = class_of(k, c, b);
        for (int64_t i = 0; own >= 0 && i < k->blocks[b].count; i++) {
            int32_t root = point_root(k, k->blocks[b].first + i);
            if (points[root]++ == 0)
                k->unit[root] = (int32_t)c->classes[own].count++;
        }
    }
    for (int b = 0; b < k->block_count; b++) {
        int own = class_of(k, c, b);
        if (own < 0)
            continue;
        pare_unit_class *u = &c->classes[own];
        if (u->count == 0)
            continue;
        int64_t each_has = k->blocks[b].count / u->count;
        if (u->first == 0 || each_has < u->size)
            u->size = each_has > 0 ? each_has : 1;
        for (int64_t i = 0; i < k->blocks[b].count; i++) {
            int32_t has = points[point_root(k, k->blocks[b].first + i)];
            u->first = u->first == 0 || u->first == has ? has : -1; /* -1: two sizes */
        }
        if (u->first < 0) {
            u->locked = not_alike;
            u->count = 0;
        }
    }
}

static pare_status number_units(knot *k, pare_couple *c)
{
    int32_t *points = NULL;
    PARE_TRY(pare__calloc((size_t)k->points, sizeof *k->unit, &k->unit));
    PARE_TRY(pare__calloc((size_t)k->points, sizeof *points, &points));
    count_units(k, c, points);
    free(points);
    for (size_t i = 0; i < c->class_count; i++) {
        c->classes[i].first = c->units;
        c->units += c->classes[i].count;
    }
    return PARE_OK;
}

/* ---- what all may see ------------------------------------------------------------------------ */

static pare_status copy_param(const pare_model *m, int64_t index, pare__coupled_param *p)
{
    char *name;
    PARE_TRY(pare__strdup(m->params[index].name, &name));
    *p = (pare__coupled_param){.name = name, .layer = -1};
    pare_model_stored_shape(m, index, &p->rank, p->shape);
    for (int d = 0; d < PARE_MAX_RANK; d++)
        p->map[d] = -1;
    return PARE_OK;
}

/* The block of an axis as the checkpoint stores it. */
static int stored_axis(const pare_model *m, int64_t param, int axis)
{
    bool turned = m->params[param].transposed && axis < 2;
    return (int)m->value_count + (int)param * PARE_MAX_RANK + (turned ? 1 - axis : axis);
}

static pare_status map_axes(const knot *k, pare_couple *c)
{
    const pare_model *m = k->m;
    int64_t size = 0;
    PARE_TRY(pare__calloc(m->param_count, sizeof *c->params, &c->params));
    for (size_t p = 0; p < m->param_count; p++) {
        PARE_TRY(copy_param(m, (int64_t)p, &c->params[p]));
        c->param_count++;
        for (int d = 0; d < c->params[p].rank; d++) {
            int b = stored_axis(m, (int64_t)p, d);
            if (class_of(k, c, b) < 0)
                continue;
            c->params[p].map[d] = size;
            size += k->blocks[b].count;
        }
    }
    PARE_TRY(pare__calloc((size_t)size, sizeof *c->maps, &c->maps));
    for (size_t p = 0; p < m->param_count; p++)
        for (int d = 0; d < c->params[p].rank; d++) {
            int b = stored_axis(m, (int64_t)p, d), own = class_of(k, c, b);
            for (int64_t i = 0; own >= 0 && i < k->blocks[b].count; i++)
                c->maps[c->params[p].map[d] + i] =
                    (int32_t)c->classes[own].first + k->unit[point_root(k, k->blocks[b].first + i)];
        }
    for (size_t i = 0; i < m->node_count; i++)
        if (m->nodes[i].kind == &pare__node_rms_norm && m->nodes[i].a.head_dim <= 0)
            c->params[m->nodes[i].param[0]].rms = true;
    return PARE_OK;
}

static pare_status map_values(const knot *k, pare_couple *c)
{
    const pare_model *m = k->m;
    PARE_TRY(pare__calloc(m->value_count, sizeof *c->value_class, &c->value_class));
    for (size_t v = 0; v < m->value_count; v++)
        c->value_class[v] = k->class_of[block_root(k, (int)v)];
    PARE_TRY(pare__calloc(m->node_count, sizeof *c->node_layer, &c->node_layer));
    c->node_count = (int64_t)m->node_count;
    return PARE_OK;
}

pare_status pare__couple_add(pare_couple *c, const pare_unit_class *unit_class, int *index)
{
    PARE_TRY(pare__grow(&c->classes, &c->class_capacity, c->class_count + 1, sizeof *c->classes));
    *index = (int)c->class_count;
    c->classes[c->class_count++] = *unit_class;
    return PARE_OK;
}

static pare_status untangle(knot *k, pare_couple *c)
{
    PARE_TRY(tie_all(k));
    PARE_TRY(find_classes(k, c));
    PARE_TRY(number_units(k, c));
    PARE_TRY(map_axes(k, c));
    PARE_TRY(map_values(k, c));
    c->layer_first = c->units;
    c->no_heads = k->m->shrink ? k->m->shrink->no_heads : NULL;
    PARE_TRY(pare__couple_layers(k->m, c));
    return PARE_OK;
}

pare_status pare_couple_create(const pare_model *model, pare_couple **couple)
{
    pare_status status = PARE_OK;
    pare_couple *c = NULL;
    knot k = {.m = model};
    PARE_REQUIRE(model && couple && model->output >= 0, PARE_ERR_ARGUMENT,
                 "what belongs together is found of a model that was built");
    *couple = NULL;
    PARE_TRY_DONE(pare__calloc(1, sizeof *c, &c));
    PARE_TRY_DONE(untangle(&k, c));
    PARE_TRY_DONE(pare__couple_limits(model, c));
    *couple = c;
    c = NULL;
done:
    pare_couple_free(&c);
    free(k.unit);
    free(k.class_of);
    free(k.parent);
    free(k.blocks);
    return status;
}

void pare_couple_free(pare_couple **couple)
{
    if (!couple || !*couple)
        return;
    pare_couple *c = *couple;
    for (int64_t i = 0; i < c->param_count; i++)
        free((char *)(uintptr_t)c->params[i].name);
    free(c->value_class);
    free(c->node_layer);
    free(c->maps);
    free(c->params);
    free(c->layers);
    free(c->classes);
    free(c);
    *couple = NULL;
}

int64_t pare_couple_class_count(const pare_couple *couple)
{
    return couple ? (int64_t)couple->class_count : 0;
}

const pare_unit_class *pare_couple_class(const pare_couple *couple, int64_t index)
{
    return couple && index >= 0 && (size_t)index < couple->class_count ? &couple->classes[index]
                                                                       : NULL;
}

const char *pare_couple_refusal(const pare_couple *couple, pare_unit_kind kind)
{
    return kind == PARE_UNIT_HEAD ? couple->no_heads : NULL;
}

static bool is_of(const pare_unit_class *u, int64_t unit)
{
    return unit >= u->first && unit < u->first + u->count;
}

bool pare_couple_matches(const pare_couple *couple, int64_t index, const char *glob)
{
    const pare_unit_class *u = &couple->classes[index];
    for (int64_t p = 0; p < couple->param_count; p++) {
        bool ours = is_of(u, couple->params[p].layer);
        for (int d = 0; d < couple->params[p].rank && !ours; d++) {
            const int32_t *units = pare_couple_axis(couple, p, d);
            for (int64_t i = 0; units && !ours && i < couple->params[p].shape[d]; i++)
                ours = is_of(u, units[i]);
        }
        if (ours && pare__glob(glob, couple->params[p].name))
            return true;
    }
    return false;
}

int64_t pare_couple_unit_count(const pare_couple *couple)
{
    return couple ? couple->units : 0;
}

const int32_t *pare_couple_axis(const pare_couple *couple, int64_t param, int axis)
{
    const pare__coupled_param *p = &couple->params[param];
    return axis >= 0 && axis < p->rank && p->map[axis] >= 0 ? couple->maps + p->map[axis] : NULL;
}

int64_t pare_couple_layer(const pare_couple *couple, int64_t param)
{
    return couple->params[param].layer;
}

int64_t pare_couple_node_layer(const pare_couple *couple, int64_t node)
{
    return couple->node_layer[node];
}
