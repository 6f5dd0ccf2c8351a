"""Conversations as trees of messages.

A message has a parent; regenerating or editing adds a sibling, and nothing is ever replaced.
A conversation remembers its current message: the path from there to the root is what the
person sees and what the model is sent.
"""

from __future__ import annotations

import json
import unicodedata
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from desktop_app.storage.database import Database, now
from finetune.contract.records import Origin

MessageState = Literal["partial", "done", "stopped", "interrupted"]
"""partial: being written. stopped: the person ended it, or there was no room for more.
interrupted: the engine or the app died while it was written."""


Overflow = Literal["drop", "stop", "summarise"]
"""What happens when a conversation outgrows the context."""


@dataclass(frozen=True)
class Conversation:
    """A conversation, and how much of it the model sees.

    Attributes:
        seen_from: the first message that the model saw last time; None if it saw all.
        summary: what stands for the messages up to ``summarised_to``.
        context_used: tokens of the context that were taken last time.
    """

    id: str
    title: str
    updated_at: str
    current_message_id: str | None
    overflow: Overflow = "drop"
    seen_from: str | None = None
    summary: str = ""
    summarised_to: str | None = None
    context_used: int = 0


@dataclass(frozen=True)
class Reasoning:
    """What a model thought before it answered, and for how long."""

    text: str = ""
    seconds: float = 0.0


NO_REASONING: Final = Reasoning()


@dataclass(frozen=True)
class StoredMessage:
    """A message with its place among its siblings (``sibling_index`` counts from 0).

    ``content`` is the answer alone: it is what is sent again, searched, judged and learned.
    """

    id: str
    conversation_id: str
    parent_id: str | None
    role: Literal["user", "assistant"]
    content: str
    state: MessageState
    origin: Origin | None
    created_at: str
    sibling_index: int = 0
    sibling_count: int = 1
    reasoning: Reasoning = NO_REASONING


@dataclass(frozen=True)
class SearchHit:
    conversation_id: str
    message_id: str
    excerpt: str


