#!/usr/bin/env bash
# The program on simulated devices: that are not there, that fail in mid-run, that are too small;
# what a device began the CPU ends, with the same bytes. PARE is a pare over the simulator.
. "$(dirname "$0")/../cli/lib.sh"

# same NAME COMMAND...: the command's output is the same file from --device cuda and --device cpu.
same() {
    local name=$1 out
    shift
    for device in cuda cpu; do
        out="$device.${name##*.}"
        rm -rf "$out" "$out.report.json"
        "$@" -o "$out" --device "$device" --quiet >stdout.txt 2>stderr.txt ||
            fail "$* --device $device: $(tail -n 1 stderr.txt)"
    done
    diff -r "cuda.${name##*.}" "cpu.${name##*.}" || fail "$*: the device's bytes are others"
    printf 'ok    %s: the same bytes\n' "${*#"$PARE"}"
}

# finish_on_cpu COMMAND...: ends what the device left, with the bytes that the CPU alone made.
finish_on_cpu() {
    "$@" -o out.h5 --device cpu --quiet >stdout.txt 2>stderr.txt ||
        fail "$* --device cpu: $(tail -n 1 stderr.txt)"
    cmp out.h5 want.h5 || fail "$*: ended on the CPU, with other bytes"
    [ ! -e out.h5.part ] && [ ! -e out.h5.journal ] || fail "$*: left a part behind"
    rm -f out.h5 out.h5.report.json
}

# ---- devices

expect 0 'cuda:1 simulated device, compute capability 9.0' "$PARE" devices
expect 0 '"driver": "13.0"' "$PARE" devices --json
CUDASIM_DEVICES=0 expect 0 'note *this machine has no CUDA device' "$PARE" devices
CUDASIM_DRIVER=none expect 0 'note *this machine has no NVIDIA driver' "$PARE" devices
CUDASIM_DRIVER=old expect 1 'driver supports CUDA up to .* needs' "$PARE" devices --device cuda

make good big.safetensors 96 320
prune=("$PARE" prune big.safetensors --sparsity 0.6)
CUDASIM_DRIVER=old refuse 1 'update the driver, or use --device cpu' "${prune[@]}" -o out \
    --device cuda
CUDASIM_DEVICES=0 refuse 1 'no CUDA device: use --device cpu' "${prune[@]}" -o out --device cuda:0
refuse 1 'no device cuda:2: this machine has 2' "${prune[@]}" -o out --device cuda:2
CUDASIM_DRIVER=none expect 0 '"device": "cpu"' "${prune[@]}" -o auto.h5 --json # auto: no device
expect 0 'on cuda:0 simulated' "${prune[@]}" -o auto.h5 --overwrite
rm -f auto.h5 auto.h5.*

# ---- faults: the n-th allocation, a kernel, the device itself

rm -f want.h5*
"${prune[@]}" -o want.h5 --device cpu --quiet >stdout.txt || fail 'no reference'
struck=0
for n in $(seq 1 40); do
    CUDASIM_FAIL_ALLOC=$n "${prune[@]}" -o out.h5 --device cuda >stdout.txt 2>stderr.txt
    code=$?
    [ $code -eq 0 ] && rm -f out.h5 out.h5.report.json && continue
    struck=$((struck + 1))
    [ $code -eq 4 ] || fail "allocation $n: exit $code: $(cat stderr.txt)"
    grep -q 'device' stderr.txt || fail "allocation $n: $(cat stderr.txt)"
    finish_on_cpu "${prune[@]}"
done
[ $struck -ge 3 ] || fail "only $struck allocations were seen to fail"

# How often a run must be spared before a fault no longer strikes it: twice what it takes at least.
spared() {
    local n=8
    while ! env "CUDASIM_$1=$n" "${prune[@]}" -o out.h5 --device cuda >stdout.txt 2>stderr.txt; do
        rm -rf out.h5*
        n=$((n * 2))
    done
    rm -f out.h5 out.h5.report.json
    echo $n
}

kept=0 struck_too=0
for fault in FAIL_LAUNCH LOSE; do
    most=$(spared $fault)
    for part in 1 6 8 10 11 12 13 14 15; do
        n=$((1 + most * part / 16))
        env "CUDASIM_$fault=$n" "${prune[@]}" -o out.h5 --device cuda >stdout.txt 2>stderr.txt
        code=$?
        [ $code -eq 0 ] && rm -f out.h5 out.h5.report.json && continue
        struck_too=$((struck_too + 1))
        [ $code -eq 1 ] || fail "$fault=$n: exit $code: $(cat stderr.txt)"
        grep -q -- '--device cpu' stderr.txt || fail "$fault=$n: no remedy: $(cat stderr.txt)"
        [ ! -e out.h5 ] || fail "$fault=$n: something lies under the final name"
        kept=$((kept + $(grep -c 'the same command continues' stderr.txt)))
        finish_on_cpu "${prune[@]}"
    done
