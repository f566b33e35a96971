/* re_match.c - the patterns ("re:…") of a quantization_config: the part of Python's regular
 * expressions that names of modules need, matched as re.match does, from the start of the name but
 * not to its end.
 *
 * A pattern becomes a small program whose threads all run at once (Thompson 1968), so no pattern,
 * however hostile, takes more than its length times that of the name. Known: literals, ., [sets],
 * \d \w \s and their opposites, (groups), |, ^ $ * + ? {m,n}; a lazy ? after those changes nothing
 * here. Look-around and back references are not known.
 */
#include "store_impl.h"

#include <string.h>

enum {
    CODE_LIMIT = 8192,
    WORK_LIMIT =
        4 * CODE_LIMIT, /* instructions made in all: counts in counts make some again and again */
    SET_LIMIT = 64,
    DEPTH_LIMIT = 32,
    COUNT_LIMIT = 255,
    CHOICE_LIMIT = 256
};

typedef enum op { OP_CHAR, OP_ANY, OP_SET, OP_SPLIT, OP_JUMP, OP_BEGIN, OP_END, OP_MATCH } op;

typedef struct instruction {
    op op;
    int a, b; /* CHAR: the character; SET: its index; SPLIT, JUMP: where to, relative */
} instruction;

typedef struct threads {
    int at[CODE_LIMIT], count;
    bool there[CODE_LIMIT];
} threads;

typedef struct program {
    const char *at; /* in the pattern */
    instruction code[CODE_LIMIT];
    int count, work;
    uint8_t sets[SET_LIMIT + 1][32]; /* the last one takes what is too many */
    int set_count, depth;
    bool bad;
    threads lists[2];
    int waiting[CODE_LIMIT];
} program;

/* ---- compiling ------------------------------------------------------------------------------- */

static int emit_at(program *p, int index, op o, int a, int b)
{
    if (p->count == CODE_LIMIT || ++p->work > WORK_LIMIT) {
        p->bad = true;
        return 0;
    }
    memmove(p->code + index + 1, p->code + index, (size_t)(p->count - index) * sizeof *p->code);
    p->code[index] = (instruction){o, a, b};
    p->count++;
    return index;
}

static int emit(program *p, op o, int a, int b)
{
    return emit_at(p, p->count, o, a, b);
}

static void set_add(uint8_t set[32], int c)
{
    set[c / 8] |= (uint8_t)(1 << c % 8);
}

/* \d, \w, \s or an opposite into the set; false if c is none of them. */
static bool set_class(uint8_t set[32], char c)
{
    uint8_t class[32] = {0};
    char kind = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    if (kind != 'd' && kind != 'w' && kind != 's')
        return false;
    for (int i = 0; i < 256; i++) {
        bool digit = i >= '0' && i <= '9', space = i == ' ' || (i >= '\t' && i <= '\r');
        bool word =
            digit || (i >= 'a' && i <= 'z') || (i >= 'A' && i <= 'Z') || i == '_' || i >= 128;
        if (kind == 'd' ? digit : kind == 'w' ? word : space)
            set_add(class, i);
    }
    for (int i = 0; i < 32; i++)
        set[i] |= kind == c ? class[i] : (uint8_t) ~class[i];
    return true;
}

static uint8_t *new_set(program *p)
{
    if (p->set_count == SET_LIMIT) {
        p->bad = true;
        return p->sets[SET_LIMIT];
    }
    memset(p->sets[p->set_count], 0, 32);
    emit(p, OP_SET, p->set_count, 0);
    return p->sets[p->set_count++];
}

/* A backslash before a sign is that sign; before another letter or digit it is something unknown.
 */
static int escaped(program *p)
{
    char c = *p->at;
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (c == '\0' || letter) {
        p->bad = true;
        return 0;
    }
    p->at++;
    return (uint8_t)c;
}

