"""Wanda on one layer of 4096 × 4096 in PyTorch beside pare's operations, as CSV on stdout.

    peer_wanda.py --bench build/release/bench/pare_bench_ops [--threads 2] [--repeats 9]

Each job scores |w|·‖x‖, selects and zeroes: half of every row, or two of every four. PyTorch's own
forms are the paper's (a stable sort of the rows; topk in groups) and the fastest plain ones known
to us (kthvalue; ranks by six comparisons); pare's time is the sum of its operations' medians.
"""
import argparse
import csv
import datetime
import functools
import io
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import torch

N = 4096
JOBS = {"wanda 50 %": "mask_rows", "wanda 2:4": "mask_nm"}


def cpu():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def rows_by_sort(w, s):
    index = torch.sort(w.abs() * s, dim=1, stable=True)[1][:, :N // 2]
    return w.scatter(1, index, 0)


def rows_by_kth(w, s):
    score = w.abs() * s
    return w * (score > score.kthvalue(N // 2, dim=1, keepdim=True).values)


def groups_by_topk(w, s):
    score = w.abs() * s
    mask = torch.zeros_like(w, dtype=torch.bool)
    for i in range(0, N, 4):
        mask.scatter_(1, i + torch.topk(score[:, i:i + 4], 2, dim=1, largest=False)[1], True)
    return w.masked_fill(mask, 0)


def groups_by_ranks(w, s):
    x, y, z, u = (w.abs() * s).view(-1, 4).unbind(1)
    xy, xz, xu, yz, yu, zu = x >= y, x >= z, x >= u, y >= z, y >= u, z >= u
    count = lambda *masks: sum(mask.to(torch.uint8) for mask in masks) >= 2
    mask = torch.stack((count(xy, xz, xu), count(~xy, yz, yu), count(~xz, ~yz, zu),
                        count(~xu, ~yu, ~zu)), 1)
    return w * mask.view_as(w)


def measure(form, w, s, repeats):
    times = []
    form(w, s)
    for _ in range(repeats):
        began = time.perf_counter()
        form(w, s)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


@functools.cache
def bench(program, op, threads, repeats):
    """Seconds of an operation's first row on the layer."""
    done = subprocess.run([program, "--calib", "--csv", "--op", op, "--threads", str(threads),
                           "--repeats", str(repeats)], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    for row in csv.DictReader(io.StringIO("\n".join(lines))):
        if row["name"] == op and row["detail"].startswith(f"[{N}, {N}]"):
            return float(row["seconds"])
    sys.exit(f"{program} has no row of {op}: {done.stderr.strip()}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--bench", required=True)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--repeats", type=int, default=9)
    a = arguments.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(a.threads)
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    w, s = torch.randn(N, N) * 0.02, torch.rand(N) + 0.5
    forms = {"wanda 50 %": (rows_by_sort, rows_by_kth),
             "wanda 2:4": (groups_by_topk, groups_by_ranks)}
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("job", "program", "seconds", "times_pare", "threads", "cpu", "date"))
    for job, select in JOBS.items():
        parts = [bench(a.bench, op, a.threads, a.repeats)
                 for op in ("keys_scaled", select, "mask_apply")]
        rows = [("pare", sum(parts))]
        rows += [(f"torch {torch.__version__} {form.__name__}", measure(form, w, s, a.repeats))
                 for form in forms[job]]
        for program, seconds in rows:
            out.writerow((job, program, f"{seconds:.5f}", f"{seconds / sum(parts):.2f}", a.threads,
                          cpu(), datetime.date.today()))


main()
