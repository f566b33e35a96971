/* arch_resnet.c - residual networks (He 2015).
 *
 * resnet{20,32,44,56,110}-cifar: three stages of 16, 32, 64 channels, shortcuts without parameters
 * (option A: every second pixel, zero channels on both sides), a linear layer; tensors as the
 * common PyTorch training code names them. resnet{18,34,50}: four stages of basic or bottleneck
 * blocks behind a 7 × 7 stem, as torchvision names them; the stride of a bottleneck lies in its
 * 3 × 3. Where channels or blocks were pruned the checkpoint says how many are left. Keys: in=
 * channels, size= of the square images, classes=. Pixels: /255, ImageNet's mean and deviation.
 */
#include "arch.h"

#include <string.h>

static const pare__role_rule rules[] = {
    {"*downsample.1.*", PARE_ROLE_NORM, NULL},
    {"*bn?.*", PARE_ROLE_NORM, NULL},
    {"*fc.*", PARE_ROLE_HEAD, NULL},
    {"*linear.*", PARE_ROLE_HEAD, NULL},
    {NULL, PARE_ROLE_OTHER, NULL},
};

static const char *const ignored[] = {"*num_batches_tracked", NULL};

#define EPS 1e-5f

typedef struct plan {
    const char *name;
    int blocks[4]; /* of each stage */
    bool cifar, bottleneck;
} plan;

static const plan plans[] = {
    {"resnet20-cifar", {3, 3, 3}, true, false},     {"resnet32-cifar", {5, 5, 5}, true, false},
    {"resnet44-cifar", {7, 7, 7}, true, false},     {"resnet56-cifar", {9, 9, 9}, true, false},
    {"resnet110-cifar", {18, 18, 18}, true, false}, {"resnet18", {2, 2, 2, 2}, false, false},
    {"resnet34", {3, 4, 6, 3}, false, false},       {"resnet50", {3, 4, 6, 3}, false, true},
};

/* A block's place: "layer2.0". */
typedef struct place {
    int stage, block;
} place;

static const char *in_block(pare__build *b, place at, const char *name, int number)
{
    return pare__name(b, "layer%d.%d.%s%d", at.stage, at.block, name, number);
}

/* Convolution `number` of a block and its norm; z as in pare__batch_norm. */
static int conv_norm(pare__build *b, int x, int64_t out, pare_window window, place at, int number,
                     int z)
{
    x = pare__conv(b, x, out, &window, 1, false, in_block(b, at, "conv", number));
    return pare__batch_norm(b, x, EPS, z, true, in_block(b, at, "bn", number));
}

static int shortcut(pare__build *b, const plan *p, int x, int64_t out, int stride, bool widens,
                    place at)
{
    if (stride == 1 && !widens)
        return x;
    if (p->cifar)
        return pare__shortcut(b, x, stride, out);
    pare_window window = pare__square(1, stride, 0);
    x = pare__conv(b, x, out, &window, 1, false, in_block(b, at, "downsample.", 0));
    return pare__batch_norm(b, x, EPS, -1, false, in_block(b, at, "downsample.", 1));
}

/* Channels that a convolution of a block gives: fewer than usual once they were pruned. */
static int64_t stored_width(pare__build *b, place at, int number, int64_t usual)
{
    return pare__stored_width(b, pare__name(b, "%s.weight", in_block(b, at, "conv", number)),
                              usual);
}

static int block(pare__build *b, const plan *p, int x, int64_t width, int stride, place at)
{
    int64_t out = p->bottleneck ? 4 * width : width, inner = stored_width(b, at, 1, width);
    if (!p->cifar)
        out = stored_width(b, at, p->bottleneck ? 3 : 2, out);
    bool widens = at.block == 0 && (p->bottleneck || at.stage > 1);
    int z = shortcut(b, p, x, out, stride, widens, at);
    if (!p->bottleneck) {
        x = conv_norm(b, x, inner, pare__square(3, stride, 1), at, 1, -1);
        return conv_norm(b, x, out, pare__square(3, 1, 1), at, 2, z);
    }
    x = conv_norm(b, x, inner, pare__square(1, 1, 0), at, 1, -1);
    inner = stored_width(b, at, 2, width);
    x = conv_norm(b, x, inner, pare__square(3, stride, 1), at, 2, -1);
    return conv_norm(b, x, out, pare__square(1, 1, 0), at, 3, z);
}

static int stem(pare__build *b, const plan *p, int x)
{
    pare_window window = p->cifar ? pare__square(3, 1, 1) : pare__square(7, 2, 3);
    pare_window pool = pare__square(3, 2, 1);
    int64_t width = p->cifar ? 16 : pare__stored_width(b, "conv1.weight", 64);
    x = pare__conv(b, x, width, &window, 1, false, "conv1");
    x = pare__batch_norm(b, x, EPS, -1, true, "bn1");
    return p->cifar ? x : pare__pool_max(b, x, &pool);
}

/* Whether the checkpoint still has a block; whole layers may have been pruned. */
static bool has_block(pare__build *b, place at)
{
    return pare__has(b, pare__name(b, "%s.weight", in_block(b, at, "conv", 1)), true) ||
           pare__has(b, pare__name(b, "%s.weight", in_block(b, at, "conv", 2)), true);
}

static void build(pare__build *b)
{
    static const char *const keys[] = {"in", "size", "classes", NULL};
    const plan *p = plans;
    while (strcmp(p->name, b->arch_name) != 0)
        p++;
    const char *head = p->cifar ? "linear" : "fc";
    pare__spec_keys(b, keys, 0);
    pare__picture picture =
        pare__spec_picture(b, p->cifar ? 32 : 224, pare__axis(b, "conv1.weight", 1, 3));
    int64_t classes = pare__spec_classes(
        b, pare__axis(b, pare__name(b, "%s.weight", head), 0, p->cifar ? 10 : 1000));
    int x = pare__images(b, picture.size, picture.size, picture.channels);
    pare__preprocess(b, 1.0f / 255, pare__imagenet_mean, pare__imagenet_std);
    x = stem(b, p, x);
    for (int s = 0; s < 4; s++)
        for (int i = 0; i < p->blocks[s] && (i == 0 || has_block(b, (place){s + 1, i})); i++)
            x = block(b, p, x, (p->cifar ? (int64_t)16 : (int64_t)64) << s, s > 0 && i == 0 ? 2 : 1,
                      (place){s + 1, i});
    x = pare__pool_global(b, x);
    x = pare__linear(b, x, classes, &(pare__linear_options){.bias = true, .head = true}, head);
    pare__output(b, x, PARE_OUTPUT_CLASSES, classes);
}

/* Widths and blocks are read from the checkpoint. */
static const pare__unit_rule units[] = {{"*", PARE_UNIT_CHANNEL, NULL},
                                        {"layer?.", PARE_UNIT_LAYER, NULL},
                                        {NULL, PARE_UNIT_CHANNEL, NULL}};

static const pare__shrink_rules shrink = {units, NULL, NULL, NULL};

const pare__arch pare__arch_resnet = {
    .family = "resnet", .rules = rules, .ignored = ignored, .build = build, .shrink = &shrink};
