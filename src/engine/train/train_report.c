/* train_report.c - what a training was and did. */
#include "training.h"

#define MASK_PIECE 65536 /* bytes of a mask looked at at once */

/* Every so many steps' mean loss: at most 100 numbers. */
static void add_losses(pare__json *root, const pare__training *t)
{
    const float *losses;
    int64_t count;
    pare_trainer_losses(t->trainer, &losses, &count);
    int64_t each = (count + 99) / 100;
    pare__json *list = pare__json_set_array(root, "losses");
    for (int64_t first = 0; first < count; first += each) {
        int64_t n = count - first < each ? count - first : each;
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += (double)losses[first + i];
        pare__json *row = pare__json_set_object(list, NULL);
        pare__json_set_int(row, "step", first + n);
        pare__json_set_real(row, "loss", sum / (double)n);
    }
}

static pare_status count_zeros(pare_model *model, int64_t param, int64_t *zeros)
{
    uint8_t mask[MASK_PIECE];
    int64_t count = pare_tensor_count(&pare_model_param(model, param)->value);
    for (int64_t i = 0, n; i < count; i += n) {
        n = count - i < MASK_PIECE ? count - i : MASK_PIECE;
        PARE_TRY(pare_model_read_mask(model, param, i, n, mask));
        for (int64_t k = 0; k < n; k++)
            *zeros += mask[k] == 0;
    }
    return PARE_OK;
}

static pare_status add_masks(pare__json *root, pare_model *model, int64_t *all_zeros)
{
    int64_t tensors = 0, count = 0, zeros = 0;
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        const pare_param *p = pare_model_param(model, i);
        if (!p->mask)
            continue;
        tensors++;
        count += pare_tensor_count(&p->value);
        PARE_TRY(count_zeros(model, i, &zeros));
    }
    *all_zeros = zeros;
    if (!tensors)
        return PARE_OK;
    pare__json *o = pare__json_set_object(root, "masks");
    pare__json_set_int(o, "tensors", tensors);
    pare__json_set_int(o, "parameters", count);
    pare__json_set_int(o, "zeros", zeros);
    pare__json_set_real(o, "sparsity", (double)zeros / (double)count);
    return PARE_OK;
}

/* The losses by themselves, without their weights. */
static void add_terms(pare__json *root, const pare__training *t)
{
    if (t->term_count == 0)
        return;
    pare__json *list = pare__json_set_array(root, "terms");
    for (size_t i = 0; i < t->term_count; i++) {
        pare__json *o = pare__json_set_object(list, NULL);
        pare__json_set_string(o, "loss", t->terms[i].loss->name);
        pare__json_set_real(o, "mean", pare_trainer_state(t->trainer)->terms[i]);
    }
}

/* What went between the ranks. */
static void add_ranks(pare__json *root, const pare__training *t)
{
    if (!t->comm)
        return;
    const pare_comm_facts *facts = pare_comm_facts_of(t->comm);
    pare_comm_traffic traffic = pare_comm_traffic_of(t->comm);
    pare__json *o = pare__json_set_object(root, "ranks");
    pare__json_set_int(o, "count", facts->size);
    pare__json_set_string(o, "kind", facts->kind);
    pare__json_set_string(o, "library", facts->library);
    pare__json_set_int(o, "bytes", traffic.bytes);
    pare__json_set_real(o, "seconds", traffic.seconds);
    pare__json_set_real(o, "exposed_seconds", traffic.exposed);
}

static void add_cache(pare__json *root, const pare__training *t)
{
    const pare_cache_facts *f = &t->cached;
    if (f->units == 0)
        return;
    pare__json *o = pare__json_set_object(root, "cache");
    pare__json_set_string(o, "path", t->job->cache);
    pare__json_set_int(o, "units", f->units);
    pare__json_set_int(o, "k", f->k);
    pare__json_set_int(o, "bytes", f->bytes);
    pare__json_set_real(o, "bytes_per_unit", f->bytes_per_unit);
    pare__json_set_real(o, "mass", f->mass);
    pare__json_set_real(o, "kl_kept", f->kl_kept);
}

static void add_note(pare__json *list, const char *tensor, const char *note)
{
    pare__json *o = pare__json_set_object(list, NULL);
    pare__json_set_string(o, "tensor", tensor);
    pare__json_set_string(o, "note", note);
}

static bool has_buffers(pare_model *model)
{
    for (int64_t i = 0; i < pare_model_param_count(model); i++)
        if (pare_model_param(model, i)->buffer)
            return true;
    return false;
}

