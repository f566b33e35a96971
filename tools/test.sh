#!/usr/bin/env bash
# Installs what is missing (Debian 12, Ubuntu 24.04), builds, and runs the tests.
#   tools/test.sh           the quick ones
#   tools/test.sh --all     the long ones too (hours)
# Needs no GPU, no CUDA toolkit and no test data. The CUDA half runs on simulated devices
# (docs/cudasim.md), with CUDA's headers from the toolkit or, without one, from PyPI. Tests on real
# checkpoints run where PARE_TEST_DATA names a folder that has them, and are skipped, visibly, where
# it does not.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/dev/packages.sh

labels=quick
case "${1:-}" in
"") ;;
--all) labels='quick|long' ;;
*) echo "usage: tools/test.sh [--all]" >&2; exit 2 ;;
esac
jobs=$(nproc)
say() { printf '\n== %s\n' "$*"; }

say "Packages"
# shellcheck disable=SC2086
install_packages $PARE_BUILD_PACKAGES $PARE_TEST_PACKAGES

say "Layers, style, format"
tools/dev/check_layers
tools/dev/check_style
tools/dev/format --check

say "Python and a checkpoint beside which the results are checked"
python=$(tools/dev/venv.sh)
echo "$python"
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/pare-test-models
if PYTHON=$python tools/dev/minilm.sh "$cache"; then
    export PARE_TEST_MINILM=$cache/minilm
    echo "$PARE_TEST_MINILM"
else
    echo "The checkpoint all-MiniLM-L6-v2 could not be fetched: tests on it are skipped."
fi

say "CUDA's headers"
cuda=$(tools/dev/cuda_headers.sh)
echo "${cuda:-none: simulated devices are skipped}"

say "Build: release; debug with AddressSanitizer and UBSan"
mkdir -p build
for preset in release debug; do
    cmake --preset "$preset" -DPARE_TEST_PYTHON="$python" \
        -DPARE_CUDA_INCLUDE="${cuda:-PARE_CUDA_INCLUDE-NOTFOUND}" \
        -DPARE_WERROR="${PARE_WERROR:-OFF}" >"build/$preset.log" 2>&1 ||
        { cat "build/$preset.log"; exit 1; }
    cmake --build --preset "$preset" -j "$jobs" >>"build/$preset.log" 2>&1 ||
        { grep -A20 -E 'error|FAILED' "build/$preset.log" || tail -n 40 "build/$preset.log"
          exit 1; }
done

say "Tests (test data: ${PARE_TEST_DATA:-none})"
status=0
# The sanitized build runs what is C, and the kernels on simulated devices; the release build runs
# those no second time, and the Python comparisons.
ctest --test-dir build/debug -L quick -E '^e2e_' -j "$jobs" --output-on-failure \
    >build/debug/tests.log 2>&1 || status=1
ctest --test-dir build/release -L "$labels" -E '^test_cuda_' -j "$jobs" --output-on-failure \
    >build/release/tests.log 2>&1 || status=1

for preset in debug release; do
    say "Summary of the $preset build"
    grep -vE '^(Internal ctest|Test project|test [0-9]+|[ ]*Start)' "build/$preset/tests.log" |
        sed '/^$/d'
done
exit $status
