#!/usr/bin/env bash
# A disk that fills up and one that cannot be written. Needs a file system of its own: a small tmpfs
# in a mount namespace; where the system gives none the script is skipped.
if [ "${1:-}" != inside ]; then
    for how in "unshare -m" "unshare -rm"; do
        $how true 2>/dev/null || continue
        $how bash -c 'd=$(mktemp -d); mount -t tmpfs -o size=64k none "$d"; s=$?
            umount "$d"; rmdir "$d"; exit $s' 2>/dev/null || continue
        exec $how bash "$0" inside
    done
    echo "skipped: no file system can be mounted here"
    exit 77
fi
. "$(dirname "$0")/lib.sh"
make good good.safetensors 1024 512 # 4 MiB
mkdir small
mount -t tmpfs -o size=1M none small
trap 'cd /; umount "$work/small"; rm -rf "$work"' EXIT

for ending in "" .safetensors .h5; do
    expect 1 'space|full' "$PARE" prune good.safetensors -o "small/out$ending" --method magnitude \
        --sparsity 0.5
    [ "$(grep -c . stderr.txt)" -eq 1 ] || fail "not one sentence: $(cat stderr.txt)"
    [ ! -e "small/out$ending" ] || fail "a failed run left out$ending"
    rm -rf small/out*
done

# Room is made: the same command continues.
expect 1 'space|full' "$PARE" prune good.safetensors -o small/out.safetensors --method magnitude \
    --sparsity 0.5
mount -o remount,size=16M small
expect 0 . "$PARE" prune good.safetensors -o small/out.safetensors --method magnitude --sparsity 0.5
expect 0 . "$PARE" prune good.safetensors -o want.safetensors --method magnitude --sparsity 0.5
cmp small/out.safetensors want.safetensors || fail "other bytes after the disk was full"

mount -o remount,ro small
for ending in "" .safetensors .h5; do
    expect 1 'small/new|[Rr]ead-only' "$PARE" prune good.safetensors -o "small/new$ending" \
        --method magnitude --sparsity 0.5
    [ "$(grep -c . stderr.txt)" -eq 1 ] || fail "not one sentence: $(cat stderr.txt)"
done
finish
