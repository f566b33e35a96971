/* grid_measure.c - what a checkpoint is once a point's run has made it: how many of its weights are
 * zero, what a forward takes in FLOPs and in time, how large it is.
 *
 * Latency is that of pare's own forward in F32, which decodes all weights: fewer bits and zeros
 * that are scattered save no time there, a smaller model does. */
#include "grid_impl.h"

#include "engine/learn.h"

#include "base/clock.h"

#include <string.h>
#include <unistd.h>

#define PIECE 65536         /* values looked at at once */
#define WARM_UPS 2          /* forwards before the first that counts */
#define LONGEST_LATENCY 20. /* seconds, after which no more forwards begin */

typedef struct bed {
    const pare_grid *sweep;
    const pare_recipe *recipe;
    const pare_run_options *options;
    pare_model_choice choice;
    pare__bench bench;
    pare__subject subject;
    pare_data_options data;
    pare_dataset *dataset; /* NULL: nothing to run on */
    pare_batch *batch;
    pare_model_shape shape;
    double *zeros; /* [parameters] share of zeros, -1: not a weight */
} bed;

/* ---- opening --------------------------------------------------------------------------------- */

/* A checkpoint's own config says what it is; the recipe's arch where it has none. False if this
 * version cannot run such a model. */
static pare_status open_subject(bed *b, const char *checkpoint, bool *runs)
{
    b->choice = (pare_model_choice){.checkpoint = checkpoint};
    pare_status status = pare__subject_open(&b->choice, &b->subject);
    *runs = status == PARE_OK;
    if (*runs)
        return PARE_OK;
    b->choice.arch = b->recipe->arch;
    if (b->choice.arch)
        status = pare__subject_open(&b->choice, &b->subject);
    *runs = status == PARE_OK;
    if (status == PARE_ERR_ARGUMENT || status == PARE_ERR_UNSUPPORTED || status == PARE_ERR_DAMAGED)
        return PARE_OK;
    return status;
}

static pare_status open_data(bed *b)
{
    const pare_eval_step *e = pare__last_eval(b->recipe);
    if (!e)
        return PARE_OK;
    const pare_data_options asked = {.path = e->data,
                                     .labels = e->labels,
                                     .seq_len = e->seq_len,
                                     .pad_id = -2,
                                     .bos_id = -1,
                                     .skip = e->skip,
                                     .samples = e->samples};
    b->data = pare__complete_data(&asked, b->subject.model);
    PARE_TRY(pare_dataset_open(&b->data, &b->dataset));
    int64_t batch = pare__default_batch(b->sweep->batch, b->subject.model, b->dataset);
    int64_t count = pare_dataset_count(b->dataset);
    b->shape.batch = batch < count ? batch : count;
    b->shape.length = pare_dataset_length(b->dataset);
    return PARE_OK;
}

/* ---- zeros ----------------------------------------------------------------------------------- */

static bool is_weight(const pare_param *p)
{
    return p->role == PARE_ROLE_LINEAR || p->role == PARE_ROLE_CONV;
}

static pare_status count_zeros(const pare_model *model, int64_t param, float *piece, int64_t *zeros)
{
    int rank;
    int64_t shape[PARE_MAX_RANK], rows, cols = 1;
    pare_model_stored_shape(model, param, &rank, shape);
    rows = rank > 0 ? shape[0] : 1;
    for (int i = 1; i < rank; i++)
        cols *= shape[i];
    int64_t each = cols < PIECE ? PIECE / (cols ? cols : 1) : 1;
    *zeros = 0;
    for (int64_t r = 0, n; r < rows; r += n) {
        n = rows - r < each ? rows - r : each;
        PARE_TRY(pare_model_read_rows(model, param, r, n, piece));
        for (int64_t i = 0; i < n * cols; i++)
            *zeros += piece[i] == 0;
    }
    return PARE_OK;
}

static int64_t longest_row(pare_model *model)
{
    int64_t longest = PIECE, shape[PARE_MAX_RANK];
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        int rank;
        int64_t cols = 1;
        pare_model_stored_shape(model, i, &rank, shape);
        for (int k = 1; k < rank; k++)
            cols *= shape[k];
        longest = cols > longest ? cols : longest;
    }
    return longest;
}

/* Zeros of every weight, and of all of them together. */
static pare_status add_zeros(bed *b, pare__json *row)
{
    pare_status status = PARE_OK;
    pare_model *model = b->subject.model;
    int64_t weights = 0, zeros = 0, parameters = 0;
    float *piece = NULL;
    PARE_TRY_DONE(pare__calloc((size_t)longest_row(model), sizeof *piece, &piece));
    pare__json *layers = pare__json_set_array(row, "layers");
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        const pare_param *p = pare_model_param(model, i);
        int64_t count = pare_tensor_count(&p->value), none = 0;
        parameters += count;
        b->zeros[i] = -1;
        if (!count || (!is_weight(p) && p->role != PARE_ROLE_HEAD))
            continue;
        PARE_TRY_DONE(count_zeros(model, i, piece, &none));
        b->zeros[i] = (double)none / (double)count;
        if (!is_weight(p))
            continue;
        weights += count;
        zeros += none;
        pare__json *layer = pare__json_set_object(layers, NULL);
        pare__json_set_string(layer, "name", p->name);
        pare__json_set_int(layer, "weights", count);
        pare__json_set_real(layer, "sparsity", b->zeros[i]);
    }
    pare__json_set_int(row, "parameters", parameters);
    pare__json_set_int(row, "weights", weights);
    pare__json_set_int(row, "zeros", zeros);
    pare__json_set_real(row, "sparsity", weights ? (double)zeros / (double)weights : 0);
