"""The PPO table of the specification, row by row: numbers by hand or by a second version."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, tensor

from finetune import rl_math


def t(values: object) -> Tensor:
    return tensor(values, dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0.0)


def ragged(rows: int = 5, length: int = 7) -> tuple[np.random.Generator, np.ndarray]:
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, length + 1, rows)
    lengths[0] = length
    return rng, np.arange(length)[None, :] < lengths[:, None]


# --- row 5: KL estimators --------------------------------------------------------------------


def test_k1_and_k3_estimate_the_exact_kl_and_reversed_k3_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(50, generator=generator, dtype=torch.float64).mul(0.6).log_softmax(0)
    q = torch.randn(50, generator=generator, dtype=torch.float64).mul(0.6).log_softmax(0)
    exact = (p.exp() * (p - q)).sum().item()
    draws = torch.multinomial(p.exp(), 400_000, replacement=True, generator=generator)
    lp, lq = p[draws], q[draws]
    assert rl_math.kl_k1(lp, lq).mean().item() == pytest.approx(exact, abs=0.01)
    assert rl_math.kl_k3(lp, lq).mean().item() == pytest.approx(exact, abs=0.01)
    assert rl_math.kl_k3(lp, lq).std() < rl_math.kl_k1(lp, lq).std()
    # What KoChatGPT and ColossalChat log: another number altogether.
    reversed_k3 = rl_math.kl_k3(lq, lp).mean().item()
    assert abs(reversed_k3 - exact) > 0.05


def test_kl_estimators_by_hand() -> None:
    lp, lq = t([math.log(0.5)]), t([math.log(0.25)])
    close(rl_math.kl_k1(lp, lq), t([math.log(2)]))
    close(rl_math.kl_k2(lp, lq), t([math.log(2) ** 2 / 2]))
    close(rl_math.kl_k3(lp, lq), t([0.5 - 1 + math.log(2)]))


# --- row 6: token rewards --------------------------------------------------------------------


def test_token_rewards_by_hand() -> None:
    # Row 1 has two tokens, row 2 has three. k1 = .2, .1 | 0, 0, -.3; kl_coef = .5
    mask = tensor([[True, True, False], [True, True, True]])
    logprobs = t([[-1.0, -1.0, -9.0], [-1.0, -1.0, -1.0]])
    reference = t([[-1.2, -1.1, -1.0], [-1.0, -1.0, -0.7]])
    rewards = rl_math.token_rewards(t([2.0, -1.0]), logprobs, reference, mask, 0.5)
    close(rewards, t([[-0.1, 2.0 - 0.05, 0.0], [0.0, 0.0, -1.0 + 0.15]]))


def test_rewards_of_a_row_sum_to_score_minus_kl() -> None:
    rng, real = ragged()
    mask = tensor(real)
    logprobs, reference = t(rng.normal(size=real.shape)), t(rng.normal(size=real.shape))
    scores = t(rng.normal(size=len(real)))
    rewards = rl_math.token_rewards(scores, logprobs, reference, mask, 0.07)
    close(rewards.sum(1), scores - 0.07 * ((logprobs - reference) * mask).sum(1))


def test_the_score_counts_once_however_long_the_completion_is() -> None:
    # ColossalChat adds it to every token, which pays for length.
    for length in (1, 3, 200):
        mask = torch.ones(1, length, dtype=torch.bool)
        zeros = torch.zeros(1, length, dtype=torch.float64)
        assert rl_math.token_rewards(t([1.5]), zeros, zeros, mask, 0.1).sum().item() == 1.5


# --- row 7: adaptive KL ----------------------------------------------------------------------


def test_adaptive_kl_coefficient_over_five_batches_at_twice_the_target() -> None:
    coefficient = 0.2
    for _ in range(5):
        coefficient = rl_math.adapted_kl_coef(coefficient, 12.0, 6.0, 10_000, 256)
    assert coefficient == pytest.approx(0.20517, abs=5e-6)


def test_adaptive_kl_coefficient_falls_when_the_policy_stays_close() -> None:
    assert rl_math.adapted_kl_coef(0.1, 0.0, 3.0, 8, 1) == pytest.approx(0.1 * (1 - 0.2 / 8))


# --- rows 8 and 9: GAE, returns, whitening ----------------------------------------------------


def test_gae_by_hand() -> None:
    # r = (0, 1), V = (.5, .25), gamma = 1, lam = .5
    # delta_1 = 1 - .25 = .75         delta_0 = 0 + .25 - .5 = -.25
    # A_1 = .75                       A_0 = -.25 + .5 * .75 = .125
    mask = tensor([[True, True]])
    advantages, returns = rl_math.advantages_and_returns(
        t([[0.0, 1.0]]), t([[0.5, 0.25]]), mask, gamma=1.0, lam=0.5
    )
    close(advantages, t([[0.125, 0.75]]))
    close(returns, t([[0.625, 1.0]]))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (1.0, 0.0)])
def test_gae_equals_the_upper_triangular_matrix_form(gamma: float, lam: float) -> None:
    rng, real = ragged()
    rewards, values = rng.normal(size=real.shape), rng.normal(size=real.shape)
    expected = np.zeros(real.shape)
    for row, length in enumerate(real.sum(1)):
        v = np.append(values[row, :length], 0.0)
        delta = rewards[row, :length] + gamma * v[1:] - v[:-1]
        k = np.arange(length)
        steps = np.maximum(k[None] - k[:, None], 0)
        discount = np.triu((gamma * lam) ** steps)
        expected[row, :length] = discount @ delta
    advantages, returns = rl_math.advantages_and_returns(
        t(rewards), t(values), tensor(real), gamma=gamma, lam=lam
    )
    close(advantages, t(expected))
    close(returns, t((expected + values) * real))


def test_gae_with_lambda_one_is_the_monte_carlo_return_minus_the_value() -> None:
    rng, real = ragged()
    rewards, values = t(rng.normal(size=real.shape)), t(rng.normal(size=real.shape))
    mask = tensor(real)
    _, returns = rl_math.advantages_and_returns(rewards, values, mask, gamma=1.0, lam=1.0)
    to_go = (rewards * mask).flip(1).cumsum(1).flip(1) * mask
    close(returns, to_go)


def test_nothing_beyond_the_end_of_a_completion_reaches_its_advantages() -> None:
    mask = tensor([[True, True, False]])
    quiet = rl_math.advantages_and_returns(
        t([[1.0, 2.0, 0.0]]), t([[0.1, 0.2, 0.0]]), mask, gamma=1.0, lam=0.95
    )
    noisy = rl_math.advantages_and_returns(
        t([[1.0, 2.0, 99.0]]), t([[0.1, 0.2, -99.0]]), mask, gamma=1.0, lam=0.95
    )
    close(noisy[0], quiet[0])
    close(noisy[1], quiet[1])
    assert noisy[0][0, 2] == 0


def test_whitened_advantages_have_mean_zero_even_when_all_scores_are_positive() -> None:
    rng, real = ragged()
    mask = tensor(real)
    white = rl_math.whiten(t(rng.uniform(5, 6, size=real.shape)), mask)
    inside = white[mask]
    assert inside.mean().item() == pytest.approx(0, abs=1e-9)
    assert inside.var(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert bool((white[~mask] == 0).all())


def test_whitening_blows_no_noise_up() -> None:
    real = torch.ones(4, 5, dtype=torch.bool)
    equal = t(np.full((4, 5), -2.0))
    noise = t(np.random.default_rng(1).normal(0, 1e-5, size=(4, 5)))
    assert float(rl_math.whiten(equal + noise, real).abs().max()) < 0.01
    assert float(rl_math.whiten(100 * rl_math.NEGLIGIBLE / 1e-5 * noise, real).std()) > 0.9


def test_returns_are_made_from_the_advantages_before_whitening() -> None:
    mask = tensor([[True, True]])
    advantages, returns = rl_math.advantages_and_returns(
        t([[3.0, 4.0]]), t([[0.0, 0.0]]), mask, gamma=1.0, lam=1.0
    )
    close(returns, t([[7.0, 4.0]]))
    close(rl_math.whiten(advantages, mask), t([[1.0, -1.0]]), 1e-6)


def test_reward_whitening_without_shifting_keeps_the_sign_of_the_mean() -> None:
    values, mask = t([[4.0, 6.0, 8.0]]), torch.ones(1, 3, dtype=torch.bool)
    white = rl_math.whiten(values, mask, shift_mean=False)
    assert white.mean().item() == pytest.approx(6.0)
    assert white.var(correction=0).item() == pytest.approx(1.0, abs=1e-6)


# --- rows 11 and 12: losses ------------------------------------------------------------------


def test_policy_loss_by_hand() -> None:
    # ratios 1.5, 0.5, 1.5, 0.5 with advantages 1, 1, -1, -1 and clip .2:
    # -1.2 (clipped), -0.5, 1.5, 0.8 (clipped);  mean = 0.6 / 4 = 0.15
    logprobs = t([[math.log(1.5), math.log(0.5)], [math.log(1.5), math.log(0.5)]])
    advantages = t([[1.0, 1.0], [-1.0, -1.0]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    result = rl_math.policy_loss(logprobs, torch.zeros_like(logprobs), advantages, mask, 0.2)
    assert result.loss.item() == pytest.approx(0.15)
    assert result.clip_fraction.item() == pytest.approx(0.5)
    assert result.ratio.item() == pytest.approx(1.0)
    # k3 of the old policy's samples: mean of r - 1 - ln r
    expected = ((0.5 - math.log(1.5)) + (-0.5 - math.log(0.5))) / 2
    assert result.approximate_kl.item() == pytest.approx(expected)


def test_policy_loss_against_numpy_with_ragged_rows() -> None:
    rng, real = ragged()
    new, old, advantages = (rng.normal(size=real.shape) for _ in range(3))
    total, count = 0.0, 0
    for row, column in zip(*np.nonzero(real), strict=True):
        ratio = math.exp(new[row, column] - old[row, column])
        a = advantages[row, column]
        total += max(-a * ratio, -a * min(max(ratio, 0.8), 1.2))
        count += 1
    result = rl_math.policy_loss(t(new), t(old), t(advantages), tensor(real), 0.2)
    assert result.loss.item() == pytest.approx(total / count, abs=1e-12)


def test_gradient_at_ratio_one_is_that_of_advantage_weighted_cross_entropy() -> None:
    rng, real = ragged()
    mask, advantages = tensor(real), t(rng.normal(size=real.shape))
    logits = t(rng.normal(size=(*real.shape, 11))).requires_grad_()
    tokens = tensor(rng.integers(0, 11, size=real.shape))

    def logprobs() -> Tensor:
        return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]

    ppo = rl_math.policy_loss(logprobs(), logprobs().detach(), advantages, mask, 0.2).loss
    (ppo_gradient,) = torch.autograd.grad(ppo, logits)
    weighted = rl_math.weighted_token_loss(logprobs()[mask], advantages[mask], int(mask.sum()))
    (weighted_gradient,) = torch.autograd.grad(weighted, logits)
    close(ppo_gradient, weighted_gradient)


def test_value_loss_by_hand() -> None:
    # V 1.0, old 0.5, clip .2 -> clipped .7; return 2: errors 1.0 and 1.69 -> 1.69
    # V 0.6, old 0.5 -> not clipped; return 0: 0.36;  half the mean = (1.69 + .36) / 4
    mask = tensor([[True, True, False]])
    loss = rl_math.value_loss(
        t([[1.0, 0.6, 50.0]]), t([[0.5, 0.5, 0.0]]), t([[2.0, 0.0, 0.0]]), mask, 0.2
    )
    assert loss.item() == pytest.approx((1.69 + 0.36) / 4)


def test_explained_variance_of_a_perfect_and_of_a_constant_critic() -> None:
    mask = tensor([[True, True, True, False]])
    returns = t([[1.0, 2.0, 3.0, 0.0]])
    assert rl_math.explained_variance(returns, returns, mask).item() == pytest.approx(1)
    assert rl_math.explained_variance(returns * 0, returns, mask).item() == pytest.approx(0)


# --- reward model ----------------------------------------------------------------------------


def test_preference_loss_stays_finite_where_log_of_sigmoid_does_not() -> None:
    apart = tensor(-200.0)
    assert rl_math.preference_loss(apart, tensor(0.0)).item() == pytest.approx(200.0)
    assert torch.isinf(torch.log(torch.sigmoid(apart)))


def test_thumb_loss_by_hand() -> None:
    loss = rl_math.thumb_loss(t([0.5, 0.5]), tensor([True, False]), t(0.5))
    close(loss, t([math.log1p(math.exp(-1)), math.log1p(math.exp(1))]))


def test_reward_weights_are_proportional_to_exp_of_score_over_beta_with_mean_one() -> None:
    weights = rl_math.reward_weights(t([0.0, math.log(2)]), 0.5)
    close(weights, t([2 / 5, 8 / 5]))


@pytest.mark.parametrize(
    ("correct", "total"), [(8, 10), (11, 15), (14, 20), (20, 30), (31, 50), (59, 100)]
)
def test_wilson_bound_first_exceeds_chance_at_the_tabled_counts(correct: int, total: int) -> None:
    assert rl_math.wilson_lower_bound(correct, total) > 0.5
    assert rl_math.wilson_lower_bound(correct - 1, total) <= 0.5
