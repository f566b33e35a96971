/* test_walk.c - compression with data, block by block: what is written, that it is the same however
 * the work was cut, wherever it was done. */
#include "walk_fixture.h"

#include "far_device.h"

#include "base/file.h"

#include <errno.h>
#include <math.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- the n-th write fails -------------------------------------------------------------------- */

static volatile long writes_left = -1; /* negative: none fails */

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    if (writes_left >= 0 && writes_left-- == 0) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, bytes, size, offset);
}

static char *bytes_of(const walk_bench *b, int64_t *size)
{
    char *bytes = NULL;
    assert_ok(pare__file_load(b->out, 1 << 26, &bytes, size));
    return bytes;
}

/* ---- what the report says -------------------------------------------------------------------- */

typedef struct outcome {
    size_t layers, better, known, fallbacks;
    double damping; /* of the last layer */
    char first_fallback[200];
} outcome;

static outcome look(const walk_bench *b)
{
    char *text = NULL;
    pare__json *root = NULL;
    outcome o = {0};
    assert_ok(pare_report_json(b->report, &text));
    assert_ok(pare__json_parse(text, strlen(text), "report", &root));
    const pare__json *layers = pare__json_get(root, "layers");
    o.layers = pare__json_size(layers);
    for (size_t i = 0; i < o.layers; i++) {
        const pare__json *layer = pare__json_at(layers, i);
        double before, after;
        (void)pare__json_real(pare__json_get(layer, "damping"), &o.damping);
        const char *fallback = pare__json_string(pare__json_get(layer, "fallback"));
        if (fallback && o.fallbacks++ == 0)
            snprintf(o.first_fallback, sizeof o.first_fallback, "%s", fallback);
        if (!pare__json_real(pare__json_get(layer, "error_before"), &before) ||
            !pare__json_real(pare__json_get(layer, "error_after"), &after))
            continue;
        o.known++;
        o.better += after <= before * (1 + 1e-9);
        assert_true(isfinite(after) && after >= 0);
    }
    pare__json_free(&root);
    free(text);
    assert_ok(pare_report_text(b->report, &text));
    assert_non_null(strstr(text, "by data:"));
    free(text);
    return o;
}

