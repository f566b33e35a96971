/* checkpoint.c - all that the next step depends on, to an .h5 and back, bit by bit.
 *
 * Entries: "model/<name>" for every parameter that the optimiser moves and every buffer (as they
 * lie in memory), "learned/<name>" for what is learned beside them, "optim/m/<name>",
 * "optim/v/<name>", "ema/<name>", "mask/<name>" where masks move, "part/<name>" of what parts keep,
 * "losses" [steps done], and "state" [13] F64: steps done, last loss, smooth loss, rate, gradient
 * norm, smooth terms. What must be the same to go on is kept as lines "what: value" in the
 * provenance.
 */
#include "train_impl.h"

#include "pare/ops.h"

#define STATE (5 + PARE_TRAIN_TERMS)

typedef struct item {
    char *name;
    pare_tensor tensor; /* in memory: */
    bool far;           /* the backend's, which is not the host's */
} item;

typedef struct items {
    item *list;
    size_t count, capacity;
} items;

static void free_items(items *all)
{
    for (size_t i = 0; i < all->count; i++)
        free(all->list[i].name);
    free(all->list);
}

/* `be`: whose memory it is in, NULL for the host's. */
static pare_status add(items *all, const char *group, const char *name, pare_tensor tensor,
                       void *data, const pare_backend *be)
{
    pare__text text = {0};
    PARE_TRY(pare__grow(&all->list, &all->capacity, all->count + 1, sizeof *all->list));
    tensor.data = data;
    item *new = &all->list[all->count];
    *new = (item){.tensor = tensor, .far = be && !pare_backend_is_host(be)};
    pare__text_add(&text, "%s%s", group, name);
    PARE_TRY(pare__text_take(&text, &new->name));
    all->count++;
    return PARE_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const item *)a)->name, ((const item *)b)->name);
}

static pare_status gather_trained(pare_trainer *t, const pare__trained *own, items *all)
{
    const char *group = own->param < 0 ? "learned/" : "model/";
    PARE_TRY(add(all, group, own->name, own->value, own->value.data, t->be));
    if (own->m)
        PARE_TRY(add(all, "optim/m/", own->name, own->value, own->m, t->be));
    if (own->v)
        PARE_TRY(add(all, "optim/v/", own->name, own->value, own->v, t->be));
    if (own->average)
        PARE_TRY(add(all, "ema/", own->name, own->value, own->average, t->be));
    return PARE_OK;
}

/* Masks that move, and what parts keep. */
static pare_status gather_parts(pare_trainer *t, items *all)
{
    bool masks = pare__moves_masks(&t->setup);
    for (int64_t i = 0; masks && i < pare_model_param_count(t->model); i++) {
        const pare_param *p = pare_model_param(t->model, i);
        pare_tensor mask = p->value;
        mask.dtype = PARE_U8;
        if (p->mask)
            PARE_TRY(add(all, "mask/", p->name, mask, p->mask, t->be));
    }
    for (size_t i = 0; i < t->setup.part_count; i++) {
        const pare_train_part *part = t->setup.parts[i];
        for (size_t k = 0; k < part->kept_count; k++) {
            const pare_kept *kept = &part->kept[k];
            PARE_TRY(add(all, "part/", kept->name, kept->tensor, kept->tensor.data,
                         kept->host ? NULL : t->be));
        }
    }
    return PARE_OK;
}

/* Everything that is kept, in order of names; `state` [STATE] and the losses of `steps` steps too.
 */
static pare_status gather(pare_trainer *t, double *state, int64_t steps, items *all)
{
    for (int64_t i = 0; i < pare_model_param_count(t->model); i++) {
        const pare_param *p = pare_model_param(t->model, i);
        if (p->buffer)
            PARE_TRY(add(all, "model/", p->name, p->value, p->value.data, t->be));
    }
    for (size_t i = 0; i < t->optim.count; i++)
        PARE_TRY(gather_trained(t, &t->optim.trained[i], all));
    PARE_TRY(gather_parts(t, all));
    PARE_TRY(add(all, "losses", "", pare_vector(NULL, PARE_F32, steps), t->losses, NULL));
    PARE_TRY(add(all, "state", "", pare_vector(NULL, PARE_F64, STATE), state, NULL));
    qsort(all->list, all->count, sizeof *all->list, by_name);
    return PARE_OK;
}

