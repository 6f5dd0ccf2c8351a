"""A Markdown text that grows at its end, kept drawn in a QTextDocument.

Drawing all of it for every token is quadratic. Here, whatever can no longer change is frozen:
all blocks but the last, and all items of a top-level list but the last. Only the tail behind
them is parsed and drawn again. Inside an open code fence nothing needs parsing, so text is
merely appended. The result equals one full rendering of the whole text.
"""

from __future__ import annotations

from typing import Any, Final

from PySide6.QtGui import QTextCursor, QTextDocument

from desktop_app.ui.markdown_document import (
    CODE_HEADER,
    CODE_ID,
    CODE_PADDING,
    CodeBlock,
    DocumentWriter,
)
from desktop_app.ui.markdown_inline import TextStyle
from desktop_app.ui.markdown_parser import (
    Block,
    OpenFence,
    for_drawing,
    open_fence,
    parse,
    split_blocks,
)

_FORBIDDEN: Final = str.maketrans(
    {"\r": None, "\0": "\ufffd", "\ufdd0": "\ufffd", "\ufdd1": "\ufffd", "\ufffc": "\ufffd"}
    | {"\u2029": " "}
)
"""Characters that QTextDocument uses for its own structure."""


class StreamingDocument:
    """Draws into ``document``; whoever shows the document calls nothing else on it."""

    def __init__(self, document: QTextDocument, style: TextStyle) -> None:
        self._document = document
        self._writer = DocumentWriter(document, style)
        self._text = ""
        self._reset()

    @property
    def code_blocks(self) -> list[CodeBlock]:
        return self._writer.code_blocks

    @property
    def frozen_position(self) -> int:
        """What stands before it in the document is never drawn again."""
        return self._writer.end() if self._fence is not None else self._position

    def set_style(self, style: TextStyle) -> None:
        """For what is drawn from now on."""
        self._writer.set_style(style)

    def set_plain(self, text: str) -> None:
        """Draw a text that is no Markdown."""
        with _Editing(self._document):
            self._clear()
            self._writer.write_plain(text.translate(_FORBIDDEN))

    def set_markdown(self, text: str, *, is_complete: bool) -> None:
        """Draw another text."""
        with _Editing(self._document):
            self._clear()
            if is_complete:
                self._text = text.translate(_FORBIDDEN)
                self._draw_all()
            else:
                self._append(text)
            self._make_room_for_code()

    def append(self, text: str) -> None:
        """More text has come."""
        with _Editing(self._document):
            self._append(text)
            self._make_room_for_code()

    def finish(self) -> None:
        """No more text comes: draw the tail as it is."""
        with _Editing(self._document):
            if self._fence is None:  # its last line may be a definition
                parse(self._text[self._start :], self._references)
            if self._references:  # a definition at the end changes links anywhere before it
                self._writer.cut(0, True)
                self._draw_all()
            elif self._fence is not None:
                line = self._text[self._line_start :]
                if line and not self._fence.is_closed_by(line):
                    self._draw_code(line)
            else:
                self._draw_tail(is_final=True)
            self._make_room_for_code()

    # --- inside ---

    def _reset(self) -> None:
        self._text = ""
        self._references: dict[str, Any] = {}
        # The tail: where it begins in the text and in the document.
        self._start = 0
        self._position = 0
        self._is_fresh = True
        self._continued: Block | None = None
        self._drawn: str | None = None
        # The open code fence: its unfinished line, and how much of that is drawn.
        self._fence: OpenFence | None = None
        self._line_start = 0
        self._line_drawn: int | None = None
        self._has_code_line = False

    def _clear(self) -> None:
        self._writer.cut(0, True)
        self._reset()

    def _draw_all(self) -> None:
        for block in split_blocks(parse(self._text, {})):
            self._writer.write(block)

    def _append(self, text: str) -> None:
        text = text.translate(_FORBIDDEN)
        self._text += text
        self._advance("\n" in text)

    def _advance(self, has_new_line: bool) -> None:
        if self._fence is None and has_new_line:
            self._freeze()
        if self._fence is None:
            self._draw_tail(is_final=False)
        else:
            self._continue_fence()

    def _freeze(self) -> None:
        """Draw for good what whole lines have settled.

        The unfinished line has no say: ``#`` may become a heading or go on as ``#word``.
        """
        whole_lines = self._text[self._start : self._text.rfind("\n") + 1]
        blocks = split_blocks(parse(whole_lines, self._references), self._continued)
        if not blocks:
            return
        tail = _after_lines(whole_lines, blocks[-1].first_line)
        if len(blocks) > 1:
            self._writer.cut(self._position, self._is_fresh)
            for block in blocks[:-1]:
                self._writer.write(block)
            self._start += len(whole_lines) - len(tail)
            self._continued = blocks[-1]
            self._mark_tail()
        if blocks[-1].tokens[0].type == "fence":
            self._fence = open_fence(tail)
            if self._fence is not None:
                self._open_fence(blocks[-1])

    def _mark_tail(self) -> None:
        self._position = self._writer.end()
        self._is_fresh = self._writer.is_fresh
        self._drawn = None

    def _draw_tail(self, *, is_final: bool) -> None:
        tail = self._text[self._start :]
        if not is_final:
            tail = for_drawing(tail)
        if tail == self._drawn:
            return
        self._drawn = tail
        self._writer.cut(self._position, self._is_fresh)
        # A copy: a definition counts once its line is whole.
        for block in split_blocks(parse(tail, dict(self._references)), self._continued):
            self._writer.write(block)

    def _open_fence(self, block: Block) -> None:
        self._writer.cut(self._position, self._is_fresh)
        self._writer.write(block)
        self._has_code_line = bool(block.tokens[0].content)
        self._line_start = self._text.rfind("\n") + 1
        self._line_drawn = None

    def _continue_fence(self) -> None:
        assert self._fence is not None
        while (newline := self._text.find("\n", self._line_start)) >= 0:
            line = self._text[self._line_start : newline]
            self._line_start = newline + 1
            if self._fence.is_closed_by(line):
                self._fence = None
                self._start = self._line_start
                self._continued = None
                self._mark_tail()
                self._advance("\n" in self._text[self._start :])
                return
            self._draw_code(line)
            self._line_drawn = None
        line = self._text[self._line_start :]
        if line and not self._fence.may_be_closed_by(line):
            self._draw_code(line)

    def _draw_code(self, line: str) -> None:
        """Draw what is not yet drawn of the current line."""
        assert self._fence is not None
        code = self._fence.strip(line)
        if self._line_drawn is None:
            self._writer.append_code(code, on_new_line=self._has_code_line)
        else:
            self._writer.append_code(code[self._line_drawn :], on_new_line=False)
        self._line_drawn = len(code)
        self._has_code_line = True

    def _make_room_for_code(self) -> None:
        """The margins of the first and last block are ignored by Qt: use the page's."""
        frame = self._document.rootFrame()
        frame_format = frame.frameFormat()
        begins = self._document.begin().blockFormat().hasProperty(CODE_ID)
        ends = self._document.lastBlock().blockFormat().hasProperty(CODE_ID)
        top, bottom = CODE_HEADER * begins, CODE_PADDING * ends
        if (frame_format.topMargin(), frame_format.bottomMargin()) != (top, bottom):
            frame_format.setTopMargin(top)
            frame_format.setBottomMargin(bottom)
            frame.setFrameFormat(frame_format)


class _Editing:
    """One edit, one layout."""

    def __init__(self, document: QTextDocument) -> None:
        self._cursor = QTextCursor(document)

    def __enter__(self) -> None:
        self._cursor.beginEditBlock()

    def __exit__(self, *_: object) -> None:
        self._cursor.endEditBlock()


def _after_lines(text: str, count: int) -> str:
    return text.split("\n", count)[count]
