"""Versions on disk: installed whole or not at all, and there is always a model to chat with."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from desktop_app.errors import UserError
from desktop_app.inference.engine import ModelReady
from desktop_app.inference.llama_engine import LlamaEngine
from desktop_app.inference.model_store import ModelStore
from finetune.contract.errors import InputError
from finetune.contract.manifest import (
    Manifest,
    entry_of,
    file_sha256,
    read_manifest,
    write_manifest,
)
from tests.desktop_app.inference.asking import ask
from tests.tiny_models import TinyShape, write_adapter, write_model


@pytest.fixture
def store(tmp_path: Path, model_file: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", model_file)


def export(
    folder: Path, base: Path, name: str, *, seed: int = 1, parent: str | None = None
) -> Path:
    """A finished run's export folder."""
    target = folder / f"export-{name}"
    target.mkdir()
    write_adapter(target / "adapter.gguf", seed=seed)
    shutil.copyfile(base, target / "model.gguf")
    files = {"adapter": "adapter.gguf", "model": "model.gguf"}
    manifest = Manifest(
        version_id=name,
        name=f"Personal {name}",
        created_at=f"2026-11-21T00:00:{seed:02}+00:00",
        parent=parent,
        base_sha256=file_sha256(base),
        template_id="ab",
        files=files,
        entries={file: entry_of(target / file) for file in files.values()},
    )
    write_manifest(target, manifest)
    return target


def edit(folder: Path, **changes: object) -> None:
    write_manifest(folder, replace(read_manifest(folder), **changes))  # type: ignore[arg-type]


# --- the bundled model -----------------------------------------------------------------------


def test_at_first_there_is_the_bundled_model(store: ModelStore, model_file: Path) -> None:
    (bundled,) = store.versions()
    assert bundled.parent is None
    assert bundled.base_sha256 == file_sha256(model_file)
    active = store.active()
    assert active.version_id == bundled.version_id == store.base_of_active()
    assert (active.path, active.sha256) == (str(model_file), bundled.base_sha256)
    assert active.adapter is None
    assert store.problems() == []
    assert store.previous() is None
    with pytest.raises(InputError, match="no earlier"):
        store.roll_back()


