"""The engine child as the benchmark drives it: through ``EngineClient`` and the pipe, as the app.

Times are taken where the app would take them, in the parent; processor time is the child's own.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from desktop_app.inference.engine import (
    EngineDied,
    EngineFailure,
    Event,
    Generate,
    ModelReady,
    ModelRef,
    PromptProgress,
    RequestDone,
    SamplingParams,
    StreamDone,
    StreamSpec,
    TextDelta,
)
from desktop_app.inference.engine_client import EngineClient, engine_command
from finetune.contract.chat_template import Message

CPUCLOCK_SCHED = 2
"""Linux: which of a process's clocks a clock's number names, its last three bits."""
_numbers = itertools.count(1)


@dataclass
class Measured:
    """One request: when its events came, in seconds after it was sent."""

    read_at: float = 0.0
    first_at: float = 0.0
    ended_at: float = 0.0
    cpu: float = 0.0
    """Processor seconds of the whole request."""
    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    done: RequestDone | None = None


class Child:
    """An engine child with one model loaded."""

    def __init__(
        self, model: Path, *, context_length: int = 0, states_folder: Path | None = None
    ) -> None:
        self._events: queue.SimpleQueue[tuple[float, Event]] = queue.SimpleQueue()
        arguments = [] if states_folder is None else ["--states", str(states_folder)]
        self._client = EngineClient(
            engine_command(*arguments), lambda event: self._events.put((time.perf_counter(), event))
        )
        self._client.start()
        process_id = self._client.process_id
        assert process_id is not None
        self._process_id = process_id
        self._client.load(
            ModelRef("base", str(model), f"benchmark {model.name}", context_length=context_length),
            anyway=True,
        )
        while not isinstance(event := self._next()[1], ModelReady):
            pass
        self.ready: ModelReady = event

    def ask(
        self,
        messages: Sequence[Message],
        *,
        seeds: Sequence[int] = (1,),
        **sampling: object,
    ) -> Measured:
        """Send a request and wait for its end."""
        request_id = str(next(_numbers))
        params = SamplingParams(**sampling)  # type: ignore[arg-type]
        streams = tuple(StreamSpec(seed, "base") for seed in seeds)
        measured = Measured()
        began, cpu = time.perf_counter(), self.cpu_seconds()
        self._client.generate(Generate(request_id, tuple(messages), params, streams))
        while measured.done is None:
            at, event = self._next()
            if isinstance(event, PromptProgress) and event.done == event.total:
                measured.read_at = at - began
            elif isinstance(event, TextDelta | StreamDone) and not measured.first_at:
                measured.first_at = at - began
            if isinstance(event, StreamDone):
                measured.texts.append(event.text)
                measured.tokens += event.completion_tokens
                measured.ended_at = at - began
            elif isinstance(event, RequestDone):
                measured.done = event
                measured.cpu = self.cpu_seconds() - cpu
        return measured

    def cpu_seconds(self) -> float:
        """Of all its threads, those that have ended too."""
        return time.clock_gettime(~self._process_id << 3 | CPUCLOCK_SCHED)

    def peak_megabytes(self) -> float:
        status = Path(f"/proc/{self._process_id}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def close(self) -> None:
        self._client.close()

    def _next(self) -> tuple[float, Event]:
        at, event = self._events.get(timeout=300)
        if isinstance(event, EngineFailure | EngineDied):
            raise RuntimeError(event.message)
        return at, event
