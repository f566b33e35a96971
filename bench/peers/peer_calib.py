"""The statistics of a layer's inputs, 2048 rows of 4096 features, in PyTorch beside pare's
operations, in turns, as CSV on stdout.

    peer_calib.py --bench build/release/bench/pare_bench_ops [--threads 2] [--rounds 5]

The Hessian is one batch's part of Σ x·xᵀ, which PyTorch has as a full product only; pare's own full
product stands beside it. Seconds are medians over the rounds, of the fastest calls of each. Best
settings of PyTorch are the caller's (BEST in train_side_by_side.py).
"""
import argparse
import csv
import datetime
import io
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import torch

R, K = 2048, 4096


def cpu():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def inputs():
    """Columns of uneven size, with a part that they share."""
    size = torch.exp(0.6 * torch.randn(K))
    return (torch.randn(R, K) + torch.randn(R, 64) @ (torch.randn(64, K) * 0.3)) * size


def mean_kept(h, x):  # GPTQ (Frantar 2022) as the papers' own programs write it
    scaled = x.float().t() * 0.01
    h.mul_(0.9).add_(scaled.matmul(scaled.t()))


def added_in_place(h, x):
    x = x.float()
    h.addmm_(x.t(), x)


def product_in_bf16(h, x):  # rounds every sum to bf16
    h.add_(torch.mm(x.t(), x))


def norms_means_tops(h, x):  # what Wanda, AWQ and SmoothQuant want of every column
    size = x.abs()
    return size.amax(0), size.sum(0, dtype=torch.float64), x.float().square().sum(0)


def histogram(h, x):
    return torch.histc(x.float().abs(), 2048, 0.0, 20.0)


JOBS = {  # operation: what PyTorch does for it; of bf16 inputs only where it says so
    "gram": {"F32": [mean_kept, added_in_place],
             "BF16": [mean_kept, added_in_place, product_in_bf16]},
    "column_stats": {"F32": [norms_means_tops], "BF16": [norms_means_tops]},
    "histogram": {"F32": [histogram], "BF16": [histogram]},
}


def fastest(form, h, x):
    times = []
    for _ in range(3):
        began = time.perf_counter()
        form(h, x)
        times.append(time.perf_counter() - began)
    return min(times)


def bench(program, threads, seconds):
    """Adds one round of pare's rows to seconds."""
    for op in ("gram", "gemm", "column_stats"):  # the first is in histogram's name too
        done = subprocess.run([program, "--calib", "--csv", "--op", op, "--threads", str(threads),
                               "--repeats", "3"], capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
        rows = [row for row in csv.DictReader(io.StringIO("\n".join(lines)))
                if row["name"] != "gemm" or row["detail"] == "the full product"]
        if not rows:
            sys.exit(f"{program} has no row of {op}: {done.stderr.strip()}")
        for row in rows:
            name = "pare" if row["name"] != "gemm" else "pare, the full product"
            key = ("gram" if row["name"] == "gemm" else row["name"], row["dtype"], name)
            seconds.setdefault(key, []).append(float(row["best_seconds"]))


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--bench", required=True)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=5)
    a = arguments.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(a.threads)
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    x, h, seconds = inputs(), torch.zeros(K, K), {}
    data = {"F32": x, "BF16": x.bfloat16()}
    program = f"torch {torch.__version__.split('+')[0]}"
    for _ in range(a.rounds):
        bench(a.bench, a.threads, seconds)
        for job, forms in JOBS.items():
            for dtype, list_ in forms.items():
                for form in list_:
                    key = (job, dtype, f"{program} {form.__name__}")
                    seconds.setdefault(key, []).append(fastest(form, h, data[dtype]))
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("job", "dtype", "program", "seconds", "times_pare", "threads", "rounds", "cpu",
                  "date"))
    for (job, dtype, name), times in seconds.items():
        ours = statistics.median(seconds[job, dtype, "pare"])
        out.writerow((job, dtype, name, f"{statistics.median(times):.6f}",
                      f"{statistics.median(times) / ours:.2f}", a.threads, a.rounds, cpu(),
                      datetime.date.today()))


with torch.no_grad():
    main()