/* ---- what the host cannot see ---------------------------------------------------------------- */

/* Bytes of the host's memory through which it goes, about. */
#define STAGE ((int64_t)4 << 20)

typedef struct stage {
    pare_backend *be;
    char *memory;
    int64_t size;
} stage;

static void free_stage(stage *s)
{
    pare_backend_host_release(s->be, s->memory, s->size);
    s->memory = NULL;
    s->size = 0;
}

static pare_status grow_stage(stage *s, int64_t size)
{
    if (size <= s->size)
        return PARE_OK;
    free_stage(s);
    PARE_TRY(pare_backend_host_alloc(s->be, size, &s->memory));
    s->size = size;
    return PARE_OK;
}

/* An item as rows, of which `step`, pieces of a digest, go at once. */
typedef struct pieces {
    char *data;
    int64_t rows, row_bytes, step;
} pieces;

static pieces pieces_of(const item *it)
{
    int64_t cols;
    pieces p = {.data = it->tensor.data};
    pare_shape_matrix(it->tensor.rank, it->tensor.shape, &p.rows, &cols);
    p.row_bytes = cols * (pare_dtype_bits(it->tensor.dtype) / 8);
    int64_t piece = pare_piece_rows(it->tensor.dtype, cols), bytes = piece * p.row_bytes;
    p.step = piece * (bytes > 0 && bytes < STAGE ? STAGE / bytes : 1);
    p.step = p.step < p.rows ? p.step : p.rows;
    return p;
}

/* ---- what must be the same ------------------------------------------------------------------- */

static void describe_curve(pare__text *text, const pare_curve *c)
{
    static const char *const names[] = {"cosine", "linear", "step", "constant"};
    pare__text_add(text, "learning rate: %.17g %s to %.17g, warm-up %lld", c->rate, names[c->kind],
                   c->final_rate, (long long)c->warmup);
    if (c->kind == PARE_SCHEDULE_STEP) {
        pare__text_add(text, ", x %.17g at", c->gamma);
        for (int i = 0; i < c->milestone_count; i++)
            pare__text_add(text, " %.17g", c->milestones[i]);
    }
    if (c->period > 0)
        pare__text_add(text, ", again after %lld, %lld times", (long long)c->period,
                       (long long)c->restarts);
    pare__text_add(text, "\nsteps: %lld\n", (long long)c->steps);
}

/* What was always there has no lines: states of plain trainings stay what they are. */
static void describe_setup(pare__text *text, const pare_train_setup *setup)
{
    for (size_t i = 0; i < setup->term_count; i++) {
        const pare_loss_term *term = &setup->terms[i];
        const pare_ramp *w = &term->weight;
        if (setup->term_count > 1 || setup->teacher)
            pare__text_add(text, "loss: %s, weight %.17g to %.17g from %.17g to %.17g\n",
                           term->loss->name, w->from, w->to, w->begin, w->end);
    }
    for (size_t i = 0; i < setup->part_count; i++)
        pare__text_add(text, "part: %s\n%s", setup->parts[i]->name,
                       setup->parts[i]->identity ? setup->parts[i]->identity : "");
}

/* Which device of a machine is no matter, and ranks have one each. */
static const char *processor_of(const pare_backend *be)
{
    const char *name = pare_backend_name(be), *space = strchr(name, ' ');
    return strncmp(name, "cuda:", 5) == 0 && space ? space + 1 : name;
}

