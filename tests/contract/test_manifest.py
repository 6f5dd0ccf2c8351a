"""A version's manifest: read as written, damage noticed, files whole or absent."""

import dataclasses
import json
from pathlib import Path

import pytest

from finetune.contract import manifest as manifests
from finetune.contract.errors import InputError
from finetune.contract.manifest import FileEntry, Manifest


def version(folder: Path) -> Manifest:
    (folder / "adapter.gguf").write_bytes(b"weights")
    manifest = Manifest(
        version_id="v2",
        name="나의 모델",
        created_at="2026-11-20T10:00:00Z",
        parent="v1",
        base_sha256="ab" * 32,
        template_id="t",
        files={"adapter": "adapter.gguf"},
        entries={"adapter.gguf": manifests.entry_of(folder / "adapter.gguf")},
        recipe={"seed": 1},
        metrics={"win_rate": 0.7},
    )
    manifests.write_manifest(folder, manifest)
    return manifest


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = version(tmp_path)
    assert manifests.read_manifest(tmp_path) == manifest
    manifests.verify_files(tmp_path, manifest)


def test_an_entry_holds_size_and_sha256(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert manifests.entry_of(tmp_path / "empty") == FileEntry(0, nothing)


@pytest.mark.parametrize("damage", [b"Weights", b"weight", None])
def test_a_changed_or_missing_file_is_named(tmp_path: Path, damage: bytes | None) -> None:
    manifest = version(tmp_path)
    path = tmp_path / "adapter.gguf"
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(InputError, match=r"adapter\.gguf"):
        manifests.verify_files(tmp_path, manifest)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "entries": 3}'])
def test_a_damaged_manifest_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=tmp_path.name):
        manifests.read_manifest(tmp_path)


def test_a_missing_manifest_and_a_newer_one_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a model version"):
        manifests.read_manifest(tmp_path)
    newer = {"format": 99, **dataclasses.asdict(version(tmp_path))}
    (tmp_path / "manifest.json").write_text(json.dumps(newer), encoding="utf-8")
    with pytest.raises(InputError, match="newer"):
        manifests.read_manifest(tmp_path)


def test_a_whole_file_replaces_the_old_one_and_leaves_nothing_beside(tmp_path: Path) -> None:
    manifests.write_whole(tmp_path / "a", b"old")
    manifests.write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
