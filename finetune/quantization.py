"""Which type each tensor of a merged model gets: the mixtures that llama.cpp's quantiser makes.

"Q4_K_M" is no type of a tensor but a mixture: tensors that suffer more from rounding get more
bits. Written after llama.cpp's src/llama-quant.cpp (``llama_tensor_get_type``) and compared in
the tests with what ``llama_model_quantize`` of the installed llama.cpp chooses. "BASE" keeps each
tensor as the base has it, but for those that change and whose type can only be read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import llama_cpp

from finetune import ggml
from finetune.contract.errors import InputError
from finetune.contract.gguf_file import GgufHeader, TensorInfo
from finetune.contract.recipe import Quantization

FTYPES: Final[Mapping[Quantization, int]] = {
    "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q5_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}
"""Mixture -> the number that stands in a file's ``general.file_type``."""

_PLAIN: Final[Mapping[Quantization, str]] = {
    "F16": "F16", "Q8_0": "Q8_0", "Q6_K": "Q6_K", "Q5_K_M": "Q5_K", "Q4_K_M": "Q4_K",
}  # fmt: skip
_SHORTER: Final[Mapping[str, str]] = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""For rows that are no multiple of 256: a type with blocks of 32 that is no worse."""
_ATTENTION_VALUES: Final = ("attn_v", "attn_qkv")
_ALWAYS_AS_THEY_ARE: Final = ("position_embd", "token_types", "ffn_gate_inp", "rel_pos")


def require_quantization(name: str) -> Quantization:
    """The name if it is one of ours.

    Raises:
        InputError: it is not.
    """
    for known in ("BASE", *FTYPES):
        if name.upper() == known:
            return known
    raise InputError(f"{name!r} is no quantisation; choose one of BASE, {', '.join(FTYPES)}.")


def tensor_types(
    base: GgufHeader, wanted: Quantization, changed: Collection[str] = ()
) -> dict[str, str]:
    """Tensor name -> type name in the merged file, for every tensor of ``base``.

    ``changed``: the tensors that get an update, and so are written anew even in their own type.

    Raises:
        InputError: one that is written anew cannot be read.
    """
    if wanted == "BASE":
        chosen = {name: info.type_name for name, info in base.tensors.items()}
    else:
        chosen = _mixture(base, wanted)
    for name, info in base.tensors.items():
        if name not in changed and chosen[name] == info.type_name:
            continue
        if not ggml.is_readable(info.type_name):
            raise InputError(
                f"The base is stored as {info.type_name}, which cannot be merged; choose another "
                "quantisation of it."
            )
        if chosen[name] not in ggml.WRITABLE:
            chosen[name] = _fitting("Q4_K", info.shape[0])
    return chosen


def note_on(base: GgufHeader, wanted: Quantization, changed: Collection[str]) -> str | None:
    """What a person should know of the merged file before it is made.

    Raises:
        InputError: it cannot be made at all.
    """
    tensor_types(base, wanted, changed)
    only_read = {base.tensors[name].type_name for name in changed} - {*ggml.WRITABLE}
    if wanted != "BASE" or not only_read:
        return None
    return (
        f"The merged model will be larger than its base, because {' and '.join(sorted(only_read))} "
        "can be read but not written."
    )


def _mixture(base: GgufHeader, wanted: Quantization) -> dict[str, str]:
    layers = int(base.hyperparameter("block_count", 0))
    tied = "output.weight" not in base.tensors
    values = sum(name.endswith(f"{v}.weight") for name in base.tensors for v in _ATTENTION_VALUES)
    chosen: dict[str, str] = {}
    for name, info in base.tensors.items():
        if not _is_quantised(name, info):
            chosen[name] = info.type_name
            continue
        kind = _PLAIN[wanted]
        if wanted != "F16":
            kind = _fitting(_mixed(name, info, wanted, layers, values, tied), info.shape[0])
        chosen[name] = kind
    return chosen


def _is_quantised(name: str, info: TensorInfo) -> bool:
    """Matrices are; norms, biases and tables of positions stay as they are."""
    matrix = any(length > 1 for length in info.shape[1:])
    stem = name.removesuffix(".weight")
    return (
        matrix
        and name.endswith(".weight")
        and not stem.endswith("_norm")
        and not any(word in stem for word in _ALWAYS_AS_THEY_ARE)
    )


def _mixed(
    name: str, info: TensorInfo, wanted: Quantization, layers: int, values: int, tied: bool
) -> str:
    """The type the mixture wants, whatever the length of a row."""
    kind = _PLAIN[wanted]
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        if info.shape[0] % ggml.block_length(kind):
            return "Q8_0"
        return kind if kind == "Q8_0" else "Q6_K"
    parts = name.split(".")
    if wanted not in ("Q4_K_M", "Q5_K_M") or parts[0] != "blk":
        return kind
    layer, part = int(parts[1]), parts[2]
    if part in _ATTENTION_VALUES and _deserves_more(layer, values):
        return "Q6_K"
    if part == "ffn_down" and _deserves_more(layer, layers):
        return "Q6_K"
    return kind


def _deserves_more(layer: int, layers: int) -> bool:
    """The first and last eighth, and every third layer between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _fitting(kind: str, columns: int) -> str:
    if columns % ggml.block_length(kind) == 0:
        return kind
    shorter = _SHORTER.get(kind, kind)
    return shorter if columns % ggml.block_length(shorter) == 0 else "F16"
