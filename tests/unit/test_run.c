/* test_run.c - whole runs on small checkpoints: exact selection, the same bytes whatever the
 * threads and the memory, runs that were stopped, outputs in the way, weights that are no numbers.
 */
#include "test.h"

#include "run_fixture.h"

#include "base/file.h"
#include "base/half.h"

#include <unistd.h>

/* All values of one tensor as f32; caller frees. */
static float *values_of(const char *path, int t)
{
    pare_store *store = NULL;
    pare_backend *be = NULL;
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(pare_store_open(path, &store));
    int64_t n = shapes[t][0] * shapes[t][1];
    float *x = malloc((size_t)n * 4);
    void *scratch = malloc((size_t)pare_store_scratch(store, t, shapes[t][0]) + 1);
    char *raw = malloc((size_t)n * 4);
    assert_ok(pare_store_read_values(store, be, t, 0, shapes[t][0], raw, scratch));
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, raw + 2 * i, 2);
        if (pare_store_entry(store, t)->dtype == PARE_F32)
            memcpy(&x[i], raw + 4 * i, 4);
        else
            x[i] = pare__bf16_to_f32(half);
    }
    free(raw);
    free(scratch);
    pare_store_close(&store);
    pare_backend_free(&be);
    return x;
}

typedef struct place {
    uint32_t key;
    int tensor;
    int64_t index;
} place;

static int by_key(const void *a, const void *b)
{
    const place *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    if (x->tensor != y->tensor)
        return x->tensor - y->tensor;
    return x->index < y->index ? -1 : 1;
}

/* Sorts all weights by (|w|, tensor, index) and asks that just the first k are zero and the others
 * unchanged. */
static void check_selection(fixture *f, int first, int count, double sparsity)
{
    int64_t n = 0, at = 0;
    float *before[TENSORS], *after[TENSORS];
    for (int t = first; t < first + count; t++)
        n += shapes[t][0] * shapes[t][1];
    place *all = malloc((size_t)n * sizeof *all);
    for (int t = first; t < first + count; t++) {
        before[t] = values_of(f->source, t);
        after[t] = values_of(f->out, t);
        for (int64_t i = 0; i < shapes[t][0] * shapes[t][1]; i++)
            all[at++] = (place){pare__f32_bits(before[t][i]) & 0x7fffffffu, t, i};
    }
    qsort(all, (size_t)n, sizeof *all, by_key);
    int64_t k = (int64_t)__builtin_rint(sparsity * (double)n);
    for (int64_t i = 0; i < n; i++) {
        float want = i < k ? 0 : before[all[i].tensor][all[i].index];
        float got = after[all[i].tensor][all[i].index];
        assert_int_equal(pare__f32_bits(got), pare__f32_bits(want));
    }
    for (int t = first; t < first + count; t++) {
        free(before[t]);
        free(after[t]);
    }
    free(all);
}

static void selection_is_exact_with_ties_to_the_lower_index(void **state)
{
    fixture *f = *state;
    const pare_dtype dtypes[] = {PARE_F32, PARE_BF16};
    const double sparsity[] = {0, 0.3, 0.5, 0.999, 1};
    f->options.overwrite = true;
    for (int d = 0; d < 2; d++) {
        unlink(f->source);
        write_source(f->source, dtypes[d], false);
        for (int s = 0; s < 5; s++) {
            char step[120];
            snprintf(step, sizeof step,
                     "  - prune: {method: magnitude, sparsity: %g, scope: global}\n", sparsity[s]);
            use(f, step);
            assert_ok(run(f));
            check_selection(f, 0, TENSORS, sparsity[s]);
            snprintf(step, sizeof step, "  - prune: {sparsity: %g, scope: layer}\n", sparsity[s]);
            use(f, step);
            assert_ok(run(f));
            for (int t = 0; t < TENSORS; t++)
                check_selection(f, t, 1, sparsity[s]);
        }
    }
}

static const char *const jobs[] = {
    "  - prune: {sparsity: 0.5}\n  - quantize: {scheme: w4g64z}\n",
    "  - prune: {pattern: \"2:4\"}\n  - quantize: {scheme: w8t, scale: mse}\n",
    "  - prune: {method: random, sparsity: 0.7, scope: layer}\n",
    "  - prune: {pattern: \"block:4x8\", sparsity: 0.5}\n",
    "  - quantize: {scheme: nf4}\n",
    "  - prune: {sparsity: 0.3}\n  - quantize: {scheme: nf4d}\n",
    "  - quantize: {scheme: fp8}\n",
};