/* n of every m stay, along the columns or (inner) the channels of a convolution. */
static void check_nm(const char *path, const char *name, int n, int m, int64_t inner)
{
    int64_t R, C;
    float *w = walk_values(path, name, &R, &C);
    for (int64_t r = 0; r < R; r++)
        for (int64_t s = 0; s < inner; s++)
            for (int64_t c = 0; c < C / inner; c += m) {
                int kept = 0;
                for (int64_t i = c; i < c + m; i++)
                    kept += w[r * C + i * inner + s] != 0;
                assert_true(kept <= n);
            }
    free(w);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static const char q_proj[] = "model.layers.1.self_attn.q_proj.weight",
                  down_proj[] = "model.layers.1.mlp.down_proj.weight";

static void wanda_leaves_the_share_of_each_row(void **state)
{
    (void)state;
    walk_bench b = walk_make(NULL, walk_llama);
    assert_ok(walk_run(&b, "prune: {method: wanda, sparsity: 0.5}", ""));
    outcome o = look(&b);
    assert_int_equal(o.layers, 14);
    int64_t R, C;
    float *w = walk_values(b.out, down_proj, &R, &C);
    for (int64_t r = 0; r < R; r++) {
        int64_t zeros = 0;
        for (int64_t c = 0; c < C; c++)
            zeros += w[r * C + c] == 0;
        assert_int_equal(zeros, C / 2);
    }
    free(w);
    walk_clear(&b);
    assert_ok(walk_run(&b, "prune: {method: wanda, pattern: '2:4'}", ""));
    check_nm(b.out, q_proj, 2, 4, 1);
    check_nm(b.out, down_proj, 2, 4, 1);
    walk_done(&b);
}

/* The first site sees what nothing has changed yet, so its scores can be had otherwise. */
static void wanda_takes_the_lowest_scores(void **state)
{
    (void)state;
    const char *name = "model.layers.0.self_attn.k_proj.weight";
    walk_bench b = walk_make(NULL, walk_llama);
    int64_t R, C, rows, cols;
    assert_ok(walk_run(&b, "prune: {method: wanda, sparsity: 0.25}", ""));
    float *was = walk_values(b.source, name, &R, &C), *is = walk_values(b.out, name, &R, &C);
    float *emb = walk_values(b.source, "model.embed_tokens.weight", &rows, &cols);
    uint16_t tokens[24 * 16];
    FILE *file = fopen(b.data, "rb");
    assert_int_equal(fread(tokens, 2, 24 * 16, file), 24 * 16);
    fclose(file);
    double square[64] = {0};
    for (int t = 0; t < 24 * 16; t++) { /* behind the first norm, whose weights are 1 */
        const float *x = emb + tokens[t] * cols;
        double mean = 0;
        for (int64_t c = 0; c < cols; c++)
            mean += (double)x[c] * (double)x[c] / (double)cols;
        for (int64_t c = 0; c < cols; c++)
            square[c] += (double)x[c] * (double)x[c] / (mean + 1e-5);
    }
    for (int64_t r = 0; r < R; r++) {
        double gone = 0, kept = INFINITY;
        for (int64_t c = 0; c < C; c++) {
            double score = fabs((double)was[r * C + c]) * sqrt(square[c]);
            if (is[r * C + c] == 0)
                gone = score > gone ? score : gone;
            else
                kept = score < kept ? score : kept;
            assert_true(is[r * C + c] == 0 || is[r * C + c] == was[r * C + c]);
        }
        assert_true(gone <= kept * (1 + 1e-5));
    }
    free(emb);
    free(is);
    free(was);
    walk_done(&b);
}

static void sweeps_are_better_than_plain_methods(void **state)
{
    (void)state;
    static const char *const steps[] = {
        "prune: {method: sparsegpt, sparsity: 0.5, damping: 0.02}",
        "prune: {method: sparsegpt, pattern: '2:4'}",
        "quantize: {method: gptq, scheme: w4g32}",
        "quantize: {method: gptq, scheme: w3g32z, act_order: true}",
    };
    walk_bench b = walk_make(NULL, walk_llama);
    for (int i = 0; i < 4; i++) {
        assert_ok(walk_run(&b, steps[i], ""));
        outcome o = look(&b);
        assert_true(o.layers == 14 && o.known == 14 && o.better >= 11);
        assert_true(o.damping == (i == 0 ? 0.02 : 0.01));
        walk_clear(&b);
    }
    walk_done(&b);
}

static void a_joint_sweep_is_sparse_and_quantised(void **state)
{
    (void)state;
    walk_bench b = walk_make(NULL, walk_llama);
    assert_ok(
        walk_run(&b,
                 "prune: {method: sparsegpt, pattern: '2:4'}, quantize: {method: gptq, scheme: "
                 "w4g32}",
                 ""));
    check_nm(b.out, q_proj, 2, 4, 1);
    check_nm(b.out, down_proj, 2, 4, 1);
    outcome o = look(&b);
    assert_int_equal(o.known, 14);
    assert_true(o.better >= 11);
    pare_store *store = NULL;
    assert_ok(pare_store_open(b.out, &store));
    const pare_entry *e = pare_store_entry(store, pare_store_find(store, q_proj));
    assert_int_equal(e->form, PARE_FORM_QUANT);
    pare_store_close(&store);
    walk_clear(&b);
    assert_ok(walk_run(&b,
                       "prune: {method: wanda, pattern: '2:4'}, quantize: {method: gptq, scheme: "
                       "w4g32}",
                       ""));
    check_nm(b.out, q_proj, 2, 4, 1);
    walk_done(&b);
}

/* Folded scales leave the function as it is: what is not quantised is changed, and the model's
 * outputs are near. */
static void scales_are_folded_away(void **state)
{
    (void)state;
    static const char *const steps[] = {
        "quantize: {method: awq, scheme: w8g32}",
        "quantize: {method: smoothquant, scheme: w8a8}",
        "quantize: {method: smoothquant, scheme: w8a8s}",
    };
    walk_bench b = walk_make(NULL, walk_llama);
    for (int i = 0; i < 3; i++) {
        pare_report *report = NULL;
        bool differs;
        assert_ok(walk_run(&b, steps[i], i == 1 ? ", true_sequential: false" : ""));
        assert_int_equal(look(&b).layers, 14);
        pare_eval_job job = {.model = {.checkpoint = b.out},
                             .against = {.checkpoint = b.source},
                             .data = {.path = b.data, .seq_len = 16, .pad_id = -2, .bos_id = -1},
                             .metrics = PARE_METRIC_KLD};
        assert_ok(pare_eval(&job, false, &b.options, &report));
        char *text = NULL;
        assert_ok(pare_report_json(report, &text));
        pare__json *root = NULL;
        double kld = 1;
        assert_ok(pare__json_parse(text, strlen(text), "eval", &root));
        assert_true(pare__json_real(pare__json_get(root, "kld"), &kld));
        assert_true(kld < 1e-5);
        pare__json_free(&root);
        free(text);
        pare_report_free(&report);
        assert_ok(pare_compare(b.source, b.out, 1, &b.options, &report, &differs));
        pare_report_free(&report);
        walk_clear(&b);
    }
    walk_done(&b);
}

static void images_go_through_too(void **state)
{
    (void)state;
    walk_bench b = walk_make(walk_resnet, NULL);
    assert_ok(walk_run(&b, "prune: {method: sparsegpt, pattern: '2:4'}", ""));
    outcome o = look(&b);
    assert_true(o.layers >= 8 && o.better == o.known);
    walk_clear(&b);
    assert_ok(walk_run(
        &b, "prune: {method: wanda, pattern: '2:4'}, quantize: {method: gptq, scheme: w4}", ""));
    walk_done(&b);
    b = walk_make(walk_vit, NULL);
    assert_ok(walk_run(&b, "quantize: {method: gptq, scheme: w4g32}", ", batch: 7"));
    o = look(&b);
    assert_true(o.layers >= 8 && o.better == o.known);
    walk_done(&b);
}

/* The channels of a convolution's inputs are scaled, at all places of its windows alike, and the
 * batch norm before it takes the scales. */
static void scales_of_channels_go_into_a_batch_norm(void **state)
{
    (void)state;
    static const char norm[] = "batch_normalization_1.weight", conv[] = "conv2d_2.weight";
    walk_bench b = walk_make(walk_resnet, NULL);
    int64_t R, K, C, one;
    assert_ok(walk_run(&b, "quantize: {method: smoothquant, scheme: w8}", ""));
    float *norm_was = walk_values(b.source, norm, &C, &one);
    float *norm_is = walk_values(b.out, norm, &C, &one);
    float *was = walk_values(b.source, conv, &R, &K), *is = walk_values(b.out, conv, &R, &K);
    assert_int_equal(K, 9 * C);
    for (int64_t r = 0; r < R; r++) {
        float largest = 0;
        for (int64_t k = 0; k < K; k++) {
            was[r * K + k] *= norm_was[k / 9] / norm_is[k / 9];
            largest = fmaxf(largest, fabsf(was[r * K + k]));
        }
        for (int64_t k = 0; k < K; k++)
            assert_true(fabsf(is[r * K + k] - was[r * K + k]) <= largest / 127);
    }
    for (int64_t c = 0; c < C; c++)
        assert_true(norm_was[c] != norm_is[c]);
    free(norm_was);
    free(norm_is);
    free(was);
    free(is);
    walk_done(&b);
}

/* Rows of padding do not count: longer rows of the same tokens give the same weights. */
static void padding_is_left_out(void **state)
{
    (void)state;
    static const char bert[] =
        "{\"model_type\": \"bert\", \"hidden_size\": 32, \"intermediate_size\": 64, "
        "\"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"vocab_size\": 32, "
        "\"max_position_embeddings\": 64, \"type_vocab_size\": 2}";
    const char *name = "encoder.layer.0.attention.self.query.weight";
    walk_bench b = walk_make(NULL, bert);
    float *got[2];
    int64_t R, C;
    uint16_t rows[24][20];
    char path[4200];
    for (int round = 0; round < 2; round++) {
        int length = round ? 20 : 10;
        snprintf(path, sizeof path, "%s/tokens%d.npy", b.folder, round);
        char head[128];
        int n = snprintf(head, sizeof head,
                         "{'descr': '<u2', 'fortran_order': False, 'shape': (24, %d), }", length);
        memset(head + n, ' ', sizeof head - (size_t)n);
        head[117] = '\n';
        FILE *file = fopen(path, "wb");
        assert_int_equal(fwrite("\x93NUMPY\1\0\x76\0", 1, 10, file), 10);
        assert_int_equal(fwrite(head, 1, 118, file), 118);
        for (int r = 0; r < 24; r++) {
            for (int t = 0; t < length; t++)
                rows[r][t] = (uint16_t)(t < 8 ? 1 + (r * 7 + t * 5) % 31 : 0);
            assert_int_equal(fwrite(rows[r], 2, (size_t)length, file), length);
        }
        fclose(file);
        b.data = path;
        walk_clear(&b);
        assert_ok(walk_run(&b, "quantize: {method: gptq, scheme: w4g32}",
                           round ? ", pad_id: 0, seq_len: 20" : ", pad_id: 0, seq_len: 10"));
        got[round] = walk_values(b.out, name, &R, &C);
    }
    double apart = 0, size = 0;
    for (int64_t e = 0; e < R * C; e++) {
        apart += fabs((double)(got[0][e] - got[1][e]));
        size += fabs((double)got[0][e]);
    }
    assert_true(apart <= 0.001 * size);
    free(got[0]);
    free(got[1]);
    walk_done(&b);
}

static void ways_of_running_differ_and_repeat(void **state)
{
    (void)state;
    static const char *const more[] = {"", ", true_sequential: false", ", propagate: dense"};
    walk_bench b = walk_make(NULL, walk_llama);
    char cache[4200];
    int64_t size, again, R, C;
    float *want = NULL;
    for (int i = 0; i < 3; i++) {
        char *bytes[2];
        for (int round = 0; round < 2; round++) {
            walk_clear(&b);
            assert_ok(walk_run(&b, "quantize: {method: awq, scheme: w4g32}", more[i]));
            bytes[round] = bytes_of(&b, round ? &again : &size);
        }
        assert_int_equal(size, again);
        assert_memory_equal(bytes[0], bytes[1], (size_t)size);
        free(bytes[0]);
        free(bytes[1]);
    }
    snprintf(cache, sizeof cache, ", propagate: dense, cache: %s/cache", b.folder);
    for (int round = 0; round < 2; round++) {
        walk_clear(&b);
        assert_ok(walk_run(&b, "quantize: {method: awq, scheme: w4g32}", cache));
        float *values = walk_values(b.out, down_proj, &R, &C);
        if (round)
            assert_memory_equal(values, want, (size_t)(R * C) * sizeof *values);
        free(want);
        want = values;
    }
    free(want);
    walk_done(&b);
}

/* Every so many writes one fails; the same command goes on, until it is done. */
static void cut_and_continued_it_ends_with_the_same_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *step, *more;
    } jobs[] = {
        {"quantize: {method: awq, scheme: w4g32}", ""},
        {"prune: {method: sparsegpt, sparsity: 0.5}", ""},
        {"quantize: {method: awq, scheme: w4g32}", ", true_sequential: false"},
        {"quantize: {method: gptq, scheme: w4g32}", ", propagate: dense"},
    };
    walk_bench b = walk_make(NULL, walk_llama);
    for (size_t j = 0; j < sizeof jobs / sizeof *jobs; j++) {
        int64_t size, again;
        int cuts = 0;
        walk_clear(&b);
        assert_ok(walk_run(&b, jobs[j].step, jobs[j].more));
        char *want = bytes_of(&b, &size);
        walk_clear(&b);
        for (pare_status status = PARE_ERR_FULL; status != PARE_OK; cuts++) {
            writes_left = 23 + 5 * (long)j;
            status = walk_run(&b, jobs[j].step, jobs[j].more);
            writes_left = -1;
            if (status != PARE_OK)
                assert_int_equal(status, PARE_ERR_FULL);
            assert_true(cuts < 100);
        }
        assert_true(cuts > 2);
        char *got = bytes_of(&b, &again);
        assert_int_equal(again, size);
        assert_memory_equal(got, want, (size_t)size);
        free(got);
        free(want);
        char path[4200];
        snprintf(path, sizeof path, "%s.walk", b.out);
        assert_false(pare__exists(path));
    }
    walk_done(&b);
}

