"""Quantised checkpoints beside the numpy reference: codes, scales and zero points, byte for
byte."""
# labels: quick
import json

import numpy as np

import decode
import models
import oracle
from support import folder, main, names_of, pare_json, read, real, tensor, write

SCHEMES = ["w8", "w8t", "w4g128", "w4g32", "w4g32z", "w3g32", "w5", "w2g64z", "w6z", "w7g128",
           "w8z", "w4b16x16", "w8a8", "fp8", "fp8t", "fp8a8", "nf4", "nf4d"]


def matrix(array):
    w = array.f32()
    return w.reshape(w.shape[0], -1)


def expected_arrays(name, array, text, mse=False):
    """{array name: bytes} of what a quantised tensor is stored as."""
    scheme, q, s, z, _ = oracle.quantize(text, matrix(array), array.dtype, mse)
    if scheme.get("double"):
        absmax = oracle.scales(scheme, matrix(array), array.dtype)[0]
        absmax, nested, _, _ = oracle.nest(absmax, array.dtype, matrix(array).shape[1])
        return {name: oracle.pack_nibbles(q).tobytes(), f"{name}.absmax": absmax.tobytes(),
                f"{name}.nested_absmax": nested.tobytes(),
                f"{name}.nested_quant_map": oracle.nested_levels().tobytes(),
                f"{name}.quant_map": oracle.LEVELS.tobytes()}
    if scheme["type"] == "nf4":
        return {name: oracle.pack_nibbles(q).tobytes(), f"{name}.absmax": s.tobytes(),
                f"{name}.quant_map": oracle.LEVELS.tobytes()}
    arrays = {f"{name}_scale": tensor(array.dtype, s).data}
    if scheme["type"] == "e4m3" or (scheme["bits"] == 8 and "a8" in text):
        arrays[name] = q.tobytes()
        if scheme["asymmetric"]:
            arrays[f"{name}_zero_point"] = z.tobytes()
        return arrays
    low = 1 << (scheme["bits"] - 1)
    arrays[f"{name}_packed"] = oracle.pack_stream(
        q.astype(np.int16) + low, scheme["bits"]).tobytes()
    arrays[f"{name}_shape"] = np.array(array.shape, np.int64).tobytes()
    if scheme["asymmetric"]:
        packed = oracle.pack_stream((z.astype(np.int16) + low).T, scheme["bits"])
        arrays[f"{name}_zero_point"] = np.ascontiguousarray(packed.T).tobytes()
    return arrays


def check(source, out, text, mse=False, extra=()):
    report = pare_json("quantize", source, "-o", out, "--method", "rtn", "--scheme", text,
                       *(["--scale", "mse"] if mse else []), *extra)
    tensors, got = read(source), read(out)
    seen = set()
    for row in report["tensors"]:
        name, array = row["name"], tensors[row["name"]]
        if not row.get("quant"):
            assert got[name] == array, f"{text}: {name} was to be left alone"
            seen.add(name)
            continue
        for part, bytes_ in expected_arrays(name, array, row["quant"], mse).items():
            assert bytes(got[part].data) == bytes_, f"{text} ({row['quant']}): {part} differs"
            seen.add(part)
    rest = {name for name in got if name not in seen}
    assert all(name.endswith("quant_state.bitsandbytes__nf4") for name in rest), rest
    dense = decode.dense(out)
    for row in report["tensors"]:
        name = row["name"]
        if row.get("quant"):
            array = tensors[name]
            values = oracle.quantize(row["quant"], matrix(array), array.dtype, mse)[4]
            want = tensor(array.dtype, values.reshape(array.shape))
            assert dense[name] == want, f"{text}: {name} decodes to other values"
    return report


def made_llama():
    with folder() as work:
        for dtype in ("F32", "BF16", "F16"):
            source = models.llama(work / dtype, dtype)
            for text in SCHEMES:
                check(source, work / f"{dtype}-{text}", text)
    return f"{len(SCHEMES)} schemes"


