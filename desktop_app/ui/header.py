"""The line above a conversation: its title, the model's state, the context, the privacy badge."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QEvent, QRectF, Qt, QTimer, Signal
from PySide6.QtGui import (
    QAction,
    QActionGroup,
    QColor,
    QFontMetrics,
    QPainter,
    QPaintEvent,
    QResizeEvent,
)
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QMenu, QVBoxLayout, QWidget

from desktop_app.services.conversation_context import ContextUse
from desktop_app.services.engine_service import EngineState
from desktop_app.storage.chat_store import Overflow
from desktop_app.ui.controls import Button, ElidedLabel, IconButton, TextLabel, restyle
from desktop_app.ui.theme import Theme

ROOM_FOR_WORDS: Final = (620, 480, 380)
"""Narrower than these, the words of the badge, of the panel's button, and the badge go."""
NEARLY_FULL: Final = 0.85
PATIENCE_MS: Final = 400
"""A load that takes longer can be cancelled; a button for less would only flicker."""
_MIB: Final = 1 << 20
_POLICIES: Final[tuple[Overflow, ...]] = ("drop", "summarise", "stop")


class ContextMeter(QWidget):
    """How much of what the model can see at once is used, and kept for its answer."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._use = ContextUse()
        self._makes_way = False
        theme.changed.connect(self._fit)
        self._fit()
        self.set_context(self._use)

    def set_context(self, use: ContextUse) -> None:
        """What the open conversation takes."""
        self._use = use
        self.make_way(self._makes_way)
        self._retranslate()
        self.update()

    def make_way(self, makes_way: bool) -> None:
        """Leave the room to what is needed more, or take it again."""
        self._makes_way = makes_way
        self.setVisible(self._use.total > 0 and not makes_way)

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        tokens = self._theme.tokens
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(self._theme.font(tokens.font_small))
        use = self._use
        painter.setPen(QColor(tokens.warning if use.unseen else tokens.text_muted))
        text = f"{_short(use.used)} / {_short(use.total)}"
        painter.drawText(
            self.rect().adjusted(0, 0, 0, -6),
            Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter,
            text,
        )
        bar = QRectF(0, self.height() - 5, self.width(), 4)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(tokens.surface_sunken))
        painter.drawRoundedRect(bar, 2, 2)
        total = max(1, use.total)
        share = min(1.0, use.used / total)
        # What is kept for the answer is the pale end of the bar.
        full = bar.width()
        kept = full * min(1.0, use.reserved / total)
        pale = QColor(tokens.text_muted)
        pale.setAlphaF(0.45)
        painter.setBrush(pale)
        painter.drawRoundedRect(QRectF(full - kept, bar.y(), kept, bar.height()), 2, 2)
        is_full = use.unseen > 0 or share > NEARLY_FULL
        painter.setBrush(QColor(tokens.warning if is_full else tokens.accent))
        bar.setWidth(full * share)
        if share > 0:
            painter.drawRoundedRect(bar, 2, 2)

    def _fit(self) -> None:
        metrics = QFontMetrics(self._theme.font(self._theme.tokens.font_small))
        self.setFixedSize(metrics.horizontalAdvance("88.8k / 88.8k"), metrics.height() + 9)
        self.update()

    def _retranslate(self) -> None:
        use = self._use
        text = self.tr(
            "Of {0} tokens, {1} are used, {2} are kept for the answer and {3} are free."
        ).format(f"{use.total:,}", f"{use.used:,}", f"{use.reserved:,}", f"{use.free:,}")
        if use.unseen:
            text += " " + self.tr("%n earlier message(s) no longer fit.", "", use.unseen)
        self.setToolTip(text)
        self.setAccessibleName(self.tr("Context"))
        self.setAccessibleDescription(text)


class PrivacyBadge(QWidget):
    """ "On this computer only": no word leaves the machine."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._icon = QLabel()
        self.words = TextLabel("small", wrap=False)
        row = QHBoxLayout(self)
        row.setContentsMargins(8, 2, 8, 2)
        row.setSpacing(4)
        row.addWidget(self._icon)
        row.addWidget(self.words)
        theme.changed.connect(self._redraw)
        self._redraw()
        self._retranslate()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(self._theme.tokens.surface_sunken))
        painter.drawRoundedRect(self.rect(), self.height() / 2, self.height() / 2)

    def _redraw(self) -> None:
        icon = self._theme.icon("lock", self._theme.tokens.text_muted)
        size = self._theme.icon_size * 0.8
        self._icon.setPixmap(icon.pixmap(size, self.devicePixelRatio()))

    def _retranslate(self) -> None:
        text = self.tr("On this computer only")
        self.words.setText(text)
        self.setAccessibleName(text)
        self.setToolTip(
            self.tr("Conversations, feedback and training stay here. Nothing is sent anywhere.")
        )


