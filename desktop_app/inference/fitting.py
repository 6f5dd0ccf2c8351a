"""Which messages of a conversation are sent when not all of them fit the context.

The system prompt and the last turn always go; the oldest turns are left out first, a question
with its answer. They are left out in portions: were each turn to drop just what it must, every
prompt would begin differently and would have to be read again from its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from desktop_app.inference.engine import Overflow
from finetune.contract.chat_template import Message
from finetune.contract.errors import InputError

LEAST_ANSWER: Final = 16
"""Tokens that must be left for the answer, even to the longest message."""
PORTION: Final = 4
"""What is left out is a multiple of this part of the room for the prompt."""
SUMMARISED_PORTION: Final = 2
"""Summarising costs more, so more is summarised at a time, and less often."""
LARGE_LEAD: Final = 4
"""More than this part of the context is too much for what stands before every turn; a summary,
which stands there as well, is never as long."""


@dataclass(frozen=True)
class Fitted:
    """A prompt that fits: its token ids, and how many of the oldest messages it leaves out.

    ``whole`` is how many tokens all messages have.
    """

    ids: list[int]
    whole: int
    dropped: int = 0


def fit(
    messages: Sequence[Message],
    encode: Callable[[Sequence[Message]], list[int]],
    context_length: int,
    max_tokens: int,
    overflow: Overflow = "drop",
) -> Fitted:
    """The longest end of a conversation, but for portions, that leaves room for an answer.

    Args:
        encode: messages to the prompt's token ids.
        context_length: tokens of prompt and completion together.
        max_tokens: wished for the completion; see ``reserved``.
        overflow: "summarise" leaves out more at once, as that is rarer.

    Raises:
        InputError: the last turn alone, or the system prompt, is too long; or nothing may be left
            out.
    """
    room = context_length - reserved(max_tokens, context_length)
    lead = [m for m in messages[:1] if m.role == "system"]
    turns = messages[len(lead) :]
    # A conversation may begin anew at each of the person's messages.
    starts = [0, *(i for i, m in enumerate(turns) if i > 0 and m.role == "user")]
    best = encode(messages)
    whole = len(best)
    if whole <= room:
        return Fitted(best, whole)
    low, high = 0, len(starts) - 1
    best = encode([*lead, *turns[starts[high] :]])
    if len(best) > context_length - LEAST_ANSWER:
        last = turns[starts[high] :]
        raise _too_long(len(best), len(encode(last)), context_length, last)
    if overflow == "stop" and high > 0:
        raise InputError(
            f"This conversation is {whole:,} tokens long, and the model can read "
            f"{context_length:,} at once. Begin a new one, or let the oldest turns be left out."
        )
    # Messages already said do not change, so until the next portion is full the same number of
    # tokens goes, and with it the same turns.
    portion = max(1, room // (SUMMARISED_PORTION if overflow == "summarise" else PORTION))
    rest = whole - -(-(whole - room) // portion) * portion
    while low + 1 < high:  # low is too long, high is not: the longest that is not
        middle = (low + high) // 2
        ids = encode([*lead, *turns[starts[middle] :]])
        if len(ids) <= rest:
            high, best = middle, ids
        else:
            low = middle
    return Fitted(best, whole, starts[high])


def reserved(max_tokens: int, context_length: int) -> int:
    """Tokens kept free for the answer: what it may have, but a quarter of the context at most."""
    return min(max_tokens, context_length // 4)


def _too_long(tokens: int, alone: int, length: int, turn: Sequence[Message]) -> InputError:
    """Names what has to be shortened.

    Args:
        tokens: of the system prompt and the last turn.
        alone: of the last turn.
    """
    if alone <= length - LEAST_ANSWER and tokens - alone > length // LARGE_LEAD:
        return InputError(
            "The system prompt is too long for this model. Shorten it in the settings."
        )
    what = "This message" if len(turn) == 1 else "The last turn"
    return InputError(
        f"{what} is {alone:,} tokens long, and the model can read {length:,} at once. "
        "Shorten it or send it in parts."
    )
