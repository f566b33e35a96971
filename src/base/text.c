/* text.c - strings that grow, numbers and sizes from text, shell patterns, nearest words. */
#include "base/text.h"
#include "base/alloc.h"
#include "base/check.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

/* Room for `more` bytes and the NUL. */
static bool reserve(pare__text *text, size_t more)
{
    if (text->failed || more >= SIZE_MAX - text->length ||
        pare__grow(&text->data, &text->capacity, text->length + more + 1, 1) != PARE_OK)
        text->failed = true;
    return !text->failed;
}

void pare__text_bytes(pare__text *text, const char *bytes, size_t size)
{
    if (!reserve(text, size))
        return;
    if (size > 0)
        memcpy(text->data + text->length, bytes, size);
    text->length += size;
    text->data[text->length] = '\0';
}

void pare__text_add(pare__text *text, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (length < 0)
        text->failed = true;
    else if (reserve(text, (size_t)length)) {
        vsnprintf(text->data + text->length, (size_t)length + 1, fmt, again);
        text->length += (size_t)length;
    }
    va_end(again);
}

pare_status pare__text_take(pare__text *text, char **string)
{
    *string = NULL;
    pare__text_bytes(text, "", 0); /* so that there is a string even if nothing was added */
    if (text->failed) {
        size_t length = text->length;
        pare__text_free(text);
        PARE_FAIL(PARE_ERR_MEMORY, "no memory for a text longer than %zu bytes", length);
    }
    *string = text->data;
    *text = (pare__text){0};
    return PARE_OK;
}

void pare__text_free(pare__text *text)
{
    free(text->data);
    *text = (pare__text){0};
}

bool pare__parse_int(const char *text, int64_t *value)
{
    const char *digits = text + (*text == '-' || *text == '+');
    if (*digits == '\0' || digits[strspn(digits, "0123456789")] != '\0')
        return false;
    errno = 0;
    long long parsed = strtoll(text, NULL, 10);
    if (errno != 0 || parsed < INT64_MIN || parsed > INT64_MAX)
        return false;
    *value = parsed;
    return true;
}

/* [+-] digits [. digits] [e [+-] digits], with a digit before or after the point: no hex, no inf,
 * no spaces. */
static bool is_decimal(const char *text)
{
    static const char digits[] = "0123456789";
    text += *text == '-' || *text == '+';
    size_t count = strspn(text, digits);
    text += count;
    if (*text == '.') {
        size_t fraction = strspn(text + 1, digits);
        count += fraction;
        text += 1 + fraction;
    }
    if (count == 0)
        return false;
    if (*text == 'e' || *text == 'E') {
        text++;
        text += *text == '-' || *text == '+';
        size_t exponent = strspn(text, digits);
        if (exponent == 0)
            return false;
        text += exponent;
    }
    return *text == '\0';
}

bool pare__parse_double(const char *text, double *value)
{
    if (!is_decimal(text))
        return false;
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c == (locale_t)0)
        return false;
    double parsed = strtod_l(text, NULL, c);
    freelocale(c);
    if (!isfinite(parsed))
        return false;
    *value = parsed;
    return true;
}

bool pare__parse_size(const char *text, int64_t *bytes)
{
    size_t length = strspn(text, "0123456789.");
    char number[32];
    if (length == 0 || length >= sizeof number)
        return false;
    memcpy(number, text, length);
    number[length] = '\0';

    int64_t unit = 1, whole;
    if (text[length] != '\0') {
        static const char units[] = "KMGT";
        const char *found = strchr(units, toupper((unsigned char)text[length]));
        if (found == NULL || text[length + 1] != '\0')
            return false;
        unit = (int64_t)1 << (10 * (found - units + 1));
    }
    if (pare__parse_int(number, &whole))
        return pare__mul(whole, unit, bytes);
    double fraction;
    if (unit == 1 || !pare__parse_double(number, &fraction) || fraction * (double)unit >= 0x1p63)
        return false;
    *bytes = (int64_t)(fraction * (double)unit);
    return true;
}

