"""What Attune needs outside Python: the libraries that Qt loads, a Korean font, a compiler.

On Debian and Ubuntu they are installed when that needs no password; otherwise the one command that
installs them is printed. Elsewhere on Linux the names of the libraries are printed. macOS and
Windows have all of this except, perhaps, the compiler.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from progress import DISK_FULL, SetupError, say

# What Qt loads even without a screen, and what a compiled llama.cpp loads: file -> Debian package.
CORE_LIBRARIES = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libfontconfig.so.1": "libfontconfig1",
    "libfreetype.so.6": "libfreetype6",
    "libX11.so.6": "libx11-6",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libdbus-1.so.3": "libdbus-1-3",
    "libbrotlidec.so.1": "libbrotli1",
    "libgomp.so.1": "libgomp1",
}
# What opening a window takes besides.
WINDOW_LIBRARIES = {
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-sync.so.1": "libxcb-sync1",
    "libxcb-xfixes.so.0": "libxcb-xfixes0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libX11-xcb.so.1": "libx11-xcb1",
    "libxcb-glx.so.0": "libxcb-glx0",
    "libxcb-util.so.1": "libxcb-util1",
    "libxcb-shm.so.0": "libxcb-shm0",
    "libxcb-render.so.0": "libxcb-render0",
    "libwayland-cursor.so.0": "libwayland-cursor0",
}
# The tests show real windows on a screen of their own where there is one.
TEST_PROGRAMS = {"Xvfb": "xvfb", "xauth": "xauth"}
KOREAN_FONT = "fonts-nanum"
KOREAN_FONT_FILES = ["*Nanum*", "*CJK*", "*NotoSansKR*", "*UnBatang*", "*baekmuk*", "*D2Coding*"]

APT_INSTALL = ["apt-get", "install", "-y", "--no-install-recommends"]

COMPILER_COMMANDS = {
    "apt-get": "apt-get install -y g++",
    "dnf": "dnf install -y gcc-c++",
    "zypper": "zypper install -y gcc-c++",
    "pacman": "pacman -S --needed base-devel",
}
MACOS_COMPILER = "xcode-select --install"
WINDOWS_COMPILER = (
    "winget install Microsoft.VisualStudio.2022.BuildTools --override "
    '"--passive --add Microsoft.VisualStudio.Workload.VCTools --includeRecommended"'
)


def provide(level: str) -> None:
    """Sees to it that what ``level`` (run or test) needs from the system is there, or stops."""
    if sys.platform != "linux":
        return
    required, wanted = missing(level)
    if not required and not wanted:
        return
    if not is_debian():
        if required:
            raise SetupError(
                "Qt needs libraries that this system lacks: "
                f"{', '.join(required)}. Install the packages that hold them, then run this "
                "command again."
            )
        say(f"Not on this system, and useful: {', '.join(wanted.values())}.")
        return
    packages = sorted({*required.values(), *wanted.values()})
    if apt_install(packages):
        required, wanted = missing(level)
    if required:
        if find_compiler() is None:  # likely to be needed next: one command for everything
            packages.append("g++")
        raise SetupError(
            f"Attune needs system packages that are missing here. Install them with\n\n"
            f"    {apt_command(packages)}\n\nand run this command again."
        )
    if wanted:
        say(f"Useful, and not installed: {apt_command(wanted.values())}")


def missing(level: str) -> tuple[dict[str, str], dict[str, str]]:
    """Without what it cannot go on, and what would be good to have: name -> Debian package."""
    required = missing_libraries(CORE_LIBRARIES)
    wanted: dict[str, str] = {}
    window = missing_libraries(WINDOW_LIBRARIES)
    if level == "run" and os.environ.get("QT_QPA_PLATFORM", "xcb") == "xcb":
        required |= window
    else:
        wanted |= window
    if importlib.util.find_spec("ensurepip") is None:  # Debian keeps it in a package of its own
        minor = sys.version_info.minor
        required["ensurepip"] = f"python3.{minor}-venv"
    if level == "test":
        wanted |= {name: deb for name, deb in TEST_PROGRAMS.items() if shutil.which(name) is None}
    if not has_korean_font():
        wanted["a Korean font"] = KOREAN_FONT
    return required, wanted


def missing_libraries(libraries: dict[str, str]) -> dict[str, str]:
    """Those that the loader does not find; only loading them tells, whoever installed them."""
    return {name: package for name, package in libraries.items() if not can_load(name)}


def can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def has_korean_font() -> bool:
    if shutil.which("fc-list"):
        command = ["fc-list", ":lang=ko", "family"]
        if subprocess.run(command, capture_output=True, check=False).stdout.strip():
            return True
    folders = [Path("/usr/share/fonts"), Path.home() / ".fonts", Path.home() / ".local/share/fonts"]
    return any(any(folder.rglob(name)) for folder in folders for name in KOREAN_FONT_FILES)


def is_debian() -> bool:
    return shutil.which("apt-get") is not None and Path("/etc/debian_version").exists()


def apt_command(packages: Iterable[str]) -> str:
    """The one command a person is asked to type."""
    return " ".join([*as_root(), *APT_INSTALL, *sorted(set(packages))])


def as_root() -> list[str]:
    return [] if sys.platform == "win32" or os.geteuid() == 0 else ["sudo"]


def apt_install(packages: list[str]) -> bool:
    """Installs, if that is possible without asking for a password."""
    prefix: list[str] = []
    if as_root():
        if shutil.which("sudo") is None or not succeeds(["sudo", "-n", "true"]):
            return False
        prefix = ["sudo", "-n"]
    say(f"Installing system packages: {' '.join(packages)}")
    prefix += ["env", "DEBIAN_FRONTEND=noninteractive"]
    install = [*prefix, *APT_INSTALL, "-o", "DPkg::Lock::Timeout=120", *packages]
    if succeeds(install):
        return True
    # Most often the list of packages is too old, or was never fetched (a new container).
    update = [*prefix, "apt-get", "update"]
    return succeeds(update) and succeeds(install)


def succeeds(command: list[str]) -> bool:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0


def provide_compiler() -> None:
    """Sees to it that there is a C++ compiler, or stops with the command that installs one."""
    if find_compiler() is None and is_debian():
        apt_install(["g++"])
    if find_compiler() is None:
        raise SetupError(
            "llama-cpp-python has to be compiled on this machine, and there is no C++ compiler. "
            f"Install one with\n\n    {compiler_command()}\n\nand run this command again."
        )


def find_compiler() -> str | None:
    if sys.platform == "darwin":
        # /usr/bin/c++ is always there and only offers to install the real one.
        return "xcode-select" if succeeds(["xcode-select", "-p"]) else None
    if sys.platform == "win32":
        return shutil.which("cl") or find_visual_studio()
    for name in [os.environ.get("CXX", ""), "c++", "g++", "clang++"]:
        if name and (found := shutil.which(name)):
            return found
    return None


def find_visual_studio() -> str | None:
    """Visual Studio's own finder; its compiler is seldom on the PATH, and CMake needs no PATH."""
    folder = Path(os.environ.get("ProgramFiles(x86)", "C:/Program Files (x86)"))
    finder = folder / "Microsoft Visual Studio" / "Installer" / "vswhere.exe"
    tools = "Microsoft.VisualStudio.Component.VC.Tools.x86.x64"
    command = [str(finder), "-products", "*", "-requires", tools, "-property", "installationPath"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    return found.strip() or None


def compiler_command() -> str:
    if sys.platform == "darwin":
        return MACOS_COMPILER
    if sys.platform == "win32":
        return WINDOWS_COMPILER
    for program, command in COMPILER_COMMANDS.items():
        if shutil.which(program):
            return " ".join([*as_root(), command])
    return "(the C++ compiler from your system's packages: gcc-c++ or g++)"


def why_no_venv(output: str) -> str:
    if "No space left" in output:
        return f"{DISK_FULL} and run this command again."
    if is_debian() and "ensurepip" in output:
        package = f"python3.{sys.version_info.minor}-venv"
        return f"Install the missing part of Python with\n\n    {apt_command([package])}\n\nfirst."
    reason = output.strip().splitlines()[-1:] or ["no reason given"]
    return f"{sys.executable} cannot make a virtual environment: {reason[0]}"
