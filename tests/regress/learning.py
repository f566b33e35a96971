# labels: long
"""What teachers, schedules of masks and training through quantisers are worth, on real data.

Each case is a training (or two in a row) of a student, three seeds, measured on data that it did
not see; the rows of learning.csv beside this script say what came out: the mean (value) and its
spread. Asserted, as pairs of cases: what is learned from a teacher
beats labels alone; what is retrained keeps its share of the dense value; training through a
quantiser keeps more than rounding does.

  learning.py [--write] [--seeds N] [CASE ...]    a case: a name below, or the beginning of one
"""
import os
import pathlib
import statistics
import sys
import tempfile

import checkpoints
from checkpoints import Table, models
from support import DATA, skip

HERE = pathlib.Path(__file__).resolve().parent
TABLE = Table(HERE / "learning.csv", ["case"],
              ["metric", "value", "least", "most", "seeds", "dense"])
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
BIG = "cnn:32-p-64-p-128-p-256,classes=10,size=28,in=1"  # 391,850 parameters
SMALL = "cnn:8-p-16-p-32,classes=10,size=28,in=1"


def run(*args):
    return checkpoints.run(*args, "--threads", os.environ.get("PARE_LEARNING_THREADS", "2"))


class Place:
    """Data, teachers that are trained once, and how students are measured."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.by_name = {m.name: m for m in models()}
        cifar = pathlib.Path(DATA) / "cifar10"
        story = self.by_name["stories260K"]
        self.train = {
            "fashion": ["--data", f"{FASHION}#train", "--crop", 2, "--flip", "--batch", 128],
            "cifar": ["--data", cifar / "train_20000.bin", "--crop", 4, "--flip", "--batch", 128],
            "stories": ["--data", story.calibration[1], "--seq-len", 512, "--skip", 200, "--batch",
                        8],
        }
        self.measure = {
            "fashion": (["--data", f"{FASHION}#test"], "top1"),
            "cifar": (["--data", cifar / "test_batch.bin"], "top1"),
            "stories": (story.measure, "ppl"),
        }
        self.dense = {}

    def eval(self, kind, checkpoint, arch=()):
        data, metric = self.measure[kind]
        return run("eval", checkpoint, *arch, *data, "--metric", metric)[metric]

    def teacher(self, name):
        """(checkpoint, --arch …) of a teacher."""
        if name == "fashion":
            path = self.folder / "fashion-teacher.h5"
            if not path.exists():
                run("train", BIG, *self.train["fashion"], "--epochs", 12, "--lr", 0.05, "--warmup",
                    400, "-o", path)
            return path, []
        model = self.by_name[name]
        return model.checkpoint, model.arch

    def dense_value(self, kind, name):
        if name not in self.dense:
            checkpoint, arch = self.teacher(name)
            self.dense[name] = self.eval(kind, checkpoint, arch)
        return self.dense[name]


def distill(place, kind, teacher, out, *args):
    checkpoint, arch = place.teacher(teacher)
    teach = ["--teacher", checkpoint, *(["--teacher-arch", arch[1]] if arch else [])]
    if kind != "stories":
        teach += ["--teacher-precision", "bf16"]
    return run("distill", *teach, *place.train[kind], *args, "-o", out)


def labels(kind, teacher, shape, *args):
    """A student that no teacher helps."""
    def do(place, seed, out):
        run("train", shape, *place.train[kind], *args, "--seed", seed, "-o", out)
    return kind, teacher, do


def student(loss, kind, teacher, shape, *args):
    """A student of a shape, or cut out of the teacher."""
    def do(place, seed, out):
        distill(place, kind, teacher, out, "--student", shape, "--loss", loss, "--seed", seed,
                *args)
    return kind, teacher, do


def retrained(kind, teacher, *args, loss="kl:1"):
    """The teacher itself, made smaller while it learns from what it was."""
    def do(place, seed, out):
        checkpoint, arch = place.teacher(teacher)
        start = place.folder / f"{teacher}-start.h5"
        if not start.exists():
            run("convert", checkpoint, "-o", start)
        distill(place, kind, teacher, out, *arch, "--student", start, "--loss", loss, "--seed",
                seed, *args)
    return kind, teacher, do


def compressed(kind, teacher, *args):
    """The teacher pruned or quantised at once, without training."""
    def do(place, seed, out):
        checkpoint, arch = place.teacher(teacher)
        run(args[0], checkpoint, *arch, *args[1:], "--seed", seed, "-o", out)
    return kind, teacher, do


def recovered(kind, teacher, compress, *args, loss="kl:1"):
    """Pruned at once, then taught by what it was."""
    def do(place, seed, out):
        checkpoint, arch = place.teacher(teacher)
        cut = place.folder / "cut.h5"
        run(compress[0], checkpoint, *arch, *compress[1:], "-o", cut, "--overwrite")
        distill(place, kind, teacher, out, "--student", cut, "--loss", loss, "--seed", seed, *args)
    return kind, teacher, do


FASHION_SHORT = ("--epochs", 8, "--lr", 0.05, "--warmup", 200)
CIFAR_SHORT = ("--epochs", 10, "--lr", 0.1, "--warmup", 100)
STORIES = ("--steps", 600, "--lr", 2e-3, "--warmup", 30)
VIT_SHORT = ("--epochs", 8, "--optimizer", "adamw", "--lr", 1e-3, "--warmup", 200)
# As the teachers take pixels: who begins with a teacher does so unasked.
PIXELS = ("--scale", 1 / 255, "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
TEACH, TEACH_VIT = ("--temperature", 4), ("--temperature", 2)

CASES = {
    # a student beside the same one trained on labels (or tokens) alone
    "fashion labels": labels("fashion", "fashion", SMALL, *FASHION_SHORT),
    "fashion teacher": student("kl:0.9,ce:0.1", "fashion", "fashion", SMALL, *FASHION_SHORT,
                               *TEACH),
    "cifar labels": labels("cifar", "resnet44", "resnet8-tiny", *CIFAR_SHORT, *PIXELS),
    "cifar teacher": student("kl:0.9,ce:0.1", "cifar", "resnet44", "resnet8-tiny", *CIFAR_SHORT,
                             *TEACH),
    "stories tokens": student("ce:1", "stories", "stories260K", "2x64", *STORIES),
    "stories teacher": student("kl:1,ce:1", "stories", "stories260K", "2x64", *STORIES),
    # pruned while it learns, beside pruned at once
    "fashion 90 % at once": compressed("fashion", "fashion", "prune", "--sparsity", 0.9),
    "fashion 90 % gradual": retrained("fashion", "fashion", "--masks", "gradual", "--sparsity", 0.9,
                                      "--scope", "global", "--epochs", 8, "--lr", 0.02, *TEACH),
    "resnet20 70 % at once": compressed("cifar", "resnet20", "prune", "--sparsity", 0.7),
    "resnet20 70 % gradual": retrained("cifar", "resnet20", "--masks", "gradual", "--sparsity", 0.7,
                                       "--scope", "global", "--epochs", 12, "--lr", 0.02, *TEACH),
    "stories 2:4 at once": compressed("stories", "stories260K", "prune", "--pattern", "2:4"),
    "stories 2:4 taught": recovered("stories", "stories260K", ("prune", "--pattern", "2:4"),
                                    *STORIES, loss="kl:1,ce:1"),
    # training through a quantiser, beside rounding
    "fashion w4t rounded": compressed("fashion", "fashion", "quantize", "--scheme", "w4t"),
    "fashion w4t trained": retrained("fashion", "fashion", "--qat", "w4t", "--epochs", 4, "--lr",
                                     0.01, *TEACH),
    "resnet20 w4 rounded": compressed("cifar", "resnet20", "quantize", "--scheme", "w4"),
    "resnet20 w4 trained": retrained("cifar", "resnet20", "--qat", "w4", "--epochs", 5, "--lr",
                                     0.01, *TEACH),
    # what a transformer learns from (the same student, the same steps)
    "vit labels": student("ce:1", "cifar", "vit_cifar10", "3x64", *VIT_SHORT),
    "vit outputs": student("kl:1", "cifar", "vit_cifar10", "3x64", *VIT_SHORT, *TEACH_VIT),
    "vit hidden": student("kl:1,hidden:1", "cifar", "vit_cifar10", "3x64", *VIT_SHORT, *TEACH_VIT),
    "vit relations": student("kl:1,relation:1", "cifar", "vit_cifar10", "3x64", *VIT_SHORT,
                             *TEACH_VIT),
}

# (the better, the worse): beyond the spread of either is not asked for, the mean is.
BETTER = [("fashion teacher", "fashion labels"), ("cifar teacher", "cifar labels"),
          ("stories teacher", "stories tokens"), ("fashion 90 % gradual", "fashion 90 % at once"),
          ("resnet20 70 % gradual", "resnet20 70 % at once"),
          ("fashion w4t trained", "fashion w4t rounded"),
          ("resnet20 w4 trained", "resnet20 w4 rounded")]
KEEPS = {"fashion 90 % gradual": 0.99, "resnet20 70 % gradual": 0.99, "fashion w4t trained": 0.99,
         "resnet20 w4 trained": 0.99}  # of dense accuracy
RECOVERS = [("stories 2:4 taught", "stories 2:4 at once", 0.5)]  # of the lost perplexity


def measure(place, name, seeds):
    kind, teacher, do = CASES[name]
    values = []
    for seed in range(1 if do.__qualname__.startswith("compressed") else seeds):
        out = place.folder / "student.h5"
        for left in place.folder.glob("student.h5*"):
            left.unlink()
        do(place, seed, out)
        values.append(place.eval(kind, out))
        print(f"{name}, seed {seed}: {values[-1]:.5g}", file=sys.stderr, flush=True)
    return {"case": name, "metric": place.measure[kind][1],
            "value": f"{statistics.mean(values):.6g}", "least": f"{min(values):.6g}",
            "most": f"{max(values):.6g}", "seeds": str(len(values)),
            "dense": f"{place.dense_value(kind, teacher):.6g}"}


def judge(rows):
    mean = {r["case"]: float(r["value"]) for r in rows}
    dense = {r["case"]: float(r["dense"]) for r in rows}
    ppl = {r["case"] for r in rows if r["metric"] == "ppl"}
    wrong = []
    for better, worse in BETTER:
        if better in mean and worse in mean and (
                mean[better] >= mean[worse] if better in ppl else mean[better] <= mean[worse]):
            wrong.append(f"{better} ({mean[better]:.5g}) is no better than {worse} "
                         f"({mean[worse]:.5g})")
    for case, share in KEEPS.items():
        if case in mean and mean[case] < share * dense[case]:
            wrong.append(f"{case} keeps {mean[case] / dense[case]:.4f} of {dense[case]:.5g}, "
                         f"less than {share}")
    for case, base, share in RECOVERS:
        if case in mean and base in mean and (
                mean[base] - mean[case] < share * (mean[base] - dense[base])):
            wrong.append(f"{case}: {mean[case]:.5g} wins back less than {share} of what "
                         f"{mean[base]:.5g} lost to {dense[base]:.5g}")
    return wrong


def main():
    if not DATA:
        skip("PARE_TEST_DATA is not set: there are no real checkpoints")
    if not FASHION.exists():
        skip(f"{FASHION} is not there: install dataset-fashion-mnist")
    args = [a for a in sys.argv[1:] if not a.startswith("--")]
    seeds = 3
    if "--seeds" in sys.argv:
        seeds = int(sys.argv[sys.argv.index("--seeds") + 1])
        args.remove(str(seeds))
    names = [n for n in CASES if not args or any(n.startswith(a) for a in args)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Place(os.environ.get("PARE_LEARNING_FOLDER", folder))
        for name in names:
            rows.append(measure(place, name, seeds))
            TABLE.show(rows[-1])
            if "--write" in sys.argv:
                TABLE.write(rows)
    every = TABLE.read() | {TABLE.key(r): r for r in rows}
    sys.exit(TABLE.finish(rows, judge(list(every.values()))))


if __name__ == "__main__":
    main()
