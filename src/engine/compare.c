/* compare.c - two checkpoints value by value: decoded to f32, chunk by chunk, sums in the order of
 * chunks. */
#include "job.h"
#include "engine/report/report_impl.h"

#include "pare/ops.h"

#include <math.h>
#include <string.h>

/* One tensor that both have with one shape. */
typedef struct pair {
    int64_t a, b; /* indices */
    pare_diff_result sum;
} pair;

typedef struct comparison {
    pare_store *a, *b;
    const pare_run_options *options;
    pair *pairs;
    int64_t count;
    int64_t *item_pair, *item_row; /* [items] */
    int64_t items;
    pare__device *device;
    int64_t device_budget; /* for items in flight, 0: what lanes leave of the device's memory */
    pare__lane *lanes;     /* backends and arenas */
    int threads;
    pare_sched *sched;
    pare_diff_result *part; /* [threads] */
} comparison;

static int64_t chunk_rows(const pare_entry *e)
{
    return e->cols * pare_dtype_bits(e->dtype) % 8 ? e->rows : e->piece_rows;
}

static int64_t rows_of(const comparison *c, int64_t item)
{
    const pare_entry *e = pare_store_entry(c->a, c->pairs[c->item_pair[item]].a);
    int64_t rest = e->rows - c->item_row[item], rows = chunk_rows(e);
    return rest < rows ? rest : rows;
}

/* Where an item's arrays lie in the arenas: 64-byte steps. On the CPU both values are one memory.
 */
typedef struct layout {
    int64_t bytes[2];  /* of a's and b's values, in their dtypes */
    int64_t host[2];   /* those as read, */
    int64_t scratch;   /* and what reading needs */
    int64_t device[2]; /* the same where they are compared, */
    int64_t f32[2];    /* and in f32 */
    pare__bytes need;
} layout;

static int64_t take(int64_t *used, int64_t bytes)
{
    int64_t at = *used;
    *used += (bytes + 63) / 64 * 64;
    return at;
}

static bool are_numbers(const pare_entry *a, const pare_entry *b)
{
    return pare_dtype_is_weight(a->dtype) && pare_dtype_is_weight(b->dtype);
}

static layout lay_out(const comparison *c, int64_t item)
{
    const pair *p = &c->pairs[c->item_pair[item]];
    const pare_entry *a = pare_store_entry(c->a, p->a), *b = pare_store_entry(c->b, p->b);
    int64_t rows = rows_of(c, item), n = rows * a->cols;
    int64_t scratch[2] = {pare_store_scratch(c->a, p->a, rows),
                          pare_store_scratch(c->b, p->b, rows)};
    bool far = c->device->cuda;
    layout l = {.bytes = {(n * pare_dtype_bits(a->dtype) + 7) / 8,
                          (n * pare_dtype_bits(b->dtype) + 7) / 8}};
    int64_t *work = far ? &l.need.device : &l.need.host;
    for (int i = 0; i < 2; i++) {
        l.host[i] = take(&l.need.host, l.bytes[i]);
        l.device[i] = far && are_numbers(a, b) ? take(work, l.bytes[i]) : l.host[i];
        l.f32[i] = are_numbers(a, b) ? take(work, n * 4) : 0;
    }
    l.scratch = take(&l.need.host, scratch[0] > scratch[1] ? scratch[0] : scratch[1]);
    return l;
}

static int64_t bytes_of(void *user, int64_t item)
{
    return lay_out(user, item).need.host;
}

static int64_t device_bytes_of(void *user, int64_t item)
{
    return lay_out(user, item).need.device;
}

static bool wanted(const comparison *c, const pare_store *store, int64_t index)
{
    return pare__looks_at(&c->options->look, pare_store_entry(store, index)->name);
}

/* What is no f32, f16 or bf16 is equal or not: a difference counts as infinite. */
static pare_diff_result not_numbers(bool same, int64_t count)
{
    return (pare_diff_result){
        .count = count, .differing = same ? 0 : count, .max_abs = same ? 0 : INFINITY};
}

