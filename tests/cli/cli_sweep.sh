#!/usr/bin/env bash
# A grid of recipes: planned, run, killed and continued, in the way of others; its page and others'.
. "$(dirname "$0")/lib.sh"
make images data
images=data-images-idx3-ubyte
expect 0 . "$PARE" train mlp:64-48-4 --data "$images" --steps 20 -o net.h5

# columns FILE: the CSV without what depends on the machine's speed (latency, memory, seconds).
columns() {
    "$PYTHON" -c 'import csv, sys
for row in csv.reader(open(sys.argv[1])):
    print(row[:-4])' "$1"
}

cat >grid.yaml <<Y
model: net.h5
data: { calibration: $images, eval: $images }
sweep: { repeats: 3 }
steps:
  - prune: { method: [magnitude, wanda], sparsity: [0.5, 0.7], samples: 48, errors: true }
  - eval:  { metric: [top1, loss] }
Y
expect 0 'dense .*|plan of a sweep' "$PARE" sweep grid.yaml --plan
[ ! -e swept ] || fail "plan left something"
expect 0 '5: 5 done, 0 not possible, 0 failed' "$PARE" sweep grid.yaml -o swept/ --threads 2
[ "$(ls -A swept | tr '\n' ' ')" = "key points report.html results.csv results.json " ] ||
    fail "left behind: $(ls -A swept)"
[ "$(ls -A swept/points/004)" = point.json ] || fail "left behind: $(ls -A swept/points/004)"
[ "$(wc -l <swept/results.csv)" -eq 6 ] || fail "CSV: $(cat swept/results.csv)"
grep -q '^0,dense,done,,,' swept/results.csv || fail "no dense point: $(cat swept/results.csv)"
grep -q '^4,grid,done,wanda,0.7,' swept/results.csv || fail "order: $(cat swept/results.csv)"
"$PYTHON" - swept/results.json <<'P' || fail "results.json"
import json, sys
sweep = json.load(open(sys.argv[1]))
dense, *points = sweep["points"]
assert sweep["metric"] == "top1"
assert [a["name"] for a in sweep["axes"]] == ["prune.method", "prune.sparsity"]
assert dense["kept"] == 1 and dense["sparsity"] < 0.01
for point in points:
    asked = float(point["values"]["prune.sparsity"])
    assert abs(point["sparsity"] - asked) < 0.02, point["sparsity"]
    kept = point["metrics"]["top1"] / dense["metrics"]["top1"]
    assert point["dense"] == 0 and point["kept"] == kept
    assert point["flops"] == dense["flops"] == 2 * (64 * 48 + 48 * 4)
    left = sum(2 * layer["weights"] * (1 - layer["sparsity"]) for layer in point["layers"])
    assert abs(point["flops_left"] - left - 2 * 48 * 4) < 1e-6, (point["flops_left"], left)
    assert point["latency"]["seconds"] > 0 and point["bytes"] > 0 and point["peak_memory"] > 0
    errors = [layer for layer in point["layers"] if "error" in layer]
    assert len(errors) == (1 if point["values"]["prune.method"] == "wanda" else 0)
assert any("sparsity" in point["front"] for point in points)
P
# The same command again does nothing anew; the folder is not another sweep's.
cp swept/results.csv first.csv
expect 0 '5: 5 done' "$PARE" sweep grid.yaml -o swept --threads 2
cmp first.csv swept/results.csv || fail "a sweep that is done was done again"
sed 's/0.7/0.8/' grid.yaml >other.yaml
refuse 2 'holds another sweep' "$PARE" sweep other.yaml -o swept
expect 0 '5: 5 done' "$PARE" sweep other.yaml -o swept --overwrite
mkdir full && touch full/mine
refuse 2 'no sweep of pare' "$PARE" sweep grid.yaml -o full
refuse 2 'give -o DIR' "$PARE" sweep grid.yaml

