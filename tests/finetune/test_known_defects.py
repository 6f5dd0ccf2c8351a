"""Defects of other trainers that this one must not have; those not tested beside their formula.

KoChatGPT     scores averaged over pads               test_reward: pads and neighbours
              one value for a whole sequence          test_rl_math: gae; here: value a token
              reversed k3 as KL                       test_rl_math: k1 and k3; here: logged
              log(sigmoid) overflows                  test_rl_math: preference loss
              no PPO-ptx                              test_ppo: ptx; test_weighted_regression
              training mode between batches           here
ColossalChat  score on every token                    test_rl_math: the score counts once
              seed 41 in each batch                   test_ppo: every step draws others
              values of shifted tokens                test_ppo: order and length of prompts
              advantages never whitened               test_rl_math: whitened
TRL 1.12      no resume                               test_command_line: killed run
              fixed KL coefficient                    test_rl_math: adaptive; here
              (B, T, V) scores kept, head on prompts  test_policy, test_packing; here
              entropy of every micro-step             here
              cache emptied at each step              here
              pads in the approximate KL              here
              a second model for values               here
"""

import dataclasses
import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import ppo, rl_math, rollouts
from finetune.generate import sample
from finetune.policy import Policy
from finetune.stage import generator_for
from tests.finetune.test_policy import filled
from tests.finetune.test_ppo import ENDS, PROMPTS, RECIPE, rolled_out, run_in, short_is_good


def test_values_are_learned_token_by_token(policy: Policy) -> None:
    filled(policy, "sft", "ppo")
    found = rolled_out(policy)
    values = ppo.ValueHead(policy.width)
    with torch.no_grad():
        values.weight.normal_(generator=generator_for(1))
    guesses = values(found.hidden)
    assert guesses.shape == found.mask.shape
    row = int(found.mask.sum(1).argmax())
    assert len(set(guesses[row][found.mask[row]].tolist())) > 1


def test_the_logged_k3_is_not_the_reversed_one(policy: Policy) -> None:
    filled(policy, "sft", "ppo")
    found = rolled_out(policy)
    shown = rollouts.describe(found, found.kl, 0.1)["kl_k3"]
    difference = (found.logprobs - found.ref_logprobs) * found.mask
    right = (torch.exp(-difference) - 1 + difference).sum(1).mean().item()
    reversed_one = (torch.exp(difference) - 1 - difference).sum(1).mean().item()
    assert shown == pytest.approx(right, rel=1e-4)
    assert shown != pytest.approx(reversed_one, rel=1e-2)


def test_nothing_is_ever_in_training_mode(policy: Policy, tmp_path: Path) -> None:
    filled(policy, "sft")
    modes: list[bool] = []
    policy.trunk.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    ppo.train_ppo(policy, PROMPTS, short_is_good, (), RECIPE, ENDS, 1, run_in(tmp_path))
    assert modes
    assert not any(modes)


def test_the_kl_coefficient_moves_with_the_kl(policy: Policy, tmp_path: Path) -> None:
    filled(policy, "sft")
    events: list[Any] = []
    recipe = dataclasses.replace(RECIPE, steps=4, kl_horizon=4, kl_target=5.0)
    ppo.train_ppo(policy, PROMPTS, short_is_good, (), recipe, ENDS, 1, run_in(tmp_path, events))
    coefficients = [e.metrics["kl_coef"] for e in events if e.kind == "step_done"]
    assert coefficients[1] == pytest.approx(0.05 * (1 - 0.2 / 4))  # far below the target
    assert coefficients == sorted(coefficients, reverse=True)


def logits_seen(policy: Policy) -> list[tuple[int, bool]]:
    """(rows, gradients wanted) of every call of the head from here on."""
    seen: list[tuple[int, bool]] = []
    policy.head.register_forward_pre_hook(
        lambda _, args: seen.append((args[0].reshape(-1, args[0].shape[-1]).shape[0],
                                     args[0].requires_grad))
    )  # fmt: skip
    return seen


def test_no_logits_of_prompts_and_none_kept(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(policy, "sft", "ppo")
    found = rolled_out(policy)
    monkeypatch.setattr(Policy, "rows_of_logits", property(lambda self: 5))
    seen = logits_seen(policy)
    rollouts.score_tokens(policy, found.completed, 1.0, 4096, *ppo.POLICY)
    assert max(rows for rows, _ in seen) == 5  # never (B, T, V)
    assert sum(rows for rows, _ in seen) == int(found.mask.sum())  # sampled tokens alone


def test_training_passes_compute_no_entropy_and_one_head(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(policy, "sft", "ppo")
    found = rolled_out(policy)
    monkeypatch.setattr(Policy, "token_scores", None)  # it would be an error to call it
    seen = logits_seen(policy)
    zeros = torch.zeros_like(found.logprobs)
    values = ppo.ValueHead(policy.width)
    ppo._minibatch(policy, values, found, range(8), zeros + 1.0, zeros, zeros, RECIPE, 4096)
    assert sum(rows for rows, _ in seen) == int(found.mask.sum())


def test_no_cache_is_emptied_at_each_step(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(gc, "collect", lambda *_: calls.append("gc"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("cache"))
    filled(policy, "sft")
    ppo.train_ppo(policy, PROMPTS, short_is_good, (), RECIPE, ENDS, 1, run_in(tmp_path))
    assert calls == []


def test_pads_are_not_in_the_approximate_kl() -> None:
    new, old = torch.tensor([[-1.0, -2.0, 99.0]]), torch.tensor([[-1.5, -2.0, 0.0]])
    mask = torch.tensor([[True, True, False]])
    found = rl_math.policy_loss(new, old, torch.ones(1, 3), mask, 0.2)
    ratio = torch.tensor(0.5)
    wanted = ((ratio.exp() - 1 - ratio) + 0.0) / 2  # old against new, two tokens
    assert found.approximate_kl.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_values_cost_one_vector_and_not_a_model(policy: Policy) -> None:
    assert sum(p.numel() for p in ppo.ValueHead(policy.width).parameters()) == policy.width + 1


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_every_scoring_pass_is_at_the_sampling_temperature(
    policy: Policy, temperature: float
) -> None:
    filled(policy, "sft", "ppo")
    with policy.merged(*ppo.POLICY):
        completed = sample(
            policy, PROMPTS, copies=2, max_new_tokens=8, end_ids=ENDS, generator=generator_for(1),
            temperature=temperature,
        )  # fmt: skip
    scored = rollouts.score_tokens(policy, completed, temperature, 4096, *ppo.POLICY)
    for row, one in enumerate(completed):
        found = scored.logprobs[row, : len(one.ids)]
        torch.testing.assert_close(found, torch.tensor(one.logprobs), atol=2e-4, rtol=0)


def test_updates_are_epochs_times_minibatches_clipped_and_annealed(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(policy, "sft")
    rates: list[tuple[int, float]] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *args: Any) -> None:
        group = self.param_groups[0]
        norms = [p.grad.norm() for p in group["params"] if p.grad is not None]
        assert torch.stack(norms).norm() <= 1.0 + 1e-5
        assert group["eps"] == 1e-5
        rates.append((len(rates), group["lr"]))
        step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    recipe = dataclasses.replace(
        RECIPE, steps=3, epochs=2, minibatches=2, value_warmup_steps=0, learning_rate=1e-3
    )
    ppo.train_ppo(policy, PROMPTS, short_is_good, (), recipe, ENDS, 1, run_in(tmp_path))
    assert len(rates) == 3 * 2 * 2
    assert [rate for _, rate in rates[::4]] == pytest.approx([1e-3, 0.7e-3, 0.4e-3])
