"""Goldens of weights in blocks of float8, as public checkpoints store them: what they stand for.

Written with Python 3.11, torch 2.11 and safetensors 0.8: pip install torch safetensors
Run: python make_float8.py   (writes config.json and model.safetensors beside it)

For each weight `X` and its scales `X_scale_inv` the file holds `X.expected`, torch's product of both in
float32, in bfloat16. Blocks are 16 x 24; all bits but those of NaN occur.
"""

import json
import os

import torch
from safetensors.torch import save_file

ROWS, COLUMNS = 16, 24


def main():
    generator = torch.Generator().manual_seed(7)
    finite = torch.tensor([c for c in range(256) if c & 0x7F != 0x7F], dtype=torch.uint8)
    tensors = {}
    for name, (outputs, inputs), scale_type in [
        ("uneven", (40, 50), torch.float32),
        ("whole", (32, 48), torch.bfloat16),
        ("small", (3, 5), torch.float16),
    ]:
        count = outputs * inputs
        codes = finite[torch.randperm(max(count, 254), generator=generator)[:count] % 254]
        weight = codes.reshape(outputs, inputs).view(torch.float8_e4m3fn)
        blocks = (-(-outputs // ROWS), -(-inputs // COLUMNS))
        scales = (torch.randn(blocks, generator=generator).abs() * 1e-3 + 1e-4).to(scale_type)
        wide = scales.float().repeat_interleave(ROWS, 0)[:outputs]
        wide = wide.repeat_interleave(COLUMNS, 1)[:, :inputs]
        tensors[name] = weight
        tensors[f"{name}_scale_inv"] = scales
        tensors[f"{name}.expected"] = (weight.float() * wide).to(torch.bfloat16)
    folder = os.path.dirname(os.path.abspath(__file__))
    save_file(tensors, os.path.join(folder, "model.safetensors"))
    config = {
        "model_type": "qwen3",
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [ROWS, COLUMNS],
        },
    }
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file, indent=2)
        file.write("\n")


main()
