/* cuda_comm_add.cu - the numbers of all ranks, which have come to this one, added by rank.
 *
 *     own[i] = ((x_0[i] + x_1[i]) + x_2[i]) + …, of which x_rank is own as it was
 *
 * One thread an element; a warp's accesses have no gap. Bound by memory: size + 1 numbers an
 * element, predicted 85 % of the rate at which memory can be read, not measured.
 */
#include "cuda_comm.h"

#include "cuda_each.cuh"

template <typename T>
static __global__ void __launch_bounds__(EACH_THREADS)
    k_comm_add(T *own, const T *others, int rank, int size, int64_t n)
{
    EACH_REST(i, n, 0)
    {
        T sum = rank == 0 ? own[i] : others[i];
        for (int r = 1; r < size; r++)
            sum += r == rank ? own[i] : others[(r < rank ? r : r - 1) * n + i];
        own[i] = sum;
    }
}

extern "C" pare_status pare__cuda_comm_add(pare_backend *be, void *own, const void *others,
                                           int rank, int size, int64_t count, pare_dtype dtype)
{
    const int64_t blocks = each_blocks(count, 1);
    if (dtype == PARE_F32)
        PARE_LAUNCH(be, (k_comm_add<float>), blocks, EACH_THREADS, 0, (float *)own,
                    (const float *)others, rank, size, count);
    else
        PARE_LAUNCH(be, (k_comm_add<double>), blocks, EACH_THREADS, 0, (double *)own,
                    (const double *)others, rank, size, count);
    return PARE_OK;
}