def test_the_bundled_models_hash_is_computed_once_and_again_when_the_file_changes(
    tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = tmp_path / "bundled.gguf"
    shutil.copyfile(model_file, bundled)
    hashed: list[Path] = []

    def counting(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr("finetune.contract.manifest.file_sha256", counting)
    first = ModelStore(tmp_path / "models", bundled).active()
    assert ModelStore(tmp_path / "models", bundled).active() == first
    assert len(hashed) == 1
    write_model(bundled, seed=5)
    assert ModelStore(tmp_path / "models", bundled).active().sha256 != first.sha256
    assert len(hashed) == 2


def test_a_missing_bundled_model_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        ModelStore(tmp_path / "models", tmp_path / "none.gguf").active()


# --- a version's life ------------------------------------------------------------------------


def test_install_activate_and_roll_back(
    store: ModelStore, tmp_path: Path, model_file: Path
) -> None:
    bundled = store.active()
    manifest = store.install(export(tmp_path, model_file, "v1", parent=bundled.version_id))
    assert store.active() == bundled  # nothing changes before it is activated
    assert [version.version_id for version in store.versions()] == [bundled.version_id, "v1"]

    store.activate("v1")
    active = store.active()
    assert active.version_id == "v1"
    assert (active.path, active.sha256) == (bundled.path, bundled.sha256)
    assert active.adapter is not None
    assert active.adapter.sha256 == manifest.entries["adapter.gguf"].sha256
    assert store.base_of_active() == bundled.version_id
    assert ModelStore(tmp_path / "models", model_file).active() == active

    assert store.previous() == bundled.version_id
    assert store.roll_back() == bundled
    assert store.active() == bundled


def test_rolling_back_leads_to_the_parent_and_else_to_what_was_active(
    store: ModelStore, tmp_path: Path, model_file: Path
) -> None:
    bundled = store.active().version_id
    for number, parent in (("v1", bundled), ("v2", "v1"), ("v3", "gone")):
        store.install(export(tmp_path, model_file, number, seed=int(number[1]), parent=parent))
    store.activate("v3")
    store.activate("v2")
    assert store.roll_back().version_id == "v1"  # the parent, not v3
    store.activate("v2")
    store.activate("v3")
    assert store.roll_back().version_id == "v2"  # the parent is gone


def test_what_is_installed_can_be_loaded_and_differs_from_the_base(
    store: ModelStore, tmp_path: Path, model_file: Path
) -> None:
    store.install(export(tmp_path, model_file, "v1"))
    engine = LlamaEngine(threads=1)
    ref = store.ref("v1")
    assert isinstance(list(engine.load(ref))[-1], ModelReady)
    both = ask(engine, "Hello", seeds=[1, 1], adapters=[None, ref.adapter])
    assert both.texts[0] != both.texts[1]
    engine.close()


def test_the_export_can_be_deleted_afterwards(
    store: ModelStore, tmp_path: Path, model_file: Path
) -> None:
    folder = export(tmp_path, model_file, "v1")
    store.install(folder)
    shutil.rmtree(folder)
    store.activate("v1")
    assert store.problems() == []


def test_installing_twice_is_once_and_another_one_of_that_name_is_refused(
    store: ModelStore, tmp_path: Path, model_file: Path
) -> None:
    folder = export(tmp_path, model_file, "v1")
    assert store.install(folder) == store.install(folder)
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="already another"):
        store.install(export(tmp_path / "other", model_file, "v1", seed=2))


def test_removing(store: ModelStore, tmp_path: Path, model_file: Path) -> None:
    bundled = store.active().version_id
    store.install(export(tmp_path, model_file, "v1"))
    store.activate("v1")
    for version, reason in (("v1", "active"), (bundled, "bundled"), ("v9", "no model version")):
        with pytest.raises(InputError, match=reason):
            store.remove(version)
    store.roll_back()
    store.remove("v1")
    assert [version.version_id for version in store.versions()] == [bundled]
    assert list((tmp_path / "models" / "versions").iterdir()) == []


def test_who_went_back_to_the_bundled_model_is_told_nothing_of_another_one(
    store: ModelStore, tmp_path: Path, model_file: Path
) -> None:
    store.install(export(tmp_path, model_file, "v1"))
    store.activate("v1")
    store.roll_back()
    newer = write_model(tmp_path / "newer.gguf", seed=9)
    assert ModelStore(tmp_path / "models", newer).problems() == []  # an update of the app
    store.activate("v1")
    assert ModelStore(tmp_path / "models", newer, is_chosen=True).problems() == []  # --model


def test_while_the_file_is_read_nothing_is_activated(
    tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path / "models", model_file)
    store.install(export(tmp_path, model_file, "v1"))
    monkeypatch.setattr(ModelStore, "must_hash", True)
    with pytest.raises(UserError, match="still being read"):
        store.activate("v1")
    monkeypatch.setattr(ModelStore, "must_hash", False)
    assert store.active().version_id.startswith("bundled")


def test_after_an_update_of_the_bundled_model_the_merged_file_is_used(
    store: ModelStore, tmp_path: Path, model_file: Path
) -> None:
    store.install(export(tmp_path, model_file, "v1"))
    store.activate("v1")
    newer = write_model(tmp_path / "newer.gguf", seed=9)
    updated = ModelStore(tmp_path / "models", newer)
    active = updated.active()
    assert active.version_id == "v1"
    assert active.adapter is None
    assert active.path.endswith("model.gguf")
    assert updated.base_of_active() == "v1"


def test_a_model_that_was_asked_for_comes_before_versions_of_another(
    store: ModelStore, tmp_path: Path, model_file: Path
) -> None:
    store.install(export(tmp_path, model_file, "v1"))
    store.activate("v1")
    root, other = tmp_path / "models", write_model(tmp_path / "other.gguf", seed=9)
    assert ModelStore(root, model_file, is_chosen=True).active().version_id == "v1"
    chosen = ModelStore(root, other, is_chosen=True)
    assert chosen.active().path == str(other)
    chosen.activate("v1")  # the person's wish of now
    assert chosen.active().version_id == "v1"


# --- what is refused -------------------------------------------------------------------------


def test_a_version_trained_on_another_model_is_refused(
    store: ModelStore, tmp_path: Path, model_file: Path
) -> None:
    folder = export(tmp_path, model_file, "v1")
    edit(folder, base_sha256="0" * 64)
    with pytest.raises(InputError, match="not installed here"):
        store.install(folder)


@pytest.mark.parametrize("damage", ["flipped", "shorter", "missing", "no manifest", "half one"])
def test_a_damaged_export_is_refused_and_leaves_nothing(
    store: ModelStore, tmp_path: Path, model_file: Path, damage: str
) -> None:
    folder = export(tmp_path, model_file, "v1")
    adapter, manifest = folder / "adapter.gguf", folder / "manifest.json"
    raw = adapter.read_bytes()
    if damage == "flipped":
        adapter.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "shorter":
        adapter.write_bytes(raw[:-1])
    elif damage == "missing":
        adapter.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:100])
    with pytest.raises(InputError):
        store.install(folder)
    assert len(store.versions()) == 1
    assert list((tmp_path / "models" / "versions").iterdir()) == []


