/* json_text.c - writes a JSON tree as text: the same bytes for the same tree, on every machine and
 * in every locale. */
#include "base/json.h"
#include "base/alloc.h"
#include "base/check.h"
#include "base/text.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

struct writer {
    pare__text text;
    int indent;
    bool sorted;
};

struct member {
    const char *key;
    const pare__json *value;
};

/* ---- reals ---- */

/* A decimal number d.ddd × 10^exponent. */
struct decimal {
    char digits[24];
    int count, exponent;
};

/* The decimal of `count` digits nearest to x > 0. */
static struct decimal nearest_decimal(double x, int count)
{
    struct decimal d = {.count = count};
    char text[40];
    snprintf(text, sizeof text, "%.*e", count - 1, x);
    const char *at = text;
    for (int i = 0; i < count; at++) /* passes over the point, whatever the locale's is */
        if (*at >= '0' && *at <= '9')
            d.digits[i++] = *at;
    d.exponent = atoi(strchr(at, 'e') + 1);
    return d;
}

static struct decimal next_up(struct decimal d)
{
    int i = d.count - 1;
    while (i >= 0 && d.digits[i] == '9')
        d.digits[i--] = '0';
    if (i >= 0)
        d.digits[i]++;
    else { /* 9.99 + 0.01 = 10.0 */
        d.digits[0] = '1';
        d.exponent++;
    }
    return d;
}

/* Without a point in the text the locale has no say in its reading. */
static bool reads_back(const struct decimal *d, double x)
{
    char text[40];
    snprintf(text, sizeof text, "%se%d", d->digits, d->exponent - d->count + 1);
    return strtod(text, NULL) == x;
}

/* The shortest decimal that reads back as x > 0, and of those the nearest to x. Where the spacing
 * of doubles changes, at a power of two, the nearest of its length may lie below and not read back
 * while the next one above does. */
static struct decimal shortest_decimal(double x)
{
    int ignored;
    bool lopsided = frexp(x, &ignored) == 0.5;
    for (int count = 1; count < 17; count++) {
        struct decimal d = nearest_decimal(x, count);
        if (reads_back(&d, x))
            return d;
        if (!lopsided)
            continue;
        d = next_up(d);
        if (reads_back(&d, x))
            return d;
    }
    return nearest_decimal(x, 17);
}

static void write_real(pare__text *text, double x)
{
    if (signbit(x))
        pare__text_add(text, "-");
    if (x == 0) {
        pare__text_add(text, "0.0");
        return;
    }
    struct decimal d = shortest_decimal(fabs(x));
    int whole = d.exponent + 1; /* digits before the point */
    if (d.exponent < -4 || d.exponent >= 16) {
        pare__text_add(text, "%c%s%se%c%02d", d.digits[0], d.count > 1 ? "." : "", d.digits + 1,
                       d.exponent < 0 ? '-' : '+', abs(d.exponent));
    } else if (whole <= 0)
        pare__text_add(text, "0.%.*s%s", -whole, "0000", d.digits);
    else if (whole >= d.count)
        pare__text_add(text, "%s%.*s.0", d.digits, whole - d.count, "0000000000000000");
    else
        pare__text_add(text, "%.*s.%s", whole, d.digits, d.digits + whole);
}

/* ---- strings ---- */

/* The length in bytes of the UTF-8 character at s (terminated), 0 if there is none: overlong forms,
 * surrogates and what lies past U+10FFFF are none. */
static size_t utf8_length(const unsigned char *s)
{
    if (s[0] < 0x80)
        return 1;
    size_t length = s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90))
        return 0;
    return length;
}

static void write_escape(pare__text *text, unsigned char c)
{
    static const char letters[] = "b\bf\fn\nr\rt\t\"\"\\\\";
    for (const char *pair = letters; *pair != '\0'; pair += 2)
        if (c == (unsigned char)pair[1]) {
            pare__text_add(text, "\\%c", pair[0]);
            return;
        }
    pare__text_add(text, "\\u%04x", c);
}

