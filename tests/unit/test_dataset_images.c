/* test_dataset_images.c - images of every format come out as [B, H, W, C], normalised; hostile
 * files are refused. */
#include "test.h"

#include "data_fixture.h"

#include "pare/data.h"

#include "base/file.h"

#include <math.h>

static int setup(void **state)
{
    *state = test_folder_make();
    return 0;
}

static int teardown(void **state)
{
    test_folder_remove(*state);
    return 0;
}

/* Options for a model that leaves the size open and takes bytes as they are. */
static pare_data_options images(const char *path)
{
    return (pare_data_options){.path = path, .pad_id = -1, .bos_id = -1};
}

static pare_data_options sized(const char *path, int64_t height, int64_t width, int64_t channels)
{
    pare_data_options o = images(path);
    o.height = height, o.width = width, o.channels = channels;
    return o;
}

static pare_dataset *open(const pare_data_options *options)
{
    pare_dataset *d = NULL;
    assert_ok(pare_dataset_open(options, &d));
    return d;
}

static pare_batch *fill(const pare_dataset *d, int64_t first, int64_t size)
{
    pare_batch *b = NULL;
    assert_ok(pare_batch_create(d, size, &b));
    assert_ok(pare_dataset_fill(d, first, size, b));
    assert_true(b->size == size && b->length == 0 && b->images && !b->ids && !b->keys);
    assert_true(!b->labels2 && !b->mix);
    return b;
}

static void refused(const pare_data_options *options, pare_status want, const char *says)
{
    pare_dataset *d = NULL;
    assert_status(pare_dataset_open(options, &d), want);
    if (!strstr(pare_last_error(), says))
        fail_msg("\"%s\" does not say \"%s\"", pare_last_error(), says);
    assert_null(d);
}

/* Opens, and fails unless all images are these numbers and labels (NULL: none). */
static void holds(const pare_data_options *options, int64_t count, int64_t pixels,
                  const float *want, const int *labels)
{
    pare_dataset *d = open(options);
    assert_int_equal(pare_dataset_count(d), count);
    assert_int_equal(pare_dataset_length(d), 0);
    assert_true(pare_dataset_labelled(d) == (labels != NULL));
    pare_batch *b = fill(d, 0, count);
    for (int64_t i = 0; i < count * pixels; i++)
        assert_true(b->images[i] == want[i]);
    int greatest = -1;
    for (int64_t i = 0; labels && i < count; i++) {
        assert_int_equal(b->labels[i], labels[i]);
        greatest = greatest > labels[i] ? greatest : labels[i];
    }
    assert_int_equal(pare_dataset_classes(d), greatest + 1);
    assert_true((b->labels != NULL) == (labels != NULL));
    pare_batch_free(&b);
    pare_dataset_close(&d);
}

/* ---- CIFAR ----------------------------------------------------------------------------------- */

/* count records: byte i of record r is i * 3 + r, the labels are r % 10 (CIFAR-100: coarse 0, fine
 * 10 r). */
static blob cifar(int count, int first, int labels)
{
    blob b = {0};
    for (int r = first; r < first + count; r++) {
        unsigned char record[3074];
        record[0] = (unsigned char)(labels == 1 ? r % 10 : 0);
        record[1] = (unsigned char)(r * 10);
        for (int i = 0; i < 3072; i++)
            record[labels + i] = (unsigned char)(i * 3 + r);
        blob_add(&b, record, 3072 + (size_t)labels);
    }
    return b;
}

static char *cifar_file(const char *folder, const char *name, int count, int first, int labels)
{
    blob b = cifar(count, first, labels);
    char *path = data_write(folder, name, b.bytes, b.size);
    blob_free(&b);
    return path;
}

/* Record r of such a file at (y, x, c). */
static float cifar_byte(int r, int y, int x, int c)
{
    return (float)(unsigned char)((c * 1024 + y * 32 + x) * 3 + r);
}

static void check_cifar(const pare_data_options *o, int count, int step)
{
    pare_dataset *d = open(o);
    assert_int_equal(pare_dataset_count(d), count);
    pare_batch *b = fill(d, 0, count);
    for (int r = 0; r < count; r++) {
        assert_int_equal(b->labels[r], r * step);
        for (int y = 0; y < 32; y++)
            for (int x = 0; x < 32; x++)
                for (int c = 0; c < 3; c++) {
                    float scale = o->scale != 0 ? o->scale : 1,
                          std = o->std[c] != 0 ? o->std[c] : 1;
                    float want = (cifar_byte(r, y, x, c) * scale - o->mean[c]) / std;
                    assert_true(b->images[((r * 32 + y) * 32 + x) * 3 + c] == want);
                }
    }
    pare_batch_free(&b);
    pare_dataset_close(&d);
}

