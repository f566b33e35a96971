"""The column sweep on single layers beside GPTQ (Frantar 2022) and SparseGPT (Frantar 2023), from
the papers in numpy and double precision: the sweep's own code compiled for doubles to the last code
and zero, what pare runs in single precision within tolerances of output error and mask."""
# labels: quick
import os
import subprocess
import tempfile

import numpy as np

from support import LONG, main

PANEL, DAMPING = 128, 0.01

# ---- the papers ----------------------------------------------------------------------------------


class Scheme:
    def __init__(self, text):
        digits = text[1:].split("g")
        self.bits = int(digits[0].rstrip("z"))
        self.zeros = text.endswith("z")
        self.group = int(digits[1].rstrip("z")) if len(digits) > 1 else None
        self.least, self.most = -2.0 ** (self.bits - 1), 2.0 ** (self.bits - 1) - 1

    def scales(self, w):
        """Scale and zero point of each row."""
        low, high = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0)
        levels = 2.0 ** self.bits - 1
        s = (high - low) / levels if self.zeros else np.maximum(-low, high) / (levels / 2)
        s[s == 0] = 1
        z = np.clip(np.rint(self.least - low / s), self.least, self.most) if self.zeros else 0 * s
        return s, z


def factor(gram):
    """U, upper triangular, with U'U = (G + damping)^-1."""
    damped = gram + DAMPING * np.mean(np.diag(gram)) * np.eye(len(gram))
    return np.linalg.cholesky(np.linalg.inv(damped)).T


def unstructured(scores, share):
    """The kept: all but the share of least score, ties to the lower index."""
    order = np.argsort(scores.ravel(), kind="stable")
    keep = np.ones(scores.size, bool)
    keep[order[:int(np.rint(share * scores.size))]] = False
    return keep.reshape(scores.shape)


def n_of_m(scores, n):
    order = np.argsort(scores, axis=1, kind="stable")
    keep = np.ones(scores.shape, bool)
    np.put_along_axis(keep, order[:, :scores.shape[1] - n], False, axis=1)
    return keep


def sweep(w, gram, scheme, pattern, frozen, fixed=None):
    """The weights and codes of both papers' algorithms; frozen: what stays 0; fixed: scales and
    zero points of all columns."""
    w, u = w.astype(np.float64), factor(gram)
    rows, cols = w.shape
    codes = np.zeros(w.shape)
    ratio = [int(x) for x in pattern.split(":")] if ":" in pattern else None
    group = scheme and (scheme.group or cols)
    scale, zero = {}, {}
    for first in range(0, cols, PANEL):
        last = min(cols, first + PANEL)
        keep = np.ones((rows, last - first), bool)
        w[frozen] = 0
        for c in range(first, last):  # scales of the groups that begin in this panel
            if scheme and not fixed and c % group == 0:
                scale[c], zero[c] = scheme.scales(w[:, c:c + group])
        if pattern not in ("none",) and not ratio:
            scores = (w[:, first:last] / np.diag(u)[first:last]) ** 2
            keep = unstructured(scores, float(pattern))
        errors = np.zeros((rows, last - first))
        for c in range(first, last):
            w[frozen] = 0
            if ratio and c % ratio[1] == 0 and c + ratio[1] <= last:
                part = slice(c, c + ratio[1])
                chosen = n_of_m((w[:, part] / np.diag(u)[part]) ** 2, ratio[0])
                keep[:, c - first:c - first + ratio[1]] = chosen
            q = w[:, c].copy()
            live = keep[:, c - first] & ~frozen[:, c]
            if scheme:
                begin = c // group * group
                s, z = (fixed[0][c], fixed[1][c]) if fixed else (scale[begin], zero[begin])
                code = np.clip(np.rint(q / s + z), scheme.least, scheme.most)
                codes[:, c] = np.where(live, code, z)
                q = (code - z) * s
            q[~live] = 0
            errors[:, c - first] = (w[:, c] - q) / u[c, c]
            w[:, c + 1:last] -= np.outer(errors[:, c - first], u[c, c + 1:last])
            w[:, c] = q
        w[:, last:] -= errors @ u[first:last, last:]
    w[frozen] = 0
    return w, codes


