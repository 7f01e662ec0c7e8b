"""Greedy decoding speed with transformers and its KV cache: the peer of `minima generate`.

    python generate_transformers.py --model DIR --prompt "The river" --tokens 200 --threads 2 --json

Two loops over the same model: `generate`, as most people run it, and `loop`, a bare loop over the
model's forward with the default (growing) cache that skips generate's bookkeeping: the faster of
the two is the figure to compare with. Each is run once to warm up, then `--repeat` times; medians.
Tokens per second counts generated tokens over the whole call, reading the prompt included. The end
token does not stop either, so that every run makes `--tokens` tokens.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peer import encode, fail, load_model, load_tokenizer, show, versions
from transformers import DynamicCache, PreTrainedModel


def with_generate(model: PreTrainedModel, ids: torch.Tensor, tokens: int) -> list[int]:
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        use_cache=True,
    )
    return output[0, ids.shape[1] :].tolist()


def with_loop(model: PreTrainedModel, ids: torch.Tensor, tokens: int) -> list[int]:
    cache = DynamicCache(config=model.config)
    made: list[int] = []
    step = ids
    for _ in range(tokens):
        logits = model(step, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        step = logits[:, -1].argmax(-1, keepdim=True)
        made.append(int(step))
    return made


def timed(call: Callable[[], list[int]], repeat: int) -> tuple[list[int], list[float]]:
    made = call()
    seconds: list[float] = []
    for _ in range(repeat):
        start = time.perf_counter()
        made = call()
        seconds.append(time.perf_counter() - start)
    return made, seconds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="greedy tokens per second with transformers")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompt", default="The river")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if min(options.tokens, options.threads, options.repeat) < 1:
        parser.error("--tokens, --threads and --repeat must be positive")
    return options


@torch.inference_mode()
def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    model = load_model(options.model, getattr(torch, options.dtype), options.device)
    model.generation_config.eos_token_id = None
    tokenizer = load_tokenizer(options.model)
    prompt = encode(tokenizer, options.prompt)
    if not prompt:
        raise fail("the prompt has no tokens; give some text")
    ids = torch.tensor([prompt], device=options.device)

    made, generate_seconds = timed(
        lambda: with_generate(model, ids, options.tokens), options.repeat
    )
    looped, loop_seconds = timed(lambda: with_loop(model, ids, options.tokens), options.repeat)
    show(
        {
            "tokens": options.tokens,
            "prompt_tokens": len(prompt),
            "generate_tokens_per_second": options.tokens / statistics.median(generate_seconds),
            "loop_tokens_per_second": options.tokens / statistics.median(loop_seconds),
            "generate_seconds_all": generate_seconds,
            "loop_seconds_all": loop_seconds,
            "same_ids": made == looped,
            "ids": looped,
            "text": tokenizer.decode(looped),
            "threads": options.threads,
            "device": options.device,
            "dtype": options.dtype,
            **versions(),
        },
        options.json,
    )


if __name__ == "__main__":
    main()