done:
    free(piece);
    return status;
}

/* ---- work ------------------------------------------------------------------------------------ */

/* FLOPs of a forward of one sample: all, and without products with a weight of 0. */
static pare_status add_flops(bed *b, pare__json *row)
{
    pare_model *model = b->subject.model;
    pare_model_memory memory;
    double nodes = 0, left = 0;
    PARE_TRY(pare_model_predict(model, &b->shape, &memory));
    for (int64_t n = 0; n < pare_model_node_count(model); n++) {
        pare_node_view node = pare_model_node(model, n);
        double zeros = node.param_count ? b->zeros[node.param[0]] : 0;
        nodes += node.flops;
        left += node.flops * (1 - (zeros > 0 ? zeros : 0));
    }
    pare_param *bias = NULL, *head = NULL;
    if (pare_model_facts_of(model)->output == PARE_OUTPUT_TOKENS)
        head = pare_model_head(model, &bias);
    double zeros = 0;
    for (int64_t i = 0; head && i < pare_model_param_count(model); i++)
        if (pare_model_param(model, i) == head && b->zeros[i] > 0)
            zeros = b->zeros[i];
    left += (memory.flops - nodes) * (1 - zeros);
    pare__json_set_real(row, "flops", memory.flops / (double)b->shape.batch);
    pare__json_set_real(row, "flops_left", left / (double)b->shape.batch);
    return PARE_OK;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static pare_status forward(bed *b, double *seconds)
{
    double begin = pare__now();
    PARE_REQUIRE(!b->options->cancel || !*b->options->cancel, PARE_ERR_INTERRUPTED, "interrupted");
    PARE_TRY(pare_model_forward(b->subject.model, b->batch, false, NULL));
    PARE_TRY(pare_backend_sync(b->bench.be));
    *seconds = pare__now() - begin;
    return PARE_OK;
}

/* The median of forwards of one batch, the output layer of decoders left out. */
static pare_status add_latency(bed *b, pare__json *row)
{
    pare_status status = PARE_OK;
    double *seconds = NULL, begin = pare__now(), unused;
    int64_t done = 0;
    PARE_TRY_DONE(pare_batch_create(b->dataset, b->shape.batch, &b->batch));
    PARE_TRY_DONE(pare_dataset_fill(b->dataset, 0, b->shape.batch, b->batch));
    PARE_TRY_DONE(pare__calloc((size_t)b->sweep->repeats, sizeof *seconds, &seconds));
    for (int i = 0; i < WARM_UPS; i++)
        PARE_TRY_DONE(forward(b, &unused));
    while (done < b->sweep->repeats && (!done || pare__now() - begin < LONGEST_LATENCY))
        PARE_TRY_DONE(forward(b, &seconds[done++]));
    qsort(seconds, (size_t)done, sizeof *seconds, by_size);
    double median = (seconds[done / 2] + seconds[(done - 1) / 2]) / 2;
    pare__json *o = pare__json_set_object(row, "latency");
    pare__json_set_real(o, "seconds", median);
    pare__json_set_int(o, "batch", b->shape.batch);
    if (b->shape.length)
        pare__json_set_int(o, "length", b->shape.length);
    pare__json_set_int(o, "forwards", done);
    pare__json_set_int(o, "threads", b->bench.threads);
    pare__json_set_string(o, "device", b->bench.device.name);
done:
    free(seconds);
    return status;
}

static pare_status measure(bed *b, pare__json *row)
{
    pare_model *model = b->subject.model;
    const pare_model_facts *facts = pare_model_facts_of(model);
    b->shape = (pare_model_shape){.batch = 1, .compute = PARE_F32};
    PARE_TRY(open_data(b));
    if (facts->tokens && !b->dataset)
        b->shape.length = 1; /* for the values alone */
    PARE_TRY(pare__bench_open(b->options, &b->bench));
    PARE_TRY(pare_model_prepare(model, b->bench.be, &b->shape));
    PARE_TRY(pare_model_load(model, b->subject.store, false));
    PARE_TRY(pare__calloc((size_t)pare_model_param_count(model), sizeof *b->zeros, &b->zeros));
    PARE_TRY(add_zeros(b, row));
    if (b->dataset || !facts->tokens)
        PARE_TRY(add_flops(b, row));
    if (b->dataset && b->sweep->repeats)
        PARE_TRY(add_latency(b, row));
    return PARE_OK;
}

static pare_status add_size(void *user, const char *name, int64_t size)
{
    (void)name;
    *(int64_t *)user += size;
    return PARE_OK;
}

static pare_status add_bytes(const char *path, pare__json *row)
{
    int64_t bytes = 0;
    int fd;
    if (pare__is_directory(path)) {
        PARE_TRY(pare__walk(path, add_size, &bytes));
    } else {
        PARE_TRY(pare__file_open(path, &fd, &bytes));
        close(fd);
    }
    pare__json_set_int(row, "bytes", bytes);
    return PARE_OK;
}

pare_status pare__grid_measure(const pare_grid *sweep, const pare_recipe *recipe,
                               const char *checkpoint, const pare_run_options *options,
                               pare__json *row)
{
    pare_status status = PARE_OK;
    bed b = {.sweep = sweep, .recipe = recipe, .options = options};
    bool runs;
    PARE_TRY_DONE(add_bytes(checkpoint, row));
    PARE_TRY_DONE(open_subject(&b, checkpoint, &runs));
    if (runs)
        PARE_TRY_DONE(measure(&b, row));
done:
    pare_batch_free(&b.batch);
    pare_dataset_close(&b.dataset);
    pare__subject_close(&b.subject);
    pare__bench_close(&b.bench);
    free(b.zeros);
    return status;
}
