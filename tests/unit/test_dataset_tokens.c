/* test_dataset_tokens.c - windows and rows of tokens: which positions, which labels, what is
 * refused.
 */
#include "test.h"

#include "data_fixture.h"

#include "pare/data.h"

enum { N = 103 }; /* tokens of the stream; token i is i + 5 */

typedef struct fixture {
    char *folder, *stream, *rows, *labels; /* u16; .npy [4, 5] i32, token i is i; 4 bytes */
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    uint16_t stream[N];
    int32_t rows[20];
    assert_non_null(f);
    f->folder = test_folder_make();
    for (int i = 0; i < N; i++)
        stream[i] = (uint16_t)(i + 5);
    for (int i = 0; i < 20; i++)
        rows[i] = i;
    f->stream = data_write(f->folder, "stream.u16", stream, sizeof stream);
    f->rows = data_npy(f->folder, "rows.npy", "<i4", "(4, 5)", rows, sizeof rows);
    f->labels = data_write(f->folder, "labels.u8", "\0\2\1\2", 4);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    test_folder_remove(f->folder);
    free(f->stream);
    free(f->rows);
    free(f->labels);
    free(f);
    return 0;
}

static pare_data_options tokens(const char *path)
{
    return (pare_data_options){.path = path, .tokens = true, .pad_id = -1, .bos_id = -1};
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
    assert_true(b->size == size && b->length == pare_dataset_length(d));
    assert_true(!b->images && !b->labels2 && !b->mix);
    return b;
}

/* Fails unless the options are refused with this status and a sentence that has this in it. */
static void refused(const pare_data_options *options, pare_status want, const char *says)
{
    pare_dataset *d = NULL;
    assert_status(pare_dataset_open(options, &d), want);
    if (!strstr(pare_last_error(), says))
        fail_msg("\"%s\" does not say \"%s\"", pare_last_error(), says);
    assert_null(d);
}

static void windows_predict_every_token_but_the_first(void **state)
{
    fixture *f = *state;
    pare_data_options o = tokens(f->stream);
    o.seq_len = 10;
    pare_dataset *d = open(&o);
    assert_int_equal(pare_dataset_count(d), 10); /* (103 - 1) / 10; the tail is left out */
    assert_int_equal(pare_dataset_length(d), 10);
    assert_int_equal(pare_dataset_classes(d), 0);
    assert_true(pare_dataset_labelled(d));
    assert_string_equal(pare_dataset_path(d), f->stream);
    pare_batch *b = fill(d, 0, 10);
    assert_null(b->keys);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(b->ids[i], i + 5);
        assert_int_equal(b->labels[i], i + 6);
    }
    pare_batch_free(&b);
    assert_null(b);
    pare_dataset_close(&d);
    assert_null(d);
}

static void windows_a_stride_apart_count_each_token_once(void **state)
{
    fixture *f = *state;
    for (int64_t stride = 1; stride <= 12; stride++) {
        pare_data_options o = tokens(f->stream);
        o.seq_len = 10;
        o.stride = stride;
        pare_dataset *d = open(&o);
        int64_t count = pare_dataset_count(d);
        assert_int_equal(count, (N - 1 - 10) / stride + 1);
        pare_batch *b = fill(d, 0, count);
        int counted[N] = {0};
        for (int64_t w = 0; w < count; w++)
            for (int64_t t = 0; t < 10; t++) {
                int64_t at = w * stride + t;
                assert_int_equal(b->ids[w * 10 + t], at + 5);
                int32_t label = b->labels[w * 10 + t];
                assert_true(label == -1 || label == at + 6);
                counted[at + 1] += label != -1;
            }
        for (int64_t i = 1; i <= (count - 1) * stride + 10; i++)
            assert_int_equal(counted[i], stride <= 10 || (i - 1) % stride < 10);
        pare_batch_free(&b);
        pare_dataset_close(&d);
    }
}

