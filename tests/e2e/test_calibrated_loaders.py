"""transformers with compressed-tensors loads what calibrated methods write: its outputs are those of
pare's own decoded values, and it measures what `pare eval` measures."""
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
from support import main, pare, pare_json

WORK = tempfile.TemporaryDirectory(prefix="pare-e2e-")
FOLDER = pathlib.Path(WORK.name)
LLAMA = Llama(FOLDER)


def load(path, kind=transformers.AutoModelForCausalLM):
    return kind.from_pretrained(path, dtype="auto").eval()


def perplexity(model, tokens):
    with torch.no_grad():
        logits = model(LLAMA.inputs).logits.double()
    targets = torch.tensor(tokens[1:], dtype=torch.long)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets).exp().item()


def measured(path, case, metric, *options):
    there = pare_json("eval", path, *case.options, "--metric", metric, *options)
    return there["metrics"][metric]


def check(out):
    """(share of the dense model's change that the loaders are apart, perplexity)."""
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    pare("convert", out, "-o", f"{out}-dense", "--to", "dense")
    with torch.no_grad():
        model = load(out)
        there = model(LLAMA.inputs).logits
        decoded = load(f"{out}-dense")(LLAMA.inputs).logits
        dense = LLAMA.model(LLAMA.inputs).logits
    groups = config["config_groups"].values()
    rounded = any(group.get("input_activations") for group in groups)
    if rounded:  # inputs of layers are rounded on the way: beside pare, which does so too
        decoded = ours(FOLDER, out, LLAMA.inputs.numpy().astype(np.int32))[0]
        decoded = torch.tensor(decoded).reshape(there.shape)
    apart = (there - decoded).norm() / (there - dense).norm()
    assert apart < (0.05 if rounded else 1e-4), f"{out.name}: {apart:.1e} of what rounding changes"
    theirs = perplexity(model, np.load(LLAMA.data))
    mine = measured(out, LLAMA, "ppl")
    limit = 1e-3 if rounded else 1e-4
    assert abs(mine / theirs - 1) <= limit, f"{out.name}: perplexity {mine}, there {theirs}"
    return f"{out.name} {theirs:.3f}"


def loaded(name, *options):
    out = FOLDER / name
    compress(LLAMA, out, *options)
    return check(out)


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
    mine, theirs = measured(out, LLAMA, "ppl"), perplexity(load(out), np.load(LLAMA.data))
    assert abs(mine / theirs - 1) <= 1e-4, (mine, theirs)
    return f"perplexity {theirs:.3f}"


def classifier():
    """Padding, labels, and top-1 of both."""
    case = Bert(FOLDER)
    compress(case, FOLDER / "b4", "--method", "gptq", "--scheme", "w4g32")
    model = load(FOLDER / "b4", transformers.AutoModelForSequenceClassification)
    with torch.no_grad():
        there = case.run(model).argmax(1).numpy()
    theirs = np.mean(there == np.load(FOLDER / "labels.npy"))
    mine = measured(FOLDER / "b4", case, "top1")
    assert mine in (theirs, 100 * theirs), (mine, theirs)
    return f"top-1 {theirs:.4f}"


main([weights_alone, activations_in_8_bits, mixed_bits_are_several_groups, sparse_and_quantised,
      pruned_alone, classifier])
