"""The judge: found again where there is something to find, never trusted where there is not."""

import pytest
import torch

from finetune.contract.chat_template import TrainingExample
from finetune.data import RankedPrompt
from finetune.judge import FEWEST_JUDGEMENTS, fit_judge
from finetune.stage import generator_for

WIDTH = 32


def judged(count: int, noise: float, seed: int = 1) -> tuple[torch.Tensor, list[RankedPrompt]]:
    """States whose first column decides pairs, and thumbs on half of the prompts."""
    generator = generator_for(seed, "states")
    states = torch.randn(2 * count, WIDTH, generator=generator)
    flips = torch.rand(count, generator=generator) < noise
    groups = []
    for n in range(count):
        completions = tuple(TrainingExample((n, k), (False, True)) for k in (2 * n, 2 * n + 1))
        better = int(states[2 * n + 1, 0] > states[2 * n, 0]) ^ int(flips[n])
        if n % 2:
            groups.append(RankedPrompt(completions, ((better, 1 - better, 1.0),), ()))
        else:
            thumbs = ((better, True, 0.5), (1 - better, False, 0.5))
            groups.append(RankedPrompt(completions, (), thumbs))
    return states, groups


def test_a_taste_is_found_and_foretold() -> None:
    states, groups = judged(60, 0.0)
    reference = torch.randn(200, WIDTH, generator=generator_for(2))
    judge = fit_judge(states, groups, reference)
    assert judge is not None
    assert judge.is_trusted
    assert judge.bound > 0.5
    scores = judge.score(reference)
    assert torch.corrcoef(torch.stack([scores, reference[:, 0]]))[0, 1] > 0.8
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert scores.std().item() == pytest.approx(1.0, abs=1e-3)


def test_judgements_by_dice_are_not_trusted() -> None:
    trusted = 0
    for seed in range(10):
        states, groups = judged(40, 0.5, seed)
        judge = fit_judge(states, groups, states)
        assert judge is not None
        trusted += judge.is_trusted
    assert trusted <= 2


def thumbs(liked: list[bool], seed: int = 1) -> tuple[torch.Tensor, list[RankedPrompt]]:
    """States that tell nothing of the thumbs, one a prompt."""
    states = torch.randn(len(liked), WIDTH, generator=generator_for(seed, "states"))
    rows = [TrainingExample((n, n), (False, True)) for n in range(len(liked))]
    return states, [
        RankedPrompt((row,), (), ((0, up, 0.5),)) for row, up in zip(rows, liked, strict=True)
    ]


def test_thumbs_that_the_bias_alone_foretells_prove_nothing() -> None:
    for seed in range(5):
        states, groups = thumbs([True] * 12, seed)
        assert fit_judge(states, groups, states) is None
        states, groups = thumbs([n != 5 for n in range(30)], seed)
        judge = fit_judge(states, groups, states)
        assert judge is not None
        assert judge.correct > 25  # it looks skilled
        assert judge.chance == 29 / 30
        assert not judge.is_trusted


def test_a_bias_that_balanced_weights_take_away_is_no_skill_to_beat() -> None:
    """As the trainer weighs them: thumbs up and down count the same in all."""
    states, _ = judged(40, 0.0)
    liked = [n % 5 > 0 for n in range(40)]
    fair = {True: 0.5 * 40 / (2 * 32), False: 0.5 * 40 / (2 * 8)}
    mixed = [
        RankedPrompt((g.completions[0],), (), ((0, up, fair[up]),))
        for g, up in zip(thumbs(liked)[1], liked, strict=True)
    ]
    signs = torch.tensor([1.0 if up else -1.0 for up in liked])
    told = thumbs(liked)[0] + 4.0 * signs[:, None] * torch.eye(WIDTH)[0]
    judge = fit_judge(told, mixed, states)
    assert judge is not None
    assert judge.chance == 0.5
    assert judge.is_trusted


def test_thumbs_of_one_kind_are_not_counted_beside_pairs() -> None:
    states, groups = judged(40, 0.0)
    alone = [group for group in groups if group.pairs]
    own = torch.cat([states[4 * n + 2 : 4 * n + 4] for n in range(20)])
    more, liked = thumbs([True] * 12)
    judge = fit_judge(torch.cat([own, more]), [*alone, *liked], states)
    assert judge is not None
    assert (judge.total, judge.chance) == (20, 0.5)


def test_as_many_thumbs_up_as_down_are_a_toss_by_chance() -> None:
    states, groups = judged(40, 0.0)
    judge = fit_judge(states, groups, states)
    assert judge is not None
    assert (judge.total, judge.chance) == (60, 0.5)


def test_it_is_the_same_for_the_same_data_and_none_for_too_little() -> None:
    states, groups = judged(20, 0.1)
    first, second = (fit_judge(states, groups, states) for _ in range(2))
    assert first is not None
    assert second is not None
    assert torch.equal(first.weight, second.weight)
    assert fit_judge(states[:2], groups[:1], states) is None
    assert fit_judge(states[:0], [], states) is None
    assert FEWEST_JUDGEMENTS > 2


def test_the_minimum_is_a_minimum() -> None:
    """Against gradient descent on the formula of the module's first lines, written out again."""
    from finetune import judge as module

    states, groups = judged(20, 0.1)
    rows, signs, weights, _ = module._judgements(states.double(), groups)
    w, b = module._fitted(rows, signs, weights)

    def loss(w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        wrong = -(weights * torch.sigmoid(rows @ w + b * signs).log()).sum()
        return wrong + 0.5 * 0.1 * WIDTH * w.square().sum() + 1e-3 * b.square()

    at = loss(w, b)
    generator = generator_for(3)
    for _ in range(20):
        step = 1e-2 * torch.randn(WIDTH, generator=generator, dtype=torch.float64)
        assert loss(w + step, b) > at
        assert loss(w, b + 1e-2 * step[0]) > at - 1e-12
