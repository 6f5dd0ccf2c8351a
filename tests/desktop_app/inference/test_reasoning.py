"""Models that think first: through the template, the vocabulary, and the real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from desktop_app.inference.engine import Generate, ModelReady, ModelRef, SamplingParams, TextDelta
from desktop_app.inference.llama_engine import LlamaEngine
from desktop_app.inference.reasoning import gone_on_with
from finetune.contract.chat_template import CHATML, Message, TemplateTokens
from finetune.contract.reasoning import (
    BLOCKS,
    ReasoningBlock,
    block_of_template,
    opened_by_template,
)
from tests.desktop_app.inference.asking import Answer, ask, request
from tests.tiny_models import CHATML_SPECIALS, CONTROL, byte_level_vocabulary, write_model

NO_TOKENS = TemplateTokens()
OPENING = CHATML.replace("assistant\\n'", "assistant\\n<think>\\n'")
"""As DeepSeek-R1's and Qwen3-Thinking's templates end."""
CLOSED = CHATML.replace("assistant\\n'", "assistant\\n<think>\\n\\n</think>\\n\\n'")
MARKS = ("<think>", "</think>")


def test_a_template_that_opens_the_block_is_known() -> None:
    assert OPENING != CHATML
    assert opened_by_template(OPENING, NO_TOKENS) == BLOCKS[0]
    assert opened_by_template(CHATML, NO_TOKENS) is None
    assert opened_by_template(CLOSED, NO_TOKENS) is None


CHANNELS = BLOCKS[-1]


@pytest.mark.parametrize(
    ("is_opened", "known", "reasoning", "answer", "behind", "block"),
    [
        (False, BLOCKS[0], "", "", "", None),
        (False, BLOCKS[0], "", "Yes", "Yes", None),
        (False, BLOCKS[0], "hm", "", "[<think>\n]hm", BLOCKS[0]),
        (False, BLOCKS[0], "hm", "Yes", "[<think>\n]hm[\n</think>\n\n]Yes", None),
        (True, BLOCKS[0], "", "", "", BLOCKS[0]),
        (True, BLOCKS[0], "", "Yes", "[\n</think>\n\n]Yes", None),
        (True, BLOCKS[0], "hm", "", "hm", BLOCKS[0]),
        (True, BLOCKS[0], "hm", "Yes", "hm[\n</think>\n\n]Yes", None),
        (False, CHANNELS, "", "", "", None),
        (False, CHANNELS, "", "Yes", "[<|channel|>final<|message|>]Yes", None),
        (False, CHANNELS, "hm", "", "[<|channel|>analysis<|message|>]hm", CHANNELS),
        (
            False,
            CHANNELS,
            "hm",
            "Yes",
            "[<|channel|>analysis<|message|>]hm"
            "[<|end|><|start|>assistant<|channel|>final<|message|>]Yes",
            None,
        ),
    ],
)
def test_what_stands_behind_the_prompt_where_a_completion_goes_on(
    is_opened: bool,
    known: ReasoningBlock,
    reasoning: str,
    answer: str,
    behind: str,
    block: ReasoningBlock | None,
) -> None:
    """Marks, which may become control tokens, in brackets."""
    found = gone_on_with(known if is_opened else None, known, reasoning, answer)
    told = "".join(f"[{s.text}]" if s.is_control else s.text for s in found.segments)
    assert (told + found.text, found.block) == (behind, block)


@pytest.fixture
def thinker(tmp_path: Path) -> Iterator[Callable[..., LlamaEngine]]:
    """A random model whose marks are tokens; ``template`` may open the block."""
    engines: list[LlamaEngine] = []

    def load(
        template: str = CHATML, marks: tuple[str, ...] = MARKS, **model: object
    ) -> LlamaEngine:
        path = tmp_path / f"{len(engines)}.gguf"
        vocabulary = byte_level_vocabulary(CHATML_SPECIALS + marks, CONTROL)
        write_model(path, vocabulary=vocabulary, template=template, ends=False, **model)  # type: ignore[arg-type]
        engines.append(LlamaEngine(threads=1))
        assert isinstance(list(engines[-1].load(ModelRef("v", str(path), "ab")))[-1], ModelReady)
        return engines[-1]

    yield load
    for engine in engines:
        engine.close()


def parts(answer: Answer) -> tuple[str, str]:
    deltas = [event for event in answer.events if isinstance(event, TextDelta)]
    thought = "".join(event.text for event in deltas if event.part == "reasoning")
    return thought, "".join(event.text for event in deltas if event.part == "answer")


SCRIPT = (
    'root ::= "<think>\\n" thought "\\n</think>\\n\\n" answer\nthought ::= [a-z]{4}\nanswer ::= '
)
"""A grammar makes a random model think."""


def test_the_engine_tells_reasoning_and_answer_apart(thinker: Callable[..., LlamaEngine]) -> None:
    engine = thinker()
    answer = ask(engine, "Hello", seeds=range(3), max_tokens=80, grammar=SCRIPT + '"Yes" [.!]')
    for stream in answer.streams.values():
        assert len(stream.reasoning) == 4
        assert stream.text in ("Yes.", "Yes!")
        assert stream.reasoning_seconds > 0
        assert stream.reason == "end_of_turn"
    one = ask(engine, "Hello", max_tokens=80, grammar=SCRIPT + '"Yes"')
    assert parts(one) == (one.streams[0].reasoning, "Yes")


def test_a_stop_string_inside_reasoning_does_not_stop(thinker: Callable[..., LlamaEngine]) -> None:
    grammar = 'root ::= "<think>no no</think>" "yes no yes"'
    stream = ask(thinker(), "Hello", max_tokens=80, grammar=grammar, stop=("no",)).streams[0]
    assert (stream.reasoning, stream.text, stream.reason) == ("no no", "yes ", "stop_string")


def test_where_the_template_opens_the_block_a_grammar_waits_for_the_answer(
    thinker: Callable[..., LlamaEngine],
) -> None:
    engine = thinker(OPENING)
    free = ask(engine, "Hello", max_tokens=30)
    assert free.streams[0].text == ""
    assert free.streams[0].reasoning == parts(free)[0] != ""
    # The model closes the block by itself once the mark is made likely.
    closing = (("</think>", 6.0),)
    bound = ask(
        engine,
        "Hello",
        seeds=range(4),
        max_tokens=200,
        logit_bias=closing,
        grammar='root ::= "Yes"',
    )
    closed = [s for s in bound.streams.values() if s.reason == "end_of_turn"]
    assert closed
    assert all(stream.text == "Yes" for stream in closed)
    assert any(stream.reasoning for stream in closed)


def test_an_answer_is_gone_on_with_behind_its_reasoning(
    thinker: Callable[..., LlamaEngine],
) -> None:
    for template in (CHATML, OPENING):
        engine = thinker(template)

        def go_on(reasoning: str, beginning: str, engine: LlamaEngine = engine) -> Answer:
            asked = request("Hello", max_tokens=12)
            return Answer(
                engine.generate(
                    Generate(
                        "r", asked.messages, SamplingParams(max_tokens=12), asked.streams,
                        beginning, reasoning,
                    )
                )
            )  # fmt: skip

        inside = go_on("I think", "")
        assert (inside.streams[0].text, inside.streams[0].reasoning != "") == ("", True)
        answering = go_on("I think", "Yes, ")
        assert (answering.streams[0].text != "", answering.streams[0].reasoning) == (True, "")
        assert answering.done.prompt_tokens > inside.done.prompt_tokens


CHANNEL_MARKS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>", "<|call|>")
CHANNEL_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final"
    "{% endif %}<|message|>{{ m.content }}<|end|>{% endfor %}"
    "{% if thinking %}<|channel|>analysis<|message|>{% endif %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
"""As gpt-oss's, shortened."""


