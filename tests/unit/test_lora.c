/* test_lora.c - low-rank factors: gradients beside finite differences, what is merged, zeros that
 * stay, that it learns, and the adapter that is written. */
#include "far_backend.h"
#include "train_fixture.h"

#include "lowrank/lora_impl.h"

#include "base/file.h"
#include "base/json.h"

#include <math.h>

#define RANK 3

#define LLAMA                                                                                      \
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 32, "  \
    "\"hidden_size\": 16, \"intermediate_size\": 32, \"num_hidden_layers\": 2, "                   \
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"rms_norm_eps\": 1e-5, "             \
    "\"max_position_embeddings\": 64, \"hidden_act\": \"silu\", \"tie_word_embeddings\": true}"

/* ---- fixtures -------------------------------------------------------------------------------- */

typedef struct lora_case {
    train_fixture f;
    pare_model *model;
    pare_lora *lora;
    pare_train_part *part;
    pare_train_moment moment;
} lora_case;

static lora_case open_case(const char *arch, pare_backend *be, const pare_lora_options *more)
{
    bool config = arch[0] == '{';
    lora_case c = {.f = fixture_make(&(train_fixture_options){.arch = config ? NULL : arch,
                                                              .config = config ? arch : NULL,
                                                              .length = config ? 6 : 0,
                                                              .be = be})};
    pare_lora_options options = more ? *more : (pare_lora_options){0};
    options.rank = options.rank ? options.rank : RANK;
    assert_ok(pare_model_create(
        &(pare_model_options){.arch = config ? NULL : arch, .config = config ? arch : NULL},
        &c.model));
    assert_ok(pare_lora_create(&options, c.model, &c.lora));
    assert_ok(pare_model_prepare(c.model, c.f.be, &c.f.shape));
    assert_ok(pare_model_init(c.model, 4));
    c.moment = (pare_train_moment){.model = c.model, .be = c.f.be, .steps = 10};
    return c;
}

static void close_case(lora_case *c)
{
    pare_lora_free(&c->lora);
    pare_model_free(&c->model);
    fixture_free(&c->f);
}

static float *floats_of(const lora_case *c, pare_tensor t)
{
    int64_t n = pare_tensor_count(&t);
    float *copy = malloc((size_t)n * 4 + 1);
    assert_ok(pare_backend_download(c->f.be, copy, t.data, n * 4));
    return copy;
}

static double random_unit(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int32_t)(*state >> 32) / 2147483648.0;
}

static void fill(const lora_case *c, pare_tensor t, uint64_t seed, double size)
{
    int64_t n = pare_tensor_count(&t);
    float *values = malloc((size_t)n * 4);
    for (int64_t i = 0; i < n; i++)
        values[i] = (float)(size * random_unit(&seed));
    assert_ok(pare_backend_upload(c->f.be, t.data, values, n * 4));
    free(values);
}

/* Half of a layer's weights go, with their mask. */
static void prune(const lora_case *c, int64_t param)
{
    pare_param *p = pare_model_param(c->model, param);
    int64_t n = pare_tensor_count(&p->value);
    float *w = floats_of(c, p->value);
    uint8_t *mask = malloc((size_t)n);
    for (int64_t i = 0; i < n; i++) {
        mask[i] = i * 7 % 5 > 1;
        w[i] = mask[i] ? w[i] : 0;
    }
    assert_ok(pare_model_mask(c->model, param));
    assert_ok(pare_backend_upload(c->f.be, p->mask, mask, n));
    assert_ok(pare_backend_upload(c->f.be, p->value.data, w, n * 4));
    free(mask);
    free(w);
}

/* ---- the product ----------------------------------------------------------------------------- */

