/* ranks.c - a training that several ranks do together: each has its part of every batch, gradients
 * are summed over all, and from then on each does the same.
 *
 * Gradients go in buckets, neighbours in the arena, in the order in which backward completes them:
 * a bucket's sum begins when its last gradient is whole, and goes on while backward does (Li et al.
 * 2020). Losses and counts, and the running statistics of batch norms, go together in one gather;
 * each rank adds them by rank in double precision. All of that is before anything moves, so that a
 * rank that fails leaves the others at their last whole step.
 *
 * N ranks give what one gives but for rounding, with three exceptions. Batch norms normalise by a
 * rank's own part of the batch, and running statistics become the mean of the ranks' (which are
 * exactly as they were where none has changed). Dropout draws by step and rank. Losses that compare
 * the samples of a batch compare those of a rank.
 */
#include "train_impl.h"

#include "pare/ops.h"

enum { BUCKET_BYTES = 25 << 20, BUCKETS = 32 };

typedef struct bucket {
    float *data; /* of the arena of gradients */
    int64_t count;
    int64_t params, left; /* gradients in it; of these, not yet whole */
} bucket;

/* What is gathered of a rank each step; its buffers behind it, F32. */
typedef struct account {
    double loss, terms[PARE_TRAIN_TERMS], count;
} account;

struct pare__team {
    int rank, size;
    int pending; /* sums begun */
    bucket buckets[BUCKETS];
    int bucket_count;
    int *bucket_of;               /* [parameters]; −1: no gradient */
    float *buffers;               /* [t->buffer_count] the backend's */
    account *own, *all;           /* one; [size]; of `bytes` each, the host's */
    int64_t bytes, buffers_bytes; /* of an account with buffers; of the buffers alone */
};

static int64_t account_bytes(int64_t buffers)
{
    return (int64_t)sizeof(account) + (buffers * 4 + 7) / 8 * 8;
}

/* ---- life ------------------------------------------------------------------------------------ */

int pare__team_of(const pare_train_setup *setup)
{
    return setup->comm ? pare_comm_facts_of(setup->comm)->size : 1;
}

pare_status pare__team_check(const pare_train_setup *setup, const pare_train_options *options)
{
    int ranks = pare__team_of(setup);
    PARE_REQUIRE(options->batch % ranks == 0, PARE_ERR_ARGUMENT,
                 "a batch of %lld samples cannot be dealt out evenly to %d ranks: give a multiple "
                 "of %d",
                 (long long)options->batch, ranks, ranks);
    return PARE_OK;
}

int64_t pare__team_bytes(const pare_train_setup *setup, int64_t buffers)
{
    int ranks = pare__team_of(setup);
    return ranks > 1 ? (ranks + 1) * account_bytes(buffers) : 0;
}

/* The last parameters' gradients are whole first, so buckets are filled from behind. A gradient is
 * never split, and what lies between two is 0. */
static void fill_buckets(pare_trainer *t, pare__team *r)
{
    pare_tensor grads = pare_model_grad_arena(t->model);
    int64_t arena = pare_tensor_count(&grads), least = BUCKET_BYTES / 4;
    if (arena / (BUCKETS - 1) > least)
        least = arena / (BUCKETS - 1);
    float *end = (float *)grads.data + arena;
    bucket *b = NULL;
    for (int64_t i = pare_model_param_count(t->model); i-- > 0;) {
        float *grad = pare_model_param(t->model, i)->grad.data;
        r->bucket_of[i] = -1;
        if (!grad)
            continue;
        if (!b || b->count >= least) {
            b = &r->buckets[r->bucket_count++];
            *b = (bucket){.data = end};
        }
        b->count += b->data - grad;
        b->data = end = grad;
        b->params++;
        r->bucket_of[i] = r->bucket_count - 1;
    }
}

pare_status pare__team_create(pare_trainer *t)
{
    pare__team *r;
    if (pare__team_of(&t->setup) == 1)
        return PARE_OK;
    PARE_TRY(pare__calloc(1, sizeof *r, &r));
    t->ranks = r;
    r->rank = pare_comm_facts_of(t->setup.comm)->rank;
    r->size = pare__team_of(&t->setup);
    r->bytes = account_bytes(t->buffer_count);
    r->buffers_bytes = t->buffer_count * 4;
    PARE_TRY(pare__calloc((size_t)pare_model_param_count(t->model), sizeof *r->bucket_of,
                          &r->bucket_of));
    PARE_TRY(pare__calloc(1, (size_t)r->bytes, &r->own));
    PARE_TRY(pare__calloc((size_t)r->size, (size_t)r->bytes, &r->all));
    PARE_TRY(pare_backend_alloc(t->be, r->buffers_bytes, &r->buffers));
    fill_buckets(t, r);
    return PARE_OK;
}

void pare__team_free(pare_trainer *t)
{
    pare__team *r = t->ranks;
    if (!r)
        return;
    pare_backend_release(t->be, r->buffers, r->buffers_bytes);
    free(r->all), free(r->own), free(r->bucket_of), free(r);
    t->ranks = NULL;
}

int64_t pare__team_batch(const pare_trainer *t)
{
    return t->options.batch / (t->ranks ? t->ranks->size : 1);
}

int64_t pare__team_offset(const pare_trainer *t)
{
    return t->ranks ? t->ranks->rank * pare__team_batch(t) : 0;
}

uint64_t pare__team_stream(const pare_trainer *t, uint64_t step)
{
    return t->ranks ? step * (uint64_t)t->ranks->size + (uint64_t)t->ranks->rank : step;
}

