"""The engine child as the GUI thread sees it: one model, its state, requests and answers.

The child's events arrive on a reader thread. They are collected, and one queued signal wakes
this object, which hands them on in batches: never one signal per token across threads. When
the child dies, its open requests fail with a sentence and a fresh child loads the same model
again; after two deaths while loading the same files, at whatever start, it is left alone. A
model that is refused, cancelled or given up makes way for the one that was ready before it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from PySide6.QtCore import QObject, Signal

from desktop_app.errors import UserError
from desktop_app.inference import engine
from desktop_app.inference.engine import CellType, MemoryNeed, ModelRef
from desktop_app.storage.load_record import LoadRecord

EngineStatus = Literal["starting", "checking", "loading", "ready", "failed"]
"""checking: the model's file is being read to know it by its hash."""


class EngineHandle(Protocol):
    """What the service needs of ``EngineClient``."""

    @property
    def is_running(self) -> bool: ...
    def start(self) -> None: ...
    def load(self, model: ModelRef, *, anyway: bool = False) -> None: ...
    def cancel_load(self) -> None: ...
    def forget(self) -> None: ...
    def generate(self, request: engine.Generate) -> None: ...
    def stop(self, request: engine.Stop) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Refused:
    """A model that was not loaded, and why.

    ``crashed``: it has ended the engine twice and is not tried again by itself.
    """

    model: ModelRef
    reason: Literal["does_not_fit", "crashed", "cancelled"]
    message: str


@dataclass(frozen=True)
class EngineState:
    """What the status line says about the engine.

    ``refused`` stands as long as nothing else is loaded by the person's wish; another model
    may be ready meanwhile.
    """

    status: EngineStatus
    model_name: str = ""
    fraction: float = 0.0
    message: str = ""
    context_length: int = 0
    need: MemoryNeed | None = None
    cell_type: CellType = "f16"
    refused: Refused | None = None


