/* qtensor.c - quantisation schemes: their spelling, and the blocks they cut a matrix into. */
#include "pare/qtensor.h"

#include "base/check.h"
#include "base/text.h"

#include <ctype.h>
#include <string.h>

#define EXPECTED "w<2..8>[t|c|g<N>|b<R>x<C>][z][a8[s|d]], fp8[t|c][a8[s|d]] or nf4[c|d]"
#define MAX_BLOCK (1 << 20)
#define NF4_BLOCK 64

/* Common spellings, for "did you mean". */
static const char *const known[] = {"w2",       "w3",     "w4",      "w8",  "w8a8", "w4g128",
                                    "w4g32",    "w3g128", "w4g128z", "fp8", "fp8t", "fp8a8",
                                    "w4b16x16", "nf4",    "nf4d",    "w8t", "w4a8", NULL};

static const char *const later[] = {"mxfp4", "mxfp6", "mxfp8", "nvfp4", "q1_0",    "q2_0",
                                    "q4_0",  "q4_1",  "q5_0",  "q5_1",  "q8_0",    "q2_k",
                                    "q3_k",  "q4_k",  "q5_k",  "q6_k",  "iq4_nl",  "iq4_xs",
                                    "tq1_0", "tq2_0", "fp4",   "fp4d",  "fp8e5m2", NULL};

/* A whole number from 1 to MAX_BLOCK; moves *at behind it. */
static bool take_number(const char **at, int64_t *number)
{
    const char *p = *at;
    int64_t n = 0;
    while (isdigit((unsigned char)*p) && n <= MAX_BLOCK)
        n = n * 10 + (*p++ - '0');
    bool good = p > *at && **at != '0' && n <= MAX_BLOCK;
    *at = p;
    *number = n;
    return good;
}

static bool take_word(const char **at, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(*at, word, n) != 0)
        return false;
    *at += n;
    return true;
}

/* [t|c|g<N>|b<R>x<C>]; blocks as well as t and c only if wanted. */
static bool take_granularity(const char **at, bool blocks, pare_scheme *scheme)
{
    scheme->granularity = PARE_PER_CHANNEL;
    if (take_word(at, "t")) {
        scheme->granularity = PARE_PER_TENSOR;
    } else if (take_word(at, "c")) {
        scheme->granularity = PARE_PER_CHANNEL;
    } else if (blocks && take_word(at, "g")) {
        scheme->granularity = PARE_PER_GROUP;
        scheme->block_rows = 1;
        return take_number(at, &scheme->block_cols);
    } else if (blocks && take_word(at, "b")) {
        scheme->granularity = PARE_PER_BLOCK;
        return take_number(at, &scheme->block_rows) && take_word(at, "x") &&
               take_number(at, &scheme->block_cols);
    }
    return true;
}

static void take_activation(const char **at, pare_scheme *scheme)
{
    if (!take_word(at, "a8"))
        return;
    scheme->activation = take_word(at, "s") ? PARE_ACT_STATIC : PARE_ACT_DYNAMIC;
    if (scheme->activation == PARE_ACT_DYNAMIC)
        (void)take_word(at, "d");
}

static bool parse(const char *text, pare_scheme *scheme)
{
    const char *at = text;
    bool good = true;
    *scheme = (pare_scheme){0};
    if (take_word(&at, "fp8")) {
        scheme->type = PARE_QUANT_E4M3;
        scheme->bits = 8;
        good = take_granularity(&at, false, scheme);
        take_activation(&at, scheme);
    } else if (take_word(&at, "nf4")) {
        *scheme = (pare_scheme){.type = PARE_QUANT_NF4,
                                .bits = 4,
                                .granularity = PARE_PER_GROUP,
                                .block_rows = 1,
                                .block_cols = NF4_BLOCK};
        if (take_word(
                &at, "c")) { /* one scale a row: what a row that 64 does not divide falls back to */
            scheme->granularity = PARE_PER_CHANNEL;
            scheme->block_rows = scheme->block_cols = 0;
        } else {
            scheme->double_quant = take_word(&at, "d");
        }
    } else if (at[0] == 'w' && at[1] >= '2' && at[1] <= '8') {
        scheme->type = PARE_QUANT_INT;
        scheme->bits = at[1] - '0';
        at += 2;
        good = take_granularity(&at, true, scheme);
        scheme->asymmetric = take_word(&at, "z");
        take_activation(&at, scheme);
    } else {
        good = false;
    }
    return good && *at == '\0';
}

