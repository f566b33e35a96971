"""What structured pruning writes is an ordinary smaller model: transformers loads it without a word
and computes what pare computes; what was zero is not missed; real models get worse slowly."""
# labels: quick
import json

from beside import SMALL, close, np, ours, randomise, torch, transformers
from support import data, folder, main, pare, pare_json, read

DECODER = {**SMALL, "num_attention_heads": 6, "num_key_value_heads": 3, "num_hidden_layers": 4}
GPT2 = {"n_embd": 48, "n_head": 6, "n_layer": 3, "vocab_size": 61, "n_positions": 64}
DISTIL = {"dim": 48, "n_heads": 6, "n_layers": 3, "hidden_dim": 80, "vocab_size": 61,
          "max_position_embeddings": 64}
VIT = {**SMALL, "image_size": 16, "patch_size": 4, "num_labels": 7}
QUIET = {"attn_implementation": "eager"}

# name, class, config, patterns
MODELS = [
    ("llama", transformers.LlamaForCausalLM, transformers.LlamaConfig(**DECODER),
     ["channel", "head", "width", "layer"]),
    ("llama, tied", transformers.LlamaForCausalLM,
     transformers.LlamaConfig(**DECODER, tie_word_embeddings=True, attention_bias=True),
     ["head", "width"]),
    ("mistral", transformers.MistralForCausalLM,
     transformers.MistralConfig(**DECODER, sliding_window=5), ["channel", "head", "width"]),
    ("qwen2", transformers.Qwen2ForCausalLM,
     transformers.Qwen2Config(**DECODER, use_sliding_window=True, sliding_window=5,
                              max_window_layers=2), ["channel", "head", "width", "layer"]),
    ("qwen3", transformers.Qwen3ForCausalLM, transformers.Qwen3Config(**DECODER, head_dim=10),
     ["channel", "head", "width", "layer"]),
    ("gpt2", transformers.GPT2LMHeadModel, transformers.GPT2Config(**GPT2),
     ["channel", "width", "layer"]),
    ("bert", transformers.BertForSequenceClassification,
     transformers.BertConfig(**SMALL, num_labels=3), ["channel", "width", "layer"]),
    ("roberta", transformers.RobertaForSequenceClassification,
     transformers.RobertaConfig(**SMALL, num_labels=3), ["channel", "width", "layer"]),
    ("distilbert", transformers.DistilBertForSequenceClassification,
     transformers.DistilBertConfig(**DISTIL, num_labels=3), ["channel", "width", "layer"]),
    ("vit", transformers.ViTForImageClassification, transformers.ViTConfig(**VIT),
     ["channel", "width", "layer"]),
]


def loaded(kind, path):
    """The model as transformers loads it, every tensor used and none made up."""
    model, info = kind.from_pretrained(path, output_loading_info=True, **QUIET)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[what], f"{path}: {what}: {info[what]}"
    return model.eval()


def inputs_of(model):
    generator = torch.Generator().manual_seed(3)
    if "ViT" in type(model).__name__:
        return torch.randn(2, 3, 16, 16, generator=generator)
    return torch.randint(2, 61, (2, 9), generator=generator)


def theirs(model, inputs):
    with torch.no_grad():
        return model(inputs).logits.numpy()


def beside(work, path, model, inputs):
    array = inputs.numpy()
    array = array.transpose(0, 2, 3, 1).copy() if array.ndim == 4 else array.astype(np.int32)
    return ours(work, path, array)[0], theirs(model, inputs)


def parameters(model):
    return sum(x.numel() for x in model.parameters())


def transformers_loads_every_family_and_pattern():
    for name, kind, config, patterns in MODELS:
        with folder() as work:
            model = kind(config).eval()
            randomise(model)
            model.save_pretrained(work / "m")
            for pattern in patterns:
                out = work / pattern
                share = 0.34 if pattern in ("head", "layer") else 0.25
                pare("prune", work / "m", "-o", out, "--pattern", pattern, "--sparsity", share)
                small = loaded(kind, out)
                assert parameters(small) < parameters(model), f"{name} {pattern}: no smaller"
                got, want = beside(work, out, small, inputs_of(model))
                close(f"{name} {pattern}", got, want)


