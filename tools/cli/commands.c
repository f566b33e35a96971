/* commands.c - the one table of options and commands. Parsing, --help, docs/cli.md, the man page
 * and shell completion are made from it. */
#include "cli.h"

#include <string.h>

const struct option_row option_rows[OPTIONS] = {
    [OPT_OUTPUT] = {"output", 'o', "OUT", KIND_TEXT, "run plan prune quantize convert report", "@",
                    "where the result goes; its ending decides the container (see OUT); of "
                    "`report`: a .json or .txt file"},
    [OPT_METHOD] = {"method", 0, "NAME", KIND_TEXT, "prune quantize", NULL,
                    "how weights are scored or rounded: `magnitude` (default) or `random` to "
                    "prune, `rtn` (default) to quantize"},
    [OPT_SPARSITY] = {"sparsity", 0, "FRACTION", KIND_FRACTION, "prune", NULL,
                      "share of the weights to remove, 0 to 1; needed for `unstructured` and "
                      "`block`, no default; an N:M pattern has its own"},
    [OPT_PATTERN] = {"pattern", 0, "PATTERN", KIND_TEXT, "prune",
                     "unstructured 2:4 4:8 block:16x16",
                     "the shape in which weights go; default `unstructured`"},
    [OPT_SCOPE] = {"scope", 0, "global|layer", KIND_TEXT, "prune", "global layer",
                   "one threshold over all chosen tensors, or one for each; default `global`; an "
                   "N:M pattern needs none"},
    [OPT_SCHEME] = {"scheme", 0, "SCHEME", KIND_TEXT, "quantize",
                    "w8 w4 w4g128 w4g128z w3g128 w8a8 fp8 nf4 nf4d",
                    "bits, scales and zero points; no default"},
    [OPT_SCALE] = {"scale", 0, "absmax|mse", KIND_TEXT, "quantize", "absmax mse",
                   "how a scale is found: from the largest magnitude, or by the lowest squared "
                   "error among 81 smaller ones; default `absmax`"},
    [OPT_TO] = {"to", 0, "FORMAT", KIND_TEXT, "prune quantize convert",
                "dense int-quantized sparse-bitmask nf4",
                "how tensors are stored: `dense` decodes everything, `int-quantized` keeps 8-bit "
                "codes as bytes, `sparse-bitmask` keeps pruned tensors as bits and values, `nf4` "
                "as bitsandbytes does; default: what the values need (compressed-tensors)"},
    [OPT_MAX_SHARD_SIZE] =
        {"max-shard-size", 0, "SIZE", KIND_SIZE, "prune quantize convert", NULL,
         "largest .safetensors file of a Hugging Face directory, in bytes; default 5G"},
    [OPT_STATS] = {"stats", 0, NULL, KIND_FLAG, "inspect", NULL,
                   "read all values too: zeros, least, greatest, mean, RMS, NaN and Inf of every "
                   "tensor; default off"},
    [OPT_PER_TENSOR] = {"per-tensor", 0, NULL, KIND_FLAG, "compare", NULL,
                        "list every tensor, not only the whole; default off"},
    [OPT_TOLERANCE] = {"tolerance", 0, "X", KIND_BOUND, "compare", NULL,
                       "largest |a - b| that still passes, in the values' own unit; default: "
                       "values may differ, only missing tensors and other shapes count"},
    [OPT_INCLUDE] =
        {"include", 0, "GLOB", KIND_GLOB, "inspect plan run prune quantize compare", NULL,
         "work on tensors whose name matches, also where their role would leave them "
         "alone; `inspect` and `compare`: look at these only; repeatable; default: by role, "
         "or all"},
    [OPT_EXCLUDE] = {"exclude", 0, "GLOB", KIND_GLOB, "inspect plan run prune quantize compare",
                     NULL, "leave tensors alone whose name matches; repeatable; default none"},
    [OPT_PLAN] = {"plan", 0, NULL, KIND_FLAG, NULL, NULL,
                  "say what would be read, written, needed and taken, and do nothing; default off"},
    [OPT_DEVICE] =
        {"device", 0, "NAME", KIND_TEXT, NULL, "auto cpu",
         "`auto`, `cpu`, `cuda` or `cuda:N`; default `auto`; this version has the CPU only"},
    [OPT_THREADS] = {"threads", 0, "N", KIND_THREADS, NULL, NULL,
                     "threads to work with, 1 to 4096; default: every processor this process may "
                     "use; results do not depend on it"},
    [OPT_MEMORY] = {"memory", 0, "SIZE", KIND_SIZE, NULL, NULL,
                    "host memory budget in bytes; default: 256M and twice the largest tensor; "
                    "results do not depend on it"},
    [OPT_SEED] = {"seed", 0, "N", KIND_SEED, NULL, NULL,
                  "seed of everything random, 0 to 2^64 - 1; default 0, or the recipe's"},
    [OPT_JSON] = {"json", 0, NULL, KIND_FLAG, NULL, NULL,
                  "the result on stdout as JSON; default: text"},
    [OPT_QUIET] = {"quiet", 'q', NULL, KIND_FLAG, NULL, NULL,
                   "no progress and no remarks on stderr, errors only; default off"},
    [OPT_VERBOSE] =
        {"verbose", 'v', NULL, KIND_FLAG, NULL, NULL,
         "more remarks on stderr, and with an error the functions it went through; default off"},
    [OPT_TRACE] = {"trace", 0, "FILE", KIND_TEXT, NULL, "@",
                   "write a timeline for Perfetto or chrome://tracing; default none"},
    [OPT_SYNC] =
        {"sync", 0, NULL, KIND_FLAG, NULL, NULL,
         "flush to the disk after every tensor, against power cuts; default: once, at the end"},
    [OPT_STRICT] = {"strict", 0, NULL, KIND_FLAG, NULL, NULL,
                    "a scheme or pattern that does not fit a layer is an error; default: the "
                    "layer falls back, and the report says so"},
    [OPT_OVERWRITE] =
        {"overwrite", 0, NULL, KIND_FLAG, NULL, NULL,
         "replace an output that exists, drop a part that another run left; default: refuse"},
    [OPT_HELP] = {"help", 'h', NULL, KIND_FLAG, NULL, NULL, "show this help"},
    [OPT_VERSION] = {"version", 'V', NULL, KIND_FLAG, "", NULL, "show the version"},
    [OPT_MARKDOWN] = {"markdown", 0, NULL, KIND_FLAG, "", NULL, "print this manual as Markdown"},
    [OPT_MAN] = {"man", 0, NULL, KIND_FLAG, "", NULL, "print this manual as a man page"},
    [OPT_COMPLETION] = {"completion", 0, "SHELL", KIND_TEXT, "", "bash zsh fish",
                        "print the completion script of `bash`, `zsh` or `fish`"},
};

