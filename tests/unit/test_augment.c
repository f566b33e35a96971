/* test_augment.c - crops, flips and mixing: what they do to the pixels, how often, and that they
 * depend on (seed, epoch, sample) alone. */
#include "test.h"

#include "data_fixture.h"

#include "pare/data.h"

#include <math.h>

enum { COUNT = 6, HEIGHT = 5, WIDTH = 4, CHANNELS = 3, PIXELS = HEIGHT * WIDTH * CHANNELS };

typedef struct fixture {
    char *folder, *bytes, *floats, *labels;
} fixture;

/* What image n holds at (y, x, c): tells its place. Never 0, which is what padding is made of. */
static int value(int n, int y, int x, int c)
{
    return 1 + n * 40 + y * 8 + x * 2 + c % 2;
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    unsigned char bytes[COUNT * PIXELS];
    float floats[COUNT * PIXELS];
    assert_non_null(f);
    f->folder = test_folder_make();
    for (int n = 0, i = 0; n < COUNT; n++)
        for (int y = 0; y < HEIGHT; y++)
            for (int x = 0; x < WIDTH; x++)
                for (int c = 0; c < CHANNELS; c++, i++) {
                    bytes[i] = (unsigned char)value(n, y, x, c);
                    floats[i] = (float)value(n, y, x, c);
                }
    f->bytes = data_npy(f->folder, "bytes.npy", "|u1", "(6, 5, 4, 3)", bytes, sizeof bytes);
    f->floats = data_npy(f->folder, "floats.npy", "<f4", "(6, 5, 4, 3)", floats, sizeof floats);
    f->labels = data_write(f->folder, "labels.u8", "\0\1\2\3\4\5", COUNT);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    test_folder_remove(f->folder);
    free(f->bytes);
    free(f->floats);
    free(f->labels);
    free(f);
    return 0;
}

static pare_data_options images(const fixture *f)
{
    return (pare_data_options){.path = f->bytes,
                               .labels = f->labels,
                               .channels = CHANNELS,
                               .mean = {16, 32, 64},
                               .std = {2, 4, 8},
                               .pad_id = -1,
                               .bos_id = -1,
                               .shuffle = true,
                               .seed = 11};
}

/* A batch of a fresh dataset; both are the caller's. */
static pare_batch *fill(const pare_data_options *o, int64_t first, int64_t size, pare_dataset **d)
{
    pare_batch *b = NULL;
    assert_ok(pare_dataset_open(o, d));
    assert_ok(pare_batch_create(*d, size, &b));
    assert_ok(pare_dataset_fill(*d, first, size, b));
    return b;
}

/* Pixel (y, x, c) of image n under a view, by the definition: padded, cropped, then flipped. */
static float seen(const pare_data_options *o, bool raw, int n, int down, int right, bool flip,
                  int y, int x, int c)
{
    int from_y = y + down, from_x = (flip ? WIDTH - 1 - x : x) + right;
    bool inside = from_y >= 0 && from_y < HEIGHT && from_x >= 0 && from_x < WIDTH;
    float v = inside ? (float)value(n, from_y, from_x, c) : 0;
    return raw ? v : (v - o->mean[c]) / o->std[c];
}

/* Whether an image of a batch is image n under this view. */
static bool is_view(const pare_data_options *o, bool raw, const float *image, int n, int down,
                    int right, bool flip)
{
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++)
            for (int c = 0; c < CHANNELS; c++)
                if (image[(y * WIDTH + x) * CHANNELS + c] !=
                    seen(o, raw, n, down, right, flip, y, x, c))
                    return false;
    return true;
}

