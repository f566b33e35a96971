/* dnnl_plan.c - makes oneDNN's primitives, keeps them by recipe, runs them. */
#include "dnnl_plan.h"

#include "cpu_dnnl.h"

#include "base/alloc.h"
#include "base/check.h"

#include <omp.h>
#include <string.h>

#define ALIGN 64
#define BUCKETS 512

/* Beside the roles: the weights as the primitive has them, and the two scratchpads. */
enum { OWN = PRODUCT_ROLES, PAD, ORDER_PAD, MEMORIES };

struct product_plan {
    product_recipe recipe;
    product_plan *next;             /* in its bucket */
    dnnl_primitive_t product;       /* the operation, between src, own, dst and bias */
    dnnl_primitive_t order;         /* between given weights and own; NULL: they are the same */
    dnnl_memory_t memory[MEMORIES]; /* NULL where there is none */
    void *at[MEMORIES];             /* what they show */
    size_t own_bytes, pad_bytes;    /* of scratch; the scratchpads share theirs */
};

typedef struct product_state {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    int64_t count;
    product_plan *bucket[BUCKETS];
} product_state;

/* ---- failures -------------------------------------------------------------------------------- */

static const char *const op_names[PRODUCT_KINDS] = {"gemm", "gemm",        "gemm",
                                                    "conv", "conv_grad_x", "conv_grad_w"};

static pare_status status_of(dnnl_status_t status)
{
    return status == dnnl_out_of_memory   ? PARE_ERR_MEMORY
           : status == dnnl_unimplemented ? PARE_ERR_UNSUPPORTED
                                          : PARE_ERR_INTERNAL;
}

/* What oneDNN answered, as a failure of the recipe's op. */
static pare_status check(dnnl_status_t status, const product_recipe *r, const char *doing)
{
    if (status == dnnl_success)
        return PARE_OK;
    char text[3][192];
    for (int i = 0; i < 3; i++)
        pare_shape_text((int)r->given[i].rank, r->given[i].dims, text[i], sizeof text[i]);
    PARE_FAIL(status_of(status),
              "%s: oneDNN answers \"%s\" when %s the product of %s %s with %s %s into %s %s",
              op_names[r->kind], dnnl_status2str(status), doing,
              pare_dtype_name((pare_dtype)r->given[PRODUCT_SRC].dtype), text[PRODUCT_SRC],
              pare_dtype_name((pare_dtype)r->given[PRODUCT_WEIGHTS].dtype), text[PRODUCT_WEIGHTS],
              pare_dtype_name((pare_dtype)r->given[PRODUCT_DST].dtype), text[PRODUCT_DST]);
}

/* ---- making ---------------------------------------------------------------------------------- */

static void free_plan(product_plan *plan)
{
    for (int i = 0; i < MEMORIES; i++)
        if (plan->memory[i])
            dnnl_memory_destroy(plan->memory[i]);
    if (plan->order)
        dnnl_primitive_destroy(plan->order);
    if (plan->product)
        dnnl_primitive_destroy(plan->product);
    free(plan);
}

/* What is needed only while a plan is made. */
typedef struct making {
    product_layout *layout[PRODUCT_ROLES]; /* weights: as the recipe's own */
    product_layout *given;                 /* weights as given */
    dnnl_primitive_attr_t attr, order_attr;
    dnnl_primitive_desc_t product, order;
} making;

static void free_making(making *m)
{
    for (int i = 0; i < PRODUCT_ROLES; i++)
        pare__layout_free(m->layout[i]);
    pare__layout_free(m->given);
    if (m->attr)
        dnnl_primitive_attr_destroy(m->attr);
    if (m->order_attr)
        dnnl_primitive_attr_destroy(m->order_attr);
    if (m->order)
        dnnl_primitive_desc_destroy(m->order);
    if (m->product)
        dnnl_primitive_desc_destroy(m->product);
}