pare_status pare__train_identity(const pare_train_setup *setup, char **identity)
{
    const pare_train_options *o = setup->options;
    pare__text text = {0};
    uint64_t digest[2];
    char hex[33];
    pare_dataset_digest(setup->dataset, digest);
    pare__hex128(digest, hex);
    describe_curve(&text, &o->curve);
    pare__text_add(&text, "batch: %lld x %lld\n", (long long)o->accumulate, (long long)o->batch);
    if (o->optimiser == PARE_SGD)
        pare__text_add(&text, "optimiser: SGD, momentum %.17g%s\n", o->momentum,
                       o->nesterov ? " (Nesterov)" : "");
    else
        pare__text_add(&text, "optimiser: AdamW, betas %.17g %.17g, eps %.17g\n", o->beta1,
                       o->beta2, o->eps);
    pare__text_add(&text, "weight decay: %.17g\nclipping: %.17g\nlabel smoothing: %.17g\n",
                   o->decay, o->clip, o->smoothing);
    pare__text_add(&text, "moving average: %.17g\nseed: %llu\ncompute: %s\nfrozen:", o->ema,
                   (unsigned long long)o->seed, pare_dtype_name(o->compute));
    for (size_t i = 0; i < o->freezes; i++)
        pare__text_add(&text, " %s", o->freeze[i]);
    pare__text_add(&text, "\ndata: %s\nbackend: %s\n", hex, processor_of(setup->be));
    describe_setup(&text, setup);
    return pare__text_take(&text, identity);
}

static pare_status whole_fingerprint(const pare_trainer *t, const char *fingerprint, char **whole)
{
    pare__text text = {0};
    pare__text_add(&text, "%s%s", t->identity, fingerprint ? fingerprint : "");
    return pare__text_take(&text, whole);
}

/* What a training of several ranks does not say, as it goes on with another number of them too:
 * skips it where the other side does not have it. */
static bool skips(const char **line, const char *other)
{
    static const char threads[] = "threads: ";
    bool mine = strncmp(*line, threads, sizeof threads - 1) == 0;
    if (!mine || strncmp(other, threads, sizeof threads - 1) == 0)
        return false;
    *line += strcspn(*line, "\n");
    *line += **line != '\0';
    return true;
}

/* Fails with the first line that is not the same. */
static pare_status compare(const char *path, const char *theirs, const char *ours)
{
    while (*theirs && *ours) {
        if (skips(&theirs, ours) || skips(&ours, theirs))
            continue;
        int a = (int)strcspn(theirs, "\n"), b = (int)strcspn(ours, "\n");
        PARE_REQUIRE(a == b && strncmp(theirs, ours, (size_t)a) == 0, PARE_ERR_EXISTS,
                     "%s is the state of another training: \"%.*s\" there, \"%.*s\" here; go on "
                     "as it began, or remove the file to begin again",
                     path, a < 200 ? a : 200, theirs, b < 200 ? b : 200, ours);
        theirs += a + (theirs[a] != '\0');
        ours += b + (ours[b] != '\0');
    }
    PARE_REQUIRE(!*theirs && !*ours, PARE_ERR_EXISTS,
                 "%s is the state of another training: \"%.*s\" is said on one side only; go on as "
                 "it began, or remove the file to begin again",
                 path, (int)strcspn(*theirs ? theirs : ours, "\n"), *theirs ? theirs : ours);
    return PARE_OK;
}

/* ---- saving ---------------------------------------------------------------------------------- */

/* Rows [first, first + count) of an entry, from the host's memory. */
static pare_status write_rows(pare_trainer *t, pare_writer *writer, int64_t index, int64_t first,
                              int64_t count, void *values)
{
    pare_parts parts;
    pare_rows rows = {.first = first, .count = count, .values = values};
    PARE_TRY(pare_writer_encode(writer, pare_backend_host(t->be), index, &rows, NULL, &parts));
    PARE_TRY(pare_writer_write(writer, &parts));
    pare_writer_add_sums(writer, index, &parts.sums);
    return PARE_OK;
}

/* An item that the host sees goes as a whole. */
static pare_status write_item(pare_trainer *t, pare_writer *writer, int64_t index, const item *it,
                              stage *through)
{
    pieces p = pieces_of(it);
    if (!it->far)
        return write_rows(t, writer, index, 0, p.rows, p.data);
    PARE_TRY(grow_stage(through, p.step * p.row_bytes));
    for (int64_t first = 0, rows; first < p.rows; first += rows) {
        rows = p.rows - first < p.step ? p.rows - first : p.step;
        PARE_TRY(pare_backend_download(t->be, through->memory, p.data + first * p.row_bytes,
                                       rows * p.row_bytes));
        PARE_TRY(write_rows(t, writer, index, first, rows, through->memory));
    }
    return PARE_OK;
}

