"""Labels and buttons as Attune draws them.

Every label shows plain text, whatever is in it; every button has a name for screen readers.
How a role or kind looks is said in ``resources/styles/attune.qss``.
"""

from __future__ import annotations

from typing import Literal

from PySide6.QtCore import QSize, Qt, QTimer, Signal
from PySide6.QtGui import (
    QGuiApplication,
    QInputMethodEvent,
    QPainter,
    QPaintEvent,
    QResizeEvent,
)
from PySide6.QtWidgets import (
    QFrame,
    QLabel,
    QMessageBox,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from desktop_app.ui.theme import ICON_SIZE, Theme

TextRole = Literal["body", "muted", "small", "strong", "heading", "title", "number"]
ButtonKind = Literal["primary", "plain", "quiet", "link", "danger", "disclosure"]
"""A link is no higher than the line of text it stands in."""


class TextLabel(QLabel):
    """Plain text that wraps, in one of the type scale's roles."""

    def __init__(
        self, role: TextRole = "body", *, wrap: bool = True, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(wrap)
        self.setProperty("role", role)
        if wrap:
            policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
            policy.setHeightForWidth(True)
            self.setSizePolicy(policy)


class WritingField(QPlainTextEdit):
    """A text to write that knows of the Hangul syllable in composition, which is outside it.

    Signals:
        composition_changed: a syllable was begun, changed or given up.
        submitted: ``submit`` was called, and nothing is left in composition.
    """

    composition_changed = Signal()
    submitted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._preedit = ""
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._submit_if_composed)

    @property
    def is_composing(self) -> bool:
        """A syllable is being put together and is not part of the text yet."""
        return bool(self._preedit)

    @property
    def has_words(self) -> bool:
        """Whether there is more than spaces, in the text or in composition."""
        return self.is_composing or bool(self.toPlainText().strip())

    def submit(self) -> None:
        """The person is done: take in the last syllable, then say so."""
        self.commit_composition()
        self._soon.start(0)

    def commit_composition(self) -> None:
        """Ask the input method for the syllable, which lives outside the text until then."""
        if self.is_composing:
            QGuiApplication.inputMethod().commit()

    def inputMethodEvent(self, event: QInputMethodEvent) -> None:
        self._preedit = event.preeditString()
        super().inputMethodEvent(event)
        self.composition_changed.emit()

    def _submit_if_composed(self) -> None:
        if not self.is_composing:
            self.submitted.emit()


class ElidedLabel(QLabel):
    """One line of plain text that ends in an ellipsis where there is no room."""

    def __init__(self, role: TextRole = "body", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setProperty("role", role)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        metrics = self.fontMetrics()
        return QSize(metrics.horizontalAdvance(self.text()) + 2, metrics.height() + 2)

    def minimumSizeHint(self) -> QSize:
        return QSize(0, self.sizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        rect = self.contentsRect()
        text = self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideRight, rect.width())
        painter.setPen(self.palette().color(self.foregroundRole()))
        painter.drawText(rect, self.alignment() | Qt.TextFlag.TextSingleLine, text)


class Button(QPushButton):
    """A button with words on it."""

    def __init__(
        self, kind: ButtonKind = "plain", text: str = "", parent: QWidget | None = None
    ) -> None:
        super().__init__(text, parent)
        self.setProperty("kind", kind)
        self.setAutoDefault(False)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def set_kind(self, kind: ButtonKind) -> None:
        if self.property("kind") != kind:
            self.setProperty("kind", kind)
            restyle(self)


class IconButton(QToolButton):
    """A button with an icon; ``set_name`` gives its tooltip and its accessible name.

    Args:
        colour: the token its icon is drawn in.
        size: how large the icon is at the normal text size.
    """

    def __init__(
        self,
        theme: Theme,
        icon: str,
        *,
        colour: str = "text_muted",
        size: int = ICON_SIZE,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._theme = theme
        self._icon_name = icon
        self._colour = colour
        self._size = QSize(size, size)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # a click leaves the cursor where it is
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        theme.changed.connect(self._redraw)
        self._redraw()

    def set_icon(self, icon: str, colour: str | None = None) -> None:
        self._icon_name = icon
        self._colour = colour or self._colour
        self._redraw()

    def set_name(self, name: str, shortcut: str = "") -> None:
        """What it does, and the keys that do the same."""
        self.setAccessibleName(name)
        self.setToolTip(f"{name} ({shortcut})" if shortcut else name)

    def _redraw(self) -> None:
        colour = getattr(self._theme.tokens, self._colour)
        self.setIconSize(self._size * self._theme.font_scale)
        self.setIcon(self._theme.icon(self._icon_name, colour))


class Card(QFrame):
    """A raised rectangle with a column of things in it."""

    def __init__(self, kind: str = "card", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("kind", kind)
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(16, 14, 16, 16)
        self.column.setSpacing(8)


def restyle(widget: QWidget) -> None:
    """Look at the style sheet again after a property has changed."""
    widget.style().unpolish(widget)
    widget.style().polish(widget)
    widget.update()


def confirm(asker: QWidget, title: str, text: str, action: str, cancel: str) -> bool:
    """Ask before something that cannot be taken back."""
    box = QMessageBox(asker)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setWindowTitle(title)
    box.setText(title)
    box.setInformativeText(text)
    yes = box.addButton(action, QMessageBox.ButtonRole.DestructiveRole)
    no = box.addButton(cancel, QMessageBox.ButtonRole.RejectRole)
    box.setDefaultButton(no)
    box.setEscapeButton(no)
    box.exec()
    return box.clickedButton() is yes
