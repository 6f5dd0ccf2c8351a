"""The text of one message: drawn Markdown that can be selected, copied and followed.

A ``QTextBrowser`` without scroll bars: its height is that of its text, and whoever holds it
scrolls. Nothing a model writes is ever loaded or interpreted: no HTML, no pictures, and a
link opens only after a question that shows where it leads. The raw text stays the truth for
copying. How text becomes a document is left to ``streaming_document``.
"""

from __future__ import annotations

import math
import time
from typing import Final

from PySide6.QtCore import QEvent, QMimeData, QRectF, QSize, Qt, QTimer, QUrl, Signal
from PySide6.QtGui import (
    QColor,
    QContextMenuEvent,
    QFocusEvent,
    QGuiApplication,
    QKeyEvent,
    QKeySequence,
    QPainter,
    QPaintEvent,
    QPalette,
    QPen,
    QTextCursor,
    QTextDocument,
    QTextOption,
    QWheelEvent,
)
from PySide6.QtWidgets import QFrame, QTextBrowser, QToolButton, QWidget

from desktop_app.ui.code_highlighter import CodeHighlighter
from desktop_app.ui.link_question import LinkQuestion
from desktop_app.ui.markdown_document import CODE_HEADER, CODE_ID
from desktop_app.ui.markdown_inline import TextStyle, is_safe_link
from desktop_app.ui.markdown_parser import BREAK
from desktop_app.ui.message_decorations import is_code_line, paint_decorations
from desktop_app.ui.selected_text import selected_text
from desktop_app.ui.streaming_document import StreamingDocument
from desktop_app.ui.theme import Theme

_REST_FACTOR: Final = 3
"""Drawing may take a quarter of the time, whatever a message looks like."""
_COPIED_MS: Final = 1_500
KEYBOARD_REASONS: Final = (
    Qt.FocusReason.TabFocusReason,
    Qt.FocusReason.BacktabFocusReason,
    Qt.FocusReason.ShortcutFocusReason,
)
"""Somebody who uses the keyboard wants to see where it goes."""
_CARET_KEYS: Final = (
    Qt.Key.Key_Left,
    Qt.Key.Key_Right,
    Qt.Key.Key_Up,
    Qt.Key.Key_Down,
    Qt.Key.Key_Home,
    Qt.Key.Key_End,
)


