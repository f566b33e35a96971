/* loss_cosine.c - embeddings learn the direction of a teacher's: loss = Σ_samples 1 − cos(x, t).
 * One pass over the outputs; start here to write a loss of your own. */
#include "distill_impl.h"

#include "pare/ops.h"

/* How the scratch is used: the loss of each sample, then a gradient that is added to another's. */
static int64_t lay_out(const pare_model *model, int64_t B, char *memory, float **loss, float **room)
{
    pare__carve carve = {.base = memory};
    *loss = pare__carve_next(&carve, B * 4);
    *room = pare__carve_next(&carve, B * pare_model_facts_of(model)->classes * 4);
    return carve.size;
}

static int64_t scratch(void *state, pare_model *model, const pare_model_shape *shape)
{
    float *loss, *room;
    (void)state;
    return lay_out(model, shape->batch, NULL, &loss, &room);
}

static int64_t results(void *state, pare_model *model, const pare_model_shape *shape)
{
    (void)state;
    (void)model;
    return shape->batch * (int64_t)sizeof(float);
}

static pare_status run(pare_loss_args *args)
{
    int64_t B = args->batch->size;
    float *loss, *room;
    PARE_REQUIRE(args->teacher, PARE_ERR_ARGUMENT,
                 "cosine needs a teacher that went forward with the batch");
    PARE_REQUIRE(lay_out(args->model, B, args->scratch, &loss, &room) <= args->scratch_size,
                 PARE_ERR_ARGUMENT, "cosines of %lld samples need a larger scratch", (long long)B);
    pare_tensor x = pare_model_output(args->model), grad = pare_model_output_grad(args->model);
    pare_tensor dx = args->training ? grad : (pare_tensor){0};
    if (args->training && !args->first)
        dx.data = room;
    PARE_TRY(pare_cosine(args->be, &(pare_cosine_args){.x = x,
                                                       .t = pare_model_output(args->teacher),
                                                       .loss = pare_vector(loss, PARE_F32, B),
                                                       .dx = dx,
                                                       .grad_scale = (float)args->grad_scale}));
    if (args->training && !args->first) {
        grad = pare_vector(grad.data, PARE_F32, pare_tensor_count(&grad));
        PARE_TRY(pare_add(
            args->be, &(pare_add_args){
                          .a = grad, .b = pare_vector(room, PARE_F32, grad.shape[0]), .y = grad}));
    }
    const float *near = args->results ? args->results : loss;
    PARE_TRY(pare_backend_download(args->be, (void *)(uintptr_t)near, loss, B * 4));
    args->loss = 0;
    args->count = B;
    args->top1 = args->top5 = 0;
    for (int64_t i = 0; i < B; i++)
        args->loss += (double)near[i];
    return PARE_OK;
}

const pare_loss pare__loss_cosine = {.name = "cosine",
                                     .summary = "direction of embeddings",
                                     .teacher = true,
                                     .scratch = scratch,
                                     .results = results,
                                     .run = run};
