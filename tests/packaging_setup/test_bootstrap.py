"""The set-up, without network: a copy of packaging/ in a temporary folder, with a small fake pip.

The fake pip "installs" by writing empty modules, and can be told to fail or to hang at one step.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
POSIX_ONLY = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")

FAKE_PIP = """
import os, pathlib, sys, time

arguments = " ".join(sys.argv[1:])
site = pathlib.Path(__file__).parent.parent
with open(os.environ["FAKE_PIP_CALLS"], "a") as calls:
    calls.write(arguments + "\\n")
hang_at = os.environ.get("FAKE_PIP_HANG", "never")
fail_at = os.environ.get("FAKE_PIP_FAIL", "never")
while hang_at in arguments:
    print("working", flush=True)
    time.sleep(0.1)
if fail_at in arguments:
    print(os.environ["FAKE_PIP_SAYS"])
    sys.exit(1)
names = {
    "run-platform": ["PySide6", "PySide6/QtWidgets"],
    "run-portable": ["transformers"],
    "run-llama": ["llama_cpp"],
    "run-torch": ["torch"],
}
for step, modules in names.items():
    for module in modules if step in arguments else []:
        (site / module).mkdir(exist_ok=True)
        code = "llama_backend_init = lambda: None" if module == "llama_cpp" else ""
        (site / module / "__init__.py").write_text(code)
if "run-llama" in arguments:
    info = site / f"llama_cpp_python-{os.environ['LLAMA_VERSION']}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "INSTALLER").write_text("pip")
    size = (site / "llama_cpp/__init__.py").stat().st_size
    (info / "RECORD").write_text(f"llama_cpp/__init__.py,sha256=x,{size}\\n")
"""

APP = """
import os, sys
print("app", sys.argv[1:], os.getcwd())
sys.exit(7 if "--fail" in sys.argv else 0)
"""

NO_SYSTEM_PACKAGES = """
import shutil
def provide(level): pass
def provide_compiler(): pass
def why_no_venv(output): return output
"""


def hear_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Checkout:
    """A small copy of the project whose .venv holds the fake pip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "pip-calls.txt"
        (folder / "desktop_app").mkdir(parents=True)
        (folder / "desktop_app" / "__main__.py").write_text(APP)
        shutil.copytree(
            ROOT / "packaging", folder / "packaging", ignore=shutil.ignore_patterns("__pycache__")
        )
        (folder / "packaging" / "system_packages.py").write_text(NO_SYSTEM_PACKAGES)
        self.make_venv()

    def make_venv(self) -> None:
        venv.create(self.folder / ".venv", symlinks=os.name == "posix")
        pip = self.site_packages / "pip"
        pip.mkdir()
        (pip / "__init__.py").touch()
        (pip / "__main__.py").write_text(FAKE_PIP)

    @property
    def site_packages(self) -> Path:
        return next((self.folder / ".venv").rglob("site-packages"))

    @property
    def stamp(self) -> Path:
        return self.folder / ".venv" / "attune-setup.json"

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        lock = (self.folder / "packaging/requirements/run-llama.txt").read_text()
        version = re.search(r"==([\d.]+)", lock)
        assert version is not None
        told = {"FAKE_PIP_CALLS": str(self.calls), "LLAMA_VERSION": version[1]} | environment
        return subprocess.Popen(
            [sys.executable, str(self.folder / "packaging" / "bootstrap.py"), *arguments],
            cwd=self.folder.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | told,
            # Tests that a shell runs in the background ignore Ctrl+C, and so would this one.
            preexec_fn=None if sys.platform == "win32" else hear_ctrl_c,
        )

    def bootstrap(self, *arguments: str, **environment: str) -> tuple[int, str]:
        with self.start(*arguments, **environment) as process:
            output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def pip_calls(self) -> list[str]:
        """The calls since the last look, without those that only ask."""
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return [call for call in calls if " install " in call]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "the checkout")


# run, and run again


def test_run_sets_up_and_starts_the_app_with_the_arguments_after_two_dashes(
    checkout: Checkout,
) -> None:
    code, output = checkout.bootstrap("run", "--", "--profile-dir", "a b")
    assert code == 0, output
    assert f"app ['--profile-dir', 'a b'] {checkout.folder.parent}" in output
    steps = re.findall(r"-r .*?requirements.([\w-]+)\.txt", "\n".join(checkout.pip_calls()))
    assert steps == ["pip", "run-portable", "run-platform", "run-llama", "run-torch"]


