"""SFT: one global token mean, whatever the batching; the loss falls; the best epoch is kept."""

import dataclasses
from pathlib import Path

import pytest
import torch

from finetune import sft
from finetune.contract.chat_template import TrainingExample
from finetune.contract.recipe import LoraRecipe, SftRecipe
from finetune.data import RankedPrompt
from finetune.packing import pack, packs
from finetune.policy import Policy, pad_batch
from finetune.stage import Emit, StageRun, generator_for, warmup_cosine

RECIPE = SftRecipe(lora=LoraRecipe(rank=4, alpha=8.0), epochs=4, batch_size=4, learning_rate=5e-3)


def example(seed: int, prompt: int, completion: int) -> TrainingExample:
    generator = generator_for(seed, "example")
    ids = torch.randint(3, 400, (prompt + completion,), generator=generator).tolist()
    return TrainingExample(tuple(ids), (False,) * prompt + (True,) * completion)


EXAMPLES = [example(n, 3 + 5 * n, 2 + 3 * (n % 3)) for n in range(8)]


def moved(one: TrainingExample) -> TrainingExample:
    """The same prompt with another completion."""
    ids = zip(one.ids, one.completion_mask, strict=True)
    return dataclasses.replace(one, ids=tuple((t + 57 * m) % 400 for t, m in ids))


def stage_run(folder: Path, emit: Emit = lambda event: None) -> StageRun:
    return StageRun("sft", folder, emit, lambda: False, 1000)


def gradient(policy: Policy, tokens_at_once: int) -> torch.Tensor:
    policy.zero_grad()
    sft.backward(policy, EXAMPLES, tokens_at_once)
    return torch.cat([p.grad.flatten() for p in policy.adapter_parameters("sft")])


def test_one_batch_of_eight_is_eight_of_one(policy: Policy) -> None:
    policy.add_adapter("sft", RECIPE.lora, generator_for(1))
    with policy.using("sft"):
        whole, single = gradient(policy, 10_000), gradient(policy, 1)
    assert whole.abs().max() > 1e-4
    torch.testing.assert_close(whole, single, atol=1e-6, rtol=0)


def test_the_loss_is_the_mean_over_all_completion_tokens(policy: Policy) -> None:
    total, count = 0.0, 0
    with torch.no_grad():
        for one in EXAMPLES:
            batch = pad_batch([(one.ids, one.completion_mask)])
            logprobs = policy.logits(policy.hidden(batch))[0].log_softmax(-1)
            for t, learn in enumerate(one.completion_mask):
                if learn:
                    total -= logprobs[t - 1, one.ids[t]].item()
                    count += 1
    policy.add_adapter("sft", RECIPE.lora, generator_for(1))
    with policy.using("sft"):
        assert sft.backward(policy, EXAMPLES, 64) == pytest.approx(total / count, abs=1e-5)
        assert sft.token_loss(policy, EXAMPLES, 64) == pytest.approx(total / count, abs=1e-5)


def test_the_prompt_teaches_nothing(policy: Policy) -> None:
    policy.add_adapter("sft", RECIPE.lora, generator_for(1))
    one = EXAMPLES[3]
    flat = policy.learned_logprobs(pack([(one.ids, one.completion_mask)]))
    assert flat.shape == (sum(one.completion_mask),)


def test_training_lowers_the_loss_and_reports_every_step(policy: Policy, tmp_path: Path) -> None:
    events = []
    recipe = dataclasses.replace(RECIPE, epochs=15, learning_rate=2e-2)
    result = sft.train_sft(policy, EXAMPLES, (), recipe, 1, stage_run(tmp_path, events.append))
    assert result.last_loss < 0.5 * result.first_loss
    assert [e.step for e in events[1:]] == list(range(1, 31))
    assert result.held_out_loss is None


def test_rising_held_out_loss_ends_training_and_keeps_the_best_epoch(
    policy: Policy, tmp_path: Path
) -> None:
    # Held out: the same prompts with other completions, which memorising makes unlikely.
    held_out = [moved(one) for one in EXAMPLES]
    events = []
    recipe = dataclasses.replace(RECIPE, epochs=20, learning_rate=2e-2)
    result = sft.train_sft(
        policy, EXAMPLES, held_out, recipe, 1, stage_run(tmp_path, events.append)
    )
    losses = [e.metrics["held_out_loss"] for e in events[1:] if "held_out_loss" in e.metrics]
    assert len(losses) < 20
    assert result.held_out_loss == min(losses)
    with policy.using("sft"):
        assert sft.token_loss(policy, held_out, 1000) == pytest.approx(min(losses), abs=1e-6)


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [warmup_cosine(step, 20, 0.1) for step in range(20)]
    assert rates[0] == 0.5
    assert max(rates) == 1.0
    assert rates[-1] < 0.02
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_micro_batches_hold_every_index_once_within_the_limit() -> None:
    lengths = [50, 3, 7, 120, 9, 64, 3]
    groups = packs(lengths, 128)
    assert sorted(i for group in groups for i in group) == list(range(7))
    assert all(sum(lengths[i] for i in g) <= 128 for g in groups)
    assert len(groups) == 3  # 3 + 3 + 7 + 9 + 50 = 72, then 64, then 120
    assert packs([9, 200], 128) == [[0], [1]]


def test_an_epoch_is_kept_for_a_lower_loss_or_for_comparisons_at_next_to_the_same() -> None:
    best = sft.HeldOut(2.0, 0.1)
    assert sft.HeldOut(1.9, 0.0).improves_on(best)
    assert sft.HeldOut(2.02, 0.2).improves_on(best)  # loss up by 1 %, preference up
    assert not sft.HeldOut(2.02, 0.05).improves_on(best)  # both worse
    assert not sft.HeldOut(2.1, 0.9).improves_on(best)  # unlearns too much for it
    assert sft.HeldOut(None, None).improves_on(sft.HeldOut(None, None))
    assert not sft.HeldOut(2.02, None).improves_on(sft.HeldOut(2.0, None))


def test_preference_is_the_mean_gain_of_a_token(policy: Policy) -> None:
    better, worse = EXAMPLES[2], moved(EXAMPLES[2])
    group = RankedPrompt((better, worse), ((0, 1, 1.0),), ())
    losses = [sft.token_loss(policy, [one], 100) for one in (better, worse)]
    assert losses[0] is not None
    assert losses[1] is not None
    assert sft.preference(policy, [group], 100) == pytest.approx(losses[1] - losses[0], abs=1e-6)
    assert sft.preference(policy, [RankedPrompt((better,), (), ())], 100) is None


def test_held_out_comparisons_are_told_at_each_epoch(policy: Policy, tmp_path: Path) -> None:
    groups = [RankedPrompt((one, moved(one)), ((0, 1, 1.0),), ()) for one in EXAMPLES]
    events = []
    result = sft.train_sft(
        policy, EXAMPLES, EXAMPLES[:2], RECIPE, 1, stage_run(tmp_path, events.append), groups
    )
    told = [e.metrics["held_out_preference"] for e in events[1:] if "held_out_loss" in e.metrics]
    assert told[-1] > told[0]  # what is trained on becomes likelier than what is not
    assert result.held_out_preference == told[-1]
