"""The model's versions: which is in use, how good they are, going back, comparing, removing."""

from __future__ import annotations

from datetime import datetime

from PySide6.QtCore import QDateTime, QEvent, QLocale, Signal
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from desktop_app.errors import UserError, sentence
from desktop_app.services.learning_service import LearningService
from desktop_app.ui.controls import Button, Card, ElidedLabel, IconButton, TextLabel, confirm
from desktop_app.ui.run_result import FigureGrid
from desktop_app.ui.theme import Theme
from finetune.contract.errors import InputError
from finetune.contract.manifest import Manifest


class VersionCard(Card):
    """One version.

    Signals:
        use_requested, compare_requested, remove_requested: each with the version's id.
    """

    use_requested = Signal(str)
    compare_requested = Signal(str)
    remove_requested = Signal(str)

    def __init__(
        self,
        theme: Theme,
        version: Manifest,
        parent_name: str | None,
        *,
        is_active: bool,
        can_change: bool,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__("accent" if is_active else "card", parent)
        self._version = version
        self._parent_name = parent_name
        self.is_active = is_active
        name = ElidedLabel("strong")
        name.setText(version.name)
        self._marker = TextLabel("small", wrap=False)
        self._marker.setProperty("tone", "accent")
        self._marker.setVisible(is_active)
        self.origin = TextLabel("small")
        figures = FigureGrid()
        figures.show_metrics(dict(version.metrics))
        self.use = Button("plain")
        self.compare = Button("quiet")
        self.remove = IconButton(theme, "trash")
        top = QHBoxLayout()
        top.addWidget(name, 1)
        top.addWidget(self._marker)
        buttons = QHBoxLayout()
        buttons.setSpacing(4)
        buttons.addWidget(self.use)
        buttons.addWidget(self.compare)
        buttons.addStretch(1)
        buttons.addWidget(self.remove)
        self.column.setSpacing(6)
        self.column.addLayout(top)
        self.column.addWidget(self.origin)
        self.column.addWidget(figures)
        if not is_active:
            self.column.addLayout(buttons)
        for button in (self.use, self.compare, self.remove):
            button.setVisible(not is_active)
            button.setEnabled(can_change)
        self.remove.setVisible(not is_active and version.parent is not None)
        version_id = version.version_id
        self.use.clicked.connect(lambda: self.use_requested.emit(version_id))
        self.compare.clicked.connect(lambda: self.compare_requested.emit(version_id))
        self.remove.clicked.connect(lambda: self.remove_requested.emit(version_id))
        self._retranslate()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _retranslate(self) -> None:
        name = self._version.name
        self._marker.setText(self.tr("in use"))
        if self._version.parent is None:
            # The date of a file that came with the program says nothing.
            self.origin.setText(self.tr("The model Attune came with"))
        else:
            origin = self.tr("Learned from a version that was removed")
            if self._parent_name is not None:
                origin = self.tr("Learned from “{0}”").format(self._parent_name)
            date = _day(self._version.created_at)
            self.origin.setText(f"{origin} · {date}" if date else origin)
        self.use.setText(self.tr("Use"))
        self.use.setAccessibleName(self.tr("Use {0}").format(name))
        self.compare.setText(self.tr("Compare blind"))
        self.compare.setAccessibleName(self.tr("Compare {0} blind").format(name))
        self.remove.set_name(self.tr("Remove {0}").format(name))
        self.setAccessibleName(f"{name}, {self.tr('in use')}" if self.is_active else name)


class VersionsPanel(QWidget):
    """All versions, newest first, with the way back on top.

    Signals:
        trial_requested(version id).
        problem(message, hint).
    """

    trial_requested = Signal(str)
    problem = Signal(str, str)

    def __init__(
        self, learning: LearningService, theme: Theme, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._learning = learning
        self._theme = theme
        self.cards: list[VersionCard] = []
        self.back = Button("primary")
        self._about = TextLabel("small")
        self._list = QVBoxLayout()
        self._list.setSpacing(12)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 12, 16, 16)
        column.setSpacing(12)
        column.addWidget(self.back)
        column.addWidget(self._about)
        column.addLayout(self._list)
        column.addStretch(1)
        self.back.clicked.connect(self._roll_back)
        learning.versions_changed.connect(self.refresh)
        learning.state_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Read the versions again."""
        for card in self.cards:
            self._list.removeWidget(card)
            card.hide()
            card.deleteLater()
        self.cards.clear()
        versions = sorted(self._learning.versions(), key=lambda v: v.created_at, reverse=True)
        names = {version.version_id: version.name for version in versions}
        active = self._learning.active_version()
        can_change = self._learning.state in ("idle", "offered")
        for version in versions:
            card = VersionCard(
                self._theme,
                version,
                names.get(version.parent or ""),
                is_active=version.version_id == active,
                can_change=can_change,
            )
            card.use_requested.connect(self._use)
            card.compare_requested.connect(self.trial_requested)
            card.remove_requested.connect(self._remove)
            self._list.addWidget(card)
            self.cards.append(card)
        is_personal = any(v.version_id == active and v.parent is not None for v in versions)
        self.back.setVisible(self._learning.can_roll_back())
        self.back.set_kind("primary" if is_personal else "plain")
        self.back.setEnabled(can_change)
        self._retranslate()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _use(self, version_id: str) -> None:
        try:
            self._learning.activate(version_id)
        except (UserError, InputError) as error:
            self.problem.emit(*sentence(error))

    def _roll_back(self) -> None:
        try:
            self._learning.roll_back()
        except (UserError, InputError) as error:
            self.problem.emit(*sentence(error))

    def _remove(self, version_id: str) -> None:
        name = next((c for c in self._learning.versions() if c.version_id == version_id), None)
        if name is None or not confirm(
            self,
            self.tr("Remove “{0}”?").format(name.name),
            self.tr("Its files are deleted from the disk. This cannot be undone."),
            self.tr("Remove"),
            self.tr("Keep"),
        ):
            return
        try:
            self._learning.remove_version(version_id)
        except (UserError, InputError) as error:
            self.problem.emit(*sentence(error))

    def _retranslate(self) -> None:
        self.back.setText(self.tr("Go back to the version before"))
        self._about.setText(self.tr("You chat with the version in use. Changing it loses nothing."))


def _day(time: str) -> str:
    """A date as the language writes it; "" where there is none."""
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return ""
    return QLocale().toString(
        QDateTime.fromSecsSinceEpoch(int(moment.timestamp())), QLocale.FormatType.ShortFormat
    )
