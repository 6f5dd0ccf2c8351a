"""Reasoning blocks in the engine: which tokens show their marks, and where a block goes on."""

from __future__ import annotations

from typing import Final

from finetune.contract.reasoning import BLOCKS, ReasoningBlock

MARKS: Final = frozenset(mark for block in BLOCKS for mark in (block.opening, block.closing)) | {
    "<|channel>"
}
"""Texts of tokens that are shown although a vocabulary may call them control tokens."""


def gone_on_with(
    opened: ReasoningBlock | None, reasoning: str, answer: str
) -> tuple[str, ReasoningBlock | None]:
    """What stands behind a prompt where a completion goes on, and the block that it is in.

    Args:
        opened: what ``opened_by_template`` says.
        reasoning, answer: what was written before; both are empty at the beginning.
    """
    if opened is None and not reasoning:
        return answer, None
    block = opened or BLOCKS[0]
    opening = "" if opened is not None else f"{block.opening}\n"
    if not answer:
        return opening + reasoning, block
    return f"{opening}{reasoning}\n{block.closing}\n\n{answer}", None
