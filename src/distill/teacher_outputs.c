/* teacher_outputs.c - makes a teacher's cache: its k largest outputs for every sample, written as
 * they come.
 *
 * The data's first epoch goes forward batch by batch; rows gather in a window that is written when
 * it is full. Whenever a group of rows is on the disk, all three entries of it, that is noted in a
 * journal beside the file: a killed making goes on behind the last group, with the same batches,
 * and ends with the same bytes. What the cut to k loses is measured on the first rows, on the host.
 */
#include "distill_impl.h"

#include "pare/ops.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/half.h"
#include "base/text.h"

#include <math.h>
#include <string.h>

#define MEASURED                                                                                   \
    128         /* rows whose loss by the cut is measured: all classes of each are looked at       \
                 */
#define AHEAD 2 /* batches that are made while the teacher works on one */
#define GROUP 1 /* the journal's only kind of record */

/* What the journal says of everything up to the end of a group. */
typedef struct group_record {
    int64_t rows;
    pare_sums sums[PARE__CACHE_ENTRIES]; /* of the group alone */
    double mass, kl;                     /* sums so far */
    int64_t measured;
} group_record;

typedef struct making {
    const pare_cache_options *o;
    const pare_model_facts *facts;
    pare_backend *host;
    pare_writer *writer;
    pare_journal *journal;
    char *journal_path;
    pare_entry entries[PARE__CACHE_ENTRIES];
    int64_t units, each; /* rows of all, of a sample */
    int64_t window, group;
    group_record now;   /* up to the last row taken */
    int64_t begun, row; /* rows that lie in the file already; the next row of the stream */
    pare_sums taken[PARE__CACHE_ENTRIES]; /* of the journal */
    void *index;                          /* [window, k] U16 or I32 */
    uint16_t *value, *mass;               /* [window, k], [group] */
    float *logits;                        /* of TOKENS, a chunk */
    int32_t *top;                         /* [chunk, k], as ops see it and as the host does */
    float *top_value;
    char *arena, *near; /* their memory; the host's, NULL: the same */
    int64_t arena_bytes, near_bytes, chunk;
    int32_t *near_top;
    float *near_value, *outputs; /* [classes]: a row as the host sees it */
} making;

/* ---- sizes ----------------------------------------------------------------------------------- */

static int64_t units_of(const pare_cache_options *o, const pare_model_facts *facts)
{
    int64_t each = facts->output == PARE_OUTPUT_TOKENS ? pare_dataset_length(o->dataset) : 1;
    return pare_dataset_count(o->dataset) * each;
}

static pare_writer_options file_of(const pare_cache_options *o, const pare_entry *entries,
                                   const char *provenance)
{
    return (pare_writer_options){.path = o->path,
                                 .entries = entries,
                                 .count = PARE__CACHE_ENTRIES,
                                 .provenance = provenance,
                                 .overwrite = o->overwrite};
}

/* Whose outputs they are, and what is known of them. */
static pare_status provenance_of(const pare_cache_options *o, const pare_cache_facts *facts,
                                 int64_t classes, char **provenance)
{
    pare__text text = {0};
    char *identity = NULL, lines[256];
    PARE_TRY(pare__cache_identity(o->teacher_digest, o->dataset, o->k, o->temperature, &identity));
    pare__cache_describe(facts, classes, lines, sizeof lines);
    pare__text_add(&text, "%s%s", identity, lines);
    free(identity);
    return pare__text_take(&text, provenance);
}

int64_t pare_cache_bytes(const pare_cache_options *o, int64_t classes)
{
    pare_entry entries[PARE__CACHE_ENTRIES];
    int64_t files, bytes = 0;
    pare_cache_facts facts = {.units = units_of(o, pare_model_facts_of(o->teacher))};
    char *provenance = NULL;
    pare__cache_entries(facts.units, o->k, classes, entries);
    if (provenance_of(o, &facts, classes, &provenance) == PARE_OK) {
        pare_writer_options file = file_of(o, entries, provenance);
        if (pare_writer_predict(&file, &files, &bytes) != PARE_OK)
            bytes = 0;
    }
    free(provenance);
    return bytes;
}