static void cifar_records_come_out_normalised_with_channels_last(void **state)
{
    char *ten = cifar_file(*state, "ten.bin", 7, 0, 1);
    char *hundred = cifar_file(*state, "hundred", 7, 0, 2);
    pare_data_options o = sized(ten, 32, 32, 3);
    check_cifar(&o, 7, 1);
    o.scale = 1.0F / 255;
    o.mean[0] = 0.485F, o.mean[1] = 0.456F, o.mean[2] = 0.406F;
    o.std[0] = 0.229F, o.std[1] = 0.224F; /* none for the third: 1 */
    check_cifar(&o, 7, 1);
    o = images(hundred);
    check_cifar(&o, 7, 10);
    free(ten);
    free(hundred);
}

static void cifar_folders_give_their_splits(void **state)
{
    char *folder = NULL, name[4096];
    assert_ok(pare__join(*state, "cifar-10", &folder));
    assert_ok(pare__make_directory(folder));
    free(cifar_file(folder, "data_batch_1.bin", 4, 0, 1));
    free(cifar_file(folder, "data_batch_2.bin", 3, 4, 1));
    free(cifar_file(folder, "test_batch.bin", 2, 0, 1));
    snprintf(name, sizeof name, "%s#train", folder);
    pare_data_options o = images(name);
    check_cifar(&o, 7, 1); /* one after another, over the border of the files */
    snprintf(name, sizeof name, "cifar:%s/#test", folder);
    check_cifar(&o, 2, 1);
    o.path = folder;
    refused(&o, PARE_ERR_ARGUMENT, "#train or");
    snprintf(name, sizeof name, "idx:%s#test", folder);
    o.path = name;
    refused(&o, PARE_ERR_NOT_FOUND, "no images called test");
    free(cifar_file(folder, "data_batch_3.bin", 1, 0, 2));
    snprintf(name, sizeof name, "%s#train", folder);
    refused(&o, PARE_ERR_DAMAGED, "has records of 3074 bytes");
    free(folder);
}

static void cifar_files_that_are_cut_or_mislabelled_are_refused(void **state)
{
    blob b = cifar(3, 0, 1);
    char *path = data_write(*state, "cut.bin", b.bytes, b.size - 1);
    pare_data_options o = images(path);
    refused(&o, PARE_ERR_DAMAGED, "no multiple of a CIFAR record");
    free(path);
    b.bytes[3073] = 10;
    o.path = path = data_write(*state, "bad.bin", b.bytes, b.size);
    refused(&o, PARE_ERR_DAMAGED, "record 1 has label 10");
    free(path);
    b.bytes[3073] = 5;
    o.path = path = data_write(*state, "bad.bin", b.bytes, b.size);
    o.classes = 5;
    refused(&o, PARE_ERR_DAMAGED, "record 1 has label 5");
    free(path);
    o.path = path = data_write(*state, "none.bin", "", 0);
    refused(&o, PARE_ERR_DAMAGED, "is empty");
    free(path);
    blob_free(&b);
}

/* ---- IDX ------------------------------------------------------------------------------------- */

static const uint32_t three[3] = {4, 2, 3}, four_labels[1] = {4};
static const int idx_labels[4] = {3, 1, 2, 0};

static void write_pair(const char *folder, const char *split, bool packed)
{
    unsigned char pixels[24];
    char name[64];
    for (int i = 0; i < 24; i++)
        pixels[i] = (unsigned char)i;
    blob b[2] = {idx_blob(3, three, pixels, 24), idx_blob(1, four_labels, "\3\1\2\0", 4)};
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s-%s-idx%d-ubyte%s", split, i ? "labels" : "images",
                 i ? 1 : 3, packed ? ".gz" : "");
        blob gz = gzip_blob(b[i].bytes, b[i].size);
        free(
            data_write(folder, name, packed ? gz.bytes : b[i].bytes, packed ? gz.size : b[i].size));
        blob_free(&gz);
        blob_free(&b[i]);
    }
}

