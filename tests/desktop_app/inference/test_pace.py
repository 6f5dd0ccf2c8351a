"""How fast is found by trying; what is written does not depend on what was found."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from desktop_app.inference import llama_api
from desktop_app.inference.llama_api import Context, Model, is_read_sooner_with_filler
from desktop_app.inference.llama_engine import LlamaEngine
from desktop_app.inference.pace import (
    BLOCK,
    ENOUGH,
    PATIENCE,
    REMEMBERED,
    Contest,
    Pace,
    Writer,
    measure,
    thread_counts,
)
from desktop_app.inference.sampler import Floats, logits_of
from tests.desktop_app.inference.asking import ask, begin_alike


def test_measuring_leaves_the_context_empty_and_chooses_what_there_is(engine: LlamaEngine) -> None:
    loaded = engine._loaded
    assert loaded is not None
    assert loaded.context is not None
    before = ask(engine, "Hello").text
    loaded.cache.clear()
    pace = measure(loaded.context, cores=2, limit=9)
    assert pace.threads in (1, 2)
    assert pace.batch_threads in (1, 2)
    assert pace.smallest_batch in (2, 4, 8, 10)
    assert ask(engine, "Hello").text == before


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_is_tried_than_is_allowed(engine: LlamaEngine, limit: int) -> None:
    assert engine._loaded is not None
    assert engine._loaded.context is not None
    assert measure(engine._loaded.context, cores=1, limit=limit).smallest_batch in (2, limit + 1)


def test_one_by_one_each_completion_is_what_it_is_alone(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = [1, 2, 3, 4]
    alone = [ask(engine, "Hello there", seeds=[seed]).text for seed in seeds]
    loaded = engine._loaded
    assert loaded is not None
    assert loaded.context is not None
    one_by_one, batched = (Pace(1, 1, smallest_batch=size, seconds=1e-3) for size in (10, 2))
    monkeypatch.setattr(loaded, "writer", Writer(loaded.context, one_by_one, cores=1))
    answer = ask(engine, "Hello there", seeds=seeds)
    assert answer.texts == alone
    assert answer.done.computed_tokens == 1
    order = [event.stream for event in answer.events if hasattr(event, "stream")]
    assert sorted(order[:4]) == [0, 1, 2, 3]  # side by side, not one after another
    monkeypatch.setattr(loaded, "writer", Writer(loaded.context, batched, cores=1))
    assert begin_alike(ask(engine, "Hello there", seeds=seeds).texts, alone)


def written(contest: Contest, seconds: dict[int, float], steps: int) -> list[int]:
    """The threads of each of so many steps, on a computer where they take so long."""
    threads = []
    for _ in range(steps):
        threads.append(contest.threads)
        contest.note(seconds[contest.threads])
    return threads


def test_the_faster_number_of_threads_does_nearly_all_steps() -> None:
    contest = Contest((1, 2), 1)
    threads = written(contest, {1: 3.0, 2: 2.0}, 1000)
    begins = ENOUGH * (BLOCK + 1)
    assert threads[: begins + 1] == [1] * begins + [2]
    assert threads.count(2) > 960


def test_threads_follow_other_programs_that_come_and_go() -> None:
    contest = Contest((1, 2), 2)
    quiet, busy = {1: 3.0, 2: 2.0}, {1: 3.0, 2: 12.0}
    written(contest, quiet, 300)
    assert contest.threads == 2
    threads = written(contest, busy, 300)
    assert threads.count(2) <= 4 * (BLOCK + 1)  # until it is noticed, and each time it is tried
    # Two threads are known as slow, and tried again only after what that would take in all.
    longest = round(PATIENCE * (BLOCK + 1) * busy[2] / busy[1]) + 2 * (BLOCK + 1)
    assert 2 in written(contest, quiet, longest)
    assert written(contest, quiet, 300).count(2) > 280


def test_trying_costs_a_sixtieth_at_most() -> None:
    contest = Contest((1, 2), 1)
    seconds = {1: 1.0, 2: 50.0}
    written(contest, seconds, 2 * (BLOCK + 1))
    threads = written(contest, seconds, 20_000)
    assert sum(seconds[count] for count in threads if count == 2) < 0.025 * sum(
        seconds[count] for count in threads
    )


def test_threads_that_are_held_up_now_and_then_are_seen_through() -> None:
    """Two threads are quicker but for every 31st step, which takes as long as forty."""
    contest = Contest((1, 2), 2)
    seconds, twos, one_alone = 0.0, 0, 1.5
    for step in range(20_000):
        took = (40.0 if step % 31 == 0 else 1.0) if contest.threads == 2 else one_alone
        seconds, twos = seconds + took, twos + (contest.threads == 2)
        contest.note(took)
    assert twos < 0.3 * 20_000
    assert seconds < 20_000 * (0.75 * one_alone + 0.25 * 70 / 31)  # a third less than two alone


def test_half_of_the_cores_are_tried_too() -> None:
    assert thread_counts(1) == [1]
    assert thread_counts(2) == [1, 2]
    assert thread_counts(3) == [1, 2, 3]
    assert thread_counts(8) == [1, 4, 8]
    contest = Contest(thread_counts(8), 8)
    one_core_busy = {1: 8.0, 4: 3.0, 8: 20.0}
    written(contest, one_core_busy, 100)
    assert contest.threads == 4
    assert written(contest, one_core_busy, 2000).count(4) > 1850
    all_free = {1: 8.0, 4: 3.0, 8: 2.0}
    longest = 2 * (round(PATIENCE * BLOCK * one_core_busy[8] / one_core_busy[4]) + 50)
    assert 8 in written(contest, all_free, longest)
    written(contest, all_free, 1000)
    assert written(contest, all_free, 1000).count(8) > 920


def test_one_number_of_threads_is_never_changed() -> None:
    contest = Contest([2], 2)
    assert written(contest, {2: 1.0}, 100) == [2] * 100


def test_a_real_context_writes_the_same_with_threads_that_change(engine: LlamaEngine) -> None:
    assert engine._loaded is not None
    context = engine._loaded.context
    assert context is not None
    used: list[int] = []

    def greedy(step: Callable[[list[int], list[int], list[int]], None]) -> list[int]:
        context.clear()
        tokens = [1]
        for position in range(6 * REMEMBERED * BLOCK):
            step([tokens[-1]], [position], [0])
            used.append(int(llama_cpp.llama_n_threads(context.pointer)))
            tokens.append(int(logits_of(context, 0, engine._loaded.vocabulary.size).argmax()))
        return tokens

    context.use_threads(1, 1, 1)
    alone = greedy(context.step)
    assert set(used) == {1}
    writer = Writer(context, Pace(1, 1, smallest_batch=10, seconds=1e-3), cores=2)
    assert greedy(writer.step) == alone
    assert set(used) == {1, 2}
    context.clear()


def test_filler_changes_nothing_but_the_time(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [n for n in range(1, 80) if is_read_sooner_with_filler(n, 2000)] == [*range(41, 64)]
    assert not any(is_read_sooner_with_filler(n, 0) for n in range(1, 80))
    model = Model(model_file, lambda _: True)
    context = Context(model, cells=1024, sequences=1, threads=1)
    size = int(llama_cpp.llama_vocab_n_tokens(model.vocab))
    prompt = [1 + at % 50 for at in range(950)]

    def logits(*, is_filled: bool) -> list[Floats]:
        """Of a prompt's last token, and of one behind it."""
        context.clear()
        monkeypatch.setattr(
            llama_api, "is_read_sooner_with_filler", lambda count, at: is_filled and count == 50
        )
        context.read(prompt[:450], 0, 0)
        context.read(prompt[450:900], 450, 0)
        context.read(prompt[900:], 900, 0)
        assert llama_cpp.llama_memory_seq_pos_max(context._memory, 0) == 949
        last = logits_of(context, -1, size).copy()
        context.step([7], [950], [0])
        return [last, logits_of(context, 0, size).copy()]

    filled, plain = logits(is_filled=True), logits(is_filled=False)
    np.testing.assert_allclose(filled, plain, atol=3e-2)  # f16 sums, in another order
    assert np.ptp(plain[0] - plain[1]) > 0.1  # two places, told apart
    context.close()
    model.close()