static void a_bos_stands_before_each_window_and_all_is_predicted(void **state)
{
    fixture *f = *state;
    pare_data_options o = tokens(f->stream);
    o.seq_len = 10;
    o.bos_id = 1;
    pare_dataset *d = open(&o);
    assert_int_equal(pare_dataset_count(d), 10); /* 103 / 10 */
    pare_batch *b = fill(d, 0, 10);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(b->ids[i], i % 10 == 0 ? 1 : i + 4);
        assert_int_equal(b->labels[i], i + 5);
    }
    pare_batch_free(&b);
    pare_dataset_close(&d);
}

static void rows_with_labels_are_rows_of_the_length_asked_for(void **state)
{
    fixture *f = *state;
    uint32_t ids[12];
    for (int i = 0; i < 12; i++)
        ids[i] = (uint32_t)(i * 1000);
    char *path = data_write(f->folder, "rows.u32", ids, sizeof ids);
    pare_data_options o = tokens(path);
    o.labels = f->labels;
    o.seq_len = 3;
    pare_dataset *d = open(&o);
    assert_int_equal(pare_dataset_count(d), 4);
    assert_int_equal(pare_dataset_classes(d), 3);
    pare_batch *b = fill(d, 1, 3);
    for (int i = 0; i < 9; i++)
        assert_int_equal(b->ids[i], (i + 3) * 1000);
    assert_true(b->labels[0] == 2 && b->labels[1] == 1 && b->labels[2] == 2);
    pare_batch_free(&b);
    pare_dataset_close(&d);
    o.seq_len = 4; /* with a bos, T counts it */
    o.bos_id = 7;
    d = open(&o);
    b = fill(d, 3, 1);
    assert_true(b->ids[0] == 7 && b->ids[1] == 9000 && b->ids[3] == 11000 && b->labels[0] == 2);
    pare_batch_free(&b);
    pare_dataset_close(&d);
    free(path);
}

static void rows_of_an_array_predict_within_themselves(void **state)
{
    fixture *f = *state;
    for (int64_t length = 0; length <= 5; length += length ? 1 : 4) { /* its own, 4, 5 */
        pare_data_options o = tokens(f->rows);
        o.seq_len = length;
        pare_dataset *d = open(&o);
        int64_t T = length ? length : 5;
        assert_int_equal(pare_dataset_count(d), 4);
        assert_int_equal(pare_dataset_length(d), T);
        pare_batch *b = fill(d, 0, 4);
        for (int64_t r = 0; r < 4; r++)
            for (int64_t t = 0; t < T; t++) {
                assert_int_equal(b->ids[r * T + t], r * 5 + t);
                assert_int_equal(b->labels[r * T + t], t < 4 ? r * 5 + t + 1 : -1);
            }
        pare_batch_free(&b);
        pare_dataset_close(&d);
    }
    pare_data_options o = tokens(f->rows);
    o.bos_id = 19;
    pare_dataset *d = open(&o);
    assert_int_equal(pare_dataset_length(d), 6);
    pare_batch *b = fill(d, 1, 1);
    for (int t = 0; t < 6; t++) {
        assert_int_equal(b->ids[t], t ? 4 + t : 19);
        assert_int_equal(b->labels[t], t < 5 ? 5 + t : -1);
    }
    pare_batch_free(&b);
    pare_dataset_close(&d);
}

static void padding_is_no_key_and_no_label(void **state)
{
    fixture *f = *state;
    pare_data_options o = tokens(f->rows);
    o.pad_id = 7; /* in row 1: 5 6 7 8 9 */
    pare_dataset *d = open(&o);
    pare_batch *b = fill(d, 0, 2);
    static const int32_t labels[10] = {1, 2, 3, 4, -1, 6, -1, -1, 9, -1};
    assert_non_null(b->keys);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(b->keys[i], i != 7);
        assert_int_equal(b->labels[i], labels[i]);
    }
    assert_ok(pare_dataset_fill(d, 2, 2, b)); /* none of the two rows has padding */
    assert_null(b->keys);
    pare_batch_free(&b);
    pare_dataset_close(&d);
}

