"""Distributions after bias, penalties and filters, by transformers' logits processors in float64.

Writes sampling.json beside itself. Bias, repetition penalty, temperature, min-p, top-k and top-p are
transformers' classes, called in this order; frequency and presence penalties, which transformers does
not have, are OpenAI's formula.

Run: python make_sampling.py (transformers 5.23.0, torch 2.11.0)
"""

import itertools
import json
import os

import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCABULARY = 23


def distribution(logits, prompt, answer, p):
    ids = torch.tensor([prompt + answer])
    scores = torch.tensor([logits], dtype=torch.float64)
    if p["bias"]:
        bias = SequenceBiasLogitsProcessor({(int(t),): float(b) for t, b in p["bias"].items()})
        scores = scores + bias(ids, torch.zeros_like(scores, dtype=torch.float32)).double()
    if p["repetition"] != 1:
        scores = RepetitionPenaltyLogitsProcessor(p["repetition"])(ids, scores)
    counts = torch.bincount(torch.tensor(answer, dtype=torch.int64), minlength=VOCABULARY)
    scores = scores - p["frequency"] * counts - p["presence"] * (counts > 0)
    scores = TemperatureLogitsWarper(p["temperature"])(ids, scores)
    if p["minP"] > 0:
        scores = MinPLogitsWarper(p["minP"])(ids, scores)
    if p["topK"] > 0:
        scores = TopKLogitsWarper(p["topK"])(ids, scores)
    if p["topP"] < 1:
        scores = TopPLogitsWarper(p["topP"])(ids, scores)
    return scores.softmax(-1)[0].tolist()


def main():
    generator = torch.Generator().manual_seed(5)

    def integers(high, count):
        return torch.randint(0, high, (count,), generator=generator).tolist()

    cases = []
    grid = itertools.product(
        [(1.0, 0.0, 0.0), (1.3, 0.0, 0.0), (1.0, 0.5, 0.0), (1.0, 0.0, 0.8), (0.7, -0.4, 1.1)],
        [0.6, 1.0, 1.7],
        [(0, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.8, 0.0), (0, 1.0, 0.1), (9, 0.85, 0.02)],
        [False, True],
    )
    for (repetition, frequency, presence), temperature, (k, p, m), biased in grid:
        # Multiples of 1/256: exact in float32, so the reference and the golden read the same logits.
        drawn = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64) * 2
        logits = ((drawn * 256).round() / 256).tolist()
        tokens = integers(VOCABULARY, 2)
        parameters = dict(
            temperature=temperature, topK=k, topP=p, minP=m, repetition=repetition,
            frequency=frequency, presence=presence,
            bias={str(t): round(b, 3) for t, b in zip(tokens, [2.5, -3.25])} if biased else {},
        )
        prompt, answer = integers(VOCABULARY, 4), integers(VOCABULARY // 2, 6)
        cases.append(
            dict(
                logits=logits, prompt=prompt, answer=answer, parameters=parameters,
                probabilities=distribution(logits, prompt, answer, parameters),
            )
        )
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sampling.json")
    with open(path, "w") as file:
        json.dump({"cases": cases}, file)
        file.write("\n")


if __name__ == "__main__":
    main()
