"""transformers with compressed-tensors loads what calibrated methods write: its outputs are those
of pare's own decoded values, and it measures what `pare eval` measures."""
# labels: quick
from calibrated import T, Bert, Llama, compress, layers, values  # first: skips without PyTorch

import json
import pathlib
import tempfile

import numpy as np
import torch
import transformers

try:
    import compressed_tensors  # noqa: F401
except ImportError as error:
    from support import skip
    skip(f"{error} (tools/test.sh installs what tests/requirements.txt names)")

from beside import ours
from support import data, main, pare, pare_json

WORK = tempfile.TemporaryDirectory(prefix="pare-e2e-")
FOLDER = pathlib.Path(WORK.name)
LLAMA = Llama(FOLDER)


class Stories:
    """A real model, with rows that no group of 32 divides."""

    def __init__(self, path):
        windows, length = 16, 128
        self.path, self.data = path, path / "tinystories_917.tok512.u16"
        self.model = load(path)
        tokens = np.fromfile(self.data, "<u2", windows * length).astype(np.int64)
        self.inputs = torch.tensor(tokens.reshape(windows, length))
        self.options = ("--data", self.data, "--seq-len", length, "--samples", windows,
                        "--threads", 1)


def load(path, kind=transformers.AutoModelForCausalLM):
    return kind.from_pretrained(path, dtype="auto").eval()


def perplexity(case, model):
    tokens = np.load(case.data) if case.data.suffix == ".npy" else np.fromfile(case.data, "<u2")
    targets = torch.tensor(tokens[1:1 + case.inputs.numel()].astype(np.int64))
    with torch.no_grad():
        logits = model(case.inputs).logits.double()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets).exp().item()


def measured(path, case, metric, *options):
    there = pare_json("eval", path, *case.options, "--metric", metric, *options)
    return there[metric]


def check(out, case=LLAMA):
    """Outputs beside those of the decoded values (next to what compression changes), perplexity."""
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    pare("convert", out, "-o", f"{out}-dense", "--to", "dense")
    with torch.no_grad():
        model = load(out)
        there = model(case.inputs).logits
        decoded = load(f"{out}-dense")(case.inputs).logits
        dense = case.model(case.inputs).logits
    groups = config["config_groups"].values()
    rounded = any(group.get("input_activations") for group in groups)
    if rounded:  # inputs of layers are rounded on the way: beside pare, which does so too
        decoded = ours(FOLDER, out, case.inputs.numpy().astype(np.int32))[0]
        decoded = torch.tensor(decoded).reshape(there.shape)
    apart = (there - decoded).norm() / (there - dense).norm()
    assert apart < (0.15 if rounded else 1e-4), f"{out.name}: {apart:.1e} of what rounding changes"
    theirs = perplexity(case, model)
    mine = measured(out, case, "ppl")
    limit = 1e-3 if rounded else 1e-4
    assert abs(mine / theirs - 1) <= limit, f"{out.name}: perplexity {mine}, there {theirs}"
    return f"{out.name} {theirs:.3f}"


def loaded(name, *options, case=LLAMA):
    out = FOLDER / name
    compress(case, out, *options)
    return check(out, case)


def weights_alone():
    return ", ".join([loaded("gptq", "--method", "gptq", "--scheme", "w4g32"),
                      loaded("awq", "--method", "awq", "--scheme", "w4g32z"),
                      loaded("imatrix", "--method", "imatrix", "--scheme", "w4g32")])


def activations_in_8_bits():
    smooth = ("--method", "smoothquant", "--scheme")
    return ", ".join([loaded("dynamic", *smooth, "w8a8d"), loaded("static", *smooth, "w8a8s"),
                      loaded("kl", *smooth, "w8a8s", "--scale", "kl")])


def mixed_bits_are_several_groups():
    note = loaded("mixed", "--method", "gptq", "--schemes", "w4g32,w8", "--bits", "6.5")
    config = json.loads((FOLDER / "mixed/config.json").read_text())["quantization_config"]
    bits = {group["weights"]["num_bits"] for group in config["config_groups"].values()}
    assert bits == {4, 8}, config["config_groups"]
    return note


def sparse_and_quantised():
    out = FOLDER / "sparse-w4"
    recipe = {"model": str(LLAMA.path), "data": {"calibration": str(LLAMA.data)},
              "steps": [{"compress": {"prune": {"method": "sparsegpt", "pattern": "2:4"},
                                      "quantize": {"method": "gptq", "scheme": "w4g32"},
                                      "samples": len(LLAMA.inputs), "seq_len": T}},
                        {"export": {"to": str(out)}}]}
    (FOLDER / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    pare("run", FOLDER / "recipe.yaml", "--threads", 1)
    for name, w in values(out, layers(LLAMA)).items():
        assert ((w.reshape(-1, 4) != 0).sum(1) <= 2).all(), name
    return check(out)


def pruned_alone():
    out = FOLDER / "wanda"
    compress(LLAMA, out, "--method", "wanda", "--pattern", "2:4")
    with torch.no_grad():
        weight = load(out).model.layers[1].mlp.down_proj.weight
    assert ((weight.reshape(-1, 4) != 0).sum(1) <= 2).all()
    mine, theirs = measured(out, LLAMA, "ppl"), perplexity(LLAMA, load(out))
    assert abs(mine / theirs - 1) <= 1e-4, (mine, theirs)
    return f"perplexity {theirs:.3f}"


def real_model():
    path = data("stories260K")
    if not path:
        return "not run: PARE_TEST_DATA is not set"
    case = Stories(path)
    return ", ".join([loaded("stories", "--method", "gptq", "--scheme", "w4g32", case=case),
                      loaded("stories-awq", "--method", "awq", "--scheme", "w4g32z", case=case)])


def classifier():
    """Padding and labels: logits and top-1 of both."""
    case, out, logits = Bert(FOLDER), FOLDER / "b4", FOLDER / "logits.npy"
    compress(case, out, "--method", "gptq", "--scheme", "w4g32")
    model = load(out, transformers.AutoModelForSequenceClassification)
    with torch.no_grad():
        there = case.run(model).numpy()
    theirs = np.mean(there.argmax(1) == np.load(FOLDER / "labels.npy"))
    mine = measured(out, case, "top1", "--outputs", logits)
    assert mine == theirs, (mine, theirs)
    apart = np.abs(np.load(logits).reshape(there.shape) - there).max() / np.abs(there).max()
    assert apart < 1e-4, f"logits are {apart:.1e} apart"
    return f"top-1 {theirs:.4f}, logits {apart:.1e} apart"


main([weights_alone, activations_in_8_bits, mixed_bits_are_several_groups, sparse_and_quantised,
      pruned_alone, real_model, classifier])
