/* teacher_cache.c - a teacher's largest outputs from an .h5, sample by sample.
 *
 * The file is in the order of the data's first epoch; where an item of another epoch lies is looked
 * up in a table. Its provenance says whose outputs they are, line by line, then what was measured
 * when they were made. Checksums are looked at once, when the file is opened. */
#include "distill_impl.h"

#include "base/half.h"
#include "base/text.h"

#include <inttypes.h>
#include <string.h>

struct pare_teacher_cache {
    pare_store *store;
    pare_backend *be; /* the store's work */
    pare_cache_facts facts;
    double temperature;
    int64_t classes, samples, each; /* each: units of a sample */
    int32_t *place;                 /* [items]: where in the first epoch an item comes, −1 */
    int64_t items;
    int64_t index, value; /* entries */
    pare_dtype index_dtype;
};

/* ---- whose they are -------------------------------------------------------------------------- */

pare_status pare__cache_identity(const char *teacher_digest, const pare_dataset *dataset, int64_t k,
                                 double temperature, char **identity)
{
    pare__text text = {0};
    uint64_t digest[2];
    char hex[33];
    pare_dataset_digest(dataset, digest);
    pare__hex128(digest, hex);
    pare__text_add(&text,
                   "pare teacher outputs 1\nteacher: %s\ndata: %s\nlength: %" PRId64 "\nk: %" PRId64
                   "\ntemperature: %.17g\n",
                   teacher_digest ? teacher_digest : "", hex, pare_dataset_length(dataset), k,
                   temperature > 0 ? temperature : 1);
    return pare__text_take(&text, identity);
}

/* The numbers have as many letters whatever they are: the text is replaced when they are known. */
void pare__cache_describe(const pare_cache_facts *facts, int64_t classes, char *text, size_t size)
{
    snprintf(text, size, "classes: %" PRId64 "\nunits: %" PRId64 "\nmass: %020.16f\nkl: %020.16f\n",
             classes, facts->units, facts->mass, facts->kl_kept);
}

void pare__cache_entries(int64_t units, int64_t k, int64_t classes,
                         pare_entry entries[PARE__CACHE_ENTRIES])
{
    entries[PARE__CACHE_INDEX] = (pare_entry){.name = "index",
                                              .dtype = classes <= 65536 ? PARE_U16 : PARE_I32,
                                              .rank = 2,
                                              .shape = {units, k}};
    entries[PARE__CACHE_MASS] =
        (pare_entry){.name = "mass", .dtype = PARE_F16, .rank = 1, .shape = {units}};
    entries[PARE__CACHE_VALUE] =
        (pare_entry){.name = "value", .dtype = PARE_F16, .rank = 2, .shape = {units, k}};
    for (int i = 0; i < PARE__CACHE_ENTRIES; i++) {
        pare_entry *e = &entries[i];
        pare_shape_matrix(e->rank, e->shape, &e->rows, &e->cols);
        e->piece_rows = pare_piece_rows(e->dtype, e->cols);
    }
}

/* Fails with the first line that is not the same; what follows them goes to *rest. */
static pare_status compare(const char *path, const char *theirs, const char *ours,
                           const char **rest)
{
    static const char first[] = "pare teacher outputs 1\n";
    PARE_REQUIRE(theirs && strncmp(theirs, first, strlen(first)) == 0, PARE_ERR_EXISTS,
                 "%s holds no outputs of a teacher", path);
    while (*ours) {
        int a = (int)strcspn(theirs, "\n"), b = (int)strcspn(ours, "\n");
        PARE_REQUIRE(a == b && strncmp(theirs, ours, (size_t)a) == 0, PARE_ERR_EXISTS,
                     "%s holds other outputs: \"%.*s\" there, \"%.*s\" here; give another path, or "
                     "remove the file",
                     path, a < 200 ? a : 200, theirs, b < 200 ? b : 200, ours);
        theirs += a + (theirs[a] != '\0');
        ours += b + 1;
    }
    *rest = theirs;
    return PARE_OK;
}