def test_an_adapter_that_does_not_fit_is_refused(
    store: ModelStore, tmp_path: Path, model_file: Path
) -> None:
    folder = export(tmp_path, model_file, "v1")
    write_adapter(folder / "adapter.gguf", shape=TinyShape(width=32, heads=2))
    names = ("adapter.gguf", "model.gguf")
    edit(folder, entries={name: entry_of(folder / name) for name in names})
    with pytest.raises(InputError, match="another model"):
        store.install(folder)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/b", "", ".hidden", "x.partial"])
def test_names_that_lead_out_of_the_folder_are_refused(
    store: ModelStore, tmp_path: Path, model_file: Path, name: str
) -> None:
    folder = export(tmp_path, model_file, "v1")
    good = read_manifest(folder)
    edit(folder, version_id=name)
    with pytest.raises(InputError, match="cannot hold the name"):
        store.install(folder)
    edit(folder, version_id="v1", entries={**good.entries, name: good.entries["model.gguf"]})
    with pytest.raises(InputError, match="cannot hold the name"):
        store.install(folder)
    with pytest.raises(InputError, match="no model version"):
        store.activate(name)


def test_activating_a_version_whose_weights_were_damaged_is_refused(
    store: ModelStore, tmp_path: Path, model_file: Path
) -> None:
    store.install(export(tmp_path, model_file, "v1"))
    installed = tmp_path / "models" / "versions" / "v1" / "adapter.gguf"
    raw = installed.read_bytes()
    installed.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(InputError, match="damaged"):
        store.activate("v1")


def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    store: ModelStore, tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(tmp_path, model_file, "v1")

    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("desktop_app.inference.model_store._copy_durably", full)
        with pytest.raises(UserError, match="No space left"):
            store.install(folder)
    assert list((tmp_path / "models" / "versions").iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))  # type: ignore[attr-defined]
        with pytest.raises(UserError, match="not enough space"):
            store.install(folder)
    assert store.install(folder)


