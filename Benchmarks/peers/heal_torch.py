"""One distillation step in PyTorch eager, timed: the peer of `minima heal`, end to end.

    python heal_torch.py --teacher DENSE --student MINIMA_DIR --batch 16 --context 1024 \
        --steps 30 --device cuda --json

The student's linear layers are low-rank pairs (student.py): compress with `--format lowrank` or
`--format interpolative`.

What a careful user would write, and no slower than that:

- student in float32 under autocast(bfloat16), teacher stored in bfloat16 without autocast;
- fused (sdpa) causal attention without a mask, no KV cache, logits of predicted positions only;
- loss per predicted token: KL(teacher ‖ student) + 0.1 · cross-entropy with the next token, from
  float32 log-probabilities; the logits whole or a slice of rows at a time (back-propagated to the
  hidden states at once, so that no more than a slice is held): `--loss-rows auto` times what fits in
  memory and takes the fastest;
- an interpolation's [I; X] is put together in the order of the outputs once per pass, so that no
  activations are reordered; AdamW fused; gradients clipped at a norm of 1 with foreach kernels; no
  host synchronisation inside a step except the clock's at its end.

Cores, dense linear layers and norms train; embedding and head train with `--embedding`. Matrices
decay, vectors do not. The learning rate rises over `--warm-up` steps and falls to `--floor` of its
highest value along a cosine; both default to a constant rate. `--relative` multiplies each tensor's
rate by its root mean square (to compare losses: it costs an optimiser call per tensor).

Step s (from 0) takes windows s·batch, s·batch + 1, … modulo their number from `--windows`: `.npy` of
token ids [windows, context] or flat, or a text file of ids, one window per line (one line: flat).
Without it ids are random, from `--seed`. Losses are of the weights before the step.

`tokens_per_second` is batch · context over the median of the steps after `--discard`; `seconds_all`
are those steps. `--compile` compiles student, teacher and loss. `--profile` adds one more step under
the profiler and prints its kernels (operators on the CPU) to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from peer import fail, load_model, show, versions
from student import load_student
from torch import nn
from transformers import PreTrainedModel


class Distillation:
    """Loss of a batch and its gradients."""

    def __init__(
        self, teacher: PreTrainedModel, student: PreTrainedModel, options: argparse.Namespace
    ) -> None:
        self.teacher, self.student = teacher, student
        self.weight = options.cross_entropy
        self.micro_batch = options.micro_batch or options.batch
        self.device = options.device
        self.is_mixed = options.dtype == "bfloat16"
        self.rows: int | None = None
        self.sums: Callable[..., tuple[torch.Tensor, torch.Tensor]] = self.loss_sums
        self.bodies = (teacher.model, student.model)
        if options.compile:
            self.sums = torch.compile(self.loss_sums)
            self.bodies = (torch.compile(teacher.model), torch.compile(student.model))

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.is_mixed)

    def loss_sums(
        self, hidden: torch.Tensor, reference: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Σ KL and Σ cross-entropy over rows of hidden states."""
        with torch.no_grad():
            log_q = self.teacher.lm_head(reference).float().log_softmax(-1)
            q = log_q.exp()
            entropy = -(q * log_q).sum()
        with self.autocast():
            logits = self.student.lm_head(hidden)
        log_p = logits.float().log_softmax(-1)
        cross_entropy = -log_p.gather(-1, targets[:, None]).sum()
        return -(q * log_p).sum() - entropy, cross_entropy

    def backward(self, ids: torch.Tensor, tokens: int) -> torch.Tensor:
        """Adds gradients of a micro-batch's share of the mean; returns its [KL, cross-entropy]."""
        with torch.no_grad():
            reference = self.bodies[0](ids, use_cache=False).last_hidden_state
            reference = reference[:, :-1].flatten(0, 1)
        with self.autocast():
            hidden = self.bodies[1](ids, use_cache=False).last_hidden_state
        hidden = hidden[:, :-1].flatten(0, 1)
        targets = ids[:, 1:].flatten()
        rows = self.rows or len(hidden)
        if rows >= len(hidden):
            kl, cross_entropy = self.sums(hidden, reference, targets)
            ((kl + self.weight * cross_entropy) / tokens).backward()
            return torch.stack([kl.detach(), cross_entropy.detach()]) / tokens
        leaf = hidden.detach().requires_grad_()
        totals = torch.zeros(2, device=leaf.device)
        for part in zip(
            leaf.split(rows), reference.split(rows), targets.split(rows), strict=True
        ):
            kl, cross_entropy = self.sums(*part)
            ((kl + self.weight * cross_entropy) / tokens).backward()
            totals += torch.stack([kl.detach(), cross_entropy.detach()]) / tokens
        hidden.backward(leaf.grad)
        return totals

    def gradients(self, ids: torch.Tensor) -> torch.Tensor:
        tokens = ids.shape[0] * (ids.shape[1] - 1)
        return sum(self.backward(part, tokens) for part in ids.split(self.micro_batch))


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def choose_rows(step: Distillation, ids: torch.Tensor) -> dict[str, float]:
    """Seconds of the fastest of two passes for each number of rows that fits; sets the best."""
    parameters = [p for p in step.student.parameters() if p.requires_grad]
    part = ids[: step.micro_batch]
    every = part.shape[0] * (part.shape[1] - 1)
    seconds: dict[int, float] = {}
    for rows in dict.fromkeys([every, *(n for n in (8192, 4096, 2048, 1024) if n < every)]):
        step.rows = rows
        try:
            times = []
            for _ in range(3):
                synchronise(step.device)
                start = time.perf_counter()
                step.backward(part, every)
                synchronise(step.device)
                times.append(time.perf_counter() - start)
            seconds[rows] = min(times[1:])
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        finally:
            for parameter in parameters:
                parameter.grad = None
    if not seconds:
        raise fail("not even 1024 rows of logits fit in memory; use a smaller --micro-batch")
    step.rows = min(seconds, key=lambda rows: seconds[rows])
    return {str(rows): value for rows, value in seconds.items()}


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """Step s of the warm-up has the share (s + 1) / (warm-up + 1) of the highest rate."""
    if step < options.warm_up:
        return options.learning_rate * (step + 1) / (options.warm_up + 1)
    done = (step - options.warm_up) / max(options.steps - options.warm_up, 1)
    left = 0.5 * (1 + math.cos(math.pi * min(done, 1)))
    return options.learning_rate * (options.floor + (1 - options.floor) * left)


