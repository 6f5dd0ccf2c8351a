"""A trunk held in its blocks computes and learns what the dequantised one does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import nn

from finetune import devices, ggml, quantized_linear
from finetune.contract.events import StageDone
from finetune.contract.manifest import read_manifest
from finetune.dequantize import KINDS
from finetune.gguf_weights import load_trunk
from finetune.memory_plan import MemoryPlan
from finetune.packing import pack
from finetune.policy import Policy, pad_batch
from finetune.quantized_linear import QuantizedEmbedding, QuantizedLinear
from tests import tiny_models
from tests.finetune.architecture_models import SORTS, write_gguf
from tests.finetune.conftest import feedback
from tests.finetune.test_pipeline import Runs
from tests.finetune.test_policy import filled

IDS = tuple(range(5, 45))
WIDE = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 64,
}  # fmt: skip
GPT2_WIDE = {"n_embd": 256, "n_inner": 512}


def requantised(source: Path, path: Path, kind: str) -> Path:
    """The same model with all matrices stored as ``kind``."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            item = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], item)
    for tensor in reader.tensors:
        values = np.array(tensor.data, np.float32)
        if values.ndim == 2 and "position" not in tensor.name:
            blocks = ggml.to_blocks(values, kind)
            writer.add_tensor(tensor.name, blocks, raw_dtype=gguf.GGMLQuantizationType[kind])
        else:
            writer.add_tensor(tensor.name, values)
    tiny_models._write(writer)
    return path


def gradients(policy: Policy) -> tuple[float, list[torch.Tensor]]:
    """The loss of one row, and the gradients of all adapter weights."""
    filled(policy, "sft")
    with policy.using("sft"):
        batch = pack([(IDS, [False] * 10 + [True] * 30)])
        loss = -policy.learned_logprobs(batch).mean()
    loss.backward()
    found = [p.grad for p in policy.adapter_parameters("sft")]
    return loss.item(), [g for g in found if g is not None]


def assert_both_ways_learn_alike(path: Path, held_in_blocks: int) -> None:
    dense = Policy(load_trunk(path))
    blocks = Policy(load_trunk(path, held="blocks"))
    kept = [m for m in blocks.model.modules() if isinstance(m, QuantizedLinear)]
    assert len(kept) == held_in_blocks
    ours, theirs = gradients(blocks), gradients(dense)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    assert len(ours[1]) == len(theirs[1]) == 2 * len(dense.layers)
    for own, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_give_the_same_loss_and_gradients_for_every_kind(
    tmp_path: Path, kind: str
) -> None:
    sort = SORTS["llama"]
    source = write_gguf(tmp_path / "wide.gguf", sort, sort.make(**WIDE))
    path = requantised(source, tmp_path / "m.gguf", kind)
    # Two layers of seven matrices and the head; float32 gains nothing by staying as it is.
    assert_both_ways_learn_alike(path, 0 if kind == "F32" else 15)


@pytest.mark.parametrize("name", ["qwen3 tied", "gemma3", "phi3", "gpt2"])
def test_both_ways_learn_alike_in_every_architecture(tmp_path: Path, name: str) -> None:
    sort = SORTS[name]
    changes = GPT2_WIDE if name == "gpt2" else {**WIDE, "num_hidden_layers": 2}
    if name == "phi3":
        changes = {key: value for key, value in changes.items() if key != "head_dim"}
    source = write_gguf(tmp_path / "wide.gguf", sort, sort.make(**changes))
    path = requantised(source, tmp_path / "m.gguf", "Q4_K")
    each = 4 if name in ("phi3", "gpt2") else 7
    assert_both_ways_learn_alike(path, 2 * each + 1)


def test_a_tied_head_shares_the_tables_blocks(tmp_path: Path) -> None:
    sort = SORTS["qwen3 tied"]
    source = write_gguf(tmp_path / "wide.gguf", sort, sort.make(**WIDE))
    model = load_trunk(requantised(source, tmp_path / "m.gguf", "Q6_K"), held="blocks")
    table, head = model.get_submodule("model.embed_tokens"), model.get_submodule("lm_head")
    assert isinstance(table, QuantizedEmbedding)
    assert isinstance(head, QuantizedLinear)
    assert table.blocks.data_ptr() == head.blocks.data_ptr()
    wide = sum(p.numel() * 4 for p in model.parameters())
    assert wide < 20_000  # norms are all that is wide


