"""Written with the cache that is laid out once is what is written without any cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune import decode
from finetune.categorical import draw
from finetune.cuda_graph import Replayed
from finetune.decode import Decoder, Sampling, Written
from finetune.generate import Completed, sample
from finetune.gguf_weights import load_trunk
from finetune.policy import Policy
from finetune.rollouts import score_tokens
from finetune.stage import generator_for
from tests.finetune.architecture_models import SORTS, write_gguf
from tests.finetune.test_policy import filled

PROMPTS = [tuple(range(5, 5 + n)) for n in (3, 17, 9, 30)]
ENDS = frozenset(range(0, 459, 40))
STEPS, COPIES = 24, 3
ROLES = ("sft", "ppo")
SAME_WEIGHTS = 2e-5
"""Nats between a token drawn and scored with the same weights; found in ten seeds: 1.1e-5. Both are
as far as that from double precision, so it is what float32 leaves of logits of this size."""
ADDED_OR_BESIDE = 3e-5
"""Where the adapters are added to the weights to draw and computed beside them to score; found in
ten seeds: 1.6e-5."""


needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="CUDA graphs need a CUDA GPU, and here is none"
)
architectures = pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "phi3", "gpt2"])


def policy_of(folder: Path, name: str, device: str = "cpu") -> Policy:
    path = write_gguf(folder / "m.gguf", SORTS[name], SORTS[name].make())
    return filled(Policy(load_trunk(path, device=torch.device(device))), *ROLES)


def searched(logits: Tensor, luck: float) -> tuple[int, float]:
    """The token where the cumulative probabilities pass ``luck``, by going through them all."""
    probabilities = logits.double().softmax(-1)
    total = 0.0
    for token, probability in enumerate(probabilities.tolist()):
        total += probability
        if total > luck:
            return token, float(probabilities[token].log())
    raise AssertionError("the probabilities sum to less than one")


@torch.no_grad()
def without_cache(policy: Policy, prompt: Sequence[int], luck: Tensor) -> list[int]:
    ids: list[int] = []
    for number in luck.tolist():
        hidden = policy.trunk(input_ids=torch.tensor([[*prompt, *ids]])).last_hidden_state
        ids.append(searched(policy.logits(hidden)[0, -1], number)[0])
        if ids[-1] in ENDS:
            break
    return ids


@architectures
def test_it_is_what_is_written_without_a_cache_and_scored_as_it_was_drawn(
    tmp_path: Path, name: str
) -> None:
    policy = policy_of(tmp_path, name)
    luck = torch.rand(len(PROMPTS) * COPIES, STEPS, generator=generator_for(7))
    with policy.merged(*ROLES):
        completed = sample(
            policy, PROMPTS, copies=COPIES, max_new_tokens=STEPS, end_ids=ENDS,
            generator=generator_for(7), keep_states=True,
        )  # fmt: skip
        for row, one in enumerate(completed):
            assert list(one.ids) == without_cache(policy, one.prompt, luck[row])
    assert len({len(one.ids) for one in completed}) >= 3  # rows left one after the other
    with policy.merged(*ROLES):
        again = score_tokens(policy, completed, 1.0, 256, *ROLES, with_states=True)
    beside = score_tokens(policy, completed, 1.0, 256, *ROLES)
    for row, one in enumerate(completed):
        count = len(one.ids)
        drawn = torch.tensor(one.logprobs)
        assert (drawn - again.logprobs[row, :count]).abs().max() < SAME_WEIGHTS
        assert (drawn - beside.logprobs[row, :count]).abs().max() < ADDED_OR_BESIDE
        assert (torch.tensor(one.entropies) - again.entropy[row, :count]).abs().max() < SAME_WEIGHTS
        assert (torch.stack(one.states) - again.hidden[row, :count]).abs().max() < 1e-4


def written(policy: Policy, *, fixed: bool) -> Written:
    luck = torch.rand(len(PROMPTS) * 2, STEPS, generator=generator_for(8))
    how = Sampling(ENDS, 1.0, keep_states=True)
    with torch.inference_mode(), policy.merged(*ROLES):
        return Decoder(policy, PROMPTS, 2, luck, how, fixed).run()


def up_to_its_end(ids: Tensor) -> list[list[int]]:
    rows = []
    for row in ids.tolist():
        end = next((place for place, token in enumerate(row) if token in ENDS), len(row))
        rows.append(row[: end + 1])
    return rows


@architectures
def test_shapes_that_never_change_give_the_same_tokens(tmp_path: Path, name: str) -> None:
    policy = policy_of(tmp_path, name)
    loose, fixed = written(policy, fixed=False), written(policy, fixed=True)
    tokens = up_to_its_end(loose.ids)
    assert up_to_its_end(fixed.ids) == tokens
    for row, ids in enumerate(tokens):
        torch.testing.assert_close(
            loose.logprobs[row, : len(ids)],
            fixed.logprobs[row, : len(ids)],
            atol=SAME_WEIGHTS,
            rtol=0,
        )


@needs_cuda
@architectures
def test_a_recorded_step_played_again_gives_the_tokens_of_the_eager_loop(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(tmp_path, name, "cuda")
    assert decode.replays(policy)
    played = written(policy, fixed=True)
    monkeypatch.setattr(decode, "replays", lambda _: False)
    eager = written(policy, fixed=True)
    assert up_to_its_end(played.ids) == up_to_its_end(eager.ids)
    for row, ids in enumerate(up_to_its_end(eager.ids)):
        torch.testing.assert_close(
            played.logprobs[row, : len(ids)], eager.logprobs[row, : len(ids)], atol=1e-5, rtol=0.0
        )


@needs_cuda
def test_a_recorded_step_is_done_once_for_each_call() -> None:
    count = torch.zeros(1, device="cuda")

    def work() -> None:
        count.add_(1)

    replayed = Replayed(work)
    for calls in range(1, 6):
        replayed()
        assert count.item() == calls


def test_a_token_is_drawn_where_the_cumulative_probabilities_pass_the_number() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (7, 128, 459, 1000):
        logits = 3 * torch.randn(64, size, generator=generator)
        luck = torch.rand(64, generator=generator)
        drawn = draw(logits, luck, 1.0, with_entropies=True)
        for row, number in enumerate(luck.tolist()):
            token, logprob = searched(logits[row], number)
            assert int(drawn.tokens[row]) == token
            assert abs(float(drawn.logprobs[row]) - logprob) < 2e-6
        assert drawn.entropies is not None
        table = logits.double().log_softmax(-1)
        exact = -(table.exp() * table).sum(-1)
        torch.testing.assert_close(drawn.entropies.double(), exact, atol=1e-5, rtol=0.0)


def test_the_ends_of_the_table_can_be_drawn() -> None:
    logits = torch.zeros(2, 300)
    drawn = draw(logits, torch.tensor([0.0, 1.0 - 2**-24]), 1.0)
    assert drawn.tokens.tolist() == [0, 299]


def test_a_prompt_alone_in_its_row_is_written_as_one_of_two(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama")

    def greedy(copies: int) -> list[Completed]:
        return sample(
            policy, PROMPTS, copies=copies, max_new_tokens=STEPS, end_ids=ENDS,
            generator=generator_for(1), temperature=0.0,
        )  # fmt: skip

    assert [c.ids for c in greedy(2)] == [c.ids for c in greedy(1) for _ in range(2)]
