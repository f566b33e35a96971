"""Whole runs with calibration samples, pare beside a plain PyTorch program of the same pipeline, in
turns: medians of paired runs, as CSV on stdout.

    peer_walk.py --pare build/release/pare [--jobs gptq,wanda,sparsegpt] [--rounds 3] [--threads 2]
        [--hidden 1024] [--ffn 2816] [--layers 4] [--samples 32] [--length 512]
        [--mode sequential|block] [--clock wall|cpu]

The PyTorch side is written from the papers: decoder blocks one by one, hidden states of all samples
in memory, for every group of layers with one input a run up to it, the Gram matrix, the inverse's
Cholesky factor, the sweep in panels of 128 columns; then the block again. Both keep float32. Both
measure the error of every layer's output as pare does (the output, rounding or magnitude, the
result). The PyTorch side writes float32 values without codes, once, at the end. --clock cpu counts
seconds of processors, imports left out: for one thread on a machine that others use.
"""
import argparse
import csv
import datetime
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HEAD, VOCABULARY, EPSILON = 64, 1024, 1e-5
SITES = [["q", "k", "v"], ["o"], ["gate", "up"], ["down"]]
NAMES = {**{n: f"self_attn.{n}_proj" for n in "qkvo"},
         **{n: f"mlp.{n}_proj" for n in ("gate", "up", "down")}}
JOBS = {"gptq": ["quantize", "--method", "gptq", "--scheme", "w4g128"],
        "wanda": ["prune", "--method", "wanda", "--sparsity", "0.5"],
        "sparsegpt": ["prune", "--method", "sparsegpt", "--pattern", "2:4"]}
PANEL, GROUP, DAMPING = 128, 128, 0.01


def make_model(folder, a):
    import torch
    from safetensors.torch import save_file
    torch.manual_seed(1)
    d, f = a.hidden, a.ffn
    shapes = {"q": (d, d), "k": (d, d), "v": (d, d), "o": (d, d), "gate": (f, d), "up": (f, d),
              "down": (d, f)}
    tensors = {"model.embed_tokens.weight": torch.randn(VOCABULARY, d),
               "model.norm.weight": torch.ones(d)}
    for i in range(a.layers):
        layer = f"model.layers.{i}."
        for n, shape in shapes.items():
            tensors[f"{layer}{NAMES[n]}.weight"] = torch.randn(shape) * 0.03
        for n in "input_layernorm", "post_attention_layernorm":
            tensors[f"{layer}{n}.weight"] = torch.ones(d)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": d,
        "intermediate_size": f, "num_hidden_layers": a.layers, "num_attention_heads": d // HEAD,
        "num_key_value_heads": d // HEAD, "vocab_size": VOCABULARY, "rms_norm_eps": EPSILON,
        "max_position_embeddings": a.length, "tie_word_embeddings": True}))
    tokens = torch.randint(0, VOCABULARY, (a.samples * a.length + 1,), dtype=torch.int32)
    tokens.numpy().astype("<u2").tofile(folder / "tokens.u16")


class Clock:
    """Seconds by phase."""

    def __init__(self, kind):
        self.now = time.process_time if kind == "cpu" else time.perf_counter
        self.phases, self.last = {}, self.now()

    def add(self, phase):
        now = self.now()
        self.phases[phase] = self.phases.get(phase, 0) + now - self.last
        self.last = now


