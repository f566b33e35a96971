#!/usr/bin/env python3
"""Makes checkpoints for tests/cli, sound and bad, with the standard library alone.

    make.py KIND FILE [VALUE...]
"""
import json
import math
import os
import random
import struct
import sys


def floats(count, seed=1):
    rng = random.Random(seed)
    return struct.pack(f"<{count}f", *(rng.gauss(0, 0.05) for _ in range(count)))


def pack(header, data, pad=True):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    if pad:
        text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def good(rows=16, cols=64):
    size = 4 * rows * cols
    header = {"a.weight": entry("F32", [rows, cols], 0, size),
              "b.weight": entry("F32", [rows, cols], size, 2 * size)}
    return header, floats(2 * rows * cols)


def write(path, blob):
    with open(path, "wb") as file:
        file.write(blob)


def make_good(path, rows=16, cols=64):
    write(path, pack(*good(int(rows), int(cols))))


def make_directory(path, *_):
    """A Hugging Face directory of two shards."""
    os.makedirs(path)
    with open(f"{path}/config.json", "w") as file:
        json.dump({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, file)
    table = {}
    for shard in (1, 2):
        name = f"model-{shard:05}-of-00002.safetensors"
        key = f"model.layers.{shard - 1}.mlp.up_proj.weight"
        write(f"{path}/{name}", pack({key: entry("F32", [16, 64], 0, 4096)}, floats(1024, shard)))
        table[key] = name
    with open(f"{path}/model.safetensors.index.json", "w") as file:
        json.dump({"metadata": {"total_size": 8192}, "weight_map": table}, file)


def make_truncated(path, size):
    """The first `size` bytes of a sound file."""
    write(path, pack(*good())[:int(size)])


def make_boundaries(path):
    """Prints the sizes at which the sound file is worth cutting: around every boundary of its
    header."""
    blob = pack(*good())
    size = struct.unpack("<Q", blob[:8])[0]
    cuts = {0, 1, 7, 8, 9, 8 + size - 1, 8 + size, 8 + size + 1, len(blob) - 4096 - 1,
            len(blob) - 4096, len(blob) - 1}
    text = blob[8:8 + size].decode()
    cuts.update(8 + i for i, letter in enumerate(text) if letter in '{}[]:,"')
    print(*sorted(cut for cut in cuts if 0 <= cut < len(blob)))


def make_length(path, length):
    """The header length says `length`."""
    write(path, struct.pack("<Q", int(length)) + pack(*good())[8:])


def make_offsets(path, begin, end):
    """The second tensor lies at [begin, end)."""
    header, data = good()
    header["b.weight"]["data_offsets"] = [int(begin), int(end)]
    write(path, pack(header, data))


def make_header(path, text):
    """The header is exactly this text."""
    write(path, pack(text.encode(), floats(2048)))


def make_tensor(path, dtype, shape, size):
    """One tensor of this dtype, shape (JSON) and size in bytes."""
    header = {"a.weight": entry(dtype, json.loads(shape), 0, int(size))}
    write(path, pack(header, floats(int(size) // 4 + 1)[:int(size)]))


def make_value(path, value, index=700):
    """A sound file with NaN, Inf … at one element of b.weight."""
    header, data = good()
    at = 4096 + 4 * int(index)
    write(path, pack(header, data[:at] + struct.pack("<f", float(value)) + data[at + 4:]))


def make_images(path, count=64, side=8, classes=4):
    """IDX images beside their labels, PATH-images-idx3-ubyte and PATH-labels-idx1-ubyte: noise,
    brighter in a quarter that tells the class."""
    rng = random.Random(3)
    count, side, classes = int(count), int(side), int(classes)
    labels = [rng.randrange(classes) for _ in range(count)]
    pixels = bytes(min(255, rng.randrange(90) + 160 * (y * classes // side == label))
                   for label in labels for y in range(side) for x in range(side))
    write(f"{path}-images-idx3-ubyte", struct.pack(">4I", 0x803, count, side, side) + pixels)
    write(f"{path}-labels-idx1-ubyte", struct.pack(">2I", 0x801, count) + bytes(labels))


def make_decoder(path, layers=2):
    """A Hugging Face directory of a decoder of random weights, and tokens for it, PATH.u16."""
    rng = random.Random(4)
    header, data = {}, b""

    def add(name, *shape):
        nonlocal data
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = [rng.gauss(0, 0.15) if len(shape) > 1 else 1.0 for _ in range(count)]
        header[name] = entry("F32", list(shape), len(data), len(data) + 4 * count)
        data += struct.pack(f"<{count}f", *values)

    add("model.embed_tokens.weight", 32, 32)
    for i in range(int(layers)):
        layer = f"model.layers.{i}."
        add(layer + "input_layernorm.weight", 32)
        add(layer + "post_attention_layernorm.weight", 32)
        for name, rows, cols in (("self_attn.q", 32, 32), ("self_attn.k", 16, 32),
                                 ("self_attn.v", 16, 32), ("self_attn.o", 32, 32),
                                 ("mlp.gate", 64, 32), ("mlp.up", 64, 32), ("mlp.down", 32, 64)):
            add(f"{layer}{name}_proj.weight", rows, cols)
    add("model.norm.weight", 32)
    os.makedirs(path)
    write(f"{path}/model.safetensors", pack(header, data))
    with open(f"{path}/config.json", "w") as file:
        json.dump({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32,
                   "intermediate_size": 64, "num_hidden_layers": int(layers), "vocab_size": 32,
                   "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
                   "max_position_embeddings": 64, "tie_word_embeddings": True}, file)
    write(f"{path}.u16", struct.pack("<257H", *(rng.randrange(32) for _ in range(257))))


def make_llama(path, flaw=None):
    """A Llama of two blocks; flawed by a "nan" in the third row of a weight, by norms that are
    "zero", or by "huge" weights, so that what goes into the second block is not finite."""
    hidden, ffn, vocabulary = 64, 128, 64
    shapes = {"model.embed_tokens": (vocabulary, hidden), "model.norm": (hidden,),
              "lm_head": (vocabulary, hidden)}
    for block in ("model.layers.0.", "model.layers.1."):
        shapes.update({block + f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"})
        shapes.update({block + f"mlp.{name}_proj": (ffn, hidden) for name in ("gate", "up")})
        shapes.update({block + "mlp.down_proj": (hidden, ffn), block + "input_layernorm": (hidden,),
                       block + "post_attention_layernorm": (hidden,)})
    header, data = {}, b""
    for seed, (name, shape) in enumerate(shapes.items()):
        values = floats(math.prod(shape), seed)
        if len(shape) == 1:
            values = struct.pack("<f", 0 if flaw == "zero" else 1) * shape[0]
        if flaw == "huge" and "layers.0.mlp" in name and "gate" not in name:
            values = b"".join(struct.pack("<f", 1e25 * x[0])
                              for x in struct.iter_unpack("<f", values))
        if flaw == "nan" and name == "model.layers.0.mlp.up_proj":
            at = 4 * (2 * hidden + 7)
            values = values[:at] + struct.pack("<f", math.nan) + values[at + 4:]
        header[name + ".weight"] = entry("F32", list(shape), len(data), len(data) + len(values))
        data += values
    os.makedirs(path)
    write(f"{path}/model.safetensors", pack(header, data))
    with open(f"{path}/config.json", "w") as file:
        json.dump({"model_type": "llama", "architectures": ["LlamaForCausalLM"],
                   "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": 2,
                   "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": vocabulary,
                   "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
                   "tie_word_embeddings": False}, file)


def make_tokens(path, count, odd=None):
    """Random tokens of 64 as .u16; `odd` is one of them."""
    rng = random.Random(5)
    tokens = [rng.randrange(64) for _ in range(int(count))]
    if odd:
        tokens[100] = int(odd)
    write(path, struct.pack(f"<{len(tokens)}H", *tokens))


def make_small(path):
    """Scalars, empty tensors, a vector beside a matrix."""
    header = {"a.weight": entry("F32", [16, 64], 0, 4096),
              "empty.weight": entry("F32", [0, 64], 4096, 4096),
              "scalar": entry("F32", [], 4096, 4100),
              "zero_cols.weight": entry("F32", [4, 0], 4100, 4100)}
    write(path, pack(header, floats(1025)))


if __name__ == "__main__":
    globals()["make_" + sys.argv[1]](*sys.argv[2:])