/* What ops write for a chunk of rows. */
static void carve_top(const making *m, pare__carve *c, int32_t **top, float **value)
{
    *top = pare__carve_next(c, m->chunk * m->o->k * 4);
    *value = pare__carve_next(c, m->chunk * m->o->k * 4);
}

static int64_t carve_arena(making *m)
{
    pare__carve c = {.base = m->arena};
    bool tokens = m->facts->output == PARE_OUTPUT_TOKENS;
    carve_top(m, &c, &m->top, &m->top_value);
    m->logits = pare__carve_next(&c, tokens ? m->chunk * m->facts->classes * 4 : 0);
    return c.size;
}

static int64_t carve_near(making *m)
{
    pare__carve c = {.base = m->near};
    carve_top(m, &c, &m->near_top, &m->near_value);
    m->outputs = pare__carve_next(&c, m->facts->classes * 4);
    return c.size;
}

/* Rows that are written together, and whose mass is: one is a multiple of the other. */
static void size_groups(making *m)
{
    int64_t index = pare_entry_align(&m->entries[PARE__CACHE_INDEX]);
    int64_t value = pare_entry_align(&m->entries[PARE__CACHE_VALUE]);
    m->group = pare_entry_align(&m->entries[PARE__CACHE_MASS]);
    m->window = index > value ? index : value;
    PARE_ASSERT(m->group % m->window == 0 && m->window % index == 0 && m->window % value == 0);
}

static pare_status make_memory(making *m)
{
    const pare_cache_options *o = m->o;
    size_t width = (size_t)pare_dtype_bits(m->entries[PARE__CACHE_INDEX].dtype) / 8;
    PARE_TRY(pare__calloc((size_t)(m->window * o->k), width, &m->index));
    PARE_TRY(pare__calloc((size_t)(m->window * o->k), sizeof *m->value, &m->value));
    PARE_TRY(pare__calloc((size_t)m->group, sizeof *m->mass, &m->mass));
    m->chunk = pare_logits_at_once(m->facts, o->batch * m->each);
    m->arena_bytes = carve_arena(m);
    PARE_TRY(pare_backend_alloc(o->be, m->arena_bytes, &m->arena));
    carve_arena(m);
    m->near_bytes = carve_near(m);
    PARE_TRY(pare_backend_host_alloc(o->be, m->near_bytes, &m->near));
    carve_near(m);
    return PARE_OK;
}

static void free_all(making *m)
{
    pare_backend_host_release(m->o->be, m->near, m->near_bytes);
    pare_backend_release(m->o->be, m->arena, m->arena_bytes);
    free(m->mass);
    free(m->value);
    free(m->index);
    pare_writer_free(&m->writer, false);
    pare_journal_close(&m->journal, false);
    free(m->journal_path);
}

/* ---- writing --------------------------------------------------------------------------------- */

static pare_status write_rows(making *m, int entry, int64_t first, int64_t count, void *values)
{
    pare_parts parts;
    pare_rows rows = {.first = first, .count = count, .values = values};
    PARE_TRY(pare_writer_encode(m->writer, m->host, entry, &rows, NULL, &parts));
    PARE_TRY(pare_writer_write(m->writer, &parts));
    pare_writer_add_sums(m->writer, entry, &parts.sums);
    for (int i = 0; i < PARE_ENTRY_SUMS; i++)
        m->now.sums[entry].sum[i] += parts.sums.sum[i];
    return PARE_OK;
}

/* The window's rows end behind the last row taken. */
static pare_status write_window(making *m)
{
    int64_t count = (m->now.rows - 1) % m->window + 1, first = m->now.rows - count;
    PARE_TRY(write_rows(m, PARE__CACHE_INDEX, first, count, m->index));
    PARE_TRY(write_rows(m, PARE__CACHE_VALUE, first, count, m->value));
    return PARE_OK;
}

