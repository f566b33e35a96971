# labels: long
"""Structured pruning of real checkpoints: size and quality as rows to review.

Units go from real models, nothing is trained afterwards, and what is left is measured; the rows of
structured.csv beside this script say what came out. Asserted: every model is smaller, what data
chose (wanda, taylor) is better than what chance did, and the quality stays within the bound that a
run names: at least so much of a top-1, at most so much perplexity.

  structured.py [--write] [MODEL ...]    --write replaces the rows by what was measured
"""
import pathlib
import sys
import tempfile

from checkpoints import Table, chosen_models, evaluate, run

TABLE = Table(pathlib.Path(__file__).resolve().parent / "structured.csv",
              ["model", "pattern", "sparsity", "method"],
              ["metric", "value", "dense", "parameters", "parameters_dense"])

# Of each model: pattern, share of the units, method and bound; "cosine": layers by what they turn.
# Chance has no bound.
RUNS = {
    "stories260K": [
        ("channel", 0.1, "magnitude", 9), ("channel", 0.1, "wanda", 6.2),
        ("channel", 0.1, "taylor", 6.7), ("channel", 0.1, "random", None),
        ("head", 0.5, "magnitude", 9.6), ("head", 0.5, "wanda", 10.5),
        ("layer", 0.2, "magnitude", 11), ("layer", 0.2, "cosine", 11),
    ],
    "bert_tiny_sst2": [
        ("channel", 0.1, "magnitude", 0.79), ("channel", 0.5, "magnitude", 0.79),
        ("channel", 0.5, "wanda", 0.79),
    ],
    "vit_cifar10": [
        ("channel", 0.1, "magnitude", 0.7), ("head", 0.1, "magnitude", 0.67),
        ("width", 0.1, "magnitude", 0.64), ("layer", 0.1, "magnitude", 0.67),
        ("layer", 0.1, "cosine", 0.67),
    ],
    "resnet8": [("channel", 0.1, "magnitude", 0.25)],
    "resnet20": [
        ("channel", 0.1, "magnitude", 0.83), ("channel", 0.1, "wanda", 0.84),
        ("channel", 0.1, "taylor", 0.83), ("channel", 0.1, "random", None),
    ],
}


def shrink(model, folder, pattern, share, method):
    """One run and its measurement as a row."""
    out = pathlib.Path(folder) / f"{pattern}-{share}-{method}.h5"
    data = method in ("wanda", "taylor", "cosine")
    report = run("prune", model.checkpoint, *model.arch, "-o", out, "--pattern", pattern,
                 "--sparsity", share, "--method", "magnitude" if method == "cosine" else method,
                 *(model.calibration if data else []))
    return {"model": model.name, "pattern": pattern, "sparsity": str(share), "method": method,
            "metric": model.metric, "value": f"{evaluate(model, out):.6g}",
            "parameters": str(report["shrink"]["parameters_after"]),
            "parameters_dense": str(report["shrink"]["parameters_before"])}


def measure(model):
    dense = f"{evaluate(model):.6g}"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for pattern, share, method, _ in RUNS[model.name]:
            row = {**shrink(model, folder, pattern, share, method), "dense": dense}
            TABLE.show(row)
            rows.append(row)
    return rows


def check_bounds(rows):
    bounds = {(model, pattern, str(share), method): bound for model, runs in RUNS.items()
              for pattern, share, method, bound in runs if bound is not None}
    wrong = []
    for row in rows:
        bound, value = bounds.get(TABLE.key(row)), float(row["value"])
        if int(row["parameters"]) >= int(row["parameters_dense"]):
            wrong.append(f"{TABLE.key(row)}: no smaller")
        if bound and (value > bound if row["metric"] == "ppl" else value < bound):
            wrong.append(f"{TABLE.key(row)}: {row['metric']} {value} is beyond {bound}")
    return wrong


def check_order(rows):
    """What data chose is better than what chance did."""
    by, wrong = {TABLE.key(r): r for r in rows}, []
    for row in rows:
        chance = by.get((row["model"], row["pattern"], row["sparsity"], "random"))
        if chance is None or row["method"] not in ("wanda", "taylor"):
            continue
        mine, theirs = float(row["value"]), float(chance["value"])
        if (mine >= theirs) if row["metric"] == "ppl" else (mine <= theirs):
            wrong.append(f"{TABLE.key(row)}: {mine} is not better than {theirs} by chance")
    return wrong


def main():
    rows = [row for model in chosen_models(RUNS) for row in measure(model)]
    return TABLE.finish(rows, check_bounds(rows) + check_order(rows))


if __name__ == "__main__":
    sys.exit(main())
