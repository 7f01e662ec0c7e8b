"""Writes tiny.json: what transformers computes from the trained model in Examples/tiny-qwen3-4m.

    pip install torch==2.11.0 transformers==5.23.0 tokenizers==0.23.3
    python make_tiny.py --model ../../../Examples/tiny-qwen3-4m

The checkpoint is bfloat16; everything here is computed in float32 (weights widened, CPU, eager
attention). tiny.json:

  prompt, ids        a text and its token ids (no special tokens)
  logits.top         the 20 largest logits at the last position of `ids`, [index, value], descending
  logits.logsumexp   log Σ exp(logit) at that position, so log p(i) = value − logsumexp
  greedy, text       200 ids that follow `ids`, taking the largest logit, and their text
  greedy_margin      the smallest gap between the two largest logits met on the way
  perplexity         of Examples/text.txt: its ids (no special tokens) cut into windows of
                     `context` tokens without overlap; in each window tokens 2… are predicted from
                     those before them in the window; the shorter last window counts if it has two
                     tokens or more; exp(nll / predicted)
  window_nll         the summed negative log likelihood (nats) of each window
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

HERE = Path(__file__).resolve().parent
PROMPT = "She bought a notebook with a green cover and"
CONTEXT = 128
GREEDY_TOKENS = 200


def greedy(model: PreTrainedModel, ids: list[int]) -> tuple[list[int], float]:
    model.generation_config.eos_token_id = None
    result = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        min_new_tokens=GREEDY_TOKENS,
        max_new_tokens=GREEDY_TOKENS,
        use_cache=True,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.stack(result.logits)[:, 0].topk(2).values
    return result.sequences[0, len(ids) :].tolist(), float((best[:, 0] - best[:, 1]).min())


def window_nll(model: PreTrainedModel, window: list[int]) -> float:
    ids = torch.tensor([window])
    logits = model(ids).logits[0, :-1].double()
    return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="write tiny.json")
    parser.add_argument("--model", type=Path, required=True, help="the tiny-qwen3-4m directory")
    options = parser.parse_args()
    if not (options.model / "config.json").is_file():
        parser.error(f"{options.model} has no config.json; name the tiny-qwen3-4m directory")

    torch.set_num_threads(2)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    last = model(torch.tensor([ids])).logits[0, -1]
    top = last.topk(20)
    continuation, margin = greedy(model, ids)

    text = (HERE.parents[2] / "Examples" / "text.txt").read_bytes().decode("utf-8")
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    windows = [tokens[start : start + CONTEXT] for start in range(0, len(tokens), CONTEXT)]
    windows = [window for window in windows if len(window) >= 2]
    losses = [window_nll(model, window) for window in windows]
    predicted = sum(len(window) - 1 for window in windows)

    golden: dict[str, Any] = {
        "context": CONTEXT,
        "greedy": continuation,
        "greedy_margin": margin,
        "ids": ids,
        "logits": {
            "logsumexp": float(last.double().logsumexp(0)),
            "top": [[int(i), float(v)] for v, i in zip(top.values, top.indices)],
        },
        "nll": sum(losses),
        "perplexity": math.exp(sum(losses) / predicted),
        "predicted": predicted,
        "prompt": PROMPT,
        "text": tokenizer.decode(continuation),
        "token_count": len(tokens),
        "tokens_head": tokens[:64],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "window_nll": losses,
    }
    path = HERE / "tiny.json"
    path.write_text(json.dumps(golden, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
    print({key: golden[key] for key in ("greedy_margin", "perplexity", "predicted", "text")})


if __name__ == "__main__":
    main()
