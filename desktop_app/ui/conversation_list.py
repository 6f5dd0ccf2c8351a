"""The side bar: a new conversation, search, and the list of conversations.

The list shows conversations under the day they were last used; a search shows those whose
title or messages hold the words, with a line of what was found.
"""

from __future__ import annotations

import sys
from datetime import date, datetime, timedelta
from typing import Final

from PySide6.QtCore import QEvent, QModelIndex, QPoint, Qt, QTimer, Signal
from PySide6.QtGui import QFocusEvent, QKeyEvent
from PySide6.QtWidgets import (
    QLineEdit,
    QListView,
    QMenu,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from desktop_app.services.chat_service import ChatService
from desktop_app.ui.controls import TextLabel
from desktop_app.ui.conversation_rows import ID_ROLE, ConversationDelegate, ConversationModel, Row
from desktop_app.ui.theme import Theme

SEARCH_DELAY_MS: Final = 150
_IS_MAC: Final = sys.platform == "darwin"
_DELETE_KEYS: Final = (Qt.Key.Key_Delete, Qt.Key.Key_Backspace if _IS_MAC else Qt.Key.Key_Delete)
"""A Mac's key for deleting is elsewhere the one that corrects what was typed."""


class _List(QListView):
    """The list with its keys: Enter opens, F2 renames, Delete deletes.

    Signals:
        delete_pressed.
        left: the keyboard went elsewhere.
    """

    delete_pressed = Signal()
    left = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in _DELETE_KEYS:
            if not event.isAutoRepeat():  # a key held down must not empty the list
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
        current = str(self.view.currentIndex().data(ID_ROLE) or "")
        self.model.set_rows(rows)
        self._nothing.setVisible(bool(words) and not rows)
        if self.view.hasFocus() and current and self.model.row_of(current) >= 0:
            # The next key is meant for the row the person has gone to.
            self.view.setCurrentIndex(self.model.index(self.model.row_of(current)))
        else:
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

    def _by_day(self) -> list[Row]:
        rows: list[Row] = []
        heading = ""
        for conversation in self._chat.conversations():
            day = self._day_name(conversation.updated_at)
            if day != heading:
                heading = day
                rows.append(Row("", day))
            rows.append(Row(conversation.id, conversation.title or self._untitled()))
        return rows

    def _found(self, words: str) -> list[Row]:
        titles = {c.id: c.title or self._untitled() for c in self._chat.conversations()}
        excerpts: dict[str, str] = {}
        for hit in self._chat.search(words):
            excerpts.setdefault(hit.conversation_id, hit.excerpt)
        in_title = [i for i, title in titles.items() if words.casefold() in title.casefold()]
        order = dict.fromkeys([*in_title, *excerpts])
        return [Row(i, titles[i], excerpts.get(i, "")) for i in order if i in titles]

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
