"""From a prompt to completions: read what is new of it, then write k streams.

The prompt is read once for each adapter and its cells are shared by all streams of that
adapter. All streams then advance side by side: those of one adapter a token each, in one batch
where that is faster; those of several adapters in turns of a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from desktop_app.inference.engine import (
    AdapterRef,
    ContextOverflow,
    Event,
    Generate,
    Part,
    PromptProgress,
    RequestDone,
    StopReason,
    StreamDone,
    StreamSpec,
    TextDelta,
)
from desktop_app.inference.fitting import LEAST_ANSWER, fit
from desktop_app.inference.llama_api import (
    AbortedError,
    Context,
    NoRoomError,
)
from desktop_app.inference.loaded_model import MAX_STREAMS, LoadedModel, adapter_key
from desktop_app.inference.parked_states import AdapterKey
from desktop_app.inference.prefix_cache import CachedSequence
from desktop_app.inference.reasoning import gone_on_with
from desktop_app.inference.sampler import RecordingSampler, Sampler, Sampling, usable_seed
from desktop_app.inference.text_stream import TextStream
from finetune.contract.chat_template import Message
from finetune.contract.reasoning import block_of_template, opened_by_template
from finetune.contract.records import Origin

SHORTEST_PIECE: Final = 32
"""Tokens; computing fewer in one call takes about as long."""
LAST_ROW: Final = -1
"""Of the logits of a batch: those of the prompt's last token."""
QUIET_SECONDS: Final = 5.0
"""After as long without an event there is a sign of life: tokens without text can be many, and
who hears nothing for a minute takes the engine for hung (``engine_client.SILENCE_LIMIT``)."""
TURN_SECONDS: Final = 0.1
"""How long one adapter's streams write before another's do: llama.cpp prepares its whole graph
anew when the adapter changes."""


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