const char *const later_options[] = {
    "arch",    "mean",    "std",        "data",   "samples",     "seq-len",  "skip",
    "shuffle", "labels",  "pad-id",     "bos-id", "teacher",     "student",  "init",
    "loss",    "steps",   "batch",      "lr",     "temperature", "schedule", "warmup",
    "metric",  "against", "save-every", "op",     NULL};

const struct command_row command_rows[] = {
    {"inspect", "CKPT", 1, "[--stats]",
     "tensors, types, sizes, roles, sparsity, quantisation, provenance",
     "Lists every tensor of a checkpoint with its type, shape, role and the reason for the role, "
     "how it is stored, and its size; then the files carried along, the provenance that pare "
     "wrote, and totals. Reads metadata only, unless --stats asks for the values.",
     "pare inspect Qwen2.5-0.5B/\npare inspect out.h5 --stats --json", cmd_inspect},
    {"plan", "RECIPE", 1, "[-o OUT]", "what a run will read, write, need and take; nothing is done",
     "Decides for every tensor what a run would do, and predicts bytes read and written, peak "
     "memory and time. Fails where the run would fail before its first byte.",
     "pare plan recipe.yaml\npare plan recipe.yaml -o out.h5 --memory 1G", cmd_plan},
    {"run", "RECIPE", 1, "[-o OUT]",
     "do what a recipe says; the same command again continues a run that was cut",
     "Reads the recipe's model, does its steps and writes the output: that of -o, else that of "
     "the recipe's export step. The report is shown, and kept as OUT.report.json.\n\n"
     "Work is done under OUT.part and journalled beside it. A run that was stopped or killed "
     "continues where it was when the same command is given again, and ends with the same bytes.",
     "pare run recipe.yaml\npare run recipe.yaml -o out.h5 --threads 8", cmd_run},
    {"prune", "CKPT", 1,
     "-o OUT [--method NAME] [--pattern PATTERN] [--sparsity FRACTION] [--scope global|layer]",
     "set weights to zero",
     "Removes the weights of lowest score from the layers that the architecture calls linear or "
     "convolution; embeddings, norms, biases and the output head are left alone unless included.",
     "pare prune model/ -o sparse/ --sparsity 0.5\n"
     "pare prune model/ -o sparse.h5 --pattern 2:4 --exclude '*.0.*'",
     cmd_prune},
    {"quantize", "CKPT", 1, "-o OUT --scheme SCHEME [--method NAME] [--scale absmax|mse]",
     "store weights in few bits",
     "Rounds the weights of linear layers and convolutions to few bits with scales, in the "
     "layout that transformers and vLLM load; embeddings, norms, biases and the output head are "
     "left alone unless included. Weights that are zero stay zero.",
     "pare quantize model/ -o model-w4/ --scheme w4g128\n"
     "pare quantize sparse.h5 -o small.h5 --scheme w4g128z --scale mse",
     cmd_quantize},
    {"distill", "", 0, "", "train a student to imitate a teacher", NULL, NULL, NULL},
    {"train", "", 0, "", "supervised training and fine-tuning", NULL, NULL, NULL},
    {"eval", "", 0, "", "perplexity, accuracy and the like on data", NULL, NULL, NULL},
    {"compare", "A B", 2, "[--per-tensor] [--tolerance X]",
     "max, RMS, SQNR, cosine of the difference of two checkpoints",
     "Compares the decoded values of two checkpoints of any format, tensor by tensor. Exit code "
     "1 if a tensor is missing on one side or has another shape, or, with --tolerance, if some "
     "|a - b| is above it.",
     "pare compare model/ out.h5\npare compare a.safetensors b.h5 --per-tensor --tolerance 1e-6",
     cmd_compare},
    {"convert", "CKPT", 1, "-o OUT [--to FORMAT]", "the same values in another container or format",
     "Writes a checkpoint in the container that OUT names. Every value is read back and "
     "compared. Quantised and sparse tensors go over as they are where the container can hold "
     "them; --to dense decodes them.",
     "pare convert model/ -o model.h5\npare convert small.h5 -o dense/ --to dense", cmd_convert},
    {"sweep", "", 0, "", "a grid of methods, sparsities and bits", NULL, NULL, NULL},
    {"report", "RUN", 1, "[-o FILE.json|FILE.txt]", "the report of a finished run",
     "Shows the report of a run again: RUN is the run's output, or the report file itself.",
     "pare report out.h5\npare report out.h5 -o report.txt", cmd_report},
    {"bench", "", 0, "", "speed of every operation on this machine", NULL, NULL, NULL},
    {"devices", "", 0, "", "CPU features, libraries' choices, GPUs",
     "Shows the processor, the instruction sets that the kernels were compiled for and the one "
     "chosen, the libraries in use, and GPUs. PARE_ISA in the environment forces an instruction "
     "set.",
     "pare devices\nPARE_ISA=base pare devices", cmd_devices},
    {NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL},
};

bool option_applies(enum option_id id, const struct command_row *command)
{
    const char *commands = option_rows[id].commands;
    if (!commands)
        return true;
    if (!command)
        return !*commands;
    size_t length = strlen(command->name);
    for (const char *at = commands; (at = strstr(at, command->name)); at += length)
        if ((at == commands || at[-1] == ' ') && (at[length] == ' ' || !at[length]))
            return true;
    return false;
}
