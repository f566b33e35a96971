"""Reads what pare writes (compressed-tensors, bitsandbytes NF4, sparse-bitmask) into dense values,
from docs/formats and the formats' own descriptions, with numpy alone."""
import fnmatch
import json
import pathlib
import re

import numpy as np

import oracle
from support import Array, read, read_file, tensor


def settings(path):
    """quantization_config of a directory or (in its metadata) of a file, {} without."""
    path = pathlib.Path(path)
    if path.is_file():
        return json.loads(read_file(path)[1].get("quantization_config", "{}"))
    return json.loads((path / "config.json").read_text()).get("quantization_config", {})


def group_of(config, module):
    """The weights' arguments that config_groups gives to a module."""
    groups = config.get("config_groups", {}).values()
    exact, pattern, kind = [], [], []
    for group in groups:
        for target in group["targets"]:
            if target == module:
                exact.append(group)
            elif target.startswith("re:") and re.match(target[3:], module):
                pattern.append(group)
            elif target == "Linear":
                kind.append(group)
    return (exact + pattern + kind)[0]["weights"]


def ignored(config, module):
    return any(name == module or (name.startswith("re:") and re.match(name[3:], module))
               or fnmatch.fnmatchcase(module, name) for name in config.get("ignore", []))


def scheme_of(arguments):
    scheme = {"type": "int" if arguments["type"] == "int" else "e4m3",
              "bits": arguments["num_bits"], "asymmetric": not arguments["symmetric"],
              "granularity": arguments["strategy"]}
    if arguments["strategy"] == "group":
        scheme.update(granularity="block", block=(1, arguments["group_size"]))
    elif arguments["strategy"] == "block":
        scheme.update(block=tuple(arguments["block_structure"]))
    return scheme


def compressed(name, arrays, config):
    """(dtype, shape, codes, scale, zero, scheme) of a compressed tensor; popped from arrays."""
    scheme = scheme_of(group_of(config, name.removesuffix(".weight")))
    scale = arrays.pop(f"{name}_scale")
    zero = arrays.pop(f"{name}_zero_point", None)
    if packed := arrays.pop(f"{name}_packed", None):
        shape = tuple(map(int, arrays.pop(f"{name}_shape").raw()))
        cols = int(np.prod(shape[1:]))
        q = oracle.unpack_stream(packed.raw(), scheme["bits"], cols).astype(np.int8)
        assert q.shape == (shape[0], cols)
    else:
        q = arrays.pop(name).raw().view(np.int8)
        shape = q.shape
        q = q.reshape(shape[0], -1)
    s = scale.f32().reshape(1, 1) if scale.f32().size == 1 and q.shape[0] != 1 else scale.f32()
    s = s.reshape(s.shape[0], -1) if s.ndim else s.reshape(1, 1)
    z = np.zeros(s.shape, np.int8)
    if zero is not None and packed:
        z = oracle.unpack_stream(zero.raw().T, scheme["bits"], s.shape[0]).T.astype(np.int8)
    elif zero is not None:
        z = zero.raw().reshape(s.shape)
    return scale.dtype, shape, q, s, z, scheme


def nf4(name, arrays):
    state = json.loads(bytes(arrays.pop(f"{name}.quant_state.bitsandbytes__nf4").data))
    packed = arrays.pop(name).raw().ravel()
    q = np.stack([packed >> 4, packed & 15], 1).ravel()
    levels = arrays.pop(f"{name}.quant_map").raw()
    absmax = arrays.pop(f"{name}.absmax").raw()
    if absmax.dtype == np.uint8:
        code, nested = arrays.pop(f"{name}.nested_quant_map"), arrays.pop(f"{name}.nested_absmax")
        size = state["nested_blocksize"]
        outer = np.repeat(nested.raw(), size)[:absmax.size]
        absmax = code.raw()[absmax] * outer + np.float32(state["nested_offset"])
    shape = state["shape"]
    count = int(np.prod(shape))
    value = levels[q[:count]] * np.repeat(absmax, state["blocksize"])[:count].astype(np.float32)
    dtype = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[state["dtype"]]
    return tensor(dtype, oracle.rounded(value.reshape(shape), dtype))


def sparse(prefix, arrays):
    rows, cols = (int(x) for x in arrays.pop(f"{prefix}.shape").raw().ravel())
    values = arrays.pop(f"{prefix}.compressed")
    mask = np.unpackbits(arrays.pop(f"{prefix}.bitmask").raw(), axis=1, bitorder="little")
    mask = mask[:, :cols].astype(bool)
    offsets = arrays.pop(f"{prefix}.row_offsets").raw().ravel()
    ones = mask.sum(1)
    assert mask.shape == (rows, cols) and np.array_equal(offsets, np.cumsum(ones) - ones)
    dense = np.zeros((rows, cols), values.raw().dtype)
    dense[mask] = values.raw()
    return Array(values.dtype, dense.shape, dense.tobytes())


def dense(path):
    """Every tensor of a checkpoint as dense values, by its logical name."""
    arrays, config, result = dict(read(path)), settings(path), {}
    for name in list(arrays):
        if name not in arrays:
            continue
        if name.endswith(".quant_state.bitsandbytes__nf4"):
            name = name.removesuffix(".quant_state.bitsandbytes__nf4")
            result[name] = nf4(name, arrays)
        elif name.endswith("_scale") and not name.endswith("input_scale"):
            name = name.removesuffix("_scale")
            assert not ignored(config, name.removesuffix(".weight")), f"{name} is to be ignored"
            dtype, shape, q, s, z, scheme = compressed(name, arrays, config)
            block = oracle.blocks_of(scheme, *q.shape)
            wide = [oracle.spread(x, block, q.shape) for x in (s, z)]
            values = oracle.rounded(oracle.decode(scheme, q, *wide), dtype)
            result[name] = tensor(dtype, values.reshape(shape))
        elif name.endswith(".bitmask"):
            prefix = name.removesuffix(".bitmask")
            result[f"{prefix}.weight"] = sparse(prefix, arrays)
    result.update({name: array for name, array in arrays.items()
                   if not name.endswith(("input_scale",))})
    return result
