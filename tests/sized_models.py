"""Random models with the shapes of real ones: 30M, 0.5B and 1.5B parameters.

Their weights are noise, written as raw Q8_0 blocks in a few seconds, so they answer nonsense;
what they cost in memory and time is what real models of these shapes cost. The vocabulary is
the tiny one of ``tiny_models``, filled up with tokens that no text is cut into.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import gguf
import llama_cpp
import numpy as np

from finetune.contract.chat_template import CHATML
from tests.tiny_models import (
    NORMAL,
    TinyShape,
    TinyVocabulary,
    byte_level_vocabulary,
    linear_shapes,
)


@dataclass(frozen=True)
class Size:
    """A model's measures and how many tokens it knows."""

    shape: TinyShape
    vocabulary: int


SIZE_30M: Final = Size(TinyShape(512, 8, 8, 4, 1408, 4096), 16_384)
"""28 million weights, in the proportions of a small Llama."""
SIZE_500M: Final = Size(TinyShape(896, 24, 14, 2, 4864, 32_768), 151_936)
"""494 million: the shape of Qwen2.5-0.5B."""
SIZE_1500M: Final = Size(TinyShape(1536, 28, 12, 2, 8960, 32_768), 151_936)
"""1.54 billion: the shape of Qwen2.5-1.5B."""


def write_sized_model(path: Path, size: Size, seed: int = 0) -> Path:
    """Write a random model in Q8_0; its embedding is its output layer, too."""
    shape = size.shape
    vocabulary = _vocabulary(size.vocabulary)
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_vocab_size(size.vocabulary)
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(vocabulary.id_of("<|im_end|>"))
    writer.add_chat_template(CHATML)

    matrices = {"token_embd.weight": (size.vocabulary, shape.width), **linear_shapes(shape)}
    norms = [f"blk.{layer}.{name}.weight" for layer in range(shape.layers)
             for name in ("attn_norm", "ffn_norm")]  # fmt: skip
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, (rows, columns) in matrices.items():
        bytes_ = columns // 32 * 34
        writer.add_tensor_info(
            name, [rows, bytes_], np.dtype(np.uint8), rows * bytes_, raw_dtype=kind
        )
    for name in (*norms, "output_norm.weight"):
        writer.add_tensor_info(name, [shape.width], np.dtype(np.float32), shape.width * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for rows, columns in matrices.values():
        writer.write_tensor_data(_noise(random, rows, columns))
    for _ in (*norms, "output_norm.weight"):
        writer.write_tensor_data(np.ones(shape.width, dtype=np.float32))
    writer.close()
    return path


def quantize(
    source: Path, target: Path, file_type: int = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
) -> Path:
    """The same model with smaller weights, by llama.cpp's own hand."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.allow_requantize = True
    params.nthread = 2
    failed = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    assert not failed, f"llama.cpp could not quantize {source.name}"
    return target


def _noise(random: np.random.Generator, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """(rows, bytes of a row): blocks of a scale in F16 and 32 weights in I8 (ggml's Q8_0)."""
    blocks = np.empty((rows * columns // 32, 34), dtype=np.uint8)
    blocks[:, 2:] = np.frombuffer(random.bytes(rows * columns), dtype=np.uint8).reshape(-1, 32)
    spread = 128 / 3**0.5  # of bytes read as signed numbers
    scale = np.array([1 / (spread * columns**0.5)], dtype=np.float16)
    blocks[:, :2] = scale.view(np.uint8)
    return blocks.reshape(rows, columns // 32 * 34)


def _vocabulary(size: int) -> TinyVocabulary:
    tiny = byte_level_vocabulary()
    fillers = [f"<filler{number}>" for number in range(size - len(tiny.tokens))]
    return replace(
        tiny,
        tokens=(*tiny.tokens, *fillers),
        types=(*tiny.types, *(NORMAL for _ in fillers)),
    )
