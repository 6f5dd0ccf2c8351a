"""The starter model's tokenizer: byte-level BPE, and how a conversation becomes token ids.

Rendering and the loss mask come from one function, ``encode_chat``: neighbouring plain text is
joined before it is tokenised, control tokens are put in as ids, and text that a person typed can
never become one. What a byte string cannot be spelled with does not exist: all 256 bytes are in
the vocabulary. llama.cpp knows the splitting pattern as ``qwen2`` and gives the same ids.

Input is expected in Unicode's composed form (NFC); the tokenizer itself changes nothing, because
llama.cpp would not repeat it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT, TURN_START, TURN_END = 0, 1, 2
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""As in llama.cpp's ``LLAMA_VOCAB_PRE_TYPE_QWEN2``: digits one by one."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; ``learn`` marks a completion that the loss covers."""

    role: str
    content: str
    learn: bool = False


@dataclass(frozen=True)
class EncodedText:
    """Token ids and, for each, whether predicting it counts."""

    ids: list[int]
    mask: list[bool]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learn the merges. Ids 0, 1 and 2 are the control tokens, then bytes, then merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _plain(tokenizer)


def load_tokenizer(path: Path) -> Tokenizer:
    return _plain(Tokenizer.from_file(str(path)))


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Whole or not at all."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(tokenizer.to_str(pretty=True))
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """Read "<|im_end|>" in a text as the ten characters that it is."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_plain(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def encode_document(tokenizer: Tokenizer, text: str) -> EncodedText:
    """Prose for pretraining: every token counts, and the end is marked."""
    ids = [*encode_plain(tokenizer, text), END_OF_TEXT]
    return EncodedText(ids, [True] * len(ids))


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> EncodedText:
    """A conversation in ChatML; learned are the marked completions and the end of their turn.

    With one marked message, the last, this is the training example of the contract: the prompt as
    it was sent, the completion, the end of turn. Several marked messages give the same ids and the
    union of the masks, because ChatML only ever appends (tested), so a chat costs one pass.
    """
    ids: list[int] = []
    mask: list[bool] = []

    def add(new: list[int], counts: bool) -> None:
        ids.extend(new)
        mask.extend([counts] * len(new))

    for index, message in enumerate(messages):
        if index > 0:
            add(encode_plain(tokenizer, "\n"), False)
        add([TURN_START], False)
        if message.learn:
            add(encode_plain(tokenizer, message.role + "\n"), False)
            add(encode_plain(tokenizer, message.content), True)
        else:
            add(encode_plain(tokenizer, message.role + "\n" + message.content), False)
        add([TURN_END], message.learn)
    return EncodedText(ids, mask)


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """What is sent for a completion: the conversation, then the opening of the reply."""
    opening = [TURN_START, *encode_plain(tokenizer, "assistant\n")]
    return [*encode_chat(tokenizer, messages).ids, *encode_plain(tokenizer, "\n"), *opening]


def token_byte_lengths(tokenizer: Tokenizer) -> list[int]:
    """Bytes that each token stands for; control tokens stand for none."""
    size = tokenizer.get_vocab_size()
    pieces = [tokenizer.id_to_token(index) or "" for index in range(size)]
    return [0 if piece in CONTROL_TOKENS else len(piece) for piece in pieces]


def bytes_per_token(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """Compression: UTF-8 bytes for one token, over all texts."""
    byte_count = token_count = 0
    for text in texts:
        byte_count += len(text.encode("utf-8"))
        token_count += len(encode_plain(tokenizer, text))
    return byte_count / max(token_count, 1)
