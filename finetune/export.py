"""torch -> GGUF: the adapter, the merged model, the reward model, and the proof that they hold.

The adapter is exact on the file that was trained on. The merged model is the same file with the
update added tensor by tensor, so that metadata, tokenizer and template are carried over as they
are, and is then quantised by llama.cpp. What llama.cpp makes of the files is compared with what
torch computed before anything is offered.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finetune.contract.errors import InputError
from finetune.contract.gguf_file import GgufHeader, read_header
from finetune.contract.recipe import Quantization
from finetune.gguf_weights import LoraWeights, dequantised, linear_stems, rows_to_gguf
from finetune.parity import LlamaCppFailed, Question, ask_in_child
from finetune.policy import Policy, pad_batch
from finetune.vocabulary import GgufVocabulary, quiet_llama_cpp

log = logging.getLogger(__name__)

FTYPES: Final[Mapping[Quantization, int]] = {
    "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q5_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}
K_QUANT_ROW: Final = 256
TEXTS: Final = (
    "Once upon a time, there was a little girl.",
    "안녕하세요! 오늘은 무엇을 도와드릴까요?",
    "Naïve café, 3.14159 and <|im_end|> as text 🙂👩‍🚀\n\n\tdone.",
)
"""Tokenised and scored by both sides: English, Korean, and what breaks tokenizers."""

MAX_KL: Final[Mapping[str, float]] = {
    "F32": 1e-3, "F16": 1e-3, "Q8_0": 0.02, "Q6_K": 0.05, "Q5_K_M": 0.1, "Q4_K_M": 0.25,
}  # fmt: skip
"""Mean nats per token between torch's and llama.cpp's distributions that quantised weights and
activations may cost; a wrong permutation or scale costs whole nats."""


class ExportFailed(Exception):
    """What was written is not what was trained; the text is for a person."""


# --- adapters --------------------------------------------------------------------------------


def write_adapter(
    path: Path, base: GgufHeader, weights: LoraWeights, metadata: Mapping[str, Any]
) -> None:
    """A LoRA adapter as llama.cpp loads it, in float32: exact.

    ``weights``: module path -> A and B, with the scale in B; alpha equals the rank, so that
    llama.cpp's alpha / rank is 1.
    """
    rank = next(iter(weights.values()))[0].shape[0]
    writer = gguf.GGUFWriter(path, base.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    _add_metadata(writer, metadata)
    stems = linear_stems(base)
    for module, (a, b) in weights.items():
        stem = stems[module]
        writer.add_tensor(f"{stem}.weight.lora_a", _numpy(a))
        rows = np.ascontiguousarray(rows_to_gguf(base, stem, _numpy(b)))
        writer.add_tensor(f"{stem}.weight.lora_b", rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def reward_metadata(weight: Tensor, bias: Tensor, uncertainty: float) -> dict[str, Any]:
    """The reward heads as metadata: llama.cpp refuses adapters with other tensors in them.

    ``weight`` (M, D) row by row and ``bias`` (M,), standardised: over samples of the reference
    the mean score is 0 and its standard deviation 1.
    """
    return {
        "reward.heads": int(weight.shape[0]),
        "reward.head.weight": [float(x) for x in weight.detach().cpu().flatten()],
        "reward.head.bias": [float(x) for x in bias.detach().cpu()],
        "reward.mean": 0.0,
        "reward.std": 1.0,
        "reward.uncertainty": uncertainty,
    }


def _add_metadata(writer: gguf.GGUFWriter, metadata: Mapping[str, Any]) -> None:
    for name, value in metadata.items():
        key = f"attune.{name}"
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_array(key, value)


# --- the merged model ------------------------------------------------------------------------


def possible_quantization(base: GgufHeader, wanted: Quantization) -> Quantization:
    """``wanted``, or Q8_0 where a row's length forbids blocks of 256."""
    if not wanted.endswith(("_K", "_K_M")):
        return wanted
    rows = [base.tensors[f"{stem}.weight"].shape[0] for stem in linear_stems(base).values()]
    return "Q8_0" if any(length % K_QUANT_ROW for length in rows) else wanted


