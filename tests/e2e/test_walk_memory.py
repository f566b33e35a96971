"""Compression with samples holds one block of a model at a time: a budget that is a third of the
model or less is kept, foretold within a tenth, and one that is too small says what it takes."""
# labels: quick long serial
import json
import re

import numpy as np

from support import LONG, MIB, folder, main, pare, pare_json, watched

# A llama in float32: 4 D·D + 3 D·HIDDEN weights a layer.
D, HIDDEN, LAYERS, LENGTH, SAMPLES = (
    (1024, 2816, 40, 256, 32) if LONG else (512, 1408, 17, 128, 8))
VOCABULARY, HEADS = 256, 8
DATA = ("--data", "tokens.u16", "--seq-len", LENGTH, "--samples", SAMPLES, "--threads", 2)
JOBS = {
    "gptq": ("quantize", "model", "--method", "gptq", "--scheme", "w4g128", *DATA),
    "wanda": ("prune", "model", "--method", "wanda", "--sparsity", "0.5", *DATA),
    "sparsegpt": ("prune", "model", "--method", "sparsegpt", "--pattern", "2:4", *DATA),
}


def shapes():
    yield "model.embed_tokens", (VOCABULARY, D)
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        for name in "q", "k", "v", "o":
            yield f"{layer}self_attn.{name}_proj", (D, D)
        yield layer + "mlp.gate_proj", (HIDDEN, D)
        yield layer + "mlp.up_proj", (HIDDEN, D)
        yield layer + "mlp.down_proj", (D, HIDDEN)
        yield layer + "input_layernorm", (D,)
        yield layer + "post_attention_layernorm", (D,)
    yield "model.norm", (D,)


def source(work):
    """Random weights, written tensor by tensor: places in one random piece."""
    rng = np.random.default_rng(3)
    piece = rng.standard_normal(2 * D * HIDDEN, np.float32) * np.float32(0.03)
    header, at = {}, 0
    for name, shape in shapes():
        size = 4 * int(np.prod(shape))
        header[name + ".weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (work / "model").mkdir()
    with open(work / "model" / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes():
            count = int(np.prod(shape))
            first = rng.integers(0, piece.size - count)
            values = piece[first:first + count] if len(shape) == 2 else np.ones(count, np.float32)
            file.write(values.tobytes())
    (work / "model" / "config.json").write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": D,
        "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True}))
    rng.integers(0, VOCABULARY, SAMPLES * LENGTH + 1).astype("<u2").tofile(work / "tokens.u16")
    return at


def budget_of(job, work):
    """The least that this job says it can do with, asked for in vain first."""
    said = pare(*job, "-o", "least", "--memory", "8M", code=4, cwd=work).stderr
    found = re.search(r"it needs ([\d.]+ \w+); give --memory (\d+)M or more", said)
    assert found, said
    assert not list(work.glob("least*")), "a run that cannot begin leaves something"
    return int(found[2])


def check(name):
    with folder() as work:
        size = source(work)
        job = JOBS[name]
        limit = budget_of(job, work)
        assert size >= 3 * limit * MIB, f"the model has {size / MIB:.0f} MiB, {limit} are needed"
        seen = watched(*job, "-o", "out", "--memory", f"{limit}M", cwd=work)
        left = {path.name for path in work.iterdir()} - {"model", "tokens.u16", "out"}
        assert left <= {"out.report.json"}, left
        report = pare_json("report", "out", cwd=work)
    told = report["actual"]["peak_memory"]
    foreseen = report["predicted"]["peak_memory"]
    text = (f"{seen / MIB:.1f} MiB seen, {told / MIB:.1f} reported, {foreseen / MIB:.1f} "
            f"predicted, {limit} allowed, model {size / MIB:.0f}")
    assert max(seen, told) <= limit * MIB, text
    assert told >= 0.95 * seen, text
    assert told <= foreseen <= 1.1 * told, text
    return text


def gptq_keeps_to_its_budget():
    return check("gptq")


def wanda_keeps_to_its_budget():
    return check("wanda")


def sparsegpt_keeps_to_its_budget():
    return check("sparsegpt")


main([gptq_keeps_to_its_budget, wanda_keeps_to_its_budget, sparsegpt_keeps_to_its_budget])