static void crops_and_flips_are_uniform_and_pad_with_raw_zeros(void **state)
{
    fixture *f = *state;
    enum { CROP = 3, SIDE = 2 * CROP + 1, SAMPLES = 20000 };
    for (int raw = 0; raw < 2; raw++) {
        pare_data_options o = images(f);
        pare_dataset *d = NULL;
        o.path = raw ? f->floats : f->bytes; /* floats are normalised already, and pad with 0 */
        o.crop = CROP;
        o.flip = true;
        pare_batch *b = fill(&o, 0, SAMPLES, &d);
        int views[SIDE][SIDE] = {{0}}, flipped = 0;
        for (int i = 0; i < SAMPLES; i++) {
            int found = 0;
            for (int v = 0; v < SIDE * SIDE * 2; v++) {
                int down = v / 2 / SIDE - CROP, right = v / 2 % SIDE - CROP;
                if (!is_view(&o, raw, b->images + (size_t)i * PIXELS, b->labels[i], down, right,
                             v % 2))
                    continue;
                found++;
                views[down + CROP][right + CROP]++;
                flipped += v % 2;
            }
            assert_int_equal(found, 1);
        }
        for (int v = 0; v < SIDE * SIDE; v++)
            assert_true(abs(views[v / SIDE][v % SIDE] - SAMPLES / (SIDE * SIDE)) < 105);
        assert_true(abs(flipped - SAMPLES / 2) < 360); /* five standard deviations, both */
        pare_batch_free(&b);
        pare_dataset_close(&d);
    }
}

static void flips_alone_move_nothing_else(void **state)
{
    fixture *f = *state;
    pare_data_options o = images(f);
    pare_dataset *d = NULL;
    o.flip = true;
    pare_batch *b = fill(&o, 0, 600, &d);
    int flipped = 0;
    for (int i = 0; i < 600; i++) {
        bool flip = is_view(&o, false, b->images + (size_t)i * PIXELS, b->labels[i], 0, 0, true);
        assert_true(flip ||
                    is_view(&o, false, b->images + (size_t)i * PIXELS, b->labels[i], 0, 0, false));
        flipped += flip;
    }
    assert_true(flipped > 230 && flipped < 370);
    pare_batch_free(&b);
    pare_dataset_close(&d);
}

static void a_sample_is_the_same_in_every_batch(void **state)
{
    fixture *f = *state;
    pare_data_options o = images(f);
    pare_dataset *d = NULL, *again = NULL;
    o.crop = 2;
    o.flip = true;
    o.mixup = 0.4F;
    pare_batch *all = fill(&o, 0, 40, &d), *one = fill(&o, 39, 1, &again);
    for (int g = 39; g >= 0; g--) { /* alone, in another order, from another opening */
        assert_ok(pare_dataset_fill(again, g, 1, one));
        assert_memory_equal(one->images, all->images + (size_t)g * PIXELS, PIXELS * sizeof(float));
        assert_int_equal(one->labels[0], all->labels[g]);
        assert_int_equal(one->labels2[0], all->labels2[g]);
        assert_true(one->mix[0] == all->mix[g]);
    }
    pare_batch_free(&one);
    pare_dataset_close(&again);
    o.seed++;
    one = fill(&o, 0, 40, &again);
    assert_memory_not_equal(one->images, all->images, 40 * PIXELS * sizeof(float));
    pare_batch_free(&one);
    pare_batch_free(&all);
    pare_dataset_close(&again);
    pare_dataset_close(&d);
}

static void epochs_are_permutations_with_views_of_their_own(void **state)
{
    fixture *f = *state;
    pare_data_options o = images(f);
    pare_dataset *d = NULL;
    o.crop = 2;
    pare_batch *b = fill(&o, 0, 20 * COUNT, &d);
    int same_order = 0, same_view = 0;
    for (int epoch = 0; epoch < 20; epoch++) {
        bool taken[COUNT] = {false}, same = true;
        for (int i = 0; i < COUNT; i++) {
            int g = epoch * COUNT + i;
            assert_false(taken[b->labels[g]]);
            taken[b->labels[g]] = true;
            assert_int_equal(b->labels[g], pare_dataset_item(d, g));
            same = same && b->labels[g] == b->labels[i];
            same_view +=
                epoch > 0 && memcmp(b->images + (size_t)g * PIXELS, b->images + (size_t)i * PIXELS,
                                    PIXELS * sizeof(float)) == 0;
        }
        same_order += same;
    }
    assert_true(same_order <= 2 && same_view < 10);
    pare_batch_free(&b);
    pare_dataset_close(&d);
}

