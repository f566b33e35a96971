#!/usr/bin/env bash
# Runs a test program under a tool of compute-sanitizer: sanitize.sh TOOL PROGRAM [ARGUMENT...].
# Exit 77 where the sanitizer is missing, or does not take this machine's device.
set -euo pipefail
tool=$1
shift
sanitizer=${PARE_COMPUTE_SANITIZER:-$(command -v compute-sanitizer ||
    ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)}
if [ -z "$sanitizer" ]; then
    echo "skipped: compute-sanitizer is not installed"
    exit 77
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
"$sanitizer" --tool "$tool" --error-exitcode 99 --print-limit 20 "$@" >"$log" 2>&1 || status=$?
cat "$log"
if grep -q -e 'Device not supported' -e 'Unable to find injection library' "$log"; then
    echo "skipped: compute-sanitizer does not take this device"
    exit 77
fi
exit $status
