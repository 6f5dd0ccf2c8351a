"""What an engine is: requests in, events out. Frozen data only; no llama.cpp here.

An engine lives in a child process (``engine_process``) and is spoken to through
``engine_client``. ``llama_engine`` is the real one, ``fake_engine`` a readable stand-in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final, Literal, Protocol

from finetune.contract.chat_template import Message
from finetune.contract.records import Origin

StopReason = Literal["end_of_turn", "stop_string", "max_tokens", "context_full", "stopped"]
Overflow = Literal["drop", "stop", "summarise"]
"""What to do with a conversation that is longer than the context: leave the oldest turns out,
refuse with a sentence, or say which turns are to be summarised first."""
CellType = Literal["f16", "q8_0"]
"""How keys and values are kept in the context's cells."""
FailureReason = Literal["", "does_not_fit", "cancelled"]


Part = Literal["answer", "reasoning"]
"""What a text belongs to: the completion, or what the model thought before it."""


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. Temperature 0 is greedy: only biases, penalties and DRY count.

    The links of the chain, where they do something, in llama.cpp's own order: logit bias,
    penalties, DRY, top-k, typical, top-p, min-p, XTC, temperature, draw. A grammar has the
    last word. Penalties and DRY look back on the completion, never on the prompt.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.05
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    typical_p: float = 1.0
    """Meister et al. 2022; 1 is off."""
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_window: int = 64
    """Tokens back that the three penalties look at."""
    dry_multiplier: float = 0.0
    """DRY, "don't repeat yourself": a token that would make a repetition of n tokens longer
    loses multiplier * base ** (n - allowed length). 0 is off."""
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    """Texts that no repetition goes across."""
    xtc_probability: float = 0.0
    """XTC, "exclude top choices": how often all but the least likely of the tokens above the
    threshold are left out. 0 is off."""
    xtc_threshold: float = 0.1
    mirostat: Literal[0, 1, 2] = 0
    """Basu et al. 2021, version 1 or 2, in place of all that leaves tokens out."""
    mirostat_tau: float = 5.0
    """The surprise aimed at, in bits."""
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[str | int, float], ...] = ()
    """Tokens, by id or by the text of exactly one, and what is added to their logits."""
    grammar: str = ""
    """GBNF, llama.cpp's grammar notation; ``root`` is the whole completion."""
    json_schema: str | Mapping[str, Any] = ""
    """The completion is JSON of this schema; in place of a grammar."""
    logprobs: int = 0
    """Log-probabilities of each token and of this many likeliest ones; 0 for none at all."""

    def recorded(self) -> dict[str, Any]:
        """What a record of a completion says: the common settings, and those that were changed."""
        values = asdict(self)
        return {
            name: value
            for name, value in values.items()
            if name in _ALWAYS_RECORDED or value != getattr(_DEFAULTS, name)
        }


_ALWAYS_RECORDED: Final = (
    "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "max_tokens", "stop",
)  # fmt: skip
_DEFAULTS: Final = SamplingParams()


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


@dataclass(frozen=True)
class MemoryNeed:
    """What a model takes of memory, in bytes, as a sum that can be shown."""

    weights: int
    cells: int
    """Keys and values of the context."""
    work: int
    adapters: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.cells + self.work + self.adapters


# --- requests ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    kind: ClassVar[str] = "load"
    model: ModelRef
    anyway: bool = False
    """Load it although it does not fit into the memory that is free."""


@dataclass(frozen=True)
class CancelLoad:
    """Give up all loads that were asked for so far; each ends with EngineFailure."""

    kind: ClassVar[str] = "cancel_load"


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
    reasoning: str = ""
    """What was thought before ``beginning``. Not sent again either."""
    overflow: Overflow = "drop"


@dataclass(frozen=True)
class Score:
    """How good completions of one prompt are, by the reward model in ``adapter``."""

    kind: ClassVar[str] = "score"
    request_id: str
    messages: tuple[Message, ...]
    completions: tuple[str, ...]
    adapter: AdapterRef | None
    """The file with the heads. None, for the base, can only give hidden states."""
    wants_hidden: bool = False
    """Give the hidden states at the completions' ends, and no scores."""