static dnnl_status_t describe(const product_state *state, const product_recipe *r, making *m)
{
    dnnl_status_t status = dnnl_success;
    for (int i = 0; i < PRODUCT_ROLES && !status; i++) {
        const product_view *view = i == PRODUCT_WEIGHTS ? &r->own : &r->given[i];
        if (view->rank > 0)
            status = pare__layout_make(view, &m->layout[i]);
    }
    if (!status)
        status = pare__layout_make(&r->given[PRODUCT_WEIGHTS], &m->given);
    bool sums_weights = product_makes_weights(r->kind);
    if (!status)
        status = pare__dnnl_attributes(r->sum && !sums_weights, r->relu != 0, &m->attr);
    if (!status)
        status = pare__dnnl_attributes(r->sum && sums_weights, false, &m->order_attr);
    if (!status)
        status = pare__dnnl_describe(r, state->engine, m->layout, m->attr, &m->product);
    return status;
}

static dnnl_status_t make_memory(const product_state *state, const product_layout *layout,
                                 dnnl_memory_t *memory)
{
    return dnnl_memory_create(memory, layout, state->engine, DNNL_MEMORY_NONE);
}

/* A primitive and its scratchpad, which may have no bytes. */
static dnnl_status_t make_primitive(const product_state *state, dnnl_primitive_desc_t desc,
                                    dnnl_primitive_t *primitive, dnnl_memory_t *pad,
                                    product_plan *plan)
{
    const product_layout *layout = dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
    size_t bytes = layout ? dnnl_memory_desc_get_size(layout) : 0;
    plan->pad_bytes = bytes > plan->pad_bytes ? bytes : plan->pad_bytes;
    dnnl_status_t status = bytes > 0 ? make_memory(state, layout, pad) : dnnl_success;
    return status ? status : dnnl_primitive_create(primitive, desc);
}

/* The weights' way between how they are given and how the primitive wants them. */
static dnnl_status_t make_order(const product_state *state, making *m, product_plan *plan)
{
    bool grad = product_makes_weights(plan->recipe.kind);
    const product_layout *own = dnnl_primitive_desc_query_md(
        m->product, grad ? dnnl_query_diff_weights_md : dnnl_query_weights_md, 0);
    if (dnnl_memory_desc_equal(own, m->given) && !(grad && plan->recipe.sum))
        return dnnl_success;
    plan->own_bytes = dnnl_memory_desc_get_size(own);
    dnnl_status_t status = make_memory(state, own, &plan->memory[OWN]);
    if (!status)
        status =
            dnnl_reorder_primitive_desc_create(&m->order, grad ? own : m->given, state->engine,
                                               grad ? m->given : own, state->engine, m->order_attr);
    return status ? status
                  : make_primitive(state, m->order, &plan->order, &plan->memory[ORDER_PAD], plan);
}

static dnnl_status_t fill_plan(const product_state *state, making *m, product_plan *plan)
{
    dnnl_status_t status = describe(state, &plan->recipe, m);
    if (!status)
        status = make_primitive(state, m->product, &plan->product, &plan->memory[PAD], plan);
    if (!status)
        status = make_order(state, m, plan);
    for (int i = 0; i < PRODUCT_ROLES && !status; i++) {
        const product_layout *layout = i == PRODUCT_WEIGHTS ? m->given : m->layout[i];
        if (layout)
            status = make_memory(state, layout, &plan->memory[i]);
    }
    return status;
}

/* ---- keeping --------------------------------------------------------------------------------- */

static void free_state(void *user)
{
    product_state *state = user;
    for (int i = 0; i < BUCKETS; i++)
        while (state->bucket[i]) {
            product_plan *plan = state->bucket[i];
            state->bucket[i] = plan->next;
            free_plan(plan);
        }
    if (state->stream)
        dnnl_stream_destroy(state->stream);
    if (state->engine)
        dnnl_engine_destroy(state->engine);
    free(state);
}

