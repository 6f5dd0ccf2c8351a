"""A running training: stages, step bar, time left, curves, notes, samples, Stop."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QProgressBar, QVBoxLayout, QWidget

from desktop_app.services.learning_service import LearningService, Progress
from desktop_app.ui.controls import Button, Card, TextLabel
from desktop_app.ui.curve import Curve
from desktop_app.ui.sentences import in_our_language
from desktop_app.ui.stage_timeline import StageTimeline
from desktop_app.ui.theme import Theme
from finetune.contract import events
from finetune.contract.events import STAGES, Event, Stage

CURVES: Final = ("loss", "accuracy", "score", "kl")
MOST_NOTES: Final = 6
MOST_SAMPLES: Final = 3
LONGEST_SAMPLE: Final = 400
LONGEST_WORD: Final = 24


class SampleCard(Card):
    """One prompt with what the original model wrote, and what the new version does."""

    def __init__(self, sample: events.Sample, parent: QWidget | None = None) -> None:
        super().__init__(parent=parent)
        self.column.setSpacing(4)
        self._headings = [TextLabel("small", wrap=False) for _ in range(2)]
        prompt = TextLabel("strong")
        prompt.setText(_shown(sample.prompt))
        self.column.addWidget(prompt)
        for heading, text in zip(self._headings, (sample.before, sample.after), strict=True):
            self.column.addSpacing(4)
            words = TextLabel()
            words.setText(_shown(text))
            self.column.addWidget(heading)
            self.column.addWidget(words)
        self._headings[1].setProperty("tone", "accent")
        self._retranslate()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _retranslate(self) -> None:
        self._headings[0].setText(self.tr("Original model"))
        self._headings[1].setText(self.tr("New version"))


class NotesCard(Card):
    """What the trainer had to say about a run; of much, the newest."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent=parent)
        self.column.setSpacing(4)
        self._title = TextLabel("heading")
        self.column.addWidget(self._title)
        self._notes: list[tuple[str, TextLabel]] = []
        self._retranslate()

    def messages(self) -> list[str]:
        return [message for message, _ in self._notes]

    def add(self, message: str) -> None:
        self._drop(len(self._notes) + 1 - MOST_NOTES)
        label = TextLabel("small")
        self._notes.append((message, label))
        self.column.addWidget(label)
        self._retranslate()
        self.show()

    def clear(self) -> None:
        self._drop(len(self._notes))
        self.hide()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _drop(self, count: int) -> None:
        """The oldest go."""
        for _ in range(count):
            _, label = self._notes.pop(0)
            self.column.removeWidget(label)
            label.hide()
            label.deleteLater()

    def _retranslate(self) -> None:
        self._title.setText(self.tr("About this training"))
        for message, label in self._notes:
            label.setText(_shown(in_our_language(message)))