static pare_status write_items(pare_trainer *t, pare_writer *writer, const items *all)
{
    pare_status status = PARE_OK;
    stage through = {.be = t->be};
    for (size_t i = 0; i < all->count; i++)
        PARE_TRY_DONE(write_item(t, writer, (int64_t)i, &all->list[i], &through));
    PARE_TRY_DONE(pare_writer_finish(writer));
done:
    free_stage(&through);
    return status;
}

static pare_status write_file(pare_trainer *t, const items *all, const char *path,
                              const char *provenance)
{
    pare_status status = PARE_OK;
    pare_writer *writer = NULL;
    pare_entry *entries = NULL;
    PARE_TRY_DONE(pare__calloc(all->count, sizeof *entries, &entries));
    for (size_t i = 0; i < all->count; i++) {
        const pare_tensor *tensor = &all->list[i].tensor;
        entries[i] = (pare_entry){.name = all->list[i].name,
                                  .dtype = tensor->dtype,
                                  .rank = tensor->rank,
                                  .form = PARE_FORM_DENSE};
        memcpy(entries[i].shape, tensor->shape, sizeof entries[i].shape);
    }
    PARE_TRY_DONE(pare_writer_create(&(pare_writer_options){.path = path,
                                                            .entries = entries,
                                                            .count = (int64_t)all->count,
                                                            .provenance = provenance,
                                                            .overwrite = true},
                                     false, &writer));
    PARE_TRY_DONE(write_items(t, writer, all));
done:
    pare_writer_free(&writer, status != PARE_OK);
    free(entries);
    return status;
}

pare_status pare_trainer_save(pare_trainer *t, const char *path, const char *fingerprint)
{
    pare_status status = PARE_OK;
    const pare_train_state *s = &t->state;
    double state[STATE] = {(double)s->step, s->loss, s->smooth_loss, s->rate, s->grad_norm};
    memcpy(state + STATE - PARE_TRAIN_TERMS, s->terms, sizeof s->terms);
    size_t length = strlen(path);
    items all = {0};
    char *provenance = NULL;
    PARE_REQUIRE(!t->swapped, PARE_ERR_ARGUMENT,
                 "the model holds the moving average: swap it back before the state is saved");
    PARE_REQUIRE(length > 3 && strcmp(path + length - 3, ".h5") == 0, PARE_ERR_ARGUMENT,
                 "the state of a training is an .h5; %s is not called so", path);
    if (!pare__team_first(t))
        return PARE_OK;
    PARE_TRY_DONE(whole_fingerprint(t, fingerprint, &provenance));
    PARE_TRY_DONE(gather(t, state, s->step, &all));
    PARE_TRY_DONE(write_file(t, &all, path, provenance));
done:
    free_items(&all);
    free(provenance);
    return status;
}

/* ---- loading --------------------------------------------------------------------------------- */

/* The entry of a name, and that it is what memory has room for. */
static pare_status find(const pare_store *store, const item *want, int64_t *index)
{
    const char *path = pare_store_path(store);
    *index = pare_store_find(store, want->name);
    PARE_REQUIRE(*index >= 0, PARE_ERR_DAMAGED, "%s lacks '%s'; remove it to begin again", path,
                 want->name);
    const pare_entry *entry = pare_store_entry(store, *index);
    bool same = entry->dtype == want->tensor.dtype && entry->rank == want->tensor.rank &&
                entry->form == PARE_FORM_DENSE;
    for (int d = 0; same && d < entry->rank; d++)
        same = entry->shape[d] == want->tensor.shape[d];
    char theirs[192], ours[192];
    PARE_REQUIRE(same, PARE_ERR_DAMAGED,
                 "%s: '%s' is %s %s, this training has %s %s; remove the file to begin again", path,
                 want->name, pare_dtype_name(entry->dtype),
                 pare_shape_text(entry->rank, entry->shape, theirs, sizeof theirs),
                 pare_dtype_name(want->tensor.dtype),
                 pare_shape_text(want->tensor.rank, want->tensor.shape, ours, sizeof ours));
    return PARE_OK;
}

