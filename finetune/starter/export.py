"""torch to GGUF: the starter model as a file that llama.cpp loads. Our own writer.

Names and permutation follow llama.cpp's ``llama`` architecture: its rotary embedding turns
neighbouring pairs, the checkpoint's turns halves, so query and key rows are re-ordered. The output
head is the embedding (no ``output.weight``). Norms stay float32; matrices become Q8_0.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from torch import Tensor

from finetune.contract.chat_template import CHATML
from finetune.starter.corpus import SOURCES
from finetune.starter.model import ModelShape, StarterModel
from finetune.starter.tokenizer import CONTROL_TOKENS, END_OF_TEXT, TURN_END

NAME = "Attune Starter"
LICENCE = "cc-by-sa-4.0"

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    """``layers.3.mlp.up_proj.weight`` to ``blk.3.ffn_up.weight``."""
    fixed = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
    if name in fixed:
        return fixed[name]
    _, number, rest = name.split(".", 2)
    return f"blk.{number}.{_NAMES[rest.removesuffix('.weight')]}.weight"


def pairs_from_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix, from rotary halves to neighbouring pairs."""
    rows, columns = weight.shape
    split = weight.view(heads, 2, rows // heads // 2, columns)
    return split.transpose(1, 2).reshape(rows, columns)


def write_gguf(
    path: Path,
    model: StarterModel,
    tokenizer: Tokenizer,
    matrices: Literal["F32", "Q8_0"] = "Q8_0",
    card: str = "",
) -> None:
    """Write the whole file beside ``path`` and move it in, with the model's ``card`` in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(str(beside), "llama")
    _add_description(writer, sum(parameter.numel() for parameter in model.parameters()), card)
    _add_shape(writer, model.shape, matrices)
    _add_tokenizer(writer, tokenizer)
    kind = gguf.GGMLQuantizationType[matrices]
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = pairs_from_halves(weight, model.shape.heads)
        values: npt.NDArray[np.float32] = weight.contiguous().numpy()
        if values.ndim == 1 or matrices == "F32":
            writer.add_tensor(gguf_name(name), values)
        else:
            quantized = gguf.quants.quantize(values, kind)
            writer.add_tensor(gguf_name(name), quantized, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)


def _add_description(writer: gguf.GGUFWriter, weights: int, card: str) -> None:
    sources = "; ".join(f"{s.origin} ({s.licence})" for s in SOURCES)
    writer.add_type("model")
    writer.add_name(NAME)
    writer.add_author("The Attune project")
    writer.add_size_label(f"{weights / 1e6:.1f}M")
    writer.add_license(LICENCE)
    writer.add_license_name("Creative Commons Attribution-ShareAlike 4.0")
    writer.add_license_link("https://creativecommons.org/licenses/by-sa/4.0/")
    writer.add_languages(["en", "ko"])
    writer.add_tags(["chat", "from-scratch", "small"])
    writer.add_description(
        "A very small bilingual chat model, trained from scratch. It chats; it knows little."
    )
    writer.add_string(
        "general.attribution", f"Trained on: {sources}; conversations by the Attune project."
    )
    if card:
        writer.add_string("attune.starter_card", card)


def _add_shape(writer: gguf.GGUFWriter, shape: ModelShape, matrices: str) -> None:
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_vocab_size(shape.vocabulary)
    file_type = gguf.LlamaFileType.ALL_F32 if matrices == "F32" else gguf.LlamaFileType.MOSTLY_Q8_0
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Tokens with their kinds, merges, and what ends a turn."""
    pieces = [tokenizer.id_to_token(index) or "" for index in range(tokenizer.get_vocab_size())]
    kinds = [
        gguf.TokenType.CONTROL if piece in CONTROL_TOKENS else gguf.TokenType.NORMAL
        for piece in pieces
    ]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(TURN_END)
    writer.add_eot_token_id(TURN_END)
    writer.add_pad_token_id(END_OF_TEXT)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