pare_status pare_scheme_parse(const char *text, pare_scheme *scheme)
{
    PARE_REQUIRE(text && scheme, PARE_ERR_ARGUMENT, "pare_scheme_parse needs a text and a scheme");
    if (parse(text, scheme))
        return PARE_OK;
    *scheme = (pare_scheme){0};
    char lower[16];
    size_t n = 0;
    for (; text[n] && n + 1 < sizeof lower; n++)
        lower[n] = (char)tolower((unsigned char)text[n]);
    lower[n] = '\0';
    for (const char *const *word = later; *word; word++)
        PARE_REQUIRE(strcmp(lower, *word) != 0, PARE_ERR_ARGUMENT,
                     "the scheme %s is not in this version; use %s", text, EXPECTED);
    const char *near = pare__nearest(lower, known);
    PARE_REQUIRE(!near, PARE_ERR_ARGUMENT,
                 "the scheme \"%.64s\" is none (did you mean %s?); expected %s", text, near,
                 EXPECTED);
    PARE_FAIL(PARE_ERR_ARGUMENT, "the scheme \"%.64s\" is none; expected %s", text, EXPECTED);
}

char *pare_scheme_text(const pare_scheme *scheme, char *text, size_t size)
{
    char block[56] = "";
    if (scheme->granularity == PARE_PER_TENSOR)
        snprintf(block, sizeof block, "t");
    else if (scheme->granularity == PARE_PER_GROUP)
        snprintf(block, sizeof block, "g%lld", (long long)scheme->block_cols);
    else if (scheme->granularity == PARE_PER_BLOCK)
        snprintf(block, sizeof block, "b%lldx%lld", (long long)scheme->block_rows,
                 (long long)scheme->block_cols);
    const char *activation = scheme->activation == PARE_ACT_STATIC    ? "a8s"
                             : scheme->activation == PARE_ACT_DYNAMIC ? "a8"
                                                                      : "";
    switch (scheme->type) {
    case PARE_QUANT_INT:
        snprintf(text, size, "w%d%s%s%s", scheme->bits, block, scheme->asymmetric ? "z" : "",
                 activation);
        break;
    case PARE_QUANT_E4M3:
        snprintf(text, size, "fp8%s%s", block, activation);
        break;
    case PARE_QUANT_NF4:
        snprintf(text, size, "nf4%s",
                 scheme->granularity == PARE_PER_CHANNEL ? "c"
                 : scheme->double_quant                  ? "d"
                                                         : "");
        break;
    default:
        snprintf(text, size, "none");
    }
    return text;
}

static int64_t at_least_1(int64_t n)
{
    return n < 1 ? 1 : n;
}

pare_blocks pare_scheme_blocks(const pare_scheme *scheme, int64_t rows, int64_t cols)
{
    pare_blocks b = {.block_rows = 1, .block_cols = at_least_1(cols)};
    if (scheme->granularity == PARE_PER_TENSOR) {
        b.block_rows = at_least_1(rows);
    } else if (scheme->granularity != PARE_PER_CHANNEL) {
        b.block_rows = at_least_1(scheme->block_rows);
        b.block_cols = at_least_1(scheme->block_cols);
    }
    if (rows > 0 && cols > 0) {
        b.down = (rows - 1) / b.block_rows + 1;
        b.across = (cols - 1) / b.block_cols + 1;
    }
    return b;
}
