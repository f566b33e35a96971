/* test_model_plan.c - where the plan puts things, what it predicts, and that nothing is allocated
 * once it is prepared. */
#include "model_fixture.h"

#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHAPE(...) ((const int64_t[]){__VA_ARGS__})

/* ---- allocations are counted ----------------------------------------------------------------- */

static atomic_bool counting;                   /* threads of oneDNN allocate too */
static atomic_long allocations, kept, largest; /* kept: not freed again */

#if !SANITIZED
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *memory);

static void seen(size_t size)
{
    if (!counting)
        return;
    allocations++;
    kept++;
    if ((long)size > largest)
        largest = (long)size;
}

void *malloc(size_t size)
{
    seen(size);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    seen(count * size);
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    seen(size);
    if (counting && memory)
        kept--;
    return __libc_realloc(memory, size);
}

void free(void *memory)
{
    if (counting && memory)
        kept--;
    __libc_free(memory);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    seen(size);
    return __libc_memalign(alignment, size);
}

void *memalign(size_t alignment, size_t size);
void *memalign(size_t alignment, size_t size)
{
    seen(size);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    seen(size);
    *memory = __libc_memalign(alignment, size);
    return 0;
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    seen(size);
    return (void *)syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}
#endif

/* ---- offsets --------------------------------------------------------------------------------- */

static void check_places(const pare__buffer *b, size_t count, int64_t bytes)
{
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(b[i].offset % 64, 0);
        assert_true(b[i].offset >= 0 && b[i].offset + b[i].bytes <= bytes);
        for (size_t k = 0; k < i; k++) {
            bool together = b[i].birth <= b[k].death && b[k].birth <= b[i].death;
            bool apart =
                b[i].offset + b[i].bytes <= b[k].offset || b[k].offset + b[k].bytes <= b[i].offset;
            assert_true(!together || apart);
        }
    }
}

/* The most that is alive at once: no plan can be smaller. */
static int64_t least(const pare__buffer *b, size_t count, int end)
{
    int64_t most = 0;
    for (int t = 0; t <= end; t++) {
        int64_t now = 0;
        for (size_t i = 0; i < count; i++)
            if (b[i].birth <= t && t <= b[i].death)
                now += b[i].bytes;
        most = now > most ? now : most;
    }
    return most;
}

static void buffers_of_one_time_never_overlap(void **state)
{
    (void)state;
    graph g = {.rng = 11};
    for (int round = 0; round < 200; round++) {
        pare__buffer b[60];
        size_t count = (size_t)graph_below(&g, 60);
        for (size_t i = 0; i < count; i++) {
            int birth = (int)graph_below(&g, 40);
            b[i] = (pare__buffer){.bytes = graph_below(&g, 5000),
                                  .birth = birth,
                                  .death = birth + (int)graph_below(&g, 12)};
        }
        int64_t bytes;
        assert_ok(pare__place(b, count, &bytes));
        check_places(b, count, bytes);
        assert_true(bytes >= least(b, count, 60));
        assert_true((double)bytes <= 1.5 * (double)least(b, count, 60) + 64);
    }
}

static void sizes_beyond_63_bits_are_no_memory(void **state)
{
    (void)state;
    pare__buffer b[2] = {{.bytes = INT64_MAX / 2}, {.bytes = INT64_MAX / 2 + 200}};
    int64_t bytes;
    assert_status(pare__place(b, 2, &bytes), PARE_ERR_MEMORY);
}

/* ---- plans of models ------------------------------------------------------------------------- */

static int block(graph *g, int x, int index)
{
    pare__build *b = &g->b;
    const pare__attention_options o = {.heads = 4, .kv_heads = 2, .head_dim = 8, .causal = true};
    const char *name = pare__name(b, "%d", index);
    int h = pare__layer_norm(b, x, 1e-5f, true, pare__name(b, "%s.norm1", name));
    int q = pare__linear(b, h, 32, NULL, pare__name(b, "%s.q", name));
    int k = pare__linear(b, h, 16, NULL, pare__name(b, "%s.k", name));
    int v = pare__linear(b, h, 16, NULL, pare__name(b, "%s.v", name));
    int a = pare__attention(b, pare__rotary(b, q, 4, 8), pare__rotary(b, k, 2, 8), v, &o,
                            pare__name(b, "%s.attn", name));
    x = pare__residual(b, x, pare__linear(b, a, 32, NULL, pare__name(b, "%s.o", name)), false);
    h = pare__rms_norm(b, x, 1e-5f, 0, pare__name(b, "%s.norm2", name));
    int gate = pare__linear(b, h, 64, NULL, pare__name(b, "%s.gate", name));
    int up = pare__linear(b, h, 64, NULL, pare__name(b, "%s.up", name));
    h = pare__dropout(b, pare__glu(b, gate, up, PARE_FN_SILU), 0.1f);
    return pare__residual(b, x, pare__linear(b, h, 32, NULL, pare__name(b, "%s.down", name)),
                          false);
}

