"""Tiny random models of every architecture, as transformers makes them and as GGUF files.

The way into the file is a second implementation of what the trainer undoes: names are those of
gguf's own table, and the changes to weights are those that llama.cpp's converter makes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from torch import Tensor

from tests import tiny_models

SHARED = {
    "vocab_size": len(tiny_models.byte_level_vocabulary().tokens),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": None,
}
LONGROPE_FACTORS = [1.0, 1.1, 1.3, 1.7, 2.0, 2.5, 3.0, 4.0]


@dataclass(frozen=True)
class Sort:
    """One kind of model: how transformers is asked for it, and what its GGUF says of it."""

    name: str
    architecture: str
    model: type
    config: type
    settings: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def make(self, seed: int = 0, **changes: Any) -> Any:
        """A random model with biases and norms that matter."""
        torch.manual_seed(seed)
        settings = {**(SHARED if self.architecture != "gpt2" else {}), **self.settings, **changes}
        model = self.model(self.config(**settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn(parameter.shape) * 0.2)
        return model


GPT2 = {
    "vocab_size": SHARED["vocab_size"], "n_embd": 64, "n_inner": 96, "n_layer": 2, "n_head": 4,
    "n_positions": 256, "initializer_range": 0.2,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": LONGROPE_FACTORS,
    "long_factor": [9.0] * 8, "original_max_position_embeddings": 256,
}  # fmt: skip
GEMMA3 = {
    "num_hidden_layers": 7, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16,
}  # fmt: skip

SORTS = {
    sort.name: sort
    for sort in (
        Sort("llama", "llama", transformers.LlamaForCausalLM, transformers.LlamaConfig),
        Sort("mistral", "llama", transformers.MistralForCausalLM, transformers.MistralConfig,
             {"head_dim": 32, "sliding_window": None}),
        Sort("qwen2", "qwen2", transformers.Qwen2ForCausalLM, transformers.Qwen2Config),
        # Heads of another size than width / heads: transformers' own GGUF loader fails here.
        Sort("qwen3", "qwen3", transformers.Qwen3ForCausalLM, transformers.Qwen3Config,
             {"head_dim": 32}),
        Sort("qwen3 tied", "qwen3", transformers.Qwen3ForCausalLM, transformers.Qwen3Config,
             {"head_dim": 32, "tie_word_embeddings": True}),
        Sort("gemma3", "gemma3", transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig,
             GEMMA3),
        Sort("gemma3 long", "gemma3", transformers.Gemma3ForCausalLM,
             transformers.Gemma3TextConfig,
             {**GEMMA3, "final_logit_softcapping": 5.0, "rope_parameters": {
                 "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                 "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}}},
             {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0,
              "final_logit_softcapping": 5.0}),
        Sort("phi3", "phi3", transformers.Phi3ForCausalLM, transformers.Phi3Config),
        Sort("phi3 long", "phi3", transformers.Phi3ForCausalLM, transformers.Phi3Config,
             {"rope_parameters": LONGROPE, "original_max_position_embeddings": 256,
              "max_position_embeddings": 1024}),
        Sort("gpt2", "gpt2", transformers.GPT2LMHeadModel, transformers.GPT2Config, GPT2),
    )
}  # fmt: skip


def write_gguf(path: Path, sort: Sort, model: Any) -> Path:
    """What llama.cpp's converter would make of ``model``, with a tiny vocabulary."""
    config = model.config
    name = sort.architecture
    writer = gguf.GGUFWriter(path, name)
    _shape(writer, sort, config)
    tiny_models._add_tokenizer(writer, tiny_models.byte_level_vocabulary(), "<|im_end|>")
    writer.add_chat_template(tiny_models.CHATML)
    if sort.name == "phi3 long":
        ratio = config.max_position_embeddings / 256
        writer.add_rope_scaling_orig_ctx_len(256)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(ratio) / math.log(256)))
        writer.add_tensor("rope_factors_short.weight", np.array(LONGROPE_FACTORS, np.float32))
        writer.add_tensor("rope_factors_long.weight", np.full(8, 9.0, np.float32))
    architecture = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for key, tensor in model.state_dict().items():
        if tied and key == "lm_head.weight":
            continue
        found = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert found is not None, key
        values = _changed(name, key, tensor, config)
        writer.add_tensor(found, np.ascontiguousarray(values.float().numpy()))
    tiny_models._write(writer)
    return path


def _shape(writer: gguf.GGUFWriter, sort: Sort, config: Any) -> None:
    name = sort.architecture
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if name == "gpt2":
        writer.add_feed_forward_length(config.n_inner)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head)
    if head != config.hidden_size // config.num_attention_heads:
        writer.add_key_length(head)
        writer.add_value_length(head)
    if name == "gemma3":
        writer.add_rope_freq_base(1e6)
        writer.add_sliding_window(config.sliding_window)
    for key, value in sort.metadata.items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add(f"{name}.{key}", value)


def _changed(name: str, key: str, tensor: Tensor, config: Any) -> Tensor:
    """What the converter does to a weight on the way."""
    if name == "llama" and ("q_proj" in key or "k_proj" in key):
        heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
        halves = tensor.view(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)
    if name == "gemma3" and key.endswith("norm.weight"):
        return tensor + 1
    if name == "gpt2" and ".h." in key and tensor.dim() == 2:
        return tensor.T
    return tensor
