"""The jobs of pare in PyTorch on the CPU, file to file, in the fastest plain form known to us.

    peer_torch.py JOB IN.safetensors OUT.safetensors      JOB: w4g128 w8 2:4 global50
"""
import os
import sys
import time

import torch
from safetensors.torch import load_file, save_file

JOB, SOURCE, TARGET = sys.argv[1:4]
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def w8(w):
    low, high = torch.aminmax(w, dim=1, keepdim=True)
    scale = torch.maximum(-low, high) / 127.5
    return {"": (w * (1 / scale)).round_().clamp_(-128, 127).to(torch.int8), "_scale": scale}


def w4g128(w):
    g = w.view(w.shape[0], -1, 128)
    scale = torch.maximum(-g.amin(2, keepdim=True), g.amax(2, keepdim=True)) / 7.5
    u = (g * (1 / scale)).round_().clamp_(-8, 7).add_(8).to(torch.uint8).view(w.shape)
    return {"_packed": u[:, 0::2] | (u[:, 1::2] << 4), "_scale": scale.squeeze(2)}


def two_of_four(w):
    """Ranks by six comparisons, no sort."""
    x, y, z, u = w.abs().view(-1, 4).unbind(1)
    xy, xz, xu, yz, yu, zu = x >= y, x >= z, x >= u, y >= z, y >= u, z >= u
    count = lambda *masks: sum(mask.to(torch.uint8) for mask in masks) >= 2
    mask = torch.stack((count(xy, xz, xu), count(~xy, yz, yu), count(~xz, ~yz, zu),
                        count(~xu, ~yu, ~zu)), 1)
    return {"": w * mask.view_as(w)}


def main():
    tensors = load_file(SOURCE)
    out = {}
    if JOB == "global50":
        magnitudes = torch.cat([w.abs().flatten() for w in tensors.values()]).numpy()
        middle = magnitudes.size // 2
        magnitudes.partition(middle)  # several times as fast as torch.kthvalue
        threshold = float(magnitudes[middle])
        out = {name: w * (w.abs() >= threshold) for name, w in tensors.items()}
    else:
        job = {"w8": w8, "w4g128": w4g128, "2:4": two_of_four}[JOB]
        for name, w in tensors.items():
            out.update({name + part: array for part, array in job(w).items()})
    save_file(out, TARGET)


began = time.perf_counter()
main()
print(f"seconds: {time.perf_counter() - began:.4f}")
