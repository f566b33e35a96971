/* arch_spec.c - the text behind --arch NAME: a leading word, then key=value, between commas. */
#include "arch.h"

#include <string.h>

#define PART 64 /* bytes of one key, value or word, with the NUL */

const float pare__imagenet_mean[3] = {0.485f, 0.456f, 0.406f};
const float pare__imagenet_std[3] = {0.229f, 0.224f, 0.225f};

/* The next part of the text: its key ("" for a word) and value; false at the end. A part too long
 * to be anything is cut: no key or number is that long. */
static bool next(const char **at, char key[PART], char value[PART])
{
    if (**at == '\0')
        return false;
    size_t length = strcspn(*at, ","), equals = strcspn(*at, "=,");
    bool keyed = equals < length;
    const char *rest = keyed ? *at + equals + 1 : *at;
    snprintf(key, PART, "%.*s", keyed ? (int)equals : 0, *at);
    snprintf(value, PART, "%.*s", (int)(*at + length - rest), rest);
    *at += length + ((*at)[length] == ',');
    return true;
}

/* The value of a key; false: it is not given. */
static bool find(const pare__build *b, const char *wanted, char value[PART])
{
    char key[PART];
    for (const char *at = b->arch; next(&at, key, value);)
        if (strcmp(key, wanted) == 0)
            return true;
    return false;
}

void pare__spec_keys(pare__build *b, const char *const *keys, int items)
{
    char key[PART], value[PART];
    unsigned seen = 0;
    int words = 0;
    for (const char *at = b->arch; b->status == PARE_OK && next(&at, key, value);) {
        unsigned k = 0;
        if (!key[0]) {
            if (++words > items)
                pare__build_fail(b, PARE_ERR_ARGUMENT, "--arch %s: \"%s\" is no key=value",
                                 b->arch_name, value);
            continue;
        }
        while (keys[k] && strcmp(keys[k], key) != 0)
            k++;
        const char *nearest = keys[k] ? NULL : pare__nearest(key, keys);
        if (!keys[k])
            pare__build_fail(b, PARE_ERR_ARGUMENT, "--arch %s has no key \"%s\"%s%s%s",
                             b->arch_name, key, nearest ? ", did you mean " : "",
                             nearest ? nearest : "", nearest ? "?" : "");
        else if (seen & 1u << k)
            pare__build_fail(b, PARE_ERR_ARGUMENT, "--arch %s: %s is given twice", b->arch_name,
                             key);
        seen |= 1u << k;
    }
}

void pare__spec_item(const pare__build *b, char *text, size_t size)
{
    size_t length = strcspn(b->arch, ",");
    bool word = strcspn(b->arch, "=") >= length;
    snprintf(text, size, "%.*s", word ? (int)length : 0, b->arch);
}

int64_t pare__spec_int(pare__build *b, const char *key, int64_t otherwise, int64_t least,
                       int64_t most)
{
    char value[PART];
    int64_t number = otherwise;
    if (find(b, key, value) &&
        (!pare__parse_int(value, &number) || number < least || number > most)) {
        pare__build_fail(b, PARE_ERR_ARGUMENT,
                         "--arch %s: %s=%s must be a whole number, %lld to "
                         "%lld",
                         b->arch_name, key, value, (long long)least, (long long)most);
        return otherwise;
    }
    return number;
}

double pare__spec_real(pare__build *b, const char *key, double otherwise, double least, double most)
{
    char value[PART];
    double number = otherwise;
    if (find(b, key, value) &&
        (!pare__parse_double(value, &number) || number < least || number > most)) {
        pare__build_fail(b, PARE_ERR_ARGUMENT, "--arch %s: %s=%s must be a number, %g to %g",
                         b->arch_name, key, value, least, most);
        return otherwise;
    }
    return number;
}

void pare__spec_word(const pare__build *b, const char *key, const char *otherwise, char *text,
                     size_t size)
{
    char value[PART];
    snprintf(text, size, "%s", find(b, key, value) ? value : otherwise);
}

pare__picture pare__spec_picture(pare__build *b, int64_t size, int64_t channels)
{
    return (pare__picture){pare__spec_int(b, "size", size, 1, 1 << 14),
                           pare__spec_int(b, "in", channels, 1, 4)};
}

int64_t pare__stored_width(pare__build *b, const char *weight, int64_t usual)
{
    int64_t width = pare__axis(b, weight, 0, usual);
    if (b->status == PARE_OK && (width < 1 || width > PARE__MOST_WIDTH)) {
        pare__build_fail(b, PARE_ERR_DAMAGED, "%s has %lld rows", weight, (long long)width);
        return usual;
    }
    return width;
}

int64_t pare__spec_classes(pare__build *b, int64_t otherwise)
{
    int64_t classes = pare__spec_int(b, "classes", otherwise, 1, PARE__MOST_WIDTH);
    return b->classes ? b->classes : classes;
}

void pare__preprocess(pare__build *b, float scale, const float mean[3], const float std[3])
{
    pare_model_facts *facts = &b->model->facts;
    facts->scale = scale;
    for (int c = 0; c < 4; c++) {
        bool colour = mean && facts->channels == 3 && c < 3;
        facts->mean[c] = colour ? mean[c] : mean ? (mean[0] + mean[1] + mean[2]) / 3 : 0;
        facts->std[c] = colour ? std[c] : std ? (std[0] + std[1] + std[2]) / 3 : 1;
    }
}
