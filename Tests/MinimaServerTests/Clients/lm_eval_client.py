"""lm-evaluation-harness, unchanged, against a Minima server: its log-likelihoods, texts and metrics
must be those that transformers gives.

    PYTHONPATH=.deps/lm-eval python3 lm_eval_client.py http://127.0.0.1:PORT KEY GOLDEN

Runs the tasks of lm-eval/ with the harness's own command. Its tokenizer is the server's, which it finds
by itself. Prints "passed" at the end; anything else is a failure.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

url, key, golden = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
folder = Path(__file__).resolve().parent / "lm-eval"
# float32: sums of 192 products, relative to logits of about 10, per token.
tolerance = 192 * 2**-23 * 10
tasks = ["minima_endings", "minima_rolling", "minima_answers"]

with tempfile.TemporaryDirectory() as temporary:
    arguments = {
        "model": "tiny",
        "base_url": f"{url}/v1/completions",
        "auth_token": key,
        "num_concurrent": 4,
        "max_length": 1024,
    }
    command = [sys.executable, "-m", "lm_eval", "--model", "local-completions"]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())]
    command += ["--include_path", str(folder), "--tasks", ",".join(tasks)]
    command += ["--output_path", temporary, "--log_samples"]
    environment = dict(
        os.environ,
        OPENAI_API_KEY=key,
        HF_HOME=temporary,
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
    )
    run = subprocess.run(
        command, cwd=folder, env=environment, text=True, capture_output=True, timeout=600
    )
    assert run.returncode == 0, run.stdout + run.stderr
    files = {path.stem: path for path in Path(temporary).rglob("*.json*")}
    results = next(path for name, path in files.items() if name.startswith("results_"))
    results = json.loads(results.read_text())["results"]

    def samples(task):
        path = next(path for name, path in files.items() if name.startswith(f"samples_{task}_"))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [line["filtered_resps"] for line in sorted(lines, key=lambda line: line["doc_id"])]

    task = golden["minima_endings"]
    found = samples("minima_endings")
    assert len(found) == len(task["samples"])
    for choices, expected, tokens in zip(found, task["samples"], task["tokens"]):
        assert len(choices) == len(expected)
        for (nats, is_greedy), (right, right_greedy), count in zip(choices, expected, tokens):
            assert abs(float(nats) - right) <= count * tolerance, (nats, right, count)
            assert is_greedy == str(right_greedy), (choices, expected)
    task = golden["minima_rolling"]
    found = samples("minima_rolling")
    assert len(found) == len(task["samples"])
    for text, right, count in zip(found, task["samples"], task["tokens"]):
        assert abs(float(text[0]) - right) <= count * tolerance, (text, right)
    found = [answer[0] for answer in samples("minima_answers")]
    assert found == golden["minima_answers"]["samples"], found

    for name in tasks:
        for metric, right in golden[name]["results"].items():
            value = results[name][f"{metric},none"]
            # A perplexity is e to the power of nats per word, which has four tokens at most.
            close = math.isclose(value, right, rel_tol=4 * tolerance)
            assert close, (name, metric, value, right)
print("passed")
