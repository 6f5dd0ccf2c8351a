"""Rating, correcting, comparing; undo; what has been collected, and is it enough.

Every record is built here, from the conversation on disk, so that it holds the messages up
to the turn, the completion exactly as generated and the files that really made it.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from PySide6.QtCore import QObject, Signal

from desktop_app.storage.chat_store import ChatStore, StoredMessage
from desktop_app.storage.database import now
from desktop_app.storage.feedback_store import FeedbackStore, MessageFeedback
from finetune.contract.chat_template import Message
from finetune.contract.recipe import Recipe
from finetune.contract.records import (
    Comparison,
    Completion,
    Demonstration,
    Rating,
    Record,
    Verdict,
)


@dataclass(frozen=True)
class Collected:
    """What stands now, and how much more each stage of learning wants."""

    liked: int
    disliked: int
    comparisons: int
    corrections: int
    demonstrations: int
    """Completions SFT can learn from."""
    preferences: int
    """Pairs the reward model can learn from, and thumbs where there are both kinds."""
    demonstrations_wanted: int
    preferences_wanted: int
    is_one_sided: bool = False
    """There are thumbs, all up or all down."""

    @property
    def total(self) -> int:
        return self.liked + self.disliked + self.comparisons + self.corrections

    @property
    def is_enough_for_sft(self) -> bool:
        return self.demonstrations >= self.demonstrations_wanted

    @property
    def is_enough_for_reward(self) -> bool:
        return self.preferences >= self.preferences_wanted


@dataclass(frozen=True)
class UndoOffer:
    """The last piece of feedback, which ``undo`` takes back."""

    kind: Literal["liked", "disliked", "correction", "comparison", "cleared", "correction_cleared"]
    message_id: str


class FeedbackService(QObject):
    """The only writer of feedback.

    Signals:
        message_changed(message id): what stands against a message is different.
        collected_changed: the counts are different.
        undo_changed(UndoOffer or None): what ``undo`` would take back.
    """

    message_changed = Signal(str)
    collected_changed = Signal()
    undo_changed = Signal(object)

    def __init__(
        self,
        chats: ChatStore,
        feedback: FeedbackStore,
        system_prompt: str = "",
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._chats = chats
        self._feedback = feedback
        self._undo: tuple[UndoOffer, list[str], list[str]] | None = None
        self.system_prompt = system_prompt

    def of_message(self, message_id: str) -> MessageFeedback:
        return self._feedback.of_message(message_id)

    def rate(self, message_id: str, liked: bool | None) -> None:
        """Thumb up, thumb down, or None to take the thumb away."""
        standing = self._feedback.of_message(message_id).rating
        removed = [] if standing is None else [standing.id]
        if liked is None:
            if removed:
                self._feedback.withdraw(removed)
                self._finish(UndoOffer("cleared", message_id), [], removed)
            return
        message = self._chats.message(message_id)
        record = Rating(
            uuid.uuid4().hex,
            message.conversation_id,
            self._prompt_of(message),
            _completion_of(message),
            liked,
            now(),
        )
        self._feedback.add(message_id, record, removed)
        self._finish(UndoOffer("liked" if liked else "disliked", message_id), [record.id], removed)

    def correct(self, message_id: str, text: str) -> None:
        """Keep what the person would have wanted to read instead; the message's own text takes
        the correction back."""
        text = text.strip()
        message = self._chats.message(message_id)
        standing = self._feedback.of_message(message_id).correction
        removed = [] if standing is None else [standing.id]
        if text == message.content.strip():
            if removed:
                self._feedback.withdraw(removed)
                self._finish(UndoOffer("correction_cleared", message_id), [], removed)
            return
        if not text:
            return
        record = Demonstration(
            uuid.uuid4().hex,
            message.conversation_id,
            self._prompt_of(message),
            Completion(text),
            _completion_of(message),
            now(),
        )
        self._feedback.add(message_id, record, removed)
        self._finish(UndoOffer("correction", message_id), [record.id], removed)

    def compare(self, message_ids: Sequence[str], chosen: str | None, verdict: Verdict) -> None:
        """Keep a choice between sibling completions; ``chosen`` is None for a tie."""
        messages = [self._chats.message(i) for i in message_ids]
        ranks = tuple(int(chosen is not None and m.id != chosen) for m in messages)
        self.compare_completions(
            messages[0].conversation_id,
            chosen or messages[0].id,
            self._prompt_of(messages[0]),
            [_completion_of(m) for m in messages],
            ranks,
            verdict,
        )

    def compare_completions(
        self,
        conversation_id: str,
        message_id: str,
        prompt: tuple[Message, ...],
        completions: Sequence[Completion],
        ranks: tuple[int, ...],
        verdict: Verdict,
    ) -> None:
        """Keep a choice between completions that are no messages (a version trial)."""
        record = Comparison(
            uuid.uuid4().hex, conversation_id, prompt, tuple(completions), ranks, verdict, now()
        )
        self._feedback.add(message_id, record)
        self._finish(UndoOffer("comparison", message_id), [record.id], [])

    def undo(self) -> None:
        """Take the last piece of feedback back."""
        if self._undo is None:
            return
        offer, added, removed = self._undo
        self._feedback.withdraw(added, removed)
        self._undo = None
        self.undo_changed.emit(None)
        self.message_changed.emit(offer.message_id)
        self.collected_changed.emit()

    def collected(self) -> Collected:
        return count(self._feedback.standing(), Recipe())

    def recount(self) -> None:
        """A conversation went to the trash or came back, and its feedback with it."""
        self.collected_changed.emit()

    def prompts(self) -> list[tuple[str, str, tuple[Message, ...]]]:
        """(conversation id, message id, prompt) of the person's own turns, newest first."""
        found = []
        for conversation in self._chats.conversations():
            path = self._chats.path(conversation.id)
            for index, message in enumerate(path):
                if message.role == "user":
                    history = [Message(m.role, m.content) for m in path[: index + 1]]
                    prompt = _with_system(history, self.system_prompt)
                    found.append((conversation.id, message.id, prompt))
        return found

    def _prompt_of(self, message: StoredMessage) -> tuple[Message, ...]:
        """The messages before a completion, as they were sent."""
        history: list[Message] = []
        parent = message.parent_id
        while parent is not None:
            above = self._chats.message(parent)
            history.insert(0, Message(above.role, above.content))
            parent = above.parent_id
        sampling = message.origin.sampling if message.origin else {}
        sent = sampling.get("system_prompt")
        del history[: sampling.get("left_out_messages", 0)]
        return _with_system(history, self.system_prompt if sent is None else sent)

    def _finish(self, offer: UndoOffer, added: list[str], removed: list[str]) -> None:
        self._undo = (offer, added, removed)
        self.message_changed.emit(offer.message_id)
        self.collected_changed.emit()
        self.undo_changed.emit(offer)