def test_hashes_are_required_of_every_file_that_serves_every_machine(checkout: Checkout) -> None:
    checkout.bootstrap("setup")
    for call in checkout.pip_calls():
        if "-portable" in call or "run-llama" in call or "/pip.txt" in call:
            assert "--require-hashes" in call


def test_a_second_run_calls_no_pip_and_starts_within_two_seconds(checkout: Checkout) -> None:
    checkout.bootstrap("run")
    checkout.pip_calls()
    started = time.monotonic()
    code, output = checkout.bootstrap("run")
    assert time.monotonic() - started < 2
    assert (code, checkout.pip_calls()) == (0, [])
    assert output.startswith("app ")


def test_the_exit_code_of_the_app_is_passed_on(checkout: Checkout) -> None:
    assert checkout.bootstrap("run", "--", "--fail")[0] == 7


def test_only_what_follows_the_dashes_is_passed_on(load: Callable[[str], ModuleType]) -> None:
    split = load("bootstrap").split_arguments
    assert split(["run"]) == (["run"], [])
    assert split(["test", "--", "-k", "x", "--", "y"]) == (["test"], ["-k", "x", "--", "y"])


def test_an_unknown_argument_is_refused_and_nothing_is_installed(checkout: Checkout) -> None:
    code, output = checkout.bootstrap("run", "--profile-dir", "x")
    assert code == 2
    assert "Traceback" not in output
    assert checkout.pip_calls() == []


# The stamp


def test_new_pins_make_the_stamp_void(checkout: Checkout) -> None:
    checkout.bootstrap("run")
    checkout.pip_calls()
    lock = checkout.folder / "packaging" / "requirements" / "run-platform.txt"
    lock.write_text(lock.read_text() + "another==1.0\n")
    checkout.bootstrap("run")
    assert len(checkout.pip_calls()) >= 4


def test_line_endings_of_a_windows_checkout_are_not_new_pins(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap = load("bootstrap")
    monkeypatch.setattr(bootstrap, "REQUIREMENTS", tmp_path)
    (tmp_path / "a.txt").write_bytes(b"x==1\ny==2\n")
    unix = bootstrap.lock_digest()
    (tmp_path / "a.txt").write_bytes(b"x==1\r\ny==2\r\n")
    assert bootstrap.lock_digest() == unix


def test_what_is_enough_to_run_is_not_enough_to_test(
    checkout: Checkout,
) -> None:
    checkout.bootstrap("run")
    checkout.pip_calls()
    checkout.bootstrap("test")
    assert any("test-portable" in call for call in checkout.pip_calls())
    assert json.loads(checkout.stamp.read_text())["level"] == "test"
    checkout.bootstrap("run")
    assert checkout.pip_calls() == []


def test_a_package_that_vanished_is_noticed_at_the_next_start(checkout: Checkout) -> None:
    checkout.bootstrap("run")
    shutil.rmtree(checkout.site_packages / "torch")
    code, output = checkout.bootstrap("run")
    assert code == 0, output
    assert (checkout.site_packages / "torch").exists()


# Interrupted and damaged set-ups


@POSIX_ONLY
def test_a_setup_killed_in_the_middle_is_finished_by_the_next_one(checkout: Checkout) -> None:
    with checkout.start("run", FAKE_PIP_HANG="run-torch") as process:
        wait_for(lambda: checkout.calls.exists() and "run-torch" in checkout.calls.read_text())
        process.kill()
    assert not checkout.stamp.exists()
    code, output = checkout.bootstrap("run")
    assert code == 0, output
    assert "app []" in output


@POSIX_ONLY
def test_ctrl_c_ends_pip_too_and_says_how_to_go_on(checkout: Checkout) -> None:
    with checkout.start("run", FAKE_PIP_HANG="run-torch") as process:
        wait_for(lambda: checkout.calls.exists() and "run-torch" in checkout.calls.read_text())
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)  # ends only when pip has closed the pipe too
    assert process.returncode == 130
    assert output.rstrip().endswith("Stopped. Run the same command again to go on.")
    assert "Traceback" not in output


