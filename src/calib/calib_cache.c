/* calib_cache.c - statistics of sites, kept between runs: a folder with one small checkpoint (.h5)
 * a site, which says in its provenance whose it is and by which key.
 *
 * Of the Gram matrix the lower triangle is kept, row by row. Everything passes through one piece of
 * the host's memory; checksums are those of the store, looked at before anything is taken over. */
#include "pare/calib.h"

#include "pare/store.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/file.h"
#include "base/text.h"

#include <inttypes.h>
#include <string.h>

#define STAGE 65536 /* elements that pass at once: whole pieces of any dtype here */

struct pare_site_cache {
    char *folder, *key;
};

pare_status pare_site_cache_open(const char *path, const char *key, pare_site_cache **out)
{
    PARE_REQUIRE(path && *path && key && out, PARE_ERR_ARGUMENT,
                 "a cache of statistics needs a path and a key");
    PARE_REQUIRE(!pare__exists(path) || pare__is_directory(path), PARE_ERR_EXISTS,
                 "%s is a file: a cache of statistics is a folder", path);
    pare_site_cache *cache = NULL;
    PARE_TRY(pare__calloc(1, sizeof *cache, &cache));
    pare_status status = pare__strdup(path, &cache->folder);
    if (status == PARE_OK)
        status = pare__strdup(key, &cache->key);
    if (status != PARE_OK)
        pare_site_cache_close(&cache);
    PARE_TRY(status);
    *out = cache;
    return PARE_OK;
}

void pare_site_cache_close(pare_site_cache **cache)
{
    pare_site_cache *c = cache ? *cache : NULL;
    if (!c)
        return;
    *cache = NULL;
    free(c->folder);
    free(c->key);
    free(c);
}

/* ---- names and texts ------------------------------------------------------------------------- */

/* "<folder>/<site>.h5"; what is no letter, digit, '_', '-' or inner '.' becomes %XX. */
static pare_status path_of(const pare_site_cache *cache, const char *site, char **path)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    pare__text text = {0};
    pare__text_add(&text, "%s/", cache->folder);
    for (const char *c = site; *c; c++)
        if (strchr(plain, *c) && (*c != '.' || c > site))
            pare__text_bytes(&text, c, 1);
        else
            pare__text_add(&text, "%%%02X", (unsigned)(unsigned char)*c);
    pare__text_add(&text, ".h5");
    return pare__text_take(&text, path);
}

static void add_identity(pare__text *text, const pare_site_cache *cache, const char *site)
{
    pare__text_add(text, "pare site statistics 1\nsite %s\nkey %s\n", site, cache->key);
}

static pare_status describe(const pare_site_cache *cache, const char *site,
                            const pare_site_stats *stats, char **description)
{
    pare__text text = {0};
    add_identity(&text, cache, site);
    pare__text_add(&text, "kinds %u\nrows %" PRId64 "\nwidth %a\n", stats->kinds, stats->rows,
                   (double)stats->width);
    return pare__text_take(&text, description);
}

/* Whether a file's text is that of the site under the key; then what it says. */
static pare_status read_description(const pare_site_cache *cache, const char *site,
                                    const char *description, pare_site_stats *said, bool *same)
{
    pare__text text = {0};
    char *identity = NULL;
    add_identity(&text, cache, site);
    PARE_TRY(pare__text_take(&text, &identity));
    size_t length = strlen(identity);
    *same = description && strncmp(description, identity, length) == 0;
    free(identity);
    if (*same)
        *same = sscanf(description + length, "kinds %u\nrows %" SCNd64 "\nwidth %a\n", &said->kinds,
                       &said->rows, &said->width) == 3;
    return PARE_OK;
}

/* ---- arrays ---------------------------------------------------------------------------------- */

/* An entry of the file and the array that it holds. */
typedef struct array {
    const char *name;
    pare_stat kind;
    pare_tensor tensor;
    int64_t count; /* elements that are kept */
} array;

enum { ARRAYS = 5 };

