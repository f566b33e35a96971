/* main.c - pare, the program: reads the command line, does the command, gives its exit code. */
#include "cli.h"

#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A thread of GNU's OpenMP that has nothing to do spins for milliseconds before it sleeps. Beside
 * other work it so burns the processor that the thread it waits for needs, and all takes twice as
 * long (docs/benchmarks.md); a fiftieth of that bridges the gaps between ops as well. The runtime
 * reads its environment before main begins, hence the second beginning. What a user has said
 * stays; where the program cannot be begun again, all works as it is. */
static void spin_briefly(char **argv)
{
    char path[PATH_MAX];
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT"))
        return;
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0 || setenv("GOMP_SPINCOUNT", "5000", 0) != 0)
        return;
    path[length] = '\0';
    execv(path, argv);
}

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

static int run(const struct args *args, char **argv)
{
    spin_briefly(argv);
    return args->command->run(args);
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
    else if (!args.command)
        code = no_command();
    else
        code = run(&args, argv);
    args_free(&args);
    return code;
}
