#!/usr/bin/env bash
# Finds the headers of CUDA, cuBLAS, cuSOLVER, cuDNN and NCCL and prints their folder: the
# toolkit's, or those of NVIDIA's packages on PyPI, fetched once (1.8 GB, of which the headers are
# kept). Prints nothing where neither can be had, and says why on stderr: the simulated devices are
# then skipped. A toolkit without NCCL will do: then ranks on several devices are skipped.
#   tools/dev/cuda_headers.sh [--fetch]    --fetch: do not look for a toolkit
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "${1:-}" != --fetch ]; then
    nvcc=$(command -v nvcc || true)
    for folder in ${CUDA_HOME:-} ${CUDA_PATH:-} ${nvcc:+"$(dirname "$(readlink -f "$nvcc")")/.."} \
        /usr/local/cuda; do
        if [ -e "$folder/include/cublasLt.h" ] && [ -e "$folder/include/cudnn.h" ]; then
            (cd "$folder/include" && pwd)
            exit 0
        fi
    done
fi

key=$(sha256sum tests/cudasim/headers.txt | cut -c1-16)
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/pare-test-cuda
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ ! -e "$cache/$key/ready" ]; then
    echo "Fetching CUDA's headers to $cache/$key" >&2
    find "$cache" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} + # of older requirements
    mkdir -p "$cache/$key/wheels" "$cache/$key/include"
    log=$cache/$key.log
    if python3 -m venv "$cache/$key/venv" &&
        "$cache/$key/venv/bin/pip" download --disable-pip-version-check --quiet --no-deps \
            --no-cache-dir -d "$cache/$key/wheels" -r tests/cudasim/headers.txt; then
        python3 - "$cache/$key" <<'PY' && touch "$cache/$key/ready"
import pathlib, sys, zipfile
top = pathlib.Path(sys.argv[1])
for wheel in sorted((top / "wheels").glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            head, cut, tail = name.partition("/include/")
            if cut and tail and not name.endswith("/"):
                target = top / "include" / tail
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
PY
    fi >"$log" 2>&1
    rm -rf "$cache/$key/wheels" "$cache/$key/venv"
fi
if [ -e "$cache/$key/ready" ]; then
    echo "$cache/$key/include"
else
    echo "CUDA's headers are not here and could not be fetched: simulated devices are skipped" >&2
    tail -n 3 "$cache/$key.log" >&2
    rm -rf "${cache:?}/$key"
fi
