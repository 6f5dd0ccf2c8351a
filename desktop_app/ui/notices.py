"""Things worth telling without stopping anybody: a small stack of cards above the composer.

A notice has a key; showing the same key again replaces it, so that ten failures in a row are
one card. Problems stay until they are closed or solved, the rest leaves by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from PySide6.QtCore import QEvent, QTimer, Signal
from PySide6.QtGui import QAccessible, QAccessibleAnnouncementEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from desktop_app.ui.controls import Button, IconButton, TextLabel, TextRole
from desktop_app.ui.theme import Theme

Kind = Literal["info", "success", "problem"]
MOST_AT_ONCE: Final = 2
_SECONDS: Final[dict[Kind, float]] = {"info": 8.0, "success": 8.0, "problem": 0.0}
_ICONS: Final[dict[Kind, tuple[str, str]]] = {
    "info": ("info", "text_muted"),
    "success": ("check", "positive"),
    "problem": ("warning", "negative"),
}


@dataclass(frozen=True)
class Action:
    """A button of a notice; the notice closes when it is pressed."""

    label: str
    run: Callable[[], None]


class Notice(QFrame):
    """One card: an icon, a sentence, a hint, buttons, and a cross.

    Signals:
        closed(key): it was closed, used, or its time is over.
    """

    closed = Signal(str)

    def __init__(
        self,
        theme: Theme,
        key: str,
        kind: Kind,
        message: str,
        hint: str,
        actions: Sequence[Action],
    ) -> None:
        super().__init__()
        self._theme = theme
        self._key = key
        self._kind: Kind = kind
        self._has_actions = bool(actions)
        self.setProperty("kind", "problem" if kind == "problem" else "notice")
        self.setAccessibleName(f"{message} {hint}".strip())
        self._icon = QLabel()
        texts = QVBoxLayout()
        texts.setSpacing(2)
        for text, role in _lines(message, hint):
            label = TextLabel(role)
            label.setText(text)
            texts.addWidget(label)
        row = QHBoxLayout(self)
        row.setContentsMargins(12, 8, 8, 8)
        row.setSpacing(8)
        row.addWidget(self._icon)
        row.addLayout(texts, 1)
        buttons = QHBoxLayout()
        for action in actions:
            button = Button("quiet", action.label)
            button.clicked.connect(self._leave)
            button.clicked.connect(action.run)
            buttons.addWidget(button)
        if hint:  # under the words, which want the width
            buttons.addStretch(1)
            texts.addLayout(buttons)
        else:
            row.addLayout(buttons)
        self._cross = IconButton(theme, "close")
        self._cross.clicked.connect(self._leave)
        row.addWidget(self._cross)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._leave_unless_in_use)
        theme.changed.connect(self._redraw)
        self._redraw()
        self._retranslate()

    @property
    def weight(self) -> int:
        """How much it would be missed: most of all a problem with a way on."""
        return 0 if self._kind != "problem" else 1 + self._has_actions

    def leave_after(self, seconds: float) -> None:
        self._timer.start(int(seconds * 1000))

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _leave(self) -> None:
        self.closed.emit(self._key)

    def _leave_unless_in_use(self) -> None:
        focused = self.window().focusWidget()
        if self.underMouse() or (focused is not None and self.isAncestorOf(focused)):
            self.leave_after(2.0)
        else:
            self._leave()

    def _redraw(self) -> None:
        name, colour = _ICONS[self._kind]
        icon = self._theme.icon(name, getattr(self._theme.tokens, colour))
        self._icon.setPixmap(icon.pixmap(self._theme.icon_size, self.devicePixelRatio()))

    def _retranslate(self) -> None:
        self._cross.set_name(self.tr("Close this notice"))


class NoticeArea(QWidget):
    """The stack; the newest at the bottom, next to where the person looks."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._notices: dict[str, Notice] = {}
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(8)

    def show_notice(
        self,
        key: str,
        message: str,
        hint: str = "",
        kind: Kind = "info",
        actions: Sequence[Action] = (),
        seconds: float | None = None,
    ) -> None:
        """Show a card for a while (0: until it is closed), instead of the one of this key."""
        self.dismiss(key)
        while len(self._notices) >= MOST_AT_ONCE:
            # The oldest of those that are missed least.
            self.dismiss(min(self._notices, key=lambda shown: self._notices[shown].weight))
        notice = Notice(self._theme, key, kind, message, hint, actions)
        notice.closed.connect(self.dismiss)
        self._notices[key] = notice
        self._column.addWidget(notice)
        shown_for = _SECONDS[kind] if seconds is None else seconds
        if shown_for:
            notice.leave_after(shown_for)
        QAccessible.updateAccessibility(
            QAccessibleAnnouncementEvent(notice, notice.accessibleName())
        )

    def dismiss(self, key: str) -> None:
        """Take a notice away, if it is there."""
        notice = self._notices.pop(key, None)
        if notice is not None:
            notice.hide()
            notice.deleteLater()

    def keys(self) -> list[str]:
        """What is shown now, oldest first."""
        return list(self._notices)

    def notice(self, key: str) -> Notice | None:
        return self._notices.get(key)


def _lines(message: str, hint: str) -> list[tuple[str, TextRole]]:
    return [(message, "body"), (hint, "small")] if hint else [(message, "body")]
