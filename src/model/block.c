/* block.c - a model cut into blocks, each a model of its own.
 *
 * A cut lies after a node where that node's output is the only value alive: all that comes later
 * hangs on it. Of the cuts between two weights the last is taken, so that what has no weights (a
 * norm, an activation, a pool) stays with what made its input. A convolution and the batch norm
 * that is fused with it are not parted: the blocks give the whole model's bytes. */
#include "rotary.h"

#include "arch.h"

#include <string.h>

/* ---- where ----------------------------------------------------------------------------------- */

/* Nodes [first, end). */
typedef struct span {
    int first, end;
} span;

static bool has_weight(const pare_model *m, const pare__node *n)
{
    for (int i = 0; i < n->params; i++) {
        const pare_param *p = pare__param(m, n, i);
        if (p && (p->role == PARE_ROLE_LINEAR || p->role == PARE_ROLE_CONV))
            return true;
    }
    return false;
}

/* How many of the values that node i reads nobody reads after it. */
static int last_reads(const pare_model *m, int i)
{
    const pare__node *n = &m->nodes[i];
    int count = 0;
    for (int k = 0; k < n->inputs; k++) {
        bool again = false;
        for (int j = 0; j < k; j++)
            again = again || n->input[j] == n->input[k];
        count += !again && m->values[n->input[k]].last == i && n->input[k] != m->output;
    }
    return count;
}

static bool is_alive(const pare_model *m, int value)
{
    return m->values[value].consumers > 0 || value == m->output;
}

/* The number of blocks, and the nodes of block `index` if there is one. */
static int64_t find(const pare_model *m, int64_t index, span *nodes)
{
    int64_t count = 0;
    int first = 0, cut = -1, alive = is_alive(m, m->input);
    bool weight = false;
    for (int i = 0; i < (int)m->node_count; i++) {
        const pare__node *n = &m->nodes[i];
        if (has_weight(m, n)) {
            if (cut >= 0) {
                if (count++ == index)
                    *nodes = (span){first, cut + 1};
                first = cut + 1;
                cut = -1;
            }
            weight = true;
        }
        alive += is_alive(m, n->output) - last_reads(m, i);
        int reader = m->values[n->output].last;
        bool fused =
            reader >= 0 && m->nodes[reader].input[0] == n->output && pare__fuses(m, reader);
        if (weight && alive == 1 && is_alive(m, n->output) && !fused)
            cut = i;
    }
    if (count++ == index)
        *nodes = (span){first, (int)m->node_count};
    return count;
}

int64_t pare_model_block_count(const pare_model *model)
{
    span nodes;
    return model && model->output >= 0 ? find(model, -1, &nodes) : 0;
}

/* ---- copies ---------------------------------------------------------------------------------- */

/* A block while it is made; the numbers of the whole model's values and parameters in it, −1:
 * not there. */
typedef struct making {
    const pare_model *whole, *shaped; /* shaped: for one row of one token */
    pare_model *block;
    span nodes;
    int *value, *param;
} making;

static int add_value(making *k, int of, int producer)
{
    pare_model *b = k->block;
    pare__value *v = &b->values[b->value_count];
    *v = (pare__value){.tensor = k->shaped->values[of].tensor,
                       .producer = producer,
                       .last = -1,
                       .buffer = -1,
                       .grad_buffer = -1};
    v->tensor.data = NULL;
    k->value[of] = (int)b->value_count;
    return (int)b->value_count++;
}

static pare_status add_param(making *k, size_t of)
{
    pare_model *b = k->block;
    const pare_param *from = &k->whole->params[of];
    char *name;
    PARE_TRY(pare__strdup(from->name, &name));
    pare_param *p = &b->params[b->param_count];
    *p = *from;
    p->name = name;
    p->value.data = p->grad.data = NULL;
    p->mask = NULL;
    b->extra[b->param_count] = k->whole->extra[of];
    k->param[of] = (int)b->param_count++;
    return PARE_OK;
}

/* In the order of the model. */
static pare_status add_params(making *k, bool head)
{
    const pare_model *m = k->whole;
    pare_model *b = k->block;
    for (int i = k->nodes.first; i < k->nodes.end; i++)
        for (int p = 0; p < m->nodes[i].params; p++)
            if (m->nodes[i].param[p] >= 0)
                k->param[m->nodes[i].param[p]] = 0; /* wanted; its number follows */
    if (head && m->head >= 0)
        k->param[m->head] = 0;
    if (head && m->head_bias >= 0)
        k->param[m->head_bias] = 0;
    size_t count = 0;
    for (size_t i = 0; i < m->param_count; i++)
        count += k->param[i] == 0;
    PARE_TRY(pare__calloc(count, sizeof *b->params, &b->params));
    PARE_TRY(pare__calloc(count, sizeof *b->extra, &b->extra));
    b->param_capacity = b->extra_capacity = count;
    for (size_t i = 0; i < m->param_count; i++)
        if (k->param[i] == 0)
            PARE_TRY(add_param(k, i));
    b->head = head && m->head >= 0 ? k->param[m->head] : -1;
    b->head_bias = head && m->head_bias >= 0 ? k->param[m->head_bias] : -1;
    return PARE_OK;
}

