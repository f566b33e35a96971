"""transformers with compressed-tensors loads what pare writes, and every weight is exactly ours."""
# labels: quick
import os
import pathlib
import subprocess
import sys

from support import data, folder, main, pare, read, skip

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
try:
    import compressed_tensors
    import torch
    import transformers
except ImportError as error:
    skip(f"{error} (tools/test.sh installs what tests/requirements.txt names)")

import models

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
main(TESTS if "--dense" in sys.argv else TESTS + [pruned_directories_load, dense_widths])
