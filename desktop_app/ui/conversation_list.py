"""The side bar: a new conversation, search, and the list of conversations.

The list shows conversations under the day they were last used; a search shows those whose
title or messages hold the words, with a line of what was found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Final

from PySide6.QtCore import (
    QAbstractListModel,
    QEvent,
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    QRect,
    QSize,
    Qt,
    QTimer,
    Signal,
)
from PySide6.QtGui import QColor, QFocusEvent, QKeyEvent, QPainter
from PySide6.QtWidgets import (
    QLineEdit,
    QListView,
    QMenu,
    QSizePolicy,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from desktop_app.services.chat_service import ChatService
from desktop_app.ui.controls import TextLabel
from desktop_app.ui.theme import Theme

SEARCH_DELAY_MS: Final = 150
ID_ROLE: Final = Qt.ItemDataRole.UserRole
EXCERPT_ROLE: Final = Qt.ItemDataRole.UserRole + 1

Index = QModelIndex | QPersistentModelIndex


@dataclass(frozen=True)
class _Row:
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
        self._rows: list[_Row] = []

    def set_rows(self, rows: list[_Row]) -> None:
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


class _List(QListView):
    """The list with its keys: Enter opens, F2 renames, Delete deletes.

    Signals:
        delete_pressed.
        left: the keyboard went elsewhere.
    """

    delete_pressed = Signal()
    left = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self.delete_pressed.emit()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.state() != (
            QListView.State.EditingState
        ):
            self.activated.emit(self.currentIndex())
        else:
            super().keyPressEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        if self.state() != QListView.State.EditingState:
            self.left.emit()


class ConversationList(QWidget):
    """The side bar's contents.

    Signals:
        deleted(id, title): a conversation went to the trash.
    """

    deleted = Signal(str, str)

    def __init__(self, chat: ChatService, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._chat = chat
        self._theme = theme
        self.new_button = QToolButton()
        self.new_button.setObjectName("newConversation")
        self.new_button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.new_button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.search = QLineEdit()
        self.search.setClearButtonEnabled(True)
        self._search_icon = self.search.addAction(
            theme.icon("search"), QLineEdit.ActionPosition.LeadingPosition
        )
        self.model = ConversationModel(self)
        self.view = _List()
        self.view.setModel(self.model)
        self.view.setItemDelegate(ConversationDelegate(theme, self.view))
        self.view.setVerticalScrollMode(QListView.ScrollMode.ScrollPerPixel)
        self.view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.view.setEditTriggers(QListView.EditTrigger.EditKeyPressed)
        self.view.setMouseTracking(True)
        self._nothing = TextLabel("muted")
        self._nothing.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self._nothing.hide()

        top = QVBoxLayout()
        top.setContentsMargins(12, 0, 12, 4)
        top.setSpacing(8)
        top.addWidget(self.new_button)
        top.addWidget(self.search)
        top.addWidget(self._nothing)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addLayout(top)
        column.addWidget(self.view, 1)

        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SEARCH_DELAY_MS)
        self._timer.timeout.connect(self.refresh)
        self.new_button.clicked.connect(chat.new_conversation)
        self.search.textChanged.connect(self._timer.start)
        self.search.returnPressed.connect(self._open_first)
        self.view.clicked.connect(self._open)
        self.view.activated.connect(self._open)
        self.view.delete_pressed.connect(self._delete_current)
        self.view.left.connect(self._select_open)
        self.view.customContextMenuRequested.connect(self._show_menu)
        self.model.renamed.connect(chat.rename_conversation)
        chat.conversations_changed.connect(self.refresh)
        chat.conversation_opened.connect(self._on_opened)
        theme.changed.connect(self._redraw)
        self._redraw()
        self._retranslate()
        self.refresh()

    def refresh(self) -> None:
        """Read the list, or the search, again."""
        if self.view.state() == QListView.State.EditingState:
            return
        words = self.search.text().strip()
        rows = self._found(words) if words else self._by_day()
        self.model.set_rows(rows)
        self._nothing.setVisible(bool(words) and not rows)
        self._select_open()

    def delete(self, conversation_id: str) -> None:
        """Move a conversation to the trash."""
        title = self._title_of(conversation_id)
        self._chat.delete_conversation(conversation_id)
        self.deleted.emit(conversation_id, title)

    def rename(self, conversation_id: str) -> None:
        """Let the person type another title in the list."""
        row = self.model.row_of(conversation_id)
        if row >= 0:
            self.view.setFocus()
            self.view.setCurrentIndex(self.model.index(row))
            self.view.edit(self.model.index(row))

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
            self.refresh()
        super().changeEvent(event)

    # --- inside ---

    def _by_day(self) -> list[_Row]:
        rows: list[_Row] = []
        heading = ""
        for conversation in self._chat.conversations():
            day = self._day_name(conversation.updated_at)
            if day != heading:
                heading = day
                rows.append(_Row("", day))
            rows.append(_Row(conversation.id, conversation.title or self._untitled()))
        return rows

    def _found(self, words: str) -> list[_Row]:
        titles = {c.id: c.title or self._untitled() for c in self._chat.conversations()}
        excerpts: dict[str, str] = {}
        for hit in self._chat.search(words):
            excerpts.setdefault(hit.conversation_id, hit.excerpt)
        in_title = [i for i, title in titles.items() if words.casefold() in title.casefold()]
        order = dict.fromkeys([*in_title, *excerpts])
        return [_Row(i, titles[i], excerpts.get(i, "")) for i in order if i in titles]

    def _day_name(self, time: str) -> str:
        try:
            day = datetime.fromisoformat(time).astimezone().date()
        except ValueError:
            return self.tr("Earlier")
        today = date.today()
        if day >= today:
            return self.tr("Today")
        if day == today - timedelta(days=1):
            return self.tr("Yesterday")
        if day > today - timedelta(days=7):
            return self.tr("This week")
        return self.tr("Earlier")

    def _title_of(self, conversation_id: str) -> str:
        titles = {c.id: c.title for c in self._chat.conversations()}
        return titles.get(conversation_id) or self._untitled()

    def _untitled(self) -> str:
        return self.tr("New conversation")

    def _open(self, index: QModelIndex) -> None:
        if index.data(ID_ROLE):
            self._chat.open_conversation(str(index.data(ID_ROLE)))

    def _open_first(self) -> None:
        self._timer.stop()
        self.refresh()
        if self.search.text().strip() and self.model.rowCount():
            self._open(self.model.index(0))

    def _on_opened(self, _conversation_id: str) -> None:
        self._select_open()

    def _select_open(self) -> None:
        row = self.model.row_of(self._chat.current_conversation)
        if row >= 0:
            self.view.setCurrentIndex(self.model.index(row))
        else:
            self.view.clearSelection()

    def _delete_current(self) -> None:
        conversation_id = self.view.currentIndex().data(ID_ROLE)
        if conversation_id:
            self.delete(str(conversation_id))

    def _show_menu(self, place: QPoint) -> None:
        index = self.view.indexAt(place)
        conversation_id = str(index.data(ID_ROLE) or "")
        if not conversation_id:
            return
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        rename = menu.addAction(self.tr("Rename"))
        rename.setShortcut(Qt.Key.Key_F2)
        rename.triggered.connect(lambda: self.rename(conversation_id))
        remove = menu.addAction(self.tr("Delete"))
        remove.setShortcut(Qt.Key.Key_Delete)
        remove.triggered.connect(lambda: self.delete(conversation_id))
        menu.popup(self.view.viewport().mapToGlobal(place))

    def _redraw(self) -> None:
        self.new_button.setIconSize(self._theme.icon_size)
        self.new_button.setIcon(self._theme.icon("plus"))
        self._search_icon.setIcon(self._theme.icon("search", self._theme.tokens.text_muted))
        self.view.scheduleDelayedItemsLayout()

    def _retranslate(self) -> None:
        self.new_button.setText(self.tr("New conversation"))
        self.new_button.setToolTip(f"{self.tr('New conversation')} (Ctrl+N)")
        self.search.setPlaceholderText(self.tr("Search"))
        self.search.setAccessibleName(self.tr("Search in all conversations"))
        self.view.setAccessibleName(self.tr("Conversations"))
        self._nothing.setText(self.tr("Nothing found"))
