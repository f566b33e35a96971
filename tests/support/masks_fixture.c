/* masks_fixture.c - schedules of masks driven by hand. */
#include "masks_fixture.h"

#include "pare/ops.h"

#include "base/rng.h"

pare_param *masks_param(const masks_run *run, int64_t param)
{
    return pare_model_param(run->model, param);
}

bool masks_has(const masks_run *run, int64_t param)
{
    pare_role role = masks_param(run, param)->role;
    return role == PARE_ROLE_LINEAR || role == PARE_ROLE_CONV;
}

static void get(const masks_run *run, void *to, const void *from, int64_t bytes)
{
    assert_ok(pare_backend_download(run->be, to, from, bytes));
}

void masks_write(masks_run *run, int64_t param, const float *values)
{
    assert_ok(pare_backend_upload(run->be, masks_param(run, param)->value.data, values,
                                  run->count[param] * 4));
}

void masks_read(masks_run *run)
{
    for (int64_t i = 0; i < run->params; i++) {
        const pare_param *p = masks_param(run, i);
        int64_t n = run->count[i];
        get(run, run->value[i], p->value.data, n * 4);
        get(run, run->moment[i], run->momentum[i], n * 4);
        if (p->grad.data)
            get(run, run->grad[i], p->grad.data, n * 4);
        if (p->mask)
            get(run, run->mask[i], p->mask, n);
    }
}

static void fill_values(masks_run *run)
{
    for (int64_t i = 0; i < run->params; i++) {
        pare__rng rng = pare__rng_make(5, (uint64_t)i, 0);
        for (int64_t k = 0; k < run->count[i]; k++)
            run->value[i][k] = (float)pare__rng_normal(&rng) * 0.1f;
        masks_write(run, i, run->value[i]);
    }
}

masks_run *masks_begin(pare_backend *be, const char *arch, const pare_mask_options *options,
                       int64_t steps, void (*prepare)(masks_run *run))
{
    masks_run *run = calloc(1, sizeof *run);
    const pare_model_shape shape = {.batch = 2, .training = true, .compute = PARE_F32};
    assert_non_null(run);
    run->options = *options;
    run->steps = steps;
    run->be = be;
    if (!be)
        assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 2}, &run->be));
    assert_ok(pare_model_create(&(pare_model_options){.arch = arch ? arch : "mlp:24-16-12-8"},
                                &run->model));
    assert_ok(pare_masks_create(options, run->model, &run->masks));
    assert_ok(pare_model_prepare(run->model, run->be, &shape));
    assert_ok(pare_model_init(run->model, 1));
    run->params = pare_model_param_count(run->model);
    assert_true(run->params <= MASKS_PARAMS);
    for (int64_t i = 0; i < run->params; i++) {
        int64_t n = run->count[i] = pare_tensor_count(&masks_param(run, i)->value);
        float **lists[] = {run->value, run->grad, run->moment, run->before};
        for (int k = 0; k < 4; k++)
            assert_non_null(lists[k][i] = calloc((size_t)n, sizeof(float)));
        assert_non_null(run->mask[i] = calloc((size_t)n, 1));
        assert_non_null(run->mask_before[i] = calloc((size_t)n, 1));
        assert_ok(pare_backend_alloc(run->be, n * 4, &run->momentum[i]));
    }
    fill_values(run);
    if (prepare)
        prepare(run);
    assert_ok(pare_masks_part(run->masks, run->be, &run->part));
    masks_read(run);
    return run;
}

void masks_end(masks_run *run)
{
    for (int64_t i = 0; i < run->params; i++) {
        free(run->value[i]), free(run->grad[i]), free(run->moment[i]), free(run->before[i]);
        free(run->mask[i]), free(run->mask_before[i]);
        pare_backend_release(run->be, run->momentum[i], run->count[i] * 4);
    }
    pare_masks_free(&run->masks);
    pare_model_free(&run->model);
    pare_backend_free(&run->be);
    free(run);
}

