/* test_model_run.c - models that run: fused and not, F32 and BF16, on batches that do not fit. */
#include "model_fixture.h"

#include "backend_impl.h"

#include <math.h>

#define SHAPE(...) ((const int64_t[]){__VA_ARGS__})

static float *output_of(graph *g)
{
    assert_ok(pare_model_forward(g->m, &g->batch, false, NULL));
    return graph_copy(pare_model_output(g->m));
}

/* The largest difference beside the RMS of b. */
static double distance(const float *a, const float *b, int64_t n)
{
    double most = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
        sum += (double)b[i] * (double)b[i];
    }
    return most / sqrt(sum / (double)n);
}

/* ---- one and the same result ------------------------------------------------------------------
 */

/* While it is set nothing is fused. */
static pare_status pass(void *user, int64_t node, const pare_node_view *view, bool backward)
{
    (void)user, (void)node, (void)view, (void)backward;
    return PARE_OK;
}

static void fused_gives_what_is_given_node_by_node(void **state)
{
    (void)state;
    graph g = {0};
    graph_small_images(&g, false, PARE_F32);
    int fused = 0;
    for (size_t i = 0; i < g.m->node_count; i++)
        fused += g.m->nodes[i].fused >= 0;
    assert_int_equal(fused, 5);
    float *together = output_of(&g);
    pare_model_set_hook(g.m, pass, NULL);
    float *apart = output_of(&g);
    assert_true(distance(together, apart, 15) <= 1e-5);
    free(together);
    free(apart);
    graph_free(&g);
}

static void a_training_plan_gives_the_same_inference(void **state)
{
    (void)state;
    graph g = {0};
    graph_small_images(&g, true, PARE_F32);
    float *one = output_of(&g);
    assert_ok(pare_model_prepare(g.m, g.be, &(pare_model_shape){.batch = 3, .compute = PARE_F32}));
    float *other = output_of(&g);
    assert_true(distance(one, other, 15) <= 1e-5);
    free(one);
    free(other);
    graph_free(&g);
}

static void bf16_is_close_to_f32(void **state)
{
    (void)state;
    for (int tokens = 0; tokens < 2; tokens++) {
        float *y[2], *grad[2];
        int64_t grads = 0, outputs = 0;
        for (int half = 0; half < 2; half++) {
            graph g = {0};
            pare_dtype compute = half ? PARE_BF16 : PARE_F32;
            if (tokens)
                graph_small_tokens(&g, true, compute, PARE_OUTPUT_VECTOR);
            else
                graph_small_images(&g, true, compute);
            y[half] = output_of(&g);
            graph_step(&g);
            pare_tensor out = pare_model_output(g.m), all = pare_model_grad_arena(g.m);
            assert_int_equal(out.dtype, PARE_F32);
            assert_int_equal(pare_model_output_grad(g.m).dtype, PARE_F32);
            grad[half] = graph_copy(all);
            grads = pare_tensor_count(&all);
            outputs = pare_tensor_count(&out);
            graph_free(&g);
        }
        assert_true(distance(y[1], y[0], outputs) > 0);
        assert_true(distance(y[1], y[0], outputs) < 0.1);
        double dot = 0, aa = 0, bb = 0;
        for (int64_t i = 0; i < grads; i++) {
            dot += (double)grad[0][i] * (double)grad[1][i];
            aa += (double)grad[0][i] * (double)grad[0][i];
            bb += (double)grad[1][i] * (double)grad[1][i];
        }
        assert_true(dot / sqrt(aa * bb) > 0.98);
        for (int i = 0; i < 2; i++) {
            free(y[i]);
            free(grad[i]);
        }
    }
}

static void dropout_is_the_same_for_a_seed_and_step_and_else_another(void **state)
{
    (void)state;
    graph g = {0};
    graph_small_tokens(&g, true, PARE_F32, PARE_OUTPUT_CLASSES);
    double without = graph_forward(&g);
    float *trained = graph_copy(pare_model_output(g.m)), *inferred = output_of(&g);
    assert_memory_equal(trained, inferred, 16 * sizeof *trained);
    free(trained);
    free(inferred);
    g.drops = true;
    double one = graph_forward(&g);
    assert_true(graph_forward(&g) == one && one != without);
    g.seed.step++;
    double two = graph_forward(&g);
    assert_true(two != one && two != without);
    g.seed.seed++;
    assert_true(graph_forward(&g) != two);
    g.drops = false;
    assert_true(graph_forward(&g) == without);
    graph_free(&g);
}