static void idx_images_find_their_labels_packed_or_not(void **state)
{
    float want[24];
    for (int i = 0; i < 24; i++)
        want[i] = (float)i;
    for (int packed = 0; packed < 2; packed++) {
        char *folder = NULL, name[4096];
        assert_ok(pare__join(*state, packed ? "packed" : "plain", &folder));
        assert_ok(pare__make_directory(folder));
        write_pair(folder, "train", packed);
        write_pair(folder, "t10k", !packed); /* one of each kind in a folder */
        pare_data_options o = sized(name, 2, 3, 1);
        snprintf(name, sizeof name, "%s#train", folder);
        holds(&o, 4, 6, want, idx_labels);
        snprintf(name, sizeof name, "%s#test", folder);
        holds(&o, 4, 6, want, idx_labels);
        snprintf(name, sizeof name, "%s/t10k-images-idx3-ubyte%s", folder, packed ? "" : ".gz");
        holds(&o, 4, 6, want, idx_labels);
        snprintf(name, sizeof name, "%s#valid", folder);
        refused(&o, PARE_ERR_ARGUMENT, "#train or");
        free(folder);
    }
}

static void idx_images_without_labels_have_none(void **state)
{
    unsigned char pixels[24] = {0};
    float zeros[24] = {0};
    char *path = data_idx(*state, "alone", 3, three, pixels, 24);
    pare_data_options o = images(path);
    holds(&o, 4, 6, zeros, NULL);
    o.mixup = 0.2F;
    refused(&o, PARE_ERR_ARGUMENT, "--labels");
    free(path);
}

static pare_status open_idx(const char *folder, blob b, bool packed)
{
    pare_dataset *d = NULL;
    blob gz = gzip_blob(b.bytes, b.size);
    char *path =
        data_write(folder, "hostile", packed ? gz.bytes : b.bytes, packed ? gz.size : b.size);
    char name[4096];
    snprintf(name, sizeof name, "idx:%s", path);
    pare_data_options o = images(name);
    pare_status status = pare_dataset_open(&o, &d);
    pare_dataset_close(&d);
    blob_free(&gz);
    blob_free(&b);
    free(path);
    return status;
}

static void hostile_idx_files_are_refused(void **state)
{
    static const uint32_t vast[3] = {UINT32_MAX, UINT32_MAX, UINT32_MAX},
                          large[3] = {2, 1 << 15, 1 << 15}, none[3] = {0, 28, 28};
    unsigned char pixels[24] = {0};
    for (int packed = 0; packed < 2; packed++) {
        assert_ok(open_idx(*state, idx_blob(3, three, pixels, 24), packed));
        assert_status(open_idx(*state, idx_blob(3, three, pixels, 23), packed), PARE_ERR_DAMAGED);
        assert_status(open_idx(*state, idx_blob(3, vast, pixels, 24), packed), PARE_ERR_DAMAGED);
        assert_status(open_idx(*state, idx_blob(3, none, pixels, 0), packed), PARE_ERR_DAMAGED);
        /* 2 GiB of zeros, claimed: a gzip is unpacked up to 1 GiB, a file must have them */
        assert_status(open_idx(*state, idx_blob(3, large, pixels, 24), packed),
                      packed ? PARE_ERR_UNSUPPORTED : PARE_ERR_DAMAGED);
        blob more = idx_blob(3, three, pixels, 24);
        blob_add(&more, "x", 1);
        assert_status(open_idx(*state, more, packed), PARE_ERR_DAMAGED);
        blob real = idx_blob(3, three, pixels, 24);
        real.bytes[2] = 0x0d;
        assert_status(open_idx(*state, real, packed), PARE_ERR_UNSUPPORTED);
        blob other = idx_blob(3, three, pixels, 24);
        other.bytes[0] = 1;
        assert_status(open_idx(*state, other, packed), PARE_ERR_DAMAGED);
        blob deep = idx_blob(3, three, pixels, 24);
        deep.bytes[3] = 9;
        assert_status(open_idx(*state, deep, packed), PARE_ERR_DAMAGED);
        for (size_t size = 0; size < 16; size++) {
            blob whole = idx_blob(3, three, pixels, 24);
            whole.size = size;
            assert_status(open_idx(*state, whole, packed), PARE_ERR_DAMAGED);
        }
        assert_status(open_idx(*state, idx_blob(1, four_labels, "1234", 4), packed),
                      PARE_ERR_ARGUMENT); /* labels are no images */
    }
}

/* ---- arrays ---------------------------------------------------------------------------------- */

