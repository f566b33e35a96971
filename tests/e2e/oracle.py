"""The definitions of docs/numerics.md in numpy: what pare must give, byte for byte.

Written from the definitions and not from the C code. Matrices are float32 [rows, cols]; `dtype` is
the source's ("F32", "F16", "BF16"), which scales are rounded to.
"""
import math

import numpy as np

from support import to_bf16

LEVELS = np.array([
    -1, -0.69619280, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.091050036, 0,
    0.07958030, 0.16093020, 0.24611230, 0.33791524, 0.44070983, 0.56261700, 0.72295684, 1],
    np.float32)


def rounded(x, dtype):
    """float32 values rounded to dtype, half to even."""
    x = np.asarray(x, np.float32)
    if dtype == "F16":
        return x.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        return (to_bf16(np.ascontiguousarray(x)).astype(np.uint32) << 16).view(np.float32)
    return x


def lane_sum(x, kind):
    """Sums along the last axis: element i to lane i mod 16 in ascending order, then a binary
    tree."""
    x = np.asarray(x, kind)
    pad = -x.shape[-1] % 16
    x = np.concatenate([x, np.zeros((*x.shape[:-1], pad), kind)], -1)
    lanes = np.zeros((*x.shape[:-1], 16), kind)
    for i in range(0, x.shape[-1], 16):
        lanes = lanes + x[..., i:i + 16]
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half:2 * half]
    return lanes[..., 0]


# ---- pruning -----------------------------------------------------------------------------------


def half_even(x):
    return int(np.rint(np.float64(x)))


def magnitude(w):
    """Orders as |w|: the bits of the float32 without its sign."""
    return np.ascontiguousarray(w, np.float32).view(np.uint32) & 0x7FFFFFFF


def splitmix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def random_keys(seed, stream, count):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) ^ (np.uint64(stream) * np.uint64(0x9E3779B97F4A7C15))
        i = np.arange(1, count + 1, dtype=np.uint64)
        return (splitmix(z + i * np.uint64(0xD1342543DE82EF95)) >> np.uint64(34)).astype(np.uint32)


