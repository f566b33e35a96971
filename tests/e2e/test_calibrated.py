"""Methods that look at data, on whole models, beside the papers in numpy and double precision:
which weights go, what every layer's output loses, and which scales are folded away, with the inputs
of each layer as PyTorch sees them."""
# labels: quick
import functools
import tempfile

from calibrated import (T, WINDOWS, Bert, Images, Llama, captured, compress, layers, matrix, values,
                        weights, wide)  # first: skips where PyTorch is missing

import copy
import json
import pathlib

import numpy as np
import torch

import decode
import oracle
from support import main, pare, read
from test_sweep import Scheme, n_of_m, sweep

WORK = tempfile.TemporaryDirectory(prefix="pare-e2e-")
AT_ONCE = ("--propagate", "dense", "--no-true-sequential")


@functools.cache
def case(kind):
    return kind(pathlib.Path(WORK.name))


@functools.cache
def inputs(kind):
    """What goes into every layer of the model as it was."""
    return captured(case(kind), wide(case(kind)), layers(case(kind)))


def written(kind, *options):
    """The layers of what pare makes of a model."""
    out = tempfile.mkdtemp(dir=WORK.name) + "/out"
    if issubclass(kind, Images):
        out += ".safetensors"
    compress(case(kind), out, *options)
    return values(out, layers(case(kind)))


# ---- wanda ---------------------------------------------------------------------------------------


def wanda(w, x, pattern, inner):
    """The kept (Sun 2023). inner: places of a convolution's kernel, None of other layers. Of a
    convolution there is one threshold for all of it, and N:M runs along the input channels."""
    scores = np.abs(w) * np.sqrt(np.sum(x ** 2, 0))
    if pattern == "2:4":
        if w.shape[1] // (inner or 1) % 4:
            return np.ones(w.shape, bool)  # does not fit
        channels = scores.reshape(len(w), -1, inner or 1).transpose(0, 2, 1)
        keep = n_of_m(channels.reshape(-1, 4), 2).reshape(channels.shape)
        return keep.transpose(0, 2, 1).reshape(w.shape)
    rows = scores.reshape(1, -1) if inner else scores
    keep = np.ones(rows.shape, bool)
    gone = np.argsort(rows, axis=1, kind="stable")[:, :int(np.rint(0.5 * rows.shape[1]))]
    np.put_along_axis(keep, gone, False, 1)
    return keep.reshape(w.shape)


def pattern_options(pattern):
    return ("--pattern", pattern) if ":" in pattern else ("--sparsity", pattern)


def same_masks(kind, pattern, got, want):
    places = {name: np.mean((got[name] != 0) == want[name]) for name in want}
    worst = min(places, key=places.get)
    assert places[worst] >= 0.999, f"{kind.__name__} {pattern}: {worst} {places[worst]:.5f}"
    return places[worst]


def wanda_masks_are_the_papers():
    worst = []
    for kind in (Llama, Bert, Images):
        dense = weights(case(kind).model, layers(case(kind)))
        for pattern in ("0.5", "2:4"):
            got = written(kind, "--method", "wanda", *pattern_options(pattern), *AT_ONCE)
            want = {name: wanda(dense[name], inputs(kind)[name], pattern,
                                case(kind).inner.get(name)) for name in dense}
            want = {name: keep & (dense[name] != 0) for name, keep in want.items()}
            worst.append(same_masks(kind, pattern, got, want))
            for name, keep in want.items():  # nothing else has changed
                kept = keep & (got[name] != 0)
                assert np.array_equal(got[name][kept], dense[name][kept]), name
    return f"at least {min(worst):.5f} of the places"


def in_true_sequence(kind, pattern):
    """Masks, where each site sees what those before it have become."""
    model, masks = wide(case(kind)), {}
    for site in (site for block in case(kind).blocks for site in block):
        seen = captured(case(kind), model, site)
        for name in site:
            weight = model.get_submodule(name).weight
            inner = case(kind).inner.get(name)
            masks[name] = wanda(matrix(weight.detach().numpy()), seen[name], pattern, inner)
            with torch.no_grad():
                weight *= torch.tensor(masks[name].reshape(weight.shape))
    return masks


