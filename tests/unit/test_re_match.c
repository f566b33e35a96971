/* test_re_match.c - patterns match as Python's re.match says, and none of them costs much. */
#include "test.h"

#include "base/clock.h"
#include "store/store_impl.h"

static void matches(const char *pattern, const char *name, bool want)
{
    bool match = !want;
    assert_ok(pare__re_match(pattern, name, &match));
    if (match != want)
        fail_msg("'%s' and '%s': %s", pattern, name, match ? "match" : "no match");
}

/* Expected answers come from Python 3.11. */
static const struct {
    const char *pattern, *name;
    bool match;
} cases[] = {
    {"", "", true},
    {"", "a", true},
    {"a", "", false},
    {"a.b", "axb", true},
    {"a\\.b", "axb", false},
    {"a\\.b", "a.bc", true},
    {"b", "abc", false},
    {".*b", "abc", true},
    {"a$", "abc", false},
    {"a$", "a", true},
    {"^a", "abc", true},
    {"b^a", "ba", false},
    {"a*b", "b", true},
    {"a*b", "aaab", true},
    {"a+b", "b", false},
    {"a+b$", "aab", true},
    {"a?b$", "aab", false},
    {"a?b$", "ab", true},
    {"(?:x|ab)c$", "abc", true},
    {"(x|ab|)c$", "c", true},
    {"x|y|z$", "yes", true},
    {"(x|y|z)$", "zz", false},
    {"a.*?c", "abbc", true},
    {"[ab]+c", "abac", true},
    {"[^ab]c", "xc", true},
    {"[^ab]c", "ac", false},
    {"[a-c0-9]+$", "b7c", true},
    {"[a-c0-9]+$", "b7d", false},
    {"[]x]+$", "]x", true},
    {"[a-]+$", "a-", true},
    {"[\\d.]+$", "1.2", true},
    {"[\\w-]+$", "a_1-b", true},
    {"\\d+$", "12", true},
    {"\\D+$", "ab", true},
    {"\\D+$", "a1", false},
    {"\\w+\\s\\w+$", "a b", true},
    {"\\W", "a", false},
    {"x\\d{2}$", "x12", true},
    {"x\\d{2}$", "x1", false},
    {"x\\d{2,}$", "x1234", true},
    {"x\\d{1,2}$", "x123", false},
    {"x\\d{,2}$", "x", true},
    {"(ab){2}c", "ababc", true},
    {"(a|b){3}$", "aba", true},
    {"(a*)*b", "aaab", true},
    {"(a|b)*?c$", "abbac", true},
    {"(){5}a", "a", true},
    {"model\\.layers\\.(0|1|2[0-9])\\.(mlp|self_attn)\\..*_proj$",
     "model.layers.27.self_attn.q_proj", true},
    {"model\\.layers\\.(0|1|2[0-9])\\.(mlp|self_attn)\\..*_proj$",
     "model.layers.3.self_attn.q_proj", false},
    {".*experts\\.\\d+\\.w[123]$", "model.layers.0.block_sparse_moe.experts.7.w2", true},
    {".*lm_head", "lm_head", true},
    {".*gate$", "model.layers.0.mlp.gate_proj", false},
};

static void patterns_match_as_in_python(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        matches(cases[i].pattern, cases[i].name, cases[i].match);
}

static void what_is_not_known_is_refused(void **state)
{
    (void)state;
    static const char *const patterns[] = {
        "(?!x).*", "(?=x)", "(?<a>x)", "(?i)x",   "(a)\\1",  "(",   ")",    "a)",
        "[",       "[]",    "[a",      "[b-a]",   "[a-\\d]", "*a",  "+",    "a**",
        "a++",     "a{2",   "a{3,2}",  "a{999}",  "\\",      "a\\", "\\bx", "[\\n]",
        "{2}",     "(?",    "(?:",     "a{2}{3}", "\\Z"};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        bool match = true;
        if (pare__re_match(patterns[i], "a", &match) != PARE_ERR_UNSUPPORTED)
            fail_msg("'%s' was taken", patterns[i]);
        assert_false(match);
        assert_non_null(strstr(pare_last_error(), patterns[i]));
    }
}

static char *repeat(const char *text, int count)
{
    char *all = calloc(strlen(text), (size_t)count + 1);
    assert_non_null(all);
    for (int i = 0; i < count; i++)
        strcat(all, text);
    return all;
}

static void hostile_patterns_cost_little(void **state)
{
    (void)state;
    static const char *const nested[] = {"((((((((((a+)+)+)+)+)+)+)+)+)+)+b", "(a|a)*(a|a)*(a|a)*b",
                                         "(((a{255}){255}){255}){255}",
                                         "((((((a{0}){255}){0}){255}){0}){255}){0}", "(.*)*x"};
    double begin = pare__now();
    char *name = repeat("a", 400);
    bool match;
    for (size_t i = 0; i < sizeof nested / sizeof *nested; i++)
        (void)pare__re_match(nested[i], name, &match);
    char *optional = repeat("a?", 400), *deep = repeat("(", 100000),
         *long_one = repeat("ab|", 3000);
    assert_ok(pare__re_match(optional, name, &match));
    assert_true(match);
    assert_status(pare__re_match(deep, name, &match), PARE_ERR_UNSUPPORTED);
    assert_status(pare__re_match(long_one, name, &match), PARE_ERR_UNSUPPORTED);
    assert_true(pare__now() - begin < 20);
    free(optional), free(deep), free(long_one), free(name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_match_as_in_python),
        cmocka_unit_test(what_is_not_known_is_refused),
        cmocka_unit_test(hostile_patterns_cost_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
