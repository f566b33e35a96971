#!/usr/bin/env bash
# pare, numpy and torch do the same jobs, file to file, in one run beside the bare pipeline (the
# same bytes read and written by the same threads and nothing else). The input is warm in the page
# cache, every output is a fresh file. One row a job and program: the median of N runs, and the
# ratio to pare.
#   bench/peers/run_side_by_side.sh [LAYERS]        16 layers: 3.1 GiB
# Environment: PARE and PIPELINE (programs, default build/release), PYTHON (with numpy and torch),
# THREADS (2), RUNS (5), WORK (a folder with room for three times the input), LLAMA_QUANTIZE and
# LLAMA_GGUF (a llama.cpp program and an f32 model of the same size: measured too where both are
# set).
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
PARE=${PARE:-$top/build/release/pare}
PIPELINE=${PIPELINE:-$top/build/release/bench/pare_bench_pipeline}
PYTHON=${PYTHON:-$("$top/tools/dev/venv.sh")}
THREADS=${THREADS:-2}
RUNS=${RUNS:-5}
layers=${1:-16}
work=${WORK:-$(mktemp -d)}
results=$top/bench/results/side_by_side.csv
export OMP_NUM_THREADS=$THREADS

mkdir -p "$work" "$(dirname "$results")"
model=$work/model-$layers.safetensors
[ -e "$model" ] || "$PYTHON" "$top/bench/peers/make_model.py" "$model" "$layers"
bytes=$(stat -c %s "$model")
machine=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)
cat "$model" >/dev/null

# median of the numbers on stdin
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# Two medians of RUNS runs of a command that writes $work/out*: its own seconds, and its seconds
# until the output is on the disk (pare syncs before it ends, the others do not). A Python peer
# prints its own time, its imports left out.
measure() {
    local own=() synced=() began ended run
    for ((run = 0; run < RUNS; run++)); do
        rm -rf "$work"/out*
        began=$EPOCHREALTIME
        "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; return 1; }
        ended=$EPOCHREALTIME
        own+=("$(sed -n 's/^seconds: //p' "$work/log" | grep . ||
            awk "BEGIN { print $ended - $began }")")
        began=$EPOCHREALTIME
        sync "$work"/out*
        ended=$EPOCHREALTIME
        synced+=("$(awk "BEGIN { print ${own[-1]} + $ended - $began }")")
    done
    printf '%s\n' "${own[@]}" | median
    printf '%s\n' "${synced[@]}" | median
}

# row JOB PROGRAM OWN SYNCED: keeps it; ours[] are pare's two times, that ratios are taken to
ours=(1 1)
row() {
    local written
    written=$(du -scb "$work"/out* | tail -n 1 | cut -f 1)
    awk -v job="$1" -v who="$2" -v a="$3" -v b="$4" -v n="$bytes" -v w="$written" \
        -v oa="${ours[0]}" -v ob="${ours[1]}" -v t="$THREADS" -v m="$machine" \
        -v d="$(date +%F)" 'BEGIN {
        printf "%s,%s,%.3f,%.3f,%.2f,%.2f,%.2f,%.2f,%.0f,%.0f,%d,\"%s\",%s\n", job, who, a, b,
               n / a / 1e9, n / b / 1e9, a / oa, b / ob, n, w, t, m, d }' | tee -a "$results"
}

if [ ! -e "$results" ]; then
    {
        printf 'job,program,seconds,seconds_to_disk,GB_per_s,GB_per_s_to_disk,'
        printf 'times_pare,times_pare_to_disk,input_bytes,output_bytes,threads,cpu,date\n'
    } >"$results"
fi

# peer JOB PROGRAM COMMAND...
peer() {
    local times
    mapfile -t times < <(measure "${@:3}")
    [ ${#times[@]} -eq 2 ] || return 1
    [ "$2" != pare ] || ours=("${times[@]}")
    row "$1" "$2" "${times[@]}"
}

job() {
    local name=$1 ratio module
    shift
    peer "$name" pare "$PARE" "$@" --include '*' -o "$work/out.safetensors" --threads "$THREADS" \
        --quiet
    ratio=$(awk "BEGIN { print $(stat -c %s "$work/out.safetensors") / $bytes }")
    if [ -x "$PIPELINE" ]; then
        peer "$name" "bare pipeline" "$PIPELINE" "$model" "$work/out.bin" "$ratio" "$THREADS"
    fi
    for module in numpy torch; do
        "$PYTHON" -c "import $module" 2>/dev/null || continue
        RUNS=3 peer "$name" "$module" "$PYTHON" "$top/bench/peers/peer_$module.py" "$name" \
            "$model" "$work/out.safetensors"
    done
}

llama() {
    [ -n "${LLAMA_QUANTIZE:-}" ] && [ -n "${LLAMA_GGUF:-}" ] || return 0
    cat "$LLAMA_GGUF" >/dev/null
    bytes=$(stat -c %s "$LLAMA_GGUF") peer "$1" "llama-quantize $2" "$LLAMA_QUANTIZE" --pure \
        "$LLAMA_GGUF" "$work/out.gguf" "$2" "$THREADS"
}

job w4g128 quantize "$model" --method rtn --scheme w4g128
llama w4g128 Q4_0
job w8 quantize "$model" --method rtn --scheme w8
llama w8 Q8_0
job 2:4 prune "$model" --method magnitude --pattern 2:4
job global50 prune "$model" --method magnitude --sparsity 0.5 --scope global
rm -rf "$work"/out* "$work/log"