/* The mixture of two plain images is found again in the batch. */
static void mixing_is_a_share_of_each_image_and_both_labels(void **state)
{
    fixture *f = *state;
    enum { SAMPLES = 6000 };
    pare_data_options o = images(f);
    pare_dataset *d = NULL;
    o.mixup = 0.5F;
    pare_batch *b = fill(&o, 0, SAMPLES, &d);
    int partners[COUNT][COUNT] = {{0}};
    double sum = 0, squares = 0;
    for (int i = 0; i < SAMPLES; i++) {
        int own = b->labels[i], other = b->labels2[i];
        float share = b->mix[i];
        assert_true(share >= 0 && share <= 1);
        partners[own][other]++;
        sum += (double)share;
        squares += (double)share * (double)share;
        for (int y = 0, p = 0; y < HEIGHT; y++)
            for (int x = 0; x < WIDTH; x++)
                for (int c = 0; c < CHANNELS; c++, p++) {
                    float want = share * seen(&o, false, own, 0, 0, false, y, x, c) +
                                 (1 - share) * seen(&o, false, other, 0, 0, false, y, x, c);
                    assert_true(b->images[i * PIXELS + p] == want);
                }
    }
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < COUNT; j++) /* each of the others equally often, never itself */
            assert_true(i == j ? partners[i][j] == 0 : abs(partners[i][j] - SAMPLES / 30) < 75);
    double mean = sum / SAMPLES, variance = squares / SAMPLES - mean * mean;
    assert_true(fabs(mean - 0.5) < 0.025 && fabs(variance - 0.125) < 0.01); /* Beta(0.5, 0.5) */
    pare_batch_free(&b);
    pare_dataset_close(&d);
}

static void what_is_mixed_in_is_as_its_own_sample_shows_it(void **state)
{
    fixture *f = *state;
    pare_data_options o = images(f);
    pare_dataset *plain_set = NULL, *mixed_set = NULL;
    o.crop = 2;
    o.flip = true;
    pare_batch *plain = fill(&o, 0, COUNT, &plain_set);
    o.mixup = 1;
    pare_batch *mixed = fill(&o, 0, COUNT, &mixed_set);
    for (int i = 0; i < COUNT; i++) {
        int other = 0; /* within an epoch a label is one sample */
        while (plain->labels[other] != mixed->labels2[i])
            other++;
        for (int p = 0; p < PIXELS; p++)
            assert_true(mixed->images[i * PIXELS + p] ==
                        mixed->mix[i] * plain->images[i * PIXELS + p] +
                            (1 - mixed->mix[i]) * plain->images[other * PIXELS + p]);
    }
    pare_batch_free(&plain);
    pare_batch_free(&mixed);
    pare_dataset_close(&plain_set);
    pare_dataset_close(&mixed_set);
}

static void a_single_image_mixes_with_itself(void **state)
{
    fixture *f = *state;
    pare_data_options o = images(f);
    pare_dataset *d = NULL;
    o.samples = 1;
    o.mixup = 1;
    pare_batch *b = fill(&o, 0, 3, &d);
    for (int i = 0; i < 3; i++)
        assert_int_equal(b->labels[i], b->labels2[i]);
    pare_batch_free(&b);
    pare_dataset_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crops_and_flips_are_uniform_and_pad_with_raw_zeros),
        cmocka_unit_test(flips_alone_move_nothing_else),
        cmocka_unit_test(a_sample_is_the_same_in_every_batch),
        cmocka_unit_test(epochs_are_permutations_with_views_of_their_own),
        cmocka_unit_test(mixing_is_a_share_of_each_image_and_both_labels),
        cmocka_unit_test(what_is_mixed_in_is_as_its_own_sample_shows_it),
        cmocka_unit_test(a_single_image_mixes_with_itself),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
