/* test_trainer_checkpoint.c - a training that was cut ends with the bytes of one that was not; the
 * state of another training, or a damaged one, is refused; the file is always a whole state. */
#include "train_fixture.h"

#include "base/file.h"
#include "train/train_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- faults: the n-th write, sync or rename fails ---------------------------------------------
 */

static volatile long writes_left = -1; /* −1: none fails */

static int hit(void)
{
    if (writes_left < 0 || writes_left-- > 0)
        return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    return hit() ? -1 : syscall(SYS_pwrite64, fd, bytes, size, offset);
}

int fdatasync(int fd)
{
    return hit() ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int rename(const char *from, const char *to)
{
    return hit() ? -1 : (int)syscall(SYS_rename, from, to);
}

/* ---- fixtures -------------------------------------------------------------------------------- */

#define STEPS 9

/* A training of a model, from the start. */
typedef struct run {
    train_fixture f;
    pare_trainer *trainer;
} run;

typedef struct setting {
    const char *arch;
    pare_train_options options;
} setting;

static setting settings(int which)
{
    setting s = {.options = {.optimiser = which ? PARE_ADAMW : PARE_SGD,
                             .curve = {.rate = 0.02, .steps = STEPS, .warmup = 2},
                             .batch = 8,
                             .accumulate = which ? 2 : 1,
                             .momentum = 0.9,
                             .decay = 0.01,
                             .clip = 1,
                             .ema = 0.9,
                             .seed = 4}};
    s.arch = which == 2 ? "resnet20-cifar:in=1,size=8,classes=4" : "mlp:64-16-4";
    return s;
}

static run begin(const setting *s)
{
    run r = {.f = fixture_make(&(train_fixture_options){
                 .arch = s->arch, .batch = s->options.batch, .samples = 50, .shuffle = true})};
    assert_ok(pare_trainer_create(
        &(pare_train_setup){
            .options = &s->options, .model = r.f.model, .be = r.f.be, .dataset = r.f.dataset},
        &r.trainer));
    return r;
}

static void end(run *r)
{
    pare_trainer_free(&r->trainer);
    fixture_free(&r->f);
}

static pare_status stop_at(void *user, pare_trainer *trainer, const pare_train_state *s)
{
    (void)trainer;
    return s->step == *(const int *)user ? PARE_ERR_INTERRUPTED : PARE_OK;
}

static void go_to(run *r, int step)
{
    pare_train_callbacks stop = {.step = stop_at, .user = &step};
    assert_int_equal(pare_trainer_run(r->trainer, r->f.sched, &stop), PARE_ERR_INTERRUPTED);
}

static void check_same(const run *a, const run *b)
{
    const pare__optim *x = &a->trainer->optim, *y = &b->trainer->optim;
    int64_t count, count2;
    float *u = fixture_values(a->f.model, &count), *v = fixture_values(b->f.model, &count2);
    assert_int_equal(count, count2);
    assert_memory_equal(u, v, (size_t)count * 4);
    assert_int_equal(x->state_bytes, y->state_bytes);
    assert_memory_equal(x->state, y->state, (size_t)x->state_bytes);
    assert_memory_equal(x->average, y->average, (size_t)x->average_bytes);
    assert_memory_equal(a->trainer->losses, b->trainer->losses, STEPS * sizeof(float));
    const pare_train_state *s = &a->trainer->state, *t = &b->trainer->state;
    assert_int_equal(s->step, t->step);
    const double left[] = {s->loss, s->smooth_loss, s->rate, s->grad_norm};
    const double right[] = {t->loss, t->smooth_loss, t->rate, t->grad_norm};
    assert_memory_equal(left, right, sizeof left);
    free(u);
    free(v);
}

static const char *state_path(const run *r)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/out.train.h5", r->f.folder);
    return path;
}

/* ---- resuming -------------------------------------------------------------------------------- */

static void a_training_that_was_cut_ends_with_the_same_bytes(void **state)
{
    (void)state;
    for (int which = 0; which < 3; which++) {
        setting s = settings(which);
        run whole = begin(&s), first = begin(&s), second = begin(&s);
        assert_ok(pare_trainer_run(whole.trainer, whole.f.sched, NULL));
        go_to(&first, 4);
        assert_ok(pare_trainer_save(first.trainer, state_path(&first), "threads: 2\n"));
        assert_ok(pare_trainer_load(second.trainer, state_path(&first), "threads: 2\n"));
        assert_int_equal(pare_trainer_state(second.trainer)->step, 4);
        assert_ok(pare_trainer_run(second.trainer, second.f.sched, NULL));
        check_same(&whole, &second);
        /* saving changes nothing */
        assert_ok(pare_trainer_run(first.trainer, first.f.sched, NULL));
        check_same(&whole, &first);
        end(&whole), end(&first), end(&second);
    }
}

