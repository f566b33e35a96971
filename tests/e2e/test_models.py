"""Whole models beside transformers and PyTorch: every architecture and switch, made small and
random, and the real checkpoints. The other side computes in double."""
# labels: quick
import json
import os
import subprocess

from support import data, folder, main, pare
from beside import (PROGRAM, SMALL, close, ids, images, ours, padding, parameters, randomise,
                    state_dict)

import numpy as np
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import nn

import torch_models

MINILM = os.environ.get("PARE_TEST_MINILM")


# ---- decoders -----------------------------------------------------------------------------------

def decoder(work, name, config, kind, length=24, legacy=None):
    """Compares a random model of this configuration; `legacy` edits config.json."""
    torch.manual_seed(0)
    model = randomise(kind(config))
    model.save_pretrained(work / name)
    if legacy:
        path = work / name / "config.json"
        path.write_text(json.dumps(legacy(json.loads(path.read_text()))))
    tokens = ids(config.vocab_size, 3, length)
    got, facts = ours(work, work / name, tokens)
    with torch.no_grad():
        there = model.double()(torch.from_numpy(tokens).long())
    want = there.logits if hasattr(there, "logits") else (
        there.last_hidden_state @ model.get_input_embeddings().weight.detach().T)
    close(name, got, want.numpy())
    assert facts["classes"] == config.vocab_size
    assert facts["parameters"] == parameters(model), f"{name}: {facts}"
    return want.numpy()


def llama(**options):
    return hf.LlamaConfig(**{**SMALL, "num_key_value_heads": 2, **options})


def llama_and_its_switches():
    cases = {
        "plain": llama(), "all heads": llama(num_key_value_heads=6),
        "one key head": llama(num_key_value_heads=1), "tied": llama(tie_word_embeddings=True),
        "biases": llama(attention_bias=True, mlp_bias=True), "wide heads": llama(head_dim=16),
        "gelu": llama(hidden_act="gelu"), "eps": llama(rms_norm_eps=0.3),
        "theta": llama(rope_parameters={"rope_type": "default", "rope_theta": 31.0}),
        "one token": llama(),
    }
    with folder() as work:
        for name, config in cases.items():
            decoder(work, name, config, hf.LlamaForCausalLM, 1 if name == "one token" else 24)
    return f"{len(cases)} cases"