# Killed whenever: the same command continues, to the same results.
for delay in 0.05 0.15 0.3 0.5 0.8; do
    rm -rf killed
    "$PARE" sweep grid.yaml -o killed --threads 2 >/dev/null 2>&1 &
    pid=$!
    sleep "$delay"
    kill -KILL "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    expect 0 '5: 5 done' "$PARE" sweep grid.yaml -o killed --threads 2
    columns killed/results.csv >a.txt
    columns first.csv >b.txt
    cmp a.txt b.txt || fail "killed after $delay s: other results"
done

# What does not go together is a row that says why, or with --strict no sweep at all.
sed 's/sparsity: \[0.5, 0.7\]/sparsity: 0.5, pattern: [unstructured, "2:4"]/' grid.yaml >mixed.yaml
expect 0 '5: 3 done, 2 not possible' "$PARE" sweep mixed.yaml -o mixed
grep -q 'not possible.*beside pattern 2:4' mixed/results.csv || fail "$(cat mixed/results.csv)"
refuse 2 'point 002 .*beside pattern 2:4' "$PARE" sweep mixed.yaml -o out --strict
sed 's/0.7/1.7/; s/wanda/wandaa/' grid.yaml >bad.yaml
expect 2 'bad.yaml:5:.*wandaa' "$PARE" sweep bad.yaml -o out
expect 2 'bad.yaml:5:.*did you mean 0.017' "$PARE" sweep bad.yaml -o out
[ ! -e out ] || fail "a refused sweep left something"
sed "s/eval: $images/eval: nowhere/" grid.yaml >bad.yaml
refuse 3 'nowhere' "$PARE" sweep bad.yaml -o out

# Training, with its losses; checkpoints that stay.
cat >train.yaml <<Y
model: net.h5
data: { calibration: $images, eval: $images, train: $images }
sweep: { keep: true, batch: 4 }
seed: [0, 1]
steps:
  - prune: { sparsity: 0.9 }
  - train: { steps: [4, 8], batch: 16, lr: 0.05 }
  - eval:  {}
Y
expect 0 '5: 5 done' "$PARE" sweep train.yaml -o trained --threads 2
expect 0 top "$PARE" eval trained/points/004/model.h5 --data "$images"
[ ! -e trained/points/000/model.h5 ] || fail "the dense model was copied"

# Pages: one file, all of it inside, with and without gnuplot, of sweeps and of runs.
expect 0 'wanda' "$PARE" report swept
expect 0 '"kind": "sweep"' "$PARE" report swept --json
"$PARE" report trained -o trained.html || fail "no page of a sweep"
expect 0 . "$PARE" prune net.h5 -o run.h5 --method wanda --sparsity 0.5 --data "$images"
"$PARE" report run.h5 -o run.html || fail "no page of a run"
refuse 2 'exists' "$PARE" report run.h5 -o run.html
refuse 2 'ends in none of' "$PARE" report run.h5 -o run.pdf
env PATH=/nowhere "$PARE" report swept -o plain.html || fail "no page without gnuplot"
grep -q 'gnuplot, which draws them, was not found' plain.html || fail "no word of gnuplot"
! grep -q '<svg' plain.html || fail "pictures from nowhere"
if command -v gnuplot >/dev/null; then
    [ "$(grep -c '<svg' swept/report.html)" -eq 6 ] ||
        fail "pictures of the sweep: $(grep -c '<svg' swept/report.html)"
    grep -q 'Loss of training' trained.html || fail "no losses"
fi
for page in swept/report.html trained.html run.html plain.html; do
    "$PYTHON" - "$page" <<'P' || fail "$page"
import html.parser, sys
class Page(html.parser.HTMLParser):
    open, ids, links = [], set(), set()
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in ("script", "link", "img", "iframe"), tag
        assert attrs.get("id") not in self.ids, attrs
        self.ids.add(attrs.get("id")) if attrs.get("id") else None
        for name in ("href", "xlink:href", "src"):
            if name in attrs:
                assert attrs[name].startswith("#"), attrs
                self.links.add(attrs[name][1:])
        if tag not in ("meta", "br"):
            self.open.append(tag)
    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()
    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())
page = Page()
page.feed(open(sys.argv[1], encoding="utf-8").read())
assert not page.open and page.links <= page.ids, (page.open, page.links - page.ids)
P
done
finish