def each_site_sees_what_those_before_it_have_become():
    worst, apart = [], []
    for kind in (Llama, Bert, Images):
        for pattern in ("0.5", "2:4")[kind is Images:]:
            want = in_true_sequence(kind, pattern)
            got = written(kind, "--method", "wanda", *pattern_options(pattern))
            worst.append(same_masks(kind, pattern, got, want))
            dense = weights(case(kind).model, layers(case(kind)))
            apart += [np.mean(want[name] == wanda(dense[name], inputs(kind)[name], pattern,
                                                  case(kind).inner.get(name)))
                      for name in want]
    assert min(apart) < 0.98, "the order makes no difference here"
    return (f"at least {min(worst):.5f} of the places; "
            f"those of the dense model differ in {1 - min(apart):.3f}")


# ---- one threshold over all layers ---------------------------------------------------------------


def shares_below(kind, sparsity):
    """Of each layer, by all scores in one row; the squares of a layer's sum to 1."""
    dense = weights(case(kind).model, layers(case(kind)))
    scores = {name: (np.abs(w) * np.linalg.norm(inputs(kind)[name], axis=0)).ravel()
              for name, w in dense.items()}
    scores = {name: score / np.linalg.norm(score) for name, score in scores.items()}
    together = np.sort(np.concatenate(list(scores.values())))
    threshold = together[int(np.rint(sparsity * len(together)))]
    return {name: np.mean(score < threshold) for name, score in scores.items()}


def one_threshold_is_that_of_all_scores():
    apart = []
    for kind in (Llama, Bert, Images):
        for method, sparsity, budget in (("wanda", 0.5, ("--budget", "global")),
                                         ("sparsegpt", 0.3, ("--scope", "global"))):
            out = tempfile.mkdtemp(dir=WORK.name) + "/out.safetensors"
            compress(case(kind), out, "--method", method, "--sparsity", sparsity, *budget)
            report = json.loads(pathlib.Path(f"{out}.report.json").read_text())
            found = {layer["name"].removesuffix(".weight"): layer
                     for layer in report["survey"][0]["layers"]}
            want, got = shares_below(kind, sparsity), values(out, layers(case(kind)))
            assert report["survey"][0]["by"] == "global" and set(found) == set(want)
            mean = np.average([layer["sparsity"] for layer in found.values()],
                              weights=[layer["weights"] for layer in found.values()])
            assert abs(mean - sparsity) < 1e-9, f"{kind.__name__}: {mean}"
            for name, layer in found.items():
                assert want[name] < 0.99, f"{name}: so much is not what this is about"
                apart.append(abs(layer["sparsity"] - want[name]))
                zeros = np.mean(got[name] == 0)  # rows, panels and convolutions lose whole weights
                unit = 0.5 / got[name].shape[1] if method == "wanda" else 1 / got[name].shape[0]
                assert abs(zeros - layer["sparsity"]) < unit + 0.02, f"{name}: {zeros} {layer}"
    assert max(apart) < 2e-3, f"shares are {max(apart)} apart"
    return f"shares at most {max(apart):.5f} apart"


# ---- the sweep -----------------------------------------------------------------------------------


def loss(w, solved, gram):
    return np.sum((w - solved) @ gram * (w - solved))


def swept(w, gram, scheme, pattern, inner):
    """The papers' weights; inputs that are always 0 lose theirs; N:M takes the columns of a
    convolution kernel place by kernel place."""
    dead = np.diag(gram) == 0
    w, gram = np.where(dead, 0, w), gram.copy()
    gram[dead, dead] = np.mean(np.diag(gram)[~dead])  # adds nothing to the mean
    order = np.arange(w.shape[1])
    if inner and pattern == "2:4":
        order = order.reshape(-1, inner).T.ravel()
    nothing, solved = np.zeros(w.shape, bool), np.empty_like(w)
    solved[:, order] = sweep(w[:, order], gram[order][:, order], scheme, pattern, nothing)[0]
    return solved