static void another_way_of_computing_is_refused(void **state)
{
    (void)state;
    const char *step = "quantize: {method: gptq, scheme: w4g32}";
    walk_bench b = walk_make(NULL, walk_llama);
    writes_left = 40;
    assert_status(walk_run(&b, step, ""), PARE_ERR_FULL);
    writes_left = -1;
    b.options.threads = 2;
    assert_status(walk_run(&b, step, ""), PARE_ERR_EXISTS);
    assert_non_null(strstr(pare_last_error(), "1 thread"));
    assert_non_null(strstr(pare_last_error(), "2 threads"));
    b.options.overwrite = true;
    assert_ok(walk_run(&b, step, ""));
    walk_done(&b);
}

/* Hidden states that are gone are made again, and nothing is read that is not there. */
static void a_walk_that_lost_a_file_begins_anew(void **state)
{
    (void)state;
    const char *step = "quantize: {method: gptq, scheme: w4g32}";
    walk_bench b = walk_make(NULL, walk_llama);
    char path[4200];
    int64_t size, again;
    assert_ok(walk_run(&b, step, ""));
    char *want = bytes_of(&b, &size);
    walk_clear(&b);
    for (long cut = 15; cut < 40; cut += 5) {
        writes_left = cut;
        assert_status(walk_run(&b, step, ""), PARE_ERR_FULL);
        writes_left = -1;
        for (int i = 0; i < 2; i++) {
            snprintf(path, sizeof path, "%s.walk/deal.0/rank.0/hidden.%d", b.out, i);
            assert_int_equal(unlink(path), 0);
        }
        assert_ok(walk_run(&b, step, ""));
        char *got = bytes_of(&b, &again);
        assert_int_equal(again, size);
        assert_memory_equal(got, want, (size_t)size);
        free(got);
        walk_clear(&b);
    }
    free(want);
    walk_done(&b);
}