static void dropouts_of_one_step_drop_elements_of_their_own(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 4, 1, 1, 1);
    int x = graph_leaf(&g, 2, SHAPE(4, 64));
    int a = pare__dropout(&g.b, x, 0.5f), b = pare__dropout(&g.b, x, 0.5f);
    graph_end(&g, pare__concat(&g.b, a, b));
    g.drops = true;
    graph_forward(&g);
    const float *y = pare_model_output(g.m).data;
    int same = 0, dropped = 0;
    for (int r = 0; r < 4; r++)
        for (int i = 0; i < 64; i++) {
            same += (y[r * 128 + i] == 0) == (y[r * 128 + 64 + i] == 0);
            dropped += y[r * 128 + i] == 0;
        }
    assert_true(same > 64 && same < 192);
    assert_true(dropped > 64 && dropped < 192);
    graph_free(&g);
}

/* ---- nodes that only move or add numbers --------------------------------------------------------
 */

static void positions_begin_at_their_offset(void **state)
{
    (void)state;
    for (int one = 0; one < 2; one++) {
        graph g = {0};
        graph_tokens(&g, 2, 3, 4, 0);
        int x = graph_leaf(&g, 3, SHAPE(2, 3, 5));
        graph_end(&g, pare__position(&g.b, x, 7, 2, one, "wpe"));
        graph_forward(&g);
        const float *in = g.m->params[0].value.data, *table = g.m->params[1].value.data;
        const float *y = pare_model_output(g.m).data;
        for (int i = 0; i < 30; i++) {
            int t = one ? 0 : i / 5 % 3;
            assert_true(y[i] == in[i] + table[(2 + t) * 5 + i % 5]);
        }
        graph_free(&g);
    }
}

static void flattened_images_are_in_the_order_of_channels_first(void **state)
{
    (void)state;
    for (int first = 0; first < 2; first++) {
        graph g = {0};
        graph_images(&g, 2, 1, 1, 1);
        int x = graph_leaf(&g, 4, SHAPE(2, 2, 3, 4));
        graph_end(&g, pare__flatten(&g.b, x, first));
        graph_forward(&g);
        const float *in = g.m->params[0].value.data, *y = pare_model_output(g.m).data;
        for (int b = 0; b < 2; b++)
            for (int i = 0; i < 24; i++)
                assert_true(y[b * 24 + (first ? i % 4 * 6 + i / 4 : i)] == in[b * 24 + i]);
        graph_free(&g);
    }
}

static void a_row_comes_before_each_sequence(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 2, 1, 1, 1);
    int x = graph_leaf(&g, 3, SHAPE(2, 3, 4));
    graph_end(&g, pare__prefix_row(&g.b, x, "cls"));
    graph_forward(&g);
    const float *in = g.m->params[0].value.data, *row = g.m->params[1].value.data;
    const float *y = pare_model_output(g.m).data;
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < 16; i++)
            assert_true(y[b * 16 + i] == (i < 4 ? row[i] : in[b * 12 + i - 4]));
    graph_free(&g);
}

static void training_moves_the_running_statistics_and_inference_does_not(void **state)
{
    (void)state;
    graph g = {0};
    graph_small_images(&g, true, PARE_F32);
    pare_param *mean = NULL;
    for (size_t i = 0; i < g.m->param_count; i++)
        if (strcmp(g.m->params[i].name, "bn2.running_mean") == 0)
            mean = &g.m->params[i];
    assert_non_null(mean);
    assert_null(mean->grad.data);
    float *before = graph_copy(mean->value), *after;
    free(output_of(&g));
    after = graph_copy(mean->value);
    assert_memory_equal(before, after, 8 * sizeof *before);
    free(after);
    graph_forward(&g);
    after = graph_copy(mean->value);
    assert_memory_not_equal(before, after, 8 * sizeof *before);
    free(before);
    free(after);
    graph_free(&g);
}

