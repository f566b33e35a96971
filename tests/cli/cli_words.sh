#!/usr/bin/env bash
# The command line itself: help, version, pages, wrong words, exit codes.
. "$(dirname "$0")/lib.sh"
make good good.safetensors

expect 0 'inspect' "$PARE" --help
expect 0 '[0-9]+\.[0-9]+' "$PARE" --version
"$PARE" --man >man.txt
for shell in bash zsh fish; do "$PARE" --completion "$shell" >"completion.$shell"; done
for command in inspect plan prune quantize convert compare run devices report; do
    expect 0 "$command" "$PARE" "$command" --help
    for shell in bash zsh fish; do
        grep -q "$command" "completion.$shell" || fail "$command is not in $shell's completion"
    done
    grep -q "$command" man.txt || fail "$command is not in the man page"
done
bash -n completion.bash || fail "bash does not read its completion"
grep -q '^\.TH' man.txt || fail "no man page"

refuse 2 'quantize' "$PARE" quantise good.safetensors -o out
refuse 2 'scheme' "$PARE" quantize good.safetensors -o out --method rtn --shceme w8
refuse 2 'w9' "$PARE" quantize good.safetensors -o out --method rtn --scheme w9
refuse 2 'rtn' "$PARE" quantize good.safetensors -o out --method rtm --scheme w8
refuse 2 'magnitude' "$PARE" prune good.safetensors -o out --method magnitud --sparsity 0.5
refuse 2 'sparsity' "$PARE" prune good.safetensors -o out --method magnitude --sparsity 1.5
refuse 2 'sparsity' "$PARE" prune good.safetensors -o out --method magnitude --sparsity nan
prune=("$PARE" prune good.safetensors -o out --method magnitude)
refuse 2 'sparsity' "${prune[@]}" --pattern 2:4 --sparsity 0.5
refuse 2 '5:4' "${prune[@]}" --pattern 5:4
refuse 2 'threads' "${prune[@]}" --sparsity 0.5 --threads x
refuse 2 'memory' "${prune[@]}" --sparsity 0.5 --memory 5Q
refuse 2 '-o' "$PARE" prune good.safetensors --method magnitude --sparsity 0.5
refuse 2 'nothing\*' "${prune[@]}" --sparsity 0.5 --include 'nothing*'
refuse 4 'memory|needs' "${prune[@]}" --sparsity 0.5 --memory 1K
refuse 2 'auto, cpu, cuda, cuda:N' "${prune[@]}" --sparsity 0.5 --device tpu
refuse 2 'auto, cpu, cuda, cuda:N' "${prune[@]}" --sparsity 0.5 --device cuda:x
refuse 1 'cuda|CUDA' "${prune[@]}" --sparsity 0.5 --device cuda:999
if "$PARE" devices --json | grep -q '"gpus": \[\]'; then
    for command in "${prune[*]} --sparsity 0.5" 'devices' 'inspect good.safetensors --stats' \
        'compare good.safetensors good.safetensors' 'convert good.safetensors -o out'; do
        # shellcheck disable=SC2086
        refuse 1 'CUDA|NVIDIA' "$PARE" ${command#"$PARE"} --device cuda
    done
fi
expect 0 . "${prune[@]}" --sparsity 0.5 --device cpu --plan
refuse 2 'w4g48|48' "$PARE" quantize good.safetensors -o out --method rtn --scheme w4g48 --strict

# Words of the contract that are still to come.
for later in 'bench' 'prune good.safetensors -o out --sparsity 0.5 --bos-id 1' \
    'quantize good.safetensors -o out --method rtn --scheme q4_0' \
    'quantize good.safetensors -o out --method hqq --scheme w4' \
    'prune good.safetensors -o out --method movement --sparsity 0.5' \
    'convert good.safetensors -o out.gguf'; do
    # shellcheck disable=SC2086
    refuse 2 'not in this version' "$PARE" $later
done

# Methods that look at data, and options that belong to others.
quantize=("$PARE" quantize good.safetensors -o out)
refuse 2 'gptq needs calibration data' "${quantize[@]}" --scheme w4 --method gptq
refuse 2 'calibration data' "${quantize[@]}" --scheme w8a8s
refuse 2 'calibration data' "${quantize[@]}" --schemes w4,w8 --bits 5
refuse 2 'either --bits' "${quantize[@]}" --schemes w4,w8
refuse 2 'go with --schemes' "${quantize[@]}" --scheme w4 --bits 5
refuse 2 'w9' "${quantize[@]}" --schemes w4,w9 --bits 5
refuse 2 'both say' "${quantize[@]}" --scheme w4 --schemes w4,w8 --bits 5
refuse 2 'output, kld' "${quantize[@]}" --schemes w4,w8 --bits 5 --sensitivity x
refuse 2 'static activations' "${quantize[@]}" --scheme w4 --scale kl
refuse 2 'belongs to smoothquant' "${quantize[@]}" --scheme w4 --alpha 0.5
refuse 2 'above 0' "${quantize[@]}" --scheme w4 --alpha 0
refuse 2 'sparsegpt needs calibration data' "$PARE" prune good.safetensors -o out \
    --method sparsegpt --pattern 2:4
refuse 2 'scope: beside pattern 2:4' "$PARE" prune good.safetensors -o out --method wanda \
    --pattern 2:4 --scope global --data x.npy
refuse 2 'wanda or sparsegpt' "${prune[@]}" --sparsity 0.5 --budget owl
refuse 2 'multiple' "${prune[@]}" --sparsity 0.5 --multiple 8
refuse 2 'config.json|--arch' "${prune[@]}" --sparsity 0.5 --pattern head
refuse 2 'compressed, dense' "${prune[@]}" --sparsity 0.5 --propagate x

expect 0 'avx|base|neon' "$PARE" devices
expect 0 '"isas"' "$PARE" devices --json
expect 0 'a\.weight' "$PARE" inspect good.safetensors

# compare: 0 when equal, 1 past the tolerance.
expect 0 . "$PARE" compare good.safetensors good.safetensors --tolerance 0
expect 0 . "$PARE" quantize good.safetensors -o q.safetensors --method rtn --scheme w8
expect 1 . "$PARE" compare good.safetensors q.safetensors --tolerance 0
expect 0 . "$PARE" compare good.safetensors q.safetensors --tolerance 0.1
expect 0 'a\.weight' "$PARE" compare good.safetensors q.safetensors --per-tensor
# The nearest word, a pattern that matches nothing, a report that is not there.
refuse 2 'did you mean prune' "$PARE" prun
nothing=(--include 'nothing*')
refuse 2 'nothing.*matches no tensor' "$PARE" compare {good,good}.safetensors "${nothing[@]}"
refuse 2 'nothing.*matches no tensor' "$PARE" inspect good.safetensors "${nothing[@]}"
refuse 3 'there is no such report' "$PARE" report good.safetensors
refuse 3 'there is no such report' "$PARE" report .

finish
