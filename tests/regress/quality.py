# labels: long
"""Calibrated compression of real checkpoints: quality as rows to review.

Every method runs on every model; what comes out (perplexity or top-1, and the mean relative error
of the layers' outputs, beside that of the plain method for the same inputs) is compared with the
rows of quality.csv beside this script. What the literature says of the methods is asserted: GPTQ
and AWQ beat rounding to nearest, SparseGPT and Wanda beat magnitude, in both; bits by KL divergence
and sparsity by loss beat the same everywhere. Of a top-1, less than a standard error of the
difference is no difference. Exceptions are listed with their reasons.

What is decided by measuring has rows too: mixed bits beside one scheme for all layers at nearly the
same bits, and sparsity spread over the layers in every way there is. Both take few samples, because
each layer costs runs of the whole model.

Taylor and Fisher have rows beside magnitude, with one threshold over all layers, and no order is
asserted: both estimate what one weight alone does to the loss. Where most weights go at once that
says little, and the last convolution loses nearly all of its own.

  quality.py [--write] [--methods] [--bits] [--budgets] [--gradients] [MODEL ...]
                            --write replaces the rows by what was measured; of the others, which
                            part is measured: all if none is named
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
METHODS = [(("rtn", "gptq", "awq"), QUANT), (("magnitude", "wanda", "sparsegpt"), PRUNE)]

SURVEY_SAMPLES = {"ppl": 8, "top1": 128}
# Scales in the checkpoint's F32: w4 takes 4.42 bits a weight of this model, w3 3.42.
BITS = {"stories260K": ["w4", "w3", *(f"{bits} bits by {harm}" for bits in (4.5, 3.5)
                                      for harm in ("kld", "output"))]}
SCHEMES = "w2,w3,w4,w6"
BUDGETS = {"stories260K": [f"{s} {b}" for s in (0.5, 0.6)
                           for b in ("uniform", "global", "owl", "loss")],
           "vit_cifar10": [f"0.6 {b}" for b in ("uniform", "global", "owl")],
           "resnet20": [f"0.6 {b}" for b in ("uniform", "global", "owl")]}

# What each is to beat.
PLAIN_METHODS = {"gptq": "rtn", "awq": "rtn", "wanda": "magnitude", "sparsegpt": "magnitude"}
PLAIN_SETTINGS = {"4.5 bits by kld": "w4", "3.5 bits by kld": "w3",
                  "0.5 loss": "0.5 uniform", "0.6 loss": "0.6 uniform"}

GRADIENTS = {"resnet20": ["0.5 global", "0.7 global"]}

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
        sparsity, scope = setting.split() if " " in setting else (setting, "layer")
        args = ["prune", model.checkpoint, "-o", out, "--method", method, "--sparsity", sparsity,
                "--scope", scope]
    if method == "wanda":
        args += ["--errors"]
        if model.metric == "top1":  # it makes up for nothing: better that its inputs are whole
            args += ["--propagate", "dense"]
    report = run(*args, *model.arch, *model.calibration)
    after, before = layer_errors(report)
    return {"model": model.name, "method": method, "setting": setting, "metric": model.metric,
            "value": f"{evaluate(model, out):.6g}", "error": after, "error_of_plain": before}


def survey(model, folder, method, setting):
    """The same of what is decided by measuring, with few samples."""
    out, samples = pathlib.Path(folder) / "surveyed.h5", SURVEY_SAMPLES[model.metric]
    at = model.calibration.index("--samples")
    data = [*model.calibration[:at + 1], samples, *model.calibration[at + 2:]]
    if method != "gptq":
        sparsity, budget = setting.split()
        args = ["prune", model.checkpoint, "--sparsity", sparsity, "--budget", budget]
    elif setting.startswith("w"):
        args = ["quantize", model.checkpoint, "--scheme", setting]
    else:
        bits, _, _, harm = setting.split()
        args = ["quantize", model.checkpoint, "--schemes", SCHEMES, "--bits", bits,
                "--sensitivity", harm]
    report = run(*args, "--method", method, "-o", out, "--overwrite", *model.arch, *data)
    after, before = layer_errors(report)
    return {"model": model.name, "method": method, "setting": f"{setting} ({samples} samples)",
            "metric": model.metric, "value": f"{evaluate(model, out):.6g}", "error": after,
            "error_of_plain": before}


def jobs(model):
    """What is measured of a model: (function, method, setting)."""
    parts = {
        "--methods": [(compress, method, setting) for methods, settings in METHODS
                      for setting in settings for method in methods],
        "--bits": [(survey, "gptq", setting) for setting in BITS.get(model.name, [])],
        "--budgets": [(survey, method, setting) for method in ("wanda", "sparsegpt")
                      for setting in BUDGETS.get(model.name, [])],
        "--gradients": [(compress, method, setting) for setting in GRADIENTS.get(model.name, [])
                        for method in ("magnitude", "taylor", "fisher")],
    }
    named = [part for part in parts if part in sys.argv]
    return [job for part, list_ in parts.items() if part in named or not named for job in list_]


def measure(model):
    rows, dense = [], ""
    with tempfile.TemporaryDirectory() as folder:
        for do, method, setting in jobs(model):
            dense = dense or f"{evaluate(model):.6g}"
            rows.append({**do(model, folder, method, setting), "dense": dense})
            TABLE.show(rows[-1])
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
        name, samples, number = setting.partition(" (")
        plain = ((method, PLAIN_SETTINGS.get(name, "") + samples + number) if samples else
                 (PLAIN_METHODS.get(method), setting))
        base = by.get((model, *plain))
        if base is None:
            continue
        for what in ("metric",) if samples else ("metric", "error"):
            known = (model, method, setting, what) in EXCEPTIONS
            good = better(row, base, what)
            if good == known:
                wrong.append(f"{model}: {method} {setting} is {'' if good else 'not '}better than "
                             f"{' '.join(plain)} in {what} ({row['value']} and {base['value']}, "
                             f"errors {row['error']} and {row['error_of_plain']})"
                             + (": take it off the exceptions" if known else ""))
    return wrong


def main():
    rows = [row for model in chosen_models() for row in measure(model)]
    return TABLE.finish(rows, check_order(rows))


if __name__ == "__main__":
    sys.exit(main())
