/* report_impl.h - the inside of a report: a JSON object whose members are listed here. */
#ifndef PARE_REPORT_IMPL_H
#define PARE_REPORT_IMPL_H

#include "pare/recipe.h"
#include "pare/report.h"
#include "pare/store.h"

#include "base/json.h"
#include "base/text.h"

/* clang-format off */
/* Whoever makes a report fills `root` with pare__json_set_*; report_text_*.c read the same members,
 * and --json prints them as they are, so these names are the contract with users' scripts. Bytes,
 * counts and shapes are integers, seconds and errors reals. "|null" means that null (or leaving the
 * member out) is allowed; everything else is required of the maker, though the renderers take any
 * JSON without harm (a report may come from a file).
 *
 * every kind
 *   kind      "plan" "run" "inspect" "compare" "devices" "eval" "train" "sweep"
 *   version   pare_version()
 *
 * plan
 *   model     { path, format, architecture|null, tensors, parameters,
 *               bytes }                     of all tensors as stored
 *   output    { path|null, format,          "hf", "safetensors", "h5"
 *               files, bytes }
 *   recipe    pare_recipe_text()
 *   steps     [ "prune: magnitude, 2:4", … ]        pare__recipe_steps() makes them
 *             a run of several stages: [ their reports, each as if it had been alone, an eval's
 *             with such steps too ]; then there are no tensors, summary and phases around them
 *   tensors   [ {
 *       name, role, reason, dtype, shape: […],
 *       prune: "2:4" | "unstructured 0.5" | … | null    what is really done, after any fallback
 *       quant: "w4g128" | … | null                      likewise
 *       fallback: sentence|null     asked for but does not fit, and what is done instead; without
 *                                   the tensor's name, so that equal ones group: "groups of 128 do
 *                                   not divide rows of 172: one scale per output channel instead"
 *       note: sentence|null         any other remark ("decoded from w4g128")
 *       bytes_in, bytes_out|null    as stored before and after; null: not known before the work
 *       zeros|null                  run only: zeros after the run, of the values a reader gets
 *     } ]
 *   summary   { pruned, quantized, left_alone, fallbacks }       tensors
 *   walk      { data, samples, seq_len|null, batch, compute: "f32" "bf16",     a step with data
 *               mode: "true sequential" "per block" "dense", blocks, sites, layers, flops,
 *               disk_bytes }|null           of hidden states and results, while it runs
 *   ranks     { count, kind, library,           that share a step with data
 *               bytes, seconds, exposed_seconds }|null         run only: what went between them
 *   surveying { layers, walk: bool,   where schemes or sparsities are decided by measuring: what
 *               evaluations, samples,         that takes (predicted counts it in); 0 layers: a run
 *               flops, seconds|null,          that was cut has left it. In a plan tensors have what
 *               peak_memory,                  spends the budget
 *               device_memory|null }|null
 *   predicted { passes, read_bytes, write_bytes, peak_memory, seconds|null, budget, threads, isa,
 *               between_bytes|null          of checkpoints between stages, at most at a time
 *               device,                     "cpu", or "cuda:0 NVIDIA H200" with
 *               device_memory, device_budget|null }
 *
 * run: all of plan, and
 *   actual    { read_bytes, write_bytes, peak_memory, seconds, resumed: bool, chunks_done_before,
 *               phases: [ { name, seconds } ],
 *               device_memory|null }        peak of the buffers that were worked on there
 *   result    { parameters,
 *               zeros|null, sparsity|null,        over all tensors, of the values a reader gets
 *               pruned: { parameters, zeros, sparsity }|null,    over the tensors that were pruned
 *               bits_per_weight,                  stored bits of all tensors / parameters
 *               bytes_in, bytes_out,
 *               ratio }                           bytes_in / bytes_out
 *   survey    [ {                   where schemes or sparsities were decided by measuring
 *       of: "quantize" "prune", by: "output" "kld" "global" "owl" "loss",
 *       options: […],               schemes or sparsities tried; none of owl, global
 *       layers: [ { name, weights, scheme|null, choice|null, bits_per_weight|null, sparsity|null,
 *                   harm: [real] } ]        of each option; of owl the share of outliers,
 *                                               of global what lies below the threshold
 *     } ]
 *   layers    [ {                   a step with data: every layer, in the order of the model
 *       name, site,                 its tensor; the first of the layers with the same inputs
 *       method,                     "sparsegpt 2:4, gptq w4g32"
 *       error_before|null           squared error of the output, as a share: by rounding to
 *       error_after|null            nearest, or by magnitude; and what it is
 *       damping, dead,              share of the mean diagonal; inputs that were always 0
 *       act_scale|null              of static activations
 *       sparsity|null
 *       scaled: bool|null, note|null    scales of its inputs were folded away; or why not
 *       fallback: sentence|null     why something simpler was done
 *       seconds
 *     } ]|null
 *   verified  bool|null             a conversion: every value was read back and compared
 *
 * plan and run of a pattern that makes the model smaller: their tensors have shape_out, and
 *   shrink    { pattern,
 *               classes: [ { name, units, kept, gone: [number]|null } ],     gone: of layers
 *               locked: [ { name, reason } ],
 *               parameters_before, parameters_after,
 *               tokens, flops_before|null, flops_after|null,    a forward of one sample
 *               tensors_dropped }           tables the smaller model cannot use
 *
 * inspect
 *   path, format, architecture|null
 *   tensors   [ {
 *       name, dtype, shape, role, reason,
 *       form: "dense" "quant" "sparse", scheme: "w4g128"|null,
 *       bits_per_weight, bytes,
 *       sparsity|null               known without reading values (form "sparse"), or by --stats
 *       stats|null: { zeros, sparsity, min, max, mean, rms, nans, infs }     --stats
 *     } ]
 *   side_files [ { name, bytes } ]
 *   provenance [ { pare, recipe, sources: { tensor: digest } } ]|null    as the store keeps it,
 *                                   parsed: one for each run, the first one first
 *   totals    { tensors, parameters, bytes, bits_per_weight,
 *               zeros|null, sparsity|null, nans|null, infs|null }
 *
 * compare
 *   a, b      paths
 *   tolerance|null
 *   device    as in predicted
 *   equal     bool                  same tensors, shapes and values
 *   differs   bool                  what decides the exit code
 *   all       { max_abs|null, rms, sqnr_db|null, cosine|null, differing, count }
 *                                   max_abs null: infinite; rms: of a - b; sqnr_db null:
 *                                   infinite; cosine null: one side is all zero
 *   tensors   [ { name, max_abs|null, rms, sqnr_db|null, cosine|null,
 *                 differing, count } ]
 *                                   those on both sides with one shape
 *   only_a, only_b  [ name ]
 *   shapes    [ { name, a: […], b: […] } ]
 *
 * devices
 *   cpu       { model, cores, isas: [ { name, available: bool, chosen: bool } ] }
 *   libraries [ { name, version, choice|null } ]
 *   gpus      [ { name: "cuda:0 NVIDIA H200", capability: "9.0", multiprocessors, memory_bytes,
 *                 free_bytes } ]
 *   cuda|null { driver: "13.0", runtime: "13.0" }       versions, where there are GPUs
 *   note|null sentence: why there are no GPUs
 *
 * eval
 *   model, against|null  { path, format, architecture, parameters, masked_tensors }
 *   data      { path, samples, seq_len|null, stride|null }
 *   batch, planned: bool, outputs|null
 *   ppl, loss, top1, top5 (shares), kld, agreement (share), cosine, cosine_min     those measured
 *   correct|null, counted           labels right; labels or tokens counted
 *   predicted { peak_memory, parameters_bytes, gradients_bytes, activations_bytes, beside_bytes,
 *               budget, flops, seconds|null, threads, isa, compute: "f32" "bf16",
 *               device, device_memory|null, device_budget|null }             as of plan
 *   actual    { seconds, measuring_seconds, samples_per_second, peak_memory,
 *               device_memory|null }       not planned
 *
 * train
 *   model, data, eval_data|null, predicted   as of eval
 *   output    { path }
 *   recipe    normalised text
 *   steps, batch, planned: bool
 *   masks     { tensors, parameters, zeros, sparsity }|null
 *   loss      moving mean at the end
 *   losses    [ { step, loss } ]     means of at most 100 spans
 *   eval      { metrics as of eval }|null
 *   actual    { seconds, steps, samples_per_second, peak_memory, resumed, steps_done_before }
 *
 * sweep
 *   sweep     the file's name
 *   folder|null, planned: bool, threads
 *   axes      [ { name, numbers: bool, values: [text] } ]    numbers: every value is one
 *   metric|null                     the one that points are judged by
 *   summary   { points, done, "not possible", failed, "to do", seconds }
 *   points    [ {                   dense models first, then the grid, the last axis fastest
 *       point,                      number, from 0
 *       kind: "dense" "grid",
 *       values: { axis: text },
 *       dense|null                  number of the point that is its dense model;
 *       dense_model|null            of that one: its path
 *       state: "done" "not possible" "failed" "to do",
 *       note: sentence|null         why it is not done
 *       model|null                  its checkpoint, where that is kept
 *       predicted|null              planned: as of plan
 *       metrics: { ppl, … }|null    of its last eval step;
 *       before: { ppl, … }|null     of an eval step before any other
 *       kept|null                   metric as a share of the dense model's, 1: nothing lost
 *       sparsity, zeros, weights,   of linear and convolution weights
 *       parameters, bits_per_weight,
 *       bytes,                      of its checkpoint on disk
 *       flops, flops_left,          a forward of one sample; without products with a zero
 *       latency: { seconds,         median of `forwards` of one batch
 *                  batch, length|null, forwards, threads, device }|null,
 *       peak_memory, seconds,
 *       front: [ "sparsity" "bytes" "flops_left" "latency" ],    where no other point is better
 *                                   and costs no more than half a percent more
 *                                   (of latency five)
 *       layers: [ { name, weights, sparsity, error|null } ],
 *       training: [ { step: "train" "distill", losses: as of train } ]|null
 *     } ]
 */
