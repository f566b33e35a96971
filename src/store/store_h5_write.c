/* store_h5_write.c - writes a native checkpoint (docs/formats/store.md): how large it will be,
 * where its arrays lie, whether a part can be continued, and what is written after all rows.
 */
#include "store_h5_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pare/ops.h"

#define META_ROUND 4096
#define MAX_NAME 4096 /* far below what an HDF5 object header can name in a message */
#define MAX_META (INT64_C(1) << 40)

/* What a writer keeps between create and finish. */
typedef struct h5_state {
    pare__h5_plan plan;
    pare_store *part; /* the part as a reader sees it: slots, arrays and sides with their places */
    pare__h5_map map;
    pare__h5_seal seal;
} h5_state;

/* ---- sizes ----------------------------------------------------------------------------------- */

static int64_t round_up(int64_t value, int64_t to)
{
    return (value + to - 1) / to * to;
}

/* Of the lines of /checksums, names as the file spells them. */
static pare_status checksums_size(const pare_writer *writer, int64_t sides, int64_t *size)
{
    *size = 0;
    for (size_t i = 0; i < writer->slot_count; ++i) {
        const pare__slot *slot = &writer->slots[i];
        char *link = NULL;
        PARE_TRY(pare__h5_escape(slot->entry.name, false, &link));
        int64_t length = (int64_t)strlen(link);
        free(link);
        pare__part_spec spec[PARE_MAX_PARTS];
        int count = 0;
        PARE_TRY(pare__codec_parts(slot->codec, &slot->entry, true, spec, NULL, &count));
        for (int p = 0; p < count; ++p)
            *size += PARE__H5_SUM_LINE + (int64_t)strlen("tensors/") + length +
                     (spec[p].h5 ? 1 + (int64_t)strlen(spec[p].h5) : 0);
    }
    for (int64_t i = 0; i < sides; ++i) {
        char *name = NULL;
        PARE_TRY(pare__h5_side_name(pare_store_side(writer->source, i)->name, &name));
        *size += PARE__H5_SUM_LINE + (int64_t)strlen(name);
        free(name);
    }
    return PARE_OK;
}

/* Bytes for HDF5's metadata: what objects of each kind and their names were measured to need, and a
 * fifth more. */
static int64_t metadata_size(const pare_writer *writer, int64_t sides)
{
    int64_t size = 8192;
    for (size_t i = 0; i < writer->slot_count; ++i) {
        const pare__slot *slot = &writer->slots[i];
        size += slot->entry.form == PARE_FORM_DENSE ? 500 : 2700;
        size += pare__input_part(&slot->entry) >= 0 ? 500 : 0;
        size += 3 * (int64_t)strlen(slot->entry.name);
    }
    for (int64_t i = 0; i < sides; ++i) {
        const char *name = pare_store_side(writer->source, i)->name;
        for (const char *p = strchr(name, '/'); p; p = strchr(p + 1, '/'))
            size += 2048; /* at most a folder each */
        size += 600 + 3 * (int64_t)strlen(name);
    }
    return round_up(size, META_ROUND);
}

pare_status pare__h5_accepts(const pare_entry *entry, const char *format_option)
{
    (void)format_option;
    PARE_REQUIRE(entry->name[0] && strlen(entry->name) <= MAX_NAME, PARE_ERR_ARGUMENT,
                 "an .h5 checkpoint cannot hold a tensor %s",
                 entry->name[0] ? "whose name has more than 4096 bytes" : "without a name");
    return PARE_OK;
}

static pare_status make_plan(const pare_writer *writer, pare__h5_plan *plan)
{
    *plan = (pare__h5_plan){0};
    if (writer->source) {
        plan->metadata = pare_store_metadata(writer->source);
        plan->sides = pare_store_side_count(writer->source);
    }
    plan->metadata_block = metadata_size(writer, plan->sides);
    PARE_TRY(checksums_size(writer, plan->sides, &plan->checksums));
    return PARE_OK;
}