done
[ $kept -ge 3 ] || fail "only $kept of $struck_too faults left a part to go on from"
printf 'ok    %d allocations and %d other faults, each ended on the CPU\n' $struck $struck_too

# ---- a checkpoint larger than the device, and work that no part of it can hold

make good large.safetensors 1000 900
[ "$(stat -c %s large.safetensors)" -gt $((13 << 19)) ] || fail 'large is not large'
export CUDASIM_MEMORY=$((6 << 20))
same x.safetensors "$PARE" quantize large.safetensors --scheme w8
expect 0 'device memory budget 5.50 MiB' "$PARE" quantize large.safetensors --scheme w8 --plan \
    -o out --device-memory 5632K
export CUDASIM_MEMORY=$((4 << 20))
refuse 4 'may be used; .*--device cpu' "$PARE" quantize large.safetensors --scheme w8 -o out \
    --device cuda
unset CUDASIM_MEMORY

# A training that a kernel ends names the kernel, not what failed after it.
"$PYTHON" - <<'PY'
import struct
with open("train-images-idx3-ubyte", "wb") as file:
    file.write(struct.pack(">4B3I", 0, 0, 8, 3, 64, 8, 8) + bytes(i * 7 % 251 for i in range(4096)))
with open("train-labels-idx1-ubyte", "wb") as file:
    file.write(struct.pack(">4B1I", 0, 0, 8, 1, 64) + bytes(i % 4 for i in range(64)))
PY
for n in 40 60 80; do
    CUDASIM_FAIL_LAUNCH=$n expect 1 'kernel|cudaStreamSynchronize' "$PARE" train \
        'cnn:8-p-16,classes=4,size=8,in=1' --data train-images-idx3-ubyte --steps 4 --batch 32 \
        -o "train$n.h5" --device cuda --quiet
    ! grep -q 'cudaSetDevice' stderr.txt || fail "launch $n: the first failure's sentence is lost"
done

# The least that a conversion begins with is enough for reading its result back.
expect 0 '"device_budget": 5242880' "$PARE" convert big.safetensors -o least.h5 --device cuda \
    --device-memory 5M --json

# A conversion that was written but could not be read back says so, and the CPU does it.
"$PARE" convert big.safetensors -o want.h5 --overwrite --device cpu --quiet >stdout.txt
unread=0
for n in $(seq 1 40); do
    CUDASIM_FAIL_ALLOC=$n "$PARE" convert big.safetensors -o out.h5 --device cuda >stdout.txt \
        2>stderr.txt && rm -f out.h5* && continue
    if [ -e out.h5 ]; then
        grep -q 'written but was not read back' stderr.txt || fail "$n: $(cat stderr.txt)"
        unread=$((unread + 1))
    fi
    finish_on_cpu "$PARE" convert big.safetensors
done
[ $unread -ge 1 ] || fail 'no read-back was seen to fail'

# ---- with data: what the device began it alone goes on with, to the same bytes

make decoder tiny 1
gptq=("$PARE" quantize tiny --method gptq --scheme w4g32 --data tiny.u16 --seq-len 16 --samples 6)
refuse 4 'cuda:0 .*it needs .* may be used' "${gptq[@]}" -o out.h5 --device cuda \
    --device-memory 64M
[ -z "$(ls -d out.* 2>/dev/null)" ] || fail "a refusal for memory left $(ls -d out.*)"
expect 0 . "${gptq[@]}" -o walked.h5 --device cuda --quiet
for fault in FAIL_ALLOC=12:4 FAIL_ALLOC=30:4 FAIL_LAUNCH=60:1 FAIL_LAUNCH=200:1 LOSE=900:1; do
    rm -rf out.h5*
    env "CUDASIM_${fault%:*}" "${gptq[@]}" -o out.h5 --device cuda --quiet >stdout.txt 2>stderr.txt
    code=$?
    [ $code -eq "${fault#*:}" ] || fail "$fault: exit $code: $(cat stderr.txt)"
    [ "$(grep -c . stderr.txt)" -eq 1 ] || fail "$fault: not one sentence: $(cat stderr.txt)"
    [ ! -e out.h5 ] || fail "$fault: something lies under the final name"
    [ ! -d out.h5.walk ] || [ ! -e out.h5.journal ] || expect 2 'was begun with .*simulated' \
        "${gptq[@]}" -o out.h5 --device cpu
    expect 0 . "${gptq[@]}" -o out.h5 --device cuda --quiet
    cmp out.h5 walked.h5 || fail "$fault: continued, with other bytes"
    [ "$(ls -d out.h5* | tr '\n' ' ')" = 'out.h5 out.h5.report.json ' ] ||
        fail "$fault: left $(ls -d out.*)"
done

finish
