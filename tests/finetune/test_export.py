"""What is exported is what was trained: in llama.cpp, in the metadata, at every quantisation."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from finetune import export
from finetune.contract.chat_template import CHATML
from finetune.contract.events import RunDone, RunFailed
from finetune.contract.gguf_file import read_header
from finetune.contract.recipe import Quantization
from finetune.export import (
    ExportFailed,
    check_parity,
    compare,
    torch_logits,
    write_adapter,
)
from finetune.gguf_weights import load_trunk, read_adapter
from finetune.merge import write_merged
from finetune.parity import PLACES, LlamaCppFailed, LlamaCppInterrupted, Question, answer
from finetune.policy import Policy
from finetune.quantization import FTYPES
from finetune.runner import guarded
from finetune.vocabulary import GgufVocabulary
from tests import tiny_models
from tests.finetune.crash import crash, killed
from tests.finetune.test_policy import filled

SEQUENCES = [tuple(range(3, 40)), tuple(range(50, 70))]
ROLES = ("sft", "ppo")


@pytest.fixture(scope="module")
def wide_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256, so that K-quants are possible."""
    shape = tiny_models.TinyShape(width=256, layers=2, heads=4, kv_heads=2, feed_forward=256)
    folder = tmp_path_factory.mktemp("wide")
    return tiny_models.write_model(folder / "wide.gguf", shape=shape, quantization="F16")


def trained(path: Path) -> Policy:
    return filled(Policy(load_trunk(path)), *ROLES)


@pytest.mark.parametrize(("kind", "tolerance"), [("F32", 2e-4), ("F16", 0.05), ("Q8_0", 0.6)])
def test_an_exported_adapter_is_the_trained_model_in_llama_cpp(
    tmp_path: Path, kind: str, tolerance: float
) -> None:
    base = tiny_models.write_model(tmp_path / "base.gguf", quantization=kind)
    policy = trained(base)
    write_adapter(tmp_path / "a.gguf", read_header(base), policy.joined(ROLES), {"run_id": "r"})
    theirs = answer(Question(base, tmp_path / "a.gguf", (), tuple(SEQUENCES))).logits
    ours = torch_logits(policy, SEQUENCES, *ROLES)
    plain = torch_logits(policy, SEQUENCES)
    for own, other, without in zip(ours, theirs, plain, strict=True):
        assert np.abs(own - other).max() < tolerance
        assert np.abs(own - without).max() > 5 * tolerance  # the adapter does something


def test_an_exported_adapter_is_read_back_exactly(tmp_path: Path, tiny_gguf: Path) -> None:
    policy = trained(tiny_gguf)
    weights = policy.joined(ROLES)
    header = read_header(tiny_gguf)
    write_adapter(tmp_path / "a.gguf", header, weights, {})
    again = read_adapter(tmp_path / "a.gguf", header)
    assert set(again) == set(weights)
    for path, (a, b) in weights.items():
        assert torch.equal(again[path][0], a)
        assert torch.equal(again[path][1], b)


@pytest.mark.parametrize("quantization", ["BASE", *FTYPES])
def test_merged_models_score_as_the_trained_one_at_every_quantisation(
    tmp_path: Path, wide_gguf: Path, quantization: Quantization
) -> None:
    policy = trained(wide_gguf)
    write_adapter(tmp_path / "a.gguf", read_header(wide_gguf), policy.joined(ROLES), {})
    write_merged(tmp_path / "m.gguf", wide_gguf, tmp_path / "a.gguf", quantization, {})
    theirs = answer(Question(tmp_path / "m.gguf", None, (), tuple(SEQUENCES))).logits
    found = compare(torch_logits(policy, SEQUENCES, *ROLES), theirs)
    # Random weights suffer more from four bits than trained ones do.
    assert found.kl < {
        "BASE": 1e-3, "F16": 1e-3, "Q8_0": 5e-3, "Q6_K": 0.05, "Q5_K_M": 0.2, "Q4_K_M": 1.0,
    }[quantization]  # fmt: skip


def written(folder: Path, base: Path, policy: Policy) -> tuple[Path, Path]:
    weights = policy.joined(ROLES)
    write_adapter(folder / "a.gguf", read_header(base), weights, {})
    write_merged(folder / "m.gguf", base, folder / "a.gguf", "Q8_0", {})
    return folder / "a.gguf", folder / "m.gguf"


def parity(policy: Policy, base: Path, adapter: Path, merged: Path) -> dict[str, float]:
    vocabulary = GgufVocabulary(base, CHATML)
    return check_parity(policy, ROLES, base, adapter, merged, "Q8_0", vocabulary, SEQUENCES)


