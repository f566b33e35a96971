/* test_cli_args.c - the command line: what is taken, what is refused, and with which words. */
#include "test.h"

#include "cli.h"

#define MAX_ARGS 16

/* Parses "pare" and these words (NULL ends them); the words are copied, getopt may move them. */
static int parse(struct args *args, char *error, size_t size, const char *const *words)
{
    static char *argv[MAX_ARGS + 2];
    int argc = 0;
    argv[argc++] = (char *)(uintptr_t) "pare";
    for (; words[argc - 1] && argc <= MAX_ARGS; argc++)
        argv[argc] = (char *)(uintptr_t)words[argc - 1];
    argv[argc] = NULL;
    return args_parse(argc, argv, args, error, size);
}

#define TAKE(args_, ...)                                                                           \
    do {                                                                                           \
        char error_[512] = "";                                                                     \
        int code_ =                                                                                \
            parse((args_), error_, sizeof error_, (const char *const[]){__VA_ARGS__, NULL});       \
        if (code_)                                                                                 \
            fail_msg("refused with %d: %s", code_, error_);                                        \
    } while (0)

#define REFUSE(part_, ...)                                                                         \
    do {                                                                                           \
        char error_[512] = "";                                                                     \
        struct args args_;                                                                         \
        int code_ =                                                                                \
            parse(&args_, error_, sizeof error_, (const char *const[]){__VA_ARGS__, NULL});        \
        args_free(&args_);                                                                         \
        assert_int_equal(code_, 2);                                                                \
        if (!strstr(error_, (part_)))                                                              \
            fail_msg("got \"%s\" without \"%s\"", error_, (part_));                                \
        assert_null(strchr(error_, '\n'));                                                         \
    } while (0)

static void options_may_stand_anywhere(void **state)
{
    (void)state;
    struct args args;
    TAKE(&args, "--threads", "3", "quantize", "--json", "m/", "--scheme=w4", "-oout.h5", "--memory",
         "1.5G");
    assert_string_equal(args.command->name, "quantize");
    assert_string_equal(args.operand[0], "m/");
    assert_string_equal(args.value[OPT_OUTPUT].text, "out.h5");
    assert_string_equal(args.value[OPT_SCHEME].text, "w4");
    assert_int_equal(args.value[OPT_THREADS].whole, 3);
    assert_int_equal(args.value[OPT_MEMORY].whole, (int64_t)3 << 29);
    assert_true(args.value[OPT_JSON].given);
    assert_false(args.value[OPT_QUIET].given);
    args_free(&args);
}

static void globs_are_gathered_and_other_options_replaced(void **state)
{
    (void)state;
    struct args args;
    TAKE(&args, "prune", "m", "-o", "o", "--sparsity", "0.1", "--include", "a*", "--exclude", "b",
         "--include", "c", "--sparsity", ".75", "--seed", "18446744073709551615");
    assert_int_equal(args.choice.includes, 2);
    assert_string_equal(args.choice.include[0], "a*");
    assert_string_equal(args.choice.include[1], "c");
    assert_int_equal(args.choice.excludes, 1);
    assert_true(args.value[OPT_SPARSITY].real == 0.75);
    assert_true(args.value[OPT_SEED].seed == UINT64_MAX);
    args_free(&args);
}

static void two_dashes_end_the_options(void **state)
{
    (void)state;
    struct args args;
    TAKE(&args, "compare", "--", "-a", "--b");
    assert_string_equal(args.operand[0], "-a");
    assert_string_equal(args.operand[1], "--b");
    args_free(&args);
}

static void the_program_itself_answers_without_a_command(void **state)
{
    (void)state;
    struct args args;
    TAKE(&args, "--version");
    assert_null(args.command);
    assert_true(args.value[OPT_VERSION].given);
    args_free(&args);
    TAKE(&args, "--completion", "bash");
    args_free(&args);
    TAKE(&args, "run", "--help");
    assert_string_equal(args.command->name, "run");
    args_free(&args);
    REFUSE("--version goes without a command", "run", "r.yaml", "--version");
}

static void wrong_commands_name_the_nearest(void **state)
{
    (void)state;
    REFUSE("unknown command \"quantise\"; did you mean quantize?", "quantise", "m");
    REFUSE("did you mean inspect?", "inpsect", "m");
    REFUSE("unknown command \"xyzzy\"; pare --help", "xyzzy");
}

static void wrong_options_name_the_nearest(void **state)
{
    (void)state;
    REFUSE("unknown option \"--shceme\"; did you mean --scheme?", "quantize", "m", "--shceme",
           "w4");
    REFUSE("unknown option \"--thread\xc3\xa4\"; did you mean --threads?", "inspect", "m",
           "--thread\xc3\xa4=5");
    REFUSE("unknown option \"-z\"; pare inspect --help", "inspect", "m", "-z");
    REFUSE("unknown option \"--zzzzzz\"", "--zzzzzz");
}

