/* test_teacher_cache.c - teachers' outputs on disk: what is kept, whose it is, going on after a
 * stop, damage, and students that learn from it. */
#include "distill_fixture.h"

#include "far_backend.h"

#include "base/check.h"

#include <math.h>
#include <sys/stat.h>

#define TEACHER DUEL_LLAMA("16", "2", "4", "2", "29")
#define STUDENT DUEL_LLAMA("12", "2", "4", "1", "29")

/* ---- a teacher and its file ------------------------------------------------------------------ */

typedef struct made {
    train_fixture f; /* with the teacher as its model, for inference */
    char path[4200];
    pare_cache_options options;
    pare_cache_facts facts;
} made;

static made begin(const train_fixture_options *data, int64_t k, double temperature)
{
    made m = {0};
    train_fixture_options o = *data;
    o.inference = true;
    m.f = fixture_make(&o);
    duel_fill(m.f.be, m.f.model, 8);
    snprintf(m.path, sizeof m.path, "%s/teacher.h5", m.f.folder);
    m.options = (pare_cache_options){.teacher = m.f.model,
                                     .be = m.f.be,
                                     .dataset = m.f.dataset,
                                     .batch = m.f.shape.batch,
                                     .k = k,
                                     .temperature = temperature,
                                     .teacher_digest = "0123"};
    return m;
}

static pare_status make(made *m)
{
    m->options.path = m->path;
    return pare_cache_make(m->f.sched, &m->options, &m->facts);
}

static pare_teacher_cache *open_cache(const made *m)
{
    pare_teacher_cache *cache = NULL;
    assert_ok(pare_cache_open(m->path, m->options.teacher_digest, m->f.dataset, m->options.k,
                              m->options.temperature, &cache));
    return cache;
}

static const train_fixture_options windows = {
    .config = TEACHER, .batch = 4, .length = 6, .samples = 21, .vocabulary = 29, .shuffle = true};
static const train_fixture_options images = {
    .arch = "mlp:64-16-4", .batch = 5, .samples = 33, .shuffle = true};
static const train_fixture_options classes = {
    .config = DUEL_BERT("BertForSequenceClassification", "16", "2", "2"),
    .batch = 4,
    .length = 8,
    .samples = 18,
    .vocabulary = 32,
    .rows = true};

