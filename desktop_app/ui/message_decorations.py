"""What stands behind and beside a message's text: code panels, bars, bullets, rules.

A text cursor cannot draw these; ``markdown_document`` marks the blocks, and this paints the
ones that are exposed, between the page and the text.
"""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QPainter,
    QPen,
    QTextBlock,
    QTextBlockFormat,
    QTextDocument,
)

from desktop_app.ui.markdown_document import (
    BULLET,
    CODE_HEADER,
    CODE_ID,
    CODE_LANGUAGE,
    CODE_PADDING,
    QUOTE_BARS,
    RULE,
    TASK,
)
from desktop_app.ui.theme import Theme

_BEYOND: Final = 10 * CODE_HEADER
"""How far a panel reaches out of sight where its own end is not in sight."""


def paint_decorations(
    painter: QPainter, document: QTextDocument, first: QTextBlock, exposed: QRectF, theme: Theme
) -> None:
    """Paint around the blocks from ``first``, the first exposed one, to the last."""
    _Decorations(painter, document, exposed, theme).paint(first)


def is_code_line(block: QTextBlock, code_id: int) -> bool:
    """Whether a block is a line of this code block."""
    return block.isValid() and block.blockFormat().intProperty(CODE_ID) == code_id


class _Decorations:
    def __init__(
        self, painter: QPainter, document: QTextDocument, exposed: QRectF, theme: Theme
    ) -> None:
        self._painter = painter
        self._document = document
        self._exposed = exposed
        self._theme = theme
        self._right = document.textWidth()

    def paint(self, block: QTextBlock) -> None:
        for _ in range(3):  # a panel's head stands above its first line
            if block.previous().isValid():
                block = block.previous()
        while block.isValid():
            rect = self._rect(block)
            if rect.top() - CODE_HEADER - CODE_PADDING > self._exposed.bottom():
                break
            block_format = block.blockFormat()
            if block_format.hasProperty(CODE_ID):
                block = self._paint_code(block)
                continue
            if block_format.hasProperty(QUOTE_BARS):
                self._paint_bars(block, rect)
            if block_format.hasProperty(RULE):
                y = rect.center().y()
                self._painter.setPen(QColor(self._theme.tokens.border))
                self._painter.drawLine(QPointF(0, y), QPointF(self._right, y))
            if block_format.hasProperty(BULLET):
                self._paint_marker(block, rect)
            block = block.next()

    def _paint_code(self, block: QTextBlock) -> QTextBlock:
        """Paint the panel of the code that ``block`` belongs to; returns the block behind it."""
        tokens, painter = self._theme.tokens, self._painter
        code_id = block.blockFormat().intProperty(CODE_ID)
        left = self._left_of(block.blockFormat()) - CODE_PADDING
        is_first = not is_code_line(block.previous(), code_id)
        top = self._rect(block).top() - CODE_HEADER - (0 if is_first else _BEYOND)
        last = block
        while is_code_line(last.next(), code_id):
            last = last.next()
            if self._rect(last).top() > self._exposed.bottom() + _BEYOND:
                break
        bottom = self._rect(last).bottom() + CODE_PADDING
        panel = QRectF(left, top, self._right - left, bottom - top).adjusted(0.5, 0.5, -0.5, -0.5)
        painter.setPen(QColor(tokens.border))
        painter.setBrush(QColor(tokens.code_background))
        painter.drawRoundedRect(panel, tokens.radius_small, tokens.radius_small)
        language = str(block.blockFormat().property(CODE_LANGUAGE) or "")
        if is_first and language:
            painter.setFont(self._theme.font(tokens.font_small))
            painter.setPen(QColor(tokens.text_muted))
            label = QRectF(panel.left() + CODE_PADDING, panel.top(), panel.width(), CODE_HEADER)
            painter.drawText(label, Qt.AlignmentFlag.AlignVCenter, language)
        return last.next()

    def _paint_bars(self, block: QTextBlock, rect: QRectF) -> None:
        following = block.next()
        next_bars = following.blockFormat().property(QUOTE_BARS) or []
        self._painter.setPen(Qt.PenStyle.NoPen)
        self._painter.setBrush(QColor(self._theme.tokens.border))
        for x in block.blockFormat().property(QUOTE_BARS):
            # One line through all blocks of the quotation.
            bottom = self._rect(following).top() if x in next_bars else rect.bottom()
            self._painter.drawRect(QRectF(x, rect.top(), 3, bottom - rect.top()))

    def _paint_marker(self, block: QTextBlock, rect: QRectF) -> None:
        """The bullet of a list item, or the box of a task."""
        block_format, line = block.blockFormat(), block.layout().lineAt(0)
        height = QFontMetricsF(self._document.defaultFont()).xHeight()
        middle = rect.top() + line.y() + line.ascent() - height / 2
        x = self._left_of(block_format) - self._document.indentWidth() / 2
        centre = QPointF(x, middle)
        task = block_format.property(TASK)
        if task is not None:
            self._paint_task(centre, bool(task))
            return
        painter, colour = self._painter, QColor(self._theme.tokens.text_muted)
        size = height * 0.27
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        match block_format.intProperty(BULLET):
            case 1:
                painter.drawEllipse(centre, size, size)
            case 2:
                painter.setPen(QPen(colour, 1.2))
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.drawEllipse(centre, size, size)
            case _:
                painter.drawRect(QRectF(centre.x() - size, centre.y() - size, 2 * size, 2 * size))

    def _paint_task(self, centre: QPointF, is_done: bool) -> None:
        tokens, painter = self._theme.tokens, self._painter
        colour = tokens.accent if is_done else tokens.text_muted
        box = QRectF(centre.x() - 7, centre.y() - 7, 14, 14)
        painter.setPen(QPen(QColor(colour), 1.4))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(box, 3, 3)
        if is_done:
            self._theme.icon("check", colour).paint(painter, box.toRect())

    def _rect(self, block: QTextBlock) -> QRectF:
        return self._document.documentLayout().blockBoundingRect(block)

    def _left_of(self, block_format: QTextBlockFormat) -> float:
        return block_format.leftMargin() + block_format.indent() * self._document.indentWidth()
