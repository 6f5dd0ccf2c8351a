"""Drawing a growing text piece by piece gives what drawing it at once gives."""

from __future__ import annotations

import random
import time

import pytest
from PySide6.QtGui import QColor, QFont, QTextBlock, QTextCursor, QTextDocument

from desktop_app.ui.markdown_document import (
    BULLET,
    CODE_HEADER,
    CODE_ID,
    CODE_LANGUAGE,
    QUOTE_BARS,
    RULE,
    TASK,
)
from desktop_app.ui.markdown_inline import TextStyle
from desktop_app.ui.streaming_document import StreamingDocument
from tests.desktop_app.ui.markdown_samples import AWKWARD, EVERYTHING, KOREAN, SAMPLES

pytestmark = pytest.mark.usefixtures("qapp")
Line = tuple[object, ...]


def new_document() -> tuple[QTextDocument, StreamingDocument]:
    document = QTextDocument()
    document.setUndoRedoEnabled(False)
    document.setDocumentMargin(0)
    document.setTextWidth(600)
    grey = QColor("#888888")
    style = TextStyle(QFont("Sans", 10), QFont("Mono", 10), grey, grey, grey, grey, grey)
    return document, StreamingDocument(document, style)


def drawn_at_once(text: str) -> QTextDocument:
    document, streaming = new_document()
    streaming.set_markdown(text, is_complete=True)
    return document


def streamed(text: str, seed: int) -> QTextDocument:
    document, streaming = new_document()
    lengths = random.Random(seed)
    start = 0
    while start < len(text):
        length = lengths.choice([1, 1, 2, 3, 5, 20])
        streaming.append(text[start : start + length])
        start += length
    streaming.finish()
    return document


def describe(document: QTextDocument) -> list[Line]:
    """Everything that is seen, block by block."""
    lines = []
    block = document.begin()
    while block.isValid():
        block_format, numbered = block.blockFormat(), block.textList()
        table = QTextCursor(block).currentTable()
        lines.append(
            (
                block.text(),
                block_format.indent(),
                block_format.leftMargin(),
                block_format.topMargin(),
                block_format.headingLevel(),
                bool(block_format.intProperty(CODE_ID)),
                *(block_format.property(p) for p in (CODE_LANGUAGE, QUOTE_BARS, RULE)),
                *(block_format.property(p) for p in (BULLET, TASK)),
                numbered.format().start() if numbered is not None else None,
                table.format().bottomMargin() if table is not None else None,
                describe_text(block),
            )
        )
        block = block.next()
    return lines


def describe_text(block: QTextBlock) -> list[Line]:
    pieces = []
    iterator = block.begin()
    while not iterator.atEnd():
        fragment = iterator.fragment()
        text = fragment.charFormat()
        pieces.append(
            (
                fragment.text(),
                text.fontWeight(),
                text.fontItalic(),
                text.fontStrikeOut(),
                text.fontFixedPitch(),
                text.anchorHref(),
            )
        )
        iterator += 1
    return pieces


def bold_texts(document: QTextDocument) -> list[str]:
    found = []
    block = document.begin()
    while block.isValid():
        pieces = describe_text(block)
        found += [str(p[0]) for p in pieces if p[1] == QFont.Weight.Bold.value]
        block = block.next()
    return found


@pytest.mark.parametrize("name", SAMPLES)
def test_a_streamed_text_ends_as_one_full_rendering(name: str) -> None:
    expected = describe(drawn_at_once(SAMPLES[name]))
    for seed in range(12):
        assert describe(streamed(SAMPLES[name], seed)) == expected


def test_mixtures_of_blocks_end_as_one_full_rendering() -> None:
    pieces = (EVERYTHING + KOREAN + AWKWARD).split("\n")
    for seed in range(40):
        text = "\n".join(random.Random(seed).choices(pieces, k=14))
        assert describe(streamed(text, seed)) == describe(drawn_at_once(text)), text


@pytest.mark.parametrize(
    ("text", "bold"),
    [
        ("**한국어(Korean)**은 쉽다", "한국어(Korean)"),
        ('그는 **"따옴표"**는 했다', '"따옴표"'),
        ("**LoRA(저랭크 적응)**를 쓴다", "LoRA(저랭크 적응)"),
        ("이것은**'인용'**이다", "'인용'"),
        ("**중요!**합니다", "중요!"),
        ("plain **bold.** tail", "bold."),
    ],
)
def test_bold_works_beside_korean(text: str, bold: str) -> None:
    assert bold_texts(drawn_at_once(text)) == [bold]


@pytest.mark.parametrize("text", ["snake_case_name", "2 * 3 * 4", "한국어_이름_변수"])
def test_other_marks_stay_as_they_are(text: str) -> None:
    document = drawn_at_once(text)
    assert document.toPlainText() == text


