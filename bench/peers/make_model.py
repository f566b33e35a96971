"""Writes a float32 checkpoint of the shapes of a small Llama: make_model.py OUT.safetensors
[LAYERS]"""
import json
import sys

import numpy as np

D, FFN, KV, VOCAB = 2048, 5632, 512, 32000


def main():
    path, layers = sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else 16
    shapes = {"model.embed_tokens.weight": (VOCAB, D)}
    for i in range(layers):
        for name, shape in {"self_attn.q_proj": (D, D), "self_attn.k_proj": (KV, D),
                            "self_attn.v_proj": (KV, D), "self_attn.o_proj": (D, D),
                            "mlp.gate_proj": (FFN, D), "mlp.up_proj": (FFN, D),
                            "mlp.down_proj": (D, FFN)}.items():
            shapes[f"model.layers.{i}.{name}.weight"] = shape
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            w = rng.standard_normal(shape, np.float32)
            w *= np.float32(0.02)
            file.write(w.data)


main()
