"""GGUF -> torch: the very file that is chatted with becomes the frozen trunk.

The configuration is built from the file's own metadata and the tensors are dequantised as
llama.cpp does it, so that base and adapter of a run are exact on that file. There are two ways
to hold it: *dense*, all weights as wide numbers, and in *blocks*, where every matrix stays as the
file stores it and is dequantised for each use. What differs from one architecture to another is
in ``architectures``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import gguf
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from finetune.architectures import architecture_of, empty_model, make_whole
from finetune.contract.errors import InputError
from finetune.contract.gguf_file import GgufHeader, TensorInfo, read_header
from finetune.dequantize import BLOCKS, KINDS, dequantize
from finetune.hf_folder import folder_weights
from finetune.quantized_linear import QuantizedEmbedding, QuantizedLinear

Array = npt.NDArray[Any]
Held = Literal["dense", "blocks"]
"""How the trunk's matrices lie in the device's memory."""

ROPE_TABLES: Final = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
"""Divisors of the rotary frequencies. Of phi3's two the short one counts up to the context of its
first training: rows of a training are shorter, and the app opens no more cells than that."""

# --- names and layouts -----------------------------------------------------------------------


def module_of(header: GgufHeader, tensor: str) -> str | None:
    """``blk.3.attn_q.weight`` -> ``model.layers.3.self_attn.q_proj.weight``; None if unknown."""
    architecture = architecture_of(header)
    stem, _, kind = tensor.rpartition(".")
    if stem in architecture.outer:
        return f"{architecture.outer[stem]}.{kind}"
    parts = stem.split(".")
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in architecture.layer:
        return f"{architecture.blocks}.{parts[1]}.{architecture.layer[parts[2]]}.{kind}"
    return None


def linear_stems(header: GgufHeader) -> dict[str, str]:
    """Module path -> GGUF stem of every linear layer inside the blocks, in the file's order."""
    linear = architecture_of(header).linear
    found: dict[str, str] = {}
    for name in header.tensors:
        stem, _, kind = name.rpartition(".")
        if kind == "weight" and stem.startswith("blk.") and stem.split(".")[-1] in linear:
            module = module_of(header, name)
            assert module is not None
            found[module.removesuffix(".weight")] = stem
    return found


def _heads_of(header: GgufHeader, stem: str) -> int:
    """How many groups of rows are permuted each for itself; 0 where none is."""
    kind = stem.split(".")[-1]
    if kind not in architecture_of(header).permuted:
        return 0
    heads = int(header.hyperparameter("attention.head_count"))
    if kind == "attn_k":
        heads = int(header.hyperparameter("attention.head_count_kv", heads))
    return heads


def rows_from_gguf(header: GgufHeader, stem: str, rows: Array) -> Array:
    """Undo GGUF's order of query and key rows. ``rows``: (out, ...)."""
    heads = _heads_of(header, stem)
    if not heads:
        return rows
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def rows_to_gguf(header: GgufHeader, stem: str, rows: Array) -> Array:
    """Put query and key rows into GGUF's order. ``rows``: (out, ...)."""
    heads = _heads_of(header, stem)
    if not heads:
        return rows
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


# --- tensors ---------------------------------------------------------------------------------


def raw_tensor(path: Path, info: TensorInfo) -> Array:
    """The bytes of a tensor as stored, (rows..., bytes of a row), mapped and not copied."""
    outer = info.shape[:0:-1]
    row_bytes = info.size
    for length in outer:
        row_bytes //= length
    return np.memmap(path, np.uint8, "r", info.offset, (*outer, row_bytes))


def dequantised(path: Path, info: TensorInfo) -> Array:
    """A tensor as float32, in numpy's order of dimensions.

    Raises:
        InputError: a kind of blocks nobody can dequantise.
    """
    if info.type_name in KINDS:
        stored = _tensor(raw_tensor(path, info))
        numbers: Array = dequantize(stored, info.type_name).numpy()
        return numbers
    try:
        kind = gguf.GGMLQuantizationType[info.type_name]
        values: Array = gguf.quants.dequantize(raw_tensor(path, info), kind)
    except NotImplementedError:
        raise InputError(
            f"{path.name} is stored as {info.type_name}, which cannot be trained on; "
            "choose another quantisation of the model."
        ) from None
    return values.reshape(info.shape[::-1])


def _tensor(values: Array) -> Tensor:
    """A copy in torch's own memory: its alignment, and so every last bit of a result, is the
    same in each process."""
    return torch.tensor(values)


@dataclass(frozen=True)
class Blocks:
    """A matrix as the file stores it: rows (out, bytes of a row) uint8, and the kind of blocks."""

    rows: Tensor
    kind: str


def _weights(
    path: Path, header: GgufHeader, dtype: torch.dtype, device: torch.device, held: Held
) -> Iterator[tuple[str, Tensor | Blocks]]:
    offset = architecture_of(header).norm_offset
    matrices = {f"{stem}.weight" for stem in linear_stems(header).values()}
    matrices |= {"token_embd.weight", "output.weight"}
    for name, info in header.tensors.items():
        module = module_of(header, name)
        if module is None:
            if name in ROPE_TABLES:
                continue  # applied to the rotary table by load_trunk
            raise InputError(f"{path.name} has a tensor {name} that cannot be trained with yet.")
        stem = name.rpartition(".")[0]
        if name not in matrices or info.type_name not in KINDS:
            values = rows_from_gguf(header, stem, dequantised(path, info))
            if offset and stem.endswith("norm"):
                values = values - np.float32(offset)
            yield module, _tensor(values).to(device, dtype)
            continue
        # Rows of blocks are put in order as they are, and dequantised where they are used.
        stored = _tensor(rows_from_gguf(header, stem, raw_tensor(path, info))).to(device)
        if held == "blocks" and stays_in_blocks(info, dtype):
            yield module, Blocks(stored, info.type_name)
        else:
            yield module, dequantize(stored, info.type_name, dtype)