static void check_merged(bool far, bool masked, bool keep)
{
    lora_case c = open_case("cnn:8-p-12,in=1,size=8,classes=4", far ? far_backend_make(1) : NULL,
                            &(pare_lora_options){.alpha = 5, .keep_mask = keep});
    assert_true(c.lora->count >= 2);
    if (masked)
        prune(&c, c.lora->layers[0].param);
    float *was = floats_of(&c, pare_model_param(c.model, c.lora->layers[0].param)->value);
    assert_ok(pare_lora_part(c.lora, c.f.be, &c.part));
    for (size_t i = 0; i < c.lora->count; i++)
        fill(&c, c.lora->layers[i].b, 3 + i, 0.5);
    assert_ok(c.part->before(c.part->state, &c.moment));
    for (size_t i = 0; i < c.lora->count; i++) {
        const pare__lora_layer *l = &c.lora->layers[i];
        int64_t rank, in, out, zeros = 0;
        assert_true(pare_lora_layer(c.lora, l->param, &rank, &in, &out));
        float *a = malloc((size_t)(rank * in) * 4), *b = malloc((size_t)(out * rank) * 4);
        assert_ok(pare_lora_factors(c.lora, l->param, a, b));
        float *base = floats_of(&c, l->base);
        float *value = floats_of(&c, pare_model_param(c.model, l->param)->value);
        if (i == 0)
            assert_memory_equal(base, was, (size_t)(in * out) * 4);
        for (int64_t o = 0; o < out; o++)
            for (int64_t k = 0; k < in; k++) {
                double want = (double)base[o * in + k];
                bool zero = keep && base[o * in + k] == 0;
                for (int64_t r = 0; r < rank && !zero; r++)
                    want += 5.0 / RANK * (double)b[o * rank + r] * (double)a[r * in + k];
                zeros += value[o * in + k] == 0;
                if (fabs((double)value[o * in + k] - want) > (zero ? 0 : 1e-6))
                    fail_msg("weight %lld, %lld is %g, not %g", (long long)o, (long long)k,
                             (double)value[o * in + k], want);
            }
        assert_int_equal(zeros > 0, masked && keep && i == 0);
        free(value);
        free(base);
        free(b);
        free(a);
    }
    assert_int_equal(pare_model_param(c.model, c.lora->layers[0].param)->mask != NULL,
                     masked && keep);
    free(was);
    close_case(&c);
}

static void the_model_multiplies_by_base_and_product(void **state)
{
    (void)state;
    for (int how = 0; how < 8; how++)
        check_merged(how & 1, how & 2, how & 4);
}

/* ---- gradients ------------------------------------------------------------------------------- */

/* Σ weight·output, and its gradient at the output. */
static double loss_of(const lora_case *c, const pare_batch *batch, bool backward)
{
    pare_step_seed seed = {.seed = 1};
    uint64_t draw = 77;
    double loss = 0;
    assert_ok(c->part->before(c->part->state, &c->moment));
    assert_ok(pare_model_forward(c->model, batch, true, &seed));
    float *y = floats_of(c, pare_model_output(c->model));
    pare_tensor dy = pare_model_output_grad(c->model);
    int64_t n = pare_tensor_count(&dy);
    for (int64_t i = 0; i < n; i++) {
        double weight = random_unit(&draw);
        loss += weight * (double)y[i];
        y[i] = (float)weight;
    }
    assert_ok(pare_backend_upload(c->f.be, dy.data, y, n * 4));
    free(y);
    if (backward) {
        assert_ok(pare_model_clear_grads(c->model));
        assert_ok(pare_model_backward(c->model));
        assert_ok(c->part->back(c->part->state, &c->moment));
    }
    return loss;
}

static void check_gradient(const lora_case *c, const pare_batch *batch, const pare_learned *learned)
{
    int64_t n = pare_tensor_count(&learned->value), most = 4;
    float *grad = floats_of(c, learned->grad), *value = floats_of(c, learned->value);
    double rms = 0, step = 1e-3;
    for (int64_t i = 0; i < n; i++)
        rms += (double)grad[i] * (double)grad[i] / (double)n;
    assert_true(rms > 0);
    for (int64_t k = 0; k < most && k < n; k++) {
        int64_t i = n <= most ? k : k * 7919 % n;
        float was = value[i];
        double loss[2];
        for (int side = 0; side < 2; side++) {
            value[i] = was + (float)(side ? -step : step);
            assert_ok(pare_backend_upload(c->f.be, learned->value.data, value, n * 4));
            loss[side] = loss_of(c, batch, false);
        }
        value[i] = was;
        double want = (loss[0] - loss[1]) / (2 * step);
        if (fabs((double)grad[i] - want) > 0.02 * (fabs(want) + sqrt(rms)))
            fail_msg("%s: the gradient of %lld is %g, not %g", learned->name, (long long)i,
                     (double)grad[i], want);
    }
    assert_ok(pare_backend_upload(c->f.be, learned->value.data, value, n * 4));
    free(value);
    free(grad);
}

