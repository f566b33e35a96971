# labels: long
"""Calibrated compression of real checkpoints: quality as rows to review.

Every method runs on every model; what comes out (perplexity or top-1, and the mean relative error
of the layers' outputs, beside that of the plain method for the same inputs) is compared with the
rows of quality.csv beside this script. What the literature says of the methods is asserted: GPTQ
and AWQ beat rounding to nearest, SparseGPT and Wanda beat magnitude, in both. Of a top-1, less than
a standard error of the difference is no difference. Exceptions are listed with their reasons.

  regress.py [--write] [MODEL ...]    --write replaces the rows by what was measured
"""
import csv
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
from support import DATA, PARE, skip  # noqa: E402
import json  # noqa: E402

TABLE = HERE / "quality.csv"
COLUMNS = ["model", "method", "setting", "metric", "value", "dense", "error", "error_of_plain"]

QUANT = ["w4", "w3", "w4g32", "w3g32"]
PRUNE = ["0.5", "0.6", "2:4"]

# What a top-1 is measured on.
SAMPLES = {"bert_tiny_sst2": 872, "vit_cifar10": 10000, "resnet8": 10000, "resnet20": 10000,
           "resnet32": 10000, "resnet44": 10000}

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


class Model:
    """A checkpoint, the data it is calibrated with and the data it is measured on."""

    def __init__(self, name, checkpoint, metric, calibration, measure, arch=None):
        self.name, self.checkpoint, self.metric = name, checkpoint, metric
        self.calibration, self.measure, self.arch = calibration, measure, arch

    def there(self):
        return self.checkpoint.exists()


def models():
    root = pathlib.Path(DATA)
    tokens = root / "stories260K" / "tinystories_917.tok512.u16"
    cifar = root / "cifar10"
    pictures = ["--data", cifar / "train_20000.bin", "--samples", 512]
    test = ["--data", cifar / "test_batch.bin"]
    sst2 = root / "bert_tiny_sst2"
    resnets = root / "resnet_cifar10"
    vit = "vit:patch=4,dim=128,depth=6,heads=8,mlp=256,size=32"
    rows = ["--seq-len", 64, "--pad-id", 0]
    return [
        Model("stories260K", root / "stories260K", "ppl",
              ["--data", tokens, "--seq-len", 512, "--samples", 128, "--skip", 200],
              ["--data", tokens, "--seq-len", 512, "--samples", 200]),
        Model("bert_tiny_sst2", sst2, "top1",
              ["--data", sst2 / "sst2_heldout_2000.ids.u16", "--labels",
               sst2 / "sst2_heldout_2000.labels.u8", *rows, "--samples", 512],
              ["--data", sst2 / "sst2_glue_dev_872.ids.u16", "--labels",
               sst2 / "sst2_glue_dev_872.labels.u8", *rows]),
        Model("vit_cifar10", root / "vit_cifar10" / "vit_cifar10.safetensors", "top1", pictures,
              test, vit),
        Model("resnet8", root / "mlperf_tiny_resnet8" / "resnet8.safetensors", "top1", pictures,
              test, "resnet8-tiny"),
        *[Model(f"resnet{n}", resnets / f"resnet{n}.safetensors", "top1", pictures, test,
                f"resnet{n}-cifar") for n in (20, 32, 44)],
    ]


def run(*args):
    done = subprocess.run([PARE, *map(str, args), "--json", "--quiet"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, args))}: exit {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def evaluate(model, checkpoint, arch):
    more = ["--arch", arch] if arch else []
    return run("eval", checkpoint, *more, *model.measure, "--metric", model.metric)[model.metric]


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
    arch = ["--arch", model.arch] if model.arch else []
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
    report = run(*args, *arch, *model.calibration)
    value = evaluate(model, out, None if carries_arch(out) else model.arch)
    after, before = layer_errors(report)
    return {"model": model.name, "method": method, "setting": setting, "metric": model.metric,
            "value": f"{value:.6g}", "error": after, "error_of_plain": before}


def carries_arch(path):
    return path.suffix == ".h5"


def measure(model):
    dense = f"{evaluate(model, model.checkpoint, model.arch):.6g}"
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
        print(*(row[c] for c in COLUMNS), sep=",", flush=True)
    return rows


def better(row, base, what):
    """Whether row is at least as good as the plain method's."""
    if what == "error":
        return not row["error"] or float(row["error"]) <= float(row["error_of_plain"])
    mine, theirs = float(row["value"]), float(base["value"])
    if row["metric"] == "ppl":
        return mine <= theirs
    share = (mine + theirs) / 2
    return mine >= theirs - (2 * share * (1 - share) / SAMPLES[row["model"]]) ** 0.5


def check_order(rows):
    """Sentences about what is not as the literature has it and is no listed exception."""
    by = {(r["model"], r["method"], r["setting"]): r for r in rows}
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


def check_rows(rows, table):
    """The same numbers as before, but for what another machine's rounding may move."""
    wrong = []
    for row in rows:
        key = (row["model"], row["method"], row["setting"])
        old = table.get(key)
        if old is None:
            wrong.append(f"{key}: there is no row yet (--write)")
            continue
        slack = 0.02 * float(old["value"]) if old["metric"] == "ppl" else 0.01
        if abs(float(row["value"]) - float(old["value"])) > slack:
            wrong.append(f"{key}: {row['metric']} was {old['value']}, is {row['value']}")
    return wrong


def read_table():
    if not TABLE.exists():
        return {}
    with TABLE.open(newline="") as file:
        return {(r["model"], r["method"], r["setting"]): r for r in csv.DictReader(file)}


def write_table(table):
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table.values())


def main():
    if not DATA:
        skip("PARE_TEST_DATA is not set: there are no real checkpoints")
    names = [a for a in sys.argv[1:] if not a.startswith("--")]
    chosen = [m for m in models() if m.there() and (not names or m.name in names)]
    if not chosen:
        skip(f"{DATA} holds none of the models")
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    table, rows = read_table(), []
    for model in chosen:
        rows += measure(model)
    wrong = check_order(rows)
    if "--write" in sys.argv:
        for row in rows:
            table[(row["model"], row["method"], row["setting"])] = row
        write_table(table)
    else:
        wrong += check_rows(rows, table)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
