/* report_text_compare.c - two checkpoints side by side, and what this machine has, for people. */
#include "report_impl.h"
#include "report_table.h"

#include "base/check.h"

static bool has(const pare__json *object, const char *key)
{
    return !pare__json_is_null(pare__json_get(object, key));
}

static void difference_cells(pare__table *table, const pare__json *d)
{
    char max[32] = "inf", rms[32] = "inf", sqnr[32] = "inf", cosine[32] = "-";
    if (!has(d, "rms") || pare__report_real(d, "rms") > 0) /* infinite, or a is all zero */
        snprintf(sqnr, sizeof sqnr, "-inf");
    if (has(d, "rms"))
        snprintf(rms, sizeof rms, "%.6g", pare__report_real(d, "rms"));
    if (has(d, "max_abs"))
        snprintf(max, sizeof max, "%.6g", pare__report_real(d, "max_abs"));
    if (has(d, "sqnr_db"))
        snprintf(sqnr, sizeof sqnr, "%.2f", pare__report_real(d, "sqnr_db"));
    if (has(d, "cosine"))
        snprintf(cosine, sizeof cosine, "%.9f", pare__report_real(d, "cosine"));
    pare__table_cell(table, "%s", max);
    pare__table_cell(table, "%s", rms);
    pare__table_cell(table, "%s", sqnr);
    pare__table_cell(table, "%s", cosine);
    pare__table_cell(table, "%s", pare__count(pare__report_int(d, "differing")).text);
    pare__table_cell(table, "%s", pare__count(pare__report_int(d, "count")).text);
}

static void add_differences(const pare__json *root, pare__text *out)
{
    static const char *const heading[] = {"tensor", "max |a-b|", "rms",   "SQNR dB",
                                          "cosine", "differing", "values"};
    const pare__json *tensors = pare__json_get(root, "tensors"), *all = pare__json_get(root, "all");
    pare__table table = {.align = "Lrrrrrr"};
    for (size_t i = 0; i < sizeof heading / sizeof *heading; i++)
        pare__table_cell(&table, "%s", heading[i]);
    for (size_t i = 0; i < pare__json_size(tensors); i++) {
        pare__table_cell(&table, "%s", pare__report_string(pare__json_at(tensors, i), "name", "?"));
        difference_cells(&table, pare__json_at(tensors, i));
    }
    pare__table_cell(&table, "all");
    difference_cells(&table, all);
    pare__text_add(out, "\n");
    pare__table_add(&table, out);
}

static void add_names(const char *title, const pare__json *names, pare__text *out)
{
    if (pare__json_size(names))
        pare__text_add(out, "\n%s\n", title);
    for (size_t i = 0; i < pare__json_size(names); i++) {
        const char *name = pare__json_string(pare__json_at(names, i));
        pare__text_add(out, "  %s\n", name ? name : "?");
    }
}

static void add_shapes(const pare__json *shapes, pare__text *out)
{
    pare__table table = {.align = "Lll"};
    if (!pare__json_size(shapes))
        return;
    pare__table_cell(&table, "shapes differ");
    pare__table_cell(&table, "a");
    pare__table_cell(&table, "b");
    for (size_t i = 0; i < pare__json_size(shapes); i++) {
        const pare__json *s = pare__json_at(shapes, i);
        pare__table_cell(&table, "%s", pare__report_string(s, "name", "?"));
        pare__table_cell(&table, "%s", pare__report_shape(s, "a").text);
        pare__table_cell(&table, "%s", pare__report_shape(s, "b").text);
    }
    pare__text_add(out, "\n");
    pare__table_add(&table, out);
}

void pare__report_text_compare(const pare__json *root, pare__text *out)
{
    const pare__json *tolerance = pare__json_get(root, "tolerance");
    bool equal = false, differs = false;
    pare__json_bool(pare__json_get(root, "equal"), &equal);
    pare__json_bool(pare__json_get(root, "differs"), &differs);
    pare__text_add(out, "a: %s\nb: %s\n", pare__report_string(root, "a", "?"),
                   pare__report_string(root, "b", "?"));
    add_differences(root, out);
    add_names("only in a", pare__json_get(root, "only_a"), out);
    add_names("only in b", pare__json_get(root, "only_b"), out);
    add_shapes(pare__json_get(root, "shapes"), out);
    pare__text_add(out, "\n  ");
    if (equal)
        pare__text_add(out, "the same tensors with the same values\n");
    else if (pare__json_is_null(tolerance))
        pare__text_add(out, "%s\n",
                       differs ? "tensors are missing on one side, or have another shape"
                               : "the same tensors, with other values");
    else
        pare__text_add(out, "%s the tolerance of %.6g\n", differs ? "DIFFERENT: past" : "within",
                       pare__report_real(root, "tolerance"));
}

static void add_gpu(const char *label, const pare__json *gpu, pare__text *out)
{
    pare__text_add(out, "%s%s, compute capability %s, %s multiprocessors, %s, %s free\n", label,
                   pare__report_string(gpu, "name", "?"),
                   pare__report_string(gpu, "capability", "?"),
                   pare__count(pare__report_int(gpu, "multiprocessors")).text,
                   pare__size(pare__report_int(gpu, "memory_bytes")).text,
                   pare__size(pare__report_int(gpu, "free_bytes")).text);
}

void pare__report_text_devices(const pare__json *root, pare__text *out)
{
    const pare__json *cpu = pare__json_get(root, "cpu"), *isas = pare__json_get(cpu, "isas"),
                     *libraries = pare__json_get(root, "libraries"),
                     *gpus = pare__json_get(root, "gpus");
    pare__text_add(out, "CPU        %s, %s processor%s for this process\n",
                   pare__report_string(cpu, "model", "?"),
                   pare__count(pare__report_int(cpu, "cores")).text,
                   pare__report_int(cpu, "cores") == 1 ? "" : "s");
    for (size_t i = 0; i < pare__json_size(isas); i++) {
        bool available = false, chosen = false;
        const pare__json *isa = pare__json_at(isas, i);
        pare__json_bool(pare__json_get(isa, "available"), &available);
        pare__json_bool(pare__json_get(isa, "chosen"), &chosen);
        pare__text_add(out, "%s%s%s", i ? ", " : "kernels    ",
                       pare__report_string(isa, "name", "?"),
                       chosen      ? " (chosen)"
                       : available ? ""
                                   : " (this CPU lacks it)");
    }
    pare__text_add(out, pare__json_size(isas) ? "\n" : "");
    for (size_t i = 0; i < pare__json_size(libraries); i++) {
        const pare__json *l = pare__json_at(libraries, i);
        const char *choice = pare__report_string(l, "choice", NULL);
        pare__text_add(out, "%s%s %s%s%s\n", i ? "           " : "libraries  ",
                       pare__report_string(l, "name", "?"), pare__report_string(l, "version", "?"),
                       choice ? ": " : "", choice ? choice : "");
    }
    for (size_t i = 0; i < pare__json_size(gpus); i++)
        add_gpu(i ? "           " : "GPUs       ", pare__json_at(gpus, i), out);
    const pare__json *cuda = pare__json_get(root, "cuda");
    if (!pare__json_is_null(cuda))
        pare__text_add(out, "CUDA       driver for %s, built with %s\n",
                       pare__report_string(cuda, "driver", "?"),
                       pare__report_string(cuda, "runtime", "?"));
    if (!pare__json_size(gpus))
        pare__text_add(out, "GPUs       none\n");
    if (pare__report_string(root, "note", NULL))
        pare__text_wrap(out, 0, "note       ", pare__report_string(root, "note", ""));
}