@functools.cache
def without_ties(kind, group):
    """The model with one weight of every group raised where the largest is negative. Without zero
    points such a one lies right between two codes, and the last bit says which; a positive one is
    clamped. group None: a group is a row."""

    class Raised(kind):
        def __init__(self, work):
            vars(self).update(vars(case(kind)))
            self.model = copy.deepcopy(self.model)
            self.path = work / f"raised{group}" / self.path.name
            self.path.parent.mkdir(exist_ok=True)
            with torch.no_grad():
                for name in layers(self):
                    weight = self.model.get_submodule(name).weight
                    groups = weight.view(len(weight), -1, group or weight[0].numel())
                    top, at = groups.max(2, keepdim=True)
                    groups.scatter_(2, at, torch.maximum(top, -1.25 * groups.amin(2, True)))
            self.save()

    Raised.__name__ = f"{kind.__name__}, raised"
    return Raised


def near_the_papers(kind, options, scheme, pattern, bound=0.01):
    got = written(kind, *options, *AT_ONCE)
    dense = weights(case(kind).model, layers(case(kind)))
    apart, same = {}, {}
    for name, w in dense.items():
        inner, gram = case(kind).inner.get(name), inputs(kind)[name].T @ inputs(kind)[name]
        if pattern == "2:4" and w.shape[1] // (inner or 1) % 4:
            continue
        want = swept(w, gram, scheme and Scheme(scheme), pattern, inner)
        apart[name] = loss(w, got[name], gram) / loss(w, want, gram) - 1
        same[name] = np.mean((got[name] == 0) == (want == 0))
    worst, least = max(apart, key=lambda name: abs(apart[name])), min(same, key=same.get)
    mean, where = np.mean(list(apart.values())), f"{kind.__name__} {' '.join(options)}"
    print(f"      {where}: error {apart[worst]:+.1e}, mean {mean:+.1e}, zeros {same[least]:.4f}")
    assert abs(apart[worst]) <= bound, f"{where}: {worst} {apart[worst]:+.4f}"
    assert abs(mean) <= 0.01, f"{where}: {mean:+.4f}"
    assert pattern == "none" or same[least] >= 0.99, f"{where}: {least} {same[least]:.4f}"


def sparsegpt_is_the_papers():
    for kind in (Llama, Bert, Images):
        for pattern in ("0.5", "2:4"):
            options = ("--method", "sparsegpt", *pattern_options(pattern))
            near_the_papers(kind, options, None, pattern)


GPTQ = ((Llama, ("w4g32", "w3", "w4g32z")), (Bert, ("w4g32z", "w3")), (Images, ("w4", "w4z")))


def gptq_is_the_papers():
    for kind, schemes in GPTQ:
        for scheme in schemes:
            group = 32 if "g32" in scheme else None
            near_the_papers(kind if scheme.endswith("z") else without_ties(kind, group),
                            ("--method", "gptq", "--scheme", scheme), scheme, "none")


def ties_between_two_codes_change_little():
    for kind, schemes in GPTQ:
        for scheme in schemes:
            if not scheme.endswith("z"):
                near_the_papers(kind, ("--method", "gptq", "--scheme", scheme), scheme, "none",
                                0.05)


# ---- both at once, one after the other -----------------------------------------------------------


def recipe(kind, steps):
    """A directory made by a recipe of these steps; they read the model's data."""
    out = pathlib.Path(tempfile.mkdtemp(dir=WORK.name))
    text = {"model": str(case(kind).path), "data": {"calibration": str(case(kind).data)},
            "steps": [*steps, {"export": {"to": str(out / "out")}}]}
    for step in steps:
        for body in step.values():
            body.update(samples=WINDOWS, seq_len=T)
    (out / "recipe.yaml").write_text(json.dumps(text))  # JSON is YAML
    pare("run", out / "recipe.yaml", "--threads", 1)
    return out / "out"