pare_status pare__h5_layout(pare_writer *writer)
{
    int index;
    pare__h5_plan plan;
    PARE_TRY(make_plan(writer, &plan));
    PARE_TRY(pare__writer_add_file(writer, writer->part_path, &index));
    int64_t size = PARE__H5_BLOCK + plan.metadata_block + plan.checksums +
                   pare__h5_text_size(writer->config) + pare__h5_text_size(plan.metadata) +
                   pare__h5_text_size(writer->provenance);
    for (size_t i = 0; i < writer->array_count; ++i) {
        pare__array *array = &writer->arrays[i];
        PARE_TRY(pare_shape_size(array->dtype, array->rank, array->shape, NULL, &array->bytes));
        array->file = index;
        PARE_REQUIRE(pare__add(size, array->bytes, &size), PARE_ERR_ARGUMENT,
                     "%s: the tensors together have more than 2^63 bytes", writer->path);
    }
    for (int64_t i = 0; i < plan.sides; ++i)
        PARE_REQUIRE(pare__add(size, pare_store_side(writer->source, i)->size, &size),
                     PARE_ERR_ARGUMENT, "%s: the file would have more than 2^63 bytes",
                     writer->path);
    PARE_REQUIRE(size <= INT64_MAX / 2, PARE_ERR_ARGUMENT,
                 "%s: a file of %" PRId64 " bytes is beyond any disk", writer->path, size);
    writer->files[index].size = size;
    return PARE_OK;
}

/* ---- create ---------------------------------------------------------------------------------- */

/* The part as a reader sees it. */
static pare_status scan_part(const pare_writer *writer, h5_state *state)
{
    int index;
    pare_store_close(&state->part);
    PARE_TRY(pare__calloc(1, sizeof *state->part, &state->part));
    pthread_mutex_init(&state->part->lock, NULL);
    PARE_TRY(pare__strdup(writer->part_path, &state->part->path));
    PARE_TRY(pare__store_add_file(state->part, writer->part_path, &index));
    PARE_TRY(pare__h5_scan(state->part, &state->map));
    return PARE_OK;
}

/* Makes the file and seals it. Metadata that did not fit their block lie between the data: then
 * again, with twice the block. */
static pare_status make_part_file(const pare_writer *writer, int fd, h5_state *state)
{
    for (;; state->plan.metadata_block *= 2) {
        PARE_REQUIRE(state->plan.metadata_block < MAX_META, PARE_ERR_INTERNAL,
                     "%s: HDF5 does not keep its metadata together", writer->part_path);
        PARE_TRY(pare__h5_make(writer, &state->plan, fd));
        PARE_TRY(scan_part(writer, state));
        if (state->map.dense)
            break;
    }
    state->seal =
        (pare__h5_seal){.size = state->part->files[0].size, .data_begin = state->map.data_begin};
    PARE_TRY(pare__h5_seal_write(fd, writer->part_path, &state->seal));
    return PARE_OK;
}

static bool same_entry(const pare__slot *a, const pare__slot *b)
{
    const pare_entry *x = &a->entry, *y = &b->entry;
    char xs[32], ys[32];
    return strcmp(x->name, y->name) == 0 && a->codec == b->codec && x->dtype == y->dtype &&
           x->rank == y->rank &&
           memcmp(x->shape, y->shape, (size_t)x->rank * sizeof *x->shape) == 0 &&
           x->form == y->form && x->nonzeros == y->nonzeros && x->piece_rows == y->piece_rows &&
           memcmp(&x->scale_offset, &y->scale_offset, sizeof x->scale_offset) == 0 &&
           strcmp(pare_scheme_text(&x->scheme, xs, sizeof xs),
                  pare_scheme_text(&y->scheme, ys, sizeof ys)) == 0;
}

static bool same_text(const char *text, const pare__range *range)
{
    return text ? range->offset >= 0 && range->size == pare__h5_text_size(text) : range->offset < 0;
}