/* A dense entry is read to its place, or to the stage: no scratch. */
static pare_status read_item(pare_store *store, const item *want, stage *through)
{
    int64_t index;
    pieces p = pieces_of(want);
    pare_backend *host = pare_backend_host(through->be);
    PARE_TRY(find(store, want, &index));
    if (p.rows * p.row_bytes == 0)
        return PARE_OK;
    if (!want->far)
        return pare_store_read_values(store, host, index, 0, p.rows, p.data, NULL);
    PARE_TRY(grow_stage(through, p.step * p.row_bytes));
    for (int64_t first = 0, rows; first < p.rows; first += rows) {
        rows = p.rows - first < p.step ? p.rows - first : p.step;
        PARE_TRY(pare_store_read_values(store, host, index, first, rows, through->memory, NULL));
        PARE_TRY(pare_backend_upload(through->be, p.data + first * p.row_bytes, through->memory,
                                     rows * p.row_bytes));
    }
    return PARE_OK;
}

static pare_status read_items(pare_store *store, pare_backend *be, const items *all)
{
    pare_status status = PARE_OK;
    stage through = {.be = be};
    for (size_t i = 0; i < all->count; i++)
        PARE_TRY_DONE(read_item(store, &all->list[i], &through));
done:
    free_stage(&through);
    return status;
}

/* Nothing in memory is touched before all of the file is known to be sound. */
static pare_status check_items(pare_store *store, pare_backend *be, const items *all)
{
    for (size_t i = 0; i < all->count; i++) {
        int64_t index;
        PARE_TRY(find(store, &all->list[i], &index));
        PARE_TRY(pare_store_verify(store, pare_backend_host(be), index));
    }
    PARE_REQUIRE(pare_store_count(store) == (int64_t)all->count, PARE_ERR_DAMAGED,
                 "%s holds %lld tensors, the state of this training %lld; remove it to begin again",
                 pare_store_path(store), (long long)pare_store_count(store), (long long)all->count);
    return PARE_OK;
}

static pare_status read_steps(pare_trainer *t, pare_store *store, double *state)
{
    item first = {.name = (char[]){"state"}, .tensor = pare_vector(state, PARE_F64, STATE)};
    PARE_TRY(read_item(store, &first, &(stage){.be = t->be}));
    PARE_REQUIRE(state[0] >= 0 && state[0] <= (double)t->state.steps, PARE_ERR_DAMAGED,
                 "%s has done %g of %lld steps; remove it to begin again", pare_store_path(store),
                 state[0], (long long)t->state.steps);
    return PARE_OK;
}

pare_status pare_trainer_load(pare_trainer *t, const char *path, const char *fingerprint)
{
    pare_status status = PARE_OK;
    double state[STATE] = {0};
    items all = {0};
    char *ours = NULL;
    pare_store *store = NULL;
    PARE_REQUIRE(!t->swapped, PARE_ERR_ARGUMENT,
                 "the model holds the moving average: swap it back before a state is loaded");
    PARE_TRY_DONE(whole_fingerprint(t, fingerprint, &ours));
    PARE_TRY_DONE(pare_store_open(path, &store));
    const char *theirs = pare_store_provenance(store);
    PARE_TRY_DONE(compare(path, theirs ? theirs : "", ours));
    PARE_TRY_DONE(read_steps(t, store, state));
    PARE_TRY_DONE(gather(t, state, (int64_t)state[0], &all));
    PARE_TRY_DONE(check_items(store, t->be, &all));
    PARE_TRY_DONE(read_items(store, t->be, &all));
    t->state.step = (int64_t)state[0];
    t->state.loss = state[1];
    t->state.smooth_loss = state[2];
    t->state.rate = state[3];
    t->state.grad_norm = state[4];
    memcpy(t->state.terms, state + STATE - PARE_TRAIN_TERMS, sizeof t->state.terms);
    PARE_TRY_DONE(pare__keep_buffers(t, false));
    PARE_TRY_DONE(pare__parts_loaded(t));
done:
    pare_store_close(&store);
    free_items(&all);
    free(ours);
    return status;
}
