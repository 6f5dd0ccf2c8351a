"""PPO as a whole: rows 1 to 4, 14 to 18 and 20 of the specification's table."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune import ppo, rl_math, rollouts
from finetune.checkpoint import load_checkpoint
from finetune.contract.recipe import LoraRecipe, PpoRecipe
from finetune.generate import Completed
from finetune.policy import Policy
from finetune.stage import Diverged, StageRun, generator_for
from tests.finetune import tabular
from tests.finetune.test_policy import filled
from tests.finetune.test_sft import EXAMPLES

ENDS = frozenset(range(0, 400, 9))
PROMPTS = [tuple(range(5, 5 + n)) for n in (3, 12, 7, 20)]
RECIPE = PpoRecipe(
    lora=LoraRecipe(rank=4, alpha=8.0),
    steps=3,
    prompts_per_step=4,
    completions_per_prompt=2,
    max_new_tokens=10,
    value_warmup_steps=1,
    ptx_coef=0.0,
)


def run_in(folder: Path, events: list | None = None) -> StageRun:  # type: ignore[type-arg]
    emit = (lambda event: None) if events is None else events.append
    return StageRun("ppo", folder, emit, lambda: False, 100)


def short_is_good(completed: list[Completed]) -> Tensor:
    return torch.tensor([1.0 - 0.2 * len(c.ids) for c in completed])


def rolled_out(policy: Policy, *, score_again: bool = True) -> rollouts.Rollouts:
    return rollouts.roll_out(
        policy, PROMPTS, short_is_good, RECIPE, ENDS, generator_for(1), 4096,
        score_again=score_again,
    )  # fmt: skip


def test_kl_is_exactly_zero_before_the_first_update(policy: Policy) -> None:
    filled(policy, "sft")
    policy.add_adapter("ppo", RECIPE.lora, generator_for(1))
    found = rolled_out(policy)
    assert torch.equal(found.logprobs, found.ref_logprobs)
    assert found.kl == 0.0


def test_two_scorings_are_bitwise_equal(policy: Policy) -> None:
    filled(policy, "sft", "ppo")
    completed = rolled_out(policy).completed
    first = rollouts.score_tokens(policy, completed, 1.0, 4096, *ppo.POLICY)
    second = rollouts.score_tokens(policy, completed, 1.0, 4096, *ppo.POLICY)
    assert torch.equal(first.logprobs, second.logprobs)


def test_what_the_sampler_noted_is_what_scoring_again_finds(policy: Policy) -> None:
    filled(policy, "sft", "ppo")
    noted, scored = rolled_out(policy, score_again=False), rolled_out(policy)
    assert [c.ids for c in noted.completed] == [c.ids for c in scored.completed]
    for name in ("logprobs", "entropy", "hidden"):
        torch.testing.assert_close(getattr(noted, name), getattr(scored, name), atol=2e-4, rtol=0)
    rollouts.check_sampler(scored, torch.float32)


def test_a_sampler_that_disagrees_is_found_out(policy: Policy) -> None:
    filled(policy, "sft", "ppo")
    found = rolled_out(policy)
    with pytest.raises(Diverged, match="disagree"):
        rollouts.check_sampler(
            dataclasses.replace(found, logprobs=found.logprobs + 0.01), torch.float32
        )


def test_scores_do_not_depend_on_the_order_and_length_of_prompts(policy: Policy) -> None:
    # ColossalChat's training values are misaligned as soon as prompt lengths differ.
    filled(policy, "sft", "ppo")
    completed = rolled_out(policy).completed
    together = rollouts.score_tokens(policy, completed, 1.0, 4096, *ppo.POLICY)
    backwards = rollouts.score_tokens(policy, completed[::-1], 1.0, 64, *ppo.POLICY)
    for row, one in enumerate(completed):
        n = len(one.ids)
        other = backwards.logprobs[len(completed) - 1 - row, :n]
        torch.testing.assert_close(together.logprobs[row, :n], other, atol=2e-5, rtol=0)


def test_the_ratio_is_one_in_the_first_minibatch(policy: Policy) -> None:
    filled(policy, "sft", "ppo")
    found = rolled_out(policy)
    values = ppo.ValueHead(policy.width)
    zeros = torch.zeros_like(found.logprobs)
    seen = ppo._minibatch(policy, values, found, range(8), zeros + 1.0, zeros, zeros, RECIPE, 4096)
    assert seen["ratio"] == 1.0
    assert seen["approximate_kl"] == 0.0
    assert seen["clip_fraction"] == 0.0


def test_micro_batches_add_up_to_the_minibatch(policy: Policy) -> None:
    filled(policy, "sft", "ppo")
    found = rolled_out(policy)
    advantages = rl_math.whiten(
        torch.randn(found.mask.shape, generator=generator_for(2)), found.mask
    )
    gradients = []
    for tokens in (4096, 1):
        policy.zero_grad()
        values = ppo.ValueHead(policy.width)
        zeros = torch.zeros_like(found.logprobs)
        ppo._minibatch(
            policy, values, found, range(8), advantages, zeros, advantages, RECIPE, tokens
        )
        parameters = [*policy.adapter_parameters("ppo"), *values.parameters()]
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


def test_completions_without_an_end_or_without_words_get_the_fixed_score() -> None:
    def completed(ids: tuple[int, ...], ended: bool) -> Completed:
        return Completed((1,), ids, (0.0,) * len(ids), ended)

    rows = [completed((7, 2), True), completed((7, 7), False), completed((2,), True)]
    scores = rollouts.completion_scores(rows, lambda some: torch.full((len(some),), 0.5), -2.0)
    assert scores.tolist() == [0.5, -2.0, -2.0]


def test_ptx_switched_off_is_bitwise_the_run_without_demonstrations(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    from finetune.gguf_weights import load_trunk

    states = []
    for name, demonstrations in (("a", ()), ("b", EXAMPLES)):
        policy = filled(Policy(load_trunk(tiny_gguf)), "sft")
        ppo.train_ppo(
            policy, PROMPTS, short_is_good, demonstrations, RECIPE, ENDS, 1, run_in(tmp_path / name)
        )
        states.append(policy.adapter_state("ppo"))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_wild_learning_rate_is_broken_off_within_the_step(policy: Policy, tmp_path: Path) -> None:
    filled(policy, "sft")
    events: list = []  # type: ignore[type-arg]
    recipe = dataclasses.replace(
        RECIPE, steps=2, learning_rate=0.5, epochs=8, value_warmup_steps=0, kl_budget=1e9
    )
    updates = []
    step = torch.optim.AdamW.step
    try:
        torch.optim.AdamW.step = lambda self, *a: updates.append(1) or step(self, *a)  # type: ignore[method-assign]
        ppo.train_ppo(policy, PROMPTS, short_is_good, (), recipe, ENDS, 1, run_in(tmp_path, events))
    finally:
        torch.optim.AdamW.step = step  # type: ignore[method-assign]
    assert 0 < len(updates) < 2 * 8 * 2


def test_beyond_the_kl_budget_the_last_weights_within_it_are_kept(
    policy: Policy, tmp_path: Path
) -> None:
    filled(policy, "sft")
    events: list = []  # type: ignore[type-arg]
    recipe = dataclasses.replace(
        RECIPE, steps=30, learning_rate=0.02, value_warmup_steps=0, kl_budget=0.5, kl_coef=0.0
    )
    ppo.train_ppo(policy, PROMPTS, short_is_good, (), recipe, ENDS, 1, run_in(tmp_path, events))
    steps = [e for e in events if e.kind == "step_done"]
    assert len(steps) < 30
    assert steps[-1].metrics["kl"] > 0.5
    assert all(e.metrics["kl"] <= 0.5 for e in steps[:-1])
    assert any(e.kind == "note" and "budget" in e.message for e in events)
    kept = rollouts.roll_out(
        policy, PROMPTS * 8, short_is_good, recipe, ENDS, generator_for(9), 4096, score_again=True
    )
    assert kept.kl < steps[-1].metrics["kl"]


def test_every_step_draws_other_completions_and_prompts_take_turns() -> None:
    # ColossalChat seeds with 41 at each make_experience.
    order = [rollouts.prompts_of_step(PROMPTS, step, 4, 1) for step in range(3)]
    assert all(sorted(chosen) == sorted(PROMPTS) for chosen in order)
    assert order[0] != order[1] or order[1] != order[2]
    assert [p for s in range(4) for p in rollouts.prompts_of_step(PROMPTS, s, 3, 1)] == [
        p for s in range(3) for p in rollouts.prompts_of_step(PROMPTS, s, 4, 1)
    ]


def test_the_value_head_fits_returns_before_the_policy_moves(policy: Policy) -> None:
    values = ppo.ValueHead(4)
    hidden = torch.randn(16, 8, 4, generator=generator_for(1))
    mask = torch.ones(16, 8, dtype=torch.bool)
    returns = hidden @ torch.tensor([1.0, -1.0, 0.5, 0.0])
    for _ in range(20):
        ppo._fit_values(values, hidden, returns, mask, 0.02)
    assert rl_math.explained_variance(values(hidden), returns, mask) > 0.9


# --- row 20: the known optimum ----------------------------------------------------------------

BETA = 0.5
MISSING_END = -0.5


def test_ppo_reaches_the_known_optimum_of_a_tabular_language_model(tmp_path: Path) -> None:
    table = tabular.random_table(3)
    rewards = tabular.reward_table(4, MISSING_END)
    policy = tabular.tabular_policy(table)
    recipe = PpoRecipe(
        lora=LoraRecipe(rank=7, alpha=7.0),
        steps=80,
        prompts_per_step=1,
        completions_per_prompt=256,
        max_new_tokens=tabular.LENGTH,
        learning_rate=0.03,
        value_learning_rate=0.05,
        epochs=4,
        minibatches=1,
        kl_coef=BETA,
        kl_horizon=10**9,
        kl_budget=1e9,
        epoch_kl=1e9,
        lam=1.0,
        ptx_coef=0.0,
        missing_end_score=MISSING_END,
        value_warmup_steps=2,
    )

    ppo.train_ppo(
        policy,
        [tabular.PROMPT],
        lambda completed: tabular.scores_of(rewards, completed),
        (),
        recipe,
        {tabular.END},
        1,
        run_in(tmp_path),
    )
    reference = tabular.probabilities(table)
    wanted = tabular.optimum(reference, rewards, BETA)
    reached = tabular.probabilities(tabular.table_of(policy, "ppo"))
    assert tabular.total_variation(reference, wanted) > 0.3
    assert tabular.total_variation(reached, wanted) < 0.02


def test_the_weights_that_please_the_judge_most_are_kept(policy: Policy, tmp_path: Path) -> None:
    """A judge that falls after the fourth batch: kept is what sampled the best three on average."""
    filled(policy, "sft")
    opinions = iter([0.0, 1.0, 2.0, 3.0, -5.0, -5.0, -5.0, -5.0, -5.0])
    sampled_by: list[dict[str, Tensor]] = []

    def judge(completed: list[Completed]) -> Tensor:
        sampled_by.append(policy.adapter_state("ppo"))
        return torch.full((len(completed),), next(opinions))

    events: list = []  # type: ignore[type-arg]
    recipe = dataclasses.replace(RECIPE, steps=8, value_warmup_steps=0, kl_budget=1e9,
                                 learning_rate=1e-2, missing_end_score=0.0)  # fmt: skip
    ppo.train_ppo(
        policy, PROMPTS, short_is_good, (), recipe, ENDS, 1, run_in(tmp_path, events), judge
    )
    assert len(sampled_by) == 9  # the last update is judged as well
    kept = policy.adapter_state("ppo")
    assert all(torch.equal(kept[name], sampled_by[3][name]) for name in kept)
    assert not all(torch.equal(kept[name], sampled_by[8][name]) for name in kept)
    assert events[1].metrics["judged"] != events[1].metrics["score"]


def test_a_judge_that_is_pleased_to_the_end_keeps_the_end(policy: Policy, tmp_path: Path) -> None:
    filled(policy, "sft")
    opinions = iter(range(100))
    recipe = dataclasses.replace(RECIPE, kl_budget=1e9)

    def judge(completed: list[Completed]) -> Tensor:
        return torch.full((len(completed),), float(next(opinions)))

    ppo.train_ppo(policy, PROMPTS, short_is_good, (), recipe, ENDS, 1, run_in(tmp_path), judge)
    with_judge = policy.adapter_state("ppo")
    assert any(value.abs().max() > 0 for name, value in with_judge.items() if name.endswith("b"))


def test_scores_that_are_all_the_same_move_the_policy_nowhere(
    policy: Policy, tmp_path: Path
) -> None:
    """No completion ends: what is left of the advantages is the value head's error."""
    filled(policy, "sft")
    events: list = []  # type: ignore[type-arg]
    ppo.train_ppo(policy, PROMPTS, short_is_good, (), RECIPE, (), 1, run_in(tmp_path, events))
    trained = policy.adapter_state("ppo")
    assert all(float(trained[name].abs().max()) == 0.0 for name in trained if name.endswith("b"))
    assert [e.metrics["score"] for e in events if e.kind == "step_done"] == [-2.0] * 3


def test_a_checkpoint_of_the_stage_holds_all_it_needs(policy: Policy, tmp_path: Path) -> None:
    filled(policy, "sft")
    run = dataclasses.replace(run_in(tmp_path), checkpoint_every=2)
    ppo.train_ppo(policy, PROMPTS, short_is_good, (), RECIPE, ENDS, 1, run)
    saved = load_checkpoint(tmp_path / "step-000002")
    assert saved is not None
    assert saved.state["step"] == 2
    heads = {name.split(".")[0] for name in saved.tensors}
    assert heads == {"adapter", "kept", "values", "optimizer"}