def neurons_that_were_zero_are_not_missed():
    with folder() as work:
        config = transformers.LlamaConfig(**DECODER)
        model = transformers.LlamaForCausalLM(config).eval()
        randomise(model)
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for layer in model.model.layers:
                gone = torch.randperm(80, generator=generator)[:24]
                layer.mlp.gate_proj.weight[gone] = 0
                layer.mlp.up_proj.weight[gone] = 0
                layer.mlp.down_proj.weight[:, gone] = 0
        model.save_pretrained(work / "m")
        pare("prune", work / "m", "-o", work / "s", "--pattern", "channel", "--sparsity", "0.3")
        small = loaded(transformers.LlamaForCausalLM, work / "s")
        assert small.config.intermediate_size == 56
        inputs = inputs_of(model)
        close("channel", theirs(small, inputs), theirs(model, inputs))


def the_report_counts_what_is_written():
    with folder() as work:
        config = transformers.LlamaConfig(**DECODER)
        transformers.LlamaForCausalLM(config).save_pretrained(work / "m")
        arguments = ["prune", work / "m", "--pattern", "head", "--sparsity", "0.34"]
        plan = pare_json(*arguments, "-o", work / "s", "--plan")
        assert plan["kind"] == "plan" and not (work / "s").exists()
        report = pare_json(*arguments, "-o", work / "s")
        tensors = read(work / "s")
        assert report["shrink"]["parameters_after"] == sum(
            int(np.prod(x.shape)) for x in tensors.values()) == plan["shrink"]["parameters_after"]
        for row in report["tensors"]:
            assert list(tensors[row["name"]].shape) == row["shape_out"]
        assert report["shrink"]["flops_after"] < report["shrink"]["flops_before"]
        assert [c["kept"] for c in report["shrink"]["classes"]] == [2, 2, 2, 2]
        pare(*arguments, "-o", work / "s", code=2)  # it exists


def heads_of_bert_are_refused():
    with folder() as work:
        transformers.BertForSequenceClassification(
            transformers.BertConfig(**SMALL, num_labels=3)).save_pretrained(work / "m")
        done = pare("prune", work / "m", "-o", work / "s", "--pattern", "head", "--sparsity", "0.5",
                    code=3)
        assert "width takes heads along" in done.stderr, done.stderr
        assert not (work / "s").exists()


def real_models_get_worse_slowly():
    stories, bert = data("stories260K"), data("bert_tiny_sst2")
    if not stories or not bert:
        print("without PARE_TEST_DATA: no real models")
        return
    with folder() as work:
        # calibration and measuring on windows that do not overlap
        tokens = stories / "tinystories_917.tok512.u16"
        measure = ["--data", f"tokens:{tokens}", "--seq-len", "512", "--samples", "60"]
        recipe = work / "r.yaml"
        for pattern, method, share, worst in (("channel", "wanda", 0.1, 5.6),
                                              ("head", "wanda", 0.5, 9),
                                              ("channel", "taylor", 0.1, 6.2),
                                              ("layer", "magnitude", 0.2, 11)):
            out = work / f"{pattern}-{method}"
            recipe.write_text(json.dumps(
                {"model": str(stories), "steps": [{"prune": {
                    "method": method, "pattern": pattern, "sparsity": share,
                    "data": str(tokens), "seq_len": 512, "samples": 16, "skip": 300}}]}))
            pare("run", recipe, "-o", out)
            small = loaded(transformers.LlamaForCausalLM, out)
            got, want = beside(work, out, small, inputs_of(small))
            close(pattern, got, want)
            ppl = pare_json("eval", out, *measure)["ppl"]
            print(f"stories260K, {share:.0%} of {pattern}s by {method}: perplexity {ppl:.3f}")
            assert ppl < worst
        pare("prune", bert, "-o", work / "b", "--pattern", "channel", "--sparsity", "0.1")
        ids = bert / "sst2_glue_dev_872.ids.u16"
        top1 = pare_json("eval", work / "b", "--data", f"tokens:{ids}", "--labels",
                         bert / "sst2_glue_dev_872.labels.u8", "--seq-len", "64")["top1"]
        print(f"bert_tiny, 10 % of neurons: top-1 {top1:.2%} (81.65 %)")
        assert top1 > 0.79


if __name__ == "__main__":
    main([transformers_loads_every_family_and_pattern, neurons_that_were_zero_are_not_missed,
          the_report_counts_what_is_written, heads_of_bert_are_refused,
          real_models_get_worse_slowly])
