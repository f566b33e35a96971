/* report.c - a report's life: made, shown as text or JSON, loaded from a file, freed. */
#include "report_impl.h"

#include "pare/version.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/file.h"

#include <inttypes.h>
#include <string.h>

#define MAX_REPORT_BYTES ((int64_t)1 << 30)

static const struct {
    const char *kind;
    void (*render)(const pare__json *root, pare__text *out);
} kinds[] = {
    {"plan", pare__report_text_run},        {"run", pare__report_text_run},
    {"inspect", pare__report_text_inspect}, {"compare", pare__report_text_compare},
    {"devices", pare__report_text_devices}, {"eval", pare__report_text_eval},
    {"train", pare__report_text_train},     {"sweep", pare__report_text_sweep},
};

/* The row of kinds that a report is of, or -1. */
static int kind_of(const pare__json *root)
{
    const char *kind = pare__report_string(root, "kind", "");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].kind, kind) == 0)
            return (int)i;
    return -1;
}

pare_status pare__report_new(const char *kind, pare_report **report)
{
    PARE_TRY(pare__calloc(1, sizeof **report, report));
    pare__json *root = (*report)->root = pare__json_new_object();
    pare__json_set_string(root, "kind", kind);
    pare__json_set_string(root, "version", pare_version());
    return PARE_OK;
}

pare_status pare_report_text(const pare_report *report, char **text)
{
    PARE_REQUIRE(report && text, PARE_ERR_ARGUMENT, "report: NULL argument");
    int kind = kind_of(report->root);
    PARE_REQUIRE(kind >= 0, PARE_ERR_UNSUPPORTED,
                 "report: kind \"%s\" is not one this version shows",
                 pare__report_string(report->root, "kind", "(none)"));
    pare__text out = {0};
    kinds[kind].render(report->root, &out);
    for (size_t i = 0; i < out.length;
         i++) /* names come from files: nothing that a terminal acts on */
        if (((unsigned char)out.data[i] < 0x20 && out.data[i] != '\n') || out.data[i] == 0x7f)
            out.data[i] = '?';
    PARE_TRY(pare__text_take(&out, text));
    return PARE_OK;
}

pare_status pare_report_json(const pare_report *report, char **text)
{
    PARE_REQUIRE(report && text, PARE_ERR_ARGUMENT, "report: NULL argument");
    pare__text out = {0};
    char *json = NULL;
    PARE_TRY(pare__json_dump(report->root, 2, false, &json));
    pare__text_add(&out, "%s\n", json);
    free(json);
    PARE_TRY(pare__text_take(&out, text));
    return PARE_OK;
}

static bool any_match(char *const *globs, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (pare__glob(globs[i], name))
            return true;
    return false;
}

bool pare__looks_at(const pare_choice *look, const char *name)
{
    return (!look->includes || any_match(look->include, look->includes, name)) &&
           !any_match(look->exclude, look->excludes, name);
}

pare_status pare__check_look(const pare_choice *look, const pare_store *a, const pare_store *b)
{
    const pare_store *stores[] = {a, b};
    for (size_t g = 0; g < look->includes; g++) {
        bool found = false;
        for (int s = 0; s < 2 && stores[s]; s++)
            for (int64_t i = 0; i < pare_store_count(stores[s]) && !found; i++)
                found = pare__glob(look->include[g], pare_store_entry(stores[s], i)->name);
        PARE_REQUIRE(found, PARE_ERR_ARGUMENT, "include \"%s\" matches no tensor of %s%s%s",
                     look->include[g], pare_store_path(a), b ? " or " : "",
                     b ? pare_store_path(b) : "");
    }
    return PARE_OK;
}

void pare_report_brief(pare_report *report)
{
    if (!report)
        return;
    pare__json_remove(report->root, "tensors");
    const pare__json *steps = pare__json_get(report->root, "steps");
    for (size_t i = 0; i < pare__json_size(steps); i++)
        pare__json_remove((pare__json *)(uintptr_t)pare__json_at(steps, i), "tensors");
}