/* ---- opening --------------------------------------------------------------------------------- */

static pare_status read_facts(pare_teacher_cache *c, const char *text)
{
    pare_cache_facts *f = &c->facts;
    int fields = sscanf(text, "classes: %" SCNd64 "\nunits: %" SCNd64 "\nmass: %lf\nkl: %lf\n",
                        &c->classes, &f->units, &f->mass, &f->kl_kept);
    PARE_REQUIRE(fields == 4 && c->classes > 0 && f->units > 0, PARE_ERR_DAMAGED,
                 "%s does not say what it holds; remove it to make it again",
                 pare_store_path(c->store));
    return PARE_OK;
}

static pare_status check_entries(pare_teacher_cache *c)
{
    const char *path = pare_store_path(c->store);
    pare_entry want[PARE__CACHE_ENTRIES];
    pare__cache_entries(c->facts.units, c->facts.k, c->classes, want);
    for (int i = 0; i < PARE__CACHE_ENTRIES; i++) {
        int64_t at = pare_store_find(c->store, want[i].name);
        const pare_entry *e = at >= 0 ? pare_store_entry(c->store, at) : NULL;
        bool same = e && e->form == PARE_FORM_DENSE && e->dtype == want[i].dtype &&
                    e->rank == want[i].rank && e->rows == want[i].rows && e->cols == want[i].cols;
        PARE_REQUIRE(same, PARE_ERR_DAMAGED,
                     "%s: '%s' is not what a teacher's outputs have there; remove the file to make "
                     "it again",
                     path, want[i].name);
        PARE_TRY(pare_store_verify(c->store, c->be, at));
        c->facts.bytes += e->stored_bytes;
    }
    c->index = pare_store_find(c->store, "index");
    c->value = pare_store_find(c->store, "value");
    c->index_dtype = want[PARE__CACHE_INDEX].dtype;
    c->facts.bytes_per_unit = (double)c->facts.bytes / (double)c->facts.units;
    return PARE_OK;
}

/* Units of a sample: its tokens, or itself. */
static pare_status count_units(pare_teacher_cache *c, const pare_dataset *dataset)
{
    int64_t T = pare_dataset_length(dataset);
    c->samples = pare_dataset_count(dataset);
    c->each = c->facts.units / c->samples;
    bool whole = c->each * c->samples == c->facts.units && (c->each == 1 || c->each == T);
    PARE_REQUIRE(whole, PARE_ERR_DAMAGED,
                 "%s has %lld rows for %lld samples; remove it to make it again",
                 pare_store_path(c->store), (long long)c->facts.units, (long long)c->samples);
    return PARE_OK;
}

static pare_status make_table(pare_teacher_cache *c, const pare_dataset *dataset)
{
    for (int64_t g = 0; g < c->samples; g++) {
        int64_t item = pare_dataset_item(dataset, g);
        c->items = item >= c->items ? item + 1 : c->items;
    }
    PARE_REQUIRE(c->samples <= INT32_MAX, PARE_ERR_UNSUPPORTED,
                 "%lld samples are more than a teacher's outputs can be kept of",
                 (long long)c->samples);
    PARE_TRY(pare__calloc((size_t)c->items, sizeof *c->place, &c->place));
    memset(c->place, -1, (size_t)c->items * sizeof *c->place);
    for (int64_t g = 0; g < c->samples; g++)
        c->place[pare_dataset_item(dataset, g)] = (int32_t)g;
    return PARE_OK;
}

static pare_status open_file(pare_teacher_cache *c, const char *path, const char *identity,
                             const pare_dataset *dataset)
{
    const char *rest;
    pare_status status = pare_store_open(path, &c->store);
    if (status == PARE_ERR_UNSUPPORTED) /* so damaged that it looks like something else */
        status = pare__error(PARE_ERR_DAMAGED, __func__, "%s holds no outputs of a teacher", path);
    PARE_TRY(status);
    PARE_TRY(compare(path, pare_store_provenance(c->store), identity, &rest));
    PARE_TRY(pare_cpu_create(NULL, &c->be));
    PARE_TRY(read_facts(c, rest));
    PARE_TRY(check_entries(c));
    PARE_TRY(count_units(c, dataset));
    return make_table(c, dataset);
}

