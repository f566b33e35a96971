/* arch_mlp.c - fully connected layers over the pixels of an image.
 *
 *   --arch mlp:784-256-10            784 inputs (28 × 28), 256 hidden, 10 classes
 *
 * Images are as many pixels: one channel if that makes a square, else three, else one row; in= and
 * size= say otherwise. Pixels are flattened as PyTorch does (channel, row, column). Keys: act=
 * relu, gelu, silu, tanh, sigmoid (relu), dropout= (0; after each activation). Pixels: /255.
 *
 * Tensors: layers.0, layers.1 …, head. A given state dict's own names (fc1, 0.weight …) are taken
 * where they are not ambiguous: as many matrices of each shape as the list has, in the order of
 * their names (numbers as numbers).
 */
#include "arch.h"

#include <string.h>

static const pare__role_rule rules[] = {
    {"*head.*", PARE_ROLE_HEAD, NULL},
    {NULL, PARE_ROLE_OTHER, NULL},
};

static const char *const ignored[] = {NULL};

#define MOST 64 /* layers */

typedef struct perceptron {
    int64_t width[MOST + 1];
    int layers;
} perceptron;

static void read_widths(pare__build *b, perceptron *p)
{
    char list[512], *rest = list;
    int64_t width[MOST + 1];
    int count = 0;
    pare__spec_item(b, list, sizeof list);
    for (char *word; b->status == PARE_OK && rest && (word = rest);) {
        rest = strchr(word, '-');
        if (rest)
            *rest++ = '\0';
        if (count > MOST)
            pare__build_fail(b, PARE_ERR_ARGUMENT, "--arch mlp: more than %d layers", MOST);
        else if (!pare__parse_int(word, &width[count]) || width[count] < 1 ||
                 width[count] > PARE__MOST_WIDTH)
            pare__build_fail(b, PARE_ERR_ARGUMENT,
                             "--arch mlp: \"%s\" must be a width, as in mlp:784-256-10", word);
        else
            p->width[count] = width[count], count++;
    }
    if (count < 2)
        pare__build_fail(b, PARE_ERR_ARGUMENT,
                         "--arch mlp takes the widths of inputs, layers and classes, as in "
                         "mlp:784-256-10");
    else if (b->classes)
        p->width[count - 1] = b->classes;
    p->layers = count - 1;
}

/* ---- names of a given state dict ------------------------------------------------------------- */

/* Byte order, but runs of digits by their value: "fc2" before "fc10". */
static int natural(const char *a, const char *b)
{
    while (*a && *b) {
        size_t m = strspn(a, "0123456789"), n = strspn(b, "0123456789");
        if (m && n) {
            size_t zeros_a = strspn(a, "0"), zeros_b = strspn(b, "0");
            zeros_a = zeros_a < m ? zeros_a : m - 1;
            zeros_b = zeros_b < n ? zeros_b : n - 1;
            if (m - zeros_a != n - zeros_b)
                return m - zeros_a < n - zeros_b ? -1 : 1;
            int order = memcmp(a + zeros_a, b + zeros_b, m - zeros_a);
            if (order)
                return order;
            a += m;
            b += n;
        } else if (*a != *b) {
            return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
        } else {
            a++;
            b++;
        }
    }
    return (*a != '\0') - (*b != '\0');
}

static bool fits(const pare_entry *entry, const perceptron *p, int layer)
{
    return entry->rank == 2 && entry->shape[0] == p->width[layer + 1] &&
           entry->shape[1] == p->width[layer];
}

static bool same_shape(const perceptron *p, int i, int j)
{
    return p->width[i] == p->width[j] && p->width[i + 1] == p->width[j + 1];
}

/* How many matrices of the layer's shape the checkpoint has; if `name` is given, only those whose
 * names come before it. */
static int count_fits(const pare_store *store, const perceptron *p, int layer, const char *name)
{
    int64_t count = store ? pare_store_count(store) : 0;
    int found = 0;
    for (int64_t e = 0; e < count && found <= MOST; e++) {
        const pare_entry *entry = pare_store_entry(store, e);
        found += fits(entry, p, layer) && (!name || natural(entry->name, name) < 0);
    }
    return found;
}

/* The matrix that is the layer's: of those of its shape the one that stands where the layer stands
 * among the layers of that shape; NULL if there are not as many. */
