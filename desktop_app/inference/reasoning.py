"""Reasoning blocks: the marks around what a model thinks before it answers.

A block stands at the beginning of a completion, and nowhere else: further down a mark is text
like any other. Many templates write the opening mark themselves, at the end of the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from finetune.contract.chat_template import Message, TemplateTokens, render_prompt


@dataclass(frozen=True)
class ReasoningBlock:
    """The marks of one kind of model."""

    opening: str
    closing: str


BLOCKS: Final = (
    ReasoningBlock("<think>", "</think>"),  # DeepSeek-R1, Qwen3, QwQ, SmolLM3 and most others
    ReasoningBlock("<thinking>", "</thinking>"),
    ReasoningBlock("<thought>", "</thought>"),
    ReasoningBlock("<reasoning>", "</reasoning>"),
    ReasoningBlock("<|channel>thought", "<channel|>"),  # Gemma 4
    ReasoningBlock("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ReasoningBlock("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ReasoningBlock("[THINK]", "[/THINK]"),  # Magistral
    ReasoningBlock("<seed:think>", "</seed:think>"),  # Seed-OSS
    ReasoningBlock("◁think▷", "◁/think▷"),  # Kimi
)
MARKS: Final = frozenset(mark for block in BLOCKS for mark in (block.opening, block.closing)) | {
    "<|channel>"
}
"""Texts of tokens that are shown although a vocabulary may call them control tokens."""


@lru_cache(maxsize=8)
def opened_by_template(template: str, tokens: TemplateTokens) -> ReasoningBlock | None:
    """The block that a template opens where the completion is to begin, if it does.

    Raises:
        InputError: the template is broken.
    """
    last = render_prompt([Message("user", "Hello")], template, tokens)[-1]
    end = last.text.rstrip() if last.is_control else ""
    return next((block for block in BLOCKS if end.endswith(block.opening)), None)


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
