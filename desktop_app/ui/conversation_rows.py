"""The rows of the side bar's list, and how one of them is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from PySide6.QtCore import (
    QAbstractListModel,
    QModelIndex,
    QPersistentModelIndex,
    QRect,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import QColor, QPainter
from PySide6.QtWidgets import QStyle, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from desktop_app.ui.theme import Theme

ID_ROLE: Final = Qt.ItemDataRole.UserRole
EXCERPT_ROLE: Final = Qt.ItemDataRole.UserRole + 1

Index = QModelIndex | QPersistentModelIndex


@dataclass(frozen=True)
class Row:
    """A conversation, or a heading where ``id`` is empty."""

    id: str
    title: str
    excerpt: str = ""


class ConversationModel(QAbstractListModel):
    """Headings and conversations.

    Signals:
        renamed(id, title): the person gave another title.
    """

    renamed = Signal(str, str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._rows: list[Row] = []

    def set_rows(self, rows: list[Row]) -> None:
        if rows != self._rows:
            self.beginResetModel()
            self._rows = rows
            self.endResetModel()

    def row_of(self, conversation_id: str) -> int:
        ids = [row.id for row in self._rows]
        return ids.index(conversation_id) if conversation_id in ids else -1

    def rowCount(self, parent: Index = QModelIndex()) -> int:
        return 0 if parent.isValid() else len(self._rows)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        if not 0 <= index.row() < len(self._rows):
            return None
        row = self._rows[index.row()]
        if role in (
            Qt.ItemDataRole.DisplayRole,
            Qt.ItemDataRole.EditRole,
            Qt.ItemDataRole.AccessibleTextRole,
        ):
            return row.title
        if role == ID_ROLE:
            return row.id
        return row.excerpt if role == EXCERPT_ROLE else None

    def setData(self, index: Index, value: object, role: int = Qt.ItemDataRole.EditRole) -> bool:
        title = str(value).strip()
        row = self._rows[index.row()]
        if not title or title == row.title:
            return False
        self._rows[index.row()] = replace(row, title=title)
        self.dataChanged.emit(index, index)
        self.renamed.emit(row.id, title)
        return True

    def flags(self, index: Index) -> Qt.ItemFlag:
        if not 0 <= index.row() < len(self._rows) or not self._rows[index.row()].id:
            return Qt.ItemFlag.NoItemFlags
        item = Qt.ItemFlag
        return item.ItemIsEnabled | item.ItemIsSelectable | item.ItemIsEditable


class ConversationDelegate(QStyledItemDelegate):
    """A row: the title on one line, under it what a search found."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        tokens = self._theme.tokens
        body = option.fontMetrics.height()
        if not index.data(ID_ROLE):
            return QSize(0, body + tokens.space * 2)
        lines = 2 if index.data(EXCERPT_ROLE) else 1
        return QSize(0, body * lines + tokens.space * 2)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        tokens = self._theme.tokens
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        rect: QRect = option.rect.adjusted(8, 1, -8, -1)
        is_heading = not index.data(ID_ROLE)
        if is_heading:
            rect = rect.adjusted(0, tokens.space, 0, 0)
            painter.setFont(self._theme.font(tokens.font_small))
            painter.setPen(QColor(tokens.text_muted))
        else:
            state = option.state
            if state & QStyle.StateFlag.State_Selected:
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(QColor(tokens.accent_soft))
                painter.drawRoundedRect(rect, tokens.radius_small, tokens.radius_small)
            elif state & QStyle.StateFlag.State_MouseOver:
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(QColor(tokens.surface_sunken))
                painter.drawRoundedRect(rect, tokens.radius_small, tokens.radius_small)
            if state & QStyle.StateFlag.State_HasFocus:
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.setPen(QColor(tokens.focus))
                painter.drawRoundedRect(rect, tokens.radius_small, tokens.radius_small)
            painter.setFont(self._theme.font())
            painter.setPen(QColor(tokens.text))
        rect = rect.adjusted(10, 0, -10, 0)
        excerpt = str(index.data(EXCERPT_ROLE) or "")
        title_rect = QRect(rect)
        if excerpt:
            title_rect.setBottom(rect.center().y())
        self._line(painter, title_rect, str(index.data()))
        if excerpt:
            painter.setFont(self._theme.font(tokens.font_small))
            painter.setPen(QColor(tokens.text_muted))
            below = QRect(rect)
            below.setTop(rect.center().y() + 1)
            self._line(painter, below, excerpt)
        painter.restore()

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: Index) -> QWidget:
        editor = super().createEditor(parent, option, index)
        editor.setAccessibleName(self.tr("Title of the conversation"))
        return editor

    def _line(self, painter: QPainter, rect: QRect, text: str) -> None:
        elided = painter.fontMetrics().elidedText(
            " ".join(text.split()), Qt.TextElideMode.ElideRight, rect.width()
        )
        painter.drawText(rect, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, elided)