/* What a quantiser could not do as it was asked, and what an adapter does not hold. */
static void add_notes(pare__json *root, const pare__training *t)
{
    pare__json *list = pare__json_set_array(root, "notes");
    for (int64_t i = 0; t->qat && i < pare_model_param_count(t->subject.model); i++) {
        const char *note = pare_qat_note(t->qat, i);
        if (note)
            add_note(list, pare_model_param(t->subject.model, i)->name, note);
    }
    if (t->lora && t->job->adapter && pare_lora_masked(t->lora))
        add_note(list, t->job->adapter,
                 "weights pruned in the base come back where the adapter alone is merged; the "
                 "output keeps them at 0");
    if (t->lora && t->job->adapter && has_buffers(t->subject.model))
        add_note(list, t->job->adapter,
                 "the running statistics of batch norms have moved, which the adapter does not "
                 "hold; the output does");
}

static void add_actual(pare__json *root, const pare__training *t, double seconds)
{
    const pare_train_state *s = pare_trainer_state(t->trainer);
    pare__json *o = pare__json_set_object(root, "actual");
    pare__json_set_real(o, "seconds", seconds);
    pare__json_set_int(o, "steps", s->step);
    pare__json_set_real(o, "samples_per_second", s->samples_per_second);
    pare__report_taken(o, &t->bench);
    pare__json_set_bool(o, "resumed", t->resumed);
    pare__json_set_int(o, "steps_done_before", t->began_at);
    pare__json_set_real(root, "loss", s->smooth_loss);
    if (t->eval_dataset)
        pare__report_metrics(pare__json_set_object(root, "eval"), t->metrics, &t->result);
    add_terms(root, t);
    add_ranks(root, t);
}

static int64_t stored_bytes(const pare_store *store)
{
    int64_t bytes = 0;
    for (int64_t i = 0; store && i < pare_store_count(store); i++)
        bytes += pare_store_entry(store, i)->stored_bytes;
    return bytes;
}

/* What was written, as the other steps of a recipe tell it. */
static pare_status add_result(pare__json *root, const pare__training *t, int64_t zeros)
{
    pare_store *store = NULL;
    int64_t parameters = 0, bytes;
    PARE_TRY(pare_store_open(t->job->output, &store));
    bytes = stored_bytes(store);
    pare__json *output = pare__json_set_object(root, "output");
    pare__json_set_string(output, "path", t->job->output);
    pare__json_set_string(output, "format", pare_store_format(store));
    pare__json_set_int(output, "files", 1);
    pare__json_set_int(output, "bytes", bytes);
    pare_store_close(&store);
    for (int64_t i = 0; i < pare_model_param_count(t->subject.model); i++)
        parameters += pare_tensor_count(&pare_model_param(t->subject.model, i)->value);
    pare__json *o = pare__json_set_object(root, "result");
    pare__json_set_int(o, "parameters", parameters);
    pare__json_set_int(o, "zeros", zeros);
    pare__json_set_real(o, "sparsity", parameters ? (double)zeros / (double)parameters : 0);
    pare__json_set_real(o, "bits_per_weight",
                        parameters ? 8 * (double)bytes / (double)parameters : 0);
    pare__json_set_int(o, "bytes_in", stored_bytes(t->subject.store));
    pare__json_set_int(o, "bytes_out", bytes);
    return PARE_OK;
}

pare_status pare__training_fill(pare__training *t, pare_report *r, bool planned, double seconds)
{
    pare__json *root = r->root;
    pare__report_subject(root, "model", &t->subject);
    if (t->job->student) {
        char text[160];
        snprintf(text, sizeof text, "%.100s of the teacher, %s", t->job->student,
                 pare_student_init_name(t->job->init));
        pare__json_set_string(root, "student", text);
    }
    if (t->teacher.store)
        pare__json_set_string(root, "teacher", pare__subject_name(&t->teacher));
    pare__report_data(root, "data", &t->data, t->dataset);
    if (t->eval_dataset)
        pare__report_data(root, "eval_data", &t->eval, t->eval_dataset);
    if (planned)
        pare__json_set_string(pare__json_set_object(root, "output"), "path", t->job->output);
    pare__json_set_string(root, "recipe", t->recipe);
    pare__json_set_int(root, "steps", t->train.curve.steps);
    pare__json_set_int(root, "batch", t->train.batch);
    pare__json_set_bool(root, "planned", planned);
    pare__report_need(root, &t->bench, &t->need, t->shape.compute);
    add_notes(root, t);
    if (planned) {
        pare__training_scaling(t, root);
        return PARE_OK;
    }
    int64_t zeros = 0;
    PARE_TRY(add_masks(root, t->subject.model, &zeros));
    if (pare__is_first(t)) /* the others may look before it is there for them */
        PARE_TRY(add_result(root, t, zeros));
    add_actual(root, t, seconds);
    add_losses(root, t);
    add_cache(root, t);
    if (pare__is_first(t))
        PARE_TRY(pare__report_save(r, t->job->output));
    return PARE_OK;
}