static void integers_of_every_type_are_tokens(void **state)
{
    fixture *f = *state;
    static const char *const types[] = {"|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8"};
    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        unsigned char bytes[9 * 8] = {0};
        int width = types[k][2] - '0';
        for (int i = 0; i < 9; i++)
            bytes[i * width] = (unsigned char)(i * 3);
        char *path = data_npy(f->folder, "t.npy", types[k], "(9,)", bytes, (size_t)width * 9);
        pare_data_options o = tokens(path);
        o.seq_len = 4;
        o.vocabulary = 25;
        pare_dataset *d = open(&o);
        pare_batch *b = fill(d, 0, 2);
        for (int i = 0; i < 8; i++)
            assert_true(b->ids[i] == i * 3 && b->labels[i] == i * 3 + 3);
        pare_batch_free(&b);
        pare_dataset_close(&d);
        o.vocabulary = 24;
        refused(&o, PARE_ERR_DAMAGED, "token 24 at position 8 is not between 0 and 23");
        bytes[3 * width + width - 1] = 0x80; /* the sign */
        free(path);
        o.path = path = data_npy(f->folder, "t.npy", types[k], "(9,)", bytes, (size_t)width * 9);
        o.vocabulary = 200;
        if (types[k][1] == 'i' || width > 1)
            refused(&o, PARE_ERR_DAMAGED, types[k][1] == 'i' ? "token -" : "at position 3 is not");
        free(path);
    }
}

static void a_token_outside_the_vocabulary_is_found_wherever_it_is(void **state)
{
    fixture *f = *state;
    enum { MANY = 1500000 }; /* several pieces */
    uint16_t *ids = calloc(MANY, 2);
    assert_non_null(ids);
    static const int places[] = {0, 524287, 524288, 1048576, MANY - 1};
    for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
        char says[64];
        ids[places[p]] = 600;
        char *path = data_write(f->folder, "many.u16", ids, 2 * MANY);
        pare_data_options o = tokens(path);
        o.seq_len = 512;
        o.vocabulary = 600;
        snprintf(says, sizeof says, "token 600 at position %d is", places[p]);
        refused(&o, PARE_ERR_DAMAGED, says);
        ids[places[p]] = 0;
        free(path);
    }
    free(ids);
    pare_data_options o = tokens(f->rows);
    o.vocabulary = 13;
    refused(&o, PARE_ERR_DAMAGED, "position 13 (row 2, column 3)");
}

static void labels_are_read_from_every_format_and_checked(void **state)
{
    fixture *f = *state;
    static const int64_t wide[4] = {0, 2, 1, 2}, negative[4] = {0, -1, 1, 1};
    uint32_t four = 4;
    char *files[] = {data_npy(f->folder, "l1.npy", "<i8", "(4,)", wide, 32),
                     data_npy(f->folder, "l2.npy", "<i8", "(4, 1)", wide, 32),
                     data_idx(f->folder, "l3", 1, &four, "\0\2\1\2", 4),
                     data_write(f->folder, "l4", "\0\2\1\2", 4)};
    for (int i = 0; i < 4; i++) {
        pare_data_options o = tokens(f->rows);
        o.labels = files[i];
        o.classes = 3;
        pare_dataset *d = open(&o);
        pare_batch *b = fill(d, 0, 4);
        for (int r = 0; r < 4; r++)
            assert_int_equal(b->labels[r], wide[r]);
        pare_batch_free(&b);
        pare_dataset_close(&d);
        o.classes = 2;
        refused(&o, PARE_ERR_DAMAGED, "label 2 at position 1 is not between 0 and 1");
        free(files[i]);
    }
    pare_data_options o = tokens(f->rows);
    char *path = data_npy(f->folder, "bad.npy", "<i8", "(4,)", negative, 32);
    o.labels = path;
    refused(&o, PARE_ERR_DAMAGED, "label -1 at position 1");
    free(path);
    o.labels = path = data_write(f->folder, "five.u8", "12345", 5);
    refused(&o, PARE_ERR_ARGUMENT, "has 5 labels, the data 4");
    free(path);
    o.labels = path = data_npy(f->folder, "square.npy", "<i4", "(2, 2)", wide, 16);
    refused(&o, PARE_ERR_ARGUMENT, "no row of labels");
    free(path);
    o.labels = path = data_npy(f->folder, "real.npy", "<f4", "(4,)", wide, 16);
    refused(&o, PARE_ERR_ARGUMENT, "F32");
    free(path);
    o.labels = "/nonexistent";
    refused(&o, PARE_ERR_NOT_FOUND, "/nonexistent");
}

