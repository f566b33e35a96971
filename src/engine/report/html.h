/* html.h - one page that holds all it shows: between the files that write it.
 *
 * report_html.c has the frame and a single run; html_sweep.c and html_points.c a sweep; html_plot.c
 * the pictures, drawn by gnuplot where there is one.
 */
#ifndef PARE_ENGINE_HTML_H
#define PARE_ENGINE_HTML_H

#include "report_impl.h"

/* Text as a page shows it: what has a meaning there is escaped, bytes that are no UTF-8 and control
 * characters become U+FFFD. */
void pare__html_text(pare__text *out, const char *text);

typedef struct pare__page {
    pare__text *out;
    int pictures;    /* so far: each has names of its own */
    bool no_gnuplot; /* there is none: said once */
} pare__page;

/* ---- html_plot.c ----------------------------------------------------------------------------- */

typedef struct pare__dot {
    double x, y;
    int series; /* 0 … count - 1; -1: the dense model */
    bool front; /* no other is better in both */
} pare__dot;

typedef struct pare__scatter {
    const char *title, *x_label, *y_label;
    const pare__dot *dots;
    size_t count;
    const char *const *series; /* [series_count] */
    size_t series_count;
    bool zero;   /* the y axis begins at 0 */
    bool x_zero; /* and so does x */
    bool lines;  /* the dots of a series are joined, in their order */
    bool curves; /* lines alone, no dots and no front */
} pare__scatter;
void pare__plot_scatter(pare__page *page, const pare__scatter *plot);

/* values [rows][cols], NaN: none; row 0 on top. */
typedef struct pare__heat {
    const char *title;
    const double *values;
    const char *const *rows, *const *cols;
    size_t row_count, col_count;
    double most; /* of the colours, which begin at 0; 0: the largest value */
} pare__heat;
void pare__plot_heat(pare__page *page, const pare__heat *plot);

/* Bars, a line each, from the top. */
typedef struct pare__bars {
    const char *title, *label;
    const double *values; /* [count] */
    const char *const *names;
    size_t count;
} pare__bars;
void pare__plot_bars(pare__page *page, const pare__bars *plot);

/* ---- html_sweep.c ---------------------------------------------------------------------------- */

typedef struct pare__scene {
    pare__page *page;
    const pare__json *root, *axes, *points;
    size_t count;
    const char *metric;
    char **names;   /* [count] "wanda, 0.5" */
    char **series;  /* [series_count] "wanda": values that are no numbers */
    int *series_of; /* [count]; -1: dense */
    size_t series_count;
} pare__scene;

void pare__html_sweep(pare__page *page, const pare__json *root);
/* Of a point. */
bool pare__is_dense(const pare__json *row);
bool pare__is_done(const pare__json *row);
bool pare__on_front(const pare__json *row, const char *cost);
/* Whether one of the points has a latency. */
bool pare__any_latency(const pare__scene *scene);

/* ---- html_points.c --------------------------------------------------------------------------- */

void pare__html_table(const pare__scene *scene);
void pare__html_sections(const pare__scene *scene);

/* ---- losses (html_sweep.c) ------------------------------------------------------------------- */

/* Loss curves of lists of { step, loss }, each with its name. */
void pare__html_losses(pare__page *page, const pare__json *const *lists, const char *const *names,
                       size_t count);

#endif
