"""The one click: snapshot, train, install, offer, compare blind, activate, roll back.

States: idle -> training -> installing -> offered -> idle. A run that was stopped, whose trainer
died, or whose result found no room, can be resumed; nothing that happens to a run touches the
active version.
"""

from __future__ import annotations

import random
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from PySide6.QtCore import QObject, Signal

from desktop_app.errors import UserError, sentence
from desktop_app.inference import engine
from desktop_app.inference.engine import ModelRef, StreamSpec
from desktop_app.inference.model_store import ModelStore
from desktop_app.services.chat_service import ChatService
from desktop_app.services.feedback_service import FeedbackService
from desktop_app.services.run_folder import write_run
from desktop_app.services.run_marks import (
    DECIDED,
    DISCARDED,
    INSTALLED,
    can_go_on,
    mark,
    newest_run,
    note_end,
    result_of,
    undecided,
)
from desktop_app.services.saving import saving
from desktop_app.services.trainer_process import TrainerProcess
from desktop_app.storage.feedback_store import FeedbackStore
from finetune.contract import events
from finetune.contract.chat_template import Message
from finetune.contract.errors import InputError
from finetune.contract.events import Event, FailureCode, RunDone, RunFailed, Stage
from finetune.contract.manifest import Manifest
from finetune.contract.recipe import Recipe
from finetune.contract.records import Completion, Verdict

LearningState = Literal["idle", "training", "stopping", "installing", "offered"]
TRIAL_PROMPTS: Final = 5
MOST_TRIED: Final = 20
"""Prompts that both versions answer, until so many answers differ."""


@dataclass(frozen=True)
class Progress:
    """Where a run is, for the panel."""

    stage: Stage = "prepare"
    step: int = 0
    steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    seconds_left: float | None = None
    done_stages: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class TrialQuestion:
    """Two completions of one of the person's own prompts, in the order they are shown."""

    conversation_id: str
    message_id: str
    prompt: tuple[Message, ...]
    completions: tuple[Completion, Completion]
    new_index: int
    """Which of the two the new version wrote; not shown before the choice."""


@dataclass(frozen=True)
class TrialScore:
    """How often the person chose the new version, the old one, neither."""

    new: int = 0
    old: int = 0
    ties: int = 0