/* clang-format on */

struct pare_report {
    pare__json *root;
};

/* A report with kind and version set, to be filled. */
pare_status pare__report_new(const char *kind, pare_report **report);

/* Keeps it as "<output>.report.json". */
pare_status pare__report_save(const pare_report *report, const char *output);

/* Whether a report of what is there is asked about a tensor: pare_run_options.look. */
bool pare__looks_at(const pare_choice *look, const char *name);
/* An include that matches no tensor of either store is a slip of the pen; b may be NULL. */
pare_status pare__check_look(const pare_choice *look, const pare_store *a, const pare_store *b);

/* Appends one line for each step of the recipe, as people would say it, to a JSON array. */
pare_status pare__recipe_steps(const pare_recipe *recipe, pare__json *array);

/* Members of an object; 0, or `otherwise`, where there is none of that type. */
int64_t pare__report_int(const pare__json *object, const char *key);
double pare__report_real(const pare__json *object, const char *key);
const char *pare__report_string(const pare__json *object, const char *key, const char *otherwise);
/* "[64, 128]" of a member that is a list of integers. */
typedef struct pare__shape {
    char text[96];
} pare__shape;
pare__shape pare__report_shape(const pare__json *object, const char *key);

/* ---- rendering (report_text_*.c) ------------------------------------------------------------- */

/* Each appends its kind; root has any content. */
void pare__report_text_run(const pare__json *root, pare__text *out);    /* plan and run */
void pare__report_text_shrink(const pare__json *root, pare__text *out); /* what such a run adds */
void pare__report_text_layers(const pare__json *root, pare__text *out); /* what data adds */
void pare__report_text_survey(const pare__json *root, pare__text *out);
void pare__report_text_inspect(const pare__json *root, pare__text *out);
void pare__report_text_compare(const pare__json *root, pare__text *out);
void pare__report_text_devices(const pare__json *root, pare__text *out);
void pare__report_text_eval(const pare__json *root, pare__text *out);
void pare__report_text_train(const pare__json *root, pare__text *out);
void pare__report_text_sweep(const pare__json *root, pare__text *out);
/* What came of a training: notes, ranks, losses, metrics. */
void pare__report_text_learned(const pare__json *root, pare__text *out);
/* What an eval measured, a line each. */
void pare__report_text_metrics(const pare__json *root, pare__text *out);

#endif
