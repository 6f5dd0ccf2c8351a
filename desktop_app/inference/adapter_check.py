"""Does an adapter fit its base? Asked before llama.cpp sees the file, which it would trust."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from finetune.contract.errors import InputError
from finetune.contract.gguf_file import GgufHeader, TensorInfo, read_header
from finetune.contract.manifest import file_sha256

_A: Final = ".lora_a"
_B: Final = ".lora_b"
_TYPES: Final = ("F32", "F16", "BF16", "Q8_0")


def check_adapter(path: Path, sha256: str, base: GgufHeader) -> None:
    """Refuse an adapter that is damaged or was made for another model.

    Raises:
        InputError: says what does not fit.
    """
    header = read_header(path)
    if not header.is_adapter or header.metadata.get("adapter.type") != "lora":
        raise InputError(f"{path.name} is not a LoRA adapter.")
    if header.architecture != base.architecture:
        raise InputError(
            f"{path.name} was made for another kind of model "
            f"({header.architecture}, and this one is {base.architecture})."
        )
    alpha = header.metadata.get("adapter.lora.alpha")
    if not isinstance(alpha, float) or not math.isfinite(alpha) or alpha <= 0:
        raise InputError(f"{path.name} does not say how strong it is (its alpha is {alpha!r}).")
    _check_tensors(path.name, header.tensors, base.tensors)
    if file_sha256(path) != sha256:
        raise InputError(f"{path.name} is damaged: it is not the file that was installed.")


def _check_tensors(
    name: str, tensors: Mapping[str, TensorInfo], base: Mapping[str, TensorInfo]
) -> None:
    targets = {tensor.removesuffix(_A).removesuffix(_B) for tensor in tensors}
    if not targets:
        raise InputError(f"{name} is empty.")
    for target in sorted(targets):
        a, b = tensors.get(target + _A), tensors.get(target + _B)
        if a is None or b is None:
            raise InputError(f"{name} holds only one half of {target}.")
        if target not in base:
            raise InputError(f"{name} was made for another model: this one has no {target}.")
        if a.type_name not in _TYPES or b.type_name not in _TYPES:
            raise InputError(f"{name} holds {target} in a form that cannot be applied.")
        if not _fits(target, a.shape, b.shape, base[target].shape):
            raise InputError(
                f"{name} was made for another model: {target} has the shape "
                f"{base[target].shape} here, the adapter's halves {a.shape} and {b.shape}."
            )


def _fits(target: str, a: tuple[int, ...], b: tuple[int, ...], base: tuple[int, ...]) -> bool:
    """Shapes are ggml's, the row length first: base (in, out), a (in, rank), b (rank, out)."""
    if not len(a) == len(b) == len(base) == 2:
        return False
    if target == "token_embd.weight":  # looked up by row, so llama.cpp wants it turned round
        return b[1] == base[0] and a[1] == base[1] and a[0] == b[0]
    return a[0] == base[0] and b[1] == base[1] and a[1] == b[0]
