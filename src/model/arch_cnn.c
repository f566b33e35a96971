/* arch_cnn.c - a plain convolutional network: start here to write your own architecture.
 *
 *   --arch cnn:32-64-p-128-p-256,classes=10,size=28,in=1
 *
 * A number is a block of that many channels: convolution 3 × 3 (padding 1, no bias), batch norm,
 * ReLU; p is a 2 × 2 max pool. Then the global average, dropout if asked for, a linear layer.
 * Tensors: conv1, bn1, conv2, bn2 …, fc. Keys: in= size= classes= (3, 32, 10), dropout= (0).
 * Pixels: /255.
 */
#include "arch.h"

#include <string.h>

static const pare__role_rule rules[] = {
    {"*bn*", PARE_ROLE_NORM, NULL},
    {"*fc.*", PARE_ROLE_HEAD, NULL},
    {NULL, PARE_ROLE_OTHER, NULL},
};

static const char *const ignored[] = {"*num_batches_tracked", NULL};

#define EPS 1e-5f

/* One word of the list between '-'. */
static int layer(pare__build *b, int x, const char *word, int *convolutions)
{
    static const char expected[] = "--arch cnn: \"%s\" must be a number of channels, or p for a "
                                   "pool";
    const pare_window three = pare__square(3, 1, 1), pool = pare__square(2, 2, 0);
    int64_t width;
    if (strcmp(word, "p") == 0)
        return pare__pool_max(b, x, &pool);
    if (!pare__parse_int(word, &width) || width < 1 || width > 1 << 16)
        return pare__build_fail(b, PARE_ERR_ARGUMENT, expected, word);
    ++*convolutions;
    x = pare__conv(b, x, width, &three, 1, false, pare__name(b, "conv%d", *convolutions));
    return pare__batch_norm(b, x, EPS, -1, true, pare__name(b, "bn%d", *convolutions));
}

static void build(pare__build *b)
{
    static const char *const keys[] = {"in", "size", "classes", "dropout", NULL};
    char list[512], *rest = list;
    int convolutions = 0;
    pare__spec_keys(b, keys, 1);
    pare__spec_item(b, list, sizeof list);
    pare__picture picture = pare__spec_picture(b, 32, pare__axis(b, "conv1.weight", 1, 3));
    int64_t classes = pare__spec_classes(b, pare__axis(b, "fc.weight", 0, 10));
    double dropout = pare__spec_real(b, "dropout", 0, 0, 0.99);
    int x = pare__images(b, picture.size, picture.size, picture.channels);
    pare__preprocess(b, 1.0f / 255, NULL, NULL);
    for (char *word; b->status == PARE_OK && rest && (word = rest);) {
        rest = strchr(word, '-');
        if (rest)
            *rest++ = '\0';
        x = layer(b, x, word, &convolutions);
    }
    x = pare__dropout(b, pare__pool_global(b, x), (float)dropout);
    x = pare__linear(b, x, classes, &(pare__linear_options){.bias = true, .head = true}, "fc");
    pare__output(b, x, PARE_OUTPUT_CLASSES, classes);
}

static const pare__unit_rule units[] = {{"*", PARE_UNIT_CHANNEL, NULL},
                                        {NULL, PARE_UNIT_CHANNEL, NULL}};

static const pare__size_key sizes[] = {{"", PARE__SIZE_WORDS, PARE__ON(CHANNEL)},
                                       {NULL, PARE__SIZE_CHANNELS, 0}};

static const pare__shrink_rules shrink = {units, sizes, NULL, NULL};

const pare__arch pare__arch_cnn = {
    .family = "cnn", .rules = rules, .ignored = ignored, .build = build, .shrink = &shrink};