def block_keys(w, block):
    """Lane sums of |w| over the blocks, their elements row by row."""
    rows, cols = w.shape
    keys = np.zeros((-(-rows // block[0]), -(-cols // block[1])), np.uint32)
    for i in range(keys.shape[0]):
        for j in range(keys.shape[1]):
            part = np.abs(w[i * block[0]:(i + 1) * block[0], j * block[1]:(j + 1) * block[1]])
            keys[i, j] = lane_sum(part.ravel(), np.float32).view(np.uint32)
    return keys


def keep_most(keys, sparsity):
    """Masks (True: kept) for a list of key arrays under one threshold: of all n keys, ordered by
    (key,
    index), the first rint(sparsity·n) go."""
    flat = np.concatenate([k.ravel() for k in keys])
    order = np.argsort(flat, kind="stable")
    mask = np.ones(flat.size, bool)
    mask[order[:half_even(sparsity * flat.size)]] = False
    ends = np.cumsum([k.size for k in keys])[:-1]
    return [part.reshape(k.shape) for part, k in zip(np.split(mask, ends), keys)]


def keep_nm(keys, n, m):
    """In every m columns of a row the n of highest (key, index) stay."""
    groups = keys.reshape(-1, m)
    order = np.argsort(groups, axis=1, kind="stable")
    mask = np.ones(groups.shape, bool)
    np.put_along_axis(mask, order[:, :m - n], False, 1)
    return mask.reshape(keys.shape)


def expand(mask, block, shape):
    return np.kron(mask, np.ones(block, bool))[:shape[0], :shape[1]].astype(bool)


# ---- quantisation ------------------------------------------------------------------------------


def blocks_of(scheme, rows, cols):
    """(rows, cols) of one block."""
    kind = scheme["granularity"]
    return {"tensor": (rows, cols), "channel": (1, cols)}.get(kind) or scheme["block"]


def parse(text):
    """w4g128z and so on as a dictionary."""
    import re
    if match := re.fullmatch(r"nf4(d?)", text):
        return {"type": "nf4", "bits": 4, "asymmetric": False, "granularity": "block",
                "block": (1, 64), "double": bool(match[1])}
    if match := re.fullmatch(r"fp8([tc]?)(a8[sd]?)?", text):
        kind = "tensor" if match[1] == "t" else "channel"
        return {"type": "e4m3", "bits": 8, "asymmetric": False, "granularity": kind}
    match = re.fullmatch(r"w(\d)(?:([tc])|g(\d+)|b(\d+)x(\d+))?(z?)(a8[sd]?)?", text)
    scheme = {"type": "int", "bits": int(match[1]), "asymmetric": match[6] == "z"}
    if match[3]:
        scheme.update(granularity="block", block=(1, int(match[3])))
    elif match[4]:
        scheme.update(granularity="block", block=(int(match[4]), int(match[5])))
    else:
        scheme.update(granularity="tensor" if match[2] == "t" else "channel")
    return scheme


def piece_rows(dtype, cols):
    """The largest power of two whose rows fit 512 KiB, between 1 and 65536."""
    row = max(1, cols * {"F32": 4, "F16": 2, "BF16": 2}[dtype])
    return min(65536, max(1, 1 << max(0, int(math.log2(max(1, 524288 // row))))))


def codes(scheme, w, s, z):
    """Codes of float32 w under scales s (and zero points z) of the same shape."""
    with np.errstate(over="ignore", under="ignore"):
        x = (w / s).astype(np.float32)
        if scheme["type"] == "nf4":
            middles = (LEVELS[:-1] + LEVELS[1:]) * np.float32(0.5)
            return (x[..., None] > middles).sum(-1).astype(np.int8)
        if scheme["type"] == "e4m3":
            return e4m3(x).view(np.int8)
        low = -(1 << (scheme["bits"] - 1))
        if scheme["asymmetric"]:
            x = (x + z.astype(np.float32)).astype(np.float32)
        return np.clip(np.rint(x), low, -low - 1).astype(np.int8)


def e4m3_values():
    """The numbers of codes 0 .. 126."""
    code = np.arange(127)
    exponent, mantissa = code >> 3, code & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7.0)
    return np.where(exponent == 0, mantissa * 2.0 ** -9, normal)


def e4m3(x):
    """Nearest OCP E4M3 byte, ties to the even code, saturating at ±448."""
    values = e4m3_values()
    middles = (values[:-1] + values[1:]) / 2
    a = np.abs(x.astype(np.float64))
    code = np.searchsorted(middles, a, side="left")
    tie = (code < 126) & (a == middles[np.minimum(code, 125)])
    code = np.where(tie & (code % 2 == 1), code + 1, code)
    return (code | np.where(np.signbit(x), 0x80, 0)).astype(np.uint8)


def decode(scheme, q, s, z):
    """Values in float32 of codes under scales (and zero points) of the same shape."""
    if scheme["type"] == "nf4":
        return LEVELS[q] * s
    if scheme["type"] == "e4m3":
        body = q.view(np.uint8)
        values = np.append(e4m3_values(), np.nan).astype(np.float32)[body & 0x7F]
        return np.where(body & 0x80, -values, values).astype(np.float32) * s
    return (q.astype(np.float32) - z.astype(np.float32)) * s


def spread(x, block, shape):
    return np.repeat(np.repeat(x, block[0], 0), block[1], 1)[:shape[0], :shape[1]]


def scales(scheme, w, dtype):
    """(scale, zero, block): from the least and greatest element of each block, both taken with
    0."""
    rows, cols = w.shape
    block = blocks_of(scheme, rows, cols)
    down, across = -(-rows // block[0]), -(-cols // block[1])
    lo = np.zeros((down, across), np.float32)
    hi = np.zeros((down, across), np.float32)
    for i in range(across):
        part = w[:, i * block[1]:(i + 1) * block[1]]
        top, bottom = part.max(1), part.min(1)
        starts = np.arange(0, rows, block[0])
        hi[:, i] = np.maximum(0, np.maximum.reduceat(top, starts))
        lo[:, i] = np.minimum(0, np.minimum.reduceat(bottom, starts))
    bits, f = scheme["bits"], np.float32
    levels = (1 << bits) - 1
    kept = "F32" if scheme["type"] == "nf4" else dtype
    amax = np.maximum(-lo, hi)
    if scheme["type"] == "nf4":
        s = amax
    elif scheme["type"] == "e4m3":
        s = amax / f(448)
    elif scheme["asymmetric"]:
        s = (hi - lo) / f(levels)
    else:
        s = amax / f(levels / 2)
    if not scheme.get("double"):
        s = rounded(np.where(s == 0, f(1), s), kept)
        s = np.where(s == 0, f(1), s).astype(f)
    z = np.zeros(s.shape, np.int8)
    if scheme["asymmetric"]:
        low = -(1 << (bits - 1))
        z = np.clip(np.rint(f(low) - lo / s), low, -low - 1).astype(np.int8)
    return s, z, block


def nested_levels():
    """The 256 levels of scales that are quantised too, ascending."""
    levels = [(0.1 + 0.9 * (2 * k + 1) / 2 ** (i + 1)) * float(f"1e{i - 6}")
              for i in range(7) for k in range(2 ** i)]
    return np.sort(np.float32([0, 1] + levels + [-x for x in levels]))


def nest(s, dtype, cols):
    """(codes, nested, offset, decoded) of scales [rows, across]: the mean is of sums over the
    rows of a chunk."""
    rows, across = s.shape
    step = max(piece_rows(dtype, cols), 32, 256 // math.gcd(256, across))
    total = 0.0
    for first in range(0, rows, step):
        total += float(lane_sum(s[first:first + step].ravel(), np.float64))
    offset = np.float32(total / s.size)
    levels = nested_levels()
    middles = (levels[:-1] + levels[1:]) * np.float32(0.5)
    flat = s.ravel() - offset
    nested = np.maximum.reduceat(np.abs(flat), np.arange(0, s.size, 256))
    wide = np.repeat(nested, 256)[:s.size]
    x = np.divide(flat, wide, out=np.zeros_like(flat), where=wide > 0)
    q = np.searchsorted(middles, x, side="left").astype(np.uint8)
    return q.reshape(s.shape), nested, offset, (levels[q] * wide + offset).reshape(s.shape)


def search(scheme, w, s, z, block, dtype):
    """MSE search: of s·k/100, k = 100 … 20, the one of least squared error; ties to the larger
    k."""
    rows, cols = w.shape
    tensor_wide = scheme["granularity"] == "tensor"
    step = piece_rows(dtype, cols)
    best = np.full(s.shape, np.inf)
    chosen = s.copy()
    for k in range(100, 19, -1):
        sk = rounded((s * np.float32(k)).astype(np.float32) / np.float32(100), dtype)
        sk = np.where(sk == 0, np.float32(1), sk).astype(np.float32)
        wide_s, wide_z = spread(sk, block, w.shape), spread(z, block, w.shape)
        q = codes(scheme, w, wide_s, wide_z)
        if scheme["type"] == "e4m3":
            value = decode(scheme, q, np.float32(1), None).astype(np.float64)
        else:
            value = q.astype(np.float64) - wide_z
        error = np.square(w.astype(np.float64) - value * wide_s.astype(np.float64))
        total = np.zeros(s.shape)
        if tensor_wide:  # piece by piece, as the tensor is read
            for first in range(0, rows, step):
                total += lane_sum(error[first:first + step].ravel(), np.float64)
        elif block[0] == 1 and cols % block[1] == 0:
            total = lane_sum(error.reshape(rows, -1, block[1]), np.float64)
        else:
            for i in range(s.shape[0]):
                for j in range(s.shape[1]):
                    part = error[i * block[0]:(i + 1) * block[0], j * block[1]:(j + 1) * block[1]]
                    total[i, j] = lane_sum(part.ravel(), np.float64)
        better = total < best
        best, chosen = np.where(better, total, best), np.where(better, sk, chosen)
    return chosen.astype(np.float32)


def quantize(text, w, dtype, mse=False):
    """(scheme, codes, scale, zero, values): values in float32, rounded to dtype."""
    scheme = parse(text)
    s, z, block = scales(scheme, w, dtype)
    if mse:
        s = search(scheme, w, s, z, block, dtype)
    if scheme.get("double"):
        s = nest(s, dtype, w.shape[1])[3]
    wide_s, wide_z = spread(s, block, w.shape), spread(z, block, w.shape)
    by = np.where(wide_s == 0, np.float32(1), wide_s) if scheme.get("double") else wide_s
    q = codes(scheme, w, by, wide_z)
    return scheme, q, s, z, rounded(decode(scheme, q, wide_s, wide_z), dtype)


# ---- bytes -------------------------------------------------------------------------------------


def pack_stream(u, bits):
    """Unsigned codes [rows, cols] as a dense bit stream along each row, padded to 32-bit words."""
    rows, cols = u.shape
    stream = ((u.astype(np.uint16)[:, :, None] >> np.arange(bits)) & 1).astype(np.uint8)
    stream = np.pad(stream.reshape(rows, cols * bits), ((0, 0), (0, -cols * bits % 32)))
    return np.packbits(stream, axis=1, bitorder="little").view("<i4")


def unpack_stream(words, bits, cols):
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    stream = stream[:, :cols * bits].reshape(words.shape[0], cols, bits)
    return (stream.astype(np.int16) << np.arange(bits)).sum(2) - (1 << (bits - 1))


def pack_nibbles(q):
    """4-bit codes over the whole matrix, the even element in the high nibble."""
    flat = np.pad(q.ravel().astype(np.uint8), (0, q.size % 2))
    return (flat[0::2] << 4) | flat[1::2]
