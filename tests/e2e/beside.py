"""What tests of whole models share: one model in pare and in other software, beside each other.

Environment: PARE_MODEL_OUTPUTS (tests/tools/model_outputs.c).
"""
import json
import os
import subprocess

from support import skip

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
try:
    import numpy as np
    import torch
    import transformers
    from safetensors.torch import save_file
except ImportError as error:
    skip(f"{error} (tools/test.sh installs what tests/requirements.txt names)")

transformers.utils.logging.disable_progress_bar()

PROGRAM = os.environ.get("PARE_MODEL_OUTPUTS", "pare_model_outputs")
TOLERANCE = 1e-5
SMALL = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
         "num_attention_heads": 6, "vocab_size": 61, "max_position_embeddings": 64}


def ours(work, checkpoint, inputs, arch="-", keys=None):
    """(outputs, facts) of pare for a checkpoint."""
    files = [work / "in.npy", work / "out.npy"]
    np.save(files[0], inputs)
    if keys is not None:
        files.append(work / "keys.npy")
        np.save(files[2], keys)
    done = subprocess.run([PROGRAM, str(checkpoint), arch, *map(str, files)], text=True,
                          capture_output=True)
    assert done.returncode == 0, f"{checkpoint} {arch}: {done.stderr}"
    return np.load(files[1]), json.loads(done.stdout)


def close(name, got, want):
    want = want.reshape(got.shape)
    scale = max(1.0, np.abs(want).max())
    error = np.abs(got - want).max() / scale
    assert np.isfinite(want).all() and error <= TOLERANCE, f"{name}: differs by {error:.2e}"
    return error


def randomise(model, seed=0):
    """Values that let every tensor matter: nothing is 0, no norm is 1, outputs are of order 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        if not x.is_floating_point() or "inv_freq" in name:
            continue
        noise = torch.randn(x.shape, generator=generator)
        if name.endswith("running_var"):
            noise = 1 + noise.clamp(-2, 2) / 4
        elif x.dim() == 1 and ("norm" in name.lower() or "bn" in name or "ln_" in name
                               or "downsample.1" in name) and name.endswith("weight"):
            noise = 1 + noise / 4
        elif x.dim() == 1 or "token" in name or "pos" in name or "embed" in name or "wte" in name:
            noise = noise / 2
        else:
            noise = noise * 1.2 / x[0].numel() ** 0.5
        x.data.copy_(noise.to(x.dtype))
    return model.eval()


def ids(vocabulary, batch, length, seed=1):
    return np.random.default_rng(seed).integers(0, vocabulary, (batch, length)).astype(np.int32)


def padding(batch, length):
    """The first row is whole, the others end earlier and earlier."""
    keys = np.ones((batch, length), np.uint8)
    for row in range(1, batch):
        keys[row, length - row * length // batch:] = 0
    return keys


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def images(batch, height, width, channels=3, seed=2):
    return np.random.default_rng(seed).standard_normal((batch, height, width, channels)).astype(
        np.float32)


def state_dict(work, name, model, drop="num_batches_tracked"):
    path = work / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()
               if drop not in key}, path)
    return path
