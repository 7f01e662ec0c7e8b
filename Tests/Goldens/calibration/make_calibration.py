"""Second moments of tiny models' linear layers, by transformers and torch's autograd.

    pip install torch==2.11.0 transformers==5.23.0 safetensors==0.8.0
    python make_calibration.py

Writes calibration.json and calibration.safetensors for some of the checkpoints beside
`../models/make_models.py`. Everything is computed in float64 from the stored weights, one window
at a time, over whole models: no layer-by-layer sweep, no batches. (transformers computes norms,
softmax and RoPE angles in float32 all the same.)

calibration.json, per model:
  sources    windows of token ids, the weight of each token, and a label for each token
  deviation  the largest relative Frobenius distance, over all layers, of the same computed in
             float32: the size of honest rounding in C (`input`) and H (`output`)
calibration.safetensors, float32, per model (`model/module.kind`):
  input     C = sum(w x x^T) / sum(w) of each linear layer's inputs, [inputs, inputs]
  output    H = sum(w g g^T) / sum(w), [outputs, outputs], of each linear layer, those that read one
            input stacked (qkv_proj, gate_up_proj); g is the gradient at the output (bias included)
            of the window's summed negative log-likelihood of the labels: the label of position t
            stands for the token that follows it
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
MODELS = ("qwen3-gqa4-tied-v5", "llama-gqa2-bias-v5", "qwen3-gqa3-untied-bf16-v4")
SOURCES = (((11, 11, 6), 1.0), ((11, 5), 2.5))  # window lengths, weight
STACKED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}


def moments(name: str, dtype: torch.dtype, sources: list[dict]) -> dict[str, torch.Tensor]:
    """C and H of every linear layer of the decoder."""
    model = AutoModelForCausalLM.from_pretrained(
        HERE.parent / "models" / name, dtype=dtype, attn_implementation="eager"
    )
    layers = {
        n: m
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and n.startswith("model.layers.")
    }
    inputs, outputs, sums = {}, {}, {}
    for n, module in layers.items():

        def hook(_module, args, output, n=n):
            inputs[n], outputs[n] = args[0].detach()[0].double(), output

        module.register_forward_hook(hook)
    total = 0.0
    for source in sources:
        weight = source["weight"]
        for window, labels in zip(source["windows"], source["labels"]):
            logits = model(torch.tensor([window])).logits[0]
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")
            gradients = torch.autograd.grad(loss, [outputs[n] for n in layers])
            stacks: dict[str, list[torch.Tensor]] = {}
            for n, gradient in zip(layers, gradients):
                parent, role = n.rsplit(".", 1)
                stacks.setdefault(f"{n}.input", []).append(inputs[n])
                site = f"{parent}.{STACKED.get(role, role)}"
                stacks.setdefault(f"{site}.output", []).append(gradient[0].double())
            for kind, parts in stacks.items():
                key, rows = f"{name}/{kind}", torch.cat(parts, dim=1)
                sums[key] = sums.get(key, 0) + weight * rows.T @ rows
            total += weight * len(window)
    return {key: value / total for key, value in sums.items()}


def main() -> None:
    torch.manual_seed(20_261)
    info, tensors = {}, {}
    for name in MODELS:
        config = AutoConfig.from_pretrained(HERE.parent / "models" / name)
        sources = [
            {
                "weight": weight,
                "windows": [torch.randint(config.vocab_size, (n,)).tolist() for n in lengths],
                "labels": [torch.randint(config.vocab_size, (n,)).tolist() for n in lengths],
            }
            for lengths, weight in SOURCES
        ]
        exact = moments(name, torch.float64, sources)
        rounded = moments(name, torch.float32, sources)
        deviation = {
            kind: max(
                float((rounded[key] - value).norm() / value.norm())
                for key, value in exact.items()
                if key.endswith(kind)
            )
            for kind in ("input", "output")
        }
        info[name] = {"sources": sources, "deviation": deviation}
        tensors |= {key: value.float().contiguous() for key, value in exact.items()}
    save_file(tensors, HERE / "calibration.safetensors")
    (HERE / "calibration.json").write_text(json.dumps(info) + "\n")


if __name__ == "__main__":
    main()
