#!/usr/bin/env bash
# The program as several processes: the same bytes again, and again after one of them was killed;
# who is given something else is named.
set -u
mpi=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command -v mpirun >/dev/null || { echo "mpirun is not installed"; exit 77; }
. "$mpi/../cli/lib.sh"

make images some
train=("$PARE" train mlp:64-32-4,in=1,size=8 --data some-images-idx3-ubyte --batch 16 --lr 0.02
    --steps 1500 --save-every 50 --threads 1)
ranks() {
    bash "$mpi/mpirun.sh" "$@"
}

expect 0 'ranks +2 over ' ranks 2 "${train[@]}" -o whole.h5
expect 0 'ranks +2 over ' ranks 2 "${train[@]}" -o again.h5
cmp whole.h5 again.h5 || fail "two runs of two ranks differ"

# One of the processes is killed as soon as there is a state.
ranks 2 "${train[@]}" -o killed.h5 >killed.txt 2>&1 &
job=$!
for _ in $(seq 3000); do
    [ ! -e killed.h5.train.h5 ] || break
    sleep 0.01
done
kill -9 "$(pgrep -P "$(pgrep -P "$job")" | tail -n 1)" || fail "no process was there to be killed"
begin=$(date +%s)
wait "$job" && fail "a process was killed, and the job ended as if all were well"
[ $(($(date +%s) - begin)) -le 10 ] || fail "the job went on after one of its processes was killed"
[ ! -e killed.h5 ] || fail "there is an output of a job that was killed"
for state in killed.h5.train*; do
    cp "$state" "alone${state#killed}"
    cp "$state" "four${state#killed}"
done
expect 0 'resumed +at step ' ranks 2 "${train[@]}" -o killed.h5
cmp whole.h5 killed.h5 || fail "the training that was killed ends with other bytes"

# From the same state as another number of ranks: what it would have been but for rounding.
expect 0 'resumed +at step ' ranks 1 "${train[@]}" -o alone.h5
expect 0 'resumed +at step ' ranks 4 "${train[@]}" -o four.h5
for other in alone four; do
    expect 0 'within' "$PARE" compare whole.h5 $other.h5 --tolerance 1e-5
    ! cmp -s whole.h5 $other.h5 || fail "$other: the same bytes, so it went on with two"
done

expect 2 'multiple of 3' ranks 3 "${train[@]}" -o uneven.h5
expect 1 'rank 1 \(.* differs from rank 0 .* in the options' \
    ranks 1 "${train[@]}" -o out.h5 : -n 1 "${train[@]}" --seed 2 -o out.h5
finish
