"""Small checkpoints that the tests make: every awkward case in a few hundred kilobytes."""
import numpy as np

from support import tensor, write, write_directory

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128,
         "intermediate_size": 344, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64,
         "rms_norm_eps": 1e-05, "hidden_act": "silu", "tie_word_embeddings": False,
         "torch_dtype": "float32"}


def awkward(rng, *shape):
    """Weights with ties, zeros of both signs, whole groups of zeros, tiny and large values."""
    w = rng.standard_normal(shape).astype(np.float32) * np.float32(0.05)
    flat = w.reshape(-1)
    coarse = rng.random(flat.size) < 0.3
    flat[coarse] = np.round(flat[coarse] * 64) / 64
    flat[rng.random(flat.size) < 0.05] = np.float32(-0.0)
    flat[rng.integers(0, flat.size, 3)] = np.float32(3e-41)
    flat[rng.integers(0, flat.size, 3)] *= np.float32(40)
    if w.ndim == 2 and w.shape[0] > 3:
        w[1] = 0
        w[2, :w.shape[1] // 2] = 0
        w[3] = np.abs(w[3])
    return w


def llama_tensors(dtype="F32", seed=1, config=LLAMA):
    rng = np.random.default_rng(seed)
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens": (config["vocab_size"], hidden),
              "lm_head": (config["vocab_size"], hidden)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        shapes.update({
            layer + "self_attn.q_proj": (hidden, hidden), layer + "self_attn.k_proj": (kv, hidden),
            layer + "self_attn.v_proj": (kv, hidden), layer + "self_attn.o_proj": (hidden, hidden),
            layer + "mlp.gate_proj": (ffn, hidden), layer + "mlp.up_proj": (ffn, hidden),
            layer + "mlp.down_proj": (hidden, ffn),
            layer + "input_layernorm": (hidden,), layer + "post_attention_layernorm": (hidden,)})
    shapes["model.norm"] = (hidden,)
    return {name + ".weight": tensor(dtype, awkward(rng, *shape)) for name, shape in shapes.items()}


def llama(path, dtype="F32", shards=1, seed=1):
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    tensors = llama_tensors(dtype, seed)
    write_directory(path, tensors, {**LLAMA, "torch_dtype": names[dtype]}, shards)
    (path / "generation_config.json").write_text('{"do_sample": true}\n')
    (path / "tokenizer.json").write_text('{"made": "by a test"}\n')
    return path


def plain(path, dtype="F32", seed=2):
    """A state dict of no known architecture: odd shapes, vectors, a convolution, integers, a
    scalar."""
    rng = np.random.default_rng(seed)
    tensors = {
        "a.weight": tensor(dtype, awkward(rng, 37, 53)),
        "b.weight": tensor(dtype, awkward(rng, 16, 256)),
        "b.bias": tensor(dtype, awkward(rng, 16)),
        "c.weight": tensor(dtype, awkward(rng, 5, 8)),
        "conv.weight": tensor(dtype, awkward(rng, 6, 8, 3, 3)),
        "norm.weight": tensor(dtype, awkward(rng, 37)),
        "one_row.weight": tensor(dtype, awkward(rng, 1, 640)),
        "token_emb.weight": tensor(dtype, awkward(rng, 20, 16)),
        "steps": tensor("I64", np.array(7, np.int64)),
    }
    write(path, tensors)
    return path