@pytest.mark.parametrize("thinks", [True, False])
def test_the_channels_of_gpt_oss_are_told_apart(
    thinker: Callable[..., LlamaEngine], thinks: bool
) -> None:
    engine = thinker(CHANNEL_TEMPLATE, CHANNEL_MARKS)
    assert block_of_template(CHANNEL_TEMPLATE) == CHANNELS
    script = '"<|channel|>final<|message|>Yes"'
    if thinks:
        script = (
            '"<|channel|>analysis<|message|>" [a-z]{4} '
            '"<|end|><|start|>assistant<|channel|>final<|message|>Yes"'
        )
    answer = ask(engine, "Hello", max_tokens=80, grammar=f"root ::= {script}")
    stream = answer.streams[0]
    assert (stream.text, len(stream.reasoning)) == ("Yes", 4 if thinks else 0)
    assert stream.reason == "end_of_turn"
    assert parts(answer) == (stream.reasoning, "Yes")
    loaded = engine._loaded
    assert loaded is not None
    gone_on = gone_on_with(None, CHANNELS, "hm", "Yes")
    known = loaded.vocabulary.special_tokens
    prompt = loaded.encode([Message("user", "Hello")], gone_on)
    marks = [mark for token in prompt for mark in CHANNEL_MARKS if known[mark] == token]
    message = ["<|channel|>", "<|message|>"]
    asked = ["<|start|>", "<|message|>", "<|end|>", "<|start|>"]
    assert marks == [*asked, *message, "<|end|>", "<|start|>", *message]


def test_what_is_sent_again_is_the_answer(thinker: Callable[..., LlamaEngine]) -> None:
    engine = thinker()
    first = ask(engine, "Hello", max_tokens=80, grammar=SCRIPT + '"Yes"')
    again = ask(engine, "Hello", first.text, "And?")
    plain = Message("assistant", "Yes")
    assert first.text == plain.content
    assert again.done.reused_tokens > 0
