"""kill -9 at random times while layers are solved by data, the same command again until it is done:
the bytes of a run never cut, and nothing of the work left beside them."""
# labels: quick long serial
import json
import random
import signal
import subprocess
import time

import numpy as np

from support import LONG, PARE, folder, main, pare, tensor, tree, write

KILLS = 200 if LONG else 12
D, HIDDEN, LAYERS, HEADS, KV, VOCABULARY = 96, 192, 3, 6, 2, 128
DATA = ("--data", "tokens.u16", "--seq-len", "64", "--samples", "64", "--threads", "2")
JOBS = [
    ("quantize", "model", "-o", "{out}", "--method", "gptq", "--scheme", "w4g32", *DATA),
    ("quantize", "model", "-o", "{out}", "--method", "awq", "--scheme", "w4g32", *DATA),
    ("prune", "model", "-o", "{out}", "--method", "sparsegpt", "--pattern", "2:4", *DATA),
    ("prune", "model", "-o", "{out}", "--method", "wanda", "--sparsity", "0.5", "--budget",
     "global", *DATA),
]
ENDINGS = ["", ".h5"]


def source(work):
    rng = np.random.default_rng(7)
    tensors = {}

    def add(name, *shape):
        tensors[name] = tensor("BF16", rng.standard_normal(shape, np.float32) * 0.08)

    def ones(name):
        tensors[name] = tensor("BF16", np.ones(D, np.float32))

    add("model.embed_tokens.weight", VOCABULARY, D)
    ones("model.norm.weight")
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        ones(layer + "input_layernorm.weight")
        ones(layer + "post_attention_layernorm.weight")
        for name, rows in ("q", D), ("k", D * KV // HEADS), ("v", D * KV // HEADS), ("o", D):
            add(f"{layer}self_attn.{name}_proj.weight", rows, D)
        add(layer + "mlp.gate_proj.weight", HIDDEN, D)
        add(layer + "mlp.up_proj.weight", HIDDEN, D)
        add(layer + "mlp.down_proj.weight", D, HIDDEN)
    (work / "model").mkdir()
    write(work / "model" / "model.safetensors", tensors)
    (work / "model" / "config.json").write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": D,
        "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV, "vocab_size": VOCABULARY, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True}))
    rng.integers(0, VOCABULARY, 64 * 64 + 1).astype("<u2").tofile(work / "tokens.u16")


def killed(command, work, after):
    """Starts a run and kills it; False if it was done before."""
    with open(work / "stderr.txt", "w") as said:
        process = subprocess.Popen([PARE, *command], cwd=work, stdout=subprocess.DEVNULL,
                                   stderr=said)
    try:
        code = process.wait(after)
        assert code == 0, f"{command}: exit {code}: {(work / 'stderr.txt').read_text()}"
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def unfinished(work, out):
    """What a run that is not through has beside its output."""
    return [path.name for path in work.glob(f"{out}.*") if path.name != f"{out}.report.json"]


def killed_walks_end_with_the_same_bytes():
    random.seed(9)
    kills = runs = 0
    with folder() as work:
        source(work)
        variants = [(job, ENDINGS[i % 2]) for i, job in enumerate(JOBS)]
        uncut = []
        for number, (job, ending) in enumerate(variants):
            began = time.monotonic()
            pare(*[word.format(out=f"uncut{number}{ending}") for word in job], cwd=work)
            uncut.append((time.monotonic() - began, tree(work / f"uncut{number}{ending}")))
        while kills < KILLS:
            for number, (job, ending) in enumerate(variants):
                out = f"cut{runs}{ending}"
                command = [word.format(out=out) for word in job]
                span, want = uncut[number]
                while killed(command, work, random.uniform(0, 0.8 * span)):
                    kills += 1
                    there = (work / out).exists()
                    assert not there or tree(work / out) == want, (
                        "a cut run left something else under the final name")
                    if there and not unfinished(work, out):
                        break  # killed when all was done but the exit
                assert tree(work / out) == want, f"{command}: other bytes after a kill"
                assert not unfinished(work, out), unfinished(work, out)
                runs += 1
    return f"{kills} kills, {runs} finished runs"


main([killed_walks_end_with_the_same_bytes])