static void padding_does_not_change_what_lies_before_it(void **state)
{
    (void)state;
    graph g = {0};
    graph_small_tokens(&g, false, PARE_F32, PARE_OUTPUT_VECTOR);
    static const uint8_t keys[12] = {1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1};
    g.batch.keys = keys;
    float *one = output_of(&g);
    g.ids[4] = (g.ids[4] + 1) % 11;
    g.ids[5] = (g.ids[5] + 3) % 11;
    float *other = output_of(&g);
    assert_memory_equal(one, other, 8 * sizeof *one);
    g.batch.keys = NULL;
    float *without = output_of(&g);
    assert_memory_not_equal(one, without, 8 * sizeof *one);
    free(one);
    free(other);
    free(without);
    graph_free(&g);
}

/* ---- the head, rounded inputs ------------------------------------------------------------------
 */

static void the_head_is_tied_and_its_gradient_comes_from_outside(void **state)
{
    (void)state;
    graph g = {0};
    graph_small_tokens(&g, true, PARE_F32, PARE_OUTPUT_TOKENS);
    pare_param *bias, *head = pare_model_head(g.m, &bias);
    assert_string_equal(head->name, "wte.weight");
    assert_string_equal(bias->name, "lm_head.bias");
    assert_non_null(head->grad.data);
    pare_model_memory memory;
    assert_ok(pare_model_predict(g.m, &g.m->shape, &memory));
    double products = 0;
    for (int64_t i = 0; i < pare_model_node_count(g.m); i++)
        products += pare_model_node(g.m, i).flops;
    assert_true(memory.flops == products + 2.0 * 12 * 8 * 11);
    pare_tensor hidden = pare_model_output(g.m);
    assert_int_equal(hidden.rank, 3);
    assert_int_equal(hidden.shape[0] * hidden.shape[1], 12);
    graph_free(&g);
}

static void inputs_of_a_rounded_product_are_rounded_by_row(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 4, 1, 1, 1);
    int x = graph_leaf(&g, 2, SHAPE(4, 8));
    int y = pare__linear(&g.b, x, 3, NULL, "fc");
    g.m->params[1].act = PARE_ACT_DYNAMIC;
    graph_end(&g, y);
    graph_step(&g);
    const float *in = g.m->params[0].value.data, *w = g.m->params[1].value.data;
    const float *dx = g.m->params[0].grad.data, *dw = g.m->params[1].grad.data;
    double rounded[32], want_dw[24] = {0}, off = 0;
    for (int r = 0; r < 4; r++) {
        float most = 0;
        for (int i = 0; i < 8; i++)
            most = fmaxf(most, fabsf(in[r * 8 + i]));
        float s = most / 127.5f;
        for (int i = 0; i < 8; i++) {
            rounded[r * 8 + i] = (double)(fminf(rintf(in[r * 8 + i] / s), 127) * s);
            off += fabs(rounded[r * 8 + i] - (double)in[r * 8 + i]);
        }
    }
    assert_true(off > 0);
    for (int r = 0; r < 4; r++)
        for (int o = 0; o < 3; o++)
            for (int i = 0; i < 8; i++)
                want_dw[o * 8 + i] += g.weights[r * 3 + o] * rounded[r * 8 + i];
    for (int i = 0; i < 24; i++)
        assert_true(fabs(want_dw[i] - (double)dw[i]) < 1e-4);
    for (int r = 0; r < 4; r++)
        for (int i = 0; i < 8; i++) {
            double want = 0; /* as if nothing were rounded */
            for (int o = 0; o < 3; o++)
                want += g.weights[r * 3 + o] * (double)w[o * 8 + i];
            assert_true(fabs(want - (double)dx[r * 8 + i]) < 1e-4);
        }
    graph_free(&g);
}

static void rounding_set_after_prepare_asks_to_prepare_again(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 4, 1, 1, 1);
    graph_end(&g, pare__linear(&g.b, graph_leaf(&g, 2, SHAPE(4, 8)), 3, NULL, "fc"));
    g.m->params[1].act = PARE_ACT_DYNAMIC;
    assert_status(pare_model_forward(g.m, &g.batch, true, NULL), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "prepare"));
    assert_ok(pare_model_prepare(g.m, g.be, &g.m->shape));
    graph_forward(&g);
    graph_free(&g);
}

/* ---- what is wrong --------------------------------------------------------------------------- */

