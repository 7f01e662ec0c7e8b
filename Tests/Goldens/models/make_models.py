"""Writes tiny random checkpoints and what transformers computes from them.

    pip install torch==2.11.0 transformers==5.23.0 safetensors==0.8.0
    python make_models.py

Each case becomes a Hugging Face directory beside this script:

  config.json         transformers 5 style (`rope_parameters`, `dtype`) in cases named `*-v5`;
                      transformers 4 style (`rope_theta`, `rope_scaling`, `torch_dtype`) in `*-v4`
  model.safetensors   random weights (one case: several shards and an index)
  golden.json         the inputs and everything that is not a logit (see below)
  golden.safetensors  `logits.<row>` f32 [tokens, vocab], `inv_freq.<row>` f32 [rotary dim / 2]

Logits are those of the checkpoint read back from disk, weights widened to float32, eager
attention and experts, CPU, one row at a time, no padding, positions 0, 1, 2, …

The `*-v4` directories were also read with transformers 4.57.1: the same logits to the last bit (with
experts, which it multiplies one by one, to 1.5e-6) and the same greedy ids.

golden.json:
  rows              token ids; row 0 is the prompt of `greedy`
  attention_factor  what yarn multiplies cos and sin by (1 elsewhere)
  greedy            200 ids that follow row 0, taking the largest logit, with a KV cache
  greedy_margin     the smallest gap between the two largest logits met on the way
  greedy_cached_only  true for dynamic RoPE beyond the trained length: see below
  batch             true: rows left-padded into one batch (mask, positions counted from the
                    first real token) gave the logits of the single rows within `batch_deviation`
  float64_deviation max |logit in float32 − logit in float64|: the size of honest rounding
                    (transformers computes norms, softmax and RoPE angles in float32 in both)
  logit_scale       max |logit|

Dynamic RoPE depends on the length of the call: frequencies are those for the largest position
seen so far in the sequence (n tokens → n), at least `max_position_embeddings`. Cached keys keep
the rotation of the step that made them, so cached and uncached greedy differ by construction;
`greedy` is the cached one and no padded batch is recorded.
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel
from transformers import Qwen3Config, Qwen3MoeConfig

HERE = Path(__file__).resolve().parent
GREEDY_TOKENS = 200
ROW_LENGTHS = (12, 7, 3)
MIN_MARGIN = 1e-3
MIN_DISTINCT = 12


@dataclass(frozen=True)
class Case:
    """One checkpoint: its family, config fields, storage dtype and config style."""

    name: str
    config: type[PreTrainedConfig]
    fields: dict[str, Any]
    dtype: torch.dtype = torch.float32
    row_lengths: tuple[int, ...] = ROW_LENGTHS
    shard_size: str | None = None
    omit: tuple[str, ...] = field(default=())  # v4: keys that older checkpoints do not have

    @property
    def style(self) -> str:
        return self.name.rsplit("-", 1)[1]


def shape(heads: int, kv_heads: int, head_dim: int | None, **more: Any) -> dict[str, Any]:
    """Config fields that every case shares, so that a checkpoint stays below 75 KB."""
    fields: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 24,
        "intermediate_size": 28,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if head_dim is not None:
        fields["head_dim"] = head_dim
    return fields | more


def rope(kind: str, theta: float, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **more}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

CASES = [
    Case(
        "qwen3-gqa4-tied-v5",
        Qwen3Config,
        shape(4, 1, 8, tie_word_embeddings=True, rope_parameters=rope("default", 100000.0)),
    ),
    Case(
        "qwen3-gqa3-untied-bf16-v4",
        Qwen3Config,
        shape(3, 1, 12, tie_word_embeddings=False, rope_parameters=rope("default", 1000000)),
        dtype=torch.bfloat16,
    ),
    Case(
        "qwen3-mha-bias-v5",
        Qwen3Config,
        shape(
            2, 2, 12, vocab_size=67, attention_bias=True, tie_word_embeddings=False,
            rope_parameters=rope("default", 10000.0),
        ),
    ),
    Case(
        "qwen3-yarn-v4",
        Qwen3Config,
        shape(
            4, 2, 8, tie_word_embeddings=True,
            rope_parameters=rope(
                "yarn", 1000000, factor=4.0, original_max_position_embeddings=64
            ),
        ),
    ),
    Case(
        "qwen3-dynamic-v5",
        Qwen3Config,
        shape(
            4, 1, 8, tie_word_embeddings=True, max_position_embeddings=16,
            rope_parameters=rope("dynamic", 10000.0, factor=2.0),
        ),
        row_lengths=(24, 12),
    ),
    Case(
        "qwen3-sharded-v5",
        Qwen3Config,
        shape(3, 1, 8, tie_word_embeddings=False, rope_parameters=rope("default", 100000.0)),
        shard_size="16KB",
    ),
    Case(
        "llama-mha-fp16-v4",
        LlamaConfig,
        shape(
            4, 4, None, tie_word_embeddings=False, rms_norm_eps=1e-5,
            rope_parameters=rope("default", 10000.0),
        ),
        dtype=torch.float16,
        omit=("head_dim", "num_key_value_heads", "rope_theta", "attention_bias", "mlp_bias"),
    ),
    Case(
        "llama-gqa2-bias-v5",
        LlamaConfig,
        shape(
            4, 2, 8, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
            rms_norm_eps=1e-5, rope_parameters=rope("default", 10000.0),
        ),
    ),
    Case(
        "llama-llama3-bf16-v4",
        LlamaConfig,
        shape(
            4, 1, 12, tie_word_embeddings=True, rms_norm_eps=1e-5, eos_token_id=[2, 8, 9],
            rope_parameters=rope(
                "llama3", 500000.0, **LLAMA3, original_max_position_embeddings=64
            ),
        ),
        dtype=torch.bfloat16,
    ),
    Case(
        "llama-llama3-v5",
        LlamaConfig,
        shape(
            3, 3, 8, tie_word_embeddings=False, rms_norm_eps=1e-5,
            rope_parameters=rope(
                "llama3", 10000.0, **LLAMA3, original_max_position_embeddings=32
            ),
        ),
    ),
    Case(
        "llama-linear-v4",
        LlamaConfig,
        shape(
            4, 2, None, tie_word_embeddings=False, rms_norm_eps=1e-5,
            rope_parameters=rope("linear", 10000.0, factor=4.0),
        ),
        omit=("head_dim",),
    ),
    Case(
        "llama-linear-v5",
        LlamaConfig,
        shape(
            3, 1, 8, tie_word_embeddings=True, rms_norm_eps=1e-5,
            rope_parameters=rope("linear", 100000.0, factor=2.5),
        ),
    ),
    Case(
        "llama-dynamic-v4",
        LlamaConfig,
        shape(
            4, 2, 6, tie_word_embeddings=False, rms_norm_eps=1e-5, max_position_embeddings=16,
            rope_parameters=rope("dynamic", 10000.0, factor=4.0),
        ),
        row_lengths=(24, 12),
        dtype=torch.bfloat16,
    ),
    Case(
        "llama-yarn-v5",
        LlamaConfig,
        shape(
            4, 2, 12, tie_word_embeddings=False, rms_norm_eps=1e-5,
            rope_parameters=rope(
                "yarn", 10000.0, factor=8.0, original_max_position_embeddings=64,
                beta_fast=16.0, beta_slow=2.0, mscale=0.7, mscale_all_dim=0.3, truncate=False,
            ),
        ),
        dtype=torch.bfloat16,
    ),
    Case(
        "qwen3moe-normalised-v5",
        Qwen3MoeConfig,
        shape(
            4, 2, 8, num_hidden_layers=3, num_experts=4, num_experts_per_tok=2,
            moe_intermediate_size=10, norm_topk_prob=True, mlp_only_layers=[1],
            tie_word_embeddings=True, rope_parameters=rope("default", 100000.0),
        ),
    ),
    Case(
        "qwen3moe-step2-bf16-v4",
        Qwen3MoeConfig,
        shape(
            3, 1, None, num_hidden_layers=4, num_experts=6, num_experts_per_tok=3,
            moe_intermediate_size=12, norm_topk_prob=False, decoder_sparse_step=2,
            attention_bias=True, tie_word_embeddings=False,
            rope_parameters=rope("default", 1000000),
        ),
        dtype=torch.bfloat16,
    ),
]

# What transformers 4 wrote for each family, in its (alphabetic) order.
V4_KEYS = {
    "qwen3": [
        "architectures", "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id",
        "head_dim", "hidden_act", "hidden_size", "initializer_range", "intermediate_size",
        "max_position_embeddings", "max_window_layers", "model_type", "num_attention_heads",
        "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_scaling", "rope_theta",
        "sliding_window", "tie_word_embeddings", "torch_dtype", "transformers_version",
        "use_cache", "use_sliding_window", "vocab_size",
    ],
    "llama": [
        "architectures", "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id",
        "head_dim", "hidden_act", "hidden_size", "initializer_range", "intermediate_size",
        "max_position_embeddings", "mlp_bias", "model_type", "num_attention_heads",
        "num_hidden_layers", "num_key_value_heads", "pretraining_tp", "rms_norm_eps",
        "rope_scaling", "rope_theta", "tie_word_embeddings", "torch_dtype",
        "transformers_version", "use_cache", "vocab_size",
    ],
    "qwen3_moe": [
        "architectures", "attention_bias", "attention_dropout", "bos_token_id",
        "decoder_sparse_step", "eos_token_id", "head_dim", "hidden_act", "hidden_size",
        "initializer_range", "intermediate_size", "max_position_embeddings",
        "max_window_layers", "mlp_only_layers", "model_type", "moe_intermediate_size",
        "norm_topk_prob", "num_attention_heads", "num_experts", "num_experts_per_tok",
        "num_hidden_layers", "num_key_value_heads", "output_router_logits", "rms_norm_eps",
        "rope_scaling", "rope_theta", "router_aux_loss_coef", "sliding_window",
        "tie_word_embeddings", "torch_dtype", "transformers_version", "use_cache",
        "use_sliding_window", "vocab_size",
    ],
}  # fmt: skip


def randomise(model: PreTrainedModel, seed: int) -> None:
    """Weights wide enough that attention and logits are far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1.0 + 0.3 * noise)
            elif name.endswith(".bias"):
                parameter.copy_(0.3 * noise)
            elif "embed_tokens" in name:
                parameter.copy_(0.6 * noise)
            else:
                parameter.copy_(0.35 * noise)