/* What replaces a walk that was cut removes its files, whether it has one itself or not. */
static void a_walk_that_is_dropped_leaves_nothing(void **state)
{
    (void)state;
    walk_bench b = walk_make(NULL, walk_llama);
    char folder[4200];
    snprintf(folder, sizeof folder, "%s.walk", b.out);
    writes_left = 40;
    assert_status(walk_run(&b, "quantize: {method: gptq, scheme: w4g32}", ""), PARE_ERR_FULL);
    writes_left = -1;
    assert_true(pare__exists(folder));
    b.options.overwrite = true;
    assert_ok(walk_run(&b, "quantize: {scheme: w4g32}", ""));
    assert_false(pare__exists(folder));
    walk_done(&b);
}

static void a_device_gives_nearly_the_same(void **state)
{
    (void)state;
    const run_device *device = far_device();
    if (!device || !device->set_up((int64_t)1 << 30)) {
        skip();
        return;
    }
    static const char *const steps[] = {
        "prune: {method: wanda, pattern: '2:4'}, quantize: {method: awq, scheme: w4g32}",
        "prune: {method: sparsegpt, sparsity: 0.5}",
    };
    walk_bench b = walk_make(NULL, walk_llama);
    for (int i = 0; i < 2; i++) {
        int64_t R, C;
        double apart = 0, size = 0;
        b.options.device = "cpu";
        assert_ok(walk_run(&b, steps[i], ""));
        float *want = walk_values(b.out, q_proj, &R, &C);
        walk_clear(&b);
        b.options.device = "cuda";
        assert_ok(walk_run(&b, steps[i], ""));
        float *got = walk_values(b.out, q_proj, &R, &C);
        for (int64_t e = 0; e < R * C; e++) {
            apart += fabs((double)(got[e] - want[e]));
            size += fabs((double)want[e]);
        }
        assert_true(apart <= 0.02 * size);
        free(got);
        free(want);
        walk_clear(&b);
    }
    walk_done(&b);
}