def scales_quantised_over_many_chunks():
    with folder() as work:
        rng = np.random.default_rng(3)
        source = work / "s.safetensors"
        for dtype, *shape in (("BF16", 5000, 448), ("F32", 700, 64 * 29), ("F16", 33, 64 * 300)):
            w = rng.standard_normal(shape) * rng.gamma(1, 1, (shape[0], 1))
            write(source, {"a.weight": tensor(dtype, w.astype(np.float32))})
            check(source, work / f"{dtype}.safetensors", "nf4d")


def mse_search():
    with folder() as work:
        for dtype in ("F32", "BF16"):
            source = models.llama(work / dtype, dtype)
            for text in ("w4g128", "w4", "w3g32z", "w4t", "fp8", "w4b16x16"):
                check(source, work / f"{dtype}-{text}", text, mse=True)


def fallbacks_are_named():
    with folder() as work:
        source = models.llama(work / "m")
        report = check(source, work / "out", "w4g128")
        for row in report["tensors"]:
            odd = "down_proj" in row["name"]  # 344 inputs: 128 does not divide them
            assert bool(row.get("fallback")) == odd, row
            if "_proj" in row["name"]:
                assert row["quant"] == ("w4" if odd else "w4g128"), row


def masks_survive_every_quantiser():
    with folder() as work:
        source = models.llama(work / "m")
        recipe = work / "both.yaml"
        for pattern in ('"2:4"', "unstructured, sparsity: 0.5", '"block:4x8", sparsity: 0.5'):
            for text in ("w8", "w4g32", "w4g32z", "w3g32", "fp8", "nf4", "nf4d", "w8a8"):
                out = work / "out"
                recipe.write_text(f"model: {source}\nsteps:\n"
                                  f"  - prune: {{ method: magnitude, pattern: {pattern} }}\n"
                                  f"  - quantize: {{ method: rtn, scheme: {text} }}\n"
                                  f"  - export: {{ to: {out} }}\n")
                pare_json("run", recipe, "--overwrite")
                dense = decode.dense(out)
                from_prune = work / "pruned"
                options = pattern.replace('"', "").replace("sparsity: ", "").split(", ")
                pare_json("prune", source, "-o", from_prune, "--method", "magnitude", "--pattern",
                          options[0], *(["--sparsity", options[1]] if options[1:] else []),
                          "--overwrite")
                for name, array in read(from_prune).items():
                    gone = array.f32() == 0
                    assert not dense[name].f32()[gone].any(), f"{pattern} {text}: {name} revived"


def configuration_says_what_was_done():
    with folder() as work:
        source = models.llama(work / "m")
        check(source, work / "out", "w4g32z")
        config = json.loads((work / "out" / "config.json").read_text())
        kept = json.loads((source / "config.json").read_text())
        quant = config.pop("quantization_config")
        assert config == kept
        assert quant["quant_method"] == "compressed-tensors" and quant["format"] == "pack-quantized"
        groups = {group["weights"]["group_size"]: group
                  for group in quant["config_groups"].values()}
        assert set(groups) == {32, None}, groups  # 344 inputs are no multiple of 32
        assert all("down_proj" in name for name in groups[None]["targets"])
        for group in groups.values():
            assert group["weights"]["num_bits"] == 4 and not group["weights"]["symmetric"]
        assert {"lm_head", "model.embed_tokens"} <= set(quant["ignore"])
        assert "sparsity_config" not in quant


def real_checkpoints():
    with folder() as work:
        for source in real():
            for text in ("w8", "w4g128", "w4g32z", "w5", "nf4", "nf4d", "fp8", "w8a8"):
                check(source, work / f"{source.stem}-{text}{source.suffix}", text)
            check(source, work / f"{source.stem}-mse{source.suffix}", "w4", mse=True)
    return names_of(real())


main([made_llama, scales_quantised_over_many_chunks, mse_search, fallbacks_are_named,
      masks_survive_every_quantiser, configuration_says_what_was_done, real_checkpoints])