pare_status pare_cache_open(const char *path, const char *teacher_digest,
                            const pare_dataset *dataset, int64_t k, double temperature,
                            pare_teacher_cache **cache)
{
    pare_teacher_cache *c = NULL;
    char *identity = NULL;
    PARE_REQUIRE(path && dataset && cache && k >= 1, PARE_ERR_ARGUMENT,
                 "a teacher's cache needs a path, data, and a k of 1 at least");
    *cache = NULL;
    PARE_TRY(pare__calloc(1, sizeof *c, &c));
    c->facts.k = k;
    c->temperature = temperature > 0 ? temperature : 1;
    pare_status status = pare__cache_identity(teacher_digest, dataset, k, temperature, &identity);
    if (status == PARE_OK)
        status = open_file(c, path, identity, dataset);
    free(identity);
    if (status != PARE_OK)
        pare_cache_close(&c);
    PARE_TRY(status);
    *cache = c;
    return PARE_OK;
}

void pare_cache_close(pare_teacher_cache **cache)
{
    if (!cache || !*cache)
        return;
    pare_teacher_cache *c = *cache;
    pare_store_close(&c->store);
    pare_backend_free(&c->be);
    free(c->place);
    free(c);
    *cache = NULL;
}

const pare_cache_facts *pare_cache_facts_of(const pare_teacher_cache *cache)
{
    return &cache->facts;
}

double pare__cache_temperature(const pare_teacher_cache *cache)
{
    return cache->temperature;
}

int64_t pare__cache_classes(const pare_teacher_cache *cache)
{
    return cache->classes;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* 16-bit elements are read into the upper half of where they become 32 bits wide: each is read
 * before anything is written over it. */
static pare_status read_rows(const pare_teacher_cache *c, int64_t entry, bool narrow, int64_t first,
                             int64_t count, void *to)
{
    char *place = (char *)to + (narrow ? count * c->facts.k * 2 : 0);
    pare_rows rows = {.first = first, .count = count, .values = place};
    PARE_TRY(pare_store_read(c->store, c->be, entry, &rows, NULL));
    return PARE_OK;
}

static pare_status read_sample(const pare_teacher_cache *c, int64_t place, int32_t *index,
                               float *value)
{
    int64_t n = c->each * c->facts.k, first = place * c->each;
    bool narrow = c->index_dtype == PARE_U16;
    uint16_t bits;
    PARE_TRY(read_rows(c, c->index, narrow, first, c->each, index));
    for (int64_t i = 0; i < n && narrow; i++) {
        memcpy(&bits, (char *)index + 2 * (n + i), sizeof bits);
        index[i] = bits;
    }
    PARE_TRY(read_rows(c, c->value, true, first, c->each, value));
    for (int64_t i = 0; i < n; i++) {
        memcpy(&bits, (char *)value + 2 * (n + i), sizeof bits);
        value[i] = pare__f16_to_f32(bits);
    }
    return PARE_OK;
}

pare_status pare_cache_read(const pare_teacher_cache *cache, const pare_dataset *dataset,
                            int64_t sample, int64_t size, int32_t *index, float *value)
{
    int64_t step = cache->each * cache->facts.k;
    for (int64_t i = 0; i < size; i++) {
        int64_t item = pare_dataset_item(dataset, sample + i);
        PARE_REQUIRE(item >= 0 && item < cache->items && cache->place[item] >= 0, PARE_ERR_ARGUMENT,
                     "%s has no outputs for item %lld of the data", pare_store_path(cache->store),
                     (long long)item);
        PARE_TRY(read_sample(cache, cache->place[item], index + i * step, value + i * step));
    }
    return PARE_OK;
}