class EngineService(QObject):
    """The only owner of the engine child.

    Attributes:
        fallback: the model that comes with the application, where another one stands in for
            it (``--model``); None where it is a model version like the others.

    Signals:
        state_changed(EngineState): it starts, loads, is ready, has failed.
        event_received(Event): an event of a request, in order.
        request_failed(request id, message, hint): a request has ended without its result.
        problem(message, hint): something to tell the person that belongs to no request.
        start_wanted: the person wants a start that never came to a model to be tried again.
        check_cancelled: the person does not want to wait for the file to be read.
    """

    state_changed = Signal(object)
    event_received = Signal(object)
    request_failed = Signal(str, str, str)
    problem = Signal(str, str)
    start_wanted = Signal()
    check_cancelled = Signal()

    _wake = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.fallback: ModelRef | None = None
        self._handle: EngineHandle | None = None
        self._loads = LoadRecord()
        self._model: ModelRef | None = None
        self._last_ready: ModelRef | None = None
        self._state = EngineState("starting")
        self._inbox: list[engine.Event] = []
        self._inbox_lock = threading.Lock()
        self._wake_sent = False
        self._open_requests: set[str] = set()
        self._open_loads = 0
        self._is_closed = False
        self._wake.connect(self._drain)

    @property
    def state(self) -> EngineState:
        return self._state

    @property
    def model(self) -> ModelRef | None:
        """What is loaded, or is being loaded."""
        return self._model

    @property
    def can_be_asked(self) -> bool:
        """Whether a request would be answered, at once or after loading."""
        return self._handle is not None and self._state.status in ("loading", "ready")

    def receive(self, event: engine.Event) -> None:
        """Called on the engine's reader thread, for every event."""
        with self._inbox_lock:
            self._inbox.append(event)
            is_first, self._wake_sent = not self._wake_sent, True
        if is_first:
            self._wake.emit()  # queued: the slot runs on the GUI thread

    def attach(
        self, handle: EngineHandle, model: ModelRef, loads: LoadRecord | None = None
    ) -> None:
        """Start the engine and load a model.

        Args:
            loads: remembers which models have crashed at earlier starts.
        """
        self._handle = handle
        self._loads = loads or self._loads
        self.load(model)

    def fail(self, message: str, hint: str) -> None:
        """No engine could be started: say so, and go on without one."""
        self._set_state(EngineState("failed", message=message))
        self.problem.emit(message, hint)

    def show_check(self, fraction: float) -> None:
        """The model's file is being read before it can be loaded."""
        self._set_state(EngineState("checking", fraction=fraction))

    def load(self, model: ModelRef) -> None:
        """Answer with another model from now on, unless it has crashed too often."""
        if self._loads.is_barred(_key(model)):
            self._refuse(Refused(model, "crashed", self._barred_sentence()))
        else:
            self._load(model)

    def load_anyway(self) -> None:
        """Load the model that was refused: the person wants it, whatever may happen."""
        refused = self._state.refused
        if refused is not None:
            self._loads.succeed(_key(refused.model))
            self._load(refused.model, anyway=refused.reason == "does_not_fit")

    def cancel_load(self) -> None:
        """Give up loading; the model before it is loaded again, if there was one."""
        if self._state.status == "checking":
            self.check_cancelled.emit()
        elif self._handle is not None and self._state.status == "loading":
            self._handle.cancel_load()

    def restart(self) -> None:
        """After a failure: a fresh child, the same model."""
        if self._model is None:
            self.start_wanted.emit()
        else:
            self._loads.succeed(_key(self._model))
            self._load(self._model)

    def request(self, generate: engine.Generate) -> None:
        """Ask for completions; ``event_received`` tells of them until RequestDone.

        Raises:
            UserError: there is no engine to ask.
        """
        if self._handle is None or not self.can_be_asked:
            raise UserError(
                self.tr("No model is loaded, so there is no answer yet."),
                self.tr("Restart the model and ask for the answer again."),
            )
        self._handle.generate(generate)
        self._open_requests.add(generate.request_id)

    def stop(self, request_id: str) -> None:
        """End a request's streams soon; they still report what they wrote."""
        if self._handle is not None and self._handle.is_running:
            self._handle.stop(engine.Stop(request_id))

    def forget(self) -> None:
        """Let go of what was computed of conversations: one of them was deleted."""
        if self._handle is not None:
            self._handle.forget()

    def close(self) -> None:
        """End the child; what it still says is not heard."""
        self._is_closed = True
        self._loads.end()
        if self._handle is not None:
            self._handle.close()

    # --- inside ---

    def _load(
        self, model: ModelRef, *, anyway: bool = False, refused: Refused | None = None
    ) -> None:
        assert self._handle is not None
        self._model = model
        self._set_state(EngineState("loading", refused=refused))
        try:
            if not self._handle.is_running:
                self._open_loads = 0
                self._handle.start()
            self._loads.begin(_key(model))
            self._open_loads += 1
            if anyway:
                self._handle.load(model, anyway=True)
            else:
                self._handle.load(model)
        except UserError as error:  # there is no child: it did not start, or has just died
            self._open_loads = 0
            self._loads.end()
            self.fail(error.message, error.hint)

    def _refuse(self, refused: Refused) -> None:
        """Go back to the model before, or say that there is none."""
        before = self._last_ready
        if before is not None and _key(before) != _key(refused.model):
            self._load(before, refused=refused)
        else:
            self._last_ready = None
            self._model = refused.model
            self._set_state(EngineState("failed", message=refused.message, refused=refused))

    def _barred_sentence(self) -> str:
        return self.tr("This model has ended the engine twice while it was being loaded.")

    def _drain(self) -> None:
        with self._inbox_lock:
            events, self._inbox = self._inbox, []
            self._wake_sent = False
        for event in events if not self._is_closed else ():
            self._handle_event(event)

    def _handle_event(self, event: engine.Event) -> None:
        if isinstance(event, engine.LoadProgress):
            if self._state.status == "loading":
                self._set_state(replace(self._state, fraction=event.fraction))
        elif isinstance(event, engine.ModelReady):
            self._on_ready(event)
        elif isinstance(event, engine.EngineDied):
            self._on_died(event)
        elif isinstance(event, engine.EngineFailure):
            if event.request_id is None:
                self._on_load_failed(event)
            else:
                self._open_requests.discard(event.request_id)
                self.request_failed.emit(event.request_id, event.message, "")
        else:
            if isinstance(event, engine.RequestDone | engine.ContextOverflow):
                self._open_requests.discard(event.request_id)
            self.event_received.emit(event)

    def _on_ready(self, event: engine.ModelReady) -> None:
        self._open_loads = max(0, self._open_loads - 1)
        if self._open_loads:  # another model has been asked for meanwhile
            return
        if self._model is not None:
            self._loads.succeed(_key(self._model))
        self._last_ready = self._model
        self._set_state(
            EngineState(
                "ready",
                event.name,
                1.0,
                context_length=event.context_length,
                need=event.need,
                cell_type=event.cell_type,
                refused=self._state.refused,
            )
        )

    def _on_load_failed(self, event: engine.EngineFailure) -> None:
        was_loading = self._open_loads > 0
        self._open_loads = max(0, self._open_loads - 1)
        if self._open_loads:
            return
        self._loads.end()
        model, before = self._model, self._last_ready
        if model is not None and (event.reason == "does_not_fit" or event.reason == "cancelled"):
            self._refuse(Refused(model, event.reason, event.message))
        elif was_loading and model is not None and before is not None and before != model:
            self.problem.emit(event.message, self.tr("The model before is used again."))
            self._load(before)
        else:
            self._last_ready = None
            self.fail(event.message, self.tr("Choose another model version."))

    def _on_died(self, event: engine.EngineDied) -> None:
        self._open_loads = 0
        model = self._model
        if model is not None and event.during_load:
            self._loads.crash(_key(model))
        gives_up = model is None or self._loads.is_barred(_key(model))
        hint = self.tr("What was written is kept; the model is being loaded again.")
        if gives_up:
            hint = self.tr("The model is not loaded again by itself. Choose another version.")
        failed, self._open_requests = self._open_requests, set()
        for request_id in failed:
            self.request_failed.emit(request_id, event.message, hint)
        if model is None:
            self.fail(event.message, hint)
        elif gives_up:
            self._refuse(Refused(model, "crashed", self._barred_sentence()))
            self.problem.emit(self._barred_sentence(), hint)
        else:
            if not failed:
                self.problem.emit(event.message, hint)
            self._load(model)

    def _set_state(self, state: EngineState) -> None:
        self._state = state
        self.state_changed.emit(state)


def _key(model: ModelRef) -> str:
    """Names the files that are loaded: a crash of one adapter says nothing about the base."""
    return model.sha256 + (f"+{model.adapter.sha256}" if model.adapter is not None else "")
