/* test_model_blocks.c - a model block by block: the whole model's bytes, each parameter once,
 * prefixes, parts of a checkpoint. */
#include "arch_sample.h"
#include "far_backend.h"
#include "store_case.h"

#include "model/node.h"

#include <math.h>

static pare_backend *backend(bool far)
{
    pare_backend *be = NULL;
    if (far)
        return far_backend_make(1);
    assert_ok(pare_cpu_create(NULL, &be));
    return be;
}

/* ---- one after the other --------------------------------------------------------------------- */

/* Blocks of a run, prepared, with the model's values. */
typedef struct chain {
    pare_model *block[64];
    int64_t count;
} chain;

static chain chain_make(const arch_run *r)
{
    chain c = {.count = pare_model_block_count(r->model)};
    assert_true(c.count <= 64);
    for (int64_t i = 0; i < c.count; i++) {
        assert_ok(pare_model_block(r->model, i, false, &c.block[i]));
        assert_ok(pare_model_prepare(c.block[i], r->be, &r->shape));
        arch_give_values(r->model, c.block[i]);
    }
    return c;
}

static void chain_free(chain *c)
{
    for (int64_t i = 0; i < c->count; i++)
        pare_model_free(&c->block[i]);
}

/* What block `index` takes for the batch. */
static pare_tensor run_before(const chain *c, const pare_batch *batch, int64_t index)
{
    pare_tensor hidden = {0};
    pare_batch rest = *batch;
    for (int64_t i = 0; i < index; i++) {
        assert_ok(pare_model_forward_hidden(c->block[i], &rest, hidden, -1));
        hidden = pare_model_output(c->block[i]);
        rest.ids = NULL;
        rest.images = NULL;
    }
    return hidden;
}

static void check_same_output(const arch_sample *s, const arch_run *r, const chain *c,
                              const pare_batch *batch)
{
    size_t n, n2;
    pare_tensor hidden = run_before(c, batch, c->count);
    assert_ok(pare_model_forward(r->model, batch, false, NULL));
    pare_tensor want = pare_model_output(r->model);
    assert_int_equal(hidden.dtype, want.dtype);
    assert_int_equal(hidden.rank, want.rank);
    void *x = arch_copy(r->be, hidden, &n), *y = arch_copy(r->be, want, &n2);
    if (n != n2 || memcmp(x, y, n) != 0)
        fail_msg("%s: the blocks give other bytes than the model", s->name);
    free(x);
    free(y);
}

static void check_chain(const arch_sample *s, bool far, pare_dtype compute)
{
    arch_run r = arch_run_make(s, backend(far), compute);
    chain c = chain_make(&r);
    pare_batch small = r.batch, dense = r.batch;
    check_same_output(s, &r, &c, &r.batch);
    small.size = 2;
    small.length = r.batch.length > 0 ? 5 : 0;
    small.keys = NULL;
    check_same_output(s, &r, &c, &small);
    dense.keys = NULL;
    check_same_output(s, &r, &c, &dense);
    check_same_output(s, &r, &c, &r.batch);
    chain_free(&c);
    arch_run_free(&r);
}

static void blocks_one_after_the_other_give_the_models_bytes(void **state)
{
    (void)state;
    for (const arch_sample *s = arch_samples; s->name; s++) {
        check_chain(s, false, PARE_F32);
        check_chain(s, false, PARE_BF16);
    }
}

static void so_they_do_where_the_host_sees_no_memory(void **state)
{
    (void)state;
    for (const arch_sample *s = arch_samples; s->name; s++)
        if (strcmp(s->name, "resnet18") != 0)
            check_chain(s, true, s->config ? PARE_F32 : PARE_BF16);
}

static void a_block_reads_nothing_that_is_dead(void **state)
{
    (void)state;
    for (const arch_sample *s = arch_samples; s->name; s++) {
        arch_run r = arch_run_make(s, backend(false), PARE_F32);
        chain c = chain_make(&r);
        for (int64_t i = 0; i < c.count; i++)
            pare__model_poison(c.block[i], true);
        check_same_output(s, &r, &c, &r.batch);
        chain_free(&c);
        arch_run_free(&r);
    }
}

/* ---- what is in them ------------------------------------------------------------------------- */

