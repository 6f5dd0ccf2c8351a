"""How good the bundled model is, in figures: run it, and it writes ``bundled_model.md``.

    python tests/benchmarks/bundled_model.py --data DATA [--previous OLD.gguf]

Everything is on held-out text and on the everyday prompts beside the recipe (200, and 80 of a
second set), which no training has seen. The page is written for the bundled model alone; of
another one (``--model``) the figures are only printed. The same files give the same figures, save
for the last digits of speed: every draw has a seed that follows from its prompt. What cannot be
counted, whether a reply is pleasant and to the point, is read by a person: ``--read 50`` prints
replies drawn by rule.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import itertools
import platform
import queue
import random
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from byte_ngram import ORDER, ByteNgram  # noqa: E402
from everyday import (  # noqa: E402
    ABILITIES,
    EverydayPrompt,
    distinct_2,
    is_in_language,
    loops,
    read_prompts,
)

from desktop_app.inference.engine import (  # noqa: E402
    EngineDied,
    EngineFailure,
    Event,
    Generate,
    ModelReady,
    ModelRef,
    RequestDone,
    SamplingParams,
    StreamDone,
    StreamSpec,
)
from desktop_app.inference.engine_client import EngineClient, engine_command  # noqa: E402
from desktop_app.settings import Settings  # noqa: E402
from finetune.contract.chat_template import Message, Role  # noqa: E402
from finetune.contract.gguf_file import read_header  # noqa: E402
from finetune.contract.manifest import file_sha256  # noqa: E402
from finetune.data import Encoder  # noqa: E402
from finetune.gguf_weights import load_trunk  # noqa: E402
from finetune.starter.corpus import (  # noqa: E402
    SOURCES,
    Document,
    chat_documents,
    own_documents,
    pretraining_documents,
    stable_share,
)
from finetune.starter.main import CONVERSATIONS  # noqa: E402
from finetune.vocabulary import GgufVocabulary  # noqa: E402

BUNDLED = ROOT / "resources/models/attune-starter.gguf"
PAGE = Path(__file__).with_suffix(".md")
SAMPLES = 4
MOST_TOKENS = 120
MEASURED_BYTES = 40_000
"""Of each held-out set: enough for two digits."""


# ---------------------------------------------------------------- held-out text


@dataclass(frozen=True)
class Piece:
    """Something to predict: plain text, or the completion of a conversation."""

    text: str
    messages: tuple[Message, ...] = ()


def held_out_sets(data: Path) -> dict[str, list[Piece]]:
    """Prose, talk of people, public replies and our own in both languages, in an order by hash."""
    found: dict[str, list[Piece]] = {}
    for source in SOURCES:
        if source.form in ("prose", "talk"):
            for document in pretraining_documents(data, source):
                if document.held_out:
                    name = f"{source.form} {document.language}"
                    _add(found, name, [Piece(document.text[:1000])])
        for document in chat_documents(data, source):
            if document.held_out:
                _add(found, f"public replies {document.language}", _replies(document))
    for document in own_documents(CONVERSATIONS, 1.0, 0.0)[0]:
        if document.held_out:
            _add(found, f"our replies {document.language}", _replies(document))
    return {name: _first_bytes(pieces) for name, pieces in sorted(found.items())}


def _add(found: dict[str, list[Piece]], name: str, pieces: Iterable[Piece]) -> None:
    found.setdefault(name, []).extend(pieces)


def _replies(document: Document) -> list[Piece]:
    said = [Message(cast(Role, m.role), m.content) for m in document.messages]
    return [
        Piece(message.content, tuple(said[:index]))
        for index, message in enumerate(document.messages)
        if message.learn
    ]


def _first_bytes(pieces: list[Piece]) -> list[Piece]:
    unique = {(piece.text, piece.messages): piece for piece in pieces}
    order = sorted(unique.values(), key=lambda piece: stable_share("measured/" + piece.text))
    sizes = itertools.accumulate(len(piece.text.encode()) for piece in order)
    return [piece for piece, size in zip(order, sizes, strict=True) if size <= MEASURED_BYTES]


class Judge:
    """A model file that predicts text, in torch and float32."""

    def __init__(self, path: Path) -> None:
        header = read_header(path)
        self._model = load_trunk(path)
        self._vocabulary = GgufVocabulary(path, header.chat_template)
        self._encoder = Encoder(self._vocabulary, header.chat_template, 1024)

    @torch.no_grad()
    def bits_per_byte(self, pieces: Sequence[Piece]) -> float:
        """Over the text's own bytes; what a completion answers is given, its end not counted."""
        nats, length = 0.0, 0
        for piece in pieces:
            if piece.messages:
                example = self._encoder.example(piece.messages, piece.text)
                if example is None:
                    continue
                ids, learn = list(example.ids), list(example.completion_mask)
                learn[-1] = False
            else:
                ids = self._vocabulary.tokenize("\n" + piece.text, continues=False)
                if len(ids) > 1024:  # a thousand characters of something odd
                    continue
                learn = [False] + [True] * (len(ids) - 1)
            tokens = torch.tensor([ids])
            scores = self._model(tokens).logits[0, :-1].float().log_softmax(-1)
            chosen = scores.gather(1, tokens[0, 1:, None])[:, 0]
            nats -= float(chosen[torch.tensor(learn[1:])].sum())
            length += len(piece.text.encode())
        return nats / 0.6931471805599453 / max(length, 1)


