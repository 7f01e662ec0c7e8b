"""Perplexity and its speed with transformers: the peer of `minima eval`.

    python eval_transformers.py --model DIR --text FILE --context 1024 --batch 4 --threads 2 --json

Defined in peer.py. Settings are the fast ones: fused (sdpa) causal attention without a mask,
inference mode, no KV cache, and logits only for predicted positions, a slice at a time, so that
[tokens, vocabulary] is never held whole. `seconds` is the median of `--repeat` passes over the
windows after one warm-up batch, the model loaded and the text tokenised; `seconds_all` are the
passes; `load_seconds` and `tokenise_seconds` come once; `total_seconds` is load + tokenise + the
median. fp32 on the CPU; `--device cuda --dtype bfloat16` on a GPU (the loss stays float32).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path

import torch
from peer import Windows, batches, cut, encode, load_model, load_tokenizer, read_text, show
from peer import versions
from transformers import PreTrainedModel

LOGIT_ROWS = 1024  # rows of logits held at once: 32 MiB of float32 at 8192 tokens of vocabulary


def negative_log_likelihood(
    model: PreTrainedModel, windows: Windows, batch: int, device: str
) -> float:
    total = torch.zeros((), dtype=torch.float64, device=device)
    for ids in batches(windows, batch, device):
        hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
        targets = ids[:, 1:].flatten()
        for rows, labels in zip(
            hidden.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True
        ):
            logits = model.lm_head(rows).float()
            total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    return float(total)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="perplexity with transformers, timed")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=0, help="only the first N; 0: all")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="no warm-up batch before the first pass")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if min(options.batch, options.threads, options.repeat) < 1 or options.context < 2:
        parser.error("--batch, --threads and --repeat must be positive, --context at least 2")
    return options


@torch.inference_mode()
def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)

    start = time.perf_counter()
    model = load_model(options.model, getattr(torch, options.dtype), options.device)
    loaded = time.perf_counter()
    ids = encode(load_tokenizer(options.model), read_text(options.text))
    tokenised = time.perf_counter()

    windows = cut(ids, options.context)
    if options.windows:
        windows = windows[: options.windows]
    predicted = sum(len(window) - 1 for window in windows)
    if not options.cold:
        negative_log_likelihood(model, windows[: options.batch], options.batch, options.device)

    seconds: list[float] = []
    for _ in range(options.repeat):
        begin = time.perf_counter()
        nll = negative_log_likelihood(model, windows, options.batch, options.device)
        seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds)
    tokens = sum(map(len, windows))
    show(
        {
            "perplexity": math.exp(nll / predicted),
            "tokens": predicted,
            "windows": len(windows),
            "tokens_read": tokens,
            "seconds": median,
            "seconds_all": seconds,
            "tokens_per_second": tokens / median,
            "load_seconds": loaded - start,
            "tokenise_seconds": tokenised - loaded,
            "total_seconds": tokenised - start + median,
            "batch": options.batch,
            "threads": options.threads,
            "device": options.device,
            "dtype": options.dtype,
            **versions(),
        },
        options.json,
    )


if __name__ == "__main__":
    main()
