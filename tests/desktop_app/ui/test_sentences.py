"""What the trainer says, as it really says it, is translated with all that is filled into it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PySide6.QtCore import QCoreApplication, QTranslator
from pytestqt.qtbot import QtBot

from desktop_app.inference.fitting import fit
from desktop_app.ui.sentences import in_our_language, template_of
from finetune import evaluate
from finetune.contract.chat_template import Message, TrainingExample
from finetune.contract.errors import InputError
from finetune.contract.events import Event, Note, RunDone, RunFailed
from finetune.contract.recipe import Recipe
from finetune.data import Dataset, Part, Prompt, RankedPrompt
from finetune.enough import NotEnoughFeedback, left_out, require_something
from finetune.generate import Completed
from finetune.out_of_memory import smaller_if_needed
from finetune.runner import guarded
from finetune.stage import Diverged, StageRun

EXAMPLE = TrainingExample((1, 2, 3), (False, True, True))
RANKED = RankedPrompt((EXAMPLE, EXAMPLE), ((0, 1, 1.0),), ())


class Loud(QTranslator):
    """A language in which everything is said in capitals."""

    def translate(
        self, context: str, source: str, disambiguation: str | None = None, n: int = -1
    ) -> str:
        return source.upper()


@pytest.fixture
def loud(qtbot: QtBot) -> Iterator[None]:
    translator = Loud()
    QCoreApplication.installTranslator(translator)
    yield
    QCoreApplication.removeTranslator(translator)


def lacking(recipe: Recipe, prompts: int, thumbs: dict[bool, int]) -> str:
    """What is said where there is nothing else to learn from."""
    part = Part((), (RANKED,), (Prompt((1,), "Hello"),) * prompts)
    data = Dataset(part, part, (), 0, 0 if thumbs else 50, thumbs)
    with pytest.raises(NotEnoughFeedback) as refusal:
        require_something(data, recipe, left_out(data, recipe))
    return str(refusal.value)


def failures() -> list[str]:
    """All that the gate can find wrong with a result, one of PPO's."""
    before = evaluate.Outputs([Completed((1,), (2, 3), (0.0, 0.0), True)])
    metrics = {
        "score": float("nan"), "change": 0.0, "loss_ratio": 1.52, "distinct_ratio": 0.01,
        "completion_length": 900.0, "ended": 0.0, "empty": 1.0,
    }  # fmt: skip
    found = evaluate._failures(metrics, before, Recipe().evaluation)
    return [*found, "it does not please the reward model more than the base does"]


def ended_by(error: BaseException) -> str:
    """What is said of a run that ends so."""

    def work() -> RunDone:
        raise error

    result = guarded(work)
    assert isinstance(result, RunFailed)
    return result.message


def out_of_memory(folder: Path) -> str:
    notes: list[Event] = []
    run = StageRun("sft", folder, notes.append, lambda: False, 10)

    def work(tokens: int) -> None:
        if tokens > 2048:
            raise MemoryError

    smaller_if_needed(run, work)
    (note,) = notes
    assert isinstance(note, Note)
    return note.message


def test_every_reason_of_a_refusal_is_known() -> None:
    assert len(failures()) == 7
    assert [reason for reason in failures() if template_of(reason) is None] == []


def test_what_the_trainer_says_is_translated_with_its_parts(loud: None, tmp_path: Path) -> None:
    both = Recipe(stages=("reward", "ppo"))
    reasons = ", ".join(failures())
    said = [
        lacking(Recipe(), 1, {True: 3, False: 2}),
        lacking(Recipe(), 1, {True: 50}),
        lacking(both, 1, {False: 50}),
        lacking(both, 0, {}),
        lacking(Recipe(stages=("ppo",)), 1, {}),
        f"The result of PPO is not offered: {reasons}.",
        "The result is not better than the model it came from, so it is not offered "
        f"(PPO: {reasons}; SFT: it learned nothing).",
        "The result is not better than the model it came from, so it is not offered "
        "(no stage could learn).",
        "The merged model writes something else than the trained model (0.412 nats a token, "
        "allowed 0.250).",
        "The exported adapter scores differently from the trained model (0.412 nats a token, "
        "allowed 0.250).",
        ended_by(Diverged("loss is not a number any more")),
        ended_by(Diverged("the policy loss is not a number any more")),
        ended_by(KeyboardInterrupt()),
        ended_by(MemoryError()),
        ended_by(OSError(errno.ENOSPC, "full")),
        out_of_memory(tmp_path),
    ]
    for text in said:
        translated = in_our_language(text)
        assert translated.upper() == text.upper()
        assert set(re.findall("[a-z]+", translated)) <= {"loss"}, text  # that is a figure's name


@pytest.mark.parametrize("overlong", ["system", "user", "assistant"])
def test_what_is_too_long_is_translated_with_its_subject(loud: None, overlong: str) -> None:
    talk = [Message("system", "Be kind"), Message("user", "Hello"), Message("assistant", "Hi")]
    talk = talk[: [m.role for m in talk].index(overlong) + 1]
    if overlong == "system":
        talk.append(Message("user", "Hello"))

    def encode(messages: Sequence[Message]) -> list[int]:
        return [0 for m in messages for _ in range(200 if m.role == overlong else 1)]

    with pytest.raises(InputError) as refusal:
        fit(talk, encode, 100, 30)
    assert in_our_language(str(refusal.value)) == str(refusal.value).upper()


def test_names_are_no_reasons(loud: None) -> None:
    text = "The file a: b, c and d (e).gguf of Mine; yours is damaged."
    assert in_our_language(text) == "THE FILE a: b, c and d (e).gguf OF Mine; yours IS DAMAGED."
