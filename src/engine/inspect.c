/* inspect.c - what a checkpoint holds; with stats its values are read too. */
#include "job.h"
#include "engine/report/report_impl.h"

#include "pare/ops.h"

#include <math.h>
#include <string.h>

typedef struct inspection {
    pare_store *store;
    const pare_choice *look;
    pare_stats_result *stats; /* [count] */
    pare__device device;
    pare__lane *lanes;
    int threads;
} inspection;

static int64_t rows_at_once(const pare_entry *e)
{
    bool whole = e->cols * pare_dtype_bits(e->dtype) % 8 != 0 || e->piece_rows > e->rows;
    return whole ? e->rows : e->piece_rows;
}

static bool wanted(const inspection *in, int64_t index)
{
    return pare__looks_at(in->look, pare_store_entry(in->store, index)->name);
}

static void join(pare_stats_result *sum, const pare_stats_result *d, int64_t first)
{
    bool none = sum->count - sum->nans - sum->infs == 0, other = d->count - d->nans - d->infs == 0;
    if (sum->first_bad < 0 && d->first_bad >= 0)
        sum->first_bad = first + d->first_bad;
    if (!other) {
        sum->min = none || d->min < sum->min ? d->min : sum->min;
        sum->max = none || d->max > sum->max ? d->max : sum->max;
        sum->absmax = d->absmax > sum->absmax ? d->absmax : sum->absmax;
    }
    sum->count += d->count;
    sum->zeros += d->zeros;
    sum->nans += d->nans;
    sum->infs += d->infs;
    sum->sum += d->sum;
    sum->sum_squares += d->sum_squares;
}

/* One tensor's values, a piece at a time. */
static pare_status read_entry(void *user, int worker, int64_t index)
{
    inspection *in = user;
    pare__lane *lane = &in->lanes[worker];
    const pare_entry *e = pare_store_entry(in->store, index);
    pare_stats_result part;
    in->stats[index].first_bad = -1;
    if (!wanted(in, index) || !pare_dtype_is_weight(e->dtype) || e->rows == 0 || e->cols == 0)
        return PARE_OK;
    int64_t step = rows_at_once(e),
            bytes = (step * e->cols * pare_dtype_bits(e->dtype) / 8 + 63) / 64 * 64;
    bool far = in->device.cuda;
    PARE_TRY(pare__lane_hold(
        lane, (pare__bytes){.host = bytes + pare_store_scratch(in->store, index, step),
                            .device = far ? bytes : 0}));
    char *read = lane->near.base, *values = far ? lane->far.base : read;
    for (int64_t r = 0; r < e->rows; r += step) {
        int64_t rows = e->rows - r < step ? e->rows - r : step, n = rows * e->cols;
        PARE_TRY(pare_store_read_values(in->store, lane->host, index, r, rows, read, read + bytes));
        PARE_TRY(
            pare_backend_upload(lane->device, values, read, n * pare_dtype_bits(e->dtype) / 8));
        PARE_TRY(pare_stats(lane->device, &(pare_stats_args){.x = pare_vector(values, e->dtype, n),
                                                             .result = &part}));
        join(&in->stats[index], &part, r * e->cols);
    }
    pare__lane_end(lane);
    return PARE_OK;
}

static double weight_of(void *user, int64_t index)
{
    const inspection *in = user;
    return (double)pare_store_entry(in->store, index)->stored_bytes + 1;
}

static pare_status read_all(inspection *in, const pare_run_options *options)
{
    pare_status status = PARE_OK;
    pare_sched *sched = NULL;
    int64_t count = pare_store_count(in->store);
    PARE_TRY_DONE(pare__calloc((size_t)count, sizeof *in->stats, &in->stats));
    PARE_TRY_DONE(pare__device_choose(options, &in->device));
    in->threads = pare__lane_count(&in->device, options->threads);
    PARE_TRY_DONE(pare_sched_create(&(pare_sched_options){.threads = in->threads,
                                                          .device = in->device.name,
                                                          .trace = options->trace,
                                                          .cancel = options->cancel,
                                                          .progress = options->progress},
                                    &sched));
    PARE_TRY_DONE(pare__calloc((size_t)in->threads, sizeof *in->lanes, &in->lanes));
    for (int i = 0; i < in->threads; i++)
        PARE_TRY_DONE(pare__lane_open(&in->device, &in->lanes[i]));
    PARE_TRY_DONE(pare_sched_run(sched, &(pare_job){.name = "inspect",
                                                    .items = count,
                                                    .stages = {{.name = "read", .run = read_entry}},
                                                    .user = in,
                                                    .weight = weight_of}));
done:
    for (int i = 0; in->lanes && i < in->threads; i++)
        pare__lane_close(&in->lanes[i]);
    free(in->lanes);
    pare_sched_free(&sched);
    return status;
}

/* ---- the report ------------------------------------------------------------------------------ */

static void add_stats(pare__json *o, const pare_stats_result *s)
{
    double finite = (double)(s->count - s->nans - s->infs);
    pare__json_set_int(o, "zeros", s->zeros);
    pare__json_set_real(o, "sparsity", s->count ? (double)s->zeros / (double)s->count : 0);
    pare__json_set_real(o, "min", s->min);
    pare__json_set_real(o, "max", s->max);
    pare__json_set_real(o, "mean", finite > 0 ? s->sum / finite : 0);
    pare__json_set_real(o, "rms", finite > 0 ? sqrt(s->sum_squares / finite) : 0);
    pare__json_set_int(o, "nans", s->nans);
    pare__json_set_int(o, "infs", s->infs);
}

