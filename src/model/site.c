/* site.c - the products that read one value, and where a scale of that value can be folded into.
 *
 * A value is followed through what leaves its rows as they are: dropout (nothing in inference) and
 * an image seen as a sequence. A fold goes up from it as long as a positive scale of a channel
 * passes (max(x, 0), pools, the linear factor of a gate, attention's values, slices) to the first
 * parameters that are a factor of the channel, and it must find nobody else on the way who reads
 * what is scaled. */
#include "node.h"

#include <string.h>

/* ---- which products -------------------------------------------------------------------------- */

static bool is_product(const pare__node *n)
{
    return n->kind == &pare__node_linear || n->kind == &pare__node_conv;
}

static bool is_plain(const pare__node *n)
{
    return n->kind == &pare__node_dropout || (n->kind == &pare__node_reshape && n->a.sequence);
}

/* The value that a product's input is, whatever it is called on the way. */
static int root(const pare_model *m, const pare__node *n)
{
    int value = n->input[0], producer;
    while ((producer = m->values[value].producer) >= 0 && is_plain(&m->nodes[producer]))
        value = m->nodes[producer].input[0];
    return value;
}

static bool same_site(const pare_model *m, int a, int b)
{
    const pare__node *x = &m->nodes[a], *y = &m->nodes[b];
    if (!is_product(y) || x->kind != y->kind || root(m, x) != root(m, y))
        return false;
    return x->kind == &pare__node_linear ||
           (x->a.groups == y->a.groups &&
            memcmp(&x->a.window, &y->a.window, sizeof x->a.window) == 0);
}

/* Whether a site begins with node i: more products than a site holds are several. */
static bool begins(const pare_model *m, int i)
{
    int before = 0;
    if (!is_product(&m->nodes[i]))
        return false;
    for (int j = m->values[root(m, &m->nodes[i])].producer + 1; j < i; j++)
        before += same_site(m, i, j);
    return before % PARE_SITE_LAYERS == 0;
}

static bool reads(const pare_site *site, int node)
{
    for (int i = 0; i < site->count; i++)
        if (site->node[i] == node)
            return true;
    return false;
}

static void collect(const pare_model *m, int first, pare_site *site)
{
    const pare__node *n = &m->nodes[first];
    const pare_tensor *w = &m->params[n->param[0]].value;
    bool conv = n->kind == &pare__node_conv;
    int groups = conv && n->a.groups > 1 ? n->a.groups : 1;
    *site = (pare_site){.conv = conv,
                        .groups = groups,
                        .inner = conv ? w->shape[2] * w->shape[3] : 1,
                        .cols = conv ? w->shape[1] * w->shape[2] * w->shape[3] : w->shape[1],
                        .fold_weight = -1,
                        .fold_bias = -1,
                        .fold_dim = 1,
                        .fold_repeat = 1};
    if (conv)
        site->window = n->a.window;
    snprintf(site->name, sizeof site->name, "%s", n->name);
    for (int j = first; j < (int)m->node_count && site->count < PARE_SITE_LAYERS; j++)
        if (same_site(m, first, j)) {
            site->node[site->count] = j;
            site->param[site->count++] = m->nodes[j].param[0];
        }
}

/* ---- who reads ------------------------------------------------------------------------------- */

/* Whether nobody but the site's products reads a value. */
static bool only_site_reads(const pare_model *m, const pare_site *site, int value)
{
    const pare__value *v = &m->values[value];
    if (value == m->output)
        return false;
    for (int j = v->producer + 1; j <= v->last; j++) {
        const pare__node *n = &m->nodes[j];
        for (int k = 0; k < n->inputs; k++) {
            if (n->input[k] != value || reads(site, j))
                continue;
            if (!is_plain(n) || !only_site_reads(m, site, n->output))
                return false;
        }
    }
    return true;
}

static bool one_reads(const pare_model *m, int value)
{
    return value != m->output && m->values[value].consumers == 1;
}

/* Whether a slice's source is read by nobody else but slices of other columns. */
static bool slices_are_apart(const pare_model *m, const pare__node *slice)
{
    int source = slice->input[0];
    const pare__value *v = &m->values[source];
    if (source == m->output)
        return false;
    for (int j = v->producer + 1; j <= v->last; j++) {
        const pare__node *n = &m->nodes[j];
        bool other = false;
        for (int k = 0; k < n->inputs; k++)
            other = other || (n->input[k] == source && n != slice);
        if (other &&
            (n->kind != &pare__node_slice || (n->a.first < slice->a.first + slice->a.cols &&
                                              slice->a.first < n->a.first + n->a.cols)))
            return false;
    }
    return true;
}

