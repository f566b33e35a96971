/* pairing.c - which layers of a student learn from which of a teacher's: layers are the residual
 * blocks that couple finds (model.h), stages of convolutional networks the last maps of a size.
 */
#include "distill_impl.h"

#include "base/text.h"

#include <string.h>

static const char *const map_names[] = {"uniform", "last", "skip", "contiguous", "top", NULL};

pare_status pare_layer_map_parse(const char *text, pare_layer_map *map)
{
    PARE_REQUIRE(text && map, PARE_ERR_ARGUMENT, "layer map: NULL argument");
    for (int i = 0; map_names[i]; i++)
        if (strcmp(text, map_names[i]) == 0) {
            *map = (pare_layer_map)i;
            return PARE_OK;
        }
    const char *near = pare__nearest(text, map_names);
    PARE_FAIL(PARE_ERR_ARGUMENT,
              "the layer map \"%.60s\" is unknown, expected uniform, last, skip, contiguous or "
              "top%s%s%s",
              text, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

const char *pare_layer_map_name(pare_layer_map map)
{
    return map >= PARE_MAP_UNIFORM && map <= PARE_MAP_TOP ? map_names[map] : "?";
}

int64_t pare_layer_map_at(pare_layer_map map, int64_t i, int64_t student, int64_t teacher)
{
    int64_t at = -1;
    if (i < 0 || i >= student)
        return -1;
    if (map == PARE_MAP_UNIFORM)
        at = (i + 1) * teacher / student - 1;
    if (map == PARE_MAP_LAST)
        at = teacher - student + i;
    if (map == PARE_MAP_SKIP)
        at = i * teacher / student;
    if (map == PARE_MAP_CONTIGUOUS)
        at = i;
    if (map == PARE_MAP_TOP)
        at = i == student - 1 ? teacher - 1 : -1;
    return at >= 0 && at < teacher ? at : -1;
}

/* ---- a model's layers ------------------------------------------------------------------------ */

/* What nodes give for one sample of one token. */
static pare_status shapes_of(const pare_model *model, pare_tensor **outputs)
{
    int64_t length = pare_model_facts_of(model)->tokens;
    const pare_model_shape one = {.batch = 1, .length = length, .compute = PARE_F32};
    PARE_TRY(pare__calloc((size_t)pare_model_node_count(model), sizeof **outputs, outputs));
    PARE_TRY(pare_model_outputs(model, &one, *outputs));
    return PARE_OK;
}

static void view_layer(const pare_model *model, int64_t first, int64_t last, const pare_tensor *y,
                       pare_layer_view *layer)
{
    bool map = y->rank == 4;
    *layer = (pare_layer_view){.last = last,
                               .attention = -1,
                               .width = y->shape[y->rank - 1],
                               .height = map ? y->shape[1] : 0,
                               .side = map ? y->shape[2] : 0};
    for (int64_t i = first; i <= last; i++) {
        pare_node_view n = pare_model_node(model, i);
        if (n.heads == 0)
            continue;
        layer->attention = i;
        layer->heads = n.heads;
        layer->kv_heads = n.kv_heads;
    }
}

pare_status pare_distill_layers(const pare_model *model, pare_layer_view **layers, int64_t *count)
{
    pare_status status = PARE_OK;
    pare_couple *couple = NULL;
    pare_tensor *outputs = NULL;
    int64_t first, last, before;
    size_t capacity = 0, found = 0;
    *layers = NULL;
    *count = 0;
    PARE_TRY_DONE(pare_couple_create(model, &couple));
    PARE_TRY_DONE(shapes_of(model, &outputs));
    for (int64_t unit = 0; unit < pare_couple_unit_count(couple); unit++) {
        if (!pare_couple_span(couple, unit, &first, &last, &before))
            continue;
        PARE_TRY_DONE(pare__grow(layers, &capacity, found + 1, sizeof **layers));
        view_layer(model, first, last, &outputs[last], &(*layers)[found++]);
    }
    *count = (int64_t)found;
done:
    free(outputs);
    pare_couple_free(&couple);
    if (status != PARE_OK) {
        free(*layers);
        *layers = NULL;
    }
    return status;
}

/* A stage is a size that a convolution makes. */
static void note_stage(pare__stage_view *stages, int64_t *count, const pare_tensor *y, int64_t node,
                       bool conv)
{
    int64_t at = 0;
    while (at < *count && (stages[at].height != y->shape[1] || stages[at].side != y->shape[2]))
        at++;
    if (at == *count && !conv)
        return;
    *count += at == *count;
    stages[at] = (pare__stage_view){
        .node = node, .height = y->shape[1], .side = y->shape[2], .width = y->shape[3]};
}

pare_status pare__distill_stages(const pare_model *model, pare__stage_view **stages, int64_t *count)
{
    pare_status status = PARE_OK;
    int64_t nodes = pare_model_node_count(model);
    pare_tensor *outputs = NULL;
    *stages = NULL;
    *count = 0;
    PARE_TRY_DONE(pare__calloc((size_t)nodes, sizeof **stages, stages));
    PARE_TRY_DONE(shapes_of(model, &outputs));
    for (int64_t i = 0; i < nodes; i++)
        if (outputs[i].rank == 4)
            note_stage(*stages, count, &outputs[i], i,
                       strcmp(pare_model_node(model, i).kind, "conv") == 0);
done:
    free(outputs);
    if (status != PARE_OK) {
        free(*stages);
        *stages = NULL;
    }
    return status;
}

/* ---- pairs of layers ------------------------------------------------------------------------- */

/* Both models' layers while pairs are made. */
typedef struct matching {
    const pare_distill_options *options;
    pare_model *student, *teacher;
    pare_layer_view *near, *far;
    int64_t near_count, far_count;
    pare_tensor *near_shape, *far_shape; /* [nodes] */
    pare__pair *pairs;
    size_t count;
} matching;

static int64_t rows_of(const pare_tensor *y)
{
    return pare_tensor_count(y) / y->shape[y->rank - 1];
}

static pare_status add_hidden(matching *m, int64_t i, int64_t j)
{
    const pare_layer_view *s = &m->near[i], *t = &m->far[j];
    const pare_tensor *x = &m->near_shape[s->last], *y = &m->far_shape[t->last];
    pare__pair *p = &m->pairs[m->count];
    char a[192], b[192];
    PARE_REQUIRE(x->rank == y->rank && s->height == t->height && s->side == t->side &&
                     rows_of(x) == rows_of(y),
                 PARE_ERR_ARGUMENT,
                 "the hidden state of layer %lld of the student is %s, that of layer %lld of the "
                 "teacher %s: "
                 "they cannot be compared (of one token each)",
                 (long long)i + 1, pare_shape_text(x->rank, x->shape, a, sizeof a),
                 (long long)j + 1, pare_shape_text(y->rank, y->shape, b, sizeof b));
    p->layer = i;
    p->rows = rows_of(x);
    p->width[0] = s->width;
    p->teacher_width[0] = t->width;
    PARE_TRY(pare_model_tap(m->student, s->last, -1, &p->tap[0]));
    PARE_TRY(pare_model_tap(m->teacher, t->last, -1, &p->teacher_tap[0]));
    m->count++;
    return PARE_OK;
}

/* Taps on queries, keys and values, the first `taps` of them. */
static pare_status tap_attention(matching *m, const pare_layer_view *s, const pare_layer_view *t,
                                 int taps, pare__pair *p)
{
    for (int k = 0; k < taps; k++) {
        PARE_TRY(pare_model_tap(m->student, s->attention, k, &p->tap[k]));
        PARE_TRY(pare_model_tap(m->teacher, t->attention, k, &p->teacher_tap[k]));
    }
    return PARE_OK;
}

static void view_attention(const matching *m, const pare_layer_view *s, const pare_layer_view *t,
                           pare__pair *p)
{
    pare_node_view a = pare_model_node(m->student, s->attention);
    pare_node_view b = pare_model_node(m->teacher, t->attention);
    const pare_tensor *x = &m->near_shape[s->attention], *y = &m->far_shape[t->attention];
    int64_t width = x->shape[x->rank - 1], far = y->shape[y->rank - 1];
    p->rows = rows_of(x);
    p->heads = a.heads;
    p->kv_heads = a.kv_heads;
    p->teacher_kv_heads = b.kv_heads;
    p->scale = a.scale;
    p->teacher_scale = b.scale;
    p->causal = a.causal;
    for (int k = 0; k < 3; k++) { /* keys and values are as wide as queries, or have fewer heads */
        p->width[k] = k > 0 ? width / a.heads * a.kv_heads : width;
        p->teacher_width[k] = k > 0 ? far / b.heads * b.kv_heads : far;
    }
}

static pare_status check_attention(const matching *m, int64_t i, int64_t j, bool heads)
{
    const pare_layer_view *s = &m->near[i], *t = &m->far[j];
    PARE_REQUIRE(s->attention >= 0 && t->attention >= 0, PARE_ERR_ARGUMENT,
                 "layer %lld of the %s has no attention to compare",
                 (long long)(s->attention < 0 ? i : j) + 1,
                 s->attention < 0 ? "student" : "teacher");
    pare_node_view a = pare_model_node(m->student, s->attention);
    pare_node_view b = pare_model_node(m->teacher, t->attention);
    PARE_REQUIRE(a.causal == b.causal, PARE_ERR_ARGUMENT,
                 "only one of the two models is causal: their attention cannot be compared");
    PARE_REQUIRE(a.window == 0 && b.window == 0, PARE_ERR_UNSUPPORTED,
                 "layer %lld looks at a window of %lld positions: such attention is not compared",
                 (long long)i + 1, (long long)(a.window ? a.window : b.window));
    PARE_REQUIRE(!heads || a.heads == b.heads, PARE_ERR_ARGUMENT,
                 "layer %lld of the student has %d heads, layer %lld of the teacher %d: attention "
                 "is compared head by head; relations take any number",
                 (long long)i + 1, a.heads, (long long)j + 1, b.heads);
    return PARE_OK;
}

static pare_status add_attention(matching *m, int64_t i, int64_t j)
{
    pare__pair *p = &m->pairs[m->count];
    PARE_TRY(check_attention(m, i, j, true));
    view_attention(m, &m->near[i], &m->far[j], p);
    p->layer = i;
    PARE_TRY(tap_attention(m, &m->near[i], &m->far[j], 2, p));
    m->count++;
    return PARE_OK;
}

/* The student's last layer, and the one of the teacher that is asked for. */
static pare_status add_relation(matching *m)
{
    int64_t i = m->near_count - 1, asked = m->options->relation_layer;
    int64_t j = asked > 0 ? asked - 1 : m->far_count - 1, heads = m->options->relation_heads;
    pare__pair *p = &m->pairs[0];
    PARE_REQUIRE(j < m->far_count, PARE_ERR_ARGUMENT,
                 "the teacher has %lld layers: there is no layer %lld for relations",
                 (long long)m->far_count, (long long)asked);
    PARE_TRY(check_attention(m, i, j, false));
    view_attention(m, &m->near[i], &m->far[j], p);
    PARE_REQUIRE(heads <= 0 || (p->width[0] % heads == 0 && p->teacher_width[0] % heads == 0),
                 PARE_ERR_ARGUMENT,
                 "%lld relation heads do not divide the widths of queries, %lld and %lld",
                 (long long)heads, (long long)p->width[0], (long long)p->teacher_width[0]);
    p->heads = heads > 0 ? (int)heads : m->far[j].heads;
    p->layer = i;
    PARE_TRY(tap_attention(m, &m->near[i], &m->far[j], 3, p));
    m->count = 1;
    return PARE_OK;
}

static pare_status match_layers(matching *m, pare_distill_kind kind)
{
    PARE_TRY(pare_distill_layers(m->student, &m->near, &m->near_count));
    PARE_TRY(pare_distill_layers(m->teacher, &m->far, &m->far_count));
    PARE_REQUIRE(m->near_count > 0 && m->far_count > 0, PARE_ERR_ARGUMENT,
                 "the %s has no layers that could be compared: %s takes transformers and residual "
                 "networks",
                 m->near_count > 0 ? "teacher" : "student", pare_distill_kind_name(kind));
    PARE_TRY(shapes_of(m->student, &m->near_shape));
    PARE_TRY(shapes_of(m->teacher, &m->far_shape));
    PARE_TRY(pare__calloc((size_t)m->near_count, sizeof *m->pairs, &m->pairs));
    if (kind == PARE_DISTILL_RELATION)
        return add_relation(m);
    for (int64_t i = 0; i < m->near_count; i++) {
        int64_t j = pare_layer_map_at(m->options->map, i, m->near_count, m->far_count);
        if (j >= 0)
            PARE_TRY(kind == PARE_DISTILL_HIDDEN ? add_hidden(m, i, j) : add_attention(m, i, j));
    }
    PARE_REQUIRE(m->count > 0, PARE_ERR_ARGUMENT,
                 "no layer of the student has one of the teacher: %lld and %lld layers by the map "
                 "\"%s\"",
                 (long long)m->near_count, (long long)m->far_count,
                 pare_layer_map_name(m->options->map));
    return PARE_OK;
}

/* ---- pairs of stages ------------------------------------------------------------------------- */

static pare_status add_stage(matching *m, const pare__stage_view *s, int64_t index,
                             const pare__stage_view *t)
{
    pare__pair *p = &m->pairs[m->count];
    p->layer = index;
    p->rows = s->height * s->side;
    p->width[0] = s->width;
    p->teacher_width[0] = t->width;
    PARE_TRY(pare_model_tap(m->student, s->node, -1, &p->tap[0]));
    PARE_TRY(pare_model_tap(m->teacher, t->node, -1, &p->teacher_tap[0]));
    m->count++;
    return PARE_OK;
}

static pare_status match_stages(matching *m)
{
    pare_status status = PARE_OK;
    pare__stage_view *near = NULL, *far = NULL;
    int64_t near_count, far_count = 0;
    PARE_TRY_DONE(pare__distill_stages(m->student, &near, &near_count));
    PARE_TRY_DONE(pare__distill_stages(m->teacher, &far, &far_count));
    PARE_TRY_DONE(pare__calloc((size_t)near_count, sizeof *m->pairs, &m->pairs));
    for (int64_t i = 0; i < near_count; i++)
        for (int64_t j = 0; j < far_count; j++)
            if (near[i].height == far[j].height && near[i].side == far[j].side)
                PARE_TRY_DONE(add_stage(m, &near[i], i, &far[j]));
    if (m->count == 0)
        status =
            pare__error(PARE_ERR_ARGUMENT, __func__,
                        "no feature map of the student has the size of one of the teacher: "
                        "features are compared between convolutional networks on images of one "
                        "size");
done:
    free(far);
    free(near);
    return status;
}

pare_status pare__distill_pairs(const pare_distill_options *options, pare_distill_kind kind,
                                pare_model *student, pare_model *teacher, pare__pair **pairs,
                                size_t *count)
{
    pare_status status = PARE_OK;
    matching m = {.options = options, .student = student, .teacher = teacher};
    if (kind == PARE_DISTILL_FEATURE)
        PARE_TRY_DONE(match_stages(&m));
    else
        PARE_TRY_DONE(match_layers(&m, kind));
    *pairs = m.pairs;
    *count = m.count;
    m.pairs = NULL;
done:
    free(m.pairs);
    free(m.far_shape);
    free(m.near_shape);
    free(m.far);
    free(m.near);
    return status;
}