def older(config):
    """config.json as transformers 4 wrote it."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta", 10000.0)
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = rope if rope["type"] != "default" else None
    return config


PAIRS = 4  # of a head of 8


def ropes():
    """name: rope parameters, max_position_embeddings, length of the row"""
    uneven = {"short_factor": [1.0, 1.1, 1.5, 2.0][:PAIRS], "long_factor": [1.0, 2.0, 5.0, 9.0],
              "original_max_position_embeddings": 16}
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 16}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    return {
        "default": ({"rope_type": "default"}, 64, 40),
        "linear": ({"rope_type": "linear", "factor": 4.0}, 64, 40),
        "dynamic, short": ({"rope_type": "dynamic", "factor": 4.0}, 16, 12),
        "dynamic, long": ({"rope_type": "dynamic", "factor": 4.0}, 16, 40),
        "yarn": (yarn, 64, 40),
        "yarn, ramp": ({**yarn, "beta_fast": 4, "beta_slow": 0.1, "truncate": False}, 64, 40),
        "yarn, given scale": ({**yarn, "attention_factor": 0.7}, 64, 40),
        "yarn, mscale": ({**yarn, "mscale": 0.707, "mscale_all_dim": 1.4}, 64, 40),
        "longrope, short": ({"rope_type": "longrope", **uneven}, 64, 12),
        "longrope, long": ({"rope_type": "longrope", **uneven}, 64, 40),
        "longrope, given scale": ({"rope_type": "longrope", "attention_factor": 1.3, **uneven}, 64,
                                  40),
        "longrope, factor": ({"rope_type": "longrope", "factor": 9.0, **uneven}, 64, 40),
        "llama3": (llama3, 64, 40),
        "llama3, ramp": ({**llama3, "low_freq_factor": 0.1, "high_freq_factor": 20.0}, 64, 40),
    }


def every_rotary_rule():
    seen = {}
    with folder() as work:
        for name, (rope, longest, length) in ropes().items():
            config = llama(max_position_embeddings=longest,
                           rope_parameters={"rope_theta": 100.0, **rope})
            logits = decoder(work, name, config, hf.LlamaForCausalLM, length)
            decoder(work, name + ", older", config, hf.LlamaForCausalLM, length, older)
            for other, there in seen.items():  # a rule that did nothing would prove nothing
                if there.shape == logits.shape:
                    assert np.abs(there - logits).max() > 1e-3, f"{name} is {other}"
            seen[name] = logits
    return f"{len(seen)} rules, in new and in older files"


def mistral_and_qwen():
    few = {**SMALL, "num_key_value_heads": 3}
    slide = {"use_sliding_window": True, "sliding_window": 5}
    mixed = ["sliding_attention", "full_attention", "sliding_attention"]
    cases = {
        "mistral": (hf.MistralConfig(**few, sliding_window=5), hf.MistralForCausalLM),
        "mistral, no window": (hf.MistralConfig(**few, sliding_window=None), hf.MistralForCausalLM),
        "mistral, wide heads": (hf.MistralConfig(**few, head_dim=10), hf.MistralForCausalLM),
        "qwen2": (hf.Qwen2Config(**few), hf.Qwen2ForCausalLM),
        "qwen2, tied": (hf.Qwen2Config(**few, tie_word_embeddings=True), hf.Qwen2ForCausalLM),
        "qwen2, last layers slide": (hf.Qwen2Config(**few, **slide, max_window_layers=1),
                                     hf.Qwen2ForCausalLM),
        "qwen2, some layers slide": (hf.Qwen2Config(**few, **slide, layer_types=mixed),
                                     hf.Qwen2ForCausalLM),
        "qwen3": (hf.Qwen3Config(**few, head_dim=12), hf.Qwen3ForCausalLM),
        "qwen3, biases": (hf.Qwen3Config(**few, head_dim=8, attention_bias=True),
                          hf.Qwen3ForCausalLM),
        "qwen3, slides": (hf.Qwen3Config(**few, head_dim=8, **slide, max_window_layers=2),
                          hf.Qwen3ForCausalLM),
    }
    seen = {}
    with folder() as work:
        for name, (config, kind) in cases.items():
            seen[name] = decoder(work, name, config, kind)

        def bare(config):  # as they were before layer_types
            del config["layer_types"]
            return config
        decoder(work, "qwen2, older", *cases["qwen2, last layers slide"], legacy=bare)
    assert np.abs(seen["mistral"] - seen["mistral, no window"]).max() > 1e-3
    assert np.abs(seen["qwen2"] - seen["qwen2, last layers slide"]).max() > 1e-3
    return f"{len(cases)} cases"


def gpt2():
    def config(**options):
        return hf.GPT2Config(**{"n_embd": 48, "n_layer": 3, "n_head": 4, "vocab_size": 61,
                                "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2, **options})
    cases = {"plain": config(), "wide": config(n_inner=100), "unscaled": config(
        scale_attn_weights=False), "by layer": config(scale_attn_by_inverse_layer_idx=True),
        "relu": config(activation_function="relu"), "untied": config(tie_word_embeddings=False)}
    with folder() as work:
        for name, one in cases.items():
            decoder(work, name, one, hf.GPT2LMHeadModel)
        decoder(work, "bare", config(), hf.GPT2Model)
    return f"{len(cases) + 1} cases"


# ---- encoders -----------------------------------------------------------------------------------

def encoder(work, name, model, pooling=None):
    """Logits of a classifier, or pooled hidden states (pooling mean or cls) of a bare model."""
    config = model.config
    randomise(model).save_pretrained(work / name)
    if pooling == "cls":
        (work / name / "1_Pooling").mkdir()
        (work / name / "1_Pooling" / "config.json").write_text(json.dumps(
            {"word_embedding_dimension": 48, "pooling_mode_cls_token": True,
             "pooling_mode_mean_tokens": False}))
    tokens, keys = ids(config.vocab_size - 3, 4, 20) + 3, padding(4, 20)
    tokens[keys == 0] = config.pad_token_id
    got, facts = ours(work, work / name, tokens, keys=keys)
    with torch.no_grad():
        there = model.double()(torch.from_numpy(tokens).long(),
                               attention_mask=torch.from_numpy(keys).long())
    if pooling is None:
        want = there.logits.numpy()
        assert facts["parameters"] == parameters(model)
    elif pooling == "cls":
        want = there.last_hidden_state[:, 0].numpy()
    else:
        mask = keys[:, :, None].astype(np.float64)
        want = (there.last_hidden_state.numpy() * mask).sum(1) / mask.sum(1)
    close(name, got, want)


def bert_and_its_kin():
    small = {**SMALL, "hidden_dropout_prob": 0.3}
    bert = hf.BertConfig(**small, num_labels=3)
    distil = hf.DistilBertConfig(vocab_size=61, dim=48, n_layers=3, n_heads=6, hidden_dim=80,
                                 max_position_embeddings=64, num_labels=5)
    roberta = hf.RobertaConfig(**small, num_labels=4)
    cases = {
        "bert": (hf.BertForSequenceClassification(bert),),
        "bert, gelu_new": (hf.BertForSequenceClassification(
            hf.BertConfig(**small, hidden_act="gelu_new", layer_norm_eps=0.1)),),
        "bert, mean": (hf.BertModel(bert), "mean"),
        "bert, no pooler": (hf.BertModel(bert, add_pooling_layer=False), "mean"),
        "bert, first token": (hf.BertModel(bert), "cls"),
        "bert, masked": (hf.BertForMaskedLM(bert), "mean"),
        "distilbert": (hf.DistilBertForSequenceClassification(distil),),
        "distilbert, mean": (hf.DistilBertModel(distil), "mean"),
        "roberta": (hf.RobertaForSequenceClassification(roberta),),
        "roberta, mean": (hf.RobertaModel(roberta), "mean"),
    }
    with folder() as work:
        for name, (model, *pooling) in cases.items():
            if name == "bert, masked":  # its hidden states, by the encoder inside
                randomise(model).save_pretrained(work / "whole")
                tokens = ids(61, 2, 9)
                got, _ = ours(work, work / "whole", tokens)
                with torch.no_grad():
                    hidden = model.double().bert(torch.from_numpy(tokens).long())[0]
                close(name, got, hidden.mean(1).numpy())
                continue
            encoder(work, name, model, *pooling)
    return f"{len(cases)} cases"


def on_images(work, name, model, x, checkpoint, arch="-"):
    got, facts = ours(work, checkpoint, x, arch)
    with torch.no_grad():
        want = model.double()(torch.from_numpy(x).double().permute(0, 3, 1, 2))
    close(name, got, want.numpy())
    assert facts["parameters"] == parameters(model), f"{name}: {facts}"
    return facts


def vision_transformers():
    small = {**SMALL, "image_size": 24, "patch_size": 6, "num_labels": 7}
    for key in ("vocab_size", "max_position_embeddings"):
        del small[key]
    cases = {
        "vit": hf.ViTForImageClassification(hf.ViTConfig(**small)),
        "vit, no biases": hf.ViTForImageClassification(hf.ViTConfig(**small, qkv_bias=False)),
        "vit, oblong": hf.ViTForImageClassification(
            hf.ViTConfig(**{**small, "image_size": [12, 30]})),
        "vit, grey": hf.ViTForImageClassification(hf.ViTConfig(**small, num_channels=1)),
        "deit": hf.DeiTForImageClassification(hf.DeiTConfig(**small)),
        "vit, pooler": hf.ViTModel(hf.ViTConfig(**small)),
        "vit, bare": hf.ViTModel(hf.ViTConfig(**small), add_pooling_layer=False),
    }
    with folder() as work:
        for name, model in cases.items():
            randomise(model).save_pretrained(work / name)
            size = (12, 30) if "oblong" in name else (24, 24)
            x = images(3, *size, model.config.num_channels)
            got, facts = ours(work, work / name, x)
            with torch.no_grad():
                there = model.double()(torch.from_numpy(x).double().permute(0, 3, 1, 2))
            want = there.logits if hasattr(there, "logits") else there.pooler_output
            want = there.last_hidden_state[:, 0] if want is None else want
            close(name, got, want.numpy())
            assert facts["parameters"] == parameters(model), f"{name}: {facts}"
    return f"{len(cases)} cases"


# ---- plain state dicts --------------------------------------------------------------------------

def residual_networks():
    cases = [("resnet20-cifar", "", 3, 32, 10), ("resnet32-cifar", "", 3, 32, 10),
             ("resnet44-cifar", "", 3, 32, 10), ("resnet56-cifar", "", 3, 32, 10),
             ("resnet110-cifar", "", 3, 32, 10), ("resnet20-cifar", ":in=1,size=28", 1, 28, 10),
             ("resnet20-cifar", ":size=17,classes=3", 3, 17, 3),
             ("resnet18", ":size=64", 3, 64, 1000), ("resnet34", ":size=64,classes=5", 3, 64, 5),
             ("resnet50", ":size=64", 3, 64, 1000), ("resnet18", ":size=33,in=1", 1, 33, 1000)]
    with folder() as work:
        for name, keys, channels, size, classes in cases:
            model = randomise(torch_models.resnet(name, channels=channels, classes=classes))
            path = state_dict(work, name, model)
            on_images(work, name + keys, model, images(2, size, size, channels), path, name + keys)
        model = randomise(torch_models.TinyResNet())
        path = state_dict(work, "tiny", model)
        on_images(work, "resnet8-tiny", model, images(2, 32, 32), path, "resnet8-tiny")
        model = randomise(torch_models.TinyResNet())
        on_images(work, "resnet8-tiny", model, images(2, 27, 27), path, "resnet8-tiny:size=27")
    return f"{len(cases) + 2} cases"


def small_networks():
    with folder() as work:
        model = randomise(torch_models.PlainViT(patch=3, dim=24, depth=2, heads=3, mlp=40, size=16))
        path = state_dict(work, "vit", model)
        on_images(work, "vit", model, images(3, 16, 16), path,
                  "vit:patch=3,dim=24,depth=2,heads=3,mlp=40,size=16")
        model = randomise(torch_models.CNN("8-12-p-16-p-20", channels=1))
        path = state_dict(work, "cnn", model)
        on_images(work, "cnn", model, images(3, 28, 28, 1), path, "cnn:8-12-p-16-p-20,size=28")
        model = randomise(torch_models.CNN("8-p-9"))
        wrapped = nn.Module()
        wrapped.module = model
        path = state_dict(work, "wrapped", wrapped, drop="nothing")
        on_images(work, "wrapped", model, images(3, 21, 21), path, "cnn:8-p-9,size=21")
        for act in (nn.ReLU, nn.GELU, nn.Tanh):
            # Two layers of one shape: their order is that of their numbers, 10 after 2.
            widths = [3 * 25] + [30] * 6 + [10]
            model = randomise(torch_models.mlp(widths, act))
            path = state_dict(work, "mlp", model)
            on_images(work, "mlp", model, images(3, 5, 5), path,
                      "mlp:" + "-".join(map(str, widths)) + f",act={act.__name__.lower()}")
    return "vit, cnn, mlp"


def what_does_not_fit_is_named():
    with folder() as work:
        tensors = dict(torch_models.resnet("resnet20-cifar").state_dict())
        tensors["linear.bias"] = torch.zeros(11)
        tensors["extra"] = torch.zeros(3)
        del tensors["layer2.1.conv1.weight"]
        save_file(tensors, work / "a.safetensors")
        np.save(work / "in.npy", images(1, 32, 32))
        done = subprocess.run([PROGRAM, str(work / "a.safetensors"), "resnet20-cifar",
                               str(work / "in.npy"), str(work / "out.npy")], text=True,
                              capture_output=True)
        for part in ("1 tensor missing: layer2.1.conv1.weight", "too much: extra",
                     "linear.bias is [11], not [10]"):
            assert part in done.stderr, done.stderr
        assert not (work / "out.npy").exists()


# ---- compressed checkpoints ---------------------------------------------------------------------

def compressed_checkpoints_run_as_their_dense_twins():
    """Decoded on the way in, a checkpoint gives the very outputs of the dense one that pare
    converts it to; pruned weights come with masks."""
    with folder() as work:
        model = randomise(hf.LlamaForCausalLM(llama()))
        model.save_pretrained(work / "m")
        tokens = ids(61, 2, 12)
        for scheme in ("w8", "w4g16", "w3g16z", "nf4", "fp8"):
            for out in (work / f"{scheme}.h5", work / scheme):
                if scheme == "nf4" and out.suffix != ".h5":
                    continue
                pare("quantize", work / "m", "-o", out, "--method", "rtn", "--scheme", scheme)
                dense = work / (out.name + ".dense.h5")
                pare("convert", out, "-o", dense, "--to", "dense")
                got, facts = ours(work, out, tokens)
                assert (got == ours(work, dense, tokens)[0]).all(), out.name
                assert facts["masks"] == 0 or scheme != "fp8"
        for pattern, options in (("2:4", []), ("unstructured", ["--sparsity", "0.3"])):
            pare("prune", work / "m", "-o", work / "p.h5", "--method", "magnitude", "--pattern",
                 pattern, *options, "--overwrite")
            got, facts = ours(work, work / "p.h5", tokens)
            assert facts["masks"] == 21, facts["masks"]
            assert np.isfinite(got).all()


# ---- real checkpoints ---------------------------------------------------------------------------

def cifar_images(count, mean, std, scale=1 / 255):
    raw = np.fromfile(data("cifar10/test_batch.bin"), np.uint8, count * 3073).reshape(count, 3073)
    pixels = raw[:, 1:].reshape(count, 3, 32, 32).transpose(0, 2, 3, 1).astype(np.float32)
    x = (pixels * np.float32(scale) - np.float32(mean)) / np.float32(std)
    return x.astype(np.float32), raw[:, 0]


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def real_image_models():
    cases = [(f"resnet_cifar10/resnet{n}.safetensors", f"resnet{n}-cifar", IMAGENET, 1 / 255,
              torch_models.resnet(f"resnet{n}-cifar")) for n in (20, 32, 44)]
    cases.append(("vit_cifar10/vit_cifar10.safetensors",
                  "vit:patch=4,dim=128,depth=6,heads=8,mlp=256,size=32", CIFAR, 1 / 255,
                  torch_models.PlainViT()))
    cases.append(("mlperf_tiny_resnet8/resnet8.safetensors", "resnet8-tiny", ((0,) * 3, (1,) * 3),
                  1, torch_models.TinyResNet()))
    if not data("cifar10/test_batch.bin"):
        return "not run: PARE_TEST_DATA is not set"
    notes = []
    with folder() as work:
        for file, arch, (mean, std), scale, model in cases:
            x, labels = cifar_images(500, mean, std, scale)
            model.load_state_dict(load_file(data(file)), strict=False)
            facts = on_images(work, arch, model.eval(), x, data(file), arch)
            told = facts["config"]
            assert np.allclose(told["mean"], mean) and np.allclose(told["std"], std), told
            assert np.isclose(told["scale"], scale), told
            got, _ = ours(work, data(file), x, arch)
            notes.append(f"{arch.split(':')[0]} {(got.argmax(1) == labels).mean():.1%}")
    return ", ".join(notes) + " of 500"


def real_token_models():
    if not data("stories260K"):
        return "not run: PARE_TEST_DATA is not set"
    notes = []
    with folder() as work:
        path = data("stories260K")
        tokens = np.fromfile(path / "tinystories_917.tok512.u16", "<u2", 2048).reshape(4, 512)
        got, _ = ours(work, path, tokens.astype(np.int32))
        model = hf.LlamaForCausalLM.from_pretrained(path).eval().double()
        with torch.no_grad():
            want = model(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()
        notes.append(f"stories260K {close('stories260K', got, want):.1e}")
        path = data("bert_tiny_sst2")
        tokens = np.fromfile(path / "sst2_glue_dev_872.ids.u16", "<u2").reshape(-1, 64)
        labels = np.fromfile(path / "sst2_glue_dev_872.labels.u8", np.uint8)
        got, _ = ours(work, path, tokens.astype(np.int32), keys=(tokens != 0).astype(np.uint8))
        right = int((got.argmax(1) == labels).sum())
        assert right == 712, right  # 81.65 % of 872, the figure it came with
        notes.append(f"bert_tiny_sst2 {right} of 872")
    return ", ".join(notes)


def minilm():
    if not MINILM or not os.path.isdir(MINILM):
        return "not run: PARE_TEST_MINILM is not set"
    model = hf.BertModel.from_pretrained(MINILM, add_pooling_layer=False).eval().double()
    tokens, keys = ids(30000, 4, 48), padding(4, 48)
    tokens[keys == 0] = 0
    with folder() as work:
        got, facts = ours(work, MINILM, tokens, keys=keys)
    with torch.no_grad():
        hidden = model(torch.from_numpy(tokens).long(),
                       attention_mask=torch.from_numpy(keys).long()).last_hidden_state.numpy()
    mask = keys[:, :, None].astype(np.float64)
    close("MiniLM", got, (hidden * mask).sum(1) / mask.sum(1))
    assert facts["parameters"] == parameters(model)


main([llama_and_its_switches, every_rotary_rule, mistral_and_qwen, gpt2, bert_and_its_kin,
      vision_transformers, residual_networks, small_networks, what_does_not_fit_is_named,
      compressed_checkpoints_run_as_their_dense_twins,
      real_image_models, real_token_models, minilm])
