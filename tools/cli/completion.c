/* completion.c - shell completion from the table: bash, zsh and fish. */
#include "cli.h"

#include <string.h>

static void each_command(FILE *to, const char *format)
{
    for (const struct command_row *c = command_rows; c->name; c++)
        if (c->run)
            fprintf(to, format, c->name);
}

/* The options of a command, as " --name …". */
static void option_names(FILE *to, const struct command_row *command)
{
    for (int id = 0; id < OPTIONS; id++)
        if (option_applies((enum option_id)id, command))
            fprintf(to, " --%s", option_rows[id].name);
}

/* Values of options: `format` gets the name and the words, `files` the name alone. */
static void option_values(FILE *to, const char *format, const char *files)
{
    for (int id = 0; id < OPTIONS; id++) {
        const struct option_row *row = &option_rows[id];
        if (row->kind == KIND_FLAG)
            continue;
        if (!row->words || *row->words == '@')
            fprintf(to, files, row->name);
        else
            fprintf(to, format, row->name, row->words);
    }
}

static void bash(FILE *to)
{
    fputs("# bash completion for pare; made by: pare --completion bash\n"
          "_pare()\n{\n"
          "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= "
          "options= w\n"
          "    COMPREPLY=()\n"
          "    case $before in\n",
          to);
    option_values(to, "    --%s) COMPREPLY=($(compgen -W '%s' -- \"$word\")); return ;;\n",
                  "    --%s) compopt -o default; return ;;\n");
    fputs("    -o) compopt -o default; return ;;\n    esac\n"
          "    for w in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n        case $w in\n        ",
          to);
    const char *between = "";
    for (const struct command_row *c = command_rows; c->name; c++)
        if (c->run) {
            fprintf(to, "%s%s", between, c->name);
            between = "|";
        }
    fputs(") command=$w; break ;;\n        esac\n    done\n    case $command in\n", to);
    for (const struct command_row *c = command_rows; c->name; c++)
        if (c->run) {
            fprintf(to, "    %s) options='", c->name);
            option_names(to, c);
            fputs("' ;;\n", to);
        }
    fputs("    *) options='", to);
    each_command(to, " %s");
    option_names(to, NULL);
    fputs("' ;;\n    esac\n"
          "    if [[ $word == -* || -z $command ]]; then\n"
          "        COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n"
          "    else\n        compopt -o default\n    fi\n}\ncomplete -F _pare pare\n",
          to);
}

/* Text inside single quotes of zsh and fish, without the marks of code; zsh takes '[', ']' and ':'
 * for its own. */
static void quoted(FILE *to, const char *text, bool zsh)
{
    for (; *text; text++) {
        if (*text == '`')
            continue;
        if (*text == '\'')
            fputs(zsh ? "'\\''" : "\\'", to);
        else if (zsh && strchr("[]:", *text))
            fprintf(to, "\\%c", *text);
        else
            fputc(*text, to);
    }
}

static void zsh_option(FILE *to, const struct option_row *row)
{
    fprintf(to, " \\\n            '%s--%s%s[", row->kind == KIND_GLOB ? "*" : "", row->name,
            row->kind == KIND_FLAG ? "" : "=");
    quoted(to, row->help, true);
    if (row->kind == KIND_FLAG)
        fputs("]'", to);
    else if (row->words && *row->words != '@') {
        fputs("]:value:(", to);
        quoted(to, row->words, true);
        fputs(")'", to);
    } else
        fprintf(to, "]:value:%s'", row->words ? "_files" : " ");
}

static void zsh(FILE *to)
{
    fputs("#compdef pare\n# zsh completion for pare; made by: pare --completion zsh\n"
          "local -a commands\ncommands=(\n",
          to);
    for (const struct command_row *c = command_rows; c->name; c++)
        if (c->run) {
            fprintf(to, "    '%s:", c->name);
            quoted(to, c->summary, true);
            fputs("'\n", to);
        }
    fputs(")\nif (( CURRENT == 2 )); then\n    _describe command commands\n    _arguments", to);
    for (int id = 0; id < OPTIONS; id++)
        if (option_rows[id].commands && !*option_rows[id].commands)
            zsh_option(to, &option_rows[id]);
    fputs("\n    return\nfi\ncase $words[2] in\n", to);
    for (const struct command_row *c = command_rows; c->name; c++)
        if (c->run) {
            fprintf(to, "    %s)\n        _arguments", c->name);
            for (int id = 0; id < OPTIONS; id++)
                if (option_applies((enum option_id)id, c)) {
                    zsh_option(to, &option_rows[id]);
                    if (id == OPT_OUTPUT)
                        fputs(" \\\n            '-o[where the result goes]:value:_files'", to);
                }
            fputs(" \\\n            '*:file:_files' ;;\n", to);
        }
    fputs("esac\n", to);
}

static void fish_option(FILE *to, const struct option_row *row)
{
    fputs("complete -c pare", to);
    if (row->commands)
        fprintf(to, " -n '%s%s'",
                *row->commands ? "__fish_seen_subcommand_from " : "__fish_use_subcommand",
                row->commands);
    fprintf(to, " -l %s", row->name);
    if (row->letter)
        fprintf(to, " -s %c", row->letter);
    if (row->kind != KIND_FLAG)
        fputs(" -r", to);
    if (row->words && *row->words != '@')
        fprintf(to, " -f -a '%s'", row->words);
    fputs(" -d '", to);
    quoted(to, row->help, false);
    fputs("'\n", to);
}

static void fish(FILE *to)
{
    fputs("# fish completion for pare; made by: pare --completion fish\n", to);
    for (const struct command_row *c = command_rows; c->name; c++)
        if (c->run) {
            fprintf(to, "complete -c pare -n __fish_use_subcommand -f -a %s -d '", c->name);
            quoted(to, c->summary, false);
            fputs("'\n", to);
        }
    for (int id = 0; id < OPTIONS; id++)
        fish_option(to, &option_rows[id]);
}

bool print_completion(FILE *to, const char *shell)
{
    static const struct {
        const char *name;
        void (*print)(FILE *to);
    } shells[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};
    for (size_t i = 0; i < sizeof shells / sizeof *shells; i++)
        if (strcmp(shell, shells[i].name) == 0) {
            shells[i].print(to);
            return true;
        }
    return false;
}