@pytest.fixture
def in_blocks(tmp_path: Path) -> Policy:
    sort = SORTS["llama"]
    source = write_gguf(tmp_path / "wide.gguf", sort, sort.make(**WIDE))
    path = requantised(source, tmp_path / "m.gguf", "Q4_K")
    return filled(Policy(load_trunk(path, held="blocks")), "sft", "ppo")


@torch.no_grad()
def logits(policy: Policy) -> torch.Tensor:
    return policy.logits(policy.hidden(pad_batch([(IDS, ())])))[0]


@pytest.mark.parametrize("copies", [True, False])
def test_merging_and_folding_work_on_blocks_with_copies_and_without(
    in_blocks: Policy, copies: bool
) -> None:
    in_blocks.copies = copies
    with in_blocks.using("sft", "ppo"):
        wanted = logits(in_blocks)
    with in_blocks.merged("sft", "ppo"):
        torch.testing.assert_close(logits(in_blocks), wanted, atol=1e-3, rtol=0)
        kept = [layer.merged is not None for layer in in_blocks.layers.values()]
        assert all(kept) if copies else not any(kept)
    in_blocks.fold("sft")
    with in_blocks.using("sft", "ppo"):
        torch.testing.assert_close(logits(in_blocks), wanted, atol=1e-3, rtol=0)


def test_no_wide_weights_are_kept_for_the_way_back(in_blocks: Policy) -> None:
    kept: set[tuple[int, ...]] = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            kept.add(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), in_blocks.using("sft"):
        states = in_blocks.hidden(pad_batch([(IDS, ())]))
    assert states.requires_grad
    weights = {
        (layer.base.out_features, layer.base.in_features) for layer in in_blocks.layers.values()
    }
    assert kept
    assert not any(shape in weights or shape[::-1] in weights for shape in kept)


def test_a_large_table_is_dequantised_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal((100, 256), dtype=np.float32)
    blocks = torch.from_numpy(ggml.to_blocks(values, "Q6_K"))
    bias = torch.randn(100, generator=torch.Generator().manual_seed(1))
    layer = QuantizedLinear(blocks, "Q6_K", torch.float32, bias)
    dense = nn.Linear(256, 100)
    dense.weight, dense.bias = nn.Parameter(layer.weight), nn.Parameter(bias)
    x = torch.randn(3, 5, 256, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(quantized_linear, "PIECE", 256 * 33)  # pieces of 33, 33, 33 and 1 row
    one, other = (x.clone().requires_grad_() for _ in range(2))
    torch.testing.assert_close(layer(one), dense(other), atol=1e-5, rtol=1e-5)
    layer(one).square().sum().backward()
    dense(other).square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad, atol=1e-3, rtol=1e-5)


def test_looked_up_rows_are_the_tables_rows() -> None:
    values = np.random.default_rng(0).standard_normal((50, 64), dtype=np.float32)
    blocks = torch.from_numpy(ggml.to_blocks(values, "Q8_0"))
    table = QuantizedEmbedding(blocks, "Q8_0", torch.float32, scale=8.0)
    ids = torch.tensor([[3, 0], [49, 3]])
    whole = QuantizedLinear(blocks, "Q8_0", torch.float32).weight
    assert torch.equal(table(ids), 8.0 * whole[ids])


@pytest.mark.slow
def test_a_whole_run_on_blocks_ends_with_a_model_llama_cpp_confirms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_models.write_model(tmp_path / "base.gguf", quantization="Q8_0")
    plan = devices.memory_plan

    def tight(*arguments: Any) -> MemoryPlan:
        return replace(plan(*arguments), held="blocks", copies=False, forgets=True)

    monkeypatch.setattr(devices, "memory_plan", tight)
    runs = Runs(tmp_path, base)
    run_dir = runs.prepare("blocks", feedback())
    runs.run(run_dir)
    manifest = read_manifest(run_dir / "export")
    assert {"sft", "reward", "ppo"} <= {e.stage for e in runs.events if isinstance(e, StageDone)}
    assert manifest.metrics["adapter_kl"] < 0.05
