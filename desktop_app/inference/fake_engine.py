"""A small engine for tests and ``--fake``: it says the person's own words back.

Which word comes first depends on the seed, so k completions differ and each can be repeated.
Some words in the last message provoke faults and long answers, see ``FAULTS``. There is no
tokenizer here: a token is a word.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from desktop_app.inference.engine import (
    EngineFailure,
    Event,
    Generate,
    LoadProgress,
    ModelReady,
    ModelRef,
    PromptProgress,
    RequestDone,
    Score,
    Scored,
    Stop,
    StopReason,
    StreamDone,
    StreamSpec,
    TextDelta,
)
from finetune.contract.chat_template import CHATML, template_id
from finetune.contract.records import Origin

FAULTS = {
    "!crash": "the process aborts, as llama.cpp does on a failed assertion",
    "!exit": "the process ends with code 3",
    "!hang": "nothing comes any more",
    "!fail": "the request fails with a sentence",
    "!bug": "a Python exception nobody expected",
}
"""In a message or in a model's version id. ``!long`` makes an answer of 5,000 words, and
``!think`` a thought before it. In a
version id, ``!big`` does not fit and ``!slow`` loads until it is cancelled."""

CONTEXT_LENGTH = 4096


class FakeEngine:
    """Implements ``engine.Engine``.

    Args:
        seconds_per_token: how long each word takes.
    """

    def __init__(self, seconds_per_token: float = 0.0) -> None:
        self._seconds_per_token = seconds_per_token
        self._model: ModelRef | None = None
        self._stops: set[tuple[str, int | None]] = set()

    def load(
        self,
        model: ModelRef,
        *,
        anyway: bool = False,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Pretend to load; the file is not looked at."""
        self._model = None
        yield LoadProgress(0.5)
        if "!big" in model.version_id and not anyway:
            yield EngineFailure("The fake model is too big.", reason="does_not_fit")
            return
        while "!slow" in model.version_id:
            if is_cancelled():
                yield EngineFailure("Loading was stopped.", reason="cancelled")
                return
            time.sleep(0.01)
            yield LoadProgress(0.5)
        yield from _provoke(model.version_id, None)
        if "!fail" in model.version_id:
            return
        self._model = model
        yield LoadProgress(1.0)
        yield ModelReady(model.version_id, "Fake", CONTEXT_LENGTH, template_id(CHATML), 0.0)

    def generate(self, request: Generate) -> Iterator[Event]:
        """Say the last message's words, a word of each stream in turn."""
        if self._model is None:
            yield EngineFailure("No model is loaded.", request.request_id)
            return
        last = request.messages[-1].content
        prompt_tokens = sum(len(message.content.split()) + 2 for message in request.messages)
        yield PromptProgress(request.request_id, prompt_tokens, prompt_tokens)
        yield from _provoke(last, request.request_id)
        if "!fail" in last:
            return

        streams = [_Stream(request, index, spec) for index, spec in enumerate(request.streams)]
        while any(not stream.is_done for stream in streams):
            for stream in streams:
                if stream.is_done:
                    continue
                time.sleep(self._seconds_per_token)
                stopped = {(request.request_id, None), (request.request_id, stream.index)}
                if stopped & self._stops:
                    stream.finish("stopped")
                else:
                    yield from stream.step()
                if stream.reason is not None:
                    yield self._done(request, stream, stream.reason)
        self._stops = {stop for stop in self._stops if stop[0] != request.request_id}
        yield RequestDone(request.request_id, prompt_tokens, 0, CONTEXT_LENGTH)

    def score(self, request: Score) -> Iterator[Event]:
        """Shorter is better: a taste that can be told by looking."""
        scores = tuple(-float(len(text)) for text in request.completions)
        heads = tuple((value,) for value in scores)
        length = sum(map(len, request.completions))
        yield PromptProgress(request.request_id, length, length)
        yield Scored(request.request_id, scores, heads, (), 0, 0.0)

    def stop(self, request: Stop) -> None:
        """End a request's streams at their next word."""
        self._stops.add((request.request_id, request.stream))

    def forget(self) -> None:
        """Nothing is computed here."""

    def close(self) -> None:
        """Forget the model."""
        self._model = None

    def _done(self, request: Generate, stream: _Stream, reason: StopReason) -> StreamDone:
        assert self._model is not None
        adapter = stream.spec.adapter
        origin = Origin(
            model_version=stream.spec.version_id,
            model_sha256=self._model.sha256,
            adapter_sha256=adapter.sha256 if adapter else None,
            adapter_scale=adapter.scale if adapter else 0.0,
            template_id=template_id(CHATML),
            sampling={**request.sampling.recorded(), "seed": stream.spec.seed},
        )
        return StreamDone(
            request.request_id, stream.index, stream.text, reason, stream.tokens,
            time.monotonic() - stream.began, origin, stream.reasoning, stream.reasoning_seconds,
        )  # fmt: skip


class _Stream:
    """One completion on its way."""

    def __init__(self, request: Generate, index: int, spec: StreamSpec) -> None:
        last = request.messages[-1].content
        said = last.replace("!long", "").replace("!think", "").split() or ["nothing"]
        # Two seeds never give the same, where the message has two words.
        lead = request.streams[0].seed
        first = (lead if spec.seed == lead else lead + index) % len(said)
        words = said[first:] + said[:first]
        if "!long" in last:
            words = [words[i % len(words)] for i in range(5000)]
        opening = ["You", "like", "to", "say:"] if spec.adapter else ["You", "said:"]
        # What was said already, where a completion goes on.
        self._words = (opening + words)[len(request.beginning.split()) :] or ["."]
        self._request = request
        self.index = index
        self.spec = spec
        self.began = time.monotonic()
        self._thoughts = ["Somebody", "says", *said] if "!think" in last else []
        self.text = ""
        self.reasoning = ""
        self.reasoning_seconds = 0.0
        self.tokens = 0
        self.reason: StopReason | None = None

    @property
    def is_done(self) -> bool:
        return self.reason is not None

    def finish(self, reason: StopReason) -> None:
        self.reason = reason

    def step(self) -> Iterator[Event]:
        if self._thoughts:
            thought = self._thoughts.pop(0)
            piece = thought if not self.reasoning else f" {thought}"
            self.reasoning += piece
            self.reasoning_seconds = time.monotonic() - self.began
            yield TextDelta(self._request.request_id, self.index, piece, "reasoning")
            return
        sampling = self._request.sampling
        word = self._words[self.tokens]
        if any(stop and stop in word for stop in sampling.stop):
            self.finish("stop_string")
            return
        piece = word if not self.text else f" {word}"
        self.text += piece
        self.tokens += 1
        yield TextDelta(self._request.request_id, self.index, piece)
        if self.tokens == len(self._words):
            self.finish("end_of_turn")
        elif self.tokens == sampling.max_tokens:
            self.finish("max_tokens")


def _provoke(text: str, request_id: str | None) -> Iterator[Event]:
    if "!crash" in text:
        os.abort()
    if "!exit" in text:
        os._exit(3)
    if "!hang" in text:
        time.sleep(1e6)
    if "!bug" in text:
        raise ZeroDivisionError("a bug that was asked for")
    if "!fail" in text:
        yield EngineFailure("The fake engine was asked to fail.", request_id)
