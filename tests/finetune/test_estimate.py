"""How long a run will take: what is counted, by hand, and what is measured, on real code."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune import devices, estimate
from finetune.contract.gguf_file import read_header
from finetune.contract.recipe import Recipe
from finetune.contract.records import read_records
from finetune.data import Encoder, build_dataset
from finetune.estimate import Material, Pace, seconds_of_stages
from finetune.vocabulary import GgufVocabulary
from tests import tiny_models

PACE = Pace(learn=0.5, score=0.25, learn_states=0.4, states=0.125, step=0.1, row=0.01)
MATERIAL = Material(
    demonstrations=8, demonstration_tokens=80, completions=4, completion_tokens=40,
    held_out_tokens=10, prompts=8, prompt_tokens=40, written=5,
)  # fmt: skip


def test_sampling_goes_on_as_long_as_its_longest_completion() -> None:
    # One row: 5 (0 + 0.58) = 2.9 steps of 0.1 s, and 1.15 times 5 tokens of 0.01 s.
    assert PACE.sampling(1, 64, 5) == pytest.approx(0.29 + 0.0575)
    # Never longer than the limit, and in batches.
    assert PACE.sampling(100, 4, 1000) == pytest.approx(2 * 4 * 0.1 + 1.15 * 100 * 4 * 0.01)


def test_stages_cost_what_their_tokens_cost(tiny_gguf: Path) -> None:
    recipe = Recipe()
    recipe = replace(recipe, sft=replace(recipe.sft, epochs=2, replay_fraction=0.0))
    recipe = replace(recipe, reward=replace(recipe.reward, epochs=3))
    header = read_header(tiny_gguf)
    found = seconds_of_stages(header, recipe, PACE, MATERIAL)
    assert found["sft"] == pytest.approx(2 * (80 * 0.5 + 10 * 0.25))
    sampled = PACE.sampling(64, 64, 5)
    read = 3 * (40 + 10) + 40 + 30 + 64 * (5 + 5)
    assert found["reward"] == pytest.approx(3 * 40 * 0.4 + read * 0.125 + sampled)
    assert list(found) == ["prepare", "sft", "reward", "ppo", "evaluate", "export"]
    half = replace(recipe, ppo=replace(recipe.ppo, steps=recipe.ppo.steps // 2))
    assert seconds_of_stages(header, half, PACE, MATERIAL)["ppo"] == pytest.approx(found["ppo"] / 2)


def test_stages_that_are_left_out_cost_nothing(tiny_gguf: Path) -> None:
    found = seconds_of_stages(read_header(tiny_gguf), Recipe(stages=("sft",)), PACE, MATERIAL)
    assert "ppo" not in found
    assert "reward" not in found


def test_material_is_counted_in_the_part_that_is_trained_on(
    tiny_gguf: Path, feedback_folder: Path
) -> None:
    encoder = Encoder(GgufVocabulary(tiny_gguf), None, 200)
    records, _ = read_records([*feedback_folder.iterdir()])
    data = build_dataset(
        records, encoder, held_out_fraction=0.2, rating_weight=0.5, completion_room=16
    )
    found = Material.of(data)
    assert found.demonstrations == len(data.train.demonstrations)
    assert found.demonstration_tokens == sum(len(e.ids) for e in data.train.demonstrations)
    assert found.prompts == len(data.train.prompts)
    assert 0 < found.held_out_tokens < found.completion_tokens


def test_a_deep_model_is_measured_by_its_first_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = tiny_models.TinyShape(layers=9)
    path = tiny_models.write_model(tmp_path / "deep.gguf", shape=shape)
    header, device, recipe = read_header(path), devices.choose_device(), Recipe()
    plan = devices.memory_plan(device, header, recipe)
    asked: list[int | None] = []

    def measured(path: Path, header: object, blocks: int | None, *others: object) -> Pace:
        asked.append(blocks)
        seconds = 1.0 + 0.5 * (blocks or 0)
        return Pace(*(seconds,) * 6)

    monkeypatch.setattr(estimate, "_measured", measured)
    assert estimate.measure(path, header, device, plan, recipe) == Pace(*(5.5,) * 6)
    assert asked == [2, 6]


def test_the_pace_is_measured_on_the_trainers_own_code(tiny_gguf: Path) -> None:
    header, device, recipe = read_header(tiny_gguf), devices.choose_device(), Recipe()
    threads = torch.get_num_threads()
    plan = devices.memory_plan(device, header, recipe)
    pace = estimate.measure(tiny_gguf, header, device, plan, recipe)
    assert pace.learn > pace.states > 0
    assert pace.step > 0
    assert torch.get_num_threads() == threads


def test_a_type_is_tried_before_it_is_believed() -> None:
    assert devices.computes("cpu", torch.float32)
    assert not devices.computes("cpu", torch.int32)  # no gradients
