/* run_fixture.c - see the header. */
#include "test.h"

#include "run_fixture.h"

#include "base/file.h"
#include "base/half.h"

const int64_t shapes[TENSORS][2] = {{600, 520}, {33, 64}, {257, 192}};
const char *const names[TENSORS] = {"a.weight", "b.weight", "c.weight"};

static uint32_t next(uint32_t *seed)
{
    return *seed = *seed * 1664525u + 1013904223u;
}

/* bf16 weights have few distinct magnitudes, so ties decide much; f32 ones hardly any. */
void write_source(const char *path, pare_dtype dtype, bool nan)
{
    pare_entry entries[TENSORS] = {0};
    pare_writer *writer = NULL;
    pare_backend *be = NULL;
    uint32_t seed = 7;
    for (int t = 0; t < TENSORS; t++)
        entries[t] = (pare_entry){
            .name = names[t], .dtype = dtype, .rank = 2, .shape = {shapes[t][0], shapes[t][1]}};
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(pare_writer_create(
        &(pare_writer_options){.path = path, .entries = entries, .count = TENSORS}, false,
        &writer));
    for (int t = 0; t < TENSORS; t++) {
        int64_t n = shapes[t][0] * shapes[t][1];
        size_t item = dtype == PARE_F32 ? 4 : 2;
        char *values = malloc((size_t)n * item);
        for (int64_t i = 0; i < n; i++) {
            float x = (float)(int32_t)next(&seed) * 0x1p-31f;
            x = nan && t == 1 && i == 70 ? pare__bits_f32(0x7fc00000u) : x * x * x;
            uint16_t half = pare__f32_to_bf16(x);
            memcpy(values + (size_t)i * item, item == 4 ? (void *)&x : (void *)&half, item);
        }
        pare_parts parts;
        pare_rows rows = {.count = shapes[t][0], .values = values};
        void *scratch = malloc((size_t)pare_writer_scratch(writer, t, rows.count) + 1);
        assert_ok(pare_writer_encode(writer, be, t, &rows, scratch, &parts));
        assert_ok(pare_writer_write(writer, &parts));
        free(scratch);
        free(values);
    }
    assert_ok(pare_writer_finish(writer));
    pare_writer_free(&writer, false);
    pare_backend_free(&be);
}

int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->folder = test_folder_make();
    assert_ok(pare__join(f->folder, "in.safetensors", &f->source));
    assert_ok(pare__join(f->folder, "out.safetensors", &f->out));
    f->options = (pare_run_options){.threads = 3};
    *state = f;
    return 0;
}

int tear_down(void **state)
{
    fixture *f = *state;
    pare_recipe_free(&f->recipe);
    test_folder_remove(f->folder);
    free(f->source);
    free(f->out);
    free(f);
    return 0;
}

void use(fixture *f, const char *steps)
{
    char text[600];
    pare_recipe_free(&f->recipe);
    int n = snprintf(text, sizeof text, "model: %s\nsteps:\n%s", f->source, steps);
    assert_ok(pare_recipe_parse(text, (size_t)n, "test", &f->recipe));
    free(f->recipe->output);
    f->recipe->output = strdup(f->out);
}

pare_status run(fixture *f)
{
    pare_report *report = NULL;
    pare_status status = pare_run(f->recipe, &f->options, &report);
    pare_report_free(&report);
    return status;
}
