/* report_html.c - a report as one page of HTML: the frame, and the page of a single run. A sweep's
 * is made in html_sweep.c. Nothing on a page comes from elsewhere, and nothing on it runs. */
#include "html.h"

#include "base/alloc.h"
#include "base/check.h"

#include <math.h>
#include <string.h>

/* ---- text ------------------------------------------------------------------------------------ */

/* Bytes of the character that begins here; 0 if it is no UTF-8. */
static size_t character(const unsigned char *s)
{
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = s[0] < 0x80       ? 1
                    : s[0] >> 5 == 6  ? 2
                    : s[0] >> 4 == 14 ? 3
                    : s[0] >> 3 == 30 ? 4
                                      : 0;
    if (length < 2)
        return length;
    unsigned code = s[0] & (0xffu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        if (s[i] >> 6 != 2)
            return 0;
        code = code << 6 | (s[i] & 0x3fu);
    }
    return code >= least[length] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) ? length
                                                                                         : 0;
}

void pare__html_text(pare__text *out, const char *text)
{
    while (*text) {
        size_t length = character((const unsigned char *)text);
        unsigned char c = (unsigned char)*text;
        if (c == '&')
            pare__text_add(out, "&amp;");
        else if (c == '<')
            pare__text_add(out, "&lt;");
        else if (c == '>')
            pare__text_add(out, "&gt;");
        else if (c == '"')
            pare__text_add(out, "&quot;");
        else if (c == '\'')
            pare__text_add(out, "&#39;");
        else if (!length || (c < 0x20 && c != '\n') || c == 0x7f)
            pare__text_add(out, "\xef\xbf\xbd");
        else
            pare__text_bytes(out, text, length);
        text += length ? length : 1;
    }
}

/* ---- the frame ------------------------------------------------------------------------------- */

static const char head[] =
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
    "style-src 'unsafe-inline'\">\n";

static const char style[] =
    "<style>\n"
    ":root { color-scheme: light dark; --back: #fff; --text: #1c2024; --soft: #6a737d; "
    "--line: #dde1e6; --band: #f5f7f9; --link: #1864ab; --mark: #fff3bf }\n"
    "@media (prefers-color-scheme: dark) { :root { --back: #16191d; --text: #e3e6ea; "
    "--soft: #9aa4af; --line: #343a41; --band: #1f2429; --link: #74c0fc; --mark: #4a3f10 } }\n"
    "body { margin: 0; background: var(--back); color: var(--text); "
    "font: 15px/1.5 system-ui, sans-serif }\n"
    "main { max-width: 1200px; margin: 0 auto; padding: 1.5rem 1rem 4rem }\n"
    "h1 { font-size: 1.6rem; margin: 0 0 .3rem; overflow-wrap: anywhere }\n"
    "h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line) }\n"
    "h3 { font-size: 1rem; margin: 1.6rem 0 .3rem }\n"
    "a { color: var(--link); text-decoration: none } a:hover { text-decoration: underline }\n"
    "p { margin: .4rem 0 } .note { color: var(--soft) }\n"
    ".wide { overflow-x: auto } table { border-collapse: collapse; font-size: .87rem; "
    "font-variant-numeric: tabular-nums }\n"
    "th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap; "
    "border-bottom: 1px solid var(--line) }\n"
    "th { position: sticky; top: 0; background: var(--back); font-weight: 600 }\n"
    "th.l, td.l { text-align: left } td.t { text-align: left; white-space: normal; "
    "min-width: 16rem }\n"
    "tbody tr:hover { background: var(--band) } td.best { background: var(--mark) }\n"
    "tr.dense td { font-weight: 600 } tr.not td { color: var(--soft) }\n"
    "pre { overflow-x: auto; background: var(--band); padding: .8rem; font-size: .82rem; "
    "line-height: 1.4 }\n"
    ".plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 520px), "
    "1fr)); gap: 1rem }\n"
    "figure { margin: 0 } figcaption { font-weight: 600; font-size: .92rem }\n"
    "svg { width: 100%; height: auto; max-width: 900px }\n"
    "svg [stroke=\"black\"] { stroke: var(--text) } svg [fill=\"black\"] { fill: var(--text) }\n"
    "svg [color=\"black\"] { color: var(--text) } svg [stroke=\"gray\"] { stroke: var(--line) }\n"
    "details { margin: .3rem 0 } summary { cursor: pointer; color: var(--link) }\n"
    "section:target > h3 { background: var(--mark) }\n"
    "@media print { details { display: none } }\n"
    "</style>\n";

