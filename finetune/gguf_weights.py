"""GGUF -> torch: the very file that is chatted with becomes the frozen trunk.

The configuration is built from the file's own metadata and the tensors are dequantised by
gguf's reference code, so that base and adapter of a run are exact on that file. What one
architecture needs is one entry of ``ARCHITECTURES``; another one is another entry.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers: nothing here needs a network
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import gguf
import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor, nn

from finetune.contract.errors import InputError
from finetune.contract.gguf_file import GgufHeader, TensorInfo, read_header

Array = npt.NDArray[Any]

_LAYER: Final[Mapping[str, str]] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER: Final[Mapping[str, str]] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LINEAR: Final = tuple(stem for stem in _LAYER if not stem.endswith("norm"))
"""The linear layers of a block, which get adapters."""


@dataclass(frozen=True)
class Architecture:
    """How one ``general.architecture`` maps to transformers."""

    model: str
    """Name of the class in transformers."""
    config: Callable[[GgufHeader], transformers.PreTrainedConfig]
    layer: Mapping[str, str]
    """Stem in GGUF (without ``blk.N.``) -> module inside ``model.layers.N``."""
    permuted: frozenset[str] = frozenset()
    """Stems whose rows GGUF stores in pairs, (0, 1), where transformers wants halves."""


# --- configurations --------------------------------------------------------------------------


def _common(header: GgufHeader) -> dict[str, Any]:
    def need(name: str) -> Any:
        value = header.hyperparameter(name)
        if value is None:
            raise InputError(f"The model file does not say its {name}; download it again.")
        return value

    heads = int(need("attention.head_count"))
    width = int(need("embedding_length"))
    vocabulary = header.tensors["token_embd.weight"].shape[1]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": int(need("feed_forward_length")),
        "num_hidden_layers": int(need("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(header.hyperparameter("attention.head_count_kv", heads)),
        "head_dim": int(header.hyperparameter("attention.key_length", width // heads)),
        "max_position_embeddings": int(header.hyperparameter("context_length", 2048)),
        "rms_norm_eps": float(header.hyperparameter("attention.layer_norm_rms_epsilon", 1e-6)),
        "rope_parameters": _rope(header),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": "sdpa",
    }


def _rope(header: GgufHeader) -> dict[str, Any]:
    base = float(header.hyperparameter("rope.freq_base", 10_000.0))
    kind = header.hyperparameter("rope.scaling.type", "none")
    if kind == "linear":
        factor = float(header.hyperparameter("rope.scaling.factor", 1.0))
        return {"rope_type": "linear", "rope_theta": base, "factor": factor}
    if kind != "none":
        raise InputError(f"Models with {kind} position scaling cannot be trained yet.")
    return {"rope_type": "default", "rope_theta": base}


def _llama(header: GgufHeader) -> transformers.PreTrainedConfig:
    return transformers.LlamaConfig(**_common(header))


def _qwen2(header: GgufHeader) -> transformers.PreTrainedConfig:
    values = _common(header)
    values.pop("head_dim")
    return transformers.Qwen2Config(**values)


def _qwen3(header: GgufHeader) -> transformers.PreTrainedConfig:
    return transformers.Qwen3Config(**_common(header))


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "llama": Architecture("LlamaForCausalLM", _llama, _LAYER, frozenset({"attn_q", "attn_k"})),
    "qwen2": Architecture("Qwen2ForCausalLM", _qwen2, _LAYER),
    "qwen3": Architecture(
        "Qwen3ForCausalLM",
        _qwen3,
        {**_LAYER, "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"},
    ),
}


def architecture_of(header: GgufHeader) -> Architecture:
    """The table's entry for a file.

    Raises:
        InputError: this architecture cannot be trained (yet), or the file is an adapter.
    """
    if header.is_adapter:
        raise InputError("This file is an adapter, not a model; choose the model it belongs to.")
    if header.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise InputError(
            f"Models of the kind {header.architecture!r} can be chatted with but not trained "
            f"yet; those that can are: {known}."
        )
    if header.hyperparameter("expert_count", 0):
        raise InputError("Models made of several experts cannot be trained yet.")
    return ARCHITECTURES[header.architecture]


# --- names and layouts -----------------------------------------------------------------------


def module_of(header: GgufHeader, tensor: str) -> str | None:
    """``blk.3.attn_q.weight`` -> ``model.layers.3.self_attn.q_proj.weight``; None if unknown."""
    stem, _, kind = tensor.rpartition(".")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{kind}"
    parts = stem.split(".")
    layer = architecture_of(header).layer
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in layer:
        return f"model.layers.{parts[1]}.{layer[parts[2]]}.{kind}"
    return None


def linear_stems(header: GgufHeader) -> dict[str, str]:
    """Module path -> GGUF stem of every linear layer inside the blocks, in the file's order."""
    found: dict[str, str] = {}
    for name in header.tensors:
        stem, _, kind = name.rpartition(".")
        if kind == "weight" and stem.startswith("blk.") and stem.split(".")[-1] in LINEAR:
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
    """A tensor as float32, in numpy's order of dimensions."""
    kind = gguf.GGMLQuantizationType[info.type_name]
    try:
        values: Array = gguf.quants.dequantize(raw_tensor(path, info), kind)
    except NotImplementedError:
        raise InputError(
            f"{path.name} is stored as {info.type_name}, which cannot be trained on; "
            "choose another quantisation of the model."
        ) from None
    return values.reshape(info.shape[::-1])


def _weights(path: Path, header: GgufHeader, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for name, info in header.tensors.items():
        module = module_of(header, name)
        if module is None:
            if name == "rope_freqs.weight":
                continue  # applied to the rotary table by load_trunk
            raise InputError(f"{path.name} has a tensor {name} that cannot be trained with yet.")
        values = rows_from_gguf(header, name.rpartition(".")[0], dequantised(path, info))
        # A copy in torch's own memory: its alignment, and so every last bit of a result, is the
        # same in each process.
        yield module, torch.tensor(values, dtype=dtype)


def load_trunk(
    path: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> nn.Module:
    """The GGUF as a frozen transformers model in evaluation mode.

    Raises:
        InputError: an architecture or a storage type that cannot be trained on.
    """
    header = read_header(path)
    architecture = architecture_of(header)
    if "token_embd.weight" not in header.tensors:
        raise InputError(f"{path.name} has no token table, so it cannot be trained on.")
    config = architecture.config(header)
    with torch.device("meta"):
        model: Any = getattr(transformers, architecture.model)(config)
    state = dict(_weights(path, header, dtype))
    tied = "lm_head.weight" not in state
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    wanted = set(model.state_dict())
    if wanted != set(state):
        odd = sorted(wanted ^ set(state))[0]
        raise InputError(f"{path.name} does not fit its architecture ({odd}).")
    model.load_state_dict(state, assign=True)
    if tied:
        model.tie_weights()
    # Built on "meta" above, where its table has no values.
    rotary = type(model.model.rotary_emb)(config=config)
    if "rope_freqs.weight" in header.tensors:
        factors = dequantised(path, header.tensors["rope_freqs.weight"])
        rotary.inv_freq /= torch.from_numpy(factors.astype(np.float32))
    model.model.rotary_emb = rotary
    trunk: nn.Module = model.requires_grad_(False).to(device).eval()
    return trunk


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