def test_what_a_turn_adds_is_read_at_once_where_that_is_sooner(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[tuple[int, int]] = []
    plain = Context._read

    def noted(
        self: Context, tokens: list[int], position: int, sequence: int, filler: int = 0
    ) -> None:
        pieces.append((len(tokens), filler))
        plain(self, tokens, position, sequence, filler)

    def is_sooner(count: int, position: int) -> bool:
        return position > 30 and 20 < count < 64

    monkeypatch.setattr(Context, "_read", noted)
    said = ["Hello there", "Hm " * 10, "And how are you today, my friend?", "Yes " * 9, "Why?"]
    figures, afresh = [], list[list[int]]()
    for rule in (lambda count, position: False, is_sooner):
        monkeypatch.setattr(llama_api, "is_read_sooner_with_filler", rule)
        assert engine._loaded is not None
        engine._loaded.cache.forget()
        for upto in (1, 3, 5):
            pieces.clear()
            done = ask(engine, *said[:upto], max_tokens=4).done
            figures.append((done.reused_tokens, done.computed_tokens))
            assert sum(count for count, _ in pieces) == done.computed_tokens
            assert pieces[-1] == (1, 0)
        if rule is is_sooner:
            (count, filler), _ = pieces
            assert count + filler == 64
        else:
            assert len(pieces) > 2
        pieces.clear()
        engine._loaded.cache.forget()
        ask(engine, *said, max_tokens=4)
        afresh.append([count for count, _ in pieces])
    assert figures[:3] == figures[3:]
    # Read from the start, a prompt is cut in the same places: others may share its beginning.
    assert afresh[0] == afresh[1]


def test_long_texts_too_are_the_same_whatever_the_threads(model_file: Path) -> None:
    model = Model(model_file, lambda _: True)
    context = Context(model, cells=1024, sequences=2, threads=2)
    size = int(llama_cpp.llama_vocab_n_tokens(model.vocab))

    def logits(threads: int) -> list[bytes]:
        """Behind a prompt that grows, of tokens alone, and behind one that was put back."""
        context.clear()
        context.use_threads(threads, threads, threads)
        rows = []
        for start, length in pairwise((0, 100, 254, 255, 256, 257, 300, 500)):
            context.read([1 + at % 50 for at in range(start, length)], start, 0)
            for sequence in (0, 1):
                context.copy(0, 1, length)
                context.step([7], [length], [sequence])
                rows.append(logits_of(context, 0, size).tobytes())
            context.cut(0, length)
        state = context.save(0)
        context.clear()
        assert context.has_choice
        assert context.restore(1, state)
        context.read([7], 500, 1)
        return [*rows, logits_of(context, 0, size).tobytes()]

    assert logits(1) == logits(2)
    assert not context.has_choice
    assert llama_cpp.llama_n_threads(context.pointer) == 2
    context.clear()
    context.use_threads(1, 1, 1)
    context.step([7], [0], [0])
    assert llama_cpp.llama_n_threads(context.pointer) == 1
    context.close()
    model.close()
