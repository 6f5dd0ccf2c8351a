"""The arithmetic of RLHF as pure functions on tensors.

Shapes: B sequences of T completion tokens. ``mask`` is True where a token is a real part of
the completion (its end of turn included). No models, no files, no global state: every function
here is tested with numbers worked out by hand or against an independent second version.

Sources: Schulman et al. 2016 (GAE), Schulman et al. 2017 (PPO), Ziegler et al. 2019 (adaptive
KL), Ouyang et al. 2022 (InstructGPT), Huang et al. 2024 (the N+ implementation details).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NEGLIGIBLE = 1e-2
"""A spread of scores, or of what is made of them, that says nothing: they have deviation 1 on
samples of the reference."""

# --- masked statistics -----------------------------------------------------------------------


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` over the True places of ``mask``; a scalar. One token, one vote."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """``values`` (B, T) with variance 1 (and mean 0) over the mask; exactly 0 elsewhere.

    A deviation below ``NEGLIGIBLE`` is noise, and is not blown up to 1.
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    whitened = (values - mean) * torch.rsqrt(variance.clamp(min=NEGLIGIBLE**2) + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return whitened * mask


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 a constant one."""
    residual = returns - values
    spread = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    missed = masked_mean((residual - masked_mean(residual, mask)) ** 2, mask)
    return 1.0 - missed / spread.clamp(min=1e-8)


# --- distances between policies --------------------------------------------------------------


def kl_k1(logprobs: Tensor, other: Tensor) -> Tensor:
    """log p - log q of the sampled tokens: unbiased for KL(p, q), and what goes into rewards."""
    return logprobs - other


def kl_k2(logprobs: Tensor, other: Tensor) -> Tensor:
    """Half the squared log-ratio: biased, low variance."""
    return 0.5 * (logprobs - other) ** 2


def kl_k3(logprobs: Tensor, other: Tensor) -> Tensor:
    """exp(-d) - 1 + d with d = log p - log q, sampled from p: unbiased and never negative.

    The sign matters: with d reversed it estimates another quantity (Schulman 2020, "Approximating
    KL divergence"; several trainers have it the wrong way round).
    """
    difference = logprobs - other
    return torch.expm1(-difference) + difference


# --- rewards, advantages, returns ------------------------------------------------------------


def token_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coef: float
) -> Tensor:
    """Per-token KL penalty, with the reward model's score on the last real token alone.

    Args:
        scores: one for each completion, (B,).
        logprobs, ref_logprobs: of the sampled tokens under policy and reference, (B, T).

    Returns:
        (B, T); its sum over a row is score - kl_coef * sum of k1 (InstructGPT, eq. 2).
    """
    rewards = -kl_coef * kl_k1(logprobs, ref_logprobs) * mask
    last = mask.long().cumsum(dim=1).argmax(dim=1)
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards.dtype))


def advantages_and_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation, backwards over T; after the last token nothing comes.

    A_t = sum_k (gamma lam)^k delta_{t+k},  delta_t = r_t + gamma V_{t+1} - V_t.

    Returns:
        Advantages (B, T), not whitened, and returns A + V (B, T); both 0 outside the mask.
    """
    real = mask.to(values.dtype)
    values = values * real
    rewards = rewards * real
    carried = torch.zeros_like(values[:, 0])
    backwards: list[Tensor] = []
    for t in reversed(range(values.shape[1])):
        following = values[:, t + 1] if t + 1 < values.shape[1] else torch.zeros_like(carried)
        delta = rewards[:, t] + gamma * following - values[:, t]
        carried = (delta + gamma * lam * carried) * real[:, t]
        backwards.append(carried)
    advantages = torch.stack(backwards[::-1], dim=1)
    return advantages, (advantages + values) * real


# --- losses ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PolicyLoss:
    """A scalar to descend, and what to watch: share of clipped tokens, mean ratio, k3."""

    loss: Tensor
    clip_fraction: Tensor
    ratio: Tensor
    approximate_kl: Tensor


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_range: float
) -> PolicyLoss:
    """The clipped surrogate, a mean over tokens: max(-A r, -A clip(r, 1 - c, 1 + c)).

    At r = 1 its gradient is that of the advantage-weighted cross-entropy. All inputs (B, T).
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    ratio = log_ratio.exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    with torch.no_grad():
        clip_fraction = masked_mean((clipped > plain).to(ratio.dtype), mask)
        approximate_kl = masked_mean(kl_k3(torch.zeros_like(log_ratio), log_ratio), mask)
    return PolicyLoss(
        masked_mean(torch.maximum(plain, clipped), mask),
        clip_fraction,
        masked_mean(ratio.detach(), mask),
        approximate_kl,
    )


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_range: float
) -> Tensor:
    """Half the larger of the plain and the clipped squared error, a mean over tokens."""
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    error = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * masked_mean(error, mask)


def weighted_token_loss(logprobs: Tensor, weights: Tensor, count: int) -> Tensor:
    """-sum_t w_t log p(y_t) / count: SFT with w = 1; reward-weighted regression and best-of-n
    with theirs. ``logprobs`` and ``weights`` (n,), ``count`` the tokens of the whole step."""
    return -(weights * logprobs).sum() / count


def preference_loss(better: Tensor, worse: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Bradley-Terry: -log sigmoid(better - worse - margin), elementwise.

    ``logsigmoid`` and never log(sigmoid): that is -inf in fp32 from a difference of -104 on.
    """
    return -F.logsigmoid(better - worse - margin)


def thumb_loss(scores: Tensor, liked: Tensor, bias: Tensor) -> Tensor:
    """Binary cross-entropy of thumbs on the same score; ``bias`` takes up how freely a person
    gives them. Elementwise."""
    return F.binary_cross_entropy_with_logits(
        scores + bias, liked.to(scores.dtype).expand_as(scores), reduction="none"
    )


def reward_weights(scores: Tensor, beta: float) -> Tensor:
    """exp(score / beta), normalised to mean 1: with samples of the reference these weights make
    ``weighted_token_loss`` fit pi_ref exp(r / beta) / Z (Peng et al. 2019, AWR). (B,)."""
    return torch.softmax(scores / beta, dim=0) * scores.shape[0]


# --- controls --------------------------------------------------------------------------------


def adapted_kl_coef(kl_coef: float, kl: float, target: float, horizon: float, n: int) -> float:
    """The next KL coefficient after ``n`` steps (or episodes) at ``kl`` nats a completion.

    Ziegler et al. 2019, section 2.2: e = clip(kl / target - 1, +-0.2), coef *= 1 + e n / horizon.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + error * n / horizon)


def wilson_lower_bound(correct: int, total: int, z: float = 1.6449) -> float:
    """One-sided 95 % lower bound of a proportion (Wilson 1927); 0 without observations."""
    if total == 0:
        return 0.0
    share = correct / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, (centre - spread) / (1 + z * z / total))
