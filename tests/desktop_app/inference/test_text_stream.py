"""Whole characters only, stop strings held back until they are decided, reasoning kept apart."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from desktop_app.inference.text_stream import TextStream
from finetune.contract.reasoning import BLOCKS, ReasoningBlock

FAMILY = "👨‍👩‍👧"


THINK = BLOCKS[0]


def pieces_of(raw: bytes, dice: random.Random) -> list[bytes]:
    """Any number of cuts anywhere, as byte tokens make them."""
    count = dice.choice([0, 1, 3, len(raw) // 2, len(raw)])
    borders = [0, *sorted(dice.choices(range(len(raw) + 1), k=count)), len(raw)]
    return [raw[a:b] for a, b in pairwise(borders)]


def told(pieces: list[bytes], stream: TextStream, *, cut_short: bool = False) -> tuple[str, str]:
    """The reasoning and the answer as a listener puts them together, checked on the way."""
    answer = thought = ""
    for piece in pieces:
        shown = stream.feed(piece)
        thought += stream.take_thought()
        answer += shown
        assert not (thought + answer).endswith("�") or b"\xff" in b"".join(pieces)
        if stream.is_stopped:
            break
    answer += stream.end(cut_short=cut_short)
    thought += stream.take_thought()
    return thought, answer


def feed(pieces: list[bytes], *stop: str) -> tuple[list[str], TextStream]:
    stream = TextStream(stop)
    return [stream.feed(piece) for piece in pieces], stream


@pytest.mark.parametrize("text", ["한글 한 글자씩", f"a{FAMILY}b", "é", "plain", "\U0010ffff"])
def test_any_cut_of_the_bytes_gives_the_text_and_never_half_a_character(text: str) -> None:
    raw = text.encode()
    for seed in range(50):
        dice = random.Random(seed)
        cuts = sorted(dice.choices(range(len(raw) + 1), k=5))
        borders = [0, *cuts, len(raw)]
        shown, stream = feed([raw[a:b] for a, b in pairwise(borders)])
        assert "�" not in "".join(shown)
        assert "".join(shown) + stream.end(cut_short=False) == text == stream.text


def test_bytes_that_are_no_utf8_are_shown_as_replacement_characters() -> None:
    shown, stream = feed([b"a\xff", b"\xc3", b"b"])
    assert "".join(shown) + stream.end(cut_short=False) == "a��b"


def test_half_a_character_is_dropped_where_we_cut_and_shown_where_the_model_ended() -> None:
    half = "한".encode()[:2]
    assert TextStream().feed(half) == ""
    cut, ended = TextStream(), TextStream()
    cut.feed(b"a" + half)
    ended.feed(b"a" + half)
    assert cut.end(cut_short=True) == ""
    assert ended.end(cut_short=False) == "�"


def test_what_may_become_a_stop_string_is_held_back_and_given_out_when_it_does_not() -> None:
    shown, stream = feed([b"Yes", b"\nUs", b"ual"], "\nUser:")
    assert shown == ["Yes", "", "\nUsual"]
    assert not stream.is_stopped


def test_a_stop_string_ends_the_text_before_it_wherever_tokens_cut_it() -> None:
    raw = b"one two END three"
    for cut in range(len(raw)):
        shown, stream = feed([raw[:cut], raw[cut:]], "END", "never")
        assert stream.is_stopped
        assert "".join(shown) == stream.text == "one two "
        assert stream.end(cut_short=True) == ""


def test_the_earliest_of_several_stop_strings_counts() -> None:
    shown, _ = feed([b"abcdef"], "ef", "cd")
    assert shown == ["ab"]


def test_text_that_looks_like_a_beginning_at_the_end_is_given_out_at_the_end() -> None:
    shown, stream = feed([b"so E"], "END")
    assert shown == ["so "]
    assert stream.end(cut_short=True) == "E"
    assert stream.text == "so E"


def test_an_empty_stop_string_stops_nothing() -> None:
    shown, stream = feed([b"abc"], "")
    assert shown == ["abc"]
    assert not stream.is_stopped


SYLLABLES = [
    "한",
    "글",
    "뷁",
    "가",
    "힣",
    "a",
    " ",
    "\n",
    "é",
    "👋🏽",
    FAMILY,
    "\u200d",
    "𝄞",
    "END",
    "EN",
]


def test_any_text_survives_any_tokens(  # some 2,000 texts, cut in some 2,000 ways
) -> None:
    for seed in range(2000):
        dice = random.Random(seed)
        text = "".join(dice.choices(SYLLABLES, k=dice.randint(0, 20)))
        stop = dice.choice([(), ("END",), ("END", "\n\n", "글가"), ("👋🏽",)])
        ends = [at for at in map(text.find, stop) if at >= 0]
        expected = text[: min(ends)] if ends else text
        stream = TextStream(stop)
        thought, answer = told(pieces_of(text.encode(), dice), stream)
        assert (thought, answer) == ("", expected)
        assert stream.text == expected
        assert stream.is_stopped == bool(ends)


def test_text_is_held_back_no_longer_than_a_stop_string_may_need() -> None:
    for seed in range(300):
        dice = random.Random(seed)
        text = "x" + "".join(dice.choices("abE", k=30))
        stream = TextStream(("EEab", "Eb"))
        shown = ""
        for at, letter in enumerate(text, start=1):
            shown += stream.feed(letter.encode())
            if stream.is_stopped:
                break
            held = text[len(shown) : at]
            assert held == "" or any(s.startswith(held) for s in ("EEab", "Eb"))


# --- reasoning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.opening)
@pytest.mark.parametrize("is_opened", [False, True])
def test_reasoning_and_answer_are_kept_apart_wherever_tokens_cut_them(
    block: ReasoningBlock, is_opened: bool
) -> None:
    thought, answer = "먼저 a < b > c, then </thi 👨‍👩‍👧\n\nso.", "답: <think>42</think>\n\nOK"
    text = f"\n{thought}\n{block.closing}\n\n{answer}"
    if not is_opened:
        text = f"\n{block.opening}{text}"
    for seed in range(60):
        stream = TextStream((), block if is_opened else None)
        assert told(pieces_of(text.encode(), random.Random(seed)), stream) == (thought, answer)
        assert (stream.reasoning, stream.text) == (thought, answer)
        assert stream.reasoning_seconds > 0
        assert not stream.is_in_opened_block()


def test_an_answer_may_begin_with_a_mark_of_its_own() -> None:
    text = b"<|channel|>final<|message|>\xeb\x8b\xb5: <|channel|>"
    for seed in range(60):
        told_ = told(pieces_of(text, random.Random(seed)), TextStream())
        assert told_ == ("", "답: <|channel|>")
    assert told([b"<|channel|>final<|mess"], TextStream()) == ("", "<|channel|>final<|mess")


def test_no_mark_is_the_beginning_of_another() -> None:
    openings = [b.opening for b in BLOCKS] + [b.answer_opening for b in BLOCKS if b.answer_opening]
    assert not [(a, b) for a in openings for b in openings if a != b and b.startswith(a)]


@pytest.mark.parametrize("text", ["<thin air", "<", "  <think", "<thinker> is a word", "\n\n", ""])
def test_what_only_looks_like_a_mark_is_the_answer(text: str) -> None:
    for seed in range(20):
        stream = TextStream()
        assert told(pieces_of(text.encode(), random.Random(seed)), stream) == ("", text)
        assert stream.reasoning_seconds == 0


def test_a_mark_further_down_is_text() -> None:
    text = "In HTML, <think>this</think> is no element."
    assert told([text.encode()], TextStream()) == ("", text)


def test_stop_strings_do_not_fire_inside_reasoning_nor_at_its_borders() -> None:
    text = "<think>END\n\nEND</think>\n\nYes END no"
    for seed in range(60):
        stream = TextStream(("END", "\n\n"))
        told_ = told(pieces_of(text.encode(), random.Random(seed)), stream)
        assert told_ == ("END\n\nEND", "Yes ")
        assert stream.is_stopped


def test_an_empty_block_is_no_reasoning() -> None:
    text = b"<think>\n\n</think>\n\nYes"
    for seed in range(20):
        assert told(pieces_of(text, random.Random(seed)), TextStream()) == ("", "Yes")


def test_blocks_that_follow_each_other_are_one_reasoning() -> None:
    text = b"<think>one</think>\n<think>two</think> Yes"
    for seed in range(40):
        assert told(pieces_of(text, random.Random(seed)), TextStream()) == ("one\n\ntwo", "Yes")


@pytest.mark.parametrize("cut_short", [True, False])
def test_a_block_that_the_model_opened_and_nobody_closed_is_reasoning(cut_short: bool) -> None:
    stream = TextStream()
    assert told([b"<think>", b"and so </th"], stream, cut_short=cut_short) == ("and so </th", "")
    assert stream.text == ""


def test_a_model_that_ends_its_turn_inside_the_prompts_block_has_answered() -> None:
    stream = TextStream((), THINK)
    stream.feed(b"Good ")
    assert stream.take_thought() == "Good"
    stream.feed(b"morning! ")
    assert stream.end(cut_short=False) == "Good morning!"
    assert (stream.text, stream.reasoning, stream.take_thought()) == ("Good morning!", "", "")
    cut = TextStream((), THINK)
    cut.feed(b"Good ")
    assert cut.end(cut_short=True) == ""
    assert (cut.text, cut.reasoning) == ("", "Good")


def test_what_goes_on_is_inside_the_block_or_inside_the_answer() -> None:
    inside = TextStream((), THINK, goes_on=True)
    assert told([b" sat</think>\n", b"\nYes"], inside) == (" sat", "Yes")
    answering = TextStream(goes_on=True)
    assert told([b"<think>", b"x"], answering) == ("", "<think>x")


def test_a_stop_string_that_is_the_mark_itself_stops() -> None:
    for stop in ("<think>", "think"):
        stream = TextStream((stop,))
        stream.feed(b"<think>")
        assert stream.is_stopped
