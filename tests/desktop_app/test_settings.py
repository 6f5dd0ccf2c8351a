"""Settings on disk: a damaged file costs the choices, never the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from desktop_app.settings import Settings, load_settings, save_settings


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "[" * 100_000,
        '{"temperature": ' + "9" * 400 + "}",
        '{"temperature": "warm", "language": 3, "unknown": true}',
    ],
)
def test_what_cannot_be_read_falls_back_to_the_defaults(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(text, encoding="utf-8")
    assert load_settings(path) == Settings()


def test_settings_come_back_as_they_were_kept(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    settings = Settings(language="ko", temperature=0.9, system_prompt="존댓말로 답해 줘")
    save_settings(path, settings)
    assert load_settings(path) == settings
