"""A small line that grows: one figure of a running training, with its last value."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPainterPath, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from desktop_app.ui.theme import Theme

MOST_POINTS: Final = 2000
"""More than any panel has pixels; older ones are thinned out, never the newest."""
HEIGHT: Final = 76


class Curve(QWidget):
    """A title, the last value, and the line of all values so far."""

    def __init__(self, theme: Theme, digits: int = 2, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._digits = digits
        self._title = ""
        self._points: list[tuple[float, float]] = []
        self.setFixedHeight(HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self.update)

    def set_title(self, title: str) -> None:
        self._title = title
        self._describe()
        self.update()

    def add(self, x: float, y: float) -> None:
        """One more value; x grows (a resumed run may begin again further back)."""
        while self._points and self._points[-1][0] >= x:
            self._points.pop()
        self._points.append((x, y))
        if len(self._points) > MOST_POINTS:
            half = len(self._points) // 2
            self._points = self._points[:half:2] + self._points[half:]
        self._describe()
        self.update()

    def clear(self) -> None:
        self._points.clear()
        self._describe()
        self.update()

    @property
    def values(self) -> list[float]:
        return [y for _, y in self._points]

    def last_value(self) -> str:
        """As it is shown; "" before the first."""
        return f"{self._points[-1][1]:.{self._digits}f}" if self._points else ""

    def sizeHint(self) -> QSize:
        return QSize(160, HEIGHT)

    def minimumSizeHint(self) -> QSize:
        return QSize(80, HEIGHT)

    def paintEvent(self, event: QPaintEvent) -> None:
        tokens = self._theme.tokens
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(self._theme.font(tokens.font_small))
        line = painter.fontMetrics().height()
        top = QRectF(0, 0, self.width(), line)
        painter.setPen(QColor(tokens.text_muted))
        painter.drawText(top, Qt.AlignmentFlag.AlignLeft, self._title)
        painter.setFont(self._theme.font(tokens.font_small, bold=True))
        painter.setPen(QColor(tokens.text))
        painter.drawText(top, Qt.AlignmentFlag.AlignRight, self.last_value())
        plot = QRectF(1, line + 6, self.width() - 8, self.height() - line - 12)
        painter.setPen(QPen(QColor(tokens.border), 1))
        painter.drawLine(plot.bottomLeft(), plot.bottomRight() + QPointF(6, 0))
        places = self._places(plot)
        if not places:
            return
        path = QPainterPath(places[0])
        for place in places[1:]:
            path.lineTo(place)
        filled = QPainterPath(path)
        filled.lineTo(places[-1].x(), plot.bottom())
        filled.lineTo(places[0].x(), plot.bottom())
        soft = QColor(tokens.accent)
        soft.setAlpha(28)
        painter.fillPath(filled, soft)
        painter.setPen(QPen(QColor(tokens.accent), 1.6))
        painter.drawPath(path)
        painter.setBrush(QColor(tokens.accent))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.drawEllipse(places[-1], 3, 3)

    def _places(self, plot: QRectF) -> list[QPointF]:
        """Points on the widget; a single value or a flat line lies in the middle."""
        if not self._points:
            return []
        xs = [x for x, _ in self._points]
        ys = self.values
        width, height = max(xs) - min(xs), max(ys) - min(ys)
        return [
            QPointF(
                plot.left() + plot.width() * ((x - min(xs)) / width if width else 1.0),
                plot.bottom() - plot.height() * ((y - min(ys)) / height if height else 0.5),
            )
            for x, y in self._points
        ]

    def _describe(self) -> None:
        self.setAccessibleName(f"{self._title} {self.last_value()}".strip())
