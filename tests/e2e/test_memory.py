"""Memory does not grow with the model: anonymous and shared-memory pages, from the report and from
outside."""
# labels: quick long serial
import numpy as np

from support import LONG, MIB, folder, main, pare_json, watched

LAYERS, ROWS, COLS = (48, 4096, 8192) if LONG else (8, 2048, 8192)  # 6 GiB, 512 MiB of float32
LIMIT = 256 * MIB + 2 * ROWS * COLS * 4


def source(path):
    """A checkpoint of LAYERS large tensors, written in pieces: one random piece, turned a little
    each time."""
    import json
    size, header = ROWS * COLS * 4, {}
    for i in range(LAYERS):
        header[f"model.layers.{i:02}.mlp.up_proj.weight"] = {
            "dtype": "F32", "shape": [ROWS, COLS], "data_offsets": [i * size, (i + 1) * size]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    piece = np.random.default_rng(1).standard_normal(8 * MIB // 4, np.float32).tobytes()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for i in range(LAYERS * size // len(piece)):
            turn = 4 * (i * 7919 % (len(piece) // 4))
            file.write(piece[turn:] + piece[:turn])


def check(*job):
    with folder() as work:
        source(work / "x.safetensors")
        out = work / "out.safetensors"
        seen = watched(job[0], work / "x.safetensors", "-o", out, *job[1:])
        report = pare_json("report", out)
    told = report["actual"]["peak_memory"]
    foreseen = report["predicted"]["peak_memory"]
    assert seen <= LIMIT, f"{seen / MIB:.0f} MiB seen, {LIMIT / MIB:.0f} allowed"
    assert told <= LIMIT, f"{told / MIB:.0f} MiB reported, {LIMIT / MIB:.0f} allowed"
    assert told >= 0.8 * seen, f"{told / MIB:.0f} MiB reported, {seen / MIB:.0f} seen from outside"
    return (f"{seen / MIB:.0f} MiB seen, {told / MIB:.0f} reported, "
            f"{foreseen / MIB:.0f} predicted, {LIMIT / MIB:.0f} allowed, "
            f"input {LAYERS * ROWS * COLS * 4 / MIB:.0f}")


def quantize():
    return check("quantize", "--method", "rtn", "--scheme", "w4g128")


def quantize_by_mse_search_per_tensor():
    return check("quantize", "--method", "rtn", "--scheme", "w4t", "--scale", "mse")


def prune_globally():
    return check("prune", "--method", "magnitude", "--sparsity", "0.5", "--scope", "global")


main([quantize, prune_globally] + ([] if LONG else [quantize_by_mse_search_per_tensor]))
