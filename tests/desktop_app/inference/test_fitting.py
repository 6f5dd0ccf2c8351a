"""Which messages are left out, by a tokenizer whose tokens are words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from desktop_app.inference.fitting import fit, reserved
from finetune.contract.chat_template import Message
from finetune.contract.errors import InputError

SYSTEM = Message("system", "be kind")


def encode(messages: Sequence[Message]) -> list[int]:
    """One token for each word, and one for each message."""
    return [hash(word) for m in messages for word in (m.role, *m.content.split())]


def talk(turns: int, words: int = 9) -> list[Message]:
    """Questions and answers of ``words`` + 1 tokens each, and a last question."""
    text = "word " * words
    roles = ("user", "assistant")
    return [Message(roles[i % 2], text) for i in range(2 * turns + 1)]


def test_what_fits_is_sent_whole() -> None:
    fitted = fit(talk(3), encode, 100, 30)  # 70 tokens, and 25 are kept free
    assert (len(fitted.ids), fitted.whole, fitted.dropped) == (70, 70, 0)


def test_the_answers_room_is_a_quarter_at_most() -> None:
    assert reserved(30, 1000) == 30
    assert reserved(900, 1000) == 250


def test_the_oldest_turns_go_and_the_system_prompt_stays() -> None:
    messages = [SYSTEM, *talk(10)]  # 3 + 210 tokens
    fitted = fit(messages, encode, 160, 40)  # room for 120; a portion is 30
    assert fitted.whole == 213
    # 93 too many are four portions: 93 tokens may stay, which are the system prompt's 3 and 90.
    assert len(fitted.ids) == 93
    assert fitted.dropped == 12
    assert fitted.ids == encode([SYSTEM, *talk(10)[12:]])


def test_the_same_turns_go_until_a_portion_is_full() -> None:
    """So that the next prompt begins as the last one did and need not be read again."""
    dropped = [fit([SYSTEM, *talk(n)], encode, 1000, 100).dropped for n in range(45, 120)]
    changes = sum(a != b for a, b in pairwise(dropped))
    assert dropped == sorted(dropped)
    assert changes == 6  # from 913 to 2,393 tokens, in portions of 225
    assert all(count % 2 == 0 for count in dropped)  # a question goes with its answer


def test_summaries_are_rarer_and_stand_for_more() -> None:
    short = fit(talk(10), encode, 160, 40, "drop")
    summarised = fit(talk(10), encode, 160, 40, "summarise")
    assert summarised.dropped > short.dropped


def test_stopping_says_both_numbers_and_only_where_something_would_go() -> None:
    assert fit(talk(3), encode, 100, 30, "stop").dropped == 0
    with pytest.raises(InputError, match="210 tokens long, and the model can read 160"):
        fit(talk(10), encode, 160, 40, "stop")


@pytest.mark.parametrize("overflow", ["drop", "stop", "summarise"])
def test_one_message_that_is_too_long_alone_is_told_as_that(overflow: str) -> None:
    long = [*talk(3), Message("assistant", "yes"), Message("user", "word " * 500)]
    with pytest.raises(InputError, match=r"This message is 501 tokens long.*read 100 at once"):
        fit(long, encode, 100, 30, overflow)  # type: ignore[arg-type]


def test_a_last_message_that_fills_the_room_goes_alone() -> None:
    messages = [*talk(3), Message("assistant", "yes"), Message("user", "word " * 80)]
    fitted = fit(messages, encode, 100, 30)
    assert fitted.dropped == 8
    assert len(fitted.ids) == 81


@pytest.mark.parametrize("question", ["hi", "word " * 40])
def test_a_system_prompt_that_leaves_no_room_is_what_has_to_be_shortened(question: str) -> None:
    long = Message("system", "word " * 90)
    with pytest.raises(InputError, match=r"^The system prompt is too long .* in the settings"):
        fit([long, *talk(3), Message("user", question)], encode, 100, 30)


def test_a_message_is_as_long_as_it_is_without_the_system_prompt() -> None:
    long = [SYSTEM, *talk(3), Message("assistant", "yes"), Message("user", "word " * 500)]
    with pytest.raises(InputError, match="This message is 501 tokens long"):
        fit(long, encode, 100, 30)
    long[-1] = Message("user", "word " * 82)  # it would fit but for the three tokens of that
    with pytest.raises(InputError, match="This message is 83 tokens long"):
        fit(long, encode, 100, 30)