static void build_transformer(graph *g, int layers, bool training, pare_dtype compute)
{
    graph_tokens(g, 3, 16, 50, 8);
    int x = pare__embedding(&g->b, graph_input(g), 50, 32, "wte");
    for (int i = 0; i < layers; i++)
        x = block(g, x, i);
    x = pare__linear(&g->b, pare__pool_mean(&g->b, x), 10, NULL, "head");
    graph_end_as(
        g, x, PARE_OUTPUT_CLASSES,
        &(pare_model_shape){.batch = 3, .length = 16, .training = training, .compute = compute});
    g->drops = training;
}

static const pare_window window_3x3 = {.kernel = {3, 3},
                                       .stride = {1, 1},
                                       .dilation = {1, 1},
                                       .pad_top = 1,
                                       .pad_left = 1,
                                       .pad_bottom = 1,
                                       .pad_right = 1};

static int conv_norm(graph *g, int x, int z, bool relu, int index)
{
    pare__build *b = &g->b;
    x = pare__conv(b, x, 8, &window_3x3, 1, index % 2, pare__name(b, "conv%d", index));
    return pare__batch_norm(b, x, 1e-5f, z, relu, pare__name(b, "bn%d", index));
}

static void build_resnet(graph *g, bool training, pare_dtype compute)
{
    graph_images(g, 4, 8, 8, 3);
    int x = conv_norm(g, graph_input(g), -1, true, 0);
    for (int i = 1; i < 7; i += 2) {
        int y = conv_norm(g, x, -1, true, i);
        x = conv_norm(g, y, x, true, i + 1);
    }
    x = pare__pool_max(&g->b, x,
                       &(pare_window){.kernel = {2, 2}, .stride = {2, 2}, .dilation = {1, 1}});
    x = pare__flatten(&g->b, x, true);
    x = pare__linear(&g->b, x, 10, &(pare__linear_options){.bias = true}, "fc");
    graph_end_as(g, x, PARE_OUTPUT_CLASSES,
                 &(pare_model_shape){.batch = 4, .training = training, .compute = compute});
}

static void build(graph *g, int which)
{
    bool training = which & 1;
    pare_dtype compute = which & 2 ? PARE_BF16 : PARE_F32;
    if (which & 4)
        build_transformer(g, 3, training, compute);
    else
        build_resnet(g, training, compute);
}

static void plans_of_models_do_not_overlap_and_waste_little(void **state)
{
    (void)state;
    for (int which = 0; which < 8; which++) {
        graph g = {0};
        build(&g, which);
        const pare_model *m = g.m;
        check_places(m->buffers, m->buffer_count, m->activation_bytes);
        int64_t bound = least(m->buffers, m->buffer_count, pare__time_end(m));
        assert_true((double)m->activation_bytes <= 1.15 * (double)bound);
        graph_free(&g);
    }
}

static void what_is_predicted_is_what_is_taken(void **state)
{
    (void)state;
    for (int which = 0; which < 8; which++) {
        graph g = {0};
        build(&g, which);
        pare_model *m = g.m;
        pare_model_memory memory;
        const pare_model_shape larger = {.batch = m->shape.batch + 5,
                                         .length = m->shape.length ? m->shape.length + 7 : 0,
                                         .training = m->shape.training,
                                         .compute = m->shape.compute};
        size_t size, size2;
        void *before = m->shape.training ? graph_bytes(&g, &size) : NULL;
        assert_ok(pare_model_predict(m, &larger, &memory));
        void *after = m->shape.training ? graph_bytes(&g, &size2) : NULL;
        if (before)
            assert_memory_equal(before, after, size); /* predicting changes nothing */
        free(before);
        free(after);
        assert_true(memory.flops > 0);
        assert_ok(pare_model_prepare(m, g.be, &larger));
        assert_int_equal(memory.params, m->values_bytes);
        assert_int_equal(memory.grads, m->grads_bytes);
        int64_t tables = m->rotary ? larger.length * 4 * 2 * (int64_t)sizeof(float) : 0;
        assert_int_equal(memory.activations, m->activation_bytes + tables);
        graph_free(&g);
    }
}