class LearningService(QObject):
    """Owns the trainer child and the model versions.

    Signals:
        state_changed(LearningState).
        progress_changed(Progress): a stage or step began or ended.
        event_received(Event): every event, for curves, notes and samples.
        run_ended(RunDone or RunFailed): once a run.
        versions_changed: versions came, went, or another one is active.
        trial_question(TrialQuestion or None): the next blind question; None: no more.
        trial_ended: the comparison was broken off.
        trial_changed(TrialScore).
        problem(message, hint).
    """

    state_changed = Signal(str)
    progress_changed = Signal(object)
    event_received = Signal(object)
    run_ended = Signal(object)
    versions_changed = Signal()
    trial_question = Signal(object)
    trial_ended = Signal()
    trial_changed = Signal(object)
    problem = Signal(str, str)

    def __init__(
        self,
        runs: Path,
        models: ModelStore,
        feedback: FeedbackStore,
        chat: ChatService,
        feedback_service: FeedbackService,
        trainer: TrainerProcess,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._runs = runs
        self._models = models
        self._feedback = feedback
        self._chat = chat
        self._feedback_service = feedback_service
        self._trainer = trainer
        self._run_dir: Path | None = None
        self._progress = Progress()
        self._offered = self._left_open()
        self._state: LearningState = "idle" if self._offered is None else "offered"
        self._trial: _Trial | None = None
        trainer.event_received.connect(self._on_event)
        trainer.ended.connect(self._on_ended)
        chat.engine.event_received.connect(self._on_trial_event)
        chat.engine.request_failed.connect(self._on_trial_failed)

    # --- training ---

    @property
    def state(self) -> LearningState:
        return self._state

    @property
    def progress(self) -> Progress:
        return self._progress

    @property
    def offered(self) -> Manifest | None:
        """The version that waits for the person's decision."""
        return self._offered

    def start(self, recipe: Recipe | None = None) -> None:
        """Freeze the feedback and train on it.

        Raises:
            UserError: a run is going on, there is too little feedback, no space, or the disk
                does not take it.
        """
        if self._state != "idle":
            raise UserError(self.tr("A training is going on already."))
        recipe = recipe or Recipe()
        collected = self._feedback_service.collected()
        if not collected.is_enough_for_sft and not collected.is_enough_for_reward:
            missing = collected.demonstrations_wanted - collected.demonstrations
            raise UserError(
                self.tr("There is too little feedback to learn from."),
                self.tr("Like or correct %n more answer(s) first.", "", missing),
            )
        base = self._models.ref(self._models.base_of_active())
        wanted = 6 * Path(base.path).stat().st_size + (256 << 20)
        if shutil.disk_usage(self._runs).free < wanted:
            raise UserError(
                self.tr("There is not enough space on the disk for a training."),
                self.tr("Free about {0} MB.").format(wanted >> 20),
            )
        run = {
            "base": base.path,
            "base_sha256": base.sha256,
            "parent": self._models.active().version_id,
            "name": self._next_name(),
        }
        self._launch(write_run(self._runs, self._feedback, recipe, run), resume=False)

    def resumable(self) -> Path | None:
        """The newest run, where it has not ended well and can go on.

        Not where it would learn from feedback that has been taken back since.
        """
        run_dir = newest_run(self._runs)
        if run_dir is None or self._state != "idle" or not can_go_on(run_dir, self.versions):
            return None
        is_done = isinstance(result_of(run_dir), RunDone)
        has_lost = not is_done and self._feedback.has_lost(run_dir / "feedback")
        return None if has_lost else run_dir

    def resume(self) -> None:
        """Go on with the newest run; of one that is done, install the result."""
        run_dir = self.resumable()
        if run_dir is None:
            raise UserError(self.tr("There is no training to go on with."))
        result = result_of(run_dir)
        if isinstance(result, RunDone):
            self._run_dir = run_dir
            self._on_ended(result)
        else:
            self._launch(run_dir, resume=True)

    def discard(self) -> None:
        """Do not offer to resume the newest run again."""
        run_dir = self.resumable()
        if run_dir is not None:
            with saving():
                (run_dir / DISCARDED).touch()
            self.state_changed.emit(self._state)

    def stop(self) -> None:
        """Stop the run; its checkpoint stays and it can be resumed."""
        if self._state == "training":
            self._set_state("stopping")
            self._trainer.stop()

    def close(self) -> None:
        self._trainer.close()

    # --- versions ---

    def versions(self) -> list[Manifest]:
        return self._models.versions()

    def active_version(self) -> str:
        return self._models.active().version_id

    def active_model(self) -> ModelRef:
        """The files of the active version."""
        return self._models.active()

    def activate(self, version_id: str) -> None:
        """Chat with this version from now on."""
        with saving():
            self._models.activate(version_id)
        self._use_active()

    def roll_back(self) -> None:
        """Chat with the version before this one again."""
        with saving():
            self._models.roll_back()
        self._use_active()

    def can_roll_back(self) -> bool:
        return self._models.previous() is not None

    def remove_version(self, version_id: str) -> None:
        with saving():
            self._models.remove(version_id)
        if self._trial is not None and version_id in self._trial.version_ids:
            self.end_trial()
        self._end_offer_of(version_id)
        self.versions_changed.emit()

    def dismiss_offer(self) -> None:
        """Stay with the current version; the new one stays in the list."""
        self._end_offer()

    # --- the blind trial ---

    def start_trial(self, version_id: str | None = None) -> None:
        """Ask the person blind questions: the active version against another one.

        Raises:
            UserError: there are no prompts yet, the engine is not ready, or the versions do not
                answer from one file.
        """
        new_id = version_id or (self._offered.version_id if self._offered else "")
        if not new_id or new_id == self.active_version():
            raise UserError(self.tr("Choose a version that is not the active one."))
        old, new, loaded = self._models.active(), self._models.ref(new_id), self._chat.engine.model
        if loaded is not None and not old.sha256 == new.sha256 == loaded.sha256:
            # Both sides are written by the loaded file; only the adapters differ.
            raise UserError(
                self.tr("These two versions come from different models and cannot be compared."),
                self.tr("Use one of them, or train a version of the model in use."),
            )
        prompts = self._feedback_service.prompts()
        if not prompts:
            raise UserError(self.tr("Chat a little first: the comparison uses your own prompts."))
        chosen = random.SystemRandom().sample(prompts, min(MOST_TRIED, len(prompts)))
        self._trial = _Trial(old, new, iter(chosen), min(TRIAL_PROMPTS, len(chosen)))
        self.trial_changed.emit(self._trial.score)
        self._next_question()

    def answer_trial(self, question: TrialQuestion, chosen: int | None, verdict: Verdict) -> None:
        """Keep the person's choice (an index, or None for a tie) and go on."""
        if self._trial is None:
            return
        ranks = (0, 0) if chosen is None else (int(chosen != 0), int(chosen != 1))
        self._feedback_service.compare_completions(
            question.conversation_id,
            question.message_id,
            question.prompt,
            question.completions,
            ranks,
            verdict,
        )
        score = self._trial.score
        if chosen is None:
            score = TrialScore(score.new, score.old, score.ties + 1)
        elif chosen == question.new_index:
            score = TrialScore(score.new + 1, score.old, score.ties)
        else:
            score = TrialScore(score.new, score.old + 1, score.ties)
        self._trial.score = score
        self.trial_changed.emit(score)
        self._next_question()

    @property
    def trial_length(self) -> int:
        """How many questions the trial under way asks at most."""
        return 0 if self._trial is None else self._trial.length

    def end_trial(self) -> None:
        """Break the comparison off; the choices made so far are kept."""
        trial, self._trial = self._trial, None
        if trial is not None:
            self._chat.engine.stop(trial.request_id)
            self.trial_ended.emit()

    # --- inside ---

    def _next_name(self) -> str:
        """A name that no version has, also where an older one was removed."""
        versions = self.versions()
        ends = [re.search(r"(?<!\d)\d{1,4}$", v.name) for v in versions if v.parent is not None]
        highest = max((int(end[0]) for end in ends if end is not None), default=0)
        return self.tr("Personal model {0}").format(max(highest + 1, len(versions)))

    def _launch(self, run_dir: Path, *, resume: bool) -> None:
        self._run_dir = run_dir
        self._progress = Progress()
        self._set_state("training")
        self._trainer.start(run_dir, resume=resume)

    def _on_event(self, event: Event) -> None:
        p = self._progress
        if isinstance(event, events.StageStarted):
            self._progress = Progress(event.stage, 0, event.steps, {}, None, p.done_stages)
        elif isinstance(event, events.StepDone):
            metrics = {**p.metrics, **event.metrics}
            self._progress = Progress(
                event.stage, event.step, event.steps, metrics, event.seconds_left, p.done_stages
            )
        elif isinstance(event, events.StageDone):
            done = (*p.done_stages, event.stage)
            self._progress = Progress(p.stage, p.steps, p.steps, dict(event.metrics), None, done)
        self.event_received.emit(event)
        self.progress_changed.emit(self._progress)

    def _on_ended(self, result: RunDone | RunFailed) -> None:
        assert self._run_dir is not None
        if isinstance(result, RunDone):
            self._set_state("installing")
            try:
                self._offered = self._models.install(Path(result.export_dir))
            except (InputError, UserError, OSError) as error:
                if isinstance(error, InputError):  # it would be refused again
                    mark(self._run_dir, DISCARDED)
                self._set_state("idle")
                self.problem.emit(*sentence(error))
                code: FailureCode = "bad_input" if isinstance(error, InputError) else "disk_full"
                self.run_ended.emit(RunFailed(code, sentence(error)[0]))
                return
            mark(self._run_dir, INSTALLED)
            self._set_state("offered")
            self.versions_changed.emit()
        else:
            if result_of(self._run_dir) is None:
                # The trainer died silently: the run folder is the truth, so it says so too.
                note_end(self._run_dir, result)
            self._set_state("idle")
        self.run_ended.emit(result)

    def _left_open(self) -> Manifest | None:
        """What was on offer when the app was closed.

        Only where it can be compared with what is in use: not while another model's file is.
        """
        version, active = undecided(self._runs, self.versions()), self.active_model()
        if version is None or version.version_id == active.version_id:
            return None
        return version if version.base_sha256 == active.sha256 else None

    def _next_question(self) -> None:
        trial = self._trial
        if trial is None:
            return
        following = next(trial.prompts, None) if trial.asked < trial.length else None
        if following is None:
            if trial.asked < trial.length and trial.failure is not None:
                self.problem.emit(*trial.failure)
            elif not trial.asked:
                self.problem.emit(
                    self.tr("Both versions gave the same answers, so there is nothing to choose."),
                    self.tr("Chat about something else first, or train with more feedback."),
                )
            self.trial_question.emit(None)
            return
        trial.place = following
        trial.request_id = uuid.uuid4().hex
        trial.completions = {}
        seed = random.SystemRandom().getrandbits(31)
        streams = tuple(
            StreamSpec(seed, model.version_id, model.adapter) for model in (trial.old, trial.new)
        )
        try:
            self._chat.engine.request(
                engine.Generate(trial.request_id, following[2], self._chat.sampling, streams)
            )
        except UserError as error:
            self.problem.emit(*(trial.failure or sentence(error)))
            self.trial_question.emit(None)

    def _on_trial_event(self, event: engine.Event) -> None:
        trial = self._trial
        if trial is None or getattr(event, "request_id", None) != trial.request_id:
            return
        if isinstance(event, engine.StreamDone):
            trial.completions[event.stream] = Completion(event.text, event.origin)
        elif isinstance(event, engine.RequestDone):
            pair = [trial.completions[0], trial.completions[1]]
            if pair[0].text.strip() == pair[1].text.strip():
                self._next_question()  # nothing to choose from
                return
            trial.asked += 1
            new_index = random.SystemRandom().randrange(2)
            shown = (pair[1], pair[0]) if new_index == 0 else (pair[0], pair[1])
            conversation, message, prompt = trial.place
            lead = prompt[:1] if prompt[0].role == "system" else ()
            seen = (*lead, *prompt[len(lead) + event.dropped_messages :])
            question = TrialQuestion(conversation, message, seen, shown, new_index)
            self.trial_question.emit(question)

    def _on_trial_failed(self, request_id: str, message: str, hint: str) -> None:
        """A prompt too long for the model, say, costs this question and no more."""
        if self._trial is not None and self._trial.request_id == request_id:
            self._trial.failure = (message, hint)
            self._next_question()

    def _use_active(self) -> None:
        """Load the version that was made active; where it was on offer, that is decided."""
        active = self._models.active()
        self.end_trial()
        self._end_offer_of(active.version_id)
        self._chat.stop()
        self._chat.engine.load(active)
        self.versions_changed.emit()

    def _end_offer_of(self, version_id: str) -> None:
        if self._offered is not None and self._offered.version_id == version_id:
            self._end_offer()

    def _end_offer(self) -> None:
        """It is decided, and not offered again at the next start."""
        self.end_trial()
        run_dir = newest_run(self._runs)  # no other run can begin while its version is on offer
        if self._offered is not None and run_dir is not None:
            mark(run_dir, DECIDED)
        self._offered = None
        if self._state == "offered":
            self._set_state("idle")

    def _set_state(self, state: LearningState) -> None:
        self._state = state
        self.state_changed.emit(state)


@dataclass
class _Trial:
    """A blind trial under way."""

    old: ModelRef
    new: ModelRef
    prompts: Iterator[tuple[str, str, tuple[Message, ...]]]
    length: int
    asked: int = 0
    score: TrialScore = TrialScore()
    request_id: str = ""
    place: tuple[str, str, tuple[Message, ...]] = ("", "", ())
    completions: dict[int, Completion] = field(default_factory=dict)
    failure: tuple[str, str] | None = None
    """The last one, as message and hint."""

    @property
    def version_ids(self) -> tuple[str, str]:
        return self.old.version_id, self.new.version_id
