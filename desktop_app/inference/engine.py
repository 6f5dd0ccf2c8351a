"""What an engine is: requests in, events out. Frozen data only; no llama.cpp here.

An engine lives in a child process (``engine_process``) and is spoken to through
``engine_client``. ``llama_engine`` is the real one, ``fake_engine`` a readable stand-in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from finetune.contract.chat_template import Message
from finetune.contract.records import Origin

StopReason = Literal["end_of_turn", "stop_string", "max_tokens", "context_full", "stopped"]


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. Temperature 0 is greedy."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.05
    max_tokens: int = 512
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class AdapterRef:
    """A LoRA adapter file to apply at ``scale``."""

    path: str
    sha256: str
    scale: float = 1.0


@dataclass(frozen=True)
class ModelRef:
    """A model to load: the base file, and the adapter that makes it personal."""

    version_id: str
    path: str
    sha256: str
    adapter: AdapterRef | None = None
    context_length: int = 0
    """Tokens; 0 lets the engine choose from the model and the memory."""


@dataclass(frozen=True)
class StreamSpec:
    """One of the completions asked for: its seed, and what writes it."""

    seed: int
    version_id: str
    adapter: AdapterRef | None = None


# --- requests ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    kind: ClassVar[str] = "load"
    model: ModelRef


@dataclass(frozen=True)
class Generate:
    """Complete one prompt, as many times as there are ``streams``."""

    kind: ClassVar[str] = "generate"
    request_id: str
    messages: tuple[Message, ...]
    sampling: SamplingParams
    streams: tuple[StreamSpec, ...]
    beginning: str = ""
    """What the completion begins with, to go on where one was cut off. Not sent again."""


@dataclass(frozen=True)
class Stop:
    """End a request's streams, or one of them, keeping what was written."""

    kind: ClassVar[str] = "stop"
    request_id: str
    stream: int | None = None


Request = Load | Generate | Stop


# --- events --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadProgress:
    kind: ClassVar[str] = "load_progress"
    fraction: float


@dataclass(frozen=True)
class ModelReady:
    kind: ClassVar[str] = "model_ready"
    version_id: str
    name: str
    context_length: int
    template_id: str
    seconds: float


@dataclass(frozen=True)
class PromptProgress:
    """How much of the prompt has been read. Comes at least once, with the whole count."""

    kind: ClassVar[str] = "prompt_progress"
    request_id: str
    done: int
    total: int


@dataclass(frozen=True)
class TextDelta:
    """More text of one stream: valid UTF-8, never half a character."""

    kind: ClassVar[str] = "text_delta"
    request_id: str
    stream: int
    text: str


@dataclass(frozen=True)
class StreamDone:
    """One stream's end: the whole text, why it ended, and what really made it."""

    kind: ClassVar[str] = "stream_done"
    request_id: str
    stream: int
    text: str
    reason: StopReason
    completion_tokens: int
    seconds: float
    origin: Origin


@dataclass(frozen=True)
class RequestDone:
    """All streams of a request have ended. ``dropped_messages`` did not fit the context.

    ``reused_tokens`` of the prompt were known when its first reading began.
    ``computed_tokens`` were read in all: streams of two adapters read the prompt twice.
    """

    kind: ClassVar[str] = "request_done"
    request_id: str
    prompt_tokens: int
    reused_tokens: int
    context_length: int
    dropped_messages: int = 0
    computed_tokens: int = 0


@dataclass(frozen=True)
class EngineFailure:
    """A request or a load could not be done; the engine lives on. ``message`` is for people."""

    kind: ClassVar[str] = "failure"
    message: str
    request_id: str | None = None


@dataclass(frozen=True)
class EngineDied:
    """The child is gone (written by the client, never by the child)."""

    kind: ClassVar[str] = "died"
    message: str
    exit_code: int | None = None
    during_load: bool = False
    request_ids: tuple[str, ...] = field(default=())


Event = (
    LoadProgress
    | ModelReady
    | PromptProgress
    | TextDelta
    | StreamDone
    | RequestDone
    | EngineFailure
    | EngineDied
)


class Engine(Protocol):
    """What runs inside the child. Iterating does the work; stopping is asked in between."""

    def load(self, model: ModelRef) -> Iterator[Event]:
        """Load a model, replacing the one before. Ends with ModelReady or EngineFailure."""
        ...

    def generate(self, request: Generate) -> Iterator[Event]:
        """Complete a prompt. Ends with RequestDone or EngineFailure."""
        ...

    def stop(self, request: Stop) -> None:
        """End a request's streams soon. Called from any thread, also while ``generate`` runs
        or before it begins."""
        ...

    def close(self) -> None:
        """Give all memory back."""
        ...
