/* checkpoint_fixture.c - makes and writes it. */
#include "checkpoint_fixture.h"

#include "train_fixture.h"

#include "engine/learn.h"

static void make_odd(pare_model *model, const checkpoint_fixture *options)
{
    pare_tensor *value = &fixture_param(model, options->odd)->value;
    float *w = value->data;
    for (int64_t i = 0; i < pare_tensor_count(value); i += 16)
        w[i] *= options->factor;
}

void fixture_checkpoint(const checkpoint_fixture *options, const char *path)
{
    pare_backend *be = NULL;
    const char *config = options->config;
    pare_model_choice choice = {.arch = options->arch ? options->arch : config};
    pare__subject subject = {.choice = &choice};
    const pare_model_options model = {.arch = options->arch, .config = config};
    pare_model_shape shape = {.batch = 1, .compute = PARE_F32};
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(pare_model_create(&model, &subject.model));
    shape.length = pare_model_facts_of(subject.model)->tokens ? 4 : 0;
    assert_ok(pare_model_prepare(subject.model, be, &shape));
    assert_ok(pare_model_init(subject.model, options->seed));
    if (options->odd)
        make_odd(subject.model, options);
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