class RunView(QWidget):
    """Follows the run that is going on; keeps what it showed until the next one begins.

    Signals:
        stop_requested.
    """

    stop_requested = Signal()

    def __init__(
        self, learning: LearningService, theme: Theme, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._learning = learning
        self._progress = learning.progress
        self._stages: tuple[Stage, ...] = STAGES
        self._curve_stage: Stage | None = None
        self._title = TextLabel("heading")
        self.timeline = StageTimeline(theme)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.step = TextLabel("small", wrap=False)
        self.time_left = TextLabel("small")
        self.time_left.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.stop = Button("plain")
        self.curves = {name: Curve(theme) for name in CURVES}
        line = QHBoxLayout()
        line.addWidget(self.step)
        line.addWidget(self.time_left, 1)

        self._card = card = Card()
        card.column.setSpacing(12)
        card.column.addWidget(self._title)
        card.column.addWidget(self.timeline)
        card.column.addWidget(self.bar)
        card.column.addLayout(line)
        for curve in self.curves.values():
            curve.hide()
            card.column.addWidget(curve)
        card.column.addWidget(self.stop)
        self._notes = NotesCard()
        self._notes.hide()
        self._samples = QVBoxLayout()
        self._samples.setSpacing(8)
        self._samples_title = TextLabel("heading")
        self._samples_part = QWidget()
        self._samples_part.hide()
        part = QVBoxLayout(self._samples_part)
        part.setContentsMargins(0, 0, 0, 0)
        part.setSpacing(12)
        part.addWidget(self._samples_title)
        part.addLayout(self._samples)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(12)
        column.addWidget(card)
        column.addWidget(self._notes)
        column.addWidget(self._samples_part)

        self.stop.clicked.connect(self.stop_requested)
        learning.event_received.connect(self._on_event)
        learning.progress_changed.connect(self._on_progress)
        learning.state_changed.connect(self._on_state)
        self._retranslate()

    def notes(self) -> list[str]:
        return self._notes.messages()

    def sample_count(self) -> int:
        return self._samples.count()

    def show_parts(self, *, progress: bool, notes: bool, samples: bool) -> None:
        """What there is of these; without any, nothing. How it ended is told elsewhere."""
        self._card.setVisible(progress)
        self._notes.setVisible(notes and bool(self.notes()))
        self._samples_part.setVisible(samples and self.sample_count() > 0)
        parts = self._card, self._notes, self._samples_part
        self.setVisible(not all(part.isHidden() for part in parts))

    def begin(self) -> None:
        """A run starts: forget what the last one showed."""
        self._stages, self._curve_stage = STAGES, None
        self._notes.clear()
        _empty(self._samples)
        self._samples_part.hide()
        for curve in self.curves.values():
            curve.clear()
            curve.hide()
        self._on_progress(Progress())

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    # --- inside ---

    def _on_state(self, state: str) -> None:
        if state == "training":
            self.begin()
        self._retranslate()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, events.RunStarted):
            self._stages = event.stages or STAGES
        elif isinstance(event, events.StepDone):
            self._draw(event)
        elif isinstance(event, events.Note):
            self._notes.add(event.message)
        elif isinstance(event, events.Sample) and self._samples.count() < MOST_SAMPLES:
            self._samples.addWidget(SampleCard(event))
            self._samples_part.show()

    def _draw(self, event: events.StepDone) -> None:
        if not any(name in event.metrics for name in CURVES):
            return
        if event.stage != self._curve_stage:  # the loss of another stage is another figure
            self._curve_stage = event.stage
            for curve in self.curves.values():
                curve.clear()
                curve.hide()
        for name, curve in self.curves.items():
            value = event.metrics.get(name)
            if value is not None and abs(value) < 1e12:
                # A distance estimated from samples may come out a little below zero.
                curve.add(event.step, max(value, 0.0) if name == "kl" else value)
                curve.show()

    def _on_progress(self, progress: Progress) -> None:
        self._progress = progress
        is_current_done = progress.stage in progress.done_stages
        current = None if is_current_done else progress.stage
        self.timeline.show_stages(self._stages, current, progress.done_stages)
        if progress.steps:
            self.bar.setRange(0, progress.steps)
            self.bar.setValue(progress.step)
        else:
            self.bar.setRange(0, 0)  # busy, without a measure
        self._retranslate()

    def _retranslate(self) -> None:
        state = self._learning.state
        titles = {
            "stopping": self.tr("Stopping: the training saves its state…"),
            "installing": self.tr("Checking the new version…"),
        }
        self._title.setText(titles.get(state, self.tr("Your model is learning")))
        self.stop.setText(self.tr("Stop"))
        self.stop.setEnabled(state == "training")
        self._samples_title.setText(self.tr("Original model and new version"))
        progress = self._progress
        step = (
            self.tr("Step {0} of {1}").format(progress.step, progress.steps)
            if progress.steps
            else self.tr("One moment…")
        )
        self.step.setText(step)
        self.time_left.setText(self._time_words(progress.seconds_left))
        self.bar.setAccessibleName(step)
        names = {
            "loss": self.tr("Loss (lower is better)"),
            "accuracy": self.tr("Agrees with your choices"),
            "score": self.tr("Score (higher is better)"),
            "kl": self.tr("Distance from before (KL)"),
        }
        for name, curve in self.curves.items():
            curve.set_title(names[name])

    def _time_words(self, seconds: float | None) -> str:
        if seconds is None:
            return ""
        if seconds < 60:
            return self.tr("less than a minute left for this stage")
        return self.tr("about %n minute(s) left for this stage", "", round(seconds / 60))


def _empty(column: QVBoxLayout) -> None:
    while column.count():
        item = column.takeAt(0)
        widget = item.widget() if item is not None else None
        if widget is not None:
            widget.hide()
            widget.deleteLater()


def _shown(text: str) -> str:
    """Cut to a readable length; very long words may break anywhere."""
    text = text.strip()
    text = text if len(text) <= LONGEST_SAMPLE else text[:LONGEST_SAMPLE].rstrip() + "…"
    words = text.split(" ")
    return " ".join(word if len(word) <= LONGEST_WORD else "\u200b".join(word) for word in words)
