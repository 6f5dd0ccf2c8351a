"""The judge: a head of the reward model that is never used as a reward.

It is fitted on the held-out judgements, which no other head has seen, on the last hidden states
of the finished reward model. Where the policy learns to please the rewarding heads by what they
misunderstand, the judge need not agree: its score chooses among the weights of a run and gives
the win rate of the evaluation (Coste et al. 2023 on why heads on the same data err together).
How far it can be trusted is measured by cross-validation on the same held-out judgements, and
against what their bias alone foretells: of twelve thumbs that are all up, every one.

One row z for each judgement: chosen less rejected for a pair, plus or minus the state for a
thumb, which has the person's bias b as well (t = +-1, 0 for pairs). What is descended is
sum_i c_i softplus(-(w z_i + b t_i)) + lambda / 2 |w|^2: convex, so its result depends on the data
alone. Shapes: n judgements, states of width D, all in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from finetune import rl_math
from finetune.data import RankedPrompt

FEWEST_JUDGEMENTS = 6
"""With fewer there is nothing to cross-validate."""
FOLDS = 10
RIDGE = 0.1
"""lambda over D: the D columns are standardised, so |z|^2 grows with D."""


@dataclass(frozen=True)
class Judge:
    """A linear score of last hidden states: mean 0 and deviation 1 on reference samples."""

    weight: Tensor
    """(D,), float32."""
    bias: float
    correct: int
    """Judgements foretold when they were left out."""
    total: int
    chance: float = 0.5
    """Share that would be foretold without a look at any completion: half of the pairs, and of the
    thumbs as many as the bias alone foretells when they are left out; at least a half."""

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def bound(self) -> float:
        return rl_math.wilson_lower_bound(self.correct, self.total)

    @property
    def is_trusted(self) -> bool:
        """Whether it has a say: its skill is proven (one-sided 95 %) on what it was not fitted
        to. That takes 9 of 12 judgements, or 31 of 50, where chance foretells half."""
        return self.bound > self.chance

    def score(self, states: Tensor) -> Tensor:
        """Last hidden states (N, D) to scores (N,)."""
        return states.float() @ self.weight.to(states.device) + self.bias


def fit_judge(states: Tensor, groups: Sequence[RankedPrompt], reference: Tensor) -> Judge | None:
    """Fit the judge; None where there are too few judgements.

    Args:
        states: of the completions of ``groups`` in turn, (N, D).
        reference: of samples of the reference, which give the scale, (R, D).
    """
    centre = reference.double().mean(0).cpu()
    spread = reference.double().std(0).clamp(min=1e-3).cpu()
    features = (states.double().cpu() - centre) / spread
    rows, signs, weights, owners = _judgements(features, groups)
    pairs, ups, downs = (int((signs == sign).sum()) for sign in (0.0, 1.0, -1.0))
    # Thumbs of one kind are foretold by the bias alone; they are learned from and not counted.
    counts = torch.full_like(signs, bool(ups and downs), dtype=torch.bool) | (signs == 0.0)
    total = int(counts.sum())
    if total < FEWEST_JUDGEMENTS:
        return None
    folds = min(FOLDS, len(set(owners.tolist())))
    correct = by_bias = 0
    for fold in range(folds):
        left_out = owners % folds == fold
        if not left_out.any() or left_out.all():
            continue
        w, b = _fitted(rows[~left_out], signs[~left_out], weights[~left_out])
        foretold = rows[left_out] @ w + b * signs[left_out] > 0
        correct += int((foretold & counts[left_out]).sum())
        _, alone = _fitted(torch.zeros_like(rows[~left_out]), signs[~left_out], weights[~left_out])
        by_bias += int(((alone * signs[left_out] > 0) & counts[left_out]).sum())
    w, _ = _fitted(rows, signs, weights)
    deviation = ((reference.double().cpu() - centre) / spread @ w).std().clamp(min=1e-6)
    weight = w / spread / deviation
    chance = max(0.5, (0.5 * pairs + by_bias) / total)
    return Judge(weight.float(), -float(centre @ weight), correct, total, chance)


def _judgements(
    features: Tensor, groups: Sequence[RankedPrompt]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows z (n, D), thumbs' signs t (n,), weights c (n,) and which prompt each is of (n,)."""
    rows: list[Tensor] = []
    signs: list[float] = []
    weights: list[float] = []
    owners: list[int] = []
    start = 0
    for number, group in enumerate(groups):
        own = features[start : start + len(group.completions)]
        start += len(group.completions)
        for better, worse, weight in group.pairs:
            rows.append(own[better] - own[worse])
            signs.append(0.0)
            weights.append(weight / len(group.pairs))
            owners.append(number)
        for index, liked, weight in group.thumbs:
            sign = 1.0 if liked else -1.0
            rows.append(sign * own[index])
            signs.append(sign)
            weights.append(weight / len(group.thumbs))
            owners.append(number)
    stacked = torch.stack(rows) if rows else features[:0]
    kind = torch.float64
    return (
        stacked,
        torch.tensor(signs, dtype=kind),
        torch.tensor(weights, dtype=kind),
        torch.tensor(owners),
    )


def _fitted(rows: Tensor, signs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weight (D,) and the thumbs' bias at the minimum."""
    w = torch.zeros(rows.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w, b], max_iter=100, line_search_fn="strong_wolfe")
    ridge = RIDGE * rows.shape[1]  # the rows' squared length is about D

    def loss() -> Tensor:
        optimizer.zero_grad()
        wrong = (weights * F.softplus(-(rows @ w + b * signs))).sum()
        value = wrong + 0.5 * ridge * (w @ w) + 1e-3 * b * b
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return w.detach(), b.detach()
