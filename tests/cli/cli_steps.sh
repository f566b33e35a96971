#!/usr/bin/env bash
# Recipes of several steps: done, planned, killed between and within steps, given up.
. "$(dirname "$0")/lib.sh"
make images data
images=data-images-idx3-ubyte
expect 0 . "$PARE" train mlp:64-48-4 --data "$images" --steps 2 -o net.h5

# killed_after SECONDS ARGUMENT...: kill -9 of pare, and it is gone afterwards.
killed_after() {
    local delay=$1 pid
    shift
    "$PARE" "$@" >/dev/null 2>&1 &
    pid=$!
    sleep "$delay"
    kill -KILL "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
}

cat >chain.yaml <<Y
model: net.h5
data: { calibration: $images, eval: $images }
steps:
  - eval:     {}
  - prune:    { sparsity: 0.5 }
  - eval:     { metric: [top1, loss] }
  - quantize: { scheme: w4g16 }
  - eval:     { metric: [kld], against: net.h5 }
  - export:   { to: chain.h5 }
Y
expect 0 'disk between steps' "$PARE" plan chain.yaml
[ ! -e chain.h5 ] && [ ! -e chain.h5.steps ] || fail "plan left something"
expect 0 'step 5 of 5' "$PARE" run chain.yaml
expect 0 'KL divergence' "$PARE" report chain.h5
expect 0 '"top1"' "$PARE" report chain.h5 --json
[ "$(ls -A | grep '^chain' | tr '\n' ' ')" = "chain.h5 chain.h5.report.json chain.yaml " ] ||
    fail "left behind: $(ls -A)"
refuse 2 'chain.h5 exists' "$PARE" run chain.yaml
expect 0 . "$PARE" inspect chain.h5

# Each stage alone, one after the other, gives the same.
expect 0 . "$PARE" prune net.h5 -o a.h5 --sparsity 0.5
expect 0 . "$PARE" quantize a.h5 -o b.h5 --scheme w4g16
cmp chain.h5 b.h5 || fail "other bytes than step by step"

# Killed whenever: the same command continues, to the same bytes, and nothing is left.
for delay in 0.02 0.05 0.08 0.12 0.2 0.3; do
    rm -rf killed.h5*
    killed_after "$delay" run chain.yaml -o killed.h5
    expect 0 . "$PARE" run chain.yaml -o killed.h5 --overwrite
    cmp killed.h5 b.h5 || fail "killed after $delay s: other bytes"
    [ ! -e killed.h5.steps ] || fail "killed after $delay s: steps are left"
done

# The same with walks over the blocks, which continue at the layer they were in.
cat >walks.yaml <<Y
model: net.h5
data: { calibration: $images, eval: $images }
steps:
  - prune:    { method: wanda, pattern: "2:4", samples: 48 }
  - eval:     {}
  - compress: { quantize: { method: gptq, scheme: w4g16 }, samples: 48, true_sequential: false }
  - eval:     { metric: [kld], against: net.h5 }
  - export:   { to: walks.h5 }
Y
expect 0 'by data' "$PARE" run walks.yaml --threads 2
[ "$(ls -A | grep '^walks' | tr '\n' ' ')" = "walks.h5 walks.h5.report.json walks.yaml " ] ||
    fail "left behind: $(ls -A)"
for delay in 0.05 0.1 0.15 0.2 0.3; do
    rm -rf killed.h5*
    killed_after "$delay" run walks.yaml -o killed.h5 --threads 2
    expect 0 . "$PARE" run walks.yaml -o killed.h5 --overwrite --threads 2
    cmp killed.h5 walks.h5 || fail "walks killed after $delay s: other bytes"
done
# Both at once, one sweep; by the command line, by a recipe of one step, the same.
cat >sweep.yaml <<Y
model: net.h5
data: { calibration: $images }
steps:
  - compress:
      prune:    { method: sparsegpt, pattern: "2:4" }
      quantize: { method: gptq, scheme: w4g16 }
      samples: 48
  - export: { to: sweep.h5 }
Y
expect 0 'in the same sweep' "$PARE" run sweep.yaml
expect 0 '"sparsegpt 2:4, gptq w4g16"|sparsegpt' "$PARE" report sweep.h5 --json
gptq=("$PARE" quantize net.h5 --method gptq --scheme w4g16 --data "$images" --samples 48)
expect 0 . "${gptq[@]}" -o g1.h5 --threads 2
expect 0 . "${gptq[@]}" -o g2.h5 --threads 2 --memory 200M
cmp g1.h5 g2.h5 || fail "calibrated bytes depend on the memory"
refuse 3 'nowhere' "$PARE" quantize net.h5 -o out.h5 --method gptq --scheme w4 --data nowhere
refuse 2 'labels|images|tokens' "$PARE" quantize net.h5 -o out.h5 --method gptq --scheme w4 \
    --data data-labels-idx1-ubyte

# Mixed bits, and a smaller model that runs as any other.
expect 0 'bits, decided' "$PARE" quantize net.h5 -o mixed.h5 --schemes w4g16,w8 --bits 6.5 \
    --data "$images" --samples 48
expect 0 'parameters' "$PARE" prune net.h5 -o small.h5 --pattern channel --sparsity 0.5
expect 0 'top-1' "$PARE" eval small.h5 --data "$images"

# What cannot work is known before the first step.
sed 's/w4g16/w4g16, include: [nothing]/; s/chain.h5/out/' chain.yaml >bad.yaml
refuse 2 'matches no tensor' "$PARE" run bad.yaml
sed "s/eval: $images/eval: nowhere/; s/chain.h5/out/" chain.yaml >bad.yaml
refuse 3 'nowhere' "$PARE" run bad.yaml
[ ! -e out.steps ] || fail "a refused recipe left steps"
finish
