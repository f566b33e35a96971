#!/usr/bin/env bash
# Recipes: every error at once, each with line, column and the nearest valid word.
. "$(dirname "$0")/lib.sh"
make good good.safetensors

cat >bad.yaml <<'Y'
model: good.safetensors
sede: 1
steps:
  - prune: { method: magnitud, pattern: "2:4", sparsity: 1.5 }
  - quantise: { scheme: w4g128 }
  - quantize: { method: rtn, scheme: w9, scal: mse }
  - export: { to: out }
Y
rm -rf out
expect 2 . "$PARE" run bad.yaml
for line in 'bad\.yaml:2:1:.*seed' 'bad\.yaml:4:.*magnitude' 'bad\.yaml:4:.*1\.5' \
    'bad\.yaml:5:5:.*quantize' 'bad\.yaml:6:.*w9' 'bad\.yaml:6:.*scale'; do
    grep -qE "$line" stderr.txt || fail "no line like /$line/ in: $(cat stderr.txt)"
done
[ ! -e out ] || fail "a refused recipe left an output"

echo 'model: [' >bad.yaml
expect 2 'bad\.yaml:[12]:' "$PARE" run bad.yaml
expect 3 'none\.yaml' "$PARE" run none.yaml
: >bad.yaml
expect 2 'bad\.yaml' "$PARE" run bad.yaml

cat >good.yaml <<'Y'
model: good.safetensors
seed: 1
steps:
  - prune: { method: magnitude, pattern: "2:4" }
  - quantize: { method: rtn, scheme: w4g32 }
  - export: { to: both.safetensors }
Y
expect 0 . "$PARE" plan good.yaml
[ ! -e both.safetensors ] || fail "plan wrote the output"
expect 0 . "$PARE" run good.yaml
expect 0 . "$PARE" report both.safetensors
expect 0 '"kind"' "$PARE" report both.safetensors --json

# What is still to come says so.
cat >later.yaml <<'Y'
model: good.safetensors
steps:
  - bench: { op: gemm }
  - export: { to: out }
Y
expect 2 'later\.yaml:3:.*not in this version' "$PARE" run later.yaml

# Trainings as steps: all that is wrong at once, with its place.
cat >wrong.yaml <<'Y'
model: good.safetensors
steps:
  - train:   { data: x, steps: 0, learning_rate: 1, teacher: t }
  - distill: { data: x, steps: 5, loss: { kl: 1, hiden: 2 }, lr: high }
  - distill: { teacher: t, epochs: 1 }
  - export:  { to: out }
Y
expect 2 'wrong\.yaml:3:.*steps: .*whole number from 1' "$PARE" run wrong.yaml
expect 2 'wrong\.yaml:3:.*train: unknown key .learning_rate' "$PARE" run wrong.yaml
expect 2 'wrong\.yaml:3:.*teacher belongs to distill' "$PARE" run wrong.yaml
expect 2 'wrong\.yaml:4:.*hiden.*did you mean .hidden' "$PARE" run wrong.yaml
expect 2 'wrong\.yaml:4:.*lr: "high" is not a number' "$PARE" run wrong.yaml
expect 2 'wrong\.yaml:4:.*teacher is missing' "$PARE" run wrong.yaml
expect 2 'wrong\.yaml:5:.*data is missing' "$PARE" run wrong.yaml
finish
