"""Records -> what the stages learn from: demonstrations, ranked prompts, prompts to practise on.

Every example is the prompt as it was sent, by the contract's one function. Conversations are
split into training and held out by a stable hash, those that open alike on one side: no turn of one
that is held out is seen in training, and from run to run most of them stay on their side. Not all
do: a share that the hash leaves too small is filled up, and with more feedback another
conversation may fill it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from finetune.contract.chat_template import (
    CHATML,
    Message,
    Segment,
    TrainingExample,
    encode,
    training_example,
)
from finetune.contract.reasoning import answer_prompt
from finetune.contract.records import Comparison, Demonstration, Rating, Record
from finetune.vocabulary import GgufVocabulary

EXPLICIT_WEIGHT = 1.0
"""A choice between two, or a correction over what it corrects."""
ACROSS_WEIGHT = 0.7
"""One completion of a prompt liked, another disliked: a choice, but made at two moments."""
FEWEST_CONVERSATIONS = 4
"""With fewer, holding one out would cost too much of what there is to learn from."""


@dataclass(frozen=True)
class Prompt:
    """What a completion is asked for: token ids, and the last message to show a person."""

    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class RankedPrompt:
    """All judgements of one prompt's completions; each completion stands here once."""

    completions: tuple[TrainingExample, ...]
    pairs: tuple[tuple[int, int, float], ...]
    """(better, worse, weight), indices into ``completions``."""
    thumbs: tuple[tuple[int, bool, float], ...]
    """(completion, liked, weight)."""
    margins: tuple[float, ...] = ()
    """How far apart the pairs lie in their ranking, from 0 for neighbours to 1 for the best and
    the worst of many; one for each of ``pairs``, or none at all where all are 0."""


@dataclass(frozen=True)
class Part:
    """The training part or the held-out part."""

    demonstrations: tuple[TrainingExample, ...]
    preferences: tuple[RankedPrompt, ...]
    prompts: tuple[Prompt, ...]

    @property
    def pair_count(self) -> int:
        return sum(len(group.pairs) for group in self.preferences)

    @property
    def thumb_count(self) -> int:
        return sum(len(group.thumbs) for group in self.preferences)

    @property
    def preference_count(self) -> int:
        """Signals a reward model can learn from."""
        return self.pair_count + self.thumb_count

    @property
    def is_judged(self) -> bool:
        """Whether anything is said about a completion here."""
        return bool(self.demonstrations or self.preferences)

    def without(self, seen: Collection[tuple[int, ...]]) -> Part:
        """The same, but for all that these prompts ask."""
        return Part(
            tuple(e for e in self.demonstrations if prompt_of(e) not in seen),
            tuple(g for g in self.preferences if prompt_of(g.completions[0]) not in seen),
            tuple(p for p in self.prompts if p.ids not in seen),
        )


@dataclass(frozen=True)
class Dataset:
    """Everything a run learns from, and sentences about what was left out."""

    train: Part
    held_out: Part
    notes: tuple[str, ...]
    demonstration_count: int
    preference_count: int
    """Of both parts, with what is held out but cannot be measured on."""
    thumbs: Mapping[bool, int]
    """How many completions are liked, and how many are not."""


class Encoder:
    """Messages -> token ids within a limit, by the template that travels with the model."""

    def __init__(self, vocabulary: GgufVocabulary, template: str | None, max_tokens: int) -> None:
        self.vocabulary = vocabulary
        self.template = template or CHATML
        self.max_tokens = max_tokens

    def prompt(self, messages: Sequence[Message], room: int) -> tuple[int, ...] | None:
        """Ids of a prompt that leaves ``room`` tokens; oldest turns go first, None if too long."""
        shortened: Sequence[Message] | None = messages
        while shortened is not None:
            ids = encode(self._segments(shortened), self.vocabulary)
            if len(ids) + room <= self.max_tokens:
                return tuple(ids)
            shortened = _without_oldest_turn(shortened)
        return None

    def example(self, messages: Sequence[Message], completion: str) -> TrainingExample | None:
        """The training example of a completion, within the limit; None where it is too long."""
        shortened: Sequence[Message] | None = messages
        while shortened is not None:
            example = training_example(self._segments(shortened), completion, self.vocabulary)
            if len(example.ids) <= self.max_tokens:
                return example
            shortened = _without_oldest_turn(shortened)
        return None

    def _segments(self, messages: Sequence[Message]) -> list[Segment]:
        return answer_prompt(messages, self.template, self.vocabulary.template_tokens)


def _without_oldest_turn(messages: Sequence[Message]) -> Sequence[Message] | None:
    """Drop the oldest exchange behind the system message; None where only one is left."""
    system = [m for m in messages[:1] if m.role == "system"]
    rest = list(messages[len(system) :])
    later = [i for i, m in enumerate(rest) if i > 0 and m.role == "user"]
    return [*system, *rest[later[0] :]] if later else None


# --- splitting -------------------------------------------------------------------------------


