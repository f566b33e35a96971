/* run_device.c - whole runs on a device: the bytes of the CPU's for every scheme, pattern and
 * container; a run that a fault of the device or its memory cut goes on on the CPU; memory of the
 * device is kept to; --device, reports, timeline. */
#include "test.h"

#include "run_device.h"
#include "run_fixture.h"

#include "base/file.h"
#include "base/half.h"
#include "base/json.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What plays the device. */
static const run_device *on;

/* The disk is full from this write of a run on; 0: never. Once it was, the number is negative. */
static _Atomic int writes_left;

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    if (writes_left < 0 || (writes_left > 0 && --writes_left == 0)) {
        writes_left = -1;
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, bytes, size, offset);
}

static void fresh_device(void)
{
    assert_true(on->set_up(on->memory));
}

static const char *const jobs[] = {
    "  - prune: {sparsity: 0.5}\n",
    "  - prune: {sparsity: 0.9, scope: layer}\n",
    "  - prune: {method: random, sparsity: 0.7, scope: layer}\n",
    "  - prune: {method: random, sparsity: 0.3}\n",
    "  - prune: {pattern: \"2:4\"}\n",
    "  - prune: {method: random, pattern: \"4:8\"}\n",
    "  - prune: {pattern: \"block:4x8\", sparsity: 0.5}\n",
    "  - prune: {method: random, pattern: \"block:3x5\", sparsity: 0.5, scope: layer}\n",
    "  - quantize: {scheme: w8}\n",
    "  - quantize: {scheme: w3}\n",
    "  - quantize: {scheme: w4g8z}\n",
    "  - quantize: {scheme: w4g64, scale: mse}\n",
    "  - quantize: {scheme: w8tz}\n",
    "  - quantize: {scheme: w8t, scale: mse}\n",
    "  - quantize: {scheme: w8a8}\n",
    "  - quantize: {scheme: fp8}\n",
    "  - quantize: {scheme: fp8t, scale: mse}\n",
    "  - quantize: {scheme: nf4}\n",
    "  - quantize: {scheme: nf4d}\n",
    "  - prune: {sparsity: 0.5}\n  - quantize: {scheme: w4g64z}\n",
    "  - prune: {pattern: \"2:4\"}\n  - quantize: {scheme: w8t, scale: mse}\n",
    "  - prune: {sparsity: 0.3}\n  - quantize: {scheme: nf4d}\n",
    "  - prune: {pattern: \"block:8x8\", sparsity: 0.4}\n  - quantize: {scheme: fp8}\n",
};
enum { JOBS = sizeof jobs / sizeof *jobs };

/* What a run leaves that a cut run must leave too, in one buffer. */
typedef struct bytes {
    char *at;
    int64_t size;
} bytes;

typedef struct gathering {
    const char *folder;
    bytes all;
} gathering;

static void add_file(gathering *g, const char *path)
{
    char *file = NULL;
    int64_t size;
    assert_ok(pare__file_load(path, 1 << 26, &file, &size));
    g->all.at = realloc(g->all.at, (size_t)(g->all.size + size) + 1);
    memcpy(g->all.at + g->all.size, file, (size_t)size);
    g->all.size += size;
    free(file);
}

static pare_status visit(void *user, const char *name, int64_t size)
{
    gathering *g = user;
    char *path = NULL;
    (void)size;
    assert_ok(pare__join(g->folder, name, &path));
    add_file(g, path);
    free(path);
    return PARE_OK;
}

static bytes load_output(const char *path)
{
    gathering g = {.folder = path};
    if (pare__is_directory(path))
        assert_ok(pare__walk(path, visit, &g));
    else
        add_file(&g, path);
    return g.all;
}

static void remove_output(const fixture *f)
{
    assert_ok(pare__remove_tree(f->out));
}

static void assert_same(const bytes *a, const bytes *b, const char *what)
{
    if (a->size != b->size || memcmp(a->at, b->at, (size_t)a->size) != 0)
        fail_msg("%s: the device's bytes are not the CPU's", what);
}

static bytes run_on(fixture *f, const char *device)
{
    f->options.device = device;
    assert_ok(run(f));
    bytes all = load_output(f->out);
    remove_output(f);
    return all;
}

