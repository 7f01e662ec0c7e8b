"""What lm-evaluation-harness must find with the example model, by transformers.

    pip install torch==2.11.0 transformers==5.23.0
    python make_lm_eval.py

The tasks are those of Tests/MinimaServerTests/Clients/lm-eval, computed here without the harness: a
sequence goes through the model by itself, in float32 on the CPU.

lm-eval.json, by task:
  tokens    tokens of each continuation, by document and choice
  samples   by document: of each choice [log-likelihood in nats, whether its tokens are the likeliest
            ones]; of a text its log-likelihood; of an answer its text
  results   the harness's metrics
margin      the least difference of the two likeliest tokens' logits wherever one was chosen
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
TASKS = ROOT / "Tests/MinimaServerTests/Clients/lm-eval"
MODEL = ROOT / "Examples/tiny-qwen3-4m"

tokenizer = AutoTokenizer.from_pretrained(MODEL)
model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
margin = math.inf


def documents(name: str) -> list[dict]:
    return [json.loads(line) for line in (TASKS / f"{name}.jsonl").read_text().splitlines()]


def encode(text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


@torch.no_grad()
def logits(ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids])).logits[0]


def likelihood(context: list[int], continuation: list[int]) -> tuple[float, bool]:
    global margin
    rows = logits(context + continuation)[len(context) - 1 : -1]
    best = rows.topk(2).values
    margin = min(margin, (best[:, 0] - best[:, 1]).min().item())
    targets = torch.tensor(continuation)
    own = rows.double().log_softmax(-1).gather(1, targets[:, None])
    return own.sum().item(), bool((rows.argmax(-1) == targets).all())


def pair(context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Both are encoded as one text, which is then cut behind the context's tokens."""
    if not context:
        return [tokenizer.eos_token_id], encode(continuation)
    before = encode(context)
    return before, encode(context + continuation)[len(before) :]


def endings() -> dict:
    tokens, samples, right, normalised = [], [], [], []
    for document in documents("endings"):
        found = [pair(document["beginning"], " " + ending) for ending in document["endings"]]
        scores = [likelihood(*each) for each in found]
        samples.append([list(score) for score in scores])
        tokens.append([len(continuation) for _, continuation in found])
        values = torch.tensor([score for score, _ in scores], dtype=torch.float64)
        lengths = torch.tensor([float(len(ending)) for ending in document["endings"]])
        right.append(values.argmax().item() == document["right"])
        normalised.append((values / lengths).argmax().item() == document["right"])
    count = len(samples)
    return {
        "tokens": tokens,
        "samples": samples,
        "results": {"acc": sum(right) / count, "acc_norm": sum(normalised) / count},
    }


def rolling() -> dict:
    texts = [document["text"] for document in documents("rolling")]
    continuations = [encode(text) for text in texts]
    scores = [likelihood([tokenizer.eos_token_id], each)[0] for each in continuations]
    nats = -sum(scores)
    words = sum(len(re.split(r"\s+", text)) for text in texts)
    count = sum(len(text.encode()) for text in texts)
    return {
        "tokens": [len(each) for each in continuations],
        "samples": scores,
        "results": {
            "word_perplexity": math.exp(nats / words),
            "byte_perplexity": math.exp(nats / count),
        },
    }


def answers() -> dict:
    global margin
    samples, exact = [], []
    for document in documents("answers"):
        ids = encode(document["beginning"])
        start, text = len(ids), ""
        while len(ids) < start + 24 and not re.search(r"[.\n]", text):
            best = logits(ids)[-1].topk(2)
            margin = min(margin, (best.values[0] - best.values[1]).item())
            if best.indices[0] == tokenizer.eos_token_id:
                break
            ids.append(best.indices[0].item())
            text = tokenizer.decode(ids[start:])
        samples.append(re.split(r"[.\n]", text)[0])
        exact.append(samples[-1] == document["expected"])
    return {"samples": samples, "results": {"exact_match": sum(exact) / len(exact)}}


golden = {
    "minima_endings": endings(),
    "minima_rolling": rolling(),
    "minima_answers": answers(),
    "margin": margin,
}
(HERE / "lm-eval.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")
