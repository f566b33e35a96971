#!/usr/bin/env bash
# Data, models and options that calibrated methods cannot work with: the exit code, and one sentence
# that says what and where; and those that are unusual but sound.
. "$(dirname "$0")/lib.sh"
make llama model
make tokens tokens.u16 1025
run=(--data tokens.u16 --seq-len 32 --samples 32 --threads 1)
gptq=(quantize model -o out --method gptq --scheme w4g32)
expect 0 'by data' "$PARE" "${gptq[@]}" "${run[@]}"

# Data that is not there, not enough, not of this model.
: >empty.u16
refuse 3 'empty\.u16' "$PARE" "${gptq[@]}" --data empty.u16 --seq-len 32
make tokens few.u16 30
refuse 2 'few\.u16.*(windows|tokens)' "$PARE" "${gptq[@]}" --data few.u16 --seq-len 32
make tokens odd.u16 1025 900
refuse 3 'odd\.u16.*900.*position 100.*63' "$PARE" "${gptq[@]}" --data odd.u16 \
    --seq-len 32 --samples 32
refuse 2 'tokens\.u16 has 32 windows.*33' "$PARE" "${gptq[@]}" --data tokens.u16 --seq-len 32 \
    --samples 33
refuse 3 'nowhere' "$PARE" "${gptq[@]}" --data nowhere
refuse 2 'data' "$PARE" "${gptq[@]}"
refuse 2 'data' "$PARE" prune model -o out --method wanda --sparsity 0.5
refuse 2 'data' "$PARE" prune model -o out --method taylor --sparsity 0.5
make images data
refuse 2 'idx3.*\[64, 8, 8\].*tokens' "$PARE" "${gptq[@]}" --data data-images-idx3-ubyte
expect 0 . "$PARE" train mlp:64-48-4 --data data-images-idx3-ubyte --steps 2 -o net.h5 \
    --threads 1
cp data-images-idx3-ubyte bare-idx3-ubyte
refuse 2 'labels' "$PARE" prune net.h5 -o out --method taylor --sparsity 0.5 \
    --data bare-idx3-ubyte --samples 16

# Weights that are no numbers: which tensor, row and column.
make llama nan nan
for method in "quantize --method gptq --scheme w4g32" "quantize --method awq --scheme w4g32" \
    "prune --method wanda --pattern 2:4" "prune --method sparsegpt --sparsity 0.5"; do
    set -- $method
    refuse 3 'layers\.0\.mlp\.up_proj\.weight.*NaN.*row 2.*column 7' "$PARE" "$1" nan -o out \
        "${@:2}" "${run[@]}"
done

# Inputs that are always 0, one sample: done, and the report says what was done instead.
make llama zero zero
expect 0 'zero|0' "$PARE" "${gptq[@]/model/zero}" "${run[@]}" --overwrite
expect 0 'rounded to nearest' "$PARE" report out --json
for pattern in "--pattern 2:4" "--sparsity 0.5"; do
    rm -rf out
    expect 0 'pruned by magnitude: all inputs are zero' "$PARE" prune zero -o out --method wanda \
        $pattern "${run[@]}" --json
done
make llama huge huge
for method in "prune --method wanda --sparsity 0.5" "prune --method sparsegpt --pattern 2:4" \
    "quantize --method gptq --scheme w4g32" "quantize --method awq --scheme w4g32" \
    "quantize --method smoothquant --scheme w8a8s"; do
    set -- $method
    rm -rf out
    expect 0 'hold NaN or Inf' "$PARE" "$1" huge -o out "${@:2}" "${run[@]}" --json
    expect 0 . "$PARE" inspect out --stats --json
    grep -qE '"(nans|infs)": *[1-9]' stdout.txt && fail "$method: values that are not finite"
done
expect 0 . "$PARE" quantize model -o one --method gptq --scheme w4g32 --data tokens.u16 \
    --seq-len 32 --samples 1 --threads 1
expect 0 . "$PARE" prune model -o one-p --method sparsegpt --pattern 2:4 --data tokens.u16 \
    --seq-len 32 --samples 1 --threads 1

# Memory that holds no layer: how much it would take.
refuse 4 '[0-9] [KM]iB' "$PARE" "${gptq[@]}" "${run[@]}" --memory 64K

# An output that exists.
expect 0 . "$PARE" quantize model -o there --method awq --scheme w4g32 "${run[@]}"
expect 2 'there exists' "$PARE" quantize model -o there --method awq --scheme w4g32 "${run[@]}"
expect 0 . "$PARE" quantize model -o there --method awq --scheme w4g32 "${run[@]}" --overwrite

# What does not fit a layer falls back, or is refused.
expect 0 'w4 |channel|fallback' "$PARE" quantize model -o fallback --method gptq --scheme w4g24 \
    "${run[@]}"
refuse 2 'divide|fit|multiple' "$PARE" quantize model -o out --method gptq --scheme w4g24 \
    "${run[@]}" --strict
expect 0 'dense|fallback' "$PARE" prune model -o dense --method wanda --pattern 3:7 "${run[@]}"
refuse 2 'divide|fit|multiple' "$PARE" prune model -o out --method wanda --pattern 3:7 \
    "${run[@]}" --strict

expect 0 'scales of scales: done without data' "$PARE" quantize model -o nested --method gptq \
    --scheme nf4d "${run[@]}"
refuse 2 'scales of scales.*strict' "$PARE" quantize model -o out --method gptq --scheme nf4d \
    "${run[@]}" --strict

# What does not go together.
refuse 2 'gptq' "$PARE" quantize model -o out --method rtn --scheme w4 --act-order
refuse 2 'block' "$PARE" prune model -o out --method wanda --pattern block:4x4 --sparsity 0.5 \
    "${run[@]}"
cat >order.yaml <<Y
model: model
data: { calibration: tokens.u16 }
steps:
  - compress:
      prune:    { method: sparsegpt, pattern: "2:4" }
      quantize: { method: gptq, scheme: w4g32, act_order: true }
      samples: 32
      seq_len: 32
  - export: { to: out }
Y
refuse 2 'act_order' "$PARE" run order.yaml
cat >late.yaml <<Y
model: model
data: { calibration: tokens.u16 }
steps:
  - quantize: { method: gptq, scheme: w4g32, samples: 32, seq_len: 32 }
  - prune:    { method: wanda, pattern: "2:4", samples: 32, seq_len: 32 }
  - export: { to: out }
Y
refuse 2 'late\.yaml:5:.*before' "$PARE" run late.yaml
sed 's/method: gptq/method: gptg/; s/seq_len: 32 }/seq_len: long }/' late.yaml >bad.yaml
expect 2 'bad\.yaml:4:.*gptq' "$PARE" run bad.yaml
[ ! -e out.steps ] && [ ! -e out.walk ] || fail "a refused recipe left something"
finish
