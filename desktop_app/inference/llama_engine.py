"""The real engine: llama.cpp, one model at a time, any number of adapters on it.

Here models are loaded and requests are stopped; ``loaded_model`` holds what a model is made
of, ``generation`` writes completions, ``llama_api`` calls the library.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from desktop_app.errors import UserError, sentence
from desktop_app.inference.engine import (
    EngineFailure,
    Event,
    Generate,
    LoadProgress,
    ModelReady,
    ModelRef,
    Stop,
)
from desktop_app.inference.generation import Generation
from desktop_app.inference.loaded_model import LoadedModel
from finetune.contract.errors import InputError

PROGRESS_STEP = 0.02
"""Load progress is reported in steps of this size."""


class LlamaEngine:
    """Implements ``engine.Engine``. All but ``stop`` is called from one thread.

    Args:
        threads: that compute; found by measuring if None.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._loaded: LoadedModel | None = None
        self._lock = threading.Lock()
        self._active: Generate | None = None
        self._stops: set[tuple[str, int | None]] = set()

    def load(self, model: ModelRef) -> Iterator[Event]:
        """Load a model unless its file is loaded already, and its adapter.

        A failure with the adapter leaves the base loaded: it can be asked without it.
        """
        began = time.monotonic()
        try:
            if not self._holds(model):
                self.close()
                yield from self._load(model)
            assert self._loaded is not None
            self._loaded.prepare_adapter(model.adapter)
        except (InputError, UserError) as error:
            yield _failure(error)
            return
        yield ModelReady(
            model.version_id,
            self._loaded.name,
            self._loaded.context_length,
            self._loaded.template_id,
            time.monotonic() - began,
        )

    def generate(self, request: Generate) -> Iterator[Event]:
        """Complete a prompt."""
        if self._loaded is None:
            yield EngineFailure("No model is loaded.", request.request_id)
            return
        if not request.messages or not request.streams:
            yield EngineFailure("There is nothing to answer.", request.request_id)
            return
        context = self._loaded.context
        assert context is not None
        with self._lock:
            self._active = request
            if self._is_wholly_stopped(request):  # while it was waiting
                context.abort()
            else:
                context.allow()
        try:
            yield from Generation(
                self._loaded, request, lambda stream: self._is_stopped(request, stream)
            ).run()
        except (InputError, UserError) as error:
            yield replace(_failure(error), request_id=request.request_id)
        finally:
            with self._lock:
                self._active = None
                self._stops = {stop for stop in self._stops if stop[0] != request.request_id}

    def stop(self, request: Stop) -> None:
        """End a request's streams; from any thread, also while they are computed."""
        with self._lock:
            self._stops.add((request.request_id, request.stream))
            active, loaded = self._active, self._loaded
            if active is None or loaded is None or loaded.context is None:
                return
            if self._is_wholly_stopped(active):
                loaded.context.abort()

    def close(self) -> None:
        """Give all memory back."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()

    def _is_stopped(self, request: Generate, stream: int) -> bool:
        asked = self._stops
        return bool(asked) and (
            (request.request_id, None) in asked or (request.request_id, stream) in asked
        )

    def _is_wholly_stopped(self, request: Generate) -> bool:
        return all(self._is_stopped(request, stream) for stream in range(len(request.streams)))

    def _holds(self, model: ModelRef) -> bool:
        if self._loaded is None:
            return False
        held = self._loaded.ref
        return (held.path, held.sha256, held.context_length) == (
            model.path, model.sha256, model.context_length,
        )  # fmt: skip

    def _load(self, model: ModelRef) -> Iterator[Event]:
        """Load on a thread of its own, so that progress can be told meanwhile."""
        progress: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        result: list[LoadedModel | BaseException] = []

        def work() -> None:
            try:
                result.append(LoadedModel(model, self._threads, progress.put))
            except BaseException as error:
                result.append(error)
            progress.put(None)

        thread = threading.Thread(target=work, name="load", daemon=True)
        thread.start()
        told = -1.0
        while (fraction := progress.get()) is not None:
            if fraction - told >= PROGRESS_STEP or (fraction == 1 and told < 1):
                told = fraction
                yield LoadProgress(fraction)
        thread.join()
        if isinstance(result[0], BaseException):
            raise result[0]
        self._loaded = result[0]


def _failure(error: Exception) -> EngineFailure:
    message, hint = sentence(error)
    return EngineFailure(f"{message} {hint}".strip())
