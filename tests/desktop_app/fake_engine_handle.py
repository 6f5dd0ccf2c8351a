"""A readable engine for tests of widgets: it says what it is told to, when it is told to.

It stands where ``EngineClient`` stands and talks to a real ``ChatService``; no process, no
threads, no waiting.
"""

from __future__ import annotations

from desktop_app.inference.engine import (
    EngineDied,
    Event,
    Generate,
    ModelReady,
    ModelRef,
    PromptProgress,
    RequestDone,
    Stop,
    StopReason,
    StreamDone,
    TextDelta,
)
from desktop_app.services.chat_service import ChatService
from finetune.contract.records import Origin

MODEL = ModelRef("base", "/nowhere/base.gguf", "ab" * 32)


class FakeEngineHandle:
    """Implements ``EngineHandle``.

    Attributes:
        request: the last thing that was asked for.
    """

    def __init__(self, chat: ChatService) -> None:
        self._chat = chat
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._ended: set[int] = set()
        self.is_running = False
        self.request: Generate | None = None
        self.is_stopped = False

    def start(self) -> None:
        self.is_running = True

    def load(self, model: ModelRef, *, anyway: bool = False) -> None:
        self._tell(ModelReady(model.version_id, "Fake", 4096, "chatml", 0.0))

    def cancel_load(self) -> None:
        """Nothing takes long here."""

    def generate(self, request: Generate) -> None:
        self.request = request
        self._texts = [""] * len(request.streams)
        self._thoughts = [""] * len(request.streams)
        self._ended = set()

    def stop(self, request: Stop) -> None:
        self.is_stopped = True

    def forget(self) -> None:
        """Nothing is computed here."""

    def close(self) -> None:
        self.is_running = False

    # --- what a test makes it do ---

    def read_prompt(self, done: int, total: int) -> None:
        """Tell how much of the prompt has been read."""
        self._tell(PromptProgress(self._asked().request_id, done, total))

    def say(self, text: str, stream: int = 0) -> None:
        """Write more of a completion."""
        self._texts[stream] += text
        self._tell(TextDelta(self._asked().request_id, stream, text))

    def think(self, text: str, stream: int = 0) -> None:
        """Write more of what comes before a completion."""
        self._thoughts[stream] += text
        self._tell(TextDelta(self._asked().request_id, stream, text, "reasoning"))

    def end(
        self, stream: int, reason: StopReason = "end_of_turn", thought_for: float = 0.0
    ) -> None:
        """End one completion; ``thought_for`` is in seconds."""
        request = self._asked()
        spec, text = request.streams[stream], self._texts[stream]
        origin = Origin(
            model_version=spec.version_id,
            model_sha256=MODEL.sha256,
            sampling={**request.sampling.recorded(), "seed": spec.seed},
        )
        self._ended.add(stream)
        self._tell(
            StreamDone(
                request.request_id, stream, text, reason, len(text), 0.1, origin,
                self._thoughts[stream], thought_for,
            )
        )  # fmt: skip

    def finish(self, reason: StopReason = "end_of_turn", thought_for: float = 0.0) -> None:
        """End all completions that have not ended, and the request."""
        request = self._asked()
        for stream in range(len(self._texts)):
            if stream not in self._ended:
                self.end(stream, reason, thought_for)
        self.request = None
        self._tell(RequestDone(request.request_id, 10, 0, 4096))

    def answer(self, *texts: str) -> None:
        """Write whole completions, one for each stream."""
        for stream, text in enumerate(texts):
            self.say(text, stream)
        self.finish()

    def die(self) -> None:
        """End as a crashed child does."""
        self.is_running = False
        self._tell(EngineDied("The model's process ended.", 139))

    def _asked(self) -> Generate:
        assert self.request is not None, "nothing was asked for"
        return self.request

    def _tell(self, event: Event) -> None:
        # As EngineClient does, with the service's own queue to the GUI thread.
        self._chat.engine.receive(event)
