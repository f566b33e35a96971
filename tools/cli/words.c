/* words.c - the manual's words, exit codes and sections: what is not a command or an option. */
#include "cli.h"

const struct word_row word_rows[] = {
    {"CKPT",
     "a checkpoint: a Hugging Face directory (`config.json` and `*.safetensors`, sharded or "
     "not), one .safetensors file, or one .h5 file of pare. Recognised by content, not by "
     "name."},
    {"OUT",
     "X.h5, X.safetensors, or anything else: a Hugging Face directory, with config, tokenizer "
     "and generation files carried along and quantization_config written, which transformers and "
     "vLLM load."},
    {"SCHEME",
     "`w<2..8>[t|c|g<N>|b<R>x<C>][z][a8[s|d]]`: bits; one scale per tensor, output channel "
     "(default), group of N inputs, or block; z: zero points; a8: int8 activations per token, a8s: "
     "with one scale that --data tells. "
     "w8, w4g128, w4g128z, w8a8, w4b16x16. Also `fp8[t|c][a8[s|d]]` and `nf4[c|d]` (blocks of "
     "64; c: one scale per output channel; d: double quantisation)."},
    {"PATTERN",
     "unstructured; N:M, N of every M weights of a row stay (its sparsity is 1 - N/M); "
     "block:RxC, blocks of R rows and C columns go together. These make the model smaller: "
     "channel, neurons of feed-forward layers or channels of convolutions; head, "
     "attention heads (of grouped queries a key head with its query heads); layer, whole "
     "blocks; width, features of the hidden state."},
    {"METHOD",
     "to prune: magnitude, random; with --data wanda (|w| by the size of its input), sparsegpt "
     "(column by column, the others make up for it), taylor and fisher (by gradients of the loss). "
     "To quantize: rtn (to nearest); with --data gptq (column by column, the others make up for "
     "it), awq (scales of inputs by their mean size), smoothquant (scales for 8-bit activations), "
     "imatrix (to nearest, errors weighted by the inputs)."},
    {"FORMAT", "dense, int-quantized, sparse-bitmask or nf4."},
    {"ARCH",
     "an architecture of a plain state dict, `NAME[:key=value,…]`: `resnet20-cifar` (32, 44, 56, "
     "110), `resnet18`, `resnet34`, `resnet50`, `resnet8-tiny`, `vit:patch=4,dim=128,…`, "
     "`mlp:784-256-10`, `cnn:…`. It brings its preprocessing of images; --scale, --mean and --std "
     "override that. An .h5 remembers both."},
    {"DATA",
     "`[FORMAT:]PATH[#SPLIT]`, FORMAT one of tokens, cifar, idx, npy, h5 where the content does "
     "not tell. Tokens: .npy, or raw .u16 or .u32; without labels they are cut into consecutive "
     "windows of --seq-len predictions, with --labels into rows. Images: IDX (also gzipped), CIFAR "
     "binary, .npy, or a folder of such files with #train or #test; #NAME of an .h5 is a dataset."},
    {"SIZE", "bytes, or with K, M, G or T behind the number: powers of 1024."},
    {"GLOB", "a pattern of the shell over a tensor's whole name; `*` also matches dots. Quote it: "
             "`'*.mlp.*'`."},
    {NULL, NULL},
};

const struct word_row exit_rows[] = {
    {"0", "done"},
    {"1",
     "the work failed (disk full, NaN loss, lost device), or compare found a difference past the "
     "tolerance"},
    {"2", "the command line, the recipe, or an option that does not fit this model"},
    {"3", "an input file is missing, damaged or not supported"},
    {"4", "the memory budget or the device cannot hold the work"},
    {"5", "interrupted; the same command continues"},
    {NULL, NULL},
};