/* One step list on both; the device has really worked. */
static void same_bytes(fixture *f, const char *steps, const char *out)
{
    free(f->out);
    assert_ok(pare__join(f->folder, out, &f->out));
    use(f, steps);
    bytes cpu = run_on(f, "cpu");
    fresh_device();
    bytes far = run_on(f, "cuda");
    assert_true(on->calls() > 0);
    assert_same(&cpu, &far, steps);
    free(cpu.at);
    free(far.at);
}

static void every_scheme_and_pattern_gives_the_cpus_bytes(void **state)
{
    fixture *f = *state;
    static const char *const outs[] = {"x.h5", "x.safetensors", "folder"};
    const pare_dtype dtypes[] = {PARE_BF16, PARE_F32};
    for (int d = 0; d < 2; d++) {
        unlink(f->source);
        write_source(f->source, dtypes[d], false);
        for (int j = 0; j < JOBS; j++)
            if (on->thorough || j % 2 == d)
                same_bytes(f, jobs[j], outs[(j + d) % 3]);
    }
}

/* ---- other tensors --------------------------------------------------------------------------- */

enum { MIXED = 5 };
static const pare_entry mixed[MIXED] = {
    {.name = "conv.weight", .dtype = PARE_F32, .rank = 4, .shape = {24, 8, 3, 3}},
    {.name = "depth.weight", .dtype = PARE_F16, .rank = 4, .shape = {16, 1, 5, 5}},
    {.name = "ids", .dtype = PARE_I64, .rank = 1, .shape = {77}},
    {.name = "linear.bias", .dtype = PARE_BF16, .rank = 1, .shape = {40}},
    {.name = "linear.weight", .dtype = PARE_BF16, .rank = 2, .shape = {40, 136}},
};

/* Convolutions, what is left alone, a dtype each. */
static void write_mixed(const char *path)
{
    pare_writer *writer = NULL;
    pare_backend *be = NULL;
    uint32_t seed = 3;
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(pare_writer_create(
        &(pare_writer_options){.path = path, .entries = mixed, .count = MIXED}, false, &writer));
    for (int t = 0; t < MIXED; t++) {
        int64_t n = 1;
        for (int d = 0; d < mixed[t].rank; d++)
            n *= mixed[t].shape[d];
        char *values = calloc((size_t)n, 8);
        for (int64_t i = 0; i < n; i++) {
            seed = seed * 1664525u + 1013904223u;
            float x = (float)(int32_t)seed * 0x1p-31f;
            uint16_t half = mixed[t].dtype == PARE_F16 ? pare__f32_to_f16(x) : pare__f32_to_bf16(x);
            if (mixed[t].dtype == PARE_F32)
                memcpy(values + 4 * i, &x, 4);
            else if (mixed[t].dtype != PARE_I64)
                memcpy(values + 2 * i, &half, 2);
        }
        int64_t rows = mixed[t].rank == 1 ? 1 : mixed[t].shape[0];
        pare_parts parts;
        pare_rows all = {.count = mixed[t].rank == 1 ? n : rows, .values = values};
        void *scratch = malloc((size_t)pare_writer_scratch(writer, t, all.count) + 1);
        assert_ok(pare_writer_encode(writer, be, t, &all, scratch, &parts));
        assert_ok(pare_writer_write(writer, &parts));
        free(scratch);
        free(values);
    }
    assert_ok(pare_writer_finish(writer));
    pare_writer_free(&writer, false);
    pare_backend_free(&be);
}

static void convolutions_and_what_is_left_alone_too(void **state)
{
    fixture *f = *state;
    static const char *const more[] = {
        "  - prune: {pattern: \"2:4\"}\n",
        "  - prune: {method: random, pattern: \"1:4\"}\n",
        "  - prune: {pattern: \"2:4\"}\n  - quantize: {scheme: w8, exclude: \"depth*\"}\n",
        "  - prune: {sparsity: 0.6}\n",
        "  - prune: {pattern: \"block:2x9\", sparsity: 0.6}\n",
        "  - quantize: {scheme: w4b8x8z, include: linear.weight}\n",
        "  - quantize: {scheme: w8t, scale: mse}\n",
        "  - export: {format: sparse-bitmask}\n",
    };
    write_mixed(f->source);
    for (size_t j = 0; j < sizeof more / sizeof *more; j++)
        same_bytes(f, more[j], "x.h5");
    same_bytes(f, more[3], "folder");
}