static void threads_and_memory_do_not_change_a_byte(void **state)
{
    fixture *f = *state;
    const char *const outs[] = {"x.safetensors", "x.h5"};
    write_source(f->source, PARE_BF16, false);
    f->options.overwrite = true;
    for (size_t j = 0; j < sizeof jobs / sizeof *jobs; j++)
        for (int o = 0; o < 2; o++) {
            char *first = NULL, *again = NULL;
            int64_t size, size_again;
            free(f->out);
            assert_ok(pare__join(f->folder, outs[o], &f->out));
            use(f, jobs[j]);
            f->options.threads = 1;
            f->options.memory = 0;
            assert_ok(run(f));
            assert_ok(pare__file_load(f->out, 1 << 26, &first, &size));
            f->options.threads = 5;
            f->options.memory = 64 << 20;
            assert_ok(run(f));
            assert_ok(pare__file_load(f->out, 1 << 26, &again, &size_again));
            assert_int_equal(size, size_again);
            assert_memory_equal(first, again, (size_t)size);
            free(first);
            free(again);
        }
}

typedef struct stopper {
    int after;
    volatile int cancel;
} stopper;

static void stop(void *user, const char *phase, double done, double total)
{
    (void)phase, (void)done, (void)total;
    stopper *s = user;
    if (--s->after <= 0)
        s->cancel = 1;
}

/* Stops after one progress report more each time, until it is through. */
static void run_in_bits(fixture *f)
{
    for (int after = 1, ended = 0; !ended; after++) {
        stopper s = {.after = after};
        f->options.cancel = &s.cancel;
        f->options.progress = (pare_progress){.update = stop, .user = &s};
        pare_status status = run(f);
        if (status == PARE_ERR_INTERRUPTED)
            assert_false(pare__exists(f->out));
        else
            assert_ok(status);
        ended = status == PARE_OK;
    }
    f->options.cancel = NULL;
    f->options.progress = (pare_progress){0};
}

static void a_stopped_run_goes_on_and_ends_with_the_same_bytes(void **state)
{
    fixture *f = *state;
    static const char *const steps[] = {
        "  - prune: {sparsity: 0.5}\n  - quantize: {scheme: w4g64}\n",
        "  - prune: {sparsity: 0.5}\n  - quantize: {scheme: nf4d}\n"};
    write_source(f->source, PARE_BF16, false);
    for (int i = 0; i < 2; i++) {
        char *whole = NULL, *resumed = NULL;
        int64_t size, size_resumed;
        use(f, steps[i]);
        assert_ok(run(f));
        assert_ok(pare__file_load(f->out, 1 << 26, &whole, &size));
        unlink(f->out);
        run_in_bits(f);
        assert_ok(pare__file_load(f->out, 1 << 26, &resumed, &size_resumed));
        assert_int_equal(size, size_resumed);
        assert_memory_equal(whole, resumed, (size_t)size);
        unlink(f->out);
        free(whole);
        free(resumed);
    }
}

static void a_nan_is_named_and_nothing_is_left(void **state)
{
    fixture *f = *state;
    write_source(f->source, PARE_F32, true);
    for (size_t j = 0; j < sizeof jobs / sizeof *jobs; j++) {
        char *part = NULL;
        use(f, jobs[j]);
        assert_status(run(f), PARE_ERR_DAMAGED);
        assert_non_null(strstr(pare_last_error(), "b.weight holds NaN at row 1, column 6"));
        assert_false(pare__exists(f->out));
        assert_ok(pare__join(f->folder, "out.safetensors.part", &part));
        assert_false(pare__exists(part));
        free(part);
    }
    use(f, "  - quantize: {scheme: w8, exclude: b.weight}\n");
    assert_ok(run(f));
}

static void an_output_in_the_way_is_kept(void **state)
{
    fixture *f = *state;
    char *bytes = NULL;
    int64_t size;
    write_source(f->source, PARE_F32, false);
    use(f, jobs[4]);
    assert_ok(pare__file_save(f->out, "mine", 4));
    assert_status(run(f), PARE_ERR_EXISTS);
    assert_ok(pare__file_load(f->out, 100, &bytes, &size));
    assert_string_equal(bytes, "mine");
    free(bytes);
    f->options.overwrite = true;
    assert_ok(run(f));
}

static void a_budget_too_small_says_what_it_needs(void **state)
{
    fixture *f = *state;
    write_source(f->source, PARE_F32, false);
    use(f, jobs[0]);
    f->options.memory = 1 << 20;
    assert_status(run(f), PARE_ERR_MEMORY);
    assert_non_null(strstr(pare_last_error(), "--memory"));
}

