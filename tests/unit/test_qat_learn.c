/* test_qat_learn.c - quantisation-aware training learns: better than rounding what was learned, and
 * the same when it was cut. */
#include "train_fixture.h"

#include "quant/qat_impl.h"

#include "base/check.h"

static pare_scheme scheme_of(const char *text)
{
    pare_scheme s;
    assert_ok(pare_scheme_parse(text, &s));
    return s;
}

/* ---- learning -------------------------------------------------------------------------------- */

static double loss_of(train_fixture *f, pare_model *model)
{
    pare_eval_result result;
    pare_model_shape shape = f->shape;
    shape.training = false;
    assert_ok(pare_model_prepare(model, f->be, &shape));
    assert_ok(pare_evaluate(f->sched,
                            &(pare_eval_options){.model = model,
                                                 .be = f->be,
                                                 .dataset = f->dataset,
                                                 .batch = shape.batch,
                                                 .metrics = PARE_METRIC_LOSS},
                            &result));
    return result.loss;
}

static void train(train_fixture *f, pare_model *model, pare_train_part *part, int64_t steps,
                  pare_optimiser optimiser, double rate)
{
    pare_trainer *trainer = NULL;
    pare_train_options options = {.optimiser = optimiser,
                                  .curve = {.rate = rate, .steps = steps},
                                  .batch = 16,
                                  .momentum = 0.9,
                                  .seed = 9};
    assert_ok(pare_trainer_create(&(pare_train_setup){.options = &options,
                                                      .model = model,
                                                      .be = f->be,
                                                      .dataset = f->dataset,
                                                      .parts = &part,
                                                      .part_count = part ? 1 : 0},
                                  &trainer));
    assert_ok(pare_trainer_run(trainer, f->sched, NULL));
    pare_trainer_free(&trainer);
}

/* A trained model at few bits: rounded to nearest, and with `scheme` learned. */
static void check_learning(const char *scheme, bool fixed, pare_optimiser optimiser, double rate)
{
    train_fixture f = fixture_make(&(train_fixture_options){.shuffle = true});
    pare_model *model = NULL;
    pare_qat *qat = NULL;
    pare_train_part *part;
    int64_t count;
    train(&f, f.model, NULL, 60, PARE_ADAMW, 0.01);
    assert_ok(pare_model_create(&(pare_model_options){.arch = "mlp:64-16-4"}, &model));
    pare_qat_options options = {
        .scheme = scheme_of(scheme), .fixed = fixed, .chosen = (uint8_t[]){1, 1, 1, 1}};
    assert_ok(pare_qat_create(&options, model, &qat));
    assert_ok(pare_model_prepare(model, f.be, &f.shape));
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        count = pare_tensor_count(&pare_model_param(model, i)->value);
        memcpy(pare_model_param(model, i)->value.data, pare_model_param(f.model, i)->value.data,
               (size_t)count * 4);
    }
    assert_ok(pare_qat_part(qat, f.be, &part));
    train(&f, model, part, 80, optimiser, rate);
    double learned = loss_of(&f, model);

    for (size_t i = 0; i < qat->count; i++) { /* the trained one, rounded */
        const pare__qat_layer *l = &qat->layers[i];
        int64_t n = l->blocks.down * l->blocks.across;
        pare_tensor w = pare_model_param(f.model, l->param)->value;
        w = pare_matrix(w.data, PARE_F32, l->rows, l->cols);
        float *scale = malloc((size_t)n * 8);
        int8_t *codes = malloc((size_t)(l->rows * l->cols));
        pare_layer layer = {.name = l->name,
                            .w = w,
                            .scheme = l->scheme,
                            .scale_dtype = PARE_F32,
                            .block_rows = l->blocks.block_rows,
                            .block_cols = l->blocks.block_cols,
                            .scale = pare_matrix(scale, PARE_F32, l->blocks.down, l->blocks.across),
                            .lo =
                                pare_matrix(scale + n, PARE_F32, l->blocks.down, l->blocks.across),
                            .codes = pare_matrix(codes, PARE_I8, l->rows, l->cols)};
        assert_ok(pare_quant_round(f.be, &layer, PARE_SCALE_ABSMAX));
        free(codes);
        free(scale);
    }
    double rounded = loss_of(&f, f.model);
    if (!(learned < 0.7 * rounded))
        fail_msg("%s: a loss of %g, beside %g rounded to nearest", scheme, learned, rounded);
    pare_qat_free(&qat);
    pare_model_free(&model);
    fixture_free(&f);
}

static void it_learns_better_than_rounding(void **state)
{
    (void)state;
    check_learning("w4", false, PARE_ADAMW, 0.003);
    check_learning("w4", false, PARE_SGD, 0.02);
    check_learning("w4t", true, PARE_ADAMW, 0.003);
    check_learning("w2", false, PARE_ADAMW, 0.003);
    check_learning("w3g16a8", false, PARE_ADAMW, 0.003);
}

static pare_status stop_at_5(void *user, pare_trainer *trainer, const pare_train_state *s)
{
    (void)user, (void)trainer;
    return s->step == 5 ? pare__error(PARE_ERR_INTERRUPTED, __func__, "stopped") : PARE_OK;
}

/* Ten steps at once, or cut after five. The values that they end with; freed by the caller. */
static float *ten_steps(const char *state_path, bool cut, int64_t *count)
{
    const pare_train_options options = {
        .optimiser = PARE_ADAMW, .curve = {.rate = 0.01, .steps = 10}, .batch = 16, .seed = 9};
    float *values = NULL;
    for (int run = cut ? 0 : 1; run < 2; run++) {
        train_fixture f = fixture_make(&(train_fixture_options){.shuffle = true});
        pare_trainer *trainer = NULL;
        pare_qat *qat = NULL;
        pare_train_part *part;
        assert_ok(
            pare_qat_create(&(pare_qat_options){.scheme = scheme_of("w3g16")}, f.model, &qat));
        assert_ok(pare_qat_part(qat, f.be, &part));
        assert_ok(pare_trainer_create(&(pare_train_setup){.options = &options,
                                                          .model = f.model,
                                                          .be = f.be,
                                                          .dataset = f.dataset,
                                                          .parts = &part,
                                                          .part_count = 1},
                                      &trainer));
        if (run == 0) {
            assert_status(
                pare_trainer_run(trainer, f.sched, &(pare_train_callbacks){.step = stop_at_5}),
                PARE_ERR_INTERRUPTED);
            assert_ok(pare_trainer_save(trainer, state_path, "model: m\n"));
        } else {
            if (cut)
                assert_ok(pare_trainer_load(trainer, state_path, "model: m\n"));
            assert_ok(pare_trainer_run(trainer, f.sched, NULL));
            values = fixture_values(f.model, count);
        }
        pare_trainer_free(&trainer);
        pare_qat_free(&qat);
        fixture_free(&f);
    }
    return values;
}

static void a_training_that_was_cut_ends_the_same(void **state)
{
    (void)state;
    int64_t n, m;
    char *folder = test_folder_make(), path[4096];
    snprintf(path, sizeof path, "%s/state.h5", folder);
    float *whole = ten_steps(path, false, &n), *cut = ten_steps(path, true, &m);
    assert_int_equal(n, m);
    assert_memory_equal(whole, cut, (size_t)n * 4);
    free(whole);
    free(cut);
    test_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_learns_better_than_rounding),
        cmocka_unit_test(a_training_that_was_cut_ends_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
