"""A recipe is written and read back whole; what is misspelt is refused by name."""

import dataclasses
import json

import pytest

from finetune.contract import recipe as recipes
from finetune.contract.errors import InputError
from finetune.contract.recipe import PpoRecipe, Recipe


def test_a_recipe_survives_json() -> None:
    recipe = Recipe(stages=("sft",), quantization="Q4_K_M", ppo=PpoRecipe(kl_coef=0.25, steps=3))
    assert recipes.from_json(recipes.to_json(recipe)) == recipe


def test_what_is_not_named_keeps_its_default() -> None:
    assert recipes.from_json('{"ppo": {"steps": 7}}').ppo == PpoRecipe(steps=7)
    assert recipes.from_json("{}") == Recipe()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "line 1"),
        ("[]", "recipe"),
        ('{"sfft": {}}', "sfft"),
        ('{"ppo": {"kl": 1}}', "kl"),
        ('{"ppo": {"steps": 1.5}}', "recipe.ppo.steps"),
        ('{"ppo": {"steps": true}}', "recipe.ppo.steps"),
        ('{"ppo": {"kl_coef": "low"}}', "recipe.ppo.kl_coef"),
        ('{"stages": ["sft", "dpo"]}', "recipe.stages"),
        ('{"quantization": "Q1"}', "recipe.quantization"),
        ('{"ppo": {"steps": -1}}', "recipe.ppo.steps"),
        ('{"sft": {"batch_size": 0}}', "recipe.sft.batch_size"),
        ('{"reward": {"heads": 0}}', "recipe.reward.heads"),
        ('{"sft": {"lora": {"rank": 0}}}', "recipe.sft.lora.rank"),
        ('{"ppo": {"temperature": 0.0}}', "recipe.ppo.temperature"),
        ('{"ppo": {"kl_target": 0}}', "recipe.ppo.kl_target"),
        ('{"sft": {"learning_rate": NaN}}', "recipe.sft.learning_rate"),
        ('{"max_tokens": 4}', "recipe.max_tokens"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        recipes.from_json(text)


def test_every_number_has_its_reason_or_is_named_like_its_neighbour() -> None:
    for cls in (Recipe, PpoRecipe):
        assert dataclasses.is_dataclass(cls)
    assert json.loads(recipes.to_json(Recipe()))["ppo"]["gamma"] == 1.0