static void what_cannot_be_is_said(void **state)
{
    (void)state;
    const char *step = "quantize: {method: gptq, scheme: w4g32}";
    walk_bench b = walk_make(NULL, walk_llama);
    char path[4200];
    b.options.memory = 1 << 20;
    assert_status(walk_run(&b, step, ""), PARE_ERR_MEMORY);
    assert_non_null(strstr(pare_last_error(), "it needs"));
    b.options.memory = 0;
    snprintf(path, sizeof path, "%s/short.u16", b.folder);
    FILE *file = fopen(path, "wb");
    assert_int_equal(fwrite("\1\0\2\0", 1, 4, file), 4);
    fclose(file);
    b.data = path;
    assert_int_not_equal(walk_run(&b, step, ", seq_len: 16"), PARE_OK);
    assert_false(pare__exists(b.out));
    walk_model(NULL, walk_llama, b.source, q_proj);
    b.data = fixture_tokens(b.folder, 24 * 16 + 1, 32);
    assert_status(walk_run(&b, step, ""), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), q_proj));
    assert_non_null(strstr(pare_last_error(), "row 5, column 7"));
    assert_false(pare__exists(b.out));
    walk_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wanda_leaves_the_share_of_each_row),
        cmocka_unit_test(wanda_takes_the_lowest_scores),
        cmocka_unit_test(sweeps_are_better_than_plain_methods),
        cmocka_unit_test(a_joint_sweep_is_sparse_and_quantised),
        cmocka_unit_test(scales_are_folded_away),
        cmocka_unit_test(images_go_through_too),
        cmocka_unit_test(scales_of_channels_go_into_a_batch_norm),
        cmocka_unit_test(padding_is_left_out),
        cmocka_unit_test(ways_of_running_differ_and_repeat),
        cmocka_unit_test(cut_and_continued_it_ends_with_the_same_bytes),
        cmocka_unit_test(another_way_of_computing_is_refused),
        cmocka_unit_test(a_walk_that_lost_a_file_begins_anew),
        cmocka_unit_test(a_walk_that_is_dropped_leaves_nothing),
        cmocka_unit_test(a_device_gives_nearly_the_same),
        cmocka_unit_test(what_cannot_be_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