def test_the_parity_gate_passes_a_sound_export(tmp_path: Path, tiny_gguf: Path) -> None:
    policy = trained(tiny_gguf)
    found = parity(policy, tiny_gguf, *written(tmp_path, tiny_gguf, policy))
    assert found["adapter_kl"] < 1e-6
    assert found["adapter_agreement"] == 1.0
    assert found["merged_kl"] < 0.02


def test_the_parity_gate_notices_rows_in_the_wrong_order(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = trained(tiny_gguf)
    monkeypatch.setattr(export, "rows_to_gguf", lambda header, stem, rows: rows)
    adapter, merged = written(tmp_path, tiny_gguf, policy)
    with pytest.raises(ExportFailed, match="adapter scores differently"):
        parity(policy, tiny_gguf, adapter, merged)


def test_the_parity_gate_notices_a_merged_model_without_its_update(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    policy = trained(tiny_gguf)
    adapter, _ = written(tmp_path, tiny_gguf, policy)
    with pytest.raises(ExportFailed, match="merged model scores differently"):
        parity(policy, tiny_gguf, adapter, tiny_gguf)


def test_the_parity_gate_notices_another_vocabulary(tmp_path: Path, tiny_gguf: Path) -> None:
    policy = trained(tiny_gguf)
    adapter, _ = written(tmp_path, tiny_gguf, policy)
    vocabulary = tiny_models.byte_level_vocabulary()
    tokens = list(vocabulary.tokens)
    tokens[ord("!")], tokens[ord("O")] = "O", "!"
    other = tiny_models.write_model(
        tmp_path / "other.gguf", vocabulary=dataclasses.replace(vocabulary, tokens=tuple(tokens))
    )
    with pytest.raises(ExportFailed, match="reads text differently"):
        parity(policy, tiny_gguf, adapter, other)


@pytest.mark.parametrize(
    ("fate", "error", "says"),
    [(crash, LlamaCppInterrupted, "by signal 11"), (killed, MemoryError, "killed")],
)
def test_a_signal_is_an_exception_here_and_no_verdict_on_the_result(
    tiny_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    fate: Callable[..., None],
    error: type[Exception],
    says: str,
) -> None:
    monkeypatch.setattr("finetune.parity._answer_to_file", fate)
    with pytest.raises(error, match=says):
        parity(trained(tiny_gguf), tiny_gguf, tiny_gguf, tiny_gguf)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_disk_that_is_too_small_for_the_answer_is_said_to_be_one(tiny_gguf: Path) -> None:
    import resource

    def check() -> RunDone:
        parity(trained(tiny_gguf), tiny_gguf, tiny_gguf, tiny_gguf)
        raise AssertionError

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        result = guarded(check)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(result, RunFailed)
    assert result.code == "disk_full"


def test_only_the_last_places_of_a_long_sequence_are_held(tiny_gguf: Path) -> None:
    ids = tuple(range(3, 203))
    (theirs,) = answer(Question(tiny_gguf, None, (), (ids,))).logits
    (ours,) = torch_logits(trained(tiny_gguf), [ids])
    assert ours.shape == theirs.shape == (PLACES, 459)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_a_reward_file_is_an_adapter_llama_cpp_loads_with_its_heads_inside(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    policy = trained(tiny_gguf)
    weight, bias = torch.randn(5, 64), torch.randn(5)
    metadata = export.reward_metadata(weight, bias, 1.0)
    path = tmp_path / "reward.gguf"
    write_adapter(path, read_header(tiny_gguf), policy.joined(ROLES), metadata)
    read = read_header(path).metadata
    assert read["attune.reward.heads"] == 5
    found = np.array(read["attune.reward.head.weight"], np.float32).reshape(5, 64)
    np.testing.assert_array_equal(found, weight.numpy())
    assert answer(Question(tiny_gguf, path, (), tuple(SEQUENCES))).logits[0].shape == (37, 459)


def test_llama_cpp_refuses_adapters_with_head_tensors(tmp_path: Path, tiny_gguf: Path) -> None:
    # Why the heads are metadata. Should this fail one day, they may become tensors.
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)
    writer.add_tensor("reward.head.weight", np.zeros((5, 64), np.float32))
    tiny_models._write(writer)
    with pytest.raises(LlamaCppFailed, match="refused the adapter"):
        answer(Question(tiny_gguf, tmp_path / "x.gguf", (), tuple(SEQUENCES)))


def test_one_steep_place_is_reported_and_does_not_fail_a_sound_file() -> None:
    ours = np.zeros((4, 2), np.float32)
    ours[:, 0] = np.log(2.0)  # probabilities 2/3 and 1/3 at all four places
    theirs = ours.copy()
    theirs[2] = theirs[2, ::-1]  # at one place the other token is likelier
    found = compare([ours], [theirs])
    assert found.agreement == 0.75
    assert found.max_regret == pytest.approx(np.log(2.0))  # log(2/3) - log(1/3)
    assert found.regret == pytest.approx(np.log(2.0) / 4)
