"""Seconds of a forward and of a training step of three models in PyTorch, as pare_bench_train
measures them: peer_train_torch.py CASE f32|bf16 [THREADS [STEPS]]; prints one JSON object.

Best settings are the caller's (train_side_by_side.py): ATEN_CPU_CAPABILITY=avx512,
OPENBLAS_CORETYPE=SkylakeX, OMP_WAIT_POLICY=active, large malloc thresholds; channels-last images.
bf16 is autocast over f32 weights, as training uses it.
"""
import json
import os
import statistics
import sys
import time

CASE, COMPUTE = sys.argv[1:3]
THREADS = int(sys.argv[3]) if sys.argv[3:] else 2
STEPS = int(sys.argv[4]) if sys.argv[4:] else 9
WARM = 3
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, str(THREADS))

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(THREADS)
torch.manual_seed(0)
BF16 = COMPUTE == "bf16"


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=BF16)


class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.c2, self.b2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.pad = (o - i) // 2

    def forward(self, x):
        h = self.b2(self.c2(F.relu(self.b1(self.c1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(h + x)


class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.b = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        blocks = []
        for i, o, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
            blocks += [Block(i, o, stride), Block(o, o, 1), Block(o, o, 1)]
        self.blocks, self.f = nn.Sequential(*blocks), nn.Linear(64, 10)

    def forward(self, x):
        return self.f(self.blocks(F.relu(self.b(self.c(x)))).mean((2, 3)))


class Encoder(nn.Module):
    def __init__(self, layers=6, d=384, heads=12, vocabulary=30522):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocabulary, d), nn.Embedding(512, d)
        layer = nn.TransformerEncoderLayer(d, heads, 4 * d, 0.0, "gelu", batch_first=True)
        self.enc = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(d, 10)

    def forward(self, ids):
        x = self.tok(ids) + self.pos(torch.arange(ids.shape[1]))
        return self.head(self.enc(x)[:, 0])


def rms_norm(x, weight):
    f = x.float()
    return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * weight


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class LlamaLayer(nn.Module):
    def __init__(self, d, heads, ffn):
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(d, ffn, bias=False), nn.Linear(d, ffn, bias=False)
        self.down = nn.Linear(ffn, d, bias=False)

    def forward(self, x, cos, sin, mask):
        B, T, D = x.shape
        n = rms_norm(x, self.n1)
        q, k, v = (f(n).view(B, T, self.heads, -1).transpose(1, 2)
                   for f in (self.q, self.k, self.v))
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        if hasattr(F, "scaled_dot_product_attention"):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + mask, -1).to(v.dtype) @ v
        x = x + self.o(y.transpose(1, 2).reshape(B, T, D))
        n = rms_norm(x, self.n2)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


class Llama(nn.Module):
    def __init__(self, layers=8, d=512, heads=8, ffn=1376, vocabulary=32000, T=256):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, d)
        self.layers = nn.ModuleList(LlamaLayer(d, heads, ffn) for _ in range(layers))
        self.norm = nn.Parameter(torch.ones(d))
        frequency = 10000.0 ** (-torch.arange(0, d // heads, 2) / (d // heads))
        angle = torch.arange(T)[:, None] * frequency
        self.cos, self.sin = torch.cat((angle, angle), 1).cos(), torch.cat((angle, angle), 1).sin()
        self.mask = torch.full((T, T), float("-inf")).triu(1)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin, self.mask)
        return F.linear(rms_norm(x, self.norm), self.embed.weight)


if CASE == "resnet20":
    net = ResNet20().to(memory_format=torch.channels_last)
    x = torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (128,))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
elif CASE in ("encoder", "distill"):
    net, x, y = Encoder(), torch.randint(0, 30522, (16, 128)), torch.randint(0, 10, (16,))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4)
else:
    net, x = Llama(), torch.randint(0, 32000, (8, 256))
    y = torch.randint(0, 32000, (8 * 256,))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4)

teacher = None
if CASE.startswith("distill"):
    teacher = (Encoder(12, 768, 12) if CASE == "distill" else Llama()).eval()
    if BF16:  # its best setting: weights in bf16, no casts
        teacher = teacher.bfloat16()
        if CASE != "distill":
            teacher.cos, teacher.sin = teacher.cos.bfloat16(), teacher.sin.bfloat16()


def forward():
    with torch.no_grad(), autocast():
        if CASE.endswith("llama"):  # pare's forward ends before the head as well
            h = net.embed(x)
            for layer in net.layers:
                h = layer(h, net.cos, net.sin, net.mask)
            return rms_norm(h, net.norm)
        return net(x)


def step():
    optimiser.zero_grad(set_to_none=True)
    with autocast():
        o = net(x)
    o = o.float().reshape(len(y), -1)
    if teacher is None:
        loss = F.cross_entropy(o, y)
    else:
        with torch.no_grad():
            t = teacher(x).float().reshape(len(y), -1)
        loss = 4 * F.kl_div(F.log_softmax(o / 2, 1), F.softmax(t / 2, 1), reduction="batchmean")
        if CASE == "distill":
            loss = loss + F.cross_entropy(o, y)
    loss.backward()
    optimiser.step()


def measure(run):
    times = []
    for i in range(WARM + STEPS):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[WARM:])


if CASE == "resnet20":
    net.eval()  # the encoder's fast path in eval mode takes no bf16 in old versions
seconds = {"forward_seconds": measure(forward)}
net.train()
seconds["step_seconds"] = measure(step)
print(json.dumps({"program": f"torch {torch.__version__.split('+')[0]}", "case": CASE,
                  "compute": COMPUTE, "threads": THREADS, **seconds}))
