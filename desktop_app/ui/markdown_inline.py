"""The text inside a block: emphasis, code, links, and pictures that are never loaded.

What kind of block it stands in is ``markdown_document``'s business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markdown_it.token import Token
from PySide6.QtCore import QUrl
from PySide6.QtGui import QColor, QFont, QTextCharFormat, QTextCursor

from desktop_app.ui.markdown_parser import break_long_words

_SAFE_SCHEMES: Final = ("https", "http", "mailto")
_BARE_URL = re.compile(r"https?://[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_AFTER_URL: Final = ".,;:!?'*)"
_CODE_SCALE: Final = 0.96
"""Fixed-width letters look larger than others of the same size."""


@dataclass(frozen=True)
class TextStyle:
    """Fonts and colours of a message."""

    body: QFont
    code: QFont
    muted: QColor
    link: QColor
    code_background: QColor
    border: QColor
    header_background: QColor

    @property
    def size(self) -> float:
        return self.body.pointSizeF()


class InlineWriter:
    """Writes text at a cursor; call ``begin_block`` wherever a block begins."""

    def __init__(self, style: TextStyle) -> None:
        self._style = style
        self._run = 0

    def begin_block(self) -> None:
        """The next text does not go on with the last word."""
        self._run = 0

    def write_plain(self, cursor: QTextCursor, text: str) -> None:
        """Write a text as it is."""
        self._insert(cursor, text, QTextCharFormat())

    def write_code(self, cursor: QTextCursor, text: str) -> None:
        """Write a line of code, or a part of one."""
        self._insert(cursor, text, self._code_format(QTextCharFormat()))

    def write(self, cursor: QTextCursor, tokens: Sequence[Token], base: QTextCharFormat) -> None:
        """Write the inline tokens of a block."""
        formats = [base]
        is_linked, after_link = False, ""
        for token in tokens:
            top = formats[-1]
            match token.type:
                case "text":
                    self._write_text(cursor, token.content, top)
                case "softbreak" | "hardbreak":
                    self._insert(cursor, "\u2028", top)
                case "code_inline":
                    code = self._code_format(top)
                    code.setBackground(self._style.code_background)
                    self._insert(cursor, token.content, code)
                case "image":
                    self._write_image(cursor, token, top, is_linked=is_linked)
                case "link_open":
                    target = str(token.attrs.get("href", ""))
                    link = self._link_format(top, target)
                    is_linked = True
                    after_link = "" if link.isAnchor() else f" ({target})"
                    formats.append(link)
                case "link_close":
                    is_linked = False
                    formats.pop()
                    self._insert(cursor, after_link, formats[-1])
                case "strong_open" | "em_open" | "s_open":
                    formats.append(_emphasised(top, token.type))
                case "strong_close" | "em_close" | "s_close":
                    formats.pop()
                case _:  # nothing of Markdown comes here; never lose text
                    self._insert(cursor, token.content, top)

    def _write_text(self, cursor: QTextCursor, text: str, base: QTextCharFormat) -> None:
        """Text; addresses in it become links."""
        start = 0
        if not base.isAnchor() and "://" in text:
            for match in _BARE_URL.finditer(text):
                address = _without_end(match[0])
                self._insert(cursor, text[start : match.start()], base)
                self._insert(cursor, address, self._link_format(base, address))
                start = match.start() + len(address)
        self._insert(cursor, text[start:], base)

    def _write_image(
        self, cursor: QTextCursor, token: Token, base: QTextCharFormat, *, is_linked: bool
    ) -> None:
        """A model's picture is never loaded: its description stands there, as a link.

        Inside a link it leads where that leads.
        """
        target = str(token.attrs.get("src", ""))
        link = base if is_linked else self._link_format(base, target)
        self._insert(cursor, token.content or target, link)
        if not link.isAnchor() and token.content:
            self._insert(cursor, f" ({target})", base)

    def _insert(self, cursor: QTextCursor, text: str, text_format: QTextCharFormat) -> None:
        if text:
            text, self._run = break_long_words(text, self._run)
            cursor.insertText(text, text_format)

    def _code_format(self, base: QTextCharFormat) -> QTextCharFormat:
        text = QTextCharFormat(base)
        text.setFontFamilies(self._style.code.families())
        text.setFontPointSize((base.fontPointSize() or self._style.size) * _CODE_SCALE)
        text.setFontFixedPitch(True)
        return text

    def _link_format(self, base: QTextCharFormat, target: str) -> QTextCharFormat:
        """A link where it leads to a place one may ask to go to, else plain text."""
        text = QTextCharFormat(base)
        if is_safe_link(QUrl(target)):
            text.setAnchor(True)
            text.setAnchorHref(target)
            text.setForeground(self._style.link)
            text.setFontUnderline(True)
        return text


def is_safe_link(url: QUrl) -> bool:
    """Whether a person may be asked to open this: the web and mail, nothing else."""
    if url.scheme().lower() == "mailto":
        return bool(url.path())
    return url.isValid() and url.scheme().lower() in _SAFE_SCHEMES and bool(url.host())


def _without_end(address: str) -> str:
    """Without the punctuation behind it; a bracket that was opened in it is a part of it."""
    extra_brackets = address.count(")") - address.count("(")
    end = len(address)
    while address[end - 1] in _AFTER_URL:
        if address[end - 1] == ")":
            if extra_brackets <= 0:
                break
            extra_brackets -= 1
        end -= 1
    return address[:end]


def _emphasised(base: QTextCharFormat, kind: str) -> QTextCharFormat:
    text = QTextCharFormat(base)
    if kind == "strong_open":
        text.setFontWeight(QFont.Weight.Bold)
    elif kind == "em_open":
        text.setFontItalic(True)
    else:
        text.setFontStrikeOut(True)
    return text
