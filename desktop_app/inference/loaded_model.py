"""A model ready to write: its file checked, in memory, with vocabulary, template, adapters.

Made from a ``ModelRef`` and closed as a whole. How completions are written is ``generation``'s
business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from desktop_app.inference.adapter_check import check_adapter
from desktop_app.inference.engine import AdapterRef, ModelRef
from desktop_app.inference.llama_api import Adapter, Context, Model, physical_cores
from desktop_app.inference.prefix_cache import AdapterKey, PrefixCache
from desktop_app.inference.vocabulary import LlamaVocabulary
from finetune.contract.chat_template import (
    CHATML,
    Message,
    encode,
    render_prompt,
    template_id,
)
from finetune.contract.errors import InputError
from finetune.contract.gguf_file import read_header

DEFAULT_CONTEXT: Final = 4096
"""Long enough for an evening's chat; the cells of small models cost little memory."""
MAX_STREAMS: Final = 9
"""Completions computed in one batch."""
SPARE_CELLS: Final = 2048
"""Cells beyond the context's length, for the second and further completions of a prompt."""
MAX_ADAPTERS: Final = 4
"""Adapters held at once: old and new version, and two to compare with."""
MEASURED_ROUNDS: Final = 4
MEASURED_TOKENS: Final = 4
SLOW_SECONDS: Final = 0.1
"""For the measured tokens: a model that needs longer is not small."""


class LoadedModel:
    """What a model file and its context hold.

    Args:
        ref: its adapter, if any, is loaded and checked too.
        threads: that compute; found by measuring if None.
        on_progress: called with 0..1 while the file is read.

    Raises:
        InputError, UserError: the file cannot be used; the text says why.
    """

    def __init__(
        self, ref: ModelRef, threads: int | None, on_progress: Callable[[float], None]
    ) -> None:
        path = Path(ref.path)
        self._header = read_header(path)
        if self._header.is_adapter:
            raise InputError(f"{path.name} is an adapter; it needs the model it was made for.")
        self.ref: Final = ref
        self.name: Final = str(self._header.metadata.get("general.name") or path.stem)
        self.template: Final = self._header.chat_template or CHATML
        self.template_id: Final = template_id(self.template)
        self._adapters: dict[tuple[str, str], Adapter] = {}
        self._model = Model(path, on_progress)
        self.context: Context | None = None
        try:
            self.vocabulary: Final = LlamaVocabulary(self._model.vocab)
            self.encode([Message("user", "Hello")])  # a template that does not work says so now
            trained = self._model.training_context or DEFAULT_CONTEXT
            self.context_length: Final = min(ref.context_length or DEFAULT_CONTEXT, trained)
            self.context = Context(
                self._model,
                self.context_length + SPARE_CELLS,
                MAX_STREAMS,
                threads or physical_cores(),
            )
            if threads is None:
                _choose_threads(self.context, physical_cores())
            self.cache: Final = PrefixCache(self.context, MAX_STREAMS, self._model.can_forget)
            self.piece: Final = self._model.piece
            self.special_ids: Final = frozenset(self.vocabulary.special_tokens.values())
            self.end_ids: Final = frozenset(
                token
                for token in range(self.vocabulary.size)
                if self._model.is_end_of_generation(token)
            ) | {self.vocabulary.end_of_turn_id}
        except BaseException:
            self.close()
            raise

    def encode(self, messages: Sequence[Message], beginning: str = "") -> list[int]:
        """Token ids of a prompt: the one way it is made, for chatting and for training."""
        segments = render_prompt(messages, self.template, self.vocabulary.template_tokens)
        return encode(segments, self.vocabulary, beginning=beginning)

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


def _choose_threads(context: Context, cores: int) -> None:
    """Let one thread write where that is faster than all cores.

    In a small model the threads wait for each other longer than they compute, the more so
    while something else keeps the cores busy; only trying tells.
    """
    best: dict[int, float] = {}
    for _ in range(MEASURED_ROUNDS):
        for threads in sorted({1, cores}, reverse=True):
            context.use_threads(threads, cores)
            context.clear()
            began = time.perf_counter()
            for position in range(MEASURED_TOKENS):
                context.step([0], [position], [0])
            context.wait()
            took = time.perf_counter() - began
            best[threads] = min(took, best.get(threads, took))
            if threads == cores and took > SLOW_SECONDS:  # a large model wants all cores
                context.clear()
                return
    context.clear()
    context.use_threads(min(best, key=lambda threads: best[threads]), cores)


def adapter_key(ref: AdapterRef | None) -> AdapterKey:
    """What the cells computed with an adapter are marked with. Scale 0 is the plain base."""
    return None if ref is None or ref.scale == 0 else (ref.sha256, ref.scale)
