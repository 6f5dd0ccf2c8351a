"""Reasoning blocks in the engine: which tokens show their marks, and where a block goes on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from finetune.contract.chat_template import Segment
from finetune.contract.reasoning import BLOCKS, ReasoningBlock

_CHANNEL: Final = "<|channel|>"
_MARKS: Final = frozenset(mark for block in BLOCKS for mark in (block.opening, block.closing)) | {
    "<|channel>"
}
_CHANNEL_MARKS: Final = frozenset((_CHANNEL, "<|message|>", "<|start|>", "<|end|>"))


def marks(special_tokens: Collection[str]) -> frozenset[str]:
    """Texts of tokens that are shown although a vocabulary may call them control tokens."""
    return _MARKS | _CHANNEL_MARKS if _CHANNEL in special_tokens else _MARKS


@dataclass(frozen=True)
class GoneOn:
    """What stands behind a prompt where a completion goes on.

    Attributes:
        segments: marks, and what was thought between them.
        text: the last piece, which goes on.
        block: that ``text`` is in.
    """

    segments: tuple[Segment, ...]
    text: str
    block: ReasoningBlock | None


NOT_BEGUN: Final = GoneOn((), "", None)


def gone_on_with(
    opened: ReasoningBlock | None, known: ReasoningBlock, reasoning: str, answer: str
) -> GoneOn:
    """A completion's beginning, with the marks that its model would have written.

    Args:
        opened: what ``opened_by_template`` says.
        known: what ``block_of_template`` says.
        reasoning, answer: what was written before; both are empty at the beginning.
    """
    if opened is None and not reasoning:
        mark = known.answer_opening if answer else ""
        return GoneOn((Segment(mark, True),) if mark else (), answer, None)
    block = opened or known
    opening = () if opened is not None else (Segment(block.opening + block.line, True),)
    if not answer:
        return GoneOn(opening, reasoning, block)
    thought = Segment(reasoning, False), Segment(block.end, True)
    return GoneOn((*opening, *thought), answer, None)
