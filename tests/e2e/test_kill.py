"""kill -9 at random times, the same command again until it is done: the bytes of a run never
cut."""
# labels: quick long serial
import random
import signal
import subprocess
import time

import numpy as np

from support import LONG, PARE, folder, main, pare, tensor, tree, write

KILLS = 1000 if LONG else 20
JOBS = [
    ("quantize", "x.safetensors", "-o", "{out}", "--method", "rtn", "--scheme", "w4g128"),
    ("prune", "x.safetensors", "-o", "{out}", "--method", "magnitude", "--sparsity", "0.5",
     "--scope", "global"),
]
ENDINGS = ["", ".safetensors", ".h5"]


def source(work):
    rng = np.random.default_rng(9)
    tensors = {f"layer{i}.weight": tensor("F32", rng.standard_normal((1024, 2048), np.float32))
               for i in range(12 if LONG else 8)}
    write(work / "x.safetensors", tensors)


def killed(command, work, after):
    """Starts a run and kills it; False if it was done before."""
    with open(work / "stderr.txt", "w") as said:
        process = subprocess.Popen([PARE, *command], cwd=work, stdout=subprocess.DEVNULL,
                                   stderr=said)
    try:
        code = process.wait(after)
        assert code == 0, f"{command}: exit {code}: {(work / 'stderr.txt').read_text()}"
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def unfinished(work, out):
    """What a run that is not through has beside its output."""
    return [path.name for path in work.glob(f"{out}.*") if path.name != f"{out}.report.json"]


def killed_runs_end_with_the_same_bytes():
    random.seed(4)
    kills = rounds = 0
    with folder() as work:
        source(work)
        variants = [(job, ending) for job in JOBS for ending in ENDINGS]
        uncut = {}
        for number, (job, ending) in enumerate(variants):
            command = [word.format(out=f"uncut{number}{ending}") for word in job]
            began = time.monotonic()
            pare(*command, cwd=work)
            uncut[number] = time.monotonic() - began, tree(work / f"uncut{number}{ending}")
        while kills < KILLS:
            for number, (job, ending) in enumerate(variants):
                out = f"cut{rounds}-{number}{ending}"
                command = [word.format(out=out) for word in job]
                span, want = uncut[number]
                while killed(command, work, random.uniform(0, 1.2 * span)):
                    kills += 1
                    there = (work / out).exists()
                    assert not there or tree(work / out) == want, (
                        "a cut run left something else under the final name")
                    if there and not unfinished(work, out):
                        break  # killed when all was done but the exit
                assert tree(work / out) == want, f"{command}: other bytes after a kill"
                assert not unfinished(work, out), unfinished(work, out)
                pare("report", out, cwd=work)
                for path in work.glob(f"cut{rounds}-{number}*"):
                    subprocess.run(["rm", "-rf", path], check=True)
            rounds += 1
    return f"{kills} kills, {rounds * len(variants)} finished runs"


main([killed_runs_end_with_the_same_bytes])
