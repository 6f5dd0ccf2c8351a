"""Runs in this process: what is skipped and said, what the gate lets through, stop and resume."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import checkpoint, pipeline
from finetune.contract import events
from finetune.contract.errors import InputError
from finetune.contract.events import Event, Note, RunDone
from finetune.contract.manifest import read_manifest
from finetune.contract.records import Record, write_records
from finetune.enough import NotEnoughFeedback
from finetune.gguf_weights import load_trunk
from finetune.run_folder import prepare_run
from finetune.runner import guarded
from finetune.stage import Stopped
from tests.finetune.conftest import feedback
from tests.finetune.test_command_line import RECIPE
from tests.finetune.test_merge import copied


class Runs:
    """Prepares run folders and runs them, collecting events."""

    def __init__(self, folder: Path, base: Path) -> None:
        self._folder, self.base = folder, base
        self.events: list[Event] = []

    def prepare(self, name: str, records: list[Record], **changes: object) -> Path:
        source = self._folder / f"{name}-source"
        source.mkdir()
        write_records(source / "f.jsonl", records)
        recipe = {key: value for key, value in RECIPE.items()}
        for key, value in changes.items():
            both = isinstance(value, dict) and isinstance(recipe.get(key), dict)
            recipe[key] = {**recipe[key], **value} if both else value  # type: ignore[dict-item]
        (source / "recipe.json").write_text(json.dumps(recipe))
        run_dir = self._folder / name / "run"
        prepare_run(run_dir, self.base, [source], source / "recipe.json", None, "Test")
        return run_dir

    def run(self, run_dir: Path, should_stop: Callable[[], bool] = lambda: False) -> RunDone:
        self.events = []
        return pipeline.run(run_dir, self.events.append, should_stop, resumed=False)

    def notes(self) -> str:
        return "\n".join(event.message for event in self.events if isinstance(event, Note))


@pytest.fixture
def runs(tmp_path: Path, tiny_gguf: Path) -> Runs:
    return Runs(tmp_path, tiny_gguf)


def test_too_little_feedback_says_how_much_more_is_wanted(runs: Runs) -> None:
    with pytest.raises(NotEnoughFeedback, match="2 more liked or corrected answers"):
        runs.run(runs.prepare("a", feedback(3), min_preferences=12))


def test_prompts_without_room_for_an_answer_are_no_bug(runs: Runs) -> None:
    run_dir = runs.prepare("a", feedback(20), evaluation={"max_new_tokens": 190})
    with pytest.raises(NotEnoughFeedback, match="too long to leave room"):
        runs.run(run_dir)


def test_a_base_that_cannot_be_merged_is_refused_before_the_training(
    runs: Runs, tmp_path: Path
) -> None:
    runs.base = copied(runs.base, tmp_path / "odd.gguf", I8=("blk.0.ffn_up.weight",))
    with pytest.raises(InputError, match="stored as I8"):
        runs.run(runs.prepare("a", feedback(8)))
    assert [e.stage for e in runs.events if isinstance(e, events.StageStarted)] == ["prepare"]


def test_a_little_feedback_still_gives_sft(runs: Runs) -> None:
    done = runs.run(runs.prepare("a", feedback(7), min_preferences=12))
    assert done.stages == ("prepare", "sft", "evaluate", "export")
    assert "more are wanted to learn what you prefer" in runs.notes()
    manifest = read_manifest(Path(done.export_dir))
    assert set(manifest.files) == {"adapter", "model"}
    assert manifest.name == "Test"
    assert manifest.version_id == "run"


@pytest.mark.parametrize(("conversations", "unseen"), [(3, False), (8, True)])
def test_the_report_says_on_how_many_unseen_prompts_it_was_measured(
    runs: Runs, conversations: int, unseen: bool
) -> None:
    wanted = {"stages": ["sft"], "min_demonstrations": 1}
    done = runs.run(runs.prepare("a", feedback(conversations), **wanted))
    measured = read_manifest(Path(done.export_dir)).metrics["held_out_prompts"]
    assert (measured > 0) == unseen
    assert measured <= conversations / 2


def test_preferences_alone_give_ppo_on_the_base(runs: Runs) -> None:
    # So many rows that some end by themselves: where none does, there is nothing to learn.
    many = {"prompts_per_step": 16, "completions_per_prompt": 4}
    done = runs.run(runs.prepare("a", feedback(20), min_demonstrations=1000, ppo=many))
    assert done.stages == ("prepare", "reward", "ppo", "evaluate", "export")
    assert "liked or corrected answers" in runs.notes()


def test_a_reward_model_that_misreads_the_person_leaves_ppo_out(runs: Runs) -> None:
    done = runs.run(runs.prepare("a", feedback(80), reward={"min_accuracy": 1.0, "epochs": 1,
                                                           "learning_rate": 0.0}))  # fmt: skip
    assert "ppo" not in done.stages
    assert "no better than chance" in runs.notes()


def test_answers_longer_than_practice_holds_leave_ppo_out(runs: Runs) -> None:
    run_dir = runs.prepare("a", feedback(20), ppo={"min_ended": 0.5, "max_new_tokens": 2})
    done = runs.run(run_dir)
    assert done.stages == ("prepare", "sft", "reward", "evaluate", "export")
    assert runs.notes().count("answers are longer than practising has room for") == 1
    assert runs.run(run_dir).stages == done.stages  # a finished reward stage tells it again
    assert runs.notes().count("answers are longer than practising has room for") == 1


def test_a_result_that_unlearned_too_much_is_not_offered(runs: Runs) -> None:
    run_dir = runs.prepare("a", feedback(20), evaluation={"max_loss_ratio": 0.01})
    with pytest.raises(pipeline.GateFailed, match="unlearned too much"):
        runs.run(run_dir)
    assert not (run_dir / "export").exists()


def test_ppo_that_fails_the_gate_gives_way_to_sft(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "finetune.evaluate.win_rate", lambda new, old: 0.0
    )  # the reward model prefers the base
    done = runs.run(runs.prepare("a", feedback(20)))
    assert "The result of PPO is not offered" in runs.notes()
    assert done.metrics["kl"] == done.metrics["kl_to_base"]  # measured for the SFT model


def test_training_that_changes_nothing_is_not_a_success(runs: Runs) -> None:
    run_dir = runs.prepare("a", feedback(20), stages=["sft"], sft={"learning_rate": 0.0})
    with pytest.raises(pipeline.GateFailed, match="learned nothing"):
        runs.run(run_dir)


def test_stopping_at_every_turn_and_resuming_gives_the_same_bits(runs: Runs) -> None:
    whole = runs.prepare("whole", feedback(20))
    runs.run(whole)
    halting = runs.prepare("halting", feedback(20))
    stops = 0

    def after_two_steps() -> bool:
        return sum(isinstance(event, events.StepDone) for event in runs.events) >= 2

    while stops < 50:
        try:
            runs.run(halting, after_two_steps)
            break
        except Stopped:
            stops += 1
    assert stops > 3
    for name in ("adapter.gguf", "model.gguf", "reward.gguf"):
        assert (halting / "export" / name).read_bytes() == (whole / "export" / name).read_bytes()


def test_a_base_that_changed_since_the_run_was_prepared_is_refused(
    runs: Runs, tmp_path: Path
) -> None:
    run_dir = runs.prepare("a", feedback(8))
    spec = json.loads((run_dir / "run.json").read_text())
    spec["base_sha256"] = "0" * 64
    (run_dir / "run.json").write_text(json.dumps(spec))
    with pytest.raises(InputError, match="has changed"):
        runs.run(run_dir)


def test_bad_lines_are_notes_and_the_rest_is_learned(runs: Runs) -> None:
    run_dir = runs.prepare("a", feedback(8), stages=["sft"])
    (run_dir / "feedback" / "zzz.jsonl").write_text("not json\n")
    runs.run(run_dir)
    assert "zzz.jsonl, line 1: not JSON" in runs.notes()


def test_the_first_event_tells_what_will_happen(runs: Runs) -> None:
    runs.run(runs.prepare("a", feedback(8), stages=["sft"]))
    first = runs.events[0]
    assert isinstance(first, events.RunStarted)
    assert first.stages == ("prepare", "sft", "evaluate", "export")
    assert first.dtype == "float32"


# --- the other ways to practise ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["raft", "rwr"])
def test_the_recipe_chooses_how_to_practise(runs: Runs, method: str) -> None:
    practice = {"method": method, "weighted_completions": 2}
    done = runs.run(runs.prepare("a", feedback(20), ppo=practice))
    assert done.stages == ("prepare", "sft", "reward", "ppo", "evaluate", "export")
    steps = [e for e in runs.events if isinstance(e, events.StepDone) and e.stage == "ppo"]
    assert all("effective_samples" in step.metrics for step in steps)
    assert read_manifest(Path(done.export_dir)).metrics["win_rate"] >= 0.5


def test_kochatgpts_files_are_trained_on_as_they_are(runs: Runs, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{n}?", "completion_0": f"{n}", "completion_1": "no " * 9, "completion_2": "x",
         "ranking": [0, 2, 1]}
        for n in range(12)
    ]  # fmt: skip
    run_dir = runs.prepare("a", [], stages=["sft", "reward"])
    (run_dir / "feedback" / "2_RM.jsonl").write_text(json.dumps(rows, indent=2))
    only = [{"prompt": f"{n} and {n}?"} for n in range(5)]
    (run_dir / "feedback" / "3_PPO.jsonl").write_text(json.dumps(only))
    done = runs.run(run_dir)
    (start,) = [e for e in runs.events if e.kind == "stage_done" and e.stage == "prepare"]
    assert start.metrics["preferences"] == 36
    assert start.metrics["demonstrations"] == 12
    assert done.stages == ("prepare", "sft", "reward", "evaluate", "export")


# --- one typed event, whatever goes wrong -----------------------------------------------------


def ended(runs: Runs, run_dir: Path) -> events.RunFailed:
    """The final event of a run that must fail; and the base was not touched."""
    before = runs.base.read_bytes()
    result = guarded(lambda: runs.run(run_dir))
    assert isinstance(result, events.RunFailed)
    assert result.message.endswith(".")
    assert runs.base.read_bytes() == before
    assert not (run_dir / "export").exists()
    return result


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_numbers_that_are_none_end_in_one_event(runs: Runs, stage: str) -> None:
    run_dir = runs.prepare("a", feedback(20), **{stage: {"learning_rate": 1e30}})
    result = ended(runs, run_dir)
    assert result.code == "diverged"
    assert "Your model is unchanged" in result.message


def test_a_kl_that_is_no_number_ends_in_one_event(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.rollouts.Rollouts.kl", property(lambda self: math.inf))
    assert ended(runs, runs.prepare("a", feedback(20))).code == "diverged"


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_full_disk_in_any_stage_ends_in_one_event(
    runs: Runs, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint._write

    def full(path: Path, data: bytes) -> None:
        if path.parts[-3] == stage:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(checkpoint, "_write", full)
    run_dir = runs.prepare("a", feedback(20))
    assert ended(runs, run_dir).code == "disk_full"
    monkeypatch.setattr(checkpoint, "_write", real)
    assert runs.run(run_dir).stages[-1] == "export"  # room was made, and it goes on


def test_memory_that_never_suffices_ends_in_one_event(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> float:
        raise MemoryError

    monkeypatch.setattr("finetune.sft.backward", never)
    result = ended(runs, runs.prepare("a", feedback(20)))
    assert result.code == "out_of_memory"
    assert "smaller pieces" in runs.notes()


def test_sampling_that_ran_out_of_memory_once_goes_on_with_few_rows(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_of_memory(*arguments: Any, **options: Any) -> Any:
        def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if not torch.is_grad_enabled() and len(kwargs["input_ids"]) > 16:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        model: Any = load_trunk(*arguments, **options)
        model.model.register_forward_pre_hook(before, with_kwargs=True)
        return model

    monkeypatch.setattr(pipeline, "load_trunk", short_of_memory)
    assert runs.run(runs.prepare("a", feedback(20))).stages[-1] == "export"
    assert runs.notes().count("smaller pieces") == 2  # from 64 rows to 16, once for all stages