def to_v4(config: dict[str, Any], omit: tuple[str, ...]) -> dict[str, Any]:
    """The same configuration as transformers 4 stored it."""
    parameters = dict(config["rope_parameters"])
    theta = parameters.pop("rope_theta")
    kind = parameters["rope_type"]
    if kind in ("linear", "dynamic"):  # the spelling of checkpoints of that age
        parameters = {"type": parameters.pop("rope_type"), **parameters}
    old = config | {
        "rope_theta": theta,
        "rope_scaling": None if kind == "default" else parameters,
        "torch_dtype": config["dtype"],
        "transformers_version": "4.51.0",
    }
    if "num_local_experts" in old:
        old["num_experts"] = old["num_local_experts"]
    keys = V4_KEYS[config["model_type"]]
    return {key: old[key] for key in keys if key in old and key not in omit}


def write_checkpoint(case: Case, directory: Path, seed: int) -> None:
    config = case.config(**copy.deepcopy(case.fields))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, seed)
    shutil.rmtree(directory, ignore_errors=True)
    shards = {"max_shard_size": case.shard_size} if case.shard_size else {}
    model.to(case.dtype).save_pretrained(directory, **shards)
    if case.style == "v4":
        path = directory / "config.json"
        old = to_v4(json.loads(path.read_text()), case.omit)
        path.write_text(json.dumps(old, indent=2) + "\n")


