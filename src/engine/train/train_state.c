/* train_state.c - the state of a training beside its output: saved, found again, removed. The last
 * two are kept, so that one that was damaged costs the steps since the one before. */
#include "training.h"

pare_status pare__state_save(pare__training *t)
{
    if (pare__is_first(t) && pare__exists(t->state_path))
        PARE_TRY(pare__rename(t->state_path, t->before_path, true));
    return pare_trainer_save(t->trainer, t->state_path, t->fingerprint);
}

pare_status pare__state_remove(pare__training *t)
{
    PARE_TRY(pare__remove_tree(t->state_path));
    return pare__remove_tree(t->before_path);
}

static void say(const pare__training *t, const char *line)
{
    if (t->options->log.write && pare__is_first(t))
        t->options->log.write(t->options->log.user, PARE_LOG_WARN, line);
}

/* A failure as it was, after something that may have failed too. */
static pare_status again(pare_status status, const char *sentence)
{
    return pare__error(status, __func__, "%s", sentence);
}

/* The state, or if that is damaged or was being written, the one before it. */
static pare_status load(pare__training *t)
{
    char sentence[600], line[800];
    bool there = pare__exists(t->state_path), before = pare__exists(t->before_path);
    pare_status status = PARE_ERR_NOT_FOUND;
    if (there)
        status = pare_trainer_load(t->trainer, t->state_path, t->fingerprint);
    if (!before || (there && status != PARE_ERR_DAMAGED))
        return status;
    snprintf(sentence, sizeof sentence, "%s", there ? pare_last_error() : "");
    pare_status older = pare_trainer_load(t->trainer, t->before_path, t->fingerprint);
    if (older != PARE_OK)
        return there ? again(status, sentence) : older;
    snprintf(line, sizeof line, "%s%sgoing on with the state before it, of step %lld", sentence,
             there ? "; " : "", (long long)pare_trainer_state(t->trainer)->step);
    if (there)
        say(t, line);
    return PARE_OK;
}

pare_status pare__state_resume(pare__training *t)
{
    if (!pare__exists(t->state_path) && !pare__exists(t->before_path))
        return PARE_OK;
    pare_status status = load(t);
    t->resumed = status == PARE_OK;
    if (t->resumed ||
        !(t->options->overwrite && (status == PARE_ERR_EXISTS || status == PARE_ERR_DAMAGED)))
        return status;
    PARE_TRY(pare__state_remove(t));
    return pare__training_begin(t);
}