/* One end of a range in brackets; -1 for a class, which is no end. */
static int set_member(program *p, uint8_t set[32])
{
    if (*p->at != '\\')
        return *p->at ? (uint8_t)*p->at++ : 0;
    p->at++;
    if (set_class(set, *p->at)) {
        p->at++;
        return -1;
    }
    return escaped(p);
}

static void parse_set(program *p)
{
    uint8_t *set = new_set(p);
    bool negated = *p->at == '^';
    p->at += negated;
    for (bool first = true; !p->bad && (first || *p->at != ']'); first = false) {
        int low = *p->at ? set_member(p, set) : 0, high = low;
        if (low > 0 && p->at[0] == '-' && p->at[1] != ']') {
            p->at++;
            high = set_member(p, set);
        }
        if (low == 0 || high < low) { /* the end of the text, or a range that is none */
            p->bad = true;
            return;
        }
        for (int c = low; c > 0 && c <= high; c++)
            set_add(set, c);
    }
    p->at += !p->bad;
    for (int i = 0; negated && i < 32; i++)
        set[i] = (uint8_t)~set[i];
}

static void parse_alternatives(program *p);

static void parse_group(program *p)
{
    if (*p->at == '?') {
        p->bad = p->bad || p->at[1] != ':';
        p->at += p->bad ? 0 : 2;
    }
    emit(p, OP_JUMP, 1, 0); /* so that repeating even an empty group ends at CODE_LIMIT */
    if (++p->depth > DEPTH_LIMIT)
        p->bad = true;
    if (!p->bad)
        parse_alternatives(p);
    p->depth--;
    p->bad = p->bad || *p->at != ')';
    p->at += !p->bad;
}

static void parse_atom(program *p)
{
    char c = *p->at++;
    switch (c) {
    case '.':
        emit(p, OP_ANY, 0, 0);
        break;
    case '^':
        emit(p, OP_BEGIN, 0, 0);
        break;
    case '$':
        emit(p, OP_END, 0, 0);
        break;
    case '[':
        parse_set(p);
        break;
    case '(':
        parse_group(p);
        break;
    case '*':
    case '+':
    case '?':
    case '{':
        p->bad = true;
        break;
    case '\\':
        if (*p->at && strchr("dwsDWS", *p->at))
            set_class(new_set(p), *p->at++);
        else
            emit(p, OP_CHAR, escaped(p), 0);
        break;
    default:
        emit(p, OP_CHAR, (uint8_t)c, 0);
    }
}

static void make_star(program *p, int start)
{
    emit_at(p, start, OP_SPLIT, 1, p->count - start + 2);
    emit(p, OP_JUMP, start - p->count, 0);
}

static void make_optional(program *p, int start)
{
    emit_at(p, start, OP_SPLIT, 1, p->count - start + 1);
}

static int read_count(program *p, int otherwise)
{
    int n = 0;
    if (*p->at < '0' || *p->at > '9')
        return otherwise;
    while (*p->at >= '0' && *p->at <= '9' && n <= COUNT_LIMIT)
        n = n * 10 + (*p->at++ - '0');
    return n;
}

/* {m}, {m,}, {,n}, {m,n}: the atom is compiled again for every time. */
static void parse_count(program *p, const char *atom, int start)
{
    int least = read_count(p, 0), most = least;
    if (*p->at == ',') {
        p->at++;
        most = read_count(p, -1);
    }
    if (*p->at != '}' || least > COUNT_LIMIT || most > COUNT_LIMIT || (most >= 0 && most < least)) {
        p->bad = true;
        return;
    }
    const char *after = p->at + 1;
    p->count = start;
    for (int i = 0; i < (most < 0 ? least + 1 : most) && !p->bad; i++) {
        int here = p->count;
        p->at = atom;
        parse_atom(p);
        if (i >= least && most < 0)
            make_star(p, here);
        else if (i >= least)
            make_optional(p, here);
    }
    p->at = after;
}