static char *read_all(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *size = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*size + 1);
    assert_int_equal(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

static void write_all(const char *path, const char *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* ---- what is kept ---------------------------------------------------------------------------- */

/* log softmax(x/temperature) of the rows of a batch that the teacher went forward on. */
static double *outputs_of(const made *m, const pare_batch *batch, int64_t *rows)
{
    const pare_model_facts *facts = pare_model_facts_of(m->f.model);
    int64_t V = facts->classes;
    assert_ok(pare_model_forward(m->f.model, batch, false, NULL));
    *rows = pare_logits_rows(facts, batch);
    double *all = malloc((size_t)(*rows * V) * 8);
    float *buffer = malloc((size_t)(*rows * V) * 4);
    pare_tensor logits;
    assert_ok(pare_logits_of(m->f.model, m->f.be, 0, *rows, NULL, buffer, &logits));
    double t = m->options.temperature > 0 ? m->options.temperature : 1;
    for (int64_t r = 0; r < *rows; r++) {
        const float *x = (const float *)logits.data + r * V;
        double sum = 0;
        for (int64_t v = 0; v < V; v++)
            sum += exp((double)x[v] / t);
        for (int64_t v = 0; v < V; v++)
            all[r * V + v] = (double)x[v] / t - log(sum);
    }
    free(buffer);
    return all;
}

/* A row as it is kept: descending, the largest there are, in half precision. */
static double check_row(const double *want, int64_t V, const int32_t *index, const float *value,
                        int64_t k)
{
    double mass = 0;
    for (int64_t i = 0; i < k; i++) {
        assert_in_range(index[i], 0, V - 1);
        int64_t larger = 0;
        for (int64_t v = 0; v < V; v++)
            larger += want[v] > want[index[i]];
        assert_int_equal(larger, i);
        assert_true(fabs((double)value[i] - want[index[i]]) <= 1e-3 * (1 + fabs(want[index[i]])));
        mass += exp(want[index[i]]);
    }
    return mass;
}

/* Every sample of two epochs, in batches that end anywhere. */
static void check_reads(const made *m, pare_teacher_cache *cache)
{
    int64_t V = pare_model_facts_of(m->f.model)->classes, N = pare_dataset_count(m->f.dataset),
            rows;
    int64_t k = m->options.k;
    double mass = 0;
    for (int64_t first = 0; first < 2 * N; first += 3) {
        int64_t size = first + 3 <= 2 * N ? 3 : 2 * N - first;
        pare_batch *batch = fixture_batch(&m->f, first, size);
        double *want = outputs_of(m, batch, &rows);
        int32_t *index = malloc((size_t)(rows * k) * 4);
        float *value = malloc((size_t)(rows * k) * 4);
        assert_ok(pare_cache_read(cache, m->f.dataset, first, size, index, value));
        for (int64_t r = 0; r < rows; r++)
            mass += check_row(want + r * V, V, index + r * k, value + r * k, k);
        free(want);
        free(index);
        free(value);
        pare_batch_free(&batch);
    }
    const pare_cache_facts *facts = pare_cache_facts_of(cache);
    assert_true(fabs(mass / (double)(2 * facts->units) - facts->mass) < 1e-5);
}

static void the_largest_outputs_of_every_sample_are_kept(void **state)
{
    (void)state;
    const train_fixture_options *data[] = {&windows, &images, &classes};
    for (int i = 0; i < 6; i++) {
        made m = begin(data[i / 2], i % 2 ? 1 : 4, i % 2 ? 3 : 0);
        struct stat st;
        m.options.path = m.path;
        int64_t predicted = pare_cache_bytes(&m.options, pare_model_facts_of(m.f.model)->classes);
        assert_ok(make(&m));
        pare_teacher_cache *cache = open_cache(&m);
        check_reads(&m, cache);
        assert_int_equal(stat(m.path, &st), 0);
        assert_int_equal(st.st_size, predicted);
        int64_t each = i / 2 == 0 ? 6 : 1;
        assert_int_equal(m.facts.units, pare_dataset_count(m.f.dataset) * each);
        assert_int_equal(m.facts.bytes, m.facts.units * (m.options.k * 4 + 2));
        assert_int_equal(m.facts.k, m.options.k);
        pare_cache_close(&cache);
        fixture_free(&m.f);
    }
}

/* Of a large vocabulary indices are 32 bits wide, and logits come in chunks. */
static void a_large_vocabulary(void **state)
{
    (void)state;
    train_fixture_options o = windows;
    o.config = DUEL_LLAMA("8", "1", "2", "1", "70000");
    o.batch = 3;
    o.length = 60;
    o.samples = 4;
    made m = begin(&o, 3, 1);
    assert_ok(make(&m));
    assert_int_equal(m.facts.bytes, 4 * 60 * (3 * 6 + 2));
    pare_teacher_cache *cache = open_cache(&m);
    check_reads(&m, cache);
    pare_cache_close(&cache);
    fixture_free(&m.f);
}

/* KL(p ‖ p with its rest spread evenly), by the definition. */
static double cut(const double *log_p, int64_t V, int64_t k)
{
    double kept = 0, sum = 0;
    for (int64_t v = 0; v < V; v++) {
        int64_t larger = 0;
        for (int64_t u = 0; u < V; u++)
            larger += log_p[u] > log_p[v];
        kept += larger < k ? exp(log_p[v]) : 0;
    }
    for (int64_t v = 0; v < V; v++) {
        int64_t larger = 0;
        for (int64_t u = 0; u < V; u++)
            larger += log_p[u] > log_p[v];
        if (larger >= k)
            sum += exp(log_p[v]) * (log_p[v] - log((1 - kept) / (double)(V - k)));
    }
    return sum;
}

static void what_the_cut_loses_is_measured(void **state)
{
    (void)state;
    made m = begin(&windows, 5, 2);
    assert_ok(make(&m));
    double sum = 0;
    int64_t rows, V = 29;
    pare_batch *batch = fixture_batch(&m.f, 0, 4);
    for (int64_t first = 0, done = 0; first < 24 && done < 128; first += 4) {
        assert_ok(pare_dataset_fill(m.f.dataset, first, first < 20 ? 4 : 1, batch));
        double *p = outputs_of(&m, batch, &rows);
        for (int64_t r = 0; r < rows && done < 128; r++, done++)
            sum += cut(p + r * V, V, 5);
        if (first == 20)
            assert_int_equal(rows, 6);
        free(p);
    }
    assert_true(fabs(m.facts.kl_kept - sum / 126) < 1e-5);
    assert_true(m.facts.kl_kept > 0 && m.facts.mass < 1);
    pare_batch_free(&batch);
    fixture_free(&m.f);
}

/* ---- whose it is ----------------------------------------------------------------------------- */

static void refuse(const made *m, const char *teacher, const pare_dataset *dataset, int64_t k,
                   double temperature, const char *says)
{
    pare_teacher_cache *cache = NULL;
    assert_status(pare_cache_open(m->path, teacher, dataset, k, temperature, &cache),
                  PARE_ERR_EXISTS);
    if (!strstr(pare_last_error(), says))
        fail_msg("\"%s\" does not say \"%s\"", pare_last_error(), says);
    assert_null(cache);
}

static void another_teacher_or_data_or_size_is_refused(void **state)
{
    (void)state;
    made m = begin(&windows, 4, 2);
    train_fixture_options other = windows;
    other.samples = 22;
    made n = begin(&other, 4, 2);
    assert_ok(make(&m));
    refuse(&m, "4567", m.f.dataset, 4, 2, "teacher: 4567");
    refuse(&m, "0123", n.f.dataset, 4, 2, "data:");
    refuse(&m, "0123", m.f.dataset, 3, 2, "k: 3");
    refuse(&m, "0123", m.f.dataset, 4, 0, "temperature: 1");
    size_t size, again;
    char *bytes = read_all(m.path, &size);
    m.options.k = 3;
    assert_status(make(&m), PARE_ERR_EXISTS);
    m.options.k = 4;
    assert_ok(make(&m)); /* it is there */
    char *same = read_all(m.path, &again);
    assert_int_equal(size, again);
    assert_memory_equal(bytes, same, size);
    free(same);
    m.options.k = 3;
    m.options.overwrite = true; /* what took hours is not thrown away with an output */
    assert_status(make(&m), PARE_ERR_EXISTS);
    same = read_all(m.path, &again);
    assert_int_equal(size, again);
    assert_memory_equal(bytes, same, size);
    free(bytes);
    free(same);
    fixture_free(&n.f);
    fixture_free(&m.f);
}

static void damage_is_found(void **state)
{
    (void)state;
    made m = begin(&windows, 4, 2);
    assert_ok(make(&m));
    size_t size;
    char *bytes = read_all(m.path, &size);
    pare_teacher_cache *cache = NULL;
    for (size_t at = 0; at < size; at += size / 61 + 1) {
        bytes[at] ^= 0x40;
        write_all(m.path, bytes, size);
        bytes[at] ^= 0x40;
        pare_status got = pare_cache_open(m.path, "0123", m.f.dataset, 4, 2, &cache);
        if (got == PARE_OK) { /* padding: nothing that is read */
            check_reads(&m, cache);
            pare_cache_close(&cache);
        } else if (got != PARE_ERR_DAMAGED && got != PARE_ERR_EXISTS) {
            fail_msg("byte %zu: %s: %s", at, pare_status_name(got), pare_last_error());
        }
    }
    for (size_t cut_to = 0; cut_to < size; cut_to += size / 13 + 1) {
        write_all(m.path, bytes, cut_to);
        assert_int_not_equal(pare_cache_open(m.path, "0123", m.f.dataset, 4, 2, &cache), PARE_OK);
    }
    free(bytes);
    fixture_free(&m.f);
}

static void options_that_cannot_be_are_refused(void **state)
{
    (void)state;
    made m = begin(&images, 4, 1);
    m.options.k = 5;
    assert_status(make(&m), PARE_ERR_ARGUMENT);
    m.options.k = 0;
    assert_status(make(&m), PARE_ERR_ARGUMENT);
    m.options.k = 2;
    m.options.temperature = -1;
    assert_status(make(&m), PARE_ERR_ARGUMENT);
    m.options.temperature = 1;
    snprintf(m.path, sizeof m.path, "%s/teacher.bin", m.f.folder);
    assert_status(make(&m), PARE_ERR_ARGUMENT);
    fixture_free(&m.f);
    train_fixture_options mixed = images;
    mixed.mixup = 0.2f;
    m = begin(&mixed, 2, 1);
    assert_status(make(&m), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "augmented"));
    fixture_free(&m.f);
    train_fixture_options vector = classes;
    vector.config = DUEL_BERT("BertModel", "16", "2", "2");
    m = begin(&vector, 2, 1);
    assert_status(make(&m), PARE_ERR_ARGUMENT);
    fixture_free(&m.f);
}

static void a_teacher_that_gives_nan_is_told(void **state)
{
    (void)state;
    made m = begin(&images, 2, 1);
    ((float *)pare_model_param(m.f.model, 0)->value.data)[3] = NAN;
    assert_status(make(&m), PARE_ERR_NUMERIC);
    fixture_free(&m.f);
}

/* ---- going on after a stop ------------------------------------------------------------------- */

/* Stops the teacher when it begins its nth batch from now on. */
static pare_status count_down(void *user, int64_t node, const pare_node_view *view, bool backward)
{
    int *left = user;
    (void)view;
    (void)backward;
    if (node == 0 && --*left < 0)
        PARE_FAIL(PARE_ERR_INTERRUPTED, "enough batches");
    return PARE_OK;
}

/* Enough rows for a group and a part of one. */
static const train_fixture_options many = {.config = DUEL_LLAMA("4", "1", "1", "1", "29"),
                                           .batch = 48,
                                           .length = 60,
                                           .samples = 1400,
                                           .vocabulary = 29};

static pare_status make_until(made *m, int batches)
{
    pare_model_set_hook(m->f.model, count_down, &batches);
    pare_status status = make(m);
    pare_model_set_hook(m->f.model, NULL, NULL);
    return status;
}

static void a_stopped_making_goes_on_and_ends_with_the_same_bytes(void **state)
{
    (void)state;
    made m = begin(&many, 2, 1);
    size_t size, again;
    char path[4300];
    assert_ok(make(&m));
    char *bytes = read_all(m.path, &size);
    double mass = m.facts.mass, kl = m.facts.kl_kept;
    assert_int_equal(remove(m.path), 0);
    static const int batches[] = {3, 26, 2}; /* the group ends in the 23rd */
    for (int i = 0; i < 3; i++) {
        struct stat st;
        assert_status(make_until(&m, batches[i]), PARE_ERR_INTERRUPTED);
        assert_int_not_equal(stat(m.path, &st), 0);
    }
    assert_ok(make_until(&m, 8)); /* no more are left */
    char *same = read_all(m.path, &again);
    assert_int_equal(size, again);
    assert_memory_equal(bytes, same, size);
    assert_true(!(fabs(mass - m.facts.mass) > 0) && !(fabs(kl - m.facts.kl_kept) > 0));
    free(same);
    /* without the part, or with another journal, it begins again */
    assert_int_equal(remove(m.path), 0);
    assert_status(make_until(&m, 26), PARE_ERR_INTERRUPTED);
    snprintf(path, sizeof path, "%s.part", m.path);
    assert_int_equal(remove(path), 0);
    assert_ok(make(&m));
    same = read_all(m.path, &again);
    assert_int_equal(size, again);
    assert_memory_equal(bytes, same, size);
    free(same);
    assert_int_equal(remove(m.path), 0);
    assert_status(make_until(&m, 26), PARE_ERR_INTERRUPTED);
    m.options.k = 3;
    assert_status(make(&m), PARE_ERR_EXISTS);
    m.options.overwrite = true;
    assert_ok(make(&m));
    free(bytes);
    fixture_free(&m.f);
}

/* ---- learning from it ------------------------------------------------------------------------ */

/* A duel on the same data, with the same teacher's values. */
static duel_options duel_of(const made *m, const pare_teacher_cache *cache)
{
    duel_options o = {.student_config = STUDENT,
                      .teacher_config = TEACHER,
                      .data = windows,
                      .losses = "kl",
                      .cache = cache};
    o.distill.temperature.from = m->options.temperature;
    return o;
}

static void with_all_classes_it_is_the_teacher_itself(void **state)
{
    (void)state;
    made m = begin(&windows, 29, 2);
    assert_ok(make(&m));
    assert_true(m.facts.mass > 0.9999);
    pare_teacher_cache *cache = open_cache(&m);
    duel_options o = duel_of(&m, cache);
    duel near = duel_make(&o);
    o.cache = NULL;
    duel whole = duel_make(&o);
    for (int64_t first = 0; first < 60; first += 13) { /* any epoch */
        duel_batch(&near, first, 4);
        duel_batch(&whole, first, 4);
        double a = duel_step(&near), b = duel_step(&whole);
        assert_int_equal(near.count, whole.count);
        if (!(fabs(a - b) <= 2e-3 * (1 + b)))
            fail_msg("%g from the cache, %g from the teacher", a, b);
        int64_t count;
        float *g = duel_gradients(&near, &count), *h = duel_gradients(&whole, &count);
        for (int64_t i = 0; i < count; i++)
            assert_true(fabs((double)(g[i] - h[i])) <= 5e-3 * (1 + fabs((double)h[i])));
        free(g);
        free(h);
    }
    duel_free(&whole);
    duel_free(&near);
    pare_cache_close(&cache);
    fixture_free(&m.f);
}

static void of_fewer_classes_the_loss_is_a_lower_bound_with_its_own_gradient(void **state)
{
    (void)state;
    made m = begin(&windows, 5, 2);
    assert_ok(make(&m));
    pare_teacher_cache *cache = open_cache(&m);
    duel_options o = duel_of(&m, cache);
    duel near = duel_make(&o);
    o.cache = NULL;
    duel whole = duel_make(&o);
    double a = duel_loss(&near), b = duel_loss(&whole);
    assert_true(a > 0.1 * b && a < b * 1.001);
    duel_check(&near);
    duel_free(&whole);
    duel_free(&near);
    o.cache = cache;
    o.losses = "ce:0.5,kl";
    near = duel_make(&o);
    duel_check(&near);
    int64_t count;
    float *want = duel_gradients(&near, &count);
    duel_free(&near);
    o.data.be = far_backend_make(2);
    near = duel_make(&o);
    duel_step(&near);
    float *got = duel_gradients(&near, &count);
    free(want);
    free(got);
    duel_free(&near);
    pare_cache_close(&cache);
    fixture_free(&m.f);
}

static void a_cache_is_for_outputs_at_its_temperature(void **state)
{
    (void)state;
    made m = begin(&windows, 5, 2);
    assert_ok(make(&m));
    pare_teacher_cache *cache = open_cache(&m);
    pare_distill_options o = {.temperature = {.from = 2}};
    pare_distill *d = NULL;
    pare_model *student = NULL;
    assert_ok(pare_model_create(&(pare_model_options){.config = STUDENT}, &student));
    assert_ok(pare_distill_losses_parse("kl,hidden", &o));
    assert_status(pare_distill_create(&o, student, NULL, cache, &d), PARE_ERR_ARGUMENT);
    assert_ok(pare_distill_losses_parse("kl", &o));
    o.temperature.from = 1;
    assert_status(pare_distill_create(&o, student, NULL, cache, &d), PARE_ERR_ARGUMENT);
    o.temperature = (pare_ramp){.from = 2, .to = 1, .end = 1};
    assert_status(pare_distill_create(&o, student, NULL, cache, &d), PARE_ERR_ARGUMENT);
    o.temperature = (pare_ramp){.from = 2};
    o.divergence = PARE_DIVERGENCE_REVERSE;
    assert_status(pare_distill_create(&o, student, NULL, cache, &d), PARE_ERR_ARGUMENT);
    o.divergence = PARE_DIVERGENCE_FORWARD;
    assert_ok(pare_distill_create(&o, student, NULL, cache, &d));
    pare_distill_free(&d);
    pare_model_free(&student);
    pare_cache_close(&cache);
    fixture_free(&m.f);
}

/* A teacher on a backend whose memory the host cannot touch writes the same file. */
static void far_memory_makes_no_difference(void **state)
{
    (void)state;
    train_fixture_options o = windows;
    size_t size, again;
    assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 1}, &o.be));
    made m = begin(&o, 4, 2);
    assert_ok(make(&m));
    char *bytes = read_all(m.path, &size);
    o.be = far_backend_make(1);
    made n = begin(&o, 4, 2);
    assert_ok(make(&n));
    char *same = read_all(n.path, &again);
    assert_int_equal(size, again);
    assert_memory_equal(bytes, same, size);
    free(bytes);
    free(same);
    fixture_free(&n.f);
    fixture_free(&m.f);
}

#define T(name_) cmocka_unit_test(name_)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(the_largest_outputs_of_every_sample_are_kept),
        T(a_large_vocabulary),
        T(what_the_cut_loses_is_measured),
        T(another_teacher_or_data_or_size_is_refused),
        T(damage_is_found),
        T(options_that_cannot_be_are_refused),
        T(a_teacher_that_gives_nan_is_told),
        T(a_stopped_making_goes_on_and_ends_with_the_same_bytes),
        T(with_all_classes_it_is_the_teacher_itself),
        T(of_fewer_classes_the_loss_is_a_lower_bound_with_its_own_gradient),
        T(a_cache_is_for_outputs_at_its_temperature),
        T(far_memory_makes_no_difference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
