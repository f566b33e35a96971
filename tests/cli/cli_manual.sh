#!/usr/bin/env bash
# docs/cli.md is what the program prints today; completion scripts are read by their shells.
. "$(dirname "$0")/lib.sh"

"$PARE" --markdown >manual.md || fail "no manual"
diff manual.md "$here/../../docs/cli.md" || fail "docs/cli.md is old: pare --markdown >docs/cli.md"

"$PARE" --completion bash >pare.bash
# The words offered after these, the last one half typed.
offers() {
    bash -c '. ./pare.bash; compopt() { :; }; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _pare
        echo "${COMPREPLY[@]}"' - "$@"
}
[ "$(offers pare quan)" = quantize ] || fail "no quantize: $(offers pare quan)"
[ "$(offers pare quantize m --sche)" = "--scheme --schemes" ] || fail "no --scheme"
[ "$(offers pare quantize m --method gpt)" = gptq ] || fail "no gptq"
[ "$(offers pare prune m --scope g)" = global ] || fail "no global"
offers pare inspect m -- | grep -q -- --sparsity && fail "inspect has no --sparsity"
for shell in zsh fish; do
    "$PARE" --completion "$shell" >"pare.$shell"
    ! command -v "$shell" >/dev/null || "$shell" -n "pare.$shell" || fail "$shell does not read it"
done
refuse 2 'bash, zsh' "$PARE" --completion csh

# A result that cannot be written is a failure.
expect 1 'stdout' bash -c '"$0" --markdown >/dev/full' "$PARE"
expect 1 'stdout' bash -c '"$0" devices >/dev/full' "$PARE"
expect 2 'usage' "$PARE"
finish