def write_merged(
    path: Path,
    base_path: Path,
    weights: LoraWeights,
    quantization: Quantization,
    metadata: Mapping[str, Any],
) -> None:
    """The base with the update added, quantised; one tensor in memory at a time.

    Raises:
        ExportFailed: llama.cpp could not quantise it.
        OSError: the disk is full.
    """
    base = read_header(base_path)
    wide = path.with_name(f".{path.name}.wide.partial")
    numbers = sum(_elements(info.shape) for info in base.tensors.values())
    # Half precision for what would need gigabytes; llama.cpp quantises from either.
    kind = np.dtype(np.float32) if numbers < 500_000_000 else np.dtype(np.float16)
    _require_space(path.parent, numbers * (kind.itemsize + 2))
    try:
        _write_wide(wide, base_path, base, weights, kind, metadata)
        _quantise(wide, path, quantization)
    finally:
        wide.unlink(missing_ok=True)


def _write_wide(
    path: Path,
    base_path: Path,
    base: GgufHeader,
    weights: LoraWeights,
    kind: np.dtype[Any],
    metadata: Mapping[str, Any],
) -> None:
    writer = gguf.GGUFWriter(path, base.architecture)
    _carry_over(writer, base_path)
    _add_metadata(writer, metadata)
    dtypes: dict[str, np.dtype[Any]] = {}
    for name, info in base.tensors.items():
        dtypes[name] = kind if len(info.shape) > 1 else np.dtype(np.float32)
        size = _elements(info.shape) * dtypes[name].itemsize
        writer.add_tensor_info(name, info.shape[::-1], dtypes[name], size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    modules = {f"{stem}.weight": module for module, stem in linear_stems(base).items()}
    for name, info in base.tensors.items():
        values = dequantised(base_path, info)
        if modules.get(name) in weights:
            a, b = weights[modules[name]]
            delta = _numpy(b.double() @ a.double())
            values = values + rows_to_gguf(base, name.removesuffix(".weight"), delta)
        writer.write_tensor_data(np.ascontiguousarray(values.astype(dtypes[name])))
    writer.close()


def _carry_over(writer: gguf.GGUFWriter, base_path: Path) -> None:
    """Every metadata entry of the base, with its type; tokenizer and template among them."""
    own = ("general.architecture", "general.file_type", "general.quantization_version")
    for field in gguf.GGUFReader(base_path).fields.values():
        if field.name.startswith("GGUF.") or field.name in own:
            continue
        item = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], item)


def _quantise(source: Path, target: Path, quantization: Quantization) -> None:
    quiet_llama_cpp()
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FTYPES[quantization]
    params.nthread = max(1, torch.get_num_threads())
    beside = target.with_name(f".{target.name}.partial")
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(beside).encode(), params)
    if code != 0:
        beside.unlink(missing_ok=True)
        raise ExportFailed(f"llama.cpp could not quantise the merged model to {quantization}.")
    beside.rename(target)


# --- parity ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parity:
    """How far llama.cpp's view of a file is from torch's."""

    kl: float
    """Mean nats per token, torch to llama.cpp."""
    max_logprob_difference: float
    agreement: float
    """Share of places where both find the same token likeliest."""

    def metrics(self, name: str) -> dict[str, float]:
        return {
            f"{name}_kl": self.kl,
            f"{name}_max_difference": self.max_logprob_difference,
            f"{name}_agreement": self.agreement,
        }


@torch.no_grad()
def torch_logits(
    policy: Policy, sequences: Sequence[Sequence[int]], *roles: str
) -> list[npt.NDArray[np.float32]]:
    """Logits (T, V) of each sequence from the model with these adapters."""
    with policy.using(*roles):
        found = []
        for ids in sequences:
            batch = pad_batch([(ids, [True] * len(ids))], policy.device)
            found.append(policy.logits(policy.hidden(batch))[0].cpu().numpy())
        return found


