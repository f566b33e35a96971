"""transformers with compressed-tensors loads what pare writes, and every weight is exactly ours."""
# labels: quick
import json
import os
import pathlib
import subprocess
import sys

from support import data, folder, main, pare, read, skip, tensor, write_directory

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
try:
    import compressed_tensors
    import numpy as np
    import torch
    import transformers
except ImportError as error:
    skip(f"{error} (tools/test.sh installs what tests/requirements.txt names)")

import models
from beside import ours

SCHEMES = ["w8", "w4g32", "w4g32z", "w8a8", "w8z", "w4", "w2g32", "w4t", "fp8", "fp8t", "fp8a8",
           "w4b4x4", "w8b4x4a8"]
# Widths that the pinned release packs otherwise; the release beside it packs as pare does.
DENSE_SCHEMES = ["w3g32", "w5", "w6g32", "w7"]
DENSE = pathlib.Path(sys.prefix, "dense")
if "--dense" in sys.argv:
    SCHEMES = DENSE_SCHEMES


def load(path, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype="auto", **options)


def check(source, work, scheme):
    """Loads it dequantised and compares every weight; then as it is, and compares its outputs."""
    out, dense = work / f"q-{scheme}", work / f"d-{scheme}.safetensors"
    pare("quantize", source, "-o", out, "--method", "rtn", "--scheme", scheme)
    pare("convert", out, "-o", dense, "--to", "dense")
    model = load(out, quantization_config=transformers.CompressedTensorsConfig(dequantize=True))
    weights, linears = model.state_dict(), 0
    for name, array in read(dense).items():
        kind = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}[array.dtype]
        want = torch.frombuffer(bytearray(array.data), dtype=kind).reshape(array.shape)
        assert weights[name].dtype == kind, f"{scheme}: {name} is {weights[name].dtype}"
        assert torch.equal(weights[name], want), f"{scheme}: {name} differs"
        linears += name.endswith("_proj.weight")
    assert linears == 7 * model.config.num_hidden_layers
    tokens = torch.arange(8).reshape(1, 8)
    with torch.no_grad():
        there, here = load(out)(tokens).logits, model(tokens).logits
    assert torch.isfinite(here).all()
    if "a8" not in scheme:  # activations are quantised on the way where the model is as it is
        assert torch.equal(there, here), f"{scheme}: the compressed model computes otherwise"


def made_llama_in_float32():
    with folder() as work:
        source = models.llama(work / "m")
        for scheme in SCHEMES:
            check(source, work, scheme)
    return f"{len(SCHEMES)} schemes, compressed-tensors {compressed_tensors.__version__}"


def made_llama_in_bfloat16():
    with folder() as work:
        source = models.llama(work / "m", "BF16")
        for scheme in SCHEMES:
            check(source, work, scheme)


def pruned_directories_load():
    with folder() as work:
        source = models.llama(work / "m")
        pare("prune", source, "-o", work / "p", "--method", "magnitude", "--pattern", "2:4")
        weight = load(work / "p").model.layers[0].mlp.up_proj.weight
        assert ((weight.reshape(-1, 4) != 0).sum(1) <= 2).all()


def static_activations(source, work):
    """A directory whose products have one scale each for their inputs, from one with dynamic
    ones; pare reads it and writes it again, through a native file."""
    q, h5, out = work / "s-q", work / "s.h5", work / "s-out"
    pare("quantize", source, "-o", q, "--method", "rtn", "--scheme", "w8a8")
    tensors, config = read(q), json.loads((q / "config.json").read_text())
    names = [name[:-len("weight")] for name in tensors if name.endswith("_proj.weight")]
    scales = {name + "input_scale": np.float32([0.002 * (1 + i)]) for i, name in enumerate(names)}
    tensors.update({name: tensor("F32", scale) for name, scale in scales.items()})
    for group in config["quantization_config"]["config_groups"].values():
        group["input_activations"].update(dynamic=False, strategy="tensor")
    write_directory(work / "s", tensors, config)
    pare("convert", work / "s", "-o", h5)
    pare("convert", h5, "-o", out)
    there = read(out)
    assert there.keys() == tensors.keys() and all(there[n] == tensors[n] for n in tensors)
    assert json.loads((out / "config.json").read_text()) == config
    return h5, out, scales


def static_activations_load():
    """transformers finds every scale, and its outputs are ours where it rounds by them."""
    with folder() as work:
        h5, out, scales = static_activations(models.llama(work / "m"), work)
        model = load(out)
        found = {n: p for n, p in model.state_dict().items() if n.endswith("input_scale")}
        assert found.keys() == scales.keys()
        assert all(torch.equal(found[n].float(), torch.tensor(scales[n])) for n in scales)
        tokens = np.arange(24, dtype=np.int32).reshape(2, 12) * 3
        with torch.no_grad():
            want = model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
            dense = load(work / "m")(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
        got, _ = ours(work, h5, tokens)
        error = np.abs(got.reshape(want.shape) - want).max() / np.abs(want).max()
        rounding = np.abs(dense - want).max() / np.abs(want).max()
        assert error < rounding / 20, f"{error} apart, rounding is {rounding}"
    return f"{error:.1e} of the largest logit apart, rounding moves {rounding:.1e}"


def stories260k():
    source = data("stories260K")
    if not source:
        return "not run: PARE_TEST_DATA is not set"
    with folder() as work:
        for scheme in SCHEMES:
            check(source, work, scheme)


def dense_widths():
    """3, 5, 6 and 7 bits with the release that reads them: this script again, with it."""
    if not DENSE.exists():
        return "not run: tools/dev/venv.sh makes the environment"
    done = subprocess.run([sys.executable, __file__, "--dense"], text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": str(DENSE)})
    assert done.returncode == 0, done.stdout + done.stderr
    return "; ".join(line for line in done.stdout.splitlines() if line.startswith("ok"))


TESTS = [made_llama_in_float32, made_llama_in_bfloat16, stories260k]
MORE = [pruned_directories_load, static_activations_load, dense_widths]
main(TESTS if "--dense" in sys.argv else TESTS + MORE)