def ngram_bits(
    data: Path, sets: dict[str, list[Piece]], entries: int
) -> tuple[int, dict[str, float]]:
    """The n-gram model's entries and its bits per byte on the same text."""
    texts: list[str] = []
    for source in SOURCES:
        documents = [*pretraining_documents(data, source), *chat_documents(data, source)]
        texts += [_plain(document) for document in documents if not document.held_out]
    texts += [_plain(d) for d in own_documents(CONVERSATIONS, 1.0, 0.0)[0] if not d.held_out]
    texts = list(dict.fromkeys(texts))
    random.Random(1).shuffle(texts)
    model = ByteNgram("\n".join(texts).encode(), entries)
    joined = {name: "\n".join(p.text for p in pieces) for name, pieces in sets.items()}
    return model.entries, {n: model.bits_per_byte(t.encode()) for n, t in joined.items()}


def _plain(document: Document) -> str:
    return document.text or "\n".join(message.content for message in document.messages)


# ---------------------------------------------------------------- chatting


class Chat:
    """The engine child with one model, as the app uses it."""

    def __init__(self, model: Path) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._client = EngineClient(engine_command(), self._events.put)
        began = time.perf_counter()
        self._client.start()
        self._client.load(ModelRef("bundled", str(model), file_sha256(model)))
        self._until(ModelReady)
        self.seconds_to_ready = time.perf_counter() - began

    def replies(self, prompt: str, seeds: Sequence[int], most: int) -> list[StreamDone]:
        """One reply for each seed, by the app's own defaults."""
        sampling = SamplingParams(temperature=Settings().temperature, max_tokens=most)
        streams = tuple(StreamSpec(seed, "bundled") for seed in seeds)
        self._client.generate(Generate("r", (Message("user", prompt),), sampling, streams))
        events = self._until(RequestDone)
        done = {e.stream: e for e in events if isinstance(e, StreamDone)}
        return [done[index] for index in sorted(done)]

    def close(self) -> None:
        self._client.close()

    def _until(self, last: type[Event]) -> list[Event]:
        events: list[Event] = []
        while not events or not isinstance(events[-1], last):
            events.append(self._events.get(timeout=120))
            if isinstance(events[-1], EngineFailure | EngineDied):
                raise SystemExit(f"The engine failed: {events[-1].message}")
        return events