static void write_string(pare__text *text, const char *string)
{
    const unsigned char *s = (const unsigned char *)string;
    pare__text_bytes(text, "\"", 1);
    while (*s != '\0') {
        size_t plain = 0, length = 1;
        while (s[plain] >= 0x20 && s[plain] != '"' && s[plain] != '\\' &&
               (length = utf8_length(s + plain)) > 0)
            plain += length;
        pare__text_bytes(text, (const char *)s, plain);
        s += plain;
        if (length == 0)
            pare__text_bytes(text, "\xef\xbf\xbd", 3);
        else if (*s != '\0')
            write_escape(text, *s);
        s += *s != '\0';
    }
    pare__text_bytes(text, "\"", 1);
}

/* ---- trees ---- */

static pare_status write_node(struct writer *w, const pare__json *node, int level);

static void new_line(struct writer *w, int level)
{
    if (w->indent > 0)
        pare__text_add(&w->text, "\n%*s", level * w->indent, "");
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct member *)a)->key, ((const struct member *)b)->key);
}

static pare_status write_object(struct writer *w, const pare__json *object, int level)
{
    pare_status status = PARE_OK;
    struct member *members = NULL;
    size_t count = pare__json_size(object), at = 0;
    PARE_TRY(pare__calloc(count, sizeof *members, &members));
    for (size_t i = 0; i < count; i++)
        pare__json_next(object, &at, &members[i].key, &members[i].value);
    if (w->sorted && count > 0)
        qsort(members, count, sizeof *members, by_key);
    pare__text_bytes(&w->text, "{", 1);
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            pare__text_bytes(&w->text, ",", 1);
        new_line(w, level + 1);
        write_string(&w->text, members[i].key);
        pare__text_add(&w->text, w->indent > 0 ? ": " : ":");
        PARE_TRY_DONE(write_node(w, members[i].value, level + 1));
    }
    if (count > 0)
        new_line(w, level);
    pare__text_bytes(&w->text, "}", 1);
done:
    free(members);
    return status;
}

static pare_status write_array(struct writer *w, const pare__json *array, int level)
{
    size_t count = pare__json_size(array);
    pare__text_bytes(&w->text, "[", 1);
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            pare__text_bytes(&w->text, ",", 1);
        new_line(w, level + 1);
        PARE_TRY(write_node(w, pare__json_at(array, i), level + 1));
    }
    if (count > 0)
        new_line(w, level);
    pare__text_bytes(&w->text, "]", 1);
    return PARE_OK;
}

static pare_status write_node(struct writer *w, const pare__json *node, int level)
{
    bool truth;
    int64_t integer;
    double real;
    if (pare__json_is_object(node))
        return write_object(w, node, level);
    if (pare__json_is_array(node))
        return write_array(w, node, level);
    if (pare__json_string(node) != NULL)
        write_string(&w->text, pare__json_string(node));
    else if (pare__json_bool(node, &truth))
        pare__text_add(&w->text, truth ? "true" : "false");
    else if (pare__json_int(node, &integer))
        pare__text_add(&w->text, "%" PRId64, integer);
    else if (pare__json_real(node, &real))
        write_real(&w->text, real);
    else
        pare__text_add(&w->text, "null");
    return PARE_OK;
}

pare_status pare__json_dump(const pare__json *node, int indent, bool sorted, char **text)
{
    *text = NULL;
    PARE_REQUIRE(!pare__json_failed(node), PARE_ERR_MEMORY, "no memory to build a JSON text");
    struct writer w = {.indent = indent, .sorted = sorted};
    pare_status status = write_node(&w, node, 0);
    if (status == PARE_OK)
        return pare__text_take(&w.text, text);
    pare__text_free(&w.text);
    PARE_TRY(status);
    return PARE_OK;
}