# --- broken folders --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"version_id": 3, "previous": null}', '{"version_id": "v1"}']
)
def test_a_broken_pointer_falls_back_to_the_bundled_model(
    store: ModelStore, tmp_path: Path, model_file: Path, text: str
) -> None:
    bundled = store.active()
    store.install(export(tmp_path, model_file, "v1"))
    store.activate("v1")
    (tmp_path / "models" / "current.json").write_text(text)
    assert store.active() == bundled
    assert len(store.problems()) == 1
    store.activate("v1")  # and can be mended
    assert store.active().version_id == "v1"
    assert store.problems() == []


@pytest.mark.parametrize("damage", ["gone", "no manifest", "file gone", "file shorter", "renamed"])
def test_a_broken_active_version_falls_back_and_the_others_stay(
    store: ModelStore, tmp_path: Path, model_file: Path, damage: str
) -> None:
    bundled = store.active()
    store.install(export(tmp_path, model_file, "v1"))
    store.install(export(tmp_path, model_file, "v2", seed=2))
    store.activate("v1")
    folder = tmp_path / "models" / "versions" / "v1"
    if damage == "gone":
        shutil.rmtree(folder)
    elif damage == "no manifest":
        (folder / "manifest.json").write_text("{}")
    elif damage == "file gone":
        (folder / "adapter.gguf").unlink()
    elif damage == "file shorter":
        os.truncate(folder / "adapter.gguf", 10)
    else:
        folder.rename(folder.with_name("other"))
    assert store.active() == bundled
    assert store.problems()
    assert [v.version_id for v in store.versions()] == [bundled.version_id, "v2"]
    store.activate("v2")


def test_leftovers_of_a_cut_off_installation_are_swept(
    store: ModelStore, tmp_path: Path, model_file: Path
) -> None:
    root = tmp_path / "models"
    (root / "versions" / "v1.partial").mkdir()
    (root / "versions" / "v1.partial" / "adapter.gguf").write_bytes(b"half")
    (root / ".current.json.partial").write_bytes(b"{")
    ModelStore(root, model_file)
    assert list((root / "versions").iterdir()) == []
    assert not (root / ".current.json.partial").exists()


WRITER = """
    import os
    import sys
    from pathlib import Path
    from desktop_app.inference.model_store import ModelStore

    root, bundled, first, second = map(Path, sys.argv[1:])
    for _ in sys.stdin:  # each line asks for one more process that is going to be killed
        if (pid := os.fork()) == 0:
            break
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("dead", flush=True)
    else:
        sys.exit()
    store = ModelStore(root, bundled)
    home = store.versions()[0].version_id
    while True:
        store.install(first)
        store.activate("v1")
        store.install(second)
        store.activate("v2")
        store.remove("v1")
        store.activate(home)
        store.remove("v2")
"""


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_kill_9_at_any_moment_leaves_the_old_or_the_new_and_never_none(
    tmp_path: Path, model_file: Path, repository: Path
) -> None:
    root = tmp_path / "models"
    exports = [export(tmp_path, model_file, f"v{n}", seed=n) for n in (1, 2)]
    script = textwrap.dedent(WRITER)
    dice = random.Random(1)
    seen: set[str] = set()
    command = [sys.executable, "-c", script, str(root), str(model_file), *map(str, exports)]
    writers = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=repository, text=True
    )
    assert writers.stdin is not None
    assert writers.stdout is not None
    for _ in range(40):
        writers.stdin.write("\n")
        writers.stdin.flush()
        pid = int(writers.stdout.readline())
        time.sleep(dice.uniform(0, 0.08))
        os.kill(pid, signal.SIGKILL)
        assert writers.stdout.readline() == "dead\n"
        store = ModelStore(root, model_file)
        active = store.active()
        assert store.problems() == [], active
        assert active.version_id in {version.version_id for version in store.versions()}
        seen.add(active.version_id)
        if active.adapter is not None:
            assert file_sha256(Path(active.adapter.path)) == active.adapter.sha256
        pointer = root / "current.json"
        assert not pointer.exists() or json.loads(pointer.read_text())
    writers.communicate()
    assert len(seen) > 1, "the writer was always killed at the same place"
