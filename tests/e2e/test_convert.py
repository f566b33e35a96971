"""Containers: every dtype survives a round trip bit for bit; sparse and quantised forms keep
values."""
# labels: quick
import json

import numpy as np

import decode
import models
from support import DTYPES, Array, folder, main, names_of, pare, read, real, tree, write


def every_dtype():
    rng = np.random.default_rng(3)
    tensors = {}
    for name, (_, bits) in DTYPES.items():
        for shape in ((), (0,), (8,), (4, 12), (2, 3, 4)):
            count = int(np.prod(shape))
            if count * bits % 8:
                continue  # such a tensor has no whole number of bytes
            raw = rng.integers(0, 256, count * bits // 8, dtype=np.uint8)
            if name == "BOOL":
                raw &= 1
            label = f"{name.lower()}.{'x'.join(map(str, shape)) or 'scalar'}"
            tensors[label] = Array(name, shape, raw.tobytes())
    return tensors


def every_dtype_survives_every_container():
    with folder() as work:
        tensors = every_dtype()
        write(work / "a.safetensors", tensors, {"format": "pt", "made by": "a test"})
        pare("convert", work / "a.safetensors", "-o", work / "b.h5")
        pare("convert", work / "b.h5", "-o", work / "c.safetensors")
        pare("convert", work / "c.safetensors", "-o", work / "d", "--max-shard-size", "1K")
        pare("convert", work / "d", "-o", work / "e.h5")
        pare("convert", work / "e.h5", "-o", work / "f.safetensors")
        for name in ("c.safetensors", "d", "f.safetensors"):
            got = read(work / name)
            assert got.keys() == tensors.keys()
            for key in tensors:
                assert got[key] == tensors[key], f"{name}: {key}"
        return f"{len(tensors)} tensors"


def two_runs_give_the_same_file():
    with folder() as work:
        write(work / "a.safetensors", every_dtype())
        for out in ("b", "c"):
            pare("convert", work / "a.safetensors", "-o", work / f"{out}.h5")
        assert tree(work / "b.h5") == tree(work / "c.h5")


def a_directory_passes_through_the_native_file_unchanged():
    with folder() as work:
        source = models.llama(work / "m", "BF16", shards=3)
        (source / "sub").mkdir()
        (source / "sub" / "extra.json").write_text("{}")
        pare("convert", source, "-o", work / "n.h5")
        pare("convert", work / "n.h5", "-o", work / "back")
        assert read(work / "back") == read(source)
        for name in ("config.json", "tokenizer.json", "generation_config.json", "sub/extra.json"):
            assert (work / "back" / name).read_bytes() == (source / name).read_bytes(), name


def quantised_checkpoints_convert_without_loss():
    with folder() as work:
        source = models.llama(work / "m")
        for scheme in ("w4g32z", "w8", "w3g32", "fp8", "nf4", "nf4d"):
            there, native, back = (work / f"{scheme}-{x}" for x in ("q", "n.h5", "back"))
            pare("quantize", source, "-o", there, "--method", "rtn", "--scheme", scheme)
            pare("convert", there, "-o", native)
            pare("convert", native, "-o", back)
            assert read(back) == read(there), scheme
            one, two = (json.loads((p / "config.json").read_text()) for p in (there, back))
            assert one == two, scheme
            dense = work / f"{scheme}.safetensors"
            pare("convert", native, "-o", dense, "--to", "dense")
            assert read(dense) == decode.dense(there), f"{scheme}: pare decodes to other values"


def sparse_files_hold_the_same_values():
    with folder() as work:
        source = models.llama(work / "m")
        pare("prune", source, "-o", work / "p", "--method", "magnitude", "--pattern", "2:4")
        pare("convert", work / "p", "-o", work / "s.safetensors", "--to", "sparse-bitmask")
        raw = read(work / "s.safetensors")
        assert any(name.endswith(".bitmask") for name in raw)
        want = read(work / "p")
        got = decode.dense(work / "s.safetensors")
        assert got.keys() == want.keys()
        for name in want:  # a sparse form does not keep the sign of a zero
            assert np.array_equal(got[name].f32(), want[name].f32()), name
        pare("compare", work / "p", work / "s.safetensors", "--tolerance", "0")
        pare("prune", source, "-o", work / "p.h5", "--method", "magnitude", "--pattern", "2:4")
        pare("compare", work / "p", work / "p.h5", "--tolerance", "0")
        dense = sum(len(array.data) for array in want.values())
        assert (work / "p.h5").stat().st_size < 0.8 * dense


def real_checkpoints():
    with folder() as work:
        for source in real():
            native, back = work / f"{source.stem}.h5", work / f"{source.stem}{source.suffix}"
            pare("convert", source, "-o", native)
            pare("convert", native, "-o", back)
            assert read(back) == read(source), source
    return names_of(real())


main([every_dtype_survives_every_container, two_runs_give_the_same_file,
      a_directory_passes_through_the_native_file_unchanged,
      quantised_checkpoints_convert_without_loss, sparse_files_hold_the_same_values,
      real_checkpoints])