/* Outputs as sources: quantised and sparse tensors are decoded, kept, worked on again. */
static void compressed_sources_too(void **state)
{
    fixture *f = *state;
    static const char *const first[] = {"  - prune: {sparsity: 0.6}\n",
                                        "  - quantize: {scheme: w4g8}\n",
                                        "  - quantize: {scheme: nf4d}\n"};
    static const char *const then[] = {"  - export: {}\n", "  - export: {format: dense}\n",
                                       "  - quantize: {scheme: w8}\n",
                                       "  - prune: {sparsity: 0.8}\n"};
    char *dense = f->source;
    write_source(dense, PARE_BF16, false);
    for (int i = 0; i < 3; i++) {
        f->source = dense;
        free(f->out);
        assert_ok(pare__join(f->folder, "first.h5", &f->out));
        use(f, first[i]);
        f->options.device = "cuda:1";
        fresh_device();
        assert_ok(run(f));
        f->source = f->out;
        f->out = NULL;
        for (int j = 0; j < 4; j++)
            for (int o = 0; o < 2; o++)
                if (on->thorough || (i + j + o) % 2)
                    same_bytes(f, then[j], o ? "folder" : "x.h5");
        unlink(f->source);
        free(f->source);
        f->source = dense;
    }
}

/* ---- faults ---------------------------------------------------------------------------------- */

static const char faulty[] = "  - prune: {sparsity: 0.5}\n  - quantize: {scheme: w4g64z}\n";

/* After a fault nothing lies under the final name, and the CPU ends the run with the same bytes. */
static void go_on_without(fixture *f, const bytes *want, int64_t fault)
{
    char what[40];
    snprintf(what, sizeof what, "fault %lld", (long long)fault);
    assert_false(pare__exists(f->out));
    fresh_device();
    bytes got = run_on(f, "cpu");
    assert_same(want, &got, what);
    free(got.at);
}

static bytes whole_run(fixture *f)
{
    write_source(f->source, PARE_BF16, false);
    use(f, faulty);
    return run_on(f, "cpu");
}

static void the_cpu_goes_on_after_any_allocation_failed(void **state)
{
    fixture *f = *state;
    bytes want = whole_run(f);
    int64_t failed = 0;
    for (int64_t n = 1, struck = 1; struck; n++) {
        fresh_device();
        on->fail_alloc(n);
        f->options.device = "cuda";
        pare_status status = run(f);
        struck = on->allocations() >= n;
        if (status == PARE_OK) {
            remove_output(f);
            continue;
        }
        assert_int_equal(status, PARE_ERR_MEMORY);
        assert_true(pare_last_error()[0] != '\0');
        go_on_without(f, &want, n);
        failed++;
    }
    assert_true(failed >= 3);
    free(want.at);
}

static void the_cpu_goes_on_where_the_device_was_lost(void **state)
{
    fixture *f = *state;
    bytes want = whole_run(f);
    int64_t calls, failed = 0, kept = 0, points = on->thorough ? 80 : 12;
    fresh_device();
    bytes far = run_on(f, "cuda");
    assert_same(&want, &far, "whole");
    free(far.at);
    calls = on->calls();
    for (int64_t i = 0; i < points; i++) {
        int64_t n = 1 + i * calls / points;
        fresh_device();
        on->lose(n);
        f->options.device = "cuda";
        pare_status status = run(f);
        if (status == PARE_OK) { /* the order of work differs from run to run */
            remove_output(f);
            continue;
        }
        assert_int_equal(status, PARE_ERR_DEVICE);
        assert_int_equal(pare_status_exit_code(status), 1);
        assert_non_null(strstr(pare_last_error(), "--device cpu"));
        kept += strstr(pare_last_error(), "the same command continues") != NULL;
        go_on_without(f, &want, n);
        failed++;
    }
    assert_true(failed > points / 2 && kept > points / 4);
    free(want.at);
}

/* Runs on one device until its n-th write finds a full disk, then on the other: the end is the
 * same.
 */
