"""What the scripts of this folder share: running pare, reading and writing safetensors with numpy
alone.

Environment: PARE (the program), PARE_TEST_DATA (real checkpoints) and PARE_TEST_MINILM (one more),
which may be unset. A script that cannot run says why and exits 77, which ctest shows as skipped.
"""
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import traceback

PARE = os.environ.get("PARE", "pare")
DATA = os.environ.get("PARE_TEST_DATA", "")
LONG = "--long" in sys.argv
MIB = 1 << 20


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


try:
    import numpy as np
except ImportError:
    skip("numpy is not installed (tools/test.sh installs what tests/requirements.txt names)")

# dtype name: numpy's type for its bytes (None: 4- and 6-bit types, as plain bytes), bits
DTYPES = {
    "F64": ("<f8", 64), "F32": ("<f4", 32), "F16": ("<f2", 16), "BF16": ("<u2", 16),
    "F8_E4M3": ("u1", 8), "F8_E5M2": ("u1", 8), "F8_E4M3FNUZ": ("u1", 8), "F8_E5M2FNUZ": ("u1", 8),
    "F8_E8M0": ("u1", 8), "F6_E2M3": (None, 6), "F6_E3M2": (None, 6), "F4": (None, 4),
    "C64": ("<c8", 64), "I64": ("<i8", 64), "I32": ("<i4", 32), "I16": ("<i2", 16), "I8": ("i1", 8),
    "U64": ("<u8", 64), "U32": ("<u4", 32), "U16": ("<u2", 16), "U8": ("u1", 8), "BOOL": ("u1", 8),
}


class Array:
    """A tensor of a file: dtype name, shape and its bytes."""

    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, tuple(shape), data

    def __eq__(self, other):
        return (self.dtype, self.shape, bytes(self.data)) == (
            other.dtype, other.shape, bytes(other.data))

    def raw(self):
        return np.frombuffer(self.data, DTYPES[self.dtype][0]).reshape(self.shape)

    def f32(self):
        if self.dtype == "BF16":
            return (self.raw().astype(np.uint32) << 16).view(np.float32)
        return self.raw().astype(np.float32)


def tensor(dtype, values):
    """An Array from f32 values (rounded half to even) or, for other dtypes, from values of that
    type."""
    values = np.asarray(values)
    if dtype == "BF16":
        values = to_bf16(values.astype(np.float32))
    kind = DTYPES[dtype][0] or "u1"
    return Array(dtype, values.shape, values.astype(kind).tobytes())


def to_bf16(x):
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def read_file(path):
    """(tensors by name, metadata) of one safetensors file."""
    blob = pathlib.Path(path).read_bytes()
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:8 + size])
    metadata = header.pop("__metadata__", {})
    tensors, covered = {}, []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = Array(entry["dtype"], entry["shape"], blob[8 + size + begin:8 + size + end])
        covered.append((begin, end))
    at = 0
    for begin, end in sorted(covered):
        assert begin == at, f"{path}: a hole or an overlap at {at}"
        at = end
    assert 8 + size + at == len(blob), f"{path}: data is not covered completely"
    return tensors, metadata


def read(path):
    """All tensors of a .safetensors file or of a directory with model.safetensors or an index."""
    path = pathlib.Path(path)
    if path.is_file():
        return read_file(path)[0]
    index = path / "model.safetensors.index.json"
    if not index.exists():
        return read_file(path / "model.safetensors")[0]
    table, tensors, total = json.loads(index.read_text()), {}, 0
    for file in sorted(set(table["weight_map"].values())):
        for name, array in read_file(path / file)[0].items():
            assert table["weight_map"][name] == file and name not in tensors
            tensors[name] = array
            total += len(array.data)
    assert set(tensors) == set(table["weight_map"])
    assert total == table["metadata"]["total_size"]
    return tensors


def write(path, tensors, metadata=None):
    header, at = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name, array in tensors.items():
        header[name] = {"dtype": array.dtype, "shape": list(array.shape),
                        "data_offsets": [at, at + len(array.data)]}
        at += len(array.data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(array.data)


def write_directory(path, tensors, config, shards=1):
    """A Hugging Face directory."""
    path = pathlib.Path(path)
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config, indent=2))
    if shards == 1:
        write(path / "model.safetensors", tensors, {"format": "pt"})
        return
    names, table = list(tensors), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        write(path / file, part, {"format": "pt"})
        table.update(dict.fromkeys(part, file))
    total = sum(len(array.data) for array in tensors.values())
    (path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": table}))


def pare(*arguments, code=0, env=None, **options):
    """Runs the program; fails unless it exits with `code`. Gives the finished process."""
    command = [PARE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True,
                          env={**os.environ, **(env or {})}, **options)
    assert done.returncode == code, (f"{' '.join(command)}\nexit {done.returncode}, wanted {code}\n"
                                     f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done


def pare_json(*arguments, **options):
    return json.loads(pare(*arguments, "--json", **options).stdout)


def watched(*arguments, **options):
    """Runs the program and gives the largest RssAnon + RssShmem seen from outside, in bytes."""
    process = subprocess.Popen([PARE, *map(str, arguments)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, **options)
    peak = 0
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status") as status:
                found = re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", status.read())
            peak = max(peak, 1024 * sum(map(int, found)))
        except (FileNotFoundError, ProcessLookupError):
            pass
        time.sleep(0.002)
    assert process.returncode == 0, process.stderr.read()
    return peak


def tree(path):
    """{relative name: bytes} of a file or of a folder: to compare outputs byte for byte."""
    path = pathlib.Path(path)
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes()
            for file in sorted(path.rglob("*")) if file.is_file()}


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory(prefix="pare-e2e-") as path:
        yield pathlib.Path(path)


def data(name):
    """A real checkpoint's path, or None where there is no test data."""
    path = pathlib.Path(DATA, name) if DATA else None
    return path if path and path.exists() else None


def real():
    """The real checkpoints that are here: those of the test data, and MiniLM (PARE_TEST_MINILM)."""
    there = [data(name) for name in REAL]
    minilm = os.environ.get("PARE_TEST_MINILM")
    return [path for path in there + [pathlib.Path(minilm) if minilm else None] if path]


def names_of(paths):
    return ", ".join(path.stem for path in paths) or "none: PARE_TEST_DATA is not set"


REAL = ["stories260K", "bert_tiny_sst2", "resnet_cifar10/resnet20.safetensors",
        "resnet_cifar10/resnet32.safetensors", "resnet_cifar10/resnet44.safetensors",
        "mlperf_tiny_resnet8/resnet8.safetensors", "vit_cifar10/vit_cifar10.safetensors"]


def main(tests):
    """Runs each test, prints its name, and exits 1 if one failed, 77 if none could run."""
    failed = skipped = 0
    for test in tests:
        try:
            note = test()
            skipped += note == "no test data"
            word = "skip " if note == "no test data" else "ok   "
            print(f"{word} {test.__name__}{': ' + note if note else ''}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL  {test.__name__}", flush=True)
            traceback.print_exc(file=sys.stdout)
    sys.exit(1 if failed else 77 if skipped == len(tests) else 0)
