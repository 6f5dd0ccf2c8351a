"""The stages of a run from top to bottom: done, at work, to come, left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from PySide6.QtCore import QEvent, Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from desktop_app.ui.controls import TextLabel, restyle
from desktop_app.ui.theme import Theme
from finetune.contract.events import STAGES, Stage

StageState = Literal["to_come", "at_work", "done", "left_out"]
_LOOKS: dict[StageState, tuple[str, str]] = {
    "to_come": ("ring", "text_muted"),
    "at_work": ("dot", "accent"),
    "done": ("check", "positive"),
    "left_out": ("none", "text_muted"),
}


class StageRow(QWidget):
    """One stage: its mark, its name, and while it works what it does."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.state: StageState = "to_come"
        self._mark = QLabel()
        self.name = TextLabel("body")
        self.note = TextLabel("small", wrap=False)
        self.explanation = TextLabel("small")
        line = QHBoxLayout()
        line.setSpacing(8)
        line.addWidget(self.name, 1)
        line.addWidget(self.note)
        texts = QVBoxLayout()
        texts.setSpacing(0)
        texts.addLayout(line)
        texts.addWidget(self.explanation)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self._mark, 0, Qt.AlignmentFlag.AlignTop)
        row.addLayout(texts, 1)
        theme.changed.connect(self._redraw)
        self._redraw()

    def set_state(self, state: StageState) -> None:
        if state != self.state:
            self.state = state
            self._redraw()

    def _redraw(self) -> None:
        name, colour = _LOOKS[self.state]
        icon = self._theme.icon(name, getattr(self._theme.tokens, colour))
        self._mark.setPixmap(icon.pixmap(self._theme.icon_size, self.devicePixelRatio()))
        active = self.state == "at_work"
        self.name.setProperty("role", "strong" if active else "body")
        if self.state in ("to_come", "left_out"):
            self.name.setProperty("role", "muted")
        restyle(self.name)
        self.explanation.setVisible(active)


class StageTimeline(QWidget):
    """All stages, and which of them a run has."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._stages: tuple[Stage, ...] = STAGES
        self._current: Stage | None = None
        self._done: tuple[Stage, ...] = ()
        self.rows: dict[Stage, StageRow] = {stage: StageRow(theme) for stage in STAGES}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        for row in self.rows.values():
            column.addWidget(row)
        self._retranslate()

    def show_stages(
        self, stages: Sequence[Stage], current: Stage | None, done: Sequence[Stage]
    ) -> None:
        """Where the run is. Stages it passed without doing them were left out."""
        self._stages, self._current, self._done = tuple(stages), current, tuple(done)
        for stage, row in self.rows.items():
            row.set_state(self._state_of(stage))
        self._retranslate()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _state_of(self, stage: Stage) -> StageState:
        if stage in self._done:
            return "done"
        if stage == self._current:
            return "at_work"
        if stage not in self._stages:
            return "left_out"
        reached = self._done if self._current is None else (*self._done, self._current)
        furthest = max((STAGES.index(s) for s in reached), default=-1)
        return "left_out" if STAGES.index(stage) < furthest else "to_come"

    def _retranslate(self) -> None:
        texts: dict[Stage, tuple[str, str]] = {
            "prepare": (
                self.tr("Prepare"),
                self.tr("Reads your feedback and puts some of it aside for the examination."),
            ),
            "sft": (
                self.tr("Imitate good answers"),
                self.tr("Supervised fine-tuning on what you liked, chose and corrected."),
            ),
            "reward": (
                self.tr("Learn your taste"),
                self.tr("A reward model learns to judge answers the way you do."),
            ),
            "ppo": (
                self.tr("Practise"),
                self.tr("PPO: it writes, the reward model scores, and good habits grow."),
            ),
            "evaluate": (
                self.tr("Examine"),
                self.tr("Compares the new version with the original model on what was put aside."),
            ),
            "export": (self.tr("Finish"), self.tr("Writes the new version to the disk.")),
        }
        states: dict[StageState, str] = {
            "to_come": self.tr("to come"),
            "at_work": self.tr("at work"),
            "done": self.tr("done"),
            "left_out": self.tr("left out"),
        }
        for stage, row in self.rows.items():
            name, explanation = texts[stage]
            row.name.setText(name)
            row.explanation.setText(explanation)
            row.note.setText(states["left_out"] if row.state == "left_out" else "")
            row.setAccessibleName(f"{name}: {states[row.state]}")
