#!/usr/bin/env bash
# The program on a CUDA device, real or simulated, beside itself on the CPU: pruning and quantising
# give the same bytes, training, measuring and methods with data the same numbers. PARE names the
# program. Exit 77 where there is no device.
. "$(dirname "$0")/../cli/lib.sh"

"$PARE" devices --device cuda >stdout.txt 2>stderr.txt || {
    echo "skipped: $(tail -n 1 stderr.txt)"
    exit 77
}

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

make good big.safetensors 96 320
prune=("$PARE" prune big.safetensors --sparsity 0.6)

# ---- the same bytes

same x.h5 "${prune[@]}"
same x.safetensors "$PARE" prune big.safetensors --pattern 2:4
same x.h5 "$PARE" prune big.safetensors --pattern block:8x16 --sparsity 0.5 --scope layer
same folder "$PARE" quantize big.safetensors --scheme w4g32z --scale mse
same x.safetensors "$PARE" quantize big.safetensors --scheme fp8t
same x.h5 "$PARE" quantize big.safetensors --scheme nf4d
same folder "$PARE" convert big.safetensors
expect 0 'the same tensors with the same values' "$PARE" compare big.safetensors cuda.folder \
    --device cuda

# ---- training and measuring

"$PYTHON" - <<'PY'
import random
import struct
rng = random.Random(5)
pixels, labels = bytearray(), bytearray()
for _ in range(256):
    label = rng.randrange(4)
    labels.append(label)
    for y in range(8):
        for x in range(8):
            lit = (y // 4) * 2 + x // 4 == label
            pixels.append(min(255, max(0, int(rng.gauss(170 if lit else 60, 30)))))
with open("train-images-idx3-ubyte", "wb") as file:
    file.write(struct.pack(">4B3I", 0, 0, 8, 3, 256, 8, 8) + pixels)
with open("train-labels-idx1-ubyte", "wb") as file:
    file.write(struct.pack(">4B1I", 0, 0, 8, 1, 256) + labels)
PY
data=(--data train-images-idx3-ubyte)
for arch in mlp:64-32-4 'cnn:8-p-16,classes=4,size=8,in=1'; do
    train=("$PARE" train "$arch" "${data[@]}" --steps 12 --batch 32 --lr 0.05 --quiet)
    for device in cuda cpu; do
        rm -f "$device.h5" "$device.h5.report.json"
        expect 0 . "${train[@]}" -o "$device.h5" --device "$device"
    done
    expect 0 . "${train[@]}" -o again.h5 --device cuda --overwrite
    cmp cuda.h5 again.h5 || fail "$arch: the device does not train the same twice"
    expect 0 'within the tolerance' "$PARE" compare cuda.h5 cpu.h5 --tolerance 1e-4
    rm -f sparse.h5*
    expect 0 . "$PARE" prune cuda.h5 -o sparse.h5 --sparsity 0.5 --device cuda
    for device in cuda cpu; do
        "$PARE" eval sparse.h5 "${data[@]}" --device "$device" --json >"$device.json" ||
            fail "eval --device $device"
    done
    "$PYTHON" - <<'PY' || fail "$arch: eval says something else on the device"
import json
a, b = (json.load(open(f"{device}.json")) for device in ("cuda", "cpu"))
assert a["predicted"]["device"].startswith("cuda:0"), a["predicted"]
assert abs(a["loss"] - b["loss"]) < 1e-4 and a["top1"] == b["top1"], (a["loss"], b["loss"])
PY
done

# ---- with data

# near SOURCE DATA... -- COMMAND...: what the command makes on the device measures as what it makes
# on the CPU.
near() {
    local source=$1 measured=()
    shift
    while [ "$1" != -- ]; do
        measured+=("$1")
        shift
    done
    shift
    for device in cuda cpu; do
        rm -f "$device.h5" "$device.h5.report.json"
        "$@" -o "$device.h5" --device "$device" --quiet >stdout.txt 2>stderr.txt ||
            fail "$* --device $device: $(tail -n 1 stderr.txt)"
        "$PARE" eval "$device.h5" --against "$source" "${measured[@]}" --device "$device" \
            --json >"$device.json" 2>stderr.txt || fail "eval: $(tail -n 1 stderr.txt)"
    done
    "$PYTHON" - <<'PY' || fail "$*: something else comes of it on the device"
import json
cuda, cpu = (json.load(open(f"{device}.json")) for device in ("cuda", "cpu"))
assert abs(cuda["loss"] - cpu["loss"]) < 0.01, (cuda["loss"], cpu["loss"])
assert abs(cuda["kld"] - cpu["kld"]) < 0.05 * cpu["kld"] + 1e-5, (cuda["kld"], cpu["kld"])
PY
    printf 'ok    %s: as on the CPU\n' "${*#"$PARE"}"
}

mv cuda.h5 cnn.h5 # of the training above
make decoder tiny 1
tokens=(--data tiny.u16 --seq-len 16)
some=(--samples 4)
recipe() { # STEP...: a recipe of them
    printf 'model: tiny\ndata: {calibration: tiny.u16, eval: tiny.u16}\nsteps:\n' >recipe.yaml
    printf '  - %s\n' "$@" >>recipe.yaml
}
with='samples: 4, seq_len: 16'
recipe "compress: {prune: {method: sparsegpt, pattern: '2:4'}, quantize: {method: gptq, scheme: \
w4g32}, $with}" 'eval: {metric: [ppl, kld], against: tiny, seq_len: 16}' 'export: {}'
near tiny "${tokens[@]}" -- "$PARE" run recipe.yaml
recipe "prune: {method: wanda, pattern: '2:4', $with}" "quantize: {method: gptq, scheme: w4g32, \
$with}"
near tiny "${tokens[@]}" -- "$PARE" run recipe.yaml
quantize=("$PARE" quantize tiny "${tokens[@]}" "${some[@]}")
near tiny "${tokens[@]}" -- "${quantize[@]}" --method awq --scheme w4g32
near tiny "${tokens[@]}" -- "${quantize[@]}" --method smoothquant --scheme w8a8s
near tiny "${tokens[@]}" -- "${quantize[@]}" --schemes w3g32,w4g32,w8 --bits 5 --method gptq
near tiny "${tokens[@]}" -- "$PARE" prune tiny --pattern channel --sparsity 0.25 --method taylor \
    "${tokens[@]}" "${some[@]}"

near cnn.h5 "${data[@]}" -- "$PARE" prune cnn.h5 --method sparsegpt --sparsity 0.5 "${data[@]}" \
    --samples 24
finish
