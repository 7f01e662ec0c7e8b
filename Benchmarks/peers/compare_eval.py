"""Evaluation speed of Minima and transformers side by side: same machine, model, text, threads.

    pip install torch==2.11.0 transformers==5.23.0 tokenizers==0.23.3
    python compare_eval.py --minima .build/release/minima --model DIR --text FILE --windows 20

Runs alternate, so that a slow minute of a shared machine meets both. Two times are shown, medians
of --repeat runs: one cold pass over the text as each side reports it, without loading and
tokenising, and the whole command from start to exit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PEER = Path(__file__).with_name("eval_transformers.py")


def run(command: list[str]) -> dict[str, Any]:
    start = time.perf_counter()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output) | {"wall_seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minima", required=True, help="the minima binary")
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=4, help="windows per batch of transformers")
    options = parser.parse_args()

    common = ["--model", options.model, "--text", options.text, "--windows", str(options.windows)]
    common += ["--threads", str(options.threads), "--device", options.device]
    common += ["--dtype", options.dtype, "--json"]
    results: dict[str, list[dict[str, Any]]] = {"minima": [], "transformers": []}
    for _ in range(options.repeat):
        results["minima"].append(run([options.minima, "eval", common[1], *common[2:]]))
        peer = [sys.executable, str(PEER), *common, "--repeat", "1", "--cold"]
        peer += ["--batch", str(options.batch)]
        results["transformers"].append(run(peer))

    for name, runs in results.items():
        for what, key in (("pass", "seconds"), ("command", "wall_seconds")):
            seconds = sorted(each[key] for each in runs)
            median = statistics.median(seconds)
            print(
                f"{name:13} {what:8} {runs[0]['tokens'] / median:8.0f} predicted tokens/s, "
                f"median {median:.2f} s of {len(seconds)} ({seconds[0]:.2f} ... {seconds[-1]:.2f})"
            )
        print(f"{name:13} perplexity {runs[0]['perplexity']:.6f}")


if __name__ == "__main__":
    main()
