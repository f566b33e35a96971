/* learn.c - opens what eval and train work with: model, data's options, backend, scheduler. */
#include "learn.h"

#include <string.h>

#define TOKENS_A_BATCH 2048
#define IMAGES_A_BATCH 128
#define ROWS_A_BATCH 32
#define LONGEST_DEFAULT 1024 /* tokens a window where nothing is said */

/* ---- the model ------------------------------------------------------------------------------- */

static void override_facts(const pare_model_choice *choice, pare_model_facts *facts)
{
    for (int c = 0; c < 4; c++) {
        if (choice->has_mean)
            facts->mean[c] = choice->mean[c];
        if (choice->has_std)
            facts->std[c] = choice->std[c];
    }
    if (choice->has_scale)
        facts->scale = choice->scale;
}

pare_status pare__subject_open(const pare_model_choice *choice, pare__subject *subject)
{
    pare_status status = PARE_OK;
    *subject = (pare__subject){.choice = choice};
    PARE_REQUIRE(choice->checkpoint || choice->arch, PARE_ERR_ARGUMENT,
                 "there is no model: give a checkpoint, or an architecture to start from");
    if (choice->checkpoint)
        PARE_TRY_DONE(pare_store_open(choice->checkpoint, &subject->store));
    PARE_TRY_DONE(pare_model_create(
        &(pare_model_options){.arch = choice->arch,
                              .config = subject->store ? pare_store_config(subject->store) : NULL,
                              .store = subject->store},
        &subject->model));
    override_facts(choice, pare_model_facts_edit(subject->model));
done:
    if (status != PARE_OK)
        pare__subject_close(subject);
    return status;
}

void pare__subject_close(pare__subject *subject)
{
    pare_model_free(&subject->model);
    pare_store_close(&subject->store);
}

const char *pare__subject_name(const pare__subject *subject)
{
    return subject->choice->checkpoint ? subject->choice->checkpoint : subject->choice->arch;
}

/* ---- the bench ------------------------------------------------------------------------------- */

static pare_status open_device(pare__bench *bench)
{
    pare_cuda_facts facts;
    int64_t before = pare_memory_now();
    PARE_TRY(pare__device_choose(bench->options, &bench->device));
    if (!bench->device.cuda) {
        const pare_cpu_options cpu = {.threads = bench->threads, .isa = bench->options->isa};
        PARE_TRY(pare_cpu_create(&cpu, &bench->be));
        return PARE_OK;
    }
    PARE_TRY(pare_cuda_create(bench->device.index, &bench->be));
    PARE_TRY(pare_cuda_facts_of(bench->device.index, &facts));
    bench->unused = facts.free;
    bench->context = pare_memory_now() - before;
    return PARE_OK;
}

pare_status pare__bench_open(const pare_run_options *options, pare__bench *bench)
{
    pare_status status = PARE_OK;
    *bench = (pare__bench){.options = options,
                           .threads = options->threads ? options->threads : pare_cpu_count()};
    PARE_TRY_DONE(open_device(bench));
    PARE_TRY_DONE(pare_sched_create(&(pare_sched_options){.threads = bench->threads,
                                                          .trace = options->trace,
                                                          .cancel = options->cancel,
                                                          .progress = options->progress},
                                    &bench->sched));
done:
    if (status != PARE_OK)
        pare__bench_close(bench);
    return status;
}

void pare__bench_close(pare__bench *bench)
{
    pare_sched_free(&bench->sched);
    pare_backend_free(&bench->be);
}

/* ---- data ------------------------------------------------------------------------------------ */

pare_data_options pare__complete_data(const pare_data_options *asked, const pare_model *model)
{
    const pare_model_facts *facts = pare_model_facts_of(model);
    pare_data_options data = *asked;
    bool decoder = facts->output == PARE_OUTPUT_TOKENS;
    data.tokens = facts->tokens;
    data.vocabulary = facts->vocabulary;
    data.classes = facts->output == PARE_OUTPUT_CLASSES ? facts->classes : 0;
    data.height = facts->height;
    data.width = facts->width;
    data.channels = facts->channels;
    data.scale = facts->scale;
    memcpy(data.mean, facts->mean, sizeof data.mean);
    memcpy(data.std, facts->std, sizeof data.std);
    if (data.pad_id == -2)
        data.pad_id = decoder ? -1 : facts->pad_id;
    if (decoder && data.seq_len == 0)
        data.seq_len = facts->max_length > 0 && facts->max_length < LONGEST_DEFAULT
                           ? facts->max_length
                           : LONGEST_DEFAULT;
    return data;
}

int64_t pare__default_batch(int64_t asked, const pare_model *model, const pare_dataset *dataset)
{
    const pare_model_facts *facts = pare_model_facts_of(model);
    int64_t T = pare_dataset_length(dataset), count = pare_dataset_count(dataset);
    if (asked > 0)
        return asked;
    int64_t batch = IMAGES_A_BATCH;
    if (facts->output == PARE_OUTPUT_TOKENS)
        batch = T < TOKENS_A_BATCH ? TOKENS_A_BATCH / T : 1;
    else if (facts->tokens)
        batch = ROWS_A_BATCH;
    return batch < count ? batch : count;
}
