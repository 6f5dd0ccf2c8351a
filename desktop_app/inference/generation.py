"""From a prompt to completions: fit it into the context, read what is new, write k streams.

The prompt is read once for each adapter and its cells are shared by all streams of that
adapter, which then advance together, one token of each in one batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from desktop_app.inference.engine import (
    Event,
    Generate,
    PromptProgress,
    RequestDone,
    StopReason,
    StreamDone,
    StreamSpec,
    TextDelta,
)
from desktop_app.inference.llama_api import (
    AbortedError,
    Context,
    NoRoomError,
    Sampler,
    usable_seed,
)
from desktop_app.inference.loaded_model import MAX_STREAMS, LoadedModel, adapter_key
from desktop_app.inference.prefix_cache import CachedSequence
from desktop_app.inference.text_stream import TextStream
from finetune.contract.chat_template import Message
from finetune.contract.errors import InputError
from finetune.contract.records import Origin

SHORTEST_PIECE: Final = 32
"""Tokens; computing fewer in one call takes about as long."""
LEAST_ANSWER: Final = 16
"""Tokens that must be left for the answer, even to the longest message."""


@dataclass
class _Stream:
    """One completion on its way."""

    index: int
    spec: StreamSpec
    seed: int
    text: TextStream
    began: float = 0.0
    tokens: list[int] = field(default_factory=list)
    sampler: Sampler | None = None
    sequence: CachedSequence | None = None
    reason: StopReason | None = None


class Generation:
    """One request, carried out once.

    Args:
        is_stopped: whether a stream is to end now.
    """

    def __init__(
        self, loaded: LoadedModel, request: Generate, is_stopped: Callable[[int], bool]
    ) -> None:
        assert loaded.context is not None
        self._loaded = loaded
        self._context: Context = loaded.context
        self._cache = loaded.cache
        self._request = request
        self._is_stopped = is_stopped
        self._streams = [
            _Stream(index, spec, usable_seed(spec.seed), TextStream(request.sampling.stop))
            for index, spec in enumerate(request.streams)
        ]
        self._reused: int | None = None
        self._computed = 0
        self._done = 0
        self._total = 0

    def run(self) -> Iterator[Event]:
        """All events of the request.

        Raises:
            InputError, UserError: it cannot be done; the model can still be used.
        """
        for spec in self._request.streams:
            self._loaded.prepare_adapter(spec.adapter)
        prompt, dropped = self._fit()
        groups = self._groups(len(prompt))
        self._total = len(prompt) * len(groups)
        try:
            for group in groups:
                yield from self._run_group(prompt, group)
        except BaseException:
            self._cache.clear()  # what the cells hold is not certain any more
            raise
        finally:
            for stream in self._streams:
                self._let_go(stream)
        yield RequestDone(
            self._request.request_id,
            len(prompt),
            self._reused or 0,
            self._loaded.context_length,
            dropped,
            self._computed,
        )

    # --- the prompt --------------------------------------------------------------------------

    def _fit(self) -> tuple[list[int], int]:
        """The prompt's ids, and how many of the oldest messages had to be left out."""
        messages = self._request.messages
        length = self._loaded.context_length
        room = length - min(self._request.sampling.max_tokens, length // 4)
        lead = [m for m in messages[:1] if m.role == "system"]
        turns = messages[len(lead) :]
        # A conversation may begin anew at each of the person's messages.
        starts = [0, *(i for i, m in enumerate(turns) if i > 0 and m.role == "user")]
        low, high = 0, len(starts) - 1
        best = self._encode(messages)
        if len(best) <= room:
            return best, 0
        best = self._encode([*lead, *turns[starts[high] :]])
        if len(best) > length - LEAST_ANSWER:
            raise _too_long(len(best), length, turns[starts[high] :])
        while low + 1 < high:  # low does not fit, high does: the longest that does
            middle = (low + high) // 2
            ids = self._encode([*lead, *turns[starts[middle] :]])
            if len(ids) <= room:
                high, best = middle, ids
            else:
                low = middle
        return best, starts[high]

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        return self._loaded.encode(messages, self._request.beginning)

    def _groups(self, prompt_length: int) -> list[list[_Stream]]:
        """Streams that are written side by side: of one adapter, and as many as have room."""
        each = min(self._request.sampling.max_tokens, self._loaded.context_length - prompt_length)
        room = (self._context.cells - prompt_length) // max(each, 1)
        size = max(1, min(room, MAX_STREAMS))
        by_adapter: dict[object, list[_Stream]] = {}
        for stream in self._streams:
            by_adapter.setdefault(adapter_key(stream.spec.adapter), []).append(stream)
        return [
            streams[first : first + size]
            for streams in by_adapter.values()
            for first in range(0, len(streams), size)
        ]

    def _read(
        self, prompt: Sequence[int], cuts: Sequence[int], sequence: CachedSequence
    ) -> Iterator[Event]:
        """Compute the part of the prompt that ``sequence`` does not hold yet.

        The last token is always computed alone, as it is where all others are known already.
        """
        self._done += len(sequence.tokens)
        if self._reused is None:
            self._reused = len(sequence.tokens)
        while len(sequence.tokens) < len(prompt):
            yield PromptProgress(self._request.request_id, self._done, self._total)
            position = len(sequence.tokens)
            piece = prompt[position : next(at for at in (*cuts, len(prompt)) if at > position)]
            self._context.read(piece, position, sequence.number)
            sequence.tokens.extend(piece)
            self._done += len(piece)
            self._computed += len(piece)
        yield PromptProgress(self._request.request_id, self._done, self._total)

    # --- the completions ---------------------------------------------------------------------

    def _run_group(self, prompt: Sequence[int], group: list[_Stream]) -> Iterator[Event]:
        for stream in group:
            stream.began = time.monotonic()
        self._loaded.use_adapter(group[0].spec.adapter)
        cuts = cut(prompt, self._loaded.special_ids, self._loaded.piece)
        first = self._cache.claim(prompt, cuts, adapter_key(group[0].spec.adapter))
        group[0].sequence = first
        try:
            yield from self._read(prompt, cuts, first)
        except AbortedError:
            self._cache.truncate(first)
        for stream in group:
            if self._is_stopped(stream.index):
                yield from self._end(stream, "stopped")
        running = [stream for stream in group if stream.reason is None]
        if not running:
            return

        for stream in running:
            stream.sampler = Sampler(
                self._request.sampling, self._loaded.vocabulary.size, stream.seed
            )
            if stream.sequence is None:
                stream.sequence = self._cache.fork(first)
        last_row = -1
        yield from self._write([(stream, last_row) for stream in running])
        while running := [stream for stream in running if stream.reason is None]:
            try:
                self._step(running)
            except AbortedError:
                for stream in running:
                    assert stream.sequence is not None
                    self._cache.truncate(stream.sequence)
                    yield from self._end(stream, "stopped")
                return
            except NoRoomError:
                for stream in running:
                    yield from self._end(stream, "context_full")
                return
            yield from self._write([(stream, row) for row, stream in enumerate(running)])

    def _step(self, streams: Sequence[_Stream]) -> None:
        """Compute the last token of each stream."""
        sequences = [stream.sequence for stream in streams if stream.sequence is not None]
        tokens = [stream.tokens[-1] for stream in streams]
        self._context.step(
            tokens, [len(s.tokens) for s in sequences], [s.number for s in sequences]
        )
        for sequence, token in zip(sequences, tokens, strict=True):
            sequence.tokens.append(token)

    def _write(self, rows: Sequence[tuple[_Stream, int]]) -> Iterator[Event]:
        """Draw a token for each stream from its row of logits."""
        for stream, row in rows:
            assert stream.sampler is not None
            assert stream.sequence is not None
            if self._is_stopped(stream.index):
                yield from self._end(stream, "stopped")
                continue
            token = stream.sampler.sample(self._context, row)
            if token in self._loaded.end_ids:
                yield from self._end(stream, "end_of_turn")
                continue
            stream.tokens.append(token)
            shown = stream.text.feed(self._loaded.vocabulary.piece(token))
            if shown:
                yield TextDelta(self._request.request_id, stream.index, shown)
            if stream.text.is_stopped:
                yield from self._end(stream, "stop_string")
            elif len(stream.tokens) >= self._request.sampling.max_tokens:
                yield from self._end(stream, "max_tokens")
            elif len(stream.sequence.tokens) + 1 >= self._loaded.context_length:
                yield from self._end(stream, "context_full")

    def _end(self, stream: _Stream, reason: StopReason) -> Iterator[Event]:
        stream.reason = reason
        rest = stream.text.end(cut_short=reason != "end_of_turn")
        if rest:
            yield TextDelta(self._request.request_id, stream.index, rest)
        self._let_go(stream)
        yield StreamDone(
            self._request.request_id,
            stream.index,
            stream.text.text,
            reason,
            len(stream.tokens),
            time.monotonic() - stream.began,
            self._origin(stream),
        )

    def _origin(self, stream: _Stream) -> Origin:
        adapter = stream.spec.adapter
        return Origin(
            model_version=stream.spec.version_id,
            model_sha256=self._loaded.ref.sha256,
            adapter_sha256=adapter.sha256 if adapter else None,
            adapter_scale=adapter.scale if adapter else 0.0,
            template_id=self._loaded.template_id,
            sampling={**asdict(self._request.sampling), "seed": stream.seed},
        )

    def _let_go(self, stream: _Stream) -> None:
        if stream.sampler is not None:
            stream.sampler.close()
            stream.sampler = None


def cut(prompt: Sequence[int], special_ids: frozenset[int], longest: int) -> list[int]:
    """Where a prompt is cut into pieces that are computed in one call each.

    Whether a cut is at some place depends on the tokens before it alone, and most are where a
    message begins: what two prompts share is then cut in the same places and computed in the
    same way, be it now or long ago. The last token is a piece of its own.
    """
    cuts: list[int] = []
    last = 0
    for index in range(1, len(prompt) - 1):
        begins = prompt[index] in special_ids and prompt[index - 1] not in special_ids
        if (begins and index - last >= SHORTEST_PIECE) or index - last == longest:
            cuts.append(index)
            last = index
    return [*cuts, len(prompt) - 1] if len(prompt) > 1 else cuts


def _too_long(tokens: int, length: int, turn: Sequence[Message]) -> InputError:
    what = "This message" if len(turn) == 1 else "The last turn"
    return InputError(
        f"{what} is {tokens:,} tokens long, and the model can read {length:,} at once. "
        "Shorten it or send it in parts."
    )