const struct word_row manual_rows[] = {
    {"Roles",
     "What a tensor is for comes from the architecture that config.json names. In an unknown "
     "state dict a tensor of two or more dimensions is a layer, unless its name matches "
     "`*emb*`, `*norm*`, `*lm_head*`, `*classifier*` or `*.fc.*`. `pare inspect` prints role "
     "and reason. Layers are worked on; embeddings, norms, biases and the output head are "
     "left alone unless included.\n\n"
     "Where a scheme or pattern does not fit a layer (N does not divide the row, a row is no "
     "multiple of M) the layer falls back to per-channel scales, or stays dense, and the "
     "report says so; --strict makes it an error. A convolution [O, I, kh, kw] is a matrix O "
     "× (I·kh·kw); N:M runs along I."},
    {"Output",
     "Results go to stdout, everything else to stderr. On a terminal long work shows one line "
     "of progress; in a pipe it logs a line now and then. Ctrl-C stops cleanly, a second one "
     "at once. An output that exists is refused unless --overwrite is given; a failed command "
     "leaves nothing under its final name."},
    {"Recipe",
     "A recipe is a YAML file. Paths in it are relative to the folder where pare is called.\n\n"
     "    model: Qwen2.5-0.5B/\n"
     "    seed: 1\n"
     "    data: { calibration: calib.npy, eval: wiki.npy }\n"
     "    steps:\n"
     "      - compress:\n"
     "          prune:    { method: sparsegpt, pattern: \"2:4\" }\n"
     "          quantize: { method: gptq, scheme: w4g128 }\n"
     "          samples: 128\n"
     "          seq_len: 2048\n"
     "      - eval:     { metric: [ppl, kld], against: Qwen2.5-0.5B/ }\n"
     "      - export:   { to: out/ }\n\n"
     "`model` (a checkpoint) and `steps` are needed. `arch` names the architecture of a plain "
     "state "
     "dict; `seed` is 0 if not given; `data` has what all steps read: `calibration` with `labels`, "
     "and `eval` with `eval_labels`. The steps:\n\n"
     "    prune:    method    METHOD, default magnitude\n"
     "              pattern   PATTERN, default unstructured\n"
     "              sparsity  0 to 1, needed, but refused beside N:M\n"
     "              scope     global (default; of wanda and sparsegpt layer) or layer\n"
     "              budget    uniform, global; of wanda and sparsegpt also owl, loss\n"
     "              multiple  of channel, head and width: what is left is a multiple of it\n"
     "              damping   of sparsegpt, default 0.01\n"
     "              include, exclude   a GLOB or a list of them; put them in quotes\n"
     "    quantize: method    METHOD, default rtn\n"
     "              scheme    SCHEME, needed, or\n"
     "              schemes   a list, of which each layer gets one, with\n"
     "              bits or bytes      that all may have, and\n"
     "              sensitivity        kld (default) or output: what harm is\n"
     "              scale     absmax (default), mse; of static activations percentile:P, kl\n"
     "              damping, act_order of gptq, default 0.01 and false\n"
     "              alpha     of smoothquant, default 0.5\n"
     "              grid, clip         of awq, default 20 and true\n"
     "              include, exclude   as above\n"
     "    compress: prune, quantize    as above (or lists of such), in one step: sparsegpt and\n"
     "              gptq are one sweep\n"
     "              include, exclude   for both, if they have none of their own\n"
     "    each of these, where its method looks at data:\n"
     "              data, labels       DATA and its labels, default those of all steps\n"
     "              samples   default 128\n"
     "              seq_len, pad_id, batch     default by model and data\n"
     "              skip      default 0\n"
     "              shuffle   default false\n"
     "              propagate compressed (default) or dense: what the next block sees\n"
     "              true_sequential    default true: each layer sees what those before became\n"
     "              compute   f32 (default) or bf16\n"
     "              errors    default false: measure each layer's output also for wanda\n"
     "              cache     a folder that keeps the statistics for the next time\n"
     "    eval:     data, labels       default those of all steps\n"
     "              metric    one of ppl, loss, top1, top5, kld, cosine or a list of them\n"
     "              against   CKPT that kld and cosine compare with\n"
     "              samples, seq_len, skip, batch\n"
     "    export:   to        OUT; -o on the command line goes before it\n"
     "              format    FORMAT, default what the values need\n"
     "              max_shard_size     SIZE, default 5G\n\n"
     "Steps are done in their order; neighbours that need no data are one pass over the tensors. "
     "What lies between two steps is an .h5 in OUT.steps, removed at the end; the same command "
     "continues a run that was cut at the step it was in. Prune steps come before quantize steps; "
     "export is the last. Several steps of a kind may work on different tensors, but in one pass "
     "not on the same. --seed replaces the recipe's seed; --include and --exclude are added to "
     "every step. --trace writes FILE.1, FILE.2 and so on, one for each step.\n\n"
     "Unknown keys, wrong types and impossible values are all reported at once, each with line, "
     "column and the nearest valid word, before any work starts."},
    {"Environment",
     "PARE_ISA: the instruction set to use (base, avx2, avx512), for tests; results do not "
     "depend on it."},
    {NULL, NULL},
};