def count(records: Sequence[Record], recipe: Recipe) -> Collected:
    """Count feedback the way the trainer will, but for what it holds out and what is too long."""
    said: dict[tuple[Message, ...], _Judged] = {}
    for record in sorted(records, key=lambda record: (record.created_at, record.id)):
        said.setdefault(record.prompt, _Judged()).add(record)
    ratings = [r for r in records if isinstance(r, Rating)]
    liked = sum(r.liked for r in ratings)
    thumbs = Counter(liked for judged in said.values() for liked in judged.liked.values())
    pairs = sum(judged.pair_count for judged in said.values())
    return Collected(
        liked=liked,
        disliked=len(ratings) - liked,
        comparisons=sum(isinstance(r, Comparison) for r in records),
        corrections=sum(isinstance(r, Demonstration) for r in records),
        demonstrations=sum(len(judged.learned) for judged in said.values()),
        # Thumbs of one kind alone say nothing of taste.
        preferences=pairs + (thumbs.total() if len(thumbs) == 2 else 0),
        demonstrations_wanted=recipe.min_demonstrations,
        preferences_wanted=recipe.min_preferences,
        is_one_sided=len(thumbs) == 1,
    )


@dataclass
class _Judged:
    """What was said about one prompt's completions, by their texts, while it is being collected.

    A text that was judged twice counts once, as it was judged last: what ``finetune.data`` does
    with token ids, which are not known here.
    """

    learned: dict[str, bool] = field(default_factory=dict)
    """Whether a thumb or the person's own words speak for it, or comparisons alone."""
    better: set[tuple[str, str]] = field(default_factory=set)
    """(better, worse)."""
    liked: dict[str, bool] = field(default_factory=dict)

    @property
    def pair_count(self) -> int:
        """Chosen pairs, and those of one that is liked with one that is not."""
        good = [text for text, liked in self.liked.items() if liked]
        bad = [text for text, liked in self.liked.items() if not liked]
        across = {(g, b) for g in good for b in bad if (b, g) not in self.better}
        return len(self.better | across)

    def add(self, record: Record) -> None:
        """Take one more record in, the oldest first."""
        match record:
            case Rating():
                self._rate(record.completion.text, record.liked)
            case Comparison(verdict="ordered"):
                self._order(record)
            case Comparison():
                for completion in record.completions:
                    self._rate(completion.text, record.verdict == "all_good")
            case Demonstration():
                self._learn(record.completion.text)
                if record.corrects is not None:
                    self._prefer([(record.completion.text, record.corrects.text)])

    def _rate(self, text: str, liked: bool) -> None:
        self.liked[text] = liked
        if liked:
            self._learn(text)
        else:
            self.learned.pop(text, None)

    def _order(self, record: Comparison) -> None:
        texts = [completion.text for completion in record.completions]
        self._prefer([(texts[i], texts[j]) for i, j in record.pairs()])
        for text, rank in zip(texts, record.ranks, strict=True):
            if rank == min(record.ranks) and self.liked.get(text) is not False:
                self._learn(text, only_compared=True)

    def _prefer(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Take back what said the opposite before any of them is set: a text that stands twice in
        one ranking contradicts itself."""
        for better, worse in pairs:
            self._take_back(worse, better)
        self.better.update((better, worse) for better, worse in pairs if better != worse)

    def _take_back(self, better: str, worse: str) -> None:
        if (better, worse) not in self.better:
            return
        self.better.remove((better, worse))
        is_preferred_still = any(winner == better for winner, _ in self.better)
        if not self.learned.get(better) and not is_preferred_still:
            self.learned.pop(better, None)

    def _learn(self, text: str, *, only_compared: bool = False) -> None:
        if text:  # more than an end of turn
            self.learned[text] = self.learned.get(text, False) or not only_compared


def _with_system(history: list[Message], system_prompt: str) -> tuple[Message, ...]:
    lead = [Message("system", system_prompt)] if system_prompt else []
    return (*lead, *history)


def _completion_of(message: StoredMessage) -> Completion:
    return Completion(message.content, message.origin)