/* In byte order of their names. */
static void list_arrays(const pare_site_stats *stats, array list[ARRAYS])
{
    int64_t K = stats->cols;
    list[0] = (array){"absmax", PARE_STAT_COLUMNS, stats->absmax, K};
    list[1] = (array){"bins", PARE_STAT_HISTOGRAM, stats->bins, PARE_HISTOGRAM_BINS};
    list[2] = (array){"gram", PARE_STAT_GRAM, stats->gram, K * (K + 1) / 2};
    list[3] = (array){"squares", PARE_STAT_COLUMNS, stats->squares, K};
    list[4] = (array){"sum", PARE_STAT_COLUMNS, stats->sum, K};
}

/* Where elements [first, …) of what is kept lie: *place in the array, and how many follow there. */
static int64_t run_at(const array *a, int64_t row, int64_t column, char **place)
{
    int64_t size = pare_dtype_bits(a->tensor.dtype) / 8;
    bool gram = a->kind == PARE_STAT_GRAM;
    int64_t width = gram ? a->tensor.shape[1] : 0;
    *place = (char *)a->tensor.data + (row * width + column) * size;
    return (gram ? row + 1 : a->count) - column;
}

/* Goes on in an array: rows of the triangle, or all of a vector as one row. */
typedef struct cursor {
    int64_t row, column;
} cursor;

