"""A model ready to write: its file checked, in memory, with vocabulary, template, adapters.

A ``Candidate`` is a file that was looked at and a plan how to load it (see ``fit``); a
``LoadedModel`` is made from it and closed as a whole. How completions are written is
``generation``'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from desktop_app.inference import devices, fit
from desktop_app.inference.adapter_check import check_adapter
from desktop_app.inference.engine import AdapterRef, ModelRef
from desktop_app.inference.llama_api import (
    Adapter,
    Context,
    LoadCancelledError,
    Model,
    physical_cores,
)
from desktop_app.inference.pace import Writer, measure
from desktop_app.inference.parked_states import AdapterKey, ParkedStates
from desktop_app.inference.prefix_cache import PrefixCache
from desktop_app.inference.reasoning import NOT_BEGUN, GoneOn
from desktop_app.inference.vocabulary import LlamaVocabulary
from finetune.contract.chat_template import (
    CHATML,
    Message,
    encode,
    render_prompt,
    template_id,
)
from finetune.contract.errors import InputError
from finetune.contract.gguf_file import GgufHeader, read_header

MAX_STREAMS: Final = fit.SEQUENCES
MAX_ADAPTERS: Final = 4
"""Adapters held at once: old and new version, and two to compare with."""


READ_AHEAD: Final = 8 << 20
"""Bytes of the file that are read in one go before llama.cpp maps it."""
READ_AHEAD_SHARE: Final = 0.8
"""Of the progress that is told; the rest is llama.cpp's own."""
_LONG_LIST: Final = 1000


@dataclass(frozen=True)
class Candidate:
    """A model file that was looked at, and how it would be loaded."""

    ref: ModelRef
    header: GgufHeader
    plan: fit.Plan
    template: str

    @property
    def name(self) -> str:
        return str(self.header.metadata.get("general.name") or Path(self.ref.path).stem)


def look_at(ref: ModelRef, before: LoadedModel | None = None) -> Candidate:
    """Check a file's header and plan how to load it into the memory that is free.

    Args:
        before: the model that makes way: what it holds counts as free.

    Raises:
        InputError: the file cannot be used; the text says why.
    """
    path = Path(ref.path)
    header = read_header(path)
    if header.is_adapter:
        raise InputError(f"{path.name} is an adapter; it needs the model it was made for.")
    measures = fit.measure(header, is_arm=devices.is_arm(), repacks=devices.repacks())
    adapter = Path(ref.adapter.path) if ref.adapter is not None else None
    if adapter is not None and adapter.is_file():
        measures = replace(measures, adapters=adapter.stat().st_size)
    machine = devices.machine() if before is None else devices.machine(*before.held)
    plan = fit.plan(measures, machine, ref.context_length)
    # Tokens and merges have been counted; as Python's texts they take 20 MB and more.
    small = {
        key: value
        for key, value in header.metadata.items()
        if not (isinstance(value, list) and len(value) > _LONG_LIST)
    }
    return Candidate(ref, replace(header, metadata=small), plan, header.chat_template or CHATML)