def held_out_conversations(records: Sequence[Record], fraction: float) -> frozenset[str]:
    """Ids of the conversations that no stage may learn from.

    Conversations that open alike are one, with the id of the first of them: who asks again is
    measured on other questions. Not so where the opening is more than ``fraction`` of all records
    (a person who always begins with hello), since then it would be everything that is held out, or
    nothing else would be learned; what is equal in both parts is left out of the measurement then.

    Those whose id's hash lies below ``fraction``, and the next ones in order until a share of
    ``fraction`` is reached. One that would take half of all records is passed over.
    """
    openings: dict[str, str] = {}
    firsts: dict[str, str] = {}
    for record in records:
        opening = openings.setdefault(record.conversation_id, _opening(record))
        firsts.setdefault(opening, record.conversation_id)
    common = Counter(openings[record.conversation_id] for record in records)
    most = fraction * common.total()
    group_of = {
        conversation: firsts[opening] if opening and common[opening] <= most else conversation
        for conversation, opening in openings.items()
    }
    sizes = Counter(group_of[record.conversation_id] for record in records)
    if len(sizes) < FEWEST_CONVERSATIONS or fraction <= 0:
        return frozenset()
    total, taken = sum(sizes.values()), 0
    held: set[str] = set()
    for place, group in sorted((_unit_hash(g), g) for g in sizes):
        if place >= fraction and taken >= fraction * total:
            break
        if taken + sizes[group] <= total / 2:
            held.add(group)
            taken += sizes[group]
    return frozenset(c for c, group in group_of.items() if group in held)


def _opening(record: Record) -> str:
    """What the person said first, whatever its case and spacing."""
    first = next((m.content for m in record.prompt if m.role == "user"), "")
    return " ".join(first.split()).casefold()


def _unit_hash(text: str) -> float:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


# --- records -> examples ---------------------------------------------------------------------


def build_dataset(
    records: Sequence[Record],
    encoder: Encoder,
    *,
    held_out_fraction: float,
    rating_weight: float,
    completion_room: int,
) -> Dataset:
    """Turn feedback into training and held-out parts.

    ``completion_room``: tokens that a practice prompt has to leave for its completion.
    """
    records = sorted(records, key=lambda record: (record.created_at, record.id))
    held = held_out_conversations(records, held_out_fraction)
    train = _Collector(encoder, completion_room)
    held_out = _Collector(encoder, completion_room)
    for record in records:
        (held_out if record.conversation_id in held else train).add(record)

    thumbs = Counter(
        liked
        for part in (train, held_out)
        for group in part.groups.values()
        for liked in group.thumbs.values()
    )
    balance = _class_balance(thumbs)
    learned = train.part(rating_weight, balance)
    whole = held_out.part(rating_weight, balance)
    unseen = whole.without(train.all_prompts())
    notes: list[str] = []
    too_long = train.too_long + held_out.too_long
    if too_long:
        notes.append(
            f"{too_long} completions are longer than {encoder.max_tokens} tokens with their "
            "prompt and were left out."
        )
    if not held or (whole.is_judged and not unseen.is_judged):
        notes.append(
            "The feedback comes from too few conversations that begin differently, so the result "
            "cannot be measured on unseen ones."
        )
    return Dataset(
        learned,
        unseen,
        tuple(notes),
        len(learned.demonstrations) + len(whole.demonstrations),
        learned.preference_count + whole.preference_count,
        thumbs,
    )


def _class_balance(thumbs: Counter[bool]) -> dict[bool, float]:
    """Factors that make likes and dislikes weigh the same in sum; empty where one is missing."""
    if len(thumbs) < 2:
        return {}
    return {liked: thumbs.total() / (2 * count) for liked, count in thumbs.items()}


@dataclass
class _Group:
    """What was said about one prompt's completions, while it is being collected."""

    completions: dict[TrainingExample, int] = field(default_factory=dict)
    pairs: dict[tuple[int, int], float] = field(default_factory=dict)
    margins: dict[tuple[int, int], float] = field(default_factory=dict)
    thumbs: dict[int, bool] = field(default_factory=dict)

    def index(self, example: TrainingExample) -> int:
        return self.completions.setdefault(example, len(self.completions))

    def add_pairs_across_thumbs(self) -> None:
        for better, liked in self.thumbs.items():
            for worse, also_liked in self.thumbs.items():
                known = (better, worse) in self.pairs or (worse, better) in self.pairs
                if liked and not also_liked and not known:
                    self.pairs[better, worse] = ACROSS_WEIGHT