/* count elements between stage and array, from the cursor on. */
static pare_status move(pare_backend *be, const array *a, cursor *at, int64_t count, char *stage,
                        bool to_stage)
{
    int64_t size = pare_dtype_bits(a->tensor.dtype) / 8;
    while (count > 0) {
        char *place;
        int64_t left = run_at(a, at->row, at->column, &place), n = left < count ? left : count;
        if (to_stage)
            PARE_TRY(pare_backend_download(be, stage, place, n * size));
        else
            PARE_TRY(pare_backend_upload(be, place, stage, n * size));
        stage += n * size;
        count -= n;
        at->column += n;
        if (n == left)
            *at = (cursor){at->row + 1, 0};
    }
    return PARE_OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

static pare_status write_array(pare_backend *be, pare_writer *writer, int64_t index, const array *a,
                               char *stage)
{
    cursor at = {0, 0};
    for (int64_t first = 0; first < a->count; first += STAGE) {
        int64_t n = a->count - first < STAGE ? a->count - first : STAGE;
        PARE_TRY(move(be, a, &at, n, stage, true));
        pare_rows rows = {.first = first, .count = n, .values = stage};
        pare_parts parts;
        PARE_TRY(pare_writer_encode(writer, pare_backend_host(be), index, &rows, NULL, &parts));
        PARE_TRY(pare_writer_write(writer, &parts));
        pare_writer_add_sums(writer, index, &parts.sums);
    }
    return PARE_OK;
}

static pare_status write_file(pare_backend *be, const char *path, const char *description,
                              const pare_site_stats *stats, char *stage)
{
    array list[ARRAYS];
    pare_entry entries[ARRAYS];
    int count = 0;
    list_arrays(stats, list);
    for (int i = 0; i < ARRAYS; i++) {
        if (!(stats->kinds & list[i].kind))
            continue;
        list[count] = list[i];
        entries[count++] = (pare_entry){.name = list[i].name,
                                        .dtype = list[i].tensor.dtype,
                                        .rank = 1,
                                        .shape = {list[i].count},
                                        .rows = list[i].count,
                                        .cols = 1,
                                        .piece_rows = pare_piece_rows(list[i].tensor.dtype, 1)};
    }
    pare_writer *writer = NULL;
    pare_writer_options options = {.path = path,
                                   .entries = entries,
                                   .count = count,
                                   .provenance = description,
                                   .overwrite = true};
    PARE_TRY(pare_writer_create(&options, false, &writer));
    pare_status status = PARE_OK;
    for (int i = 0; status == PARE_OK && i < count; i++)
        status = write_array(be, writer, i, &list[i], stage);
    if (status == PARE_OK)
        status = pare_writer_finish(writer);
    pare_writer_free(&writer, status != PARE_OK);
    PARE_TRY(status);
    return PARE_OK;
}

pare_status pare_site_cache_add(pare_site_cache *cache, pare_backend *be, const char *site,
                                const pare_site_stats *stats)
{
    PARE_REQUIRE(stats->finished, PARE_ERR_ARGUMENT,
                 "%s: statistics are kept once they are finished", site);
    char *path = NULL, *description = NULL, *stage = NULL;
    pare_status status = PARE_OK;
    PARE_TRY_DONE(pare__make_directory(cache->folder));
    PARE_TRY_DONE(path_of(cache, site, &path));
    PARE_TRY_DONE(describe(cache, site, stats, &description));
    PARE_TRY_DONE(pare__calloc(STAGE, 8, &stage));
    PARE_TRY_DONE(write_file(be, path, description, stats, stage));
done:
    free(stage);
    free(description);
    free(path);
    return status;
}

/* ---- reading --------------------------------------------------------------------------------- */

static pare_status read_array(pare_backend *be, pare_store *store, const array *a, char *stage)
{
    int64_t index = pare_store_find(store, a->name);
    const pare_entry *e = index >= 0 ? pare_store_entry(store, index) : NULL;
    PARE_REQUIRE(e && e->form == PARE_FORM_DENSE && e->dtype == a->tensor.dtype && e->rank == 1 &&
                     e->rows == a->count,
                 PARE_ERR_DAMAGED, "%s: %s is not what the statistics of a site have there",
                 pare_store_path(store), a->name);
    PARE_TRY(pare_store_verify(store, pare_backend_host(be), index));
    cursor at = {0, 0};
    for (int64_t first = 0; first < a->count; first += STAGE) {
        int64_t n = a->count - first < STAGE ? a->count - first : STAGE;
        pare_rows rows = {.first = first, .count = n, .values = stage};
        PARE_TRY(pare_store_read(store, pare_backend_host(be), index, &rows, NULL));
        PARE_TRY(move(be, a, &at, n, stage, false));
    }
    return PARE_OK;
}

/* A file that is there: stats from it if it is the site's under the key, with all kinds wanted. */
static pare_status read_file(const pare_site_cache *cache, pare_backend *be, pare_store *store,
                             const char *site, pare_site_stats *stats, char *stage, bool *found)
{
    pare_site_stats said;
    array list[ARRAYS];
    PARE_TRY(read_description(cache, site, pare_store_provenance(store), &said, found));
    if (*found && (stats->kinds & ~said.kinds) != 0)
        *found = false;
    if (!*found)
        return PARE_OK;
    list_arrays(stats, list);
    for (int i = 0; i < ARRAYS; i++)
        if (stats->kinds & list[i].kind)
            PARE_TRY(read_array(be, store, &list[i], stage));
    stats->rows = said.rows;
    stats->width = said.width;
    stats->uncounted = 0;
    return pare_site_stats_finish(be, stats);
}

pare_status pare_site_cache_find(pare_site_cache *cache, pare_backend *be, const char *site,
                                 pare_site_stats *stats, bool *found)
{
    *found = false;
    char *path = NULL, *stage = NULL;
    pare_store *store = NULL;
    pare_status status = PARE_OK;
    PARE_TRY_DONE(path_of(cache, site, &path));
    if (!pare__exists(path))
        goto done;
    PARE_TRY_DONE(pare__calloc(STAGE, 8, &stage));
    status = pare_store_open(path, &store);
    if (status == PARE_ERR_UNSUPPORTED) /* so damaged that it looks like something else */
        status = pare__error(PARE_ERR_DAMAGED, __func__, "%s holds no statistics of a site", path);
    PARE_TRY_DONE(status);
    PARE_TRY_DONE(read_file(cache, be, store, site, stats, stage, found));
done:
    if (status != PARE_OK)
        *found = false;
    pare_store_close(&store);
    free(stage);
    free(path);
    return status;
}
