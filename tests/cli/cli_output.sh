#!/usr/bin/env bash
# Where the output goes: exists already, cannot be written, a full disk; nothing is lost or left
# behind.
. "$(dirname "$0")/lib.sh"
make good good.safetensors 512 512
job=(quantize good.safetensors --method rtn --scheme w4g32)

# Exists: refused and untouched, unless --overwrite.
for out in there there.safetensors there.h5; do
    expect 0 . "$PARE" "${job[@]}" -o "$out"
    before=$(find "$out" -type f -exec sha256sum {} + | sort)
    refuse 2 "$out.*(exists|--overwrite)" "$PARE" "${job[@]}" -o "$out"
    [ "$before" = "$(find "$out" -type f -exec sha256sum {} + | sort)" ] || fail "$out was changed"
    expect 0 . "$PARE" "${job[@]}" -o "$out" --overwrite
    [ "$before" = "$(find "$out" -type f -exec sha256sum {} + | sort)" ] || fail "$out: other bytes"
done
mkdir foreign && echo mine >foreign/notes.txt
refuse 2 'foreign.*(exists|--overwrite)' "$PARE" "${job[@]}" -o foreign
refuse 2 'foreign is a folder of other things' "$PARE" "${job[@]}" -o foreign --overwrite
refuse 2 'foreign is a folder of other things' "$PARE" "${job[@]}" -o foreign --overwrite --plan
[ "$(cat foreign/notes.txt)" = mine ] || fail "a foreign folder was touched"

mkdir empty
expect 0 . "$PARE" "${job[@]}" -o empty --overwrite

# A folder that is not there is named.
refuse 2 'no/such' "$PARE" "${job[@]}" -o no/such/place/out.safetensors

# Nothing is left of a run but its output and its report.
mkdir clean
expect 0 . "$PARE" "${job[@]}" -o clean/out.safetensors
[ "$(ls -A clean | tr '\n' ' ')" = "out.safetensors out.safetensors.report.json " ] ||
    fail "left behind: $(ls -A clean)"
finish