bool pare__team_first(const pare_trainer *t)
{
    return !t->ranks || t->ranks->rank == 0;
}

/* ---- beginning alike ------------------------------------------------------------------------- */

static pare_status digest_values(pare_trainer *t, uint64_t digest[2])
{
    digest[0] = digest[1] = 0;
    for (int64_t i = 0; i < pare_model_param_count(t->model); i++) {
        const pare_tensor *value = &pare_model_param(t->model, i)->value;
        int64_t bytes = pare_tensor_count(value) * (pare_dtype_bits(value->dtype) / 8);
        if (bytes > 0)
            PARE_TRY(pare_digest(t->be, &(pare_digest_args){.bytes = value->data,
                                                            .size = bytes,
                                                            .seed = (uint64_t)i,
                                                            .result = digest}));
    }
    if (t->optim.state)
        PARE_TRY(pare_digest(t->be, &(pare_digest_args){.bytes = t->optim.state,
                                                        .size = t->optim.state_bytes,
                                                        .seed = 1,
                                                        .result = digest}));
    return PARE_OK;
}

pare_status pare__team_agree(pare_trainer *t)
{
    pare_comm *comm = t->setup.comm;
    uint64_t digest[2];
    if (!t->ranks)
        return PARE_OK;
    PARE_TRY(pare_comm_agree(comm, t->identity, (int64_t)strlen(t->identity),
                             "the options, the data or the kind of processor"));
    PARE_TRY(pare_comm_agree(comm, &t->state.step, sizeof t->state.step,
                             "the step at which it goes on (all read the same state)"));
    PARE_TRY(digest_values(t, digest));
    PARE_TRY(pare_comm_agree(comm, digest, sizeof digest, "the values of the model"));
    return PARE_OK;
}

/* ---- a step ---------------------------------------------------------------------------------- */

static pare_status begin_sum(pare_trainer *t, float *data, int64_t count)
{
    pare__team *r = t->ranks;
    if (r->pending == PARE_COMM_PENDING) {
        PARE_TRY(pare_comm_wait(t->setup.comm));
        r->pending = 0;
    }
    PARE_TRY(pare_comm_sum_begin(t->setup.comm, data, count, PARE_F32));
    r->pending++;
    return PARE_OK;
}

static pare_status grad_is_whole(void *user, int64_t param)
{
    pare_trainer *t = user;
    int index = t->ranks->bucket_of[param];
    bucket *b = index < 0 ? NULL : &t->ranks->buckets[index];
    if (b && --b->left == 0)
        PARE_TRY(begin_sum(t, b->data, b->count));
    return PARE_OK;
}

/* What the losses learned has its gradients when they have run; that of parts is made later, of
 * gradients that are whole. */
pare_status pare__team_begin(pare_trainer *t)
{
    pare__team *r = t->ranks;
    for (int i = 0; i < r->bucket_count; i++)
        r->buckets[i].left = r->buckets[i].params;
    for (size_t i = 0; i < t->setup.term_count; i++) {
        const pare_loss_term *term = &t->setup.terms[i];
        for (size_t k = 0; k < term->learned_count; k++)
            PARE_TRY(begin_sum(t, term->learned[k].grad.data,
                               pare_tensor_count(&term->learned[k].grad)));
    }
    pare_model_on_grad(t->model, grad_is_whole, t);
    return PARE_OK;
}

/* The mean of the ranks' buffers, to where the model has them. */
static pare_status mean_buffers(pare_trainer *t)
{
    pare__team *r = t->ranks;
    float *own = (float *)(void *)(r->own + 1);
    for (int64_t i = 0; i < t->buffer_count; i++) {
        double sum = 0;
        for (int rank = 0; rank < r->size; rank++) {
            const char *account_of = (const char *)r->all + rank * r->bytes + sizeof *r->all;
            sum += (double)((const float *)(const void *)account_of)[i];
        }
        own[i] = (float)(sum / r->size);
    }
    PARE_TRY(pare_backend_upload(t->be, r->buffers, own, r->buffers_bytes));
    PARE_TRY(pare__copy_buffers(t, r->buffers, true));
    return PARE_OK;
}

pare_status pare__team_end(pare_trainer *t)
{
    pare__team *r = t->ranks;
    PARE_TRY(pare_comm_wait(t->setup.comm));
    r->pending = 0;
    *r->own = (account){.loss = t->step_loss, .count = (double)t->step_count};
    memcpy(r->own->terms, t->step_terms, sizeof r->own->terms);
    if (t->buffer_count > 0) {
        PARE_TRY(pare__copy_buffers(t, r->buffers, false));
        PARE_TRY(pare_backend_download(t->be, r->own + 1, r->buffers, r->buffers_bytes));
    }
    PARE_TRY(pare_comm_gather(t->setup.comm, r->own, r->bytes, r->all));
    account sum = {0};
    for (int rank = 0; rank < r->size; rank++) {
        const account *a = (const account *)(void *)((char *)r->all + rank * r->bytes);
        sum.loss += a->loss;
        sum.count += a->count;
        for (int i = 0; i < PARE_TRAIN_TERMS; i++)
            sum.terms[i] += a->terms[i];
    }
    t->step_loss = sum.loss;
    t->step_count = (int64_t)sum.count;
    memcpy(t->step_terms, sum.terms, sizeof sum.terms);
    if (t->buffer_count > 0)
        PARE_TRY(mean_buffers(t));
    return PARE_OK;
}
