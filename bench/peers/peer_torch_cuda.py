#!/usr/bin/env python3
"""What PyTorch does on the same CUDA device for the jobs of `pare_bench_ops --device cuda`: one CSV
row a job, with the bytes that the job must move or its FLOPs. Run it right beside that program.

    peer_torch_cuda.py [--mib 256]
"""
import argparse
import statistics

import torch

F = torch.nn.functional


def measure(run, repeats=20):
    """Median seconds of a call, warm."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def row(name, run, bytes_moved=0.0, flops=0.0):
    seconds = measure(run)
    print(f"{name},{bytes_moved:.0f},{flops:.0f},{seconds:.9f},{bytes_moved / seconds * 1e-9:.1f},"
          f"{flops / seconds * 1e-12:.2f}", flush=True)


def quantize_group(w, group=128):
    """int4 codes of groups, packed two a byte: the straightforward way."""
    x = w.float().view(-1, group)
    s = (x.abs().amax(1, keepdim=True) / 7.5).to(w.dtype).float()
    q = torch.clamp(torch.round(x / s), -8, 7).to(torch.int8).view(-1, 2)
    return (q[:, 0] & 15) | (q[:, 1] << 4)


def mask_2_4(w):
    x = w.abs().view(-1, 4)
    return torch.zeros_like(x, dtype=torch.bool).scatter_(1, x.topk(2, dim=1).indices, True)


def memory_rows(n):
    f32, bf16 = torch.randn(n, device="cuda"), torch.randn(n, device="cuda").bfloat16()
    out, mask = torch.empty_like(f32), torch.rand(n, device="cuda") > 0.5
    row("copy f32", lambda: out.copy_(f32), 8 * n)
    row("int4 g128 from bf16", lambda: quantize_group(bf16), 2.5 * n)
    row("mask 2:4 of f32", lambda: mask_2_4(f32), 4.125 * n)
    row("mask apply f32", lambda: f32.mul_(mask), 9 * n)
    row("kthvalue of f32", lambda: torch.kthvalue(f32.abs(), n // 2), 4 * n)
    w = torch.nn.Parameter(torch.randn(n, device="cuda"))
    w.grad = torch.randn(n, device="cuda")
    adam = torch.optim.AdamW([w], lr=1e-6, fused=True)
    row("adamw fused", adam.step, 28 * n)


def loss_rows():
    rows, vocabulary = 4096, 32000
    x = torch.randn(rows, vocabulary, device="cuda").bfloat16().requires_grad_()
    t = torch.randn(rows, vocabulary, device="cuda").bfloat16()
    labels = torch.randint(vocabulary, (rows,), device="cuda")

    def cross_entropy():
        x.grad = None
        F.cross_entropy(x.float(), labels).backward()

    def kl():
        x.grad = None
        F.kl_div(F.log_softmax(x.float(), -1), F.log_softmax(t.float(), -1), log_target=True,
                 reduction="batchmean").backward()
    row("cross entropy and gradient, bf16", cross_entropy, 4.0 * rows * vocabulary)
    row("kl and gradient, bf16", kl, 6.0 * rows * vocabulary)


def product_rows():
    for n in (4096, 8192):
        a, b = (torch.randn(n, n, device="cuda").bfloat16() for _ in range(2))
        row(f"product bf16 {n}", lambda: a @ b.t(), 6.0 * n * n, 2.0 * n ** 3)
    a, b = (torch.randint(-128, 127, (4096, 4096), device="cuda").to(torch.int8) for _ in range(2))
    row("product int8 4096", lambda: torch._int_mm(a, b.t()), 6.0 * 4096 ** 2, 2.0 * 4096 ** 3)
    q = torch.randn(4, 32, 4096, 128, device="cuda").bfloat16().requires_grad_()
    flops = 4.0 * 4 * 32 * 4096 ** 2 * 128 / 2
    row("attention causal, D 128, T 4096", lambda: F.scaled_dot_product_attention(
        q, q, q, is_causal=True), 0, flops)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=256, help="of f32 in the memory-bound rows")
    args = parser.parse_args()
    print(f"# PyTorch {torch.__version__}, {torch.cuda.get_device_name()}")
    print("job,bytes,flops,seconds,gb_per_s,tflop_per_s")
    memory_rows(args.mib << 18)
    loss_rows()
    product_rows()


if __name__ == "__main__":
    main()
