"""Small random EAGLE-3 drafts and what they compute, by their definition, place by place.

    pip install torch==2.11.0 transformers==5.23.0 safetensors==0.8.0
    python make_draft.py

Each draft is for the target ../models/qwen3-gqa4-tied-v5 and stands in a directory of its own:

  authors   the layout of the paper's authors and of SGLang: `midlayer`, d2t as offsets, t2d, the
            target's embedding; grouped-query attention
  vllm      the layout of vLLM's converters: sizes in `transformer_layer_config`, `layers.0`, an
            embedding of its own, biases, attention added to the normalised feature
            (`norm_before_residual`), layers counted by their input, no t2d

golden.safetensors, float32, of each:
  ids          int64 [10], tokens of the target
  features     [10, 72]: what enters the layers that the draft reads, concatenated, by transformers
  hidden.J     [9 - J, hidden]: of each place i the draft's hidden state, before its last norm, after
               it has gone on from place i by J tokens, reading ids
  logits.J     [9 - J, draft vocabulary]
golden.json:
  features_deviation, deviation   the largest difference between float32 and float64 of all that

Nothing is batched: every place goes through the layer alone, against a list of the keys and values of
the places before it (Li et al. 2025, "EAGLE-3", section 3.1: the feature of token i and the embedding of
token i + 1 predict token i + 2; where the feature is not known, the hidden state of the place before
stands for it).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "models" / "qwen3-gqa4-tied-v5"
TOKENS, UNROLL = 10, 4


@dataclass
class Draft:
    name: str
    layer: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    neurons: int
    known: list[int]
    read: list[int]
    theta: float
    epsilon: float
    bias: bool = False
    own_embedding: bool = False
    norm_first: bool = False


DRAFTS = (
    Draft("authors", "midlayer", 24, 4, 2, 8, 20, list(range(3, 64, 3)), [0, 1, 1], 1e4, 1e-6),
    Draft(
        "vllm", "layers.0", 24, 2, 2, 6, 28, sorted({(7 * k) % 61 for k in range(24)}), [1, 0, 1],
        5e3, 1e-5, bias=True, own_embedding=True, norm_first=True,
    ),
)  # fmt: skip


def weights(draft: Draft, vocabulary: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 1.5 / math.sqrt(shape[-1])

    def norm() -> torch.Tensor:
        return 1 + 0.2 * torch.randn(draft.hidden, generator=generator)

    h, layer = draft.hidden, draft.layer
    rows = {
        "q_proj": draft.heads * draft.head_dim,
        "k_proj": draft.kv_heads * draft.head_dim,
        "v_proj": draft.kv_heads * draft.head_dim,
    }
    tensors = {
        "fc.weight": matrix(h, 3 * h),
        f"{layer}.input_layernorm.weight": norm(),
        f"{layer}.hidden_norm.weight": norm(),
        f"{layer}.post_attention_layernorm.weight": norm(),
        "norm.weight": norm(),
        f"{layer}.self_attn.o_proj.weight": matrix(h, rows["q_proj"]),
        f"{layer}.mlp.gate_proj.weight": matrix(draft.neurons, h),
        f"{layer}.mlp.up_proj.weight": matrix(draft.neurons, h),
        f"{layer}.mlp.down_proj.weight": matrix(h, draft.neurons),
        "lm_head.weight": matrix(len(draft.known), h),
    }
    for name, count in rows.items():
        tensors[f"{layer}.self_attn.{name}.weight"] = matrix(count, 2 * h)
    if draft.bias:
        for name, count in {**rows, "o_proj": h}.items():
            tensors[f"{layer}.self_attn.{name}.bias"] = torch.randn(count, generator=generator) / 4
    if draft.own_embedding:
        tensors["embed_tokens.weight"] = torch.randn((vocabulary, h), generator=generator)
    known = torch.tensor(draft.known)
    tensors["d2t"] = known - torch.arange(len(draft.known))
    if draft.layer == "midlayer":
        tensors["t2d"] = torch.isin(torch.arange(vocabulary), known)
    return tensors


def config(draft: Draft, vocabulary: int) -> dict:
    sizes = {
        "model_type": "llama",
        "hidden_size": draft.hidden,
        "intermediate_size": draft.neurons,
        "num_attention_heads": draft.heads,
        "num_key_value_heads": draft.kv_heads,
        "head_dim": draft.head_dim,
        "num_hidden_layers": 1,
        "vocab_size": vocabulary,
        "max_position_embeddings": 128,
        "rms_norm_eps": draft.epsilon,
        "rope_theta": draft.theta,
        "hidden_act": "silu",
        "attention_bias": draft.bias,
    }
    if draft.layer == "midlayer":
        return {
            "architectures": ["LlamaForCausalLMEagle3"],
            **sizes,
            "draft_vocab_size": len(draft.known),
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
        }
    return {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "transformer_layer_config": sizes,
        "draft_vocab_size": len(draft.known),
        "norm_before_residual": draft.norm_first,
        "target_hidden_size": None,
        "eagle_aux_hidden_state_layer_ids": draft.read,
        "torch_dtype": "float32",
    }


class Oracle:
    """The draft in one floating-point type."""

    def __init__(self, draft: Draft, tensors: dict[str, torch.Tensor], embedding: torch.Tensor):
        self.draft, self.embedding = draft, embedding
        self.tensors = {
            name: value.to(embedding.dtype) if value.is_floating_point() else value
            for name, value in tensors.items()
        }

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        y = self.tensors[f"{name}.weight"] @ x
        bias = self.tensors.get(f"{name}.bias")
        return y if bias is None else y + bias

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt((x * x).mean() + self.draft.epsilon) * self.tensors[f"{name}.weight"]

    def rotate(self, x: torch.Tensor, position: int) -> torch.Tensor:
        half = x.shape[-1] // 2
        angles = position * self.draft.theta ** (-torch.arange(half, dtype=x.dtype) / half)
        first, second = x[..., :half], x[..., half:]
        return torch.cat(
            (
                first * angles.cos() - second * angles.sin(),
                second * angles.cos() + first * angles.sin(),
            ),
            -1,
        )

    def place(
        self, token: int, feature: torch.Tensor, position: int, seen: list[tuple]
    ) -> torch.Tensor:
        """One place through the layer; its key and value join `seen`."""
        draft, layer = self.draft, self.draft.layer
        normed = self.norm(f"{layer}.hidden_norm", feature)
        x = torch.cat((self.norm(f"{layer}.input_layernorm", self.embedding[token]), normed))
        q, k, v = (
            self.linear(f"{layer}.self_attn.{name}", x).reshape(-1, draft.head_dim)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        q, k = self.rotate(q, position), self.rotate(k, position)
        seen.append((k, v))
        outputs = []
        for head in range(draft.heads):
            kv = head * draft.kv_heads // draft.heads
            scores = torch.stack([q[head] @ key[kv] for key, _ in seen]) / math.sqrt(draft.head_dim)
            shares = scores.softmax(0)
            outputs.append(sum(s * value[kv] for s, (_, value) in zip(shares, seen)))
        stream = normed if draft.norm_first else feature
        stream = stream + self.linear(f"{layer}.self_attn.o_proj", torch.cat(outputs))
        y = self.norm(f"{layer}.post_attention_layernorm", stream)
        gate, up = (self.linear(f"{layer}.mlp.{name}", y) for name in ("gate_proj", "up_proj"))
        return stream + self.linear(f"{layer}.mlp.down_proj", gate * torch.sigmoid(gate) * up)

    def run(self, ids: list[int], features: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[int, list[torch.Tensor]] = {step: [] for step in range(UNROLL)}
        seen: list[tuple] = []
        for i in range(TOKENS - 1):
            state = self.place(ids[i + 1], self.linear("fc", features[i]), i, seen)
            found[0].append(state)
            own = list(seen)
            for step in range(1, min(UNROLL, TOKENS - 1 - i)):
                state = self.place(ids[i + 1 + step], state, i + step, own)
                found[step].append(state)
        result = {}
        for step, states in found.items():
            result[f"hidden.{step}"] = torch.stack(states)
            result[f"logits.{step}"] = torch.stack(
                [self.linear("lm_head", self.norm("norm", state)) for state in states]
            )
        return result


def features(ids: list[int], read: list[int], dtype: torch.dtype) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(
        TARGET, dtype=dtype, attn_implementation="eager"
    )
    states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return torch.cat([states[layer][0] for layer in read], -1)


@torch.no_grad()
def main() -> None:
    target = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32)
    embedding = target.get_input_embeddings().weight
    for seed, draft in enumerate(DRAFTS):
        generator = torch.Generator().manual_seed(100 + seed)
        ids = torch.randint(embedding.shape[0], (TOKENS,), generator=generator).tolist()
        tensors = weights(draft, embedding.shape[0], seed)
        found, read = {}, {}
        for dtype in (torch.float32, torch.float64):
            own = tensors.get("embed_tokens.weight", embedding).to(dtype)
            read[dtype] = features(ids, draft.read, dtype)
            found[dtype] = Oracle(draft, tensors, own).run(
                ids, read[torch.float32].to(dtype)
            )
        exact = found[torch.float64]
        folder = HERE / draft.name
        folder.mkdir(exist_ok=True)
        save_file(
            {name: value.contiguous() for name, value in tensors.items()},
            folder / "model.safetensors", metadata={"format": "pt"},
        )  # fmt: skip
        (folder / "config.json").write_text(
            json.dumps(config(draft, embedding.shape[0]), indent=2) + "\n"
        )
        save_file(
            {
                "ids": torch.tensor(ids),
                "features": read[torch.float32].contiguous(),
                **{name: value.float() for name, value in exact.items()},
            },
            folder / "golden.safetensors",
        )
        deviation = max(
            (found[torch.float32][name] - value).abs().max().item()
            for name, value in exact.items()
        )
        between = (read[torch.float32] - read[torch.float64]).abs().max().item()
        (folder / "golden.json").write_text(
            json.dumps({"features_deviation": between, "deviation": deviation}) + "\n"
        )


if __name__ == "__main__":
    main()
