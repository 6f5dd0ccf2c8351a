"""A GGUF's own tokenizer, as llama.cpp reads it: training ids are chatting ids.

Only the vocabulary is loaded, never the weights. The app has the same adapter on its side
(``desktop_app.inference``); the trainer may not import it, and the copy is short.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp

from finetune.contract.chat_template import TemplateTokens
from finetune.contract.errors import InputError

log = logging.getLogger(__name__)

_SENTENCEPIECE = (1, 4)
"""``llama_vocab_type`` of the kinds that put a space before a text: SPM and UGM."""
_CONTROL_OR_USER_DEFINED = (1 << 3) | (1 << 4)
_END_OF_TURN_TEXTS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|end_of_turn|>")


def _log_line(level: int, text: bytes, _: Any) -> None:
    if level in (3, 4):  # warnings and errors; 5 continues a line
        log.info("llama.cpp: %s", text.decode("utf-8", "replace").rstrip())


_LOG_LINE = llama_cpp.llama_log_callback(_log_line)  # kept: llama.cpp holds only its address


def quiet_llama_cpp() -> None:
    """Send llama.cpp's warnings to our log and drop its chatter."""
    llama_cpp.llama_log_set(_LOG_LINE, ctypes.c_void_p(0))


class GgufVocabulary:
    """The ``Vocabulary`` of ``contract.chat_template`` for one GGUF file."""

    def __init__(self, path: Path, template: str | None = None) -> None:
        """``template`` tells which of the vocabulary's end tokens ends an assistant's turn."""
        quiet_llama_cpp()
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode("utf-8"), params)
        if not self._model:
            raise InputError(f"llama.cpp cannot read the vocabulary of {path.name}.")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._template = template or ""
        self._spaced = llama_cpp.llama_vocab_type(self._vocab) in _SENTENCEPIECE

    def close(self) -> None:
        """Free llama.cpp's part. Nothing else may be called afterwards."""
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = None

    def __len__(self) -> int:
        return int(llama_cpp.llama_vocab_n_tokens(self._vocab))

    @cached_property
    def special_tokens(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for token in range(len(self)):
            if llama_cpp.llama_vocab_get_attr(self._vocab, token) & _CONTROL_OR_USER_DEFINED:
                text = self.text_of([token], special=True)
                if text:
                    found.setdefault(text, token)
        return found

    @cached_property
    def bos_id(self) -> int | None:
        if not llama_cpp.llama_vocab_get_add_bos(self._vocab):
            return None
        token = int(llama_cpp.llama_vocab_bos(self._vocab))
        return token if token >= 0 else None

    @cached_property
    def end_of_turn_id(self) -> int:
        """The end token the template writes; else the file's own end of turn or of text."""
        for text in _END_OF_TURN_TEXTS:
            if text in self._template and text in self.special_tokens:
                return self.special_tokens[text]
        for token in (
            int(llama_cpp.llama_vocab_eot(self._vocab)),
            int(llama_cpp.llama_vocab_eos(self._vocab)),
        ):
            if token >= 0:
                return token
        raise InputError("This model has no token that ends a turn, so it cannot be trained.")

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """All tokens at which a completion is over."""
        ends = (t for t in range(len(self)) if llama_cpp.llama_vocab_is_eog(self._vocab, t))
        return frozenset(ends) | {self.end_of_turn_id}

    @cached_property
    def blank_ids(self) -> frozenset[int]:
        """Tokens that show nothing: white space, and control tokens."""
        return frozenset(t for t in range(len(self)) if not self.text_of([t]).strip())

    @cached_property
    def template_tokens(self) -> TemplateTokens:
        def text(token: int) -> str:
            return self.text_of([token], special=True) if token >= 0 else ""

        return TemplateTokens(
            bos=text(int(llama_cpp.llama_vocab_bos(self._vocab))),
            eos=text(int(llama_cpp.llama_vocab_eos(self._vocab))),
        )

    def tokenize(self, text: str, *, continues: bool) -> list[int]:
        if continues and self._spaced:
            # Behind a newline no space is added; the newline's own ids are dropped again.
            start = self._tokenize("\n")
            return self._tokenize("\n" + text)[len(start) :]
        return self._tokenize(text)

    def text_of(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of tokens; control tokens are left out unless ``special``."""
        data = b"".join(self._piece(token, special) for token in ids)
        return data.decode("utf-8", "replace")

    def _tokenize(self, text: str) -> list[int]:
        data = text.encode("utf-8", "surrogatepass")
        room = len(data) + 8
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, False, False)
        if count < 0:
            raise RuntimeError(f"llama_tokenize wants room for {-count} tokens, not {room}")
        return list(tokens[:count])

    def _piece(self, token: int, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, 256, 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, -size, 0, special)
        return bytes(buffer.raw[:size])
