"""Two spellings of one text: what is exchanged, and that the text never changes."""

from __future__ import annotations

import random

from desktop_app.inference.spelling import respell, shared_length

PIECES = [b"a", b"b", b"c", b"ab", b"bc", b"abc", b"ca", b"", b"\xed", b"\x95\x9c", b"a"]
BEGIN, END = 20, 21
SPECIAL = frozenset({BEGIN, END, 10})  # 10 says "a" too, but is a marker


def piece(token: int) -> bytes:
    return b"" if token in (BEGIN, END) else PIECES[token]


def spelled(prompt: list[int], known: list[int]) -> list[int]:
    return respell(prompt, known, piece, SPECIAL)


def text(ids: list[int]) -> list[bytes | int]:
    """The bytes between special tokens, and those tokens."""
    out: list[bytes | int] = [b""]
    for token in ids:
        if token in SPECIAL:
            out += [token, b""]
        else:
            last = out[-1]
            assert isinstance(last, bytes)
            out[-1] = last + piece(token)
    return out


def test_the_length_two_lists_share() -> None:
    assert shared_length([], [1]) == 0
    assert shared_length([1, 2, 3], [1, 2, 3]) == 3
    assert shared_length([1, 2, 3], [1, 2, 4, 5]) == 2
    assert shared_length([9], [8]) == 0
    for length in range(40):
        assert shared_length([*range(length), -1, 5], [*range(length), -2, 5]) == length


def test_the_models_own_spelling_is_taken_up_to_its_end() -> None:
    # The tokenizer says ab+c, the model wrote a+bc; then its turn ended.
    assert spelled([BEGIN, 3, 2, END, 0], [BEGIN, 0, 4]) == [BEGIN, 0, 4, END, 0]
    # Several such words, one after another, and an equal one between.
    assert spelled([5, END, 3, 2, 1, 3], [0, 4, END, 0, 4, 1, 0, 1]) == [0, 4, END, 0, 4, 1, 0, 1]


def test_another_text_is_left_alone() -> None:
    assert spelled([BEGIN, 3, 2], [BEGIN, 0, 0]) == [BEGIN, 3, 2]
    assert spelled([3, 2], []) == [3, 2]
    assert spelled([0, 4], [3]) == [0, 4]  # the model stopped in the middle of a piece
    assert spelled([3], [0]) == [3]


def test_markers_are_neither_put_in_nor_taken_out() -> None:
    assert spelled([0, 1], [10, 1]) == [0, 1]
    assert spelled([10, 1], [0, 1]) == [10, 1]
    assert spelled([3, END], [0, END, 1]) == [3, END]
    assert spelled([7, 0], [0]) == [7, 0]  # a token without bytes is no text


def test_the_text_is_the_same_whatever_is_known() -> None:
    draw = random.Random(1)
    changed = 0
    for _ in range(3000):
        tokens = [*range(11), BEGIN, END]
        prompt = draw.choices(tokens, k=draw.randrange(1, 30))
        known = draw.choices(tokens, k=draw.randrange(0, 30))
        if draw.random() < 0.8:  # another spelling of its beginning
            known = respelled_at_random(draw, prompt)
        result = spelled(prompt, known)
        assert text(result) == text(prompt)
        assert shared_length(result, known) >= shared_length(prompt, known)
        changed += result != prompt
    assert changed > 500


def respelled_at_random(draw: random.Random, ids: list[int]) -> list[int]:
    """The same text cut into other pieces, as far as there are such."""
    out: list[int] = []
    for part in text(ids):
        if isinstance(part, int):
            out.append(part)
            continue
        while part:
            fitting = [i for i, p in enumerate(PIECES[:10]) if p and part.startswith(p)]
            if not fitting:
                return out
            chosen = draw.choice(fitting)
            out.append(chosen)
            part = part[len(PIECES[chosen]) :]
    return out