class _Collector:
    """Gathers one part: dedupes, groups by prompt, and counts what is too long."""

    def __init__(self, encoder: Encoder, completion_room: int) -> None:
        self._encoder = encoder
        self._room = completion_room
        # Whether a thumb or the person's own words speak for it, or comparisons alone.
        self._demonstrations: dict[TrainingExample, bool] = {}
        self.groups: dict[tuple[int, ...], _Group] = {}
        self.prompts: dict[tuple[int, ...], Prompt] = {}
        self.too_long = 0

    def add(self, record: Record) -> None:
        self._practise(record.prompt)
        match record:
            case Rating():
                self._rate(record.prompt, record.completion.text, record.liked)
            case Comparison():
                self._compare(record)
            case Demonstration():
                self._demonstrate(record)

    def all_prompts(self) -> frozenset[tuple[int, ...]]:
        """Every prompt that is practised on, or whose completions are learned or judged."""
        learned = {prompt_of(example) for example in self._demonstrations}
        return frozenset({*self.prompts, *self.groups, *learned})

    def part(self, rating_weight: float, balance: dict[bool, float]) -> Part:
        groups: list[RankedPrompt] = []
        for group in self.groups.values():
            group.add_pairs_across_thumbs()
            thumbs = tuple(
                (index, liked, rating_weight * balance[liked])
                for index, liked in group.thumbs.items()
                if balance
            )
            pairs = tuple((i, j, weight) for (i, j), weight in group.pairs.items())
            if pairs or thumbs:
                margins = tuple(group.margins.get(pair, 0.0) for pair in group.pairs)
                groups.append(
                    RankedPrompt(
                        tuple(group.completions), pairs, thumbs, margins if any(margins) else ()
                    )
                )
        return Part(tuple(self._demonstrations), tuple(groups), tuple(self.prompts.values()))

    def _practise(self, messages: Sequence[Message]) -> None:
        """Every user turn of the conversation so far is a prompt to practise on."""
        for end, message in enumerate(messages, start=1):
            if message.role == "user":
                ids = self._encoder.prompt(messages[:end], self._room)
                if ids is not None:
                    self.prompts.setdefault(ids, Prompt(ids, message.content))

    def _rate(self, prompt: Sequence[Message], text: str, liked: bool) -> None:
        example = self._example(prompt, text)
        if example is None:
            return
        group = self._group(example)
        group.thumbs[group.index(example)] = liked  # the latest judgement counts
        if liked:
            self._learn(example)
        else:
            self._demonstrations.pop(example, None)

    def _compare(self, record: Comparison) -> None:
        if record.verdict != "ordered":
            for completion in record.completions:
                self._rate(record.prompt, completion.text, record.verdict == "all_good")
            return
        examples = [self._example(record.prompt, c.text) for c in record.completions]
        places = sorted(set(record.ranks))
        preferred: list[tuple[TrainingExample, TrainingExample, float]] = []
        for i, j in record.pairs():
            better, worse = examples[i], examples[j]
            if better is not None and worse is not None:
                between = places.index(record.ranks[j]) - places.index(record.ranks[i]) - 1
                preferred.append((better, worse, between / max(1, len(places) - 2)))
        # All before the first is set: a text that stands twice in one ranking contradicts itself.
        for better, worse, _ in preferred:
            self._take_back(worse, better)
        for example, rank in zip(examples, record.ranks, strict=True):
            if example is not None and rank == places[0] and not self._is_disliked(example):
                self._learn(example, only_compared=True)
        for better, worse, margin in preferred:
            self._prefer(better, worse, margin)

    def _demonstrate(self, record: Demonstration) -> None:
        example = self._example(record.prompt, record.completion.text)
        if example is None:
            return
        self._learn(example)
        if record.corrects is not None:
            corrected = self._example(record.prompt, record.corrects.text)
            if corrected is not None:
                self._take_back(corrected, example)
                self._prefer(example, corrected)

    def _prefer(self, better: TrainingExample, worse: TrainingExample, margin: float = 0.0) -> None:
        group = self._group(better)
        i, j = group.index(better), group.index(worse)
        if i != j:
            group.pairs[i, j] = EXPLICIT_WEIGHT
            group.margins[i, j] = margin

    def _take_back(self, better: TrainingExample, worse: TrainingExample) -> None:
        """The opposite is said now, and the latest judgement counts."""
        group = self.groups.get(prompt_of(better), _Group())
        pair = group.completions.get(better, -1), group.completions.get(worse, -1)
        if group.pairs.pop(pair, None) is None or self._demonstrations.get(better):
            return
        if not any(winner == pair[0] for winner, _ in group.pairs):
            self._demonstrations.pop(better, None)

    def _is_disliked(self, example: TrainingExample) -> bool:
        group = self.groups.get(prompt_of(example), _Group())
        return group.thumbs.get(group.completions.get(example, -1)) is False

    def _learn(self, example: TrainingExample, *, only_compared: bool = False) -> None:
        if sum(example.completion_mask) > 1:  # more than an end of turn
            known = self._demonstrations.get(example, False)
            self._demonstrations[example] = known or not only_compared

    def _group(self, example: TrainingExample) -> _Group:
        return self.groups.setdefault(prompt_of(example), _Group())

    def _example(self, prompt: Sequence[Message], text: str) -> TrainingExample | None:
        example = self._encoder.example(prompt, text)
        self.too_long += example is None
        return example


def prompt_of(example: TrainingExample) -> tuple[int, ...]:
    """The ids of an example before its completion."""
    return example.ids[: example.completion_mask.index(True)]


def still_wanted(have: int, wanted: int) -> int:
    """How many more pieces of feedback a stage asks for."""
    return max(0, math.ceil(wanted - have))
