"""Activations that are computed again give the same gradients, from less memory."""

from pathlib import Path

import pytest
import torch

from finetune.gguf_weights import load_trunk
from finetune.packing import pack
from finetune.policy import Policy
from finetune.stage import generator_for
from tests.finetune.architecture_models import SORTS, write_gguf
from tests.finetune.test_policy import filled

ROWS = [(tuple(range(5, 45)), [False] * 10 + [True] * 30), (tuple(range(20)), [True] * 20)]


def gradients(policy: Policy) -> tuple[float, list[torch.Tensor], int]:
    """Loss, gradients of "ppo" on top of "sft", and how many bytes were kept for the way back."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    filled(policy, "sft", "ppo")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), policy.using("sft", "ppo"):
        states = policy.packed_hidden(pack(ROWS))
    size = sum(kept.values())
    with policy.using():  # what counts on the way back is what counted on the way forward
        states.square().mean().backward()
    found = [p.grad for p in policy.adapter_parameters("ppo")]
    return states.sum().item(), [g for g in found if g is not None], size


@pytest.mark.parametrize("name", ["llama", "gemma3", "phi3", "gpt2"])
def test_the_same_gradients_from_less_memory(tmp_path: Path, name: str) -> None:
    sort = SORTS[name]
    path = write_gguf(tmp_path / "m.gguf", sort, sort.make())
    plain = gradients(Policy(load_trunk(path)))
    again = gradients(Policy(load_trunk(path), forgets=True))
    assert again[0] == plain[0]
    assert len(again[1]) == len(plain[1]) > 0
    for own, other in zip(again[1], plain[1], strict=True):
        assert torch.equal(own, other)
    assert again[2] < plain[2] / 2


def test_what_is_written_with_a_cache_is_not_computed_twice(tmp_path: Path) -> None:
    from finetune.generate import sample

    sort = SORTS["llama"]
    path = write_gguf(tmp_path / "m.gguf", sort, sort.make())
    plain, forgetful = Policy(load_trunk(path)), Policy(load_trunk(path), forgets=True)
    texts = [
        sample(policy, [(1, 2, 3)], max_new_tokens=8, end_ids=(), generator=generator_for(3))
        for policy in (plain, forgetful)
    ]
    assert texts[0] == texts[1]
