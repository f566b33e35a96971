"""What the scripts of this folder share: the real checkpoints with the data they are calibrated and
measured on, running pare on them, and the tables of rows beside the scripts."""
import csv
import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from support import DATA, PARE, skip  # noqa: E402

# What a top-1 is measured on.
SAMPLES = {"bert_tiny_sst2": 872, "vit_cifar10": 10000, "resnet8": 10000, "resnet20": 10000,
           "resnet32": 10000, "resnet44": 10000}


class Model:
    """A checkpoint, the data it is calibrated with and the data it is measured on."""

    def __init__(self, name, checkpoint, metric, calibration, measure, arch=None):
        self.name, self.checkpoint, self.metric = name, checkpoint, metric
        self.calibration, self.measure = calibration, measure
        self.arch = ["--arch", arch] if arch else []

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


def chosen_models(has=None):
    """Those that the command line names and the test data hold; has: names that have rows."""
    if not DATA:
        skip("PARE_TEST_DATA is not set: there are no real checkpoints")
    names = [a for a in sys.argv[1:] if not a.startswith("--")]
    chosen = [m for m in models() if m.there() and (not names or m.name in names)
              and (has is None or m.name in has)]
    if not chosen:
        skip(f"{DATA} holds none of the models")
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    return chosen


def run(*args):
    done = subprocess.run([PARE, *map(str, args), "--json", "--quiet"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, args))}: exit {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def evaluate(model, checkpoint=None):
    """The model's metric: of what was made of it (which carries its architecture), or of itself."""
    if checkpoint:
        report = run("eval", checkpoint, *model.measure, "--metric", model.metric)
    else:
        report = run("eval", model.checkpoint, *model.arch, *model.measure, "--metric",
                     model.metric)
    return report[model.metric]


def as_good(row, base):
    """Whether a row's value is not worse than another's; of a top-1, less than a standard error of
    the difference is no difference."""
    mine, theirs = float(row["value"]), float(base["value"])
    if row["metric"] == "ppl":
        return mine <= theirs
    share = (mine + theirs) / 2
    return mine >= theirs - (2 * share * (1 - share) / SAMPLES[row["model"]]) ** 0.5


class Table:
    """Rows of a CSV file, by the columns that tell one from another."""

    def __init__(self, path, keys, columns):
        self.path, self.keys, self.columns = path, keys, [*keys, *columns]

    def key(self, row):
        return tuple(row[k] for k in self.keys)

    def read(self):
        if not self.path.exists():
            return {}
        with self.path.open(newline="") as file:
            return {self.key(r): r for r in csv.DictReader(file)}

    def write(self, rows):
        """Puts rows into the file, in the place of those of the same keys."""
        table = self.read() | {self.key(r): r for r in rows}
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table.values())

    def show(self, row):
        print(*(row[c] for c in self.columns), sep=",", flush=True)

    def check(self, rows):
        """Sentences on what differs from the file by more than another machine's rounding moves."""
        table, wrong = self.read(), []
        for row in rows:
            old = table.get(self.key(row))
            if old is None:
                wrong.append(f"{self.key(row)}: there is no row yet (--write)")
                continue
            slack = 0.02 * float(old["value"]) if old["metric"] == "ppl" else 0.01
            if abs(float(row["value"]) - float(old["value"])) > slack:
                wrong.append(f"{self.key(row)}: {row['metric']} was {old['value']}, "
                             f"is {row['value']}")
        return wrong

    def finish(self, rows, wrong):
        """Writes or compares the rows and tells what is wrong; the exit status."""
        if "--write" in sys.argv:
            self.write(rows)
        else:
            wrong = wrong + self.check(rows)
        print(*wrong, sep="\n")
        return 1 if wrong else 0