/* The backend's state, made at its first product. */
static pare_status state_of(pare_backend *be, const product_recipe *recipe, product_state **state)
{
    *state = be->state;
    if (*state)
        return PARE_OK;
    product_state *fresh = NULL;
    PARE_TRY(pare__calloc(1, sizeof *fresh, &fresh));
    dnnl_status_t status = dnnl_engine_create(&fresh->engine, dnnl_cpu, 0);
    if (!status)
        status = dnnl_stream_create(&fresh->stream, fresh->engine, dnnl_stream_default_flags);
    if (status) {
        free_state(fresh);
        return check(status, recipe, "starting for");
    }
    be->state = *state = fresh;
    be->free_state = free_state;
    return PARE_OK;
}

static uint64_t hash_of(const product_recipe *recipe)
{
    uint64_t words[sizeof *recipe / 8], hash = 0;
    memcpy(words, recipe, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        hash = (hash ^ words[i]) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 32;
    }
    return hash;
}

/* oneDNN works with as many threads as OpenMP would give the calling thread; it plans for their
 * number, so it must be the same when a product is made and when it runs. Returns what to put back.
 */
static int enter(const pare_backend *be)
{
    int before = omp_get_max_threads(), most = omp_get_thread_limit();
    omp_set_num_threads(be->threads < most ? be->threads : most);
    return before;
}

pare_status pare__product_plan(pare_backend *be, const product_recipe *recipe, product_plan **plan,
                               size_t *scratch)
{
    product_state *state = NULL;
    PARE_TRY(state_of(be, recipe, &state));
    product_plan **bucket = &state->bucket[hash_of(recipe) % BUCKETS];
    product_plan *p = *bucket;
    while (p && memcmp(&p->recipe, recipe, sizeof *recipe) != 0)
        p = p->next;
    if (!p) {
        PARE_TRY(pare__calloc(1, sizeof *p, &p));
        p->recipe = *recipe;
        making m = {0};
        int before = enter(be);
        dnnl_status_t status = fill_plan(state, &m, p);
        omp_set_num_threads(before);
        free_making(&m);
        if (status) {
            free_plan(p);
            return check(status, recipe, "preparing");
        }
        p->next = *bucket;
        *bucket = p;
        state->count++;
    }
    *plan = p;
    *scratch = 0;
    pare__room(scratch, p->own_bytes);
    pare__room(scratch, p->pad_bytes);
    return PARE_OK;
}

int64_t pare__product_plans(const pare_backend *be)
{
    return be->state ? ((const product_state *)be->state)->count : 0;
}

/* ---- running --------------------------------------------------------------------------------- */

static dnnl_status_t order_weights(const product_state *state, const product_plan *plan)
{
    bool grad = product_makes_weights(plan->recipe.kind);
    dnnl_memory_t given = plan->memory[PRODUCT_WEIGHTS], own = plan->memory[OWN];
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, grad ? own : given},
                              {DNNL_ARG_TO, grad ? given : own},
                              {DNNL_ARG_SCRATCHPAD, plan->memory[ORDER_PAD]}};
    return dnnl_primitive_execute(plan->order, state->stream, plan->memory[ORDER_PAD] ? 3 : 2,
                                  args);
}

static dnnl_status_t multiply(const product_state *state, const product_plan *plan)
{
    static const int names[PRODUCT_KINDS][PRODUCT_ROLES] = {
        {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS},
        {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST, DNNL_ARG_BIAS},
        {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST, DNNL_ARG_BIAS},
        {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS},
        {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST, DNNL_ARG_BIAS},
        {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST, DNNL_ARG_BIAS},
    };
    dnnl_exec_arg_t args[PRODUCT_ROLES + 1];
    int count = 0;
    for (int i = 0; i < PRODUCT_ROLES; i++) {
        dnnl_memory_t memory = plan->memory[i];
        if (i == PRODUCT_WEIGHTS && plan->order)
            memory = plan->memory[OWN];
        if (memory)
            args[count++] = (dnnl_exec_arg_t){names[plan->recipe.kind][i], memory};
    }
    if (plan->memory[PAD])
        args[count++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, plan->memory[PAD]};
    return dnnl_primitive_execute(plan->product, state->stream, count, args);
}

