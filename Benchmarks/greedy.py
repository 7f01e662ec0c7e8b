#!/usr/bin/env python3
"""Greedy answers of two ways to compute, token by token: equal, or parting where the reference is undecided.

    python3 Benchmarks/greedy.py --minima .build/release/minima MODEL TEXT

Prompts are pieces of TEXT, evenly spaced, `--words` words each. Both sides are `minima generate` with the
options in `--found` (default: a GPU's kernels) and `--reference` (default: float32 on the CPU, through
libtorch). Where an answer parts from the reference's for the first time, the line says by how many nats the
reference prefers its own token there to the one that was taken; what comes after has another text before it
and is not compared. Answers do not end early: both sides may not take what ends a text. Fails where a token
lies further below than `--most`, by default twice what was found of libtorch's own bfloat16 (0.066, a model of
20 million parameters), or is none of the reference's likeliest. Needs no packages.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path


# Of which logarithms are told.
BEST = 8


def prompts(path, count, words):
    text = Path(path).read_text(encoding="utf-8", errors="replace").split()
    if len(text) < count * words:
        sys.exit(f"error: {path} has {len(text)} words, {count} prompts of {words} need more; lower --prompts")
    step = (len(text) - words) // max(count - 1, 1)
    return [" ".join(text[i * step : i * step + words]) for i in range(count)]


def ends(model):
    """What ends a text, by the model's files."""
    ids = set()
    for name in ("config.json", "generation_config.json"):
        path = Path(model) / name
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        ids.update(found if isinstance(found, list) else [] if found is None else [found])
    return ids


def answers(minima, model, texts, tokens, banned, options):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(text) + "\n" for text in texts)
        file.flush()
        command = [minima, "generate", model, "--prompts", file.name, "--max-tokens", str(tokens)]
        command += ["--json", "--logprobs", str(BEST), *shlex.split(options)]
        for token in sorted(banned):
            command += ["--logit-bias", f"{token}=-100"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command)} failed:\n{done.stderr.strip()}")
    # One answer is printed over several lines, several are one each.
    parts = [done.stdout] if len(texts) == 1 else filter(None, done.stdout.split("\n"))
    return [json.loads(part)["logprobs"] for part in parts]


def main():
    parser = argparse.ArgumentParser(description="greedy answers of two ways to compute")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--minima", default=".build/release/minima")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--found", default="--device cuda")
    parser.add_argument("--reference", default="--device cpu --dtype float32")
    parser.add_argument("--most", type=float, default=0.13, help="nats that a token may lie below")
    options = parser.parse_args()
    if min(options.prompts, options.words, options.max_tokens) < 1:
        parser.error("--prompts, --words and --max-tokens must be positive")

    texts = prompts(options.text, options.prompts, options.words)
    banned = ends(options.model)
    found, reference = (
        answers(options.minima, options.model, texts, options.max_tokens, banned, way)
        for way in (options.found, options.reference)
    )
    equal, gaps, compared, wrong = 0, [], 0, 0
    for number, (own, other) in enumerate(zip(found, reference, strict=True)):
        pairs = list(zip(own, other, strict=True))
        parting = next((i for i, (a, b) in enumerate(pairs) if a["id"] != b["id"]), len(pairs))
        compared += parting
        if parting == len(pairs):
            equal += 1
            continue
        taken = own[parting]["id"]
        likely = {token["id"]: token["logprob"] for token in other[parting]["alternatives"]}
        if taken not in likely:
            wrong += 1
            print(f"answer {number}: parts at token {parting} for none of the reference's {BEST} likeliest")
            continue
        gaps.append(max(likely[token] for token in likely if token not in banned) - likely[taken])
        wrong += gaps[-1] > options.most
        print(f"answer {number}: parts at token {parting} for one {gaps[-1]:.4f} nats below the reference's")
    print(f"{equal} of {len(texts)} answers of {options.max_tokens} tokens are the reference's; {compared} tokens")
    if gaps:
        print(f"the others part for tokens {min(gaps):.4f} to {max(gaps):.4f} nats below its own")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
