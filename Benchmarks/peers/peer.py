"""What the peer scripts share: loading, token windows, perplexity's definition.

    pip install torch==2.11.0 transformers==5.23.0 tokenizers==0.23.3

A text file is one string: its bytes as UTF-8, tokenised whole, no special tokens added. The ids
are cut into windows of `context` tokens without overlap or carried state; the last, shorter window
counts in evaluation if it has two tokens or more. In each window tokens 2, 3, … are predicted from
those before them in the window. Perplexity is exp(total NLL in nats / tokens predicted).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

Windows = list[list[int]]


def fail(message: str) -> SystemExit:
    print(f"error: {message}", file=sys.stderr)
    return SystemExit(1)


def load_model(
    directory: Path, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> PreTrainedModel:
    """The checkpoint in `dtype`, fused attention, evaluation mode."""
    if not (directory / "config.json").is_file():
        raise fail(f"{directory} has no config.json; name a Hugging Face checkpoint directory")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise fail("no CUDA device is visible to PyTorch; use --device cpu")
    transformers.utils.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa")
    return model.to(device).eval()


def load_tokenizer(directory: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.model_max_length = sys.maxsize  # whole files are tokenised; no warning for that
    return tokenizer


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise fail(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise fail(f"{path} is not UTF-8: byte {error.start}") from None


def encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def cut(ids: Sequence[int], context: int, shortest: int = 2) -> Windows:
    """Windows of `context` ids; a last window of fewer than `shortest` is dropped."""
    windows = [list(ids[start : start + context]) for start in range(0, len(ids), context)]
    return [window for window in windows if len(window) >= shortest]


def batches(windows: Windows, size: int, device: str = "cpu") -> Iterator[torch.Tensor]:
    """`[up to size, tokens]`; only windows of equal length share a batch."""
    start = 0
    while start < len(windows):
        end = start + 1
        while (
            end < len(windows)
            and end - start < size
            and len(windows[end]) == len(windows[start])
        ):
            end += 1
        yield torch.tensor(windows[start:end], device=device)
        start = end


def versions() -> dict[str, str]:
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def show(result: dict[str, Any], as_json: bool) -> None:
    """One JSON line, or a line per key."""
    if as_json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:24} {value}")