/* A whole group is there for good once the journal says so. */
static pare_status end_group(making *m)
{
    int64_t count = (m->now.rows - 1) % m->group + 1;
    PARE_TRY(write_rows(m, PARE__CACHE_MASS, m->now.rows - count, count, m->mass));
    if (m->now.rows == m->units)
        return PARE_OK;
    PARE_TRY(pare_writer_sync(m->writer));
    PARE_TRY(pare_journal_add(m->journal, GROUP, &m->now, sizeof m->now));
    memset(m->now.sums, 0, sizeof m->now.sums);
    return PARE_OK;
}

static pare_status take_row(making *m, const int32_t *top, const float *value)
{
    int64_t k = m->o->k, at = m->now.rows % m->window * k;
    bool narrow = m->entries[PARE__CACHE_INDEX].dtype == PARE_U16;
    double mass = 0;
    PARE_REQUIRE(!isnan(value[0]), PARE_ERR_NUMERIC,
                 "the teacher's output for sample %lld of the data's first epoch is NaN",
                 (long long)(m->now.rows / m->each));
    for (int64_t i = 0; i < k; i++) {
        if (narrow)
            ((uint16_t *)m->index)[at + i] = (uint16_t)top[i];
        else
            ((int32_t *)m->index)[at + i] = top[i];
        m->value[at + i] = pare__f32_to_f16(value[i]);
        mass += exp((double)value[i]);
    }
    mass = mass < 1 ? mass : 1;
    m->mass[m->now.rows % m->group] = pare__f32_to_f16((float)mass);
    m->now.mass += mass;
    m->now.rows++;
    if (m->now.rows % m->window == 0 || m->now.rows == m->units)
        PARE_TRY(write_window(m));
    if (m->now.rows % m->group == 0 || m->now.rows == m->units)
        PARE_TRY(end_group(m));
    return PARE_OK;
}

/* ---- what the cut loses ---------------------------------------------------------------------- */

/* KL(p ‖ p with its rest ρ spread evenly) = Σ_rest p·log p − ρ·log(ρ/(V − k)). */
static double loss_of_cut(const making *m, const int32_t *top, double temperature)
{
    int64_t V = m->facts->classes, k = m->o->k;
    const float *x = m->outputs;
    double most = (double)x[top[0]] / temperature, sum = 0, kept = 0, whole = 0, known = 0;
    for (int64_t v = 0; v < V; v++)
        sum += exp((double)x[v] / temperature - most);
    double shift = most + log(sum);
    for (int64_t v = 0; v < V; v++) {
        double log_p = (double)x[v] / temperature - shift, p = exp(log_p);
        whole += p > 0 ? p * log_p : 0;
    }
    for (int64_t i = 0; i < k; i++) {
        double log_p = (double)x[top[i]] / temperature - shift, p = exp(log_p);
        known += p > 0 ? p * log_p : 0;
        kept += p;
    }
    double rest = 1 - kept;
    if (V <= k || !(rest > 0))
        return 0;
    double loss = whole - known - rest * log(rest / (double)(V - k));
    return loss > 0 ? loss : 0;
}

static pare_status measure_row(making *m, pare_tensor logits, int64_t row, const int32_t *top)
{
    double t = m->o->temperature > 0 ? m->o->temperature : 1;
    int64_t V = m->facts->classes;
    PARE_TRY(pare_backend_download(m->o->be, m->outputs, (float *)logits.data + row * V, V * 4));
    m->now.kl += loss_of_cut(m, top, t);
    m->now.measured++;
    return PARE_OK;
}

/* ---- a batch --------------------------------------------------------------------------------- */

