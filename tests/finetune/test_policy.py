"""Adapters on one trunk: stacked, merged, folded and joined, they are the same model."""

import copy
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor

from finetune.contract.recipe import LoraRecipe
from finetune.gguf_weights import load_trunk
from finetune.packing import pack
from finetune.policy import Policy, pad_batch
from finetune.stage import generator_for

IDS = tuple(range(5, 45))
RECIPE = LoraRecipe(rank=4, alpha=8.0)


def filled(policy: Policy, *names: str) -> Policy:
    """Adapters that change something."""
    for name in names:
        generator = generator_for(1, name)
        policy.add_adapter(name, RECIPE, generator)
        with torch.no_grad():
            for layer in policy.layers.values():
                layer.b[name].normal_(std=0.05, generator=generator)
    return policy


@torch.no_grad()
def logits(policy: Policy, ids: tuple[int, ...] = IDS) -> Tensor:
    batch = pad_batch([(ids, [True] * len(ids))])
    return policy.logits(policy.hidden(batch))[0]


def test_a_fresh_adapter_changes_nothing_to_the_last_bit(policy: Policy) -> None:
    before = logits(policy)
    policy.add_adapter("sft", RECIPE, generator_for(1))
    with policy.using("sft"):
        assert torch.equal(logits(policy), before)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's own
def test_an_adapter_computes_what_peft_computes(tiny_gguf: Path, policy: Policy) -> None:
    filled(policy, "one", "two")
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=sorted({path.rsplit(".", 1)[-1] for path in policy.layers}),
    )
    theirs = peft.get_peft_model(copy.deepcopy(load_trunk(tiny_gguf)), config, "one")
    theirs.add_adapter("two", config)
    for path, layer in policy.layers.items():
        other = theirs.base_model.model.get_submodule(path)
        for name in ("one", "two"):
            other.lora_A[name].weight.data.copy_(layer.a[name])
            other.lora_B[name].weight.data.copy_(layer.b[name])
    theirs.base_model.set_adapter(["one", "two"])
    with torch.no_grad():
        expected = theirs.eval()(input_ids=torch.tensor([IDS])).logits[0]
    with policy.using("one", "two"):
        torch.testing.assert_close(logits(policy), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("names", [("sft",), ("sft", "ppo"), ("ppo",), ()])
def test_merged_weights_are_the_same_model_and_leave_the_trunk_untouched(
    policy: Policy, names: tuple[str, ...]
) -> None:
    filled(policy, "sft", "ppo")
    before = logits(policy)
    with policy.using(*names):
        stacked = logits(policy)
    with policy.merged(*names):
        torch.testing.assert_close(logits(policy), stacked, atol=1e-4, rtol=0)
    assert torch.equal(logits(policy), before)


def test_folded_adapters_are_the_same_model_in_every_role(policy: Policy) -> None:
    filled(policy, "sft", "ppo")
    roles = [(), ("sft",), ("sft", "ppo"), ("ppo",)]
    expected = []
    for names in roles:
        with policy.using(*names):
            expected.append(logits(policy))
    policy.fold("sft")
    for names, wanted in zip(roles, expected, strict=True):
        with policy.using(*names):
            torch.testing.assert_close(logits(policy), wanted, atol=1e-4, rtol=0)


def test_joined_adapters_are_the_sum_of_the_stacked_ones(policy: Policy) -> None:
    filled(policy, "sft", "ppo")
    joined = policy.joined(("sft", "ppo"))
    for path, (a, b) in joined.items():
        assert a.shape[0] == b.shape[1] == 8
        layer = policy.layers[path]
        wanted = sum(layer.scales[n] * layer.b[n] @ layer.a[n] for n in ("sft", "ppo"))
        torch.testing.assert_close(b @ a, wanted, atol=1e-6, rtol=0)
    with policy.using("sft", "ppo"):
        stacked = logits(policy)
    policy.set_adapter("joined", joined)
    with policy.using("joined"):
        torch.testing.assert_close(logits(policy), stacked, atol=1e-4, rtol=0)


def test_right_padding_does_not_reach_real_tokens(policy: Policy) -> None:
    alone = policy.hidden(pad_batch([(IDS, ())]))
    padded = policy.hidden(pad_batch([(IDS, ()), (IDS + IDS, ())]))
    torch.testing.assert_close(padded[0, : len(IDS)], alone[0], atol=1e-5, rtol=0)


def test_the_head_sees_only_the_tokens_that_are_learned(policy: Policy) -> None:
    seen = []
    policy.model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    mask = [False] * 30 + [True] * 10
    flat = policy.learned_logprobs(pack([(IDS, mask), (IDS[:20], [False] * 19 + [True])]))
    assert flat.shape == (11,)
    assert seen == [(11, 64)]
    whole = logits(policy).log_softmax(-1)
    wanted = torch.stack([whole[t - 1, IDS[t]] for t in range(30, 40)])
    torch.testing.assert_close(flat[:10], wanted, atol=1e-5, rtol=0)
