"""Models that think first: through the template, the vocabulary, and the real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from desktop_app.inference.engine import Generate, ModelReady, ModelRef, SamplingParams, TextDelta
from desktop_app.inference.llama_engine import LlamaEngine
from desktop_app.inference.reasoning import gone_on_with
from finetune.contract.chat_template import CHATML, Message, TemplateTokens
from finetune.contract.reasoning import BLOCKS, opened_by_template
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


@pytest.mark.parametrize(
    ("is_opened", "reasoning", "answer", "behind"),
    [
        (False, "", "", ("", None)),
        (False, "", "Yes", ("Yes", None)),
        (False, "hm", "", ("<think>\nhm", BLOCKS[0])),
        (False, "hm", "Yes", ("<think>\nhm\n</think>\n\nYes", None)),
        (True, "", "", ("", BLOCKS[0])),
        (True, "", "Yes", ("\n</think>\n\nYes", None)),
        (True, "hm", "", ("hm", BLOCKS[0])),
        (True, "hm", "Yes", ("hm\n</think>\n\nYes", None)),
    ],
)
def test_what_stands_behind_the_prompt_where_a_completion_goes_on(
    is_opened: bool, reasoning: str, answer: str, behind: tuple[str, object]
) -> None:
    opened = BLOCKS[0] if is_opened else None
    assert gone_on_with(opened, reasoning, answer) == behind


@pytest.fixture
def thinker(tmp_path: Path) -> Iterator[Callable[..., LlamaEngine]]:
    """A random model whose marks are tokens; ``template`` may open the block."""
    engines: list[LlamaEngine] = []

    def load(template: str = CHATML, **model: object) -> LlamaEngine:
        path = tmp_path / f"{len(engines)}.gguf"
        vocabulary = byte_level_vocabulary(CHATML_SPECIALS + MARKS, CONTROL)
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


def test_what_is_sent_again_is_the_answer(thinker: Callable[..., LlamaEngine]) -> None:
    engine = thinker()
    first = ask(engine, "Hello", max_tokens=80, grammar=SCRIPT + '"Yes"')
    again = ask(engine, "Hello", first.text, "And?")
    plain = Message("assistant", "Yes")
    assert first.text == plain.content
    assert again.done.reused_tokens > 0
