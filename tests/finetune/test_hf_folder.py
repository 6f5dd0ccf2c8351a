"""A Hugging Face folder and the GGUF of the same model are the same trunk; others are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from finetune import pipeline
from finetune.contract.errors import InputError
from finetune.contract.records import write_records
from finetune.gguf_weights import load_trunk
from finetune.policy import Policy, pad_batch
from finetune.run_folder import prepare_run, read_spec
from tests import tiny_models
from tests.finetune.architecture_models import SORTS, write_gguf
from tests.finetune.conftest import feedback

IDS = tuple(range(5, 45))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path, Any]:
    """A Qwen 3 as a folder and as a GGUF."""
    sort = SORTS["qwen3"]
    model = sort.make()
    model.save_pretrained(tmp_path / "folder")
    return tmp_path / "folder", write_gguf(tmp_path / "m.gguf", sort, model), model


@torch.no_grad()
def hidden(gguf: Path, folder: Path | None = None) -> torch.Tensor:
    policy = Policy(load_trunk(gguf, weights=folder))
    return policy.hidden(pad_batch([(IDS, ())]))


@pytest.mark.parametrize("sort", SORTS.values(), ids=SORTS)
def test_a_folder_and_its_gguf_have_the_same_hidden_states(tmp_path: Path, sort: Any) -> None:
    model = sort.make()
    path = write_gguf(tmp_path / "m.gguf", sort, model)
    model.save_pretrained(tmp_path / "folder")
    found = hidden(path, tmp_path / "folder")
    torch.testing.assert_close(found, hidden(path), atol=2e-5, rtol=1e-5)
    other = sort.make(seed=1)
    other.save_pretrained(tmp_path / "other")  # the weights are really the folder's
    assert not torch.allclose(hidden(path, tmp_path / "other"), found, atol=0.1)


def test_weights_in_several_files_are_found_by_their_index(saved: tuple[Path, Path, Any]) -> None:
    folder, path, model = saved
    expected = hidden(path, folder)
    shutil.rmtree(folder)
    model.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert torch.equal(hidden(path, folder), expected)
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(InputError, match="is missing in"):
        hidden(path, folder)


def test_names_inside_a_model_that_sees_and_of_old_checkpoints_are_known(tmp_path: Path) -> None:
    sort = SORTS["gemma3"]
    model = sort.make()
    path = write_gguf(tmp_path / "m.gguf", sort, model)
    (tmp_path / "sees").mkdir()
    (tmp_path / "sees" / "config.json").write_text('{"model_type": "gemma3"}')
    state = {f"language_model.{k}": v for k, v in model.state_dict().items() if "lm_head" not in k}
    state["vision_tower.patch.weight"] = torch.zeros(3)
    safetensors.torch.save_file(state, tmp_path / "sees" / "model.safetensors")
    torch.testing.assert_close(hidden(path, tmp_path / "sees"), hidden(path), atol=2e-5, rtol=1e-5)

    sort = SORTS["gpt2"]
    model = sort.make()
    path = write_gguf(tmp_path / "g.gguf", sort, model)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text('{"model_type": "gpt2"}')
    state = {k.removeprefix("transformer."): v for k, v in model.transformer.state_dict().items()}
    state["h.0.attn.bias"] = torch.ones(1, 1, 256, 256)
    safetensors.torch.save_file(state, tmp_path / "old" / "model.safetensors")
    torch.testing.assert_close(hidden(path, tmp_path / "old"), hidden(path), atol=2e-5, rtol=1e-5)


def test_other_models_are_refused_in_a_sentence(
    tmp_path: Path, saved: tuple[Path, Path, Any]
) -> None:
    _, path, _ = saved
    llama = SORTS["llama"].make()
    llama.save_pretrained(tmp_path / "llama")
    with pytest.raises(InputError, match="'llama' and the GGUF is of the kind 'qwen3'"):
        hidden(path, tmp_path / "llama")
    SORTS["qwen3"].make(intermediate_size=128).save_pretrained(tmp_path / "wider")
    with pytest.raises(InputError, match=r"is 64x128 there and 64x96 in the GGUF"):
        hidden(path, tmp_path / "wider")
    SORTS["qwen3"].make(vocab_size=500).save_pretrained(tmp_path / "words")
    with pytest.raises(InputError, match=r"\.weight is 500x64 there and 459x64 in"):
        hidden(path, tmp_path / "words")
    SORTS["qwen3"].make(num_hidden_layers=3).save_pretrained(tmp_path / "deeper")
    with pytest.raises(InputError, match=r"layers\.2\..* is not in the GGUF's model"):
        hidden(path, tmp_path / "deeper")
    SORTS["qwen3"].make(num_hidden_layers=1).save_pretrained(tmp_path / "shorter")
    with pytest.raises(InputError, match=r"shorter does not fit its architecture"):
        hidden(path, tmp_path / "shorter")


def test_another_vocabulary_of_the_same_size_is_refused(saved: tuple[Path, Path, Any]) -> None:
    folder, path, _ = saved
    tokens = tiny_models.byte_level_vocabulary().tokens
    entries = {token: place for place, token in enumerate(tokens)}
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({"model": {"vocab": entries}}))
    assert hidden(path, folder).shape == (1, 40, 64)
    entries = {token: (place + 1) % len(tokens) for place, token in enumerate(tokens)}
    file.write_text(json.dumps({"model": {"vocab": entries}}))
    with pytest.raises(InputError, match="another vocabulary than the GGUF"):
        hidden(path, folder)


def test_pickled_weights_are_never_opened(saved: tuple[Path, Path, Any]) -> None:
    folder, path, _ = saved
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(InputError, match=r"no safetensors files .* because they can run code"):
        hidden(path, folder)


def test_damage_is_a_sentence(tmp_path: Path, saved: tuple[Path, Path, Any]) -> None:
    folder, path, _ = saved
    with pytest.raises(InputError, match=r"There is no config\.json"):
        hidden(path, tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"model\.safetensors in .* is damaged"):
        hidden(path, folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(InputError, match=r"config\.json in .* is damaged"):
        hidden(path, folder)


def test_a_run_trains_on_the_folders_weights(tmp_path: Path, saved: tuple[Path, Path, Any]) -> None:
    _, path, _ = saved
    other = tmp_path / "other"
    SORTS["qwen3"].make(seed=1).save_pretrained(other)
    write_records(tmp_path / "f.jsonl", feedback())
    run_dir = tmp_path / "run"
    prepare_run(run_dir, path, [tmp_path / "f.jsonl"], None, None, "Test", other)
    assert read_spec(run_dir).weights == other.resolve()
    run = pipeline._Run(run_dir, lambda event: None, lambda: False)
    assert (run.plan.held, run.spec.base) == ("dense", path.resolve())
    with torch.no_grad():
        found = run.policy.hidden(pad_batch([(IDS, ())]))
    assert torch.equal(found, hidden(path, other))


def test_a_run_with_a_folder_of_another_model_is_not_even_prepared(
    tmp_path: Path, saved: tuple[Path, Path, Any]
) -> None:
    _, path, _ = saved
    SORTS["llama"].make().save_pretrained(tmp_path / "llama")
    write_records(tmp_path / "f.jsonl", feedback())
    with pytest.raises(InputError, match="of the kind 'llama'"):
        prepare_run(
            tmp_path / "run", path, [tmp_path / "f.jsonl"], None, None, None, tmp_path / "llama"
        )
    assert not (tmp_path / "run").exists()