/* Both sides as f32 where they are compared. */
static pare_status to_f32(pare__lane *lane, const layout *l, const pare_entry *const sides[2],
                          pare_tensor out[2], int64_t n)
{
    char *host = lane->near.base;
    char *work = pare_backend_is_host(lane->device) ? host : lane->far.base;
    for (int i = 0; i < 2; i++) {
        void *values = work + l->device[i];
        out[i] = pare_vector(work + l->f32[i], PARE_F32, n);
        PARE_TRY(pare_backend_upload(lane->device, values, host + l->host[i], l->bytes[i]));
        PARE_TRY(
            pare_cast(lane->device, &(pare_cast_args){.x = pare_vector(values, sides[i]->dtype, n),
                                                      .y = out[i]}));
    }
    return PARE_OK;
}

static pare_status diff_item(void *user, int worker, int64_t item)
{
    comparison *c = user;
    const pair *p = &c->pairs[c->item_pair[item]];
    const pare_entry *sides[2] = {pare_store_entry(c->a, p->a), pare_store_entry(c->b, p->b)};
    pare__lane *lane = &c->lanes[worker];
    pare_diff_result *part = &c->part[worker];
    int64_t rows = rows_of(c, item), first = c->item_row[item], n = rows * sides[0]->cols;
    layout l = lay_out(c, item);
    PARE_TRY(pare__lane_hold(lane, l.need));
    char *m = lane->near.base;
    PARE_TRY(
        pare_store_read_values(c->a, lane->host, p->a, first, rows, m + l.host[0], m + l.scratch));
    PARE_TRY(
        pare_store_read_values(c->b, lane->host, p->b, first, rows, m + l.host[1], m + l.scratch));
    if (!are_numbers(sides[0], sides[1])) {
        bool same = sides[0]->dtype == sides[1]->dtype &&
                    memcmp(m + l.host[0], m + l.host[1], (size_t)l.bytes[0]) == 0;
        *part = not_numbers(same, n);
    } else {
        pare_tensor x[2];
        PARE_TRY(to_f32(lane, &l, sides, x, n));
        PARE_TRY(pare_diff(lane->device, &(pare_diff_args){.a = x[0], .b = x[1], .result = part}));
    }
    pare__lane_end(lane);
    return PARE_OK;
}

static void join(pare_diff_result *sum, const pare_diff_result *d)
{
    sum->count += d->count;
    sum->differing += d->differing;
    sum->max_abs = d->max_abs > sum->max_abs ? d->max_abs : sum->max_abs;
    sum->sum_aa += d->sum_aa;
    sum->sum_bb += d->sum_bb;
    sum->sum_ab += d->sum_ab;
    sum->sum_dd += d->sum_dd;
}

static pare_status join_item(void *user, int worker, int64_t item)
{
    comparison *c = user;
    pair *p = &c->pairs[c->item_pair[item]];
    join(&p->sum, &c->part[worker]);
    return PARE_OK;
}

/* ---- set-up ---------------------------------------------------------------------------------- */

static bool same_shape(const pare_entry *a, const pare_entry *b)
{
    if (a->rank != b->rank)
        return false;
    return memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0;
}

static pare_status make_items(comparison *c)
{
    for (int64_t i = 0; i < c->count; i++) {
        const pare_entry *e = pare_store_entry(c->a, c->pairs[i].a);
        c->items += e->rows && e->cols ? (e->rows + chunk_rows(e) - 1) / chunk_rows(e) : 0;
    }
    PARE_TRY(pare__calloc((size_t)c->items, sizeof *c->item_pair, &c->item_pair));
    PARE_TRY(pare__calloc((size_t)c->items, sizeof *c->item_row, &c->item_row));
    int64_t at = 0;
    for (int64_t i = 0; i < c->count; i++) {
        const pare_entry *e = pare_store_entry(c->a, c->pairs[i].a);
        for (int64_t r = 0; e->cols && r < e->rows; r += chunk_rows(e)) {
            c->item_pair[at] = i;
            c->item_row[at++] = r;
        }
    }
    return PARE_OK;
}