static void hdf5_datasets_are_tokens_too(void **state)
{
    (void)state;
    pare_data_options o = tokens(PARE_TEST_GOLDEN "/arrays.h5#types/U16"); /* 0 1 2 */
    o.seq_len = 2;
    pare_dataset *d = open(&o);
    pare_batch *b = fill(d, 0, 1);
    assert_true(b->ids[0] == 0 && b->ids[1] == 1 && b->labels[1] == 2);
    pare_batch_free(&b);
    pare_dataset_close(&d);
    o.path = PARE_TEST_GOLDEN "/arrays.h5#packed";
    refused(&o, PARE_ERR_ARGUMENT, "[7, 5, 3]");
    o.path = "h5:" PARE_TEST_GOLDEN "/arrays.h5#nothing";
    refused(&o, PARE_ERR_NOT_FOUND, "no dataset");
}

static void samples_are_taken_behind_the_skipped_ones(void **state)
{
    fixture *f = *state;
    for (int draw = 0; draw < 2; draw++)
        for (int shuffle = 0; shuffle < 2; shuffle++) {
            pare_data_options o = tokens(f->stream);
            o.seq_len = 1;
            o.skip = 20;
            o.samples = 30;
            o.shuffle = shuffle;
            o.draw = draw;
            o.seed = 3;
            pare_dataset *d = open(&o);
            assert_int_equal(pare_dataset_count(d), 30);
            int taken[N] = {0}, first = 0, ascending = 0;
            for (int64_t g = 0; g < 4 * 30; g++) {
                int64_t item = pare_dataset_item(d, g);
                assert_true(item >= 20 && item < N - 1 && taken[item] == g / 30);
                taken[item]++;
                first += item < 50;
                ascending += item == pare_dataset_item(d, g % 30);
            }
            assert_true(draw ? first < 80 : first == 120); /* 30 of 82 */
            assert_true(shuffle ? ascending < 60 : ascending == 120);
            o.seed = 4;
            pare_dataset *other = open(&o);
            int same = 0;
            for (int64_t g = 0; g < 30; g++)
                same += pare_dataset_item(d, g) == pare_dataset_item(other, g);
            assert_true(draw || shuffle ? same < 8 : same == 30);
            pare_dataset_close(&other);
            pare_dataset_close(&d);
        }
}

static void of_all_there_is_nothing_to_draw(void **state)
{
    fixture *f = *state;
    pare_data_options o = tokens(f->stream);
    o.seq_len = 1;
    o.skip = 2;
    o.draw = true;
    pare_dataset *d = open(&o);
    for (int64_t g = 0; g < 100; g++)
        assert_int_equal(pare_dataset_item(d, g), g + 2);
    pare_dataset_close(&d);
}

