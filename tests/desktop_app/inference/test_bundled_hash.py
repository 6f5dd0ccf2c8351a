"""A large bundled file is read through once, on a thread, with progress."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from desktop_app.errors import UserError
from desktop_app.inference import model_store
from desktop_app.inference.model_store import ModelStore, ref_of_file


@pytest.fixture(autouse=True)
def _large_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_store, "_READ_AT_ONCE", 1000)
    monkeypatch.setattr(model_store, "_PIECE", 50_000)


def test_until_it_was_read_it_has_a_provisional_name(tmp_path: Path, model_file: Path) -> None:
    store = ModelStore(tmp_path, model_file)
    assert store.must_hash
    (version,) = store.versions()
    assert (version.version_id, version.base_sha256) == ("bundled", "")
    assert version.name == "tiny random 0"  # from its header, which is quick
    with pytest.raises(UserError, match="still being read"):
        store.base_of_active()  # nothing may be trained on a file of unknown hash


def test_it_is_read_on_any_thread_and_known_from_then_on(tmp_path: Path, model_file: Path) -> None:
    store = ModelStore(tmp_path, model_file)
    assert store.must_hash
    told: list[float] = []

    def note(fraction: float) -> bool:
        told.append(fraction)
        return True

    thread = threading.Thread(target=store.hash_bundled, args=(note,))
    thread.start()
    thread.join()
    assert told == sorted(told)
    assert told[-1] == 1
    assert len(told) > 3
    assert store.must_hash  # the object is still as it was
    store.forget_provisional()
    assert not store.must_hash
    sha256 = hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert store.active().sha256 == sha256
    assert store.active().version_id == f"bundled-{sha256[:12]}"
    assert not ModelStore(tmp_path, model_file).must_hash  # nor at the next start


def test_giving_up_leaves_it_unknown(tmp_path: Path, model_file: Path) -> None:
    store = ModelStore(tmp_path, model_file)
    store.hash_bundled(lambda fraction: False)
    store.forget_provisional()
    assert store.must_hash


def test_a_file_that_vanishes_meanwhile_is_a_sentence(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, tmp_path / "gone.gguf")
    with pytest.raises(UserError, match=r"gone\.gguf cannot be read"):
        store.hash_bundled(lambda fraction: True)


def test_a_file_outside_of_the_store_can_be_named(model_file: Path) -> None:
    ref = ref_of_file(model_file)
    assert ref.sha256 == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert ref.version_id == f"bundled-{ref.sha256[:12]}"