static void a_run_changes_devices_on_its_way(void **state)
{
    fixture *f = *state;
    bytes want = whole_run(f);
    static const char *const devices[] = {"cpu", "cuda:1"};
    int cut = 0;
    fresh_device();
    for (int d = 0; d < 2; d++)
        for (int n = 1, struck = 1; struck; n += on->thorough ? 3 : 9) {
            f->options.device = devices[d];
            writes_left = n;
            pare_status status = run(f);
            struck = writes_left < 0;
            writes_left = 0;
            if (status != PARE_OK)
                assert_int_equal(status, PARE_ERR_FULL);
            if (status != PARE_OK && !pare__exists(f->out)) {
                f->options.device = devices[1 - d];
                assert_ok(run(f));
                cut++;
            }
            bytes got = load_output(f->out);
            assert_same(&want, &got, "continued elsewhere");
            free(got.at);
            remove_output(f);
        }
    assert_true(cut >= 4);
    free(want.at);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void the_devices_memory_is_kept_to(void **state)
{
    fixture *f = *state;
    bytes want = whole_run(f);
    const int64_t budgets[] = {9 << 20, 20 << 20, 64 << 20};
    for (int i = 0; i < 3; i++) {
        bytes got = {0};
        if (on->set_up(budgets[i])) {
            got = run_on(f, "cuda");
            assert_same(&want, &got, "small device");
            free(got.at);
        }
        fresh_device();
        f->options.device_memory = budgets[i];
        got = run_on(f, "cuda");
        assert_same(&want, &got, "--device-memory");
        assert_true(on->peak() <= budgets[i]);
        free(got.at);
        f->options.device_memory = 0;
    }
    free(want.at);
}

static void a_chunk_that_does_not_fit_says_what_it_needs(void **state)
{
    fixture *f = *state;
    bytes want = whole_run(f);
    fresh_device();
    f->options.device_memory = 5 << 20;
    f->options.device = "cuda";
    assert_status(run(f), PARE_ERR_MEMORY);
    assert_int_equal(pare_status_exit_code(PARE_ERR_MEMORY), 4);
    assert_non_null(strstr(pare_last_error(), "5.00 MiB may be used"));
    assert_non_null(strstr(pare_last_error(), "--device cpu"));
    go_on_without(f, &want, 0);
    free(want.at);
}

/* ---- words and reports ----------------------------------------------------------------------- */

static pare__json *report_of(fixture *f, const char *kind)
{
    pare_report *report = NULL;
    char *text = NULL;
    pare__json *root = NULL;
    bool differs;
    if (strcmp(kind, "plan") == 0)
        assert_ok(pare_plan(f->recipe, &f->options, &report));
    else if (strcmp(kind, "run") == 0)
        assert_ok(pare_run(f->recipe, &f->options, &report));
    else if (strcmp(kind, "inspect") == 0)
        assert_ok(pare_inspect(f->source, true, &f->options, &report));
    else if (strcmp(kind, "compare") == 0)
        assert_ok(pare_compare(f->source, f->out, 0, &f->options, &report, &differs));
    else
        assert_ok(pare_devices(&f->options, &report));
    assert_ok(pare_report_json(report, &text));
    assert_ok(pare__json_parse(text, strlen(text), kind, &root));
    free(text);
    assert_ok(pare_report_text(report, &text));
    assert_true(strcmp(kind, "inspect") == 0 || strcmp(kind, "compare") == 0 ||
                strstr(text, on->name) != NULL);
    free(text);
    pare_report_free(&report);
    return root;
}

static void reports_name_the_device(void **state)
{
    fixture *f = *state;
    int64_t memory;
    write_source(f->source, PARE_BF16, false);
    use(f, faulty);
    fresh_device();
    f->options.device = "cuda:1";
    static const char *const kinds[] = {"plan", "run"};
    for (int i = 0; i < 2; i++) {
        pare__json *root = report_of(f, kinds[i]);
        const pare__json *predicted = pare__json_get(root, "predicted");
        const char *name = pare__json_string(pare__json_get(predicted, "device"));
        assert_int_equal(strncmp(name, "cuda:1 ", 7), 0);
        assert_non_null(strstr(name, on->name));
        assert_true(pare__json_int(pare__json_get(predicted, "device_memory"), &memory));
        assert_true(memory > 0);
        if (i == 1) {
            assert_true(on->peak() <= memory);
            assert_true(pare__json_int(
                pare__json_get(pare__json_get(root, "actual"), "device_memory"), &memory));
            assert_true(on->peak() <= memory);
        }
        pare__json_free(&root);
    }
    pare__json *root = report_of(f, "devices");
    assert_int_equal(pare__json_size(pare__json_get(root, "gpus")), 2);
    const char *driver = pare__json_string(pare__json_get(pare__json_get(root, "cuda"), "driver"));
    assert_true(atoi(driver) >= 12 && strchr(driver, '.'));
    pare__json_free(&root);
}

/* inspect --stats and compare say the same wherever they work. */
static void what_only_looks_finds_the_same(void **state)
{
    fixture *f = *state;
    static const char *const kinds[] = {"inspect", "compare"};
    write_source(f->source, PARE_BF16, false);
    use(f, faulty);
    fresh_device();
    assert_ok(run(f));
    for (int i = 0; i < 2; i++) {
        char *text[2] = {NULL, NULL};
        for (int d = 0; d < 2; d++) {
            f->options.device = d ? "cuda" : "cpu";
            pare__json *root = report_of(f, kinds[i]);
            pare__json_set_string(root, "device", "");
            assert_ok(pare__json_dump(root, 1, true, &text[d]));
            pare__json_free(&root);
        }
        assert_string_equal(text[0], text[1]);
        free(text[0]);
        free(text[1]);
    }
    assert_true(on->calls() > 0);
}

static void the_timeline_shows_the_stages_of_a_device(void **state)
{
    fixture *f = *state;
    static const char *const words[] = {"\"read\"",  "\"upload\"",   "\"score\"", "\"compress\"",
                                        "\"write\"", "\"download\"", "cuda:0 "};
    char *path = NULL, *text = NULL;
    int64_t size;
    write_source(f->source, PARE_BF16, false);
    use(f, faulty);
    fresh_device();
    assert_ok(pare__join(f->folder, "trace.json", &path));
    f->options.device = "cuda";
    f->options.trace = path;
    assert_ok(run(f));
    assert_ok(pare__file_load(path, 1 << 26, &text, &size));
    pare__json *root = NULL;
    assert_ok(pare__json_parse(text, (size_t)size, "trace", &root));
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strstr(text, words[i]))
            fail_msg("no %s in the timeline", words[i]);
    pare__json_free(&root);
    free(text);
    free(path);
}