static int64_t find_param(pare_model *m, const char *name)
{
    for (int64_t i = 0; i < pare_model_param_count(m); i++)
        if (strcmp(pare_model_param(m, i)->name, name) == 0)
            return i;
    return -1;
}

static bool has_weight(pare_model *m)
{
    for (int64_t i = 0; i < pare_model_param_count(m); i++) {
        pare_role role = pare_model_param(m, i)->role;
        if (role == PARE_ROLE_LINEAR || role == PARE_ROLE_CONV)
            return true;
    }
    return false;
}

static void check_parts(const arch_sample *s)
{
    pare_model *model, *block;
    assert_ok(
        pare_model_create(&(pare_model_options){.arch = s->arch, .config = s->config}, &model));
    int64_t blocks = pare_model_block_count(model), nodes = 0;
    int64_t params = pare_model_param_count(model);
    pare_param *bias, *head = pare_model_head(model, &bias);
    int *times = calloc((size_t)params, sizeof *times);
    if (blocks != s->blocks)
        fail_msg("%s: %lld blocks, not %lld", s->name, (long long)blocks, (long long)s->blocks);
    for (int64_t i = 0; i < blocks; i++) {
        assert_ok(pare_model_block(model, i, false, &block));
        nodes += pare_model_node_count(block);
        assert_true(blocks == 1 || has_weight(block));
        assert_int_equal(pare_model_facts_of(block)->output,
                         i < blocks - 1 ? PARE_OUTPUT_HIDDEN : pare_model_facts_of(model)->output);
        assert_string_equal(pare_model_config(block), pare_model_config(model));
        for (int64_t p = 0; p < pare_model_param_count(block); p++)
            times[find_param(model, pare_model_param(block, p)->name)]++;
        pare_model_free(&block);
    }
    assert_int_equal(nodes, pare_model_node_count(model));
    for (int64_t p = 0; p < params; p++) {
        bool tied = pare_model_param(model, p) == head && head->role == PARE_ROLE_EMBEDDING;
        if (times[p] != (tied ? 2 : 1))
            fail_msg("%s: %s is in %d blocks", s->name, pare_model_param(model, p)->name, times[p]);
    }
    free(times);
    pare_model_free(&model);
}

static void every_parameter_is_in_one_block_and_a_tied_one_in_two(void **state)
{
    (void)state;
    for (const arch_sample *s = arch_samples; s->name; s++)
        check_parts(s);
}

static void the_head_can_be_left_out(void **state)
{
    (void)state;
    pare_model *model, *block;
    assert_ok(pare_model_create(&(pare_model_options){.config = arch_samples[1].config}, &model));
    int64_t last = pare_model_block_count(model) - 1;
    assert_ok(pare_model_block(model, last, false, &block));
    assert_non_null(pare_model_head(block, NULL));
    assert_true(find_param(block, "lm_head.weight") >= 0);
    pare_model_free(&block);
    assert_ok(pare_model_block(model, last, true, &block));
    assert_null(pare_model_head(block, NULL));
    assert_true(find_param(block, "lm_head.weight") < 0);
    pare_model_free(&block);
    pare_model_free(&model);
}

static void a_block_takes_the_memory_of_its_own_parameters(void **state)
{
    (void)state;
    for (const arch_sample *s = arch_samples; s->name; s++) {
        arch_run r = arch_run_make(s, backend(false), PARE_F32);
        chain c = chain_make(&r);
        pare_model_memory whole, part;
        int64_t params = 0;
        double flops = 0;
        pare_param *head = pare_model_head(r.model, NULL);
        assert_ok(pare_model_predict(r.model, &r.shape, &whole));
        for (int64_t i = 0; i < c.count; i++) {
            assert_ok(pare_model_predict(c.block[i], &r.shape, &part));
            assert_int_equal(part.params, c.block[i]->values_bytes);
            assert_true(part.activations <= whole.activations);
            params += part.params;
            flops += part.flops;
        }
        if (head && head->role == PARE_ROLE_EMBEDDING)
            params -= (pare_tensor_count(&head->value) * 4 + 63) / 64 * 64;
        assert_int_equal(params, whole.params);
        assert_true(fabs(flops - whole.flops) <= 1e-9 * whole.flops);
        chain_free(&c);
        arch_run_free(&r);
    }
}

