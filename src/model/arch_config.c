/* arch_config.c - what the architectures of Hugging Face's config.json share. */
#include "arch.h"

#include <string.h>

bool pare__config_has(const pare__build *b, const char *key)
{
    return pare__json_get(b->config, key) != NULL;
}

const char *pare__config_task(pare__build *b, const char *const *words)
{
    const pare__json *list = pare__json_get(b->config, "architectures");
    const char *name = pare__json_string(pare__json_at(list, 0));
    if (b->status != PARE_OK || !name)
        return "";
    for (const char *const *word = words; *word; word++) {
        size_t at = strlen(name) < strlen(*word) ? 0 : strlen(name) - strlen(*word);
        if (strcmp(name + at, *word) == 0)
            return *word;
    }
    pare__build_fail(b, PARE_ERR_UNSUPPORTED,
                     "config.json: models of class %s are not run in this version (%s is one that "
                     "is)",
                     name, words[0]);
    return "";
}

int64_t pare__config_classes(pare__build *b, const char *weight)
{
    int64_t labels = (int64_t)pare__json_size(pare__json_get(b->config, "id2label"));
    if (labels == 0)
        labels = pare__config_int(b, "num_labels", 2, 1, PARE__MOST_WIDTH);
    int64_t classes = pare__axis(b, weight, 0, b->classes ? b->classes : labels);
    if (classes < 1 || classes > PARE__MOST_WIDTH)
        return pare__build_fail(b, PARE_ERR_DAMAGED, "%s has %lld rows", weight,
                                (long long)classes);
    return classes;
}

int64_t pare__config_heads(pare__build *b, const char *width_key, const char *heads_key,
                           int64_t *width, int *heads)
{
    *width = pare__config_int(b, width_key, PARE__REQUIRED, 1, PARE__MOST_WIDTH);
    *heads = (int)pare__config_int(b, heads_key, PARE__REQUIRED, 1, 1 << 16);
    if (b->status != PARE_OK)
        return 1;
    if (*width % *heads != 0)
        pare__build_fail(b, PARE_ERR_DAMAGED, "config.json: %s %lld does not divide by %s %d",
                         width_key, (long long)*width, heads_key, *heads);
    return *width / *heads;
}

float pare__config_eps(pare__build *b, const char *key, double otherwise)
{
    double eps = pare__config_real(b, key, otherwise);
    if (b->status == PARE_OK && !(eps >= 0 && eps <= 1000))
        pare__build_fail(b, PARE_ERR_DAMAGED, "config.json: %s must lie in [0, 1000], not be %g",
                         key, eps);
    return (float)eps;
}

float pare__config_dropout(pare__build *b, const char *key, double otherwise)
{
    double p = pare__config_real(b, key, otherwise);
    if (b->status == PARE_OK && !(p >= 0 && p < 1))
        pare__build_fail(b, PARE_ERR_DAMAGED, "config.json: %s must lie in [0, 1), not be %g", key,
                         p);
    return (float)p;
}

/* An id that need not be one: null, −1 or a list (the first), or outside the vocabulary. */
static int64_t id_of(const pare__build *b, const char *key, int64_t vocabulary)
{
    const pare__json *node = pare__json_get(b->config, key);
    int64_t id = -1;
    if (pare__json_is_array(node))
        node = pare__json_at(node, 0);
    return pare__json_int(node, &id) && id >= 0 && id < vocabulary ? id : -1;
}

void pare__config_ids(pare__build *b, int64_t vocabulary)
{
    b->model->facts.pad_id = id_of(b, "pad_token_id", vocabulary);
    b->model->facts.bos_id = id_of(b, "bos_token_id", vocabulary);
}

bool pare__json_pixel(const pare__json *node, bool positive, float *value)
{
    double x;
    if (!pare__json_real(node, &x) || !(x >= (positive ? 1e-9 : -1e9) && x <= 1e9))
        return false;
    *value = (float)x;
    return true;
}

#define SIDE_LIMIT ((int64_t)1 << 20)

void pare__config_side(pare__build *b, const char *name, pare__json **root)
{
    *root = NULL;
    int64_t count = b->store && b->status == PARE_OK ? pare_store_side_count(b->store) : 0;
    for (int64_t i = 0; i < count; i++) {
        const pare_side_file *side = pare_store_side(b->store, i);
        if (strcmp(side->name, name) != 0)
            continue;
        char *text = NULL;
        if (side->size < 0 || side->size > SIDE_LIMIT)
            pare__build_fail(b, PARE_ERR_DAMAGED, "%s has %lld bytes, too many for what it is",
                             name, (long long)side->size);
        else if ((b->status = pare__calloc((size_t)side->size + 1, 1, &text)) == PARE_OK &&
                 (b->status = pare_store_side_read(b->store, i, 0, side->size, text)) == PARE_OK)
            b->status = pare__json_parse(text, (size_t)side->size, name, root);
        free(text);
    }
}