def torch_side(job, mode, kind, folder, threads, samples, length, batch=8):
    """The PyTorch program; prints phases as JSON."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file, save_file
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    clock = Clock(kind)
    model = load_file(folder / "model.safetensors")
    tokens = torch.from_numpy(np.fromfile(folder / "tokens.u16", "<u2").astype("int64"))
    x = F.embedding(tokens[:samples * length].view(samples, length),
                    model["model.embed_tokens.weight"])
    angle = torch.outer(torch.arange(length), 10000.0 ** -(torch.arange(0, HEAD, 2) / HEAD))
    cos, sin = (t.repeat(1, 2) for t in (angle.cos(), angle.sin()))
    clock.add("read")

    def rotate(t):
        turned = torch.cat((-t[..., HEAD // 2:], t[..., :HEAD // 2]), -1)
        return t * cos + turned * sin

    def norm(h, weight):
        return F.rms_norm(h, (h.shape[-1],), weight, EPSILON)

    def block(w, h, stop=None, seen=None):
        """A decoder block up to the input of site `stop`; `seen` takes inputs of sites."""
        def at(site, value):
            if seen and (stop is None or stop == site):
                seen(site, value)
            return site == stop
        n = norm(h, w["input_layernorm"])
        if at(0, n):
            return None
        q, k, v = (F.linear(n, w[c]).view(*n.shape[:2], -1, HEAD).transpose(1, 2) for c in "qkv")
        mixed = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(h.shape)
        if at(1, mixed):
            return None
        h = h + F.linear(mixed, w["o"])
        n = norm(h, w["post_attention_layernorm"])
        if at(2, n):
            return None
        inner = F.silu(F.linear(n, w["gate"])) * F.linear(n, w["up"])
        if at(3, inner):
            return None
        return h + F.linear(inner, w["down"])

    def statistics_of(w, stop):
        sums = {}

        def seen(site, value):
            clock.add("forward")
            rows = value.reshape(-1, value.shape[-1])
            new = rows.square().sum(0) if job == "wanda" else rows.T @ rows
            sums[site] = sums[site].add_(new) if site in sums else new
            clock.add("statistics")
        for part in x.split(batch):
            block(w, part, stop, seen)
            clock.add("forward")
        return sums

    def factor_of(gram):
        h = gram.clone()
        h.diagonal().add_(DAMPING * h.diagonal().mean())
        return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)

    def scale_of(w):
        return (w.abs().amax(1, keepdim=True) / 7.5).clamp_(min=1e-30)

    def to_nearest(w, scale):
        return torch.clamp(torch.round(w / scale), -8, 7) * scale

    def plain(w):
        if job == "gptq":
            g = w.reshape(-1, GROUP)
            return to_nearest(g, scale_of(g)).view_as(w)
        g = w.abs().view(-1, 4)
        return w * torch.zeros_like(g).scatter_(1, g.topk(2, 1)[1], 1).view_as(w)

    def error(d, gram):
        return ((d @ gram) * d).sum(dtype=torch.float64).item()

    def sweep(w, u):
        w = w.clone()
        for first in range(0, w.shape[1], PANEL):
            p = slice(first, first + PANEL)
            part, part_u, e = w[:, p].t().contiguous(), u[p, p], torch.empty(PANEL, w.shape[0])
            for c in range(PANEL):
                if job == "gptq" and c % GROUP == 0:
                    scale = scale_of(part[c:c + GROUP].t())[:, 0]
                if job == "sparsegpt" and c % 4 == 0:
                    score = part[c:c + 4].square() / part_u.diagonal()[c:c + 4, None].square()
                    gone = torch.zeros_like(score).scatter_(0, score.topk(2, 0, largest=False)[1],
                                                            1).bool()
                q = (to_nearest(part[c], scale) if job == "gptq" else
                     part[c].masked_fill(gone[c % 4], 0))
                e[c] = (part[c] - q) / part_u[c, c]
                part[c:].addr_(part_u[c, c:], e[c], alpha=-1)
                part[c] = q
            w[:, p] = part.t()
            w[:, first + PANEL:].addmm_(e.t(), u[p, first + PANEL:], alpha=-1)
        return w

    def solve(w, layers, stats):
        if job == "wanda":
            for n in layers:
                score = w[n].abs() * stats.sqrt()
                kth = score.kthvalue(score.shape[1] // 2, 1, keepdim=True)[0]
                w[n] = w[n] * (score > kth)
            return clock.add("solve")
        u = factor_of(stats)
        clock.add("factor")
        for n in layers:
            was, all_ = w[n], error(w[n], stats)
            before = error(was - plain(was), stats) / all_
            clock.add("measure")
            w[n] = sweep(was, u)
            clock.add("solve")
            assert 0 <= error(was - w[n], stats) / all_ < 4 * before
            clock.add("measure")

    layers = sum(name.endswith("q_proj.weight") for name in model)
    for i in range(layers):
        at = f"model.layers.{i}."
        w = {n: model[f"{at}{name}.weight"] for n, name in NAMES.items()}
        for n in "input_layernorm", "post_attention_layernorm":
            w[n] = model[f"{at}{n}.weight"]
        together = statistics_of(w, None) if mode == "block" else None
        for site, names in enumerate(SITES):
            stats = together[site] if together else statistics_of(w, site)[site]
            solve(w, names, stats)
        for n, name in NAMES.items():
            model[f"{at}{name}.weight"] = w[n]
        if i + 1 < layers:
            x = torch.cat([block(w, part) for part in x.split(batch)])
        clock.add("forward")
    save_file(model, folder / "torch.safetensors")
    os.sync()
    clock.add("write")
    print(json.dumps(clock.phases))


def spent(kind):
    """A clock: of the wall, or of the processors that finished children had."""
    if kind == "wall":
        return time.perf_counter()
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


def pare_side(a, job, folder):
    """Seconds of the whole program, those of layers as the report has them (of the wall), and what
    was predicted."""
    command = [a.pare, JOBS[job][0], "model", "-o", f"pare-{job}", *JOBS[job][1:], "--data",
               "model/tokens.u16", "--samples", a.samples, "--seq-len", a.length, "--threads",
               a.threads, "--quiet", *(["--no-true-sequential"] if a.mode == "block" else [])]
    subprocess.run(["rm", "-rf", f"pare-{job}", f"pare-{job}.report.json"], cwd=folder, check=True)
    began = spent(a.clock)
    subprocess.run([str(word) for word in command], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL)
    seconds = spent(a.clock) - began
    report = json.loads(subprocess.run([a.pare, "report", f"pare-{job}", "--json"], cwd=folder,
                                       check=True, capture_output=True, text=True).stdout)
    solving, whole = (sum(layer["seconds"] for layer in report["layers"]),
                      report["actual"]["seconds"])
    share = seconds * solving / whole
    phases = {"layers": share, "rest": seconds - share}
    return seconds, phases, report["predicted"]["seconds"]


def other_side(a, job, folder):
    best = {"ATEN_CPU_CAPABILITY": "avx512", "OPENBLAS_CORETYPE": "SkylakeX",
            "OMP_NUM_THREADS": str(a.threads)}
    command = [sys.executable, __file__, "--torch", job, a.mode, a.clock, folder / "model",
               a.threads, a.samples, a.length]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True,
                          text=True, env={**os.environ, **best})
    phases = json.loads(done.stdout)
    return sum(phases.values()), phases, None


def cpu():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def median_of(rounds):
    """The run with the median time, and the median."""
    middle = sorted(rounds, key=lambda r: r[0])[len(rounds) // 2]
    return statistics.median(r[0] for r in rounds), middle


def compare(a, job, folder, out):
    rounds = {"pare": [], "torch": []}
    ratios, loads = [], []
    for _ in range(a.rounds):
        rounds["pare"].append(pare_side(a, job, folder))
        rounds["torch"].append(other_side(a, job, folder))
        ratios.append(rounds["torch"][-1][0] / rounds["pare"][-1][0])
        loads.append(os.getloadavg()[0])
    for who, runs in rounds.items():
        seconds, (_, phases, predicted) = median_of(runs)
        ratio = 1 if who == "pare" else statistics.median(ratios)
        out.writerow((job, a.mode, a.clock, who, f"{seconds:.3f}", f"{ratio:.2f}",
                      f"{predicted:.3f}" if predicted is not None else "",
                      "; ".join(f"{k} {v:.3f}" for k, v in phases.items()),
                      f"{a.layers}x{a.hidden}x{a.ffn}", f"{a.samples}x{a.length}", a.rounds,
                      a.threads, f"{statistics.median(loads):.1f}", cpu(), datetime.date.today()))
        sys.stdout.flush()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--pare", required=True)
    p.add_argument("--jobs", default=",".join(JOBS))
    p.add_argument("--mode", choices=["sequential", "block"], default="sequential")
    p.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    for name, value in (("rounds", 3), ("threads", 2), ("hidden", 1024), ("ffn", 2816),
                        ("layers", 4), ("samples", 32), ("length", 512)):
        p.add_argument(f"--{name}", type=int, default=value)
    a = p.parse_args()
    a.pare = str(pathlib.Path(a.pare).resolve())
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("job", "mode", "clock", "program", "seconds", "times_pare", "predicted_seconds",
                  "phases", "model", "samples", "rounds", "threads", "load", "cpu", "date"))
    with tempfile.TemporaryDirectory(prefix="pare-walk-") as work:
        folder = pathlib.Path(work)
        (folder / "model").mkdir()
        make_model(folder / "model", a)
        for job in a.jobs.split(","):
            compare(a, job, folder, out)


if sys.argv[1:2] == ["--torch"]:
    job, mode, kind, place, *numbers = sys.argv[2:]
    torch_side(job, mode, kind, pathlib.Path(place), *map(int, numbers))
else:
    main()
