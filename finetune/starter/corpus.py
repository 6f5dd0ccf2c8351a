"""What the starter model reads: which files, how much of each, and what is held out.

Pretraining reads prose, lists of sentences and talk; chat tuning reads conversations whose
assistant is an assistant. Chats between two people (both sides have a human life) are plain talk
in pretraining; only short, harmless beginnings of them come into chat tuning, and persona chats
never do. Files under ``nolicence/`` and other vendors' model output are not listed here at all.

A conversation is held out as a whole, decided by a hash of its file and first words, so that the
split survives new rows and another order. Reads the gzipped JSON lines described in the data
folder's README, and our own conversations from ``conversations/*.txt`` beside this file.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

from finetune.contract.errors import InputError
from finetune.starter.tokenizer import Message

Form = Literal["prose", "lines", "talk", "chat"]
Language = Literal["en", "ko", "both"]

NAME, AUTHOR = "Attune", "the Attune project"
HELD_OUT_PER_MILLE = 20
LINES_PER_DOCUMENT = 12
SHORT_DIALOGUE = 6  # messages of a long chat between people that come into chat tuning
LONGEST_COMPLETION = 600  # characters; the model is for short replies
NEAR = 0.7  # Jaccard index from which a prompt counts as one of the examination's

OWN = "conversations"
EVERYDAY = Path(__file__).parent
"""Holds ``everyday_*.txt``: prompts that the finished model is asked and never trained on."""


@dataclass(frozen=True)
class Source:
    """One file. ``pretrain`` and ``chat`` say how many times its rows are read in each stage;
    a fraction reads that share of the rows, chosen by hash."""

    file: str
    form: Form
    language: Language
    pretrain: float
    chat: float
    licence: str
    origin: str


SOURCES = (
    Source("tinystories_en", "prose", "en", 2.0, 0, "CDLA-Sharing-1.0", "TinyStories (Eldan, Li)"),
    Source("storybooks_en", "prose", "en", 2.0, 0, "CC-BY", "African Storybook, Pratham Books"),
    Source("fairytales_en", "prose", "en", 1.0, 0, "Apache-2.0", "FairytaleQA (uci-soe)"),
    Source("sa/kornlu_sentences_ko", "prose", "ko", 3.0, 0, "CC-BY-SA-4.0", "KorNLU (kakaobrain)"),
    Source("sa/wikipedia_ko", "prose", "ko", 0.16, 0, "CC-BY-SA-3.0", "Korean Wikipedia, 2020"),
    Source("sa/wikipedia_en", "prose", "en", 0.2, 0, "CC-BY-SA-3.0", "English Wikipedia, 2015"),
    Source("question_pair_prompts_ko", "lines", "ko", 4.0, 0, "MIT", "Question_pair (songys)"),
    Source("sa/3i4k_prompts_ko", "lines", "ko", 3.0, 0, "CC-BY-SA-4.0", "3i4K (warnikchow)"),
    Source("clinc150_prompts_en", "lines", "en", 1.0, 0, "CC-BY-3.0", "CLINC150 (clinc)"),
    Source("self_dialogue_en", "talk", "en", 0.5, 0, "BSD-3-Clause", "Self-dialogue corpus"),
    Source("topical_chat_en", "talk", "en", 0.5, 0, "CDLA-Sharing-1.0", "Topical-Chat (Alexa)"),
    Source("human_conversation_en", "talk", "en", 3.0, 2.0, "CC0-1.0", "via IntelLabs/ConvAssist"),
    Source("xpersona_en", "talk", "en", 1.0, 0, "MIT", "XPersona (HLTCHKUST)"),
    Source("xpersona_ko", "talk", "ko", 4.0, 0, "MIT", "XPersona (HLTCHKUST)"),
    Source("sa/sgd_en", "chat", "en", 0.1, 0, "CC-BY-SA-4.0", "Schema-Guided Dialogue"),
    Source("taskmaster4_coffee_en", "chat", "en", 0.5, 0, "CC-BY-4.0", "Taskmaster-4 (Google)"),
    Source("self_instruct_seed_en", "chat", "en", 2.0, 0, "Apache-2.0", "Self-Instruct (Y. Wang)"),
    Source("chatterbot_en", "chat", "en", 3.0, 3.0, "BSD-3-Clause", "ChatterBot corpus (G. Cox)"),
    Source("personality_chat_en", "chat", "en", 3.0, 4.0, "MIT", "Personality Chat (Microsoft)"),
    Source("identity_en", "chat", "en", 2.0, 4.0, "Apache-2.0", "LLaMA-Factory (hiyouga)"),
    Source("chatbot_ko", "chat", "ko", 4.0, 1.0, "MIT", "Chatbot_data (songys)"),
    Source("chatterbot_ko", "chat", "ko", 3.0, 2.0, "BSD-3-Clause", "ChatterBot corpus (G. Cox)"),
    Source("hgtods_music_chat_ko", "chat", "ko", 2.0, 0, "MIT", "HG-TODS (NLPlab-skku)"),
    Source("hgtods_manual_ko", "chat", "ko", 1.5, 0, "MIT", "HG-TODS (NLPlab-skku)"),
    Source("tatoeba_translate_enko", "chat", "both", 2.0, 1.0, "CC-BY-2.0-FR", "Tatoeba"),
)


REPOSITORIES: Final[Mapping[str, str]] = {
    "tinystories_en": (
        "gusjengis/toy-RNN @ e4c7ff8bba4f, Arnoochka/Transformer-Parallelism @ 911b9e732fbe"
    ),
    "storybooks_en": ("global-asp/asp-source @ 99e022369a98, global-asp/pb-source @ 9ea530dfb001"),
    "fairytales_en": "uci-soe/FairytaleQAData @ a24ddc173646",
    "sa/kornlu_sentences_ko": "kakaobrain/KorNLUDatasets @ 0df0fe7d496e",
    "sa/wikipedia_ko": "HyundongHwang/PyTorchDeepLearningStart @ d462dbe5466d",
    "sa/wikipedia_en": "jason-feng/wikiVisual @ 1c0fac92f29f",
    "question_pair_prompts_ko": "songys/Question_pair @ e84b6f0e784c",
    "sa/3i4k_prompts_ko": "warnikchow/3i4k @ cfa90c15f808",
    "clinc150_prompts_en": "clinc/oos-eval @ 828f8093932c",
    "self_dialogue_en": "jfainberg/self_dialogue_corpus @ 113a1b0ff103",
    "topical_chat_en": "alexa/Topical-Chat @ 7c939229cbcf",
    "human_conversation_en": "IntelLabs/ConvAssist @ ce7dba6efae6",
    "xpersona_en": "HLTCHKUST/Xpersona @ 1da049a1bbf3",
    "xpersona_ko": "HLTCHKUST/Xpersona @ 1da049a1bbf3",
    "sa/sgd_en": "google-research-datasets/dstc8-schema-guided-dialogue @ e852981ae349",
    "taskmaster4_coffee_en": "google-research-datasets/Taskmaster @ d92cb6af3005",
    "self_instruct_seed_en": "yizhongw/self-instruct @ 0b26ccaa4159",
    "chatterbot_en": "gunthercox/chatterbot-corpus @ a01efece2666",
    "personality_chat_en": "ntulsi/BotBuilder-PersonalityChat @ 67174467a6d9",
    "identity_en": "hiyouga/LLaMA-Factory @ ff6d4d12eeb0",
    "chatbot_ko": "songys/Chatbot_data @ 4cf20d13fc46",
    "chatterbot_ko": "gunthercox/chatterbot-corpus @ a01efece2666",
    "hgtods_music_chat_ko": "NLPlab-skku/HG-TODS @ 7c8cea000b82",
    "hgtods_manual_ko": "NLPlab-skku/HG-TODS @ 7c8cea000b82",
    "tatoeba_translate_enko": "nate-koser/kor-eng-translator @ 75021833d344",
}
"""Where each file was taken from: repository on GitHub and commit."""


@dataclass(frozen=True)
class Document:
    """A text or a conversation of one source; exactly one of ``text`` and ``messages`` is set."""

    source: str
    language: Language
    held_out: bool
    text: str = ""
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Turn:
    """One turn of our own conversations; ``texts[1:]`` say or answer the same wish otherwise."""

    role: str
    texts: tuple[str, ...]


# ---------------------------------------------------------------- cleaning and splitting

_INVISIBLE = re.compile("[\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\x00-\x08\x0b-\x1f\x7f]")
_HUMAN_LIFE = re.compile(
    r"\b(my (wife|husband|dog|dogs|cat|cats|kid|kids|son|daughter|mom|mother|dad|father|brother|"
    r"sister|family|parents|job|boss|house|car|girlfriend|boyfriend|friend|friends)|"
    r"i('m| am) (from|married|years old|a (man|woman|student|teacher|nurse))|i live|i work|"
    r"i grew up|i was born|when i was|i (went|saw|watched|ate|bought|drove|played|visited))\b",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """Composed characters, plain spaces and newlines, nothing invisible, no outer space."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = _INVISIBLE.sub("", text.replace("\u00a0", " ").replace("\t", " "))
    text = re.sub(r" {2,}", " ", text)
    text = re.sub(r" *\n *", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def stable_share(key: str) -> float:
    """A number in [0, 1) that depends on the key alone, on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64


def fold(text: str) -> str:
    """Letters and digits only, lower case: what makes two openings the same."""
    return re.sub(r"[^\w]+", "", text.casefold())


def is_held_out(source: str, opening: str) -> bool:
    """Decided by a conversation's first words, so that its variants fall on the same side."""
    return stable_share(f"held-out/{source}/{fold(opening)[:80]}") * 1000 < HELD_OUT_PER_MILLE


def copies(epochs: float, key: str) -> int:
    """How often a row is read: the whole part always, the rest by chance that is not chance."""
    whole = int(epochs)
    return whole + (stable_share("copies/" + key) < epochs - whole)


@cache
def everyday_prompts() -> frozenset[str]:
    """The prompts that no training text may hold, folded."""
    found = set()
    for path in sorted(EVERYDAY.glob("everyday_*.txt")):
        for line in path.read_text("utf-8").splitlines():
            if line and not line.startswith("#"):
                found.add(fold(line.split(" | ")[1]))
    return frozenset(found)


@cache
def _everyday_pieces() -> tuple[list[int], dict[str, list[int]]]:
    """How many three-letter pieces each of those prompts has, and which prompts hold a piece."""
    sizes: list[int] = []
    holders: dict[str, list[int]] = {}
    for number, prompt in enumerate(sorted(everyday_prompts())):
        pieces = _pieces(prompt)
        sizes.append(len(pieces))
        for piece in pieces:
            holders.setdefault(piece, []).append(number)
    return sizes, holders


def _pieces(folded: str) -> frozenset[str]:
    return frozenset(folded[i : i + 3] for i in range(max(1, len(folded) - 2)))


@cache
def is_everyday(text: str) -> bool:
    """Whether it is one of those prompts, or so near to one that knowing it would be cheating:
    at least NEAR of all three-letter pieces of either are in both (Jaccard index)."""
    folded = fold(text)
    if folded in everyday_prompts():
        return True
    if not 0 < len(folded) <= 120:
        return False
    pieces = _pieces(folded)
    sizes, holders = _everyday_pieces()
    shared = Counter(number for piece in pieces for number in holders.get(piece, ()))
    return any(
        many >= NEAR * (len(pieces) + sizes[number] - many) for number, many in shared.items()
    )


def has_everyday_prompt(messages: Iterable[Message]) -> bool:
    return any(m.role == "user" and is_everyday(m.content) for m in messages)


def language_of(text: str) -> Language:
    return "ko" if re.search("[\uac00-\ud7a3]", text) else "en"


# ---------------------------------------------------------------- our own conversations


def parse_conversations(text: str) -> tuple[list[list[Turn]], list[str]]:
    """Read the format of ``conversations/*.txt``; returns conversations and what was wrong.

    ``S: ``, ``U: `` and ``A: `` open a turn, two leading spaces continue it after a newline, an
    empty line ends the conversation, ``#`` opens a comment. Several ``U: `` in a row are other
    phrasings of one wish, several ``A: `` other completions: each of these fits each of those. A
    faulty conversation is left out and named by its line.
    """
    conversations: list[list[Turn]] = []
    problems: list[str] = []
    turns: list[Turn] = []
    fault = ""
    started = 0

    def finish() -> None:
        nonlocal turns, fault
        if turns or fault:
            fault = fault or _fault(turns)
            if fault:
                problems.append(f"line {started}: {fault}")
            else:
                conversations.append(turns)
        turns, fault = [], ""

    for number, line in enumerate(unicodedata.normalize("NFC", text).splitlines(), start=1):
        if line.startswith("#"):
            continue
        if not line.strip():
            finish()
            continue
        if not turns and not fault:
            started = number
        if line.startswith("  "):
            if turns:
                *others, last = turns[-1].texts
                turns[-1] = Turn(turns[-1].role, (*others, last + "\n" + line[2:].rstrip()))
            else:
                fault = "a continuation line without a turn before it"
            continue
        role = {"S:": "system", "U:": "user", "A:": "assistant"}.get(line[:2])
        content = line[2:].strip()
        if role is None or not content:
            fault = fault or f"cannot read {line[:30]!r}"
        elif role != "system" and turns and turns[-1].role == role:
            turns[-1] = Turn(role, (*turns[-1].texts, content))
        else:
            turns.append(Turn(role, (content,)))
    finish()
    return conversations, problems


def _fault(turns: list[Turn]) -> str:
    roles = [turn.role for turn in turns]
    if roles and roles[0] == "system":
        roles = roles[1:]
    if not roles:
        return "nothing but a system turn"
    if roles != ["user" if i % 2 == 0 else "assistant" for i in range(len(roles))]:
        return "turns must alternate, the person first"
    return "" if len(roles) % 2 == 0 else "the last turn must be the assistant's"


def training_examples(turns: list[Turn]) -> list[tuple[Message, ...]]:
    """The conversation by first texts, all replies learned; then each other completion alone."""
    firsts = [Message(turn.role, turn.texts[0]) for turn in turns]
    main = tuple(Message(m.role, m.content, learn=m.role == "assistant") for m in firsts)
    examples = [main]
    for index, turn in enumerate(turns):
        if turn.role == "assistant":
            for other in turn.texts[1:]:
                examples.append((*firsts[:index], Message(turn.role, other, learn=True)))
    return examples


def phrasing_examples(turns: list[Turn]) -> list[tuple[Message, ...]]:
    """Every other phrasing of a wish with every reply to it, after the first texts before it."""
    firsts = [Message(turn.role, turn.texts[0]) for turn in turns]
    examples: list[tuple[Message, ...]] = []
    for index, turn in enumerate(turns):
        if turn.role == "user":
            for phrasing in turn.texts[1:]:
                for reply in turns[index + 1].texts:
                    said = Message("user", phrasing), Message("assistant", reply, learn=True)
                    examples.append((*firsts[:index], *said))
    return examples


def own_documents(
    folder: Path, epochs: float, phrasing_epochs: float
) -> tuple[list[Document], list[str]]:
    """Our own conversations, repeated; held-out ones once. Broken ones are reported, not fatal.

    A held-out conversation that begins as another one goes on or is also begun is neither: what
    is measured on it would be known.
    """
    groups: list[list[Turn]] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*.txt")):
        conversations, faults = parse_conversations(path.read_text("utf-8", errors="replace"))
        problems += [f"{path.name}, {fault}" for fault in faults]
        groups += conversations
    held = [is_held_out(OWN, _first_wish(turns).texts[0]) for turns in groups]
    learned = {
        fold(text)
        for turns, held_out in zip(groups, held, strict=True)
        if not held_out
        for turn in turns
        if turn.role == "user"
        for text in turn.texts
    }
    documents: list[Document] = []
    for turns, held_out in zip(groups, held, strict=True):
        wish = _first_wish(turns)
        if held_out and any(fold(text) in learned for text in wish.texts):
            continue
        read = [(messages, epochs) for messages in training_examples(turns)]
        if not held_out:  # a few groups would be most of what is held out
            read += [(messages, phrasing_epochs) for messages in phrasing_examples(turns)]
        for messages, times in read:
            filled = tuple(Message(m.role, _fill(m.content), m.learn) for m in messages)
            if has_everyday_prompt(filled):
                continue
            document = Document(OWN, language_of(wish.texts[0]), held_out, messages=filled)
            key = OWN + "".join(m.content for m in messages)
            documents += [document] * (1 if held_out else copies(times, key))
    return documents, problems


def _first_wish(turns: list[Turn]) -> Turn:
    return next(turn for turn in turns if turn.role == "user")


# ---------------------------------------------------------------- the public files


def read_rows(data: Path, source: Source) -> Iterator[dict[str, object]]:
    path = data / f"{source.file}.jsonl.gz"
    if not path.is_file():
        raise InputError(f"The data folder has no file {source.file}.jsonl.gz.")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise InputError(f"{source.file}.jsonl.gz holds a line that is no object.")
            yield row


def pretraining_documents(data: Path, source: Source) -> Iterator[Document]:
    """Prose as it is, sentences a dozen to a document, people's talk as a list, chat as ChatML."""
    if not source.pretrain:
        return
    lines: dict[bool, list[str]] = {False: [], True: []}
    for row in read_rows(data, source):
        messages = _messages(row)
        text = clean(str(row.get("text", "")))
        opening = text if source.form == "prose" else _opening(messages)
        if not opening or has_everyday_prompt(messages):
            continue
        held_out = is_held_out(source.file, opening)
        key = source.file + text + "".join(m.content for m in messages)
        times = min(1, copies(source.pretrain, key)) if held_out else copies(source.pretrain, key)
        if not times:
            continue
        if source.form == "lines":
            lines[held_out] += [opening] * times
        elif source.form == "prose":
            yield from [Document(source.file, source.language, held_out, text)] * times
        elif source.form == "talk":
            talk = "\n".join("- " + m.content.replace("\n", " ") for m in messages)
            yield from [Document(source.file, source.language, held_out, talk)] * times
        else:
            chat = Document(source.file, source.language, held_out, messages=tuple(messages))
            yield from [chat] * times
    for held_out, group in lines.items():
        group.sort(key=lambda line: stable_share("order/" + line))
        for start in range(0, len(group), LINES_PER_DOCUMENT):
            text = "\n".join(group[start : start + LINES_PER_DOCUMENT])
            yield Document(source.file, source.language, held_out, text)


def chat_documents(data: Path, source: Source) -> Iterator[Document]:
    """Conversations for chat tuning, completions marked; people's talk only its harmless start."""
    if not source.chat:
        return
    for row in read_rows(data, source):
        messages = _messages(row)
        opening = _opening(messages)
        if source.form == "talk":
            messages = messages[:SHORT_DIALOGUE]
            messages = messages[: len(messages) - len(messages) % 2]
            if any(m.role == "assistant" and _HUMAN_LIFE.search(m.content) for m in messages):
                continue
        replies = [m.content for m in messages if m.role == "assistant"]
        if not opening or not replies or not all(replies) or has_everyday_prompt(messages):
            continue
        if max(len(reply) for reply in replies) > LONGEST_COMPLETION:
            continue
        held_out = is_held_out(source.file, opening)
        times = copies(source.chat, source.file + "".join(m.content for m in messages))
        marked = tuple(Message(m.role, m.content, m.role == "assistant") for m in messages)
        document = Document(source.file, language_of(opening), held_out, messages=marked)
        yield from [document] * (min(times, 1) if held_out else times)


def _messages(row: dict[str, object]) -> list[Message]:
    raw = row.get("messages", [])
    if not isinstance(raw, list):
        return []
    return [Message(str(m["role"]), _fill(clean(str(m["content"])))) for m in raw]


def _opening(messages: list[Message]) -> str:
    return next((m.content for m in messages if m.role == "user"), "")


def _fill(text: str) -> str:
    return text.replace("{{name}}", NAME).replace("{{author}}", AUTHOR)
