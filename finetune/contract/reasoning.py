"""Reasoning blocks: the marks around what a model thinks before it answers.

A block stands at the beginning of a completion, and nowhere else: further down a mark is text
like any other. Many templates write the opening mark themselves, at the end of the prompt. What
a person rates and corrects is the answer, so training and scores see the block closed at once:
without that an answer would be learned as if it were a thought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from finetune.contract.chat_template import Message, Segment, TemplateTokens, render_prompt


@dataclass(frozen=True)
class ReasoningBlock:
    """The marks of one kind of model.

    Attributes:
        line: what the model writes between a mark and the thought, and twice before the answer.
        answer_opening: what stands before an answer without a thought.
    """

    opening: str
    closing: str
    line: str = "\n"
    answer_opening: str = ""

    @property
    def end(self) -> str:
        """What stands between thought and answer."""
        return self.line + self.closing + 2 * self.line


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
    ReasoningBlock(  # gpt-oss
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        line="",
        answer_opening="<|channel|>final<|message|>",
    ),
)


def block_of_template(template: str) -> ReasoningBlock:
    """The block whose marks a template knows; the commonest if it knows none."""
    return next((block for block in BLOCKS if block.opening in template), BLOCKS[0])


@lru_cache(maxsize=8)
def opened_by_template(template: str, tokens: TemplateTokens) -> ReasoningBlock | None:
    """The block that a template opens where the completion is to begin, if it does.

    Raises:
        InputError: the template is broken.
    """
    last = render_prompt([Message("user", "Hello")], template, tokens)[-1]
    end = last.text.rstrip() if last.is_control else ""
    return next((block for block in BLOCKS if end.endswith(block.opening)), None)


def answer_prompt(
    messages: Sequence[Message], template: str, tokens: TemplateTokens
) -> list[Segment]:
    """As ``render_prompt``, to the place where the answer begins: a block is closed, empty.

    Raises:
        InputError: the template is broken, or it rewrites contents.
    """
    segments = render_prompt(messages, template, tokens)
    opened = opened_by_template(template, tokens)
    if opened is not None:
        segments.append(Segment(opened.end, True))
    return segments