/* Whether a parameter (−1: none) has this one use. */
static bool one_use(const pare_model *m, int64_t param)
{
    int uses = (m->head == param) + (m->head_bias == param);
    for (size_t i = 0; i < m->node_count; i++)
        for (int k = 0; k < m->nodes[i].params; k++)
            uses += m->nodes[i].param[k] == param;
    return param < 0 || uses == 1;
}

/* ---- the fold -------------------------------------------------------------------------------- */

/* Channel c of the site's input is channel first + (c/repeat/dim)·dim + c % dim of a value. */
typedef struct climb {
    int value;
    int64_t first, repeat, dim;
    bool sliced;
} climb;

/* `repeat` channels, dim apart, are one from here on. False: they were so before. */
static bool share(climb *at, int64_t repeat, int64_t dim)
{
    if (repeat == 1)
        return true;
    if (at->sliced || at->repeat > 1)
        return false;
    at->repeat = repeat;
    at->dim = dim;
    return true;
}

static bool over_reshape(const pare_model *m, const pare__node *n, climb *at)
{
    pare_tensor x = pare__in(m, n, 0);
    at->value = n->input[0];
    if (n->a.sequence)
        return true;
    /* PyTorch's order has a channel's pixels together, ours a pixel's channels. */
    return share(at, x.shape[1] * x.shape[2], n->a.channels_first ? 1 : x.shape[3]);
}

/* From a node's output to the input that its channels are proportional to. */
static bool over(const pare_model *m, const pare__node *n, climb *at)
{
    at->value = n->input[0];
    if (n->kind == &pare__node_act)
        return n->a.fn == PARE_FN_RELU;
    if (n->kind == &pare__node_reshape)
        return over_reshape(m, n, at);
    if (n->kind == &pare__node_glu) {
        at->value = n->input[1];
        return true;
    }
    if (n->kind == &pare__node_attention) {
        at->value = n->input[2];
        return share(at, n->a.heads / n->a.kv_heads, n->a.head_dim);
    }
    if (n->kind == &pare__node_slice) {
        at->first += n->a.first;
        at->sliced = true;
        return true;
    }
    return n->kind == &pare__node_dropout || n->kind == &pare__node_pool_max ||
           n->kind == &pare__node_pool_avg || n->kind == &pare__node_pool_seq ||
           n->kind == &pare__node_row;
}

/* Whether the node's first two parameters are weight and bias of its output's channels. */
static bool is_factor(const pare__node *n)
{
    return is_product(n) || n->kind == &pare__node_layer_norm ||
           (n->kind == &pare__node_rms_norm && n->a.head_dim <= 0) ||
           (n->kind == &pare__node_batch_norm && n->inputs == 1);
}

static void find_fold(const pare_model *m, pare_site *site)
{
    climb at = {.value = root(m, &m->nodes[site->node[0]]), .repeat = 1, .dim = 1};
    bool free = site->groups == 1 && only_site_reads(m, site, at.value);
    for (int i = 0; i < site->count; i++)
        free = free && one_use(m, site->param[i]);
    while (free && m->values[at.value].producer >= 0) {
        const pare__node *n = &m->nodes[m->values[at.value].producer];
        int64_t weight = n->params > 0 ? n->param[0] : -1, bias = n->params > 1 ? n->param[1] : -1;
        if (is_factor(n)) {
            if (weight < 0 || !one_use(m, weight) || !one_use(m, bias))
                return;
            site->fold_weight = weight;
            site->fold_bias = bias;
            site->fold_first = at.first;
            site->fold_dim = at.dim;
            site->fold_repeat = (int)at.repeat;
            return;
        }
        free = over(m, n, &at) &&
               (n->kind == &pare__node_slice ? slices_are_apart(m, n) : one_reads(m, at.value));
    }
}

/* ---- what all may ask ------------------------------------------------------------------------ */

int64_t pare_model_site_count(const pare_model *model)
{
    int64_t count = 0;
    for (int i = 0; model && i < (int)model->node_count; i++)
        count += begins(model, i);
    return count;
}

pare_status pare_model_site(const pare_model *model, int64_t index, pare_site *site)
{
    int64_t count = 0;
    PARE_REQUIRE(model && site, PARE_ERR_ARGUMENT, "a site needs a model and a place for it");
    for (int i = 0; i < (int)model->node_count; i++) {
        if (!begins(model, i) || count++ != index)
            continue;
        collect(model, i, site);
        find_fold(model, site);
        return PARE_OK;
    }
    PARE_FAIL(PARE_ERR_ARGUMENT, "the model has %lld sites: there is no site %lld",
              (long long)count, (long long)index);
}