static void the_digest_knows_bytes_and_options(void **state)
{
    fixture *f = *state;
    pare_data_options o[6];
    uint64_t digest[6][2];
    for (int i = 0; i < 6; i++) {
        o[i] = tokens(f->stream);
        o[i].seq_len = 10;
    }
    o[1].seq_len = 11;
    o[2].shuffle = true;
    o[3].samples = 5;
    o[4].path = f->rows;
    o[4].seq_len = 0;
    for (int i = 0; i < 6; i++) { /* the last is the first again */
        pare_dataset *d = open(&o[i]);
        pare_dataset_digest(d, digest[i]);
        pare_dataset_close(&d);
        for (int j = 0; j < i; j++)
            assert_true((memcmp(digest[i], digest[j], 16) == 0) == (i == 5 && j == 0));
    }
}

static void options_that_do_not_fit_are_refused(void **state)
{
    fixture *f = *state;
    pare_data_options o = tokens(f->stream);
    refused(&o, PARE_ERR_ARGUMENT, "--seq-len");
    o.seq_len = 103;
    refused(&o, PARE_ERR_ARGUMENT, "needs 104");
    o.seq_len = 10;
    o.skip = 10;
    refused(&o, PARE_ERR_ARGUMENT, "10 windows");
    o.skip = 3;
    o.samples = 8;
    refused(&o, PARE_ERR_ARGUMENT, "10 windows");
    o.skip = -1;
    refused(&o, PARE_ERR_ARGUMENT, "no sense");
    o = tokens(f->stream);
    o.seq_len = 10;
    o.labels = f->labels;
    refused(&o, PARE_ERR_ARGUMENT, "no whole rows of 10");
    o = tokens(f->rows);
    o.seq_len = 3;
    refused(&o, PARE_ERR_ARGUMENT, "rows of 5 tokens");
    o.seq_len = 0;
    o.stride = 2;
    refused(&o, PARE_ERR_ARGUMENT, "stride");
    o.stride = 0;
    o.flip = true;
    refused(&o, PARE_ERR_ARGUMENT, "images");
    o.flip = false;
    o.vocabulary = 20;
    o.pad_id = 20;
    refused(&o, PARE_ERR_ARGUMENT, "vocabulary");
    o = tokens(f->rows);
    o.tokens = false;
    refused(&o, PARE_ERR_ARGUMENT, "the model takes images");
    o = tokens(f->folder);
    refused(&o, PARE_ERR_ARGUMENT, "is a folder");
    o = tokens("/nonexistent.npy");
    refused(&o, PARE_ERR_NOT_FOUND, "/nonexistent.npy");
    o = tokens("");
    refused(&o, PARE_ERR_ARGUMENT, "path");
}

static void files_that_hold_no_tokens_are_refused(void **state)
{
    fixture *f = *state;
    char *odd = data_write(f->folder, "odd.u32", "12345", 5);
    char *empty = data_write(f->folder, "empty.u16", "", 0);
    char *text = data_write(f->folder, "text.txt", "once upon a time", 16);
    char *real = data_npy(f->folder, "real.npy", "<f4", "(2,)", "12345678", 8);
    pare_data_options o = tokens(odd);
    o.seq_len = 1;
    refused(&o, PARE_ERR_DAMAGED, "no multiple of 4");
    o.path = empty;
    refused(&o, PARE_ERR_DAMAGED, "is empty");
    o.path = text;
    refused(&o, PARE_ERR_UNSUPPORTED, ".u16");
    o.path = real;
    refused(&o, PARE_ERR_ARGUMENT, "F32");
    pare_data_options forced = o;
    char name[4096];
    snprintf(name, sizeof name, "tokens:%s", text);
    forced.path = name;
    refused(&forced, PARE_ERR_UNSUPPORTED, "how wide");
    snprintf(name, sizeof name, "%s#part", f->stream);
    refused(&forced, PARE_ERR_ARGUMENT, "no part \"part\"");
    free(odd);
    free(empty);
    free(text);
    free(real);
}

