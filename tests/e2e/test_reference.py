"""pare eval on real models: the accuracy and perplexity that independent code measured, and
sentence embeddings beside transformers'."""
# labels: quick real
import os
import pathlib

import numpy as np

from support import data, folder, main, pare, pare_json, skip

MINILM = os.environ.get("PARE_TEST_MINILM")


def need(*names):
    paths = [data(name) for name in names]
    return paths if all(paths) else None


def cifar_models_reach_their_top1_to_the_image():
    there = need("cifar10/test_batch.bin", "resnet_cifar10", "vit_cifar10", "mlperf_tiny_resnet8")
    if not there:
        return "no test data"
    batch, resnets, vit, tiny = there
    for path, arch, correct in (
            (resnets / "resnet20.safetensors", "resnet20-cifar", 9173),
            (resnets / "resnet32.safetensors", "resnet32-cifar", 9263),
            (resnets / "resnet44.safetensors", "resnet44-cifar", 9311),
            (tiny / "resnet8.safetensors", "resnet8-tiny", 8721),
            (vit / "vit_cifar10.safetensors", "vit:patch=4,dim=128,depth=6,heads=8,mlp=256,size=32",
             7374)):
        r = pare_json("eval", path, "--arch", arch, "--data", batch)
        assert r["correct"] == correct, f"{path.name}: {r['correct']} right, wanted {correct}"
        assert r["counted"] == 10000 and r["top1"] == correct / 10000
        predicted, actual = r["predicted"]["peak_memory"], r["actual"]["peak_memory"]
        assert abs(predicted - actual) <= 0.1 * actual, (path.name, predicted, actual)


def stories_reach_their_perplexity():
    there = need("stories260K")
    if not there:
        return "no test data"
    model, = there
    tokens = model / "tinystories_917.tok512.u16"
    r = pare_json("eval", model, "--data", tokens, "--seq-len", 512)
    assert r["counted"] == 443392, r["counted"]
    assert abs(r["loss"] / 1.527415 - 1) < 1e-5, r["loss"]
    assert abs(r["ppl"] / 4.60625 - 1) < 1e-5, r["ppl"]
    r = pare_json("eval", model, "--data", tokens, "--seq-len", 512, "--samples", 200)
    assert abs(r["loss"] / 1.581097 - 1) < 1e-5 and abs(r["ppl"] / 4.86029 - 1) < 1e-5, r["ppl"]
    r = pare_json("eval", model, "--data", tokens, "--seq-len", 512, "--samples", 50,
                  "--precision", "bf16")
    f = pare_json("eval", model, "--data", tokens, "--seq-len", 512, "--samples", 50)
    assert abs(r["ppl"] / f["ppl"] - 1) < 0.01, (r["ppl"], f["ppl"])


def strided_windows_see_more_and_predict_better():
    there = need("stories260K")
    if not there:
        return "no test data"
    model, = there
    tokens = model / "tinystories_917.tok512.u16"
    whole = pare_json("eval", model, "--data", tokens, "--seq-len", 256, "--samples", 40)
    strided = pare_json("eval", model, "--data", tokens, "--seq-len", 256, "--stride", 128,
                        "--samples", 79)
    assert strided["counted"] == whole["counted"] == 40 * 256
    assert strided["ppl"] < whole["ppl"], (strided["ppl"], whole["ppl"])


def the_encoder_reaches_its_accuracy():
    there = need("bert_tiny_sst2")
    if not there:
        return "no test data"
    model, = there
    for name, count, correct in (("sst2_glue_dev_872", 872, 712),
                                 ("sst2_heldout_2000", 2000, 1838)):
        r = pare_json("eval", model, "--data", model / f"{name}.ids.u16", "--labels",
                      model / f"{name}.labels.u8", "--seq-len", 64)
        assert r["counted"] == count and r["correct"] == correct, (name, r["correct"])


def compressed_models_are_measured_too():
    there = need("stories260K")
    if not there:
        return "no test data"
    model, = there
    measure = ("--data", model / "tinystories_917.tok512.u16", "--seq-len", 512, "--samples", 100)
    with folder() as work:
        dense = pare_json("eval", model, *measure)
        last = {}
        for bits in (8, 4, 3):
            for out in (f"w{bits}", f"w{bits}.h5"):
                pare("quantize", model, "-o", work / out, "--scheme", f"w{bits}g32")
                last[out] = pare_json("eval", work / out, "--against", model, *measure)
            assert last[f"w{bits}"]["ppl"] == last[f"w{bits}.h5"]["ppl"]
        assert abs(last["w8"]["ppl"] / dense["ppl"] - 1) < 0.01
        assert dense["ppl"] < last["w4"]["ppl"] < last["w3"]["ppl"]
        assert 0 < last["w8"]["kld"] < last["w4"]["kld"] < last["w3"]["kld"]
        assert last["w8"]["agreement"] > last["w4"]["agreement"] > last["w3"]["agreement"]
        pare("prune", model, "-o", work / "half.h5", "--sparsity", 0.5)
        pare("convert", work / "half.h5", "-o", work / "half", "--to", "dense")
        half = pare_json("eval", work / "half.h5", *measure)
        assert half["ppl"] == pare_json("eval", work / "half", *measure)["ppl"] > dense["ppl"]
        same = pare_json("eval", model, "--against", model, *measure, "--metric", "kld,ppl")
        assert same["kld"] == 0 and same["agreement"] == 1


def sentence_embeddings_are_those_of_transformers():
    if not MINILM:
        return "PARE_TEST_MINILM is not set"
    try:
        import torch
        from transformers import AutoTokenizer, BertModel
    except ImportError:
        return "transformers is not installed"
    sentences = ["A pruned model keeps most of its accuracy.", "Zwei Kerne reichen.",
                 "The cat sat on the mat, and the mat was warm. " * 8, "Yes."]
    tokens = AutoTokenizer.from_pretrained(MINILM)(sentences, padding="max_length", truncation=True,
                                                   max_length=96, return_tensors="pt")
    with torch.no_grad():
        hidden = BertModel.from_pretrained(MINILM)(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].float()
        wanted = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    with folder() as work:
        np.save(work / "ids.npy", tokens["input_ids"].numpy().astype(np.int32))
        pare("eval", MINILM, "--data", work / "ids.npy", "--pad-id", 0,
             "--outputs", work / "out.npy")
        got = np.load(work / "out.npy")
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() < 1e-5, np.abs(got - wanted).max()
        pare("quantize", MINILM, "-o", work / "w8", "--scheme", "w8")
        r = pare_json("eval", work / "w8", "--against", MINILM, "--data", work / "ids.npy")
        assert 0.99 < r["cosine_min"] <= r["cosine"] < 1, r


if __name__ == "__main__":
    if not data("cifar10") and not MINILM:
        skip("neither PARE_TEST_DATA nor PARE_TEST_MINILM is set")
    main([cifar_models_reach_their_top1_to_the_image, stories_reach_their_perplexity,
          strided_windows_see_more_and_predict_better, the_encoder_reaches_its_accuracy,
          compressed_models_are_measured_too, sentence_embeddings_are_those_of_transformers])
