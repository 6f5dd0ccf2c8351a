"""A column of rows of which only those near the viewport exist as widgets.

Rows are named by keys. A row that was never shown has an estimated height, one that was has
its exact height. Heights change all the time (a text streams in, a row is measured for the
first time), and what the person reads must not move: the list holds on to its end while it is
at the end, else to the first row that is visible.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from PySide6.QtCore import QEvent, QRectF, Qt, QTimer, Signal
from PySide6.QtGui import (
    QColor,
    QFocusEvent,
    QFontMetrics,
    QKeyEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QPlainTextEdit, QSizePolicy, QWidget

from desktop_app.ui.controls import IconButton
from desktop_app.ui.message_view import KEYBOARD_REASONS
from desktop_app.ui.tab_order import tab_target
from desktop_app.ui.theme import Theme

ROWS_AROUND: Final = 4
"""Rows beyond the viewport on each side that are kept ready."""
GAP: Final = 20
EDGE: Final = 24
"""Room above the first row and below the last one."""
SIDE: Final = 16
"""Room beside the rows, at least."""
OUTSET: Final = 8
"""Rows are this much wider than their text on each side, so that buttons can align with it."""
_NEAR_END: Final = 4
_FAR_FROM_END: Final = 120
_SAMPLE: Final = "The quick brown fox jumps over the lazy dog, and the dog sleeps on. "
CHARACTERS: Final = 75
"""A comfortable line. Wider where that is less than 80 columns of code."""
CODE_WIDTH: Final = 80 * "0"
WIDE: Final = 1.8
"""How much wider a wide row may be."""
_PASSES: Final = 6


class RowWidget(QWidget):
    """What the list shows.

    Signals:
        height_changed: something in it opened, closed or grew.
    """

    height_changed = Signal()
    is_wide = False
    """Several texts side by side; may be wider than one."""

    @property
    def is_pinned(self) -> bool:
        """Whether it holds something that must not get lost when it is out of sight."""
        return False

    def arrange(self, width: int) -> int:
        """Lay out for this width; returns the height."""
        raise NotImplementedError


class _JumpButton(IconButton):
    """A round button that floats over the messages."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(theme, "arrow_down", colour="text", parent=parent)
        self.setFixedSize(36, 36)

    def paintEvent(self, event: QPaintEvent) -> None:
        tokens = self._theme.tokens
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        is_marked = self.hasFocus() or self.underMouse()
        painter.setPen(QPen(QColor(tokens.focus if is_marked else tokens.border), 1.5))
        painter.setBrush(QColor(tokens.surface_raised))
        painter.drawEllipse(QRectF(self.rect()).adjusted(1, 1, -1, -1))
        self.icon().paint(painter, self.rect().adjusted(8, 8, -8, -8))


