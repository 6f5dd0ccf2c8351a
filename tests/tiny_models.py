"""Random GGUF models of a few hundred kilobytes, and adapters for them.

They load in milliseconds and run through all of llama.cpp, so that tests need no download.
The vocabulary is a byte-level BPE in GPT-2's manner, trained on a few lines of English and
Korean, with ChatML's control tokens; ``sentencepiece=True`` makes one in Llama 2's manner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import regex

from finetune.contract.chat_template import CHATML

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6

CORPUS = """
Once upon a time there was a little girl named Lily. She loved to play outside in the park.
The answer is yes. Thank you, that is very kind of you. What would you like to know today?
I can help you with that. Here is a short list: one, two, three. It's 1234, isn't it?
옛날 옛적에 한 마을에 착한 소년이 살고 있었습니다. 안녕하세요, 무엇을 도와드릴까요?
감사합니다. 네, 알겠습니다. 오늘은 날씨가 좋습니다. 한국어로 대답해 주세요.
system user assistant You are a helpful assistant.
"""
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CHATML_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class TinyVocabulary:
    """What a GGUF says of a tokenizer."""

    model: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()

    def id_of(self, token: str) -> int:
        return self.tokens.index(token)


@dataclass(frozen=True)
class TinyShape:
    """A Llama of these measures."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 96
    context: int = 512


@cache
def byte_level_vocabulary(
    specials: tuple[str, ...] = CHATML_SPECIALS,
    special_type: int = CONTROL,
    merges: int = 200,
) -> TinyVocabulary:
    """A byte-level BPE with ``specials`` at its end."""
    alphabet = _byte_alphabet()
    words = Counter(
        tuple(alphabet[byte] for byte in word.encode("utf-8"))
        for word in regex.findall(GPT2_PATTERN, CORPUS)
    )
    learned: list[tuple[str, str]] = []
    while len(learned) < merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        learned.append(best)
        words = Counter({_merged(word, best): count for word, count in words.items()})
    tokens = [*alphabet, *(a + b for a, b in learned), *specials]
    types = [NORMAL] * (len(tokens) - len(specials)) + [special_type] * len(specials)
    return TinyVocabulary(
        "gpt2", tuple(tokens), tuple(types), merges=tuple(f"{a} {b}" for a, b in learned)
    )


@cache
def sentencepiece_vocabulary(specials: tuple[str, ...] = CHATML_SPECIALS) -> TinyVocabulary:
    """A SentencePiece BPE with byte fallback, as Llama 2's."""
    words = Counter(tuple("▁" + word) for word in CORPUS.split())
    pieces = sorted({letter for word in words for letter in word})
    while len(pieces) < 300:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        pieces.append(best[0] + best[1])
        words = Counter({_merged(word, best): count for word, count in words.items()})
    letters = [piece for piece in pieces if len(piece) == 1]
    merged = [piece for piece in pieces if len(piece) > 1]
    head = ("<unk>", "<s>", "</s>")
    raw = tuple(f"<0x{byte:02X}>" for byte in range(256))
    return TinyVocabulary(
        "llama",
        (*head, *raw, *merged, *letters, *specials),
        (
            UNKNOWN, CONTROL, CONTROL,
            *(BYTE,) * 256, *(NORMAL,) * len(pieces), *(CONTROL,) * len(specials),
        ),
        scores=(
            *(0.0,) * (3 + 256), *(-float(i) for i in range(len(pieces))),
            *(0.0,) * len(specials),
        ),
    )  # fmt: skip