/* ---- a run ----------------------------------------------------------------------------------- */

typedef struct column {
    double *values;
    const char **names;
    size_t count;
} column;

/* A member of every object of a list, where one has it. */
static pare_status take_column(const pare__json *list, const char *key, column *c)
{
    *c = (column){0};
    PARE_TRY(pare__calloc(pare__json_size(list) + 1, sizeof *c->values, &c->values));
    PARE_TRY(pare__calloc(pare__json_size(list) + 1, sizeof *c->names, &c->names));
    for (size_t i = 0; i < pare__json_size(list); i++) {
        const pare__json *o = pare__json_at(list, i);
        if (!pare__json_real(pare__json_get(o, key), &c->values[c->count]))
            continue;
        c->names[c->count++] = pare__report_string(o, "name", "?");
    }
    return PARE_OK;
}

#define MOST_BARS 300

static void add_bars(pare__page *page, const pare__json *list, const char *key, const char *title,
                     const char *label)
{
    column c;
    if (take_column(list, key, &c) != PARE_OK)
        page->out->failed = true;
    else if (c.count > 0 && c.count <= MOST_BARS)
        pare__plot_bars(page, &(pare__bars){.title = title,
                                            .label = label,
                                            .values = c.values,
                                            .names = c.names,
                                            .count = c.count});
    free(c.values);
    free(c.names);
}

static void add_stage(pare__page *page, const pare__json *stage)
{
    const pare__json *layers = pare__json_get(stage, "layers"),
                     *losses = pare__json_get(stage, "losses");
    const char *const name = "loss";
    add_bars(page, layers, "error_after", "Error of each layer's output",
             "squared error / squared output");
    add_bars(page, layers, "sparsity", "Sparsity of each layer", "share of its weights that are 0");
    if (pare__json_size(losses))
        pare__html_losses(page, &losses, &name, 1);
}

static pare_status add_run(pare__page *page, const pare_report *report)
{
    const pare__json *root = report->root, *steps = pare__json_get(root, "steps");
    char *text = NULL;
    PARE_TRY(pare_report_text(report, &text));
    pare__text_add(page->out, "<h1>");
    pare__html_text(page->out, pare__report_string(pare__json_get(root, "output"), "path",
                                                   pare__report_string(root, "kind", "report")));
    pare__text_add(page->out, "</h1>\n<div class=\"plots\">\n");
    add_stage(page, root);
    for (size_t i = 0; pare__json_is_object(pare__json_at(steps, i)); i++)
        add_stage(page, pare__json_at(steps, i));
    pare__text_add(page->out, "</div>\n<pre>");
    pare__html_text(page->out, text);
    pare__text_add(page->out, "</pre>\n");
    free(text);
    return PARE_OK;
}

pare_status pare_report_html(const pare_report *report, char **html)
{
    PARE_REQUIRE(report && html, PARE_ERR_ARGUMENT, "report: NULL argument");
    pare__text out = {0};
    pare__page page = {.out = &out};
    const pare__json *root = report->root;
    bool sweep = strcmp(pare__report_string(root, "kind", ""), "sweep") == 0;
    pare__text_add(&out, "%s<title>pare: ", head);
    pare__html_text(&out, sweep ? pare__report_string(root, "sweep", "sweep")
                                : pare__report_string(pare__json_get(root, "output"), "path",
                                                      pare__report_string(root, "kind", "report")));
    pare__text_add(&out, "</title>\n%s</head>\n<body>\n<main>\n", style);
    pare_status status = PARE_OK;
    if (sweep)
        pare__html_sweep(&page, root);
    else
        status = add_run(&page, report);
    pare__text_add(&out, "<p class=\"note\">pare ");
    pare__html_text(&out, pare__report_string(root, "version", "?"));
    pare__text_add(&out, "</p>\n</main>\n</body>\n</html>\n");
    if (status == PARE_OK)
        return pare__text_take(&out, html);
    pare__text_free(&out);
    pare__trail(__func__);
    return status;
}
