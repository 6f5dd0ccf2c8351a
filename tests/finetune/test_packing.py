"""Sequences laid end to end are the same sequences: losses, gradients, every architecture."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from finetune import packing
from finetune.contract.recipe import LoraRecipe
from finetune.gguf_weights import load_trunk
from finetune.packing import pack, pack_sharing, packs, shared_prefixes
from finetune.policy import Policy, pad_batch
from finetune.stage import generator_for
from tests.finetune.test_policy import filled
from tests.finetune.test_sft import EXAMPLES

ROWS = [(e.ids, e.completion_mask) for e in EXAMPLES]
COUNT = sum(sum(mask) for _, mask in ROWS)


def gradient_of(policy: Policy, losses: list[Tensor]) -> Tensor:
    policy.zero_grad()
    for loss in losses:
        loss.backward()
    return torch.cat([p.grad.flatten() for p in policy.adapter_parameters("sft")])


def padded_loss(policy: Policy, rows: list[Any]) -> Tensor:
    """An independent second version: right-padded, logits of every position, one log softmax."""
    batch = pad_batch(rows)
    logprobs = policy.logits(policy.hidden(batch))[:, :-1].log_softmax(-1)
    chosen = logprobs.gather(-1, batch.ids[:, 1:, None])[..., 0]
    return -chosen[batch.learn[:, 1:]].sum() / COUNT


def packed_loss(policy: Policy, rows: list[Any]) -> Tensor:
    return -policy.learned_logprobs(pack(rows)).sum() / COUNT


def test_packed_padded_and_one_by_one_are_one_loss_and_one_gradient(policy: Policy) -> None:
    filled(policy, "sft")
    found = []
    with policy.using("sft"):
        for losses in (
            [padded_loss(policy, ROWS)],
            [packed_loss(policy, ROWS)],
            [packed_loss(policy, [row]) for row in ROWS],
            [packed_loss(policy, ROWS[:3]), packed_loss(policy, ROWS[3:])],
        ):
            gradient = gradient_of(policy, losses)
            found.append((sum(loss.item() for loss in losses), gradient))
    (wanted, slope), *others = found
    assert slope.abs().max() > 1e-3
    for loss, gradient in others:
        assert loss == pytest.approx(wanted, abs=2e-6)
        torch.testing.assert_close(gradient, slope, atol=1e-6, rtol=0)


def test_nothing_crosses_from_one_sequence_to_the_next(policy: Policy) -> None:
    first, second, other = ROWS[4], ROWS[5], ([9] * 30, [False] * 30)
    with torch.no_grad():
        beside = policy.packed_hidden(pack([first, second]))
        another = policy.packed_hidden(pack([first, other]))
        behind = policy.packed_hidden(pack([other, second]))
    start = len(first[0])
    assert torch.equal(beside[:start], another[:start])
    torch.testing.assert_close(beside[start:], behind[30:], atol=1e-5, rtol=0)


def test_a_pack_knows_its_targets_and_ends() -> None:
    # The first token of a sequence has nothing before it, so it is never learned.
    some = pack([([5, 6, 7], [True, False, True]), ([8, 9], [False, True]), ([4], [])])
    assert some.ids.tolist() == [5, 6, 7, 8, 9, 4]
    assert some.positions.tolist() == [0, 1, 2, 0, 1, 0]
    assert some.targets.tolist() == [7, 9]
    assert some.before_targets.tolist() == [1, 3]
    assert some.ends.tolist() == [2, 4, 5]


SMALL: dict[str, Any] = {
    "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
CONFIGS: dict[str, tuple[type, dict[str, Any]]] = {
    "LlamaForCausalLM": (transformers.LlamaConfig, {"num_key_value_heads": 2}),
    "Qwen3ForCausalLM": (transformers.Qwen3Config, {"num_key_value_heads": 2, "head_dim": 8}),
    "Gemma3ForCausalLM": (
        transformers.Gemma3TextConfig,
        {
            "num_key_value_heads": 2,
            "head_dim": 8,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "Phi3ForCausalLM": (transformers.Phi3Config, {}),
    "GPT2LMHeadModel": (transformers.GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4}),
}


def random_policy(name: str) -> Policy:
    """Two layers of random weights of an architecture."""
    config, own = CONFIGS[name]
    torch.manual_seed(1)
    common = {
        k: v
        for k, v in SMALL.items()
        if "n_embd" not in own or not k.startswith(("hid", "int", "num"))
    }
    model = getattr(transformers, name)(config(**common, **own))
    return Policy(model.requires_grad_(False).eval())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("way", ["one_by_one", "padded"])
def test_every_architecture_computes_the_same_packed(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = random_policy(name)
    generator = generator_for(1, "ids")
    rows = [(torch.randint(0, 90, (n,), generator=generator).tolist(), ()) for n in (3, 17, 9)]
    if way == "padded":  # what a GPU does with float32
        monkeypatch.setattr(packing, "_one_by_one", packing._padded)
    with torch.no_grad():
        together = policy.packed_hidden(pack(rows)).split([3, 17, 9])
        for (ids, _), hidden in zip(rows, together, strict=True):
            alone = policy.hidden(pad_batch([(ids, ())]))[0]
            torch.testing.assert_close(hidden, alone, atol=2e-5, rtol=0)


def test_what_completions_share_is_laid_down_once() -> None:
    rows = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 9], [1, 2, 3, 7], [1, 2, 3, 4, 5, 6]]
    assert shared_prefixes(rows) == [0, 4, 0, 5]  # three are not worth while; one's own is left
    some = pack_sharing([rows, [[8, 8, 8]]])
    assert some.ids.tolist() == [1, 2, 3, 4, 5, 6, 9, 1, 2, 3, 7, 6, 8, 8, 8]
    assert some.positions.tolist() == [0, 1, 2, 3, 4, 5, 4, 0, 1, 2, 3, 5, 0, 1, 2]
    assert some.ends.tolist() == [5, 6, 10, 11, 14]
    assert some.prefixes == ((0, 0), (0, 4), (0, 0), (0, 5), (4, 0))


# GPT-2 carries adapters only as it is loaded from a GGUF file; transformers' has Conv1D layers.
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "GPT2LMHeadModel"])
def test_shared_prompts_change_neither_states_nor_gradients(name: str) -> None:
    policy = random_policy(name)
    policy.add_adapter("sft", LoraRecipe(), generator_for(1, "adapter"))
    filled(policy, "sft")
    generator = generator_for(2, "ids")

    def drawn(count: int) -> list[int]:
        return torch.randint(0, 90, (count,), generator=generator).tolist()

    prompts = [drawn(11), drawn(5)]
    groups = [[[*prompt, *drawn(n)] for n in (7, 1, 9)] for prompt in prompts]
    whole = [ids for rows in groups for ids in rows]
    wanted = torch.randn(len(whole), policy.width, generator=generator)
    found = []
    with policy.using("sft"):
        for some in (pack([(ids, ()) for ids in whole]), pack_sharing(groups)):
            states = policy.packed_hidden(some)[some.ends]
            gradient = gradient_of(policy, [(states * wanted).sum()])
            found.append((states.detach(), gradient, len(some.ids)))
    (states, slope, tokens), (ours, gradient, fewer) = found
    assert (tokens, fewer) == (82, 82 - 2 * 11 - 2 * 5)
    torch.testing.assert_close(ours, states, atol=2e-5, rtol=0)
    torch.testing.assert_close(gradient, slope, atol=2e-5 * float(slope.abs().max()), rtol=0)


def test_a_trunk_in_quantised_blocks_is_packed_as_well(tiny_gguf: Path, tmp_path: Path) -> None:
    from tests import tiny_models

    path = tiny_models.write_model(tmp_path / "q8.gguf", quantization="Q8_0")
    policy = filled(Policy(load_trunk(path, held="blocks")), "sft")
    with policy.using("sft"):
        slopes = [gradient_of(policy, [loss(policy, ROWS)]) for loss in (padded_loss, packed_loss)]
    torch.testing.assert_close(*slopes, atol=1e-6, rtol=0)


def test_the_longest_sequences_come_last_and_a_giant_goes_alone() -> None:
    assert packs([5, 1, 4, 2], 7) == [[1, 3, 2], [0]]
    assert packs([5, 100], 7) == [[0], [1]]
    assert packs([], 7) == []


@pytest.mark.gpu
def test_flash_attention_for_unlike_lengths_is_the_same_attention() -> None:
    policy = random_policy("Gemma3ForCausalLM")
    rows = [(list(range(3, 3 + n)), ()) for n in (3, 17, 9)]
    with torch.no_grad():
        wanted = policy.packed_hidden(pack(rows))
        wide = Policy(policy.model.to("cuda", torch.bfloat16))
        found = wide.packed_hidden(pack(rows, "cuda")).float().cpu()
    torch.testing.assert_close(found, wanted, atol=0.1, rtol=0.05)


# --- the head, a piece at a time --------------------------------------------------------------


def test_logits_in_pieces_are_the_whole_ones_with_the_same_gradient(policy: Policy) -> None:
    hidden = torch.randn(11, 64, generator=generator_for(1), requires_grad=True)
    targets = torch.randint(0, 400, (11,), generator=generator_for(2))
    factors = torch.randn(11, generator=generator_for(3))
    plain = (policy.logits(hidden) / 0.7).log_softmax(-1)[torch.arange(11), targets]
    (wanted,) = torch.autograd.grad((plain * factors).sum(), hidden)
    original = Policy.rows_of_logits
    try:
        Policy.rows_of_logits = property(lambda self: 4)  # type: ignore[assignment, method-assign]
        found = policy.token_logprobs(hidden, targets, 0.7)
        scored, entropy = policy.token_scores(hidden.detach(), targets, 0.7)
    finally:
        Policy.rows_of_logits = original  # type: ignore[method-assign]
    (slope,) = torch.autograd.grad((found * factors).sum(), hidden)
    torch.testing.assert_close(found, plain, atol=1e-6, rtol=0)
    torch.testing.assert_close(slope, wanted, atol=5e-6, rtol=0)
    assert torch.equal(scored, found.detach())
    every = (policy.logits(hidden.detach()) / 0.7).log_softmax(-1)
    torch.testing.assert_close(entropy, -(every.exp() * every).sum(-1), atol=1e-5, rtol=0)


# --- bfloat16 products ------------------------------------------------------------------------


def test_narrow_products_keep_the_direction_of_the_gradient_and_leave_no_trace(
    policy: Policy,
) -> None:
    filled(policy, "sft")
    with policy.using("sft"):
        before = gradient_of(policy, [packed_loss(policy, ROWS)])
        with policy.narrowed(torch.bfloat16):
            loss = packed_loss(policy, ROWS)
            narrow = gradient_of(policy, [loss])
        after = gradient_of(policy, [packed_loss(policy, ROWS)])
    assert torch.cosine_similarity(before, narrow, 0) > 0.999
    assert not torch.equal(before, narrow)
    assert torch.equal(before, after)
    assert narrow.dtype == torch.float32  # adapters and their gradients stay wide


def test_narrow_products_of_a_fresh_adapter_are_those_without_it(policy: Policy) -> None:
    from tests.finetune.test_policy import RECIPE

    policy.add_adapter("sft", RECIPE, generator_for(1))
    with torch.no_grad(), policy.narrowed(torch.bfloat16):
        without = policy.packed_hidden(pack(ROWS))
        with policy.using("sft"):
            assert torch.equal(policy.packed_hidden(pack(ROWS)), without)