static const pare_entry *own_entry(const pare__build *b, const perceptron *p, int layer)
{
    int before = 0, alike = 0;
    for (int i = 0; i < p->layers; i++) {
        alike += same_shape(p, i, layer);
        before += i < layer && same_shape(p, i, layer);
    }
    if (count_fits(b->store, p, layer, NULL) != alike)
        return NULL;
    for (int64_t e = 0; e < pare_store_count(b->store); e++) {
        const pare_entry *entry = pare_store_entry(b->store, e);
        if (fits(entry, p, layer) && count_fits(b->store, p, layer, entry->name) == before)
            return entry;
    }
    return NULL;
}

/* ---- the graph ------------------------------------------------------------------------------- */

static int linear(pare__build *b, int x, const perceptron *p, int layer)
{
    static const char suffix[] = ".weight";
    bool last = layer == p->layers - 1;
    const char *name = last ? "head" : pare__name(b, "layers.%d", layer);
    pare__linear_options options = {.bias = true, .head = last};
    const pare_entry *own = own_entry(b, p, layer);
    size_t length = own ? strlen(own->name) : 0, skip = strlen(b->prefix);
    if (length > skip + strlen(suffix) &&
        strcmp(own->name + length - strlen(suffix), suffix) == 0) {
        name = pare__name(b, "%.*s", (int)(length - strlen(suffix) - skip), own->name + skip);
        options.bias = pare__has(b, pare__name(b, "%s.bias", name), true);
    }
    return pare__linear(b, x, p->width[layer + 1], &options, name);
}

/* The side of a square of n pixels, 0 if they make none. */
static int64_t side_of(int64_t n)
{
    int64_t side = 1;
    while (side * side < n)
        side++;
    return side * side == n ? side : 0;
}

static int images(pare__build *b, int64_t pixels)
{
    int64_t grey = side_of(pixels), colour = pixels % 3 ? 0 : side_of(pixels / 3);
    int64_t channels = pare__spec_int(b, "in", !grey && colour ? 3 : 1, 1, 4);
    int64_t size =
        pare__spec_int(b, "size", pixels % channels ? 0 : side_of(pixels / channels), 1, 1 << 14);
    if (size > 0 && size * size * channels != pixels)
        return pare__build_fail(
            b, PARE_ERR_ARGUMENT, "--arch mlp: images of %lld × %lld × %lld are no %lld inputs",
            (long long)size, (long long)size, (long long)channels, (long long)pixels);
    if (size > 0)
        return pare__images(b, size, size, channels);
    return pare__images(b, 1, pixels, 1);
}

static void build(pare__build *b)
{
    static const char *const keys[] = {"act", "dropout", "in", "size", NULL};
    static const char *const names[] = {"relu", "gelu", "silu", "tanh", "sigmoid"};
    static const pare_fn functions[] = {PARE_FN_RELU, PARE_FN_GELU, PARE_FN_SILU, PARE_FN_TANH,
                                        PARE_FN_SIGMOID};
    perceptron p;
    char act[16];
    size_t fn = 0, count = sizeof names / sizeof *names;
    pare__spec_keys(b, keys, 1);
    read_widths(b, &p);
    pare__spec_word(b, "act", names[0], act, sizeof act);
    while (fn < count && strcmp(names[fn], act) != 0)
        fn++;
    if (fn == count) {
        pare__build_fail(b, PARE_ERR_ARGUMENT,
                         "--arch mlp: act=%s must be relu, gelu, silu, tanh or sigmoid", act);
        fn = 0;
    }
    double dropout = pare__spec_real(b, "dropout", 0, 0, 0.99);
    if (b->status != PARE_OK)
        return;
    int x = images(b, p.width[0]);
    pare__preprocess(b, 1.0f / 255, NULL, NULL);
    x = pare__flatten(b, x, true);
    for (int i = 0; i < p.layers; i++) {
        x = linear(b, x, &p, i);
        if (i < p.layers - 1)
            x = pare__dropout(b, pare__act(b, x, functions[fn]), (float)dropout);
    }
    pare__output(b, x, PARE_OUTPUT_CLASSES, p.width[p.layers]);
}

static const pare__unit_rule units[] = {{"*", PARE_UNIT_CHANNEL, NULL},
                                        {NULL, PARE_UNIT_CHANNEL, NULL}};

static const pare__size_key sizes[] = {{"", PARE__SIZE_WORDS_AFTER, PARE__ON(CHANNEL)},
                                       {NULL, PARE__SIZE_CHANNELS, 0}};

static const pare__shrink_rules shrink = {units, sizes, NULL, NULL};

const pare__arch pare__arch_mlp = {
    .family = "mlp", .rules = rules, .ignored = ignored, .build = build, .shrink = &shrink};
