"""The table of architectures: how ``general.architecture`` of a GGUF maps to transformers.

For each: its class, the configuration from the file's own metadata, the names of its layers, and
in what llama.cpp's converter changes weights on the way into the file: the order of query and
key rows (llama) and a one added to norms (gemma3). Another architecture is another entry.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers: nothing here needs a network
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from finetune.contract.errors import InputError
from finetune.contract.gguf_file import GgufHeader

_LLAMA: Final[Mapping[str, str]] = {
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
_HEAD_NORMS: Final[Mapping[str, str]] = {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_GEMMA3: Final[Mapping[str, str]] = {
    **_LLAMA,
    **_HEAD_NORMS,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_PHI3: Final[Mapping[str, str]] = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj",  # both, the gate first
    "ffn_down": "mlp.down_proj",
}
_GPT2: Final[Mapping[str, str]] = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_OUTER: Final[Mapping[str, str]] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_GPT2_OUTER: Final[Mapping[str, str]] = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
GEMMA3_27B_BLOCKS: Final = 62
"""llama.cpp knows the one Gemma 3 with another attention scale by its number of blocks."""
GEMMA3_PATTERN: Final = 6
"""Every so manieth layer of Gemma 3 sees everything, the others a sliding window."""


@dataclass(frozen=True)
class Architecture:
    """How one ``general.architecture`` maps to transformers."""

    model: str
    """Name of the class in transformers."""
    config: Callable[[GgufHeader], transformers.PreTrainedConfig]
    layer: Mapping[str, str]
    """Stem in GGUF (without ``blk.N.``) -> module inside a block."""
    outer: Mapping[str, str] = field(default_factory=lambda: _OUTER)
    """Stem in GGUF -> module of what is around the blocks."""
    blocks: str = "model.layers"
    permuted: frozenset[str] = frozenset()
    """Stems whose rows GGUF stores in pairs, (0, 1), where transformers wants halves."""
    norm_offset: float = 0.0
    """What GGUF's norm weights are larger by than transformers'."""

    @property
    def linear(self) -> tuple[str, ...]:
        """Stems of the linear layers of a block, which get adapters."""
        return tuple(stem for stem in self.layer if "norm" not in stem)

    @property
    def embedding(self) -> str:
        """Module path of the token table."""
        return self.outer["token_embd"]


@dataclass(frozen=True)
class Parts:
    """A loaded model's parts, whatever they are called in its class."""

    trunk: Any
    """Called with ``input_ids``; its ``last_hidden_state`` (B, T, D) has passed the last norm."""
    head: Any
    """(..., D) -> logits (..., V)."""
    blocks: str
    """Path of the list of blocks."""
    softcap: float | None
    """Logits are ``softcap * tanh(logits / softcap)``, where it is set (Gemma)."""


def parts_of(model: Any) -> Parts:
    """The parts of a transformers model for causal language modelling."""
    trunk, blocks = (
        (model.transformer, "transformer.h")
        if hasattr(model, "transformer")
        else (model.model, "model.layers")
    )
    softcap = getattr(model.config, "final_logit_softcapping", None)
    return Parts(trunk, model.lm_head, blocks, softcap)


# --- configurations --------------------------------------------------------------------------


def _need(header: GgufHeader, name: str) -> Any:
    value = header.hyperparameter(name)
    if value is None:
        raise InputError(f"The model file does not say its {name}; download it again.")
    return value


def _common(header: GgufHeader) -> dict[str, Any]:
    return {
        "vocab_size": header.tensors["token_embd.weight"].shape[1],
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": "sdpa",
    }


