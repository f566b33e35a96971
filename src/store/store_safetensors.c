/* store_safetensors.c - a checkpoint that is one .safetensors file. Config is not kept in it;
 * quantization_config and provenance are strings of its "__metadata__". */
#include "store_impl.h"

#include <string.h>
#include <sys/stat.h>

static bool ends_in(const char *path)
{
    size_t length = strlen(path);
    return length >= 12 && strcmp(path + length - 12, ".safetensors") == 0;
}

/* A damaged file that is called .safetensors is opened too, for the sake of the sentence. */
static bool probe(const char *path)
{
    struct stat st;
    return pare__st_probe(path) || (ends_in(path) && stat(path, &st) == 0 && S_ISREG(st.st_mode));
}

static pare_status open_store(pare_store *store)
{
    int file;
    return pare__st_load(store, store->path, &file);
}

static pare_status layout(pare_writer *writer)
{
    pare__st_state *state;
    int file;
    PARE_TRY(pare__calloc(1, sizeof *state, &state));
    writer->format_state = state;
    PARE_TRY(pare__calloc(1, sizeof *state->headers, &state->headers));
    state->count = 1;
    PARE_TRY(pare__writer_add_file(writer, writer->part_path, &file));
    return pare__st_layout(writer, state, file, true);
}

static pare_status create(pare_writer *writer, bool resume)
{
    return pare__st_create(writer, writer->format_state, resume);
}

/* The provenance may have changed in its digits: the header is written again, at the same length.
 */
static pare_status finish(pare_writer *writer)
{
    pare__st_state *state = writer->format_state;
    int64_t size = state->headers[0].size;
    PARE_TRY(pare__st_layout(writer, state, 0, true));
    PARE_REQUIRE(state->headers[0].size == size, PARE_ERR_ARGUMENT,
                 "%s: the new provenance makes the header %lld bytes instead of %lld", writer->path,
                 (long long)state->headers[0].size, (long long)size);
    return pare__file_write(writer->files[0].fd, writer->files[0].path, state->headers[0].bytes,
                            size, 0);
}

static void close_writer(pare_writer *writer)
{
    if (writer->format_state)
        pare__st_free(writer->format_state);
    free(writer->format_state);
    writer->format_state = NULL;
}

const pare__format pare__format_safetensors = {.name = "safetensors",
                                               .probe = probe,
                                               .open = open_store,
                                               .claims = ends_in,
                                               .layout = layout,
                                               .create = create,
                                               .finish = finish,
                                               .close_writer = close_writer};
