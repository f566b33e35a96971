"""The jobs of pare in numpy, file to file: what a careful script does without pare.

    peer_numpy.py JOB IN.safetensors OUT.safetensors      JOB: w4g128 w8 2:4 global50
"""
import json
import sys
import time

import numpy as np

JOB, SOURCE, TARGET = sys.argv[1:4]


def tensors(path):
    """(name, float32 array mapped from the file) of a safetensors file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    blob = np.memmap(path, np.uint8, "r")
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + size + at for at in entry["data_offsets"])
            yield name, blob[begin:end].view(np.float32).reshape(entry["shape"])


def write(path, arrays):
    names = {"float32": "F32", "int8": "I8", "int32": "I32"}
    header, at = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": names[str(array.dtype)], "shape": list(array.shape),
                        "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.data)


def w8(w):
    scale = np.maximum(w.max(1), -w.min(1))[:, None] / np.float32(127.5)
    return {"": np.clip(np.rint(w / scale), -128, 127).astype(np.int8), "_scale": scale}


def w4g128(w):
    g = w.reshape(w.shape[0], -1, 128)
    scale = np.maximum(g.max(2), -g.min(2)) / np.float32(7.5)
    u = (np.clip(np.rint(g / scale[:, :, None]), -8, 7) + 8).astype(np.uint8).reshape(w.shape)
    return {"_packed": (u[:, 0::2] | (u[:, 1::2] << 4)).view(np.int32), "_scale": scale}


def two_of_four(w):
    g = w.reshape(-1, 4)
    order = np.argpartition(np.abs(g), 1, axis=1)[:, :2]
    out = g.copy()
    np.put_along_axis(out, order, 0, 1)
    return {"": out.reshape(w.shape)}


def main():
    out = {}
    if JOB == "global50":
        magnitudes = np.concatenate([np.abs(w).ravel() for _, w in tensors(SOURCE)])
        middle = magnitudes.size // 2
        magnitudes.partition(middle)
        threshold = magnitudes[middle]
        del magnitudes
        for name, w in tensors(SOURCE):
            out[name] = w * (np.abs(w) >= threshold)
    else:
        job = {"w8": w8, "w4g128": w4g128, "2:4": two_of_four}[JOB]
        for name, w in tensors(SOURCE):
            out.update({name + part: array for part, array in job(w).items()})
    write(TARGET, out)


began = time.perf_counter()
main()
print(f"seconds: {time.perf_counter() - began:.4f}")
