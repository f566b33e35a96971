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
     "(default), group of N inputs, or block; z: zero points; a8: int8 activations per token. "
     "w8, w4g128, w4g128z, w8a8, w4b16x16. Also `fp8[t|c][a8[s|d]]` and `nf4[c|d]` (blocks of "
     "64; c: one scale per output channel; d: double quantisation)."},
    {"PATTERN", "unstructured; N:M, N of every M weights of a row stay (its sparsity is 1 - N/M); "
                "block:RxC, blocks of R rows and C columns go together."},
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
     "    steps:\n"
     "      - prune:    { method: magnitude, pattern: \"2:4\" }\n"
     "      - quantize: { method: rtn, scheme: w4g128, scale: mse, exclude: [\"*.0.*\"] }\n"
     "      - export:   { to: out/ }\n\n"
     "`model` (a checkpoint) and `steps` are needed; `seed` is 0 if not given; `data` with "
     "`calibration` and `eval` is accepted, though no step of this version reads data. The steps:"
     "\n\n"
     "    prune:    method    magnitude (default) or random\n"
     "              pattern   PATTERN, default unstructured\n"
     "              sparsity  0 to 1, needed for unstructured and block, refused beside N:M\n"
     "              scope     global (default) or layer\n"
     "              include, exclude   a GLOB or a list of them; put them in quotes\n"
     "    quantize: method    rtn (default)\n"
     "              scheme    SCHEME, needed\n"
     "              scale     absmax (default) or mse\n"
     "              include, exclude   as above\n"
     "    compress: prune, quantize    as above, in one step\n"
     "              include, exclude   for both, if they have none of their own\n"
     "    export:   to        OUT; -o on the command line goes before it\n"
     "              format    FORMAT, default what the values need\n"
     "              max_shard_size     SIZE, default 5G\n\n"
     "Prune steps come before quantize steps; export is the last. Several steps of a kind may "
     "work on different tensors, but not on the same. --seed replaces the recipe's seed; "
     "--include and --exclude are added to every step.\n\n"
     "Unknown keys, wrong types and impossible values are all reported at once, each with line, "
     "column and the nearest valid word, before any work starts."},
    {"Environment",
     "PARE_ISA: the instruction set to use (base, avx2, avx512), for tests; results do not "
     "depend on it."},
    {NULL, NULL},
};
