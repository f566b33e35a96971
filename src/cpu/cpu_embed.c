/* cpu_embed.c - rows of a table by number, and their gradient. Bound by memory. */
#include "cpu_nn.h"
#include "cpu_row.h"

static pare_status check_ids(const char *op, const pare_tensor *ids, int64_t V)
{
    const int32_t *id = ids->data;
    for (int64_t i = 0; i < ids->shape[0]; i++)
        PARE_REQUIRE(id[i] >= 0 && id[i] < V, PARE_ERR_ARGUMENT,
                     "%s: ids[%lld] is %d; it must be at least 0 and below %lld, the rows of the "
                     "table",
                     op, (long long)i, (int)id[i], (long long)V);
    return PARE_OK;
}

CPU_INLINE void convert_row(const void *x, pare_dtype from, void *y, pare_dtype to, int64_t N)
{
    for (int64_t j = 0; j < N; j += CPU_V)
        cpu_row_store(y, to, j, N, cpu_row_load(x, from, j, N, 0.0f));
}

static void embedding_part(const void *user, int64_t first, int64_t last)
{
    const pare_embedding_args *a = user;
    const int32_t *ids = a->ids.data;
    int64_t N = a->w.shape[1];
    pare_dtype from = a->w.dtype, to = a->y.dtype;
    for (int64_t i = first; i < last; i++) {
        const void *x = cpu_row_at(a->w.data, from, ids[i] * N);
        void *y = cpu_row_at(a->y.data, to, i * N);
        if (from == to)
            memcpy(y, x, (size_t)N * (to == PARE_F32 ? 4 : 2));
        else if (to == PARE_F32)
            convert_row(x, PARE_BF16, y, PARE_F32, N);
        else
            convert_row(x, PARE_F32, y, PARE_BF16, N);
    }
}

pare_status PARE_CPU(pare_cpu_embedding)(pare_backend *be, const pare_embedding_args *args)
{
    PARE_TRY(check_ids("embedding", &args->ids, args->w.shape[0]));
    if (pare_tensor_count(&args->y) > 0)
        cpu_split(be, args->y.shape[0], cpu_row_grain(args->y.shape[1]), embedding_part, args);
    return PARE_OK;
}

/* Columns [first, last) of every row: a thread has columns of its own, so that each sum runs in
 * ascending i however often an id comes. */
CPU_INLINE void add_columns(const pare_embedding_grad_args *a, pare_dtype dtype, int64_t first,
                            int64_t last)
{
    const int32_t *ids = a->ids.data;
    int64_t N = a->dw.shape[1], n = last - first;
    for (int64_t i = 0; i < a->ids.shape[0]; i++) {
        const void *dy = cpu_row_at(a->dy.data, dtype, i * N + first);
        float *dw = (float *)a->dw.data + ids[i] * N + first;
        for (int64_t j = 0; j < n; j += CPU_V)
            cpu_row_store(dw, PARE_F32, j, n,
                          cpu_row_load(dw, PARE_F32, j, n, 0.0f) +
                              cpu_row_load(dy, dtype, j, n, 0.0f));
    }
}

static void embedding_grad_part(const void *user, int64_t first, int64_t last)
{
    const pare_embedding_grad_args *a = user;
    if (a->dy.dtype == PARE_F32)
        add_columns(a, PARE_F32, first, last);
    else
        add_columns(a, PARE_BF16, first, last);
}

pare_status PARE_CPU(pare_cpu_embedding_grad)(pare_backend *be,
                                              const pare_embedding_grad_args *args)
{
    PARE_TRY(check_ids("embedding_grad", &args->ids, args->dw.shape[0]));
    if (pare_tensor_count(&args->dy) > 0)
        cpu_split(be, args->dw.shape[1], CPU_V, embedding_grad_part, args);
    return PARE_OK;
}
