#!/usr/bin/env python3
"""Reads a native checkpoint by docs/formats/store.md alone (h5py, numpy) and compares it with pare.

    read_h5.py CHECKPOINT EXPECTED

EXPECTED is a folder: tensors.txt has a line "<number> <dtype> <d0,d1,...> <name in hex>" for every
tensor, in order, and <number>.bin the bytes of its values as pare decodes them; sides.txt and
side<number>.bin likewise ("<number> <name in hex>"); config.bin and provenance.bin where the
checkpoint has them. Exit code 0 if all agree, 1 with a sentence otherwise, 77 if h5py or numpy is
missing.
"""
import ctypes
import os
import sys

try:
    import h5py
    import numpy as np
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)
try:  # only for /checksums
    XXH3 = ctypes.CDLL("libxxhash.so.0").XXH3_128bits_withSeed
except (OSError, AttributeError):
    XXH3 = None
else:
    HALVES = {"_fields_": [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]}
    XXH3.restype = type("Digest", (ctypes.Structure,), HALVES)
    XXH3.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]

BLOCK = 512
FLOATS = {  # exponent bits, mantissa bits, bias, Inf?, codes that are NaN
    "F16": (5, 10, 15, True, ()),
    "BF16": (8, 7, 127, True, ()),
    "F8_E5M2": (5, 2, 15, True, ()),
    "F8_E4M3": (4, 3, 7, False, (0x7F, 0xFF)),
    "F8_E4M3FNUZ": (4, 3, 8, False, (0x80,)),
    "F8_E5M2FNUZ": (5, 2, 16, False, (0x80,)),
    "F6_E2M3": (2, 3, 1, False, ()),
    "F6_E3M2": (3, 2, 3, False, ()),
    "F4": (2, 1, 1, False, ()),
}
WHOLE = {"F64": "<f8", "F32": "<f4", "C64": "<c8", "I64": "<i8", "I32": "<i4", "I16": "<i2",
         "I8": "<i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "<u1"}
PACKED = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
NF4 = np.array([-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
                -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
                0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
                0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                0.7229568362236023, 1], dtype=np.float32)


def fail(sentence):
    print(sentence)
    sys.exit(1)


def crc64(data):
    table = []
    for i in range(256):
        for _ in range(8):
            i = i >> 1 ^ (0xC96C5795D7870F42 if i & 1 else 0)
        table.append(i)
    crc = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFFFFFFFFFF


def unescape(link):
    data, out, i = link.encode("utf-8", "surrogateescape"), bytearray(), 0
    while i < len(data):
        if data[i : i + 1] == b"%":
            out.append(int(data[i + 1 : i + 3], 16))
            i += 3
        else:
            out.append(data[i])
            i += 1
    return bytes(out)


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def as_matrix(shape):
    rows = shape[0] if shape else 1
    cols = int(np.prod(shape[1:], dtype=np.int64)) if len(shape) > 1 else 1
    return rows, cols


def numbers(codes, dtype):
    """Values of the codes of a float format as float64, from its formula."""
    exponent, mantissa, bias, infinite, nans = FLOATS[dtype]
    codes = codes.astype(np.int64)
    sign = np.where(codes >> (exponent + mantissa) & 1, -1.0, 1.0)
    e, m = codes >> mantissa & (1 << exponent) - 1, codes & (1 << mantissa) - 1
    normal, subnormal = np.ldexp(1 + m / 2**mantissa, e - bias), np.ldexp(m / 2**mantissa, 1 - bias)
    value = np.where(e > 0, normal, subnormal) * sign
    if infinite:
        top = e == (1 << exponent) - 1
        value = np.where(top, np.where(m == 0, sign * np.inf, np.nan), value)
    for nan in nans:
        value = np.where(codes == nan, np.nan, value)
    return value


def bits_of(stream, width, count):
    """The first `count` codes of `width` bits of the last axis of bytes, low bits first."""
    bits = np.unpackbits(stream, axis=-1, bitorder="little")[..., : width * count]
    bits = bits.reshape(stream.shape[:-1] + (count, width)).astype(np.int64)
    return (bits << np.arange(width)).sum(axis=-1)


def to_dtype(x, dtype):
    """float32 values as the bytes of dtype, rounded half to even."""
    if dtype == "F32":
        return x.astype("<f4")
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return x.astype("<f2")
    u = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype("<u2")


class Checkpoint:
    def __init__(self, path):
        self.bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self.check_seal()
        self.file = h5py.File(path, "r")
        if text(self.file.attrs["format"]) != "pare checkpoint" or self.file.attrs["version"] != 1:
            fail("the root has no format and version")

    def check_seal(self):
        lines = bytes(self.bytes[:BLOCK]).rstrip(b"\0").decode().splitlines()
        self.seal = dict(line.rsplit(" ", 1) for line in lines[1:])
        if lines[0] != "pare checkpoint 1" or int(self.seal["size"]) != len(self.bytes):
            fail(f"seal: {lines[:2]}")
        metadata = bytes(self.bytes[BLOCK : int(self.seal["data begin"])])
        if f"{crc64(metadata):016x}" != self.seal["metadata crc64"]:
            fail("the metadata's CRC does not hold")

    def raw(self, dataset):
        """The dataset's bytes as they lie in the file, and the same through h5py's own reading."""
        if dataset.size == 0:
            return np.zeros(0, np.uint8)
        at = dataset.id.get_offset()
        return np.array(self.bytes[at : at + dataset.id.get_storage_size()])

    def array(self, dataset, dtype):
        return self.raw(dataset).view(WHOLE[dtype]).reshape(dataset.shape)

    def floats(self, dataset, dtype):
        """The numbers of an F32, F16 or BF16 part as h5py shows them."""
        return dataset[()].astype(np.float32)

    def text(self, name):
        return self.raw(self.file[name]).tobytes() if name in self.file else None

    # ---- tensors ----

    def dense(self, dataset):
        dtype = text(dataset.attrs["dtype"])
        shape = tuple(dataset.attrs["shape"]) if dtype in PACKED else dataset.shape
        raw, shown = self.raw(dataset), dataset[()]
        if dtype in PACKED:
            count = int(np.prod(shape, dtype=np.int64))
            if len(raw) != -(-count * PACKED[dtype] // 8):
                fail(f"{dataset.name}: {len(raw)} bytes for {count} elements")
            numbers(bits_of(raw, PACKED[dtype], count), dtype)
        elif dtype in ("F16", "BF16", "F8_E5M2"):
            width = "<u1" if dtype == "F8_E5M2" else "<u2"
            want = numbers(raw.view(width).reshape(shape), dtype)
            if not np.array_equal(np.asarray(shown, np.float64), want, equal_nan=True):
                fail(f"{dataset.name}: h5py shows other numbers than its bits mean")
        elif dtype in WHOLE:
            if np.asarray(shown).astype(WHOLE[dtype]).tobytes() != raw.tobytes():
                fail(f"{dataset.name}: h5py reads other bytes")
        elif shown.dtype != np.uint8 or shown.tobytes() != raw.tobytes():
            fail(f"{dataset.name}: {dtype} is not kept as bytes")
        return dtype, shape, raw.tobytes()

    def codes(self, group, rows, cols):
        codec, scheme = text(group.attrs["codec"]), text(group.attrs["scheme"])
        codes = group["codes"]
        if codec == "pack":
            width = int(scheme[1])
            words = np.ascontiguousarray(codes[()]).astype("<i4")
            if words.shape != (rows, -(-cols * width // 32)):
                fail(f"{codes.name}: words {words.shape}")
            stream = words.view(np.uint8).reshape(rows, -1)
            return bits_of(stream, width, cols) - (1 << width - 1)
        if codec == "int":
            return codes[()].reshape(rows, cols).astype(np.int64)
        if codec == "float":
            return numbers(codes[()].reshape(rows, cols), "F8_E4M3")
        if codec == "nf4":
            packed = codes[()]
            nibbles = np.stack([packed >> 4, packed & 15], axis=-1).reshape(rows, -1)[:, :cols]
            return NF4[nibbles]
        return fail(f"{group.name}: codec {codec}")

    def scales(self, group, dtype, down, across):
        if "absmax" not in group:
            return self.floats(group["scale"], dtype).reshape(down, across)
        levels = [(0.1 + 0.9 * (2 * k + 1) / 2 ** (i + 1)) * float(f"1e{i - 6}")
                  for i in range(7) for k in range(2**i)]
        levels = np.array([-x for x in levels[::-1]] + [0] + levels + [1], np.float32)
        nested = np.repeat(group["nested"][()], 256)[: down * across].reshape(down, across)
        return levels[group["absmax"][()]] * nested + np.float32(group.attrs["scale_offset"])

    def inputs(self, group, some):
        """The scale of static activations is there exactly where the scheme says so."""
        static = text(group.attrs["scheme"]).endswith("a8s")
        if static != ("input_scale" in group):
            fail(f"{group.name}: input_scale")
        scale = group["input_scale"][()] if static else np.ones(1, np.float32)
        if scale.dtype != np.float32 or scale.shape != (1 if some else 0,) and static:
            fail(f"{group.name}: input_scale is {scale.dtype} {scale.shape}")
        if not (np.isfinite(scale) & (scale > 0)).all():
            fail(f"{group.name}: input_scale is {scale}")

    def quant(self, group):
        dtype, shape = text(group.attrs["dtype"]), tuple(group.attrs["shape"])
        rows, cols = as_matrix(shape)
        block_rows, block_cols = int(group.attrs["block_rows"]), int(group.attrs["block_cols"])
        down, across = -(-rows // block_rows), -(-cols // block_cols)
        self.inputs(group, rows * cols > 0)
        if rows == 0 or cols == 0:
            return dtype, shape, b""
        r, c = np.arange(rows)[:, None] // block_rows, np.arange(cols)[None, :] // block_cols
        q = self.codes(group, rows, cols)
        scale = self.scales(group, dtype, down, across)
        if "zero" in group:
            q = q - group["zero"][()].reshape(down, across).astype(np.int64)[r, c]
        values = q.astype(np.float32) * scale[r, c]
        return dtype, shape, to_dtype(values, dtype).tobytes()

    def sparse(self, group):
        dtype, shape = text(group.attrs["dtype"]), tuple(group.attrs["shape"])
        rows, cols = as_matrix(shape)
        width = {"F32": 4, "F16": 2, "BF16": 2}[dtype]
        mask = np.unpackbits(group["mask"][()], axis=1, bitorder="little")
        if mask[:, cols:].any():
            fail(f"{group.name}: bits behind the last column")
        mask = mask[:, :cols].astype(bool)
        if mask.sum() != group.attrs["nonzeros"]:
            fail(f"{group.name}: {mask.sum()} bits for {group.attrs['nonzeros']} values")
        kept = mask.sum(axis=1)
        if not np.array_equal(np.cumsum(kept) - kept, group["row_offsets"][()]):
            fail(f"{group.name}: row_offsets")
        out = np.zeros((rows, cols), dtype=f"V{width}")
        out[mask] = self.raw(group["values"]).view(f"V{width}")
        return dtype, shape, out.tobytes()

    def tensors(self):
        """(name, dtype, shape, bytes of the values), in byte order of the names."""
        links = sorted(self.file["tensors"], key=unescape)
        for link in links:
            item = self.file["tensors"].get(link)
            if isinstance(item, h5py.Dataset):
                yield (unescape(link), *self.dense(item))
            elif text(item.attrs["form"]) == "quant":
                yield (unescape(link), *self.quant(item))
            else:
                yield (unescape(link), *self.sparse(item))

    def sides(self, folder=None, path=b""):
        for link, item in (folder or self.file["files"]).items():
            name = path + unescape(link)
            if isinstance(item, h5py.Group):
                yield from self.sides(item, name + b"/")
            else:
                yield name, item

    # ---- checksums ----

    def arrays(self):
        """(name, [bytes of each piece]) in the order of /checksums."""
        for link in sorted(self.file["tensors"], key=unescape):
            item = self.file["tensors"].get(link)
            step = int(item.attrs["piece_rows"])
            if isinstance(item, h5py.Dataset):
                dtype = text(item.attrs["dtype"])
                shape = tuple(item.attrs["shape"]) if dtype in PACKED else item.shape
                rows, cols = as_matrix(shape)
                width = PACKED[dtype] if dtype in PACKED else item.id.get_type().get_size() * 8
                row = cols * width
                pieces = self.cut(item, rows, step, lambda r, b=row: (r * b // 8, -(-r * b // 8)))
                yield f"tensors/{link}", pieces
                continue
            rows, cols = as_matrix(tuple(item.attrs["shape"]))
            for part in ("codes", "scale", "absmax", "nested", "zero", "input_scale",
                         "values", "mask", "row_offsets"):
                if part in item:
                    pieces = self.cut(item[part], rows, step, self.places(item, part, rows))
                    yield f"tensors/{link}/{part}", pieces
        for name, item in sorted(self.sides()):
            raw = self.raw(item).tobytes()
            yield item.name[1:], [raw[i : i + 524288] for i in range(0, len(raw), 524288)]

    def places(self, group, part, rows):
        """Where in a part row r begins."""
        size = len(self.raw(group[part]))
        if part == "values":
            starts = np.append(group["row_offsets"][()], group.attrs["nonzeros"])
            width = size // max(1, int(group.attrs["nonzeros"]))
            return lambda r: (int(starts[r]) * width,) * 2
        if part == "nested":
            across = group["absmax"].shape[1]
            return lambda r: (-(-r * across // 256) * 4,) * 2
        if part == "input_scale":
            return lambda r: (size if r else 0,) * 2
        if part in ("scale", "absmax", "zero"):
            block = int(group.attrs["block_rows"])
            row = size // max(1, -(-rows // block))
            return lambda r: (-(-r // block) * row,) * 2
        return lambda r: (r * (size // max(1, rows)),) * 2

    def cut(self, dataset, rows, step, place):
        raw = self.raw(dataset).tobytes()
        ends = ((first, min(first + step, rows)) for first in range(0, rows, step))
        return [raw[place(first)[0] : place(end)[1]] for first, end in ends]

    def check_checksums(self):
        lines = []
        for name, pieces in self.arrays():
            low = high = 0
            for p, piece in enumerate(pieces):
                if piece:
                    digest = XXH3(piece, len(piece), p)
                    low, high = low + digest.low, high + digest.high
            lines.append(f"{high % 2**64:016x}{low % 2**64:016x}  {name}\n")
        if "".join(lines).encode("utf-8", "surrogateescape") != self.text("checksums"):
            fail("/checksums does not hold")

    def check_texts(self):
        names = ("config", "metadata", "provenance", "checksums")
        texts = b"".join(self.text(name) or b"" for name in names)
        if f"{crc64(texts):016x}" != self.seal["texts crc64"]:
            fail("the texts' CRC does not hold")


def expected(folder, name):
    path = os.path.join(folder, name)
    return open(path, "rb").read() if os.path.exists(path) else None


def main():
    checkpoint, folder = Checkpoint(sys.argv[1]), sys.argv[2]
    checkpoint.check_texts()
    if XXH3:
        checkpoint.check_checksums()
    lines = expected(folder, "tensors.txt").decode().splitlines()
    found = list(checkpoint.tensors())
    if len(found) != len(lines):
        fail(f"{len(found)} tensors where pare sees {len(lines)}")
    for (name, dtype, shape, data), line in zip(found, lines):
        number, want_dtype, want_shape, want_name = line.split(" ")
        want_shape = tuple(int(d) for d in want_shape.split(",") if d)
        if (name.hex(), dtype, tuple(int(d) for d in shape)) != (want_name, want_dtype, want_shape):
            fail(f"{name}: {dtype} {shape} where pare sees {line}")
        if data != expected(folder, f"{number}.bin"):
            fail(f"{name}: other values than pare reads")
    lines = expected(folder, "sides.txt").decode().splitlines()
    sides = sorted(checkpoint.sides())
    if [name.hex() for name, _ in sides] != [line.split(" ")[1] for line in lines]:
        fail("other side files than pare sees")
    for (name, item), line in zip(sides, lines):
        if checkpoint.raw(item).tobytes() != expected(folder, f"side{line.split(' ')[0]}.bin"):
            fail(f"{name}: other bytes than pare reads")
    for name in ("config", "provenance"):
        if checkpoint.text(name) != expected(folder, f"{name}.bin"):
            fail(f"/{name}: other text than pare reads")
    print(f"{len(found)} tensors and {len(sides)} side files agree"
          + ("" if XXH3 else "; no libxxhash: checksums not tried"))


main()
