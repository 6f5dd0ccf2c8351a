"""markdown-it tokens to a QTextDocument, by cursor and formats.

Why not ``QTextDocument.setMarkdown``: it reads HTML, cannot be corrected for Korean, and can
only replace a whole document. What a text cursor cannot draw (the panel behind a code block,
the bar beside a quotation, a rule) is only marked here with block properties, and painted by
``message_view``.

Spacing: a block's distance is its *top* margin, so it does not change when more follows; only
a table keeps the room of what stands right behind it, whose own margin Qt ignores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markdown_it.tree import SyntaxTreeNode
from PySide6.QtCore import Qt
from PySide6.QtGui import (
    QBrush,
    QFont,
    QFontMetricsF,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextDocument,
    QTextFormat,
    QTextFrameFormat,
    QTextLength,
    QTextListFormat,
    QTextTable,
    QTextTableCellFormat,
    QTextTableFormat,
)

from desktop_app.ui.markdown_inline import InlineWriter, TextStyle
from desktop_app.ui.markdown_parser import Block, is_task

CODE_ID: Final = QTextFormat.Property.UserProperty.value + 1
"""On each line of a code block: a number that its lines share."""
QUOTE_BARS: Final = QTextFormat.Property.UserProperty.value + 2
"""On each block of a quotation: where its bars stand, one for each level."""
RULE: Final = QTextFormat.Property.UserProperty.value + 3
"""On the empty block of a horizontal rule."""
BULLET: Final = QTextFormat.Property.UserProperty.value + 4
"""On the first block of an item without a number: 1, 2, 3 by depth."""
TASK: Final = QTextFormat.Property.UserProperty.value + 5
"""On the first block of a task: whether it is done."""
CODE_LANGUAGE: Final = QTextFormat.Property.BlockCodeLanguage.value

QUOTE_INDENT: Final = 16
CODE_PADDING: Final = 12
CODE_HEADER: Final = 32
_CELL_LINE_HEIGHT: Final = (120, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
_LINE_HEIGHT: Final = (140, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
_HEADING_SCALE: Final = {1: 1.45, 2: 1.28, 3: 1.14, 4: 1.05}


@dataclass(frozen=True)
class CodeBlock:
    """A block of code: the number on its lines, where it begins, its language or ""."""

    id: int
    position: int
    language: str


@dataclass(frozen=True)
class _Place:
    """Where blocks are written: how far indented, in which quotations, beside wide numbers."""

    indent: int = 0
    bars: tuple[int, ...] = ()
    beyond: int = 0

    @property
    def left(self) -> int:
        return len(self.bars) * QUOTE_INDENT + self.beyond

    def in_item(self, beyond: int) -> _Place:
        """In an item whose number needs so much more room than the indent has."""
        return _Place(self.indent + 1, self.bars, self.beyond + beyond)

    def in_quote(self, indent_width: int) -> _Place:
        bar = self.indent * indent_width + self.left + 2
        return _Place(self.indent, (*self.bars, bar), self.beyond)


class DocumentWriter:
    """Writes blocks at the end of a document.

    Attributes:
        is_fresh: the last block of the document is empty and waits to be used.
        code_blocks: those of the document, from top to bottom.
    """

    def __init__(self, document: QTextDocument, style: TextStyle) -> None:
        self._document = document
        self._cursor = QTextCursor(document)
        self._last_code_id = 0
        self.is_fresh = True
        self.code_blocks: list[CodeBlock] = []
        self._tables: list[tuple[int, QTextTable]] = []
        self.set_style(style)

    def set_style(self, style: TextStyle) -> None:
        """For what is written from now on."""
        self._style = style
        self._text = InlineWriter(style)
        self._indent_width = math.ceil(self._number_width(99))
        self._document.setIndentWidth(self._indent_width)

    def cut(self, position: int, is_fresh: bool) -> None:
        """Remove everything from ``position`` on; ``is_fresh`` is as it was there."""
        cursor = self._cursor
        cursor.setPosition(position)
        # An empty block that text is removed behind would take over that text's format.
        needs_support = not is_fresh and cursor.block().length() == 1
        if needs_support:
            cursor.insertText("x")
        cursor.movePosition(QTextCursor.MoveOperation.End, QTextCursor.MoveMode.KeepAnchor)
        cursor.removeSelectedText()
        if needs_support:
            cursor.deletePreviousChar()
        self.code_blocks = [code for code in self.code_blocks if code.position < position]
        self._tables = [table for table in self._tables if table[0] < position]
        self.is_fresh = is_fresh

    def end(self) -> int:
        """The position after the last character."""
        return self._document.characterCount() - 1

    def write(self, block: Block) -> None:
        """Write one block, or one item of a list."""
        self._cursor.movePosition(QTextCursor.MoveOperation.End)
        node = SyntaxTreeNode(block.tokens)
        if block.is_item:
            gap = self._em(0.75) if block.is_first_item else self._em(0.4)
            self._write_item(node.children[0], _Place(), gap, block.number)
        else:
            for child in node.children:
                self._write_block(child, _Place(), self._em(0.75))

    def write_plain(self, text: str) -> None:
        """Write a text as it is."""
        self._cursor.movePosition(QTextCursor.MoveOperation.End)
        for line in text.split("\n"):
            self._new_block(_Place(), 0)
            self._text.write_plain(self._cursor, line)

    def append_code(self, text: str, *, on_new_line: bool) -> None:
        """More of the code block that the document ends with; ``text`` has no newline."""
        self._cursor.movePosition(QTextCursor.MoveOperation.End)
        if on_new_line:
            block_format = QTextBlockFormat(self._cursor.blockFormat())
            block_format.setTopMargin(0)
            self._cursor.insertBlock(block_format)
            self._text.begin_block()
        self._text.write_code(self._cursor, text)

    # --- blocks ---

    def _write_blocks(self, nodes: Sequence[SyntaxTreeNode], place: _Place, gap: float) -> None:
        for node in nodes:
            self._write_block(node, place, gap)
            gap = self._em(0.55)

    def _write_block(self, node: SyntaxTreeNode, place: _Place, gap: float) -> None:
        match node.type:
            case "paragraph":
                self._new_block(place, gap)
                self._write_inline(node, self._base_format(place))
            case "heading":
                self._write_heading(node, place, gap)
            case "bullet_list" | "ordered_list":
                self._write_list(node, place, gap)
            case "blockquote":
                self._write_blocks(node.children, place.in_quote(self._indent_width), gap)
            case "fence" | "code_block":
                self._write_code(node, place, gap)
            case "table":
                self._write_table(node, place, gap)
            case "hr":
                self._new_block(place, gap)
                self._set_property(RULE, True)
            case _:  # nothing of Markdown comes here; never lose text
                self._new_block(place, gap)
                self._text.write_plain(self._cursor, node.content)

    def _write_heading(self, node: SyntaxTreeNode, place: _Place, gap: float) -> None:
        level = int(node.tag[1])
        self._new_block(place, max(gap, self._em(1.15 if level < 3 else 0.95)), level)
        text = self._base_format(place)
        text.setFontWeight(QFont.Weight.DemiBold)
        text.setFontPointSize(self._style.size * _HEADING_SCALE.get(level, 1.0))
        self._write_inline(node, text)

    def _write_list(self, node: SyntaxTreeNode, place: _Place, gap: float) -> None:
        number = int(node.attrs.get("start", 1)) if node.type == "ordered_list" else None
        for item in node.children:
            self._write_item(item, place, min(gap, self._em(0.4)), number)
            number = None if number is None else number + 1

    def _write_item(
        self, item: SyntaxTreeNode, outside: _Place, gap: float, number: int | None
    ) -> None:
        """An item is a list of its own: so one can be frozen while the next is written."""
        children = list(item.children)
        width = 0 if number is None else math.ceil(self._number_width(number))
        place = outside.in_item(max(0, width - self._indent_width))
        self._new_block(place, gap)
        if number is None:
            self._set_property(BULLET, min(place.indent, 3))
        else:
            marker = QTextListFormat()
            marker.setIndent(0)
            marker.setStyle(QTextListFormat.Style.ListDecimal)
            marker.setStart(number)
            self._cursor.createList(marker)
        if children and children[0].type == "paragraph":
            paragraph = children.pop(0)
            self._write_inline(paragraph, self._base_format(place), may_be_task=number is None)
        elif children and children[0].type == "heading":
            text = self._base_format(place)
            text.setFontWeight(QFont.Weight.DemiBold)
            self._write_inline(children.pop(0), text)
        self._write_blocks(children, place, self._em(0.4))

    def _write_code(self, node: SyntaxTreeNode, place: _Place, gap: float) -> None:
        self._last_code_id += 1
        language = node.info.strip().split(" ")[0][:40]
        block_format = self._new_block(place, gap + CODE_HEADER)
        block_format.setProperty(CODE_ID, self._last_code_id)
        block_format.setProperty(CODE_LANGUAGE, language)
        block_format.setLeftMargin(place.left + CODE_PADDING)
        block_format.setRightMargin(CODE_PADDING)
        block_format.setLineHeight(125, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
        self._cursor.setBlockFormat(block_format)
        self.code_blocks.append(CodeBlock(self._last_code_id, self._cursor.position(), language))
        content = node.content.removesuffix("\n")
        for index, line in enumerate(content.split("\n")):
            self.append_code(line, on_new_line=index > 0)

    def _write_table(self, node: SyntaxTreeNode, place: _Place, gap: float) -> None:
        rows = [row for part in node.children for row in part.children]
        columns = len(rows[0].children)
        table_format = QTextTableFormat()
        table_format.setBorder(1)
        table_format.setBorderCollapse(True)
        table_format.setBorderBrush(QBrush(self._style.border))
        table_format.setBorderStyle(QTextFrameFormat.BorderStyle.BorderStyle_Solid)
        table_format.setCellPadding(7)
        table_format.setCellSpacing(0)
        table_format.setTopMargin(gap)
        table_format.setBottomMargin(self._em(0.75))
        table_format.setLeftMargin(place.left + place.indent * self._indent_width)
        table_format.setHeaderRowCount(1)
        table_format.setColumnWidthConstraints(
            [QTextLength(QTextLength.Type.VariableLength, 0)] * columns
        )
        if not self.is_fresh:
            self._cursor.insertBlock(QTextBlockFormat(), QTextCharFormat())
        else:
            self._keep_from_table(gap)
            self._cursor.setBlockFormat(QTextBlockFormat())
        position = self._cursor.position()
        table = self._cursor.insertTable(len(rows), columns, table_format)
        self._tables.append((position, table))
        for row_index, row in enumerate(rows):
            for column, cell_node in enumerate(row.children):
                cell = table.cellAt(row_index, column)
                text = self._base_format(place)
                if row_index == 0:
                    text.setFontWeight(QFont.Weight.DemiBold)
                    shade = QTextTableCellFormat()
                    shade.setBackground(self._style.header_background)
                    cell.setFormat(shade)
                self._cursor = cell.firstCursorPosition()
                block_format = QTextBlockFormat()
                block_format.setLineHeight(*_CELL_LINE_HEIGHT)
                block_format.setAlignment(_alignment(cell_node))
                self._cursor.setBlockFormat(block_format)
                self._text.begin_block()
                self._write_inline(cell_node, text)
        self._cursor = QTextCursor(self._document)
        self._cursor.movePosition(QTextCursor.MoveOperation.End)
        self.is_fresh = True

    def _new_block(self, place: _Place, gap: float, heading: int = 0) -> QTextBlockFormat:
        """Begin a block; its format is returned to be added to."""
        block_format = QTextBlockFormat()
        block_format.setIndent(place.indent)
        block_format.setLeftMargin(place.left)
        block_format.setLineHeight(*_LINE_HEIGHT)
        block_format.setHeadingLevel(heading)
        if place.bars:
            block_format.setProperty(QUOTE_BARS, list(place.bars))
        if self._cursor.blockFormat().hasProperty(CODE_ID) and not self.is_fresh:
            gap += CODE_PADDING
        block_format.setTopMargin(gap)
        if self.is_fresh:
            self._keep_from_table(gap)
            self._cursor.setBlockFormat(block_format)
            self._cursor.setBlockCharFormat(QTextCharFormat())
        else:
            self._cursor.insertBlock(block_format, QTextCharFormat())
        self.is_fresh = False
        self._text.begin_block()
        return block_format

    def _keep_from_table(self, gap: float) -> None:
        """Qt ignores the top margin of what stands right behind a table: the table keeps it."""
        if not self._tables:
            return
        table = self._tables[-1][1]  # a cursor cannot tell: frames are out of date in an edit
        table_format, wanted = table.format(), max(gap, self._em(0.75))
        if table_format.bottomMargin() != wanted:  # else the whole table would count as changed
            table_format.setBottomMargin(wanted)
            table.setFormat(table_format)

    def _set_property(self, key: int, value: object) -> None:
        more = QTextBlockFormat()
        more.setProperty(key, value)
        self._cursor.mergeBlockFormat(more)

    def _write_inline(
        self, node: SyntaxTreeNode, base: QTextCharFormat, *, may_be_task: bool = False
    ) -> None:
        for inline in node.children:
            tokens = list((inline.token.children if inline.token is not None else None) or [])
            if may_be_task and tokens and (task := is_task(tokens[0].content)) is not None:
                self._set_property(TASK, task[0])
                tokens[0] = tokens[0].copy(content=tokens[0].content[task[1] :])
            self._text.write(self._cursor, tokens, base)

    def _base_format(self, place: _Place) -> QTextCharFormat:
        text = QTextCharFormat()
        if place.bars:
            text.setForeground(self._style.muted)
        return text

    def _number_width(self, number: int) -> float:
        """What an item's number takes: Qt leaves a space between it and the text."""
        return QFontMetricsF(self._style.body).horizontalAdvance(f"{number}. ")

    def _em(self, factor: float) -> float:
        return round(self._style.size * 1.35 * factor)


def _alignment(cell: SyntaxTreeNode) -> Qt.AlignmentFlag:
    style = str(cell.attrs.get("style", ""))
    if "right" in style:
        return Qt.AlignmentFlag.AlignRight
    return Qt.AlignmentFlag.AlignHCenter if "center" in style else Qt.AlignmentFlag.AlignLeft
