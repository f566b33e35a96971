"""Pruned checkpoints beside the numpy reference: every tensor of the output, byte for byte."""
# labels: quick
import numpy as np

import models
import oracle
from support import Array, folder, main, names_of, pare, pare_json, read, real

CASES = [  # name, options, pattern, scope
    ("layer", ["--sparsity", "0.5", "--scope", "layer"], "unstructured", "layer"),
    ("global", ["--sparsity", "0.5", "--scope", "global"], "unstructured", "global"),
    ("third", ["--sparsity", "0.333", "--scope", "global"], "unstructured", "global"),
    ("everything", ["--sparsity", "1", "--scope", "layer"], "unstructured", "layer"),
    ("nothing", ["--sparsity", "0", "--scope", "global"], "unstructured", "global"),
    ("2:4", ["--pattern", "2:4"], "2:4", None),
    ("4:8", ["--pattern", "4:8"], "4:8", None),
    ("3:5", ["--pattern", "3:5"], "3:5", None),
    ("block", ["--pattern", "block:4x8", "--sparsity", "0.5", "--scope", "layer"], (4, 8), "layer"),
    ("odd block", ["--pattern", "block:5x3", "--sparsity", "0.6", "--scope", "global"], (5, 3),
     "global"),
]


def matrix(array):
    w = array.f32()
    return w.reshape(w.shape[0], -1)


def expected(tensors, chosen, case):
    """The tensors after pruning, and for each chosen one its mask."""
    _, options, pattern, scope = case
    names = sorted(chosen, key=lambda name: name.encode())
    weights = {name: matrix(tensors[name]) for name in names}
    if pattern not in ("unstructured",) and isinstance(pattern, str):
        n, m = map(int, pattern.split(":"))
        masks = {}
        for name, w in weights.items():
            shape = tensors[name].shape
            along = shape[1] if len(shape) > 1 else 1
            if along % m:
                continue  # stays dense
            keys = oracle.magnitude(w)
            if len(shape) == 4:  # N:M runs along the input channels
                turned = keys.reshape(shape).transpose(0, 2, 3, 1)
                mask = oracle.keep_nm(turned.reshape(-1, shape[1]), n, m).reshape(turned.shape)
                masks[name] = mask.transpose(0, 3, 1, 2).reshape(w.shape)
            else:
                masks[name] = oracle.keep_nm(keys, n, m)
    else:
        block = None if pattern == "unstructured" else pattern
        keys = {name: oracle.block_keys(w, block) if block else oracle.magnitude(w)
                for name, w in weights.items()}
        sparsity = float(options[options.index("--sparsity") + 1])
        if scope == "global":
            kept = oracle.keep_most([keys[name] for name in names], sparsity)
        else:
            kept = [oracle.keep_most([keys[name]], sparsity)[0] for name in names]
        masks = dict(zip(names, kept))
        if block:
            masks = {name: oracle.expand(mask, block, weights[name].shape)
                     for name, mask in masks.items()}
    result = dict(tensors)
    for name, mask in masks.items():
        raw = tensors[name].raw().reshape(mask.shape).copy()
        raw[~mask] = 0
        result[name] = Array(tensors[name].dtype, tensors[name].shape, raw.tobytes())
    return result, masks


def check(source, work, case):
    out = work / ("out-" + case[0].replace(":", "-").replace(" ", "-"))
    report = pare_json("prune", source, "-o", out, "--method", "magnitude", *case[1])
    tensors = read(source)
    chosen = [t["name"] for t in report["tensors"] if t["role"] in ("linear", "conv")]
    assert chosen, report["tensors"]
    want, masks = expected(tensors, chosen, case)
    got = read(out)
    assert list(sorted(got)) == list(sorted(want))
    for name in want:
        assert got[name] == want[name], f"{case[0]}: {name} differs"
    for row in report["tensors"]:
        dense_nm = case[3] is None and row["name"] in chosen and row["name"] not in masks
        assert bool(row.get("prune")) == (row["name"] in masks), row
        assert bool(row.get("fallback")) == dense_nm, row
    zeros = sum(int((got[name].f32() == 0).sum()) for name in masks)
    assert report["result"].get("pruned", {"zeros": 0})["zeros"] == zeros, (report["result"], zeros)
    return masks


def made_llama():
    with folder() as work:
        for dtype in ("F32", "BF16", "F16"):
            source = models.llama(work / dtype, dtype)
            (work / f"of-{dtype}").mkdir()
            for case in CASES:
                check(source, work / f"of-{dtype}", case)
            carried = (work / f"of-{dtype}" / "out-2-4" / "tokenizer.json").read_bytes()
            assert carried == (source / "tokenizer.json").read_bytes()


def made_state_dict():
    with folder() as work:
        source = models.plain(work / "plain.safetensors")
        for case in CASES:
            check(source, work, case)


def roles_of_llama_leave_embeddings_norms_and_head_alone():
    with folder() as work:
        source = models.llama(work / "m")
        masks = check(source, work, CASES[0])
        assert set(masks) == {name for name in read(source) if "_proj." in name}


def include_and_exclude_choose():
    with folder() as work:
        source = models.llama(work / "m")
        report = pare_json("prune", source, "-o", work / "o", "--method", "magnitude", "--sparsity",
                           "0.5", "--include", "*mlp*", "--include", "lm_head.weight", "--exclude",
                           "*layers.1.*")
        chosen = {t["name"] for t in report["tensors"] if t.get("prune")}
        assert chosen == {name for name in read(source)
                          if ("mlp" in name and ".1." not in name) or name == "lm_head.weight"}


def random_pruning_repeats_by_its_seed_and_cuts_exactly():
    with folder() as work:
        source = models.llama(work / "m")
        outs = []
        for out, seed in (("a", 1), ("b", 1), ("c", 2)):
            pare("prune", source, "-o", work / out, "--method", "random", "--sparsity", "0.5",
                 "--scope", "layer", "--seed", seed)
            outs.append(read(work / out))
        name = "model.layers.0.mlp.up_proj.weight"
        dense = read(source)[name]
        a, b, c = (out[name].raw() for out in outs)
        gone = (a.view(np.uint32) == 0) & (dense.raw() != 0)
        kept = a.view(np.uint32) == dense.raw().view(np.uint32)
        assert np.array_equal(a, b) and not np.array_equal(a, c)
        assert np.all(gone | kept | (dense.raw() == 0))
        share = gone.sum() / (dense.raw() != 0).sum()
        assert abs(share - 0.5) < 0.02, share


def real_checkpoints():
    with folder() as work:
        for source in real():
            out = work / source.stem
            out.mkdir()
            for case in (CASES[0], CASES[1], CASES[5], CASES[6], CASES[8]):
                check(source, out, case)
    return names_of(real())


main([made_llama, made_state_dict, roles_of_llama_leave_embeddings_norms_and_head_alone,
      include_and_exclude_choose, random_pruning_repeats_by_its_seed_and_cuts_exactly,
      real_checkpoints])
