"""Sampling draws from the very distribution that is scored, whoever the neighbours are."""

import torch

from finetune.generate import Completed, sample
from finetune.packing import pack
from finetune.policy import Policy, pad_batch
from finetune.stage import generator_for
from tests.finetune.test_policy import filled

PROMPTS = [tuple(range(5, 5 + n)) for n in (3, 17, 9, 30)]


def test_sampled_and_rescored_logprobs_agree(policy: Policy) -> None:
    filled(policy, "sft", "ppo")
    with policy.merged("sft", "ppo"):
        completed = sample(
            policy, PROMPTS, copies=2, max_new_tokens=20, end_ids=[4], generator=generator_for(1)
        )
    assert [c.prompt for c in completed] == [p for p in PROMPTS for _ in range(2)]
    with policy.using("sft", "ppo"), torch.no_grad():
        for one in completed:
            mask = [False] * len(one.prompt) + [True] * len(one.ids)
            again = policy.learned_logprobs(pack([((*one.prompt, *one.ids), mask)]))
            torch.testing.assert_close(again, torch.tensor(one.logprobs), atol=1e-4, rtol=0)


def test_a_row_does_not_depend_on_its_neighbours(policy: Policy) -> None:
    everything = {"max_new_tokens": 12, "end_ids": range(0, 400, 7)}
    together = sample(policy, PROMPTS, generator=generator_for(2), **everything)
    in_turn = sample(policy, PROMPTS, generator=generator_for(2), rows_at_once=1, **everything)
    assert [c.ids for c in together] == [c.ids for c in in_turn]


def test_completions_stop_at_the_end_of_turn_and_say_so(policy: Policy) -> None:
    ends = set(range(0, 400, 5))
    completed = sample(
        policy, PROMPTS * 4, max_new_tokens=15, end_ids=ends, generator=generator_for(3)
    )
    assert any(c.ended for c in completed)
    for one in completed:
        assert one.ended == (one.ids[-1] in ends)
        assert not ends & set(one.ids[:-1])
        assert len(one.ids) == 15 or one.ended


def test_white_space_before_the_end_says_nothing(policy: Policy) -> None:
    newline, word, end = 6, 7, 4
    policy.blank_ids = frozenset({newline, end})
    ends = set(range(0, 400, 5)) | {end}
    for one in sample(policy, PROMPTS, max_new_tokens=15, end_ids=ends, generator=generator_for(3)):
        assert one.blank_ids == policy.blank_ids

    def is_empty(*ids: int, ended: bool = True) -> bool:
        return Completed((1,), ids, (0.0,) * len(ids), ended, blank_ids=policy.blank_ids).is_empty

    assert is_empty(end)
    assert is_empty(newline, newline, end)
    assert not is_empty(newline, word, end)
    assert not is_empty(newline, newline, ended=False)


def test_frequencies_are_the_models_probabilities(policy: Policy) -> None:
    prompt = PROMPTS[1]
    drawn = sample(
        policy, [prompt], copies=4000, max_new_tokens=1, end_ids=[], generator=generator_for(4)
    )
    counts = torch.bincount(torch.tensor([c.ids[0] for c in drawn]), minlength=459) / 4000
    with torch.no_grad():
        batch = pad_batch([(prompt, [True] * len(prompt))])
        exact = policy.logits(policy.hidden(batch))[0, -1].softmax(-1)
    assert (counts - exact).abs().max() < 0.03


def test_temperature_zero_takes_the_likeliest(policy: Policy) -> None:
    (one,) = sample(
        policy, [PROMPTS[0]], max_new_tokens=5, end_ids=[], generator=generator_for(5),
        temperature=0.0,
    )  # fmt: skip
    ids = list(PROMPTS[0])
    for token in one.ids:
        with torch.no_grad():
            batch = pad_batch([(ids, [True] * len(ids))])
            assert int(policy.logits(policy.hidden(batch))[0, -1].argmax()) == token
        ids.append(token)


def test_two_purposes_have_different_luck() -> None:
    assert not torch.equal(
        torch.rand(8, generator=generator_for(1, "ppo rollout", 0)),
        torch.rand(8, generator=generator_for(1, "ppo rollout", 1)),
    )
