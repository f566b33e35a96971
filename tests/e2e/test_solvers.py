"""AWQ (Lin 2023), SmoothQuant (Xiao 2022), rounding weighted by the inputs, and ranges of
activations, on single layers beside numpy and double precision."""
# labels: quick
import math
import os
import subprocess
import tempfile

import numpy as np

from support import main

# ---- rounding ------------------------------------------------------------------------------------


class Scheme:
    def __init__(self, text, cols):
        digits = text[1:].split("g")
        self.bits = int(digits[0].rstrip("z"))
        self.zeros = text.endswith("z")
        self.group = int(digits[1].rstrip("z")) if len(digits) > 1 else cols
        self.least = -2.0 ** (self.bits - 1)

    def groups(self, cols):
        return [slice(c, min(c + self.group, cols)) for c in range(0, cols, self.group)]

    def round(self, w, ratio=1.0):
        """One group, its range times the ratio (a number, or one for each row). In f32, as
        pare/ops_compress.h has it: a symmetric scale puts the largest weight right between two
        codes, so that the last bit says which."""
        one, w = np.float32(1), w.astype(np.float32)
        ratio = np.broadcast_to(np.float32(ratio), len(w))
        low, high = np.minimum(w.min(1), 0) * ratio, np.maximum(w.max(1), 0) * ratio
        levels, least = np.float32(2 ** self.bits - 1), np.float32(self.least)
        s = (high - low) / levels if self.zeros else np.maximum(-low, high) / (levels / 2 * one)
        s[s == 0] = 1
        z = np.clip(np.rint(least - low / s), least, -least - 1) if self.zeros else 0 * s
        s, z = s[:, None], z[:, None]
        assert s.dtype == z.dtype == np.float32
        return ((np.clip(np.rint(w / s + z), least, -least - 1) - z) * s).astype(np.float64)

    def round_all(self, w):
        return np.concatenate([self.round(w[:, g]) for g in self.groups(w.shape[1])], axis=1)

    def shrink(self, w, ratios, weight):
        """Each group's range at the ratio of least d·weight(group)·d', ties to the first."""
        out = np.empty_like(w)
        for g in self.groups(w.shape[1]):
            errors = []
            for ratio in ratios:
                d = w[:, g] - self.round(w[:, g], ratio)
                errors.append(np.einsum("ri,ij,rj->r", d, weight[g, g], d))
            best = np.array(ratios)[np.argmin(errors, axis=0)]
            out[:, g] = self.round(w[:, g], best)
        return out


def error(gram, d):
    return np.einsum("ri,ij,rj->", d, gram, d)


# ---- the papers ----------------------------------------------------------------------------------


def awq_scales(x, alpha):
    s = np.maximum(np.mean(np.abs(x), 0) ** alpha, 1e-4)
    return (s / np.sqrt(s.max() * s.min())).astype(np.float32).astype(np.float64)


def narrow(w):
    return w.astype(np.float32).astype(np.float64)


def awq_errors(x, w, scheme):
    gram, errors = x.T @ x, []
    for i in range(20):
        s = awq_scales(x, i / 20)
        errors.append(error(gram, w - scheme.round_all(narrow(w * s)) / s))
    return errors


def unless_worse(gram, w, better, plain):
    return better if error(gram, w - better) <= error(gram, w - plain) else plain


def clip(x, w, scheme):
    gram = x.T @ x
    clipped = scheme.shrink(w, [1 - i / 20 for i in range(11)], gram)
    return unless_worse(gram, w, clipped, scheme.round_all(w))


def imatrix(x, w, scheme):
    squares = np.diag(np.sum(x ** 2, 0))
    ratios = [1.0] + [(112 - 2 * i) / 100 for i in range(1, 42)]
    return unless_worse(x.T @ x, w, scheme.shrink(w, ratios, squares), scheme.round_all(w))


def smoothquant_scales(x, w):
    return np.sqrt(np.abs(x).max(0)) / np.sqrt(np.abs(w).max(0))


# ---- layers --------------------------------------------------------------------------------------