def stays_in_blocks(info: TensorInfo, dtype: torch.dtype) -> bool:
    """Whether a matrix is smaller as it is stored than in ``dtype``; only then is it worth it."""
    numbers, size = BLOCKS[info.type_name]
    return info.type_name in KINDS and size < numbers * dtype.itemsize


# --- the trunk -------------------------------------------------------------------------------


def load_trunk(
    path: Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    *,
    held: Held = "dense",
    weights: Path | None = None,
    blocks: int | None = None,
) -> nn.Module:
    """The GGUF as a frozen transformers model in evaluation mode.

    Args:
        dtype: of activations, and of weights held dense.
        held: "blocks" keeps matrices quantised in the device's memory.
        weights: a Hugging Face folder of the same model; its weights are taken and nothing else.
        blocks: only so many of the model's blocks: for measurements.

    Raises:
        InputError: an architecture, a storage type or a folder that cannot be trained on.
    """
    device = torch.device(device)
    header = read_header(path)
    if blocks is not None:
        header = _shortened(header, blocks)
    model, config = empty_model(header)
    name = path.name
    found: Iterator[tuple[str, Tensor | Blocks]]
    if weights is None:
        found = _weights(path, header, dtype, device, held)
    else:
        name = weights.name
        found = folder_weights(weights, header, model, dtype, device)
    _fill(model, found, architecture_of(header).embedding, dtype, name)
    loudness = float(header.hyperparameter("rope.scaling.attn_factor", 1.0))
    make_whole(model, config, _rope_divisors(path, header), loudness)
    trunk: nn.Module = model.requires_grad_(False).to(device).eval()
    return trunk


def _shortened(header: GgufHeader, blocks: int) -> GgufHeader:
    """The header of the same model, had it only so many blocks."""
    kept = {
        name: info
        for name, info in header.tensors.items()
        if not name.startswith("blk.") or int(name.split(".")[1]) < blocks
    }
    metadata = {**header.metadata, f"{header.architecture}.block_count": blocks}
    return replace(header, metadata=metadata, tensors=kept)


def _fill(
    model: Any,
    weights: Iterable[tuple[str, Tensor | Blocks]],
    embedding: str,
    dtype: torch.dtype,
    name: str,
) -> None:
    """Give an empty model its weights; matrices in blocks take the place of dense layers."""
    wanted = set(model.state_dict())
    state: dict[str, Tensor] = {}
    blocks: dict[str, Blocks] = {}
    for key, found in weights:
        if isinstance(found, Blocks):
            blocks[key] = found
        else:
            state[key] = found
    head, table = "lm_head.weight", f"{embedding}.weight"
    tied = head not in state and head not in blocks
    if tied and table in blocks:
        blocks[head] = blocks[table]
    elif tied and table in state:
        state[head] = state[table]
    if wanted != set(state) | set(blocks):
        odd = sorted(wanted ^ (set(state) | set(blocks)))[0]
        raise InputError(f"{name} does not fit its architecture ({odd}).")
    for key, found in blocks.items():
        path = key.removesuffix(".weight")
        parent, _, last = path.rpartition(".")
        layer = model.get_submodule(path)
        put: nn.Module
        if path == embedding:
            scale = getattr(layer, "scalar_embed_scale", 1.0)
            put = QuantizedEmbedding(found.rows, found.kind, dtype, scale)
        else:
            put = QuantizedLinear(found.rows, found.kind, dtype, layer.bias)
        setattr(model.get_submodule(parent), last, put)
    model.load_state_dict(state, assign=True)
    if tied and table in state:
        model.tie_weights()


def _rope_divisors(path: Path, header: GgufHeader) -> Tensor | None:
    """What the file divides the rotary frequencies by, (head_dim / 2,); None where by nothing."""
    for name in ROPE_TABLES[:2]:
        if name in header.tensors:
            return _tensor(dequantised(path, header.tensors[name]))
    return None


# --- adapters --------------------------------------------------------------------------------

LoraWeights = Mapping[str, tuple[Tensor, Tensor]]
"""Module path -> A (rank, in) and B (out, rank), the scale already in B, float32."""


def read_adapter(path: Path, base: GgufHeader) -> dict[str, tuple[Tensor, Tensor]]:
    """The adapter of a GGUF file, for the modules of ``base``.

    Raises:
        InputError: it is no LoRA adapter, or one for another model.
    """
    header = read_header(path)
    if not header.is_adapter or header.metadata.get("adapter.type") != "lora":
        raise InputError(f"{path.name} is not a LoRA adapter.")
    alpha = float(header.metadata.get("adapter.lora.alpha", 0.0))
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for module, stem in linear_stems(base).items():
        info_a = header.tensors.get(f"{stem}.weight.lora_a")
        info_b = header.tensors.get(f"{stem}.weight.lora_b")
        if info_a is None or info_b is None:
            continue
        wide = base.tensors[f"{stem}.weight"].shape
        if (info_a.shape[0], info_b.shape[1]) != wide:
            raise InputError(f"{path.name} is an adapter for another model.")
        a = dequantised(path, info_a).astype(np.float32)
        b = rows_from_gguf(base, stem, dequantised(path, info_b)).astype(np.float32)
        scale = alpha / a.shape[0] if alpha else 1.0
        found[module] = (torch.from_numpy(a).clone(), torch.from_numpy(b * scale).clone())
    if not found:
        raise InputError(f"{path.name} is an adapter for another model.")
    return found
