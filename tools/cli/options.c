/* options.c - the one table of options: which commands take them, their values, their help. */
#include "cli.h"

#include <string.h>

const struct option_row option_rows[OPTIONS] = {
    [OPT_OUTPUT] = {"output", 'o', "OUT", KIND_TEXT,
                    "run plan prune quantize convert train distill sweep report", "@",
                    "where the result goes; its ending decides the container (see OUT); of "
                    "`report`: a .html, .json or .txt file; of `sweep`: a folder"},
    [OPT_METHOD] = {"method", 0, "NAME", KIND_TEXT, "prune quantize train distill",
                    "magnitude random wanda sparsegpt taylor fisher rtn gptq awq smoothquant "
                    "imatrix",
                    "how weights are chosen or rounded (see METHOD); default `magnitude` to prune, "
                    "`rtn` to quantize"},
    [OPT_SPARSITY] = {"sparsity", 0, "FRACTION", KIND_FRACTION, "prune train distill", NULL,
                      "share of the weights (or heads, layers …) to remove, 0 to 1; no default, "
                      "but that an N:M pattern has its own"},
    [OPT_PATTERN] = {"pattern", 0, "PATTERN", KIND_TEXT, "prune train distill",
                     "unstructured 2:4 4:8 block:16x16 channel head layer width",
                     "the shape in which weights go; default `unstructured`; `channel`, `head`, "
                     "`layer` and `width` make the model smaller"},
    [OPT_SCOPE] =
        {"scope", 0, "global|layer", KIND_TEXT, "prune train distill", "global layer",
         "one threshold over all chosen tensors, or one for each; default `global`, of `wanda`, "
         "`sparsegpt` and masks that move (`--masks`) `layer`; of N:M neither"},
    [OPT_BUDGET] = {"budget", 0, "NAME", KIND_TEXT, "prune", "uniform global owl loss",
                    "how the sparsity is spread over layers: `uniform` and `global` are --scope "
                    "layer and global; of `wanda` and `sparsegpt` also `owl` by outliers, `loss` "
                    "by the layers' errors; default: what the method does by itself"},
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
    [OPT_SCALE] = {"scale", 0, "absmax|mse|X", KIND_TEXT, "quantize train distill eval",
                   "absmax mse kl percentile:99.9",
                   "`quantize`: how a scale is found, from the largest magnitude, or by the lowest "
                   "squared error among 81 smaller ones; default `absmax`; `percentile:P` and `kl` "
                   "are of static activations (a8s). `train`, `distill` and `eval`: a number that "
                   "pixel bytes are multiplied by; default: the architecture's, of a student from "
                   "random values the teacher's"},
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
        {"max-shard-size", 0, "SIZE", KIND_SIZE, "prune quantize convert train distill", NULL,
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
    [OPT_ARCH] = {"arch", 0, "ARCH", KIND_TEXT, "train distill eval prune quantize",
                  "resnet20-cifar resnet8-tiny resnet18 resnet50 vit: mlp: cnn:",
                  "the architecture of a plain state dict (see ARCH); default: what the checkpoint "
                  "says of itself"},
    [OPT_MEAN] = {"mean", 0, "X,…", KIND_TEXT, "train distill eval", NULL,
                  "what is taken from each channel of an image, after --scale; default: as there"},
    [OPT_STD] = {"std", 0, "X,…", KIND_TEXT, "train distill eval", NULL,
                 "what each channel is divided by then; default: as of `--scale`"},
    [OPT_DATA] = {"data", 0, "DATA", KIND_TEXT, "train distill eval prune quantize", "@",
                  "what to learn from, to measure on, or to calibrate with (see DATA); no default"},
    [OPT_EVAL_DATA] = {"eval-data", 0, "DATA", KIND_TEXT, "train distill", "@",
                       "data to measure on when the training is done; default none"},
    [OPT_LABELS] =
        {"labels", 0, "FILE", KIND_TEXT, "train distill eval prune quantize", "@",
         "class labels of --data: IDX, .npy or bytes; default: in the data or beside it"},
    [OPT_EVAL_LABELS] = {"eval-labels", 0, "FILE", KIND_TEXT, "train distill", "@",
                         "class labels of --eval-data; default likewise"},
    [OPT_SEQ_LEN] =
        {"seq-len", 0, "T", KIND_COUNT, "train distill eval prune quantize", NULL,
         "tokens of a window (a prediction each) or a row; default: the array's row, or "
         "the model's longest up to 1024"},
    [OPT_STRIDE] = {"stride", 0, "N", KIND_COUNT, "eval", NULL,
                    "tokens between the starts of windows; each token counts once; default: T"},
    [OPT_PAD_ID] = {"pad-id", 0, "ID", KIND_INDEX, "train distill eval prune quantize", NULL,
                    "token that is padding; default: of rows, what the model's config says"},
    [OPT_BOS_ID] = {"bos-id", 0, "ID", KIND_INDEX, "train distill eval", NULL,
                    "token put before every window; default none"},
    [OPT_SAMPLES] =
        {"samples", 0, "N", KIND_COUNT, "train distill eval prune quantize", NULL,
         "take only so many windows, rows or images of --data; default all, of `prune` and "
         "`quantize` 128"},
    [OPT_SKIP] = {"skip", 0, "N", KIND_INDEX, "train distill eval prune quantize", NULL,
                  "leave out so many first; default 0"},
    [OPT_SHUFFLE] = {"shuffle", 0, NULL, KIND_FLAG, "train distill eval prune quantize", NULL,
                     "draw --samples by the seed instead of taking the first (the order in which "
                     "`train` goes through them is always drawn); default off"},
    [OPT_METRIC] = {"metric", 0, "LIST", KIND_TEXT, "eval", "ppl loss top1 top5 kld cosine",
                    "what to measure, between commas: ppl, loss, top1, top5, kld, cosine; default: "
                    "what fits the model, the data and --against"},
    [OPT_AGAINST] = {"against", 0, "CKPT", KIND_TEXT, "eval", "@",
                     "a checkpoint to compare outputs with, usually the dense model; default none"},
    [OPT_OUTPUTS] = {"outputs", 0, "FILE.npy", KIND_TEXT, "eval", "@",
                     "write the model's outputs (logits or embeddings) too; default none"},
    [OPT_BATCH] = {"batch", 0, "B", KIND_COUNT, "train distill eval prune quantize", NULL,
                   "images, rows or windows at once; default: 128 images, 32 rows, 2048 tokens of "
                   "windows"},
    [OPT_PRECISION] = {"precision", 0, "f32|bf16", KIND_TEXT, "train distill eval prune quantize",
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
    [OPT_CACHE] = {"cache", 0, "FOLDER", KIND_TEXT, "prune quantize train distill", "@",
                   "keep the statistics of the inputs there, and use them again where the next "
                   "block sees what the dense one gave; default none"},
    [OPT_STEPS] = {"steps", 0, "N", KIND_COUNT, "train distill", NULL,
                   "optimiser steps; no default: give this or --epochs"},
    [OPT_EPOCHS] = {"epochs", 0, "X", KIND_BOUND, "train distill", NULL,
                    "passes over the data, fractions allowed; no default: give this or --steps"},
    [OPT_ACCUMULATE] = {"accumulate", 0, "N", KIND_COUNT, "train distill", NULL,
                        "batches whose gradients make one step; default 1"},
    [OPT_OPTIMIZER] = {"optimizer", 0, "sgd|adamw", KIND_TEXT, "train distill", "sgd adamw",
                       "default `adamw` for models of tokens, `sgd` for models of images"},
    [OPT_LR] = {"lr", 0, "X", KIND_BOUND, "train distill", NULL,
                "learning rate at its highest; default 0.1 for `sgd`, 0.0003 for `adamw`"},
    [OPT_SCHEDULE] = {"schedule", 0, "NAME", KIND_TEXT, "train distill",
                      "cosine linear step constant",
                      "how the rate falls: `cosine` or `linear` down to --final-lr, `step` by "
                      "--gamma at each of --milestones, `constant`; default `cosine`"},
    [OPT_WARMUP] = {"warmup", 0, "N", KIND_INDEX, "train distill", NULL,
                    "steps in which the rate rises to its highest; default 0"},
    [OPT_FINAL_LR] = {"final-lr", 0, "FRACTION", KIND_FRACTION, "train distill", NULL,
                      "share of --lr left at the end; default 0"},
    [OPT_MILESTONES] = {"milestones", 0, "X,…", KIND_TEXT, "train distill", NULL,
                        "shares of the training after which `step` lowers the rate; default "
                        "0.5,0.75"},
    [OPT_GAMMA] = {"gamma", 0, "X", KIND_FRACTION, "train distill", NULL,
                   "what the rate is multiplied by there; default 0.1"},
    [OPT_MOMENTUM] = {"momentum", 0, "X", KIND_FRACTION, "train distill", NULL,
                      "of `sgd`; default 0.9"},
    [OPT_NESTEROV] = {"nesterov", 0, NULL, KIND_FLAG, "train distill", NULL,
                      "Nesterov's form of the momentum; default off"},
    [OPT_BETAS] = {"betas", 0, "X,X", KIND_TEXT, "train distill", NULL,
                   "of `adamw`; default 0.9,0.999"},
    [OPT_WEIGHT_DECAY] = {"weight-decay", 0, "X", KIND_BOUND, "train distill", NULL,
                          "of weights (norms and biases have none); default 0.0005 for `sgd`, 0.01 "
                          "for `adamw`"},
    [OPT_CLIP] = {"clip", 0, "X", KIND_BOUND, "train distill", NULL,
                  "largest norm of all gradients together; default: 1 for models of tokens, none "
                  "for images"},
    [OPT_LABEL_SMOOTHING] = {"label-smoothing", 0, "FRACTION", KIND_FRACTION, "train distill", NULL,
                             "share of the target spread over all classes; default 0"},
    [OPT_EMA] = {"ema", 0, "FRACTION", KIND_FRACTION, "train distill", NULL,
                 "keep a moving average of the weights with this share each step, and write that; "
                 "default none"},
    [OPT_CROP] = {"crop", 0, "PIXELS", KIND_INDEX, "train distill", NULL,
                  "pad images by so much on each side and crop at random; default 0"},
    [OPT_FLIP] = {"flip", 0, NULL, KIND_FLAG, "train distill", NULL,
                  "mirror half of the images left to right; default off"},
    [OPT_MIXUP] = {"mixup", 0, "X", KIND_BOUND, "train distill", NULL,
                   "mix pairs of images by a share drawn from Beta(X, X); default none"},
    [OPT_FREEZE] = {"freeze", 0, "GLOB", KIND_GLOB, "train distill", NULL,
                    "leave parameters as they are whose name matches; repeatable; default none"},
    [OPT_NO_MASKS] = {"no-masks", 0, NULL, KIND_FLAG, "train distill", NULL,
                      "let pruned weights grow again; default: they stay exactly zero"},
    [OPT_SAVE_EVERY] = {"save-every", 0, "N", KIND_COUNT, "train distill", NULL,
                        "steps between states kept on the disk; default: about every 5 minutes"},
    /* ---- a teacher ---- */
    [OPT_TEACHER] = {"teacher", 0, "CKPT", KIND_TEXT, "distill", "@",
                     "the checkpoint to learn from; no default"},
    [OPT_TEACHER_ARCH] = {"teacher-arch", 0, "ARCH", KIND_TEXT, "distill", NULL,
                          "its architecture, of a plain state dict; default: what it says of "
                          "itself"},
    [OPT_TEACHER_PRECISION] = {"teacher-precision", 0, "f32|bf16", KIND_TEXT, "distill", "f32 bf16",
                               "what the teacher computes in; default `f32`"},
    [OPT_STUDENT] =
        {"student", 0, "CKPT|LxD", KIND_TEXT, "distill", "@",
         "what learns: a checkpoint, an architecture (ARCH), or a shape that is cut out "
         "of the teacher: layers x width and, with commas between, heads=H, ffn=F; no "
         "default"},
    [OPT_INIT] =
        {"init", 0, "NAME", KIND_TEXT, "distill", "subclone every-k random",
         "values of a student given by its shape: `subclone` (the teacher's features, heads "
         "and neurons of largest weights), `every-k` (whole layers), `random`; default "
         "`subclone`"},
    [OPT_LOSS] =
        {"loss", 0, "LIST", KIND_TEXT, "distill", "kl:1 kl:1,ce:0.5 kl:1,hidden:0.5",
         "losses and weights, between commas: `kl` (outputs), `ce` (labels), `hidden`, "
         "`attention`, `relation`, `feature`, `cosine`; `kl:1>0.2` goes from one weight to "
         "another; default `kl:1`, of embeddings `cosine:1`"},
    [OPT_TEMPERATURE] = {"temperature", 0, "X", KIND_TEXT, "distill", NULL,
                         "of `kl`; `4>1` goes from one to the other; default 1"},
    [OPT_DIVERGENCE] = {"divergence", 0, "NAME", KIND_TEXT, "distill", "forward reverse js",
                        "of `kl`: forward, reverse or Jensen-Shannon; default `forward`"},
    [OPT_LAYERS] = {"layers", 0, "NAME", KIND_TEXT, "distill", "uniform last skip contiguous top",
                    "which of the teacher's layers a student's learns from; default `uniform`"},
    [OPT_HIDDEN] = {"hidden", 0, "mse|cosine", KIND_TEXT, "distill", "mse cosine",
                    "how hidden states are compared; default `mse`"},
    [OPT_ATTENTION] = {"attention", 0, "NAME", KIND_TEXT, "distill", "scores probabilities",
                       "what of attention is compared; default `scores`"},
    [OPT_RELATION_HEADS] = {"relation-heads", 0, "N", KIND_COUNT, "distill", NULL,
                            "heads of `relation`; default: the teacher's where they fit"},
    [OPT_RELATION_LAYER] = {"relation-layer", 0, "N", KIND_COUNT, "distill", NULL,
                            "the teacher's layer of `relation`, from 1; default: the last"},
    [OPT_CACHE_K] = {"cache-k", 0, "K", KIND_COUNT, "distill", NULL,
                     "classes that --cache keeps of each output; default 64"},
    /* ---- retraining ---- */
    [OPT_MASKS] =
        {"masks", 0, "NAME", KIND_TEXT, "train distill", "gradual iterative rewind rigl set dense",
         "prune while training up to --sparsity: `gradual` (cubic), `iterative`, `rewind` "
         "(lottery ticket), `rigl` and `set` (drop and regrow), `dense` (sparse first); "
         "default none"},
    [OPT_ERK] = {"erk", 0, NULL, KIND_FLAG, "train distill", NULL,
                 "densities of layers by the Erdos-Renyi kernel; default: the same in all"},
    [OPT_BEGIN] = {"begin", 0, "FRACTION", KIND_FRACTION, "train distill", NULL,
                   "share of all steps after which masks begin to move; default 0"},
    [OPT_END] = {"end", 0, "FRACTION", KIND_FRACTION, "train distill", NULL,
                 "and after which they stay; default 0.75"},
    [OPT_EACH] = {"each", 0, "N", KIND_COUNT, "train distill", NULL,
                  "steps between changes of masks; default: a hundredth of all"},
    [OPT_ROUNDS] = {"rounds", 0, "N", KIND_COUNT, "train distill", NULL,
                    "of `iterative` and `rewind`; default 5"},
    [OPT_REWIND] = {"rewind", 0, "STEP", KIND_INDEX, "train distill", NULL,
                    "of `rewind`: the step whose values come back; default 0"},
    [OPT_FRACTION] = {"fraction", 0, "FRACTION", KIND_FRACTION, "train distill", NULL,
                      "of `rigl` and `set`: share that is exchanged at first; default 0.3"},
    [OPT_REVIVE] = {"revive", 0, NULL, KIND_FLAG, "train distill", NULL,
                    "of `gradual`: what went may come back until the end; default off"},
    [OPT_QAT] =
        {"qat", 0, "SCHEME", KIND_TEXT, "train distill", "w4 w8 w4g32 w8a8",
         "quantisation-aware training: learn through the rounding of this scheme, and write "
         "its integers; default none"},
    [OPT_QAT_FIXED] = {"qat-fixed", 0, NULL, KIND_FLAG, "train distill", NULL,
                       "its steps follow the largest weight and do not learn; default off"},
    [OPT_QAT_FIRST_LAST] = {"qat-first-last", 0, NULL, KIND_FLAG, "train distill", NULL,
                            "the first and the last product stay at 8 bits; default off"},
    [OPT_LORA] = {"lora", 0, "RANK", KIND_COUNT, "train distill", NULL,
                  "only low-rank factors learn; they are merged in what is written; default none"},
    [OPT_LORA_ALPHA] = {"lora-alpha", 0, "X", KIND_BOUND, "train distill", NULL,
                        "their product counts alpha/rank times; default twice the rank"},
    [OPT_ADAPTER] = {"adapter", 0, "DIR", KIND_TEXT, "train distill", "@",
                     "write the factors alone too, as peft reads them; default none"},
    [OPT_INCLUDE] =
        {"include", 0, "GLOB", KIND_GLOB, "inspect plan run prune quantize compare train distill",
         NULL,
         "work on tensors whose name matches, also where their role would leave them "
         "alone; `inspect` and `compare`: look at these only; repeatable; default: by role, "
         "or all"},
    [OPT_EXCLUDE] = {"exclude", 0, "GLOB", KIND_GLOB,
                     "inspect plan run prune quantize compare train distill", NULL,
                     "leave tensors alone whose name matches; repeatable; default none"},
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
                           "plan run prune quantize train distill eval convert compare", NULL,
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

const char *const later_options[] = {"op", NULL};

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
