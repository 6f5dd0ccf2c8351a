"""What is left out for lack of feedback, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from desktop_app.ui.sentences import template_of
from finetune.contract.chat_template import TrainingExample
from finetune.contract.recipe import Recipe
from finetune.data import Dataset, Part, Prompt, RankedPrompt
from finetune.enough import NotEnoughFeedback, left_out, require_something, useless_to_practise

EXAMPLE = TrainingExample((1, 2, 3), (False, True, True))
RANKED = RankedPrompt((EXAMPLE, EXAMPLE), ((0, 1, 1.0),), ())
FULL = Part((EXAMPLE,), (RANKED,), (Prompt((1,), "Hello"),))
PLENTY = Dataset(FULL, FULL, (), 50, 50, {True: 30, False: 20})


def require(data: Dataset, recipe: Recipe) -> None:
    require_something(data, recipe, left_out(data, recipe))


def test_nothing_is_left_out_of_plenty() -> None:
    assert left_out(PLENTY, Recipe()) == {}


@pytest.mark.parametrize(
    ("liked", "says"),
    [
        (True, "All 50 thumbs are up; some thumbs down, or comparisons, are wanted"),
        (False, "All 50 thumbs are down; some thumbs up, or comparisons, are wanted"),
    ],
)
def test_thumbs_of_one_kind_are_said_to_be_of_one_kind(liked: bool, says: str) -> None:
    data = replace(PLENTY, preference_count=0, thumbs={liked: 50})
    note = left_out(data, Recipe())["reward"].why
    assert note.startswith(says)
    assert template_of(note) is not None  # the app says it in the person's language
    with pytest.raises(NotEnoughFeedback, match=r"answers and some thumbs .* or comparisons are"):
        require(replace(data, demonstration_count=0), Recipe())


def test_without_a_prompt_to_practise_on_there_is_no_practice() -> None:
    data = replace(PLENTY, train=replace(FULL, prompts=()))
    (lack,) = left_out(data, Recipe()).values()
    assert template_of(lack.why) is not None
    assert "practising with a reward model is left out" in lack.why
    require(data, Recipe())
    with pytest.raises(NotEnoughFeedback, match="shorter conversations"):
        require(data, Recipe(stages=("reward", "ppo")))
    with pytest.raises(NotEnoughFeedback, match="Every prompt is too long"):
        require(replace(data, held_out=data.train), Recipe())


def test_answers_that_practice_cannot_hold_leave_ppo_out() -> None:
    recipe = Recipe()
    assert useless_to_practise({"ended": 0.5}, recipe) is None
    assert useless_to_practise({}, recipe) is None  # a checkpoint of an older version
    note = useless_to_practise({"ended": 31 / 64}, recipe)
    assert note is not None
    assert note.startswith("Most answers are longer than practising has room for")
    assert template_of(note) is not None
    assert useless_to_practise({"ended": 0.0}, replace(recipe, stages=("sft", "reward"))) is None


def test_a_reward_model_is_refused_by_several_choices_and_not_by_one() -> None:
    misread = {"ended": 1.0, "accuracy": 0.25, "held_out_pairs": 8.0}
    note = useless_to_practise(misread, Recipe())
    assert note is not None
    assert "in 2 of 8, no better than chance" in note
    assert template_of(note) is not None
    assert useless_to_practise({**misread, "accuracy": 0.5}, Recipe()) is None
    assert useless_to_practise({"accuracy": 0.0, "held_out_pairs": 1.0}, Recipe()) is None
    assert useless_to_practise({"accuracy": 0.0, "held_out_pairs": 6.0}, Recipe()) is not None
