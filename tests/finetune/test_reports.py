"""evaluate, export and doctor: what they print, and their exit codes."""

import json
import shutil
from pathlib import Path

import pytest

from finetune import devices, reports
from finetune.contract.chat_template import CHATML
from finetune.contract.errors import InputError
from finetune.contract.gguf_file import read_header
from finetune.contract.manifest import Manifest, file_sha256, write_manifest
from finetune.contract.recipe import Recipe
from finetune.export import write_adapter
from finetune.export_again import export_again
from finetune.gguf_weights import load_trunk
from finetune.policy import Policy
from tests import tiny_models
from tests.finetune.test_policy import filled

QUICK = {
    "evaluation": {"prompts": 3, "max_new_tokens": 8, "max_loss_ratio": 100.0,
                   "min_distinct_ratio": 0.0},
}  # fmt: skip


@pytest.fixture
def adapter(tmp_path: Path, tiny_gguf: Path) -> Path:
    policy = filled(Policy(load_trunk(tiny_gguf)), "sft")
    path = tmp_path / "adapter.gguf"
    write_adapter(path, read_header(tiny_gguf), policy.joined(("sft",)), {})
    return path


def test_evaluate_measures_an_adapter_against_its_base(
    tmp_path: Path,
    tiny_gguf: Path,
    adapter: Path,
    feedback_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(QUICK))
    code = reports.evaluate_adapter(
        tiny_gguf, adapter, [feedback_folder], tmp_path / "recipe.json", as_json=True
    )
    found = json.loads(capsys.readouterr().out)
    assert code == (1 if found["failures"] else 0)
    assert found["metrics"]["change"] > 0.1
    assert {"loss_ratio", "distinct_ratio", "kl", "completion_length"} <= set(found["metrics"])


def test_export_writes_a_finished_run_again(tmp_path: Path, tiny_gguf: Path, adapter: Path) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "export").mkdir(parents=True)
    base = Path(shutil.copy(tiny_gguf, tmp_path / "base.gguf"))
    (run_dir / "run.json").write_text(json.dumps({"base": str(base)}))
    with pytest.raises(InputError, match="no result yet"):
        export_again(run_dir, "F16", tmp_path / "x.gguf")
    adapter.rename(run_dir / "export" / "adapter.gguf")
    write_manifest(
        run_dir / "export",
        Manifest("run", "Test", "2026-11-20T10:00:00+00:00", None, file_sha256(base), "", {}, {}),
    )
    assert export_again(run_dir, "f16", tmp_path / "x.gguf") == 0
    header = read_header(tmp_path / "x.gguf")
    assert header.chat_template == CHATML
    assert header.tensors["blk.0.attn_q.weight"].type_name == "F16"
    with pytest.raises(InputError, match="exists already"):
        export_again(run_dir, "f16", tmp_path / "x.gguf")
    tiny_models.write_model(base, seed=1)  # of the same shape
    with pytest.raises(InputError, match="put it back"):
        export_again(run_dir, "f16", tmp_path / "y.gguf")
    assert not (tmp_path / "y.gguf").exists()


def test_doctor_says_what_this_machine_trains_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert reports.doctor(None, None, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["threads"] >= 1
    assert found["dtype"] in ("float32", "bfloat16")
    assert found["free_bytes"] > 0


def test_doctor_says_whether_a_model_fits_and_how_long_it_takes(
    tiny_gguf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reports.doctor(tiny_gguf, None, as_json=False) == 0
    printed = capsys.readouterr().out
    assert "memory plan: weights 0.00 GB (dequantised with copies)" in printed
    assert "fits     yes" in printed
    assert "with sixty pieces of feedback" in printed
    monkeypatch.setattr(devices, "free_memory", lambda: 1000)
    assert reports.doctor(tiny_gguf, None, as_json=False) == 1
    assert "choose a smaller model" in capsys.readouterr().out


def test_doctor_counts_the_feedback_it_is_given(
    tiny_gguf: Path, feedback_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reports.doctor(tiny_gguf, None, [feedback_folder], as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["seconds_of_stages"]) == [
        "prepare", "sft", "reward", "ppo", "evaluate", "export",
    ]  # fmt: skip
    assert found["seconds"] == round(sum(found["seconds_of_stages"].values()))


def test_a_larger_model_needs_more_memory(tmp_path: Path, tiny_gguf: Path) -> None:
    shape = tiny_models.TinyShape(width=128, feed_forward=256, layers=4)
    large = tiny_models.write_model(tmp_path / "large.gguf", shape=shape)
    device = devices.choose_device()
    small, big = (
        devices.memory_plan(device, read_header(path), Recipe()) for path in (tiny_gguf, large)
    )
    assert big.weights > small.weights
    assert big.adapters > small.adapters
    assert big.total > small.total


def test_omp_num_threads_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert devices.choose_device().threads == 3 or devices.choose_device().kind != "cpu"