/* Of a model without kinks. */
static void check_gradients(bool masked, bool far)
{
    lora_case c =
        open_case(LLAMA, far ? far_backend_make(1) : NULL, &(pare_lora_options){.keep_mask = true});
    pare_batch *batch = fixture_batch(&c.f, 0, 16);
    for (int64_t i = 0; i < pare_model_param_count(c.model); i++)
        if (pare_model_param(c.model, i)->value.rank == 2) /* norms bend less over large numbers */
            fill(&c, pare_model_param(c.model, i)->value, 20 + (uint64_t)i, 0.5);
    if (masked)
        prune(&c, c.lora->layers[0].param);
    assert_ok(pare_lora_part(c.lora, c.f.be, &c.part));
    for (size_t i = 0; i < c.lora->count; i++)
        fill(&c, c.lora->layers[i].b, 3 + i, 0.3);
    loss_of(&c, batch, true);
    for (int64_t i = 0; i < pare_model_param_count(c.model); i++)
        assert_int_equal(pare_model_param(c.model, i)->grad.data != NULL, c.part->takes[i] != 0);
    assert_int_equal(c.part->learned_count, 2 * c.lora->count);
    for (size_t i = 0; i < c.part->learned_count; i++)
        check_gradient(&c, batch, &c.part->learned[i]);
    pare_batch_free(&batch);
    close_case(&c);
}

static void gradients_are_derivatives(void **state)
{
    (void)state;
    check_gradients(false, false);
    check_gradients(true, true);
}

/* dB = c·dW'·Aᵀ and dA = c·Bᵀ·dW', of dW' what no mask keeps 0. */
static void gradients_of_convolutions_are_those_of_their_matrix(void **state)
{
    (void)state;
    for (int masked = 0; masked < 2; masked++) {
        lora_case c = open_case("cnn:8-p-12,in=1,size=8,classes=4", NULL,
                                &(pare_lora_options){.alpha = 4, .keep_mask = true});
        const pare__lora_layer *l = &c.lora->layers[0];
        pare_param *p = pare_model_param(c.model, l->param);
        if (masked)
            prune(&c, l->param);
        assert_ok(pare_lora_part(c.lora, c.f.be, &c.part));
        fill(&c, l->b, 3, 0.3);
        assert_ok(c.part->before(c.part->state, &c.moment));
        fill(&c, p->grad, 8, 1);
        float *dw = floats_of(&c, p->grad), *a = l->a.data, *b = l->b.data;
        assert_ok(c.part->back(c.part->state, &c.moment));
        for (int64_t i = 0; i < l->out * l->in; i++)
            dw[i] = p->mask && !p->mask[i] ? 0 : dw[i];
        for (int64_t r = 0; r < RANK; r++) {
            for (int64_t k = 0; k < l->in; k++) {
                double want = 0;
                for (int64_t o = 0; o < l->out; o++)
                    want += 4.0 / RANK * (double)b[o * RANK + r] * (double)dw[o * l->in + k];
                assert_true(fabs((double)((float *)l->a_grad.data)[r * l->in + k] - want) < 1e-5);
            }
            for (int64_t o = 0; o < l->out; o++) {
                double want = 0;
                for (int64_t k = 0; k < l->in; k++)
                    want += 4.0 / RANK * (double)a[r * l->in + k] * (double)dw[o * l->in + k];
                assert_true(fabs((double)((float *)l->b_grad.data)[o * RANK + r] - want) < 1e-5);
            }
        }
        free(dw);
        close_case(&c);
    }
}

/* ---- learning -------------------------------------------------------------------------------- */