static void batches_are_of_their_own_dataset_and_size(void **state)
{
    fixture *f = *state;
    pare_data_options o = tokens(f->rows);
    pare_dataset *d = open(&o), *other = open(&o);
    pare_batch *b = NULL;
    assert_ok(pare_batch_create(d, 2, &b));
    assert_status(pare_dataset_fill(other, 0, 1, b), PARE_ERR_ARGUMENT);
    assert_status(pare_dataset_fill(d, 0, 3, b), PARE_ERR_ARGUMENT);
    assert_status(pare_dataset_fill(d, 0, 0, b), PARE_ERR_ARGUMENT);
    assert_status(pare_dataset_fill(d, -1, 1, b), PARE_ERR_ARGUMENT);
    assert_ok(pare_dataset_fill(d, 1000000007, 1, b)); /* some epoch far ahead */
    pare_batch_free(&b);
    assert_status(pare_batch_create(d, 0, &b), PARE_ERR_ARGUMENT);
    assert_status(pare_batch_create(d, INT64_MAX / 2, &b), PARE_ERR_MEMORY);
    assert_true(pare_batch_bytes(d, INT64_MAX / 2) > INT64_MAX / 2);
    assert_true(pare_batch_bytes(d, 10) >= 10 * 5 * 9);
    pare_dataset_close(&other);
    pare_dataset_close(&d);
}

static void the_real_streams_have_the_windows_that_are_known(void **state)
{
    (void)state;
    char *stories = test_data("stories260K/tinystories_917.tok512.u16");
    char *ids = test_data("bert_tiny_sst2/sst2_glue_dev_872.ids.u16");
    char *labels = test_data("bert_tiny_sst2/sst2_glue_dev_872.labels.u8");
    if (!stories || !ids || !labels)
        skip();
    pare_data_options o = tokens(stories);
    o.seq_len = 512;
    o.vocabulary = 512;
    pare_dataset *d = open(&o);
    assert_int_equal(pare_dataset_count(d), 866);
    pare_batch *b = fill(d, 865, 1);
    assert_null(b->keys);
    pare_batch_free(&b);
    pare_dataset_close(&d);
    o = tokens(ids);
    o.labels = labels;
    o.seq_len = 64;
    o.vocabulary = 8035;
    o.classes = 2;
    o.pad_id = 0;
    d = open(&o);
    assert_int_equal(pare_dataset_count(d), 872);
    b = fill(d, 0, 872);
    int64_t positive = 0;
    for (int i = 0; i < 872; i++) {
        assert_int_equal(b->ids[i * 64], 2); /* [CLS] */
        assert_int_equal(b->keys[i * 64], 1);
        positive += b->labels[i];
    }
    assert_int_equal(positive, 444); /* of SST-2's 872 */
    pare_batch_free(&b);
    pare_dataset_close(&d);
    free(stories);
    free(ids);
    free(labels);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_predict_every_token_but_the_first),
        cmocka_unit_test(windows_a_stride_apart_count_each_token_once),
        cmocka_unit_test(a_bos_stands_before_each_window_and_all_is_predicted),
        cmocka_unit_test(rows_with_labels_are_rows_of_the_length_asked_for),
        cmocka_unit_test(rows_of_an_array_predict_within_themselves),
        cmocka_unit_test(padding_is_no_key_and_no_label),
        cmocka_unit_test(integers_of_every_type_are_tokens),
        cmocka_unit_test(a_token_outside_the_vocabulary_is_found_wherever_it_is),
        cmocka_unit_test(labels_are_read_from_every_format_and_checked),
        cmocka_unit_test(hdf5_datasets_are_tokens_too),
        cmocka_unit_test(samples_are_taken_behind_the_skipped_ones),
        cmocka_unit_test(of_all_there_is_nothing_to_draw),
        cmocka_unit_test(the_digest_knows_bytes_and_options),
        cmocka_unit_test(options_that_do_not_fit_are_refused),
        cmocka_unit_test(files_that_hold_no_tokens_are_refused),
        cmocka_unit_test(batches_are_of_their_own_dataset_and_size),
        cmocka_unit_test(the_real_streams_have_the_windows_that_are_known),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
