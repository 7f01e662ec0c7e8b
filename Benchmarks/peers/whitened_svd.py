"""Whitened SVD at one rank rule for every linear layer: an independent PyTorch implementation.

    python whitened_svd.py --model DIR --calibration a.txt b.txt --text c.txt --ratio 0.35 --json

The algorithm, so that it can be repeated elsewhere:

1. Calibration windows. Each file in the order given, tokenised and cut as in peer.py, full windows
   of `--context` tokens only; all windows of all files in one list of length `total`. Window k of
   `--samples` is number floor(k · total / samples).
2. Second moments. The dense model, weights widened to float32, runs over each window from position
   0 (inputs are dense: no compensation for compressed layers before). For each linear layer inside
   the blocks (all of q, k, v, o, gate, up, down; not the embedding, not the output head)
   C [n, n] = mean over all calibration tokens of x xᵀ, x its input; products and sums in float64.
3. Rank of W [m, n]: r = floor((1 − ratio) · m · n / (m + n)), so r (m + n) parameters remain.
4. Factors, in float64: eigh(W C Wᵀ) = U Λ Uᵀ, U_r the eigenvectors of the r largest eigenvalues,
   A = U_r [m, r], B = U_rᵀ W [r, n], rounded to `--factor-dtype`; y = A (B x) + bias.
   The loss tr(Δ C Δᵀ) is the sum of the other eigenvalues. (Anchors: Wang et al. 2024, SVD-LLM,
   which reaches the same Ŵ through a Cholesky factor of C.)
5. Evaluation as in peer.py, float32; KL is Σ p_dense (log p_dense − log p_model) in nats, averaged
   over the predicted positions.

`--windows` may name several counts (0: all); each gives a row from the same pass.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peer import Windows, batches, cut, encode, fail, load_model, load_tokenizer, read_text
from peer import show, versions
from torch import nn
from transformers import PreTrainedModel


class LowRankLinear(nn.Module):
    """y = A (B x) + bias."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.a, self.b, self.bias = a, b, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(nn.functional.linear(x, self.b), self.a, self.bias)


def block_linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in name
    }


class Moments:
    """Sums x xᵀ for every linear layer; layers that read the same tensor share one sum."""

    def __init__(self, linears: dict[str, nn.Linear]) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.source: dict[str, str] = {}  # a layer to the first layer that reads its input
        self.tokens = 0
        self.last: tuple[str, torch.Tensor] | None = None
        self.handles = [
            module.register_forward_pre_hook(self.hook(name)) for name, module in linears.items()
        ]

    def hook(self, name: str) -> Any:
        def observe(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0]
            if self.last is not None and self.last[1] is x:
                self.source[name] = self.last[0]
                return
            self.last = (name, x)
            self.source[name] = name
            rows = x.reshape(-1, x.shape[-1]).double()
            if name not in self.sums:
                self.sums[name] = torch.zeros(x.shape[-1], x.shape[-1], dtype=torch.float64)
            self.sums[name].addmm_(rows.T, rows)

        return observe

    def collect(self, model: PreTrainedModel, windows: Windows, batch: int) -> None:
        for ids in batches(windows, batch):
            model.model(ids, use_cache=False)
            self.tokens += ids.numel()
            self.last = None
        for handle in self.handles:
            handle.remove()

    def moment(self, name: str) -> torch.Tensor:
        return self.sums[self.source[name]] / self.tokens