static bool same_sides(const pare_writer *writer, const pare__h5_plan *plan, const pare_store *part)
{
    bool same = (int64_t)part->side_count == plan->sides;
    for (size_t i = 0; same && i < part->side_count; ++i) {
        const pare_side_file *side = pare_store_side(writer->source, (int64_t)i);
        same = strcmp(part->sides[i].file.name, side->name) == 0 &&
               part->sides[i].file.size == side->size;
    }
    return same;
}

/* Takes the places from the part, which must be what this writer makes. */
static pare_status take_places(pare_writer *writer, const h5_state *state)
{
    const pare_store *part = state->part;
    const pare__h5_plan *plan = &state->plan;
    const pare__h5_map *map = &state->map;
    PARE_REQUIRE(
        part->slot_count == writer->slot_count && same_sides(writer, plan, part) &&
            same_text(writer->config, &map->config) && same_text(plan->metadata, &map->metadata) &&
            same_text(writer->provenance, &map->provenance) &&
            map->checksums.size == plan->checksums,
        PARE_ERR_DAMAGED, "%s is the beginning of another checkpoint; remove it and start again",
        writer->part_path);
    for (size_t i = 0; i < writer->slot_count; ++i) {
        const pare__slot *mine = &writer->slots[i], *theirs = &part->slots[i];
        PARE_REQUIRE(same_entry(mine, theirs), PARE_ERR_DAMAGED,
                     "%s holds tensor %s otherwise than tensor %s is to be written; remove it and "
                     "start again",
                     writer->part_path, theirs->entry.name, mine->entry.name);
        for (int p = 0; p < PARE_MAX_PARTS && theirs->array[p] >= 0; ++p) {
            const pare__array *array = &part->arrays[theirs->array[p]];
            writer->arrays[mine->array[p]].offset = array->offset;
            writer->arrays[mine->array[p]].bytes = array->bytes;
        }
    }
    return PARE_OK;
}

/* A part that was begun before must hold what its seal says; it may have been finished but for its
 * name. */
static pare_status check_part(const pare_writer *writer, int fd, h5_state *state)
{
    struct stat info;
    PARE_REQUIRE(fstat(fd, &info) == 0, PARE_ERR_IO, "%s: cannot see its size: %s",
                 writer->part_path, strerror(errno));
    if (pare__h5_seal_check(fd, writer->part_path, info.st_size, &state->seal) != PARE_OK ||
        scan_part(writer, state) != PARE_OK || !state->map.dense ||
        state->map.data_begin != state->seal.data_begin)
        PARE_FAIL(PARE_ERR_DAMAGED, "%s cannot be continued; remove it and start again",
                  writer->part_path);
    return PARE_OK;
}

pare_status pare__h5_create(pare_writer *writer, bool resume)
{
    h5_state *state = NULL;
    PARE_TRY(pare__calloc(1, sizeof *state, &state));
    writer->format_state = state;
    PARE_TRY(make_plan(writer, &state->plan));
    pare__file *file = &writer->files[0];
    file->fd = open(writer->part_path, O_RDWR | O_CLOEXEC | (resume ? 0 : O_CREAT | O_TRUNC), 0666);
    PARE_REQUIRE(file->fd >= 0, pare__errno_status(errno), "cannot open %s for writing: %s",
                 writer->part_path, strerror(errno));
    PARE_TRY(resume ? check_part(writer, file->fd, state)
                    : make_part_file(writer, file->fd, state));
    PARE_TRY(take_places(writer, state));
    file->size = state->seal.size;
    return PARE_OK;
}

/* ---- finish ---------------------------------------------------------------------------------- */

static pare_status write_text(const pare_writer *writer, const char *text, const pare__range *range,
                              uint64_t *crc)
{
    if (!text)
        return PARE_OK;
    PARE_ASSERT(pare__h5_text_size(text) == range->size);
    *crc = pare__crc64(*crc, text, (size_t)range->size);
    PARE_TRY(
        pare__file_write(writer->files[0].fd, writer->part_path, text, range->size, range->offset));
    return PARE_OK;
}

