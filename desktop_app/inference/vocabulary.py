"""A GGUF's tokenizer, as the contract's ``Vocabulary`` wants it: llama.cpp's own.

Text to tokens with special tokens off, tokens to bytes; what is special, what begins a
prompt and what ends a turn is taken from the file.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, Final

import llama_cpp

from desktop_app.inference.reasoning import marks
from finetune.contract.chat_template import TemplateTokens
from finetune.contract.errors import InputError

_SPECIAL: Final = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
_NONE: Final = -1
KNOWN_TEXTS: Final = 1000
"""Pieces of conversations whose tokens are kept, the oldest going first."""

# SentencePiece puts a space before a text. One of these in front takes the space on itself and
# is dropped afterwards; the later ones are for vocabularies that merge a newline with what
# follows.
_SHIELDS: Final = ("\n", "\x02", "\x03")


class LlamaVocabulary:
    """Implements ``finetune.contract.chat_template.Vocabulary``.

    Args:
        vocab: llama.cpp's pointer; its model must outlive this object.

    Raises:
        InputError: the file does not say how an answer ends.
    """

    def __init__(self, vocab: Any) -> None:
        self._vocab = vocab
        self.size: Final = int(llama_cpp.llama_vocab_n_tokens(vocab))
        # Each turn sends the whole conversation again; most of its messages are old.
        self._tokenized: dict[str, tuple[int, ...]] = {}
        self._special_tokens = {
            self._text(token): token
            for token in range(self.size)
            if llama_cpp.llama_vocab_get_attr(vocab, token) & _SPECIAL
        }
        # The marks of a reasoning block have to be seen, control tokens or not.
        shown = marks(self._special_tokens)
        self._pieces: dict[int, bytes] = {
            token: text.encode() for text, token in self._special_tokens.items() if text in shown
        }
        eot = int(llama_cpp.llama_vocab_eot(vocab))
        eos = int(llama_cpp.llama_vocab_eos(vocab))
        bos = int(llama_cpp.llama_vocab_bos(vocab))
        if eot == _NONE and eos == _NONE:
            raise InputError("This model does not say how an answer ends, so it cannot chat.")
        # gpt-oss says "<|end|>" between what it thinks and what it answers.
        ends = eot != _NONE and llama_cpp.llama_vocab_is_eog(vocab, eot)
        self._end_of_turn_id = eot if ends or eos == _NONE else eos
        wants_bos = bos != _NONE and bool(llama_cpp.llama_vocab_get_add_bos(vocab))
        self._bos_id = bos if wants_bos else None
        self.template_tokens: Final = TemplateTokens(
            bos="" if bos == _NONE else self._text(bos),
            eos="" if eos == _NONE else self._text(eos),
        )
        self._shields = {shield: self._plain(shield) for shield in _SHIELDS}

    @property
    def pointer(self) -> Any:
        """llama.cpp's own vocabulary."""
        return self._vocab

    @property
    def special_tokens(self) -> Mapping[str, int]:
        return self._special_tokens

    @property
    def bos_id(self) -> int | None:
        return self._bos_id

    @property
    def end_of_turn_id(self) -> int:
        return self._end_of_turn_id

    def tokenize(self, text: str, *, continues: bool) -> list[int]:
        if not continues or not text:
            return self._plain(text)
        for shield, shield_ids in self._shields.items():
            ids = self._plain(shield + text)
            if ids[: len(shield_ids)] == shield_ids:
                return ids[len(shield_ids) :]
        return self._plain(text)

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; control tokens stand for none."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token)
        return piece

    def _plain(self, text: str) -> list[int]:
        known = self._tokenized.get(text)
        if known is None:
            known = self._tokenized[text] = tuple(self._tokenize(text))
            if len(self._tokenized) > KNOWN_TEXTS:
                del self._tokenized[next(iter(self._tokenized))]
        return list(known)

    def _tokenize(self, text: str) -> list[int]:
        raw = text.encode("utf-8")
        room = len(raw) + 8  # never more tokens than bytes, but for a space put in front
        ids = (ctypes.c_int32 * room)()
        count = llama_cpp.llama_tokenize(self._vocab, raw, len(raw), ids, room, False, False)
        if count < 0:
            raise InputError("This text is too long to be read at once.")
        return ids[:count]

    def _piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            room = -length

    def _text(self, token: int) -> str:
        raw: bytes = llama_cpp.llama_vocab_get_text(self._vocab, token)
        return raw.decode("utf-8", "replace")
