"""Colours for code: comments, strings, numbers and the words of the common languages.

One regular expression per family of languages, line by line; only lines that belong to a
code block are looked at. It paints, and never changes the document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from PySide6.QtGui import QColor, QSyntaxHighlighter, QTextCharFormat, QTextDocument

from desktop_app.ui.markdown_document import CODE_ID, CODE_LANGUAGE

_LONGEST_LINE: Final = 2_000
"""Longer lines are data, not code."""
_BEYOND_16_BITS: Final = re.compile("[\U00010000-\U0010ffff]")
"""Characters that Qt counts as two."""

_LIGHT: Final = {
    "comment": "#66736c",
    "string": "#2f6b2f",
    "number": "#8a4b08",
    "keyword": "#8a2f7f",
    "name": "#0b5c8a",
}
_DARK: Final = {
    "comment": "#8b9891",
    "string": "#9ccf8f",
    "number": "#e3b07a",
    "keyword": "#d99bd0",
    "name": "#86bfe6",
}

_PYTHON_WORDS: Final = (
    "and as assert async await break case class continue def del elif else except False finally"
    " for from global if import in is lambda match None nonlocal not or pass raise return self"
    " True try while with yield"
)
_C_WORDS: Final = (
    "abstract any as async await auto bool break case catch char class const constexpr continue"
    " default defer delete do double else enum export extends extern false final finally float fn"
    " for func function go goto if impl implements import in inline instanceof int interface"
    " internal is let long loop match mod mut namespace new nil null nullptr of operator override"
    " package private protected pub public return self short signed sizeof static str string"
    " struct super switch template this throw throws trait true try type typedef typename typeof"
    " undefined union unsafe unsigned use using val var virtual void volatile when where while"
    " yield"
)
_SHELL_WORDS: Final = (
    "alias case cd do done echo elif else esac exit export fi for function if in local read"
    " return set shift source sudo then unset until while"
)
_SQL_WORDS: Final = (
    "add all alter and as asc avg between by case count create default delete desc distinct drop"
    " else end exists foreign from full group having in index inner insert into is join key left"
    " like limit max min not null offset on or order outer primary references right select set"
    " sum table then union unique update values view when where with"
)
_DATA_WORDS: Final = "true false null yes no on off"

_STRING: Final = r"\"(?:\\.|[^\"\\])*(?:\"|$)|'(?:\\.|[^'\\])*(?:'|$)"
_NUMBER: Final = r"\b(?:0[xXbB][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\b"


@dataclass(frozen=True)
class _Language:
    """How one family of languages looks. ``blocks`` are (opening, closing, kind) over lines."""

    pattern: re.Pattern[str]
    blocks: tuple[tuple[str, str, str], ...] = ()


def _language(
    words: str,
    comment: str,
    *,
    blocks: tuple[tuple[str, str, str], ...] = (),
    strings: str = _STRING,
    ignore_case: bool = False,
) -> _Language:
    opening = "|".join(re.escape(block[0]) for block in blocks)
    parts = [f"(?P<block>{opening})"] if blocks else []
    if comment:
        parts.append(f"(?P<comment>{comment})")
    parts.append(f"(?P<string>{strings})")
    parts.append(
        rf"(?P<keyword>\b(?:{'|'.join(words.split())})\b)" if words else r"(?P<keyword>(?!))"
    )
    parts.append(f"(?P<number>{_NUMBER})")
    parts.append(r"(?P<name>\b[A-Za-z_]\w*(?=\())")
    flags = re.IGNORECASE if ignore_case else 0
    return _Language(re.compile("|".join(parts), flags), blocks)


_C_BLOCKS: Final = (("/*", "*/", "comment"),)
_FAMILIES: Final = {
    "python": _language(
        _PYTHON_WORDS, r"#.*", blocks=(('"""', '"""', "string"), ("'''", "'''", "string"))
    ),
    "c": _language(
        _C_WORDS, r"//.*", blocks=_C_BLOCKS, strings=_STRING + r"|`(?:\\.|[^`\\])*(?:`|$)"
    ),
    "shell": _language(_SHELL_WORDS, r"(?:^|(?<=\s))#.*"),
    "sql": _language(_SQL_WORDS, r"--.*", blocks=_C_BLOCKS, ignore_case=True),
    "data": _language(_DATA_WORDS, r"(?:^|(?<=\s))#.*"),
    "markup": _language("", "", blocks=(("<!--", "-->", "comment"),)),
}
_NAMES: Final = {
    "python": "python py python3 ipython pycon",
    "c": (
        "c h cpp c++ cc cxx cs csharp c# java javascript js jsx typescript ts tsx go golang rust rs"
        " kotlin kt swift php dart scala groovy glsl css scss less qml objc json5 jsonc proto zig"
    ),
    "shell": "bash sh shell zsh console fish powershell ps1 dockerfile makefile ruby rb perl",
    "sql": "sql sqlite mysql postgresql postgres plsql",
    "data": "json yaml yml toml ini cfg conf properties",
    "markup": "html xml svg vue xhtml",
}


@cache
def _find_language(name: str) -> _Language | None:
    name = name.lower()
    for family, names in _NAMES.items():
        if name in names.split():
            return _FAMILIES[family]
    return None


class CodeHighlighter(QSyntaxHighlighter):
    """Colours the code blocks of a message."""

    def __init__(self, document: QTextDocument, *, is_dark: bool) -> None:
        super().__init__(document)
        self._formats = _formats(is_dark)

    def set_dark(self, is_dark: bool) -> None:
        """Colours for the other appearance."""
        self._formats = _formats(is_dark)
        self.rehighlight()

    def highlightBlock(self, text: str) -> None:
        block = self.currentBlock()
        block_format = block.blockFormat()
        code_id = block_format.intProperty(CODE_ID)
        if not code_id or len(text) > _LONGEST_LINE:
            return
        language = _find_language(str(block_format.property(CODE_LANGUAGE) or ""))
        if language is None:
            return
        is_continued = block.previous().blockFormat().intProperty(CODE_ID) == code_id
        # The state is the number of the block comment or string that is open, or -1.
        state = self.previousBlockState() if is_continued else -1
        text = _BEYOND_16_BITS.sub("\ufffd\ufffd", text)
        self.setCurrentBlockState(self._highlight(text, language, state))

    def _highlight(self, text: str, language: _Language, state: int) -> int:
        position = 0
        if state >= 0:
            position, state = self._inside_block(text, 0, 0, language, state)
        while state < 0 and (match := language.pattern.search(text, position)) is not None:
            if match.lastgroup == "block":
                number = [block[0] for block in language.blocks].index(match[0])
                position, state = self._inside_block(
                    text, match.start(), match.end(), language, number
                )
            else:
                kind = match.lastgroup or ""
                self.setFormat(match.start(), match.end() - match.start(), self._formats[kind])
                position = match.end()
        return state

    def _inside_block(
        self, text: str, start: int, search_from: int, language: _Language, number: int
    ) -> tuple[int, int]:
        """Colour up to the end of an open comment or string; where it ends, and the state."""
        _, closing, kind = language.blocks[number]
        found = text.find(closing, search_from)
        end = len(text) if found < 0 else found + len(closing)
        self.setFormat(start, end - start, self._formats[kind])
        return end, number if found < 0 else -1


def _formats(is_dark: bool) -> dict[str, QTextCharFormat]:
    formats = {}
    for kind, colour in (_DARK if is_dark else _LIGHT).items():
        formats[kind] = QTextCharFormat()
        formats[kind].setForeground(QColor(colour))
    return formats