static void a_step_that_chooses_nothing_is_an_error(void **state)
{
    fixture *f = *state;
    write_source(f->source, PARE_F32, false);
    use(f, "  - quantize: {scheme: w8, include: \"nothing*\"}\n");
    assert_status(run(f), PARE_ERR_ARGUMENT);
    use(f, "  - quantize: {scheme: w8, exclude: \"*\"}\n");
    assert_status(run(f), PARE_ERR_ARGUMENT);
}

/* An output that appears when the last chunk is written: the run ends just before its rename. */
static void get_in_the_way(void *user, const char *phase, double done, double total)
{
    const fixture *f = user;
    if (strcmp(phase, "compress") == 0 && done >= total)
        assert_ok(pare__file_save(f->out, "mine", 4));
}

static void run_but_for_the_rename(fixture *f)
{
    f->options.progress = (pare_progress){.update = get_in_the_way, .user = f};
    assert_status(run(f), PARE_ERR_EXISTS);
    f->options.progress = (pare_progress){0};
    unlink(f->out);
}

static int64_t size_of(const char *path)
{
    char *bytes = NULL;
    int64_t size;
    assert_ok(pare__file_load(path, 1 << 26, &bytes, &size));
    free(bytes);
    return size;
}

/* A whole run's output, and the files that a cut one leaves beside it. */
typedef struct cut_run {
    char *whole, *part, *journal;
    int64_t size;
} cut_run;

static cut_run cut_run_make(fixture *f)
{
    cut_run c = {0};
    assert_ok(pare__join(f->folder, "out.safetensors.part", &c.part));
    assert_ok(pare__join(f->folder, "out.safetensors.journal", &c.journal));
    write_source(f->source, PARE_BF16, false);
    use(f, "  - quantize: {scheme: w8}\n");
    assert_ok(run(f));
    assert_ok(pare__file_load(f->out, 1 << 26, &c.whole, &c.size));
    unlink(f->out);
    return c;
}

/* The last bytes of the part are zeros, as if they had never been written. */
static void cut_run_lose(const cut_run *c, int64_t bytes)
{
    char *zeros = calloc(1, (size_t)bytes);
    FILE *file = fopen(c->part, "r+b");
    assert_int_equal(fseek(file, (long)(c->size - bytes), SEEK_SET), 0);
    assert_int_equal(fwrite(zeros, 1, (size_t)bytes, file), bytes);
    fclose(file);
    free(zeros);
}

/* Goes on to the end; whether the output is the whole run's. */
static bool cut_run_ends_the_same(fixture *f, const cut_run *c)
{
    char *again = NULL;
    int64_t size;
    assert_ok(run(f));
    assert_ok(pare__file_load(f->out, 1 << 26, &again, &size));
    assert_int_equal(c->size, size);
    bool same = memcmp(c->whole, again, (size_t)size) == 0;
    free(again);
    unlink(f->out);
    return same;
}

static void cut_run_free(cut_run *c)
{
    free(c->journal);
    free(c->part);
    free(c->whole);
}

static void what_a_lost_part_held_is_written_again(void **state)
{
    fixture *f = *state;
    cut_run c = cut_run_make(f);
    /* The second run's first records: boot (16 + 36 bytes), fresh, layout. */
    for (int cut = 52 + 16; cut <= 52 + 32; cut += 16) {
        run_but_for_the_rename(f);
        int64_t before = size_of(c.journal);
        unlink(c.part);
        run_but_for_the_rename(f);
        assert_int_equal(truncate(c.journal, before + cut), 0);
        cut_run_lose(&c, 1 << 16); /* none of its chunks was written yet */
        assert_true(cut_run_ends_the_same(f, &c));
    }
    cut_run_free(&c);
}

/* Changes the first boot that a journal tells of, as if the machine had been started again since.
 */
static void forge_boot(const char *journal)
{
    char *bytes = NULL;
    int64_t size;
    uint64_t check = UINT64_C(0xcbf29ce484222325);
    assert_ok(pare__file_load(journal, 1 << 26, &bytes, &size));
    unsigned char *record = (unsigned char *)bytes + 24; /* type, size, check, payload */
    assert_int_equal(record[4], 36);
    record[16] ^= 1;
    for (int i = 0; i < 16 + 36; i++)
        if (i < 8 || i >= 16)
            check = (check ^ record[i]) * UINT64_C(0x100000001b3);
    memcpy(record + 8, &check, 8);
    assert_ok(pare__file_save(journal, bytes, size));
    free(bytes);
}