class ModelStatus(QWidget):
    """A few words about the model; a button where it has to be restarted or takes long to load.

    Signals:
        restart_requested.
        cancel_requested: the person does not want to wait for it.
        restart_offered(bool): the button for it came or went.
    """

    restart_requested = Signal()
    cancel_requested = Signal()
    restart_offered = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._state = EngineState("starting")
        self._version = ""
        self._words = ElidedLabel("small")
        self.restart = Button("link")
        self.restart.hide()
        self.cancel = Button("link")
        self.cancel.hide()
        self._patience = QTimer(self)
        self._patience.setSingleShot(True)
        self._patience.setInterval(PATIENCE_MS)
        self._patience.timeout.connect(self._offer_to_cancel)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self._words, 1)
        row.addWidget(self.restart)
        row.addWidget(self.cancel)
        self.restart.clicked.connect(self.restart_requested)
        self.cancel.clicked.connect(self.cancel_requested)
        self._retranslate()

    def set_state(self, state: EngineState) -> None:
        self._state = state
        if not self._is_loading():
            self._patience.stop()
            self.cancel.hide()
        elif self.cancel.isHidden() and not self._patience.isActive():
            self._patience.start()
        self._retranslate()
        self.restart.setVisible(state.status == "failed")
        self.restart_offered.emit(state.status == "failed")

    def set_version(self, name: str) -> None:
        """The name of the active model version."""
        self._version = name
        self._retranslate()

    def text(self) -> str:
        return self._words.text()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _retranslate(self) -> None:
        name = self._version or self._state.model_name
        tone = ""
        if self._state.status == "ready":
            words = self.tr("{0} · ready").format(name) if name else self.tr("Ready")
        elif self._state.status == "failed":
            words, tone = self.tr("The model is not running"), "negative"
        elif self._state.status == "checking":
            words = self.tr("Checking the model's file… {0} %").format(
                round(self._state.fraction * 100)
            )
        elif self._state.fraction > 0:
            words = self.tr("Loading the model… {0} %").format(round(self._state.fraction * 100))
        else:
            words = self.tr("Loading the model…")
        self._words.setText(words)
        self._words.setToolTip(self._memory())
        self._words.setAccessibleDescription(self._memory())
        self._words.setProperty("tone", tone)
        restyle(self._words)
        self.restart.setText(self.tr("Restart model"))
        self.cancel.setText(self.tr("Cancel"))
        self.cancel.setAccessibleName(self.tr("Stop loading the model"))

    def _is_loading(self) -> bool:
        return self._state.status in ("checking", "loading")

    def _offer_to_cancel(self) -> None:
        self.cancel.setVisible(self._is_loading())

    def _memory(self) -> str:
        """What a ready model takes, as a sum."""
        need = self._state.need
        if need is None:
            return ""
        sizes = (need.total, need.weights, need.cells, need.work + need.adapters)
        return self.tr(
            "It takes about {0} MB of memory: weights {1} + context {2} + work space {3}."
        ).format(*(f"{-(-size // _MIB):,}" for size in sizes))