/* Gradients of a step, a few of them 0. */
static void fill_grads(masks_run *run)
{
    for (int64_t i = 0; i < run->params; i++) {
        pare_param *p = masks_param(run, i);
        pare__rng rng = pare__rng_make(9, (uint64_t)i, (uint64_t)run->step);
        for (int64_t k = 0; k < run->count[i]; k++)
            run->grad[i][k] = pare__rng_below(&rng, 20) == 0 ? 0 : (float)pare__rng_normal(&rng);
        if (p->grad.data)
            assert_ok(pare_backend_upload(run->be, p->grad.data, run->grad[i], run->count[i] * 4));
    }
}

static void move(masks_run *run)
{
    for (int64_t i = 0; i < run->params; i++) {
        pare_param *p = masks_param(run, i);
        int64_t n = run->count[i];
        if (p->grad.data)
            assert_ok(
                pare_sgd(run->be, &(pare_sgd_args){.w = pare_vector(p->value.data, PARE_F32, n),
                                                   .g = pare_vector(p->grad.data, PARE_F32, n),
                                                   .m = pare_vector(run->momentum[i], PARE_F32, n),
                                                   .mask = pare_vector(p->mask, PARE_U8, n),
                                                   .rate = 0.02f,
                                                   .momentum = 0.9f,
                                                   .grad_scale = 1}));
        get(run, run->before[i], p->value.data, n * 4);
        if (p->mask)
            get(run, run->mask_before[i], p->mask, n);
    }
}

pare_status masks_step(masks_run *run)
{
    pare_train_moment at = {
        .model = run->model, .be = run->be, .step = run->step, .steps = run->steps, .rate = 0.02};
    pare_status status = run->part->before(run->part->state, &at);
    if (status != PARE_OK)
        return status;
    fill_grads(run);
    status = run->part->back(run->part->state, &at);
    if (status != PARE_OK)
        return status;
    move(run);
    status = run->part->after(run->part->state, &at);
    if (status != PARE_OK)
        return status;
    run->step++;
    masks_read(run);
    return PARE_OK;
}

static void carry(const masks_run *from, masks_run *to, const void *x, void *y, int64_t bytes)
{
    void *room = malloc((size_t)bytes + 1);
    assert_non_null(room);
    get(from, room, x, bytes);
    assert_ok(pare_backend_upload(to->be, y, room, bytes));
    free(room);
}

void masks_resume(const masks_run *from, masks_run *to)
{
    for (int64_t i = 0; i < from->params; i++) {
        const pare_param *p = masks_param(from, i);
        pare_param *q = masks_param(to, i);
        int64_t n = from->count[i];
        carry(from, to, p->value.data, q->value.data, n * 4);
        carry(from, to, from->momentum[i], to->momentum[i], n * 4);
        assert_true((p->mask != NULL) == (q->mask != NULL));
        if (p->mask)
            carry(from, to, p->mask, q->mask, n);
    }
    assert_int_equal(from->part->kept_count, to->part->kept_count);
    for (size_t i = 0; i < from->part->kept_count; i++) {
        const pare_kept *x = &from->part->kept[i], *y = &to->part->kept[i];
        int64_t bytes = pare_tensor_count(&x->tensor) * pare_dtype_bits(x->tensor.dtype) / 8;
        assert_string_equal(x->name, y->name);
        if (x->host)
            memcpy(y->tensor.data, x->tensor.data, (size_t)bytes);
        else
            carry(from, to, x->tensor.data, y->tensor.data, bytes);
    }
    to->step = from->step;
}

int64_t masks_zeros(const masks_run *run, int64_t param)
{
    int64_t zeros = 0;
    for (int64_t i = 0; i < run->count[param]; i++)
        zeros += run->mask[param][i] == 0;
    return zeros;
}

void *masks_room(int64_t n, size_t size)
{
    void *room = calloc((size_t)n + 1, size);
    assert_non_null(room);
    return room;
}

void masks_lowest(const double *score, int64_t n, int64_t goes, uint8_t *mask)
{
    memset(mask, 1, (size_t)n);
    for (int64_t k = 0; k < goes; k++) {
        int64_t least = -1;
        for (int64_t i = 0; i < n; i++)
            if (mask[i] && (least < 0 || score[i] < score[least]))
                least = i;
        mask[least] = 0;
    }
}
