"""A compressed student in PyTorch, read from a Minima checkpoint: for training peers.

The dense architecture of transformers, its linear layers replaced by what the checkpoint stores:
`lowrank` y = A·(B·x), `interpolative` y = P·[I; X]·(R·x), `dense`, and any of these stacked for a
site (`qkv_proj`, `gate_up_proj`). Other formats are refused by name.

    pip install torch==2.11.0 transformers==5.23.0 safetensors
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from peer import fail
from safetensors import safe_open
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

STACKED = {
    "qkv_proj": ["q_proj", "k_proj", "v_proj"],
    "gate_up_proj": ["gate_proj", "up_proj"],
}


class DenseWeight(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return functional.linear(x, self.weight, bias)


class LowRank(nn.Module):
    """y = A (B x); A [outputs, r], B [r, inputs]."""

    def __init__(self, down: torch.Tensor, up: torch.Tensor) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return functional.linear(functional.linear(x, self.down), self.up, bias)


class Interpolative(nn.Module):
    """y = P [I; X] (R x); R [r, inputs], X [outputs − r, r], P puts row i of I at pivots[i]."""

    def __init__(
        self, rows: torch.Tensor, coefficients: torch.Tensor | None, pivots: torch.Tensor
    ) -> None:
        super().__init__()
        rank = rows.shape[0]
        outputs = rank + (0 if coefficients is None else coefficients.shape[0])
        is_other = torch.ones(outputs, dtype=torch.bool)
        is_other[pivots.long()] = False
        order = torch.empty(outputs, dtype=torch.long)
        order[pivots.long()] = torch.arange(rank)
        order[is_other] = torch.arange(rank, outputs)
        self.rows = nn.Parameter(rows)
        self.coefficients = None if coefficients is None else nn.Parameter(coefficients)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("identity", torch.eye(rank), persistent=False)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        up = self.identity
        if self.coefficients is not None:
            up = torch.cat([up, self.coefficients])
        hidden = functional.linear(x, self.rows)
        return functional.linear(hidden, up.index_select(0, self.order), bias)


class Site(nn.Module):
    """One weight for several layers that read one input; the first of them computes it."""

    def __init__(self, weight: nn.Module, sizes: list[int]) -> None:
        super().__init__()
        self.weight, self.sizes = weight, sizes
        self.outputs: list[torch.Tensor | None] = []

    def member(self, index: int, x: torch.Tensor) -> torch.Tensor:
        if index == 0:
            self.outputs = list(self.weight(x, None).split(self.sizes, dim=-1))
        output = self.outputs[index]
        if output is None:
            raise fail("a stacked layer was called out of order; the model is not supported")
        self.outputs[index] = None
        return output


class Member(nn.Module):
    """A layer whose weight is part of a site's."""

    def __init__(self, site: Site, index: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        # The first member owns the site; the others only know it.
        if index == 0:
            self.site = site
        self.shared, self.index, self.bias = [site], index, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.shared[0].member(self.index, x)
        return y if self.bias is None else y + self.bias


class Factored(nn.Module):
    """A layer with a weight of its own."""

    def __init__(self, weight: nn.Module, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight(x, self.bias)


class Stored:
    """Tensors of a checkpoint by name, whichever file they are in."""

    def __init__(self, directory: Path) -> None:
        files = sorted(directory.glob("*.safetensors"))
        if not files:
            raise fail(f"{directory} has no safetensors files; name a checkpoint of minima compress")
        self.files = [safe_open(file, framework="pt") for file in files]
        self.place = {name: file for file in self.files for name in file.keys()}
        self.used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.place

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.place:
            raise fail(f"the student's files lack {name}")
        self.used.add(name)
        tensor = self.place[name].get_tensor(name)
        return tensor.float() if tensor.is_floating_point() else tensor


def factored(name: str, spec: dict[str, Any], stored: Stored) -> nn.Module:
    match spec["format"]:
        case "dense":
            return DenseWeight(stored[f"{name}.weight"])
        case "lowrank":
            return LowRank(stored[f"{name}.cores.0"], stored[f"{name}.cores.1"])
        case "interpolative":
            core = f"{name}.cores.1"
            coefficients = stored[core] if core in stored else None
            return Interpolative(stored[f"{name}.cores.0"], coefficients, stored[f"{name}.pivots"])
        case other:
            raise fail(
                f"{name} has format {other}; this peer trains lowrank, interpolative and dense: "
                "compress with --format lowrank or interpolative"
            )


def load_student(directory: Path, teacher: PreTrainedModel) -> PreTrainedModel:
    """The teacher's architecture with the student's weights, float32, on the CPU."""
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise fail(f"cannot read {directory}/config.json: {error}") from None
    quantization = config.get("quantization_config", {})
    if quantization.get("quant_method") != "minima":
        raise fail(f"{directory} was not written by minima compress: config.json has no modules")
    stored = Stored(directory)
    student = copy.deepcopy(teacher).float()

    def replaced(name: str, layer: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(student.get_submodule(parent), child, layer)

    def bias(name: str) -> nn.Parameter | None:
        return nn.Parameter(stored[f"{name}.bias"]) if f"{name}.bias" in stored else None

    for name, spec in quantization["modules"].items():
        weight = factored(name, spec, stored)
        parent, _, child = name.rpartition(".")
        if child not in STACKED:
            replaced(name, Factored(weight, bias(name)))
            continue
        members = [f"{parent}.{member}" for member in STACKED[child]]
        sizes = [student.get_submodule(member).out_features for member in members]
        site = Site(weight, sizes)
        for index, member in enumerate(members):
            replaced(member, Member(site, index, bias(member)))
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name in stored:
                parameter.copy_(stored[name])
    missed = sorted(set(stored.place) - stored.used)
    if missed:
        raise fail(f"the student's files hold what the model does not: {', '.join(missed[:5])}")
    return student
