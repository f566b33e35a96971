# labels: long
"""Calibrated compression of real checkpoints: quality as rows to review.

Every method runs on every model; what comes out (perplexity or top-1, and the mean relative error
of the layers' outputs, beside that of the plain method for the same inputs) is compared with the
rows of quality.csv beside this script. What the literature says of the methods is asserted: GPTQ
and AWQ beat rounding to nearest, SparseGPT and Wanda beat magnitude, in both. Of a top-1, less than
a standard error of the difference is no difference. Exceptions are listed with their reasons.

  quality.py [--write] [MODEL ...]    --write replaces the rows by what was measured
"""
import pathlib
import sys
import tempfile

from checkpoints import Table, as_good, chosen_models, evaluate, run

TABLE = Table(pathlib.Path(__file__).resolve().parent / "quality.csv",
              ["model", "method", "setting"],
              ["metric", "value", "dense", "error", "error_of_plain"])

QUANT = ["w4", "w3", "w4g32", "w3g32"]
PRUNE = ["0.5", "0.6", "2:4"]

# (model, method, setting, "metric" or "error"): where the order of the literature is not what
# is measured, and why.
# Wanda looks at each weight by itself. Behind a ReLU inputs have means in common, so what several
# weights of a row lose adds up to a shift, and these small networks' batch norms pass it on; the
# sweep of SparseGPT makes up for it.
EXCEPTIONS = {
    ("resnet8", "wanda", "0.5", "error"),
    ("resnet20", "wanda", "0.5", "metric"),
    ("resnet20", "wanda", "2:4", "metric"),
}


def layer_errors(report):
    """Means over the layers of the error after and before, as texts; "" where it is not known."""
    both = [(layer["error_after"], layer["error_before"]) for layer in report.get("layers", [])
            if layer.get("error_after") is not None and layer.get("error_before") is not None]
    if not both:
        return "", ""
    after, before = zip(*both)
    return f"{sum(after) / len(both):.6g}", f"{sum(before) / len(both):.6g}"


def compress(model, folder, method, setting):
    """One run and its measurement as a row."""
    out = pathlib.Path(folder) / f"{method}-{setting.replace(':', 'of')}.h5"
    if setting.startswith("w"):
        args = ["quantize", model.checkpoint, "-o", out, "--method", method, "--scheme", setting]
    elif ":" in setting:
        args = ["prune", model.checkpoint, "-o", out, "--method", method, "--pattern", setting]
    else:
        args = ["prune", model.checkpoint, "-o", out, "--method", method, "--sparsity", setting,
                "--scope", "layer"]
    if method == "wanda":
        args += ["--errors"]
        if model.metric == "top1":  # it makes up for nothing: better that its inputs are whole
            args += ["--propagate", "dense"]
    report = run(*args, *model.arch, *model.calibration)
    after, before = layer_errors(report)
    return {"model": model.name, "method": method, "setting": setting, "metric": model.metric,
            "value": f"{evaluate(model, out):.6g}", "error": after, "error_of_plain": before}


def measure(model):
    dense = f"{evaluate(model):.6g}"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for setting in QUANT:
            for method in ("rtn", "gptq", "awq"):
                rows.append(compress(model, folder, method, setting))
        for setting in PRUNE:
            for method in ("magnitude", "wanda", "sparsegpt"):
                rows.append(compress(model, folder, method, setting))
    for row in rows:
        row["dense"] = dense
        TABLE.show(row)
    return rows


def better(row, base, what):
    """Whether row is at least as good as the plain method's."""
    if what == "error":
        return not row["error"] or float(row["error"]) <= float(row["error_of_plain"])
    return as_good(row, base)


def check_order(rows):
    """Sentences about what is not as the literature has it and is no listed exception."""
    by = {TABLE.key(r): r for r in rows}
    wrong = []
    for (model, method, setting), row in by.items():
        plain = {"gptq": "rtn", "awq": "rtn", "wanda": "magnitude",
                 "sparsegpt": "magnitude"}.get(method)
        base = by.get((model, plain, setting)) if plain else None
        if base is None:
            continue
        for what in ("metric", "error"):
            known = (model, method, setting, what) in EXCEPTIONS
            good = better(row, base, what)
            if good == known:
                wrong.append(f"{model} {setting}: {method} is {'' if good else 'not '}better than "
                             f"{plain} in {what} ({row['value']} and {base['value']}, errors "
                             f"{row['error']} and {row['error_of_plain']})"
                             + (": take it off the exceptions" if known else ""))
    return wrong


def main():
    rows = [row for model in chosen_models() for row in measure(model)]
    return TABLE.finish(rows, check_order(rows))


if __name__ == "__main__":
    sys.exit(main())