def calibration_windows(tokenizer: Any, paths: list[Path], context: int, samples: int) -> Windows:
    windows: Windows = []
    for path in paths:
        windows += cut(encode(tokenizer, read_text(path)), context, shortest=context)
    if len(windows) < samples:
        raise fail(
            f"the calibration files hold {len(windows)} windows of {context} tokens, "
            f"{samples} were asked for; add text or lower --samples"
        )
    return [windows[k * len(windows) // samples] for k in range(samples)]


def compress(
    model: PreTrainedModel, moments: Moments, ratio: float, dtype: torch.dtype
) -> dict[str, Any]:
    before = after = 0
    losses: dict[str, float] = {}
    for name, linear in block_linears(model).items():
        w = linear.weight.detach().double()
        m, n = w.shape
        rank = math.floor((1 - ratio) * (m * n) / (m + n))
        c = moments.moment(name)
        values, vectors = torch.linalg.eigh(w @ c @ w.T)  # ascending
        u = vectors[:, m - rank :]
        a, b = u.to(dtype).float(), (u.T @ w).to(dtype).float()
        losses[name] = float(values[: m - rank].clamp(min=0).sum() / values.sum())
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LowRankLinear(a, b, linear.bias))
        before, after = before + m * n, after + rank * (m + n)
    return {
        "linear_parameters": before,
        "kept_parameters": after,
        "removed": 1 - after / before,
        "relative_loss": losses,
    }


def evaluate(
    dense: PreTrainedModel, model: PreTrainedModel, windows: Windows, counts: list[int], batch: int
) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    nll_dense = nll = kl = 0.0
    predicted = done = 0
    marks = {min(count, len(windows)) if count else len(windows) for count in counts}
    for mark in sorted(marks):
        for ids in batches(windows[done:mark], batch):
            targets = ids[:, 1:].unsqueeze(-1)
            p = dense(ids, use_cache=False).logits[:, :-1].log_softmax(-1)
            q = model(ids, use_cache=False).logits[:, :-1].log_softmax(-1)
            nll_dense -= float(p.gather(-1, targets).double().sum())
            nll -= float(q.gather(-1, targets).double().sum())
            divergence = nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
            kl += float(divergence.double().sum())
            predicted += targets.numel()
        done = mark
        rows[str(mark)] = {
            "dense_perplexity": math.exp(nll_dense / predicted),
            "perplexity": math.exp(nll / predicted),
            "kl": kl / predicted,
            "predicted": predicted,
        }
    return rows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="uniform-rank whitened SVD, and what it costs")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--ratio", type=float, default=0.35, help="share of parameters removed")
    parser.add_argument("--text", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--windows", type=int, nargs="+", default=[0], help="0: all")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--factor-dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not 0 < options.ratio < 1:
        parser.error(f"--ratio is {options.ratio}; give a share between 0 and 1")
    if min(options.samples, options.batch, options.threads) < 1 or options.context < 2:
        parser.error("--samples, --batch and --threads must be positive, --context at least 2")
    return options


@torch.inference_mode()
def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    tokenizer = load_tokenizer(options.model)
    dense, model = load_model(options.model), load_model(options.model)

    start = time.perf_counter()
    windows = calibration_windows(
        tokenizer, options.calibration, options.context, options.samples
    )
    moments = Moments(block_linears(model))
    moments.collect(model, windows, options.batch)
    calibrated = time.perf_counter()
    print(f"calibrated on {moments.tokens} tokens", file=sys.stderr, flush=True)
    size = compress(model, moments, options.ratio, getattr(torch, options.factor_dtype))
    compressed = time.perf_counter()
    print(f"compressed, {size['removed']:.2%} removed", file=sys.stderr, flush=True)

    texts = {}
    for path in options.text:
        ids = encode(tokenizer, read_text(path))
        texts[path.name] = evaluate(
            dense, model, cut(ids, options.context), options.windows, options.batch
        )
    show(
        {
            "model": options.model.name,
            "ratio": options.ratio,
            "factor_dtype": options.factor_dtype,
            "calibration_tokens": moments.tokens,
            **size,
            "texts": texts,
            "seconds": {
                "calibrate": round(calibrated - start, 1),
                "compress": round(compressed - calibrated, 1),
                "evaluate": round(time.perf_counter() - compressed, 1),
            },
            **versions(),
        },
        options.json,
    )


if __name__ == "__main__":
    main()
