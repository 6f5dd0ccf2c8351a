"""Ratings, comparisons and demonstrations, and the snapshots that runs train on.

Each row holds a whole record as it was given (see ``finetune.contract.records``), so what is
trained on does not change when the conversation does. Undo withdraws a row and keeps it;
feedback of a conversation in the trash leaves the next run with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from desktop_app.storage.database import Database, now
from finetune.contract.records import (
    Comparison,
    Demonstration,
    Rating,
    Record,
    from_json_line,
    read_records,
    to_json_line,
    write_records,
)


@dataclass(frozen=True)
class MessageFeedback:
    """What stands against one message now; None where nothing does."""

    rating: Rating | None = None
    correction: Demonstration | None = None
    comparison: Comparison | None = None


class FeedbackStore:
    """Reads and writes feedback. Methods raise UserError where the disk is full."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, message_id: str, record: Record, instead_of: Sequence[str] = ()) -> None:
        """Keep a record, and take back those that it replaces: both or neither.

        It is on disk when this returns. ``message_id`` is what it is about.
        """
        with self._database.transaction() as connection:
            _set_withdrawn(connection, instead_of, now())
            connection.execute(
                "INSERT INTO feedback (id, conversation_id, message_id, record, created_at)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    record.id, record.conversation_id, message_id, to_json_line(record),
                    record.created_at,
                ),
            )  # fmt: skip

    def withdraw(self, withdrawn: Sequence[str], reinstated: Sequence[str] = ()) -> None:
        """Some records no longer count and others count again: all of it or nothing."""
        with self._database.transaction() as connection:
            _set_withdrawn(connection, withdrawn, now())
            _set_withdrawn(connection, reinstated, None)

    def of_message(self, message_id: str) -> MessageFeedback:
        """The newest standing record of each kind about a message."""
        rows = self._database.connection.execute(
            "SELECT record FROM feedback WHERE message_id = ? AND withdrawn_at IS NULL"
            " ORDER BY rowid",
            (message_id,),
        )
        rating, correction, comparison = None, None, None
        for row in rows:
            record = from_json_line(row["record"])
            if isinstance(record, Rating):
                rating = record
            elif isinstance(record, Demonstration):
                correction = record
            else:
                comparison = record
        return MessageFeedback(rating, correction, comparison)

    def standing(self) -> list[Record]:
        """Everything that counts now, oldest first."""
        rows = self._database.connection.execute(
            """SELECT f.record FROM feedback f JOIN conversations c ON c.id = f.conversation_id
               WHERE f.withdrawn_at IS NULL AND c.deleted_at IS NULL ORDER BY f.rowid"""
        )
        return [from_json_line(row["record"]) for row in rows]

    def has_lost(self, snapshot: Path) -> bool:
        """Whether something in a snapshot was withdrawn since, or its conversation deleted.

        Records that were never given here (somebody's own files) are nobody's to withdraw.
        """
        records, _ = read_records(sorted(snapshot.glob("*.jsonl")))
        standing = {record.id for record in self.standing()}
        rows = self._database.connection.execute("SELECT id FROM feedback")
        given = {row["id"] for row in rows}
        return any(record.id in given and record.id not in standing for record in records)

    def write_snapshot(self, folder: Path) -> int:
        """Freeze what stands now into ``folder`` for a run. Returns the number of records."""
        records = self.standing()
        folder.mkdir(parents=True, exist_ok=False)
        kinds = {"ratings": Rating, "comparisons": Comparison, "demonstrations": Demonstration}
        for name, kind in kinds.items():
            chosen = [record for record in records if isinstance(record, kind)]
            if chosen:
                write_records(folder / f"{name}.jsonl", chosen)
        return len(records)


def _set_withdrawn(
    connection: sqlite3.Connection, record_ids: Sequence[str], time: str | None
) -> None:
    connection.executemany(
        "UPDATE feedback SET withdrawn_at = ? WHERE id = ?", [(time, i) for i in record_ids]
    )
