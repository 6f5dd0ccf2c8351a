"""Writes packaging/requirements/*.txt: the exact version of everything that is installed.

For developers, after a change of the dependencies in pyproject.toml:

    .venv/bin/python packaging/lock.py

pip resolves all dependencies at once. A file that serves every machine (a pure Python wheel, a
source archive) is pinned with its SHA-256; a wheel that differs from machine to machine is pinned
by its version alone. pip wants hashes for all lines of a file or for none, hence two files each.
bootstrap.py installs them with --no-deps, so nothing unpinned can slip in.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "packaging" / "requirements"

# What builds llama-cpp-python where no built one is to be had.
BUILD_TOOLS = ["scikit-build-core>=0.9.2", "cmake>=3.21", "ninja>=1.11"]

# Machines the lock has to serve; a package that only some of them need gets one of the MARKERS.
MACHINES = [
    {"sys_platform": platform, "platform_system": system, "os_name": os, "platform_machine": cpu}
    for platform, system, os, cpu in [
        ("linux", "Linux", "posix", "x86_64"),
        ("linux", "Linux", "posix", "aarch64"),
        ("darwin", "Darwin", "posix", "arm64"),
        ("win32", "Windows", "nt", "AMD64"),
    ]
]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
ENVIRONMENTS = [
    machine
    | {"python_version": python, "python_full_version": f"{python}.7"}
    | {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    for machine in MACHINES
    for python in PYTHONS
]
MARKERS = [
    'sys_platform == "win32"',
    'sys_platform != "win32"',
    'sys_platform == "linux"',
    'sys_platform == "darwin"',
    *(f'python_version < "{python}"' for python in PYTHONS[1:]),
]


@dataclass(frozen=True)
class Package:
    """One resolved package: its version, the file pip chose, and what it needs in turn."""

    name: str
    version: str
    file: str
    sha256: str
    needs: tuple[Requirement, ...]

    @property
    def serves_every_machine(self) -> bool:
        return self.file.endswith(("-none-any.whl", ".tar.gz"))


def resolve(requirements: Iterable[str]) -> dict[str, Package]:
    """Asks pip what it would install for these requirements on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", "--quiet", "install", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--report", str(report), *requirements], check=True)
        items: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    packages = map(package_of, items)
    return {package.name: package for package in packages}


def package_of(item: dict[str, Any]) -> Package:
    download, metadata = item["download_info"], item["metadata"]
    return Package(
        name=canonicalize_name(metadata["name"]),
        version=metadata["version"].partition("+")[0],  # 2.13.0+cpu is one build of 2.13.0
        file=download["url"].rpartition("/")[2],
        sha256=download["archive_info"]["hashes"]["sha256"],
        needs=tuple(map(Requirement, metadata.get("requires_dist", []))),
    )


def needed_names(
    roots: list[str], packages: dict[str, Package], environment: dict[str, str]
) -> set[str]:
    """The names that ``roots`` need, directly or not, on one kind of machine."""
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(root), "") for root in roots]
    names: set[str] = set()
    while waiting:
        requirement, extra_of_parent = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate(
            environment | {"extra": extra_of_parent}
        ):
            continue
        name = canonicalize_name(requirement.name)
        names.add(name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen and name in packages:
                seen.add((name, extra))
                waiting += [(need, extra) for need in packages[name].needs]
    return names


def resolve_for_every_machine(roots: list[str]) -> dict[str, Package]:
    """Resolves here, then adds what only other machines need (colorama on Windows, say)."""
    packages = resolve(roots)
    while True:
        needed = set[str]().union(*(needed_names(roots, packages, env) for env in ENVIRONMENTS))
        missing = sorted(needed - set(packages) - ignored_names(packages))
        if not missing:
            return packages
        pins = [f"{package.name}=={package.version}" for package in packages.values()]
        packages |= resolve([*missing, *pins])


def ignored_names(packages: dict[str, Package]) -> set[str]:
    """What torch needs on some machines only: pip brings it with torch, which pins it exactly."""
    names = {str(canonicalize_name(need.name)) for need in packages["torch"].needs}
    return names - set(packages)


def marker_for(name: str, roots: list[str], packages: dict[str, Package]) -> str:
    """The marker that says which machines need the package; empty when all do."""
    wanted = [name in needed_names(roots, packages, env) for env in ENVIRONMENTS]
    if all(wanted):
        return ""
    for marker in MARKERS:
        holds = [evaluate(marker, environment) for environment in ENVIRONMENTS]
        if holds == wanted:
            return f" ; {marker}"
    raise SystemExit(f"{name} is needed on some machines only: add a fitting marker to MARKERS")


def evaluate(marker: str, environment: dict[str, str]) -> bool:
    parsed = Requirement(f"x ; {marker}").marker
    assert parsed is not None
    return parsed.evaluate(environment)


def lines(packages: Iterable[tuple[Package, str]], hashed: bool) -> Iterator[str]:
    for package, marker in packages:
        ending = f" \\\n    --hash=sha256:{package.sha256}" if hashed else ""
        yield f"{package.name}=={package.version}{marker}{ending}\n"


def write(file: str, about: str, packages: Iterable[tuple[Package, str]], hashed: bool) -> None:
    ordered = sorted(packages, key=lambda pair: pair[0].name)
    text = f"# {about}\n# Written by packaging/lock.py. Do not edit.\n"
    (REQUIREMENTS / file).write_text(text + "".join(lines(ordered, hashed)), encoding="utf-8")
    print(f"{file}: {len(ordered)}")


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    run: list[str] = project["dependencies"] + extras["training"]
    everything: list[str] = run + extras["development"]

    packages = resolve_for_every_machine(everything)
    to_run = set[str]().union(*(needed_names(run, packages, env) for env in ENVIRONMENTS))
    marked = {
        name: (package, marker_for(name, run if name in to_run else everything, packages))
        for name, package in packages.items()
    }
    alone = {name: marked.pop(name) for name in ("llama-cpp-python", "torch")}
    for level, names in (("run", to_run), ("test", set(packages) - to_run)):
        chosen = [pair for name, pair in marked.items() if name in names]
        portable = [pair for pair in chosen if pair[0].serves_every_machine]
        platform = [pair for pair in chosen if not pair[0].serves_every_machine]
        write(
            f"{level}-portable.txt", f"To {level}: one file serves every machine.", portable, True
        )
        write(f"{level}-platform.txt", f"To {level}: one file per machine.", platform, False)
    write("run-llama.txt", "Source; compiled when needed.", [alone["llama-cpp-python"]], True)
    write("run-torch.txt", "Installed with its dependencies.", [alone["torch"]], False)
    write("pip.txt", "pip itself.", [(resolve(["pip"])["pip"], "")], True)
    tools = [(tool, "") for tool in resolve(BUILD_TOOLS).values()]
    write("build.txt", "What compiles llama-cpp-python; constraints.", tools, False)


if __name__ == "__main__":
    main()
