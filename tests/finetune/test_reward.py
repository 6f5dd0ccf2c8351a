"""The reward model: the loss is the textbook's, pads do not matter, scores are standardised."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from finetune import reward
from finetune.contract.recipe import LoraRecipe, RewardRecipe
from finetune.data import RankedPrompt
from finetune.policy import Policy, pad_batch
from finetune.reward import RewardHeads
from finetune.stage import StageRun, generator_for
from tests.finetune.test_policy import filled
from tests.finetune.test_sft import example

RECIPE = RewardRecipe(
    lora=LoraRecipe(rank=4, alpha=8.0), epochs=6, batch_size=4, learning_rate=1e-2
)
ROWS = [tuple(range(5, 5 + n)) for n in (4, 11, 7, 30)]


@pytest.fixture
def heads(policy: Policy) -> RewardHeads:
    filled(policy, "sft", "reward")
    return RewardHeads(policy.width, 5, generator_for(1, "heads"))


def test_pads_and_neighbours_do_not_change_a_score(policy: Policy, heads: RewardHeads) -> None:
    # KoChatGPT averages over all positions, pads included, and pads to the longest.
    together = reward.score(policy, heads, ROWS, 10_000)
    alone = torch.cat([reward.score(policy, heads, [row], 10_000) for row in ROWS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_the_score_is_the_heads_on_the_last_token(policy: Policy, heads: RewardHeads) -> None:
    row = ROWS[1]
    with policy.using("sft", "reward"), torch.no_grad():
        hidden = policy.hidden(pad_batch([(row, ())]))[0, len(row) - 1]
    expected = heads.weight @ hidden + heads.bias
    torch.testing.assert_close(
        reward.score(policy, heads, [row], 99)[0], expected, atol=1e-5, rtol=0
    )


def test_the_loss_of_a_ranking_is_the_explicit_double_loop() -> None:
    # K = 4 with ranks 1, 0, 2, 1: five pairs that are no ties, one mean.
    ranks = [1, 0, 2, 1]
    generator = generator_for(1, "scores")
    scores = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    bootstrap = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    pairs = tuple((i, j, 1.0) for i in range(4) for j in range(4) if ranks[i] < ranks[j])
    group = RankedPrompt((), pairs, ())
    expected = 0.0
    for head in range(3):
        for i in range(4):
            for j in range(4):
                if ranks[i] < ranks[j]:
                    a, b = scores[i, head].item(), scores[j, head].item()
                    one = math.log1p(math.exp(-(a - b))) + 0.01 * (a + b) ** 2
                    expected += one * bootstrap[head].item() / (5 * 3)
    actual = reward.group_loss(scores, group, torch.zeros(()), bootstrap, 0.01)
    assert actual.item() == pytest.approx(expected, abs=1e-12)


def test_margins_push_the_best_and_the_worst_further_apart() -> None:
    scores = torch.tensor([[1.0], [0.5], [0.0]], dtype=torch.float64)
    pairs = ((0, 1, 1.0), (1, 2, 1.0), (0, 2, 1.0))
    group = RankedPrompt((), pairs, (), (0.0, 0.0, 1.0))
    one = torch.ones(1, dtype=torch.float64)
    found = reward.group_loss(scores, group, torch.zeros(()), one, 0.0, 0.3)
    expected = (2 * math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-(1.0 - 0.3)))) / 3
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_the_gradient_of_a_ranking_is_that_of_its_pairs_one_by_one(policy: Policy) -> None:
    policy.add_adapter("reward", RECIPE.lora, generator_for(1))
    heads = RewardHeads(policy.width, 2, generator_for(1, "heads"))
    group, recipe = ranking(1, 4), dataclasses.replace(RECIPE, center_coef=0.0)
    single = [
        RankedPrompt((group.completions[i], group.completions[j]), ((0, 1, 1.0),), ())
        for i, j, _ in group.pairs
    ]
    gradients = []
    for groups in ([group], single):
        policy.zero_grad()
        heads.zero_grad()
        reward._backward(policy, heads, groups, torch.ones(len(groups), 2), recipe, 64)
        parameters = [*policy.adapter_parameters("reward"), heads.weight]
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=0)


def test_thumbs_are_a_binary_likelihood_on_the_same_score() -> None:
    scores = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    group = RankedPrompt((), (), ((0, True, 0.5), (1, False, 1.5)))
    bias = torch.tensor(0.25, dtype=torch.float64)
    expected = (0.5 * math.log1p(math.exp(-1.25)) + 1.5 * math.log1p(math.exp(-1.75))) / 2
    actual = reward.group_loss(scores, group, bias, torch.ones(1, dtype=torch.float64), 0.0)
    assert actual.item() == pytest.approx(expected, abs=1e-12)


def ranking(seed: int, size: int) -> RankedPrompt:
    completions = tuple(example(100 * seed + k, 5, 4 + k) for k in range(size))
    pairs = tuple((i, j, 1.0) for i in range(size) for j in range(i + 1, size))
    return RankedPrompt(completions, pairs, ())


def test_each_completion_goes_through_the_network_once(policy: Policy, tmp_path: Path) -> None:
    rows = []
    policy.model.model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["pack"].lengths)), with_kwargs=True
    )
    policy.add_adapter("reward", RECIPE.lora, generator_for(1))
    heads = RewardHeads(policy.width, 2, generator_for(1, "heads"))
    reward._backward(policy, heads, [ranking(1, 4)], torch.ones(1, 2), RECIPE, 4096)
    assert sum(rows) == 4  # not 4 * 3


def prefers_small_ids(seed: int) -> RankedPrompt:
    """Two completions of the same length; the better one is made of eight small ids."""
    generator = generator_for(seed, "ids")
    prompt = torch.randint(200, 400, (6,), generator=generator).tolist()
    low = torch.randint(3, 11, (5,), generator=generator).tolist()
    high = torch.randint(300, 308, (5,), generator=generator).tolist()
    mask = (False,) * 6 + (True,) * 5
    completions = tuple(type(example(0, 1, 1))((*prompt, *c), mask) for c in (high, low))
    return RankedPrompt(completions, ((1, 0, 1.0),), ())


def test_a_preference_is_learned_and_held_out_pairs_confirm_it(
    policy: Policy, tmp_path: Path
) -> None:
    groups = [prefers_small_ids(n) for n in range(24)]
    held_out = [prefers_small_ids(n) for n in range(100, 116)]
    run = StageRun("reward", tmp_path, lambda e: None, lambda: False, 100)
    heads = reward.train_reward(policy, groups, held_out, RECIPE, 1, run)
    found = reward.agreement(policy, heads, held_out, 4096)
    assert found.total == 16
    assert found.accuracy >= 0.9
    assert found.bound > 0.5

    rows = [e.ids for g in held_out for e in g.completions]
    heads.standardise(reward.score(policy, heads, rows, 4096))
    scores = reward.score(policy, heads, rows, 4096)
    assert scores.mean(0).abs().max() < 1e-3
    assert scores.mean(1).std(correction=0).item() == pytest.approx(1.0, abs=1e-3)
    assert reward.agreement(policy, heads, held_out, 4096) == found


def test_the_conservative_score_is_lower_where_heads_disagree() -> None:
    scores = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    assert reward.conservative(scores, 1.0).tolist() == [1.0, 0.0]
    assert reward.conservative(scores, 0.0).tolist() == [1.0, 1.0]


def test_heads_begin_small_and_in_float32() -> None:
    heads = RewardHeads(255, 400, generator_for(1))
    assert heads.weight.std().item() == pytest.approx(reward.HEAD_SCALE / 16, rel=0.02)
    assert heads.weight.dtype == torch.float32
    assert not heads.bias.any()