static pare_status set_up(comparison *c)
{
    int64_t n = pare_store_count(c->a);
    PARE_TRY(pare__calloc((size_t)n, sizeof *c->pairs, &c->pairs));
    for (int64_t i = 0; i < n; i++) {
        int64_t other = pare_store_find(c->b, pare_store_entry(c->a, i)->name);
        if (other >= 0 && wanted(c, c->a, i) &&
            same_shape(pare_store_entry(c->a, i), pare_store_entry(c->b, other)))
            c->pairs[c->count++] = (pair){.a = i, .b = other};
    }
    PARE_TRY(make_items(c));
    c->threads = pare__lane_count(c->device, c->options->threads);
    int64_t room = c->device->memory - c->threads * PARE__LANE_ON_DEVICE;
    if (c->device_budget == 0)
        c->device_budget = room > 0 ? room : 1;
    PARE_TRY(pare_sched_create(&(pare_sched_options){.threads = c->threads,
                                                     .budget = c->options->memory,
                                                     .device_budget = c->device_budget,
                                                     .device = c->device->name,
                                                     .trace = c->options->trace,
                                                     .cancel = c->options->cancel,
                                                     .progress = c->options->progress},
                               &c->sched));
    PARE_TRY(pare__calloc((size_t)c->threads, sizeof *c->lanes, &c->lanes));
    PARE_TRY(pare__calloc((size_t)c->threads, sizeof *c->part, &c->part));
    for (int i = 0; i < c->threads; i++)
        PARE_TRY(pare__lane_open(c->device, &c->lanes[i]));
    return PARE_OK;
}

static pare_status run(comparison *c)
{
    PARE_TRY(set_up(c));
    PARE_TRY(pare_sched_run(
        c->sched, &(pare_job){.name = "compare",
                              .items = c->items,
                              .stages = {{.name = "compare", .run = diff_item},
                                         {.name = "join", .run = join_item, .in_order = true}},
                              .user = c,
                              .bytes = bytes_of,
                              .device_bytes = device_bytes_of}));
    return PARE_OK;
}

static void tear_down(comparison *c)
{
    for (int i = 0; c->lanes && i < c->threads; i++)
        pare__lane_close(&c->lanes[i]);
    free(c->lanes);
    free(c->part);
    pare_sched_free(&c->sched);
    free(c->item_row);
    free(c->item_pair);
    free(c->pairs);
}

/* ---- the report ------------------------------------------------------------------------------ */

static void add_measures(pare__json *o, const pare_diff_result *d)
{
    bool finite = isfinite(d->max_abs); /* else the sums leave out what differs most */
    pare__json_set_real(o, "max_abs", d->max_abs);
    if (!finite)
        pare__json_set_real(o, "rms", INFINITY);
    else
        pare__json_set_real(o, "rms", d->count ? sqrt(d->sum_dd / (double)d->count) : 0);
    if (finite && d->sum_dd > 0 && d->sum_aa > 0)
        pare__json_set_real(o, "sqnr_db", 10 * log10(d->sum_aa / d->sum_dd));
    if (finite && d->sum_aa > 0 && d->sum_bb > 0)
        pare__json_set_real(o, "cosine", d->sum_ab / sqrt(d->sum_aa) / sqrt(d->sum_bb));
    pare__json_set_int(o, "differing", d->differing);
    pare__json_set_int(o, "count", d->count);
}

/* Names that only one side has; how many. */
static int64_t add_only(pare__json *list, const comparison *c, const pare_store *have,
                        const pare_store *lack)
{
    int64_t n = 0;
    for (int64_t i = 0; i < pare_store_count(have); i++)
        if (wanted(c, have, i) && pare_store_find(lack, pare_store_entry(have, i)->name) < 0) {
            pare__json_set_string(list, NULL, pare_store_entry(have, i)->name);
            n++;
        }
    return n;
}

static int64_t add_shapes(pare__json *list, const comparison *c)
{
    int64_t n = 0;
    for (int64_t i = 0; i < pare_store_count(c->a); i++) {
        const pare_entry *a = pare_store_entry(c->a, i);
        int64_t other = pare_store_find(c->b, a->name);
        if (other < 0 || !wanted(c, c->a, i) || same_shape(a, pare_store_entry(c->b, other)))
            continue;
        const pare_entry *b = pare_store_entry(c->b, other);
        pare__json *o = pare__json_set_object(list, NULL);
        pare__json_set_string(o, "name", a->name);
        pare__json *sa = pare__json_set_array(o, "a"), *sb = pare__json_set_array(o, "b");
        for (int d = 0; d < a->rank; d++)
            pare__json_set_int(sa, NULL, a->shape[d]);
        for (int d = 0; d < b->rank; d++)
            pare__json_set_int(sb, NULL, b->shape[d]);
        n++;
    }
    return n;
}