static void arrays_are_laid_out_as_the_model_has_its_channels(void **state)
{
    unsigned char bytes[2 * 3 * 3 * 4];
    float last[72], first[72];
    for (int i = 0; i < 72; i++)
        bytes[i] = (unsigned char)i, last[i] = (float)i;
    /* [2, 3, 3, 4] as channels first: 3 channels of 3 x 4 */
    for (int n = 0; n < 2; n++)
        for (int y = 0; y < 3; y++)
            for (int x = 0; x < 4; x++)
                for (int c = 0; c < 3; c++)
                    first[((n * 3 + y) * 4 + x) * 3 + c] = (float)(((n * 3 + c) * 3 + y) * 4 + x);
    char *path = data_npy(*state, "a.npy", "|u1", "(2, 3, 3, 4)", bytes, 72);
    pare_data_options o = images(path);
    o.channels = 4;
    holds(&o, 2, 36, last, NULL);
    o.channels = 3;
    holds(&o, 2, 36, first, NULL);
    o = sized(path, 3, 4, 0);
    holds(&o, 2, 36, first, NULL);
    o = images(path); /* nothing is known: channels last */
    holds(&o, 2, 36, last, NULL);
    o.channels = 1;
    refused(&o, PARE_ERR_ARGUMENT, "holds images of 3 x 3 x 4");
    free(path);
    o.path = path = data_npy(*state, "b.npy", "|u1", "(4, 6, 3)", bytes, 72);
    holds(&o, 4, 18, last, NULL);
    free(path);
}

static void an_image_of_another_size_is_refused_with_both_sizes(void **state)
{
    char *path = cifar_file(*state, "c.bin", 1, 0, 1);
    pare_data_options o = sized(path, 28, 28, 1);
    refused(&o, PARE_ERR_ARGUMENT,
            "images of 32 x 32 x 3 (height, width, channels), the model takes 28 x 28 x 1");
    o = sized(path, 64, 64, 3);
    refused(&o, PARE_ERR_ARGUMENT, "the model takes 64 x 64 x 3");
    free(path);
    unsigned char bytes[1024] = {0};
    o = sized(NULL, 32, 32, 3);
    o.path = path = data_npy(*state, "grey.npy", "|u1", "(1, 32, 32)", bytes, 1024);
    refused(&o, PARE_ERR_ARGUMENT, "images of 32 x 32 x 1");
    free(path);
    o = images(NULL);
    o.path = path = data_npy(*state, "deep.npy", "|u1", "(1, 16, 8, 8)", bytes, 1024);
    refused(&o, PARE_ERR_ARGUMENT, "at most 4 channels");
    free(path);
}

static void floats_are_taken_as_they_are_and_must_be_finite(void **state)
{
    float values[2 * 3 * 2 * 2];
    for (int i = 0; i < 24; i++)
        values[i] = (float)i * 0.25F - 1;
    char *path = data_npy(*state, "f.npy", "<f4", "(4, 3, 2)", values, sizeof values);
    pare_data_options o = images(path);
    o.scale = 0.5F;
    o.mean[0] = 3;
    holds(&o, 4, 6, values, NULL);
    free(path);
    values[2 * 6 + 5] = NAN; /* image 2, row 2, column 1 */
    values[3 * 6] = INFINITY;
    o.path = path = data_npy(*state, "f.npy", "<f4", "(4, 3, 2)", values, sizeof values);
    pare_dataset *d = open(&o);
    pare_batch *b = fill(d, 0, 2);
    assert_status(pare_dataset_fill(d, 1, 2, b), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "image 2 has a NaN at row 2, column 1"));
    assert_status(pare_dataset_fill(d, 3, 1, b), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "image 3 has a Inf at row 0, column 0"));
    pare_batch_free(&b);
    pare_dataset_close(&d);
    free(path);
    values[2 * 6 + 5] = values[3 * 6] = 0;
    values[12 + 7] = NAN; /* channels first: image 1, channel 1, row 1, column 1 */
    o.path = path = data_npy(*state, "f.npy", "<f4", "(2, 3, 2, 2)", values, sizeof values);
    o.channels = 3;
    d = open(&o);
    b = fill(d, 0, 1);
    assert_status(pare_dataset_fill(d, 1, 1, b), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "image 1 has a NaN at row 1, column 1"));
    pare_batch_free(&b);
    pare_dataset_close(&d);
    free(path);
}

static void hdf5_images_bring_their_labels(void **state)
{
    (void)state;
    static const int others[4] = {7, 8, 9, 7};
    float want[24];
    for (int i = 0; i < 24; i++)
        want[i] = (float)i;
    pare_data_options o = images(PARE_TEST_GOLDEN "/arrays.h5#images"); /* chunked and packed */
    holds(&o, 4, 6, want, idx_labels);
    o.path = PARE_TEST_GOLDEN "/arrays.h5#more_images";
    holds(&o, 4, 6, want, others);
    o.labels = PARE_TEST_GOLDEN "/arrays.h5#images_labels";
    holds(&o, 4, 6, want, idx_labels);
    pare_dataset *d = open(&o);
    int64_t mapped = pare_dataset_bytes(d);
    pare_dataset_close(&d);
    o.path = PARE_TEST_GOLDEN "/arrays.h5#images";
    d = open(&o);
    assert_int_equal(pare_dataset_bytes(d) - mapped, 24); /* unpacked in memory */
    pare_dataset_close(&d);
}