static void inference_takes_less_than_training_and_less_by_layer(void **state)
{
    (void)state;
    pare_model_memory memory[2][2];
    for (int deep = 0; deep < 2; deep++)
        for (int training = 0; training < 2; training++) {
            graph g = {0};
            build_transformer(&g, deep ? 8 : 2, training, PARE_F32);
            assert_ok(pare_model_predict(g.m, &g.m->shape, &memory[deep][training]));
            graph_free(&g);
        }
    assert_int_equal(memory[0][0].activations, memory[1][0].activations);
    assert_true(memory[1][1].activations > 2 * memory[0][1].activations);
    assert_int_equal(memory[0][0].grads, 0);
    assert_true(memory[0][1].grads > 0);
}

static void flops_are_those_of_the_products(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 2, 8, 8, 3);
    int x = pare__conv(&g.b, graph_input(&g), 6, &window_3x3, 3, true, "conv");
    x = pare__linear(&g.b, pare__pool_global(&g.b, x), 5, NULL, "fc");
    graph_end(&g, x);
    double want = 2.0 * 2 * 8 * 8 * 6 * 1 * 9 + 2.0 * 2 * 6 * 5;
    pare_model_memory memory;
    assert_ok(pare_model_predict(g.m, &g.m->shape, &memory));
    assert_true(memory.flops == want);
    assert_true(pare_model_node(g.m, 0).flops == 2.0 * 2 * 8 * 8 * 6 * 9);
    graph_free(&g);
}

static void flops_of_attention_count_what_is_seen(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        graph g = {0};
        graph_tokens(&g, 2, 7, 5, 0);
        const pare__attention_options o = {
            .heads = 2, .kv_heads = 2, .head_dim = 4, .causal = i & 1, .sliding = i & 2 ? 3 : 0};
        int x = graph_leaf(&g, 3, SHAPE(2, 7, 8));
        graph_end(&g, pare__attention(&g.b, x, x, x, &o, "attn"));
        int seen = 0;
        for (int q = 0; q < 7; q++)
            for (int k = 0; k < 7; k++) {
                bool near = !(i & 2) || (q - 3 < k && (o.causal || k < q + 3));
                seen += (!o.causal || k <= q) && near;
            }
        assert_true(pare_model_node(g.m, 1).flops == 4.0 * 2 * 8 * seen);
        graph_free(&g);
    }
}

/* ---- running --------------------------------------------------------------------------------- */

/* Steps of a graph with a whole and a smaller batch; those after the first of each are counted. */
static void count_steps(graph *g)
{
    int64_t most = g->m->shape.batch;
    allocations = kept = largest = 0;
    for (int i = 0; i < 40; i++) {
        g->batch.size = most - i % 2;
        counting = i >= 2;
        if (g->m->shape.training)
            graph_step(g);
        else
            graph_forward(g);
        counting = 0;
    }
}

/* oneDNN makes notes of its arguments at each call, of some bytes, and frees them at the next. */
static void steps_after_the_first_allocate_nothing_but_onednns_notes(void **state)
{
    (void)state;
#if SANITIZED
    skip(); /* the sanitizer owns the allocator */
#endif
    for (int which = 0; which < 8; which++) {
        graph g = {0};
        build(&g, which);
        count_steps(&g);
        if (kept > 8 || largest >= 4096)
            fail_msg("model %d: of %ld allocations %ld are kept, the largest has %ld bytes", which,
                     allocations, kept, largest);
        graph_free(&g);
    }
}

static void steps_after_the_first_without_products_allocate_nothing(void **state)
{
    (void)state;
#if SANITIZED
    skip();
#endif
    for (int training = 0; training < 2; training++) {
        graph g = {.threads = 2};
        graph_tokens(&g, 3, 8, 20, 8);
        pare__build *b = &g.b;
        int x = pare__position(b, pare__embedding(b, graph_input(&g), 20, 16, "wte"), 30, 1, false,
                               "wpe");
        int h = pare__layer_norm(b, x, 1e-5f, true, "ln"), r = pare__rotary(b, h, 2, 8);
        const pare__attention_options o = {
            .heads = 2, .kv_heads = 2, .head_dim = 8, .dropout = 0.1f};
        x = pare__residual(b, x, pare__attention(b, r, r, h, &o, "attn"), true);
        x = pare__glu(b, pare__rms_norm(b, x, 1e-5f, 8, "rms"), x, PARE_FN_GELU);
        x = pare__dropout(b, pare__softmax(b, x), 0.1f);
        x = pare__act(b, pare__slice(b, pare__concat(b, x, h), 3, 20), PARE_FN_SILU);
        x = pare__residual(b, pare__pool_mean(b, x), pare__row(b, x, 0), false);
        graph_end_as(&g, pare__batch_norm(b, x, 1e-5f, -1, true, "bn"), PARE_OUTPUT_CLASSES,
                     &(pare_model_shape){
                         .batch = 3, .length = 8, .training = training, .compute = PARE_F32});
        g.drops = training;
        count_steps(&g);
        assert_int_equal(allocations, 0);
        graph_free(&g);
    }
}