static void factors_learn_and_nothing_else(void **state)
{
    (void)state;
    lora_case c = open_case("mlp:64-16-4", NULL, &(pare_lora_options){.keep_mask = true});
    pare_train_options options = {
        .optimiser = PARE_ADAMW, .curve = {.rate = 0.01, .steps = 60}, .batch = 16, .seed = 9};
    pare_trainer *trainer = NULL;
    const float *losses;
    int64_t count, before_count;
    prune(&c, c.lora->layers[0].param);
    assert_ok(pare_lora_part(c.lora, c.f.be, &c.part));
    float *before = fixture_values(c.model, &before_count);
    assert_ok(pare_trainer_create(&(pare_train_setup){.options = &options,
                                                      .model = c.model,
                                                      .be = c.f.be,
                                                      .dataset = c.f.dataset,
                                                      .parts = &c.part,
                                                      .part_count = 1},
                                  &trainer));
    assert_ok(pare_trainer_run(trainer, c.f.sched, NULL));
    pare_trainer_losses(trainer, &losses, &count);
    if (!((double)losses[count - 1] < 0.6 * (double)losses[0]))
        fail_msg("losses went from %g to %g", (double)losses[0], (double)losses[count - 1]);
    float *after = fixture_values(c.model, &before_count);
    int64_t at = 0;
    for (int64_t i = 0; i < pare_model_param_count(c.model); i++) {
        const pare_param *p = pare_model_param(c.model, i);
        int64_t n = pare_tensor_count(&p->value), moved = 0;
        for (int64_t k = 0; k < n; k++) {
            moved += before[at + k] != after[at + k];
            if (p->mask)
                assert_true((before[at + k] == 0) == (p->mask[k] == 0) && /* zeros stay */
                            (after[at + k] == 0) == (p->mask[k] == 0));
        }
        assert_int_equal(moved > 0, c.part->takes[i] != 0);
        at += n;
    }
    free(before);
    free(after);
    pare_trainer_free(&trainer);
    close_case(&c);
}

static void a_seed_gives_the_same_factors(void **state)
{
    (void)state;
    float *a[3];
    for (int k = 0; k < 3; k++) {
        lora_case c = open_case("mlp:64-16-4", NULL, &(pare_lora_options){.seed = k == 2});
        assert_ok(pare_lora_part(c.lora, c.f.be, &c.part));
        a[k] = floats_of(&c, c.lora->layers[0].a);
        float *b = floats_of(&c, c.lora->layers[0].b);
        double squares = 0;
        for (int64_t i = 0; i < RANK * 64; i++)
            squares += (double)a[k][i] * (double)a[k][i] / (RANK * 64);
        assert_true(fabs(sqrt(squares) * RANK - 1) < 0.2); /* a deviation of 1/rank */
        for (int64_t i = 0; i < RANK * 16; i++)
            assert_true(b[i] == 0);
        free(b);
        close_case(&c);
    }
    assert_memory_equal(a[0], a[1], RANK * 64 * 4);
    assert_memory_not_equal(a[0], a[2], RANK * 64 * 4);
    for (int k = 0; k < 3; k++)
        free(a[k]);
}

static void a_prediction_needs_no_memory(void **state)
{
    (void)state;
    lora_case c = open_case("mlp:64-16-4", NULL, NULL);
    assert_ok(pare_lora_part(c.lora, NULL, &c.part));
    assert_int_equal(c.part->learned_count, 2);
    assert_null(c.part->learned[0].value.data);
    assert_int_equal(pare_tensor_count(&c.part->learned[0].value), RANK * 64);
    assert_int_equal(pare_tensor_count(&c.part->learned[1].value), RANK * 16);
    assert_string_equal(c.part->learned[0].name, "lora/layers.0.weight.a");
    int64_t bytes = pare_lora_bytes(c.lora);
    assert_true(bytes >= 4 * (64 * 16 + RANK * (2 * 64 + 3 * 16)));
    assert_ok(pare_lora_part(c.lora, c.f.be, &c.part));
    assert_int_equal(pare_lora_bytes(c.lora), bytes);
    close_case(&c);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    lora_case c = open_case("mlp:64-16-4", NULL, NULL);
    pare_lora *lora = NULL;
    assert_status(pare_lora_create(&(pare_lora_options){.rank = 0}, c.model, &lora),
                  PARE_ERR_ARGUMENT);
    assert_status(pare_lora_create(&(pare_lora_options){.rank = 2, .alpha = -1}, c.model, &lora),
                  PARE_ERR_ARGUMENT);
    assert_status(
        pare_lora_create(&(pare_lora_options){.rank = 2, .chosen = (uint8_t[]){0, 0, 0, 0}},
                         c.model, &lora),
        PARE_ERR_ARGUMENT);
    assert_null(lora);
    assert_status(pare_lora_factors(c.lora, 1, NULL, NULL), PARE_ERR_ARGUMENT);
    assert_status(pare_lora_save(c.lora, c.model, NULL, "x", false), PARE_ERR_ARGUMENT);
    close_case(&c);
}