def sweep_by_size(w, gram, scheme):
    """Columns by descending diagonal, with the scales of the weight as it was (act-order)."""
    order = np.argsort(-np.diag(gram), kind="stable")
    groups = range(0, w.shape[1], scheme.group)
    pairs = [scheme.scales(w[:, g:g + scheme.group].astype(np.float64)) for g in groups]
    fixed = [[pairs[c // scheme.group][k] for c in order] for k in range(2)]
    nothing = np.zeros(w.shape, bool)
    swept, codes = sweep(w[:, order], gram[np.ix_(order, order)], scheme, "none", nothing, fixed)
    place = np.argsort(order)
    return swept[:, place], codes[:, place]


# ---- layers --------------------------------------------------------------------------------------


def layer(rows, cols, seed):
    """A weight, and the Gram matrix of inputs with channels of uneven size that go together."""
    rng = np.random.default_rng(seed)
    samples = 2 * cols + 64
    x = rng.standard_normal((samples, cols))
    x += rng.standard_normal((samples, 16)) @ (rng.standard_normal((16, cols)) * 0.3)
    x *= np.exp(0.6 * rng.standard_normal(cols))
    w = (rng.standard_normal((rows, cols)) * 0.05).astype(np.float32)
    return w, x.T @ x


def run(program, w, gram, scheme, pattern, *words):
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.join(folder, name) for name in ("w.npy", "gram.npy", "out.npy")]
        np.save(names[0], w)
        np.save(names[1], gram)
        subprocess.run([os.environ[program], *names, scheme, pattern, *words], check=True)
        out = np.load(names[2])
    return out[:len(w)].astype(np.float64), out[len(w):]


JOBS = [("w4g128", "none", False), ("w4g128z", "none", False), ("w3g32", "none", False),
        ("w2g64z", "none", False), ("w4", "none", False), ("none", "0.5", False),
        ("none", "2:4", False), ("none", "4:8", False), ("w4g32z", "2:4", False),
        ("w4g128", "0.6", False), ("w4g128", "none", True), ("none", "0.7", True),
        ("w3g64z", "2:4", True)]


def problem(job, rows, cols):
    """Without zero points a scale is absmax/(2^bits - 1)*2, so that a group's largest weight lies
    between two codes: the last bit of a double would say which, if it is negative (a positive one
    is clamped). So every group has a positive weight that is larger than the others."""
    scheme, pattern, keep = job
    w, gram = layer(rows, cols, rows * 1000 + cols)
    if keep:
        w[np.random.default_rng(7).random(w.shape) < 0.3] = 0
    if scheme != "none" and not scheme.endswith("z"):
        w[:, 5::32] = 0.3 + np.abs(w[:, 5::32])
    return w, gram, scheme, pattern, *["keep"] * keep


def wanted(w, gram, scheme, pattern, *words):
    frozen = (w == 0) if words else np.zeros(w.shape, bool)
    return sweep(w, gram, None if scheme == "none" else Scheme(scheme), pattern, frozen)


def in_doubles_every_code_and_zero_is_the_papers():
    for rows, cols in ((40, 256), (33, 200), (64, 512)):
        for job in JOBS:
            p = problem(job, rows, cols)
            w, codes = wanted(*p)
            got, got_codes = run("PARE_SWEEP_F64", *p)
            where = f"{job} on {rows} x {cols}"
            assert np.array_equal(got_codes, codes), f"{where}: {(got_codes != codes).sum()} codes"
            assert np.array_equal(got == 0, w.astype(np.float32) == 0), f"{where}: zeros"
            assert np.allclose(got, w, rtol=1e-6, atol=1e-9), f"{where}: weights"


def error(w, solved, gram):
    d = w.astype(np.float64) - solved
    return np.sum((d @ gram) * d)


def in_floats_errors_and_masks_are_the_papers_within_tolerance():
    sizes = [(64, 96, 0.01, 0.99), (33, 200, 0.01, 0.99), (128, 256, 0.01, 0.99),
             (512, 512, 1e-4, 0.999)]
    for rows, cols, tolerance, places in sizes + [(768, 1024, 1e-4, 0.999)] * LONG:
        for job in JOBS:
            p = problem(job, rows, cols)
            w, _ = wanted(*p)
            got, _ = run("PARE_SOLVE_LAYER", *p)
            ours, theirs = error(p[0], got, p[1]), error(p[0], w, p[1])
            same = np.mean((got == 0) == (w == 0))
            where = f"{job} on {rows} x {cols}: error {ours / theirs - 1:+.2e}, zeros {same:.5f}"
            print(where)
            assert abs(ours / theirs - 1) <= tolerance, where
            assert same >= places or p[3] == "none", where


def act_order_keeps_the_scales_of_the_weight_as_it_was():
    for rows, cols, tolerance in ((33, 200, 0.01), (512, 512, 1e-4)):
        for job in (("w4g128z", "none", False), ("w3g32z", "none", False)):
            w, gram, scheme, *_ = problem(job, rows, cols)
            theirs, codes = sweep_by_size(w, gram, Scheme(scheme))
            ours, our_codes = run("PARE_SOLVE_LAYER", w, gram, scheme, "none", "order")
            apart = error(w, ours, gram) / error(w, theirs, gram) - 1
            assert abs(apart) <= tolerance, f"{job} on {rows} x {cols}: error {apart:+.2e}"
            assert np.mean(our_codes == codes) >= 0.999, f"{job} on {rows} x {cols}: codes"


if __name__ == "__main__":
    main([in_doubles_every_code_and_zero_is_the_papers,
          in_floats_errors_and_masks_are_the_papers_within_tolerance,
          act_order_keeps_the_scales_of_the_weight_as_it_was])
