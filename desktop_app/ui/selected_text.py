"""A selection of a drawn message as text: with its numbers, bullets, boxes and columns.

What marks an item or parts two cells is painted, not written, so Qt would leave it out.
"""

from __future__ import annotations

from PySide6.QtGui import QTextBlock, QTextCursor, QTextTable

from desktop_app.ui.markdown_document import BULLET, CODE_ID, TASK
from desktop_app.ui.markdown_parser import BREAK


def selected_text(cursor: QTextCursor) -> str:
    """The text between anchor and position, block by block."""
    table = cursor.currentFrame()
    if cursor.hasComplexSelection() and isinstance(table, QTextTable):
        return _selected_cells(table, cursor)
    start, end = cursor.selectionStart(), cursor.selectionEnd()
    text, indent = "", _least_indent(cursor)
    block = cursor.document().findBlock(start)
    while block.isValid() and block.position() <= end:
        if block.position() > start:
            text += "\t" if _is_same_row(block.previous(), block) else "\n"
        if start <= block.position() < end:
            text += _indent(block)[indent:] + _marker(block)
        part = QTextCursor(block)
        part.setPosition(max(start, block.position()))
        last = min(end, block.position() + block.length() - 1)
        part.setPosition(last, QTextCursor.MoveMode.KeepAnchor)
        text += part.selectedText()
        block = block.next()
    return _as_written(text)


def _selected_cells(table: QTextTable, cursor: QTextCursor) -> str:
    """A rectangle of a table: Qt selects whole cells there."""
    corners = table.cellAt(cursor.anchor()), table.cellAt(cursor.position())
    top, bottom = sorted(cell.row() for cell in corners)
    left, right = sorted(cell.column() for cell in corners)
    lines = []
    for row in range(top, bottom + 1):
        cells = []
        for column in range(left, right + 1):
            cell = table.cellAt(row, column)
            part = cell.firstCursorPosition()
            last = cell.lastCursorPosition().position()
            part.setPosition(last, QTextCursor.MoveMode.KeepAnchor)
            cells.append(part.selectedText())
        lines.append("\t".join(cells))
    return _as_written("\n".join(lines))


def _as_written(text: str) -> str:
    """Without what the drawing has put into it."""
    return text.replace(BREAK, "").replace("\u2028", "\n")


def _indent(block: QTextBlock) -> str:
    """What stands before a part of an item: four spaces are inside of "- " and "10. " alike.

    Lines of code are copied as they are.
    """
    block_format = block.blockFormat()
    if block_format.hasProperty(CODE_ID):
        return ""
    return "    " * (block_format.indent() - (_marker(block) != ""))


def _least_indent(cursor: QTextCursor) -> int:
    """Characters that stand before every selected block: they tell nothing."""
    start, end = cursor.selectionStart(), cursor.selectionEnd()
    block = cursor.document().findBlock(start)
    least = len(_indent(block))
    while (block := block.next()).isValid() and block.position() < end:
        if not block.blockFormat().hasProperty(CODE_ID):
            least = min(least, len(_indent(block)))
    return least


def _marker(block: QTextBlock) -> str:
    """What stands before the text of an item."""
    numbered, block_format = block.textList(), block.blockFormat()
    if block_format.hasProperty(TASK):
        return "- [x] " if block_format.property(TASK) else "- [ ] "
    if block_format.hasProperty(BULLET):
        return "- "
    return f"{numbered.itemText(block)} " if numbered is not None else ""


def _is_same_row(before: QTextBlock, block: QTextBlock) -> bool:
    """Whether both are cells of one table row."""
    table = QTextCursor(block).currentFrame()
    if not isinstance(table, QTextTable):
        return False
    cell = table.cellAt(before.position())
    return cell.isValid() and cell.row() == table.cellAt(block.position()).row()
