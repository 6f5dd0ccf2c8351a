"""The finished reward model: scale, length where it may go, and the judge's own opinion."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune.checkpoint import load_checkpoint, save_checkpoint
from finetune.contract.chat_template import TrainingExample
from finetune.contract.recipe import RewardRecipe
from finetune.data import RankedPrompt
from finetune.generate import Completed
from finetune.policy import Policy
from finetune.reward import RewardHeads
from finetune.reward_model import Length, RewardModel
from finetune.stage import generator_for
from tests.finetune.test_policy import filled


def completed(seed: int, length: int) -> Completed:
    ids = torch.randint(3, 400, (6 + length,), generator=generator_for(seed, "c")).tolist()
    return Completed(tuple(ids[:6]), tuple(ids[6:]), (), True)


SAMPLES = [completed(n, 2 + n % 9) for n in range(40)]


@pytest.fixture
def model(policy: Policy) -> RewardModel:
    filled(policy, "sft", "reward")
    heads = RewardHeads(policy.width, 3, generator_for(1, "heads"))
    return RewardModel(policy, heads, 1.0, 4096)


def pairs(model: RewardModel, wanted: Tensor, count: int = 12) -> list[RankedPrompt]:
    """Pairs of samples in the order of ``wanted``, (40,)."""
    groups = []
    for n in range(count):
        i, j = 3 * n, 3 * n + 1
        if wanted[i] < wanted[j]:
            i, j = j, i
        examples = (SAMPLES[i].example, SAMPLES[j].example)
        groups.append(RankedPrompt(examples, ((0, 1, 1.0),), ()))
    return groups


def test_a_line_through_length_by_hand() -> None:
    # scores 1, 3, 5 at lengths 2, 4, 6 are all length; 1 more for the last is not.
    line = Length.line(torch.tensor([1.0, 3.0, 6.0]), torch.tensor([2, 4, 6]))
    assert line.slope == pytest.approx(1.25)
    assert line.mean == 4.0
    left = line.taken_out(torch.tensor([1.0, 3.0, 6.0]), torch.tensor([2, 4, 6]))
    assert (left / line.factor).tolist() == pytest.approx([3.5, 3.0, 3.5])
    assert left.std(correction=0).item() == pytest.approx(
        torch.tensor([1.0, 3.0, 6.0]).std(correction=0).item(), rel=1e-5
    )


def settled(model: RewardModel, taste: str) -> tuple[RewardModel, dict[str, float]]:
    lengths = torch.tensor([float(len(c.ids)) for c in SAMPLES])
    # A reward model that has learned half length, half something else.
    base = model.heads(model._states(SAMPLES)).mean(1)
    something = (base - base.mean()) / base.std()
    short = -(lengths - lengths.mean()) / lengths.std()
    learned = something + 1.5 * short

    class Heads(RewardHeads):
        def forward(self, hidden: Tensor) -> Tensor:
            return super().forward(hidden)

    states = model._states(SAMPLES)
    solution = torch.linalg.lstsq(
        torch.cat([states, torch.ones(40, 1)], 1).double(), learned.double()[:, None]
    ).solution[:, 0]
    with torch.no_grad():
        model.heads.weight.copy_(solution[:-1].float().expand_as(model.heads.weight))
        model.heads.bias.fill_(float(solution[-1]))
    held_out = pairs(model, short if taste == "brevity" else something)
    metrics = model.settle(
        SAMPLES, held_out, held_out, RewardRecipe(length_residual="where_it_holds")
    )
    return model, metrics


def test_length_goes_where_the_rest_agrees_better_without_it(model: RewardModel) -> None:
    model, metrics = settled(model, "something else")
    assert metrics["length_correlation"] < -0.5
    assert metrics["accuracy"] == metrics["accuracy_without_length"] == 1.0
    assert metrics["length_taken_out"] == 1.0
    scores = model.score(SAMPLES).double()
    lengths = torch.tensor([float(len(c.ids)) for c in SAMPLES])
    assert abs(float(torch.corrcoef(torch.stack([scores, lengths.double()]))[0, 1])) < 0.05
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-3)


def test_a_real_wish_for_short_completions_stays(model: RewardModel) -> None:
    model, metrics = settled(model, "brevity")
    assert metrics["accuracy"] > metrics["accuracy_without_length"]
    assert metrics["length_taken_out"] == 0.0
    assert model.length == Length()


def test_both_opinions_of_a_batch_cost_one_pass_and_survive_a_checkpoint(
    model: RewardModel, tmp_path: Path
) -> None:
    model, metrics = settled(model, "brevity")
    assert model.judge is not None
    passes = []
    model._policy.trunk.register_forward_pre_hook(lambda *_: passes.append(1))
    batch = [completed(100 + n, 5) for n in range(4)]
    score, judged = model.score(batch), model.judged(batch)
    assert len(passes) == 1
    assert not torch.equal(score, judged)

    saved = model.checkpoint(metrics)
    save_checkpoint(tmp_path / "done", saved.tensors, saved.state)
    read = load_checkpoint(tmp_path / "done")
    assert read is not None
    heads = RewardHeads(64, 3, generator_for(9, "heads"))
    again = RewardModel(model._policy, heads, 1.0, 4096)
    again.restore(read)
    assert torch.equal(again.score(batch), score)
    assert torch.equal(again.judged(batch), judged)
    assert read.state["metrics"] == metrics


def test_the_judge_has_seen_nothing_the_rewarding_heads_have(model: RewardModel) -> None:
    """Other training data, same judge; other held-out data, same rewarding heads."""
    lengths = torch.tensor([float(len(c.ids)) for c in SAMPLES])
    held_out = pairs(model, -lengths)
    other = pairs(model, lengths, 8)
    before = model.heads.weight.clone()
    model.settle(SAMPLES, other, held_out, RewardRecipe(length_residual="never"))
    judge, scale = model.judge, model.heads.weight.clone()
    assert judge is not None
    with torch.no_grad():
        model.heads.weight.copy_(before)
        model.heads.bias.zero_()
    model.settle(SAMPLES, held_out, held_out, RewardRecipe(length_residual="never"))
    assert model.judge is not None
    assert torch.equal(model.judge.weight, judge.weight)
    torch.testing.assert_close(model.heads.weight, scale)


def test_nothing_held_out_is_no_judge_and_no_residual(model: RewardModel) -> None:
    metrics = model.settle(SAMPLES, [], [], RewardRecipe(length_residual="where_it_holds"))
    assert model.judge is None
    assert model.trusted_judge is None
    assert metrics["length_taken_out"] == 0.0
    assert "accuracy" not in metrics
    assert isinstance(SAMPLES[0].example, TrainingExample)