def write_model(
    path: Path,
    *,
    shape: TinyShape = TinyShape(),
    vocabulary: TinyVocabulary | None = None,
    template: str | None = CHATML,
    end_of_turn: str = "<|im_end|>",
    seed: int = 0,
    ends: bool = True,
    quantization: str = "F32",
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Write a random model.

    Args:
        ends: False makes the end-of-turn token so unlikely that answers never end.
        quantization: of the matrices: F32, F16 or Q8_0.
        metadata: further string entries.
    """
    vocabulary = vocabulary or byte_level_vocabulary()
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"tiny random {seed}")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_vocab_size(len(vocabulary.tokens))
    _add_tokenizer(writer, vocabulary, end_of_turn)
    if template is not None:
        writer.add_chat_template(template)
    for key, value in (metadata or {}).items():
        writer.add_string(key, value)

    kind = gguf.GGMLQuantizationType[quantization]
    for name, (rows, columns) in linear_shapes(shape).items():
        weight = random.standard_normal((rows, columns), dtype=np.float32) / columns**0.5
        writer.add_tensor(name, gguf.quantize(weight, kind), raw_dtype=kind)
    for name in _norms(shape):
        writer.add_tensor(name, np.ones(shape.width, dtype=np.float32))
    count = len(vocabulary.tokens)
    embedding = random.standard_normal((count, shape.width), dtype=np.float32)
    writer.add_tensor("token_embd.weight", gguf.quantize(embedding, kind), raw_dtype=kind)
    # Logits with a spread of about 3, so that sampling has something to prefer.
    output = random.standard_normal((count, shape.width), dtype=np.float32) * 3
    output /= shape.width**0.5
    if not ends:
        control = [i for i, kind_ in enumerate(vocabulary.types) if kind_ != NORMAL]
        output[control] = 0.0
    writer.add_tensor("output.weight", gguf.quantize(output, kind), raw_dtype=kind)
    _write(writer)
    return path


def write_adapter(
    path: Path,
    *,
    shape: TinyShape = TinyShape(),
    rank: int = 4,
    alpha: float = 8.0,
    strength: float = 0.5,
    seed: int = 1,
    architecture: str = "llama",
    names: Sequence[str] | None = None,
) -> Path:
    """Write a random LoRA adapter for ``write_model``'s model of the same shape."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, (rows, columns) in linear_shapes(shape).items():
        if names is not None and name not in names:
            continue
        a = random.standard_normal((rank, columns), dtype=np.float32) / columns**0.5
        b = random.standard_normal((rows, rank), dtype=np.float32) * strength
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    _write(writer)
    return path


def linear_shapes(shape: TinyShape) -> dict[str, tuple[int, int]]:
    """Every linear layer's name -> (rows, columns)."""
    head = shape.width // shape.heads
    each = {
        "attn_q": (shape.width, shape.width),
        "attn_k": (shape.kv_heads * head, shape.width),
        "attn_v": (shape.kv_heads * head, shape.width),
        "attn_output": (shape.width, shape.width),
        "ffn_gate": (shape.feed_forward, shape.width),
        "ffn_up": (shape.feed_forward, shape.width),
        "ffn_down": (shape.width, shape.feed_forward),
    }
    return {
        f"blk.{layer}.{name}.weight": size
        for layer in range(shape.layers)
        for name, size in each.items()
    }


def _norms(shape: TinyShape) -> list[str]:
    layers = range(shape.layers)
    return [
        "output_norm.weight",
        *(f"blk.{layer}.attn_norm.weight" for layer in layers),
        *(f"blk.{layer}.ffn_norm.weight" for layer in layers),
    ]


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: TinyVocabulary, end_of_turn: str) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.model == "gpt2":
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges(list(vocabulary.merges))
        writer.add_add_bos_token(False)
    else:
        writer.add_token_scores(list(vocabulary.scores))
        writer.add_bos_token_id(vocabulary.id_of("<s>"))
        writer.add_unk_token_id(vocabulary.id_of("<unk>"))
        writer.add_add_bos_token(True)
    writer.add_eos_token_id(vocabulary.id_of(end_of_turn))


def _write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte (Radford et al. 2019, encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for letter in word:
        if out and (out[-1], letter) == pair:
            out[-1] += letter
        else:
            out.append(letter)
    return tuple(out)