class VirtualList(QAbstractScrollArea):
    """Shows rows by their keys.

    Args:
        make_row: makes the widget of a row, without parent.
        estimate: guesses the height of a row at a width.
    """

    def __init__(
        self,
        make_row: Callable[[str], RowWidget],
        estimate: Callable[[str, int], int],
        theme: Theme,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._make_row = make_row
        self._estimate = estimate
        self._theme = theme
        self._keys: list[str] = []
        self._index: dict[str, int] = {}
        self._heights: list[int] = []
        self._tops: list[int] = [EDGE]
        self._rows: dict[str, RowWidget] = {}
        self._stale: set[str] = set()
        self._anchor: tuple[str, int] | None = None
        self._is_following = True
        self._is_adjusting = False
        self._shows_focus = False

        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.viewport().setAutoFillBackground(False)
        self._jump = _JumpButton(theme, self)
        self._jump.clicked.connect(self.scroll_to_end)
        self._jump.hide()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._update)
        theme.changed.connect(self._on_theme_changed)
        self._retranslate()

    # --- for the owner ---

    @property
    def is_following(self) -> bool:
        """Whether the end is shown and will be when more comes."""
        return self._is_following

    def set_keys(self, keys: Sequence[str]) -> None:
        """Show these rows; rows that stay keep their widgets, heights and place."""
        known = dict(zip(self._keys, self._heights, strict=True))
        width = self._row_width(False)
        staying = set(keys)
        for key in [key for key in self._rows if key not in staying]:
            self._drop(key)
        self._keys = list(keys)
        self._index = {key: index for index, key in enumerate(self._keys)}
        self._heights = [
            known[key] if key in known else self._estimate(key, width) for key in self._keys
        ]
        self._measure()
        self._update()

    def row(self, key: str) -> RowWidget | None:
        """The widget of a row, if it exists now."""
        return self._rows.get(key)

    def rows(self) -> list[RowWidget]:
        """The widgets that exist now."""
        return list(self._rows.values())

    def row_changed(self, *keys: str) -> None:
        """Rows may need another height."""
        existing = self._rows.keys() & set(keys)
        if existing:
            self._stale |= existing
            self._update()

    def bring_row(self, key: str) -> RowWidget | None:
        """The widget of a row; where it is far from what is in sight, go there to make it."""
        if key not in self._rows:
            self.verticalScrollBar().setValue(self._tops[self._index[key]] - EDGE)
        return self._rows.get(key)

    def scroll_to_end(self) -> None:
        """Show the end and stay there."""
        self._is_following = True
        self._update()

    # --- Qt ---

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width():
            self._forget_heights()
        self._measure()  # a notice that comes in takes from the height alone
        self._update()

    def scrollContentsBy(self, dx: int, dy: int) -> None:
        if self._is_adjusting:
            return
        bar = self.verticalScrollBar()
        self._is_following = bar.value() >= bar.maximum() - _NEAR_END
        self._anchor = self._first_visible()
        self._update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Home:
            self.verticalScrollBar().setValue(0)
        elif event.key() == Qt.Key.Key_End:
            self.scroll_to_end()
        else:
            super().keyPressEvent(event)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
            self._forget_heights()
            self._soon.start(0)  # after the rows have heard of it

    def paintEvent(self, event: QPaintEvent) -> None:
        if self._shows_focus and self.hasFocus():
            painter = QPainter(self.viewport())
            painter.setPen(QPen(QColor(self._theme.tokens.focus), 2))
            painter.drawRect(self.viewport().rect().adjusted(1, 1, -1, -1))

    def focusInEvent(self, event: QFocusEvent) -> None:
        self._shows_focus = event.reason() in KEYBOARD_REASONS
        super().focusInEvent(event)
        self.viewport().update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self.viewport().update()

    def focusNextPrevChild(self, next: bool) -> bool:
        """Tab goes through the rows as they are seen, not as they were made."""
        target = tab_target(self, self._in_order(), forward=next)
        if target is None:
            return super().focusNextPrevChild(next)
        reason = Qt.FocusReason.TabFocusReason if next else Qt.FocusReason.BacktabFocusReason
        target.setFocus(reason)
        self.show_widget(target)
        return True

    def show_widget(self, widget: QWidget) -> None:
        """Scroll so that a widget inside a row is in sight."""
        if not self.viewport().isAncestorOf(widget):
            return
        top = widget.mapTo(self.viewport(), widget.rect().topLeft()).y()
        bottom = top + min(widget.height(), self.viewport().height() - 2 * EDGE)
        bar = self.verticalScrollBar()
        if top < EDGE:
            bar.setValue(bar.value() + top - EDGE)
        elif bottom > self.viewport().height() - EDGE:
            bar.setValue(bar.value() + bottom - self.viewport().height() + EDGE)

    # --- inside ---

    def _update(self) -> None:
        """Make, measure, place and drop rows until everything in sight is exact."""
        if self._is_adjusting or self.viewport().width() < 2 * SIDE + 16:
            return
        self._is_adjusting = True
        try:
            self._hold_on()
            for _ in range(_PASSES):
                if not self._measure_rows(self._wanted()):
                    break
                self._measure()
                self._hold_on()
            self._place()
        finally:
            self._is_adjusting = False

    def _wanted(self) -> list[str]:
        """Keys of the rows that should exist, from top to bottom."""
        value = self.verticalScrollBar().value()
        first = max(0, self._at(value) - ROWS_AROUND)
        last = min(len(self._keys), self._at(value + self.viewport().height()) + ROWS_AROUND + 1)
        return self._keys[first:last]

    def _measure_rows(self, keys: Sequence[str]) -> bool:
        """Make rows and ask them for their heights; whether any is different."""
        is_changed = False
        for key in keys:
            row = self._rows.get(key)
            if row is None:
                row = self._make_row(key)
                row.setParent(self.viewport())
                row.height_changed.connect(self._on_height_changed)
                self._rows[key] = row
                self._stale.add(key)
            if key in self._stale:
                self._stale.discard(key)
                width = self._row_width(row.is_wide)
                height = row.arrange(width)
                row.resize(width, height)
                if height != self._heights[self._index[key]]:
                    self._heights[self._index[key]] = height
                    is_changed = True
        return is_changed

    def _measure(self) -> None:
        """Recompute where each row begins, and the range of the scroll bar."""
        self._tops = list(accumulate((h + GAP for h in self._heights), initial=EDGE))
        page = self.viewport().height()
        bar = self.verticalScrollBar()
        was_adjusting, self._is_adjusting = self._is_adjusting, True
        bar.setRange(0, max(0, self._tops[-1] - GAP + EDGE - page))
        bar.setPageStep(page)
        bar.setSingleStep(40)
        self._is_adjusting = was_adjusting

    def _hold_on(self) -> None:
        """Put what the person looks at back to where it was."""
        bar = self.verticalScrollBar()
        if self._is_following:
            bar.setValue(bar.maximum())
        elif self._anchor is not None and self._anchor[0] in self._index:
            key, offset = self._anchor
            bar.setValue(self._tops[self._index[key]] + offset)

    def _place(self) -> None:
        wanted = set(self._wanted())
        value = self.verticalScrollBar().value()
        for key in list(self._rows):
            row = self._rows[key]
            if key in wanted or row.is_pinned or row.isAncestorOf(_focus_widget(row)):
                x = (self.viewport().width() - row.width()) // 2
                row.move(x, self._tops[self._index[key]] - value)
                row.show()
            else:
                self._drop(key)
        if not self._is_following:
            self._anchor = self._first_visible()
        bar = self.verticalScrollBar()
        self._jump.setVisible(
            not self._is_following and bar.maximum() - bar.value() > _FAR_FROM_END
        )
        if self._jump.isVisible():
            self._jump.move(
                (self.viewport().width() - self._jump.width()) // 2,
                self.viewport().height() - self._jump.height() - 12,
            )
            self._jump.raise_()

    def _drop(self, key: str) -> None:
        row = self._rows.pop(key)
        self._stale.discard(key)
        focused = row.window().focusWidget()
        if focused is not None and row.isAncestorOf(focused):
            self.setFocus()  # else Qt would look for another place for it
        row.hide()  # deleteLater alone may come after the next painting
        row.deleteLater()

    def _first_visible(self) -> tuple[str, int] | None:
        """The first row in sight, and how far its top is above the viewport's."""
        if not self._keys:
            return None
        value = self.verticalScrollBar().value()
        index = self._at(value)
        return self._keys[index], value - self._tops[index]

    def _at(self, y: int) -> int:
        """The row at a height of the whole column."""
        return max(0, min(bisect_right(self._tops, y) - 1, len(self._keys) - 1))

    def _row_width(self, is_wide: bool) -> int:
        advance = self.fontMetrics().horizontalAdvance(_SAMPLE) / len(_SAMPLE)
        code = QFontMetrics(self._theme.monospace_font()).horizontalAdvance(CODE_WIDTH)
        widest = max(advance * CHARACTERS, code) * (WIDE if is_wide else 1) + 2 * OUTSET
        return int(min(widest, self.viewport().width() - 2 * SIDE))

    def _in_order(self) -> list[RowWidget]:
        return [self._rows[key] for key in sorted(self._rows, key=self._index.__getitem__)]

    def _on_height_changed(self) -> None:
        sender = self.sender()
        for key, row in self._rows.items():
            if row is sender:
                self.row_changed(key)
                focused = row.window().focusWidget()
                # A field that is written in; a text that is only read stays where it is.
                if isinstance(focused, QPlainTextEdit) and row.isAncestorOf(focused):
                    self.show_widget(focused)
                return

    def _forget_heights(self) -> None:
        self._stale.update(self._rows)

    def _on_theme_changed(self) -> None:
        self._forget_heights()
        self._soon.start(0)  # after the rows have heard of it

    def _retranslate(self) -> None:
        self._jump.set_name(self.tr("Jump to the latest message"))
        self.setAccessibleName(self.tr("Messages"))


def _focus_widget(row: QWidget) -> QWidget:
    return row.window().focusWidget() or row.window()