static pare_status add_node(making *k, const pare__node *from)
{
    pare_model *b = k->block;
    int index = (int)b->node_count;
    pare__node *n = &b->nodes[index];
    *n = (pare__node){.kind = from->kind,
                      .inputs = from->inputs,
                      .params = from->params,
                      .a = from->a,
                      .traits = from->kind->traits,
                      .fused = -1};
    PARE_TRY(pare__strdup(from->name, &n->name));
    b->node_count++;
    for (int i = 0; i < n->inputs; i++) {
        n->input[i] = k->value[from->input[i]];
        PARE_ASSERT(n->input[i] >= 0);
        b->values[n->input[i]].consumers++;
        b->values[n->input[i]].last = index;
    }
    for (int i = 0; i < n->params; i++)
        n->param[i] = from->param[i] >= 0 ? k->param[from->param[i]] : -1;
    n->output = add_value(k, from->output, index);
    return PARE_OK;
}

static pare_status add_nodes(making *k)
{
    const pare_model *m = k->whole;
    pare_model *b = k->block;
    size_t count = (size_t)(k->nodes.end - k->nodes.first);
    PARE_TRY(pare__calloc(count, sizeof *b->nodes, &b->nodes));
    PARE_TRY(pare__calloc(count + 1, sizeof *b->values, &b->values));
    b->node_capacity = count;
    b->value_capacity = count + 1;
    b->input =
        add_value(k, k->nodes.first > 0 ? m->nodes[k->nodes.first - 1].output : m->input, -1);
    if (k->nodes.first > 0 || m->hidden.rank > 0)
        b->hidden = b->values[b->input].tensor;
    for (int i = k->nodes.first; i < k->nodes.end; i++)
        PARE_TRY(add_node(k, &m->nodes[i]));
    bool last = k->nodes.end == (int)m->node_count;
    b->output = last ? k->value[m->output] : b->nodes[count - 1].output;
    return PARE_OK;
}

static pare_status copy_texts(const pare_model *m, pare_model *b)
{
    if (!m->arch)
        return pare__strdup(m->config, &b->config);
    PARE_TRY(pare__strdup(m->arch, &b->arch));
    PARE_TRY(pare__calloc(1, strlen(m->arch) + PARE__CONFIG_ROOM, &b->config));
    return PARE_OK;
}

static bool turns(const pare_model *b)
{
    for (size_t i = 0; i < b->node_count; i++)
        if (b->nodes[i].kind == &pare__node_rotary)
            return true;
    return false;
}

static pare_status make(making *k, bool last, bool no_head)
{
    const pare_model *m = k->whole;
    pare_model *b = k->block;
    b->facts = m->facts;
    if (!last)
        b->facts.output = PARE_OUTPUT_HIDDEN;
    b->ignored = m->ignored;
    b->output_buffer = b->output_grad_buffer = -1;
    b->shape = k->shaped->shape;
    PARE_TRY(copy_texts(m, b));
    PARE_TRY(add_params(k, last && !no_head));
    PARE_TRY(add_nodes(k));
    if (turns(b))
        PARE_TRY(pare__rotary_copy(m->rotary, &b->rotary));
    return PARE_OK;
}

static pare_status make_numbers(size_t count, int **numbers)
{
    PARE_TRY(pare__calloc(count, sizeof **numbers, numbers));
    for (size_t i = 0; i < count; i++)
        (*numbers)[i] = -1;
    return PARE_OK;
}

pare_status pare_model_block(const pare_model *model, int64_t index, bool no_head,
                             pare_model **block)
{
    pare_status status = PARE_OK;
    const pare_model *m = model;
    int64_t count = pare_model_block_count(model);
    *block = NULL;
    PARE_REQUIRE(index >= 0 && index < count, PARE_ERR_ARGUMENT,
                 "the model has %lld blocks: there is no block %lld", (long long)count,
                 (long long)index);
    pare_model shaped = {0};
    making k = {.whole = m, .shaped = &shaped};
    const pare_model_shape one = {.batch = 1, .length = m->facts.tokens, .compute = PARE_F32};
    find(m, index, &k.nodes);
    PARE_TRY(pare__draft(m, &one, &shaped));
    PARE_TRY_DONE(make_numbers(m->value_count, &k.value));
    PARE_TRY_DONE(make_numbers(m->param_count, &k.param));
    PARE_TRY_DONE(pare__calloc(1, sizeof *k.block, &k.block));
    PARE_TRY_DONE(make(&k, index == count - 1, no_head));
    *block = k.block;
    k.block = NULL;
done:
    pare_model_free(&k.block);
    free(k.param);
    free(k.value);
    pare__draft_free(&shaped);
    return status;
}