class MessageView(QTextBrowser):
    """Shows one message.

    Attributes:
        raw: the text as it was written, which copying gives.

    Signals:
        height_changed: drawing has changed the height.
    """

    height_changed = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.raw = ""
        self._theme = theme
        self._is_plain = False
        self._is_complete = True
        self._unseen = ""
        self._resting_until = 0.0
        self._width = 0
        self._shrinks = False
        self._shows_focus = False
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self._show_unseen)
        self._copy_buttons: list[QToolButton] = []

        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.setLineWrapMode(QTextBrowser.LineWrapMode.FixedPixelWidth)
        self.setOpenLinks(False)
        self.setUndoRedoEnabled(False)
        self.setTabChangesFocus(True)
        self.viewport().setAutoFillBackground(False)
        # A document of our own: Python's wrapper of the one that Qt makes dies with the wrapper
        # of an earlier view, where Qt has used the same address again.
        document = QTextDocument(self)
        document.setDocumentMargin(0)
        self.setDocument(document)
        self.anchorClicked.connect(self._ask_to_open)
        self._streaming = StreamingDocument(self.document(), self._text_style())
        self._highlighter: CodeHighlighter | None = None
        self._dress()
        theme.changed.connect(self._on_theme_changed)

    # --- text ---

    def set_plain(self, text: str) -> None:
        """Show a text as it was typed."""
        self.raw, self._is_plain, self._is_complete = text, True, True
        self._streaming.set_plain(text)
        self._after_drawing()

    def set_markdown(self, text: str, *, is_complete: bool = True) -> None:
        """Show another text; where it is not complete, ``append_text`` may follow."""
        self.raw, self._is_plain, self._is_complete = text, False, is_complete
        self._unseen = ""
        self._later.stop()
        self._streaming.set_markdown(text, is_complete=is_complete)
        self._after_drawing()

    def append_text(self, text: str) -> None:
        """More of the message has come."""
        self.raw += text
        self._unseen += text
        if not self._later.isActive():
            wait = self._resting_until - time.monotonic()
            if wait <= 0:
                self._show_unseen()
            else:
                self._later.start(math.ceil(wait * 1000))

    def finish(self) -> None:
        """The message is complete."""
        self._later.stop()
        self._show_unseen()
        if not self._is_complete:
            self._is_complete = True
            selection = self._selection(0)
            self._streaming.finish()
            self._select(selection)
            self._after_drawing()

    def copy_all(self) -> None:
        """Put the raw text on the clipboard."""
        QGuiApplication.clipboard().setText(self.raw)

    # --- size ---

    def fit(self, width: int, *, shrink: bool = False) -> int:
        """Take this width (less, with ``shrink``, where the text is short) and its height."""
        self._width, self._shrinks = width, shrink
        document = self.document()
        # The widget lays its document out by this number, never by its own (later) size.
        if self.lineWrapColumnOrWidth() != width:
            self.setLineWrapColumnOrWidth(width)
        if shrink:
            width = min(width, max(math.ceil(document.idealWidth()) + 1, 16))
            self.setLineWrapColumnOrWidth(width)
        height = math.ceil(document.size().height())
        if self.size() != QSize(width, height):
            self.setFixedSize(width, height)
        self._place_copy_buttons()
        return height

    # --- Qt ---

    def loadResource(self, type: int, name: QUrl | str) -> object:
        """Nothing a message names is ever loaded."""
        return None

    def wheelEvent(self, event: QWheelEvent) -> None:
        event.ignore()  # the conversation scrolls

    def keyPressEvent(self, event: QKeyEvent) -> None:
        is_selecting = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        if (
            event.matches(QKeySequence.StandardKey.Copy)
            or event.matches(QKeySequence.StandardKey.SelectAll)
            or (is_selecting and event.key() in _CARET_KEYS)
            or event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        ):
            super().keyPressEvent(event)
        else:
            event.ignore()  # the conversation scrolls

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        menu = self.createStandardContextMenu(event.pos())
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addSeparator()
        menu.addAction(self.tr("Copy the whole message")).triggered.connect(self.copy_all)
        menu.popup(event.globalPos())

    def createMimeDataFromSelection(self) -> QMimeData:
        cursor = self.textCursor()
        last = self.document().characterCount() - 1
        is_all = (cursor.selectionStart(), cursor.selectionEnd()) == (0, last)
        data = QMimeData()
        data.setText(self.raw if is_all else selected_text(cursor))
        return data

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.LanguageChange:
            for button in self._copy_buttons:
                self._name_copy_button(button)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self.viewport())
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        first = self.cursorForPosition(event.rect().topLeft()).block()
        paint_decorations(painter, self.document(), first, QRectF(event.rect()), self._theme)
        if self._shows_focus and self.hasFocus():
            painter.setPen(QPen(QColor(self._theme.tokens.focus), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(self.viewport().rect()).adjusted(1, 1, -1, -1), 4, 4)
        painter.end()
        super().paintEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        self._shows_focus = event.reason() in KEYBOARD_REASONS
        super().focusInEvent(event)

    # --- drawing ---

    def _show_unseen(self) -> None:
        if not self._unseen:
            return
        text, self._unseen = self._unseen, ""
        began = time.monotonic()
        if self._is_complete:  # what was drawn as an end is none: draw it anew
            self._is_complete = False
            selection = self._selection(0)
            self._streaming.set_markdown(self.raw, is_complete=False)
        else:
            selection = self._selection(self._streaming.frozen_position)
            self._streaming.append(text)
        self._select(selection)
        self._after_drawing()
        ended = time.monotonic()
        self._resting_until = ended + (ended - began) * _REST_FACTOR

    def _after_drawing(self) -> None:
        if self._streaming.code_blocks and self._highlighter is None:
            self._highlighter = CodeHighlighter(self.document(), is_dark=self._theme.is_dark)
        if self._width:
            height = self.height()
            if self.fit(self._width, shrink=self._shrinks) != height:
                self.height_changed.emit()

    def _selection(self, drawn_again_from: int) -> tuple[int, int] | None:
        """Anchor and position where a selection reaches into what will be drawn again."""
        cursor = self.textCursor()
        if not cursor.hasSelection() or cursor.selectionEnd() <= drawn_again_from:
            return None
        return cursor.anchor(), cursor.position()

    def _select(self, selection: tuple[int, int] | None) -> None:
        if selection is None:
            return
        end = self.document().characterCount() - 1
        cursor = self.textCursor()
        cursor.setPosition(min(selection[0], end))
        cursor.setPosition(min(selection[1], end), QTextCursor.MoveMode.KeepAnchor)
        self.setTextCursor(cursor)

    def _on_theme_changed(self) -> None:
        self._dress()
        self._streaming.set_style(self._text_style())
        if self._highlighter is not None:
            self._highlighter.set_dark(self._theme.is_dark)
        if self._is_plain:
            self.set_plain(self.raw)
        else:
            self.set_markdown(self.raw, is_complete=self._is_complete)

    def _dress(self) -> None:
        palette = self.palette()
        palette.setColor(QPalette.ColorRole.Base, Qt.GlobalColor.transparent)
        palette.setColor(QPalette.ColorRole.Text, QColor(self._theme.tokens.text))
        self.setPalette(palette)
        self.setFont(self._theme.font())
        for button in self._copy_buttons:
            self._dress_copy_button(button)

    def _text_style(self) -> TextStyle:
        tokens = self._theme.tokens
        return TextStyle(
            body=self._theme.font(),
            code=self._theme.monospace_font(),
            muted=QColor(tokens.text_muted),
            link=QColor(tokens.accent),
            code_background=QColor(tokens.surface_sunken),
            border=QColor(tokens.border),
            header_background=QColor(tokens.code_background),
        )

    # --- copy buttons of code ---

    def _place_copy_buttons(self) -> None:
        codes = self._streaming.code_blocks
        while len(self._copy_buttons) < len(codes):
            self._copy_buttons.append(self._make_copy_button())
        layout = self.document().documentLayout()
        for index, button in enumerate(self._copy_buttons):
            if index >= len(codes):
                button.hide()
                continue
            block = self.document().findBlock(codes[index].position)
            top = layout.blockBoundingRect(block).top() - CODE_HEADER
            x = self.width() - button.width() - 4
            button.move(x, round(top + (CODE_HEADER - button.height()) / 2) + 1)
            button.show()

    def _make_copy_button(self) -> QToolButton:
        button = QToolButton(self.viewport())
        button.setCursor(Qt.CursorShape.ArrowCursor)
        button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        button.setIconSize(QSize(14, 14))
        button.clicked.connect(self._copy_code)
        self._name_copy_button(button)
        self._dress_copy_button(button)
        return button

    def _name_copy_button(self, button: QToolButton) -> None:
        button.setText(self.tr("Copy"))
        button.setAccessibleName(self.tr("Copy this code"))
        button.adjustSize()

    def _dress_copy_button(self, button: QToolButton) -> None:
        tokens = self._theme.tokens
        button.setIcon(self._theme.icon("copy", tokens.text_muted))
        button.setFont(self._theme.font(tokens.font_small))
        button.adjustSize()

    def _copy_code(self) -> None:
        button = self.sender()
        assert isinstance(button, QToolButton)
        code = self._streaming.code_blocks[self._copy_buttons.index(button)]
        QGuiApplication.clipboard().setText(self.code_text(code.position))
        button.setText(self.tr("Copied"))
        button.setIcon(self._theme.icon("check", self._theme.tokens.positive))
        QTimer.singleShot(_COPIED_MS, button, self._forget_copied)

    def _forget_copied(self) -> None:
        for button in self._copy_buttons:
            self._name_copy_button(button)
            self._dress_copy_button(button)

    def code_text(self, position: int) -> str:
        """The code block that begins at ``position`` of the document."""
        block = self.document().findBlock(position)
        code_id = block.blockFormat().intProperty(CODE_ID)
        lines = []
        while is_code_line(block, code_id):
            lines.append(block.text().replace(BREAK, ""))
            block = block.next()
        return "\n".join(lines)

    # --- links ---

    def _ask_to_open(self, url: QUrl) -> None:
        if is_safe_link(url):
            LinkQuestion(url, self.window()).open()
