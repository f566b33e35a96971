"""GPTQ and SparseGPT on one layer in PyTorch beside pare's sweep, as CSV on stdout.

    peer_sweep.py --bench build/release/bench/pare_bench_sweep
                  [--threads 2] [--rounds 5] [--columns 4096]

PyTorch's side is written from the papers: the factor by cholesky, cholesky_inverse, cholesky; the
sweep in blocks of 128 columns, a column of all rows at a time, the columns behind a block by one
product; SparseGPT's threshold from a sort of the block. Programs take turns in every round; what is
given are medians over the rounds, and the median of the ratios within a round.
"""
import argparse
import csv
import datetime
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import torch

BLOCK = 128


def cpu():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def factor(gram):
    damped = gram.clone()
    damped.diagonal().add_(0.01 * gram.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def sweep(w, u, keep_of=None, group_keep=None, rounding=None):
    """keep_of(block, d): a mask of the block; group_keep: the same of four columns at their turn;
    rounding: a function that makes one for a group's columns."""
    w = w.clone()
    for first in range(0, len(u), BLOCK):
        block = w[:, first:first + BLOCK].clone()
        part = u[first:first + BLOCK, first:first + BLOCK]
        d = part.diagonal()
        errors = torch.empty_like(block)
        keep = keep_of(block, d) if keep_of else None
        if group_keep:
            keep = torch.ones_like(block, dtype=torch.bool)
        rounded = rounding(block) if rounding else None
        for c in range(BLOCK):
            if group_keep and c % 4 == 0:
                group_keep(block[:, c:c + 4], d[c:c + 4], keep[:, c:c + 4])
            column = block[:, c]
            q = rounded(column) if rounded else column
            if keep is not None:
                q = torch.where(keep[:, c], q, torch.zeros(()))
            error = (column - q) / d[c]
            block[:, c:].addr_(error, part[c, c:], alpha=-1)
            block[:, c] = q
            errors[:, c] = error
        w[:, first:first + BLOCK] = block
        w[:, first + BLOCK:].addmm_(errors, u[first:first + BLOCK, first + BLOCK:], alpha=-1)
    return w


def four_bits(block):
    scale = block.abs().amax(1).clamp_(min=1e-9) / 7.5
    return lambda column: (column / scale).round_().clamp_(-8, 7).mul_(scale)


def half_by_sort(block, d):
    score = (block / d) ** 2
    return score > score.flatten().sort()[0][score.numel() // 2 - 1]


def half_by_kth(block, d):
    score = (block / d) ** 2
    return score > score.flatten().kthvalue(score.numel() // 2)[0]


def two_of_four(columns, d, keep):
    least = torch.topk((columns / d) ** 2, 2, dim=1, largest=False)[1]
    keep.scatter_(1, least, False)


def jobs(w, gram, u):
    return {
        "factor": [("", lambda: factor(gram))],
        "gptq w4g128": [("", lambda: sweep(w, u, rounding=four_bits))],
        "sparsegpt 50 %": [(" by sort", lambda: sweep(w, u, keep_of=half_by_sort)),
                           (" by kthvalue", lambda: sweep(w, u, keep_of=half_by_kth))],
        "sparsegpt 2:4": [("", lambda: sweep(w, u, group_keep=two_of_four))],
    }


def pares(program, threads, columns):
    command = [program, str(threads), str(columns), "1"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {row["job"]: float(row["seconds"]) for row in csv.DictReader(out.splitlines())}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--bench", required=True)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--columns", type=int, default=4096)
    a = arguments.parse_args()
    n = a.columns
    torch.set_num_threads(a.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(1)
    x = (torch.randn(2 * n, n) + torch.randn(2 * n, 32) @ torch.randn(32, n) * 0.3)
    x *= torch.exp(0.6 * torch.randn(n))
    w, gram = torch.randn(n, n) * 0.02, x.t() @ x
    forms = jobs(w, gram, factor(gram))
    seconds, ratios = {}, {}
    for turn in range(a.rounds):
        ours = pares(a.bench, a.threads, n)
        for job, ways in forms.items():
            seconds.setdefault((job, "pare"), []).append(ours[job])
            for name, run in ways:
                if turn == 0:
                    run()
                began = time.perf_counter()
                run()
                key = job, f"torch {torch.__version__}{name}"
                seconds.setdefault(key, []).append(time.perf_counter() - began)
                ratios.setdefault(key, []).append(seconds[key][-1] / ours[job])
        print(f"round {turn + 1} of {a.rounds}", file=sys.stderr, flush=True)
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("job", "program", "seconds", "times_pare", "columns", "threads", "rounds", "cpu",
                  "date"))
    for key, times in seconds.items():
        ratio = statistics.median(ratios.get(key, [1.0]))
        out.writerow((*key, f"{statistics.median(times):.4f}", f"{ratio:.2f}", n, a.threads,
                      a.rounds, cpu(), datetime.date.today()))


main()