/* `path` if it is a file of JSON, else "<path>.report.json", or where that is not there but
 * "<path>/results.json" is, this, as a new string. */
static pare_status find_report(const char *path, char **found)
{
    pare__text name = {0};
    size_t length = strlen(path);
    bool json = length > 5 && strcmp(path + length - 5, ".json") == 0;
    if (!json || pare__is_directory(path)) {
        while (length > 1 && path[length - 1] == '/')
            length--;
        pare__text_bytes(&name, path, length);
        pare__text_add(&name, ".report.json");
    } else
        pare__text_add(&name, "%s", path);
    PARE_TRY(pare__text_take(&name, found));
    if (pare__exists(*found) || !pare__is_directory(path))
        return PARE_OK;
    char *results = NULL;
    PARE_TRY(pare__join(path, "results.json", &results));
    char *other = pare__exists(results) ? *found : results;
    *found = other == results ? *found : results;
    free(other);
    return PARE_OK;
}

pare_status pare__report_save(const pare_report *report, const char *output)
{
    pare_status status = PARE_OK;
    pare__text text = {0};
    char *path = NULL, *json = NULL;
    pare__text_add(&text, "%s.report.json", output);
    PARE_TRY_DONE(pare__text_take(&text, &path));
    PARE_TRY_DONE(pare_report_json(report, &json));
    PARE_TRY_DONE(pare__file_save(path, json, (int64_t)strlen(json)));
done:
    free(json);
    free(path);
    pare__text_free(&text);
    return status;
}

pare_status pare_report_load(const char *path, pare_report **report)
{
    pare_status status = PARE_OK;
    char *found = NULL, *text = NULL;
    int64_t size = 0;
    pare_report *loaded = NULL;
    PARE_REQUIRE(path && report, PARE_ERR_ARGUMENT, "report: NULL argument");
    *report = NULL;
    PARE_TRY_DONE(find_report(path, &found));
    if (!pare__exists(found)) {
        status = pare__error(
            PARE_ERR_NOT_FOUND, __func__,
            "%s: there is no such report: give a report's file, or the output of a run", found);
        goto done;
    }
    PARE_TRY_DONE(pare__file_load(found, MAX_REPORT_BYTES, &text, &size));
    PARE_TRY_DONE(pare__calloc(1, sizeof *loaded, &loaded));
    PARE_TRY_DONE(pare__json_parse(text, (size_t)size, found, &loaded->root));
    if (kind_of(loaded->root) < 0) {
        status = pare__error(PARE_ERR_DAMAGED, __func__,
                             "%s: is no report of pare (no known \"kind\")", found);
        goto done;
    }
    *report = loaded;
    loaded = NULL;
done:
    pare_report_free(&loaded);
    free(text);
    free(found);
    return status;
}

void pare_report_free(pare_report **report)
{
    if (!report || !*report)
        return;
    pare__json_free(&(*report)->root);
    free(*report);
    *report = NULL;
}

int64_t pare__report_int(const pare__json *object, const char *key)
{
    int64_t value = 0;
    pare__json_int(pare__json_get(object, key), &value);
    return value;
}

double pare__report_real(const pare__json *object, const char *key)
{
    double value = 0;
    pare__json_real(pare__json_get(object, key), &value);
    return value;
}

const char *pare__report_string(const pare__json *object, const char *key, const char *otherwise)
{
    const char *text = pare__json_string(pare__json_get(object, key));
    return text ? text : otherwise;
}

pare__shape pare__report_shape(const pare__json *object, const char *key)
{
    pare__shape shape;
    const pare__json *list = pare__json_get(object, key);
    size_t at = (size_t)snprintf(shape.text, sizeof shape.text, "[");
    for (size_t i = 0; i < pare__json_size(list) && i < 4; i++) {
        int64_t value = 0;
        pare__json_int(pare__json_at(list, i), &value);
        at += (size_t)snprintf(shape.text + at, sizeof shape.text - at, "%s%" PRId64, i ? ", " : "",
                               value);
    }
    snprintf(shape.text + at, sizeof shape.text - at, pare__json_size(list) > 4 ? ", …]" : "]");
    return shape;
}
