"""Short ways to ask an engine, and its answer's events sorted."""

from __future__ import annotations

from collections.abc import Iterable

from desktop_app.inference.engine import (
    AdapterRef,
    Engine,
    EngineFailure,
    Event,
    Generate,
    RequestDone,
    SamplingParams,
    StreamDone,
    StreamSpec,
    TextDelta,
)
from finetune.contract.chat_template import Message


def request(
    *said: str,
    request_id: str = "r",
    seeds: Iterable[int] = (1,),
    adapters: Iterable[AdapterRef | None] = (),
    **sampling: object,
) -> Generate:
    """The person and the model have ``said`` these in turn; one stream for each seed."""
    roles = ("user", "assistant")
    messages = tuple(Message(roles[i % 2], text) for i, text in enumerate(said))
    seeds = tuple(seeds)
    adapters = tuple(adapters) or (None,) * len(seeds)
    params = SamplingParams(**{"max_tokens": 24, **sampling})  # type: ignore[arg-type]
    streams = tuple(
        StreamSpec(seed, f"version-{i}", adapter)
        for i, (seed, adapter) in enumerate(zip(seeds, adapters, strict=True))
    )
    return Generate(request_id, messages, params, streams)


class Answer:
    """All events of a request, sorted."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.events = list(events)
        self.streams = {e.stream: e for e in self.events if isinstance(e, StreamDone)}
        self.failure = next((e for e in self.events if isinstance(e, EngineFailure)), None)
        self._done = next((e for e in self.events if isinstance(e, RequestDone)), None)

    @property
    def done(self) -> RequestDone:
        assert self._done is not None, self.events[-1]
        return self._done

    @property
    def texts(self) -> list[str]:
        return [self.streams[i].text for i in sorted(self.streams)]

    @property
    def text(self) -> str:
        assert len(self.streams) == 1
        return self.texts[0]

    def pieces(self, stream: int = 0) -> list[str]:
        return [e.text for e in self.events if isinstance(e, TextDelta) and e.stream == stream]


def begin_alike(texts: Iterable[str], others: Iterable[str], length: int = 12) -> bool:
    """Whether texts agree for a while: longer is not certain between batches of two sizes,
    whose sums of floats differ in the last digit and sooner or later in a token."""
    pairs = zip(texts, others, strict=True)
    return all(a[:length] == b[:length] and len(a) >= length for a, b in pairs)


def ask(engine: Engine, *said: str, **options: object) -> Answer:
    return Answer(engine.generate(request(*said, **options)))  # type: ignore[arg-type]
