"""Writes what PyTorch computes for the tensor room's tests.

    pip install torch==2.11.0 safetensors==0.8.0
    python make_tensor.py

tensor.safetensors (f32 unless said otherwise; CPU, float32 arithmetic); tensor.json: the scalars.

  adamw.*       torch.optim.AdamW on a two-layer perceptron y = W2 tanh(W1 x + b1) + b2 with the
                mean squared error over all outputs, 10 full-batch steps, two parameter groups:
                matrices (lr 1e-2, weight decay 0.1, betas 0.9 / 0.95) and biases (lr 3e-2, no
                decay, betas 0.9 / 0.999), eps 1e-8. x [8, 3], y [8, 2]; per step k = 0…10
                `w1.k` [5, 3], `b1.k` [5], `w2.k` [2, 5], `b2.k` [2] (k = 0: the start) and the
                gradients met at step k < 10, `grad.w1.k` … ; tensor.json has the losses before
                each step. Decay is decoupled: p ← p·(1 − lr·wd) before the Adam update;
                m̂ = m / (1 − β1ᵗ), v̂ = v / (1 − β2ᵗ), p ← p − lr·m̂ / (√v̂ + eps), t from 1.
  quadratic.*   the same optimiser on ½ pᵀ A p − bᵀ p with the matrices' settings and eps 1e-3
                (so that a misplaced eps shows): a [4, 4], b [4], p.k [4].
  attention.*   softmax(q kᵀ / √d + mask) v, [batch, head, token, dim].
                `causal`: 6 queries, 6 keys. `cached`: the last 2 queries against all 6 keys
                (query i sees keys ≤ i + 4). `grouped`: 4 query heads, 2 key heads, causal; query
                head h reads key head h / 2. `padded`: causal, and row 1's first 2 keys hidden
                (rows that see nothing are not compared: `padded.valid` u8 [batch, token]).
  rmsnorm.*     x / sqrt(mean(x²) + eps) · weight, eps 1e-5, x [3, 16], weight [16].
  rope.*        x [1, 2, 5, 8], positions 3…7, theta 10000, halves rotated (x1, x2) →
                (x1 cos − x2 sin, x2 cos + x1 sin), x1 the first half of the last axis.
  silu.*, gelu.* (erf), softmax.*, cross_entropy.*, with gradients of the summed output or loss.
  round.*       `round.input` f32 [n]; the same values as `round.bfloat16` (BF16),
                `round.float16` (F16), `round.float8_e4m3fn` (F8_E4M3), `round.float8_e5m2`
                (F8_E5M2), nearest even. PyTorch does not saturate: what is too large becomes NaN
                in e4m3fn, infinity in the others.
  decode.*      u8 0…255 read as e4m3fn and e5m2, widened to f32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
STEPS = 10

Tensors = dict[str, torch.Tensor]


def adamw(generator: torch.Generator) -> tuple[Tensors, dict[str, Any]]:
    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    x, y = normal(8, 3), normal(8, 2)
    parameters = {
        "w1": normal(5, 3) * 0.7,
        "b1": normal(5) * 0.2,
        "w2": normal(2, 5) * 0.7,
        "b2": normal(2) * 0.2,
    }
    for parameter in parameters.values():
        parameter.requires_grad_()
    groups = [
        {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.95)},
        {"lr": 3e-2, "weight_decay": 0.0, "betas": (0.9, 0.999)},
    ]
    optimiser = torch.optim.AdamW(
        [
            {"params": [parameters["w1"], parameters["w2"]], **groups[0]},
            {"params": [parameters["b1"], parameters["b2"]], **groups[1]},
        ],
        eps=1e-8,
        foreach=False,
    )
    tensors: Tensors = {"adamw.x": x, "adamw.y": y}
    losses: list[float] = []
    for step in range(STEPS + 1):
        for name, parameter in parameters.items():
            tensors[f"adamw.{name}.{step}"] = parameter.detach().clone()
        if step == STEPS:
            break
        hidden = torch.tanh(x @ parameters["w1"].T + parameters["b1"])
        loss = F.mse_loss(hidden @ parameters["w2"].T + parameters["b2"], y)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        for name, parameter in parameters.items():
            tensors[f"adamw.grad.{name}.{step}"] = parameter.grad.clone()
        optimiser.step()
    return tensors, {"eps": 1e-8, "groups": groups, "losses": losses, "steps": STEPS}


def quadratic(generator: torch.Generator) -> Tensors:
    root = torch.randn(4, 4, generator=generator)
    a, b = root @ root.T / 4 + 0.1 * torch.eye(4), torch.randn(4, generator=generator)
    p = torch.randn(4, generator=generator).requires_grad_()
    optimiser = torch.optim.AdamW(
        [p], lr=1e-2, betas=(0.9, 0.95), eps=1e-3, weight_decay=0.1, foreach=False
    )
    tensors: Tensors = {"quadratic.a": a, "quadratic.b": b, "quadratic.p.0": p.detach().clone()}
    for step in range(STEPS):
        optimiser.zero_grad()
        (0.5 * p @ a @ p - b @ p).backward()
        optimiser.step()
        tensors[f"quadratic.p.{step + 1}"] = p.detach().clone()
    return tensors


def attention(generator: torch.Generator) -> Tensors:
    q, k, v = (torch.randn(2, 4, 6, 8, generator=generator) for _ in range(3))
    tensors: Tensors = {"attention.q": q, "attention.k": k, "attention.v": v}
    attend = F.scaled_dot_product_attention
    tensors["attention.causal"] = attend(q, k, v, is_causal=True)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    tensors["attention.cached"] = attend(q[:, :, 4:], k, v, attn_mask=causal[4:])
    tensors["attention.grouped"] = attend(
        q, k[:, :2], v[:, :2], is_causal=True, enable_gqa=True
    )
    seen = torch.ones(2, 6, dtype=torch.bool)
    seen[1, :2] = False
    mask = causal & seen[:, None, None, :]
    tensors["attention.padded"] = attend(q, k, v, attn_mask=mask).nan_to_num()
    tensors["attention.padded.valid"] = seen.to(torch.uint8)
    return tensors


def elementwise(generator: torch.Generator) -> Tensors:
    x, weight = torch.randn(3, 16, generator=generator), torch.randn(16, generator=generator)
    tensors: Tensors = {
        "rmsnorm.x": x,
        "rmsnorm.weight": weight,
        "rmsnorm.y": F.rms_norm(x, (16,), weight, eps=1e-5),
    }

    r = torch.randn(1, 2, 5, 8, generator=generator)
    frequencies = 1.0 / 10000.0 ** (torch.arange(0, 8, 2, dtype=torch.float32) / 8)
    angles = torch.arange(3, 8, dtype=torch.float32)[:, None] * frequencies
    first, second = r[..., :4], r[..., 4:]
    turned = (
        first * angles.cos() - second * angles.sin(),
        second * angles.cos() + first * angles.sin(),
    )
    tensors |= {"rope.x": r, "rope.y": torch.cat(turned, -1)}

    for name, function in (
        ("silu", F.silu),
        ("gelu", F.gelu),
        ("softmax", lambda t: F.softmax(t, -1)),
    ):
        leaf = (3 * torch.randn(4, 7, generator=generator)).requires_grad_()
        slope = torch.randn(4, 7, generator=generator)
        value = function(leaf)
        (value * slope).sum().backward()
        tensors |= {
            f"{name}.x": leaf.detach(),
            f"{name}.y": value.detach(),
            f"{name}.slope": slope,
            f"{name}.grad": leaf.grad,
        }

    logits = (3 * torch.randn(6, 11, generator=generator)).requires_grad_()
    labels = torch.randint(11, (6,), generator=generator)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    tensors |= {
        "cross_entropy.logits": logits.detach(),
        "cross_entropy.labels": labels,
        "cross_entropy.mean": loss.detach().reshape(1),
        "cross_entropy.grad": logits.grad,
    }
    return tensors


def rounding(generator: torch.Generator) -> Tensors:
    inf = float("inf")
    ties = [
        1.0, 1.00390625, 1.01171875, 1.0625, 1.1875, 1.125, 1.375,  # bf16, e4m3 and e5m2 ties
        1.0004883, 1.0014648,  # f16 ties
        240.0, 248.0, 448.0, 464.0, 464.1, 480.0, 57344.0, 61440.0, 61441.0, 65504.0, 65519.0,
        65520.0, 3.3895314e38, 3.3961776e38, 3.4028235e38,
        2.0**-6, 2.0**-9, 2.0**-10, 1.0001 * 2.0**-10, 3 * 2.0**-10, 7 * 2.0**-9,
        2.0**-14, 2.0**-16, 2.0**-17, 3 * 2.0**-17, 2.0**-24, 2.0**-25, 1e-40, 1e-45,
        0.0, 0.1, 0.3, 1 / 3, 3.14159265, 100.0, 1000.0, 1e5, 1e10, 1e-10, inf,
    ]  # fmt: skip
    spread = torch.randn(64, generator=generator) * 10 ** (
        8 * torch.rand(64, generator=generator) - 4
    )
    values = torch.cat([torch.tensor(ties), -torch.tensor(ties), torch.tensor([inf - inf]), spread])
    tensors: Tensors = {"round.input": values}
    for name in ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"):
        tensors[f"round.{name}"] = values.to(getattr(torch, name))
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    for name in ("float8_e4m3fn", "float8_e5m2"):
        tensors[f"decode.{name}"] = codes.view(getattr(torch, name)).to(torch.float32)
    return tensors


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(7)
    trained, settings = adamw(generator)
    tensors = trained | quadratic(generator) | attention(generator)
    tensors |= elementwise(generator) | rounding(generator)
    path = HERE / "tensor.safetensors"
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    path.chmod(0o644)
    document = {"adamw": settings, "torch": torch.__version__}
    (HERE / "tensor.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"{len(tensors)} tensors, {path.stat().st_size} bytes, losses {settings['losses']}")


if __name__ == "__main__":
    main()