static pare_status take_chunk(making *m, int64_t first, int64_t count)
{
    const pare_cache_options *o = m->o;
    pare_tensor logits;
    PARE_TRY(pare_logits_of(o->teacher, o->be, first, count, NULL, m->logits, &logits));
    PARE_TRY(pare_top_k(
        o->be, &(pare_top_k_args){.x = logits,
                                  .index = pare_matrix(m->top, PARE_I32, count, o->k),
                                  .value = pare_matrix(m->top_value, PARE_F32, count, o->k),
                                  .temperature = (float)o->temperature}));
    PARE_TRY(pare_backend_download(o->be, m->near_top, m->top, count * o->k * 4));
    PARE_TRY(pare_backend_download(o->be, m->near_value, m->top_value, count * o->k * 4));
    for (int64_t i = 0; i < count; i++, m->row++) {
        const int32_t *top = m->near_top + i * o->k;
        if (m->row < m->begun)
            continue;
        if (m->row < MEASURED && !isnan(m->near_value[i * o->k]))
            PARE_TRY(measure_row(m, logits, i, top));
        PARE_TRY(take_row(m, top, m->near_value + i * o->k));
    }
    return PARE_OK;
}

static pare_status work(void *user, int64_t index, const pare_batch *batch)
{
    making *m = user;
    (void)index;
    int64_t rows = pare_logits_rows(m->facts, batch);
    PARE_TRY(pare_model_forward(m->o->teacher, batch, false, NULL));
    for (int64_t first = 0; first < rows; first += m->chunk)
        PARE_TRY(take_chunk(m, first, rows - first < m->chunk ? rows - first : m->chunk));
    return PARE_OK;
}

/* ---- the file and its journal ---------------------------------------------------------------- */

static pare_status remember(void *user, uint32_t type, const void *payload, uint32_t size)
{
    making *m = user;
    group_record r;
    if (type != GROUP || size != sizeof r)
        return PARE_OK;
    memcpy(&r, payload, sizeof r);
    for (int e = 0; e < PARE__CACHE_ENTRIES; e++)
        for (int i = 0; i < PARE_ENTRY_SUMS; i++)
            m->taken[e].sum[i] += r.sums[e].sum[i];
    m->now = r;
    memset(m->now.sums, 0, sizeof m->now.sums);
    return PARE_OK;
}

static pare_status make_key(const making *m, uint64_t key[2])
{
    const pare_cache_options *o = m->o;
    char *identity = NULL;
    PARE_TRY(pare__cache_identity(o->teacher_digest, o->dataset, o->k, o->temperature, &identity));
    pare_status status = pare_digest(
        m->host,
        &(pare_digest_args){.bytes = identity, .size = (int64_t)strlen(identity), .result = key});
    free(identity);
    return status;
}

static pare_status open_journal(making *m)
{
    uint64_t key[2] = {0};
    bool resumed;
    PARE_TRY(make_key(m, key));
    m->now = (group_record){0};
    memset(m->taken, 0, sizeof m->taken);
    return pare_journal_open(m->journal_path, key, m->o->overwrite, remember, m, &resumed,
                             &m->journal);
}

static pare_status describe(const making *m, char **provenance)
{
    double rows = m->now.rows > 0 ? (double)m->now.rows : 1;
    pare_cache_facts facts = {.units = m->units, .mass = m->now.mass / rows};
    if (m->now.measured > 0)
        facts.kl_kept = m->now.kl / (double)m->now.measured;
    return provenance_of(m->o, &facts, m->facts->classes, provenance);
}

/* Goes on with the part that lies there if the journal speaks of it; else begins a new one. */
static pare_status open_file(making *m)
{
    char *provenance = NULL;
    pare_status status = PARE_ERR_DAMAGED;
    PARE_TRY(describe(m, &provenance));
    pare_writer_options file = file_of(m->o, m->entries, provenance);
    if (m->now.rows > 0 && m->now.rows < m->units && m->now.rows % m->group == 0)
        status = pare_writer_create(&file, true, &m->writer);
    if (status != PARE_OK) {
        pare_journal_close(&m->journal, true);
        status = open_journal(m);
        if (status == PARE_OK)
            status = pare_writer_create(&file, false, &m->writer);
    } else {
        for (int e = 0; e < PARE__CACHE_ENTRIES; e++)
            pare_writer_add_sums(m->writer, e, &m->taken[e]);
    }
    free(provenance);
    m->begun = m->now.rows;
    return status;
}