def parameter_groups(
    parameters: list[nn.Parameter], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Matrices and vectors; with relative rates a group per tensor, scaled by its size."""
    groups = (
        [[p] for p in parameters]
        if options.relative
        else [[p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim < 2]]
    )
    return [
        {
            "params": group,
            "weight_decay": options.weight_decay if group[0].ndim > 1 else 0.0,
            "scale": (
                max(float(group[0].detach().square().mean().sqrt()), 1e-3)
                if options.relative
                else 1.0
            ),
        }
        for group in groups
        if group
    ]


# MARK: data and command line


def load_windows(path: Path, context: int) -> torch.Tensor:
    try:
        if path.suffix == ".npy":
            ids = numpy.load(path)
        else:
            lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
            ids = numpy.array([[int(word) for word in line] for line in lines])
            ids = ids[0] if len(ids) == 1 else ids
    except (OSError, ValueError) as error:
        raise fail(f"cannot read windows from {path}: {error}") from None
    if ids.ndim == 1:
        ids = ids[: len(ids) // context * context].reshape(-1, context)
    if ids.ndim != 2 or ids.shape[1] != context or len(ids) == 0:
        raise fail(f"{path} holds ids of shape {ids.shape}; windows of {context} were asked for")
    return torch.from_numpy(ids.astype(numpy.int64))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="distillation in PyTorch eager, timed")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--windows", type=Path, help="token ids, .npy or text; default: random")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=16, help="windows per step")
    parser.add_argument("--micro-batch", type=int, default=0, help="windows per pass; 0: all")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--discard", type=int, default=10, help="first steps that are not timed")
    parser.add_argument("--loss-rows", default="auto", help="auto, all, or rows held at once")
    parser.add_argument("--cross-entropy", type=float, default=0.1, help="its weight beside KL")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="the highest")
    parser.add_argument("--warm-up", type=int, default=0, help="steps before the highest")
    parser.add_argument("--floor", type=float, default=1.0, help="lowest share of it; 1: constant")
    parser.add_argument(
        "--relative", action="store_true", help="rates in units of each tensor's root mean square"
    )
    parser.add_argument("--betas", type=float, nargs=2, default=[0.9, 0.95])
    parser.add_argument("--epsilon", type=float, default=1e-8)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--clip", type=float, default=1.0, help="largest gradient norm; 0: none")
    parser.add_argument("--embedding", action="store_true", help="train embedding and head, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="bfloat16 (default on CUDA): autocast"
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.context < 2 or options.batch < 1 or options.micro_batch < 0:
        parser.error("--context must be at least 2, --batch at least 1, --micro-batch at least 0")
    if not 0 <= options.discard < options.steps:
        parser.error("--discard must be less than --steps")
    if options.loss_rows not in ("auto", "all") and not options.loss_rows.isdecimal():
        parser.error("--loss-rows is auto, all or a number")
    if options.dtype is None:
        options.dtype = "bfloat16" if options.device.startswith("cuda") else "float32"
    return options


def peak_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = options.device

    teacher = load_model(options.teacher, torch.float32, "cpu").requires_grad_(False)
    student = load_student(options.student, teacher).to(device).train()
    teacher = teacher.to(device, getattr(torch, options.dtype))
    embeddings = {id(student.get_input_embeddings().weight), id(student.lm_head.weight)}
    for parameter in student.parameters():
        parameter.requires_grad_(options.embedding or id(parameter) not in embeddings)
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameter_groups(parameters, options),
        lr=options.learning_rate,
        betas=tuple(options.betas),
        eps=options.epsilon,
        fused=True,
    )

    vocabulary = teacher.config.vocab_size
    if options.windows:
        windows = load_windows(options.windows, options.context)
        if not 0 <= int(windows.min()) <= int(windows.max()) < vocabulary:
            raise fail(f"{options.windows} holds ids outside 0…{vocabulary - 1}")
    else:
        shape = (options.steps * options.batch, options.context)
        windows = torch.randint(vocabulary, shape)

    def batch(step: int) -> torch.Tensor:
        places = torch.arange(step * options.batch, (step + 1) * options.batch) % len(windows)
        return windows[places].to(device, non_blocking=True)

    distillation = Distillation(teacher, student, options)
    tried: dict[str, float] = {}
    if options.loss_rows == "auto":
        tried = choose_rows(distillation, batch(0))
    elif options.loss_rows != "all":
        distillation.rows = int(options.loss_rows)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)

    def step(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        measures = distillation.gradients(batch(index))
        limit = options.clip or float("inf")
        norm = nn.utils.clip_grad_norm_(parameters, limit, foreach=True)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(index, options) * group["scale"]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return measures, norm

    seconds: list[float] = []
    measured: list[torch.Tensor] = []
    norms: list[torch.Tensor] = []
    for index in range(options.steps):
        synchronise(device)
        start = time.perf_counter()
        measures, norm = step(index)
        synchronise(device)
        seconds.append(time.perf_counter() - start)
        measured.append(measures)
        norms.append(norm)
    peak = peak_bytes(device)

    if options.profile:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if device.startswith("cuda"):
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=kinds) as profile:
            step(options.steps)
            synchronise(device)
        order = "self_cuda_time_total" if device.startswith("cuda") else "self_cpu_time_total"
        print(profile.key_averages().table(sort_by=order, row_limit=40), file=sys.stderr)

    timed = seconds[options.discard :]
    median = statistics.median(timed)
    kl, cross_entropy = torch.stack(measured).double().cpu().unbind(1)
    tokens = options.batch * options.context
    show(
        {
            "tokens_per_second": tokens / median,
            "tokens_per_second_least": tokens / max(timed),
            "tokens_per_second_most": tokens / min(timed),
            "seconds": median,
            "seconds_all": timed,
            "peak_bytes": peak,
            "trained_parameters": sum(p.numel() for p in parameters),
            "loss": (kl + options.cross_entropy * cross_entropy).tolist(),
            "kl": kl.tolist(),
            "cross_entropy": cross_entropy.tolist(),
            "gradient_norm": torch.stack(norms).double().cpu().tolist(),
            "learning_rate": [learning_rate(step, options) for step in range(options.steps)],
            "loss_rows": distillation.rows or "all",
            "loss_rows_seconds": tried,
            "batch": options.batch,
            "micro_batch": distillation.micro_batch,
            "context": options.context,
            "compile": options.compile,
            "threads": options.threads,
            "device": device,
            "device_name": (
                torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
            ),
            "dtype": options.dtype,
            **versions(),
        },
        options.json,
    )


if __name__ == "__main__":
    main()
