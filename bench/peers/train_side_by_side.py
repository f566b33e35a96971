"""pare_bench_train beside PyTorch, in turns: medians over rounds, as CSV on stdout.

    train_side_by_side.py --pare build/release/bench/pare_bench_train --torch PYTHON
        [--torch PYTHON] [--rounds 5] [--steps 9] [--threads 2] [--case resnet20 …]
        [--compute f32 …]
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
BEST = {"ATEN_CPU_CAPABILITY": "avx512", "OPENBLAS_CORETYPE": "SkylakeX",
        "OMP_WAIT_POLICY": "active",
        "LD_LIBRARY_PATH": "/usr/lib/x86_64-linux-gnu/openblas-openmp",  # Debian's torch
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=17179869184:"
                          "glibc.malloc.trim_threshold=17179869184"}


def run(command, environment):
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True,
                          text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def cpu():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--pare", required=True)
    p.add_argument("--torch", action="append", default=[])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--steps", type=int, default=9)
    p.add_argument("--case", action="append")
    p.add_argument("--compute", action="append")
    a = p.parse_args()
    print("case,compute,program,forward_ms,step_ms,forward_times_pare,step_times_pare,"
          "step_gflops,share_of_product,threads,rounds,cpu,date")
    for case in a.case or ["resnet20", "encoder", "llama"]:
        for compute in a.compute or ["f32", "bf16"]:
            rest = [case, compute, str(a.threads), str(a.steps)]
            rows = {}
            for _ in range(a.rounds):
                results = [run([a.pare, *rest], {})]
                results += [run([t, str(HERE / "peer_train_torch.py"), *rest], BEST)
                            for t in a.torch]
                for r in results:
                    rows.setdefault(r["program"], []).append(r)
            ours = {k: statistics.median(r[k] for r in rows["pare"])
                    for k in ("forward_seconds", "step_seconds", "product_gflops")}
            flops = rows["pare"][0]["flops"]
            for program, list_ in rows.items():
                f = statistics.median(r["forward_seconds"] for r in list_)
                s = statistics.median(r["step_seconds"] for r in list_)
                rate = 3 * flops / s * 1e-9
                print(f"{case},{compute},{program},{f * 1e3:.1f},{s * 1e3:.1f},"
                      f"{f / ours['forward_seconds']:.2f},{s / ours['step_seconds']:.2f},"
                      f"{rate:.0f},{rate / ours['product_gflops']:.2f},{a.threads},{a.rounds},"
                      f"\"{cpu()}\",{datetime.date.today()}", flush=True)


main()
