"""What the database promises: durability, migration, refusal, repair, backups."""

from __future__ import annotations

import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from desktop_app.errors import UserError
from desktop_app.storage import database as database_module
from desktop_app.storage.chat_store import ChatStore
from desktop_app.storage.database import SCHEMA_VERSION, Database

WRITER = Path(__file__).with_name("writing_process.py")


def schema_of(path: Path) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, coalesce(sql, '') FROM sqlite_master")
        return {(str(name), str(sql)) for name, sql in rows}


def write_first_version(path: Path) -> None:
    """A file as the first schema wrote it, with one conversation."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        database_module._create_first_schema(connection)
        connection.execute("PRAGMA user_version = 1")
        connection.execute(
            "INSERT INTO conversations (id, title, created_at, updated_at, current_message_id)"
            " VALUES ('c', 'Old talk', '2026-01-01', '2026-01-01', 'm')"
        )
        connection.execute(
            "INSERT INTO messages (id, conversation_id, role, content, state, created_at)"
            " VALUES ('m', 'c', 'user', 'Wie geht es, 안녕하세요', 'done', '2026-01-01')"
        )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_killing_the_writer_sixty_times_loses_no_acknowledged_row(
    tmp_path: Path, repository: Path
) -> None:
    path = tmp_path / "attune.db"
    chance = random.Random(7)
    acknowledged: dict[str, set[str]] = {"conversation": set(), "message": set(), "feedback": set()}
    for _ in range(60):
        process = subprocess.Popen(
            [sys.executable, str(WRITER), str(path)],
            stdout=subprocess.PIPE,
            cwd=repository,
            env={"PYTHONPATH": str(repository), "PATH": ""},
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()  # it is writing now
        time.sleep(chance.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        # Lines in the pipe were acknowledged; a half line at the end was not.
        for line in process.stdout.read().splitlines(keepends=True):
            if line.endswith("\n"):
                kind, row_id = line.split()
                acknowledged[kind].add(row_id)
        process.stdout.close()
        process.wait()

    database = Database(path)
    assert database.notice == ""
    connection = database.connection
    assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert len(acknowledged["message"]) > 60
    for table, ids in (("messages", "message"), ("feedback", "feedback")):
        found = {row["id"] for row in connection.execute(f"SELECT id FROM {table}")}
        assert acknowledged[ids] <= found
    database.close()


def test_an_empty_file_gets_the_newest_schema(tmp_path: Path) -> None:
    path = tmp_path / "attune.db"
    path.touch()
    database = Database(path)
    assert database.connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    assert database.connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert database.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    database.close()


def test_a_version_1_file_is_backed_up_and_migrated_to_the_same_schema(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "attune.db", tmp_path / "new" / "attune.db"
    old.parent.mkdir()
    write_first_version(old)
    database = Database(old)
    chats = ChatStore(database)
    assert [c.title for c in chats.conversations()] == ["Old talk"]
    assert [m.content for m in chats.path("c")] == ["Wie geht es, 안녕하세요"]
    assert [hit.message_id for hit in chats.search("녕하세")] == ["m"]
    database.close()
    assert len(list((old.parent / "backups").glob("*.db"))) == 1

    Database(new).close()
    assert schema_of(old) == schema_of(new)


def test_a_newer_file_is_refused_in_words_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "attune.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        connection.execute("CREATE TABLE from_the_future (x)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(UserError, match="newer Attune") as caught:
        Database(path)
    assert "Update Attune" in caught.value.hint
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["text", "header", "middle"])
def test_a_damaged_file_is_kept_aside_and_the_backup_takes_its_place(
    tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "attune.db"
    database = Database(path)
    chats = ChatStore(database)
    conversation = chats.create_conversation()
    for number in range(200):
        chats.add_message(conversation.id, None, "user", f"{number} " * 50)
    database.back_up()
    database.close()

    content = bytearray(path.read_bytes())
    if damage == "text":
        content = bytearray(b"this is no database at all, it is a text file" * 100)
    elif damage == "header":
        content[:100] = bytes(100)
    else:
        content[8192:40960] = b"\xff" * (40960 - 8192)
    path.write_bytes(content)

    mended = Database(path)
    assert "backup" in mended.notice
    assert len(ChatStore(mended).siblings(ChatStore(mended).path(conversation.id)[0].id)) == 200
    mended.close()
    assert len(list(tmp_path.glob("attune.db.corrupt-*"))) >= 1


def test_a_damaged_file_without_a_backup_still_starts(tmp_path: Path) -> None:
    path = tmp_path / "attune.db"
    path.write_bytes(b"garbage" * 1000)
    database = Database(path)
    assert "no backup" in database.notice
    assert ChatStore(database).conversations() == []
    database.close()


def test_a_full_disk_is_told_in_words_and_the_store_works_again(tmp_path: Path) -> None:
    database = Database(tmp_path / "attune.db")
    chats = ChatStore(database)
    conversation = chats.create_conversation()
    pages = database.connection.execute("PRAGMA page_count").fetchone()[0]
    database.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(UserError, match="disk is full"):
        chats.add_message(conversation.id, None, "user", "long text " * 10_000)
    database.connection.execute("PRAGMA max_page_count = 1000000")
    kept = chats.add_message(conversation.id, None, "user", "short again")
    assert chats.message(kept.id).content == "short again"
    assert database.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    database.close()


def test_only_the_newest_backups_are_kept(tmp_path: Path) -> None:
    database = Database(tmp_path / "attune.db")
    made = [database.back_up() for _ in range(database_module.BACKUPS_KEPT + 3)]
    assert sorted(made)[3:] == sorted((tmp_path / "backups").glob("*.db"))
    database.back_up_daily()
    assert len(list((tmp_path / "backups").glob("*.db"))) == database_module.BACKUPS_KEPT
    database.close()


def test_mending_that_is_broken_off_is_told_and_done_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "attune.db"
    database = Database(path)
    conversation = ChatStore(database).create_conversation()
    database.back_up()
    database.close()
    path.write_bytes(b"garbage" * 1000)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    replace = os.replace
    with monkeypatch.context() as disk:
        disk.setattr(
            "desktop_app.storage.database.os.replace",
            lambda old, new: full() if str(old).endswith(".partial") else replace(old, new),
        )
        with pytest.raises(UserError, match="No space left"):
            Database(path)
    assert not list(tmp_path.glob("*.partial"))

    path.with_name("attune.db-wal").write_bytes(b"what was to be written into the damaged one")
    mended = Database(path)
    assert "newest backup" in mended.notice
    assert not list(tmp_path.glob("attune.db.corrupt-*.corrupt-*"))
    assert [c.id for c in ChatStore(mended).conversations()] == [conversation.id]
    mended.close()
    assert list(tmp_path.glob("attune.db.corrupt-*"))
