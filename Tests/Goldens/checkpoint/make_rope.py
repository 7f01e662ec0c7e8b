"""Writes rope.json: inverse frequencies and attention factors of transformers, for each kind of
rotary scaling and both styles of config.json.

Made with transformers 5.23.0 and torch 2.11.0 on CPU:

    pip install transformers==5.23.0 torch==2.11.0
    python make_rope.py
"""

import copy
import json
import pathlib

from transformers import GlmConfig, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.glm.modeling_glm import GlmRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

BASE = {"hidden_size": 512, "num_attention_heads": 4, "max_position_embeddings": 8192}

CASES = {
    "default, version 4": {"rope_theta": 10000.0},
    "default, version 5": {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    "default, head of 64": {"rope_theta": 100000.0, "head_dim": 64},
    "default, null scaling": {"rope_theta": 500000, "rope_scaling": None},
    "linear, version 4": {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "linear, version 5": {
        "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 20000.0}
    },
    "linear, both": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0},
        "rope_theta": 30000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 3},
    },
    "dynamic": {"rope_theta": 10000.0, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "dynamic, long": {
        "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
        "_sequence_length": 20000,
    },
    "yarn, Qwen style": {
        "rope_theta": 1000000.0,
        "rope_scaling": {
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 2048,
        },
    },
    "yarn, no original length": {
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}
    },
    "yarn, null factor": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": None,
            "original_max_position_embeddings": 1024,
        }
    },
    "yarn, DeepSeek style": {
        "rope_theta": 10000.0,
        "rope_scaling": {
            "type": "yarn",
            "factor": 40.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 0.707,
            "mscale_all_dim": 1.2,
            "original_max_position_embeddings": 4096,
        },
    },
    "yarn, GPT-OSS style": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
        "head_dim": 64,
    },
    "yarn, attention factor and betas": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "attention_factor": 1.25,
            "beta_fast": 16,
            "beta_slow": 2,
            "original_max_position_embeddings": 4096,
        }
    },
    "llama3, Llama 3.1": {
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "llama3, version 5": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024,
        },
        "head_dim": 64,
    },
    "llama3, original length at the top": {
        "rope_theta": 500000.0,
        "original_max_position_embeddings": 2048,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "partial, default": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    "partial, default, version 5": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
        }
    },
    "partial, linear": {
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
    "layer types that agree": {
        "layer_types": ["full_attention", "sliding_attention"],
        "num_hidden_layers": 2,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
            "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        },
    },
}


def golden(name, case):
    written = BASE | case
    length = written.pop("_sequence_length", None)
    default_partial = name.startswith("partial, default")
    config_class = GlmConfig if default_partial else LlamaConfig
    arguments = copy.deepcopy(written)
    if default_partial:
        arguments.setdefault("head_dim", 128)
    config = config_class(**arguments)
    layer_type = "full_attention" if name.startswith("layer types") else None
    config.standardize_rope_params()
    parameters = config.rope_parameters[layer_type] if layer_type else config.rope_parameters
    kind = parameters["rope_type"]
    if kind == "default":
        rotary = GlmRotaryEmbedding if default_partial else LlamaRotaryEmbedding
        frequencies, scaling = rotary.compute_default_rope_parameters(config)
    else:
        arguments = {"layer_type": layer_type} if layer_type else {}
        frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](
            config, device="cpu", seq_len=length, **arguments
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        "name": name,
        "config": written,
        "head_dim": head_dim,
        "sequence_length": length or 0,
        "frequencies": [float(value) for value in frequencies],
        "attention_scaling": float(scaling),
    }


cases = [golden(name, case) for name, case in CASES.items()]
text = "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n"
pathlib.Path(__file__).with_name("rope.json").write_text(text)
