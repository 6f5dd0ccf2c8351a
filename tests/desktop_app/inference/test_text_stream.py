"""Whole characters only, and stop strings are held back until they are decided."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from desktop_app.inference.text_stream import TextStream

FAMILY = "👨‍👩‍👧"


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
