"""Two lists of token ids that stand for the same text, and how to go over from one to the other.

A model may write "hello" as "he" + "llo" where the tokenizer would say "hell" + "o". In the next
turn the same text comes back from the conversation in the tokenizer's spelling; taking the
model's own spelling instead leaves the prompt's text as it is, to the byte, and lets what was
computed be used again.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Final

_NEARBY: Final = 64
"""Tokens within which two spellings of one text meet again; they meet at the end of a word."""


def shared_length(one: list[int], other: list[int]) -> int:
    """How many ids two lists have in common at their beginnings."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low + 1 < high:  # the first ``low`` are equal, the first ``high`` are not
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def respell(
    prompt: list[int],
    known: list[int],
    piece: Callable[[int], bytes],
    special_ids: Set[int],
) -> list[int]:
    """``prompt`` in the spelling of ``known``, as far as both say the same.

    Special tokens are never put in or taken out: where the lists differ, only tokens that
    stand for plain text are exchanged, for others with exactly the same bytes.

    Args:
        piece: the bytes a token stands for.
        special_ids: tokens that are more than the text they stand for.
    """
    spelled: list[int] = []
    here = there = 0  # up to here in the prompt and there in ``known``, all bytes are equal
    while True:
        same = shared_length(prompt[here:], known[there:])
        spelled += prompt[here : here + same]
        here, there = here + same, there + same
        ends = _next_meeting(prompt, here, known, there, piece, special_ids)
        if ends is None:
            return spelled + prompt[here:]
        spelled += known[there : ends[1]]
        here, there = ends


def _next_meeting(
    prompt: list[int],
    here: int,
    known: list[int],
    there: int,
    piece: Callable[[int], bytes],
    special_ids: Set[int],
) -> tuple[int, int] | None:
    """Where two spellings that part have come to the same place in the same text."""
    ahead = b""  # what the one that is ahead has said more
    prompt_leads = False
    last = here + _NEARBY
    while here < last:
        follows = known if ahead and prompt_leads else prompt
        at = there if follows is known else here
        if at >= len(follows) or follows[at] in special_ids:
            return None
        said = piece(follows[at])
        if follows is known:
            there += 1
        else:
            here += 1
        if said and said.startswith(ahead):  # it leads now
            ahead = said[len(ahead) :]
            prompt_leads = follows is prompt
            if not ahead:
                return here, there
        elif said and ahead.startswith(said):
            ahead = ahead[len(said) :]
        else:
            return None
    return None