static pare_status finish(making *m)
{
    char *provenance = NULL;
    PARE_TRY(describe(m, &provenance));
    pare_status status = pare_writer_provenance(m->writer, provenance);
    free(provenance);
    PARE_TRY(status);
    PARE_TRY(pare_writer_finish(m->writer));
    pare_journal_close(&m->journal, true);
    return PARE_OK;
}

static pare_status make(making *m, pare_sched *sched)
{
    const pare_cache_options *o = m->o;
    pare__text path = {0};
    pare__text_add(&path, "%s.journal", o->path);
    PARE_TRY(pare__text_take(&path, &m->journal_path));
    PARE_TRY(open_journal(m));
    PARE_TRY(open_file(m));
    PARE_TRY(make_memory(m));
    int64_t batch = m->begun / (o->batch * m->each); /* the one that the next row belongs to */
    m->row = batch * o->batch * m->each;
    pare_feed_options feed = {.dataset = o->dataset,
                              .batch = o->batch,
                              .first = batch * o->batch,
                              .last = pare_dataset_count(o->dataset),
                              .ahead = AHEAD};
    PARE_TRY(pare_feed_run(sched, "teacher", &feed, work, m));
    return finish(m);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static pare_status check(const pare_cache_options *o)
{
    PARE_REQUIRE(o && o->path && o->teacher && o->be && o->dataset && o->batch >= 1,
                 PARE_ERR_ARGUMENT, "a cache needs a path, a teacher, data and a batch");
    const pare_model_facts *facts = pare_model_facts_of(o->teacher);
    size_t length = strlen(o->path);
    PARE_REQUIRE(length > 3 && strcmp(o->path + length - 3, ".h5") == 0, PARE_ERR_ARGUMENT,
                 "a teacher's outputs are kept in an .h5; %s is not called so", o->path);
    PARE_REQUIRE(facts->output == PARE_OUTPUT_CLASSES || facts->output == PARE_OUTPUT_TOKENS,
                 PARE_ERR_ARGUMENT,
                 "only outputs of classes and tokens are kept; this teacher gives embeddings");
    PARE_REQUIRE(o->k >= 1 && o->k <= facts->classes, PARE_ERR_ARGUMENT,
                 "%lld of %lld outputs cannot be kept", (long long)o->k, (long long)facts->classes);
    PARE_REQUIRE(isfinite(o->temperature) && o->temperature >= 0, PARE_ERR_ARGUMENT,
                 "a temperature of %g makes no sense; it must be above 0", o->temperature);
    PARE_REQUIRE(!pare_dataset_augments(o->dataset), PARE_ERR_ARGUMENT,
                 "%s is augmented: no two epochs give the teacher the same sample, so its outputs "
                 "cannot be kept",
                 pare_dataset_path(o->dataset));
    return PARE_OK;
}

/* The facts of a file that is there, if it is the one that is asked for. */
static pare_status look(const pare_cache_options *o, pare_cache_facts *facts)
{
    pare_teacher_cache *cache = NULL;
    PARE_TRY(pare_cache_open(o->path, o->teacher_digest, o->dataset, o->k, o->temperature, &cache));
    *facts = *pare_cache_facts_of(cache);
    pare_cache_close(&cache);
    return PARE_OK;
}

pare_status pare_cache_make(pare_sched *sched, const pare_cache_options *options,
                            pare_cache_facts *facts)
{
    PARE_REQUIRE(sched && facts, PARE_ERR_ARGUMENT, "a cache: NULL argument");
    PARE_TRY(check(options));
    if (pare__exists(options->path))
        return look(options, facts);
    const pare_model_facts *model = pare_model_facts_of(options->teacher);
    making m = {.o = options, .facts = model, .host = pare_backend_host(options->be)};
    m.units = units_of(options, model);
    m.each = m.units / pare_dataset_count(options->dataset);
    pare__cache_entries(m.units, options->k, model->classes, m.entries);
    size_groups(&m);
    pare_status status = make(&m, sched);
    free_all(&m);
    PARE_TRY(status);
    return look(options, facts);
}
