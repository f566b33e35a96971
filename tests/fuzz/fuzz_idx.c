/* fuzz_idx.c - any bytes as an IDX file, gzipped or not, and as CIFAR records: refused with a
 * sentence, or a batch comes out. */
#include "pare/data.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_dataset(const char *format, int fd)
{
    char path[64];
    pare_dataset *dataset = NULL;
    pare_batch *batch = NULL;
    snprintf(path, sizeof path, "%s:/proc/self/fd/%d", format, fd);
    pare_data_options options = {.path = path, .crop = 1, .flip = true, .pad_id = -1, .bos_id = -1};
    if (pare_dataset_open(&options, &dataset) != PARE_OK) {
        if (!*pare_last_error())
            abort();
        return;
    }
    if (pare_batch_create(dataset, 2, &batch) != PARE_OK ||
        pare_dataset_fill(dataset, 1, 2, batch) != PARE_OK)
        abort();
    pare_batch_free(&batch);
    pare_dataset_close(&dataset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = memfd_create("fuzz.idx", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    read_dataset("idx", fd);
    read_dataset("cifar", fd);
    close(fd);
    return 0;
}
