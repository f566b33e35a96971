"""Methods that look at data, on whole models, beside the papers in numpy and double precision:
which weights go, what every layer's output loses, and which scales are folded away, with the inputs
of each layer as PyTorch sees them."""
# labels: quick
import functools
import tempfile

from calibrated import (Bert, Images, Llama, captured, compress, layers, matrix, values, weights,
                        wide)  # first: skips where PyTorch is missing

import copy
import json
import pathlib

import numpy as np
import torch

import decode
from support import Array, main, pare, read
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
    if kind is Images:
        out += ".safetensors"
    compress(case(kind), out, *options, "--to", "dense")
    return values(out, layers(case(kind)))


# ---- wanda ---------------------------------------------------------------------------------------


def wanda(w, x, pattern, inner):
    """The kept (Sun 2023). Of a convolution one threshold for all of it, and N:M runs along the
    input channels."""
    scores = np.abs(w) * np.sqrt(np.sum(x ** 2, 0))
    if pattern == "2:4":
        if w.shape[1] // inner % 4:
            return np.ones(w.shape, bool)  # does not fit
        channels = scores.reshape(len(w), -1, inner).transpose(0, 2, 1)
        keep = n_of_m(channels.reshape(-1, 4), 2).reshape(channels.shape)
        return keep.transpose(0, 2, 1).reshape(w.shape)
    rows = scores.reshape(1, -1) if inner > 1 else scores
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
                                case(kind).inner.get(name, 1)) for name in dense}
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
            inner = case(kind).inner.get(name, 1)
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
                                                  case(kind).inner.get(name, 1)))
                      for name in want]
    assert min(apart) < 0.98, "the order makes no difference here"
    return f"at least {min(worst):.5f} of the places; the dense model's differ in {1 - min(apart):.3f}"


# ---- the sweep -----------------------------------------------------------------------------------


def loss(w, solved, gram):
    return np.sum((w - solved) @ gram * (w - solved))


def swept(w, gram, scheme, pattern, inner):
    """The papers' weights; columns of a convolution kernel place by kernel place."""
    order = np.arange(w.shape[1]).reshape(-1, inner).T.ravel() if pattern == "2:4" else slice(None)
    nothing = np.zeros(w.shape, bool)
    solved = np.empty_like(w)
    solved[:, order] = sweep(w[:, order], gram[order][:, order], scheme, pattern, nothing)[0]
    return solved


def near_the_papers(kind, options, scheme, pattern):
    got = written(kind, *options, *AT_ONCE)
    dense = weights(case(kind).model, layers(case(kind)))
    apart, same = {}, {}
    for name, w in dense.items():
        inner, gram = case(kind).inner.get(name, 1), inputs(kind)[name].T @ inputs(kind)[name]
        if pattern == "2:4" and w.shape[1] // inner % 4:
            continue
        want = swept(w, gram, scheme and Scheme(scheme), pattern, inner)
        apart[name] = loss(w, got[name], gram) / loss(w, want, gram) - 1
        same[name] = np.mean((got[name] == 0) == (want == 0))
    worst, least = max(apart, key=lambda name: abs(apart[name])), min(same, key=same.get)
    where = f"{kind.__name__} {' '.join(options)}"
    print(f"      {where}: error {apart[worst]:+.1e}, zeros {same[least]:.4f}")
    assert abs(apart[worst]) <= 0.01, f"{where}: {worst} {apart[worst]:+.4f}"
    assert pattern == "none" or same[least] >= 0.99, f"{where}: {least} {same[least]:.4f}"


def sparsegpt_is_the_papers():
    for kind in (Llama, Bert, Images):
        for pattern in ("0.5", "2:4"):
            options = ("--method", "sparsegpt", *pattern_options(pattern))
            near_the_papers(kind, options, None, pattern)


def gptq_is_the_papers():
    for kind, schemes in ((Llama, ("w4g32", "w3", "w4g32z")), (Bert, ("w4g32", "w3")),
                          (Images, ("w4",))):
        for scheme in schemes:
            near_the_papers(kind, ("--method", "gptq", "--scheme", scheme), scheme, "none")


main([wanda_masks_are_the_papers, each_site_sees_what_those_before_it_have_become,
      sparsegpt_is_the_papers, gptq_is_the_papers])
