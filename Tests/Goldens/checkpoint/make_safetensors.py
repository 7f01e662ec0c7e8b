"""Writes tiny.safetensors, one tensor of each element type Minima knows and the odd shapes, and
tiny.json, what is in it.

Made with safetensors 0.8.0 and torch 2.11.0:

    pip install safetensors==0.8.0 torch==2.11.0
    python make_safetensors.py

With a path as argument it checks a file or a directory that Minima wrote against tiny.json instead:

    python make_safetensors.py DIR_OR_FILE
"""

import json
import pathlib
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
ODD = {"scalar": [], "empty": [0], "empty.matrix": [3, 0, 2], "one": [1, 1, 1], "é\n\"name\\": [2]}


def sample(dtype, shape, seed):
    count = 1
    for size in shape:
        count *= size
    raw = [(seed * 37 + index * 101 + 13) % 256 for index in range(count * dtype.itemsize)]
    if dtype == torch.bool:
        raw = [value % 2 for value in raw]
    return torch.tensor(raw, dtype=torch.uint8).view(dtype).reshape(shape)


def raw_bytes(tensor):
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


def tiny():
    tensors = {f"every.{name}": sample(dtype, [2, 3], seed) for seed, (name, dtype) in enumerate(DTYPES.items())}
    for seed, (name, shape) in enumerate(ODD.items()):
        tensors[name] = sample(torch.bfloat16, shape, 50 + seed)
    return tensors


def check(path):
    expected = {entry["name"]: entry for entry in json.loads((HERE / "tiny.json").read_text())}
    path = pathlib.Path(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    found = {}
    for file in files:
        found |= load_file(file)
        with safe_open(file, "pt") as opened:
            print(file.name, opened.metadata())
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        entry = expected[name]
        assert tensor.dtype == DTYPES[entry["dtype"]] and list(tensor.shape) == entry["shape"], name
        assert raw_bytes(tensor).hex() == entry["hex"], name
    print(len(found), "tensors in", len(files), "files agree")


if len(sys.argv) > 1:
    check(sys.argv[1])
else:
    tensors = tiny()
    names = {dtype: name for name, dtype in DTYPES.items()}
    save_file(tensors, HERE / "tiny.safetensors", metadata={"format": "pt"})
    entries = [
        {"name": name, "dtype": names[value.dtype], "shape": list(value.shape), "hex": raw_bytes(value).hex()}
        for name, value in tensors.items()
    ]
    (HERE / "tiny.json").write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")