def load(directory: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", experts_implementation="eager",
        output_loading_info=True,
    )
    if any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise RuntimeError(f"{directory}: {report}")
    return model.eval()


def forward(model: PreTrainedModel, row: list[int]) -> torch.Tensor:
    return model(torch.tensor([row])).logits[0]


def greedy(directory: Path, prompt: list[int], use_cache: bool) -> tuple[list[int], float]:
    """Greedy continuation and the smallest gap between the two largest logits."""
    model = load(directory)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    result = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        min_new_tokens=GREEDY_TOKENS,
        max_new_tokens=GREEDY_TOKENS,
        use_cache=use_cache,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.stack(result.logits)[:, 0].topk(2).values
    ids = result.sequences[0, len(prompt) :].tolist()
    assert len(ids) == GREEDY_TOKENS
    return ids, float((best[:, 0] - best[:, 1]).min())


def batch_deviation(
    model: PreTrainedModel, rows: list[list[int]], single: list[torch.Tensor]
) -> float:
    """How far the rows, left-padded into one batch, are from the rows alone."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(ids, attention_mask=mask, position_ids=positions).logits
    return max(
        float((logits[index, width - len(row) :] - single[index]).abs().max())
        for index, row in enumerate(rows)
    )


@torch.no_grad()
def make(case: Case, seed: int) -> str | None:
    """Writes one case; returns None when the seed gave razor-thin or monotonous greedy text."""
    directory = HERE / case.name
    write_checkpoint(case, directory, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    vocab = case.fields["vocab_size"]
    rows = [
        torch.randint(3, vocab, (length,), generator=generator).tolist()
        for length in case.row_lengths
    ]
    dynamic = case.fields["rope_parameters"]["rope_type"] == "dynamic"
    ids, margin = greedy(directory, rows[0], use_cache=True)
    if margin < MIN_MARGIN or len(set(ids)) < MIN_DISTINCT:
        return None
    if not dynamic and greedy(directory, rows[0], use_cache=False)[0] != ids:
        return None

    tensors: dict[str, torch.Tensor] = {}
    single: list[torch.Tensor] = []
    deviation = 0.0
    factor = 1.0
    for index, row in enumerate(rows):
        model = load(directory)  # fresh: dynamic RoPE remembers the longest row
        logits = forward(model, row)
        single.append(logits)
        tensors[f"logits.{index}"] = logits.contiguous()
        tensors[f"inv_freq.{index}"] = model.model.rotary_emb.inv_freq.clone()
        factor = float(model.model.rotary_emb.attention_scaling)
        exact = forward(load(directory, torch.float64), row)
        deviation = max(deviation, float((logits.double() - exact).abs().max()))

    golden: dict[str, Any] = {
        "attention_factor": factor,
        "batch": not dynamic,
        "float64_deviation": deviation,
        "greedy": ids,
        "greedy_cached_only": dynamic,
        "greedy_margin": margin,
        "logit_scale": max(float(logits.abs().max()) for logits in single),
        "rows": rows,
        "seed": seed,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if not dynamic:
        golden["batch_deviation"] = batch_deviation(load(directory), rows, single)
        assert golden["batch_deviation"] < 1e-4, golden
    save_file(tensors, directory / "golden.safetensors")
    (directory / "golden.json").write_text(json.dumps(golden, sort_keys=True) + "\n")
    size = 0
    for path in directory.iterdir():
        path.chmod(0o644)
        size += path.stat().st_size
    return (
        f"{case.name:28} seed {seed:4} margin {margin:.4f} distinct {len(set(ids)):2} "
        f"scale {golden['logit_scale']:5.1f} f64 {deviation:.1e} "
        f"batch {golden.get('batch_deviation', float('nan')):.1e} bytes {size}"
    )


def main() -> None:
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    for number, case in enumerate(CASES):
        for attempt in range(100):
            line = make(case, seed=100 * (number + 1) + attempt)
            if line:
                print(line, flush=True)
                break
        else:
            raise SystemExit(f"{case.name}: no seed of 100 gave a usable greedy text")


if __name__ == "__main__":
    main()
