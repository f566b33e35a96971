/* main.c - pare, the program: reads the command line, does the command, gives its exit code. */
#include "cli.h"

#include <signal.h>
#include <string.h>

/* What is asked of the program itself, if anything is. */
static bool asks_program(const struct args *args)
{
    const struct option_value *v = args->value;
    return v[OPT_HELP].given || v[OPT_VERSION].given || v[OPT_MARKDOWN].given || v[OPT_MAN].given ||
           v[OPT_COMPLETION].given;
}

static int answer_program(const struct args *args)
{
    const struct option_value *v = args->value;
    if (v[OPT_HELP].given)
        print_help(stdout, args->command);
    else if (v[OPT_VERSION].given)
        printf("pare %s\n", pare_version());
    else if (v[OPT_MARKDOWN].given)
        print_markdown(stdout);
    else if (v[OPT_MAN].given)
        print_man(stdout);
    else if (!print_completion(stdout, v[OPT_COMPLETION].text))
        return complain(2, "--completion: \"%s\" is none of bash, zsh and fish",
                        v[OPT_COMPLETION].text);
    return close_stdout();
}

/* A call without anything to do shows what there is. */
static int no_command(void)
{
    print_help(stderr, NULL);
    return 2;
}

int main(int argc, char **argv)
{
    struct args args;
    char error[1024] = "";
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is a failed write, with a sentence */
    int code = args_parse(argc, argv, &args, error, sizeof error);
    if (code)
        complain(code, "%s", error);
    else if (asks_program(&args))
        code = answer_program(&args);
    else
        code = args.command ? args.command->run(&args) : no_command();
    args_free(&args);
    return code;
}
