"""Decoding speed of a dense model with transformers, random weights: the peer of `minima bench`.

    python decode_transformers.py --model Examples/qwen3-32b-shape --json > peer.json
    minima bench --shape qwen3-32b --peer peer.json

Only config.json is read: weights are random, in `--dtype`, made on the device. Defined in peer.py.
Settings are the fast ones: fused (sdpa) attention, a static cache, no gradients, greedy tokens that
stay on the device. Prompts of `--context` random tokens are read in chunks of `--chunk`, eager,
once to warm up and `--prefill-repeat` times; then come `--warm-up` steps and `--repeat` repetitions
of `--steps` timed steps. `compiled` is torch.compile with mode="reduce-overhead" (CUDA graphs) of
one step, model and argmax, minutes of compiling; `eager` is the same step without it. `--modes
compiled eager` measures both.

The JSON is a result of kind `bench`, as `minima bench` writes it: seconds, bytes, rates per second,
each measured value as median, lowest, highest and repetitions. `first_token` is the time from the
prompts to their first tokens; `prefill` the same time, with what it computes. The card's rates are
measured in the same process: a matrix-vector product over weights larger than the cache, a copy
(read and written bytes) and a matrix product.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peer import fail, show, versions
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, StaticCache

DTYPES = {"bfloat16": "BF16", "float32": "F32"}


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def timed(call: Callable[[], Any], device: str) -> float:
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def spread(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
        "repetitions": len(values),
    }


def device_seconds(call: Callable[[], Any], device: str) -> float:
    """Seconds by the device's own clock, where it has one: a call here takes two milliseconds."""
    if not device.startswith("cuda"):
        return timed(call, device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def rates(work: float, call: Callable[[], Any], device: str, repeat: int = 10) -> dict[str, Any]:
    """Work per second of a call; two calls warm up."""
    for _ in range(2):
        call()
    return spread([work / device_seconds(call, device) for _ in range(repeat)])


def driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return output.split("\n", maxsplit=1)[0].strip()


def card(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """What the device is and what it reaches."""
    is_cuda = device.startswith("cuda")
    # 8 GiB in bfloat16, far beyond any cache; on the CPU as much as takes no time.
    rows, columns, side = (1 << 18, 1 << 14, 8192) if is_cuda else (1 << 13, 2048, 512)
    weight = torch.empty(rows, columns, device=device, dtype=dtype).normal_()
    x = torch.randn(columns, device=device, dtype=dtype)
    y = torch.empty(rows, device=device, dtype=dtype)
    size = weight.numel() * weight.element_size()
    read = rates(size, lambda: torch.mv(weight, x, out=y), device)
    source, target = weight.view(2, -1)
    copy = rates(size, lambda: target.copy_(source), device)
    left = torch.randn(side, side, device=device, dtype=dtype)
    right = torch.randn(side, side, device=device, dtype=dtype)
    product = torch.empty(side, side, device=device, dtype=dtype)
    matrix = rates(2 * side**3, lambda: torch.mm(left, right, out=product), device)
    del weight, source, target, x, y, left, right, product
    found = {"read_bandwidth": read, "copy_bandwidth": copy, "matrix_rate": matrix}
    if not is_cuda:
        return found | {
            "name": platform.processor() or platform.machine(),
            "architecture": platform.machine(),
            "driver": "",
            "memory_bytes": 0,
            "multiprocessors": 0,
        }
    torch.cuda.empty_cache()
    properties = torch.cuda.get_device_properties(device)
    return found | {
        "name": properties.name,
        "architecture": f"sm_{properties.major}{properties.minor}",
        "driver": driver(),
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
    }


def sizes(config: Any) -> dict[str, Any]:
    heads = config.num_attention_heads
    return {
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "heads": heads,
        "key_value_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "intermediate_size": config.intermediate_size,
        "vocabulary_size": config.vocab_size,
        "ties_embedding": bool(config.tie_word_embeddings),
    }


def prefill_flops(shape: dict[str, Any], tokens: int) -> float:
    """Two per token and weight, causal attention, logits of the last token."""
    hidden, ffn = shape["hidden_size"], shape["intermediate_size"]
    query = shape["heads"] * shape["head_dim"]
    key = shape["key_value_heads"] * shape["head_dim"]
    linear = shape["layers"] * (hidden * (2 * query + 2 * key) + 3 * hidden * ffn)
    attention = 4 * shape["layers"] * query * tokens * (tokens + 1) / 2
    return 2 * linear * tokens + attention + 2 * hidden * shape["vocabulary_size"]


def random_model(config: Any, dtype: torch.dtype, device: str) -> PreTrainedModel:
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="sdpa"
        )
    return model.eval().requires_grad_(False)


class Decoder:
    """A model and its cache."""

    def __init__(self, model: PreTrainedModel, options: argparse.Namespace) -> None:
        self.model, self.options = model, options
        tokens = options.context + options.warm_up + options.repeat * options.steps
        self.cache = StaticCache(config=model.config, max_cache_len=tokens)
        shape = (options.requests, options.context)
        self.prompts = torch.randint(model.config.vocab_size, shape).to(options.device)

    def next_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        logits = self.model(
            ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1
        ).logits
        return logits[:, -1].argmax(-1, keepdim=True)

    def read_prompts(self) -> torch.Tensor:
        ids = self.prompts[:, -1:]
        for chunk in self.prompts.split(self.options.chunk, dim=1):
            ids = self.next_tokens(chunk)
        return ids

    def prefill(self) -> list[float]:
        """Seconds of reading the prompts, the last of which stay in the cache."""
        self.read_prompts()
        seconds = []
        for _ in range(self.options.prefill_repeat):
            self.cache.reset()
            seconds.append(timed(self.read_prompts, self.options.device))
        return seconds

    def decode(self, mode: str) -> list[float]:
        """Seconds per step, one value per repetition."""
        step = self.next_tokens
        if mode == "compiled":
            step = torch.compile(self.next_tokens, mode="reduce-overhead", fullgraph=True)
        ids = self.prompts[:, :1]

        def steps(count: int) -> None:
            nonlocal ids
            for _ in range(count):
                torch.compiler.cudagraph_mark_step_begin()
                # A replay overwrites what the one before returned.
                ids = step(ids).clone()

        steps(self.options.warm_up)
        return [
            timed(lambda: steps(self.options.steps), self.options.device) / self.options.steps
            for _ in range(self.options.repeat)
        ]


def run(mode: str, model: PreTrainedModel, options: argparse.Namespace) -> dict[str, Any]:
    torch.compiler.reset()
    is_cuda = options.device.startswith("cuda")
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(options.device)
    shape = sizes(model.config)
    decoder = Decoder(model, options)
    prefill = spread(decoder.prefill())
    begin = time.perf_counter()
    step = spread(decoder.decode(mode))
    decoded = time.perf_counter() - begin
    parameters = list(model.parameters())
    size = sum(p.numel() * p.element_size() for p in parameters)
    embedding = model.get_input_embeddings().weight
    skipped = 0 if shape["ties_embedding"] else embedding.numel() * embedding.element_size()
    token = 2 * shape["layers"] * shape["key_value_heads"] * shape["head_dim"]
    token *= embedding.element_size()
    row = shape["hidden_size"] * embedding.element_size()
    found = {
        "label": f"dense {'bf16' if options.dtype == 'bfloat16' else options.dtype}, {mode}",
        "engine": "transformers",
        "parameters": sum(p.numel() for p in parameters),
        "weight_bytes": size,
        "cache_type": DTYPES[options.dtype],
        "context": options.context,
        "requests": options.requests,
        "steps": options.steps,
        "step": step,
        "first_token": prefill,
        "prefill": {
            "tokens": options.requests * options.context,
            "chunk": options.chunk,
            "seconds": prefill,
            "flops": options.requests * prefill_flops(shape, options.context),
        },
        "traffic": {
            "weights": size - skipped,
            "cache": options.requests * options.context * token,
            "other": options.requests * (token + row),
        },
        "kernels": [],
        "settings": {
            "attention": "sdpa",
            "cache": "static",
            "warm-up": str(options.warm_up),
            "seconds with compiling": f"{decoded:.1f}",
        },
        "versions": versions(),
    }
    if is_cuda:
        found["peak_bytes"] = torch.cuda.max_memory_allocated(options.device)
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="decoding with transformers, timed")
    parser.add_argument("--model", type=Path, required=True, help="directory with a config.json")
    parser.add_argument("--context", type=int, default=8192, help="tokens of each prompt")
    parser.add_argument("--requests", type=int, default=1, help="prompts at once")
    parser.add_argument("--chunk", type=int, default=2048, help="tokens of a prompt read at once")
    parser.add_argument("--steps", type=int, default=32, help="steps of a repetition")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--prefill-repeat", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=8, help="steps before the first timed one")
    parser.add_argument(
        "--modes", nargs="+", choices=["eager", "compiled"], default=["compiled"]
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    counts = ["context", "requests", "chunk", "steps", "repeat", "prefill_repeat", "warm_up"]
    for name in [*counts, "threads"]:
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    return options


@torch.no_grad()
def main() -> None:
    options = parse()
    if not (options.model / "config.json").is_file():
        raise fail(f"{options.model} has no config.json; name a directory that has one")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise fail("no CUDA device is visible to PyTorch; use --device cpu")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    dtype = getattr(torch, options.dtype)
    config = AutoConfig.from_pretrained(options.model)

    measured = card(options.device, dtype)
    model = random_model(config, dtype, options.device)
    runs = [run(mode, model, options) for mode in options.modes]
    if options.json:
        show(
            {
                "kind": "bench",
                "version": "",
                "schema": 1,
                "model": str(options.model),
                "dimensions": sizes(config),
                "card": measured,
                "seed": options.seed,
                "command": " ".join(["python", *sys.argv]),
                "versions": versions() | {"cuda": str(torch.version.cuda)},
                "runs": runs,
            },
            True,
        )
        return
    bandwidth = measured["read_bandwidth"]["median"]
    for each in runs:
        step, prefill = each["step"], each["prefill"]
        least = sum(each["traffic"].values()) / bandwidth
        rate = prefill["flops"] / prefill["seconds"]["median"] / 1e12
        show(
            {
                "run": each["label"],
                "tokens/s per request": f"{1 / step['median']:.2f}",
                "ms per token": f"{step['median'] * 1e3:.3f} "
                f"({step['lowest'] * 1e3:.3f} ... {step['highest'] * 1e3:.3f})",
                "of the roofline": f"{100 * least / step['median']:.1f} % "
                f"at {bandwidth / 1e9:.0f} GB/s",
                "prefill": f"{prefill['seconds']['median']:.3f} s, {rate:.1f} TFLOP/s",
                "peak": f"{each.get('peak_bytes', 0) / 2**30:.2f} GiB",
            },
            False,
        )


if __name__ == "__main__":
    main()