static void what_is_no_image_is_refused(void **state)
{
    char *path = data_write(*state, "text", "hello", 5);
    pare_data_options o = images(path);
    refused(&o, PARE_ERR_UNSUPPORTED, "no file of images");
    free(path);
    o.path = path = data_npy(*state, "d.npy", "<f8", "(1, 1, 1)", "12345678", 8);
    refused(&o, PARE_ERR_ARGUMENT, "F64");
    free(path);
    o.path = path = data_npy(*state, "u.npy", "|u1", "(1, 1, 1)", "1", 1);
    o.seq_len = 3;
    refused(&o, PARE_ERR_ARGUMENT, "tokens");
    o.seq_len = 0;
    o.crop = 2;
    refused(&o, PARE_ERR_ARGUMENT, "crop");
    o.crop = 0;
    o.mixup = -1;
    refused(&o, PARE_ERR_ARGUMENT, "mixup");
    o.mixup = 0;
    o.mean[1] = NAN;
    refused(&o, PARE_ERR_ARGUMENT, "finite");
    o.mean[1] = 0;
    o.skip = 1;
    refused(&o, PARE_ERR_ARGUMENT, "1 images");
    o.skip = 0;
    o.tokens = true;
    o.seq_len = 1;
    refused(&o, PARE_ERR_ARGUMENT, "a stream [n] or rows");
    free(path);
}

/* ---- real data ------------------------------------------------------------------------------- */

static void cifar_tests_are_a_thousand_of_each_class(void **state)
{
    (void)state;
    char *path = test_data("cifar10/test_batch.bin");
    if (!path)
        skip();
    pare_data_options o = sized(path, 32, 32, 3);
    o.classes = 10;
    pare_dataset *d = open(&o);
    assert_int_equal(pare_dataset_count(d), 10000);
    pare_batch *b = fill(d, 0, 10000);
    int classes[10] = {0};
    for (int i = 0; i < 10000; i++)
        classes[b->labels[i]]++;
    for (int i = 0; i < 10; i++)
        assert_int_equal(classes[i], 1000);
    pare_batch_free(&b);
    pare_dataset_close(&d);
    free(path);
}

static void debians_fashion_mnist_just_works(void **state)
{
    (void)state;
    if (!pare__is_directory("/usr/share/datasets/fashion-mnist"))
        skip();
    static const int first[2] = {9, 9}; /* an ankle boot each */
    for (int train = 0; train < 2; train++) {
        pare_data_options o = sized(train ? "/usr/share/datasets/fashion-mnist#train"
                                          : "/usr/share/datasets/fashion-mnist#test",
                                    28, 28, 1);
        pare_dataset *d = open(&o);
        int64_t count = pare_dataset_count(d);
        assert_int_equal(count, train ? 60000 : 10000);
        assert_int_equal(pare_dataset_classes(d), 10);
        pare_batch *b = fill(d, 0, 1000);
        assert_int_equal(b->labels[0], first[train]);
        double sum = 0;
        for (int i = 0; i < 784000; i++)
            sum += (double)b->images[i];
        assert_true(fabs(sum / 784000 - 73) < 3); /* the mean pixel of the set */
        pare_batch_free(&b);
        pare_dataset_close(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cifar_records_come_out_normalised_with_channels_last),
        cmocka_unit_test(cifar_folders_give_their_splits),
        cmocka_unit_test(cifar_files_that_are_cut_or_mislabelled_are_refused),
        cmocka_unit_test(idx_images_find_their_labels_packed_or_not),
        cmocka_unit_test(idx_images_without_labels_have_none),
        cmocka_unit_test(hostile_idx_files_are_refused),
        cmocka_unit_test(arrays_are_laid_out_as_the_model_has_its_channels),
        cmocka_unit_test(an_image_of_another_size_is_refused_with_both_sizes),
        cmocka_unit_test(floats_are_taken_as_they_are_and_must_be_finite),
        cmocka_unit_test(hdf5_images_bring_their_labels),
        cmocka_unit_test(what_is_no_image_is_refused),
        cmocka_unit_test(cifar_tests_are_a_thousand_of_each_class),
        cmocka_unit_test(debians_fashion_mnist_just_works),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
