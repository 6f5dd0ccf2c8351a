"""How a run ended: the offer of a new version, or what went wrong and what to do."""

from __future__ import annotations

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtWidgets import QGridLayout, QWidget

from desktop_app.ui.controls import Button, Card, TextLabel
from desktop_app.ui.figures import basis, figures
from desktop_app.ui.sentences import in_our_language
from finetune.contract.events import RunFailed
from finetune.contract.manifest import Manifest


class FigureGrid(QWidget):
    """Figures, one a line: what it is and how much; above them what they compare with."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._metrics: dict[str, float] = {}
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(16)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(0, 1)

    def show_metrics(self, metrics: dict[str, float]) -> None:
        self._metrics = metrics
        while self._grid.count():
            item = self._grid.takeAt(0)
            widget = item.widget() if item is not None else None
            if widget is not None:
                widget.deleteLater()
        found = figures(metrics)
        if found:
            compared_with = TextLabel("small")
            compared_with.setText(basis(metrics))
            self._grid.addWidget(compared_with, 0, 0, 1, 2)
        for row, figure in enumerate(found, start=1):
            label, value = TextLabel("muted"), TextLabel("strong", wrap=False)
            label.setText(figure.label)
            value.setText(figure.value)
            self._grid.addWidget(label, row, 0)
            self._grid.addWidget(value, row, 1, Qt.AlignmentFlag.AlignRight)
        self.setVisible(bool(found))

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self.show_metrics(self._metrics)
        super().changeEvent(event)


class OfferCard(Card):
    """A new version waits for the person's decision.

    Signals:
        compare_requested, use_requested, later_requested.
    """

    compare_requested = Signal()
    use_requested = Signal()
    later_requested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("accent", parent)
        self._name = ""
        self._title = TextLabel("heading")
        self._sentence = TextLabel()
        self._figures = FigureGrid()
        self.compare = Button("primary")
        self.use = Button("plain")
        self.later = Button("quiet")
        self.afterwards = TextLabel("small")
        for widget in (self._title, self._sentence, self._figures):
            self.column.addWidget(widget)
        self.column.addSpacing(4)
        for button in (self.compare, self.use, self.later):
            self.column.addWidget(button)
        self.column.addWidget(self.afterwards)
        self.compare.clicked.connect(self.compare_requested)
        self.use.clicked.connect(self.use_requested)
        self.later.clicked.connect(self.later_requested)
        self._retranslate()

    def show_version(self, version: Manifest) -> None:
        self._name = version.name
        self._figures.show_metrics(dict(version.metrics))
        self._retranslate()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _retranslate(self) -> None:
        self._title.setText(self.tr("Your model has learned"))
        self._sentence.setText(
            self.tr(
                "“{0}” is ready. Compare it with your current model without knowing which is"
                " which, then decide."
            ).format(self._name)
        )
        self.compare.setText(self.tr("Compare blind"))
        self.use.setText(self.tr("Use it now"))
        self.later.setText(self.tr("Not now"))
        afterwards = self.tr("If you decide later, you find it under Versions.")
        self.afterwards.setText(afterwards)
        self.later.setAccessibleDescription(afterwards)


class FailureCard(Card):
    """A sentence, a next step, and a way to make it go away.

    Signals:
        closed.
    """

    closed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("problem", parent)
        self._failure: RunFailed | None = None
        self._can_resume = False
        self.title = TextLabel("heading")
        self.next_step = TextLabel()
        self.detail = TextLabel("small")
        self.close_button = Button("quiet")
        for widget in (self.title, self.next_step, self.detail, self.close_button):
            self.column.addWidget(widget)
        self.close_button.clicked.connect(self.closed)

    def show_failure(self, failure: RunFailed) -> None:
        self._failure = failure
        self._retranslate()

    def set_resumable(self, can_resume: bool) -> None:
        """Whether the training can go on; else nothing here may promise it."""
        self._can_resume = can_resume
        self._retranslate()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _retranslate(self) -> None:
        if self._failure is None:
            return
        same = self.tr("Your model stays as it was.")
        if self._can_resume:
            go_on = self.tr("Nothing is lost: you can resume the training where it was.")
            with_memory = self.tr("Close other programs, then resume the training.")
            with_room = self.tr(
                "Make some room, for example by removing old versions, then resume."
            )
        else:
            go_on = same
            with_memory = self.tr("Close other programs, then train again.")
            with_room = self.tr(
                "Make some room, for example by removing old versions, then train again."
            )
        texts = {
            "stopped": (self.tr("The training was stopped."), go_on),
            "not_enough_feedback": (
                self.tr("There was too little feedback to learn from."),
                self.tr("Rate, compare or correct some more answers, and train again."),
            ),
            "out_of_memory": (self.tr("The computer ran out of memory."), with_memory),
            "disk_full": (self.tr("The disk is full."), with_room),
            "diverged": (
                self.tr("The training lost its way and was ended."),
                same + " " + self.tr("More feedback makes the next training steadier."),
            ),
            "gate_failed": (
                self.tr("The new version was not better, so it is not offered."),
                same + " " + self.tr("More comparisons help most."),
            ),
            "bad_input": (self.tr("The feedback or the model could not be read."), same),
            "bug": (self.tr("The training ended unexpectedly."), go_on),
        }
        title, next_step = texts[self._failure.code]
        self.title.setText(title)
        self.next_step.setText(next_step)
        detail = in_our_language(self._failure.message)
        self.detail.setText(detail)
        # The trainer's own words about these promise that the run can go on.
        promises = self._failure.code in ("stopped", "out_of_memory", "disk_full")
        is_true = self._can_resume or not promises
        self.detail.setVisible(bool(detail) and detail != title and is_true)
        self.close_button.setText(self.tr("Close"))


class ResumeCard(Card):
    """An earlier run can go on.

    Signals:
        resume_requested, discard_requested.
    """

    resume_requested = Signal()
    discard_requested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent=parent)
        self._title = TextLabel("heading")
        self._sentence = TextLabel("muted")
        self.resume = Button("primary")
        self.discard = Button("quiet")
        for widget in (self._title, self._sentence, self.resume, self.discard):
            self.column.addWidget(widget)
        self.resume.clicked.connect(self.resume_requested)
        self.discard.clicked.connect(self.discard_requested)
        self._retranslate()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _retranslate(self) -> None:
        self._title.setText(self.tr("A training is unfinished"))
        self._sentence.setText(
            self.tr("It can go on where it was, with the feedback it began with.")
        )
        self.resume.setText(self.tr("Resume training"))
        self.discard.setText(self.tr("Discard"))