static void a_state_of_no_step_and_of_all_can_be_kept(void **state)
{
    (void)state;
    setting s = settings(0);
    run a = begin(&s), b = begin(&s);
    assert_ok(pare_trainer_save(a.trainer, state_path(&a), NULL));
    assert_ok(pare_trainer_run(b.trainer, b.f.sched, NULL));
    assert_ok(pare_trainer_load(b.trainer, state_path(&a), NULL));
    assert_int_equal(pare_trainer_state(b.trainer)->step, 0);
    assert_ok(pare_trainer_run(a.trainer, a.f.sched, NULL));
    assert_ok(pare_trainer_run(b.trainer, b.f.sched, NULL));
    check_same(&a, &b);
    assert_ok(pare_trainer_save(a.trainer, state_path(&a), NULL));
    assert_ok(pare_trainer_load(b.trainer, state_path(&a), NULL));
    check_same(&a, &b);
    end(&a), end(&b);
}

static void the_file_holds_what_its_page_says(void **state)
{
    (void)state;
    setting s = settings(0);
    run a = begin(&s);
    pare_store *store = NULL;
    go_to(&a, 3);
    assert_ok(pare_trainer_save(a.trainer, state_path(&a), "threads: 2\n"));
    assert_ok(pare_store_open(state_path(&a), &store));
    assert_string_equal(pare_store_format(store), "h5");
    assert_int_equal(pare_store_count(store), 4 * 3 + 2); /* 4 parameters; no second moment */
    for (int64_t i = 0; i < pare_model_param_count(a.f.model); i++) {
        const char *groups[] = {"model", "optim/m", "ema"};
        for (int g = 0; g < 3; g++) {
            char name[256];
            snprintf(name, sizeof name, "%s/%s", groups[g], pare_model_param(a.f.model, i)->name);
            assert_true(pare_store_find(store, name) >= 0);
        }
    }
    assert_int_equal(pare_store_entry(store, pare_store_find(store, "losses"))->shape[0], 3);
    assert_int_equal(pare_store_entry(store, pare_store_find(store, "state"))->dtype, PARE_F64);
    const char *kept = pare_store_provenance(store);
    assert_non_null(strstr(kept, "threads: 2\n"));
    assert_non_null(strstr(kept, "optimiser: SGD, momentum 0.9"));
    assert_non_null(strstr(kept, "backend: cpu"));
    pare_store_close(&store);
    end(&a);
}

/* ---- refusing -------------------------------------------------------------------------------- */

static void refused(run *a, const char *path, const char *fingerprint, pare_status want,
                    const char *word)
{
    int64_t count;
    float *before = fixture_values(a->f.model, &count);
    assert_status(pare_trainer_load(a->trainer, path, fingerprint), want);
    if (!strstr(pare_last_error(), word))
        fail_msg("\"%s\" does not say \"%s\"", pare_last_error(), word);
    float *after = fixture_values(a->f.model, &count);
    assert_memory_equal(before, after, (size_t)count * 4);
    free(before);
    free(after);
}

static void another_training_is_refused_with_the_difference(void **state)
{
    (void)state;
    setting s = settings(0), other = s;
    run a = begin(&s);
    go_to(&a, 2);
    assert_ok(pare_trainer_save(a.trainer, state_path(&a), "threads: 2\n"));
    refused(&a, state_path(&a), "threads: 4\n", PARE_ERR_EXISTS,
            "\"threads: 2\" there, \"threads: 4\" here");
    refused(&a, state_path(&a), "", PARE_ERR_EXISTS, "threads: 2");
    other.options.momentum = 0.8;
    run b = begin(&other);
    refused(&b, state_path(&a), "threads: 2\n", PARE_ERR_EXISTS, "momentum 0.8");
    end(&b);
    other = s;
    other.options.curve.steps = STEPS + 1;
    b = begin(&other);
    refused(&b, state_path(&a), "threads: 2\n", PARE_ERR_EXISTS, "steps: 9");
    end(&b);
    other = s;
    other.arch = "mlp:64-12-4"; /* which the caller's fingerprint should have told */
    b = begin(&other);
    refused(&b, state_path(&a), "threads: 2\n", PARE_ERR_DAMAGED, "this training has");
    end(&b);
    end(&a);
}