pare_status pare__product_run(pare_backend *be, product_plan *plan, void *const data[PRODUCT_ROLES],
                              void *scratch)
{
    const product_state *state = be->state;
    bool grad = product_makes_weights(plan->recipe.kind);
    size_t used = 0;
    uint8_t *own = (uint8_t *)scratch + pare__room(&used, plan->own_bytes);
    uint8_t *pad = (uint8_t *)scratch + pare__room(&used, plan->pad_bytes);
    void *const at[MEMORIES] = {data[0], data[1], data[2], data[3], own, pad, pad};
    dnnl_status_t status = dnnl_success;
    int before = enter(be);
    for (int i = 0; i < MEMORIES && !status; i++)
        if (plan->memory[i] && plan->at[i] != at[i]) {
            status = dnnl_memory_set_data_handle(plan->memory[i], at[i]);
            plan->at[i] = status ? NULL : at[i];
        }
    if (!status && plan->order && !grad)
        status = order_weights(state, plan);
    if (!status)
        status = multiply(state, plan);
    if (!status && plan->order && grad)
        status = order_weights(state, plan);
    if (!status)
        status = dnnl_stream_wait(state->stream);
    omp_set_num_threads(before);
    return check(status, &plan->recipe, "running");
}

/* ---- operands -------------------------------------------------------------------------------- */

product_view pare__product_view(pare_dtype dtype, int rank, const int64_t *dims)
{
    product_view view = {.rank = rank, .dtype = dtype};
    int64_t stride = 1;
    for (int i = rank; i-- > 0;) {
        view.dims[i] = dims[i];
        view.strides[i] = stride;
        stride *= dims[i];
    }
    return view;
}

size_t pare__room(size_t *used, size_t size)
{
    size_t at = *used;
    *used += (size + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

product_operand pare__operand(const pare_tensor *given, pare_dtype dtype, bool rounded,
                              size_t *used)
{
    product_operand o = {.given = *given, .work = *given};
    size_t count = (size_t)pare_tensor_count(given);
    o.work.dtype = dtype;
    o.rounded = rounded && given->dtype == PARE_F32 && dtype == PARE_F32;
    bool aligned = (uintptr_t)given->data % 16 == 0 || !pare__dnnl_wants_alignment();
    if (given->dtype != dtype || o.rounded || !aligned) {
        o.work.data = NULL;
        o.at = pare__room(used, count * (size_t)pare_dtype_bits(dtype) / 8);
    }
    if (o.rounded)
        o.rounded_at = pare__room(used, count * 2);
    return o;
}

void pare__operand_place(product_operand *operand, void *scratch)
{
    if (!operand->work.data)
        operand->work.data = (uint8_t *)scratch + operand->at;
}

pare_status pare__operand_read(pare_backend *be, const product_operand *operand, void *scratch)
{
    pare_tensor from = operand->given;
    if (from.data == operand->work.data)
        return PARE_OK;
    if (operand->rounded) {
        pare_tensor half = from;
        half.dtype = PARE_BF16;
        half.data = (uint8_t *)scratch + operand->rounded_at;
        PARE_TRY(be->ops->cast(be, &(pare_cast_args){.x = from, .y = half}));
        from = half;
    }
    return be->ops->cast(be, &(pare_cast_args){.x = from, .y = operand->work});
}

pare_status pare__operand_write(pare_backend *be, const product_operand *operand)
{
    if (operand->given.data == operand->work.data)
        return PARE_OK;
    return be->ops->cast(be, &(pare_cast_args){.x = operand->work, .y = operand->given});
}
