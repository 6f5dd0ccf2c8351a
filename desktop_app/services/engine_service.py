"""The engine child as the GUI thread sees it: one model, its state, requests and answers.

The child's events arrive on a reader thread. They are collected, and one queued signal wakes
this object, which hands them on in batches: never one signal per token across threads. When
the child dies, its open requests fail with a sentence and a fresh child loads the same model
again; after two deaths in a row while loading it is left alone.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal, Protocol

from PySide6.QtCore import QObject, Signal

from desktop_app.errors import UserError
from desktop_app.inference import engine
from desktop_app.inference.engine import ModelRef

EngineStatus = Literal["starting", "loading", "ready", "failed"]


class EngineHandle(Protocol):
    """What the service needs of ``EngineClient``."""

    @property
    def is_running(self) -> bool: ...
    def start(self) -> None: ...
    def load(self, model: ModelRef) -> None: ...
    def generate(self, request: engine.Generate) -> None: ...
    def stop(self, request: engine.Stop) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class EngineState:
    """What the status line says about the engine."""

    status: EngineStatus
    model_name: str = ""
    fraction: float = 0.0
    message: str = ""
    context_length: int = 0


class EngineService(QObject):
    """The only owner of the engine child.

    Signals:
        state_changed(EngineState): it starts, loads, is ready, has failed.
        event_received(Event): an event of a request, in order.
        request_failed(request id, message, hint): a request has ended without its result.
        problem(message, hint): something to tell the person that belongs to no request.
    """

    state_changed = Signal(object)
    event_received = Signal(object)
    request_failed = Signal(str, str, str)
    problem = Signal(str, str)

    _wake = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._handle: EngineHandle | None = None
        self._model: ModelRef | None = None
        self._state = EngineState("starting")
        self._inbox: list[engine.Event] = []
        self._inbox_lock = threading.Lock()
        self._wake_sent = False
        self._open_requests: set[str] = set()
        self._crashes_at_load = 0
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

    def attach(self, handle: EngineHandle, model: ModelRef) -> None:
        """Start the engine and load a model."""
        self._handle = handle
        self.load(model)

    def fail(self, message: str, hint: str) -> None:
        """No engine could be started: say so, and go on without one."""
        self._set_state(EngineState("failed", message=message))
        self.problem.emit(message, hint)

    def load(self, model: ModelRef) -> None:
        """Answer with another model from now on."""
        assert self._handle is not None
        self._model = model
        self._set_state(EngineState("loading"))
        if not self._handle.is_running:
            self._handle.start()
        self._handle.load(model)

    def restart(self) -> None:
        """After a failure: a fresh child, the same model."""
        if self._model is not None:
            self._crashes_at_load = 0
            self.load(self._model)

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

    def close(self) -> None:
        """End the child."""
        if self._handle is not None:
            self._handle.close()

    def _drain(self) -> None:
        with self._inbox_lock:
            events, self._inbox = self._inbox, []
            self._wake_sent = False
        for event in events:
            self._handle_event(event)

    def _handle_event(self, event: engine.Event) -> None:
        if isinstance(event, engine.LoadProgress):
            self._set_state(EngineState("loading", fraction=event.fraction))
        elif isinstance(event, engine.ModelReady):
            self._crashes_at_load = 0
            self._set_state(
                EngineState("ready", event.name, 1.0, context_length=event.context_length)
            )
        elif isinstance(event, engine.EngineDied):
            self._on_died(event)
        elif isinstance(event, engine.EngineFailure):
            if event.request_id is None:
                self.fail(event.message, self.tr("Choose another model version."))
            else:
                self._open_requests.discard(event.request_id)
                self.request_failed.emit(event.request_id, event.message, "")
        else:
            if isinstance(event, engine.RequestDone):
                self._open_requests.discard(event.request_id)
            self.event_received.emit(event)

    def _on_died(self, event: engine.EngineDied) -> None:
        self._crashes_at_load = self._crashes_at_load + 1 if event.during_load else 0
        # Twice in a row at loading: a third time would be a loop.
        gives_up = self._model is None or self._crashes_at_load >= 2
        hint = self.tr("What was written is kept; the model is being loaded again.")
        if gives_up:
            hint = self.tr("The model is not loaded again by itself. Choose another version.")
        failed, self._open_requests = self._open_requests, set()
        for request_id in failed:
            self.request_failed.emit(request_id, event.message, hint)
        if self._model is not None and not gives_up:
            if not failed:
                self.problem.emit(event.message, hint)
            self.load(self._model)
        elif failed:
            self._set_state(EngineState("failed", message=event.message))
        else:
            self.fail(event.message, hint)

    def _set_state(self, state: EngineState) -> None:
        self._state = state
        self.state_changed.emit(state)
