"""The rules of ARCHITECTURE.md, tried on the real tree and on trees that break them."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "peft")
CALLS_LLAMA_CPP = {
    "devices.py", "grammar.py", "hidden_states.py", "llama_api.py", "plain_sampler.py",
    "sampler.py", "vocabulary.py",
}  # fmt: skip
"""All in ``desktop_app/inference``."""


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contracts_hold(repository: Path) -> None:
    result = lint_imports(repository)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("desktop_app/storage/chat_store.py", "import desktop_app.services.chat_service"),
        ("desktop_app/storage/chat_store.py", "import desktop_app.inference.engine"),
        ("desktop_app/inference/engine.py", "import PySide6.QtCore"),
        ("desktop_app/ui/theme.py", "import finetune.data"),
        ("desktop_app/ui/theme.py", "import torch"),
        ("finetune/sft.py", "import desktop_app.paths"),
        ("finetune/contract/records.py", "import torch"),
        ("finetune/contract/records.py", "import finetune.data"),
    ],
)
def test_a_planted_violation_is_caught(
    repository: Path, tmp_path: Path, module: str, line: str
) -> None:
    for name in ("desktop_app", "finetune"):
        shutil.copytree(
            repository / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("__pycache__", "conversations"),
        )
    shutil.copy(repository / "pyproject.toml", tmp_path)
    planted = tmp_path / module
    planted.write_text(planted.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "BROKEN" in result.stdout


def test_the_window_loads_none_of_the_trainers_libraries() -> None:
    program = (
        "import sys, desktop_app.app\n"
        f"print([name for name in {(*HEAVY, 'llama_cpp')!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_importing_the_contract_costs_nothing() -> None:
    program = (
        "import sys\n"
        "import finetune.contract.chat_template, finetune.contract.records\n"
        "import finetune.contract.events, finetune.contract.recipe, finetune.contract.manifest\n"
        "import finetune.contract.gguf_file\n"
        f"heavy = {(*HEAVY, 'numpy', 'PySide6', 'llama_cpp')!r}\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_two_thousand_signals_do_not_kill_the_process() -> None:
    """PySide6 6.12.0 on Python 3.10 and 3.11 dies after some 570 emits of a signal."""
    program = (
        "from PySide6.QtCore import QCoreApplication, QObject, Signal\n"
        "class Bell(QObject):\n"
        "    rung = Signal(bool)\n"
        "    silent = Signal()\n"
        "application = QCoreApplication([])\n"
        "bell, heard = Bell(), []\n"
        "bell.rung.connect(heard.append)\n"
        "for number in range(2000):\n"
        "    bell.rung.emit(number % 2 == 0)\n"
        "    bell.silent.emit()\n"
        "    bell.blockSignals(False)\n"
        "print(len(heard))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout.strip()) == (0, "2000"), result.stderr


def test_the_app_calls_llama_cpp_in_few_places(repository: Path) -> None:
    app = repository / "desktop_app"
    callers = {
        path
        for path in app.rglob("*.py")
        if re.search(
            r"^\s*(import|from) llama_cpp\b", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert callers <= {app / "inference" / name for name in CALLS_LLAMA_CPP}


def test_every_file_says_what_it_is_and_stays_readable(repository: Path) -> None:
    too_long, silent = [], []
    for path in [*repository.glob("desktop_app/**/*.py"), *repository.glob("finetune/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 500:
            too_long.append(path.name)
        if text.strip() and ast.get_docstring(ast.parse(text)) is None:
            silent.append(path.name)
    assert (too_long, silent) == ([], [])


def test_nothing_unsafe_is_called(repository: Path) -> None:
    forbidden = ("trust_remote_code", "pickle.load", "create_chat_completion", "shell=True")
    found = [
        f"{path.name}: {word}"
        for folder in ("desktop_app", "finetune", "packaging")
        for path in (repository / folder).rglob("*.py")
        for word in forbidden
        if word in path.read_text(encoding="utf-8")
    ]
    assert found == []
