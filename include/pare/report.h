/* report.h - what a command found or did: one document, shown as text or as JSON. */
#ifndef PARE_REPORT_H
#define PARE_REPORT_H

#include "pare/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pare_report pare_report;

/* Text for people (lines of at most 120 columns, ends with a newline), or JSON (indent 2). Caller
 * frees. */
pare_status pare_report_text(const pare_report *report, char **text);
pare_status pare_report_json(const pare_report *report, char **text);

/* One page of HTML that holds all it shows, pictures too, which gnuplot draws; where that is not
 * found the page says so and has the tables. Caller frees. */
pare_status pare_report_html(const pare_report *report, char **html);

/* Drops the list of tensors, so that text and JSON show the rest alone. */
void pare_report_brief(pare_report *report);

/* The saved report of a finished run: the file itself, or the output beside which it lies
 * ("OUT.report.json"); or of a sweep, in whose folder it lies ("DIR/results.json"). */
pare_status pare_report_load(const char *path, pare_report **report);

void pare_report_free(pare_report **report);

#ifdef __cplusplus
}
#endif
#endif
