"""torch -> GGUF: the adapter, the reward model, and the proof that what was exported holds.

The adapter is exact on the file that was trained on; the merged model is made by ``merge``. What
llama.cpp makes of the files is compared with what torch computed before anything is offered.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finetune.contract.gguf_file import GgufHeader, read_header
from finetune.contract.recipe import Quantization
from finetune.gguf_weights import LoraWeights, linear_stems, rows_to_gguf
from finetune.parity import PLACES, Answer, LlamaCppFailed, Question, ask_in_child
from finetune.policy import Policy, pad_batch
from finetune.vocabulary import GgufVocabulary

log = logging.getLogger(__name__)

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
MAX_REGRET: Final[Mapping[str, float]] = {
    "F32": 1e-3, "F16": 0.005, "Q8_0": 0.02, "Q6_K": 0.05, "Q5_K_M": 0.1, "Q4_K_M": 0.25,
}  # fmt: skip
"""Mean nats per token by which the token llama.cpp finds likeliest may be less likely than torch's
likeliest: within it the two were all but equal, and a greedy text may go on either way. The mean,
not the worst place: after training one place in some hundred is steep enough for rounding to
cost most of a nat there, while a wrong permutation costs that at most places."""


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


# --- parity ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parity:
    """How far llama.cpp's view of a file is from torch's."""

    kl: float
    """Mean nats per token, torch to llama.cpp."""
    max_logprob_difference: float
    agreement: float
    """Share of places where both find the same token likeliest."""
    regret: float
    """Mean nats per token by which torch finds llama.cpp's likeliest less likely than its own."""
    max_regret: float

    def metrics(self, name: str) -> dict[str, float]:
        return {
            f"{name}_kl": self.kl,
            f"{name}_max_difference": self.max_logprob_difference,
            f"{name}_agreement": self.agreement,
            f"{name}_regret": self.regret,
            f"{name}_max_regret": self.max_regret,
        }


@torch.no_grad()
def torch_logits(
    policy: Policy, sequences: Sequence[Sequence[int]], *roles: str
) -> list[npt.NDArray[np.float32]]:
    """Logits (at most PLACES, V) at each sequence's last places from the model with these
    adapters."""
    with policy.using(*roles):
        found = []
        for ids in sequences:
            batch = pad_batch([(ids, [True] * len(ids))], policy.device)
            found.append(policy.logits(policy.hidden(batch)[0, -PLACES:]).cpu().numpy())
        return found


def compare(
    ours: Sequence[npt.NDArray[np.float32]], theirs: Sequence[npt.NDArray[np.float32]]
) -> Parity:
    """Distributions at all places of all sequences, each (T, V)."""
    kls, differences, same, regrets = [], [], [], []
    for own, other in zip(ours, theirs, strict=True):
        p, q = (torch.from_numpy(x).double().log_softmax(-1) for x in (own, other))
        kls.append((p.exp() * (p - q)).sum(-1))
        # What neither side would ever say may differ as it likes.
        likely = p > p.max(-1, keepdim=True).values - 10.0
        differences.append(((p - q).abs() * likely).max())
        same.append((p.argmax(-1) == q.argmax(-1)).double())
        regrets.append(p.amax(-1) - p.gather(-1, q.argmax(-1, keepdim=True))[:, 0])
    return Parity(
        float(torch.cat(kls).mean()),
        float(torch.stack(differences).max()),
        float(torch.cat(same).mean()),
        float(torch.cat(regrets).mean()),
        float(torch.cat(regrets).max()),
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

    Args:
        sequences: token ids, among them texts the trained model wrote greedily: where torch and
            llama.cpp find the same token likeliest at every place, llama.cpp writes them too.

    Raises:
        ExportFailed: token ids differ, or the distributions are further apart than that.
        LlamaCppInterrupted, MemoryError, OSError: nothing could be found out.
    """
    wanted_ids = tuple(tuple(vocabulary.tokenize(text, continues=False)) for text in TEXTS)
    rows = tuple(tuple(ids) for ids in (*sequences, *wanted_ids) if len(ids) > 1)

    def asked(model: Path, lora: Path | None) -> Answer:
        try:
            found = ask_in_child(Question(model, lora, TEXTS, rows), adapter.parent)
        except LlamaCppFailed as error:
            log.error("parity: %s", error)
            raise ExportFailed("The exported model does not run in llama.cpp.") from error
        if found.token_ids != wanted_ids:
            raise ExportFailed("The exported model reads text differently from the trained one.")
        return found

    stored = _stored_as(read_header(base))
    written = stored if quantization == "BASE" else quantization
    # One after the other: with a large vocabulary each of these takes hundreds of megabytes.
    plain = compare(torch_logits(policy, rows), asked(base, None).logits)
    trained = torch_logits(policy, rows, *roles)
    own = compare(trained, asked(base, adapter).logits)
    whole = compare(trained, asked(merged, None).logits)
    half = 0.01 if policy.dtype != torch.float32 else 0.0
    for found, file, kinds in (
        (own, "exported adapter", (stored,)),
        (whole, "merged model", (written, stored)),
    ):
        limit = max(4 * plain.kl, MAX_KL[kinds[0]]) + sum(MAX_KL[k] for k in kinds[1:]) + half
        if found.kl > limit:
            raise ExportFailed(
                f"The {file} scores differently from the trained model ({found.kl:.3f} nats a "
                f"token, allowed {limit:.3f})."
            )
        limit = max(4 * plain.regret, sum(MAX_REGRET[k] for k in kinds)) + half
        if found.regret > limit:
            raise ExportFailed(
                f"The {file} writes something else than the trained model ({found.regret:.3f} "
                f"nats a token, allowed {limit:.3f})."
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
