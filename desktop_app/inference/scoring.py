"""What a person would think of completions: the reward model's scores, without torch.

A reward model is an adapter file that carries its heads as metadata (``finetune.export``). It is
made active, each completion is read behind its prompt up to the end of turn, and the heads are
applied to the last hidden state: score = w . h + b for each head, and from them the conservative
score of the trainer, mean - uncertainty * variance (Coste et al. 2023).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from desktop_app.inference.engine import Event, PromptProgress, Score, Scored
from desktop_app.inference.hidden_states import HiddenStates
from desktop_app.inference.llama_api import NoRoomError
from desktop_app.inference.loaded_model import MAX_STREAMS, LoadedModel
from finetune.contract.chat_template import training_example
from finetune.contract.errors import InputError
from finetune.contract.gguf_file import read_header
from finetune.contract.reasoning import answer_prompt

_PREFIX = "attune.reward"


@dataclass(frozen=True)
class RewardHeads:
    """M heads on hidden states of width D: ``weight`` (M, D), ``bias`` (M,)."""

    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    uncertainty: float

    def scores(self, hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Hidden states (N, D) to the heads' scores (N, M)."""
        return np.asarray(hidden.astype(np.float64) @ self.weight.T + self.bias)

    def conservative(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(N, M) to (N,)."""
        return np.asarray(scores.mean(axis=1) - self.uncertainty * scores.var(axis=1))


def read_heads(path: Path, width: int) -> RewardHeads:
    """The heads in a reward model's file.

    Raises:
        InputError: it has none, or they are for hidden states of another width.
    """
    metadata = read_header(path).metadata
    count = metadata.get(f"{_PREFIX}.heads")
    weight = np.asarray(metadata.get(f"{_PREFIX}.head.weight", ()), dtype=np.float64)
    bias = np.asarray(metadata.get(f"{_PREFIX}.head.bias", ()), dtype=np.float64)
    if not isinstance(count, int) or not count:
        raise InputError(f"{path.name} holds no reward model, so it cannot score completions.")
    if weight.size != count * width or bias.size != count:
        raise InputError(f"The reward model {path.name} was made for another model.")
    uncertainty = float(metadata.get(f"{_PREFIX}.uncertainty", 0.0))
    return RewardHeads(weight.reshape(count, width), bias, uncertainty)


def score(loaded: LoadedModel, request: Score) -> Iterator[Event]:
    """Carry out a request. The cells are empty afterwards; what is parked stays.

    Yields PromptProgress, which is also a sign of life, and Scored at the end.

    Raises:
        InputError, UserError: it cannot be done; the model can still be used.
        AbortedError: it was stopped.
    """
    began = time.monotonic()
    assert loaded.context is not None
    states = HiddenStates(loaded.context, MAX_STREAMS)
    heads = None
    if request.adapter is not None and not request.wants_hidden:
        heads = read_heads(Path(request.adapter.path), states.width)
    loaded.prepare_adapter(request.adapter)
    prompt = answer_prompt(request.messages, loaded.template, loaded.vocabulary.template_tokens)
    rows = [training_example(prompt, text, loaded.vocabulary).ids for text in request.completions]
    longest = max(map(len, rows), default=0)
    if longest > loaded.context_length:
        raise InputError(
            f"With its prompt a completion is {longest:,} tokens long, and the model can read "
            f"{loaded.context_length:,} at once."
        )
    loaded.cache.set_aside()
    loaded.use_adapter(request.adapter)
    hidden = np.empty((len(rows), states.width), dtype=np.float32)
    try:
        total = states.tokens_to_compute(rows)
        for _ in states.at_last_tokens(rows, hidden):
            yield PromptProgress(request.request_id, states.computed_tokens, total)
    except NoRoomError as error:
        raise InputError("The completions are too long to be scored together.") from error
    by_head = heads.scores(hidden) if heads is not None else np.empty((len(rows), 0))
    scores = heads.conservative(by_head) if heads is not None else np.empty(0)
    yield Scored(
        request.request_id,
        tuple(float(value) for value in scores),
        tuple(tuple(float(value) for value in row) for row in by_head),
        tuple(tuple(float(v) for v in row) for row in hidden) if request.wants_hidden else (),
        states.computed_tokens,
        time.monotonic() - began,
    )
