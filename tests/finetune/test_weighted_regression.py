"""RAFT and reward-weighted regression: weights by hand, and the known optimum is reached."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from finetune import ppo, rl_math, rollouts, weighted_regression
from finetune.contract.recipe import LoraRecipe, PpoRecipe
from finetune.generate import Completed
from finetune.policy import Policy
from finetune.stage import generator_for
from finetune.token_loss import backward
from finetune.weighted_regression import Liked, sample_weights
from tests.finetune import tabular
from tests.finetune.test_policy import filled
from tests.finetune.test_ppo import BETA, ENDS, MISSING_END, PROMPTS, run_in, short_is_good
from tests.finetune.test_sft import EXAMPLES

RECIPE = PpoRecipe(
    method="rwr", lora=LoraRecipe(rank=4, alpha=8.0), steps=2, prompts_per_step=4,
    max_new_tokens=10, weighted_completions=4, weight_beta=0.5, ptx_coef=0.0,
)  # fmt: skip


def scored(scores: list[float], away: list[float], ended: list[bool]) -> rollouts.Rollouts:
    """Completions of one token with these scores and log-ratios to the reference."""
    completed = [Completed((1,), (7, 2), (0.0, 0.0), end) for end in ended]
    logprobs = torch.tensor([[a, 0.0] for a in away])
    zeros = torch.zeros_like(logprobs)
    return rollouts.Rollouts(
        completed, torch.ones(len(scores), 2, dtype=torch.bool), logprobs, zeros, zeros,
        zeros[..., None], torch.tensor(scores),
    )  # fmt: skip


def test_weights_of_regression_by_hand() -> None:
    # beta = 0.5. First prompt: tilts (0, 2) -> softmax (1, e^2) / (1 + e^2), times 2.
    # Second: the better one is already e^2 times likelier than at the reference: tilts (0, 0).
    recipe = dataclasses.replace(RECIPE, weighted_completions=2)
    found = scored([0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 2.0], [True] * 4)
    weights = sample_weights(found, recipe)
    share = 2 / (1 + math.exp(2))
    assert weights.tolist() == pytest.approx([share, 2 - share, 1.0, 1.0], abs=1e-6)


def test_best_of_n_takes_the_best_that_ended() -> None:
    recipe = dataclasses.replace(RECIPE, method="raft", weighted_completions=3)
    found = scored([0.1, 0.9, 0.5, 2.0, 1.0, 3.0], [0.0] * 6, [True, False, True, *[False] * 3])
    assert sample_weights(found, recipe).tolist() == [0, 0, 1, 0, 0, 0]


def test_the_gradient_is_that_of_ppo_at_ratio_one_with_weights_for_advantages(
    policy: Policy,
) -> None:
    filled(policy, "sft", "ppo")
    found = rollouts.roll_out(
        policy, PROMPTS, short_is_good, RECIPE, ENDS, generator_for(1), 4096, score_again=True
    )
    weights = torch.randn(16, generator=generator_for(2))
    parameters = policy.adapter_parameters("ppo")

    def gradient() -> torch.Tensor:
        return torch.cat([p.grad.flatten() for p in parameters])

    with policy.using(*ppo.POLICY):
        policy.zero_grad()
        backward(policy, [c.example for c in found.completed], 100, 1.0, weights.tolist())
    ours = gradient()
    advantages = weights[:, None].expand(found.mask.shape)
    values = ppo.ValueHead(policy.width)
    zeros = torch.zeros_like(found.logprobs)
    policy.zero_grad()
    ppo._minibatch(
        policy, values, found, range(16), advantages, zeros, zeros,
        dataclasses.replace(RECIPE, value_coef=0.0), 100,
    )  # fmt: skip
    torch.testing.assert_close(ours, gradient(), atol=1e-6, rtol=0)


def test_regression_reaches_the_known_optimum_of_a_tabular_language_model(tmp_path: Path) -> None:
    """The same table, reward and optimum as PPO's proof, through the recipe's own code."""
    table = tabular.random_table(3)
    rewards = tabular.reward_table(4, MISSING_END)
    policy = tabular.tabular_policy(table)
    recipe = PpoRecipe(
        method="rwr",
        weight_beta=BETA,
        weighted_completions=512,
        lora=LoraRecipe(rank=7, alpha=7.0),
        steps=60,
        prompts_per_step=1,
        max_new_tokens=tabular.LENGTH,
        learning_rate=0.03,
        epochs=2,
        minibatches=1,
        kl_budget=1e9,
        ptx_coef=0.0,
        missing_end_score=MISSING_END,
    )
    ppo.train_ppo(
        policy,
        [tabular.PROMPT],
        lambda completed: tabular.scores_of(rewards, completed),
        (),
        recipe,
        {tabular.END},
        1,
        dataclasses.replace(run_in(tmp_path), rows_at_once=512),
    )
    reference = tabular.probabilities(table)
    wanted = tabular.optimum(reference, rewards, BETA)
    reached = tabular.probabilities(tabular.table_of(policy, "ppo"))
    assert tabular.total_variation(reference, wanted) > 0.3
    assert tabular.total_variation(reached, wanted) < 0.02


@pytest.mark.parametrize("method", ["raft", "rwr"])
def test_both_ways_raise_the_score_and_go_through_checkpoints(
    policy: Policy, tmp_path: Path, method: str
) -> None:
    filled(policy, "sft")
    events: list = []  # type: ignore[type-arg]
    recipe = dataclasses.replace(
        RECIPE, method=method, steps=8, learning_rate=0.01, kl_budget=1e9, weight_beta=0.2
    )
    run = dataclasses.replace(run_in(tmp_path, events), checkpoint_every=4)
    metrics = ppo.train_ppo(policy, PROMPTS, short_is_good, EXAMPLES, recipe, ENDS, 1, run)
    scores = [e.metrics["score"] for e in events if e.kind == "step_done"]
    assert sum(scores[-3:]) > sum(scores[:3])
    assert "value_loss" not in metrics
    assert (tmp_path / "step-000008").is_dir()


def test_the_kl_budget_holds_for_them_too(policy: Policy, tmp_path: Path) -> None:
    filled(policy, "sft")
    events: list = []  # type: ignore[type-arg]
    recipe = dataclasses.replace(RECIPE, steps=30, learning_rate=0.05, kl_budget=0.3)
    ppo.train_ppo(policy, PROMPTS, short_is_good, (), recipe, ENDS, 1, run_in(tmp_path, events))
    steps = [e for e in events if e.kind == "step_done"]
    assert len(steps) < 30
    assert all(e.metrics["kl"] <= 0.3 for e in steps[:-1])


def test_liked_completions_are_mixed_in_by_the_weight_of_their_reward() -> None:
    recipe = dataclasses.replace(RECIPE, ptx_coef=0.1)
    liked = Liked.of(EXAMPLES, short_is_good, recipe)
    scores = torch.tensor([1.0 - 0.2 * sum(e.completion_mask) for e in EXAMPLES])
    wanted = rl_math.reward_weights(scores, weighted_regression.PTX_BETA)
    assert liked.weights == pytest.approx(wanted.tolist())
    assert sum(liked.weights) == pytest.approx(len(EXAMPLES))
    drawn = liked.drawn(generator_for(1))
    assert len(drawn.examples) == weighted_regression.PTX_EXAMPLES
    assert all(
        weight == liked.weights[EXAMPLES.index(example)]
        for example, weight in zip(drawn.examples, drawn.weights, strict=True)
    )
    assert Liked.of(EXAMPLES, short_is_good, RECIPE).examples == ()  # switched off