def layer(rows, cols, seed):
    """Inputs that go together, some channels much larger than others; a weight."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3 * cols, cols))
    x += rng.standard_normal((3 * cols, 16)) @ (rng.standard_normal((16, cols)) * 0.4)
    x *= np.exp(0.8 * rng.standard_normal(cols))
    x[:, 3::29] *= 8
    w = rng.standard_t(5, (rows, cols)) * 0.05
    return x.astype(np.float32), w.astype(np.float32)


def run(method, scheme, x, w):
    """The first row of what pare gives, and the others."""
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.join(folder, name) for name in ("x.npy", "w.npy", "out.npy")]
        np.save(names[0], x)
        np.save(names[1], w)
        subprocess.run([os.environ["PARE_SOLVE_SITE"], method, scheme, *names], check=True)
        out = np.load(names[2]).astype(np.float64)
    return out[0], out[1:]


def near(got, wanted, gram, w, what):
    """All but one weight in a hundred, and the error in the output to one in a thousand."""
    same = np.mean(np.isclose(got, wanted, rtol=1e-5, atol=1e-7))
    a, b = error(gram, w - got), error(gram, w - wanted)
    assert same >= 0.99 and abs(a - b) <= 1e-3 * b, (what, same, a, b)


JOBS = (("w4g32", 96, 160), ("w3g64", 80, 256), ("w4g128z", 64, 384), ("w4", 64, 128),
        ("w3g32z", 40, 129))

# ---- tests ---------------------------------------------------------------------------------------


def awq_takes_the_best_scales_of_the_grid():
    for scheme, rows, cols in JOBS:
        x, w = layer(rows, cols, rows + cols)
        s, _ = run("awq", scheme, x, w)
        x, w = x.astype(np.float64), w.astype(np.float64)
        errors = awq_errors(x, w, Scheme(scheme, cols))
        grid = [awq_scales(x, i / 20) for i in range(20)]
        chosen = int(np.argmin([np.abs(g - s).max() for g in grid]))
        assert np.allclose(grid[chosen], s, rtol=1e-5), (scheme, chosen)
        assert errors[chosen] <= 1.0001 * min(errors), (scheme, chosen, errors)
        assert errors[chosen] < 0.95 * errors[0], (scheme, errors)


def awq_clips_each_group_by_its_error():
    for scheme, rows, cols in JOBS:
        x, w = layer(rows, cols, rows + cols)
        s, got = run("awq", scheme, x, w)
        x, w = x.astype(np.float64), w.astype(np.float64)
        scaled = narrow(w * s)
        wanted = clip(x / s, scaled, Scheme(scheme, cols))
        near(got, wanted, (x / s).T @ (x / s), scaled, ("awq", scheme))


def imatrix_weighs_each_column_by_its_inputs():
    for scheme, rows, cols in JOBS:
        x, w = layer(rows, cols, rows + cols)
        s, got = run("imatrix", scheme, x, w)
        assert np.all(s == 1)
        x, w = x.astype(np.float64), w.astype(np.float64)
        near(got, imatrix(x, w, Scheme(scheme, cols)), x.T @ x, w, ("imatrix", scheme))


def smoothquant_is_its_formula():
    for rows, cols in ((50, 160), (8, 33)):
        x, w = layer(rows, cols, rows)
        s, got = run("smoothquant", "w8a8", x, w)
        x, w = x.astype(np.float64), w.astype(np.float64)
        assert np.allclose(s, smoothquant_scales(x, w), rtol=1e-6)
        scaled = narrow(w * s)
        near(got, Scheme("w8", cols).round_all(scaled), (x / s).T @ (x / s), scaled, "smoothquant")


def histogram(x):
    """2048 bins, their width the least power of two that reaches the largest input."""
    width = 2.0 ** np.ceil(np.log2(np.abs(x).max() / 2048))
    bins = np.minimum((np.abs(x.astype(np.float64)) / width).astype(int), 2047)
    return np.bincount(bins.ravel(), minlength=2048), width


def squared_error_range(bins, width, most):
    centres = (np.arange(2048) + 0.5) * width

    def loss(r):
        step = r / 127.5
        return np.sum(bins * (centres - np.minimum(np.rint(centres / step), 127) * step) ** 2)
    return min((most * k / 100 for k in range(100, 0, -1)), key=loss)


def divergence_range(bins, width):
    def divergence(n):
        p = bins[:n].astype(np.float64)
        p[-1] += bins[n:].sum()
        ends = [(k + 1) * n // 128 for k in range(128)]
        level = np.searchsorted(ends, np.arange(n), side="right")
        held = np.bincount(level, bins[:n], 128)
        filled = np.bincount(level, bins[:n] > 0, 128)
        with np.errstate(all="ignore"):
            q = np.where(bins[:n] > 0, (held / filled)[level] / bins[:n].sum(), 1e-4)
            p /= p.sum()
            return math.fsum(np.where(p > 0, p * np.log(p / q), 0))
    ends = range(2048, 127, -1)  # of equals the last
    return width * min((n for n in ends if bins[:n].sum() > 0), key=divergence)


def ranges_are_found_in_the_histogram():
    for seed in range(3):
        x, w = layer(4, 60, seed)
        if seed == 1:
            x = np.abs(x) ** 2  # a long tail
        if seed == 2:
            x = np.maximum(x, 0)
            x[5, 5] = 500  # one outlier
        got, _ = run("range", "-", x.astype(np.float32), w)
        bins, width = histogram(x.astype(np.float32))
        most = np.abs(x).max()
        share = np.cumsum(bins) / bins.sum()
        wanted = [most, width * (1 + int(np.argmax(share >= 0.999))),
                  squared_error_range(bins, width, most), divergence_range(bins, width)]
        wanted = np.minimum(wanted, most)
        assert np.allclose(got, wanted, rtol=1e-6), (seed, got, wanted)


main([awq_takes_the_best_scales_of_the_grid, awq_clips_each_group_by_its_error,
      imatrix_weighs_each_column_by_its_inputs, smoothquant_is_its_formula,
      ranges_are_found_in_the_histogram])