def codes(path, name):
    """(codes, scales, zero points, values) of a layer, each of the weight's shape."""
    arrays, config = dict(read(path)), decode.settings(path)
    _, _, q, s, z, scheme = decode.compressed(f"{name}.weight", arrays, config)
    block = oracle.blocks_of(scheme, *q.shape)
    s, z = (oracle.spread(x, block, q.shape) for x in (s, z))
    return q, s, z, oracle.decode(scheme, q, s, z)


def both_patterns_hold_after_one_sweep():
    out = recipe(Llama, [{"compress": {"prune": {"method": "sparsegpt", "pattern": "2:4"},
                                       "quantize": {"method": "gptq", "scheme": "w4g32"}}}])
    pare("convert", out, "-o", f"{out}.safetensors", "--to", "dense")
    dense = values(f"{out}.safetensors", layers(case(Llama)))
    for name, w in dense.items():
        q, s, _, decoded = codes(out, name)
        assert np.array_equal(decoded, w), f"{name}: not its scale times its codes"
        assert ((w.reshape(-1, 4) != 0).sum(1) <= 2).all(), f"{name}: not 2:4"
        assert (np.abs(q) <= 8).all() and len(np.unique(q)) > 8, name
        assert (s.reshape(len(w), -1, 32).max(2) == s.reshape(len(w), -1, 32).min(2)).all()


def gptq_keeps_the_zeros_of_the_step_before():
    wanda_step = {"prune": {"method": "wanda", "pattern": "2:4"}}
    pruned = values(recipe(Llama, [wanda_step]), layers(case(Llama)))
    for scheme in ("w4g32", "w4g32z"):
        out = recipe(Llama, [copy.deepcopy(wanda_step),
                             {"quantize": {"method": "gptq", "scheme": scheme}}])
        both = values(out, layers(case(Llama)))
        for name, w in pruned.items():
            assert ((w != 0).mean() == 0.5) and not both[name][w == 0].any(), f"{scheme}: {name}"
            assert (both[name] != 0).mean() > 0.3, f"{scheme}: nothing is left of {name}"


# ---- scales that are folded away -----------------------------------------------------------------

# A site's layers, where its scales go, and how many inputs, so far apart, share one.
FOLDS = {
    Llama: [("self_attn.q_proj self_attn.k_proj self_attn.v_proj", "input_layernorm", None),
            ("self_attn.o_proj", "self_attn.v_proj", (2, 2, 16)),
            ("mlp.gate_proj mlp.up_proj", "post_attention_layernorm", None),
            ("mlp.down_proj", "mlp.up_proj", None)],
    Bert: [("attention.output.dense", "attention.self.value", None)],
}


def whole_name(kind, name):
    return f"{'model.layers.0' if kind is Llama else 'bert.encoder.layer.0'}.{name}"


def scales_of(kind, before, new, heads):
    """By what the inputs of a site were divided, from the tensor before it: one for each input."""
    old = case(kind).model.state_dict()[f"{before}.weight"].double().numpy()
    now = new[f"{before}.weight"].astype(np.float64)
    old, now = old.reshape(len(old), -1), now.reshape(len(now), -1)
    s = np.linalg.norm(old, axis=1) / np.linalg.norm(now, axis=1)
    assert np.allclose(old, now * s[:, None], rtol=1e-5), f"{before}: more than a scale has changed"
    if heads:  # grouped queries: the heads that read a value head
        groups, queries, dim = heads
        s = np.repeat(s.reshape(groups, 1, dim), queries, 1).ravel()
    return s


def shared(x, heads, how):
    """Of the inputs that share a scale, their largest or mean, for each of them."""
    if not heads:
        return x
    groups, queries, dim = heads
    one = how(x.reshape(groups, queries, dim), axis=1, keepdims=True)
    return np.repeat(one, queries, 1).ravel()


def smoothquant_scales(kind, names, heads):
    x = shared(np.abs(inputs(kind)[names[0]]).max(0), heads, np.max)
    w = np.max([np.abs(w).max(0) for w in weights(case(kind).model, names).values()], 0)
    return np.sqrt(x / shared(w, heads, np.max))