static void words_of_devices(void **state)
{
    fixture *f = *state;
    static const char *const wrong[] = {"tpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "CUDA", ""};
    write_source(f->source, PARE_BF16, false);
    use(f, faulty);
    fresh_device();
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        f->options.device = wrong[i];
        assert_status(run(f), PARE_ERR_ARGUMENT);
        assert_non_null(strstr(pare_last_error(), "auto, cpu, cuda, cuda:N"));
    }
    f->options.device = "cuda:2";
    assert_status(run(f), PARE_ERR_DEVICE);
    assert_non_null(strstr(pare_last_error(), "this machine has 2"));
    f->options.device = NULL;
    assert_ok(run(f));
    assert_true(on->calls() > 0);
    remove_output(f);
    if (!on->set_up(0))
        return;
    assert_ok(run(f)); /* auto: without a device the CPU */
    remove_output(f);
    f->options.device = "cuda";
    assert_status(run(f), PARE_ERR_DEVICE);
    assert_non_null(strstr(pare_last_error(), "no CUDA device"));
}

int run_device_tests(const run_device *device)
{
#define ONE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ONE(every_scheme_and_pattern_gives_the_cpus_bytes),
        ONE(convolutions_and_what_is_left_alone_too),
        ONE(compressed_sources_too),
        ONE(the_cpu_goes_on_after_any_allocation_failed),
        ONE(the_cpu_goes_on_where_the_device_was_lost),
        ONE(a_run_changes_devices_on_its_way),
        ONE(the_devices_memory_is_kept_to),
        ONE(a_chunk_that_does_not_fit_says_what_it_needs),
        ONE(reports_name_the_device),
        ONE(what_only_looks_finds_the_same),
        ONE(the_timeline_shows_the_stages_of_a_device),
        ONE(words_of_devices),
    };
    on = device;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