def compare(
    ours: Sequence[npt.NDArray[np.float32]], theirs: Sequence[npt.NDArray[np.float32]]
) -> Parity:
    """Distributions at all places of all sequences, each (T, V)."""
    kls, differences, same = [], [], []
    for own, other in zip(ours, theirs, strict=True):
        p, q = (torch.from_numpy(x).double().log_softmax(-1) for x in (own, other))
        kls.append((p.exp() * (p - q)).sum(-1))
        # What neither side would ever say may differ as it likes.
        likely = p > p.max(-1, keepdim=True).values - 10.0
        differences.append(((p - q).abs() * likely).max())
        same.append((p.argmax(-1) == q.argmax(-1)).double())
    return Parity(
        float(torch.cat(kls).mean()),
        float(torch.stack(differences).max()),
        float(torch.cat(same).mean()),
    )


def check_parity(
    policy: Policy,
    roles: Sequence[str],
    base: Path,
    adapter: Path,
    merged: Path,
    quantization: Quantization,
    vocabulary: GgufVocabulary,
    sequences: Sequence[Sequence[int]],
) -> dict[str, float]:
    """Load base + adapter, and the merged model, in a fresh llama.cpp and compare with torch.

    The base alone is compared first: what llama.cpp's quantised activations cost there is the
    measure for what the adapter may cost on top.

    Raises:
        ExportFailed: token ids differ, or the distributions are further apart than that.
    """
    texts = TEXTS
    wanted_ids = tuple(tuple(vocabulary.tokenize(text, continues=False)) for text in texts)
    rows = tuple(tuple(ids) for ids in (*sequences, *wanted_ids) if len(ids) > 1)

    questions = [
        Question(model, lora, texts, rows)
        for model, lora in ((base, None), (base, adapter), (merged, None))
    ]
    try:
        answers = ask_in_child(questions)
    except LlamaCppFailed as error:
        log.error("parity: %s", error)
        raise ExportFailed("The exported model does not run in llama.cpp.") from error
    if any(found.token_ids != wanted_ids for found in answers):
        raise ExportFailed("The exported model reads text differently from the trained one.")

    stored = _stored_as(read_header(base))
    trained = torch_logits(policy, rows, *roles)
    plain = compare(torch_logits(policy, rows), answers[0].logits)
    own = compare(trained, answers[1].logits)
    whole = compare(trained, answers[2].logits)
    half = 0.01 if policy.dtype != torch.float32 else 0.0
    limit = max(4 * plain.kl, MAX_KL[stored]) + half
    if own.kl > limit:
        raise ExportFailed(
            f"The exported adapter scores differently from the trained one ({own.kl:.3f} nats a "
            f"token, allowed {limit:.3f})."
        )
    limit = max(4 * plain.kl, MAX_KL[quantization]) + MAX_KL[stored] + half
    if whole.kl > limit:
        raise ExportFailed(
            f"The merged model scores differently from the trained one ({whole.kl:.3f} nats a "
            f"token, allowed {limit:.3f})."
        )
    return {**plain.metrics("base"), **own.metrics("adapter"), **whole.metrics("merged")}


def _stored_as(base: GgufHeader) -> str:
    """The tolerance class of a file: that of its coarsest matrix."""
    kinds = {info.type_name for info in base.tensors.values() if len(info.shape) > 1}
    if kinds <= {"F32"}:
        return "F32"
    if kinds <= {"F32", "F16", "BF16"}:
        return "F16"
    if kinds <= {"F32", "F16", "BF16", "Q8_0"}:
        return "Q8_0"
    return "Q6_K" if kinds <= {"F32", "F16", "BF16", "Q8_0", "Q6_K"} else "Q4_K_M"


# --- small things ----------------------------------------------------------------------------


def _numpy(tensor: Tensor) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


def _elements(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _require_space(folder: Path, size: int) -> None:
    """llama.cpp says only "failed" on a full disk: look before."""
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, f"the export needs {size >> 20} MB")


def require_quantization(name: str) -> Quantization:
    """The name if it is one of ours.

    Raises:
        InputError: it is not.
    """
    for known in FTYPES:
        if name.upper() == known:
            return known
    raise InputError(f"{name!r} is no quantisation; choose one of {', '.join(FTYPES)}.")