/* Wherever there is no memory left, the call says so, and all is given back. */
static void nothing_is_lost_where_there_is_no_memory(void **state)
{
    (void)state;
    pare_status status = PARE_ERR_MEMORY;
    for (int64_t nth = 1; status != PARE_OK; nth++) {
        lora_case c = open_case("mlp:64-16-4", far_backend_make(1), NULL);
        far_backend_refuse(c.f.be, nth);
        status = pare_lora_part(c.lora, c.f.be, &c.part);
        if (status == PARE_OK)
            status = c.part->before(c.part->state, &c.moment);
        if (status == PARE_OK)
            status = c.part->back(c.part->state, &c.moment);
        assert_true(status == PARE_OK || status == PARE_ERR_MEMORY);
        assert_true((status != PARE_OK) == far_backend_refused(c.f.be));
        close_case(&c);
    }
}

/* ---- adapters -------------------------------------------------------------------------------- */

static char *in_folder(const lora_case *c, const char *name)
{
    char *path = NULL;
    assert_ok(pare__join(c->f.folder, name, &path));
    return path;
}

static pare__json *config_of(const char *folder)
{
    char *path = NULL, *text = NULL;
    int64_t size;
    pare__json *root = NULL;
    assert_ok(pare__join(folder, "adapter_config.json", &path));
    assert_ok(pare__file_load(path, 1 << 20, &text, &size));
    assert_ok(pare__json_parse(text, (size_t)size, path, &root));
    free(text);
    free(path);
    return root;
}

/* The tensor of a name in the adapter, with this shape and these values. */
static void expect_tensor(pare_store *store, pare_backend *be, const char *name, int rank,
                          const int64_t *shape, const float *values)
{
    int64_t index = pare_store_find(store, name), n = 1;
    if (index < 0)
        fail_msg("the adapter has no %s", name);
    const pare_entry *e = pare_store_entry(store, index);
    assert_int_equal(e->rank, rank);
    for (int d = 0; d < rank; d++) {
        assert_int_equal(e->shape[d], shape[d]);
        n *= shape[d];
    }
    float *got = malloc((size_t)n * 4);
    void *scratch = malloc((size_t)pare_store_scratch(store, index, e->rows) + 1);
    assert_ok(pare_store_read_values(store, be, index, 0, e->rows, got, scratch));
    assert_memory_equal(got, values, (size_t)n * 4);
    free(scratch);
    free(got);
}

static void an_adapter_has_pefts_names_and_shapes(void **state)
{
    (void)state;
    lora_case c = open_case("cnn:8-p-12,in=1,size=8,classes=4", far_backend_make(1),
                            &(pare_lora_options){.alpha = 6, .adapter = true});
    char *path = in_folder(&c, "adapter"), *file = NULL;
    pare_store *store = NULL;
    pare_backend *host = pare_backend_host(c.f.be);
    assert_ok(pare_lora_part(c.lora, c.f.be, &c.part));
    fill(&c, c.lora->layers[1].b, 3, 0.5);
    assert_ok(pare_lora_save(c.lora, c.model, "some/base", path, false));
    assert_status(pare_lora_save(c.lora, c.model, "some/base", path, false), PARE_ERR_EXISTS);
    assert_ok(pare_lora_save(c.lora, c.model, "some/base", path, true));
    assert_ok(pare__join(path, "adapter_model.safetensors", &file));
    assert_ok(pare_store_open(file, &store));
    assert_int_equal(pare_store_count(store), 2 * c.lora->count);
    for (size_t i = 0; i < c.lora->count; i++) {
        const pare__lora_layer *l = &c.lora->layers[i];
        const pare_param *p = pare_model_param(c.model, l->param);
        char name[256];
        float *a = floats_of(&c, l->a), *b = floats_of(&c, l->b);
        int length = (int)(strlen(p->name) - strlen(".weight")), rank = p->value.rank;
        const int64_t *s = p->value.shape;
        snprintf(name, sizeof name, "base_model.model.%.*s.lora_A.weight", length, p->name);
        expect_tensor(store, host, name, rank, (int64_t[]){RANK, s[1], s[2], s[3]}, a);
        snprintf(name, sizeof name, "base_model.model.%.*s.lora_B.weight", length, p->name);
        expect_tensor(store, host, name, rank, (int64_t[]){s[0], RANK, 1, 1}, b);
        free(b);
        free(a);
    }
    pare_store_close(&store);
    pare__json *root = config_of(path);
    int64_t number = 0;
    assert_string_equal(pare__json_string(pare__json_get(root, "peft_type")), "LORA");
    assert_string_equal(pare__json_string(pare__json_get(root, "base_model_name_or_path")),
                        "some/base");
    assert_true(pare__json_int(pare__json_get(root, "r"), &number) && number == RANK);
    assert_true(pare__json_int(pare__json_get(root, "lora_alpha"), &number) && number == 6);
    pare__json_free(&root);
    free(file);
    free(path);
    close_case(&c);
}