@dataclass
class _Group:
    """Streams of one adapter, and their prompt in the spelling its cells know."""

    adapter: AdapterRef | None
    prompt: list[int]
    streams: list[_Stream]

    @property
    def running(self) -> list[_Stream]:
        return [stream for stream in self.streams if stream.reason is None]


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
        opened = opened_by_template(loaded.template, loaded.vocabulary.template_tokens)
        known = block_of_template(loaded.template)
        self._gone_on = gone_on_with(opened, known, request.reasoning, request.beginning)
        goes_on = bool(request.reasoning or request.beginning)
        self._streams = [
            _Stream(
                index,
                spec,
                usable_seed(spec.seed),
                TextStream(request.sampling.stop, self._gone_on.block, goes_on=goes_on),
            )
            for index, spec in enumerate(request.streams)
        ]
        self._sampling: Sampling | None = None
        self._reused: int | None = None
        self._computed = 0
        self._done = 0
        self._total = 0
        self._told_at = 0.0

    def run(self) -> Iterator[Event]:
        """All events of the request.

        Raises:
            InputError, UserError: it cannot be done; the model can still be used.
        """
        vocabulary = self._loaded.vocabulary
        self._sampling = Sampling(self._request.sampling, vocabulary, vocabulary.end_of_turn_id)
        try:
            yield from self._run()
        finally:
            self._sampling.close()

    def _run(self) -> Iterator[Event]:
        for spec in self._request.streams:
            self._loaded.prepare_adapter(spec.adapter)
        fitted = fit(
            self._request.messages,
            self._encode,
            self._loaded.context_length,
            self._request.sampling.max_tokens,
            self._request.overflow,
        )
        if fitted.dropped and self._request.overflow == "summarise":
            yield ContextOverflow(
                self._request.request_id,
                fitted.dropped,
                fitted.whole,
                self._loaded.context_length,
            )
            return
        rounds = self._rounds(fitted.ids)
        self._total = sum(len(group.prompt) for groups in rounds for group in groups)
        try:
            for groups in rounds:
                yield from self._run_round(groups)
        except BaseException:
            self._cache.clear()  # what the cells hold is not certain any more
            raise
        finally:
            for stream in self._streams:
                self._let_go(stream)
        yield RequestDone(
            self._request.request_id,
            len(rounds[0][0].prompt),
            self._reused or 0,
            self._loaded.context_length,
            fitted.dropped,
            self._computed,
        )

    # --- the prompt --------------------------------------------------------------------------

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        return self._loaded.encode(messages, self._gone_on)

    def _rounds(self, prompt: list[int]) -> list[list[_Group]]:
        """What is written side by side: as many streams as the cells have room for."""
        by_adapter: dict[AdapterKey, list[_Stream]] = {}
        for stream in self._streams:
            by_adapter.setdefault(adapter_key(stream.spec.adapter), []).append(stream)
        rounds: list[list[_Group]] = []
        taken = streams_so_far = 0
        for key, streams in by_adapter.items():
            spelled = self._spell(prompt, key)
            each = self._loaded.context_length - len(spelled)
            each = max(1, min(self._request.sampling.max_tokens, each))
            most = (self._context.cells - len(spelled)) // each
            size = max(1, min(most, MAX_STREAMS))
            for first in range(0, len(streams), size):
                group = _Group(streams[0].spec.adapter, spelled, streams[first : first + size])
                need = len(spelled) + each * len(group.streams)
                has_room = (
                    first == 0
                    and taken + need <= self._context.cells
                    and streams_so_far + len(group.streams) <= MAX_STREAMS
                )
                if rounds and has_room:
                    rounds[-1].append(group)
                    taken, streams_so_far = taken + need, streams_so_far + len(group.streams)
                else:
                    rounds.append([group])
                    taken, streams_so_far = need, len(group.streams)
        return rounds

    def _spell(self, prompt: list[int], adapter: AdapterKey) -> list[int]:
        """The prompt in the tokens its text was written with, unless these are too many."""
        loaded = self._loaded
        spelled = self._cache.respell(prompt, adapter, loaded.vocabulary.piece, loaded.special_ids)
        return spelled if len(spelled) <= loaded.context_length - LEAST_ANSWER else prompt

    def _read(
        self, prompt: list[int], cuts: Sequence[int], sequence: CachedSequence
    ) -> Iterator[Event]:
        """Compute the part of the prompt that ``sequence`` does not hold yet.

        The last token is always computed alone, as it is where all others are known already.
        """
        self._done += len(sequence.tokens)
        if self._reused is None:
            self._reused = len(sequence.tokens)
        while len(sequence.tokens) < len(prompt):
            yield self._progress()
            position = len(sequence.tokens)
            end, last = next(at for at in (*cuts, len(prompt)) if at > position), len(prompt) - 1
            # Behind what was written, which no other prompt has to the bit, cuts may be passed.
            is_behind_written = position > 0 and position not in cuts
            if is_behind_written and self._context.is_sooner_at_once(last - position, position):
                end = last
            piece = prompt[position:end]
            self._context.read(piece, position, sequence.number)
            sequence.tokens.extend(piece)
            self._done += len(piece)
            self._computed += len(piece)
            if len(sequence.tokens) == len(prompt) - 1:
                self._cache.mark(sequence)
        yield self._progress()

    # --- the completions ---------------------------------------------------------------------

    def _run_round(self, groups: list[_Group]) -> Iterator[Event]:
        """Read the prompt of each group, then let all write side by side."""
        for group in groups:
            for stream in group.streams:
                stream.began = time.monotonic()
        loaded = self._loaded
        cuts = [cut(group.prompt, loaded.special_ids, loaded.piece) for group in groups]
        sequences = self._cache.claim_all(
            [
                (group.prompt, cuts[number], adapter_key(group.adapter))
                for number, group in enumerate(groups)
            ]
        )
        for number, group in enumerate(groups):
            self._loaded.use_adapter(group.adapter)
            yield from self._begin(group, cuts[number], sequences[number])
        while writing := [group for group in groups if group.running]:
            for group in writing:
                if len(groups) > 1:
                    self._loaded.use_adapter(group.adapter)
                until = time.monotonic() + TURN_SECONDS
                while running := group.running:
                    yield from self._advance(running)
                    if len(writing) > 1 and time.monotonic() >= until:
                        break

    def _begin(
        self, group: _Group, cuts: Sequence[int], sequence: CachedSequence
    ) -> Iterator[Event]:
        """Read a group's prompt and draw the first tokens."""
        group.streams[0].sequence = sequence
        try:
            yield from self._read(group.prompt, cuts, sequence)
        except AbortedError:
            self._cache.truncate(sequence)
        for stream in group.streams:
            if self._is_stopped(stream.index):
                yield from self._end(stream, "stopped")
        for stream in group.running:
            assert self._sampling is not None
            stream.sampler = self._sampling.sampler(stream.seed, stream.text.is_in_opened_block)
            if stream.sequence is None:
                stream.sequence = self._cache.fork(sequence)
        yield from self._write([(stream, LAST_ROW) for stream in group.running])

    def _advance(self, running: list[_Stream]) -> Iterator[Event]:
        """One token of each stream: in one batch where that is faster, else one by one."""
        size = len(running) if len(running) >= self._loaded.writer.smallest_batch else 1
        try:
            for at in range(0, len(running), size):
                rows = running[at : at + size]
                self._step(rows)
                yield from self._write([(stream, row) for row, stream in enumerate(rows)])
        except AbortedError:
            for stream in running:
                assert stream.sequence is not None
                self._cache.truncate(stream.sequence)
                if stream.reason is None:
                    yield from self._end(stream, "stopped")
        except NoRoomError:
            for stream in running:
                if stream.reason is None:
                    yield from self._end(stream, "context_full")

    def _step(self, streams: Sequence[_Stream]) -> None:
        """Compute the last token of each stream."""
        sequences = [stream.sequence for stream in streams if stream.sequence is not None]
        tokens = [stream.tokens[-1] for stream in streams]
        self._loaded.writer.step(
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
            if stream.text.thought:
                yield self._thought(stream)
            if shown:
                yield self._delta(stream, shown)
            if time.monotonic() - self._told_at >= QUIET_SECONDS:
                yield self._progress()
            if stream.text.is_stopped:
                yield from self._end(stream, "stop_string")
            elif len(stream.tokens) >= self._request.sampling.max_tokens:
                yield from self._end(stream, "max_tokens")
            elif len(stream.sequence.tokens) + 1 >= self._loaded.context_length:
                yield from self._end(stream, "context_full")

    def _end(self, stream: _Stream, reason: StopReason) -> Iterator[Event]:
        stream.reason = reason
        rest = stream.text.end(cut_short=reason != "end_of_turn")
        if stream.text.thought:
            yield self._thought(stream)
        if rest:
            yield self._delta(stream, rest)
        sampler = stream.sampler
        drawn = sampler.drawn if isinstance(sampler, RecordingSampler) else []
        self._let_go(stream)
        yield StreamDone(
            self._request.request_id,
            stream.index,
            stream.text.text,
            reason,
            len(stream.tokens),
            time.monotonic() - stream.began,
            self._origin(stream),
            stream.text.reasoning,
            stream.text.reasoning_seconds,
            tuple(drawn[: len(stream.tokens)]),  # the end of turn is no part of the completion
        )

    def _thought(self, stream: _Stream) -> TextDelta:
        return self._delta(stream, stream.text.take_thought(), "reasoning")

    def _delta(self, stream: _Stream, text: str, part: Part = "answer") -> TextDelta:
        self._told_at = time.monotonic()
        return TextDelta(self._request.request_id, stream.index, text, part)

    def _progress(self) -> PromptProgress:
        self._told_at = time.monotonic()
        return PromptProgress(self._request.request_id, self._done, self._total)

    def _origin(self, stream: _Stream) -> Origin:
        adapter = stream.spec.adapter
        return Origin(
            model_version=stream.spec.version_id,
            model_sha256=self._loaded.ref.sha256,
            adapter_sha256=adapter.sha256 if adapter else None,
            adapter_scale=adapter.scale if adapter else 0.0,
            template_id=self._loaded.template_id,
            sampling={**self._request.sampling.recorded(), "seed": stream.seed},
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
