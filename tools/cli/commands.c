/* commands.c - the one table of commands; options.c has their options. Parsing, --help,
 * docs/cli.md, the man page and shell completion are made from them. */
#include "cli.h"

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
     "-o OUT [--method METHOD] [--pattern PATTERN] [--sparsity FRACTION] [--data DATA]",
     "set weights to zero, or make the model smaller",
     "Removes the weights of lowest score from the layers that the architecture calls linear or "
     "convolution; embeddings, norms, biases and the output head are left alone unless "
     "included.\n\n"
     "Methods that look at what goes into the layers need --data: some samples of what the model "
     "is for, 128 if --samples does not say. The patterns channel, head, layer and width take "
     "whole "
     "units out of the model, which is then an ordinary smaller one.",
     "pare prune model/ -o sparse/ --sparsity 0.5\n"
     "pare prune model/ -o sparse.h5 --pattern 2:4 --exclude '*.0.*'\n"
     "pare prune model/ -o sparse/ --method sparsegpt --pattern 2:4 --data calib.npy --samples 128 "
     "--seq-len 512\n"
     "pare prune model/ -o small/ --pattern head --sparsity 0.25",
     cmd_prune},
    {"quantize", "CKPT", 1, "-o OUT --scheme SCHEME [--method METHOD] [--data DATA]",
     "store weights in few bits",
     "Rounds the weights of linear layers and convolutions to few bits with scales, in the "
     "layout that transformers and vLLM load; embeddings, norms, biases and the output head are "
     "left alone unless included. Weights that are zero stay zero.\n\n"
     "Methods other than rtn, static activations and --schemes need --data: some samples of what "
     "the model is for, 128 if --samples does not say.",
     "pare quantize model/ -o model-w4/ --scheme w4g128\n"
     "pare quantize sparse.h5 -o small.h5 --scheme w4g128z --scale mse\n"
     "pare quantize model/ -o model-w4/ --method gptq --scheme w4g128 --data calib.npy\n"
     "pare quantize model/ -o mixed/ --method gptq --schemes w3g128,w4g128,w8 --bits 4.25 --data "
     "calib.npy",
     cmd_quantize},
    {"distill", "", 0,
     "--teacher CKPT --student CKPT|LxD --data DATA -o OUT (--epochs X | --steps N) [--loss LIST]",
     "train a student to imitate a teacher",
     "The student learns from what the teacher makes of the data: its outputs (`kl`), hidden "
     "states "
     "(`hidden`), attention (`attention`, `relation`), feature maps (`feature`), embeddings "
     "(`cosine`), and from labels (`ce`). A student given by its shape is cut out of the teacher. "
     "With --cache the teacher's outputs are computed once and kept on disk.\n\n"
     "All options of `train` hold, those of retraining too: a student may be pruned or quantised "
     "while it learns. A run that was cut continues as `train` does.",
     "pare distill --teacher resnet44.safetensors --teacher-arch resnet44-cifar --student "
     "resnet20-cifar --data cifar/#train --loss kl:0.9,ce:0.1 --temperature 4 --epochs 30 -o s.h5\n"
     "pare distill --teacher llama/ --student 3x64 --data text.npy --seq-len 512 --loss "
     "kl:1,hidden:0.5 --steps 2000 -o small/",
     cmd_distill},
    {"train", "CKPT|ARCH", 1, "--data DATA -o OUT (--epochs X | --steps N) [--lr X] [--batch B]",
     "supervised training and fine-tuning",
     "Learns from labelled images or rows of tokens, or from the next token of a text, and writes "
     "the model in the container that OUT names, in the source's dtypes. ARCH starts from random "
     "values of --seed. Weights that were pruned stay exactly zero.\n\n"
     "OUT.train.h5 holds the state while it runs. A run that was stopped or killed continues when "
     "the same command is given again, on as many threads and the same instruction set, and ends "
     "with the same bytes. A loss that becomes NaN stops with the step and the first bad tensor.",
     "pare train resnet20-cifar:in=1,size=28 --data /usr/share/datasets/fashion-mnist#train "
     "--epochs 5 --lr 0.1 --momentum 0.9 --optimizer sgd -o net.h5\n"
     "pare train pruned.h5 --data cifar/#train --crop 4 --flip --epochs 10 --lr 0.01 -o tuned.h5",
     cmd_train},
    {"eval", "CKPT", 1, "--data DATA [--metric LIST] [--against CKPT]",
     "perplexity, accuracy and the like on data",
     "Runs the model over the data and measures: `loss`, `ppl` (perplexity: e to the mean loss of "
     "the next token over consecutive windows, or overlapping ones with --stride), `top1`, `top5`, "
     "and against another checkpoint `kld` (mean KL divergence of its distribution from the "
     "other's, with the share of equal top choices) and `cosine` (of embeddings or logits).",
     "pare eval model/ --data wiki.npy --seq-len 2048\n"
     "pare eval w4/ --against model/ --data wiki.npy --metric ppl,kld\n"
     "pare eval net.h5 --data /usr/share/datasets/fashion-mnist#test\n"
     "pare eval resnet20.safetensors --arch resnet20-cifar --data test_batch.bin --json",
     cmd_eval},
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
    {"sweep", "SWEEP", 1, "-o DIR", "a grid of methods, sparsities and bits, measured",
     "SWEEP is a recipe in which lists stand for single values (`sparsity: [0.5, 0.7]`, `method: "
     "[magnitude, wanda]`): each spans the grid. Every point is run and measured: metrics of the "
     "last eval step, sparsity, bits, bytes, FLOPs, latency. DIR gets results.csv, results.json "
     "and report.html, one page with tables and, where gnuplot is installed, pictures.\n\n"
     "Points whose values do not go together are rows that say why; --strict refuses them. A sweep "
     "that was stopped or killed continues at the point it was in when the same command is given "
     "again. Checkpoints of points are removed once they are measured, unless the file says "
     "`sweep: { keep: true }`.",
     "pare sweep grid.yaml --plan\npare sweep grid.yaml -o sweep/", cmd_sweep},
    {"report", "RUN|DIR", 1, "[-o FILE.html|FILE.json|FILE.txt]",
     "tables and pictures of a finished run or sweep",
     "Shows the report of a run or sweep again: RUN is the run's output, or the report file "
     "itself; DIR is a sweep's folder. As .html it is one page with pictures, which gnuplot "
     "draws: errors and sparsity of layers, losses, and of a sweep what was kept against what it "
     "costs.",
     "pare report out.h5\npare report out.h5 -o report.html\npare report sweep/ -o sweep.html",
     cmd_report},
    {"bench", "", 0, "", "speed of every operation on this machine", NULL, NULL, NULL},
    {"devices", "", 0, "", "CPU features, libraries' choices, GPUs",
     "Shows the processor, the instruction sets that the kernels were compiled for and the one "
     "chosen, the libraries in use, and GPUs. PARE_ISA in the environment forces an instruction "
     "set.",
     "pare devices\nPARE_ISA=base pare devices", cmd_devices},
    {NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL},
};