/* The text of target_modules, or of its members with commas between. */
static char *targets(const uint8_t *chosen)
{
    pare_model *model = NULL;
    pare_lora *lora = NULL;
    pare_train_part *part;
    train_fixture f =
        fixture_make(&(train_fixture_options){.config = LLAMA, .length = 24, .shuffle = true});
    char *path = NULL, *text = calloc(1024, 1);
    assert_ok(pare_model_create(&(pare_model_options){.config = LLAMA}, &model));
    assert_ok(pare_lora_create(&(pare_lora_options){.rank = 2, .chosen = chosen}, model, &lora));
    assert_ok(pare_model_prepare(model, f.be, &f.shape));
    assert_ok(pare_lora_part(lora, f.be, &part));
    assert_ok(pare__join(f.folder, "a", &path));
    assert_ok(pare_lora_save(lora, model, NULL, path, false));
    pare__json *root = config_of(path);
    const pare__json *node = pare__json_get(root, "target_modules");
    assert_string_equal(pare__json_string(pare__json_get(root, "task_type")), "CAUSAL_LM");
    if (pare__json_string(node))
        snprintf(text, 1024, "%s", pare__json_string(node));
    for (size_t i = 0; i < pare__json_size(node); i++)
        snprintf(text + strlen(text), 1024 - strlen(text), "%s,",
                 pare__json_string(pare__json_at(node, i)));
    pare__json_free(&root);
    free(path);
    pare_lora_free(&lora);
    pare_model_free(&model);
    fixture_free(&f);
    return text;
}

static void an_adapters_modules_are_those_chosen(void **state)
{
    (void)state;
    uint8_t chosen[64] = {0};
    pare_model *model = NULL;
    char *text = targets(NULL);
    assert_string_equal(text, "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj,");
    free(text);
    assert_ok(pare_model_create(&(pare_model_options){.config = LLAMA}, &model));
    for (int64_t i = 0; i < pare_model_param_count(model); i++)
        chosen[i] = strstr(pare_model_param(model, i)->name, "1.self_attn.v_proj") ||
                    strstr(pare_model_param(model, i)->name, "0.mlp.up_proj");
    pare_model_free(&model);
    text = targets(chosen);
    assert_string_equal(
        text, "model\\.layers\\.0\\.mlp\\.up_proj|model\\.layers\\.1\\.self_attn\\.v_proj");
    free(text);
}

/* Whether an adapter alone means more than what is merged. */
static void masked_products_are_told(void **state)
{
    (void)state;
    for (int keep = 0; keep < 2; keep++) {
        lora_case c = open_case("mlp:64-16-4", NULL, &(pare_lora_options){.keep_mask = keep});
        assert_false(pare_lora_masked(c.lora));
        prune(&c, c.lora->layers[0].param);
        assert_ok(pare_lora_part(c.lora, c.f.be, &c.part));
        assert_int_equal(pare_lora_masked(c.lora), keep);
        close_case(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_model_multiplies_by_base_and_product),
        cmocka_unit_test(gradients_are_derivatives),
        cmocka_unit_test(gradients_of_convolutions_are_those_of_their_matrix),
        cmocka_unit_test(factors_learn_and_nothing_else),
        cmocka_unit_test(a_seed_gives_the_same_factors),
        cmocka_unit_test(a_prediction_needs_no_memory),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(nothing_is_lost_where_there_is_no_memory),
        cmocka_unit_test(an_adapter_has_pefts_names_and_shapes),
        cmocka_unit_test(an_adapters_modules_are_those_chosen),
        cmocka_unit_test(masked_products_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