static void parse_repeated(program *p)
{
    const char *atom = p->at;
    int start = p->count;
    parse_atom(p);
    char c = p->bad || *p->at == '\0' || !strchr("*+?{", *p->at) ? '\0' : *p->at++;
    if (c == '*')
        make_star(p, start);
    else if (c == '+')
        emit(p, OP_SPLIT, start - p->count, 1);
    else if (c == '?')
        make_optional(p, start);
    else if (c == '{')
        parse_count(p, atom, start);
    if (c && *p->at == '?')
        p->at++;
}

static void parse_alternatives(program *p)
{
    int start = p->count, ends[CHOICE_LIMIT], count = 0;
    for (;;) {
        while (!p->bad && *p->at && *p->at != '|' && *p->at != ')')
            parse_repeated(p);
        if (p->bad || *p->at != '|')
            break;
        p->at++;
        if (count == CHOICE_LIMIT) {
            p->bad = true;
            break;
        }
        emit_at(p, start, OP_SPLIT, 1, p->count - start + 2);
        ends[count++] = emit(p, OP_JUMP, 0, 0);
        start = p->count;
    }
    for (int i = 0; i < count && !p->bad; i++)
        p->code[ends[i]].a = p->count - ends[i];
}

/* ---- matching -------------------------------------------------------------------------------- */

/* A thread at an instruction, followed to those that look at a character. */
static void start_thread(program *p, threads *list, int first, bool begin, bool end)
{
    int *waiting = p->waiting, count = 0;
    waiting[count++] = first;
    while (count > 0) {
        int at = waiting[--count];
        const instruction *i = &p->code[at];
        if (list->there[at])
            continue;
        list->there[at] = true;
        list->at[list->count++] = at;
        bool steps = i->op == OP_JUMP || i->op == OP_SPLIT || (i->op == OP_BEGIN && begin) ||
                     (i->op == OP_END && end);
        int next = at + (i->op == OP_JUMP || i->op == OP_SPLIT ? i->a : 1);
        if (steps && !list->there[next])
            waiting[count++] = next;
        if (i->op == OP_SPLIT && !list->there[at + i->b] && count < CODE_LIMIT)
            waiting[count++] = at + i->b;
    }
}

static bool takes(const program *p, const instruction *i, uint8_t c)
{
    return (i->op == OP_CHAR && i->a == c) || (i->op == OP_ANY && c != '\n') ||
           (i->op == OP_SET && p->sets[i->a][c / 8] >> c % 8 & 1);
}

static void clear(const program *p, threads *list)
{
    list->count = 0;
    memset(list->there, 0, (size_t)p->count * sizeof *list->there);
}

static bool run(program *p, const char *name)
{
    threads *now = &p->lists[0], *next = &p->lists[1], *swap;
    clear(p, now);
    start_thread(p, now, 0, true, *name == '\0');
    for (;; name++) {
        for (int t = 0; t < now->count; t++)
            if (p->code[now->at[t]].op == OP_MATCH)
                return true;
        if (*name == '\0' || now->count == 0)
            return false;
        clear(p, next);
        for (int t = 0; t < now->count; t++)
            if (takes(p, &p->code[now->at[t]], (uint8_t)*name))
                start_thread(p, next, now->at[t] + 1, false, name[1] == '\0');
        swap = now, now = next, next = swap;
    }
}

pare_status pare__re_match(const char *pattern, const char *name, bool *match)
{
    program *p;
    PARE_TRY(pare__calloc(1, sizeof *p, &p));
    p->at = pattern;
    parse_alternatives(p);
    p->bad = p->bad || *p->at != '\0';
    emit(p, OP_MATCH, 0, 0);
    bool known = !p->bad;
    *match = known && run(p, name);
    free(p);
    PARE_REQUIRE(known, PARE_ERR_UNSUPPORTED,
                 "quantization_config: the pattern 're:%.80s' cannot be read by this version",
                 pattern);
    return PARE_OK;
}