def test_a_half_installed_package_is_installed_again(checkout: Checkout) -> None:
    checkout.bootstrap("setup")
    checkout.pip_calls()
    (checkout.site_packages / "llama_cpp" / "__init__.py").write_text("cut")
    code, output = checkout.bootstrap("setup")
    assert code == 0, output
    assert "llama_cpp_python is damaged" in output
    assert any("run-llama" in call for call in checkout.pip_calls())


@POSIX_ONLY
@pytest.mark.slow
def test_a_venv_whose_python_is_gone_is_made_anew(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap = load("bootstrap")
    at(bootstrap, tmp_path, monkeypatch)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(tmp_path / "nowhere")
    bootstrap.make_venv()
    assert bootstrap.venv_works()


def test_a_venv_that_was_copied_with_its_folder_does_not_count(
    load: Callable[[str], ModuleType], checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap = load("bootstrap")
    at(bootstrap, checkout.folder, monkeypatch)
    monkeypatch.setenv("FAKE_PIP_CALLS", str(checkout.calls))
    assert bootstrap.venv_works()
    bootstrap.MADE_FOR.write_text("/somewhere/else")
    assert not bootstrap.venv_works()


# One clear sentence


@pytest.mark.parametrize(
    ("pip_says", "sentence"),
    [
        (
            "NameResolutionError: Failed to establish a new connection: Temporary failure in name "
            "resolution\nERROR: No matching distribution found for torch==2.13.0",
            "There is no connection to the internet, which the set-up needs. Connect",
        ),
        ("OSError: [Errno 28] No space left on device", "The disk is full. Make room (about 2 GB"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "is not the one expected"),
        ("ERROR: No matching distribution found for x", "It takes Python 3.11 to 3.14"),
        ("something else", "could not be installed. The full record says why"),
    ],
)
def test_a_failure_of_pip_becomes_one_sentence(
    checkout: Checkout, pip_says: str, sentence: str
) -> None:
    code, output = checkout.bootstrap("run", FAKE_PIP_FAIL="run-portable", FAKE_PIP_SAYS=pip_says)
    assert code == 1
    assert sentence in output
    assert "Traceback" not in output
    assert pip_says in (checkout.folder / ".venv" / "bootstrap.log").read_text()
    assert not checkout.stamp.exists()


def test_a_full_disk_asks_for_the_room_that_the_cuda_build_takes(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    full = "[Errno 28] No space left on device"
    for sentence in (
        load("bootstrap").why_pip_failed("PyTorch", full),
        load("system_packages").why_no_venv(full),
    ):
        assert "Make room (about 2 GB; 10 GB with the CUDA build of PyTorch)" in sentence
        assert "run this command again." in sentence


def test_missing_libraries_give_the_one_command_that_installs_them(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = load("system_packages")
    lacking = {"libGL.so.1", "libxcb-cursor.so.0"}
    on_debian_without_rights(packages, monkeypatch)
    monkeypatch.setattr(packages, "can_load", lambda library: library not in lacking)
    monkeypatch.setattr(packages, "has_korean_font", lambda: False)
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    with pytest.raises(Exception, match="missing") as problem:
        packages.provide("run")
    command = "sudo apt-get install -y --no-install-recommends fonts-nanum libgl1 libxcb-cursor0"
    assert f"\n    {command}\n" in str(problem.value)


def test_tests_go_on_without_the_libraries_of_a_screen(
    load: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    packages = load("system_packages")
    on_debian_without_rights(packages, monkeypatch)
    monkeypatch.setattr(packages, "can_load", lambda library: "xcb" not in library)
    packages.provide("test")
    assert "libxcb-cursor0" in capsys.readouterr().out


def test_no_compiler_gives_one_sentence_with_the_command(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = load("system_packages")
    on_debian_without_rights(packages, monkeypatch)
    monkeypatch.setattr(packages, "find_compiler", lambda: None)
    monkeypatch.setattr(packages.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(Exception, match="no C\\+\\+ compiler") as problem:
        packages.provide_compiler()
    assert "\n    sudo apt-get install -y g++\n" in str(problem.value)


# llama-cpp-python


def test_what_compiles_it_is_pinned_in_a_folder_with_a_space_too(checkout: Checkout) -> None:
    """pip splits what it reads from the environment at white space."""
    pins = checkout.folder / "packaging" / "requirements" / "build.txt"
    assert " " in str(pins)
    checkout.bootstrap("setup")
    (call,) = (call for call in checkout.pip_calls() if "run-llama" in call)
    assert f"--build-constraint {pins}" in call


@POSIX_ONLY
def test_a_prebuilt_that_does_not_arrive_in_time_is_given_up(
    load: Callable[[str], ModuleType], checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap = load("bootstrap")
    at(bootstrap, checkout.folder, monkeypatch)
    monkeypatch.setattr(bootstrap, "PREBUILT_SECONDS", 0.5)
    monkeypatch.setenv("FAKE_PIP_CALLS", str(checkout.calls))
    monkeypatch.setenv("FAKE_PIP_HANG", "--only-binary=:all: llama-cpp-python")
    started = time.monotonic()
    assert not bootstrap.install_prebuilt_llama("0.3.36")
    assert time.monotonic() - started < 10
    size = bootstrap.LOG.stat().st_size
    time.sleep(0.3)
    assert bootstrap.LOG.stat().st_size == size, "pip is still at work"


def test_without_a_prebuilt_it_says_that_it_compiles(checkout: Checkout) -> None:
    _, output = checkout.bootstrap(
        "setup", FAKE_PIP_FAIL="--only-binary=:all: llama", FAKE_PIP_SAYS="none"
    )
    assert "No prebuilt llama-cpp-python for this machine: it is compiled, this once." in output


# What the repository says


@pytest.mark.skipif(shutil.which("git") is None, reason="git lists the files of the repository")
def test_no_package_registry_is_named_in_the_repository() -> None:
    hosts = ["py" + "pi.org", "python" + "hosted.org", "download." + "pytorch.org"]
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a checkout of git")
    texts = {".py", ".toml", ".txt", ".md", ".yaml", ".yml", ".json", ".cfg", ".sh", ""}
    for name in filter(None, listed.stdout.split("\0")):
        file = ROOT / name
        if file.suffix in texts and file.is_file():
            text = file.read_text(encoding="utf-8", errors="ignore")
            assert not [host for host in hosts if host in text], name


def test_every_package_is_listed_for_the_build() -> None:
    listed = set(project()["tool"]["setuptools"]["packages"])
    found = {
        ".".join(folder.relative_to(ROOT).parts)
        for top in ("desktop_app", "finetune")
        for folder in [ROOT / top, *(ROOT / top).rglob("*/")]
        if any(folder.glob("*.py"))
    }
    assert listed - {"desktop_app.resources"} == found


def test_every_direct_dependency_is_locked_at_the_version_it_asks_for() -> None:
    pins = {}
    for file in (ROOT / "packaging" / "requirements").glob("*.txt"):
        pins |= dict(re.findall(r"^([\w.-]+)==([\w.]+)", file.read_text(), re.MULTILINE))
    wanted = project()["project"]
    direct = [*wanted["dependencies"], *chain(*wanted["optional-dependencies"].values())]
    for requirement in direct:
        name, sign, version = re.split(r"(==|>=)", requirement)
        assert name.lower() in pins, requirement
        assert sign == ">=" or pins[name.lower()] == version, requirement


def test_the_check_of_the_project_is_the_command_of_the_readme() -> None:
    for file in ("README.md", ".ci/run"):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert "python3 packaging/bootstrap.py test" in text


def project() -> dict[str, dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def at(bootstrap: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points the module at another checkout."""
    for name in ("VENV", "PYTHON", "STAMP", "LOG", "MADE_FOR", "LOCK"):
        path = getattr(bootstrap, name)
        monkeypatch.setattr(bootstrap, name, folder / path.relative_to(bootstrap.ROOT))
    monkeypatch.setattr(bootstrap, "ROOT", folder)


def on_debian_without_rights(packages: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.sys, "platform", "linux")
    monkeypatch.setattr(packages, "is_debian", lambda: True)
    monkeypatch.setattr(packages, "as_root", lambda: ["sudo"])
    monkeypatch.setattr(packages, "apt_install", lambda names: False)
    monkeypatch.setattr(packages, "find_compiler", lambda: "/usr/bin/c++")


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.05)