class Header(QFrame):
    """Title and state on the left, context, privacy and the panel's button on the right.

    Signals:
        sidebar_toggled, panel_toggled, rename_requested, delete_requested.
        overflow_chosen(Overflow): what happens when the conversation outgrows the context.
    """

    sidebar_toggled = Signal()
    panel_toggled = Signal()
    rename_requested = Signal()
    delete_requested = Signal()
    overflow_chosen = Signal(str)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("header")
        self._theme = theme
        self._title_text = ""
        self.sidebar_button = IconButton(theme, "sidebar")
        self.title = ElidedLabel("heading")
        self.status = ModelStatus()
        self.more = IconButton(theme, "more")
        self.meter = ContextMeter(theme)
        self.badge = PrivacyBadge(theme)
        self.panel_button = IconButton(theme, "learn")
        self.panel_button.setCheckable(True)
        self.panel_button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        menu = QMenu(self)
        self._rename = menu.addAction("")
        self._delete = menu.addAction("")
        menu.addSeparator()
        self.overflow_menu = menu.addMenu("")
        group = QActionGroup(self)
        self.overflow_actions: dict[Overflow, QAction] = {}
        for policy in _POLICIES:
            action = self.overflow_menu.addAction("")
            action.setCheckable(True)
            action.setData(policy)
            group.addAction(action)
            self.overflow_actions[policy] = action
        group.triggered.connect(self._choose_overflow)
        self.more.setMenu(menu)
        self.more.setPopupMode(IconButton.ToolButtonPopupMode.InstantPopup)

        texts = QVBoxLayout()
        texts.setSpacing(0)
        texts.addWidget(self.title)
        texts.addWidget(self.status)
        row = QHBoxLayout(self)
        row.setContentsMargins(12, 8, 12, 8)
        row.setSpacing(8)
        row.addWidget(self.sidebar_button)
        row.addLayout(texts, 1)
        row.addWidget(self.more)
        row.addWidget(self.meter, 0, Qt.AlignmentFlag.AlignVCenter)
        row.addWidget(self.badge, 0, Qt.AlignmentFlag.AlignVCenter)
        row.addWidget(self.panel_button)

        self.sidebar_button.clicked.connect(self.sidebar_toggled)
        self.panel_button.clicked.connect(self.panel_toggled)
        self._rename.triggered.connect(self.rename_requested)
        self._delete.triggered.connect(self.delete_requested)
        self.status.restart_offered.connect(self._make_room)
        theme.changed.connect(self._make_room)
        self._retranslate()

    def set_title(self, title: str) -> None:
        self._title_text = title
        self.title.setText(title or self.tr("New conversation"))

    def set_overflow(self, overflow: Overflow) -> None:
        """What the open conversation does when it outgrows the context."""
        self.overflow_actions[overflow].setChecked(True)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._make_room()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _choose_overflow(self, action: QAction) -> None:
        self.overflow_chosen.emit(action.data())

    def _make_room(self) -> None:
        badge_words, button_words, badge = (
            self.width() >= width * self._theme.font_scale for width in ROOM_FOR_WORDS
        )
        self.badge.words.setVisible(badge_words)
        self.badge.setVisible(badge)
        style = Qt.ToolButtonStyle
        self.panel_button.setToolButtonStyle(
            style.ToolButtonTextBesideIcon if button_words else style.ToolButtonIconOnly
        )
        # Nothing fills the context of a model that is not running; starting it is the way on.
        self.meter.make_way(not button_words and not self.status.restart.isHidden())

    def _retranslate(self) -> None:
        self.set_title(self._title_text)
        self.sidebar_button.set_name(self.tr("Show or hide the conversations"), "Ctrl+B")
        self.more.set_name(self.tr("More about this conversation"))
        self._rename.setText(self.tr("Rename"))
        self._delete.setText(self.tr("Delete"))
        self.overflow_menu.setTitle(self.tr("When it gets too long for the model"))
        policies = {
            "drop": self.tr("Leave out the oldest messages"),
            "summarise": self.tr("Summarise the oldest messages"),
            "stop": self.tr("Stop and tell me"),
        }
        for policy, action in self.overflow_actions.items():
            action.setText(policies[policy])
        self.panel_button.setText(self.tr("Learning"))
        self.panel_button.set_name(self.tr("Show or hide the learning panel"), "Ctrl+L")


def _short(number: int) -> str:
    return f"{number / 1000:.1f}k" if number >= 1000 else str(number)
