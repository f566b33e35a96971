/* options.c - the one table of options: which commands take them, their values, their help. */
#include "cli.h"

#include <string.h>

const struct option_row option_rows[OPTIONS] = {
    [OPT_OUTPUT] = {"output", 'o', "OUT", KIND_TEXT, "run plan prune quantize convert train report",
                    "@",
                    "where the result goes; its ending decides the container (see OUT); of "
                    "`report`: a .json or .txt file"},
    [OPT_METHOD] = {"method", 0, "NAME", KIND_TEXT, "prune quantize",
                    "magnitude random wanda sparsegpt taylor fisher rtn gptq awq smoothquant "
                    "imatrix",
                    "how weights are chosen or rounded (see METHOD); default `magnitude` to prune, "
                    "`rtn` to quantize"},
    [OPT_SPARSITY] = {"sparsity", 0, "FRACTION", KIND_FRACTION, "prune", NULL,
                      "share of the weights (or heads, layers …) to remove, 0 to 1; no default, "
                      "but that an N:M pattern has its own"},
    [OPT_PATTERN] = {"pattern", 0, "PATTERN", KIND_TEXT, "prune",
                     "unstructured 2:4 4:8 block:16x16 channel head layer width",
                     "the shape in which weights go; default `unstructured`; `channel`, `head`, "
                     "`layer` and `width` make the model smaller"},
    [OPT_SCOPE] =
        {"scope", 0, "global|layer", KIND_TEXT, "prune", "global layer",
         "one threshold over all chosen tensors, or one for each; default `global`; not of "
         "`wanda` and `sparsegpt`, nor of N:M"},
    [OPT_BUDGET] = {"budget", 0, "NAME", KIND_TEXT, "prune", "uniform global owl loss",
                    "how the sparsity is spread over layers: `uniform` and `global` are --scope "
                    "layer and global; of `wanda` and `sparsegpt`: `uniform` (default), `owl` by "
                    "outliers, `loss` by the layers' errors"},
    [OPT_MULTIPLE] = {"multiple", 0, "N", KIND_COUNT, "prune", NULL,
                      "`channel`, `head`, `width`: what is left is a multiple of N; default 1"},
    [OPT_SCHEME] = {"scheme", 0, "SCHEME", KIND_TEXT, "quantize",
                    "w8 w4 w4g128 w4g128z w3g128 w8a8 fp8 nf4 nf4d",
                    "bits, scales and zero points; no default: give this or --schemes"},
    [OPT_SCHEMES] = {"schemes", 0, "LIST", KIND_TEXT, "quantize", NULL,
                     "mixed bits: schemes between commas, of which each layer gets one, so that "
                     "the harm is least within --bits or --bytes; needs --data; default none"},
    [OPT_BITS] = {"bits", 0, "X", KIND_BOUND, "quantize", NULL,
                  "of --schemes: mean bits a weight over all chosen tensors, scales included; "
                  "no default: give this or --bytes"},
    [OPT_BYTES] = {"bytes", 0, "SIZE", KIND_SIZE, "quantize", NULL,
                   "of --schemes: bytes of all chosen tensors, instead of --bits; no default"},
    [OPT_SENSITIVITY] = {"sensitivity", 0, "output|kld", KIND_TEXT, "quantize", "output kld",
                         "of --schemes: what harm is, the error of a layer's output, or the KL "
                         "divergence of the model's, which is better and holds the model twice; "
                         "default `kld`"},
    [OPT_SCALE] = {"scale", 0, "absmax|mse|X", KIND_TEXT, "quantize train eval",
                   "absmax mse kl percentile:99.9",
                   "`quantize`: how a scale is found, from the largest magnitude, or by the lowest "
                   "squared error among 81 smaller ones; default `absmax`; `percentile:P` and `kl` "
                   "are of static activations (a8s). `train` and `eval`: a "
                   "number that pixel bytes are multiplied by; default: the architecture's"},
    [OPT_DAMPING] = {"damping", 0, "SHARE", KIND_SHARE, "prune quantize", NULL,
                     "`gptq` and `sparsegpt`: share of the mean diagonal that is added to it; "
                     "default 0.01"},
    [OPT_ACT_ORDER] = {"act-order", 0, NULL, KIND_FLAG, "quantize", NULL,
                       "`gptq`: columns of large inputs first; default off"},
    [OPT_ALPHA] = {"alpha", 0, "X", KIND_SHARE, "quantize", NULL,
                   "`smoothquant`: how much of the difficulty goes to the weights; default 0.5"},
    [OPT_GRID] = {"grid", 0, "N", KIND_COUNT, "quantize", NULL,
                  "`awq`: scales that are tried, at most 1000; default 20"},
    [OPT_NO_CLIP] = {"no-clip", 0, NULL, KIND_FLAG, "quantize", NULL,
                     "`awq`: without the search for clipped scales; default off"},
    [OPT_TO] = {"to", 0, "FORMAT", KIND_TEXT, "prune quantize convert",
                "dense int-quantized sparse-bitmask nf4",
                "how tensors are stored: `dense` decodes everything, `int-quantized` keeps 8-bit "
                "codes as bytes, `sparse-bitmask` keeps pruned tensors as bits and values, `nf4` "
                "as bitsandbytes does; default: what the values need (compressed-tensors)"},
    [OPT_MAX_SHARD_SIZE] =
        {"max-shard-size", 0, "SIZE", KIND_SIZE, "prune quantize convert train", NULL,
         "largest .safetensors file of a Hugging Face directory, in bytes; default 5G"},
    [OPT_STATS] = {"stats", 0, NULL, KIND_FLAG, "inspect", NULL,
                   "read all values too: zeros, least, greatest, mean, RMS, NaN and Inf of every "
                   "tensor; default off"},
    [OPT_PER_TENSOR] = {"per-tensor", 0, NULL, KIND_FLAG, "compare", NULL,
                        "list every tensor, not only the whole; default off"},
    [OPT_TOLERANCE] = {"tolerance", 0, "X", KIND_BOUND, "compare", NULL,
                       "largest |a - b| that still passes, in the values' own unit; default: "
                       "values may differ, only missing tensors and other shapes count"},
    /* ---- models that run ---- */
    [OPT_ARCH] = {"arch", 0, "ARCH", KIND_TEXT, "train eval prune quantize",
                  "resnet20-cifar resnet8-tiny resnet18 resnet50 vit: mlp: cnn:",
                  "the architecture of a plain state dict (see ARCH); default: what the checkpoint "
                  "says of itself"},
    [OPT_MEAN] = {"mean", 0, "X,…", KIND_TEXT, "train eval", NULL,
                  "what is taken from each channel of an image, after --scale; default: the "
                  "architecture's"},
    [OPT_STD] = {"std", 0, "X,…", KIND_TEXT, "train eval", NULL,
                 "what each channel is divided by then; default: the architecture's"},
    [OPT_DATA] = {"data", 0, "DATA", KIND_TEXT, "train eval prune quantize", "@",
                  "what to learn from, to measure on, or to calibrate with (see DATA); no default"},
    [OPT_EVAL_DATA] = {"eval-data", 0, "DATA", KIND_TEXT, "train", "@",
                       "data to measure on when the training is done; default none"},
    [OPT_LABELS] =
        {"labels", 0, "FILE", KIND_TEXT, "train eval prune quantize", "@",
         "class labels of --data: IDX, .npy or bytes; default: in the data or beside it"},
    [OPT_EVAL_LABELS] = {"eval-labels", 0, "FILE", KIND_TEXT, "train", "@",
                         "class labels of --eval-data; default likewise"},
    [OPT_SEQ_LEN] =
        {"seq-len", 0, "T", KIND_COUNT, "train eval prune quantize", NULL,
         "tokens of a window (a prediction each) or a row; default: the array's row, or "
         "the model's longest up to 1024"},
    [OPT_STRIDE] = {"stride", 0, "N", KIND_COUNT, "eval", NULL,
                    "tokens between the starts of windows; each token counts once; default: T"},
    [OPT_PAD_ID] = {"pad-id", 0, "ID", KIND_INDEX, "train eval prune quantize", NULL,
                    "token that is padding; default: of rows, what the model's config says"},
    [OPT_BOS_ID] = {"bos-id", 0, "ID", KIND_INDEX, "train eval", NULL,
                    "token put before every window; default none"},
    [OPT_SAMPLES] =
        {"samples", 0, "N", KIND_COUNT, "train eval prune quantize", NULL,
         "take only so many windows, rows or images of --data; default all, of `prune` and "
         "`quantize` 128"},
    [OPT_SKIP] = {"skip", 0, "N", KIND_INDEX, "train eval prune quantize", NULL,
                  "leave out so many first; default 0"},
    [OPT_SHUFFLE] = {"shuffle", 0, NULL, KIND_FLAG, "train eval prune quantize", NULL,
                     "draw --samples by the seed instead of taking the first (the order in which "
                     "`train` goes through them is always drawn); default off"},
    [OPT_METRIC] = {"metric", 0, "LIST", KIND_TEXT, "eval", "ppl loss top1 top5 kld cosine",
                    "what to measure, between commas: ppl, loss, top1, top5, kld, cosine; default: "
                    "what fits the model, the data and --against"},
    [OPT_AGAINST] = {"against", 0, "CKPT", KIND_TEXT, "eval", "@",
                     "a checkpoint to compare outputs with, usually the dense model; default none"},
    [OPT_OUTPUTS] = {"outputs", 0, "FILE.npy", KIND_TEXT, "eval", "@",
                     "write the model's outputs (logits or embeddings) too; default none"},
    [OPT_BATCH] = {"batch", 0, "B", KIND_COUNT, "train eval prune quantize", NULL,
                   "images, rows or windows at once; default: 128 images, 32 rows, 2048 tokens of "
                   "windows"},
    [OPT_PRECISION] = {"precision", 0, "f32|bf16", KIND_TEXT, "train eval prune quantize",
                       "f32 bf16",
                       "what activations and products are computed in (sums and trained weights "
                       "are f32); default `f32`"},
    [OPT_PROPAGATE] = {"propagate", 0, "NAME", KIND_TEXT, "prune quantize", "compressed dense",
                       "what the next block sees while calibrating: what the compressed one gives, "
                       "or what the dense one gave; default `compressed`"},
    [OPT_NO_TRUE_SEQUENTIAL] =
        {"no-true-sequential", 0, NULL, KIND_FLAG, "prune quantize", NULL,
         "look at all inputs of a block before any layer of it is worked on, which is faster; "
         "default: each layer sees what those before it have become"},
    [OPT_ERRORS] = {"errors", 0, NULL, KIND_FLAG, "prune quantize", NULL,
                    "measure what a layer's output loses also where the method could do without "
                    "(wanda); default off"},
    [OPT_CACHE] = {"cache", 0, "FOLDER", KIND_TEXT, "prune quantize", "@",
                   "keep the statistics of the inputs there, and use them again where the next "
                   "block sees what the dense one gave; default none"},
    [OPT_STEPS] = {"steps", 0, "N", KIND_COUNT, "train", NULL,
                   "optimiser steps; no default: give this or --epochs"},
    [OPT_EPOCHS] = {"epochs", 0, "X", KIND_BOUND, "train", NULL,
                    "passes over the data, fractions allowed; no default: give this or --steps"},
    [OPT_ACCUMULATE] = {"accumulate", 0, "N", KIND_COUNT, "train", NULL,
                        "batches whose gradients make one step; default 1"},
    [OPT_OPTIMIZER] = {"optimizer", 0, "sgd|adamw", KIND_TEXT, "train", "sgd adamw",
                       "default `adamw` for models of tokens, `sgd` for models of images"},
    [OPT_LR] = {"lr", 0, "X", KIND_BOUND, "train", NULL,
                "learning rate at its highest; default 0.1 for `sgd`, 0.0003 for `adamw`"},
    [OPT_SCHEDULE] = {"schedule", 0, "NAME", KIND_TEXT, "train", "cosine linear step constant",
                      "how the rate falls: `cosine` or `linear` down to --final-lr, `step` by "
                      "--gamma at each of --milestones, `constant`; default `cosine`"},
    [OPT_WARMUP] = {"warmup", 0, "N", KIND_INDEX, "train", NULL,
                    "steps in which the rate rises to its highest; default 0"},
    [OPT_FINAL_LR] = {"final-lr", 0, "FRACTION", KIND_FRACTION, "train", NULL,
                      "share of --lr left at the end; default 0"},
    [OPT_MILESTONES] = {"milestones", 0, "X,…", KIND_TEXT, "train", NULL,
                        "shares of the training after which `step` lowers the rate; default "
                        "0.5,0.75"},
    [OPT_GAMMA] = {"gamma", 0, "X", KIND_FRACTION, "train", NULL,
                   "what the rate is multiplied by there; default 0.1"},
    [OPT_MOMENTUM] = {"momentum", 0, "X", KIND_FRACTION, "train", NULL, "of `sgd`; default 0.9"},
    [OPT_NESTEROV] = {"nesterov", 0, NULL, KIND_FLAG, "train", NULL,
                      "Nesterov's form of the momentum; default off"},
    [OPT_BETAS] = {"betas", 0, "X,X", KIND_TEXT, "train", NULL, "of `adamw`; default 0.9,0.999"},
    [OPT_WEIGHT_DECAY] = {"weight-decay", 0, "X", KIND_BOUND, "train", NULL,
                          "of weights (norms and biases have none); default 0.0005 for `sgd`, 0.01 "
                          "for `adamw`"},
    [OPT_CLIP] = {"clip", 0, "X", KIND_BOUND, "train", NULL,
                  "largest norm of all gradients together; default: 1 for models of tokens, none "
                  "for images"},
    [OPT_LABEL_SMOOTHING] = {"label-smoothing", 0, "FRACTION", KIND_FRACTION, "train", NULL,
                             "share of the target spread over all classes; default 0"},
    [OPT_EMA] = {"ema", 0, "FRACTION", KIND_FRACTION, "train", NULL,
                 "keep a moving average of the weights with this share each step, and write that; "
                 "default none"},
    [OPT_CROP] = {"crop", 0, "PIXELS", KIND_INDEX, "train", NULL,
                  "pad images by so much on each side and crop at random; default 0"},
    [OPT_FLIP] = {"flip", 0, NULL, KIND_FLAG, "train", NULL,
                  "mirror half of the images left to right; default off"},
    [OPT_MIXUP] = {"mixup", 0, "X", KIND_BOUND, "train", NULL,
                   "mix pairs of images by a share drawn from Beta(X, X); default none"},
    [OPT_FREEZE] = {"freeze", 0, "GLOB", KIND_GLOB, "train", NULL,
                    "leave parameters as they are whose name matches; repeatable; default none"},
    [OPT_NO_MASKS] = {"no-masks", 0, NULL, KIND_FLAG, "train", NULL,
                      "let pruned weights grow again; default: they stay exactly zero"},
    [OPT_SAVE_EVERY] = {"save-every", 0, "N", KIND_COUNT, "train", NULL,
                        "steps between states kept on the disk; default: about every 5 minutes"},
    [OPT_INCLUDE] =
        {"include", 0, "GLOB", KIND_GLOB, "inspect plan run prune quantize compare", NULL,
         "work on tensors whose name matches, also where their role would leave them "
         "alone; `inspect` and `compare`: look at these only; repeatable; default: by role, "
         "or all"},
    [OPT_EXCLUDE] = {"exclude", 0, "GLOB", KIND_GLOB, "inspect plan run prune quantize compare",
                     NULL, "leave tensors alone whose name matches; repeatable; default none"},
    [OPT_PLAN] = {"plan", 0, NULL, KIND_FLAG, NULL, NULL,
                  "say what would be read, written, needed and taken, and do nothing; default off"},
    [OPT_DEVICE] = {"device", 0, "NAME", KIND_TEXT, NULL, "auto cpu cuda",
                    "where to compute: `cpu`, `cuda` (the first GPU), `cuda:N`, or `auto`: the "
                    "first GPU if there is one; default `auto`; results do not depend on it, but "
                    "for `train`, `eval` and what --data decides (last digits)"},
    [OPT_THREADS] = {"threads", 0, "N", KIND_THREADS, NULL, NULL,
                     "threads to work with, 1 to 4096; default: every processor this process may "
                     "use; results do not depend on it, but for `train`, `eval` and what --data "
                     "decides (last digits)"},
    [OPT_MEMORY] = {"memory", 0, "SIZE", KIND_SIZE, NULL, NULL,
                    "host memory budget in bytes; default: 256M and twice the largest tensor, of "
                    "`train` and `eval` what is free; results do not depend on it"},
    [OPT_DEVICE_MEMORY] = {"device-memory", 0, "SIZE", KIND_SIZE,
                           "plan run prune quantize train eval convert compare", NULL,
                           "how much of the device's memory may be used; default: what is free "
                           "there; results do not depend on it"},
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

const char *const later_options[] = {"teacher",     "student", "init", "loss",
                                     "temperature", "op",      NULL};

const struct word_row later_rows[] = {
    {"prune quantize", "bos-id"},
    {"inspect compare convert", "arch"},
    {NULL, NULL},
};

bool named_in(const char *name, const char *list)
{
    size_t length = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at += length)
        if ((at == list || at[-1] == ' ') && (at[length] == ' ' || !at[length]))
            return true;
    return false;
}

bool option_applies(enum option_id id, const struct command_row *command)
{
    const char *commands = option_rows[id].commands;
    if (!commands)
        return true;
    return command ? named_in(command->name, commands) : !*commands;
}
