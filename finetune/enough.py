"""Is there enough for each stage? What is left out is said in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune.contract.recipe import Recipe
from finetune.data import Dataset, still_wanted

FEWEST_CHOICES = 6
"""Held-out choices below which the reward model's accuracy says nothing: one that is right in three
of four would be refused by a single choice in 25 runs of 100, by six in 4."""
_NO_PRACTICE = "so practising with a reward model is left out."


class NotEnoughFeedback(Exception):
    """No stage can learn from so little; the text says how much more is wanted."""


@dataclass(frozen=True)
class Lack:
    """Why a stage is left out, as a sentence, and what is wanted for it."""

    why: str
    wanted: str


def left_out(data: Dataset, recipe: Recipe) -> dict[str, Lack]:
    """The recipe's stages that cannot learn. PPO without a reward model is not named."""
    lacks: dict[str, Lack] = {}
    demonstrations, preferences = data.demonstration_count, data.preference_count
    more = still_wanted(demonstrations, recipe.min_demonstrations)
    if "sft" in recipe.stages and (more or not data.train.demonstrations):
        lacks["sft"] = Lack(
            f"There are {demonstrations} liked or corrected answers; {max(1, more)} more "
            "are wanted to learn from them directly.",
            f"{max(1, more)} more liked or corrected answers",
        )
    more = still_wanted(preferences, recipe.min_preferences)
    thumbs = sum(data.thumbs.values())
    if "reward" in recipe.stages and (more or not data.train.preferences):
        if len(data.thumbs) == 1 and thumbs > 1:
            all_are, none_is = ("up", "down") if True in data.thumbs else ("down", "up")
            lacks["reward"] = Lack(
                f"All {thumbs} thumbs are {all_are}; some thumbs {none_is}, or comparisons, are "
                f"wanted to learn what you prefer, {_NO_PRACTICE}",
                f"some thumbs {none_is} or comparisons",
            )
        else:
            lacks["reward"] = Lack(
                f"There are {preferences} comparisons and thumbs; {max(1, more)} more are wanted "
                f"to learn what you prefer, {_NO_PRACTICE}",
                f"{max(1, more)} more comparisons or thumbs",
            )
    elif "reward" in recipe.stages and not data.train.prompts:
        lacks["reward"] = Lack(
            f"No prompt to practise on leaves room for an answer, {_NO_PRACTICE}",
            "shorter conversations",
        )
    return lacks


def useless_to_practise(metrics: Mapping[str, float], recipe: Recipe) -> str | None:
    """Why PPO cannot learn from the score that the reward stage ended with, as a sentence."""
    accuracy, pairs = metrics.get("accuracy"), int(metrics.get("held_out_pairs", 0))
    if accuracy is not None and pairs >= FEWEST_CHOICES and accuracy < recipe.reward.min_accuracy:
        return (
            f"On unseen choices the reward model agrees with you in {round(accuracy * pairs)} "
            f"of {pairs}, no better than chance, so practising with it is left out."
        )
    # A checkpoint of an older version does not tell.
    if "ppo" in recipe.stages and metrics.get("ended", 1.0) < recipe.ppo.min_ended:
        return (
            "Most answers are longer than practising has room for, so practising with a reward "
            "model is left out."
        )
    return None


def require_something(data: Dataset, recipe: Recipe, lacks: Mapping[str, Lack]) -> None:
    """See that there is something left to learn, and something to measure it on.

    Raises:
        NotEnoughFeedback: there is not.
    """
    left = {*recipe.stages} - {*lacks}
    if "sft" not in left and not {"reward", "ppo"} <= left:
        wanted = " and ".join(lack.wanted for lack in lacks.values())
        raise NotEnoughFeedback(
            "There is too little feedback to learn from: "
            f"{wanted or 'more stages in the recipe'} are wanted."
        )
    if not data.train.prompts and not data.held_out.prompts:
        raise NotEnoughFeedback(
            "Every prompt is too long to leave room for an answer, so the result could not be "
            "measured; feedback on shorter conversations is wanted."
        )