static void batches_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    graph g = {0};
    graph_small_tokens(&g, false, PARE_F32, PARE_OUTPUT_CLASSES);
    pare_batch batch = g.batch;
    batch.size = 3;
    assert_status(pare_model_forward(g.m, &batch, false, NULL), PARE_ERR_ARGUMENT);
    batch.size = 0;
    assert_status(pare_model_forward(g.m, &batch, false, NULL), PARE_ERR_ARGUMENT);
    batch = g.batch;
    batch.length = 7;
    assert_status(pare_model_forward(g.m, &batch, false, NULL), PARE_ERR_ARGUMENT);
    batch = g.batch;
    batch.ids = NULL;
    assert_status(pare_model_forward(g.m, &batch, false, NULL), PARE_ERR_ARGUMENT);
    assert_status(pare_model_forward(g.m, &g.batch, true, NULL), PARE_ERR_ARGUMENT);
    assert_status(pare_model_backward(g.m), PARE_ERR_ARGUMENT);
    assert_status(pare_model_clear_grads(g.m), PARE_ERR_ARGUMENT);
    g.ids[7] = 11;
    assert_status(pare_model_forward(g.m, &g.batch, false, NULL), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "11"));
    g.ids[7] = 0;
    assert_ok(pare_model_forward(g.m, &g.batch, false, NULL));
    graph_free(&g);
}

static void backward_runs_once_after_each_forward(void **state)
{
    (void)state;
    graph g = {0};
    graph_small_images(&g, true, PARE_F32);
    graph_step(&g);
    assert_status(pare_model_backward(g.m), PARE_ERR_ARGUMENT);
    free(output_of(&g));
    assert_status(pare_model_backward(g.m), PARE_ERR_ARGUMENT);
    graph_free(&g);
}

static void gradients_add_up_until_they_are_cleared(void **state)
{
    (void)state;
    for (int tokens = 0; tokens < 2; tokens++) {
        graph g = {0};
        if (tokens)
            graph_small_tokens(&g, true, PARE_F32, PARE_OUTPUT_CLASSES);
        else
            graph_small_images(&g, true, PARE_F32);
        graph_step(&g);
        pare_tensor all = pare_model_grad_arena(g.m);
        int64_t n = pare_tensor_count(&all);
        float *once = graph_copy(all);
        graph_forward(&g);
        pare_tensor dy = pare_model_output_grad(g.m);
        for (int64_t i = 0; i < pare_tensor_count(&dy); i++)
            ((float *)dy.data)[i] = (float)g.weights[i];
        assert_ok(pare_model_backward(g.m));
        float *twice = graph_copy(all);
        for (int64_t i = 0; i < n; i++)
            twice[i] /= 2;
        assert_true(distance(twice, once, n) < 1e-5);
        free(once);
        free(twice);
        graph_free(&g);
    }
}

static void the_backends_scratch_stays_below_what_is_predicted(void **state)
{
    (void)state;
    for (int which = 0; which < 8; which++) {
        graph g = {0};
        pare_dtype compute = which & 1 ? PARE_BF16 : PARE_F32;
        if (which & 2)
            graph_small_tokens(&g, which & 4, compute, PARE_OUTPUT_CLASSES);
        else
            graph_small_images(&g, which & 4, compute);
        if (which & 4)
            graph_step(&g);
        else
            graph_forward(&g);
        pare_model_memory memory;
        assert_ok(pare_model_predict(g.m, &g.m->shape, &memory));
        assert_true((int64_t)g.be->scratch_size <= memory.scratch);
        graph_free(&g);
    }
}

#define T(name_) cmocka_unit_test(name_)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(fused_gives_what_is_given_node_by_node),
        T(a_training_plan_gives_the_same_inference),
        T(bf16_is_close_to_f32),
        T(dropout_is_the_same_for_a_seed_and_step_and_else_another),
        T(dropouts_of_one_step_drop_elements_of_their_own),
        T(positions_begin_at_their_offset),
        T(flattened_images_are_in_the_order_of_channels_first),
        T(a_row_comes_before_each_sequence),
        T(training_moves_the_running_statistics_and_inference_does_not),
        T(padding_does_not_change_what_lies_before_it),
        T(the_head_is_tied_and_its_gradient_comes_from_outside),
        T(inputs_of_a_rounded_product_are_rounded_by_row),
        T(rounding_set_after_prepare_asks_to_prepare_again),
        T(batches_that_do_not_fit_are_refused),
        T(backward_runs_once_after_each_forward),
        T(gradients_add_up_until_they_are_cleared),
        T(the_backends_scratch_stays_below_what_is_predicted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