/* ---- prefixes -------------------------------------------------------------------------------- */

/* The inputs of one node as a hook sees them, in F32. */
typedef struct seen {
    int64_t node;
    float *input[4];
    int64_t count[4];
} seen;

static float *as_floats(pare_tensor t)
{
    float *values = malloc((size_t)pare_tensor_count(&t) * sizeof *values);
    memcpy(values, t.data, (size_t)pare_tensor_count(&t) * sizeof *values);
    return values;
}

static pare_status see(void *user, int64_t node, const pare_node_view *view, bool backward)
{
    seen *s = user;
    for (int i = 0; node == s->node && !backward && i < view->input_count; i++)
        if (view->input[i].data && view->input[i].dtype == PARE_F32) {
            s->count[i] = pare_tensor_count(&view->input[i]);
            s->input[i] = as_floats(view->input[i]);
        }
    return PARE_OK;
}

/* A hook's run fuses nothing: a convolution and its norm round otherwise there. */
static void check_prefix(const char *name, pare_model *block, const pare_batch *batch,
                         pare_tensor hidden, int64_t node)
{
    seen s = {.node = node};
    bool images = batch->images || !pare_model_facts_of(block)->tokens;
    pare_model_set_hook(block, see, &s);
    assert_ok(pare_model_forward_hidden(block, batch, hidden, node + 1));
    pare_model_set_hook(block, NULL, NULL);
    assert_ok(pare_model_forward_hidden(block, batch, hidden, node));
    pare_node_view view = pare_model_node(block, node);
    for (int i = 0; i < view.input_count; i++) {
        if (!s.input[i])
            continue;
        const float *got = view.input[i].data;
        assert_non_null(got);
        assert_int_equal(pare_tensor_count(&view.input[i]), s.count[i]);
        for (int64_t e = 0; e < s.count[i]; e++)
            if (images ? fabsf(got[e] - s.input[i][e]) > 1e-4f * (1 + fabsf(got[e]))
                       : got[e] != s.input[i][e])
                fail_msg("%s: input %d of node %lld is %g, the hook saw %g", name, i,
                         (long long)node, (double)got[e], (double)s.input[i][e]);
        free(s.input[i]);
    }
}

static void a_run_until_a_node_leaves_what_that_node_reads(void **state)
{
    (void)state;
    for (const arch_sample *s = arch_samples; s->name; s++) {
        if (strcmp(s->name, "resnet18") == 0)
            continue;
        arch_run r = arch_run_make(s, backend(false), PARE_F32);
        chain c = chain_make(&r);
        for (int64_t i = 0; i < c.count; i++) {
            pare_tensor hidden = run_before(&c, &r.batch, i);
            pare__model_poison(c.block[i], true);
            for (int64_t node = 0; node < pare_model_node_count(c.block[i]); node++)
                check_prefix(s->name, c.block[i], &r.batch, hidden, node);
            pare__model_poison(c.block[i], false);
        }
        check_same_output(s, &r, &c, &r.batch);
        chain_free(&c);
        arch_run_free(&r);
    }
}

/* ---- values ---------------------------------------------------------------------------------- */

