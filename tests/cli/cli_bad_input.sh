#!/usr/bin/env bash
# Damaged, contradictory and hostile inputs: exit 3 and one sentence that says what and where.
. "$(dirname "$0")/lib.sh"

quantize() { refuse "$1" "$2" "$PARE" quantize "$3" -o "${4:-out}" --method rtn --scheme w8; }

make good good.safetensors
expect 0 . "$PARE" inspect good.safetensors

for size in $(make boundaries -); do
    make truncated cut.safetensors "$size"
    quantize 3 'cut\.safetensors' cut.safetensors
done

for length in 9223372036854775808 18446744073709551615 9223372036854775807 104857601 4000000 0 1; do
    make length length.safetensors "$length"
    quantize 3 'length\.safetensors' length.safetensors
done

make offsets o.safetensors 4000 8096; quantize 3 '(a|b)\.weight' o.safetensors    # overlaps
make offsets o.safetensors 4104 8200; quantize 3 '(a|b)\.weight|8200' o.safetensors # hole, outside
make offsets o.safetensors 4096 8000; quantize 3 'b\.weight' o.safetensors        # too small
make offsets o.safetensors 4096 1000000000000; quantize 3 'b\.weight' o.safetensors
make offsets o.safetensors 8192 4096; quantize 3 'b\.weight' o.safetensors
make offsets o.safetensors -4096 0; quantize 3 'b\.weight' o.safetensors

entry='{"dtype":"F32","shape":[16,64],"data_offsets":[0,4096]}'
make header h.safetensors "{\"a\":$entry,\"a\":$entry}"; quantize 3 'duplicate|twice' h.safetensors
make header h.safetensors '{"a":'; quantize 3 'h\.safetensors' h.safetensors
make header h.safetensors '[]'; quantize 3 'h\.safetensors' h.safetensors
make header h.safetensors '{"a":7}'; quantize 3 'a' h.safetensors
make header h.safetensors '{"a":{"dtype":"F32","shape":[16,64]}}'
quantize 3 'data_offsets' h.safetensors
make header h.safetensors '{"a":{"dtype":"F32","shape":[-16,64],"data_offsets":[0,4096]}}'
quantize 3 'a' h.safetensors
make header h.safetensors \
    '{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'
quantize 3 'a' h.safetensors
make header h.safetensors '{"a":{"dtype":"F32","shape":[1.5,2],"data_offsets":[0,4]}}'
quantize 3 'a' h.safetensors
make header h.safetensors '{"__metadata__":7}'; quantize 3 'metadata' h.safetensors

make tensor t.safetensors F33 '[4,4]' 64; quantize 3 'F33' t.safetensors
make tensor t.safetensors F32 '[4,5]' 64; quantize 3 'a\.weight' t.safetensors
make tensor t.safetensors F32 '[1,1,1,1,1,1,1,1,16]' 64; quantize 3 'a\.weight' t.safetensors

# NaN and Inf: never a NaN scale; the sentence names the tensor.
make value sound.safetensors 1
for value in nan inf -inf; do
    make value v.safetensors "$value"
    for scheme in w8 w4g32 w4g32z fp8 nf4 nf4d; do
        refuse 3 'b\.weight' "$PARE" quantize v.safetensors -o out --method rtn --scheme "$scheme"
    done
    expect 0 'nan|inf|NaN|Inf' "$PARE" inspect v.safetensors --stats
    expect 0 'b\.weight +inf +inf +-inf +- ' "$PARE" compare {v,sound}.safetensors --per-tensor
done

# Sound but unusual: taken.
make small small.safetensors
expect 0 . "$PARE" quantize small.safetensors -o small-q.safetensors --method rtn --scheme w8
expect 0 . "$PARE" prune small.safetensors -o small-p --method magnitude --sparsity 0.5
expect 0 . "$PARE" convert small.safetensors -o small.h5
expect 0 . "$PARE" compare small.safetensors small.h5 --tolerance 0

# Not a checkpoint, not there, a missing shard.
quantize 3 'missing\.safetensors' missing.safetensors
echo text >text.safetensors; quantize 3 'text\.safetensors' text.safetensors
: >empty.safetensors; quantize 3 'empty\.safetensors' empty.safetensors
mkdir empty-folder; quantize 3 'empty-folder' empty-folder
make directory sharded
expect 0 . "$PARE" inspect sharded
mv sharded/model-00002-of-00002.safetensors aside
quantize 3 'model-00002-of-00002\.safetensors' sharded
cp sharded/model-00001-of-00002.safetensors sharded/model-00002-of-00002.safetensors
quantize 3 'model\.layers\.' sharded
mv aside sharded/model-00002-of-00002.safetensors
echo '{"weight_map":' >sharded/model.safetensors.index.json
quantize 3 'index\.json' sharded
echo '{' >sharded/config.json
quantize 3 'json' sharded

# A damaged native file: cut, and with bytes turned over.
expect 0 . "$PARE" convert good.safetensors -o good.h5
size=$(stat -c %s good.h5)
for part in 1 2 3 4 5 6 7; do
    head -c $((size * part / 8)) good.h5 >cut.h5
    refuse 3 'cut\.h5' "$PARE" convert cut.h5 -o out.safetensors
done
head -c 100 /dev/zero >zero.h5
refuse 3 'zero\.h5' "$PARE" convert zero.h5 -o out.safetensors
"$PYTHON" - <<'PY'
blob = bytearray(open("good.h5", "rb").read())
data = open("good.safetensors", "rb").read()[-4096:]
at = bytes(blob).find(data)
assert at > 0, "the tensor's bytes are not in the file"
blob[at + 100] ^= 1
open("flipped.h5", "wb").write(blob)
PY
refuse 3 'b\.weight' "$PARE" convert flipped.h5 -o out.safetensors
finish
