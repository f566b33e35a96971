/* model_source.c - the source of a trained model: what its tensors are known by, and the dtypes
 * that the result must fit. */
#include "learn.h"

#include <string.h>

#define PIECE ((int64_t)256 << 10) /* values rounded at once, at most */

/* Values of one entry, piece by piece as they are digested. */
static pare_status digest_entry(const pare__subject *s, pare_backend *be, int64_t index,
                                uint64_t digest[2])
{
    pare_status status = PARE_OK;
    const pare_entry *e = pare_store_entry(s->store, index);
    int64_t row_bits = e->cols * pare_dtype_bits(e->dtype), align = pare_entry_align(e);
    int64_t piece = row_bits % 8 ? e->rows : e->piece_rows;
    int64_t step = e->form == PARE_FORM_DENSE ? piece : pare__lcm(piece, align);
    step = step < e->rows ? step : e->rows;
    char *values = NULL, *scratch = NULL;
    if (e->rows == 0 || e->cols == 0)
        return PARE_OK;
    int64_t bytes = (step * row_bits + 7) / 8, more = pare_store_scratch(s->store, index, step);
    PARE_TRY_DONE(pare__pages((size_t)bytes, &values));
    PARE_TRY_DONE(pare__pages((size_t)more, &scratch));
    for (int64_t first = 0, rows; first < e->rows; first += rows) {
        rows = e->rows - first < step ? e->rows - first : step;
        PARE_TRY_DONE(pare_store_read_values(s->store, be, index, first, rows, values, scratch));
        for (int64_t r = 0; r < rows; r += piece) {
            int64_t n = rows - r < piece ? rows - r : piece;
            PARE_TRY_DONE(
                pare_digest(be, &(pare_digest_args){.bytes = values + r * row_bits / 8,
                                                    .size = (n * row_bits + 7) / 8,
                                                    .seed = (uint64_t)((first + r) / piece),
                                                    .result = digest}));
        }
    }
done:
    pare__pages_free(scratch, (size_t)more);
    pare__pages_free(values, (size_t)bytes);
    return status;
}

pare_status pare__source_digests(const pare__subject *s, pare_backend *be, char **text)
{
    pare_status status = PARE_OK;
    pare__json *root = pare__json_new_object();
    for (int64_t i = 0; s->store && i < pare_store_count(s->store); i++) {
        uint64_t digest[2] = {0};
        char hex[33];
        PARE_TRY_DONE(digest_entry(s, be, i, digest));
        pare__hex128(digest, hex);
        pare__json_set_string(root, pare_store_entry(s->store, i)->name, hex);
    }
    PARE_TRY_DONE(pare__json_dump(root, 0, false, text));
done:
    pare__json_free(&root);
    return status;
}

/* Rounds a parameter through `narrow`, room for PIECE values of the dtype; both are the
 * backend's. */
static pare_status round_values(pare_backend *be, const pare_param *p, pare_dtype dtype,
                                void *narrow)
{
    float *values = p->value.data;
    int64_t count = pare_tensor_count(&p->value);
    pare_stats_result seen;
    for (int64_t i = 0; i < count; i += PIECE) {
        int64_t n = count - i < PIECE ? count - i : PIECE;
        pare_tensor wide = pare_vector(values + i, PARE_F32, n),
                    own = pare_vector(narrow, dtype, n);
        PARE_TRY(pare_cast(be, &(pare_cast_args){.x = wide, .y = own}));
        PARE_TRY(pare_cast(be, &(pare_cast_args){.x = own, .y = wide}));
    }
    PARE_TRY(pare_stats(
        be, &(pare_stats_args){.x = pare_vector(values, PARE_F32, count), .result = &seen}));
    PARE_REQUIRE(seen.nans + seen.infs == 0, PARE_ERR_NUMERIC,
                 "%s has grown past what the checkpoint's %s holds; train with a lower rate, or "
                 "from a checkpoint in F32",
                 p->name, pare_dtype_name(dtype));
    return PARE_OK;
}

pare_status pare__model_round(const pare__subject *s, pare_backend *be)
{
    pare_status status = PARE_OK;
    void *narrow = NULL;
    PARE_TRY(pare_backend_alloc(be, PIECE * 2, &narrow));
    for (int64_t i = 0; s->store && i < pare_model_param_count(s->model); i++) {
        const pare_param *p = pare_model_param(s->model, i);
        int64_t source = pare_store_find(s->store, p->name);
        pare_dtype dtype = source >= 0 ? pare_store_entry(s->store, source)->dtype : PARE_F32;
        if (dtype == PARE_F16 || dtype == PARE_BF16)
            PARE_TRY_DONE(round_values(be, p, dtype, narrow));
    }
done:
    pare_backend_release(be, narrow, PIECE * 2);
    return status;
}