static void a_block_loads_its_part_of_a_checkpoint(void **state)
{
    (void)state;
    char *folder = test_folder_make(), path[4200];
    arch_run r = arch_run_make(&arch_samples[5], backend(false), PARE_F32);
    h5_sample samples[64];
    int64_t count = pare_model_param_count(r.model);
    assert_true(count <= 64);
    for (int64_t i = 0; i < count; i++) {
        int rank;
        int64_t shape[PARE_MAX_RANK];
        pare_model_stored_shape(r.model, i, &rank, shape);
        samples[i] = store_case(pare_model_param(r.model, i)->name, NULL, PARE_F32, rank, shape);
        assert_ok(
            pare_model_read_rows(r.model, i, 0, samples[i].entry.rows, samples[i].rows.values));
    }
    snprintf(path, sizeof path, "%s/a.h5", folder);
    store_case_write(path, NULL, r.be, samples, count);
    pare_store *store;
    assert_ok(pare_store_open(path, &store));
    chain c = chain_make(&r);
    for (int64_t i = 0; i < c.count; i++) {
        memset(c.block[i]->values_arena, 0, (size_t)c.block[i]->values_bytes);
        assert_ok(pare_model_load_block(c.block[i], store, false));
        assert_status(pare_model_load(c.block[i], store, false), PARE_ERR_DAMAGED);
        assert_non_null(strstr(pare_last_error(), "too much"));
        memset(c.block[i]->values_arena, 0, (size_t)c.block[i]->values_bytes);
        assert_ok(pare_model_load_block(c.block[i], store, false));
    }
    check_same_output(&arch_samples[5], &r, &c, &r.batch);
    pare_store_close(&store);

    /* in the order of their names by now */
    store_case_write(path, NULL, r.be, samples + 3, count - 3);
    assert_ok(pare_store_open(path, &store));
    assert_status(pare_model_load_block(c.block[0], store, false), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "missing"));
    assert_non_null(strstr(pare_last_error(), "c_attn.weight"));
    pare_store_close(&store);
    chain_free(&c);
    h5_sample *copy = malloc((size_t)count * sizeof *copy);
    memcpy(copy, samples, (size_t)count * sizeof *copy);
    h5_samples_free(copy, count);
    arch_run_free(&r);
    test_folder_remove(folder);
}

static void a_value_that_is_set_has_the_mask_of_its_zeros(void **state)
{
    (void)state;
    for (int far = 0; far < 2; far++) {
        arch_run r = arch_run_make(&arch_samples[0], backend(far), PARE_F32);
        int64_t index = find_param(r.model, "model.layers.0.mlp.up_proj.weight"), zeros = 0;
        pare_param *p = pare_model_param(r.model, index);
        int64_t count = pare_tensor_count(&p->value);
        pare_tensor values = p->value;
        float *host = malloc((size_t)count * sizeof *host), *read = malloc((size_t)count * 4);
        uint8_t *mask = malloc((size_t)count);
        for (int64_t i = 0; i < count; i++)
            host[i] = i % 3 ? (float)i : -0.0f;
        assert_ok(pare_backend_alloc(r.be, count * 4, &values.data));
        assert_ok(pare_backend_upload(r.be, values.data, host, count * 4));
        assert_ok(pare_model_set_value(r.model, index, values));
        assert_null(p->mask);
        assert_ok(pare_model_mask(r.model, index));
        assert_ok(pare_model_set_value(r.model, index, values));
        assert_ok(pare_model_read_mask(r.model, index, 0, count, mask));
        assert_ok(pare_model_read_rows(r.model, index, 0, values.shape[0], read));
        assert_memory_equal(read, host, (size_t)count * 4);
        for (int64_t i = 0; i < count; i++)
            zeros += mask[i] != (i % 3 != 0);
        assert_int_equal(zeros, 0);
        values.shape[0]--;
        assert_status(pare_model_set_value(r.model, index, values), PARE_ERR_ARGUMENT);
        assert_status(pare_model_set_value(r.model, -1, values), PARE_ERR_ARGUMENT);
        pare_backend_release(r.be, values.data, count * 4);
        free(host);
        free(read);
        free(mask);
        arch_run_free(&r);
    }
}

/* ---- real ones ------------------------------------------------------------------------------- */

static const struct {
    const char *path, *arch;
} reals[] = {
    {"stories260K", NULL},
    {"bert_tiny_sst2", NULL},
    {"resnet_cifar10/resnet20.safetensors", "resnet20-cifar"},
    {"vit_cifar10/vit_cifar10.safetensors", "vit"},
    {"mlperf_tiny_resnet8/resnet8.safetensors", "resnet8-tiny"},
};

static void check_real(const char *path, const char *arch)
{
    arch_run r = {.be = backend(false)};
    pare_store *store;
    chain c;
    assert_ok(pare_store_open(path, &store));
    assert_ok(pare_model_create(&(pare_model_options){.arch = arch, .store = store}, &r.model));
    arch_run_batch(&r, PARE_F32);
    assert_ok(pare_model_prepare(r.model, r.be, &r.shape));
    assert_ok(pare_model_load(r.model, store, false));
    c.count = pare_model_block_count(r.model);
    assert_true(c.count > 1 && c.count <= 64);
    for (int64_t i = 0; i < c.count; i++) {
        assert_ok(pare_model_block(r.model, i, false, &c.block[i]));
        assert_ok(pare_model_prepare(c.block[i], r.be, &r.shape));
        assert_ok(pare_model_load_block(c.block[i], store, false));
    }
    check_same_output(&(arch_sample){.name = path}, &r, &c, &r.batch);
    chain_free(&c);
    pare_store_close(&store);
    arch_run_free(&r);
}

