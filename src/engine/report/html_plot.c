/* html_plot.c - pictures: scripts for gnuplot, and the SVG that it gives, put into a page.
 *
 * gnuplot is a program of its own, found by PATH and given a script on its input. A text that comes
 * from a file is never its to interpret: what stands in a script is between single quotes, of
 * letters, digits and a few signs; everything else becomes "?". */
#include "html.h"

#include "base/alloc.h"
#include "base/check.h"

#include <errno.h>
#include <math.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_BYTES ((size_t)16 << 20) /* of a picture */
#define LONGEST_NAME 44               /* bytes of a name, */
#define LONGEST_LABEL 90              /* and of an axis' label */

extern char **environ;

static const char *const colours[] = {"#2f7ed8", "#d9480f", "#2b8a3e", "#ae3ec9",
                                      "#b58105", "#1098ad", "#868e96", "#c2255c"};
#define COLOURS (sizeof colours / sizeof *colours)

/* ---- the program ----------------------------------------------------------------------------- */

/* Runs gnuplot on a script; *drawn: what it printed, NULL if it failed. False if there is none. */
static bool run_gnuplot(const char *script, char **drawn)
{
    FILE *in = tmpfile(), *out = tmpfile();
    posix_spawn_file_actions_t actions;
    static const char *const words[] = {"gnuplot", "-d", NULL}; /* -d: no settings of the user */
    bool found = true;
    pid_t pid;
    int state = -1;
    *drawn = NULL;
    if (in && out && fputs(script, in) != EOF && fflush(in) == 0 && fseek(in, 0, SEEK_SET) == 0 &&
        posix_spawn_file_actions_init(&actions) == 0) {
        int error = posix_spawn_file_actions_adddup2(&actions, fileno(in), STDIN_FILENO);
        error += posix_spawn_file_actions_adddup2(&actions, fileno(out), STDOUT_FILENO);
        error += posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", 1, 0);
        if (!error)
            error =
                posix_spawnp(&pid, words[0], &actions, NULL, (char **)(uintptr_t)words, environ);
        posix_spawn_file_actions_destroy(&actions);
        found = error != ENOENT && error != EACCES;
        while (!error && waitpid(pid, &state, 0) < 0 && errno == EINTR)
            ;
    }
    if (state == 0) {
        off_t size = lseek(fileno(out), 0, SEEK_END);
        if (size > 0 && (size_t)size <= MOST_BYTES &&
            pare__calloc((size_t)size + 1, 1, drawn) == PARE_OK &&
            pread(fileno(out), *drawn, (size_t)size, 0) != size) {
            free(*drawn);
            *drawn = NULL;
        }
    }
    if (in)
        fclose(in);
    if (out)
        fclose(out);
    return found;
}

/* The names that several pictures on one page would share get a number. */
static void add_renamed(pare__text *out, const char *line, size_t length, int picture)
{
    static const char *const marks[] = {"'gp", "'#gp", "'textbox", "'greybox", "\"gnuplot_canvas"};
    static const size_t heads[] = {1, 2, 1, 1, 1};
    size_t i = 0;
    while (i < length) {
        size_t m = 0;
        while (m < 5 && strncmp(line + i, marks[m], strlen(marks[m])) != 0)
            m++;
        if (m == 5) {
            pare__text_bytes(out, line + i++, 1);
            continue;
        }
        pare__text_bytes(out, line + i, heads[m]);
        pare__text_add(out, "p%d", picture);
        pare__text_bytes(out, line + i + heads[m], strlen(marks[m]) - heads[m]);
        i += strlen(marks[m]);
    }
}

/* The <svg> element, without groups that hold nothing. */
static void add_svg(pare__text *out, const char *drawn, int picture)
{
    const char *at = strstr(drawn, "<svg");
    while (at && *at) {
        size_t length = strcspn(at, "\n");
        const char *next = at + length + (at[length] == '\n');
        bool empty = strncmp(at, "<g ", 3) == 0 && strncmp(next, "</g>\n", 5) == 0;
        if (empty) {
            at = next + 5;
            continue;
        }
        add_renamed(out, at, length, picture);
        pare__text_add(out, "\n");
        at = next;
    }
}

static void draw(pare__page *page, const char *title, pare__text *script)
{
    char *text = NULL, *drawn = NULL;
    bool whole = pare__text_take(script, &text) == PARE_OK;
    if (!whole || page->no_gnuplot) {
        page->out->failed = page->out->failed || !whole;
        free(text);
        return;
    }
    if (!run_gnuplot(text, &drawn)) {
        page->no_gnuplot = true;
        pare__text_add(page->out, "<p class=\"note\">There are no pictures on this page: gnuplot, "
                                  "which draws them, was not found.</p>\n");
    } else {
        pare__text_add(page->out, "<figure><figcaption>");
        pare__html_text(page->out, title);
        pare__text_add(page->out, "</figcaption>\n");
        if (drawn && strstr(drawn, "</svg>"))
            add_svg(page->out, drawn, page->pictures);
        else
            pare__text_add(page->out, "<p class=\"note\">gnuplot could not draw this one.</p>\n");
        pare__text_add(page->out, "</figure>\n");
    }
    free(drawn);
    free(text);
}

