"""Writes what PyTorch computes for the tests of MinimaTensor's optimisers.

    pip install torch==2.11.0 safetensors==0.8.0 numpy
    python make_training.py

training.safetensors; CPU, one thread. 20 steps on given gradients (no model), two micro-batches each,
of the parameters `matrix` [6, 5] (learning rate × 1, decay 0.1), `tall` [7, 3] (× 3, no decay) and
`bias` [6] (× 1, no decay); betas 0.9 / 0.95, eps 1e-8.

  <run>.<name>.0          a parameter at the start
  <run>.<name>.20, .10    after that many steps
  <run>.grad.<name>.<s>.<b>  gradient of micro-batch b in step s

  float32   torch.optim.AdamW, clip_grad_norm_ to 2, LambdaLR with the rates `schedules.cosine`
  float64   the same in float64 without clipping
  bfloat16  bfloat16 parameters and gradients: a loop of its own, with float32 masters
            (`<name>.k` are the masters), moments and sums, clipped to 2, the same rates
  muon      torch.optim.Muon (match_rms_adamw) for the matrices, AdamW for the bias, in float64: its
            rounding to bfloat16 is taken out; no clipping

`<run>.norms` [20], f64: the global norm of each step before clipping. `schedules.*` [30], f64: rates
with peak 0.02, warm-up 5 and floor 0.1 from torch.optim.lr_scheduler: SequentialLR of LinearLR
(warm-up) and CosineAnnealingLR, LinearLR, ConstantLR, or ConstantLR and LinearLR over the last 40 %
(`stable`).
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file
from torch.optim import lr_scheduler

HERE = Path(__file__).resolve().parent
STEPS, MICRO, CLIP = 20, 2, 2.0
BETAS, EPS = (0.9, 0.95), 1e-8
PARAMETERS = {"matrix": ((6, 5), 1.0, 0.1), "tall": ((7, 3), 3.0, 0.0), "bias": ((6,), 1.0, 0.0)}
PEAK, WARMUP, TOTAL, FLOOR, SHARE = 0.02, 5, 30, 0.1, 0.4

Tensors = dict[str, torch.Tensor]


def schedules() -> dict[str, list[float]]:
    def rates(*parts: tuple[str, dict, int]) -> list[float]:
        optimiser = torch.optim.SGD([torch.zeros(1)], lr=PEAK)
        warmup = lr_scheduler.LinearLR(optimiser, 1 / (WARMUP + 1), 1, WARMUP)
        rest = [getattr(lr_scheduler, name)(optimiser, **options) for name, options, _ in parts]
        marks = [WARMUP + sum(length for _, _, length in parts[:i]) for i in range(len(parts))]
        schedule = lr_scheduler.SequentialLR(optimiser, [warmup, *rest], marks)
        found = []
        for _ in range(TOTAL):
            found.append(schedule.get_last_lr()[0])
            optimiser.step()
            schedule.step()
        return found

    length = TOTAL - WARMUP
    falling = round(SHARE * length)
    same = {"factor": 1.0, "total_iters": length}
    down = {"start_factor": 1.0, "end_factor": FLOOR}
    return {
        "constant": rates(("ConstantLR", same, length)),
        "linear": rates(("LinearLR", down | {"total_iters": length}, length)),
        "cosine": rates(
            ("CosineAnnealingLR", {"T_max": length, "eta_min": FLOOR * PEAK}, length)
        ),
        "stable": rates(
            ("ConstantLR", same, length - falling),
            ("LinearLR", down | {"total_iters": falling}, falling),
        ),
    }


def start(generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensors, Tensors]:
    """Parameters, and gradients whose norms lie on both sides of the clipping."""
    parameters = {
        name: torch.randn(shape, generator=generator).to(dtype)
        for name, (shape, _, _) in PARAMETERS.items()
    }
    gradients = {
        f"grad.{name}.{step}.{micro}": (
            torch.randn(shape, generator=generator) * (0.05 + 0.25 * (step % 4))
        ).to(dtype)
        for step in range(STEPS)
        for micro in range(MICRO)
        for name, (shape, _, _) in PARAMETERS.items()
    }
    return parameters, gradients


def torch_run(
    generator: torch.Generator,
    dtype: torch.dtype,
    clip: float,
    rates: list[float],
    muon: bool = False,
) -> tuple[Tensors, list[float]]:
    parameters, gradients = start(generator, dtype)
    tensors = dict(gradients)
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    groups = [
        {"params": [leaves[name]], "lr": scale, "weight_decay": decay}
        for name, (_, scale, decay) in PARAMETERS.items()
    ]
    optimisers = []
    if muon:
        optimisers.append(torch.optim.Muon(groups[:2], adjust_lr_fn="match_rms_adamw"))
        groups = groups[2:]
    adamw = torch.optim.AdamW(groups, betas=BETAS, eps=EPS, foreach=False, fused=False)
    optimisers.append(adamw)
    schedules = [
        lr_scheduler.LambdaLR(optimiser, lambda step: rates[step]) for optimiser in optimisers
    ]
    norms = []
    for step in range(STEPS):
        if step in (0, STEPS // 2):
            tensors |= {f"{name}.{step}": leaf.detach().clone() for name, leaf in leaves.items()}
        for leaf in leaves.values():
            leaf.grad = None
        for micro in range(MICRO):
            sum((leaf * gradients[f"grad.{name}.{step}.{micro}"]).sum()
                for name, leaf in leaves.items()).backward()  # fmt: skip
        norms.append(torch.nn.utils.clip_grad_norm_(leaves.values(), clip).item())
        with mock.patch.object(torch.Tensor, "bfloat16", lambda value: value):
            for optimiser in optimisers:
                optimiser.step()
        for schedule in schedules:
            schedule.step()
    return tensors | {f"{name}.{STEPS}": leaf.detach() for name, leaf in leaves.items()}, norms


def master_run(generator: torch.Generator, rates: list[float]) -> tuple[Tensors, list[float]]:
    parameters, gradients = start(generator, torch.bfloat16)
    tensors = dict(gradients)
    masters = {name: value.float() for name, value in parameters.items()}
    first = {name: torch.zeros_like(value) for name, value in masters.items()}
    second = {name: torch.zeros_like(value) for name, value in masters.items()}
    norms = []
    for step in range(STEPS):
        if step in (0, STEPS // 2):
            tensors |= {f"{name}.{step}": value.clone() for name, value in masters.items()}
        sums = {
            name: sum(gradients[f"grad.{name}.{step}.{micro}"].float() for micro in range(MICRO))
            for name in masters
        }
        norm = torch.sqrt(sum((value**2).sum() for value in sums.values()))
        norms.append(norm.item())
        for name, (_, scale, decay) in PARAMETERS.items():
            rate = rates[step] * scale
            gradient = sums[name] * min(CLIP / (norm.item() + 1e-6), 1.0)
            masters[name] *= 1 - rate * decay
            first[name] = BETAS[0] * first[name] + (1 - BETAS[0]) * gradient
            second[name] = BETAS[1] * second[name] + (1 - BETAS[1]) * gradient**2
            mean = first[name] / (1 - BETAS[0] ** (step + 1))
            square = second[name] / (1 - BETAS[1] ** (step + 1))
            masters[name] -= rate * mean / (square.sqrt() + EPS)
    return tensors | {f"{name}.{STEPS}": value for name, value in masters.items()}, norms


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(11)
    rates = schedules()
    runs = {
        "float32": torch_run(generator, torch.float32, CLIP, rates["cosine"]),
        "float64": torch_run(generator, torch.float64, float("inf"), rates["cosine"]),
        "bfloat16": master_run(generator, rates["cosine"]),
        "muon": torch_run(generator, torch.float64, float("inf"), rates["cosine"], muon=True),
    }
    tensors = {
        f"{run}.{name}": value.contiguous()
        for run, (found, _) in runs.items()
        for name, value in found.items()
    }
    for run, (_, norms) in runs.items():
        tensors[f"{run}.norms"] = torch.tensor(norms, dtype=torch.float64)
    for name, values in rates.items():
        tensors[f"schedules.{name}"] = torch.tensor(values, dtype=torch.float64)
    path = HERE / "training.safetensors"
    save_file(tensors, path)
    path.chmod(0o644)
    print(f"{len(tensors)} tensors, {path.stat().st_size} bytes")
    for run, (_, norms) in runs.items():
        print(run, [round(norm, 2) for norm in norms])
    for name, values in rates.items():
        print(name, [round(value / PEAK, 3) for value in values])


if __name__ == "__main__":
    main()
