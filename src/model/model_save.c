/* model_save.c - what a writer takes from a model: rows of parameters as the checkpoint stores
 * them, and config.json.
 */
#include "arch.h"

#include "base/half.h"

#include <string.h>

/* ---- rows ------------------------------------------------------------------------------------ */

/* Element e of a value. */
static float element(const pare_tensor *value, int64_t e)
{
    if (value->dtype == PARE_BF16)
        return pare__bf16_to_f32(((const uint16_t *)value->data)[e]);
    return ((const float *)value->data)[e];
}

/* The same rows of a value that the host cannot see: laid out as they go out, in F32, then
 * downloaded. */
static pare_status fetch_rows(const pare_model *model, bool transposed, const pare_tensor *of,
                              int64_t rows, int64_t cols, int64_t first, int64_t count,
                              float *values)
{
    pare_status status = PARE_OK;
    float *turned = NULL;
    int64_t n = count * cols, bytes = 2 * n * (int64_t)sizeof *values;
    int bits = pare_dtype_bits(of->dtype);
    PARE_TRY(pare_backend_alloc(model->be, bytes, &turned));
    float *out = turned + n;
    if (transposed) {
        PARE_TRY_DONE(pare_copy_cols(
            model->be, &(pare_copy_cols_args){.x = pare_matrix(of->data, of->dtype, cols, rows),
                                              .y = pare_matrix(turned, PARE_F32, cols, count),
                                              .x_first = first,
                                              .cols = count}));
        PARE_TRY_DONE(pare_transpose(
            model->be,
            &(pare_transpose_args){
                .x = {.data = turned, .dtype = PARE_F32, .rank = 3, .shape = {1, cols, count}},
                .y = {.data = out, .dtype = PARE_F32, .rank = 3, .shape = {1, count, cols}}}));
    } else {
        PARE_TRY_DONE(
            pare_cast(model->be,
                      &(pare_cast_args){.x = pare_vector((char *)of->data + first * cols * bits / 8,
                                                         of->dtype, n),
                                        .y = pare_vector(out, PARE_F32, n)}));
    }
    PARE_TRY_DONE(pare_backend_download(model->be, values, out, n * (int64_t)sizeof *values));
done:
    pare_backend_release(model->be, turned, bytes);
    return status;
}

pare_status pare_model_read_rows_of(const pare_model *model, int64_t param, const pare_tensor *of,
                                    int64_t first, int64_t count, float *values)
{
    PARE_REQUIRE(model && param >= 0 && (size_t)param < model->param_count, PARE_ERR_ARGUMENT,
                 "the model has no parameter %lld", (long long)param);
    const pare_param *p = &model->params[param];
    int rank;
    int64_t shape[PARE_MAX_RANK], rows, cols;
    pare_model_stored_shape(model, param, &rank, shape);
    pare_shape_matrix(rank, shape, &rows, &cols);
    of = of ? of : &p->value;
    PARE_REQUIRE(first >= 0 && count >= 0 && first <= rows && count <= rows - first,
                 PARE_ERR_ARGUMENT, "%s has %lld rows, not %lld from row %lld on", p->name,
                 (long long)rows, (long long)count, (long long)first);
    PARE_REQUIRE(of->data || count * cols == 0, PARE_ERR_ARGUMENT,
                 "%s has no values yet: prepare the model first", p->name);
    if (count * cols == 0)
        return PARE_OK;
    if (!p->transposed && of->dtype == PARE_F32)
        return pare_backend_download(model->be, values, (const float *)of->data + first * cols,
                                     count * cols * (int64_t)sizeof *values);
    if (!pare_backend_is_host(model->be))
        return fetch_rows(model, p->transposed, of, rows, cols, first, count, values);
    for (int64_t r = 0; r < count; r++)
        for (int64_t c = 0; c < cols; c++)
            values[r * cols + c] =
                element(of, p->transposed ? c * rows + first + r : (first + r) * cols + c);
    return PARE_OK;
}

pare_status pare_model_read_rows(const pare_model *model, int64_t param, int64_t first,
                                 int64_t count, float *values)
{
    return pare_model_read_rows_of(model, param, NULL, first, count, values);
}

pare_status pare_model_read_mask(const pare_model *model, int64_t param, int64_t first,
                                 int64_t count, uint8_t *mask)
{
    PARE_REQUIRE(model && param >= 0 && (size_t)param < model->param_count, PARE_ERR_ARGUMENT,
                 "the model has no parameter %lld", (long long)param);
    const pare_param *p = &model->params[param];
    int64_t whole = pare_tensor_count(&p->value);
    PARE_REQUIRE(first >= 0 && count >= 0 && first <= whole && count <= whole - first,
                 PARE_ERR_ARGUMENT, "%s has %lld elements, not %lld from %lld on", p->name,
                 (long long)whole, (long long)count, (long long)first);
    if (p->mask)
        PARE_TRY(pare_backend_download(model->be, mask, p->mask + first, count));
    else if (count > 0)
        memset(mask, 1, (size_t)count);
    return PARE_OK;
}

/* ---- config.json ----------------------------------------------------------------------------- */

/* The shortest decimal that reads back as the same float; its point is one in every locale. */
static void add_number(char **at, size_t *room, float x)
{
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x)
            break;
    }
    char *comma = strchr(text, ',');
    if (comma)
        *comma = '.';
    int n = snprintf(*at, *room, "%s", text);
    *at += n;
    *room -= (size_t)n;
}

static void add_list(char **at, size_t *room, const char *key, const float *values, int64_t count)
{
    int n = snprintf(*at, *room, ", \"%s\": [", key);
    *at += n;
    *room -= (size_t)n;
    for (int64_t i = 0; i < count; i++) {
        n = snprintf(*at, *room, "%s", i ? ", " : "");
        *at += n;
        *room -= (size_t)n;
        add_number(at, room, values[i]);
    }
    n = snprintf(*at, *room, "]");
    *at += n;
    *room -= (size_t)n;
}

/* Of --arch the text is made anew each time, because preprocessing may have been edited since; its
 * room was taken when the model was created. The longest: six keys, nine numbers of at most 15
 * bytes. */
const char *pare_model_config(const pare_model *model)
{
    const pare_model_facts *facts = &model->facts;
    if (!model->arch)
        return model->config;
    char *at = model->config;
    size_t room = strlen(model->arch) + PARE__CONFIG_ROOM;
    int n =
        snprintf(at, room, "{\"pare_arch\": \"%s\", \"classes\": %lld, \"scale\": ", model->arch,
                 (long long)facts->classes);
    at += n;
    room -= (size_t)n;
    add_number(&at, &room, facts->scale);
    add_list(&at, &room, "mean", facts->mean, facts->channels);
    add_list(&at, &room, "std", facts->std, facts->channels);
    snprintf(at, room, "}\n");
    return model->config;
}