class LoadedModel:
    """What a model file and its context hold.

    Args:
        candidate: the file and the plan.
        threads: that compute; found by measuring if None.
        on_progress: called with 0..1 while the file is read; False gives up.
        states_folder: see ``ParkedStates``.

    Raises:
        InputError, UserError: the file cannot be used; the text says why.
        LoadCancelledError: ``on_progress`` has given up.
    """

    def __init__(
        self,
        candidate: Candidate,
        threads: int | None,
        on_progress: Callable[[float], bool],
        states_folder: Path | None = None,
    ) -> None:
        ref = candidate.ref
        path = Path(ref.path)
        self._header = candidate.header
        self.ref: Final = ref
        self.name: Final = candidate.name
        self.plan: Final = candidate.plan
        self.template: Final = candidate.template
        self.template_id: Final = template_id(self.template)
        self._adapters: dict[tuple[str, str], Adapter] = {}
        if self.plan.fits and not self.plan.gpu_layers:
            _read_ahead(path, on_progress)
        self._model = Model(
            path,
            lambda fraction: on_progress(READ_AHEAD_SHARE + (1 - READ_AHEAD_SHARE) * fraction),
            repack=self.plan.repack,
            gpu_layers=self.plan.gpu_layers,
        )
        self.context: Context | None = None
        try:
            self.vocabulary: Final = LlamaVocabulary(self._model.vocab)
            self.encode([Message("user", "Hello")])  # a template that does not work says so now
            trained = self._model.training_context or self.plan.context_length
            self.context_length: Final = min(self.plan.context_length, trained)
            cores = threads or physical_cores()
            self.context = Context(
                self._model,
                self.plan.cells,
                MAX_STREAMS,
                cores,
                self.plan.cell_type,
            )
            pace = measure(self.context, cores, MAX_STREAMS)
            self.writer: Final = Writer(self.context, pace, cores)
            identity = f"{ref.sha256}, {self.context.state_format}"
            parked = ParkedStates(identity, states_folder)
            self.cache: Final = PrefixCache(
                self.context, MAX_STREAMS, self._model.can_forget, parked
            )
            self.piece: Final = self._model.batch
            self.special_ids: Final = frozenset(self.vocabulary.special_tokens.values())
            self.end_ids: Final = frozenset(
                token
                for token in range(self.vocabulary.size)
                if self._model.is_end_of_generation(token)
            ) | {self.vocabulary.end_of_turn_id}
        except BaseException:
            self.close()
            raise

    @property
    def held(self) -> tuple[int, int]:
        """Bytes of ordinary and of graphics memory that closing gives back.

        The file's own pages are not among them: the system counts them as free anyway.
        """
        return max(0, self.plan.need.total - self._header.file_size), self.plan.graphics

    def encode(self, messages: Sequence[Message], gone_on: GoneOn = NOT_BEGUN) -> list[int]:
        """Token ids of a prompt: the one way it is made, for chatting and for training."""
        segments = render_prompt(messages, self.template, self.vocabulary.template_tokens)
        segments.extend(gone_on.segments)
        return encode(segments, self.vocabulary, beginning=gone_on.text)

    def prepare_adapter(self, ref: AdapterRef | None) -> None:
        """Load an adapter unless it is there.

        Raises:
            InputError, UserError: it cannot be used with this model; the model still can.
        """
        if ref is None or ref.scale == 0 or (ref.path, ref.sha256) in self._adapters:
            return
        path = Path(ref.path)
        check_adapter(path, ref.sha256, self._header)
        if len(self._adapters) >= MAX_ADAPTERS:
            assert self.context is not None
            self.context.use_adapter(None, 0.0)  # nothing freed may stay in use
            self._adapters.pop(next(iter(self._adapters))).close()
        self._adapters[ref.path, ref.sha256] = Adapter(self._model, path)

    def use_adapter(self, ref: AdapterRef | None) -> None:
        """Compute with a prepared adapter from now on, or with the plain base."""
        assert self.context is not None
        if ref is None or ref.scale == 0:
            self.context.use_adapter(None, 0.0)
        else:
            self.prepare_adapter(ref)
            self.context.use_adapter(self._adapters[ref.path, ref.sha256], ref.scale)

    def close(self) -> None:
        """Give all memory back."""
        if self.context is not None:
            self.context.close()
        for adapter in self._adapters.values():
            adapter.close()
        self._adapters.clear()
        self._model.close()


def _read_ahead(path: Path, on_progress: Callable[[float], bool]) -> None:
    """Bring the file into the system's cache, step by step.

    llama.cpp maps it in one call, which on a slow disk takes a minute without telling
    anything and without hearing that nobody wants it any more.
    """
    buffer = bytearray(READ_AHEAD)
    done = 0
    try:
        size = path.stat().st_size
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                done += count
                if not on_progress(READ_AHEAD_SHARE * min(1.0, done / size)):
                    raise LoadCancelledError
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}.") from error


def adapter_key(ref: AdapterRef | None) -> AdapterKey:
    """What the cells computed with an adapter are marked with. Scale 0 is the plain base."""
    return None if ref is None or ref.scale == 0 else (ref.sha256, ref.scale)