static void dead_memory_as_nan_changes_nothing(void **state)
{
    (void)state;
    for (int which = 0; which < 8; which++) {
        graph g = {0};
        build(&g, which);
        double clean = graph_forward(&g);
        pare__model_poison(g.m, true);
        double poisoned = graph_forward(&g);
        assert_memory_equal(&clean, &poisoned, sizeof clean);
        if (g.m->shape.training) {
            size_t size, size2;
            void *a = graph_bytes(&g, &size);
            pare__model_poison(g.m, false);
            void *b = graph_bytes(&g, &size2);
            assert_memory_equal(a, b, size);
            free(a);
            free(b);
        }
        graph_free(&g);
    }
}

/* A smaller batch after a larger one gives what a model prepared for the smaller one gives. */
static void a_smaller_batch_runs_in_the_same_plan(void **state)
{
    (void)state;
    for (int which = 0; which < 8; which++) {
        size_t size[2];
        void *bytes[2];
        for (int exact = 0; exact < 2; exact++) {
            graph g = {0};
            build(&g, which);
            pare_model *m = g.m;
            pare_model_shape shape = m->shape;
            shape.batch = 2;
            shape.length = shape.length ? 9 : 0;
            if (exact)
                assert_ok(pare_model_prepare(m, g.be, &shape));
            else
                graph_forward(&g);
            g.batch.size = 2;
            g.batch.length = shape.length;
            pare__model_poison(m, true);
            if (shape.training) {
                bytes[exact] = graph_bytes(&g, &size[exact]);
            } else {
                double loss = graph_forward(&g);
                size[exact] = sizeof loss;
                bytes[exact] = malloc(sizeof loss);
                memcpy(bytes[exact], &loss, sizeof loss);
            }
            pare_tensor y = pare_model_output(m);
            assert_int_equal(y.shape[0], 2);
            graph_free(&g);
        }
        assert_int_equal(size[0], size[1]);
        assert_memory_equal(bytes[0], bytes[1], size[0]);
        free(bytes[0]);
        free(bytes[1]);
    }
}

static void preparing_again_keeps_the_values(void **state)
{
    (void)state;
    graph g = {0};
    build(&g, 1);
    size_t size, size2;
    void *before = graph_bytes(&g, &size);
    assert_ok(pare_model_prepare(g.m, g.be, &(pare_model_shape){.batch = 9, .compute = PARE_F32}));
    assert_null(pare_model_param(g.m, 0)->grad.data);
    graph_forward(&g);
    assert_ok(pare_model_prepare(
        g.m, g.be, &(pare_model_shape){.batch = 4, .training = true, .compute = PARE_F32}));
    void *after = graph_bytes(&g, &size2);
    assert_memory_equal(before, after, size);
    free(before);
    free(after);
    graph_free(&g);
}

static void shapes_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    graph g = {0};
    build(&g, 4);
    pare_model_memory memory;
    static const pare_model_shape bad[] = {
        {.batch = 0, .length = 4},
        {.batch = 1, .length = 0},
        {.batch = 1, .length = 65},
        {.batch = 1, .length = 4, .compute = PARE_F16},
        {.batch = INT64_MAX / 2, .length = 64},
        {.batch = (int64_t)1 << 50, .length = 1},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pare_model_shape shape = bad[i];
        if (shape.compute != PARE_F16)
            shape.compute = PARE_F32;
        assert_status(pare_model_predict(g.m, &shape, &memory), PARE_ERR_ARGUMENT);
        assert_status(pare_model_prepare(g.m, g.be, &shape), PARE_ERR_ARGUMENT);
    }
    graph_forward(&g); /* still what it was */
    graph_free(&g);
}

#define T(name_) cmocka_unit_test(name_)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(buffers_of_one_time_never_overlap),
        T(sizes_beyond_63_bits_are_no_memory),
        T(plans_of_models_do_not_overlap_and_waste_little),
        T(what_is_predicted_is_what_is_taken),
        T(inference_takes_less_than_training_and_less_by_layer),
        T(flops_are_those_of_the_products),
        T(flops_of_attention_count_what_is_seen),
        T(steps_after_the_first_allocate_nothing_but_onednns_notes),
        T(steps_after_the_first_without_products_allocate_nothing),
        T(dead_memory_as_nan_changes_nothing),
        T(a_smaller_batch_runs_in_the_same_plan),
        T(preparing_again_keeps_the_values),
        T(shapes_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