/* After a power cut the journal may speak of bytes that never reached the disk: here the last 4 KiB
 * are lost. Without --sync all is written again; what a sync was noted for is on the disk and is
 * not. */
static void after_a_power_cut_only_synced_chunks_count(void **state)
{
    fixture *f = *state;
    cut_run c = cut_run_make(f);
    for (int sync = 0; sync < 2; sync++) {
        f->options.sync = sync;
        run_but_for_the_rename(f);
        forge_boot(c.journal);
        cut_run_lose(&c, 1 << 12);
        assert_int_equal(cut_run_ends_the_same(f, &c), !sync);
    }
    cut_run_free(&c);
}

/* Killed between the rename and the removal of the journal, with and without the old output left
 * where the part was, as after folders changed places. */
static void a_run_cut_after_its_rename_has_only_its_report_to_do(void **state)
{
    fixture *f = *state;
    char *part, *report, *text = NULL;
    int64_t size;
    assert_ok(pare__join(f->folder, "out.safetensors.part", &part));
    assert_ok(pare__join(f->folder, "out.safetensors.report.json", &report));
    write_source(f->source, PARE_BF16, false);
    use(f, jobs[0]);
    f->options.overwrite = false;
    for (int old = 0; old < 2; old++) {
        run_but_for_the_rename(f);
        assert_int_equal(rename(part, f->out), 0);
        if (old)
            assert_ok(pare__file_save(part, "old", 3));
        assert_ok(run(f));
        assert_false(pare__exists(part));
        assert_true(size_of(f->out) > 1000);
        assert_ok(pare__file_load(report, 1 << 26, &text, &size));
        assert_non_null(strstr(text, "\"zeros\""));
        free(text);
        unlink(f->out);
    }
    free(report);
    free(part);
}

static void a_part_of_another_source_is_not_continued(void **state)
{
    fixture *f = *state;
    char *twin;
    write_source(f->source, PARE_BF16, false);
    assert_ok(pare__join(f->folder, "twin.safetensors", &twin));
    use(f, jobs[0]);
    run_but_for_the_rename(f);
    assert_int_equal(rename(f->source, twin), 0); /* of the same size and age */
    free(f->source);
    f->source = twin;
    use(f, jobs[0]);
    assert_status(run(f), PARE_ERR_EXISTS);
}

/* One row of 16 MiB: the comparison at the end takes three times what the writing does. */
static void a_conversion_knows_what_its_check_needs(void **state)
{
    fixture *f = *state;
    char *values = calloc(1, 16 << 20);
    pare_entry row = {.name = "x", .dtype = PARE_BF16, .rank = 2, .shape = {1, 8 << 20}};
    pare_writer *writer = NULL;
    pare_backend *be = NULL;
    pare_parts parts;
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(pare_writer_create(
        &(pare_writer_options){.path = f->source, .entries = &row, .count = 1}, false, &writer));
    assert_ok(pare_writer_encode(writer, be, 0, &(pare_rows){.count = 1, .values = values}, NULL,
                                 &parts));
    assert_ok(pare_writer_write(writer, &parts));
    assert_ok(pare_writer_finish(writer));
    pare_writer_free(&writer, false);
    pare_backend_free(&be);
    use(f, "  - export: {to: out}\n");
    f->recipe->prune_count = f->recipe->quant_count = 0;
    pare_status status = PARE_ERR_MEMORY;
    for (f->options.memory = 1 << 20; status != PARE_OK; f->options.memory += 4 << 20) {
        status = run(f);
        if (status != PARE_OK)
            assert_false(pare__exists(f->out)); /* refused before the work, not after it */
    }
    free(values);
}

int main(void)
{
#define ONE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ONE(selection_is_exact_with_ties_to_the_lower_index),
        ONE(threads_and_memory_do_not_change_a_byte),
        ONE(a_stopped_run_goes_on_and_ends_with_the_same_bytes),
        ONE(what_a_lost_part_held_is_written_again),
        ONE(after_a_power_cut_only_synced_chunks_count),
        ONE(a_run_cut_after_its_rename_has_only_its_report_to_do),
        ONE(a_part_of_another_source_is_not_continued),
        ONE(a_conversion_knows_what_its_check_needs),
        ONE(a_nan_is_named_and_nothing_is_left),
        ONE(an_output_in_the_way_is_kept),
        ONE(a_budget_too_small_says_what_it_needs),
        ONE(a_step_that_chooses_nothing_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