/* Copies a side file from the source and digests it on the way. */
static pare_status copy_side(const pare_writer *writer, pare_backend *be, int64_t index,
                             const pare__side *to, unsigned char *piece, uint64_t sum[2])
{
    sum[0] = sum[1] = 0;
    for (int64_t at = 0; at < to->file.size; at += PARE__SIDE_PIECE) {
        int64_t size =
            to->file.size - at < PARE__SIDE_PIECE ? to->file.size - at : PARE__SIDE_PIECE;
        PARE_TRY(pare_store_side_read(writer->source, index, at, size, piece));
        PARE_TRY(pare_digest(be, &(pare_digest_args){.bytes = piece,
                                                     .size = size,
                                                     .seed = (uint64_t)(at / PARE__SIDE_PIECE),
                                                     .result = sum}));
        PARE_TRY(
            pare__file_write(writer->files[0].fd, writer->part_path, piece, size, to->offset + at));
    }
    return PARE_OK;
}

static void add_line(pare__text *text, const uint64_t sum[2], const char *name)
{
    char digits[33];
    pare__hex128((const uint64_t[2]){sum[1], sum[0]}, digits);
    pare__text_add(text, "%s  %s\n", digits, name);
}

static pare_status write_sides(const pare_writer *writer, const pare_store *part, pare__text *lines)
{
    if (part->side_count == 0)
        return PARE_OK;
    pare_backend *be = NULL;
    unsigned char *piece = NULL;
    pare_status status = PARE_OK;
    PARE_TRY_DONE(pare__calloc(PARE__SIDE_PIECE, 1, &piece));
    PARE_TRY_DONE(pare_cpu_create(NULL, &be));
    for (size_t i = 0; i < part->side_count; ++i) {
        uint64_t sum[2];
        char *name = NULL;
        PARE_TRY_DONE(copy_side(writer, be, (int64_t)i, &part->sides[i], piece, sum));
        PARE_TRY_DONE(pare__h5_side_name(part->sides[i].file.name, &name));
        add_line(lines, sum, name);
        free(name);
    }
done:
    pare_backend_free(&be);
    free(piece);
    return status;
}

pare_status pare__h5_finish(pare_writer *writer)
{
    h5_state *state = writer->format_state;
    const pare_store *part = state->part;
    const pare__h5_map *map = &state->map;
    pare__text lines = {0};
    char *checksums = NULL;
    uint64_t crc = 0;
    pare_status status = PARE_OK;
    for (size_t i = 0; i < part->slot_count; ++i)
        for (int p = 0; p < PARE_MAX_PARTS && part->slots[i].array[p] >= 0; ++p)
            add_line(&lines, &writer->slots[i].sums.sum[2 * p],
                     part->arrays[part->slots[i].array[p]].name);
    PARE_TRY_DONE(write_sides(writer, part, &lines));
    PARE_TRY_DONE(pare__text_take(&lines, &checksums));
    PARE_TRY_DONE(write_text(writer, writer->config, &map->config, &crc));
    PARE_TRY_DONE(write_text(writer, state->plan.metadata, &map->metadata, &crc));
    PARE_TRY_DONE(write_text(writer, writer->provenance, &map->provenance, &crc));
    PARE_TRY_DONE(write_text(writer, checksums, &map->checksums, &crc));
    state->seal.finished = true;
    state->seal.texts_crc = crc;
    PARE_TRY_DONE(pare__h5_seal_write(writer->files[0].fd, writer->part_path, &state->seal));
    if (fdatasync(writer->files[0].fd) != 0)
        PARE_TRY_DONE(pare__error(pare__errno_status(errno), __func__, "cannot sync %s: %s",
                                  writer->part_path, strerror(errno)));
done:
    pare__text_free(&lines);
    free(checksums);
    return status;
}

void pare__h5_close_writer(pare_writer *writer)
{
    h5_state *state = writer->format_state;
    if (!state)
        return;
    pare_store_close(&state->part);
    free(state);
    writer->format_state = NULL;
}
