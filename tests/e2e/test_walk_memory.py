"""Compression with samples holds one block of a model at a time: a budget that is a third of the
model or less is kept, and one that is too small says what it takes. What every method that sees
samples takes is foretold within a tenth, or a MiB where that is more, and what it reads too."""
# labels: quick long serial
import json
import re

import numpy as np

from support import LONG, MIB, data, folder, main, pare, pare_json, watched

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
METHODS = {
    "gptq": ("quantize", "--method", "gptq", "--scheme", "w4"),
    "awq": ("quantize", "--method", "awq", "--scheme", "w4"),
    "smoothquant": ("quantize", "--method", "smoothquant", "--scheme", "w8a8"),
    "imatrix": ("quantize", "--method", "imatrix", "--scheme", "w4"),
    "rtn a8s": ("quantize", "--method", "rtn", "--scheme", "w8a8s"),
    "wanda": ("prune", "--method", "wanda", "--sparsity", "0.5"),
    "sparsegpt": ("prune", "--method", "sparsegpt", "--sparsity", "0.5"),
    "taylor": ("prune", "--method", "taylor", "--sparsity", "0.5"),
    "fisher": ("prune", "--method", "fisher", "--sparsity", "0.5"),
    "channels by wanda": ("prune", "--method", "wanda", "--pattern", "channel", "--sparsity",
                          "0.25"),
    "channels by taylor": ("prune", "--method", "taylor", "--pattern", "channel", "--sparsity",
                           "0.25"),
}


def shapes(layers):
    yield "model.embed_tokens", (VOCABULARY, D)
    for i in range(layers):
        layer = f"model.layers.{i}."
        for name in "q", "k", "v", "o":
            yield f"{layer}self_attn.{name}_proj", (D, D)
        yield layer + "mlp.gate_proj", (HIDDEN, D)
        yield layer + "mlp.up_proj", (HIDDEN, D)
        yield layer + "mlp.down_proj", (D, HIDDEN)
        yield layer + "input_layernorm", (D,)
        yield layer + "post_attention_layernorm", (D,)
    yield "model.norm", (D,)


def source(work, layers=LAYERS):
    """Random weights, written tensor by tensor: places in one random piece."""
    rng = np.random.default_rng(3)
    piece = rng.standard_normal(2 * D * HIDDEN, np.float32) * np.float32(0.03)
    header, at = {}, 0
    for name, shape in shapes(layers):
        size = 4 * int(np.prod(shape))
        header[name + ".weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (work / "model").mkdir()
    with open(work / "model" / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes(layers):
            count = int(np.prod(shape))
            first = rng.integers(0, piece.size - count)
            values = piece[first:first + count] if len(shape) == 2 else np.ones(count, np.float32)
            file.write(values.tobytes())
    (work / "model" / "config.json").write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": D,
        "intermediate_size": HIDDEN, "num_hidden_layers": layers, "num_attention_heads": HEADS,
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


def near(name, model, work):
    """A job without a budget beside its plan; the share by which it is off."""
    verb, *how = METHODS[name]
    seen = watched(verb, model[0], "-o", "out.h5", *how, *model[1:], "--threads", 2, "--overwrite",
                   cwd=work)
    report = pare_json("report", "out.h5", cwd=work)
    told, foreseen = (report[key]["peak_memory"] for key in ("actual", "predicted"))
    peak = max(seen, told)
    text = (f"{name}: {seen / MIB:.2f} MiB seen, {told / MIB:.2f} reported, {foreseen / MIB:.2f} "
            "predicted")
    assert told >= seen - max(0.05 * seen, 1.5 * MIB), text
    assert abs(foreseen - peak) <= max(0.1 * peak, MIB), text
    reads, planned = (report[key]["read_bytes"] for key in ("actual", "predicted"))
    if "channels" not in name:  # of those only what is scored is read twice
        assert reads <= planned <= 1.05 * reads, f"{name}: {reads} bytes read, {planned} predicted"
    return foreseen / peak - 1


def all_near(model, work):
    """All methods; how far the plans are off."""
    shares = {name: near(name, model, work) for name in METHODS}
    return ", ".join(f"{name} {share:+.0%}" for name, share in shares.items())


def a_small_decoder_takes_what_was_foretold():
    path = data("stories260K")
    if not path:
        return "no test data"
    with folder() as work:
        return all_near((path, "--data", path / "tinystories_917.tok512.u16", "--seq-len", 256,
                         "--samples", 64), work)


def a_small_cnn_takes_what_was_foretold():
    path, images = data("mlperf_tiny_resnet8/resnet8.safetensors"), data("cifar10/train_20000.bin")
    if not path or not images:
        return "no test data"
    with folder() as work:
        return all_near((path, "--arch", "resnet8-tiny", "--data", images, "--samples", 64), work)


def a_larger_decoder_takes_what_was_foretold():
    with folder() as work:
        source(work, 8)
        return all_near(("model", "--data", "tokens.u16", "--seq-len", LENGTH, "--samples",
                         SAMPLES), work)


main([gptq_keeps_to_its_budget, wanda_keeps_to_its_budget, sparsegpt_keeps_to_its_budget,
      a_small_decoder_takes_what_was_foretold, a_small_cnn_takes_what_was_foretold,
      a_larger_decoder_takes_what_was_foretold])