/* ---- scripts --------------------------------------------------------------------------------- */

/* 'text' with nothing in it that could end it; one of more than `most` bytes without its middle. */
static void add_quoted(pare__text *out, const char *text, size_t most)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                " ._-+:/,=()*[]>";
    size_t length = strlen(text), half = most / 2;
    pare__text_add(out, "'");
    for (size_t i = 0; i < length; i++) {
        if (length > most && i == half) {
            pare__text_add(out, "...");
            i = length - half;
        }
        pare__text_add(out, "%c", strchr(plain, text[i]) ? text[i] : '?');
    }
    pare__text_add(out, "'");
}

static void begin(pare__page *page, pare__text *s, int width, int height)
{
    page->pictures++;
    pare__text_add(
        s,
        "set terminal svg size %d,%d dynamic name 'p%d' font 'sans-serif,13' noenhanced\n"
        "set encoding utf8\nset border 3 lw 0.8\nset tics nomirror out scale 0.6\n"
        "set grid lw 0.5\nset key noenhanced\n",
        width, height, page->pictures);
}

static void set_label(pare__text *s, const char *what, const char *text)
{
    pare__text_add(s, "set %s ", what);
    add_quoted(s, text, LONGEST_LABEL);
    pare__text_add(s, "\n");
}

/* Whether a dot is of this kind: of a series, on the front or off it. */
static bool is_of(const pare__dot *d, int series, int front)
{
    return d->series == series && (front < 0 || d->front == front) && isfinite(d->x) &&
           isfinite(d->y);
}

/* A block of the data of one kind; false if it has none. */
static bool add_dots(pare__text *s, const pare__scatter *p, const char *name, int series, int front)
{
    bool any = false;
    for (size_t i = 0; i < p->count; i++) {
        if (!is_of(&p->dots[i], series, front))
            continue;
        if (!any)
            pare__text_add(s, "$%s%d << EOD\n", name, series + 1);
        any = true;
        pare__text_add(s, "%.9g %.9g\n", p->dots[i].x, p->dots[i].y);
    }
    if (any)
        pare__text_add(s, "EOD\n");
    return any;
}

static int by_x(const void *a, const void *b)
{
    const pare__dot *d = a, *e = b;
    return d->x != e->x ? (d->x > e->x) - (d->x < e->x) : (d->y > e->y) - (d->y < e->y);
}

/* The front of all series as a line. */
static bool add_front(pare__text *s, const pare__scatter *p)
{
    pare__dot *front = NULL;
    size_t count = 0;
    if (pare__calloc(p->count, sizeof *front, &front) != PARE_OK)
        return false;
    for (size_t i = 0; i < p->count; i++)
        if (p->dots[i].front && isfinite(p->dots[i].x) && isfinite(p->dots[i].y))
            front[count++] = p->dots[i];
    if (count)
        qsort(front, count, sizeof *front, by_x);
    pare__text_add(s, count > 1 ? "$front << EOD\n" : "");
    for (size_t i = 0; i < count && count > 1; i++)
        pare__text_add(s, "%.9g %.9g\n", front[i].x, front[i].y);
    pare__text_add(s, count > 1 ? "EOD\n" : "");
    free(front);
    return count > 1;
}

static void add_series(pare__text *plots, const pare__scatter *p, size_t i, bool off, bool on)
{
    const char *colour = colours[i % COLOURS];
    if (p->lines || p->curves)
        pare__text_add(plots, ", $all%zu with lines lw %s lc rgb '%s' %s", i + 1,
                       p->curves ? "1.6" : "1", colour, p->curves ? "title " : "notitle");
    if (p->curves) {
        add_quoted(plots, p->series[i], LONGEST_NAME);
        return;
    }
    if (off)
        pare__text_add(plots, ", $off%zu with points pt 6 ps 0.8 lw 1.5 lc rgb '%s' notitle", i + 1,
                       colour);
    if (on)
        pare__text_add(plots, ", $on%zu with points pt 7 ps 0.9 lc rgb '%s' notitle", i + 1,
                       colour);
    pare__text_add(plots, ", keyentry with points pt 7 ps 0.9 lc rgb '%s' title ", colour);
    add_quoted(plots, p->series[i], LONGEST_NAME);
}

