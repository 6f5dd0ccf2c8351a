"""Sets Attune up in .venv, then starts it or tests it. Needs Python 3.11 and nothing else.

    python3 packaging/bootstrap.py run  [-- arguments of the app]
    python3 packaging/bootstrap.py test [-- arguments of pytest]
    python3 packaging/bootstrap.py setup     looks at everything anew, mends it, starts nothing

The set-up is a row of steps that can each be done twice: an interrupted or damaged one is mended by
running the command again. A stamp, written when all steps are done, lets later starts skip them.
Exact versions are in requirements/ (see lock.py). What is missing outside Python (libraries of Qt,
a compiler) is found by system_packages.py.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import system_packages
from progress import DISK_FULL, Outcome, SetupError, run_logged, say

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
REQUIREMENTS = ROOT / "packaging" / "requirements"
STAMP = VENV / "attune-setup.json"
MADE_FOR = VENV / "attune-made-for"
LOG = VENV / "bootstrap.log"
LOCK = ROOT / ".venv.lock"
WINDOWS = sys.platform == "win32"
PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")

OLDEST_PYTHON = (3, 11)
PREBUILT_SECONDS = 20
"""How long a ready-made llama-cpp-python may take to arrive before it is compiled instead."""

REASONS = [
    (["no space left on device"], DISK_FULL),
    (
        ["do not match the hashes"],
        "A downloaded file is not the one expected: damaged on its way, or changed. Wait a little",
    ),
    (
        ["name resolution", "getaddrinfo failed", "nodename nor servname", "name or service not"],
        "There is no connection to the internet, which the set-up needs. Connect",
    ),
    (
        ["failed to establish a new connection", "connection broken", "read timed out"],
        "The package server cannot be reached. Check the connection to the internet",
    ),
    (
        ["killed signal terminated program"],
        "The compiler ran out of memory. Close other programs or set CMAKE_BUILD_PARALLEL_LEVEL=1",
    ),
    (["proxyerror"], "The proxy refuses the connection to the internet. Check its settings"),
    (["certificate verify failed"], "The package server's certificate is not trusted. Check pip"),
    (
        ["no matching distribution"],
        "No version of a package fits this machine. It takes Python 3.11 to 3.14 on Linux with"
        " glibc 2.34 (on ARM 2.39), 64-bit Windows or macOS 14 on Apple silicon. Change that",
    ),
]
"""Signs in pip's output, in small letters, and what they mean for a person."""


def main(argv: list[str]) -> int:
    own, passed_on = split_arguments(argv)
    parser = argparse.ArgumentParser(
        prog="bootstrap.py",
        description="Sets Attune up in .venv, then starts it or tests it.",
        epilog="What follows -- goes to the app (run) or to pytest (test).",
    )
    parser.add_argument("command", choices=["run", "test", "setup"])
    command = parser.parse_args(own).command
    try:
        level = "test" if command == "test" else "run"
        if command == "setup" or not is_ready(level):
            set_up(level)
        if command == "run":
            return start_app(passed_on)
        return run_tests(passed_on) if command == "test" else 0
    except SetupError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"\nThe set-up cannot go on: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to go on.", file=sys.stderr)
        return 130


