"""The real engine: llama.cpp, one model at a time, any number of adapters on it.

Here models are loaded and requests are stopped; ``loaded_model`` holds what a model is made
of, ``generation`` writes completions, ``llama_api`` calls the library.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from desktop_app.errors import UserError, sentence
from desktop_app.inference.engine import (
    EngineFailure,
    Event,
    Generate,
    LoadProgress,
    ModelReady,
    ModelRef,
    Score,
    Stop,
)
from desktop_app.inference.fit import refusal
from desktop_app.inference.generation import Generation
from desktop_app.inference.llama_api import AbortedError, LoadCancelledError
from desktop_app.inference.loaded_model import Candidate, LoadedModel, look_at
from desktop_app.inference.parked_states import forget_files
from desktop_app.inference.scoring import score
from finetune.contract.errors import InputError

PROGRESS_STEP = 0.02
"""Load progress is reported in steps of this size."""


class LlamaEngine:
    """Implements ``engine.Engine``. All but ``stop`` is called from one thread.

    Args:
        threads: that compute; found by measuring if None.
        states_folder: where what was computed is kept for later; nowhere if None.
    """

    def __init__(self, threads: int | None = None, states_folder: Path | None = None) -> None:
        self._threads = threads
        self._states_folder = states_folder
        self._loaded: LoadedModel | None = None
        self._lock = threading.Lock()
        self._active: Generate | Score | None = None
        self._stops: set[tuple[str, int | None]] = set()

    def load(
        self,
        model: ModelRef,
        *,
        anyway: bool = False,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Load a model unless its file is loaded already, and its adapter.

        A failure with the adapter leaves the base loaded: it can be asked without it. A file
        that is refused, and one that does not fit, leave the model before it loaded.
        """
        began = time.monotonic()
        try:
            if not self._holds(model):
                candidate = look_at(model, self._loaded)
                if not candidate.plan.fits and not anyway:
                    message = refusal(candidate.name, candidate.plan)
                    yield EngineFailure(message, reason="does_not_fit")
                    return
                self.close()
                yield from self._load(candidate, is_cancelled)
            assert self._loaded is not None
            self._loaded.prepare_adapter(model.adapter)
        except LoadCancelledError:
            yield EngineFailure("Loading was stopped.", reason="cancelled")
            return
        except (InputError, UserError) as error:
            yield _failure(error)
            return
        yield ModelReady(
            model.version_id,
            self._loaded.name,
            self._loaded.context_length,
            self._loaded.template_id,
            time.monotonic() - began,
            self._loaded.plan.need,
            self._loaded.plan.cell_type,
            self._loaded.plan.gpu_layers,
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

    def score(self, request: Score) -> Iterator[Event]:
        """Score completions with the reward model in an adapter."""
        loaded = self._loaded
        if loaded is None:
            yield EngineFailure("No model is loaded.", request.request_id)
            return
        assert loaded.context is not None
        with self._lock:
            self._active = request
            if self._is_stopped(request, 0):
                loaded.context.abort()
            else:
                loaded.context.allow()
        try:
            yield from score(loaded, request)
        except AbortedError:
            yield EngineFailure("Scoring was stopped.", request.request_id, "cancelled")
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

    def forget(self) -> None:
        """Let go of all that was computed of earlier conversations, in files as well."""
        if self._loaded is not None:
            self._loaded.cache.forget()
        elif self._states_folder is not None:
            forget_files(self._states_folder)

    def close(self) -> None:
        """Give all memory back, and keep what was computed where a folder was given."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.cache.close()
            loaded.close()

    def _is_stopped(self, request: Generate | Score, stream: int) -> bool:
        asked = self._stops
        return bool(asked) and (
            (request.request_id, None) in asked or (request.request_id, stream) in asked
        )

    def _is_wholly_stopped(self, request: Generate | Score) -> bool:
        if isinstance(request, Score):
            return self._is_stopped(request, 0)
        return all(self._is_stopped(request, stream) for stream in range(len(request.streams)))

    def _holds(self, model: ModelRef) -> bool:
        if self._loaded is None:
            return False
        held = self._loaded.ref
        return (held.path, held.sha256, held.context_length) == (
            model.path, model.sha256, model.context_length,
        )  # fmt: skip

    def _load(self, candidate: Candidate, is_cancelled: Callable[[], bool]) -> Iterator[Event]:
        """Load on a thread of its own, so that progress can be told meanwhile."""
        progress: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        result: list[LoadedModel | BaseException] = []

        def on_progress(fraction: float) -> bool:
            progress.put(fraction)
            return not is_cancelled()

        def work() -> None:
            try:
                folder = self._states_folder
                result.append(LoadedModel(candidate, self._threads, on_progress, folder))
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
