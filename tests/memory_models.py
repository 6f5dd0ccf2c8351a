"""Random models whose memory is no plain row of cells: recurrent, and with a sliding window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from finetune.contract.chat_template import CHATML
from tests.tiny_models import byte_level_vocabulary

WINDOW = 32
"""Tokens that the layers with a sliding window look back on."""
_WIDTH, _INNER, _STATE, _CONVOLVED, _RANK = 64, 128, 8, 4, 4
_HEAD, _HEADS, _FEED_FORWARD = 16, 4, 96


def write_mamba(path: Path, *, layers: int = 2, seed: int = 0) -> Path:
    """A recurrent model (Gu and Dao 2023): what it remembers cannot be cut off."""
    random = np.random.default_rng(seed)
    writer, count = _begin(path, "mamba", layers)
    writer.add_ssm_conv_kernel(_CONVOLVED)
    writer.add_ssm_inner_size(_INNER)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(_RANK)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    for layer in range(layers):
        block = f"blk.{layer}"
        _ones(writer, f"{block}.attn_norm.weight", _WIDTH)
        _noise(writer, random, f"{block}.ssm_in.weight", 2 * _INNER, _WIDTH)
        _noise(writer, random, f"{block}.ssm_conv1d.weight", _INNER, _CONVOLVED)
        writer.add_tensor(f"{block}.ssm_conv1d.bias", np.zeros(_INNER, np.float32))
        _noise(writer, random, f"{block}.ssm_x.weight", _RANK + 2 * _STATE, _INNER)
        _noise(writer, random, f"{block}.ssm_dt.weight", _INNER, _RANK)
        writer.add_tensor(f"{block}.ssm_dt.bias", np.zeros(_INNER, np.float32))
        decay = np.tile(-np.arange(1, _STATE + 1, dtype=np.float32), (_INNER, 1))
        writer.add_tensor(f"{block}.ssm_a", decay)
        _ones(writer, f"{block}.ssm_d", _INNER)
        _noise(writer, random, f"{block}.ssm_out.weight", _WIDTH, _INNER)
    return _end(writer, random, count)


def write_sliding_window(path: Path, *, layers: int = 2, seed: int = 0) -> Path:
    """A Gemma 3 whose layers but each sixth see the last ``WINDOW`` tokens only."""
    random = np.random.default_rng(seed)
    writer, count = _begin(path, "gemma3", layers)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_key_length(_HEAD)
    writer.add_value_length(_HEAD)
    writer.add_sliding_window(WINDOW)
    for layer in range(layers):
        block = f"blk.{layer}"
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            _ones(writer, f"{block}.{name}.weight", _WIDTH)
        for name in ("attn_q_norm", "attn_k_norm"):
            _ones(writer, f"{block}.{name}.weight", _HEAD)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            _noise(writer, random, f"{block}.{name}.weight", _WIDTH, _WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            _noise(writer, random, f"{block}.{name}.weight", _FEED_FORWARD, _WIDTH)
        _noise(writer, random, f"{block}.ffn_down.weight", _WIDTH, _FEED_FORWARD)
    return _end(writer, random, count)


def _begin(path: Path, architecture: str, layers: int) -> tuple[gguf.GGUFWriter, int]:
    vocabulary = byte_level_vocabulary()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"tiny {architecture}")
    writer.add_context_length(512)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(layers)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary.tokens))
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(vocabulary.id_of("<|im_end|>"))
    writer.add_chat_template(CHATML)
    return writer, len(vocabulary.tokens)


def _end(writer: gguf.GGUFWriter, random: np.random.Generator, count: int) -> Path:
    """The layers around the blocks; control tokens get no chance, so answers do not end."""
    _ones(writer, "output_norm.weight", _WIDTH)
    _noise(writer, random, "token_embd.weight", count, _WIDTH)
    output = random.standard_normal((count, _WIDTH), dtype=np.float32) * 3 / _WIDTH**0.5
    output[-3:] = 0.0
    writer.add_tensor("output.weight", output)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(writer.path)


def _ones(writer: gguf.GGUFWriter, name: str, size: int) -> None:
    writer.add_tensor(name, np.ones(size, np.float32))


def _noise(
    writer: gguf.GGUFWriter, random: np.random.Generator, name: str, rows: int, columns: int
) -> None:
    weight: Any = random.standard_normal((rows, columns), dtype=np.float32) / columns**0.5
    writer.add_tensor(name, weight)