def _rotary(header: GgufHeader) -> dict[str, Any]:
    """What all but GPT-2 have."""
    heads = int(_need(header, "attention.head_count"))
    width = int(_need(header, "embedding_length"))
    return {
        **_common(header),
        "hidden_size": width,
        "intermediate_size": int(_need(header, "feed_forward_length")),
        "num_hidden_layers": int(_need(header, "block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(header.hyperparameter("attention.head_count_kv", heads)),
        "head_dim": int(header.hyperparameter("attention.key_length", width // heads)),
        "max_position_embeddings": int(header.hyperparameter("context_length", 2048)),
        "rms_norm_eps": float(header.hyperparameter("attention.layer_norm_rms_epsilon", 1e-6)),
        "rope_parameters": _rope(header, 10_000.0),
    }


def _rope(header: GgufHeader, usual_base: float) -> dict[str, Any]:
    base = float(header.hyperparameter("rope.freq_base", usual_base))
    kind = header.hyperparameter("rope.scaling.type", "none")
    if kind == "linear":
        factor = float(header.hyperparameter("rope.scaling.factor", 1.0))
        return {"rope_type": "linear", "rope_theta": base, "factor": factor}
    if kind not in ("none", "longrope"):  # longrope is a table in the file, for phi3
        raise InputError(f"Models with {kind} position scaling cannot be trained yet.")
    return {"rope_type": "default", "rope_theta": base}


def _llama(header: GgufHeader) -> transformers.PreTrainedConfig:
    return transformers.LlamaConfig(**_rotary(header))


def _qwen2(header: GgufHeader) -> transformers.PreTrainedConfig:
    values = _rotary(header)
    values.pop("head_dim")
    return transformers.Qwen2Config(**values)


def _qwen3(header: GgufHeader) -> transformers.PreTrainedConfig:
    return transformers.Qwen3Config(**_rotary(header))


def _gemma3(header: GgufHeader) -> transformers.PreTrainedConfig:
    values = _rotary(header)
    layers, heads = values["num_hidden_layers"], values["num_attention_heads"]
    large = layers == GEMMA3_27B_BLOCKS
    # Windowed layers have a rotary base of their own, and no scaling.
    local = float(header.hyperparameter("rope.freq_base_swa", 10_000.0))
    cap = float(header.hyperparameter("final_logit_softcapping", 0.0))
    values["rope_parameters"] = {
        "full_attention": _rope(header, 1_000_000.0),
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }
    return transformers.Gemma3TextConfig(
        **values,
        query_pre_attn_scalar=values["hidden_size"] // heads if large else values["head_dim"],
        sliding_window=int(_need(header, "attention.sliding_window")),
        layer_types=[
            "sliding_attention" if (layer + 1) % GEMMA3_PATTERN else "full_attention"
            for layer in range(layers)
        ],
        final_logit_softcapping=cap or None,
    )


def _phi3(header: GgufHeader) -> transformers.PreTrainedConfig:
    values = _rotary(header)
    head = values.pop("head_dim")
    turned = int(header.hyperparameter("rope.dimension_count", head))
    values["rope_parameters"]["partial_rotary_factor"] = turned / head
    # llama.cpp gives these models no sliding window, so the trainer gives them none.
    return transformers.Phi3Config(**values, sliding_window=None)


def _gpt2(header: GgufHeader) -> transformers.PreTrainedConfig:
    return transformers.GPT2Config(
        **_common(header),
        n_positions=header.tensors["position_embd.weight"].shape[1],
        n_embd=int(_need(header, "embedding_length")),
        n_layer=int(_need(header, "block_count")),
        n_head=int(_need(header, "attention.head_count")),
        n_inner=int(_need(header, "feed_forward_length")),
        layer_norm_epsilon=float(header.hyperparameter("attention.layer_norm_epsilon", 1e-5)),
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "llama": Architecture(
        "LlamaForCausalLM", _llama, _LLAMA, permuted=frozenset({"attn_q", "attn_k"})
    ),
    "qwen2": Architecture("Qwen2ForCausalLM", _qwen2, _LLAMA),
    "qwen3": Architecture("Qwen3ForCausalLM", _qwen3, {**_LLAMA, **_HEAD_NORMS}),
    "gemma3": Architecture("Gemma3ForCausalLM", _gemma3, _GEMMA3, norm_offset=1.0),
    "phi3": Architecture("Phi3ForCausalLM", _phi3, _PHI3),
    "gpt2": Architecture(
        "GPT2LMHeadModel", _gpt2, _GPT2, outer=_GPT2_OUTER, blocks="transformer.h"
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


# --- the empty model -------------------------------------------------------------------------


def empty_model(header: GgufHeader) -> tuple[Any, transformers.PreTrainedConfig]:
    """The model a file describes, on the device ``meta``, with linear layers only.

    Raises:
        InputError: an architecture or a configuration that cannot be trained.
    """
    architecture = architecture_of(header)
    for wanted in ("token_embd.weight", "position_embd.weight"):
        if wanted.partition(".")[0] in architecture.outer and wanted not in header.tensors:
            raise InputError(f"The model file has no {wanted}, so it cannot be trained on.")
    config = architecture.config(header)
    with torch.device("meta"):
        model: Any = getattr(transformers, architecture.model)(config)
        for path, module in list(model.named_modules()):
            if isinstance(module, Conv1D):  # a linear layer with its weights turned over
                parent, _, name = path.rpartition(".")
                rows, columns = module.nf, module.nx
                setattr(model.get_submodule(parent), name, nn.Linear(columns, rows))
    return model, config


def make_whole(
    model: Any,
    config: transformers.PreTrainedConfig,
    rope_divisors: Tensor | None,
    rope_factor: float,
) -> None:
    """Make anew, on the processor, what is computed and not loaded.

    Args:
        rope_divisors: of the rotary frequencies, (turned dimensions / 2,).
        rope_factor: on sines and cosines; phi3's longrope has one.
    """
    trunk = parts_of(model).trunk
    if hasattr(trunk, "rotary_emb"):
        rotary = type(trunk.rotary_emb)(config=config)
        if rope_divisors is not None:
            rotary.inv_freq /= rope_divisors
        if rope_factor != 1.0:
            rotary.attention_scaling = rope_factor
        trunk.rotary_emb = rotary
    for module in model.modules():
        if hasattr(module, "scalar_embed_scale"):
            module.embed_scale = torch.tensor(module.scalar_embed_scale)