static void a_damaged_state_is_refused(void **state)
{
    (void)state;
    setting s = settings(0);
    run a = begin(&s);
    go_to(&a, 2);
    const char *path = state_path(&a);
    refused(&a, path, NULL, PARE_ERR_NOT_FOUND, "out.train.h5");
    assert_ok(pare_trainer_save(a.trainer, path, NULL));
    char *bytes;
    int64_t size;
    assert_ok(pare__file_load(path, 1 << 24, &bytes, &size));
    /* a weight of the file, found by its bytes */
    const char *weights = pare_model_param(a.f.model, 0)->value.data;
    char *at = memmem(bytes, (size_t)size, weights, 64);
    assert_non_null(at);
    at[2] ^= 1;
    assert_ok(pare__file_save(path, bytes, size));
    refused(&a, path, NULL, PARE_ERR_DAMAGED, "model/");
    assert_ok(pare__file_save(path, bytes, size / 2));
    refused(&a, path, NULL, PARE_ERR_DAMAGED, "out.train.h5");
    free(bytes);
    end(&a);
}

static void a_state_is_an_h5(void **state)
{
    (void)state;
    setting s = settings(0);
    run a = begin(&s);
    assert_status(pare_trainer_save(a.trainer, "/nonexistent/x", NULL), PARE_ERR_ARGUMENT);
    assert_status(pare_trainer_save(a.trainer, "/nonexistent/x.h5", NULL), PARE_ERR_NOT_FOUND);
    end(&a);
}

/* ---- whole at any moment --------------------------------------------------------------------- */

static void whatever_write_fails_the_old_state_stays(void **state)
{
    (void)state;
    setting s = settings(0);
    run a = begin(&s), b = begin(&s);
    const char *path = state_path(&a);
    bool failed = true;
    int faults = 0;
    go_to(&a, 2);
    assert_ok(pare_trainer_save(a.trainer, path, NULL));
    go_to(&a, 5);
    for (; failed; faults++) {
        writes_left = faults;
        pare_status status = pare_trainer_save(a.trainer, path, NULL);
        failed = writes_left < 0;
        writes_left = -1;
        assert_int_equal(status != PARE_OK, failed);
        assert_ok(pare_trainer_load(b.trainer, path, NULL));
        assert_int_equal(pare_trainer_state(b.trainer)->step, failed ? 2 : 5);
    }
    assert_true(faults > 10);
    end(&a), end(&b);
}

/* Another process saves one step after another, and the last one again and again, until it is
 * killed. */
static _Noreturn void save_for_ever(const char *path)
{
    setting s = settings(0);
    run r = begin(&s);
    for (int step = 1;; step++) {
        if (step < STEPS)
            go_to(&r, step);
        assert_ok(pare_trainer_save(r.trainer, path, NULL));
    }
}

static void a_kill_at_any_moment_leaves_a_whole_state(void **state)
{
    (void)state;
    setting s = settings(0);
    run whole = begin(&s), other = begin(&s);
    const char *path = state_path(&whole);
    assert_ok(pare_trainer_run(whole.trainer, whole.f.sched, NULL));
    for (int moment = 0; moment < 12; moment++) {
        assert_ok(pare__remove_tree(path));
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            execl("/proc/self/exe", "test_trainer_checkpoint", path, (char *)NULL);
            _exit(3);
        }
        for (int i = 0; i < 20000 && !pare__exists(path); i++)
            usleep(1000);
        usleep((useconds_t)(moment * 1700));
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_ok(pare_trainer_load(other.trainer, path, NULL));
        assert_ok(pare_trainer_run(other.trainer, other.f.sched, NULL));
        check_same(&whole, &other);
    }
    end(&whole), end(&other);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        save_for_ever(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_training_that_was_cut_ends_with_the_same_bytes),
        cmocka_unit_test(a_state_of_no_step_and_of_all_can_be_kept),
        cmocka_unit_test(the_file_holds_what_its_page_says),
        cmocka_unit_test(another_training_is_refused_with_the_difference),
        cmocka_unit_test(a_damaged_state_is_refused),
        cmocka_unit_test(a_state_is_an_h5),
        cmocka_unit_test(whatever_write_fails_the_old_state_stays),
        cmocka_unit_test(a_kill_at_any_moment_leaves_a_whole_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
