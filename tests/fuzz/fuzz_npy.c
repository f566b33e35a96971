/* fuzz_npy.c - any bytes as a .npy file: refused with a sentence, or every element can be read, as
 * an array, as tokens and as images. */
#include "pare/data.h"
#include "pare/array.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_array(const char *path)
{
    pare_array *array = NULL;
    if (pare_array_open(path, NULL, &array) != PARE_OK) {
        if (!*pare_last_error())
            abort();
        return;
    }
    const pare_tensor *t = pare_array_tensor(array);
    int64_t count = pare_tensor_count(t);
    char *values = malloc((size_t)(count * (pare_dtype_bits(t->dtype) / 8)) + 1);
    if (!values || pare_array_read(array, 0, count, values) != PARE_OK)
        abort();
    free(values);
    pare_array_close(&array);
}

static void read_dataset(const pare_data_options *options)
{
    pare_dataset *dataset = NULL;
    pare_batch *batch = NULL;
    if (pare_dataset_open(options, &dataset) != PARE_OK) {
        if (!*pare_last_error())
            abort();
        return;
    }
    if (pare_batch_create(dataset, 3, &batch) != PARE_OK)
        abort();
    (void)pare_dataset_fill(dataset, 5, 3, batch);
    pare_batch_free(&batch);
    pare_dataset_close(&dataset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    int fd = memfd_create("fuzz.npy", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (size >= 6 && data[0] == 0x93) /* the rest is HDF5's to judge */
        read_array(path);
    snprintf(path, sizeof path, "npy:/proc/self/fd/%d", fd);
    if (size >= 6 && data[0] == 0x93) {
        read_dataset(&(pare_data_options){.path = path, .tokens = true, .pad_id = 0, .bos_id = -1});
        read_dataset(&(pare_data_options){
            .path = path, .tokens = true, .seq_len = 2, .stride = 1, .pad_id = -1, .bos_id = 1});
        read_dataset(&(pare_data_options){
            .path = path, .shuffle = true, .flip = true, .pad_id = -1, .bos_id = -1});
    }
    close(fd);
    return 0;
}