@dataclass(frozen=True)
class Stop:
    """End a request's streams, or one of them, keeping what was written."""

    kind: ClassVar[str] = "stop"
    request_id: str
    stream: int | None = None


@dataclass(frozen=True)
class Forget:
    """Let go of all that was computed of earlier conversations, in memory and in files."""

    kind: ClassVar[str] = "forget"


Request = Load | CancelLoad | Generate | Score | Stop | Forget


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
    need: MemoryNeed | None = None
    """What it takes of ordinary memory, by the estimate it was loaded with."""
    cell_type: CellType = "f16"
    gpu_layers: int = 0


@dataclass(frozen=True)
class PromptProgress:
    """How much of the prompt has been read. Comes at least once, with the whole count.

    Of what is to be scored too. In writing the last one is repeated now and then, as a sign of
    life, while there is a completion of which nothing can be shown yet.
    """

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
    part: Part = "answer"


@dataclass(frozen=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability.

    Under the model's own distribution: before biases, penalties, truncation, temperature and
    grammar. ``text`` may hold half a character, which is then shown as U+FFFD.
    """

    token: int
    text: str
    logprob: float


@dataclass(frozen=True)
class DrawnToken:
    """A token of a completion, and those that were the likeliest in its place, best first."""

    drawn: TokenLogprob
    likeliest: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class StreamDone:
    """One stream's end: the whole text, why it ended, and what really made it.

    ``text`` is the answer alone; ``reasoning`` is what a model that thinks first wrote before.
    """

    kind: ClassVar[str] = "stream_done"
    request_id: str
    stream: int
    text: str
    reason: StopReason
    completion_tokens: int
    seconds: float
    origin: Origin
    reasoning: str = ""
    reasoning_seconds: float = 0.0
    logprobs: tuple[DrawnToken, ...] = ()
    """Of each of the ``completion_tokens``, where they were asked for."""


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
class ContextOverflow:
    """The end of a request that wants its turns summarised first; nothing was written.

    The ``messages`` oldest messages, not counting the system prompt, are to be summarised.
    """

    kind: ClassVar[str] = "context_overflow"
    request_id: str
    messages: int
    prompt_tokens: int
    context_length: int


@dataclass(frozen=True)
class Scored:
    """Scores in the order of the completions; the reference's own samples have mean 0."""

    kind: ClassVar[str] = "scored"
    request_id: str
    scores: tuple[float, ...]
    """Conservative: the heads' mean less their variance times the reward model's uncertainty."""
    head_scores: tuple[tuple[float, ...], ...]
    hidden: tuple[tuple[float, ...], ...]
    computed_tokens: int
    seconds: float


@dataclass(frozen=True)
class EngineFailure:
    """A request or a load could not be done; the engine lives on. ``message`` is for people."""

    kind: ClassVar[str] = "failure"
    message: str
    request_id: str | None = None
    reason: FailureReason = ""


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
    | ContextOverflow
    | Scored
    | EngineFailure
    | EngineDied
)


class Engine(Protocol):
    """What runs inside the child. Iterating does the work; stopping is asked in between."""

    def load(
        self,
        model: ModelRef,
        *,
        anyway: bool = False,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Load a model, replacing the one before. Ends with ModelReady or EngineFailure.

        One that does not fit is refused and the one before stays, unless ``anyway``.
        ``is_cancelled`` is asked all the time, on any thread.
        """
        ...

    def generate(self, request: Generate) -> Iterator[Event]:
        """Complete a prompt. Ends with RequestDone, ContextOverflow or EngineFailure."""
        ...

    def score(self, request: Score) -> Iterator[Event]:
        """Score completions: PromptProgress, and at the end Scored or EngineFailure."""
        ...

    def stop(self, request: Stop) -> None:
        """End a request's streams soon. Called from any thread, also while ``generate`` runs
        or before it begins."""
        ...

    def forget(self) -> None:
        """Let go of all that was computed of earlier conversations."""
        ...

    def close(self) -> None:
        """Give all memory back."""
        ...