def awq_scales(kind, names, heads):
    """Those of the whole grid."""
    x = shared(np.abs(inputs(kind)[names[0]]).mean(0), heads, np.mean)
    grid = [x ** (i / 20) for i in range(20)]
    return [s / np.sqrt(s.max() * s.min()) for s in grid]


def group_sizes(w, scheme):
    """The largest weight of each one's group."""
    sizes = np.abs(w).reshape(len(w), -1, 32 if "g32" in scheme else w.shape[1])
    return np.broadcast_to(sizes.max(2, keepdims=True), sizes.shape).reshape(w.shape)


def check_fold(kind, method, scheme, site, before, heads):
    """Only this site is quantised. Its layers without the rounding and what is before them, scaled,
    are the model as it was."""
    names = [whole_name(kind, name) for name in site.split()]
    before, where = whole_name(kind, before), f"{method} {site}"
    out = tempfile.mkdtemp(dir=WORK.name) + "/out"
    includes = [word for name in names for word in ("--include", f"{name}.weight")]
    compress(case(kind), out, "--method", method, "--scheme", scheme, *includes, *AT_ONCE,
             *["--no-clip"] * (method == "awq"))
    new, model = values(out), wide(case(kind))
    s = scales_of(kind, before, new, heads)
    assert s.max() > 1.2 * s.min(), f"{where}: there is nothing to fold"
    if method == "smoothquant":
        assert np.allclose(s, smoothquant_scales(kind, names, heads), rtol=1e-4), where
    else:
        assert any(np.allclose(s, g, rtol=1e-4) for g in awq_scales(kind, names, heads)), where
    state = model.state_dict()
    for name, value in new.items():
        if name.removesuffix(".weight") in names:
            scaled = state[name].numpy() * s
            half = group_sizes(scaled, scheme) / (2 ** int(scheme[1]) - 1)
            assert (np.abs(value - scaled) <= 1.001 * half).all(), f"{where}: {name}"
            value = scaled
        elif not name.startswith(before):
            assert np.array_equal(state[name].numpy(), value), f"{where}: {name} has changed"
        state[name].copy_(torch.tensor(value.astype(np.float64)))
    with torch.no_grad():
        got, want = case(kind).run(model), case(kind).run(wide(case(kind)))
    apart = ((got - want).abs().max() / want.abs().max()).item()
    assert apart < 1e-6, f"{where}: the folded model differs by {apart:.1e}"
    return apart


def folded_models_are_the_models_they_were():
    worst = max(check_fold(kind, method, scheme, *fold) for kind, folds in FOLDS.items()
                for fold in folds for method, scheme in (("awq", "w3g32"), ("smoothquant", "w8a8")))
    return f"at most {worst:.1e} apart"


def logits(kind, path):
    model = wide(case(kind))
    model.load_state_dict({name: torch.tensor(value) for name, value in values(path).items()},
                          strict=False)
    with torch.no_grad():
        return case(kind).run(model)


def scaled_models_differ_by_rounding_alone():
    with torch.no_grad():
        dense = case(Llama).run(wide(case(Llama)))
    apart = {}
    for method in ("rtn", "awq", "smoothquant"):
        out = tempfile.mkdtemp(dir=WORK.name) + "/out"
        compress(case(Llama), out, "--method", method, "--scheme", "w8")
        apart[method] = ((logits(Llama, out) - dense).norm() / dense.norm()).item()
    assert apart["awq"] < 1.2 * apart["rtn"] and apart["smoothquant"] < 3 * apart["rtn"], apart
    return ", ".join(f"{name} {error:.4f}" for name, error in apart.items())


main([wanda_masks_are_the_papers, each_site_sees_what_those_before_it_have_become,
      one_threshold_is_that_of_all_scores, sparsegpt_is_the_papers, gptq_is_the_papers,
      ties_between_two_codes_change_little, both_patterns_hold_after_one_sweep,
      gptq_keeps_the_zeros_of_the_step_before, folded_models_are_the_models_they_were,
      scaled_models_differ_by_rounding_alone])
