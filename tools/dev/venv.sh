#!/usr/bin/env bash
# Makes the Python environment that tests/e2e compares pare with (tests/requirements.txt), once,
# outside the tree, and prints its interpreter. Where that cannot be done (no network, no pip) it
# prints the system's python3 instead and says why on stderr: the tests that need more are then
# skipped, visibly.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=/usr/bin/python3
[ -x "$python" ] || python=$(command -v python3)

key=$({ cat tests/requirements*.txt tests/e2e/torch_on_cpu.py; "$python" -VV; } |
    sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/pare-test-venv
venv=$cache/$key
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9

if [ ! -e "$venv/ready" ]; then
    find "$cache" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} + # of older requirements
    echo "Making the tests' Python environment in $venv (about 1.6 GB)" >&2
    log=$cache/$key.log
    pip=("$venv/bin/pip" install --disable-pip-version-check --quiet --no-cache-dir --no-compile
        --no-deps)
    if "$python" -m venv "$venv" &&
        "${pip[@]}" -r tests/requirements.txt &&
        "${pip[@]}" --target "$venv/dense" -r tests/requirements_dense.txt &&
        "$venv/bin/python" tests/e2e/torch_on_cpu.py; then
        touch "$venv/ready"
    fi >"$log" 2>&1
fi
if [ -e "$venv/ready" ]; then
    echo "$venv/bin/python"
else
    echo "The environment could not be made; tests beside numpy and transformers are skipped:" >&2
    tail -n 3 "$log" >&2
    rm -rf "$venv"
    echo "$python"
fi
