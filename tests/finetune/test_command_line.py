"""The real command as a subprocess: errors of use, a whole tiny run, stop, kill and resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune.contract import events
from finetune.contract.events import Event, RunDone, RunFailed
from finetune.contract.gguf_file import read_header
from finetune.contract.manifest import read_manifest, verify_files
from finetune.contract.records import write_records
from finetune.gguf_weights import read_adapter
from finetune.run_folder import prepare_run
from tests.finetune.conftest import feedback

RECIPE = {
    "max_tokens": 200,
    "min_preferences": 4,
    "checkpoint_every": 2,
    "sft": {"epochs": 2, "lora": {"rank": 4}, "learning_rate": 0.002},
    "reward": {"epochs": 2, "lora": {"rank": 4}, "heads": 3},
    "ppo": {
        "steps": 4,
        "prompts_per_step": 4,
        "max_new_tokens": 12,
        "min_ended": 0.0,  # a random model hardly ever ends a turn
        "lora": {"rank": 4},
        "value_warmup_steps": 1,
    },
    "evaluation": {
        "prompts": 4,
        "max_new_tokens": 12,
        "max_loss_ratio": 100.0,
        "min_distinct_ratio": 0.0,
    },
}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "finetune", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def finetune(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=280,
        check=False,
    )


def parsed(lines: str) -> list[Event]:
    found = [events.from_line(line) for line in lines.splitlines()]
    assert None not in found, lines
    return [event for event in found if event is not None]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(RECIPE))
    return path


# --- errors of use ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: COMMAND"),
        (["dance"], "dance"),
        (["train"], "--run-dir"),
        (["train", "--run-dir", "r", "--base", "no.gguf"], "no.gguf"),
        (["train", "--run-dir", "r", "--base", "tiny.gguf"], "--feedback"),
        (["train", "--run-dir", "r", "--base", "tiny.gguf", "--feedback", "no"], "no"),
        (["train", "--run-dir", "r", "--feedback", "no"], "--base"),
        (["train", "--run-dir", "r", "--base", "text", "--feedback", "f.jsonl"], "GGUF"),
        (
            ["train", "--run-dir", "r", "--base", "tiny.gguf", "--feedback", "f.jsonl",
             "--recipe", "text"],
            "not JSON",
        ),
        (
            ["train", "--run-dir", "r", "--base", "tiny.gguf", "--feedback", "f.jsonl",
             "--recipe", "utf16"],
            "not UTF-8",
        ),
        (
            ["train", "--run-dir", "text/r", "--base", "tiny.gguf", "--feedback", "f.jsonl"],
            "Not a directory",
        ),
        (["export", "--run-dir", "nowhere", "--quantization", "Q4", "--output", "x"], "'Q4'"),
        (["export", "--run-dir", "no", "--quantization", "Q8_0", "--output", "x"], "run.json"),
        (["starter", "--data", "none", "--work", "w", "--output", "o.gguf"], "no data folder"),
        (["starter", "--data", ".", "--work", "w", "--output", "o.bin"], "ends in .gguf"),
        (["doctor", "--model", "text"], "GGUF"),
        (["doctor", "--model", "no.gguf"], "no.gguf"),
        (
            ["evaluate", "--base", "tiny.gguf", "--adapter", "tiny.gguf", "--feedback", "f.jsonl"],
            "not a LoRA adapter",
        ),
    ],
)  # fmt: skip
def test_an_error_of_use_is_one_sentence_and_exit_code_two(
    tmp_path: Path,
    tiny_gguf: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    from finetune.__main__ import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.gguf").symlink_to(tiny_gguf)
    (tmp_path / "text").write_text("Just some text, long enough to be looked at.")
    (tmp_path / "utf16").write_text("{}", encoding="utf-16")
    write_records(tmp_path / "f.jsonl", feedback(4))
    try:
        code = main(arguments)
    except SystemExit as leaving:
        code = leaving.code
    printed = capfd.readouterr()
    assert code == 2
    assert says in printed.err
    assert printed.err.count("\n") == 1, printed.err
    assert not printed.out


def test_a_run_takes_just_the_files_of_its_last_try_whatever_they_are_called(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    run = tmp_path / "run"
    left_over = run / "feedback" / "000-wrong.jsonl"
    left_over.parent.mkdir(parents=True)
    left_over.write_text("an earlier try was ended before it was a run")
    write_records(tmp_path / "right.json", feedback(4))
    prepare_run(run, tiny_gguf, [tmp_path / "right.json"], None, None, None)
    (run / "run.json").unlink()
    prepare_run(run, tiny_gguf, [run / "feedback"], None, None, None)  # its own files, too
    copied = run / "feedback" / "000-000-right.jsonl"
    assert list((run / "feedback").iterdir()) == [copied]
    assert copied.read_bytes() == (tmp_path / "right.json").read_bytes()


@pytest.mark.parametrize("verb", ["train", "resume"])
def test_a_folder_without_a_run_is_a_final_event_and_a_sentence(
    repository: Path, tmp_path: Path, verb: str
) -> None:
    result = finetune(verb, "--run-dir", tmp_path, cwd=repository)
    assert result.returncode == 2
    assert result.stderr == f"{tmp_path} is not a run folder: run.json is missing.\n"
    (final,) = parsed(result.stdout)
    assert final == RunFailed("bad_input", result.stderr.strip())


def test_help_names_every_command_and_comes_at_once(repository: Path) -> None:
    began = time.monotonic()
    shown = finetune("--help", cwd=repository)
    assert shown.returncode == 0
    for name in ("train", "resume", "evaluate", "export", "starter", "doctor"):
        assert name in shown.stdout
    assert time.monotonic() - began < 20  # a busy machine; torch alone takes seconds


# --- whole runs -------------------------------------------------------------------------------


@pytest.fixture
def prepared(tmp_path: Path, tiny_gguf: Path, recipe: Path) -> list[object]:
    """Arguments of a new run in ``tmp_path``."""
    write_records(tmp_path / "f.jsonl", feedback(24))
    return ["--base", tiny_gguf, "--feedback", tmp_path / "f.jsonl", "--recipe", recipe]


def test_a_whole_run_ends_with_a_model_version(
    repository: Path, tmp_path: Path, prepared: list[object], tiny_gguf: Path
) -> None:
    run_dir = tmp_path / "run"
    result = finetune(
        "train", "--run-dir", run_dir, *prepared, "--parent", "v0", "--tensorboard", cwd=repository
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    found = parsed(result.stdout)
    assert isinstance(found[-1], RunDone)
    assert sum(isinstance(event, RunDone | RunFailed) for event in found) == 1
    assert found[-1].stages == events.STAGES
    assert [e.stage for e in found if isinstance(e, events.StageStarted)] == list(events.STAGES)
    assert [e.stage for e in found if isinstance(e, events.StageDone)] == list(events.STAGES)
    assert any(isinstance(e, events.Sample) for e in found)
    assert isinstance(found[1], events.MemoryPlan)
    assert 0 < found[1].needed < found[1].available
    assert_everything_is_told([e for e in found if isinstance(e, events.StepDone)])
    (drawn,) = (run_dir / "tensorboard").iterdir()
    assert b"ppo/explained_variance" in drawn.read_bytes()
    assert parsed((run_dir / "events.jsonl").read_text(encoding="utf-8")) == found

    manifest = read_manifest(run_dir / "export")
    verify_files(run_dir / "export", manifest)
    assert manifest.parent == "v0"
    assert manifest.files == {
        "adapter": "adapter.gguf",
        "model": "model.gguf",
        "reward": "reward.gguf",
    }
    assert read_adapter(run_dir / "export" / "adapter.gguf", read_header(tiny_gguf))
    assert not (run_dir / "export.partial").exists()


def assert_everything_is_told(steps: list[events.StepDone]) -> None:
    """What a person would want to watch, by stage."""
    wanted = {
        "sft": {"loss", "held_out_loss", "grad_norm", "learning_rate", "tokens_per_second"},
        "reward": {"loss", "accuracy", "grad_norm", "learning_rate", "tokens_per_second"},
        "ppo": {
            "score", "reward", "kl", "kl_coef", "entropy", "clip_fraction", "policy_loss",
            "value_loss", "explained_variance", "completion_length", "ended", "tokens_per_second",
        },
    }  # fmt: skip
    for stage, names in wanted.items():
        own = [step for step in steps if step.stage == stage]
        assert names <= {name for step in own for name in step.metrics}, stage
        assert all(step.seconds_left is not None for step in own)


def _adapter_of(run_dir: Path) -> bytes:
    return (run_dir / "export" / "adapter.gguf").read_bytes()


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(
    repository: Path, tmp_path: Path, prepared: list[object]
) -> None:
    # In folders of one name: the run's id is in the files.
    whole, killed = tmp_path / "a" / "run", tmp_path / "b" / "run"
    assert finetune("train", "--run-dir", whole, *prepared, cwd=repository).returncode == 0
    arguments: list[object] = ["train", "--run-dir", killed, *prepared]
    for stage, step in (("sft", 3), ("reward", 3), ("ppo", 3), ("evaluate", 0)):
        with subprocess.Popen(
            command(*arguments),
            cwd=repository,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                event = events.from_line(line)
                if step and isinstance(event, events.StepDone):
                    at_the_place = event.stage == stage and event.step == step
                else:
                    at_the_place = isinstance(event, events.StageStarted) and (
                        step == 0 and event.stage == stage
                    )
                if at_the_place:
                    process.send_signal(signal.SIGKILL)
                    break
            else:
                pytest.fail("the run ended before it could be killed")
        arguments = ["resume", "--run-dir", killed]
    assert finetune(*arguments, cwd=repository).returncode == 0
    assert _adapter_of(killed) == _adapter_of(whole)
    assert (killed / "export" / "model.gguf").read_bytes() == (
        whole / "export" / "model.gguf"
    ).read_bytes()
    assert (killed / "export" / "reward.gguf").read_bytes() == (
        whole / "export" / "reward.gguf"
    ).read_bytes()


@pytest.mark.slow
def test_a_closed_stdin_stops_the_run_and_resuming_finishes_it(
    repository: Path, tmp_path: Path, prepared: list[object]
) -> None:
    run_dir = tmp_path / "run"
    with subprocess.Popen(
        command("train", "--run-dir", run_dir, *prepared),
        cwd=repository,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if '"step_done"' in line and not process.stdin.closed:
                process.stdin.close()
    assert process.returncode == 3
    final = parsed("".join(lines))[-1]
    assert isinstance(final, RunFailed)
    assert final.code == "stopped"
    resumed = finetune("resume", "--run-dir", run_dir, cwd=repository)
    assert resumed.returncode == 0, resumed.stderr
    began = parsed(resumed.stdout)[0]
    assert isinstance(began, events.RunStarted)
    assert began.resumed
