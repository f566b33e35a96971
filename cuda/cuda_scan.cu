/* cuda_scan.cu - running sums of the counts of tiles, between the kernels that count and those that
 * place. One block: a tensor of 256 MiB has some thousand tiles, 64 KiB, a few microseconds. */
#include "cuda_bits.cuh"
#include "cuda_scan.h"

#define THREADS 1024
#define EACH 8 /* counts a thread takes at a time */

static __global__ void k_scan(int64_t *counts, int64_t n)
{
    PARE_SHARED_ARRAY(int64_t, room, 32);
    int64_t sum = 0;
    for (int64_t at = 0; at < n; at += THREADS * EACH) {
        int64_t first = at + (int64_t)threadIdx.x * EACH, own[EACH], mine = 0, total;
        for (int i = 0; i < EACH; i++) {
            own[i] = first + i < n ? counts[first + i] : 0;
            mine += own[i];
        }
        int64_t before = sum + block_sum_before(mine, room, &total);
        for (int i = 0; i < EACH; i++) {
            if (first + i < n)
                counts[first + i] = before;
            before += own[i];
        }
        sum += total;
    }
    if (threadIdx.x == 0)
        counts[n] = sum;
}

extern "C" pare_status pare__cuda_scan(pare_backend *be, int64_t *counts, int64_t n)
{
    PARE_LAUNCH(be, k_scan, 1, THREADS, 0, counts, n);
    return PARE_OK;
}
