"""Model versions on disk: which there are, which one is active, and the way back.

    root/versions/<id>/    one folder for each version; appears whole and never changes
    root/current.json      the active version and the one before it; replaced atomically
    root/hashes.json       the bundled model's hash, remembered by size and time

The bundled model is always the first version and cannot be lost: whatever is broken here,
there is a model to chat with, and ``problems`` says what happened. A version is its base's
file with its adapter, which is exact on that file; its merged file is for other programs.

A large bundled file (``--model``) that was never seen before has no hash yet. Until
``hash_bundled`` has read it, which may be done on any thread, it goes by a provisional name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from desktop_app.errors import UserError
from desktop_app.inference.adapter_check import check_adapter
from desktop_app.inference.engine import AdapterRef, ModelRef
from finetune.contract import manifest as manifests
from finetune.contract.chat_template import CHATML, template_id
from finetune.contract.errors import InputError
from finetune.contract.gguf_file import read_header
from finetune.contract.manifest import FileEntry, Manifest

log = logging.getLogger(__name__)

_PARTIAL: Final = ".partial"
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PROVISIONAL: Final = "bundled"
_READ_AT_ONCE: Final = 32 << 20
"""Bytes of a bundled file that are hashed without further ado, in some 30 ms."""
_PIECE: Final = 4 << 20
_SPARE_BYTES: Final = 16 << 20
"""Left free on the disk after an installation: the conversations need some, too."""


@dataclass(frozen=True)
class _Pointer:
    version_id: str
    previous: str | None = None


class ModelStore:
    """All model versions of one profile. One thread uses it, and one process.

    Args:
        root: the profile's folder for models; made if missing.
        bundled: the model file that comes with the application.
        is_chosen: the person asked for ``bundled`` (``--model``): a version that was made on
            another file is not active until it is activated.
    """

    def __init__(self, root: Path, bundled: Path, *, is_chosen: bool = False) -> None:
        self._bundled = bundled
        self._is_chosen = is_chosen
        self._versions = root / "versions"
        self._pointer = root / "current.json"
        self._hashes = root / "hashes.json"
        self._bundled_manifest: Manifest | None = None
        self._versions.mkdir(parents=True, exist_ok=True)
        for folder in (root, self._versions):
            _sweep(folder)

    # --- the bundled file's hash -----------------------------------------------------------

    @property
    def must_hash(self) -> bool:
        """Whether ``hash_bundled`` has to be called before the versions can be told apart."""
        return self._bundled_version().version_id == _PROVISIONAL

    def hash_bundled(self, on_progress: Callable[[float], bool]) -> None:
        """Read the bundled file through; nothing of this object is changed but a file.

        ``forget_provisional`` takes the result over.

        Args:
            on_progress: called with 0..1; False gives up.

        Raises:
            UserError: the file cannot be read.
        """
        try:
            key = self._bundled_key()
            digest, done = hashlib.sha256(), 0
            with self._bundled.open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
                    done += len(piece)
                    if not on_progress(min(1.0, done / max(1, int(key[1])))):
                        return
            self._write(self._hashes, {"key": key, "sha256": digest.hexdigest()})
        except OSError as error:
            raise UserError(f"{self._bundled.name} cannot be read: {error.strerror}.") from error

    def forget_provisional(self) -> None:
        """Know the bundled model by the hash that was computed meanwhile."""
        self._bundled_manifest = None

    # --- looking ---------------------------------------------------------------------------

    def versions(self) -> list[Manifest]:
        """The bundled model, then all sound versions from old to new."""
        return self._scan()[0]

    def problems(self) -> list[str]:
        """A sentence for everything that is broken; nothing of it keeps anybody from chatting."""
        manifests_, problems = self._scan()
        pointer, problem = self._read_pointer()
        if problem:
            problems.append(problem)
        elif pointer and self._is_missed(pointer.version_id, manifests_):
            problems.append("The active model version cannot be used; the bundled model is.")
        return problems

    def _is_missed(self, version_id: str, sound: Sequence[Manifest]) -> bool:
        """Whether the person should hear that this version is not what is chatted with.

        Not where they wanted the bundled model, which was another file then, or now name a file.
        """
        is_sound = version_id in {manifest.version_id for manifest in sound}
        return not (is_sound or self._is_chosen or version_id.startswith(f"{_PROVISIONAL}-"))

    def active(self) -> ModelRef:
        """What to load: the active version, or the bundled one where that cannot be used.

        Raises:
            UserError: not even the bundled model is there.
        """
        pointer, _ = self._read_pointer()
        if pointer is not None:
            try:
                base = self._manifest(pointer.version_id).base_sha256
                if not self._is_chosen or base == self._bundled_version().base_sha256:
                    return self.ref(pointer.version_id)
            except InputError as error:
                log.warning("The active version cannot be used: %s", error)
        return self.ref(self._bundled_version().version_id)

    def ref(self, version_id: str) -> ModelRef:
        """The files of a version.

        Raises:
            InputError: there is no such version, or its files are not whole.
        """
        manifest = self._manifest(version_id)
        if manifest is self._bundled_manifest:
            return ModelRef(version_id, str(self._bundled), manifest.base_sha256)
        folder = self._versions / version_id
        base = self._base_file(manifest)
        adapter = manifest.files.get("adapter")
        if base is not None and adapter is not None:
            entry = manifest.entries[adapter]
            return ModelRef(
                version_id,
                str(base),
                manifest.base_sha256,
                AdapterRef(str(folder / adapter), entry.sha256),
            )
        model = manifest.files.get("model")
        if model is None:
            raise InputError(f"The model that {manifest.name} was trained on is not here any more.")
        return ModelRef(version_id, str(folder / model), manifest.entries[model].sha256)

    def base_of_active(self) -> str:
        """The version whose file the active one's adapter is exact on; training begins there.

        Raises:
            UserError: the model's file is still being read.
        """
        self._refuse_while_reading()
        active = self.active()
        for manifest in self.versions():
            if _own_sha256(manifest) == active.sha256:
                return manifest.version_id
        return active.version_id

    def _refuse_while_reading(self) -> None:
        if self.must_hash:
            raise UserError("The model's file is still being read.", "Try again in a moment.")

    def previous(self) -> str | None:
        """Where ``roll_back`` leads: the parent, or what was active before."""
        active = self.active().version_id
        known = {manifest.version_id: manifest for manifest in self.versions()}
        pointer, _ = self._read_pointer()
        bundled = self._bundled_version().version_id
        for candidate in (known[active].parent, pointer.previous if pointer else None, bundled):
            if candidate in known and candidate != active:
                return candidate
        return None

    # --- changing --------------------------------------------------------------------------

    def install(self, export_dir: Path) -> Manifest:
        """Copy a finished version in. It is not made active.

        A version that is here already is left as it is. Whenever the power goes, the version
        is either wholly here or not at all.

        Raises:
            InputError: it is damaged, was made on another model, or its name is taken.
            UserError: the disk is full.
        """
        manifest = manifests.read_manifest(export_dir)
        _check_names(manifest)
        self._check_base(manifest)
        target = self._versions / manifest.version_id
        if target.exists() or manifest.version_id == self._bundled_version().version_id:
            if target.exists() and manifests.read_manifest(target) == manifest:
                return manifest
            raise InputError(f"There is already another model version {manifest.version_id}.")
        self._check_space(manifest)
        beside = target.with_name(target.name + _PARTIAL)
        shutil.rmtree(beside, ignore_errors=True)
        try:
            beside.mkdir()
            for name in manifest.entries:
                _copy_durably(export_dir / name, beside / name)
            manifests.write_manifest(beside, manifest)
            manifests.verify_files(beside, manifest)
            self._check_adapter(beside, manifest)
            os.rename(beside, target)
            manifests.sync_folder(self._versions)
        except FileNotFoundError as error:
            name = Path(error.filename).name if error.filename else "a file"
            raise InputError(f"The file {name} of {manifest.name} is missing.") from error
        except OSError as error:
            raise UserError(
                f"The new model could not be stored: {error.strerror}.",
                hint="Free some space on the disk and install it again.",
            ) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return manifest

    def activate(self, version_id: str) -> None:
        """Use this version from now on; one atomic file decides.

        Raises:
            InputError: there is no such version, or its files are damaged.
            UserError: the model's file is still being read.
        """
        self._refuse_while_reading()
        manifest = self._manifest(version_id)
        if manifest is not self._bundled_manifest:
            manifests.verify_files(self._versions / version_id, manifest)
        pointer, _ = self._read_pointer()
        active = self.active().version_id
        previous = active if active != version_id else (pointer.previous if pointer else None)
        self._write(self._pointer, {"version_id": version_id, "previous": previous})
        self._is_chosen = False

    def roll_back(self) -> ModelRef:
        """Go back to the version before the active one.

        Raises:
            InputError: there is none.
        """
        previous = self.previous()
        if previous is None:
            raise InputError("There is no earlier model version to go back to.")
        self.activate(previous)
        return self.active()

    def remove(self, version_id: str) -> None:
        """Delete a version's files.

        Raises:
            InputError: it is the active one or the bundled one, or there is none.
        """
        if version_id == self._bundled_version().version_id:
            raise InputError("The bundled model cannot be removed.")
        if version_id == self.active().version_id:
            raise InputError("The active model version cannot be removed; activate another first.")
        folder = self._versions / version_id
        if not _SAFE_NAME.fullmatch(version_id) or not folder.is_dir():
            raise InputError(f"There is no model version {version_id}.")
        doomed = folder.with_name(folder.name + _PARTIAL)
        os.rename(folder, doomed)  # gone at once; what a crash leaves is swept at the next start
        manifests.sync_folder(self._versions)
        shutil.rmtree(doomed, ignore_errors=True)

    # --- inside ----------------------------------------------------------------------------

    def _scan(self) -> tuple[list[Manifest], list[str]]:
        found: list[Manifest] = []
        problems: list[str] = []
        for folder in sorted(self._versions.iterdir()):
            if not folder.is_dir() or folder.name.endswith(_PARTIAL):
                continue
            try:
                found.append(self._read_version(folder))
            except InputError as error:
                problems.append(str(error))
        found.sort(key=lambda manifest: (manifest.created_at, manifest.version_id))
        return [self._bundled_version(), *found], problems

    def _manifest(self, version_id: str) -> Manifest:
        bundled = self._bundled_version()
        if version_id == bundled.version_id:
            return bundled
        folder = self._versions / version_id
        if not _SAFE_NAME.fullmatch(version_id) or not folder.is_dir():
            raise InputError(f"There is no model version {version_id}.")
        return self._read_version(folder)

    def _read_version(self, folder: Path) -> Manifest:
        """A version whose files are there in full size; hashes take too long for each start."""
        manifest = manifests.read_manifest(folder)
        if manifest.version_id != folder.name:
            raise InputError(f"The model version in {folder.name} calls itself another name.")
        _check_names(manifest)
        for name, entry in manifest.entries.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != entry.size:
                raise InputError(f"The file {name} of {manifest.name} is missing or incomplete.")
        return manifest

    def _bundled_version(self) -> Manifest:
        if self._bundled_manifest is None:
            if not self._bundled.is_file():
                raise UserError(
                    f"The bundled model {self._bundled.name} is missing.",
                    hint="Install Attune again, or start it with another model.",
                )
            header = read_header(self._bundled)
            sha256 = self._bundled_sha256()
            changed = datetime.fromtimestamp(self._bundled.stat().st_mtime, UTC)
            name = self._bundled.name
            self._bundled_manifest = Manifest(
                version_id=f"{_PROVISIONAL}-{sha256[:12]}" if sha256 else _PROVISIONAL,
                name=str(header.metadata.get("general.name") or self._bundled.stem),
                created_at=changed.isoformat(timespec="seconds"),
                parent=None,
                base_sha256=sha256,
                template_id=template_id(header.chat_template or CHATML),
                files={"model": name},
                entries={name: FileEntry(header.file_size, sha256)},
                licence=str(header.metadata.get("general.license", "")),
            )
        return self._bundled_manifest

    def _bundled_key(self) -> list[str | int]:
        stat = self._bundled.stat()
        return [str(self._bundled.resolve()), stat.st_size, stat.st_mtime_ns]

    def _bundled_sha256(self) -> str:
        """The hash; "" where reading the file through would take noticeably long."""
        key = self._bundled_key()
        try:
            known = json.loads(self._hashes.read_text(encoding="utf-8"))
            if known["key"] == key:
                return str(known["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if int(key[1]) > _READ_AT_ONCE:
            return ""
        sha256 = manifests.file_sha256(self._bundled)
        try:
            self._write(self._hashes, {"key": key, "sha256": sha256})
        except OSError:
            log.warning("The bundled model's hash could not be remembered", exc_info=True)
        return sha256

    def _base_file(self, manifest: Manifest) -> Path | None:
        """The file with the hash that an adapter was made on."""
        if manifest.base_sha256 == self._bundled_version().base_sha256:
            return self._bundled
        for other in self.versions()[1:]:
            if _own_sha256(other) == manifest.base_sha256:
                return self._versions / other.version_id / other.files["model"]
        return None

    def _check_base(self, manifest: Manifest) -> None:
        if "adapter" not in manifest.files:
            if "model" not in manifest.files:
                raise InputError(f"{manifest.name} holds neither a model nor an adapter.")
            return
        if self._base_file(manifest) is None:
            raise InputError(
                f"{manifest.name} was trained on a model that is not installed here. "
                "Install that model first."
            )

    def _check_adapter(self, folder: Path, manifest: Manifest) -> None:
        base = self._base_file(manifest)
        adapter = manifest.files.get("adapter")
        if base is not None and adapter is not None:
            entry = manifest.entries[adapter]
            check_adapter(folder / adapter, entry.sha256, read_header(base))

    def _check_space(self, manifest: Manifest) -> None:
        wanted = sum(entry.size for entry in manifest.entries.values()) + _SPARE_BYTES
        if shutil.disk_usage(self._versions).free < wanted:
            raise UserError(
                "There is not enough space on the disk for the new model.",
                hint=f"Free {wanted >> 20:,} MB.",
            )

    def _read_pointer(self) -> tuple[_Pointer | None, str]:
        """The pointer, and a sentence where there is one that cannot be read."""
        try:
            raw = json.loads(self._pointer.read_text(encoding="utf-8"))
            version_id, previous = raw["version_id"], raw["previous"]
            if not isinstance(version_id, str) or not isinstance(previous, str | None):
                raise TypeError("not a version id")
            return _Pointer(version_id, previous), ""
        except FileNotFoundError:
            return None, ""
        except (OSError, ValueError, KeyError, TypeError):
            return None, "Which model version was active cannot be read; the bundled model is used."

    def _write(self, path: Path, data: Mapping[str, Any]) -> None:
        text = json.dumps(data, indent=2) + "\n"
        manifests.write_whole(path, text.encode("utf-8"))


def ref_of_file(path: Path) -> ModelRef:
    """A model file that is no version of any profile; it is read through for its hash."""
    sha256 = manifests.file_sha256(path)
    return ModelRef(f"{_PROVISIONAL}-{sha256[:12]}", str(path), sha256)


def _own_sha256(manifest: Manifest) -> str | None:
    """The hash of a version that is a base itself; None for one that was trained on another."""
    model = manifest.files.get("model")
    if model is None or "adapter" in manifest.files:
        return None
    return manifest.entries[model].sha256


def _check_names(manifest: Manifest) -> None:
    """A manifest may come from anywhere: no name in it may lead out of its folder."""
    names = [manifest.version_id, *manifest.entries, *manifest.files.values()]
    for name in names:
        if not _SAFE_NAME.fullmatch(name) or name.endswith(_PARTIAL):
            raise InputError(f"A model version cannot hold the name {name!r:.60}.")
    strays = set(manifest.files.values()) - set(manifest.entries)
    if strays:
        raise InputError(f"{manifest.name} does not say how its file {min(strays)} must look.")


def _copy_durably(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def _sweep(folder: Path) -> None:
    """Delete what an installation or a write left behind when it was cut off."""
    for path in folder.glob(f"*{_PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
