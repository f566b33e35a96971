/* fuzz_safetensors.c - any bytes as a .safetensors file: refused with a sentence, or every row can
 * be asked for. */
#include "pare/store.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A tensor is small, the input is; but a code of 2 bits becomes a value of 32. */
#define VALUES_LIMIT (1 << 24)

static void read_all(pare_store *store, pare_backend *be)
{
    for (int64_t i = 0; i < pare_store_count(store); i++) {
        const pare_entry *e = pare_store_entry(store, i);
        if (pare_store_find(store, e->name) != i)
            abort();
        if (e->rows > VALUES_LIMIT / 8 || e->rows * (e->cols + 1) > VALUES_LIMIT / 8)
            continue;
        void *values = malloc((size_t)(e->rows * e->cols * 8) + 1);
        void *scratch =
            aligned_alloc(64, ((size_t)pare_store_scratch(store, i, e->rows) / 64 + 1) * 64);
        if (!values || !scratch)
            abort();
        (void)pare_store_read_values(store, be, i, 0, e->rows, values, scratch);
        if (e->rows > 5)
            (void)pare_store_read_values(store, be, i, 4, 1, values, scratch);
        free(values), free(scratch);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static pare_backend *be;
    char path[64];
    pare_store *store = NULL;
    int fd = memfd_create("fuzz.safetensors", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    if (!be && pare_cpu_create(NULL, &be) != PARE_OK)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (pare_store_open(path, &store) == PARE_OK)
        read_all(store, be);
    else if (!*pare_last_error())
        abort();
    pare_store_close(&store);
    close(fd);
    return 0;
}