char *pare__size_text(double bytes, char *buffer, size_t size)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (!isfinite(bytes))
        snprintf(buffer, size, "?");
    else if (fabs(bytes) < 1023.5)
        snprintf(buffer, size, "%.0f B", bytes);
    else {
        size_t unit = 0;
        for (bytes /= 1024; fabs(bytes) >= 1023.995 && unit < 5; unit++) /* never "1024.00 KiB" */
            bytes /= 1024;
        snprintf(buffer, size, "%.2f %s", bytes, units[unit]);
    }
    return buffer;
}

char *pare__time_text(double seconds, char *buffer, size_t size)
{
    if (!(seconds >= 0 && seconds < 1e12))
        snprintf(buffer, size, "?");
    else if (seconds < 0.0995)
        snprintf(buffer, size, "%.1f ms", seconds * 1e3);
    else if (seconds < 59.95)
        snprintf(buffer, size, "%.1f s", seconds);
    else {
        int64_t s = (int64_t)(seconds + 0.5), minutes = s / 60;
        if (minutes < 60)
            snprintf(buffer, size, "%" PRId64 " min %" PRId64 " s", minutes, s % 60);
        else
            snprintf(buffer, size, "%" PRId64 " h %" PRId64 " min", minutes / 60, minutes % 60);
    }
    return buffer;
}

/* Whether c is in the set that *pattern stands at (after '['); *pattern moves behind its ']', or to
 * NULL if there is none. */
static bool in_set(const char **pattern, unsigned char c)
{
    const char *p = *pattern;
    bool negated = *p == '!' || *p == '^', found = false;
    p += negated;
    for (const char *first = p; *p != ']' || p == first; p++) { /* a ']' at the start is itself */
        if (*p == '\0') {
            *pattern = NULL;
            return false;
        }
        unsigned char low = (unsigned char)*p, high = low;
        if (p[1] == '-' && p[2] != ']' && p[2] != '\0') {
            high = (unsigned char)p[2];
            p += 2;
        }
        found |= low <= c && c <= high;
    }
    *pattern = p + 1;
    return found != negated;
}

/* Matches one character of name with what is at *pattern (no '*'), which moves behind it. */
static bool match_one(const char **pattern, unsigned char c)
{
    const char *p = *pattern;
    if (*p == '[') {
        const char *set = p + 1;
        bool in = in_set(&set, c);
        if (set != NULL) {
            *pattern = set;
            return in;
        } /* unclosed: a plain '[' */
    }
    if (*p == '\\' && p[1] != '\0')
        p++;
    else if (*p == '?')
        c = '?';
    *pattern = p + 1;
    return *p != '\0' && (unsigned char)*p == c;
}

/* Only the last '*' is ever tried again, so the time is at most the product of the lengths. */
bool pare__glob(const char *pattern, const char *name)
{
    const char *star = NULL, *retry = NULL;
    while (true) {
        if (*pattern == '*') {
            star = ++pattern;
            retry = name;
            continue;
        }
        if (*name == '\0')
            return *pattern == '\0';
        if (match_one(&pattern, (unsigned char)*name)) {
            name++;
            continue;
        }
        if (star == NULL)
            return false;
        pattern = star;
        name = ++retry;
    }
}

#define WORD_LIMIT 128 /* longer words are not typing errors of ours */

static size_t distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t row[WORD_LIMIT + 1];
    for (size_t j = 0; j <= b_length; j++)
        row[j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[b_length];
}

const char *pare__nearest(const char *word, const char *const *words)
{
    size_t length = strlen(word);
    if (length > WORD_LIMIT)
        return NULL;
    size_t limit = length / 3 > 1 ? length / 3 : 1;
    size_t start = 0; /* how many first letters the nearest so far has in common */
    const char *nearest = NULL;
    for (; *words != NULL; words++) {
        size_t other = strlen(*words), same = 0;
        size_t far = other <= WORD_LIMIT ? distance(word, length, *words, other) : SIZE_MAX;
        while (word[same] != '\0' && word[same] == (*words)[same])
            same++;
        if (far < limit || (far == limit && (nearest == NULL || same > start))) {
            nearest = *words;
            limit = far;
            start = same;
        }
    }
    return nearest;
}

void pare__hex128(const uint64_t halves[2], char *text)
{
    snprintf(text, 33, "%016" PRIx64 "%016" PRIx64, halves[0], halves[1]);
}