static void real_models_are_the_sum_of_their_blocks(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        char *path = test_data(reals[i].path);
        if (!path)
            skip();
        check_real(path, reals[i].arch);
        free(path);
    }
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void what_does_not_fit_a_block_is_refused(void **state)
{
    (void)state;
    arch_run r = arch_run_make(&arch_samples[0], backend(false), PARE_F32);
    chain c = chain_make(&r);
    pare_model *block = NULL;
    pare_tensor hidden = run_before(&c, &r.batch, 1), wrong = hidden;
    assert_int_equal(pare_model_hidden(c.block[0]).rank, 0);
    pare_tensor shape = pare_model_hidden(c.block[1]);
    assert_null(shape.data);
    assert_int_equal(shape.rank, 3);
    assert_memory_equal(shape.shape, hidden.shape, 3 * sizeof *shape.shape);
    assert_status(pare_model_block(r.model, -1, false, &block), PARE_ERR_ARGUMENT);
    assert_status(pare_model_block(r.model, c.count, false, &block), PARE_ERR_ARGUMENT);
    assert_null(block);
    assert_status(pare_model_forward(c.block[1], &r.batch, false, NULL), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "pare_model_forward_hidden"));
    assert_status(pare_model_forward_hidden(c.block[0], &r.batch, hidden, -1), PARE_ERR_ARGUMENT);
    assert_status(pare_model_forward_hidden(c.block[1], &r.batch, (pare_tensor){0}, -1),
                  PARE_ERR_ARGUMENT);
    wrong.shape[1]--;
    assert_status(pare_model_forward_hidden(c.block[1], &r.batch, wrong, -1), PARE_ERR_ARGUMENT);
    wrong = hidden;
    wrong.dtype = PARE_BF16;
    assert_status(pare_model_forward_hidden(c.block[1], &r.batch, wrong, -1), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "hidden state"));
    assert_ok(pare_model_forward_hidden(c.block[1], &r.batch, hidden, -1));
    chain_free(&c);
    arch_run_free(&r);
}

/* A block lives without its model, is cut again, and learns. */
static void a_block_is_a_model(void **state)
{
    (void)state;
    arch_run r = arch_run_make(&arch_samples[0], backend(false), PARE_F32);
    pare_model *block, *again;
    assert_ok(pare_model_block(r.model, 1, false, &block));
    pare_model_free(&r.model);
    assert_int_equal(pare_model_block_count(block), 1);
    assert_ok(pare_model_block(block, 0, false, &again));
    assert_int_equal(pare_model_node_count(again), pare_model_node_count(block));
    r.shape.training = true;
    assert_ok(pare_model_prepare(again, r.be, &r.shape));
    assert_ok(pare_model_init(again, 3));
    pare_model_free(&again);
    pare_model_free(&block);
    arch_run_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_one_after_the_other_give_the_models_bytes),
        cmocka_unit_test(so_they_do_where_the_host_sees_no_memory),
        cmocka_unit_test(a_block_reads_nothing_that_is_dead),
        cmocka_unit_test(every_parameter_is_in_one_block_and_a_tied_one_in_two),
        cmocka_unit_test(the_head_can_be_left_out),
        cmocka_unit_test(a_block_takes_the_memory_of_its_own_parameters),
        cmocka_unit_test(a_run_until_a_node_leaves_what_that_node_reads),
        cmocka_unit_test(a_block_loads_its_part_of_a_checkpoint),
        cmocka_unit_test(a_value_that_is_set_has_the_mask_of_its_zeros),
        cmocka_unit_test(real_models_are_the_sum_of_their_blocks),
        cmocka_unit_test(what_does_not_fit_a_block_is_refused),
        cmocka_unit_test(a_block_is_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