def test_a_definition_in_the_last_line_counts() -> None:
    text = "See [the page][1].\n\nMore.\n\n[1]: https://a.example"
    assert describe(streamed(text, 1)) == describe(drawn_at_once(text))


def test_a_date_is_no_list() -> None:
    text = (
        "2024. 3. 15. 회의\n\n- 할 일\n\n  2024. 3. 16. 발표\n\n"
        "1. 하나\n\n2024. 3. 17. 끝\n\n2025. no date"
    )
    lines = [line[0] for line in describe(drawn_at_once(text))]
    assert lines == [
        "2024. 3. 15. 회의",
        "할 일",
        "2024. 3. 16. 발표",
        "하나",
        "2024. 3. 17. 끝",
        "no date",
    ]
    document, streaming = new_document()
    for letter in "2024. 3. 15. 회의":
        streaming.append(letter)
        assert document.begin().textList() is None


def test_a_task_with_a_number_keeps_both() -> None:
    lines = describe(drawn_at_once("1. [x] Done"))
    assert [line[0] for line in lines] == ["[x] Done"]


def test_what_is_nested_too_deep_is_shown_plainly() -> None:
    assert drawn_at_once(">" * 45 + " hello").toPlainText() == ">>>>> hello"
    deep_list = "\n".join("  " * depth + f"- item {depth}" for depth in range(40))
    text = drawn_at_once(deep_list + "\n\nthe end").toPlainText()
    assert [f"item {depth}" in text for depth in range(40)] == [True] * 40
    assert text.endswith("the end")


def test_an_unfinished_mark_is_drawn_as_it_will_be() -> None:
    document, streaming = new_document()
    streaming.append("This is **very impor")
    assert document.toPlainText() == "This is very impor"
    streaming.append("tant** indeed")
    streaming.finish()
    assert document.toPlainText() == "This is very important indeed"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The unfinished line has no say.
        ("first paragraph\n\nsecond paragraph\n\nthird", len("first paragraph")),
        # An empty block before the table, and four cells of two characters each.
        ("| a | b |\n|---|---|\n| 1 | 2 |\n\nbehind it\nand on", 1 + 4 * 2),
    ],
    ids=["prose", "table"],
)
def test_what_was_frozen_is_not_drawn_again(text: str, expected: int) -> None:
    document, streaming = new_document()
    streaming.append(text)
    frozen = streaming.frozen_position
    assert frozen == expected
    changes: list[int] = []
    document.documentLayout()  # without one a document tells nobody
    document.contentsChange.connect(lambda start, _cut, _more: changes.append(start))
    streaming.append(" goes on")
    assert min(changes) >= frozen - 1  # Qt tells a block's format with the character before it


TABLE = "| a | b |\n|---|---|\n| 1 | 2 |\n\n"
CODE = "```python\nx = 1\n```\n\n"


def indented(text: str) -> str:
    return "\n".join("   " + line if line else "" for line in text.split("\n"))


@pytest.mark.parametrize(
    "text",
    [
        TABLE + CODE,
        "1. one\n\n" + indented(TABLE + CODE),
        "> " + (TABLE + CODE).replace("\n", "\n> "),
        TABLE + "# Heading\n\n" + TABLE + TABLE + CODE + TABLE + "end",
    ],
    ids=["page", "item", "quote", "several"],
)
def test_a_code_panel_stands_clear_of_the_table_before_it(text: str) -> None:
    document = drawn_at_once(text)
    layout = document.documentLayout()
    checked = 0
    block = document.begin()
    while block.next().isValid():
        is_cell = QTextCursor(block).currentTable() is not None
        cell_padding = layout.blockBoundingRect(block).bottom() + 7
        block = block.next()
        if is_cell and block.blockFormat().hasProperty(CODE_ID):
            panel = layout.blockBoundingRect(block).top() - CODE_HEADER
            assert panel >= cell_padding + 4
            checked += 1
    assert checked == 1
    for seed in range(4):
        assert describe(streamed(text, seed)) == describe(document)


@pytest.mark.parametrize(
    "text",
    [
        "```python\n" + "value = compute(1, 'text')  # a note\n" * 400,
        "A paragraph of some words, and *more* of them.\n\n" * 300,
        "".join(f"{n}. An item of a long list\n   - and its part\n" for n in range(250)),
    ],
    ids=["code", "prose", "list"],
)
def test_a_long_text_costs_as_much_per_token_at_its_end_as_at_its_beginning(text: str) -> None:
    document, streaming = new_document()
    costs = []
    for start in range(0, len(text), 6):
        began = time.process_time()
        streaming.append(text[start : start + 6])
        document.size()
        costs.append(time.process_time() - began)
    tenth = len(costs) // 10
    assert sum(costs[-tenth:]) <= 3 * sum(costs[:tenth])
    assert describe(drawn_at_once(text)) == describe(document)
