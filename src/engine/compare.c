/* compare.c - two checkpoints value by value: decoded to f32, chunk by chunk, sums in the order of
 * chunks. */
#include "job.h"
#include "report_impl.h"

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
    pare__lane *lanes; /* be, arena, size */
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

/* Values of both (in their dtypes), both in f32, scratch: 64-byte steps. */
static int64_t lay_out(const comparison *c, int64_t item, int64_t offset[6])
{
    const pair *p = &c->pairs[c->item_pair[item]];
    const pare_entry *a = pare_store_entry(c->a, p->a), *b = pare_store_entry(c->b, p->b);
    int64_t rows = rows_of(c, item), n = rows * a->cols;
    int64_t size[5] = {(n * pare_dtype_bits(a->dtype) + 7) / 8,
                       (n * pare_dtype_bits(b->dtype) + 7) / 8, n * 4, n * 4,
                       pare_store_scratch(c->a, p->a, rows)};
    int64_t scratch = pare_store_scratch(c->b, p->b, rows);
    size[4] = size[4] > scratch ? size[4] : scratch;
    offset[0] = 0;
    for (int i = 0; i < 5; i++)
        offset[i + 1] = offset[i] + (size[i] + 63) / 64 * 64;
    return offset[5];
}

static int64_t bytes_of(void *user, int64_t item)
{
    int64_t offset[6];
    return lay_out(user, item, offset);
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

static pare_status diff_item(void *user, int worker, int64_t item)
{
    comparison *c = user;
    const pair *p = &c->pairs[c->item_pair[item]];
    const pare_entry *a = pare_store_entry(c->a, p->a), *b = pare_store_entry(c->b, p->b);
    pare__lane *lane = &c->lanes[worker];
    int64_t at[6], rows = rows_of(c, item), first = c->item_row[item], n = rows * a->cols;
    int64_t need = lay_out(c, item, at);
    if ((size_t)need > lane->size) {
        pare__pages_free(lane->arena, lane->size);
        lane->arena = NULL;
        lane->size = 0;
        PARE_TRY(pare__pages((size_t)need, &lane->arena));
        lane->size = (size_t)need;
    }
    char *m = lane->arena;
    PARE_TRY(pare_store_read_values(c->a, lane->be, p->a, first, rows, m + at[0], m + at[4]));
    PARE_TRY(pare_store_read_values(c->b, lane->be, p->b, first, rows, m + at[1], m + at[4]));
    if (!pare_dtype_is_weight(a->dtype) || !pare_dtype_is_weight(b->dtype)) {
        bool same =
            a->dtype == b->dtype &&
            memcmp(m + at[0], m + at[1], (size_t)((n * pare_dtype_bits(a->dtype) + 7) / 8)) == 0;
        c->part[worker] = not_numbers(same, n);
    } else {
        pare_tensor x = pare_vector(m + at[2], PARE_F32, n),
                    y = pare_vector(m + at[3], PARE_F32, n);
        PARE_TRY(pare_cast(lane->be,
                           &(pare_cast_args){.x = pare_vector(m + at[0], a->dtype, n), .y = x}));
        PARE_TRY(pare_cast(lane->be,
                           &(pare_cast_args){.x = pare_vector(m + at[1], b->dtype, n), .y = y}));
        PARE_TRY(
            pare_diff(lane->be, &(pare_diff_args){.a = x, .b = y, .result = &c->part[worker]}));
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
    PARE_TRY(pare_sched_create(&(pare_sched_options){.threads = c->options->threads,
                                                     .budget = c->options->memory,
                                                     .trace = c->options->trace,
                                                     .cancel = c->options->cancel,
                                                     .progress = c->options->progress},
                               &c->sched));
    c->threads = pare_sched_threads(c->sched);
    PARE_TRY(pare__calloc((size_t)c->threads, sizeof *c->lanes, &c->lanes));
    PARE_TRY(pare__calloc((size_t)c->threads, sizeof *c->part, &c->part));
    for (int i = 0; i < c->threads; i++)
        PARE_TRY(pare_cpu_create(&(pare_cpu_options){.threads = 1, .isa = c->options->isa},
                                 &c->lanes[i].be));
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
                              .bytes = bytes_of}));
    return PARE_OK;
}

static void tear_down(comparison *c)
{
    for (int i = 0; c->lanes && i < c->threads; i++) {
        pare__pages_free(c->lanes[i].arena, c->lanes[i].size);
        pare_backend_free(&c->lanes[i].be);
    }
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
    comparison c = {.options = options};
    pare_report *r = NULL;
    PARE_REQUIRE(a && b && options && report && differs, PARE_ERR_ARGUMENT,
                 "compare: NULL argument");
    PARE_TRY_DONE(pare_store_open(a, &c.a));
    PARE_TRY_DONE(pare_store_open(b, &c.b));
    PARE_TRY_DONE(pare__check_look(&options->look, c.a, c.b));
    PARE_TRY_DONE(run(&c));
    PARE_TRY_DONE(pare__report_new("compare", &r));
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

int64_t pare__verify_bytes(const pare__job *job, const pare__task *task)
{
    const pare_entry *e = pare_store_entry(job->store, task->source);
    int64_t rows = chunk_rows(e) < e->rows ? chunk_rows(e) : e->rows, n = rows * e->cols;
    int64_t values = (n * pare_dtype_bits(e->dtype) + 7) / 8;
    /* The output cannot be asked for its scratch yet: at most as the source's, or as sparse. */
    int64_t sparse = values + rows * ((e->cols + 7) / 8 + 8);
    return 2 * values + 2 * n * 4 + pare_store_scratch(job->store, task->source, rows) + sparse +
           4096;
}

pare_status pare__verify_conversion(pare__job *job)
{
    pare_status status = PARE_OK;
    pare_run_options options = *job->options;
    comparison c = {.a = job->store, .options = &options};
    options.threads = job->threads;
    options.memory = job->budget;
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
