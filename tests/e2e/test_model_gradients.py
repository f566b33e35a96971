"""Gradients of whole models beside PyTorch's, which computes in double: every architecture, every
tensor."""
# labels: quick
import json
import subprocess

from support import folder, main
from beside import PROGRAM, SMALL, close, ids, images, padding, randomise, state_dict

import numpy as np
import torch
import transformers as hf
from torch import nn

import torch_models


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model.double().train()


def hidden_states(model, x, mask):
    """What our graph ends in: logits of a classifier, else hidden states before the head."""
    if not hasattr(model, "config"):
        return model(x)
    if hasattr(model, "lm_head"):
        return getattr(model, model.base_model_prefix)(x).last_hidden_state
    return (model(x) if mask is None else model(x, attention_mask=mask)).logits


def gradients(work, name, model, inputs, checkpoint, arch="-", keys=None):
    """The gradient of every tensor, and training's outputs, for a given gradient of the output."""
    files = [work / f"{part}.npy" for part in ("in", "out", "keys", "grads")]
    np.save(files[0], inputs)
    if keys is not None:
        np.save(files[2], keys)
    done = subprocess.run([PROGRAM, str(checkpoint), arch, *map(str, files[:2]),
                           str(files[2]) if keys is not None else "-", str(files[3])], text=True,
                          capture_output=True)
    assert done.returncode == 0, f"{name}: {done.stderr}"
    x = torch.from_numpy(inputs)
    x = x.double().permute(0, 3, 1, 2) if inputs.ndim == 4 else x.long()
    y = hidden_states(without_dropout(model), x,
                      None if keys is None else torch.from_numpy(keys).long())
    close(name, np.load(files[1]), y.detach().numpy())
    at = np.arange(y.numel(), dtype=np.int64)
    dy = (7919 * at % 1009).astype(np.float32) / np.float32(1009) - np.float32(0.5)
    model.zero_grad()
    y.backward(torch.from_numpy(dy.astype(np.float64)).reshape(y.shape))
    return compare(name, model, np.load(files[3])[0], json.loads(done.stdout)["tensors"])


# What transformers calls a vision transformer's modules now, and what files have always had.
RENAMED = {".layers.": ".encoder.layer.", "q_proj": "attention.query", "k_proj": "attention.key",
           "v_proj": "attention.value", "o_proj": "output.dense", "mlp.fc1": "intermediate.dense",
           "mlp.fc2": "output.dense"}


def stored(name):
    if name.startswith(("vit.", "deit.")):
        for new, old in RENAMED.items():
            name = name.replace(new, old)
    return name


def compare(name, model, got, tensors):
    """The largest difference, relative to a tensor's norm. What cancels (a bias before a norm, a
    key's bias in a softmax) is rounding on both sides: no norm counts as less than a hundredth of
    what the tensor would have at the model's mean."""
    there = {stored(key): np.zeros(p.shape) if p.grad is None else p.grad.numpy()
             for key, p in model.named_parameters()}
    mean = (sum((g ** 2).sum() for g in there.values()) / sum(g.size for g in there.values())) ** .5
    start, worst = 0, 0.0
    for tensor, count, transposed in tensors:
        mine, start = got[start:start + count], start + count
        want = there.pop(tensor)
        want = want.T if transposed else want
        norm = max(np.linalg.norm(want), 0.01 * mean * want.size ** 0.5)
        error = np.linalg.norm(mine.reshape(want.shape) - want) / norm
        assert error <= 1e-4, f"{name}: the gradient of {tensor} differs by {error:.1e}"
        worst = max(worst, error)
    assert start == got.size and not [key for key in there if "lm_head" not in key], there.keys()
    return worst


def gradients_of_token_models():
    few = {**SMALL, "num_key_value_heads": 2}
    yarn = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0,
            "original_max_position_embeddings": 16}
    cases = {
        "llama": hf.LlamaForCausalLM(hf.LlamaConfig(**few, attention_bias=True,
                                                    rope_parameters=yarn)),
        "mistral": hf.MistralForCausalLM(hf.MistralConfig(**few, sliding_window=5)),
        "qwen2": hf.Qwen2ForCausalLM(hf.Qwen2Config(**few)),
        "qwen3": hf.Qwen3ForCausalLM(hf.Qwen3Config(**few, head_dim=8)),
        "gpt2": hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=61,
                                                 n_positions=32)),
        "bert": hf.BertForSequenceClassification(hf.BertConfig(**SMALL)),
        "roberta": hf.RobertaForSequenceClassification(hf.RobertaConfig(**SMALL)),
        "distilbert": hf.DistilBertForSequenceClassification(hf.DistilBertConfig(
            vocab_size=61, dim=48, n_layers=2, n_heads=6, hidden_dim=80,
            max_position_embeddings=64)),
    }
    worst = 0.0
    with folder() as work:
        for name, model in cases.items():
            randomise(model).save_pretrained(work / name)
            keys = padding(4, 20) if "bert" in name else None
            tokens = ids(58, 4, 20) + 3
            if keys is not None:
                tokens[keys == 0] = model.config.pad_token_id
            worst = max(worst, gradients(work, name, model, tokens, work / name, keys=keys))
    return f"{len(cases)} models, at most {worst:.1e}"


def far_from_kinks(model):
    """Batch norms whose channels lie clearly above or below 0: where a ReLU's input is 0 but for
    rounding, its gradient in f32 is another than in double, in PyTorch too."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            sign = torch.randint(0, 3, module.bias.shape, generator=generator) > 0
            module.bias.data = torch.where(sign, 4.0, -4.0)
            module.weight.data = module.weight.clamp(0.5, 1.0)


def gradients_of_image_models():
    vit = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
           "intermediate_size": 80, "image_size": 24, "patch_size": 6, "num_labels": 7}
    cases = {
        "resnet20-cifar:size=20": (torch_models.resnet("resnet20-cifar"), 20, 3),
        "resnet18:size=40,classes=6": (torch_models.resnet("resnet18", classes=6), 40, 3),
        "resnet50:size=36,classes=6": (torch_models.resnet("resnet50", classes=6), 36, 3),
        "resnet8-tiny:size=19": (torch_models.TinyResNet(), 19, 3),
        "vit:patch=3,dim=24,depth=2,heads=3,mlp=40,size=16": (torch_models.PlainViT(
            patch=3, dim=24, depth=2, heads=3, mlp=40, size=16), 16, 3),
        "cnn:8-12-p-16,size=14": (torch_models.CNN("8-12-p-16", channels=1), 14, 1),
        "mlp:75-30-20-10,act=gelu": (torch_models.mlp([75, 30, 20, 10], nn.GELU), 5, 3),
        "-": (hf.ViTForImageClassification(hf.ViTConfig(**vit)), 24, 3),
        "- deit": (hf.DeiTForImageClassification(hf.DeiTConfig(**vit)), 24, 3),
    }
    worst = 0.0
    with folder() as work:
        for arch, (model, size, channels) in cases.items():
            randomise(model)
            far_from_kinks(model)
            path = work / arch.split(":")[0]
            if arch.startswith("-"):
                model.save_pretrained(path)
            else:
                path = state_dict(work, "model", model)
            worst = max(worst, gradients(work, arch, model, images(8, size, size, channels), path,
                                         arch.split()[0]))
    return f"{len(cases)} models, at most {worst:.1e}"


main([gradients_of_token_models, gradients_of_image_models])
