/* pattern.c - the spelling of pruning patterns. */
#include "pare/prune.h"

#include "base/check.h"
#include "base/text.h"

#include <string.h>

/* The patterns that are one word. */
static const char *const names[] = {[PARE_PATTERN_UNSTRUCTURED] = "unstructured",
                                    [PARE_PATTERN_CHANNEL] = "channel",
                                    [PARE_PATTERN_HEAD] = "head",
                                    [PARE_PATTERN_LAYER] = "layer",
                                    [PARE_PATTERN_WIDTH] = "width"};

/* "AxB" or "A:B": two whole numbers with sep between, each 1..limit. */
static bool parse_pair(const char *text, char sep, int64_t limit, int64_t *a, int64_t *b)
{
    char left[24], right[24];
    const char *cut = strchr(text, sep);
    if (!cut || (size_t)(cut - text) >= sizeof left || strlen(cut + 1) >= sizeof right)
        return false;
    memcpy(left, text, (size_t)(cut - text));
    left[cut - text] = '\0';
    strcpy(right, cut + 1);
    return pare__parse_int(left, a) && pare__parse_int(right, b) && *a >= 1 && *a <= limit &&
           *b >= 1 && *b <= limit;
}

bool pare_pattern_shrinks(const pare_pattern *pattern)
{
    return pattern->kind >= PARE_PATTERN_CHANNEL;
}

pare_status pare_pattern_parse(const char *text, pare_pattern *pattern)
{
    static const char *const words[] = {"unstructured", "2:4",   "4:8",   "block:16x16", "channel",
                                        "head",         "layer", "width", NULL};
    PARE_REQUIRE(text && pattern, PARE_ERR_ARGUMENT, "pattern: NULL argument");
    *pattern = (pare_pattern){.kind = PARE_PATTERN_UNSTRUCTURED};
    int64_t a, b;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i] && strcmp(text, names[i]) == 0) {
            pattern->kind = (pare_pattern_kind)i;
            return PARE_OK;
        }
    if (strncmp(text, "block:", 6) == 0) {
        PARE_REQUIRE(parse_pair(text + 6, 'x', 4096, &a, &b), PARE_ERR_ARGUMENT,
                     "pattern \"%s\": a block is block:RxC with R and C from 1 to 4096", text);
        *pattern = (pare_pattern){.kind = PARE_PATTERN_BLOCK, .block_rows = a, .block_cols = b};
        return PARE_OK;
    }
    if (text[0] >= '0' && text[0] <= '9' && strchr(text, ':')) {
        PARE_REQUIRE(parse_pair(text, ':', 256, &a, &b) && a < b, PARE_ERR_ARGUMENT,
                     "pattern \"%s\": N:M keeps N of every M weights, 0 < N < M ≤ 256", text);
        *pattern = (pare_pattern){.kind = PARE_PATTERN_NM, .n = (int)a, .m = (int)b};
        return PARE_OK;
    }
    const char *near = pare__nearest(text, words);
    PARE_FAIL(PARE_ERR_ARGUMENT,
              "pattern \"%s\" is none of unstructured, N:M, block:RxC, channel, head, layer, "
              "width%s%s%s",
              text, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

char *pare_pattern_text(const pare_pattern *pattern, char *text, size_t size)
{
    switch (pattern->kind) {
    case PARE_PATTERN_NM:
        snprintf(text, size, "%d:%d", pattern->n, pattern->m);
        break;
    case PARE_PATTERN_BLOCK:
        snprintf(text, size, "block:%lldx%lld", (long long)pattern->block_rows,
                 (long long)pattern->block_cols);
        break;
    default:
        snprintf(text, size, "%s", names[pattern->kind]);
    }
    return text;
}