def split_arguments(argv: list[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and those after ``--``, which are not ours to read."""
    if "--" not in argv:
        return argv, []
    border = argv.index("--")
    return argv[:border], argv[border + 1 :]


# What to do once everything is there


def start_app(arguments: list[str]) -> int:
    command = [str(PYTHON), "-m", "desktop_app", *arguments]
    sys.stdout.flush()
    if WINDOWS:  # there, exec gives the prompt back at once and leaves the app beside it
        return subprocess.call(command)
    os.execv(command[0], command)


def run_tests(arguments: list[str]) -> int:
    """The checks, then pytest, whose closing line is the last one when all is well."""
    lint_imports = "from importlinter.cli import lint_imports_command as main; main()"
    checks = {
        "ruff check": ["-m", "ruff", "check", "."],
        "ruff format": ["-m", "ruff", "format", "--check", "."],
        "mypy": ["-m", "mypy"],
        "lint-imports": ["-c", lint_imports],
        "pytest": ["-m", "pytest", "-m", "not gpu", *arguments],
    }
    failed = []
    for name, command in checks.items():
        print(f"\n== {name}", flush=True)
        if subprocess.call([str(PYTHON), *command], cwd=ROOT) != 0:
            failed.append(name)
    if failed:
        raise SetupError(f"Not passed: {', '.join(failed)}.")
    return 0


# The stamp


def lock_digest() -> str:
    """One number for all pinned versions: another one means that the set-up is out of date."""
    digest = hashlib.sha256()
    for file in sorted(REQUIREMENTS.glob("*.txt")):
        digest.update(file.name.encode() + file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def is_ready(level: str) -> bool:
    """Whether the finished set-up still fits. Looks at a few files only: this is on every start."""
    try:
        stamp: dict[str, Any] = json.loads(STAMP.read_text(encoding="utf-8"))
        present = set(os.listdir(site_packages()))
        return (
            (stamp["level"] == level or stamp["level"] == "test")
            and stamp["lock"] == lock_digest()
            and stamp["root"] == str(ROOT)  # a moved .venv has wrong paths in it
            and stamp["python"] == python_identity()
            and present.issuperset(stamp["present"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_stamp(level: str) -> None:
    stamp = {
        "level": level,
        "lock": lock_digest(),
        "root": str(ROOT),
        "python": python_identity(),
        "present": sorted(set(os.listdir(site_packages())) - {"__pycache__"}),
    }
    unfinished = STAMP.with_suffix(".partial")
    unfinished.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    os.replace(unfinished, STAMP)


def python_identity() -> list[object]:
    """Changes when the Python under .venv is replaced, by an upgrade of the system for instance."""
    real = PYTHON.resolve(strict=True)
    return [str(real), real.stat().st_size]


def site_packages() -> Path:
    if WINDOWS:
        return VENV / "Lib" / "site-packages"
    found = sorted(VENV.glob("lib/python3.*/site-packages"))
    if len(found) != 1:
        raise FileNotFoundError(VENV / "lib")
    return found[0]


# The steps of the set-up


def set_up(level: str) -> None:
    started = time.monotonic()
    system_packages.provide(level)
    with only_one_setup():
        STAMP.unlink(missing_ok=True)
        make_venv()
        drop_damaged_packages()
        install_python_packages(level)
        make_importable()
        check_that_it_loads()
        write_stamp(level)
    say(f"Everything is set up ({time.monotonic() - started:.0f} s).")


@contextmanager
def only_one_setup() -> Iterator[None]:
    """Waits while another set-up works in this folder. The lock ends with its process."""
    with LOCK.open("w") as file:
        waiting = False
        while not try_to_lock(file.fileno()):
            if not waiting:
                say("Another set-up is at work in this folder; waiting for it to end.")
            waiting = True
            time.sleep(1)
        yield


def try_to_lock(fileno: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(fileno, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Inherited by pip: when only this script is killed, the lock holds until pip has ended.
            os.set_inheritable(fileno, True)
    except OSError:
        return False
    return True


def make_venv() -> None:
    """Makes .venv, or makes it anew when its Python or its pip does not run."""
    if venv_works():
        return
    if VENV.exists():
        say("The folder .venv is damaged or from another place: making it anew.")
        try:
            shutil.rmtree(VENV)
        except OSError as error:
            raise SetupError(
                f"The damaged folder {VENV} cannot be deleted ({error.strerror}). "
                "Close every program that uses it, delete it, and run this command again."
            ) from error
    say("Making the virtual environment .venv.")
    base_python: str = getattr(sys, "_base_executable", sys.executable)
    made = subprocess.run([base_python, "-m", "venv", str(VENV)], capture_output=True, text=True)
    if made.returncode != 0 or not venv_works():
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetupError(system_packages.why_no_venv(made.stdout + made.stderr))
    MADE_FOR.write_text(str(ROOT), encoding="utf-8")


def venv_works() -> bool:
    """Whether .venv is whole enough to be mended by pip, and was made for this very folder."""
    try:
        if MADE_FOR.exists() and MADE_FOR.read_text(encoding="utf-8") != str(ROOT):
            return False  # copied or moved with the checkout: its programs have the old paths
        probe = subprocess.run(
            [str(PYTHON), "-m", "pip", "--version"], capture_output=True, timeout=60, check=False
        )
        return probe.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def drop_damaged_packages() -> None:
    """Forgets packages with missing or cut files, so that pip installs them again.

    pip killed in the middle of an installation leaves a package that it later takes for whole.
    """
    folder = site_packages()
    for leftover in folder.glob("~*"):  # pip renames to ~name while it replaces a package
        shutil.rmtree(leftover, ignore_errors=True)
    for info in folder.glob("*.dist-info"):
        if not is_whole(info):
            name = info.name.rpartition("-")[0].rpartition("-")[0] or info.name
            say(f"{name} is damaged: it will be installed again.")
            shutil.rmtree(info)


def is_whole(info: Path) -> bool:
    """Whether all files of a package's RECORD are there, with the length they should have."""
    try:
        with (info / "RECORD").open(encoding="utf-8", newline="") as record:
            for path, _, size in csv.reader(record):
                if path.endswith(".pyc"):
                    continue  # Python writes these anew as it likes
                length = os.stat(info.parent / path).st_size
                if size and length != int(size):
                    return False
        return (info / "INSTALLER").exists()  # pip writes it after the files
    except (OSError, ValueError):
        return False


def install_python_packages(level: str) -> None:
    say(f"Installing the Python packages (the record is in {LOG.relative_to(ROOT)}).")
    install("pip", "pip", "--require-hashes")
    for part in ["run", "test"] if level == "test" else ["run"]:
        install("Python libraries", f"{part}-portable", "--require-hashes", "--no-deps")
        install("Qt and other libraries", f"{part}-platform", "--no-deps", "--only-binary=:all:")
    install_llama()
    # With its dependencies, unlike the rest: on Linux they depend on the build (CPU or CUDA).
    install("PyTorch (200 MB; 3 GB when it is the CUDA build)", "run-torch")


def install(what: str, file: str, *options: str) -> None:
    path = REQUIREMENTS / f"{file}.txt"
    if file != "pip":  # an older pip than ours does not know it
        options = (*options, "--progress-bar=raw")
    outcome = run_pip(f"installing {what}", "install", *options, "-r", str(path))
    if outcome.code != 0:
        raise SetupError(why_pip_failed(what, outcome.output))


def run_pip(doing: str, *arguments: str, limit: float | None = None, **environment: str) -> Outcome:
    pip = [str(PYTHON), "-m", "pip", "--no-input", "--disable-pip-version-check", "--retries=3"]
    settings = {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PYTHONUTF8": "1"} | environment
    return run_logged(doing, [*pip, *arguments], LOG, limit=limit, environment=settings)


def why_pip_failed(what: str, output: str) -> str:
    """One sentence for the person out of pip's output."""
    lowered = output.lower()
    for signs, sentence in REASONS:
        if any(sign in lowered for sign in signs):
            return f"{sentence}, then run this command again. (The full record: {LOG})"
    return f"{what[0].upper()}{what[1:]} could not be installed. The full record says why: {LOG}"


# llama-cpp-python: prebuilt when it can be had quickly, else compiled


def install_llama() -> None:
    version = llama_version()
    whole = (site_packages() / f"llama_cpp_python-{version}.dist-info").exists()
    if whole and llama_loads():
        return
    cached = is_in_pip_cache(version)
    if not cached and install_prebuilt_llama(version):
        return
    if not cached:
        say("No prebuilt llama-cpp-python for this machine: it is compiled, this once.")
        system_packages.provide_compiler()
    build_llama()
    if cached and not llama_loads():
        say("The llama-cpp-python in pip's cache does not run here: it is compiled anew.")
        run_pip("emptying pip's cache", "cache", "remove", "llama_cpp_python")
        system_packages.provide_compiler()
        build_llama()


def llama_version() -> str:
    text = (REQUIREMENTS / "run-llama.txt").read_text(encoding="utf-8")
    return text.partition("llama-cpp-python==")[2].split()[0]


def llama_loads() -> bool:
    """Tried in a process of its own, as one built for another processor dies there."""
    probe = "import llama_cpp; llama_cpp.llama_backend_init()"
    done = subprocess.run([str(PYTHON), "-c", probe], capture_output=True, check=False)
    return done.returncode == 0


def is_in_pip_cache(version: str) -> bool:
    """Whether this machine compiled it before, for another checkout perhaps."""
    outcome = run_pip("asking pip's cache", "cache", "list", "llama_cpp_python", "--format=abspath")
    return outcome.code == 0 and f"llama_cpp_python-{version}-" in outcome.output


def install_prebuilt_llama(version: str) -> bool:
    """Tries the person's own package sources. There can be no hash for a file we do not know."""
    outcome = run_pip(
        "looking for a prebuilt llama-cpp-python",
        *("install", "--no-deps", "--only-binary=:all:", f"llama-cpp-python=={version}"),
        limit=PREBUILT_SECONDS,
    )
    return outcome.code == 0 and llama_loads()


def build_llama() -> None:
    """pip compiles the pinned source, or takes what it once compiled from its cache."""
    outcome = run_pip(
        "installing llama-cpp-python",
        *("install", "--verbose", "--progress-bar=raw", "--require-hashes", "--no-deps"),
        *("--force-reinstall", "-r", str(REQUIREMENTS / "run-llama.txt")),
        # Not in the environment, where pip takes white space in a path for the end of it.
        *("--build-constraint", str(REQUIREMENTS / "build.txt")),
        CMAKE_BUILD_PARALLEL_LEVEL=os.environ.get(
            "CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1)
        ),
        # Without the part that reads pictures, which we do not use: a quarter less to compile.
        CMAKE_ARGS=f"-DLLAVA_BUILD=OFF {os.environ.get('CMAKE_ARGS', '')}".strip(),
    )
    if outcome.code != 0:
        raise SetupError(why_pip_failed("llama-cpp-python", outcome.output))


# The last steps


def make_importable() -> None:
    """Lets .venv's Python find our packages from any folder, without copying or building them."""
    folder = site_packages()
    # Relative, hence plain ASCII: Python reads this file in the encoding of the system.
    (folder / "attune-checkout.pth").write_text(os.path.relpath(ROOT, folder) + "\n")


def check_that_it_loads() -> None:
    probe = "import llama_cpp, PySide6.QtWidgets, torch, transformers"
    outcome = run_logged("checking that everything loads", [str(PYTHON), "-c", probe], LOG)
    if outcome.code != 0:
        reason = outcome.output.strip().splitlines()[-1:] or [f"it ended with {outcome.code}"]
        raise SetupError(f"Installed, but it does not load: {reason[0]} (the full record: {LOG})")


def use_a_newer_python(argv: list[str]) -> None:
    """Starts again with a Python that is new enough, if there is one, or says what to install."""
    for minor in (13, 12, 11, 14):
        newer = shutil.which(f"python3.{minor}")
        if newer and system_packages.succeeds([newer, "-c", ""]):
            print(f"Using {newer}.", flush=True)
            raise SystemExit(subprocess.call([newer, str(Path(__file__).resolve()), *argv]))
    here = ".".join(map(str, sys.version_info[:2]))
    raise SystemExit(
        f"Attune needs Python 3.11 or newer; this is {here}. Install Python 3.12 first."
    )


if __name__ == "__main__":
    if sys.version_info < OLDEST_PYTHON:
        use_a_newer_python(sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
