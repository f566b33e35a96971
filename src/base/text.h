/* text.h - strings that grow, numbers and sizes from text, patterns, nearest words. */
#ifndef PARE_BASE_TEXT_H
#define PARE_BASE_TEXT_H

#include "pare/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A growing string; starts as { 0 }. data is NULL or terminated. A failed allocation is kept in
 * `failed`, so a chain of appends needs one check: pare__text_take. */
typedef struct pare__text {
    char *data;
    size_t length, capacity;
    bool failed;
} pare__text;

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
void pare__text_add(pare__text *text, const char *fmt, ...);
void pare__text_bytes(pare__text *text, const char *bytes, size_t size);

/* Hands over the string ("" if nothing was added; caller frees) or PARE_ERR_MEMORY; text is empty
 * again. */
pare_status pare__text_take(pare__text *text, char **string);
void pare__text_free(pare__text *text);

/* Whole-string numbers; false if there is anything else in it, or out of range. */
bool pare__parse_int(const char *text, int64_t *value);
bool pare__parse_double(const char *text, double *value); /* finite, '.' whatever the locale */

/* "5G", "256M", "1.5G", "4096": powers of 1024. */
bool pare__parse_size(const char *text, int64_t *bytes);

/* "1.50 GiB", "812 B" into buffer (size ≥ 16); returns buffer. */
char *pare__size_text(double bytes, char *buffer, size_t size);
/* "1.2 s", "3 min 20 s" into buffer (size ≥ 24); returns buffer. */
char *pare__time_text(double seconds, char *buffer, size_t size);

/* Shell pattern match over the whole name: '*' also matches '.' and '/'. */
bool pare__glob(const char *pattern, const char *name);

/* The word of a NULL-terminated list nearest to `word` (Levenshtein distance at most a third of its
 * length, at least 1; of several the one with the longest common beginning), or NULL. */
const char *pare__nearest(const char *word, const char *const *words);

/* 32 hexadecimal digits of two 64-bit halves, high half first, terminated; text has 33 bytes. */
void pare__hex128(const uint64_t halves[2], char *text);

#ifdef __cplusplus
}
#endif

#endif
