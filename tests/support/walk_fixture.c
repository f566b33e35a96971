/* walk_fixture.c - small models on disk, samples beside them, and runs with both. */
#include "walk_fixture.h"

#include "engine/learn.h"

#include "base/file.h"

#include <math.h>

/* ---- models and data ------------------------------------------------------------------------- */

const char walk_llama[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 64, "
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"vocab_size\": 32, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-05, "
    "\"tie_word_embeddings\": true}";
const char walk_vit[] = "vit:patch=2,dim=32,depth=2,heads=2,mlp=64,in=1,size=8,classes=4";
const char walk_resnet[] = "resnet8-tiny:in=1,size=8,classes=4";

void walk_model(const char *arch, const char *config, const char *path, const char *nan)
{
    pare_backend *be = NULL;
    pare_model_choice choice = {.arch = arch ? arch : config};
    pare__subject subject = {.choice = &choice};
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(
        pare_model_create(&(pare_model_options){.arch = arch, .config = config}, &subject.model));
    assert_ok(pare_model_prepare(
        subject.model, be,
        &(pare_model_shape){.batch = 1, .length = config ? 4 : 0, .compute = PARE_F32}));
    assert_ok(pare_model_init(subject.model, 3));
    if (nan) {
        float *values = fixture_param(subject.model, nan)->value.data;
        values[5 * 32 + 7] = NAN;
    }
    assert_ok(pare__model_write_out(&(pare__model_write){.subject = &subject,
                                                         .be = be,
                                                         .output = path,
                                                         .recipe = "none",
                                                         .data = "none",
                                                         .sources = "{}",
                                                         .overwrite = true}));
    pare_model_free(&subject.model);
    pare_backend_free(&be);
}

walk_bench walk_make(const char *arch, const char *config)
{
    walk_bench b = {.folder = test_folder_make(), .options = {.threads = 1, .device = "cpu"}};
    assert_ok(pare__join(b.folder, "in.h5", &b.source));
    assert_ok(pare__join(b.folder, "out.h5", &b.out));
    walk_model(arch, config, b.source, NULL);
    b.data =
        config ? fixture_tokens(b.folder, 24 * 16 + 1, 32) : fixture_images(b.folder, 24, true);
    return b;
}

void walk_done(walk_bench *b)
{
    pare_report_free(&b->report);
    test_folder_remove(b->folder);
    free(b->source);
    free(b->out);
}

pare_status walk_run(walk_bench *b, const char *step, const char *more)
{
    char text[2000];
    pare_recipe *recipe = NULL;
    int n =
        snprintf(text, sizeof text,
                 "model: %s\nsteps:\n  - compress: {%s, data: %s%s, samples: 24%s}\n  - export: "
                 "{to: %s}\n",
                 b->source, step, b->data, strstr(b->data, "tokens.u16") ? ", seq_len: 16" : "",
                 more, b->out);
    assert_true(n > 0 && (size_t)n < sizeof text);
    pare_report_free(&b->report);
    assert_ok(pare_recipe_parse(text, (size_t)n, "recipe", &recipe));
    pare_status status = pare_run(recipe, &b->options, &b->report);
    pare_recipe_free(&recipe);
    return status;
}

void walk_clear(const walk_bench *b)
{
    static const char *const endings[] = {"", ".walk", ".part", ".journal"};
    for (int i = 0; i < 4; i++) {
        char path[4200];
        snprintf(path, sizeof path, "%s%s", b->out, endings[i]);
        assert_ok(pare__remove_tree(path));
    }
}

float *walk_values(const char *path, const char *name, int64_t *rows, int64_t *cols)
{
    pare_store *store = NULL;
    pare_backend *be = NULL;
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(pare_store_open(path, &store));
    int64_t i = pare_store_find(store, name);
    assert_true(i >= 0);
    const pare_entry *e = pare_store_entry(store, i);
    assert_int_equal(e->dtype, PARE_F32);
    *rows = e->rows;
    *cols = e->cols;
    float *values = malloc((size_t)(e->rows * e->cols) * sizeof *values);
    void *scratch = malloc((size_t)pare_store_scratch(store, i, e->rows) + 1);
    assert_ok(pare_store_read_values(store, be, i, 0, e->rows, values, scratch));
    free(scratch);
    pare_store_close(&store);
    pare_backend_free(&be);
    return values;
}

const pare__json *walk_member(const pare__json *root, const char *list, const char *name,
                              const char *key)
{
    const pare__json *all = pare__json_get(root, list);
    for (size_t i = 0; i < pare__json_size(all); i++) {
        const char *own = pare__json_string(pare__json_get(pare__json_at(all, i), "name"));
        if (own && strcmp(own, name) == 0)
            return pare__json_get(pare__json_at(all, i), key);
    }
    return NULL;
}

pare__json *walk_report(const walk_bench *b)
{
    char *text = NULL;
    pare__json *root = NULL;
    assert_ok(pare_report_json(b->report, &text));
    assert_ok(pare__json_parse(text, strlen(text), "report", &root));
    free(text);
    return root;
}