static void options_of_other_commands_are_refused(void **state)
{
    (void)state;
    REFUSE("inspect takes no --sparsity, which belongs to: prune train distill", "inspect", "m",
           "--sparsity", "0.5");
    REFUSE("convert takes no --include", "convert", "a", "--include", "x");
    REFUSE("--stats needs a command: one of inspect", "--stats");
}

static void later_words_say_so(void **state)
{
    (void)state;
    REFUSE("is not in this version", "bench", "m", "-o", "out");
    REFUSE("--bos-id is not in this version", "quantize", "m", "--bos-id", "1");
    REFUSE("--arch is not in this version", "inspect", "m", "--arch", "resnet20-cifar");
}

static void impossible_numbers_are_refused(void **state)
{
    (void)state;
    static const char *const threads[] = {"0", "-1", "abc", "1.5", "4097", "99999999999999999999",
                                          "3x"};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++)
        REFUSE("is not a whole number from 1 to 4096", "inspect", "m", "--threads", threads[i]);
    static const char *const sizes[] = {"0",   "0G",  "-5",  "5Q",        "G", "1.5",
                                        "5GB", "5 G", "1e3", "99999999T", "."};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        REFUSE("is not a size above 0", "inspect", "m", "--memory", sizes[i]);
    static const char *const seeds[] = {"-1", "x", "1.0", "18446744073709551616"};
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++)
        REFUSE("is not a whole number from 0 to 2^64 - 1", "inspect", "m", "--seed", seeds[i]);
    static const char *const fractions[] = {"1.5", "-0.1", "nan", "inf", "0x1p-1", "half", "200%"};
    for (size_t i = 0; i < sizeof fractions / sizeof *fractions; i++)
        REFUSE("is not a number from 0 to 1", "prune", "m", "--sparsity", fractions[i]);
    REFUSE("\"50%\" is not a number from 0 to 1; did you mean 0.5?", "prune", "m", "--sparsity",
           "50%");
    REFUSE("did you mean 0.5?", "prune", "m", "--sparsity", "50");
    static const char *const shares[] = {"0", "-1", "1.5", "x"};
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++)
        REFUSE("is not a number", "quantize", "m", "--alpha", shares[i]);
    static const char *const bounds[] = {"-1", "nan", "inf", "x", "1e999"};
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        REFUSE("is not a number from 0 up", "compare", "a", "b", "--tolerance", bounds[i]);
}

static void missing_and_extra_words_are_refused(void **state)
{
    (void)state;
    REFUSE("--scheme needs a value: SCHEME", "quantize", "m", "--scheme");
    REFUSE("--output needs a value: OUT", "quantize", "m", "-o");
    REFUSE("--output: the value is empty", "quantize", "m", "-o", "");
    REFUSE("--json takes no value", "inspect", "m", "--json=1");
    REFUSE("inspect needs CKPT", "inspect");
    REFUSE("compare needs A B", "compare", "a");
    REFUSE("\"b\" is one operand too many", "inspect", "a", "b");
    REFUSE("an operand is empty", "inspect", "");
}

static void the_table_is_whole(void **state)
{
    (void)state;
    for (int id = 0; id < OPTIONS; id++) {
        const struct option_row *row = &option_rows[id];
        assert_non_null(row->name);
        assert_true(strlen(row->help) > 10);
        assert_true((row->kind == KIND_FLAG) == (row->value == NULL));
        /* a value has a default, or the help says that there is none or when it is needed */
        if (row->commands == NULL || *row->commands)
            assert_true(strstr(row->help, "default") || id == OPT_OUTPUT || id == OPT_HELP);
    }
    for (const struct command_row *c = command_rows; c->name; c++)
        if (c->run)
            assert_true(*c->summary && *c->text && *c->examples && c->count <= 2);
}

static void a_swap_of_letters_is_one_mistake(void **state)
{
    (void)state;
    static const char *const words[] = {"model", "steps", NULL};
    assert_string_equal(nearest_word("modle", words), "model");
    assert_string_equal(nearest_word("stps", words), "steps");
    assert_null(nearest_word("banana", words));
    char longest[300];
    memset(longest, 'a', sizeof longest);
    longest[299] = '\0';
    assert_null(nearest_word(longest, words));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_may_stand_anywhere),
        cmocka_unit_test(globs_are_gathered_and_other_options_replaced),
        cmocka_unit_test(two_dashes_end_the_options),
        cmocka_unit_test(the_program_itself_answers_without_a_command),
        cmocka_unit_test(wrong_commands_name_the_nearest),
        cmocka_unit_test(wrong_options_name_the_nearest),
        cmocka_unit_test(options_of_other_commands_are_refused),
        cmocka_unit_test(later_words_say_so),
        cmocka_unit_test(impossible_numbers_are_refused),
        cmocka_unit_test(missing_and_extra_words_are_refused),
        cmocka_unit_test(the_table_is_whole),
        cmocka_unit_test(a_swap_of_letters_is_one_mistake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