class ChatStore:
    """Reads and writes conversations. All methods raise UserError where the disk is full."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- conversations ---

    def create_conversation(self) -> Conversation:
        conversation = Conversation(uuid.uuid4().hex, "", now(), None)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO conversations (id, created_at, updated_at) VALUES (?, ?, ?)",
                (conversation.id, conversation.updated_at, conversation.updated_at),
            )
        return conversation

    def conversations(self) -> list[Conversation]:
        """Those that are not in the trash, last used first."""
        rows = self._database.connection.execute(
            "SELECT * FROM conversations WHERE deleted_at IS NULL"
            " ORDER BY updated_at DESC, rowid DESC"
        )
        return [_conversation(row) for row in rows]

    def conversation(self, conversation_id: str) -> Conversation:
        row = self._database.connection.execute(
            "SELECT * FROM conversations WHERE id = ?", (conversation_id,)
        ).fetchone()
        return _conversation(row)

    def rename(self, conversation_id: str, title: str) -> None:
        self._set(conversation_id, "title", title)

    def delete(self, conversation_id: str) -> None:
        """Move to the trash; ``restore`` brings it back."""
        self._set(conversation_id, "deleted_at", now())

    def restore(self, conversation_id: str) -> None:
        self._set(conversation_id, "deleted_at", None)

    def set_overflow(self, conversation_id: str, overflow: Overflow) -> None:
        self._set(conversation_id, "overflow", overflow)

    def set_summary(self, conversation_id: str, text: str, to_message_id: str) -> None:
        """Keep what stands for the messages up to this one."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE conversations SET summary = ?, summarised_to = ? WHERE id = ?",
                (text, to_message_id, conversation_id),
            )

    def set_context(self, conversation_id: str, used: int, seen_from: str | None) -> None:
        """Keep how many tokens were taken, and where what the model saw begins."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE conversations SET context_used = ?, seen_from = ? WHERE id = ?",
                (used, seen_from, conversation_id),
            )

    def search(self, text: str, limit: int = 50) -> list[SearchHit]:
        """Messages that contain ``text``, best first; works inside Korean words."""
        # A keyboard writes composed letters; SQLite ends a text at a NUL.
        text = unicodedata.normalize("NFC", text).replace("\0", "").strip()
        if not text:
            return []
        if len(text) < 3:  # a trigram index cannot find less than three letters
            where, argument = "m.content LIKE ? ESCAPE '\\'", f"%{_escape_like(text)}%"
            order, source = "m.created_at DESC", "messages m"
            excerpt = "substr(m.content, max(1, instr(m.content, ?) - 20), 80)"
            parameters = (text, argument, limit)
        else:
            where, argument = "message_search MATCH ?", '"' + text.replace('"', '""') + '"'
            order = "rank"
            source = "message_search JOIN messages m ON m.rowid = message_search.rowid"
            excerpt = "snippet(message_search, 0, '', '', '…', ?)"
            parameters = ("24", argument, limit)
        rows = self._database.connection.execute(
            f"""SELECT m.id, m.conversation_id, {excerpt} AS excerpt FROM {source}
                JOIN conversations c ON c.id = m.conversation_id AND c.deleted_at IS NULL
                WHERE {where} ORDER BY {order} LIMIT ?""",
            parameters,
        )
        return [SearchHit(r["conversation_id"], r["id"], r["excerpt"]) for r in rows]

    # --- messages ---

    def add_message(
        self,
        conversation_id: str,
        parent_id: str | None,
        role: Literal["user", "assistant"],
        content: str,
        *,
        state: MessageState = "done",
        origin: Origin | None = None,
        make_current: bool = True,
    ) -> StoredMessage:
        """Store a message under ``parent_id``; it is on disk when this returns."""
        message_id, time = uuid.uuid4().hex, now()
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO messages (id, conversation_id, parent_id, role, content, state,"
                " origin, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    message_id, conversation_id, parent_id, role, content, state,
                    _origin_json(origin), time,
                ),
            )  # fmt: skip
            connection.execute(
                "UPDATE conversations SET updated_at = ? WHERE id = ?", (time, conversation_id)
            )
            if make_current:
                connection.execute(
                    "UPDATE conversations SET current_message_id = ? WHERE id = ?",
                    (message_id, conversation_id),
                )
        return self.message(message_id)

    def update_message(
        self,
        message_id: str,
        content: str,
        state: MessageState,
        origin: Origin | None = None,
        reasoning: Reasoning = NO_REASONING,
    ) -> None:
        """Store how far a completion has come."""
        thought = (reasoning.text, reasoning.seconds) if reasoning.text else (None, None)
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE messages SET content = ?, state = ?, origin = coalesce(?, origin),"
                " reasoning = ?, reasoning_seconds = ? WHERE id = ?",
                (content, state, _origin_json(origin), *thought, message_id),
            )

    def message(self, message_id: str) -> StoredMessage:
        row = self._database.connection.execute(
            "SELECT * FROM messages WHERE id = ?", (message_id,)
        ).fetchone()
        return self._with_siblings(row)

    def path(self, conversation_id: str) -> list[StoredMessage]:
        """The messages from the first to the current one."""
        rows = self._database.connection.execute(
            """WITH RECURSIVE path(id, depth) AS (
                SELECT current_message_id, 0 FROM conversations WHERE id = ?
                UNION ALL
                SELECT m.parent_id, depth + 1 FROM messages m JOIN path ON m.id = path.id
                WHERE m.parent_id IS NOT NULL
            ) SELECT m.* FROM path JOIN messages m ON m.id = path.id ORDER BY depth DESC""",
            (conversation_id,),
        ).fetchall()
        return [self._with_siblings(row) for row in rows]

    def is_answered(self, message_id: str) -> bool:
        """Whether the conversation went on behind this message."""
        row = self._database.connection.execute(
            "SELECT 1 FROM messages WHERE parent_id = ? AND conversation_id ="
            " (SELECT conversation_id FROM messages WHERE id = ?) LIMIT 1",
            (message_id, message_id),
        ).fetchone()
        return row is not None

    def siblings(self, message_id: str) -> list[StoredMessage]:
        """The message and its alternatives, oldest first."""
        message = self._database.connection.execute(
            "SELECT conversation_id, parent_id FROM messages WHERE id = ?", (message_id,)
        ).fetchone()
        rows = self._siblings(message["conversation_id"], message["parent_id"])
        return [self._with_siblings(row) for row in rows]

    def set_current(self, conversation_id: str, message_id: str) -> None:
        """Show the branch through ``message_id``, down to its newest descendant."""
        leaf = self._database.connection.execute(
            """WITH RECURSIVE branch(id, depth) AS (
                SELECT ?, 0
                UNION ALL
                SELECT (SELECT m.id FROM messages m
                        WHERE m.conversation_id = ? AND m.parent_id = branch.id
                        ORDER BY m.rowid DESC LIMIT 1), depth + 1
                FROM branch WHERE branch.id IS NOT NULL
            ) SELECT id FROM branch WHERE id IS NOT NULL ORDER BY depth DESC LIMIT 1""",
            (message_id, conversation_id),
        ).fetchone()[0]
        self._set(conversation_id, "current_message_id", leaf)

    def mark_interrupted(self) -> int:
        """Messages still "partial" belong to an app that died: say so. Returns how many."""
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "UPDATE messages SET state = 'interrupted' WHERE state = 'partial'"
            )
        return cursor.rowcount

    def _siblings(self, conversation_id: str, parent_id: str | None) -> list[Any]:
        return self._database.connection.execute(
            "SELECT * FROM messages WHERE conversation_id = ? AND parent_id IS ? ORDER BY rowid",
            (conversation_id, parent_id),
        ).fetchall()

    def _with_siblings(self, row: Any) -> StoredMessage:
        ids = [r["id"] for r in self._siblings(row["conversation_id"], row["parent_id"])]
        return StoredMessage(
            id=row["id"],
            conversation_id=row["conversation_id"],
            parent_id=row["parent_id"],
            role=row["role"],
            content=row["content"],
            state=row["state"],
            origin=_origin(row["origin"]),
            created_at=row["created_at"],
            sibling_index=ids.index(row["id"]),
            sibling_count=len(ids),
            reasoning=Reasoning(row["reasoning"] or "", row["reasoning_seconds"] or 0.0),
        )

    def _set(self, conversation_id: str, column: str, value: str | None) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                f"UPDATE conversations SET {column} = ? WHERE id = ?", (value, conversation_id)
            )


def _conversation(row: Any) -> Conversation:
    return Conversation(
        row["id"],
        row["title"],
        row["updated_at"],
        row["current_message_id"],
        row["overflow"],
        row["seen_from"],
        row["summary"],
        row["summarised_to"],
        row["context_used"],
    )


def _origin_json(origin: Origin | None) -> str | None:
    return None if origin is None else json.dumps(asdict(origin), ensure_ascii=False)


def _origin(text: str | None) -> Origin | None:
    if text is None:
        return None
    raw: Mapping[str, Any] = json.loads(text)
    return Origin(**raw)


def _escape_like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
