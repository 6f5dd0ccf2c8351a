"""A Hugging Face folder as the source of weights: config.json and safetensors, nothing else.

Tokenizer, template and metadata come from a GGUF of the same model, and so does the shape of the
network: the folder has to agree with it. Pickled ``.bin`` files can run a stranger's code when
they are opened and are never read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from torch import Tensor, nn

from finetune.contract.errors import InputError
from finetune.contract.gguf_file import GgufHeader

MODEL_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "llama": ("llama", "mistral"),
    "qwen2": ("qwen2",),
    "qwen3": ("qwen3",),
    "gemma3": ("gemma3_text", "gemma3"),
    "phi3": ("phi3",),
    "gpt2": ("gpt2",),
}
"""``general.architecture`` -> ``model_type`` of config.json."""
PREFIXES: Final = ("language_model.model.", "model.language_model.", "language_model.")
"""Before the names of a text model inside one that sees, too (Gemma 3 from 4B on)."""
SAME_TOKENS: Final = 0.9
"""Share of tokenizer.json's entries the GGUF must have under the same ids; some converters
rename a few special ones."""
OTHER_SENSES: Final = ("vision_tower.", "multi_modal_projector.")
GPT2_MASKS: Final = (".attn.bias", ".attn.masked_bias")
"""Constants that old checkpoints of GPT-2 carry along."""


def check_folder(folder: Path, header: GgufHeader) -> list[Path]:
    """The folder's weight files, after a look at its config.json and at its tensor table.

    Raises:
        InputError: it is no such folder, or one of another kind of model.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = str(config["model_type"])
    except FileNotFoundError:
        raise InputError(f"There is no config.json in {folder}, so it holds no model.") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"The file config.json in {folder} is damaged.") from None
    if kind not in MODEL_TYPES.get(header.architecture, ()):
        raise InputError(
            f"The weights in {folder.name} are of the kind {kind!r} and the GGUF is of the kind "
            f"{header.architecture!r}; choose a GGUF of the same model."
        )
    _check_vocabulary(folder, header)
    files = _weight_files(folder)
    if not files:
        raise InputError(
            f"There are no safetensors files in {folder}; other formats are not opened, because "
            "they can run code."
        )
    return files


def _check_vocabulary(folder: Path, header: GgufHeader) -> None:
    """Compare tokens and ids with tokenizer.json, where the folder has one."""
    path = folder / "tokenizer.json"
    tokens = header.metadata.get("tokenizer.ggml.tokens", [])
    if not path.is_file():
        return
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"The file tokenizer.json in {folder} is damaged.") from None
    if not isinstance(entries, dict) or not entries:
        return  # a unigram tokenizer lists its pieces another way
    same = sum(
        1 for token, place in entries.items() if place < len(tokens) and tokens[place] == token
    )
    if same < SAME_TOKENS * len(entries):
        raise InputError(
            f"The weights in {folder.name} have another vocabulary than the GGUF; choose a GGUF "
            "of the same model."
        )


def _weight_files(folder: Path) -> list[Path]:
    """By the index where there is one: a folder may hold the weights twice."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError):
            raise InputError(f"The file {index.name} in {folder} is damaged.") from None
        files = [folder / Path(str(name)).name for name in sorted(names)]
        for file in files:
            if not file.is_file():
                raise InputError(f"The file {file.name} is missing in {folder}; download it again.")
        return files
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def folder_weights(
    folder: Path, header: GgufHeader, model: nn.Module, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Names in ``model`` (empty, of the GGUF's shape) and weights, one at a time.

    Raises:
        InputError: the folder does not agree with the GGUF.
    """
    wanted = model.state_dict()
    tied = "output.weight" not in header.tensors
    for file in check_folder(folder, header):
        try:
            with safetensors.safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():
                    module = _module(name, wanted)
                    if module is None or (tied and module == "lm_head.weight"):
                        continue
                    values = tensors.get_tensor(name)
                    yield module, _fitted(folder, module, values, wanted[module]).to(device, dtype)
        except safetensors.SafetensorError as error:
            raise InputError(f"{file.name} in {folder} is damaged; download it again.") from error


def _module(name: str, wanted: Mapping[str, Any]) -> str | None:
    """The name in transformers' text model; None for what a text model has no use for.

    Raises:
        InputError: nothing in the model is called so.
    """
    if name.endswith(GPT2_MASKS) or any(sense in name for sense in OTHER_SENSES):
        return None
    for prefix in PREFIXES:
        if name.startswith(prefix):
            name = "model." + name.removeprefix(prefix)
            break
    name = name.replace("model.lm_head.", "lm_head.")
    for candidate in (name, f"transformer.{name}", f"model.{name}"):
        if candidate in wanted:
            return candidate
    raise InputError(f"The folder's tensor {name} is not in the GGUF's model; they do not belong "
                     "together.")  # fmt: skip


def _fitted(folder: Path, module: str, values: Tensor, place: Tensor) -> Tensor:
    """``values`` in the layout of ``place``; GPT-2's matrices are stored turned over."""
    turned = module.startswith("transformer.h.") and values.dim() == 2
    if turned:
        values = values.T.contiguous()
    if values.shape != place.shape:
        theirs, ours = ("x".join(map(str, each.shape)) for each in (values, place))
        raise InputError(
            f"The weights in {folder.name} do not fit the GGUF: {module} is {theirs} there and "
            f"{ours} in the GGUF."
        )
    return values
