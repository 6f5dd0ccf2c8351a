"""Memory runs out in a step: it is done again in halves, with the same result."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import ppo, reward, sft
from finetune.contract.events import Note
from finetune.gguf_weights import load_trunk
from finetune.out_of_memory import FEWEST_TOKENS, is_out_of_memory, smaller_if_needed
from finetune.policy import Policy
from finetune.stage import StageRun
from tests.finetune import test_ppo, test_reward, test_sft
from tests.finetune.test_policy import filled

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
]


def run_in(folder: Path, events: list[Any]) -> StageRun:
    return StageRun("sft", folder, events.append, lambda: False, 1000, 64)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_work_is_halved_until_it_fits(tmp_path: Path, error: Exception) -> None:
    events: list[Any] = []
    run = run_in(tmp_path, events)
    forgotten: list[int] = []
    tried: list[int] = []

    def work(tokens: int) -> str:
        tried.append(tokens)
        if tokens > 16:
            raise error
        return "done"

    assert smaller_if_needed(run, work, lambda: forgotten.append(1)) == "done"
    assert tried == [64, 32, 16]
    assert len(forgotten) == 2
    assert run.micro_batch_tokens == 16  # the next step begins there
    assert run.rows_at_once == 16
    assert all(isinstance(e, Note) and "memory" in e.message for e in events)


def test_what_does_not_fit_one_by_one_is_given_up(tmp_path: Path) -> None:
    tried: list[int] = []

    def work(tokens: int) -> None:
        tried.append(tokens)
        raise MemoryError

    with pytest.raises(MemoryError):
        smaller_if_needed(run_in(tmp_path, []), work)
    assert tried[-1] == FEWEST_TOKENS


def test_other_errors_are_not_tried_again(tmp_path: Path) -> None:
    tried: list[int] = []

    def work(tokens: int) -> None:
        tried.append(tokens)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError):
        smaller_if_needed(run_in(tmp_path, []), work)
    assert len(tried) == 1
    assert not is_out_of_memory(OSError(5, "I/O error"))


def cramped(policy: Policy, tokens: int) -> Callable[[], None]:
    """Let the trunk fail on more than ``tokens`` tokens, as memory would."""

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].numel() > tokens and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle: Callable[[], None] = policy.trunk.register_forward_pre_hook(
        before, with_kwargs=True
    ).remove
    return handle


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_stage_that_runs_out_of_memory_ends_where_it_would_have_ended(
    stage: str, tiny_gguf: Path, tmp_path: Path
) -> None:
    states = []
    for name, limit in (("roomy", 10**9), ("cramped", 60)):
        policy = filled(Policy(load_trunk(tiny_gguf)), *(() if stage == "sft" else ("sft",)))
        events: list[Any] = []
        run = StageRun("sft", tmp_path / name, events.append, lambda: False, 1000, 4096)
        cramped(policy, limit)
        if stage == "sft":
            recipe = dataclasses.replace(test_sft.RECIPE, epochs=1)
            sft.train_sft(policy, test_sft.EXAMPLES, (), recipe, 1, run)
        elif stage == "reward":
            groups = [test_reward.ranking(n, 3) for n in range(4)]
            recipe = dataclasses.replace(test_reward.RECIPE, epochs=1)
            reward.train_reward(policy, groups, (), recipe, 1, run)
        else:
            recipe = dataclasses.replace(test_ppo.RECIPE, value_warmup_steps=0)
            ppo.train_ppo(
                policy, test_ppo.PROMPTS, test_ppo.short_is_good, (), recipe, test_ppo.ENDS, 1, run
            )
        notes = [e for e in events if isinstance(e, Note)]
        assert bool(notes) == (name == "cramped")
        states.append(policy.adapter_state(stage))
    for key, wanted in states[0].items():
        torch.testing.assert_close(states[1][key], wanted, atol=2e-4, rtol=0)
