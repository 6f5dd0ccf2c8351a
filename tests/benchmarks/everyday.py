"""The 200 everyday prompts and what is asked of a reply to them, by rule.

The prompts and their rules stand in ``finetune/starter/everyday_*.txt``, written before the
training; the corpus leaves out every conversation that has one of them, or one near to it. A second
set of 80 was written when the first had been looked at often: it guards against learning for the
examination. A rule says what a reply
has to mention; it cannot say whether the reply is pleasant, so fifty replies are also read by a
person (``finetune/starter/LOG.md``).
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

ABILITIES = (
    "greeting",
    "name",
    "thanks",
    "goodbye",
    "feelings",
    "favourites",
    "weather",
    "request",
)
"""The kinds whose share of acceptable replies has a goal; the other kinds are reported too."""

_HANGUL = re.compile("[\uac00-\ud7a3]")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True)
class EverydayPrompt:
    """One prompt; ``acceptable`` is the pattern that an acceptable reply matches."""

    language: str
    kind: str
    text: str
    acceptable: re.Pattern[str]

    def accepts(self, reply: str) -> bool:
        return bool(self.acceptable.search(reply))


def read_prompts(language: str, prefix: str = "") -> list[EverydayPrompt]:
    """The hundred prompts of a language ("en" or "ko"); with "second_" the forty others."""
    path = Path(__file__).parents[2] / f"finetune/starter/everyday_{prefix}{language}.txt"
    prompts = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            kind, text, pattern = line.split(" | ", 2)
            rule = re.compile(pattern.strip(), re.IGNORECASE)
            prompts.append(EverydayPrompt(language, kind.strip(), text.strip(), rule))
    return prompts


def is_in_language(prompt: EverydayPrompt, reply: str) -> bool:
    """Whether a reply is in its prompt's language; translations may be in both.

    Korean: at least half of the letters are Hangul. English: none is.
    """
    if re.search("Korean|영어", prompt.text):
        return bool(_LETTER.search(reply))
    letters = len(_LETTER.findall(reply))
    hangul = len(_HANGUL.findall(reply))
    if prompt.language == "ko":
        return hangul > 0 and 2 * hangul >= letters
    return letters > 0 and hangul == 0


def loops(reply: str) -> bool:
    """Whether some run of four words stands in it four times."""
    words = reply.split()
    seen: dict[tuple[str, ...], int] = {}
    for start in range(len(words) - 3):
        run = tuple(words[start : start + 4])
        seen[run] = seen.get(run, 0) + 1
    return any(count >= 4 for count in seen.values())


def distinct_2(replies: list[str]) -> float:
    """Different pairs of neighbouring words in several replies to one prompt, over all pairs.

    Li et al. 2016. A reply of one word counts as one pair, so that four times "Yes." is no gain.
    """
    pairs: list[tuple[str, ...]] = []
    for reply in replies:
        words = reply.split()
        pairs += list(itertools.pairwise(words)) or [tuple(words)]
    return len(set(pairs)) / max(len(pairs), 1)
