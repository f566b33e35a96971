"""What tests of calibrated compression share: small models worth compressing, the samples that pare
cuts from the same data, and what goes into each layer, captured by PyTorch in double precision."""
import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # too small for more
from beside import SMALL, ids, images, randomise, state_dict  # skips where PyTorch is missing

import copy

import numpy as np
import torch
import transformers
from torch.nn import functional as F

import decode
import torch_models
from support import pare

VOCABULARY, T, WINDOWS = 61, 32, 32
CALIBRATE = ("--samples", WINDOWS, "--threads", 1)
LLAMA = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY,
         "max_position_embeddings": 64, "tie_word_embeddings": False}

# ---- models ------------------------------------------------------------------------------------


def stream(count, seed):
    """Tokens that say something of the next: two followers each, one of them likelier, and now and
    then what stood eight places before."""
    rng = np.random.default_rng(seed)
    followers = np.random.default_rng(0).integers(0, VOCABULARY, (VOCABULARY, 2))
    tokens = list(rng.integers(0, VOCABULARY, 8))
    for draw in rng.random(count - 8):
        tokens.append(tokens[-8] if draw < 0.2 else followers[tokens[-1], int(draw > 0.75)])
    return np.array(tokens, np.int32)


def trained_llama(steps=120):
    """A Llama of grouped queries that has learnt the stream, with some inputs larger than others:
    methods that look at the data have something to win."""
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    with torch.no_grad():
        for name, x in model.named_parameters():
            if "layernorm" in name:
                x[::13] *= 6
            elif "v_proj" in name or "up_proj" in name:
                x[::7] *= 4
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    text = torch.tensor(stream(16 * steps * T, 2), dtype=torch.long).reshape(steps, 16, T)
    for rows in text:
        loss = model(input_ids=rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.75 * np.log(VOCABULARY), f"nothing was learnt: {loss}"
    return model.eval()


class Llama:
    """A checkpoint, its data, and sites in the order in which they are compressed."""

    inner = {}

    def __init__(self, work):
        self.path, self.data = work / "llama", work / "tokens.npy"
        self.model = trained_llama()
        self.save()
        tokens = stream(WINDOWS * T + 1, 3)
        np.save(self.data, tokens)
        self.options = ("--data", self.data, "--seq-len", T, *CALIBRATE)
        self.inputs = torch.tensor(tokens[:-1], dtype=torch.long).reshape(WINDOWS, T)
        self.seen = torch.ones(WINDOWS, T, dtype=torch.bool)
        self.blocks = [[[f"model.layers.{i}.{name}_proj" for name in site.split()]
                        for site in ("self_attn.q self_attn.k self_attn.v", "self_attn.o",
                                     "mlp.gate mlp.up", "mlp.down")] for i in range(2)]

    def save(self):
        self.model.save_pretrained(self.path)

    def run(self, model):
        return model(input_ids=self.inputs).logits


class Bert:
    """Rows of uneven length, the rest of them padding that no statistic may see."""

    inner = {}

    def __init__(self, work):
        self.path, self.data = work / "bert", work / "rows.npy"
        sizes = {**SMALL, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
                 "num_hidden_layers": 2, "num_labels": 2, "pad_token_id": 0}
        self.model = randomise(transformers.BertForSequenceClassification(
            transformers.BertConfig(**sizes)))
        self.save()
        rows = 1 + ids(sizes["vocab_size"] - 1, WINDOWS, T, 4)
        for i, row in enumerate(rows):
            row[T - 24 * (i % 4) // 3:] = 0
        np.save(self.data, rows)
        np.save(work / "labels.npy", np.arange(WINDOWS) % 2)
        self.options = ("--data", self.data, "--labels", work / "labels.npy", *CALIBRATE)
        self.inputs = torch.tensor(rows, dtype=torch.long)
        self.seen = self.inputs != 0
        self.blocks = [[[f"bert.encoder.layer.{i}.{name}" for name in site.split()]
                        for site in ("attention.self.query attention.self.key attention.self.value",
                                     "attention.output.dense", "intermediate.dense",
                                     "output.dense")] for i in range(2)]
        self.blocks.append([["bert.pooler.dense"]])

    def save(self):
        self.model.save_pretrained(self.path)

    def run(self, model):
        return model(input_ids=self.inputs, attention_mask=self.seen.long()).logits


class Images:
    """Convolutions of two sizes and strides, with TensorFlow's padding."""

    def __init__(self, work):
        self.model, self.data = randomise(torch_models.TinyResNet()), work / "images.npy"
        self.path = work / "resnet8"
        self.save()
        pixels = images(16, 32, 32)
        np.save(self.data, pixels)
        self.options = ("--arch", "resnet8-tiny", "--data", self.data, "--samples", len(pixels),
                        "--threads", 1)
        self.inputs = torch.tensor(pixels).permute(0, 3, 1, 2)
        self.seen = None
        names = ["conv2d"] + [f"conv2d_{i}" for i in range(1, 9)]
        self.blocks = [[[name] for name in names]]
        self.inner = {name: self.model.get_submodule(name).kernel_size[0] ** 2 for name in names}

    def save(self):
        self.path = state_dict(self.path.parent, self.path.stem, self.model)

    def run(self, model):
        return model(self.inputs.to(next(model.parameters()).dtype))


# ---- what goes into layers -----------------------------------------------------------------------


def wide(case):
    """A copy of the model in double precision."""
    return copy.deepcopy(case.model).double()


def matrix(weight):
    return weight.reshape(len(weight), -1)


def captured(case, model, names):
    """{layer: its inputs, a row for each product}, those of padding left out."""
    kept, hooks = {}, []

    def keep(name, module):
        def hook(_, inputs):
            x = inputs[0].detach()
            if isinstance(module, torch.nn.Conv2d):
                columns = F.unfold(x, module.kernel_size, stride=module.stride)
                x = columns.transpose(1, 2).reshape(-1, columns.shape[1])
            else:
                x = x[case.seen] if x.dim() == 3 else x  # a pooler sees one token of each row
            kept[name] = x.numpy()
        return hook
    for name in names:
        module = model.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(keep(name, module)))
    with torch.no_grad():
        case.run(model)
    for hook in hooks:
        hook.remove()
    return kept


def layers(case):
    return [name for block in case.blocks for site in block for name in site]


def weights(model, names):
    """{layer: its weight as a matrix} of a module."""
    return {name: matrix(model.get_submodule(name).weight.detach().double().numpy())
            for name in names}


def values(path, names=None):
    """{layer or tensor: what a checkpoint decodes to}, in doubles."""
    there = decode.dense(path)
    if names is None:
        return {name: array.f32() for name, array in there.items()}
    return {name: matrix(there[f"{name}.weight"].f32().astype(np.float64)) for name in names}


def compress(case, out, *options):
    """`pare prune` or `quantize`, by which of the two the options name a method of."""
    words = list(map(str, options))
    command = "prune" if {"--pattern", "--sparsity"} & set(words) else "quantize"
    return pare(command, case.path, "-o", out, *words, *case.options)
