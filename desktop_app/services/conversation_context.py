"""What the model sees of a conversation: all of it, its end, or its end after a summary.

The engine decides what fits; here stands what is sent, what came of it, and what the person is
told: how full the context is and from which message on the model sees the conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from desktop_app.inference.fitting import reserved
from desktop_app.storage.chat_store import ChatStore, Conversation, Overflow, StoredMessage
from finetune.contract.chat_template import Message

LONGEST_SUMMARY: Final = 256


@dataclass(frozen=True)
class Sent:
    """What a turn sends.

    Attributes:
        messages: the system prompt, if there is one, and what follows it.
        ids: of the stored messages among them, without the system prompt.
        system_prompt: the person's, with the summary.
        hidden: older messages that the summary stands for.
    """

    messages: tuple[Message, ...] = ()
    ids: tuple[str, ...] = ()
    system_prompt: str = ""
    hidden: int = 0


NOTHING_SENT: Final = Sent()


@dataclass(frozen=True)
class ContextUse:
    """How full the context is, in tokens; ``unseen`` counts messages that it does not hold."""

    used: int = 0
    reserved: int = 0
    total: int = 0
    unseen: int = 0

    @property
    def free(self) -> int:
        return max(0, self.total - self.used - self.reserved)


@dataclass(frozen=True)
class ContextMark:
    """Where what the model sees begins.

    Attributes:
        before: the first message that it sees.
        unseen: how many messages stand above.
        summary: what it reads in their place; "" for nothing.
    """

    before: str
    unseen: int
    summary: str = ""


class ConversationContext:
    """Keeps with each conversation what the model saw of it."""

    def __init__(self, store: ChatStore) -> None:
        self._store = store

    def overflow(self, conversation_id: str) -> Overflow:
        """What happens when this conversation outgrows the context."""
        return self._store.conversation(conversation_id).overflow

    def set_overflow(self, conversation_id: str, overflow: Overflow) -> None:
        """In force from the next turn on."""
        self._store.set_overflow(conversation_id, overflow)

    def sent(
        self,
        conversation_id: str,
        before: Sequence[StoredMessage],
        system_prompt: str,
        summary_title: str,
    ) -> Sent:
        """What is sent for a turn.

        Args:
            before: the messages above the turn's completion.
            summary_title: stands above the summary.
        """
        conversation = self._store.conversation(conversation_id)
        hidden = _summarised(conversation, before)
        if hidden:
            system_prompt = f"{system_prompt}\n\n{summary_title}\n{conversation.summary}".strip()
        lead = [Message("system", system_prompt)] if system_prompt else []
        rest = before[hidden:]
        messages = (*lead, *(Message(m.role, m.content) for m in rest))
        return Sent(messages, tuple(m.id for m in rest), system_prompt, hidden)

    def to_summarise(self, sent: Sent, count: int, instruction: str) -> tuple[Message, ...]:
        """The prompt whose completion stands for the ``count`` oldest messages."""
        lead = len(sent.messages) - len(sent.ids)
        return (*sent.messages[: lead + count], Message("user", instruction))

    def keep_summary(self, conversation_id: str, sent: Sent, count: int, summary: str) -> None:
        self._store.set_summary(conversation_id, summary, sent.ids[count - 1])

    def keep_use(self, conversation_id: str, sent: Sent, dropped: int, used: int) -> None:
        """Note what came of a turn.

        Args:
            dropped: the oldest of those sent that the engine left out.
            used: tokens of the prompt and the completion.
        """
        seen_from = sent.ids[dropped] if sent.hidden + dropped else None
        self._store.set_context(conversation_id, used, seen_from)

    def use(self, conversation_id: str, max_tokens: int, total: int) -> ContextUse:
        """How full the context is with this conversation, as far as is known."""
        mark = self.mark(conversation_id)
        return ContextUse(
            min(total, self._store.conversation(conversation_id).context_used),
            reserved(max_tokens, total),
            total,
            mark.unseen if mark is not None else 0,
        )

    def mark(self, conversation_id: str) -> ContextMark | None:
        """Where what the model saw last time begins, if that is not the beginning."""
        conversation = self._store.conversation(conversation_id)
        if conversation.seen_from is None:
            return None
        path = self._store.path(conversation_id)
        unseen = next((i for i, m in enumerate(path) if m.id == conversation.seen_from), 0)
        if unseen == 0:  # another branch is shown
            return None
        summary = conversation.summary if _summarised(conversation, path) else ""
        return ContextMark(conversation.seen_from, unseen, summary)


def summary_tokens(context_length: int) -> int:
    """How long a summary may be: an eighth of the context at most."""
    return min(LONGEST_SUMMARY, context_length // 8)


def _summarised(conversation: Conversation, path: Sequence[StoredMessage]) -> int:
    """How many of the first messages of a branch the summary stands for."""
    if conversation.overflow != "summarise" or not conversation.summary:
        return 0
    ids = [message.id for message in path]
    return ids.index(conversation.summarised_to) + 1 if conversation.summarised_to in ids else 0