static void add_tensor(pare__json *list, const inspection *in, int64_t index)
{
    static const char *const forms[] = {"dense", "quant", "sparse"};
    const pare_entry *e = pare_store_entry(in->store, index);
    const char *reason;
    char scheme[40];
    int64_t n = e->rows * e->cols;
    pare__json *o = pare__json_set_object(list, NULL);
    pare__json_set_string(o, "name", e->name);
    pare__json_set_string(o, "dtype", pare_dtype_name(e->dtype));
    pare__json *shape = pare__json_set_array(o, "shape");
    for (int d = 0; d < e->rank; d++)
        pare__json_set_int(shape, NULL, e->shape[d]);
    pare__json_set_string(
        o, "role", pare_role_name(pare_entry_role(pare_store_config(in->store), e, &reason)));
    pare__json_set_string(o, "reason", reason);
    pare__json_set_string(o, "form", forms[e->form]);
    pare__json_set_string(
        o, "scheme",
        e->form == PARE_FORM_QUANT ? pare_scheme_text(&e->scheme, scheme, sizeof scheme) : NULL);
    pare__json_set_real(o, "bits_per_weight", n ? 8.0 * (double)e->stored_bytes / (double)n : 0);
    pare__json_set_int(o, "bytes", e->stored_bytes);
    if (e->form == PARE_FORM_SPARSE && n)
        pare__json_set_real(o, "sparsity", 1 - (double)e->nonzeros / (double)n);
    if (in->stats && pare_dtype_is_weight(e->dtype)) {
        pare__json_set_real(o, "sparsity", n ? (double)in->stats[index].zeros / (double)n : 0);
        add_stats(pare__json_set_object(o, "stats"), &in->stats[index]);
    }
}

static void add_totals(pare__json *root, const inspection *in)
{
    int64_t count = 0, n = 0, bytes = 0, numbers = 0;
    pare_stats_result all = {0};
    for (int64_t i = 0; i < pare_store_count(in->store); i++) {
        const pare_entry *e = pare_store_entry(in->store, i);
        if (!wanted(in, i))
            continue;
        count++;
        n += e->rows * e->cols;
        bytes += e->stored_bytes;
        if (!in->stats)
            continue;
        numbers += in->stats[i].count;
        join(&all, &in->stats[i], 0);
    }
    pare__json *o = pare__json_set_object(root, "totals");
    pare__json_set_int(o, "tensors", count);
    pare__json_set_int(o, "parameters", n);
    pare__json_set_int(o, "bytes", bytes);
    pare__json_set_real(o, "bits_per_weight", n ? 8.0 * (double)bytes / (double)n : 0);
    if (!in->stats)
        return;
    pare__json_set_int(o, "zeros", all.zeros);
    pare__json_set_real(o, "sparsity", numbers ? (double)all.zeros / (double)numbers : 0);
    pare__json_set_int(o, "nans", all.nans);
    pare__json_set_int(o, "infs", all.infs);
}

static void fill(const inspection *in, pare__json *root)
{
    pare__json_set_string(root, "path", pare_store_path(in->store));
    pare__json_set_string(root, "format", pare_store_format(in->store));
    pare__json_set_string(root, "architecture",
                          pare_known_architecture(pare_store_config(in->store)));
    pare__json *list = pare__json_set_array(root, "tensors");
    for (int64_t i = 0; i < pare_store_count(in->store); i++)
        if (wanted(in, i))
            add_tensor(list, in, i);
    list = pare__json_set_array(root, "side_files");
    for (int64_t i = 0; i < pare_store_side_count(in->store); i++) {
        pare__json *o = pare__json_set_object(list, NULL);
        pare__json_set_string(o, "name", pare_store_side(in->store, i)->name);
        pare__json_set_int(o, "bytes", pare_store_side(in->store, i)->size);
    }
    pare__json *provenance = NULL;
    const char *text = pare_store_provenance(in->store);
    if (text && pare__json_parse(text, strlen(text), "provenance", &provenance) == PARE_OK)
        pare__json_set(root, "provenance", provenance);
    add_totals(root, in);
}

pare_status pare_inspect(const char *path, bool stats, const pare_run_options *options,
                         pare_report **report)
{
    pare_status status = PARE_OK;
    inspection in = {0};
    pare_report *r = NULL;
    PARE_REQUIRE(path && options && report, PARE_ERR_ARGUMENT, "inspect: NULL argument");
    in.look = &options->look;
    PARE_TRY_DONE(pare_store_open(path, &in.store));
    PARE_TRY_DONE(pare__check_look(in.look, in.store, NULL));
    if (options->device) /* a word that is none is refused, also where nothing is computed */
        PARE_TRY_DONE(pare__device_of(options->device, &in.device.cuda, &in.device.index));
    if (stats)
        PARE_TRY_DONE(read_all(&in, options));
    PARE_TRY_DONE(pare__report_new("inspect", &r));
    fill(&in, r->root);
    *report = r;
    r = NULL;
done:
    pare_report_free(&r);
    free(in.stats);
    pare_store_close(&in.store);
    return status;
}
