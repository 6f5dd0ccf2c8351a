"""How the bundled model's replies are counted, by hand-made replies; and what n-grams know."""

from __future__ import annotations

import math
import re

import pytest

from tests.benchmarks.byte_ngram import ByteNgram
from tests.benchmarks.everyday import (
    ABILITIES,
    EverydayPrompt,
    distinct_2,
    is_in_language,
    loops,
    read_prompts,
)


@pytest.mark.parametrize(("language", "prefix", "count"), [("en", "", 100), ("ko", "second_", 40)])
def test_the_examination_has_every_ability(language: str, prefix: str, count: int) -> None:
    prompts = read_prompts(language, prefix)
    assert len(prompts) == count
    assert set(ABILITIES) <= {prompt.kind for prompt in prompts}
    # A rule that accepts anything asks nothing.
    assert not any(prompt.accepts("Qqq.") or prompt.accepts("ㅋㅋ") for prompt in prompts)


@pytest.mark.parametrize(
    ("language", "asked", "reply", "is_in_it"),
    [
        ("en", "Hi", "Hello!", True),
        ("en", "Hi", "안녕!", False),
        ("en", "Hi", "...", False),
        ("ko", "안녕", "안녕! Hi", True),
        ("ko", "안녕", "Hello 너", False),
        ("en", "Translate to Korean: tea", "차예요.", True),
    ],
)
def test_the_language_of_a_reply(language: str, asked: str, reply: str, is_in_it: bool) -> None:
    prompt = EverydayPrompt(language, "greeting", asked, re.compile("."))
    assert is_in_language(prompt, reply) is is_in_it


def test_four_words_four_times_are_a_loop() -> None:
    assert loops("a b c d " * 4)
    assert not loops("a b c d " * 3)
    assert not loops("no " * 6)  # three runs of four


def test_distinct_pairs_of_words() -> None:
    assert distinct_2(["a b c", "a b d"]) == 3 / 4
    assert distinct_2(["Yes.", "Yes."]) == 1 / 2
    assert distinct_2([]) == 0.0


def test_an_n_gram_by_hand() -> None:
    """Of "ab" twice: order 0 has a 2 of 4 and b 2 of 4; behind a always b."""
    model = ByteNgram(b"abab", entries=100)
    first = (2 + 2 / 256) / (4 + 2)  # Witten-Bell: two kinds seen in four
    second = (2 + 1 * first) / (2 + 1)
    expected = -(math.log2(first) + math.log2(second)) / 2
    assert model.bits_per_byte(b"ab") == pytest.approx(expected)