def seeds_of(prompt: str) -> list[int]:
    """By the prompt: one seed for all would begin every reply with the same draw."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return [int.from_bytes(digest[4 * i : 4 * i + 4], "big") for i in range(SAMPLES)]


@dataclass(frozen=True)
class Asked:
    """One everyday prompt with its sampled replies."""

    prompt: EverydayPrompt
    replies: tuple[StreamDone, ...]

    def share(self, kept: Iterable[bool]) -> float:
        return sum(kept) / len(self.replies)


def ask_all(chat: Chat, prompts: Iterable[EverydayPrompt]) -> list[Asked]:
    return [Asked(p, tuple(chat.replies(p.text, seeds_of(p.text), MOST_TOKENS))) for p in prompts]


def share(values: Iterable[bool]) -> float:
    counted = list(values)
    return sum(counted) / max(len(counted), 1)


def everyday_figures(asked: Sequence[Asked]) -> dict[str, float]:
    """Shares over all sampled replies."""
    pairs = [(a.prompt, reply) for a in asked for reply in a.replies]
    able = [(p, r) for p, r in pairs if p.kind in ABILITIES]
    figures = {
        "ends by itself": share(r.reason == "end_of_turn" for _, r in pairs),
        "in the prompt's language": share(is_in_language(p, r.text) for p, r in pairs),
        "loops": share(loops(r.text) for _, r in pairs),
        "distinct-2": statistics.mean(distinct_2([r.text for r in a.replies]) for a in asked),
        "acceptable, abilities": share(p.accepts(r.text) for p, r in able),
    }
    for kind in dict.fromkeys(a.prompt.kind for a in asked):
        rows = [(p, r) for p, r in pairs if p.kind == kind]
        figures[f"acceptable, {kind}"] = share(p.accepts(r.text) for p, r in rows)
    return figures


def tokens_per_second(chat: Chat) -> float:
    """Median over prompts of one reply at a time."""
    rates = []
    for number in range(12):
        (reply,) = chat.replies("Tell me a long story, please.", [number], 200)
        rates.append(reply.completion_tokens / reply.seconds)
    return statistics.median(rates)


def drawn_to_read(asked: Sequence[Asked], count: int) -> list[Asked]:
    order = sorted(asked, key=lambda a: stable_share("read/" + a.prompt.text))
    return order[:count]


# ---------------------------------------------------------------- the page


def compare_text(data: Path, models: dict[str, Path]) -> list[str]:
    sets = held_out_sets(data)
    columns = {name: Judge(path) for name, path in models.items()}
    bits = {
        name: {part: judge.bits_per_byte(pieces) for part, pieces in sets.items()}
        for name, judge in columns.items()
    }
    parameters = parameter_count(next(iter(models.values())))
    entries, by_ngram = ngram_bits(data, sets, parameters)
    bits[f"byte {ORDER}-gram, {entries / 1e6:.1f}M entries"] = by_ngram
    lines = ["| bits per byte, held out | bytes | " + " | ".join(bits) + " |"]
    lines.append("|---|--:|" + "--:|" * len(bits))
    for part, pieces in sets.items():
        size = sum(len(piece.text.encode()) for piece in pieces)
        figures = " | ".join(f"{bits[name][part]:.3f}" for name in bits)
        lines.append(f"| {part} | {size:,} | {figures} |")
    return lines


def parameter_count(path: Path) -> int:
    total = 0
    for info in read_header(path).tensors.values():
        count = 1
        for length in info.shape:
            count *= length
        total += count
    return total


def compare_chat(models: dict[str, Path], read: int) -> list[str]:
    results: dict[str, dict[str, float]] = {}
    for name, path in models.items():
        chat = Chat(path)
        figures: dict[str, float] = {}
        asked = []
        for language in ("en", "ko"):
            part = ask_all(chat, read_prompts(language))
            figures |= {f"{k} ({language})": v for k, v in everyday_figures(part).items()}
            asked += part
            fresh = everyday_figures(ask_all(chat, read_prompts(language, "second_")))
            figures[f"acceptable, abilities, second set ({language})"] = fresh[
                "acceptable, abilities"
            ]
        both = {f"{k} (both)": v for k, v in everyday_figures(asked).items()}
        extra = {
            "file, MB": path.stat().st_size / 1e6,
            "child ready, s": chat.seconds_to_ready,
            "tokens/s": tokens_per_second(chat),
        }
        results[name] = both | figures | extra
        chat.close()
        if name == next(iter(models)) and read:
            for one in drawn_to_read(asked, read):
                print(f"> {one.prompt.text}\n  {one.replies[0].text!r}", file=sys.stderr)
    lines = ["| figure | " + " | ".join(results) + " |", "|---|" + "--:|" * len(results)]
    for figure in next(iter(results.values())):
        row = " | ".join(f"{results[name][figure]:.3f}" for name in results)
        lines.append(f"| {figure} | {row} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the bundled model.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the public text sets")
    parser.add_argument("--model", type=Path, default=BUNDLED, help="the model to measure")
    parser.add_argument("--previous", type=Path, help="an earlier version to compare with")
    parser.add_argument("--read", type=int, default=0, help="print so many replies to read")
    arguments = parser.parse_args()
    models = {"this model": arguments.model}
    if arguments.previous:
        models["previous"] = arguments.previous
    parts = [compare_text(arguments.data, models), compare_chat(models, arguments.read)]
    command = "python tests/benchmarks/bundled_model.py --data DATA"
    command += " --previous OLD.gguf" if arguments.previous else ""
    head = [
        "# The bundled model, measured",
        "",
        f"{datetime.date.today()}, {platform.machine()}, {torch.get_num_threads()} threads: "
        f"`{command}`. {SAMPLES} replies to each of 200 everyday prompts at temperature "
        f"{Settings().temperature}, at most {MOST_TOKENS} tokens; shares are over all of them. "
        "What each figure means stands in the script and in `everyday.py`. The rules that accept a "
        "reply look for words: they are written before training and are kinder than a reader (the "
        "recipe's log has fifty replies, read).",
    ]
    text = "\n".join([*head, *(line for part in parts for line in ("", *part)), ""])
    if arguments.model == BUNDLED:
        PAGE.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
