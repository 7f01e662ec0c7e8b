#!/usr/bin/env python3
"""Tokenizer speed: Hugging Face `tokenizers` and Minima on one thread, same machine, same texts.

    pip install tokenizers==0.23.3
    python3 bench_tokenizer.py --minima .build/release/minima MODEL_DIRECTORY TEXT...

Without --minima only Hugging Face is measured.
Each side encodes everything once to warm up and then RUNS times; `lines` encodes line by line, `whole`
file by file. Hugging Face is measured with `encode`, which is how texts come one by one, and with
`encode_batch_fast`, its fastest call; the ratio is to the faster of both. The two sides have to agree
on the number of tokens.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers  # noqa: E402  (the environment has to be set before)


def texts(paths, mode):
    for path in paths:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8", "replace")
        if mode == "whole":
            yield text
        else:
            yield from (line for line in text.split("\n") if line)


def measure_hugging_face(directory, runs, mode, paths, batched):
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    parts = list(texts(paths, mode))
    seconds, tokens = [], 0
    for _ in range(runs + 1):
        start = time.perf_counter()
        if batched:
            encodings = tokenizer.encode_batch_fast(parts, add_special_tokens=False)
            tokens = sum(map(len, encodings))
        else:
            tokens = sum(len(tokenizer.encode(part, add_special_tokens=False)) for part in parts)
        seconds.append(time.perf_counter() - start)
    size = sum(os.path.getsize(path) for path in paths)
    return {"tokens": tokens, "bytes": size, "seconds": seconds[1:]}


def measure_minima(command, directory, runs, mode, paths):
    arguments = [command, "tokenize", directory, "--json", "--repeats", str(runs), "--text", *paths]
    if mode == "lines":
        arguments.append("--lines")
    output = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    return json.loads(output)


def row(name, mode, result):
    rates = sorted(result["bytes"] / second / 1e6 for second in result["seconds"])
    median = statistics.median(rates)
    print(f"{name:14} {mode:6} {result['tokens']:9} tokens  "
          f"{median:8.2f} MB/s  ({rates[0]:.2f} to {rates[-1]:.2f})")
    return median


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minima", metavar="BINARY", help="the minima binary")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("model")
    parser.add_argument("texts", nargs="+")
    options = parser.parse_args()
    print(f"{options.model}, {sum(map(os.path.getsize, options.texts))} bytes, "
          f"tokenizers {tokenizers.__version__}, median of {options.runs} (lowest to highest)")
    for mode in ("lines", "whole"):
        arguments = (options.model, options.runs, mode, options.texts)
        theirs = measure_hugging_face(*arguments, batched=False)
        reference = max(
            row("HF encode", mode, theirs),
            row("HF batch fast", mode, measure_hugging_face(*arguments, batched=True)))
        if options.minima:
            ours = measure_minima(options.minima, *arguments)
            ratio = row("Minima", mode, ours) / reference
            print(f"{'ratio':14} {mode:6} {ratio:.1f}")
            assert ours["tokens"] == theirs["tokens"], "the two sides disagree"


if __name__ == "__main__":
    main()
