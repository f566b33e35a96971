/* arch_resnet_tiny.c - the ResNet-8 of MLPerf Tiny's image classification (Banbury 2021): three
 * stages of one block, of 16, 32, 64 channels, named as Keras numbers layers; convolutions have
 * biases, padding is TensorFlow's SAME, pixels come in as bytes 0 … 255. Keys: in= size= classes=.
 */
#include "arch.h"

static const pare__role_rule rules[] = {
    {"*batch_normalization*", PARE_ROLE_NORM, NULL},
    {"*dense.*", PARE_ROLE_HEAD, NULL},
    {NULL, PARE_ROLE_OTHER, NULL},
};

static const char *const ignored[] = {"*num_batches_tracked", NULL};

#define EPS 1e-3f

/* Keras's names: the first of a kind has no number. */
static const char *numbered(pare__build *b, const char *kind, int number)
{
    return number ? pare__name(b, "%s_%d", kind, number) : kind;
}

/* SAME: ceil(n/stride) outputs, the odd row or column of padding at the bottom and right. */
static pare_window same(int64_t n, int kernel, int stride)
{
    int64_t out = (n + stride - 1) / stride;
    int64_t pad = (out - 1) * stride + kernel - n;
    pare_window window = pare__square(kernel, stride, 0);
    if (pad > 0) {
        window.pad_top = window.pad_left = (int)(pad / 2);
        window.pad_bottom = window.pad_right = (int)(pad - pad / 2);
    }
    return window;
}

static int conv(pare__build *b, int x, int64_t out, int64_t n, int kernel, int stride, int number)
{
    pare_window window = same(n, kernel, stride);
    const char *name = numbered(b, "conv2d", number);
    out = pare__stored_width(b, pare__name(b, "%s.weight", name), out);
    return pare__conv(b, x, out, &window, 1, true, name);
}

static int norm(pare__build *b, int x, int z, int number)
{
    return pare__batch_norm(b, x, EPS, z, true, numbered(b, "batch_normalization", number));
}

static void build(pare__build *b)
{
    static const char *const keys[] = {"in", "size", "classes", NULL};
    pare__spec_keys(b, keys, 0);
    pare__picture picture = pare__spec_picture(b, 32, pare__axis(b, "conv2d.weight", 1, 3));
    int64_t classes = pare__spec_classes(b, pare__axis(b, "dense.weight", 0, 10));
    int64_t n = picture.size;
    int x = pare__images(b, n, n, picture.channels);
    pare__preprocess(b, 1, NULL, NULL);
    x = norm(b, conv(b, x, 16, n, 3, 1, 0), -1, 0);
    for (int stage = 0, layer = 1, norms = 1; stage < 3; stage++, norms += 2) {
        int64_t width = (int64_t)16 << stage, out = stage ? (n + 1) / 2 : n;
        int stride = stage ? 2 : 1;
        int y = norm(b, conv(b, x, width, n, 3, stride, layer++), -1, norms);
        y = conv(b, y, width, out, 3, 1, layer++);
        if (stage)
            x = conv(b, x, width, n, 1, stride, layer++);
        x = norm(b, y, x, norms + 1);
        n = out;
    }
    x = pare__pool_global(b, x);
    x = pare__linear(b, x, classes, &(pare__linear_options){.bias = true, .head = true}, "dense");
    pare__output(b, x, PARE_OUTPUT_CLASSES, classes);
}

/* Widths are read from the checkpoint. */
static const pare__unit_rule units[] = {{"*", PARE_UNIT_CHANNEL, NULL},
                                        {NULL, PARE_UNIT_CHANNEL, NULL}};

static const pare__shrink_rules shrink = {units, NULL, NULL, NULL};

const pare__arch pare__arch_resnet_tiny = {
    .family = "resnet", .rules = rules, .ignored = ignored, .build = build, .shrink = &shrink};