void pare__plot_scatter(pare__page *page, const pare__scatter *p)
{
    pare__text script = {0}, plots = {0};
    char *all = NULL;
    begin(page, &script, 560, 380 + 18 * (int)((p->series_count + 4) / 3));
    pare__text_add(&script,
                   "set key outside top center horizontal Left reverse samplen 2 maxcols 3\n"
                   "set autoscale xfix\n"
                   "set offsets graph 0.04, graph 0.04, graph 0.04, 0\n%s%s",
                   p->zero ? "set yrange [0:*]\n" : "", p->x_zero ? "set xrange [0:*]\n" : "");
    set_label(&script, "xlabel", p->x_label);
    set_label(&script, "ylabel", p->y_label);
    if (!p->curves && add_front(&script, p))
        pare__text_add(&plots, ", $front with lines lw 1 dt (6,4) lc rgb 'gray50' title "
                               "'Pareto front'");
    for (size_t i = 0; i < p->series_count; i++) {
        bool off = add_dots(&script, p, "off", (int)i, 0),
             on = add_dots(&script, p, "on", (int)i, 1);
        if (!off && !on)
            continue;
        add_dots(&script, p, "all", (int)i, -1);
        add_series(&plots, p, i, off, on);
    }
    if (add_dots(&script, p, "dense", -1, -1))
        pare__text_add(&plots, ", $dense0 with points pt 13 ps 1.3 lc rgb '#777777' title 'dense'");
    bool any = plots.length > 2;
    if (pare__text_take(&plots, &all) == PARE_OK && any) {
        pare__text_add(&script, "plot %s\n", all + 2);
        draw(page, p->title, &script);
    }
    free(all);
    pare__text_free(&script);
}

void pare__plot_heat(pare__page *page, const pare__heat *p)
{
    pare__text s = {0};
    size_t count = p->row_count * p->col_count;
    int cell = p->row_count < 8 ? 120 / (int)p->row_count : p->row_count <= 80 ? 15 : 8;
    size_t each = cell < 12 ? 2 : 1; /* rows that a label stands for */
    double most = p->most;
    bool any = false; /* that is not 0 */
    for (size_t i = 0; i < count; i++) {
        most = p->values[i] > most ? p->values[i] : most;
        any = any || p->values[i] > 0;
    }
    if (!any || !isfinite(most))
        return;
    int width = 330 + 26 * (int)p->col_count;
    begin(page, &s, width > 520 ? width : 520, 170 + cell * (int)p->row_count);
    pare__text_add(&s, "unset grid\nunset key\nset border 0\nset tics scale 0\n"
                       "set palette defined (0 '#440154', 0.25 '#3b528b', 0.5 '#21918c', "
                       "0.75 '#5ec962', 1 '#fde725')\n");
    pare__text_add(&s, "set xrange [-0.5:%g]\nset yrange [%g:-0.5]\nset cbrange [0:%.9g]\n",
                   (double)p->col_count - 0.5, (double)p->row_count - 0.5, most > 0 ? most : 1);
    for (size_t c = 0; c < p->col_count; c++) {
        pare__text_add(&s, c ? ", " : "set xtics rotate by 60 right (");
        add_quoted(&s, p->cols[c], LONGEST_NAME);
        pare__text_add(&s, " %zu", c);
    }
    for (size_t r = 0; r < p->row_count; r += each) {
        pare__text_add(&s, r ? ", " : ")\nset ytics (");
        add_quoted(&s, p->rows[r], LONGEST_NAME);
        pare__text_add(&s, " %zu", r);
    }
    pare__text_add(&s, ")\n$h << EOD\n");
    for (size_t i = 0; i < count; i++)
        if (isfinite(p->values[i]))
            pare__text_add(&s, "%zu %zu %.5g\n", i % p->col_count, i / p->col_count, p->values[i]);
    pare__text_add(&s, "EOD\nplot $h using 1:2:($1-0.5):($1+0.5):($2-0.5):($2+0.5):3 with "
                       "boxxyerror fs solid noborder lc palette notitle\n");
    draw(page, p->title, &s);
}

void pare__plot_bars(pare__page *page, const pare__bars *p)
{
    pare__text s = {0};
    bool any = false;
    for (size_t i = 0; i < p->count; i++)
        any = any || isfinite(p->values[i]);
    if (!any)
        return;
    begin(page, &s, 620, 90 + 17 * (int)p->count);
    set_label(&s, "xlabel", p->label);
    pare__text_add(&s, "unset key\nset grid noy\nset xrange [0:*]\nset yrange [%g:-0.5]\n",
                   (double)p->count - 0.5);
    for (size_t i = 0; i < p->count; i++) {
        pare__text_add(&s, i ? ", " : "set ytics scale 0 (");
        add_quoted(&s, p->names[i], LONGEST_NAME);
        pare__text_add(&s, " %zu", i);
    }
    pare__text_add(&s, ")\n$b << EOD\n");
    for (size_t i = 0; i < p->count; i++)
        if (isfinite(p->values[i]))
            pare__text_add(&s, "%zu %.5g\n", i, p->values[i]);
    pare__text_add(&s,
                   "EOD\nplot $b using ($2/2):1:(0):2:($1-0.36):($1+0.36) with boxxyerror fs solid "
                   "0.85 noborder lc rgb '%s' notitle\n",
                   colours[0]);
    draw(page, p->title, &s);
}