static void fill(const comparison *c, double tolerance, pare__json *root, bool *differs)
{
    pare_diff_result all = {0};
    pare__json_set_string(root, "a", pare_store_path(c->a));
    pare__json_set_string(root, "b", pare_store_path(c->b));
    if (tolerance >= 0)
        pare__json_set_real(root, "tolerance", tolerance);
    for (int64_t i = 0; i < c->count; i++)
        join(&all, &c->pairs[i].sum);
    int64_t other = add_only(pare__json_set_array(root, "only_a"), c, c->a, c->b) +
                    add_only(pare__json_set_array(root, "only_b"), c, c->b, c->a) +
                    add_shapes(pare__json_set_array(root, "shapes"), c);
    *differs = other > 0 || (tolerance >= 0 && all.max_abs > tolerance);
    pare__json_set_bool(root, "equal", other == 0 && all.differing == 0);
    pare__json_set_bool(root, "differs", *differs);
    add_measures(pare__json_set_object(root, "all"), &all);
    pare__json *list = pare__json_set_array(root, "tensors");
    for (int64_t i = 0; i < c->count; i++) {
        pare__json *o = pare__json_set_object(list, NULL);
        pare__json_set_string(o, "name", pare_store_entry(c->a, c->pairs[i].a)->name);
        add_measures(o, &c->pairs[i].sum);
    }
}

pare_status pare_compare(const char *a, const char *b, double tolerance,
                         const pare_run_options *options, pare_report **report, bool *differs)
{
    pare_status status = PARE_OK;
    pare__device device = {0};
    comparison c = {.options = options, .device = &device};
    pare_report *r = NULL;
    PARE_REQUIRE(a && b && options && report && differs, PARE_ERR_ARGUMENT,
                 "compare: NULL argument");
    PARE_TRY_DONE(pare__device_choose(options, &device));
    PARE_TRY_DONE(pare_store_open(a, &c.a));
    PARE_TRY_DONE(pare_store_open(b, &c.b));
    PARE_TRY_DONE(pare__check_look(&options->look, c.a, c.b));
    PARE_TRY_DONE(run(&c));
    PARE_TRY_DONE(pare__report_new("compare", &r));
    pare__json_set_string(r->root, "device", device.name);
    fill(&c, tolerance, r->root, differs);
    *report = r;
    r = NULL;
done:
    pare_report_free(&r);
    tear_down(&c);
    pare_store_close(&c.b);
    pare_store_close(&c.a);
    return status;
}

pare__bytes pare__verify_bytes(const pare__job *job, const pare__task *task)
{
    const pare_entry *e = pare_store_entry(job->store, task->source);
    int64_t rows = chunk_rows(e) < e->rows ? chunk_rows(e) : e->rows, n = rows * e->cols;
    int64_t values = (n * pare_dtype_bits(e->dtype) + 7) / 8;
    /* The output cannot be asked for its scratch yet: at most as the source's, or as sparse. */
    int64_t sparse = values + rows * ((e->cols + 7) / 8 + 8);
    int64_t work = 2 * n * 4;
    pare__bytes need = {.host = 2 * values + work + 4096 + sparse +
                                pare_store_scratch(job->store, task->source, rows)};
    if (job->device.cuda) {
        need.host -= work;
        need.device = 2 * values + work + 4096;
    }
    return need;
}

pare_status pare__verify_conversion(pare__job *job)
{
    pare_status status = PARE_OK;
    pare_run_options options = *job->options;
    comparison c = {.a = job->store,
                    .options = &options,
                    .device = &job->device,
                    .device_budget = job->budget.device};
    options.threads = job->threads;
    options.memory = job->budget.host;
    pare__lanes_free(job); /* their memory is the comparison's now */
    PARE_TRY_DONE(pare_store_open(job->recipe->output, &c.b));
    PARE_TRY_DONE(run(&c));
    for (int64_t i = 0; i < job->count; i++) {
        bool same = false;
        for (int64_t p = 0; p < c.count && !same; p++)
            same = c.pairs[p].a == i && c.pairs[p].sum.differing == 0;
        if (!same)
            PARE_TRY_DONE(pare__error(
                PARE_ERR_INTERNAL, __func__,
                "%s: %s reads back with other values than its source: please report this",
                job->recipe->output, job->tasks[i].out.name));
    }
done:
    tear_down(&c);
    pare_store_close(&c.b);
    return status;
}
