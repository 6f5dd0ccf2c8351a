"""Markdown text to markdown-it tokens, the way a chat wants it. No Qt here.

CommonMark with tables and strike-through; HTML stays text; emphasis works beside Hangul and
other scripts without spaces; and what streams in is split into blocks that can no longer
change and a tail that can. Drawing is left to ``markdown_document``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markdown_it import MarkdownIt
from markdown_it.parser_block import ParserBlock
from markdown_it.parser_inline import ParserInline
from markdown_it.rules_block import StateBlock, list_block
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.state_inline import Scanned
from markdown_it.token import Token

LONGEST_WORD: Final = 5_000
"""Layout time is quadratic in the length of a word; beyond this it is cut."""
BREAK: Final = "\u200b"
"""Where a long word may be cut: a space without width."""

_FENCE = re.compile(r"^( {0,3})(`{3,}(?=[^`]*$)|~{3,})")
_TASK = re.compile(r"^\[([ xX])\] +")
_DATE = re.compile(r"\d{4}\. ?(?:\d{1,2}\.|\d{0,2}\s*$)")
"""``2024. 3. 15.`` or what can become it: a Korean date, not the item of a list."""
_UNFINISHED_UNDERLINE = re.compile(r"\n {0,3}(?:-+|=+) *$")
_UNFINISHED_FENCE = re.compile(r"(?:^|\n) {0,3}`{1,2}$")
_EMPTY_ITEM = re.compile(r"\n *(?:[-*+]|\d{1,9}[.)]?) *$")
_MARKS: Final = ("**", "~~", "*")


class _ChatStateInline(StateInline):
    """Emphasis beside scripts that are written without spaces.

    CommonMark wants a space or punctuation outside ``**`` where there is punctuation inside,
    so ``**한국어(Korean)**은`` would not be bold. As proposed in commonmark-spec #839, a
    neighbour of such a script counts as well.
    """

    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:
        scanned = super().scanDelims(start, canSplitWord)
        if not canSplitWord:  # "_" never works inside words
            return scanned
        end = start + scanned.length
        before = self.src[start - 1] if start > 0 else " "
        after = self.src[end] if end < self.posMax else " "
        if _is_unspaced(before) and _is_punctuation(after):
            return Scanned(True, scanned.can_close, scanned.length)
        if _is_unspaced(after) and _is_punctuation(before):
            return Scanned(scanned.can_open, True, scanned.length)
        return scanned


class _ChatParserInline(ParserInline):
    def parse(
        self, src: str, md: MarkdownIt, env: MutableMapping[str, Any], tokens: list[Token]
    ) -> list[Token]:
        state = _ChatStateInline(src, md, env, tokens)
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)
        return state.tokens


class _ChatParserBlock(ParserBlock):
    """What is nested too deep to be taken apart is a paragraph; it would be dropped."""

    def tokenize(self, state: StateBlock, startLine: int, endLine: int) -> None:
        line = state.skipEmptyLines(startLine)
        is_too_deep = state.level >= state.md.options.maxNesting
        if not is_too_deep or line >= endLine or state.sCount[line] < state.blkIndent:
            super().tokenize(state, startLine, endLine)
            return
        state.push("paragraph_open", "p", 1).map = [line, endLine]
        inline = state.push("inline", "", 0)
        inline.content = state.getLines(line, endLine, state.blkIndent, False).strip()
        inline.map, inline.children = [line, endLine], []
        state.push("paragraph_close", "p", -1)
        state.line = endLine


def _list_without_dates(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    return not _is_date(state, start) and list_block(state, start, end, silent)


def _date_ends_list(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    return silent and _is_date(state, start)


def _is_date(state: StateBlock, line: int) -> bool:
    begin = state.bMarks[line] + state.tShift[line]
    return _DATE.match(state.src[begin : state.eMarks[line]]) is not None


def _make_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 40})
    parser.enable(["table", "strikethrough"])
    block = _ChatParserBlock()
    block.ruler.enableOnly(parser.block.ruler.get_active_rules())
    block.ruler.at("list", _list_without_dates, {"alt": ["paragraph", "reference", "blockquote"]})
    block.ruler.before("list", "date", _date_ends_list, {"alt": ["list"]})
    parser.block = block
    inline = _ChatParserInline()
    inline.ruler.enableOnly(parser.inline.ruler.get_active_rules())
    inline.ruler2.enableOnly(parser.inline.ruler2.get_active_rules())
    parser.inline = inline
    return parser


_PARSER: Final = _make_parser()


def parse(text: str, references: dict[str, Any]) -> list[Token]:
    """Tokens of a text. Link definitions are read from and added to ``references``."""
    env = {"references": references}
    return _PARSER.parse(text, env)


@dataclass(frozen=True)
class Block:
    """A piece of the text that stands for itself: a block, or an item of a top-level list.

    Attributes:
        first_line: where it begins, from the beginning of the parsed text.
        is_item: the tokens are those of a list item.
        is_first_item: the first of its list.
        number: of an item of an ordered list, else None.
    """

    tokens: Sequence[Token]
    first_line: int
    is_item: bool = False
    is_first_item: bool = False
    number: int | None = None


def split_blocks(tokens: Sequence[Token], continued: Block | None = None) -> list[Block]:
    """Cut a document into blocks.

    Args:
        continued: the block that the text begins with, as it was in the whole text. An item
            keeps its place and number: Markdown counts items, whatever their own number.
    """
    blocks: list[Block] = []
    start, depth = 0, 0
    in_list, is_first, number = False, False, None
    for index, token in enumerate(tokens):
        if depth == 0 and token.type in ("ordered_list_open", "bullet_list_open"):
            in_list, is_first = True, True
            number = int(token.attrs.get("start", 1)) if token.tag == "ol" else None
            if not blocks and continued is not None and continued.is_item:
                is_first, number = continued.is_first_item, continued.number
            start = index + 1
        elif depth == 0 and token.type in ("ordered_list_close", "bullet_list_close"):
            in_list, start = False, index + 1
        else:
            depth += token.nesting
            if depth == 0:
                piece = tokens[start : index + 1]
                first_line = piece[0].map[0] if piece[0].map else 0
                blocks.append(
                    Block(piece, first_line, True, is_first, number)
                    if in_list
                    else Block(piece, first_line)
                )
                is_first, number = False, None if number is None else number + 1
                start = index + 1
    return blocks


@dataclass(frozen=True)
class OpenFence:
    """A code block that has begun at the left margin and not ended."""

    indent: int
    marker: str

    def is_closed_by(self, line: str) -> bool:
        """Whether a whole line ends the block."""
        stripped = line.lstrip(" ")
        return (
            len(line) - len(stripped) <= 3
            and stripped.startswith(self.marker)
            and not stripped.strip().strip(self.marker[0])
        )

    def may_be_closed_by(self, line: str) -> bool:
        """Whether an unfinished line can still become the end of the block."""
        stripped = line.lstrip(" ")
        return len(line) - len(stripped) <= 3 and not stripped.strip(self.marker[0] + " ")

    def strip(self, line: str) -> str:
        """Take off the indentation of the opening line."""
        spaces = len(line) - len(line.lstrip(" "))
        return line[min(self.indent, spaces) :]


def open_fence(text: str) -> OpenFence | None:
    """The code block that ``text``, which is one block, leaves open."""
    first, newline, rest = text.partition("\n")
    match = _FENCE.match(first)
    if match is None or not newline:
        return None
    fence = OpenFence(len(match[1]), match[2])
    if any(fence.is_closed_by(line) for line in rest.split("\n")):
        return None
    return fence


def is_task(text: str) -> tuple[bool, int] | None:
    """For ``[x] text``: whether it is done, and where the text begins."""
    match = _TASK.match(text)
    return None if match is None else (match[1] != " ", match.end())


def break_long_words(text: str, run: int = 0) -> tuple[str, int]:
    """Give the layout places to cut words of thousands of characters.

    Args:
        run: how many characters without a space stand right before ``text``.

    Returns:
        The text with breaks, and the run at its end.
    """
    pieces = []
    start = 0
    while run + len(text) - start >= LONGEST_WORD:
        end = start + LONGEST_WORD - run
        space = max((text.rfind(space, start, end) for space in " \n\t"), default=-1)
        if space >= 0:
            start_of_rest, piece = space + 1, text[start : space + 1]
        else:
            start_of_rest, piece = end, text[start:end] + BREAK
        pieces.append(piece)
        start, run = start_of_rest, 0
    rest = text[start:]
    pieces.append(rest)
    space = max(rest.rfind(space) for space in " \n\t")
    run = run + len(rest) if space < 0 else len(rest) - space - 1
    return "".join(pieces), run


def for_drawing(tail: str) -> str:
    """The unfinished tail as it will probably look: nothing flickers when the rest comes.

    Open bold, strike and code marks are closed, and a last line that may still become an
    underline, a list item or a table row waits until it is one.
    """
    last_line = tail[tail.rfind("\n") + 1 :]
    if last_line.lstrip().startswith("|") and "\n" in tail:
        return tail[: tail.rfind("\n") + 1]
    tail = _UNFINISHED_UNDERLINE.sub("", tail)
    tail = _EMPTY_ITEM.sub("", tail)
    tail = _UNFINISHED_FENCE.sub("", tail)
    paragraph_start = max(tail.rfind("\n\n"), tail.rfind("\n- "), tail.rfind("\n* ")) + 1
    paragraph = tail[paragraph_start:].lstrip()
    if paragraph.startswith(("```", "~~~")):
        return tail
    if paragraph[:2] in ("* ", "- ", "+ "):
        paragraph = paragraph[2:]
    outside_code = paragraph.split("`")
    if len(outside_code) % 2 == 0:  # an open code mark
        return tail + "`" if outside_code[-1] else tail[:-1]
    text = "".join(outside_code[::2])
    for mark in _MARKS:
        if text.count(mark) % 2:
            if tail.endswith(mark):
                return tail[: -len(mark)]
            if mark == "*" and text[text.rfind("*") + 1 :][:1].isspace():
                continue  # a star between spaces is a star
            return tail.rstrip() + mark
        text = text.replace(mark, "")
    return tail


def _is_unspaced(character: str) -> bool:
    """Hangul, Han, Kana and their kin: written without a space before a particle."""
    return (
        character > "\u10ff"
        and unicodedata.east_asian_width(character) in ("W", "F", "H")
        and character.isalnum()
    )


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"
